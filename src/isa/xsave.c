/*
 * FXSAVE, FXRSTOR, the XSAVE family and XGETBV, on the image. Components behind
 * the header lie where the host has them in the standard format, one after the
 * other in the compacted. PKRU is component 9; RDPKRU and WRPKRU are here too. IA32_XSS is 0, so XSAVES and XRSTORS differ from
 * XSAVEC and compacted XRSTOR in privilege only.
 *
 * Invariants
 * 1. All checks (#UD, #NM, alignment, the whole area writable or readable,
 *    header, MXCSR) are made before the first byte or register changes.
 * 2. Outside 64-bit mode vector registers 8 to 31 are neither saved nor restored.
 *
 * Sources: SDM Vol. 1, "Operation of XSAVE" … "Operation of XRSTORS"; Vol. 2,
 * FXSAVE, FXRSTOR. Locks: none; runs on the vCPU's thread, general registers only.
 */
#include "isa/fpu.h"
#include "isa/isa.h"
#include "isa/simd.h"
#include "lib/copy.h"

#define XCOMP_COMPACTED BIT_ULL(63)
#define CHUNK 64u

#define OFF(field) ((unsigned)offsetof(struct isa_xsave_image, field))
#define OFF_HEADER OFF(xstate_bv)
#define HEADER_BYTES 64u
#define REX_W 1 /* isa_insn.aux: 64-bit FIP and FDP */

void simd_probe_write(struct cpu_state *cs, uint64_t lin, unsigned size)
{
	uint64_t at = lin, end = lin + size;

	for (; at < end; at = (at & PAGE_MASK) + PAGE_SIZE) {
		unsigned n = (unsigned)min_u64(CHUNK, end - at);

		n = (unsigned)min_u64(n, (at & PAGE_MASK) + PAGE_SIZE - at);
		if (!isa_tlb_write(cs, at, n))
			(void)cs->ops->mem(cs, at, n, ISA_WRITE, cs->bounce);
	}
}

void simd_store_area(struct cpu_state *cs, uint64_t lin, const void *buf, unsigned size)
{
	for (unsigned at = 0; at < size; at += CHUNK)
		isa_store_bytes(cs, lin + at, (const char *)buf + at,
				size - at < CHUNK ? size - at : CHUNK);
}

void simd_load_area(struct cpu_state *cs, uint64_t lin, void *buf, unsigned size)
{
	for (unsigned at = 0; at < size; at += CHUNK)
		isa_load_bytes(cs, lin + at, (char *)buf + at,
			       size - at < CHUNK ? size - at : CHUNK);
}

static unsigned nr_vector_regs(const struct cpu_state *cs)
{
	return cs->code_mode == ISA_CODE64 ? 16 : 8;
}

static uint64_t aligned_operand(struct cpu_state *cs, const struct isa_insn *i, unsigned size,
				unsigned align, enum isa_access how)
{
	uint64_t lin = isa_operand(cs, i, size, how);

	if (lin & (align - 1))
		isa_raise_error(cs, X86_TRAP_GP, 0);
	return lin;
}

/* The x87 part: bytes 0..23 and 32..159, pointers cut to the form's width. */
static void store_x87(struct cpu_state *cs, const struct isa_insn *i, uint64_t lin,
		      const struct isa_xsave_image *x)
{
	uint64_t head[3];

	copy_bytes(head, x, sizeof(head));
	if (!(i->aux & REX_W)) {
		head[1] = (uint32_t)head[1];
		head[2] = (uint32_t)head[2];
	}
	simd_store_area(cs, lin, head, sizeof(head));
	simd_store_area(cs, lin + OFF(st), x->st, sizeof(x->st));
}

static void take_x87(const struct isa_insn *i, struct isa_xsave_image *x,
		     const struct isa_xsave_image *from)
{
	copy_bytes(x, from, OFF(mxcsr));
	x->fop &= 0x7ff;
	x->pad = 0;
	if (!(i->aux & REX_W)) {
		x->fip = (uint32_t)x->fip;
		x->fdp = (uint32_t)x->fdp;
	}
	for (unsigned n = 0; n < 8; n++) {
		x->st[n][0] = from->st[n][0];
		x->st[n][1] = from->st[n][1] & 0xffff;
	}
}

/* --- FXSAVE, FXRSTOR --- */
static void check_fxsr(struct cpu_state *cs)
{
	if (cs->cr0 & (X86_CR0_EM | X86_CR0_TS))
		isa_raise(cs, X86_TRAP_NM);
}

