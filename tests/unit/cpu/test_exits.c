/*
 * VM exits: for each exit reason a guest that causes it, and every
 * exit-information field (SDM Vol. 3, "VM Exits": "Recording VM-Exit
 * Information"). Fields that a reason does not name are 0 here.
 */
#include "machine.h"

#include <errno.h>

#define STATE struct machine *t = *state
#define PRIMARY CPU_BASED_VM_EXEC_CONTROL
#define SECONDARY SECONDARY_VM_EXEC_CONTROL
#define PIN PIN_BASED_VM_EXEC_CONTROL
#define DATA 0x100000UL /* every general register n but RSP: DATA + n * 0x1000 */
#define REG(n) (DATA + (n) * 0x1000UL)

struct fields {
	uint64_t qualification, gla, gpa;
	uint32_t insn_len, insn_info, intr_info, intr_error, vectoring;
};

struct exit_case {
	const char *name;
	uint8_t code[16];
	uint32_t control;
	uint64_t set;
	uint32_t reason;
	struct fields f;
	uint32_t also; /* another field that is to have these bits; 0: none */
	uint64_t also_set;
	uint32_t rip_after; /* of the guest's code: trap-like exits */
};

/* Parts of VM-exit instruction information: base, index and their absence, register 2. */
#define INFO_BASE(n) ((uint32_t)(n) << 23)
#define INFO_INDEX(n, scale) ((uint32_t)(n) << 18 | (scale))
#define INFO_NO_INDEX (1u << 22)
#define INFO_NO_BASE (1u << 27)
#define INFO_A64 (2u << 7)
#define INFO_SEG(s) ((uint32_t)(s) << 15)
#define INFO_REG2(n) ((uint32_t)(n) << 28)
/* Descriptor-table instructions: operand size, undefined in 64-bit mode; ours is 32 bits. */
#define INFO_O32 (1u << 11)
#define INFO_AT_RAX (INFO_A64 | INFO_BASE(RAX) | INFO_NO_INDEX | INFO_SEG(SREG_DS))
#define EXCEPTION(v, type, more) (0x80000000u | (v) | (type) << 8 | (more))
#define ERROR_CODE (1u << 11)

