/*
 * Threads that wait for the client's pages. See async_pf.h.
 *
 * Lock: async_pf.lock guards everything here, the vCPUs' lists included, so
 * that a thread whose page has come finds its vCPU alive or gone. Nothing is
 * waited for with it held. Below it only what a kick takes.
 */
#include "lib/own.h"
#include "virt/async_pf.h"

#include <pthread.h>

#include "host/client_threads.h"
#include "host/fault_mask.h"
#include "host/memory.h"
#include "host/thread.h"
#include "lib/error.h"
#include "lib/fork.h"
#include "trace/trace.h"
#include "virt/internal.h"

#define ASYNC_PF_THREADS 16
#define ASYNC_PF_MAX 256 /* of the process */

struct kvm_async_pf {
	struct kvm_async_pf *next;   /* of the vCPU's, or the free ones */
	struct kvm_async_pf *wanted; /* the next that a thread has to take */
	struct kvm_vcpu *vcpu;	     /* NULL: forgotten */
	struct kvm_async_pf_info info;
	bool ready;
};

static struct {
	pthread_mutex_t lock;
	pthread_cond_t work;
	unsigned needs;		   /* (a) enum kvm_async_pf_need, that have come */
	unsigned idle;		   /* threads that wait for work and have none promised */
	struct kvm_async_pf *all;  /* ASYNC_PF_MAX, for ever */
	struct kvm_async_pf *free;
	struct kvm_async_pf *wanted;
} async_pf = { .lock = PTHREAD_MUTEX_INITIALIZER, .work = PTHREAD_COND_INITIALIZER };

/* Lock held. */
static void put_free(struct kvm_async_pf *apf)
{
	apf->next = async_pf.free;
	async_pf.free = apf;
}

/* Lock held. */
static void page_is_there(struct kvm_async_pf *apf)
{
	TRACE(kvm, kvm_async_pf_completed, apf->info.hva, apf->info.addr);
	if (!apf->vcpu) {
		put_free(apf);
		return;
	}
	apf->ready = true;
	kvm_make_request(KVM_REQ_APF_READY, apf->vcpu);
	kvm_vcpu_kick(apf->vcpu);
}

static void *wait_for_pages(void *arg)
{
	struct kvm_async_pf *apf;
	int r;

	/* All signals are blocked here but those that a touch can raise. */
	(void)host_fault_open();
	pthread_mutex_lock(&async_pf.lock);
	for (;;) {
		while (!async_pf.wanted && !host_threads_end())
			pthread_cond_wait(&async_pf.work, &async_pf.lock);
		if (host_threads_end())
			break;
		apf = async_pf.wanted;
		async_pf.wanted = apf->wanted;
		pthread_mutex_unlock(&async_pf.lock);
		/* One that is gone for good is an answer, too: the vCPU meets it when it tries again. */
		r = host_fault_in(apf->info.hva, false, NULL);
		(void)r;
		pthread_mutex_lock(&async_pf.lock);
		page_is_there(apf);
		async_pf.idle++;
	}
	pthread_mutex_unlock(&async_pf.lock);
	return NULL;
}

static void wake_threads(void *arg)
{
	pthread_mutex_lock(&async_pf.lock);
	pthread_cond_broadcast(&async_pf.work);
	pthread_mutex_unlock(&async_pf.lock);
}
static struct host_waker waker = { .wake = wake_threads };

static void forget_in_child(void)
{
	/* The threads are the parent's; what they were to wait for no vCPU of the child's asks for. */
	pthread_mutex_init(&async_pf.lock, NULL);
	pthread_cond_init(&async_pf.work, NULL);
	async_pf.needs = 0;
	async_pf.idle = 0;
	async_pf.all = async_pf.free = async_pf.wanted = NULL;
}
LIB_IN_FORKED_CHILD(forget_in_child)

/* Lock held. */
static void start_threads(void)
{
	async_pf.all = own_calloc(ASYNC_PF_MAX, sizeof(*async_pf.all));
	if (!async_pf.all)
		return;
	for (int i = 0; i < ASYNC_PF_MAX; i++)
		put_free(&async_pf.all[i]);
	for (int i = 0; i < ASYNC_PF_THREADS; i++) {
		if (host_thread_start_for_good("userkvm-apf", wait_for_pages, NULL))
			break;
		async_pf.idle++;
	}
	if (async_pf.idle)
		host_waker_add(&waker);
}

