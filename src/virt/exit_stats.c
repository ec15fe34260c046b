/*
 * Counting the time of VM exits: see exit_stats.h, which has the invariants.
 *
 * Locks: none; the pointer is published by compare-and-exchange.
 */
#include "virt/exit_stats.h"

#include "lib/error.h"
#include "lib/own.h"

int kvm_exit_stats_ask(struct kvm_vcpu *vcpu, uint32_t seconds)
{
	struct kvm_exit_stats *s = kvm_exit_stats_of(vcpu), *none = NULL;
	uint64_t now = host_tsc(), until;

	if (!s) {
		if (!seconds)
			return 0;
		s = own_calloc(1, sizeof(*s));
		if (!s)
			return err_born(ENOMEM, "no memory for the exit statistics of vCPU %u", vcpu->vcpu_id);
		s->reason = KVM_EXIT_STATS_NONE;
		/* pairs with kvm_exit_stats_of() */
		if (!__atomic_compare_exchange_n(&vcpu->exit_stats, &none, s, false, __ATOMIC_ACQ_REL,
						 __ATOMIC_ACQUIRE)) {
			own_free(s);
			s = none;
		}
	}
	until = __atomic_load_n(&s->until, __ATOMIC_RELAXED);
	if (seconds && until && until < now)
		__atomic_store_n(&s->restart, 1, __ATOMIC_RELAXED);
	if (seconds > KVM_EXIT_STATS_MAX_LEASE_S)
		seconds = KVM_EXIT_STATS_MAX_LEASE_S;
	/* pairs with live(): `restart` is seen with it. A lease that was given up is one that has ended. */
	__atomic_store_n(&s->until, seconds ? now + seconds * 1000ULL * host_tsc_khz() : now - 1, __ATOMIC_RELEASE);
	return 0;
}

/* Is somebody asking at `now`? */
static bool live(struct kvm_exit_stats *s, uint64_t now)
{
	if (__atomic_load_n(&s->until, __ATOMIC_ACQUIRE) < now)
		return false;
	if (unlikely(__atomic_load_n(&s->restart, __ATOMIC_RELAXED))) {
		for (unsigned l2 = 0; l2 < 2; l2++)
			for (unsigned n = 0; n < KVM_EXIT_STATS_REASONS; n++)
				s->row[l2][n].host = s->row[l2][n].client = (struct kvm_exit_time){ 0 };
		s->reason = KVM_EXIT_STATS_NONE;
		s->left = 0;
		__atomic_store_n(&s->restart, 0, __ATOMIC_RELEASE);
	}
	return true;
}

static void add(struct kvm_exit_time *t, uint64_t ticks)
{
	if (!t->count || ticks < t->min)
		t->min = ticks;
	if (ticks > t->max)
		t->max = ticks;
	t->total += ticks;
	t->count++;
}

void kvm_exit_stats_note_exit(struct kvm_exit_stats *s, uint32_t reason, bool l2)
{
	uint64_t now = host_tsc();

	s->reason = KVM_EXIT_STATS_NONE;
	if (reason >= KVM_EXIT_STATS_REASONS || !live(s, now))
		return;
	s->reason = reason;
	s->l2 = l2;
	s->since = now;
	s->client = 0;
	s->left = 0;
}

void kvm_exit_stats_note_entry(struct kvm_exit_stats *s)
{
	uint32_t reason = s->reason;
	uint64_t ticks;

	if (reason == KVM_EXIT_STATS_NONE)
		return;
	ticks = host_tsc() - s->since;
	s->reason = KVM_EXIT_STATS_NONE;
	add(&s->row[s->l2][reason].host, ticks > s->client ? ticks - s->client : 0);
	if (s->client)
		add(&s->row[s->l2][reason].client, s->client);
}

void kvm_exit_stats_note_run(struct kvm_exit_stats *s, bool begins)
{
	if (s->reason == KVM_EXIT_STATS_NONE)
		return;
	if (!begins) {
		s->left = host_tsc();
	} else if (s->left) {
		s->client += host_tsc() - s->left;
		s->left = 0;
	}
}
