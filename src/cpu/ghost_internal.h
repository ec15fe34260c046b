/*
 * Inside the sanitizer of translations: what is held (ghost_set.c), what stores took away
 * (ghost_compare.c), when that has ended (ghost_record.c, ghost_watch.c), who uses it then
 * (ghost_use.c), what is told (ghost_report.c); ghost.c has the hooks, ghost_drop.c what
 * processors are asked to drop.
 */
#ifndef USERKVM_CPU_GHOST_INTERNAL_H
#define USERKVM_CPU_GHOST_INTERNAL_H

#include "cpu/ghost.h"
#include "lib/check_log.h"

/* Limits: past one the oldest goes, which is counted. */
#define HOLDS 131072U
#define BUCKETS 65536U
#define RECORDS 8192U
#define TABLES 32768U
#define WATCHES 8192U
#define PENDING 64U
#define BATCH 1024U

enum hold_kind { HOLD_FREE, HOLD_LEAF, HOLD_TABLE };

/* A translation, or a reference to a table, that a processor may have cached. */
struct hold {
	struct ghost_cpu *c;
	uint64_t born; /* c->clock then */
	gva_t base;    /* of the page, or of what the table maps */
	gpa_t gpa;     /* of the page, or of the table */
	hpa_t host;    /* of the page, where it is one of 4 KiB */
	uint64_t rights, mode;
	uint32_t record; /* that is open for it, or 0 */
	uint16_t pcid;
	uint8_t kind, shift, nr;
	bool global, dirty;
	uint32_t next, prev; /* by page; `next` also of those that are free */
	uint32_t tnext, tprev; /* HOLD_TABLE: those of the same table */
	bool hidden; /* an invalidation of it was hidden (USERKVM_GHOST_DEAF) */
	bool spec;   /* not used: it may be cached all the same (ghost_spec.c) */
	struct {
		gpa_t gpa;
		uint64_t val;
		uint32_t next, prev; /* by the entry: hold * 8 + level */
	} e[GHOST_LEVELS];
};

/* A frame that serves as a page table. */
struct table {
	hpa_t host; /* 0: free */
	gpa_t gpa;
	uint32_t next;
	uint32_t first;	 /* HOLD_TABLE of it */
	/*
	 * Processors (by number, modulo 64) that ran when it was found to be a table, and may store to it unseen
	 * until they have dropped their write tags: what it loses meanwhile is forgotten, not blamed on anybody.
	 */
	uint64_t unseen;
	uint64_t dropping; /* of these, those that are about to drop them (ghost_work_off) */
	uint32_t misses; /* stores to entries of which nothing is held */
};

/* Who stores: a thread of the guest's. */
struct writer {
	struct ghost_cpu *c;
	uint64_t rip, cr3, fs, time;
	uint8_t cpl;
	bool hypervisor;
};

/* By members: a structure's assignment may be a call of memcpy(). */
static inline void writer_copy(struct writer *to, const struct writer *from)
{
	to->c = from->c;
	to->rip = from->rip;
	to->cr3 = from->cr3;
	to->fs = from->fs;
	to->time = from->time;
	to->cpl = from->cpl;
	to->hypervisor = from->hypervisor;
}

/* Stores to a table that have not been compared with what is held. */
struct pending {
	hpa_t host;
	gpa_t gpa;
	uint64_t mask[8]; /* of its 512 quadwords */
	bool unseen;	  /* stores by a processor that had a write tag */
	struct writer by;
};

enum ghost_class { GHOST_USE, GHOST_REACHABLE, GHOST_TABLE, GHOST_ROOT, GHOST_LOST_DIRTY, GHOST_SIZE, GHOST_CLASSES };
enum settled { OPEN, SETTLED_RETURNED, SETTLED_OWN, SETTLED_RECYCLED, SETTLED_QUIET };
/* What the tables do not grant any more. type: memory type or G, which only =strict records. */
enum lost { LOST_RIGHTS, LOST_DIRTY, LOST_TYPE };

