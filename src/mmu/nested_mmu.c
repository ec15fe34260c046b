/*
 * Choosing and leaving the contexts of an L2 (nested_mmu.h).
 *
 * Locks: none here; everything is the owner's, roots change in shadow_root.c.
 */
#include "mmu/nested_mmu.h"
#include "sdm/ept.h"
#include "sdm/vmx.h"
#include "sdm/regs.h"
#include "trace/trace.h"

/* --- walking L2's page tables --- */

/* access of a walk of page tables, as one of EPT. Reads need the right to read. */
static uint32_t ept_access(uint32_t access)
{
	return (access & PFERR_FETCH_MASK) | (access & PFERR_WRITE_MASK) |
	       (access & PFERR_FETCH_MASK ? 0U : (uint32_t)PFERR_USER_MASK);
}

gpa_t translate_nested_gpa(struct kvm_vcpu *vcpu, gpa_t gpa, gva_t gva, uint32_t access, bool final,
			   struct kvm_page_fault_info *fault)
{
	gpa_t r;

	/* with EPT's accessed and dirty flags, each access to a page table counts as a write */
	if (!final)
		access = PFERR_USER_MASK |
			 (vcpu->mmu_vcpu->guest_mmu.eptp12 & EPTP_AD_ENABLE ? PFERR_WRITE_MASK : access & PFERR_WRITE_MASK);
	else
		access = ept_access(access);
	r = mmu_ept12_walk(vcpu, gpa, access, NULL, fault);
	if (r == INVALID_PAGE && fault) {
		fault->from_walk = true;
		fault->gva = gva;
		fault->exit_qualification |= EPT_VIOLATION_GVA_IS_VALID | (final ? EPT_VIOLATION_GVA_TRANSLATED : 0);
	}
	return r;
}

static gpa_t nested_nonpaging_gva_to_gpa(struct kvm_vcpu *vcpu, gva_t gva, uint32_t access,
					 struct kvm_page_fault_info *fault)
{
	return translate_nested_gpa(vcpu, gva, gva, access, true, fault);
}

static uint64_t get_cr3(struct kvm_vcpu *vcpu)
{
	return mmu_guest_ops()->get_cr3(vcpu);
}

/* While L2 runs on EPT02: its own paging, for whoever emulates its instructions. Not for the processor. */
void init_kvm_nested_mmu(struct kvm_vcpu *vcpu)
{
	struct kvm_mmu *context = &vcpu->mmu_vcpu->nested_mmu;

	TRACE_CALL(init_kvm_nested_mmu, vcpu->vcpu_id);
	context->get_cr3 = get_cr3;
	context->gva_to_gpa = context->guest_level ? paging_gva_to_gpa : nested_nonpaging_gva_to_gpa;
}

/* --- EPT02 --- */

static void set_ept02(struct kvm_vcpu *vcpu, hpa_t root_hpa, int level)
{
	mmu_vendor_ops()->set_tdp_cr3(vcpu, root_hpa, level);
}

static uint32_t ept_role(struct kvm_vcpu *vcpu, uint64_t eptp12, bool execonly)
{
	uint64_t role = FIELD_PREP(ROLE_LEVEL_MASK, FIELD_GET(EPTP_WALK_MASK, eptp12) + 1) |
			FIELD_PREP(ROLE_AS_ID_MASK, vcpu->as_id) | FIELD_PREP(ROLE_ACCESS_MASK, ACC_ALL) | ROLE_EPT;

	return (uint32_t)(role | (eptp12 & EPTP_AD_ENABLE ? 0 : ROLE_AD_DISABLED) | (execonly ? ROLE_EXECONLY : 0));
}

void kvm_init_shadow_ept_mmu(struct kvm_vcpu *vcpu, uint64_t eptp12, bool execonly)
{
	struct kvm_mmu *context = &vcpu->mmu_vcpu->guest_mmu;

	TRACE_CALL(kvm_init_shadow_ept_mmu, vcpu->vcpu_id, eptp12);
	context->page_fault = ept_page_fault;
	context->set_cr3 = set_ept02;
	context->get_cr3 = get_cr3;
	context->alloc_roots = shadow_alloc_ept_root;
	context->unload = shadow_unload;
	context->direct_map = false;
	context->eptp12 = eptp12;
	vcpu->mmu_vcpu->l1_maxphyaddr = mmu_guest_ops()->get_maxphyaddr(vcpu);
	context->ept12_execonly = execonly;
	context->eptp_ad = eptp12 & EPTP_AD_ENABLE;
	context->root_level = (int)FIELD_GET(EPTP_WALK_MASK, eptp12) + 1;
	context->guest_level = PT64_ROOT_4LEVEL; /* entries of 8 bytes */
	context->role = ept_role(vcpu, eptp12, execonly);
	vcpu->mmu = context;
	vcpu->walk_mmu = &vcpu->mmu_vcpu->nested_mmu;
	shadow_new_eptp(vcpu);
}

void kvm_mmu_leave_nested(struct kvm_vcpu *vcpu)
{
	vcpu->mmu = vcpu->walk_mmu = &vcpu->mmu_vcpu->root_mmu;
}

void kvm_mmu_free_guest_roots(struct kvm_vcpu *vcpu, bool all, uint64_t eptp)
{
	/* a vCPU that is being destroyed has let go of them */
	if (vcpu->mmu_vcpu && vcpu->mmu_vcpu->guest_mmu.unload)
		shadow_free_ept_roots(vcpu, all, eptp);
}
