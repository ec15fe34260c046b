/*
 * Instructions on segments and descriptor tables: MOV, PUSH, POP and Lxx of
 * segment registers, LAR LSL VERR VERW ARPL, SGDT SIDT SLDT STR LGDT LIDT LLDT
 * LTR, SWAPGS and the FS/GS base instructions.
 *
 * Source: SDM Vol. 2, these instructions; Vol. 3, "Instructions That Cause VM
 * Exits Conditionally" (descriptor-table exiting). Locks: none.
 */
#include "cpu/system.h"

/* --- segment registers --- */

void sysinsn_mov_from_sreg(struct cpu_state *cs, const struct isa_insn *i)
{
	isa_store_word(cs, i, cs->seg[i->src].selector);
}

void sysinsn_mov_to_sreg(struct cpu_state *cs, const struct isa_insn *i)
{
	isa_load_sreg(cs, i->src, (uint16_t)isa_system_read_rm(cs, i, 2));
}

/* After a load of SS: no interrupt and no debug trap for one instruction. */
static void ss_loaded(struct cpu_state *cs, const struct isa_insn *i)
{
	struct vmx_cpu *cpu = cpu_of(cs);

	cpu_mode_changed(cpu);
	cpu->interruptibility |= (uint32_t)GUEST_INTR_STATE_MOV_SS;
	cpu_next(cs, i);
}

void sysinsn_mov_to_ss(struct cpu_state *cs, const struct isa_insn *i)
{
	isa_load_sreg(cs, SREG_SS, (uint16_t)isa_system_read_rm(cs, i, 2));
	ss_loaded(cs, i);
}

void sysinsn_push_sreg(struct cpu_state *cs, const struct isa_insn *i)
{
	isa_push_sreg(cs, i->opsize, cs->seg[i->src].selector);
}

void sysinsn_pop_sreg(struct cpu_state *cs, const struct isa_insn *i)
{
	isa_pop_sreg(cs, i, i->src);
}

void sysinsn_pop_ss(struct cpu_state *cs, const struct isa_insn *i)
{
	isa_pop_sreg(cs, i, SREG_SS);
	ss_loaded(cs, i);
}

void sysinsn_lds(struct cpu_state *cs, const struct isa_insn *i)
{
	static const uint8_t by_low_bits[] = { SREG_ES, SREG_DS };

	if (i->map == 0) /* C4 LES, C5 LDS */
		isa_load_far_pointer(cs, i, by_low_bits[i->opcode & 1]);
	else /* 0F B4 LFS, 0F B5 LGS */
		isa_load_far_pointer(cs, i, i->opcode & 1 ? SREG_GS : SREG_FS);
}

void sysinsn_lss(struct cpu_state *cs, const struct isa_insn *i)
{
	isa_load_far_pointer(cs, i, SREG_SS);
	cpu_mode_changed(cpu_of(cs));
	cpu_next(cs, i); /* no shadow: SS and rSP were loaded together */
}

/* --- looking at descriptors --- */

static void require_protected(struct cpu_state *cs)
{
	if (!isa_protected(cs))
		isa_raise(cs, X86_TRAP_UD);
}

static void set_zf(struct cpu_state *cs, bool zf)
{
	if (zf)
		cs->cc |= (uint32_t)CC_ZF;
	else
		cs->cc &= ~(uint32_t)CC_ZF;
}

/* System types that LAR and LSL know, as bits. */
#define LAR_TYPES (1U << 1 | 1U << 2 | 1U << 3 | 1U << 4 | 1U << 5 | 1U << 9 | 1U << 11 | 1U << 12)
#define LSL_TYPES (1U << 1 | 1U << 2 | 1U << 3 | 1U << 9 | 1U << 11)
#define LAR_TYPES_IA32E (1U << 2 | 1U << 9 | 1U << 11 | 1U << 12)
#define LSL_TYPES_IA32E (1U << 2 | 1U << 9 | 1U << 11)

