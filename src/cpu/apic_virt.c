/*
 * The virtual local APIC: priorities, end of interrupt, evaluation and delivery of virtual
 * interrupts, posted interrupts (SDM Vol. 3, "Evaluation and Delivery of Virtual Interrupts",
 * "TPR Virtualization", "PPR Virtualization", "EOI Virtualization", "Self-IPI Virtualization",
 * "Posted-Interrupt Processing").
 *
 * VIRR words are changed by atomic operations, because another thread may set bits while
 * software changes from one mode to another; all else of the page is the processor's.
 * cpu/apic.h has the invariants. General registers only: no libc mem*.
 */
#include "cpu/internal.h"
#include "host/memory.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PID_ON BIT_ULL(0) /* outstanding notification: bit 256 of the descriptor */
#define PID_WORDS 4	  /* of requests, then the word with ON */

static uint32_t *reg(const struct cpu_apic *a, uint32_t offset)
{
	return (uint32_t *)(void *)(a->page + offset);
}

/* The word of a bank of 256 bits that has this vector's. */
static uint32_t *vector_word(const struct cpu_apic *a, uint32_t bank, uint8_t vector)
{
	return reg(a, bank + (vector >> 5) * 0x10U);
}

static uint8_t highest(const struct cpu_apic *a, uint32_t bank)
{
	uint32_t any = 0;

#pragma GCC unroll 8
	for (unsigned word = 0; word < 8; word++)
		any |= READ_ONCE(*reg(a, bank + word * 0x10));
	if (!any)
		return 0;
	for (unsigned word = 8; word-- > 0;) {
		uint32_t bits = READ_ONCE(*reg(a, bank + word * 0x10));

		if (bits)
			return (uint8_t)(word * 32 + 31 - (unsigned)__builtin_clz(bits));
	}
	return 0;
}

static void update_ppr(struct cpu_apic *a)
{
	uint8_t tpr = (uint8_t)READ_ONCE(*reg(a, VAPIC_TPR));

	WRITE_ONCE(*reg(a, VAPIC_PPR), (tpr >> 4) >= (a->svi >> 4) ? tpr : a->svi & 0xf0U);
}

/* SDM "Evaluation of Pending Virtual Interrupts". */
static void evaluate(struct vmx_cpu *cpu)
{
	struct cpu_apic *a = &cpu->apic;
	uint8_t ppr = (uint8_t)READ_ONCE(*reg(a, VAPIC_PPR));

	a->recognised = !(cpu->primary & CPU_BASED_INTR_WINDOW_EXITING) && (a->rvi >> 4) > (ppr >> 4);
}

static bool below_threshold(const struct cpu_apic *a)
{
	return ((READ_ONCE(*reg(a, VAPIC_TPR)) >> 4) & 0xf) < a->threshold;
}

void cpu_apic_tpr_written(struct vmx_cpu *cpu)
{
	struct cpu_apic *a = &cpu->apic;

	if (a->vid) {
		update_ppr(a);
		evaluate(cpu);
	} else if (below_threshold(a)) {
		cpu_apic_exit_trap(cpu, EXIT_REASON_TPR_BELOW_THRESHOLD, 0);
	}
}

void cpu_apic_eoi(struct vmx_cpu *cpu)
{
	struct cpu_apic *a = &cpu->apic;
	uint8_t v = a->svi;

	*vector_word(a, VAPIC_ISR, v) &= ~(1U << (v & 31));
	a->svi = highest(a, VAPIC_ISR);
	update_ppr(a);
	if (a->eoi_exit[v >> 6] & BIT_ULL(v & 63))
		cpu_apic_exit_trap(cpu, EXIT_REASON_EOI_INDUCED, v);
	evaluate(cpu);
}

static void request(struct cpu_apic *a, uint8_t vector)
{
	__atomic_fetch_or(vector_word(a, VAPIC_IRR, vector), 1U << (vector & 31), __ATOMIC_SEQ_CST);
	if (vector > a->rvi)
		a->rvi = vector;
}

