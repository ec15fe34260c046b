/*
 * Inside the sanitizer of INVVPIDs: the hooks (l1vpid.c), what is held (l1vpid_set.c), what has changed of it
 * (l1vpid_compare.c), what is told (l1vpid_report.c).
 */
#ifndef USERKVM_CPU_L1VPID_INTERNAL_H
#define USERKVM_CPU_L1VPID_INTERNAL_H

#include "cpu/l1vpid.h"
#include "lib/check_log.h"
#include "sdm/ept.h"
#include "sdm/paging.h"

#define L1VPID_HOLDS 131072U /* of a processor: past them the oldest goes */
#define L1VPID_DIRS 16384U
#define L1VPID_BUCKETS 16384U
#define L1VPID_ROOTS 16U
#define L1VPID_STORED_BYTES (512U << 10)

/* The entries above the last that a walk reads, and the table that has the last: the translations by them share it. */
struct l1vpid_dir {
	bool used;
	uint8_t nr, entry_size;
	uint16_t vpid;
	uint64_t eptp;
	gpa_t table;
	hpa_t host; /* of the table */
	struct { gpa_t gpa; hpa_t host; uint64_t val; } e[GHOST_LEVELS - 1];
	uint32_t first; /* hold */
	uint32_t next;	/* by table; of those that are free */
};

/* A translation that a processor may have cached under L1's VPID. */
struct l1vpid_hold {
	bool live, global;
	bool open, settled, hidden; /* hidden: an INVVPID of it was (USERKVM_GHOST_DEAF) */
	bool lost;    /* open: the entry grants less, or another page; not known of GUEST_CR3 */
	bool reached; /* =strict: L2 has run with it open, settled and lost */
	uint8_t shift, changed; /* changed: the entry, from the top; 1 past the last: GUEST_CR3 */
	uint16_t pcid, offset;	/* of the entry in the table */
	uint32_t dir, dnext, dprev;
	uint32_t next, prev; /* by page; `next` also of those that are free */
	uint64_t val, cr3;
	gva_t gva; /* of 4 KiB, as gpa */
	gpa_t gpa;
	uint64_t rights; /* struct ghost_walk's */
	uint64_t when, new, l1_rip;
};

/* What CR3 L2 had when it left. */
struct l1vpid_root {
	bool used;
	uint16_t vpid;
	uint64_t eptp, cr3, cr4;
};

struct l1vpid_machine {
	int log_fd;
	uint32_t *stored; /* (a) a bit for each frame, by its number: an L2 may have stored to it */
	bool strict; /* what L2 could reach is told, though it does not use it */
	bool vpids; /* USERKVM_CHECK=l1vpid; with l1ept alone only `calm` is kept */
	struct check_ranges suppress;
	unsigned deaf, deaf_count;
	uint64_t lstar; /* (a) IA32_LSTAR while L1 was in user mode last */
	uint64_t records, in_window, reports, of_hidden, hidden, forgotten; /* by all threads: may lose one */
};

struct l1vpid {
	struct l1vpid_machine *m;
	bool active; /* an L2 with a VPID runs */
	bool seen_registers;
	bool calm;	    /* (a) no operation of L1's goes on here */
	uint64_t last_calm; /* (a) when it was so last */
	uint64_t last_l2;   /* (a) when an L2 ran last; ~0: one does */
	uint64_t left;	    /* when L2 left last */
	uint64_t cr0, cr4;
	struct vmx_check_l2 now;
	struct ghost_walk walk;
	struct l1vpid_root root[L1VPID_ROOTS];
	unsigned next_root;
	uint32_t used_holds, free_hold, hand;
	uint32_t used_dirs, free_dir;
	uint32_t by_page[L1VPID_BUCKETS], by_table[L1VPID_BUCKETS];
	uint64_t page[512]; /* a table, as it is now */
	struct l1vpid_hold hold[L1VPID_HOLDS + 1]; /* from 1 */
	struct l1vpid_dir dir[L1VPID_DIRS + 1];	   /* from 1 */
};

static inline struct l1vpid_dir *l1vpid_dir_of(struct l1vpid *l, const struct l1vpid_hold *h)
{
	return &l->dir[h->dir];
}

/* Of the guest that is loaded. */
static inline bool l1vpid_is_current(const struct l1vpid *l, const struct l1vpid_dir *d)
{
	return d->used && d->vpid == l->now.vpid && d->eptp == l->now.eptp;
}

/* A page of the scope's, or all; of the hold's own size. */
static inline bool l1vpid_at(const struct l1vpid_hold *h, gva_t gva)
{
	return !((h->gva ^ gva) >> h->shift);
}

/* --- l1vpid_set.c --- */
void l1vpid_free(struct l1vpid *l, uint32_t n);
/* The walk has ended at r: NULL without room for its tables. */
struct l1vpid_hold *l1vpid_add(struct l1vpid *l, gva_t gva, const struct ghost_walk *w, const struct cpu_walk_result *r,
			       unsigned entry_size);
/* The next behind n (0: the first) that has the address in a page of this size. */
uint32_t l1vpid_next(const struct l1vpid *l, gva_t gva, unsigned shift, uint32_t n);
/* For each size of a page. */
#define L1VPID_SHIFTS { 12, 21, 22, 30 }

/* --- l1vpid_compare.c --- */
/* An L2 may store to the frame. */
void l1vpid_note_stored(struct l1vpid_machine *m, hpa_t host);
/* L1 is about to enter the guest that is loaded: what has changed by now is L1's doing. */
void l1vpid_compare_entry(struct vmx_cpu *cpu, uint64_t now);
/* That guest has left: what has changed by now it may have changed itself. */
void l1vpid_compare_exit(struct vmx_cpu *cpu);
struct l1vpid_root *l1vpid_root_of(struct l1vpid *l);

void l1vpid_report_open(struct l1vpid_machine *m);
void l1vpid_report_end(struct l1vpid_machine *m);
/* now: where the access goes; NULL: nowhere. */
void l1vpid_report(struct vmx_cpu *cpu, struct l1vpid_hold *h, gva_t gva, uint32_t access, const struct cpu_walk_result *now);
/* Outside the guest: L2 has run with it in reach, and has not used it. */
void l1vpid_report_reachable(struct vmx_cpu *cpu, const struct l1vpid_hold *h);

#endif
