/*
 * KVM's counters: one list for VMs, one for vCPUs, with KVM's names, in KVM's
 * order, each with the kind KVM gives it (KVM API: KVM_GET_STATS_FD). The
 * structures, the descriptors a client reads and the names that `userkvm stat`
 * prints come from these lists. A counter stands here only when something
 * counts it.
 *
 *	F(name, kind, items)
 *	COUNTER   only grows                 ICOUNTER  a present quantity
 *	NSEC      time, only grows           IBOOLEAN  a present state
 *	LOGHIST   nanoseconds by power of two: bucket n counts [2^(n-1), 2^n)
 *
 * Every item is a uint64_t. Counters of a vCPU are its owner thread's, except
 * where another thread counts by an atomic addition.
 */
#ifndef USERKVM_TRACE_STATS_H
#define USERKVM_TRACE_STATS_H

#include "lib/types.h"

#define KVM_HALT_HIST_COUNT 32

#define KVM_VM_STATS(F)                         \
	F(remote_tlb_flush, COUNTER, 1)         \
	F(remote_tlb_flush_requests, COUNTER, 1) \
	F(mmu_shadow_zapped, COUNTER, 1)        \
	F(mmu_pte_write, COUNTER, 1)            \
	F(mmu_flooded, COUNTER, 1)              \
	F(mmu_recycled, COUNTER, 1)             \
	F(mmu_cache_miss, COUNTER, 1)           \
	F(mmu_unsync, ICOUNTER, 1)              \
	F(pages_4k, ICOUNTER, 1)                \
	F(pages_2m, ICOUNTER, 1)                \
	F(pages_1g, ICOUNTER, 1)                \
	F(nx_lpage_splits, ICOUNTER, 1)

#define KVM_VCPU_STATS(F)                               \
	F(halt_wakeup, COUNTER, 1)                      \
	F(halt_wait_ns, NSEC, 1)                        \
	F(halt_wait_hist, LOGHIST, KVM_HALT_HIST_COUNT) \
	F(blocking, IBOOLEAN, 1)                        \
	F(pf_taken, COUNTER, 1)                         \
	F(pf_fixed, COUNTER, 1)                         \
	F(pf_emulate, COUNTER, 1)                       \
	F(pf_spurious, COUNTER, 1)                      \
	F(pf_fast, COUNTER, 1)                          \
	F(pf_mmio_spte_created, COUNTER, 1)             \
	F(pf_guest, COUNTER, 1)                         \
	F(tlb_flush, COUNTER, 1)                        \
	F(invlpg, COUNTER, 1)                           \
	F(exits, COUNTER, 1)                            \
	F(io_exits, COUNTER, 1)                         \
	F(mmio_exits, COUNTER, 1)                       \
	F(signal_exits, COUNTER, 1)                     \
	F(irq_window_exits, COUNTER, 1)                 \
	F(nmi_window_exits, COUNTER, 1)                 \
	F(halt_exits, COUNTER, 1)                       \
	F(request_irq_exits, COUNTER, 1)                \
	F(irq_exits, COUNTER, 1)                        \
	F(insn_emulation, COUNTER, 1)                   \
	F(insn_emulation_fail, COUNTER, 1)              \
	F(hypercalls, COUNTER, 1)                       \
	F(irq_injections, COUNTER, 1)                   \
	F(nmi_injections, COUNTER, 1)                   \
	F(req_event, COUNTER, 1) F(nested_run, COUNTER, 1) F(guest_mode, IBOOLEAN, 1)

/* A list's item is a scalar, or an array where there are several. */
#define KVM_STAT_FIELD_COUNTER(name, items) uint64_t name;
#define KVM_STAT_FIELD_ICOUNTER(name, items) uint64_t name;
#define KVM_STAT_FIELD_NSEC(name, items) uint64_t name;
#define KVM_STAT_FIELD_IBOOLEAN(name, items) uint64_t name;
#define KVM_STAT_FIELD_LOGHIST(name, items) uint64_t name[items];
#define KVM_STAT_FIELD(name, kind, items) KVM_STAT_FIELD_##kind(name, items)

struct kvm_vm_stat {
	KVM_VM_STATS(KVM_STAT_FIELD)
};
struct kvm_vcpu_stat {
	KVM_VCPU_STATS(KVM_STAT_FIELD)
};
static_assert(offsetof(struct kvm_vm_stat, pages_2m) == offsetof(struct kvm_vm_stat, pages_4k) + 8 &&
		      offsetof(struct kvm_vm_stat, pages_1g) ==
			      offsetof(struct kvm_vm_stat, pages_4k) + 16,
	      "the MMU counts leaves by level, in a row");

/* Add to a counter that several threads count. */
static inline void kvm_stat_add(uint64_t *counter, uint64_t n)
{
	__atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

/* Which bucket of `items` a value belongs to. */
static inline unsigned kvm_stat_log_bucket(uint64_t value, unsigned items)
{
	unsigned n = value ? 64 - (unsigned)__builtin_clzll(value) : 0;

	return n < items ? n : items - 1;
}

#define KVM_STATS_NAME_SIZE 48 /* as Linux's: client structures are sized by the header */

/* A list as data. flags and exponent as in struct kvm_stats_desc. */
struct kvm_stat_row {
	const char *name;
	uint32_t flags;
	int16_t exponent;
	uint16_t items;
	uint32_t offset; /* into the structure */
};
struct kvm_stat_table {
	const struct kvm_stat_row *rows;
	unsigned nr;
	size_t size; /* of the structure */
};
extern const struct kvm_stat_table kvm_vm_stat_table;
extern const struct kvm_stat_table kvm_vcpu_stat_table;

/*
 * What a stats file holds before its counters: header, id, descriptors.
 *
 *	header | id | descriptors | … page boundary | counters
 *
 * Returns the bytes needed, and fills buf as far as it has room.
 */
size_t kvm_stats_head(const struct kvm_stat_table *t, const char *id, size_t data_offset, void *buf,
		      size_t size);

#endif
