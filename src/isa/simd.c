/*
 * Handlers of x87, MMX, SSE and AVX instructions: availability and alignment
 * checks in C, the instruction itself in a silicon stub (isa/stub.h).
 *
 * Invariants
 * 1. Order: #UD and #NM, then #GP of alignment, then the memory operand's
 *    faults, then the FPU is loaded, then the stub runs. Nothing between
 *    loading and the stub can unload it again.
 * 2. A stub that reads or writes guest memory itself may take SIGSEGV there
 *    (client memory vanished): the silicon then has changed nothing. The
 *    processor's signal handler returns into a function that unwinds, so that
 *    the guest's registers come back from the frame (guest_fault()).
 * 3. A store that went to the bounce buffer is committed only if silicon
 *    would have written: not after a fault, nor after an x87 store that an
 *    unmasked exception stopped.
 *
 * Locks: none; runs on the vCPU's thread, general registers only.
 */
#include "isa/fpu.h"
#include "isa/host.h"
#include "isa/isa.h"
#include "isa/simd.h"
#include "isa/simd_encode.h"
#include "isa/stub.h"
#include "lib/bug.h"
#include "lib/copy.h"

/* --- availability: SDM Vol. 3, "System Programming for Instruction Set Extensions" --- */
static bool protected_mode(const struct cpu_state *cs)
{
	return cs->code_mode == ISA_CODE64 ||
	       ((cs->cr0 & X86_CR0_PE) && !(cs->rflags & X86_FLAGS_VM));
}

static void __attribute__((noinline, noreturn))
simd_unavailable(struct cpu_state *cs, enum simd_class class)
{
	bool ud = false;

	switch (class) {
	case SIMD_SSE:
		ud = (cs->cr0 & X86_CR0_EM) || !(cs->cr4 & X86_CR4_OSFXSR);
		break;
	case SIMD_MMX:
		ud = cs->cr0 & X86_CR0_EM;
		break;
	case SIMD_AVX:
		ud = !(cs->cr4 & X86_CR4_OSXSAVE) || (~cs->xcr0 & SIMD_AVX_XCR0) ||
		     !protected_mode(cs);
		break;
	case SIMD_AVX512:
		ud = !(cs->cr4 & X86_CR4_OSXSAVE) || (~cs->xcr0 & SIMD_AVX512_XCR0) ||
		     !protected_mode(cs);
		break;
	case SIMD_X87:
	case SIMD_FWAIT:
		break;
	}
	isa_raise(cs, ud ? X86_TRAP_UD : X86_TRAP_NM);
}

ISA_INLINE void check_available(struct cpu_state *cs, enum simd_class class)
{
	bool ok;

	switch (class) {
	case SIMD_SSE:
		ok = !(cs->cr0 & (X86_CR0_EM | X86_CR0_TS)) && (cs->cr4 & X86_CR4_OSFXSR);
		break;
	case SIMD_AVX:
		ok = !(cs->cr0 & X86_CR0_TS) && (cs->cr4 & X86_CR4_OSXSAVE) &&
		     !(~cs->xcr0 & SIMD_AVX_XCR0) && protected_mode(cs);
		break;
	case SIMD_AVX512:
		ok = !(cs->cr0 & X86_CR0_TS) && (cs->cr4 & X86_CR4_OSXSAVE) &&
		     !(~cs->xcr0 & SIMD_AVX512_XCR0) && protected_mode(cs);
		break;
	case SIMD_FWAIT:
		ok = (~cs->cr0 & (X86_CR0_MP | X86_CR0_TS)) != 0;
		break;
	default:
		ok = !(cs->cr0 & (X86_CR0_EM | X86_CR0_TS));
		break;
	}
	if (unlikely(!ok))
		simd_unavailable(cs, class);
}

void simd_check(struct cpu_state *cs, enum simd_class class)
{
	check_available(cs, class);
}

/* --- running a stub --- */
static void __attribute__((noinline, noreturn)) simd_fault(struct cpu_state *cs, uint64_t status)
{
	enum exception_vector v = (enum exception_vector)(status - 1);

	if (v == X86_TRAP_XM && !(cs->cr4 & X86_CR4_OSXMMEXCPT))
		v = X86_TRAP_UD;
	if (v == X86_TRAP_GP)
		isa_raise_error(cs, v, 0);
	isa_raise(cs, v);
}

ISA_INLINE void run(struct cpu_state *cs, silicon_fn *fn, void *mem)
{
	uint64_t status;

	if (unlikely(!cs->fpu_loaded))
		isa_fpu_load(cs);
	status = fn(mem, cs);
	if (unlikely(status)) {
		isa_fpu_leave(cs); /* here: a sanitizer's code runs before a call that does not return */
		simd_fault(cs, status);
	}
}

