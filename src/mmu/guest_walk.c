/*
 * The hypervisor's own walk of the guest's page tables, for instructions it
 * emulates (SDM Vol. 3, "Paging"; "Access Rights"; "Page-Fault Exceptions").
 *
 * It shares nothing with the processor's walker but the formats of sdm/, so
 * that each can check the other. Tables are read through the memslots; accessed
 * and dirty bits are set by compare-exchange, as the processor does, and the
 * walk starts over when an entry changed under it.
 *
 * Not here: 5-level paging; no guest is offered it.
 */
#include "mmu/nested_mmu.h"
#include "sdm/regs.h"
#include "trace/trace.h"

/* How the guest pages, read once a walk. */
struct walk_mode {
	int level;     /* 2, 3, 4 */
	int bits;      /* of index in each table: 10 or 9 */
	int entry_size;
	bool wp, nx, smep, smap, pse, pke;
	int maxphyaddr;
};

struct walk {
	struct kvm_vcpu *vcpu;
	struct walk_mode m;
	gva_t gva;
	uint32_t access; /* PFERR_USER, WRITE, FETCH */
	bool implicit;
	struct kvm_page_fault_info *exception;
	struct guest_walker *gw; /* may be NULL */
};

/* A walk's result when a table entry changed under it. */
#define WALK_AGAIN (INVALID_PAGE - 1)

static gpa_t page_fault(struct walk *w, uint32_t why)
{
	uint32_t code = why | (w->access & (PFERR_WRITE_MASK | PFERR_USER_MASK));

	if (w->access & PFERR_FETCH_MASK && (w->m.nx || w->m.smep))
		code |= PFERR_FETCH_MASK;
	TRACE(kvmmmu, kvm_mmu_walker_error, code);
	if (w->exception)
		*w->exception = (struct kvm_page_fault_info){
			.vector = X86_TRAP_PF, .error_code = (uint16_t)code, .address = w->gva
		};
	return INVALID_PAGE;
}

static void read_mode(struct kvm_vcpu *vcpu, struct walk_mode *m)
{
	const struct kvm_mmu_guest_ops *g = mmu_guest_ops();
	uint64_t cr4 = g->get_cr4(vcpu);

	m->level = vcpu->walk_mmu->guest_level;
	m->bits = m->level == 2 ? 10 : 9;
	m->entry_size = m->level == 2 ? 4 : 8;
	m->wp = g->get_cr0(vcpu) & X86_CR0_WP;
	m->nx = m->level > 2 && g->get_efer(vcpu) & EFER_NX;
	m->smep = cr4 & X86_CR4_SMEP;
	m->smap = cr4 & X86_CR4_SMAP;
	m->pse = m->level > 2 || cr4 & X86_CR4_PSE;
	m->pke = cr4 & X86_CR4_PKE && m->level > 3;
	m->maxphyaddr = g->get_maxphyaddr(vcpu);
}

/* Bits that must be zero in a present entry of this level. */
static uint64_t reserved_bits(const struct walk_mode *m, int level, bool leaf)
{
	uint64_t high = m->maxphyaddr < 52 ? GENMASK_ULL(51, m->maxphyaddr) : 0;
	uint64_t rsvd;

	if (m->level == 2) {
		/* PSE-36: bits 20..13 are address bits 39..32. */
		if (level != 2 || !leaf)
			return 0;
		rsvd = BIT_ULL(21);
		if (m->maxphyaddr < 40)
			rsvd |= GENMASK_ULL(20, 13) & ~((BIT_ULL(m->maxphyaddr - 32) - 1) << 13);
		return rsvd;
	}
	rsvd = high | (m->nx ? 0 : PTE_XD);
	if (m->level == 3)
		rsvd |= GENMASK_ULL(62, 52);
	if (level == 4)
		rsvd |= PTE_PS;
	if (leaf && level > 1)
		rsvd |= GENMASK_ULL(PAGE_SHIFT + 9 * (level - 1) - 1, 13);
	return rsvd;
}

