/*
 * userkvm ept walk --l2 --json, explain --l2 --json: what l2_walk.c prints, as JSON.
 */
#include "mmu/spte.h"
#include "tools/see/l2.h"
#include "tools/see/parts.h"

void l2_json_place(struct json *j, const struct see_options *o)
{
	json_i64(j, "pid", o->pid);
	json_u64(j, "vm", o->vm);
	json_u64(j, "vcpu", o->vcpu);
}

static uint64_t page_offset(int level)
{
	return (4096ULL << 9 * (level - 1)) - 1;
}

static void step12(struct json *j, const struct l2_walk *w, const struct l2_step12 *s)
{
	static const char *const kind[] = {
		[EPT_ENTRY_ABSENT] = "absent", [EPT_ENTRY_BAD] = "misconfigured", [EPT_ENTRY_TABLE] = "table", [EPT_ENTRY_LEAF] = "page",
	};

	json_object(j, NULL, false);
	json_i64(j, "level", s->level);
	json_string(j, "name", see_level(s->level));
	json_u64(j, "at", s->at);
	json_string(j, "kind", s->nowhere ? "no memory there" : kind[s->kind]);
	if (!s->nowhere)
		json_u64(j, "entry", s->entry);
	if (!s->nowhere && s->kind == EPT_ENTRY_BAD)
		json_string(j, "why", l2_misconfigured(w, s));
	if (!s->nowhere && s->kind == EPT_ENTRY_TABLE)
		json_u64(j, "table", s->entry & EPT_ADDR_MASK);
	if (!s->nowhere && s->kind == EPT_ENTRY_LEAF) {
		json_leaf(j, s->entry, s->level);
		json_u64(j, "l1", s->entry & EPT_ADDR_MASK & ~page_offset(s->level));
	}
	json_end(j);
}

static void step02(struct json *j, const struct l2_step02 *s)
{
	json_object(j, NULL, false);
	json_i64(j, "level", s->level);
	json_string(j, "name", see_level(s->level));
	json_u64(j, "index", s->index);
	json_u64(j, "at", s->table + s->index * 8ull);
	json_u64(j, "entry", s->entry);
	if (s->entry & EPT_RWX && (s->level == 1 || s->entry & EPT_PAGE_SIZE)) {
		json_leaf(j, s->entry, s->level);
		json_u64(j, "hva", s->entry & EPT_ADDR_MASK & ~page_offset(s->level));
	} else if (s->entry & EPT_RWX) {
		json_u64(j, "table", s->entry & EPT_ADDR_MASK);
	}
	json_bool(j, "unsync", s->unsync);
	json_end(j);
}

void l2_json_walk(struct json *j, const struct l2_walk *w)
{
	char why[320];
	enum l2_verdict v = l2_verdict(w, why, sizeof(why));

	json_u64(j, "gpa", w->gpa);
	json_bool(j, "l2_runs", w->head.runs);
	json_u64(j, "eptp12", w->head.eptp12);
	json_bool(j, "ad", w->head.eptp12 & EPTP_AD_ENABLE);
	json_array(j, "ept12", true);
	for (int n = 0; n < w->nr12; n++)
		step12(j, w, &w->step12[n]);
	json_end(j);
	if (w->mapped) {
		json_u64(j, "l1", w->gpa1);
		json_object(j, "ept01", false);
		json_steps(j, &w->ept01);
		json_end(j);
	} else {
		json_null(j, "l1");
		json_null(j, "ept01");
	}
	json_u64(j, "root02", w->head.root02);
	json_array(j, "ept02", true);
	for (int n = 0; n < w->nr02; n++)
		step02(j, &w->step02[n]);
	json_end(j);
	json_string(j, "verdict", l2_verdict_name(v));
	json_string(j, "verdict_why", why);
	json_string(j, "result", !w->mapped ? "not mapped by L1" : !w->slot ? "no memslot" : "mapped");
	json_slot(j, "slot", w->slot);
	if (w->slot) {
		json_u64(j, "hva", w->hva);
		json_mapping(j, w->mapping);
	}
}
