/*
 * The pages a guest reads its clock from (KVM API: "KVM-specific MSRs",
 * MSR_KVM_SYSTEM_TIME_NEW and MSR_KVM_WALL_CLOCK_NEW).
 *
 * time = system_time + ((tsc - tsc_timestamp) << tsc_shift) * tsc_to_system_mul >> 32
 * (a negative shift goes right). version is odd while an update is under way.
 */
#ifndef USERKVM_X86_PVCLOCK_H
#define USERKVM_X86_PVCLOCK_H

#include "lib/types.h"

#define PVCLOCK_TSC_STABLE_BIT BIT_ULL(0)
#define PVCLOCK_GUEST_STOPPED BIT_ULL(1)

struct pvclock_vcpu_time_info {
	uint32_t version;
	uint32_t pad0;
	uint64_t tsc_timestamp;
	uint64_t system_time;
	uint32_t tsc_to_system_mul;
	int8_t tsc_shift;
	uint8_t flags;
	uint8_t pad[2];
};
static_assert(sizeof(struct pvclock_vcpu_time_info) == 32, "guest ABI");

struct pvclock_wall_clock {
	uint32_t version;
	uint32_t sec;
	uint32_t nsec;
};
static_assert(sizeof(struct pvclock_wall_clock) == 12, "guest ABI");

#endif
