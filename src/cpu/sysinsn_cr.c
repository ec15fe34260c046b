/*
 * Control and debug registers: MOV CR, CLTS, LMSW, SMSW, MOV DR, XSETBV.
 *
 * In non-root operation a bit set in the guest/host mask belongs to the
 * hypervisor: reads see the read shadow, writes that would differ from it
 * exit, and other writes leave the real bit alone. So cs->cr0 and cs->cr4 are
 * the real registers, and guest_cr() is what the guest sees.
 *
 * Source: SDM Vol. 2, MOV—Move to/from Control Registers; Vol. 3, "Changes to
 * Instruction Behavior in VMX Non-Root Operation", "Initializing IA-32e Mode".
 *
 * Locks: none; runs on the vCPU's thread.
 */
#include "cpu/system.h"
#include "sdm/paging.h"

#define CR0_PAE_RELOAD (X86_CR0_PG | X86_CR0_CD | X86_CR0_NW)
#define CR4_PAE_RELOAD (X86_CR4_PSE | X86_CR4_PAE | X86_CR4_PGE | X86_CR4_SMEP)
#define CR4_TLB_FLUSH (X86_CR4_PSE | X86_CR4_PAE | X86_CR4_PGE)
#define CR0_DEFINED                                                             \
	(ISA_CR0_MSW | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP | X86_CR0_AM | X86_CR0_NW | \
	 X86_CR0_CD | X86_CR0_PG)

static uint64_t guest_cr(uint64_t real, uint64_t mask, uint64_t shadow)
{
	return (real & ~mask) | (shadow & mask);
}

static void gp0(struct vmx_cpu *cpu) __attribute__((noreturn));
static void gp0(struct vmx_cpu *cpu)
{
	isa_raise_error(&cpu->cs, X86_TRAP_GP, 0);
}

static void exit_cr(struct vmx_cpu *cpu, unsigned nr, enum cr_access_type type, unsigned reg)
	__attribute__((noreturn));
static void exit_cr(struct vmx_cpu *cpu, unsigned nr, enum cr_access_type type, unsigned reg)
{
	cpu_vmexit_insn(cpu, EXIT_REASON_CR_ACCESS,
			FIELD_PREP(CR_ACCESS_NUM_MASK, nr) | FIELD_PREP(CR_ACCESS_TYPE_MASK, type) |
				FIELD_PREP(CR_ACCESS_REG_MASK, reg));
}

/* Would CR0, CR4 and EFER be those of PAE paging (not IA-32e)? */
static bool pae_paging(const struct vmx_cpu *cpu, uint64_t cr0, uint64_t cr4)
{
	return cr0 & X86_CR0_PG && cr4 & X86_CR4_PAE && !(cpu->cs.efer & EFER_LME);
}

/* --- CR0 --- */

/* EFER.LMA follows CR0.PG while EFER.LME is set. */
static void set_lma(struct vmx_cpu *cpu, bool on)
{
	if (on) {
		cpu->cs.efer |= EFER_LMA;
		cpu->entry_controls |= (uint32_t)VM_ENTRY_IA32E_MODE;
	} else {
		cpu->cs.efer &= ~EFER_LMA;
		cpu->entry_controls &= ~(uint32_t)VM_ENTRY_IA32E_MODE;
	}
}

/* The transition of CR0.PG from `old` to `v`, checked. */
static void check_paging_change(struct vmx_cpu *cpu, uint64_t old, uint64_t v)
{
	struct cpu_state *cs = &cpu->cs;
	uint32_t cs_ar = cs->seg[SREG_CS].ar;

	if (v & X86_CR0_PG) {
		if (old & X86_CR0_PG || !(cs->efer & EFER_LME))
			return;
		if (!(cs->cr4 & X86_CR4_PAE) || cs_ar & VMX_AR_L)
			gp0(cpu);
		/* A 16-bit TSS is no TSS there. */
		if (!(cs->tr.ar & 8))
			gp0(cpu);
	} else if (old & X86_CR0_PG) {
		if (cs->cr4 & X86_CR4_PCIDE || isa_code64(cs))
			gp0(cpu);
	}
}

