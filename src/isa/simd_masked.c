/*
 * Gathers and masked moves: instructions that touch only some elements of
 * their memory operand, so that the others may lie where an access would fault.
 *
 * Invariants
 * 1. A masked move whose whole operand the TLB grants runs as one stub; else
 *    memory is accessed element by element, in order, masked-out ones never.
 * 2. A gather loads every element into a buffer first and commits registers
 *    after: one that faults has changed nothing and starts anew (allowed: the
 *    SDM lets completed elements be re-read, "VPGATHERDD", notes on faults).
 * 3. Stores of a masked store that fault half-way have written the elements
 *    before, as on silicon when the operand crosses pages.
 *
 * Locks: none; runs on the vCPU's thread, general registers only.
 */
#include "isa/fpu.h"
#include "isa/isa.h"
#include "isa/simd.h"
#include "isa/simd_encode.h"
#include "isa/stub.h"
#include "lib/copy.h"

#define VECTOR_BYTES 32

struct vector {
	uint8_t b[VECTOR_BYTES];
} __attribute__((aligned(32)));

static bool element_on(const struct vector *mask, unsigned n, unsigned elem_size)
{
	return mask->b[(n + 1) * elem_size - 1] & 0x80;
}

uint64_t simd_truncate_ea(const struct isa_insn *i, uint64_t ea)
{
	return i->adsize == 8 ? ea : i->adsize == 4 ? (uint32_t)ea : (uint16_t)ea;
}

static void fpu_on(struct cpu_state *cs)
{
	if (!cs->fpu_loaded)
		isa_fpu_load(cs);
}

/* Move between a vector register and a buffer; cannot fault. */
static void transfer(struct cpu_state *cs, silicon_fn *fn, struct vector *v)
{
	fpu_on(cs);
	(void)fn(v, cs);
	isa_fpu_leave(cs);
}

uint64_t simd_element_load(struct cpu_state *cs, const struct isa_insn *i, uint64_t ea, unsigned size)
{
	uint64_t lin = isa_linear(cs, i->seg, simd_truncate_ea(i, ea), size, ISA_READ);
	const void *p = isa_tlb_read(cs, lin, size);

	if (unlikely(!p))
		p = cs->ops->mem(cs, lin, size, ISA_READ | ISA_UNALIGNED, cs->bounce);
	return isa_host_load(p, size);
}

void simd_element_store(struct cpu_state *cs, const struct isa_insn *i, uint64_t ea, unsigned size,
			uint64_t v)
{
	uint64_t lin = isa_linear(cs, i->seg, simd_truncate_ea(i, ea), size, ISA_WRITE);
	void *p = isa_tlb_write(cs, lin, size);

	if (unlikely(!p))
		p = cs->ops->mem(cs, lin, size, ISA_WRITE | ISA_UNALIGNED, cs->bounce);
	isa_host_store(p, size, v);
	isa_rmw_end(cs, lin, size, p);
}

/* helper: mask; [1] data (stores). run: the instruction itself. */
static void maskmov_load(struct cpu_state *cs, const struct isa_insn *i)
{
	const struct silicon_op *op = i->extra;
	const struct silicon_desc *desc = &op->desc;
	struct vector mask, data;
	void *p = NULL;

	simd_check(cs, SIMD_AVX);
	if (i->ea_form != ISA_EA_SLOW)
		p = isa_tlb_read(cs, isa_operand(cs, i, desc->mem_size, ISA_READ), desc->mem_size);
	if (!p) {
		transfer(cs, desc->helper[0], &mask);
		for (unsigned n = 0; n < desc->nr_elems; n++) {
			uint64_t v = 0;

			if (element_on(&mask, n, desc->elem_size))
				v = simd_element_load(cs, i, isa_ea(cs, i) + n * desc->elem_size,
						 desc->elem_size);
			copy_bytes(data.b + n * desc->elem_size, &v, desc->elem_size);
		}
		p = &data;
	}
	fpu_on(cs);
	(void)op->run(p, cs);
	isa_fpu_leave(cs);
}

static void masked_store(struct cpu_state *cs, const struct isa_insn *i,
			 const struct silicon_desc *desc)
{
	struct vector mask, data;

	transfer(cs, desc->helper[0], &mask);
	transfer(cs, desc->helper[1], &data);
	for (unsigned n = 0; n < desc->nr_elems; n++) {
		uint64_t v = 0;

		if (!element_on(&mask, n, desc->elem_size))
			continue;
		copy_bytes(&v, data.b + n * desc->elem_size, desc->elem_size);
		simd_element_store(cs, i, isa_ea(cs, i) + n * desc->elem_size, desc->elem_size, v);
	}
}

