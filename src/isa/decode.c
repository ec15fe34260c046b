/*
 * The decoder: Zydis's view of an instruction turned into a struct isa_insn,
 * and the table that says which handler family an opcode belongs to.
 *
 * Order of ownership: this room's integer instructions (the tables below),
 * then isa_simd_handler(), then ops->system(); what nobody claims is #UD.
 *
 * Invariants
 * 1. The result depends on bytes and code mode only.
 * 2. Every field of *out is filled before ownership is asked.
 *
 * The guest's processor has neither CET nor MPX: their encodings are the NOPs
 * they are on such a processor. CLDEMOTE and WBNOINVD are done as the NOP and
 * the WBINVD they are on a processor without them.
 * Zydis is libc-like code: cs->fpu_loaded is 0 here.
 *
 * Locks: none; no state.
 */
#include "isa/decoder.h"
#include "isa/internal.h"
#include "lib/copy.h"

#define MAX_INSN_BYTES 15

/* --- who owns an opcode; gaps are other people's --- */
static isa_pick *const one_byte[256] = {
	[0x00 ... 0x05] = isa_pick_alu, [0x08 ... 0x0d] = isa_pick_alu,
	[0x10 ... 0x15] = isa_pick_alu, [0x18 ... 0x1d] = isa_pick_alu,
	[0x20 ... 0x25] = isa_pick_alu, [0x28 ... 0x2d] = isa_pick_alu,
	[0x30 ... 0x35] = isa_pick_alu, [0x38 ... 0x3d] = isa_pick_alu,
	[0x27] = isa_pick_bcd, [0x2f] = isa_pick_bcd, [0x37] = isa_pick_bcd,
	[0x3f] = isa_pick_bcd,
	[0x40 ... 0x4f] = isa_pick_incdec_reg,
	[0x50 ... 0x57] = isa_pick_push_reg, [0x58 ... 0x5f] = isa_pick_pop_reg,
	[0x60 ... 0x61] = isa_pick_pusha, [0x62] = isa_pick_bound, [0x63] = isa_pick_movsxd,
	[0x68] = isa_pick_push_imm, [0x69] = isa_pick_imul, [0x6a] = isa_pick_push_imm,
	[0x6b] = isa_pick_imul,
	[0x70 ... 0x7f] = isa_pick_jcc,
	[0x80 ... 0x83] = isa_pick_alu_imm, [0x84 ... 0x85] = isa_pick_test,
	[0x86 ... 0x87] = isa_pick_xchg, [0x88 ... 0x8b] = isa_pick_mov,
	[0x8d] = isa_pick_lea, [0x8f] = isa_pick_pop_rm,
	[0x90 ... 0x97] = isa_pick_xchg_ax, [0x98 ... 0x99] = isa_pick_convert,
	[0x9e ... 0x9f] = isa_pick_flag,
	[0xa0 ... 0xa3] = isa_pick_mov_moffs, [0xa4 ... 0xa7] = isa_pick_string,
	[0xa8 ... 0xa9] = isa_pick_test, [0xaa ... 0xaf] = isa_pick_string,
	[0xb0 ... 0xbf] = isa_pick_mov_reg_imm,
	[0xc0 ... 0xc1] = isa_pick_shift, [0xc2 ... 0xc3] = isa_pick_ret,
	[0xc6 ... 0xc7] = isa_pick_mov_imm, [0xc8 ... 0xc9] = isa_pick_enter,
	[0xd0 ... 0xd3] = isa_pick_shift, [0xd4 ... 0xd6] = isa_pick_bcd,
	[0xd7] = isa_pick_xlat,
	[0xe0 ... 0xe3] = isa_pick_loop, [0xe8] = isa_pick_call,
	[0xe9] = isa_pick_jmp, [0xeb] = isa_pick_jmp,
	[0xf5] = isa_pick_flag, [0xf6 ... 0xf7] = isa_pick_grp3,
	[0xf8 ... 0xf9] = isa_pick_flag, [0xfc ... 0xfd] = isa_pick_flag,
	[0xfe] = isa_pick_grp4, [0xff] = isa_pick_grp5,
};

