/*
 * The seam: what a hypervisor sees of the processor.
 *
 * One vmx_cpu is one logical processor in VMX root operation. Everything goes
 * through the VMX instructions, VMCS fields and capability MSRs of the SDM,
 * plus the state that VMX leaves to the hypervisor to switch (GPRs, CR2, DR0-3
 * and DR6, XCR0, XSAVE state, MSRs that are not in the VMCS). Nothing else of
 * the processor is visible: no TLB, no decoder. A second execution engine or a
 * real VT-x back end would implement this header and nothing more.
 *
 * Host-physical addresses are this process's virtual addresses; MAXPHYADDR of
 * the processor is 52 for host-physical addresses, and what the hypervisor says
 * (vmx_set_guest_maxphyaddr) for paging in non-root operation.
 *
 * Context: a vmx_cpu belongs to one thread at a time (the hypervisor
 * serialises); only vmx_kick() and vmx_notify() may be called from anywhere, signal handlers
 * included.
 */
#ifndef USERKVM_CPU_VMX_ISA_H
#define USERKVM_CPU_VMX_ISA_H

#include "lib/types.h"
#include "sdm/exit_reasons.h"
#include "sdm/vmcs_fields.h"
#include "sdm/vmentry_checks.h"
#include "sdm/vmx.h"

struct vmx_machine; /* what the logical processors of one machine share */
struct vmx_cpu;

#define VMCS_REVISION_ID 0x756b766dU /* "ukvm": first dword of a VMCS region */
#define VMX_HOST_MAXPHYADDR 52

/* -ENOMEM; -EINVAL: USERKVM_ENGINE names no engine. A machine outlives its processors. */
must_check int vmx_machine_create(struct vmx_machine **out);
void vmx_machine_destroy(struct vmx_machine *m);

/* A logical processor in VMX root operation, state as after RESET. -ENOMEM. */
must_check int vmx_cpu_create(struct vmx_machine *m, struct vmx_cpu **out);
void vmx_cpu_destroy(struct vmx_cpu *cpu);

/*
 * MAXPHYADDR of paging in non-root operation: 32 to 52, 52 until the first call.
 * Silicon has one number for everything; here the guest's processor may be narrower
 * than the addresses of this process. Address bits from it on are reserved in the
 * guest's paging-structure entries and in CR3. Drops all translations of a VPID.
 * Owner thread, outside the guest.
 */
void vmx_set_guest_maxphyaddr(struct vmx_cpu *cpu, unsigned bits);
/*
 * Whose processor the guest is to find, where the vendors' differ: SYSCALL and SYSRET outside
 * 64-bit mode (AMD's only), SYSENTER and SYSEXIT in IA-32e mode (Intel's only). The host's vendor
 * until the first call. Owner thread, outside the guest.
 */
void vmx_set_guest_vendor(struct vmx_cpu *cpu, bool amd);

/* How a VMX instruction ended (SDM "VMX Instruction Reference", conventions). */
enum vmx_result {
	VMX_SUCCEED,
	VMX_FAIL_INVALID, /* no current VMCS */
	VMX_FAIL_VALID,	  /* reason in VM_INSTRUCTION_ERROR of the current VMCS */
	VMX_BUS_ERROR,	  /* vmlaunch/vmresume only: see vmx_bus_error_address() */
};

must_check enum vmx_result vmclear(struct vmx_cpu *cpu, hpa_t vmcs);
must_check enum vmx_result vmptrld(struct vmx_cpu *cpu, hpa_t vmcs);
hpa_t vmptrst(struct vmx_cpu *cpu); /* ~0 when there is none */
/*
 * VMREAD without the instruction: of a field whose entry is not 0 the value stands there in the region of
 * the current VMCS, in bytes from its beginning, as 64 bits. Full encodings only (no high halves).
 */
#define VMX_FIELD_BITS 0x6c3eU /* width, kind and the low five bits of the index: side by side */
#define VMX_FIELD_SLOT(enc) (((enc) >> 6 & 0x180) | ((enc) >> 5 & 0x60) | ((enc) >> 1 & 0x1f))
extern const uint16_t vmx_vmcs_cells[512];
must_check enum vmx_result vmread(struct vmx_cpu *cpu, uint32_t field, uint64_t *value);
must_check enum vmx_result vmwrite(struct vmx_cpu *cpu, uint32_t field, uint64_t value);
must_check enum vmx_result invept(struct vmx_cpu *cpu, uint64_t type, uint64_t eptp);
/* The INVEPT is due and is left out (USERKVM_FORGET): the checkers of translations are told of it as if it were executed. */
void vmx_invept_forgotten(struct vmx_cpu *cpu, uint64_t type, uint64_t eptp);
must_check enum vmx_result invvpid(struct vmx_cpu *cpu, uint64_t type, uint16_t vpid, gva_t gla);

