/*
 * userkvm walkthrough -- PROGRAM, as it happens: pieces of each thread in the
 * order of time in which they end, those that tell nothing new left out.
 *
 * A piece is complete when its thread begins another one, or when the thread
 * has been silent for QUIET_NS: a guest that waits has told what there is.
 */
#include <stdlib.h>
#include <string.h>

#include "tools/trace/walk.h"
#include "trace/trace.h"

#define QUIET_NS 300000000ULL
#define RECORD_BYTES 256 /* more than a line of the walk-through has */

struct live_record {
	uint64_t ts;
	union {
		struct trace_entry ent;
		uint8_t bytes[RECORD_BYTES];
	};
};

struct live_thread {
	int32_t tid;
	char comm[17];
	int tree; /* of the piece that is being told; 0: none */
	unsigned nr;
	uint64_t key;
	struct live_record line[WALK_PIECE_LINES];
	struct live_thread *next;
};

static struct live_thread *thread_of(struct walk_live *l, int32_t tid)
{
	struct live_thread *t = l->threads;

	while (t && t->tid != tid)
		t = t->next;
	if (t)
		return t;
	t = calloc(1, sizeof(*t));
	if (!t)
		return NULL;
	t->tid = tid;
	t->next = l->threads;
	l->threads = t;
	return t;
}

static bool known(struct walk_live *l, uint64_t key)
{
	uint64_t *more;

	for (size_t i = 0; i < l->nr_keys; i++)
		if (l->keys[i] == key)
			return true;
	if ((l->nr_keys & (l->nr_keys - 1)) == 0) {
		more = realloc(l->keys, (l->nr_keys ? 2 * l->nr_keys : 1) * sizeof(*more));
		if (!more)
			return false;
		l->keys = more;
	}
	l->keys[l->nr_keys++] = key;
	return false;
}

static struct capture_record record_of(const struct live_record *r, struct trace_record_head *head)
{
	*head = (struct trace_record_head){ .ts = r->ts };
	return (struct capture_record){ head, &r->ent };
}

static void end_piece(struct walk_live *l, struct live_thread *t)
{
	struct trace_record_head head;
	struct capture_record first, r;
	uint64_t since;

	if (!t->tree)
		return;
	if (!l->t.all && known(l, t->key)) {
		l->nr_like++;
	} else {
		if (!l->nr_told)
			tell_text(&l->t, l->heading);
		first = record_of(&t->line[0], &head);
		since = head.ts - l->begin;
		printf("\n%s\n  [%s-%d +%llu.%03llu ms]\n", walk_titles[t->tree - 1][l->t.lang], t->comm, t->tid, (unsigned long long)(since / 1000000),
		       (unsigned long long)(since / 1000 % 1000));
		for (unsigned i = 0; i < t->nr; i++) {
			struct trace_record_head other;

			r = record_of(&t->line[i], &other);
			tell_line(&l->t, r.ent, walk_depth(&r) - walk_depth(&first));
		}
		fflush(stdout);
		l->nr_told++;
	}
	t->tree = 0;
}

bool walk_live_record(void *arg, const struct capture_record *r, const char *comm)
{
	struct walk_live *l = arg;
	struct trace_record_head head;
	struct capture_record first;
	const struct walk_line *line;
	struct live_thread *t;
	size_t size = r->head->size - sizeof(*r->head);

	if (!l->begin)
		l->begin = r->head->ts;
	if (!walk_is_line(r) || size > RECORD_BYTES)
		return !ferror(stdout);
	t = thread_of(l, r->ent->common_pid);
	if (!t)
		return true;
	snprintf(t->comm, sizeof(t->comm), "%s", comm);
	line = walk_line_of(capture_event(r));
	if (t->tree) {
		first = record_of(&t->line[0], &head);
		if (walk_is_aside(r, t->tree, walk_depth(&first)))
			return !ferror(stdout);
		if (line->tree != t->tree || walk_depth(r) <= walk_depth(&first))
			end_piece(l, t);
	}
	if (!t->tree) {
		t->tree = line->tree;
		t->nr = 0;
		t->key = (uint64_t)line->tree;
	}
	if (t->nr == WALK_PIECE_LINES)
		return true;
	t->line[t->nr].ts = r->head->ts;
	memcpy(t->line[t->nr++].bytes, r->ent, size);
	t->key = walk_mix(t->key, r);
	return !ferror(stdout);
}

bool walk_live_quiet(void *arg)
{
	struct walk_live *l = arg;

	for (struct live_thread *t = l->threads; t; t = t->next)
		if (t->tree && trace_clock() - t->line[t->nr - 1].ts > QUIET_NS)
			end_piece(l, t);
	return !ferror(stdout);
}

void walk_live_end(struct walk_live *l)
{
	for (struct live_thread *t = l->threads, *next; t; t = next) {
		next = t->next;
		end_piece(l, t);
		free(t);
	}
	free(l->keys);
	if (l->nr_like)
		printf(l->t.lang == ZH ? "\n（另有 %zu 次与以上相同；--all 全部显示）\n"
				       : "\n(%zu more that tell nothing new; --all shows them)\n", l->nr_like);
}