void cpu_write_cr0(struct vmx_cpu *cpu, uint64_t v)
{
	struct cpu_state *cs = &cpu->cs;
	uint64_t old = cs->cr0, changed;
	bool unrestricted = cpu->secondary & SECONDARY_EXEC_UNRESTRICTED_GUEST;

	if (v >> 32)
		gp0(cpu);
	v = (v & CR0_DEFINED) | X86_CR0_ET;
	if ((v & X86_CR0_PG && !(v & X86_CR0_PE)) || (v & X86_CR0_NW && !(v & X86_CR0_CD)))
		gp0(cpu);
	/* Fixed in VMX operation: NE, and without unrestricted guest PE and PG. */
	if (!(v & X86_CR0_NE) ||
	    (!unrestricted && (v & (X86_CR0_PE | X86_CR0_PG)) != (X86_CR0_PE | X86_CR0_PG)))
		gp0(cpu);
	check_paging_change(cpu, old, v);
	changed = old ^ v;
	if (pae_paging(cpu, v, cs->cr4) && changed & CR0_PAE_RELOAD &&
	    !cpu_load_pdptrs(cpu, cs->cr3))
		gp0(cpu);

	cs->cr0 = v;
	if (changed & X86_CR0_PG && cs->efer & EFER_LME)
		set_lma(cpu, v & X86_CR0_PG);
	if (changed & (X86_CR0_PG | X86_CR0_PE | X86_CR0_WP)) /* entries carry the write permission */
		cpu_tlb_flush_all(cpu);
	if (changed & (X86_CR0_PG | X86_CR0_PE | X86_CR0_WP | X86_CR0_AM))
		cpu_mode_changed(cpu);
}

static void mov_to_cr0(struct vmx_cpu *cpu, const struct isa_insn *i, uint64_t v)
{
	if ((v ^ cpu->cr0_shadow) & cpu->cr0_mask)
		exit_cr(cpu, 0, CR_ACCESS_MOV_TO, i->dst);
	cpu_write_cr0(cpu, (v & ~cpu->cr0_mask) | (cpu->cs.cr0 & cpu->cr0_mask));
}

/* --- CR3 --- */

static bool is_cr3_target(struct vmx_cpu *cpu, uint64_t v)
{
	static const uint32_t fields[] = { CR3_TARGET_VALUE0, CR3_TARGET_VALUE1,
					   CR3_TARGET_VALUE2, CR3_TARGET_VALUE3 };
	uint64_t count, value;

	if (vmread(cpu, CR3_TARGET_COUNT, &count) != VMX_SUCCEED)
		return false;
	for (unsigned n = 0; n < count && n < ARRAY_SIZE(fields); n++)
		if (vmread(cpu, fields[n], &value) == VMX_SUCCEED && value == v)
			return true;
	return false;
}

static void mov_to_cr3(struct vmx_cpu *cpu, const struct isa_insn *i, uint64_t v)
{
	struct cpu_state *cs = &cpu->cs;
	uint64_t reserved = GENMASK_ULL(63, 52) | cpu->address_reserved, root = v;

	if (cpu->primary & CPU_BASED_CR3_LOAD_EXITING && !is_cr3_target(cpu, v))
		exit_cr(cpu, 3, CR_ACCESS_MOV_TO, i->dst);
	if (cs->cr4 & X86_CR4_PCIDE) {
		reserved &= ~CR3_NOFLUSH;
		root &= ~CR3_NOFLUSH;
	}
	if (isa_ia32e(cs) && v & reserved)
		gp0(cpu);
	if (pae_paging(cpu, cs->cr0, cs->cr4) && !cpu_load_pdptrs(cpu, v))
		gp0(cpu);
	cs->cr3 = root;
	cpu_tlb_flush_cr3(cpu, v);
}

/* --- CR4 --- */

