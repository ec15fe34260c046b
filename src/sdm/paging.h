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

#define CR3_PCID_MASK GENMASK_ULL(11, 0)
#define CR3_NOFLUSH BIT_ULL(63)

#endif