static void fxsave(struct cpu_state *cs, const struct isa_insn *i)
{
	const struct isa_xsave_image *x;
	uint64_t lin;

	check_fxsr(cs);
	lin = aligned_operand(cs, i, 512, 16, ISA_WRITE);
	simd_probe_write(cs, lin, 512);
	x = isa_fpu_image(cs);
	store_x87(cs, i, lin, x);
	simd_store_area(cs, lin + OFF(mxcsr), &x->mxcsr, 8);
	simd_store_area(cs, lin + OFF(xmm), x->xmm, nr_vector_regs(cs) * 16);
}

static void fxrstor(struct cpu_state *cs, const struct isa_insn *i)
{
	struct isa_xsave_image in, *x;
	uint64_t lin;

	check_fxsr(cs);
	lin = aligned_operand(cs, i, 512, 16, ISA_READ);
	simd_load_area(cs, lin, &in, 512);
	if (in.mxcsr & ~MXCSR_VALID)
		isa_raise_error(cs, X86_TRAP_GP, 0);
	x = isa_fpu_image(cs);
	take_x87(i, x, &in);
	x->mxcsr = in.mxcsr;
	copy_bytes(x->xmm, in.xmm, nr_vector_regs(cs) * 16);
	x->xstate_bv |= XFEATURE_MASK_FP | XFEATURE_MASK_SSE;
}

/* --- the XSAVE family --- */
static uint64_t check_xsave(struct cpu_state *cs)
{
	if (!(cs->cr4 & X86_CR4_OSXSAVE))
		isa_raise(cs, X86_TRAP_UD);
	if (cs->cr0 & X86_CR0_TS)
		isa_raise(cs, X86_TRAP_NM);
	return cs->xcr0 & ((uint32_t)cs->gpr[RAX] | (cs->gpr[RDX] << 32));
}

/* --- components behind the header: AVX, opmask, ZMM_Hi256, Hi16_ZMM, PKRU --- */
#define FIRST_EXTENDED 2u
#define PKRU_BYTES 8u /* the register, and 4 bytes of zeros */
#define EXTENDED_BYTES (256u + 64u + 512u + 1024u + PKRU_BYTES) /* of all of them together */

/* Components that are not in their initial configuration. */
static uint64_t in_use(const struct cpu_state *cs, const struct isa_xsave_image *x)
{
	return x->xstate_bv | (cs->pkru ? XFEATURE_MASK_PKRU : 0);
}

static void set_pkru(struct cpu_state *cs, uint32_t v)
{
	uint32_t changed = cs->pkru ^ v;

	cs->pkru = v;
	if (changed && cs->ops->pkru_changed)
		cs->ops->pkru_changed(cs, changed);
}

static unsigned component_size(unsigned n)
{
	return isa_host()->component[n].size;
}

/*
 * The part of component n that this code mode saves and restores: of AVX and
 * ZMM_Hi256 the first half outside 64-bit mode, of Hi16_ZMM nothing.
 */
static unsigned component_part(const struct cpu_state *cs, unsigned n)
{
	if (cs->code_mode == ISA_CODE64 || BIT_ULL(n) == XFEATURE_MASK_OPMASK || n == XFEATURE_PKRU)
		return component_size(n);
	return BIT_ULL(n) == XFEATURE_MASK_HI16_ZMM ? 0 : component_size(n) / 2;
}

/* Where component n begins in an area: standard (compacted = 0), or with these components compacted. */
static unsigned component_offset(unsigned n, uint64_t compacted)
{
	const struct isa_host *h = isa_host();
	unsigned at = OFF_HEADER + HEADER_BYTES;

	if (!compacted)
		return h->component[n].offset;
	for (unsigned k = FIRST_EXTENDED;; k++) {
		if (!((compacted >> k) & 1))
			continue;
		if (h->component[k].aligned)
			at = ALIGN_UP(at, 64u);
		if (k == n)
			return at;
		at += h->component[k].size;
	}
}

/* Bytes of an area with these components. */
static unsigned area_size(uint64_t features, uint64_t compacted)
{
	unsigned size = OFF_HEADER + HEADER_BYTES;

	for (unsigned n = FIRST_EXTENDED; n < ISA_HOST_COMPONENTS; n++)
		if ((features >> n) & 1) {
			unsigned end = component_offset(n, compacted) + component_size(n);

			size = end > size ? end : size;
		}
	return size;
}

