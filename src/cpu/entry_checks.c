/*
 * The checks of VM entry (SDM Vol. 3, "VM Entries": "Checks on VMX Controls",
 * "Checks on Host-State Area", "Checks on Guest State"), one line each. What each of them
 * asks for stands in words in sdm/vmentry_checks.h. All are made, each failure is noted in `f`.
 *
 * No state is changed here; the VMCS is all that is looked at, except PDPTEs
 * and MSR areas in memory.
 */
#include "cpu/system.h"
#include "host/memory.h"
#include "sdm/ept.h"
#include "sdm/paging.h"

/* field 0: the one of the check's row. */
#define REQUIRE_OF(field, cond, id)                                     \
	do {                                                            \
		if (unlikely(!(cond)))                                  \
			vmentry_failed(f, VMENTRY_CHECK_##id, (field)); \
	} while (0)
#define REQUIRE(cond, id) REQUIRE_OF(0, cond, id)

static bool canonical(uint64_t a)
{
	return (uint64_t)((int64_t)(a << 16) >> 16) == a;
}

static bool page_ok(uint64_t pa)
{
	return IS_ALIGNED(pa, PAGE_SIZE) && !(pa >> VMX_HOST_MAXPHYADDR);
}

static bool pat_ok(uint64_t pat)
{
	for (int n = 0; n < 8; n++, pat >>= 8) {
		uint8_t t = (uint8_t)pat;

		if (t > MT_UC_MINUS || t == 2 || t == 3)
			return false;
	}
	return true;
}

#define EFER_RESERVED (~(EFER_SCE | EFER_LME | EFER_LMA | EFER_NX))

static uint32_t secondary_of(const struct vmcs *v)
{
	return v->CPU_BASED_VM_EXEC_CONTROL & CPU_BASED_ACTIVATE_SECONDARY_CONTROLS
		       ? (uint32_t)v->SECONDARY_VM_EXEC_CONTROL : 0;
}

/* --- controls: VM-instruction error 7 --- */

static void check_eptp(uint64_t eptp, struct vmentry_failures *f)
{
	uint64_t type = eptp & EPTP_MEMTYPE_MASK, walk = FIELD_GET(EPTP_WALK_MASK, eptp);

	REQUIRE(type == MT_UNCACHEABLE || type == MT_WRBACK, CTL_EPTP_MEMTYPE);
	REQUIRE(walk == 3 || walk == 4, CTL_EPTP_WALK);
	REQUIRE(!(eptp & ~(EPTP_ROOT_MASK | EPTP_AD_ENABLE | EPTP_WALK_MASK | EPTP_MEMTYPE_MASK)),
		CTL_EPTP_RESERVED);
}

bool cpu_eptp_valid(uint64_t eptp)
{
	struct vmentry_failures f = { 0 };

	check_eptp(eptp, &f);
	return !f.nr;
}

static void check_execution_controls(const struct vmcs *v, struct vmentry_failures *f)
{
	uint32_t pin = (uint32_t)v->PIN_BASED_VM_EXEC_CONTROL;
	uint32_t primary = (uint32_t)v->CPU_BASED_VM_EXEC_CONTROL;
	uint32_t secondary = secondary_of(v);

	REQUIRE(cpu_control_allowed(MSR_IA32_VMX_TRUE_PINBASED_CTLS, pin), CTL_PIN_ALLOWED);
	REQUIRE(cpu_control_allowed(MSR_IA32_VMX_TRUE_PROCBASED_CTLS, primary),
		CTL_PRIMARY_ALLOWED);
	REQUIRE(cpu_control_allowed(MSR_IA32_VMX_PROCBASED_CTLS2, secondary),
		CTL_SECONDARY_ALLOWED);
	REQUIRE(v->CR3_TARGET_COUNT <= 4, CTL_CR3_TARGET_COUNT);
	if (primary & CPU_BASED_USE_IO_BITMAPS) {
		REQUIRE(page_ok(v->IO_BITMAP_A), CTL_IO_BITMAP_A);
		REQUIRE(page_ok(v->IO_BITMAP_B), CTL_IO_BITMAP_B);
	}
	if (primary & CPU_BASED_USE_MSR_BITMAPS)
		REQUIRE(page_ok(v->MSR_BITMAP), CTL_MSR_BITMAP);
	REQUIRE((pin & PIN_BASED_NMI_EXITING) || !(pin & PIN_BASED_VIRTUAL_NMIS),
		CTL_VIRTUAL_NMI);
	REQUIRE((pin & PIN_BASED_VIRTUAL_NMIS) || !(primary & CPU_BASED_NMI_WINDOW_EXITING),
		CTL_NMI_WINDOW);
	cpu_check_apic_controls(v, f);
	if (secondary & SECONDARY_EXEC_ENABLE_VPID)
		REQUIRE(v->VIRTUAL_PROCESSOR_ID, CTL_VPID);
	if (secondary & SECONDARY_EXEC_UNRESTRICTED_GUEST)
		REQUIRE(secondary & SECONDARY_EXEC_ENABLE_EPT, CTL_UNRESTRICTED);
	if (secondary & SECONDARY_EXEC_ENABLE_PML)
		REQUIRE((secondary & SECONDARY_EXEC_ENABLE_EPT) && page_ok(v->PML_ADDRESS),
			CTL_PML);
	if (secondary & SECONDARY_EXEC_ENABLE_EPT)
		check_eptp(v->EPT_POINTER, f);
	if (secondary & SECONDARY_EXEC_SHADOW_VMCS) {
		REQUIRE(page_ok(v->VMREAD_BITMAP), CTL_VMREAD_BITMAP);
		REQUIRE(page_ok(v->VMWRITE_BITMAP), CTL_VMWRITE_BITMAP);
	}
	if (secondary & SECONDARY_EXEC_ENABLE_VMFUNC)
		REQUIRE(!(v->VM_FUNCTION_CONTROL & ~vmx_capability_msr(MSR_IA32_VMX_VMFUNC)), CTL_VMFUNC);
}

static void check_msr_area(uint64_t addr, uint64_t count, enum vmentry_check id, struct vmentry_failures *f)
{
	if (count && (!IS_ALIGNED(addr, 16ULL) || (addr + count * 16 - 1) >> VMX_HOST_MAXPHYADDR))
		vmentry_failed(f, id, 0);
}

static void check_exit_entry_controls(const struct vmcs *v, struct vmentry_failures *f)
{

	REQUIRE(cpu_control_allowed(MSR_IA32_VMX_TRUE_EXIT_CTLS, (uint32_t)v->VM_EXIT_CONTROLS),
		CTL_EXIT_ALLOWED);
	REQUIRE((v->PIN_BASED_VM_EXEC_CONTROL & PIN_BASED_VMX_PREEMPTION_TIMER) ||
			!(v->VM_EXIT_CONTROLS & VM_EXIT_SAVE_VMX_PREEMPTION_TIMER),
		CTL_SAVE_TIMER);
	REQUIRE(cpu_control_allowed(MSR_IA32_VMX_TRUE_ENTRY_CTLS, (uint32_t)v->VM_ENTRY_CONTROLS),
		CTL_ENTRY_ALLOWED);
	check_msr_area(v->VM_EXIT_MSR_STORE_ADDR, v->VM_EXIT_MSR_STORE_COUNT, VMENTRY_CHECK_CTL_EXIT_STORE, f);
	check_msr_area(v->VM_EXIT_MSR_LOAD_ADDR, v->VM_EXIT_MSR_LOAD_COUNT, VMENTRY_CHECK_CTL_EXIT_LOAD, f);
	check_msr_area(v->VM_ENTRY_MSR_LOAD_ADDR, v->VM_ENTRY_MSR_LOAD_COUNT, VMENTRY_CHECK_CTL_ENTRY_LOAD, f);
}

/* Exceptions that push an error code. */
#define ERROR_CODE_VECTORS                                                                   \
	(BIT_ULL(X86_TRAP_DF) | BIT_ULL(X86_TRAP_TS) | BIT_ULL(X86_TRAP_NP) |                \
	 BIT_ULL(X86_TRAP_SS) | BIT_ULL(X86_TRAP_GP) | BIT_ULL(X86_TRAP_PF) |                \
	 BIT_ULL(X86_TRAP_AC))

void cpu_check_injection(const struct vmcs *v, struct vmentry_failures *f)
{
	uint64_t info = v->VM_ENTRY_INTR_INFO_FIELD;
	uint64_t vector = info & INTR_INFO_VECTOR_MASK;
	uint64_t type = FIELD_GET(INTR_INFO_INTR_TYPE_MASK, info);
	bool unrestricted = secondary_of(v) & SECONDARY_EXEC_UNRESTRICTED_GUEST;
	bool protected_mode = !unrestricted || (v->GUEST_CR0 & X86_CR0_PE);
	bool error_code = type == INTR_TYPE_HARD_EXCEPTION && protected_mode && vector < 32 &&
			  (ERROR_CODE_VECTORS & BIT_ULL(vector));

	if (!(info & INTR_INFO_VALID_MASK))
		return;
	REQUIRE(type != 1, CTL_INJECT_TYPE);
	REQUIRE(type != INTR_TYPE_NMI_INTR || vector == X86_TRAP_NMI, CTL_INJECT_VECTOR);
	REQUIRE(type != INTR_TYPE_HARD_EXCEPTION || vector < 32, CTL_INJECT_VECTOR);
	REQUIRE(type != INTR_TYPE_OTHER_EVENT || vector == 0, CTL_INJECT_VECTOR);
	REQUIRE(!!(info & INTR_INFO_DELIVER_CODE_MASK) == error_code, CTL_INJECT_HAS_ERROR);
	REQUIRE(!(info & GENMASK_ULL(30, 12)), CTL_INJECT_RESERVED);
	if (error_code)
		REQUIRE(!(v->VM_ENTRY_EXCEPTION_ERROR_CODE & GENMASK_ULL(31, 16)),
			CTL_INJECT_ERROR);
	if (type >= INTR_TYPE_SOFT_INTR && type <= INTR_TYPE_SOFT_EXCEPTION)
		REQUIRE(v->VM_ENTRY_INSTRUCTION_LEN <= 15, CTL_INJECT_LENGTH);
}

void cpu_check_controls(const struct vmcs *v, struct vmentry_failures *f)
{
	check_execution_controls(v, f);
	check_exit_entry_controls(v, f);
}

/* --- host state: VM-instruction error 8 --- */

static bool cr0_fixed_ok(uint64_t cr0, uint64_t not_required)
{
	uint64_t must = vmx_capability_msr(MSR_IA32_VMX_CR0_FIXED0) & ~not_required;

	return (cr0 & must) == must && !(cr0 & ~vmx_capability_msr(MSR_IA32_VMX_CR0_FIXED1));
}

static bool cr4_fixed_ok(uint64_t cr4)
{
	uint64_t must = vmx_capability_msr(MSR_IA32_VMX_CR4_FIXED0);

	return (cr4 & must) == must && !(cr4 & ~vmx_capability_msr(MSR_IA32_VMX_CR4_FIXED1));
}

void cpu_check_host_state(const struct vmcs *v, struct vmentry_failures *f)
{
	REQUIRE(cr0_fixed_ok(v->HOST_CR0, 0), HOST_CR0_FIXED);
	REQUIRE(cr4_fixed_ok(v->HOST_CR4), HOST_CR4_FIXED);
	REQUIRE(!(v->HOST_CR3 >> VMX_HOST_MAXPHYADDR), HOST_CR3_WIDTH);
	REQUIRE(canonical(v->HOST_IA32_SYSENTER_ESP), HOST_SYSENTER_ESP);
	REQUIRE(canonical(v->HOST_IA32_SYSENTER_EIP), HOST_SYSENTER_EIP);
	if (v->VM_EXIT_CONTROLS & VM_EXIT_LOAD_IA32_PAT)
		REQUIRE(pat_ok(v->HOST_IA32_PAT), HOST_PAT_TYPES);
	if (v->VM_EXIT_CONTROLS & VM_EXIT_LOAD_IA32_EFER)
		REQUIRE(!(v->HOST_IA32_EFER & EFER_RESERVED) &&
				(v->HOST_IA32_EFER & EFER_LMA) && (v->HOST_IA32_EFER & EFER_LME),
			HOST_EFER_BITS);
	REQUIRE(!((v->HOST_CS_SELECTOR | v->HOST_SS_SELECTOR | v->HOST_DS_SELECTOR |
		   v->HOST_ES_SELECTOR | v->HOST_FS_SELECTOR | v->HOST_GS_SELECTOR |
		   v->HOST_TR_SELECTOR) & 7), HOST_SELECTORS);
	REQUIRE(v->HOST_CS_SELECTOR, HOST_CS_ZERO);
	REQUIRE(v->HOST_TR_SELECTOR, HOST_TR_ZERO);
	REQUIRE(canonical(v->HOST_FS_BASE), HOST_FS_BASE_CANONICAL);
	REQUIRE(canonical(v->HOST_GS_BASE), HOST_GS_BASE_CANONICAL);
	REQUIRE(canonical(v->HOST_GDTR_BASE), HOST_GDTR_BASE_CANONICAL);
	REQUIRE(canonical(v->HOST_IDTR_BASE), HOST_IDTR_BASE_CANONICAL);
	REQUIRE(canonical(v->HOST_TR_BASE), HOST_TR_BASE_CANONICAL);
	REQUIRE(v->VM_EXIT_CONTROLS & VM_EXIT_HOST_ADDR_SPACE_SIZE, HOST_SIZE);
	REQUIRE(v->HOST_CR4 & X86_CR4_PAE, HOST_PAE);
	REQUIRE(canonical(v->HOST_RIP), HOST_RIP_WIDTH);
}

/* --- guest state: exit reason 33 --- */

#define DEBUGCTL_RESERVED (~(GENMASK_ULL(15, 6) | GENMASK_ULL(1, 0)))

static void check_guest_control_registers(const struct vmcs *v, struct vmentry_failures *f)
{
	bool unrestricted = secondary_of(v) & SECONDARY_EXEC_UNRESTRICTED_GUEST;
	bool ia32e = v->VM_ENTRY_CONTROLS & VM_ENTRY_IA32E_MODE;
	bool pg = v->GUEST_CR0 & X86_CR0_PG;

	REQUIRE(cr0_fixed_ok(v->GUEST_CR0, unrestricted ? X86_CR0_PE | X86_CR0_PG : 0), GUEST_CR0_FIXED);
	REQUIRE(!pg || (v->GUEST_CR0 & X86_CR0_PE), GUEST_CR0_PG_PE);
	REQUIRE(cr4_fixed_ok(v->GUEST_CR4), GUEST_CR4_FIXED);
	REQUIRE(!ia32e || (pg && (v->GUEST_CR4 & X86_CR4_PAE)), GUEST_IA32E_PAGING);
	REQUIRE(ia32e || !(v->GUEST_CR4 & X86_CR4_PCIDE), GUEST_PCIDE);
	REQUIRE(!(v->GUEST_CR3 >> VMX_HOST_MAXPHYADDR), GUEST_CR3_WIDTH);
	REQUIRE(canonical(v->GUEST_SYSENTER_ESP), GUEST_SYSENTER_ESP_CANONICAL);
	REQUIRE(canonical(v->GUEST_SYSENTER_EIP), GUEST_SYSENTER_EIP_CANONICAL);
	if (v->VM_ENTRY_CONTROLS & VM_ENTRY_LOAD_DEBUG_CONTROLS) {
		REQUIRE(!(v->GUEST_DR7 >> 32), GUEST_DR7_WIDTH);
		REQUIRE(!(v->GUEST_IA32_DEBUGCTL & DEBUGCTL_RESERVED), GUEST_DEBUGCTL);
	}
	if (v->VM_ENTRY_CONTROLS & VM_ENTRY_LOAD_IA32_PAT)
		REQUIRE(pat_ok(v->GUEST_IA32_PAT), GUEST_PAT_TYPES);
	if (v->VM_ENTRY_CONTROLS & VM_ENTRY_LOAD_IA32_EFER) {
		uint64_t efer = v->GUEST_IA32_EFER;

		REQUIRE(!(efer & EFER_RESERVED), GUEST_EFER_BITS);
		REQUIRE(!!(efer & EFER_LMA) == ia32e, GUEST_EFER_BITS);
		REQUIRE(!pg || !!(efer & EFER_LMA) == !!(efer & EFER_LME), GUEST_EFER_BITS);
	}
}

/* A segment register of the VMCS, gathered. */
struct seg {
	uint64_t selector, base, limit, ar;
};
#define SEG(v, S)                                                              \
	((struct seg){ (v)->GUEST_##S##_SELECTOR, (v)->GUEST_##S##_BASE,       \
		       (v)->GUEST_##S##_LIMIT, (v)->GUEST_##S##_AR_BYTES })

static bool usable(struct seg s)
{
	return !(s.ar & VMX_AR_UNUSABLE);
}

static unsigned dpl(struct seg s)
{
	return (unsigned)FIELD_GET(VMX_AR_DPL_MASK, s.ar);
}

static unsigned type_of(struct seg s)
{
	return (unsigned)(s.ar & VMX_AR_TYPE_MASK);
}

/* G must be 0 if any of limit 11:0 is 0, 1 if any of 31:20 is 1. */
static bool granularity_ok(struct seg s)
{
	if ((s.limit & 0xfff) != 0xfff && (s.ar & VMX_AR_G))
		return false;
	return !(s.limit & 0xfff00000) || (s.ar & VMX_AR_G);
}

/* Encodings of a segment register's fields: the manual numbers them ES CS SS DS FS GS LDTR TR. */
enum seg_index { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_LDTR, SEG_TR };
#define BASE_OF(n) (GUEST_ES_BASE + 2 * (n))
#define LIMIT_OF(n) (GUEST_ES_LIMIT + 2 * (n))
#define RIGHTS_OF(n) (GUEST_ES_AR_BYTES + 2 * (n))
#define SELECTOR_OF(n) (GUEST_ES_SELECTOR + 2 * (n))

static void check_v86_segment(struct seg s, enum seg_index n, struct vmentry_failures *f)
{
	REQUIRE_OF(BASE_OF(n), s.base == s.selector << 4, SEG_V86_BASE);
	REQUIRE_OF(LIMIT_OF(n), s.limit == 0xffff, SEG_V86_LIMIT);
	REQUIRE_OF(RIGHTS_OF(n), s.ar == 0xf3, SEG_V86_RIGHTS);
}

/* What a code or data segment that is usable has. */
static void check_rights(struct seg s, enum seg_index n, struct vmentry_failures *f)
{
	REQUIRE_OF(RIGHTS_OF(n), s.ar & VMX_AR_S, SEG_CODE_OR_DATA);
	REQUIRE_OF(RIGHTS_OF(n), s.ar & VMX_AR_P, SEG_PRESENT);
	REQUIRE_OF(RIGHTS_OF(n), !(s.ar & VMX_AR_RESERVED), SEG_RESERVED);
	REQUIRE_OF(RIGHTS_OF(n), granularity_ok(s), SEG_GRANULARITY);
}

static void check_cs(const struct vmcs *v, bool unrestricted, struct vmentry_failures *f)
{
	struct seg s = SEG(v, CS);
	unsigned ss_dpl = dpl(SEG(v, SS)), type = type_of(s);
	bool ia32e = v->VM_ENTRY_CONTROLS & VM_ENTRY_IA32E_MODE;

	REQUIRE(type == 9 || type == 11 || type == 13 || type == 15 || (type == 3 && unrestricted), SEG_CS_TYPE);
	REQUIRE(type != 3 || dpl(s) == 0, SEG_CS_DPL_DATA);
	REQUIRE(!(type == 9 || type == 11) || dpl(s) == ss_dpl, SEG_CS_DPL);
	REQUIRE(!(type == 13 || type == 15) || dpl(s) <= ss_dpl, SEG_CS_DPL);
	REQUIRE(!(ia32e && (s.ar & VMX_AR_L) && (s.ar & VMX_AR_DB)), SEG_CS_L_AND_D);
	check_rights(s, SEG_CS, f);
	REQUIRE_OF(GUEST_CS_BASE, !(s.base >> 32), SEG_BASE_32_BITS);
}

static void check_ss(const struct vmcs *v, bool unrestricted, struct vmentry_failures *f)
{
	struct seg s = SEG(v, SS);
	unsigned cs_type = type_of(SEG(v, CS));

	if (!unrestricted)
		REQUIRE((v->GUEST_SS_SELECTOR & 3) == (v->GUEST_CS_SELECTOR & 3), SEG_SS_RPL);
	if (!unrestricted)
		REQUIRE(dpl(s) == (s.selector & 3), SEG_SS_DPL);
	REQUIRE(!(cs_type == 3 || !(v->GUEST_CR0 & X86_CR0_PE)) || dpl(s) == 0, SEG_SS_DPL_REAL);
	if (!usable(s))
		return;
	REQUIRE(type_of(s) == 3 || type_of(s) == 7, SEG_SS_TYPE);
	check_rights(s, SEG_SS, f);
	REQUIRE_OF(GUEST_SS_BASE, !(s.base >> 32), SEG_BASE_32_BITS);
}

static void check_data_segment(struct seg s, enum seg_index n, bool unrestricted, struct vmentry_failures *f)
{
	bool wide_base = n == SEG_FS || n == SEG_GS;
	unsigned type = type_of(s);

	REQUIRE_OF(BASE_OF(n), !wide_base || canonical(s.base), SEG_BASE_CANONICAL);
	if (!usable(s))
		return;
	REQUIRE_OF(BASE_OF(n), wide_base || !(s.base >> 32), SEG_BASE_32_BITS);
	REQUIRE_OF(RIGHTS_OF(n), type & 1, SEG_DATA_ACCESSED);
	REQUIRE_OF(RIGHTS_OF(n), !(type & 8) || (type & 2), SEG_DATA_READABLE);
	REQUIRE_OF(RIGHTS_OF(n), unrestricted || type >= 12 || dpl(s) >= (s.selector & 3), SEG_DATA_DPL);
	check_rights(s, n, f);
}

static void check_system_segment(struct seg s, enum seg_index n, struct vmentry_failures *f)
{
	REQUIRE_OF(SELECTOR_OF(n), !(s.selector & 4), SEG_IN_LDT);
	REQUIRE_OF(BASE_OF(n), canonical(s.base), SEG_BASE_CANONICAL);
	REQUIRE_OF(RIGHTS_OF(n), !(s.ar & VMX_AR_S), SEG_SYSTEM);
	REQUIRE_OF(RIGHTS_OF(n), s.ar & VMX_AR_P, SEG_PRESENT);
	REQUIRE_OF(RIGHTS_OF(n), !(s.ar & VMX_AR_RESERVED), SEG_RESERVED);
	REQUIRE_OF(RIGHTS_OF(n), granularity_ok(s), SEG_GRANULARITY);
}

static void check_tr_ldtr(const struct vmcs *v, struct vmentry_failures *f)
{
	bool ia32e = v->VM_ENTRY_CONTROLS & VM_ENTRY_IA32E_MODE;
	struct seg tr = SEG(v, TR), ldtr = SEG(v, LDTR);

	REQUIRE(type_of(tr) == 11 || (type_of(tr) == 3 && !ia32e), SEG_TR_TYPE);
	REQUIRE(usable(tr), SEG_TR_USABLE);
	check_system_segment(tr, SEG_TR, f);
	if (!usable(ldtr))
		return;
	REQUIRE(type_of(ldtr) == 2, SEG_LDTR_TYPE);
	check_system_segment(ldtr, SEG_LDTR, f);
}

static void check_guest_segments(const struct vmcs *v, struct vmentry_failures *f)
{
	bool unrestricted = secondary_of(v) & SECONDARY_EXEC_UNRESTRICTED_GUEST;
	const struct seg all[] = { SEG(v, ES), SEG(v, CS), SEG(v, SS), SEG(v, DS), SEG(v, FS), SEG(v, GS) };

	check_tr_ldtr(v, f);
	if (v->GUEST_RFLAGS & X86_FLAGS_VM) {
		for (size_t n = 0; n < ARRAY_SIZE(all); n++)
			check_v86_segment(all[n], (enum seg_index)n, f);
		return;
	}
	check_cs(v, unrestricted, f);
	check_ss(v, unrestricted, f);
	for (size_t n = 0; n < ARRAY_SIZE(all); n++)
		if (n != SEG_CS && n != SEG_SS)
			check_data_segment(all[n], (enum seg_index)n, unrestricted, f);
}

static void check_rip_rflags(const struct vmcs *v, struct vmentry_failures *f)
{
	bool ia32e = v->VM_ENTRY_CONTROLS & VM_ENTRY_IA32E_MODE;
	bool code64 = ia32e && (v->GUEST_CS_AR_BYTES & VMX_AR_L);
	uint64_t fl = v->GUEST_RFLAGS;
	uint64_t info = v->VM_ENTRY_INTR_INFO_FIELD;

	/* bits 63:48 identical, which is less than canonical: the fetch at 2^47 raises #GP in the guest */
	REQUIRE(code64 ? (uint64_t)((int64_t)(v->GUEST_RIP << 15) >> 15) == v->GUEST_RIP : !(v->GUEST_RIP >> 32),
		GUEST_RIP_RANGE);
	REQUIRE(!(fl & ~GENMASK_ULL(21, 0)) && !(fl & (BIT_ULL(15) | BIT_ULL(5) | BIT_ULL(3))) &&
			(fl & X86_FLAGS_FIXED), GUEST_RFLAGS_RESERVED);
	REQUIRE(!(fl & X86_FLAGS_VM) || (!ia32e && (v->GUEST_CR0 & X86_CR0_PE)), GUEST_RFLAGS_VM);
	if ((info & INTR_INFO_VALID_MASK) && !FIELD_GET(INTR_INFO_INTR_TYPE_MASK, info))
		REQUIRE(fl & X86_FLAGS_IF, GUEST_RFLAGS_IF);
}

static void check_interruptibility(const struct vmcs *v, struct vmentry_failures *f)
{
	uint64_t state = v->GUEST_INTERRUPTIBILITY_INFO, info = v->VM_ENTRY_INTR_INFO_FIELD;
	bool sti = state & GUEST_INTR_STATE_STI, mov_ss = state & GUEST_INTR_STATE_MOV_SS;
	bool valid = info & INTR_INFO_VALID_MASK;
	uint64_t type = FIELD_GET(INTR_INFO_INTR_TYPE_MASK, info);

	REQUIRE(!(state & GENMASK_ULL(31, 4)), GUEST_INT_RESERVED);
	REQUIRE(!(sti && mov_ss), GUEST_INT_BOTH);
	REQUIRE(!sti || (v->GUEST_RFLAGS & X86_FLAGS_IF), GUEST_INT_STI);
	REQUIRE(!(valid && type == INTR_TYPE_EXT_INTR && (sti || mov_ss)),
		GUEST_INT_INTERRUPT);
	REQUIRE(!(valid && type == INTR_TYPE_NMI_INTR && mov_ss), GUEST_INT_NMI);
	REQUIRE(!(state & GUEST_INTR_STATE_SMI), GUEST_INT_SMI);
	REQUIRE(!(valid && type == INTR_TYPE_NMI_INTR && (state & GUEST_INTR_STATE_NMI) &&
		  (v->PIN_BASED_VM_EXEC_CONTROL & PIN_BASED_VIRTUAL_NMIS)),
		GUEST_INT_VIRTUAL_NMI);
}

static void check_activity(const struct vmcs *v, struct vmentry_failures *f)
{
	uint64_t activity = v->GUEST_ACTIVITY_STATE, info = v->VM_ENTRY_INTR_INFO_FIELD;
	uint64_t type = FIELD_GET(INTR_INFO_INTR_TYPE_MASK, info);
	uint64_t vector = info & INTR_INFO_VECTOR_MASK;

	REQUIRE(activity <= GUEST_ACTIVITY_HLT, GUEST_ACTIVITY);
	if (activity != GUEST_ACTIVITY_HLT)
		return;
	REQUIRE(dpl(SEG(v, SS)) == 0, GUEST_HLT_DPL);
	REQUIRE(!(v->GUEST_INTERRUPTIBILITY_INFO & (GUEST_INTR_STATE_STI | GUEST_INTR_STATE_MOV_SS)),
		GUEST_HLT_SHADOW);
	if (info & INTR_INFO_VALID_MASK)
		REQUIRE(type == INTR_TYPE_EXT_INTR || type == INTR_TYPE_NMI_INTR ||
				(type == INTR_TYPE_HARD_EXCEPTION &&
				 (vector == X86_TRAP_DB || vector == X86_TRAP_MC)) ||
				(type == INTR_TYPE_OTHER_EVENT && vector == 0),
			GUEST_HLT_EVENT);
}

#define PENDING_DBG_RESERVED (~(0xfULL | BIT_ULL(12) | DR6_BS | BIT_ULL(16)))

static void check_pending_debug(const struct vmcs *v, struct vmentry_failures *f)
{
	uint64_t p = v->GUEST_PENDING_DBG_EXCEPTIONS;
	bool shadow = v->GUEST_INTERRUPTIBILITY_INFO &
		      (GUEST_INTR_STATE_STI | GUEST_INTR_STATE_MOV_SS);
	bool step = (v->GUEST_RFLAGS & X86_FLAGS_TF) && !(v->GUEST_IA32_DEBUGCTL & 2);

	REQUIRE(!(p & PENDING_DBG_RESERVED), GUEST_DBG_RESERVED);
	if (shadow || v->GUEST_ACTIVITY_STATE == GUEST_ACTIVITY_HLT)
		REQUIRE(!!(p & DR6_BS) == step, GUEST_DBG_SINGLE_STEP);
}

#define PDPTE_RESERVED (GENMASK_ULL(2, 1) | GENMASK_ULL(8, 5) | GENMASK_ULL(63, 52))

static void check_pdptrs(const struct vmcs *v, struct vmentry_failures *f)
{
	uint64_t pdpte[4] = { v->GUEST_PDPTR0, v->GUEST_PDPTR1, v->GUEST_PDPTR2,
			      v->GUEST_PDPTR3 };
	bool pae = (v->GUEST_CR0 & X86_CR0_PG) && (v->GUEST_CR4 & X86_CR4_PAE) &&
		   !(v->VM_ENTRY_CONTROLS & VM_ENTRY_IA32E_MODE);
	bool bad = false;

	if (!pae)
		return;
	for (int n = 0; n < 4; n++) {
		if (!(secondary_of(v) & SECONDARY_EXEC_ENABLE_EPT))
			pdpte[n] = ((const uint64_t *)__va(v->GUEST_CR3 & 0xffffffe0))[n];
		bad |= (pdpte[n] & PTE_P) && (pdpte[n] & PDPTE_RESERVED);
	}
	REQUIRE(!bad, GUEST_PDPTES);
}

static void check_tables(const struct vmcs *v, struct vmentry_failures *f)
{
	REQUIRE_OF(GUEST_GDTR_LIMIT, !(v->GUEST_GDTR_LIMIT >> 16), GUEST_TABLE_LIMIT);
	REQUIRE_OF(GUEST_IDTR_LIMIT, !(v->GUEST_IDTR_LIMIT >> 16), GUEST_TABLE_LIMIT);
	REQUIRE_OF(GUEST_GDTR_BASE, canonical(v->GUEST_GDTR_BASE), GUEST_TABLE_BASE);
	REQUIRE_OF(GUEST_IDTR_BASE, canonical(v->GUEST_IDTR_BASE), GUEST_TABLE_BASE);
}

void cpu_check_guest_registers(const struct vmcs *v, struct vmentry_failures *f)
{
	check_guest_control_registers(v, f);
	check_guest_segments(v, f);
	check_tables(v, f);
}

static void check_link_pointer(const struct vmcs *v, struct vmentry_failures *f)
{
	uint64_t pa = v->VMCS_LINK_POINTER;

	if (pa == ~0ULL)
		return;
	if (!(secondary_of(v) & SECONDARY_EXEC_SHADOW_VMCS)) {
		REQUIRE(false, GUEST_LINK_NONE);
		return;
	}
	REQUIRE(page_ok(pa), GUEST_LINK_ALIGNED);
	if (page_ok(pa))
		REQUIRE(*(const uint32_t *)__va(pa) == (VMCS_REVISION_ID | VMCS_REVISION_SHADOW), GUEST_LINK_REVISION);
}

void cpu_check_guest_state(const struct vmcs *v, struct vmentry_failures *f)
{
	bool injects = v->VM_ENTRY_INTR_INFO_FIELD & INTR_INFO_VALID_MASK;

	check_rip_rflags(v, f);
	/* all zero is valid, and what most entries have */
	if (unlikely(injects ||
		     (v->GUEST_ACTIVITY_STATE | v->GUEST_INTERRUPTIBILITY_INFO | v->GUEST_PENDING_DBG_EXCEPTIONS))) {
		check_activity(v, f);
		check_interruptibility(v, f);
		check_pending_debug(v, f);
	}
	check_link_pointer(v, f);
	/* without EPT they are in memory, where CR3 says */
	if (!f->nr)
		check_pdptrs(v, f);
}