void cpu_apic_self_ipi(struct vmx_cpu *cpu, uint8_t vector)
{
	request(&cpu->apic, vector);
	evaluate(cpu);
}

/* SDM "Virtual-Interrupt Delivery". */
void cpu_apic_deliver(struct vmx_cpu *cpu)
{
	struct cpu_apic *a = &cpu->apic;
	struct cpu_event ev = { .active = true, .vector = a->rvi, .type = INTR_TYPE_EXT_INTR };
	uint8_t v = a->rvi;

	*vector_word(a, VAPIC_ISR, v) |= 1U << (v & 31);
	a->svi = v;
	WRITE_ONCE(*reg(a, VAPIC_PPR), v & 0xf0U);
	__atomic_fetch_and(vector_word(a, VAPIC_IRR, v), ~(1U << (v & 31)), __ATOMIC_SEQ_CST);
	a->rvi = highest(a, VAPIC_IRR);
	a->recognised = false;
	cpu->activity = GUEST_ACTIVITY_ACTIVE;
	/* the hypervisor says when a device may have written code (vmx_sync_machine_code()) */
	cpu->epoch = READ_ONCE(cpu->machine->epoch);
	cpu_deliver_event(cpu, &ev);
	cpu->event.active = false;
	cpu_at_boundary(cpu);
}

/* --- posted interrupts --- */

/* SDM "Posted-Interrupt Processing", from the clearing of ON. */
static void process_posted(struct vmx_cpu *cpu)
{
	struct cpu_apic *a = &cpu->apic;

	__atomic_fetch_and(&a->pid[PID_WORDS], ~PID_ON, __ATOMIC_SEQ_CST);
	for (unsigned n = 0; n < PID_WORDS; n++) {
		uint64_t taken = READ_ONCE(a->pid[n]);

		if (!taken)
			continue;
		taken = __atomic_exchange_n(&a->pid[n], 0, __ATOMIC_SEQ_CST);
		for (unsigned half = 0; half < 2; half++)
			if ((uint32_t)(taken >> (32 * half)))
				__atomic_fetch_or(reg(a, VAPIC_IRR + (2 * n + half) * 0x10),
						  (uint32_t)(taken >> (32 * half)), __ATOMIC_SEQ_CST);
		if (taken && n * 64 + 63 - (unsigned)__builtin_clzll(taken) > a->rvi)
			a->rvi = (uint8_t)(n * 64 + 63 - (unsigned)__builtin_clzll(taken));
	}
	evaluate(cpu);
}

