/*
 * VM-exit reasons, once (SDM Vol. 3, appendix "VMX Basic Exit Reasons").
 * The names are those of <asm/vmx.h>, as in KVM's own tracepoints.
 */
#ifndef USERKVM_SDM_EXIT_REASONS_H
#define USERKVM_SDM_EXIT_REASONS_H

#include <stdint.h>

#define EXIT_REASONS(F)            \
	F(EXCEPTION_NMI, 0)        \
	F(EXTERNAL_INTERRUPT, 1)   \
	F(TRIPLE_FAULT, 2)         \
	F(INIT_SIGNAL, 3)          \
	F(SIPI_SIGNAL, 4)          \
	F(INTERRUPT_WINDOW, 7)     \
	F(NMI_WINDOW, 8)           \
	F(TASK_SWITCH, 9)          \
	F(CPUID, 10)               \
	F(HLT, 12)                 \
	F(INVD, 13)                \
	F(INVLPG, 14)              \
	F(RDPMC, 15)               \
	F(RDTSC, 16)               \
	F(VMCALL, 18)              \
	F(VMCLEAR, 19)             \
	F(VMLAUNCH, 20)            \
	F(VMPTRLD, 21)             \
	F(VMPTRST, 22)             \
	F(VMREAD, 23)              \
	F(VMRESUME, 24)            \
	F(VMWRITE, 25)             \
	F(VMOFF, 26)               \
	F(VMON, 27)                \
	F(CR_ACCESS, 28)           \
	F(DR_ACCESS, 29)           \
	F(IO_INSTRUCTION, 30)      \
	F(MSR_READ, 31)            \
	F(MSR_WRITE, 32)           \
	F(INVALID_STATE, 33)       \
	F(MSR_LOAD_FAIL, 34)       \
	F(MWAIT_INSTRUCTION, 36)   \
	F(MONITOR_TRAP_FLAG, 37)   \
	F(MONITOR_INSTRUCTION, 39) \
	F(PAUSE_INSTRUCTION, 40)   \
	F(MCE_DURING_VMENTRY, 41)  \
	F(TPR_BELOW_THRESHOLD, 43) \
	F(APIC_ACCESS, 44)         \
	F(EOI_INDUCED, 45)         \
	F(GDTR_IDTR, 46)           \
	F(LDTR_TR, 47)             \
	F(EPT_VIOLATION, 48)       \
	F(EPT_MISCONFIG, 49)       \
	F(INVEPT, 50)              \
	F(RDTSCP, 51)              \
	F(PREEMPTION_TIMER, 52)    \
	F(INVVPID, 53)             \
	F(WBINVD, 54)              \
	F(XSETBV, 55)              \
	F(APIC_WRITE, 56)          \
	F(RDRAND, 57)              \
	F(INVPCID, 58)             \
	F(VMFUNC, 59)              \
	F(ENCLS, 60)               \
	F(RDSEED, 61)              \
	F(PML_FULL, 62)            \
	F(XSAVES, 63)              \
	F(XRSTORS, 64)             \
	F(UMWAIT, 67)              \
	F(TPAUSE, 68)              \
	F(BUS_LOCK, 74)            \
	F(NOTIFY, 75)

#define EXIT_REASON_ENUM(name, nr) EXIT_REASON_##name = nr,
enum exit_reason { EXIT_REASONS(EXIT_REASON_ENUM) EXIT_REASON_COUNT = 76 };
#undef EXIT_REASON_ENUM

/* Bit 31 of the exit reason: the VM entry failed (reasons 33, 34, 41). */
#define VMX_EXIT_REASONS_FAILED_VMENTRY 0x80000000u
/* Bit 26: the exit came after an instruction that acquired a bus lock, which was looked for. */
#define VMX_EXIT_REASONS_BUS_LOCK 0x04000000u

/* "EPT_VIOLATION" for 48; "?" for a number that is no exit reason. */
const char *exit_reason_name(uint32_t reason);

#endif
