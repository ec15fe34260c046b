/*
 * A VM's memory at a moment: over the control socket, or out of a dump file.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mmu/spte.h"
#include "tools/see/see.h"

/* One more element of an array that grows; NULL: no memory. */
static void *grow(void **array, unsigned *nr, size_t size)
{
	if ((*nr & (*nr - 1)) == 0) { /* full at each power of two */
		void *more = realloc(*array, (*nr ? *nr * 2ul : 1) * size);

		if (!more)
			return NULL;
		*array = more;
	}
	return memset((char *)*array + (*nr)++ * size, 0, size);
}

/* r begins where the last one ends, and says the same. */
static bool continues(const struct see_run *l, const struct see_run *r)
{
	if (l->as != r->as || l->end != r->start || l->mmio != r->mmio || l->gen != r->gen || l->level != r->level)
		return false;
	return r->mmio || (((l->entry ^ r->entry) & ~EPT_ADDR_MASK) == 0 &&
			   (l->entry & EPT_ADDR_MASK) + (l->end - l->start) == (r->entry & EPT_ADDR_MASK));
}

static bool add_run(struct see_picture *p, const struct see_run *r)
{
	struct see_run *n;

	if (p->nr_runs && continues(&p->run[p->nr_runs - 1], r)) {
		p->run[p->nr_runs - 1].end = r->end;
		return true;
	}
	n = grow((void **)&p->run, &p->nr_runs, sizeof(*n));
	if (n)
		*n = *r;
	return n != NULL;
}

static bool add_slot(struct see_picture *p, const struct see_slot *s)
{
	struct see_slot *n = grow((void **)&p->slot, &p->nr_slots, sizeof(*n));

	if (n)
		*n = *s;
	return n != NULL;
}

static bool add_root(struct see_picture *p, const struct see_root *r)
{
	if (p->nr_roots == ARRAY_SIZE(p->root))
		return false;
	p->root[p->nr_roots++] = *r;
	return true;
}

static bool take_line(struct see_picture *p, const char *line)
{
	ull a, b, c, d;
	int as, level, ad;
	unsigned id, flags;

	if (sscanf(line, "root %d %d %d %llx", &as, &level, &ad, &a) == 4)
		return add_root(p, &(struct see_root){ as, level, ad, a });
	if (sscanf(line, "slot %d %u %llx %llx %llx %x", &as, &id, &a, &b, &c, &flags) == 6)
		return add_slot(p, &(struct see_slot){ as, id, flags, a, b, c });
	if (strcmp(line, "truncated") == 0)
		p->truncated = true;
	as = p->nr_roots ? p->root[p->nr_roots - 1].as : 0;
	if (sscanf(line, "leaf %llx %llx %d %llx", &a, &b, &level, &d) == 4)
		return add_run(p, &(struct see_run){ as, a, b, false, 0, level, d });
	if (sscanf(line, "mmio %llx %llx %llx", &a, &b, &c) == 3)
		return add_run(p, &(struct see_run){ as, a, b, true, c, 1, 0 });
	return true;
}

static bool take_text(struct see_picture *p, char *text)
{
	char *save = NULL, *line;
	bool good = true;

	for (line = strtok_r(text, "\n", &save); line && good; line = strtok_r(NULL, "\n", &save))
		good = take_line(p, line);
	free(text);
	return good;
}

static int by_start(const void *a, const void *b)
{
	const struct see_run *x = a, *y = b;

	return x->as != y->as ? x->as - y->as : (x->start > y->start) - (x->start < y->start);
}

/* Where the part of r that is in one slot, or in none, ends. */
static gpa_t end_of_part(const struct see_picture *p, const struct see_run *r)
{
	const struct see_slot *s = see_find_slot(p, r->as, r->start);
	gpa_t end = s ? min_u64(r->end, s->start + s->size) : r->end;

	for (unsigned i = 0; !s && i < p->nr_slots; i++)
		if (p->slot[i].as == r->as && p->slot[i].start > r->start)
			end = min_u64(end, p->slot[i].start);
	return end;
}

/* In order of address, and none is in two slots: like leaves run on where slots meet. */
static bool sort_runs(struct see_picture *p)
{
	for (unsigned i = 0; i < p->nr_runs; i++) {
		struct see_run rest = p->run[i], *n;
		gpa_t end = end_of_part(p, &rest);

		if (end == rest.end)
			continue;
		p->run[i].end = end;
		if (!rest.mmio)
			rest.entry += end - rest.start;
		rest.start = end;
		n = grow((void **)&p->run, &p->nr_runs, sizeof(*n)); /* looked at in its turn */
		if (!n)
			return false;
		*n = rest;
	}
	if (p->nr_runs)
		qsort(p->run, p->nr_runs, sizeof(*p->run), by_start);
	return true;
}

bool see_take(pid_t pid, uint64_t vm, struct see_picture *p)
{
	char *slots = see_ask(pid, "slots %llu\n", (ull)vm), *ept;

	*p = (struct see_picture){ .pid = pid, .vm = vm };
	if (!slots)
		return false;
	ept = see_ask(pid, "ept %llu\n", (ull)vm);
	if (!ept) {
		free(slots);
		return false;
	}
	if (!take_text(p, slots) || !take_text(p, ept) || !sort_runs(p)) {
		see_free(p);
		return see_fail("%s", strerror(ENOMEM));
	}
	return true;
}

