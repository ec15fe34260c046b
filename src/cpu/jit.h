/*
 * The second engine: guest code of 64-bit mode, and flat 32-bit code, as host code (docs/translator.md).
 *
 *   cpu_jit_run_blocks() ── block has a unit ──► jit_enter ─► unit ─► unit ─► … ─┐
 *        ▲   │ it has none: interpreted; at the threshold translated             │
 *        └───┴──────────── exit number: cell, indirect, left ◄──────────────────┘
 *
 * A unit is the translation of one or more blocks of one page (jit_unit.c). It
 * leaves through cells, pointers in data that lead to another unit or to the
 * cell's stub, never through patched code. What lets a cell lead on is
 * forgotten by putting its stub back (jit_class.c).
 *
 * Invariants
 * 1. Emitted code runs guest code at the linear page cs->page_lin. Every way
 *    into a page passes the dispatcher, a cell bound to the class or a unit's
 *    `expect`; cells within a page lead to units of the same page and class that
 *    need no more of the mode than their source.
 * 2. Cells that cross pages, and `expect`s, are valid for the class's owner:
 *    address space, its generations, epoch and mode word. The dispatcher compares
 *    the owner before it enters a unit. Where it is another one, no page stays
 *    active but those whose translation is known to be what it was (jit_class.c).
 * 3. They are valid for one linear page a code page and class (code_page.lin);
 *    they are listed under the linear page they lead to, so that it alone can
 *    be put aside, and they lead to it while it is active.
 * 4. Killing a block kills all units of its page. Memory of units is reused
 *    only when all are dropped, which happens in the dispatcher.
 * 5. A page's blocks are compared with memory in each epoch before a unit of it
 *    is entered from the dispatcher or a cell is bound to it.
 * 6. Every cycle of control flow passes a look at cs->exit_request: backward
 *    cells lead to the polled entry, indirect entries contain it.
 * 7. A unit whose needs have X87, SSE or AVX runs with the FPU loaded.
 *
 * Locks: none; all of it belongs to the processor's thread.
 */
#ifndef USERKVM_CPU_JIT_H
#define USERKVM_CPU_JIT_H

#include "cpu/internal.h"
#include "cpu/path.h"
#include "emit/exec.h"
#include "jit/rewrite.h"

#define JIT_CODE_BYTES (64u << 20)
#define JIT_BULK_BYTES (128u << 20)
#define JIT_MAX_UNITS 131072u
#define JIT_MAX_CELLS (4u * JIT_MAX_UNITS)
#define JIT_MAX_CALLS (8u * JIT_MAX_UNITS)
#define JIT_IND_ENTRIES 65536u
#define JIT_LIN_ENTRIES 4096u
#define JIT_KILL_BUCKETS 4096u
#define JIT_PAGE_KILLS 8 /* a page whose units died so often is interpreted */
#define JIT_CROSSINGS 16 /* of a block, until its stack accesses are probed one by one */
#define JIT_MAX_SLOTS 65536u
#define JIT_UNIT_SLOTS 48u
#define JIT_WINDOW_LOADS 64 /* of a block, until its loads look into the APIC's window first */
#define JIT_MAX_BLOCKS 16 /* of a unit */
#define JIT_POOR 64
#define JIT_FEW_INSNS 6 /* that the interpreter runs as fast as a unit is entered and left */
#define JIT_NEVER 0xffffu /* cpu_block.heat: not to be translated */

/* Needs for which the guest's FPU state has to be in the registers (invariant 7). */
#define JIT_NEEDS_FPU (JIT_NEEDS_X87 | JIT_NEEDS_SSE | JIT_NEEDS_AVX | JIT_NEEDS_AVX512)

/* No address of code: not canonical. */
#define JIT_NO_RIP TLB_NO_ACCESS

/* What jit_enter returns; from JIT_EXIT_CELL on the number of a cell. */
enum { JIT_EXIT_LEFT, JIT_EXIT_INDIRECT, JIT_EXIT_CELL };

