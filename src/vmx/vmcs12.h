/*
 * vmcs12: the VMCS that L1 makes for its L2, as it lies in L1's memory. Opaque to
 * L1, which reads and writes it by VMREAD and VMWRITE; an ABI between hypervisors
 * all the same: the layout and the revision identifier are those of Linux's KVM, so
 * that a state saved here (KVM_GET_NESTED_STATE) loads there and back.
 *
 *	  0 revision | 4 abort | 8 launch state | 40 ... fields, by width ... | 998
 *
 * Each field stands once in VMCS12_FIELDS(F): F(member, encoding, offset, type).
 */
#ifndef USERKVM_VMX_VMCS12_H
#define USERKVM_VMX_VMCS12_H

#include "lib/types.h"
#include "sdm/vmcs_fields.h"

#define VMCS12_REVISION 0x11e57ed0U
#define VMCS12_SIZE 4096U
/* Bit 31 of the revision: a shadow VMCS (SDM "VMCS Data"). */
#define VMCS12_SHADOW BIT_ULL(31)

#define VMCS12_FIELDS(F) \
	F(io_bitmap_a, IO_BITMAP_A, 40, uint64_t) \
	F(io_bitmap_b, IO_BITMAP_B, 48, uint64_t) \
	F(msr_bitmap, MSR_BITMAP, 56, uint64_t) \
	F(vm_exit_msr_store_addr, VM_EXIT_MSR_STORE_ADDR, 64, uint64_t) \
	F(vm_exit_msr_load_addr, VM_EXIT_MSR_LOAD_ADDR, 72, uint64_t) \
	F(vm_entry_msr_load_addr, VM_ENTRY_MSR_LOAD_ADDR, 80, uint64_t) \
	F(tsc_offset, TSC_OFFSET, 88, uint64_t) \
	F(virtual_apic_page_addr, VIRTUAL_APIC_PAGE_ADDR, 96, uint64_t) \
	F(apic_access_addr, APIC_ACCESS_ADDR, 104, uint64_t) \
	F(posted_intr_desc_addr, POSTED_INTR_DESC_ADDR, 112, uint64_t) \
	F(ept_pointer, EPT_POINTER, 120, uint64_t) \
	F(eoi_exit_bitmap0, EOI_EXIT_BITMAP0, 128, uint64_t) \
	F(eoi_exit_bitmap1, EOI_EXIT_BITMAP1, 136, uint64_t) \
	F(eoi_exit_bitmap2, EOI_EXIT_BITMAP2, 144, uint64_t) \
	F(eoi_exit_bitmap3, EOI_EXIT_BITMAP3, 152, uint64_t) \
	F(xss_exit_bitmap, XSS_EXIT_BITMAP, 160, uint64_t) \
	F(guest_physical_address, GUEST_PHYSICAL_ADDRESS, 168, uint64_t) \
	F(vmcs_link_pointer, VMCS_LINK_POINTER, 176, uint64_t) \
	F(guest_ia32_debugctl, GUEST_IA32_DEBUGCTL, 184, uint64_t) \
	F(guest_ia32_pat, GUEST_IA32_PAT, 192, uint64_t) \
	F(guest_ia32_efer, GUEST_IA32_EFER, 200, uint64_t) \
	F(guest_ia32_perf_global_ctrl, GUEST_IA32_PERF_GLOBAL_CTRL, 208, uint64_t) \
	F(guest_pdptr0, GUEST_PDPTR0, 216, uint64_t) \
	F(guest_pdptr1, GUEST_PDPTR1, 224, uint64_t) \
	F(guest_pdptr2, GUEST_PDPTR2, 232, uint64_t) \
	F(guest_pdptr3, GUEST_PDPTR3, 240, uint64_t) \
	F(guest_bndcfgs, GUEST_BNDCFGS, 248, uint64_t) \
	F(host_ia32_pat, HOST_IA32_PAT, 256, uint64_t) \
	F(host_ia32_efer, HOST_IA32_EFER, 264, uint64_t) \
	F(host_ia32_perf_global_ctrl, HOST_IA32_PERF_GLOBAL_CTRL, 272, uint64_t) \
	F(vmread_bitmap, VMREAD_BITMAP, 280, uint64_t) \
	F(vmwrite_bitmap, VMWRITE_BITMAP, 288, uint64_t) \
	F(vm_function_control, VM_FUNCTION_CONTROL, 296, uint64_t) \
	F(eptp_list_address, EPTP_LIST_ADDRESS, 304, uint64_t) \
	F(pml_address, PML_ADDRESS, 312, uint64_t) \
	F(encls_exiting_bitmap, ENCLS_EXITING_BITMAP, 320, uint64_t) \
	F(tsc_multiplier, TSC_MULTIPLIER, 328, uint64_t) \
	F(cr0_guest_host_mask, CR0_GUEST_HOST_MASK, 344, uint64_t) \
	F(cr4_guest_host_mask, CR4_GUEST_HOST_MASK, 352, uint64_t) \
	F(cr0_read_shadow, CR0_READ_SHADOW, 360, uint64_t) \
	F(cr4_read_shadow, CR4_READ_SHADOW, 368, uint64_t) \
	F(exit_qualification, EXIT_QUALIFICATION, 408, uint64_t) \
	F(guest_linear_address, GUEST_LINEAR_ADDRESS, 416, uint64_t) \
	F(guest_cr0, GUEST_CR0, 424, uint64_t) \
	F(guest_cr3, GUEST_CR3, 432, uint64_t) \
	F(guest_cr4, GUEST_CR4, 440, uint64_t) \
	F(guest_es_base, GUEST_ES_BASE, 448, uint64_t) \
	F(guest_cs_base, GUEST_CS_BASE, 456, uint64_t) \
	F(guest_ss_base, GUEST_SS_BASE, 464, uint64_t) \
	F(guest_ds_base, GUEST_DS_BASE, 472, uint64_t) \
	F(guest_fs_base, GUEST_FS_BASE, 480, uint64_t) \
	F(guest_gs_base, GUEST_GS_BASE, 488, uint64_t) \
	F(guest_ldtr_base, GUEST_LDTR_BASE, 496, uint64_t) \
	F(guest_tr_base, GUEST_TR_BASE, 504, uint64_t) \
	F(guest_gdtr_base, GUEST_GDTR_BASE, 512, uint64_t) \
	F(guest_idtr_base, GUEST_IDTR_BASE, 520, uint64_t) \
	F(guest_dr7, GUEST_DR7, 528, uint64_t) \
	F(guest_rsp, GUEST_RSP, 536, uint64_t) \
	F(guest_rip, GUEST_RIP, 544, uint64_t) \
	F(guest_rflags, GUEST_RFLAGS, 552, uint64_t) \
	F(guest_pending_dbg_exceptions, GUEST_PENDING_DBG_EXCEPTIONS, 560, uint64_t) \
	F(guest_sysenter_esp, GUEST_SYSENTER_ESP, 568, uint64_t) \
	F(guest_sysenter_eip, GUEST_SYSENTER_EIP, 576, uint64_t) \
	F(host_cr0, HOST_CR0, 584, uint64_t) \
	F(host_cr3, HOST_CR3, 592, uint64_t) \
	F(host_cr4, HOST_CR4, 600, uint64_t) \
	F(host_fs_base, HOST_FS_BASE, 608, uint64_t) \
	F(host_gs_base, HOST_GS_BASE, 616, uint64_t) \
	F(host_tr_base, HOST_TR_BASE, 624, uint64_t) \
	F(host_gdtr_base, HOST_GDTR_BASE, 632, uint64_t) \
	F(host_idtr_base, HOST_IDTR_BASE, 640, uint64_t) \
	F(host_ia32_sysenter_esp, HOST_IA32_SYSENTER_ESP, 648, uint64_t) \
	F(host_ia32_sysenter_eip, HOST_IA32_SYSENTER_EIP, 656, uint64_t) \
	F(host_rsp, HOST_RSP, 664, uint64_t) \
	F(host_rip, HOST_RIP, 672, uint64_t) \
	F(pin_based_vm_exec_control, PIN_BASED_VM_EXEC_CONTROL, 744, uint32_t) \
	F(cpu_based_vm_exec_control, CPU_BASED_VM_EXEC_CONTROL, 748, uint32_t) \
	F(exception_bitmap, EXCEPTION_BITMAP, 752, uint32_t) \
	F(page_fault_error_code_mask, PAGE_FAULT_ERROR_CODE_MASK, 756, uint32_t) \
	F(page_fault_error_code_match, PAGE_FAULT_ERROR_CODE_MATCH, 760, uint32_t) \
	F(cr3_target_count, CR3_TARGET_COUNT, 764, uint32_t) \
	F(vm_exit_controls, VM_EXIT_CONTROLS, 768, uint32_t) \
	F(vm_exit_msr_store_count, VM_EXIT_MSR_STORE_COUNT, 772, uint32_t) \
	F(vm_exit_msr_load_count, VM_EXIT_MSR_LOAD_COUNT, 776, uint32_t) \
	F(vm_entry_controls, VM_ENTRY_CONTROLS, 780, uint32_t) \
	F(vm_entry_msr_load_count, VM_ENTRY_MSR_LOAD_COUNT, 784, uint32_t) \
	F(vm_entry_intr_info_field, VM_ENTRY_INTR_INFO_FIELD, 788, uint32_t) \
	F(vm_entry_exception_error_code, VM_ENTRY_EXCEPTION_ERROR_CODE, 792, uint32_t) \
	F(vm_entry_instruction_len, VM_ENTRY_INSTRUCTION_LEN, 796, uint32_t) \
	F(tpr_threshold, TPR_THRESHOLD, 800, uint32_t) \
	F(secondary_vm_exec_control, SECONDARY_VM_EXEC_CONTROL, 804, uint32_t) \
	F(vm_instruction_error, VM_INSTRUCTION_ERROR, 808, uint32_t) \
	F(vm_exit_reason, VM_EXIT_REASON, 812, uint32_t) \
	F(vm_exit_intr_info, VM_EXIT_INTR_INFO, 816, uint32_t) \
	F(vm_exit_intr_error_code, VM_EXIT_INTR_ERROR_CODE, 820, uint32_t) \
	F(idt_vectoring_info_field, IDT_VECTORING_INFO_FIELD, 824, uint32_t) \
	F(idt_vectoring_error_code, IDT_VECTORING_ERROR_CODE, 828, uint32_t) \
	F(vm_exit_instruction_len, VM_EXIT_INSTRUCTION_LEN, 832, uint32_t) \
	F(vmx_instruction_info, VMX_INSTRUCTION_INFO, 836, uint32_t) \
	F(guest_es_limit, GUEST_ES_LIMIT, 840, uint32_t) \
	F(guest_cs_limit, GUEST_CS_LIMIT, 844, uint32_t) \
	F(guest_ss_limit, GUEST_SS_LIMIT, 848, uint32_t) \
	F(guest_ds_limit, GUEST_DS_LIMIT, 852, uint32_t) \
	F(guest_fs_limit, GUEST_FS_LIMIT, 856, uint32_t) \
	F(guest_gs_limit, GUEST_GS_LIMIT, 860, uint32_t) \
	F(guest_ldtr_limit, GUEST_LDTR_LIMIT, 864, uint32_t) \
	F(guest_tr_limit, GUEST_TR_LIMIT, 868, uint32_t) \
	F(guest_gdtr_limit, GUEST_GDTR_LIMIT, 872, uint32_t) \
	F(guest_idtr_limit, GUEST_IDTR_LIMIT, 876, uint32_t) \
	F(guest_es_ar_bytes, GUEST_ES_AR_BYTES, 880, uint32_t) \
	F(guest_cs_ar_bytes, GUEST_CS_AR_BYTES, 884, uint32_t) \
	F(guest_ss_ar_bytes, GUEST_SS_AR_BYTES, 888, uint32_t) \
	F(guest_ds_ar_bytes, GUEST_DS_AR_BYTES, 892, uint32_t) \
	F(guest_fs_ar_bytes, GUEST_FS_AR_BYTES, 896, uint32_t) \
	F(guest_gs_ar_bytes, GUEST_GS_AR_BYTES, 900, uint32_t) \
	F(guest_ldtr_ar_bytes, GUEST_LDTR_AR_BYTES, 904, uint32_t) \
	F(guest_tr_ar_bytes, GUEST_TR_AR_BYTES, 908, uint32_t) \
	F(guest_interruptibility_info, GUEST_INTERRUPTIBILITY_INFO, 912, uint32_t) \
	F(guest_activity_state, GUEST_ACTIVITY_STATE, 916, uint32_t) \
	F(guest_sysenter_cs, GUEST_SYSENTER_CS, 920, uint32_t) \
	F(host_ia32_sysenter_cs, HOST_IA32_SYSENTER_CS, 924, uint32_t) \
	F(vmx_preemption_timer_value, VMX_PREEMPTION_TIMER_VALUE, 928, uint32_t) \
	F(virtual_processor_id, VIRTUAL_PROCESSOR_ID, 960, uint16_t) \
	F(posted_intr_nv, POSTED_INTR_NV, 962, uint16_t) \
	F(guest_es_selector, GUEST_ES_SELECTOR, 964, uint16_t) \
	F(guest_cs_selector, GUEST_CS_SELECTOR, 966, uint16_t) \
	F(guest_ss_selector, GUEST_SS_SELECTOR, 968, uint16_t) \
	F(guest_ds_selector, GUEST_DS_SELECTOR, 970, uint16_t) \
	F(guest_fs_selector, GUEST_FS_SELECTOR, 972, uint16_t) \
	F(guest_gs_selector, GUEST_GS_SELECTOR, 974, uint16_t) \
	F(guest_ldtr_selector, GUEST_LDTR_SELECTOR, 976, uint16_t) \
	F(guest_tr_selector, GUEST_TR_SELECTOR, 978, uint16_t) \
	F(guest_intr_status, GUEST_INTR_STATUS, 980, uint16_t) \
	F(host_es_selector, HOST_ES_SELECTOR, 982, uint16_t) \
	F(host_cs_selector, HOST_CS_SELECTOR, 984, uint16_t) \
	F(host_ss_selector, HOST_SS_SELECTOR, 986, uint16_t) \
	F(host_ds_selector, HOST_DS_SELECTOR, 988, uint16_t) \
	F(host_fs_selector, HOST_FS_SELECTOR, 990, uint16_t) \
	F(host_gs_selector, HOST_GS_SELECTOR, 992, uint16_t) \
	F(host_tr_selector, HOST_TR_SELECTOR, 994, uint16_t) \
	F(guest_pml_index, GUEST_PML_INDEX, 996, uint16_t)

