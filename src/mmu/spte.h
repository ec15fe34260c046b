/*
 * What an entry of our EPT tables holds beside the SDM's bits (sdm/ept.h).
 *
 *   none            0
 *   table, leaf     the SDM's format, and in bits the processor ignores:
 *                   11 MMU_PRESENT, 52 HOST_WRITABLE, 53 MMU_WRITABLE,
 *                   54 NX_SPLIT (table); 54 and 56 saved R and X of an
 *                   access-tracked leaf (R W X clear)
 *   MMIO            misconfigured on purpose (write and execute without read),
 *                   so that the processor leaves with reason 49:
 *       63 | 62 .. 52 | 51 .. 12 | 11 | 10 .. 3 | 2..0
 *        0 | gen high | gfn      |  0 | gen low | 110
 *
 * HOST_WRITABLE: the client's mapping may be written. MMU_WRITABLE: write
 * access was taken away only to notice writes (dirty log), the fast path may
 * give it back. Access-tracked: all rights were taken away only to notice the
 * next access (no A/D bits), the fast path gives them back.
 * NX_SPLIT: a huge page could stand here, but something in it is
 * run, and nx_huge_pages forbids that.
 */
#ifndef USERKVM_MMU_SPTE_H
#define USERKVM_MMU_SPTE_H

#include "sdm/ept.h"

#define SPTE_MMU_PRESENT BIT_ULL(11)
#define SPTE_HOST_WRITABLE BIT_ULL(52)
#define SPTE_MMU_WRITABLE BIT_ULL(53)
#define SPTE_NX_SPLIT BIT_ULL(54)

#define SPTE_SAVED_SHIFT 54
#define SPTE_SAVED_MASK ((EPT_READ | EPT_EXEC) << SPTE_SAVED_SHIFT)

#define MMIO_SPTE_VALUE (EPT_WRITE | EPT_EXEC)
#define MMIO_GEN_LOW_MASK GENMASK_ULL(10, 3)
#define MMIO_GEN_HIGH_MASK GENMASK_ULL(62, 52)
#define MMIO_GEN_LOW_BITS 8
#define MMIO_GEN_BITS 19
#define MMIO_GEN_MASK GENMASK_ULL(MMIO_GEN_BITS - 1, 0)

#define SPTE_LEVEL_BITS 9
#define SPTE_ENTRIES 512
/* What slots may use: all that an address of the processor's can name (its MAXPHYADDR is 52). */
#define TDP_MAX_GFN ((1ULL << (52 - PAGE_SHIFT)) - 1)

static inline bool spte_is_present(uint64_t e)
{
	return e & SPTE_MMU_PRESENT;
}

static inline bool spte_is_mmio(uint64_t e)
{
	return (e & EPT_RWX) == MMIO_SPTE_VALUE;
}

static inline bool spte_is_leaf(uint64_t e, int level)
{
	return spte_is_present(e) && (level == 1 || e & EPT_PAGE_SIZE);
}

static inline bool spte_is_table(uint64_t e, int level)
{
	return spte_is_present(e) && level > 1 && !(e & EPT_PAGE_SIZE);
}

static inline bool spte_is_access_tracked(uint64_t e)
{
	return spte_is_present(e) && !(e & EPT_RWX);
}

static inline bool spte_permits(uint64_t e, bool write, bool exec)
{
	return spte_is_present(e) && e & EPT_READ && (!write || e & EPT_WRITE) && (!exec || e & EPT_EXEC);
}

/* W is not saved: a write's fault decides about it anew. */
static inline uint64_t mark_spte_for_access_track(uint64_t e)
{
	return (e & ~(EPT_RWX | SPTE_SAVED_MASK)) | (e & (EPT_READ | EPT_EXEC)) << SPTE_SAVED_SHIFT;
}

static inline uint64_t restore_acc_track_spte(uint64_t e)
{
	return (e & ~SPTE_SAVED_MASK) | (e & SPTE_SAVED_MASK) >> SPTE_SAVED_SHIFT;
}

/* A leaf that has been accessed since it was made or aged. */
static inline bool spte_is_accessed(uint64_t e, bool ad)
{
	return spte_is_present(e) && (ad ? (e & EPT_ACCESSED) != 0 : !spte_is_access_tracked(e));
}

static inline uint64_t *spte_table(uint64_t e)
{
	return (uint64_t *)(uintptr_t)(e & EPT_ADDR_MASK);
}

static inline uint64_t level_pages(int level)
{
	return 1ULL << (SPTE_LEVEL_BITS * (level - 1));
}

static inline unsigned spte_index(gfn_t gfn, int level)
{
	return (gfn >> (SPTE_LEVEL_BITS * (level - 1))) % SPTE_ENTRIES;
}

/*
 * The part of a memslot generation that an MMIO entry carries. Final
 * generations are even, so bit 0 of it is not worth a place.
 */
static inline uint64_t mmio_gen(uint64_t generation)
{
	return (generation >> 1) & MMIO_GEN_MASK;
}

static inline uint64_t make_mmio_spte(gfn_t gfn, uint64_t generation)
{
	uint64_t gen = mmio_gen(generation);

	return MMIO_SPTE_VALUE | FIELD_PREP(EPT_ADDR_MASK, gfn) | FIELD_PREP(MMIO_GEN_LOW_MASK, gen) |
	       FIELD_PREP(MMIO_GEN_HIGH_MASK, gen >> MMIO_GEN_LOW_BITS);
}

static inline uint64_t mmio_spte_gen(uint64_t e)
{
	return FIELD_GET(MMIO_GEN_LOW_MASK, e) |
	       FIELD_GET(MMIO_GEN_HIGH_MASK, e) << MMIO_GEN_LOW_BITS;
}

static inline gfn_t mmio_spte_gfn(uint64_t e)
{
	return FIELD_GET(EPT_ADDR_MASK, e);
}

#endif
