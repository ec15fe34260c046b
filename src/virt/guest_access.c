/*
 * The hypervisor's own accesses to guest memory, page by page through the
 * memslots. Client memory may vanish at any moment, so every byte goes through
 * the guarded copies of host/fault.h.
 */
#include "host/fault.h"
#include "lib/error.h"
#include "lib/rcu.h"
#include "virt/kvm.h"

/* RCU. The slot for an access; NULL (an error is born) when it cannot be made. */
static struct kvm_memory_slot *usable(struct kvm_memory_slot *slot, bool write)
{
	return slot && !(write && slot->flags & KVM_MEM_READONLY) ? slot : NULL;
}

static struct kvm_memory_slot *find(struct kvm *kvm, struct kvm_vcpu *vcpu, int as_id, gfn_t gfn)
{
	return vcpu ? kvm_vcpu_gfn_to_memslot(vcpu, gfn) : gfn_to_memslot_as(kvm, as_id, gfn);
}

static int access_guest(struct kvm *kvm, struct kvm_vcpu *vcpu, int as_id, gpa_t gpa, void *to,
			const void *from, size_t len)
{
	int r = 0;

	lib_rcu_read_lock();
	while (len && !r) {
		gfn_t gfn = gpa >> PAGE_SHIFT;
		size_t offset = gpa & ~PAGE_MASK;
		size_t n = min_u64(len, PAGE_SIZE - offset);
		struct kvm_memory_slot *slot = usable(find(kvm, vcpu, as_id, gfn), from != NULL);
		void *hva;

		if (!slot) {
			r = err_born(EFAULT, "gpa %#llx is no memory", (unsigned long long)gpa);
			break;
		}
		hva = (void *)(uintptr_t)(gfn_to_hva_memslot(slot, gfn) + offset);
		if (from) {
			r = host_copy_to(hva, from, n);
			if (!r)
				mark_page_dirty_in_slot(kvm, slot, gfn);
			from = (const char *)from + n;
		} else {
			r = host_copy_from(to, hva, n);
			to = (char *)to + n;
		}
		gpa += n;
		len -= n;
	}
	lib_rcu_read_unlock();
	return r;
}

int kvm_read_guest(struct kvm *kvm, int as_id, gpa_t gpa, void *data, size_t len)
{
	return access_guest(kvm, NULL, as_id, gpa, data, NULL, len);
}

int kvm_write_guest(struct kvm *kvm, int as_id, gpa_t gpa, const void *data, size_t len)
{
	return access_guest(kvm, NULL, as_id, gpa, NULL, data, len);
}

int kvm_vcpu_read_guest(struct kvm_vcpu *vcpu, gpa_t gpa, void *data, size_t len)
{
	return access_guest(vcpu->kvm, vcpu, 0, gpa, data, NULL, len);
}

int kvm_vcpu_write_guest(struct kvm_vcpu *vcpu, gpa_t gpa, const void *data, size_t len)
{
	return access_guest(vcpu->kvm, vcpu, 0, gpa, NULL, data, len);
}

hva_t kvm_vcpu_gpa_to_hva(struct kvm_vcpu *vcpu, gpa_t gpa, bool write)
{
	gfn_t gfn = gpa >> PAGE_SHIFT;
	struct kvm_memory_slot *slot;
	hva_t hva = 0;

	lib_rcu_read_lock();
	slot = usable(kvm_vcpu_gfn_to_memslot(vcpu, gfn), write);
	if (slot)
		hva = gfn_to_hva_memslot(slot, gfn) + (gpa & ~PAGE_MASK);
	lib_rcu_read_unlock();
	return hva;
}
