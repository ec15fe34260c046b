/*
 * The client gives guest memory to a userfaultfd (ioctl_userfaultfd(2)).
 *
 * Two of its ioctls take pages away from guests, as madvise() may: registering
 * (a page may be missing from now on, so no leaf may cover more than one) and
 * write-protecting. Were an entry left, a processor would wait for the client
 * while it is in guest mode, and whoever changes memslots for it.
 */
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include "abi/abi.h"
#include "abi/internal.h"
#include "host/memory.h"
#include "host/service.h"
#include "lib/export.h"
#include "virt/async_pf.h"

static bool takes_away(struct abi_mapping_change *c, unsigned long request, unsigned long arg)
{
	struct uffdio_writeprotect wp;
	struct uffdio_range range;

	switch (request) {
	case UFFDIO_REGISTER:
		if (abi_copy_in(&range, &((const struct uffdio_register *)arg)->range, sizeof(range)))
			return false;
		/* before the entries go: the next ones are made with it */
		host_userfault_seen();
		kvm_async_pf_prepare(KVM_ASYNC_PF_USERFAULT);
		break;
	case UFFDIO_WRITEPROTECT:
		if (abi_copy_in(&wp, (const void *)arg, sizeof(wp)) ||
		    !(wp.mode & UFFDIO_WRITEPROTECT_MODE_WP))
			return false;
		range = wp.range;
		break;
	default:
		return false;
	}
	abi_mapping_begin(c, (const void *)(uintptr_t)range.start, range.len);
	return true;
}

USERKVM_SHARED bool abi_userfault_begin(struct abi_mapping_change *c, unsigned long request, unsigned long arg)
{
	bool yes;

	host_service_begin();
	yes = takes_away(c, request, arg);
	host_service_end();
	return yes;
}

USERKVM_SHARED void abi_userfault_end(const struct abi_mapping_change *c)
{
	const struct kvm_mmu_invalidation *inv = (const struct kvm_mmu_invalidation *)c;
	const struct host_mapping_change change = { inv->start, inv->end, HOST_MAPPING_USERFAULT, 0 };

	host_mapping_update(&change);
	abi_mapping_end(c, ABI_MAPPING_AS_BEFORE, 0);
}
