/*
 * userkvm vmcs --diff: in what two VMCSs of a vCPU differ. Between vmcs12 and VMCS02 the rule by which the
 * hypervisor makes the one of the other says why (src/vmx/nested_vmcs02.c, nested_exit.c).
 */
#include "tools/see/vmcs.h"

struct rule {
	uint32_t field;
	const char *kind, *why;
};

#define NEWER "copied at L1's VM entry, written back by an exit to L1"

static const struct rule rules[] = {
	{ PIN_BASED_VM_EXEC_CONTROL, "merged", "L0's and L1's; the preemption timer is a timer of L0's, posted interrupts are not offered" },
	{ CPU_BASED_VM_EXEC_CONTROL, "merged", "L0's and L1's; all port I/O exits and L0 asks L1's bitmaps; windows and MSR bitmap as L0 needs them; CR8 exits without L1's TPR shadow" },
	{ SECONDARY_VM_EXEC_CONTROL, "merged", "L0's and L1's; no PML with EPT12 and no VMCS shadowing (L0 emulates both), VPIDs are L0's" },
	{ VM_ENTRY_CONTROLS, "merged", "L0's and L1's; IA-32e mode as L2's EFER is" },
	{ VM_EXIT_CONTROLS, "L0's own", "an exit of L2 leads to L0; L0 does what vmcs12 asks for when it goes on to L1" },
	{ EXCEPTION_BITMAP, "merged", "what L1 or L0 wants" },
	{ CR0_GUEST_HOST_MASK, "merged", "bits that L1 or L0 owns" },
	{ CR4_GUEST_HOST_MASK, "merged", "bits that L1 or L0 owns" },
	{ CR0_READ_SHADOW, "merged", "L1's shadow where L1's mask is set, else L2's CR0" },
	{ CR4_READ_SHADOW, "merged", "L1's shadow where L1's mask is set, else L2's CR4" },
	{ GUEST_CR0, "merged", "L1's with what the processor needs; bits that L2 owns are L2's" },
	{ GUEST_CR4, "merged", "L1's with what the processor needs; bits that L2 owns are L2's" },
	{ GUEST_IA32_EFER, "merged", "as L2 runs: vmcs12's where it loads EFER, else L1's with LMA and LME of the entry control" },
	{ GUEST_IA32_PAT, "merged", "vmcs12's where its entry loads IA32_PAT, else L1's own" },
	{ GUEST_IA32_DEBUGCTL, "merged", "vmcs12's where its entry loads debug controls, else L1's own" },
	{ GUEST_DR7, "merged", "vmcs12's where its entry loads debug controls, else L1's own" },
	{ TSC_OFFSET, "merged", "L1's for its L2 on top of L0's for L1" },
	{ TSC_MULTIPLIER, "merged", "L1's for its L2 times L0's for L1" },
	{ MSR_BITMAP, "merged", "a page of L0's: an access is free only where both bitmaps say so" },
	{ EPT_POINTER, "L0's own", "EPT02, which shadows EPT12; without EPT12 it is EPT01" },
	{ VIRTUAL_PROCESSOR_ID, "L0's own", "vpid02 stands for all of L1's VPIDs" },
	{ VMCS_LINK_POINTER, "L0's own", "none: L0 emulates VMCS shadowing" },
	{ VMREAD_BITMAP, "L0's own", "none: L0 emulates VMCS shadowing" },
	{ VMWRITE_BITMAP, "L0's own", "none: L0 emulates VMCS shadowing" },
	{ VM_FUNCTION_CONTROL, "L0's own", "0: each VMFUNC exits, and L0 switches EPTPs itself" },
	{ EPTP_LIST_ADDRESS, "L0's own", "none: L0 reads L1's list" },
	{ IO_BITMAP_A, "L0's own", "none: all port I/O exits, L0 asks L1's bitmap" },
	{ IO_BITMAP_B, "L0's own", "none: all port I/O exits, L0 asks L1's bitmap" },
	{ VM_EXIT_MSR_STORE_ADDR, "L0's own", "none: L0 walks L1's list" },
	{ VM_EXIT_MSR_LOAD_ADDR, "L0's own", "none: L0 walks L1's list" },
	{ VM_ENTRY_MSR_LOAD_ADDR, "L0's own", "none: L0 walks L1's list" },
	{ VM_EXIT_MSR_STORE_COUNT, "L0's own", "0: L0 walks L1's list" },
	{ VM_EXIT_MSR_LOAD_COUNT, "L0's own", "0: L0 walks L1's list" },
	{ VM_ENTRY_MSR_LOAD_COUNT, "L0's own", "0: L0 walks L1's list" },
	{ APIC_ACCESS_ADDR, "L0's own", "where L1's page lies in the client's memory" },
	{ VIRTUAL_APIC_PAGE_ADDR, "L0's own", "a frame of L0's: the virtual TPR is copied from L1's page and back" },
	{ TPR_THRESHOLD, "copied", "with L1's TPR shadow" },
	{ PML_ADDRESS, "L0's own", "L0 keeps L1's log itself" },
	{ GUEST_PML_INDEX, "L0's own", "L0 keeps L1's log itself" },
	{ PLE_GAP, "L0's own", "vmcs12 has no such field" },
	{ PLE_WINDOW, "L0's own", "vmcs12 has no such field" },
	{ VMX_PREEMPTION_TIMER_VALUE, "L0's own", "a timer of L0's counts it" },
	{ GUEST_ACTIVITY_STATE, "L0's own", "always active: L0 lets L2 wait itself" },
	{ VM_ENTRY_INTR_INFO_FIELD, "L0's own", "L1's event goes in at its VM entry; later ones are L0's" },
	{ VM_ENTRY_EXCEPTION_ERROR_CODE, "L0's own", "L1's event goes in at its VM entry; later ones are L0's" },
	{ VM_ENTRY_INSTRUCTION_LEN, "L0's own", "L1's event goes in at its VM entry; later ones are L0's" },
	{ XSS_EXIT_BITMAP, "copied", "where L1 enables XSAVES" },
	{ GUEST_PDPTR0, "copied", "with EPT12; without it they are read from memory" },
	{ GUEST_PDPTR1, "copied", "with EPT12; without it they are read from memory" },
	{ GUEST_PDPTR2, "copied", "with EPT12; without it they are read from memory" },
	{ GUEST_PDPTR3, "copied", "with EPT12; without it they are read from memory" },
};

