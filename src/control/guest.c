/*
 * A guest's own page tables, walked for a look: L1's through memslots, L2's through EPT12 as well.
 *
 * Guest memory is read by process_vm_readv() on ourselves: no signal when the
 * page is gone, and outside of RCU sections, since it may wait for a
 * userfaultfd. An address that has become another mapping's by then gives a
 * wrong entry in a picture, nothing else.
 */
#include <sys/uio.h>
#include <unistd.h>

#include "control/internal.h"
#include "lib/rcu.h"
#include "mmu/look.h"
#include "sdm/paging.h"
#include "sdm/regs.h"

typedef unsigned long long ull;

bool control_read_guest(struct kvm *kvm, uint32_t as_id, gpa_t gpa, void *to, size_t n)
{
	struct kvm_memory_slot *slot;
	hva_t hva = 0;
	struct iovec here = { to, n }, there = { NULL, n };

	lib_rcu_read_lock();
	slot = gfn_to_memslot_as(kvm, (int)as_id, gpa >> PAGE_SHIFT);
	if (slot)
		hva = gfn_to_hva_memslot(slot, gpa >> PAGE_SHIFT) + gpa % PAGE_SIZE;
	lib_rcu_read_unlock();
	there.iov_base = (void *)(uintptr_t)hva;
	return hva && process_vm_readv(getpid(), &here, 1, &there, 1, 0) == (ssize_t)n;
}

/* Where the walk of the guest's tables begins; false: it ends there already. */
static bool top_of(struct reply *r, const struct kvm_mmu_guest_view *g, gva_t gva, gpa_t *table,
		   int *level)
{
	unsigned i = (unsigned)(gva >> 30) & 3;

	*level = g->level == 3 ? 2 : g->level;
	*table = g->level == 2 ? g->cr3 & 0xfffff000ULL : g->cr3 & PTE_ADDR_MASK;
	if (g->level != 3)
		return true;
	reply_line(r, "pdpte %u %llx", i, (ull)g->pdptr[i]);
	*table = g->pdptr[i] & PTE_ADDR_MASK;
	if (!(g->pdptr[i] & PTE_P))
		reply_line(r, "none");
	return g->pdptr[i] & PTE_P;
}

static void guest_tables(struct reply *r, const struct guest_memory *m, const struct kvm_mmu_guest_view *g, gva_t gva)
{
	unsigned bits = g->level == 2 ? 10 : 9, size = g->level == 2 ? 4 : 8;
	bool pse = g->level > 2 || g->cr4 & X86_CR4_PSE;
	gpa_t table;
	int level;

	if (!top_of(r, g, gva, &table, &level))
		return;
	for (;; level--) {
		unsigned shift = PAGE_SHIFT + bits * (unsigned)(level - 1);
		gpa_t at = table + ((gva >> shift) & (BIT_ULL(bits) - 1)) * size;
		uint64_t e = 0, low = BIT_ULL(shift) - 1;

		reply_line(r, "at %llx", (ull)at);
		m->steps(m, r, at);
		if (!m->read(m, at, &e, size)) {
			reply_line(r, "unreadable %llx", (ull)at);
			return;
		}
		reply_line(r, "gpte %d %llx %llx", level, (ull)at, (ull)e);
		if (!(e & PTE_P)) {
			reply_line(r, "none");
			return;
		}
		table = g->level == 2 ? e & 0xfffff000ULL : e & PTE_ADDR_MASK;
		if (level == 1 || (level < 4 && pse && e & PTE_PS)) {
			if (g->level == 2 && level == 2) /* PSE-36 */
				table |= FIELD_GET(GENMASK_ULL(20, 13), e) << 32;
			low = BIT_ULL(shift) - 1;
			table = (table & ~low) | (gva & low);
			reply_line(r, "result %llx", (ull)table);
			m->steps(m, r, table);
			return;
		}
	}
}

void control_guest_walk(struct reply *r, const struct guest_memory *m, const struct kvm_mmu_guest_view *g, gva_t gva)
{
	reply_line(r, "mode %d %llx %llx %llx %llx %x %u", g->level, (ull)g->cr0, (ull)g->cr3,
		   (ull)g->cr4, (ull)g->efer, (unsigned)g->maxphyaddr, g->as_id);
	if (g->level) {
		guest_tables(r, m, g, gva);
	} else {
		reply_line(r, "result %llx", (ull)gva);
		m->steps(m, r, gva);
	}
}
