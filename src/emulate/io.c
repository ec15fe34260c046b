/*
 * IN, OUT, INS and OUTS of emulated instructions, a page of string elements at
 * a time. The invariants are emulate.c's.
 */
#include <string.h>

#include "emulate/internal.h"

static uint64_t ad_mask(const struct isa_insn *i)
{
	return i->adsize == 8 ? ~0ULL : i->adsize == 4 ? 0xffffffff : 0xffff;
}

/* A counter or pointer register, changed at the address size's width. */
static void add_reg(struct cpu_state *cs, const struct isa_insn *i, unsigned reg, int64_t delta)
{
	isa_set_gpr(cs, reg, i->adsize, cs->gpr[reg] + (uint64_t)delta);
}

static uint64_t repetitions(const struct cpu_state *cs, const struct isa_insn *i)
{
	return i->flags & (ISA_REP | ISA_REPNE) ? cs->gpr[RCX] & ad_mask(i) : 1;
}

/* How many elements from offset `reg` on stay in one page, going up. */
static unsigned batch(const struct cpu_state *cs, uint64_t lin, unsigned size, uint64_t n)
{
	uint64_t room = (PAGE_SIZE - (lin & ~PAGE_MASK)) / size;

	if (cs->rflags & X86_FLAGS_DF || room == 0)
		return 1;
	n = min_u64(n, room);
	return (unsigned)min_u64(n, PAGE_SIZE / size);
}

static void step(struct cpu_state *cs, const struct isa_insn *i, unsigned reg, unsigned size)
{
	add_reg(cs, i, reg, cs->rflags & X86_FLAGS_DF ? -(int64_t)size : (int64_t)size);
	if (i->flags & (ISA_REP | ISA_REPNE))
		add_reg(cs, i, RCX, -1);
}

static void string_end(struct cpu_state *cs, const struct isa_insn *i)
{
	bool again = (i->flags & (ISA_REP | ISA_REPNE)) && (cs->gpr[RCX] & ad_mask(i));

	cs->rip = again ? isa_rip(cs) : isa_next_rip(cs, i);
}

#define TSS_IO_MAP_BASE 0x66
#define TSS_32BIT 8 /* of the type: a 16-bit TSS has no map */

static void check_l1(struct cpu_state *cs, uint16_t port, unsigned size)
{
	struct kvm_vcpu *vcpu = kvm_emulator_vcpu(cs);

	if (unlikely(is_guest_mode(vcpu)) && nested_vmx_l1_wants_port(vcpu, port, size))
		kvm_emulator_retry(cs);
}

/* #GP(0) unless `size` ports from `port` are the guest's code's (SDM Vol. 1, "I/O Permission Bit Map"). */
static void check_port(struct cpu_state *cs, uint16_t port, unsigned size)
{
	uint64_t at;
	uint16_t bits;

	if (!(cs->cr0 & X86_CR0_PE) ||
	    (!(cs->rflags & X86_FLAGS_VM) && cs->cpl <= FIELD_GET(X86_FLAGS_IOPL, cs->rflags)))
		return;
	kvm_emulator_load_tr_ldt(cs);
	if (cs->tr.ar & VMX_AR_UNUSABLE || !(cs->tr.ar & TSS_32BIT) || cs->tr.limit < TSS_IO_MAP_BASE + 1)
		isa_raise_error(cs, X86_TRAP_GP, 0);
	at = isa_sys_load(cs, cs->tr.base + TSS_IO_MAP_BASE, 2) + port / 8;
	if (at + 1 > cs->tr.limit) /* two bytes are always read */
		isa_raise_error(cs, X86_TRAP_GP, 0);
	bits = (uint16_t)isa_sys_load(cs, cs->tr.base + at, 2);
	if (bits >> (port % 8) & ((1U << size) - 1))
		isa_raise_error(cs, X86_TRAP_GP, 0);
}

static void do_ins(struct cpu_state *cs, const struct isa_insn *i)
{
	struct kvm_emulator *e = kvm_emulator_of(cs);
	uint16_t port = (uint16_t)cs->gpr[RDX];
	unsigned size = i->aux, n;
	uint64_t lin;

	check_port(cs, port, size);
	check_l1(cs, port, size);
	if (repetitions(cs, i) == 0) {
		string_end(cs, i);
		return;
	}
	lin = isa_linear(cs, SREG_ES, cs->gpr[RDI] & ad_mask(i), size, ISA_WRITE);
	(void)kvm_emulator_mem(cs, lin, size, ISA_WRITE, cs->bounce);
	if (e->pio_next == e->pio_avail) {
		n = batch(cs, lin, size, repetitions(cs, i));
		e->pio_next = 0;
		e->pio_avail = 0;
		if (kvm_pio_in(kvm_emulator_vcpu(cs), port, (int)size, e->pio_in, n)) {
			e->pio_wait = true;
			kvm_emulator_leave(e, OUT_EXIT);
		}
		e->pio_avail = n * size;
	}
	while (e->pio_next < e->pio_avail && repetitions(cs, i)) {
		lin = isa_linear(cs, SREG_ES, cs->gpr[RDI] & ad_mask(i), size, ISA_WRITE);
		(void)kvm_emulator_mem(cs, lin, size, ISA_WRITE, cs->bounce);
		memcpy(cs->bounce, e->pio_in + e->pio_next, size);
		kvm_emulator_mem_commit(cs, lin, size, cs->bounce);
		e->pio_next += size;
		step(cs, i, RDI, size);
		if (!(i->flags & (ISA_REP | ISA_REPNE)))
			break;
	}
	string_end(cs, i);
}