static const struct rule *rule_of(const struct vmcs_picture *p, uint32_t field)
{
	static const struct rule host = { 0, "L0's own", "an exit of L2 leads to L0; vmcs12's is loaded when L1 gets the exit" };
	static const struct rule info = { 0, "each its own", "VMCS02 has the last exit of L2's, vmcs12 the last that L1 was given" };
	static const struct rule running = { 0, "copied", NEWER ": L2 has run since its entry" };
	static const struct rule resting = { 0, "copied", NEWER ": L1 has written vmcs12 since, or it is another VMCS" };

	for (size_t n = 0; n < ARRAY_SIZE(rules); n++)
		if (rules[n].field == field)
			return &rules[n];
	switch (vmcs_field_kind(field)) {
	case VMCS_KIND_HOST: return &host;
	case VMCS_KIND_RO: return &info;
	default: return p->l2 ? &running : &resting;
	}
}

/* Bits by name that are set in v and not in other. */
static void print_only(const char *who, const struct vmcs_bit *bits, uint64_t v, uint64_t other)
{
	const char *before = "";

	if (!(v & ~other))
		return;
	printf("      only in %s: ", who);
	for (; bits->name; bits++) {
		if (!(v & ~other & BIT_ULL(bits->n)))
			continue;
		printf("%s%s (%u)", before, bits->name, bits->n);
		before = ", ";
	}
	putchar('\n');
}

