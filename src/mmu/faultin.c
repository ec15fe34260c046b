/*
 * From a guest-physical page to a host page that is there: slot, host virtual address, level.
 *
 * Invariants
 * 1. The client's page is waited for (userfaultfd, a slow file) with nothing
 *    held, no RCU section either: whoever brings it may change memslots and
 *    mappings first. (Linux stays in its SRCU section, so memslots there wait.)
 * 2. What was learned before the wait is used only if, in an RCU section and
 *    with mmu_lock, neither mmu_invalidate_seq nor the slots' generation has
 *    moved (is_page_fault_stale()). Generations are never used again, so the slot is then the one that
 *    was found and stays until the section ends.
 *
 * Locks: none while the page is waited for.
 */
#include "host/memory.h"
#include "lib/error.h"
#include "lib/own.h"
#include "lib/rcu.h"
#include "mmu/internal.h"
#include "trace/trace.h"
#include "virt/async_pf.h"

uint64_t mmu_current_generation(struct kvm_vcpu *vcpu)
{
	struct kvm_memslots *slots = __kvm_memslots(vcpu->kvm, (int)vcpu->as_id);

	return __atomic_load_n(&slots->generation, __ATOMIC_ACQUIRE);
}

/* RCU. Largest leaf that the slot allows (Linux kvm_mmu_hugepage_adjust). */
static int slot_level(const struct kvm_page_fault *f)
{
	const struct kvm_memory_slot *s = f->slot;
	int level = 3;

	/* Writes are logged page by page. */
	if (kvm_slot_dirty_track_enabled(s))
		return 1;
	/* A leaf needs guest and host address alike modulo its size. */
	while (level > 1) {
		gfn_t first = ALIGN_DOWN(f->gfn, level_pages(level));

		if (((f->hva >> PAGE_SHIFT) ^ f->gfn) % level_pages(level) == 0 &&
		    first >= s->base_gfn && first + level_pages(level) <= s->base_gfn + s->npages)
			break;
		level--;
	}
	return level;
}

/* What kvm_faultin_page() still needs of the slot when it may be gone. */
struct slot_bounds {
	hva_t start;
	uint64_t size_bytes;
	bool readonly;
};

/* RCU. Which slot, which host address. RET_PF_CONTINUE: f is complete up to goal_level. */
static enum ret_pf find_page(struct kvm_vcpu *vcpu, struct kvm_page_fault *f, struct slot_bounds *bounds)
{
	struct kvm_memslots *slots = __kvm_memslots(vcpu->kvm, (int)vcpu->as_id);
	struct kvm_memory_slot *s;

	f->generation = __atomic_load_n(&slots->generation, __ATOMIC_ACQUIRE);
	f->mmu_seq = __atomic_load_n(&vcpu->kvm->mmu_invalidate_seq, __ATOMIC_ACQUIRE);
	s = search_memslots(slots, f->gfn);
	if (s && mmu_hides_slot(s, mmu_guest_ops()->is_guest_mode && mmu_guest_ops()->is_guest_mode(vcpu)))
		s = NULL;
	f->slot = s;
	f->slot_id = 0;
	f->goal_level = f->req_level = 1;
	if (!s)
		return RET_PF_CONTINUE;
	/* On its way out: what it becomes will be seen when the guest tries again. */
	if (s->flags & KVM_MEMSLOT_INVALID)
		return RET_PF_RETRY;
	if (fault_is_write(f) && s->flags & KVM_MEM_READONLY)
		return RET_PF_EMULATE;
	/* of the slots that are the hypervisor's own: nothing is cached, so that nothing is to be dropped */
	if (unlikely(s->id == APIC_ACCESS_PAGE_PRIVATE_MEMSLOT) &&
	    __atomic_load_n(&vcpu->kvm->apic_access_closed, __ATOMIC_SEQ_CST))
		return RET_PF_EMULATE;
	f->slot_id = s->id;
	f->hva = gfn_to_hva_memslot(s, f->gfn);
	f->goal_level = slot_level(f);
	*bounds = (struct slot_bounds){
		.start = s->userspace_addr,
		.size_bytes = s->npages << PAGE_SHIFT,
		.readonly = s->flags & KVM_MEM_READONLY,
	};
	return RET_PF_CONTINUE;
}

/* What a leaf for the fault may map: memory of its slot, the same distance into it, and none of the library's. */
static bool leaf_is_the_slots(const struct kvm_page_fault *f, const struct slot_bounds *bounds)
{
	uint64_t size = PAGE_SIZE << (9 * (f->goal_level - 1));
	hva_t first = ALIGN_DOWN(f->hva, size);

	return first >= bounds->start && first + size <= bounds->start + bounds->size_bytes &&
	       ((f->gfn << PAGE_SHIFT) & (size - 1)) == (f->hva & (size - 1) & PAGE_MASK) && !own_overlaps(first, size);
}

enum ret_pf kvm_faultin_page(struct kvm_vcpu *vcpu, struct kvm_page_fault *f)
{
	struct slot_bounds bounds = { 0 };
	enum ret_pf r;

	lib_rcu_read_lock();
	r = find_page(vcpu, f, &bounds);
	lib_rcu_read_unlock();
	if (r != RET_PF_CONTINUE || !f->slot)
		return r;
	if (!f->prefetch && kvm_try_async_pf(vcpu, f->addr, f->gfn, f->hva))
		return RET_PF_RETRY;
	r = fault_result(f, host_fault_in(f->hva, fault_is_write(f), &f->map_writable));
	if (r != RET_PF_CONTINUE)
		return r;
	if (bounds.readonly)
		f->map_writable = false;
	f->goal_level = host_mapping_level(f->hva, bounds.start, bounds.size_bytes, f->goal_level);
	f->req_level = f->goal_level;
	if (fault_is_fetch(f) && is_nx_huge_page_enabled(vcpu->kvm->mmu_vm))
		f->goal_level = 1;
	return fault_result(f, kvm_bug_on(vcpu->kvm, !leaf_is_the_slots(f, &bounds)) ? -EIO : 0);
}

bool is_page_fault_stale(struct kvm_vcpu *vcpu, const struct kvm_page_fault *f)
{
	struct kvm *kvm = vcpu->kvm;

	return __atomic_load_n(&kvm->mmu_invalidate_in_progress, __ATOMIC_ACQUIRE) ||
	       __atomic_load_n(&kvm->mmu_invalidate_seq, __ATOMIC_ACQUIRE) != f->mmu_seq ||
	       mmu_current_generation(vcpu) != f->generation;
}

void mmu_trace_faultin(const struct kvm_page_fault *f, enum ret_pf r)
{
	TRACE_LINE(kvm_faultin_page, f->gfn, f->slot_id, (uint32_t)f->goal_level, f->hva,
		   f->slot != NULL, f->map_writable, fault_shown(f, r));
	if (f->slot)
		TRACE(kvmmmu, kvm_mmu_spte_requested, f->gfn, f->hva >> PAGE_SHIFT,
		      (uint8_t)f->goal_level);
}
