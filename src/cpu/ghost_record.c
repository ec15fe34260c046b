/*
 * Records: translations that are held and that the tables grant no longer. How they begin (a
 * store is compared with what is held), when the guest's operation has ended (settled), and who
 * uses them then. ghost.h has the invariants.
 *
 *	store ─► pending ─► ghost_compare() ─► record, OPEN
 *	                        the writer's thread returns to user mode ─► SETTLED_RETURNED
 *	                        the frame has got a new owner            ─► SETTLED_RECYCLED
 *	the hold dies (hold_free), or the tables grant it again ─► no record
 *
 * Locks: ghost->lock, held by all callers but ghost_compare()'s.
 */
#include "cpu/ghost_internal.h"
#include "host/memory.h"
#include "sdm/ept.h"

#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include <x86intrin.h>

#define RECYCLED_LINES 48 /* of a frame's 64 */
#define TABLE_MISSES 64	  /* after which a frame is looked at: is it a table still? */

/* --- who stores --- */

static uint64_t space_of(uint64_t cr3)
{
	return cr3 & PTE_ADDR_MASK & ~0x1000ULL; /* Linux's user tables lie 4 KiB behind the kernel's */
}

static bool same_thread(const struct writer *a, uint64_t cr3, uint64_t fs)
{
	return space_of(a->cr3) == space_of(cr3) && a->fs == fs;
}

static uint32_t *thread_bucket(struct ghost *g, uint64_t cr3, uint64_t fs)
{
	return &g->by_thread[ghost_hash(space_of(cr3) ^ fs * 3)];
}

static bool slot_matches(const struct pending *p, const struct ghost_cpu *c, const struct table *t, bool hypervisor)
{
	const struct cpu_state *cs = &c->cpu->cs;

	return p->host == t->host && !p->unseen && p->by.c == c && p->by.hypervisor == hypervisor &&
	       p->by.cr3 == cs->cr3 && p->by.fs == cs->seg[SREG_FS].base;
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
	if (g->nr_pending == PENDING)
		return NULL;
	p = &g->pending[g->nr_pending++];
	p->host = t->host;
	p->gpa = t->gpa;
	p->unseen = false;
	for (unsigned k = 0; k < 8; k++)
		p->mask[k] = 0;
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

/* By what is known of tables, else by EPT, of which nothing changes; outside the guest EPT is not ours to walk. */
static bool host_of(struct ghost_cpu *c, gpa_t gpa, hpa_t *host)
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

		if (!host_of(c, at, &host) || !load(c, host, size, &e))
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
	b->gpa = (e & PTE_ADDR_MASK & (~0ULL << shift)) | (gva & ~(~0ULL << shift) & PAGE_MASK);
	if (!wide && shift == 22)
		b->gpa = (e & 0xffc00000) | (e >> 13 & 0xff) << 32 | (gva & 0x3ff000);
}

/* --- records --- */

static uint32_t *settled_chain(const struct hold *h)
{
	return &h->c->settled[h->global ? SETTLED_CHAINS : h->pcid % SETTLED_CHAINS];
}

void record_free(struct ghost *g, uint32_t n)
{
	struct record *r = &g->record[n];
	uint32_t *link;

	if (!r->hold)
		return;
	g->hold[r->hold].record = 0;
	link = r->settled == OPEN ? thread_bucket(g, r->by.cr3, r->by.fs) : settled_chain(&g->hold[r->hold]);
	while (*link && *link != n)
		link = &g->record[*link].next;
	if (*link)
		*link = r->next;
	if (r->settled == OPEN)
		g->nr_open--;
	else
		g->hold[r->hold].c->nr_settled--;
	r->hold = 0;
	r->next = g->free_record;
	g->free_record = n;
	g->count.closed++;
}

static uint32_t record_alloc(struct ghost *g)
{
	uint32_t n;

	if (!g->free_record && g->used_records < RECORDS)
		return ++g->used_records;
	if (!g->free_record) {
		g->record_hand = g->record_hand % RECORDS + 1;
		record_free(g, g->record_hand);
		g->count.forgotten++;
	}
	n = g->free_record;
	g->free_record = g->record[n].next;
	return n;
}

