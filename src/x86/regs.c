/*
 * Registers: the architectural rules of writing CR0, CR3, CR4, EFER, XCR0 and
 * the debug registers, and the ioctls that read or set the register file.
 *
 * Invariants
 * 1. A write that the architecture refuses changes nothing.
 * 2. EFER.LMA == EFER.LME && CR0.PG, always.
 * 3. When a bit changes that decides how guest addresses are translated, the
 *    MMU context is chosen again (kvm_mmu_reset_context) and cached guest
 *    translations are dropped.
 *
 * Locks: vcpu->mutex (owner thread).
 */
#include <string.h>

#include "lib/error.h"
#include "sdm/paging.h"
#include "x86/x86.h"

#define CR0_ARCH_BITS                                                                      \
	(X86_CR0_PE | X86_CR0_MP | X86_CR0_EM | X86_CR0_TS | X86_CR0_ET | X86_CR0_NE |      \
	 X86_CR0_WP | X86_CR0_AM | X86_CR0_NW | X86_CR0_CD | X86_CR0_PG)
#define CR0_ROLE_BITS (X86_CR0_PG | X86_CR0_WP)
#define CR0_PDPTR_BITS (X86_CR0_CD | X86_CR0_NW | X86_CR0_PG)
#define CR4_ROLE_BITS \
	(X86_CR4_PSE | X86_CR4_PAE | X86_CR4_LA57 | X86_CR4_SMEP | X86_CR4_SMAP | X86_CR4_PKE)
#define CR4_PDPTR_BITS (X86_CR4_PGE | X86_CR4_PSE | X86_CR4_PAE | X86_CR4_SMEP)
#define DR6_VOLATILE 0x0001e00fULL
#define DR7_VOLATILE 0xffff2bffULL

static bool is_paging(struct kvm_vcpu *vcpu)
{
	return vmx_get_cr0(vcpu) & X86_CR0_PG;
}

static bool is_long_mode(struct kvm_vcpu *vcpu)
{
	return vmx_get_efer(vcpu) & EFER_LMA;
}

static bool is_pae_paging(struct kvm_vcpu *vcpu)
{
	return !is_long_mode(vcpu) && (vmx_get_cr4(vcpu) & X86_CR4_PAE) && is_paging(vcpu);
}

static bool cr0_valid(uint64_t cr0)
{
	if (cr0 >> 32)
		return false;
	if ((cr0 & X86_CR0_NW) && !(cr0 & X86_CR0_CD))
		return false;
	return !(cr0 & X86_CR0_PG) || (cr0 & X86_CR0_PE);
}

static bool cr4_valid(struct kvm_vcpu *vcpu, uint64_t cr4)
{
	return !(cr4 & (kvm_cr4_host_reserved_bits() | kvm_cr4_guest_reserved_bits(vcpu))) &&
	       (vcpu->arch->smm || vmx_is_valid_cr4(vcpu, cr4));
}

static uint64_t cr3_reserved(struct kvm_vcpu *vcpu)
{
	return ~GENMASK_ULL(vcpu->arch->maxphyaddr - 1, 0);
}

/* PDPTEs: a present one must have its reserved bits clear (SDM "PDPTE Registers"). */
bool kvm_load_pdptrs(struct kvm_vcpu *vcpu, uint64_t cr3)
{
	uint64_t reserved = GENMASK_ULL(63, 0) & ~GENMASK_ULL(vcpu->arch->maxphyaddr - 1, 12);
	uint64_t pdptrs[4];

	reserved &= ~(PTE_P | PTE_PWT | PTE_PCD | GENMASK_ULL(11, 9));
	if (kvm_vcpu_read_guest(vcpu, cr3 & GENMASK_ULL(31, 5), pdptrs, sizeof(pdptrs)))
		return false;
	for (int i = 0; i < 4; i++)
		if ((pdptrs[i] & PTE_P) && (pdptrs[i] & reserved))
			return false;
	vmx_set_pdptrs(vcpu, pdptrs);
	return true;
}