void simd_run(struct cpu_state *cs, silicon_fn *fn, void *mem)
{
	run(cs, fn, mem);
}

/* A pending x87 exception comes before #GP where MMX registers are involved. */
static void __attribute__((noinline, noreturn))
simd_misaligned(struct cpu_state *cs, const struct silicon_desc *desc)
{
	const struct isa_xsave_image *x = isa_fpu_image(cs);

	if (desc->uses_mmx && (x->fsw & ~x->fcw & 0x3f))
		isa_raise(cs, X86_TRAP_MF);
	isa_raise_error(cs, X86_TRAP_GP, 0);
}

ISA_INLINE uint64_t checked_operand(struct cpu_state *cs, const struct isa_insn *i,
				    const struct silicon_desc *desc, enum isa_access how)
{
	uint64_t lin = isa_operand(cs, i, desc->mem_size, how);

	if (unlikely(lin & desc->align_mask))
		simd_misaligned(cs, desc);
	return lin;
}

/* cs->x87 after a non-control x87 instruction. */
ISA_INLINE void note_x87(struct cpu_state *cs, const struct isa_insn *i,
			 const struct silicon_desc *desc, bool mem)
{
	if (!desc->notes_ip)
		return;
	cs->x87.ip = isa_rip(cs);
	cs->x87.op = desc->x87_op;
	if (mem)
		cs->x87.dp = isa_ea(cs, i);
}

/*
 * An x87 store stopped by an unmasked exception leaves memory alone, and which
 * ones stop differs between processors: so a bounce buffer is filled with a
 * mark first, and looked at where such an exception is pending afterwards.
 */
#define X87_STORE_MARK 0x93c5a6719d2be84full

static void mark_bounce(struct cpu_state *cs)
{
	((uint64_t *)cs->bounce)[0] = X87_STORE_MARK;
	((uint64_t *)cs->bounce)[1] = X87_STORE_MARK;
}

static bool __attribute__((noinline)) x87_stored(const struct cpu_state *cs, unsigned size)
{
	const uint64_t mark = X87_STORE_MARK;
	uint16_t fsw, fcw;

	__asm__ volatile("fnstsw %0\n\tfnstcw %1" : "=m"(fsw), "=m"(fcw));
	if (likely(!(fsw & ~fcw & 0x3f)))
		return true;
	for (unsigned n = 0; n < size; n++)
		if (cs->bounce[n] != (uint8_t)(mark >> (8 * (n & 7))))
			return true;
	return false;
}

/*
 * The TLB does not know the operand: it may fault. A pending x87 exception comes
 * first, as observed on silicon (the SDM leaves the order open), but not for
 * instructions that do not wait.
 */
static void *__attribute__((noinline))
operand_slow(struct cpu_state *cs, const struct isa_insn *i, const struct silicon_desc *desc,
	     enum simd_class class, uint64_t lin, enum isa_access how)
{
	if (class == SIMD_X87 ? i->mnemonic != ZYDIS_MNEMONIC_FNSTCW &&
					i->mnemonic != ZYDIS_MNEMONIC_FNSTSW
			      : desc->uses_mmx) {
		const struct isa_xsave_image *x = isa_fpu_image(cs);

		if (x->fsw & ~x->fcw & 0x3f)
			isa_raise(cs, X86_TRAP_MF);
	}
	return cs->ops->mem(cs, lin, desc->mem_size, how, cs->bounce);
}

ISA_INLINE void run_reg(struct cpu_state *cs, const struct isa_insn *i, enum simd_class class)
{
	const struct silicon_op *op = i->extra;

	check_available(cs, class);
	run(cs, op->run, NULL);
	if (class == SIMD_X87)
		note_x87(cs, i, &op->desc, false);
	isa_fpu_leave(cs);
}

ISA_INLINE void run_load(struct cpu_state *cs, const struct isa_insn *i, enum simd_class class)
{
	const struct silicon_op *op = i->extra;
	uint64_t lin;
	void *p;

	check_available(cs, class);
	lin = checked_operand(cs, i, &op->desc, ISA_READ);
	p = isa_tlb_read(cs, lin, op->desc.mem_size);
	if (unlikely(!p))
		p = operand_slow(cs, i, &op->desc, class, lin, ISA_READ);
	run(cs, op->run, p);
	if (class == SIMD_X87)
		note_x87(cs, i, &op->desc, true);
	isa_fpu_leave(cs);
}

