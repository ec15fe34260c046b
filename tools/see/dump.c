/*
 * userkvm ept dump: the tables as text, one line for each run of like leaves,
 * in the manner of arm64's stage-2 page-table dump; or as JSON.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mmu/spte.h"
#include "tools/see/l2.h"
#include "tools/see/parts.h"

static void range(FILE *f, gpa_t start, gpa_t end)
{
	char size[24];

	fprintf(f, "0x%012llx-0x%012llx %6s ", (ull)start, (ull)end,
		see_size(end - start, size, sizeof(size)));
}

/* Memory of slots in [start, end) that no entry maps yet. */
static void unmapped(FILE *f, const struct see_picture *p, int as, gpa_t start, gpa_t end)
{
	for (unsigned i = 0; i < p->nr_slots; i++) {
		const struct see_slot *s = &p->slot[i];
		gpa_t lo = max_u64(start, s->start), hi = min_u64(end, s->start + s->size);

		if (s->as != as || lo >= hi)
			continue;
		range(f, lo, hi);
		fprintf(f, "%-5s not mapped yet%*sslot %u\n", "-", 32, "", s->id);
	}
}

static void write_run(FILE *f, const struct see_picture *p, const struct see_root *root,
		      const struct see_run *r)
{
	const struct see_slot *s = see_find_slot(p, r->as, r->start);
	char text[64];

	range(f, r->start, r->end);
	fprintf(f, "%-5s ", see_level(r->level));
	if (r->mmio) {
		fprintf(f, "MMIO generation %llu\n", (ull)r->gen);
		return;
	}
	see_attributes(r->entry, root->ad, text, sizeof(text));
	fprintf(f, "%-18s %-3s hva 0x%012llx", text, r->level > 1 ? "BLK" : "PG",
		(ull)(r->entry & EPT_ADDR_MASK));
	if (s)
		fprintf(f, "  slot %u", s->id);
	fputc('\n', f);
}

void see_write_dump(const struct see_picture *p, FILE *f)
{
	for (unsigned i = 0; i < p->nr_roots; i++) {
		const struct see_root *root = &p->root[i];
		gpa_t at = 0;

		fprintf(f, "---[ process %d VM %llu: EPT root at 0x%llx, address space %d, %d levels, A/D %s ]---\n",
			(int)p->pid, (ull)p->vm, (ull)root->hpa, root->as, root->level,
			root->ad ? "on" : "off");
		for (unsigned k = 0; k < p->nr_runs; k++) {
			if (p->run[k].as != root->as)
				continue;
			unmapped(f, p, root->as, at, p->run[k].start);
			write_run(f, p, root, &p->run[k]);
			at = p->run[k].end;
		}
		unmapped(f, p, root->as, at, ~0ULL);
	}
	fprintf(f, "---[ memslots ]---\n");
	for (unsigned i = 0; i < p->nr_slots; i++) {
		const struct see_slot *s = &p->slot[i];

		fprintf(f, "slot %u as %d 0x%012llx-0x%012llx hva 0x%012llx flags 0x%x  %s\n", s->id,
			s->as, (ull)s->start, (ull)(s->start + s->size), (ull)s->hva, s->flags,
			see_slot_flags(s->flags));
	}
}

static void json_run(struct json *j, const struct see_run *r)
{
	json_object(j, NULL, false);
	json_u64(j, "start", r->start);
	json_u64(j, "end", r->end);
	json_i64(j, "level", r->level);
	if (r->mmio) {
		json_bool(j, "mmio", true);
		json_u64(j, "generation", r->gen);
		json_end(j);
		return;
	}
	json_leaf(j, r->entry, r->level);
	json_u64(j, "hva", r->entry & EPT_ADDR_MASK);
	json_end(j);
}

static void json_root(struct json *j, const struct see_picture *p, const struct see_root *r)
{
	json_object(j, NULL, false);
	json_i64(j, "as", r->as);
	json_i64(j, "levels", r->level);
	json_bool(j, "ad", r->ad);
	json_u64(j, "hpa", r->hpa);
	json_array(j, "ranges", true);
	for (unsigned k = 0; k < p->nr_runs; k++)
		if (p->run[k].as == r->as)
			json_run(j, &p->run[k]);
	json_end(j);
	json_end(j);
}

static void json(const struct see_picture *p, FILE *f)
{
	struct json j = { .f = f };

	json_object(&j, NULL, false);
	json_i64(&j, "pid", p->pid);
	json_u64(&j, "vm", p->vm);
	json_bool(&j, "truncated", p->truncated);
	json_array(&j, "roots", true);
	for (unsigned i = 0; i < p->nr_roots; i++)
		json_root(&j, p, &p->root[i]);
	json_end(&j);
	json_array(&j, "slots", true);
	for (unsigned i = 0; i < p->nr_slots; i++)
		json_slot(&j, NULL, &p->slot[i]);
	json_end(&j);
	json_end(&j);
}

int see_dump(struct see_options *o)
{
	struct see_picture p;
	FILE *f = stdout;

	if (o->l2)
		return see_l2_dump(o);
	if (!see_choose_vm(o->pid, &o->vm) || !see_take(o->pid, o->vm, &p))
		return 1;
	if (o->output) {
		f = fopen(o->output, "we");
		if (!f) {
			see_free(&p);
			return !see_fail("%s: %s", o->output, strerror(errno));
		}
	}
	if (o->json)
		json(&p, f);
	else
		see_write_dump(&p, f);
	if (p.truncated)
		see_fail("there is more than fits: cut off");
	see_free(&p);
	if (fflush(f) || ferror(f))
		return !see_fail("%s: %s", o->output ? o->output : "standard output", strerror(errno));
	if (f != stdout)
		fclose(f);
	return 0;
}
