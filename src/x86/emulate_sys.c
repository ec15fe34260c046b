/*
 * System instructions in the emulator: what a guest executes while the
 * processor cannot run it at all, that is in real mode and on the way to
 * protected mode, without unrestricted guest (Linux: handle_invalid_guest_state).
 *
 * Invariants
 * 1. A handler commits nothing before its last fault, as all handlers.
 * 2. Segments and tables change in the emulator's register file and go back
 *    with it (struct emulator_sys says which); control registers and MSRs are
 *    written by the x86 room's own functions, last of all.
 *
 * Source: SDM Vol. 2, the instructions; Vol. 3, "Real-Address Mode", "Mode
 * Switching". Not here, and refused: call gates, task gates, changes of
 * privilege level, virtual-8086 mode.
 */
#include "x86/emulator.h"

static struct kvm_vcpu *vcpu_of(struct cpu_state *cs)
{
	return cs->owner;
}

static bool real_mode(const struct cpu_state *cs)
{
	return !(cs->cr0 & X86_CR0_PE);
}

static void gp0(struct cpu_state *cs) __attribute__((noreturn));
static void gp0(struct cpu_state *cs)
{
	isa_raise_error(cs, X86_TRAP_GP, 0);
}

static void require_cpl0(struct cpu_state *cs)
{
	if (cs->cpl != 0)
		gp0(cs);
}

static void next(struct cpu_state *cs, const struct isa_insn *i)
{
	cs->rip = isa_next_rip(cs, i);
}

static uint64_t read_rm(struct cpu_state *cs, const struct isa_insn *i, unsigned size)
{
	if (i->flags & ISA_MEM)
		return isa_load(cs, isa_linear(cs, i->seg, isa_ea(cs, i), size, ISA_READ), size);
	return size == 2 ? (uint16_t)cs->gpr[i->dst] : (uint32_t)cs->gpr[i->dst];
}

static void write_rm(struct cpu_state *cs, const struct isa_insn *i, unsigned size, uint64_t v)
{
	if (i->flags & ISA_MEM)
		isa_store(cs, isa_linear(cs, i->seg, isa_ea(cs, i), size, ISA_WRITE), size, v);
	else
		isa_set_gpr(cs, i->dst, size, v);
}

/* --- loading segments --- */

#define DESC_P BIT_ULL(47)
#define DESC_S BIT_ULL(44)

static struct cpu_segment unpack(uint16_t selector, uint64_t d)
{
	struct cpu_segment s = {
		.selector = selector,
		.base = ((d >> 16) & 0xffffff) | ((d >> 32) & 0xff000000),
		.limit = (uint32_t)((d & 0xffff) | ((d >> 32) & 0xf0000)),
		.ar = (uint32_t)((d >> 40) & 0xf0ff),
	};

	if (s.ar & VMX_AR_G)
		s.limit = s.limit << 12 | 0xfff;
	return s;
}

/* A protected-mode descriptor for segment register nr, its accessed bit set. */
static struct cpu_segment read_descriptor(struct cpu_state *cs, uint16_t selector, unsigned nr)
{
	uint32_t error = selector & 0xfffcU;
	uint64_t d;
	gva_t lin;

	if (selector & 4)
		kvm_emulator_unsupported(cs); /* no LDT on the way out of real mode */
	if ((selector & 0xfff8U) + 7 > cs->gdtr.limit)
		isa_raise_error(cs, X86_TRAP_GP, error);
	lin = (uint32_t)(cs->gdtr.base + (selector & 0xfff8U));
	d = isa_load(cs, lin, 8);
	if (!(d & DESC_S) && nr == SREG_CS)
		kvm_emulator_unsupported(cs); /* a gate */
	if (!(d & DESC_S))
		isa_raise_error(cs, X86_TRAP_GP, error);
	if (!(d & DESC_P))
		isa_raise_error(cs, nr == SREG_SS ? X86_TRAP_SS : X86_TRAP_NP, error);
	if (!(d & (uint64_t)VMX_AR_TYPE_ACCESSED << 40)) {
		d |= (uint64_t)VMX_AR_TYPE_ACCESSED << 40;
		isa_store(cs, lin + 5, 1, (uint8_t)(d >> 40));
	}
	return unpack(selector, d);
}

