/*
 * What `userkvm ept` and `userkvm stat` share: the link to a process's control
 * socket (control/control.h), the picture of a VM's memory that comes over it,
 * and what its entries say in words.
 *
 * Functions that can fail have told why, in one line on stderr, when they
 * return false; the command's exit status is 1 then.
 */
#ifndef USERKVM_TOOLS_SEE_H
#define USERKVM_TOOLS_SEE_H

#include <stdio.h>
#include <sys/types.h>

#include "lib/types.h"

typedef unsigned long long ull;

/* "userkvm ept: …" — the command sets its name once. */
extern const char *see_command;
bool see_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* --- link.c --- */

/*
 * One request, one reply: the lines behind `ok`, to be freed. NULL: failed. A
 * process that is not there, is another user's, has no userkvm, or a VM that is
 * gone: each its own line.
 */
char *see_ask(pid_t pid, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The same without a word when it fails. */
char *see_ask_quietly(pid_t pid, const char *request);
/* A request with a descriptor beside it. False: failed, and told. */
bool see_pass(pid_t pid, const char *request, int passed);
/* A request whose connection stays, the reply being `ok`: its descriptor, with a time limit on receiving. -1: failed, and told. */
int see_session(pid_t pid, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The pid in text; false: it is none. */
bool see_pid(const char *text, pid_t *pid);
/* Processes that listen, by /proc/net/unix: how many, at most max. */
unsigned see_processes(pid_t *pids, unsigned max);
/* Its memory is idle from now on, until it is accessed. */
bool see_age(pid_t pid, uint64_t vm);
/* The VM to look at: the one asked for, else the oldest. */
bool see_choose_vm(pid_t pid, uint64_t *serial);
/* Number in C notation, with an optional suffix K, M, G, T. */
bool see_number(const char *text, uint64_t *v);
/* The line of /proc/PID/maps that holds addr, without its newline. False: none. */
bool see_mapping(pid_t pid, uint64_t addr, char *line, size_t size);

/* --- core.c: a core file in place of a process --- */

bool see_open_core(const char *path);
pid_t see_core_pid(void); /* 0: no core is open, ask the process */
/* As see_ask(); a line `error TEXT` where the core cannot tell. */
char *see_ask_core(const char *request);
bool see_core_mapping(uint64_t addr, char *line, size_t size);

/* --- picture.c: all of a VM's guest-physical memory at a moment --- */

struct see_run { /* like leaves that continue each other */
	int as;
	gpa_t start, end;
	bool mmio;
	uint64_t gen;	/* mmio */
	int level;
	uint64_t entry; /* of the first leaf */
};

struct see_root {
	int as, level, ad;
	hpa_t hpa;
};

struct see_slot {
	int as;
	unsigned id, flags;
	gpa_t start;
	uint64_t size;
	hva_t hva;
};

struct see_picture {
	pid_t pid;
	uint64_t vm;
	struct see_root root[16];
	struct see_run *run;
	struct see_slot *slot;
	unsigned nr_roots, nr_runs, nr_slots;
	bool truncated;
};

bool see_take(pid_t pid, uint64_t vm, struct see_picture *p);
/* A file that `userkvm ept dump` wrote. */
bool see_read_file(const char *path, struct see_picture *p);
void see_free(struct see_picture *p);
const struct see_slot *see_find_slot(const struct see_picture *p, int as, gpa_t gpa);
const struct see_run *see_find_run(const struct see_picture *p, int as, gpa_t gpa);

/* --- words.c --- */

/* "2M", "512M", "1.5G": exact, in the largest unit that is. */
const char *see_size(uint64_t bytes, char *buf, size_t size);
/* "PML4E", "PDPTE", "PDE", "PTE". */
const char *see_level(int level);
/* "4K", "2M", "1G". */
const char *see_page_size(int level);
/* "R W X A D WB IPAT", each in its column. */
void see_attributes(uint64_t entry, bool ad, char *buf, size_t size);
void see_guest_attributes(uint64_t entry, int level, int mode, char *buf, size_t size);
const char *see_slot_flags(unsigned flags);

/* --- the sub-commands of `userkvm ept` --- */
struct see_options {
	pid_t pid;
	uint64_t vm;
	bool json, gva, user, grid, l2;
	int as;
	unsigned vcpu;
	double interval;
	const char *output;
	char **arg; /* what is behind the options and the pid */
	int nr_args;
};
int see_dump(struct see_options *o);
int see_walk(struct see_options *o);
int see_explain(struct see_options *o);
int see_diff(struct see_options *o);
int see_idle(struct see_options *o);
int see_map(struct see_options *o);
/* What a picture of memory calls its parts. */
struct see_map_words {
	const char *title, *part, *parts; /* "Guest-physical memory", "slot", "memslots" */
	const char *left, *right;	  /* headings */
	const char *address;		  /* of a part: "hva" */
};
void see_draw(const struct see_picture *p, const struct see_map_words *w, FILE *f);
void see_write_dump(const struct see_picture *p, FILE *f);

/* --- a walk, parsed (walk.c) --- */
struct see_step {
	int level;
	unsigned index;
	hpa_t table;
	uint64_t entry;
};
struct see_steps {
	struct see_root root; /* level 0: the VM has none for this address space yet */
	struct see_step step[5];
	int nr;
	bool has_by; /* --l2, instead of steps: EPT12 leads to L1's `by` */
	gpa_t by;
};
struct see_guest_step {
	int level; /* 0: PDPTE register */
	gpa_t at;
	uint64_t entry;
	struct see_steps ept; /* of the table it is in */
};
enum see_guest_end { SEE_RESULT, SEE_NOT_PRESENT, SEE_UNREADABLE };
struct see_guest_walk {
	int mode; /* 0, 2, 3, 4 levels */
	uint64_t cr0, cr3, cr4, efer;
	unsigned maxphyaddr;
	int as;
	struct see_guest_step step[5];
	int nr;
	enum see_guest_end end;
	gpa_t gpa;		/* SEE_RESULT, SEE_UNREADABLE */
	struct see_steps ept;	/* of the result */
};
void see_print_steps(const struct see_steps *s, const char *indent);
bool see_ask_walk(const struct see_options *o, gpa_t gpa, struct see_steps *s);
bool see_ask_guest_walk(const struct see_options *o, gva_t gva, struct see_guest_walk *w);
/* False: an address that no table of the mode is asked about; in `why`, as a sentence that begins with `noun`. */
bool see_guest_address(const struct see_guest_walk *w, gva_t gva, const char *noun, char *why, size_t size);
/* grid.c: a walk as its numbered references. */
int see_grid(const struct see_options *o, gva_t gva, const struct see_guest_walk *w);

#endif
