/*
 * Code pages as a whole, compared with memory once in an epoch.
 *
 * Units of a page lead to each other without the dispatcher, so all of a page's
 * blocks are looked at before one of its units is entered. To compare block by
 * block reads the same bytes several times, and headers that lie far apart; so
 * the page's lines are kept as they were when all blocks matched.
 *
 * Invariants
 * 1. A block that has never been verified while its page was settled has epoch 0: nothing
 *    here is about it, and no unit contains it.
 * 2. code_page.copy holds, of the lines in copied, bytes with which all other live
 *    blocks of the page agree (those that go on in the next page aside).
 * 3. jit_epoch == cpu->epoch: all these blocks are as memory was in this epoch.
 *
 * Locks: none; runs on the vCPU's thread, general registers only.
 */
#include "cpu/jit.h"
#include "host/memory.h"

#define LINE 64u

/* Do the lines in the set agree? Lines differ rarely: all are read. */
static bool same_lines(const uint8_t *a, const uint8_t *b, uint64_t lines)
{
	uint64_t differ = 0;

	for (; lines; lines &= lines - 1) {
		unsigned at = (unsigned)__builtin_ctzll(lines) * LINE;

		for (unsigned k = 0; k < LINE; k += 8)
			differ |= isa_host_load(a + at + k, 8) ^ isa_host_load(b + at + k, 8);
	}
	return !differ;
}

static void copy_lines(uint8_t *to, const uint8_t *from, uint64_t lines)
{
	for (; lines; lines &= lines - 1) {
		unsigned at = (unsigned)__builtin_ctzll(lines) * LINE;

		for (unsigned k = 0; k < LINE; k += 8)
			isa_host_store(to + at + k, 8, isa_host_load(from + at + k, 8));
	}
}

/* Is the block as the copy has it? */
static bool block_matches(const struct code_page *p, const struct cpu_block *b)
{
	const uint8_t *was = p->copy + (cpu_block_host(b) & ~PAGE_MASK);

	for (unsigned n = 0; n < b->nr_bytes; n++)
		if (was[n] != b->bytes[n])
			return false;
	return true;
}

/* Block by block, with a new copy. */
static bool fresh_by_blocks(struct vmx_cpu *cpu, struct code_page *p)
{
	uint64_t lines = p->lines;

	p->copied = 0;
	copy_lines(p->copy, __va(p->page), lines);
	for (struct cpu_block *b = p->blocks; b; b = b->page_next)
		if (b->epoch && !b->host2 && !block_matches(p, b)) {
			block_drop(cpu, b);
			return false;
		}
	p->copied = lines;
	return true;
}

void jit_page_grew(struct code_page *p, const struct cpu_block *b)
{
	unsigned first = (unsigned)(cpu_block_host(b) & ~PAGE_MASK) / LINE;
	unsigned last = (unsigned)min_u64((cpu_block_host(b) & ~PAGE_MASK) + b->nr_bytes, PAGE_SIZE) - 1;
	uint64_t lines = GENMASK_ULL(last / LINE, first);

	if (!p->copied || b->host2)
		return;
	copy_lines(p->copy, __va(p->page), lines & ~p->copied);
	p->copied = block_matches(p, b) ? p->copied | lines : 0;
}

bool jit_page_fresh(struct vmx_cpu *cpu, struct code_page *p)
{
	if (likely(p->jit_epoch == cpu->epoch))
		return true;
	if (!p->copy) {
		p->copy = cpu_blocks_room(cpu, PAGE_SIZE);
		if (!p->copy)
			return false;
	}
	if (p->copied != p->lines || !same_lines(p->copy, __va(p->page), p->lines)) {
		if (!fresh_by_blocks(cpu, p))
			return false;
	}
	p->jit_epoch = cpu->epoch;
	return true;
}
