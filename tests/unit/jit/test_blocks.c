/*
 * Every encoding, alone and in blocks, by handlers and by emitted code.
 */
#include "random_code.h"

#include "isa/decoder.h"

/* Addresses that catch an access to the wrong place: neighbours, and pages 4 GiB below others. */
static const uint64_t linear[] = {
	0x0000000010000000, 0x0000000010001000, 0x0000000110000000, 0x00007ffff7fff000,
	0xffff888000000000, 0xffff888000001000, 0xfffffffffffff000, 0x0000000000000000,
};

static uint64_t random_address(void)
{
	uint64_t lin = linear[random64() % ARRAY_SIZE(linear)];

	switch (random64() % 4) {
	case 0: return lin + 4096 - random64() % 72;
	case 1: return lin + random64() % 64;
	default: return lin + random64() % 4096;
	}
}

static void random_start(struct start *s)
{
	for (unsigned g = 0; g < NR_GPRS; g++) {
		switch (random64() % 8) {
		case 0: s->gpr[g] = random64(); break;
		case 1: s->gpr[g] = random64() % 256 - 128; break;
		case 2: s->gpr[g] = random64() % 80; break;
		default: s->gpr[g] = random_address(); break;
		}
	}
	if (random64() % 8)
		s->gpr[RSP] = (random_address() & ~7ULL) - 16 * (random64() % 4);
	s->cc = (uint32_t)random64() & 0xd501;
	s->fs = random64() % 2 ? random64() % 64 : random_address();
	s->gs = random64() % 2 ? 0x1000 : random_address();
	random_fpu(s);
}

/* A random instruction with this opcode; returns its bytes (the rest of the 15 random). */
static void random_encoding(uint8_t *b, unsigned map, unsigned opcode)
{
	unsigned n = 0, mod, k;
	uint64_t r = random64();

	for (k = 0; k < 16; k++)
		b[k] = (uint8_t)random64();
	if (r % 16 == 0)
		b[n++] = 0x67;
	if (r / 16 % 8 == 0)
		b[n++] = r / 128 % 2 ? 0x64 : 0x65;
	if (r / 256 % 6 == 0)
		b[n++] = 0x66;
	if (r / 2048 % 8 == 0)
		b[n++] = r / 16384 % 2 ? 0xf3 : 0xf2;
	if (r / 32768 % 64 == 0) /* seldom: hosts make a split lock cost milliseconds */
		b[n++] = 0xf0;
	r = random64();
	if (map >= 7) { /* EVEX */
		n = 0;
		b[n++] = 0x62;
		b[n] = (uint8_t)((b[n] & 0xf0) | (map - 6));
		b[n + 1] |= 4;
		if (random64() % 2) { /* two operands */
			b[n + 1] |= 0x78;
			b[n + 2] |= 8;
		}
		if (random64() % 2)
			b[n + 2] &= 0x68; /* no mask, no zeroing, no broadcast */
		n += 3;
	} else if (map >= 4) { /* VEX */
		n = 0;
		b[n++] = 0xc4;
		b[n] = (uint8_t)((b[n] & 0xe0) | (map - 3));
		if (opcode >= 0xf0) /* general registers: VEX.L is 0 */
			b[n + 1] &= (uint8_t)~4;
		n += 2;
	} else {
		if (r % 3)
			b[n++] = 0x40 | (uint8_t)(r / 3 % 16);
		if (map)
			b[n++] = 0x0f;
		if (map > 1)
			b[n++] = map == 2 ? 0x38 : 0x3a;
	}
	b[n++] = (uint8_t)opcode;
	/* ModRM: small displacements mostly, RSP as base often */
	mod = (unsigned)(random64() % 5);
	b[n] = (uint8_t)((b[n] & 0x3f) | (mod > 3 ? 3u : mod) << 6);
	if (random64() % 4 == 0)
		b[n + 1] = 0x24; /* if there is a SIB: [rsp] */
	small_displacement(b + n);
}

static void new_code(struct code *c)
{
	empty_code(c, false, 0x00007f0012345000 + random64() % 2048);
}

static void every_opcode_alone(void **state)
{
	unsigned emitted = 0, called = 0, evex = 0;

	for (unsigned map = 0; map < 10; map++)
		for (unsigned opcode = 0; opcode < 256; opcode++)
			for (unsigned n = 0; n < (map < 4 ? 100u : map < 7 ? 40u : 150u); n++) {
				struct start s;
				struct code c;

				new_code(&c);
				if (!add_random(&c, map, opcode, true))
					continue;
				if (c.insn[0].kind == JIT_CALL) {
					called++;
					continue;
				}
				emitted++;
				evex += map >= 7;
				c.live_out &= (uint8_t)~undefined_flags(&c.isa[0]);
				random_start(&s);
				check_code(&c, &s);
			}
	print_message("%u emitted (%u EVEX), %u by their handlers, %u stub calls\n", emitted, evex, called,
		      world->misses);
	/* of a host with everything most are vector instructions */
	assert_true(emitted > (isa_host_has(HOST_AVX512F) ? 20000 : isa_host_has(HOST_AVX) ? 12000 : 8000));
}

