/*
 * Silicon stubs: guest SIMD instructions re-encoded to run on the host.
 *
 * A stub is a leaf function: it moves general registers in from cs->gpr, runs
 * the one instruction with its memory operand at [rdi], moves general
 * registers and flags out, and returns 0. If the instruction faults,
 * isa_silicon_fault() makes the stub return the exception's vector + 1
 * instead; nothing has been moved out then, so the guest's state is that
 * before the instruction.
 *
 * Stubs are found by what they do (code and description), made once per
 * process and never freed. Any thread may ask for one; running them needs no
 * lock, as published bytes do not change.
 */
#ifndef USERKVM_ISA_STUB_H
#define USERKVM_ISA_STUB_H

#include "isa/cpu_state.h"

/* mem: the memory operand on the host. Returns 0, or vector + 1 of a fault. */
typedef uint64_t silicon_fn(void *mem, struct cpu_state *cs);

/* What the handler must know beside the code. Compared as bytes: no padding. */
struct silicon_desc {
	silicon_fn *helper[3]; /* spill and fill stubs of gathers and masked moves */
	uint16_t mem_size;     /* bytes of the memory operand; 0: none */
	uint16_t x87_op;       /* cpu_state.x87.op, where notes_ip */
	uint8_t align_mask;    /* linear address & this must be 0, else #GP(0) */
	uint8_t notes_ip;      /* a non-control x87 instruction */
	uint8_t elem_size;     /* gathers, masked moves: bytes of an element */
	uint8_t nr_elems;
	uint8_t index_size;    /* gathers: bytes of an index */
	uint8_t scale_shift;
	uint8_t uses_mmx;      /* has an operand that shares registers with the x87 */
	uint8_t nr_mask_bits;  /* of an opmask: elements that it governs */
	uint8_t extra[4];      /* zero */
};
static_assert(sizeof(struct silicon_desc) == 40, "no padding: compared as bytes");

struct silicon_op {
	struct silicon_desc desc;
	silicon_fn *run;
	const struct silicon_op *next; /* same hash bucket */
	uint32_t hash;
	uint32_t nr_bytes;
	uint8_t code[];
};

/*
 * The stub with this code and description. NULL: the host refuses executable
 * memory or 2 GiB of different stubs exist (said once on stderr).
 * Takes the arena's lock; calls libc: not while the guest's FPU is loaded.
 */
const struct silicon_op *silicon_get(const struct silicon_desc *desc, const uint8_t *code,
				     unsigned nr_bytes);

/* Is this address inside a stub? Async-signal-safe. */
bool silicon_contains(uint64_t host_ip);
/* Address of a RET that a faulting stub can be sent to; 0 before the first stub. */
uint64_t silicon_ret(void);

#endif
