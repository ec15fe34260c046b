/*
 * IN, OUT, INS, OUTS.
 *
 * First the guest's own permission (IOPL, the TSS's bitmap), then the
 * hypervisor's (exit). A port that neither forbids has nothing behind it:
 * reads give all ones, writes go nowhere.
 *
 * Source: SDM Vol. 1, "I/O Permission Bit Map"; Vol. 3, "I/O-Bitmap
 * Addresses", table "Exit Qualification for I/O Instructions".
 *
 * Locks: none; runs on the vCPU's thread.
 */
#include "cpu/system.h"

#define TSS_IO_MAP_BASE 0x66

/* #GP(0) unless the TSS allows `size` ports from `port` to less privileged code. */
static void check_io_permission(struct vmx_cpu *cpu, uint16_t port, unsigned size)
{
	const struct cpu_segment *tr = &cpu->cs.tr;
	uint32_t at;
	uint16_t bits;

	if (isa_real(&cpu->cs) || (!isa_v86(&cpu->cs) && cpu->cs.cpl <= isa_iopl(&cpu->cs)))
		return;
	if (tr->ar & VMX_AR_UNUSABLE || !(tr->ar & 8) || tr->limit < TSS_IO_MAP_BASE + 1)
		isa_raise_error(&cpu->cs, X86_TRAP_GP, 0);
	at = (uint32_t)isa_sys_load(&cpu->cs, tr->base + TSS_IO_MAP_BASE, 2) + port / 8;
	if (at + 1 > tr->limit) /* two bytes are always read */
		isa_raise_error(&cpu->cs, X86_TRAP_GP, 0);
	bits = (uint16_t)isa_sys_load(&cpu->cs, tr->base + at, 2);
	if (bits >> (port % 8) & ((1U << size) - 1))
		isa_raise_error(&cpu->cs, X86_TRAP_GP, 0);
}

static bool io_exits(const struct vmx_cpu *cpu, uint16_t port, unsigned size)
{
	if (!(cpu->primary & CPU_BASED_USE_IO_BITMAPS))
		return (cpu->primary & CPU_BASED_UNCOND_IO_EXITING) != 0;
	if (port + size > 0x10000) /* wraps around */
		return true;
	for (unsigned n = 0; n < size; n++) {
		uint32_t p = port + n;
		const uint8_t *bitmap = p & 0x8000 ? cpu->io_bitmap_b : cpu->io_bitmap_a;

		if (!bitmap || bitmap[(p & 0x7fff) / 8] >> (p % 8) & 1)
			return true;
	}
	return false;
}

static uint64_t io_qualification(uint16_t port, unsigned size, uint64_t flags)
{
	return FIELD_PREP(IO_QUAL_SIZE_MASK, size - 1) | FIELD_PREP(IO_QUAL_PORT_MASK, port) | flags;
}

static uint64_t all_ones(unsigned size)
{
	return size == 1 ? 0xff : size == 2 ? 0xffff : 0xffffffff;
}

/* --- IN, OUT --- */

/* e4-e7 have the port as immediate, ec-ef in DX; odd opcodes are not bytes. */
static void io_operands(const struct cpu_state *cs, const struct isa_insn *i, uint16_t *port,
			unsigned *size, uint64_t *qual_imm)
{
	bool imm = !(i->opcode & 8);

	*port = imm ? (uint8_t)i->imm : (uint16_t)cs->gpr[RDX];
	*size = !(i->opcode & 1) ? 1 : i->opsize == 2 ? 2 : 4;
	*qual_imm = imm ? IO_QUAL_IMM : 0;
}

void sysinsn_in(struct cpu_state *cs, const struct isa_insn *i)
{
	struct vmx_cpu *cpu = cpu_of(cs);
	uint64_t imm;
	uint16_t port;
	unsigned size;

	io_operands(cs, i, &port, &size, &imm);
	check_io_permission(cpu, port, size);
	if (io_exits(cpu, port, size))
		return cpu_leave_insn(cpu, EXIT_REASON_IO_INSTRUCTION, io_qualification(port, size, IO_QUAL_IN | imm));
	cpu_debug_io(cpu, port, size);
	isa_set_gpr(cs, RAX, size, all_ones(size));
	cpu_next(cs, i);
}

