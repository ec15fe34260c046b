/*
 * Where counters live, so that a client can read them without a call of ours.
 *
 * A VM or vCPU ends with its counters, and is placed so that they begin a page:
 *
 *	| … struct kvm_vcpu … | stat … |
 *	                      ^ page boundary
 *
 * KVM_GET_STATS_FD lays the page of a memfd over that page: from then on the
 * same counters are the file's end, and read(2) finds them as they are.
 */
#ifndef USERKVM_VIRT_STATS_H
#define USERKVM_VIRT_STATS_H

#include "lib/types.h"
#include "trace/stats.h"

struct kvm;
struct kvm_vcpu;

/*
 * Zeroed memory of `size` bytes whose offset `stat_offset` (a multiple of 64)
 * begins a page of its own. NULL: no memory.
 */
void *kvm_stats_object_alloc(size_t size, size_t stat_offset);
void kvm_stats_object_free(void *object, size_t size, size_t stat_offset);

/*
 * The file behind the counters, once somebody asked for it. memfd is a
 * descriptor in the client's process, so it may be gone or be another file by
 * now: ino tells.
 */
struct kvm_stats_file {
	int memfd;
	uint64_t dev, ino; /* 0: none yet */
};

/*
 * A descriptor of its own, read-only, on the counters at `stat`: kvm_stats_head()
 * and then the live counters. What is counted during the call may be lost, so
 * the caller holds up whoever counts what must stay exact. -errno of the host.
 */
must_check int kvm_stats_file_open(struct kvm_stats_file *f, const struct kvm_stat_table *t,
				   const char *id, void *stat);
void kvm_stats_file_close(struct kvm_stats_file *f);

#endif
