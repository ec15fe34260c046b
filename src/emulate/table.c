/*
 * Which system instructions are emulated, where, and who may run them: one row
 * each. What the isa room owns (moves, arithmetic, strings, SSE, ...) is emulated
 * everywhere and needs no privilege.
 *
 * Invariants
 * 1. An instruction without a row, or without `in64` in 64-bit mode, is never
 *    emulated: there the processor runs everything but what meets a device or a
 *    page that cannot be written, and what another vCPU puts into the place of such an
 *    instruction.
 * 2. `need` is checked before the handler runs, by the bytes that are emulated:
 *    another vCPU may have changed them since the processor looked.
 * 3. Ports are checked by their handlers, which know the number (io.c); IOPL, with VIF in the place of IF, by the rules of
 *    CLI, STI, PUSHF and POPF (isa/system.h).
 * 4. What an L1 takes as an exit of its L2 is not emulated for L2: the processor runs it, and exits.
 *    LMSW's handler makes the exit, since the operand decides.
 *
 * Source: SDM Vol. 2, the instructions' "Exceptions"; Vol. 3, "Privileged
 * Instructions", "CR4.UMIP", "CR4.TSD"; KVM API: KVM_CAP_SUPPORTED_CPUID
 * (CPUID faulting).
 */
#include "emulate/internal.h"

#define NEED_CPL0 0x01	    /* #GP(0) */
#define NEED_UMIP 0x02	    /* CPL 0 where CR4.UMIP, else #GP(0) */
#define NEED_TSD 0x04	    /* CPL 0 where CR4.TSD, else #GP(0) */
#define NEED_CPUID 0x08	    /* CPL 0, or SMM, where CPUID faults, else #GP(0) */
#define NEED_PROTECTED 0x10 /* neither real nor virtual-8086 mode, else #UD; looked at first */

struct row {
	isa_fn *fn;
	isa_fn *(*pick)(const struct isa_decoded *d, struct isa_insn *i); /* in its place: NULL for forms not emulated */
	uint8_t aux; /* i->aux of fn */
	uint8_t need;
	uint8_t exits; /* enum exit_reason by which an L1 may have it of its L2; 0: by none, or where the operand is known */
	bool in64;
};

static isa_fn *pick_mov(const struct isa_decoded *d, struct isa_insn *i)
{
	switch (isa_system_mov(i)) {
	case ISA_MOV_FROM_SREG: return kvm_emulate_mov_from_sreg;
	case ISA_MOV_TO_SREG: return kvm_emulate_mov_to_sreg;
	case ISA_MOV_FROM_CR: return kvm_insn_mov_from_cr;
	case ISA_MOV_TO_CR: return kvm_insn_mov_to_cr;
	case ISA_MOV_FROM_DR:
	case ISA_MOV_TO_DR: return kvm_insn_mov_dr;
	default: return NULL;
	}
}

static isa_fn *pick_push_pop(const struct isa_decoded *d, struct isa_insn *i)
{
	if (!isa_push_pop_sreg(i))
		return NULL;
	return d->insn.mnemonic == ZYDIS_MNEMONIC_POP ? kvm_emulate_pop_sreg : kvm_emulate_push_sreg;
}

static isa_fn *pick_far(const struct isa_decoded *d, struct isa_insn *i)
{
	if (!isa_far_form(d, i))
		return NULL;
	return d->insn.mnemonic == ZYDIS_MNEMONIC_JMP	 ? kvm_emulate_jmp_far
	       : d->insn.mnemonic == ZYDIS_MNEMONIC_CALL ? kvm_emulate_call_far
							 : kvm_emulate_ret_far;
}

/* 0F 20 to 0F 23: MOV DR asks for level 0 itself, after #UD. */
static const struct row mov_cr = { .pick = pick_mov, .need = NEED_CPL0 };
static const struct row mov_dr = { .pick = pick_mov };

