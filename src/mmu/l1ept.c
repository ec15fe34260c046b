/*
 * The sanitizer for hypervisors in the guest: see l1ept.h, which has the invariants.
 *
 *	by_entry[hash(leaf entry's gpa)] ─► hold ─► …
 *	by_page[hash(vCPU, L2's page)]    ─► hold ─► …
 *	upper[]: a bit for each hash of an entry above the leaf: a write there looks at all holds
 *
 * Locks: l1ept->lock, taken by the hooks.
 */
#include "mmu/l1ept_internal.h"

#include <stdlib.h>
#include <x86intrin.h>

#include "lib/log.h"
#include "lib/own.h"
#include "lib/params.h"
#include "sdm/ept.h"

static uint32_t hash(uint64_t key)
{
	return (uint32_t)(key * 0x9e3779b97f4a7c15ULL >> 50);
}

static uint32_t page_hash(const struct kvm_vcpu *vcpu, gpa_t gpa)
{
	return hash((gpa >> PAGE_SHIFT) * 64 + vcpu->vcpu_idx);
}

struct l1ept *l1ept_create(void)
{
	const char *deaf = getenv("USERKVM_GHOST_DEAF");
	struct l1ept *k;

	if (!params_has_word("USERKVM_CHECK", "l1ept"))
		return NULL;
	k = own_calloc(1, sizeof(*k));
	if (k)
		k->hold = own_pages((L1EPT_HOLDS + 1) * sizeof(*k->hold));
	if (!k || !k->hold) {
		log_always("USERKVM_CHECK=l1ept is off: no memory for it");
		own_free(k);
		return NULL;
	}
	pthread_mutex_init(&k->lock, NULL);
	k->deaf = deaf ? (unsigned)strtoul(deaf, NULL, 0) : 0;
	l1ept_report_open(k);
	return k;
}

void l1ept_destroy(struct l1ept *k)
{
	if (!k)
		return;
	l1ept_report_end(k);
	own_pages_free(k->hold);
	pthread_mutex_destroy(&k->lock);
	own_free(k);
}

/* --- holds --- */

static void unlink_from(struct l1ept *k, uint32_t *link, uint32_t n, bool entry)
{
	while (*link && *link != n)
		link = entry ? &k->hold[*link].next_entry : &k->hold[*link].next_page;
	if (*link)
		*link = entry ? k->hold[n].next_entry : k->hold[n].next_page;
}

/* Counts a hidden INVEPT once for each of what its records were. */
static uint64_t first_of(struct l1ept *k, uint32_t event, uint8_t what)
{
	uint8_t *e = &k->events[event % L1EPT_EVENTS];

	if (*e & what)
		return 0;
	*e |= what;
	return 1;
}

void l1ept_count_owed(struct l1ept *k, const struct l1ept_hold *h)
{
	bool in_reach = h->in_reach && h->settled;

	if (!h->owed_to)
		return;
	k->records_owed++;
	k->records_in_reach += in_reach;
	k->records_told += h->said;
	if (in_reach)
		k->hidden_in_reach += first_of(k, h->owed_to, 1);
	if (h->said)
		k->hidden_told += first_of(k, h->owed_to, 2);
}

static void record_close(struct l1ept *k, uint32_t n)
{
	struct l1ept_hold *h = &k->hold[n];

	if (!h->open)
		return;
	l1ept_count_owed(k, h);
	*(h->prev_open ? &k->hold[h->prev_open].next_open : &k->open) = h->next_open;
	if (h->next_open)
		k->hold[h->next_open].prev_open = h->prev_open;
	h->open = false;
	k->closed++;
}

static void hold_free(struct l1ept *k, uint32_t n)
{
	struct l1ept_hold *h = &k->hold[n];

	unlink_from(k, &k->by_entry[hash(h->entry[0])], n, true);
	unlink_from(k, &k->by_page[page_hash(h->vcpu, h->gpa)], n, false);
	record_close(k, n);
	h->vcpu = NULL;
}

