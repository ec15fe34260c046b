/*
 * What the sanitizer of INVEPTs tells: lines on standard error, the same as JSON in USERKVM_CHECK_LOG, counts at the end.
 *
 * Locks: l1ept->lock, held by l1ept_report()'s callers.
 */
#include "mmu/l1ept_internal.h"

#include "lib/log.h"
#include "sdm/ept.h"

#define MAX_LINES 16

typedef unsigned long long ull;

uint64_t l1ept_rip(struct kvm_vcpu *vcpu)
{
	return mmu_guest_ops()->get_rip ? mmu_guest_ops()->get_rip(vcpu) : 0;
}

static void tell_end(struct l1ept *k)
{
	for (uint32_t n = k->open; n; n = k->hold[n].next_open)
		l1ept_count_owed(k, &k->hold[n]);
	log_always("USERKVM_CHECK=l1ept: %llu reports; %llu of hidden INVEPTs (hidden: %llu, of which %llu took something away, %llu left "
		   "it in reach, %llu were told; records: %llu, %llu in reach, %llu told); %llu mappings narrowed, %llu used in the legal window, "
		   "%llu forgotten for room", (ull)k->reports, (ull)k->of_hidden, (ull)k->hidden, (ull)k->hidden_owed, (ull)k->hidden_in_reach,
		   (ull)k->hidden_told, (ull)k->records_owed, (ull)k->records_in_reach, (ull)k->records_told, (ull)k->records,
		   (ull)k->in_window, (ull)k->forgotten);
	check_ranges_tell(&k->suppress);
	check_log_line(k->log_fd, "{\"class\":\"end\",\"check\":\"l1ept\",\"records\":%llu,\"hidden\":%llu,\"hidden_owed\":%llu,\"hidden_in_reach\":%llu,\"hidden_told\":%llu,"
		       "\"records_owed\":%llu,\"records_in_reach\":%llu,\"records_told\":%llu,\"reports_of_hidden\":%llu,\"told\":%llu}",
		       (ull)k->records, (ull)k->hidden, (ull)k->hidden_owed, (ull)k->hidden_in_reach, (ull)k->hidden_told, (ull)k->records_owed,
		       (ull)k->records_in_reach, (ull)k->records_told, (ull)k->of_hidden, (ull)k->reports);
}

/* Most programs end without closing their VMs: the first VM's counts are told at their exit. */
static struct l1ept *at_exit;

__attribute__((destructor)) static void tell_at_exit(void)
{
	struct l1ept *k = __atomic_exchange_n(&at_exit, NULL, __ATOMIC_ACQ_REL);

	if (k)
		tell_end(k);
}

void l1ept_report_open(struct l1ept *k)
{
	struct l1ept *none = NULL;

	k->log_fd = check_log_open();
	check_ranges_read(&k->suppress);
	__atomic_compare_exchange_n(&at_exit, &none, k, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

void l1ept_report_end(struct l1ept *k)
{
	struct l1ept *first = k;

	__atomic_compare_exchange_n(&at_exit, &first, NULL, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
	tell_end(k);
	check_log_close(k->log_fd);
}

/* Counts the record's report. False: not to be told in lines, for it is suppressed or one of many. */
static bool counts(struct l1ept *k, struct l1ept_hold *h, bool quiet)
{
	h->said = true;
	if (quiet)
		return false;
	k->reports++;
	k->of_hidden += h->hidden;
	return k->reports <= MAX_LINES || (k->deaf && !h->hidden);
}

static const char *hidden_text(const struct l1ept *k, const struct l1ept_hold *h)
{
	return !k->deaf ? "" : h->hidden ? " [hidden]" : " [not hidden]";
}

/* Who wrote, and what is missing. */
static void tell_writer(const struct l1ept_hold *h)
{
	log_always("  EPT12 entry at %#llx, now %#llx, was written by vCPU %u at L1's rip %#llx", (ull)h->written, (ull)h->new,
		   h->writer->vcpu_id, (ull)h->writer_rip);
	log_always("  vCPU %u has executed no INVEPT of EP4TA %#llx since its L2 used the mapping [SDM \"Guidelines for Use of the INVEPT "
		   "Instruction\"]", h->vcpu->vcpu_id, (ull)h->eptp);
}

/* rip: of L2; where the access is "reachable", of L1's VM entry. */
static void tell_json(const struct l1ept *k, const struct l1ept_hold *h, const char *access, uint64_t rip, bool quiet)
{
	uint64_t lstar = mmu_guest_ops()->l1_lstar ? mmu_guest_ops()->l1_lstar(h->vcpu) : 0;

	check_log_line(k->log_fd, "{\"class\":\"l1ept\",\"address\":\"%#llx\",\"access\":\"%s\",\"cpu\":%u,\"rip\":\"%#llx\",\"eptp\":\"%#llx\","
		       "\"frame\":\"%#llx\",\"entry\":\"%#llx\",\"new\":\"%#llx\",\"writer\":{\"cpu\":%u,\"rip\":\"%#llx\"},\"lost_dirty\":%s,"
		       "\"lstar\":\"%#llx\",\"hidden\":%s,\"suppressed\":%s}", (ull)h->gpa, access, h->vcpu->vcpu_id, (ull)rip, (ull)h->eptp,
		       (ull)h->page, (ull)h->written, (ull)h->new, h->writer->vcpu_id, (ull)h->writer_rip, h->lost_dirty ? "true" : "false",
		       (ull)lstar, h->hidden ? "true" : "false", quiet ? "true" : "false");
}

void l1ept_report(struct l1ept *k, struct kvm_vcpu *vcpu, struct l1ept_hold *h, unsigned access, const char *how)
{
	const char *verb = access & EPT_EXEC ? "fetch" : access & EPT_WRITE ? "write" : "read";
	uint64_t rip = l1ept_rip(vcpu);
	bool quiet = check_ranges_hit(&k->suppress, h->writer_rip) || check_ranges_hit(&k->suppress, rip);

	if (counts(k, h, quiet)) {
		log_always("USERKVM_CHECK=l1ept: L2's %s of gpa %#llx (rip %#llx) on vCPU %u could reach L1's page %#llx%s%s", verb, (ull)h->gpa,
			   (ull)rip, vcpu->vcpu_id, (ull)h->page, how, hidden_text(k, h));
		tell_writer(h);
	}
	tell_json(k, h, verb, rip, quiet);
}

void l1ept_report_reachable(struct l1ept *k, struct l1ept_hold *h)
{
	bool quiet = check_ranges_hit(&k->suppress, h->writer_rip);

	if (counts(k, h, quiet)) {
		log_always("USERKVM_CHECK=l1ept: L2 has run on vCPU %u, entered at L1's rip %#llx, while its gpa %#llx could reach L1's page %#llx, "
			   "which EPT12 no longer allows%s", h->vcpu->vcpu_id, (ull)h->entered_rip, (ull)h->gpa, (ull)h->page, hidden_text(k, h));
		tell_writer(h);
	}
	tell_json(k, h, "reachable", h->entered_rip, quiet);
}