static const struct row rows[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
	[ZYDIS_MNEMONIC_MOV] = { .pick = pick_mov, .in64 = true },
	[ZYDIS_MNEMONIC_PUSH] = { .pick = pick_push_pop, .in64 = true },
	[ZYDIS_MNEMONIC_POP] = { .pick = pick_push_pop, .in64 = true },
	[ZYDIS_MNEMONIC_JMP] = { .pick = pick_far, .in64 = true },
	[ZYDIS_MNEMONIC_CALL] = { .pick = pick_far, .in64 = true },
	[ZYDIS_MNEMONIC_RET] = { .pick = pick_far, .in64 = true },
	[ZYDIS_MNEMONIC_IRET] = { .fn = kvm_emulate_iret_real },
	[ZYDIS_MNEMONIC_IRETD] = { .fn = kvm_emulate_iret_real },
	[ZYDIS_MNEMONIC_INT] = { .fn = kvm_emulate_int_real },
	[ZYDIS_MNEMONIC_INT1] = { .fn = kvm_insn_int_fixed, .aux = X86_TRAP_DB },
	[ZYDIS_MNEMONIC_INT3] = { .fn = kvm_insn_int_fixed, .aux = X86_TRAP_BP },
	[ZYDIS_MNEMONIC_INTO] = { .fn = kvm_insn_int_fixed, .aux = X86_TRAP_OF },
	[ZYDIS_MNEMONIC_LES] = { .fn = kvm_emulate_load_far_pointer, .aux = SREG_ES },
	[ZYDIS_MNEMONIC_LDS] = { .fn = kvm_emulate_load_far_pointer, .aux = SREG_DS },
	[ZYDIS_MNEMONIC_LSS] = { .fn = kvm_emulate_load_far_pointer, .aux = SREG_SS, .in64 = true },
	[ZYDIS_MNEMONIC_LFS] = { .fn = kvm_emulate_load_far_pointer, .aux = SREG_FS, .in64 = true },
	[ZYDIS_MNEMONIC_LGS] = { .fn = kvm_emulate_load_far_pointer, .aux = SREG_GS, .in64 = true },
	[ZYDIS_MNEMONIC_LGDT] = { .fn = kvm_insn_load_table, .aux = 0, .need = NEED_CPL0, .in64 = true, .exits = EXIT_REASON_GDTR_IDTR },
	[ZYDIS_MNEMONIC_LIDT] = { .fn = kvm_insn_load_table, .aux = 1, .need = NEED_CPL0, .in64 = true, .exits = EXIT_REASON_GDTR_IDTR },
	[ZYDIS_MNEMONIC_SGDT] = { .fn = kvm_insn_store_table, .aux = 0, .need = NEED_UMIP, .in64 = true, .exits = EXIT_REASON_GDTR_IDTR },
	[ZYDIS_MNEMONIC_SIDT] = { .fn = kvm_insn_store_table, .aux = 1, .need = NEED_UMIP, .in64 = true, .exits = EXIT_REASON_GDTR_IDTR },
	[ZYDIS_MNEMONIC_CLI] = { .fn = kvm_insn_cli, .in64 = true },
	[ZYDIS_MNEMONIC_STI] = { .fn = kvm_insn_sti, .in64 = true },
	[ZYDIS_MNEMONIC_PUSHF] = { .fn = kvm_insn_pushf, .in64 = true },
	[ZYDIS_MNEMONIC_PUSHFD] = { .fn = kvm_insn_pushf, .in64 = true },
	[ZYDIS_MNEMONIC_POPF] = { .fn = kvm_insn_popf, .in64 = true },
	[ZYDIS_MNEMONIC_POPFD] = { .fn = kvm_insn_popf, .in64 = true },
	[ZYDIS_MNEMONIC_PUSHFQ] = { .fn = kvm_insn_pushf, .in64 = true },
	[ZYDIS_MNEMONIC_POPFQ] = { .fn = kvm_insn_popf, .in64 = true },
	[ZYDIS_MNEMONIC_LMSW] = { .fn = kvm_insn_lmsw, .need = NEED_CPL0, .in64 = true },
	[ZYDIS_MNEMONIC_SMSW] = { .fn = kvm_insn_smsw, .need = NEED_UMIP, .in64 = true },
	[ZYDIS_MNEMONIC_CLTS] = { .fn = kvm_insn_clts, .need = NEED_CPL0, .in64 = true },
	[ZYDIS_MNEMONIC_HLT] = { .fn = kvm_insn_hlt, .need = NEED_CPL0, .in64 = true, .exits = EXIT_REASON_HLT },
	[ZYDIS_MNEMONIC_CPUID] = { .fn = kvm_insn_cpuid, .need = NEED_CPUID, .in64 = true, .exits = EXIT_REASON_CPUID },
	[ZYDIS_MNEMONIC_RDMSR] = { .fn = kvm_insn_rdmsr, .need = NEED_CPL0, .in64 = true, .exits = EXIT_REASON_MSR_READ },
	[ZYDIS_MNEMONIC_WRMSR] = { .fn = kvm_insn_wrmsr, .need = NEED_CPL0, .in64 = true, .exits = EXIT_REASON_MSR_WRITE },
	[ZYDIS_MNEMONIC_RDTSC] = { .fn = kvm_insn_rdtsc, .need = NEED_TSD, .in64 = true, .exits = EXIT_REASON_RDTSC },
	[ZYDIS_MNEMONIC_PAUSE] = { .fn = kvm_insn_hint, .in64 = true, .exits = EXIT_REASON_PAUSE_INSTRUCTION },
	[ZYDIS_MNEMONIC_LFENCE] = { .fn = kvm_insn_hint, .in64 = true },
	[ZYDIS_MNEMONIC_SFENCE] = { .fn = kvm_insn_hint, .in64 = true },
	[ZYDIS_MNEMONIC_MFENCE] = { .fn = kvm_insn_hint, .in64 = true },
	[ZYDIS_MNEMONIC_CLFLUSH] = { .fn = kvm_insn_flush, .in64 = true },
	[ZYDIS_MNEMONIC_CLFLUSHOPT] = { .fn = kvm_insn_flush, .in64 = true },
	[ZYDIS_MNEMONIC_CLWB] = { .fn = kvm_insn_flush, .in64 = true },
	[ZYDIS_MNEMONIC_LLDT] = { .fn = kvm_emulate_lldt, .need = NEED_PROTECTED | NEED_CPL0, .in64 = true, .exits = EXIT_REASON_LDTR_TR },
	[ZYDIS_MNEMONIC_LTR] = { .fn = kvm_emulate_ltr, .need = NEED_PROTECTED | NEED_CPL0, .in64 = true, .exits = EXIT_REASON_LDTR_TR },
	[ZYDIS_MNEMONIC_SLDT] = { .fn = kvm_emulate_store_system_selector, .aux = 0, .need = NEED_PROTECTED | NEED_UMIP, .in64 = true, .exits = EXIT_REASON_LDTR_TR },
	[ZYDIS_MNEMONIC_STR] = { .fn = kvm_emulate_store_system_selector, .aux = 1, .need = NEED_PROTECTED | NEED_UMIP, .in64 = true, .exits = EXIT_REASON_LDTR_TR },
	[ZYDIS_MNEMONIC_LAR] = { .fn = kvm_insn_not_in_real_mode },
	[ZYDIS_MNEMONIC_LSL] = { .fn = kvm_insn_not_in_real_mode },
	[ZYDIS_MNEMONIC_VERR] = { .fn = kvm_insn_not_in_real_mode },
	[ZYDIS_MNEMONIC_VERW] = { .fn = kvm_insn_not_in_real_mode },
	[ZYDIS_MNEMONIC_ARPL] = { .fn = kvm_insn_not_in_real_mode },
	[ZYDIS_MNEMONIC_RSM] = { .fn = kvm_insn_rsm },
	[ZYDIS_MNEMONIC_INVPCID] = { .fn = kvm_insn_invpcid, .need = NEED_CPL0, .in64 = true, .exits = EXIT_REASON_INVPCID },
	[ZYDIS_MNEMONIC_INVD] = { .fn = kvm_insn_nothing, .need = NEED_CPL0, .in64 = true, .exits = EXIT_REASON_INVD },
	[ZYDIS_MNEMONIC_WBINVD] = { .fn = kvm_insn_nothing, .need = NEED_CPL0, .in64 = true, .exits = EXIT_REASON_WBINVD },
	[ZYDIS_MNEMONIC_IN] = { .pick = kvm_emulator_io, .in64 = true },
	[ZYDIS_MNEMONIC_OUT] = { .pick = kvm_emulator_io, .in64 = true },
	[ZYDIS_MNEMONIC_INSB] = { .pick = kvm_emulator_io, .in64 = true },
	[ZYDIS_MNEMONIC_INSW] = { .pick = kvm_emulator_io, .in64 = true },
	[ZYDIS_MNEMONIC_INSD] = { .pick = kvm_emulator_io, .in64 = true },
	[ZYDIS_MNEMONIC_OUTSB] = { .pick = kvm_emulator_io, .in64 = true },
	[ZYDIS_MNEMONIC_OUTSW] = { .pick = kvm_emulator_io, .in64 = true },
	[ZYDIS_MNEMONIC_OUTSD] = { .pick = kvm_emulator_io, .in64 = true },
};

