/*
 * The sanitizer of L1's INVVPIDs: its hooks in the processor. See l1vpid.h, which has the invariants.
 *
 * Locks: none but the machine's, to look at the other processors.
 */
#include "cpu/l1vpid_internal.h"
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
	(*out)->strict = params_has_word("USERKVM_CHECK", "strict");
	(*out)->stored = vpids ? own_pages(L1VPID_STORED_BYTES) : NULL;
	if (vpids && !(*out)->stored) {
		own_free(*out);
		*out = NULL;
		return err_born(ENOMEM, "no memory for what an L2 may store to");
	}
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
	if (m->stored)
		own_pages_free(m->stored);
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

/* Of the address, in the address space that is loaded. */
static bool is_of(const struct vmx_cpu *cpu, const struct l1vpid_hold *h, gva_t gva)
{
	return l1vpid_is_current(cpu->tlb->l1vpid, l1vpid_dir_of(cpu->tlb->l1vpid, h)) && h->gva == (gva & PAGE_MASK) &&
	       (h->global || h->pcid == cpu_pcid(&cpu->cs, cpu->cs.cr3));
}

/* --- invalidations --- */

static bool covers(const struct tlb_scope *s, const struct l1vpid_hold *h)
{
	if (s->one_address && !l1vpid_at(h, s->gva))
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
	if (s->one_address) {
		static const uint8_t shifts[] = L1VPID_SHIFTS;

		for (unsigned k = 0; k < ARRAY_SIZE(shifts); k++)
			for (uint32_t n = l1vpid_next(l, s->gva, shifts[k], 0), next; n; n = next) {
				next = l1vpid_next(l, s->gva, shifts[k], n);
				if (l1vpid_dir_of(l, &l->hold[n])->vpid == l->now.vpid && covers(s, &l->hold[n]))
					l1vpid_free(l, n);
			}
		return;
	}
	for (uint32_t n = 1; n <= l->used_holds; n++)
		if (l->hold[n].live && l1vpid_dir_of(l, &l->hold[n])->vpid == l->now.vpid && covers(s, &l->hold[n]))
			l1vpid_free(l, n);
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
	for (uint32_t n = 1; n <= l->used_holds; n++) {
		struct l1vpid_hold *h = &l->hold[n];

		if (!h->live || (type != INVVPID_ALL_CONTEXT && l1vpid_dir_of(l, h)->vpid != vpid) ||
		    (type == INVVPID_INDIVIDUAL_ADDRESS && !l1vpid_at(h, gva)) ||
		    (type == INVVPID_SINGLE_CONTEXT_RETAINING_GLOBALS && h->global))
			continue;
		if (hide)
			h->hidden = true;
		else if (h->open && h->reached)
			l1vpid_report_reachable(cpu, h);
		if (!hide)
			l1vpid_free(l, n);
	}
}

/* Combined mappings only: those of an L2 with EPT. */
void vmx_check_l1_invept(struct vmx_cpu *cpu, bool all, uint64_t eptp)
{
	struct l1vpid *l = cpu->tlb->l1vpid;

	if (likely(!l))
		return;
	for (uint32_t n = 1; n <= l->used_holds; n++)
		if (l->hold[n].live && l1vpid_dir_of(l, &l->hold[n])->eptp &&
		    (all || l1vpid_dir_of(l, &l->hold[n])->eptp == (eptp & EPTP_ROOT_MASK)))
			l1vpid_free(l, n);
}

/* --- what has changed --- */

uint64_t vmx_check_l1_lstar(const struct vmx_cpu *cpu)
{
	return cpu->tlb->l1vpid ? __atomic_load_n(&cpu->tlb->l1vpid->m->lstar, __ATOMIC_RELAXED) : 0;
}

void vmx_check_l2_enters(struct vmx_cpu *cpu, const struct vmx_check_l2 *with)
{
	struct l1vpid *l = cpu->tlb->l1vpid;
	uint64_t now = __rdtsc();

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
	l1vpid_compare_entry(cpu, now);
}

void vmx_check_l2_left(struct vmx_cpu *cpu, uint64_t cr3, uint64_t cr4, bool violation, gva_t gva)
{
	struct l1vpid *l = cpu->tlb->l1vpid;
	static const uint8_t shifts[] = L1VPID_SHIFTS;
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
	/* an EPT violation ends the combined mappings of its address */
	for (unsigned k = 0; violation && k < ARRAY_SIZE(shifts); k++)
		for (uint32_t n = l1vpid_next(l, gva, shifts[k], 0), next; n; n = next) {
			next = l1vpid_next(l, gva, shifts[k], n);
			if (l1vpid_is_current(l, l1vpid_dir_of(l, &l->hold[n])))
				l1vpid_free(l, n);
		}
	l1vpid_compare_exit(cpu);
	r = l1vpid_root_of(l);
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

/* An access by what may be cached. now: where it goes; NULL: a page fault. False: a later use is to tell. */
static bool use_one(struct vmx_cpu *cpu, struct l1vpid_hold *h, gva_t gva, uint32_t access, enum cpu_priv priv,
		    const struct cpu_walk_result *now)
{
	struct l1vpid *l = cpu->tlb->l1vpid;

	if (!h->open || (now && (now->gpa & PAGE_MASK) == h->gpa) || !allowed(cpu, h, access, priv))
		return true;
	if (h->settled)
		l1vpid_report(cpu, h, gva, access, now);
	else
		l->m->in_window++;
	return h->settled || !now;
}

/* What has been used so, or is granted again, is held no longer. */
static void used(struct vmx_cpu *cpu, gva_t gva, uint32_t access, enum cpu_priv priv, const struct cpu_walk_result *now)
{
	static const uint8_t shifts[] = L1VPID_SHIFTS;
	struct l1vpid *l = cpu->tlb->l1vpid;

	for (unsigned k = 0; k < ARRAY_SIZE(shifts); k++)
		for (uint32_t n = l1vpid_next(l, gva, shifts[k], 0), next; n; n = next) {
			next = l1vpid_next(l, gva, shifts[k], n);
			if (is_of(cpu, &l->hold[n], gva) && use_one(cpu, &l->hold[n], gva, access, priv, now))
				l1vpid_free(l, n);
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

	if (l->last_l2 == ~0ULL && l->m->vpids && r->rights & CPU_WRITE)
		l1vpid_note_stored(l->m, r->host);
	if (!l->active)
		return;
	watch_registers(cpu);
	if (!(cpu->cs.cr0 & X86_CR0_PG))
		return;
	used(cpu, gva, access, priv, r);
	h = l1vpid_add(l, gva, w, r, cpu->cs.cr4 & X86_CR4_PAE ? 8 : 4);
	h->pcid = cpu_pcid(&cpu->cs, cpu->cs.cr3);
	h->cr3 = cpu->cs.cr3;
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
