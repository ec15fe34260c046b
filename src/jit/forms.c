/*
 * The table of forms: what may be rewritten, keyed by opcode map, opcode,
 * ModRM.reg and mandatory prefix. What it does not name is refused.
 *
 * A row says which fields are general registers and whether they are read or
 * written; whatever else an instruction names (vector registers, immediates)
 * is copied. Rows whose memory operand would be another operation than their
 * register (BT by register: a bit string) have OP_NO_MEM.
 * Source: SDM Vol. 2, "Opcode Map".
 *
 * Locks: none; constant.
 */
#include "isa/host.h"
#include "jit/internal.h"

#define RM_RW (OP_RM_R | OP_RM_W)
#define REG_RW (OP_REG_R | OP_REG_W)
/* Operand forms of the manual: first the destination. */
#define E_G (OP_MODRM | OP_MEM_SAME | RM_RW | OP_REG_R)   /* op r/m, r */
#define G_E (OP_MODRM | OP_MEM_SAME | REG_RW | OP_RM_R)   /* op r, r/m */
#define E_G_READ (OP_MODRM | OP_MEM_SAME | OP_RM_R | OP_REG_R)
#define TO_G (OP_MODRM | OP_MEM_SAME | OP_REG_W | OP_RM_R) /* r := f(r/m) */
#define E_RW (OP_MODRM | OP_MEM_SAME | RM_RW)
#define E_R (OP_MODRM | OP_MEM_SAME | OP_RM_R)
#define E_W (OP_MODRM | OP_MEM_SAME | OP_RM_W)
#define SHIFT (OP_MODRM | RM_RW) /* silicon leaves other undefined flags for memory */
#define DOUBLE (OP_MODRM | RM_RW | OP_REG_R)
#define XCHG (OP_MODRM | REG_RW | RM_RW) /* in memory it would be a LOCKed one */
#define AX_RW (OP_AX_R | OP_AX_W)

#define ROW(h, fl, o) { .how = HOW_##h, .flags = FLAGS_##fl, .ops = (o) }
#define COPY(fl, o) ROW(COPY, fl, o)

/* The six forms of one arithmetic operation. */
#define ALU(base, fl, rm_ops, reg_ops, ax_ops)                                         \
	[base + 0] = COPY(fl, OP_MODRM | OP_MEM_SAME | OP_REG_R | (rm_ops) | OP_BYTE),               \
	[base + 1] = COPY(fl, OP_MODRM | OP_MEM_SAME | OP_REG_R | (rm_ops)),                         \
	[base + 2] = COPY(fl, OP_MODRM | OP_MEM_SAME | OP_RM_R | (reg_ops) | OP_BYTE),               \
	[base + 3] = COPY(fl, OP_MODRM | OP_MEM_SAME | OP_RM_R | (reg_ops)),                         \
	[base + 4] = COPY(fl, (ax_ops) | OP_BYTE), [base + 5] = COPY(fl, ax_ops)

