/*
 * SYSCALL, SYSRET, SYSENTER, SYSEXIT.
 *
 * Outside 64-bit mode SYSCALL and SYSRET are #UD on Intel's processors and work
 * on AMD's; in IA-32e mode SYSENTER and SYSEXIT work on Intel's and are #UD on
 * AMD's. The vendor is the one that the guest's CPUID shows.
 *
 * Source: SDM Vol. 2, these instructions; AMD64 APM Vol. 3, SYSCALL and SYSRET
 * (legacy and compatibility mode), SYSENTER and SYSEXIT (long mode). Locks: none.
 */
#include "cpu/system.h"

/* --- the fixed segments --- */

static void flat_cs(struct vmx_cpu *cpu, uint16_t selector, unsigned cpl, bool code64)
{
	struct cpu_segment *seg = &cpu->cs.seg[SREG_CS];

	seg->selector = selector;
	seg->base = 0;
	seg->limit = 0xffffffff;
	seg->ar = (uint32_t)(VMX_AR_G | VMX_AR_P | VMX_AR_S | 0xb |
			     FIELD_PREP(VMX_AR_DPL_MASK, cpl) | (code64 ? VMX_AR_L : VMX_AR_DB));
	cpu->cs.cpl = (uint8_t)cpl;
}

static void flat_ss(struct vmx_cpu *cpu, uint16_t selector, unsigned cpl)
{
	struct cpu_segment *seg = &cpu->cs.seg[SREG_SS];

	seg->selector = selector;
	seg->base = 0;
	seg->limit = 0xffffffff;
	seg->ar = (uint32_t)(VMX_AR_G | VMX_AR_DB | VMX_AR_P | VMX_AR_S | 0x3 |
			     FIELD_PREP(VMX_AR_DPL_MASK, cpl));
}

void vmx_set_guest_vendor(struct vmx_cpu *cpu, bool amd)
{
	cpu->vendor = amd ? CPU_VENDOR_AMD : CPU_VENDOR_INTEL;
}

static bool host_is_amd(void)
{
	static uint32_t ecx; /* of leaf 0; cannot be 0 once read */
	uint32_t regs[4], v = READ_ONCE(ecx);

	if (!v) {
		isa_cpuid(0, 0, regs);
		v = regs[2];
		WRITE_ONCE(ecx, v);
	}
	return v == 0x444d4163 /* AuthenticAMD */ || v == 0x656e6975 /* HygonGenuine */;
}

static bool amd_vendor(const struct vmx_cpu *cpu)
{
	return cpu->vendor == CPU_VENDOR_HOSTS ? host_is_amd() : cpu->vendor == CPU_VENDOR_AMD;
}

static void require_syscall(struct vmx_cpu *cpu)
{
	if (!(cpu->cs.efer & EFER_SCE) || (cpu->cs.code_mode != ISA_CODE64 && !amd_vendor(cpu)))
		isa_raise(&cpu->cs, X86_TRAP_UD);
}

static void require_sysenter(struct vmx_cpu *cpu)
{
	if (isa_ia32e(&cpu->cs) && amd_vendor(cpu))
		isa_raise(&cpu->cs, X86_TRAP_UD);
}

/* Flags that go while RFLAGS is masked: RF always. */
static void mask_rflags(struct cpu_state *cs, uint64_t clear)
{
	uint64_t flags = cpu_rflags(cs) & ~(clear | X86_FLAGS_RF);

	cpu_set_rflags(cs, flags);
}

void sysinsn_syscall(struct cpu_state *cs, const struct isa_insn *i)
{
	struct vmx_cpu *cpu = cpu_of(cs);
	uint64_t next = isa_next_rip(cs, i);
	uint16_t selector = (uint16_t)(cpu->msr.star >> 32) & 0xfffc;
	bool from64 = isa_code64(cs);

	require_syscall(cpu);
	if (isa_ia32e(cs)) {
		cs->gpr[RCX] = from64 ? next : (uint32_t)next;
		cs->gpr[R11] = cpu_rflags(cs) & ~X86_FLAGS_RF;
		mask_rflags(cs, cpu->msr.fmask);
		cs->rip = from64 ? cpu->msr.lstar : cpu->msr.cstar;
		flat_cs(cpu, selector, 0, true);
	} else {
		cs->gpr[RCX] = (uint32_t)next;
		mask_rflags(cs, X86_FLAGS_IF | X86_FLAGS_VM);
		cs->rip = (uint32_t)cpu->msr.star;
		flat_cs(cpu, selector, 0, false);
	}
	flat_ss(cpu, (uint16_t)(selector + 8), 0);
	cpu_mode_changed(cpu);
}

