/*
 * Stores to page tables, compared with what is held: ghost_stored() makes them pending, and the
 * next event of any processor walks the tables for each hold whose path has such an entry.
 *
 *	store ─► pending ─► ghost_compare() ─► record_new(), record_free(), or forgotten in doubt
 *
 * Invariants
 * 1. Slots are compared in the order of the stores; only the last slot of a table may grow.
 * 2. Guest memory is read without the lock: a look may unwind, and what it was about is forgotten then.
 * 3. No record is settled or told while another processor has taken a slot: its entry may be granted again.
 *
 * Locks: ghost->lock, held by all callers but ghost_compare()'s.
 */
#include "cpu/ghost_internal.h"
#include "host/memory.h"
#include "sdm/ept.h"

#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define TABLE_MISSES 64 /* after which a frame is looked at: is it a table still? */

/* --- pending stores --- */

static bool slot_matches(const struct pending *p, const struct ghost_cpu *c, const struct table *t, bool hypervisor)
{
	const struct cpu_state *cs = &c->cpu->cs;

	return p->host == t->host && !p->unseen && p->by.c == c && p->by.hypervisor == hypervisor &&
	       p->by.cr3 == cs->cr3 && p->by.fs == cs->seg[SREG_FS].base;
}

struct pending *pending_add(struct ghost *g, hpa_t host, gpa_t gpa)
{
	struct pending *p = &g->pending[g->nr_pending];

	if (g->nr_pending == PENDING)
		return NULL;
	g->nr_pending++;
	p->host = host;
	p->gpa = gpa;
	p->unseen = false;
	for (unsigned k = 0; k < ARRAY_SIZE(p->mask); k++)
		p->mask[k] = 0;
	return p;
}

struct pending *pending_for(struct ghost_cpu *c, const struct table *t, bool hypervisor, bool insist)
{
	const struct cpu_state *cs = &c->cpu->cs;
	struct ghost *g = c->g;
	struct pending *p;

	/* the order of stores to a table says who has narrowed an entry: only the last slot may grow */
	for (unsigned n = g->nr_pending; n-- > 0;) {
		if (g->pending[n].host != t->host)
			continue;
		if (slot_matches(&g->pending[n], c, t, hypervisor))
			return &g->pending[n];
		if (!insist)
			return NULL;
		break;
	}
	p = pending_add(g, t->host, t->gpa);
	if (!p)
		return NULL;
	p->by.c = c;
	p->by.cr3 = cs->cr3;
	p->by.fs = cs->seg[SREG_FS].base;
	p->by.cpl = cs->cpl;
	p->by.hypervisor = hypervisor;
	return p;
}

/* Is something stored to an entry on its path that has not been compared yet? */
bool pending_has(struct ghost *g, const struct hold *h)
{
	for (unsigned n = 0; n < g->nr_pending; n++)
		for (unsigned k = 0; k < h->nr; k++) {
			unsigned q = (unsigned)(h->e[k].gpa & ~PAGE_MASK) / 8;

			if ((h->e[k].gpa & PAGE_MASK) == g->pending[n].gpa && g->pending[n].mask[q / 64] & BIT_ULL(q % 64))
				return true;
		}
	return false;
}

/* --- what the tables say now, without the lock --- */

/* Outside the guest nobody catches faults for us. */
static bool load(struct ghost_cpu *c, hpa_t host, unsigned size, uint64_t *v)
{
	struct iovec to = { v, size }, from = { (void *)host, size };

	*v = 0;
	if (READ_ONCE(c->cpu->in_guest) && c->in_guest) {
		*v = isa_host_load((const void *)host, size);
		return true;
	}
	return syscall(SYS_process_vm_readv, getpid(), &to, 1, &from, 1, 0) == (long)size;
}

