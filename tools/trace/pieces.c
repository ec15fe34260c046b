/*
 * A capture in pieces:
 *
 *   capture --> pieces: runs of lines of one tree on one thread
 *           --> those that tell something new, in order of time
 *
 * A piece begins where a thread's line belongs to another tree than the one
 * before it, or is at depth 0; its first line's depth is the left margin.
 */
#include <linux/kvm.h>
#include <stdlib.h>

#include "tools/trace/walk.h"

static uint64_t mix(uint64_t key, uint64_t v)
{
	return (key ^ v) * 0x100000001b3ULL + (key >> 29);
}

/* What makes a line tell something new: the event, and of a few the kind of value. */
static uint64_t line_key(const struct capture_record *r)
{
	const void *rec = r->ent;
	unsigned event = capture_event(r);

	switch (event) {
	case TRACE_userkvm_kvm_vm_ioctl_set_memory_region:
		return mix(
		    event,
		    ((const struct trace_userkvm_kvm_vm_ioctl_set_memory_region *)rec)->slot);
	case TRACE_userkvm_vmcs_readl_EXIT_QUALIFICATION:
		return mix(event, ((const struct trace_userkvm_vmcs_readl_EXIT_QUALIFICATION *)rec)
		                      ->exit_qualification);
	case TRACE_userkvm_kvm_tdp_mmu_map:
		return mix(event, ((const struct trace_userkvm_kvm_tdp_mmu_map *)rec)->spte & 7) +
		       ((const struct trace_userkvm_kvm_tdp_mmu_map *)rec)->level;
	case TRACE_userkvm_kvm_set_memslot:
		return mix(event, ((const struct trace_userkvm_kvm_set_memslot *)rec)->change);
	case TRACE_userkvm_ret_pf:
		return mix(event, (uint64_t)((const struct trace_userkvm_ret_pf *)rec)->ret);
	case TRACE_userkvm_exit_mmio:
		return mix(event, ((const struct trace_userkvm_exit_mmio *)rec)->is_write);
	case TRACE_userkvm_kvm_read_cr3:
		return mix(event, ((const struct trace_userkvm_kvm_read_cr3 *)rec)->stale) +
		       ((const struct trace_userkvm_kvm_read_cr3 *)rec)->identity_map;
	default: return event;
	}
}

uint32_t walk_depth(const struct capture_record *r)
{
	return ((const struct trace_userkvm_kvm_create_vm *)r->ent)
	    ->depth; /* every event's first field */
}

uint64_t walk_mix(uint64_t key, const struct capture_record *r)
{
	return mix(mix(key, line_key(r)), walk_depth(r));
}

/* Other VM ioctls than KVM_SET_USER_MEMORY_REGION are no line of the walk-through. */
bool walk_is_line(const struct capture_record *r)
{
	const struct trace_userkvm_kvm_vm_ioctl *ioctl = (const void *)r->ent;

	if (!walk_line_of(capture_event(r)))
		return false;
	/* emulated for another reason than the guest's memory */
	if (capture_event(r) == TRACE_userkvm_x86_emulate_instruction && walk_depth(r) == 0)
		return false;
	return capture_event(r) != TRACE_userkvm_kvm_vm_ioctl ||
	       ioctl->request == KVM_SET_USER_MEMORY_REGION;
}

bool walk_is_aside(const struct capture_record *r, int tree, uint32_t depth)
{
	return tree == 1 && walk_line_of(capture_event(r))->tree == 2 && walk_depth(r) > depth;
}

/* The last piece is complete: was it told before? */
static void end_piece(struct walk_pieces *w)
{
	const struct walk_piece *p = w->nr ? &w->piece[w->nr - 1] : NULL;

	for (size_t i = 0; p && !w->all && i + 1 < w->nr; i++) {
		if (w->piece[i].key != p->key)
			continue;
		w->nr_like[p->tree - 1]++;
		w->nr--;
		return;
	}
}

static struct walk_piece *new_piece(struct walk_pieces *w, size_t first, int tree)
{
	struct walk_piece *p;

	end_piece(w);
	if (w->nr == w->room) {
		size_t room = w->room ? 2 * w->room : 64;

		p = realloc(w->piece, room * sizeof(*p));
		if (!p)
			return NULL;
		w->piece = p;
		w->room = room;
	}
	p = &w->piece[w->nr++];
	p->first = first;
	p->nr = 0;
	p->tree = tree;
	p->key = (uint64_t)tree;
	return p;
}

/* One thread's events, in pieces. */
static int cut_thread(struct walk_pieces *w, const struct capture *c, int32_t tid)
{
	struct walk_piece *p = NULL;

	for (size_t i = 0; i < c->nr_records; i++) {
		const struct capture_record *r = &c->records[i];
		const struct walk_line *line;

		if (r->ent->common_pid != tid || !walk_is_line(r))
			continue;
		if (p && walk_is_aside(r, p->tree, walk_depth(&c->records[p->events[0]])))
			continue;
		line = walk_line_of(capture_event(r));
		if (!p || line->tree != p->tree ||
		    walk_depth(r) <= walk_depth(&c->records[p->events[0]]))
			p = new_piece(w, i, line->tree);
		if (!p)
			return -1;
		if (p->nr == WALK_PIECE_LINES)
			continue;
		p->events[p->nr++] = i;
		p->key = walk_mix(p->key, r);
	}
	return 0;
}

static int by_first(const void *a, const void *b)
{
	const struct walk_piece *x = a, *y = b;

	return x->first < y->first ? -1 : x->first > y->first;
}

int walk_cut(struct walk_pieces *w, const struct capture *c)
{
	for (uint32_t t = 0; t < c->nr_threads; t++) {
		bool seen = false;

		for (uint32_t k = 0; k < t; k++)
			seen |= c->threads[k].tid == c->threads[t].tid;
		if (!seen && cut_thread(w, c, c->threads[t].tid))
			return -1;
	}
	end_piece(w);
	if (w->nr)
		qsort(w->piece, w->nr, sizeof(*w->piece), by_first);
	return 0;
}
