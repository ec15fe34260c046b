/*
 * Inside the rewriter. Who does what:
 *   parse.c    an instruction's bytes taken apart
 *   code32.c   the same for 32-bit code
 *   forms.c    the table of forms: what may be rewritten, and how
 *   forms_simd.c  the same for x87, MMX, SSE and AVX
 *   flags.c    which arithmetic flags an instruction reads and writes
 *   operand.c  addresses of guest memory, and the probe of the software TLB
 *   copy.c     one instruction with its registers and its operand exchanged
 *   stack.c    groups of stack accesses, and push, pop, call, ret, leave
 *   group.c    groups of other accesses by one address
 *   block.c    a block: flags kept, instruction after instruction, cold paths
 */
#ifndef USERKVM_JIT_INTERNAL_H
#define USERKVM_JIT_INTERNAL_H

#include "isa/isa.h"
#include "jit/rewrite.h"

struct jit_ctx;
struct jit_form;

/* --- parse.c --- */
enum jit_map { JIT_MAP_ONE, JIT_MAP_0F, JIT_MAP_0F38, JIT_MAP_0F3A };

struct jit_bytes {
	uint8_t map;	 /* enum jit_map */
	uint8_t opcode;
	bool vex;
	bool code32; /* of 32-bit code: has neither REX nor p67 */
	bool p66, p67, lock, has_rex, w;
	uint8_t rep;	 /* F2, F3 or 0: the last of them */
	uint8_t pp;	 /* mandatory prefix: 0 none, 1 66, 2 F3, 3 F2 */
	uint8_t seg;	 /* SREG_FS, SREG_GS, else SREG_DS */
	uint8_t vvvv;	 /* VEX: register number */
	bool l;		 /* VEX.L */
	const uint8_t *evex; /* the three bytes behind 62h, or NULL */
	bool has_modrm, mem;
	uint8_t modrm;
	uint8_t reg;	 /* ModRM.reg with REX.R */
	uint8_t rm;	 /* ModRM.rm with REX.B (a register), or the opcode's register */
	uint8_t base, index, shift; /* of a memory operand; HOST_NONE where absent */
	bool rip_relative;
	int32_t disp;
	uint8_t imm;	 /* offset of immediates in the bytes */
	uint8_t nr_imm;	 /* bytes of them */
};

/* Take the bytes of a valid instruction apart. false: an encoding not known here. */
bool jit_parse(struct jit_bytes *p, const struct jit_insn *i);
/* ModRM, SIB and displacement at b[n]; the offset behind them. */
unsigned jit_parse_modrm(struct jit_bytes *p, const uint8_t *b, unsigned n, uint8_t rex);
/* Is the linear address base + (index << shift) + disp of host registers, in 64 bits? */
bool jit_direct(const struct jit_bytes *p);

/* --- code32.c --- */
/* jit_parse() of 32-bit code: as an instruction of 64-bit mode that does the same. */
bool jit_parse32(struct jit_bytes *p, const struct jit_insn *i);
/* May it be copied, in spite of fields that 32-bit code ignores? */
bool jit_form_ok32(const struct jit_insn *i, const struct jit_bytes *p, const struct jit_form *f);

/* --- forms.c --- */

/* How an instruction is emitted. */
enum jit_how {
	HOW_REFUSE, /* zero: what the table does not name */
	HOW_COPY,   /* the same instruction, operands exchanged */
	HOW_X87,    /* HOW_COPY that may have to note its address in cs->x87 */
	HOW_LEA,
	HOW_NOTHING, /* NOP, hints, ENDBR: no access, no effect */
	HOW_PUSH_REG, HOW_PUSH_IMM, HOW_PUSH_RM, HOW_PUSHF, HOW_POP_REG, HOW_LEAVE,
	HOW_CALL, HOW_CALL_RM, HOW_RET, HOW_JMP, HOW_JMP_RM, HOW_JCC, HOW_LOOP,
};

