/*
 * The checks of VM entry (SDM Vol. 3, "VM Entries": "Checks on VMX Controls",
 * "Checks on Host-State Area", "Checks on Guest State"), one line each with
 * its reason. NULL: all passed; otherwise the reason, for the log.
 *
 * No state is changed here; the VMCS is all that is looked at, except PDPTEs
 * and MSR areas in memory.
 */
#include "cpu/system.h"
#include "host/memory.h"
#include "sdm/ept.h"
#include "sdm/paging.h"

#define REQUIRE(cond, why)          \
	do {                        \
		if (!(cond))        \
			return why; \
	} while (0)

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

const char *cpu_check_eptp(uint64_t eptp)
{
	uint64_t type = eptp & EPTP_MEMTYPE_MASK, walk = FIELD_GET(EPTP_WALK_MASK, eptp);

	REQUIRE(type == MT_UNCACHEABLE || type == MT_WRBACK, "EPTP: memory type");
	REQUIRE(walk == 3 || walk == 4, "EPTP: page-walk length");
	REQUIRE(!(eptp & ~(EPTP_ROOT_MASK | EPTP_AD_ENABLE | EPTP_WALK_MASK | EPTP_MEMTYPE_MASK)),
		"EPTP: reserved bits");
	return NULL;
}

static const char *check_execution_controls(const struct vmcs *v)
{
	uint32_t pin = (uint32_t)v->PIN_BASED_VM_EXEC_CONTROL;
	uint32_t primary = (uint32_t)v->CPU_BASED_VM_EXEC_CONTROL;
	uint32_t secondary = secondary_of(v);
	const char *why;

	REQUIRE(cpu_control_allowed(MSR_IA32_VMX_TRUE_PINBASED_CTLS, pin), "pin-based controls");
	REQUIRE(cpu_control_allowed(MSR_IA32_VMX_TRUE_PROCBASED_CTLS, primary),
		"primary processor-based controls");
	REQUIRE(cpu_control_allowed(MSR_IA32_VMX_PROCBASED_CTLS2, secondary),
		"secondary processor-based controls");
	REQUIRE(v->CR3_TARGET_COUNT <= 4, "CR3-target count");
	if (primary & CPU_BASED_USE_IO_BITMAPS)
		REQUIRE(page_ok(v->IO_BITMAP_A) && page_ok(v->IO_BITMAP_B), "I/O bitmap address");
	if (primary & CPU_BASED_USE_MSR_BITMAPS)
		REQUIRE(page_ok(v->MSR_BITMAP), "MSR bitmap address");
	REQUIRE((pin & PIN_BASED_NMI_EXITING) || !(pin & PIN_BASED_VIRTUAL_NMIS),
		"virtual NMIs without NMI exiting");
	REQUIRE((pin & PIN_BASED_VIRTUAL_NMIS) || !(primary & CPU_BASED_NMI_WINDOW_EXITING),
		"NMI-window exiting without virtual NMIs");
	why = cpu_check_apic_controls(v);
	if (why)
		return why;
	if (secondary & SECONDARY_EXEC_ENABLE_VPID)
		REQUIRE(v->VIRTUAL_PROCESSOR_ID, "VPID 0");
	if (secondary & SECONDARY_EXEC_UNRESTRICTED_GUEST)
		REQUIRE(secondary & SECONDARY_EXEC_ENABLE_EPT, "unrestricted guest without EPT");
	if (secondary & SECONDARY_EXEC_ENABLE_PML)
		REQUIRE((secondary & SECONDARY_EXEC_ENABLE_EPT) && page_ok(v->PML_ADDRESS),
			"page-modification log without EPT, or its address");
	if (secondary & SECONDARY_EXEC_ENABLE_EPT)
		return cpu_check_eptp(v->EPT_POINTER);
	return NULL;
}

static const char *check_msr_area(uint64_t addr, uint64_t count)
{
	if (!count)
		return NULL;
	REQUIRE(IS_ALIGNED(addr, 16ULL), "MSR area: alignment");
	REQUIRE(!((addr + count * 16 - 1) >> VMX_HOST_MAXPHYADDR), "MSR area: address");
	return NULL;
}