static uint32_t hold_alloc(struct l1ept *k)
{
	if (k->used < L1EPT_HOLDS)
		return ++k->used;
	k->hand = k->hand % L1EPT_HOLDS + 1;
	if (k->hold[k->hand].vcpu) {
		k->forgotten++;
		hold_free(k, k->hand);
	}
	return k->hand;
}

static uint64_t current_eptp(struct kvm_vcpu *vcpu)
{
	return vcpu->mmu_vcpu->guest_mmu.eptp12 & EPTP_ROOT_MASK;
}

/* What EPT12 says of L2's page now: its rights, 0 where it is not present; *dirty: the leaf's D flag. */
static unsigned look(struct kvm_vcpu *vcpu, uint64_t root, gpa_t gpa, unsigned levels, gpa_t *page, bool *dirty)
{
	unsigned rights = EPT_RWX;
	gpa_t table = root;
	uint64_t e;

	for (unsigned level = levels;; level--) {
		unsigned shift = 12 + 9 * (level - 1);

		if (kvm_vcpu_read_guest(vcpu, table + (gpa >> shift & 511) * 8, &e, sizeof(e)))
			return 0;
		rights &= (unsigned)e & EPT_RWX;
		if (!(e & EPT_RWX))
			return 0;
		table = e & EPT_ADDR_MASK;
		if (level > 1 && !(e & EPT_PAGE_SIZE))
			continue;
		*dirty = e & EPT_DIRTY;
		*page = ((e & EPT_ADDR_MASK) & (~0ULL << shift)) | (gpa & ~(~0ULL << shift) & PAGE_MASK);
		return rights;
	}
}

/* Does the walk of L2's page come by this entry? */
static bool passes(struct kvm_vcpu *vcpu, uint64_t root, gpa_t gpa, unsigned levels, gpa_t entry)
{
	gpa_t table = root;
	uint64_t e;

	for (unsigned level = levels; level; level--) {
		gpa_t at = table + (gpa >> (12 + 9 * (level - 1)) & 511) * 8;

		if (at == entry)
			return true;
		if (kvm_vcpu_read_guest(vcpu, at, &e, sizeof(e)) || !(e & EPT_RWX) || (level > 1 && e & EPT_PAGE_SIZE))
			return false;
		table = e & EPT_ADDR_MASK;
	}
	return false;
}

static void link_hold(struct l1ept *k, uint32_t n)
{
	struct l1ept_hold *h = &k->hold[n];
	uint32_t *b = &k->by_entry[hash(h->entry[0])];

	h->next_entry = *b;
	*b = n;
	b = &k->by_page[page_hash(h->vcpu, h->gpa)];
	h->next_page = *b;
	*b = n;
}

static void add(struct l1ept *k, struct kvm_vcpu *vcpu, gpa_t gpa, const struct guest_walker *gw)
{
	uint64_t eptp = current_eptp(vcpu);
	uint32_t n = k->by_page[page_hash(vcpu, gpa)];
	struct l1ept_hold *h;
	bool dirty = false;
	gpa_t page = 0;
	unsigned rights = look(vcpu, eptp, gpa, (unsigned)gw->max_level, &page, &dirty);

	if (!rights)
		return;
	dirty &= !!(vcpu->mmu_vcpu->guest_mmu.eptp12 & EPTP_AD_ENABLE);
	for (; n; n = k->hold[n].next_page) {
		if (k->hold[n].vcpu != vcpu || k->hold[n].gpa != gpa || k->hold[n].eptp != eptp || k->hold[n].open ||
		    k->hold[n].page != page || k->hold[n].rights != rights || k->hold[n].entry[0] != gw->pte_gpa[gw->level])
			continue;
		k->hold[n].dirty |= dirty;
		k->hold[n].dormant = false;
		return;
	}
	n = hold_alloc(k);
	h = &k->hold[n];
	*h = (struct l1ept_hold){ .vcpu = vcpu, .eptp = eptp, .gpa = gpa, .page = page, .rights = rights,
			   .levels = (unsigned)gw->max_level, .dirty = dirty };
	for (int level = gw->level; level <= gw->max_level && h->nr < L1EPT_LEVELS; level++) {
		h->entry[h->nr++] = gw->pte_gpa[level];
		if (level > gw->level)
			k->upper[hash(gw->pte_gpa[level]) / 8] |= (uint8_t)(1 << hash(gw->pte_gpa[level]) % 8);
	}
	link_hold(k, n);
}