static void random_blocks(void **state)
{
	check_random_blocks(10, "\x8b\x89\x55\x5d\x83\x8d\x01\x39");
}

/* Of instructions that are done in C, or decode to others, on hosts without them. */
static void what_the_host_lacks_is_not_copied(void **state)
{
	static const struct {
		const char *bytes;
		unsigned nr;
		enum isa_host_feature needs;
	} insns[] = {
		{ "\xf3\x0f\xbc\xc1", 4, HOST_BMI1 },		   /* tzcnt eax, ecx */
		{ "\xf3\x48\x0f\xbd\xc1", 5, HOST_LZCNT },	   /* lzcnt rax, rcx */
		{ "\x0f\x38\xf0\x01", 4, HOST_MOVBE },		   /* movbe eax, [rcx] */
		{ "\x0f\x38\xf1\x01", 4, HOST_MOVBE },
		{ "\xf3\x0f\xb8\xc1", 4, HOST_POPCNT },	   /* popcnt eax, ecx */
		{ "\xf2\x0f\x38\xf1\xc1", 5, HOST_SSE42 },	   /* crc32 eax, ecx */
		{ "\x66\x0f\x38\xf6\xc1", 5, HOST_ADX },	   /* adcx eax, ecx */
		{ "\xc4\xe2\x78\xf2\xc1", 5, HOST_BMI1 },	   /* andn eax, eax, ecx */
		{ "\xc4\xe2\x7b\xf6\xc1", 5, HOST_BMI2 },	   /* mulx eax, eax, ecx */
		{ "\x66\x0f\x38\x00\xc1", 5, HOST_SSSE3 },	   /* pshufb xmm0, xmm1 */
		{ "\x66\x0f\x38\xdc\xc1", 5, HOST_AES },	   /* aesenc xmm0, xmm1 */
		{ "\xc5\xf8\x58\xc1", 4, HOST_AVX },		   /* vaddps xmm0, xmm0, xmm1 */
		{ "\xc4\xe2\x7d\x78\xc1", 5, HOST_AVX2 },	   /* vpbroadcastb ymm0, xmm1 */
		{ "\xc4\xe2\x79\xb8\xc1", 5, HOST_FMA },	   /* vfmadd231ps xmm0, xmm0, xmm1 */
		{ "\x62\xf1\x7c\x48\x58\xc1", 6, HOST_AVX512F }, /* vaddps zmm0, zmm0, zmm1 */
	};

	for (unsigned n = 0; n < ARRAY_SIZE(insns); n++) {
		struct code c;
		bool copied;

		new_code(&c);
		copied = code_add(&c, (const uint8_t *)insns[n].bytes, insns[n].nr) && c.insn[0].kind == JIT_EMIT;
		if (copied != isa_host_has(insns[n].needs))
			fail_msg("instruction %u", n);
	}
}

/* RSP comes back to where it was modulo 2^32, 4 GiB above: no constant that a group may follow. */
static void rsp_moved_by_4_gib_leaves_its_group(void **state)
{
	static const struct {
		const char *bytes;
		unsigned nr;
	} insns[] = {
		{ "\x50", 1 },				  /* push rax: the group's first access */
		{ "\x48\x8d\xa4\x24\xff\xff\xff\x7f", 8 }, /* lea rsp, [rsp+7fffffffh] */
		{ "\x48\x8d\xa4\x24\xff\xff\xff\x7f", 8 },
		{ "\x48\x8d\x64\x24\x02", 5 },	  /* lea rsp, [rsp+2] */
		{ "\x48\x89\x4c\x24\x08", 5 },	  /* mov [rsp+8], rcx */
	};
	struct start s;
	struct code c;

	new_code(&c);
	c.no_group = false;
	c.live_out = 0;
	for (unsigned n = 0; n < ARRAY_SIZE(insns); n++)
		assert_true(code_add(&c, (const uint8_t *)insns[n].bytes, insns[n].nr));
	for (unsigned n = 0; n < 32; n++) { /* soon the stack's page is the group slot's */
		random_start(&s);
		s.gpr[RSP] = s.gpr[RBP] = linear[4] + 0x800; /* nothing is 4 GiB above */
		check_code(&c, &s);
	}
}

