/*
 * Looking at the tables from beside: see look.h.
 */
#include "mmu/look.h"

#include <time.h>

#include "lib/rcu.h"
#include "mmu/internal.h"
#include "sdm/regs.h"

#define CHUNK_LEVEL 3 /* a read-side section covers one entry of this level */
#define KICK_WAIT_NS 1000000L
#define KICK_WAITS 20

static struct kvm_mmu_page *root_of(struct kvm *kvm, unsigned index)
{
	struct kvm_mmu_vm *vm = kvm->mmu_vm;

	return vm && index < mmu_nr_roots(vm) ? vm->roots[index] : NULL;
}

bool kvm_mmu_look_root(struct kvm *kvm, unsigned index, struct kvm_mmu_root_view *v)
{
	struct kvm_mmu_page *root = root_of(kvm, index);

	if (!root)
		return false;
	*v = (struct kvm_mmu_root_view){
		.as_id = root_as_id(root),
		.level = root_level(root),
		.ad = root_has_ad(root),
		.hpa = (hpa_t)(uintptr_t)root->spt,
	};
	return true;
}

static gpa_t reach(const struct kvm_mmu_page *root)
{
	return root_end_gfn(root) << PAGE_SHIFT;
}

/* RCU. The entry on the way to gpa at `stop`, or the one above where it ends. */
static uint64_t walk_to(struct kvm_mmu_page *root, gpa_t gpa, int stop, int *level)
{
	uint64_t *table = root->spt;

	for (*level = root_level(root);; --*level) {
		uint64_t e = __atomic_load_n(&table[spte_index(gpa >> PAGE_SHIFT, *level)],
					     __ATOMIC_ACQUIRE);

		if (*level == stop || !spte_is_table(e, *level))
			return e;
		table = spte_table(e);
	}
}

int kvm_mmu_look_walk(struct kvm *kvm, unsigned index, gpa_t gpa,
		      struct kvm_mmu_step step[KVM_MMU_MAX_STEPS])
{
	struct kvm_mmu_page *root = root_of(kvm, index);
	uint64_t *table;
	int level, n = 0;

	if (!root || gpa >= reach(root))
		return 0;
	lib_rcu_read_lock();
	table = root->spt;
	for (level = root_level(root); n < KVM_MMU_MAX_STEPS; level--) {
		unsigned i = spte_index(gpa >> PAGE_SHIFT, level);
		uint64_t e = __atomic_load_n(&table[i], __ATOMIC_ACQUIRE);

		step[n++] = (struct kvm_mmu_step){
			.level = level, .index = i, .table = (hpa_t)(uintptr_t)table, .entry = e
		};
		if (!spte_is_table(e, level))
			break;
		table = spte_table(e);
	}
	lib_rcu_read_unlock();
	return n;
}

struct visit {
	gpa_t start, end;
	bool (*fn)(void *arg, gpa_t gpa, int level, uint64_t entry);
	void *arg;
};

/* RCU. False: fn has enough. */
static bool visit_entry(const struct visit *v, uint64_t e, int level, gpa_t gpa)
{
	gpa_t size = level_pages(level) << PAGE_SHIFT;
	uint64_t *table;
	unsigned i;

	if (!e || gpa >= v->end || gpa + size <= v->start)
		return true;
	if (!spte_is_table(e, level))
		return v->fn(v->arg, gpa, level, e);
	table = spte_table(e);
	for (i = 0; i < SPTE_ENTRIES; i++)
		if (!visit_entry(v, __atomic_load_n(&table[i], __ATOMIC_ACQUIRE), level - 1,
				 gpa + i * (size / SPTE_ENTRIES)))
			return false;
	return true;
}

void kvm_mmu_look_leaves(struct kvm *kvm, unsigned index, gpa_t start, gpa_t end,
			 bool (*fn)(void *arg, gpa_t gpa, int level, uint64_t entry), void *arg)
{
	struct kvm_mmu_page *root = root_of(kvm, index);
	struct visit v = { start, end, fn, arg };
	bool more = true;
	gpa_t gpa;

	if (!root)
		return;
	v.end = min_u64(end, reach(root));
	for (gpa = ALIGN_DOWN(start, level_pages(CHUNK_LEVEL) << PAGE_SHIFT); more && gpa < v.end;) {
		int level;
		uint64_t e;
		gpa_t size;

		lib_rcu_read_lock();
		e = walk_to(root, gpa, CHUNK_LEVEL, &level);
		size = level_pages(level) << PAGE_SHIFT;
		gpa = ALIGN_DOWN(gpa, size);
		more = visit_entry(&v, e, level, gpa);
		lib_rcu_read_unlock();
		gpa += size;
	}
}

/* Its registers are in the VMCS after an exit only. Bounded: it is no harm if it does not come. */
static void wait_for_exit(struct kvm_vcpu *vcpu)
{
	struct timespec ms = { .tv_nsec = KICK_WAIT_NS };
	int i;

	if (READ_ONCE(vcpu->mode) == OUTSIDE_GUEST_MODE)
		return;
	kvm_vcpu_kick(vcpu);
	for (i = 0; i < KICK_WAITS && READ_ONCE(vcpu->mode) == EXITING_GUEST_MODE; i++)
		nanosleep(&ms, NULL);
}

void kvm_mmu_look_guest(struct kvm_vcpu *vcpu, struct kvm_mmu_guest_view *v)
{
	const struct kvm_mmu_guest_ops *g = mmu_guest_ops();
	int i;

	wait_for_exit(vcpu);
	*v = (struct kvm_mmu_guest_view){
		.cr0 = g->get_cr0(vcpu),
		.cr3 = g->get_cr3(vcpu),
		.cr4 = g->get_cr4(vcpu),
		.efer = g->get_efer(vcpu),
		.maxphyaddr = g->get_maxphyaddr(vcpu),
		.as_id = READ_ONCE(vcpu->as_id),
	};
	if (v->cr0 & X86_CR0_PG)
		v->level = v->efer & EFER_LMA ? 4 : v->cr4 & X86_CR4_PAE ? 3 : 2;
	for (i = 0; i < 4 && v->level == 3; i++)
		v->pdptr[i] = g->get_pdptr(vcpu, i);
}