static const struct jit_form one_byte[256] = {
	ALU(0x00, ALL, RM_RW, REG_RW, AX_RW),	   /* ADD */
	ALU(0x08, ALL, RM_RW, REG_RW, AX_RW),	   /* OR */
	ALU(0x10, CARRY_IN, RM_RW, REG_RW, AX_RW), /* ADC */
	ALU(0x18, CARRY_IN, RM_RW, REG_RW, AX_RW), /* SBB */
	ALU(0x20, ALL, RM_RW, REG_RW, AX_RW),	   /* AND */
	ALU(0x28, ALL, RM_RW, REG_RW, AX_RW),	   /* SUB */
	ALU(0x30, ALL, RM_RW, REG_RW, AX_RW),	   /* XOR */
	ALU(0x38, ALL, OP_RM_R, OP_REG_R, OP_AX_R), /* CMP */
	[0x50 ... 0x57] = ROW(PUSH_REG, NONE, OP_OPC_R | OP_SIZE64),
	[0x58 ... 0x5f] = ROW(POP_REG, NONE, OP_OPC_W | OP_SIZE64),
	[0x63] = COPY(NONE, TO_G | OP_RM32), /* MOVSXD */
	[0x68] = ROW(PUSH_IMM, NONE, OP_SIZE64),
	[0x69] = COPY(MUL, TO_G),
	[0x6a] = ROW(PUSH_IMM, NONE, OP_SIZE64),
	[0x6b] = COPY(MUL, TO_G),
	[0x70 ... 0x7f] = ROW(JCC, COND, OP_SIZE64),
	[0x84] = COPY(ALL, E_G_READ | OP_BYTE), [0x85] = COPY(ALL, E_G_READ), /* TEST */
	[0x86] = COPY(NONE, XCHG | OP_BYTE), [0x87] = COPY(NONE, XCHG),
	[0x88] = COPY(NONE, E_W | OP_REG_R | OP_BYTE), [0x89] = COPY(NONE, E_W | OP_REG_R),
	[0x8a] = COPY(NONE, TO_G | OP_BYTE), [0x8b] = COPY(NONE, TO_G), /* MOV */
	[0x8d] = ROW(LEA, NONE, OP_MODRM | OP_REG_W | OP_MEM_ONLY),
	[0x91 ... 0x97] = COPY(NONE, OP_OPC_R | OP_OPC_W | AX_RW), /* XCHG rAX, r */
	[0x98] = COPY(NONE, AX_RW),			  /* CBW CWDE CDQE */
	[0x99] = COPY(NONE, OP_AX_R | OP_DX_W),		  /* CWD CDQ CQO */
	[0x9c] = ROW(PUSHF, PUSHF, OP_SIZE64),
	[0x9e] = COPY(SAHF, OP_AX_R), [0x9f] = COPY(LAHF, AX_RW),
	[0xa8] = COPY(ALL, OP_AX_R | OP_BYTE), [0xa9] = COPY(ALL, OP_AX_R), /* TEST */
	[0xb0 ... 0xb7] = COPY(NONE, OP_OPC_W | OP_BYTE),
	[0xb8 ... 0xbf] = COPY(NONE, OP_OPC_W), /* MOV r, imm */
	[0xc2 ... 0xc3] = ROW(RET, NONE, OP_SIZE64),
	[0xc9] = ROW(LEAVE, NONE, OP_SIZE64),
	[0xe0 ... 0xe1] = ROW(LOOP, LOOP, OP_SIZE64),
	[0xe2 ... 0xe3] = ROW(LOOP, NONE, OP_SIZE64),
	[0xe8] = ROW(CALL, NONE, OP_SIZE64),
	[0xe9] = ROW(JMP, NONE, OP_SIZE64), [0xeb] = ROW(JMP, NONE, OP_SIZE64),
	[0xf5] = COPY(CMC, 0), [0xf8 ... 0xf9] = COPY(SET_CF, 0), /* CLC STC */
};

/* Groups of the one-byte map, by ModRM.reg. */
#define IMM_GROUP(size)                                                                \
	{ COPY(ALL, E_RW | (size)), COPY(ALL, E_RW | (size)),                          \
	  COPY(CARRY_IN, E_RW | (size)), COPY(CARRY_IN, E_RW | (size)),                \
	  COPY(ALL, E_RW | (size)), COPY(ALL, E_RW | (size)),                          \
	  COPY(ALL, E_RW | (size)), COPY(ALL, E_R | (size)) }
static const struct jit_form imm_group[2][8] = { IMM_GROUP(OP_BYTE), IMM_GROUP(0) }; /* 80 81 83 */

#define SHIFT_GROUP(rol, rcl, shl, size)                                               \
	{ COPY(rol, SHIFT | (size)), COPY(rol, SHIFT | (size)),                          \
	  COPY(rcl, SHIFT | (size)), COPY(rcl, SHIFT | (size)),                          \
	  COPY(shl, SHIFT | (size)), COPY(shl, SHIFT | (size)),                          \
	  COPY(shl, SHIFT | (size)), COPY(shl, SHIFT | (size)) }
static const struct jit_form shift_imm[2][8] = { /* c0 c1 */
	SHIFT_GROUP(ROL_IMM, RCL, SHIFT_IMM, OP_BYTE), SHIFT_GROUP(ROL_IMM, RCL, SHIFT_IMM, 0),
};
static const struct jit_form shift_one[2][8] = { /* d0 d1 */
	SHIFT_GROUP(ROL_ONE, RCL, SHIFT_ONE, OP_BYTE), SHIFT_GROUP(ROL_ONE, RCL, SHIFT_ONE, 0),
};
static const struct jit_form shift_cl[2][8] = { /* d2 d3 */
	SHIFT_GROUP(ROL_CL, RCL, SHIFT_CL, OP_BYTE), SHIFT_GROUP(ROL_CL, RCL, SHIFT_CL, 0),
};