struct difference {
	uint32_t field;
	const struct vmcs_field_value *a, *b; /* one may be NULL: it has no such field */
	const struct rule *rule;	      /* NULL: not for this pair */
};

static void print_value(const struct vmcs_field_value *v, uint32_t field)
{
	if (v)
		printf("0x%0*llx", vmcs_digits(field), (ull)v->value);
	else
		printf("-");
}

static void print_difference(const struct difference *d, enum vmcs_which a, enum vmcs_which b)
{
	const struct vmcs_bit *bits = vmcs_control_bits(d->field);

	printf("  %-30s %4xh  ", vmcs_field_name(d->field), d->field);
	print_value(d->a, d->field);
	printf(" | ");
	print_value(d->b, d->field);
	putchar('\n');
	if (d->rule)
		printf("      %s: %s\n", d->rule->kind, d->rule->why);
	if (!bits || !d->a || !d->b)
		return;
	print_only(vmcs_name(a), bits, d->a->value, d->b->value);
	print_only(vmcs_name(b), bits, d->b->value, d->a->value);
}

static void json_difference(struct json *j, const struct difference *d)
{
	json_object(j, NULL, false);
	json_string(j, "name", vmcs_field_name(d->field));
	json_u64(j, "encoding", d->field);
	if (d->a)
		json_u64(j, "a", d->a->value);
	if (d->b)
		json_u64(j, "b", d->b->value);
	if (d->rule) {
		json_string(j, "rule", d->rule->kind);
		json_string(j, "why", d->rule->why);
	}
	json_end(j);
}

#define FIELD_ENTRY(name, enc) enc,
static const uint32_t fields[] = { VMCS_FIELDS(FIELD_ENTRY) };

/* False: they agree, or neither has it. A field that one of them lacks counts where the other's is not 0. */
static bool differ(const struct vmcs_picture *p, enum vmcs_which a, enum vmcs_which b, uint32_t field, struct difference *d)
{
	bool with_rule = (a == VMCS12 && b == VMCS02) || (a == VMCS02 && b == VMCS12);

	*d = (struct difference){ field, vmcs_find(&p->vmcs[a], field), vmcs_find(&p->vmcs[b], field), NULL };
	if ((d->a ? d->a->value : 0) == (d->b ? d->b->value : 0))
		return false;
	d->rule = with_rule ? rule_of(p, field) : NULL;
	return true;
}

static void json(const struct vmcs_picture *p, enum vmcs_which a, enum vmcs_which b)
{
	struct json j = { .f = stdout };
	struct difference d;

	json_object(&j, NULL, false);
	json_i64(&j, "pid", p->pid);
	json_u64(&j, "vm", p->vm);
	json_u64(&j, "vcpu", p->vcpu);
	json_bool(&j, "l2_runs", p->l2);
	json_string(&j, "a", vmcs_name(a));
	json_string(&j, "b", vmcs_name(b));
	json_array(&j, "differ", true);
	for (size_t n = 0; n < ARRAY_SIZE(fields); n++)
		if (differ(p, a, b, fields[n], &d))
			json_difference(&j, &d);
	json_end(&j);
	json_end(&j);
}

int vmcs_diff(struct vmcs_picture *p, enum vmcs_which a, enum vmcs_which b, bool as_json)
{
	char title_a[96], title_b[96];
	struct difference d;
	unsigned nr = 0;

	if (as_json) {
		json(p, a, b);
		return 0;
	}
	printf("---[ process %d VM %llu vCPU %u: %s | %s ]---\n", (int)p->pid, (ull)p->vm, p->vcpu,
	       vmcs_title(p, a, title_a, sizeof(title_a)), vmcs_title(p, b, title_b, sizeof(title_b)));
	for (size_t n = 0; n < ARRAY_SIZE(fields); n++) {
		if (!differ(p, a, b, fields[n], &d))
			continue;
		print_difference(&d, a, b);
		nr++;
	}
	printf("%u field%s differ%s\n", nr, nr == 1 ? "" : "s", nr == 1 ? "s" : "");
	return 0;
}