/* Would the access be refused by the rights collected on the way? (SDM "Determination of Access Rights") */
static bool refused(const struct walk *w, bool user_page, bool writable, bool no_exec)
{
	const struct walk_mode *m = &w->m;
	bool user = w->access & PFERR_USER_MASK;

	if (user && !user_page)
		return true;
	if (w->access & PFERR_FETCH_MASK)
		return no_exec || (!user && user_page && m->smep);
	if (!user && user_page && m->smap &&
	    (w->implicit || !(mmu_guest_ops()->get_rflags(w->vcpu) & X86_FLAGS_AC)))
		return true;
	return w->access & PFERR_WRITE_MASK && !writable && (user || m->wp);
}

/* Would PKRU refuse the access to a page with this leaf? */
static bool refused_by_key(const struct walk *w, bool user_page, uint64_t leaf)
{
	if (likely(!w->m.pke) || !user_page || w->access & PFERR_FETCH_MASK)
		return false;
	return pkru_forbids(mmu_guest_ops()->get_pkru(w->vcpu), leaf, w->access & PFERR_WRITE_MASK,
			    w->access & PFERR_USER_MASK, w->m.wp);
}

static bool is_nested(const struct walk *w)
{
	return unlikely(w->vcpu->walk_mmu != w->vcpu->mmu);
}

static int read_entry(struct walk *w, gpa_t gpa, uint64_t *e)
{
	*e = 0;
	return kvm_vcpu_read_guest(w->vcpu, gpa, e, (size_t)w->m.entry_size);
}

/* 1 done (or not possible: read-only memory), 0 the entry changed, < 0 unreadable. */
static int set_bits(struct walk *w, gpa_t gpa, uint64_t e, uint64_t set)
{
	struct kvm_entry_exchange x = { .old = e, .val = e | set, .size = w->m.entry_size };
	int r;

	if ((e & set) == set || !kvm_vcpu_gpa_to_hva(w->vcpu, gpa, true))
		return 1;
	r = kvm_vcpu_exchange_guest(w->vcpu, gpa, kvm_exchange_entry, &x);
	if (r == 1) {
		if (set & PTE_D)
			TRACE(kvmmmu, kvm_mmu_set_dirty_bit, gpa);
		else
			TRACE(kvmmmu, kvm_mmu_set_accessed_bit, gpa);
	}
	return r;
}

static gpa_t leaf_gpa(const struct walk *w, uint64_t e, int level)
{
	unsigned shift = PAGE_SHIFT + (unsigned)(w->m.bits * (level - 1));
	uint64_t base = e & PTE_ADDR_MASK;

	if (w->m.level == 2) {
		base = e & 0xfffff000ULL;
		if (level == 2)
			base |= FIELD_GET(GENMASK_ULL(20, 13), e) << 32;
	}
	base &= ~(BIT_ULL(shift) - 1) | (w->m.level == 2 ? GENMASK_ULL(39, 32) : 0);
	return base | (w->gva & (BIT_ULL(shift) - 1));
}

static unsigned rights(bool user, bool writable, bool no_exec)
{
	return (user ? ACC_USER_MASK : 0) | (writable ? ACC_WRITE_MASK : 0) |
	       (no_exec ? 0 : ACC_EXEC_MASK);
}

