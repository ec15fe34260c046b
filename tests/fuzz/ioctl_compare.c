/*
 * The same sequences to userkvm and to a kernel's /dev/kvm: result and errno of
 * each call side by side. Guests do not run here (KVM_RUN with immediate_exit
 * only). After a difference the two clients are mostly no longer alike: the
 * sequence ends there.
 *
 * Every difference that is known stands below with the reason why it stays; one
 * that does not is a failure.
 */
#include "ioctl.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define ANY (-1)
#define MAX_SEEN 256

/* Reasons that come more than once. */
#define NO_SMM "a kernel without SMM: one address space, no SMM state; ours has both (KVM_CAP_MULTI_ADDRESS_SPACE)"
#define MSRS "which MSRs there are, and which of their bits, is the processor's and the kernel version's"
#define NOT_OFFERED "not offered here: KVM_CHECK_EXTENSION says 0"
#define NEWER "newer kernels than the one whose answers these are: "
#define SIZES "how many entries there are is the machine's, and E2BIG comes before the copy"

static const struct judged {
	const char *name;
	int ours, theirs; /* errno; 0: no error; ANY */
	const char *reason;
	bool alike_after; /* nothing was changed by either: the sequence goes on */
} judgements[] = {
	{ "KVM_GET_NR_MMU_PAGES", ANY, ENOTTY, NEWER "they took it away", true },
	{ "KVM_SET_BOOT_CPU_ID", 0, EINVAL, NEWER "they look at the id" },
	{ "KVM_ENABLE_CAP", 0, EINVAL, NEWER "KVM_CAP_MAX_VCPU_ID may not be below the boot vCPU's id" },
	{ "KVM_KVMCLOCK_CTRL", 0, EINVAL, NEWER "a kvmclock across two pages is not active" },
	{ "KVM_ENABLE_CAP", EINVAL, 0, NOT_OFFERED },
	{ "KVM_CREATE_DEVICE", ENODEV, 0, NOT_OFFERED " (VFIO's device)" },
	{ "KVM_SET_TSC_KHZ", 0, EINVAL, "a processor without TSC scaling; ours scales (KVM_CAP_TSC_CONTROL)" },
	{ "KVM_GET_MSRS", 0, 0, MSRS, true },
	{ "KVM_SET_MSRS", 0, 0, MSRS },
	{ "KVM_SET_SREGS", EINVAL, 0, "reserved bits of EFER: Linux takes them and cannot enter the guest; refused here" },
	{ "KVM_SET_SREGS2", EINVAL, 0, "reserved bits of EFER: Linux takes them and cannot enter the guest; refused here" },
	{ "KVM_SET_GUEST_DEBUG", EBUSY, 0, NEWER "a triple fault that waits is no pending exception" },
	{ "KVM_SET_FPU", EINVAL, 0, "an illegal MXCSR: Linux leaves that field out, it is set here" },
	{ "KVM_SET_GUEST_DEBUG", EINVAL, ANY, "flags that KVM_CAP_SET_GUEST_DEBUG2 does not list: refused here" },
	{ "KVM_SET_MP_STATE", EINVAL, 0, "SIPI_RECEIVED: nothing reports it, Linux turns it into an INIT with a SIPI pending" },
	{ "KVM_SIGNAL_MSI", 0, EPERM, "a redirection hint on a mode other than fixed: Linux arbitrates, the manual is silent" },
	{ "KVM_SET_XSAVE", EINVAL, 0, "KVM_GET_XSAVE said SSE was in use, so that its MXCSR counts" },
	{ "KVM_SET_CPUID2", 0, EPERM, "XSAVE components that the kernel lends with permission only" },
	{ "KVM_SET_VCPU_EVENTS", 0, EINVAL, NO_SMM },
	{ "KVM_CLEAR_DIRTY_LOG", ANY, EINVAL, NO_SMM, true },
	{ "KVM_GET_DIRTY_LOG", ANY, EINVAL, NO_SMM },
	{ "KVM_SET_USER_MEMORY_REGION", 0, EINVAL, NO_SMM },
	{ "KVM_SET_USER_MEMORY_REGION2", 0, EINVAL, NO_SMM },
	{ "KVM_SET_USER_MEMORY_REGION", EINVAL, 0, "guest-physical addresses wider than four levels of EPT: the processor's" },
	{ "KVM_SET_USER_MEMORY_REGION2", EINVAL, 0, "guest-physical addresses wider than four levels of EPT: the processor's" },
	{ "KVM_GET_SUPPORTED_CPUID", ANY, E2BIG, SIZES, true },
	{ "KVM_GET_MSR_INDEX_LIST", ANY, E2BIG, SIZES, true },
	{ "KVM_GET_MSR_FEATURE_INDEX_LIST", ANY, E2BIG, SIZES, true },
	{ "KVM_GET_CPUID2", 0, E2BIG, "the machine's KVM adds leaves of its own to those it was given", true },
};

