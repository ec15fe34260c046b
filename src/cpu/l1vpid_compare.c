/*
 * What has changed of what an L2 may have cached, and whose doing it is. Each table is read once, at L2's entries and
 * exits, and compared with the entries that walks have read there.
 *
 *	L2 leaves ─► l1vpid_compare_exit(): by L2 itself, and no business of L1's
 *	L1 enters ─► l1vpid_compare_entry(): by L1: open
 *
 * Invariants
 * 1. A change of a path whose tables no L2 can have stored to is L1's at any time: those of shadow page tables. An L2 may
 *    have stored to a frame that some walk of an L2's has given it to write.
 * 2. A change of others counts as L1's only where no other processor ran an L2 meanwhile: otherwise it is forgotten.
 *
 * Locks: none but the machine's, to look at the other processors; m->stored is atomic.
 */
#include "cpu/l1vpid_internal.h"
#include "host/fault.h"

/* --- frames that an L2 may store to --- */

#define STORED_FRAMES (1U << 22) /* of 16 GiB in a row each has a bit of its own */
static_assert(STORED_FRAMES / 8 == L1VPID_STORED_BYTES, "a bit for each");

static uint32_t stored_bit(hpa_t host)
{
	return (uint32_t)(host >> PAGE_SHIFT) % STORED_FRAMES;
}

void l1vpid_note_stored(struct l1vpid_machine *m, hpa_t host)
{
	uint32_t n = stored_bit(host), bit = 1U << n % 32, *at = &m->stored[n / 32];

	if (!(__atomic_load_n(at, __ATOMIC_RELAXED) & bit))
		__atomic_fetch_or(at, bit, __ATOMIC_RELEASE);
}

static bool may_be_stored(const struct l1vpid_machine *m, hpa_t host)
{
	uint32_t n = stored_bit(host);

	return __atomic_load_n(&m->stored[n / 32], __ATOMIC_ACQUIRE) >> n % 32 & 1;
}

static bool l2_may_change(const struct l1vpid_machine *m, const struct l1vpid_dir *d)
{
	bool any = may_be_stored(m, d->host);

	for (unsigned k = 0; k < d->nr; k++)
		any |= may_be_stored(m, d->e[k].host);
	return any;
}

/* --- other processors --- */

static bool calm_since(const struct l1vpid *o, uint64_t when)
{
	return __atomic_load_n(&o->calm, __ATOMIC_ACQUIRE) || __atomic_load_n(&o->last_calm, __ATOMIC_ACQUIRE) > when;
}

bool vmx_check_calm_since(const struct vmx_cpu *cpu, uint64_t when)
{
	return cpu->tlb->l1vpid && calm_since(cpu->tlb->l1vpid, when);
}

/* Every other processor's L1 has gone on to something else since. */
static bool others_calm(struct vmx_cpu *cpu, uint64_t when)
{
	bool all = true;

	machine_lock(cpu->machine);
	for (struct vmx_cpu *o = cpu->machine->cpus; o; o = o->next)
		if (o != cpu && o->tlb->l1vpid && !calm_since(o->tlb->l1vpid, when))
			all = false;
	machine_unlock(cpu->machine);
	return all;
}

static bool others_ran_l2(struct vmx_cpu *cpu, uint64_t since)
{
	bool any = false;

	machine_lock(cpu->machine);
	for (struct vmx_cpu *o = cpu->machine->cpus; o; o = o->next)
		any |= o != cpu && o->tlb->l1vpid && __atomic_load_n(&o->tlb->l1vpid->last_l2, __ATOMIC_ACQUIRE) > since;
	machine_unlock(cpu->machine);
	return any;
}

/* --- comparing --- */

/* An entry as it is now, but for A and D; unreadable counts as another. */
static bool is_other(uint64_t now, uint64_t old)
{
	return (now ^ old) & ~(PTE_A | PTE_D);
}

/* The first entry above the last that is another now; nr: none. */
static unsigned changed_above(const struct l1vpid_dir *d, uint64_t *now)
{
	unsigned k;

	for (k = 0; k < d->nr; k++) {
		*now = 0;
		if (host_copy_from(now, (const void *)d->e[k].host, d->entry_size) || is_other(*now, d->e[k].val))
			break;
	}
	return k;
}

static void read_table(struct l1vpid *l, const struct l1vpid_dir *d)
{
	if (!host_copy_from(l->page, (const void *)d->host, sizeof(l->page)))
		return;
	for (unsigned k = 0; k < ARRAY_SIZE(l->page); k++)
		l->page[k] = 0;
}

/* The last entry, of the table that was read. */
static uint64_t last_entry(const struct l1vpid *l, const struct l1vpid_dir *d, const struct l1vpid_hold *h)
{
	return d->entry_size == 8 ? l->page[h->offset / 8] : ((const uint32_t *)l->page)[h->offset / 4];
}

