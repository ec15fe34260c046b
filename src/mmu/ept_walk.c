/*
 * The hypervisor's walk of EPT12, the EPT tables of an L1 (SDM Vol. 3, "The Extended
 * Page Table Mechanism"): from an L2's guest-physical address to L1's.
 *
 *	EPTP12 -> table (level 4 or 5) -> ... -> leaf (level 3, 2, 1) -> gpa of L1
 *
 * It shares nothing with the processor's walker but the formats of sdm/. Accessed and
 * dirty flags are set, where EPTP12 has them on, only after the access is known to be
 * allowed; the walk starts over when an entry changed under it.
 *
 * A walk that fails tells how the processor would have left L2: a violation with the
 * rights that were found, a misconfiguration, or, before a dirty flag is set, a page-modification
 * log of L1's that is full.
 */
#include "mmu/nested_mmu.h"
#include "sdm/ept.h"
#include "sdm/vmx.h"
#include "trace/trace.h"

/* With L1's address width. */
static enum ept_entry_kind classify(struct kvm_vcpu *vcpu, uint64_t e, int level)
{
	return ept_entry_kind(e, level, mmu_guest_ops()->get_maxphyaddr(vcpu), vcpu->mmu_vcpu->guest_mmu.ept12_execonly);
}

bool mmu_ept12_entry_valid(struct kvm_vcpu *vcpu, uint64_t e)
{
	return classify(vcpu, e, 1) == EPT_ENTRY_LEAF;
}

static gpa_t violation(gpa_t gpa, uint32_t access, uint64_t rights, struct kvm_page_fault_info *fault)
{
	uint64_t q = (rights & EPT_RWX) << 3;

	q |= access & PFERR_USER_MASK ? EPT_VIOLATION_ACC_READ : 0;
	q |= access & PFERR_WRITE_MASK ? EPT_VIOLATION_ACC_WRITE : 0;
	q |= access & PFERR_FETCH_MASK ? EPT_VIOLATION_ACC_INSTR : 0;
	if (fault)
		*fault = (struct kvm_page_fault_info){ .nested = true, .address = gpa, .exit_qualification = q };
	return INVALID_PAGE;
}

static gpa_t misconfiguration(gpa_t gpa, struct kvm_page_fault_info *fault)
{
	if (fault)
		*fault = (struct kvm_page_fault_info){ .nested = true, .misconfigured = true, .address = gpa };
	return INVALID_PAGE;
}

static unsigned acc_of(uint64_t rights)
{
	return (rights & EPT_READ ? ACC_USER_MASK : 0) | (rights & EPT_WRITE ? ACC_WRITE_MASK : 0) |
	       (rights & EPT_EXEC ? ACC_EXEC_MASK : 0);
}

static bool allowed(uint64_t rights, uint32_t access)
{
	return (!(access & PFERR_USER_MASK) || rights & EPT_READ) &&
	       (!(access & PFERR_WRITE_MASK) || rights & EPT_WRITE) &&
	       (!(access & PFERR_FETCH_MASK) || rights & EPT_EXEC);
}

/* 1 done, or not possible: read-only memory; 0 the entry changed; < 0 it cannot be reached. */
static int set_flags(struct kvm_vcpu *vcpu, gpa_t at, uint64_t *e, uint64_t set)
{
	struct kvm_entry_exchange x = { .old = *e, .val = *e | set, .size = sizeof(*e) };
	int r;

	if ((*e & set) == set || !kvm_vcpu_gpa_to_hva(vcpu, at, true))
		return 1;
	r = kvm_vcpu_exchange_guest(vcpu, at, kvm_exchange_entry, &x);
	if (r == 1)
		*e |= set;
	return r;
}

enum set_ad { AD_DONE, AD_CHANGED, AD_LOG_FULL };

