/*
 * The two-dimensional page walk: linear address -> guest-physical address
 * through the guest's tables, each of whose entries (and the final page) is
 * itself translated guest-physical -> host-physical through EPT (SDM Vol. 3,
 * "Paging", "The Extended Page Table Mechanism").
 *
 *   CR3 -> PML4E -> PDPTE -> PDE -> PTE -> page       guest tables (gpa)
 *    |       |        |       |      |      |
 *   EPT     EPT      EPT     EPT    EPT    EPT        4 loads each, or 5 (ept.c)
 *
 * Invariants
 * 1. Nothing is changed before the access is known to be allowed: accessed and
 *    dirty bits are set last, by compare-exchange; a lost race walks again.
 * 2. A fault found with the help of a cached entry is not reported before a
 *    walk without caches has found it too.
 * 3. Failing functions do not return: they raise #PF or leave by VM exit.
 *
 * Locks: none; the tables belong to the guest and the hypervisor, who change
 * them under our feet with single stores.
 */
#include "cpu/ghost.h"
#include "cpu/l1vpid.h"
#include "cpu/internal.h"
#include "cpu/path.h"
#include "cpu/pte.h"
#include "cpu/tlb_check.h"
#include "sdm/ept.h"
#include "sdm/paging.h"

/* What is being walked for, and what has been gathered on the way. */
struct walk {
	struct vmx_cpu *cpu;
	gva_t gva;
	uint32_t access;
	enum cpu_priv priv;
	bool wide; /* 8-byte entries */
	uint64_t rights; /* as for cpu_page_rights() */
	int nr;
	struct {
		void *p;
		gpa_t gpa;
		uint64_t val;
	} seen[4];
};

static void page_fault(struct walk *w, uint32_t error)
{
	struct cpu_state *cs = &w->cpu->cs;

	if (w->access & CPU_WRITE)
		error |= PFERR_WRITE_MASK;
	if (w->priv == PRIV_USER)
		error |= PFERR_USER_MASK;
	if ((w->access & CPU_EXEC) && (cpu_nx_enabled(cs) || (cs->cr4 & X86_CR4_SMEP)))
		error |= PFERR_FETCH_MASK;
	cs->exception = (struct isa_exception){
		.vector = X86_TRAP_PF,
		.has_error_code = true,
		.error_code = error,
		.payload = w->gva,
	};
	if (unlikely(w->cpu->tlb->ghost))
		ghost_fault(w->cpu, w->gva, w->access, w->priv);
	if (unlikely(w->cpu->tlb->l1vpid))
		l1vpid_fault(w->cpu, w->gva, w->access, w->priv);
	cpu_tlb_page_fault(w->cpu, w->gva);
	cs->ops->raise(cs);
}

/*
 * Access of the walk to a guest paging-structure entry. With EPT A/D flags it
 * counts as a write (SDM "Accessed and Dirty Flags for EPT").
 */
static void *entry_pointer(struct walk *w, gpa_t gpa, uint32_t access)
{
	hpa_t host;

	if (w->cpu->eptp & EPTP_AD_ENABLE)
		access = CPU_READ | CPU_WRITE;
	host = cpu_ept_translate(w->cpu, gpa, access, w->gva, false).host;
	if (unlikely(host == w->cpu->apic.access) && (w->cpu->secondary & SECONDARY_EXEC_ENABLE_EPT))
		cpu_apic_physical_exit(w->cpu);
	return (void *)(host + (gpa & ~PAGE_MASK));
}

static uint64_t read_entry(struct walk *w, gpa_t table, unsigned index)
{
	gpa_t gpa = table + index * (w->wide ? 8U : 4U);
	void *p = entry_pointer(w, gpa, CPU_READ);
	uint64_t e = w->wide ? __atomic_load_n((uint64_t *)p, __ATOMIC_ACQUIRE)
			     : __atomic_load_n((uint32_t *)p, __ATOMIC_ACQUIRE);

	w->seen[w->nr].p = p;
	w->seen[w->nr].gpa = gpa;
	w->seen[w->nr].val = e;
	w->nr++;
	return e;
}

void vmx_set_guest_maxphyaddr(struct vmx_cpu *cpu, unsigned bits)
{
	uint64_t reserved = bits < 52 ? GENMASK_ULL(51, bits) : 0;

	if (cpu->address_reserved == reserved)
		return;
	cpu->address_reserved = reserved;
	/* translations by entries that have become reserved, and the PDEs that walks remember */
	cpu_tlb_drop_vpid(cpu, INVVPID_ALL_CONTEXT, 0, 0);
}

