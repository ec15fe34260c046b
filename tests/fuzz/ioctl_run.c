/*
 * Sequences against userkvm: by one thread, with every promise checked, and by
 * several on one client.
 *
 * Promises
 * 1. A call that fails changes nothing that can be read back.
 * 2. Every call returns; KVM_RUN after a signal (ioctl_watch.c).
 * 3. No VM is found broken: neither by itself nor by mmu_check().
 * 4. When all is closed, all is returned: descriptors, threads, mappings.
 */
#include "ioctl.h"

#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "abi/introspect.h"
#include "mmu/mmu.h"
#include "virt/kvm.h"

#define MAX_VMS 64
#define MAX_THREADS 16

static uint64_t sequence_seed(uint64_t seed, uint64_t n)
{
	struct rng r = rng_of(seed + n);

	return n ? rnd(&r) : seed; /* the first is the seed itself: how a sequence is named */
}

static bool go_on(const struct plan *p, uint64_t n)
{
	return p->end ? now_ns() / 1000000000 < p->end : n < p->sequences;
}

/* --- promise 3 --- */

static bool vms_are_sound(char *fault, size_t size)
{
	struct kvm *vms[MAX_VMS];
	unsigned n = abi_vms_get(vms, MAX_VMS);
	bool sound = true;

	for (unsigned i = 0; i < n; i++) {
		int faults = 0;

		if (vms[i]->dead)
			snprintf(fault, size, "a VM was given up");
		else if ((faults = mmu_check(vms[i])) != 0)
			snprintf(fault, size, "mmu_check() finds %d faults", faults);
		sound = sound && !vms[i]->dead && !faults;
		kvm_put_kvm(vms[i]);
	}
	return sound;
}

/* --- promise 4 --- */

struct holdings {
	unsigned fds, threads, mappings;
};

static unsigned entries_of(const char *path)
{
	DIR *dir = opendir(path);
	unsigned n = 0;

	while (dir && readdir(dir))
		n++;
	if (dir)
		closedir(dir);
	return n;
}

/*
 * Descriptors, but for those by which the library asks how long a thread has waited for a processor: an ended
 * thread's is kept for the next, so there are as many as there ever were threads at once.
 */
static unsigned descriptors(void)
{
	unsigned n = entries_of("/proc/self/fd");
	char path[40], link[64];

	for (int fd = 0; fd < 4096; fd++) {
		ssize_t len;

		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		len = readlink(path, link, sizeof(link) - 1);
		link[len > 0 ? len : 0] = 0;
		n -= strstr(link, "/schedstat") != NULL;
	}
	return n;
}

static struct holdings holdings(void)
{
	struct holdings h = { descriptors(), entries_of("/proc/self/task"), 0 };
	FILE *f = fopen("/proc/self/maps", "r");
	char line[512];

	while (f && fgets(line, sizeof(line), f))
		h.mappings += strstr(line, "memfd:") != NULL;
	if (f)
		fclose(f);
	return h;
}

/* Threads may need a moment to be gone. */
static bool all_returned(const struct holdings *was, char *fault, size_t size)
{
	struct holdings h;

	for (unsigned tries = 0; tries < 150; tries++) {
		h = holdings();
		if (h.fds <= was->fds && h.threads <= was->threads && h.mappings <= was->mappings)
			return true;
		usleep(10000);
	}
	snprintf(fault, size, "not returned: %u descriptors, %u threads, %u mappings of files; before: %u, %u, %u", h.fds,
		 h.threads, h.mappings, was->fds, was->threads, was->mappings);
	return false;
}

/*
 * What the library keeps once it has been used: the threads of timers and of
 * irqfds, and what they wait on.
 */
static struct holdings after_a_first_client(void)
{
	const struct backend *b = &backend_userkvm;
	int kvm = b->open("/dev/kvm"), vm = b->ioctl(kvm, KVM_CREATE_VM, 0), event = eventfd(0, EFD_CLOEXEC), vcpu;
	struct kvm_irqfd irqfd = { .fd = (uint32_t)event, .gsi = 4 };
	struct kvm_pit_config pit = { 0 };

	if (b->ioctl(vm, KVM_CREATE_IRQCHIP, 0) || b->ioctl(vm, KVM_CREATE_PIT2, (uintptr_t)&pit) ||
	    b->ioctl(vm, KVM_IRQFD, (uintptr_t)&irqfd) || (vcpu = b->ioctl(vm, KVM_CREATE_VCPU, 0)) < 0) {
		perror("fuzz-ioctl: a first client");
		exit(1);
	}
	b->close(vcpu);
	b->close(vm);
	b->close(kvm);
	close(event);
	usleep(50000);
	return holdings();
}

