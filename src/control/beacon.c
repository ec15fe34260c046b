/*
 * The structure that a reader of core files begins with: see beacon.h.
 */
#include "control/beacon.h"

#include <string.h>
#include <unistd.h>

#include "control/internal.h"
#include "mmu/look.h"
#include "mmu/shadow.h"

static struct control_beacon beacon;

void control_light_beacon(void)
{
	/* Backwards, so that no copy of the string stands in a data section. */
	static const char cigam[] = "\nnocaeb mvkresu";

	beacon = (struct control_beacon){
		.size_kvm = sizeof(struct kvm),
		.size_mmu_vm = sizeof(struct kvm_mmu_vm),
		.size_root = sizeof(struct kvm_mmu_page),
		.size_slots = sizeof(struct kvm_memslots),
		.size_slot = sizeof(struct kvm_memory_slot),
		.size_vcpu = sizeof(struct kvm_vcpu),
		.size_mmu_vcpu = sizeof(struct kvm_mmu_vcpu),
		.size_shadow_page = sizeof(struct shadow_page),
		.pid = (int32_t)getpid(),
		.vms = kvm_mmu_look_vms(),
	};
	for (size_t i = 0; i < sizeof(cigam) - 1; i++)
		beacon.magic[i] = cigam[sizeof(cigam) - 2 - i];
	__asm__ volatile("" : : "r"(&beacon) : "memory"); /* for readers the compiler does not see */
}