static const struct exit_case cases[] = {
	/* by instruction, unconditionally */
	{ "CPUID", { 0x0f, 0xa2 }, 0, 0, EXIT_REASON_CPUID, { .insn_len = 2 } },
	{ "INVD", { 0x0f, 0x08 }, 0, 0, EXIT_REASON_INVD, { .insn_len = 2 } },
	{ "VMCALL", { 0x0f, 0x01, 0xc1 }, 0, 0, EXIT_REASON_VMCALL, { .insn_len = 3 } },
	{ "VMLAUNCH", { 0x0f, 0x01, 0xc2 }, 0, 0, EXIT_REASON_VMLAUNCH, { .insn_len = 3 } },
	{ "VMRESUME", { 0x0f, 0x01, 0xc3 }, 0, 0, EXIT_REASON_VMRESUME, { .insn_len = 3 } },
	{ "VMXOFF", { 0x0f, 0x01, 0xc4 }, 0, 0, EXIT_REASON_VMOFF, { .insn_len = 3 } },
	{ "VMCLEAR [rax]", { 0x66, 0x0f, 0xc7, 0x30 }, 0, 0, EXIT_REASON_VMCLEAR,
	  { .insn_len = 4, .insn_info = INFO_AT_RAX } },
	{ "VMPTRLD [rax+8]", { 0x0f, 0xc7, 0x70, 0x08 }, 0, 0, EXIT_REASON_VMPTRLD,
	  { .insn_len = 4, .qualification = 8, .insn_info = INFO_AT_RAX } },
	{ "VMPTRST [rax-8]", { 0x0f, 0xc7, 0x78, 0xf8 }, 0, 0, EXIT_REASON_VMPTRST,
	  { .insn_len = 4, .qualification = -8ULL, .insn_info = INFO_AT_RAX } },
	{ "VMXON [rbx+rcx*4]", { 0xf3, 0x0f, 0xc7, 0x34, 0x8b }, 0, 0, EXIT_REASON_VMON,
	  { .insn_len = 5, .insn_info = INFO_A64 | INFO_BASE(RBX) | INFO_INDEX(RCX, 2) | INFO_SEG(SREG_DS) } },
	{ "VMREAD rax,rbx", { 0x0f, 0x78, 0xd8 }, 0, 0, EXIT_REASON_VMREAD,
	  { .insn_len = 3, .insn_info = 1 << 10 | RAX << 3 | INFO_REG2(RBX) } },
	{ "VMREAD fs:[rax],r9", { 0x64, 0x44, 0x0f, 0x78, 0x08 }, 0, 0, EXIT_REASON_VMREAD,
	  { .insn_len = 5, .insn_info = (INFO_AT_RAX & ~INFO_SEG(7)) | INFO_SEG(SREG_FS) | INFO_REG2(9) } },
	{ "VMWRITE rbx,[1234h]", { 0x0f, 0x79, 0x1c, 0x25, 0x34, 0x12, 0, 0 }, 0, 0, EXIT_REASON_VMWRITE,
	  { .insn_len = 8, .qualification = 0x1234,
	    .insn_info = INFO_A64 | INFO_NO_BASE | INFO_NO_INDEX | INFO_SEG(SREG_DS) | INFO_REG2(RBX) } },
	{ "INVEPT rcx,[rax]", { 0x66, 0x0f, 0x38, 0x80, 0x08 }, 0, 0, EXIT_REASON_INVEPT,
	  { .insn_len = 5, .insn_info = INFO_AT_RAX | INFO_REG2(RCX) } },
	{ "INVVPID r15,[rax]", { 0x66, 0x44, 0x0f, 0x38, 0x81, 0x38 }, 0, 0, EXIT_REASON_INVVPID,
	  { .insn_len = 6, .insn_info = INFO_AT_RAX | INFO_REG2(15) } },
	{ "XSETBV", { 0x0f, 0x01, 0xd1 }, GUEST_CR4, X86_CR4_OSXSAVE, EXIT_REASON_XSETBV, { .insn_len = 3 } },

	/* by instruction, conditionally */
	{ "VMFUNC", { 0x0f, 0x01, 0xd4 }, SECONDARY, SECONDARY_EXEC_ENABLE_VMFUNC, EXIT_REASON_VMFUNC, { .insn_len = 3 } },
	{ "HLT", { 0xf4 }, PRIMARY, CPU_BASED_HLT_EXITING, EXIT_REASON_HLT, { .insn_len = 1 } },
	{ "INVLPG [rax]", { 0x0f, 0x01, 0x38 }, PRIMARY, CPU_BASED_INVLPG_EXITING, EXIT_REASON_INVLPG,
	  { .insn_len = 3, .qualification = REG(RAX) } },
	{ "INVPCID rdx,[rax]", { 0x66, 0x0f, 0x38, 0x82, 0x10 }, PRIMARY, CPU_BASED_INVLPG_EXITING,
	  EXIT_REASON_INVPCID, { .insn_len = 5, .insn_info = INFO_AT_RAX | INFO_REG2(RDX) }, SECONDARY,
	  SECONDARY_EXEC_ENABLE_INVPCID },
	{ "RDPMC", { 0x0f, 0x33 }, PRIMARY, CPU_BASED_RDPMC_EXITING, EXIT_REASON_RDPMC, { .insn_len = 2 } },
	{ "RDTSC", { 0x0f, 0x31 }, PRIMARY, CPU_BASED_RDTSC_EXITING, EXIT_REASON_RDTSC, { .insn_len = 2 } },
	{ "RDTSCP", { 0x0f, 0x01, 0xf9 }, PRIMARY, CPU_BASED_RDTSC_EXITING, EXIT_REASON_RDTSCP,
	  { .insn_len = 3 }, SECONDARY, SECONDARY_EXEC_ENABLE_RDTSCP },
	{ "MONITOR", { 0x0f, 0x01, 0xc8 }, PRIMARY, CPU_BASED_MONITOR_EXITING, EXIT_REASON_MONITOR_INSTRUCTION,
	  { .insn_len = 3 } },
	{ "MWAIT", { 0x0f, 0x01, 0xc9 }, PRIMARY, CPU_BASED_MWAIT_EXITING, EXIT_REASON_MWAIT_INSTRUCTION,
	  { .insn_len = 3 } },
	{ "PAUSE", { 0xf3, 0x90 }, PRIMARY, CPU_BASED_PAUSE_EXITING, EXIT_REASON_PAUSE_INSTRUCTION,
	  { .insn_len = 2 } },
	{ "WBINVD", { 0x0f, 0x09 }, SECONDARY, SECONDARY_EXEC_WBINVD_EXITING, EXIT_REASON_WBINVD,
	  { .insn_len = 2 } },
	{ "SGDT [rax]", { 0x0f, 0x01, 0x00 }, SECONDARY, SECONDARY_EXEC_DESC, EXIT_REASON_GDTR_IDTR,
	  { .insn_len = 3, .insn_info = INFO_O32 | INFO_AT_RAX } },
	{ "SIDT [rax]", { 0x0f, 0x01, 0x08 }, SECONDARY, SECONDARY_EXEC_DESC, EXIT_REASON_GDTR_IDTR,
	  { .insn_len = 3, .insn_info = INFO_O32 | INFO_AT_RAX | 1 << 28 } },
	{ "LGDT [rax]", { 0x0f, 0x01, 0x10 }, SECONDARY, SECONDARY_EXEC_DESC, EXIT_REASON_GDTR_IDTR,
	  { .insn_len = 3, .insn_info = INFO_O32 | INFO_AT_RAX | 2 << 28 } },
	{ "LIDT [rax]", { 0x0f, 0x01, 0x18 }, SECONDARY, SECONDARY_EXEC_DESC, EXIT_REASON_GDTR_IDTR,
	  { .insn_len = 3, .insn_info = INFO_O32 | INFO_AT_RAX | 3u << 28 } },
	{ "SLDT ecx", { 0x0f, 0x00, 0xc1 }, SECONDARY, SECONDARY_EXEC_DESC, EXIT_REASON_LDTR_TR,
	  { .insn_len = 3, .insn_info = 1 << 10 | RCX << 3 } },
	{ "STR ecx", { 0x0f, 0x00, 0xc9 }, SECONDARY, SECONDARY_EXEC_DESC, EXIT_REASON_LDTR_TR,
	  { .insn_len = 3, .insn_info = 1 << 10 | RCX << 3 | 1 << 28 } },
	{ "LLDT cx", { 0x0f, 0x00, 0xd1 }, SECONDARY, SECONDARY_EXEC_DESC, EXIT_REASON_LDTR_TR,
	  { .insn_len = 3, .insn_info = 1 << 10 | RCX << 3 | 2 << 28 } },
	{ "LTR [rax]", { 0x0f, 0x00, 0x18 }, SECONDARY, SECONDARY_EXEC_DESC, EXIT_REASON_LDTR_TR,
	  { .insn_len = 3, .insn_info = INFO_AT_RAX | 3u << 28 } },
	{ "RDMSR", { 0x0f, 0x32 }, 0, 0, EXIT_REASON_MSR_READ, { .insn_len = 2 } },
	{ "WRMSR", { 0x0f, 0x30 }, 0, 0, EXIT_REASON_MSR_WRITE, { .insn_len = 2 } },
	{ "MOV cr0,rbx", { 0x0f, 0x22, 0xc3 }, CR0_GUEST_HOST_MASK, ~0ULL, EXIT_REASON_CR_ACCESS,
	  { .insn_len = 3, .qualification = RBX << 8 } },
	{ "MOV cr3,rbx", { 0x0f, 0x22, 0xdb }, PRIMARY, CPU_BASED_CR3_LOAD_EXITING, EXIT_REASON_CR_ACCESS,
	  { .insn_len = 3, .qualification = 3 | RBX << 8 } },
	{ "MOV rcx,cr3", { 0x0f, 0x20, 0xd9 }, PRIMARY, CPU_BASED_CR3_STORE_EXITING, EXIT_REASON_CR_ACCESS,
	  { .insn_len = 3, .qualification = 3 | 1 << 4 | RCX << 8 } },
	{ "MOV cr4,rsi", { 0x0f, 0x22, 0xe6 }, CR4_GUEST_HOST_MASK, ~0ULL, EXIT_REASON_CR_ACCESS,
	  { .insn_len = 3, .qualification = 4 | RSI << 8 } },
	{ "MOV cr8,r9", { 0x45, 0x0f, 0x22, 0xc1 }, PRIMARY, CPU_BASED_CR8_LOAD_EXITING, EXIT_REASON_CR_ACCESS,
	  { .insn_len = 4, .qualification = 8 | 9 << 8 } },
	{ "MOV r9,cr8", { 0x45, 0x0f, 0x20, 0xc1 }, PRIMARY, CPU_BASED_CR8_STORE_EXITING, EXIT_REASON_CR_ACCESS,
	  { .insn_len = 4, .qualification = 8 | 1 << 4 | 9 << 8 } },
	{ "CLTS", { 0x0f, 0x06 }, CR0_GUEST_HOST_MASK, X86_CR0_TS, EXIT_REASON_CR_ACCESS,
	  { .insn_len = 2, .qualification = CR_ACCESS_CLTS << 4 }, CR0_READ_SHADOW, X86_CR0_TS },
	{ "LMSW bx", { 0x0f, 0x01, 0xf3 }, CR0_GUEST_HOST_MASK, X86_CR0_MP, EXIT_REASON_CR_ACCESS,
	  { .insn_len = 3, .qualification = CR_ACCESS_LMSW << 4 | (REG(RBX) & 0xffff) << 16 },
	  CR0_READ_SHADOW, X86_CR0_MP },
	{ "LMSW [rax]", { 0x0f, 0x01, 0x30 }, CR0_GUEST_HOST_MASK, X86_CR0_MP, EXIT_REASON_CR_ACCESS,
	  { .insn_len = 3, .qualification = CR_ACCESS_LMSW << 4 | 1 << 6, .gla = REG(RAX) },
	  CR0_READ_SHADOW, X86_CR0_MP },
	{ "MOV dr7,rbx", { 0x0f, 0x23, 0xfb }, PRIMARY, CPU_BASED_MOV_DR_EXITING, EXIT_REASON_DR_ACCESS,
	  { .insn_len = 3, .qualification = 7 | RBX << 8 } },
	{ "MOV r10,dr6", { 0x41, 0x0f, 0x21, 0xf2 }, PRIMARY, CPU_BASED_MOV_DR_EXITING, EXIT_REASON_DR_ACCESS,
	  { .insn_len = 4, .qualification = 6 | 1 << 4 | 10 << 8 } },
	{ "OUT 60h,al", { 0xe6, 0x60 }, 0, 0, EXIT_REASON_IO_INSTRUCTION,
	  { .insn_len = 2, .qualification = 0x60 << 16 | 1 << 6 } },
	{ "IN ax,dx", { 0x66, 0xed }, 0, 0, EXIT_REASON_IO_INSTRUCTION,
	  { .insn_len = 2, .qualification = (REG(RDX) & 0xffff) << 16 | 1 << 3 | 1 } },
	{ "REP INSD", { 0xf3, 0x6d }, 0, 0, EXIT_REASON_IO_INSTRUCTION,
	  { .insn_len = 2, .qualification = (REG(RDX) & 0xffff) << 16 | 1 << 5 | 1 << 4 | 1 << 3 | 3,
	    .gla = REG(RDI), .insn_info = 2 << 7 | INFO_SEG(SREG_ES) } },
	{ "OUTSB fs:", { 0x64, 0x6e }, 0, 0, EXIT_REASON_IO_INSTRUCTION,
	  { .insn_len = 2, .qualification = (REG(RDX) & 0xffff) << 16 | 1 << 4, .gla = REG(RSI),
	    .insn_info = 2 << 7 | INFO_SEG(SREG_FS) } },

	/* exceptions and the like */
	{ "#UD", { 0x0f, 0x0b }, EXCEPTION_BITMAP, 1 << X86_TRAP_UD, EXIT_REASON_EXCEPTION_NMI,
	  { .intr_info = EXCEPTION(X86_TRAP_UD, INTR_TYPE_HARD_EXCEPTION, 0) } },
	{ "#GP", { 0x0f, 0x22, 0xd8 }, EXCEPTION_BITMAP, 1 << X86_TRAP_GP, EXIT_REASON_EXCEPTION_NMI,
	  { .intr_info = EXCEPTION(X86_TRAP_GP, INTR_TYPE_HARD_EXCEPTION, ERROR_CODE) }, GUEST_CS_AR_BYTES, 0 },
	{ "#PF by a write", { 0x89, 0x04, 0x25, 0x10, 0, 0x40, 0 }, EXCEPTION_BITMAP, 1 << X86_TRAP_PF,
	  EXIT_REASON_EXCEPTION_NMI,
	  { .qualification = 0x400010, .intr_error = PFERR_WRITE_MASK,
	    .intr_info = EXCEPTION(X86_TRAP_PF, INTR_TYPE_HARD_EXCEPTION, ERROR_CODE) } },
	{ "INT3", { 0xcc }, EXCEPTION_BITMAP, 1 << X86_TRAP_BP, EXIT_REASON_EXCEPTION_NMI,
	  { .insn_len = 1, .intr_info = EXCEPTION(X86_TRAP_BP, INTR_TYPE_SOFT_EXCEPTION, 0) } },
	{ "INT1", { 0xf1 }, EXCEPTION_BITMAP, 1 << X86_TRAP_DB, EXIT_REASON_EXCEPTION_NMI,
	  { .insn_len = 1, .intr_info = EXCEPTION(X86_TRAP_DB, INTR_TYPE_PRIV_SW_EXCEPTION, 0) } },
	{ "#DB by TF", { 0x90 }, EXCEPTION_BITMAP, 1 << X86_TRAP_DB, EXIT_REASON_EXCEPTION_NMI,
	  { .qualification = DR6_BS, .intr_info = EXCEPTION(X86_TRAP_DB, INTR_TYPE_HARD_EXCEPTION, 0) },
	  GUEST_RFLAGS, X86_FLAGS_TF, 1 },
	{ "triple fault", { 0x0f, 0x0b }, GUEST_IDTR_LIMIT, 0, EXIT_REASON_TRIPLE_FAULT, { 0 } },

	/* windows, traps and time */
	{ "external interrupt", { 0x90 }, 0, 0, EXIT_REASON_EXTERNAL_INTERRUPT, { 0 } },
	{ "external interrupt, acknowledged", { 0x90 }, VM_EXIT_CONTROLS, VM_EXIT_ACK_INTR_ON_EXIT,
	  EXIT_REASON_EXTERNAL_INTERRUPT, { .intr_info = EXCEPTION(CPU_KICK_VECTOR, INTR_TYPE_EXT_INTR, 0) } },
	{ "interrupt window", { 0x90 }, PRIMARY, CPU_BASED_INTR_WINDOW_EXITING, EXIT_REASON_INTERRUPT_WINDOW,
	  { 0 }, GUEST_RFLAGS, X86_FLAGS_IF },
	{ "NMI window", { 0x90 }, PRIMARY, CPU_BASED_NMI_WINDOW_EXITING, EXIT_REASON_NMI_WINDOW, { 0 }, PIN,
	  PIN_BASED_VIRTUAL_NMIS },
	{ "NMI window after IRET", { 0x48, 0xcf }, PRIMARY, CPU_BASED_NMI_WINDOW_EXITING,
	  EXIT_REASON_NMI_WINDOW, { 0 }, PIN, PIN_BASED_VIRTUAL_NMIS, 0x40 },
	{ "monitor trap", { 0x90 }, PRIMARY, CPU_BASED_MONITOR_TRAP_FLAG, EXIT_REASON_MONITOR_TRAP_FLAG, { 0 },
	  0, 0, 1 },
	{ "preemption timer", { 0xeb, 0xfe }, PIN, PIN_BASED_VMX_PREEMPTION_TIMER,
	  EXIT_REASON_PREEMPTION_TIMER, { 0 } },

	/* EPT */
	{ "EPT violation by a read", { 0x8b, 0x0c, 0x25, 0x34, 0x02, 0x06, 0 }, 0, 0, EXIT_REASON_EPT_VIOLATION,
	  { .qualification = 0x181, .gla = 0x60234, .gpa = 0x60234 } },
	{ "EPT misconfiguration", { 0x8b, 0x0c, 0x25, 0x34, 0x12, 0x06, 0 }, 0, 0, EXIT_REASON_EPT_MISCONFIG,
	  { .gpa = 0x61234 } },
	{ "EPT misconfiguration, written to", { 0x89, 0x0c, 0x25, 0x34, 0x12, 0x06, 0 }, 0, 0, EXIT_REASON_EPT_MISCONFIG,
	  { .gpa = 0x61234 } },
	{ "EPT misconfiguration, MOVZX", { 0x0f, 0xb6, 0x0c, 0x25, 0x34, 0x12, 0x06, 0 }, 0, 0, EXIT_REASON_EPT_MISCONFIG,
	  { .gpa = 0x61234 } },
	{ "page-modification log full", { 0x89, 0x0c, 0x25, 0, 0, 0x10, 0 }, SECONDARY, SECONDARY_EXEC_ENABLE_PML,
	  EXIT_REASON_PML_FULL, { 0 }, EPT_POINTER, EPTP_AD_ENABLE },
};