/* --- writes --- */

/* The writer: a thread of L1's, as its address space and FS base tell it. */
static void note_writer(struct kvm_vcpu *vcpu, struct l1ept_hold *h)
{
	h->settled = false;
	h->writer = vcpu;
	h->when = __rdtsc();
	h->writer_cr3 = h->writer_fs = 0;
	if (mmu_guest_ops()->get_thread)
		mmu_guest_ops()->get_thread(vcpu, &h->writer_cr3, &h->writer_fs);
	h->writer_rip = l1ept_rip(vcpu);
}

/* Its index in entered[], or nr_entered. */
static unsigned find_entered(const struct l1ept *k, const struct kvm_vcpu *vcpu, uint64_t eptp)
{
	unsigned m = 0;

	while (m < k->nr_entered && (k->entered[m].vcpu != vcpu || k->entered[m].eptp != eptp))
		m++;
	return m;
}

static void compare(struct l1ept *k, struct kvm_vcpu *vcpu, uint32_t n, gpa_t written);

/*
 * What one vCPU's L2 has used, others may have cached that have entered a guest by this entry: another vCPU, to
 * whose L2 the same EPT02 gave the mapping without a fault, or another root of the same tables.
 */
static void hold_elsewhere(struct l1ept *k, struct kvm_vcpu *vcpu, uint32_t n, gpa_t written)
{
	struct l1ept_hold like = k->hold[n];

	for (unsigned m = 0; m < k->nr_entered; m++) {
		uint32_t o = k->by_page[page_hash(k->entered[m].vcpu, like.gpa)];

		while (o && (k->hold[o].vcpu != k->entered[m].vcpu || k->hold[o].gpa != like.gpa || k->hold[o].eptp != k->entered[m].eptp))
			o = k->hold[o].next_page;
		if (o || !passes(vcpu, k->entered[m].eptp, like.gpa, like.levels, written))
			continue;
		o = hold_alloc(k);
		k->hold[o] = like;
		k->hold[o].vcpu = k->entered[m].vcpu;
		k->hold[o].eptp = k->entered[m].eptp;
		k->hold[o].open = k->hold[o].dormant = false;
		k->hold[o].hidden = k->entered[m].hidden;
		link_hold(k, o);
		compare(k, vcpu, o, written);
	}
}

static void compare(struct l1ept *k, struct kvm_vcpu *vcpu, uint32_t n, gpa_t written)
{
	struct l1ept_hold *h = &k->hold[n];
	gpa_t page = 0;
	bool dirty = false;
	unsigned rights = look(vcpu, h->eptp, h->gpa, h->levels, &page, &dirty);
	bool gone = page != h->page || (h->rights & ~rights), lost_dirty = !gone && h->dirty && !dirty && (rights & EPT_WRITE);

	if (!gone && !lost_dirty) {
		record_close(k, n);
		return;
	}
	if (h->dormant) {
		unsigned m = find_entered(k, h->vcpu, h->eptp);

		if (m == k->nr_entered) {
			hold_free(k, n);
			return;
		}
		h->dormant = false;
		h->hidden = k->entered[m].hidden;
	}
	h->lost_dirty = lost_dirty;
	if (h->open)
		return;
	h->open = true;
	h->said = h->reached = h->in_reach = false;
	h->owed_to = 0;
	h->prev_open = 0;
	h->next_open = k->open;
	if (k->open)
		k->hold[k->open].prev_open = n;
	k->open = n;
	note_writer(vcpu, h);
	h->written = written;
	if (kvm_vcpu_read_guest(vcpu, written, &h->new, sizeof(h->new)))
		h->new = 0;
	k->records++;
	hold_elsewhere(k, vcpu, n, written);
}