static bool look_up(struct cpu_state *cs, const struct isa_insn *i, uint32_t types,
		    uint32_t types_ia32e, struct isa_descriptor *d)
{
	uint16_t selector;

	require_protected(cs);
	selector = (uint16_t)isa_system_read_rm(cs, i, 2);
	if (!isa_descriptor_visible(cs, selector, d))
		return false;
	if (d->ar & VMX_AR_S)
		return true;
	return ((isa_ia32e(cs) ? types_ia32e : types) >> isa_ar_type(d->ar)) & 1;
}

void sysinsn_lar(struct cpu_state *cs, const struct isa_insn *i)
{
	struct isa_descriptor d;
	bool ok = look_up(cs, i, LAR_TYPES, LAR_TYPES_IA32E, &d);

	if (ok)
		isa_set_gpr(cs, i->src, i->opsize,
			    (d.raw >> 32) & (i->opsize == 2 ? 0xff00 : isa_host()->lar_mask));
	set_zf(cs, ok);
}

void sysinsn_lsl(struct cpu_state *cs, const struct isa_insn *i)
{
	struct isa_descriptor d;
	bool ok = look_up(cs, i, LSL_TYPES, LSL_TYPES_IA32E, &d);

	if (ok)
		isa_set_gpr(cs, i->src, i->opsize, d.limit);
	set_zf(cs, ok);
}

void sysinsn_verr(struct cpu_state *cs, const struct isa_insn *i)
{
	struct isa_descriptor d;
	bool ok = look_up(cs, i, 0, 0, &d);

	set_zf(cs, ok && !(isa_ar_code(d.ar) && !(d.ar & VMX_AR_TYPE_WRITABLE)));
}

void sysinsn_verw(struct cpu_state *cs, const struct isa_insn *i)
{
	struct isa_descriptor d;
	bool ok = look_up(cs, i, 0, 0, &d);

	set_zf(cs, ok && isa_ar_writable_data(d.ar));
}

void sysinsn_arpl(struct cpu_state *cs, const struct isa_insn *i)
{
	uint16_t dest, rpl = cs->gpr[i->src] & 3;

	require_protected(cs);
	dest = (uint16_t)isa_system_read_rm(cs, i, 2);
	if ((dest & 3) < rpl) {
		isa_system_write_rm(cs, i, 2, (uint16_t)((dest & ~3) | rpl));
		set_zf(cs, true);
	} else {
		set_zf(cs, false);
	}
}

/* --- descriptor-table registers --- */

enum { INFO_SGDT, INFO_SIDT, INFO_LGDT, INFO_LIDT };
enum { INFO_SLDT, INFO_STR, INFO_LLDT, INFO_LTR };

static void descriptor_table_exit(struct cpu_state *cs, const struct isa_insn *i,
				  uint32_t reason, uint32_t identity)
{
	uint32_t info = identity << 28;

	if (!(cpu_of(cs)->secondary & SECONDARY_EXEC_DESC))
		return;
	if (reason == EXIT_REASON_GDTR_IDTR && i->opsize != 2)
		info |= 1U << 11;
	cpu_vmexit_mem(cpu_of(cs), reason, info);
}

static void check_umip(struct cpu_state *cs)
{
	if (isa_umip_forbids(cs))
		isa_raise_error(cs, X86_TRAP_GP, 0);
}

void sysinsn_sgdt(struct cpu_state *cs, const struct isa_insn *i)
{
	check_umip(cs);
	descriptor_table_exit(cs, i, EXIT_REASON_GDTR_IDTR, INFO_SGDT);
	isa_store_table(cs, i, &cs->gdtr);
}

void sysinsn_sidt(struct cpu_state *cs, const struct isa_insn *i)
{
	check_umip(cs);
	descriptor_table_exit(cs, i, EXIT_REASON_GDTR_IDTR, INFO_SIDT);
	isa_store_table(cs, i, &cs->idtr);
}

