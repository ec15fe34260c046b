/*
 * RDMSR, WRMSR, and the counters: RDTSC, RDTSCP, RDPID, RDPMC.
 *
 * The MSR bitmap decides first. What it lets through works on the registers
 * this processor has; every other number is #GP(0).
 *
 * Source: SDM Vol. 3, "MSR-Bitmap Address", "Changes to Instruction Behavior
 * in VMX Non-Root Operation" (TSC offset and multiplier), Vol. 4.
 *
 * Locks: none; runs on the vCPU's thread.
 */
#include "cpu/system.h"

/* Quarters of the MSR bitmap. */
#define BITMAP_READ_LOW 0x000
#define BITMAP_READ_HIGH 0x400
#define BITMAP_WRITE_LOW 0x800
#define BITMAP_WRITE_HIGH 0xc00

#define X2APIC_MSR_FIRST 0x800
#define X2APIC_MSR_LAST 0x8ff

bool cpu_msr_exits(const struct vmx_cpu *cpu, uint32_t msr, bool write)
{
	const uint8_t *bitmap = cpu->msr_bitmap;
	uint32_t nr = msr & 0x1fff;

	if (!(cpu->primary & CPU_BASED_USE_MSR_BITMAPS) || !bitmap)
		return true;
	if (msr <= 0x1fff)
		bitmap += write ? BITMAP_WRITE_LOW : BITMAP_READ_LOW;
	else if (msr >= 0xc0000000 && msr <= 0xc0001fff)
		bitmap += write ? BITMAP_WRITE_HIGH : BITMAP_READ_HIGH;
	else
		return true;
	return (bitmap[nr / 8] >> (nr % 8)) & 1;
}

uint64_t cpu_guest_tsc(const struct vmx_cpu *cpu)
{
	uint32_t low, high;
	uint64_t tsc;

	/* what the guest has loaded before was loaded before: the host may not read its clock early */
	__asm__ volatile("lfence\n\trdtsc" : "=a"(low), "=d"(high) : : "memory");
	tsc = low | (uint64_t)high << 32;
	if (!(cpu->primary & CPU_BASED_USE_TSC_OFFSETTING))
		return tsc;
	if (cpu->secondary & SECONDARY_EXEC_TSC_SCALING)
		tsc = (uint64_t)(((unsigned __int128)tsc * cpu->tsc_multiplier) >> 48);
	return tsc + cpu->tsc_offset;
}

bool cpu_read_msr(struct vmx_cpu *cpu, uint32_t msr, uint64_t *v)
{
	struct cpu_state *cs = &cpu->cs;

	switch (msr) {
	case MSR_IA32_TSC: *v = cpu_guest_tsc(cpu); return true;
	case MSR_IA32_SYSENTER_CS: *v = cpu->sysenter_cs; return true;
	case MSR_IA32_SYSENTER_ESP: *v = cpu->sysenter_esp; return true;
	case MSR_IA32_SYSENTER_EIP: *v = cpu->sysenter_eip; return true;
	case MSR_IA32_DEBUGCTLMSR: *v = cpu->debugctl; return true;
	case MSR_IA32_CR_PAT: *v = cpu->pat; return true;
	case MSR_IA32_XSS: *v = cpu->msr.xss; return true;
	case MSR_EFER: *v = cs->efer; return true;
	case MSR_STAR: *v = cpu->msr.star; return true;
	case MSR_LSTAR: *v = cpu->msr.lstar; return true;
	case MSR_CSTAR: *v = cpu->msr.cstar; return true;
	case MSR_SYSCALL_MASK: *v = cpu->msr.fmask; return true;
	case MSR_FS_BASE: *v = cs->seg[SREG_FS].base; return true;
	case MSR_GS_BASE: *v = cs->seg[SREG_GS].base; return true;
	case MSR_KERNEL_GS_BASE: *v = cpu->msr.kernel_gs_base; return true;
	case MSR_TSC_AUX: *v = cpu->msr.tsc_aux; return true;
	case X2APIC_MSR_FIRST ... X2APIC_MSR_LAST: return cpu_apic_read_msr(cpu, msr, v);
	default: return false;
	}
}

static bool write_efer(struct vmx_cpu *cpu, uint64_t v)
{
	struct cpu_state *cs = &cpu->cs;
	uint64_t old = cs->efer;

	if (v & ~(EFER_SCE | EFER_LME | EFER_LMA | EFER_NX))
		return false;
	if ((old ^ v) & EFER_LME && cs->cr0 & X86_CR0_PG)
		return false;
	cs->efer = (v & ~EFER_LMA) | (old & EFER_LMA);
	if ((old ^ v) & EFER_NX) {
		cpu_tlb_flush_all(cpu);
		cpu_mode_changed(cpu);
	}
	return true;
}

static bool valid_pat(uint64_t v)
{
	for (unsigned n = 0; n < 8; n++) {
		unsigned type = (v >> (8 * n)) & 0xff;

		if (type > 7 || type == 2 || type == 3)
			return false;
	}
	return true;
}

/* A register that holds a linear address. */
static bool write_canonical(const struct cpu_state *cs, uint64_t *reg, uint64_t v)
{
	if (!isa_canonical(cs, v))
		return false;
	*reg = v;
	return true;
}

/* A register whose bits 63:32 are reserved. */
static bool write_low(uint64_t *reg, uint64_t v)
{
	if (v >> 32)
		return false;
	*reg = v;
	return true;
}

