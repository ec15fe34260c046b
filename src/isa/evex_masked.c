/*
 * EVEX instructions whose memory operand is accessed in part: by an opmask, by
 * compression and expansion, by gathers and scatters.
 *
 * Invariants
 * 1. Where the TLB grants the whole operand, the instruction runs as one stub on
 *    guest memory: the silicon accesses only what the mask allows.
 * 2. Else the elements that the mask allows are accessed one by one, in order,
 *    others never (SDM Vol. 2, exception types with fault suppression). The
 *    stub runs on a buffer: filled with the elements of a load before, taken
 *    apart into those of a store after.
 * 3. A gather or scatter whose element may fault has committed the elements
 *    before it, and cleared their bits of the mask: it goes on with the next
 *    when it is run again ("VPGATHERDD", "VPSCATTERDD").
 * 4. Types without suppression (…NF) access their whole operand: loads do not come
 *    here, stores write what the mask allows after all of it was found writable.
 *
 * Locks: none; runs on the vCPU's thread, general registers only.
 */
#include "isa/fpu.h"
#include "isa/internal.h"
#include "isa/isa.h"
#include "isa/simd.h"
#include "isa/simd_encode.h"
#include "isa/stub.h"
#include "lib/copy.h"

#define ZMM_BYTES 64u

/* What the stubs of this file address: a vector register, an opmask behind it. */
struct transfer_area {
	uint8_t v[ZMM_BYTES];
	uint64_t mask;
} __attribute__((aligned(64)));
static_assert(offsetof(struct transfer_area, mask) == ZMM_BYTES, "emit_kmov()'s displacement");

static uint64_t low_bits(unsigned n)
{
	return n >= 64 ? ~0ULL : (1ULL << n) - 1;
}

/* helper[0] stores the opmask; NULL where there is none, which allows everything. */
static uint64_t opmask(struct cpu_state *cs, const struct silicon_desc *desc)
{
	struct transfer_area a = { .mask = 0 };

	if (!desc->helper[0])
		return low_bits(desc->nr_mask_bits);
	simd_run(cs, desc->helper[0], &a);
	isa_fpu_leave(cs);
	return a.mask & low_bits(desc->nr_mask_bits);
}

/* Elements in memory that a mask needs: one is needed by several bits where it is broadcast. */
static uint64_t elements_needed(uint64_t mask, const struct silicon_desc *desc)
{
	uint64_t needed = 0;

	for (unsigned n = 0; n < desc->nr_mask_bits; n += desc->nr_elems)
		needed |= mask >> n;
	return needed & low_bits(desc->nr_elems);
}

/*
 * A misaligned operand that has to be aligned: #GP(0), unless the mask allows no
 * element. Then the silicon says what happens, by the stub on an operand as far
 * from alignment; no element is accessed. (Intel's family 6 model 207: nothing.)
 */
static void __attribute__((noinline))
misaligned(struct cpu_state *cs, const struct silicon_op *op, uint64_t lin)
{
	uint8_t scratch[2 * ZMM_BYTES] __attribute__((aligned(64)));

	if (opmask(cs, &op->desc))
		isa_raise_error(cs, X86_TRAP_GP, 0);
	fill_bytes(scratch, 0, sizeof(scratch));
	simd_run(cs, op->run, scratch + (lin & op->desc.align_mask));
	isa_fpu_leave(cs);
}

/* The linear address of an operand that has to be aligned is not: the instruction has been done. */
static bool done_misaligned(struct cpu_state *cs, const struct isa_insn *i,
			    const struct silicon_op *op, enum isa_access how)
{
	uint64_t lin;

	if (likely(!op->desc.align_mask))
		return false;
	(void)isa_linear_ok(cs, i->seg, isa_ea(cs, i), op->desc.mem_size, how, &lin);
	if (likely(!(lin & op->desc.align_mask)))
		return false;
	misaligned(cs, op, lin);
	return true;
}