/* What single cases need beside their two fields. */
static void prepare(struct machine *t, const struct exit_case *c)
{
	*ept_leaf(t, 0x60000) = 0;
	*ept_leaf(t, 0x61000) = EPT_WRITE; /* misconfigured: writable, not readable */
	for (unsigned n = 0; n < NR_GPRS; n++)
		vmx_gprs(t->cpu)[n] = REG(n);
	switch (c->reason) {
	case EXIT_REASON_EXTERNAL_INTERRUPT:
		vmx_kick(t->cpu);
		break;
	case EXIT_REASON_TRIPLE_FAULT:
		W(GUEST_IDTR_LIMIT, 0);
		break;
	case EXIT_REASON_VMFUNC:
		vmx_gprs(t->cpu)[RAX] = 63; /* the last number there is */
		break;
	case EXIT_REASON_PML_FULL:
		W(GUEST_PML_INDEX, 0xffff);
		W(PML_ADDRESS, (hpa_t)t->ram + 0x70000);
		break;
	case EXIT_REASON_NMI_WINDOW:
		if (c->code[1] != 0xcf)
			break;
		W(GUEST_INTERRUPTIBILITY_INFO, GUEST_INTR_STATE_NMI);
		W(GUEST_RSP, 0x50000);
		guest64(t, 0x50000)[0] = GPA_CODE + 0x40;
		guest64(t, 0x50000)[1] = 8;
		guest64(t, 0x50000)[2] = X86_FLAGS_FIXED;
		guest64(t, 0x50000)[3] = GPA_STACK;
		guest64(t, 0x50000)[4] = 16;
		break;
	case EXIT_REASON_EXCEPTION_NMI:
		if (c->code[1] == 0x22) /* MOV to CR3 of reserved bits */
			vmx_gprs(t->cpu)[RAX] = BIT_ULL(60);
		break;
	default:
		break;
	}
}