static isa_pick *const map_0f[256] = {
	[0x01] = isa_pick_direct, [0x0b] = isa_pick_ud, [0x0d] = isa_pick_nop, [0x18 ... 0x1f] = isa_pick_nop,
	[0x40 ... 0x4f] = isa_pick_cmov,
	[0x80 ... 0x8f] = isa_pick_jcc, [0x90 ... 0x9f] = isa_pick_setcc,
	[0xa3] = isa_pick_bt, [0xa4 ... 0xa5] = isa_pick_double_shift,
	[0xab] = isa_pick_bt, [0xac ... 0xad] = isa_pick_double_shift, [0xaf] = isa_pick_imul,
	[0xb0 ... 0xb1] = isa_pick_cmpxchg, [0xb3] = isa_pick_bt,
	[0xb6 ... 0xb7] = isa_pick_movx, [0xb8] = isa_pick_scan, [0xb9] = isa_pick_ud,
	[0xba ... 0xbb] = isa_pick_bt, [0xbc ... 0xbd] = isa_pick_scan,
	[0xbe ... 0xbf] = isa_pick_movx,
	[0xc0 ... 0xc1] = isa_pick_xadd, [0xc3] = isa_pick_movnti, [0xc7] = isa_pick_grp9,
	[0xc8 ... 0xcf] = isa_pick_bswap, [0xff] = isa_pick_ud,
};

static isa_fn *pick_legacy(const struct isa_decoded *d, struct isa_insn *i)
{
	isa_pick *pick = NULL;

	switch (d->insn.opcode_map) {
	case ZYDIS_OPCODE_MAP_DEFAULT: pick = one_byte[i->opcode]; break;
	case ZYDIS_OPCODE_MAP_0F: pick = map_0f[i->opcode]; break;
	case ZYDIS_OPCODE_MAP_0F38:
		if (d->insn.mnemonic == ZYDIS_MNEMONIC_CRC32)
			pick = isa_pick_crc32;
		else if (d->insn.mnemonic == ZYDIS_MNEMONIC_MOVBE)
			pick = isa_pick_movbe;
		else if (d->insn.meta.isa_set == ZYDIS_ISA_SET_MOVDIR)
			pick = isa_pick_direct;
		else
			pick = isa_pick_adx;
		break;
	default: break;
	}
	return pick ? pick(d, i) : NULL;
}

/* --- filling *i --- */
bool isa_has_rex(const struct isa_decoded *d)
{
	return d->insn.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	       (d->insn.attributes & ZYDIS_ATTRIB_HAS_REX);
}

uint8_t isa_byte_off(const struct isa_decoded *d, unsigned r)
{
	return (uint8_t)(r >= 4 && r < 8 && !isa_has_rex(d) ? (r - 4) * 8 + 1 : r * 8);
}

/* Number of a register in encoding order, of whatever class. *high: AH..BH. */
static uint8_t register_number(ZydisRegister r, bool *high)
{
	int n = ZydisRegisterGetId(r);

	*high = false;
	if (ZydisRegisterGetClass(r) == ZYDIS_REGCLASS_GPR8) {
		/* AL..BL, AH..BH, SPL..DIL, R8B.. in Zydis's order */
		if (r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH) {
			*high = true;
			return (uint8_t)(r - ZYDIS_REGISTER_AH);
		}
		return (uint8_t)(n < 4 ? n : n - 4);
	}
	return n < 0 ? ISA_NO_REG : (uint8_t)n;
}

static uint8_t segment_number(ZydisRegister r)
{
	switch (r) {
	case ZYDIS_REGISTER_ES: return SREG_ES;
	case ZYDIS_REGISTER_CS: return SREG_CS;
	case ZYDIS_REGISTER_SS: return SREG_SS;
	case ZYDIS_REGISTER_FS: return SREG_FS;
	case ZYDIS_REGISTER_GS: return SREG_GS;
	default: return SREG_DS;
	}
}

