/*
 * The hypervisor's own accesses to guest memory, page by page through the
 * memslots. Client memory may vanish at any moment, so every byte goes through
 * the guarded copies of host/fault.h.
 *
 * A page is brought in (and waited for: userfaultfd, a slow file) before the RCU
 * section in which it is copied, so that whoever brings it may change memslots.
 * The copy itself stays inside: when a slot's deletion has returned, nobody
 * writes to its memory any more.
 */
#include "host/fault.h"
#include "host/memory.h"
#include "lib/error.h"
#include "lib/own.h"
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

struct access {
	struct kvm *kvm;
	struct kvm_vcpu *vcpu; /* NULL: as_id; else its own address space */
	int as_id;
	bool write;
	void *to;	  /* reads */
	const void *from; /* writes */
};

/* RCU. The host address of gpa and its slot; 0 when it cannot be accessed so, or is the library's own. */
static hva_t find_hva(const struct access *a, gpa_t gpa, struct kvm_memory_slot **slot)
{
	hva_t hva;

	*slot = usable(find(a->kvm, a->vcpu, a->as_id, gpa >> PAGE_SHIFT), a->write);
	if (!*slot)
		return 0;
	hva = gfn_to_hva_memslot(*slot, gpa >> PAGE_SHIFT) + (gpa & ~PAGE_MASK);
	return own_overlaps(hva, 1) ? 0 : hva;
}

static hva_t find_hva_now(const struct access *a, gpa_t gpa)
{
	struct kvm_memory_slot *slot;
	hva_t hva;

	lib_rcu_read_lock();
	hva = find_hva(a, gpa, &slot);
	lib_rcu_read_unlock();
	return hva;
}

/* Within one page that is there, at hva unless slots have changed: 1 copied, 0 they have, -EFAULT. */
static int copy_part(const struct access *a, gpa_t gpa, hva_t hva, size_t n)
{
	struct kvm_memory_slot *slot;
	void *p = (void *)(uintptr_t)hva;
	int r = 0;

	lib_rcu_read_lock();
	if (find_hva(a, gpa, &slot) == hva) {
		r = a->write ? host_copy_to(p, a->from, n) : host_copy_from(a->to, p, n);
		if (!r && a->write)
			mark_page_dirty_in_slot(a->kvm, slot, gpa >> PAGE_SHIFT);
		r = r ? r : 1;
	}
	lib_rcu_read_unlock();
	return r;
}

static int access_guest(struct access a, gpa_t gpa, size_t len)
{
	while (len) {
		size_t n = min_u64(len, PAGE_SIZE - (gpa & ~PAGE_MASK));
		hva_t hva = find_hva_now(&a, gpa);
		int r;

		if (!hva)
			return err_born(EFAULT, "gpa %#llx is no memory", (unsigned long long)gpa);
		r = host_fault_in(hva, a.write, NULL);
		if (!r)
			r = copy_part(&a, gpa, hva, n);
		if (r < 0)
			return r;
		if (!r)
			continue; /* the slot moved: look again */
		if (a.write)
			a.from = (const char *)a.from + n;
		else
			a.to = (char *)a.to + n;
		gpa += n;
		len -= n;
	}
	return 0;
}

bool kvm_gpa_is_writable(struct kvm *kvm, int as_id, gpa_t gpa)
{
	bool yes;

	lib_rcu_read_lock();
	yes = usable(gfn_to_memslot_as(kvm, as_id, gpa >> PAGE_SHIFT), true) != NULL;
	lib_rcu_read_unlock();
	return yes;
}

int kvm_read_guest(struct kvm *kvm, int as_id, gpa_t gpa, void *data, size_t len)
{
	return access_guest((struct access){ kvm, NULL, as_id, false, .to = data }, gpa, len);
}

int kvm_write_guest(struct kvm *kvm, int as_id, gpa_t gpa, const void *data, size_t len)
{
	return access_guest((struct access){ kvm, NULL, as_id, true, .from = data }, gpa, len);
}

int kvm_vcpu_read_guest(struct kvm_vcpu *vcpu, gpa_t gpa, void *data, size_t len)
{
	return access_guest((struct access){ vcpu->kvm, vcpu, 0, false, .to = data }, gpa, len);
}

int kvm_vcpu_write_guest(struct kvm_vcpu *vcpu, gpa_t gpa, const void *data, size_t len)
{
	return access_guest((struct access){ vcpu->kvm, vcpu, 0, true, .from = data }, gpa, len);
}

int kvm_vcpu_exchange_guest(struct kvm_vcpu *vcpu, gpa_t gpa, kvm_exchange_fn *exchange, const void *what)
{
	struct access a = { vcpu->kvm, vcpu, 0, true, NULL, NULL };

	for (;;) {
		struct kvm_memory_slot *slot;
		hva_t hva = find_hva_now(&a, gpa);
		bool moved;
		int r;

		if (!hva)
			return err_born(EFAULT, "gpa %#llx is no memory to write", (unsigned long long)gpa);
		r = host_fault_in(hva, true, NULL);
		if (r)
			return r;
		lib_rcu_read_lock();
		moved = find_hva(&a, gpa, &slot) != hva;
		r = moved ? 0 : exchange((void *)(uintptr_t)hva, what);
		if (r > 0)
			mark_page_dirty_in_slot(vcpu->kvm, slot, gpa >> PAGE_SHIFT);
		lib_rcu_read_unlock();
		if (!moved)
			return r;
	}
}

int kvm_exchange_entry(void *at, const void *what)
{
	const struct kvm_entry_exchange *e = what;

	return e->size == 4 ? host_cmpxchg32(at, (uint32_t)e->old, (uint32_t)e->val) : host_cmpxchg64(at, e->old, e->val);
}

hva_t kvm_vcpu_gpa_to_hva(struct kvm_vcpu *vcpu, gpa_t gpa, bool write)
{
	struct access a = { vcpu->kvm, vcpu, 0, write, NULL, NULL };

	return find_hva_now(&a, gpa);
}
