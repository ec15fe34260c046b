/*
 * VM entry's checks of a vmcs12, each broken alone: every row of sdm/vmentry_checks.h that the hypervisor makes has a
 * vmcs12 here that breaks it and no other. What needs L1's memory or a whole entry is in tests/client/test_nested_checks.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "fake_processor.h"
#include "sdm/ept.h"
#include "sdm/regs.h"
#include "vmx/internal.h"
#include "vmx/nested_check.h"

#define WIDTH 46
#define CAP(msr) ((msr) - MSR_IA32_VMX_BASIC)
#define ALL ~0ULL
#define CANONICAL_NOT BIT_ULL(47)
#define TOO_WIDE BIT_ULL(WIDTH)
#define INJECT(type, vector) (INTR_INFO_VALID_MASK | FIELD_PREP(INTR_INFO_INTR_TYPE_MASK, (uint64_t)(type)) | (vector))

static struct kvm kvm;
static struct kvm_vcpu vcpu;
static struct vcpu_vmx vmx;
static struct vmcs12 v12;

static int maxphyaddr(struct kvm_vcpu *v) { return WIDTH; }
static const struct vmx_services services = { .maxphyaddr = maxphyaddr };

/* A capability MSR of this L1's processor that the row needs otherwise: bits to add, bits to take. */
struct change {
	uint32_t field;
	uint64_t clear, set;
};

struct row {
	enum vmentry_check check;
	struct change change[4]; /* field 0 ends them, but for VPID, which is 0: it comes first */
	bool host_32; /* of a 32-bit L1 */
	uint32_t msr;
	uint64_t cap_clear, cap_set;
};

#define PRIMARY(bits) { CPU_BASED_VM_EXEC_CONTROL, 0, bits }
#define SECONDARY(bits) { SECONDARY_VM_EXEC_CONTROL, 0, bits }
#define PIN(bits) { PIN_BASED_VM_EXEC_CONTROL, 0, bits }
#define EPT SECONDARY(SECONDARY_EXEC_ENABLE_EPT)
#define R(id, ...) { .check = VMENTRY_CHECK_##id, .change = { __VA_ARGS__ } }
#define R32(id, ...) { .check = VMENTRY_CHECK_##id, .host_32 = true, .change = { __VA_ARGS__ } }

