/*
 * trace.dat, version 6 (trace-cmd.dat.v6(5)): a head that describes the events,
 * then each CPU's records in pages of Linux's ring buffer.
 *
 *   page: | time stamp of the first | bytes used | record record ... | 0 |
 *   record: | type_len : 5, time_delta : 27 | data (type_len words) |
 *           type_len 0: the length comes in a word of its own
 *           type_len 30: a time that 27 bits do not hold; no data
 */
#include <stdlib.h>
#include <string.h>

#include "tools/trace/output.h"

#define DAT_PAGE         4096u
#define PAGE_HEAD        16u
#define MAX_WORDS        28u
#define DELTA_BITS       27
#define TYPE_TIME_EXTEND 30u

static void put16(FILE *f, uint16_t v)
{
	fwrite(&v, sizeof(v), 1, f);
}

static void put32(FILE *f, uint32_t v)
{
	fwrite(&v, sizeof(v), 1, f);
}

static void put64(FILE *f, uint64_t v)
{
	fwrite(&v, sizeof(v), 1, f);
}

static void put_string(FILE *f, const char *s)
{
	fwrite(s, strlen(s) + 1, 1, f);
}

/* What print() writes, behind its length. */
static void put_sized(FILE *f, void (*print)(FILE *f, const void *arg), const void *arg, bool wide)
{
	char *text = NULL;
	size_t n = 0;
	FILE *m = open_memstream(&text, &n);

	if (m) {
		print(m, arg);
		fclose(m);
	}
	if (wide)
		put64(f, n);
	else
		put32(f, (uint32_t)n);
	fwrite(text, 1, n, f);
	free(text);
}

static void header_page(FILE *f, const void *arg)
{
	fprintf(f,
	        "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n"
	        "\tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;\n"
	        "\tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;\n"
	        "\tfield: char data;\toffset:%u;\tsize:%u;\tsigned:1;\n",
	        PAGE_HEAD, DAT_PAGE - PAGE_HEAD);
}

static void header_event(FILE *f, const void *arg)
{
	fprintf(f,
	        "# compressed entry header\n\ttype_len    :    5 bits\n"
	        "\ttime_delta  :   27 bits\n\tarray       :   32 bits\n\n"
	        "\tpadding     : type == 29\n\ttime_extend : type == %u\n"
	        "\ttime_stamp : type == 31\n\tdata max type_len  == %u\n",
	        TYPE_TIME_EXTEND, MAX_WORDS);
}

static void format(FILE *f, const void *arg)
{
	output_format(*(const unsigned *)arg, f);
}

static void cmdlines(FILE *f, const void *arg)
{
	const struct capture *c = arg;

	for (uint32_t i = 0; i < c->nr_threads; i++)
		fprintf(f, "%d %s\n", c->threads[i].tid, c->threads[i].comm);
}

static bool first_of_group(unsigned event)
{
	for (unsigned i = 0; i < event; i++)
		if (strcmp(trace_events[i].group, trace_events[event].group) == 0)
			return false;
	return true;
}

static void event_systems(FILE *f)
{
	uint32_t groups = 0;

	for (unsigned i = 0; i < TRACE_NR_EVENTS; i++)
		groups += first_of_group(i);
	put32(f, groups);
	for (unsigned g = 0; g < TRACE_NR_EVENTS; g++) {
		uint32_t n = 0;

		if (!first_of_group(g))
			continue;
		for (unsigned i = 0; i < TRACE_NR_EVENTS; i++)
			n += strcmp(trace_events[i].group, trace_events[g].group) == 0;
		put_string(f, trace_events[g].group);
		put32(f, n);
		for (unsigned i = 0; i < TRACE_NR_EVENTS; i++)
			if (strcmp(trace_events[i].group, trace_events[g].group) == 0)
				put_sized(f, format, &i, true);
	}
}

/* --- pages --- */

struct page {
	uint8_t bytes[DAT_PAGE];
	uint32_t used; /* behind the head */
	uint64_t last; /* time stamp */
};