bool ghost_host_of(struct ghost_cpu *c, gpa_t gpa, hpa_t *host)
{
	struct vmx_cpu *cpu = c->cpu;
	const struct ept_cache_entry *e = &cpu->tlb->ept[(gpa >> PAGE_SHIFT) & (EPT_CACHE_ENTRIES - 1)];
	int level = (int)FIELD_GET(EPTP_WALK_MASK, cpu->eptp) + 1;
	hpa_t table = cpu->eptp & EPTP_ROOT_MASK;

	if (e->tag == ((gpa & PAGE_MASK) | cpu->tlb->ept_gen)) {
		*host = (e->host & PAGE_MASK) | (gpa & ~PAGE_MASK);
		return true;
	}
	if (!cpu->eptp || !c->in_guest)
		return false;
	for (;; level--) {
		unsigned shift = (unsigned)(12 + 9 * (level - 1));
		uint64_t v = READ_ONCE(((const uint64_t *)__va(table))[(gpa >> shift) & 511]);

		if (!(v & EPT_READ))
			return false;
		if (level == 1 || (level <= 3 && v & EPT_PAGE_SIZE)) {
			*host = ((v & EPT_ADDR_MASK) & (~0ULL << shift)) | (gpa & ~(~0ULL << shift));
			return true;
		}
		table = v & EPT_ADDR_MASK;
	}
}

static bool is_leaf(const struct cpu_state *cs, uint64_t e, unsigned shift)
{
	if (shift == 12)
		return true;
	return (e & PTE_PS) && shift <= 30 && (cs->cr4 & (X86_CR4_PAE | X86_CR4_PSE));
}

/* The walk of a hold's address from its root; a reference to a table: down to its entry. */
static void look(struct ghost_cpu *c, struct batch_item *b, gpa_t root, gva_t gva, unsigned levels_top_shift,
		 unsigned stop_shift)
{
	const struct cpu_state *cs = &c->cpu->cs;
	bool wide = cs->cr4 & X86_CR4_PAE, pae = wide && !(cs->efer & EFER_LMA);
	unsigned shift = levels_top_shift, bits = wide ? 9 : 10, size = wide ? 8 : 4;
	gpa_t table = root;
	hpa_t host;
	uint64_t e;

	b->unknown = true;
	b->present = false;
	b->rights = PTE_RW | PTE_US;
	for (;; shift -= bits) {
		bool pdpte = pae && shift == 30;
		gpa_t at = table + ((gva >> shift) & (pdpte ? 3 : (1U << bits) - 1)) * size;

		if (!ghost_host_of(c, at, &host) || !load(c, host, size, &e))
			return;
		if (!(e & PTE_P)) {
			b->unknown = false;
			return;
		}
		if (!pdpte) {
			b->rights &= e | ~(PTE_RW | PTE_US);
			b->rights |= e & PTE_XD;
		}
		if (!pdpte && is_leaf(cs, e, shift))
			break;
		table = wide ? e & PTE_ADDR_MASK : e & 0xfffff000;
		if (shift == stop_shift) {
			b->unknown = false;
			b->present = true;
			b->gpa = table;
			return;
		}
	}
	b->unknown = false;
	if (stop_shift)
		return; /* a page where a table was */
	b->present = true;
	b->dirty = e & PTE_D;
	b->leaf = e;
	b->shift = shift;
	b->gpa = (e & PTE_ADDR_MASK & (~0ULL << shift)) | (gva & ~(~0ULL << shift) & PAGE_MASK);
	if (!wide && shift == 22)
		b->gpa = (e & 0xffc00000) | (e >> 13 & 0xff) << 32 | (gva & 0x3ff000);
}

/* --- comparing --- */

/* The memory type, or G, is another one: what is cached goes on by the old. */
static bool type_changed(const struct hold *h, const struct batch_item *b)
{
	uint64_t type = PTE_PWT | PTE_PCD | (h->shift == PAGE_SHIFT ? PTE_PAT : PTE_PAT_LARGE);
	uint64_t old = h->e[h->nr - 1].val;

	/* a page of another size has its bits elsewhere: not compared */
	return b->level == h->nr - 1U && b->shift == h->shift && ((b->leaf ^ old) & type || (h->global && !(b->leaf & PTE_G)));
}

/*
 * The page has another size now, and another frame or other rights, with no invalidation between: a processor may have
 * both, and use either for any access (SDM "Details of TLB Use").
 */
static bool size_changed(const struct hold *h, const struct batch_item *b)
{
	return h->kind == HOLD_LEAF && b->present && b->shift != h->shift &&
	       (b->gpa != h->gpa || (b->rights ^ h->rights) & (PTE_RW | PTE_US | PTE_XD));
}

static bool lost_by(const struct ghost *g, const struct hold *h, const struct batch_item *b, enum lost *lost)
{
	bool same = b->present && b->gpa == h->gpa;

	*lost = LOST_RIGHTS;
	if (h->kind != HOLD_LEAF)
		return !same;
	if (!same || (h->rights & ~b->rights & (PTE_RW | PTE_US)) || (b->rights & ~h->rights & PTE_XD))
		return true;
	*lost = LOST_DIRTY;
	if (h->dirty && !b->dirty && (b->rights & PTE_RW))
		return true;
	*lost = LOST_TYPE;
	return g->strict && type_changed(h, b);
}