/* An instruction of a unit. */
struct jit_place {
	const struct isa_insn *isa;
	struct cpu_block *block;
	uint16_t block_off; /* of its block's first byte in the page */
	bool left;	    /* the dispatcher runs it: the unit ends before it */
	bool quick;	    /* cpu_apic_quick() may be all there is to it */
	uint8_t live, live_out; /* under `check`: flags live before it, and behind its block */
};

struct jit_unit {
	const uint8_t *code, *polled, *indirect; /* entries, where they run */
	uint64_t expect;	  /* RIP that the indirect entry accepts, or JIT_NO_RIP */
	struct jit_unit *next_expect; /* of jit_lin */
	struct jit_unit *page_next;
	struct code_page *page;
	const struct jit_place *places;
	const struct jit_recover *recover;
	uint32_t nr_recover;
	uint32_t start, end; /* offsets in the code memory */
	uint16_t nr_places;
	uint16_t page_off;   /* of its entry */
	uint8_t needs, cls;
	uint8_t poor;	     /* how often it was entered for little: jit_run.c; JIT_POOR: no more */
	bool listed;	     /* of jit_lin.units */
	bool dead;
};

struct jit_cell {
	const uint8_t *target; /* emitted code jumps here: a unit's entry, or `stub` */
	const uint8_t *stub;
	struct jit_unit *from;
	const uint8_t *entry;  /* of the unit that it is bound to, also while its page is put aside */
	struct jit_cell *next; /* of jit_lin, while it is bound */
	int32_t pages;	       /* target page minus source page */
	uint16_t off;	       /* of the target in its page */
	bool backward;	       /* leads to polled entries */
	bool leaves;	       /* to an instruction that the interpreter runs: never resolved */
};

/* A call of a stub. */
struct jit_call {
	struct jit_unit *unit;
	uint16_t first, nr;
	uint8_t kind; /* enum jit_stub_kind */
	bool rbp;	   /* of a stack group, as in struct jit_stub_call */
	bool together;	   /* the same */
	uint16_t extent;
	int32_t lo;
	uint32_t rsp_undo; /* of an indirect branch that is run again */
};

/* What leads to one linear page: it does while the page is `active`. */
struct jit_lin {
	gva_t page;
	hpa_t host;		/* of the page that cells and units are of */
	struct jit_cell *cells;
	struct jit_unit *units; /* whose `expect` is set while it is active */
	bool used, active;
	bool listed[2];		/* in the class's lists: by global */
	struct cpu_path path;	/* by which it is translated, if it is active and not global; or none */
};

struct jit_class {
	/* owner */
	const struct tlb_context *ctx;
	uint32_t code_gen, cr3_gen, path_gen;
	uint64_t epoch;
	uint8_t mode;

	uint32_t gen;	  /* counts resets: code_page.lin_gen */
	uint32_t nr_active[2]; /* of active[] */
	uint16_t active[2][JIT_LIN_ENTRIES]; /* pages that may be, by whether their translation is global */
	bool has_ind;	  /* ind[] is filled: before a unit that looks into it runs */
	bool simd;	  /* a cell was bound to a unit that needs the FPU */
	uint32_t nr_lin;
	struct jit_lin lin[JIT_LIN_ENTRIES]; /* by hash of the page */
	uint16_t filled[JIT_LIN_ENTRIES];
	gva_t filled_page[JIT_LIN_ENTRIES]; /* theirs, by the same index */
	const uint8_t **ind; /* by the low 16 bits of RIP */
};

/* Two worlds (VPID, EPTP), each with supervisor and user code. */
struct jit_world {
	uint64_t eptp;
	uint16_t vpid;
	uint64_t last_use;
};

struct cpu_jit {
	struct vmx_cpu *cpu;
	struct exec_memory mem;
	struct emitter e;	 /* over all of mem */
	uint32_t stubs_end;	 /* units begin here */
	/* emitted code calls through these */
	void *miss, *call, *slot, *c_stub, *refill[2], *c_refill, *fill, *c_fill;
	uint64_t refill_sp; /* while c_refill or c_fill runs: where its stub's return address is; else 0 */
	const uint8_t *refill_failed; /* the stub goes on here, if memory has vanished */
	uint32_t (*enter)(struct cpu_state *cs, const uint8_t *code);
	const uint8_t *ind_miss;
	uint32_t leave_at, ind_miss_at; /* offsets of stubs */

