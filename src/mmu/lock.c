/*
 * mmu_lock: page faults of vCPUs beside one another, everybody else's changes alone.
 *
 *   fault:   reading = 1; writer?  no: go on ............ reading = 0
 *                                  yes: reading = 0, the rwlock as a reader
 *   writer:  rwlock; writer = 1; until every vCPU's reading is 0 ... writer = 0; rwlock
 *
 * A fault writes to no cache line that another vCPU's fault writes to: neither a lock's, nor the
 * counters' of leaves, which each vCPU keeps for itself until it has a batch.
 *
 * Invariants
 * 1. `reading` before `writer` on one side, `writer` before `reading` on the other, sequentially
 *    consistent: one of the two sees the other.
 * 2. A vCPU's uncounted leaves change in its read sections only, so that a writer may count them: under
 *    the lock for writing the VM's counters are exact. With one vCPU they always are.
 *
 * Other readers (roots, dumps, the dirty log's splitting) use the rwlock.
 */

#include "lib/error.h"
#include "lib/futex.h"
#include "lib/own.h"
#include "mmu/internal.h"

#define BATCH 64
#define SPINS 1000

/* A vCPU's own, on cache lines of its own. */
struct mmu_reader {
	uint32_t reading;	     /* (a) 1: in a read section that holds no rwlock */
	bool slow;		     /* (o) the section holds the rwlock */
	uint32_t nr_uncounted;	     /* faults since the last counting */
	int64_t leaves[4], mmio;     /* not in the VM's counters yet: invariant 2 */
} __attribute__((aligned(64)));

int mmu_reader_create(struct kvm_mmu_vcpu *m)
{
	m->reader = own_aligned(sizeof(*m->reader), sizeof(*m->reader));
	if (!m->reader)
		return err_born(ENOMEM, "no memory for a vCPU's share of mmu_lock");
	*m->reader = (struct mmu_reader){ 0 };
	return 0;
}

void mmu_reader_destroy(struct kvm_mmu_vcpu *m)
{
	own_free(m->reader);
	m->reader = NULL;
}

static void add(uint64_t *counter, int64_t *n)
{
	if (*n)
		__atomic_fetch_add(counter, (uint64_t)*n, __ATOMIC_RELAXED);
	*n = 0;
}

/* The reader is in its section, or the lock is held for writing. */
static void count_all(struct kvm_mmu_vm *vm, struct mmu_reader *r)
{
	for (int level = 1; level <= 3; level++)
		add(&vm->leaves[level], &r->leaves[level]);
	add(&vm->mmio_entries, &r->mmio);
	r->nr_uncounted = 0;
}

void mmu_read_lock(struct kvm_vcpu *vcpu)
{
	struct kvm_mmu_vm *vm = vcpu->kvm->mmu_vm;
	struct mmu_reader *r = vcpu->mmu_vcpu->reader;

	__atomic_store_n(&r->reading, 1, __ATOMIC_SEQ_CST);
	if (likely(!__atomic_load_n(&vm->writer, __ATOMIC_SEQ_CST)))
		return;
	__atomic_store_n(&r->reading, 0, __ATOMIC_SEQ_CST);
	pthread_rwlock_rdlock(&vm->lock);
	r->slow = true;
}

void mmu_read_unlock(struct kvm_vcpu *vcpu)
{
	struct kvm_mmu_vm *vm = vcpu->kvm->mmu_vm;
	struct mmu_reader *r = vcpu->mmu_vcpu->reader;

	if (r->nr_uncounted && (r->nr_uncounted >= BATCH || READ_ONCE(vcpu->kvm->nr_vcpus) <= 1))
		count_all(vm, r);
	if (unlikely(r->slow)) {
		r->slow = false;
		pthread_rwlock_unlock(&vm->lock);
		return;
	}
	__atomic_store_n(&r->reading, 0, __ATOMIC_RELEASE);
}

void mmu_count_fault_leaf(struct kvm_vcpu *vcpu, int level, bool mmio, int64_t n)
{
	struct mmu_reader *r = vcpu->mmu_vcpu->reader;

	if (mmio)
		r->mmio += n;
	else
		r->leaves[level] += n;
	r->nr_uncounted++;
}

void kvm_mmu_settle(struct kvm_vcpu *vcpu)
{
	struct mmu_reader *r = vcpu->mmu_vcpu->reader;

	if (likely(!r->nr_uncounted))
		return;
	mmu_read_lock(vcpu);
	count_all(vcpu->kvm->mmu_vm, r);
	mmu_read_unlock(vcpu);
}

static void wait_for(struct mmu_reader *r)
{
	for (int spins = 0; __atomic_load_n(&r->reading, __ATOMIC_SEQ_CST); spins++) {
		__builtin_ia32_pause();
		if (spins > SPINS)
			futex_yield(); /* its thread may not be running */
	}
}

void mmu_write_lock(struct kvm_mmu_vm *vm)
{
	struct kvm_vcpu *vcpu;
	uint32_t i;

	pthread_rwlock_wrlock(&vm->lock);
	__atomic_store_n(&vm->writer, 1, __ATOMIC_SEQ_CST);
	if (unlikely(!__atomic_load_n(&vm->kvm->refcount, __ATOMIC_ACQUIRE)))
		return; /* the VM is going, and its vCPUs one by one: none of them faults */
	kvm_for_each_vcpu(i, vcpu, vm->kvm) {
		struct mmu_reader *r = vcpu->mmu_vcpu ? vcpu->mmu_vcpu->reader : NULL;

		if (!r)
			continue;
		wait_for(r);
		if (r->nr_uncounted)
			count_all(vm, r);
	}
}

void mmu_write_unlock(struct kvm_mmu_vm *vm)
{
	__atomic_store_n(&vm->writer, 0, __ATOMIC_SEQ_CST);
	pthread_rwlock_unlock(&vm->lock);
}