static const char *check_exit_entry_controls(const struct vmcs *v)
{
	const char *why;

	REQUIRE(cpu_control_allowed(MSR_IA32_VMX_TRUE_EXIT_CTLS, (uint32_t)v->VM_EXIT_CONTROLS),
		"VM-exit controls");
	REQUIRE((v->PIN_BASED_VM_EXEC_CONTROL & PIN_BASED_VMX_PREEMPTION_TIMER) ||
			!(v->VM_EXIT_CONTROLS & VM_EXIT_SAVE_VMX_PREEMPTION_TIMER),
		"saving a preemption timer that is off");
	REQUIRE(cpu_control_allowed(MSR_IA32_VMX_TRUE_ENTRY_CTLS, (uint32_t)v->VM_ENTRY_CONTROLS),
		"VM-entry controls");
	why = check_msr_area(v->VM_EXIT_MSR_STORE_ADDR, v->VM_EXIT_MSR_STORE_COUNT);
	if (!why)
		why = check_msr_area(v->VM_EXIT_MSR_LOAD_ADDR, v->VM_EXIT_MSR_LOAD_COUNT);
	if (!why)
		why = check_msr_area(v->VM_ENTRY_MSR_LOAD_ADDR, v->VM_ENTRY_MSR_LOAD_COUNT);
	return why;
}

/* Exceptions that push an error code. */
#define ERROR_CODE_VECTORS                                                                   \
	(BIT_ULL(X86_TRAP_DF) | BIT_ULL(X86_TRAP_TS) | BIT_ULL(X86_TRAP_NP) |                \
	 BIT_ULL(X86_TRAP_SS) | BIT_ULL(X86_TRAP_GP) | BIT_ULL(X86_TRAP_PF) |                \
	 BIT_ULL(X86_TRAP_AC))

const char *cpu_check_injection(const struct vmcs *v)
{
	uint64_t info = v->VM_ENTRY_INTR_INFO_FIELD;
	uint64_t vector = info & INTR_INFO_VECTOR_MASK;
	uint64_t type = FIELD_GET(INTR_INFO_INTR_TYPE_MASK, info);
	bool unrestricted = secondary_of(v) & SECONDARY_EXEC_UNRESTRICTED_GUEST;
	bool protected_mode = !unrestricted || (v->GUEST_CR0 & X86_CR0_PE);
	bool error_code = type == INTR_TYPE_HARD_EXCEPTION && protected_mode && vector < 32 &&
			  (ERROR_CODE_VECTORS & BIT_ULL(vector));

	if (!(info & INTR_INFO_VALID_MASK))
		return NULL;
	REQUIRE(type != 1, "injection: reserved type");
	REQUIRE(type != INTR_TYPE_NMI_INTR || vector == X86_TRAP_NMI, "injection: NMI vector");
	REQUIRE(type != INTR_TYPE_HARD_EXCEPTION || vector < 32, "injection: exception vector");
	REQUIRE(type != INTR_TYPE_OTHER_EVENT || vector == 0, "injection: other event");
	REQUIRE(!!(info & INTR_INFO_DELIVER_CODE_MASK) == error_code, "injection: error code flag");
	REQUIRE(!(info & GENMASK_ULL(30, 12)), "injection: reserved bits");
	if (error_code)
		REQUIRE(!(v->VM_ENTRY_EXCEPTION_ERROR_CODE & GENMASK_ULL(31, 16)),
			"injection: error code");
	if (type >= INTR_TYPE_SOFT_INTR && type <= INTR_TYPE_SOFT_EXCEPTION)
		REQUIRE(v->VM_ENTRY_INSTRUCTION_LEN <= 15, "injection: instruction length");
	return NULL;
}