void kvm_async_pf_prepare(enum kvm_async_pf_need need)
{
	unsigned both = KVM_ASYNC_PF_VM | KVM_ASYNC_PF_USERFAULT;

	if (__atomic_load_n(&async_pf.needs, __ATOMIC_RELAXED) & need)
		return;
	pthread_mutex_lock(&async_pf.lock);
	__atomic_store_n(&async_pf.needs, async_pf.needs | need, __ATOMIC_RELAXED);
	if (async_pf.needs == both && !async_pf.all)
		start_threads();
	pthread_mutex_unlock(&async_pf.lock);
}

/* Give it to a thread. NULL: no room, no thread; nothing has happened. */
static struct kvm_async_pf *start(struct kvm_vcpu *vcpu, const struct kvm_async_pf_info *info)
{
	struct kvm_async_pf *apf = NULL;

	if (vcpu->nr_async_pf >= ASYNC_PF_PER_VCPU)
		return NULL;
	pthread_mutex_lock(&async_pf.lock);
	if (async_pf.idle && async_pf.free) {
		apf = async_pf.free;
		async_pf.free = apf->next;
		*apf = (struct kvm_async_pf){ .next = vcpu->async_pf, .wanted = async_pf.wanted,
					      .vcpu = vcpu, .info = *info };
		vcpu->async_pf = async_pf.wanted = apf;
		vcpu->nr_async_pf++;
		async_pf.idle--;
		pthread_cond_signal(&async_pf.work);
	}
	pthread_mutex_unlock(&async_pf.lock);
	return apf;
}

enum state { UNKNOWN, WAITED_FOR, READY };

static enum state state_of(struct kvm_vcpu *vcpu, gfn_t gfn)
{
	enum state s = UNKNOWN;

	if (!vcpu->async_pf)
		return UNKNOWN;
	pthread_mutex_lock(&async_pf.lock);
	for (struct kvm_async_pf *apf = vcpu->async_pf; apf; apf = apf->next)
		if (apf->info.gfn == gfn)
			s = apf->ready ? READY : WAITED_FOR;
	pthread_mutex_unlock(&async_pf.lock);
	return s;
}

static uint32_t new_token(struct kvm_vcpu *vcpu)
{
	/* 0 says "none" */
	if (vcpu->async_pf_id << 12 == 0)
		vcpu->async_pf_id = 1;
	return vcpu->async_pf_id++ << 12 | vcpu->vcpu_id;
}

bool kvm_try_async_pf(struct kvm_vcpu *vcpu, uint64_t addr, gfn_t gfn, hva_t hva)
{
	const struct kvm_arch_ops *ops = kvm_arch_ops();
	struct kvm_async_pf_info info = { .addr = addr, .gfn = gfn, .hva = hva };
	struct kvm_async_pf *apf;

	if (!ops->can_do_async_pf || !ops->can_do_async_pf(vcpu) || !host_page_is_awaited(hva))
		return false;
	TRACE(kvm, kvm_try_async_get_page, addr, gfn);
	switch (state_of(vcpu, gfn)) {
	case WAITED_FOR:
		TRACE(kvm, kvm_async_pf_repeated_fault, addr, gfn);
		kvm_make_request(KVM_REQ_APF_HALT, vcpu);
		return true;
	case READY: /* it came and went again before the guest was told */
		return false;
	default:
		break;
	}
	info.token = new_token(vcpu);
	apf = start(vcpu, &info);
	if (!apf)
		return false;
	apf->info.told = ops->async_page_not_present(vcpu, &info);
	return true;
}

bool kvm_take_async_pf(struct kvm_vcpu *vcpu, struct kvm_async_pf_info *info)
{
	struct kvm_async_pf **p = &vcpu->async_pf, *apf;

	pthread_mutex_lock(&async_pf.lock);
	while (*p && !(*p)->ready)
		p = &(*p)->next;
	apf = *p;
	if (apf) {
		*p = apf->next;
		vcpu->nr_async_pf--;
		*info = apf->info;
		put_free(apf);
	}
	pthread_mutex_unlock(&async_pf.lock);
	return apf != NULL;
}

void kvm_clear_async_pf_completion_queue(struct kvm_vcpu *vcpu)
{
	struct kvm_async_pf *apf, *next;

	if (likely(!vcpu->async_pf))
		return;
	pthread_mutex_lock(&async_pf.lock);
	for (apf = vcpu->async_pf; apf; apf = next) {
		next = apf->next;
		if (apf->ready)
			put_free(apf);
		else
			apf->vcpu = NULL; /* its thread frees it */
	}
	vcpu->async_pf = NULL;
	vcpu->nr_async_pf = 0;
	pthread_mutex_unlock(&async_pf.lock);
}