/* Bits of jit_form.ops. */
#define OP_MODRM 0x0001u
#define OP_REG_R 0x0002u /* ModRM.reg is a general register, read */
#define OP_REG_W 0x0004u
#define OP_RM_R 0x0008u	 /* ModRM.rm is a general register or memory, read */
#define OP_RM_W 0x0010u
#define OP_OPC_R 0x0020u /* the opcode's low bits name a general register */
#define OP_OPC_W 0x0040u
#define OP_VVVV_R 0x0080u
#define OP_VVVV_W 0x0100u
#define OP_BYTE 0x0200u	 /* operands are bytes */
#define OP_RM8 0x0400u	 /* rm is a byte, reg of the operand's size */
#define OP_RM16 0x0800u
#define OP_RM32 0x1000u	 /* rm is 32 bits where the operand size is more */
#define OP_SIZE64 0x2000u /* operand size is 64 bits by default, never 32 */
#define OP_NO_MEM 0x4000u /* the memory form is another operation: register form only */
#define OP_AX_W 0x8000u	 /* writes rAX, rDX beside what is named */
#define OP_DX_W 0x10000u
#define OP_MANDATORY 0x20000u /* pp is part of the opcode, emitted as such */
#define OP_VEX 0x40000u
#define OP_VECTOR 0x80000u /* x87, MMX, SSE, AVX: needs a handler that is one silicon stub; size
			      and direction of a memory operand are the decoder's */
#define OP_MEM_ONLY 0x100000u
#define OP_AX_R 0x200000u /* reads rAX, rDX, rCX, (rBX) implicitly */
#define OP_CX_W 0x800000u
#define OP_MEM_SAME 0x400000u /* an rm in memory is the same operation: a register kept in memory
				 may be operated on there */

/* enum jit_flag_class: see flags.c */
enum jit_flag_class {
	FLAGS_NONE, FLAGS_ALL, FLAGS_CARRY_IN, FLAGS_INCDEC, FLAGS_SHIFT_IMM, FLAGS_SHIFT_ONE,
	FLAGS_SHIFT_CL, FLAGS_ROL_IMM, FLAGS_ROL_ONE, FLAGS_ROL_CL, FLAGS_RCL, FLAGS_DOUBLE_IMM,
	FLAGS_MUL, FLAGS_DIV, FLAGS_BT, FLAGS_SCAN, FLAGS_ANDN, FLAGS_BEXTR,
	FLAGS_ADCX, FLAGS_ADOX, FLAGS_COND, FLAGS_PUSHF, FLAGS_SAHF, FLAGS_LAHF, FLAGS_SET_CF, FLAGS_CMC,
	FLAGS_LOOP, FLAGS_FCOMI, FLAGS_FCMOV,
};

struct jit_form {
	uint8_t how;   /* enum jit_how */
	uint8_t flags; /* enum jit_flag_class */
	uint32_t ops;
};

/* The form of an instruction; {HOW_REFUSE} where there is none. */
struct jit_form jit_find_form(const struct jit_bytes *p);
struct jit_form jit_find_simd_form(const struct jit_bytes *p);
/* Does a one-byte or 0F opcode have a ModRM byte? (Of those the table names.) */
bool jit_has_modrm(uint8_t map, uint8_t opcode);
/* Bytes of the memory operand, and of the operands in registers. */
unsigned jit_operand_size(const struct jit_bytes *p, uint32_t ops);
unsigned jit_rm_size(const struct jit_bytes *p, uint32_t ops);

/* --- flags.c --- */
void jit_find_flags(struct jit_insn *i, const struct jit_bytes *p, const struct jit_form *f);

/* --- state of a block being emitted (block.c) --- */

/* Where the guest's arithmetic flags are. */
enum jit_flags_at {
	AT_HOST, /* RFLAGS */
	AT_CC,	 /* cs->cc; RFLAGS are anything */
	AT_NONE, /* dead; RFLAGS are anything, cs->cc an older value */
	AT_SPLIT, /* the carry in cs->cc, the others in RFLAGS: to the end of the block */
};

/* What stack.c has found out about an instruction. */
struct jit_stack {
	bool member;	/* its stack accesses belong to a group */
	bool check;	/* a group's check stands before it */
	bool check_rbp; /* that check is relative to RBP */
	int32_t lo;	/* check: lowest byte relative to RSP (RBP) there */
	int32_t extent; /* check: bytes */
};

#define JIT_BLOCK_INSNS 64