static void maskmov_store(struct cpu_state *cs, const struct isa_insn *i)
{
	const struct silicon_op *op = i->extra;
	const struct silicon_desc *desc = &op->desc;
	void *p = NULL;

	simd_check(cs, SIMD_AVX);
	if (i->ea_form != ISA_EA_SLOW)
		p = isa_tlb_write(cs, isa_operand(cs, i, desc->mem_size, ISA_WRITE),
				  desc->mem_size);
	if (!p) {
		masked_store(cs, i, desc);
		return;
	}
	fpu_on(cs);
	(void)op->run(p, cs);
	isa_fpu_leave(cs);
}

/* MASKMOVQ, MASKMOVDQU, VMASKMOVDQU: bytes to [rDI]. */
static void maskmov_bytes_mmx(struct cpu_state *cs, const struct isa_insn *i)
{
	const struct silicon_op *op = i->extra;

	simd_check(cs, SIMD_MMX);
	fpu_on(cs);
	if (op->run(NULL, cs)) { /* FWAIT: an x87 exception is pending */
		isa_fpu_leave(cs);
		isa_raise(cs, X86_TRAP_MF);
	}
	isa_fpu_leave(cs);
	masked_store(cs, i, &op->desc);
}

static void maskmov_bytes_sse(struct cpu_state *cs, const struct isa_insn *i)
{
	simd_check(cs, SIMD_SSE);
	masked_store(cs, i, &((const struct silicon_op *)i->extra)->desc);
}

static void maskmov_bytes_avx(struct cpu_state *cs, const struct isa_insn *i)
{
	simd_check(cs, SIMD_AVX);
	masked_store(cs, i, &((const struct silicon_op *)i->extra)->desc);
}

/* helpers: destination, index, mask. run: load destination, zero the mask. */
static void gather(struct cpu_state *cs, const struct isa_insn *i)
{
	const struct silicon_op *op = i->extra;
	const struct silicon_desc *desc = &op->desc;
	struct vector dst, index, mask;

	simd_check(cs, SIMD_AVX);
	transfer(cs, desc->helper[0], &dst);
	transfer(cs, desc->helper[1], &index);
	transfer(cs, desc->helper[2], &mask);
	for (unsigned n = 0; n < desc->nr_elems; n++) {
		int64_t x = 0;
		uint64_t v;

		if (!element_on(&mask, n, desc->elem_size))
			continue;
		copy_bytes(&x, index.b + n * desc->index_size, desc->index_size);
		if (desc->index_size == 4)
			x = (int32_t)x;
		v = simd_element_load(cs, i, isa_ea(cs, i) + ((uint64_t)x << desc->scale_shift),
				 desc->elem_size);
		copy_bytes(dst.b + n * desc->elem_size, &v, desc->elem_size);
	}
	fill_bytes(dst.b + desc->nr_elems * desc->elem_size, 0,
		   VECTOR_BYTES - desc->nr_elems * desc->elem_size);
	transfer(cs, op->run, &dst);
}

/* --- choosing --- */
static unsigned vector_number(ZydisRegister r)
{
	return (unsigned)ZydisRegisterGetId(r) & 15;
}

static bool is_ymm(ZydisRegister r)
{
	return ZydisRegisterGetClass(r) == ZYDIS_REGCLASS_YMM;
}

static silicon_fn *helper(void (*emit)(struct emitter *, ZydisRegister), ZydisRegister r)
{
	const struct silicon_desc none = { 0 };
	STUB_EMITTER(e);
	const struct silicon_op *op;

	emit(&e, r);
	emit_return(&e);
	op = silicon_get(&none, e.b, e.n);
	return op ? op->run : NULL;
}

static void emit_spill(struct emitter *e, ZydisRegister r)
{
	emit_vmovdqu(e, VMOVDQU_STORE, vector_number(r), is_ymm(r));
}

static void emit_spill_legacy(struct emitter *e, ZydisRegister r)
{
	emit_legacy_spill(e, vector_number(r), ZydisRegisterGetClass(r) == ZYDIS_REGCLASS_MMX);
}

static bool publish(struct isa_insn *i, const struct silicon_desc *desc, const struct emitter *e)
{
	i->extra = (void *)silicon_get(desc, e->b, e->n);
	return i->extra != NULL;
}

static isa_fn *gather_handler(const struct isa_decoded *d, struct isa_insn *i, unsigned index_size)
{
	ZydisRegister dst = d->operands[0].reg.value, mask = d->operands[2].reg.value;
	ZydisRegister index = d->operands[1].mem.index;
	struct silicon_desc desc = { .index_size = (uint8_t)index_size };
	STUB_EMITTER(e);
	unsigned nr, room;

	if (vector_number(dst) == vector_number(mask) || vector_number(dst) == vector_number(index) ||
	    vector_number(mask) == vector_number(index))
		return NULL; /* #UD */
	desc.elem_size = d->insn.raw.vex.W ? 8 : 4;
	nr = (is_ymm(dst) ? 32 : 16) / desc.elem_size;
	room = (is_ymm(index) ? 32 : 16) / index_size;
	desc.nr_elems = (uint8_t)(nr < room ? nr : room);
	desc.scale_shift = (uint8_t)__builtin_ctz(d->operands[1].mem.scale ? d->operands[1].mem.scale : 1);
	desc.helper[0] = helper(emit_spill, dst);
	desc.helper[1] = helper(emit_spill, index);
	desc.helper[2] = helper(emit_spill, mask);
	emit_vmovdqu(&e, VMOVDQU_LOAD, vector_number(dst), is_ymm(dst));
	emit_vzero(&e, vector_number(mask));
	emit_return(&e);
	/* The vector index is ours: what remains is base + displacement. */
	i->index = ISA_NO_REG;
	i->index_off = offsetof(struct cpu_state, zero);
	i->shift = 0;
	i->scale = 1;
	i->ea_form = ISA_EA_SLOW;
	return desc.helper[0] && desc.helper[1] && desc.helper[2] && publish(i, &desc, &e) ?
		       gather : NULL;
}

