/*
 * The sanitizer of L1's INVVPIDs: see l1vpid.h, which has the invariants. What it tells: l1vpid_report.c.
 *
 *	by_page[hash(L2's page)] ─► hold ─► …
 *
 * Locks: none but the machine's, to look at the other processors.
 */
#include "cpu/l1vpid_internal.h"
#include "host/fault.h"
#include "lib/error.h"
#include "lib/own.h"
#include "lib/params.h"

#include <stdlib.h>
#include <x86intrin.h>

int l1vpid_create(struct l1vpid_machine **out)
{
	const char *deaf = getenv("USERKVM_GHOST_DEAF");
	bool vpids = params_has_word("USERKVM_CHECK", "l1vpid");

	*out = NULL;
	if (!vpids && !params_has_word("USERKVM_CHECK", "l1ept"))
		return 0;
	*out = own_calloc(1, sizeof(**out));
	if (!*out)
		return err_born(ENOMEM, "no memory for the sanitizer of INVVPIDs");
	(*out)->deaf = deaf ? (unsigned)strtoul(deaf, NULL, 0) : 0;
	(*out)->vpids = vpids;
	if (vpids)
		l1vpid_report_open(*out);
	return 0;
}

void l1vpid_destroy(struct l1vpid_machine *m)
{
	if (!m)
		return;
	if (m->vpids)
		l1vpid_report_end(m);
	own_free(m);
}

int l1vpid_cpu_create(struct vmx_cpu *cpu)
{
	struct l1vpid *l;

	if (!cpu->machine->l1vpid)
		return 0;
	l = own_pages(sizeof(*l));
	if (!l)
		return err_born(ENOMEM, "no memory for what an L2 may have cached");
	l->m = cpu->machine->l1vpid;
	cpu->tlb->l1vpid = l;
	if (l->m->vpids && !cpu->tlb->path)
		cpu->tlb->path = &l->walk;
	return 0;
}

void l1vpid_cpu_destroy(struct vmx_cpu *cpu)
{
	if (!cpu->tlb || !cpu->tlb->l1vpid)
		return;
	own_pages_free(cpu->tlb->l1vpid);
	cpu->tlb->l1vpid = NULL;
	cpu->tlb->path = NULL;
}

/* --- who checks --- */

bool vmx_checks_l1vpid(const struct vmx_cpu *cpu)
{
	return cpu->tlb->l1vpid && cpu->tlb->l1vpid->m->vpids;
}

/* --- holds --- */

static uint32_t *bucket(struct l1vpid *l, gva_t gva)
{
	return &l->by_page[(uint32_t)((gva >> PAGE_SHIFT) * 0x9e3779b97f4a7c15ULL >> 54)];
}

static void hold_free(struct l1vpid *l, uint32_t n)
{
	uint32_t *link = bucket(l, l->hold[n].gva);

	while (*link && *link != n)
		link = &l->hold[*link].next;
	if (*link)
		*link = l->hold[n].next;
	l->hold[n].live = false;
}

static uint32_t hold_alloc(struct l1vpid *l)
{
	if (l->used < L1VPID_HOLDS)
		return ++l->used;
	l->hand = l->hand % L1VPID_HOLDS + 1;
	if (l->hold[l->hand].live) {
		l->m->forgotten++;
		hold_free(l, l->hand);
	}
	return l->hand;
}

static bool of_this_guest(const struct l1vpid *l, const struct l1vpid_hold *h)
{
	return h->live && h->vpid == l->now.vpid && h->eptp == l->now.eptp;
}

/* Of the address, in the address space that is loaded. */
static bool is_of(const struct vmx_cpu *cpu, const struct l1vpid_hold *h, gva_t gva)
{
	return of_this_guest(cpu->tlb->l1vpid, h) && h->gva == (gva & PAGE_MASK) &&
	       (h->global || h->pcid == cpu_pcid(&cpu->cs, cpu->cs.cr3));
}

/* --- invalidations --- */

/* A page of the scope's, or all; of the hold's own size. */
static bool at_address(const struct l1vpid_hold *h, gva_t gva)
{
	return !((h->gva ^ gva) >> h->shift);
}

