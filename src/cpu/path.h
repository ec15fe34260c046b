/*
 * The path of a translation: the entries by which a linear address is translated. A processor that flushes its TLB
 * and finds the same path need not ask again where it leads.
 *
 * Invariant: a path lasts while its entries have the values that they had and no guest-physical mapping is dropped
 * (tlb_sub.code_gen, cpu_tlb.path_gen).
 *
 * Locks: none; all of it belongs to the processor's thread. Entries are read from guest memory, which may vanish.
 */
#ifndef USERKVM_CPU_PATH_H
#define USERKVM_CPU_PATH_H

#include "cpu/internal.h"

/* Of tables of four levels, the PML4E first. */
struct cpu_path {
	uint64_t *p[4];
	uint64_t val[4];
	uint8_t nr; /* 0: none */
};

/*
 * The path by which `priv` may execute at gva now, and the host's address of its 4 KiB page. Changes nothing and
 * raises nothing: 0 where a fetch might fault, exit or set a flag, or where the tables are not of four levels.
 */
hpa_t cpu_walk_path(const struct vmx_cpu *cpu, gva_t gva, enum cpu_priv priv, struct cpu_path *out);
/* The root table that CR3 selects; NULL: nothing has a path. */
uint64_t *cpu_path_root(const struct vmx_cpu *cpu);
/* A table of the guest's, by what is known of guest-physical addresses (as entry_pointer() in walk.c); NULL: it is not known. */
uint64_t *cpu_path_table(const struct vmx_cpu *cpu, gpa_t table);
/* Does the path, from this root on, lead where it led? */
static inline bool cpu_path_same(const struct cpu_path *path, const uint64_t *root, gva_t gva)
{
	if (!path->nr || READ_ONCE(root[(gva >> 39) & 511]) != path->val[0])
		return false;
	for (unsigned n = 1; n < path->nr; n++)
		if (READ_ONCE(*path->p[n]) != path->val[n])
			return false;
	return true;
}

#endif
