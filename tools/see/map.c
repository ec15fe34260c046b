/*
 * userkvm ept map: a picture of guest-physical memory.
 *
 *	memslots | address   cells, 64 a row, each a power of two of bytes
 *	┌──────┐ | 0x00000000 ■■■■■■■■■■■■■■■■
 *	│slot 0│ | 0x00800000 ■■■■■■■■■■■■■■■■
 *
 * A slot is a section of its own, with cells as large as its rows are few. A
 * cell is filled by the size of the pages that map it, from the left for a cell
 * that is mapped in part; hatched where writes would fault; a green edge on top
 * as far as it was accessed, a red one below as far as it is dirty.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>

#include "mmu/spte.h"
#include "tools/see/l2.h"
#include "tools/see/see.h"

#define COLUMNS 64
#define MAX_ROWS 32	 /* of the largest slots */
#define MAX_ROWS_SMALL 8 /* of those less than an eighth of it */
#define CELL 13
#define GAP 1
#define LEFT 190	/* memslot boxes end here */
#define CELLS_X 300	/* the addresses stand between */
#define TOP 104
#define WIDTH (CELLS_X + COLUMNS * (CELL + GAP) + 30)

enum { SIZE_4K, SIZE_2M, SIZE_1G, SIZES };
static const char *const size_name[SIZES] = { "4 KiB pages", "2 MiB pages", "1 GiB pages" };
#define COLOUR_NONE "#e9ecef"
#define COLOUR_MMIO "#d6336c"
#define COLOUR_ACCESSED "#2b8a3e"
#define COLOUR_DIRTY "#c92a2a"

/* How much of a piece of guest memory is what, in bytes. */
struct content {
	uint64_t by_size[SIZES], mmio, read_only, accessed, dirty, mapped;
};

static void look(const struct see_picture *p, int as, gpa_t start, gpa_t end, struct content *c)
{
	*c = (struct content){ 0 };
	for (gpa_t at = start; at < end;) {
		const struct see_run *r = see_find_run(p, as, at);
		uint64_t n;

		if (!r) { /* to the next run, if it begins inside */
			gpa_t next = end;

			for (unsigned lo = 0, hi = p->nr_runs; lo < hi;) {
				unsigned mid = (lo + hi) / 2;

				if (p->run[mid].as < as || (p->run[mid].as == as && p->run[mid].start <= at)) {
					lo = mid + 1;
				} else {
					hi = mid;
					if (p->run[mid].as == as)
						next = min_u64(end, p->run[mid].start);
				}
			}
			at = next;
			continue;
		}
		n = min_u64(end, r->end) - at;
		at += n;
		if (r->mmio) {
			c->mmio += n;
			continue;
		}
		c->mapped += n;
		c->by_size[r->level == 1 ? SIZE_4K : r->level == 2 ? SIZE_2M : SIZE_1G] += n;
		c->read_only += r->entry & EPT_WRITE ? 0 : n;
		c->accessed += r->entry & EPT_ACCESSED ? n : 0;
		c->dirty += r->entry & EPT_DIRTY ? n : 0;
	}
}

static void box(FILE *f, double x, double y, double w, double h, const char *fill)
{
	if (w > 0)
		fprintf(f, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"%s\"/>\n", x, y, w, h, fill);
}

/*
 * What is drawn over one another, each layer of a section as one path, which
 * keeps the file small.
 */
enum layer { BASE, PAGES_4K, PAGES_2M, PAGES_1G, MMIO, READ_ONLY, ACCESSED, DIRTY, LAYERS };
static const char *const layer_fill[LAYERS] = {
	COLOUR_NONE, "#e8a33d", "#3d7dca", "#7b4fb0", COLOUR_MMIO, "url(#ro)", COLOUR_ACCESSED, COLOUR_DIRTY,
};

/* The layer's part of a cell of `bytes` whose corner is x, y. */
static void cell(FILE *f, enum layer layer, const struct content *c, uint64_t bytes, double x, double y)
{
	const double per = CELL / (double)bytes;
	double left = 0, n = 0, top = 0, high = CELL;

	switch (layer) {
	case BASE: n = (double)bytes; break;
	case PAGES_1G: n = (double)c->by_size[SIZE_1G]; break;
	case PAGES_2M:
		left = (double)c->by_size[SIZE_1G];
		n = (double)c->by_size[SIZE_2M];
		break;
	case PAGES_4K:
		left = (double)(c->by_size[SIZE_1G] + c->by_size[SIZE_2M]);
		n = (double)c->by_size[SIZE_4K];
		break;
	case MMIO:
		left = (double)c->mapped;
		n = (double)c->mmio;
		break;
	case READ_ONLY: n = (double)c->read_only; break;
	case ACCESSED:
		n = (double)c->accessed;
		high = 2.5;
		break;
	case DIRTY:
		n = (double)c->dirty;
		top = CELL - 3;
		high = 3;
		break;
	default: break;
	}
	if (n > 0)
		fprintf(f, "M%g %gh%.3gv%gh-%.3gz", x + left * per, y + top, n * per, high, n * per);
}