static void check_field(const struct exit_case *c, struct machine *t, const char *name, uint32_t field,
			uint64_t want)
{
	if (R(t, field) != want)
		fail_msg("%s: %s is %#lx, not %#lx", c->name, name, (unsigned long)R(t, field),
			 (unsigned long)want);
}

static void check_case(const struct exit_case *c)
{
	static const uint8_t behind[] = { 0xff, 0x07 }; /* inc dword [rdi] */
	struct machine *t;
	unsigned length;
	uint64_t rsp;

	machine_setup_long((void **)&t);
	memcpy(t->ram + GPA_CODE, c->code, sizeof(c->code));
	length = c->reason == EXIT_REASON_EPT_VIOLATION || c->reason == EXIT_REASON_EPT_MISCONFIG ? (c->code[0] == 0x0f ? 8 : 7) : c->f.insn_len;
	if (length && !c->code[length])
		memcpy(t->ram + GPA_CODE + length, behind, sizeof(behind));
	/* information of an exit before, to be seen gone */
	t->vmcs->IDT_VECTORING_INFO_FIELD = t->vmcs->VM_EXIT_INTR_INFO = 0x80000301;
	t->vmcs->EXIT_QUALIFICATION = t->vmcs->VM_EXIT_INSTRUCTION_LEN = 0x55;
	if (c->control)
		W(c->control, R(t, c->control) | c->set);
	if (c->also)
		W(c->also, R(t, c->also) | c->also_set);
	prepare(t, c);
	rsp = R(t, GUEST_RSP);
	if (c->also_set == X86_FLAGS_TF) /* nothing but the trap */
		W(GUEST_RFLAGS, X86_FLAGS_FIXED | X86_FLAGS_TF);
	go(t);
	check_field(c, t, "reason", VM_EXIT_REASON, c->reason);
	check_field(c, t, "qualification", EXIT_QUALIFICATION, c->f.qualification);
	check_field(c, t, "linear address", GUEST_LINEAR_ADDRESS, c->f.gla);
	check_field(c, t, "physical address", GUEST_PHYSICAL_ADDRESS, c->f.gpa);
	check_field(c, t, "instruction length", VM_EXIT_INSTRUCTION_LEN, c->f.insn_len);
	check_field(c, t, "instruction information", VMX_INSTRUCTION_INFO, c->f.insn_info);
	check_field(c, t, "interruption information", VM_EXIT_INTR_INFO, c->f.intr_info);
	if (c->f.intr_info & ERROR_CODE)
		check_field(c, t, "error code", VM_EXIT_INTR_ERROR_CODE, c->f.intr_error);
	check_field(c, t, "vectoring information", IDT_VECTORING_INFO_FIELD, c->f.vectoring);
	check_field(c, t, "RIP", GUEST_RIP, GPA_CODE + c->rip_after);
	if (c->rip_after != 0x40)
		check_field(c, t, "RSP", GUEST_RSP, rsp);
	for (unsigned n = 0; n < NR_GPRS; n++)
		if (n != RSP && n != RAX && vmx_gprs(t->cpu)[n] != REG(n))
			fail_msg("%s: register %u has changed", c->name, n);
	if (guest64(t, REG(RDI))[0])
		fail_msg("%s: the instruction behind it has run", c->name);
	machine_teardown((void **)&t);
}

