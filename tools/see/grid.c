/*
 * userkvm ept walk --gva --grid: the references of a two-dimensional walk in
 * the order in which a processor without any cache makes them.
 *
 *            EPT PML4E  EPT PDPTE  EPT PDE  EPT PTE  guest entry
 *	PML4E       1          2         3        4          5
 *	PDPTE       6          7         8        9         10
 *	PDE        11         12        13       14         15
 *	PTE        16         17        18       19         20
 *	page       21         22        23       24       the data
 *
 * A row is one guest-physical address: of a table of the guest's, at last of
 * the page. Larger pages leave references out, of either dimension. "= N" is a
 * reference to the very entry that reference N has read: where the processor
 * caches paging structures (SDM Vol. 3, "Caching Translation Information") it
 * is not made.
 */
#include <errno.h>
#include <string.h>

#include "mmu/spte.h"
#include "sdm/paging.h"
#include "tools/see/see.h"
#include "tools/userkvm/json.h"

#define MAX_ROWS 6
#define MAX_COLUMNS 6 /* five levels of EPT and the guest's entry */

struct cell {
	unsigned number; /* 0: no reference */
	unsigned like;	 /* the number of an earlier reference to the same entry; 0: none */
	unsigned index;	 /* in its table */
	uint64_t at, entry; /* address: host-physical in EPT's columns, guest-physical in the last */
};

struct row {
	const char *name;
	gpa_t gpa;
	struct cell cell[MAX_COLUMNS];
};

struct grid {
	struct row row[MAX_ROWS];
	unsigned nr_rows, levels; /* of EPT */
	unsigned nr, nr_like;	  /* references; those that are cached */
	bool reached;
	uint64_t hva; /* where it ends */
};

static void set(struct grid *g, unsigned column, unsigned index, uint64_t at, uint64_t entry)
{
	struct cell *c = &g->row[g->nr_rows - 1].cell[column];

	*c = (struct cell){ ++g->nr, 0, index, at, entry };
	for (unsigned i = 0; i < g->nr_rows && !c->like; i++)
		if (g->row[i].cell[column].number && g->row[i].cell[column].number < c->number &&
		    g->row[i].cell[column].at == at)
			c->like = g->row[i].cell[column].number;
	g->nr_like += c->like != 0;
}

/* One more row: the walk of the EPT for gpa. */
static void add_row(struct grid *g, const char *name, gpa_t gpa, const struct see_steps *s)
{
	if (g->nr_rows == MAX_ROWS)
		return;
	g->row[g->nr_rows++] = (struct row){ .name = name, .gpa = gpa };
	if (s->root.level > 0 && s->root.level < MAX_COLUMNS)
		g->levels = (unsigned)s->root.level;
	for (int i = 0; i < s->nr && (unsigned)i < MAX_COLUMNS - 1; i++)
		set(g, (unsigned)i, s->step[i].index, s->step[i].table + s->step[i].index * 8ull, s->step[i].entry);
}

static void make(struct grid *g, const struct see_guest_walk *w)
{
	const struct see_step *last = w->ept.nr ? &w->ept.step[w->ept.nr - 1] : NULL;
	unsigned size = w->mode == 2 ? 4 : 8;

	*g = (struct grid){ .levels = 4 };
	for (int i = 0; i < w->nr; i++) {
		const struct see_guest_step *s = &w->step[i];

		if (!s->level)
			continue; /* a register's: no reference */
		add_row(g, see_level(s->level), s->at, &s->ept);
		set(g, MAX_COLUMNS - 1, (unsigned)(s->at % PAGE_SIZE / size), s->at, s->entry);
	}
	if (w->end == SEE_NOT_PRESENT)
		return;
	add_row(g, w->end == SEE_RESULT ? "page" : "table", w->gpa, &w->ept);
	if (w->end == SEE_RESULT && last && spte_is_leaf(last->entry, last->level)) {
		g->reached = true;
		g->hva = (last->entry & EPT_ADDR_MASK) + (w->gpa & ((level_pages(last->level) << PAGE_SHIFT) - 1));
	}
}

