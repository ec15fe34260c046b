/*
 * Inside the SIMD half of the isa room: who handles what.
 *   simd.c        everything one stub can do
 *   simd_masked.c gathers and masked moves: memory element by element
 *   x87env.c      FNSTENV, FLDENV, FNSAVE, FRSTOR on the image
 *   xsave.c       FXSAVE and XSAVE families on the image
 *   simd_sets.c   which sets there are
 *   simd_encode.c, stub.c  making stubs
 */
#ifndef USERKVM_ISA_SIMD_H
#define USERKVM_ISA_SIMD_H

#include "isa/decoder.h"
#include "isa/host.h"

/* What makes an instruction available: CR0.EM/TS/MP, CR4, XCR0. */
enum simd_class { SIMD_SSE, SIMD_AVX, SIMD_MMX, SIMD_X87, SIMD_FWAIT };
#define NR_SIMD_CLASSES (SIMD_FWAIT + 1)

#define SIMD_AVX_XCR0 (XFEATURE_MASK_SSE | XFEATURE_MASK_YMM)

/* The class of an instruction's set; false: not one of the silicon's, or the host lacks it. (simd_sets.c) */
bool simd_find_class(const struct isa_decoded *d, enum simd_class *class);
/* Does the host lack a feature that the instruction set needs? (simd_sets.c) */
bool simd_set_lacks(ZydisISASet set, enum isa_host_feature *missing);

/* Raises #UD or #NM where an instruction of this class may not run now. */
void simd_check(struct cpu_state *cs, enum simd_class class);

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

#endif