#define AX_DX (OP_AX_R | OP_AX_W | OP_DX_W)
#define UNARY_GROUP(size, mul)                                                         \
	{ COPY(ALL, E_R | (size)), COPY(ALL, E_R | (size)), /* TEST */                 \
	  COPY(NONE, E_RW | (size)), COPY(ALL, E_RW | (size)), /* NOT NEG */           \
	  COPY(MUL, E_R | (mul) | (size)), COPY(MUL, E_R | (mul) | (size)),            \
	  COPY(DIV, E_R | (mul) | (size)), COPY(DIV, E_R | (mul) | (size)) }
static const struct jit_form unary_group[2][8] = { /* f6 f7 */
	UNARY_GROUP(OP_BYTE, OP_AX_R | OP_AX_W), UNARY_GROUP(0, AX_DX),
};
static const struct jit_form group_fe[8] = {
	COPY(INCDEC, E_RW | OP_BYTE), COPY(INCDEC, E_RW | OP_BYTE),
};
static const struct jit_form group_ff[8] = {
	[0] = COPY(INCDEC, E_RW), [1] = COPY(INCDEC, E_RW),
	[2] = ROW(CALL_RM, NONE, E_R | OP_SIZE64), [4] = ROW(JMP_RM, NONE, E_R | OP_SIZE64),
	[6] = ROW(PUSH_RM, NONE, E_R | OP_SIZE64),
};
static const struct jit_form mov_imm[2] = { COPY(NONE, E_W | OP_BYTE), COPY(NONE, E_W) };
static const struct jit_form nop = ROW(NOTHING, NONE, 0), refuse;

/* Integer instructions of the map 0F whose prefixes select nothing. */
static const struct jit_form map_0f[256] = {
	[0x0d] = ROW(NOTHING, NONE, OP_MODRM), /* PREFETCHW */
	[0x18 ... 0x1f] = ROW(NOTHING, NONE, OP_MODRM),
	[0x40 ... 0x4f] = COPY(COND, G_E), /* CMOVcc: zero-extends either way */
	[0x80 ... 0x8f] = ROW(JCC, COND, OP_SIZE64),
	[0x90 ... 0x9f] = COPY(COND, E_W | OP_BYTE),
	[0xa3] = COPY(BT, E_G_READ | OP_NO_MEM),
	[0xa4] = COPY(DOUBLE_IMM, DOUBLE), [0xa5] = COPY(SHIFT_CL, DOUBLE),
	[0xab] = COPY(BT, E_G | OP_NO_MEM),
	[0xac] = COPY(DOUBLE_IMM, DOUBLE), [0xad] = COPY(SHIFT_CL, DOUBLE),
	[0xaf] = COPY(MUL, G_E),
	[0xb0] = COPY(ALL, E_G | AX_RW | OP_BYTE), [0xb1] = COPY(ALL, E_G | AX_RW), /* CMPXCHG */
	[0xb3] = COPY(BT, E_G | OP_NO_MEM),
	[0xb6] = COPY(NONE, TO_G | OP_RM8), [0xb7] = COPY(NONE, TO_G | OP_RM16),
	[0xbb] = COPY(BT, E_G | OP_NO_MEM),
	[0xbe] = COPY(NONE, TO_G | OP_RM8), [0xbf] = COPY(NONE, TO_G | OP_RM16),
	[0xc0] = COPY(ALL, E_G | OP_REG_W | OP_BYTE), [0xc1] = COPY(ALL, E_G | OP_REG_W), /* XADD */
	[0xc8 ... 0xcf] = COPY(NONE, OP_OPC_R | OP_OPC_W), /* BSWAP */
};

/* 0f ba: BT BTS BTR BTC by an immediate, which stays inside the operand. */
static const struct jit_form bt_imm[8] = {
	[4] = COPY(BT, E_R), [5] = COPY(BT, E_RW), [6] = COPY(BT, E_RW), [7] = COPY(BT, E_RW),
};

/*
 * BSF and BSR keep the destination if the source is 0. TZCNT, LZCNT and MOVBE are done in C for hosts
 * without them (isa/bit.c, isa/mov.c), where their bytes are BSF, BSR and #UD.
 */
