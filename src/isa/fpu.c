/*
 * The guest's x87/SSE/AVX state between its image and the host's registers,
 * and faults of the silicon stubs (isa/fpu.h).
 *
 * Invariants
 * 1. fpu_loaded == 1: the registers hold the guest's components 0..2, and
 *    host_fpu the thread's own MXCSR and FCW. Nothing else of the host's is
 *    kept: the C ABI lets a callee change every vector register.
 * 2. The image is standard format. After an unload all data areas are valid.
 * 3. cs->x87 is valid while loaded; the image's FIP, FDP and FOP are while not.
 *
 * Locks: none; runs on the vCPU's thread.
 */
#include <signal.h>
#include <ucontext.h>

#include "isa/fpu.h"
#include "isa/stub.h"
#include "lib/copy.h"

#define FSW_ES 0x80u
#define XFEATURES_GUEST (XFEATURE_MASK_FP | XFEATURE_MASK_SSE | XFEATURE_MASK_YMM)

static inline struct isa_xsave_image *image_of(const struct cpu_state *cs)
{
	return (struct isa_xsave_image *)cs->xsave;
}

/*
 * The components of the guest's the host has: without AVX there is no YMM to
 * touch. Asked once: XGETBV costs a third of an XSAVE.
 */
static inline uint32_t host_xfeatures(void)
{
	static uint32_t known; /* same value from every thread */
	uint32_t v = READ_ONCE(known), hi;

	if (unlikely(!v)) {
		__asm__("xgetbv" : "=a"(v), "=d"(hi) : "c"(0));
		v &= XFEATURES_GUEST;
		WRITE_ONCE(known, v);
	}
	return v;
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

void isa_fpu_init(struct cpu_state *cs)
{
	struct isa_xsave_image *x;

	if (cs->fpu_loaded)
		isa_fpu_unload(cs);
	x = image_of(cs);
	fill_bytes(x, 0, sizeof(*x));
	x->fcw = FCW_DEFAULT;
	x->mxcsr = MXCSR_DEFAULT;
	x->mxcsr_mask = MXCSR_VALID;
}

__attribute__((noinline)) void isa_fpu_load(struct cpu_state *cs)
{
	struct isa_xsave_image *x = image_of(cs);
	uint32_t mask = host_xfeatures();

	x->mxcsr &= MXCSR_VALID;
	x->xstate_bv &= mask;
	x->xcomp_bv = 0;
	for (unsigned n = 0; n < ARRAY_SIZE(x->header_reserved); n++)
		*(volatile uint64_t *)&x->header_reserved[n] = 0;
	pointers_from_image(cs);
	__asm__ volatile("stmxcsr %0\n\tfnstcw %1" : "=m"(cs->host_fpu.mxcsr), "=m"(cs->host_fpu.fcw));
	__asm__ volatile("xrstor64 (%0)" : : "r"(x), "a"(mask), "d"(0) : "memory");
	cs->fpu_loaded = 1;
}

__attribute__((noinline)) void isa_fpu_unload(struct cpu_state *cs)
{
	struct isa_xsave_image *x = image_of(cs);
	uint32_t mask = host_xfeatures();

	__asm__ volatile("xsave64 (%0)" : : "r"(x), "a"(mask), "d"(0) : "memory");
	__asm__ volatile("ldmxcsr %0" : : "m"(cs->host_fpu.mxcsr));
	/*
	 * The ABI wants an empty x87 stack and no exception pending; most guests
	 * leave just that. FNINIT does not wait: what is pending stays in the image.
	 */
	if (x->ftw || (x->fsw & FSW_ES) || x->fcw != cs->host_fpu.fcw)
		__asm__ volatile("fninit\n\tfldcw %0" : : "m"(cs->host_fpu.fcw));
	if (mask & XFEATURE_MASK_YMM)
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
	if (!(x->xstate_bv & XFEATURE_MASK_FP)) {
		fill_bytes(x, 0, offsetof(struct isa_xsave_image, mxcsr));
		fill_bytes(x->st, 0, sizeof(x->st));
		x->fcw = FCW_DEFAULT;
	}
	if (!(x->xstate_bv & XFEATURE_MASK_SSE))
		fill_bytes(x->xmm, 0, sizeof(x->xmm));
	if (!(x->xstate_bv & XFEATURE_MASK_YMM))
		fill_bytes(x->ymm_high, 0, sizeof(x->ymm_high));
	return x;
}

bool isa_silicon_fault(struct cpu_state *cs, int signo, void *ucontext)
{
	ucontext_t *uc = ucontext;
	greg_t *regs = uc->uc_mcontext.gregs;
	uint64_t trap = (uint64_t)regs[REG_TRAPNO];

	if (!cs || !silicon_contains((uint64_t)regs[REG_RIP]))
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
	regs[REG_RIP] = (greg_t)silicon_ret();
	return true;
}
