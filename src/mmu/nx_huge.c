/*
 * nx_huge_pages: huge pages are not executable, so that code is mapped by 4 KiB
 * leaves only (KVM's workaround for processors whose instruction TLB cannot
 * bear the same code cached in two sizes). A page that is run is split; a thread
 * of the VM zaps a part of the split pages every period, so that those that are
 * not run any more become huge again (Linux: kvm_nx_lpage_recovery_worker).
 *
 * nx_lpage_splits tables are such splits now; every period 1/ratio of them goes,
 * in the order of addresses, round and round. (Linux: oldest first.)
 *
 * Lock: nx->lock for `stopping`; mmu_lock for writing while tables are unlinked.
 */
#include <errno.h>

#include "host/client_threads.h"
#include "host/memory.h"
#include "host/thread.h"
#include "host/timer.h"
#include "lib/error.h"
#include "lib/own.h"
#include "mmu/check.h"

#define HOUR_MS (60 * 60 * 1000u)

struct nx_recovery {
	struct kvm_mmu_vm *vm; /* (c) */
	struct host_thread thread; /* (c) */
	uint64_t mm_id;	       /* (c) a forked child has no thread */
	pthread_mutex_t lock;
	pthread_cond_t wake;
	struct host_waker waker; /* (c) */
	bool stopping;
	gfn_t next; /* thread only: where the next period begins */
};

/* Milliseconds; 0: no recovery. (Linux calc_nx_huge_pages_recovery_period) */
static uint32_t recovery_period_ms(const struct kvm_mmu_vm *vm)
{
	const struct kvm_mmu_params *p = kvm_mmu_params();
	uint32_t ratio = p->nx_huge_pages_recovery_ratio;

	if (!is_nx_huge_page_enabled(vm) || !ratio)
		return 0;
	if (p->nx_huge_pages_recovery_period_ms)
		return p->nx_huge_pages_recovery_period_ms;
	/* a page is zapped after an hour on average; not less than a second */
	return HOUR_MS / (ratio < 3600 ? ratio : 3600);
}

/* Linux: kvm_recover_nx_lpages. */
static void recover_nx_lpages(struct nx_recovery *nx)
{
	struct kvm_mmu_vm *vm = nx->vm;
	uint64_t splits = __atomic_load_n(&vm->kvm->stat.nx_lpage_splits, __ATOMIC_RELAXED);
	uint32_t ratio = kvm_mmu_params()->nx_huge_pages_recovery_ratio, i;
	uint64_t n = (splits + ratio - 1) / ratio;
	gfn_t first = nx->next, stopped = 0;
	struct zap_list z = { 0 };

	if (!n)
		return;
	mmu_write_lock(vm);
	for (i = 0; i < mmu_nr_roots(vm) && n; i++) {
		gfn_t gfn = first;

		if (!kvm_tdp_mmu_zap_nx_splits(vm, vm->roots[i], &gfn, &n, &z))
			stopped = gfn;
	}
	mmu_write_unlock(vm);
	/* What is left at the end of the addresses is made up for from their beginning. */
	nx->next = stopped;
	kvm_tdp_mmu_zap_finish(vm->kvm, &z);
	mmu_verify(vm->kvm, "a recovery of huge pages");
}

/* True: the period is over; false: stop. */
static bool wait_period(struct nx_recovery *nx, uint32_t period_ms)
{
	uint64_t until = host_now_ns() + period_ms * 1000000ULL;
	struct timespec t = { (time_t)(until / 1000000000), (long)(until % 1000000000) };
	bool stopping;
	int r = 0;

	pthread_mutex_lock(&nx->lock);
	while (!nx->stopping && !host_threads_end() && r != ETIMEDOUT)
		r = pthread_cond_timedwait(&nx->wake, &nx->lock, &t);
	stopping = nx->stopping || host_threads_end();
	pthread_mutex_unlock(&nx->lock);
	return !stopping;
}

static void *recovery_worker(void *arg)
{
	struct nx_recovery *nx = arg;
	uint32_t period_ms = recovery_period_ms(nx->vm);

	while (wait_period(nx, period_ms))
		recover_nx_lpages(nx);
	return NULL;
}

static void wake_worker(void *arg)
{
	struct nx_recovery *nx = arg;

	pthread_mutex_lock(&nx->lock);
	pthread_cond_signal(&nx->wake);
	pthread_mutex_unlock(&nx->lock);
}

static struct nx_recovery *make_recovery(struct kvm_mmu_vm *vm)
{
	struct nx_recovery *nx = own_calloc(1, sizeof(*nx));
	pthread_condattr_t attr;

	if (!nx)
		return NULL;
	nx->vm = vm;
	nx->mm_id = host_mm_id();
	nx->waker = (struct host_waker){ .wake = wake_worker, .arg = nx };
	pthread_mutex_init(&nx->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&nx->wake, &attr);
	pthread_condattr_destroy(&attr);
	return nx;
}

static void free_recovery(struct nx_recovery *nx)
{
	pthread_cond_destroy(&nx->wake);
	pthread_mutex_destroy(&nx->lock);
	own_free(nx);
}

/* roots_lock. */
static int start(struct kvm_mmu_vm *vm)
{
	struct nx_recovery *nx = make_recovery(vm);
	int r;

	if (!nx)
		return err_born(ENOMEM, "no memory for the recovery of huge pages");
	r = host_thread_start(&nx->thread, "kvm-nx-lpage-re", recovery_worker, nx);
	if (r) {
		free_recovery(nx);
		return r;
	}
	host_waker_add(&nx->waker);
	vm->nx = nx;
	return 0;
}

int mmu_nx_recovery_start(struct kvm_mmu_vm *vm)
{
	int r = 0;

	if (!kvm_mmu_params()->ept || !recovery_period_ms(vm))
		return 0;
	pthread_mutex_lock(&vm->roots_lock);
	if (!vm->nx)
		r = start(vm);
	pthread_mutex_unlock(&vm->roots_lock);
	return r;
}

void mmu_nx_recovery_stop(struct kvm_mmu_vm *vm)
{
	struct nx_recovery *nx = vm->nx;

	if (!nx || nx->mm_id != host_mm_id())
		return;
	host_waker_remove(&nx->waker);
	pthread_mutex_lock(&nx->lock);
	nx->stopping = true;
	pthread_cond_signal(&nx->wake);
	pthread_mutex_unlock(&nx->lock);
	host_thread_join(&nx->thread);
	free_recovery(nx);
	vm->nx = NULL;
}

void kvm_mmu_disable_nx_huge_pages(struct kvm *kvm)
{
	kvm->mmu_vm->nx_disabled = true;
}