static bool covers(const struct tlb_scope *s, const struct l1vpid_hold *h)
{
	if (s->one_address && !at_address(h, s->gva))
		return false;
	if (h->global)
		return !s->keeps_globals;
	return s->every_pcid || h->pcid == s->pcid;
}

void l1vpid_scope(struct vmx_cpu *cpu, const struct tlb_scope *s)
{
	struct l1vpid *l = cpu->tlb->l1vpid;

	if (!l->active || !cpu->in_guest || s->guest_physical || s->combined)
		return;
	for (uint32_t n = 1; n <= l->used; n++)
		if (l->hold[n].live && l->hold[n].vpid == l->now.vpid && covers(s, &l->hold[n]))
			hold_free(l, n);
}

/* MOV CR0 and MOV CR4 of L2's own; what L1 has loaded is no such instruction. */
static void watch_registers(struct vmx_cpu *cpu)
{
	struct l1vpid *l = cpu->tlb->l1vpid;
	struct tlb_scope s;

	if (l->cr0 == cpu->cs.cr0 && l->cr4 == cpu->cs.cr4)
		return;
	if (l->seen_registers && tlb_scope_of_registers(cpu, l->cr0, l->cr4, &s))
		l1vpid_scope(cpu, &s);
	l->cr0 = cpu->cs.cr0;
	l->cr4 = cpu->cs.cr4;
	l->seen_registers = true;
}

void vmx_check_l1_invvpid(struct vmx_cpu *cpu, uint64_t type, uint16_t vpid, gva_t gva)
{
	struct l1vpid *l = cpu->tlb->l1vpid;
	bool hide;

	if (likely(!l))
		return;
	hide = l->m->deaf && ++l->m->deaf_count % l->m->deaf == 0;
	l->m->hidden += hide;
	for (uint32_t n = 1; n <= l->used; n++) {
		struct l1vpid_hold *h = &l->hold[n];

		if (!h->live || (type != INVVPID_ALL_CONTEXT && h->vpid != vpid) ||
		    (type == INVVPID_INDIVIDUAL_ADDRESS && !at_address(h, gva)) ||
		    (type == INVVPID_SINGLE_CONTEXT_RETAINING_GLOBALS && h->global))
			continue;
		if (hide)
			h->hidden = true;
		else
			hold_free(l, n);
	}
}

/* Combined mappings only: those of an L2 with EPT. */
void vmx_check_l1_invept(struct vmx_cpu *cpu, bool all, uint64_t eptp)
{
	struct l1vpid *l = cpu->tlb->l1vpid;

	if (likely(!l))
		return;
	for (uint32_t n = 1; n <= l->used; n++)
		if (l->hold[n].live && l->hold[n].eptp && (all || l->hold[n].eptp == (eptp & EPTP_ROOT_MASK)))
			hold_free(l, n);
}

/* --- what has changed --- */

/* The first entry of the path that is another now, A and D apart; nr: none. Unreadable counts as another. */
static unsigned changed_entry(const struct l1vpid_hold *h, uint64_t *now)
{
	unsigned n;

	for (n = 0; n < h->nr; n++) {
		*now = 0;
		if (host_copy_from(now, (const void *)h->e[n].host, h->entry_size) || ((*now ^ h->e[n].val) & ~(PTE_A | PTE_D)))
			break;
	}
	return n;
}

static bool calm_since(const struct l1vpid *o, uint64_t when)
{
	return __atomic_load_n(&o->calm, __ATOMIC_ACQUIRE) || __atomic_load_n(&o->last_calm, __ATOMIC_ACQUIRE) > when;
}

bool vmx_check_calm_since(const struct vmx_cpu *cpu, uint64_t when)
{
	return cpu->tlb->l1vpid && calm_since(cpu->tlb->l1vpid, when);
}

