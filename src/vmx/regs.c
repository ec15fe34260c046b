/*
 * Guest registers in the VMCS, and who owns which control-register bit.
 *
 * A bit of CR0/CR4 that is set in the guest/host mask is the hypervisor's: the
 * guest reads the shadow and exits on a change. The others are the guest's own
 * (SDM Vol. 3, "Guest/Host Masks and Read Shadows for CR0 and CR4"). The
 * guest's value is therefore put together from both: the bits that the guest owns
 * are in GUEST_CR0 and GUEST_CR4, the others in vmx->cr0 and vmx->cr4. The read
 * shadow is written from them and never read: while an L2 runs it is L1's.
 */
#include "mmu/mmu.h"
#include "vmx/internal.h"

/* Caching bits would have no effect on memory of ours. */
#define CR0_ALWAYS_OFF (X86_CR0_NW | X86_CR0_CD)
/* VM entry demands it; the guest sees its own value in the shadow. */
#define CR0_ALWAYS_ON X86_CR0_NE
/* A guest without paging pages all the same, and real mode is not entered (vmx_emulation_required). */
#define CR0_ALWAYS_ON_RESTRICTED (X86_CR0_NE | X86_CR0_PG | X86_CR0_PE)
/* Shadow entries of read-only pages hold for the guest's kernel as well. */
#define CR0_ALWAYS_ON_SHADOW (CR0_ALWAYS_ON_RESTRICTED | X86_CR0_WP)
#define CR0_GUEST_OWNED X86_CR0_TS
#define CR0_TRANSLATION (X86_CR0_PG | X86_CR0_PE | X86_CR0_WP)
#define CR4_GUEST_OWNED                                                                     \
	(X86_CR4_PVI | X86_CR4_DE | X86_CR4_PCE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT |     \
	 X86_CR4_PGE | X86_CR4_TSD | X86_CR4_FSGSBASE)
#define CR4_TRANSLATION                                                                     \
	(X86_CR4_PSE | X86_CR4_PAE | X86_CR4_PGE | X86_CR4_PCIDE | X86_CR4_SMEP |           \
	 X86_CR4_SMAP | X86_CR4_LA57 | X86_CR4_PKE)

/* Under shadow paging these change what a translation is: we must hear of them. */
#define CR4_NOT_OWNED_SHADOW X86_CR4_PGE

uint64_t vmx_state_stamp(const struct kvm_vcpu *vcpu)
{
	return vcpu->vmx->stamp;
}

uint64_t *vmx_regs(struct kvm_vcpu *vcpu)
{
	return vmx_gprs(vcpu->vmx->cpu);
}

void vmx_set_rsp(struct kvm_vcpu *vcpu, uint64_t v)
{
	vmx_gprs(vcpu->vmx->cpu)[RSP] = v;
	vmcs_update(vcpu, GUEST_RSP, v);
}

uint64_t vmx_get_rip(struct kvm_vcpu *vcpu)
{
	return vmcs_readl(vcpu, GUEST_RIP);
}

void vmx_set_rip(struct kvm_vcpu *vcpu, uint64_t v)
{
	vmcs_writel(vcpu, GUEST_RIP, v);
}

uint64_t vmx_get_rflags(struct kvm_vcpu *vcpu)
{
	return vmcs_readl(vcpu, GUEST_RFLAGS);
}

void vmx_set_rflags(struct kvm_vcpu *vcpu, uint64_t v)
{
	vmcs_update(vcpu, GUEST_RFLAGS, v | X86_FLAGS_FIXED);
	if (v & X86_FLAGS_VM)
		vcpu->vmx->state_unchecked = true;
}

uint64_t vmx_get_cr0(struct kvm_vcpu *vcpu)
{
	uint64_t own = vcpu->vmx->cr0_unmasked;

	return (vmcs_readl(vcpu, GUEST_CR0) & own) | (vcpu->vmx->cr0 & ~own);
}

bool vmx_is_identity_mapped(const struct kvm_vcpu *vcpu)
{
	return unlikely(vmx_params()->ept && !vmx_params()->unrestricted_guest) && !(vcpu->vmx->cr0 & X86_CR0_PG);
}

