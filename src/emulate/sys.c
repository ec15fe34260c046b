/*
 * System instructions in the emulator, for two kinds of guests:
 * - what the processor cannot run at all, that is real mode and the way to
 *   protected mode without unrestricted guest (Linux: handle_invalid_guest_state);
 * - in every mode, what reads and writes segments and tables, whose memory may
 *   be a device or a read-only slot.
 *
 * Invariants
 * 1. A handler commits nothing before its last fault, as all handlers.
 * 2. Who may run an instruction is table.c's to ask, before its handler; but CLI, STI, PUSHF, POPF and MOV DR ask
 *    themselves (isa/system.h), since VIF and CR4.DE come first.
 * 3. Segments and tables change in the emulator's register file and go back
 *    with it (struct emulator_sys says which); control registers and MSRs are
 *    written by the x86 room's own functions, last of all.
 *
 * Source: SDM Vol. 2, the instructions; Vol. 3, "Real-Address Mode", "Mode
 * Switching".
 */
#include "emulate/internal.h"

static struct kvm_vcpu *vcpu_of(struct cpu_state *cs)
{
	return cs->owner;
}

static void gp0(struct cpu_state *cs) __attribute__((noreturn));
static void gp0(struct cpu_state *cs)
{
	isa_raise_error(cs, X86_TRAP_GP, 0);
}

void kvm_insn_int_fixed(struct cpu_state *cs, const struct isa_insn *i)
{
	struct isa_insn as_int = *i;

	if (i->aux == X86_TRAP_OF && !(cs->cc & CC_OF)) {
		kvm_emulator_next(cs, i);
		return;
	}
	as_int.imm = i->aux;
	kvm_emulate_int_real(cs, &as_int);
}

/* --- flags --- */

void kvm_insn_cli(struct cpu_state *cs, const struct isa_insn *i)
{
	isa_cli(cs);
	kvm_emulator_next(cs, i);
}

void kvm_insn_sti(struct cpu_state *cs, const struct isa_insn *i)
{
	if (isa_sti(cs))
		kvm_emulator_sys(cs)->shadow = KVM_X86_SHADOW_INT_STI;
	kvm_emulator_next(cs, i);
}

void kvm_insn_pushf(struct cpu_state *cs, const struct isa_insn *i)
{
	isa_pushf(cs, i);
	kvm_emulator_next(cs, i);
}

void kvm_insn_popf(struct cpu_state *cs, const struct isa_insn *i)
{
	isa_popf(cs, i);
	kvm_emulator_next(cs, i);
}

/* --- tables, control and debug registers --- */

void kvm_insn_load_table(struct cpu_state *cs, const struct isa_insn *i)
{
	isa_load_table(cs, i, i->aux ? &cs->idtr : &cs->gdtr);
	kvm_emulator_sys(cs)->dirty_tables = true;
	kvm_emulator_next(cs, i);
}

void kvm_insn_store_table(struct cpu_state *cs, const struct isa_insn *i)
{
	isa_store_table(cs, i, i->aux ? &cs->idtr : &cs->gdtr);
	kvm_emulator_next(cs, i);
}

static void set_cr(struct cpu_state *cs, const struct isa_insn *i, unsigned nr, uint64_t v)
{
	struct kvm_vcpu *vcpu = vcpu_of(cs);
	int err = nr == 0 ? kvm_set_cr0(vcpu, v) : nr == 3 ? kvm_set_cr3(vcpu, v)
		: nr == 4 ? kvm_set_cr4(vcpu, v) : kvm_set_cr8(vcpu, v);

	if (err)
		gp0(cs);
	kvm_emulator_next(cs, i);
}

void kvm_insn_mov_to_cr(struct cpu_state *cs, const struct isa_insn *i)
{
	if (i->src == 2) {
		vmx_set_cr2(vmx_processor(vcpu_of(cs)), isa_control_operand(cs, i));
		kvm_emulator_next(cs, i);
		return;
	}
	set_cr(cs, i, i->src, isa_control_operand(cs, i));
}

void kvm_insn_mov_from_cr(struct cpu_state *cs, const struct isa_insn *i)
{
	struct kvm_vcpu *vcpu = vcpu_of(cs);
	uint64_t v = i->src == 0 ? cs->cr0 : i->src == 2 ? vmx_get_cr2(vmx_processor(vcpu))
		   : i->src == 3 ? cs->cr3 : i->src == 4 ? cs->cr4 : kvm_get_cr8(vcpu);

	isa_set_control_operand(cs, i, v);
	kvm_emulator_next(cs, i);
}

void kvm_insn_lmsw(struct cpu_state *cs, const struct isa_insn *i)
{
	uint16_t v = (uint16_t)isa_system_read_rm(cs, i, 2);

	if (unlikely(is_guest_mode(vcpu_of(cs))) && nested_vmx_reflect_lmsw(vcpu_of(cs), v, i->flags & ISA_MEM))
		kvm_emulator_replaced(cs);
	set_cr(cs, i, 0, isa_lmsw(cs->cr0, v));
}

