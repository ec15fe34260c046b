/*
 * Every encoding of flat 32-bit code, alone and in blocks, by handlers and by emitted code.
 */
#include "random_code.h"

#include "isa/decoder.h"

/* Both ends of 4 GiB, neighbours, and what an address would reach that is not cut to 32 bits. */
static const uint64_t linear[] = {
	0x00000000, 0x00001000, 0x10000000, 0x10001000, 0x80100000, 0xffffe000, 0xfffff000, 0x100000000,
};
#define WRITABLE_PAGES 7 /* and below 4 GiB */

static uint32_t random_address(void)
{
	uint64_t lin = linear[random64() % WRITABLE_PAGES];

	switch (random64() % 4) {
	case 0: return (uint32_t)(lin + 4096 - random64() % 72);
	case 1: return (uint32_t)(lin + random64() % 64);
	default: return (uint32_t)(lin + random64() % 4096);
	}
}

static void random_start(struct start *s)
{
	for (unsigned g = 0; g < NR_GPRS; g++) {
		switch (random64() % 8) {
		case 0: s->gpr[g] = (uint32_t)random64(); break;
		case 1: s->gpr[g] = (uint32_t)(random64() % 256 - 128); break;
		case 2: s->gpr[g] = random64() % 80; break;
		default: s->gpr[g] = random_address(); break;
		}
		/* left by 64-bit code of the same processor: compatibility mode keeps it */
		if (g != RSP && random64() % 16 == 0)
			s->gpr[g] |= random64() << 32;
	}
	if (random64() % 8)
		s->gpr[RSP] = (random_address() & ~3U) - (uint32_t)(8 * (random64() % 4));
	s->gpr[RSP] = (uint32_t)s->gpr[RSP];
	s->cc = (uint32_t)random64() & 0xd501;
	s->fs = random64() % 2 ? random64() % 64 : random_address();
	s->fs_limit = random64() % 4 ? ~0U : (uint32_t)random64();
	s->gs = random64() % 2 ? 0x1000 : random_address();
	random_fpu(s);
}

static unsigned random_prefixes(uint8_t *b)
{
	static const uint8_t segments[] = { 0x64, 0x65, 0x36, 0x3e, 0x26, 0x2e };
	uint64_t r = random64();
	unsigned n = 0;

	if (r % 32 == 0)
		b[n++] = 0x67;
	if (r / 32 % 8 == 0)
		b[n++] = segments[r / 256 % 6];
	if (r / 2048 % 6 == 0)
		b[n++] = 0x66;
	if (r / 16384 % 8 == 0)
		b[n++] = r / 131072 % 2 ? 0xf3 : 0xf2;
	if (r / 262144 % 64 == 0) /* seldom: hosts make a split lock cost milliseconds */
		b[n++] = 0xf0;
	return n;
}

/* A constant address: mod 0, rm 5, mostly into a page that there is. */
static void constant_address(uint8_t *modrm)
{
	uint32_t lin = random_address();

	*modrm = (uint8_t)((*modrm & 0x38) | 5);
	memcpy(modrm + 1, &lin, 4);
}

/* A random instruction with this opcode; the rest of the 16 bytes random. Map 4 to 6: VEX. */
static void random_encoding(uint8_t *b, unsigned map, unsigned opcode)
{
	unsigned n, mod;

	for (unsigned k = 0; k < 16; k++)
		b[k] = (uint8_t)random64();
	if (map >= 4) {
		n = 0;
		b[n++] = 0xc4;
		b[n] = (uint8_t)((b[n] & 0x20) | 0xc0 | (map - 3));
		if (opcode >= 0xf0) /* general registers: VEX.L is 0 */
			b[n + 1] &= (uint8_t)~4;
		n += 2;
	} else {
		n = random_prefixes(b);
		if (map)
			b[n++] = 0x0f;
		if (map > 1)
			b[n++] = map == 2 ? 0x38 : 0x3a;
	}
	b[n++] = (uint8_t)opcode;
	if (!map && (opcode & 0xfc) == 0xa0) {
		uint32_t lin = random_address();

		memcpy(b + n, &lin, 4);
		return;
	}
	mod = (unsigned)(random64() % 5);
	b[n] = (uint8_t)((b[n] & 0x3f) | (mod > 3 ? 3u : mod) << 6);
	if (mod == 0 && random64() % 2)
		constant_address(b + n);
	else if (random64() % 4 == 0)
		b[n + 1] = 0x24; /* if there is a SIB: [esp] */
	small_displacement(b + n);
}

