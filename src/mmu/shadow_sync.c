/*
 * Keeping shadow pages true to the guest's tables.
 *
 * Upper tables are write-protected: a write to one is emulated and the entry it
 * hits is dropped (shadow_pte_write), to be made again by the next fault. A
 * level-1 table may be written freely once it is unsync; what hardware would
 * have in its TLB then, our entries say, and the same events end it: INVLPG
 * drops one entry, loading CR3 brings the unsync pages below the root up to
 * date.
 *
 * Bringing up to date only ever narrows: an entry that the guest's no longer
 * allows loses rights or goes. What the guest has granted comes by a fault; but
 * a page that becomes the user's is one that SMEP and SMAP take from the
 * supervisor, so its entry goes.
 *
 * Locks: mmu_lock for writing, RCU.
 */
#include "host/fault.h"
#include "host/memory.h"
#include "lib/rcu.h"
#include "mmu/shadow.h"
#include "mmu/shadow_vcpu.h"

/* Writes to an upper table between two faults that went through it. */
#define FLOOD_LIMIT 3

/* --- level-1 pages --- */

static gpa_t level1_gpte(const struct shadow_page *sp, unsigned index)
{
	if (sp->role & ROLE_4_BYTE_GPTE)
		return (sp->gfn << PAGE_SHIFT) +
		       (FIELD_GET(ROLE_QUADRANT_MASK, sp->role) * SPTE_ENTRIES + index) * 4;
	return (sp->gfn << PAGE_SHIFT) + index * 8;
}

/* The rights that a guest entry leaves of those of `e`. 0: none, it goes. */
static uint64_t narrow(struct kvm_vcpu *vcpu, const struct shadow_page *sp, unsigned index,
		       uint64_t e, uint64_t gpte)
{
	gfn_t gfn = (sp->role & ROLE_4_BYTE_GPTE ? gpte & 0xfffff000ULL : gpte & PTE_ADDR_MASK) >>
		    PAGE_SHIFT;
	unsigned access = sp_access(sp);
	bool writable = gpte & PTE_RW && gpte & PTE_D && access & ACC_WRITE_MASK;
	bool user = gpte & PTE_US && access & ACC_USER_MASK;

	if (!(gpte & PTE_P) || !(gpte & PTE_A) || gfn != sp->node[index].gfn ||
	    !mmu_guest_pte_valid(vcpu, gpte))
		return 0;
	if (user && !(e & PTE_US))
		return 0;
	if (!user)
		e &= ~PTE_US;
	if (!writable)
		e &= ~(PTE_RW | PTE_D);
	if (sp->role & ROLE_NX && gpte & PTE_XD)
		e |= PTE_XD;
	return e;
}

/* True when TLBs may hold more than the entry allows now. */
static bool sync_entry(struct kvm_vcpu *vcpu, struct shadow_page *sp, unsigned index)
{
	struct kvm_mmu_vm *vm = vcpu->kvm->mmu_vm;
	uint64_t e = sp->spt[index], gpte = 0, new;

	if (!shadow_is_present(e))
		return false;
	if (kvm_vcpu_read_guest(vcpu, level1_gpte(sp, index), &gpte,
				sp->role & ROLE_4_BYTE_GPTE ? 4 : 8))
		gpte = 0;
	new = narrow(vcpu, sp, index, e, gpte);
	if (new == e)
		return false;
	if (new)
		__atomic_store_n(&sp->spt[index], new, __ATOMIC_RELEASE);
	else
		shadow_drop_spte(vm, sp, index);
	return true;
}

/* The page is write-protected and every vCPU knows. */
static bool sync_entries(struct kvm_vcpu *vcpu, struct shadow_page *sp)
{
	bool flush = false;
	unsigned i;

	for (i = 0; i < SPTE_ENTRIES; i++)
		flush |= sync_entry(vcpu, sp, i);
	return flush;
}

/* Protected from now on. True: after a flush. */
static bool end_unsync(struct kvm_vcpu *vcpu, struct shadow_page *sp)
{
	shadow_unlink_unsync(vcpu->kvm->mmu_vm, sp);
	return shadow_wrprot_range(kvm_vcpu_gfn_to_memslot(vcpu, sp->gfn), sp->gfn, sp->gfn + 1);
}

void shadow_sync_page(struct kvm_vcpu *vcpu, struct shadow_page *sp)
{
	if (end_unsync(vcpu, sp))
		kvm_flush_remote_tlbs(vcpu->kvm);
	if (sync_entries(vcpu, sp))
		kvm_flush_remote_tlbs(vcpu->kvm);
}

#define SYNC_BATCH 64

/*
 * Linux mmu_sync_children: the unsync pages below `top`, NULL for the current
 * root. In batches, one flush for each side of the reading.
 */
