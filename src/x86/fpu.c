/*
 * x87, SSE, AVX and AVX-512 state: KVM_GET/SET_FPU and KVM_GET/SET_XSAVE(2) on
 * the processor's XSAVE area (standard format: legacy area, header, and behind
 * it components where CPUID leaf 0Dh says).
 *
 * Invariants
 * 1. The area is always one that XRSTOR accepts: XSTATE_BV within what is
 *    supported, XCOMP_BV and the reserved header bytes zero, MXCSR legal.
 * 2. It is never larger than KVM_GET_XSAVE's structure (4 KiB).
 * 3. PKRU is in it for the client only; it goes to and from the processor by itself.
 *
 * Locks: vcpu->mutex, outside the guest.
 */
#include <string.h>

#include "lib/error.h"
#include "x86/x86.h"

#define MXCSR_MASK 0x0000ffffu
#define MXCSR_DEFAULT 0x1f80u
#define FCW_DEFAULT 0x037f
/* SDM Vol. 1, "Legacy Region of an XSAVE Area" and "XSAVE Header". */
struct xsave_image {
	uint16_t fcw, fsw;
	uint8_t ftw, rsvd;
	uint16_t fop;
	uint64_t rip, rdp;
	uint32_t mxcsr, mxcsr_mask;
	uint8_t st[8][16];
	uint8_t xmm[16][16];
	uint8_t unused[96];
	uint64_t xstate_bv, xcomp_bv;
	uint8_t header_reserved[48];
	uint8_t extended[4096 - 576]; /* components 2 and above */
};
static_assert(offsetof(struct xsave_image, xmm) == 160, "legacy area");
static_assert(offsetof(struct xsave_image, xstate_bv) == 512, "header");
static_assert(sizeof(struct xsave_image) == sizeof(struct kvm_xsave), "KVM_GET_XSAVE");

/* Components an area can hold; x87 and SSE without XSAVE too. */
static uint64_t image_features(void)
{
	return kvm_supported_xcr0() | XFEATURE_MASK_FP | XFEATURE_MASK_SSE;
}

static struct xsave_image *image(struct kvm_vcpu *vcpu)
{
	size_t size;

	return vmx_xsave_area(vmx_processor(vcpu), &size);
}

static bool has_pkru(uint64_t bv)
{
	return bv & image_features() & XFEATURE_MASK_PKRU;
}

static uint32_t *pkru_in(struct xsave_image *x)
{
	uint32_t offset = 0, size;
	bool aligned;

	(void)kvm_xstate_component(XFEATURE_PKRU, &offset, &size, &aligned);
	return (uint32_t *)((uint8_t *)x + offset);
}

/* Components 2 and above that bv has, from one area to another; not PKRU, which no area of the processor's holds. */
static void copy_extended(struct xsave_image *out, const struct xsave_image *x, uint64_t bv)
{
	for (unsigned n = 2; n < XFEATURE_PKRU; n++) {
		uint32_t offset, size;
		bool aligned;

		if ((bv & BIT_ULL(n)) && kvm_xstate_component(n, &offset, &size, &aligned) &&
		    offset + size <= sizeof(*out))
			memcpy((uint8_t *)out + offset, (const uint8_t *)x + offset, size);
	}
}

/* The whole state, components in their initial configuration written out. */
static void read_image(struct kvm_vcpu *vcpu, struct xsave_image *out)
{
	const struct xsave_image *x = image(vcpu);
	uint64_t bv = x->xstate_bv;

	memset(out, 0, sizeof(*out));
	out->fcw = FCW_DEFAULT;
	out->mxcsr = MXCSR_DEFAULT;
	out->mxcsr_mask = MXCSR_MASK;
	if (bv & XFEATURE_MASK_FP) {
		memcpy(out, x, offsetof(struct xsave_image, mxcsr));
		memcpy(out->st, x->st, sizeof(out->st));
	}
	if (bv & (XFEATURE_MASK_SSE | XFEATURE_MASK_YMM))
		out->mxcsr = x->mxcsr;
	if (bv & XFEATURE_MASK_SSE)
		memcpy(out->xmm, x->xmm, sizeof(out->xmm));
	copy_extended(out, x, bv);
	out->xstate_bv = (bv & image_features()) | XFEATURE_MASK_FP | XFEATURE_MASK_SSE;
	if (has_pkru(XFEATURE_MASK_PKRU) && vmx_get_pkru(vmx_processor(vcpu))) {
		out->xstate_bv |= XFEATURE_MASK_PKRU;
		*pkru_in(out) = vmx_get_pkru(vmx_processor(vcpu));
	}
}

