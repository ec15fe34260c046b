/*
 * The rewriter: guest instructions become host instructions of the same kind.
 *
 * Input are decoded blocks (isa_insn and the guest's bytes), output is code
 * that keeps the guest's registers in the host's. It knows instructions, not
 * paging, VMX or blocks' lives: whoever embeds it (src/cpu) forms units, owns
 * stubs, cells and the way in and out. 64-bit mode, and 32-bit code with flat
 * segments (code32.c), whose registers have the same places.
 *
 * State where emitted code begins, ends, and between blocks
 *   guest rax rcx rdx rbx rsi rdi r8 r12-r15   the same host registers
 *   guest rsp                                  host r10
 *   guest rbp                                  host r9
 *   guest r9 r10 r11                           cs->gpr[], in memory
 *   arithmetic flags                           host RFLAGS; host DF is 0
 *   host rsp                                   16-byte aligned
 *   host rbp (JIT_S0), host r11 (JIT_S1)       scratch, dead
 *   x87, MMX, vectors, MXCSR                   the guest's, if cs->fpu_loaded
 *   cs->page_lin                               linear address of the code's page
 *
 * Invariants
 * 1. Before its one instruction that can fault, the code of a guest instruction
 *    changes nothing but JIT_S0, JIT_S1, host RFLAGS where jit_recover says
 *    JIT_FLAGS_CC, and cs->cc and cs->spill where it saves flags; what follows
 *    that instruction cannot fault. So the guest's state at any point is that
 *    before the instruction.
 * 2. Each access to guest memory goes through the address that was compared
 *    with a tag of cs->tlb (or cs->sp_tag), and no other.
 * 3. Nothing is copied that the table of forms (table.c) does not name, and
 *    nothing whose isa_insn raises #UD.
 * 4. Stubs are reached by `call`, with JIT_S1 = number of a struct jit_stub_call, and
 *    either unwind, leave to the dispatcher (after dropping the return
 *    address), or return with all registers and RFLAGS as the guest now has
 *    them (RFLAGS from cs->cc) and JIT_S0, JIT_S1 undefined.
 *
 * Context: the translating thread, FPU state unloaded or not: calls no libc.
 */
#ifndef USERKVM_JIT_REWRITE_H
#define USERKVM_JIT_REWRITE_H

#include "emit/emit.h"
#include "isa/insn.h"

#define JIT_S0 HOST_RBP
#define JIT_S1 HOST_R11

/* Host register of a guest register; HOST_NONE: in cs->gpr[]. */
extern const uint8_t jit_host_reg[NR_GPRS];

/* Arithmetic flags as sets. */
#define JIT_CF 0x01u
#define JIT_PF 0x02u
#define JIT_AF 0x04u
#define JIT_ZF 0x08u
#define JIT_SF 0x10u
#define JIT_OF 0x20u
#define JIT_FLAGS_ALL 0x3fu

/* What must be so for a unit with the instruction to run: bits of the mode word. */
#define JIT_NEEDS_CODE64 0x01u
#define JIT_NEEDS_X87 0x02u  /* x87, MMX: no #NM, no #UD by CR0.EM */
#define JIT_NEEDS_SSE 0x04u
#define JIT_NEEDS_AVX 0x08u
#define JIT_NEEDS_UNWATCHED 0x10u /* always: no observer, no code breakpoints */
#define JIT_NEEDS_AVX512 0x40u
#define JIT_NEEDS_FLAT32 0x80u /* 32-bit code and stack; CS, SS and DS without base and limit */
#define JIT_NEEDS_NO_BUS_LOCK 0x20u /* LOCK on memory: bus-lock detection is off */

enum jit_kind {
	JIT_CALL, /* its handler runs, by the call stub; the block goes on */
	JIT_EMIT, /* rewritten */
	JIT_LEAVE, /* ends the emitted block before it: the dispatcher runs it */
};

/* How a block goes on after its body. */
enum jit_end_kind {
	JIT_END_NEXT,	  /* at the next instruction (page offset `next`; may be 4096) */
	JIT_END_JUMP,	  /* JMP, CALL: at `target` */
	JIT_END_COND,	  /* at `target` if jit_emit_cond() jumps, else at `next` */
	JIT_END_INDIRECT, /* at the address in JIT_S0 (RET, JMP and CALL by register or memory) */
	JIT_END_LEAVE,	  /* the dispatcher runs insn[`insn`] (kind JIT_LEAVE) */
};

