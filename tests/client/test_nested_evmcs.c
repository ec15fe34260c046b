/*
 * An L1 that knows Hyper-V's interface and enters its L2 with an enlightened VMCS: a VMCS that it reads and writes as
 * memory. Who is offered one, what is taken over of it and when, and that it is saved and goes on elsewhere.
 */
#include "nested.h"

#include "../../src/vmx/evmcs.h"

#define AT_EVMCS 0x34000
#define AT_ASSIST 0x35000
#define HV_VP_ASSIST_PAGE 0x40000073u
#define HV_NESTED 0x4000000au
#define HV_HINTS 0x40000004u
#define HINT_EVMCS (1u << 14)

#define PIN_TIMER (1u << 6)
#define SECONDARY_NOT_THERE (1u << 0 | 1u << 13 | 1u << 14 | 1u << 17 | 1u << 25) /* APIC accesses, VM functions, shadow VMCS, PML, TSC scaling */

struct state {
	struct kvm_nested_state head;
	struct vmcs12 vmcs12;
	uint8_t shadow[4096];
};

static void get(struct client *c, struct state *s)
{
	memset(s, 0, sizeof(*s));
	s->head.size = sizeof(*s);
	assert_int_equal(ioctl(c->vcpu, KVM_GET_NESTED_STATE, s), 0);
}

struct cpuid {
	struct kvm_cpuid2 h;
	struct kvm_cpuid_entry2 e[256];
};

static uint32_t hv_leaf(struct client *c, uint32_t function)
{
	static struct cpuid hv;

	hv.h.nent = 256;
	assert_int_equal(ioctl(c->vcpu, KVM_GET_SUPPORTED_HV_CPUID, &hv), 0);
	for (uint32_t i = 0; i < hv.h.nent; i++)
		if (hv.e[i].function == function)
			return hv.e[i].eax;
	fail();
	return 0;
}

/* The vCPU's CPUID with Hyper-V's leaves in the place of KVM's. */
static void add_hyperv(struct client *c)
{
	static struct cpuid plain, all;

	plain.h.nent = all.h.nent = 256;
	assert_int_equal(ioctl(c->kvm, KVM_GET_SUPPORTED_CPUID, &plain), 0);
	assert_int_equal(ioctl(c->vcpu, KVM_GET_SUPPORTED_HV_CPUID, &all), 0);
	for (uint32_t i = 0; i < plain.h.nent; i++)
		if (plain.e[i].function >> 16 != 0x4000)
			all.e[all.h.nent++] = plain.e[i];
	assert_int_equal(ioctl(c->vcpu, KVM_SET_CPUID2, &all), 0);
}

static int enable(struct client *c, uint16_t *version)
{
	struct kvm_enable_cap e = {.cap = KVM_CAP_HYPERV_ENLIGHTENED_VMCS, .args = {(uintptr_t)version}};

	return ioctl(c->vcpu, KVM_ENABLE_CAP, &e);
}

/* False: VMX is not offered, or no enlightened VMCS. */
static bool open_plain(struct client *c)
{
	if (!nested_open(c))
		return false;
	if (ioctl(c->kvm, KVM_CHECK_EXTENSION, KVM_CAP_HYPERV_ENLIGHTENED_VMCS) <= 0) {
		assert_false(on_userkvm());
		client_close(c);
		return false;
	}
	return true;
}

static void assist(struct client *c, bool enlightened, uint64_t vmptr)
{
	struct hv_vp_assist_page *a = (struct hv_vp_assist_page *)(c->mem + AT_ASSIST);

	a->enlighten_vmentry = enlightened;
	a->current_nested_vmcs = vmptr;
}

/* An L1 with all of it, that has made an ordinary VMCS. */
static bool open_vmcs(struct client *c)
{
	uint16_t version = 0;

	if (!open_plain(c))
		return false;
	assert_int_equal(enable(c, &version), 0);
	add_hyperv(c);
	assert_succeeds(nested_ptr(c, VMXON, AT_VMXON));
	assert_succeeds(nested_ptr(c, VMCLEAR, AT_VMCS));
	assert_succeeds(nested_ptr(c, VMPTRLD, AT_VMCS));
	nested_fill_vmcs(c);
	return true;
}

#define EVMCS(c, at, type) (*(type *)((c)->mem + AT_EVMCS + (at)))
#define CLEAN(c) EVMCS(c, EVMCS_AT_CLEAN_FIELDS, uint32_t)
/* The word of a field; all that the tests name have 32 or 64 bits. */
#define EVMCS_CASE(member, encoding, at, group) \
	case encoding:                          \
		return at;
