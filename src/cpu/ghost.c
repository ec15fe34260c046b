/*
 * The sanitizer of translations: its hooks in the processor. See ghost.h.
 *
 * Locks: ghost->lock is taken here, and in ghost_compare().
 */
#include "cpu/ghost_internal.h"
#include "host/timer.h"
#include "lib/error.h"
#include "lib/futex.h"
#include "lib/log.h"
#include "lib/own.h"
#include "lib/params.h"

#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <x86intrin.h>

#define SPINS 200

void ghost_lock(struct ghost *g)
{
	for (unsigned n = 0; __atomic_exchange_n(&g->lock, 1, __ATOMIC_ACQUIRE); n++) {
		if (n % SPINS == SPINS - 1)
			futex_yield();
		else
			_mm_pause();
	}
}

void ghost_unlock(struct ghost *g)
{
	__atomic_store_n(&g->lock, 0, __ATOMIC_RELEASE);
}

/* --- life --- */

static unsigned number_of(const char *variable)
{
	const char *v = getenv(variable);

	return v ? (unsigned)strtoul(v, NULL, 0) : 0;
}

int ghost_create(struct ghost **out, const struct ghost_ops *ops)
{
	struct ghost *g;

	*out = NULL;
	if (!params_has_word("USERKVM_CHECK", "guesttlb"))
		return 0;
	if (!params_get_bool("ept")) {
		log_always("USERKVM_CHECK=guesttlb is off: with ept=0 the processor walks the hypervisor's tables");
		return 0;
	}
	g = own_calloc(1, sizeof(*g));
	if (!g)
		return err_born(ENOMEM, "no memory for the sanitizer of translations");
	g->ops = ops;
	g->quiet = host_tsc_khz() * 1000ULL;
	g->strict = params_has_word("USERKVM_CHECK", "strict");
	g->spec = params_has_word("USERKVM_CHECK", "spec");
	g->deaf = number_of("USERKVM_GHOST_DEAF");
	g->hold = own_pages((HOLDS + 1) * sizeof(*g->hold));
	g->record = own_pages((RECORDS + 1) * sizeof(*g->record));
	g->table = own_pages((TABLES + 1) * sizeof(*g->table));
	g->watch = own_pages((WATCHES + 1) * sizeof(*g->watch));
	g->hidden = own_pages(GHOST_HIDDEN);
	g->by_page = own_pages(5 * BUCKETS * sizeof(*g->by_page));
	if (!g->hold || !g->record || !g->table || !g->watch || !g->by_page || !g->hidden) {
		ghost_destroy(g);
		return err_born(ENOMEM, "no memory for what processors may hold");
	}
	g->by_entry = g->by_page + BUCKETS;
	g->by_table = g->by_entry + BUCKETS;
	g->by_watch = g->by_table + BUCKETS;
	g->by_thread = g->by_watch + BUCKETS;
	ghost_report_open(g);
	*out = g;
	return 0;
}

static void pages_free(void *p)
{
	if (p)
		own_pages_free(p);
}

void ghost_destroy(struct ghost *g)
{
	if (!g)
		return;
	if (g->by_thread)
		ghost_report_end(g);
	pages_free(g->hold);
	pages_free(g->record);
	pages_free(g->table);
	pages_free(g->watch);
	pages_free(g->by_page);
	pages_free(g->hidden);
	own_free(g);
}

int ghost_cpu_create(struct ghost *g, struct vmx_cpu *cpu)
{
	struct ghost_cpu *c;

	if (!g)
		return 0;
	c = own_pages(sizeof(*c));
	if (!c)
		return err_born(ENOMEM, "no memory for what a processor may hold");
	c->g = g;
	c->cpu = cpu;
	c->clock = 1;
	ghost_lock(g);
	c->nr = g->nr_cpus++;
	c->next = g->cpus;
	g->cpus = c;
	ghost_unlock(g);
	cpu->tlb->ghost = c;
	cpu->tlb->path = &c->walk;
	return 0;
}

