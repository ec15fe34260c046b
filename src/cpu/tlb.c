/*
 * The software TLB, and its filling. What chooses a context: tlb_select.c; what drops: tlb_drop.c.
 *
 *   cpu->tlb -- ctx[8], one for each (VPID, PCID, EP4TA) in use
 *                 |- sub[supervisor under SMAP | supervisor | user]
 *                 |    e[2048]    what look-ups (and emitted code) test
 *                 |    side[2048] what flushes and checkers need
 *                 |    filled[]   indices in use, so that a flush costs what was filled
 *                 `- pde[64]    guest paging-structure cache, and larger pages
 *            `- ept[2048]  guest-physical -> host, of the EPTP in use
 *
 * Invariants
 * 1. An entry with any tag other than TLB_NO_ACCESS is in its sub-table's
 *    filled[] (cpu_tlb_check()).
 * 2. A tag allows its access with nothing left to do: A and D bits are set in
 *    guest and EPT entries, for writing no code was decoded from the page, and
 *    for data no breakpoint watches it.
 * 3. A context was filled under one paging mode (`mode`): CR0.PG/WP, CR4, EFER, and
 *    one APIC-access page. Selecting it under another one empties it first.
 * 4. cs->tlb is a sub-table of the current context, or empty[] while every data
 *    access has to be looked at (alignment checks, tlb_check.c).
 * 5. A fragment of a larger page has its bit in large[] (tlb_large_bit()).
 * 6. A sub-table's code_gen moves with every flush of it, be it empty or not, and with
 *    every invalidation of an entry that allowed execution: who keeps what it has
 *    found through exec tags (emitted code does) compares it. An entry that
 *    another replaces is no invalidation. A flush that keeps global pages, and all
 *    guest-physical mappings, moves cr3_gen instead.
 * 7. The APIC-access page has no entry: one linear address of it is known by
 *    apic_page, which every invalidation forgets; the window (isa/cpu_state.h)
 *    is closed by all that closes or changes a context in use.
 * 8. Read and write tags obey PKRU as it is, in every context: a context's `keys` says
 *    which keys its entries have, so that a change of others' rights costs nothing.
 *
 * Locks: none, owner thread only. Other threads ask by cs->exit_request.
 */
#include "cpu/ghost.h"
#include "cpu/l1vpid.h"
#include "cpu/jit.h"
#include "cpu/tlb_check.h"
#include "cpu/tlb_context.h"
#include "lib/error.h"
#include "lib/own.h"
#include "sdm/ept.h"
#include "sdm/paging.h"

int cpu_tlb_create(struct vmx_cpu *cpu)
{
	struct cpu_tlb *t = own_calloc(1, sizeof(*t));

	if (!t)
		return err_born(ENOMEM, "no memory for a TLB");
	for (unsigned c = 0; c < TLB_NR_CONTEXTS; c++)
		for (int p = 0; p < NR_PRIVS; p++)
			t->ctx[c].sub[p].apic_page = APIC_NO_MAPPING;
	for (unsigned n = 0; n < ISA_TLB_ENTRIES; n++)
		t->empty[n] = tlb_no_entry;
	tlb_empty_context(&t->ctx[0]);
	for (unsigned c = 0; c < TLB_NR_CONTEXTS; c++)
		t->ctx[c].cs = &cpu->cs;
	t->ept_gen = 1;
	t->cur = &t->ctx[0];
	cpu->tlb = t;
	cpu->cs.tlb = t->empty;
	cpu->fetch_tlb = t->empty;
	return 0;
}

static bool canonical_page(gva_t gva)
{
	return (gva_t)((int64_t)(gva << 16) >> 16) == gva && !(gva & ~PAGE_MASK);
}

bool cpu_tlb_check(const struct cpu_tlb *t)
{
	for (unsigned c = 0; c < TLB_NR_CONTEXTS; c++) {
		for (int p = 0; t->ctx[c].emptied && p < NR_PRIVS; p++) {
			const struct tlb_sub *s = &t->ctx[c].sub[p];
			uint32_t listed = 0;

			for (unsigned n = 0; n < ISA_TLB_ENTRIES; n++) {
				const struct isa_tlb_entry *e = &s->e[n];
				bool live = e->read_tag != TLB_NO_ACCESS ||
					    e->write_tag != TLB_NO_ACCESS ||
					    e->exec_tag != TLB_NO_ACCESS;

				if ((e->read_tag != TLB_NO_ACCESS && !canonical_page(e->read_tag)) ||
				    (e->exec_tag != TLB_NO_ACCESS && !canonical_page(e->exec_tag)))
					return false;
				listed += s->side[n].listed;
				if (live && !s->side[n].listed)
					return false;
				if (e->read_tag != TLB_NO_ACCESS &&
				    ((e->read_tag >> PAGE_SHIFT) & (ISA_TLB_ENTRIES - 1)) != n)
					return false;
			}
			if (listed != s->nr_filled)
				return false;
		}
	}
	return true;
}

static void note_large(struct tlb_context *c, gva_t gva, unsigned shift)
{
	unsigned bit = tlb_large_bit(gva, shift);

	c->large[bit / 64] |= BIT_ULL(bit % 64);
}

bool cpu_tlb_write_back(const struct vmx_cpu *cpu, gva_t gva, enum cpu_priv priv)
{
	return cpu->tlb->cur->sub[priv].side[(gva >> PAGE_SHIFT) & (ISA_TLB_ENTRIES - 1)].write_back;
}