/* Segment of an implied rSI, rBX or rAX operand: an override, else DS. */
static uint8_t implied_segment(const struct isa_decoded *d)
{
	ZydisInstructionAttributes a = d->insn.attributes;

	if (a & ZYDIS_ATTRIB_HAS_SEGMENT_FS)
		return SREG_FS;
	if (a & ZYDIS_ATTRIB_HAS_SEGMENT_GS)
		return SREG_GS;
	if (d->mode == ISA_CODE64)
		return SREG_DS;
	if (a & ZYDIS_ATTRIB_HAS_SEGMENT_CS)
		return SREG_CS;
	if (a & ZYDIS_ATTRIB_HAS_SEGMENT_SS)
		return SREG_SS;
	return (a & ZYDIS_ATTRIB_HAS_SEGMENT_ES) ? SREG_ES : SREG_DS;
}

static uint8_t base_number(ZydisRegister r)
{
	bool high;

	return r == ZYDIS_REGISTER_NONE ? ISA_NO_REG : register_number(r, &high);
}

static uint8_t reg_offset(uint8_t r)
{
	return r == ISA_NO_REG ? offsetof(struct cpu_state, zero) : (uint8_t)(r * 8);
}

/*
 * Base 5 with mod 0 is no base but a displacement, whatever REX.B says (SDM Vol. 2, "Special Cases of REX
 * Encodings"). Zydis 4.0 takes it for R13D without displacement where the address size is 32.
 */
static bool sib_without_base(const struct isa_decoded *d)
{
	return (d->insn.attributes & ZYDIS_ATTRIB_HAS_SIB) && d->insn.raw.modrm.mod == 0 &&
	       d->insn.raw.sib.base == 5;
}

static void fill_memory(const struct isa_decoded *d, const ZydisDecodedOperand *o,
			struct isa_insn *i)
{
	i->flags |= ISA_MEM;
	i->memsize = (uint8_t)(o->size / 8);
	i->disp = o->mem.disp.has_displacement ? o->mem.disp.value :
		  sib_without_base(d)	       ? d->insn.raw.disp.value : 0;
	i->seg = segment_number(o->mem.segment);
	if (o->mem.base == ZYDIS_REGISTER_RIP || o->mem.base == ZYDIS_REGISTER_EIP)
		i->flags |= ISA_RIP_RELATIVE;
	else if (!sib_without_base(d))
		i->base = base_number(o->mem.base);
	if (ZydisRegisterGetClass(o->mem.index) <= ZYDIS_REGCLASS_GPR64)
		i->index = base_number(o->mem.index);
	i->scale = o->mem.scale ? o->mem.scale : 1;
	i->shift = (uint8_t)__builtin_ctz(i->scale);
	i->base_off = reg_offset(i->base);
	i->index_off = reg_offset(i->index);

	if (d->mode != ISA_CODE64 || i->adsize != 8 || i->seg == SREG_FS || i->seg == SREG_GS)
		i->ea_form = ISA_EA_SLOW;
	else if (i->flags & ISA_RIP_RELATIVE)
		i->ea_form = ISA_EA_RIP;
	else
		i->ea_form = i->index == ISA_NO_REG ? ISA_EA_BASE : ISA_EA_SIB;
}