static isa_fn *maskmov_handler(const struct isa_decoded *d, struct isa_insn *i, unsigned elem_size)
{
	const ZydisDecodedOperand *mem = simd_memory_operand(d);
	bool store = mem == &d->operands[0];
	struct silicon_desc desc = { .elem_size = (uint8_t)elem_size };
	STUB_EMITTER(e);

	desc.helper[0] = helper(emit_spill, d->operands[1].reg.value);
	desc.helper[1] = store ? helper(emit_spill, d->operands[2].reg.value) : desc.helper[0];
	desc.mem_size = is_ymm(d->operands[1].reg.value) ? 32 : 16;
	desc.nr_elems = (uint8_t)(desc.mem_size / elem_size);
	emit_silicon(&e, d);
	if (!desc.helper[0] || !desc.helper[1] || !publish(i, &desc, &e))
		return NULL;
	return store ? maskmov_store : maskmov_load;
}

static isa_fn *maskmov_bytes_handler(const struct isa_decoded *d, struct isa_insn *i, isa_fn *fn)
{
	bool mmx = d->insn.mnemonic == ZYDIS_MNEMONIC_MASKMOVQ;
	struct silicon_desc desc = { .elem_size = 1, .nr_elems = mmx ? 8 : 16 };
	STUB_EMITTER(e);

	emit_byte(&e, 0x9b); /* FWAIT, run by MASKMOVQ only */
	desc.helper[0] = helper(emit_spill_legacy, d->operands[1].reg.value);
	desc.helper[1] = helper(emit_spill_legacy, d->operands[0].reg.value);
	emit_return(&e);
	/* The operand is [rDI]: what ModRM says are registers. */
	i->flags |= ISA_MEM;
	i->flags &= (uint8_t)~ISA_RIP_RELATIVE;
	i->base = RDI;
	i->base_off = RDI * 8;
	i->index = ISA_NO_REG;
	i->index_off = offsetof(struct cpu_state, zero);
	i->disp = 0;
	i->ea_form = ISA_EA_SLOW;
	i->adsize = (uint8_t)(d->insn.address_width / 8);
	i->seg = (uint8_t)(ZydisRegisterGetId(simd_memory_operand(d)->mem.segment));
	return desc.helper[0] && desc.helper[1] && publish(i, &desc, &e) ? fn : NULL;
}

isa_fn *isa_simd_masked_handler(const struct isa_decoded *d, struct isa_insn *i)
{
	switch (d->insn.mnemonic) {
	case ZYDIS_MNEMONIC_VGATHERDPS: case ZYDIS_MNEMONIC_VGATHERDPD:
	case ZYDIS_MNEMONIC_VPGATHERDD: case ZYDIS_MNEMONIC_VPGATHERDQ:
		if (d->insn.encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)
			return NULL;
		return gather_handler(d, i, 4);
	case ZYDIS_MNEMONIC_VGATHERQPS: case ZYDIS_MNEMONIC_VGATHERQPD:
	case ZYDIS_MNEMONIC_VPGATHERQD: case ZYDIS_MNEMONIC_VPGATHERQQ:
		if (d->insn.encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)
			return NULL;
		return gather_handler(d, i, 8);
	case ZYDIS_MNEMONIC_VMASKMOVPS: case ZYDIS_MNEMONIC_VPMASKMOVD:
		return maskmov_handler(d, i, 4);
	case ZYDIS_MNEMONIC_VMASKMOVPD: case ZYDIS_MNEMONIC_VPMASKMOVQ:
		return maskmov_handler(d, i, 8);
	case ZYDIS_MNEMONIC_MASKMOVQ:
		return maskmov_bytes_handler(d, i, maskmov_bytes_mmx);
	case ZYDIS_MNEMONIC_MASKMOVDQU:
		return maskmov_bytes_handler(d, i, maskmov_bytes_sse);
	case ZYDIS_MNEMONIC_VMASKMOVDQU:
		return maskmov_bytes_handler(d, i, maskmov_bytes_avx);
	default:
		return NULL;
	}
}