static unsigned at_of(uint32_t field)
{
	switch (field) {
		EVMCS_FIELDS(EVMCS_CASE)
	default:
		fail();
		return 0;
	}
}
#undef EVMCS_CASE
#define FIELD64(c, field) EVMCS(c, at_of(field), uint64_t)
#define FIELD32(c, field) EVMCS(c, at_of(field), uint32_t)

/* The same with its L2 in an enlightened VMCS, which the next VM entry takes. */
static bool open_evmcs(struct client *c)
{
	struct state s;

	if (!open_vmcs(c))
		return false;
	get(c, &s);
	memset(c->mem + AT_EVMCS, 0, 4096);
	EVMCS(c, EVMCS_AT_VERSION, uint32_t) = EVMCS_VERSION;
#define FILL(member, encoding, at, group) memcpy(c->mem + AT_EVMCS + (at), &s.vmcs12.member, sizeof(s.vmcs12.member));
	EVMCS_FIELDS(FILL)
#undef FILL
	client_set_msr(c, HV_VP_ASSIST_PAGE, AT_ASSIST | 1);
	assist(c, true, AT_EVMCS);
	return true;
}

/* The same, and L2 has executed a CPUID. */
static bool open_entered(struct client *c)
{
	if (!open_evmcs(c))
		return false;
	nested_l2_code(c, "\x0f\xa2\x0f\xa2\x0f\xa2\x0f\xa2", 8);
	assert_int_equal(nested_do(c, VMLAUNCH, 0, 0).port, PORT_EXIT);
	assert_int_equal(FIELD32(c, VM_EXIT_REASON), EXIT_REASON_CPUID);
	return true;
}

/* --- who is offered one --- */

NESTED_TEST(the_capability_says_the_version_and_cpuid_does_once_it_is_enabled, open_plain)
{
	uint16_t version = 0;

	assert_int_equal(hv_leaf(c, HV_NESTED) & 0xffff, 0);
	assert_int_equal(hv_leaf(c, HV_HINTS) & HINT_EVMCS, 0);
	assert_fails(enable(c, (uint16_t *)8), EFAULT); /* it is enabled, and nobody hears the version */
	assert_int_equal(enable(c, &version), 0);
	assert_int_equal(version, 0x101);
	assert_int_equal(hv_leaf(c, HV_NESTED), 1u << 19 | 0x101);
	assert_int_equal(hv_leaf(c, HV_HINTS) & HINT_EVMCS, HINT_EVMCS);
}

static uint64_t rdmsr_of_l1(struct client *c, uint32_t msr)
{
	struct outcome o = nested_do(c, RDMSR, msr, 0);

	assert_int_equal(o.port, PORT_DONE);
	return o.rbx;
}

NESTED_TEST(controls_without_fields_are_not_in_the_capability_msrs_that_l1_reads, open_vmcs)
{
	static const struct {
		unsigned msr;
		uint32_t gone;
	} rows[] = {{1, PIN_TIMER}, {13, PIN_TIMER}, {11, SECONDARY_NOT_THERE}, {3, 1u << 22}, {15, 1u << 22}, {4, 0}, {16, 0}, {14, 0}};

	assert_int_equal(rdmsr_of_l1(c, MSR_VMX(17)), 0); /* EPTP switching */
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		uint64_t of_client = client_msr(c, MSR_VMX(rows[i].msr));

		assert_int_equal(of_client >> 32 & rows[i].gone, rows[i].gone);
		assert_int_equal(rdmsr_of_l1(c, MSR_VMX(rows[i].msr)), of_client & ~((uint64_t)rows[i].gone << 32));
	}
}

/* Also of an ordinary VMCS: what L1 reads is what counts. */
NESTED_TEST(a_control_that_is_gone_fails_an_ordinary_entry, open_vmcs)
{
	nested_set_bits(c, PIN_BASED_VM_EXEC_CONTROL, PIN_TIMER);
	assert_vmfail(c, nested_do(c, VMLAUNCH, 0, 0), 7);
}