static void check_code_segment(struct cpu_state *cs, const struct cpu_segment *s)
{
	unsigned dpl = (unsigned)FIELD_GET(VMX_AR_DPL_MASK, s->ar);

	if (!(s->ar & VMX_AR_TYPE_CODE))
		isa_raise_error(cs, X86_TRAP_GP, s->selector & 0xfffcU);
	if (cs->cpl != 0 || (s->selector & 3) != 0 || dpl != 0)
		kvm_emulator_unsupported(cs);
}

static void check_data_segment(struct cpu_state *cs, const struct cpu_segment *s, unsigned nr)
{
	bool code = s->ar & VMX_AR_TYPE_CODE, second = s->ar & VMX_AR_TYPE_WRITABLE;
	unsigned dpl = (unsigned)FIELD_GET(VMX_AR_DPL_MASK, s->ar);
	uint32_t error = s->selector & 0xfffcU;

	if (nr == SREG_SS &&
	    (code || !second || (s->selector & 3) != cs->cpl || dpl != cs->cpl))
		isa_raise_error(cs, X86_TRAP_GP, error);
	/* code must be readable; conforming code may be of any level */
	if (code && !second)
		isa_raise_error(cs, X86_TRAP_GP, error);
	if (!code && dpl < max_u64(cs->cpl, s->selector & 3))
		isa_raise_error(cs, X86_TRAP_GP, error);
}

/* The register's new content; may fault, changes nothing. */
static struct cpu_segment new_segment(struct cpu_state *cs, uint16_t selector, unsigned nr)
{
	struct cpu_segment s = cs->seg[nr];

	if (real_mode(cs)) {
		/* limit and rights stay: that is what "big real mode" lives on */
		s.selector = selector;
		s.base = (uint64_t)selector << 4;
		return s;
	}
	if ((selector & 0xfffcU) == 0) {
		if (nr == SREG_CS || nr == SREG_SS)
			gp0(cs);
		return (struct cpu_segment){ .selector = selector, .ar = VMX_AR_UNUSABLE };
	}
	s = read_descriptor(cs, selector, nr);
	if (nr == SREG_CS)
		check_code_segment(cs, &s);
	else
		check_data_segment(cs, &s, nr);
	return s;
}

static void set_segment(struct cpu_state *cs, unsigned nr, struct cpu_segment s)
{
	cs->seg[nr] = s;
	kvm_emulator_sys(cs)->dirty_segs |= 1U << nr;
}

/* CS and the instruction pointer, both checked. */
static void far_transfer(struct cpu_state *cs, uint16_t selector, uint64_t offset)
{
	struct cpu_segment s = new_segment(cs, selector, SREG_CS);

	if (offset > s.limit)
		gp0(cs);
	set_segment(cs, SREG_CS, s);
	cs->rip = offset;
}

static void mov_from_sreg(struct cpu_state *cs, const struct isa_insn *i)
{
	write_rm(cs, i, i->flags & ISA_MEM ? 2 : i->opsize, cs->seg[i->src].selector);
	next(cs, i);
}

static void shadow_after_ss(struct cpu_state *cs, unsigned nr)
{
	if (nr == SREG_SS)
		kvm_emulator_sys(cs)->shadow = KVM_X86_SHADOW_INT_MOV_SS;
}

static void mov_to_sreg(struct cpu_state *cs, const struct isa_insn *i)
{
	set_segment(cs, i->src, new_segment(cs, (uint16_t)read_rm(cs, i, 2), i->src));
	shadow_after_ss(cs, i->src);
	next(cs, i);
}

static void push_sreg(struct cpu_state *cs, const struct isa_insn *i)
{
	isa_push(cs, i->opsize, cs->seg[i->src].selector);
	next(cs, i);
}

static uint64_t stack_mask(const struct cpu_state *cs)
{
	return cs->stack_mode == ISA_CODE16 ? 0xffff : 0xffffffff;
}

/* Words above the stack pointer, read as a whole; RSP is the caller's to move. */
static void stack_peek(struct cpu_state *cs, unsigned words, unsigned size, uint32_t out[])
{
	uint64_t sp = cs->gpr[RSP] & stack_mask(cs);

	for (unsigned n = 0; n < words; n++, sp = (sp + size) & stack_mask(cs))
		out[n] = (uint32_t)isa_load(cs, isa_linear(cs, SREG_SS, sp, size, ISA_READ), size);
}

