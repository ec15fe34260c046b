/*
 * userkvm walkthrough --html: one page of a run (page.html), with the run in it
 * as JSON:
 *
 *   about    what was run, in English and Chinese
 *   trees    the titles of the four trees, both
 *   pieces   [tree, "thread"]
 *   steps    the lines, in the order of time: tree, p (piece), d (depth within
 *            it), t (ns since the first record), n (the line's words), v (its
 *            values), r (remarks: both), f (fields: both, each [bits, value,
 *            name, meaning]), s (Linux's file), m (its name there today), a (the
 *            guest-physical address that the piece is about), c (how many of
 *            `changes` there were before)
 *   changes  what was written to EPT tables, in the order of time: ["vm"],
 *            ["root", AS, LEVEL, HPA], ["w", AS, LEVEL, GFN, ENTRY]; level 0:
 *            the leaf that maps GFN
 *
 * Addresses and entries are strings: they need more bits than JavaScript's
 * numbers have. Nothing stands in the page that no tracepoint has told.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "tools/trace/walk.h"
#include "tools/userkvm/json.h"
#include "walk_page.h"

#define MARK "@RUN@"

struct step {
	const struct capture_record *r;
	size_t at; /* index of the record */
	uint32_t piece, depth;
	int tree;
};

struct page {
	const struct walk_pieces *p;
	const struct capture *c;
	struct step *step;
	size_t nr_steps;
	struct json j;
};

static int by_record(const void *a, const void *b)
{
	const struct step *x = a, *y = b;

	return x->at < y->at ? -1 : x->at > y->at;
}

static int collect(struct page *g)
{
	size_t n = 0;

	for (size_t i = 0; i < g->p->nr; i++)
		n += g->p->piece[i].nr;
	g->step = calloc(n + 1, sizeof(*g->step));
	if (!g->step)
		return -1;
	for (size_t i = 0; i < g->p->nr; i++) {
		const struct walk_piece *p = &g->p->piece[i];

		for (unsigned k = 0; k < p->nr; k++) {
			const struct capture_record *r = &g->c->records[p->events[k]];

			g->step[g->nr_steps++] = (struct step){
				r, p->events[k], (uint32_t)i, walk_depth(r) - walk_depth(&g->c->records[p->first]), p->tree,
			};
		}
	}
	qsort(g->step, g->nr_steps, sizeof(*g->step), by_record);
	return 0;
}

/* --- changes of the tables --- */

#define AS(event, r) ((const struct trace_##event *)(r)->ent)

static void hex_string(struct json *j, uint64_t v)
{
	char text[24];

	snprintf(text, sizeof(text), "0x%" PRIx64, v);
	json_string(j, NULL, text);
}

static void write_entry(struct json *j, unsigned as, unsigned level, uint64_t gfn, uint64_t entry)
{
	json_array(j, NULL, false);
	json_string(j, NULL, "w");
	json_u64(j, NULL, as);
	json_u64(j, NULL, level);
	hex_string(j, gfn);
	hex_string(j, entry);
	json_end(j);
}

/* The role of the root that a thread gets is told a moment before its address. */
struct roots {
	unsigned as, level;
};

/* True: the record is a change, which is written where j is not NULL. */
static bool change(struct json *j, const struct capture_record *r, struct roots *last)
{
	switch (capture_event(r)) {
	case TRACE_userkvm_kvm_mmu_get_page:
		last->as = AS(userkvm_kvm_mmu_get_page, r)->as_id;
		last->level = AS(userkvm_kvm_mmu_get_page, r)->level;
		return false;
	case TRACE_userkvm_kvm_create_vm:
	case TRACE_userkvm_root_hpa:
	case TRACE_kvmmmu_kvm_tdp_mmu_spte_changed:
	case TRACE_kvmmmu_fast_page_fault: break;
	default: return false;
	}
	if (!j)
		return true;
	switch (capture_event(r)) {
	case TRACE_userkvm_kvm_create_vm:
		json_array(j, NULL, false);
		json_string(j, NULL, "vm");
		json_end(j);
		break;
	case TRACE_userkvm_root_hpa:
		json_array(j, NULL, false);
		json_string(j, NULL, "root");
		json_u64(j, NULL, last->as);
		json_u64(j, NULL, last->level);
		hex_string(j, AS(userkvm_root_hpa, r)->root_hpa);
		json_end(j);
		break;
	case TRACE_kvmmmu_kvm_tdp_mmu_spte_changed:
		write_entry(j, AS(kvmmmu_kvm_tdp_mmu_spte_changed, r)->as_id, AS(kvmmmu_kvm_tdp_mmu_spte_changed, r)->level,
			    AS(kvmmmu_kvm_tdp_mmu_spte_changed, r)->gfn, AS(kvmmmu_kvm_tdp_mmu_spte_changed, r)->new_spte);
		break;
	default:
		write_entry(j, 0, 0, AS(kvmmmu_fast_page_fault, r)->cr2_or_gpa >> 12, AS(kvmmmu_fast_page_fault, r)->new_spte);
	}
	return true;
}

/* Those before the last step; later ones are in no picture. */
static void changes(struct page *g)
{
	size_t last = g->nr_steps ? g->step[g->nr_steps - 1].at : 0;
	struct roots roots = { 0, 4 };

	json_array(&g->j, "changes", true);
	for (size_t i = 0; g->nr_steps && i <= last; i++)
		change(&g->j, &g->c->records[i], &roots);
	json_end(&g->j);
}

/* --- steps --- */