NESTED_TEST(without_the_capability_the_assist_page_leads_nowhere, open_plain)
{
	add_hyperv(c);
	client_set_msr(c, HV_VP_ASSIST_PAGE, AT_ASSIST | 1);
	assist(c, true, AT_EVMCS);
	EVMCS(c, EVMCS_AT_VERSION, uint32_t) = EVMCS_VERSION;
	assert_succeeds(nested_ptr(c, VMXON, AT_VMXON));
	assert_vmfail_invalid(nested_do(c, VMLAUNCH, 0, 0));
	assert_int_equal(rdmsr_of_l1(c, MSR_VMX(13)) >> 32 & PIN_TIMER, PIN_TIMER);
}

NESTED_TEST(without_hyper_v_in_cpuid_neither, open_plain)
{
	uint16_t version;

	assert_int_equal(enable(c, &version), 0);
	client_set_msr(c, HV_VP_ASSIST_PAGE, AT_ASSIST | 1);
	assist(c, true, AT_EVMCS);
	EVMCS(c, EVMCS_AT_VERSION, uint32_t) = EVMCS_VERSION;
	assert_succeeds(nested_ptr(c, VMXON, AT_VMXON));
	assert_vmfail_invalid(nested_do(c, VMLAUNCH, 0, 0));
	assert_int_equal(rdmsr_of_l1(c, MSR_VMX(13)) >> 32 & PIN_TIMER, PIN_TIMER);
}

/* --- which one --- */

NESTED_TEST(l2_runs_with_it_and_an_exit_is_told_in_its_memory, open_evmcs)
{
	nested_l2_code(c, "\x48\xff\xc3\x0f\xa2", 5); /* inc rbx; cpuid */
	CLEAN(c) = ~0u;
	assert_int_equal(nested_do(c, VMLAUNCH, 0, 41).port, PORT_EXIT);
	assert_int_equal(nested_at_exit.rbx, 42);
	assert_int_equal(FIELD32(c, VM_EXIT_REASON), EXIT_REASON_CPUID);
	assert_int_equal(FIELD64(c, GUEST_RIP), AT_L2 + 3);
	assert_int_equal(FIELD32(c, VM_EXIT_INSTRUCTION_LEN), 2);
	assert_int_equal(CLEAN(c) & 0xffff, 0xffff);
	FIELD64(c, GUEST_RIP) = AT_L2;
	assert_int_equal(nested_do(c, VMRESUME, 0, 41).port, PORT_EXIT);
	assert_int_equal(FIELD64(c, GUEST_RIP), AT_L2 + 3);
}

/* It has no launch state. */
NESTED_TEST(vmresume_may_come_first_and_vmlaunch_again, open_evmcs)
{
	nested_l2_code(c, "\x0f\xa2", 2);
	assert_int_equal(nested_do(c, VMRESUME, 0, 0).port, PORT_EXIT);
	assert_int_equal(nested_do(c, VMLAUNCH, 0, 0).port, PORT_EXIT);
	assert_int_equal(FIELD32(c, VM_EXIT_REASON), EXIT_REASON_CPUID);
}

NESTED_TEST(an_unknown_version_is_vmfail_invalid, open_evmcs)
{
	static const uint32_t bad[] = {0, 2, ~0u, NESTED_REVISION | 1u << 31};

	nested_l2_code(c, "\x0f\xa2", 2);
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		EVMCS(c, EVMCS_AT_VERSION, uint32_t) = bad[i];
		assert_vmfail_invalid(nested_do(c, VMLAUNCH, 0, 0));
	}
	/* what Hyper-V writes there */
	EVMCS(c, EVMCS_AT_VERSION, uint32_t) = NESTED_REVISION;
	assert_int_equal(nested_do(c, VMLAUNCH, 0, 0).port, PORT_EXIT);
}

NESTED_TEST(one_that_is_in_no_memory_is_ud, open_evmcs)
{
	assist(c, true, 0xdeadbeef);
	assert_raises(nested_do(c, VMLAUNCH, 0, 0), 6);
	assist(c, true, 1ull << 62);
	assert_raises(nested_do(c, VMRESUME, 0, 0), 6);
}

NESTED_TEST(without_the_assist_page_s_say_the_ordinary_vmcs_is_entered, open_evmcs)
{
	nested_l2_code(c, "\x0f\xa2", 2);
	nested_vmwrite(c, GUEST_RIP, AT_L2);
	assist(c, false, AT_EVMCS);
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_CPUID);
	assert_int_equal(FIELD32(c, VM_EXIT_REASON), 0);
	assist(c, true, ~0ull);
	assert_int_equal(nested_enter(c, VMRESUME), EXIT_REASON_CPUID);
	client_set_msr(c, HV_VP_ASSIST_PAGE, AT_ASSIST); /* not enabled */
	assist(c, true, AT_EVMCS);
	assert_int_equal(nested_enter(c, VMRESUME), EXIT_REASON_CPUID);
	assert_int_equal(FIELD32(c, VM_EXIT_REASON), 0);
}