enum save_kind { SAVE_PLAIN, SAVE_OPT, SAVE_COMPACT };

/* Data of the components in `which`; MXCSR apart, as its rules differ. */
static void store_components(struct cpu_state *cs, const struct isa_insn *i, uint64_t lin,
			     struct isa_xsave_image *x, uint64_t which, uint64_t compacted, bool mxcsr)
{
	if (which & XFEATURE_MASK_FP)
		store_x87(cs, i, lin, x);
	if (mxcsr)
		simd_store_area(cs, lin + OFF(mxcsr), &x->mxcsr, 8);
	if (which & XFEATURE_MASK_SSE)
		simd_store_area(cs, lin + OFF(xmm), x->xmm, nr_vector_regs(cs) * 16);
	for (unsigned n = FIRST_EXTENDED; n < XFEATURE_PKRU; n++)
		if ((which >> n) & 1)
			simd_store_area(cs, lin + component_offset(n, compacted),
					isa_xsave_component(x, n), component_part(cs, n));
	if (which & XFEATURE_MASK_PKRU)
		isa_store(cs, lin + component_offset(XFEATURE_PKRU, compacted), PKRU_BYTES, cs->pkru);
}

ISA_INLINE void do_save(struct cpu_state *cs, const struct isa_insn *i, enum save_kind kind)
{
	const uint64_t has_mxcsr = XFEATURE_MASK_SSE | XFEATURE_MASK_YMM;
	uint64_t rfbm = check_xsave(cs), lin, inuse, which, header[2];
	uint64_t compacted = kind == SAVE_COMPACT ? XCOMP_COMPACTED | rfbm : 0;
	unsigned size = area_size(rfbm, compacted);
	struct isa_xsave_image *x;
	bool mxcsr;

	lin = aligned_operand(cs, i, size, 64, ISA_WRITE);
	simd_probe_write(cs, lin, size);
	x = isa_fpu_image(cs);
	inuse = in_use(cs, x);
	if (kind == SAVE_COMPACT && x->mxcsr != MXCSR_DEFAULT)
		inuse |= XFEATURE_MASK_SSE;
	which = kind == SAVE_PLAIN ? rfbm : rfbm & inuse;
	mxcsr = kind == SAVE_COMPACT ? which & XFEATURE_MASK_SSE : rfbm & has_mxcsr;
	header[0] = rfbm & inuse;
	if (kind != SAVE_COMPACT)
		header[0] |= isa_load(cs, lin + OFF_HEADER, 8) & ~rfbm;
	header[1] = XCOMP_COMPACTED | rfbm;
	store_components(cs, i, lin, x, which, compacted, mxcsr);
	simd_store_area(cs, lin + OFF_HEADER, header, kind == SAVE_COMPACT ? 16 : 8);
}

static void xsave(struct cpu_state *cs, const struct isa_insn *i)
{
	do_save(cs, i, SAVE_PLAIN);
}

static void xsaveopt(struct cpu_state *cs, const struct isa_insn *i)
{
	do_save(cs, i, SAVE_OPT);
}

static void xsavec(struct cpu_state *cs, const struct isa_insn *i)
{
	do_save(cs, i, SAVE_COMPACT);
}

static void check_xsaves(struct cpu_state *cs)
{
	if (cs->no_xsaves)
		isa_raise(cs, X86_TRAP_UD);
	(void)check_xsave(cs);
	if (cs->cpl)
		isa_raise_error(cs, X86_TRAP_GP, 0);
}

static void xsaves(struct cpu_state *cs, const struct isa_insn *i)
{
	check_xsaves(cs);
	do_save(cs, i, SAVE_COMPACT);
}

/* #GP(0) where the header of an area is not one XRSTOR takes. */
static void check_header(struct cpu_state *cs, const struct isa_xsave_image *in)
{
	uint64_t reserved = 0;
	unsigned first = 0;
	bool bad;

	if (in->xcomp_bv & XCOMP_COMPACTED) {
		bad = (in->xcomp_bv & ~XCOMP_COMPACTED & ~cs->xcr0) ||
		      (in->xstate_bv & ~in->xcomp_bv);
	} else {
		bad = in->xcomp_bv || (in->xstate_bv & ~cs->xcr0);
	}
	/* Standard form: bytes 23:8 of the header; compacted: 63:16. */
	if (!(in->xcomp_bv & XCOMP_COMPACTED))
		reserved = in->header_reserved[first++];
	else
		for (; first < ARRAY_SIZE(in->header_reserved); first++)
			reserved |= in->header_reserved[first];
	if (bad || reserved)
		isa_raise_error(cs, X86_TRAP_GP, 0);
}