uint64_t vmx_check_l1_lstar(const struct vmx_cpu *cpu)
{
	return cpu->tlb->l1vpid ? __atomic_load_n(&cpu->tlb->l1vpid->m->lstar, __ATOMIC_RELAXED) : 0;
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

static struct l1vpid_root *root_of(struct l1vpid *l)
{
	for (unsigned n = 0; n < L1VPID_ROOTS; n++)
		if (l->root[n].used && l->root[n].vpid == l->now.vpid && l->root[n].eptp == l->now.eptp)
			return &l->root[n];
	return NULL;
}

static void open_record(struct l1vpid *l, struct l1vpid_hold *h, unsigned entry, uint64_t now, uint64_t when)
{
	h->open = true;
	h->settled = h->said = false;
	h->when = when;
	h->changed = (uint8_t)entry;
	h->new = now;
	h->l1_rip = l->now.l1_rip;
	l->m->records++;
}

/* GUEST_CR3 is another one than L2 had, of the same PCID: by MOV CR3 the PCID's translations would be gone. */
static void compare_root(struct l1vpid *l, uint64_t now)
{
	const struct l1vpid_root *r = root_of(l);
	uint16_t pcid = l->now.cr4 & X86_CR4_PCIDE ? l->now.cr3 & 0xfff : 0, old;

	if (!r || !((r->cr3 ^ l->now.cr3) & PTE_ADDR_MASK))
		return;
	old = r->cr4 & X86_CR4_PCIDE ? r->cr3 & 0xfff : 0;
	for (uint32_t n = 1; n <= l->used && old == pcid; n++) {
		struct l1vpid_hold *h = &l->hold[n];

		if (!of_this_guest(l, h) || h->global || h->pcid != pcid || h->open || !((h->cr3 ^ l->now.cr3) & PTE_ADDR_MASK))
			continue;
		open_record(l, h, h->nr, l->now.cr3, now);
		h->settled = true; /* this vCPU's own VMCS */
	}
}

void vmx_check_l2_enters(struct vmx_cpu *cpu, const struct vmx_check_l2 *with)
{
	struct l1vpid *l = cpu->tlb->l1vpid;
	uint64_t now = __rdtsc();
	bool foreign;

	if (likely(!l))
		return;
	l->now = *with;
	l->now.eptp &= EPTP_ROOT_MASK;
	l->seen_registers = false;
	__atomic_store_n(&l->last_l2, ~0ULL, __ATOMIC_RELEASE);
	__atomic_store_n(&l->calm, true, __ATOMIC_RELEASE);
	l->active = with->vpid && l->m->vpids;
	if (!l->active)
		return; /* without a VPID the VM entry invalidates */
	foreign = others_ran_l2(cpu, l->left);
	compare_root(l, now);
	for (uint32_t n = 1; n <= l->used; n++) {
		struct l1vpid_hold *h = &l->hold[n];
		uint64_t value;
		unsigned e;

		if (!of_this_guest(l, h))
			continue;
		if (h->open) {
			h->settled |= others_calm(cpu, h->when);
			continue;
		}
		e = changed_entry(h, &value);
		if (e == h->nr)
			continue;
		if (foreign) {
			l->m->forgotten++;
			hold_free(l, n);
			continue;
		}
		open_record(l, h, e, value, now);
		h->settled = others_calm(cpu, now);
	}
}

void vmx_check_l2_left(struct vmx_cpu *cpu, uint64_t cr3, uint64_t cr4, bool violation, gva_t gva)
{
	struct l1vpid *l = cpu->tlb->l1vpid;
	struct l1vpid_root *r;

	if (likely(!l))
		return;
	l->left = __rdtsc();
	__atomic_store_n(&l->last_l2, l->left, __ATOMIC_RELEASE);
	__atomic_store_n(&l->last_calm, l->left, __ATOMIC_RELEASE);
	__atomic_store_n(&l->calm, false, __ATOMIC_RELEASE);
	if (!l->active)
		return;
	l->active = false;
	for (uint32_t n = 1; n <= l->used; n++) {
		struct l1vpid_hold *h = &l->hold[n];
		uint64_t value;

		/* an EPT violation ends the combined mappings of its address */
		if (of_this_guest(l, h) && ((violation && at_address(h, gva)) || (!h->open && changed_entry(h, &value) != h->nr)))
			hold_free(l, n);
	}
	r = root_of(l);
	if (!r)
		r = &l->root[l->next_root++ % L1VPID_ROOTS];
	*r = (struct l1vpid_root){ true, l->now.vpid, l->now.eptp, cr3, cr4 };
}

/* --- uses --- */

/* Would the old translation have allowed it? */
static bool allowed(const struct vmx_cpu *cpu, const struct l1vpid_hold *h, uint32_t access, enum cpu_priv priv)
{
	uint64_t cr4 = cpu->cs.cr4;

	if ((access & CPU_WRITE && !(h->rights & PTE_RW)) || (access & CPU_EXEC && h->rights & PTE_XD))
		return false;
	if (priv == PRIV_USER)
		return h->rights & PTE_US;
	return !(h->rights & PTE_US) || !(access & CPU_EXEC ? cr4 & X86_CR4_SMEP : priv == PRIV_SUPER_SMAP);
}

/* now: where it goes; NULL: a page fault. What has been used so, or is granted again, is held no longer. */
static void used(struct vmx_cpu *cpu, gva_t gva, uint32_t access, enum cpu_priv priv, const struct cpu_walk_result *now)
{
	struct l1vpid *l = cpu->tlb->l1vpid;
	uint32_t n, next;

	for (n = *bucket(l, gva); n; n = next) {
		struct l1vpid_hold *h = &l->hold[n];
		bool differs;

		next = h->next;
		if (!is_of(cpu, h, gva))
			continue;
		differs = h->open && (!now || (now->gpa & PAGE_MASK) != h->gpa) && allowed(cpu, h, access, priv);
		if (differs && !h->settled && now) {
			l->m->in_window++;
			continue; /* a later use tells */
		}
		if (differs && h->settled)
			l1vpid_report(cpu, h, gva, access, now);
		else if (differs)
			l->m->in_window++;
		hold_free(l, n);
	}
}

void l1vpid_fault(struct vmx_cpu *cpu, gva_t gva, uint32_t access, enum cpu_priv priv)
{
	if (!cpu->tlb->l1vpid->active)
		return;
	watch_registers(cpu);
	used(cpu, gva, access, priv, NULL);
}

void l1vpid_filled(struct vmx_cpu *cpu, gva_t gva, uint32_t access, enum cpu_priv priv, const struct cpu_walk_result *r)
{
	struct l1vpid *l = cpu->tlb->l1vpid;
	const struct ghost_walk *w = cpu->tlb->path;
	struct l1vpid_hold *h;
	uint32_t n;

	if (!l->active)
		return;
	watch_registers(cpu);
	if (!(cpu->cs.cr0 & X86_CR0_PG))
		return;
	used(cpu, gva, access, priv, r);
	n = hold_alloc(l);
	h = &l->hold[n];
	h->live = true;
	h->open = h->settled = h->said = h->hidden = false;
	h->global = r->global;
	h->vpid = l->now.vpid;
	h->eptp = l->now.eptp;
	h->pcid = cpu_pcid(&cpu->cs, cpu->cs.cr3);
	h->cr3 = cpu->cs.cr3;
	h->gva = gva & PAGE_MASK;
	h->gpa = r->gpa & PAGE_MASK;
	h->rights = w->rights;
	h->shift = r->page_shift;
	h->entry_size = cpu->cs.cr4 & X86_CR4_PAE ? 8 : 4;
	h->nr = (uint8_t)w->nr;
	for (unsigned k = 0; k < w->nr; k++) {
		h->e[k].gpa = w->gpa[k];
		h->e[k].host = w->host[k];
		h->e[k].val = w->val[k];
	}
	h->next = *bucket(l, gva);
	*bucket(l, gva) = n;
}

/* --- calm --- */

static void set_calm(struct l1vpid *l, bool calm)
{
	if (l->calm && !calm)
		__atomic_store_n(&l->last_calm, __rdtsc(), __ATOMIC_RELEASE);
	__atomic_store_n(&l->calm, calm, __ATOMIC_RELEASE);
}

void l1vpid_mode_changed(struct vmx_cpu *cpu)
{
	struct l1vpid *l = cpu->tlb->l1vpid;

	if (l->active)
		watch_registers(cpu);
	set_calm(l, l->last_l2 == ~0ULL || cpu->cs.cpl == 3);
	if (l->last_l2 != ~0ULL && cpu->cs.cpl == 3 && l->m->lstar != cpu->msr.lstar)
		__atomic_store_n(&l->m->lstar, cpu->msr.lstar, __ATOMIC_RELAXED);
}

void l1vpid_left(struct vmx_cpu *cpu, bool halted)
{
	if (halted)
		set_calm(cpu->tlb->l1vpid, true);
}
