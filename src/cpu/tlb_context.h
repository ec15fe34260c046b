/*
 * One context of the TLB (tlb.h): what is dropped from it, and how its larger pages are known.
 *
 * Locks: none; the processor's thread.
 */
#ifndef USERKVM_CPU_TLB_CONTEXT_H
#define USERKVM_CPU_TLB_CONTEXT_H

#include "cpu/internal.h"

extern const struct isa_tlb_entry tlb_no_entry;

/*
 * The stack slot and the other slots of emitted code are translations of their own: the entry that one
 * came from may have been replaced. So every invalidation drops them.
 */
static inline void tlb_drop_stack_slot(struct cpu_state *cs)
{
	cs->sp_tag = TLB_NO_ACCESS;
	if (unlikely(cpu_of(cs)->slots))
		cpu_jit_drop_slots(cpu_of(cs));
}

static inline void tlb_clear_entry(struct tlb_sub *s, unsigned index)
{
	if (s->e[index].exec_tag != TLB_NO_ACCESS)
		s->code_gen++;
	s->e[index] = tlb_no_entry;
}

/* The page of an entry; TLB_NO_ACCESS when it has none. */
static inline uint64_t tlb_page_of(const struct isa_tlb_entry *e)
{
	return e->read_tag != TLB_NO_ACCESS ? e->read_tag :
	       e->exec_tag != TLB_NO_ACCESS ? e->exec_tag : e->write_tag;
}

/*
 * Which bit of large[] stands for the page around gva of 1 << shift bytes: 2 and
 * 4 MiB pages by their 4 MiB. Others may share it, but of the same half of the addresses: kernels map
 * all memory by larger pages, and page faults are at users' addresses.
 */
static inline unsigned tlb_large_bit(gva_t gva, unsigned shift)
{
	uint64_t key = shift > 22 ? ~(gva >> 30) : gva >> 22;

	return (unsigned)(key * 0x9e3779b97f4a7c15ULL >> 56) | (unsigned)(gva >> 47 & 1) << 8;
}

static inline bool tlb_large_has(const struct tlb_context *c, gva_t gva, unsigned shift)
{
	unsigned bit = tlb_large_bit(gva, shift);

	return c->large[bit / 64] & BIT_ULL(bit % 64);
}

void tlb_flush_context(struct tlb_context *c);
/* All but global entries. */
void tlb_flush_nonglobal(struct tlb_context *c);
/* What translates gva, all fragments of a larger page included, and every PDE. */
void tlb_flush_address(struct tlb_context *c, gva_t gva, bool globals_only);
/* Before a context's first use: not all at once, for they are large. */
void tlb_empty_context(struct tlb_context *c);

#endif
