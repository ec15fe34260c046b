/*
 * The interpreter: the reference engine.
 *
 *     +-> boundary: requests, injection, traps, windows, timer, HLT
 *     |      |              |
 *     |      v              v
 *     |   blocks, one    one instruction at a time (TF, MTF, shadow, RF)
 *     |   after another     |
 *     +------+--------------+
 * Exceptions and VM exits leave from any depth by one non-local jump to
 * cpu_interp().
 *
 * Invariants
 * 1. At a boundary cs->rip is the next instruction and isa_rip() == cs->rip.
 * 2. Requests are looked at between blocks only; a block is short.
 * 3. A block that ends in a system instruction is followed by a look around
 *    (need_care()): only such instructions open windows, set TF or a shadow.
 * 4. While an instruction runs in the shadow of STI or MOV SS, the shadow is
 *    in cpu->shadow; cpu->interruptibility holds what the instruction sets.
 */
#include "cpu/internal.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#define INTR_SHADOW (GUEST_INTR_STATE_STI | GUEST_INTR_STATE_MOV_SS)
#define TIMER_BUDGET 512 /* blocks between looks at the preemption timer, at most */
#define TICKS_PER_BLOCK 4096 /* of the TSC: of a long one */

static void no_instruction(struct cpu_state *cs, const struct isa_insn *i)
{
	cpu_unwind(cpu_of(cs));
}

const struct isa_insn cpu_boundary_insn = { .fn = no_instruction };

void cpu_unwind(struct vmx_cpu *cpu)
{
	cpu->unwind_reason = CPU_UNWIND_CONTINUE;
	__builtin_longjmp(cpu->cs.unwind, 1);
}

const char *vmx_engine_name(void)
{
	return "interp";
}

/* --- boundaries --- */

static void exit_boundary(struct vmx_cpu *cpu, uint32_t reason)
{
	struct cpu_exit e = { .reason = reason, .rip = cpu->cs.rip };

	cpu_vmexit(cpu, &e);
}

static void exit_external(struct vmx_cpu *cpu)
{
	struct cpu_exit e = { .reason = EXIT_REASON_EXTERNAL_INTERRUPT, .rip = cpu->cs.rip };

	__atomic_fetch_and(&cpu->cs.exit_request, ~CPU_REQ_KICK, __ATOMIC_SEQ_CST);
	__atomic_store_n(&cpu->kick, 0, __ATOMIC_SEQ_CST);
	if (cpu->exit_controls & VM_EXIT_ACK_INTR_ON_EXIT)
		e.intr_info = (uint32_t)INTR_INFO_VALID_MASK | CPU_KICK_VECTOR;
	cpu_vmexit(cpu, &e);
}

static bool nmi_window_open(const struct vmx_cpu *cpu)
{
	return (cpu->primary & CPU_BASED_NMI_WINDOW_EXITING) &&
	       !(cpu->interruptibility & (GUEST_INTR_STATE_NMI | GUEST_INTR_STATE_MOV_SS |
					  GUEST_INTR_STATE_STI));
}

static bool interrupt_window_open(const struct vmx_cpu *cpu)
{
	return (cpu->primary & CPU_BASED_INTR_WINDOW_EXITING) &&
	       (cpu->cs.rflags & X86_FLAGS_IF) && !(cpu->interruptibility & INTR_SHADOW);
}

static bool timer_expired(const struct vmx_cpu *cpu)
{
	return cpu->preemption_deadline != ~0ULL && __rdtsc() >= cpu->preemption_deadline;
}

/* Blocks until the next look: fewer the nearer the deadline is, down to one. */
static uint32_t timer_budget(const struct vmx_cpu *cpu)
{
	uint64_t now, blocks;

	if (cpu->preemption_deadline == ~0ULL)
		return TIMER_BUDGET;
	now = __rdtsc();
	if (now >= cpu->preemption_deadline)
		return 1;
	blocks = (cpu->preemption_deadline - now) / TICKS_PER_BLOCK;
	return blocks >= TIMER_BUDGET ? TIMER_BUDGET : (uint32_t)blocks + 1;
}

static bool single_step(const struct vmx_cpu *cpu)
{
	return (cpu->cs.rflags & (X86_FLAGS_TF | X86_FLAGS_RF)) ||
	       (cpu->interruptibility & INTR_SHADOW) ||
	       (cpu->primary & CPU_BASED_MONITOR_TRAP_FLAG) || cpu->debug.next_alone;
}

/* After a system instruction: is there more to do than to go on? */
static bool need_care(const struct vmx_cpu *cpu)
{
	return single_step(cpu) || cpu->activity || cpu->pending_dbg ||
	       nmi_window_open(cpu) || interrupt_window_open(cpu);
}

static void deliver_injected(struct vmx_cpu *cpu)
{
	struct cpu_event ev = cpu->event;

	cpu->inject = false;
	cpu->activity = GUEST_ACTIVITY_ACTIVE;
	if (ev.type == INTR_TYPE_OTHER_EVENT) {
		cpu->event.active = false;
		exit_boundary(cpu, EXIT_REASON_MONITOR_TRAP_FLAG);
	}
	cpu_deliver_event(cpu, &ev);
	cpu->event.active = false;
	cpu_at_boundary(cpu);
}

