/*
 * A unit while it is being made: jit_form.c chooses its blocks, jit_unit.c emits them.
 *
 * Context: the vCPU's thread, in jit_translate().
 */
#ifndef USERKVM_CPU_JIT_FORM_H
#define USERKVM_CPU_JIT_FORM_H

#include "cpu/jit.h"

#define MAX_PATCHES (2 * JIT_MAX_BLOCKS)

struct jit_part {
	struct cpu_block *block;
	struct jit_insn *insn;
	unsigned nr;
	uint16_t first;
	int32_t off;	    /* of its first byte in the page */
	int32_t succ[2];    /* page offsets it may go on at; -1: elsewhere */
	enum jit_end_kind end;
	uint8_t live_in, live_out;
	bool head;	    /* a jump from behind leads here */
	bool in_loop;	    /* between such a jump and where it leads */
	uint32_t label;	    /* host offset */
	uint32_t label_cc;  /* head: where flags are in cs->cc already */
};

struct jit_forming {
	struct vmx_cpu *cpu;
	struct cpu_jit *j;
	struct code_page *page;
	struct jit_unit *u;
	struct jit_part part[JIT_MAX_BLOCKS];
	unsigned nr_parts, nr_insns;
	struct { uint32_t at; int to; bool cc; } patch[MAX_PATCHES]; /* forward jumps within the unit; cc: to label_cc */
	unsigned nr_patches;
	uint32_t first_cell;
	unsigned cls;
	bool code32;
};

/* The part that begins at a page offset; -1: none. */
int jit_part_at(const struct jit_forming *f, int32_t off);
/* The unit that begins with block b: f->part[], with how each goes on. */
void jit_form(struct jit_forming *f, struct cpu_block *b);
/*
 * The way in and out of a unit costs as much as the interpreter takes for some instructions: code
 * between two system instructions is often shorter.
 */
bool jit_worth_it(const struct jit_forming *f);
/* Is it one of those that cpu_apic_quick() is asked for? */
bool jit_is_quick(const struct jit_insn *x);
/* JIT_NEEDS_*, of all its instructions. */
uint8_t jit_needs(const struct jit_forming *f);
/* Which flags are wanted at the beginning and the end of each part. */
void jit_find_live(struct jit_forming *f);

#endif
