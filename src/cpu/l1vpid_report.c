/*
 * What the sanitizer of INVVPIDs tells: lines on standard error, the same as JSON in USERKVM_CHECK_LOG, counts at the end.
 *
 * Invariant: libc runs with the guest's SIMD state out of the registers.
 *
 * Locks: none; the processor's thread.
 */
#include "cpu/l1vpid_internal.h"
#include "lib/log.h"

#include <inttypes.h>
#include <stdio.h>

#define MAX_LINES 16

/* Most programs end without closing their VMs: the first VM's counts are told at their exit. */
static struct l1vpid_machine *at_exit;

void l1vpid_report_open(struct l1vpid_machine *m)
{
	struct l1vpid_machine *none = NULL;

	m->log_fd = check_log_open();
	check_ranges_read(&m->suppress);
	__atomic_compare_exchange_n(&at_exit, &none, m, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

static void tell_end(struct l1vpid_machine *m)
{
	log_always("USERKVM_CHECK=l1vpid: %" PRIu64 " reports; %" PRIu64 " of hidden INVVPIDs (hidden: %" PRIu64 "); %" PRIu64
		   " translations changed by L1, %" PRIu64 " used in the legal window, %" PRIu64 " forgotten (no room, or in doubt)",
		   m->reports, m->of_hidden, m->hidden, m->records, m->in_window, m->forgotten);
	check_ranges_tell(&m->suppress);
	check_log_line(m->log_fd, "{\"class\":\"end\",\"check\":\"l1vpid\",\"records\":%" PRIu64 ",\"hidden\":%" PRIu64
		       ",\"reports_of_hidden\":%" PRIu64 ",\"told\":%" PRIu64 "}", m->records, m->hidden, m->of_hidden, m->reports);
}

__attribute__((destructor)) static void tell_at_exit(void)
{
	struct l1vpid_machine *m = __atomic_exchange_n(&at_exit, NULL, __ATOMIC_ACQ_REL);

	if (m)
		tell_end(m);
}

void l1vpid_report_end(struct l1vpid_machine *m)
{
	struct l1vpid_machine *first = m;

	__atomic_compare_exchange_n(&at_exit, &first, NULL, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
	tell_end(m);
	check_log_close(m->log_fd);
}

/* What has changed. */
struct change {
	gpa_t entry; /* 0: GUEST_CR3 */
	uint64_t old;
};

static struct change change_of(const struct l1vpid *l, const struct l1vpid_hold *h)
{
	const struct l1vpid_dir *d = &l->dir[h->dir];

	if (h->changed > d->nr)
		return (struct change){ 0, h->cr3 };
	if (h->changed == d->nr)
		return (struct change){ d->table + h->offset, h->val };
	return (struct change){ d->e[h->changed].gpa, d->e[h->changed].val };
}

/* Counts the report. False: not to be told in lines, for it is suppressed or one of many. */
static bool counts(struct l1vpid_machine *m, const struct l1vpid_hold *h, bool quiet)
{
	if (quiet)
		return false;
	m->reports++;
	m->of_hidden += h->hidden;
	return m->reports <= MAX_LINES || (m->deaf && !h->hidden);
}

static const char *hidden_text(const struct l1vpid_machine *m, const struct l1vpid_hold *h)
{
	return !m->deaf ? "" : h->hidden ? " [hidden]" : " [not hidden]";
}

/* Who has changed what, and what is missing. */
static void tell_change(const struct l1vpid *l, const struct l1vpid_hold *h)
{
	struct change c = change_of(l, h);
	char where[64] = "GUEST_CR3";

	if (c.entry)
		snprintf(where, sizeof(where), "the paging entry at gpa %#lx", c.entry);
	log_always("  L1 has changed %s, %#lx -> %#lx, before its VM entry at rip %#lx", where, c.old, h->new, h->l1_rip);
	log_always("  vCPU %u has executed no INVVPID of VPID %u that covers it since its L2 used the translation (PCID %u%s) "
		   "[SDM \"Guidelines for Use of the INVVPID Instruction\"]", l->now.vcpu, l->dir[h->dir].vpid, h->pcid,
		   h->global ? ", global" : "");
}

/* rip: of L2; where the access is "reachable", of L1's VM entry. */
static void tell_json(const struct l1vpid *l, const struct l1vpid_hold *h, gva_t gva, const char *access, uint64_t rip, gpa_t now, bool quiet)
{
	struct change c = change_of(l, h);

	check_log_line(l->m->log_fd, "{\"class\":\"l1vpid\",\"address\":\"%#lx\",\"access\":\"%s\",\"cpu\":%u,\"rip\":\"%#lx\",\"vpid\":%u,"
		       "\"pcid\":%u,\"global\":%s,\"eptp\":\"%#lx\",\"frame\":\"%#lx\",\"now\":\"%#lx\",\"entry\":\"%#lx\",\"old\":\"%#lx\","
		       "\"new\":\"%#lx\",\"writer\":{\"cpu\":%u,\"rip\":\"%#lx\"},\"lstar\":\"%#lx\",\"hidden\":%s,\"suppressed\":%s}", gva, access,
		       l->now.vcpu, rip, l->dir[h->dir].vpid, h->pcid, h->global ? "true" : "false", l->dir[h->dir].eptp, h->gpa, now, c.entry,
		       c.old, h->new, l->now.vcpu, h->l1_rip, l->m->lstar, h->hidden ? "true" : "false", quiet ? "true" : "false");
}

void l1vpid_report(struct vmx_cpu *cpu, struct l1vpid_hold *h, gva_t gva, uint32_t access, const struct cpu_walk_result *now)
{
	const struct l1vpid *l = cpu->tlb->l1vpid;
	const char *verb = access & CPU_EXEC ? "fetch" : access & CPU_WRITE ? "write" : "read";
	bool loaded = cpu->cs.fpu_loaded, quiet;
	uint64_t rip = isa_rip(&cpu->cs);

	isa_fpu_sync(&cpu->cs);
	quiet = check_ranges_hit(&l->m->suppress, h->l1_rip) || check_ranges_hit(&l->m->suppress, rip);
	if (counts(l->m, h, quiet)) {
		log_always("USERKVM_CHECK=l1vpid: L2's %s of %#lx (rip %#lx) on vCPU %u could go to gpa %#lx, %s%s", verb, gva, rip,
			   l->now.vcpu, h->gpa, now ? "and now goes to another page" : "which its tables no longer allow", hidden_text(l->m, h));
		tell_change(l, h);
	}
	tell_json(l, h, gva, verb, rip, now ? now->gpa : 0, quiet);
	if (loaded)
		isa_fpu_load(&cpu->cs);
}

void l1vpid_report_reachable(struct vmx_cpu *cpu, const struct l1vpid_hold *h)
{
	const struct l1vpid *l = cpu->tlb->l1vpid;
	bool quiet = check_ranges_hit(&l->m->suppress, h->l1_rip);

	if (counts(l->m, h, quiet)) {
		log_always("USERKVM_CHECK=l1vpid: L2 has run on vCPU %u, entered at L1's rip %#lx, while its %#lx could go to gpa %#lx, which its "
			   "tables no longer allow%s", l->now.vcpu, h->l1_rip, h->gva, h->gpa, hidden_text(l->m, h));
		tell_change(l, h);
	}
	tell_json(l, h, h->gva, "reachable", h->l1_rip, 0, quiet);
}
