/*
 * The same sequences to userkvm and to a kernel's /dev/kvm: result and errno of
 * each call side by side. Guests do not run here (KVM_RUN with immediate_exit
 * only). After a difference the two clients are no longer alike: the sequence
 * ends there.
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

static const struct judged {
	const char *name;
	int ours, theirs; /* errno; 0: no error; ANY */
	const char *reason;
} judgements[] = {
	{ "", 0, 0, "" },
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

static const struct judged *judgement(const struct seen *s)
{
	for (size_t i = 0; i < sizeof(judgements) / sizeof(*judgements); i++) {
		const struct judged *j = &judgements[i];

		if (!strcmp(j->name, s->name) && (j->ours == ANY || j->ours == s->ours) &&
		    (j->theirs == ANY || j->theirs == s->theirs))
			return j;
	}
	return NULL;
}

static void note(uint64_t seed, const struct outcome *ours, const struct outcome *theirs)
{
	const char *name = ours->desc ? ours->desc->name : "another step";
	unsigned i;

	for (i = 0; i < nr_seen; i++)
		if (!strcmp(seen[i].name, name) && seen[i].ours == ours->error && seen[i].theirs == theirs->error)
			break;
	if (i == MAX_SEEN)
		return;
	if (i == nr_seen) {
		nr_seen++;
		seen[i] = (struct seen){ .name = name, .ours = ours->error, .theirs = theirs->error, .seed = seed };
		seen[i].ret[0] = ours->ret;
		seen[i].ret[1] = theirs->ret;
		memcpy(seen[i].what, ours->what, sizeof(seen[i].what));
	}
	seen[i].times++;
}

/* How many MSRs were done is part of the answer; other results are the machine's own. */
static bool alike(const struct outcome *ours, const struct outcome *theirs)
{
	if ((ours->ret < 0) != (theirs->ret < 0) || ours->error != theirs->error)
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
		if (!alike(&o[0], &o[1])) {
			note(seed, &o[0], &o[1]);
			break;
		}
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
		const struct judged *j = judgement(&seen[i]);

		news += !j;
		printf("%s %llu times: %s: %s, the kernel %s (SEED=%#llx)\n	%s -> %ld, kernel %ld\n	%s\n", j ? "known" : "NEW",
		       (unsigned long long)seen[i].times, seen[i].name, word(seen[i].ours), word(seen[i].theirs),
		       (unsigned long long)seen[i].seed, seen[i].what, seen[i].ret[0], seen[i].ret[1],
		       j ? j->reason : "judge it in ioctl_compare.c");
	}
	return news != 0;
}
