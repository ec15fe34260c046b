/*
 * Every opcode of the x87, MMX, SSE and AVX maps, register and memory forms,
 * random operands: the handler's outcome equals the bare processor's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "../support/host_sets.h"
#include "harness.h"
#include "isa/decoder.h"

static unsigned nr_compared, nr_faults, nr_forms, nr_bad;
static unsigned nr_lacking; /* encodings of instructions that this host lacks */

static void hex(const char *what, const uint8_t *b, unsigned n)
{
	fprintf(stderr, " %s", what);
	while (n--)
		fprintf(stderr, "%02x", *b++);
}

/* Does it belong to us, and can it run bare without harm? */
static bool testable(const uint8_t *bytes, unsigned *len, bool *gather)
{
	static const struct isa_ops no_ops;
	ZydisDecodedOperand o[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction z;
	struct isa_decoded d;
	struct isa_insn i;
	ZydisDecoder zd;

	ZydisDecoderInit(&zd, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&zd, bytes, 15, &z, o)))
		return false;
	*len = z.length;
	if (host_lacks_set(z.meta.isa_set)) {
		nr_lacking++;
		return false;
	}
	harness_stubs();
	if (isa_decode(bytes, z.length, ISA_CODE64, &no_ops, &i) != ISA_DECODE_OK)
		return false;
	d.insn = z;
	memcpy(d.operands, o, sizeof(o));
	d.bytes = bytes;
	d.mode = ISA_CODE64;
	if (isa_simd_handler(&d, &i) == NULL)
		return false;
	switch (z.mnemonic) {
	case ZYDIS_MNEMONIC_MOVNTI: /* the integer room's */
	case ZYDIS_MNEMONIC_CRC32:
	case ZYDIS_MNEMONIC_FNSTENV: /* contain addresses: test_state.c */
	case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_XGETBV:
	case ZYDIS_MNEMONIC_LDMXCSR: /* the host may allow MISALIGNSSE */
	case ZYDIS_MNEMONIC_VLDMXCSR:
		return false;
	default:
		break;
	}
	if (z.meta.category == ZYDIS_CATEGORY_XSAVE || z.meta.category == ZYDIS_CATEGORY_XSAVEOPT ||
	    z.meta.isa_set == ZYDIS_ISA_SET_FXSAVE || z.meta.isa_set == ZYDIS_ISA_SET_FXSAVE64)
		return false;
	*gather = z.meta.isa_set == ZYDIS_ISA_SET_AVX2GATHER;
	for (unsigned n = 0; n < z.operand_count; n++)
		*gather |= o[n].type == ZYDIS_OPERAND_TYPE_MEMORY &&
			   ZydisRegisterGetClass(o[n].mem.index) > ZYDIS_REGCLASS_GPR64;
	for (unsigned n = 0; n < z.operand_count; n++)
		if (o[n].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, o[n].reg.value) ==
			    ZYDIS_REGISTER_RSP)
			return false;
	return true;
}

/* Only what the instruction can see: FIP, FDP, FOP and XSTATE_BV differ. */
static bool same(const struct state *a, const struct state *b)
{
	for (unsigned n = 0; n < NR_GPRS; n++)
		if (n != RSP && a->gpr[n] != b->gpr[n])
			return false;
	for (unsigned n = 0; n < 8; n++)
		if (a->x.st[n][0] != b->x.st[n][0] ||
		    (a->x.st[n][1] & 0xffff) != (b->x.st[n][1] & 0xffff))
			return false;
	return a->flags == b->flags && a->x.fcw == b->x.fcw && a->x.fsw == b->x.fsw &&
	       a->x.ftw == b->x.ftw && a->x.mxcsr == b->x.mxcsr &&
	       harness_same_vectors(a, b) && !memcmp(a->mem, b->mem, sizeof(a->mem));
}