void cpu_write_cr4(struct vmx_cpu *cpu, uint64_t v)
{
	struct cpu_state *cs = &cpu->cs;
	uint64_t old = cs->cr4, changed = old ^ v;
	uint64_t fixed0 = vmx_capability_msr(MSR_IA32_VMX_CR4_FIXED0);
	uint64_t fixed1 = vmx_capability_msr(MSR_IA32_VMX_CR4_FIXED1);

	if (v & ~fixed1 || fixed0 & ~v)
		gp0(cpu);
	if (isa_ia32e(cs) && (!(v & X86_CR4_PAE) || changed & X86_CR4_LA57))
		gp0(cpu);
	if (v & ~old & X86_CR4_PCIDE && (!isa_ia32e(cs) || cs->cr3 & CR3_PCID_MASK))
		gp0(cpu);
	if (pae_paging(cpu, cs->cr0, v) && changed & CR4_PAE_RELOAD) {
		cs->cr4 = v; /* the walk through EPT does not look at it, #GP restores it */
		if (!cpu_load_pdptrs(cpu, cs->cr3)) {
			cs->cr4 = old;
			gp0(cpu);
		}
	}
	cs->cr4 = v;
	if (changed & X86_CR4_DE)
		cpu_debug_update(cpu);
	if (changed & CR4_TLB_FLUSH || old & ~v & X86_CR4_PCIDE || v & ~old & X86_CR4_SMEP)
		cpu_tlb_flush_all(cpu);
	cpu_mode_changed(cpu);
}

static void mov_to_cr4(struct vmx_cpu *cpu, const struct isa_insn *i, uint64_t v)
{
	if ((v ^ cpu->cr4_shadow) & cpu->cr4_mask)
		exit_cr(cpu, 4, CR_ACCESS_MOV_TO, i->dst);
	cpu_write_cr4(cpu, (v & ~cpu->cr4_mask) | (cpu->cs.cr4 & cpu->cr4_mask));
}

/* --- the instructions --- */

void sysinsn_mov_to_cr(struct cpu_state *cs, const struct isa_insn *i)
{
	struct vmx_cpu *cpu = cpu_of(cs);
	uint64_t v = isa_control_operand(cs, i);

	cpu_require_cpl0(cs);
	switch (i->src) {
	case 0:
		mov_to_cr0(cpu, i, v);
		break;
	case 2:
		cs->cr2 = v;
		break;
	case 3:
		mov_to_cr3(cpu, i, v);
		break;
	case 4:
		mov_to_cr4(cpu, i, v);
		break;
	default: /* 8: the decoder lets no other through */
		if (cpu->primary & CPU_BASED_CR8_LOAD_EXITING)
			exit_cr(cpu, 8, CR_ACCESS_MOV_TO, i->dst);
		if (v >> 4)
			gp0(cpu);
		if (cpu->apic.page)
			cpu_apic_write_cr8(cpu, v);
		else
			cs->cr8 = v;
	}
	cpu_next(cs, i);
}

void sysinsn_mov_from_cr(struct cpu_state *cs, const struct isa_insn *i)
{
	struct vmx_cpu *cpu = cpu_of(cs);
	uint64_t v;

	cpu_require_cpl0(cs);
	switch (i->src) {
	case 0:
		v = guest_cr(cs->cr0, cpu->cr0_mask, cpu->cr0_shadow);
		break;
	case 2:
		v = cs->cr2;
		break;
	case 3:
		if (cpu->primary & CPU_BASED_CR3_STORE_EXITING)
			exit_cr(cpu, 3, CR_ACCESS_MOV_FROM, i->dst);
		v = cs->cr3;
		break;
	case 4:
		v = guest_cr(cs->cr4, cpu->cr4_mask, cpu->cr4_shadow);
		break;
	default:
		if (cpu->primary & CPU_BASED_CR8_STORE_EXITING)
			exit_cr(cpu, 8, CR_ACCESS_MOV_FROM, i->dst);
		v = cpu->apic.page ? cpu_apic_read_cr8(cpu) : cs->cr8;
	}
	isa_set_control_operand(cs, i, v);
}

void sysinsn_clts(struct cpu_state *cs, const struct isa_insn *i)
{
	struct vmx_cpu *cpu = cpu_of(cs);

	cpu_require_cpl0(cs);
	if (cpu->cr0_mask & X86_CR0_TS) {
		if (cpu->cr0_shadow & X86_CR0_TS)
			exit_cr(cpu, 0, CR_ACCESS_CLTS, 0);
	} else {
		cs->cr0 &= ~X86_CR0_TS;
	}
	cpu_next(cs, i);
}

