/* The list of instruction forms (silicon.h). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../unit/support/host_sets.h"
#include "silicon.h"

static ZydisDecoder *decoder(enum isa_code_mode mode)
{
	static ZydisDecoder z[ISA_CODE_MODES];
	static bool made;

	if (!made) {
		ZydisDecoderInit(&z[ISA_CODE16], ZYDIS_MACHINE_MODE_LEGACY_16,
		                 ZYDIS_STACK_WIDTH_16);
		ZydisDecoderInit(&z[ISA_CODE32], ZYDIS_MACHINE_MODE_LEGACY_32,
		                 ZYDIS_STACK_WIDTH_32);
		ZydisDecoderInit(&z[ISA_CODE64], ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
		made = true;
	}
	return &z[mode];
}

bool insn_decode(struct insn *i, enum isa_code_mode mode)
{
	return ZYAN_SUCCESS(ZydisDecoderDecodeFull(decoder(mode), i->b, 15, &i->z, i->o));
}

static uint64_t mix(uint64_t h, uint64_t v)
{
	return (h ^ v) * 0x100000001b3ULL;
}

uint64_t insn_key(const struct insn *i)
{
	uint64_t h = 0xcbf29ce484222325ULL;

	h = mix(h, i->z.mnemonic);
	h = mix(h, i->z.encoding);
	h = mix(h, i->z.opcode_map);
	h = mix(h, i->z.opcode & (i->z.opcode_map ? 0xff : 0xf8));
	h = mix(h, i->z.operand_width);
	h = mix(h, i->z.attributes &
	               (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE));
	if (i->z.encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX)
		h = mix(h, i->z.raw.evex.b | i->z.raw.evex.z << 1 | (i->z.raw.evex.aaa != 0) << 2);
	for (unsigned n = 0; n < i->z.operand_count; n++) {
		h = mix(h, i->o[n].type);
		h = mix(h, i->o[n].size);
		h = mix(h, i->o[n].encoding);
		if (i->o[n].type == ZYDIS_OPERAND_TYPE_REGISTER)
			h = mix(h, ZydisRegisterGetClass(i->o[n].reg.value));
	}
	return h;
}

unsigned encoding_bytes(const struct encoding *e, enum isa_code_mode mode, uint8_t *b)
{
	static const uint8_t prefix[] = {0, 0x66, 0xf3, 0xf2};
	unsigned n = 0;

	memset(b, 0, 24);
	if (e->vex == 2) {
		b[n++] = 0x62;
		b[n++] = (uint8_t)(0xf0 | e->map);
		b[n++] = (uint8_t)(e->w << 7 | e->vvvv << 3 | 4 | e->pp);
		b[n++] = (uint8_t)(e->z << 7 | e->l << 5 | e->b << 4 | 8 | e->aaa);
	} else if (e->vex) {
		b[n++] = 0xc4;
		b[n++] = (uint8_t)(0xe0 | e->map);
		b[n++] = (uint8_t)(e->w << 7 | e->vvvv << 3 | e->l << 2 | e->pp);
	} else {
		if (e->pp)
			b[n++] = prefix[e->pp];
		if (e->w && mode == ISA_CODE64)
			b[n++] = 0x48;
		if (e->map)
			b[n++] = 0x0f;
		if (e->map > 1)
			b[n++] = e->map == 2 ? 0x38 : 0x3a;
	}
	b[n++] = e->opcode;
	b[n++] = e->modrm;
	return n;
}

/* Why a form does not run here; the text goes into the coverage page. */
static const char *reason(const struct insn *i, enum isa_code_mode mode)
{
	static const struct isa_ops none;
	struct isa_insn d;

	if (host_lacks_set(i->z.meta.isa_set))
		return "skipped: this host has no such instruction";
	if (i->z.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
	    i->z.encoding != ZYDIS_INSTRUCTION_ENCODING_VEX &&
	    i->z.encoding != ZYDIS_INSTRUCTION_ENCODING_EVEX)
		return "not offered by CPUID (#UD: tests/unit/isa)";
	for (unsigned n = 0; n < i->z.operand_count; n++)
		if (i->o[n].type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    ZydisRegisterGetClass(i->o[n].mem.index) > ZYDIS_REGCLASS_GPR64)
			return "vector index: isa_simd/test_forms.c";
	harness_stubs();
	if (isa_decode(i->b, 15, mode, &none, &d) != ISA_DECODE_OK)
		return i->z.attributes & ZYDIS_ATTRIB_IS_PRIVILEGED
		           ? "privileged: tests/unit/cpu_sys"
		           : "system instruction, or not offered by CPUID: tests/unit/cpu_sys";
	switch (i->z.mnemonic) {
	case ZYDIS_MNEMONIC_RDRAND:
	case ZYDIS_MNEMONIC_RDSEED: return "a random result";
	case ZYDIS_MNEMONIC_RDPKRU:
	case ZYDIS_MNEMONIC_WRPKRU: return "PKRU would be the test's own: tests/client/test_pku.c";
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_XGETBV:
	case ZYDIS_MNEMONIC_LDMXCSR:
	case ZYDIS_MNEMONIC_VLDMXCSR:
		return "stores addresses or depends on the host: isa_simd/test_state.c";
	default: break;
	}
	if (i->z.meta.category == ZYDIS_CATEGORY_XSAVE ||
	    i->z.meta.category == ZYDIS_CATEGORY_XSAVEOPT ||
	    i->z.meta.isa_set == ZYDIS_ISA_SET_FXSAVE ||
	    i->z.meta.isa_set == ZYDIS_ISA_SET_FXSAVE64)
		return "stores addresses or depends on the host: isa_simd/test_state.c";
	if (i->z.meta.category == ZYDIS_CATEGORY_RET ||
	    ((i->z.meta.category == ZYDIS_CATEGORY_CALL ||
	      i->z.meta.category == ZYDIS_CATEGORY_UNCOND_BR) &&
	     !i->z.raw.imm[0].size))
		return "indirect branch: isa/test_silicon.c";
	if (i->z.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE && i->z.operand_width == 16 &&
	    mode != ISA_CODE16)
		return "branch to a 16-bit address, where nothing of ours is";
	if (i->z.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE && i->z.operand_width == 32 &&
	    mode == ISA_CODE16 && i->z.meta.category == ZYDIS_CATEGORY_CALL)
		return NULL;
	return NULL;
}