static void complain(const uint8_t *bytes, unsigned len, int native, int handler,
		     const struct state *in, const struct state *a, const struct state *b)
{
	char text[96];

	if (++nr_bad > 40)
		return;
	(void)isa_insn_text(bytes, len, ISA_CODE64, 0, text, sizeof(text));
	fprintf(stderr, "%s: vector bare %d handler %d", text, native, handler);
	hex("bytes ", bytes, len);
	if (native == NO_FAULT && handler == NO_FAULT)
		fprintf(stderr,
			" flags %llx/%llx fcw %x/%x fsw %x/%x ftw %x/%x mxcsr %x/%x xmm%d ymm%d mem%d",
			(unsigned long long)a->flags, (unsigned long long)b->flags, a->x.fcw,
			b->x.fcw, a->x.fsw, b->x.fsw, a->x.ftw, b->x.ftw, a->x.mxcsr, b->x.mxcsr,
			memcmp(a->x.xmm, b->x.xmm, sizeof(a->x.xmm)),
			memcmp(a->x.ymm_high, b->x.ymm_high, sizeof(a->x.ymm_high)),
			memcmp(a->mem, b->mem, sizeof(a->mem)));
	fprintf(stderr, "\n");
}

/* One encoding, a few random states. can32: the same bytes mean the same in 32-bit code. */
static void compare(const uint8_t *bytes, bool can32)
{
	static const unsigned offsets[] = { 0, 0, 0, 16, 8, 4, 1, 64, 125, 112 };
	unsigned len;
	bool gather;

	if (!testable(bytes, &len, &gather))
		return;
	nr_forms++;
	for (unsigned round = 0; round < 4; round++) {
		enum memory_kind kind = rnd() & 1 ? MEM_BOUNCE : MEM_DIRECT;
		/* VZEROUPPER, VZEROALL: 32-bit code leaves registers 8 to 15 (tests/silicon) */
		bool vzero = bytes[0] == 0xc4 && bytes[3] == 0x77;
		bool in32 = can32 && !vzero && (rnd() & 1);
		struct state in, a, b;
		int va, vb;

		random_state(&in);
		if (gather)
			for (unsigned n = 0; n < 16; n++)
				if (n != (unsigned)(~bytes[2] >> 3 & 15))
					for (unsigned k = 0; k < 2; k++) {
						in.x.xmm[n][k] &= 0x0000000700000007;
						in.x.ymm_high[n][k] &= 0x0000000700000007;
						if (bytes[3] & 1) { /* 64-bit indices */
							in.x.xmm[n][k] &= 7;
							in.x.ymm_high[n][k] &= 7;
						}
					}
		for (unsigned n = 0; in32 && n < NR_GPRS; n++)
			in.gpr[n] = (uint32_t)in.gpr[n];
		in.gpr[RBX] = (uint64_t)(uintptr_t)harness_mem + PAGE_SIZE - 128 +
			      offsets[rnd() % ARRAY_SIZE(offsets)];
		in.gpr[RDI] = in.gpr[RBX];
		a = b = in;
		va = run_native(bytes, len, &a);
		harness_reset(in32 ? ISA_CODE32 : ISA_CODE64);
		vb = run_handler(bytes, len, &b, in32 ? ISA_CODE32 : ISA_CODE64, kind);
		nr_compared++;
		nr_faults += va != NO_FAULT;
		if (va != vb || (va == NO_FAULT && !same(&a, &b)))
			complain(bytes, len, va, vb, &in, &a, &b);
		/* A fault changes nothing but what exceptions record of themselves. */
		if (vb != NO_FAULT && vb == va) {
			b.x.mxcsr = in.x.mxcsr;
			b.x.fsw = in.x.fsw;
			if (vb == X86_TRAP_XM) { /* CVTPS2PI: the silicon has entered MMX state */
				b.x.ftw = in.x.ftw;
				memcpy(b.x.st, in.x.st, sizeof(b.x.st));
			}
			if (!same(&in, &b))
				complain(bytes, len, va, vb, &in, &in, &b);
		}
	}
}

static void finish(unsigned least)
{
	if (nr_bad)
		fprintf(stderr, "%u of %u differ\n", nr_bad, nr_compared);
	print_message("%u forms, %u cases, %u faults; this host lacks %u forms\n", nr_forms, nr_compared,
		      nr_faults, nr_lacking);
	bool enough = nr_forms + nr_lacking >= least;
	unsigned bad = nr_bad;

	nr_forms = nr_compared = nr_faults = nr_bad = nr_lacking = 0;
	assert_int_equal(bad, 0);
	assert_true(enough);
}