/* Bytes of a cell: a power of two, so that there are not too many rows. */
static uint64_t cell_bytes(const struct see_picture *p, uint64_t size)
{
	uint64_t bytes = PAGE_SIZE, largest = 0;

	for (unsigned i = 0; i < p->nr_slots; i++)
		largest = max_u64(largest, p->slot[i].size);
	while (size > bytes * COLUMNS * (size < largest / 8 ? MAX_ROWS_SMALL : MAX_ROWS))
		bytes *= 2;
	return bytes;
}

/* About as much, for a heading. */
static const char *about(uint64_t bytes, char *buf, size_t size)
{
	if (bytes >> 30 >= 10 || (bytes >> 30 && bytes % (1ULL << 30) == 0))
		snprintf(buf, size, "%.0f GiB", (double)bytes / (1ULL << 30));
	else if (bytes >> 20)
		snprintf(buf, size, "%.0f MiB", (double)bytes / (1ULL << 20));
	else
		snprintf(buf, size, "%.0f KiB", (double)bytes / 1024);
	return buf;
}

static void text(FILE *f, double x, double y, const char *style, const char *anchor, const char *s)
{
	fprintf(f, "<text x=\"%.1f\" y=\"%.1f\" class=\"%s\" text-anchor=\"%s\">", x, y, style, anchor);
	for (; *s; s++)
		fprintf(f, *s == '<' ? "&lt;" : *s == '&' ? "&amp;" : "%c", *s);
	fputs("</text>\n", f);
}

/* SMM sees the normal slots too, mostly: memory that both have is counted once. */
static bool counted(const struct see_picture *p, const struct see_slot *s)
{
	for (unsigned i = 0; s->as && i < p->nr_slots; i++)
		if (!p->slot[i].as && p->slot[i].start == s->start && p->slot[i].size == s->size && p->slot[i].hva == s->hva)
			return false;
	return true;
}

/* What a cell holds, in words. */
static void cell_words(const struct content *c, uint64_t bytes, char *buf, size_t size)
{
	static const char *const part[] = { "", "partly " };
	size_t n = 0;

	for (int i = 0; i < SIZES; i++)
		if (c->by_size[i] && n < size)
			n += (size_t)snprintf(buf + n, size - n, "%s%s", n ? ", " : "", size_name[i]);
	if (c->mmio && n < size)
		n += (size_t)snprintf(buf + n, size - n, "%sMMIO", n ? ", " : "");
	if (!n)
		n += (size_t)snprintf(buf, size, "not mapped yet");
	else if (c->mapped + c->mmio < bytes && n < size)
		n += (size_t)snprintf(buf + n, size - n, ", partly mapped");
	if (c->read_only && n < size)
		n += (size_t)snprintf(buf + n, size - n, ", %swrite faults", part[c->read_only < c->mapped]);
	if (c->accessed && n < size)
		n += (size_t)snprintf(buf + n, size - n, ", %saccessed", part[c->accessed < c->mapped]);
	if (c->dirty && n < size)
		snprintf(buf + n, size - n, ", %sdirty", part[c->dirty < c->mapped]);
}

/* Tool-tips: cells of a row that say the same share one. */
static void tips(FILE *f, const struct see_picture *p, const struct see_slot *s, uint64_t bytes, unsigned cells, double y)
{
	char last[160] = "", words[160];

	for (unsigned i = 0, first = 0; i <= cells; i++) {
		gpa_t start = s->start + i * bytes, end = min_u64(start + bytes, s->start + s->size);
		struct content c;

		if (i < cells) {
			look(p, s->as, start, end, &c);
			cell_words(&c, end - start, words, sizeof(words));
			if (i == first)
				memcpy(last, words, sizeof(last));
			if (i % COLUMNS && strcmp(words, last) == 0)
				continue;
		}
		if (i > first) {
			fprintf(f, "<rect x=\"%d\" y=\"%g\" width=\"%d\" height=\"%d\" fill-opacity=\"0\"><title>0x%llx-0x%llx: %s</title></rect>\n",
				CELLS_X + (int)(first % COLUMNS) * (CELL + GAP), y + first / COLUMNS * (CELL + GAP),
				(int)(i - first) * (CELL + GAP), CELL, (ull)(s->start + first * bytes),
				(ull)min_u64(s->start + i * bytes, s->start + s->size), last);
			first = i;
			memcpy(last, words, sizeof(last));
		}
	}
}