/* Accesses of a block by one address (group.c); base and index are guest registers or HOST_NONE. */
struct jit_group {
	uint8_t base, index, shift;
	uint8_t access;	 /* enum isa_access, of all together */
	uint8_t nr, last; /* how many; the last one's instruction */
	uint8_t first;
	bool alone;	 /* nothing else between them accesses memory, or checks */
	bool checked;
	uint16_t extent; /* bytes, */
	int32_t lo;	 /* and the lowest displacement */
	struct jit_slot *slot; /* NULL: the TLB is probed */
};

/* What JIT_S1 holds: from S1_GROUP + 1 on that by which the accesses of the group of this number, from 1, go. */
enum { S1_ANY, S1_STACK /* cs->sp_addend of the open stack group */, S1_GROUP };

struct jit_ctx {
	struct jit_rewriter *r;
	struct emitter *e;
	const struct jit_block *b;
	unsigned k;	 /* the instruction being emitted */
	bool code32;
	enum jit_flags_at flags;
	uint8_t s1;
	/*
	 * Of the guest's registers in memory, those whose value is also in JIT_S0 and in JIT_S1, where nothing was
	 * emitted since the host offset held_at. 0 (RAX, which is not in memory): none.
	 */
	uint8_t held[2];
	uint32_t held_at;
	unsigned hoisted; /* JIT_S1 holds the addend for this instruction, whose probe has been
			     emitted ahead of it; 0: none */
	uint8_t live[JIT_BLOCK_INSNS + 1]; /* before instruction k */
	struct jit_stack stack[JIT_BLOCK_INSNS];
	uint8_t member[JIT_BLOCK_INSNS]; /* number of its operand's group, from 1; 0: it has none */
	struct jit_group group[JIT_BLOCK_INSNS];
	unsigned nr_groups;
	uint32_t first_cold; /* of the block */
};

/* A 64-bit word of cpu_state as an operand. */
struct host_mem jit_state_operand(const struct jit_rewriter *r, size_t offset);
#define STATE(r, field) jit_state_operand(r, offsetof(struct cpu_state, field))
struct host_mem jit_gpr_operand(const struct jit_rewriter *r, unsigned guest);
/* mov host, guest register and back; 64 bits. */
void jit_load_gpr(struct jit_ctx *c, unsigned host, unsigned guest);
void jit_store_gpr(struct jit_ctx *c, unsigned host, unsigned guest);

/* JIT_S0 or JIT_S1, if it holds this guest register now; else HOST_NONE. */
uint8_t jit_held(const struct jit_ctx *c, unsigned guest);

/* JIT_CALL: its handler through a stub. */
void jit_emit_call(struct jit_ctx *c);
/* Flags that instruction i reads and kills, whatever its kind. */
uint8_t jit_reads(const struct jit_insn *i);
uint8_t jit_kills(const struct jit_insn *i);

/* Before code that destroys RFLAGS: keep them if instruction k (or a later one) wants them. May change `scratch`. */
void jit_flags_give_up(struct jit_ctx *c, unsigned scratch);
/* Will jit_flags_want() use its scratch register? */
bool jit_flags_wanted(const struct jit_ctx *c);
/* Before instruction k's own work, after its probe: in RFLAGS if it needs them there. */
void jit_flags_want(struct jit_ctx *c, unsigned scratch);
/* After it. */
void jit_flags_after(struct jit_ctx *c);
void jit_note_recover(struct jit_ctx *c);
/* A conditional jump (with an open rel32) to a cold path that calls a stub for instructions [first, first + nr) of the block. */
void jit_cold(struct jit_ctx *c, unsigned cond, enum jit_stub_kind kind, unsigned first, unsigned nr);
/* The jump that was emitted last goes to its cold path from a probe, for reading or for writing (jit_rewriter.refill). */
void jit_cold_refill(struct jit_ctx *c, bool write);
/* The same from the check of a group (group.c), by its number. */
void jit_cold_together(struct jit_ctx *c, unsigned cond, unsigned group);
/* That jump is of the check of a slot for what begins at *low; it is made again at the host offset `again`. */
void jit_cold_slot(struct jit_ctx *c, struct jit_slot *slot, const struct host_mem *low, uint32_t again);
/* Instruction k has been emitted: handlers of groups that end with it come back here. */
void jit_groups_resume(struct jit_ctx *c);
/* The same of a stack group's check, which begins at the host offset `again`. */
void jit_cold_group(struct jit_ctx *c, unsigned cond, const struct jit_stack *s, uint32_t again);
/* Execution goes on here after the cold paths opened since `from`. */
void jit_cold_resume(struct jit_ctx *c, uint32_t from);

