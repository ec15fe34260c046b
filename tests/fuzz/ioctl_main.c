/*
 * Sequences of KVM calls, valid and broken, that are the same for the same seed.
 *
 * usage: fuzz-ioctl [--compare DEVICE] [--print] [--threads N]
 *
 *	without options   one thread with every promise checked, then four
 *	--threads N       N threads only; 1: one
 *	--compare DEVICE  the same calls to a kernel's KVM, errno beside errno
 *	--print           each step as a line of C
 *
 * Environment: SEED, SEQUENCES (how many of each), or FUZZ_SECONDS (for each).
 *
 * The work is done in a child, so that a crash has someone to tell it: by which
 * sequence, and by which of its steps when the others are left out.
 */
#include "ioctl.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define STEPS 120
#define THREAD_STEPS 400

typedef int run_fn(const struct plan *p, struct progress *g);

/* A finding of the undefined-behaviour sanitizer ends the child, as one of the other does. */
__attribute__((visibility("default"))) const char *__ubsan_default_options(void);
const char *__ubsan_default_options(void)
{
	return "halt_on_error=1:print_stacktrace=1";
}

static uint64_t number(const char *name, uint64_t otherwise)
{
	const char *s = getenv(name);

	return s ? strtoull(s, NULL, 0) : otherwise;
}

/* The child's wait status. */
static int in_child(run_fn *run, const struct plan *p, struct progress *g, bool quiet)
{
	pid_t pid;
	int status;

	fflush(NULL);
	pid = fork();
	if (pid < 0) {
		perror("fuzz-ioctl: fork");
		exit(1);
	}
	if (pid == 0) {
		if (quiet && !freopen("/dev/null", "w", stderr))
			_exit(1);
		exit(run(p, g));
	}
	while (waitpid(pid, &status, 0) < 0)
		;
	return status;
}

/* Leave out ever smaller runs of steps while it still fails. */
static void minimise(struct plan *p, struct progress *g)
{
	for (unsigned chunk = p->steps / 2; chunk; chunk /= 2)
		for (unsigned at = 0; at < p->steps; at += chunk) {
			uint8_t before[sizeof(g->left_out)];
			unsigned n = at + chunk > p->steps ? p->steps - at : chunk;

			memcpy(before, g->left_out, sizeof(before));
			memset(g->left_out + at, 1, n);
			if (memcmp(before, g->left_out, sizeof(before)) && !in_child(run_sequences, p, g, true))
				memcpy(g->left_out, before, sizeof(before));
		}
}

static void report(run_fn *run, const struct plan *failed, struct progress *g, int status)
{
	struct plan p = { .seed = g->seed, .sequences = 1, .steps = failed->steps, .threads = failed->threads };

	if (WIFSIGNALED(status))
		fprintf(stderr, "fuzz-ioctl: signal %d\n", WTERMSIG(status));
	fprintf(stderr, "fuzz-ioctl: the sequence of SEED=%#llx fails\n", (unsigned long long)p.seed);
	if (run != run_sequences)
		return;
	watch_limit_s = 2; /* a hang is seen many times now */
	if (!in_child(run, &p, g, true)) {
		fprintf(stderr, "fuzz-ioctl: not when it runs alone\n");
		return;
	}
	minimise(&p, g);
	p.told = true;
	fprintf(stderr, "fuzz-ioctl: what is left of it:\n");
	in_child(run, &p, g, false);
}

static int target(const char *name, run_fn *run, struct plan p)
{
	struct progress *g = mmap(NULL, sizeof(*g), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint64_t seconds = number("FUZZ_SECONDS", 0);
	int status;

	if (g == MAP_FAILED)
		return 1;
	p.end = seconds ? now_ns() / 1000000000 + seconds : 0;
	status = in_child(run, &p, g, false);
	printf("%s: %llu sequences, %llu steps, %llu ioctls, %llu of them refused\n", name,
	       (unsigned long long)g->sequences, (unsigned long long)g->steps, (unsigned long long)g->calls,
	       (unsigned long long)g->failed_calls);
	fflush(stdout);
	if (status && run != run_compare)
		report(run, &p, g, status);
	munmap(g, sizeof(*g));
	return status != 0;
}

static int compare(const char *device, struct plan p)
{
	int fd;

	kernel_device = device;
	fd = backend_kernel.open(device);
	if (fd < 0 || backend_kernel.ioctl(fd, KVM_GET_API_VERSION, 0) != KVM_API_VERSION) {
		printf("%s: %s: no kernel's KVM to compare with\n", device, fd < 0 ? strerror(errno) : "another API");
		return 77;
	}
	backend_kernel.close(fd);
	return target("compare", run_compare, p);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "compare", required_argument, NULL, 'c' }, { "print", no_argument, NULL, 'p' },
		{ "threads", required_argument, NULL, 't' }, { 0 } };
	struct plan p = { .seed = number("SEED", 0x5eed), .sequences = number("SEQUENCES", 400), .steps = STEPS, .threads = 4 };
	struct plan many = p;
	const char *device = NULL;
	int only = 0, o;

	while ((o = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (o == 'c')
			device = optarg;
		else if (o == 'p')
			p.told = true;
		else if (o == 't')
			only = atoi(optarg);
		else
			return 2;
	}
	if (device)
		return compare(device, p);
	many.steps = THREAD_STEPS;
	many.sequences = p.sequences / 20;
	many.threads = only > 1 && only < 16 ? (unsigned)only : 4;
	if (only <= 1 && target("one thread", run_sequences, p))
		return 1;
	return only == 1 ? 0 : target("threads", run_threads, many);
}
