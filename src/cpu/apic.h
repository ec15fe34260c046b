/*
 * APIC virtualization and virtual interrupts, as VMX non-root operation has them
 * (SDM Vol. 3, "APIC Virtualization and Virtual Interrupts").
 *
 *   apic_checks.c  what VM entry checks of it
 *   apic_virt.c    priorities, EOI, evaluation, delivery, posted interrupts
 *   apic_exit.c    VM exits 43, 44, 45, 56
 *   apic_access.c  accesses to the APIC-access page, x2APIC MSRs, APIC-write emulation
 *   apic_quick.c   those of them that no exit can follow, for emitted code
 *
 * Invariants
 * 1. The processor knows the page by APIC_ACCESS_ADDR alone: never by a guest-physical
 *    address, never by IA32_APIC_BASE. No TLB entry of any kind has a tag for it.
 * 2. A load may pass by the rules through the window only (cpu_state.apic_*), which is open
 *    (apic_ok != 0) only while a read of every register in apic_ok would be virtualized. It is closed
 *    by isa_close_window(), which ends quick stores (apic_writes) too.
 * 3. A virtualized write is the last thing that its instruction, iteration or delivery is
 *    followed by: the emulation comes at the next boundary, before anything else.
 * 4. `recognised` changes at the evaluations the SDM names, and at delivery: by nothing else.
 *
 * Locks: the processor's thread, except the posted-interrupt descriptor.
 */
#ifndef USERKVM_CPU_APIC_H
#define USERKVM_CPU_APIC_H

#include "isa/isa.h"

struct vmcs;
struct vmentry_failures;
struct vmx_cpu;
struct cpu_exit;

/* Offsets in the virtual-APIC page. */
#define VAPIC_TPR 0x080U
#define VAPIC_PPR 0x0a0U
#define VAPIC_EOI 0x0b0U
#define VAPIC_ISR 0x100U
#define VAPIC_IRR 0x200U
#define VAPIC_ICR_LO 0x300U
#define VAPIC_ICR_HI 0x310U
#define VAPIC_SELF_IPI 0x3f0U
#define VAPIC_END 0x400U /* nothing beyond is ever virtualized */

/* MSRs of the x2APIC that can be written without an exit. */
#define X2APIC_TPR 0x808U
#define X2APIC_EOI 0x80bU
#define X2APIC_SELF_IPI 0x83fU

/* Registers by offset >> 4 (SDM "Virtualizing Reads from …", "Virtualizing Writes to the APIC-Access Page"). */
#define VAPIC_READ_MASK 0x41ff01ffffffe90cULL
#define VAPIC_WRITE_MASK 0x41ff01000000e904ULL

/* No page has this address: "virtualize APIC accesses" is 0. */
#define APIC_NO_ACCESS_PAGE 1ULL
/* Of struct tlb_sub: no translation to the page is known. */
#define APIC_NO_MAPPING 1ULL

#define APIC_WRITERS 256 /* instructions that are known to write to the page */

/* What the current VMCS says, and where the operation under way stands. */
struct cpu_apic {
	uint8_t *page;	    /* virtual-APIC page; NULL: no TPR shadow */
	hpa_t access;	    /* APIC-access page, or APIC_NO_ACCESS_PAGE */
	uint64_t *pid;	    /* posted-interrupt descriptor; NULL: "process posted interrupts" is 0 */
	uint64_t eoi_exit[4];
	uint8_t posted_vector;
	uint8_t threshold;
	bool reg_virt, vid, x2apic;
	uint8_t rvi, svi;
	bool recognised;    /* a virtual interrupt is pending */
	bool check_entry;   /* TPR against the threshold, once, after VM entry */
	struct {
		bool pending; /* APIC-write emulation is due at the boundary */
		uint16_t offset;
		uint8_t size;
	} write;
	hpa_t writers[APIC_WRITERS]; /* host addresses of instructions that end their blocks */
};

/* --- apic_checks.c: why VM entry fails. --- */
/* Control fields, by the controls: those whose outcome can be remembered. */
void cpu_check_apic_controls(const struct vmcs *v, struct vmentry_failures *f);
/* TPR threshold: looks at the virtual-APIC page, at every entry; the other controls have passed. */
void cpu_check_tpr_threshold(const struct vmcs *v, struct vmentry_failures *f);