struct jit_insn {
	const struct isa_insn *isa; /* set by the caller */
	const uint8_t *bytes;	    /* set by the caller: isa->len of them */
	uint16_t page_off;	    /* set by the caller: offset in its page, 0..4095 */
	bool code32;		    /* set by the caller: of 32-bit code, else of 64-bit mode */
	/* filled by jit_classify(); the caller may turn kind into JIT_CALL or JIT_LEAVE */
	uint8_t kind;		    /* enum jit_kind */
	uint8_t needs;
	uint8_t flags_read;	    /* may depend on their values before */
	uint8_t flags_killed;	    /* written whatever they were */
	uint8_t flags_written;	    /* possibly changed (a superset of killed) */
	uint8_t end;		    /* enum jit_end_kind, if it ends the block */
	uint8_t access;		    /* enum isa_access of its memory operand; 0: touches no memory */
	uint8_t size;		    /* bytes of that access */
	uint16_t form;		    /* the rewriter's own */
};

/*
 * Look one instruction up. Whatever the table does not name becomes JIT_CALL,
 * or JIT_LEAVE where its handler ends the block. A page-crossing instruction must
 * not come here.
 */
void jit_classify(struct jit_insn *i);

/* Flags live before insn[0], given those live after insn[nr - 1]. */
uint8_t jit_flags_live(const struct jit_insn *insn, unsigned nr, uint8_t live_after);

/* --- emitting --- */

/* Why emitted code calls a stub. */
enum jit_stub_kind {
	/*
	 * Run the handlers of `nr` instructions from `first` on, cs->cur and
	 * cs->block_rip set for each; then return, or leave at the instruction
	 * after them if the world has changed: unit dead, code_gen, cs->tlb,
	 * fpu_loaded, cs->sp_tag; request pending.
	 */
	JIT_STUB_RUN,
	/*
	 * The same up to the end of the block and never return: cs->rip is what the last
	 * handler set (ISA_ENDS_BLOCK), or the next instruction's.
	 */
	JIT_STUB_REST,
	/*
	 * A stack group missed cs->sp_tag. The slot may be filled from a write tag of cs->tlb (never by
	 * translating) with the page of the group's lowest byte. Where all of the group lies in it the
	 * stub returns, and the check is made again; else as JIT_STUB_REST.
	 */
	JIT_STUB_GROUP,
	/* Leave before `first`: exit_request is set. */
	JIT_STUB_POLL,
	/* A block begins with `first`: return, or leave before it (lock-step). */
	JIT_STUB_LOOK,
};

struct jit_stub_call {
	uint16_t first; /* instruction, in the numbering of jit_block.first */
	uint16_t nr;
	uint8_t kind;	/* enum jit_stub_kind */
	bool rbp;	/* JIT_STUB_GROUP: relative to RBP, else to RSP: */
	bool together;	/* a check of several accesses (group.c) has failed */
	uint16_t extent; /* bytes, */
	int32_t lo;	/* the lowest of them */
};

/*
 * A page that the accesses of one group in a loop may be made in: a translation of its own, as cs->sp_tag, and
 * dropped with it. Emitted code reads tag and addend; it is filled by jit_rewriter.fill.
 */
struct jit_slot {
	uint64_t tag, addend;
	uint16_t room;	 /* 4096 less the group's extent: its lowest byte may be so far behind the page's first */
	uint16_t insn;	 /* number of the group's first instruction, in the numbering of jit_block.first */
	bool write;	 /* a write tag is needed */
	/* the embedding's */
	bool listed;
	uint8_t fills;
	uint64_t since;	 /* when they began */
	struct jit_slot *next; /* of those that may have a tag */
	void *block;
};

/*
 * Where the flags are, by host offset: the entry with the largest `offset` not
 * above a faulting one tells about it. In order of offset.
 */
struct jit_recover {
	uint32_t offset; /* in the emitter */
	uint16_t insn;	 /* in the numbering of jit_block.first */
	uint16_t flags_in_cc; /* 1: in cs->cc (or dead); 0: in RFLAGS */
};

#define JIT_UNIT_INSNS 256  /* instructions of a unit, at most */
#define JIT_UNIT_CALLS 512
#define JIT_UNIT_RECOVER 1024

