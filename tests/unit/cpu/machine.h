/*
 * A small machine for the processor's tests: RAM behind EPT, a VMCS that
 * passes every check, in real mode or in 64-bit mode. Tests change what they
 * are about.
 */
#ifndef TEST_CPU_MACHINE_H
#define TEST_CPU_MACHINE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "cpu/internal.h"
#include "sdm/ept.h"
#include "sdm/paging.h"

#define RAM_BYTES (16UL << 20)
#define GPA_PML4 0x10000UL
#define GPA_PDPT 0x11000UL
#define GPA_PD 0x12000UL
#define GPA_PT 0x13000UL
#define GPA_GDT 0x14000UL
#define GPA_IDT 0x15000UL
#define GPA_CODE 0x20000UL
#define GPA_STACK 0x30000UL
#define LEAF_RWX (EPT_RWX | FIELD_PREP(EPT_MEMTYPE_MASK, MT_WRBACK))

struct machine {
	struct vmx_machine *m;
	struct vmx_cpu *cpu;
	uint8_t *ram;
	struct vmcs *vmcs;
	uint64_t *ept_pml5; /* NULL until five_levels() */
	uint64_t *ept_root, *ept_pdpt, *ept_pd, *ept_pt[8]; /* 4 KiB leaves, 16 MiB */
};

static inline void *test_pages(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(p, MAP_FAILED);
	return p;
}

static inline uint64_t *ept_leaf(struct machine *t, gpa_t gpa)
{
	return &t->ept_pt[gpa >> 21][(gpa >> 12) & 511];
}

static inline uint64_t *guest64(struct machine *t, gpa_t gpa)
{
	return (uint64_t *)(t->ram + gpa);
}

static inline void build_ept(struct machine *t)
{
	t->ept_root = test_pages(4096);
	t->ept_pdpt = test_pages(4096);
	t->ept_pd = test_pages(4096);
	t->ept_root[0] = (uint64_t)t->ept_pdpt | EPT_RWX;
	t->ept_pdpt[0] = (uint64_t)t->ept_pd | EPT_RWX;
	for (unsigned n = 0; n < 8; n++) {
		t->ept_pt[n] = test_pages(4096);
		t->ept_pd[n] = (uint64_t)t->ept_pt[n] | EPT_RWX;
		for (unsigned k = 0; k < 512; k++)
			t->ept_pt[n][k] = ((uint64_t)t->ram + ((n * 512UL + k) << 12)) | LEAF_RWX;
	}
}

#define W(field, value) assert_int_equal(vmwrite(t->cpu, field, value), VMX_SUCCEED)
static inline uint64_t R(struct machine *t, uint32_t field)
{
	uint64_t v;

	assert_int_equal(vmread(t->cpu, field, &v), VMX_SUCCEED);
	return v;
}

static inline uint32_t must_be(uint32_t msr)
{
	return (uint32_t)vmx_capability_msr(msr);
}

static inline void set_segment(struct machine *t, enum sreg nr, uint16_t sel, uint64_t base,
			       uint32_t limit, uint32_t ar)
{
	uint32_t n = (uint32_t)nr * 2;

	W(GUEST_ES_SELECTOR + n, sel);
	W(GUEST_ES_BASE + n, base);
	W(GUEST_ES_LIMIT + n, limit);
	W(GUEST_ES_AR_BYTES + n, ar);
}

static inline void set_controls(struct machine *t)
{
	W(PIN_BASED_VM_EXEC_CONTROL, must_be(MSR_IA32_VMX_TRUE_PINBASED_CTLS) |
					     PIN_BASED_EXT_INTR_MASK | PIN_BASED_NMI_EXITING);
	W(CPU_BASED_VM_EXEC_CONTROL,
	  must_be(MSR_IA32_VMX_TRUE_PROCBASED_CTLS) | CPU_BASED_HLT_EXITING |
		  CPU_BASED_UNCOND_IO_EXITING | CPU_BASED_ACTIVATE_SECONDARY_CONTROLS);
	W(SECONDARY_VM_EXEC_CONTROL, SECONDARY_EXEC_ENABLE_EPT | SECONDARY_EXEC_UNRESTRICTED_GUEST |
					     SECONDARY_EXEC_ENABLE_VPID);
	W(VM_EXIT_CONTROLS, must_be(MSR_IA32_VMX_EXIT_CTLS) | VM_EXIT_HOST_ADDR_SPACE_SIZE |
				    VM_EXIT_SAVE_IA32_EFER);
	W(VM_ENTRY_CONTROLS, must_be(MSR_IA32_VMX_ENTRY_CTLS) | VM_ENTRY_LOAD_IA32_EFER);
	W(VIRTUAL_PROCESSOR_ID, 1);
	W(EPT_POINTER, (uint64_t)t->ept_root | MT_WRBACK | FIELD_PREP(EPTP_WALK_MASK, 3));
	W(VMCS_LINK_POINTER, ~0ULL);
}