const char *cpu_check_controls(const struct vmcs *v)
{
	const char *why = check_execution_controls(v);

	return why ? why : check_exit_entry_controls(v);
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

const char *cpu_check_host_state(const struct vmcs *v)
{
	REQUIRE(cr0_fixed_ok(v->HOST_CR0, 0), "CR0");
	REQUIRE(cr4_fixed_ok(v->HOST_CR4), "CR4");
	REQUIRE(!(v->HOST_CR3 >> VMX_HOST_MAXPHYADDR), "CR3");
	REQUIRE(canonical(v->HOST_IA32_SYSENTER_ESP) && canonical(v->HOST_IA32_SYSENTER_EIP),
		"SYSENTER MSRs");
	if (v->VM_EXIT_CONTROLS & VM_EXIT_LOAD_IA32_PAT)
		REQUIRE(pat_ok(v->HOST_IA32_PAT), "PAT");
	if (v->VM_EXIT_CONTROLS & VM_EXIT_LOAD_IA32_EFER)
		REQUIRE(!(v->HOST_IA32_EFER & EFER_RESERVED) &&
				(v->HOST_IA32_EFER & EFER_LMA) && (v->HOST_IA32_EFER & EFER_LME),
			"EFER");
	REQUIRE(!((v->HOST_CS_SELECTOR | v->HOST_SS_SELECTOR | v->HOST_DS_SELECTOR |
		   v->HOST_ES_SELECTOR | v->HOST_FS_SELECTOR | v->HOST_GS_SELECTOR |
		   v->HOST_TR_SELECTOR) & 7), "selector RPL or TI");
	REQUIRE(v->HOST_CS_SELECTOR, "CS selector 0");
	REQUIRE(v->HOST_TR_SELECTOR, "TR selector 0");
	REQUIRE(canonical(v->HOST_FS_BASE) && canonical(v->HOST_GS_BASE) &&
			canonical(v->HOST_GDTR_BASE) && canonical(v->HOST_IDTR_BASE) &&
			canonical(v->HOST_TR_BASE), "base address");
	REQUIRE(v->VM_EXIT_CONTROLS & VM_EXIT_HOST_ADDR_SPACE_SIZE, "host address-space size");
	REQUIRE(v->HOST_CR4 & X86_CR4_PAE, "CR4.PAE of a 64-bit host");
	REQUIRE(canonical(v->HOST_RIP), "RIP");
	return NULL;
}

/* --- guest state: exit reason 33 --- */

static const char *check_guest_control_registers(const struct vmcs *v)
{
	bool unrestricted = secondary_of(v) & SECONDARY_EXEC_UNRESTRICTED_GUEST;
	bool ia32e = v->VM_ENTRY_CONTROLS & VM_ENTRY_IA32E_MODE;
	bool pg = v->GUEST_CR0 & X86_CR0_PG;

	REQUIRE(cr0_fixed_ok(v->GUEST_CR0, unrestricted ? X86_CR0_PE | X86_CR0_PG : 0), "CR0");
	REQUIRE(!pg || (v->GUEST_CR0 & X86_CR0_PE), "CR0.PG without PE");
	REQUIRE(cr4_fixed_ok(v->GUEST_CR4), "CR4");
	REQUIRE(!ia32e || (pg && (v->GUEST_CR4 & X86_CR4_PAE)), "IA-32e mode without PG or PAE");
	REQUIRE(ia32e || !(v->GUEST_CR4 & X86_CR4_PCIDE), "CR4.PCIDE outside IA-32e mode");
	REQUIRE(!(v->GUEST_CR3 >> VMX_HOST_MAXPHYADDR), "CR3");
	REQUIRE(canonical(v->GUEST_SYSENTER_ESP) && canonical(v->GUEST_SYSENTER_EIP),
		"SYSENTER MSRs");
	if (v->VM_ENTRY_CONTROLS & VM_ENTRY_LOAD_DEBUG_CONTROLS)
		REQUIRE(!(v->GUEST_DR7 >> 32), "DR7");
	if (v->VM_ENTRY_CONTROLS & VM_ENTRY_LOAD_IA32_PAT)
		REQUIRE(pat_ok(v->GUEST_IA32_PAT), "PAT");
	if (v->VM_ENTRY_CONTROLS & VM_ENTRY_LOAD_IA32_EFER) {
		uint64_t efer = v->GUEST_IA32_EFER;

		REQUIRE(!(efer & EFER_RESERVED), "EFER: reserved bits");
		REQUIRE(!!(efer & EFER_LMA) == ia32e, "EFER.LMA differs from IA-32e mode");
		REQUIRE(!pg || !!(efer & EFER_LMA) == !!(efer & EFER_LME), "EFER.LMA without LME");
	}
	return NULL;
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

static const char *check_v86_segment(struct seg s)
{
	REQUIRE(s.base == s.selector << 4, "virtual-8086 segment base");
	REQUIRE(s.limit == 0xffff, "virtual-8086 segment limit");
	REQUIRE(s.ar == 0xf3, "virtual-8086 access rights");
	return NULL;
}

static const char *check_cs(const struct vmcs *v, bool unrestricted)
{
	struct seg s = SEG(v, CS);
	unsigned ss_dpl = dpl(SEG(v, SS)), type = type_of(s);
	bool ia32e = v->VM_ENTRY_CONTROLS & VM_ENTRY_IA32E_MODE;

	REQUIRE(type == 9 || type == 11 || type == 13 || type == 15 || (type == 3 && unrestricted),
		"CS: type");
	REQUIRE(s.ar & VMX_AR_S, "CS: system segment");
	REQUIRE(type != 3 || dpl(s) == 0, "CS: DPL of a data segment");
	REQUIRE(!(type == 9 || type == 11) || dpl(s) == ss_dpl, "CS: DPL differs from SS.DPL");
	REQUIRE(!(type == 13 || type == 15) || dpl(s) <= ss_dpl, "CS: DPL over SS.DPL");
	REQUIRE(s.ar & VMX_AR_P, "CS: not present");
	REQUIRE(!(s.ar & VMX_AR_RESERVED), "CS: reserved bits");
	REQUIRE(!(ia32e && (s.ar & VMX_AR_L) && (s.ar & VMX_AR_DB)), "CS: both L and D");
	REQUIRE(granularity_ok(s), "CS: granularity");
	REQUIRE(!(s.base >> 32), "CS: base");
	return NULL;
}

static const char *check_ss(const struct vmcs *v, bool unrestricted)
{
	struct seg s = SEG(v, SS);
	unsigned cs_type = type_of(SEG(v, CS));

	if (!unrestricted)
		REQUIRE((v->GUEST_SS_SELECTOR & 3) == (v->GUEST_CS_SELECTOR & 3), "SS: RPL");
	if (!unrestricted)
		REQUIRE(dpl(s) == (s.selector & 3), "SS: DPL differs from RPL");
	REQUIRE(!(cs_type == 3 || !(v->GUEST_CR0 & X86_CR0_PE)) || dpl(s) == 0,
		"SS: DPL in real mode");
	if (!usable(s))
		return NULL;
	REQUIRE(type_of(s) == 3 || type_of(s) == 7, "SS: type");
	REQUIRE(s.ar & VMX_AR_S, "SS: system segment");
	REQUIRE(s.ar & VMX_AR_P, "SS: not present");
	REQUIRE(!(s.ar & VMX_AR_RESERVED), "SS: reserved bits");
	REQUIRE(granularity_ok(s), "SS: granularity");
	REQUIRE(!(s.base >> 32), "SS: base");
	return NULL;
}

static const char *check_data_segment(struct seg s, bool unrestricted, bool wide_base)
{
	unsigned type = type_of(s);

	REQUIRE(!wide_base || canonical(s.base), "data segment: base not canonical");
	if (!usable(s))
		return NULL;
	REQUIRE(wide_base || !(s.base >> 32), "data segment: base");
	REQUIRE(type & 1, "data segment: not accessed");
	REQUIRE(!(type & 8) || (type & 2), "data segment: code that cannot be read");
	REQUIRE(s.ar & VMX_AR_S, "data segment: system segment");
	REQUIRE(unrestricted || type >= 12 || dpl(s) >= (s.selector & 3), "data segment: DPL");
	REQUIRE(s.ar & VMX_AR_P, "data segment: not present");
	REQUIRE(!(s.ar & VMX_AR_RESERVED), "data segment: reserved bits");
	REQUIRE(granularity_ok(s), "data segment: granularity");
	return NULL;
}

static const char *check_tr_ldtr(const struct vmcs *v)
{
	bool ia32e = v->VM_ENTRY_CONTROLS & VM_ENTRY_IA32E_MODE;
	struct seg tr = SEG(v, TR), ldtr = SEG(v, LDTR);

	REQUIRE(!(tr.selector & 4), "TR: in the LDT");
	REQUIRE(canonical(tr.base), "TR: base");
	REQUIRE(type_of(tr) == 11 || (type_of(tr) == 3 && !ia32e), "TR: type");
	REQUIRE(!(tr.ar & VMX_AR_S), "TR: not a system segment");
	REQUIRE(tr.ar & VMX_AR_P, "TR: not present");
	REQUIRE(usable(tr) && !(tr.ar & VMX_AR_RESERVED), "TR: reserved bits");
	REQUIRE(granularity_ok(tr), "TR: granularity");
	if (!usable(ldtr))
		return NULL;
	REQUIRE(!(ldtr.selector & 4), "LDTR: in the LDT");
	REQUIRE(canonical(ldtr.base), "LDTR: base");
	REQUIRE(type_of(ldtr) == 2, "LDTR: type");
	REQUIRE(!(ldtr.ar & VMX_AR_S), "LDTR: not a system segment");
	REQUIRE(ldtr.ar & VMX_AR_P, "LDTR: not present");
	REQUIRE(!(ldtr.ar & VMX_AR_RESERVED), "LDTR: reserved bits");
	REQUIRE(granularity_ok(ldtr), "LDTR: granularity");
	return NULL;
}

static const char *check_guest_segments(const struct vmcs *v)
{
	bool unrestricted = secondary_of(v) & SECONDARY_EXEC_UNRESTRICTED_GUEST;
	const char *why = check_tr_ldtr(v);

	if (v->GUEST_RFLAGS & X86_FLAGS_VM) {
		const struct seg all[] = { SEG(v, CS), SEG(v, SS), SEG(v, DS),
					   SEG(v, ES), SEG(v, FS), SEG(v, GS) };

		for (size_t n = 0; !why && n < ARRAY_SIZE(all); n++)
			why = check_v86_segment(all[n]);
		return why;
	}
	if (!why)
		why = check_cs(v, unrestricted);
	if (!why)
		why = check_ss(v, unrestricted);
	if (!why)
		why = check_data_segment(SEG(v, DS), unrestricted, false);
	if (!why)
		why = check_data_segment(SEG(v, ES), unrestricted, false);
	if (!why)
		why = check_data_segment(SEG(v, FS), unrestricted, true);
	if (!why)
		why = check_data_segment(SEG(v, GS), unrestricted, true);
	return why;
}

static const char *check_rip_rflags(const struct vmcs *v)
{
	bool ia32e = v->VM_ENTRY_CONTROLS & VM_ENTRY_IA32E_MODE;
	bool code64 = ia32e && (v->GUEST_CS_AR_BYTES & VMX_AR_L);
	uint64_t fl = v->GUEST_RFLAGS;
	uint64_t info = v->VM_ENTRY_INTR_INFO_FIELD;

	REQUIRE(!(v->GUEST_GDTR_LIMIT >> 16) && !(v->GUEST_IDTR_LIMIT >> 16), "GDTR or IDTR limit");
	REQUIRE(canonical(v->GUEST_GDTR_BASE) && canonical(v->GUEST_IDTR_BASE),
		"GDTR or IDTR base");
	/* bits 63:48 identical, which is less than canonical: the fetch at 2^47 raises #GP in the guest */
	REQUIRE(code64 ? (uint64_t)((int64_t)(v->GUEST_RIP << 15) >> 15) == v->GUEST_RIP : !(v->GUEST_RIP >> 32),
		"RIP");
	REQUIRE(!(fl & ~GENMASK_ULL(21, 0)) && !(fl & (BIT_ULL(15) | BIT_ULL(5) | BIT_ULL(3))) &&
			(fl & X86_FLAGS_FIXED), "RFLAGS: reserved bits");
	REQUIRE(!(fl & X86_FLAGS_VM) || (!ia32e && (v->GUEST_CR0 & X86_CR0_PE)), "RFLAGS.VM");
	if ((info & INTR_INFO_VALID_MASK) && !FIELD_GET(INTR_INFO_INTR_TYPE_MASK, info))
		REQUIRE(fl & X86_FLAGS_IF, "interrupt injected with IF = 0");
	return NULL;
}

static const char *check_interruptibility(const struct vmcs *v)
{
	uint64_t state = v->GUEST_INTERRUPTIBILITY_INFO, info = v->VM_ENTRY_INTR_INFO_FIELD;
	bool sti = state & GUEST_INTR_STATE_STI, mov_ss = state & GUEST_INTR_STATE_MOV_SS;
	bool valid = info & INTR_INFO_VALID_MASK;
	uint64_t type = FIELD_GET(INTR_INFO_INTR_TYPE_MASK, info);

	REQUIRE(!(state & GENMASK_ULL(31, 4)), "interruptibility: reserved bits");
	REQUIRE(!(sti && mov_ss), "blocking by STI and by MOV SS");
	REQUIRE(!sti || (v->GUEST_RFLAGS & X86_FLAGS_IF), "blocking by STI with IF = 0");
	REQUIRE(!(valid && type == INTR_TYPE_EXT_INTR && (sti || mov_ss)),
		"interrupt injected into a shadow");
	REQUIRE(!(valid && type == INTR_TYPE_NMI_INTR && mov_ss), "NMI injected into a shadow");
	REQUIRE(!(state & GUEST_INTR_STATE_SMI), "blocking by SMI outside SMM");
	REQUIRE(!(valid && type == INTR_TYPE_NMI_INTR && (state & GUEST_INTR_STATE_NMI) &&
		  (v->PIN_BASED_VM_EXEC_CONTROL & PIN_BASED_VIRTUAL_NMIS)),
		"NMI injected while virtual NMIs are blocked");
	return NULL;
}

static const char *check_activity(const struct vmcs *v)
{
	uint64_t activity = v->GUEST_ACTIVITY_STATE, info = v->VM_ENTRY_INTR_INFO_FIELD;
	uint64_t type = FIELD_GET(INTR_INFO_INTR_TYPE_MASK, info);
	uint64_t vector = info & INTR_INFO_VECTOR_MASK;

	REQUIRE(activity <= GUEST_ACTIVITY_HLT, "activity state");
	if (activity != GUEST_ACTIVITY_HLT)
		return NULL;
	REQUIRE(dpl(SEG(v, SS)) == 0, "HLT at CPL over 0");
	REQUIRE(!(v->GUEST_INTERRUPTIBILITY_INFO & (GUEST_INTR_STATE_STI | GUEST_INTR_STATE_MOV_SS)),
		"HLT in a shadow");
	if (info & INTR_INFO_VALID_MASK)
		REQUIRE(type == INTR_TYPE_EXT_INTR || type == INTR_TYPE_NMI_INTR ||
				(type == INTR_TYPE_HARD_EXCEPTION &&
				 (vector == X86_TRAP_DB || vector == X86_TRAP_MC)) ||
				(type == INTR_TYPE_OTHER_EVENT && vector == 0),
			"event that cannot be injected into HLT");
	return NULL;
}

#define PENDING_DBG_RESERVED (~(0xfULL | BIT_ULL(12) | DR6_BS | BIT_ULL(16)))

static const char *check_pending_debug(const struct vmcs *v)
{
	uint64_t p = v->GUEST_PENDING_DBG_EXCEPTIONS;
	bool shadow = v->GUEST_INTERRUPTIBILITY_INFO &
		      (GUEST_INTR_STATE_STI | GUEST_INTR_STATE_MOV_SS);
	bool step = (v->GUEST_RFLAGS & X86_FLAGS_TF) && !(v->GUEST_IA32_DEBUGCTL & 2);

	REQUIRE(!(p & PENDING_DBG_RESERVED), "pending debug exceptions: reserved bits");
	if (shadow || v->GUEST_ACTIVITY_STATE == GUEST_ACTIVITY_HLT)
		REQUIRE(!!(p & DR6_BS) == step, "pending debug exceptions: BS and TF");
	return NULL;
}

#define PDPTE_RESERVED (GENMASK_ULL(2, 1) | GENMASK_ULL(8, 5) | GENMASK_ULL(63, 52))

static const char *check_pdptrs(const struct vmcs *v)
{
	uint64_t pdpte[4] = { v->GUEST_PDPTR0, v->GUEST_PDPTR1, v->GUEST_PDPTR2,
			      v->GUEST_PDPTR3 };
	bool pae = (v->GUEST_CR0 & X86_CR0_PG) && (v->GUEST_CR4 & X86_CR4_PAE) &&
		   !(v->VM_ENTRY_CONTROLS & VM_ENTRY_IA32E_MODE);

	if (!pae)
		return NULL;
	for (int n = 0; n < 4; n++) {
		if (!(secondary_of(v) & SECONDARY_EXEC_ENABLE_EPT))
			pdpte[n] = ((const uint64_t *)__va(v->GUEST_CR3 & 0xffffffe0))[n];
		REQUIRE(!(pdpte[n] & PTE_P) || !(pdpte[n] & PDPTE_RESERVED), "PDPTE");
	}
	return NULL;
}

const char *cpu_check_guest_registers(const struct vmcs *v)
{
	const char *why = check_guest_control_registers(v);

	return why ? why : check_guest_segments(v);
}

/* Exit qualifications of reason 33 (SDM "VM-Entry Failures During or After …"). */
enum { QUAL_NONE = 0, QUAL_PDPTE = 2, QUAL_NMI = 3, QUAL_LINK_POINTER = 4 };

const char *cpu_check_guest_state(const struct vmcs *v, uint64_t *qualification)
{
	static const char *(*const checks[])(const struct vmcs *v) = {
		check_rip_rflags, check_activity, check_interruptibility, check_pending_debug,
	};
	const char *why;

	*qualification = QUAL_NONE;
	for (size_t n = 0; n < ARRAY_SIZE(checks); n++) {
		why = checks[n](v);
		if (why)
			return why;
	}
	if (v->VMCS_LINK_POINTER != ~0ULL) {
		*qualification = QUAL_LINK_POINTER;
		return "VMCS link pointer";
	}
	why = check_pdptrs(v);
	if (why)
		*qualification = QUAL_PDPTE;
	return why;
}