/* The ordinary VMCS that was current is written back: VMPTRLD finds it again. */
NESTED_TEST(the_ordinary_vmcs_keeps_what_it_had, open_evmcs)
{
	nested_vmwrite(c, EXCEPTION_BITMAP, 0x4321);
	nested_l2_code(c, "\x0f\xa2", 2);
	assert_int_equal(nested_do(c, VMLAUNCH, 0, 0).port, PORT_EXIT);
	assist(c, false, 0);
	assert_vmfail_invalid(nested_do(c, VMLAUNCH, 0, 0)); /* none is current */
	assert_succeeds(nested_ptr(c, VMPTRLD, AT_VMCS));
	assert_int_equal(nested_vmread(c, EXCEPTION_BITMAP), 0x4321);
}

/* What an enlightened VMCS has no field for is 0, and not an earlier VMCS's. */
NESTED_TEST(nothing_of_another_vmcs_is_left, open_evmcs)
{
	struct state s;

	nested_vmwrite(c, PAGE_FAULT_ERROR_CODE_MASK, 0x17);
	nested_vmwrite(c, POSTED_INTR_NV, 0x44);
	nested_l2_code(c, "\x0f\xa2", 2);
	FIELD32(c, PAGE_FAULT_ERROR_CODE_MASK) = 0x18;
	assert_int_equal(nested_do(c, VMLAUNCH, 0, 0).port, PORT_EXIT);
	get(c, &s);
	assert_int_equal(s.vmcs12.page_fault_error_code_mask, 0);
	assert_int_equal(s.vmcs12.posted_intr_nv, 0);
}

/* --- instructions while one is active --- */

NESTED_TEST(vmread_finds_its_fields_and_nothing_else_is_supported, open_entered)
{
	FIELD64(c, HOST_RSP) = 0x123456789;
	EVMCS(c, at_of(GUEST_TR_SELECTOR), uint16_t) = 0xabcd;
	assert_int_equal(nested_vmread(c, HOST_RSP), 0x123456789);
	assert_int_equal(nested_vmread(c, GUEST_TR_SELECTOR), 0xabcd);
	assert_int_equal(nested_vmread(c, VM_EXIT_REASON), EXIT_REASON_CPUID);
	assert_vmfail(c, nested_do(c, VMREAD, VMX_PREEMPTION_TIMER_VALUE, 0), 12);
	assert_vmfail(c, nested_do(c, VMREAD, 0x1234, 0), 12);
	assert_int_equal(FIELD32(c, VM_INSTRUCTION_ERROR), 12);
	assert_vmfail_invalid(nested_do(c, VMWRITE, GUEST_RIP, 0));
	assert_vmfail_invalid(nested_ptr(c, VMPTRLD, AT_VMCS2));
	assert_vmfail_invalid(nested_do(c, VMPTRST, AT_TEST, 0));
}

NESTED_TEST(vmclear_ends_it_and_changes_nothing_in_it, open_entered)
{
	uint8_t before[4096];

	memcpy(before, c->mem + AT_EVMCS, sizeof(before));
	assert_succeeds(nested_ptr(c, VMCLEAR, AT_VMCS2)); /* any page may be one */
	assert_int_equal(nested_vmread(c, VM_EXIT_REASON), EXIT_REASON_CPUID);
	assert_succeeds(nested_ptr(c, VMCLEAR, AT_EVMCS));
	assert_memory_equal(c->mem + AT_EVMCS, before, sizeof(before));
	assert_vmfail_invalid(nested_do(c, VMREAD, VM_EXIT_REASON, 0));
	assert_int_equal(nested_do(c, VMRESUME, 0, 0).port, PORT_EXIT);
}

