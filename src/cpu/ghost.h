/*
 * USERKVM_CHECK=guesttlb: is there a translation that some processor may still use, that the
 * guest's tables no longer grant, although the guest has finished the operation that took it
 * away? (docs/sanitizers.md; SDM Vol. 3, "Caching Translation Information".)
 *
 * Beside the processors stands what real ones may hold: unbounded sets, in which our TLB's size,
 * its contexts and its own flushes play no part.
 *
 *	walk succeeds ─► ghost_filled()   a leaf, and the tables on its path, are held
 *	store to a table ─► ghost_stored()   compared with what is held: a record is open
 *	INVLPG, MOV CR3, … ─► ghost_scope()   what the SDM's scope covers is held no longer
 *	to user mode ─► ghost_mode_changed()   the writer's thread has returned: records are settled
 *	access ─► ghost_filled(), ghost_fault()   by a settled record: a report
 *
 * No access takes a slow path but stores to page tables and to frames whose record is open: they
 * have no write tags, like pages with code. The translator stays on.
 *
 * Invariants
 * 1. What is held only shrinks by operations of the guest's whose scope the SDM gives. What our
 *    limits make go is counted and is a miss, never a report.
 * 2. No file of this calls the TLB or the walk: they call it, and it asks by struct ghost_ops.
 * 3. No guest memory is read with the lock held: such a read may unwind.
 * 4. Nothing here calls a function that may use vector registers but reports, which unload the
 *    guest's first.
 *
 * Locks: ghost->lock, a leaf, for all of it; a processor's published state is atomic.
 */
#ifndef USERKVM_CPU_GHOST_H
#define USERKVM_CPU_GHOST_H

#include "cpu/internal.h"
#include "cpu/tlb_check.h"

#define GHOST_LEVELS 5

/* A descent through the guest's tables, from the top. */
struct ghost_walk {
	unsigned nr;
	uint64_t rights; /* PTE_RW and PTE_US as AND, PTE_XD as OR */
	uint64_t leaf;
	gpa_t gpa[GHOST_LEVELS]; /* of each entry */
	hpa_t host[GHOST_LEVELS];
	uint64_t val[GHOST_LEVELS];
};

/* What a processor is to drop from its software TLB: a linear page, or write tags of a frame. */
struct ghost_drop {
	bool frame;
	uint64_t address; /* gva, or hpa */
};
#define GHOST_DROPS 48

/* What it asks of the processor that it stands beside. */
struct ghost_ops {
	uint32_t (*page_rights)(const struct vmx_cpu *cpu, uint64_t bits, enum cpu_priv priv);
	/* nr > GHOST_DROPS: everything. Owner thread. */
	void (*drop)(struct vmx_cpu *cpu, const struct ghost_drop *d, unsigned nr);
};

struct ghost;
struct ghost_cpu;

/* NULL and 0: USERKVM_CHECK does not ask for it. -ENOMEM. */
must_check int ghost_create(struct ghost **out, const struct ghost_ops *ops);
void ghost_destroy(struct ghost *g); /* tells counts, if there is anything to tell */
must_check int ghost_cpu_create(struct ghost *g, struct vmx_cpu *cpu);
void ghost_cpu_destroy(struct vmx_cpu *cpu);

/* --- the processor's thread; cpu->tlb->ghost is not NULL --- */

/* The walk has ended at r: gva may be accessed so. Takes CPU_WRITE from r->rights where stores are to be seen. */
void ghost_filled(struct vmx_cpu *cpu, gva_t gva, uint32_t access, enum cpu_priv priv, struct cpu_walk_result *r);
/* The access is about to be a page fault, which ends what is held of the page. */
void ghost_fault(struct vmx_cpu *cpu, gva_t gva, uint32_t access, enum cpu_priv priv);
/* A store of `size` bytes within a page is about to be made. gva: ~0 by the hypervisor. */
void ghost_stored(struct vmx_cpu *cpu, hpa_t host, unsigned size, gva_t gva);
/* An operation of this scope is about to take place. */
void ghost_scope(struct vmx_cpu *cpu, const struct tlb_scope *s);
/* CR0, CR3, CR4, EFER, CPL or CS may have changed. */
void ghost_mode_changed(struct vmx_cpu *cpu);
/* VM entry is about to load the guest's registers: what changes so invalidates nothing. VM exit. */
void ghost_entered(struct vmx_cpu *cpu);
void ghost_left(struct vmx_cpu *cpu, bool halted);
/* CPU_REQ_GHOST */
void ghost_work_off(struct vmx_cpu *cpu);

/* Any thread: host memory [start, start + size) changes its meaning. */
void ghost_memory_changed(struct ghost *g, hpa_t start, uint64_t size);

#endif
