/*
 * Re-encoding: a decoded guest instruction becomes the body of a silicon stub.
 *
 * Inside a stub
 *   rdi  the memory operand            rsi  struct cpu_state
 *   rax  general register of ModRM.reg rcx  general register of ModRM.rm
 * and implicit operands (EAX, EDX, ECX of PCMPxSTRx) are themselves. Vector,
 * MMX and x87 registers keep their numbers: the guest's are loaded.
 *
 * The instruction is put together from the guest's own bytes: mandatory
 * prefixes, REX, VEX or EVEX (evex_encode.c) with the bits that named a general register or an
 * address cleared, opcode, ModRM with mod = 0, rm = 7 ([rdi]) for memory,
 * immediates. Address- and segment-prefixes, SIB and displacement are dropped.
 * Sources: SDM Vol. 2, "Instruction Format".
 *
 * Locks: none; called while decoding.
 */
#include "isa/simd_encode.h"

/* op reg, [rsi + offset]; op 8b loads, 89 stores. */
static void emit_state_move(struct emitter *e, bool wide, unsigned op, unsigned reg, size_t offset)
{
	uint32_t disp = (uint32_t)offset;

	if (wide)
		emit_byte(e, 0x48);
	emit_byte(e, op);
	emit_byte(e, 0x86 | reg << 3); /* mod 2, rm 6: [rsi + disp32] */
	emit_bytes(e, &disp, 4);
}

static void emit_flags_in(struct emitter *e)
{
	emit_state_move(e, false, 0x8b, HOST_RAX, offsetof(struct cpu_state, cc));
	emit_bytes(e, "\x04\x7f\x9e", 3); /* add al, 7fh (OF); sahf */
}

static void emit_flags_out(struct emitter *e)
{
	emit_bytes(e, "\x9f\x0f\x90\xc0\x0f\xb7\xc0", 7); /* lahf; seto al; movzx eax, ax */
	emit_state_move(e, false, 0x89, HOST_RAX, offsetof(struct cpu_state, cc));
}

void emit_return(struct emitter *e)
{
	emit_bytes(e, "\x31\xc0\xc3", 3); /* xor eax, eax; ret */
}

/* vmovdqu between register nr and [rdi]; opcode 6f loads, 7f stores. */
void emit_vmovdqu(struct emitter *e, unsigned opcode, unsigned nr, bool ymm)
{
	emit_byte(e, 0xc4);
	emit_byte(e, 0x61 | (nr < 8 ? 0x80 : 0)); /* R inverted, X, B, map 0f */
	emit_byte(e, 0x7a | (ymm ? 4 : 0));	     /* W0, vvvv unused, L, F3 */
	emit_byte(e, opcode);
	emit_byte(e, (nr & 7) << 3 | 7);
}

/* vpxor nr, nr, nr (128 bits, which zeroes the rest) */
void emit_vzero(struct emitter *e, unsigned nr)
{
	bool low = nr < 8;

	emit_byte(e, 0xc4);
	emit_byte(e, 0x41 | (low ? 0xa0 : 0));
	emit_byte(e, 0x01 | (~nr & 15) << 3);
	emit_byte(e, 0xef);
	emit_byte(e, 0xc0 | (nr & 7) << 3 | (nr & 7));
}

/* movdqu [rdi], xmm or movq [rdi], mm */
void emit_legacy_spill(struct emitter *e, unsigned nr, bool mmx)
{
	if (!mmx)
		emit_byte(e, 0xf3);
	if (!mmx && nr >= 8)
		emit_byte(e, 0x44);
	emit_bytes(e, "\x0f\x7f", 2);
	emit_byte(e, (nr & 7) << 3 | 7);
}

bool operand_is_gpr(const ZydisDecodedOperand *o)
{
	if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
		return false;
	switch (ZydisRegisterGetClass(o->reg.value)) {
	case ZYDIS_REGCLASS_GPR16:
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64:
		return true;
	default:
		return false;
	}
}

static unsigned operand_gpr(const ZydisDecodedOperand *o)
{
	return (unsigned)ZydisRegisterGetId(o->reg.value) & 15;
}

/* The host register that stands for a general-register operand. */
static unsigned host_gpr(const ZydisDecodedOperand *o)
{
	switch (o->encoding) {
	case ZYDIS_OPERAND_ENCODING_MODRM_REG:
		return HOST_RAX;
	case ZYDIS_OPERAND_ENCODING_MODRM_RM:
		return HOST_RCX;
	default:
		return operand_gpr(o);
	}
}

static bool has_gpr_at(const struct isa_decoded *d, ZydisOperandEncoding where)
{
	for (unsigned n = 0; n < d->insn.operand_count; n++)
		if (d->operands[n].encoding == where && operand_is_gpr(&d->operands[n]))
			return true;
	return false;
}

static bool has_operand_at(const struct isa_decoded *d, ZydisOperandEncoding where)
{
	for (unsigned n = 0; n < d->insn.operand_count; n++)
		if (d->operands[n].encoding == where)
			return true;
	return false;
}