void ghost_cpu_destroy(struct vmx_cpu *cpu)
{
	struct ghost_cpu *c = cpu->tlb ? cpu->tlb->ghost : NULL, **link;
	struct ghost *g;

	if (!c)
		return;
	g = c->g;
	ghost_lock(g);
	ghost_forget_cpu(g, c);
	/* what it has stored has no writer any more */
	g->nr_pending = 0;
	for (uint32_t n = 1; n <= g->used_records; n++)
		if (g->record[n].hold && g->record[n].by.c == c)
			record_free(g, n);
	for (link = &g->cpus; *link != c;)
		link = &(*link)->next;
	*link = c->next;
	ghost_unlock(g);
	own_pages_free(c);
	cpu->tlb->ghost = NULL;
	cpu->tlb->path = NULL;
}

/* --- fills and faults --- */

static bool watched(const struct ghost_cpu *c)
{
	return !c->off && c->in_guest;
}

/* Is a held translation of gva to be compared first? */
static bool compare_first(struct ghost_cpu *c, gva_t gva)
{
	static const uint8_t shifts[] = { 12, 21, 22, 30 };
	struct ghost *g = c->g;

	for (unsigned s = 0; g->nr_pending && s < ARRAY_SIZE(shifts); s++) {
		uint32_t n = 0;

		while ((n = hold_next(g, c, HOLD_LEAF, gva, shifts[s], n)))
			if (pending_has(g, &g->hold[n]))
				return true;
	}
	return false;
}

static void lock_compared(struct ghost_cpu *c, gva_t gva)
{
	ghost_lock(c->g);
	if (likely(!compare_first(c, gva)))
		return;
	ghost_unlock(c->g);
	ghost_compare(c);
	ghost_lock(c->g);
}

static bool withheld(struct ghost *g, hpa_t host)
{
	return watch_find(g, host) || table_find(g, host);
}

/* The frames of the path are tables from now on. */
static void note_tables(struct ghost_cpu *c)
{
	const struct ghost_walk *w = &c->walk;

	for (unsigned k = 0; k < w->nr; k++) {
		hpa_t host = w->host[k] & PAGE_MASK;
		struct table *t;
		bool new;

		t = table_make(c->g, host, w->gpa[k] & PAGE_MASK, &new);
		if (!t || !new)
			continue;
		for (struct ghost_cpu *o = c->g->cpus; o; o = o->next)
			if (o != c && READ_ONCE(o->cpu->in_guest))
				t->unseen |= BIT_ULL(o->nr % 64);
		ghost_ask_all(c->g, true, host);
		watch_is_table(c, host);
	}
}

void ghost_filled(struct vmx_cpu *cpu, gva_t gva, uint32_t access, enum cpu_priv priv, struct cpu_walk_result *r)
{
	struct ghost_cpu *c = ghost_of(cpu);
	struct ghost *g = c->g;

	if (!watched(c))
		return;
	WRITE_ONCE(c->inflight.page, 0);
	lock_compared(c, gva);
	if (cpu->cs.cr0 & X86_CR0_PG) {
		records_used(c, gva, access, priv, r);
		note_tables(c);
		hold_leaf(c, gva, r);
	}
	if ((r->rights & CPU_WRITE) && withheld(g, r->host))
		r->rights &= ~(uint32_t)CPU_WRITE;
	ghost_unlock(g);
	if (READ_ONCE(c->nr_drops))
		ghost_work_off(cpu);
}

void ghost_fault(struct vmx_cpu *cpu, gva_t gva, uint32_t access, enum cpu_priv priv)
{
	struct ghost_cpu *c = ghost_of(cpu);

	if (!watched(c))
		return;
	WRITE_ONCE(c->inflight.page, 0);
	lock_compared(c, gva);
	records_used(c, gva, access, priv, NULL);
	ghost_unlock(c->g);
}

/* --- stores --- */

