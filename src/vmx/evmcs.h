/*
 * The enlightened VMCS, version 1: a VMCS with a layout that an L1 reads and writes as memory, without VMREAD and
 * VMWRITE (Hypervisor Top Level Functional Specification, "Enlightened VMCS", "HV_VMX_ENLIGHTENED_VMCS").
 *
 *	0 version | 8 host state, controls, guest state ... | 824 clean fields | 836 enlightenments | ... 1024
 *
 * Each field stands once in one of four lists, by the way it goes between it and vmcs12: F(member of vmcs12, encoding,
 * offset, clean group). L1 clears a group's bit in the clean fields when it has changed one of the group.
 */
#ifndef USERKVM_VMX_EVMCS_H
#define USERKVM_VMX_EVMCS_H

#include "vmx/vmcs12.h"

#define EVMCS_VERSION 1U
#define EVMCS_SIZE 1024U
#define EVMCS_AT_VERSION 0U
#define EVMCS_AT_CLEAN_FIELDS 824U
#define EVMCS_AT_ENLIGHTENMENTS 836U
/* Bit of the enlightenments: L1 tells by the clean fields whether it has changed the MSR bitmap itself. */
#define EVMCS_ENLIGHTENED_MSR_BITMAP BIT_ULL(1)

/* Groups of the clean fields. */
#define EVMCS_CLEAN_NONE 0ULL
#define EVMCS_CLEAN_IO_BITMAP BIT_ULL(0)
#define EVMCS_CLEAN_MSR_BITMAP BIT_ULL(1)
#define EVMCS_CLEAN_CONTROL_GRP2 BIT_ULL(2)
#define EVMCS_CLEAN_CONTROL_GRP1 BIT_ULL(3)
#define EVMCS_CLEAN_CONTROL_PROC BIT_ULL(4)
#define EVMCS_CLEAN_CONTROL_EVENT BIT_ULL(5)
#define EVMCS_CLEAN_CONTROL_ENTRY BIT_ULL(6)
#define EVMCS_CLEAN_CONTROL_EXCPN BIT_ULL(7)
#define EVMCS_CLEAN_CRDR BIT_ULL(8)
#define EVMCS_CLEAN_CONTROL_XLAT BIT_ULL(9)
#define EVMCS_CLEAN_GUEST_BASIC BIT_ULL(10)
#define EVMCS_CLEAN_GUEST_GRP1 BIT_ULL(11)
#define EVMCS_CLEAN_GUEST_GRP2 BIT_ULL(12)
#define EVMCS_CLEAN_HOST_POINTER BIT_ULL(13)
#define EVMCS_CLEAN_HOST_GRP1 BIT_ULL(14)
#define EVMCS_CLEAN_ALL GENMASK_ULL(15, 0)

