/*
 * How many EPT tables a VM has, against max_table_pages: who makes one has reserved it. (What goes when there
 * are too many: limit.c.)
 *
 * Invariant: vm->table_pages <= max_table_pages, always.
 * Locks: none; one atomic counter.
 */
#include "mmu/internal.h"

bool mmu_reserve_tables(struct kvm_mmu_vm *vm, unsigned n)
{
	uint64_t max = kvm_mmu_params()->max_table_pages, now = READ_ONCE(vm->table_pages);

	do {
		if (now + n > max)
			return false;
	} while (!__atomic_compare_exchange_n(&vm->table_pages, &now, now + n, true, __ATOMIC_RELAXED,
					      __ATOMIC_RELAXED));
	return true;
}

void mmu_unreserve_tables(struct kvm_mmu_vm *vm, unsigned n)
{
	__atomic_fetch_sub(&vm->table_pages, n, __ATOMIC_RELAXED);
}