static const struct row rows[] = {
	R(CTL_PIN_ALLOWED, { PIN_BASED_VM_EXEC_CONTROL, 2, 0 }),
	R(CTL_PIN_ALLOWED, PIN(BIT_ULL(30))),
	R(CTL_PRIMARY_ALLOWED, { CPU_BASED_VM_EXEC_CONTROL, 2, 0 }),
	R(CTL_PRIMARY_ALLOWED, PRIMARY(1)),
	R(CTL_SECONDARY_ALLOWED, SECONDARY(BIT_ULL(31))),
	R(CTL_CR3_TARGET_COUNT, { CR3_TARGET_COUNT, 0, 1 }),
	R(CTL_IO_BITMAP_A, { IO_BITMAP_A, 0, 8 }, PRIMARY(CPU_BASED_USE_IO_BITMAPS)),
	R(CTL_IO_BITMAP_A, { IO_BITMAP_A, 0, TOO_WIDE }, PRIMARY(CPU_BASED_USE_IO_BITMAPS)),
	R(CTL_IO_BITMAP_B, { IO_BITMAP_B, 0, 8 }, PRIMARY(CPU_BASED_USE_IO_BITMAPS)),
	R(CTL_MSR_BITMAP, { MSR_BITMAP, 0, 8 }, PRIMARY(CPU_BASED_USE_MSR_BITMAPS)),
	R(CTL_VIRTUAL_APIC, { VIRTUAL_APIC_PAGE_ADDR, 0, 8 }, PRIMARY(CPU_BASED_TPR_SHADOW)),
	R(CTL_TPR_THRESHOLD, { TPR_THRESHOLD, 0, 0x10 }, PRIMARY(CPU_BASED_TPR_SHADOW)),
	R(CTL_APIC_ACCESS, { APIC_ACCESS_ADDR, 0, 8 }, SECONDARY(SECONDARY_EXEC_VIRTUALIZE_APIC_ACCESSES)),
	{ .check = VMENTRY_CHECK_CTL_APICV_WITHOUT_TPR_SHADOW, .msr = MSR_IA32_VMX_PROCBASED_CTLS2,
	  .cap_set = SECONDARY_EXEC_VIRTUALIZE_X2APIC_MODE << 32, .change = { SECONDARY(SECONDARY_EXEC_VIRTUALIZE_X2APIC_MODE) } },
	R(CTL_VIRTUAL_NMI, PIN(PIN_BASED_VIRTUAL_NMIS)),
	R(CTL_NMI_WINDOW, PRIMARY(CPU_BASED_NMI_WINDOW_EXITING)),
	R(CTL_VPID, { VIRTUAL_PROCESSOR_ID, ALL, 0 }, SECONDARY(SECONDARY_EXEC_ENABLE_VPID)),
	R(CTL_EPTP_MEMTYPE, { EPT_POINTER, 7, 1 }, EPT),
	R(CTL_EPTP_MEMTYPE, { EPT_POINTER, 7, MT_UNCACHEABLE }, EPT),
	R(CTL_EPTP_WALK, { EPT_POINTER, EPTP_WALK_MASK, FIELD_PREP(EPTP_WALK_MASK, 2) }, EPT),
	R(CTL_EPTP_WALK, { EPT_POINTER, EPTP_WALK_MASK, FIELD_PREP(EPTP_WALK_MASK, 4) }, EPT),
	R(CTL_EPTP_RESERVED, { EPT_POINTER, 0, 0x80 }, EPT),
	R(CTL_EPTP_RESERVED, { EPT_POINTER, 0, TOO_WIDE }, EPT),
	{ .check = VMENTRY_CHECK_CTL_EPTP_AD, .msr = MSR_IA32_VMX_EPT_VPID_CAP, .cap_clear = BIT_ULL(21),
	  .change = { { EPT_POINTER, 0, EPTP_AD_ENABLE }, EPT } },
	R(CTL_UNRESTRICTED, SECONDARY(SECONDARY_EXEC_UNRESTRICTED_GUEST)),
	R(CTL_PML, { PML_ADDRESS, 0, 8 }, SECONDARY(SECONDARY_EXEC_ENABLE_EPT | SECONDARY_EXEC_ENABLE_PML)),
	R(CTL_PML, SECONDARY(SECONDARY_EXEC_ENABLE_PML)),
	R(CTL_VMREAD_BITMAP, { VMREAD_BITMAP, 0, 8 }, SECONDARY(SECONDARY_EXEC_SHADOW_VMCS)),
	R(CTL_VMWRITE_BITMAP, { VMWRITE_BITMAP, 0, 8 }, SECONDARY(SECONDARY_EXEC_SHADOW_VMCS)),
	R(CTL_VMFUNC, { VM_FUNCTION_CONTROL, 0, 2 }, SECONDARY(SECONDARY_EXEC_ENABLE_VMFUNC)),
	R(CTL_VMFUNC, { VM_FUNCTION_CONTROL, 0, BIT_ULL(63) }, SECONDARY(SECONDARY_EXEC_ENABLE_VMFUNC)),
	R(CTL_EPTP_LIST, { VM_FUNCTION_CONTROL, 0, 1 }, { EPTP_LIST_ADDRESS, 0, 8 },
	  SECONDARY(SECONDARY_EXEC_ENABLE_EPT | SECONDARY_EXEC_ENABLE_VMFUNC)),
	R(CTL_EPTP_LIST, { VM_FUNCTION_CONTROL, 0, 1 }, { EPTP_LIST_ADDRESS, 0, TOO_WIDE },
	  SECONDARY(SECONDARY_EXEC_ENABLE_EPT | SECONDARY_EXEC_ENABLE_VMFUNC)),
	R(CTL_EPTP_LIST, { VM_FUNCTION_CONTROL, 0, 1 }, SECONDARY(SECONDARY_EXEC_ENABLE_VMFUNC)),
	R(CTL_EXIT_ALLOWED, { VM_EXIT_CONTROLS, 1, 0 }),
	R(CTL_EXIT_ALLOWED, { VM_EXIT_CONTROLS, 0, BIT_ULL(31) }),
	R(CTL_SAVE_TIMER, { VM_EXIT_CONTROLS, 0, VM_EXIT_SAVE_VMX_PREEMPTION_TIMER }),
	R(CTL_EXIT_STORE, { VM_EXIT_MSR_STORE_ADDR, 0, 8 }, { VM_EXIT_MSR_STORE_COUNT, 0, 1 }),
	R(CTL_EXIT_STORE, { VM_EXIT_MSR_STORE_ADDR, 0, TOO_WIDE - 16 }, { VM_EXIT_MSR_STORE_COUNT, 0, 2 }),
	R(CTL_EXIT_LOAD, { VM_EXIT_MSR_LOAD_ADDR, 0, 8 }, { VM_EXIT_MSR_LOAD_COUNT, 0, 1 }),
	R(CTL_ENTRY_ALLOWED, { VM_ENTRY_CONTROLS, 1, 0 }),
	R(CTL_ENTRY_ALLOWED, { VM_ENTRY_CONTROLS, 0, VM_ENTRY_SMM }),
	R(CTL_ENTRY_LOAD, { VM_ENTRY_MSR_LOAD_ADDR, 0, 8 }, { VM_ENTRY_MSR_LOAD_COUNT, 0, 1 }),
	R(CTL_INJECT_TYPE, { VM_ENTRY_INTR_INFO_FIELD, ALL, INJECT(1, 3) }),
	{ .check = VMENTRY_CHECK_CTL_INJECT_TYPE, .msr = MSR_IA32_VMX_TRUE_PROCBASED_CTLS,
	  .cap_clear = CPU_BASED_MONITOR_TRAP_FLAG << 32, .change = { { VM_ENTRY_INTR_INFO_FIELD, ALL, INJECT(7, 0) } } },
	R(CTL_INJECT_VECTOR, { VM_ENTRY_INTR_INFO_FIELD, ALL, INJECT(2, 3) }),
	R(CTL_INJECT_VECTOR, { VM_ENTRY_INTR_INFO_FIELD, ALL, INJECT(3, 32) }),
	R(CTL_INJECT_VECTOR, { VM_ENTRY_INTR_INFO_FIELD, ALL, INJECT(7, 1) }),
	R(CTL_INJECT_HAS_ERROR, { VM_ENTRY_INTR_INFO_FIELD, ALL, INJECT(3, X86_TRAP_GP) }),
	R(CTL_INJECT_HAS_ERROR, { VM_ENTRY_INTR_INFO_FIELD, ALL, INJECT(3, X86_TRAP_UD) | INTR_INFO_DELIVER_CODE_MASK }),
	R(CTL_INJECT_ERROR, { VM_ENTRY_INTR_INFO_FIELD, ALL, INJECT(3, X86_TRAP_GP) | INTR_INFO_DELIVER_CODE_MASK },
	  { VM_ENTRY_EXCEPTION_ERROR_CODE, 0, 0x10000 }),
	R(CTL_INJECT_RESERVED, { VM_ENTRY_INTR_INFO_FIELD, ALL, INJECT(3, X86_TRAP_UD) | 0x1000 }),
	R(CTL_INJECT_LENGTH, { VM_ENTRY_INTR_INFO_FIELD, ALL, INJECT(4, 0x20) }),
	R(CTL_INJECT_LENGTH, { VM_ENTRY_INTR_INFO_FIELD, ALL, INJECT(4, 0x20) }, { VM_ENTRY_INSTRUCTION_LEN, 0, 16 }),
	R(HOST_CR0_FIXED, { HOST_CR0, X86_CR0_NE, 0 }),
	R(HOST_CR0_FIXED, { HOST_CR0, 0, BIT_ULL(32) }),
	R(HOST_CR4_FIXED, { HOST_CR4, X86_CR4_VMXE, 0 }),
	R(HOST_CR4_FIXED, { HOST_CR4, 0, BIT_ULL(40) }),
	R(HOST_CR3_WIDTH, { HOST_CR3, 0, TOO_WIDE }),
	R(HOST_SYSENTER_ESP, { HOST_IA32_SYSENTER_ESP, 0, CANONICAL_NOT }),
	R(HOST_SYSENTER_EIP, { HOST_IA32_SYSENTER_EIP, 0, CANONICAL_NOT }),
	R(HOST_PAT_TYPES, { HOST_IA32_PAT, 0, 2 }, { VM_EXIT_CONTROLS, 0, VM_EXIT_LOAD_IA32_PAT }),
	R(HOST_EFER_BITS, { HOST_IA32_EFER, ALL, EFER_LME | EFER_LMA | 2 }, { VM_EXIT_CONTROLS, 0, VM_EXIT_LOAD_IA32_EFER }),
	R(HOST_EFER_BITS, { HOST_IA32_EFER, ALL, EFER_LME }, { VM_EXIT_CONTROLS, 0, VM_EXIT_LOAD_IA32_EFER }),
	R(HOST_EFER_BITS, { HOST_IA32_EFER, ALL, EFER_LMA }, { VM_EXIT_CONTROLS, 0, VM_EXIT_LOAD_IA32_EFER }),
	R(HOST_SIZE, { VM_EXIT_CONTROLS, VM_EXIT_HOST_ADDR_SPACE_SIZE, 0 }, { VM_ENTRY_CONTROLS, VM_ENTRY_IA32E_MODE, 0 }),
	R32(HOST_SIZE, { VM_EXIT_CONTROLS, 0, VM_EXIT_HOST_ADDR_SPACE_SIZE }),
	R32(HOST_SIZE_32, { VM_ENTRY_CONTROLS, 0, VM_ENTRY_IA32E_MODE }),
	R32(HOST_PCIDE, { HOST_CR4, 0, X86_CR4_PCIDE }),
	R(HOST_PAE, { HOST_CR4, X86_CR4_PAE, 0 }),
	R(HOST_RIP_WIDTH, { HOST_RIP, 0, CANONICAL_NOT }),
	R32(HOST_RIP_WIDTH, { HOST_RIP, 0, BIT_ULL(32) }),
	R(HOST_SELECTORS, { HOST_ES_SELECTOR, 0, 1 }),
	R(HOST_SELECTORS, { HOST_CS_SELECTOR, 0, 4 }),
	R(HOST_SELECTORS, { HOST_SS_SELECTOR, 0, 2 }),
	R(HOST_SELECTORS, { HOST_DS_SELECTOR, 0, 4 }),
	R(HOST_SELECTORS, { HOST_FS_SELECTOR, 0, 1 }),
	R(HOST_SELECTORS, { HOST_GS_SELECTOR, 0, 1 }),
	R(HOST_SELECTORS, { HOST_TR_SELECTOR, 0, 4 }),
	R(HOST_CS_ZERO, { HOST_CS_SELECTOR, ALL, 0 }),
	R(HOST_TR_ZERO, { HOST_TR_SELECTOR, ALL, 0 }),
	R32(HOST_SS_ZERO, { HOST_SS_SELECTOR, ALL, 0 }),
	R(HOST_FS_BASE_CANONICAL, { HOST_FS_BASE, 0, CANONICAL_NOT }),
	R(HOST_GS_BASE_CANONICAL, { HOST_GS_BASE, 0, CANONICAL_NOT }),
	R(HOST_GDTR_BASE_CANONICAL, { HOST_GDTR_BASE, 0, CANONICAL_NOT }),
	R(HOST_IDTR_BASE_CANONICAL, { HOST_IDTR_BASE, 0, CANONICAL_NOT }),
	R(HOST_TR_BASE_CANONICAL, { HOST_TR_BASE, 0, CANONICAL_NOT }),
	R(GUEST_CR0_FIXED, { GUEST_CR0, X86_CR0_NE, 0 }),
	R(GUEST_CR0_PG_PE, { GUEST_CR0, X86_CR0_PE, 0 }, SECONDARY(SECONDARY_EXEC_ENABLE_EPT | SECONDARY_EXEC_UNRESTRICTED_GUEST)),
	R(GUEST_CR4_FIXED, { GUEST_CR4, X86_CR4_VMXE, 0 }),
	R(GUEST_CR4_FIXED, { GUEST_CR4, 0, BIT_ULL(40) }),
	R(GUEST_DEBUGCTL, { GUEST_IA32_DEBUGCTL, 0, 4 }, { VM_ENTRY_CONTROLS, 0, VM_ENTRY_LOAD_DEBUG_CONTROLS }),
	R(GUEST_DR7_WIDTH, { GUEST_DR7, 0, BIT_ULL(32) }, { VM_ENTRY_CONTROLS, 0, VM_ENTRY_LOAD_DEBUG_CONTROLS }),
	R(GUEST_PAT_TYPES, { GUEST_IA32_PAT, 0, 0x300 }, { VM_ENTRY_CONTROLS, 0, VM_ENTRY_LOAD_IA32_PAT }),
	R(GUEST_IA32E_PAGING, { GUEST_CR4, X86_CR4_PAE, 0 }),
	R(GUEST_EFER_BITS, { GUEST_IA32_EFER, ALL, EFER_LME | EFER_LMA | 2 }, { VM_ENTRY_CONTROLS, 0, VM_ENTRY_LOAD_IA32_EFER }),
	R(GUEST_EFER_BITS, { GUEST_IA32_EFER, ALL, EFER_LMA }, { VM_ENTRY_CONTROLS, 0, VM_ENTRY_LOAD_IA32_EFER }),
	R(GUEST_EFER_BITS, { GUEST_IA32_EFER, ALL, EFER_LME }, { VM_ENTRY_CONTROLS, 0, VM_ENTRY_LOAD_IA32_EFER }),
	R(GUEST_LINK_ALIGNED, { VMCS_LINK_POINTER, ALL, 8 }),
	R(GUEST_LINK_ALIGNED, { VMCS_LINK_POINTER, ALL, TOO_WIDE }),
	R(GUEST_ACTIVITY, { GUEST_ACTIVITY_STATE, 0, 2 }),
	{ .check = VMENTRY_CHECK_GUEST_ACTIVITY, .msr = MSR_IA32_VMX_MISC, .cap_clear = BIT_ULL(8),
	  .change = { { GUEST_ACTIVITY_STATE, 0, GUEST_ACTIVITY_WAIT_SIPI } } },
	R(GUEST_HLT_DPL, { GUEST_ACTIVITY_STATE, 0, GUEST_ACTIVITY_HLT }, { GUEST_SS_AR_BYTES, 0, 0x60 }),
	R(GUEST_HLT_SHADOW, { GUEST_ACTIVITY_STATE, 0, GUEST_ACTIVITY_HLT }, { GUEST_INTERRUPTIBILITY_INFO, 0, 1 }),
	R(GUEST_HLT_SHADOW, { GUEST_ACTIVITY_STATE, 0, GUEST_ACTIVITY_HLT }, { GUEST_INTERRUPTIBILITY_INFO, 0, 2 }),
	R(GUEST_HLT_EVENT, { GUEST_ACTIVITY_STATE, 0, GUEST_ACTIVITY_HLT }, { VM_ENTRY_INTR_INFO_FIELD, ALL, INJECT(3, X86_TRAP_UD) }),
	R(GUEST_CR3_WIDTH, { GUEST_CR3, 0, TOO_WIDE }),
};