static void apply(struct ghost_cpu *c, const struct batch_item *b, const struct pending *p)
{
	struct ghost *g = c->g;
	struct hold *h = &g->hold[b->hold];
	enum lost lost;
	bool any;

	if (h->kind == HOLD_FREE || h->born != b->born || !hold_live(h))
		return;
	if (b->unknown) {
		/* it would go to the account of who stores next */
		ghost_forgot(g, unreadable);
		hold_free(g, b->hold);
		return;
	}
	any = lost_by(g, h, b, &lost);
	if (any && !h->record && p->unseen) {
		ghost_forgot(g, unseen);
		hold_free(g, b->hold);
	} else if (any && !h->record) {
		record_new(c, b, p, lost);
	} else if (any) {
		g->record[h->record].lost = (uint8_t)lost;
	} else if (h->record) {
		record_free(g, h->record);
	}
	if (unlikely(g->strict) && any && h->record && size_changed(h, b))
		record_say_size(c, &g->record[h->record], b);
}

/* Where gather() goes on: at a hold of entry `entry`, if it is still there. */
struct cursor {
	unsigned entry;
	uint32_t node;
	uint64_t born;
	unsigned restarts;
	bool done, any;
};
#define MAX_RESTARTS 16

static uint32_t resume(struct ghost *g, struct cursor *at, gpa_t entry)
{
	const struct hold *h = &g->hold[at->node / 8];
	uint32_t node = at->node;

	at->node = 0;
	if (node && h->kind != HOLD_FREE && h->born == at->born && node % 8 < h->nr && h->e[node % 8].gpa == entry && hold_live(h))
		return node;
	at->restarts += !!node;
	return hold_of_entry(g, entry, 0);
}

static bool stored_to(const struct pending *p, unsigned q)
{
	return p->mask[q / 128] & BIT_ULL(q / 2 % 64);
}

/* The entry is as it was when the hold was made: many stores are of what is there already, or of A and D flags. */
static bool unchanged(const struct hold *h, unsigned level, uint64_t now)
{
	return !h->record && !((h->e[level].val ^ now) & ~(PTE_A | PTE_D)) && (!h->dirty || level + 1 < h->nr || now & PTE_D);
}

/* Holds whose paths have entries that were stored to, BATCH of them at most from the cursor on: how many are in the batch. */
static unsigned gather(struct ghost_cpu *c, struct cursor *at)
{
	struct ghost *g = c->g;
	unsigned nr = 0;
	bool wide = c->cpu->cs.cr4 & X86_CR4_PAE;
	uint64_t mode = ghost_walk_mode(&c->cpu->cs);

	for (; at->entry < 1024; at->entry += wide ? 2 : 1) {
		gpa_t entry = c->work.gpa + at->entry * 4;
		uint32_t node, next;

		if (!stored_to(&c->work, at->entry))
			continue;
		for (node = resume(g, at, entry); node; node = next) {
			struct hold *h = &g->hold[node / 8];

			next = hold_of_entry(g, entry, node);
			at->any = true;
			if (unchanged(h, node % 8, c->now[at->entry]))
				continue;
			if (h->mode != mode || at->restarts > MAX_RESTARTS) {
				/* not to be looked at: it is forgotten, lest the next store to it be blamed */
				ghost_forgot(g, mode);
				hold_free(g, node / 8);
				continue;
			}
			if (nr == BATCH) {
				at->node = node;
				at->born = h->born;
				return nr;
			}
			c->batch[nr].hold = node / 8;
			c->batch[nr].level = node % 8;
			c->batch[nr].born = h->born;
			nr++;
		}
	}
	at->done = true;
	return nr;
}

/* A frame to which much is stored, and none of it an entry of what is held, may be no table any more. */
static void count_misses(struct ghost *g, struct table *t, bool any)
{
	if (any)
		t->misses = 0;
	else if (++t->misses >= TABLE_MISSES) {
		t->misses = 0;
		if (!table_needed(g, t))
			table_free(g, t);
	}
}