/* Taken over at an entry, given back at an exit. */
#define EVMCS_BOTH_WAYS(F) \
	F(guest_es_selector, GUEST_ES_SELECTOR, 128, GUEST_GRP2) \
	F(guest_cs_selector, GUEST_CS_SELECTOR, 130, GUEST_GRP2) \
	F(guest_ss_selector, GUEST_SS_SELECTOR, 132, GUEST_GRP2) \
	F(guest_ds_selector, GUEST_DS_SELECTOR, 134, GUEST_GRP2) \
	F(guest_fs_selector, GUEST_FS_SELECTOR, 136, GUEST_GRP2) \
	F(guest_gs_selector, GUEST_GS_SELECTOR, 138, GUEST_GRP2) \
	F(guest_ldtr_selector, GUEST_LDTR_SELECTOR, 140, GUEST_GRP2) \
	F(guest_tr_selector, GUEST_TR_SELECTOR, 142, GUEST_GRP2) \
	F(guest_es_limit, GUEST_ES_LIMIT, 144, GUEST_GRP2) \
	F(guest_cs_limit, GUEST_CS_LIMIT, 148, GUEST_GRP2) \
	F(guest_ss_limit, GUEST_SS_LIMIT, 152, GUEST_GRP2) \
	F(guest_ds_limit, GUEST_DS_LIMIT, 156, GUEST_GRP2) \
	F(guest_fs_limit, GUEST_FS_LIMIT, 160, GUEST_GRP2) \
	F(guest_gs_limit, GUEST_GS_LIMIT, 164, GUEST_GRP2) \
	F(guest_ldtr_limit, GUEST_LDTR_LIMIT, 168, GUEST_GRP2) \
	F(guest_tr_limit, GUEST_TR_LIMIT, 172, GUEST_GRP2) \
	F(guest_gdtr_limit, GUEST_GDTR_LIMIT, 176, GUEST_GRP2) \
	F(guest_idtr_limit, GUEST_IDTR_LIMIT, 180, GUEST_GRP2) \
	F(guest_es_ar_bytes, GUEST_ES_AR_BYTES, 184, GUEST_GRP2) \
	F(guest_cs_ar_bytes, GUEST_CS_AR_BYTES, 188, GUEST_GRP2) \
	F(guest_ss_ar_bytes, GUEST_SS_AR_BYTES, 192, GUEST_GRP2) \
	F(guest_ds_ar_bytes, GUEST_DS_AR_BYTES, 196, GUEST_GRP2) \
	F(guest_fs_ar_bytes, GUEST_FS_AR_BYTES, 200, GUEST_GRP2) \
	F(guest_gs_ar_bytes, GUEST_GS_AR_BYTES, 204, GUEST_GRP2) \
	F(guest_ldtr_ar_bytes, GUEST_LDTR_AR_BYTES, 208, GUEST_GRP2) \
	F(guest_tr_ar_bytes, GUEST_TR_AR_BYTES, 212, GUEST_GRP2) \
	F(guest_es_base, GUEST_ES_BASE, 216, GUEST_GRP2) \
	F(guest_cs_base, GUEST_CS_BASE, 224, GUEST_GRP2) \
	F(guest_ss_base, GUEST_SS_BASE, 232, GUEST_GRP2) \
	F(guest_ds_base, GUEST_DS_BASE, 240, GUEST_GRP2) \
	F(guest_fs_base, GUEST_FS_BASE, 248, GUEST_GRP2) \
	F(guest_gs_base, GUEST_GS_BASE, 256, GUEST_GRP2) \
	F(guest_ldtr_base, GUEST_LDTR_BASE, 264, GUEST_GRP2) \
	F(guest_tr_base, GUEST_TR_BASE, 272, GUEST_GRP2) \
	F(guest_gdtr_base, GUEST_GDTR_BASE, 280, GUEST_GRP2) \
	F(guest_idtr_base, GUEST_IDTR_BASE, 288, GUEST_GRP2) \
	F(guest_ia32_pat, GUEST_IA32_PAT, 432, GUEST_GRP1) \
	F(guest_ia32_efer, GUEST_IA32_EFER, 440, GUEST_GRP1) \
	F(guest_pdptr0, GUEST_PDPTR0, 448, GUEST_GRP1) \
	F(guest_pdptr1, GUEST_PDPTR1, 456, GUEST_GRP1) \
	F(guest_pdptr2, GUEST_PDPTR2, 464, GUEST_GRP1) \
	F(guest_pdptr3, GUEST_PDPTR3, 472, GUEST_GRP1) \
	F(guest_pending_dbg_exceptions, GUEST_PENDING_DBG_EXCEPTIONS, 480, GUEST_GRP1) \
	F(guest_sysenter_esp, GUEST_SYSENTER_ESP, 488, GUEST_GRP1) \
	F(guest_sysenter_eip, GUEST_SYSENTER_EIP, 496, GUEST_GRP1) \
	F(guest_activity_state, GUEST_ACTIVITY_STATE, 504, GUEST_GRP1) \
	F(guest_sysenter_cs, GUEST_SYSENTER_CS, 508, GUEST_GRP1) \
	F(guest_cr0, GUEST_CR0, 544, CRDR) \
	F(guest_cr3, GUEST_CR3, 552, CRDR) \
	F(guest_cr4, GUEST_CR4, 560, CRDR) \
	F(guest_dr7, GUEST_DR7, 568, CRDR) \
	F(guest_rsp, GUEST_RSP, 768, GUEST_BASIC) \
	F(guest_rflags, GUEST_RFLAGS, 776, GUEST_BASIC) \
	F(guest_interruptibility_info, GUEST_INTERRUPTIBILITY_INFO, 784, GUEST_BASIC) \
	F(cpu_based_vm_exec_control, CPU_BASED_VM_EXEC_CONTROL, 788, CONTROL_PROC) \
	F(vm_entry_controls, VM_ENTRY_CONTROLS, 796, CONTROL_ENTRY) \
	F(vm_entry_intr_info_field, VM_ENTRY_INTR_INFO_FIELD, 800, CONTROL_EVENT) \
	F(vm_entry_exception_error_code, VM_ENTRY_EXCEPTION_ERROR_CODE, 804, CONTROL_EVENT) \
	F(vm_entry_instruction_len, VM_ENTRY_INSTRUCTION_LEN, 808, CONTROL_EVENT) \
	F(guest_rip, GUEST_RIP, 816, NONE) \
	F(guest_bndcfgs, GUEST_BNDCFGS, 896, GUEST_GRP1)