/* Made of L1's memory, or while the entry goes on. */
static const enum vmentry_check elsewhere[] = {
	VMENTRY_CHECK_GUEST_LINK_REVISION, VMENTRY_CHECK_GUEST_PDPTES, VMENTRY_CHECK_GUEST_SEGMENTS, VMENTRY_CHECK_CTL_TPR_OVER_VTPR,
};

/* Those of VMENTRY_CHECKS_PROCESSOR that depend on what L0 merges away, and so are the hypervisor's too. */
static bool is_ours(unsigned check)
{
	for (size_t n = 0; n < ARRAY_SIZE(elsewhere); n++)
		if (elsewhere[n] == check)
			return false;
	return check < VMENTRY_CHECK_FIRST_OF_PROCESSOR || check == VMENTRY_CHECK_CTL_TPR_THRESHOLD;
}

static void set(uint32_t field, uint64_t value)
{
	assert_true(vmcs12_write_field(&v12, field, value));
}

/* An L1 whose processor has what Linux's KVM offers, and a vmcs12 that passes. */
static void begin(bool host_32)
{
	struct nested_vmx *n = &vmx.nested;

	memset(&vcpu, 0, sizeof(vcpu));
	memset(&vmx, 0, sizeof(vmx));
	memset(&v12, 0, sizeof(v12));
	vcpu.kvm = &kvm;
	vcpu.vmx = &vmx;
	n->cached_vmcs12 = &v12;
	n->run_pending = true;
	vmx.efer = host_32 ? 0 : EFER_LMA | EFER_LME;
	vmx_register_services(&services);
	n->msrs.v[CAP(MSR_IA32_VMX_MISC)] = 0x20000165;
	n->msrs.v[CAP(MSR_IA32_VMX_TRUE_PINBASED_CTLS)] = 0x7f00000016;
	n->msrs.v[CAP(MSR_IA32_VMX_TRUE_PROCBASED_CTLS)] = 0xfff9fffe04006172;
	n->msrs.v[CAP(MSR_IA32_VMX_PROCBASED_CTLS2)] = 0x021270efULL << 32;
	n->msrs.v[CAP(MSR_IA32_VMX_TRUE_EXIT_CTLS)] = 0x007fefff00036dfb;
	n->msrs.v[CAP(MSR_IA32_VMX_TRUE_ENTRY_CTLS)] = 0x0000d3ff000011fb;
	n->msrs.v[CAP(MSR_IA32_VMX_EPT_VPID_CAP)] = 0xf0106334041; /* 4 levels, no UC */
	n->msrs.v[CAP(MSR_IA32_VMX_VMFUNC)] = 1;
	n->msrs.v[CAP(MSR_IA32_VMX_CR0_FIXED0)] = X86_CR0_PG | X86_CR0_NE | X86_CR0_PE;
	n->msrs.v[CAP(MSR_IA32_VMX_CR0_FIXED1)] = 0xffffffff;
	n->msrs.v[CAP(MSR_IA32_VMX_CR4_FIXED0)] = X86_CR4_VMXE;
	n->msrs.v[CAP(MSR_IA32_VMX_CR4_FIXED1)] = 0x3fffff;

	set(PIN_BASED_VM_EXEC_CONTROL, 0x16);
	set(CPU_BASED_VM_EXEC_CONTROL, 0x04006172 | CPU_BASED_ACTIVATE_SECONDARY_CONTROLS);
	set(VM_EXIT_CONTROLS, 0x36dfb | (host_32 ? 0 : VM_EXIT_HOST_ADDR_SPACE_SIZE));
	set(VM_ENTRY_CONTROLS, 0x11fb | (host_32 ? 0 : VM_ENTRY_IA32E_MODE));
	set(EPT_POINTER, 0x1000 | MT_WRBACK | FIELD_PREP(EPTP_WALK_MASK, 3));
	set(VIRTUAL_PROCESSOR_ID, 1);
	set(VMCS_LINK_POINTER, ALL);
	set(HOST_CR0, X86_CR0_PG | X86_CR0_NE | X86_CR0_PE);
	set(HOST_CR4, X86_CR4_VMXE | X86_CR4_PAE);
	set(HOST_CS_SELECTOR, 8);
	set(HOST_SS_SELECTOR, 16);
	set(HOST_TR_SELECTOR, 40);
	set(GUEST_CR0, X86_CR0_PG | X86_CR0_NE | X86_CR0_PE);
	set(GUEST_CR4, X86_CR4_VMXE | X86_CR4_PAE);
}

