/*
 * Decoded blocks: what the interpreter runs and a translator would translate.
 *
 * A block is up to 32 instructions in one 4 KiB page, keyed by the host address
 * of its first byte and the code mode; it ends with ISA_ENDS_BLOCK or at the
 * end of the page. An instruction that crosses a page is a block of its own.
 *
 *   rip -> TLB exec tag -> host address -> prev->succ[] | jump[] | hash[] -> block
 *   host page -> struct code_page -> its blocks (for invalidation)
 *
 * Invariants
 * 1. A block is linked in hash[] and in its page's list until it is killed; a
 *    killed block has key 0 and every instruction replaced by one that stops,
 *    so that a block that is running ends after the current instruction.
 * 2. Memory comes from one arena and is reused only when all blocks are
 *    dropped, which happens between blocks.
 * 3. No write tag exists for a page that has blocks (tlb.c, invariant 2).
 * 4. A block whose epoch is not the processor's is compared with memory before
 *    it runs: the client and its devices write without telling.
 * 5. With several processors, machine->code[] names every page any of them has
 *    blocks of; who writes to one takes it out and tells the others.
 * 6. Between a page's becoming code and the others' hearing of it they may
 *    still write to it untold, through a write tag or in the middle of an
 *    instruction. Until each has dropped its write tags since (or is not in
 *    the guest) a block is compared with memory before each use. Who has heard
 *    is asked before the bytes are read: what is written later is told. Nobody
 *    waits for anybody.
 */
#include "cpu/internal.h"
#include "host/memory.h"
#include "lib/error.h"
#include "lib/own.h"


int cpu_blocks_create(struct vmx_cpu *cpu)
{
	struct cpu_blocks *c = own_calloc(1, sizeof(*c));

	if (!c)
		return err_born(ENOMEM, "no memory for the block cache");
	for (size_t bytes = ARENA_BYTES; !c->arena && bytes >= ARENA_BYTES_LEAST; bytes /= 2) {
		c->arena = own_pages(bytes);
		c->arena_end = c->arena + bytes;
	}
	if (!c->arena) {
		own_free(c);
		return err_born(ENOMEM, "no memory for decoded blocks");
	}
	c->free = c->arena;
	cpu->blocks = c;
	return 0;
}

void cpu_blocks_destroy(struct vmx_cpu *cpu)
{
	if (!cpu->blocks)
		return;
	own_pages_free(cpu->blocks->arena);
	own_free(cpu->blocks);
	cpu->blocks = NULL;
}

void *cpu_blocks_room(struct vmx_cpu *cpu, size_t bytes)
{
	struct cpu_blocks *c = cpu->blocks;
	uint8_t *p = (uint8_t *)(((uintptr_t)c->free + 63) & ~63ULL);

	if (p + bytes + 2 * BLOCK_ROOM > c->arena_end)
		return NULL;
	c->free = p + bytes;
	return p;
}

/* --- look-up --- */

static bool same_bytes(const uint8_t *host, const uint8_t *bytes, unsigned n)
{
	unsigned k = 0;

	for (; k + 8 <= n; k += 8)
		if (isa_host_load(host + k, 8) != isa_host_load(bytes + k, 8))
			return false;
	for (; k < n; k++)
		if (*(const volatile uint8_t *)(host + k) != bytes[k])
			return false;
	return true;
}

/* Invariants 4 and 6. */
bool block_verify(struct vmx_cpu *cpu, struct cpu_block *b)
{
	const uint8_t *host = __va(cpu_block_host(b));
	unsigned first = b->nr_bytes;
	bool keep;

	if (b->epoch && !b->host2 && b->page->jit_epoch == cpu->epoch) {
		b->epoch = cpu->epoch; /* with the whole page (jit_page.c) */
		return true;
	}
	keep = code_page_settled(cpu, b);
	if (b->host2)
		first = (unsigned)(PAGE_SIZE - ((hpa_t)host & ~PAGE_MASK));
	if (!same_bytes(host, b->bytes, first) ||
	    (b->host2 && !same_bytes(__va(b->host2), b->bytes + first, b->nr_bytes - first)))
		return false;
	if (keep)
		b->epoch = cpu->epoch;
	return true;
}