static void stack_move(struct cpu_state *cs, uint64_t delta)
{
	uint64_t mask = stack_mask(cs);

	cs->gpr[RSP] = (cs->gpr[RSP] & ~mask) | ((cs->gpr[RSP] + delta) & mask);
}

static void stack_push(struct cpu_state *cs, unsigned words, unsigned size, const uint32_t v[])
{
	uint64_t sp = (cs->gpr[RSP] - words * size) & stack_mask(cs);
	gva_t lin = isa_linear(cs, SREG_SS, sp, words * size, ISA_WRITE);
	uint8_t image[12];

	for (unsigned n = 0; n < words; n++)
		for (unsigned b = 0; b < size; b++)
			image[n * size + b] = (uint8_t)(v[n] >> (8 * b));
	isa_store_bytes(cs, lin, image, words * size);
	stack_move(cs, 0 - (uint64_t)(words * size));
}

static void pop_sreg(struct cpu_state *cs, const struct isa_insn *i)
{
	uint32_t selector;

	stack_peek(cs, 1, i->opsize, &selector);
	set_segment(cs, i->src, new_segment(cs, (uint16_t)selector, i->src));
	stack_move(cs, i->opsize);
	shadow_after_ss(cs, i->src);
	next(cs, i);
}

static uint16_t far_pointer(struct cpu_state *cs, const struct isa_insn *i, uint64_t *offset)
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

static void load_far_pointer(struct cpu_state *cs, const struct isa_insn *i)
{
	uint64_t offset;
	uint16_t selector = far_pointer(cs, i, &offset);

	set_segment(cs, i->aux, new_segment(cs, selector, i->aux));
	isa_set_gpr(cs, i->src, i->opsize, offset);
	next(cs, i);
}

/* --- far transfers --- */

static void jmp_far(struct cpu_state *cs, const struct isa_insn *i)
{
	uint64_t offset;
	uint16_t selector = far_pointer(cs, i, &offset);

	far_transfer(cs, selector, offset);
}

static void call_far(struct cpu_state *cs, const struct isa_insn *i)
{
	uint32_t frame[2] = { (uint32_t)isa_next_rip(cs, i), cs->seg[SREG_CS].selector };
	uint64_t offset;
	uint16_t selector = far_pointer(cs, i, &offset);
	struct cpu_segment s = new_segment(cs, selector, SREG_CS);

	if (offset > s.limit)
		gp0(cs);
	stack_push(cs, 2, i->opsize, frame);
	set_segment(cs, SREG_CS, s);
	cs->rip = offset;
}

static void ret_far(struct cpu_state *cs, const struct isa_insn *i)
{
	uint32_t frame[2];

	stack_peek(cs, 2, i->opsize, frame);
	far_transfer(cs, (uint16_t)frame[1], frame[0]);
	stack_move(cs, 2U * i->opsize + (i->opcode == 0xca ? (uint16_t)i->imm : 0));
}

#define FLAGS_OF_CPL0                                                                          \
	(X86_FLAGS_ARITH | X86_FLAGS_TF | X86_FLAGS_IF | X86_FLAGS_DF | X86_FLAGS_IOPL | \
	 X86_FLAGS_NT)

/* What POPF and IRET may write at CPL 0 or in real mode. */
static uint64_t popped_flags(const struct cpu_state *cs, uint64_t v, unsigned size, bool iret)
{
	uint64_t mask = FLAGS_OF_CPL0;

	if (size == 4)
		mask |= X86_FLAGS_AC | X86_FLAGS_ID | (iret ? X86_FLAGS_RF : 0);
	return (cpu_rflags(cs) & ~(mask | X86_FLAGS_RF)) | (v & mask);
}

static void iret(struct cpu_state *cs, const struct isa_insn *i)
{
	uint32_t frame[3];

	if (!real_mode(cs))
		kvm_emulator_unsupported(cs);
	stack_peek(cs, 3, i->opsize, frame);
	far_transfer(cs, (uint16_t)frame[1], frame[0]);
	stack_move(cs, 3U * i->opsize);
	cpu_set_rflags(cs, popped_flags(cs, frame[2], i->opsize, true));
	vmx_set_nmi_mask(vcpu_of(cs), false);
}