/* Is the operation that wrote over? Its thread has entered a guest, or its processor has gone on to something else. */
static bool is_settled(const struct l1ept_hold *h)
{
	return h->settled || (mmu_guest_ops()->calm_since && mmu_guest_ops()->calm_since(h->writer, h->when));
}

/* L2 is about to run where it may use the mapping. Unless it does, that is told where L1 invalidates or enters next. */
static void in_reach(struct l1ept *k, struct l1ept_hold *h)
{
	h->in_reach |= !!h->owed_to;
	if (!h->settled || h->said)
		return;
	if (h->reached) {
		l1ept_report_reachable(k, h);
		return;
	}
	h->reached = true;
	h->entered_rip = l1ept_rip(h->vcpu);
}

/*
 * The first entry behind an INVEPT: L2 may cache again what the tables say now. What they say no more has been changed by
 * stores that were not seen (an instruction that unprotects a table), before the INVEPT, and is not held.
 */
static void keep_what_is_there(struct l1ept *k, struct kvm_vcpu *vcpu, uint64_t eptp)
{
	for (uint32_t n = 1; n <= k->used; n++) {
		struct l1ept_hold *h = &k->hold[n];
		bool dirty = false;
		gpa_t page = 0;
		unsigned rights;

		if (h->vcpu != vcpu || h->eptp != eptp || !h->dormant)
			continue;
		rights = look(vcpu, eptp, h->gpa, h->levels, &page, &dirty);
		if (page != h->page || h->rights & ~rights)
			hold_free(k, n);
		else
			h->dirty &= dirty;
	}
}

/*
 * The writer's operation is over where its thread enters a guest; without an FS base (a hypervisor without
 * threads of its own, a thread of a kernel's) where its processor does.
 */
void l1ept_enters_l2(struct kvm_vcpu *vcpu, uint64_t eptp)
{
	struct l1ept *k = vcpu->kvm->mmu_vm->l1ept;
	uint64_t cr3 = 0, fs = 0;

	if (likely(!k))
		return;
	if (mmu_guest_ops()->get_thread)
		mmu_guest_ops()->get_thread(vcpu, &cr3, &fs);
	pthread_mutex_lock(&k->lock);
	eptp &= EPTP_ROOT_MASK;
	for (uint32_t n = k->open; n; n = k->hold[n].next_open) {
		struct l1ept_hold *h = &k->hold[n];

		if (!h->settled)
			h->settled = (h->writer == vcpu && (!h->writer_fs || (h->writer_cr3 == cr3 && h->writer_fs == fs))) || is_settled(h);
		if (h->vcpu == vcpu && h->eptp == eptp && eptp && !h->lost_dirty)
			in_reach(k, h);
	}
	if (eptp && find_entered(k, vcpu, eptp) == k->nr_entered && k->nr_entered < sizeof(k->entered) / sizeof(k->entered[0])) {
		keep_what_is_there(k, vcpu, eptp);
		k->entered[k->nr_entered].vcpu = vcpu;
		k->entered[k->nr_entered].hidden = false;
		k->entered[k->nr_entered++].eptp = eptp;
	}
	pthread_mutex_unlock(&k->lock);
}