/*
 * USERKVM_CHECK=l1vpid (l1vpid.h): what a hypervisor in the guest does about its own guest, L2. Owner thread, outside the
 * guest; nothing where the check is off.
 */
struct vmx_check_l2 {
	unsigned vcpu;	    /* for reports */
	uint16_t vpid;	    /* L1's; 0: L2 runs without one */
	uint64_t eptp;	    /* L1's; 0: none */
	uint64_t cr3, cr4;  /* that the VM entry loads */
	uint64_t l1_rip;
};
bool vmx_checks_l1vpid(const struct vmx_cpu *cpu); /* L2's translations are to be dropped at its VM entries then */
/* For USERKVM_CHECK=l1ept, any thread: since then (TSC) L1 has been in user mode or an L2 there, or halted: an operation of its kernel's is over. */
bool vmx_check_calm_since(const struct vmx_cpu *cpu, uint64_t when);
/* IA32_LSTAR as programs of L1's had it last, for a hypervisor may have its guest's loaded; 0: none has run. */
uint64_t vmx_check_l1_lstar(const struct vmx_cpu *cpu);
void vmx_check_l2_enters(struct vmx_cpu *cpu, const struct vmx_check_l2 *with);
/* L1 is about to run: with what CR3 and CR4 L2 has left; whether by an EPT violation, which linear address it was for. */
void vmx_check_l2_left(struct vmx_cpu *cpu, uint64_t cr3, uint64_t cr4, bool violation, gva_t gva);
void vmx_check_l1_invvpid(struct vmx_cpu *cpu, uint64_t type, uint16_t vpid, gva_t gva);
void vmx_check_l1_invept(struct vmx_cpu *cpu, bool all, uint64_t eptp);

/*
 * Run the guest of the current VMCS until it leaves non-root operation.
 * VMX_SUCCEED: a VM exit (or failed entry, bit 31 of VM_EXIT_REASON) happened;
 *   the exit-information fields say which. Host state is not loaded: the C
 *   caller is the host.
 * VMX_BUS_ERROR: guest memory behind a valid EPT mapping could not be accessed
 *   (the client unmapped or truncated it). Guest state is saved at the start of
 *   the instruction that needed it, as for an interrupt; VM_EXIT_REASON is
 *   EXTERNAL_INTERRUPT; the hypervisor should drop the mapping and re-enter.
 */
must_check enum vmx_result vmlaunch(struct vmx_cpu *cpu);
must_check enum vmx_result vmresume(struct vmx_cpu *cpu);
hpa_t vmx_bus_error_address(struct vmx_cpu *cpu);
/* After VMX_BUS_ERROR: has the processor found itself broken? It is not to be entered again. */
bool vmx_broken(const struct vmx_cpu *cpu, const char **what, const char **file, int *line);

/*
 * An interprocessor interrupt for the hypervisor: the guest leaves at the next
 * instruction-block boundary with EXIT_REASON_EXTERNAL_INTERRUPT; if the
 * processor is not in the guest, the next entry leaves at once, before its
 * first instruction. Any thread; async-signal-safe.
 */
void vmx_kick(struct vmx_cpu *cpu);
/*
 * The same with a vector of the caller's. It is posted-interrupt processing, and no exit, where the
 * guest runs with "process posted interrupts" and this notification vector; else an external interrupt,
 * at this entry or at the next. Any thread; async-signal-safe.
 */
void vmx_notify(struct vmx_cpu *cpu, uint8_t vector);
/* Withdraw a kick that is still to be taken (owner thread only). */
void vmx_kick_clear(struct vmx_cpu *cpu);

/* The CPUID instruction in root operation. */
void vmx_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t regs[4]);

/*
 * RDMSR and WRMSR in root operation: VMX capability MSRs (read), and the MSRs
 * that the guest shares with the host because the VMCS does not switch them:
 * STAR, LSTAR, CSTAR, SYSCALL_MASK, KERNEL_GS_BASE, TSC_AUX, XSS, TSC (read).
 * -EINVAL where the instruction would raise #GP.
 */
must_check int vmx_rdmsr(struct vmx_cpu *cpu, uint32_t msr, uint64_t *value);
must_check int vmx_wrmsr(struct vmx_cpu *cpu, uint32_t msr, uint64_t value);
/* A capability MSR without a processor at hand (module set-up). */
uint64_t vmx_capability_msr(uint32_t msr);

/*
 * For people: which checks a VM entry with the current VMCS would not pass, in the order in which they are made.
 * After a failed entry, why. nr 0: all pass, or nobody knows (silicon does not tell).
 */
void vmx_entry_checks(const struct vmx_cpu *cpu, struct vmentry_failures *f);