/* Accessed flags on the way, the dirty flag of a leaf that is written, which L1 may want logged first. */
static enum set_ad set_ad(struct kvm_vcpu *vcpu, struct guest_walker *gw, gpa_t gpa, uint32_t access)
{
	for (int level = gw->max_level; level >= gw->level; level--) {
		uint64_t set = EPT_ACCESSED;

		if (level == gw->level && access & PFERR_WRITE_MASK)
			set |= EPT_DIRTY;
		if (set & ~gw->pte[level] & EPT_DIRTY && !mmu_guest_ops()->log_l2_write(vcpu, gpa))
			return AD_LOG_FULL;
		if (set_flags(vcpu, gw->pte_gpa[level], &gw->pte[level], set) == 0)
			return AD_CHANGED;
	}
	return AD_DONE;
}

static gpa_t log_full(gpa_t gpa, struct kvm_page_fault_info *fault)
{
	if (fault)
		*fault = (struct kvm_page_fault_info){ .nested = true, .pml_full = true, .address = gpa };
	return INVALID_PAGE;
}

/* One walk. *again: an entry changed before its flags were set. */
static gpa_t walk(struct kvm_vcpu *vcpu, gpa_t gpa, uint32_t access, struct guest_walker *gw,
		  struct kvm_page_fault_info *fault, bool *again)
{
	uint64_t eptp = vcpu->mmu_vcpu->guest_mmu.eptp12, rights = EPT_RWX, e = 0, size;
	int level = (int)FIELD_GET(EPTP_WALK_MASK, eptp) + 1;
	gpa_t table = eptp & EPTP_ROOT_MASK;
	enum ept_entry_kind kind;

	*again = false;
	gw->max_level = level;
	if (gpa >> (PAGE_SHIFT + 9 * level))
		return violation(gpa, access, 0, fault);
	for (;; level--) {
		gpa_t at = table + (gpa >> (PAGE_SHIFT + 9 * (level - 1)) & 511) * 8;

		/* a table in no memory: as Linux, a violation */
		if (kvm_vcpu_read_guest(vcpu, at, &e, sizeof(e)))
			return violation(gpa, access, 0, fault);
		kind = classify(vcpu, e, level);
		if (kind == EPT_ENTRY_ABSENT)
			return violation(gpa, access, 0, fault);
		if (kind == EPT_ENTRY_BAD)
			return misconfiguration(gpa, fault);
		rights &= e;
		gw->level = level;
		gw->table_gfn[level] = table >> PAGE_SHIFT;
		gw->pte_gpa[level] = at;
		gw->pte[level] = e;
		gw->pt_access[level] = acc_of(rights);
		if (kind == EPT_ENTRY_LEAF)
			break;
		table = e & EPT_ADDR_MASK;
	}
	if (!allowed(rights, access))
		return violation(gpa, access, rights, fault);
	if (eptp & EPTP_AD_ENABLE) {
		switch (set_ad(vcpu, gw, gpa, access)) {
		case AD_DONE:
			break;
		case AD_CHANGED:
			*again = true;
			return INVALID_PAGE;
		case AD_LOG_FULL:
			return log_full(gpa, fault);
		}
	}
	gw->pte_access = acc_of(rights);
	/* a write to a clean page has to be seen, for its dirty flag */
	if (eptp & EPTP_AD_ENABLE && !(gw->pte[level] & EPT_DIRTY))
		gw->pte_access &= ~ACC_WRITE_MASK;
	size = level_pages(level) << PAGE_SHIFT;
	gpa = (e & EPT_ADDR_MASK & ~(size - 1)) | (gpa & (size - 1));
	gw->gfn = gpa >> PAGE_SHIFT;
	return gpa;
}

gpa_t mmu_ept12_walk(struct kvm_vcpu *vcpu, gpa_t gpa, uint32_t access, struct guest_walker *gw,
		     struct kvm_page_fault_info *fault)
{
	struct guest_walker mine;
	bool again;
	gpa_t r;

	do {
		r = walk(vcpu, gpa, access, gw ? gw : &mine, fault, &again);
	} while (again);
	return r;
}