static void each_reason_has_its_fields(void **state)
{
	for (size_t n = 0; n < ARRAY_SIZE(cases); n++)
		check_case(&cases[n]);
}

/* The reasons of other tests: 9 in test_far, 33 and 34 in test_entry. */
static void no_reason_is_without_its_case(void **state)
{
	static const uint16_t all[] = {
		0, 1, 2, 7, 8, 10, 12, 13, 14, 15, 16, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31,
		32, 36, 37, 39, 40, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 58, 62,
	};

	for (size_t n = 0; n < ARRAY_SIZE(all); n++) {
		bool found = false;

		for (size_t k = 0; k < ARRAY_SIZE(cases); k++)
			found |= cases[k].reason == all[n];
		if (!found)
			fail_msg("exit reason %u", all[n]);
	}
}

/* The instructions without their control: no exit but that of the HLT which follows. */
static void without_its_control_the_instruction_runs(void **state)
{
	static const uint8_t code[][8] = {
		{ 0x0f, 0x01, 0x38, 0xf4 },	  /* INVLPG [rax] */
		{ 0x0f, 0x31, 0xf4 },		  /* RDTSC */
		{ 0xf3, 0x90, 0xf4 },		  /* PAUSE */
		{ 0x0f, 0x09, 0xf4 },		  /* WBINVD */
		{ 0x0f, 0x01, 0x00, 0xf4 },	  /* SGDT [rax] */
		{ 0x0f, 0x00, 0xc1, 0xf4 },	  /* SLDT ecx */
		{ 0x0f, 0x20, 0xd9, 0xf4 },	  /* MOV rcx,cr3 */
		{ 0x45, 0x0f, 0x20, 0xc1, 0xf4 }, /* MOV r9,cr8 */
		{ 0x41, 0x0f, 0x21, 0xf2, 0xf4 }, /* MOV r10,dr6 */
		{ 0x0f, 0x06, 0xf4 },		  /* CLTS */
	};
	struct machine *t;

	for (size_t n = 0; n < ARRAY_SIZE(code); n++) {
		machine_setup_long((void **)&t);
		W(CPU_BASED_VM_EXEC_CONTROL, R(t, CPU_BASED_VM_EXEC_CONTROL) & ~CPU_BASED_CR3_STORE_EXITING);
		memcpy(t->ram + GPA_CODE, code[n], sizeof(code[n]));
		vmx_gprs(t->cpu)[RAX] = DATA;
		assert_int_equal(go(t), EXIT_REASON_HLT);
		machine_teardown((void **)&t);
	}
}