/* Invariant 2. */
static void update_lma(struct kvm_vcpu *vcpu, uint64_t cr0)
{
	uint64_t efer = vmx_get_efer(vcpu), want = efer & ~EFER_LMA;

	if ((efer & EFER_LME) && (cr0 & X86_CR0_PG))
		want |= EFER_LMA;
	if (want != efer)
		vmx_set_efer(vcpu, want);
}

int kvm_set_cr0(struct kvm_vcpu *vcpu, uint64_t cr0)
{
	uint64_t old = vmx_get_cr0(vcpu), cr4 = vmx_get_cr4(vcpu);

	cr0 |= X86_CR0_ET;
	if (!cr0_valid(cr0) || (!vcpu->arch->smm && !vmx_is_valid_cr0(vcpu, cr0)))
		return 1;
	cr0 &= CR0_ARCH_BITS;
	if ((cr0 & X86_CR0_PG) && (vmx_get_efer(vcpu) & EFER_LME)) {
		if (!(old & X86_CR0_PG)) {
			struct kvm_segment cs;

			vmx_get_segment(vcpu, &cs, SREG_CS);
			if (!(cr4 & X86_CR4_PAE) || cs.l)
				return 1;
		}
	} else if ((cr0 & X86_CR0_PG) && (cr4 & X86_CR4_PAE) && ((cr0 ^ old) & CR0_PDPTR_BITS)) {
		if (!kvm_load_pdptrs(vcpu, vmx_get_cr3(vcpu)))
			return 1;
	}
	if (!(cr0 & X86_CR0_PG) && (vmx_is_64bit_code(vcpu) || (cr4 & X86_CR4_PCIDE)))
		return 1;
	vmx_set_cr0(vcpu, cr0);
	update_lma(vcpu, cr0);
	if ((cr0 ^ old) & X86_CR0_PG)
		vmx_flush_tlb_guest(vcpu);
	if ((cr0 ^ old) & CR0_ROLE_BITS)
		kvm_mmu_reset_context(vcpu);
	return 0;
}

int kvm_set_cr3(struct kvm_vcpu *vcpu, uint64_t cr3)
{
	bool keep = false;

	if ((vmx_get_cr4(vcpu) & X86_CR4_PCIDE) && is_long_mode(vcpu)) {
		keep = cr3 & CR3_NOFLUSH;
		cr3 &= ~CR3_NOFLUSH;
	}
	if (is_long_mode(vcpu) && (cr3 & cr3_reserved(vcpu)))
		return 1;
	if (is_pae_paging(vcpu) && !kvm_load_pdptrs(vcpu, cr3))
		return 1;
	vmx_set_guest_cr3(vcpu, cr3);
	if (!keep)
		vmx_flush_tlb_guest(vcpu);
	kvm_mmu_new_cr3(vcpu, cr3, keep);
	return 0;
}

int kvm_set_cr4(struct kvm_vcpu *vcpu, uint64_t cr4)
{
	uint64_t old = vmx_get_cr4(vcpu);

	if (!cr4_valid(vcpu, cr4))
		return 1;
	if (is_long_mode(vcpu)) {
		if (!(cr4 & X86_CR4_PAE) || ((cr4 ^ old) & X86_CR4_LA57))
			return 1;
	} else if (is_paging(vcpu) && (cr4 & X86_CR4_PAE) && ((cr4 ^ old) & CR4_PDPTR_BITS)) {
		if (!kvm_load_pdptrs(vcpu, vmx_get_cr3(vcpu)))
			return 1;
	}
	if ((cr4 & X86_CR4_PCIDE) && !(old & X86_CR4_PCIDE) &&
	    (!is_long_mode(vcpu) || (vmx_get_cr3(vcpu) & CR3_PCID_MASK)))
		return 1;
	vmx_set_cr4(vcpu, cr4);
	if (((cr4 ^ old) & (X86_CR4_PGE | X86_CR4_PAE | X86_CR4_PSE | X86_CR4_SMEP | X86_CR4_SMAP)) ||
	    (!(cr4 & X86_CR4_PCIDE) && (old & X86_CR4_PCIDE)))
		kvm_vcpu_flush_tlb_guest(vcpu);
	if ((cr4 ^ old) & CR4_ROLE_BITS)
		kvm_mmu_reset_context(vcpu);
	return 0;
}