static void do_outs(struct cpu_state *cs, const struct isa_insn *i)
{
	struct kvm_emulator *e = kvm_emulator_of(cs);
	uint16_t port = (uint16_t)cs->gpr[RDX];
	unsigned size = i->aux, n;
	uint8_t *buf = e->pio_in;
	uint64_t lin;

	check_port(cs, port, size);
	check_l1(cs, port, size);
	if (repetitions(cs, i) == 0) {
		string_end(cs, i);
		return;
	}
	lin = isa_linear(cs, i->seg, cs->gpr[RSI] & ad_mask(i), size, ISA_READ);
	n = batch(cs, lin, size, repetitions(cs, i));
	for (unsigned k = 0; k < n; k++) {
		lin = isa_linear(cs, i->seg, (cs->gpr[RSI] + k * size) & ad_mask(i), size,
				 ISA_READ);
		memcpy(buf + k * size, kvm_emulator_mem(cs, lin, size, ISA_READ, cs->bounce), size);
	}
	if (kvm_pio_out(kvm_emulator_vcpu(cs), port, (int)size, buf, n))
		e->pio_exit = true;
	for (unsigned k = 0; k < n; k++)
		step(cs, i, RSI, size);
	string_end(cs, i);
}

/* IN and OUT, where the processor does not run the guest. e4..e7 have the port in the instruction. */
static uint16_t port_of(const struct cpu_state *cs, const struct isa_insn *i)
{
	return i->opcode & 8 ? (uint16_t)cs->gpr[RDX] : (uint8_t)i->imm;
}

static void do_in(struct cpu_state *cs, const struct isa_insn *i)
{
	struct kvm_emulator *e = kvm_emulator_of(cs);
	uint64_t v = 0;

	check_port(cs, port_of(cs, i), i->aux);
	check_l1(cs, port_of(cs, i), i->aux);
	if (e->pio_next == e->pio_avail) {
		e->pio_next = e->pio_avail = 0;
		if (kvm_pio_in(kvm_emulator_vcpu(cs), port_of(cs, i), i->aux, e->pio_in, 1)) {
			e->pio_wait = true;
			kvm_emulator_leave(e, OUT_EXIT);
		}
		e->pio_avail = i->aux;
	}
	memcpy(&v, e->pio_in + e->pio_next, i->aux);
	e->pio_next += i->aux;
	isa_set_gpr(cs, RAX, i->aux, v);
	cs->rip = isa_next_rip(cs, i);
}

static void do_out(struct cpu_state *cs, const struct isa_insn *i)
{
	struct kvm_emulator *e = kvm_emulator_of(cs);

	check_port(cs, port_of(cs, i), i->aux);
	check_l1(cs, port_of(cs, i), i->aux);
	if (kvm_pio_out(kvm_emulator_vcpu(cs), port_of(cs, i), i->aux, &cs->gpr[RAX], 1))
		e->pio_exit = true;
	cs->rip = isa_next_rip(cs, i);
}

isa_fn *kvm_emulator_io(const struct isa_decoded *d, struct isa_insn *i)
{
	switch (d->insn.mnemonic) {
	case ZYDIS_MNEMONIC_INSB:
	case ZYDIS_MNEMONIC_INSW:
	case ZYDIS_MNEMONIC_INSD:
	case ZYDIS_MNEMONIC_OUTSB:
	case ZYDIS_MNEMONIC_OUTSW:
	case ZYDIS_MNEMONIC_OUTSD:
		/* 6c 6d ins, 6e 6f outs; even opcodes are bytes; there is no 8-byte form */
		i->flags |= ISA_ENDS_BLOCK;
		i->aux = !(d->insn.opcode & 1) ? 1 : d->insn.operand_width == 16 ? 2 : 4;
		return d->insn.opcode & 2 ? do_outs : do_ins;
	case ZYDIS_MNEMONIC_IN:
	case ZYDIS_MNEMONIC_OUT:
		i->flags |= ISA_ENDS_BLOCK;
		i->aux = !(d->insn.opcode & 1) ? 1 : d->insn.operand_width == 16 ? 2 : 4;
		return d->insn.mnemonic == ZYDIS_MNEMONIC_IN ? do_in : do_out;
	default:
		return NULL;
	}
}
