/*
 * userkvm ept dump --l2, map --l2: all of an L2's memory, as L1's tables have it and as the processor's do.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mmu/spte.h"
#include "tools/see/l2.h"
#include "tools/userkvm/json.h"

struct l2_run {
	gpa_t start, end;
	int level;
	uint64_t entry; /* of the first leaf */
};

struct l2_picture {
	struct l2_head head;
	struct l2_run *run12, *run02;
	unsigned nr12, nr02;
	bool truncated;
	struct see_picture slots; /* only the memslots are used */
};

/* A core's leaves come one by one. */
static bool continues(const struct l2_run *a, const struct l2_run *b)
{
	return a->end == b->start && a->level == b->level && ((a->entry ^ b->entry) & ~EPT_ADDR_MASK) == 0 &&
	       (a->entry & EPT_ADDR_MASK) + (b->start - a->start) == (b->entry & EPT_ADDR_MASK);
}

static bool grow(struct l2_run **run, unsigned *nr, const struct l2_run *r)
{
	struct l2_run *more = *run;

	if (*nr && continues(&more[*nr - 1], r)) {
		more[*nr - 1].end = r->end;
		return true;
	}
	if ((*nr & (*nr - 1)) == 0) { /* full at each power of two */
		more = realloc(*run, (*nr ? *nr * 2ul : 1) * sizeof(*more));
		if (!more)
			return see_fail("%s", strerror(ENOMEM));
		*run = more;
	}
	more[(*nr)++] = *r;
	return true;
}

static bool take_line(struct l2_picture *p, const char *line)
{
	struct l2_run r;
	ull a, b, e;
	int level;

	if (l2_head_line(&p->head, line))
		return true;
	if (strcmp(line, "truncated") == 0)
		p->truncated = true;
	if (sscanf(line, "leaf%*2d %llx %llx %d %llx", &a, &b, &level, &e) != 4)
		return true;
	r = (struct l2_run){ a, b, level, e };
	return strncmp(line, "leaf12", 6) == 0 ? grow(&p->run12, &p->nr12, &r) : grow(&p->run02, &p->nr02, &r);
}

static void release(struct l2_picture *p)
{
	free(p->run12);
	free(p->run02);
	see_free(&p->slots);
}

static bool take(struct see_options *o, struct l2_picture *p)
{
	char *text, *save = NULL;
	bool good = true;

	*p = (struct l2_picture){ 0 };
	if (!see_choose_vm(o->pid, &o->vm))
		return false;
	text = see_ask(o->pid, "ept2 %llu %u\n", (ull)o->vm, o->vcpu);
	if (!text)
		return false;
	for (char *l = strtok_r(text, "\n", &save); l && good; l = strtok_r(NULL, "\n", &save))
		good = take_line(p, l);
	free(text);
	good = good && see_take(o->pid, o->vm, &p->slots);
	if (!good)
		release(p);
	return good;
}

/* --- as text --- */

static void range(FILE *f, const struct l2_run *r)
{
	char size[24];

	fprintf(f, "0x%012llx-0x%012llx %6s %-5s ", (ull)r->start, (ull)r->end, see_size(r->end - r->start, size, sizeof(size)),
		see_level(r->level));
}

static uint64_t address_of(const struct l2_run *r)
{
	return r->entry & EPT_ADDR_MASK & ~((4096ULL << 9 * (r->level - 1)) - 1);
}

static void write_run12(FILE *f, const struct l2_picture *p, const struct l2_run *r)
{
	const struct see_slot *s = see_find_slot(&p->slots, p->head.as, address_of(r));
	char text[64];

	range(f, r);
	if (!(r->entry & EPT_RWX)) {
		fprintf(f, "misconfigured (0x%llx and rights)\n", (ull)r->entry);
		return;
	}
	see_attributes(r->entry, p->head.eptp12 & EPTP_AD_ENABLE, text, sizeof(text));
	fprintf(f, "%-18s %-3s L1 0x%012llx", text, r->level > 1 ? "BLK" : "PG", (ull)address_of(r));
	if (s)
		fprintf(f, "  slot %u\n", s->id);
	else
		fprintf(f, "  no slot\n");
}

static void write_run02(FILE *f, const struct l2_picture *p, const struct l2_run *r)
{
	char text[64];

	range(f, r);
	see_attributes(r->entry, p->head.eptp12 & EPTP_AD_ENABLE, text, sizeof(text));
	fprintf(f, "%-18s %-3s hva 0x%012llx\n", text, r->level > 1 ? "BLK" : "PG", (ull)address_of(r));
}

static void write_text(const struct see_options *o, const struct l2_picture *p, FILE *f)
{
	const char *ad = p->head.eptp12 & EPTP_AD_ENABLE ? "on" : "off";
	int levels = (int)FIELD_GET(EPTP_WALK_MASK, p->head.eptp12) + 1;

	fprintf(f, "---[ process %d VM %llu vCPU %u: EPT12, EPTP 0x%llx, table at L1 0x%llx, %d levels, A/D %s; %s ]---\n", (int)o->pid,
		(ull)o->vm, o->vcpu, (ull)p->head.eptp12, (ull)(p->head.eptp12 & EPTP_ROOT_MASK), levels, ad,
		l2_head_words(&p->head));
	for (unsigned n = 0; n < p->nr12; n++)
		write_run12(f, p, &p->run12[n]);
	if (p->head.root02)
		fprintf(f, "---[ EPT02, root at 0x%llx, %d levels, A/D %s ]---\n", (ull)p->head.root02, levels, ad);
	else
		fprintf(f, "---[ EPT02: no root, the next entry of L2 makes one ]---\n");
	for (unsigned n = 0; n < p->nr02; n++)
		write_run02(f, p, &p->run02[n]);
}