int kvm_set_cr8(struct kvm_vcpu *vcpu, uint64_t cr8)
{
	if (cr8 & ~15ULL)
		return 1;
	if (vcpu->apic)
		kvm_lapic_set_tpr(vcpu, cr8);
	else
		vcpu->arch->cr8 = cr8;
	return 0;
}

uint64_t kvm_get_cr8(struct kvm_vcpu *vcpu)
{
	return vcpu->apic ? kvm_lapic_get_cr8(vcpu) : vcpu->arch->cr8;
}

int kvm_set_efer(struct kvm_vcpu *vcpu, uint64_t efer, bool host_initiated)
{
	uint64_t old = vmx_get_efer(vcpu);

	if (efer & kvm_efer_host_reserved_bits())
		return 1;
	if (!host_initiated) {
		if (efer & kvm_efer_reserved_bits(vcpu))
			return 1;
		if (is_paging(vcpu) && ((efer ^ old) & EFER_LME))
			return 1;
	}
	efer = (efer & ~EFER_LMA) | (old & EFER_LMA);
	vmx_set_efer(vcpu, efer);
	if ((efer ^ old) & (EFER_NX | EFER_LME)) {
		vmx_flush_tlb_guest(vcpu);
		kvm_mmu_reset_context(vcpu);
	}
	return 0;
}

/* --- debug registers, XCR0 --- */

void kvm_update_dr7(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu_arch *a = vcpu->arch;

	vmx_set_dr7(vcpu, a->guest_debug & KVM_GUESTDBG_USE_HW_BP ? a->guest_debug_dr7 : a->dr7);
}

int kvm_set_dr(struct kvm_vcpu *vcpu, int nr, uint64_t v)
{
	struct kvm_vcpu_arch *a = vcpu->arch;

	switch (nr) {
	case 0 ... 3:
		a->db[nr] = v;
		if (!(a->guest_debug & KVM_GUESTDBG_USE_HW_BP))
			a->eff_db[nr] = v;
		return 0;
	case 4:
	case 6:
		if (v >> 32)
			return 1;
		a->dr6 = (v & DR6_VOLATILE) | DR6_ACTIVE_LOW;
		return 0;
	default:
		if (v >> 32)
			return 1;
		a->dr7 = (v & DR7_VOLATILE) | DR7_FIXED_1;
		kvm_update_dr7(vcpu);
		return 0;
	}
}

uint64_t kvm_get_dr(struct kvm_vcpu *vcpu, int nr)
{
	switch (nr) {
	case 0 ... 3:
		return vcpu->arch->db[nr];
	case 4:
	case 6:
		return vcpu->arch->dr6;
	default:
		return vcpu->arch->dr7;
	}
}

int kvm_set_xcr(struct kvm_vcpu *vcpu, uint32_t index, uint64_t v)
{
	/* x87 state is always on whatever the guest's CPUID says. */
	uint64_t allowed = vcpu->arch->guest_supported_xcr0 | XFEATURE_MASK_FP;

	if (index != 0 || !(v & XFEATURE_MASK_FP))
		return 1;
	if ((v & XFEATURE_MASK_YMM) && !(v & XFEATURE_MASK_SSE))
		return 1;
	if ((v & XFEATURE_MASK_AVX512) &&
	    (~v & (XFEATURE_MASK_AVX512 | XFEATURE_MASK_YMM)))
		return 1;
	if (v & ~allowed)
		return 1;
	vcpu->arch->xcr0 = v;
	vmx_set_xcr0(vmx_processor(vcpu), v);
	return 0;
}

