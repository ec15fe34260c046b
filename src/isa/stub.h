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
 * Stubs are found by what they do (code and description) and live in an arena
 * of whoever decodes: a processor, or the emulator of a vCPU. The arena is
 * reserved with its owner and never grows; its owner forgets all of its decoded
 * instructions, and then all stubs, when there is no room for more.
 *
 * Context: an arena is its owner's, on one thread at a time; no lock.
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

/* In the executable view: what has been returned is read-only. */
struct silicon_op {
	struct silicon_desc desc;
	silicon_fn *run;
	const struct silicon_op *next; /* same hash bucket */
	uint32_t hash;
	uint32_t nr_bytes;
	uint8_t code[];
};

#define SILICON_CPU_BYTES (8u << 20)  /* a processor's arena: some 60,000 different instructions */
#define SILICON_ONE_BYTES (16u << 10) /* an arena for a few */

/*
 * An arena of `bytes` bytes. Returns 0; -ENOMEM; -EPERM: the host lets this process have no
 * executable memory (emit/exec.h). To be called before clients put their
 * threads under a filter: with the vCPU, not on first use.
 */
must_check int silicon_arena_create(struct silicon_arena **out, size_t bytes);
void silicon_arena_destroy(struct silicon_arena *a);
/* Forget all stubs. No isa_insn that has one may be run again. */
void silicon_arena_reset(struct silicon_arena *a);
/* Is there room for the stubs of `nr` more instructions, whatever they are? */
bool silicon_arena_has_room(const struct silicon_arena *a, unsigned nr);

/*
 * isa_decode() on this thread puts stubs into *a from now on. The owner keeps
 * its pointer in cs->stubs as well, for isa_silicon_fault().
 */
void silicon_use(struct silicon_arena *a);

/*
 * The stub with this code and description; NULL: no room, or no arena in use.
 * While decoding only; serialises where it has made one.
 */
const struct silicon_op *silicon_get(const struct silicon_desc *desc, const uint8_t *code,
				     unsigned nr_bytes);

/* Is this address inside one of its stubs? Async-signal-safe. */
bool silicon_contains(const struct silicon_arena *a, uint64_t host_ip);
/* Address of a RET that a faulting stub can be sent to. */
uint64_t silicon_ret(const struct silicon_arena *a);

#endif