/* --- apic_exit.c --- */
/* 43, 45, 56: after the operation, at the next instruction. */
void cpu_apic_exit_trap(struct vmx_cpu *cpu, uint32_t reason, uint64_t qualification)
	__attribute__((noreturn));
/* Exit 44 for an access that is never virtualized. `how` without ISA_READ and ISA_WRITE: a fetch. */
void cpu_apic_access_exit(struct vmx_cpu *cpu, gva_t lin, enum isa_access how)
	__attribute__((noreturn));
/* The same for an access by guest-physical address (paging structures, PDPTEs). */
void cpu_apic_physical_exit(struct vmx_cpu *cpu) __attribute__((noreturn));

/* --- apic_virt.c --- */
void cpu_apic_load_controls(struct vmx_cpu *cpu, const struct vmcs *v); /* what load_rest() of entry.c loads of it */
void cpu_apic_load(struct vmx_cpu *cpu, const struct vmcs *v); /* each VM entry; controls are loaded */
/* VTPR was written: what follows of it. May exit (43). */
void cpu_apic_tpr_written(struct vmx_cpu *cpu);
void cpu_apic_eoi(struct vmx_cpu *cpu); /* EOI virtualization; may exit (45) */
void cpu_apic_self_ipi(struct vmx_cpu *cpu, uint8_t vector);
/* At a boundary: what an entry or a write has left to do. May exit (43, 45, 56). */
void cpu_apic_boundary(struct vmx_cpu *cpu);
/* At a boundary: deliver the virtual interrupt (cpu_apic_deliverable). */
void cpu_apic_deliver(struct vmx_cpu *cpu);
/* At a boundary: an interrupt of vmx_notify(). Posted, or an exit (1). */
void cpu_apic_take_notification(struct vmx_cpu *cpu);
/* CR8 with TPR shadow; v: bits 63:4 are 0. */
uint64_t cpu_apic_read_cr8(const struct vmx_cpu *cpu);
void cpu_apic_write_cr8(struct vmx_cpu *cpu, uint64_t v);

/* --- apic_access.c --- */
/*
 * [lin, lin + size) is within the APIC-access page and has passed paging and EPT: the pointer to
 * use instead, or exit 44. Not for accesses that cross into another page, nor for fetches.
 */
void *cpu_apic_access(struct vmx_cpu *cpu, gva_t lin, unsigned size, enum isa_access how);
/* Does the instruction whose first byte is at `host` end its block, because it writes to the page? */
bool cpu_apic_writer(const struct vmx_cpu *cpu, hpa_t host);
/*
 * A register was written to in the page: its emulation is due at the boundary. An engine looks behind
 * the last instruction of a block that has a system instruction or ends for such a write
 * (cpu_after_system()); elsewhere the caller makes a request.
 */
void cpu_apic_written(struct vmx_cpu *cpu, uint32_t offset, unsigned size);
/* Emulation of the write in cpu->apic.write. */
void cpu_apic_emulate_write(struct vmx_cpu *cpu);
/* x2APIC MSRs 800h-8ffh that the MSR bitmap lets through. False: #GP(0). */
bool cpu_apic_read_msr(struct vmx_cpu *cpu, uint32_t msr, uint64_t *v);
bool cpu_apic_write_msr(struct vmx_cpu *cpu, uint32_t msr, uint64_t v);

/* --- apic_quick.c --- */
/* What cpu_apic_quick() may do: by the instruction alone. */
enum cpu_apic_form {
	CPU_APIC_NONE,
	CPU_APIC_STORE,	 /* MOV of 32 bits to memory */
	CPU_APIC_SYSTEM, /* MOV to and from CR8, WRMSR: none goes on elsewhere than behind itself */
};
enum cpu_apic_form cpu_apic_form(const struct isa_insn *i);
/*
 * At an instruction boundary of emitted code, registers stored: the whole instruction i, but for RIP. False: nothing
 * has changed, its handler is to run. Behind it a virtual interrupt may be due.
 */
bool cpu_apic_quick(struct vmx_cpu *cpu, const struct isa_insn *i);

#endif
