/*
 * What drops translations: the instructions and VM entries that say so, other processors and memory that ask, and
 * the faults that invalidate what they found. (SDM vol. 3, "Invalidation of TLBs and Paging-Structure
 * Caches", "Operations that Invalidate Cached Mappings".)
 *
 * Invariants: those of tlb.c. The checkers (ghost.h, tlb_check.h) are told of an invalidation before it is done.
 *
 * Locks: none, owner thread only.
 */
#include "cpu/ghost.h"
#include "cpu/jit.h"
#include "cpu/l1vpid.h"
#include "cpu/tlb_check.h"
#include "cpu/tlb_context.h"
#include "sdm/ept.h"
#include "sdm/paging.h"

/*
 * Emitted code that leads to gva's page through a translation of its own: it may be
 * there though the entry with the exec tag has been replaced. Of a larger page all
 * parts may.
 */
static void forget_code(struct vmx_cpu *cpu, gva_t gva)
{
	bool large = false, huge = false;

	if (likely(!cpu->jit))
		return;
	for (unsigned n = 0; n < TLB_NR_CONTEXTS; n++) {
		const struct tlb_context *c = &cpu->tlb->ctx[n];

		large |= c->used && tlb_large_has(c, gva, 21);
		huge |= c->used && tlb_large_has(c, gva, 30);
	}
	if (large || huge)
		jit_forget_around(cpu->jit, gva, huge ? 30 : 22);
	else
		jit_forget_lin(cpu->jit, gva);
}

/* Tell the checkers what is asked, before anything is done about it. */
static void note(struct vmx_cpu *cpu, struct tlb_scope s)
{
	if (unlikely(cpu->tlb->ghost))
		ghost_scope(cpu, &s);
	if (unlikely(cpu->tlb->l1vpid))
		l1vpid_scope(cpu, &s);
	if (unlikely(cpu->tlb->check))
		tlb_check_invalidated(cpu, &s);
}

void cpu_tlb_flush_all(struct vmx_cpu *cpu)
{
	struct cpu_tlb *t = cpu->tlb;

	cpu->counters.tlb_flushes++;
	for (unsigned n = 0; n < TLB_NR_CONTEXTS; n++)
		if (t->ctx[n].used && t->ctx[n].vpid == cpu->vpid)
			tlb_flush_context(&t->ctx[n]);
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
			tlb_flush_nonglobal(c);
	}
}

void cpu_tlb_invlpg(struct vmx_cpu *cpu, gva_t gva)
{
	struct cpu_tlb *t = cpu->tlb;

	forget_code(cpu, gva);
	isa_close_window(&cpu->cs);
	note(cpu, (struct tlb_scope){ .vpid = cpu->vpid, .pcid = cpu_pcid(&cpu->cs, cpu->cs.cr3),
				      .globals_of_every_pcid = true, .every_ep4ta = true,
				      .one_address = true, .every_pde = true, .gva = gva });
	for (unsigned n = 0; n < TLB_NR_CONTEXTS; n++) {
		struct tlb_context *c = &t->ctx[n];

		if (c->used && c->vpid == cpu->vpid)
			tlb_flush_address(c, gva, c->pcid != t->cur->pcid);
	}
}

void cpu_tlb_invpcid(struct vmx_cpu *cpu, unsigned type, uint16_t pcid, gva_t gva)
{
	struct cpu_tlb *t = cpu->tlb;

	if (type == INVPCID_ADDRESS)
		forget_code(cpu, gva);
	isa_close_window(&cpu->cs);
	note(cpu, (struct tlb_scope){ .vpid = cpu->vpid, .pcid = pcid, .gva = gva,
				      .every_pcid = type >= INVPCID_ALL_GLOBAL,
				      .keeps_globals = type != INVPCID_ALL_GLOBAL, .every_ep4ta = true,
				      .one_address = type == INVPCID_ADDRESS });
	cpu->counters.tlb_flushes++;
	for (unsigned n = 0; n < TLB_NR_CONTEXTS; n++) {
		struct tlb_context *c = &t->ctx[n];

		if (!c->used || c->vpid != cpu->vpid)
			continue;
		if (type == INVPCID_ALL_GLOBAL)
			tlb_flush_context(c);
		else if (type == INVPCID_ALL || (type == INVPCID_CONTEXT && c->pcid == pcid))
			tlb_flush_nonglobal(c);
		else if (type == INVPCID_ADDRESS && c->pcid == pcid)
			tlb_flush_address(c, gva, false);
	}
}