static uint32_t slot[1 << 16]; /* of find(): index + 1 by key */

static struct form *find(struct form_table *t, uint64_t key)
{
	uint32_t h = (uint32_t)(key ^ key >> 29) & 0xffff;

	while (slot[h]) {
		if (t->f[slot[h] - 1].key == key)
			return &t->f[slot[h] - 1];
		h = (h + 1) & 0xffff;
	}
	if (!(t->nr & (t->nr - 1)))
		t->f = realloc(t->f, sizeof(*t->f) * (t->nr ? 2 * t->nr : 1));
	if (!t->f)
		abort();
	slot[h] = ++t->nr;
	t->f[t->nr - 1] = (struct form){.key = key};
	return &t->f[t->nr - 1];
}

static void consider(struct form_table *t, const struct encoding *e, enum isa_code_mode mode)
{
	struct insn i;
	struct form *f;

	(void)encoding_bytes(e, mode, i.b);
	if (!insn_decode(&i, mode))
		return;
	f = find(t, insn_key(&i));
	if (!f->nr_seen) {
		(void)isa_insn_text(i.b, 15, mode, 0, f->text, sizeof(f->text));
		f->why_not = reason(&i, mode);
		t->runnable += !f->why_not;
	}
	f->nr_seen++;
	if (f->nr_encodings < FORM_ENCODINGS)
		f->e[f->nr_encodings++] = *e;
	else if (!(rnd() % f->nr_seen))
		f->e[rnd() % FORM_ENCODINGS] = *e;
}

