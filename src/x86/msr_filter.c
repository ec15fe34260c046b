/*
 * Which MSRs the guest may touch (KVM API: KVM_X86_SET_MSR_FILTER).
 *
 * A filter is immutable: a new one replaces it, and msr_filter_seq tells each
 * vCPU to bring its MSR intercepts up to date before it next enters. Replaced
 * filters are kept until the VM ends, so that readers need no lock; a client
 * sets one or two in a VM's life. x2APIC MSRs are never filtered.
 *
 * Locks: kvm->lock for writers, none for readers.
 */
#include <string.h>

#include "host/fault.h"
#include "lib/error.h"
#include "lib/own.h"
#include "x86/x86.h"

struct filter_range {
	uint32_t flags, base, nmsrs;
	uint64_t *bitmap; /* 1: allowed */
};

struct msr_filter {
	struct msr_filter *replaced; /* the one before */
	bool default_allow;
	uint32_t count;
	struct filter_range ranges[KVM_MSR_FILTER_MAX_RANGES];
};

static void free_filter(struct msr_filter *f)
{
	if (!f)
		return;
	for (uint32_t i = 0; i < f->count; i++)
		own_free(f->ranges[i].bitmap);
	own_free(f);
}

static int add_range(struct msr_filter *f, const struct kvm_msr_filter_range *u)
{
	size_t bytes = (u->nmsrs + 63ULL) / 64 * 8;
	uint64_t *bitmap;
	int r;

	if (!u->nmsrs)
		return 0;
	if (!u->flags || u->flags & ~(KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE))
		return err_born(EINVAL, "MSR filter range flags %#x", u->flags);
	if (bytes > KVM_MSR_FILTER_MAX_BITMAP_SIZE)
		return err_born(EINVAL, "MSR filter range of %u MSRs", u->nmsrs);
	bitmap = own_malloc(bytes);
	if (!bitmap)
		return err_born(ENOMEM, "MSR filter");
	r = host_copy_from(bitmap, u->bitmap, bytes);
	if (r) {
		own_free(bitmap);
		return r;
	}
	f->ranges[f->count++] = (struct filter_range){ u->flags, u->base, u->nmsrs, bitmap };
	return 0;
}

int kvm_vm_ioctl_set_msr_filter(struct kvm *kvm, const struct kvm_msr_filter *u)
{
	struct msr_filter *f;
	bool empty = true;
	int r = 0;

	if (u->flags & ~KVM_MSR_FILTER_DEFAULT_DENY)
		return err_born(EINVAL, "MSR filter flags %#x", u->flags);
	for (int i = 0; i < KVM_MSR_FILTER_MAX_RANGES; i++)
		empty &= !u->ranges[i].nmsrs;
	if (empty && (u->flags & KVM_MSR_FILTER_DEFAULT_DENY))
		return err_born(EINVAL, "an MSR filter that denies everything");
	f = own_calloc(1, sizeof(*f));
	if (!f)
		return err_born(ENOMEM, "MSR filter");
	f->default_allow = !(u->flags & KVM_MSR_FILTER_DEFAULT_DENY);
	for (int i = 0; i < KVM_MSR_FILTER_MAX_RANGES && r == 0; i++)
		r = add_range(f, &u->ranges[i]);
	if (r) {
		free_filter(f);
		return r;
	}
	pthread_mutex_lock(&kvm->lock);
	f->replaced = kvm->arch->msr_filter;
	__atomic_store_n(&kvm->arch->msr_filter, (void *)f, __ATOMIC_RELEASE);
	__atomic_fetch_add(&kvm->arch->msr_filter_seq, 1, __ATOMIC_SEQ_CST);
	pthread_mutex_unlock(&kvm->lock);
	return 0;
}

bool kvm_msr_allowed(struct kvm_vcpu *vcpu, uint32_t index, uint32_t type)
{
	const struct msr_filter *f = __atomic_load_n(&vcpu->kvm->arch->msr_filter, __ATOMIC_ACQUIRE);

	if (likely(!f) || (index >= MSR_IA32_X2APIC_FIRST && index <= MSR_IA32_X2APIC_LAST))
		return true;
	for (uint32_t i = 0; i < f->count; i++) {
		const struct filter_range *r = &f->ranges[i];
		uint32_t bit = index - r->base;

		if ((r->flags & type) && index >= r->base && bit < r->nmsrs)
			return r->bitmap[bit / 64] >> bit % 64 & 1;
	}
	return f->default_allow;
}

void kvm_msr_filter_sync(struct kvm_vcpu *vcpu)
{
	uint32_t seq = __atomic_load_n(&vcpu->kvm->arch->msr_filter_seq, __ATOMIC_ACQUIRE);

	if (likely(vcpu->arch->msr_filter_seq == seq))
		return;
	vcpu->arch->msr_filter_seq = seq;
	kvm_msr_update_intercepts(vcpu);
}

void kvm_x86_state_destroy_vm(struct kvm *kvm)
{
	struct msr_filter *f = kvm->arch->msr_filter, *next;

	for (; f; f = next) {
		next = f->replaced;
		free_filter(f);
	}
	kvm->arch->msr_filter = NULL;
}
