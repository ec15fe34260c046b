/*
 * Bus locks: locked accesses that more than one cache line takes part in, or
 * memory that is not write-back (SDM Vol. 3, "Bus Locking", "Features to
 * Disable Bus Locks": split locks and UC locks).
 *
 *   VM entry ─► cpu_bus_lock_control(): the control has changed, blocks go
 *   decode ───► cpu_bus_lock_watch(): a locked instruction is run by watched()
 *   watched() ─► its own handler, without a TLB ─► mem.c ─► cpu_bus_lock_access()
 *             └► it is over: cpu->bus_lock_detected
 *   boundary ─► VM exit BUS_LOCK; any exit from then on has bit 26 in its reason
 *
 * Invariants
 * 1. Without the control no instruction has watched() for a handler: detection
 *    that is off costs nothing.
 * 2. A bus lock is detected when its instruction has completed. One that faults
 *    or exits has locked nothing; it will run again.
 * 3. A locked access to two pages apart excludes its like on every processor of
 *    the machine (machine->bus), from mem to mem_commit. Who waits for that
 *    hears a kick: the holder's memory may be long in coming.
 * 4. The processor's own locked accesses (accessed and busy flags of
 *    descriptors, A and D of paging structures) are none: each is made to one
 *    aligned byte or entry.
 *
 * Source: SDM Vol. 3, "VM-Execution Control Fields" (VMM bus-lock detection),
 * "Basic VM-Exit Information", "Other Causes of VM Exits".
 *
 * Locks: none but machine->bus; runs on the vCPU's thread.
 */
#include "cpu/internal.h"

#include <sched.h>

#define BUS_SPINS 100
#define CACHE_LINE_BYTES 64

/* Nothing has been committed: the instruction begins again behind a boundary. */
static __attribute__((noreturn)) void begin_again(struct vmx_cpu *cpu)
{
	cpu->interruptibility |= cpu->shadow;
	cpu->shadow = 0;
	cpu->cs.rflags |= cpu->resume_flag;
	cpu->resume_flag = 0;
	cpu->cs.rip = isa_rip(&cpu->cs);
	cpu_unwind(cpu);
}

void cpu_bus_lock(struct vmx_cpu *cpu)
{
	uint32_t *bus = &cpu->machine->bus;

	if (cpu->bus_locked)
		return;
	for (int spins = 0; __atomic_exchange_n(bus, 1, __ATOMIC_ACQUIRE); spins++) {
		if (READ_ONCE(cpu->cs.exit_request) & CPU_REQ_KICK)
			begin_again(cpu); /* its holder may wait for memory of the client's */
		__builtin_ia32_pause();
		if (spins > BUS_SPINS)
			sched_yield(); /* its holder may not be running */
	}
	cpu->bus_locked = true;
}

void cpu_bus_unlock(struct vmx_cpu *cpu)
{
	if (likely(!cpu->bus_locked))
		return;
	cpu->bus_locked = false;
	__atomic_store_n(&cpu->machine->bus, 0, __ATOMIC_RELEASE);
}

bool cpu_is_locked_access(const struct vmx_cpu *cpu, enum isa_access how)
{
	return (how & ISA_RMW) == ISA_RMW && (cpu->cs.cur->flags & ISA_LOCK);
}

/* --- detection --- */

/* The handler of a locked instruction; its own is in i->extra. */
static void watched(struct cpu_state *cs, const struct isa_insn *i)
{
	struct vmx_cpu *cpu = cpu_of(cs);
	isa_fn *own = (isa_fn *)(uintptr_t)i->extra;

	cpu->bus_lock_access = false;
	cpu->bus_lock_tlb = cs->tlb;
	cs->tlb = cpu->tlb->empty;
	own(cs, i);
	cs->tlb = cpu->bus_lock_tlb;
	cpu->bus_lock_tlb = NULL;
	if (!cpu->bus_lock_access)
		return;
	cpu->bus_lock_detected = true;
	__atomic_fetch_or(&cs->exit_request, CPU_REQ_CHECK, __ATOMIC_RELAXED);
}

void cpu_bus_lock_unwound(struct vmx_cpu *cpu)
{
	if (likely(!cpu->bus_lock_tlb))
		return;
	cpu->cs.tlb = cpu->bus_lock_tlb;
	cpu->bus_lock_tlb = NULL;
}

bool cpu_bus_lock_watch(const struct vmx_cpu *cpu, struct isa_insn *i)
{
	if (likely(!cpu->bus_lock_detection) || !(i->flags & ISA_LOCK) || !(i->flags & ISA_MEM))
		return false;
	i->extra = (void *)(uintptr_t)i->fn;
	i->fn = watched;
	return true;
}

void cpu_bus_lock_access(struct vmx_cpu *cpu, gva_t lin, unsigned size, enum cpu_priv priv,
			 enum isa_access how)
{
	if (!cpu->bus_lock_tlb || !cpu_is_locked_access(cpu, how))
		return;
	cpu->bus_lock_access = lin % CACHE_LINE_BYTES + size > CACHE_LINE_BYTES ||
			       (cpu->cs.cr0 & X86_CR0_CD) || !cpu_tlb_write_back(cpu, lin, priv);
}

void cpu_bus_lock_control(struct vmx_cpu *cpu)
{
	bool on = cpu->secondary & SECONDARY_EXEC_BUS_LOCK_DETECTION;

	if (likely(on == cpu->bus_lock_detection))
		return;
	cpu->bus_lock_detection = on;
	cpu_blocks_drop(cpu, 0, ~0ULL); /* decoded without it, or with it */
}