/* ModRM.reg and .rm with their REX or VEX bits; without ModRM rm is in the opcode. */
static void fill_registers(const struct isa_decoded *d, struct isa_insn *i)
{
	bool high;
	unsigned k;

	if (d->insn.attributes & ZYDIS_ATTRIB_HAS_MODRM) {
		i->modrm = (uint8_t)(d->insn.raw.modrm.mod << 6 | d->insn.raw.modrm.reg << 3 |
				     d->insn.raw.modrm.rm);
		i->reg = d->insn.raw.modrm.reg;
		i->rm = d->insn.raw.modrm.rm;
	} else {
		i->rm = i->opcode & 7;
	}
	if (isa_has_rex(d)) {
		i->reg |= (uint8_t)(d->insn.raw.rex.R << 3);
		i->rm |= (uint8_t)(d->insn.raw.rex.B << 3);
	} else if (d->insn.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY) {
		for (k = 0; k < d->insn.operand_count_visible; k++) {
			const ZydisDecodedOperand *o = &d->operands[k];

			if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
				continue;
			if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG)
				i->reg = register_number(o->reg.value, &high);
			if (o->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM)
				i->rm = register_number(o->reg.value, &high);
		}
	}
	i->reg_off = i->opsize == 1 ? isa_byte_off(d, i->reg) : (uint8_t)(i->reg * 8);
	i->rm_off = i->opsize == 1 ? isa_byte_off(d, i->rm) : (uint8_t)(i->rm * 8);
}

/* dst, src, the memory operand and immediates, from the explicit operands. */
static void fill_operands(const struct isa_decoded *d, struct isa_insn *i)
{
	unsigned k;
	bool high;

	for (k = 0; k < d->insn.operand_count_visible; k++) {
		const ZydisDecodedOperand *o = &d->operands[k];

		if (o->type == ZYDIS_OPERAND_TYPE_MEMORY) {
			fill_memory(d, o, i);
		} else if (o->type == ZYDIS_OPERAND_TYPE_POINTER) {
			i->imm = (uint64_t)o->ptr.segment << 32 | o->ptr.offset;
		} else if (o->type == ZYDIS_OPERAND_TYPE_REGISTER) {
			uint8_t n = register_number(o->reg.value, &high);

			if (k == 0) {
				i->dst = n;
				i->flags |= high ? ISA_HIGH_DST : 0;
			} else if (i->src == ISA_NO_REG) {
				i->src = n;
				i->flags |= high ? ISA_HIGH_SRC : 0;
			}
		}
	}
	if (d->insn.raw.imm[0].size && d->operands[0].type != ZYDIS_OPERAND_TYPE_POINTER)
		i->imm = d->insn.raw.imm[0].value.u;
	if (d->insn.mnemonic == ZYDIS_MNEMONIC_ENTER)
		i->imm = (uint16_t)i->imm | (d->insn.raw.imm[1].value.u & 0xff) << 16;
}

static void fill(const struct isa_decoded *d, struct isa_insn *i)
{
	ZydisInstructionAttributes a = d->insn.attributes;

	i->mnemonic = (uint16_t)d->insn.mnemonic;
	i->len = d->insn.length;
	i->opcode = d->insn.opcode;
	i->map = (uint8_t)d->insn.opcode_map;
	i->opsize = (uint8_t)(d->insn.operand_width / 8);
	i->adsize = (uint8_t)(d->insn.address_width / 8);
	i->seg = implied_segment(d);
	i->cond = i->opcode & 15;
	if (a & ZYDIS_ATTRIB_HAS_LOCK)
		i->flags |= ISA_LOCK;
	if (a & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE))
		i->flags |= ISA_REP;
	if (a & ZYDIS_ATTRIB_HAS_REPNE)
		i->flags |= ISA_REPNE;
	fill_registers(d, i);
	fill_operands(d, i);
}

static void blank(struct isa_insn *i)
{
	fill_bytes(i, 0, sizeof(*i));
	i->len = 1;
	i->opsize = 4;
	i->dst = i->src = i->base = i->index = ISA_NO_REG;
	i->base_off = i->index_off = offsetof(struct cpu_state, zero);
	i->scale = 1;
	i->seg = SREG_DS;
	i->ea_form = ISA_EA_SLOW;
}

