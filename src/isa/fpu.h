/*
 * The guest's x87, MMX, SSE and AVX state, executed on the host's own silicon.
 *
 * The guest's state is loaded into the host's registers when the first such
 * instruction runs (isa_fpu_load) and goes back into cs->xsave when the
 * processor leaves for code that may use these registers itself
 * (isa_fpu_unload): a VM exit, decoding, libc. Between the two the thread runs
 * only code compiled -mgeneral-regs-only.
 */
#ifndef USERKVM_ISA_FPU_H
#define USERKVM_ISA_FPU_H

#include "isa/cpu_state.h"
#include "isa/host.h"

/*
 * The image in cs->xsave: SDM Vol. 1, "Managing State Using the XSAVE Feature Set". Components
 * behind AVX lie where the host has them (isa_host()->component[]).
 */
struct isa_xsave_image {
	uint16_t fcw, fsw;
	uint8_t ftw; /* abridged: bit n set: register n is not empty */
	uint8_t pad;
	uint16_t fop;
	uint64_t fip, fdp;
	uint32_t mxcsr, mxcsr_mask;
	uint64_t st[8][2];  /* 10 bytes each */
	uint64_t xmm[16][2];
	uint64_t reserved[12];
	uint64_t xstate_bv, xcomp_bv, header_reserved[6];
	uint64_t ymm_high[16][2];
};

#define MXCSR_DEFAULT 0x1f80u
#define MXCSR_VALID 0xffffu /* what is not here raises #GP: no MISALIGNSSE */
#define FCW_DEFAULT 0x37fu

static_assert(offsetof(struct isa_xsave_image, xmm) == 160, "FXSAVE layout");
static_assert(offsetof(struct isa_xsave_image, xstate_bv) == 512, "XSAVE header");
static_assert(sizeof(struct isa_xsave_image) == 832, "AVX follows the header on every processor");

/* Bytes of cs->xsave, a multiple of 64. */
static inline size_t isa_xsave_size(void)
{
	size_t n = ALIGN_UP((size_t)isa_host()->xsave_bytes, (size_t)64);

	return n > sizeof(struct isa_xsave_image) ? n : sizeof(struct isa_xsave_image);
}

/* Component n (2 and above) in an image of the standard format. */
static inline uint8_t *isa_xsave_component(void *image, unsigned n)
{
	return (uint8_t *)image + isa_host()->component[n].offset;
}

/*
 * Initial configuration of every state component (XSTATE_BV = 0): FCW 37fh as
 * after FNINIT, MXCSR 1f80h. Whatever was loaded is dropped.
 */
void isa_fpu_init(struct cpu_state *cs);
/*
 * Image to registers, and back. load: fpu_loaded must be 0; the host's MXCSR and
 * x87 control word are kept aside. What KVM_SET_XSAVE or a bug may have left
 * in the image cannot make it fault: reserved header bytes and MXCSR bits are
 * cleared first. unload: fpu_loaded must be 1; afterwards the image is complete
 * (data of components that XSTATE_BV says are initial included) and the
 * registers are as the C ABI wants them. Both are general registers only.
 */
void isa_fpu_load(struct cpu_state *cs);
void isa_fpu_unload(struct cpu_state *cs);

/*
 * The image with the data of every component valid, initial ones included;
 * unloads first. XSTATE_BV still says which are initial: set a component's bit
 * after changing it.
 */
struct isa_xsave_image *isa_fpu_image(struct cpu_state *cs);

static inline void isa_fpu_sync(struct cpu_state *cs)
{
	if (unlikely(cs->fpu_loaded))
		isa_fpu_unload(cs);
}

/*
 * The end of each handler that ran on the silicon. A sanitizer's runtime may be
 * called from anywhere and uses vector registers itself: under one, the guest's
 * state never stays loaded.
 */
static inline void isa_fpu_leave(struct cpu_state *cs)
{
#if defined(__SANITIZE_ADDRESS__)
	isa_fpu_sync(cs);
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
	isa_fpu_sync(cs);
#endif
#endif
	(void)cs;
}

/*
 * Called by the process's SIGFPE/SIGILL/… dispatcher (host/fault.h): when the
 * program counter is inside a silicon stub of this thread's running
 * cpu_state, arranges that the guest gets #XM, #MF, #UD or
 * (misaligned operand, SIGSEGV from #GP) #GP(0) when the signal handler returns,
 * and returns true. False: not a stub's, or a page fault on guest memory.
 */
bool isa_silicon_fault(struct cpu_state *cs, int signo, void *ucontext);

#endif