/* ModRM for register and memory ([rbx]) forms of all eight reg fields. */
static uint8_t some_modrm(unsigned k)
{
	return (uint8_t)(k < 8 ? k << 3 | 3 : 0xc0 | (k & 7) << 3 | (rnd() & 7));
}

static void legacy_map_matches_the_bare_processor(void **state)
{
	static const int prefixes[] = { -1, 0x66, 0xf3, 0xf2 };

	harness_init();
	for (unsigned map = 1; map <= 3; map++)
		for (unsigned p = 0; p < 4; p++)
			for (unsigned op = 0; op < 256; op++)
				for (unsigned k = 0; k < 16; k++) {
					uint8_t b[16] = { 0 };
					unsigned n = 0;
					bool rex = rnd() & 1;

					if (map == 1 && (op == 0x38 || op == 0x3a))
						continue;
					if (prefixes[p] >= 0)
						b[n++] = (uint8_t)prefixes[p];
					if (rex) /* X and, for memory, B would change [rbx] */
						b[n++] = (uint8_t)(0x40 | (rnd() & (k < 8 ? 0xc : 0xd)));
					b[n++] = 0x0f;
					if (map > 1)
						b[n++] = map == 2 ? 0x38 : 0x3a;
					b[n++] = (uint8_t)op;
					b[n++] = some_modrm(k);
					b[n++] = (uint8_t)rnd();
					b[n] = (uint8_t)rnd();
					compare(b, !rex);
				}
	finish(2000);
}

static void vex_map_matches_the_bare_processor(void **state)
{
	harness_init();
	for (unsigned map = 1; map <= 3; map++)
		for (unsigned last = 0; last < 16; last++) /* W L pp */
			for (unsigned op = 0; op < 256; op++)
				for (unsigned k = 0; k < 16; k++) {
					bool none = k & 1;
					unsigned vvvv = none ? 15 : rnd() & 15;
					bool high = rnd() & 1;
					uint8_t b[16] = { 0xc4 };

					b[1] = (uint8_t)(map | 0xe0);
					if (high)
						b[1] ^= rnd() & (k < 8 ? 0x80 : 0xa0);
					b[2] = (uint8_t)((last & 8) << 4 | vvvv << 3 | (last & 7));
					b[3] = (uint8_t)op;
					b[4] = some_modrm(k);
					b[5] = (uint8_t)rnd();
					if (map == 2 && op >= 0x90 && op <= 0x93 && k < 8) {
						b[4] = (uint8_t)(k << 3 | 4);
						b[5] = (uint8_t)(((op & 1) ? 0x80 : 0x40) |
								 (rnd() & 7) << 3 | 3);
					}
					compare(b, !high && vvvv >= 8 && !(last & 8) && !(b[5] & 0x80));
				}
	finish(2500);
}

static void x87_matches_the_bare_processor(void **state)
{
	harness_init();
	for (unsigned op = 0xd8; op <= 0xdf; op++)
		for (unsigned modrm = 0; modrm < 256; modrm++) {
			uint8_t b[16] = { (uint8_t)op, (uint8_t)modrm };

			if (modrm < 0xc0 && (modrm & 0xc7) != 3)
				continue;
			for (unsigned n = 0; n < 16; n++)
				compare(b, true);
		}
	compare((const uint8_t[16]){ 0x9b }, true);
	finish(4000);
}

/* --- AVX-512 --- */
static void evex_bytes(uint8_t b[16], unsigned map, unsigned op, unsigned bits, unsigned aaa)
{
	memset(b, 0, 16);
	b[0] = 0x62;
	b[1] = (uint8_t)(0xf0 | map);
	b[1] ^= (uint8_t)(rnd() & 0x90); /* R, R' */
	b[2] = (uint8_t)((bits & 4) << 5 | (bits & 8 ? 15 : rnd() & 15) << 3 | 4 | (bits & 3));
	b[3] = (uint8_t)((bits & 0x10) << 3 | (bits & 0x20) >> 1 | (bits >> 6 & 3) << 5 | 8 | aaa);
	b[4] = (uint8_t)op;
	b[5] = (uint8_t)((rnd() & 7) << 3 | 3); /* [rbx] */
	b[6] = (uint8_t)rnd();
}

/*
 * The operand ends in a page that is not there, or begins so far before it that
 * it does not: which masks, and which kinds of instruction, keep it from faulting.
 */