static struct seen {
	const char *name;
	int ours, theirs;
	uint64_t times, seed;
	long ret[2];
	char what[512];
} seen[MAX_SEEN];
static unsigned nr_seen;

static const char *word(int error)
{
	const char *name = error ? strerrorname_np(error) : "no error";

	return name ? name : "?";
}

static const struct judged *judgement(const char *name, int ours, int theirs)
{
	for (size_t i = 0; i < sizeof(judgements) / sizeof(*judgements); i++) {
		const struct judged *j = &judgements[i];

		if (!strcmp(j->name, name) && (j->ours == ANY || j->ours == ours) &&
		    (j->theirs == ANY || j->theirs == theirs))
			return j;
	}
	return NULL;
}

/* May the sequence go on? */
static bool note(uint64_t seed, const struct outcome *ours, const struct outcome *theirs)
{
	const char *name = ours->desc ? ours->desc->name : "another step";
	const struct judged *j = judgement(name, ours->error, theirs->error);
	unsigned i;

	for (i = 0; i < nr_seen; i++)
		if (!strcmp(seen[i].name, name) && seen[i].ours == ours->error && seen[i].theirs == theirs->error)
			break;
	if (i == MAX_SEEN)
		return false;
	if (i == nr_seen) {
		nr_seen++;
		seen[i] = (struct seen){ .name = name, .ours = ours->error, .theirs = theirs->error, .seed = seed };
		seen[i].ret[0] = ours->ret;
		seen[i].ret[1] = theirs->ret;
		memcpy(seen[i].what, ours->what, sizeof(seen[i].what));
	}
	seen[i].times++;
	return j && j->alike_after;
}

/* How many MSRs were done is part of the answer; other results are the machine's own. */
static bool alike(const struct outcome *ours, const struct outcome *theirs)
{
	if ((ours->ret == -1) != (theirs->ret == -1) || ours->error != theirs->error)
		return false;
	return !ours->desc || (ours->desc->request != KVM_GET_MSRS && ours->desc->request != KVM_SET_MSRS) ||
	       ours->ret == theirs->ret;
}

static void compare_sequence(uint64_t seed, const struct plan *p, struct progress *g)
{
	struct rng r = rng_of(seed);
	struct world w[2];
	struct actor a[2];
	struct outcome o[2];

	if (!world_open(&w[0], &backend_userkvm_tame) || !world_open(&w[1], &backend_kernel) ||
	    !actor_init(&a[0], &w[0]) || !actor_init(&a[1], &w[1])) {
		perror("fuzz-ioctl: no memory for a client");
		return;
	}
	a[0].told = true;
	for (unsigned n = 0; n < p->steps; n++) {
		uint64_t step = rnd(&r);

		if (g->left_out[n])
			continue;
		step_do(&a[0], n, step, &o[0]);
		step_do(&a[1], n, step, &o[1]);
		g->steps++;
		g->calls += o[0].desc != NULL;
		g->failed_calls += o[0].desc && o[0].ret < 0;
		if (p->told)
			fprintf(stderr, "%s -> %ld %s, kernel %ld %s\n", o[0].what, o[0].ret, word(o[0].error), o[1].ret,
				word(o[1].error));
		if (!alike(&o[0], &o[1]) && !note(seed, &o[0], &o[1]))
			break;
	}
	for (unsigned i = 0; i < 2; i++) {
		world_close(&w[i]);
		actor_exit(&a[i]);
	}
}

int run_compare(const struct plan *p, struct progress *g)
{
	unsigned news = 0;
	struct rng r = rng_of(p->seed);

	watch_start();

	for (uint64_t n = 0; p->end ? now_ns() / 1000000000 < p->end : n < p->sequences; n++, g->sequences++) {
		g->seed = n ? rnd(&r) : p->seed;
		compare_sequence(g->seed, p, g);
	}
	for (unsigned i = 0; i < nr_seen; i++) {
		const struct judged *j = judgement(seen[i].name, seen[i].ours, seen[i].theirs);

		news += !j;
		printf("%s %llu times: %s: %s, the kernel %s (SEED=%#llx)\n	%s -> %ld, kernel %ld\n	%s\n", j ? "known" : "NEW",
		       (unsigned long long)seen[i].times, seen[i].name, word(seen[i].ours), word(seen[i].theirs),
		       (unsigned long long)seen[i].seed, seen[i].what, seen[i].ret[0], seen[i].ret[1],
		       j ? j->reason : "judge it in ioctl_compare.c");
	}
	return news != 0;
}