struct vmcs12 {
	union {
		struct {
			uint32_t revision_id; /* bit 31: a shadow VMCS */
			uint32_t abort;	      /* SDM "VMX Aborts": the indicator */
			uint32_t launch_state; /* 0 by VMCLEAR, 1 by VMLAUNCH */
		};
#define VMCS12_MEMBER(name, enc, offset, type) \
		struct __attribute__((packed)) { \
			uint8_t before_##name[offset]; \
			type name; \
		};
		VMCS12_FIELDS(VMCS12_MEMBER)
#undef VMCS12_MEMBER
		uint8_t bytes[VMCS12_SIZE];
	};
};
static_assert(sizeof(struct vmcs12) == VMCS12_SIZE, "a page");
#define VMCS12_AT(name, enc, at, type) static_assert(offsetof(struct vmcs12, name) == (at), #name);
VMCS12_FIELDS(VMCS12_AT)
#undef VMCS12_AT

/*
 * A field by its encoding, as VMREAD and VMWRITE name it: bit 0 is the upper half
 * of a 64-bit field. False: vmcs12 has no such field.
 */
must_check bool vmcs12_read_field(const struct vmcs12 *v, uint64_t encoding, uint64_t *value);
must_check bool vmcs12_write_field(struct vmcs12 *v, uint64_t encoding, uint64_t value);
bool vmcs12_has_field(uint64_t encoding);
/* IA32_VMX_VMCS_ENUM: the highest index of a field, in bits 9:1. */
uint64_t vmcs12_enum(void);

#endif
