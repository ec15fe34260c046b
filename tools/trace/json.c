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
#include "tools/userkvm/json.h"

#define EXACT (1ULL << 53)

static void number(struct json *j, const struct trace_field *d, uint64_t v)
{
	char text[24];

	if (d->is_signed && (int64_t)v < 0) {
		json_i64(j, d->name, (int64_t)v);
	} else if (v < EXACT) {
		json_u64(j, d->name, v);
	} else {
		snprintf(text, sizeof(text), "0x%" PRIx64, v);
		json_string(j, d->name, text);
	}
}

static void bytes(struct json *j, const struct trace_field *d, const uint8_t *at)
{
	char text[2 * 256 + 1] = "";

	for (unsigned k = 0; k < d->size && k < 256; k++)
		snprintf(text + 2 * k, 3, "%02x", at[k]);
	json_string(j, d->name, text);
}

static void arguments(struct json *j, const struct capture_record *r)
{
	const struct trace_event_meta *m = &trace_events[capture_event(r)];

	json_object(j, "args", false);
	for (unsigned i = 0; i < m->nr_fields; i++) {
		const struct trace_field *d = &m->fields()[i];

		if (!d->nr)
			number(j, d, trace_field_value(d, r->ent));
		else if (strcmp(d->type, "char") == 0)
			json_string(j, d->name, (const char *)r->ent + d->offset);
		else
			bytes(j, d, (const uint8_t *)r->ent + d->offset);
	}
	json_end(j);
}

static void common(struct json *j, const struct capture *c, int32_t tid, uint64_t ts)
{
	json_double(j, "ts", (double)ts / 1000); /* us */
	json_i64(j, "pid", capture_pid(c, tid));
	json_i64(j, "tid", tid);
}

static void slice(struct json *j, const struct capture *c, const struct capture_record *from, uint64_t end, const char *name)
{
	json_object(j, NULL, false);
	json_string(j, "name", name);
	json_string(j, "cat", "vcpu");
	json_string(j, "ph", "X");
	common(j, c, from->ent->common_pid, from->head->ts);
	json_double(j, "dur", (double)(end - from->head->ts) / 1000);
	json_end(j);
}

/* The slice that ends with the record, if one does: the thread's last entry or exit begins it. */
static void slice_before(struct json *j, const struct capture *c, size_t i, size_t *last)
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
			slice(j, c, from, r->head->ts, "guest");
		else if (capture_event(from) == TRACE_kvm_kvm_exit && event != TRACE_kvm_kvm_exit)
			slice(j, c, from, r->head->ts,
			      exit_reason_name(((const struct trace_kvm_kvm_exit *)from->ent)->exit_reason & 0xffff));
	}
	last[thread] = i;
}

static void thread_name(struct json *j, const struct trace_thread *t)
{
	json_object(j, NULL, false);
	json_string(j, "name", "thread_name");
	json_string(j, "ph", "M");
	json_i64(j, "pid", t->pid);
	json_i64(j, "tid", t->tid);
	json_object(j, "args", false);
	json_string(j, "name", t->comm);
	json_end(j);
	json_end(j);
}

void output_json(const struct capture *c, FILE *f)
{
	static size_t last[TRACE_MAX_THREADS];
	struct json j = { .f = f };

	memset(last, 0xff, sizeof(last));
	json_object(&j, NULL, false);
	json_string(&j, "displayTimeUnit", "ns");
	json_object(&j, "otherData", false);
	json_u64(&j, "lost", c->nr_lost);
	json_end(&j);
	json_array(&j, "traceEvents", true);
	for (uint32_t i = 0; i < c->nr_threads; i++)
		thread_name(&j, &c->threads[i]);
	for (size_t i = 0; i < c->nr_records; i++) {
		const struct capture_record *r = &c->records[i];
		const struct trace_event_meta *m = &trace_events[capture_event(r)];

		slice_before(&j, c, i, last);
		json_object(&j, NULL, false);
		json_string(&j, "name", m->name);
		json_string(&j, "cat", m->group);
		json_string(&j, "ph", "i");
		json_string(&j, "s", "t");
		common(&j, c, r->ent->common_pid, r->head->ts);
		arguments(&j, r);
		json_end(&j);
	}
	json_end(&j);
	json_end(&j);
}
