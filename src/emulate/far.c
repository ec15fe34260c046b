/*
 * Far transfers in the emulator: JMP, CALL and RET by the rules of isa/far.h, and
 * IRET and INT of real mode.
 *
 * Invariant: a check, and what can fault, comes before every change of a
 * register.
 *
 * Source: SDM Vol. 2, the instructions. Not here, and refused as Linux does: task
 * switches, IRET and INT of protected mode.
 */
#include "emulate/internal.h"

/* Before a transfer, which may change every segment register; after it, the changed ones go to the vCPU. */
struct transfer {
	struct cpu_segment before[NR_SREGS];
};

static void begin(struct cpu_state *cs, struct transfer *t)
{
	if (isa_protected(cs))
		kvm_emulator_load_tr_ldt(cs);
	for (unsigned n = 0; n < NR_SREGS; n++)
		t->before[n] = cs->seg[n];
}

static void end(struct cpu_state *cs, const struct transfer *t)
{
	for (unsigned n = 0; n < NR_SREGS; n++) {
		const struct cpu_segment *a = &t->before[n], *b = &cs->seg[n];

		if (n == SREG_CS || a->selector != b->selector || a->ar != b->ar || a->base != b->base || a->limit != b->limit)
			kvm_emulator_sys(cs)->dirty_segs |= 1U << n;
	}
}

void kvm_emulate_jmp_far(struct cpu_state *cs, const struct isa_insn *i)
{
	struct transfer t;
	uint64_t offset;
	uint16_t selector = isa_far_pointer(cs, i, &offset);

	begin(cs, &t);
	isa_far_jmp(cs, selector, offset, i->opsize);
	end(cs, &t);
}

void kvm_emulate_call_far(struct cpu_state *cs, const struct isa_insn *i)
{
	struct transfer t;
	uint64_t offset;
	uint16_t selector = isa_far_pointer(cs, i, &offset);

	begin(cs, &t);
	isa_far_call(cs, selector, offset, i->opsize, isa_next_rip(cs, i));
	end(cs, &t);
}

void kvm_emulate_ret_far(struct cpu_state *cs, const struct isa_insn *i)
{
	struct transfer t;

	begin(cs, &t);
	isa_far_ret(cs, i->opsize, i->opcode == 0xca ? (uint16_t)i->imm : 0);
	end(cs, &t);
}

void kvm_emulate_iret_real(struct cpu_state *cs, const struct isa_insn *i)
{
	if (!isa_real(cs))
		kvm_emulator_unsupported(cs);
	cs->dr7 = kvm_get_dr(kvm_emulator_vcpu(cs), 7);
	isa_iret_real(cs, i->opsize);
	kvm_emulator_sys(cs)->dirty_segs |= 1U << SREG_CS;
	vmx_set_nmi_mask(kvm_emulator_vcpu(cs), false);
}

void kvm_emulate_int_real(struct cpu_state *cs, const struct isa_insn *i)
{
	if (!isa_real(cs))
		kvm_emulator_unsupported(cs);
	isa_enter_real(cs, isa_vector_real(cs, (uint8_t)i->imm), cpu_rflags(cs), isa_next_rip(cs, i));
	cs->rflags &= ~ISA_REAL_DELIVERY_CLEARS;
	kvm_emulator_sys(cs)->dirty_segs |= 1U << SREG_CS;
}
