/*
 * What can happen between two instructions: requests of other threads, event
 * injection, traps, windows, the preemption timer, inactive states.
 *
 * Locks: none; runs on the vCPU's thread.
 */
#include "cpu/ghost.h"
#include "cpu/internal.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#define TIMER_BUDGET 512 /* blocks between looks at the preemption timer, at most */
#define TICKS_PER_BLOCK 4096 /* of the TSC: of a long one */

static void exit_boundary(struct vmx_cpu *cpu, uint32_t reason)
{
	struct cpu_exit e = { .reason = reason, .rip = cpu->cs.rip };

	cpu_vmexit(cpu, &e);
}

static void exit_external(struct vmx_cpu *cpu)
{
	struct cpu_exit e = { .reason = EXIT_REASON_EXTERNAL_INTERRUPT, .rip = cpu->cs.rip };

	__atomic_fetch_and(&cpu->cs.exit_request, ~CPU_REQ_KICK, __ATOMIC_SEQ_CST);
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

bool cpu_timer_expired(const struct vmx_cpu *cpu)
{
	return cpu->preemption_deadline != ~0ULL && __rdtsc() >= cpu->preemption_deadline;
}

uint32_t cpu_timer_budget(const struct vmx_cpu *cpu)
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

bool cpu_single_step(const struct vmx_cpu *cpu)
{
	return (cpu->cs.rflags & (X86_FLAGS_TF | X86_FLAGS_RF)) ||
	       (cpu->interruptibility & INTR_SHADOW) ||
	       (cpu->primary & CPU_BASED_MONITOR_TRAP_FLAG) || cpu->debug.next_alone;
}

/* SDM "Virtual-Interrupt Delivery". HLT does not hold it back; shutdown and wait-for-SIPI do. */
static bool virtual_interrupt_due(const struct vmx_cpu *cpu)
{
	return unlikely(cpu->apic.recognised) && (cpu->cs.rflags & X86_FLAGS_IF) &&
	       !(cpu->interruptibility & INTR_SHADOW) && cpu->activity <= GUEST_ACTIVITY_HLT;
}

bool cpu_need_care(const struct vmx_cpu *cpu)
{
	return cpu_single_step(cpu) || virtual_interrupt_due(cpu) || cpu->activity || cpu->pending_dbg ||
	       nmi_window_open(cpu) || interrupt_window_open(cpu);
}

bool cpu_after_system(struct vmx_cpu *cpu)
{
	if (cpu->apic.write.pending) {
		cpu_at_boundary(cpu);
		cpu_apic_boundary(cpu);
	}
	return cpu_need_care(cpu);
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
	__atomic_store_n(&cpu->mail.asleep, 1, __ATOMIC_SEQ_CST);
	if (cpu->preemption_deadline != ~0ULL)
		timeout = &ts; /* the TSC's rate is not ours to know: look again */
	if (!READ_ONCE(cpu->cs.exit_request))
		syscall(SYS_futex, &cpu->cs.exit_request, FUTEX_WAIT_PRIVATE, 0, timeout, NULL, 0);
	__atomic_store_n(&cpu->mail.asleep, 0, __ATOMIC_SEQ_CST);
}

/* What other threads have asked for. */
static void work_off_requests(struct vmx_cpu *cpu)
{
	uint32_t req;

	if (likely(!READ_ONCE(cpu->cs.exit_request)))
		return;
	req = __atomic_fetch_and(&cpu->cs.exit_request, CPU_REQ_KICK | CPU_REQ_POSTED, __ATOMIC_SEQ_CST);
	if (req & (CPU_REQ_WTAGS | CPU_REQ_STALE))
		isa_fpu_sync(&cpu->cs);
	if (req & CPU_REQ_WTAGS)
		cpu_blocks_drop_wtags(cpu);
	if (req & CPU_REQ_STALE)
		cpu_blocks_work_off(cpu);
	if (unlikely(req & CPU_REQ_GHOST))
		ghost_work_off(cpu);
}

static bool debug_trap_due(const struct vmx_cpu *cpu)
{
	return cpu->pending_dbg && !(cpu->interruptibility & GUEST_INTR_STATE_MOV_SS) &&
	       cpu->activity == GUEST_ACTIVITY_ACTIVE;
}

void cpu_boundary(struct vmx_cpu *cpu)
{
	cpu_at_boundary(cpu);
	work_off_requests(cpu);
	if (cpu->inject)
		deliver_injected(cpu);
	cpu_apic_boundary(cpu);
	for (;;) {
		if (cpu->mtf_pending) {
			cpu->mtf_pending = false;
			exit_boundary(cpu, EXIT_REASON_MONITOR_TRAP_FLAG);
		}
		if (unlikely(cpu->bus_lock_detected))
			exit_boundary(cpu, EXIT_REASON_BUS_LOCK);
		if (debug_trap_due(cpu)) {
			uint64_t bits = cpu->pending_dbg & (DR6_BS | 0xf);

			/*
			 * BS stays until the delivery is complete: an exit during it saves BS, as VM entry wants
			 * it with TF and a shadow (SDM "Checks on Guest Non-Register State").
			 */
			cpu->pending_dbg &= DR6_BS;
			if (bits)
				cpu_debug_trap(cpu, bits);
			cpu_at_boundary(cpu);
		}
		if (cpu_timer_expired(cpu))
			exit_boundary(cpu, EXIT_REASON_PREEMPTION_TIMER);
		if (nmi_window_open(cpu))
			exit_boundary(cpu, EXIT_REASON_NMI_WINDOW);
		if (virtual_interrupt_due(cpu)) {
			cpu_apic_deliver(cpu);
			cpu_apic_boundary(cpu); /* its stack may have been the APIC's page */
			continue;
		}
		if (READ_ONCE(cpu->cs.exit_request) & CPU_REQ_KICK)
			exit_external(cpu);
		if (READ_ONCE(cpu->cs.exit_request) & CPU_REQ_POSTED) {
			cpu_apic_take_notification(cpu);
			continue;
		}
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
