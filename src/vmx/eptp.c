/*
 * The EPT pointer, the guest's CR3, and the invalidations (SDM Vol. 3,
 * "Extended-Page-Table Pointer (EPTP)", "Caching Translation Information").
 *
 *   63 .. 52 | 51 ............ 12 | 11..7 | 6   | 5..3     | 2..0
 *   0        | root table         | 0     | A/D | walk - 1 | memory type
 */
#include "mmu/mmu.h"
#include "sdm/ept.h"
#include "trace/trace.h"
#include "vmx/internal.h"

uint64_t construct_eptp(struct kvm_vcpu *vcpu, hpa_t root_hpa, int root_level)
{
	uint64_t eptp = FIELD_PREP(EPTP_MEMTYPE_MASK, MT_WRBACK) |
			FIELD_PREP(EPTP_WALK_MASK, (unsigned)root_level - 1);

	if (vcpu->mmu->eptp_ad)
		eptp |= EPTP_AD_ENABLE;
	return eptp | (root_hpa & EPTP_ROOT_MASK);
}

/* TLB entries of a shadow root are tagged by the PCID that the guest thinks it uses. */
static uint64_t active_pcid(struct kvm_vcpu *vcpu)
{
	return vmx_get_cr4(vcpu) & X86_CR4_PCIDE ? vmx_get_cr3(vcpu) & GENMASK_ULL(11, 0) : 0;
}

static void tell_guest_cr3(struct kvm_vcpu *vcpu)
{
	TRACE_LINE(kvm_read_cr3, vmx_get_cr3(vcpu), vmcs_readl(vcpu, GUEST_CR3),
		   vcpu->vmx->loaded_vmcs->cr3_stale, (vmx_get_cr0(vcpu) & X86_CR0_PG) != 0,
		   vmx_is_identity_mapped(vcpu));
}

/* With EPT: the guest's own value, or the identity map's address. */
static void write_stale_cr3(struct kvm_vcpu *vcpu)
{
	bool identity = vmx_is_identity_mapped(vcpu);
	uint64_t cr3 = identity ? vcpu->vmx->identity_map : vcpu->vmx->loaded_vmcs->cr3;

	vmcs_writel(vcpu, GUEST_CR3, cr3);
	TRACE_LINE(vmcs_writel_GUEST_CR3, cr3, false, identity);
	vcpu->vmx->loaded_vmcs->cr3_stale = false;
	vcpu->vmx->loaded_vmcs->flush_guest = true;
}

/*
 * The walk-through's last step of the way in. root_hpa is the host-physical
 * address of the EPT root, *not* the guest's CR3.
 *
 * And why write the guest's own CR3? Because the VMCS copy is not always the
 * guest's last word: KVM_SET_SREGS, an emulated MOV to CR3 or the switch of
 * CR0.PG change it behind the processor's back. Then, and only then, it is
 * written; otherwise the guest loads CR3 itself, without an exit, and the
 * processor keeps GUEST_CR3 up to date. And without "unrestricted guest" the processor
 * cannot run a guest that does not page: what is written then is not the guest's but the
 * identity map's address.
 *
 * With shadow paging GUEST_CR3 is never the guest's: it is the shadow root, and
 * for a guest without paging the table that maps linear to physical one to one.
 */
void vmx_set_cr3(struct kvm_vcpu *vcpu, hpa_t root_hpa, int root_level)
{
	uint64_t eptp;

	TRACE_CALL(vmx_set_cr3, root_hpa);
	if (!vmx_params()->ept) {
		vmcs_writel(vcpu, GUEST_CR3, root_hpa | active_pcid(vcpu));
		TRACE_LINE(vmcs_writel_GUEST_CR3, root_hpa | active_pcid(vcpu), true, false);
		return;
	}
	eptp = construct_eptp(vcpu, root_hpa, root_level);
	if (unlikely(is_guest_mode(vcpu)) && nested_cpu_has2(get_vmcs12(vcpu), SECONDARY_EXEC_VIRTUALIZE_APIC_ACCESSES))
		vcpu->vmx->nested.pages_stale = true;
	TRACE_LINE(construct_eptp, root_hpa, eptp);
	vmcs_write64(vcpu, EPT_POINTER, eptp);
	TRACE_LINE(vmcs_write64_EPT_POINTER, eptp);
	vcpu->vmx->loaded_vmcs->eptp = eptp;
	tell_guest_cr3(vcpu);
	if (vcpu->vmx->loaded_vmcs->cr3_stale)
		write_stale_cr3(vcpu);
}

void vmx_flush_tlb_current(struct kvm_vcpu *vcpu)
{
	if (!vmx_params()->ept) {
		vmx_flush_tlb_guest(vcpu);
		return;
	}
	if (!vcpu->vmx->loaded_vmcs->eptp)
		return;
	vcpu->stat.tlb_flush++;
	if (unlikely(vmx_params()->forget_invept))
		vmx_invept_forgotten(vcpu->vmx->cpu, INVEPT_SINGLE_CONTEXT, vcpu->vmx->loaded_vmcs->eptp);
	else if (invept(vcpu->vmx->cpu, INVEPT_SINGLE_CONTEXT, vcpu->vmx->loaded_vmcs->eptp) != VMX_SUCCEED)
		kvm_vm_bugged(vcpu->kvm, "INVEPT failed");
}

/* Linux vmx_get_current_vpid: what tags the mappings of whoever runs. 0: nothing does. */
static uint16_t current_vpid(struct kvm_vcpu *vcpu)
{
	return is_guest_mode(vcpu) ? nested_get_vpid02(vcpu) : vcpu->vmx->vpid;
}

static void flush_vpid(struct kvm_vcpu *vcpu, uint16_t vpid)
{
	/* without a VPID every entry and exit flushes */
	if (vpid && invvpid(vcpu->vmx->cpu, INVVPID_SINGLE_CONTEXT, vpid, 0) != VMX_SUCCEED)
		kvm_vm_bugged(vcpu->kvm, "INVVPID failed");
}

void vmx_flush_tlb_guest(struct kvm_vcpu *vcpu)
{
	vcpu->stat.tlb_flush++;
	flush_vpid(vcpu, current_vpid(vcpu));
}

/* A shoot-down: what any root of ours leads to, in use or only remembered. */
void vmx_flush_tlb_all(struct kvm_vcpu *vcpu)
{
	vcpu->stat.tlb_flush++;
	if (!vmx_params()->ept)
		flush_vpid(vcpu, vcpu->vmx->vpid);
	else if (unlikely(vmx_params()->forget_invept))
		vmx_invept_forgotten(vcpu->vmx->cpu, INVEPT_ALL_CONTEXT, 0);
	else if (invept(vcpu->vmx->cpu, INVEPT_ALL_CONTEXT, 0) != VMX_SUCCEED)
		kvm_vm_bugged(vcpu->kvm, "INVEPT failed");
}

void vmx_flush_dirty_translation(struct kvm_vcpu *vcpu)
{
	struct vcpu_vmx *vmx = vcpu->vmx;

	if (unlikely(vmx->loaded_vmcs->cr3_stale)) {
		tell_guest_cr3(vcpu);
		write_stale_cr3(vcpu);
	}
	if (unlikely(vmx->loaded_vmcs->flush_guest)) {
		vmx_flush_tlb_guest(vcpu);
		vmx->loaded_vmcs->flush_guest = false;
	}
}