int kvm_vcpu_ioctl_get_xcrs(struct kvm_vcpu *vcpu, struct kvm_xcrs *x)
{
	memset(x, 0, sizeof(*x));
	if (!kvm_supported_xcr0()) /* a host without XSAVE */
		return 0;
	x->nr_xcrs = 1;
	x->xcrs[0].xcr = 0;
	x->xcrs[0].value = vcpu->arch->xcr0;
	return 0;
}

int kvm_vcpu_ioctl_set_xcrs(struct kvm_vcpu *vcpu, const struct kvm_xcrs *x)
{
	if (!kvm_supported_xcr0())
		return err_born(EINVAL, "XCRs without XSAVE");
	if (x->nr_xcrs > KVM_MAX_XCRS || x->flags)
		return err_born(EINVAL, "%u XCRs, flags %#x", x->nr_xcrs, x->flags);
	for (uint32_t i = 0; i < x->nr_xcrs; i++)
		if (x->xcrs[i].xcr == 0)
			return kvm_set_xcr(vcpu, 0, x->xcrs[i].value) ?
				       err_born(EINVAL, "XCR0 %#llx", x->xcrs[i].value) :
				       0;
	return 0;
}

int kvm_vcpu_ioctl_get_debugregs(struct kvm_vcpu *vcpu, struct kvm_debugregs *d)
{
	memset(d, 0, sizeof(*d));
	memcpy(d->db, vcpu->arch->db, sizeof(d->db));
	d->dr6 = vcpu->arch->dr6;
	d->dr7 = vcpu->arch->dr7;
	return 0;
}

int kvm_vcpu_ioctl_set_debugregs(struct kvm_vcpu *vcpu, const struct kvm_debugregs *d)
{
	if (d->flags || d->dr6 >> 32 || d->dr7 >> 32)
		return err_born(EINVAL, "debug registers: flags %#llx dr6 %#llx dr7 %#llx", d->flags,
				d->dr6, d->dr7);
	memcpy(vcpu->arch->db, d->db, sizeof(d->db));
	if (!(vcpu->arch->guest_debug & KVM_GUESTDBG_USE_HW_BP))
		memcpy(vcpu->arch->eff_db, d->db, sizeof(d->db));
	vcpu->arch->dr6 = d->dr6;
	vcpu->arch->dr7 = d->dr7;
	kvm_update_dr7(vcpu);
	return 0;
}

/* --- KVM_GET_REGS, KVM_SET_REGS --- */

/* Where each general register is in struct kvm_regs, in hardware order. */
static const size_t regs_offset[NR_GPRS] = {
	[RAX] = offsetof(struct kvm_regs, rax), [RCX] = offsetof(struct kvm_regs, rcx),
	[RDX] = offsetof(struct kvm_regs, rdx), [RBX] = offsetof(struct kvm_regs, rbx),
	[RSP] = offsetof(struct kvm_regs, rsp), [RBP] = offsetof(struct kvm_regs, rbp),
	[RSI] = offsetof(struct kvm_regs, rsi), [RDI] = offsetof(struct kvm_regs, rdi),
	[R8] = offsetof(struct kvm_regs, r8),	[R9] = offsetof(struct kvm_regs, r9),
	[R10] = offsetof(struct kvm_regs, r10), [R11] = offsetof(struct kvm_regs, r11),
	[R12] = offsetof(struct kvm_regs, r12), [R13] = offsetof(struct kvm_regs, r13),
	[R14] = offsetof(struct kvm_regs, r14), [R15] = offsetof(struct kvm_regs, r15),
};

