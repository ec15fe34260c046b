/*
 * Far transfers in the emulator: JMP, CALL, RET, and IRET and INT of real
 * mode; and the stack as they use it.
 *
 * Invariant: a check, and what can fault, comes before every change of a
 * register.
 *
 * Source: SDM Vol. 2, the instructions. Not here, and refused as Linux does:
 * gates, changes of privilege level, IRET and INT of protected mode.
 */
#include "emulate/internal.h"

/* --- the stack --- */

static uint64_t stack_mask(const struct cpu_state *cs)
{
	return cs->stack_mode == ISA_CODE64 ? ~0ULL : cs->stack_mode == ISA_CODE32 ? 0xffffffff : 0xffff;
}

void kvm_emulator_stack_peek(struct cpu_state *cs, unsigned words, unsigned size, uint64_t out[])
{
	uint64_t sp = cs->gpr[RSP] & stack_mask(cs);

	for (unsigned n = 0; n < words; n++, sp = (sp + size) & stack_mask(cs))
		out[n] = isa_load(cs, isa_linear(cs, SREG_SS, sp, size, ISA_READ), size);
}

void kvm_emulator_stack_move(struct cpu_state *cs, uint64_t delta)
{
	uint64_t mask = stack_mask(cs);

	cs->gpr[RSP] = (cs->gpr[RSP] & ~mask) | ((cs->gpr[RSP] + delta) & mask);
}

#define MAX_WORDS 3

static void stack_push(struct cpu_state *cs, unsigned words, unsigned size, const uint64_t v[])
{
	uint64_t sp = (cs->gpr[RSP] - words * size) & stack_mask(cs);
	gva_t lin = isa_linear(cs, SREG_SS, sp, words * size, ISA_WRITE);
	uint8_t image[MAX_WORDS * 8];

	for (unsigned n = 0; n < words; n++)
		for (unsigned b = 0; b < size; b++)
			image[n * size + b] = (uint8_t)(v[n] >> (8 * b));
	isa_store_bytes(cs, lin, image, words * size);
	kvm_emulator_stack_move(cs, 0 - (uint64_t)(words * size));
}

/* --- instructions --- */

uint16_t kvm_emulator_far_pointer(struct cpu_state *cs, const struct isa_insn *i, uint64_t *offset)
{
	gva_t lin;

	if (!(i->flags & ISA_MEM)) {
		*offset = i->imm;
		return (uint16_t)i->disp;
	}
	lin = isa_linear(cs, i->seg, isa_ea(cs, i), i->opsize + 2U, ISA_READ);
	*offset = isa_load(cs, lin, i->opsize);
	return (uint16_t)isa_load(cs, lin + i->opsize, 2);
}

static void go_to(struct cpu_state *cs, const struct emulator_descriptor *code, uint64_t offset)
{
	kvm_emulator_set_segment(cs, SREG_CS, &code->seg);
	cs->rip = offset;
}

void kvm_emulate_jmp_far(struct cpu_state *cs, const struct isa_insn *i)
{
	uint64_t offset;
	uint16_t selector = kvm_emulator_far_pointer(cs, i, &offset);
	struct emulator_descriptor d = kvm_emulator_check_code(cs, selector, offset, false);

	kvm_emulator_set_accessed(cs, &d);
	go_to(cs, &d, offset);
}

void kvm_emulate_call_far(struct cpu_state *cs, const struct isa_insn *i)
{
	uint64_t frame[2] = { isa_next_rip(cs, i), cs->seg[SREG_CS].selector }, offset;
	uint16_t selector = kvm_emulator_far_pointer(cs, i, &offset);
	struct emulator_descriptor d = kvm_emulator_check_code(cs, selector, offset, false);

	kvm_emulator_set_accessed(cs, &d);
	stack_push(cs, 2, i->opsize, frame);
	go_to(cs, &d, offset);
}

void kvm_emulate_ret_far(struct cpu_state *cs, const struct isa_insn *i)
{
	struct emulator_descriptor d;
	uint64_t frame[2];

	kvm_emulator_stack_peek(cs, 2, i->opsize, frame);
	d = kvm_emulator_check_code(cs, (uint16_t)frame[1], frame[0], true);
	kvm_emulator_set_accessed(cs, &d);
	go_to(cs, &d, frame[0]);
	kvm_emulator_stack_move(cs, 2U * i->opsize + (i->opcode == 0xca ? (uint16_t)i->imm : 0));
}

void kvm_emulate_iret_real(struct cpu_state *cs, const struct isa_insn *i)
{
	struct emulator_descriptor d;
	uint64_t frame[3];

	if (cs->cr0 & X86_CR0_PE)
		kvm_emulator_unsupported(cs);
	kvm_emulator_stack_peek(cs, 3, i->opsize, frame);
	d = kvm_emulator_check_code(cs, (uint16_t)frame[1], frame[0], true);
	go_to(cs, &d, frame[0]);
	kvm_emulator_stack_move(cs, 3U * i->opsize);
	cpu_set_rflags(cs, kvm_emulator_popped_flags(cs, frame[2], i->opsize, true));
	vmx_set_nmi_mask(kvm_emulator_vcpu(cs), false);
}

void kvm_emulate_int_real(struct cpu_state *cs, const struct isa_insn *i)
{
	uint64_t frame[3] = { (uint16_t)isa_next_rip(cs, i), cs->seg[SREG_CS].selector, (uint16_t)cpu_rflags(cs) };
	unsigned vector = (unsigned)(uint8_t)i->imm;
	struct emulator_descriptor d;
	uint32_t entry;

	if (cs->cr0 & X86_CR0_PE)
		kvm_emulator_unsupported(cs);
	if (vector * 4 + 3 > cs->idtr.limit)
		isa_raise_error(cs, X86_TRAP_GP, 0);
	entry = (uint32_t)isa_load(cs, (uint32_t)(cs->idtr.base + vector * 4), 4);
	d = kvm_emulator_check_code(cs, (uint16_t)(entry >> 16), 0, false);
	stack_push(cs, 3, 2, frame);
	cpu_set_rflags(cs, cpu_rflags(cs) & ~(X86_FLAGS_IF | X86_FLAGS_TF | X86_FLAGS_AC | X86_FLAGS_RF));
	go_to(cs, &d, (uint16_t)entry);
}
