/*
 * Parts that the JSON of several commands has in common: see parts.h.
 */
#include "mmu/spte.h"
#include "sdm/paging.h"
#include "tools/see/parts.h"

void json_leaf(struct json *j, uint64_t entry, int level)
{
	static const char *const type[8] = { "UC", "WC", "2", "3", "WT", "WP", "WB", "7" };

	json_string(j, "page", see_page_size(level));
	json_bool(j, "r", entry & EPT_READ);
	json_bool(j, "w", entry & EPT_WRITE);
	json_bool(j, "x", entry & EPT_EXEC);
	json_bool(j, "accessed", entry & EPT_ACCESSED);
	json_bool(j, "dirty", entry & EPT_DIRTY);
	json_string(j, "memtype", type[FIELD_GET(EPT_MEMTYPE_MASK, entry)]);
	json_bool(j, "ipat", entry & EPT_IPAT);
}

void json_slot(struct json *j, const char *key, const struct see_slot *s)
{
	if (!s) {
		json_null(j, key);
		return;
	}
	json_object(j, key, false);
	json_u64(j, "id", s->id);
	json_i64(j, "as", s->as);
	json_u64(j, "start", s->start);
	json_u64(j, "size", s->size);
	json_u64(j, "hva", s->hva);
	json_u64(j, "flags", s->flags);
	json_end(j);
}

static void json_step(struct json *j, const struct see_step *s)
{
	json_object(j, NULL, false);
	json_i64(j, "level", s->level);
	json_string(j, "name", see_level(s->level));
	json_u64(j, "index", s->index);
	json_u64(j, "at", s->table + s->index * 8ull);
	json_u64(j, "entry", s->entry);
	if (s->entry && spte_is_mmio(s->entry)) {
		json_bool(j, "mmio", true);
		json_u64(j, "generation", mmio_spte_gen(s->entry));
	} else if (s->entry && spte_is_leaf(s->entry, s->level)) {
		json_leaf(j, s->entry, s->level);
		json_u64(j, "hva", s->entry & EPT_ADDR_MASK);
	} else if (s->entry) {
		json_u64(j, "table", s->entry & EPT_ADDR_MASK);
	}
	json_end(j);
}

void json_steps(struct json *j, const struct see_steps *s)
{
	if (s->root.level) {
		json_object(j, "root", false);
		json_i64(j, "as", s->root.as);
		json_i64(j, "levels", s->root.level);
		json_bool(j, "ad", s->root.ad);
		json_u64(j, "hpa", s->root.hpa);
		json_end(j);
	} else {
		json_null(j, "root");
	}
	json_array(j, "ept", true);
	for (int i = 0; i < s->nr; i++)
		json_step(j, &s->step[i]);
	json_end(j);
}

void json_guest(struct json *j, const struct see_guest_walk *w)
{
	json_object(j, "guest", false);
	json_i64(j, "levels", w->mode);
	json_u64(j, "cr0", w->cr0);
	json_u64(j, "cr3", w->cr3);
	json_u64(j, "cr4", w->cr4);
	json_u64(j, "efer", w->efer);
	json_array(j, "entries", true);
	for (int i = 0; i < w->nr; i++) {
		const struct see_guest_step *s = &w->step[i];

		json_object(j, NULL, false);
		json_string(j, "name", s->level ? see_level(s->level) : "PDPTE register");
		json_u64(j, s->level ? "gpa" : "register", s->at);
		json_u64(j, "entry", s->entry);
		json_bool(j, "present", s->entry & PTE_P);
		if (s->ept.has_by)
			json_u64(j, "l1", s->ept.by);
		else if (s->level)
			json_steps(j, &s->ept);
		json_end(j);
	}
	json_end(j);
	json_end(j);
}

void json_mapping(struct json *j, const char *line)
{
	if (*line)
		json_string(j, "mapping", line);
	else
		json_null(j, "mapping");
}