static void page_flush(struct page *p, FILE *f)
{
	uint64_t commit = p->used;

	if (!p->used)
		return;
	memcpy(p->bytes + 8, &commit, sizeof(commit));
	fwrite(p->bytes, DAT_PAGE, 1, f);
	memset(p, 0, sizeof(*p));
}

static void page_put32(struct page *p, uint32_t v)
{
	memcpy(p->bytes + PAGE_HEAD + p->used, &v, sizeof(v));
	p->used += 4;
}

static void page_record(struct page *p, FILE *f, const struct capture_record *r)
{
	const struct trace_event_meta *m = &trace_events[capture_event(r)];
	uint32_t words = (uint32_t)(m->size + 3) / 4;
	uint64_t delta;

	/* room for a time extension, two head words and the data */
	if (p->used + 8 + 8 + words * 4 > DAT_PAGE - PAGE_HEAD)
		page_flush(p, f);
	if (!p->used) {
		memcpy(p->bytes, &r->head->ts, 8);
		p->last = r->head->ts;
	}
	delta = r->head->ts - p->last;
	p->last = r->head->ts;
	if (delta >> DELTA_BITS) {
		page_put32(p, TYPE_TIME_EXTEND | (uint32_t)(delta & ((1u << DELTA_BITS) - 1)) << 5);
		page_put32(p, (uint32_t)(delta >> DELTA_BITS));
		delta = 0;
	}
	if (words > MAX_WORDS) {
		page_put32(p, (uint32_t)delta << 5);
		page_put32(p, 4 + words * 4);
	} else {
		page_put32(p, words | (uint32_t)delta << 5);
	}
	memcpy(p->bytes + PAGE_HEAD + p->used, r->ent, m->size);
	p->used += words * 4;
}

static void cpu_pages(const struct capture *c, unsigned cpu, FILE *f)
{
	struct page p = {.used = 0};

	for (size_t i = 0; i < c->nr_records; i++)
		if (c->records[i].head->cpu == cpu)
			page_record(&p, f, &c->records[i]);
	page_flush(&p, f);
}

static void align(FILE *f)
{
	while (ftell(f) % DAT_PAGE && !ferror(f))
		putc(0, f);
}

static void flyrecord(const struct capture *c, unsigned nr_cpus, FILE *f)
{
	uint64_t *where = calloc(nr_cpus, 2 * sizeof(*where));
	long index;

	if (!where)
		return;
	put_string(f, "flyrecord");
	index = ftell(f);
	fwrite(where, 2 * sizeof(*where), nr_cpus, f);
	for (unsigned cpu = 0; cpu < nr_cpus; cpu++) {
		align(f);
		where[2 * cpu] = (uint64_t)ftell(f);
		cpu_pages(c, cpu, f);
		where[2 * cpu + 1] = (uint64_t)ftell(f) - where[2 * cpu];
	}
	fseek(f, index, SEEK_SET);
	fwrite(where, 2 * sizeof(*where), nr_cpus, f);
	fseek(f, 0, SEEK_END);
	free(where);
}

void output_dat(const struct capture *c, FILE *f)
{
	unsigned nr_cpus = 1;

	for (size_t i = 0; i < c->nr_records; i++)
		if (c->records[i].head->cpu >= nr_cpus)
			nr_cpus = c->records[i].head->cpu + 1;

	fwrite("\x17\x08\x44tracing", 10, 1, f);
	put_string(f, "6");
	putc(0, f); /* little endian */
	putc(8, f); /* bytes in a long */
	put32(f, DAT_PAGE);
	put_string(f, "header_page");
	put_sized(f, header_page, NULL, true);
	put_string(f, "header_event");
	put_sized(f, header_event, NULL, true);
	put32(f, 0); /* events of ftrace itself */
	event_systems(f);
	put32(f, 0); /* kallsyms */
	put32(f, 0); /* printk formats */
	put_sized(f, cmdlines, c, true);
	put32(f, nr_cpus);
	put_string(f, "options  ");
	put16(f, 0); /* no options */
	flyrecord(c, nr_cpus, f);
}
