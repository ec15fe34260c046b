/*
 * Sequences of KVM calls, valid and broken: what the files ioctl_*.c share.
 *
 *	seed ──> steps ──> world (descriptors, memory of one client) ──> backend
 *
 * A step is a number: what it does, to which descriptor and with which argument
 * all come from it, so that steps can be left out and the others stay what they
 * were. Descriptors are named by their place in the world.
 */
#ifndef TESTS_FUZZ_IOCTL_H
#define TESTS_FUZZ_IOCTL_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* --- random numbers --- */

struct rng {
	uint64_t state;
};

struct rng rng_of(uint64_t seed);
uint64_t rnd(struct rng *r);
static inline uint64_t rnd_below(struct rng *r, uint64_t n)
{
	return rnd(r) % n;
}
static inline bool rnd_one_in(struct rng *r, unsigned n)
{
	return rnd(r) % n == 0;
}
/* A value that often matters: small, a power of two, all ones, any. */
uint64_t rnd_value(struct rng *r);

/* --- the client --- */

enum fd_kind { FD_SYSTEM, FD_VM, FD_VCPU, FD_STATS, FD_EVENT, FD_KINDS };
#define FD_PLACES 4 /* of each kind */
extern const char *const fd_kind_names[FD_KINDS];

struct backend {
	const char *name;
	int (*open)(const char *path);
	int (*ioctl)(int fd, unsigned long request, unsigned long arg);
	int (*close)(int fd);
	/* Guests run, memory goes away under them. Off: nothing that could hang the machine. */
	bool wild;
};
extern const struct backend backend_userkvm, backend_userkvm_tame, backend_kernel;
extern const char *kernel_device; /* what backend_kernel opens */

#define MEM_BYTES (1ull << 20)
/* Addresses after the memory that nothing else may come to: slots reach into it. */
#define RESERVE_BYTES (1ull << 34)
#define MAX_RUNS 64
#define ARG_BYTES (1ul << 16)

struct world {
	const struct backend *backend;
	int fds[FD_KINDS][FD_PLACES]; /* -1: none; taken out atomically to be closed */
	struct kvm_run *run[FD_PLACES];
	uint32_t run_bytes;
	uint8_t *mem; /* MEM_BYTES of mem_fd, then RESERVE_BYTES of nothing */
	int mem_fd;
	bool irqfds; /* a VM has had one: a thread raises lines */
	unsigned nr_maps;
	struct {
		void *at;
		size_t bytes;
	} maps[MAX_RUNS]; /* of descriptors, to be taken away at the end */
};

/* false: the machine has no room for a client. */
bool world_open(struct world *w, const struct backend *b);
/* Closes every descriptor and takes every mapping away. */
void world_close(struct world *w);

/* --- ioctls --- */

enum {
	D_PTR = 1,	/* .ptr is the offset of an address the call follows */
	D_PARTIAL = 2,	/* an error may come after something has changed, as documented */
	D_KERNEL_NO = 4, /* not on a kernel's KVM: it blocks, or takes gigabytes */
};

/* Fills the argument; the number of bytes the call may look at. */
typedef size_t fill_fn(const struct world *w, int fd, struct rng *r, void *arg);

struct ioctl_desc {
	unsigned long request;
	const char *name;
	enum fd_kind kind;
	fill_fn *fill; /* NULL: by value */
	unsigned long get; /* what reads the state that this one sets; 0: none */
	uint64_t max;	   /* by value: the usual arguments are below this */
	unsigned flags;
	unsigned ptr;
};
extern const struct ioctl_desc ioctl_descs[];
extern const size_t nr_ioctl_descs;

/* Any address a slot's memory may have, right or wrong, that harms nobody. */
uint64_t fuzz_pointer(const struct world *w, struct rng *r);

/* --- steps --- */

struct outcome {
	long ret;
	int error; /* errno, when ret is -1 */
	const struct ioctl_desc *desc; /* NULL: no ioctl */
	char what[512]; /* the step as a line of C; filled when wanted */
};

/*
 * What threads of one client have between them: one struct for each.
 * `checked`: state is read back around calls that fail (one thread only).
 */
struct actor {
	struct world *w;
	uint8_t *arg;	       /* ARG_BYTES, then nothing */
	uint8_t *readonly_arg; /* ARG_BYTES, not to be written */
	bool checked, told;
	uint64_t began_ns;     /* a call began then; 0: none runs (atomic) */
	const char *call;
	uint64_t thread;       /* pthread_t */
	uint64_t last[8];      /* the latest steps */
	unsigned nr;
	char fault[512];       /* a broken promise, in words; "" none */
};

bool actor_init(struct actor *a, struct world *w);
void actor_exit(struct actor *a);
/* The n-th of the first steps: a VM with memory and a vCPU, so that the others meet one. */
#define NR_FIRST_STEPS 7
void step_do(struct actor *a, unsigned n, uint64_t step, struct outcome *o);

/* The state a call may not change when it fails; a text says what differs. */
#define STATE_BYTES (1ul << 15)
size_t state_read(const struct world *w, enum fd_kind kind, int fd, uint8_t *state);
const char *state_part(enum fd_kind kind, const uint8_t *state, size_t at);

/* --- runs; each returns 0, or 1 with the fault on stderr --- */

/* What a run reports while it goes, in memory that outlives its process. */
struct progress {
	uint64_t seed;	   /* of the sequence that runs */
	uint64_t sequences, steps, calls, failed_calls;
	uint8_t left_out[512]; /* steps of it that are not done */
};

struct plan {
	uint64_t seed, sequences;
	uint64_t end; /* CLOCK_MONOTONIC seconds; 0: by number */
	unsigned steps, threads;
	bool told;
};

int run_sequences(const struct plan *p, struct progress *g);
int run_threads(const struct plan *p, struct progress *g);
int run_compare(const struct plan *p, struct progress *g);

/* Calls that do not come back are told with every actor's stack, and end the process. */
extern unsigned watch_limit_s; /* how long a call may take, times PATIENCE of the environment */
void watch_start(void);
void watch_actors(struct actor *actors, unsigned nr);
uint64_t now_ns(void);
/* KVM_RUN of the calling thread ends, again and again, between these. */
void kick_start(void);
void kick_stop(void);

#endif
