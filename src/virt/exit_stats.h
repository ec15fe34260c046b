/*
 * How long VM exits take, by reason: what perf kvm stat tells of a host's KVM.
 *
 * Nothing is counted until another process asks (control/control.h: `exits`).
 * Each question is a lease of some seconds: a vCPU counts while its lease lasts,
 * so that an asker that was killed costs the guest nothing for long.
 *
 *	VM exit ──► hypervisor ──► VM entry                 host
 *	VM exit ──► hypervisor ──► KVM_RUN returns          host
 *	            client ──► KVM_RUN ──► VM entry         client, then host again
 *
 * The time between an exit and the next entry belongs to that exit: in the client
 * what passes outside KVM_RUN, in the host the rest of it, blocking in HLT included.
 *
 * Invariants
 * 1. kvm_vcpu.exit_stats is set once, by the first question, and freed with the vCPU.
 * 2. All of it but `until` and `restart` is written by the vCPU's thread only; other
 *    threads read single words, which may belong to different moments.
 */
#ifndef USERKVM_VIRT_EXIT_STATS_H
#define USERKVM_VIRT_EXIT_STATS_H

#include "host/timer.h"
#include "virt/kvm.h"

#define KVM_EXIT_STATS_REASONS 80 /* basic exit reasons below this have a row */
#define KVM_EXIT_STATS_NONE KVM_EXIT_STATS_REASONS
#define KVM_EXIT_STATS_MAX_LEASE_S 3600

/* Times in ticks of the host's TSC. */
struct kvm_exit_time {
	uint64_t count, total, min, max;
};

struct kvm_exit_stats {
	uint64_t until; /* (a) TSC at which the lease ends; 0: nobody asks */
	uint32_t restart; /* (a) a question after the end of a lease: begin at 0 */
	uint32_t reason; /* (o) of the exit that has no entry yet, or KVM_EXIT_STATS_NONE */
	bool l2;	  /* (o) that exit left a guest of the guest's */
	uint64_t since;	  /* (o) TSC of that exit */
	uint64_t left;	  /* (o) TSC at which KVM_RUN returned, or 0 */
	uint64_t client;  /* (o) ticks outside KVM_RUN since that exit */
	struct {
		struct kvm_exit_time host, client;
	} row[2][KVM_EXIT_STATS_REASONS]; /* (o) [l2][reason] */
};

/*
 * The vCPU counts for `seconds` from now on (0: it stops). Any thread that keeps the
 * VM. -ENOMEM.
 */
must_check int kvm_exit_stats_ask(struct kvm_vcpu *vcpu, uint32_t seconds);

/* --- the vCPU's thread; cheap while nobody asks --- */

void kvm_exit_stats_note_exit(struct kvm_exit_stats *s, uint32_t reason, bool l2);
void kvm_exit_stats_note_entry(struct kvm_exit_stats *s);
void kvm_exit_stats_note_run(struct kvm_exit_stats *s, bool begins);

static inline struct kvm_exit_stats *kvm_exit_stats_of(struct kvm_vcpu *vcpu)
{
	return __atomic_load_n(&vcpu->exit_stats, __ATOMIC_ACQUIRE);
}

/* A VM entry has ended with this basic exit reason. */
static inline void kvm_exit_stats_exit(struct kvm_vcpu *vcpu, uint32_t reason, bool l2)
{
	struct kvm_exit_stats *s = kvm_exit_stats_of(vcpu);

	if (unlikely(s))
		kvm_exit_stats_note_exit(s, reason, l2);
}

/* A VM entry is about to be made. */
static inline void kvm_exit_stats_entry(struct kvm_vcpu *vcpu)
{
	struct kvm_exit_stats *s = kvm_exit_stats_of(vcpu);

	if (unlikely(s))
		kvm_exit_stats_note_entry(s);
}

/* KVM_RUN begins, or is about to return. */
static inline void kvm_exit_stats_run(struct kvm_vcpu *vcpu, bool begins)
{
	struct kvm_exit_stats *s = kvm_exit_stats_of(vcpu);

	if (unlikely(s))
		kvm_exit_stats_note_run(s, begins);
}

#endif