/* The frame has no write tags from now on, so that stores to it are seen. */
static void watch_add(struct ghost *g, uint32_t hold)
{
	hpa_t host = g->hold[hold].host;
	uint32_t *b = &g->by_watch[ghost_hash(host)], n = *b, *link;
	struct watch *w;

	while (n && g->watch[n].host != host)
		n = g->watch[n].next;
	if (!n) {
		if (g->used_watches < WATCHES) {
			n = ++g->used_watches;
		} else {
			n = g->watch_hand = g->watch_hand % WATCHES + 1;
			if (g->watch[n].host) {
				link = &g->by_watch[ghost_hash(g->watch[n].host)];
				while (*link && *link != n)
					link = &g->watch[*link].next;
				if (*link)
					*link = g->watch[n].next;
			}
		}
		g->watch[n].host = host;
		g->watch[n].next = *b;
		*b = n;
		for (unsigned k = 0; k < 4; k++)
			g->watch[n].of[k].hold = 0;
		g->count.watches++;
	}
	w = &g->watch[n];
	w->lines = 0;
	for (unsigned k = 0; k < 4; k++) {
		if (w->of[k].hold && w->of[k].hold != hold && k < 3 && g->hold[w->of[k].hold].born == w->of[k].born)
			continue;
		w->of[k].hold = hold;
		w->of[k].born = g->hold[hold].born;
		break;
	}
	ghost_ask_all(g, true, host);
}

static void record_new(struct ghost_cpu *c, const struct batch_item *b, const struct pending *p, bool only_dirty)
{
	struct ghost *g = c->g;
	uint32_t n = record_alloc(g), *bucket = thread_bucket(g, p->by.cr3, p->by.fs);
	struct hold *h = &g->hold[b->hold];
	struct record *r = &g->record[n];

	r->hold = b->hold;
	r->by.c = p->by.c;
	r->by.rip = p->by.rip;
	r->by.cr3 = p->by.cr3;
	r->by.fs = p->by.fs;
	r->by.time = p->by.time;
	r->by.cpl = p->by.cpl;
	r->by.hypervisor = p->by.hypervisor;
	r->entry = h->e[b->level].gpa;
	r->old = h->e[b->level].val;
	r->new = b->now;
	r->level = (uint8_t)(h->nr - b->level);
	r->only_dirty = only_dirty;
	r->settled = OPEN;
	r->said_use = r->said_reachable = r->said_table = false;
	r->next = *bucket;
	*bucket = n;
	h->record = n;
	g->nr_open++;
	g->count.records++;
	if (h->kind != HOLD_LEAF)
		return;
	ghost_ask_drop(h->c, false, h->base);
	if (h->host && (h->rights & PTE_US) && (!b->present || b->gpa != h->gpa))
		watch_add(g, b->hold);
}

static void apply(struct ghost_cpu *c, const struct batch_item *b, const struct pending *p)
{
	struct ghost *g = c->g;
	struct hold *h = &g->hold[b->hold];
	bool same, lost;

	if (h->kind == HOLD_FREE || h->born != b->born || !hold_live(h))
		return;
	if (b->unknown) {
		/* it would go to the account of who stores next */
		g->count.forgotten++;
		hold_free(g, b->hold);
		return;
	}
	same = b->present && b->gpa == h->gpa;
	if (h->kind == HOLD_LEAF) {
		lost = !same || (h->rights & ~b->rights & (PTE_RW | PTE_US)) || (b->rights & ~h->rights & PTE_XD);
		if (!lost && h->dirty && !b->dirty && (b->rights & PTE_RW) && !h->record) {
			record_new(c, b, p, true);
			return;
		}
		if (!lost && h->record && g->record[h->record].only_dirty && !b->dirty)
			return;
	} else {
		lost = !same;
	}
	if (lost && !h->record && p->unseen) {
		g->count.forgotten++;
		hold_free(g, b->hold);
		return;
	}
	if (!lost && h->record)
		record_free(g, h->record);
	else if (lost && !h->record)
		record_new(c, b, p, false);
	else if (lost)
		g->record[h->record].only_dirty = false;
}

/* Holds whose paths have entries that were stored to: how many are in the batch. */
static unsigned gather(struct ghost_cpu *c, struct table *t)
{
	struct ghost *g = c->g;
	unsigned nr = 0, entries = 0;
	bool wide = c->cpu->cs.cr4 & X86_CR4_PAE;
	uint64_t mode = g->ops->paging_mode(&c->cpu->cs);

	for (unsigned q = 0; q < 1024; q++) {
		gpa_t entry = c->work.gpa + q * 4;
		uint32_t node, next;

		if (!c->work.mask[q / 128]) {
			q |= 127;
			continue;
		}
		if (!(c->work.mask[q / 128] & BIT_ULL(q / 2 % 64)) || (q & 1 && wide))
			continue;
		for (node = hold_of_entry(g, entry, 0); node; node = next) {
			struct hold *h = &g->hold[node / 8];

			next = hold_of_entry(g, entry, node);
			entries++;
			if (h->mode != mode || nr == BATCH) {
				/* not to be looked at: it is forgotten, lest the next store to it be blamed */
				g->count.forgotten++;
				hold_free(g, node / 8);
				continue;
			}
			c->batch[nr].hold = node / 8;
			c->batch[nr].level = node % 8;
			c->batch[nr].born = h->born;
			nr++;
		}
	}
	if (t && !entries && ++t->misses >= TABLE_MISSES) {
		t->misses = 0;
		if (!table_needed(g, t))
			table_free(g, t);
	} else if (t && entries) {
		t->misses = 0;
	}
	return nr;
}