static void exit_lmsw(struct vmx_cpu *cpu, const struct isa_insn *i, uint64_t v)
{
	struct cpu_exit e = {
		.reason = EXIT_REASON_CR_ACCESS,
		.insn_len = i->len,
		.rip = isa_rip(&cpu->cs),
	};

	e.qualification = FIELD_PREP(CR_ACCESS_TYPE_MASK, CR_ACCESS_LMSW) |
			  FIELD_PREP(CR_ACCESS_LMSW_DATA_MASK, v);
	if (i->flags & ISA_MEM) {
		e.qualification |= CR_ACCESS_LMSW_MEM;
		e.gla = isa_linear(&cpu->cs, i->seg, isa_ea(&cpu->cs, i), 2, ISA_READ);
	}
	cpu_vmexit(cpu, &e);
}

void sysinsn_lmsw(struct cpu_state *cs, const struct isa_insn *i)
{
	struct vmx_cpu *cpu = cpu_of(cs);
	uint64_t differs;
	uint16_t v;

	cpu_require_cpl0(cs);
	v = (uint16_t)isa_system_read_rm(cs, i, 2);
	differs = (v ^ cpu->cr0_shadow) & cpu->cr0_mask & ISA_CR0_MSW;
	if (!(v & X86_CR0_PE)) /* LMSW cannot clear PE: no attempt, no exit */
		differs &= ~X86_CR0_PE;
	if (differs)
		exit_lmsw(cpu, i, v);
	cpu_write_cr0(cpu, (isa_lmsw(cs->cr0, v) & ~cpu->cr0_mask) | (cs->cr0 & cpu->cr0_mask));
	cpu_next(cs, i);
}

void sysinsn_smsw(struct cpu_state *cs, const struct isa_insn *i)
{
	struct vmx_cpu *cpu = cpu_of(cs);

	if (isa_umip_forbids(cs))
		gp0(cpu);
	isa_store_word(cs, i, guest_cr(cs->cr0, cpu->cr0_mask, cpu->cr0_shadow));
}

void sysinsn_xsetbv(struct cpu_state *cs, const struct isa_insn *i)
{
	if (!(cs->cr4 & X86_CR4_OSXSAVE))
		isa_raise(cs, X86_TRAP_UD);
	cpu_require_cpl0(cs);
	cpu_vmexit_insn(cpu_of(cs), EXIT_REASON_XSETBV, 0); /* always */
}

/* --- debug registers --- */

/* The exit comes before every check. */
static unsigned check_dr(struct cpu_state *cs, const struct isa_insn *i, uint64_t direction)
{
	struct vmx_cpu *cpu = cpu_of(cs);

	if (cpu->primary & CPU_BASED_MOV_DR_EXITING)
		cpu_vmexit_insn(cpu, EXIT_REASON_DR_ACCESS,
				FIELD_PREP(DR_ACCESS_NUM_MASK, i->src) | direction |
					FIELD_PREP(DR_ACCESS_REG_MASK, i->dst));
	return isa_debug_register(cs, i);
}

void sysinsn_mov_from_dr(struct cpu_state *cs, const struct isa_insn *i)
{
	unsigned nr = check_dr(cs, i, DR_ACCESS_FROM);
	uint64_t v = nr < 4 ? cs->dr[nr] : nr == 6 ? cs->dr6 | DR6_ACTIVE_LOW : cs->dr7 | DR7_FIXED_1;

	isa_set_control_operand(cs, i, v);
}

void sysinsn_mov_to_dr(struct cpu_state *cs, const struct isa_insn *i)
{
	unsigned nr = check_dr(cs, i, 0);
	uint64_t v = isa_control_operand(cs, i);

	if (nr >= 6 && v >> 32)
		gp0(cpu_of(cs));
	if (nr < 4)
		cs->dr[nr] = v;
	else if (nr == 6)
		cs->dr6 = (v & (0xf | DR6_BD | DR6_BS | DR6_BT)) | DR6_ACTIVE_LOW;
	else
		cs->dr7 = (v & 0xffff2bffULL) | DR7_FIXED_1;
	cpu_debug_update(cpu_of(cs));
	cpu_next(cs, i);
}