ISA_INLINE void run_store(struct cpu_state *cs, const struct isa_insn *i, enum simd_class class)
{
	const struct silicon_op *op = i->extra;
	uint64_t lin;
	void *p;

	check_available(cs, class);
	lin = checked_operand(cs, i, &op->desc, ISA_WRITE);
	p = isa_tlb_write(cs, lin, op->desc.mem_size);
	if (unlikely(!p))
		p = operand_slow(cs, i, &op->desc, class, lin, ISA_WRITE);
	if (class == SIMD_X87 && unlikely(p == cs->bounce))
		mark_bounce(cs);
	run(cs, op->run, p);
	if (class == SIMD_X87)
		note_x87(cs, i, &op->desc, true);
	if (unlikely(p == cs->bounce) &&
	    (class != SIMD_X87 || x87_stored(cs, op->desc.mem_size)))
		cs->ops->mem_commit(cs, lin, op->desc.mem_size, p);
	isa_fpu_leave(cs);
}

#define HANDLERS(name, class)                                               \
	static void name##_reg(struct cpu_state *cs, const struct isa_insn *i)   \
	{                                                                   \
		run_reg(cs, i, class);                                      \
	}                                                                   \
	static void name##_load(struct cpu_state *cs, const struct isa_insn *i)  \
	{                                                                   \
		run_load(cs, i, class);                                     \
	}                                                                   \
	static void name##_store(struct cpu_state *cs, const struct isa_insn *i) \
	{                                                                   \
		run_store(cs, i, class);                                    \
	}
HANDLERS(sse, SIMD_SSE)
HANDLERS(avx, SIMD_AVX)
HANDLERS(avx512, SIMD_AVX512)
HANDLERS(mmx, SIMD_MMX)
HANDLERS(x87, SIMD_X87)

static void fwait_reg(struct cpu_state *cs, const struct isa_insn *i)
{
	run_reg(cs, i, SIMD_FWAIT);
}

/* FNINIT also forgets the last instruction. */
static void x87_fninit(struct cpu_state *cs, const struct isa_insn *i)
{
	const struct silicon_op *op = i->extra;

	check_available(cs, SIMD_X87);
	run(cs, op->run, NULL);
	cs->x87.ip = 0;
	cs->x87.dp = 0;
	cs->x87.op = 0;
	isa_fpu_leave(cs);
}

/* VZEROUPPER, VZEROALL outside 64-bit code: registers 0 to 7 only. */
ISA_INLINE void vzero_low(struct cpu_state *cs, bool all)
{
	struct isa_xsave_image *x;

	check_available(cs, SIMD_AVX);
	x = isa_fpu_image(cs);
	for (unsigned n = 0; n < 8; n++) {
		x->ymm_high[n][0] = x->ymm_high[n][1] = 0;
		if (isa_host()->xfeatures & XFEATURE_MASK_ZMM_HI256)
			fill_bytes(isa_xsave_component(x, XFEATURE_ZMM_HI256) + n * 32, 0, 32);
		if (all)
			x->xmm[n][0] = x->xmm[n][1] = 0;
	}
	x->xstate_bv |= XFEATURE_MASK_YMM | (all ? XFEATURE_MASK_SSE : 0);
}

static void avx_vzeroupper_low(struct cpu_state *cs, const struct isa_insn *i)
{
	vzero_low(cs, false);
}

static void avx_vzeroall_low(struct cpu_state *cs, const struct isa_insn *i)
{
	vzero_low(cs, true);
}

enum simd_form { FORM_REG, FORM_LOAD, FORM_STORE, NR_FORMS };

static isa_fn *const simd_fn[NR_SIMD_CLASSES][NR_FORMS] = {
	[SIMD_SSE] = { sse_reg, sse_load, sse_store },
	[SIMD_AVX] = { avx_reg, avx_load, avx_store },
	[SIMD_AVX512] = { avx512_reg, avx512_load, avx512_store },
	[SIMD_MMX] = { mmx_reg, mmx_load, mmx_store },
	[SIMD_X87] = { x87_reg, x87_load, x87_store },
	[SIMD_FWAIT] = { fwait_reg, NULL, NULL },
};

bool isa_silicon_insn(const struct isa_insn *i, struct isa_silicon *s)
{
	static const uint8_t state[NR_SIMD_CLASSES] = {
		[SIMD_SSE] = ISA_SILICON_SSE, [SIMD_AVX] = ISA_SILICON_AVX,
		[SIMD_MMX] = ISA_SILICON_X87, [SIMD_X87] = ISA_SILICON_X87,
		[SIMD_FWAIT] = ISA_SILICON_X87, [SIMD_AVX512] = ISA_SILICON_AVX512,
	};

	for (unsigned class = 0; class < NR_SIMD_CLASSES; class++)
		for (unsigned form = 0; form < NR_FORMS; form++)
			if (i->fn == simd_fn[class][form]) {
				s->state = state[class];
				s->store = form == FORM_STORE;
				s->notes_ip = ((const struct silicon_op *)i->extra)->desc.notes_ip;
				return true;
			}
	return false;
}