/* The whole operand in guest memory, NULL where it may fault. */
static void *whole_operand(struct cpu_state *cs, const struct isa_insn *i,
			   const struct silicon_desc *desc, enum isa_access how)
{
	uint64_t lin;

	if (!isa_linear_ok(cs, i->seg, isa_ea(cs, i), desc->mem_size, how, &lin))
		return NULL;
	return how == ISA_READ ? isa_tlb_read(cs, lin, desc->mem_size) :
				 isa_tlb_write(cs, lin, desc->mem_size);
}

static void load_elements(struct cpu_state *cs, const struct isa_insn *i,
			  const struct silicon_desc *desc, uint64_t needed, struct transfer_area *a)
{
	fill_bytes(a, 0, sizeof(*a));
	for (unsigned n = 0; n < desc->nr_elems; n++) {
		uint64_t v;

		if (!((needed >> n) & 1))
			continue;
		v = simd_element_load(cs, i, isa_ea(cs, i) + n * desc->elem_size, desc->elem_size);
		copy_bytes(a->v + n * desc->elem_size, &v, desc->elem_size);
	}
}

static void store_elements(struct cpu_state *cs, const struct isa_insn *i,
			   const struct silicon_desc *desc, uint64_t wanted,
			   const struct transfer_area *a)
{
	for (unsigned n = 0; n < desc->nr_elems; n++) {
		uint64_t v = 0;

		if (!((wanted >> n) & 1))
			continue;
		copy_bytes(&v, a->v + n * desc->elem_size, desc->elem_size);
		simd_element_store(cs, i, isa_ea(cs, i) + n * desc->elem_size, desc->elem_size, v);
	}
}

/* expanding: the elements are as many as the mask has bits, without gaps. */
ISA_INLINE void load(struct cpu_state *cs, const struct isa_insn *i, bool expanding)
{
	const struct silicon_op *op = i->extra;
	struct transfer_area a;
	void *p;

	simd_check(cs, SIMD_AVX512);
	if (done_misaligned(cs, i, op, ISA_READ))
		return;
	p = whole_operand(cs, i, &op->desc, ISA_READ);
	if (!p) {
		uint64_t mask = opmask(cs, &op->desc);

		load_elements(cs, i, &op->desc,
			      expanding ? low_bits((unsigned)__builtin_popcountll(mask)) :
					  elements_needed(mask, &op->desc), &a);
		p = &a;
	}
	simd_run(cs, op->run, p);
	isa_fpu_leave(cs);
}

ISA_INLINE void store(struct cpu_state *cs, const struct isa_insn *i, bool compressing)
{
	const struct silicon_op *op = i->extra;
	struct transfer_area a;
	uint64_t mask;
	void *p;

	simd_check(cs, SIMD_AVX512);
	if (done_misaligned(cs, i, op, ISA_WRITE))
		return;
	p = whole_operand(cs, i, &op->desc, ISA_WRITE);
	if (p) {
		simd_run(cs, op->run, p);
		isa_fpu_leave(cs);
		return;
	}
	fill_bytes(&a, 0, sizeof(a));
	simd_run(cs, op->run, &a);
	isa_fpu_leave(cs);
	mask = opmask(cs, &op->desc);
	store_elements(cs, i, &op->desc,
		       compressing ? low_bits((unsigned)__builtin_popcountll(mask)) : mask, &a);
}

static void masked_load(struct cpu_state *cs, const struct isa_insn *i)
{
	load(cs, i, false);
}

static void masked_store(struct cpu_state *cs, const struct isa_insn *i)
{
	store(cs, i, false);
}

static void expand_load(struct cpu_state *cs, const struct isa_insn *i)
{
	load(cs, i, true);
}

static void compress_store(struct cpu_state *cs, const struct isa_insn *i)
{
	store(cs, i, true);
}

/* Without suppression all of the operand has to be writable, whatever the mask. */
static void unsuppressed_store(struct cpu_state *cs, const struct isa_insn *i)
{
	const struct silicon_op *op = i->extra;
	struct transfer_area a;
	uint64_t lin;
	void *p;

	simd_check(cs, SIMD_AVX512);
	lin = isa_operand(cs, i, op->desc.mem_size, ISA_WRITE);
	p = isa_tlb_write(cs, lin, op->desc.mem_size);
	if (!p)
		p = cs->ops->mem(cs, lin, op->desc.mem_size, ISA_WRITE, cs->bounce);
	if (p != cs->bounce) {
		simd_run(cs, op->run, p);
		isa_fpu_leave(cs);
		return;
	}
	fill_bytes(&a, 0, sizeof(a));
	simd_run(cs, op->run, &a);
	isa_fpu_leave(cs);
	store_elements(cs, i, &op->desc, opmask(cs, &op->desc), &a);
}