/* Down from the table at `table` (level `level`). */
static gpa_t walk_tables(struct walk *w, gpa_t table, int level)
{
	bool user = true, writable = true, no_exec = false;
	struct guest_walker *gw = w->gw;

	if (gw)
		gw->max_level = level;
	for (;; level--) {
		unsigned shift = PAGE_SHIFT + (unsigned)(w->m.bits * (level - 1));
		uint64_t index = (w->gva >> shift) & (BIT_ULL(w->m.bits) - 1);
		gpa_t at = table + index * (uint64_t)w->m.entry_size, page;
		uint64_t e, set = PTE_A;
		bool leaf;
		int r;

		/* L2's tables are at guest-physical addresses of L2 */
		if (is_nested(w)) {
			at = translate_nested_gpa(w->vcpu, at, w->gva, 0, false, w->exception);
			if (at == INVALID_PAGE)
				return at;
		}
		if (read_entry(w, at, &e) || !(e & PTE_P))
			return page_fault(w, 0);
		TRACE(kvmmmu, kvm_mmu_paging_element, e, (uint32_t)level);
		leaf = level == 1 || (level < 4 && w->m.pse && e & PTE_PS);
		if (e & reserved_bits(&w->m, level, leaf))
			return page_fault(w, PFERR_PRESENT_MASK | PFERR_RSVD_MASK);
		user &= (e & PTE_US) != 0;
		writable &= (e & PTE_RW) != 0;
		no_exec |= w->m.nx && e & PTE_XD;
		if (leaf) {
			bool by_key = refused_by_key(w, user, e);

			if (by_key || refused(w, user, writable, no_exec))
				return page_fault(w, by_key ? PFERR_PRESENT_MASK | PFERR_PK_MASK : PFERR_PRESENT_MASK);
			if (w->access & PFERR_WRITE_MASK)
				set |= PTE_D;
		}
		r = set_bits(w, at, e, set);
		if (r < 0)
			return page_fault(w, 0);
		if (r == 0)
			return WALK_AGAIN;
		if (gw) {
			gw->level = level;
			gw->table_gfn[level] = table >> PAGE_SHIFT;
			gw->pte_gpa[level] = at;
			gw->pte[level] = e | set;
			gw->pt_access[level] = rights(user, writable, no_exec);
		}
		if (leaf && gw) {
			gw->gfn = leaf_gpa(w, e, level) >> PAGE_SHIFT;
			gw->pte_access = rights(user, writable && (e | set) & PTE_D, no_exec);
		}
		if (leaf) {
			page = leaf_gpa(w, e, level);
			return is_nested(w) ? translate_nested_gpa(w->vcpu, page, w->gva, w->access, true, w->exception)
					    : page;
		}
		table = e & (w->m.level == 2 ? 0xfffff000ULL : PTE_ADDR_MASK);
	}
}

/* PAE: the four top entries are registers, loaded with CR3. */
static gpa_t walk_pae(struct walk *w)
{
	uint64_t pdpte = mmu_guest_ops()->get_pdptr(w->vcpu, (int)((w->gva >> 30) & 3));

	if (!(pdpte & PTE_P))
		return page_fault(w, 0);
	return walk_tables(w, pdpte & PTE_ADDR_MASK, 2);
}

gpa_t mmu_guest_walk(struct kvm_vcpu *vcpu, gva_t gva, uint32_t access, struct guest_walker *gw,
		     struct kvm_page_fault_info *exception)
{
	struct walk w = { .vcpu = vcpu, .gva = gva, .access = access, .exception = exception,
			  .gw = gw };
	gpa_t gpa;

	TRACE(kvmmmu, kvm_mmu_pagetable_walk, gva, access);
	read_mode(vcpu, &w.m);
	/* A supervisor access of user code is one to a descriptor table or a TSS. */
	w.implicit = !(access & PFERR_USER_MASK) && mmu_guest_ops()->get_cpl(vcpu) == 3;
	do {
		uint64_t cr3 = vcpu->walk_mmu->get_cr3(vcpu);

		if (w.m.level == 3)
			gpa = walk_pae(&w);
		else if (w.m.level == 2)
			gpa = walk_tables(&w, cr3 & 0xfffff000ULL, 2);
		else
			gpa = walk_tables(&w, cr3 & PTE_ADDR_MASK, 4);
	} while (gpa == WALK_AGAIN);
	return gpa;
}

gpa_t paging_gva_to_gpa(struct kvm_vcpu *vcpu, gva_t gva, uint32_t access,
			struct kvm_page_fault_info *exception)
{
	return mmu_guest_walk(vcpu, gva, access, NULL, exception);
}

bool mmu_guest_walk_changed(struct kvm_vcpu *vcpu, const struct guest_walker *gw, int level)
{
	size_t size = vcpu->mmu->guest_level == 2 ? 4 : 8;
	uint64_t e = 0;

	return kvm_vcpu_read_guest(vcpu, gw->pte_gpa[level], &e, size) || e != gw->pte[level];
}

bool mmu_guest_pte_valid(struct kvm_vcpu *vcpu, uint64_t pte)
{
	struct walk_mode m;

	read_mode(vcpu, &m);
	return !(pte & reserved_bits(&m, 1, true));
}

gpa_t nonpaging_gva_to_gpa(struct kvm_vcpu *vcpu, gva_t gva, uint32_t access,
			   struct kvm_page_fault_info *exception)
{
	return gva;
}