bool cpu_write_msr(struct vmx_cpu *cpu, uint32_t msr, uint64_t v)
{
	struct cpu_state *cs = &cpu->cs;

	switch (msr) {
	case MSR_IA32_SYSENTER_CS: return write_low(&cpu->sysenter_cs, v);
	case MSR_IA32_SYSENTER_ESP: return write_canonical(cs, &cpu->sysenter_esp, v);
	case MSR_IA32_SYSENTER_EIP: return write_canonical(cs, &cpu->sysenter_eip, v);
	case MSR_EFER: return write_efer(cpu, v);
	case MSR_STAR: cpu->msr.star = v; return true;
	case MSR_LSTAR: return write_canonical(cs, &cpu->msr.lstar, v);
	case MSR_CSTAR: return write_canonical(cs, &cpu->msr.cstar, v);
	case MSR_SYSCALL_MASK: return write_low(&cpu->msr.fmask, v);
	case MSR_FS_BASE: return write_canonical(cs, &cs->seg[SREG_FS].base, v);
	case MSR_GS_BASE: return write_canonical(cs, &cs->seg[SREG_GS].base, v);
	case MSR_KERNEL_GS_BASE: return write_canonical(cs, &cpu->msr.kernel_gs_base, v);
	case MSR_TSC_AUX: return write_low(&cpu->msr.tsc_aux, v);
	case MSR_IA32_DEBUGCTLMSR:
		if (v & ~3ULL) /* LBR and BTF only */
			return false;
		cpu->debugctl = v;
		return true;
	case MSR_IA32_CR_PAT:
		if (!valid_pat(v))
			return false;
		cpu->pat = v;
		return true;
	case MSR_IA32_XSS:
		if (v) /* no supervisor state component is offered */
			return false;
		cpu->msr.xss = v;
		return true;
	case X2APIC_MSR_FIRST ... X2APIC_MSR_LAST:
		return cpu_apic_write_msr(cpu, msr, v);
	default:
		return false;
	}
}

/* EDX:EAX := v; the upper halves of RAX and RDX are cleared. */
static void set_edx_eax(struct cpu_state *cs, uint64_t v)
{
	cs->gpr[RAX] = (uint32_t)v;
	cs->gpr[RDX] = v >> 32;
}

void sysinsn_rdmsr(struct cpu_state *cs, const struct isa_insn *i)
{
	struct vmx_cpu *cpu = cpu_of(cs);
	uint32_t msr = (uint32_t)cs->gpr[RCX];
	uint64_t v;

	cpu_require_cpl0(cs);
	if (cpu_msr_exits(cpu, msr, false))
		cpu_vmexit_insn(cpu, EXIT_REASON_MSR_READ, 0);
	if (!cpu_read_msr(cpu, msr, &v))
		isa_raise_error(cs, X86_TRAP_GP, 0);
	set_edx_eax(cs, v);
}

void sysinsn_wrmsr(struct cpu_state *cs, const struct isa_insn *i)
{
	struct vmx_cpu *cpu = cpu_of(cs);
	uint32_t msr = (uint32_t)cs->gpr[RCX];

	cpu_require_cpl0(cs);
	if (cpu_msr_exits(cpu, msr, true))
		return cpu_leave_insn(cpu, EXIT_REASON_MSR_WRITE, 0);
	if (!cpu_write_msr(cpu, msr, cs->gpr[RDX] << 32 | (uint32_t)cs->gpr[RAX]))
		isa_raise_error(cs, X86_TRAP_GP, 0);
	cpu_next(cs, i);
}

static void check_tsd(struct cpu_state *cs)
{
	if (isa_tsd_forbids(cs))
		isa_raise_error(cs, X86_TRAP_GP, 0);
}

void sysinsn_rdtsc(struct cpu_state *cs, const struct isa_insn *i)
{
	struct vmx_cpu *cpu = cpu_of(cs);

	check_tsd(cs);
	if (cpu->primary & CPU_BASED_RDTSC_EXITING)
		cpu_vmexit_insn(cpu, EXIT_REASON_RDTSC, 0);
	set_edx_eax(cs, cpu_guest_tsc(cpu));
}

void sysinsn_rdtscp(struct cpu_state *cs, const struct isa_insn *i)
{
	struct vmx_cpu *cpu = cpu_of(cs);

	if (!(cpu->secondary & SECONDARY_EXEC_ENABLE_RDTSCP))
		isa_raise(cs, X86_TRAP_UD);
	check_tsd(cs);
	if (cpu->primary & CPU_BASED_RDTSC_EXITING)
		cpu_vmexit_insn(cpu, EXIT_REASON_RDTSCP, 0);
	set_edx_eax(cs, cpu_guest_tsc(cpu));
	cs->gpr[RCX] = (uint32_t)cpu->msr.tsc_aux;
}

void sysinsn_rdpid(struct cpu_state *cs, const struct isa_insn *i)
{
	struct vmx_cpu *cpu = cpu_of(cs);

	if (!(cpu->secondary & SECONDARY_EXEC_ENABLE_RDTSCP))
		isa_raise(cs, X86_TRAP_UD);
	isa_set_gpr(cs, i->dst, isa_code64(cs) ? 8 : 4, cpu->msr.tsc_aux);
}

void sysinsn_rdpmc(struct cpu_state *cs, const struct isa_insn *i)
{
	struct vmx_cpu *cpu = cpu_of(cs);

	if (!(cs->cr4 & X86_CR4_PCE) && cs->cpl > 0)
		isa_raise_error(cs, X86_TRAP_GP, 0);
	if (cpu->primary & CPU_BASED_RDPMC_EXITING)
		cpu_vmexit_insn(cpu, EXIT_REASON_RDPMC, 0);
	isa_raise_error(cs, X86_TRAP_GP, 0); /* there is no such counter */
}