/* --- gathers and scatters; helpers: the vector and the opmask to the area, the index --- */
static void area_in(struct cpu_state *cs, const struct silicon_desc *desc, struct transfer_area *a,
		    struct transfer_area *index)
{
	a->mask = 0;
	simd_run(cs, desc->helper[0], a);
	simd_run(cs, desc->helper[1], index);
	isa_fpu_leave(cs);
}

/* run: destination (of a gather) and opmask from the area. */
static void commit(struct cpu_state *cs, const struct silicon_op *op, struct transfer_area *a)
{
	simd_run(cs, op->run, a);
	isa_fpu_leave(cs);
}

static uint64_t element_address(struct cpu_state *cs, const struct isa_insn *i,
				const struct silicon_desc *desc, const struct transfer_area *index,
				unsigned n)
{
	int64_t x = 0;

	copy_bytes(&x, index->v + n * desc->index_size, desc->index_size);
	if (desc->index_size == 4)
		x = (int32_t)x;
	return simd_truncate_ea(i, isa_ea(cs, i) + ((uint64_t)x << desc->scale_shift));
}

static void gather(struct cpu_state *cs, const struct isa_insn *i)
{
	const struct silicon_op *op = i->extra;
	const struct silicon_desc *desc = &op->desc;
	unsigned size = desc->elem_size;
	struct transfer_area a, index;

	simd_check(cs, SIMD_AVX512);
	area_in(cs, desc, &a, &index);
	for (unsigned n = 0; n < desc->nr_elems; n++) {
		uint64_t ea = element_address(cs, i, desc, &index, n), lin, v;
		const void *p = NULL;

		if (!((a.mask >> n) & 1))
			continue;
		if (isa_linear_ok(cs, i->seg, ea, size, ISA_READ, &lin))
			p = isa_tlb_read(cs, lin, size);
		if (p) {
			v = isa_host_load(p, size);
		} else {
			commit(cs, op, &a);
			v = simd_element_load(cs, i, ea, size);
		}
		copy_bytes(a.v + n * size, &v, size);
		a.mask &= ~(1ULL << n);
	}
	fill_bytes(a.v + desc->nr_elems * size, 0, ZMM_BYTES - desc->nr_elems * size);
	a.mask = 0;
	commit(cs, op, &a);
}

static void scatter(struct cpu_state *cs, const struct isa_insn *i)
{
	const struct silicon_op *op = i->extra;
	const struct silicon_desc *desc = &op->desc;
	unsigned size = desc->elem_size;
	struct transfer_area a, index;

	simd_check(cs, SIMD_AVX512);
	area_in(cs, desc, &a, &index);
	for (unsigned n = 0; n < desc->nr_elems; n++) {
		uint64_t ea = element_address(cs, i, desc, &index, n), lin, v = 0;
		void *p = NULL;

		if (!((a.mask >> n) & 1))
			continue;
		copy_bytes(&v, a.v + n * size, size);
		if (isa_linear_ok(cs, i->seg, ea, size, ISA_WRITE, &lin))
			p = isa_tlb_write(cs, lin, size);
		if (p) {
			isa_host_store(p, size, v);
		} else {
			commit(cs, op, &a);
			simd_element_store(cs, i, ea, size, v);
		}
		a.mask &= ~(1ULL << n);
	}
	a.mask = 0;
	commit(cs, op, &a);
}

/* --- choosing, while decoding --- */
static unsigned vector_number(ZydisRegister r)
{
	return (unsigned)ZydisRegisterGetId(r) & 31;
}

static silicon_fn *published(struct emitter *e)
{
	const struct silicon_desc none = { 0 };
	const struct silicon_op *op;

	emit_return(e);
	op = silicon_get(&none, e->b, e->n);
	return op ? op->run : NULL;
}