/* VMFUNC of a number that no control has a bit for, and without its control. */
static void a_vm_function_that_cannot_be_is_ud(void **state)
{
	struct machine *t;

	for (int with = 0; with < 2; with++) {
		machine_setup_long((void **)&t);
		W(EXCEPTION_BITMAP, 1 << X86_TRAP_UD);
		if (with)
			W(SECONDARY_VM_EXEC_CONTROL, R(t, SECONDARY_VM_EXEC_CONTROL) | SECONDARY_EXEC_ENABLE_VMFUNC);
		memcpy(t->ram + GPA_CODE, (uint8_t[]){ 0x0f, 0x01, 0xd4 }, 3);
		vmx_gprs(t->cpu)[RAX] = with ? 64 : 0;
		assert_int_equal(go(t), EXIT_REASON_EXCEPTION_NMI);
		assert_int_equal(R(t, VM_EXIT_INTR_INFO) & INTR_INFO_VECTOR_MASK, X86_TRAP_UD);
		machine_teardown((void **)&t);
	}
}

struct msr_slot {
	uint32_t index, reserved;
	uint64_t value;
};

static void exit_stores_and_loads_its_msr_areas(void **state)
{
	STATE;
	struct msr_slot *store = (struct msr_slot *)(t->ram + 0x70000), *load = store + 8;

	CODE(t, 0xf4);
	assert_int_equal(vmx_wrmsr(t->cpu, MSR_TSC_AUX, 0x77), 0);
	store[0].index = MSR_EFER;
	store[1].index = MSR_IA32_CR_PAT;
	store[2].index = MSR_TSC_AUX;
	load[0] = (struct msr_slot){ MSR_TSC_AUX, 0, 0x88 };
	W(GUEST_IA32_PAT, 0x0607050400010406);
	W(VM_ENTRY_CONTROLS, R(t, VM_ENTRY_CONTROLS) | VM_ENTRY_LOAD_IA32_PAT);
	W(VM_EXIT_MSR_STORE_ADDR, (hpa_t)store);
	W(VM_EXIT_MSR_STORE_COUNT, 3);
	W(VM_EXIT_MSR_LOAD_ADDR, (hpa_t)load);
	W(VM_EXIT_MSR_LOAD_COUNT, 1);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(store[0].value, R(t, GUEST_IA32_EFER));
	assert_int_equal(store[1].value, 0x0607050400010406);
	assert_int_equal(store[2].value, 0x77);
	uint64_t v;
	assert_int_equal(vmx_rdmsr(t->cpu, MSR_TSC_AUX, &v), 0);
	assert_int_equal(v, 0x88);
	assert_int_equal(t->vmcs->abort_indicator, 0);
}

