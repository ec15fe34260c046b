/*
 * Random cases of every form on the bare processor and through the engine's
 * handlers; the outcomes must be equal.
 *
 * Environment: SEED, N (cases, over the three code modes), COVERAGE (a file for
 * the page docs/silicon.md is made of), SHOW=1 (list forms that never ran), TRACE=1 (each
 * case before it runs).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "silicon.h"

static const char *const mode_name[] = {"16-bit", "32-bit", "64-bit"};

static bool tracing; /* TRACE=1 */

struct outcome {
	struct state s;
	int vector;
};

/*
 * Flags the manual leaves undefined, where the host has no such instruction in
 * 64-bit code for the handlers to ask (SDM Vol. 2, these instructions).
 */
static uint64_t undefined_flags(const struct insn *i)
{
	switch (i->z.mnemonic) {
	case ZYDIS_MNEMONIC_AAA:
	case ZYDIS_MNEMONIC_AAS: return X86_FLAGS_ARITH & ~(uint64_t)0x11; /* all but AF and CF */
	case ZYDIS_MNEMONIC_AAM:
	case ZYDIS_MNEMONIC_AAD: return 0x811; /* OF AF CF */
	case ZYDIS_MNEMONIC_DAA:
	case ZYDIS_MNEMONIC_DAS: return 0x800; /* OF */
	default: return 0;
	}
}

static bool same_state(const struct insn *i, const struct state *a, const struct state *b,
                       uint64_t mask)
{
	for (unsigned n = 0; n < NR_GPRS; n++)
		if ((a->gpr[n] ^ b->gpr[n]) & mask)
			return false;
	for (unsigned n = 0; n < 8; n++)
		if (a->x.st[n][0] != b->x.st[n][0] ||
		    (uint16_t)a->x.st[n][1] != (uint16_t)b->x.st[n][1])
			return false;
	return !((a->flags ^ b->flags) & ~undefined_flags(i)) && a->x.fcw == b->x.fcw &&
	       a->x.fsw == b->x.fsw && a->x.ftw == b->x.ftw && a->x.mxcsr == b->x.mxcsr &&
	       harness_same_vectors(a, b) && !memcmp(a->mem, b->mem, sizeof(a->mem));
}

/* Both ways; true: they agree. */
static bool agree(const struct insn *i, enum isa_code_mode mode, enum memory_kind kind,
                  const struct state *in, struct outcome *bare, struct outcome *ours)
{
	uint64_t mask = mode == ISA_CODE64 ? ~0ULL : 0xffffffff;

	if (tracing) { /* for cases that bring the test itself down */
		fprintf(stderr, "%s:", mode_name[mode]);
		for (unsigned n = 0; n < i->z.length; n++)
			fprintf(stderr, " %02x", i->b[n]);
		fprintf(stderr, "\n");
	}
	bare->s = ours->s = *in;
	bare->vector = run_native_mode(i->b, i->z.length, &bare->s, mode);
	harness_reset(mode);
	ours->vector = run_handler(i->b, i->z.length, &ours->s, mode, kind);
	if (bare->vector != ours->vector)
		return false;
	return bare->vector != NO_FAULT || same_state(i, &bare->s, &ours->s, mask);
}

static void zero(struct state *s, unsigned part)
{
	if (part < NR_GPRS)
		s->gpr[part] = 0;
	else if (part < 32)
		memset(s->x.xmm[part - 16], 0, 16), memset(s->x.ymm_high[part - 16], 0, 16);
	else if (part < 40)
		memset(s->x.st[part - 32], 0, 16);
	else if (part == 40)
		s->flags = 0;
	else if (part < 41 + WINDOW_BYTES / 8)
		memset(s->mem + (part - 41) * 8, 0, 8);
}

/* Leave in the state only what the difference needs. */
static void minimise(const struct insn *i, enum isa_code_mode mode, enum memory_kind kind,
                     struct state *in, struct outcome *a, struct outcome *b)
{
	for (unsigned part = 0; part < 41 + WINDOW_BYTES / 8; part++) {
		struct state less = *in;
		bool address = false;

		for (unsigned n = 0; n < i->z.operand_count; n++)
			if (i->o[n].type == ZYDIS_OPERAND_TYPE_MEMORY && part < NR_GPRS)
				address = true;
		if (address || part == RSP)
			continue;
		zero(&less, part);
		if (!agree(i, mode, kind, &less, a, b))
			*in = less;
	}
	(void)agree(i, mode, kind, in, a, b);
}

static void print_side(const char *who, const struct outcome *o, const struct state *in)
{
	printf("  %s: vector %d flags %#llx", who, o->vector, (unsigned long long)o->s.flags);
	for (unsigned n = 0; n < NR_GPRS; n++)
		if (o->s.gpr[n] != in->gpr[n])
			printf(" r%u=%#llx", n, (unsigned long long)o->s.gpr[n]);
	for (unsigned n = 0; n < 16; n++)
		if (memcmp(o->s.x.xmm[n], in->x.xmm[n], 16) ||
		    memcmp(o->s.x.ymm_high[n], in->x.ymm_high[n], 16))
			printf(" ymm%u=%016llx%016llx%016llx%016llx", n,
			       (unsigned long long)o->s.x.ymm_high[n][1],
			       (unsigned long long)o->s.x.ymm_high[n][0],
			       (unsigned long long)o->s.x.xmm[n][1],
			       (unsigned long long)o->s.x.xmm[n][0]);
	for (unsigned n = 0; n < WINDOW_BYTES; n++)
		if (o->s.mem[n] != in->mem[n])
			printf(" m%u=%02x", n, o->s.mem[n]);
	printf(" fsw=%x ftw=%x mxcsr=%x\n", o->s.x.fsw, o->s.x.ftw, o->s.x.mxcsr);
}