void vmx_set_identity_map(struct kvm_vcpu *vcpu, gpa_t addr)
{
	vcpu->vmx->identity_map = addr;
}

uint64_t vmx_get_cr3(struct kvm_vcpu *vcpu)
{
	if (!vmx_params()->ept || vmx_is_identity_mapped(vcpu))
		return vcpu->vmx->loaded_vmcs->cr3;
	return vcpu->vmx->loaded_vmcs->cr3_stale ? vcpu->vmx->loaded_vmcs->cr3 : vmcs_readl(vcpu, GUEST_CR3);
}

uint64_t vmx_get_cr4(struct kvm_vcpu *vcpu)
{
	uint64_t own = vcpu->vmx->cr4_unmasked;

	return (vmcs_readl(vcpu, GUEST_CR4) & own) | (vcpu->vmx->cr4 & ~own);
}

/* What the guest may change of CR0 and CR4 without an exit. Their values must be whole: see the callers. */
static void write_cr0_mask(struct kvm_vcpu *vcpu)
{
	struct vcpu_vmx *vmx = vcpu->vmx;

	vmx->cr0_unmasked = CR0_GUEST_OWNED;
	if (vmx->head.guest_mode)
		vmx->cr0_unmasked &= ~get_vmcs12(vcpu)->cr0_guest_host_mask;
	vmcs_writel(vcpu, CR0_GUEST_HOST_MASK, ~vmx->cr0_unmasked);
}

static void write_cr4_mask(struct kvm_vcpu *vcpu)
{
	struct vcpu_vmx *vmx = vcpu->vmx;

	vmx->cr4_unmasked = vmx->cr4_guest_owned;
	if (vmx->head.guest_mode)
		vmx->cr4_unmasked &= ~get_vmcs12(vcpu)->cr4_guest_host_mask;
	vmcs_writel(vcpu, CR4_GUEST_HOST_MASK, ~vmx->cr4_unmasked);
}

uint64_t vmx_get_efer(struct kvm_vcpu *vcpu)
{
	return vcpu->vmx->efer;
}

/* The TSS of a 64-bit task has a type of its own, and VM entry checks it. */
static void fix_tr_for_lmode(struct kvm_vcpu *vcpu)
{
	uint32_t ar = vmcs_read32(vcpu, GUEST_TR_AR_BYTES);

	if ((ar & VMX_AR_TYPE_MASK) != 0xb)
		vmcs_write32(vcpu, GUEST_TR_AR_BYTES, (ar & ~(uint32_t)VMX_AR_TYPE_MASK) | 0xb);
}

void vmx_load_guest_efer(struct kvm_vcpu *vcpu, uint64_t v)
{
	uint32_t entry = vmcs_read32(vcpu, VM_ENTRY_CONTROLS);
	uint32_t want = v & EFER_LMA ? entry | (uint32_t)VM_ENTRY_IA32E_MODE
				     : entry & ~(uint32_t)VM_ENTRY_IA32E_MODE;

	vcpu->vmx->efer = v;
	if (!vmx_params()->ept)
		v |= EFER_NX; /* shadow entries use XD */
	/* CR0.PG is on, so LME and LMA must agree */
	if (!vmx_params()->unrestricted_guest && !(v & EFER_LMA))
		v &= ~EFER_LME;
	vmcs_write64(vcpu, GUEST_IA32_EFER, v);
	if (want != entry)
		vmcs_write32(vcpu, VM_ENTRY_CONTROLS, want);
}

void vmx_set_efer(struct kvm_vcpu *vcpu, uint64_t v)
{
	if ((v ^ vmx_get_efer(vcpu)) & (EFER_LMA | EFER_NX))
		vcpu->vmx->loaded_vmcs->flush_guest = true;
	vmx_load_guest_efer(vcpu, v);
}

/*
 * VMXE is on in hardware whatever the guest thinks. Shadow tables have 8-byte
 * entries in every mode, the identity map has entries of 4 MiB; and where the guest does not page at all, nothing of
 * its own may forbid an access to what are user pages to the processor.
 */