/* Components behind the header that were loaded, one after the other in component order. */
struct extended {
	uint8_t b[EXTENDED_BYTES] __attribute__((aligned(64)));
};

static void load_extended(struct cpu_state *cs, uint64_t lin, uint64_t which, uint64_t compacted,
			  struct extended *e)
{
	unsigned at = 0;

	for (unsigned n = FIRST_EXTENDED; n < ISA_HOST_COMPONENTS; n++)
		if ((which >> n) & 1) {
			simd_load_area(cs, lin + component_offset(n, compacted), e->b + at,
				       component_part(cs, n));
			at += component_part(cs, n);
		}
}

/* The components in rfbm: from what was loaded where bv has them, else initial. */
static void take_extended(struct cpu_state *cs, struct isa_xsave_image *x,
			  const struct extended *e, uint64_t rfbm, uint64_t bv)
{
	unsigned at = 0;

	for (unsigned n = FIRST_EXTENDED; n < ISA_HOST_COMPONENTS; n++) {
		unsigned part = (rfbm >> n) & 1 ? component_part(cs, n) : 0;

		if (!part)
			continue;
		if (n == XFEATURE_PKRU) {
			set_pkru(cs, (bv >> n) & 1 ? (uint32_t)isa_host_load(e->b + at, 4) : 0);
		} else if ((bv >> n) & 1) {
			copy_bytes(isa_xsave_component(x, n), e->b + at, part);
			at += part;
		} else {
			fill_bytes(isa_xsave_component(x, n), 0, part);
		}
	}
}

static void take_components(struct cpu_state *cs, const struct isa_insn *i,
			    const struct isa_xsave_image *in, const struct extended *e,
			    uint64_t rfbm, bool mxcsr)
{
	static const struct isa_xsave_image initial = { .fcw = FCW_DEFAULT };
	/* outside 64-bit mode registers 8 and above keep their component in use */
	const uint64_t whole = cs->code_mode == ISA_CODE64 ?
				       ~0ULL : XFEATURE_MASK_FP | XFEATURE_MASK_OPMASK;
	struct isa_xsave_image *x = isa_fpu_image(cs);
	uint64_t bv = in->xstate_bv;

	if (rfbm & XFEATURE_MASK_FP)
		take_x87(i, x, bv & XFEATURE_MASK_FP ? in : &initial);
	if (rfbm & bv & XFEATURE_MASK_SSE)
		copy_bytes(x->xmm, in->xmm, nr_vector_regs(cs) * 16);
	else if (rfbm & XFEATURE_MASK_SSE)
		fill_bytes(x->xmm, 0, nr_vector_regs(cs) * 16);
	take_extended(cs, x, e, rfbm, bv);
	if (mxcsr)
		x->mxcsr = in->mxcsr;
	else if ((in->xcomp_bv & XCOMP_COMPACTED) && (rfbm & XFEATURE_MASK_SSE))
		x->mxcsr = MXCSR_DEFAULT;
	x->xstate_bv = (x->xstate_bv & ~(rfbm & whole)) | (bv & rfbm & ~XFEATURE_MASK_PKRU);
}

static void do_restore(struct cpu_state *cs, const struct isa_insn *i, bool must_be_compacted)
{
	uint64_t rfbm = check_xsave(cs), lin, compacted;
	struct isa_xsave_image in;
	struct extended e;
	bool mxcsr;

	lin = aligned_operand(cs, i, OFF_HEADER + HEADER_BYTES, 64, ISA_READ);
	simd_load_area(cs, lin + OFF_HEADER, &in.xstate_bv, HEADER_BYTES);
	if (must_be_compacted && !(in.xcomp_bv & XCOMP_COMPACTED))
		isa_raise_error(cs, X86_TRAP_GP, 0);
	check_header(cs, &in);
	compacted = in.xcomp_bv & XCOMP_COMPACTED ? in.xcomp_bv : 0;
	/* of the segment too, which the first look could not know the size for */
	(void)isa_operand(cs, i, area_size(rfbm & (compacted ? compacted : ~0ULL), compacted), ISA_READ);
	simd_load_area(cs, lin, &in, OFF_HEADER);
	load_extended(cs, lin, rfbm & in.xstate_bv, compacted, &e);
	if (compacted)
		mxcsr = rfbm & in.xstate_bv & XFEATURE_MASK_SSE;
	else
		mxcsr = rfbm & (XFEATURE_MASK_SSE | XFEATURE_MASK_YMM);
	if (mxcsr && (in.mxcsr & ~MXCSR_VALID))
		isa_raise_error(cs, X86_TRAP_GP, 0);
	take_components(cs, i, &in, &e, rfbm, mxcsr);
}