NESTED_TEST(a_vmfail_is_told_in_its_memory, open_evmcs)
{
	FIELD32(c, PIN_BASED_VM_EXEC_CONTROL) |= PIN_TIMER;
	assert_vmfail(c, nested_do(c, VMLAUNCH, 0, 0), 7);
	assert_int_equal(FIELD32(c, VM_INSTRUCTION_ERROR), 7);
	FIELD32(c, PIN_BASED_VM_EXEC_CONTROL) &= ~PIN_TIMER;
	FIELD64(c, HOST_CR3) = 1ull << 60;
	assert_vmfail(c, nested_do(c, VMLAUNCH, 0, 0), 8);
	FIELD64(c, HOST_CR3) = 0x10000;
	FIELD64(c, GUEST_RFLAGS) = 0;
	assert_int_equal(nested_do(c, VMLAUNCH, 0, 0).port, PORT_EXIT);
	assert_int_equal(FIELD32(c, VM_EXIT_REASON), 1u << 31 | EXIT_REASON_INVALID_STATE);
}

/* --- fields --- */

/* Each has a value of its own, and each comes to its place in vmcs12. */
NESTED_TEST(each_field_goes_to_vmcs12_whatever_the_clean_fields_say, open_entered)
{
	struct state s;
	uint8_t *e = c->mem + AT_EVMCS;

	for (unsigned i = EVMCS_AT_VERSION + 4; i < EVMCS_SIZE; i++)
		if (i < EVMCS_AT_CLEAN_FIELDS || i >= EVMCS_AT_CLEAN_FIELDS + 4)
			e[i] = (uint8_t)(i * 37 + (i >> 8));
	CLEAN(c) = ~0u;
	get(c, &s);
#define SAME(member, encoding, at, group) assert_memory_equal(&s.vmcs12.member, e + (at), sizeof(s.vmcs12.member));
	EVMCS_BOTH_WAYS(SAME)
	EVMCS_FROM_L1(SAME)
#undef SAME
	assert_int_equal(s.vmcs12.vm_exit_reason, EXIT_REASON_CPUID); /* the hypervisor's own to write */
}

/* One field of each group, and two values that an entry succeeds with. */
#define ROWS(F)                                                        \
	F(IO_BITMAP, IO_BITMAP_A, io_bitmap_a, 0x43000, 0x44000)       \
	F(MSR_BITMAP, MSR_BITMAP, msr_bitmap, 0x42000, 0x43000)        \
	F(CONTROL_GRP2, TSC_OFFSET, tsc_offset, 5, 6)                  \
	F(CONTROL_EXCPN, EXCEPTION_BITMAP, exception_bitmap, 0, 1u << 13) \
	F(CONTROL_EVENT, VM_ENTRY_EXCEPTION_ERROR_CODE, vm_entry_exception_error_code, 1, 2) \
	F(CRDR, CR4_READ_SHADOW, cr4_read_shadow, 0, 1u << 13)         \
	F(CONTROL_XLAT, EPT_POINTER, ept_pointer, 1, 2)                \
	F(GUEST_BASIC, GUEST_RSP, guest_rsp, AT_L2_STACK, AT_L2_STACK - 64) \
	F(GUEST_GRP1, GUEST_SYSENTER_EIP, guest_sysenter_eip, 0x1000, 0x2000) \
	F(GUEST_GRP2, GUEST_FS_BASE, guest_fs_base, 0x3000, 0x4000)    \
	F(HOST_POINTER, HOST_GS_BASE, host_gs_base, 0x5000, 0x6000)    \
	F(HOST_GRP1, HOST_IA32_SYSENTER_EIP, host_ia32_sysenter_eip, 0x7000, 0x8000)

/* L2 leaves to the client, so that the state has what was entered with. */
static struct state entered_with(struct client *c)
{
	struct state s;

	FIELD64(c, GUEST_RIP) = AT_L2;
	assert_int_equal(nested_do(c, VMRESUME, 0, 0).port, 0x55);
	c->run->immediate_exit = 1;
	assert_int_equal(ioctl(c->vcpu, KVM_RUN, 0), -1);
	c->run->immediate_exit = 0;
	get(c, &s);
	assert_int_equal(s.head.flags, KVM_STATE_NESTED_GUEST_MODE | KVM_STATE_NESTED_EVMCS);
	assert_int_equal(nested_run(c).port, PORT_EXIT);
	assert_int_equal(FIELD32(c, VM_EXIT_REASON), EXIT_REASON_CPUID);
	return s;
}