void kvm_emulate_int_real(struct cpu_state *cs, const struct isa_insn *i)
{
	uint32_t frame[3] = { (uint16_t)isa_next_rip(cs, i), cs->seg[SREG_CS].selector,
			      (uint16_t)cpu_rflags(cs) };
	unsigned vector = (unsigned)(uint8_t)i->imm;
	uint32_t entry;

	if (!real_mode(cs))
		kvm_emulator_unsupported(cs);
	if (vector * 4 + 3 > cs->idtr.limit)
		gp0(cs);
	entry = (uint32_t)isa_load(cs, (uint32_t)(cs->idtr.base + vector * 4), 4);
	stack_push(cs, 3, 2, frame);
	cpu_set_rflags(cs, cpu_rflags(cs) & ~(X86_FLAGS_IF | X86_FLAGS_TF | X86_FLAGS_AC |
					      X86_FLAGS_RF));
	set_segment(cs, SREG_CS, new_segment(cs, (uint16_t)(entry >> 16), SREG_CS));
	cs->rip = (uint16_t)entry;
}

static void int_fixed(struct cpu_state *cs, const struct isa_insn *i)
{
	struct isa_insn as_int = *i;

	if (i->aux == X86_TRAP_OF && !(cs->cc & CC_OF)) {
		next(cs, i);
		return;
	}
	as_int.imm = i->aux;
	kvm_emulate_int_real(cs, &as_int);
}

/* --- flags --- */

static void require_iopl(struct cpu_state *cs)
{
	if (!real_mode(cs) && cs->cpl > FIELD_GET(X86_FLAGS_IOPL, cs->rflags))
		gp0(cs);
}

static void cli(struct cpu_state *cs, const struct isa_insn *i)
{
	require_iopl(cs);
	cs->rflags &= ~X86_FLAGS_IF;
	next(cs, i);
}

static void sti(struct cpu_state *cs, const struct isa_insn *i)
{
	require_iopl(cs);
	if (!(cs->rflags & X86_FLAGS_IF))
		kvm_emulator_sys(cs)->shadow = KVM_X86_SHADOW_INT_STI;
	cs->rflags |= X86_FLAGS_IF;
	next(cs, i);
}

static void pushf(struct cpu_state *cs, const struct isa_insn *i)
{
	isa_push(cs, i->opsize, cpu_rflags(cs) & ~(X86_FLAGS_RF | X86_FLAGS_VM));
	next(cs, i);
}

static void popf(struct cpu_state *cs, const struct isa_insn *i)
{
	if (!real_mode(cs) && cs->cpl != 0)
		kvm_emulator_unsupported(cs);
	cpu_set_rflags(cs, popped_flags(cs, isa_pop(cs, i->opsize), i->opsize, false));
	next(cs, i);
}

/* --- tables, control and debug registers --- */

static void load_table(struct cpu_state *cs, const struct isa_insn *i)
{
	struct cpu_dtable *t = i->aux ? &cs->idtr : &cs->gdtr;
	gva_t lin;
	uint32_t base;
	uint16_t limit;

	require_cpl0(cs);
	lin = isa_linear(cs, i->seg, isa_ea(cs, i), 6, ISA_READ);
	limit = (uint16_t)isa_load(cs, lin, 2);
	base = (uint32_t)isa_load(cs, lin + 2, 4);
	t->base = i->opsize == 2 ? base & 0xffffff : base;
	t->limit = limit;
	kvm_emulator_sys(cs)->dirty_tables = true;
	next(cs, i);
}

static void store_table(struct cpu_state *cs, const struct isa_insn *i)
{
	const struct cpu_dtable *t = i->aux ? &cs->idtr : &cs->gdtr;
	uint64_t image = (uint16_t)t->limit | (uint64_t)(uint32_t)t->base << 16;

	isa_store_bytes(cs, isa_linear(cs, i->seg, isa_ea(cs, i), 6, ISA_WRITE), &image, 6);
	next(cs, i);
}

static void set_cr(struct cpu_state *cs, const struct isa_insn *i, unsigned nr, uint64_t v)
{
	struct kvm_vcpu *vcpu = vcpu_of(cs);
	int err = nr == 0 ? kvm_set_cr0(vcpu, v) : nr == 3 ? kvm_set_cr3(vcpu, v)
		: nr == 4 ? kvm_set_cr4(vcpu, v) : kvm_set_cr8(vcpu, v);

	if (err)
		gp0(cs);
	next(cs, i);
}

