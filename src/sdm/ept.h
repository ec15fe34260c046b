/*
 * EPT paging-structure entries and the EPT pointer (SDM Vol. 3, "The Extended
 * Page Table Mechanism"; figure "Formats of EPTP and EPT Paging-Structure
 * Entries").
 *
 *   63 .. 52 | 51 .......... 12 | 11 10  9   8   7    6   5..3   2 1 0
 *   software | address          | .  UX .  D   A  page IPAT mem   X W R
 * (bit 7: large page at levels 2 and 3; bits 6..3 in leaves only; bit 8
 * accessed, bit 9 dirty where EPTP bit 6 is set; bit 10 user-execute.)
 */
#ifndef USERKVM_SDM_EPT_H
#define USERKVM_SDM_EPT_H

#include "lib/types.h"

#define EPT_READ BIT_ULL(0)
#define EPT_WRITE BIT_ULL(1)
#define EPT_EXEC BIT_ULL(2)
#define EPT_RWX (EPT_READ | EPT_WRITE | EPT_EXEC)
#define EPT_MEMTYPE_MASK GENMASK_ULL(5, 3)
#define EPT_IPAT BIT_ULL(6)
#define EPT_PAGE_SIZE BIT_ULL(7)
#define EPT_ACCESSED BIT_ULL(8)
#define EPT_DIRTY BIT_ULL(9)
#define EPT_USER_EXEC BIT_ULL(10)
#define EPT_ADDR_MASK GENMASK_ULL(51, 12)

#define EPTP_MEMTYPE_MASK GENMASK_ULL(2, 0)
#define EPTP_WALK_MASK GENMASK_ULL(5, 3) /* walk length - 1 */
#define EPTP_AD_ENABLE BIT_ULL(6)
#define EPTP_ROOT_MASK GENMASK_ULL(51, 12)

/* IA32_VMX_EPT_VPID_CAP: page-walk length 5. */
#define EPT_CAP_5LEVELS BIT_ULL(7)

enum memory_type {
	MT_UNCACHEABLE = 0,
	MT_WRCOMB = 1,
	MT_WRTHROUGH = 4,
	MT_WRPROT = 5,
	MT_WRBACK = 6,
	MT_UC_MINUS = 7,
};

/* What an entry is to a processor (SDM "EPT Misconfigurations"). */
enum ept_entry_kind { EPT_ENTRY_ABSENT, EPT_ENTRY_BAD, EPT_ENTRY_TABLE, EPT_ENTRY_LEAF };
static inline enum ept_entry_kind ept_entry_kind(uint64_t e, int level, int maxphyaddr, bool execonly)
{
	uint64_t beyond = maxphyaddr < 52 ? GENMASK_ULL(51, maxphyaddr) : 0, type = FIELD_GET(EPT_MEMTYPE_MASK, e);

	if (!(e & EPT_RWX))
		return EPT_ENTRY_ABSENT;
	if ((e & (EPT_READ | EPT_WRITE)) == EPT_WRITE || e & beyond || ((e & EPT_RWX) == EPT_EXEC && !execonly))
		return EPT_ENTRY_BAD;
	if (level > 3 || (level > 1 && !(e & EPT_PAGE_SIZE)))
		return e & (EPT_MEMTYPE_MASK | EPT_IPAT | EPT_PAGE_SIZE) ? EPT_ENTRY_BAD : EPT_ENTRY_TABLE;
	if (type == 2 || type == 3 || type == 7)
		return EPT_ENTRY_BAD;
	if (level > 1 && e & GENMASK_ULL(12 + 9 * (level - 1) - 1, 12))
		return EPT_ENTRY_BAD;
	return EPT_ENTRY_LEAF;
}

#endif
