/*
 * Trace Event Format: every record an instant with its fields as arguments;
 * and, for the picture, each vCPU thread's time cut into slices, in the guest
 * (kvm_entry to kvm_exit) and outside (named by the exit reason).
 *
 * Numbers past 2^53 are strings in hexadecimal: JSON's readers use doubles.
 */
#include <inttypes.h>
#include <string.h>

#include "sdm/exit_reasons.h"
#include "tools/trace/output.h"

#define EXACT (1ULL << 53)

static const char *separator(bool *first)
{
	const char *s = *first ? "\n" : ",\n";

	*first = false;
	return s;
}

static void string(FILE *f, const char *s)
{
	putc('"', f);
	for (; *s; s++) {
		unsigned char ch = (unsigned char)*s;

		if (ch < 0x20 || ch >= 0x7f)
			fprintf(f, "\\u%04x", ch);
		else
			fprintf(f, ch == '"' || ch == '\\' ? "\\%c" : "%c", ch);
	}
	putc('"', f);
}

static void number(FILE *f, const struct trace_field *d, uint64_t v)
{
	if (d->is_signed && (int64_t)v < 0)
		fprintf(f, "%" PRId64, (int64_t)v);
	else
		fprintf(f, v < EXACT ? "%" PRIu64 : "\"0x%" PRIx64 "\"", v);
}

static void arguments(FILE *f, const struct capture_record *r)
{
	const struct trace_event_meta *m = &trace_events[capture_event(r)];

	for (unsigned i = 0; i < m->nr_fields; i++) {
		const struct trace_field *d = &m->fields()[i];

		fprintf(f, "%s\"%s\":", i ? "," : "", d->name);
		if (!d->nr) {
			number(f, d, trace_field_value(d, r->ent));
			continue;
		}
		if (strcmp(d->type, "char") == 0) {
			string(f, (const char *)r->ent + d->offset);
			continue;
		}
		putc('"', f);
		for (unsigned k = 0; k < d->size; k++)
			fprintf(f, "%02x", ((const uint8_t *)r->ent)[d->offset + k]);
		putc('"', f);
	}
}

static void common(FILE *f, const struct capture *c, int32_t tid, uint64_t ts)
{
	fprintf(f, "\"ts\":%" PRIu64 ".%03u,\"pid\":%d,\"tid\":%d", ts / 1000,
	        (unsigned)(ts % 1000), capture_pid(c, tid), tid);
}

static void slice(FILE *f, const struct capture *c, const struct capture_record *from, uint64_t end,
                  const char *name, bool *first)
{
	fprintf(f, "%s{\"name\":\"%s\",\"cat\":\"vcpu\",\"ph\":\"X\",", separator(first), name);
	common(f, c, from->ent->common_pid, from->head->ts);
	fprintf(f, ",\"dur\":%" PRIu64 ".%03u}", (end - from->head->ts) / 1000,
	        (unsigned)((end - from->head->ts) % 1000));
}

/* The slice that ends with the record, if one does: the thread's last entry or exit begins it. */
static void slice_before(FILE *f, const struct capture *c, size_t i, size_t *last, bool *first)
{
	const struct capture_record *r = &c->records[i], *from;
	unsigned event = capture_event(r);
	uint32_t thread = 0;

	if (event != TRACE_kvm_kvm_entry && event != TRACE_kvm_kvm_exit &&
	    event != TRACE_kvm_kvm_userspace_exit)
		return;
	while (thread < c->nr_threads && c->threads[thread].tid != r->ent->common_pid)
		thread++;
	if (thread == c->nr_threads)
		return;
	if (last[thread] < i) {
		from = &c->records[last[thread]];
		if (capture_event(from) == TRACE_kvm_kvm_entry && event == TRACE_kvm_kvm_exit)
			slice(f, c, from, r->head->ts, "guest", first);
		else if (capture_event(from) == TRACE_kvm_kvm_exit && event != TRACE_kvm_kvm_exit)
			slice(f, c, from, r->head->ts,
			      exit_reason_name(
			          ((const struct trace_kvm_kvm_exit *)from->ent)->exit_reason &
			          0xffff),
			      first);
	}
	last[thread] = i;
}

void output_json(const struct capture *c, FILE *f)
{
	static size_t last[TRACE_MAX_THREADS];
	bool first = true;

	memset(last, 0xff, sizeof(last));
	fprintf(
	    f, "{\"displayTimeUnit\":\"ns\",\"otherData\":{\"lost\":%" PRIu64 "},\"traceEvents\":[",
	    c->nr_lost);
	for (uint32_t i = 0; i < c->nr_threads; i++) {
		fprintf(f,
		        "%s{\"name\":\"thread_name\",\"ph\":\"M\",\"pid\":%d,\"tid\":%d,\"args\":{"
		        "\"name\":",
		        separator(&first), c->threads[i].pid, c->threads[i].tid);
		string(f, c->threads[i].comm);
		fputs("}}", f);
	}
	for (size_t i = 0; i < c->nr_records; i++) {
		const struct capture_record *r = &c->records[i];
		const struct trace_event_meta *m = &trace_events[capture_event(r)];

		slice_before(f, c, i, last, &first);
		fprintf(f, "%s{\"name\":\"%s\",\"cat\":\"%s\",\"ph\":\"i\",\"s\":\"t\",",
		        separator(&first), m->name, m->group);
		common(f, c, r->ent->common_pid, r->head->ts);
		fputs(",\"args\":{", f);
		arguments(f, r);
		fputs("}}", f);
	}
	fputs("\n]}\n", f);
}
