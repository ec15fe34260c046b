/*
 * A vCPU after RESET and INIT, and where a SIPI starts it.
 *
 * Context: the vCPU's owner thread, not in the guest; at creation, whoever creates it.
 */
#include <string.h>

#include "x86/run.h"

#define SMBASE_DEFAULT 0x30000ULL

static void reset_events(struct kvm_vcpu_arch *a)
{
	memset(&a->exception, 0, sizeof(a->exception));
	memset(&a->exception_vmexit, 0, sizeof(a->exception_vmexit));
	a->exception_from_userspace = false;
	memset(&a->interrupt, 0, sizeof(a->interrupt));
	__atomic_store_n(&a->nmi_queued, 0, __ATOMIC_SEQ_CST);
	a->nmi_pending = 0;
	a->nmi_injected = false;
	a->smi_pending = false;
	a->smi_count = 0;
	a->smm = a->smm_inside_nmi = false;
	a->pending_external_vector = -1;
	a->complete_userspace_io = NULL;
}

/* SDM Vol. 3, "Processor State After Reset" and table "IA-32 … Following Power-up, RESET, or INIT". */
void kvm_vcpu_reset(struct kvm_vcpu *vcpu, bool init_event)
{
	const struct kvm_cpuid_entry2 *sig = kvm_find_cpuid_entry(vcpu, 1, 0);
	struct kvm_vcpu_arch *a = vcpu->arch;
	struct vmx_cpu *cpu = vmx_processor(vcpu);
	uint64_t old_cr0, cr0 = X86_CR0_ET;

	vmx_leave_nested(vcpu);
	old_cr0 = vmx_get_cr0(vcpu);
	if (vcpu->apic)
		kvm_lapic_reset(vcpu, init_event);
	kvm_async_pf_reset(vcpu);
	reset_events(a);
	memset(a->db, 0, sizeof(a->db));
	memset(a->eff_db, 0, sizeof(a->eff_db));
	a->dr6 = DR6_ACTIVE_LOW;
	a->dr7 = DR7_FIXED_1;
	a->cr8 = 0;
	if (!init_event) {
		a->xcr0 = XFEATURE_MASK_FP;
		a->ia32_xss = 0;
		a->smbase = SMBASE_DEFAULT;
	}
	for (unsigned i = 0; i < 4; i++)
		vmx_set_dr(cpu, i, 0);
	vmx_set_dr(cpu, 6, a->dr6);
	vmx_set_cr2(cpu, 0);

	memset(vmx_regs(vcpu), 0, NR_GPRS * sizeof(uint64_t));
	vmx_regs(vcpu)[RDX] = sig ? sig->eax : 0x600;
	vmx_vcpu_reset(vcpu, init_event);
	vmx_set_rsp(vcpu, 0);
	vmx_set_rflags(vcpu, X86_FLAGS_FIXED);
	vmx_set_rip(vcpu, 0xfff0);

	/* INIT leaves the caches as they are */
	cr0 |= init_event ? old_cr0 & (X86_CR0_NW | X86_CR0_CD) : X86_CR0_NW | X86_CR0_CD;
	vmx_set_efer(vcpu, 0);
	vmx_set_cr0(vcpu, cr0);
	vmx_set_guest_cr3(vcpu, 0);
	vmx_set_cr4(vcpu, 0);
	kvm_update_dr7(vcpu);
	vmx_update_exception_bitmap(vcpu);
	vmx_flush_tlb_guest(vcpu);
	if (old_cr0 & X86_CR0_PG)
		kvm_mmu_reset_context(vcpu);
}

/* SDM Vol. 3, "Typical AP Initialization Sequence": start at vector << 12 in real mode. */
void kvm_vcpu_deliver_sipi_vector(struct kvm_vcpu *vcpu, uint8_t vector)
{
	struct kvm_segment cs;

	vmx_get_segment(vcpu, &cs, SREG_CS);
	cs.selector = (uint16_t)(vector << 8);
	cs.base = (uint64_t)vector << 12;
	vmx_set_segment(vcpu, &cs, SREG_CS);
	vmx_set_rip(vcpu, 0);
}