static void mov_to_cr(struct cpu_state *cs, const struct isa_insn *i)
{
	require_cpl0(cs);
	if (i->src == 2) {
		vmx_set_cr2(vmx_processor(vcpu_of(cs)), (uint32_t)cs->gpr[i->dst]);
		next(cs, i);
		return;
	}
	set_cr(cs, i, i->src, (uint32_t)cs->gpr[i->dst]);
}

static void mov_from_cr(struct cpu_state *cs, const struct isa_insn *i)
{
	struct kvm_vcpu *vcpu = vcpu_of(cs);
	uint64_t v = i->src == 0 ? cs->cr0 : i->src == 2 ? vmx_get_cr2(vmx_processor(vcpu))
		   : i->src == 3 ? cs->cr3 : i->src == 4 ? cs->cr4 : kvm_get_cr8(vcpu);

	require_cpl0(cs);
	isa_set_gpr(cs, i->dst, 4, v);
	next(cs, i);
}

#define CR0_LMSW (X86_CR0_PE | X86_CR0_MP | X86_CR0_EM | X86_CR0_TS)

static void lmsw(struct cpu_state *cs, const struct isa_insn *i)
{
	uint64_t v;

	require_cpl0(cs);
	v = read_rm(cs, i, 2) & CR0_LMSW;
	/* PE can be set only */
	set_cr(cs, i, 0, (cs->cr0 & ~(CR0_LMSW & ~X86_CR0_PE)) | v);
}

static void smsw(struct cpu_state *cs, const struct isa_insn *i)
{
	write_rm(cs, i, i->flags & ISA_MEM ? 2 : i->opsize, cs->cr0);
	next(cs, i);
}

static void clts(struct cpu_state *cs, const struct isa_insn *i)
{
	require_cpl0(cs);
	set_cr(cs, i, 0, cs->cr0 & ~X86_CR0_TS);
}

static void mov_dr(struct cpu_state *cs, const struct isa_insn *i)
{
	require_cpl0(cs);
	if (i->opcode & 2) {
		if (kvm_set_dr(vcpu_of(cs), i->src, (uint32_t)cs->gpr[i->dst]))
			gp0(cs);
	} else {
		isa_set_gpr(cs, i->dst, 4, kvm_get_dr(vcpu_of(cs), i->src));
	}
	next(cs, i);
}

/* --- the rest --- */

static void hlt(struct cpu_state *cs, const struct isa_insn *i)
{
	require_cpl0(cs);
	kvm_emulator_sys(cs)->halt = true;
	next(cs, i);
}

static void cpuid(struct cpu_state *cs, const struct isa_insn *i)
{
	uint32_t eax = (uint32_t)cs->gpr[RAX], ecx = (uint32_t)cs->gpr[RCX], ebx, edx;

	kvm_cpuid(vcpu_of(cs), &eax, &ebx, &ecx, &edx);
	cs->gpr[RAX] = eax;
	cs->gpr[RBX] = ebx;
	cs->gpr[RCX] = ecx;
	cs->gpr[RDX] = edx;
	next(cs, i);
}

static void read_counter(struct cpu_state *cs, const struct isa_insn *i, uint32_t msr)
{
	uint64_t v = 0;

	if (kvm_get_msr(vcpu_of(cs), msr, &v, false))
		gp0(cs);
	cs->gpr[RAX] = (uint32_t)v;
	cs->gpr[RDX] = v >> 32;
	next(cs, i);
}

static void rdmsr(struct cpu_state *cs, const struct isa_insn *i)
{
	require_cpl0(cs);
	read_counter(cs, i, (uint32_t)cs->gpr[RCX]);
}

static void rdtsc(struct cpu_state *cs, const struct isa_insn *i)
{
	read_counter(cs, i, MSR_IA32_TSC);
}

static void wrmsr(struct cpu_state *cs, const struct isa_insn *i)
{
	require_cpl0(cs);
	if (kvm_set_msr(vcpu_of(cs), (uint32_t)cs->gpr[RCX],
			(uint32_t)cs->gpr[RAX] | cs->gpr[RDX] << 32, false))
		gp0(cs);
	next(cs, i);
}

