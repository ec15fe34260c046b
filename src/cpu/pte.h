/*
 * How entries of the guest's paging structures, and EPT's, are read: which bits are reserved, which refer to a page, what
 * they allow together (SDM vol. 3, "Paging", "The Extended Page Table Mechanism"). None of this looks at memory or raises anything.
 *
 * Locks: none.
 */
#ifndef USERKVM_CPU_PTE_H
#define USERKVM_CPU_PTE_H

#include "cpu/internal.h"
#include "sdm/ept.h"
#include "sdm/paging.h"

static inline bool cpu_nx_enabled(const struct cpu_state *cs)
{
	return (cs->efer & EFER_NX) && (cs->cr4 & X86_CR4_PAE);
}

/* Reserved bits of a present entry (SDM "Reserved Bits", of each paging mode). Levels as in the SDM's tables: 1 is the PTE's. */
static inline uint64_t cpu_pte_reserved(const struct vmx_cpu *cpu, int level, bool leaf)
{
	const struct cpu_state *cs = &cpu->cs;
	uint64_t r = cpu->address_reserved;

	if (!(cs->cr4 & X86_CR4_PAE)) /* PSE-36: bits 20:13 are address bits 39:32 */
		return leaf && level == 2 ? BIT_ULL(21) | (r >> 32 << 13 & GENMASK_ULL(20, 13)) : 0;
	if (!(cs->efer & EFER_NX))
		r |= PTE_XD;
	if (!(cs->efer & EFER_LMA))
		r |= GENMASK_ULL(62, 52);
	if (level == 4)
		r |= PTE_PS;
	if (leaf && level == 3)
		r |= GENMASK_ULL(29, 13);
	if (leaf && level == 2)
		r |= GENMASK_ULL(20, 13);
	return r;
}

static inline bool cpu_pte_is_leaf(const struct cpu_state *cs, uint64_t e, int level)
{
	if (level == 1)
		return true;
	return (e & PTE_PS) && level <= 3 && (cs->cr4 & (X86_CR4_PAE | X86_CR4_PSE));
}

/* What entries allow together, in the form of cpu_page_rights(): `rights` of those above (at first PTE_RW | PTE_US), and e. */
static inline uint64_t cpu_pte_add_rights(uint64_t rights, uint64_t e, bool leaf)
{
	rights &= e | ~(PTE_RW | PTE_US);
	return rights | (e & (leaf ? PTE_XD | PTE_PKEY_MASK : PTE_XD));
}

/* Data accesses (enum cpu_access) that PKRU forbids `priv`. */
static inline uint32_t cpu_pte_forbidden(const struct vmx_cpu *cpu, uint64_t bits, enum cpu_priv priv)
{
	const struct cpu_state *cs = &cpu->cs;
	bool user = priv == PRIV_USER, wp = cs->cr0 & X86_CR0_WP;

	if (likely(!(cs->cr4 & X86_CR4_PKE)) || !(cs->efer & EFER_LMA) || !(bits & PTE_US))
		return 0;
	return (pkru_forbids(cs->pkru, bits, false, user, wp) ? CPU_READ : 0U) |
	       (pkru_forbids(cs->pkru, bits, true, user, wp) ? CPU_WRITE : 0U);
}

/*
 * The rights (enum cpu_access) of `priv` to a page whose entries combine to these bits: PTE_RW and
 * PTE_US of all of them, PTE_XD of any, the protection key of the leaf.
 */
static inline uint32_t cpu_page_rights(const struct vmx_cpu *cpu, uint64_t bits, enum cpu_priv priv)
{
	const struct cpu_state *cs = &cpu->cs;
	bool user_page = bits & PTE_US;
	uint32_t r = CPU_READ;

	if (priv == PRIV_USER) {
		if (!user_page)
			return 0;
		if (bits & PTE_RW)
			r |= CPU_WRITE;
	} else {
		if ((bits & PTE_RW) || !(cs->cr0 & X86_CR0_WP))
			r |= CPU_WRITE;
		if (priv == PRIV_SUPER_SMAP && user_page)
			r = 0;
	}
	if (!((bits & PTE_XD) && cpu_nx_enabled(cs)) &&
	    !(priv != PRIV_USER && user_page && (cs->cr4 & X86_CR4_SMEP)))
		r |= CPU_EXEC;
	return r & ~cpu_pte_forbidden(cpu, bits, priv);
}

/* log2 of the bytes that an entry of the level maps. */
static inline uint8_t cpu_leaf_shift(const struct cpu_state *cs, int level)
{
	return level == 1 ? 12 : cs->cr4 & X86_CR4_PAE ? (level == 2 ? 21 : 30) : 22;
}

/* Of gva's 4 KiB page, which the entry e maps. */
static inline gpa_t cpu_leaf_gpa(const struct cpu_state *cs, uint64_t e, int level, gva_t gva)
{
	uint64_t low = ~(~0ULL << cpu_leaf_shift(cs, level));
	gpa_t base = e & PTE_ADDR_MASK & ~low;

	if (!(cs->cr4 & X86_CR4_PAE) && level == 2) /* PSE-36: bits 20:13 are address bits 39:32 */
		base = (e & 0xffc00000) | FIELD_GET(GENMASK_ULL(20, 13), e) << 32;
	return base | (gva & low & PAGE_MASK);
}

/* --- EPT --- */

static inline bool cpu_ept_is_leaf(uint64_t e, int level)
{
	return level == 1 || (level <= 3 && (e & EPT_PAGE_SIZE));
}

/* Misconfigured, if it is present (SDM "EPT Misconfigurations"). */
static inline bool cpu_ept_entry_bad(uint64_t e, int level)
{
	uint64_t type = FIELD_GET(EPT_MEMTYPE_MASK, e);

	if ((e & (EPT_READ | EPT_WRITE)) == EPT_WRITE)
		return true;
	if (!cpu_ept_is_leaf(e, level))
		return e & (EPT_MEMTYPE_MASK | EPT_IPAT | (level >= 4 ? EPT_PAGE_SIZE : 0));
	if (type == 2 || type == 3 || type == 7)
		return true;
	return e & EPT_ADDR_MASK & ~(~0ULL << (12 + 9 * (level - 1)));
}

#endif