static const struct jit_form scan = COPY(SCAN, G_E);
static const struct jit_form count_zeros = COPY(SCAN, G_E | OP_MANDATORY);
static const struct jit_form popcnt = COPY(ALL, TO_G | OP_MANDATORY);
static const struct jit_form movnti = COPY(NONE, E_W | OP_REG_R | OP_MEM_ONLY);
static const struct jit_form movbe_load = COPY(NONE, TO_G | OP_MEM_ONLY);
static const struct jit_form movbe_store = COPY(NONE, E_W | OP_REG_R | OP_MEM_ONLY);
static const struct jit_form crc32_byte = COPY(NONE, G_E | OP_RM8 | OP_MANDATORY);
static const struct jit_form crc32 = COPY(NONE, G_E | OP_MANDATORY);
static const struct jit_form adcx = COPY(ADCX, G_E | OP_MANDATORY);
static const struct jit_form adox = COPY(ADOX, G_E | OP_MANDATORY);

/* BMI1, BMI2: general registers, VEX. */
#define BMI(fl) COPY(fl, TO_G | OP_VVVV_R | OP_VEX)
static const struct jit_form andn = BMI(ANDN), bextr = BMI(BEXTR), bzhi = BMI(ANDN),
			     bmi_plain = BMI(NONE);
static const struct jit_form bls = COPY(ANDN, OP_MODRM | OP_RM_R | OP_VVVV_W | OP_VEX);
static const struct jit_form mulx = COPY(NONE, TO_G | OP_VVVV_W | OP_AX_R | OP_VEX);
static const struct jit_form rorx = COPY(NONE, TO_G | OP_VEX);

static unsigned reg_field(const struct jit_bytes *p)
{
	return p->modrm >> 3 & 7;
}

static struct jit_form find_one_byte(const struct jit_bytes *p)
{
	unsigned wide = p->opcode & 1;

	switch (p->opcode) {
	case 0x80: case 0x81: case 0x83:
		return imm_group[wide][reg_field(p)];
	case 0x90: /* with REX.B it is XCHG R8, with F3 PAUSE */
		if (p->rm)
			return one_byte[0x91];
		return p->rep == 0xf3 ? refuse : nop;
	case 0xc0: case 0xc1:
		return shift_imm[wide][reg_field(p)];
	case 0xc6: case 0xc7:
		return reg_field(p) ? refuse : mov_imm[wide];
	case 0xd0: case 0xd1:
		return shift_one[wide][reg_field(p)];
	case 0xd2: case 0xd3:
		return shift_cl[wide][reg_field(p)];
	case 0xf6: case 0xf7:
		return unary_group[wide][reg_field(p)];
	case 0xfe:
		return group_fe[reg_field(p)];
	case 0xff:
		return group_ff[reg_field(p)];
	default:
		return one_byte[p->opcode];
	}
}

static struct jit_form find_0f(const struct jit_bytes *p)
{
	switch (p->opcode) {
	case 0xb8:
		return p->pp == 2 ? popcnt : refuse;
	case 0xba:
		return bt_imm[reg_field(p)];
	case 0xbc: case 0xbd:
		if (p->pp == 2)
			return isa_host_has(p->opcode & 1 ? HOST_LZCNT : HOST_BMI1) ? count_zeros : refuse;
		return p->pp == 3 ? refuse : scan;
	case 0xc3:
		return p->p66 || p->rep ? refuse : movnti;
	default:
		return map_0f[p->opcode];
	}
}

static struct jit_form find_0f38(const struct jit_bytes *p)
{
	switch (p->opcode) {
	case 0xf0:
		return p->pp == 3 ? crc32_byte : p->rep || !isa_host_has(HOST_MOVBE) ? refuse : movbe_load;
	case 0xf1:
		return p->pp == 3 ? crc32 : p->rep || !isa_host_has(HOST_MOVBE) ? refuse : movbe_store;
	case 0xf6:
		return p->pp == 1 ? adcx : p->pp == 2 && !p->p66 ? adox : refuse;
	default:
		return refuse;
	}
}

static struct jit_form find_vex(const struct jit_bytes *p)
{
	if (p->l)
		return refuse;
	if (p->map == JIT_MAP_0F38) {
		switch (p->opcode) {
		case 0xf2: return p->pp ? refuse : andn;
		case 0xf3: return p->pp || !reg_field(p) || reg_field(p) > 3 ? refuse : bls;
		case 0xf5: return p->pp == 0 ? bzhi : p->pp == 1 ? refuse : bmi_plain;
		case 0xf6: return p->pp == 3 ? mulx : refuse;
		case 0xf7: return p->pp ? bmi_plain : bextr;
		default: return refuse;
		}
	}
	return p->map == JIT_MAP_0F3A && p->opcode == 0xf0 && p->pp == 3 ? rorx : refuse;
}