/* WBINVD, INVD: no cache of ours. */
static void nothing(struct cpu_state *cs, const struct isa_insn *i)
{
	require_cpl0(cs);
	next(cs, i);
}

static void rsm(struct cpu_state *cs, const struct isa_insn *i)
{
	if (!vcpu_of(cs)->arch->smm)
		isa_raise(cs, X86_TRAP_UD);
	if (!kvm_leave_smm(vcpu_of(cs)))
		kvm_emulator_unsupported(cs);
	kvm_emulator_replaced(cs);
}

/* PAUSE, fences, hints about caches: nothing of ours is out of order or cached. */
static void hint(struct cpu_state *cs, const struct isa_insn *i)
{
	next(cs, i);
}

/* Of protected mode only; there the processor runs them as soon as it can enter. */
static void not_in_real_mode(struct cpu_state *cs, const struct isa_insn *i)
{
	if (real_mode(cs))
		isa_raise(cs, X86_TRAP_UD);
	kvm_emulator_unsupported(cs);
}

/* --- choosing a handler --- */

static isa_fn *mov_handler(struct isa_insn *i)
{
	if (i->map == 0 && i->opcode == 0x8c)
		return i->src <= SREG_GS ? mov_from_sreg : NULL;
	if (i->map == 0 && i->opcode == 0x8e)
		return i->src <= SREG_GS && i->src != SREG_CS ? mov_to_sreg : NULL;
	if (i->map != 1 || (i->opcode & ~3) != 0x20)
		return NULL;
	i->flags &= (uint8_t)~ISA_MEM;
	if (i->opcode & 1)
		return mov_dr;
	return i->opcode & 2 ? mov_to_cr : mov_from_cr;
}

static isa_fn *push_pop_handler(struct isa_insn *i, bool pop)
{
	if (i->map == 0 && (i->opcode & ~0x1f) == 0 && (i->opcode & 7) >= 6)
		i->src = i->opcode >> 3;
	else if (i->map == 1 && (i->opcode & 0xf6) == 0xa0)
		i->src = i->opcode & 8 ? SREG_GS : SREG_FS;
	else
		return NULL;
	return pop ? pop_sreg : push_sreg;
}

/* An immediate far pointer: offset to i->imm, selector to i->disp. */
static isa_fn *far_handler(const struct isa_decoded *d, struct isa_insn *i, isa_fn *fn)
{
	const uint8_t *p = d->bytes + d->insn.length - 2 - i->opsize;

	if (d->insn.meta.branch_type != ZYDIS_BRANCH_TYPE_FAR)
		return NULL;
	if (i->opcode != 0x9a && i->opcode != 0xea)
		return i->flags & ISA_MEM ? fn : NULL;
	i->imm = 0;
	for (unsigned n = 0; n < i->opsize; n++)
		i->imm |= (uint64_t)p[n] << (8 * n);
	i->disp = p[i->opsize] | p[i->opsize + 1] << 8;
	i->flags &= (uint8_t)~ISA_MEM;
	return fn;
}

static isa_fn *with_aux(struct isa_insn *i, unsigned aux, isa_fn *fn)
{
	i->aux = (uint8_t)aux;
	return fn;
}

static isa_fn *in_memory(struct isa_insn *i, unsigned aux, isa_fn *fn)
{
	return i->flags & ISA_MEM ? with_aux(i, aux, fn) : NULL;
}

