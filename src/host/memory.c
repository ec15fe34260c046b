/*
 * Faulting the client's pages in, by touching them.
 *
 * A guarded access is all it takes: the host kernel does what get_user_pages
 * would, and memory that is there already costs no system call.
 */
#include "host/memory.h"

#include "host/fault.h"
#include "lib/error.h"
#include "lib/own.h"

int host_fault_in(hva_t hva, bool write, bool *writable)
{
	hva_t page = ALIGN_DOWN(hva, PAGE_SIZE);
	bool may_write = write;

	if (own_overlaps(page, PAGE_SIZE))
		return err_born(EFAULT, "hva %#llx is the library's", (unsigned long long)hva);
	if (write) {
		/* A locked compare-exchange is a write to the MMU whether or not it swaps. */
		int r = host_cmpxchg32(__va(page), 0, 0);

		if (r < 0)
			return err_born(EFAULT, "hva %#llx cannot be written", (unsigned long long)hva);
	} else {
		char c;

		if (host_copy_from(&c, __va(page), 1))
			return err_born(EFAULT, "hva %#llx cannot be read", (unsigned long long)hva);
		if (writable && !host_mapping_find(page, NULL, NULL, &may_write))
			may_write = false;
	}
	if (writable)
		*writable = may_write;
	return 0;
}