	uint32_t threshold;
	uint32_t least_before_leave; /* instructions of a unit that ends where the interpreter takes over */
	uint32_t room; /* bytes of code memory that have to be free before a unit is made */
	uint32_t bisect_first, bisect_last;
	bool check, dump, perf;
	bool count;		/* counters.retired is kept: jit_count.c */
	uint16_t not_run;	/* of it: instructions that are counted and have not run; 0 in emitted code */
	const struct cpu_block *counted; /* the block that is being interpreted, and is not counted yet */
	bool interpret;		/* the block at cs->rip, once */
	/*
	 * jit_check.c: blocks that emitted code may still begin; the RIP at which a stub has left within a block,
	 * or JIT_NO_RIP; the flags that are live there
	 */
	uint32_t check_blocks;
	uint64_t check_stop;
	uint8_t check_live;
	uint32_t drops;		/* counts jit_drop_all() */
	uint32_t made;		/* units, ever */
	int perf_fd;

	struct jit_class cls[4];
	struct jit_world world[2];
	uint64_t clock;
	uint32_t cur_world;
	uint8_t kills[JIT_KILL_BUCKETS];
	/* jit_slot.c: the block of which a check of several accesses failed last, how often, since when */
	struct { const struct cpu_block *block; uint64_t since; uint32_t n; } apart;
	uint32_t nr_slots, nr_tagged;
	uint32_t nr_interpreted;

	uint32_t nr_units, nr_cells, nr_calls, nr_branches, bulk_used;
	struct jit_rewriter rw;
	struct jit_insn insn[JIT_UNIT_INSNS];
	struct jit_insn ahead[64];
	struct jit_unit units[JIT_MAX_UNITS];
	struct jit_cell cells[JIT_MAX_CELLS];
	struct jit_call calls[JIT_MAX_CALLS];
	struct jit_call branches[JIT_MAX_UNITS]; /* indirect ones, by cs->spill[3] */
	uint8_t bulk[JIT_BULK_BYTES] __attribute__((aligned(64)));
	const uint8_t *ind[4][JIT_IND_ENTRIES];
	struct jit_slot slots[JIT_MAX_SLOTS];
};

/* --- jit_code.c --- */
/*
 * A processor's memory with its code memory beside it. NULL where the engine is not
 * wanted or the host refuses: the caller allocates by itself, and the processor interprets.
 */
struct vmx_cpu *cpu_jit_reserve(void);
/* The rest, when *cpu is filled in; false: it interprets. */
bool cpu_jit_create(struct vmx_cpu *cpu);
/* Frees *cpu too, if it came from cpu_jit_reserve() (true). */
bool cpu_jit_destroy(struct vmx_cpu *cpu);
/* jit_drop.c: all units go. In the dispatcher only. */
void jit_drop_all(struct cpu_jit *j);
/* Before a unit of the class that has an indirect branch, or a target of one, is made. */
void jit_need_ind(struct cpu_jit *j, unsigned cls);
/* Room for `bytes` that lives as long as the units, or NULL. */
void *jit_bulk(struct cpu_jit *j, size_t bytes);

/* --- jit_unit.c --- */
/* Translate the unit that begins with b; NULL: refused (b->heat says whether for good). */
struct jit_unit *jit_translate(struct vmx_cpu *cpu, struct cpu_block *b, struct code_page *p,
			       unsigned cls, uint8_t mode);