/* State VMX leaves in the registers: valid between exit and entry. */
uint64_t *vmx_gprs(struct vmx_cpu *cpu); /* 16, hardware order; [RSP] unused: VMCS */
uint64_t vmx_get_cr2(struct vmx_cpu *cpu);
void vmx_set_cr2(struct vmx_cpu *cpu, uint64_t v);
uint64_t vmx_get_dr(struct vmx_cpu *cpu, unsigned nr); /* 0..3, 6 */
void vmx_set_dr(struct vmx_cpu *cpu, unsigned nr, uint64_t v);
uint64_t vmx_get_xcr0(struct vmx_cpu *cpu);
void vmx_set_xcr0(struct vmx_cpu *cpu, uint64_t v);
uint32_t vmx_get_pkru(struct vmx_cpu *cpu);
void vmx_set_pkru(struct vmx_cpu *cpu, uint32_t v);
/* The guest's XSAVE area (standard format, host layout), without component 9: that is vmx_get_pkru(). */
void *vmx_xsave_area(struct vmx_cpu *cpu, size_t *size_bytes);

/*
 * Memory that the guest executes may have been written behind the processor's
 * back (by the client, by DMA): decoded code is verified again before its next
 * use. To be called on each KVM_RUN.
 */
void vmx_sync_code(struct vmx_cpu *cpu);
/*
 * The same for every processor, from any thread. Each takes note when it enters
 * the guest, when it delivers a virtual interrupt, and when it translates an address for
 * execution that it had no translation for. Injecting an external interrupt does it: a
 * device has written and says so. For virtual interrupts the hypervisor calls it before
 * it requests them.
 */
void vmx_sync_machine_code(struct vmx_machine *m);
/* The same, when a range of host memory changes its meaning (any thread). */
void vmx_invalidate_code(struct vmx_machine *m, hpa_t start, uint64_t size_bytes);

/*
 * After a write within one page on behalf of this processor's own guest, by its
 * thread outside the guest: as if the processor had made it. Self-modifying code
 * runs as written, here and on the others.
 */
void vmx_code_written(struct vmx_cpu *cpu, hpa_t start, uint64_t size_bytes);

/*
 * The instruction whose access to memory made the last exit, and that access: for emulation, as other
 * processors' decode assists give it. False where it is not known: no such exit, an access on the way of an
 * event or to a paging structure, an instruction in two pages or changed since. Until the next entry.
 */
struct vmx_exit_insn {
	uint8_t bytes[15], len;
	bool read, write; /* of the access, which paging has allowed */
	uint64_t gla;
	uint64_t gpa;	  /* its translation; ~0: not known */
};
bool vmx_exit_insn(struct vmx_cpu *cpu, struct vmx_exit_insn *out);

/*
 * The exceptions that made the last triple fault: each but the first came up while the event before it
 * was being delivered. The oldest ones of a longer chain are left out.
 */
#define VMX_FAULT_CHAIN 5
struct vmx_fault {
	uint8_t vector;
	bool has_error_code;
	bool double_fault;	/* with the one before it: what was delivered next is #DF */
	int during;		/* the vector in whose delivery it came up; -1: an instruction raised it */
	uint32_t error_code;
	uint64_t payload;	/* CR2 of #PF */
};
/* How many there are, oldest first. Between a triple-fault exit and the next entry. */
unsigned vmx_fault_chain(const struct vmx_cpu *cpu, struct vmx_fault out[VMX_FAULT_CHAIN]);

/* Counters of this processor, for people; they never influence it. */
#define VMX_CPU_COUNTERS(F)                                        \
	F(instructions) F(blocks_run) F(blocks_decoded) F(tlb_fills) \
	F(tlb_flushes) F(exits) F(code_invalidations)              \
	F(split_locks) /* locked accesses across two cache lines */ \
	F(tlb_checked) F(tlb_stale_uses) /* USERKVM_CHECK=tlb */   \
	F(retired) /* USERKVM_JIT=count: instructions that came to their end, exact between blocks and at exits */ \
	/* the translator */                                       \
	F(jit_units) F(jit_insns) F(jit_bytes) F(jit_entries)      \
	/* ways out: by a cell, by an indirect branch, to an instruction that is interpreted; else left, of these by polls */ \
	F(jit_exit_cell) F(jit_exit_indirect) F(jit_exit_insn) F(jit_left) F(jit_polls) \
	F(jit_stubs) F(jit_binds) F(jit_resets) F(jit_resumes)     \
	F(jit_kills) F(jit_drops) F(jit_faults) /* drops: of all units at once, for room */ \
	F(jit_checked) F(jit_mismatches) /* USERKVM_JIT=check */
struct vmx_counters {
#define VMX_COUNTER_FIELD(n) uint64_t n;
	VMX_CPU_COUNTERS(VMX_COUNTER_FIELD)
#undef VMX_COUNTER_FIELD
};
const struct vmx_counters *vmx_cpu_counters(struct vmx_cpu *cpu);

/* "interp" or "jit" (USERKVM_ENGINE). */
const char *vmx_engine_name(void);

#endif
