/*
 * FNSTENV, FLDENV, FNSAVE and FRSTOR, on the image: the silicon would store the
 * address of our stub as instruction pointer, and has the 64-bit mode's format
 * only. The four formats (16 or 32 bits, real or protected) are those of the
 * SDM Vol. 1, "Saving the x87 FPU's State with FSTENV/FNSTENV and FSAVE/FNSAVE".
 *
 * FCS and FDS are stored as 0 (CPUID.7.EBX[13] says they are deprecated).
 *
 * Locks: none; runs on the vCPU's thread, general registers only.
 */
#include "isa/fpu.h"
#include "isa/isa.h"
#include "isa/simd.h"
#include "lib/copy.h"

#define FSW_ES 0x0080u
#define FSW_B 0x8000u
#define FSW_TOP(fsw) (((fsw) >> 11) & 7)
#define X87_EXCEPTIONS 0x3fu
#define FCW_WRITABLE 0x1f3fu
#define FCW_ONE 0x0040u
#define ST_BYTES 10u

enum { TAG_VALID, TAG_ZERO, TAG_SPECIAL, TAG_EMPTY };

static unsigned env_size(const struct isa_insn *i)
{
	return i->aux ? 14 : 28;
}

static unsigned tag_of(const uint64_t st[2])
{
	unsigned exponent = st[1] & 0x7fff;

	if (exponent == 0)
		return st[0] ? TAG_SPECIAL : TAG_ZERO;
	return exponent == 0x7fff || !(st[0] >> 63) ? TAG_SPECIAL : TAG_VALID;
}

/* Two bits a physical register, from the abridged tags and the contents. */
static uint16_t full_tags(const struct isa_xsave_image *x)
{
	unsigned tags = 0, top = FSW_TOP(x->fsw);

	for (unsigned p = 0; p < 8; p++) {
		unsigned t = TAG_EMPTY;

		if (x->ftw & (1u << p))
			t = tag_of(x->st[(p - top) & 7]);
		tags |= t << (2 * p);
	}
	return (uint16_t)tags;
}

static uint8_t abridged_tags(uint16_t full)
{
	unsigned tags = 0;

	for (unsigned p = 0; p < 8; p++)
		if (((full >> (2 * p)) & 3) != TAG_EMPTY)
			tags |= 1u << p;
	return (uint8_t)tags;
}

/* The image holds ST(0)..ST(7); a new TOP gives the same registers other names. */
static void rename_registers(struct isa_xsave_image *x, unsigned new_top)
{
	unsigned turn = (new_top - FSW_TOP(x->fsw)) & 7;

	while (turn--) {
		uint64_t low = x->st[0][0], high = x->st[0][1];

		for (unsigned n = 0; n < 7; n++) {
			x->st[n][0] = x->st[n + 1][0];
			x->st[n][1] = x->st[n + 1][1];
		}
		x->st[7][0] = low;
		x->st[7][1] = high;
	}
}

static bool real_format(const struct cpu_state *cs)
{
	return !(cs->cr0 & X86_CR0_PE) || (cs->rflags & X86_FLAGS_VM);
}

/* The environment as words of 16 or 32 bits; e has room for seven of 32. */
static void build_env(struct cpu_state *cs, const struct isa_insn *i,
		      const struct isa_xsave_image *x, uint32_t e[7])
{
	uint32_t ip = (uint32_t)x->fip, dp = (uint32_t)x->fdp, op = x->fop & 0x7ff;
	uint32_t high = i->aux ? 0 : 0xffff0000;

	e[0] = high | x->fcw;
	e[1] = high | x->fsw;
	e[2] = high | full_tags(x);
	if (real_format(cs)) {
		ip += (uint32_t)cs->seg[SREG_CS].base;
		e[3] = high | (ip & 0xffff);
		e[4] = i->aux ? ((ip >> 16) & 0xf) << 12 | op : (ip >> 16) << 12 | op;
		e[5] = high | (dp & 0xffff);
		e[6] = i->aux ? ((dp >> 16) & 0xf) << 12 : (dp >> 16) << 12;
	} else {
		e[3] = ip;
		e[4] = i->aux ? 0 : op << 16;
		e[5] = dp;
		e[6] = high;
	}
	if (i->aux)
		for (unsigned n = 0; n < 7; n++) {
			uint16_t v = (uint16_t)e[n];

			copy_bytes((uint8_t *)e + 2 * n, &v, 2);
		}
}

static void take_env(struct cpu_state *cs, const struct isa_insn *i, struct isa_xsave_image *x,
		     const uint8_t *bytes)
{
	uint32_t e[7] = { 0 };

	for (unsigned n = 0; n < 7; n++)
		copy_bytes(&e[n], bytes + n * (i->aux ? 2 : 4), i->aux ? 2 : 4);
	rename_registers(x, FSW_TOP(e[1]));
	x->fcw = (uint16_t)((e[0] & FCW_WRITABLE) | FCW_ONE);
	x->fsw = (uint16_t)(e[1] & ~(FSW_ES | FSW_B));
	if (x->fsw & ~x->fcw & X87_EXCEPTIONS)
		x->fsw |= FSW_ES | FSW_B;
	x->ftw = abridged_tags((uint16_t)e[2]);
	if (real_format(cs)) {
		uint32_t mask = i->aux ? 0xf0000 : 0xffff0000;

		x->fip = ((e[3] & 0xffff) | ((e[4] << 4) & mask)) - (uint32_t)cs->seg[SREG_CS].base;
		x->fip = (uint32_t)x->fip;
		x->fdp = (e[5] & 0xffff) | ((e[6] << 4) & mask);
		x->fop = e[4] & 0x7ff;
	} else {
		x->fip = e[3];
		x->fdp = e[5];
		x->fop = i->aux ? 0 : (e[4] >> 16) & 0x7ff;
	}
	x->xstate_bv |= XFEATURE_MASK_FP;
}