static bool is_prefix(const struct encoding *e, enum isa_code_mode mode)
{
	static const uint8_t prefixes[] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65,
	                                   0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x0f};

	if (e->map == 1)
		return e->opcode == 0x38 || e->opcode == 0x3a || e->opcode == 0x0f;
	if (e->map)
		return false;
	if (mode == ISA_CODE64 && (e->opcode & 0xf0) == 0x40)
		return true;
	if (e->opcode == 0x62 || (e->opcode & 0xfe) == 0xc4) /* EVEX, VEX; BOUND, LES, LDS below */
		return mode == ISA_CODE64 || e->modrm >= 0xc0;
	return memchr(prefixes, e->opcode, sizeof(prefixes));
}

/* EVEX: every reg field with memory [rbx] and with one register; masked, zeroing or neither. */
static void all_evex(struct form_table *t, enum isa_code_mode mode, unsigned op, unsigned map)
{
	for (unsigned n = 0; n < 32 * 3 * 16; n++) {
		unsigned modrm = n % 16, masking = n / 16 % 3, rest = n / 48;
		struct encoding e = {
		    .vex = 2,
		    .map = (uint8_t)map,
		    .opcode = (uint8_t)op,
		    .pp = rest & 3,
		    .w = (rest >> 2) & 1,
		    .vvvv = rest & 8 ? 15 : 10,
		    .b = (rest >> 4) & 1,
		    .aaa = masking ? 3 : 0,
		    .z = masking == 2,
		    .modrm = (uint8_t)(modrm < 8 ? modrm << 3 | 3 : 0xc2 | (modrm - 8) << 3),
		};

		for (e.l = 0; e.l < (e.b ? 4 : 3); e.l++)
			consider(t, &e, mode);
	}
}

/* ModRM: every reg field with memory [rbx] (or its 16-bit like) and every value of mod 3. */
static void all_modrm(struct form_table *t, struct encoding *e, enum isa_code_mode mode)
{
	for (unsigned n = 0; n < 72; n++) {
		e->modrm =
		    (uint8_t)(n < 8 ? n << 3 | (mode == ISA_CODE16 ? 7 : 3) : 0xc0 | (n - 8));
		if (!is_prefix(e, mode))
			consider(t, e, mode);
	}
}

void forms_enumerate(struct form_table *t, enum isa_code_mode mode)
{
	memset(slot, 0, sizeof(slot));
	for (unsigned op = 0; op < 256; op++)
		for (unsigned map = 0; map < 4; map++)
			for (unsigned pp = 0; pp < 4; pp++)
				for (unsigned w = 0; w < (mode == ISA_CODE64 ? 2 : 1); w++) {
					struct encoding e = {
					    .pp = (uint8_t)pp,
					    .map = (uint8_t)map,
					    .opcode = (uint8_t)op,
					    .w = (uint8_t)w,
					    .vvvv = 15,
					};

					all_modrm(t, &e, mode);
				}
	if (mode == ISA_CODE16)
		return; /* protected mode takes VEX there too, with the forms of 32 bits */
	for (unsigned op = 0; op < 256; op++)
		for (unsigned map = 1; map < 4; map++)
			for (unsigned n = 0; n < 32; n++) {
				struct encoding e = {
				    .vex = 1,
				    .pp = n & 3,
				    .map = (uint8_t)map,
				    .opcode = (uint8_t)op,
				    .w = (n >> 2) & 1,
				    .l = (n >> 3) & 1,
				    .vvvv = n & 16 ? 15 : 10,
				};

				all_modrm(t, &e, mode);
			}
	if (!isa_host_has(HOST_AVX512F)) {
		printf("# EVEX forms skipped: this host has no AVX-512\n");
		return;
	}
	for (unsigned op = 0; op < 256; op++)
		for (unsigned map = 1; map < 7; map++)
			if (map != 4)
				all_evex(t, mode, op, map);
}