static const int32_t far_disps[] = {
	INT32_MAX, INT32_MAX - 3, INT32_MAX - 7, INT32_MAX - 31, INT32_MAX - 127, INT32_MIN, INT32_MIN + 1, -1, 0,
};

/* The offset of a 32-bit displacement in an instruction with a base register; 0: not such a one. */
static unsigned find_disp32(const uint8_t *b)
{
	ZydisDecodedOperand o[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecodedInstruction z;
	ZydisDecoder d;

	ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&d, b, 15, &z, o)) || z.raw.disp.size != 32)
		return 0;
	return z.raw.disp.offset;
}

/*
 * Operands whose displacement is at the end of its range and whose base makes up for
 * it, around page boundaries: with and without FS and GS, address size 32 (the
 * base's upper half is anything), and pages that lie 4 GiB apart.
 */
static void displacements_at_the_ends_of_their_range(void **state)
{
	unsigned run = 0;

	while (run < 20000) {
		uint64_t r = random64(), lin = random_address();
		int32_t disp = far_disps[random64() % ARRAY_SIZE(far_disps)];
		const struct isa_insn *i;
		struct start s;
		struct code c;
		uint8_t b[16];
		unsigned at;

		random_encoding(b, r % 16 < 9 ? 0 : r % 16 < 13 ? 1 : 2 + r / 16 % 8, (unsigned)(r >> 32 & 0xff));
		at = find_disp32(b);
		if (!at)
			continue;
		memcpy(b + at, &disp, 4);
		new_code(&c);
		i = &c.isa[0];
		if (!code_add(&c, b, 16) || !c.insn[0].access || is_random(i) || i->base == ISA_NO_REG ||
		    c.insn[0].kind != JIT_EMIT || ((i->flags & ISA_LOCK) && r >> 60))
			continue;
		random_start(&s);
		if (i->index != ISA_NO_REG)
			s.gpr[i->index] = random64() % 3 ? random64() % 64 : random64();
		s.gpr[i->base] = lin - (uint64_t)(int64_t)disp;
		if (i->index != ISA_NO_REG && i->index != i->base)
			s.gpr[i->base] -= s.gpr[i->index] << i->shift;
		if (i->seg >= SREG_FS)
			s.gpr[i->base] -= i->seg == SREG_FS ? s.fs : s.gs;
		if (i->adsize == 4)
			s.gpr[i->base] ^= random64() << 32;
		c.live_out &= (uint8_t)~undefined_flags(i);
		check_code(&c, &s);
		check_code(&c, &s);
		run++;
	}
}

/*
 * What the rewriter takes an instruction's flags for, against silicon (handlers run
 * the host's own instruction): the same state twice, but for flags that it is not said to
 * read. All results agree, and flags that it is not said to write stay.
 */
static void flags_are_read_and_written_as_the_table_says(void **state)
{
	static struct outcome a, b;
	unsigned run = 0;

	world_save();
	for (unsigned map = 0; map < 10; map++)
		for (unsigned opcode = 0; opcode < 256; opcode++)
			for (unsigned n = 0; n < 60; n++) {
				uint32_t killed, written, flip;
				struct start s;
				struct code c;

				new_code(&c);
				if (!add_random(&c, map, opcode, true) || c.insn[0].kind != JIT_EMIT ||
				    (c.isa[0].flags & ISA_LOCK))
					continue;
				random_start(&s);
				if (random64() % 2)
					s.gpr[RCX] = random64() % 70; /* a count */
				run_interpreter(&c, &s, &a);
				flip = cc_mask((uint8_t)~c.insn[0].flags_read) & (uint32_t)random64();
				s.cc ^= flip;
				run_interpreter(&c, &s, &b);
				killed = cc_mask(c.insn[0].flags_killed);
				written = cc_mask(c.insn[0].flags_written);
				if (a.raised != b.raised || memcmp(a.gpr, b.gpr, sizeof(a.gpr)) ||
				    (!a.raised && (((a.cc ^ b.cc) & killed) ||
						   ((b.cc ^ s.cc) & ~written & 0xd501)))) {
					compare(&c, &s, &a, &b);
					fail_msg("flags: read %02x killed %02x written %02x, cc %x -> %x / %x",
						 c.insn[0].flags_read, c.insn[0].flags_killed,
						 c.insn[0].flags_written, s.cc, a.cc, b.cc);
				}
				run++;
			}
	assert_true(run > 5000);
}

