/*
 * The identity-map page table.
 *
 * Without "unrestricted guest" a VM entry demands CR0.PE and CR0.PG (SDM Vol. 3, "Checks on Guest Control Registers,
 * Debug Registers, and MSRs"). A guest in protected mode without paging therefore runs with this table in GUEST_CR3:
 * 32-bit paging with CR4.PSE, 1,024 entries of 4 MiB, entry n leading to n * 4 MiB. A linear address is then the
 * guest-physical one, which EPT translates as always. Real mode is emulated (vmx_emulation_required()).
 *
 * Invariants
 * 1. Each entry has its accessed and dirty flags set: the processor writes none.
 * 2. The page is memory of the guest's, as it is with Linux's KVM: a guest that writes there breaks its own paging only.
 *
 * Lock: slots_lock.
 */
#include "sdm/regs.h"
#include "x86/identity_map.h"
#include "x86/private_page.h"
#include "x86/x86.h"

#define ENTRIES 1024U
#define ENTRY_SHIFT 22
/* SDM Vol. 3, "Format of a 32-Bit Page-Directory Entry that Maps a 4-MByte Page". */
#define PDE_PRESENT BIT_ULL(0)
#define PDE_WRITE BIT_ULL(1)
#define PDE_USER BIT_ULL(2)
#define PDE_ACCESSED BIT_ULL(5)
#define PDE_DIRTY BIT_ULL(6)
#define PDE_PS BIT_ULL(7)

static_assert(ENTRIES * sizeof(uint32_t) == PAGE_SIZE, "the table is a page");
static_assert((uint64_t)ENTRIES << ENTRY_SHIFT == 1ULL << 32, "the table covers all linear addresses of 32 bits");

static void fill(uint32_t *table)
{
	for (uint32_t n = 0; n < ENTRIES; n++)
		table[n] = (uint32_t)(n << ENTRY_SHIFT | PDE_PRESENT | PDE_WRITE | PDE_USER | PDE_ACCESSED | PDE_DIRTY | PDE_PS);
}

gpa_t kvm_identity_map_addr(const struct kvm *kvm)
{
	return kvm->arch->identity_map_addr ? kvm->arch->identity_map_addr : VMX_EPT_IDENTITY_PAGETABLE_ADDR;
}

int kvm_alloc_identity_map(struct kvm *kvm)
{
	struct kvm_arch *a = kvm->arch;
	int r = 0;

	if (!vmx_params()->ept || vmx_params()->unrestricted_guest)
		return 0;
	pthread_mutex_lock(&kvm->slots_lock);
	if (!a->identity_map_page) {
		r = kvm_private_page_create(kvm, IDENTITY_PAGETABLE_PRIVATE_MEMSLOT, kvm_identity_map_addr(kvm),
					    &a->identity_map_page);
		if (!r)
			fill((uint32_t *)(uintptr_t)a->identity_map_page);
	}
	pthread_mutex_unlock(&kvm->slots_lock);
	return r;
}

void kvm_free_identity_map(struct kvm *kvm)
{
	kvm_private_page_free(kvm->arch->identity_map_page);
}