/* --- jit_class.c --- */
/* The world (VPID, EPTP) that runs: classes 2 * world (supervisor) and 2 * world + 1 are its. */
unsigned jit_world_now(struct vmx_cpu *cpu);
/* Take ownership; where the owner was another, what leads to pages is forgotten, or put aside, or looked at again. */
void jit_own(struct vmx_cpu *cpu, unsigned cls, uint8_t mode);
/* The dispatcher has come to this linear page of the class, and the code page is there: what led to it does again. */
void jit_resume(struct cpu_jit *j, unsigned cls, const struct code_page *p, gva_t lin);
void jit_class_reset(struct cpu_jit *j, struct jit_class *c);
/* Is the code page known at this linear page only? false: it was not, the class has been reset. */
bool jit_claim(struct cpu_jit *j, unsigned cls, struct code_page *p, gva_t lin);
/* Let the cell, through which the dispatcher was reached, lead to u at cs->rip. */
void jit_bind(struct vmx_cpu *cpu, struct jit_cell *cell, struct jit_unit *u);
/* Let indirect branches to cs->rip find u. */
void jit_bind_indirect(struct vmx_cpu *cpu, struct jit_unit *u);
/* What leads to the linear page, in every class, does not until the dispatcher has been there. */
void jit_forget_lin(struct cpu_jit *j, gva_t gva);
/* The same of every page in the 1 << shift bytes around it. */
void jit_forget_around(struct cpu_jit *j, gva_t gva, unsigned shift);
/* A block of the page dies, or is to be translated in another way: all units of the page die. */
void jit_kill_page(struct vmx_cpu *cpu, struct code_page *p);

/* --- jit_page.c --- */
/* Invariant 5; false: not settled, or a block has changed and the page's units are dead. */
bool jit_page_fresh(struct vmx_cpu *cpu, struct code_page *p);
/* A block was decoded and is in p->lines. */
void jit_page_grew(struct code_page *p, const struct cpu_block *b);

/* --- jit_stub.c --- */
/* C's half of the stubs. 0: go on in the unit; 1: left, cs->rip is the next instruction. */
uint32_t jit_stub(struct cpu_state *cs, uint32_t number);
/* Of a probe that has missed: as cpu_tlb_refill(). */
uint32_t jit_refill(struct cpu_state *cs, gva_t page, const struct isa_tlb_entry *slot, uint32_t access);
/* Fill cs->sp_tag from a write tag of the stack's page, if there is one. */
void jit_fill_stack_slot(struct cpu_state *cs);

/* --- jit_slot.c --- */
/* Of a slot whose check has failed for this address: as jit_refill(). */
uint32_t jit_slot_fill(struct cpu_state *cs, gva_t lin, struct jit_slot *s);
/* The slots of a unit that has been made: the first is j->slots[j->nr_slots]. */
void jit_slots_keep(struct cpu_jit *j, const struct jit_unit *u, uint32_t nr);
/* A check of several accesses of the block has failed. Where they are often in two pages each is to have its own. */
void jit_note_apart(struct vmx_cpu *cpu, struct cpu_block *b);

/* How often units of the page (or of one that shares the count) were killed by writes. */
static inline uint8_t *jit_kills_of(struct cpu_jit *j, hpa_t page)
{
	return &j->kills[(page >> PAGE_SHIFT) & (JIT_KILL_BUCKETS - 1)];
}

/* --- jit_count.c --- */
/* Emit, where a block begins (JIT_S1 is free, flags stay): nr more. */
void jit_count_emit(struct jit_rewriter *r, struct vmx_cpu *cpu, unsigned nr);
/* From the place on to the end of its block, but for what is left to the dispatcher. */
uint16_t jit_count_rest(const struct jit_unit *u, const struct jit_place *n);
/* Emitted code is left within a block. */
void jit_count_settle(struct vmx_cpu *cpu);
/* The interpreter, or a handler that emitted code called, has unwound. */
void jit_count_unwound(struct vmx_cpu *cpu);

/* --- jit_run.c --- */
uint8_t jit_mode(const struct vmx_cpu *cpu);

/* --- jit_check.c --- */
/* Enter a unit in lock-step with the interpreter. */
uint32_t jit_check_enter(struct vmx_cpu *cpu, struct jit_unit *u, struct cpu_block *b);
/* A block begins, whose first place is n: is it to run (else emitted code leaves)? */
bool jit_check_look(struct cpu_jit *j, const struct jit_place *n);
/* A stub leaves before the instruction n, or behind it. */
void jit_check_left(struct cpu_jit *j, const struct jit_unit *u, const struct jit_place *n, bool behind);
void jit_dump_unit(struct cpu_jit *j, const struct jit_unit *u);

#endif
