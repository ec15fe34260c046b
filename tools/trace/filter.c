/*
 * userkvm trace --filter: which records are kept, by their fields.
 *
 *	kvm_exit.exit_reason==48        kvm_pio.port>=0x3f8
 *
 * A record stays when all filters of its event hold; events that have none stay.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tools/trace/filter.h"

static const char *const operators[] = { "==", "!=", "<=", ">=", "<", ">", "&" };

bool filter_parse(struct filter *f, const char *text)
{
	const char *dot = strchr(text, '.'), *at = text + strcspn(text, "=!<>&");
	char *end;

	*f = (struct filter){ .event = -1 };
	if (!dot || dot > at || !*at)
		return false;
	for (int i = 0; i < TRACE_NR_EVENTS && f->event < 0; i++) {
		const struct trace_event_meta *m = &trace_events[i];

		if (strlen(m->name) != (size_t)(dot - text) || strncmp(m->name, text, (size_t)(dot - text)) != 0)
			continue;
		for (unsigned k = 0; k < m->nr_fields; k++) {
			const struct trace_field *d = &m->fields()[k];

			if (!d->nr && strlen(d->name) == (size_t)(at - dot - 1) && strncmp(d->name, dot + 1, (size_t)(at - dot - 1)) == 0) {
				f->event = i;
				f->field = d;
			}
		}
	}
	for (f->op = 0; f->op < sizeof(operators) / sizeof(operators[0]); f->op++)
		if (strncmp(at, operators[f->op], strlen(operators[f->op])) == 0)
			break;
	if (f->event < 0 || f->op == sizeof(operators) / sizeof(operators[0]))
		return false;
	at += strlen(operators[f->op]);
	errno = 0;
	f->value = strtoull(at, &end, 0);
	return end != at && !*end && !errno;
}

static bool holds(const struct filter *f, const struct capture_record *r)
{
	uint64_t v = trace_field_value(f->field, r->ent), w = f->value;
	bool less = f->field->is_signed ? (int64_t)v < (int64_t)w : v < w;

	switch (f->op) {
	case 0: return v == w;
	case 1: return v != w;
	case 2: return less || v == w;
	case 3: return !less;
	case 4: return less;
	case 5: return !less && v != w;
	default: return v & w;
	}
}

void filter_apply(const struct filter *f, unsigned nr, struct capture *c)
{
	size_t kept = 0;

	for (size_t i = 0; nr && i < c->nr_records; i++) {
		bool stays = true;

		for (unsigned k = 0; k < nr && stays; k++)
			stays = (unsigned)f[k].event != capture_event(&c->records[i]) || holds(&f[k], &c->records[i]);
		if (stays)
			c->records[kept++] = c->records[i];
	}
	if (nr)
		c->nr_records = kept;
}
