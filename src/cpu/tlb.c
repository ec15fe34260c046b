/*
 * The software TLB.
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
 * 5. A fragment of a larger page has its bit in large[] (large_bit()).
 * 6. A sub-table's code_gen moves with every flush of it, be it empty or not, and with
 *    every invalidation of an entry that allowed execution: who keeps what it has
 *    found through exec tags (emitted code does) compares it. An entry that
 *    another replaces is no invalidation.
 * 7. The APIC-access page has no entry: one linear address of it is known by
 *    apic_page, which every invalidation forgets; the window (isa/cpu_state.h)
 *    is closed by all that closes or changes a context in use.
 * 8. Read and write tags obey PKRU as it is, in every context: a context's `keys` says
 *    which keys its entries have, so that a change of others' rights costs nothing.
 *
 * Locks: none, owner thread only. Other threads ask by cs->exit_request.
 */
#include "cpu/ghost.h"
#include "cpu/jit.h"
#include "cpu/tlb_check.h"
#include "lib/error.h"
#include "lib/own.h"
#include "sdm/ept.h"
#include "sdm/paging.h"


static const struct isa_tlb_entry no_entry = {
	TLB_NO_ACCESS, TLB_NO_ACCESS, TLB_NO_ACCESS, 0,
};

/*
 * The stack slot of emitted code is a translation of its own: the entry that it came
 * from may have been replaced. So every invalidation drops it.
 */
static void drop_stack_slot(struct cpu_state *cs)
{
	cs->sp_tag = TLB_NO_ACCESS;
}

static void clear_entry(struct tlb_sub *s, unsigned index)
{
	if (s->e[index].exec_tag != TLB_NO_ACCESS)
		s->code_gen++;
	s->e[index] = no_entry;
}

