/*
 * What follows from the mode that the processor is in: the TLB's context and sub-table, how code is fetched.
 * cpu_mode_changed() is called wherever a register that decides it has changed; invariants 3 and 4 of tlb.c are kept here.
 *
 * Locks: none, owner thread only.
 */
#include "cpu/ghost.h"
#include "cpu/l1vpid.h"
#include "cpu/tlb_context.h"
#include "sdm/paging.h"

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
		tlb_empty_context(oldest);
	tlb_flush_context(oldest);
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
		tlb_flush_context(c);
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

	isa_close_window(cs);
	tlb_drop_stack_slot(cs); /* the current context may be flushed, or another be chosen */
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
	if (unlikely(cpu->tlb->l1vpid))
		l1vpid_mode_changed(cpu);
}