/* Columns of EPT's levels, then the guest's: the i-th of them as an index of row.cell. */
static unsigned column(const struct grid *g, unsigned i)
{
	return i < g->levels ? i : MAX_COLUMNS - 1;
}

static const char *heading(const struct grid *g, unsigned i, char *buf, size_t size)
{
	if (i == g->levels)
		return "guest entry";
	snprintf(buf, size, "EPT %s", see_level((int)(g->levels - i)));
	return buf;
}

static void reference(const struct cell *c, char *buf, size_t size)
{
	if (!c->number)
		*buf = '\0';
	else if (c->like)
		snprintf(buf, size, "%2u [%3u] = %u", c->number, c->index, c->like);
	else
		snprintf(buf, size, "%2u [%3u]", c->number, c->index);
}

static void summary(const struct grid *g, char *buf, size_t size)
{
	snprintf(buf, size, "%u references; %u of them to entries that an earlier one has read (=): with paging-structure caches %u",
		 g->nr, g->nr_like, g->nr - g->nr_like);
}

static void print_text(const struct grid *g)
{
	char text[160];

	printf("%-20s", "");
	for (unsigned i = 0; i <= g->levels; i++)
		printf("  %-18s", heading(g, i, text, sizeof(text)));
	for (unsigned r = 0; r < g->nr_rows; r++) {
		printf("\n%-6s0x%-12llx", g->row[r].name, (ull)g->row[r].gpa);
		for (unsigned i = 0; i <= g->levels; i++) {
			reference(&g->row[r].cell[column(g, i)], text, sizeof(text));
			printf("  %-18s", text);
		}
		printf("\n%-20s", "");
		for (unsigned i = 0; i <= g->levels; i++) {
			const struct cell *c = &g->row[r].cell[column(g, i)];

			snprintf(text, sizeof(text), "0x%llx", (ull)c->at);
			printf("  %-18s", c->number ? text : i < g->levels ? "-" : "");
		}
	}
	summary(g, text, sizeof(text));
	printf("\n\n%s\n", text);
}

static void print_json(const struct grid *g, gva_t gva, const struct see_guest_walk *w)
{
	struct json j = { .f = stdout };

	json_object(&j, NULL, true);
	json_u64(&j, "gva", gva);
	json_u64(&j, "cr3", w->cr3);
	json_i64(&j, "guest_levels", w->mode);
	json_array(&j, "references", true);
	for (unsigned r = 0; r < g->nr_rows; r++) {
		for (unsigned i = 0; i <= g->levels; i++) {
			const struct cell *c = &g->row[r].cell[column(g, i)];

			if (!c->number)
				continue;
			json_object(&j, NULL, false);
			json_u64(&j, "number", c->number);
			json_string(&j, "of", g->row[r].name);
			json_u64(&j, "gpa", g->row[r].gpa);
			json_string(&j, "entry_of", i < g->levels ? "ept" : "guest");
			json_u64(&j, "level", i < g->levels ? g->levels - i : 0);
			json_u64(&j, "index", c->index);
			json_u64(&j, "at", c->at);
			json_u64(&j, "entry", c->entry);
			json_u64(&j, "same_as", c->like);
			json_end(&j);
		}
	}
	json_end(&j);
	if (g->reached)
		json_u64(&j, "hva", g->hva);
	json_end(&j);
}

/* --- as a picture --- */

#define BOX_W 168
#define BOX_H 58
#define LEFT 150
#define TOP 96

