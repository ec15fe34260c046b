/*
 * Steal time: how long this vCPU's thread was ready to run and did not (KVM
 * API: "KVM-specific MSRs", MSR_KVM_STEAL_TIME). The host counts it per thread.
 *
 * Invariants
 * 1. What the guest's page says grows by what the host's counter of one thread
 *    grew: a vCPU that moves to another thread starts from that one's value.
 * 2. `preempted` is set where the thread went back to the client between two
 *    instructions, and is clear whenever guest code runs.
 *
 * Reading the host's counter costs some microseconds, so the page is looked
 * after now and then, and after a long time outside the guest. KVM_RUN opens no file for it: the thread's
 * first other ioctl on a vCPU does. A thread that has made none is judged by its clock: what it was neither on
 * a processor nor outside the guest for long, in KVM_RUN or in HLT.
 *
 * Locks: none; owner thread.
 */
#include <stddef.h>

#include "host/client_threads.h"
#include "host/thread.h"
#include "host/timer.h"
#include "x86/msr_row.h"
#include "x86/run.h"

#define KVM_STEAL_ENABLED BIT_ULL(0)
#define KVM_STEAL_RESERVED_MASK GENMASK_ULL(5, 1)
#define KVM_STEAL_VALID_BITS GENMASK_ULL(63, 6)
#define KVM_VCPU_PREEMPTED 1
#define UPDATE_PERIOD_US 4000
#define LONG_OUTSIDE_US 200
#define SHORT_OUTSIDE_US 50 /* the client was on a processor, more likely than not */

struct kvm_steal_time {
	uint64_t steal; /* ns */
	uint32_t version; /* odd while it changes */
	uint32_t flags;
	uint8_t preempted;
	uint8_t u8_pad[3];
	uint32_t pad[11];
};
static_assert(sizeof(struct kvm_steal_time) == 64, "guest ABI");

bool kvm_has_steal_time(void)
{
	uint64_t ns;

	host_client_thread_prepare();
	return host_client_thread_run_delay(&ns) == 0;
}

/* Has so much time gone by since a TSC value? */
static bool older_than(uint64_t tsc, uint64_t us)
{
	return host_tsc() - tsc > host_tsc_khz() * us / 1000;
}

static uint64_t tsc_to_ns(uint64_t tsc)
{
	return (uint64_t)((unsigned __int128)tsc * 1000000 / host_tsc_khz());
}

/* An estimate that grows as run_delay does; from where does not matter. */
static uint64_t delay_by_clock(const struct kvm_steal *st)
{
	return BIT_ULL(62) + tsc_to_ns(host_tsc() - st->outside_tsc) - host_thread_cpu_ns();
}

/* What the thread has waited since the last time. */
static uint64_t waited(struct kvm_steal *st)
{
	uint64_t thread = host_thread_serial(), now, delta;

	bool by_clock = host_client_thread_run_delay(&now) != 0;

	if (by_clock)
		now = delay_by_clock(st);
	delta = st->thread == thread && st->by_clock == by_clock && now >= st->run_delay ? now - st->run_delay : 0;
	st->thread = thread;
	st->by_clock = by_clock;
	st->run_delay = now;
	return delta;
}

/* The page belongs to the normal address space, whatever the vCPU is in. A page that is gone is no error. */
static void write_page(struct kvm_vcpu *vcpu, gpa_t gpa, uint64_t delta)
{
	struct kvm_steal_time page;

	if (kvm_read_guest(vcpu->kvm, 0, gpa, &page, sizeof(page)))
		return;
	page.preempted = 0;
	page.version = (page.version | 1) + (page.version & 1) * 2;
	if (kvm_write_guest(vcpu->kvm, 0, gpa + offsetof(struct kvm_steal_time, version), &page.version,
			    sizeof(page.version)))
		return;
	__atomic_thread_fence(__ATOMIC_RELEASE);
	page.steal += delta;
	if (kvm_write_guest(vcpu->kvm, 0, gpa, &page.steal, sizeof(page.steal)) ||
	    kvm_write_guest(vcpu->kvm, 0, gpa + offsetof(struct kvm_steal_time, preempted), &page.preempted,
			    sizeof(page.preempted)))
		return;
	__atomic_thread_fence(__ATOMIC_RELEASE);
	page.version++;
	if (kvm_write_guest(vcpu->kvm, 0, gpa + offsetof(struct kvm_steal_time, version), &page.version,
			    sizeof(page.version)))
		return;
}

void kvm_record_steal_time(struct kvm_vcpu *vcpu)
{
	struct kvm_steal *st = &vcpu->arch->steal;

	if (likely(!(st->msr & KVM_STEAL_ENABLED)))
		return;
	if (!st->due && !st->preempted && !older_than(st->updated_tsc, UPDATE_PERIOD_US))
		return;
	st->due = st->preempted = false;
	st->updated_tsc = host_tsc();
	write_page(vcpu, st->msr & KVM_STEAL_VALID_BITS, waited(st));
}

void kvm_steal_time_run_begins(struct kvm_vcpu *vcpu)
{
	struct kvm_steal *st = &vcpu->arch->steal;

	if (!(st->msr & KVM_STEAL_ENABLED))
		return;
	if (st->left_tsc && older_than(st->left_tsc, SHORT_OUTSIDE_US))
		st->outside_tsc += host_tsc() - st->left_tsc;
	st->due |= older_than(st->left_tsc, LONG_OUTSIDE_US);
}

void kvm_steal_time_halted(struct kvm_vcpu *vcpu, uint64_t since_tsc)
{
	vcpu->arch->steal.outside_tsc += host_tsc() - since_tsc;
}

void kvm_steal_time_run_ends(struct kvm_vcpu *vcpu, bool preempted)
{
	static const uint8_t flag = KVM_VCPU_PREEMPTED;
	struct kvm_steal *st = &vcpu->arch->steal;
	gpa_t gpa = (st->msr & KVM_STEAL_VALID_BITS) + offsetof(struct kvm_steal_time, preempted);

	if (likely(!(st->msr & KVM_STEAL_ENABLED)))
		return;
	st->left_tsc = host_tsc();
	/* one that is due has not seen the guest's page yet: it may not be there */
	if (preempted && !st->due && !st->preempted)
		st->preempted = kvm_write_guest(vcpu->kvm, 0, gpa, &flag, sizeof(flag)) == 0;
}

int msr_set_steal_time(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t data,
		       bool host)
{
	if (!guest_pv_has(vcpu, (int)row->value))
		return KVM_MSR_UNKNOWN;
	if (data & KVM_STEAL_RESERVED_MASK)
		return KVM_MSR_INVAL;
	vcpu->arch->steal.msr = data;
	vcpu->arch->steal.due = true;
	return 0;
}

int msr_get_steal_time(struct kvm_vcpu *vcpu, const struct msr_row *row, uint32_t msr, uint64_t *data,
		       bool host)
{
	*data = vcpu->arch->steal.msr;
	return guest_pv_has(vcpu, (int)row->value) ? 0 : KVM_MSR_UNKNOWN;
}