/* A walk of five levels: what is mapped stays so, and again from bit 50 of the address. */
#define FIVE_ALIAS BIT_ULL(50)
static inline void five_levels(struct machine *t)
{
	t->ept_pml5 = test_pages(4096);
	t->ept_pml5[0] = t->ept_pml5[FIVE_ALIAS >> 48] = (uint64_t)t->ept_root | EPT_RWX;
	W(EPT_POINTER, (uint64_t)t->ept_pml5 | MT_WRBACK | FIELD_PREP(EPTP_WALK_MASK, 4));
}

static inline void set_host(struct machine *t)
{
	W(HOST_CR0, X86_CR0_PE | X86_CR0_NE | X86_CR0_PG);
	W(HOST_CR4, X86_CR4_VMXE | X86_CR4_PAE);
	W(HOST_CS_SELECTOR, 8);
	W(HOST_TR_SELECTOR, 16);
}

static inline void set_real_mode(struct machine *t)
{
	for (int n = 0; n < NR_SREGS; n++)
		set_segment(t, (enum sreg)n, 0, 0, 0xffff, n == SREG_CS ? 0x9b : 0x93);
	set_segment(t, SREG_CS, GPA_CODE >> 4, GPA_CODE, 0xffff, 0x9b);
	W(GUEST_TR_LIMIT, 0xffff);
	W(GUEST_TR_AR_BYTES, 0x8b);
	W(GUEST_LDTR_LIMIT, 0xffff);
	W(GUEST_LDTR_AR_BYTES, 0x82);
	W(GUEST_GDTR_LIMIT, 0xffff);
	W(GUEST_IDTR_LIMIT, 0x3ff);
	W(GUEST_CR0, X86_CR0_NE | X86_CR0_ET);
	W(GUEST_CR4, X86_CR4_VMXE);
	W(GUEST_DR7, DR7_FIXED_1);
	W(GUEST_RFLAGS, X86_FLAGS_FIXED);
	W(GUEST_RSP, 0x8000);
	W(GUEST_RIP, 0);
}

/* 4-level identity mapping of the first 2 MiB in 4 KiB pages, supervisor. */
static inline void build_guest_tables(struct machine *t)
{
	*guest64(t, GPA_PML4) = GPA_PDPT | PTE_P | PTE_RW | PTE_US;
	*guest64(t, GPA_PDPT) = GPA_PD | PTE_P | PTE_RW | PTE_US;
	*guest64(t, GPA_PD) = GPA_PT | PTE_P | PTE_RW | PTE_US;
	for (unsigned n = 0; n < 512; n++)
		guest64(t, GPA_PT)[n] = ((uint64_t)n << 12) | PTE_P | PTE_RW;
}

static inline void set_long_mode(struct machine *t)
{
	set_real_mode(t);
	build_guest_tables(t);
	for (int n = 0; n < NR_SREGS; n++)
		set_segment(t, (enum sreg)n, 16, 0, 0xffffffff, 0xc093);
	set_segment(t, SREG_CS, 8, 0, 0xffffffff, 0xa09b);
	W(GUEST_CR0, X86_CR0_PE | X86_CR0_PG | X86_CR0_NE | X86_CR0_WP | X86_CR0_ET);
	W(GUEST_CR3, GPA_PML4);
	W(GUEST_CR4, X86_CR4_VMXE | X86_CR4_PAE);
	W(GUEST_IA32_EFER, EFER_LME | EFER_LMA | EFER_NX | EFER_SCE);
	W(VM_ENTRY_CONTROLS, R(t, VM_ENTRY_CONTROLS) | VM_ENTRY_IA32E_MODE);
	W(GUEST_RSP, GPA_STACK);
	W(GUEST_RIP, GPA_CODE);
	W(GUEST_GDTR_BASE, GPA_GDT);
	W(GUEST_IDTR_BASE, GPA_IDT);
	W(GUEST_IDTR_LIMIT, 0xfff);
	guest64(t, GPA_GDT)[1] = 0x00af9b000000ffffULL;
	guest64(t, GPA_GDT)[2] = 0x00cf93000000ffffULL;
}