/* A held translation that the tables no longer grant. */
struct record {
	uint32_t hold; /* 0: free */
	uint32_t next; /* of the writer's thread, while it is open; then of its processor; or of those that are free */
	struct writer by;
	gpa_t entry;
	uint64_t old, new;
	uint64_t used_rip;
	uint8_t lost;	 /* enum lost: the most of it */
	uint8_t settled; /* enum settled */
	uint8_t level;
	bool said_use, said_reachable, said_table, said_size;
	/* USERKVM_GHOST_DEAF, ghost_recall.c: of which hidden invalidation; could the processor use it after that? */
	uint32_t owed_to;
	bool in_reach;
};

/* A frame that was taken away while it was held: has it got a new owner? */
struct watch {
	hpa_t host; /* 0: free */
	uint32_t next;
	uint64_t lines; /* stored to since */
	uint64_t rip;	/* of the last of them */
	struct { uint32_t hold; uint64_t born; } of[4];
};

struct batch_item {
	uint32_t hold, level;
	uint64_t born;
	uint64_t now;  /* the entry */
	gpa_t gpa;     /* as the tables say it now, and their rights */
	uint64_t rights, leaf;
	unsigned shift; /* of the page that they give now */
	bool unknown, present, dirty;
};

/* When what was invalidated, by ghost_cpu.clock. */
struct ghost_times {
	uint64_t leaf_all, leaf_nonglobal, table_all, leaf_pcid[4096], table_pcid[4096];
};

#define SETTLED_CHAINS 64 /* by PCID; one more for global translations */

struct ghost_cpu {
	struct ghost *g;
	struct vmx_cpu *cpu;
	struct ghost_cpu *next;
	unsigned nr;
	uint16_t vpid; /* of what is looked at; 0: none yet */
	bool off;
	struct ghost_walk walk;
	uint64_t clock; /* past all of these */
	struct ghost_times t, hidden; /* hidden: with those that USERKVM_GHOST_DEAF has hidden */
	/* published; [lock] to change together */
	bool in_guest, user, halted;
	uint64_t calm; /* when it was last in user mode (=strict) */
	uint16_t pcid;
	uint64_t cr0, cr4, cr3; /* as last seen */
	uint64_t root_lines;	/* of its CR3's frame, stored to since it was loaded */
	bool said_root;
	uint32_t settled[SETTLED_CHAINS + 1]; /* records of its */
	uint32_t nr_settled;
	struct { const char *what; uint64_t address, rip; bool page; } last; /* invalidation */
	/*
	 * The store that was announced last, until the processor's next event: others may look before it is
	 * made. Own to write, with the lock to set.
	 */
	struct { hpa_t page; unsigned first, last; } inflight;
	/* [lock] */
	unsigned nr_drops;
	struct ghost_drop drops[GHOST_DROPS];
	/* Slots are taken and not applied: grants among them are not known to others. [lock] */
	bool comparing;
	/* own */
	struct ghost_drop take[GHOST_DROPS];
	struct batch_item batch[BATCH];
	uint64_t now[1024]; /* entries of work's table that were stored to, or each half of one */
	struct pending work;
};

#define GHOST_COUNTERS(F)                                                             \
	F(holds) F(speculative) F(records) F(closed) F(settled) F(uses_in_window) F(uses_settled) F(reports) \
	F(reports_of_hidden) F(hidden_owed) F(hidden_in_reach) F(hidden_told) \
	F(records_owed) F(records_in_reach) F(records_told) F(records_in_time) F(forgotten) F(forgotten_unreadable) F(forgotten_unseen) F(forgotten_mode) F(forgotten_room) F(hidden) F(compared) F(watches) F(recycled)

struct ghost {
	const struct ghost_ops *ops;
	uint32_t lock;
	bool strict, spec;
	unsigned deaf, deaf_count; /* USERKVM_GHOST_DEAF */
#define GHOST_HIDDEN 65536U
	uint8_t *hidden; /* by the number of the hidden invalidation: what is counted of it */
	struct ghost_cpu *cpus;
	unsigned nr_cpus;
	struct hold *hold;     /* from 1 */
	struct record *record; /* from 1 */
	struct table *table;   /* from 1 */
	struct watch *watch;   /* from 1 */
	uint32_t *by_page, *by_entry, *by_table, *by_watch, *by_thread; /* BUCKETS */
	uint32_t used_holds, free_hold, hand;
	uint32_t used_records, free_record, record_hand;
	uint32_t used_tables, free_table;
	uint32_t used_watches, watch_hand;
	struct pending pending[PENDING];
	unsigned nr_pending;
	uint64_t quiet, quiet_looked; /* TSC ticks after which an operation is over (=strict); when records were last looked at */
	uint32_t nr_open; /* records that are not settled, at least */
#define GHOST_COUNTER(n) uint64_t n;
	struct { GHOST_COUNTERS(GHOST_COUNTER) } count;
#undef GHOST_COUNTER
	/* reports */
	int log_fd;
	unsigned lines[GHOST_CLASSES], told[GHOST_CLASSES];
	uint64_t seen[256];
	struct check_ranges suppress;
};