void shadow_sync_below(struct kvm_vcpu *vcpu, const struct shadow_page *top)
{
	struct kvm_mmu_vm *vm = vcpu->kvm->mmu_vm;
	struct shadow_page *batch[SYNC_BATCH], *sp, *next;
	bool protected, flush, more = true;
	unsigned n, i;

	while (more) {
		more = protected = flush = false;
		n = 0;
		for (sp = vm->shadow->unsync; sp && !more; sp = next) {
			next = sp->unsync_next;
			if (!shadow_reachable(vcpu, sp, top))
				continue;
			protected |= end_unsync(vcpu, sp);
			batch[n++] = sp;
			more = n == SYNC_BATCH;
		}
		if (protected)
			kvm_flush_remote_tlbs(vcpu->kvm);
		for (i = 0; i < n; i++)
			flush |= sync_entries(vcpu, batch[i]);
		if (flush)
			kvm_flush_remote_tlbs(vcpu->kvm);
	}
}

/* Linux kvm_mmu_sync_roots. */
void shadow_sync_roots(struct kvm_vcpu *vcpu)
{
	struct kvm_mmu_vm *vm = vcpu->kvm->mmu_vm;

	if (!__atomic_load_n(&vm->shadow->unsync, __ATOMIC_ACQUIRE))
		return;
	lib_rcu_read_lock();
	mmu_write_lock(vm);
	shadow_sync_below(vcpu, NULL);
	mmu_write_unlock(vm);
	lib_rcu_read_unlock();
}

/* --- INVLPG --- */

static bool invlpg_below(struct kvm_vcpu *vcpu, struct shadow_page *sp, gva_t gva)
{
	while (sp && sp_level(sp) > 1) {
		unsigned index = shadow_index(gva, sp_level(sp));
		uint64_t e = sp->spt[index];

		if (!shadow_is_present(e) || shadow_is_leaf(e, sp_level(sp)))
			return false;
		sp = sp->node[index].child;
	}
	return sp && sp->unsync && shadow_drop_spte(vcpu->kvm->mmu_vm, sp, shadow_index(gva, 1));
}

void shadow_invlpg(struct kvm_vcpu *vcpu, gva_t gva)
{
	struct kvm_mmu_vm *vm = vcpu->kvm->mmu_vm;
	struct shadow_vcpu *s = vcpu->mmu_vcpu->shadow;
	bool flush;
	unsigned i;

	if (!__atomic_load_n(&vm->shadow->unsync, __ATOMIC_ACQUIRE))
		return;
	mmu_write_lock(vm);
	flush = invlpg_below(vcpu, shadow_root_for(vcpu, gva), gva);
	/* a global page is one in every address space */
	for (i = 0; i < KVM_MMU_NUM_PREV_ROOTS; i++)
		flush |= invlpg_below(vcpu, s->prev[i].sp, gva);
	if (flush)
		kvm_flush_remote_tlbs(vcpu->kvm);
	mmu_write_unlock(vm);
}

/* --- emulated writes --- */

int shadow_written_sptes(const struct shadow_page *sp, unsigned offset, unsigned *count)
{
	unsigned quadrant = (unsigned)FIELD_GET(ROLE_QUADRANT_MASK, sp->role);

	*count = 1;
	if (!(sp->role & ROLE_4_BYTE_GPTE))
		return (int)(offset / 8);
	if (sp_level(sp) == 1)
		return offset / 4 / SPTE_ENTRIES == quadrant ? (int)(offset / 4 % SPTE_ENTRIES) : -1;
	/* a 4 MiB entry is two of ours; 256 of them fill a page */
	*count = 2;
	return offset / 4 / 256 == quadrant ? (int)(offset / 4 % 256 * 2) : -1;
}

/* More and more writes, and nothing looked up through the page: no table any more. */
static bool write_flooding(struct shadow_page *sp)
{
	return sp_level(sp) > 1 && ++sp->write_flooding_count >= FLOOD_LIMIT;
}

static bool write_misaligned(const struct shadow_page *sp, unsigned offset, size_t len)
{
	unsigned size = sp->role & ROLE_4_BYTE_GPTE ? 4 : 8;

	return (offset & (size - 1)) + len > size || len < 4;
}

static void drop_written(struct kvm_mmu_vm *vm, struct shadow_page *sp, unsigned offset,
			 struct shadow_zap *z)
{
	unsigned n, i;
	int first = shadow_written_sptes(sp, offset, &n);

	for (i = 0; first >= 0 && i < n; i++)
		z->flush |= shadow_drop_spte(vm, sp, (unsigned)first + i);
}

void shadow_pte_write(struct kvm_vcpu *vcpu, gpa_t gpa, const void *data, size_t len)
{
	struct kvm_mmu_vm *vm = vcpu->kvm->mmu_vm;
	struct shadow_zap z = { 0 };
	struct shadow_page *sp, *next;
	gfn_t gfn = gpa >> PAGE_SHIFT;
	unsigned offset = (unsigned)(gpa & ~PAGE_MASK);

	mmu_write_lock(vm);
	vcpu->kvm->stat.mmu_pte_write++;
	for (sp = vm->shadow->hash[shadow_hash(gfn)]; sp; sp = next) {
		next = sp->hash_next;
		if (sp->gfn != gfn || sp_direct(sp))
			continue;
		if (write_misaligned(sp, offset, len) || write_flooding(sp)) {
			shadow_zap_page(vm, sp, &z);
			vcpu->kvm->stat.mmu_flooded++;
		} else {
			drop_written(vm, sp, offset, &z);
		}
	}
	shadow_commit(vcpu->kvm, &z);
	mmu_write_unlock(vm);
}
