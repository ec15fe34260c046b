/*
 * Errors on demand: see inject.h.
 *
 * Locks: none; the rules are constant after the first open, their counts atomic.
 */
#include "abi/inject.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "abi/abi.h"
#include "lib/export.h"
#include "lib/log.h"

#define MAX_RULES 32
#define MAX_ERRNO_NAME 134

enum when { EACH, NTH, FROM_NTH, EACH_NTH };

struct rule {
	const struct abi_row *row; /* NULL: open */
	int error;
	enum when when;
	uint64_t n;
	uint64_t calls; /* (a) */
};

bool abi_inject_on;
static struct rule rules[MAX_RULES];
static unsigned nr_rules;

static const struct abi_row *find_name(const char *name, size_t len)
{
	static const struct abi_row *const tables[] = { abi_system_rows, abi_vm_rows, abi_vcpu_rows };

	for (size_t t = 0; t < ARRAY_SIZE(tables); t++)
		for (const struct abi_row *row = tables[t]; row->handler; row++)
			if (strlen(row->name) == len && strncmp(row->name, name, len) == 0)
				return row;
	return NULL;
}

static int find_errno(const char *name, size_t len)
{
	for (int e = 1; e < MAX_ERRNO_NAME; e++) {
		const char *known = strerrorname_np(e);

		if (known && strlen(known) == len && strncmp(known, name, len) == 0)
			return e;
	}
	return 0;
}

/* One rule, [s, s + len). false: it makes no sense. */
static bool parse(struct rule *r, const char *s, size_t len)
{
	const char *equal = memchr(s, '=', len), *error, *end = s + len;
	size_t name = equal ? (size_t)(equal - s) : 0, n;
	char *stop;

	*r = (struct rule){ .n = 1 };
	if (!equal)
		return false;
	if (!(name == 4 && strncmp(s, "open", 4) == 0)) {
		r->row = find_name(s, name);
		if (!r->row)
			return false;
	}
	error = equal + 1;
	n = strcspn(error, "@%,");
	r->error = find_errno(error, n);
	if (!r->error || error + n == end)
		return r->error != 0;
	r->when = error[n] == '@' ? NTH : EACH_NTH;
	if (error[n + 1] < '1' || error[n + 1] > '9')
		return false;
	r->n = strtoull(error + n + 1, &stop, 10);
	if (r->when == NTH && stop < end && *stop == '+') {
		r->when = FROM_NTH;
		stop++;
	}
	return stop == end;
}

USERKVM_SHARED const char *abi_inject_fault(const char *list, char *buf, size_t size)
{
	struct rule r;

	for (const char *s = list; s && *s;) {
		size_t len = strcspn(s, ",");

		if (!parse(&r, s, len)) {
			snprintf(buf, size, "'%.*s' is no NAME=ERRNO[@N[+]|%%N] with an ioctl's name or open", (int)len, s);
			return buf;
		}
		s += len + (s[len] == ',');
	}
	return NULL;
}

static void init_once(void)
{
	const char *list = getenv("USERKVM_INJECT");
	char why[256];

	for (const char *s = list; s && *s;) {
		size_t len = strcspn(s, ",");

		if (nr_rules == MAX_RULES) {
			log_always("USERKVM_INJECT: more than %d rules, the rest is ignored", MAX_RULES);
			break;
		}
		if (parse(&rules[nr_rules], s, len))
			nr_rules++;
		s += len + (s[len] == ',');
	}
	if (list && abi_inject_fault(list, why, sizeof(why)))
		log_always("USERKVM_INJECT: %s, ignored", why);
	abi_inject_on = nr_rules > 0;
}

void abi_inject_init(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, init_once);
}

int abi_inject(const struct abi_row *row)
{
	int error = 0;

	for (unsigned i = 0; i < nr_rules; i++) {
		struct rule *r = &rules[i];
		uint64_t call;

		if (r->row != row)
			continue;
		call = __atomic_add_fetch(&r->calls, 1, __ATOMIC_RELAXED);
		if (!error && (r->when == EACH || (r->when == NTH && call == r->n) ||
			       (r->when == FROM_NTH && call >= r->n) || (r->when == EACH_NTH && call % r->n == 0)))
			error = r->error;
	}
	if (error)
		log_line(LOG_INFO, "injected: %s fails with %s", row ? row->name : "open", strerrorname_np(error));
	return error;
}
