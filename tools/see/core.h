/*
 * Inside the reader of core files: a dead process's memory by its addresses, and the VM in it. Nothing that is read
 * is believed: a pointer leads into the file or to an error.
 */
#ifndef USERKVM_TOOLS_SEE_CORE_H
#define USERKVM_TOOLS_SEE_CORE_H

#include "mmu/internal.h"
#include "tools/see/see.h"

#define CORE_MAX_SLOTS 65534

struct core_vm {
	struct kvm_mmu_vm mmu;
	struct kvm kvm;
};

/* The bytes at an address of the process; NULL: not in the file. */
const void *core_at(uint64_t addr, size_t n);
bool core_copy(uint64_t addr, void *to, size_t n);
/* The memslots of an address space, one after another; false: no more. *i begins as 0. */
bool core_next_slot(const struct core_vm *v, int as, uint32_t *i, struct kvm_memory_slot *s);
/* The lines of request `walk`. */
void core_walk(FILE *f, const struct core_vm *v, int as, gpa_t gpa);

/* --- core_l2.c --- */
/* The lines of `walk2`, `ept2` (control.h) of the vCPU with that id. */
void core_walk2(FILE *f, const struct core_vm *v, uint32_t vcpu, gpa_t gpa);
void core_ept2(FILE *f, const struct core_vm *v, uint32_t vcpu);

#endif