/* Without the lock: a look may unwind, and what was pending is a miss then. */
static void look_at(struct ghost_cpu *c, struct batch_item *b)
{
	const struct hold *h = &c->g->hold[b->hold];
	unsigned top = h->shift, nr = h->nr, bits = c->cpu->cs.cr4 & X86_CR4_PAE ? 9 : 10;
	hpa_t host;

	top += bits * (nr - 1);
	look(c, b, h->e[0].gpa & (top == 30 && !(c->cpu->cs.efer & EFER_LMA) ? ~31ULL : PAGE_MASK), h->base, top,
	     h->kind == HOLD_TABLE ? h->shift : 0);
	b->now = 0;
	if (host_of(c, h->e[b->level].gpa, &host))
		(void)load(c, host, bits == 9 ? 8 : 4, &b->now);
}

/* The first slot goes to c->work; what of it may still be in flight is pending again. */
static void take_slot(struct ghost_cpu *c)
{
	struct ghost *g = c->g;
	struct pending *p = &g->pending[0], *to = &c->work;
	const struct ghost_cpu *w = p->by.c;
	unsigned k, n;

	for (n = 0; n < g->nr_pending; n++, p++, to = p - 1) {
		to->host = p->host;
		to->gpa = p->gpa;
		to->unseen = p->unseen;
		for (k = 0; k < 8; k++)
			to->mask[k] = p->mask[k];
		to->by.c = p->by.c;
		to->by.rip = p->by.rip;
		to->by.cr3 = p->by.cr3;
		to->by.fs = p->by.fs;
		to->by.time = p->by.time;
		to->by.cpl = p->by.cpl;
		to->by.hypervisor = p->by.hypervisor;
	}
	g->nr_pending--;
	if (w == c || c->work.by.hypervisor || READ_ONCE(w->inflight.page) != c->work.host)
		return;
	to = &g->pending[g->nr_pending++];
	to->host = c->work.host;
	to->gpa = c->work.gpa;
	to->unseen = false;
	for (k = 0; k < 8; k++)
		to->mask[k] = 0;
	for (k = w->inflight.first; k <= w->inflight.last; k++)
		to->mask[k / 64] |= BIT_ULL(k % 64);
	to->by.c = c->work.by.c;
	to->by.rip = c->work.by.rip;
	to->by.cr3 = c->work.by.cr3;
	to->by.fs = c->work.by.fs;
	to->by.time = c->work.by.time;
	to->by.cpl = c->work.by.cpl;
	to->by.hypervisor = false;
}

void ghost_compare(struct ghost_cpu *c)
{
	struct ghost *g = c->g;
	unsigned slots = PENDING;

	WRITE_ONCE(c->inflight.page, 0);
	if (!c->in_guest)
		return; /* tables cannot be looked at: a guess would lose what was stored */
	for (unsigned done = 0; done < slots; done++) {
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
		nr = gather(c, t);
		g->count.compared += nr;
		ghost_unlock(g);
		for (unsigned n = 0; n < nr; n++)
			look_at(c, &c->batch[n]);
		ghost_lock(g);
		for (unsigned n = 0; n < nr; n++)
			apply(c, &c->batch[n], &c->work);
		ghost_unlock(g);
	}
}

/* --- settling --- */

static void settle(struct ghost *g, struct record *r, enum settled how)
{
	uint32_t n = (uint32_t)(r - g->record), *chain = settled_chain(&g->hold[r->hold]);
	uint32_t *link = thread_bucket(g, r->by.cr3, r->by.fs);

	while (*link && *link != n)
		link = &g->record[*link].next;
	if (*link)
		*link = r->next;
	g->nr_open--;
	r->settled = (uint8_t)how;
	r->next = *chain;
	*chain = n;
	g->hold[r->hold].c->nr_settled++;
	g->count.settled++;
}

/* A page of programs. */
static bool is_users(const struct hold *h)
{
	bool lower = !(h->c->cpu->cs.efer & EFER_LMA) || !(h->base >> 47);

	return h->kind == HOLD_LEAF && (h->rights & PTE_US) && lower;
}