/* A stub that stores an opmask behind the area's vector. */
static silicon_fn *mask_out(unsigned k)
{
	STUB_EMITTER(e);

	emit_kmov(&e, KMOV_STORE, k, ZMM_BYTES);
	return published(&e);
}

static silicon_fn *vector_out(unsigned nr, unsigned k)
{
	STUB_EMITTER(e);

	emit_zmm_move(&e, ZMM_STORE, nr);
	if (k)
		emit_kmov(&e, KMOV_STORE, k, ZMM_BYTES);
	return published(&e);
}

static isa_fn *indexed_handler(const struct isa_decoded *d, struct isa_insn *i, unsigned index_size,
			       unsigned elem_size)
{
	const ZydisDecodedOperand *mem = simd_memory_operand(d);
	bool is_store = mem == &d->operands[0];
	ZydisRegister reg = d->operands[is_store ? 2 : 0].reg.value;
	unsigned larger = index_size > elem_size ? index_size : elem_size, k = d->insn.raw.evex.aaa;
	struct silicon_desc desc = {
		.index_size = (uint8_t)index_size, .elem_size = (uint8_t)elem_size,
		.nr_elems = (uint8_t)(d->insn.avx.vector_length / 8 / larger),
		.scale_shift = (uint8_t)__builtin_ctz(mem->mem.scale ? mem->mem.scale : 1),
	};
	STUB_EMITTER(e);

	if (!k || (!is_store && vector_number(reg) == vector_number(mem->mem.index)))
		return NULL; /* #UD */
	desc.helper[0] = vector_out(vector_number(reg), k);
	desc.helper[1] = vector_out(vector_number(mem->mem.index), 0);
	if (!is_store)
		emit_zmm_move(&e, ZMM_LOAD, vector_number(reg));
	emit_kmov(&e, KMOV_LOAD, k, ZMM_BYTES);
	emit_return(&e);
	/* The vector index is ours: what remains is base + displacement. */
	i->index = ISA_NO_REG;
	i->index_off = offsetof(struct cpu_state, zero);
	i->shift = 0;
	i->scale = 1;
	i->ea_form = ISA_EA_SLOW;
	i->extra = (void *)silicon_get(&desc, e.b, e.n);
	if (!desc.helper[0] || !desc.helper[1] || !i->extra)
		return NULL;
	return is_store ? scatter : gather;
}

/* Bits of the mask that an instruction with this many elements in memory looks at. */
static unsigned mask_bits(const struct isa_decoded *d, unsigned nr_elems)
{
	switch (d->insn.avx.broadcast.mode) {
	case ZYDIS_BROADCAST_MODE_1_TO_2: return 2;
	case ZYDIS_BROADCAST_MODE_1_TO_4: case ZYDIS_BROADCAST_MODE_2_TO_4: return 4;
	case ZYDIS_BROADCAST_MODE_1_TO_8: case ZYDIS_BROADCAST_MODE_2_TO_8:
	case ZYDIS_BROADCAST_MODE_4_TO_8: return 8;
	case ZYDIS_BROADCAST_MODE_1_TO_16: case ZYDIS_BROADCAST_MODE_2_TO_16:
	case ZYDIS_BROADCAST_MODE_4_TO_16: case ZYDIS_BROADCAST_MODE_8_TO_16: return 16;
	case ZYDIS_BROADCAST_MODE_1_TO_32: return 32;
	case ZYDIS_BROADCAST_MODE_1_TO_64: return 64;
	default: return nr_elems;
	}
}

