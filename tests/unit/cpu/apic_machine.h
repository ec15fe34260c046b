/* The machine of machine.h with a virtual-APIC page, an APIC-access page at APIC_AT, and a descriptor. */
#ifndef TEST_CPU_APIC_MACHINE_H
#define TEST_CPU_APIC_MACHINE_H

#include "machine.h"

#define STATE struct machine *t = *state
#define APIC_AT 0x50000UL
#define DATA_AT 0x60000UL
#define HANDLER_AT 0x28000UL
#define NV 0xf2U

/* Features, and the controls they stand for. */
enum { SHADOW = 1, ACCESSES = 2, REG_VIRT = 4, VID = 8, X2APIC = 16, POSTED = 32 };

static uint8_t *vapic, *aap;
static uint64_t *pid;

static inline uint32_t vapic32(uint32_t offset)
{
	uint32_t v;

	memcpy(&v, vapic + offset, 4);
	return v;
}

static inline void set_vapic32(uint32_t offset, uint32_t v)
{
	memcpy(vapic + offset, &v, 4);
}

static inline bool vector_set(uint32_t bank, unsigned v)
{
	return vapic32(bank + (v / 32) * 0x10) & (1U << (v % 32));
}

static inline void set_vector(uint32_t bank, unsigned v)
{
	set_vapic32(bank + (v / 32) * 0x10, vapic32(bank + (v / 32) * 0x10) | 1U << (v % 32));
}

static inline void features(struct machine *t, unsigned f)
{
	uint64_t secondary = SECONDARY_EXEC_ENABLE_EPT | SECONDARY_EXEC_UNRESTRICTED_GUEST |
			     SECONDARY_EXEC_ENABLE_VPID;
	uint64_t primary = R(t, CPU_BASED_VM_EXEC_CONTROL) & ~CPU_BASED_TPR_SHADOW;
	uint64_t pin = R(t, PIN_BASED_VM_EXEC_CONTROL) & ~PIN_BASED_POSTED_INTR;

	secondary |= (f & ACCESSES ? SECONDARY_EXEC_VIRTUALIZE_APIC_ACCESSES : 0) |
		     (f & REG_VIRT ? SECONDARY_EXEC_APIC_REGISTER_VIRT : 0) |
		     (f & VID ? SECONDARY_EXEC_VIRTUAL_INTR_DELIVERY : 0) |
		     (f & X2APIC ? SECONDARY_EXEC_VIRTUALIZE_X2APIC_MODE : 0);
	W(SECONDARY_VM_EXEC_CONTROL, secondary);
	W(CPU_BASED_VM_EXEC_CONTROL, primary | (f & SHADOW ? CPU_BASED_TPR_SHADOW : 0));
	W(PIN_BASED_VM_EXEC_CONTROL, pin | (f & POSTED ? PIN_BASED_POSTED_INTR : 0));
	W(VM_EXIT_CONTROLS, R(t, VM_EXIT_CONTROLS) | VM_EXIT_ACK_INTR_ON_EXIT);
	W(VIRTUAL_APIC_PAGE_ADDR, (uint64_t)vapic);
	W(APIC_ACCESS_ADDR, (uint64_t)aap);
	W(POSTED_INTR_DESC_ADDR, (uint64_t)pid);
	W(POSTED_INTR_NV, NV);
	W(TPR_THRESHOLD, 0);
	W(GUEST_INTR_STATUS, 0);
}

static inline int apic_setup(void **state)
{
	struct machine *t;

	machine_setup_long(state);
	t = *state;
	vapic = test_pages(4096);
	aap = test_pages(4096);
	pid = test_pages(4096);
	memset(aap, 0xcc, 4096);
	*ept_leaf(t, APIC_AT) = (uint64_t)aap | LEAF_RWX;
	for (unsigned v = 32; v < 256; v++)
		set_gate(t, v, HANDLER_AT + 16 * v);
	memset(t->ram + HANDLER_AT, 0xf4, 4096); /* HLT, everywhere */
	return 0;
}

static inline int apic_teardown(void **state)
{
	munmap(vapic, 4096);
	munmap(aap, 4096);
	munmap(pid, 4096);
	return machine_teardown(state);
}

/* Run `code` with RBX = rbx and RAX = rax; HLT follows it. */
static inline uint32_t run_code(struct machine *t, const void *code, size_t len, uint64_t rbx, uint64_t rax)
{
	memcpy(t->ram + GPA_CODE, code, len);
	t->ram[GPA_CODE + len] = 0xf4;
	vmx_sync_code(t->cpu);
	W(GUEST_RIP, GPA_CODE);
	W(GUEST_RFLAGS, X86_FLAGS_FIXED);
	W(GUEST_RSP, GPA_STACK);
	W(GUEST_INTERRUPTIBILITY_INFO, 0);
	W(GUEST_ACTIVITY_STATE, GUEST_ACTIVITY_ACTIVE);
	vmx_gprs(t->cpu)[RBX] = rbx;
	vmx_gprs(t->cpu)[RAX] = rax;
	return go(t);
}

#define RUN(rbx, rax, ...)                                                        \
	({                                                                        \
		static const uint8_t code__[] = { __VA_ARGS__ };                  \
		run_code(t, code__, sizeof(code__), (uint64_t)(rbx), (uint64_t)(rax)); \
	})

static inline uint64_t gpr(struct machine *t, unsigned nr)
{
	return vmx_gprs(t->cpu)[nr];
}

#define TEST_APIC(f) cmocka_unit_test_setup_teardown(f, apic_setup, apic_teardown)

#endif