NESTED_TEST(a_field_is_taken_over_when_its_group_is_not_clean, open_entered)
{
	struct state s;

	nested_l2_code(c, "\xe6\x55\x0f\xa2", 4); /* out 0x55, al; cpuid */
	FIELD32(c, CPU_BASED_VM_EXEC_CONTROL) &= ~(3u << 24); /* no I/O exit */
	CLEAN(c) &= ~(uint32_t)EVMCS_CLEAN_CONTROL_PROC;
#define ONE_GROUP(group, field, member, one, two)                            \
	memcpy(c->mem + AT_EVMCS + at_of(field), &(typeof(s.vmcs12.member)){one}, sizeof(s.vmcs12.member)); \
	CLEAN(c) &= ~(uint32_t)EVMCS_CLEAN_##group;                          \
	s = entered_with(c);                                                 \
	assert_int_equal(s.vmcs12.member, one);                              \
	assert_int_equal(CLEAN(c) & 0xffff, 0xffff);                         \
	memcpy(c->mem + AT_EVMCS + at_of(field), &(typeof(s.vmcs12.member)){two}, sizeof(s.vmcs12.member)); \
	s = entered_with(c);                                                 \
	assert_int_equal(s.vmcs12.member, one); /* said to be clean */       \
	memcpy(c->mem + AT_EVMCS + at_of(field), &(typeof(s.vmcs12.member)){two}, sizeof(s.vmcs12.member)); \
	CLEAN(c) &= ~(uint32_t)EVMCS_CLEAN_##group;                          \
	s = entered_with(c);                                                 \
	assert_int_equal(s.vmcs12.member, two);
	ROWS(ONE_GROUP)
#undef ONE_GROUP
}

/* Two enlightened VMCSs in turns: the other's clean fields say nothing. */
NESTED_TEST(another_one_is_taken_over_whole, open_entered)
{
	uint8_t *other = c->mem + AT_VMCS2;

	memcpy(other, c->mem + AT_EVMCS, 4096);
	*(uint64_t *)(other + at_of(GUEST_RSP)) = 0x7770;
	*(uint64_t *)(other + at_of(GUEST_FS_BASE)) = 0x3330;
	*(uint32_t *)(other + EVMCS_AT_CLEAN_FIELDS) = ~0u;
	nested_l2_code(c, "\x48\x89\xe3\x64\x48\x8b\x0c\x25\x00\x00\x00\x00\x0f\xa2", 14); /* mov rbx, rsp; mov rcx, fs:[0]; cpuid */
	*(uint64_t *)(c->mem + 0x3330) = 0x5a5a;
	*(uint64_t *)(other + at_of(GUEST_RIP)) = AT_L2;
	assist(c, true, AT_VMCS2);
	assert_int_equal(nested_do(c, VMRESUME, 0, 0).port, PORT_EXIT);
	assert_int_equal(nested_at_exit.rbx, 0x7770);
	assert_int_equal(nested_at_exit.rcx, 0x5a5a);
	assist(c, true, AT_EVMCS);
	FIELD64(c, GUEST_RIP) = AT_L2 + 12;
	assert_int_equal(nested_do(c, VMRESUME, 0, 0).port, PORT_EXIT);
	assert_int_equal(FIELD64(c, GUEST_RIP), AT_L2 + 12);
}

static int rdmsr_of_l2(struct client *c)
{
	FIELD64(c, GUEST_RIP) = AT_L2;
	assert_int_equal(nested_do(c, VMRESUME, 0, 0).port, PORT_EXIT);
	return (int)FIELD32(c, VM_EXIT_REASON);
}

/* The bitmap's own bytes, when L1 says that it tells of them by the clean fields. */
NESTED_TEST(an_enlightened_msr_bitmap_is_read_when_it_is_not_clean, open_entered)
{
	uint8_t *high_reads = c->mem + AT_MSR_BITMAP + 0x400;

	/* mov ecx, 0xc0000100; rdmsr; cpuid */
	nested_l2_code(c, "\xb9\x00\x01\x00\xc0\x0f\x32\x0f\xa2", 9);
	memset(c->mem + AT_MSR_BITMAP, 0, 4096);
	FIELD32(c, CPU_BASED_VM_EXEC_CONTROL) |= 1u << 28;
	FIELD64(c, MSR_BITMAP) = AT_MSR_BITMAP;
	CLEAN(c) = 0;
	assert_int_equal(rdmsr_of_l2(c), EXIT_REASON_CPUID);
	high_reads[0x100 / 8] |= 1; /* without the enlightenment it is read at each entry */
	assert_int_equal(rdmsr_of_l2(c), EXIT_REASON_MSR_READ);
	high_reads[0x100 / 8] = 0;
	EVMCS(c, EVMCS_AT_ENLIGHTENMENTS, uint32_t) = (uint32_t)EVMCS_ENLIGHTENED_MSR_BITMAP;
	CLEAN(c) &= ~(uint32_t)EVMCS_CLEAN_MSR_BITMAP;
	assert_int_equal(rdmsr_of_l2(c), EXIT_REASON_CPUID);
	high_reads[0x100 / 8] |= 1;
	if (on_userkvm())
		assert_int_equal(rdmsr_of_l2(c), EXIT_REASON_CPUID);
	CLEAN(c) &= ~(uint32_t)EVMCS_CLEAN_MSR_BITMAP;
	assert_int_equal(rdmsr_of_l2(c), EXIT_REASON_MSR_READ);
}

