/*
 * Inside the SIMD half of the isa room: who handles what.
 *   simd.c        everything one stub can do
 *   simd_masked.c gathers and masked moves: memory element by element
 *   x87env.c      FNSTENV, FLDENV, FNSAVE, FRSTOR on the image
 *   xsave.c       FXSAVE and XSAVE families on the image
 *   simd_sets.c   which sets there are
 *   evex_masked.c memory operands of EVEX instructions, by an opmask; gathers, scatters
 *   simd_encode.c, stub.c  making stubs
 */
#ifndef USERKVM_ISA_SIMD_H
#define USERKVM_ISA_SIMD_H

#include "isa/decoder.h"
#include "isa/host.h"
#include "isa/stub.h"

/* What makes an instruction available: CR0.EM/TS/MP, CR4, XCR0. */
enum simd_class { SIMD_SSE, SIMD_AVX, SIMD_MMX, SIMD_X87, SIMD_FWAIT, SIMD_AVX512 };
#define NR_SIMD_CLASSES (SIMD_AVX512 + 1)

#define SIMD_AVX_XCR0 (XFEATURE_MASK_SSE | XFEATURE_MASK_YMM)
#define SIMD_AVX512_XCR0 (SIMD_AVX_XCR0 | XFEATURE_MASK_AVX512)

/* The class of an instruction's set; false: not one of the silicon's, or the host lacks it. (simd_sets.c) */
bool simd_find_class(const struct isa_decoded *d, enum simd_class *class);
/* Does the host lack a feature that the instruction set needs? (simd_sets.c) */
bool simd_set_lacks(ZydisISASet set, enum isa_host_feature *missing);

/* Raises #UD or #NM where an instruction of this class may not run now. */
void simd_check(struct cpu_state *cs, enum simd_class class);

/*
 * Loads the guest's FPU state where it is not loaded and runs a stub; raises the
 * exception that it ended with. The caller ends with isa_fpu_leave().
 */
void simd_run(struct cpu_state *cs, silicon_fn *fn, void *mem);

/* Parts of masked operands: an effective address cut to the address size, an element of 1 to 8 bytes. */
uint64_t simd_truncate_ea(const struct isa_insn *i, uint64_t ea);
uint64_t simd_element_load(struct cpu_state *cs, const struct isa_insn *i, uint64_t ea, unsigned size);
void simd_element_store(struct cpu_state *cs, const struct isa_insn *i, uint64_t ea, unsigned size,
			uint64_t v);

const ZydisDecodedOperand *simd_memory_operand(const struct isa_decoded *d);

/*
 * Areas larger than one access, in pieces of up to 64 bytes. probe_write makes
 * sure that all of it can be written, so that a store begun is a store done.
 */
void simd_probe_write(struct cpu_state *cs, uint64_t lin, unsigned size);
void simd_store_area(struct cpu_state *cs, uint64_t lin, const void *buf, unsigned size);
void simd_load_area(struct cpu_state *cs, uint64_t lin, void *buf, unsigned size);

/* Handlers of parts of the sets, NULL for instructions that are not theirs. */
isa_fn *isa_x87_env_handler(const struct isa_decoded *d, struct isa_insn *i);
isa_fn *isa_xsave_handler(const struct isa_decoded *d, struct isa_insn *i);
isa_fn *isa_simd_masked_handler(const struct isa_decoded *d, struct isa_insn *i);
isa_fn *isa_evex_indexed_handler(const struct isa_decoded *d, struct isa_insn *i);
/* Of an instruction whose opmask keeps elements from being accessed; fills in *desc for it. */
isa_fn *isa_evex_masked_handler(const struct isa_decoded *d, struct silicon_desc *desc);

#endif
