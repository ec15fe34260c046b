/*
 * Control- and debug-register accesses (SDM Vol. 3, tables "Exit
 * Qualification for Control-Register Accesses", "… for MOV DR").
 */
#include "trace/trace.h"
#include "vmx/internal.h"

/* 0 done: past the instruction; else the guest gets #GP(0) on it. */
static int complete(struct kvm_vcpu *vcpu, int err)
{
	if (err)
		vmx_services->queue_exception(vcpu, X86_TRAP_GP, true, 0, false, 0);
	else
		vmx_skip_emulated_instruction(vcpu);
	return 1;
}

/* Without an in-process APIC the client keeps the TPR and wants to hear when it falls. */
static int handle_set_cr8(struct kvm_vcpu *vcpu, uint64_t v)
{
	uint64_t prev = vmx_services->get_cr8(vcpu);
	int err = vmx_services->set_cr(vcpu, 8, v);

	complete(vcpu, err);
	if (err || vcpu->apic || prev <= v)
		return 1;
	vcpu->run->exit_reason = KVM_EXIT_SET_TPR;
	return 0;
}

/*
 * v is what the guest means its CR0 or CR4 to read. In L2 the bits that L1 owns stay
 * as they are: L1 would have had the exit if they were to change.
 */
static int set_cr_view(struct kvm_vcpu *vcpu, int cr, uint64_t v)
{
	const struct vmcs12 *v12 = get_vmcs12(vcpu);
	uint64_t mask;

	if (likely(!is_guest_mode(vcpu)))
		return vmx_services->set_cr(vcpu, cr, v);
	mask = cr == 0 ? v12->cr0_guest_host_mask : v12->cr4_guest_host_mask;
	if (vmx_services->set_cr(vcpu, cr, (v & ~mask) | ((cr == 0 ? v12->guest_cr0 : v12->guest_cr4) & mask)))
		return 1;
	vmcs_writel(vcpu, cr == 0 ? CR0_READ_SHADOW : CR4_READ_SHADOW, v);
	return 0;
}

/* What the guest reads in CR0. */
static uint64_t cr0_view(struct kvm_vcpu *vcpu)
{
	uint64_t own = vcpu->vmx->cr0_unmasked;

	if (likely(!is_guest_mode(vcpu)))
		return vmx_get_cr0(vcpu);
	return (vmcs_readl(vcpu, GUEST_CR0) & own) | (vmcs_readl(vcpu, CR0_READ_SHADOW) & ~own);
}

static int mov_to_cr(struct kvm_vcpu *vcpu, unsigned cr, unsigned reg)
{
	uint64_t v = vmx_regs(vcpu)[reg];

	if (!vmx_is_64bit_code(vcpu))
		v = (uint32_t)v;
	TRACE(kvm, kvm_cr, 1, cr, v);
	if (cr == 8)
		return handle_set_cr8(vcpu, v);
	if (cr == 3)
		return complete(vcpu, vmx_services->set_cr(vcpu, 3, v));
	return complete(vcpu, set_cr_view(vcpu, (int)cr, v));
}

static int mov_from_cr(struct kvm_vcpu *vcpu, unsigned cr, unsigned reg)
{
	uint64_t v;

	switch (cr) {
	case 0: v = vmx_get_cr0(vcpu); break;
	case 3: v = vmx_get_cr3(vcpu); break;
	case 4: v = vmx_get_cr4(vcpu); break;
	default: v = vmx_services->get_cr8(vcpu); break;
	}
	TRACE(kvm, kvm_cr, 0, cr, v);
	if (reg == RSP)
		vmx_set_rsp(vcpu, v);
	else
		vmx_regs(vcpu)[reg] = v;
	return complete(vcpu, 0);
}

int handle_cr(struct kvm_vcpu *vcpu)
{
	uint64_t q = vmcs_readl(vcpu, EXIT_QUALIFICATION);
	unsigned cr = (unsigned)FIELD_GET(CR_ACCESS_NUM_MASK, q);
	unsigned reg = (unsigned)FIELD_GET(CR_ACCESS_REG_MASK, q);
	uint64_t cr0 = cr0_view(vcpu);

	switch ((enum cr_access_type)FIELD_GET(CR_ACCESS_TYPE_MASK, q)) {
	case CR_ACCESS_MOV_TO:
		return mov_to_cr(vcpu, cr, reg);
	case CR_ACCESS_MOV_FROM:
		return mov_from_cr(vcpu, cr, reg);
	case CR_ACCESS_CLTS:
		TRACE(kvm, kvm_cr, 1, 0, cr0 & ~X86_CR0_TS);
		return complete(vcpu, set_cr_view(vcpu, 0, cr0 & ~X86_CR0_TS));
	case CR_ACCESS_LMSW:
		/* PE can be set, never cleared, and only the low four bits are written */
		cr0 = (cr0 & ~(X86_CR0_MP | X86_CR0_EM | X86_CR0_TS)) |
		      (FIELD_GET(CR_ACCESS_LMSW_DATA_MASK, q) & 0xf);
		return complete(vcpu, set_cr_view(vcpu, 0, cr0));
	}
	return 1;
}

/* The exit comes before every check of the instruction's. */
int handle_dr(struct kvm_vcpu *vcpu)
{
	uint64_t q = vmcs_readl(vcpu, EXIT_QUALIFICATION);
	int dr = (int)FIELD_GET(DR_ACCESS_NUM_MASK, q);
	unsigned reg = (unsigned)FIELD_GET(DR_ACCESS_REG_MASK, q);
	uint64_t v;

	if (vmx_get_cpl(vcpu) > 0)
		return complete(vcpu, 1);
	/* DR4 and DR5 are DR6 and DR7 unless CR4.DE says they are nothing */
	if (dr == 4 || dr == 5) {
		if (vmx_get_cr4(vcpu) & X86_CR4_DE) {
			vmx_services->queue_exception(vcpu, X86_TRAP_UD, false, 0, false, 0);
			return 1;
		}
		dr += 2;
	}
	/* the DR7 in force: the debugger's while it uses hardware breakpoints */
	if (vmx_get_dr7(vcpu) & DR7_GD) {
		if ((vmx_services->guest_debug(vcpu) & KVM_GUESTDBG_USE_HW_BP) &&
		    vmx_services->guest_debug_exit(vcpu, X86_TRAP_DB, DR6_BD))
			return 0;
		vmx_services->queue_exception(vcpu, X86_TRAP_DB, false, 0, true, DR6_BD);
		return 1;
	}
	if (q & DR_ACCESS_FROM) {
		v = vmx_services->get_dr(vcpu, dr);
		if (reg == RSP)
			vmx_set_rsp(vcpu, v);
		else
			vmx_regs(vcpu)[reg] = v;
		return complete(vcpu, 0);
	}
	v = vmx_regs(vcpu)[reg];
	if (!vmx_is_64bit_code(vcpu))
		v = (uint32_t)v;
	return complete(vcpu, vmx_services->set_dr(vcpu, dr, v));
}