/* --- dump files: the text of dump.c, read back --- */

static uint64_t parse_attributes(const char *text, int level)
{
	static const char *const type[8] = { "UC", "WC", "2?", "3?", "WT", "WP", "WB", "7?" };
	uint64_t e = SPTE_MMU_PRESENT | (level > 1 ? EPT_PAGE_SIZE : 0);
	char r, w, x, a, d, t[8] = "", ipat[8] = "";

	if (sscanf(text, " %c %c %c %c %c %7s %7s", &r, &w, &x, &a, &d, t, ipat) < 6)
		return 0;
	e |= (r == 'R' ? EPT_READ : 0) | (w == 'W' ? EPT_WRITE : 0) | (x == 'X' ? EPT_EXEC : 0) |
	     (a == 'A' ? EPT_ACCESSED : 0) | (d == 'D' ? EPT_DIRTY : 0) |
	     (strcmp(ipat, "IPAT") == 0 ? EPT_IPAT : 0);
	for (unsigned i = 0; i < 8; i++)
		if (strcmp(t, type[i]) == 0)
			e |= FIELD_PREP(EPT_MEMTYPE_MASK, i);
	return e;
}

/* False: a line of a dump that is not whole. */
static bool file_line(struct see_picture *p, const char *line)
{
	char size[16], level[16];
	const char *hva;
	struct see_run r = { .as = p->nr_roots ? p->root[p->nr_roots - 1].as : 0 };
	struct see_root root;
	struct see_slot s;
	ull a, b, c, vm;
	int pid, at = 0;

	if (sscanf(line, "---[ process %d VM %llu: EPT root at %llx, address space %d, %d levels, A/D %n",
		   &pid, &vm, &a, &root.as, &root.level, &at) == 5 && at) {
		root.ad = strncmp(line + at, "on", 2) == 0;
		root.hpa = a;
		p->pid = pid;
		p->vm = vm;
		return add_root(p, &root);
	}
	if (sscanf(line, "slot %u as %d %llx-%llx hva %llx flags %x", &s.id, &s.as, &a, &b, &c, &s.flags) == 6) {
		s.start = a, s.size = b - a, s.hva = c;
		return add_slot(p, &s);
	}
	if (sscanf(line, "%llx-%llx %15s %15s %n", &a, &b, size, level, &at) != 4 || !at)
		return strncmp(line, "0x", 2) != 0;
	r.start = a, r.end = b;
	if (strcmp(level, "-") == 0)
		return true; /* nothing is mapped there */
	for (r.level = 4; r.level && strcmp(level, see_level(r.level)) != 0;)
		r.level--;
	if (sscanf(line + at, "MMIO generation %llu", &c) == 1) {
		r.mmio = true;
		r.gen = c;
		return r.level && add_run(p, &r);
	}
	hva = strstr(line, " hva ");
	r.entry = parse_attributes(line + at, r.level);
	if (!r.level || !r.entry || !hva || sscanf(hva, " hva %llx", &c) != 1 || b <= a)
		return false;
	r.entry |= c & EPT_ADDR_MASK;
	return add_run(p, &r);
}

bool see_read_file(const char *path, struct see_picture *p)
{
	FILE *f = fopen(path, "re");
	char line[512];
	unsigned number = 0;

	*p = (struct see_picture){ 0 };
	if (!f)
		return see_fail("%s: %s", path, strerror(errno));
	while (fgets(line, sizeof(line), f)) {
		number++;
		if (strchr(line, '\n') && file_line(p, line))
			continue;
		fclose(f);
		see_free(p);
		return see_fail("%s:%u: not a line that `userkvm ept dump` writes, or cut off", path, number);
	}
	fclose(f);
	if (!p->nr_roots && !p->nr_slots) {
		see_free(p);
		return see_fail("%s: not written by `userkvm ept dump`", path);
	}
	if (!sort_runs(p)) {
		see_free(p);
		return see_fail("%s", strerror(ENOMEM));
	}
	return true;
}

void see_free(struct see_picture *p)
{
	free(p->run);
	free(p->slot);
	*p = (struct see_picture){ 0 };
}

const struct see_slot *see_find_slot(const struct see_picture *p, int as, gpa_t gpa)
{
	for (unsigned i = 0; i < p->nr_slots; i++)
		if (p->slot[i].as == as && gpa - p->slot[i].start < p->slot[i].size)
			return &p->slot[i];
	return NULL;
}

const struct see_run *see_find_run(const struct see_picture *p, int as, gpa_t gpa)
{
	unsigned lo = 0, hi = p->nr_runs;

	/* The last one that does not begin behind gpa. */
	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;
		const struct see_run *r = &p->run[mid];

		if (r->as < as || (r->as == as && r->start <= gpa))
			lo = mid + 1;
		else
			hi = mid;
	}
	if (!lo || p->run[lo - 1].as != as || gpa >= p->run[lo - 1].end)
		return NULL;
	return &p->run[lo - 1];
}