void cpu_tlb_entry_flush(struct vmx_cpu *cpu)
{
	note(cpu, (struct tlb_scope){ .every_pcid = true, .every_ep4ta = true });
	for (unsigned n = 0; n < TLB_NR_CONTEXTS; n++)
		if (cpu->tlb->ctx[n].used && cpu->tlb->ctx[n].vpid == 0)
			tlb_flush_context(&cpu->tlb->ctx[n]);
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
static void note_invept(struct vmx_cpu *cpu, uint64_t eptp, bool all)
{
	note(cpu, (struct tlb_scope){ .guest_physical = true, .every_ep4ta = all, .eptp = eptp });
	note(cpu, (struct tlb_scope){ .combined = true, .every_vpid = true, .every_pcid = true,
				      .every_ep4ta = all, .eptp = eptp });
}

void vmx_invept_forgotten(struct vmx_cpu *cpu, uint64_t type, uint64_t eptp)
{
	note_invept(cpu, eptp, type == INVEPT_ALL_CONTEXT);
}

void cpu_tlb_drop_ept(struct vmx_cpu *cpu, uint64_t eptp, bool all)
{
	struct cpu_tlb *t = cpu->tlb;

	cpu->load_rest = true; /* the next entry chooses a context again */
	note_invept(cpu, eptp, all);
	cpu->counters.tlb_flushes++;
	drop_guest_physical(t);
	for (unsigned n = 0; n < TLB_NR_CONTEXTS; n++) {
		struct tlb_context *c = &t->ctx[n];

		/* EP4TA: bits 51:12 of the EPTP */
		if (c->used && c->eptp && (all || !((c->eptp ^ eptp) & EPTP_ROOT_MASK)))
			tlb_flush_context(c);
	}
}

void cpu_tlb_drop_vpid(struct vmx_cpu *cpu, unsigned type, uint16_t vpid, gva_t gla)
{
	cpu->load_rest = true;
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
			tlb_flush_address(c, gla, false);
		else if (type == INVVPID_SINGLE_CONTEXT_RETAINING_GLOBALS)
			tlb_flush_nonglobal(c);
		else
			tlb_flush_context(c);
	}
}

void cpu_tlb_drop_write(struct vmx_cpu *cpu, hpa_t page)
{
	tlb_drop_stack_slot(&cpu->cs);
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
	tlb_drop_stack_slot(&cpu->cs);
	isa_close_window(&cpu->cs);
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
		tlb_drop_stack_slot(&cpu->cs);
		isa_close_window(&cpu->cs);
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
				tlb_flush_address(&cpu->tlb->ctx[n], d[k].address, false);
	}
	for (unsigned n = 0; all && n < TLB_NR_CONTEXTS; n++)
		if (cpu->tlb->ctx[n].used)
			tlb_flush_context(&cpu->tlb->ctx[n]);
	isa_close_window(&cpu->cs);
}

/* --- what faults invalidate --- */

/* The 4 KiB page of gva, whatever page it is part of, and its PDE. */
static void drop_page(struct tlb_context *c, gva_t gva)
{
	unsigned index = (unsigned)(gva >> PAGE_SHIFT) & (ISA_TLB_ENTRIES - 1);
	struct pde_cache_entry *pde = &c->pde[(gva >> 21) & (PDE_CACHE_ENTRIES - 1)];

	tlb_drop_stack_slot(c->cs);
	for (int p = 0; p < NR_PRIVS; p++) {
		if (tlb_page_of(&c->sub[p].e[index]) == (gva & PAGE_MASK))
			tlb_clear_entry(&c->sub[p], index);
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
	isa_close_window(&cpu->cs);
	note(cpu, (struct tlb_scope){ .vpid = cpu->vpid, .pcid = cpu_pcid(&cpu->cs, cpu->cs.cr3),
				      .every_ep4ta = true, .one_address = true, .gva = gva });
	for (unsigned n = 0; n < TLB_NR_CONTEXTS; n++) {
		struct tlb_context *c = &t->ctx[n];

		if (!c->used || c->vpid != cpu->vpid || c->pcid != t->cur->pcid)
			continue;
		drop_page(c, gva);
		if (tlb_large_has(c, gva, 21) || tlb_large_has(c, gva, 30))
			tlb_flush_address(c, gva, false);
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
	cpu->tlb->path_gen++;
	if (gla == CPU_NO_GLA)
		return;
	s = (struct tlb_scope){ .combined = true, .vpid = cpu->vpid, .eptp = cpu->eptp,
				.pcid = cpu_pcid(&cpu->cs, cpu->cs.cr3), .one_address = true, .gva = gla };
	note(cpu, s);
	forget_code(cpu, gla);
	drop_page(cpu->tlb->cur, gla);
}
