/*
 * Requests, kicks, sleeping: how one thread gets another vCPU's attention.
 *
 *            kvm_vcpu_enter_guest_mode          kick
 *   OUTSIDE ─────────────────────────→ IN_GUEST ────→ EXITING
 *      ↑                                  │              │
 *      └──────── kvm_vcpu_leave_guest_mode ──────────────┘  wakes waiters
 *
 * Invariants: 1. Only the owner stores OUTSIDE and IN_GUEST, only kickers turn
 * IN_GUEST into EXITING. 2. A request made before a kick is seen by the owner
 * before its next guest instruction: request then mode on our side, mode then
 * requests on the owner's, all sequentially consistent. 3. wake_word moves with
 * every wake-up, so a sleeper that sampled it before it looked cannot miss one.
 *
 * Signal-safe: kvm_vcpu_kick, kvm_vcpu_wake_up, kvm_running_vcpu_signal.
 */
#include "host/service.h"
#include "lib/futex.h"
#include "trace/trace.h"
#include "virt/kvm.h"
#include "virt/internal.h"

/* Waiters look again this often, should an acknowledgement come without a wake. */
#define ACK_RECHECK_NS 200000ULL
#define ACK_SPINS 200
/* As good as for ever; finite, so that a signal handler always ends the sleep. */
#define BLOCK_SLICE_NS (3600ULL * 1000000000)

static __thread struct kvm_vcpu *running_vcpu;

void kvm_vcpu_load(struct kvm_vcpu *vcpu)
{
	/* this thread's own handlers look; abi_interrupt_run() of another thread is repeated until the run is over */
	__atomic_store_n(&vcpu->signal_seen, 0, __ATOMIC_RELAXED);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	__atomic_store_n(&running_vcpu, vcpu, __ATOMIC_RELAXED);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	/* one that came on the way here waits for the end of this run, and so ends it */
	if (unlikely(host_service.held))
		__atomic_store_n(&vcpu->signal_seen, 1, __ATOMIC_SEQ_CST);
}

void kvm_vcpu_put(struct kvm_vcpu *vcpu)
{
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	__atomic_store_n(&running_vcpu, NULL, __ATOMIC_RELAXED);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
}

struct kvm_vcpu *kvm_get_running_vcpu(void)
{
	return running_vcpu;
}