static void xrstor(struct cpu_state *cs, const struct isa_insn *i)
{
	do_restore(cs, i, false);
}

static void xrstors(struct cpu_state *cs, const struct isa_insn *i)
{
	check_xsaves(cs);
	do_restore(cs, i, true);
}

/* ECX 0: XCR0; 1: the components in use. */
static void xgetbv(struct cpu_state *cs, const struct isa_insn *i)
{
	uint64_t v;

	if (!(cs->cr4 & X86_CR4_OSXSAVE))
		isa_raise(cs, X86_TRAP_UD);
	switch ((uint32_t)cs->gpr[RCX]) {
	case 0:
		v = cs->xcr0;
		break;
	case 1: {
		const struct isa_xsave_image *x = isa_fpu_image(cs);

		v = in_use(cs, x);
		if (x->mxcsr != MXCSR_DEFAULT)
			v |= XFEATURE_MASK_SSE;
		v &= cs->xcr0;
		break;
	}
	default:
		isa_raise_error(cs, X86_TRAP_GP, 0);
	}
	cs->gpr[RAX] = (uint32_t)v;
	cs->gpr[RDX] = v >> 32;
}

/* --- PKRU --- */

static void check_pkru(struct cpu_state *cs)
{
	if (!(cs->cr4 & X86_CR4_PKE))
		isa_raise(cs, X86_TRAP_UD);
	if ((uint32_t)cs->gpr[RCX])
		isa_raise_error(cs, X86_TRAP_GP, 0);
}

static void rdpkru(struct cpu_state *cs, const struct isa_insn *i)
{
	check_pkru(cs);
	cs->gpr[RAX] = cs->pkru;
	cs->gpr[RDX] = 0;
}

static void wrpkru(struct cpu_state *cs, const struct isa_insn *i)
{
	check_pkru(cs);
	if ((uint32_t)cs->gpr[RDX])
		isa_raise_error(cs, X86_TRAP_GP, 0);
	set_pkru(cs, (uint32_t)cs->gpr[RAX]);
}

isa_fn *isa_xsave_handler(const struct isa_decoded *d, struct isa_insn *i)
{
	static const struct {
		ZydisMnemonic mnemonic;
		isa_fn *fn;
	} table[] = {
		{ ZYDIS_MNEMONIC_FXSAVE, fxsave }, { ZYDIS_MNEMONIC_FXSAVE64, fxsave },
		{ ZYDIS_MNEMONIC_FXRSTOR, fxrstor }, { ZYDIS_MNEMONIC_FXRSTOR64, fxrstor },
		{ ZYDIS_MNEMONIC_XSAVE, xsave }, { ZYDIS_MNEMONIC_XSAVE64, xsave },
		{ ZYDIS_MNEMONIC_XSAVEOPT, xsaveopt }, { ZYDIS_MNEMONIC_XSAVEOPT64, xsaveopt },
		{ ZYDIS_MNEMONIC_XSAVEC, xsavec }, { ZYDIS_MNEMONIC_XSAVEC64, xsavec },
		{ ZYDIS_MNEMONIC_XSAVES, xsaves }, { ZYDIS_MNEMONIC_XSAVES64, xsaves },
		{ ZYDIS_MNEMONIC_XRSTOR, xrstor }, { ZYDIS_MNEMONIC_XRSTOR64, xrstor },
		{ ZYDIS_MNEMONIC_XRSTORS, xrstors }, { ZYDIS_MNEMONIC_XRSTORS64, xrstors },
		{ ZYDIS_MNEMONIC_XGETBV, xgetbv },
		{ ZYDIS_MNEMONIC_RDPKRU, rdpkru }, { ZYDIS_MNEMONIC_WRPKRU, wrpkru },
	};

	for (unsigned n = 0; n < ARRAY_SIZE(table); n++)
		if (table[n].mnemonic == d->insn.mnemonic) {
			i->aux = d->mode == ISA_CODE64 && d->insn.raw.rex.W ? REX_W : 0;
			return table[n].fn;
		}
	return NULL;
}