struct jit_form jit_find_form(const struct jit_bytes *p)
{
	struct jit_form f;

	if (p->evex) {
		f = refuse;
	} else if (p->vex) {
		f = find_vex(p);
	} else {
		switch (p->map) {
		case JIT_MAP_ONE: f = find_one_byte(p); break;
		case JIT_MAP_0F: f = find_0f(p); break;
		case JIT_MAP_0F38: f = find_0f38(p); break;
		default: f = refuse; break;
		}
	}
	if (f.how == HOW_REFUSE)
		f = jit_find_simd_form(p);
	if (p->mem ? f.ops & OP_NO_MEM : f.ops & OP_MEM_ONLY)
		return refuse;
	return f;
}

bool jit_has_modrm(uint8_t map, uint8_t opcode)
{
	if (map == JIT_MAP_ONE)
		return (opcode < 0x40 && (opcode & 7) < 4) || opcode == 0x63 || opcode == 0x69 ||
		       opcode == 0x6b || (opcode >= 0x80 && opcode <= 0x8f) ||
		       (opcode & 0xfe) == 0xc0 || (opcode & 0xfe) == 0xc6 ||
		       (opcode >= 0xd0 && opcode <= 0xd3) || (opcode >= 0xd8 && opcode <= 0xdf) ||
		       (opcode & 0xfe) == 0xf6 || (opcode & 0xfe) == 0xfe;
	if (map != JIT_MAP_0F)
		return true;
	return !((opcode >= 0x04 && opcode <= 0x0b) || opcode == 0x0e ||
		 (opcode >= 0x30 && opcode <= 0x37) || opcode == 0x77 || (opcode & 0xf0) == 0x80 ||
		 (opcode >= 0xa0 && opcode <= 0xa2) || (opcode >= 0xa8 && opcode <= 0xaa) ||
		 (opcode >= 0xc8 && opcode <= 0xcf));
}

unsigned jit_operand_size(const struct jit_bytes *p, uint32_t ops)
{
	if (ops & OP_BYTE)
		return 1;
	if (p->w)
		return 8;
	if ((ops & OP_SIZE64) && !p->code32)
		return p->p66 ? 2 : 8;
	return p->p66 && !p->vex && !((ops & OP_MANDATORY) && p->pp == 1) ? 2 : 4;
}

unsigned jit_rm_size(const struct jit_bytes *p, uint32_t ops)
{
	unsigned size = jit_operand_size(p, ops);

	if (ops & OP_RM8)
		return 1;
	if (ops & OP_RM16)
		return 2;
	if (ops & OP_RM32)
		return size == 8 ? 4 : size;
	return size;
}

bool jit_writes(const struct jit_bytes *p, const struct jit_form *f, unsigned guest)
{
	uint32_t o = f->ops;

	if ((o & OP_BYTE) && !p->has_rex && guest < 4) /* AH to BH count as rAX to rBX */
		return ((o & OP_REG_W) && (p->reg & 3) == guest) ||
		       ((o & OP_RM_W) && !p->mem && (p->rm & 3) == guest) ||
		       ((o & OP_OPC_W) && (p->rm & 3) == guest) || ((o & OP_AX_W) && guest == RAX);
	if ((o & OP_BYTE) && !p->has_rex && guest < 8)
		return false;
	return ((o & OP_REG_W) && p->reg == guest) || ((o & OP_RM_W) && !p->mem && p->rm == guest) ||
	       ((o & OP_OPC_W) && p->rm == guest) || ((o & OP_VVVV_W) && p->vvvv == guest) ||
	       ((o & OP_AX_W) && guest == RAX) || ((o & OP_DX_W) && guest == RDX) ||
	       ((o & OP_CX_W) && guest == RCX) ||
	       (f->how == HOW_LOOP && guest == RCX) ||
	       (f->how == HOW_LEAVE && (guest == RBP || guest == RSP)) ||
	       (f->how >= HOW_PUSH_REG && f->how <= HOW_RET && guest == RSP);
}
