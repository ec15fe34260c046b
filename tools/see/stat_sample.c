/*
 * Taking the counters of KVM_GET_STATS_FD from processes: see stat.h.
 *
 * All vCPUs' and VMs' counters of a name are added up, as kvm_stat does, unless
 * the choice keeps them apart.
 */
#include "tools/see/stat.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "trace/stats.h"

#define MAX_PROCESSES 64

double stat_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

#define INHIBIT "apicv_inhibit_" /* control/facts.c: they hold, they are no growth */
#define CODE_BYTES "jit_bytes"	  /* vmx_isa.h: of the code memory, falls when all units are dropped */

static bool is_instant(const struct kvm_stat_table *t, const char *name)
{
	if (strncmp(name, INHIBIT, sizeof(INHIBIT) - 1) == 0 || strcmp(name, CODE_BYTES) == 0)
		return true;
	for (unsigned i = 0; i < t->nr; i++)
		if (strcmp(t->rows[i].name, name) == 0)
			return (t->rows[i].flags & KVM_STATS_TYPE_MASK) == KVM_STATS_TYPE_INSTANT;
	return false;
}

static bool same(const struct stat_row *a, const struct stat_row *b)
{
	return a->pid == b->pid && a->vm == b->vm && a->vcpu == b->vcpu && strcmp(a->name, b->name) == 0;
}

const struct stat_row *stat_find(const struct stat_sample *s, const struct stat_row *like)
{
	for (unsigned i = 0; i < s->nr; i++)
		if (same(&s->row[i], like))
			return &s->row[i];
	return NULL;
}

static void add(struct stat_sample *s, const struct stat_row *r)
{
	for (unsigned i = 0; i < s->nr; i++)
		if (same(&s->row[i], r)) {
			s->row[i].value += r->value;
			return;
		}
	if (s->nr == s->room) {
		unsigned room = s->room ? 2 * s->room : 128;
		struct stat_row *more = realloc(s->row, room * sizeof(*more));

		if (!more)
			return;
		s->row = more;
		s->room = room;
	}
	s->row[s->nr++] = *r;
}

static void take_line(struct stat_sample *s, const struct stat_choice *c, pid_t pid, const char *line)
{
	struct stat_row r = { .pid = pid, .vcpu = -1 };
	ull value, vm;
	int at = 0;

	/* A histogram has more than one value: it is not kvm_stat's matter. */
	if (sscanf(line, "vm %llu %47s %llu%n", &vm, r.name, &value, &at) != 3 &&
	    sscanf(line, "vcpu %llu %d %47s %llu%n", &vm, &r.vcpu, r.name, &value, &at) != 4)
		return;
	if (line[at] != '\0' || (*c->fields && !strstr(r.name, c->fields)))
		return;
	r.vm = vm;
	r.value = value;
	r.instant = is_instant(&kvm_vm_stat_table, r.name) || is_instant(&kvm_vcpu_stat_table, r.name);
	if (!c->apart) {
		r.pid = 0;
		r.vm = 0;
		r.vcpu = -1;
	}
	add(s, &r);
}

bool stat_take(const struct stat_choice *c, struct stat_sample *s)
{
	pid_t pids[MAX_PROCESSES] = { c->pid };
	unsigned n = c->pid ? 1 : see_processes(pids, MAX_PROCESSES);
	bool any = false;

	s->nr = 0;
	s->at = stat_now();
	for (unsigned i = 0; i < n; i++) {
		char *text = c->pid ? see_ask(c->pid, "stats\n") : see_ask_quietly(pids[i], "stats\n");
		char *save = NULL, *line;

		if (!text)
			continue;
		any |= *text != '\0';
		for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
			take_line(s, c, pids[i], line);
		if (c->pid && !any)
			see_fail("process %d has no VM at present", (int)c->pid);
		free(text);
	}
	if (!n)
		see_fail("no process with a VM of userkvm is to be seen");
	else if (!any && !c->pid)
		see_fail("no process could be looked at");
	return any;
}

void stat_free(struct stat_sample *s)
{
	free(s->row);
	*s = (struct stat_sample){ 0 };
}

double stat_rate(const struct stat_sample *a, const struct stat_sample *b, const struct stat_row *of_b)
{
	const struct stat_row *before = stat_find(a, of_b);

	if (!before || of_b->value < before->value || b->at <= a->at)
		return 0;
	return (double)(of_b->value - before->value) / (b->at - a->at);
}

const char *stat_whose(const struct stat_choice *c, const struct stat_row *r, char *buf, size_t size)
{
	if (!c->apart)
		snprintf(buf, size, "%s", "");
	else if (r->vcpu < 0)
		snprintf(buf, size, "%d/%llu", (int)r->pid, (ull)r->vm);
	else
		snprintf(buf, size, "%d/%llu/%d", (int)r->pid, (ull)r->vm, r->vcpu);
	return buf;
}