/* Without the lock: a look may unwind. */
static void look_at(struct ghost_cpu *c, struct batch_item *b)
{
	const struct hold *h = &c->g->hold[b->hold];
	unsigned top = h->shift, nr = h->nr, bits = c->cpu->cs.cr4 & X86_CR4_PAE ? 9 : 10;
	hpa_t host;

	top += bits * (nr - 1);
	look(c, b, h->e[0].gpa & (top == 30 && !(c->cpu->cs.efer & EFER_LMA) ? ~31ULL : PAGE_MASK), h->base, top,
	     h->kind == HOLD_TABLE ? h->shift : 0);
	b->now = 0;
	if (ghost_host_of(c, h->e[b->level].gpa, &host))
		(void)load(c, host, bits == 9 ? 8 : 4, &b->now);
}

/* Without the lock, as look_at(). A store that comes later makes a slot of its own. */
static void load_entries(struct ghost_cpu *c)
{
	unsigned size = c->cpu->cs.cr4 & X86_CR4_PAE ? 8 : 4;

	for (unsigned q = 0; q < 1024; q += size / 4)
		if (stored_to(&c->work, q))
			(void)load(c, c->work.host + q * 4, size, &c->now[q]);
}

static void slot_copy(struct pending *to, const struct pending *from)
{
	to->host = from->host;
	to->gpa = from->gpa;
	to->unseen = from->unseen;
	for (unsigned k = 0; k < ARRAY_SIZE(to->mask); k++)
		to->mask[k] = from->mask[k];
	writer_copy(&to->by, &from->by);
}

/* The first slot goes to c->work; what of it may still be in flight is pending again. */
static void take_slot(struct ghost_cpu *c)
{
	struct ghost *g = c->g;
	const struct ghost_cpu *w = g->pending[0].by.c;
	struct pending *p;

	c->comparing = true;
	slot_copy(&c->work, &g->pending[0]);
	for (unsigned n = 1; n < g->nr_pending; n++)
		slot_copy(&g->pending[n - 1], &g->pending[n]);
	g->nr_pending--;
	if (w == c || c->work.by.hypervisor || READ_ONCE(w->inflight.page) != c->work.host)
		return;
	p = pending_add(g, c->work.host, c->work.gpa);
	for (unsigned k = w->inflight.first; k <= w->inflight.last; k++)
		p->mask[k / 64] |= BIT_ULL(k % 64);
	writer_copy(&p->by, &c->work.by);
}

bool others_compare(const struct ghost_cpu *c)
{
	for (const struct ghost_cpu *o = c->g->cpus; o; o = o->next)
		if (o != c && o->comparing)
			return true;
	return false;
}

void ghost_compare_unwound(struct ghost_cpu *c)
{
	struct ghost *g = c->g;

	ghost_lock(g);
	for (unsigned q = 0; q < 1024; q++) {
		uint32_t node;

		while (stored_to(&c->work, q) && (node = hold_of_entry(g, c->work.gpa + q * 4, 0))) {
			ghost_forgot(g, unreadable);
			hold_free(g, node / 8);
		}
	}
	c->comparing = false;
	ghost_unlock(g);
}

void ghost_compare(struct ghost_cpu *c)
{
	struct ghost *g = c->g;
	unsigned slots = PENDING;

	WRITE_ONCE(c->inflight.page, 0);
	if (!c->in_guest)
		return; /* tables cannot be looked at: a guess would lose what was stored */
	for (unsigned done = 0; done < slots; done++) {
		struct cursor at = { 0 };
		struct table *t;
		unsigned nr;

		ghost_lock(g);
		if (!done)
			slots = g->nr_pending; /* not those that become pending meanwhile, or again */
		if (!g->nr_pending) {
			ghost_unlock(g);
			return;
		}
		take_slot(c);
		t = table_find(g, c->work.host);
		c->work.unseen |= t && t->unseen;
		ghost_unlock(g);
		load_entries(c);
		ghost_lock(g);
		do {
			nr = gather(c, &at);
			g->count.compared += nr;
			ghost_unlock(g);
			for (unsigned n = 0; n < nr; n++)
				look_at(c, &c->batch[n]);
			ghost_lock(g);
			for (unsigned n = 0; n < nr; n++)
				apply(c, &c->batch[n], &c->work);
		} while (!at.done);
		c->comparing = false;
		t = table_find(g, c->work.host);
		if (t)
			count_misses(g, t, at.any);
		ghost_unlock(g);
	}
}