/* A VMX abort on silicon; SDM "VMX Aborts" gives the indicators. */
static void msr_that_cannot_be_stored_or_loaded_sets_the_abort_indicator(void **state)
{
	STATE;
	struct msr_slot *area = (struct msr_slot *)(t->ram + 0x70000);

	CODE(t, 0xf4, 0xf4);
	area->index = 0xdead;
	W(VM_EXIT_MSR_STORE_ADDR, (hpa_t)area);
	W(VM_EXIT_MSR_STORE_COUNT, 1);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(t->vmcs->abort_indicator, 1);
	W(VM_EXIT_MSR_STORE_COUNT, 0);
	W(VM_EXIT_MSR_LOAD_ADDR, (hpa_t)area);
	W(VM_EXIT_MSR_LOAD_COUNT, 1);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(t->vmcs->abort_indicator, 4);
}

/* in al,60h; in al,80h: bitmap A has port 60h, then nothing; B has 8000h. */
static void io_bitmaps_choose_the_ports(void **state)
{
	STATE;

	CODE(t, 0xe4, 0x60, 0xe4, 0x80, 0xec, 0xf4);
	W(CPU_BASED_VM_EXEC_CONTROL, (R(t, CPU_BASED_VM_EXEC_CONTROL) & ~CPU_BASED_UNCOND_IO_EXITING) |
					     CPU_BASED_USE_IO_BITMAPS);
	W(IO_BITMAP_A, (hpa_t)t->ram + 0x70000);
	W(IO_BITMAP_B, (hpa_t)t->ram + 0x71000);
	t->ram[0x70000 + 0x60 / 8] = 1 << 0x60 % 8;
	t->ram[0x71000] = 1;
	vmx_gprs(t->cpu)[RDX] = 0x8000;
	assert_int_equal(go(t), EXIT_REASON_IO_INSTRUCTION);
	assert_int_equal(R(t, EXIT_QUALIFICATION) >> 16, 0x60);
	W(GUEST_RIP, GPA_CODE + 2);
	assert_int_equal(go(t), EXIT_REASON_IO_INSTRUCTION);
	assert_int_equal(R(t, EXIT_QUALIFICATION) >> 16, 0x8000);
	assert_int_equal(vmx_gprs(t->cpu)[RAX] & 0xff, 0xff); /* nobody is at port 80h */
}

/* SDM "Loading Guest Control Registers …": LMA and LME follow the IA-32e-mode control. */
static void efer_follows_the_mode_where_entry_does_not_load_it(void **state)
{
	STATE;

	CODE(t, 0xf4);
	W(GUEST_IA32_EFER, 0);
	W(VM_ENTRY_CONTROLS, R(t, VM_ENTRY_CONTROLS) & ~VM_ENTRY_LOAD_IA32_EFER);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(R(t, GUEST_IA32_EFER), EFER_LMA | EFER_LME);
	set_real_mode(t);
	W(VM_ENTRY_CONTROLS, R(t, VM_ENTRY_CONTROLS) & ~VM_ENTRY_IA32E_MODE);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(R(t, GUEST_IA32_EFER), EFER_LME); /* without paging LME stays */
}