static void new_code(struct code *c)
{
	empty_code(c, true, (random64() % 2 ? 0x08048000 : 0xfffff000) + random64() % 2048);
}

static void every_opcode_alone(void **state)
{
	static unsigned emitted_of[256];
	unsigned emitted = 0, called = 0;

	for (unsigned map = 0; map < 7; map++)
		for (unsigned opcode = 0; opcode < 256; opcode++)
			for (unsigned n = 0; n < (map < 4 ? 150u : 40u); n++) {
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
				emitted_of[opcode] += !map;
				c.live_out &= (uint8_t)~undefined_flags(&c.isa[0]);
				random_start(&s);
				check_code(&c, &s);
			}
	print_message("%u emitted, %u by their handlers, %u stub calls\n", emitted, called, world->misses);
	assert_true(emitted > 15000);
	/* what has another encoding in 64-bit mode */
	for (unsigned opcode = 0x40; opcode < 0x60; opcode++)
		assert_true(emitted_of[opcode] > 20);
	for (unsigned opcode = 0xa0; opcode < 0xa4; opcode++)
		assert_true(emitted_of[opcode] > 20);
}

static void random_blocks(void **state)
{
	check_random_blocks(7, "\x8b\x89\x55\x5d\x83\x8d\x40\xa1");
}

#define INSN(text) { (const uint8_t *)(text), sizeof(text) - 1 }
struct encoding {
	const uint8_t *bytes;
	unsigned nr;
};

static void add_all(struct code *c, const struct encoding *e, unsigned nr)
{
	new_code(c);
	c->rip = 0x08048000;
	c->no_group = false;
	c->live_out = 0;
	for (unsigned n = 0; n < nr; n++)
		assert_true(code_add(c, e[n].bytes, e[n].nr));
}

/* ESP leaves 32 bits and comes back between accesses that are at the same place. */
static void esp_wraps_within_a_group(void **state)
{
	static const struct encoding up[] = {
		INSN("\x8b\x44\x24\xf0"),     /* mov eax, [esp-16] */
		INSN("\x8d\x64\x24\x20"),     /* lea esp, [esp+32] */
		INSN("\x89\x5c\x24\xe0"),     /* mov [esp-32], ebx */
		INSN("\x8d\x64\x24\xe0"),     /* lea esp, [esp-32] */
		INSN("\x89\x4c\x24\xf8"),     /* mov [esp-8], ecx */
	}, down[] = {
		INSN("\x8b\x44\x24\x10"),     /* mov eax, [esp+16] */
		INSN("\x83\xec\x20"),	      /* sub esp, 32 */
		INSN("\x89\x5c\x24\x30"),     /* mov [esp+48], ebx */
		INSN("\x83\xc4\x20"),	      /* add esp, 32 */
		INSN("\x58"),		      /* pop eax */
		INSN("\x51"),		      /* push ecx */
	};
	struct start s;
	struct code c;

	for (unsigned n = 0; n < 400; n++) {
		if (n & 1)
			add_all(&c, up, ARRAY_SIZE(up));
		else
			add_all(&c, down, ARRAY_SIZE(down));
		random_start(&s);
		/* around the end of 4 GiB, its last page but one, and 0 */
		s.gpr[RSP] = (uint32_t)((n & 2 ? 0 : n & 4 ? 0xfffff000 : 0xfffffff8) + 4 * (random64() % 16) - 24);
		s.gpr[RBP] = s.gpr[RSP];
		check_code(&c, &s);
	}
}

