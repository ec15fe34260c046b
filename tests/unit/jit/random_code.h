/*
 * Random instructions and blocks. The test that includes this defines what differs by the code's width.
 */
#ifndef TESTS_JIT_RANDOM_CODE_H
#define TESTS_JIT_RANDOM_CODE_H

#include "harness.h"

/* A random instruction with this opcode in the first of 16 bytes, the others random. */
static void random_encoding(uint8_t *b, unsigned map, unsigned opcode);
/* Registers that make accesses to the world's pages likely. */
static void random_start(struct start *s);
static void new_code(struct code *c); /* empty_code() of the test's width */

/* Nothing in it yet, at rip; which flags are live at its end, and how it is rewritten, by chance. */
static inline void empty_code(struct code *c, bool code32, uint64_t rip)
{
	c->nr = 0;
	c->code32 = code32;
	c->rip = rip;
	c->live_out = (uint8_t)(random64() & JIT_FLAGS_ALL);
	if (random64() % 3 == 0)
		c->live_out = random64() % 2 ? JIT_FLAGS_ALL : 0;
	c->no_group = random64() % 4 == 0;
	c->apart = random64() % 8 == 0;
	c->slots = random64() % 2 ? (uint32_t)random64() | (uint32_t)random64() : 0;
	c->flags_in_cc = random64() % 4 == 0;
}

/* With mod 2 a displacement, mostly a small one; modrm is in place, and a SIB if it has one. */
static inline void small_displacement(uint8_t *modrm)
{
	unsigned at = 1 + ((modrm[0] & 7) == 4);
	int32_t disp = (int32_t)(random64() % 512) - 256;

	if (modrm[0] >> 6 == 2 && random64() % 4)
		memcpy(modrm + at, &disp, 4);
}

/*
 * No two runs agree: of RDRAND and RDSEED, and of the XSAVE family, which writes the components that the processor
 * tracks as in use (SDM "XSAVE Feature Set": it may take one in its initial state for one in use).
 */
static inline bool is_random(const struct isa_insn *i)
{
	bool saves = i->flags & ISA_MEM && (i->opcode == 0xc7 ? (i->reg & 7) == 4 || (i->reg & 7) == 5 :
					    i->opcode == 0xae && ((i->reg & 7) == 4 || (i->reg & 7) == 6));

	return i->map == 1 && (saves || (i->opcode == 0xc7 && !(i->flags & ISA_MEM)));
}

/*
 * Silicon's undefined flags of a shift by other than 1 differ between register and
 * memory, and handlers shift registers only. Returns the flags not to compare.
 */
static inline uint8_t undefined_flags(const struct isa_insn *i)
{
	bool group = i->map == 0 && ((i->opcode & 0xfe) == 0xc0 || (i->opcode & 0xfe) == 0xd2);
	bool twice = i->map == 1 && (i->opcode & 0xf6) == 0xa4;

	return (group || twice) && (i->flags & ISA_MEM) ? JIT_OF | JIT_AF : 0;
}

static inline bool add_random(struct code *c, unsigned map, unsigned opcode, bool may_end)
{
	uint8_t b[16];

	random_encoding(b, map, opcode);
	if (c->nr == MAX_INSNS || !code_add(c, b, 16))
		return false;
	if (c->insn[c->nr - 1].kind == JIT_LEAVE || is_random(&c->isa[c->nr - 1]) ||
	    ((c->isa[c->nr - 1].flags & ISA_LOCK) && random64() % 8) ||
	    (!may_end && (c->isa[c->nr - 1].flags & ISA_ENDS_BLOCK))) {
		c->nr--;
		return false;
	}
	return true;
}

/* One more, of the first nr_maps maps; half of them of what compilers emit: eight opcodes of map 0 and of map 1. */
static inline void add_any(struct code *c, bool may_end, unsigned nr_maps, const char *often)
{
	for (unsigned tries = 0; tries < 1000; tries++) {
		uint64_t r = random64();
		unsigned map = r % 16 < 10 ? 0 : r % 16 < 14 ? 1 : 2 + (unsigned)(r / 16 % (nr_maps - 2));
		unsigned opcode = (unsigned)(r >> 32 & 0xff);

		if (r >> 40 & 1)
			opcode = (map ? "\x44\x94\xaf\xb6\x1f\xa3\xba\xb0" : often)[r >> 41 & 7] & 0xffu;
		if (add_random(c, map, opcode, may_end)) {
			if (!undefined_flags(&c->isa[c->nr - 1]) &&
			    (c->insn[c->nr - 1].kind == JIT_EMIT || r >> 50 & 1))
				return;
			c->nr--;
		}
	}
}

/* JIT_TEST_ROUNDS blocks (5000) of up to twelve instructions, by handlers and by emitted code. */
static inline void check_random_blocks(unsigned nr_maps, const char *often)
{
	const char *rounds = getenv("JIT_TEST_ROUNDS"), *seed = getenv("JIT_TEST_SEED");

	if (seed)
		random_seed = strtoull(seed, NULL, 0);
	for (unsigned long n = 0; n < (rounds ? strtoul(rounds, NULL, 0) : 5000); n++) {
		unsigned want = 1 + (unsigned)(random64() % 12);
		struct start s;
		struct code c;

		new_code(&c);
		while (c.nr < want)
			add_any(&c, c.nr + 1 == want, nr_maps, often);
		random_start(&s);
		check_code(&c, &s);
		random_start(&s);
		check_code(&c, &s);
	}
}

#endif