/* IN_GUEST -> EXITING; true when the vCPU was in the guest, kicked by us or before. */
static bool kick_out(struct kvm_vcpu *vcpu)
{
	int mode = IN_GUEST_MODE;

	if (!__atomic_compare_exchange_n(&vcpu->mode, &mode, EXITING_GUEST_MODE, false,
					 __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
		return mode == EXITING_GUEST_MODE;
	if (vcpu->kick_processor)
		vcpu->kick_processor(vcpu);
	return true;
}

void kvm_vcpu_wake_up(struct kvm_vcpu *vcpu)
{
	__atomic_fetch_add(&vcpu->wake_word, 1, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&vcpu->blocked, __ATOMIC_SEQ_CST)) {
		kvm_stat_add(&vcpu->stat.halt_wakeup, 1);
		futex_wake_all(&vcpu->wake_word);
	}
}

void kvm_vcpu_kick(struct kvm_vcpu *vcpu)
{
	kvm_vcpu_wake_up(vcpu);
	kick_out(vcpu);
}

void kvm_running_vcpu_signal(void)
{
	struct kvm_vcpu *vcpu = __atomic_load_n(&running_vcpu, __ATOMIC_RELAXED);

	if (!vcpu)
		return;
	__atomic_store_n(&vcpu->signal_seen, 1, __ATOMIC_SEQ_CST);
	kvm_vcpu_kick(vcpu);
}

void kvm_vcpu_leave_guest_mode(struct kvm_vcpu *vcpu)
{
	if (__atomic_exchange_n(&vcpu->mode, OUTSIDE_GUEST_MODE, __ATOMIC_SEQ_CST) ==
	    EXITING_GUEST_MODE)
		futex_wake_all((uint32_t *)&vcpu->mode);
}

/*
 * Until a vCPU that was in the guest has left it. It is enough to see the mode
 * move: should it be back in the guest, it has looked at its requests since.
 */
static void wait_until_out(struct kvm_vcpu *vcpu)
{
	int spins;

	for (spins = 0; spins < ACK_SPINS; spins++) {
		if (__atomic_load_n(&vcpu->mode, __ATOMIC_SEQ_CST) != EXITING_GUEST_MODE)
			return;
		__builtin_ia32_pause();
	}
	while (__atomic_load_n(&vcpu->mode, __ATOMIC_SEQ_CST) == EXITING_GUEST_MODE)
		futex_wait((uint32_t *)&vcpu->mode, EXITING_GUEST_MODE, ACK_RECHECK_NS);
}

/* A sleeper need not wake to have its TLB flushed. */
static bool wakes_sleepers(enum kvm_request r)
{
	return r != KVM_REQ_TLB_FLUSH && r != KVM_REQ_TLB_FLUSH_GUEST && r != KVM_REQ_SCAN_IOAPIC;
}

static bool in_mask(const uint64_t *mask, uint32_t idx)
{
	return !mask || (mask[idx / 64] & BIT_ULL(idx % 64));
}

/* mask NULL: of all. True when a vCPU had to be interrupted for it. */
static bool make_vcpus_request(struct kvm *kvm, enum kvm_request r, const uint64_t *mask)
{
	struct kvm_vcpu *vcpu;
	bool kicked = false;
	uint32_t i;

	kvm_for_each_vcpu(i, vcpu, kvm) {
		if (!in_mask(mask, i))
			continue;
		kvm_make_request(r, vcpu);
		if (vcpu == running_vcpu)
			continue;
		if (wakes_sleepers(r))
			kvm_vcpu_wake_up(vcpu);
		kicked |= kick_out(vcpu);
	}
	kvm_for_each_vcpu(i, vcpu, kvm)
		if (vcpu != running_vcpu && in_mask(mask, i))
			wait_until_out(vcpu);
	return kicked;
}

void kvm_make_all_cpus_request(struct kvm *kvm, enum kvm_request r)
{
	make_vcpus_request(kvm, r, NULL);
}

void kvm_make_vcpus_request_mask(struct kvm *kvm, enum kvm_request r,
				 const uint64_t mask[KVM_VCPU_MASK_WORDS])
{
	make_vcpus_request(kvm, r, mask);
}

void kvm_make_scan_ioapic_request(struct kvm *kvm)
{
	if (unlikely(kvm->wants_scan))
		kvm_make_all_cpus_request(kvm, KVM_REQ_SCAN_IOAPIC);
}

void kvm_flush_remote_tlbs(struct kvm *kvm)
{
	kvm_stat_add(&kvm->stat.remote_tlb_flush_requests, 1);
	if (make_vcpus_request(kvm, KVM_REQ_TLB_FLUSH, NULL))
		kvm_stat_add(&kvm->stat.remote_tlb_flush, 1);
}

int kvm_vcpu_block(struct kvm_vcpu *vcpu)
{
	const struct kvm_arch_ops *arch = kvm_arch_ops();
	uint32_t word = __atomic_load_n(&vcpu->wake_word, __ATOMIC_SEQ_CST);
	uint64_t began = TRACE_ON(kvm, kvm_vcpu_wakeup) ? trace_clock() : 0;
	int r = 0;

	__atomic_store_n(&vcpu->blocked, true, __ATOMIC_SEQ_CST);
	while (!kvm_check_request(KVM_REQ_UNBLOCK, vcpu) &&
	       !(arch->vcpu_runnable && arch->vcpu_runnable(vcpu)) &&
	       !__atomic_load_n(&vcpu->signal_seen, __ATOMIC_SEQ_CST)) {
		r = futex_wait(&vcpu->wake_word, word, BLOCK_SLICE_NS);
		if (r == -EINTR)
			__atomic_store_n(&vcpu->signal_seen, 1, __ATOMIC_SEQ_CST);
		if (__atomic_load_n(&vcpu->wake_word, __ATOMIC_SEQ_CST) != word)
			break;
	}
	__atomic_store_n(&vcpu->blocked, false, __ATOMIC_SEQ_CST);
	if (began)
		TRACE(kvm, kvm_vcpu_wakeup, trace_clock() - began, true, true);
	return __atomic_load_n(&vcpu->signal_seen, __ATOMIC_SEQ_CST) ? -EINTR : 0;
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

int kvm_vcpu_halt(struct kvm_vcpu *vcpu)
{
	uint64_t t = now_ns();
	int r;

	vcpu->stat.blocking = 1;
	r = kvm_vcpu_block(vcpu);
	vcpu->stat.blocking = 0;
	t = now_ns() - t;
	vcpu->stat.halt_wait_ns += t;
	vcpu->stat.halt_wait_hist[kvm_stat_log_bucket(t, KVM_HALT_HIST_COUNT)]++;
	return r;
}