/* cmp rax, rbx; lea rdx, [rbx+1]; mov rcx, [rdi]; setne al */
static void a_probe_moves_ahead_of_a_compare(void **state)
{
	static const uint8_t cmp[16] = { 0x48, 0x39, 0xd8 }, lea[16] = { 0x48, 0x8d, 0x53, 1 },
			     mov[16] = { 0x48, 0x8b, 0x0f }, setne[16] = { 0x0f, 0x95, 0xc0 },
			     other[16] = { 0x48, 0x8d, 0x7f, 1 }; /* lea rdi, [rdi+1] */
	struct start s;
	struct code c;

	for (unsigned moved = 0; moved < 2; moved++)
		for (unsigned n = 0; n < 200; n++) {
			new_code(&c);
			c.slots = 0; /* its check stays where it is */
			assert_true(code_add(&c, cmp, 16));
			assert_true(code_add(&c, moved ? lea : other, 16));
			assert_true(code_add(&c, mov, 16));
			assert_true(code_add(&c, setne, 16));
			random_start(&s);
			check_code(&c, &s);
			assert_int_equal(rewriter->nr_calls, 1);
			assert_int_equal(rewriter->calls[0].first, moved ? 0 : 2);
			assert_int_equal(rewriter->calls[0].nr, moved ? 3 : 1);
		}
}

/* Both operands are one register that lives in memory; then it is read. */
static void a_register_in_memory_that_meets_itself_is_read_behind_it(void **state)
{
	static const uint8_t op[][16] = {
		{ 0x4d, 0x19, 0xd2 }, { 0x4d, 0x01, 0xd2 }, { 0x4d, 0x11, 0xd2 }, { 0x4d, 0x29, 0xd2 }, { 0x4d, 0x31, 0xd2 },
		{ 0x45, 0x19, 0xd2 }, { 0x45, 0x00, 0xd2 }, { 0x66, 0x45, 0x01, 0xd2 }, { 0x4d, 0x85, 0xd2 }, { 0x4d, 0x87, 0xd2 },
	}; /* sbb, add, adc, sub, xor r10, r10; of 4, 1 and 2 bytes; test, xchg */
	static const uint8_t use[16] = { 0x4c, 0x21, 0xd7 }, other[16] = { 0x4d, 0x01, 0xd3 }; /* and rdi, r10; add r11, r10 */
	struct start s;
	struct code c;

	for (unsigned n = 0; n < ARRAY_SIZE(op) * 50; n++) {
		new_code(&c);
		assert_true(code_add(&c, op[n % ARRAY_SIZE(op)], 16));
		assert_true(code_add(&c, use, 16));
		assert_true(code_add(&c, other, 16));
		random_start(&s);
		check_code(&c, &s);
	}
}

/* The carry passes by DEC and the jump behind it where an access has put it into cc; and nothing else is lost. */
static void a_carry_that_dec_passes_on_arrives(void **state)
{
	static const uint8_t load[16] = { 0x48, 0x8b, 0x06 }, dec[16] = { 0xff, 0xc9 }; /* mov rax, [rsi]; dec ecx */
	static const uint8_t dec_there[16] = { 0xff, 0x4e, 0x10 }, lea[16] = { 0x4c, 0x8d, 0x51, 0x05 }; /* dec dword [rsi+16]; lea r10, [rcx+5] */
	static const uint8_t jump[2][16] = { { 0x75, 0x10 }, { 0x7e, 0x10 } }; /* jne, jle */
	static const uint8_t live[] = { JIT_CF, JIT_FLAGS_ALL, JIT_CF | JIT_SF, JIT_ZF };
	struct start s;
	struct code c;

	for (unsigned n = 0; n < 2000; n++) {
		new_code(&c);
		c.live_out = live[n % ARRAY_SIZE(live)];
		assert_true(code_add(&c, load, 16));
		assert_true(code_add(&c, n & 4 ? dec_there : dec, 16));
		if (n & 8)
			assert_true(code_add(&c, lea, 16));
		assert_true(code_add(&c, jump[n >> 4 & 1], 16));
		random_start(&s);
		check_code(&c, &s);
	}
}

static int setup(void **state)
{
	world_create();
	for (unsigned n = 0; n < ARRAY_SIZE(linear); n++)
		world_page(linear[n]);
	world->page[3].writable = false;
	world->page[5].untagged = true;
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_opcode_alone),
		cmocka_unit_test(displacements_at_the_ends_of_their_range),
		cmocka_unit_test(flags_are_read_and_written_as_the_table_says),
		cmocka_unit_test(a_probe_moves_ahead_of_a_compare),
		cmocka_unit_test(a_register_in_memory_that_meets_itself_is_read_behind_it),
		cmocka_unit_test(a_carry_that_dec_passes_on_arrives),
		cmocka_unit_test(random_blocks),
		cmocka_unit_test(what_the_host_lacks_is_not_copied),
		cmocka_unit_test(rsp_moved_by_4_gib_leaves_its_group),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