/* A 64-bit interrupt gate. */
static inline void set_gate(struct machine *t, unsigned vector, uint64_t handler)
{
	guest64(t, GPA_IDT)[2 * vector] = (handler & 0xffff) | 8UL << 16 | 0x8eUL << 40 |
					  (handler & 0xffff0000) << 32;
	guest64(t, GPA_IDT)[2 * vector + 1] = handler >> 32;
}

static inline int machine_setup(void **state)
{
	struct machine *t = calloc(1, sizeof(*t));

	assert_non_null(t);
	t->ram = test_pages(RAM_BYTES);
	build_ept(t);
	assert_int_equal(vmx_machine_create(&t->m), 0);
	assert_int_equal(vmx_cpu_create(t->m, &t->cpu), 0);
	t->vmcs = test_pages(4096);
	t->vmcs->revision_id = VMCS_REVISION_ID;
	assert_int_equal(vmclear(t->cpu, (hpa_t)t->vmcs), VMX_SUCCEED);
	assert_int_equal(vmptrld(t->cpu, (hpa_t)t->vmcs), VMX_SUCCEED);
	set_controls(t);
	set_host(t);
	set_real_mode(t);
	*state = t;
	return 0;
}

static inline int machine_setup_long(void **state)
{
	machine_setup(state);
	set_long_mode(*state);
	return 0;
}

static inline int machine_teardown(void **state)
{
	struct machine *t = *state;

	assert_int_equal(vmx_cpu_counters(t->cpu)->jit_mismatches, 0); /* USERKVM_JIT=check */
	vmx_cpu_destroy(t->cpu);
	vmx_machine_destroy(t->m);
	munmap(t->ram, RAM_BYTES);
	munmap(t->vmcs, 4096);
	munmap(t->ept_root, 4096);
	munmap(t->ept_pdpt, 4096);
	munmap(t->ept_pd, 4096);
	for (int n = 0; n < 8; n++)
		munmap(t->ept_pt[n], 4096);
	free(t);
	return 0;
}

#define CODE(t, ...)                                                   \
	do {                                                           \
		static const uint8_t code_[] = { __VA_ARGS__ };        \
		memcpy((t)->ram + GPA_CODE, code_, sizeof(code_));     \
	} while (0)

/* Enter and give the exit reason. */
static inline uint32_t go(struct machine *t)
{
	enum vmx_result r = t->vmcs->launched ? vmresume(t->cpu) : vmlaunch(t->cpu);

	if (r != VMX_SUCCEED)
		fail_msg("entry: result %d, error %lu", r, R(t, VM_INSTRUCTION_ERROR));
	return (uint32_t)R(t, VM_EXIT_REASON);
}

/* Load guest state for direct calls of the walker; an unwinding call gives false. */
static inline void load_guest(struct machine *t)
{
	cpu_load_guest(t->cpu);
	t->cpu->cs.unwind = t->cpu->unwind_buf;
	t->cpu->unwind_reason = 0;
}

static __attribute__((noinline, unused)) bool try_walk(struct machine *t, gva_t gva,
						       uint32_t access, enum cpu_priv priv,
						       struct cpu_walk_result *out)
{
	load_guest(t);
	if (__builtin_setjmp(t->cpu->unwind_buf))
		return false;
	cpu_walk(t->cpu, gva, access, priv, out);
	return true;
}

static __attribute__((noinline, unused)) uint8_t *try_translate(struct machine *t, gva_t gva,
								uint32_t access,
								enum cpu_priv priv)
{
	if (__builtin_setjmp(t->cpu->unwind_buf))
		return NULL;
	return cpu_translate(t->cpu, gva, access, priv);
}

#define TEST_REAL(f) cmocka_unit_test_setup_teardown(f, machine_setup, machine_teardown)
#define TEST_LONG(f) cmocka_unit_test_setup_teardown(f, machine_setup_long, machine_teardown)

#endif
