/*
 * Reading the path of a translation (path.h has the invariant).
 *
 * Locks: none; the processor's thread.
 */
#include "cpu/path.h"
#include "cpu/pte.h"
#include "sdm/ept.h"

/* The host's page of gpa's, if a cached guest-physical mapping allows the access; else 0. */
static hpa_t known_page(const struct vmx_cpu *cpu, gpa_t gpa, uint32_t access)
{
	struct cpu_ept_result r;

	return cpu_ept_known(cpu, gpa, access, &r) ? r.host : 0;
}

uint64_t *cpu_path_table(const struct vmx_cpu *cpu, gpa_t table)
{
	hpa_t host = known_page(cpu, table, cpu->eptp & EPTP_AD_ENABLE ? CPU_READ | CPU_WRITE : CPU_READ);

	return host == cpu->apic.access ? NULL : (uint64_t *)host;
}

uint64_t *cpu_path_root(const struct vmx_cpu *cpu)
{
	const struct cpu_state *cs = &cpu->cs;

	/* the checkers count every use of an entry */
	if (!(cs->cr0 & X86_CR0_PG) || !(cs->efer & EFER_LMA) || cpu->tlb->check || cpu->tlb->path)
		return NULL;
	return cpu_path_table(cpu, cs->cr3 & PTE_ADDR_MASK);
}

hpa_t cpu_walk_path(const struct vmx_cpu *cpu, gva_t gva, enum cpu_priv priv, struct cpu_path *out)
{
	uint64_t *table = cpu_path_root(cpu), rights = PTE_RW | PTE_US;
	bool leaf = false;

	out->nr = 0;
	for (int level = 4; table && !leaf; level--) {
		uint64_t *p = &table[(gva >> (12 + 9 * (level - 1))) & 511], e = __atomic_load_n(p, __ATOMIC_ACQUIRE);

		leaf = cpu_pte_is_leaf(&cpu->cs, e, level);
		if (~e & (PTE_P | PTE_A) || e & cpu_pte_reserved(cpu, level, leaf))
			return 0;
		rights = cpu_pte_add_rights(rights, e, leaf);
		out->p[out->nr] = p;
		out->val[out->nr++] = e;
		if (leaf && cpu_page_rights(cpu, rights, priv) & CPU_EXEC)
			return known_page(cpu, cpu_leaf_gpa(&cpu->cs, e, level, gva), CPU_EXEC);
		table = cpu_path_table(cpu, e & PTE_ADDR_MASK);
	}
	return 0;
}