/* Counts a miss, by its reason. */
#define ghost_forgot(g, why) ((g)->count.forgotten++, (g)->count.forgotten_##why++)

void ghost_lock(struct ghost *g);
void ghost_unlock(struct ghost *g);
static inline struct ghost_cpu *ghost_of(struct vmx_cpu *cpu)
{
	return cpu->tlb->ghost;
}
static inline uint32_t ghost_hash(uint64_t key)
{
	return (uint32_t)(key * 0x9e3779b97f4a7c15ULL >> 48);
}

/*
 * What decides how an address goes through the tables; rights are another matter. With PAE, CR4.PSE
 * does nothing: Linux's first processor has it set and the others have not.
 */
static inline uint64_t ghost_walk_mode(const struct cpu_state *cs)
{
	uint64_t cr4 = cs->cr4 & X86_CR4_PAE ? X86_CR4_PAE | X86_CR4_LA57 : X86_CR4_PSE;

	return (cs->cr4 & cr4) | (cs->cr0 & X86_CR0_PG) | (cs->efer & EFER_LMA) << 32;
}

/* A page of programs. */
static inline bool hold_is_users(const struct hold *h)
{
	bool lower = !(h->c->cpu->cs.efer & EFER_LMA) || !(h->base >> 47);

	return h->kind == HOLD_LEAF && (h->rights & PTE_US) && lower;
}

/* The processor that may use it is in user mode, in its address space, and allowed to. */
static inline bool hold_reachable(const struct hold *h)
{
	const struct ghost_cpu *v = h->c;

	return hold_is_users(h) && v->in_guest && v->user && (h->global || h->pcid == v->pcid);
}

/* --- ghost_set.c, all with the lock --- */
bool hold_live(const struct hold *h);
/* Has an invalidation of it been hidden? */
bool hold_hidden(const struct hold *h);
void hold_free(struct ghost *g, uint32_t n);
/* The next live hold of c for gva, behind `n` (0: the first) in the chain of this size; 0: none. */
uint32_t hold_next(struct ghost *g, struct ghost_cpu *c, enum hold_kind kind, gva_t gva, unsigned shift, uint32_t n);
/* The next hold whose path has the entry: its node, hold * 8 + level, or 0. */
uint32_t hold_of_entry(struct ghost *g, gpa_t entry, uint32_t node);
void hold_leaf(struct ghost_cpu *c, gva_t gva, const struct cpu_walk_result *r);
/* v may have cached what the path says, which goes on from that of the table; unless it holds it. host: of the page, or 0. */
void hold_spec(struct ghost_cpu *v, const struct hold *table, gva_t gva, const struct ghost_walk *w, gpa_t page, hpa_t host);
struct table *table_find(struct ghost *g, hpa_t host);
/* Made where there is none; *new then. NULL: no room. */
struct table *table_make(struct ghost *g, hpa_t host, gpa_t gpa, bool *new);
/* Nothing is held by way of it any more: false. */
bool table_needed(struct ghost *g, struct table *t);
void table_free(struct ghost *g, struct table *t);
void ghost_forget_all(struct ghost *g);
void ghost_forget_cpu(struct ghost *g, struct ghost_cpu *c);

/* What is held by way of entries [first, last], quadwords of the table, is forgotten. */
void ghost_forget_entries(struct ghost *g, const struct table *t, unsigned first, unsigned last);