void l1ept_written(struct kvm_vcpu *vcpu, gpa_t gpa, size_t len)
{
	struct l1ept *k = vcpu->kvm->mmu_vm->l1ept;

	pthread_mutex_lock(&k->lock);
	for (gpa_t entry = gpa & ~7ULL; entry < gpa + len; entry += 8) {
		uint32_t n = k->by_entry[hash(entry)], next;

		for (; n; n = next) {
			next = k->hold[n].next_entry;
			if (k->hold[n].entry[0] == entry)
				compare(k, vcpu, n, entry);
		}
		if (!(k->upper[hash(entry) / 8] & 1 << hash(entry) % 8))
			continue;
		for (n = 1; n <= k->used; n++)
			for (unsigned l = 1; k->hold[n].vcpu && l < k->hold[n].nr; l++)
				if (k->hold[n].entry[l] == entry) {
					compare(k, vcpu, n, entry);
					break;
				}
	}
	pthread_mutex_unlock(&k->lock);
}

/* --- INVEPT --- */

void l1ept_invept(struct kvm_vcpu *vcpu, bool all, uint64_t eptp)
{
	struct l1ept *k = vcpu->kvm->mmu_vm->l1ept;
	bool hide, owed = false;

	if (likely(!k))
		return;
	pthread_mutex_lock(&k->lock);
	hide = k->deaf && ++k->deaf_count % k->deaf == 0;
	k->hidden += hide;
	for (unsigned m = 0; m < k->nr_entered; m++) {
		if (k->entered[m].vcpu != vcpu || (!all && k->entered[m].eptp != (eptp & EPTP_ROOT_MASK)))
			continue;
		if (hide)
			k->entered[m].hidden = true;
		else
			k->entered[m--] = k->entered[--k->nr_entered];
	}
	for (uint32_t n = 1; n <= k->used; n++) {
		struct l1ept_hold *h = &k->hold[n];

		if (h->vcpu != vcpu || (!all && h->eptp != (eptp & EPTP_ROOT_MASK)))
			continue;
		if (hide) {
			h->hidden = true;
			owed |= h->open && !h->owed_to;
			if (h->open && !h->owed_to)
				h->owed_to = (uint32_t)k->hidden;
		} else if (h->open) {
			if (h->reached && !h->said)
				l1ept_report_reachable(k, h);
			hold_free(k, n); /* its mapping is gone */
		} else {
			h->dormant = true;
		}
	}
	k->hidden_owed += owed;
	pthread_mutex_unlock(&k->lock);
}

/* --- uses --- */

/* Could L2 do it by what was cached, and would it make a difference? */
static bool differs(const struct l1ept_hold *h, unsigned want, const struct guest_walker *gw)
{
	if (!(h->rights & want))
		return false;
	if (h->lost_dirty)
		return want == EPT_WRITE;
	return !gw || gw->gfn << PAGE_SHIFT != h->page;
}

void l1ept_used(struct kvm_vcpu *vcpu, gpa_t gpa, uint32_t access, const struct guest_walker *gw)
{
	unsigned want = access & PFERR_FETCH_MASK ? EPT_EXEC : access & PFERR_WRITE_MASK ? EPT_WRITE : EPT_READ;
	struct l1ept *k = vcpu->kvm->mmu_vm->l1ept;
	uint64_t eptp = current_eptp(vcpu);
	gpa_t page = gpa & PAGE_MASK;
	uint32_t n, next;

	pthread_mutex_lock(&k->lock);
	for (n = k->by_page[page_hash(vcpu, page)]; n; n = next) {
		struct l1ept_hold *h = &k->hold[n];

		next = h->next_page;
		if (h->vcpu != vcpu || h->gpa != page || h->eptp != eptp)
			continue;
		if (h->open && !h->said && differs(h, want, gw)) {
			if (is_settled(h))
				l1ept_report(k, vcpu, h, want, h->lost_dirty ? ", whose dirty flag in EPT12 was cleared and would stay so" :
				       gw ? ", and now goes to another" : ", which EPT12 no longer allows");
			else
				k->in_window++;
		}
		if (!gw)
			hold_free(k, n); /* the violation that L1 hears of invalidates it */
	}
	if (gw)
		add(k, vcpu, page, gw);
	pthread_mutex_unlock(&k->lock);
}
