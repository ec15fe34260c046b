/*
 * MSRs of root operation, and of the MSR areas of a VM entry and exit.
 *
 * Locks: none; they belong to the processor's thread.
 */
#include "cpu/internal.h"
#include "lib/error.h"

#include <x86intrin.h>

static bool is_capability(uint32_t msr)
{
	return msr >= MSR_IA32_VMX_BASIC && msr <= MSR_IA32_VMX_TRUE_ENTRY_CTLS;
}

/* The MSR, if it is one that guest and host share; NULL otherwise. */
static uint64_t *shared_msr(struct vmx_cpu *cpu, uint32_t msr)
{
	switch (msr) {
	case MSR_STAR: return &cpu->msr.star;
	case MSR_LSTAR: return &cpu->msr.lstar;
	case MSR_CSTAR: return &cpu->msr.cstar;
	case MSR_SYSCALL_MASK: return &cpu->msr.fmask;
	case MSR_KERNEL_GS_BASE: return &cpu->msr.kernel_gs_base;
	case MSR_TSC_AUX: return &cpu->msr.tsc_aux;
	case MSR_IA32_XSS: return &cpu->msr.xss;
	default: return NULL;
	}
}

int vmx_rdmsr(struct vmx_cpu *cpu, uint32_t msr, uint64_t *value)
{
	uint64_t *p = shared_msr(cpu, msr);

	if (p)
		*value = *p;
	else if (is_capability(msr))
		*value = vmx_capability_msr(msr);
	else if (msr == MSR_IA32_TSC)
		*value = __rdtsc();
	else
		return err_born(EINVAL, "RDMSR %#x", msr);
	return 0;
}

int vmx_wrmsr(struct vmx_cpu *cpu, uint32_t msr, uint64_t value)
{
	uint64_t *p = shared_msr(cpu, msr);
	bool address = msr == MSR_LSTAR || msr == MSR_CSTAR || msr == MSR_KERNEL_GS_BASE;

	if (!p)
		return err_born(EINVAL, "WRMSR %#x", msr);
	if (address && (uint64_t)((int64_t)(value << 16) >> 16) != value)
		return err_born(EINVAL, "WRMSR %#x: not canonical", msr);
	if ((msr == MSR_SYSCALL_MASK || msr == MSR_TSC_AUX) && value >> 32)
		return err_born(EINVAL, "WRMSR %#x: reserved bits", msr);
	if (msr == MSR_IA32_XSS && value)
		return err_born(EINVAL, "WRMSR IA32_XSS: no supervisor state is offered");
	*p = value;
	return 0;
}

int cpu_msr_area_read(struct vmx_cpu *cpu, uint32_t msr, uint64_t *value)
{
	if (msr == MSR_EFER)
		*value = cpu->cs.efer;
	else if (msr == MSR_IA32_CR_PAT)
		*value = cpu->pat;
	else
		return vmx_rdmsr(cpu, msr, value);
	return 0;
}