/* Sleep until a request or the timer (HLT, shutdown, wait-for-SIPI). */
static void wait_inactive(struct vmx_cpu *cpu)
{
	struct timespec ts = { 0, 1000000 }, *timeout = NULL;

	isa_fpu_sync(&cpu->cs);
	__atomic_store_n(&cpu->asleep, 1, __ATOMIC_SEQ_CST);
	if (cpu->preemption_deadline != ~0ULL)
		timeout = &ts; /* the TSC's rate is not ours to know: look again */
	if (!READ_ONCE(cpu->cs.exit_request))
		syscall(SYS_futex, &cpu->cs.exit_request, FUTEX_WAIT_PRIVATE, 0, timeout, NULL, 0);
	__atomic_store_n(&cpu->asleep, 0, __ATOMIC_SEQ_CST);
}

/* What other threads have asked for. */
static void work_off_requests(struct vmx_cpu *cpu)
{
	uint32_t req;

	if (likely(!READ_ONCE(cpu->cs.exit_request)))
		return;
	req = __atomic_fetch_and(&cpu->cs.exit_request, CPU_REQ_KICK, __ATOMIC_SEQ_CST);
	if (req & (CPU_REQ_WTAGS | CPU_REQ_STALE))
		isa_fpu_sync(&cpu->cs);
	if (req & CPU_REQ_WTAGS)
		cpu_blocks_drop_wtags(cpu);
	if (req & CPU_REQ_STALE)
		cpu_blocks_work_off(cpu);
}

static bool debug_trap_due(const struct vmx_cpu *cpu)
{
	return cpu->pending_dbg && !(cpu->interruptibility & GUEST_INTR_STATE_MOV_SS) &&
	       cpu->activity == GUEST_ACTIVITY_ACTIVE;
}

/*
 * Everything that can happen between two instructions, in the order of SDM
 * "Priority Among Concurrent Events" as VMX non-root operation has it.
 */
static void boundary(struct vmx_cpu *cpu)
{
	cpu_at_boundary(cpu);
	work_off_requests(cpu);
	if (cpu->inject)
		deliver_injected(cpu);
	for (;;) {
		if (cpu->mtf_pending) {
			cpu->mtf_pending = false;
			exit_boundary(cpu, EXIT_REASON_MONITOR_TRAP_FLAG);
		}
		if (unlikely(cpu->bus_lock_detected))
			exit_boundary(cpu, EXIT_REASON_BUS_LOCK);
		if (debug_trap_due(cpu)) {
			uint64_t bits = cpu->pending_dbg & (DR6_BS | 0xf);

			cpu->pending_dbg = 0;
			if (bits)
				cpu_debug_trap(cpu, bits);
			cpu_at_boundary(cpu);
		}
		if (timer_expired(cpu))
			exit_boundary(cpu, EXIT_REASON_PREEMPTION_TIMER);
		if (nmi_window_open(cpu))
			exit_boundary(cpu, EXIT_REASON_NMI_WINDOW);
		if (READ_ONCE(cpu->cs.exit_request) & CPU_REQ_KICK)
			exit_external(cpu);
		if (interrupt_window_open(cpu))
			exit_boundary(cpu, EXIT_REASON_INTERRUPT_WINDOW);
		/* The delivery of #DB itself can meet a watchpoint: again before its handler. */
		if (debug_trap_due(cpu))
			continue;
		if (cpu->activity == GUEST_ACTIVITY_ACTIVE)
			return;
		wait_inactive(cpu);
		work_off_requests(cpu);
	}
}

/* --- running --- */

static void next_rip(struct cpu_state *cs, const struct isa_insn *i)
{
	cs->rip = isa_next_rip(cs, i);
	if (cs->code_mode != ISA_CODE64)
		cs->rip = (uint32_t)cs->rip;
}

/* Does TF trap after the instruction? With BTF after branches that are taken. */
static bool traps(const struct vmx_cpu *cpu, const struct isa_insn *i, uint64_t rip)
{
	if (!(cpu->debugctl & DEBUGCTLMSR_BTF))
		return true;
	return (i->flags & ISA_ENDS_BLOCK) && cpu->cs.rip != rip && cpu->cs.rip != rip + i->len;
}