/* Where an instruction's parts lie in its bytes. */
struct layout {
	bool modrm, mem, gpr_reg, gpr_rm, x87;
	unsigned opcode, opcode_len; /* escape bytes included (legacy) */
	unsigned tail;		     /* immediates */
};

static struct layout find_layout(const struct isa_decoded *d)
{
	const ZydisDecodedInstruction *z = &d->insn;
	struct layout l = {
		.modrm = z->attributes & ZYDIS_ATTRIB_HAS_MODRM,
		.gpr_reg = has_gpr_at(d, ZYDIS_OPERAND_ENCODING_MODRM_REG),
		.gpr_rm = has_gpr_at(d, ZYDIS_OPERAND_ENCODING_MODRM_RM),
		.x87 = z->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT,
	};

	switch (z->opcode_map) {
	case ZYDIS_OPCODE_MAP_DEFAULT: l.opcode_len = 1; break;
	case ZYDIS_OPCODE_MAP_0F: l.opcode_len = 2; break;
	default: l.opcode_len = 3; break;
	}
	if (z->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY)
		l.opcode_len = 1;
	if (l.modrm) {
		l.mem = z->raw.modrm.mod != 3;
		l.opcode = z->raw.modrm.offset - l.opcode_len;
		l.tail = z->raw.modrm.offset + 1 + z->raw.disp.size / 8u +
			 ((z->attributes & ZYDIS_ATTRIB_HAS_SIB) ? 1 : 0);
	} else {
		l.opcode = z->length - l.opcode_len;
		l.tail = z->length;
	}
	return l;
}

/*
 * Of up to 14 that a guest may write the one that is part of the opcode, or, where the opcode has none, those that the
 * decoder finds to matter: the others would make a stub of each way to write an instruction.
 */
static void emit_legacy_prefixes(struct emitter *e, const struct isa_decoded *d,
				 const struct layout *l)
{
	const ZydisDecodedInstruction *z = &d->insn;
	bool mandatory = false;
	unsigned rex = 0;

	for (unsigned n = 0; !l->x87 && n < z->raw.prefix_count; n++)
		mandatory |= z->raw.prefixes[n].type == ZYDIS_PREFIX_TYPE_MANDATORY;
	for (unsigned n = 0; !l->x87 && n < z->raw.prefix_count; n++) {
		uint8_t p = z->raw.prefixes[n].value;

		if ((p == 0x66 || p == 0xf2 || p == 0xf3) &&
		    z->raw.prefixes[n].type == (mandatory ? ZYDIS_PREFIX_TYPE_MANDATORY : ZYDIS_PREFIX_TYPE_EFFECTIVE))
			emit_byte(e, p);
	}
	if (l->x87 || !(z->attributes & ZYDIS_ATTRIB_HAS_REX))
		return;
	rex |= z->raw.rex.W ? 8 : 0;
	rex |= z->raw.rex.R && !l->gpr_reg ? 4 : 0;
	rex |= z->raw.rex.B && !l->gpr_rm && !l->mem ? 1 : 0;
	if (rex)
		emit_byte(e, 0x40 | rex);
}

/* VEX.W widens a general register or memory operand in 64-bit code only. */
static bool ignores_w(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_VCVTSI2SS: case ZYDIS_MNEMONIC_VCVTSI2SD:
	case ZYDIS_MNEMONIC_VCVTSI2SH: case ZYDIS_MNEMONIC_VCVTUSI2SH:
	case ZYDIS_MNEMONIC_VCVTUSI2SS: case ZYDIS_MNEMONIC_VCVTUSI2SD:
	case ZYDIS_MNEMONIC_VPCMPESTRI: case ZYDIS_MNEMONIC_VPCMPESTRM:
	case ZYDIS_MNEMONIC_VMOVD:
	case ZYDIS_MNEMONIC_VPINSRD: case ZYDIS_MNEMONIC_VPEXTRD:
		return true;
	default:
		return false;
	}
}

static void emit_vex(struct emitter *e, const struct isa_decoded *d, const struct layout *l)
{
	const uint8_t *v = d->bytes + d->insn.raw.vex.offset;
	bool three = v[0] == 0xc4;
	unsigned r = v[1] & 0x80, b = three ? v[1] & 0x20 : 0x20;
	unsigned map = three ? v[1] & 0x1f : 1;
	unsigned last = three ? v[2] : v[1] & 0x7f;

	if (d->mode != ISA_CODE64) { /* eight registers: these bits mean nothing there */
		r = 0x80;
		b = 0x20;
		last |= 0x40;
		if (l->gpr_reg || l->gpr_rm || ignores_w(d->insn.mnemonic))
			last &= 0x7f;
	}
	if (l->gpr_reg)
		r = 0x80;
	if (l->gpr_rm || l->mem)
		b = 0x20;
	emit_byte(e, 0xc4);
	emit_byte(e, r | 0x40 | b | map);
	emit_byte(e, last);
}