static bool set_bits(struct walk *w, int n, uint64_t bits)
{
	uint64_t old = w->seen[n].val;

	if ((old & bits) == bits)
		return true;
	/* setting A or D is a write for EPT as well */
	w->seen[n].p = entry_pointer(w, w->seen[n].gpa, CPU_WRITE);
	w->seen[n].val |= bits;
	if (w->wide)
		return cpu_entry_or(w->seen[n].p, old, bits);
	uint32_t old32 = (uint32_t)old;
	return __atomic_compare_exchange_n((uint32_t *)w->seen[n].p, &old32,
					   old32 | (uint32_t)bits, false, __ATOMIC_SEQ_CST,
					   __ATOMIC_RELAXED);
}

static struct pde_cache_entry *pde_slot(struct vmx_cpu *cpu, gva_t gva)
{
	return &cpu->tlb->cur->pde[(gva >> 21) & (PDE_CACHE_ENTRIES - 1)];
}

/* What a completed descent says. */
struct leaf {
	uint64_t e;
	int level;
	bool cached; /* an entry of the PDE cache was used */
	bool fault;
	uint32_t error;
};

/* Go down from `level`, whose table is at `table`. */
static struct leaf descend(struct walk *w, gpa_t table, int level, bool cached)
{
	struct cpu_state *cs = &w->cpu->cs;
	unsigned bits = w->wide ? 9 : 10;
	struct leaf l = { .cached = cached };

	for (;; level--) {
		unsigned index = (unsigned)(w->gva >> (12 + bits * (unsigned)(level - 1))) &
				 ((1U << bits) - 1);
		uint64_t e = read_entry(w, table, index);
		bool leaf = cpu_pte_is_leaf(cs, e, level);

		l.fault = true;
		if (!(e & PTE_P))
			return l;
		if (e & cpu_pte_reserved(w->cpu, level, leaf)) {
			l.error = PFERR_PRESENT_MASK | PFERR_RSVD_MASK;
			return l;
		}
		l.fault = false;
		w->rights = cpu_pte_add_rights(w->rights, e, leaf);
		if (leaf) {
			l.e = e;
			l.level = level;
			return l;
		}
		table = w->wide ? e & PTE_ADDR_MASK : e & 0xfffff000;
	}
}

/* Where the walk starts: the tables of the current paging mode. */
static struct leaf walk_tables(struct walk *w)
{
	struct vmx_cpu *cpu = w->cpu;
	struct cpu_state *cs = &cpu->cs;

	w->nr = 0;
	w->rights = PTE_RW | PTE_US;
	if (!(cs->cr4 & X86_CR4_PAE))
		return descend(w, cs->cr3 & 0xfffff000, 2, false);
	if (!(cs->efer & EFER_LMA)) {
		uint64_t pdpte = cpu->pdptr[(w->gva >> 30) & 3];

		if (!(pdpte & PTE_P))
			return (struct leaf){ .fault = true };
		return descend(w, pdpte & PTE_ADDR_MASK, 2, false);
	}
	return descend(w, cs->cr3 & PTE_ADDR_MASK, 4, false);
}

static struct leaf walk_cached(struct walk *w)
{
	const struct pde_cache_entry *c = pde_slot(w->cpu, w->gva);

	/* the sanitizer wants the whole path */
	if (c->tag != (w->gva >> 21) + 1 || c->level != 1 || unlikely(w->cpu->tlb->path))
		return walk_tables(w);
	if (unlikely(w->cpu->tlb->check))
		tlb_check_pde_used(w->cpu, w->gva);
	w->nr = 0;
	w->rights = c->rights;
	return descend(w, c->e & PTE_ADDR_MASK, 1, true);
}

/* Remember the page table, or the larger page, of a finished, fully accessed descent. */
static void remember_pde(struct walk *w, const struct leaf *l)
{
	struct pde_cache_entry *c = pde_slot(w->cpu, w->gva);
	int last = l->level == 1 ? w->nr - 2 : w->nr - 1;
	uint64_t rights = PTE_RW | PTE_US;

	if (!w->wide || l->cached)
		return;
	for (int n = 0; n <= last; n++)
		rights = cpu_pte_add_rights(rights, w->seen[n].val, n == last && l->level > 1);
	c->e = w->seen[last].val;
	c->level = l->level;
	c->rights = rights;
	c->tag = (w->gva >> 21) + 1;
	if (unlikely(w->cpu->tlb->check))
		tlb_check_pde_filled(w->cpu, w->gva);
}