/* NULL: none. */
static const struct row *row_of(unsigned mnemonic, const struct isa_insn *i)
{
	const struct row *r = &rows[mnemonic];

	if (mnemonic == ZYDIS_MNEMONIC_MOV && i->map == 1)
		r = i->opcode & 1 ? &mov_dr : &mov_cr;
	return r->fn || r->pick ? r : NULL;
}

isa_fn *kvm_emulator_system(const struct isa_decoded *d, struct isa_insn *i)
{
	const struct row *r = row_of(d->insn.mnemonic, i);

	if (!r || (d->mode == ISA_CODE64 && !r->in64))
		return NULL;
	isa_system_operands(d, i);
	if (!isa_system_form(d, i))
		return NULL;
	i->flags |= ISA_ENDS_BLOCK;
	if (r->pick)
		return r->pick(d, i);
	i->aux = r->aux;
	return r->fn;
}

static bool may_run(const struct cpu_state *cs, unsigned need)
{
	const struct kvm_vcpu_arch *arch = kvm_emulator_vcpu((struct cpu_state *)cs)->arch;
	bool cpl0 = cs->cpl == 0;

	if ((need & NEED_CPL0) && !cpl0)
		return false;
	if ((need & NEED_UMIP) && isa_umip_forbids(cs))
		return false;
	if ((need & NEED_TSD) && isa_tsd_forbids(cs))
		return false;
	return !(need & NEED_CPUID) || cpl0 || arch->smm || !(arch->misc_features & MISC_FEATURES_CPUID_FAULT);
}

void kvm_emulator_check_privilege(struct cpu_state *cs, const struct isa_insn *i)
{
	const struct row *r = row_of(i->mnemonic, i);

	if (!r)
		return;
	if ((r->need & NEED_PROTECTED) && !isa_protected(cs))
		isa_raise(cs, X86_TRAP_UD);
	if (!may_run(cs, r->need))
		isa_raise_error(cs, X86_TRAP_GP, 0);
	if (unlikely(is_guest_mode(kvm_emulator_vcpu(cs))) && r->exits &&
	    nested_vmx_l1_wants_insn(kvm_emulator_vcpu(cs), r->exits))
		kvm_emulator_retry(cs);
}