/* LDMXCSR: the host may allow bits (MISALIGNSSE) that the guest has not. */
ISA_INLINE void ldmxcsr(struct cpu_state *cs, const struct isa_insn *i, enum simd_class class)
{
	uint32_t v;

	check_available(cs, class);
	v = (uint32_t)isa_load(cs, isa_operand(cs, i, 4, ISA_READ), 4);
	if (v & ~MXCSR_VALID)
		isa_raise_error(cs, X86_TRAP_GP, 0);
	if (!cs->fpu_loaded)
		isa_fpu_load(cs);
	__asm__ volatile("ldmxcsr %0" : : "m"(v));
	isa_fpu_leave(cs);
}

static void sse_ldmxcsr(struct cpu_state *cs, const struct isa_insn *i)
{
	ldmxcsr(cs, i, SIMD_SSE);
}

static void avx_ldmxcsr(struct cpu_state *cs, const struct isa_insn *i)
{
	ldmxcsr(cs, i, SIMD_AVX);
}

/* LFENCE, MFENCE, SFENCE: ordering is the host's own. */
static void fence(struct cpu_state *cs, const struct isa_insn *i)
{
	__sync_synchronize();
}

/* --- choosing, while decoding --- */
static bool has_register_of(const struct isa_decoded *d, ZydisRegisterClass class)
{
	for (unsigned n = 0; n < d->insn.operand_count; n++)
		if (d->operands[n].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ZydisRegisterGetClass(d->operands[n].reg.value) == class)
			return true;
	return false;
}

static enum simd_class class_of_legacy(const struct isa_decoded *d)
{
	return has_register_of(d, ZYDIS_REGCLASS_MMX) && !has_register_of(d, ZYDIS_REGCLASS_XMM) ?
		       SIMD_MMX : SIMD_SSE;
}

/* The set an instruction belongs to; false: not one of this file's. */
static bool find_class(const struct isa_decoded *d, enum simd_class *class)
{
	/* By opcode: Zydis has x87 instructions in X87, FCMOV, PPRO, SSE3X87 and SSE3. */
	if (d->insn.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT &&
	    d->insn.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY) {
		*class = d->insn.opcode == 0x9b ? SIMD_FWAIT : SIMD_X87;
		return d->insn.opcode == 0x9b || (d->insn.opcode & 0xf8) == 0xd8;
	}
	if (!simd_find_class(d, class))
		return false;
	if (*class == SIMD_SSE)
		*class = class_of_legacy(d);
	return true;
}

const ZydisDecodedOperand *simd_memory_operand(const struct isa_decoded *d)
{
	for (unsigned n = 0; n < d->insn.operand_count; n++)
		if (d->operands[n].type == ZYDIS_OPERAND_TYPE_MEMORY)
			return &d->operands[n];
	return NULL;
}

/* Does a legacy 16-byte operand of exception type 1, 2 or 4 not need alignment? */
static bool unaligned_by_name(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_MOVUPS: case ZYDIS_MNEMONIC_MOVUPD:
	case ZYDIS_MNEMONIC_MOVDQU: case ZYDIS_MNEMONIC_LDDQU:
	case ZYDIS_MNEMONIC_PCMPESTRI: case ZYDIS_MNEMONIC_PCMPESTRM:
	case ZYDIS_MNEMONIC_PCMPISTRI: case ZYDIS_MNEMONIC_PCMPISTRM:
		return true;
	default:
		return false;
	}
}


/* SDM Vol. 2, "Exception Classification" (exception types 1, 2 and 4). */
static uint8_t alignment_mask(const struct isa_decoded *d, unsigned mem_size)
{
	switch (d->insn.mnemonic) {
	case ZYDIS_MNEMONIC_VMOVAPS: case ZYDIS_MNEMONIC_VMOVAPD:
	case ZYDIS_MNEMONIC_VMOVDQA: case ZYDIS_MNEMONIC_VMOVNTPS:
	case ZYDIS_MNEMONIC_VMOVDQA32: case ZYDIS_MNEMONIC_VMOVDQA64:
	case ZYDIS_MNEMONIC_VMOVNTPD: case ZYDIS_MNEMONIC_VMOVNTDQ:
	case ZYDIS_MNEMONIC_VMOVNTDQA:
		return (uint8_t)(mem_size - 1);
	default:
		break;
	}
	if (d->insn.meta.isa_set == ZYDIS_ISA_SET_SHA && !isa_host()->sha_wants_alignment)
		return 0;
	if (d->insn.encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY && mem_size == 16 &&
	    !unaligned_by_name(d->insn.mnemonic))
		return 15;
	return 0;
}