static void write_hw_cr4(struct kvm_vcpu *vcpu, uint64_t v, bool paging)
{
	const struct vmcs_config *c = vmcs_config();

	v |= X86_CR4_VMXE | c->cr4_fixed0;
	if (!vmx_params()->ept) {
		v |= X86_CR4_PAE;
		if (!(vmx_get_efer(vcpu) & EFER_LMA))
			v &= ~X86_CR4_PCIDE;
	} else if (vmx_is_identity_mapped(vcpu)) {
		v = (v | X86_CR4_PSE) & ~X86_CR4_PAE;
	}
	if (!vmx_params()->unrestricted_guest && !paging)
		v &= ~(X86_CR4_SMEP | X86_CR4_SMAP | X86_CR4_PKE);
	vmcs_writel(vcpu, GUEST_CR4, v & c->cr4_fixed1);
}

static uint64_t cr0_always_on(void)
{
	const struct vmx_params *p = vmx_params();

	return p->unrestricted_guest ? CR0_ALWAYS_ON : p->ept ? CR0_ALWAYS_ON_RESTRICTED : CR0_ALWAYS_ON_SHADOW;
}

/*
 * Before CR0 becomes v: with PG the guest's CR3 comes into GUEST_CR3 or goes from it, and while the identity map is
 * there the guest's MOVs from and to CR3 exit. (Linux: vmx_set_cr0)
 */
static void switch_identity_map(struct kvm_vcpu *vcpu, uint64_t v)
{
	if (!vmx_params()->ept || vmx_params()->unrestricted_guest)
		return;
	if (!(v & X86_CR0_PG))
		vcpu->vmx->loaded_vmcs->cr3 = vmx_get_cr3(vcpu);
	if ((v ^ vcpu->vmx->cr0) & X86_CR0_PG)
		vcpu->vmx->loaded_vmcs->cr3_stale = true;
	cpu_based_assign(vcpu, CPU_BASED_CR3_LOAD_EXITING | CPU_BASED_CR3_STORE_EXITING, !(v & X86_CR0_PG));
}

void vmx_set_cr0(struct kvm_vcpu *vcpu, uint64_t v)
{
	struct vcpu_vmx *vmx = vcpu->vmx;
	uint64_t efer = vmx_get_efer(vcpu);

	if ((vmx_get_cr0(vcpu) ^ v) & CR0_TRANSLATION)
		vmx->loaded_vmcs->flush_guest = true;
	vmx->state_unchecked = true;
	/* enter_lmode, exit_lmode: LMA follows PG where LME is set */
	if (efer & EFER_LME) {
		if (v & X86_CR0_PG) {
			fix_tr_for_lmode(vcpu);
			vmx_set_efer(vcpu, efer | EFER_LMA);
		} else {
			vmx_set_efer(vcpu, efer & ~EFER_LMA);
		}
	}
	switch_identity_map(vcpu, v);
	vmx->cr0 = v;
	write_cr0_mask(vcpu);
	vmcs_writel(vcpu, CR0_READ_SHADOW, v);
	vmcs_writel(vcpu, GUEST_CR0, (v & ~CR0_ALWAYS_OFF) | cr0_always_on());
	if (!vmx_params()->unrestricted_guest)
		write_hw_cr4(vcpu, vmx_get_cr4(vcpu), v & X86_CR0_PG);
}

void vmx_load_guest_crs(struct kvm_vcpu *vcpu, uint64_t cr0, uint64_t cr4)
{
	struct vcpu_vmx *vmx = vcpu->vmx;

	vmx->state_unchecked = true;
	vmx->cr0 = cr0;
	write_cr0_mask(vcpu);
	vmcs_writel(vcpu, CR0_READ_SHADOW, cr0);
	vmcs_writel(vcpu, GUEST_CR0, (cr0 & ~CR0_ALWAYS_OFF) | CR0_ALWAYS_ON);
	write_hw_cr4(vcpu, cr4, cr0 & X86_CR0_PG);
	vmx->cr4 = cr4;
	write_cr4_mask(vcpu);
	vmcs_writel(vcpu, CR4_READ_SHADOW, cr4);
}