static bool suppresses_faults(const struct isa_decoded *d)
{
	switch (d->insn.mnemonic) { /* a mask finer or coarser than the elements: Zydis says E4 */
	case ZYDIS_MNEMONIC_VDBPSADBW: case ZYDIS_MNEMONIC_VCVTNE2PS2BF16:
	case ZYDIS_MNEMONIC_VGF2P8AFFINEQB: case ZYDIS_MNEMONIC_VGF2P8AFFINEINVQB:
		return false;
	default:
		break;
	}
	switch (d->insn.meta.exception_class) {
	case ZYDIS_EXCEPTION_CLASS_E1NF: case ZYDIS_EXCEPTION_CLASS_E2NF:
	case ZYDIS_EXCEPTION_CLASS_E3NF: case ZYDIS_EXCEPTION_CLASS_E4NF:
	case ZYDIS_EXCEPTION_CLASS_E5NF: case ZYDIS_EXCEPTION_CLASS_E6NF:
	case ZYDIS_EXCEPTION_CLASS_E9NF: case ZYDIS_EXCEPTION_CLASS_E10NF:
	case ZYDIS_EXCEPTION_CLASS_E11NF:
		return false;
	default:
		return true;
	}
}

isa_fn *isa_evex_indexed_handler(const struct isa_decoded *d, struct isa_insn *i)
{
	switch (d->insn.mnemonic) {
	case ZYDIS_MNEMONIC_VGATHERDPS: case ZYDIS_MNEMONIC_VPGATHERDD:
	case ZYDIS_MNEMONIC_VSCATTERDPS: case ZYDIS_MNEMONIC_VPSCATTERDD:
		return indexed_handler(d, i, 4, 4);
	case ZYDIS_MNEMONIC_VGATHERDPD: case ZYDIS_MNEMONIC_VPGATHERDQ:
	case ZYDIS_MNEMONIC_VSCATTERDPD: case ZYDIS_MNEMONIC_VPSCATTERDQ:
		return indexed_handler(d, i, 4, 8);
	case ZYDIS_MNEMONIC_VGATHERQPS: case ZYDIS_MNEMONIC_VPGATHERQD:
	case ZYDIS_MNEMONIC_VSCATTERQPS: case ZYDIS_MNEMONIC_VPSCATTERQD:
		return indexed_handler(d, i, 8, 4);
	case ZYDIS_MNEMONIC_VGATHERQPD: case ZYDIS_MNEMONIC_VPGATHERQQ:
	case ZYDIS_MNEMONIC_VSCATTERQPD: case ZYDIS_MNEMONIC_VPSCATTERQQ:
		return indexed_handler(d, i, 8, 8);
	default:
		return NULL;
	}
}

isa_fn *isa_evex_masked_handler(const struct isa_decoded *d, struct silicon_desc *desc)
{
	const ZydisDecodedOperand *mem = simd_memory_operand(d);
	unsigned k = d->insn.raw.evex.aaa;
	isa_fn *load_fn = masked_load, *store_fn = masked_store;
	bool is_store;

	switch (d->insn.mnemonic) {
	case ZYDIS_MNEMONIC_VCOMPRESSPS: case ZYDIS_MNEMONIC_VCOMPRESSPD:
	case ZYDIS_MNEMONIC_VPCOMPRESSB: case ZYDIS_MNEMONIC_VPCOMPRESSW:
	case ZYDIS_MNEMONIC_VPCOMPRESSD: case ZYDIS_MNEMONIC_VPCOMPRESSQ:
		store_fn = compress_store;
		break;
	case ZYDIS_MNEMONIC_VEXPANDPS: case ZYDIS_MNEMONIC_VEXPANDPD:
	case ZYDIS_MNEMONIC_VPEXPANDB: case ZYDIS_MNEMONIC_VPEXPANDW:
	case ZYDIS_MNEMONIC_VPEXPANDD: case ZYDIS_MNEMONIC_VPEXPANDQ:
		load_fn = expand_load;
		break;
	default:
		break;
	}
	is_store = mem && (mem->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE);
	if (!mem || !k || (!is_store && !suppresses_faults(d)))
		return NULL;
	if (is_store && !suppresses_faults(d))
		store_fn = unsuppressed_store;
	desc->elem_size = (uint8_t)(mem->element_size / 8);
	desc->nr_elems = (uint8_t)mem->element_count;
	desc->nr_mask_bits = (uint8_t)mask_bits(d, mem->element_count);
	desc->helper[0] = mask_out(k);
	if (!desc->helper[0])
		return isa_raise_ud;
	return is_store ? store_fn : load_fn;
}