/* The next section's y. */
static double section(FILE *f, const struct see_picture *p, const struct see_map_words *w, const struct see_slot *s, double y)
{
	uint64_t bytes = cell_bytes(p, s->size);
	unsigned cells = (unsigned)((s->size + bytes - 1) / bytes), rows = (cells + COLUMNS - 1) / COLUMNS;
	double height = rows * (CELL + GAP), tall = height < 44 ? 44 : height;
	char line[96], a[24], b[24];

	fprintf(f, "<rect x=\"24\" y=\"%.1f\" width=\"%d\" height=\"%.1f\" rx=\"4\" fill=\"%s\" stroke=\"#495057\"/>\n", y,
		LEFT - 24, tall, s->flags & KVM_MEM_READONLY ? "#fff3bf" : "#f8f9fa");
	snprintf(line, sizeof(line), "%s %u%s  %s", w->part, s->id, s->as ? " (SMM)" : "", see_size(s->size, a, sizeof(a)));
	text(f, 34, y + 18, "b", "start", line);
	text(f, 34, y + 34, "s", "start", see_slot_flags(s->flags));
	if (tall > 70) {
		snprintf(line, sizeof(line), "%s 0x%llx", w->address, (ull)s->hva);
		text(f, 34, y + 50, "s", "start", line);
		snprintf(line, sizeof(line), "1 cell = %s", see_size(bytes, b, sizeof(b)));
		text(f, 34, y + 66, "s", "start", line);
	}
	for (unsigned row = 0; row < rows; row++) {
		double top = y + row * (CELL + GAP);

		snprintf(line, sizeof(line), "0x%09llx", (ull)(s->start + row * COLUMNS * bytes));
		if (row % 4 == 0)
			text(f, CELLS_X - 12, top + CELL - 2, "m", "end", line);
	}
	for (int layer = 0; layer < LAYERS; layer++) {
		fprintf(f, "<path fill=\"%s\" d=\"", layer_fill[layer]);
		for (unsigned i = 0; i < cells; i++) {
			gpa_t start = s->start + i * bytes, end = min_u64(start + bytes, s->start + s->size);
			struct content c;

			look(p, s->as, start, end, &c);
			cell(f, (enum layer)layer, &c, end - start, CELLS_X + i % COLUMNS * (CELL + GAP),
			     y + i / COLUMNS * (CELL + GAP));
		}
		fputs("\"/>\n", f);
	}
	tips(f, p, s, bytes, cells, y);
	return y + tall + 16;
}

/* MMIO entries outside of slots: one cell each, as many as fit on a row. */
static double mmio_section(FILE *f, const struct see_picture *p, double y)
{
	double x = CELLS_X;
	bool any = false;

	for (unsigned i = 0; i < p->nr_runs; i++) {
		const struct see_run *r = &p->run[i];
		char line[48];

		if (!r->mmio || see_find_slot(p, r->as, r->start))
			continue;
		if (!any)
			text(f, 34, y + 11, "b", "start", "MMIO entries");
		any = true;
		if (x > WIDTH - 170) {
			x = CELLS_X;
			y += 20;
		}
		box(f, x, y, CELL, CELL, COLOUR_MMIO);
		snprintf(line, sizeof(line), "0x%llx %lluK", (ull)r->start, (ull)(r->end - r->start) / 1024);
		text(f, x + CELL + 5, y + 11, "m", "start", line);
		x += 170;
	}
	return any ? y + 34 : y;
}

static double legend_item(FILE *f, double x, double y, const char *label)
{
	text(f, x + CELL + 6, y + 11, "s", "start", label);
	return x + CELL + 22 + 7.2 * (double)strlen(label);
}

static void legend(FILE *f, double y)
{
	double x = 24;

	for (int i = 0; i < SIZES; i++) {
		box(f, x, y, CELL, CELL, layer_fill[PAGES_4K + i]);
		x = legend_item(f, x, y, size_name[i]);
	}
	box(f, x, y, CELL, CELL, COLOUR_NONE);
	x = legend_item(f, x, y, "not mapped yet");
	box(f, x, y, CELL, CELL, COLOUR_MMIO);
	x = legend_item(f, x, y, "MMIO");
	box(f, x, y, CELL, CELL, layer_fill[PAGES_4K]);
	box(f, x, y, CELL, CELL, "url(#ro)");
	x = legend_item(f, x, y, "write faults");
	box(f, x, y, CELL, CELL, COLOUR_NONE);
	box(f, x, y, CELL, 2.5, COLOUR_ACCESSED);
	x = legend_item(f, x, y, "accessed");
	box(f, x, y, CELL, CELL, COLOUR_NONE);
	box(f, x, y + CELL - 3, CELL, 3, COLOUR_DIRTY);
	legend_item(f, x, y, "dirty");
}