/* The guest-physical address that a piece is about: the first of its lines that has one. */
static bool address_of(const struct page *g, const struct walk_piece *p, uint64_t *gpa)
{
	for (unsigned k = 0; k < p->nr; k++) {
		const struct capture_record *r = &g->c->records[p->events[k]];

		switch (capture_event(r)) {
		case TRACE_userkvm_kvm_mmu_page_fault: *gpa = AS(userkvm_kvm_mmu_page_fault, r)->gpa; return true;
		case TRACE_userkvm_guest_walk: *gpa = AS(userkvm_guest_walk, r)->gpa; return true;
		case TRACE_userkvm_handle_ept_misconfig: *gpa = AS(userkvm_handle_ept_misconfig, r)->gpa; return true;
		case TRACE_userkvm_tdp_page_fault: *gpa = AS(userkvm_tdp_page_fault, r)->gpa; return true;
		default: break;
		}
	}
	return false;
}

static void values(struct page *g, const struct step *s, const struct walk_line *line)
{
	char *text = NULL;
	size_t size = 0;
	struct out o = { .f = open_memstream(&text, &size), .lang = EN };

	if (o.f && line->values)
		line->values(&o, s->r->ent);
	if (o.f)
		fclose(o.f);
	json_string(&g->j, "v", text ? text : "");
	free(text);
}

static void both(struct page *g, const struct step *s, const struct walk_line *line)
{
	json_array(&g->j, "r", false);
	for (int lang = 0; lang < NR_LANGS; lang++) {
		const char *remark = line->choose ? line->choose((enum lang)lang, s->r->ent) : line->remark[lang];

		json_string(&g->j, NULL, remark ? remark : "");
	}
	json_end(&g->j);
	json_array(&g->j, "f", false);
	for (int lang = 0; lang < NR_LANGS; lang++) {
		struct out o = { .lang = (enum lang)lang, .json = &g->j };

		json_array(&g->j, NULL, false);
		if (line->details)
			line->details(&o, s->r->ent);
		json_end(&g->j);
	}
	json_end(&g->j);
}

static void step(struct page *g, const struct step *s, size_t nr_changes)
{
	const struct walk_line *line = walk_line_of(capture_event(s->r));
	const struct walk_source *source = walk_source_of(capture_event(s->r));
	char text[24], words[96];
	uint64_t gpa;

	json_object(&g->j, NULL, false);
	json_u64(&g->j, "tree", (uint64_t)s->tree);
	json_u64(&g->j, "p", s->piece);
	json_u64(&g->j, "d", s->depth);
	json_u64(&g->j, "t", s->r->head->ts - g->c->records[0].head->ts);
	json_string(&g->j, "n", walk_text(line, s->r->ent, words, sizeof(words)));
	values(g, s, line);
	both(g, s, line);
	json_string(&g->j, "s", source ? source->file : "");
	json_string(&g->j, "m", source && source->today ? source->today : "");
	if (address_of(g, &g->p->piece[s->piece], &gpa)) {
		snprintf(text, sizeof(text), "0x%" PRIx64, gpa);
		json_string(&g->j, "a", text);
	}
	json_u64(&g->j, "c", nr_changes);
	json_end(&g->j);
}

static void steps(struct page *g)
{
	struct roots roots = { 0, 4 };
	size_t nr_changes = 0, at = 0;

	json_array(&g->j, "steps", true);
	for (size_t i = 0; at < g->nr_steps; i++) {
		nr_changes += change(NULL, &g->c->records[i], &roots);
		for (; at < g->nr_steps && g->step[at].at == i; at++)
			step(g, &g->step[at], nr_changes);
	}
	json_end(&g->j);
}

/* --- the page --- */

static void pieces(struct page *g)
{
	json_array(&g->j, "pieces", false);
	for (size_t i = 0; i < g->p->nr; i++) {
		int32_t tid = g->c->records[g->p->piece[i].first].ent->common_pid;
		char name[48];

		snprintf(name, sizeof(name), "%s-%d", capture_comm(g->c, tid), tid);
		json_array(&g->j, NULL, false);
		json_u64(&g->j, NULL, (uint64_t)g->p->piece[i].tree);
		json_string(&g->j, NULL, name);
		json_end(&g->j);
	}
	json_end(&g->j);
}

static void about(struct page *g, const char *client)
{
	const char *params = getenv("USERKVM_PARAMS");
	char text[512];

	json_array(&g->j, "about", false);
	for (int lang = 0; lang < NR_LANGS; lang++) {
		snprintf(text, sizeof(text), "%s%s%s · userkvm " USERKVM_VERSION,
			 client ? client : lang == ZH ? "内置的小客户机" : "the built-in guest",
			 params && *params ? " · USERKVM_PARAMS=" : "", params ? params : "");
		json_string(&g->j, NULL, text);
	}
	json_end(&g->j);
}

static void write_run(struct page *g, const char *client)
{
	json_object(&g->j, NULL, true);
	about(g, client);
	json_array(&g->j, "trees", false);
	for (int tree = 0; tree < WALK_TREES; tree++) {
		json_array(&g->j, NULL, false);
		json_string(&g->j, NULL, walk_titles[tree][EN]);
		json_string(&g->j, NULL, walk_titles[tree][ZH]);
		json_end(&g->j);
	}
	json_end(&g->j);
	pieces(g);
	steps(g);
	changes(g);
	json_end(&g->j);
}

int walk_html(const struct walk_pieces *p, const struct capture *c, const char *client, FILE *f)
{
	const char *mark = strstr(walk_page, MARK);
	struct page g = { .p = p, .c = c, .j = { .f = f } };

	if (collect(&g)) {
		errno = ENOMEM;
		return -1;
	}
	fwrite(walk_page, 1, (size_t)(mark - walk_page), f);
	write_run(&g, client);
	fputs(mark + strlen(MARK), f);
	free(g.step);
	return 0;
}
