/*
 * What the checkers found (check.c, shadow_check.c): a line for each fault, and pages that are to be looked at again.
 *
 * Locks: none; one result belongs to one check.
 */
#include <stdarg.h>
#include <stdio.h>

#include "lib/log.h"
#include "mmu/check.h"

void mmu_check_fault(struct mmu_check_result *r, const char *fmt, ...)
{
	char text[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	r->faults++;
	if (r->after)
		log_dump("mmu_check after %s: %s", r->after, text);
	else
		log_line(LOG_INFO, "mmu_check: %s", text);
}

void mmu_check_suspect(struct mmu_check_result *r, const struct kvm_memory_slot *slot, gfn_t gfn)
{
	if (r->nr_suspects == MMU_CHECK_SUSPECTS)
		return; /* those at hand will tell */
	r->suspect[r->nr_suspects].as_id = slot->as_id;
	r->suspect[r->nr_suspects++].gfn = gfn;
}