/* The walk has ended at the APIC-access page, where every access is to be looked at (apic_access.c). */
static __attribute__((noinline)) uint8_t *apic_mapping(struct vmx_cpu *cpu, struct tlb_sub *s, unsigned index,
						       gva_t gva, uint32_t access, const struct cpu_walk_result *r)
{
	if (access & CPU_EXEC)
		cpu_apic_access_exit(cpu, gva, 0);
	if (tlb_page_of(&s->e[index]) == (gva & PAGE_MASK))
		tlb_clear_entry(s, index);
	if (likely(!cpu->tlb->check)) {
		s->apic_page = gva & PAGE_MASK;
		cpu->tlb->cur->keys |= r->key;
		s->apic_rights = r->rights & (CPU_READ | CPU_WRITE);
	}
	return (uint8_t *)(r->host + (gva & ~PAGE_MASK));
}

/* Of a page of guest memory: what its translation r allows with nothing left to do. */
static void set_entry(struct vmx_cpu *cpu, struct tlb_sub *s, unsigned index, gva_t page, const struct cpu_walk_result *r)
{
	struct isa_tlb_entry *e = &s->e[index];
	struct tlb_side *side = &s->side[index];
	uint32_t rights = r->rights;

	cpu->counters.tlb_fills++;
	if ((rights & CPU_WRITE) && cpu_page_is_code(cpu, r->host))
		rights &= ~(uint32_t)CPU_WRITE;
	if (unlikely(cpu_debug_watches(cpu)) && cpu_debug_page(cpu, page))
		rights &= ~(uint32_t)(CPU_READ | CPU_WRITE);
	e->read_tag = rights & CPU_READ ? page : TLB_NO_ACCESS;
	e->write_tag = rights & CPU_WRITE ? page : TLB_NO_ACCESS;
	e->exec_tag = rights & CPU_EXEC ? page : TLB_NO_ACCESS;
	e->addend = r->host - page;
	side->write_back = r->write_back;
	side->page_shift = r->page_shift;
	side->global = r->global;
	side->key = r->key;
	cpu->tlb->cur->keys |= r->key;
	if (!side->listed) {
		side->listed = true;
		s->filled[s->nr_filled++] = (uint16_t)index;
	}
	if (r->page_shift > PAGE_SHIFT)
		note_large(cpu->tlb->cur, page, r->page_shift);
}

uint8_t *cpu_translate(struct vmx_cpu *cpu, gva_t gva, uint32_t access, enum cpu_priv priv)
{
	struct tlb_sub *s = &cpu->tlb->cur->sub[priv];
	unsigned index = (unsigned)(gva >> PAGE_SHIFT) & (ISA_TLB_ENTRIES - 1);
	struct isa_tlb_entry *e = &s->e[index];
	gva_t page = gva & PAGE_MASK;
	struct cpu_walk_result r;

	if ((!(access & CPU_READ) || e->read_tag == page) &&
	    (!(access & CPU_WRITE) || e->write_tag == page) &&
	    (!(access & CPU_EXEC) || e->exec_tag == page)) {
		if (unlikely(cpu->tlb->check))
			tlb_check_used(cpu, priv, gva, access);
		return (uint8_t *)(gva + e->addend);
	}

	if (s->apic_page == page && !(access & ~s->apic_rights))
		return (uint8_t *)(cpu->apic.access + (gva & ~PAGE_MASK));

	cpu_walk(cpu, gva, access, priv, &r);
	if (unlikely(cpu->left))
		return NULL;
	if (unlikely(r.host == cpu->apic.access))
		return apic_mapping(cpu, s, index, gva, access, &r);
	if (access & CPU_EXEC) /* a page that was mapped for execution may have come by DMA */
		cpu->epoch = READ_ONCE(cpu->machine->epoch);
	if (unlikely(cpu->tlb->ghost))
		ghost_filled(cpu, gva, access, priv, &r);
	if (unlikely(cpu->tlb->l1vpid))
		l1vpid_filled(cpu, gva, access, priv, &r);
	set_entry(cpu, s, index, page, &r);
	if (unlikely(cpu->tlb->check))
		tlb_check_filled(cpu, priv, gva);
	return (uint8_t *)(gva + e->addend);
}

bool cpu_tlb_refill(struct vmx_cpu *cpu, gva_t page, const struct isa_tlb_entry *slot, uint32_t access)
{
	enum cpu_priv priv = cpu_data_priv(cpu, ISA_READ);
	struct tlb_sub *s = &cpu->tlb->cur->sub[priv];
	unsigned index = (unsigned)(page >> PAGE_SHIFT) & (ISA_TLB_ENTRIES - 1);
	struct cpu_walk_result r;

	/* not where an access crosses pages, nor where each is to be looked at */
	if (slot != &s->e[index] || cpu->cs.tlb != s->e || unlikely(page & ~PAGE_MASK) ||
	    unlikely(!canonical_page(page)) || (cpu->cs.code_mode != ISA_CODE64 && page >> 32) || unlikely(cpu->tlb->check) || unlikely(cpu->tlb->path))
		return false;
	if (!cpu_walk_known(cpu, page, access, priv, &r) || unlikely(r.host == cpu->apic.access))
		return false;
	set_entry(cpu, s, index, page, &r);
	return access & CPU_WRITE ? slot->write_tag == page : slot->read_tag == page;
}