void sysinsn_out(struct cpu_state *cs, const struct isa_insn *i)
{
	struct vmx_cpu *cpu = cpu_of(cs);
	uint64_t imm;
	uint16_t port;
	unsigned size;

	io_operands(cs, i, &port, &size, &imm);
	check_io_permission(cpu, port, size);
	if (io_exits(cpu, port, size))
		return cpu_leave_insn(cpu, EXIT_REASON_IO_INSTRUCTION, io_qualification(port, size, imm));
	cpu_debug_io(cpu, port, size);
	cpu_next(cs, i);
}

/* --- INS, OUTS --- */

/* Linear address of a string operand without the checks that exits precede. */
static gva_t string_linear(struct cpu_state *cs, enum sreg seg, uint64_t offset)
{
	if (cs->code_mode == ISA_CODE64)
		return offset + (seg >= SREG_FS ? cs->seg[seg].base : 0);
	return (uint32_t)(cs->seg[seg].base + offset);
}

static uint64_t address_size_mask(const struct isa_insn *i)
{
	return i->adsize == 8 ? ~0ULL : i->adsize == 4 ? 0xffffffff : 0xffff;
}

static void exit_string(struct cpu_state *cs, const struct isa_insn *i, enum sreg seg,
			uint64_t offset, uint64_t qualification)
{
	struct cpu_exit e = {
		.reason = EXIT_REASON_IO_INSTRUCTION,
		.qualification = qualification | IO_QUAL_STRING,
		.insn_len = i->len,
		.rip = isa_rip(cs),
	};

	if (i->flags & (ISA_REP | ISA_REPNE))
		e.qualification |= IO_QUAL_REP;
	e.gla = string_linear(cs, seg, offset);
	e.insn_info = i->adsize == 8 ? 2U << 7 : i->adsize == 4 ? 1U << 7 : 0;
	if (!(qualification & IO_QUAL_IN))
		e.insn_info |= (uint32_t)seg << 15;
	cpu_vmexit(cpu_of(cs), &e);
}

/* One step: the index register moves, the count falls; true: all done. */
static bool string_advance(struct cpu_state *cs, const struct isa_insn *i, enum gpr index,
			   unsigned size)
{
	uint64_t step = cs->rflags & X86_FLAGS_DF ? -(uint64_t)size : size;

	isa_set_gpr(cs, index, i->adsize, cs->gpr[index] + step);
	if (!(i->flags & (ISA_REP | ISA_REPNE)))
		return true;
	isa_set_gpr(cs, RCX, i->adsize, cs->gpr[RCX] - 1);
	return !(cs->gpr[RCX] & address_size_mask(i));
}

static void string_io(struct cpu_state *cs, const struct isa_insn *i, bool in)
{
	struct vmx_cpu *cpu = cpu_of(cs);
	unsigned size = !(i->opcode & 1) ? 1 : i->opsize == 2 ? 2 : 4;
	uint16_t port = (uint16_t)cs->gpr[RDX];
	enum gpr index = in ? RDI : RSI;
	enum sreg seg = in ? SREG_ES : i->seg;
	uint64_t offset = cs->gpr[index] & address_size_mask(i);
	gva_t lin;

	check_io_permission(cpu, port, size);
	if (i->flags & (ISA_REP | ISA_REPNE) && !(cs->gpr[RCX] & address_size_mask(i))) {
		cpu_next(cs, i);
		return;
	}
	if (io_exits(cpu, port, size))
		exit_string(cs, i, seg, offset,
			    io_qualification(port, size, in ? IO_QUAL_IN : 0));
	lin = isa_linear(cs, seg, offset, size, in ? ISA_WRITE : ISA_READ);
	cpu_debug_io(cpu, port, size);
	if (in)
		isa_store(cs, lin, size, all_ones(size));
	else
		(void)isa_load(cs, lin, size); /* for its faults */
	if (string_advance(cs, i, index, size))
		cpu_next(cs, i);
	else
		cs->rip = isa_rip(cs); /* the next element, after a look at interrupts */
}

void sysinsn_ins(struct cpu_state *cs, const struct isa_insn *i)
{
	string_io(cs, i, true);
}

void sysinsn_outs(struct cpu_state *cs, const struct isa_insn *i)
{
	string_io(cs, i, false);
}
