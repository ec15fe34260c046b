/*
 * userkvm ept idle: the working set. All memory is idle, says the process; some
 * time later a picture shows which of it was accessed.
 */
#include <unistd.h>

#include "mmu/spte.h"
#include "tools/see/parts.h"

struct idle {
	const struct see_picture *p;
	struct json *j; /* NULL: as text */
	int as;
	gpa_t start, end; /* idle memory not yet told; end 0: none */
	uint64_t mapped, accessed;
};

static void tell(struct idle *d)
{
	const struct see_slot *s = see_find_slot(d->p, d->as, d->start);
	char size[24];

	if (!d->end)
		return;
	if (d->j) {
		json_object(d->j, NULL, false);
		json_i64(d->j, "as", d->as);
		json_u64(d->j, "start", d->start);
		json_u64(d->j, "end", d->end);
		if (s)
			json_u64(d->j, "slot", s->id);
		else
			json_null(d->j, "slot");
		json_end(d->j);
		d->end = 0;
		return;
	}
	printf("0x%012llx-0x%012llx %6s idle", (ull)d->start, (ull)d->end,
	       see_size(d->end - d->start, size, sizeof(size)));
	if (s)
		printf("  slot %u", s->id);
	puts(d->as ? "  (address space 1)" : "");
	d->end = 0;
}

static void root_idle(struct idle *d, const struct see_root *root)
{
	d->as = root->as;
	for (unsigned i = 0; i < d->p->nr_runs; i++) {
		const struct see_run *r = &d->p->run[i];
		bool accessed = spte_is_accessed(r->entry, root->ad);

		if (r->as != root->as || r->mmio)
			continue;
		d->mapped += r->end - r->start;
		if (accessed)
			d->accessed += r->end - r->start;
		if (accessed || d->end != r->start ||
		    see_find_slot(d->p, d->as, d->start) != see_find_slot(d->p, d->as, r->start))
			tell(d);
		if (accessed)
			continue;
		if (!d->end)
			d->start = r->start;
		d->end = r->end;
	}
	tell(d);
}

int see_idle(struct see_options *o)
{
	struct see_picture p;
	struct json j = { .f = stdout };
	struct idle d = { .p = &p, .j = o->json ? &j : NULL };
	char accessed[24], mapped[24];

	if (!see_choose_vm(o->pid, &o->vm) || !see_age(o->pid, o->vm))
		return 1;
	usleep((useconds_t)(o->interval * 1e6));
	if (!see_take(o->pid, o->vm, &p))
		return 1;
	if (d.j) {
		json_object(&j, NULL, true);
		json_i64(&j, "pid", p.pid);
		json_u64(&j, "vm", p.vm);
		json_bool(&j, "truncated", p.truncated);
		json_array(&j, "idle", true);
	}
	for (unsigned i = 0; i < p.nr_roots; i++)
		root_idle(&d, &p.root[i]);
	if (d.j) {
		json_end(&j);
		json_double(&j, "seconds", o->interval);
		json_u64(&j, "accessed", d.accessed);
		json_u64(&j, "mapped", d.mapped);
		json_end(&j);
	} else {
		printf("accessed within %g s: %s of %s that is mapped\n", o->interval,
		       see_size(d.accessed, accessed, sizeof(accessed)), see_size(d.mapped, mapped, sizeof(mapped)));
	}
	if (p.truncated)
		see_fail("there is more than fits: cut off");
	see_free(&p);
	return 0;
}
