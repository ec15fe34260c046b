/*
 * Port I/O and MSR accesses (SDM Vol. 3, table "Exit Qualification for I/O
 * Instructions").
 */
#include "vmx/internal.h"

int handle_io(struct kvm_vcpu *vcpu)
{
	uint64_t q = vmcs_readl(vcpu, EXIT_QUALIFICATION);

	vcpu->stat.io_exits++;
	if (q & IO_QUAL_STRING)
		return vmx_services->emulate_instruction(vcpu, false, ~0ULL);
	return vmx_services->fast_pio(vcpu, (uint16_t)FIELD_GET(IO_QUAL_PORT_MASK, q),
				      (int)FIELD_GET(IO_QUAL_SIZE_MASK, q) + 1, q & IO_QUAL_IN);
}

int handle_rdmsr(struct kvm_vcpu *vcpu)
{
	return vmx_services->emulate_rdmsr(vcpu);
}

int handle_wrmsr(struct kvm_vcpu *vcpu)
{
	return vmx_services->emulate_wrmsr(vcpu);
}