static void open_record(struct l1vpid *l, struct l1vpid_hold *h, unsigned entry, uint64_t now, uint64_t when)
{
	h->open = true;
	h->settled = h->reached = false;
	h->lost = false;
	h->when = when;
	h->changed = (uint8_t)entry;
	h->new = now;
	h->l1_rip = l->now.l1_rip;
	l->m->records++;
}

struct l1vpid_root *l1vpid_root_of(struct l1vpid *l)
{
	for (unsigned n = 0; n < L1VPID_ROOTS; n++)
		if (l->root[n].used && l->root[n].vpid == l->now.vpid && l->root[n].eptp == l->now.eptp)
			return &l->root[n];
	return NULL;
}

/* GUEST_CR3 is another one than L2 had, of the same PCID: by MOV CR3 the PCID's translations would be gone. */
static void compare_root(struct l1vpid *l, uint64_t now)
{
	const struct l1vpid_root *r = l1vpid_root_of(l);
	uint16_t pcid = l->now.cr4 & X86_CR4_PCIDE ? l->now.cr3 & 0xfff : 0, old;

	if (!r || !((r->cr3 ^ l->now.cr3) & PTE_ADDR_MASK))
		return;
	old = r->cr4 & X86_CR4_PCIDE ? r->cr3 & 0xfff : 0;
	for (uint32_t d = 1; d <= l->used_dirs && old == pcid; d++)
		for (uint32_t n = l1vpid_is_current(l, &l->dir[d]) ? l->dir[d].first : 0; n; n = l->hold[n].dnext) {
			struct l1vpid_hold *h = &l->hold[n];

			if (h->global || h->pcid != pcid || h->open || !((h->cr3 ^ l->now.cr3) & PTE_ADDR_MASK))
				continue;
			open_record(l, h, l->dir[d].nr + 1, l->now.cr3, now);
			h->settled = true; /* this vCPU's own VMCS */
		}
}

/* Is the entry's page another now, or are there fewer rights? Of an entry above the last: is it gone? */
static bool grants_less(const struct l1vpid_dir *d, const struct l1vpid_hold *h, unsigned above, uint64_t now)
{
	uint64_t frame = d->entry_size == 8 ? PTE_ADDR_MASK : 0xfffff000;

	if (!(now & PTE_P) || above < d->nr)
		return !(now & PTE_P);
	return (now ^ h->val) & frame || (h->val & ~now) & (PTE_RW | PTE_US) || (now & ~h->val) & PTE_XD;
}

/* L2 is about to run with it in reach. Where it did so before, that is told, and it is held no longer. */
static void in_reach(struct vmx_cpu *cpu, uint32_t n)
{
	struct l1vpid *l = cpu->tlb->l1vpid;
	struct l1vpid_hold *h = &l->hold[n];

	if (!l->m->strict || !h->settled || !h->lost)
		return;
	if (h->reached) {
		l1vpid_report_reachable(cpu, h);
		l1vpid_free(l, n);
		return;
	}
	h->reached = true;
}

/* At L2's entry, now: at its exit 0. l2s: L2 itself may have made the change, on this processor or on another. */
static void compare(struct vmx_cpu *cpu, uint32_t dir, bool l2s, uint64_t now)
{
	struct l1vpid *l = cpu->tlb->l1vpid;
	const struct l1vpid_dir *d = &l->dir[dir];
	uint64_t value;
	unsigned above = changed_above(d, &value);
	uint32_t next;

	if (above == d->nr)
		read_table(l, d);
	for (uint32_t n = d->first; n; n = next) {
		struct l1vpid_hold *h = &l->hold[n];

		next = h->dnext;
		if (h->open) {
			h->settled |= now && others_calm(cpu, h->when);
			if (now)
				in_reach(cpu, n);
			continue;
		}
		if (above == d->nr) {
			value = last_entry(l, d, h);
			if (!is_other(value, h->val))
				continue;
		}
		if (l2s) {
			l->m->forgotten += now != 0;
			l1vpid_free(l, n);
			continue;
		}
		open_record(l, h, above, value, now);
		h->lost = grants_less(d, h, above, value);
		h->settled = others_calm(cpu, now);
		in_reach(cpu, n);
	}
}

void l1vpid_compare_entry(struct vmx_cpu *cpu, uint64_t now)
{
	struct l1vpid *l = cpu->tlb->l1vpid;
	bool others = others_ran_l2(cpu, l->left);

	compare_root(l, now);
	for (uint32_t d = 1; d <= l->used_dirs; d++)
		if (l1vpid_is_current(l, &l->dir[d]))
			compare(cpu, d, others && l2_may_change(l->m, &l->dir[d]), now);
}

void l1vpid_compare_exit(struct vmx_cpu *cpu)
{
	struct l1vpid *l = cpu->tlb->l1vpid;

	for (uint32_t d = 1; d <= l->used_dirs; d++)
		if (l1vpid_is_current(l, &l->dir[d]) && l2_may_change(l->m, &l->dir[d]))
			compare(cpu, d, true, 0);
}