/* The instruction itself. */
static void emit_insn(struct emitter *e, const struct isa_decoded *d)
{
	const struct layout l = find_layout(d);
	unsigned reg = l.gpr_reg ? HOST_RAX : d->insn.raw.modrm.reg;

	if (d->insn.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
		emit_vex(e, d, &l);
	else if (d->insn.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX)
		emit_evex_prefix(e, d, &(struct evex_operands){
			.gpr_reg = l.gpr_reg, .gpr_rm = l.gpr_rm, .memory = l.modrm && l.mem,
			.ignores_w = ignores_w(d->insn.mnemonic) });
	else
		emit_legacy_prefixes(e, d, &l);
	emit_bytes(e, d->bytes + l.opcode, l.opcode_len);
	if (l.modrm && l.mem)
		emit_byte(e, reg << 3 | 7);
	else if (l.modrm)
		emit_byte(e, 0xc0 | reg << 3 | (l.gpr_rm ? HOST_RCX : d->insn.raw.modrm.rm));
	for (unsigned n = l.tail; n < d->insn.length; n++) {
		unsigned imm = d->bytes[n];

		if (d->mode != ISA_CODE64 && has_operand_at(d, ZYDIS_OPERAND_ENCODING_IS4))
			imm &= 0x7f;
		emit_byte(e, imm);
	}
}

static bool reads_flags(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_FCMOVB: case ZYDIS_MNEMONIC_FCMOVBE: case ZYDIS_MNEMONIC_FCMOVE:
	case ZYDIS_MNEMONIC_FCMOVNB: case ZYDIS_MNEMONIC_FCMOVNBE: case ZYDIS_MNEMONIC_FCMOVNE:
	case ZYDIS_MNEMONIC_FCMOVNU: case ZYDIS_MNEMONIC_FCMOVU:
		return true;
	default:
		return false;
	}
}

static bool writes_flags(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_COMISS: case ZYDIS_MNEMONIC_COMISD:
	case ZYDIS_MNEMONIC_UCOMISS: case ZYDIS_MNEMONIC_UCOMISD:
	case ZYDIS_MNEMONIC_VCOMISS: case ZYDIS_MNEMONIC_VCOMISD:
	case ZYDIS_MNEMONIC_VUCOMISS: case ZYDIS_MNEMONIC_VUCOMISD:
	case ZYDIS_MNEMONIC_VCOMISH: case ZYDIS_MNEMONIC_VUCOMISH:
	case ZYDIS_MNEMONIC_KORTESTB: case ZYDIS_MNEMONIC_KORTESTW:
	case ZYDIS_MNEMONIC_KORTESTD: case ZYDIS_MNEMONIC_KORTESTQ:
	case ZYDIS_MNEMONIC_KTESTB: case ZYDIS_MNEMONIC_KTESTW:
	case ZYDIS_MNEMONIC_KTESTD: case ZYDIS_MNEMONIC_KTESTQ:
	case ZYDIS_MNEMONIC_PTEST: case ZYDIS_MNEMONIC_VPTEST:
	case ZYDIS_MNEMONIC_VTESTPS: case ZYDIS_MNEMONIC_VTESTPD:
	case ZYDIS_MNEMONIC_PCMPESTRI: case ZYDIS_MNEMONIC_PCMPESTRM:
	case ZYDIS_MNEMONIC_PCMPISTRI: case ZYDIS_MNEMONIC_PCMPISTRM:
	case ZYDIS_MNEMONIC_VPCMPESTRI: case ZYDIS_MNEMONIC_VPCMPESTRM:
	case ZYDIS_MNEMONIC_VPCMPISTRI: case ZYDIS_MNEMONIC_VPCMPISTRM:
	case ZYDIS_MNEMONIC_FCOMI: case ZYDIS_MNEMONIC_FCOMIP:
	case ZYDIS_MNEMONIC_FUCOMI: case ZYDIS_MNEMONIC_FUCOMIP:
		return true;
	default:
		return false;
	}
}

/* General registers in (ZYDIS_OPERAND_ACTION_MASK_READ) or out (…_WRITE). */
static void emit_gprs(struct emitter *e, const struct isa_decoded *d, unsigned action)
{
	for (unsigned n = 0; n < d->insn.operand_count; n++) {
		const ZydisDecodedOperand *o = &d->operands[n];

		if (!operand_is_gpr(o) || !(o->actions & action))
			continue;
		if (o->size == 16) /* FNSTSW AX: the rest of RAX stays */
			emit_byte(e, 0x66);
		emit_state_move(e, o->size != 16,
				action == ZYDIS_OPERAND_ACTION_MASK_READ ? 0x8b : 0x89,
				host_gpr(o), operand_gpr(o) * 8);
	}
}

void emit_silicon(struct emitter *e, const struct isa_decoded *d)
{
	ZydisMnemonic m = d->insn.mnemonic;

	if (reads_flags(m) || writes_flags(m)) /* some leave flags alone on some silicon */
		emit_flags_in(e);
	emit_gprs(e, d, ZYDIS_OPERAND_ACTION_MASK_READ);
	emit_insn(e, d);
	emit_gprs(e, d, ZYDIS_OPERAND_ACTION_MASK_WRITE);
	if (writes_flags(m))
		emit_flags_out(e);
	emit_return(e);
}