static void evex_operand_in_an_absent_page_faults_as_on_silicon(void **state)
{
	unsigned suppressed = 0, faults = 0;

	NEED(AVX512F);
	harness_init();
	harness_absent = true;
	harness_fault_page = (uint64_t)(uintptr_t)harness_mem + PAGE_SIZE;
	for (unsigned n = 0; n < 256 * 256 * 6; n++) {
		unsigned map = 1 + n % 6, op = n / 6 % 256, bits = n / 6 / 256, len;
		struct state a, b, in;
		uint8_t code[16];
		bool gather;
		int va, vb;

		if (map == 4 || (bits >> 6) == 3)
			continue;
		evex_bytes(code, map, op, bits, 1 + rnd() % 7);
		if (!testable(code, &len, &gather) || gather)
			continue;
		random_state(&in);
		if (rnd() & 1) /* few bits, so that the upper ones are often clear */
			for (unsigned k = 0; k < 8; k++)
				isa_xsave_component(in.area, 5)[8 * k + 1 + rnd() % 7] = 0;
		in.gpr[RBX] = harness_fault_page - (rnd() & 3 ? rnd() % 9 * 8 : rnd() % 65);
		a = b = in;
		va = run_native(code, len, &a);
		harness_reset(ISA_CODE64);
		vb = run_handler(code, len, &b, ISA_CODE64, rnd() & 1 ? MEM_DIRECT : MEM_BOUNCE);
		nr_compared++;
		nr_forms++;
		faults += va == X86_TRAP_PF;
		suppressed += va == NO_FAULT && in.gpr[RBX] > harness_fault_page - 4;
		if (va != vb || (va == NO_FAULT && !same(&a, &b)))
			complain(code, len, va, vb, &in, &a, &b);
	}
	harness_absent = false;
	harness_fault_page = 0;
	print_message("%u faults, %u suppressed\n", faults, suppressed);
	assert_true(faults > 500 && suppressed > 100);
	finish(5000);
}

static void evex_gathers_and_scatters_match_the_bare_processor(void **state)
{
	NEED(AVX512VL);
	harness_init();
	for (unsigned n = 0; n < 20000; n++) {
		/* 90..93 gather, a0..a3 scatter: dword or qword index; W, L'L, V', SIB of any index */
		unsigned op = 0x90 + (n & 3) + (n & 4) * 4, length = n / 8 % 3, nr;
		bool absent = rnd() & 1;
		struct state in, a, b;
		uint8_t code[16] = { 0x62 };
		int va, vb;

		code[1] = (uint8_t)(0xf2 ^ (rnd() & 0xd0)); /* R X R' */
		code[2] = (uint8_t)(0x7d | (rnd() & 0x80));
		code[3] = (uint8_t)(length << 5 | (rnd() & 8) | (n % 64 ? 1 + rnd() % 7 : 0));
		code[4] = (uint8_t)op;
		code[5] = (uint8_t)((rnd() & 7) << 3 | 4);
		code[6] = (uint8_t)((op & 1 ? 0x80 : 0x40) | (rnd() & 7) << 3 | 3);
		nr = (op & 1) ? 8 : 16;
		random_state(&in);
		in.gpr[RBX] = (uint64_t)(uintptr_t)harness_mem + PAGE_SIZE - 128 + rnd() % 64;
		for (unsigned r = 0; r < 32; r++) /* small indices everywhere */
			for (unsigned k = 0; k < nr; k++) {
				uint8_t *half = k < nr / 4 ? (uint8_t *)in.x.xmm[r & 15] :
						k < nr / 2 ? (uint8_t *)in.x.ymm_high[r & 15] :
						isa_xsave_component(in.area, 6) + (r & 15) * 32;
				unsigned lane = k < nr / 4 ? k : k < nr / 2 ? k - nr / 4 : k - nr / 2;
				uint64_t v = rnd() % 24 - 8;
				unsigned size = 64 / nr;

				if (r >= 16) {
					half = isa_xsave_component(in.area, 7) + (r & 15) * 64;
					lane = k;
				}
				memcpy(half + lane * size, &v, size);
			}
		if (absent) {
			harness_absent = true;
			harness_fault_page = (uint64_t)(uintptr_t)harness_mem + PAGE_SIZE;
		}
		a = b = in;
		va = run_native(code, 7, &a);
		harness_reset(ISA_CODE64);
		vb = run_handler(code, 7, &b, ISA_CODE64, rnd() & 1 ? MEM_DIRECT : MEM_BOUNCE);
		nr_compared++;
		nr_forms++;
		nr_faults += va != NO_FAULT;
		if (va != vb || (va == NO_FAULT && !same(&a, &b)))
			complain(code, 7, va, vb, &in, &a, &b);
		harness_absent = false;
		harness_fault_page = 0;
	}
	finish(20000);
}

