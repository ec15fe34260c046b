/*
 * Guest paging-structure entries and #PF error codes (SDM Vol. 3, "Paging").
 */
#ifndef USERKVM_SDM_PAGING_H
#define USERKVM_SDM_PAGING_H

#include "lib/types.h"

#define PTE_P BIT_ULL(0)
#define PTE_RW BIT_ULL(1)
#define PTE_US BIT_ULL(2)
#define PTE_PWT BIT_ULL(3)
#define PTE_PCD BIT_ULL(4)
#define PTE_A BIT_ULL(5)
#define PTE_D BIT_ULL(6)
#define PTE_PS BIT_ULL(7)
#define PTE_PAT BIT_ULL(7) /* 4 KiB leaves */
#define PTE_G BIT_ULL(8)
#define PTE_PAT_LARGE BIT_ULL(12)
#define PTE_PKEY_MASK GENMASK_ULL(62, 59) /* of leaves, in 4- and 5-level paging */
#define PTE_XD BIT_ULL(63)
#define PTE_ADDR_MASK GENMASK_ULL(51, 12)

#define PFERR_PRESENT_MASK BIT_ULL(0)
#define PFERR_WRITE_MASK BIT_ULL(1)
#define PFERR_USER_MASK BIT_ULL(2)
#define PFERR_RSVD_MASK BIT_ULL(3)
#define PFERR_FETCH_MASK BIT_ULL(4)
#define PFERR_PK_MASK BIT_ULL(5)
/* KVM's own, of an EPT violation: the final access, or one to a guest paging structure. */
#define PFERR_GUEST_FINAL_MASK BIT_ULL(32)
#define PFERR_GUEST_PAGE_MASK BIT_ULL(33)

/* PKRU: two bits a key (SDM Vol. 3, "Protection Keys"). */
#define PKRU_AD(key) (1U << (2 * (key)))
#define PKRU_WD(key) (2U << (2 * (key)))

#define CR3_PCID_MASK GENMASK_ULL(11, 0)
#define CR3_NOFLUSH BIT_ULL(63)

/*
 * SDM Vol. 3, "Protection Keys": does PKRU forbid a data access to a user-mode address with the key
 * that `leaf` has? For 4- and 5-level paging with CR4.PKE; instruction fetches are not asked about.
 */
static inline bool pkru_forbids(uint32_t pkru, uint64_t leaf, bool write, bool user, bool wp)
{
	unsigned key = (unsigned)FIELD_GET(PTE_PKEY_MASK, leaf);

	return (pkru & PKRU_AD(key)) || (write && (user || wp) && (pkru & PKRU_WD(key)));
}

/* INVPCID's types (SDM Vol. 2, "INVPCID"). */
enum invpcid_type { INVPCID_ADDRESS, INVPCID_CONTEXT, INVPCID_ALL_GLOBAL, INVPCID_ALL };

#endif
