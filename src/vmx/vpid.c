/*
 * VPIDs, which tag the processor's linear and combined mappings (SDM Vol. 3,
 * "Virtual Processor Identifiers").
 *
 * Invariant: a VPID other than 0 belongs to one VMCS of the process.
 * Locks: vpid_lock for the bitmap.
 */
#include <pthread.h>
#include <string.h>

#include "lib/fork.h"
#include "vmx/internal.h"

#define VMX_NR_VPIDS (1U << 16)

static pthread_mutex_t vpid_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t vpid_bitmap[VMX_NR_VPIDS / 64];

static void forget_in_child(void)
{
	memset(vpid_bitmap, 0, sizeof(vpid_bitmap));
	pthread_mutex_init(&vpid_lock, NULL);
}
LIB_IN_FORKED_CHILD(forget_in_child)

uint16_t allocate_vpid(void)
{
	unsigned vpid = 0;

	if (!vmx_params()->vpid)
		return 0;
	pthread_mutex_lock(&vpid_lock);
	vpid_bitmap[0] |= 1; /* 0 is the host's */
	for (unsigned i = 0; i < ARRAY_SIZE(vpid_bitmap); i++) {
		if (vpid_bitmap[i] == ~0ULL)
			continue;
		vpid = i * 64 + (unsigned)__builtin_ctzll(~vpid_bitmap[i]);
		vpid_bitmap[i] |= BIT_ULL(vpid % 64);
		break;
	}
	pthread_mutex_unlock(&vpid_lock);
	return (uint16_t)vpid;
}

void free_vpid(uint16_t vpid)
{
	if (vpid == 0)
		return;
	pthread_mutex_lock(&vpid_lock);
	vpid_bitmap[vpid / 64] &= ~BIT_ULL(vpid % 64);
	pthread_mutex_unlock(&vpid_lock);
}