static void complain(const struct insn *i, enum isa_code_mode mode, enum memory_kind kind,
                     const struct state *in)
{
	struct outcome a, b;
	struct state s = *in;
	char text[96];

	minimise(i, mode, kind, &s, &a, &b);
	(void)isa_insn_text(i->b, i->z.length, mode, harness_rip(mode), text, sizeof(text));
	printf("DIFFERENT %s %s: %s  bytes", mode_name[mode],
	       kind == MEM_BOUNCE ? "bounce" : "direct", text);
	for (unsigned n = 0; n < i->z.length; n++)
		printf(" %02x", i->b[n]);
	printf("\n  in: flags %#llx", (unsigned long long)s.flags);
	for (unsigned n = 0; n < NR_GPRS; n++)
		printf(" r%u=%#llx", n, (unsigned long long)s.gpr[n]);
	printf(" fcw=%x fsw=%x ftw=%x mxcsr=%x\n", s.x.fcw, s.x.fsw, s.x.ftw, s.x.mxcsr);
	print_side("silicon", &a, &s);
	print_side("here   ", &b, &s);
}

static uint64_t number(const char *name, uint64_t otherwise)
{
	const char *s = getenv(name);

	return s ? strtoull(s, NULL, 0) : otherwise;
}

#define TRIES 64

/* n cases of one mode, forms in turn; how many differ. */
static uint64_t run_mode(struct form_table *t, enum isa_code_mode mode, uint64_t n)
{
	uint64_t bad = 0;

	while (n) {
		for (unsigned k = 0; k < t->nr && n; k++) {
			struct form *f = &t->f[k];
			struct outcome a, b;
			struct insn i;
			struct state s;
			enum memory_kind kind = rnd() & 3 ? MEM_DIRECT : MEM_BOUNCE;
			unsigned tries = TRIES;

			if (f->why_not)
				continue;
			while (!make_case(f, mode, &i, &s) && --tries)
				;
			if (!tries) {
				n--; /* so that a form nobody can build ends too */
				continue;
			}
			n--;
			f->runs++;
			if (!agree(&i, mode, kind, &s, &a, &b) && ++bad <= 20)
				complain(&i, mode, kind, &s);
			f->faults += a.vector != NO_FAULT;
		}
	}
	return bad;
}

static void cover(FILE *out, const struct form_table *t, enum isa_code_mode mode)
{
	unsigned ran = 0, never = 0, only_faults = 0;

	for (unsigned k = 0; k < t->nr; k++) {
		ran += t->f[k].runs != 0;
		never += !t->f[k].why_not && !t->f[k].runs;
		only_faults += t->f[k].runs && t->f[k].runs == t->f[k].faults;
	}
	fprintf(out,
	        "\n## %s code\n\n%u forms known to the decoder; %u executed (%u of them only to a "
	        "fault), %u left out for a reason, %u never built.\n\n",
	        mode_name[mode], t->nr, ran, only_faults, t->nr - ran - never, never);
	fprintf(out, "| not executed because | forms | for example |\n|---|---|---|\n");
	for (unsigned k = 0; k < t->nr; k++) {
		const char *why = t->f[k].runs      ? NULL
		                  : t->f[k].why_not ? t->f[k].why_not
		                                    : "never built";
		unsigned same = 0;
		bool first = true;

		for (unsigned m = 0; why && m < t->nr; m++) {
			const char *w = t->f[m].runs      ? NULL
			                : t->f[m].why_not ? t->f[m].why_not
			                                  : "never built";

			if (!w || strcmp(w, why))
				continue;
			first &= m >= k;
			same++;
		}
		if (why && first)
			fprintf(out, "| %s | %u | `%s` |\n", why, same, t->f[k].text);
	}
	if (number("SHOW", 0))
		for (unsigned k = 0; k < t->nr; k++)
			if (!t->f[k].runs || t->f[k].runs == t->f[k].faults)
				fprintf(out, "- %s: %s\n", t->f[k].text,
				        t->f[k].runs      ? "only faults"
				        : t->f[k].why_not ? t->f[k].why_not
				                          : "never built");
}

int main(void)
{
	uint64_t seed = number("SEED", 1), n = number("N", 300000), bad = 0;
	const char *page = getenv("COVERAGE");
	FILE *out = page ? fopen(page, "w") : NULL;
	struct timespec a, b;

	tracing = number("TRACE", 0);
	harness_init();
	clock_gettime(CLOCK_MONOTONIC, &a);
	rnd_seed(seed);
	for (int mode = ISA_CODE64; mode >= ISA_CODE16; mode--) {
		struct form_table t = {0};
		uint64_t share = mode == ISA_CODE64 ? n - n / 4 - n / 4 : n / 4;

		if (!harness_has_mode(mode)) {
			printf("# no %s code: modify_ldt() is refused here\n", mode_name[mode]);
			continue;
		}
		forms_enumerate(&t, mode);
		bad += run_mode(&t, mode, share);
		cover(stdout, &t, mode);
		if (out)
			cover(out, &t, mode);
		free(t.f);
	}
	clock_gettime(CLOCK_MONOTONIC, &b);
	printf("\n%llu cases, %llu differ, %.0f s\n", (unsigned long long)n,
	       (unsigned long long)bad,
	       (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9);
	if (out && fclose(out))
		return 1;
	return bad != 0;
}
