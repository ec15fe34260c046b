/*
 * Decoded blocks: what a block is, and what of it the rest of the processor sees.
 * blocks.c's header has the picture and the invariants.
 *
 * Locks: none but machine->lock, as noted; all else belongs to the processor's thread.
 */
#ifndef USERKVM_CPU_BLOCKS_H
#define USERKVM_CPU_BLOCKS_H

#include "isa/isa.h"
#include "lib/types.h"

struct code_page;
struct jit_unit;
struct vmx_cpu;

/* --- blocks.c --- */
struct cpu_block {
	uint64_t key;	    /* host address of the first byte | mode << 56; 0: dead */
	struct isa_insn *end; /* insns[nr] */
	uint64_t epoch;
	struct cpu_block *succ[2];
	struct cpu_block *hash_next, *page_next;
	const uint8_t *bytes; /* as decoded */
	hpa_t host2;	    /* second page of a crossing instruction, or 0 */
	struct code_page *page;	    /* of its first byte */
	struct jit_unit *unit[4]; /* by class: its translation, or NULL */
	uint32_t wtags_gen; /* invariant 6 of blocks.c */
	uint16_t nr_bytes;
	uint8_t nr, turn;
	uint16_t heat;	    /* runs without a unit, until it is translated (jit_run.c) */
	uint8_t in_units;   /* by class, bits: part of some unit of this page */
	uint8_t crosses;    /* times that a stack access of a unit was not within the stack slot's page */
	uint8_t window;	    /* times that a load of a unit was of the APIC's window (isa/cpu_state.h) */
	bool apart;	    /* accesses by one address are often in two pages: checked one by one (jit_slot.c) */
	bool jumps;	    /* the last instruction sets cs->rip */
	bool sys;	    /* one is a system instruction, or writes to the APIC: look around after the last */
	uint32_t scattered; /* bits, by instruction: its accesses change pages too often for a slot (jit_slot.c) */
	struct isa_insn insns[];
};
must_check int cpu_blocks_create(struct vmx_cpu *cpu); /* -ENOMEM */
void cpu_blocks_destroy(struct vmx_cpu *cpu);
/* Host address of its first byte. */
#define BLOCK_MODE_SHIFT 56
static inline hpa_t cpu_block_host(const struct cpu_block *b)
{
	return b->key & GENMASK_ULL(BLOCK_MODE_SHIFT - 1, 0);
}
/* The block at cs->rip, decoded if need be; `prev` (or NULL) ran just before. */
struct cpu_block *cpu_block_at_rip(struct vmx_cpu *cpu, struct cpu_block *prev);
bool cpu_page_is_code(struct vmx_cpu *cpu, hpa_t page);
/* A write is about to happen: drop what was decoded from there. */
void cpu_code_written(struct vmx_cpu *cpu, hpa_t start, unsigned size);
void cpu_blocks_drop(struct vmx_cpu *cpu, hpa_t start, hpa_t end);
void cpu_blocks_work_off(struct vmx_cpu *cpu); /* cpu->stale[] */
/* CPU_REQ_WTAGS: drop every write tag, and say so. */
void cpu_blocks_drop_wtags(struct vmx_cpu *cpu);

/* --- of blocks.c, block_decode.c and code_pages.c only --- */
#define BLOCK_MAX_INSNS 32
#define BLOCK_MAX_BYTES (BLOCK_MAX_INSNS * 15)
/*
 * A compiler's code is some 100,000 blocks, 50 MiB: an arena that is full once a second is emptied as often. It
 * takes memory as it is used.
 */
#define ARENA_BYTES (192ULL << 20)
#define ARENA_BYTES_LEAST (48ULL << 20) /* where the host grants no more addresses */
#define HASH_BUCKETS 131072
#define JUMP_ENTRIES 65536
#define PAGE_BUCKETS 4096
#define BLOCK_ROOM \
	(sizeof(struct cpu_block) + BLOCK_MAX_INSNS * sizeof(struct isa_insn) + BLOCK_MAX_BYTES + 64)

struct code_page {
	struct code_page *next;
	hpa_t page;
	uint64_t lines;		 /* 64-byte lines that blocks were decoded from */
	struct cpu_block *blocks; /* first byte here */
	struct cpu_block *tail;	 /* a crossing instruction that ends here */
	/* the translator's (jit_class.c) */
	struct jit_unit *units;
	uint8_t *copy;		 /* of the lines in `copied` (jit_page.c) */
	uint64_t copied;
	uint64_t jit_epoch;	 /* all blocks were compared with memory in this epoch */
	gva_t lin[4];		 /* by class: the linear page its units are known at, */
	uint32_t lin_gen[4];	 /* where this is the class's gen */
};

struct cpu_blocks {
	uint8_t *arena, *arena_end, *free;
	uint64_t resets;
	struct cpu_block *hash[HASH_BUCKETS];
	struct cpu_block *jump[JUMP_ENTRIES];
	struct code_page *pages[PAGE_BUCKETS];
	uint8_t scratch[sizeof(struct cpu_block) + sizeof(struct isa_insn)]
		__attribute__((aligned(64)));
};

static inline size_t block_hash(uint64_t key)
{
	return (key ^ key >> 17 ^ key >> 34) & (HASH_BUCKETS - 1);
}

static inline struct cpu_block **block_jump_slot(struct cpu_blocks *c, uint64_t key)
{
	return &c->jump[(key ^ key >> 12) & (JUMP_ENTRIES - 1)];
}

/* code_pages.c: the page's record, or NULL; made where there is none. */
struct code_page *code_page_find(struct cpu_blocks *c, hpa_t page);
struct code_page *code_page_make(struct vmx_cpu *cpu, hpa_t page);
/* The page is code now: other processors have to tell of writes. false: no memory. */
bool code_page_register(struct vmx_cpu *cpu, hpa_t page);
/* Invariant 6 of blocks.c: has everybody heard that the block's pages are code? */
bool code_page_settled(struct vmx_cpu *cpu, const struct cpu_block *b);
/* `bytes` of the arena, or NULL; theirs until all blocks are dropped. */
void *cpu_blocks_room(struct vmx_cpu *cpu, size_t bytes);
/* Is the block as memory has it? Enters it in the epoch, if its pages are settled. */
bool block_verify(struct vmx_cpu *cpu, struct cpu_block *b);
/* It is not: it goes. */
void block_drop(struct vmx_cpu *cpu, struct cpu_block *b);
/* Between blocks only: all blocks go, the arena starts again. */
void blocks_reset(struct vmx_cpu *cpu);

/* block_decode.c */
/*
 * The host's address of the page behind lin's, on which an instruction goes on: #GP(0)
 * where it is not canonical, as of a fetch.
 */
uint8_t *block_next_page(struct vmx_cpu *cpu, gva_t lin);
struct cpu_block *block_decode(struct vmx_cpu *cpu, gva_t lin, const uint8_t *host);
/*
 * A single instruction that is not to be cached: near the code segment's
 * limit, or where the books about its pages cannot be kept.
 */
struct cpu_block *block_decode_scratch(struct vmx_cpu *cpu, gva_t lin, const uint8_t *host);

#endif
