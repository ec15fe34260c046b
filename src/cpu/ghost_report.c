/*
 * What the sanitizer of translations tells: lines on standard error, the same as JSON lines in the
 * file USERKVM_CHECK_LOG, counts at the end.
 *
 * Invariant: libc runs with the guest's SIMD state out of the registers.
 *
 * Locks: ghost->lock, held by all callers.
 */
#include "cpu/ghost_internal.h"
#include "host/timer.h"
#include "lib/check_log.h"
#include "lib/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <x86intrin.h>

#define MAX_LINES 16 /* of a class */

static const char *const class_name[] = { "use", "reachable", "table", "root", "lost-dirty", "size" };

/*
 * Most programs end without closing their VMs: what there is to tell is told at their exit. The
 * first VM's sanitizer stands for it; others are told when their VM goes.
 */
static struct ghost *at_exit;

void ghost_report_open(struct ghost *g)
{
	struct ghost *none = NULL;

	g->log_fd = check_log_open();
	check_ranges_read(&g->suppress);
	__atomic_compare_exchange_n(&at_exit, &none, g, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

/* The same bug again? */
static bool told_before(struct ghost *g, uint64_t key)
{
	uint64_t *slot = &g->seen[ghost_hash(key) % ARRAY_SIZE(g->seen)];

	if (*slot == key)
		return true;
	*slot = key;
	return false;
}

static uint64_t us_since(uint64_t tsc)
{
	return (__rdtsc() - tsc) * 1000 / host_tsc_khz();
}

/* Another processor runs on: its RIP is as it was stored last. */
static uint64_t rip_of(const struct ghost_cpu *v, const struct ghost_cpu *by)
{
	return v == by ? isa_rip(&v->cpu->cs) : READ_ONCE(v->cpu->cs.rip);
}

static const char *settled_text(const struct record *r)
{
	switch (r->settled) {
	case SETTLED_RETURNED: return r->by.fs ? "that thread has gone back to user mode" :
				      "a thread of that address space has gone back to user mode (no FS base tells threads apart)";
	case SETTLED_OWN: return "the same thread of the kernel goes on by the old translation";
	case SETTLED_RECYCLED: return "the frame has been given a new owner";
	case SETTLED_QUIET: return "every processor has been in user mode since";
	default: return "that operation is not over";
	}
}

static const char *level_name(unsigned level)
{
	static const char *const names[] = { "entry", "PTE", "PDE", "PDPTE", "PML4E", "PML5E" };

	return names[level < ARRAY_SIZE(names) ? level : 0];
}

/* Level of the entry among those of the walk, from the leaf's. */
static unsigned level_of(const struct record *r, const struct hold *h)
{
	unsigned leaf = h->kind == HOLD_TABLE ? (h->shift == 21 || h->shift == 22 ? 2 : h->shift == 30 ? 3 : 4) :
			h->shift == 12 ? 1 : h->shift == 30 ? 3 : 2;

	return leaf + r->level - 1;
}

static void tell(struct ghost_cpu *by, enum ghost_class class, const struct record *r, const struct hold *h,
		 gva_t gva, uint32_t access, const struct cpu_walk_result *now)
{
	const struct ghost_cpu *v = h->c;
	gpa_t frame = h->gpa + (h->kind == HOLD_LEAF ? (gva & PAGE_MASK) - h->base : 0);
	uint64_t rip = rip_of(class == GHOST_TABLE ? by : v, by);
	const char *verb = access & CPU_EXEC ? "fetch" : access & CPU_WRITE ? "write" : "read";
	const char *hidden = by->g->deaf ? hold_hidden(h) ? " [hidden]" : " [not hidden]" : "";
	char what[160], next[80] = "", cr[48];

	if (class == GHOST_TABLE)
		snprintf(what, sizeof(what), "page table %#lx is stored to by cpu%u (rip %#lx), and cpu%u may still walk it for %#lx",
			 h->gpa, by->nr, rip, v->nr, gva);
	else if (class == GHOST_SIZE)
		snprintf(what, sizeof(what), "page %#lx of cpu%u's goes from %lu KiB at frame %#lx to %lu KiB at %#lx in one step", gva, v->nr,
			 1UL << h->shift >> 10, frame, 1UL << now->page_shift >> 10, now->gpa);
	else if (class == GHOST_REACHABLE)
		snprintf(what, sizeof(what), "cpu%u%s (rip %#lx) may still access %#lx at frame %#lx", v->nr,
			 v->in_guest && v->user && (h->global || h->pcid == v->pcid) ? " in user mode" : ", elsewhere now,", rip, gva, frame);
	else
		snprintf(what, sizeof(what), "%s of %#lx by cpu%u (%s, rip %#lx) may go to frame %#lx", verb, gva, v->nr,
			 v->cpu->cs.cpl == 3 ? "user" : "kernel", rip, frame);
	if (class == GHOST_USE && now && now->gpa != frame)
		snprintf(next, sizeof(next), ", now %#lx", now->gpa);
	else if (class == GHOST_USE)
		snprintf(next, sizeof(next), ", which is no longer allowed");
	snprintf(cr, sizeof(cr), "PCID %u%s", h->pcid, h->global ? ", global" : "");
	log_always("USERKVM_CHECK=guesttlb: %s: %s (%s)%s%s", class_name[class], what, cr, next, hidden);
	log_always("  %s at gpa %#lx: %#lx -> %#lx by %s%u at rip %#lx (thread fs %#lx), %lu us ago; %s", level_name(level_of(r, h)),
		   r->entry, r->old, r->new, r->by.hypervisor ? "the hypervisor for cpu" : "cpu", r->by.c->nr, r->by.rip, r->by.fs,
		   us_since(r->by.time), settled_text(r));
	snprintf(what, sizeof(what), "%s%s%#lx at rip %#lx", v->last.what ? v->last.what : "", v->last.page ? " " : ", PCID ",
		 v->last.address, v->last.rip);
	log_always("  cpu%u has executed nothing since %s that invalidates it in PCID %u (its last: %s) [SDM \"%s\"]", v->nr,
		   h->spec ? "it could have cached it, by accessed flags," : "its last use", h->pcid, v->last.what ? what : "none",
		   h->spec || class == GHOST_SIZE ? "Details of TLB Use" : "Recommended Invalidation");
}

static void tell_json(struct ghost_cpu *by, enum ghost_class class, const struct record *r, const struct hold *h,
		      gva_t gva, uint32_t access, const struct cpu_walk_result *now, bool quiet)
{
	const struct ghost_cpu *v = h->c;
	char line[1024];

	snprintf(line, sizeof(line),
		 "{\"class\":\"%s\",\"address\":\"%#lx\",\"access\":\"%s%s%s\",\"cpu\":%u,\"rip\":\"%#lx\",\"cpl\":%u,\"vpid\":%u,"
		 "\"pcid\":%u,\"global\":%s,\"old\":\"%#lx\",\"new\":\"%#lx\",\"entry\":\"%#lx\",\"level\":%u,\"frame\":\"%#lx\","
		 "\"now\":\"%#lx\",\"size\":%lu,\"writer\":{\"cpu\":%u,\"rip\":\"%#lx\",\"thread\":\"%#lx\",\"hypervisor\":%s},"
		 "\"settled\":%u,\"age_us\":%lu,\"missing\":\"%s\",\"lstar\":\"%#lx\",\"hidden\":%s,\"spec\":%s,\"suppressed\":%s}",
		 class_name[class], gva, access & CPU_READ ? "r" : "", access & CPU_WRITE ? "w" : "", access & CPU_EXEC ? "x" : "",
		 v->nr, rip_of(class == GHOST_TABLE ? by : v, by), v->cpu->cs.cpl, v->vpid, h->pcid, h->global ? "true" : "false",
		 r->old, r->new, r->entry, level_of(r, h), h->gpa, now ? now->gpa : 0, 1UL << h->shift, r->by.c->nr, r->by.rip, r->by.fs,
		 r->by.hypervisor ? "true" : "false", r->settled, us_since(r->by.time),
		 h->global ? "INVLPG on this processor" : "INVLPG, INVPCID or MOV CR3 on this processor", by->cpu->msr.lstar,
		 by->g->deaf && hold_hidden(h) ? "true" : "false", h->spec ? "true" : "false", quiet ? "true" : "false");
	check_log_line(by->g->log_fd, "%s", line);
}

void ghost_report(struct ghost_cpu *by, enum ghost_class class, const struct record *r, const struct hold *h,
		  gva_t gva, uint32_t access, const struct cpu_walk_result *now)
{
	struct ghost *g = by->g;
	bool loaded = by->cpu->cs.fpu_loaded, quiet;
	uint64_t rip = isa_rip(&by->cpu->cs), key;

	isa_fpu_sync(&by->cpu->cs);
	quiet = check_ranges_hit(&g->suppress, r->by.rip) || check_ranges_hit(&g->suppress, rip);
	if (!quiet) {
		g->count.reports++;
		g->told[class]++;
		if (g->deaf && hold_hidden(h))
			g->count.reports_of_hidden++;
	}
	key = (r->by.rip * 31 + (class == GHOST_REACHABLE ? 0 : rip)) * 8 + class + 1;
	if (!told_before(g, key) || g->deaf) {
		if (!quiet && (g->lines[class]++ < MAX_LINES || (g->deaf && !hold_hidden(h))))
			tell(by, class, r, h, gva, access, now);
		tell_json(by, class, r, h, gva, access, now, quiet);
	}
	if (loaded)
		isa_fpu_load(&by->cpu->cs);
}

void ghost_report_root(struct ghost_cpu *by, struct ghost_cpu *v)
{
	struct ghost *g = by->g;
	bool loaded = by->cpu->cs.fpu_loaded;
	uint64_t rip = isa_rip(&by->cpu->cs);
	gpa_t root = v->cr3 & PTE_ADDR_MASK;
	char line[256];

	isa_fpu_sync(&by->cpu->cs);
	if (!check_ranges_hit(&g->suppress, rip)) {
		g->count.reports++;
		g->told[GHOST_ROOT]++;
		if (g->lines[GHOST_ROOT]++ < MAX_LINES)
			log_always("USERKVM_CHECK=guesttlb: root: the frame %#lx of cpu%u's CR3 is stored to by cpu%u at rip %#lx, more than "
				   "%u of its 64 lines since it was loaded: it has a new owner", root, v->nr, by->nr, rip, 47);
		snprintf(line, sizeof(line), "{\"class\":\"root\",\"cpu\":%u,\"frame\":\"%#lx\",\"writer\":{\"cpu\":%u,\"rip\":\"%#lx\"},"
			 "\"lstar\":\"%#lx\",\"suppressed\":false}", v->nr, root, by->nr, rip, by->cpu->msr.lstar);
		check_log_line(g->log_fd, "%s", line);
	}
	if (loaded)
		isa_fpu_load(&by->cpu->cs);
}

static void tell_end(struct ghost *g)
{
	uint64_t told = 0;
	char line[1024], hidden[320] = "";

	for (unsigned n = 0; n < GHOST_CLASSES; n++)
		told += g->told[n];
	for (uint32_t n = 1; g->deaf && n <= g->used_records; n++)
		if (g->record[n].hold)
			record_count_hidden(g, &g->record[n]);
	if (g->deaf)
		snprintf(hidden, sizeof(hidden), "; of hidden invalidations %" PRIu64 " (hidden: %" PRIu64 "), of which %" PRIu64
			 " took something away, %" PRIu64 " left it in reach, %" PRIu64 " were told (records: %" PRIu64 ", %" PRIu64
			 " in reach, %" PRIu64 " of them covered in time, %" PRIu64 " told)", g->count.reports_of_hidden, g->count.hidden, g->count.hidden_owed,
			 g->count.hidden_in_reach, g->count.hidden_told, g->count.records_owed, g->count.records_in_reach,
			 g->count.records_in_time, g->count.records_told);
	log_always("USERKVM_CHECK=guesttlb: %" PRIu64 " reports (use %u, reachable %u, table %u, root %u, lost-dirty %u, size %u)%s; "
		   "%" PRIu64 " translations narrowed, %" PRIu64 " used in the legal window, %" PRIu64 " forgotten (no room, or in doubt)",
		   told, g->told[0], g->told[1], g->told[2], g->told[3], g->told[4], g->told[5], hidden, g->count.records,
		   g->count.uses_in_window, g->count.forgotten);
	check_ranges_tell(&g->suppress);
#define COUNTER(n) "\"" #n "\":%" PRIu64 ","
#define VALUE(n) g->count.n,
	snprintf(line, sizeof(line), "{\"class\":\"end\"," GHOST_COUNTERS(COUNTER) "\"told\":%" PRIu64 "}", GHOST_COUNTERS(VALUE) told);
	check_log_line(g->log_fd, "%s", line);
}

__attribute__((destructor)) static void tell_at_exit(void)
{
	struct ghost *g = __atomic_exchange_n(&at_exit, NULL, __ATOMIC_ACQ_REL);

	if (g)
		tell_end(g);
}

void ghost_report_end(struct ghost *g)
{
	struct ghost *first = g;

	__atomic_compare_exchange_n(&at_exit, &first, NULL, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
	tell_end(g);
	check_log_close(g->log_fd);
}