/* A probe moves ahead of a compare in 32-bit code too. */
static void a_probe_moves_ahead_of_a_compare(void **state)
{
	static const struct encoding based[] = {
		INSN("\x39\xd8"), INSN("\x8d\x53\x01"), INSN("\x8b\x0f"), INSN("\x0f\x95\xc0"),
	}, constant[] = {
		INSN("\x39\xd8"), INSN("\x8d\x53\x01"), INSN("\xa1\x10\x00\x10\x80"), INSN("\x0f\x95\xc0"),
	};
	struct start s;
	struct code c;

	for (unsigned n = 0; n < 400; n++) {
		add_all(&c, n & 1 ? constant : based, 4);
		c.live_out = JIT_FLAGS_ALL;
		random_start(&s);
		check_code(&c, &s);
		assert_int_equal(rewriter->nr_calls, 1);
		assert_int_equal(rewriter->calls[0].first, 0);
		assert_int_equal(rewriter->calls[0].nr, 3);
	}
}

/* As 64-bit code of the same address space leaves it. */
static void tag_page_at_4_gib(void)
{
	const struct page *p = &world->page[7];

	world->tlb[0] = (struct isa_tlb_entry){ p->lin, p->lin, p->lin, (uintptr_t)p->host - p->lin };
}

/*
 * base + disp32 is another number in 64 bits: 10h + ffffffff80100000h, 80000000h + 7ffffff0h + …;
 * nor is there a page above 4 GiB.
 */
static void sums_are_cut_to_32_bits(void **state)
{
	static const struct encoding load[] = { INSN("\x8b\x83\x00\x00\x10\x80"), /* mov eax, [ebx+80100000h] */
						INSN("\x8b\x84\xb3\xf0\xff\xff\x7f"), /* mov eax, [ebx+esi*4+7ffffff0h] */
						INSN("\x00\xa4\xb3\x00\x00\x10\x80") }; /* add [ebx+esi*4+80100000h], ah */
	static struct outcome a, b;
	struct start s;
	struct code c;

	for (unsigned n = 0; n < 600; n++) {
		add_all(&c, &load[n % 3], 1);
		random_start(&s);
		s.gpr[RSI] = (uint32_t)(n % 2 ? 0x40000000 + random64() % 8 : random64() % 8);
		s.gpr[RBX] = (uint32_t)(n % 3 == 1 ? random_address() - 0x7ffffff0 - 4 * s.gpr[RSI] : random64() % 4096);
		if (n % 5 == 0)
			s.gpr[RBX] |= random64() << 32;
		world_save();
		run_interpreter(&c, &s, &a);
		tag_page_at_4_gib();
		assert_true(run_emitted(&c, &s, &b));
		compare(&c, &s, &a, &b);
	}
}

/* None of these sums is left to the handler once the page is known. */
static void cut_sums_are_found_in_the_tlb(void **state)
{
	static const struct encoding load = INSN("\x8b\x83\x00\x00\x10\x80"); /* mov eax, [ebx+80100000h] */
	static struct outcome o;
	struct start s;
	struct code c;
	unsigned misses;

	world_save();
	add_all(&c, &load, 1);
	random_start(&s);
	s.gpr[RBX] = 0x7f00000010; /* the upper half is of no matter */
	run_interpreter(&c, &s, &o);
	misses = world->misses;
	assert_true(run_emitted(&c, &s, &o));
	assert_int_equal(world->misses, misses);
}

static int setup(void **state)
{
	world_create();
	for (unsigned n = 0; n < ARRAY_SIZE(linear); n++)
		world_page(linear[n]);
	world->page[3].untagged = true;
	world->page[5].writable = false;
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_opcode_alone),
		cmocka_unit_test(sums_are_cut_to_32_bits),
		cmocka_unit_test(cut_sums_are_found_in_the_tlb),
		cmocka_unit_test(esp_wraps_within_a_group),
		cmocka_unit_test(a_probe_moves_ahead_of_a_compare),
		cmocka_unit_test(random_blocks),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