void vmx_set_guest_cr3(struct kvm_vcpu *vcpu, uint64_t v)
{
	vcpu->vmx->stamp++;
	vcpu->vmx->loaded_vmcs->cr3 = v;
	vcpu->vmx->loaded_vmcs->cr3_stale = vmx_params()->ept;
}

void vmx_vcpu_after_set_cpuid(struct kvm_vcpu *vcpu)
{
	struct vcpu_vmx *vmx = vcpu->vmx;
	uint64_t rsvd = 0;

	vmx->cr4 = vmx_get_cr4(vcpu);
	if (vmx_services && vmx_services->cr4_guest_rsvd_bits)
		rsvd = vmx_services->cr4_guest_rsvd_bits(vcpu);
	/* What the processor cannot hold lives in the shadow. */
	vmx->cr4_guest_owned = CR4_GUEST_OWNED & ~rsvd & vmcs_config()->cr4_fixed1;
	if (!vmx_params()->ept)
		vmx->cr4_guest_owned &= ~CR4_NOT_OWNED_SHADOW;
	write_cr4_mask(vcpu);
	if (!vmx->head.guest_mode)
		vmcs_writel(vcpu, CR4_READ_SHADOW, vmx->cr4);
}

void vmx_set_cr4(struct kvm_vcpu *vcpu, uint64_t v)
{
	if ((vmx_get_cr4(vcpu) ^ v) & CR4_TRANSLATION)
		vcpu->vmx->loaded_vmcs->flush_guest = true;
	write_hw_cr4(vcpu, v, vmx_get_cr0(vcpu) & X86_CR0_PG);
	vcpu->vmx->cr4 = v;
	vmcs_writel(vcpu, CR4_READ_SHADOW, v);
	vmx_vcpu_after_set_cpuid(vcpu);
}

void vmx_set_dr7(struct kvm_vcpu *vcpu, uint64_t v)
{
	vmcs_writel(vcpu, GUEST_DR7, v);
}

uint64_t vmx_get_dr7(struct kvm_vcpu *vcpu)
{
	return vmcs_readl(vcpu, GUEST_DR7);
}

void vmx_get_pdptrs(struct kvm_vcpu *vcpu, uint64_t pdptrs[4])
{
	for (unsigned i = 0; i < 4; i++)
		pdptrs[i] = vmx_params()->ept ? vmcs_read64(vcpu, GUEST_PDPTR0 + 2 * i)
					      : vcpu->vmx->pdptrs[i];
}

void vmx_set_pdptrs(struct kvm_vcpu *vcpu, const uint64_t pdptrs[4])
{
	for (unsigned i = 0; i < 4; i++) {
		if (vmx_params()->ept)
			vmcs_write64(vcpu, GUEST_PDPTR0 + 2 * i, pdptrs[i]);
		vcpu->vmx->pdptrs[i] = pdptrs[i];
	}
}

void vmx_skip_emulated_instruction(struct kvm_vcpu *vcpu)
{
	vmx_skip_bytes(vcpu, vmcs_read32(vcpu, VM_EXIT_INSTRUCTION_LEN));
}

void vmx_skip_bytes(struct kvm_vcpu *vcpu, uint32_t len)
{
	uint64_t old = vmx_get_rip(vcpu), rip = old + len;

	/* EIP wraps at 4 GiB; an RIP is left alone */
	if (((old ^ rip) >> 31) == 3 && !vmx_is_64bit_code(vcpu))
		rip = (uint32_t)rip;
	vmx_set_rip(vcpu, rip);
	vmx_set_interrupt_shadow(vcpu, 0);
	if (unlikely(vcpu->vmx->head.guest_mode))
		nested_vmx_update_mtf(vcpu, false);
	/* the trap the instruction would have ended with; while a debugger steps, it has the step */
	if (unlikely(vmx_get_rflags(vcpu) & X86_FLAGS_TF) &&
	    !(vmx_services->guest_debug && vmx_services->guest_debug(vcpu) & KVM_GUESTDBG_SINGLESTEP))
		vmx_services->queue_exception(vcpu, X86_TRAP_DB, false, 0, true, DR6_BS);
}