/* --- as JSON --- */

static void json_runs(struct json *j, const char *key, const struct l2_run *run, unsigned nr, const char *to)
{
	json_array(j, key, true);
	for (unsigned n = 0; n < nr; n++) {
		const struct l2_run *r = &run[n];

		json_object(j, NULL, false);
		json_u64(j, "start", r->start);
		json_u64(j, "end", r->end);
		json_i64(j, "level", r->level);
		json_string(j, "page", see_page_size(r->level));
		json_bool(j, "r", r->entry & EPT_READ);
		json_bool(j, "w", r->entry & EPT_WRITE);
		json_bool(j, "x", r->entry & EPT_EXEC);
		json_bool(j, "accessed", r->entry & EPT_ACCESSED);
		json_bool(j, "dirty", r->entry & EPT_DIRTY);
		json_u64(j, to, address_of(r));
		json_end(j);
	}
	json_end(j);
}

static void write_json(const struct see_options *o, const struct l2_picture *p, FILE *f)
{
	struct json j = { .f = f };

	json_object(&j, NULL, false);
	json_i64(&j, "pid", o->pid);
	json_u64(&j, "vm", o->vm);
	json_u64(&j, "vcpu", o->vcpu);
	json_bool(&j, "l2_runs", p->head.runs);
	json_u64(&j, "eptp12", p->head.eptp12);
	json_bool(&j, "ad", p->head.eptp12 & EPTP_AD_ENABLE);
	json_u64(&j, "root02", p->head.root02);
	json_bool(&j, "truncated", p->truncated);
	json_runs(&j, "ept12", p->run12, p->nr12, "l1");
	json_runs(&j, "ept02", p->run02, p->nr02, "hva");
	json_end(&j);
}

/* --- into a file --- */

static int write_to(const struct see_options *o, const struct l2_picture *p,
		    void (*write)(const struct see_options *o, const struct l2_picture *p, FILE *f))
{
	FILE *f = o->output ? fopen(o->output, "we") : stdout;
	int r = 0;

	if (f)
		write(o, p, f);
	if (!f || fflush(f) || ferror(f))
		r = !see_fail("%s: %s", o->output ? o->output : "standard output", strerror(errno));
	if (f && f != stdout)
		fclose(f);
	return r;
}

int see_l2_dump(struct see_options *o)
{
	struct l2_picture p;
	int r;

	if (!take(o, &p))
		return 1;
	r = write_to(o, &p, o->json ? write_json : write_text);
	if (p.truncated)
		see_fail("there is more than fits: cut off");
	release(&p);
	return r;
}

/* --- as a picture: in place of memslots the ranges, by 2 MiB, in which EPT12 maps something --- */

#define RANGE (2ULL << 20)

/* The picture of map.c; false: no memory. */
static bool as_picture(const struct see_options *o, const struct l2_picture *p, struct see_picture *out)
{
	struct see_slot *s = NULL;

	*out = (struct see_picture){ .pid = o->pid, .vm = o->vm };
	out->slot = calloc(p->nr12 + 1ul, sizeof(*out->slot));
	out->run = calloc(p->nr02 + 1ul, sizeof(*out->run));
	if (!out->slot || !out->run)
		return see_fail("%s", strerror(ENOMEM));
	for (unsigned n = 0; n < p->nr12; n++) {
		const struct l2_run *r = &p->run12[n];
		gpa_t start = ALIGN_DOWN(r->start, RANGE), end = ALIGN_DOWN(r->end + RANGE - 1, RANGE);

		if (!s || start > s->start + s->size) {
			s = &out->slot[out->nr_slots];
			*s = (struct see_slot){ 0, out->nr_slots++, 0, start, 0, address_of(r) };
		}
		s->size = end - s->start;
	}
	for (unsigned n = 0; n < p->nr02; n++)
		out->run[out->nr_runs++] = (struct see_run){ 0, p->run02[n].start, p->run02[n].end, false, 0, p->run02[n].level,
							     p->run02[n].entry };
	return true;
}

static void write_map(const struct see_options *o, const struct l2_picture *p, FILE *f)
{
	static const struct see_map_words words = {
		"L2's guest-physical memory", "range", "ranges of EPT12's", "EPT12", "EPT02 leaves", "first L1",
	};
	struct see_picture picture;

	if (as_picture(o, p, &picture))
		see_draw(&picture, &words, f);
	see_free(&picture);
}

int see_l2_map(struct see_options *o)
{
	struct l2_picture p;
	int r;

	if (!take(o, &p))
		return 1;
	r = write_to(o, &p, write_map);
	release(&p);
	return r;
}
