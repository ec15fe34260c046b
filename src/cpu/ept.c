/*
 * EPT: guest-physical -> host-physical, by the tables or by what is cached of
 * them; EPT violations and misconfigurations; page-modification logging (SDM
 * Vol. 3, "The Extended Page Table Mechanism").
 *
 * Invariants
 * 1. Nothing is changed before the access is known to be allowed: accessed and
 *    dirty flags are set last, by compare-exchange; a lost race walks again.
 * 2. Failing functions leave by VM exit. They do not return, but for the final access where cpu->may_leave
 *    says that its handler returns at once: then cpu->left is set, and what they give is not looked at.
 *
 * Locks: none; the tables belong to the hypervisor, who changes them under our
 * feet with single stores.
 */
#include "cpu/internal.h"
#include "cpu/pte.h"
#include "cpu/tlb_check.h"
#include "host/memory.h"
#include "sdm/ept.h"

static_assert(CPU_READ == EPT_READ && CPU_WRITE == EPT_WRITE && CPU_EXEC == EPT_EXEC,
	      "access bits are EPT's");

/* By a jump, or where the way up is one of returns, by returning. */
static void leave(struct vmx_cpu *cpu, const struct cpu_exit *e, bool final)
{
	if (!final || !cpu->may_leave)
		cpu_vmexit(cpu, e);
	cpu_save_exit(cpu, e);
	cpu->left = true;
}

static void ept_violation(struct vmx_cpu *cpu, gpa_t gpa, uint32_t access, uint32_t rights,
			  gva_t gla, bool final)
{
	struct cpu_exit e = {
		.reason = EXIT_REASON_EPT_VIOLATION,
		.qualification = access | (uint64_t)(rights & EPT_RWX) << 3,
		.gpa = gpa,
		.rip = isa_rip(&cpu->cs),
	};

	if (gla != CPU_NO_GLA) {
		e.qualification |= EPT_VIOLATION_GVA_IS_VALID;
		if (final)
			e.qualification |= EPT_VIOLATION_GVA_TRANSLATED;
		e.gla = gla;
	}
	if (cpu->iret_unblocked && !cpu->event.active)
		e.qualification |= EPT_VIOLATION_NMI_UNBLOCK;
	if (final)
		cpu_note_exit_access(cpu, access, gla, gpa);
	cpu_tlb_ept_violation(cpu, gpa, final ? gla : CPU_NO_GLA);
	leave(cpu, &e, final);
}

static void ept_misconfig(struct vmx_cpu *cpu, gpa_t gpa, uint32_t access, gva_t gla, bool final)
{
	struct cpu_exit e = {
		.reason = EXIT_REASON_EPT_MISCONFIG,
		.gpa = gpa,
		.rip = isa_rip(&cpu->cs),
	};

	if (final)
		cpu_note_exit_access(cpu, access, gla, gpa);
	leave(cpu, &e, final);
}

/* --- page-modification logging (SDM "Page-Modification Logging") --- */

#define PML_ENTRIES 512

/* Before a flag is set: no room in the log means an exit, and nothing has happened. */
static void pml_reserve(struct vmx_cpu *cpu)
{
	struct cpu_exit e = { .reason = EXIT_REASON_PML_FULL, .rip = isa_rip(&cpu->cs) };

	if ((cpu->secondary & SECONDARY_EXEC_ENABLE_PML) &&
	    unlikely((uint16_t)cpu->vmcs->GUEST_PML_INDEX >= PML_ENTRIES))
		cpu_vmexit(cpu, &e);
}

/* A dirty flag has gone from 0 to 1. */
static void pml_log(struct vmx_cpu *cpu, gpa_t gpa)
{
	uint16_t index = (uint16_t)cpu->vmcs->GUEST_PML_INDEX;

	if (!(cpu->secondary & SECONDARY_EXEC_ENABLE_PML))
		return;
	((uint64_t *)__va(cpu->vmcs->PML_ADDRESS))[index] = gpa & PAGE_MASK;
	cpu->vmcs->GUEST_PML_INDEX = (uint16_t)(index - 1);
}

/* Those that say of a present entry whether it is one that refers to a table. */
#define EPT_TABLE_BITS (EPT_RWX | EPT_MEMTYPE_MASK | EPT_IPAT | EPT_PAGE_SIZE)

/* The entries of a walk, by level - 1. */
struct ept_path {
	uint64_t *pte[5], val[5];
	int top, leaf; /* levels */
};

/* Accessed flags, and the leaf's dirty one. False: an entry has changed meanwhile. */
static bool set_ept_flags(struct vmx_cpu *cpu, const struct ept_path *w, gpa_t gpa, bool dirty)
{
	for (int l = w->top; l >= w->leaf; l--) {
		uint64_t bits = EPT_ACCESSED | (l == w->leaf && dirty ? EPT_DIRTY : 0);

		if ((w->val[l - 1] & bits) == bits)
			continue;
		pml_reserve(cpu);
		if (!cpu_entry_or(w->pte[l - 1], w->val[l - 1], bits))
			return false;
		if (bits & ~w->val[l - 1] & EPT_DIRTY)
			pml_log(cpu, gpa);
	}
	return true;
}

/*
 * One walk of the EPT tables. False: an accessed or dirty flag changed while
 * it was being set; walk again. True, and cpu->left: there is no translation.
 */