/* The second page of a crossing instruction is still mapped there. */
static bool tail_ok(struct vmx_cpu *cpu, const struct cpu_block *b, gva_t lin)
{
	return (hpa_t)block_next_page(cpu, lin) == b->host2;
}

void block_drop(struct vmx_cpu *cpu, struct cpu_block *b)
{
	hpa_t host = cpu_block_host(b);

	cpu_blocks_drop(cpu, host, host + 1);
}

static const uint8_t *fetch_slow(struct vmx_cpu *cpu, gva_t lin)
{
	struct cpu_state *cs = &cpu->cs;

	if (cs->code_mode == ISA_CODE64) {
		if ((uint64_t)((int64_t)(lin << 16) >> 16) != lin)
			isa_raise_error(cs, X86_TRAP_GP, 0);
	} else if (cs->rip >= cpu->fetch_end) {
		isa_raise_error(cs, X86_TRAP_GP, 0);
	}
	return cpu_translate(cpu, lin, CPU_EXEC, cpu_data_priv(cpu, ISA_READ));
}

static struct cpu_block *block_slow(struct vmx_cpu *cpu, struct cpu_block *prev, gva_t lin)
{
	struct cpu_blocks *c = cpu->blocks;
	const uint8_t *host;
	struct cpu_block *b;
	uint64_t resets = c->resets, key;

	cpu_at_boundary(cpu);
	host = fetch_slow(cpu, lin);
	key = (hpa_t)host | (uint64_t)cpu->cs.code_mode << BLOCK_MODE_SHIFT;
	for (b = c->hash[block_hash(key)]; b && b->key != key;)
		b = b->hash_next;
	if (b && ((b->epoch != cpu->epoch && !block_verify(cpu, b)) ||
		  (b->host2 && !tail_ok(cpu, b, lin)))) {
		block_drop(cpu, b);
		b = NULL;
	}
	if (!b)
		b = block_decode(cpu, lin, host);
	if (cpu->cs.rip + b->nr_bytes > cpu->fetch_end) {
		isa_fpu_sync(&cpu->cs);
		return block_decode_scratch(cpu, lin, host);
	}
	if (b->host2 || !b->key)
		return b; /* its second page is to be looked at each time */
	*block_jump_slot(c, key) = b;
	if (prev && prev->key && resets == c->resets)
		prev->succ[prev->turn++ & 1] = b;
	return b;
}

struct cpu_block *cpu_block_at_rip(struct vmx_cpu *cpu, struct cpu_block *prev)
{
	struct cpu_state *cs = &cpu->cs;
	gva_t lin = (cs->rip + cpu->code_base) & cpu->code_mask;
	const struct isa_tlb_entry *e = &cpu->fetch_tlb[(lin >> PAGE_SHIFT) & (ISA_TLB_ENTRIES - 1)];
	struct cpu_block *b;
	uint64_t key;

	if (likely(e->exec_tag == (lin & PAGE_MASK))) {
		key = (lin + e->addend) | (uint64_t)cs->code_mode << BLOCK_MODE_SHIFT;
		if (prev) {
			b = prev->succ[0];
			if (likely(b && b->key == key))
				goto found;
			b = prev->succ[1];
			if (b && b->key == key)
				goto found;
		}
		b = *block_jump_slot(cpu->blocks, key);
		if (b && b->key == key)
			goto found;
	}
	return block_slow(cpu, prev, lin);
found:
	if (likely(cs->rip + b->nr_bytes <= cpu->fetch_end)) {
		if (likely(b->epoch == cpu->epoch))
			return b;
		cpu_at_boundary(cpu);
		if (block_verify(cpu, b))
			return b;
	}
	return block_slow(cpu, prev, lin);
}
