/*
 * Silicon's cases through emitted code: every form that main.c runs on the bare processor and through
 * handlers, here through handlers and through the translator's rewriting of it (64-bit and 32-bit code).
 *
 * What the two have in common is the table of forms and how cases are made of them (forms.c, cases.c);
 * the small world in which emitted code runs is that of tests/unit/jit.
 *
 * Environment: SEED, N (cases).
 */
#include "../unit/jit/harness.h"

#include "silicon.h"

#include "isa/stub.h"

#define TRIES 64

static uint64_t emitted, called, left, outside;

static uint64_t number(const char *name, uint64_t otherwise)
{
	const char *s = getenv(name);

	return s ? strtoull(s, NULL, 0) : otherwise;
}

/* The case's memory is the world's at the same addresses. */
static void put_memory(const struct state *s)
{
	memcpy(world->page[0].host + PAGE_SIZE - WINDOW_BYTES / 2, s->mem, WINDOW_BYTES / 2);
	memcpy(world->page[1].host, s->mem + WINDOW_BYTES / 2, WINDOW_BYTES / 2);
}

static void make_start(struct start *to, const struct state *s)
{
	struct isa_xsave_image *x = (struct isa_xsave_image *)to->fpu;

	memset(to, 0, sizeof(*to));
	memcpy(to->gpr, s->gpr, sizeof(to->gpr));
	to->cc = (uint32_t)((s->flags & 0xd5) << 8 | (s->flags >> 11 & 1));
	to->fs_limit = ~0U;
	memcpy(to->fpu, s->area, sizeof(s->area) < sizeof(to->fpu) ? sizeof(s->area) : sizeof(to->fpu));
	/* what loading the state makes of it, so that an instruction without FPU state compares equal */
	x->pad = 0;
	x->fop = 0;
	x->fip = x->fdp = 0;
	x->mxcsr_mask = MXCSR_VALID;
	x->xstate_bv = world->cs.xcr0;
	x->xcomp_bv = 0;
	memset(x->header_reserved, 0, sizeof(x->header_reserved));
	memset(x->reserved, 0, sizeof(x->reserved));
	for (unsigned n = 0; n < 8; n++)
		memset((uint8_t *)&x->st[n] + 10, 0, 6);
}

static void run_case(const struct insn *i, enum isa_code_mode mode, const struct state *s)
{
	static struct code c;
	static struct start start;

	memset(&c, 0, sizeof(c));
	c.rip = harness_rip(mode);
	c.code32 = mode == ISA_CODE32;
	c.live_out = rnd() & 3 ? JIT_FLAGS_ALL : (uint8_t)rnd() & JIT_FLAGS_ALL;
	c.flags_in_cc = rnd() & 1;
	silicon_use(world->cs.stubs);
	if (!code_add(&c, i->b, i->z.length)) {
		outside++;
		return;
	}
	emitted += c.insn[0].kind == JIT_EMIT;
	called += c.insn[0].kind == JIT_CALL;
	left += c.insn[0].kind == JIT_LEAVE;
	if (c.insn[0].kind == JIT_LEAVE) /* nothing is emitted */
		return;
	put_memory(s);
	make_start(&start, s);
	check_code(&c, &start);
}

static void run_mode(enum isa_code_mode mode, uint64_t n)
{
	struct form_table t = { 0 };

	forms_enumerate(&t, mode);
	while (n) {
		for (unsigned k = 0; k < t.nr && n; k++) {
			unsigned tries = TRIES;
			struct insn i;
			struct state s;

			if (t.f[k].why_not)
				continue;
			while (!make_case(&t.f[k], mode, &i, &s) && --tries)
				;
			n--;
			if (tries)
				run_case(&i, mode, &s);
		}
	}
	free(t.f);
}

static void emitted_code_does_what_handlers_do(void **state)
{
	uint64_t n = number("N", 100000);

#ifdef __SANITIZE_ADDRESS__
	skip(); /* the handlers' own code uses vector registers, which emitted code leaves the guest's in */
#endif
	harness_init();
	rnd_seed(number("SEED", 1));
	world_create();
	world_page((uint64_t)(uintptr_t)harness_mem);
	world_page((uint64_t)(uintptr_t)harness_mem + PAGE_SIZE);
	run_mode(ISA_CODE64, n - n / 3);
	run_mode(ISA_CODE32, n / 3);
	printf("# %lu cases: %lu emitted, %lu by a call of the handler, %lu left to the interpreter, %lu not for a block\n",
	       (unsigned long)n, (unsigned long)emitted, (unsigned long)called, (unsigned long)left, (unsigned long)outside);
	assert_true(emitted > n / 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(emitted_code_does_what_handlers_do),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