static isa_fn *choose(const struct isa_decoded *d, struct isa_insn *i)
{
	switch (d->insn.mnemonic) {
	case ZYDIS_MNEMONIC_MOV: return mov_handler(i);
	case ZYDIS_MNEMONIC_PUSH: return push_pop_handler(i, false);
	case ZYDIS_MNEMONIC_POP: return push_pop_handler(i, true);
	case ZYDIS_MNEMONIC_JMP: return far_handler(d, i, jmp_far);
	case ZYDIS_MNEMONIC_CALL: return far_handler(d, i, call_far);
	case ZYDIS_MNEMONIC_RET: return i->opcode == 0xca || i->opcode == 0xcb ? ret_far : NULL;
	case ZYDIS_MNEMONIC_IRET:
	case ZYDIS_MNEMONIC_IRETD: return iret;
	case ZYDIS_MNEMONIC_INT: return kvm_emulate_int_real;
	case ZYDIS_MNEMONIC_INT1: return with_aux(i, X86_TRAP_DB, int_fixed);
	case ZYDIS_MNEMONIC_INT3: return with_aux(i, X86_TRAP_BP, int_fixed);
	case ZYDIS_MNEMONIC_INTO: return with_aux(i, X86_TRAP_OF, int_fixed);
	case ZYDIS_MNEMONIC_LES: return in_memory(i, SREG_ES, load_far_pointer);
	case ZYDIS_MNEMONIC_LDS: return in_memory(i, SREG_DS, load_far_pointer);
	case ZYDIS_MNEMONIC_LSS: return in_memory(i, SREG_SS, load_far_pointer);
	case ZYDIS_MNEMONIC_LFS: return in_memory(i, SREG_FS, load_far_pointer);
	case ZYDIS_MNEMONIC_LGS: return in_memory(i, SREG_GS, load_far_pointer);
	case ZYDIS_MNEMONIC_LGDT: return in_memory(i, 0, load_table);
	case ZYDIS_MNEMONIC_LIDT: return in_memory(i, 1, load_table);
	case ZYDIS_MNEMONIC_SGDT: return in_memory(i, 0, store_table);
	case ZYDIS_MNEMONIC_SIDT: return in_memory(i, 1, store_table);
	case ZYDIS_MNEMONIC_CLI: return cli;
	case ZYDIS_MNEMONIC_STI: return sti;
	case ZYDIS_MNEMONIC_PUSHF:
	case ZYDIS_MNEMONIC_PUSHFD: return pushf;
	case ZYDIS_MNEMONIC_POPF:
	case ZYDIS_MNEMONIC_POPFD: return popf;
	case ZYDIS_MNEMONIC_LMSW: return lmsw;
	case ZYDIS_MNEMONIC_SMSW: return smsw;
	case ZYDIS_MNEMONIC_CLTS: return clts;
	case ZYDIS_MNEMONIC_HLT: return hlt;
	case ZYDIS_MNEMONIC_CPUID: return cpuid;
	case ZYDIS_MNEMONIC_RDMSR: return rdmsr;
	case ZYDIS_MNEMONIC_WRMSR: return wrmsr;
	case ZYDIS_MNEMONIC_RDTSC: return rdtsc;
	case ZYDIS_MNEMONIC_PAUSE:
	case ZYDIS_MNEMONIC_LFENCE:
	case ZYDIS_MNEMONIC_SFENCE:
	case ZYDIS_MNEMONIC_MFENCE:
	case ZYDIS_MNEMONIC_CLFLUSH:
	case ZYDIS_MNEMONIC_CLFLUSHOPT:
	case ZYDIS_MNEMONIC_CLWB: return hint;
	case ZYDIS_MNEMONIC_LLDT:
	case ZYDIS_MNEMONIC_LTR:
	case ZYDIS_MNEMONIC_SLDT:
	case ZYDIS_MNEMONIC_STR:
	case ZYDIS_MNEMONIC_LAR:
	case ZYDIS_MNEMONIC_LSL:
	case ZYDIS_MNEMONIC_VERR:
	case ZYDIS_MNEMONIC_VERW:
	case ZYDIS_MNEMONIC_ARPL: return not_in_real_mode;
	case ZYDIS_MNEMONIC_RSM: return rsm;
	case ZYDIS_MNEMONIC_INVD:
	case ZYDIS_MNEMONIC_WBINVD: return nothing;
	default: return NULL;
	}
}

isa_fn *kvm_emulator_system(const struct isa_decoded *d, struct isa_insn *i)
{
	bool prefix66 = (d->insn.attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE) != 0;

	if (d->mode == ISA_CODE64 || d->insn.attributes & ZYDIS_ATTRIB_HAS_LOCK)
		return NULL;
	if (d->insn.attributes & ZYDIS_ATTRIB_HAS_MODRM) {
		i->src = d->insn.raw.modrm.reg;
		i->dst = d->insn.raw.modrm.rm;
	}
	i->opsize = (d->mode == ISA_CODE32) != prefix66 ? 4 : 2;
	i->flags |= ISA_ENDS_BLOCK;
	return choose(d, i);
}
