/*
 * userkvm stat --exits: how often each vCPU left the guest for which reason, and
 * how long that took in the host and in the client (virt/exit_stats.h measures).
 *
 * Counts, times, minimum and maximum are those since the processes began to
 * measure, which the first question of a row of questions makes them do. Each
 * question is a lease a little longer than the interval to the next.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sdm/exit_reasons.h"
#include "tools/see/stat.h"
#include "tools/userkvm/json.h"

#define MAX_PROCESSES 64
#define CLEAR	      "\033[H\033[2J"

struct exit_time {
	ull count, total, min, max; /* nanoseconds */
};

struct exit_row {
	pid_t pid;
	ull vm;
	unsigned vcpu, l2, reason;
	struct exit_time host, client;
	double share_of_exits, share_of_time; /* of its vCPU's */
};

struct exit_rows {
	struct exit_row *row;
	unsigned nr, room;
	bool any; /* a VM has answered */
};

static void take_row(struct exit_rows *s, const struct stat_choice *c, pid_t pid, ull vm, const char *line)
{
	struct exit_row r = { .pid = pid, .vm = vm };

	if (sscanf(line, "exit %u %u %u %llu %llu %llu %llu %llu %llu %llu %llu", &r.vcpu, &r.l2, &r.reason,
		   &r.host.count, &r.host.total, &r.host.min, &r.host.max, &r.client.count, &r.client.total,
		   &r.client.min, &r.client.max) != 11)
		return;
	if (*c->fields && !strcasestr(exit_reason_name(r.reason), c->fields))
		return;
	if (s->nr == s->room) {
		unsigned room = s->room ? 2 * s->room : 64;
		struct exit_row *more = realloc(s->row, room * sizeof(*more));

		if (!more)
			return;
		s->row = more;
		s->room = room;
	}
	s->row[s->nr++] = r;
}

static void take_vm(struct exit_rows *s, const struct stat_choice *c, pid_t pid, ull vm, double interval)
{
	char request[64], *text, *save = NULL, *line;

	snprintf(request, sizeof(request), "exits %llu %.0f\n", vm, 2 * interval + 2);
	text = see_ask_quietly(pid, request);
	if (!text)
		return; /* the VM has ended */
	s->any = true;
	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		take_row(s, c, pid, vm, line);
	free(text);
}

static int by_vcpu(const struct exit_row *a, const struct exit_row *b)
{
	if (a->pid != b->pid)
		return a->pid < b->pid ? -1 : 1;
	if (a->vm != b->vm)
		return a->vm < b->vm ? -1 : 1;
	return a->vcpu < b->vcpu ? -1 : a->vcpu > b->vcpu;
}

static ull time_of(const struct exit_row *r)
{
	return r->host.total + r->client.total;
}

/* Within a vCPU by the time that the guest did not run. */
static int by_time(const void *x, const void *y)
{
	const struct exit_row *a = x, *b = y;
	int order = by_vcpu(a, b);

	if (order)
		return order;
	return time_of(a) < time_of(b) ? 1 : time_of(a) > time_of(b) ? -1 : (int)a->reason - (int)b->reason;
}

static void fill_shares(struct exit_rows *s)
{
	for (unsigned i = 0, end; i < s->nr; i = end) {
		double count = 0, time = 0;

		for (end = i; end < s->nr && !by_vcpu(&s->row[i], &s->row[end]); end++) {
			count += (double)s->row[end].host.count;
			time += (double)time_of(&s->row[end]);
		}
		for (unsigned n = i; n < end; n++) {
			s->row[n].share_of_exits = 100 * (double)s->row[n].host.count / count;
			s->row[n].share_of_time = time > 0 ? 100 * (double)time_of(&s->row[n]) / time : 0;
		}
	}
}

/* False: nothing could be looked at, told. */
static bool take(const struct stat_choice *c, double interval, struct exit_rows *s)
{
	pid_t pids[MAX_PROCESSES] = { c->pid };
	unsigned n = c->pid ? 1 : see_processes(pids, MAX_PROCESSES);

	s->nr = 0;
	s->any = false;
	for (unsigned i = 0; i < n; i++) {
		char *text = c->pid ? see_ask(c->pid, "vms\n") : see_ask_quietly(pids[i], "vms\n");
		char *save = NULL, *line;
		ull vm;

		if (!text && c->pid)
			return false;
		for (line = text ? strtok_r(text, "\n", &save) : NULL; line; line = strtok_r(NULL, "\n", &save))
			if (sscanf(line, "vm %llu", &vm) == 1)
				take_vm(s, c, pids[i], vm, interval);
		free(text);
	}
	if (s->nr)
		qsort(s->row, s->nr, sizeof(*s->row), by_time);
	fill_shares(s);
	if (s->any)
		return true;
	if (c->pid)
		return see_fail("process %d has no VM at present", (int)c->pid);
	return see_fail("no process with a VM of userkvm could be looked at");
}