/* x87 instructions that leave FIP, FDP and FOP alone. */
static bool x87_control(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_FNINIT: case ZYDIS_MNEMONIC_FNCLEX:
	case ZYDIS_MNEMONIC_FLDCW: case ZYDIS_MNEMONIC_FNSTCW:
	case ZYDIS_MNEMONIC_FNSTSW: case ZYDIS_MNEMONIC_FWAIT:
		return true;
	default:
		return false;
	}
}

/* Instructions with a handler of their own. */
static isa_fn *special(const struct isa_decoded *d, struct isa_insn *i)
{
	switch (d->insn.mnemonic) {
	case ZYDIS_MNEMONIC_LDMXCSR:
		return sse_ldmxcsr;
	case ZYDIS_MNEMONIC_VLDMXCSR:
		return avx_ldmxcsr;
	case ZYDIS_MNEMONIC_VZEROUPPER:
		if (d->mode != ISA_CODE64)
			return avx_vzeroupper_low;
		break;
	case ZYDIS_MNEMONIC_VZEROALL:
		if (d->mode != ISA_CODE64)
			return avx_vzeroall_low;
		break;
	case ZYDIS_MNEMONIC_LFENCE:
	case ZYDIS_MNEMONIC_MFENCE:
	case ZYDIS_MNEMONIC_SFENCE:
		return fence;
	default:
		break;
	}
	isa_fn *fn = isa_x87_env_handler(d, i);

	return fn ? fn : isa_simd_masked_handler(d, i);
}

/* Gathers, scatters and prefetches: memory by a vector of indices. */
static bool is_indexed(const struct isa_decoded *d)
{
	return ZydisRegisterGetClass(simd_memory_operand(d)->mem.index) > ZYDIS_REGCLASS_GPR64;
}

isa_fn *isa_simd_handler(const struct isa_decoded *d, struct isa_insn *i)
{
	const ZydisDecodedOperand *mem = simd_memory_operand(d);
	struct silicon_desc desc = { 0 };
	STUB_EMITTER(e);
	enum simd_form form = FORM_REG;
	enum simd_class class;
	isa_fn *fn = isa_xsave_handler(d, i);

	if (fn)
		return fn;
	if (!find_class(d, &class))
		return NULL;
	fn = special(d, i);
	if (fn)
		return fn;
	if (class == SIMD_AVX512 && simd_memory_operand(d) && is_indexed(d))
		return isa_evex_indexed_handler(d, i);
	/* VEX.W1 would make them the Q forms, which 64-bit code alone has: processors differ (isa/host.h). */
	if (d->mode != ISA_CODE64 && d->insn.raw.vex.W && !isa_host()->vpinsrd_ignores_w &&
	    (d->insn.mnemonic == ZYDIS_MNEMONIC_VPINSRD ||
	     d->insn.mnemonic == ZYDIS_MNEMONIC_VPEXTRD))
		return NULL;
	switch (d->insn.mnemonic) { /* general registers only: not ours */
	case ZYDIS_MNEMONIC_CRC32:
	case ZYDIS_MNEMONIC_MOVNTI:
		return NULL;
	case ZYDIS_MNEMONIC_FNINIT:
		fn = x87_fninit;
		break;
	default:
		break;
	}
	if (mem) {
		desc.mem_size = mem->size / 8;
		desc.align_mask = alignment_mask(d, desc.mem_size);
		form = mem->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE ? FORM_STORE : FORM_LOAD;
		if (bug_on(!desc.mem_size || desc.mem_size > 64))
			return NULL;
		desc.uses_mmx = has_register_of(d, ZYDIS_REGCLASS_MMX);
	}
	if (class == SIMD_X87 && !x87_control(d->insn.mnemonic)) {
		desc.notes_ip = 1;
		desc.x87_op = (uint16_t)((d->insn.opcode & 7) << 8 |
					 d->bytes[d->insn.raw.modrm.offset]);
	}
	if (class == SIMD_AVX512)
		fn = isa_evex_masked_handler(d, &desc);
	emit_silicon(&e, d);
	if (bug_on(e.full))
		return NULL;
	i->extra = (void *)silicon_get(&desc, e.b, e.n);
	if (!i->extra)
		return NULL;
	return fn ? fn : simd_fn[class][form];
}