static void note_store(struct ghost_cpu *c, hpa_t host, unsigned size, gva_t gva)
{
	struct ghost *g = c->g;
	struct table *t = table_find(g, host & PAGE_MASK);
	unsigned first = (unsigned)(host & ~PAGE_MASK) / 8, last = (unsigned)((host + size - 1) & ~PAGE_MASK) / 8;
	struct pending *p;

	if (!t)
		return;
	/* is it a table that was taken out a moment ago? */
	if (t->first && g->nr_pending && g->pending[g->nr_pending - 1].host != t->host) {
		ghost_unlock(g);
		ghost_compare(c);
		ghost_lock(g);
		t = table_find(g, host & PAGE_MASK);
		if (!t)
			return;
	}
	tables_stored(c, t, gva, host, size);
	p = pending_for(c, t, gva == ~0ULL, false);
	if (!p) {
		ghost_unlock(g);
		ghost_compare(c);
		ghost_lock(g);
		t = table_find(g, host & PAGE_MASK);
		p = t ? pending_for(c, t, gva == ~0ULL, true) : NULL;
	}
	if (!p) {
		ghost_forget_entries(g, t, first, last);
		return;
	}
	for (unsigned q = first; q <= last; q++)
		p->mask[q / 64] |= BIT_ULL(q % 64);
	p->by.rip = isa_rip(&c->cpu->cs);
	p->by.time = __rdtsc();
	c->inflight.first = first;
	c->inflight.last = last;
	WRITE_ONCE(c->inflight.page, gva == ~0ULL ? 0 : t->host);
}

void ghost_stored(struct vmx_cpu *cpu, hpa_t host, unsigned size, gva_t gva)
{
	struct ghost_cpu *c = ghost_of(cpu);

	if (c->off || !size)
		return;
	if (unlikely(c->g->spec) && gva != ~0ULL)
		ghost_speculate(c, host, size);
	ghost_lock(c->g);
	note_store(c, host, size, gva);
	watch_stored(c, host, size, gva);
	ghost_unlock(c->g);
}

/* --- invalidations --- */

/* Whole PCIDs, or everything. */
static void close_many(struct ghost_times *t, const struct tlb_scope *s, uint64_t now)
{
	if (s->every_pcid) {
		t->table_all = now;
		if (s->keeps_globals)
			t->leaf_nonglobal = now;
		else
			t->leaf_all = now;
		return;
	}
	t->table_pcid[s->pcid & 4095] = now;
	t->leaf_pcid[s->pcid & 4095] = now;
}

/* "every" PCID but globals: MOV CR4 of SMEP; a single PCID's globals go along with none. */
static bool covers(const struct tlb_scope *s, const struct hold *h)
{
	if (h->kind == HOLD_LEAF && h->global)
		return !s->keeps_globals;
	return s->every_pcid || h->pcid == s->pcid;
}

static void close_address(struct ghost_cpu *c, const struct tlb_scope *s, bool hide)
{
	static const struct { uint8_t kind, shift; } where[] = {
		{ HOLD_LEAF, 12 }, { HOLD_LEAF, 21 }, { HOLD_LEAF, 22 }, { HOLD_LEAF, 30 },
		{ HOLD_TABLE, 21 }, { HOLD_TABLE, 22 }, { HOLD_TABLE, 30 }, { HOLD_TABLE, 39 }, { HOLD_TABLE, 48 },
	};
	struct ghost *g = c->g;

	for (unsigned k = 0; k < ARRAY_SIZE(where); k++) {
		uint32_t n = hold_next(g, c, where[k].kind, s->gva, where[k].shift, 0), next;

		for (; n; n = next) {
			next = hold_next(g, c, where[k].kind, s->gva, where[k].shift, n);
			if (!covers(s, &g->hold[n]))
				continue;
			if (hide)
				g->hold[n].hidden = true;
			else
				hold_free(g, n);
		}
	}
	if (s->every_pde)
		(hide ? &c->hidden : &c->t)->table_pcid[s->pcid & 4095] = c->clock;
}

static bool is_page_fault(const struct tlb_scope *s)
{
	return s->one_address && !s->globals_of_every_pcid && !s->keeps_globals && !s->every_pcid;
}

static const char *name_of(const struct tlb_scope *s)
{
	if (s->globals_of_every_pcid)
		return "INVLPG";
	if (s->one_address)
		return s->every_pcid ? "INVVPID" : "INVPCID";
	if (!s->every_pcid)
		return "MOV CR3 or INVPCID";
	return s->keeps_globals ? "INVPCID or INVVPID" : "MOV CR4, MOV CR0, INVPCID or INVVPID";
}