/* Only L1 changes them. */
#define EVMCS_FROM_L1(F) \
	F(host_es_selector, HOST_ES_SELECTOR, 8, HOST_GRP1) \
	F(host_cs_selector, HOST_CS_SELECTOR, 10, HOST_GRP1) \
	F(host_ss_selector, HOST_SS_SELECTOR, 12, HOST_GRP1) \
	F(host_ds_selector, HOST_DS_SELECTOR, 14, HOST_GRP1) \
	F(host_fs_selector, HOST_FS_SELECTOR, 16, HOST_GRP1) \
	F(host_gs_selector, HOST_GS_SELECTOR, 18, HOST_GRP1) \
	F(host_tr_selector, HOST_TR_SELECTOR, 20, HOST_GRP1) \
	F(host_ia32_pat, HOST_IA32_PAT, 24, HOST_GRP1) \
	F(host_ia32_efer, HOST_IA32_EFER, 32, HOST_GRP1) \
	F(host_cr0, HOST_CR0, 40, HOST_GRP1) \
	F(host_cr3, HOST_CR3, 48, HOST_GRP1) \
	F(host_cr4, HOST_CR4, 56, HOST_GRP1) \
	F(host_ia32_sysenter_esp, HOST_IA32_SYSENTER_ESP, 64, HOST_GRP1) \
	F(host_ia32_sysenter_eip, HOST_IA32_SYSENTER_EIP, 72, HOST_GRP1) \
	F(host_rip, HOST_RIP, 80, HOST_GRP1) \
	F(host_ia32_sysenter_cs, HOST_IA32_SYSENTER_CS, 88, HOST_GRP1) \
	F(pin_based_vm_exec_control, PIN_BASED_VM_EXEC_CONTROL, 92, CONTROL_GRP1) \
	F(vm_exit_controls, VM_EXIT_CONTROLS, 96, CONTROL_GRP1) \
	F(secondary_vm_exec_control, SECONDARY_VM_EXEC_CONTROL, 100, CONTROL_GRP1) \
	F(io_bitmap_a, IO_BITMAP_A, 104, IO_BITMAP) \
	F(io_bitmap_b, IO_BITMAP_B, 112, IO_BITMAP) \
	F(msr_bitmap, MSR_BITMAP, 120, MSR_BITMAP) \
	F(tsc_offset, TSC_OFFSET, 400, CONTROL_GRP2) \
	F(virtual_apic_page_addr, VIRTUAL_APIC_PAGE_ADDR, 408, CONTROL_GRP2) \
	F(vmcs_link_pointer, VMCS_LINK_POINTER, 416, GUEST_GRP1) \
	F(guest_ia32_debugctl, GUEST_IA32_DEBUGCTL, 424, GUEST_GRP1) \
	F(cr0_guest_host_mask, CR0_GUEST_HOST_MASK, 512, CRDR) \
	F(cr4_guest_host_mask, CR4_GUEST_HOST_MASK, 520, CRDR) \
	F(cr0_read_shadow, CR0_READ_SHADOW, 528, CRDR) \
	F(cr4_read_shadow, CR4_READ_SHADOW, 536, CRDR) \
	F(host_fs_base, HOST_FS_BASE, 576, HOST_POINTER) \
	F(host_gs_base, HOST_GS_BASE, 584, HOST_POINTER) \
	F(host_tr_base, HOST_TR_BASE, 592, HOST_POINTER) \
	F(host_gdtr_base, HOST_GDTR_BASE, 600, HOST_POINTER) \
	F(host_idtr_base, HOST_IDTR_BASE, 608, HOST_POINTER) \
	F(host_rsp, HOST_RSP, 616, HOST_POINTER) \
	F(ept_pointer, EPT_POINTER, 624, CONTROL_XLAT) \
	F(virtual_processor_id, VIRTUAL_PROCESSOR_ID, 632, CONTROL_XLAT) \
	F(exception_bitmap, EXCEPTION_BITMAP, 792, CONTROL_EXCPN) \
	F(tpr_threshold, TPR_THRESHOLD, 812, NONE) \
	F(guest_ia32_perf_global_ctrl, GUEST_IA32_PERF_GLOBAL_CTRL, 904, GUEST_GRP1) \
	F(xss_exit_bitmap, XSS_EXIT_BITMAP, 960, CONTROL_GRP2) \
	F(encls_exiting_bitmap, ENCLS_EXITING_BITMAP, 968, CONTROL_GRP2) \
	F(host_ia32_perf_global_ctrl, HOST_IA32_PERF_GLOBAL_CTRL, 976, HOST_GRP1) \
	F(tsc_multiplier, TSC_MULTIPLIER, 984, CONTROL_GRP2)