void sysinsn_lgdt(struct cpu_state *cs, const struct isa_insn *i)
{
	cpu_require_cpl0(cs);
	descriptor_table_exit(cs, i, EXIT_REASON_GDTR_IDTR, INFO_LGDT);
	isa_load_table(cs, i, &cs->gdtr);
	cpu_next(cs, i);
}

void sysinsn_lidt(struct cpu_state *cs, const struct isa_insn *i)
{
	cpu_require_cpl0(cs);
	descriptor_table_exit(cs, i, EXIT_REASON_GDTR_IDTR, INFO_LIDT);
	isa_load_table(cs, i, &cs->idtr);
	cpu_next(cs, i);
}

static void store_system_selector(struct cpu_state *cs, const struct isa_insn *i,
				  uint16_t selector, uint32_t identity)
{
	require_protected(cs);
	check_umip(cs);
	descriptor_table_exit(cs, i, EXIT_REASON_LDTR_TR, identity);
	isa_store_word(cs, i, selector);
}

void sysinsn_sldt(struct cpu_state *cs, const struct isa_insn *i)
{
	store_system_selector(cs, i, cs->ldtr.selector, INFO_SLDT);
}

void sysinsn_str(struct cpu_state *cs, const struct isa_insn *i)
{
	store_system_selector(cs, i, cs->tr.selector, INFO_STR);
}

void sysinsn_lldt(struct cpu_state *cs, const struct isa_insn *i)
{
	require_protected(cs);
	cpu_require_cpl0(cs);
	descriptor_table_exit(cs, i, EXIT_REASON_LDTR_TR, INFO_LLDT);
	isa_load_ldtr(cs, (uint16_t)isa_system_read_rm(cs, i, 2));
	cpu_next(cs, i);
}

void sysinsn_ltr(struct cpu_state *cs, const struct isa_insn *i)
{
	require_protected(cs);
	cpu_require_cpl0(cs);
	descriptor_table_exit(cs, i, EXIT_REASON_LDTR_TR, INFO_LTR);
	isa_load_tr(cs, (uint16_t)isa_system_read_rm(cs, i, 2));
	cpu_next(cs, i);
}

/* --- FS and GS bases --- */

void sysinsn_swapgs(struct cpu_state *cs, const struct isa_insn *i)
{
	struct vmx_cpu *cpu = cpu_of(cs);
	uint64_t base = cs->seg[SREG_GS].base;

	cpu_require_cpl0(cs);
	cs->seg[SREG_GS].base = cpu->msr.kernel_gs_base;
	cpu->msr.kernel_gs_base = base;
}

static void require_fsgsbase(struct cpu_state *cs)
{
	if (cs->code_mode != ISA_CODE64 || !(cs->cr4 & X86_CR4_FSGSBASE))
		isa_raise(cs, X86_TRAP_UD);
}

static void write_base(struct cpu_state *cs, const struct isa_insn *i, enum sreg nr)
{
	uint64_t base = isa_system_read_rm(cs, i, i->opsize);

	require_fsgsbase(cs);
	if (!isa_canonical(cs, base))
		isa_raise_error(cs, X86_TRAP_GP, 0);
	cs->seg[nr].base = base;
}

void sysinsn_rdfsbase(struct cpu_state *cs, const struct isa_insn *i)
{
	require_fsgsbase(cs);
	isa_set_gpr(cs, i->dst, i->opsize, cs->seg[SREG_FS].base);
}

void sysinsn_rdgsbase(struct cpu_state *cs, const struct isa_insn *i)
{
	require_fsgsbase(cs);
	isa_set_gpr(cs, i->dst, i->opsize, cs->seg[SREG_GS].base);
}

void sysinsn_wrfsbase(struct cpu_state *cs, const struct isa_insn *i)
{
	write_base(cs, i, SREG_FS);
}

void sysinsn_wrgsbase(struct cpu_state *cs, const struct isa_insn *i)
{
	write_base(cs, i, SREG_GS);
}