/* --- ghost_compare.c --- */
/* Without the lock: what was stored is compared with what is held. */
void ghost_compare(struct ghost_cpu *c);
/* --- the others with the lock --- */
/* NULL: something of another writer's, or too much, is to be compared first. */
struct pending *pending_for(struct ghost_cpu *c, const struct table *t, bool hypervisor, bool insist);
/* An empty slot at the end; NULL: no room. The writer is to be filled in. */
struct pending *pending_add(struct ghost *g, hpa_t host, gpa_t gpa);
bool pending_has(struct ghost *g, const struct hold *h);
/* Another processor is comparing: what it has found is not in the records yet. */
bool others_compare(const struct ghost_cpu *c);
/* Without the lock: a look of the processor's has unwound: what it was about is forgotten. */
void ghost_compare_unwound(struct ghost_cpu *c);

/* Where a page of the guest's is, by EPT; outside the guest EPT is not the processor's to walk. */
bool ghost_host_of(struct ghost_cpu *c, gpa_t gpa, hpa_t *host);

/* --- ghost_spec.c, without the lock --- */
/* Entries are about to be stored to: who may hold them without having used them? */
void ghost_speculate(struct ghost_cpu *c, hpa_t host, unsigned size);

/* --- ghost_list.c, all with the lock --- */
bool writer_is(const struct writer *a, uint64_t cr3, uint64_t fs);
/* Where records of a thread's stores begin that are open; settled ones of a hold. */
uint32_t *record_open_chain(struct ghost *g, uint64_t cr3, uint64_t fs);
uint32_t *record_settled_chain(const struct hold *h);
/* Out of its chain, and out of the number that has it. */
void record_unlink(struct ghost *g, uint32_t n);
void record_free(struct ghost *g, uint32_t n);

/* --- ghost_recall.c, all with the lock, with USERKVM_GHOST_DEAF --- */
/* An invalidation of this scope is hidden from the checker. */
void ghost_hidden(struct ghost_cpu *c, const struct tlb_scope *s);
/* The processor is in user mode. */
void ghost_in_reach(struct ghost_cpu *c);
/* It ends: was an invalidation of it hidden, was it in reach, and has it been told? */
void record_count_hidden(struct ghost *g, const struct record *r);

/* --- ghost_record.c, all with the lock --- */
void record_new(struct ghost_cpu *c, const struct batch_item *b, const struct pending *p, enum lost lost);
void record_settle(struct ghost *g, struct record *r, enum settled how);
/* Settled: tells it if it is reachable, once. */
void record_try_reachable(struct ghost_cpu *by, struct record *r);
void records_returned(struct ghost_cpu *c);
/* =strict: size and more has changed at once; told once. */
void record_say_size(struct ghost_cpu *c, struct record *r, const struct batch_item *b);
void records_reachable(struct ghost_cpu *c);
void records_quiet(struct ghost_cpu *c); /* =strict */

/* --- ghost_watch.c, all with the lock --- */
#define RECYCLED_LINES 48 /* of a frame's 64 */
/* The frame has no write tags from now on, so that stores to it are seen. */
void watch_add(struct ghost *g, uint32_t hold);
uint32_t watch_find(struct ghost *g, hpa_t host); /* 0: none */
void watch_stored(struct ghost_cpu *c, hpa_t host, unsigned size, gva_t gva);
void watch_is_table(struct ghost_cpu *c, hpa_t host);

/* --- ghost_use.c, all with the lock --- */
/* The access is made by gva; now: how the tables allow it, NULL: they do not. */
void records_used(struct ghost_cpu *c, gva_t gva, uint32_t access, enum cpu_priv priv,
		  const struct cpu_walk_result *now);
void tables_stored(struct ghost_cpu *c, struct table *t, gva_t gva, hpa_t host, unsigned size);

/* --- ghost_drop.c, with the lock --- */
/* Ask a processor to drop this; the own one too. */
void ghost_ask_drop(struct ghost_cpu *c, bool frame, uint64_t address);
void ghost_ask_all(struct ghost *g, bool frame, uint64_t address);

/* --- ghost_report.c, with the lock --- */
void ghost_report(struct ghost_cpu *by, enum ghost_class class, const struct record *r, const struct hold *h,
		  gva_t gva, uint32_t access, const struct cpu_walk_result *now);
void ghost_report_root(struct ghost_cpu *by, struct ghost_cpu *v);
void ghost_report_open(struct ghost *g);
void ghost_report_end(struct ghost *g);

#endif