void vmx_notify(struct vmx_cpu *cpu, uint8_t vector)
{
	__atomic_fetch_or(&cpu->mail.notified[vector >> 6], BIT_ULL(vector & 63), __ATOMIC_SEQ_CST);
	__atomic_fetch_or(&cpu->cs.exit_request, CPU_REQ_POSTED, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&cpu->mail.asleep, __ATOMIC_SEQ_CST))
		syscall(SYS_futex, &cpu->cs.exit_request, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* The highest vector that waits, taken; -1: none. */
static int take_vector(struct vmx_cpu *cpu)
{
	for (unsigned n = ARRAY_SIZE(cpu->mail.notified); n-- > 0;) {
		uint64_t bits = READ_ONCE(cpu->mail.notified[n]);
		unsigned bit;

		if (!bits)
			continue;
		bit = 63 - (unsigned)__builtin_clzll(bits);
		__atomic_fetch_and(&cpu->mail.notified[n], ~BIT_ULL(bit), __ATOMIC_SEQ_CST);
		return (int)(n * 64 + bit);
	}
	return -1;
}

void cpu_apic_take_notification(struct vmx_cpu *cpu)
{
	struct cpu_exit e = { .reason = EXIT_REASON_EXTERNAL_INTERRUPT, .rip = cpu->cs.rip };
	struct cpu_apic *a = &cpu->apic;
	int vector;

	/* the request first: a vector that comes after the look makes another one */
	__atomic_fetch_and(&cpu->cs.exit_request, ~CPU_REQ_POSTED, __ATOMIC_SEQ_CST);
	while ((vector = take_vector(cpu)) >= 0) {
		if (a->pid && vector == a->posted_vector) {
			process_posted(cpu);
			continue;
		}
		/* what is left of the others is looked at after the next entry */
		__atomic_fetch_or(&cpu->cs.exit_request, CPU_REQ_POSTED, __ATOMIC_SEQ_CST);
		if (cpu->exit_controls & VM_EXIT_ACK_INTR_ON_EXIT)
			e.intr_info = (uint32_t)INTR_INFO_VALID_MASK | (uint32_t)vector;
		cpu_vmexit(cpu, &e);
	}
}

/* --- VM entry and exit, boundaries --- */

void cpu_apic_load_controls(struct vmx_cpu *cpu, const struct vmcs *v)
{
	struct cpu_apic *a = &cpu->apic;
	bool shadow = cpu->primary & CPU_BASED_TPR_SHADOW;

	a->access = cpu->secondary & SECONDARY_EXEC_VIRTUALIZE_APIC_ACCESSES ? v->APIC_ACCESS_ADDR
									     : APIC_NO_ACCESS_PAGE;
	a->page = shadow ? __va(v->VIRTUAL_APIC_PAGE_ADDR) : NULL;
	a->vid = cpu->secondary & SECONDARY_EXEC_VIRTUAL_INTR_DELIVERY;
	a->pid = NULL;
	if (!shadow)
		return;
	cpu->cs.vapic = a->page;
	a->reg_virt = cpu->secondary & SECONDARY_EXEC_APIC_REGISTER_VIRT;
	a->x2apic = cpu->secondary & SECONDARY_EXEC_VIRTUALIZE_X2APIC_MODE;
	if (cpu->pin & PIN_BASED_POSTED_INTR) {
		a->pid = __va(v->POSTED_INTR_DESC_ADDR);
		a->posted_vector = (uint8_t)v->POSTED_INTR_NV;
	}
	a->eoi_exit[0] = v->EOI_EXIT_BITMAP0;
	a->eoi_exit[1] = v->EOI_EXIT_BITMAP1;
	a->eoi_exit[2] = v->EOI_EXIT_BITMAP2;
	a->eoi_exit[3] = v->EOI_EXIT_BITMAP3;
}

void cpu_apic_load(struct vmx_cpu *cpu, const struct vmcs *v)
{
	struct cpu_apic *a = &cpu->apic;

	isa_close_window(&cpu->cs);
	a->write.pending = a->recognised = a->check_entry = false;
	if (!a->page)
		return;
	a->threshold = v->TPR_THRESHOLD & 0xf;
	if (!a->vid) {
		a->check_entry = a->access != APIC_NO_ACCESS_PAGE && below_threshold(a);
		return;
	}
	a->rvi = (uint8_t)v->GUEST_INTR_STATUS;
	a->svi = (uint8_t)(v->GUEST_INTR_STATUS >> 8);
	update_ppr(a);
	evaluate(cpu);
}

void cpu_apic_boundary(struct vmx_cpu *cpu)
{
	struct cpu_apic *a = &cpu->apic;

	if (a->check_entry) {
		a->check_entry = false;
		cpu_apic_exit_trap(cpu, EXIT_REASON_TPR_BELOW_THRESHOLD, 0);
	}
	if (a->write.pending) {
		a->write.pending = false;
		cpu_apic_emulate_write(cpu);
	}
}

/* --- CR8 (SDM "Virtualizing CR8-Based TPR Accesses") --- */

uint64_t cpu_apic_read_cr8(const struct vmx_cpu *cpu)
{
	return (READ_ONCE(*reg(&cpu->apic, VAPIC_TPR)) >> 4) & 0xf;
}

void cpu_apic_write_cr8(struct vmx_cpu *cpu, uint64_t v)
{
	WRITE_ONCE(*reg(&cpu->apic, VAPIC_TPR), (uint32_t)v << 4);
	cpu_apic_written(cpu, VAPIC_TPR, 4);
}