/* What SYSRET takes over from R11. */
#define SYSRET_FLAGS                                                                     \
	(X86_FLAGS_ARITH | X86_FLAGS_TF | X86_FLAGS_IF | X86_FLAGS_DF | X86_FLAGS_IOPL | \
	 X86_FLAGS_NT | X86_FLAGS_AC | X86_FLAGS_VIF | X86_FLAGS_VIP | X86_FLAGS_ID)

void sysinsn_sysret(struct cpu_state *cs, const struct isa_insn *i)
{
	struct vmx_cpu *cpu = cpu_of(cs);
	uint16_t selector = (uint16_t)(cpu->msr.star >> 48);
	bool to64 = i->opsize == 8;

	require_syscall(cpu);
	if (cs->cpl != 0 || isa_real(cs) || (to64 && !isa_canonical(cs, cs->gpr[RCX])))
		isa_raise_error(cs, X86_TRAP_GP, 0);
	if (isa_ia32e(cs))
		cpu_set_rflags(cs, cs->gpr[R11] & SYSRET_FLAGS);
	else
		cs->rflags |= X86_FLAGS_IF;
	cs->rip = to64 ? cs->gpr[RCX] : (uint32_t)cs->gpr[RCX];
	flat_cs(cpu, (uint16_t)((selector + (to64 ? 16 : 0)) | 3), 3, to64);
	flat_ss(cpu, (uint16_t)((selector + 8) | 3), 3);
	cpu_mode_changed(cpu);
	/* the trap comes at once, as if it were the SYSCALL's that the task had made */
	if (cs->rflags & X86_FLAGS_TF)
		cpu->pending_dbg |= DR6_BS;
}

void sysinsn_sysenter(struct cpu_state *cs, const struct isa_insn *i)
{
	struct vmx_cpu *cpu = cpu_of(cs);
	uint16_t selector = (uint16_t)cpu->sysenter_cs & 0xfffc;
	bool long_mode = isa_ia32e(cs);

	require_sysenter(cpu);
	if (isa_real(cs) || selector == 0)
		isa_raise_error(cs, X86_TRAP_GP, 0);
	mask_rflags(cs, X86_FLAGS_IF | X86_FLAGS_VM);
	cs->gpr[RSP] = long_mode ? cpu->sysenter_esp : (uint32_t)cpu->sysenter_esp;
	cs->rip = long_mode ? cpu->sysenter_eip : (uint32_t)cpu->sysenter_eip;
	flat_cs(cpu, selector, 0, long_mode);
	flat_ss(cpu, (uint16_t)(selector + 8), 0);
	cpu_mode_changed(cpu);
}

void sysinsn_sysexit(struct cpu_state *cs, const struct isa_insn *i)
{
	struct vmx_cpu *cpu = cpu_of(cs);
	uint16_t selector = (uint16_t)cpu->sysenter_cs & 0xfffc;
	bool to64 = i->opsize == 8;

	require_sysenter(cpu);
	if (isa_real(cs) || selector == 0 || cs->cpl != 0)
		isa_raise_error(cs, X86_TRAP_GP, 0);
	if (to64 && (!isa_canonical(cs, cs->gpr[RCX]) || !isa_canonical(cs, cs->gpr[RDX])))
		isa_raise_error(cs, X86_TRAP_GP, 0);
	selector = (uint16_t)(selector + (to64 ? 32 : 16));
	cs->gpr[RSP] = to64 ? cs->gpr[RCX] : (uint32_t)cs->gpr[RCX];
	cs->rip = to64 ? cs->gpr[RDX] : (uint32_t)cs->gpr[RDX];
	flat_cs(cpu, selector | 3, 3, to64);
	flat_ss(cpu, (uint16_t)((selector + 8) | 3), 3);
	cpu_mode_changed(cpu);
}
