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
 * 3. A locked access across two lines excludes its like on every processor of
 *    the machine (machine->bus), from mem to mem_commit. The processor that waits for
 *    it hears a kick: the holder's memory may be long in coming.
 * 4. The host locks no more than one line: a bus lock of its own would stop every
 *    processor of the host, and hosts make their callers pay for it (here 0.6 ms each) or end
 *    them (split_lock_detect=fatal). Each part, at most seven bytes at the end or the
 *    beginning of a line, is written by a compare-and-exchange of the aligned word that holds
 *    it, which keeps the word's other bytes whoever writes them.
 * 5. What accesses that do not cross lines store into a part is not lost: where a part is not
 *    what was read, nothing of ours stays and the instruction begins again. Between
 *    its two exchanges others see the first part's new value beside the second's old one
 *    (silicon would stop the other processors; one that waits for memory of the
 *    client's too: each such access would last as long as the slowest of them, and the
 *    client may need this one to go on).
 * 6. From mem to mem_commit a handler changes no register and of the flags only cs->cc
 *    (isa/mem.h): that is all there is to restore when it is left in between.
 * 7. The processor's own locked accesses (accessed and busy flags of
 *    descriptors, A and D of paging structures) are none: each is made to one
 *    aligned byte or entry.
 *
 * Source: SDM Vol. 3, "VM-Execution Control Fields" (VMM bus-lock detection),
 * "Basic VM-Exit Information", "Other Causes of VM Exits".
 *
 * Locks: none but machine->bus; runs on the vCPU's thread.
 */
#include "cpu/internal.h"
#include "lib/copy.h"
#include "lib/futex.h"

#define BUS_SPINS 100
#define WORD_BYTES 8

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

static void take_bus(struct vmx_cpu *cpu)
{
	uint32_t *bus = &cpu->machine->bus;

	for (int spins = 0; __atomic_exchange_n(bus, 1, __ATOMIC_ACQUIRE); spins++) {
		if (READ_ONCE(cpu->cs.exit_request) & CPU_REQ_KICK)
			begin_again(cpu); /* its holder may wait for memory of the client's */
		__builtin_ia32_pause();
		if (spins > BUS_SPINS)
			futex_yield(); /* its holder may not be running */
	}
	cpu->bus_locked = true;
	cpu->bus_cc = cpu->cs.cc;
	cpu->counters.split_locks++;
}

static void give_bus(struct vmx_cpu *cpu)
{
	cpu->bus_locked = false;
	__atomic_store_n(&cpu->machine->bus, 0, __ATOMIC_RELEASE);
}

void cpu_bus_unwound(struct vmx_cpu *cpu)
{
	if (likely(!cpu->bus_locked))
		return;
	cpu->cs.cc = cpu->bus_cc;
	give_bus(cpu);
}

static bool is_locked(const struct vmx_cpu *cpu, enum isa_access how)
{
	return (how & ISA_RMW) == ISA_RMW && (cpu->cs.cur->flags & ISA_LOCK);
}

static bool crosses_lines(gva_t lin, unsigned size)
{
	return lin % CPU_LINE_BYTES + size > CPU_LINE_BYTES;
}

bool cpu_is_split_lock(const struct vmx_cpu *cpu, gva_t lin, unsigned size, enum isa_access how)
{
	return crosses_lines(lin, size) && is_locked(cpu, how);
}

/* --- the two parts --- */

/* The word that holds a part. */
static uint64_t *word_of(uint8_t *part)
{
	return (uint64_t *)ALIGN_DOWN((uintptr_t)part, WORD_BYTES);
}

static unsigned place_in_word(const uint8_t *part)
{
	return (uintptr_t)part % WORD_BYTES;
}

/* `word` with the part's bytes exchanged. */
static uint64_t with_part(uint64_t word, const uint8_t *part, const void *bytes, unsigned size)
{
	copy_bytes((uint8_t *)&word + place_in_word(part), bytes, size);
	return word;
}

/* Are the part's bytes the same in both words? */
static bool same_part(uint64_t a, uint64_t b, const uint8_t *part, unsigned size)
{
	return !((a ^ b) >> (8 * place_in_word(part)) & GENMASK_ULL(8 * size - 1, 0));
}

/* Put `bytes` where the part is still what it is in `was`. */
static bool put(uint8_t *part, unsigned size, uint64_t was, const void *bytes)
{
	uint64_t *word = word_of(part), now = READ_ONCE(*word);

	do {
		if (!same_part(now, was, part, size))
			return false;
	} while (!__atomic_compare_exchange_n(word, &now, with_part(now, part, bytes, size), true, __ATOMIC_SEQ_CST,
					      __ATOMIC_SEQ_CST));
	return true;
}

void cpu_bus_read(struct vmx_cpu *cpu, struct cpu_commit *c, void *bounce)
{
	unsigned second = c->size - c->first;

	take_bus(cpu);
	for (unsigned n = 0; n < 2; n++) {
		uint64_t v = 0;

		/* A write that changes nothing: memory that cannot be written is found before a part has been put. */
		__asm__ volatile("lock xaddq %0, %1" : "+r"(v), "+m"(*word_of(c->part[n])) : : "cc", "memory");
		c->was[n] = v;
	}
	copy_bytes(bounce, (uint8_t *)&c->was[0] + place_in_word(c->part[0]), c->first);
	copy_bytes((uint8_t *)bounce + c->first, (uint8_t *)&c->was[1] + place_in_word(c->part[1]), second);
}

/*
 * Where the first part cannot be taken back, since it has been written again, the instruction has been done: what
 * was written into both parts counts as written after it.
 */
void cpu_bus_write(struct vmx_cpu *cpu, const struct cpu_commit *c, const void *bounce)
{
	const uint8_t *bytes = bounce, *old = (const uint8_t *)&c->was[0] + place_in_word(c->part[0]);
	unsigned second = c->size - c->first;

	if (!put(c->part[0], c->first, c->was[0], bytes))
		begin_again(cpu);
	if (!put(c->part[1], second, c->was[1], bytes + c->first) &&
	    put(c->part[0], c->first, with_part(0, c->part[0], bytes, c->first), old))
		begin_again(cpu);
	give_bus(cpu);
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
	if (!cpu->bus_lock_tlb || !is_locked(cpu, how))
		return;
	cpu->bus_lock_access = crosses_lines(lin, size) || (cpu->cs.cr0 & X86_CR0_CD) || !cpu_tlb_write_back(cpu, lin, priv);
}

void cpu_bus_lock_control(struct vmx_cpu *cpu)
{
	bool on = cpu->secondary & SECONDARY_EXEC_BUS_LOCK_DETECTION;

	if (likely(on == cpu->bus_lock_detection))
		return;
	cpu->bus_lock_detection = on;
	cpu_blocks_drop(cpu, 0, ~0ULL); /* decoded without it, or with it */
}