void kvm_insn_smsw(struct cpu_state *cs, const struct isa_insn *i)
{
	isa_store_word(cs, i, cs->cr0);
	kvm_emulator_next(cs, i);
}

void kvm_insn_clts(struct cpu_state *cs, const struct isa_insn *i)
{
	set_cr(cs, i, 0, cs->cr0 & ~X86_CR0_TS);
}

void kvm_insn_mov_dr(struct cpu_state *cs, const struct isa_insn *i)
{
	unsigned nr;

	cs->dr7 = kvm_get_dr(vcpu_of(cs), 7);
	nr = isa_debug_register(cs, i);
	if (!(i->opcode & 2))
		isa_set_control_operand(cs, i, kvm_get_dr(vcpu_of(cs), nr));
	else if (kvm_set_dr(vcpu_of(cs), nr, isa_control_operand(cs, i)))
		gp0(cs);
	kvm_emulator_next(cs, i);
}

/* --- the rest --- */

void kvm_insn_hlt(struct cpu_state *cs, const struct isa_insn *i)
{
	kvm_emulator_sys(cs)->halt = true;
	kvm_emulator_next(cs, i);
}

void kvm_insn_cpuid(struct cpu_state *cs, const struct isa_insn *i)
{
	uint32_t eax = (uint32_t)cs->gpr[RAX], ecx = (uint32_t)cs->gpr[RCX], ebx, edx;

	kvm_cpuid(vcpu_of(cs), &eax, &ebx, &ecx, &edx);
	cs->gpr[RAX] = eax;
	cs->gpr[RBX] = ebx;
	cs->gpr[RCX] = ecx;
	cs->gpr[RDX] = edx;
	kvm_emulator_next(cs, i);
}

static void read_counter(struct cpu_state *cs, const struct isa_insn *i, uint32_t msr)
{
	uint64_t v = 0;

	if (kvm_get_msr(vcpu_of(cs), msr, &v, false))
		gp0(cs);
	cs->gpr[RAX] = (uint32_t)v;
	cs->gpr[RDX] = v >> 32;
	kvm_emulator_next(cs, i);
}

void kvm_insn_rdmsr(struct cpu_state *cs, const struct isa_insn *i)
{
	read_counter(cs, i, (uint32_t)cs->gpr[RCX]);
}

void kvm_insn_rdtsc(struct cpu_state *cs, const struct isa_insn *i)
{
	read_counter(cs, i, MSR_IA32_TSC);
}

void kvm_insn_wrmsr(struct cpu_state *cs, const struct isa_insn *i)
{
	if (kvm_set_msr(vcpu_of(cs), (uint32_t)cs->gpr[RCX],
			(uint32_t)cs->gpr[RAX] | cs->gpr[RDX] << 32, false))
		gp0(cs);
	kvm_emulator_next(cs, i);
}

/* Exits under shadow paging. One flush covers every type (SDM Vol. 2, INVPCID: more than asked for may go). */
void kvm_insn_invpcid(struct cpu_state *cs, const struct isa_insn *i)
{
	if (!guest_cpuid_bit(vcpu_of(cs), 7, 0, CPUID_EBX, 10))
		isa_raise(cs, X86_TRAP_UD);
	(void)isa_invpcid_operand(cs, i);
	kvm_vcpu_flush_tlb_guest(vcpu_of(cs));
	kvm_emulator_next(cs, i);
}

/* WBINVD, INVD: no cache of ours. */
void kvm_insn_nothing(struct cpu_state *cs, const struct isa_insn *i)
{
	kvm_emulator_next(cs, i);
}

void kvm_insn_rsm(struct cpu_state *cs, const struct isa_insn *i)
{
	if (!vcpu_of(cs)->arch->smm)
		isa_raise(cs, X86_TRAP_UD);
	if (!kvm_leave_smm(vcpu_of(cs)))
		kvm_emulator_unsupported(cs);
	kvm_emulator_replaced(cs);
}

/* CLFLUSH and its kin read a byte, of a device too (SDM Vol. 2, CLFLUSH: "as a load"); nothing of ours is cached. */
void kvm_insn_flush(struct cpu_state *cs, const struct isa_insn *i)
{
	(void)isa_load(cs, isa_linear(cs, i->seg, isa_ea(cs, i), 1, ISA_READ), 1);
	kvm_emulator_next(cs, i);
}

/* PAUSE, fences: nothing of ours is out of order. */
void kvm_insn_hint(struct cpu_state *cs, const struct isa_insn *i)
{
	kvm_emulator_next(cs, i);
}

/* Of protected mode only; there the processor runs them as soon as it can enter. */
void kvm_insn_not_in_real_mode(struct cpu_state *cs, const struct isa_insn *i)
{
	if (isa_real(cs))
		isa_raise(cs, X86_TRAP_UD);
	kvm_emulator_unsupported(cs);
}
