/*
 * Text, and what a format file says.
 */
#include "tools/trace/output.h"

static unsigned nr_cpus(const struct capture *c)
{
	unsigned n = 1;

	for (size_t i = 0; i < c->nr_records; i++)
		if (c->records[i].head->cpu >= n)
			n = c->records[i].head->cpu + 1;
	return n;
}

void output_text(const struct capture *c, FILE *f)
{
	fprintf(f, "cpus=%u\n", nr_cpus(c));
	for (size_t i = 0; i < c->nr_records; i++) {
		const struct capture_record *r = &c->records[i];
		const struct trace_event_meta *m = &trace_events[capture_event(r)];
		uint64_t us = (r->head->ts + 500) / 1000;
		int n;

		fprintf(f, "%16s-%-5d [%03u] %5llu.%06llu: ", capture_comm(c, r->ent->common_pid),
		        r->ent->common_pid, r->head->cpu, (unsigned long long)(us / 1000000),
		        (unsigned long long)(us % 1000000));
		n = fprintf(f, "%s:", m->name);
		fprintf(f, "%*s", n < 22 ? 22 - n : 1, "");
		m->print(f, r->ent);
		putc('\n', f);
	}
}

static void field_line(FILE *f, const char *type, const char *name, unsigned nr, unsigned offset,
                       unsigned size, bool is_signed)
{
	fprintf(f, "\tfield:%s %s", type, name);
	if (nr)
		fprintf(f, "[%u]", nr);
	fprintf(f, ";\toffset:%u;\tsize:%u;\tsigned:%d;\n", offset, size, is_signed);
}

void output_format(unsigned event, FILE *f)
{
	const struct trace_event_meta *m = &trace_events[event];

	fprintf(f, "name: %s\nID: %u\nformat:\n", m->name, TRACE_ID_BASE + event);
	field_line(f, "unsigned short", "common_type", 0, 0, 2, false);
	field_line(f, "unsigned char", "common_flags", 0, 2, 1, false);
	field_line(f, "unsigned char", "common_preempt_count", 0, 3, 1, false);
	field_line(f, "int", "common_pid", 0, 4, 4, true);
	putc('\n', f);
	for (unsigned i = 0; i < m->nr_fields; i++) {
		const struct trace_field *d = &m->fields()[i];

		field_line(f, d->type, d->name, d->nr, d->offset, d->size, d->is_signed);
	}
	fprintf(f, "\nprint fmt: %s\n", m->print_fmt);
}