/* The processor that may use it is in user mode, in its address space, and allowed to. */
static bool reachable(const struct hold *h)
{
	const struct ghost_cpu *v = h->c;

	return is_users(h) && v->in_guest && v->user && (h->global || h->pcid == v->pcid);
}

static void try_reachable(struct ghost_cpu *by, struct record *r)
{
	struct hold *h = &by->g->hold[r->hold];

	if (r->said_reachable || r->only_dirty || !hold_live(h) || !(by->g->strict ? is_users(h) : reachable(h)))
		return;
	r->said_reachable = true;
	ghost_report(by, GHOST_REACHABLE, r, h, h->base, 0, NULL);
}

void records_returned(struct ghost_cpu *c)
{
	struct ghost *g = c->g;
	const struct cpu_state *cs = &c->cpu->cs;
	uint32_t *link = thread_bucket(g, cs->cr3, cs->seg[SREG_FS].base);

	while (*link) {
		struct record *r = &g->record[*link];

		if (!hold_live(&g->hold[r->hold])) {
			hold_free(g, r->hold); /* takes the record out of this chain */
			continue;
		}
		if (!same_thread(&r->by, cs->cr3, cs->seg[SREG_FS].base) || r->by.hypervisor) {
			link = &r->next;
			continue;
		}
		settle(g, r, SETTLED_RETURNED);
		try_reachable(c, r);
	}
}

void records_reachable(struct ghost_cpu *c)
{
	uint32_t chains[] = { c->pcid % SETTLED_CHAINS, SETTLED_CHAINS };
	struct ghost *g = c->g;

	for (unsigned k = 0; k < 2; k++) {
		uint32_t *link = &c->settled[chains[k]];

		while (*link) {
			struct record *r = &g->record[*link];

			if (!hold_live(&g->hold[r->hold])) {
				hold_free(g, r->hold); /* takes the record out of this chain */
				continue;
			}
			try_reachable(c, r);
			link = &r->next;
		}
	}
}

/* The frame is somebody else's now. */
static void recycled(struct ghost_cpu *c, struct watch *w)
{
	struct ghost *g = c->g;

	g->count.recycled++;
	for (unsigned k = 0; k < 4; k++) {
		struct hold *h = &g->hold[w->of[k].hold];
		struct record *r;

		if (!w->of[k].hold || h->born != w->of[k].born || h->kind == HOLD_FREE || !h->record || !hold_live(h))
			continue;
		r = &g->record[h->record];
		if (r->settled != OPEN)
			continue;
		settle(g, r, SETTLED_RECYCLED);
		try_reachable(c, r);
	}
}

static uint32_t watch_find(struct ghost *g, hpa_t host)
{
	uint32_t n = g->by_watch[ghost_hash(host)];

	while (n && g->watch[n].host != host)
		n = g->watch[n].next;
	return n;
}

/* Is a record open, or settled, for the frame? */
static bool watch_needed(struct ghost *g, const struct watch *w)
{
	for (unsigned k = 0; k < 4; k++) {
		const struct hold *h = &g->hold[w->of[k].hold];

		if (w->of[k].hold && h->kind != HOLD_FREE && h->born == w->of[k].born && h->record && hold_live(h))
			return true;
	}
	return false;
}

static void watch_free(struct ghost *g, uint32_t n)
{
	uint32_t *link = &g->by_watch[ghost_hash(g->watch[n].host)];

	while (*link && *link != n)
		link = &g->watch[*link].next;
	if (*link)
		*link = g->watch[n].next;
	g->watch[n].host = 0;
}

void watch_stored(struct ghost_cpu *c, hpa_t host, unsigned size, gva_t gva)
{
	struct ghost *g = c->g;
	uint32_t n = watch_find(g, host & PAGE_MASK);
	struct watch *w = &g->watch[n];

	if (!n)
		return;
	if (!watch_needed(g, w)) {
		watch_free(g, n);
		return;
	}
	if (c->cpu->cs.cpl == 3 || !(gva >> 47))
		return; /* not by the kernel's own mapping */
	w->lines |= GENMASK_ULL((host + size - 1) >> 6 & 63, host >> 6 & 63);
	w->rip = isa_rip(&c->cpu->cs);
	if (__builtin_popcountll(w->lines) >= RECYCLED_LINES) {
		recycled(c, w);
		watch_free(g, n);
	}
}

void watch_is_table(struct ghost_cpu *c, hpa_t host)
{
	uint32_t n = watch_find(c->g, host);

	if (!n)
		return;
	recycled(c, &c->g->watch[n]);
	watch_free(c->g, n);
}

