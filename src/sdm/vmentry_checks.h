/*
 * The checks that VM entry makes of a VMCS, as the manual states them, once (SDM
 * Vol. 3, chapter "VM Entries"). F(id, group, field, rule): the field that is looked
 * at first, and the rule in words, for people whose entry has failed. The group says
 * in which section of the manual the rule stands and how a failure ends.
 *
 * Who makes a check has a predicate of its own: the processor in cpu/entry_checks.c,
 * the hypervisor for an L1's VMCS in vmx/nested_check.c.
 */
#ifndef USERKVM_SDM_VMENTRY_CHECKS_H
#define USERKVM_SDM_VMENTRY_CHECKS_H

enum vmentry_check_group { VMENTRY_CONTROLS, VMENTRY_HOST, VMENTRY_GUEST };

#define VMENTRY_CHECKS(F)                                                                                \
	F(CTL_PIN_ALLOWED, CONTROLS, PIN_BASED_VM_EXEC_CONTROL, "allowed by IA32_VMX_TRUE_PINBASED_CTLS") \
	F(CTL_PRIMARY_ALLOWED, CONTROLS, CPU_BASED_VM_EXEC_CONTROL, "allowed by IA32_VMX_TRUE_PROCBASED_CTLS") \
	F(CTL_SECONDARY_ALLOWED, CONTROLS, SECONDARY_VM_EXEC_CONTROL, "allowed by IA32_VMX_PROCBASED_CTLS2") \
	F(CTL_CR3_TARGET_COUNT, CONTROLS, CR3_TARGET_COUNT, "at most what IA32_VMX_MISC bits 24:16 say") \
	F(CTL_IO_BITMAP_A, CONTROLS, IO_BITMAP_A, "4-KByte aligned and within the physical-address width") \
	F(CTL_IO_BITMAP_B, CONTROLS, IO_BITMAP_B, "4-KByte aligned and within the physical-address width") \
	F(CTL_MSR_BITMAP, CONTROLS, MSR_BITMAP, "4-KByte aligned and within the physical-address width") \
	F(CTL_VIRTUAL_APIC, CONTROLS, VIRTUAL_APIC_PAGE_ADDR, "4-KByte aligned and within the physical-address width") \
	F(CTL_APIC_ACCESS, CONTROLS, APIC_ACCESS_ADDR, "4-KByte aligned and within the physical-address width") \
	F(CTL_CR8_WITHOUT_TPR_SHADOW, CONTROLS, CPU_BASED_VM_EXEC_CONTROL, "CR8 exiting is off where the TPR shadow is on") \
	F(CTL_APICV_WITHOUT_TPR_SHADOW, CONTROLS, SECONDARY_VM_EXEC_CONTROL, \
	  "x2APIC mode, APIC-register virtualization and virtual-interrupt delivery need the TPR shadow") \
	F(CTL_VIRTUAL_NMI, CONTROLS, PIN_BASED_VM_EXEC_CONTROL, "virtual NMIs need NMI exiting") \
	F(CTL_NMI_WINDOW, CONTROLS, CPU_BASED_VM_EXEC_CONTROL, "NMI-window exiting needs virtual NMIs") \
	F(CTL_VPID, CONTROLS, VIRTUAL_PROCESSOR_ID, "not 0 where VPIDs are on") \
	F(CTL_EPTP_MEMTYPE, CONTROLS, EPT_POINTER, "a memory type that IA32_VMX_EPT_VPID_CAP offers") \
	F(CTL_EPTP_WALK, CONTROLS, EPT_POINTER, "bits 5:3 are 3, or 4 where 5 levels are offered") \
	F(CTL_EPTP_RESERVED, CONTROLS, EPT_POINTER, "bits 11:7 are 0, and none beyond the physical-address width is set") \
	F(CTL_EPTP_AD, CONTROLS, EPT_POINTER, "bit 6 is 0 where accessed and dirty flags are not offered") \
	F(CTL_UNRESTRICTED, CONTROLS, SECONDARY_VM_EXEC_CONTROL, "unrestricted guest needs EPT") \
	F(CTL_PML, CONTROLS, PML_ADDRESS, "with EPT, 4-KByte aligned and within the physical-address width") \
	F(CTL_VMREAD_BITMAP, CONTROLS, VMREAD_BITMAP, "4-KByte aligned and within the physical-address width") \
	F(CTL_VMWRITE_BITMAP, CONTROLS, VMWRITE_BITMAP, "4-KByte aligned and within the physical-address width") \
	F(CTL_EXIT_ALLOWED, CONTROLS, VM_EXIT_CONTROLS, "allowed by IA32_VMX_TRUE_EXIT_CTLS") \
	F(CTL_SAVE_TIMER, CONTROLS, VM_EXIT_CONTROLS, "saving the VMX-preemption timer needs the timer") \
	F(CTL_EXIT_STORE, CONTROLS, VM_EXIT_MSR_STORE_ADDR, "16-byte aligned, the area within the physical-address width") \
	F(CTL_EXIT_LOAD, CONTROLS, VM_EXIT_MSR_LOAD_ADDR, "16-byte aligned, the area within the physical-address width") \
	F(CTL_ENTRY_ALLOWED, CONTROLS, VM_ENTRY_CONTROLS, "allowed by IA32_VMX_TRUE_ENTRY_CTLS") \
	F(CTL_ENTRY_LOAD, CONTROLS, VM_ENTRY_MSR_LOAD_ADDR, "16-byte aligned, the area within the physical-address width") \
	F(CTL_INJECT_TYPE, CONTROLS, VM_ENTRY_INTR_INFO_FIELD, "the type is none that is reserved, 7 only with the monitor trap flag") \
	F(CTL_INJECT_VECTOR, CONTROLS, VM_ENTRY_INTR_INFO_FIELD, "vector 2 for an NMI, below 32 for an exception, 0 for type 7") \
	F(CTL_INJECT_HAS_ERROR, CONTROLS, VM_ENTRY_INTR_INFO_FIELD, \
	  "an error code for #DF, #TS, #NP, #SS, #GP, #PF and #AC in protected mode, and for nothing else") \
	F(CTL_INJECT_ERROR, CONTROLS, VM_ENTRY_EXCEPTION_ERROR_CODE, "bits 31:16 are 0") \
	F(CTL_INJECT_RESERVED, CONTROLS, VM_ENTRY_INTR_INFO_FIELD, "bits 30:12 are 0") \
	F(CTL_INJECT_LENGTH, CONTROLS, VM_ENTRY_INSTRUCTION_LEN, "1 to 15, 0 only where IA32_VMX_MISC bit 30 is set") \
	F(HOST_CR0_FIXED, HOST, HOST_CR0, "allowed by IA32_VMX_CR0_FIXED0 and FIXED1") \
	F(HOST_CR4_FIXED, HOST, HOST_CR4, "allowed by IA32_VMX_CR4_FIXED0 and FIXED1") \
	F(HOST_CR3_WIDTH, HOST, HOST_CR3, "within the physical-address width") \
	F(HOST_SYSENTER_ESP, HOST, HOST_IA32_SYSENTER_ESP, "canonical") \
	F(HOST_SYSENTER_EIP, HOST, HOST_IA32_SYSENTER_EIP, "canonical") \
	F(HOST_PAT_TYPES, HOST, HOST_IA32_PAT, "each byte is 0, 1, 4, 5, 6 or 7") \
	F(HOST_EFER_BITS, HOST, HOST_IA32_EFER, "no reserved bits; LMA and LME as the host address-space size says") \
	F(HOST_SIZE, HOST, VM_EXIT_CONTROLS, "host address-space size as IA32_EFER.LMA is at the VM entry") \
	F(HOST_SIZE_32, HOST, VM_EXIT_CONTROLS, "a 32-bit host enters no IA-32e-mode guest") \
	F(HOST_PCIDE, HOST, HOST_CR4, "CR4.PCIDE is 0 for a 32-bit host") \
	F(HOST_PAE, HOST, HOST_CR4, "CR4.PAE is 1 for a 64-bit host") \
	F(HOST_RIP_WIDTH, HOST, HOST_RIP, "canonical; bits 63:32 are 0 for a 32-bit host") \
	F(HOST_SELECTORS, HOST, HOST_CS_SELECTOR, "RPL and TI are 0 in every selector") \
	F(HOST_CS_ZERO, HOST, HOST_CS_SELECTOR, "not 0") \
	F(HOST_TR_ZERO, HOST, HOST_TR_SELECTOR, "not 0") \
	F(HOST_SS_ZERO, HOST, HOST_SS_SELECTOR, "not 0 for a 32-bit host") \
	F(HOST_FS_BASE_CANONICAL, HOST, HOST_FS_BASE, "canonical") \
	F(HOST_GS_BASE_CANONICAL, HOST, HOST_GS_BASE, "canonical") \
	F(HOST_GDTR_BASE_CANONICAL, HOST, HOST_GDTR_BASE, "canonical") \
	F(HOST_IDTR_BASE_CANONICAL, HOST, HOST_IDTR_BASE, "canonical") \
	F(HOST_TR_BASE_CANONICAL, HOST, HOST_TR_BASE, "canonical") \
	F(GUEST_CR0_FIXED, GUEST, GUEST_CR0, "allowed by IA32_VMX_CR0_FIXED0 and FIXED1, PE and PG free with unrestricted guest") \
	F(GUEST_CR0_PG_PE, GUEST, GUEST_CR0, "PG needs PE") \
	F(GUEST_CR4_FIXED, GUEST, GUEST_CR4, "allowed by IA32_VMX_CR4_FIXED0 and FIXED1") \
	F(GUEST_DEBUGCTL, GUEST, GUEST_IA32_DEBUGCTL, "no reserved bits") \
	F(GUEST_DR7_WIDTH, GUEST, GUEST_DR7, "bits 63:32 are 0") \
	F(GUEST_PAT_TYPES, GUEST, GUEST_IA32_PAT, "each byte is 0, 1, 4, 5, 6 or 7") \
	F(GUEST_IA32E_PAGING, GUEST, VM_ENTRY_CONTROLS, "an IA-32e-mode guest has CR0.PG and CR4.PAE") \
	F(GUEST_EFER_BITS, GUEST, GUEST_IA32_EFER, "no reserved bits; LMA as the entry control, LME as LMA with paging") \
	F(GUEST_LINK_ALIGNED, GUEST, VMCS_LINK_POINTER, "all ones, or 4-KByte aligned and within the physical-address width") \
	F(GUEST_LINK_REVISION, GUEST, VMCS_LINK_POINTER, "leads to a VMCS of this revision, a shadow VMCS where shadowing is on") \
	F(GUEST_ACTIVITY, GUEST, GUEST_ACTIVITY_STATE, "one that IA32_VMX_MISC offers") \
	F(GUEST_HLT_DPL, GUEST, GUEST_SS_AR_BYTES, "DPL 0 in the HLT state") \
	F(GUEST_HLT_SHADOW, GUEST, GUEST_INTERRUPTIBILITY_INFO, "no blocking by STI or MOV SS in the HLT state") \
	F(GUEST_HLT_EVENT, GUEST, VM_ENTRY_INTR_INFO_FIELD, "into the HLT state only interrupts, NMIs, #DB, #MC and MTF") \
	F(GUEST_CR3_WIDTH, GUEST, GUEST_CR3, "within the physical-address width") \
	F(GUEST_PDPTES, GUEST, GUEST_CR3, "leads to PDPTEs without reserved bits") \
	F(GUEST_SEGMENTS, GUEST, GUEST_CS_AR_BYTES, "segments that a guest without \"unrestricted guest\" may have")

enum vmentry_check {
#define VMENTRY_CHECK_ENUM(id, group, field, rule) VMENTRY_CHECK_##id,
	VMENTRY_CHECKS(VMENTRY_CHECK_ENUM)
#undef VMENTRY_CHECK_ENUM
	NR_VMENTRY_CHECKS
};

#endif