/* One unit being emitted. Large (≈ 20 KiB): not on the stack. */
struct jit_rewriter {
	/* set by the caller */
	struct emitter e;
	struct cpu_state *cs;	  /* state operands are RIP-relative to it: must be in reach */
	uint64_t miss, call;	  /* addresses of pointers to the stubs. miss leaves cs->cc alone;
				     call first stores RFLAGS to cs->cc */
	/*
	 * Address of a pointer to code that fills cs->sp_tag as JIT_STUB_GROUP says, if the address in JIT_S1 lies
	 * in its page at or below the offset in JIT_S0 (CF: it does not, or there is no write tag). 0: C does it.
	 */
	uint64_t slot;
	/*
	 * Addresses of pointers to code that makes an entry of cs->tlb allow reading [0], or writing [1]: the entry is
	 * at JIT_S1, JIT_S0 is the page that the probe missed. CF: it does not, and the stub is to be called; else all
	 * registers are as before. 0: there is none.
	 */
	uint64_t refill[2];
	/*
	 * Address of a pointer to code that fills the slot at JIT_S0 for the linear address in JIT_S1, where a TLB entry
	 * allows it or can be made to without effect (CF: it does not, and the stub is to be called; other registers are
	 * as before). 0: no slots.
	 */
	uint64_t fill;
	struct jit_slot *slots; /* max_slots of them; nr_slots (a result) are used */
	uint32_t nr_slots, max_slots;
	uint32_t first_call;	  /* number of call[0] as the stubs get it in JIT_S1 */
	/* results */
	struct jit_stub_call calls[JIT_UNIT_CALLS];
	uint32_t nr_calls;
	struct jit_recover recover[JIT_UNIT_RECOVER];
	uint32_t nr_recover;
	/* the rewriter's own */
	struct jit_cold {
		uint32_t at;	 /* rel32 of the jump here */
		uint32_t resume; /* host offset; ~0: none */
		uint16_t call;
		uint8_t refill; /* 1 + its index; 0: none */
		uint8_t held[2]; /* as jit_ctx.held: JIT_S0 and JIT_S1 where it resumes; 0: nothing */
		uint8_t group;	 /* it resumes behind the last member of this one; 0: none */
		uint32_t again;	 /* slot: the check's host offset */
		struct jit_slot *slot;
		struct host_mem low; /* slot: the address it is wanted for */
	} cold[JIT_UNIT_CALLS];
	uint32_t nr_cold;
	bool failed; /* a table is full */
};

/* Sets results and own fields to their start; call when the caller's fields are set. */
void jit_rewriter_init(struct jit_rewriter *r);

struct jit_block {
	struct jit_insn *insn;	/* classified */
	unsigned nr;		/* >= 1; only the last may end the block */
	uint16_t first;		/* number of insn[0] in the unit */
	uint8_t live_out;	/* flags live where the block goes on (not counting its own last jump) */
	bool flags_in_cc;	/* behind jit_emit_poll() with live flags */
	bool no_group;		/* probe each stack access for itself (frame across a page) */
	bool apart;		/* no groups of several accesses: they lie in two pages too often */
	uint32_t slots;		/* bits, by instruction: its group is to have a slot */
	bool reads_window;	/* its loads of 32 bits look into cs->vapic first */
};

struct jit_end {
	uint8_t kind;	  /* enum jit_end_kind */
	uint8_t cond;	  /* JIT_END_COND, for jit_emit_cond() */
	bool narrow;	  /* of JRCXZ, LOOP: counts ECX */
	bool carry_in_cc; /* JIT_END_COND: the carry is in cs->cc and not in RFLAGS, for jit_emit_carry() */
	bool checked;	  /* JIT_END_INDIRECT of a CALL: the target has been found canonical */
	uint32_t rsp_undo; /* JIT_END_INDIRECT: to take from RSP before the handler can be run
			      again (the target is not canonical); memory is as it was */
	int32_t target;	  /* relative to the page's first byte; outside 0..4095: another page. Addresses
			     of 32-bit code are counted modulo 4 GiB */
	int32_t next;
	uint16_t insn;	  /* JIT_END_LEAVE: number of the instruction (the dispatcher goes on there) */
};

/*
 * The code of a block but for the jump at its end. Returns 0, or -ENOSPC:
 * emitter or a table full; the unit is to be given up. Flags that are live
 * (live_out, and what a conditional end reads) are in RFLAGS at the end (but for jit_end.carry_in_cc), those of
 * JIT_END_INDIRECT in cs->cc.
 */
int jit_emit_block(struct jit_rewriter *r, const struct jit_block *b, struct jit_end *end);

/* The conditional jump of JIT_END_COND (Jcc, LOOPcc, JRCXZ): the offset of its rel32, open. */
uint32_t jit_emit_cond(struct jit_rewriter *r, const struct jit_end *end);

/* The carry from cs->cc to RFLAGS, whose other flags stay as far as they are `live`; changes JIT_S0 and JIT_S1. */
void jit_emit_carry(struct jit_rewriter *r, uint8_t live);

/*
 * if (cs->exit_request) call the miss stub (JIT_STUB_POLL before `insn`); changes JIT_S0. live: flags live here,
 * which are in cs->cc behind it and no more in RFLAGS. Returns the host offset of where that is so already.
 */
uint32_t jit_emit_poll(struct jit_rewriter *r, uint16_t insn, uint8_t live);

/* Call the miss stub (JIT_STUB_LOOK before `insn`). live: flags live here; they are in RFLAGS behind it. */
void jit_emit_look(struct jit_rewriter *r, uint16_t insn, uint8_t live);

/* RFLAGS to cs->cc and back; both change no register but `scratch` (JIT_S0, JIT_S1) and (save) no flag. */
void jit_emit_save_flags(struct jit_rewriter *r, unsigned scratch);
void jit_emit_load_flags(struct jit_rewriter *r, unsigned scratch);

/* Cold paths, after the last block (and whatever the caller emits). 0 or -ENOSPC. */
int jit_emit_cold(struct jit_rewriter *r);

#endif