/* A pending x87 exception against an operand that is not there: which comes first? */
static void pending_exception_and_page_fault_come_in_silicons_order(void **state)
{
	static const uint8_t more[][4] = {
		{ 0x0f, 0x6f, 0x03 }, { 0x0f, 0x7f, 0x03 }, { 0x0f, 0xfe, 0x03 },
		{ 0x0f, 0x2a, 0x03 }, { 0x0f, 0x2d, 0x03 }, { 0xf3, 0x0f, 0x58, 0x03 },
	};
	unsigned bad = 0, seen[2] = { 0 };

	harness_init();
	for (unsigned n = 0; n < 64 + ARRAY_SIZE(more); n++) {
		uint8_t b[16] = { (uint8_t)(0xd8 | n >> 3), (uint8_t)((n & 7) << 3 | 3) };
		struct state a, c;
		unsigned len;
		bool gather;
		int va, vb;

		if (n >= 64)
			memcpy(b, more[n - 64], 4);
		if (!testable(b, &len, &gather))
			continue;
		random_state(&a);
		a.x.fcw = 0x37b;
		a.x.fsw = 0x8084;
		a.gpr[RBX] = 16; /* not mapped, and none of the test's memory */
		c = a;
		va = run_native(b, len, &a);
		harness_reset(ISA_CODE64);
		vb = run_handler(b, len, &c, ISA_CODE64, MEM_BOUNCE);
		seen[va == X86_TRAP_MF]++;
		if (va != vb) {
			fprintf(stderr, "%02x %02x %02x: silicon %d, here %d\n", b[0], b[1], b[2], va, vb);
			bad++;
		}
	}
	assert_int_equal(bad, 0);
	assert_true(seen[0] >= 3 && seen[1] >= 40);
}

/* Prefixes that have no meaning do not come to the host's processor. */
static void redundant_prefixes_make_no_stub_of_their_own(void **state)
{
	static const struct {
		uint8_t plain[8], more[12];
		unsigned n, nr_more;
	} t[] = {
		{ "\x66\x0f\xfe\xc1", "\x66\x66\x66\x0f\xfe\xc1", 4, 6 },
		{ "\xf2\x0f\x58\xc1", "\x66\xf2\xf2\x0f\x58\xc1", 4, 6 },
		{ "\xf3\x0f\x58\xc1", "\xf2\x66\xf3\x0f\x58\xc1", 4, 6 },
		{ "\x0f\x58\xc1", "\x2e\x65\x3e\x0f\x58\xc1", 3, 6 },
	};
	static const struct isa_ops no_ops;
	struct isa_insn plain, more;

	harness_stubs();
	for (size_t k = 0; k < sizeof(t) / sizeof(t[0]); k++) {
		assert_int_equal(isa_decode(t[k].plain, t[k].n, ISA_CODE64, &no_ops, &plain), ISA_DECODE_OK);
		assert_int_equal(isa_decode(t[k].more, t[k].nr_more, ISA_CODE64, &no_ops, &more), ISA_DECODE_OK);
		assert_non_null(plain.extra);
		assert_ptr_equal(plain.extra, more.extra);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(redundant_prefixes_make_no_stub_of_their_own),
		cmocka_unit_test(pending_exception_and_page_fault_come_in_silicons_order),
		cmocka_unit_test(legacy_map_matches_the_bare_processor),
		cmocka_unit_test(vex_map_matches_the_bare_processor),
		cmocka_unit_test(x87_matches_the_bare_processor),
		cmocka_unit_test(evex_operand_in_an_absent_page_faults_as_on_silicon),
		cmocka_unit_test(evex_gathers_and_scatters_match_the_bare_processor),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