static bool ept_walk(struct vmx_cpu *cpu, gpa_t gpa, uint32_t access, gva_t gla, bool final,
		     struct cpu_ept_result *out)
{
	uint64_t *table = __va(cpu->eptp & EPTP_ROOT_MASK);
	bool ad = cpu->eptp & EPTP_AD_ENABLE, dirty = access & CPU_WRITE;
	uint64_t e, all = ~0ULL; /* bits that every entry has */
	struct ept_path w;
	int level = (int)FIELD_GET(EPTP_WALK_MASK, cpu->eptp) + 1;
	unsigned shift = 12 + 9 * (unsigned)(level - 1);

	w.top = level;
	*out = (struct cpu_ept_result){ 0 };
	if (gpa >> shift >> 9) {
		ept_violation(cpu, gpa, access, 0, gla, final);
		return true;
	}
	for (;; level--, shift -= 9) {
		uint64_t *p = &table[(gpa >> shift) & 511];

		e = __atomic_load_n(p, __ATOMIC_ACQUIRE);
		w.pte[level - 1] = p;
		w.val[level - 1] = e;
		all &= e;
		table = __va(e & EPT_ADDR_MASK);
		if (likely(level > 1 && (e & EPT_TABLE_BITS) == EPT_RWX))
			continue; /* what most entries are that refer to a table */
		if (!(e & EPT_RWX)) {
			ept_violation(cpu, gpa, access, 0, gla, final);
			return true;
		}
		if (unlikely(cpu_ept_entry_bad(e, level))) {
			ept_misconfig(cpu, gpa, access, gla, final);
			return true;
		}
		if (cpu_ept_is_leaf(e, level))
			break;
	}
	w.leaf = level;
	if (access & ~(uint32_t)all) {
		ept_violation(cpu, gpa, access, all & EPT_RWX, gla, final);
		return true;
	}
	out->rights = all & EPT_RWX;
	if (ad) {
		if ((!(all & EPT_ACCESSED) || (dirty && !(e & EPT_DIRTY))) && !set_ept_flags(cpu, &w, gpa, dirty))
			return false;
		if (!dirty && !(e & EPT_DIRTY))
			out->rights &= ~(uint32_t)CPU_WRITE;
	}
	out->host = (e & EPT_ADDR_MASK) | (gpa & PAGE_MASK & ~(~0ULL << shift));
	out->write_back = FIELD_GET(EPT_MEMTYPE_MASK, e) == MT_WRBACK;
	out->ignore_pat = e & EPT_IPAT;
	return true;
}

/* Low bits of ept_cache_entry.host, beside the rights. */
#define EPT_CACHED_WRITE_BACK BIT_ULL(3)
#define EPT_CACHED_IGNORE_PAT BIT_ULL(4)

static struct cpu_ept_result ept_cached(const struct ept_cache_entry *c)
{
	return (struct cpu_ept_result){
		.host = c->host & PAGE_MASK,
		.rights = c->host & EPT_RWX,
		.write_back = c->host & EPT_CACHED_WRITE_BACK,
		.ignore_pat = c->host & EPT_CACHED_IGNORE_PAT,
	};
}

/* By the tables, and into the cache. */
static __attribute__((noinline)) struct cpu_ept_result
ept_fill(struct vmx_cpu *cpu, gpa_t gpa, uint32_t access, gva_t gla, bool final, struct ept_cache_entry *c)
{
	struct cpu_ept_result r;

	c->tag = 0; /* gone whatever comes of the walk */
	while (!ept_walk(cpu, gpa, access, gla, final, &r))
		;
	if (unlikely(cpu->left))
		return r;
	c->tag = (gpa & PAGE_MASK) | cpu->tlb->ept_gen;
	c->host = r.host | r.rights | (r.write_back ? EPT_CACHED_WRITE_BACK : 0) |
		  (r.ignore_pat ? EPT_CACHED_IGNORE_PAT : 0);
	if (unlikely(cpu->tlb->check))
		tlb_check_ept_filled(cpu, gpa);
	return r;
}

/* Of an address that is the host's: without EPT. */
static struct cpu_ept_result ept_absent(gpa_t gpa)
{
	return (struct cpu_ept_result){
		.host = gpa & PAGE_MASK, .rights = EPT_RWX, .write_back = true, /* there are no MTRRs */
	};
}

bool cpu_ept_known(const struct vmx_cpu *cpu, gpa_t gpa, uint32_t access, struct cpu_ept_result *out)
{
	const struct ept_cache_entry *c = &cpu->tlb->ept[(gpa >> PAGE_SHIFT) & (EPT_CACHE_ENTRIES - 1)];

	if (unlikely(!(cpu->secondary & SECONDARY_EXEC_ENABLE_EPT))) {
		*out = ept_absent(gpa);
		return true;
	}
	if (c->tag != ((gpa & PAGE_MASK) | cpu->tlb->ept_gen) || (access & ~c->host))
		return false;
	*out = ept_cached(c);
	return true;
}

struct cpu_ept_result cpu_ept_translate(struct vmx_cpu *cpu, gpa_t gpa, uint32_t access, gva_t gla, bool final)
{
	struct ept_cache_entry *c = &cpu->tlb->ept[(gpa >> PAGE_SHIFT) & (EPT_CACHE_ENTRIES - 1)];

	if (unlikely(!(cpu->secondary & SECONDARY_EXEC_ENABLE_EPT)))
		return ept_absent(gpa);
	if (c->tag != ((gpa & PAGE_MASK) | cpu->tlb->ept_gen) || (access & ~c->host))
		return ept_fill(cpu, gpa, access, gla, final, c);
	if (unlikely(cpu->tlb->check))
		tlb_check_ept_used(cpu, gpa, access);
	return ept_cached(c);
}
