/*
 * Dropping from one context of the TLB (tlb_context.h). Each drop moves code_gen or cr3_gen where code may have been
 * reached by it (invariant 6 of tlb.c), and forgets the APIC-access page (7).
 */
#include "cpu/tlb_context.h"

const struct isa_tlb_entry tlb_no_entry = {
	TLB_NO_ACCESS, TLB_NO_ACCESS, TLB_NO_ACCESS, 0,
};

static void flush_sub(struct tlb_sub *s)
{
	s->code_gen++;
	for (uint32_t n = 0; n < s->nr_filled; n++) {
		tlb_clear_entry(s, s->filled[n]);
		s->side[s->filled[n]].listed = false;
	}
	s->nr_filled = 0;
	s->apic_page = APIC_NO_MAPPING;
}

static void flush_pde(struct tlb_context *c)
{
	for (unsigned n = 0; n < PDE_CACHE_ENTRIES; n++)
		c->pde[n].tag = 0;
}

void tlb_flush_context(struct tlb_context *c)
{
	tlb_drop_stack_slot(c->cs);
	for (int p = 0; p < NR_PRIVS; p++)
		flush_sub(&c->sub[p]);
	flush_pde(c);
	c->keys = 0;
	for (unsigned n = 0; n < ARRAY_SIZE(c->large); n++)
		c->large[n] = 0;
}

void tlb_flush_nonglobal(struct tlb_context *c)
{
	tlb_drop_stack_slot(c->cs);
	for (int p = 0; p < NR_PRIVS; p++) {
		struct tlb_sub *s = &c->sub[p];
		uint32_t kept = 0;

		s->cr3_gen++;
		for (uint32_t n = 0; n < s->nr_filled; n++) {
			uint16_t x = s->filled[n];

			if (s->side[x].global) {
				s->filled[kept++] = x;
				continue;
			}
			s->e[x] = tlb_no_entry;
			s->side[x].listed = false;
		}
		s->nr_filled = kept;
		s->apic_page = APIC_NO_MAPPING;
	}
	flush_pde(c);
}

/* Drop what translates gva, all fragments of a larger page included; no PDE. */
static void flush_fragments(struct tlb_context *c, gva_t gva, bool globals_only)
{
	tlb_drop_stack_slot(c->cs);
	for (int p = 0; p < NR_PRIVS; p++) {
		struct tlb_sub *s = &c->sub[p];

		for (uint32_t n = 0; n < s->nr_filled; n++) {
			uint16_t x = s->filled[n];

			if (globals_only && !s->side[x].global)
				continue;
			if (!((tlb_page_of(&s->e[x]) ^ gva) >> s->side[x].page_shift))
				tlb_clear_entry(s, x);
		}
		s->apic_page = APIC_NO_MAPPING;
	}
}

void tlb_flush_address(struct tlb_context *c, gva_t gva, bool globals_only)
{
	flush_fragments(c, gva, globals_only);
	flush_pde(c);
}

void tlb_empty_context(struct tlb_context *c)
{
	for (int p = 0; p < NR_PRIVS; p++)
		for (unsigned n = 0; n < ISA_TLB_ENTRIES; n++)
			c->sub[p].e[n] = tlb_no_entry;
	c->emptied = true;
}