void kvm_read_xmm(struct kvm_vcpu *vcpu, uint64_t (*out)[2], unsigned n)
{
	struct xsave_image x;

	read_image(vcpu, &x);
	memcpy(out, x.xmm, n * sizeof(x.xmm[0]));
}

static void write_image(struct kvm_vcpu *vcpu, const struct xsave_image *in)
{
	struct xsave_image *x = image(vcpu);
	size_t size;

	vmx_xsave_area(vmx_processor(vcpu), &size);
	memcpy(x, in, size < sizeof(*in) ? size : sizeof(*in));
	x->xstate_bv &= ~XFEATURE_MASK_PKRU;
}

int kvm_vcpu_ioctl_get_fpu(struct kvm_vcpu *vcpu, struct kvm_fpu *f)
{
	struct xsave_image x;

	read_image(vcpu, &x);
	memset(f, 0, sizeof(*f));
	memcpy(f->fpr, x.st, sizeof(f->fpr));
	f->fcw = x.fcw;
	f->fsw = x.fsw;
	f->ftwx = x.ftw;
	f->last_opcode = x.fop;
	f->last_ip = x.rip;
	f->last_dp = x.rdp;
	memcpy(f->xmm, x.xmm, sizeof(f->xmm));
	f->mxcsr = x.mxcsr;
	return 0;
}

int kvm_vcpu_ioctl_set_fpu(struct kvm_vcpu *vcpu, const struct kvm_fpu *f)
{
	struct xsave_image x;

	/* An illegal MXCSR would make XRSTOR fault: refused here, at the door. */
	if (f->mxcsr & ~MXCSR_MASK)
		return err_born(EINVAL, "MXCSR %#x", f->mxcsr);
	read_image(vcpu, &x);
	memcpy(x.st, f->fpr, sizeof(x.st));
	x.fcw = f->fcw;
	x.fsw = f->fsw;
	x.ftw = f->ftwx;
	x.fop = f->last_opcode;
	x.rip = f->last_ip;
	x.rdp = f->last_dp;
	memcpy(x.xmm, f->xmm, sizeof(x.xmm));
	x.mxcsr = f->mxcsr;
	write_image(vcpu, &x);
	return 0;
}

int kvm_vcpu_ioctl_get_xsave(struct kvm_vcpu *vcpu, struct kvm_xsave *out)
{
	struct xsave_image x;

	read_image(vcpu, &x);
	memset(out, 0, sizeof(*out));
	memcpy(out->region, &x, sizeof(x));
	return 0;
}

int kvm_vcpu_ioctl_set_xsave(struct kvm_vcpu *vcpu, const struct kvm_xsave *in)
{
	struct xsave_image x, now;

	memcpy(&x, in->region, sizeof(x));
	if (x.xstate_bv & ~image_features())
		return err_born(EINVAL, "XSTATE_BV %#lx", (unsigned long)x.xstate_bv);
	/* Looked at where a component that it belongs to is there. */
	if ((x.xstate_bv & (XFEATURE_MASK_FP | XFEATURE_MASK_SSE | XFEATURE_MASK_YMM)) && (x.mxcsr & ~MXCSR_MASK))
		return err_born(EINVAL, "MXCSR %#x", x.mxcsr);
	if (x.xcomp_bv)
		return err_born(EINVAL, "XSAVE area in compacted format");
	for (size_t i = 0; i < sizeof(x.header_reserved); i++)
		if (x.header_reserved[i])
			return err_born(EINVAL, "reserved bytes of the XSAVE header");
	/* Components absent from XSTATE_BV take their initial state. */
	memset(&now, 0, sizeof(now));
	now.fcw = FCW_DEFAULT;
	now.mxcsr = MXCSR_DEFAULT;
	if (x.xstate_bv & XFEATURE_MASK_FP) {
		memcpy(&now, &x, offsetof(struct xsave_image, mxcsr));
		memcpy(now.st, x.st, sizeof(now.st));
	}
	if (x.xstate_bv & (XFEATURE_MASK_SSE | XFEATURE_MASK_YMM))
		now.mxcsr = x.mxcsr;
	if (x.xstate_bv & XFEATURE_MASK_SSE)
		memcpy(now.xmm, x.xmm, sizeof(now.xmm));
	copy_extended(&now, &x, x.xstate_bv);
	now.mxcsr_mask = MXCSR_MASK;
	/* what is in use stays visible to the guest: XSAVE and XGETBV(1) show it */
	now.xstate_bv = x.xstate_bv | XFEATURE_MASK_FP | XFEATURE_MASK_SSE;
	write_image(vcpu, &now);
	vmx_set_pkru(vmx_processor(vcpu), has_pkru(x.xstate_bv) ? *pkru_in(&x) : 0);
	return 0;
}