/* What an exit, or a VM entry that failed, tells. */
#define EVMCS_TO_L1(F) \
	F(guest_physical_address, GUEST_PHYSICAL_ADDRESS, 680, NONE) \
	F(vm_instruction_error, VM_INSTRUCTION_ERROR, 688, NONE) \
	F(vm_exit_reason, VM_EXIT_REASON, 692, NONE) \
	F(vm_exit_intr_info, VM_EXIT_INTR_INFO, 696, NONE) \
	F(vm_exit_intr_error_code, VM_EXIT_INTR_ERROR_CODE, 700, NONE) \
	F(idt_vectoring_info_field, IDT_VECTORING_INFO_FIELD, 704, NONE) \
	F(idt_vectoring_error_code, IDT_VECTORING_ERROR_CODE, 708, NONE) \
	F(vm_exit_instruction_len, VM_EXIT_INSTRUCTION_LEN, 712, NONE) \
	F(vmx_instruction_info, VMX_INSTRUCTION_INFO, 716, NONE) \
	F(exit_qualification, EXIT_QUALIFICATION, 720, NONE) \
	F(guest_linear_address, GUEST_LINEAR_ADDRESS, 760, NONE)

/* L1 may keep something there, and VMREAD finds it; no entry takes it over. */
#define EVMCS_UNUSED(F) \
	F(vm_exit_msr_store_addr, VM_EXIT_MSR_STORE_ADDR, 320, ALL) \
	F(vm_exit_msr_load_addr, VM_EXIT_MSR_LOAD_ADDR, 328, ALL) \
	F(vm_entry_msr_load_addr, VM_ENTRY_MSR_LOAD_ADDR, 336, ALL) \
	F(page_fault_error_code_mask, PAGE_FAULT_ERROR_CODE_MASK, 376, ALL) \
	F(page_fault_error_code_match, PAGE_FAULT_ERROR_CODE_MATCH, 380, ALL) \
	F(cr3_target_count, CR3_TARGET_COUNT, 384, ALL) \
	F(vm_exit_msr_store_count, VM_EXIT_MSR_STORE_COUNT, 388, ALL) \
	F(vm_exit_msr_load_count, VM_EXIT_MSR_LOAD_COUNT, 392, ALL) \
	F(vm_entry_msr_load_count, VM_ENTRY_MSR_LOAD_COUNT, 396, ALL)

#define EVMCS_FIELDS(F) EVMCS_BOTH_WAYS(F) EVMCS_FROM_L1(F) EVMCS_TO_L1(F) EVMCS_UNUSED(F)

/* The virtual processor's assist page: how L1 says which one it enters with (TLFS, "HV_VP_ASSIST_PAGE"). */
struct hv_vp_assist_page {
	uint32_t apic_assist, reserved1;
	uint64_t vtl_control[3];
	uint64_t nested_control;
	uint8_t enlighten_vmentry, reserved2[7];
	uint64_t current_nested_vmcs;
};
static_assert(sizeof(struct hv_vp_assist_page) == 56, "guest ABI");

#endif