/* --- operand.c --- */

/*
 * Probe the TLB for an access of instruction k to the memory operand in *p, `size`
 * bytes, `access` as enum isa_access; say how the host reaches it. *spare: the
 * scratch register that is free. no_rex: the operand must be encodable without REX.
 */
void jit_probe(struct jit_ctx *c, const struct jit_bytes *p, unsigned size, unsigned access,
	       bool no_rex, struct host_mem *m, uint8_t *spare);
/* The host operand of a member of a group (group.c), as jit_probe(). */
void jit_member_operand(struct jit_ctx *c, const struct jit_bytes *p, bool no_rex, struct host_mem *m, uint8_t *spare);
/*
 * The part of a probe that a group's check leaves out: if instruction k is LOCKed and the operand, `at` in linear
 * addresses, is not aligned to its size, its handler runs. Changes JIT_S0 and flags where k is LOCKed.
 */
void jit_probe_alignment(struct jit_ctx *c, const struct host_mem *at);
/*
 * MOV of 32 bits from memory, in a block whose loads are often of the window at cs->apic_lin: take it from there.
 * Returns the rel32, open, of the jump over instruction k's other code; 0: it is not such a one.
 */
uint32_t jit_window_load(struct jit_ctx *c, const struct jit_bytes *p);
/*
 * Emit the probe of a later instruction before instruction k, where flags are dead: if
 * flags are live where it would stand, and only instructions between that cannot fault,
 * touch memory, use JIT_S1 or change the address. Sets c->hoisted.
 */
void jit_hoist(struct jit_ctx *c);
/* Can the address be computed? (Displacements past 32 bits cannot.) */
bool jit_address_ok(const struct jit_insn *i, const struct jit_bytes *p);
/* lea-like: JIT_S0 or JIT_S1 = effective address (not linear: no segment base); may destroy flags. */
void jit_effective(struct jit_ctx *c, const struct jit_bytes *p, unsigned scratch);

/* --- group.c --- */
/* Which instructions' operands have a check together; behind jit_plan_stack(). */
void jit_plan_groups(struct jit_ctx *c);

/* --- copy.c --- */

/* Emit instruction k with memory operand *m (NULL: register form); *m uses registers but not `spare`. */
void jit_copy(struct jit_ctx *c, const struct jit_bytes *p, const struct jit_form *f,
	      const struct host_mem *m, uint8_t spare);
void jit_lea(struct jit_ctx *c, const struct jit_bytes *p);
/* cs->x87 after an x87 instruction that is noted there; changes JIT_S0 and JIT_S1 only. */
void jit_note_x87(struct jit_ctx *c, const struct jit_bytes *p);
/* Can it be emitted with the scratch registers there are? */
bool jit_copy_ok(const struct jit_bytes *p, const struct jit_form *f);
/* Must its memory operand be encodable without REX? */
bool jit_no_rex(const struct jit_bytes *p, const struct jit_form *f);

/* --- stack.c --- */
void jit_plan_stack(struct jit_ctx *c);
void jit_group_check(struct jit_ctx *c);
/* The host operand of instruction k's explicit memory operand: member of a group, or probed. */
void jit_operand(struct jit_ctx *c, const struct jit_bytes *p, bool no_rex, struct host_mem *m,
		 uint8_t *spare);
void jit_stack_insn(struct jit_ctx *c, const struct jit_bytes *p, const struct jit_form *f,
		    struct jit_end *end);

/* Constant by which an instruction moves RSP; false: not a constant (or not at all: *delta 0, true). */
bool jit_rsp_delta(const struct jit_bytes *p, const struct jit_form *f, int32_t *delta);
/* Does it write this guest register? */
bool jit_writes(const struct jit_bytes *p, const struct jit_form *f, unsigned guest);

#endif
