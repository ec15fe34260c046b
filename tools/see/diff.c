/*
 * userkvm ept diff: what changed between two moments.
 *
 * The boundaries of both pictures cut the address space into pieces that are
 * alike throughout in each; neighbours with the same change are told together.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mmu/spte.h"
#include "tools/see/parts.h"

/* What an entry says of gpa, so that two runs can be compared anywhere. */
struct state {
	bool there, mmio;
	int level;
	uint64_t bits, gen;
	int64_t offset; /* hva - gpa */
};

static struct state state_at(const struct see_picture *p, int as, gpa_t gpa)
{
	const struct see_run *r = see_find_run(p, as, gpa);
	struct state s = { 0 };

	if (!r)
		return s;
	s.there = true;
	s.mmio = r->mmio;
	s.level = r->level;
	s.gen = r->gen;
	if (!r->mmio) {
		/* Software's own bits are not in dump files. */
		s.bits = r->entry & (EPT_RWX | EPT_MEMTYPE_MASK | EPT_IPAT | EPT_ACCESSED | EPT_DIRTY);
		s.offset = (int64_t)((r->entry & EPT_ADDR_MASK) - r->start);
	}
	return s;
}

static bool same(const struct state *a, const struct state *b)
{
	return a->there == b->there && a->mmio == b->mmio && a->level == b->level &&
	       a->bits == b->bits && a->gen == b->gen && a->offset == b->offset;
}

static void tell(char sign, const struct state *s, gpa_t gpa)
{
	char text[64];

	if (!s->there)
		return;
	if (s->mmio) {
		printf("  %c %-5s MMIO generation %llu\n", sign, see_level(s->level), (ull)s->gen);
		return;
	}
	see_attributes(s->bits, true, text, sizeof(text));
	printf("  %c %-5s %-18s hva 0x%012llx\n", sign, see_level(s->level), text,
	       (ull)(gpa + (uint64_t)s->offset));
}

static void json_state(struct json *j, const char *key, const struct state *s, gpa_t gpa)
{
	if (!s->there) {
		json_null(j, key);
		return;
	}
	json_object(j, key, false);
	json_i64(j, "level", s->level);
	if (s->mmio) {
		json_bool(j, "mmio", true);
		json_u64(j, "generation", s->gen);
	} else {
		json_leaf(j, s->bits, s->level);
		json_u64(j, "hva", gpa + (uint64_t)s->offset);
	}
	json_end(j);
}

static int by_value(const void *a, const void *b)
{
	gpa_t x = *(const gpa_t *)a, y = *(const gpa_t *)b;

	return (x > y) - (x < y);
}

static size_t cuts(const struct see_picture *p, int as, gpa_t *at)
{
	size_t n = 0;

	for (unsigned i = 0; i < p->nr_runs; i++)
		if (p->run[i].as == as) {
			at[n++] = p->run[i].start;
			at[n++] = p->run[i].end;
		}
	return n;
}

/* `j` NULL: as text. */
static void change(struct json *j, int as, gpa_t start, gpa_t end, const struct state *a, const struct state *b)
{
	char size[24];

	if (j) {
		json_object(j, NULL, false);
		json_i64(j, "as", as);
		json_u64(j, "start", start);
		json_u64(j, "end", end);
		json_state(j, "was", a, start);
		json_state(j, "is", b, start);
		json_end(j);
		return;
	}
	printf("0x%012llx-0x%012llx %6s%s\n", (ull)start, (ull)end,
	       see_size(end - start, size, sizeof(size)), as ? "  (address space 1)" : "");
	tell('-', a, start);
	tell('+', b, start);
}

/* Number of changes told. */
static unsigned diff_as(struct json *j, const struct see_picture *a, const struct see_picture *b, int as, uint64_t *bytes)
{
	gpa_t *at = malloc(2 * sizeof(*at) * (a->nr_runs + b->nr_runs + 1)), start = 0, end = 0;
	struct state was = { 0 }, is = { 0 };
	unsigned changes = 0;
	size_t n;

	if (!at)
		return 0;
	n = cuts(a, as, at);
	n += cuts(b, as, at + n);
	qsort(at, n, sizeof(*at), by_value);
	for (size_t i = 0; i + 1 < n; i++) {
		struct state x = state_at(a, as, at[i]), y = state_at(b, as, at[i]);

		if (at[i] == at[i + 1] || same(&x, &y))
			continue;
		*bytes += at[i + 1] - at[i];
		if (end && end == at[i] && same(&x, &was) && same(&y, &is)) {
			end = at[i + 1];
			continue;
		}
		if (end)
			change(j, as, start, end, &was, &is);
		changes++;
		start = at[i], end = at[i + 1], was = x, is = y;
	}
	if (end)
		change(j, as, start, end, &was, &is);
	free(at);
	return changes;
}

static void diff(const struct see_picture *a, const struct see_picture *b, bool as_json)
{
	struct json writer = { .f = stdout }, *j = as_json ? &writer : NULL;
	uint64_t bytes = 0;
	char size[24];
	unsigned n;

	if (j) {
		json_object(j, NULL, true);
		json_array(j, "changes", true);
	}
	n = diff_as(j, a, b, 0, &bytes) + diff_as(j, a, b, 1, &bytes);
	if (j) {
		json_end(j);
		json_u64(j, "bytes", bytes);
		json_end(j);
	} else if (n) {
		printf("%u changes, %s\n", n, see_size(bytes, size, sizeof(size)));
	} else {
		printf("no changes\n");
	}
}

int see_diff(struct see_options *o)
{
	struct see_picture a, b;
	bool got;

	if (o->nr_args == 2) {
		if (!see_read_file(o->arg[0], &a))
			return 1;
		got = see_read_file(o->arg[1], &b);
	} else {
		if (!see_choose_vm(o->pid, &o->vm) || !see_take(o->pid, o->vm, &a))
			return 1;
		usleep((useconds_t)(o->interval * 1e6));
		got = see_take(o->pid, o->vm, &b);
	}
	if (got) {
		diff(&a, &b, o->json);
		see_free(&b);
	}
	see_free(&a);
	return got ? 0 : 1;
}