/* --- saved, and loaded elsewhere --- */

static void run_to_the_middle(struct client *c)
{
	/* out 0x55, al; inc rbx; out 0x56, al; cpuid */
	nested_l2_code(c, "\xe6\x55\x48\xff\xc3\xe6\x56\x0f\xa2", 9);
	FIELD32(c, CPU_BASED_VM_EXEC_CONTROL) &= ~(3u << 24);
	FIELD64(c, GUEST_RIP) = AT_L2;
	CLEAN(c) = 0;
	assert_int_equal(nested_do(c, VMRESUME, 0, 0).port, 0x55);
	c->run->immediate_exit = 1;
	assert_int_equal(ioctl(c->vcpu, KVM_RUN, 0), -1);
	c->run->immediate_exit = 0;
}

/* Another VM with the memory and the vCPU's state; the assist page's MSR comes last, as QEMU has it. */
static void move(struct client *c, struct client *d, const struct state *s, bool with_page)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs = client_regs(c);
	uint16_t version;

	assert_int_equal(ioctl(c->vcpu, KVM_GET_SREGS, &sregs), 0);
	assert_true(open_plain(d));
	assert_int_equal(enable(d, &version), 0);
	add_hyperv(d);
	memcpy(d->mem, c->mem, c->mem_size);
	assert_int_equal(ioctl(d->vcpu, KVM_SET_SREGS, &sregs), 0);
	assert_int_equal(ioctl(d->vcpu, KVM_SET_NESTED_STATE, s), 0);
	assert_int_equal(ioctl(d->vcpu, KVM_SET_SREGS, &sregs), 0);
	assert_int_equal(ioctl(d->vcpu, KVM_SET_REGS, &regs), 0);
	if (with_page)
		client_set_msr(d, HV_VP_ASSIST_PAGE, AT_ASSIST | 1);
}

NESTED_TEST(an_l2_goes_on_in_another_vm, open_entered)
{
	struct client d;
	struct state s, again;

	run_to_the_middle(c);
	get(c, &s);
	assert_int_equal(s.head.flags, KVM_STATE_NESTED_GUEST_MODE | KVM_STATE_NESTED_EVMCS);
	assert_int_equal(s.head.hdr.vmx.vmcs12_pa, ~0ULL);
	assert_int_equal(s.head.size, 128 + 4096);
	move(c, &d, &s, true);
	/* nobody has looked for it yet, and it is saved again all the same */
	get(&d, &again);
	assert_memory_equal(&s.head, &again.head, sizeof(s.head));
	assert_int_equal(nested_run(&d).port, 0x56);
	assert_int_equal(nested_run(&d).port, PORT_EXIT);
	assert_int_equal(FIELD32(&d, VM_EXIT_REASON), EXIT_REASON_CPUID);
	assert_int_equal(FIELD64(&d, GUEST_RIP), AT_L2 + 7);
	FIELD64(&d, GUEST_RIP) = AT_L2 + 7;
	assert_int_equal(nested_do(&d, VMRESUME, 0, 0).port, PORT_EXIT);
	client_close(&d);
}

/* L1 is in between: what the hypervisor had not yet written into L1's memory comes with the state. */
NESTED_TEST(an_l1_goes_on_in_another_vm, open_entered)
{
	struct client d;
	struct state s;

	get(c, &s);
	assert_int_equal(s.head.flags, KVM_STATE_NESTED_EVMCS);
	memset(c->mem + AT_EVMCS + at_of(VM_EXIT_REASON), 0, 4);
	move(c, &d, &s, true);
	assert_int_equal(nested_vmread(&d, VM_EXIT_REASON), EXIT_REASON_CPUID);
	FIELD64(&d, GUEST_RIP) = AT_L2 + 2;
	assert_int_equal(nested_do(&d, VMRESUME, 0, 0).port, PORT_EXIT);
	assert_int_equal(FIELD64(&d, GUEST_RIP), AT_L2 + 2);
	client_close(&d);
}