static void init_decoder(ZydisDecoder *z, enum isa_code_mode mode)
{
	static const ZydisDecoderMode off[] = {
		ZYDIS_DECODER_MODE_MPX, ZYDIS_DECODER_MODE_CET,
		ZYDIS_DECODER_MODE_WBNOINVD, ZYDIS_DECODER_MODE_CLDEMOTE,
	};
	static const struct {
		ZydisMachineMode machine;
		ZydisStackWidth stack;
	} as[ISA_CODE_MODES] = {
		[ISA_CODE16] = { ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16 },
		[ISA_CODE32] = { ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32 },
		[ISA_CODE64] = { ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64 },
	};
	unsigned k;

	ZydisDecoderInit(z, as[mode].machine, as[mode].stack);
	for (k = 0; k < ARRAY_SIZE(off); k++)
		ZydisDecoderEnableMode(z, off[k], ZYAN_FALSE);
}

static enum isa_decode_result no_instruction(struct isa_insn *out, isa_fn *fn, unsigned len,
					     enum isa_decode_result result)
{
	out->fn = fn;
	out->len = (uint8_t)(len ? len : 1);
	out->flags |= ISA_ENDS_BLOCK;
	return result;
}

enum isa_decode_result isa_decode(const uint8_t *bytes, size_t nr_bytes,
				  enum isa_code_mode mode, const struct isa_ops *ops,
				  struct isa_insn *out)
{
	size_t n = min_u64(nr_bytes, MAX_INSN_BYTES);
	struct isa_decoded d;
	ZydisDecoder z;
	ZyanStatus status;
	isa_fn *fn;

	d.bytes = bytes;
	d.mode = mode;
	init_decoder(&z, mode);
	status = ZydisDecoderDecodeFull(&z, bytes, n, &d.insn, d.operands);
	if (status == ZYDIS_STATUS_NO_MORE_DATA && n < MAX_INSN_BYTES)
		return ISA_DECODE_PARTIAL;
	blank(out);
	if (status == ZYDIS_STATUS_NO_MORE_DATA || status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG)
		return no_instruction(out, isa_raise_gp, MAX_INSN_BYTES, ISA_DECODE_TOO_LONG);
	if (!ZYAN_SUCCESS(status))
		return no_instruction(out, isa_raise_ud, d.insn.length, ISA_DECODE_UD);

	fill(&d, out);
	switch (d.insn.encoding) {
	case ZYDIS_INSTRUCTION_ENCODING_LEGACY: fn = pick_legacy(&d, out); break;
	case ZYDIS_INSTRUCTION_ENCODING_VEX: fn = isa_pick_bmi(&d, out); break;
	case ZYDIS_INSTRUCTION_ENCODING_EVEX: fn = NULL; break; /* all are the silicon's */
	default: /* 3DNow!, XOP, MVEX */
		return no_instruction(out, isa_raise_ud, d.insn.length, ISA_DECODE_UD);
	}
	if (!fn)
		fn = isa_simd_handler(&d, out);
	if (!fn && ops->system) {
		fn = ops->system(&d, out);
		out->system = fn;
	}
	if (!fn)
		return no_instruction(out, isa_raise_ud, d.insn.length, ISA_DECODE_UD);
	out->fn = fn;
	return ISA_DECODE_OK;
}

unsigned isa_insn_text(const uint8_t *bytes, size_t nr_bytes, enum isa_code_mode mode,
		       uint64_t rip, char *buf, size_t size)
{
	ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction insn;
	ZydisFormatter f;
	ZydisDecoder z;
	const char *bad = "(bad)";
	size_t k;

	init_decoder(&z, mode);
	if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&z, bytes, min_u64(nr_bytes, MAX_INSN_BYTES),
						&insn, operands)) &&
	    ZYAN_SUCCESS(ZydisFormatterInit(&f, ZYDIS_FORMATTER_STYLE_INTEL)) &&
	    ZYAN_SUCCESS(ZydisFormatterFormatInstruction(&f, &insn, operands,
							 insn.operand_count_visible, buf, size,
							 rip, NULL)))
		return insn.length;
	for (k = 0; k + 1 < size && bad[k]; k++)
		buf[k] = bad[k];
	if (size)
		buf[k] = 0;
	return 0;
}
