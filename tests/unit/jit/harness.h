/*
 * The rewriter against the interpreter, without a VM: the same instructions on
 * the same state, by handlers and by emitted code, must leave the same state.
 *
 * Guest memory is a few pages at linear addresses of their own, each in a host
 * page between inaccessible ones. A software TLB is filled by misses, as the
 * processor does; it can be emptied or kept from filling.
 */
#ifndef TESTS_JIT_HARNESS_H
#define TESTS_JIT_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "emit/exec.h"
#include "isa/fpu.h"
#include "isa/isa.h"
#include "jit/rewrite.h"

#define NR_PAGES 8
#define MAX_INSNS 24
#define NR_SLOTS 16
#define MAX_IMAGE 4096 /* bytes of an XSAVE image */

struct page {
	uint64_t lin;	 /* guest linear address */
	uint8_t *host;
	bool writable;	 /* else a write faults */
	bool untagged;	 /* never gets a TLB tag: each access goes through C */
};

struct world {
	struct cpu_state cs; /* first: cs.owner == this */
	uint64_t miss, call, fill, back, host_sp, resume, call_number, why;
	struct isa_tlb_entry tlb[ISA_TLB_ENTRIES];
	struct page page[NR_PAGES];
	unsigned nr_pages;
	struct jit_slot slots[NR_SLOTS];
	uint8_t saved[NR_PAGES][4096];
	jmp_buf raised;
	unsigned misses, calls; /* stub calls that the emitted code made */
	uint64_t strayed;	/* host address that emitted code must not have accessed */
	bool leave_now;		/* ended by JIT_STUB_REST or JIT_STUB_GROUP */
};

/* A run of instructions as both sides see it. */
struct code {
	uint8_t bytes[MAX_INSNS][16];
	struct isa_insn isa[MAX_INSNS];
	struct jit_insn insn[MAX_INSNS];
	unsigned nr;
	uint64_t rip; /* of the first */
	uint8_t live_out;
	bool flags_in_cc; /* where the block begins */
	bool no_group;
	bool apart;
	uint32_t slots; /* as of jit_block */
	bool code32; /* of 32-bit code, flat but for FS and GS */
};

/* What a run has left. */
struct outcome {
	uint64_t gpr[NR_GPRS], rip;
	uint32_t cc;
	bool raised;
	uint8_t vector;
	uint8_t mem[NR_PAGES][4096];
	uint8_t fpu[MAX_IMAGE]; /* the XSAVE image */
};

extern struct world *world;
extern struct jit_rewriter *rewriter; /* what the last block was emitted with */
void world_create(void);
/* Add a page of guest memory; contents random. */
struct page *world_page(uint64_t lin);
void world_flush(void);
/* The pages as they are now are what each run starts with. */
void world_save(void);

uint64_t random64(void);
extern uint64_t random_seed;

/* Append an instruction; false: it is none, or not for a block of this kind. */
bool code_add(struct code *c, const uint8_t *bytes, unsigned nr);

struct start {
	uint64_t gpr[NR_GPRS];
	uint32_t cc;
	uint64_t fs, gs;
	uint32_t fs_limit; /* of 32-bit code */
	uint8_t fpu[MAX_IMAGE] __attribute__((aligned(64)));
};
void random_fpu(struct start *s);
void run_interpreter(struct code *c, const struct start *s, struct outcome *o);
/* false: the rewriter had no room. */
bool run_emitted(struct code *c, const struct start *s, struct outcome *o);
/* Both must agree; flags outside live_out do not count. Fails the test with a listing. */
void compare(struct code *c, const struct start *s, const struct outcome *a, const struct outcome *b);
void check_code(struct code *c, const struct start *s);
/* Flags of the rewriter (JIT_CF and so on) as bits of cpu_state.cc. */
uint32_t cc_mask(uint8_t flags);

#endif