int kvm_vcpu_ioctl_get_regs(struct kvm_vcpu *vcpu, struct kvm_regs *r)
{
	const uint64_t *regs = vmx_regs(vcpu);

	for (int i = 0; i < NR_GPRS; i++)
		memcpy((char *)r + regs_offset[i], &regs[i], sizeof(uint64_t));
	r->rip = vmx_get_rip(vcpu);
	r->rflags = vmx_get_rflags(vcpu);
	return 0;
}

int kvm_vcpu_ioctl_set_regs(struct kvm_vcpu *vcpu, const struct kvm_regs *r)
{
	uint64_t *regs = vmx_regs(vcpu);

	for (int i = 0; i < NR_GPRS; i++)
		memcpy(&regs[i], (const char *)r + regs_offset[i], sizeof(uint64_t));
	vmx_set_rsp(vcpu, r->rsp);
	vmx_set_rip(vcpu, r->rip);
	vmx_set_rflags(vcpu, r->rflags | X86_FLAGS_FIXED);
	vcpu->arch->exception.pending = vcpu->arch->exception_vmexit.pending = false;
	kvm_make_request(KVM_REQ_EVENT, vcpu);
	return 0;
}

/* --- KVM_TRANSLATE, KVM_GET_MP_STATE --- */

int kvm_vcpu_ioctl_translate(struct kvm_vcpu *vcpu, struct kvm_translation *t)
{
	struct kvm_page_fault_info e = { 0 };
	gpa_t gpa = kvm_mmu_gva_to_gpa(vcpu, t->linear_address, 0, &e);

	t->physical_address = gpa;
	t->valid = gpa != INVALID_PAGE;
	t->writeable = 1;
	t->usermode = 0;
	return 0;
}

int kvm_vcpu_ioctl_get_mpstate(struct kvm_vcpu *vcpu, struct kvm_mp_state *s)
{
	int mp_state;

	/* What is on its way to a vCPU that does not run would be lost with it. */
	kvm_apic_accept_events(vcpu);
	mp_state = READ_ONCE(vcpu->arch->mp_state);
	if ((mp_state == KVM_MP_STATE_HALTED || mp_state == KVM_MP_STATE_AP_RESET_HOLD) &&
	    __atomic_load_n(&vcpu->arch->pv_unhalted, __ATOMIC_SEQ_CST))
		mp_state = KVM_MP_STATE_RUNNABLE;
	s->mp_state = (uint32_t)mp_state;
	return 0;
}

int kvm_vcpu_ioctl_set_mpstate(struct kvm_vcpu *vcpu, const struct kvm_mp_state *s)
{
	uint32_t mp_state = s->mp_state;

	switch (mp_state) {
	case KVM_MP_STATE_RUNNABLE:
		break;
	case KVM_MP_STATE_UNINITIALIZED:
	case KVM_MP_STATE_HALTED:
	case KVM_MP_STATE_AP_RESET_HOLD:
	case KVM_MP_STATE_INIT_RECEIVED:
	case KVM_MP_STATE_SIPI_RECEIVED:
		if (!vcpu->apic)
			return err_born(EINVAL, "MP state %u without an APIC", mp_state);
		if ((mp_state == KVM_MP_STATE_INIT_RECEIVED ||
		     mp_state == KVM_MP_STATE_SIPI_RECEIVED) &&
		    (vcpu->arch->smm || vcpu->arch->smi_pending))
			return err_born(EINVAL, "INIT is blocked in SMM");
		break;
	default:
		return err_born(EINVAL, "MP state %u", mp_state);
	}
	if (mp_state == KVM_MP_STATE_SIPI_RECEIVED) {
		/* its vector came by KVM_SET_VCPU_EVENTS */
		kvm_apic_set_sipi_pending(vcpu);
		mp_state = KVM_MP_STATE_INIT_RECEIVED;
	}
	WRITE_ONCE(vcpu->arch->mp_state, (int)mp_state);
	kvm_make_request(KVM_REQ_EVENT, vcpu);
	return 0;
}