static void check(struct vmentry_failures *all)
{
	struct nested_checks f = { .all = all };

	all->nr = 0;
	nested_vmx_check_controls(&vcpu, &v12, &f);
	nested_vmx_check_address_space_size(&vcpu, &v12, &f);
	nested_vmx_check_host_state(&vcpu, &v12, &f);
	nested_vmx_check_guest_registers(&vcpu, &v12, &f);
	assert_int_equal(f.nr_failed, all->nr);
}

static void apply(const struct row *r)
{
	uint64_t old;

	if (r->msr)
		vmx.nested.msrs.v[CAP(r->msr)] = (vmx.nested.msrs.v[CAP(r->msr)] & ~r->cap_clear) | r->cap_set;
	for (unsigned n = 0; n < ARRAY_SIZE(r->change); n++) {
		const struct change *c = &r->change[n];

		if (!c->field && !c->clear && !c->set)
			break;
		assert_true(vmcs12_read_field(&v12, c->field, &old));
		set(c->field, (old & ~c->clear) | c->set);
	}
}

static void what_passes_passes(void **state)
{
	struct vmentry_failures all;

	for (int host_32 = 0; host_32 < 2; host_32++) {
		begin(host_32);
		check(&all);
		if (all.nr)
			fail_msg("%d: %s", host_32, vmentry_rows[all.at[0].check].name);
	}
}

static void each_row_is_broken_alone(void **state)
{
	unsigned seen[NR_VMENTRY_CHECKS] = { 0 }, wrong = 0;
	struct vmentry_failures all;

	for (size_t n = 0; n < ARRAY_SIZE(rows); n++) {
		begin(rows[n].host_32);
		apply(&rows[n]);
		check(&all);
		if (all.nr == 1 && all.at[0].check == rows[n].check) {
			seen[rows[n].check]++;
			continue;
		}
		print_error("row %zu, %s: %u failed, the first %s\n", n, vmentry_rows[rows[n].check].name, all.nr,
			    all.nr ? vmentry_rows[all.at[0].check].name : "none");
		wrong++;
	}
	for (unsigned n = 0; n < NR_VMENTRY_CHECKS; n++) {
		if (seen[n] || !is_ours(n))
			continue;
		print_error("%s: no row breaks it\n", vmentry_rows[n].name);
		wrong++;
	}
	assert_int_equal(wrong, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_passes_passes),
		cmocka_unit_test(each_row_is_broken_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