/* --- uses --- */

/* The same thread of the kernel, later in its own program, by an address of the kernel's. */
static bool own_order(struct ghost_cpu *c, const struct record *r, gva_t gva)
{
	const struct cpu_state *cs = &c->cpu->cs;

	return r->by.c == c && !r->by.hypervisor && cs->cpl != 3 && r->by.cpl == cs->cpl && gva >> 47 &&
	       same_thread(&r->by, cs->cr3, cs->seg[SREG_FS].base);
}

static void used(struct ghost_cpu *c, struct hold *h, gva_t gva, uint32_t access, enum cpu_priv priv,
		 const struct cpu_walk_result *now)
{
	struct ghost *g = c->g;
	struct record *r = &g->record[h->record];
	uint32_t old = g->ops->page_rights(c->cpu, h->rights, priv);
	gpa_t page = h->gpa + ((gva & PAGE_MASK) - h->base);

	if (access & ~old)
		return;
	if ((access & CPU_WRITE) && !h->dirty)
		return; /* the processor walks again to set D */
	if (now && now->gpa == page && !(r->only_dirty && (access & CPU_WRITE)))
		return; /* allowed now, and at the same page: nobody could tell */
	if (r->settled == OPEN && own_order(c, r, gva)) {
		/* only for this use: the thread has not come back */
		g->count.uses_settled++;
		if (!r->said_use) {
			r->said_use = true;
			r->settled = SETTLED_OWN;
			ghost_report(c, r->only_dirty ? GHOST_LOST_DIRTY : GHOST_USE, r, h, gva, access, now);
			r->settled = OPEN;
		}
		return;
	}
	if (r->settled == OPEN) {
		g->count.uses_in_window++;
		return;
	}
	g->count.uses_settled++;
	if (r->said_use)
		return;
	r->said_use = true;
	ghost_report(c, r->only_dirty ? GHOST_LOST_DIRTY : GHOST_USE, r, h, gva, access, now);
}

void records_used(struct ghost_cpu *c, gva_t gva, uint32_t access, enum cpu_priv priv,
		  const struct cpu_walk_result *now)
{
	static const uint8_t shifts[] = { 12, 21, 22, 30 };
	struct ghost *g = c->g;

	for (unsigned s = 0; s < ARRAY_SIZE(shifts); s++) {
		uint32_t n = 0;

		while ((n = hold_next(g, c, HOLD_LEAF, gva, shifts[s], n)))
			if (g->hold[n].record && (g->hold[n].global || g->hold[n].pcid == c->pcid))
				used(c, &g->hold[n], gva, access, priv, now);
	}
}

/* The frame is stored to: does a processor whose current PCID may still walk it exist, though it was taken out? */
void tables_stored(struct ghost_cpu *c, struct table *t, gva_t gva, hpa_t host, unsigned size)
{
	struct ghost *g = c->g;

	for (struct ghost_cpu *v = g->cpus; v; v = v->next) {
		if (!v->in_guest || v == c || (v->cr3 & PTE_ADDR_MASK) != t->gpa || v->said_root || !(gva >> 47) || gva == ~0ULL)
			continue;
		v->root_lines |= GENMASK_ULL((host + size - 1) >> 6 & 63, host >> 6 & 63);
		if (__builtin_popcountll(v->root_lines) < RECYCLED_LINES)
			continue;
		v->said_root = true;
		ghost_report_root(c, v);
	}
	if (!t->first)
		return;
	for (uint32_t n = t->first; n; n = g->hold[n].tnext) {
		struct hold *h = &g->hold[n];
		struct record *r = &g->record[h->record];

		if (!h->record || r->said_table || !hold_live(h) || !h->c->in_guest || h->pcid != h->c->pcid)
			continue;
		r->said_table = true;
		ghost_report(c, GHOST_TABLE, r, h, h->base, 0, NULL);
	}
}

/* --- asking processors to drop --- */

void ghost_ask_drop(struct ghost_cpu *c, bool frame, uint64_t address)
{
	if (c->nr_drops < GHOST_DROPS) {
		c->drops[c->nr_drops].frame = frame;
		c->drops[c->nr_drops].address = address;
	}
	if (c->nr_drops <= GHOST_DROPS)
		c->nr_drops++;
	__atomic_fetch_or(&c->cpu->cs.exit_request, CPU_REQ_GHOST, __ATOMIC_SEQ_CST);
}

void ghost_ask_all(struct ghost *g, bool frame, uint64_t address)
{
	for (struct ghost_cpu *c = g->cpus; c; c = c->next)
		ghost_ask_drop(c, frame, address);
}