/* FLDENV and FRSTOR wait: an exception that is pending comes first. */
static void check_pending(struct cpu_state *cs, const struct isa_xsave_image *x)
{
	if (x->fsw & ~x->fcw & X87_EXCEPTIONS)
		isa_raise(cs, X86_TRAP_MF);
}

static void fnstenv(struct cpu_state *cs, const struct isa_insn *i)
{
	struct isa_xsave_image *x;
	uint32_t e[7];
	uint64_t lin;

	simd_check(cs, SIMD_X87);
	lin = isa_operand(cs, i, env_size(i), ISA_WRITE);
	x = isa_fpu_image(cs);
	build_env(cs, i, x, e);
	isa_store_bytes(cs, lin, e, env_size(i));
	x = isa_fpu_image(cs);
	x->fcw |= X87_EXCEPTIONS;
	x->fsw &= (uint16_t)~(FSW_ES | FSW_B);
	x->xstate_bv |= XFEATURE_MASK_FP;
}

static void fldenv(struct cpu_state *cs, const struct isa_insn *i)
{
	uint8_t e[28];
	uint64_t lin;

	simd_check(cs, SIMD_X87);
	check_pending(cs, isa_fpu_image(cs));
	lin = isa_operand(cs, i, env_size(i), ISA_READ);
	isa_load_bytes(cs, lin, e, env_size(i));
	take_env(cs, i, isa_fpu_image(cs), e);
}

/* An image wants the alignment of the environment it begins with; #AC where it has it not. */
static void check_image(struct cpu_state *cs, const struct isa_insn *i, uint64_t lin, enum isa_access how)
{
	(void)cs->ops->mem(cs, lin, env_size(i), how, cs->bounce);
}

static void fnsave(struct cpu_state *cs, const struct isa_insn *i)
{
	unsigned size = env_size(i) + 8 * ST_BYTES;
	struct isa_xsave_image *x;
	uint8_t buf[28 + 8 * ST_BYTES];
	uint32_t e[7];
	uint64_t lin;

	simd_check(cs, SIMD_X87);
	lin = isa_operand(cs, i, size, ISA_WRITE);
	check_image(cs, i, lin, ISA_WRITE);
	simd_probe_write(cs, lin, size);
	x = isa_fpu_image(cs);
	build_env(cs, i, x, e);
	copy_bytes(buf, e, env_size(i));
	for (unsigned n = 0; n < 8; n++)
		copy_bytes(buf + env_size(i) + n * ST_BYTES, x->st[n], ST_BYTES);
	simd_store_area(cs, lin, buf, size);
	x = isa_fpu_image(cs);
	/* As FNINIT: register contents stay, all tagged empty. */
	rename_registers(x, 0);
	x->fcw = FCW_DEFAULT;
	x->fsw = 0;
	x->ftw = 0;
	x->fop = 0;
	x->fip = 0;
	x->fdp = 0;
	x->xstate_bv |= XFEATURE_MASK_FP;
}

static void frstor(struct cpu_state *cs, const struct isa_insn *i)
{
	unsigned size = env_size(i) + 8 * ST_BYTES;
	struct isa_xsave_image *x;
	uint8_t buf[28 + 8 * ST_BYTES];
	uint64_t lin;

	simd_check(cs, SIMD_X87);
	check_pending(cs, isa_fpu_image(cs));
	lin = isa_operand(cs, i, size, ISA_READ);
	check_image(cs, i, lin, ISA_READ);
	simd_load_area(cs, lin, buf, size);
	x = isa_fpu_image(cs);
	take_env(cs, i, x, buf);
	for (unsigned n = 0; n < 8; n++)
		copy_bytes(x->st[n], buf + env_size(i) + n * ST_BYTES, ST_BYTES);
}

isa_fn *isa_x87_env_handler(const struct isa_decoded *d, struct isa_insn *i)
{
	static const struct {
		ZydisMnemonic mnemonic;
		isa_fn *fn;
	} table[] = {
		{ ZYDIS_MNEMONIC_FNSTENV, fnstenv },
		{ ZYDIS_MNEMONIC_FLDENV, fldenv },
		{ ZYDIS_MNEMONIC_FNSAVE, fnsave },
		{ ZYDIS_MNEMONIC_FRSTOR, frstor },
	};

	for (unsigned n = 0; n < ARRAY_SIZE(table); n++)
		if (table[n].mnemonic == d->insn.mnemonic) {
			unsigned bytes = simd_memory_operand(d)->size / 8;

			i->aux = bytes == 14 || bytes == 14 + 8 * ST_BYTES;
			return table[n].fn;
		}
	return NULL;
}