static void flush_sub(struct tlb_sub *s)
{
	s->code_gen++;
	for (uint32_t n = 0; n < s->nr_filled; n++) {
		clear_entry(s, s->filled[n]);
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

static void flush_context(struct tlb_context *c)
{
	drop_stack_slot(c->cs);
	for (int p = 0; p < NR_PRIVS; p++)
		flush_sub(&c->sub[p]);
	flush_pde(c);
	c->keys = 0;
	for (unsigned n = 0; n < ARRAY_SIZE(c->large); n++)
		c->large[n] = 0;
}

/* Drop all but global entries. */
static void flush_nonglobal(struct tlb_context *c)
{
	drop_stack_slot(c->cs);
	for (int p = 0; p < NR_PRIVS; p++) {
		struct tlb_sub *s = &c->sub[p];
		uint32_t kept = 0;

		s->code_gen++;
		for (uint32_t n = 0; n < s->nr_filled; n++) {
			uint16_t x = s->filled[n];

			if (s->side[x].global) {
				s->filled[kept++] = x;
				continue;
			}
			clear_entry(s, x);
			s->side[x].listed = false;
		}
		s->nr_filled = kept;
		s->apic_page = APIC_NO_MAPPING;
	}
	flush_pde(c);
}

/* The page of an entry; TLB_NO_ACCESS when it has none. */
static uint64_t page_of(const struct isa_tlb_entry *e)
{
	return e->read_tag != TLB_NO_ACCESS ? e->read_tag :
	       e->exec_tag != TLB_NO_ACCESS ? e->exec_tag : e->write_tag;
}

/* Drop what translates gva, all fragments of a larger page included; no PDE. */
static void flush_fragments(struct tlb_context *c, gva_t gva, bool globals_only)
{
	drop_stack_slot(c->cs);
	for (int p = 0; p < NR_PRIVS; p++) {
		struct tlb_sub *s = &c->sub[p];

		for (uint32_t n = 0; n < s->nr_filled; n++) {
			uint16_t x = s->filled[n];

			if (globals_only && !s->side[x].global)
				continue;
			if (!((page_of(&s->e[x]) ^ gva) >> s->side[x].page_shift))
				clear_entry(s, x);
		}
		s->apic_page = APIC_NO_MAPPING;
	}
}

/* The same, and every PDE. */
static void flush_address(struct tlb_context *c, gva_t gva, bool globals_only)
{
	flush_fragments(c, gva, globals_only);
	flush_pde(c);
}

/* Before a context's first use: not all at once, for they are large. */
static void empty_context(struct tlb_context *c)
{
	for (int p = 0; p < NR_PRIVS; p++)
		for (unsigned n = 0; n < ISA_TLB_ENTRIES; n++)
			c->sub[p].e[n] = no_entry;
	c->emptied = true;
}

int cpu_tlb_create(struct vmx_cpu *cpu)
{
	struct cpu_tlb *t = own_calloc(1, sizeof(*t));

	if (!t)
		return err_born(ENOMEM, "no memory for a TLB");
	for (unsigned c = 0; c < TLB_NR_CONTEXTS; c++)
		for (int p = 0; p < NR_PRIVS; p++)
			t->ctx[c].sub[p].apic_page = APIC_NO_MAPPING;
	for (unsigned n = 0; n < ISA_TLB_ENTRIES; n++)
		t->empty[n] = no_entry;
	empty_context(&t->ctx[0]);
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

/* --- selecting a context --- */

uint64_t cpu_paging_mode(const struct cpu_state *cs)
{
	uint64_t cr4 = cs->cr4 & (X86_CR4_PSE | X86_CR4_PAE | X86_CR4_PGE | X86_CR4_SMEP |
				  X86_CR4_SMAP | X86_CR4_PCIDE | X86_CR4_LA57 | X86_CR4_PKE);
	uint64_t efer = cs->efer & (EFER_NX | EFER_LMA);

	return (cs->cr0 & (X86_CR0_PG | X86_CR0_WP)) | cr4 << 32 | efer << 46;
}

static struct tlb_context *find_context(struct vmx_cpu *cpu, uint16_t pcid, uint64_t eptp)
{
	struct cpu_tlb *t = cpu->tlb;
	struct tlb_context *oldest = &t->ctx[0];

	for (unsigned n = 0; n < TLB_NR_CONTEXTS; n++) {
		struct tlb_context *c = &t->ctx[n];

		if (c->used && c->vpid == cpu->vpid && c->pcid == pcid && c->eptp == eptp)
			return c;
		if (!c->used)
			oldest = c;
		else if (oldest->used && c->last_use < oldest->last_use)
			oldest = c;
	}
	if (!oldest->emptied)
		empty_context(oldest);
	flush_context(oldest);
	oldest->used = true;
	oldest->vpid = cpu->vpid;
	oldest->pcid = pcid;
	oldest->eptp = eptp;
	return oldest;
}

static void select_context(struct vmx_cpu *cpu)
{
	const struct cpu_state *cs = &cpu->cs;
	uint16_t pcid = cpu_pcid(cs, cs->cr3);
	uint64_t eptp = cpu->secondary & SECONDARY_EXEC_ENABLE_EPT ? cpu->eptp : 0;
	uint64_t mode = cpu_paging_mode(cs);
	struct tlb_context *c = cpu->tlb->cur;

	if (!c->used || c->vpid != cpu->vpid || c->pcid != pcid || c->eptp != eptp) {
		c = find_context(cpu, pcid, eptp);
		cpu->tlb->cur = c;
		c->last_use = ++cpu->tlb->clock;
	}
	if (c->mode != mode || unlikely(c->apic_access != cpu->apic.access)) {
		flush_context(c);
		c->mode = mode;
		c->apic_access = cpu->apic.access;
	}
}

enum cpu_priv cpu_data_priv(const struct vmx_cpu *cpu, enum isa_access how)
{
	const struct cpu_state *cs = &cpu->cs;
	bool smap = (cs->cr4 & X86_CR4_SMAP) && (cs->cr0 & X86_CR0_PG);

	if (how & ISA_IMPLICIT)
		return smap ? PRIV_SUPER_SMAP : PRIV_SUPER;
	if (cs->cpl == 3)
		return PRIV_USER;
	return smap && !(cs->rflags & X86_FLAGS_AC) ? PRIV_SUPER_SMAP : PRIV_SUPER;
}

static void select_code(struct vmx_cpu *cpu)
{
	struct cpu_state *cs = &cpu->cs;
	const struct cpu_segment *code = &cs->seg[SREG_CS];
	bool long_mode = cs->efer & EFER_LMA;

	if (long_mode && (code->ar & VMX_AR_L)) {
		cs->code_mode = cs->stack_mode = ISA_CODE64;
		cpu->code_base = 0;
		cpu->code_mask = ~0ULL;
		cpu->fetch_end = ~0ULL;
		return;
	}
	cs->code_mode = code->ar & VMX_AR_DB ? ISA_CODE32 : ISA_CODE16;
	cs->stack_mode = cs->seg[SREG_SS].ar & VMX_AR_DB ? ISA_CODE32 : ISA_CODE16;
	cpu->code_base = code->base;
	cpu->code_mask = 0xffffffff;
	cpu->fetch_end = (uint64_t)code->limit + 1;
}

void cpu_mode_changed(struct vmx_cpu *cpu)
{
	struct cpu_state *cs = &cpu->cs;
	enum cpu_priv priv;

	cs->apic_ok = 0;
	drop_stack_slot(cs); /* the current context may be flushed, or another be chosen */
	select_context(cpu);
	select_code(cpu);
	priv = cpu_data_priv(cpu, ISA_READ);
	cpu->fetch_tlb = cpu->tlb->cur->sub[priv].e;
	cs->tlb = cpu->fetch_tlb;
	if ((cs->cpl == 3 && (cs->cr0 & X86_CR0_AM) && (cs->rflags & X86_FLAGS_AC)) ||
	    unlikely(cpu->tlb->check))
		cs->tlb = cpu->tlb->empty;
	if (unlikely(cpu->tlb->ghost))
		ghost_mode_changed(cpu);
}

/* --- filling --- */

/*
 * Which bit of large[] stands for the page around gva of 1 << shift bytes: 2 and
 * 4 MiB pages by their 4 MiB. Others may share it.
 */
static unsigned large_bit(gva_t gva, unsigned shift)
{
	uint64_t key = shift > 22 ? ~(gva >> 30) : gva >> 22;

	return (unsigned)(key * 0x9e3779b97f4a7c15ULL >> 55);
}

static bool large_has(const struct tlb_context *c, gva_t gva, unsigned shift)
{
	unsigned bit = large_bit(gva, shift);

	return c->large[bit / 64] & BIT_ULL(bit % 64);
}

static void note_large(struct tlb_context *c, gva_t gva, unsigned shift)
{
	unsigned bit = large_bit(gva, shift);

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
	if (page_of(&s->e[index]) == (gva & PAGE_MASK))
		clear_entry(s, index);
	if (likely(!cpu->tlb->check)) {
		s->apic_page = gva & PAGE_MASK;
		cpu->tlb->cur->keys |= r->key;
		s->apic_rights = r->rights & (CPU_READ | CPU_WRITE);
	}
	return (uint8_t *)(r->host + (gva & ~PAGE_MASK));
}

uint8_t *cpu_translate(struct vmx_cpu *cpu, gva_t gva, uint32_t access, enum cpu_priv priv)
{
	struct tlb_sub *s = &cpu->tlb->cur->sub[priv];
	unsigned index = (unsigned)(gva >> PAGE_SHIFT) & (ISA_TLB_ENTRIES - 1);
	struct isa_tlb_entry *e = &s->e[index];
	struct tlb_side *side = &s->side[index];
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
	if (unlikely(r.host == cpu->apic.access))
		return apic_mapping(cpu, s, index, gva, access, &r);
	if (access & CPU_EXEC) /* a page that was mapped for execution may have come by DMA */
		cpu->epoch = READ_ONCE(cpu->machine->epoch);
	cpu->counters.tlb_fills++;
	if (unlikely(cpu->tlb->ghost))
		ghost_filled(cpu, gva, access, priv, &r);
	if ((r.rights & CPU_WRITE) && cpu_page_is_code(cpu, r.host))
		r.rights &= ~(uint32_t)CPU_WRITE;
	if (unlikely(cpu_debug_watches(cpu)) && cpu_debug_page(cpu, page))
		r.rights &= ~(uint32_t)(CPU_READ | CPU_WRITE);
	e->read_tag = r.rights & CPU_READ ? page : TLB_NO_ACCESS;
	e->write_tag = r.rights & CPU_WRITE ? page : TLB_NO_ACCESS;
	e->exec_tag = r.rights & CPU_EXEC ? page : TLB_NO_ACCESS;
	e->addend = r.host - page;
	side->write_back = r.write_back;
	side->page_shift = r.page_shift;
	side->global = r.global;
	side->key = r.key;
	cpu->tlb->cur->keys |= r.key;
	if (!side->listed) {
		side->listed = true;
		s->filled[s->nr_filled++] = (uint16_t)index;
	}
	if (r.page_shift > PAGE_SHIFT)
		note_large(cpu->tlb->cur, page, r.page_shift);
	if (unlikely(cpu->tlb->check))
		tlb_check_filled(cpu, priv, gva);
	return (uint8_t *)(gva + e->addend);
}

/* --- dropping --- */

/*
 * Emitted code that leads to gva's page through a translation of its own: it may be
 * there though the entry with the exec tag has been replaced. Of a larger page all
 * parts may.
 */
static void forget_code(struct vmx_cpu *cpu, gva_t gva)
{
	bool large = false;

	if (likely(!cpu->jit))
		return;
	for (unsigned n = 0; n < TLB_NR_CONTEXTS; n++) {
		const struct tlb_context *c = &cpu->tlb->ctx[n];

		large |= c->used && (large_has(c, gva, 21) || large_has(c, gva, 30));
	}
	if (large)
		jit_forget_all(cpu->jit);
	else
		jit_forget_lin(cpu->jit, gva);
}

/* Tell the checkers what is asked, before anything is done about it. */
static void note(struct vmx_cpu *cpu, struct tlb_scope s)
{
	if (unlikely(cpu->tlb->ghost))
		ghost_scope(cpu, &s);
	if (unlikely(cpu->tlb->check))
		tlb_check_invalidated(cpu, &s);
}

void cpu_tlb_flush_all(struct vmx_cpu *cpu)
{
	struct cpu_tlb *t = cpu->tlb;

	cpu->counters.tlb_flushes++;
	for (unsigned n = 0; n < TLB_NR_CONTEXTS; n++)
		if (t->ctx[n].used && t->ctx[n].vpid == cpu->vpid)
			flush_context(&t->ctx[n]);
	cpu_mode_changed(cpu);
}

void cpu_tlb_flush_cr3(struct vmx_cpu *cpu, uint64_t new_cr3)
{
	struct cpu_state *cs = &cpu->cs;
	bool flushes = !(cs->cr4 & X86_CR4_PCIDE) || !(new_cr3 & CR3_NOFLUSH);

	/* before anybody sees that the PCID is current */
	if (flushes)
		note(cpu, (struct tlb_scope){ .vpid = cpu->vpid, .pcid = cpu_pcid(cs, new_cr3),
					      .keeps_globals = true, .every_ep4ta = true });
	cs->cr3 = new_cr3 & ~CR3_NOFLUSH;
	cpu_mode_changed(cpu);
	if (!flushes)
		return;
	cpu->counters.tlb_flushes++;
	for (unsigned n = 0; n < TLB_NR_CONTEXTS; n++) {
		struct tlb_context *c = &cpu->tlb->ctx[n];

		if (c->used && c->vpid == cpu->vpid && c->pcid == cpu->tlb->cur->pcid)
			flush_nonglobal(c);
	}
}

void cpu_tlb_invlpg(struct vmx_cpu *cpu, gva_t gva)
{
	struct cpu_tlb *t = cpu->tlb;

	forget_code(cpu, gva);
	cpu->cs.apic_ok = 0;
	note(cpu, (struct tlb_scope){ .vpid = cpu->vpid, .pcid = cpu_pcid(&cpu->cs, cpu->cs.cr3),
				      .globals_of_every_pcid = true, .every_ep4ta = true,
				      .one_address = true, .every_pde = true, .gva = gva });
	for (unsigned n = 0; n < TLB_NR_CONTEXTS; n++) {
		struct tlb_context *c = &t->ctx[n];

		if (c->used && c->vpid == cpu->vpid)
			flush_address(c, gva, c->pcid != t->cur->pcid);
	}
}

enum { INVPCID_ADDRESS, INVPCID_SINGLE, INVPCID_ALL, INVPCID_ALL_NONGLOBAL };

void cpu_tlb_invpcid(struct vmx_cpu *cpu, unsigned type, uint16_t pcid, gva_t gva)
{
	struct cpu_tlb *t = cpu->tlb;

	if (type == INVPCID_ADDRESS)
		forget_code(cpu, gva);
	cpu->cs.apic_ok = 0;
	note(cpu, (struct tlb_scope){ .vpid = cpu->vpid, .pcid = pcid, .gva = gva,
				      .every_pcid = type >= INVPCID_ALL,
				      .keeps_globals = type != INVPCID_ALL, .every_ep4ta = true,
				      .one_address = type == INVPCID_ADDRESS });
	cpu->counters.tlb_flushes++;
	for (unsigned n = 0; n < TLB_NR_CONTEXTS; n++) {
		struct tlb_context *c = &t->ctx[n];

		if (!c->used || c->vpid != cpu->vpid)
			continue;
		if (type == INVPCID_ALL)
			flush_context(c);
		else if (type == INVPCID_ALL_NONGLOBAL || (type == INVPCID_SINGLE && c->pcid == pcid))
			flush_nonglobal(c);
		else if (type == INVPCID_ADDRESS && c->pcid == pcid)
			flush_address(c, gva, false);
	}
}

void cpu_tlb_entry_flush(struct vmx_cpu *cpu)
{
	note(cpu, (struct tlb_scope){ .every_pcid = true, .every_ep4ta = true });
	for (unsigned n = 0; n < TLB_NR_CONTEXTS; n++)
		if (cpu->tlb->ctx[n].used && cpu->tlb->ctx[n].vpid == 0)
			flush_context(&cpu->tlb->ctx[n]);
}

static void drop_guest_physical(struct cpu_tlb *t)
{
	if (++t->ept_gen < PAGE_SIZE)
		return;
	t->ept_gen = 1;
	for (unsigned n = 0; n < EPT_CACHE_ENTRIES; n++)
		t->ept[n].tag = 0;
}

void cpu_tlb_new_eptp(struct vmx_cpu *cpu, uint64_t eptp)
{
	if (likely(cpu->eptp == eptp))
		return;
	cpu->eptp = eptp;
	drop_guest_physical(cpu->tlb);
}

/* INVEPT: guest-physical and combined mappings. */
void cpu_tlb_drop_ept(struct vmx_cpu *cpu, uint64_t eptp, bool all)
{
	struct cpu_tlb *t = cpu->tlb;

	note(cpu, (struct tlb_scope){ .guest_physical = true, .every_ep4ta = all, .eptp = eptp });
	note(cpu, (struct tlb_scope){ .combined = true, .every_vpid = true, .every_pcid = true,
				      .every_ep4ta = all, .eptp = eptp });
	cpu->counters.tlb_flushes++;
	drop_guest_physical(t);
	for (unsigned n = 0; n < TLB_NR_CONTEXTS; n++) {
		struct tlb_context *c = &t->ctx[n];

		/* EP4TA: bits 51:12 of the EPTP */
		if (c->used && c->eptp && (all || !((c->eptp ^ eptp) & EPTP_ROOT_MASK)))
			flush_context(c);
	}
}

void cpu_tlb_drop_vpid(struct vmx_cpu *cpu, unsigned type, uint16_t vpid, gva_t gla)
{
	if (type == INVVPID_INDIVIDUAL_ADDRESS)
		forget_code(cpu, gla);
	note(cpu, (struct tlb_scope){ .vpid = vpid, .every_vpid = type == INVVPID_ALL_CONTEXT, .but_zero = true,
				      .every_pcid = true, .every_ep4ta = true, .gva = gla,
				      .keeps_globals = type == INVVPID_SINGLE_CONTEXT_RETAINING_GLOBALS,
				      .one_address = type == INVVPID_INDIVIDUAL_ADDRESS });
	cpu->counters.tlb_flushes++;
	for (unsigned n = 0; n < TLB_NR_CONTEXTS; n++) {
		struct tlb_context *c = &cpu->tlb->ctx[n];

		if (!c->used || !c->vpid)
			continue;
		if (type != INVVPID_ALL_CONTEXT && c->vpid != vpid)
			continue;
		if (type == INVVPID_INDIVIDUAL_ADDRESS)
			flush_address(c, gla, false);
		else if (type == INVVPID_SINGLE_CONTEXT_RETAINING_GLOBALS)
			flush_nonglobal(c);
		else
			flush_context(c);
	}
}

void cpu_tlb_drop_write(struct vmx_cpu *cpu, hpa_t page)
{
	drop_stack_slot(&cpu->cs);
	for (unsigned n = 0; n < TLB_NR_CONTEXTS; n++) {
		for (int p = 0; cpu->tlb->ctx[n].used && p < NR_PRIVS; p++) {
			struct tlb_sub *s = &cpu->tlb->ctx[n].sub[p];

			for (uint32_t k = 0; k < s->nr_filled; k++) {
				struct isa_tlb_entry *e = &s->e[s->filled[k]];

				if (e->write_tag == TLB_NO_ACCESS)
					continue;
				if (!page || e->write_tag + e->addend == page)
					e->write_tag = TLB_NO_ACCESS;
			}
		}
	}
}

void cpu_tlb_drop_data(struct vmx_cpu *cpu)
{
	drop_stack_slot(&cpu->cs);
	cpu->cs.apic_ok = 0;
	for (unsigned n = 0; n < TLB_NR_CONTEXTS; n++) {
		for (int p = 0; p < NR_PRIVS; p++) {
			struct tlb_sub *s = &cpu->tlb->ctx[n].sub[p];

			for (uint32_t k = 0; k < s->nr_filled; k++)
				s->e[s->filled[k]].read_tag = s->e[s->filled[k]].write_tag =
					TLB_NO_ACCESS;
		}
	}
}

/* Some of the keys in `keys` (BIT(key)) mean something else now. */
static void drop_keyed(struct tlb_sub *s, uint32_t keys)
{
	for (uint32_t k = 0; k < s->nr_filled; k++) {
		uint16_t x = s->filled[k];

		if (s->side[x].key & keys)
			s->e[x].read_tag = s->e[x].write_tag = TLB_NO_ACCESS;
	}
	s->apic_page = APIC_NO_MAPPING;
}

void cpu_tlb_pkru_changed(struct vmx_cpu *cpu, uint32_t changed)
{
	uint32_t keys = 0;

	for (unsigned key = 0; key < 16; key++)
		if (changed & (PKRU_AD(key) | PKRU_WD(key)))
			keys |= 1U << key;
	for (unsigned n = 0; n < TLB_NR_CONTEXTS; n++) {
		struct tlb_context *c = &cpu->tlb->ctx[n];

		if (!(c->keys & keys))
			continue;
		drop_stack_slot(&cpu->cs);
		cpu->cs.apic_ok = 0;
		for (int p = 0; p < NR_PRIVS; p++)
			drop_keyed(&c->sub[p], keys);
	}
}

/* Many frames at once are one look at all entries. */
#define FRAMES_ONE_BY_ONE 4

void cpu_tlb_drop_asked(struct vmx_cpu *cpu, const struct ghost_drop *d, unsigned nr)
{
	bool all = nr > GHOST_DROPS;
	unsigned frames = 0;

	for (unsigned k = 0; !all && k < nr; k++)
		frames += d[k].frame;
	if (all || frames > FRAMES_ONE_BY_ONE)
		cpu_tlb_drop_write(cpu, 0);
	for (unsigned k = 0; !all && k < nr; k++) {
		if (d[k].frame && frames <= FRAMES_ONE_BY_ONE)
			cpu_tlb_drop_write(cpu, d[k].address);
		if (d[k].frame)
			continue;
		forget_code(cpu, d[k].address);
		for (unsigned n = 0; n < TLB_NR_CONTEXTS; n++)
			if (cpu->tlb->ctx[n].used)
				flush_address(&cpu->tlb->ctx[n], d[k].address, false);
	}
	for (unsigned n = 0; all && n < TLB_NR_CONTEXTS; n++)
		if (cpu->tlb->ctx[n].used)
			flush_context(&cpu->tlb->ctx[n]);
	cpu->cs.apic_ok = 0;
}

/* --- what faults invalidate --- */

/* The 4 KiB page of gva, whatever page it is part of, and its PDE. */
static void drop_page(struct tlb_context *c, gva_t gva)
{
	unsigned index = (unsigned)(gva >> PAGE_SHIFT) & (ISA_TLB_ENTRIES - 1);
	struct pde_cache_entry *pde = &c->pde[(gva >> 21) & (PDE_CACHE_ENTRIES - 1)];

	drop_stack_slot(c->cs);
	for (int p = 0; p < NR_PRIVS; p++) {
		if (page_of(&c->sub[p].e[index]) == (gva & PAGE_MASK))
			clear_entry(&c->sub[p], index);
		c->sub[p].apic_page = APIC_NO_MAPPING;
	}
	if (pde->tag == (gva >> 21) + 1)
		pde->tag = 0;
}

/*
 * SDM "Operations that Invalidate TLBs and Paging-Structure Caches": of the current
 * PCID; "Details of TLB Use": with all fragments of a larger page.
 */
void cpu_tlb_page_fault(struct vmx_cpu *cpu, gva_t gva)
{
	struct cpu_tlb *t = cpu->tlb;

	forget_code(cpu, gva);
	cpu->cs.apic_ok = 0;
	note(cpu, (struct tlb_scope){ .vpid = cpu->vpid, .pcid = cpu_pcid(&cpu->cs, cpu->cs.cr3),
				      .every_ep4ta = true, .one_address = true, .gva = gva });
	for (unsigned n = 0; n < TLB_NR_CONTEXTS; n++) {
		struct tlb_context *c = &t->ctx[n];

		if (!c->used || c->vpid != cpu->vpid || c->pcid != t->cur->pcid)
			continue;
		drop_page(c, gva);
		if (large_has(c, gva, 21) || large_has(c, gva, 30))
			flush_address(c, gva, false);
	}
}

/*
 * SDM "Operations that Invalidate Cached Mappings": the guest-physical mapping
 * (which ept_fill() has dropped) and the combined ones of gla, not those
 * of other parts of its page.
 */
void cpu_tlb_ept_violation(struct vmx_cpu *cpu, gpa_t gpa, gva_t gla)
{
	struct tlb_scope s = { .guest_physical = true, .eptp = cpu->eptp, .one_address = true, .gpa = gpa };

	note(cpu, s);
	if (gla == CPU_NO_GLA)
		return;
	s = (struct tlb_scope){ .combined = true, .vpid = cpu->vpid, .eptp = cpu->eptp,
				.pcid = cpu_pcid(&cpu->cs, cpu->cs.cr3), .one_address = true, .gva = gla };
	note(cpu, s);
	forget_code(cpu, gla);
	drop_page(cpu->tlb->cur, gla);
}