static void draw_cell(FILE *f, double x, double y, const struct cell *c, bool guest)
{
	const char *fill = c->like ? "#e9ecef" : guest ? "#d3f9d8" : "#d0ebff";
	char text[64];

	if (!c->number) {
		fprintf(f, "<rect x=\"%g\" y=\"%g\" width=\"%d\" height=\"%d\" rx=\"5\" fill=\"none\" stroke=\"#dee2e6\" stroke-dasharray=\"4 4\"/>\n",
			x, y, BOX_W - 12, BOX_H - 10);
		return;
	}
	fprintf(f, "<g><title>0x%016llx</title><rect x=\"%g\" y=\"%g\" width=\"%d\" height=\"%d\" rx=\"5\" fill=\"%s\" stroke=\"#495057\"/>\n",
		(ull)c->entry, x, y, BOX_W - 12, BOX_H - 10, fill);
	fprintf(f, "<circle cx=\"%g\" cy=\"%g\" r=\"12\" fill=\"#343a40\"/><text x=\"%g\" y=\"%g\" class=\"n\" text-anchor=\"middle\">%u</text>\n",
		x + 17, y + 17, x + 17, y + 21.5, c->number);
	snprintf(text, sizeof(text), c->like ? "[%u] = %u" : "[%u]", c->index, c->like);
	fprintf(f, "<text x=\"%g\" y=\"%g\" class=\"b\">%s</text><text x=\"%g\" y=\"%g\" class=\"m\">0x%llx</text></g>\n", x + 36, y + 22, text,
		x + 10, y + 41, (ull)c->at);
}

static void draw(const struct grid *g, gva_t gva, FILE *f)
{
	double width = LEFT + (g->levels + 1) * (double)BOX_W + 20, height = TOP + g->nr_rows * (double)BOX_H + 60;
	char text[160];

	fprintf(f,
		"<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%g\" height=\"%g\" viewBox=\"0 0 %g %g\">\n"
		"<style>text{font-family:'DejaVu Sans',Arial,sans-serif;fill:#212529}.h{font-size:19px;font-weight:bold}"
		".b{font-size:13.5px;font-weight:bold}.s{font-size:12.5px;fill:#495057}.n{font-size:12px;font-weight:bold;fill:#fff}"
		".m{font-family:'DejaVu Sans Mono',monospace;font-size:12px}</style>\n"
		"<rect width=\"%g\" height=\"%g\" fill=\"#fff\"/>\n"
		"<text x=\"20\" y=\"36\" class=\"h\">The walk of guest-virtual 0x%llx in two dimensions</text>\n",
		width, height, width, height, width, height, (ull)gva);
	for (unsigned i = 0; i <= g->levels; i++)
		fprintf(f, "<text x=\"%g\" y=\"%d\" class=\"b\">%s</text>\n", LEFT + i * (double)BOX_W, TOP - 16,
			heading(g, i, text, sizeof(text)));
	for (unsigned r = 0; r < g->nr_rows; r++) {
		double y = TOP + r * (double)BOX_H;

		fprintf(f, "<text x=\"20\" y=\"%g\" class=\"b\">%s</text><text x=\"20\" y=\"%g\" class=\"m\">gpa 0x%llx</text>\n", y + 20,
			g->row[r].name, y + 38, (ull)g->row[r].gpa);
		for (unsigned i = 0; i <= g->levels; i++)
			draw_cell(f, LEFT + i * (double)BOX_W, y, &g->row[r].cell[column(g, i)], i == g->levels);
	}
	summary(g, text, sizeof(text));
	fprintf(f, "<text x=\"20\" y=\"%g\" class=\"s\">%s</text>\n", height - 34, text);
	if (g->reached)
		fprintf(f, "<text x=\"20\" y=\"%g\" class=\"s\">ends at host-virtual 0x%llx of the client</text>\n", height - 14, (ull)g->hva);
	fputs("</svg>\n", f);
}

int see_grid(const struct see_options *o, gva_t gva, const struct see_guest_walk *w)
{
	struct grid g;
	FILE *f;
	bool failed;

	make(&g, w);
	if (o->json)
		print_json(&g, gva, w);
	else if (!o->output)
		print_text(&g);
	if (!o->output)
		return 0;
	f = fopen(o->output, "we");
	if (!f)
		return !see_fail("%s: %s", o->output, strerror(errno));
	draw(&g, gva, f);
	errno = 0;
	failed = ferror(f) != 0;
	failed |= fclose(f) != 0;
	return failed ? !see_fail("%s: %s", o->output, strerror(errno ? errno : EIO)) : 0;
}
