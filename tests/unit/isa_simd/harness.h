/*
 * One instruction, two ways: through its decoded handler on a cpu_state, and
 * directly on this processor by a trampoline that loads registers, flags and
 * XSAVE state, runs the bytes and stores everything again.
 *
 * Guest-linear addresses are host addresses; guest memory is `mem` below
 * 4 GiB, so that 32-bit code can be run too.
 */
#ifndef TEST_ISA_SIMD_HARNESS_H
#define TEST_ISA_SIMD_HARNESS_H

#include "isa/fpu.h"
#include "isa/stub.h"
#include "isa/isa.h"

#define NO_FAULT (-1)
#define MEM_BYTES 8192u
#define XSAVE_BYTES 2816u /* x87 to Hi16_ZMM at any processor's places */

struct state {
	uint64_t gpr[NR_GPRS];
	uint64_t flags; /* arithmetic ones, RFLAGS layout */
	union {
		struct isa_xsave_image x;
		uint8_t area[XSAVE_BYTES];
	} __attribute__((aligned(64)));
	uint8_t mem[256]; /* of the memory operand's surroundings */
};

extern uint8_t *harness_mem; /* two pages, readable and writable */

/* At the start of each test: cmocka has put its own signal handlers there. */
void harness_init(void);
/* Run on the bare processor. Returns the vector of a fault, or NO_FAULT. */
int run_native(const uint8_t *bytes, unsigned n, struct state *s);
/*
 * The same in the code mode given: 32-bit code in the kernel's compatibility
 * segment, 16-bit code and its data in LDT segments whose base is harness_mem.
 * A marker behind the instruction adds 16 to RSP; relative branches that are
 * taken skip it where their displacement is harness_marker_size().
 */
int run_native_mode(const uint8_t *bytes, unsigned n, struct state *s, enum isa_code_mode mode);
bool harness_has_mode(enum isa_code_mode mode);
unsigned harness_marker_size(enum isa_code_mode mode);
/* RIP of the instruction, natively (relative to CS's base in 16-bit code). */
uint64_t harness_rip(enum isa_code_mode mode);

enum memory_kind { MEM_DIRECT, MEM_BOUNCE };
extern struct cpu_state harness_cs;
/* A 64-bit (or 32-bit) kernel with everything enabled. */
struct silicon_arena *harness_stubs(void); /* before each isa_decode(): emptied and in use */
void harness_reset(enum isa_code_mode mode);
/* Decode and run on harness_cs; s is input and output as for run_native(). */
int run_handler(const uint8_t *bytes, unsigned n, struct state *s, enum isa_code_mode mode,
		enum memory_kind kind);
/* Error code of the last exception, linear address and count of mem() calls. */
extern unsigned harness_mem_calls;
extern bool harness_vanish; /* the second page is there for the TLB, but not for the host */
extern bool harness_absent; /* the second page is absent, natively too (with harness_fault_page) */
extern uint64_t harness_fault_page; /* page that raises #PF, 0 none */

/* Vector and opmask registers of both are equal, as far as this host has them. */
bool harness_same_vectors(const struct state *a, const struct state *b);

uint64_t rnd(void);
/* Another stream for each seed. */
void rnd_seed(uint64_t seed);
void random_state(struct state *s);

#endif
