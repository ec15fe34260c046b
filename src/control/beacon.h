/*
 * Where to begin in a core file of a process: a structure with a magic string,
 * found by looking through the core's writable memory. The reader knows the
 * structures behind it from the same headers, so their sizes are told along and
 * a core of another build is refused instead of misread.
 */
#ifndef USERKVM_CONTROL_BEACON_H
#define USERKVM_CONTROL_BEACON_H

#include "lib/types.h"

#define CONTROL_BEACON_MAGIC "userkvm beacon\n"

struct control_beacon {
	char magic[16]; /* put together at run time: no file of ours holds it whole */
	uint32_t size_kvm, size_mmu_vm, size_root, size_slots, size_slot, size_vcpu, size_mmu_vcpu, size_shadow_page;
	int32_t pid;
	const void *vms; /* &list of struct kvm_mmu_vm */
};

#endif