static void root_operation_reads_and_writes_what_it_shares(void **state)
{
	STATE;
	static const struct {
		uint32_t msr;
		uint64_t good, bad; /* bad 0: none */
	} shared[] = {
		{ MSR_STAR, ~0ULL, 0 }, { MSR_LSTAR, 0xffff800000000000, BIT_ULL(47) },
		{ MSR_CSTAR, 5, BIT_ULL(63) }, { MSR_SYSCALL_MASK, 0xffffffff, BIT_ULL(32) },
		{ MSR_KERNEL_GS_BASE, 6, BIT_ULL(50) }, { MSR_TSC_AUX, 7, BIT_ULL(32) }, { MSR_IA32_XSS, 0, 1 },
	};
	uint64_t v, later;

	for (size_t n = 0; n < ARRAY_SIZE(shared); n++) {
		assert_int_equal(vmx_wrmsr(t->cpu, shared[n].msr, shared[n].good), 0);
		if (shared[n].bad)
			assert_int_equal(vmx_wrmsr(t->cpu, shared[n].msr, shared[n].bad), -EINVAL);
		assert_int_equal(vmx_rdmsr(t->cpu, shared[n].msr, &v), 0);
		assert_int_equal(v, shared[n].good);
	}
	assert_int_equal(vmx_rdmsr(t->cpu, MSR_IA32_VMX_BASIC, &v), 0);
	assert_int_equal(v, vmx_capability_msr(MSR_IA32_VMX_BASIC));
	assert_int_equal(vmx_wrmsr(t->cpu, MSR_IA32_VMX_BASIC, v), -EINVAL);
	assert_int_equal(vmx_rdmsr(t->cpu, MSR_IA32_TSC, &v), 0);
	assert_int_equal(vmx_rdmsr(t->cpu, MSR_IA32_TSC, &later), 0);
	assert_true(later > v);
	assert_int_equal(vmx_rdmsr(t->cpu, 0xdead, &v), -EINVAL);
}

/*
 * mov $1234h, %ax; nop; nop; hlt as 32-bit code, mov $90901234h, %eax; hlt as 16-bit code. Everything that entry loads is
 * saved by exit, so that nothing but the write of the field says that the mode is another.
 */
static void a_field_written_alone_counts_at_the_next_entry(void **state)
{
	STATE;

	CODE(t, 0x66, 0xb8, 0x34, 0x12, 0x90, 0x90, 0xf4);
	W(VM_EXIT_CONTROLS, R(t, VM_EXIT_CONTROLS) | VM_EXIT_SAVE_DEBUG_CONTROLS | VM_EXIT_SAVE_IA32_PAT | VM_EXIT_SAVE_IA32_EFER);
	W(SECONDARY_VM_EXEC_CONTROL, R(t, SECONDARY_VM_EXEC_CONTROL) | SECONDARY_EXEC_ENABLE_VPID);
	W(VIRTUAL_PROCESSOR_ID, 1);
	for (unsigned n = 0; n < 4; n++) {
		W(GUEST_CS_AR_BYTES, n & 1 ? 0x809b : 0xc09b);
		W(GUEST_RIP, GPA_CODE);
		vmx_gprs(t->cpu)[RAX] = 0;
		assert_int_equal(go(t), EXIT_REASON_HLT);
		assert_int_equal(vmx_gprs(t->cpu)[RAX], n & 1 ? 0x90901234 : 0x1234);
	}
	/* MOV from CR0, by the read shadow */
	CODE(t, 0x0f, 0x20, 0xc0, 0xf4);
	W(GUEST_CS_AR_BYTES, 0xa09b);
	W(CR0_GUEST_HOST_MASK, X86_CR0_TS);
	for (unsigned n = 0; n < 4; n++) {
		W(CR0_READ_SHADOW, n & 1 ? X86_CR0_TS : 0);
		W(GUEST_RIP, GPA_CODE);
		assert_int_equal(go(t), EXIT_REASON_HLT);
		assert_int_equal(vmx_gprs(t->cpu)[RAX] & X86_CR0_TS, n & 1 ? X86_CR0_TS : 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_reason_has_its_fields),
		cmocka_unit_test(no_reason_is_without_its_case),
		cmocka_unit_test(without_its_control_the_instruction_runs),
		cmocka_unit_test(a_vm_function_that_cannot_be_is_ud),
		TEST_LONG(exit_stores_and_loads_its_msr_areas),
		TEST_LONG(msr_that_cannot_be_stored_or_loaded_sets_the_abort_indicator),
		TEST_LONG(io_bitmaps_choose_the_ports),
		TEST_LONG(efer_follows_the_mode_where_entry_does_not_load_it),
		TEST_LONG(root_operation_reads_and_writes_what_it_shares),
		TEST_LONG(a_field_written_alone_counts_at_the_next_entry),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