static void title(FILE *f, const struct see_picture *p, const struct see_map_words *w)
{
	char line[200], all[24], mapped[24], dirty[24];
	struct content c, sum = { 0 };
	uint64_t bytes = 0;
	unsigned nr_slots = 0;

	for (unsigned i = 0; i < p->nr_slots; i++) {
		const struct see_slot *s = &p->slot[i];

		if (!counted(p, s))
			continue;
		nr_slots++;
		look(p, s->as, s->start, s->start + s->size, &c);
		bytes += s->size;
		sum.mapped += c.mapped;
		sum.dirty += c.dirty;
		for (int k = 0; k < SIZES; k++)
			sum.by_size[k] += c.by_size[k];
	}
	snprintf(line, sizeof(line), "%s of VM %llu, process %d", w->title, (ull)p->vm, (int)p->pid);
	text(f, 24, 36, "h", "start", line);
	snprintf(line, sizeof(line), "%s in %u %s; %s of it mapped: %llu leaves of 1 GiB, %llu of 2 MiB, %llu of 4 KiB; %s dirty",
		 about(bytes, all, sizeof(all)), nr_slots, w->parts,
		 about(sum.mapped, mapped, sizeof(mapped)),
		 (ull)(sum.by_size[SIZE_1G] >> 30), (ull)(sum.by_size[SIZE_2M] >> 21),
		 (ull)(sum.by_size[SIZE_4K] >> 12), about(sum.dirty, dirty, sizeof(dirty)));
	text(f, 24, 60, "s", "start", line);
}

static double height_of(const struct see_picture *p)
{
	double y = TOP;

	for (unsigned i = 0; i < p->nr_slots; i++) {
		uint64_t bytes = cell_bytes(p, p->slot[i].size), cells = (p->slot[i].size + bytes - 1) / bytes;
		double h = (double)((cells + COLUMNS - 1) / COLUMNS) * (CELL + GAP);

		y += (h < 44 ? 44 : h) + 16;
	}
	for (unsigned i = 0; i < p->nr_runs; i++)
		y += p->run[i].mmio ? 8 : 0; /* five a row of 20, rounded up */
	return y + 70;
}

void see_draw(const struct see_picture *p, const struct see_map_words *w, FILE *f)
{
	double height = height_of(p), y = TOP;

	fprintf(f,
		"<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%.0f\" viewBox=\"0 0 %d %.0f\">\n"
		"<style>text{font-family:'DejaVu Sans',Arial,sans-serif;fill:#212529}.h{font-size:22px;font-weight:bold}"
		".b{font-size:14px;font-weight:bold}.s{font-size:12.5px;fill:#495057}"
		".m{font-family:'DejaVu Sans Mono',monospace;font-size:11px;fill:#495057}</style>\n"
		"<defs><pattern id=\"ro\" width=\"4\" height=\"4\" patternUnits=\"userSpaceOnUse\" "
		"patternTransform=\"rotate(45)\"><rect width=\"1.6\" height=\"4\" fill=\"#ffffff\"/></pattern></defs>\n",
		WIDTH, height, WIDTH, height);
	box(f, 0, 0, WIDTH, height, "#ffffff");
	title(f, p, w);
	text(f, 24, TOP - 14, "b", "start", w->left);
	text(f, CELLS_X, TOP - 14, "b", "start", w->right);
	for (unsigned i = 0; i < p->nr_slots; i++)
		y = section(f, p, w, &p->slot[i], y);
	y = mmio_section(f, p, y);
	legend(f, y + 10);
	fputs("</svg>\n", f);
}

int see_map(struct see_options *o)
{
	static const struct see_map_words words = { "Guest-physical memory", "slot", "memslots", "memslots", "EPT leaves", "hva" };
	struct see_picture p;
	FILE *f = stdout;
	int r = 0;

	if (o->l2)
		return see_l2_map(o);
	if (o->nr_args == 1) {
		if (!see_read_file(o->arg[0], &p))
			return 1;
	} else if (!see_choose_vm(o->pid, &o->vm) || !see_take(o->pid, o->vm, &p)) {
		return 1;
	}
	if (o->output)
		f = fopen(o->output, "we");
	if (f)
		see_draw(&p, &words, f);
	if (!f || fflush(f) || ferror(f))
		r = !see_fail("%s: %s", o->output ? o->output : "standard output", strerror(errno));
	if (f && f != stdout)
		fclose(f);
	see_free(&p);
	return r;
}