void ghost_scope(struct vmx_cpu *cpu, const struct tlb_scope *s)
{
	struct ghost_cpu *c = ghost_of(cpu);
	struct ghost *g = c->g;
	bool hide = false;

	if (c->off || s->guest_physical || s->combined || (!s->every_vpid && s->vpid != c->vpid))
		return;
	WRITE_ONCE(c->inflight.page, 0);
	/* what was stored before it: else it would overtake its record */
	if (READ_ONCE(g->nr_pending))
		ghost_compare(c);
	ghost_lock(g);
	if (unlikely(g->deaf) && !is_page_fault(s) && ++g->deaf_count % g->deaf == 0) {
		ghost_hidden(c, s);
		hide = true;
	}
	if (s->one_address)
		close_address(c, s, hide);
	else
		close_many(hide ? &c->hidden : &c->t, s, c->clock);
	c->clock++;
	if (!is_page_fault(s)) {
		c->last.what = name_of(s);
		c->last.page = s->one_address;
		c->last.address = s->one_address ? s->gva : s->pcid;
		c->last.rip = isa_rip(&cpu->cs);
	}
	ghost_unlock(g);
}

/* --- registers --- */

static void watch_registers(struct ghost_cpu *c)
{
	struct cpu_state *cs = &c->cpu->cs;
	uint64_t cr0 = c->cr0, cr4 = c->cr4;
	struct tlb_scope s;

	if (likely(cr0 == cs->cr0 && cr4 == cs->cr4))
		return;
	c->cr0 = cs->cr0;
	c->cr4 = cs->cr4;
	if (tlb_scope_of_registers(c->cpu, cr0, cr4, &s))
		ghost_scope(c->cpu, &s);
}

/* CPL 3 is not enough: a paravirtual kernel of 64 bits is there, in the upper half. */
static bool in_user_mode(const struct cpu_state *cs)
{
	return cs->cpl == 3 && (cs->cr0 & X86_CR0_PG) && (cs->code_mode != ISA_CODE64 || !(cs->rip >> 47));
}

void ghost_mode_changed(struct vmx_cpu *cpu)
{
	struct ghost_cpu *c = ghost_of(cpu);
	struct cpu_state *cs = &cpu->cs;
	struct ghost *g = c->g;

	if (c->off)
		return;
	WRITE_ONCE(c->inflight.page, 0);
	if (unlikely(!cpu->vpid)) {
		log_always("USERKVM_CHECK=guesttlb is off: without a VPID every VM exit invalidates everything");
		c->off = true;
		return;
	}
	if (!c->vpid)
		c->vpid = cpu->vpid;
	if (c->vpid != cpu->vpid) { /* a guest of the guest's */
		c->in_guest = c->user = false;
		return;
	}
	watch_registers(c);
	if (c->cr3 != cs->cr3) {
		c->cr3 = cs->cr3;
		c->root_lines = 0;
		c->said_root = false;
	}
	c->pcid = cpu_pcid(cs, cs->cr3);
	c->in_guest = true;
	c->user = in_user_mode(cs);
	c->halted = false;
	if (!c->user)
		return;
	if (READ_ONCE(g->nr_pending))
		ghost_compare(c);
	if (unlikely(g->strict))
		c->calm = __rdtsc();
	if (!READ_ONCE(g->nr_open) && !READ_ONCE(c->nr_settled))
		return;
	ghost_lock(g);
	if (unlikely(g->deaf))
		ghost_in_reach(c);
	records_returned(c);
	if (unlikely(g->strict))
		records_quiet(c);
	records_reachable(c);
	ghost_unlock(g);
}

void ghost_entered(struct vmx_cpu *cpu)
{
	struct ghost_cpu *c = ghost_of(cpu);

	c->cr0 = cpu->cs.cr0;
	c->cr4 = cpu->cs.cr4;
}

void ghost_left(struct vmx_cpu *cpu, bool halted)
{
	struct ghost_cpu *c = ghost_of(cpu);

	if (unlikely(c->comparing))
		ghost_compare_unwound(c);
	c->halted = halted;
	c->in_guest = c->user = false;
	WRITE_ONCE(c->inflight.page, 0);
}

void ghost_memory_changed(struct ghost *g, hpa_t start, uint64_t size)
{
	if (!g)
		return;
	ghost_lock(g);
	for (uint32_t n = 1; n <= g->used_tables; n++) {
		if (g->table[n].host + PAGE_SIZE <= start || g->table[n].host >= start + size)
			continue;
		ghost_forget_all(g);
		g->nr_pending = 0;
		break;
	}
	ghost_unlock(g);
}