static int broken(uint64_t seed, const char *fault)
{
	fprintf(stderr, "fuzz-ioctl: %s (SEED=%#llx)\n", fault, (unsigned long long)seed);
	return 1;
}

/* --- one thread --- */

static void tell_outcome(const struct outcome *o)
{
	if (!*o->what)
		return;
	fprintf(stderr, "%s", o->what);
	if (o->ret < 0)
		fprintf(stderr, ";	/* -1, %s */\n", strerrorname_np(o->error) ? strerrorname_np(o->error) : "?");
	else
		fprintf(stderr, ";	/* %ld */\n", o->ret);
}

static int run_sequence(uint64_t seed, const struct plan *p, struct progress *g, const struct holdings *was)
{
	struct rng r = rng_of(seed);
	char fault[512] = "";
	struct world w;
	struct actor a;

	if (!world_open(&w, &backend_userkvm) || !actor_init(&a, &w))
		return broken(seed, "no memory for a client");
	a.checked = true;
	a.told = p->told;
	a.thread = (uint64_t)pthread_self();
	watch_actors(&a, 1);
	for (unsigned n = 0; n < p->steps && !*a.fault; n++) {
		uint64_t step = rnd(&r);
		struct outcome o;

		if (g->left_out[n])
			continue;
		step_do(&a, n, step, &o);
		g->steps++;
		g->calls += o.desc != NULL;
		g->failed_calls += o.desc && o.ret < 0;
		if (p->told)
			tell_outcome(&o);
	}
	memcpy(fault, a.fault, sizeof(fault));
	if (!*fault)
		vms_are_sound(fault, sizeof(fault));
	world_close(&w);
	watch_actors(NULL, 0);
	actor_exit(&a);
	if (!*fault)
		all_returned(was, fault, sizeof(fault));
	return *fault ? broken(seed, fault) : 0;
}

int run_sequences(const struct plan *p, struct progress *g)
{
	struct holdings was = after_a_first_client();

	watch_start();
	was.threads++;
	for (uint64_t n = 0; go_on(p, n); n++, g->sequences++) {
		g->seed = sequence_seed(p->seed, n);
		if (run_sequence(g->seed, p, g, &was))
			return 1;
	}
	return 0;
}

/* --- several --- */

struct crew {
	struct actor *actor;
	uint64_t seed, calls, failed;
	unsigned steps;
};

static void *crew_main(void *arg)
{
	struct crew *c = arg;
	struct rng r = rng_of(c->seed);
	struct outcome o;

	for (unsigned n = 0; n < c->steps; n++) {
		step_do(c->actor, NR_FIRST_STEPS, rnd(&r), &o);
		c->calls += o.desc != NULL;
		c->failed += o.desc && o.ret < 0;
	}
	return NULL;
}

static int run_crew(uint64_t seed, const struct plan *p, struct progress *g, const struct holdings *was)
{
	static struct crew crew[MAX_THREADS];
	static struct actor actors[MAX_THREADS];
	pthread_t threads[MAX_THREADS];
	struct rng r = rng_of(seed);
	char fault[512] = "";
	struct outcome o;
	struct world w;

	if (!world_open(&w, &backend_userkvm))
		return broken(seed, "no memory for a client");
	for (unsigned i = 0; i < p->threads; i++) {
		crew[i] = (struct crew){ .actor = &actors[i], .seed = rnd(&r), .steps = p->steps };
		if (!actor_init(&actors[i], &w))
			return broken(seed, "no memory for a client");
	}
	for (unsigned n = 0; n < NR_FIRST_STEPS; n++)
		step_do(&actors[0], n, rnd(&r), &o);
	for (unsigned i = 0; i < p->threads; i++) {
		if (pthread_create(&threads[i], NULL, crew_main, &crew[i]))
			return broken(seed, "no threads");
		actors[i].thread = (uint64_t)threads[i];
	}
	watch_actors(actors, p->threads);
	for (unsigned i = 0; i < p->threads; i++)
		pthread_join(threads[i], NULL);
	watch_actors(NULL, 0);
	vms_are_sound(fault, sizeof(fault));
	world_close(&w);
	for (unsigned i = 0; i < p->threads; i++) {
		g->steps += p->steps;
		g->calls += crew[i].calls;
		g->failed_calls += crew[i].failed;
		actor_exit(&actors[i]);
	}
	if (!*fault)
		all_returned(was, fault, sizeof(fault));
	return *fault ? broken(seed, fault) : 0;
}

int run_threads(const struct plan *p, struct progress *g)
{
	struct holdings was = after_a_first_client();

	watch_start();
	was.threads++;
	for (uint64_t n = 0; go_on(p, n); n++, g->sequences++) {
		g->seed = sequence_seed(p->seed, n);
		if (run_crew(g->seed, p, g, &was))
			return 1;
	}
	return 0;
}