/* The assist page leads to what is none: the client hears of it, and may mend it. */
NESTED_TEST(one_that_is_not_found_again_is_an_internal_error, open_entered)
{
	struct client d;
	struct state s;

	run_to_the_middle(c);
	get(c, &s);
	move(c, &d, &s, true);
	EVMCS(&d, EVMCS_AT_VERSION, uint32_t) = 77;
	assert_int_equal(ioctl(d.vcpu, KVM_RUN, 0), 0);
	assert_int_equal(d.run->exit_reason, KVM_EXIT_INTERNAL_ERROR);
	assert_int_equal(d.run->internal.suberror, KVM_INTERNAL_ERROR_EMULATION);
	EVMCS(&d, EVMCS_AT_VERSION, uint32_t) = EVMCS_VERSION;
	assert_int_equal(nested_run(&d).port, 0x56);
	assert_int_equal(nested_run(&d).port, PORT_EXIT);
	assert_int_equal(FIELD32(&d, VM_EXIT_REASON), EXIT_REASON_CPUID);
	client_close(&d);
}

NESTED_TEST(the_state_s_flag_needs_the_capability_and_a_vmcs, open_plain)
{
	struct state s = {.head = {.flags = KVM_STATE_NESTED_EVMCS, .size = sizeof(s.head) + 4096}};
	uint16_t version;

	s.vmcs12.revision_id = NESTED_REVISION;
	s.head.hdr.vmx.vmxon_pa = AT_VMXON;
	s.head.hdr.vmx.vmcs12_pa = ~0ull;
	assert_fails(ioctl(c->vcpu, KVM_SET_NESTED_STATE, &s), EINVAL);
	assert_int_equal(enable(c, &version), 0);
	assert_int_equal(ioctl(c->vcpu, KVM_SET_NESTED_STATE, &s), 0);
	s.head.size = sizeof(s.head);
	assert_fails(ioctl(c->vcpu, KVM_SET_NESTED_STATE, &s), EINVAL);
	s.head.flags = 0;
	s.head.size += 4096;
	assert_fails(ioctl(c->vcpu, KVM_SET_NESTED_STATE, &s), EINVAL);
	/* outside VMX operation it says nothing, and is allowed */
	s.head.flags = KVM_STATE_NESTED_EVMCS;
	s.head.hdr.vmx.vmxon_pa = ~0ull;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_NESTED_STATE, &s), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_capability_says_the_version_and_cpuid_does_once_it_is_enabled),
		cmocka_unit_test(controls_without_fields_are_not_in_the_capability_msrs_that_l1_reads),
		cmocka_unit_test(a_control_that_is_gone_fails_an_ordinary_entry),
		cmocka_unit_test(without_the_capability_the_assist_page_leads_nowhere),
		cmocka_unit_test(without_hyper_v_in_cpuid_neither),
		cmocka_unit_test(l2_runs_with_it_and_an_exit_is_told_in_its_memory),
		cmocka_unit_test(vmresume_may_come_first_and_vmlaunch_again),
		cmocka_unit_test(an_unknown_version_is_vmfail_invalid),
		cmocka_unit_test(one_that_is_in_no_memory_is_ud),
		cmocka_unit_test(without_the_assist_page_s_say_the_ordinary_vmcs_is_entered),
		cmocka_unit_test(the_ordinary_vmcs_keeps_what_it_had),
		cmocka_unit_test(nothing_of_another_vmcs_is_left),
		cmocka_unit_test(vmread_finds_its_fields_and_nothing_else_is_supported),
		cmocka_unit_test(vmclear_ends_it_and_changes_nothing_in_it),
		cmocka_unit_test(a_vmfail_is_told_in_its_memory),
		cmocka_unit_test(each_field_goes_to_vmcs12_whatever_the_clean_fields_say),
		cmocka_unit_test(a_field_is_taken_over_when_its_group_is_not_clean),
		cmocka_unit_test(another_one_is_taken_over_whole),
		cmocka_unit_test(an_enlightened_msr_bitmap_is_read_when_it_is_not_clean),
		cmocka_unit_test(an_l2_goes_on_in_another_vm),
		cmocka_unit_test(an_l1_goes_on_in_another_vm),
		cmocka_unit_test(one_that_is_not_found_again_is_an_internal_error),
		cmocka_unit_test(the_state_s_flag_needs_the_capability_and_a_vmcs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
