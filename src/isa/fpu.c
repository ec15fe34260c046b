/*
 * The guest's x87/SSE/AVX state between its image and the host's registers,
 * and faults of the silicon stubs (isa/fpu.h).
 *
 * Invariants
 * 1. fpu_loaded == 1: the registers hold the guest's components (isa_host()), and
 *    host_fpu the thread's own MXCSR and FCW. Nothing else of the host's is
 *    kept: the C ABI lets a callee change every vector register.
 * 2. The image is standard format at the host's places. After an unload all data
 *    areas are valid. Without XSAVE it is FXSAVE's, and XSTATE_BV says that x87
 *    and SSE are in use.
 * 3. cs->x87 is valid while loaded; the image's FIP, FDP and FOP are while not.
 *
 * Locks: none; runs on the vCPU's thread.
 */
#include <signal.h>
#include <ucontext.h>

#include "isa/fpu.h"
#include "isa/host.h"
#include "isa/stub.h"
#include "lib/copy.h"

#define FSW_ES 0x80u

static inline struct isa_xsave_image *image_of(const struct cpu_state *cs)
{
	return (struct isa_xsave_image *)cs->xsave;
}

/* x87 pointers: ours (cs->x87) <- image. */
static void pointers_from_image(struct cpu_state *cs)
{
	const struct isa_xsave_image *x = image_of(cs);
	bool inited = !(x->xstate_bv & XFEATURE_MASK_FP);

	cs->x87.ip = inited ? 0 : x->fip;
	cs->x87.dp = inited ? 0 : x->fdp;
	cs->x87.op = inited ? 0 : x->fop & 0x7ff;
}

static void pointers_to_image(struct cpu_state *cs)
{
	struct isa_xsave_image *x = image_of(cs);

	x->fip = cs->x87.ip;
	x->fdp = cs->x87.dp;
	x->fop = cs->x87.op;
	if (cs->x87.ip | cs->x87.dp | cs->x87.op)
		x->xstate_bv |= XFEATURE_MASK_FP;
}

/* Data of the components that XSTATE_BV says are initial. */
static void fill_initial(struct isa_xsave_image *x)
{
	const struct isa_host *h = isa_host();

	if (!(x->xstate_bv & XFEATURE_MASK_FP)) {
		fill_bytes(x, 0, offsetof(struct isa_xsave_image, mxcsr));
		fill_bytes(x->st, 0, sizeof(x->st));
		x->fcw = FCW_DEFAULT;
	}
	if (!(x->xstate_bv & XFEATURE_MASK_SSE))
		fill_bytes(x->xmm, 0, sizeof(x->xmm));
	for (unsigned n = 2; n < ISA_HOST_COMPONENTS; n++)
		if (h->component[n].size && !((x->xstate_bv >> n) & 1))
			fill_bytes((uint8_t *)x + h->component[n].offset, 0, h->component[n].size);
}

void isa_fpu_init(struct cpu_state *cs)
{
	struct isa_xsave_image *x;

	if (cs->fpu_loaded)
		isa_fpu_unload(cs);
	x = image_of(cs);
	fill_bytes(x, 0, isa_host()->xsave_bytes);
	x->fcw = FCW_DEFAULT;
	x->mxcsr = MXCSR_DEFAULT;
	x->mxcsr_mask = MXCSR_VALID;
}

/* FXRSTOR takes every component from the image, XRSTOR initialises what XSTATE_BV lacks. */
static void restore(struct isa_xsave_image *x)
{
	if (likely(isa_host()->has[HOST_XSAVE])) {
		__asm__ volatile("xrstor64 (%0)"
				 : : "r"(x), "a"((uint32_t)isa_host()->xfeatures), "d"(0) : "memory");
		return;
	}
	fill_initial(x);
	__asm__ volatile("fxrstor64 (%0)" : : "r"(x) : "memory");
}

static void save(struct isa_xsave_image *x)
{
	if (likely(isa_host()->has[HOST_XSAVE])) {
		__asm__ volatile("xsave64 (%0)"
				 : : "r"(x), "a"((uint32_t)isa_host()->xfeatures), "d"(0) : "memory");
		return;
	}
	__asm__ volatile("fxsave64 (%0)" : : "r"(x) : "memory");
	x->xstate_bv = XFEATURE_MASK_FP | XFEATURE_MASK_SSE;
}

__attribute__((noinline)) void isa_fpu_load(struct cpu_state *cs)
{
	struct isa_xsave_image *x = image_of(cs);

	x->mxcsr &= MXCSR_VALID;
	x->xstate_bv &= isa_host()->xfeatures;
	x->xcomp_bv = 0;
	for (unsigned n = 0; n < ARRAY_SIZE(x->header_reserved); n++)
		*(volatile uint64_t *)&x->header_reserved[n] = 0;
	pointers_from_image(cs);
	__asm__ volatile("stmxcsr %0\n\tfnstcw %1" : "=m"(cs->host_fpu.mxcsr), "=m"(cs->host_fpu.fcw));
	restore(x);
	cs->fpu_loaded = 1;
}

__attribute__((noinline)) void isa_fpu_unload(struct cpu_state *cs)
{
	struct isa_xsave_image *x = image_of(cs);

	save(x);
	__asm__ volatile("ldmxcsr %0" : : "m"(cs->host_fpu.mxcsr));
	/*
	 * The ABI wants an empty x87 stack and no exception pending; most guests
	 * leave just that. FNINIT does not wait: what is pending stays in the image.
	 */
	if (x->ftw || (x->fsw & FSW_ES) || x->fcw != cs->host_fpu.fcw)
		__asm__ volatile("fninit\n\tfldcw %0" : : "m"(cs->host_fpu.fcw));
	if (isa_host()->xfeatures & XFEATURE_MASK_YMM)
		__asm__ volatile("vzeroupper");
	cs->fpu_loaded = 0;
	x->mxcsr_mask = MXCSR_VALID;
	pointers_to_image(cs);
}

struct isa_xsave_image *isa_fpu_image(struct cpu_state *cs)
{
	struct isa_xsave_image *x = image_of(cs);

	if (cs->fpu_loaded)
		isa_fpu_unload(cs);
	x->mxcsr_mask = MXCSR_VALID;
	fill_initial(x);
	return x;
}

bool isa_silicon_fault(struct cpu_state *cs, int signo, void *ucontext)
{
	ucontext_t *uc = ucontext;
	greg_t *regs = uc->uc_mcontext.gregs;
	uint64_t trap = (uint64_t)regs[REG_TRAPNO];

	if (!cs || !silicon_contains(cs->stubs, (uint64_t)regs[REG_RIP]))
		return false;
	switch (signo) {
	case SIGFPE:
		if (trap != X86_TRAP_MF && trap != X86_TRAP_XM)
			return false;
		break;
	case SIGILL:
		trap = X86_TRAP_UD;
		break;
	case SIGSEGV:
		if (trap != X86_TRAP_GP)
			return false; /* guest memory has vanished: the processor's business */
		break;
	default:
		return false;
	}
	regs[REG_RAX] = (greg_t)trap + 1;
	regs[REG_RIP] = (greg_t)silicon_ret(cs->stubs);
	return true;
}