/* Check the access and set A and D. False: walk again. */
static bool finish(struct walk *w, const struct leaf *l, uint32_t *rights)
{
	bool dirty = w->access & CPU_WRITE;

	*rights = cpu_page_rights(w->cpu, w->rights, w->priv);
	if (w->access & ~*rights) {
		if (l->cached)
			return false;
		page_fault(w, PFERR_PRESENT_MASK |
			      (w->access & cpu_pte_forbidden(w->cpu, w->rights, w->priv) ? PFERR_PK_MASK : 0));
	}
	for (int n = 0; n < w->nr; n++) {
		bool last = n == w->nr - 1;

		if (!set_bits(w, n, PTE_A | (last && dirty ? PTE_D : 0)))
			return false;
	}
	if (!dirty && !(l->e & PTE_D))
		*rights &= ~(uint32_t)CPU_WRITE;
	return true;
}

/* SDM Vol. 3, "Selecting a Memory Type from the PAT" */
static uint8_t pat_type(const struct vmx_cpu *cpu, uint64_t e, int level)
{
	unsigned entry = (e & PTE_PWT ? 1 : 0) | (e & PTE_PCD ? 2 : 0) |
			 (e & (level == 1 ? PTE_PAT : PTE_PAT_LARGE) ? 4 : 0);

	return (uint8_t)(cpu->pat >> (8 * entry));
}

/* All of `out` that follows from the entry that maps the page, and from the combined bits; not its host address and rights. */
static void describe(struct vmx_cpu *cpu, gva_t gva, uint64_t e, int level, uint64_t bits,
		     struct cpu_walk_result *out)
{
	out->key = bits & PTE_US ? (uint16_t)(1U << FIELD_GET(PTE_PKEY_MASK, bits)) : 0;
	out->gpa = cpu_leaf_gpa(&cpu->cs, e, level, gva);
	out->page_shift = cpu_leaf_shift(&cpu->cs, level);
	out->global = (e & PTE_G) && (cpu->cs.cr4 & X86_CR4_PGE);
	out->write_back = pat_type(cpu, e, level) == MT_WRBACK;
}

/* By a larger page that is known. False: it is not, or does not allow the access, or D is still to be set. */
static bool walk_larger(struct vmx_cpu *cpu, gva_t gva, uint32_t access, enum cpu_priv priv,
		       struct cpu_walk_result *out)
{
	const struct pde_cache_entry *c = pde_slot(cpu, gva);
	uint32_t rights;

	if (c->tag != (gva >> 21) + 1 || c->level == 1 || unlikely(cpu->tlb->path))
		return false;
	rights = cpu_page_rights(cpu, c->rights, priv);
	if (!(c->e & PTE_D))
		rights &= ~(uint32_t)CPU_WRITE;
	if (access & ~rights)
		return false;
	if (unlikely(cpu->tlb->check))
		tlb_check_pde_used(cpu, gva);
	out->rights = rights;
	describe(cpu, gva, c->e, c->level, c->rights, out);
	return true;
}

/* The path of a finished descent, for the sanitizer of translations. */
static void note_path(struct walk *w, const struct leaf *l)
{
	const struct cpu_state *cs = &w->cpu->cs;
	struct ghost_walk *g = w->cpu->tlb->path;

	g->nr = 0;
	g->rights = w->rights;
	g->leaf = w->seen[w->nr - 1].val;
	if ((cs->cr4 & X86_CR4_PAE) && !(cs->efer & EFER_LMA)) {
		unsigned index = (w->gva >> 30) & 3;

		g->gpa[0] = (cs->cr3 & 0xffffffe0) + index * 8;
		g->host[0] = (hpa_t)entry_pointer(w, g->gpa[0], CPU_READ);
		g->val[0] = w->cpu->pdptr[index];
		g->nr = 1;
	}
	for (int n = 0; n < w->nr; n++, g->nr++) {
		g->gpa[g->nr] = w->seen[n].gpa;
		g->host[g->nr] = (hpa_t)w->seen[n].p;
		g->val[g->nr] = w->seen[n].val;
	}
}

static void walk_paged(struct vmx_cpu *cpu, gva_t gva, uint32_t access, enum cpu_priv priv,
		       struct cpu_walk_result *out)
{
	struct walk w = {
		.cpu = cpu, .gva = gva, .access = access, .priv = priv,
		.wide = cpu->cs.cr4 & X86_CR4_PAE,
	};
	struct leaf l = walk_cached(&w);

	for (;;) {
		if (!l.fault && finish(&w, &l, &out->rights))
			break;
		if (l.fault && !l.cached)
			page_fault(&w, l.error);
		pde_slot(cpu, gva)->tag = 0;
		l = walk_tables(&w);
	}
	remember_pde(&w, &l);
	if (unlikely(cpu->tlb->path))
		note_path(&w, &l);
	describe(cpu, gva, l.e, l.level, w.rights, out);
}

