/*
 * Arithmetic flags: what an instruction reads, writes whatever it was, and may
 * change.
 *
 * `killed` holds the flags whose old value cannot matter afterwards. Flags that
 * the manual leaves undefined are in it where silicon is known to write them
 * (tests/unit/jit runs each form with all flags clear and all set and
 * compares); MUL, DIV, BSF and their kin leave some alone on some silicon, so
 * there they are not.
 *
 * Locks: none.
 */
#include "jit/internal.h"

#define CF JIT_CF
#define PF JIT_PF
#define AF JIT_AF
#define ZF JIT_ZF
#define SF JIT_SF
#define OF JIT_OF
#define ALL JIT_FLAGS_ALL

static uint8_t read_by_condition(unsigned cond)
{
	static const uint8_t read[8] = { OF, CF, ZF, CF | ZF, SF, PF, SF | OF, SF | OF | ZF };

	return read[cond >> 1 & 7];
}

/*
 * Is the count surely not 0? It is masked to five bits, to six with a 64-bit operand;
 * 32 is not looked at closer.
 */
static bool shifts(const struct jit_insn *i, const struct jit_bytes *p)
{
	return i->bytes[p->imm] & 31;
}

static void set(struct jit_insn *i, unsigned read, unsigned killed, unsigned written)
{
	i->flags_read = (uint8_t)read;
	i->flags_killed = (uint8_t)killed;
	i->flags_written = (uint8_t)(written | killed);
}

void jit_find_flags(struct jit_insn *i, const struct jit_bytes *p, const struct jit_form *f)
{
	switch ((enum jit_flag_class)f->flags) {
	case FLAGS_NONE: set(i, 0, 0, 0); break;
	case FLAGS_ALL: set(i, 0, ALL, 0); break;
	case FLAGS_CARRY_IN: set(i, CF, ALL, 0); break;
	case FLAGS_INCDEC: set(i, 0, ALL & ~CF, 0); break;
	case FLAGS_SHIFT_ONE: set(i, 0, ALL, 0); break;
	case FLAGS_SHIFT_IMM:
		set(i, 0, shifts(i, p) ? ALL : 0, ALL);
		break;
	case FLAGS_SHIFT_CL: set(i, 0, 0, ALL); break;
	case FLAGS_ROL_ONE: set(i, 0, CF | OF, 0); break;
	case FLAGS_ROL_IMM:
		set(i, 0, shifts(i, p) ? CF : 0, CF | OF);
		break;
	case FLAGS_ROL_CL: set(i, 0, 0, CF | OF); break;
	case FLAGS_RCL: set(i, CF, 0, CF | OF); break;
	case FLAGS_DOUBLE_IMM: set(i, 0, 0, ALL); break;
	case FLAGS_MUL: set(i, 0, CF | OF, ALL); break;
	case FLAGS_DIV: set(i, 0, 0, ALL); break;
	case FLAGS_BT: set(i, 0, CF, CF | PF | AF | SF | OF); break;
	case FLAGS_SCAN: set(i, 0, ZF, ALL); break;
	case FLAGS_ANDN: set(i, 0, CF | ZF | SF | OF, ALL); break;
	case FLAGS_BEXTR: set(i, 0, CF | ZF | OF, ALL); break;
	case FLAGS_ADCX: set(i, CF, CF, 0); break;
	case FLAGS_ADOX: set(i, OF, OF, 0); break;
	case FLAGS_COND: set(i, read_by_condition(p->opcode & 15), 0, 0); break;
	case FLAGS_PUSHF: set(i, ALL, 0, 0); break;
	case FLAGS_SAHF: set(i, 0, ALL & ~OF, 0); break;
	case FLAGS_LAHF: set(i, ALL & ~OF, 0, 0); break;
	case FLAGS_SET_CF: set(i, 0, CF, 0); break;
	case FLAGS_CMC: set(i, CF, CF, 0); break;
	case FLAGS_LOOP: set(i, ZF, 0, 0); break;
	case FLAGS_FCMOV: /* B E BE U in the order of ModRM.reg */
		set(i, (const uint8_t[]){ CF, ZF, CF | ZF, PF }[p->modrm >> 3 & 3], 0, 0);
		break;
	case FLAGS_FCOMI: set(i, 0, CF | PF | ZF, ALL); break;
	}
}

/* A handler, and what follows its exit, may look at all of them. */
uint8_t jit_reads(const struct jit_insn *i)
{
	return i->kind == JIT_EMIT ? i->flags_read : ALL;
}

uint8_t jit_kills(const struct jit_insn *i)
{
	return i->kind == JIT_EMIT ? i->flags_killed : 0;
}

uint8_t jit_flags_live(const struct jit_insn *insn, unsigned nr, uint8_t live)
{
	while (nr--)
		live = (uint8_t)((live & ~jit_kills(&insn[nr])) | jit_reads(&insn[nr]));
	return live;
}