/* One instruction, and what is due after it. */
static void run_one(struct vmx_cpu *cpu)
{
	struct cpu_state *cs = &cpu->cs;
	bool trap = cs->rflags & X86_FLAGS_TF;
	uint64_t rf = cs->rflags & X86_FLAGS_RF, rip = cs->rip;
	const struct isa_insn *i;
	struct cpu_block *b;

	b = cpu_block_at_rip(cpu, NULL);
	i = b->insns;
	cpu->debug.hits = 0;
	cpu->debug.next_alone = false;
	cpu->debug.alone = true;

	if (unlikely(cpu->observed))
		cpu_observe(cpu, b);
	cpu->shadow = cpu->interruptibility & (uint32_t)INTR_SHADOW;
	cpu->interruptibility &= ~(uint32_t)INTR_SHADOW;
	cs->rflags &= ~X86_FLAGS_RF;
	cpu->resume_flag = rf;
	cs->block_rip = cs->rip;
	cs->cur = i;
	/* the monitor trap comes after one iteration of a repeated string instruction */
	if (cpu->primary & CPU_BASED_MONITOR_TRAP_FLAG)
		__atomic_fetch_or(&cs->exit_request, CPU_REQ_CHECK, __ATOMIC_RELAXED);
	i->fn(cs, i);
	if (!(i->flags & ISA_ENDS_BLOCK))
		next_rip(cs, i);
	cpu->debug.alone = false;
	cpu->shadow = 0;
	cpu->resume_flag = 0;
	if (unlikely(cpu->debug.code) && cs->rip == rip && (i->flags & (ISA_REP | ISA_REPNE)))
		cs->rflags |= X86_FLAGS_RF; /* between iterations, its breakpoint has been met */
	cpu->counters.instructions++;
	cpu_at_boundary(cpu);
	if (cpu->primary & CPU_BASED_MONITOR_TRAP_FLAG)
		cpu->mtf_pending = true;
	if (trap && traps(cpu, i, rip))
		cpu->pending_dbg |= DR6_BS;
	if (unlikely(cpu->debug.hits)) {
		cpu->pending_dbg |= cpu->debug.hits | PENDING_DBG_ENABLED_BP;
		cpu->debug.hits = 0;
	}
}

/* #DB for a breakpoint at cs->rip; is there one further on in its block? */
static bool breakpoint_near(struct vmx_cpu *cpu)
{
	if (likely(!cpu->debug.code))
		return false;
	if (!(cpu->cs.rflags & X86_FLAGS_RF) &&
	    !(cpu->interruptibility & GUEST_INTR_STATE_MOV_SS))
		cpu_debug_code(cpu);
	return cpu_debug_in_block(cpu, cpu_block_at_rip(cpu, NULL));
}

/* Block after block, until something else has to be looked at. */
static void run_blocks(struct vmx_cpu *cpu)
{
	struct cpu_state *cs = &cpu->cs;
	struct cpu_block *b = NULL;
	uint32_t budget = timer_budget(cpu);

	while (likely(!READ_ONCE(cs->exit_request))) {
		const struct isa_insn *i, *end;

		b = cpu_block_at_rip(cpu, b);
		if (unlikely(cpu->debug.code) && cpu_debug_in_block(cpu, b)) {
			cpu_at_boundary(cpu);
			return;
		}
		if (unlikely(cpu->observed))
			cpu_observe(cpu, b);
		cs->block_rip = cs->rip;
		i = b->insns;
		end = b->end;
		do {
			cs->cur = i;
			i->fn(cs, i);
		} while (++i != end);
		if (!b->jumps)
			next_rip(cs, i - 1);
		cpu->counters.instructions += b->nr;
		cpu->counters.blocks_run++;
		if (unlikely(b->sys)) {
			b = NULL;
			if (need_care(cpu))
				return;
		}
		if (unlikely(--budget == 0)) {
			if (timer_expired(cpu))
				return;
			budget = timer_budget(cpu);
		}
	}
}

static __attribute__((noinline, noreturn)) void run(struct vmx_cpu *cpu)
{
	for (;;) {
		boundary(cpu);
		if (breakpoint_near(cpu) || single_step(cpu))
			run_one(cpu);
		else
			run_blocks(cpu);
	}
}

/* The exception in cs->exception, whose instruction is at cs->rip. */
static __attribute__((noinline)) void take_exception(struct vmx_cpu *cpu)
{
	struct isa_exception ex = cpu->cs.exception;

	cpu_at_boundary(cpu);
	cpu->cs.rflags |= cpu->resume_flag;
	cpu->resume_flag = 0;
	cpu->debug.alone = false;
	cpu_exception(cpu, &ex);
	cpu->event.active = false;
	cpu->shadow = 0;
	cpu->interruptibility &= ~(uint32_t)INTR_SHADOW;
}

/* Has a frame of its own: __builtin_setjmp keeps no registers. */
static __attribute__((noinline)) uint32_t run_until_unwound(struct vmx_cpu *cpu, bool exception)
{
	struct vmx_cpu *volatile keep = cpu;

	cpu->cs.unwind = cpu->unwind_buf;
	if (__builtin_setjmp(cpu->unwind_buf))
		return keep->unwind_reason;
	if (exception)
		take_exception(cpu);
	run(cpu);
}

bool cpu_interp(struct vmx_cpu *cpu)
{
	uint32_t why = CPU_UNWIND_CONTINUE;

	for (;;) {
		why = run_until_unwound(cpu, why == CPU_UNWIND_EXCEPTION);
		cpu->debug.alone = false;
		cpu_bus_unlock(cpu);
		cpu_bus_lock_unwound(cpu);
		if (why == CPU_UNWIND_CONTINUE && cpu->shadow)
			cpu->shadow = 0;
		if (why == CPU_UNWIND_EXIT)
			return true;
		if (why == CPU_UNWIND_BUS_ERROR)
			return false;
	}
}