void cpu_walk(struct vmx_cpu *cpu, gva_t gva, uint32_t access, enum cpu_priv priv,
	      struct cpu_walk_result *out)
{
	struct cpu_ept_result r;

	if (cpu->cs.cr0 & X86_CR0_PG) {
		if (!walk_larger(cpu, gva, access, priv, out))
			walk_paged(cpu, gva, access, priv, out);
	} else {
		out->gpa = gva & PAGE_MASK;
		out->rights = CPU_READ | CPU_WRITE | CPU_EXEC;
		out->page_shift = 12;
		out->global = false;
		out->key = 0;
		out->write_back = true;
	}
	r = cpu_ept_translate(cpu, out->gpa | (gva & ~PAGE_MASK), access, gva, true);
	out->host = r.host;
	out->rights &= r.rights;
	/* SDM "Memory Type Used for Translated Guest-Physical Addresses" */
	out->write_back = r.write_back && (r.ignore_pat || out->write_back);
}

/* Down to the entry that maps gva, by entries whose accessed flags are set; the PDE is remembered. 0: no such way. */
static int find_leaf(struct vmx_cpu *cpu, gva_t gva, uint64_t *leaf, uint64_t *rights)
{
	struct pde_cache_entry *c = pde_slot(cpu, gva);
	uint64_t tag = (gva >> 21) + 1, *table;
	int level = 4;

	if (c->tag == tag) {
		*rights = c->rights;
		*leaf = c->e;
		if (c->level > 1)
			return c->level;
		table = cpu_path_table(cpu, c->e & PTE_ADDR_MASK);
		level = 1;
	} else {
		*rights = PTE_RW | PTE_US;
		table = cpu_path_root(cpu);
	}
	for (; table; level--) {
		uint64_t e = __atomic_load_n(&table[(gva >> (12 + 9 * (level - 1))) & 511], __ATOMIC_ACQUIRE);
		bool last = cpu_pte_is_leaf(&cpu->cs, e, level);

		if (~e & (PTE_P | PTE_A) || e & cpu_pte_reserved(cpu, level, last))
			return 0;
		*rights = cpu_pte_add_rights(*rights, e, last);
		if (level == 2 || (level == 3 && last))
			*c = (struct pde_cache_entry){ .tag = tag, .e = e, .rights = *rights, .level = last ? level : 1 };
		*leaf = e;
		if (last)
			return level;
		table = cpu_path_table(cpu, e & PTE_ADDR_MASK);
	}
	return 0;
}

bool cpu_walk_known(struct vmx_cpu *cpu, gva_t gva, uint32_t access, enum cpu_priv priv,
		    struct cpu_walk_result *out)
{
	const struct cpu_state *cs = &cpu->cs;
	struct cpu_ept_result r;
	uint64_t e, bits;
	int level;

	if (!(cs->cr0 & X86_CR0_PG) || !(cs->efer & EFER_LMA))
		return false;
	level = find_leaf(cpu, gva, &e, &bits);
	if (!level)
		return false;
	out->rights = cpu_page_rights(cpu, bits, priv);
	if (!(e & PTE_D))
		out->rights &= ~(uint32_t)CPU_WRITE;
	if (access & ~out->rights)
		return false;
	describe(cpu, gva, e, level, bits, out);
	if (!cpu_ept_known(cpu, out->gpa, access, &r))
		return false;
	out->host = r.host;
	out->rights &= r.rights;
	out->write_back = r.write_back && (r.ignore_pat || out->write_back);
	return true;
}

/* --- PDPTEs --- */

#define PDPTE_RESERVED (GENMASK_ULL(2, 1) | GENMASK_ULL(8, 5) | GENMASK_ULL(63, 52))

bool cpu_load_pdptrs(struct vmx_cpu *cpu, uint64_t cr3)
{
	gpa_t table = cr3 & 0xffffffe0;
	struct cpu_ept_result r;
	uint64_t v[4];

	r = cpu_ept_translate(cpu, table, CPU_READ, CPU_NO_GLA, false);
	if (unlikely(r.host == cpu->apic.access) && (cpu->secondary & SECONDARY_EXEC_ENABLE_EPT))
		cpu_apic_physical_exit(cpu);
	for (unsigned n = 0; n < 4; n++) {
		v[n] = READ_ONCE(((uint64_t *)(r.host + (table & ~PAGE_MASK)))[n]);
		if ((v[n] & PTE_P) && (v[n] & (PDPTE_RESERVED | cpu->address_reserved)))
			return false;
	}
	for (unsigned n = 0; n < 4; n++)
		cpu->pdptr[n] = v[n];
	return true;
}