static double us(ull ns)
{
	return (double)ns / 1000;
}

static double mean_us(const struct exit_time *t)
{
	return t->count ? us(t->total) / (double)t->count : 0;
}

static const char *name_of(const struct exit_row *r, char *buf, size_t size)
{
	snprintf(buf, size, "%s%s", exit_reason_name(r->reason), r->l2 ? " (L2)" : "");
	return buf;
}

static void print_table(const struct exit_rows *s, int rows)
{
	char name[48];

	for (unsigned i = 0; i < s->nr && (rows < 0 || (int)i < rows); i++) {
		const struct exit_row *r = &s->row[i];

		if (!i || by_vcpu(r, r - 1))
			printf("process %d, VM %llu, vCPU %u; microseconds\n%-26s %9s %7s %7s %8s %9s %11s %12s %9s %9s %11s %12s\n",
			       (int)r->pid, r->vm, r->vcpu, "exit", "count", "%count", "%time", "host min", "mean",
			       "max", "total", "client min", "mean", "max", "total");
		printf("%-26s %9llu %6.1f%% %6.1f%% %8.2f %9.2f %11.2f %12.1f", name_of(r, name, sizeof(name)),
		       r->host.count, r->share_of_exits, r->share_of_time, us(r->host.min), mean_us(&r->host),
		       us(r->host.max), us(r->host.total));
		if (r->client.count)
			printf(" %10.2f %9.2f %11.2f %12.1f", us(r->client.min), mean_us(&r->client), us(r->client.max),
			       us(r->client.total));
		puts("");
	}
	if (!s->nr)
		puts("no exits yet");
	fflush(stdout);
}

static void print_csv(const struct exit_rows *s, bool header)
{
	double at = stat_now();

	if (header)
		puts("seconds,pid,vm,vcpu,level,reason,exit,count,share,host_ns,host_min_ns,host_mean_ns,host_max_ns,"
		     "client_count,client_ns,client_min_ns,client_mean_ns,client_max_ns");
	for (unsigned i = 0; i < s->nr; i++) {
		const struct exit_row *r = &s->row[i];

		printf("%.3f,%d,%llu,%u,%u,%u,%s,%llu,%.2f,%llu,%llu,%.0f,%llu,%llu,%llu,%llu,%.0f,%llu\n", at, (int)r->pid,
		       r->vm, r->vcpu, r->l2 + 1, r->reason, exit_reason_name(r->reason), r->host.count,
		       r->share_of_exits, r->host.total, r->host.min, 1000 * mean_us(&r->host), r->host.max,
		       r->client.count, r->client.total, r->client.min, 1000 * mean_us(&r->client), r->client.max);
	}
	fflush(stdout);
}

static void json_time(struct json *j, const char *key, const struct exit_time *t)
{
	json_object(j, key, false);
	json_u64(j, "count", t->count);
	json_u64(j, "total_ns", t->total);
	json_u64(j, "min_ns", t->min);
	json_double(j, "mean_ns", 1000 * mean_us(t));
	json_u64(j, "max_ns", t->max);
	json_end(j);
}

static void print_json(const struct exit_rows *s)
{
	struct json j = { .f = stdout };

	json_object(&j, NULL, false);
	json_array(&j, "exits", true);
	for (unsigned i = 0; i < s->nr; i++) {
		const struct exit_row *r = &s->row[i];

		json_object(&j, NULL, false);
		json_i64(&j, "pid", r->pid);
		json_u64(&j, "vm", r->vm);
		json_u64(&j, "vcpu", r->vcpu);
		json_u64(&j, "level", r->l2 + 1);
		json_u64(&j, "reason", r->reason);
		json_string(&j, "exit", exit_reason_name(r->reason));
		json_u64(&j, "count", r->host.count);
		json_double(&j, "share", r->share_of_exits);
		json_time(&j, "host", &r->host);
		json_time(&j, "client", &r->client);
		json_end(&j);
	}
	json_end(&j);
	json_end(&j);
}

int stat_exits(const struct stat_choice *c, double interval, enum stat_form form)
{
	struct exit_rows s = { 0 };
	bool header = true;
	int status = 1;

	if (!take(c, interval, &s)) /* the first question only begins */
		return 1;
	for (;;) {
		if (stat_wait(interval)) {
			status = 0;
			break;
		}
		if (!take(c, interval, &s))
			break;
		if (form == STAT_SCREEN)
			fputs(CLEAR, stdout);
		if (form == STAT_JSON)
			print_json(&s);
		else if (form == STAT_CSV)
			print_csv(&s, header);
		else
			print_table(&s, form == STAT_SCREEN ? stat_screen_rows() - 2 : -1);
		header = false;
		status = 0;
		if (form == STAT_ONCE || form == STAT_JSON || ferror(stdout))
			break;
		status = 1;
	}
	free(s.row);
	return status;
}
