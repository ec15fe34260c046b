/*
 * Where Linux has what a line of the walk-through names, and what it calls it
 * today, read off Linux 6.1's tree and the history of renames.
 */
#include "tools/trace/walk.h"

#define MAIN "virt/kvm/kvm_main.c"
#define HOST "include/linux/kvm_host.h"
#define X86  "arch/x86/kvm/x86.c"
#define MMU  "arch/x86/kvm/mmu/mmu.c"
#define MMUH "arch/x86/kvm/mmu.h"
#define TDP  "arch/x86/kvm/mmu/tdp_mmu.c"
#define VMX  "arch/x86/kvm/vmx/vmx.c"
#define NESTED "arch/x86/kvm/vmx/nested.c"
#define OPS  "arch/x86/kvm/vmx/vmx_ops.h"
#define REGS "arch/x86/kvm/kvm_cache_regs.h"

/* clang-format off */
static const struct walk_source sources[] = {
	{ TRACE_userkvm_kvm_create_vm, MAIN, NULL },
	{ TRACE_userkvm_kvm_mm, MAIN, NULL },
	{ TRACE_userkvm_kvm_alloc_memslots, MAIN, "struct kvm holds both sets (5.17)" },
	{ TRACE_userkvm_id_to_index, MAIN, "a hash, id_hash (5.17)" },
	{ TRACE_userkvm_kvm_arch_init_vm, X86, NULL },
	{ TRACE_userkvm_kvm_mmu_init_vm, MMU, NULL },
	{ TRACE_userkvm_kvm_vm_ioctl_create_vcpu, MAIN, NULL },
	{ TRACE_userkvm_kvm_arch_vcpu_create, X86, NULL },
	{ TRACE_userkvm_vmx_create_vcpu, VMX, "vmx_vcpu_create" },
	{ TRACE_userkvm_allocate_vpid, VMX, NULL },
	{ TRACE_userkvm_kvm_vcpu_init, MAIN, NULL },
	{ TRACE_userkvm_kvm_arch_vcpu_init, X86, "part of kvm_arch_vcpu_create (5.6)" },
	{ TRACE_userkvm_kvm_mmu_create, MMU, NULL },
	{ TRACE_userkvm_kvm_arch_vcpu_setup, X86, "part of kvm_arch_vcpu_create (5.6)" },
	{ TRACE_userkvm_kvm_mmu_reset_context, MMU, NULL },
	{ TRACE_userkvm_kvm_init_mmu, MMU, NULL },
	{ TRACE_userkvm_init_kvm_tdp_mmu, MMU, NULL },
	{ TRACE_userkvm_init_kvm_softmmu, MMU, NULL },
	{ TRACE_userkvm_init_kvm_nested_mmu, MMU, NULL },
	{ TRACE_userkvm_context_page_fault, MMU, "kvm_tdp_page_fault (5.8)" },
	{ TRACE_userkvm_context_direct_map, MMU, "root_role.direct (5.19)" },
	{ TRACE_userkvm_context_set_cr3, MMU, "kvm_x86_ops.load_mmu_pgd (5.7)" },
	{ TRACE_userkvm_context_get_cr3, MMU, "get_guest_pgd (5.7)" },
	{ TRACE_userkvm_kvm_vm_ioctl, MAIN, NULL },
	{ TRACE_userkvm_kvm_vm_ioctl_set_memory_region, MAIN, NULL },
	{ TRACE_userkvm_kvm_set_memory_region, MAIN, NULL },
	{ TRACE_userkvm___kvm_set_memory_region, MAIN, NULL },
	{ TRACE_userkvm_as_id, MAIN, NULL },
	{ TRACE_userkvm_slot_id, MAIN, NULL },
	{ TRACE_userkvm___kvm_memslots, HOST, NULL },
	{ TRACE_userkvm_id_to_memslot, HOST, NULL },
	{ TRACE_userkvm_kvm_set_memslot, MAIN, NULL },
	{ TRACE_userkvm_vcpu_enter_guest, X86, NULL },
	{ TRACE_userkvm_kvm_mmu_reload, MMUH, NULL },
	{ TRACE_userkvm_kvm_mmu_load, MMU, NULL },
	{ TRACE_userkvm_mmu_alloc_roots, MMU, "part of kvm_mmu_load (5.12)" },
	{ TRACE_userkvm_mmu_alloc_direct_roots, MMU, NULL },
	{ TRACE_userkvm_mmu_alloc_shadow_roots, MMU, NULL },
	{ TRACE_userkvm_kvm_mmu_get_page, MMU, "kvm_mmu_get_shadow_page; for EPT kvm_tdp_mmu_get_vcpu_root_hpa (tdp_mmu.c)" },
	{ TRACE_userkvm_kvm_mmu_alloc_page, MMU, "kvm_mmu_alloc_shadow_page; for EPT tdp_mmu_alloc_sp (tdp_mmu.c)" },
	{ TRACE_userkvm_root_hpa, MMU, "vcpu->arch.mmu->root.hpa (5.18)" },
	{ TRACE_userkvm_kvm_mmu_sync_roots, MMU, NULL },
	{ TRACE_userkvm_kvm_mmu_load_cr3, MMUH, "kvm_mmu_load_pgd (5.7)" },
	{ TRACE_userkvm_vmx_set_cr3, VMX, "vmx_load_mmu_pgd (5.7)" },
	{ TRACE_userkvm_construct_eptp, VMX, NULL },
	{ TRACE_userkvm_vmcs_write64_EPT_POINTER, OPS, NULL },
	{ TRACE_userkvm_kvm_read_cr3, REGS, NULL },
	{ TRACE_userkvm_vmcs_writel_GUEST_CR3, OPS, NULL },
	{ TRACE_userkvm_kvm_init_shadow_ept_mmu, MMU, NULL },
	{ TRACE_userkvm_handle_vmlaunch, NESTED, "handle_vmlaunch, handle_vmresume (nested.c, 5.0)" },
	{ TRACE_userkvm_nested_vmx_run, NESTED, NULL },
	{ TRACE_userkvm_nested_vmx_enter_non_root_mode, NESTED, "enter_vmx_non_root_mode before 5.0" },
	{ TRACE_userkvm_prepare_vmcs02, NESTED, NULL },
	{ TRACE_userkvm_nested_ept_init_mmu_context, NESTED, NULL },
	{ TRACE_userkvm_ept_page_fault, "arch/x86/kvm/mmu/paging_tmpl.h", "FNAME(page_fault) for EPT" },
	{ TRACE_userkvm_ept12_walk, "arch/x86/kvm/mmu/paging_tmpl.h", "FNAME(walk_addr) for EPT" },
	{ TRACE_userkvm_nested_ept_inject_page_fault, NESTED, NULL },
	{ TRACE_userkvm_nested_vmx_vmexit, NESTED, NULL },
	{ TRACE_userkvm_handle_ept_violation, VMX, NULL },
	{ TRACE_userkvm_handle_ept_misconfig, VMX, NULL },
	{ TRACE_userkvm_kvm_handle_page_fault, MMU, "behind handle_exception_nmi (vmx.c)" },
	{ TRACE_userkvm_vmcs_readl_EXIT_QUALIFICATION, VMX, "vmx_get_exit_qual" },
	{ TRACE_userkvm_arch_exit_qualification, VMX, NULL },
	{ TRACE_userkvm_kvm_mmu_page_fault, MMU, NULL },
	{ TRACE_userkvm_tdp_page_fault, MMU, "kvm_tdp_page_fault (5.8)" },
	{ TRACE_userkvm_fast_page_fault, MMU, NULL },
	{ TRACE_userkvm_kvm_faultin_page, MMU, NULL },
	{ TRACE_userkvm_kvm_tdp_mmu_map, TDP, NULL },
	{ TRACE_userkvm_shadow_page_fault, "arch/x86/kvm/mmu/paging_tmpl.h", "FNAME(page_fault)" },
	{ TRACE_userkvm_nonpaging_page_fault, MMU, NULL },
	{ TRACE_userkvm_guest_walk, "arch/x86/kvm/mmu/paging_tmpl.h", "FNAME(walk_addr)" },
	{ TRACE_userkvm_shadow_map, MMU, "mmu_set_spte, called by FNAME(fetch)" },
	{ TRACE_userkvm_ret_pf, MMU, NULL },
	{ TRACE_userkvm_x86_emulate_instruction, X86, NULL },
	{ TRACE_userkvm_exit_mmio, X86, "in emulator_read_write" },
};
/* clang-format on */

const struct walk_source *walk_source_of(unsigned event)
{
	for (size_t i = 0; i < sizeof(sources) / sizeof(sources[0]); i++)
		if ((unsigned)sources[i].event == event)
			return &sources[i];
	return NULL;
}
