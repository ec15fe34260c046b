/*
 * The checks that VM entry makes of a VMCS, as the manual states them, once (SDM
 * Vol. 3, chapter "VM Entries"). F(id, group, field, passes, arg, rule): the field that is
 * looked at first, what value of it would pass where the field alone decides (enum
 * vmentry_passes), and the rule in words, for people whose entry has failed. The group says
 * in which section of the manual the rule stands and how a failure ends. Rows named SEG_* are
 * of each segment register; their field is an example.
 *
 * Who makes a check has a predicate of its own: the processor in cpu/entry_checks.c and
 * cpu/apic_checks.c, the hypervisor for an L1's VMCS in vmx/nested_check.c.
 */
#ifndef USERKVM_SDM_VMENTRY_CHECKS_H
#define USERKVM_SDM_VMENTRY_CHECKS_H

#include "lib/types.h"
#include "sdm/vmcs_fields.h"

enum vmentry_check_group { VMENTRY_CONTROLS, VMENTRY_HOST, VMENTRY_GUEST };

/* How a value that passes comes of one that does not; arg is the row's. */
enum vmentry_passes {
	VMENTRY_PASSES_WORDS,	  /* other fields count too: the rule says it */
	VMENTRY_PASSES_VALUE,	  /* arg */
	VMENTRY_PASSES_SET,	  /* with the bits of arg */
	VMENTRY_PASSES_CLEAR,	  /* without them */
	VMENTRY_PASSES_FIELD,	  /* the bits of arg 63:32 replaced by arg 31:0 */
	VMENTRY_PASSES_CAP,	  /* control bits as the capability MSR arg allows */
	VMENTRY_PASSES_FIXED,	  /* bits as the MSR arg (FIXED0) and the next one (FIXED1) say */
	VMENTRY_PASSES_WIDTH,	  /* no bit beyond the physical-address width */
	VMENTRY_PASSES_PAGE,	  /* and 4-KByte aligned */
	VMENTRY_PASSES_ALIGN,	  /* and aligned by arg */
	VMENTRY_PASSES_EPTP,	  /* and without bits 11:7 */
	VMENTRY_PASSES_CANONICAL, /* bits 63:48 as bit 47 */
	VMENTRY_PASSES_RFLAGS,	  /* bits as RFLAGS has them */
};

/* Of controls and of the guest state that an L0 rewrites: made by both halves. */
#define VMENTRY_CHECKS_L0(F) \
	F(CTL_PIN_ALLOWED, CONTROLS, PIN_BASED_VM_EXEC_CONTROL, CAP, 0x48d, \
	  "allowed by IA32_VMX_TRUE_PINBASED_CTLS") \
	F(CTL_PRIMARY_ALLOWED, CONTROLS, CPU_BASED_VM_EXEC_CONTROL, CAP, 0x48e, \
	  "allowed by IA32_VMX_TRUE_PROCBASED_CTLS") \
	F(CTL_SECONDARY_ALLOWED, CONTROLS, SECONDARY_VM_EXEC_CONTROL, CAP, 0x48b, \
	  "allowed by IA32_VMX_PROCBASED_CTLS2") \
	F(CTL_CR3_TARGET_COUNT, CONTROLS, CR3_TARGET_COUNT, VALUE, 0, \
	  "at most what IA32_VMX_MISC bits 24:16 say") \
	F(CTL_IO_BITMAP_A, CONTROLS, IO_BITMAP_A, PAGE, 0, \
	  "4-KByte aligned and within the physical-address width") \
	F(CTL_IO_BITMAP_B, CONTROLS, IO_BITMAP_B, PAGE, 0, \
	  "4-KByte aligned and within the physical-address width") \
	F(CTL_MSR_BITMAP, CONTROLS, MSR_BITMAP, PAGE, 0, \
	  "4-KByte aligned and within the physical-address width") \
	F(CTL_VIRTUAL_APIC, CONTROLS, VIRTUAL_APIC_PAGE_ADDR, PAGE, 0, \
	  "4-KByte aligned and within the physical-address width") \
	F(CTL_APIC_ACCESS, CONTROLS, APIC_ACCESS_ADDR, PAGE, 0, \
	  "4-KByte aligned and within the physical-address width") \
	F(CTL_APICV_WITHOUT_TPR_SHADOW, CONTROLS, SECONDARY_VM_EXEC_CONTROL, CLEAR, BIT_ULL(4) | BIT_ULL(8) | BIT_ULL(9), \
	  "x2APIC mode, APIC-register virtualization and virtual-interrupt delivery need the TPR shadow") \
	F(CTL_VIRTUAL_NMI, CONTROLS, PIN_BASED_VM_EXEC_CONTROL, SET, BIT_ULL(3), \
	  "virtual NMIs need NMI exiting") \
	F(CTL_NMI_WINDOW, CONTROLS, CPU_BASED_VM_EXEC_CONTROL, CLEAR, BIT_ULL(22), \
	  "NMI-window exiting needs virtual NMIs") \
	F(CTL_VPID, CONTROLS, VIRTUAL_PROCESSOR_ID, VALUE, 1, "not 0 where VPIDs are on") \
	F(CTL_EPTP_MEMTYPE, CONTROLS, EPT_POINTER, FIELD, 0x0000000700000006, \
	  "a memory type that IA32_VMX_EPT_VPID_CAP offers") \
	F(CTL_EPTP_WALK, CONTROLS, EPT_POINTER, FIELD, 0x0000003800000018, \
	  "bits 5:3 are 3, or 4 where 5 levels are offered") \
	F(CTL_EPTP_RESERVED, CONTROLS, EPT_POINTER, EPTP, 0, \
	  "bits 11:7 are 0, and none beyond the physical-address width is set") \
	F(CTL_EPTP_AD, CONTROLS, EPT_POINTER, CLEAR, BIT_ULL(6), \
	  "bit 6 is 0 where accessed and dirty flags are not offered") \
	F(CTL_UNRESTRICTED, CONTROLS, SECONDARY_VM_EXEC_CONTROL, SET, BIT_ULL(1), \
	  "unrestricted guest needs EPT") \
	F(CTL_PML, CONTROLS, PML_ADDRESS, PAGE, 0, \
	  "with EPT, 4-KByte aligned and within the physical-address width") \
	F(CTL_VMREAD_BITMAP, CONTROLS, VMREAD_BITMAP, PAGE, 0, \
	  "4-KByte aligned and within the physical-address width") \
	F(CTL_VMWRITE_BITMAP, CONTROLS, VMWRITE_BITMAP, PAGE, 0, \
	  "4-KByte aligned and within the physical-address width") \
	F(CTL_VMFUNC, CONTROLS, VM_FUNCTION_CONTROL, VALUE, 0, "allowed by IA32_VMX_VMFUNC") \
	F(CTL_EPTP_LIST, CONTROLS, EPTP_LIST_ADDRESS, PAGE, 0, \
	  "with EPT, 4-KByte aligned and within the physical-address width") \
	F(CTL_EXIT_ALLOWED, CONTROLS, VM_EXIT_CONTROLS, CAP, 0x48f, "allowed by IA32_VMX_TRUE_EXIT_CTLS") \
	F(CTL_SAVE_TIMER, CONTROLS, VM_EXIT_CONTROLS, CLEAR, BIT_ULL(22), \
	  "saving the VMX-preemption timer needs the timer") \
	F(CTL_EXIT_STORE, CONTROLS, VM_EXIT_MSR_STORE_ADDR, ALIGN, 16, \
	  "16-byte aligned, the area within the physical-address width") \
	F(CTL_EXIT_LOAD, CONTROLS, VM_EXIT_MSR_LOAD_ADDR, ALIGN, 16, \
	  "16-byte aligned, the area within the physical-address width") \
	F(CTL_ENTRY_ALLOWED, CONTROLS, VM_ENTRY_CONTROLS, CAP, 0x490, "allowed by IA32_VMX_TRUE_ENTRY_CTLS") \
	F(CTL_ENTRY_LOAD, CONTROLS, VM_ENTRY_MSR_LOAD_ADDR, ALIGN, 16, \
	  "16-byte aligned, the area within the physical-address width") \
	F(CTL_INJECT_TYPE, CONTROLS, VM_ENTRY_INTR_INFO_FIELD, WORDS, 0, \
	  "the type is none that is reserved, 7 only with the monitor trap flag") \
	F(CTL_INJECT_VECTOR, CONTROLS, VM_ENTRY_INTR_INFO_FIELD, WORDS, 0, \
	  "vector 2 for an NMI, below 32 for an exception, 0 for type 7") \
	F(CTL_INJECT_HAS_ERROR, CONTROLS, VM_ENTRY_INTR_INFO_FIELD, WORDS, 0, \
	  "an error code for #DF, #TS, #NP, #SS, #GP, #PF and #AC in protected mode, and for nothing else") \
	F(CTL_INJECT_ERROR, CONTROLS, VM_ENTRY_EXCEPTION_ERROR_CODE, CLEAR, GENMASK_ULL(31, 16), \
	  "bits 31:16 are 0") \
	F(CTL_INJECT_RESERVED, CONTROLS, VM_ENTRY_INTR_INFO_FIELD, CLEAR, GENMASK_ULL(30, 12), \
	  "bits 30:12 are 0") \
	F(CTL_INJECT_LENGTH, CONTROLS, VM_ENTRY_INSTRUCTION_LEN, WORDS, 0, \
	  "1 to 15, 0 only where IA32_VMX_MISC bit 30 is set") \
	F(HOST_CR0_FIXED, HOST, HOST_CR0, FIXED, 0x486, "allowed by IA32_VMX_CR0_FIXED0 and FIXED1") \
	F(HOST_CR4_FIXED, HOST, HOST_CR4, FIXED, 0x488, "allowed by IA32_VMX_CR4_FIXED0 and FIXED1") \
	F(HOST_CR3_WIDTH, HOST, HOST_CR3, WIDTH, 0, "within the physical-address width") \
	F(HOST_SYSENTER_ESP, HOST, HOST_IA32_SYSENTER_ESP, CANONICAL, 0, "canonical") \
	F(HOST_SYSENTER_EIP, HOST, HOST_IA32_SYSENTER_EIP, CANONICAL, 0, "canonical") \
	F(HOST_PAT_TYPES, HOST, HOST_IA32_PAT, WORDS, 0, "each byte is 0, 1, 4, 5, 6 or 7") \
	F(HOST_EFER_BITS, HOST, HOST_IA32_EFER, WORDS, 0, \
	  "no reserved bits; LMA and LME as the host address-space size says") \
	F(HOST_SIZE, HOST, VM_EXIT_CONTROLS, WORDS, 0, \
	  "host address-space size as IA32_EFER.LMA is at the VM entry") \
	F(HOST_SIZE_32, HOST, VM_EXIT_CONTROLS, SET, BIT_ULL(9), "a 32-bit host enters no IA-32e-mode guest") \
	F(HOST_PCIDE, HOST, HOST_CR4, CLEAR, BIT_ULL(17), "CR4.PCIDE is 0 for a 32-bit host") \
	F(HOST_PAE, HOST, HOST_CR4, SET, BIT_ULL(5), "CR4.PAE is 1 for a 64-bit host") \
	F(HOST_RIP_WIDTH, HOST, HOST_RIP, WORDS, 0, "canonical; bits 63:32 are 0 for a 32-bit host") \
	F(HOST_SELECTORS, HOST, HOST_CS_SELECTOR, WORDS, 0, "RPL and TI are 0 in every selector") \
	F(HOST_CS_ZERO, HOST, HOST_CS_SELECTOR, WORDS, 0, "not 0") \
	F(HOST_TR_ZERO, HOST, HOST_TR_SELECTOR, WORDS, 0, "not 0") \
	F(HOST_SS_ZERO, HOST, HOST_SS_SELECTOR, WORDS, 0, "not 0 for a 32-bit host") \
	F(HOST_FS_BASE_CANONICAL, HOST, HOST_FS_BASE, CANONICAL, 0, "canonical") \
	F(HOST_GS_BASE_CANONICAL, HOST, HOST_GS_BASE, CANONICAL, 0, "canonical") \
	F(HOST_GDTR_BASE_CANONICAL, HOST, HOST_GDTR_BASE, CANONICAL, 0, "canonical") \
	F(HOST_IDTR_BASE_CANONICAL, HOST, HOST_IDTR_BASE, CANONICAL, 0, "canonical") \
	F(HOST_TR_BASE_CANONICAL, HOST, HOST_TR_BASE, CANONICAL, 0, "canonical") \
	F(GUEST_CR0_FIXED, GUEST, GUEST_CR0, WORDS, 0, \
	  "allowed by IA32_VMX_CR0_FIXED0 and FIXED1, PE and PG free with unrestricted guest") \
	F(GUEST_CR0_PG_PE, GUEST, GUEST_CR0, SET, BIT_ULL(0), "PG needs PE") \
	F(GUEST_CR4_FIXED, GUEST, GUEST_CR4, FIXED, 0x488, "allowed by IA32_VMX_CR4_FIXED0 and FIXED1") \
	F(GUEST_DEBUGCTL, GUEST, GUEST_IA32_DEBUGCTL, CLEAR, ~0xffc3ULL, "no reserved bits") \
	F(GUEST_DR7_WIDTH, GUEST, GUEST_DR7, CLEAR, GENMASK_ULL(63, 32), "bits 63:32 are 0") \
	F(GUEST_PAT_TYPES, GUEST, GUEST_IA32_PAT, WORDS, 0, "each byte is 0, 1, 4, 5, 6 or 7") \
	F(GUEST_IA32E_PAGING, GUEST, VM_ENTRY_CONTROLS, WORDS, 0, \
	  "an IA-32e-mode guest has CR0.PG and CR4.PAE") \
	F(GUEST_EFER_BITS, GUEST, GUEST_IA32_EFER, WORDS, 0, \
	  "no reserved bits; LMA as the entry control, LME as LMA with paging") \
	F(GUEST_LINK_ALIGNED, GUEST, VMCS_LINK_POINTER, VALUE, ~0ULL, \
	  "all ones, or 4-KByte aligned and within the physical-address width") \
	F(GUEST_LINK_REVISION, GUEST, VMCS_LINK_POINTER, VALUE, ~0ULL, \
	  "leads to a VMCS of this revision, a shadow VMCS where shadowing is on") \
	F(GUEST_ACTIVITY, GUEST, GUEST_ACTIVITY_STATE, VALUE, 0, "one that IA32_VMX_MISC offers") \
	F(GUEST_HLT_DPL, GUEST, GUEST_SS_AR_BYTES, CLEAR, GENMASK_ULL(6, 5), "DPL 0 in the HLT state") \
	F(GUEST_HLT_SHADOW, GUEST, GUEST_INTERRUPTIBILITY_INFO, CLEAR, GENMASK_ULL(1, 0), \
	  "no blocking by STI or MOV SS in the HLT state") \
	F(GUEST_HLT_EVENT, GUEST, VM_ENTRY_INTR_INFO_FIELD, WORDS, 0, \
	  "into the HLT state only interrupts, NMIs, #DB, #MC and MTF") \
	F(GUEST_CR3_WIDTH, GUEST, GUEST_CR3, WIDTH, 0, "within the physical-address width") \
	F(GUEST_PDPTES, GUEST, GUEST_CR3, WORDS, 0, "leads to PDPTEs without reserved bits") \
	F(GUEST_SEGMENTS, GUEST, GUEST_CS_AR_BYTES, WORDS, 0, \
	  "segments that a guest without \"unrestricted guest\" may have")

/* Of the guest state that goes into the processor as it is, and of controls that no L1 is offered. */
#define VMENTRY_CHECKS_PROCESSOR(F) \
	F(CTL_X2APIC_AND_ACCESSES, CONTROLS, SECONDARY_VM_EXEC_CONTROL, CLEAR, BIT_ULL(4), \
	  "x2APIC mode is off where APIC accesses are virtualized") \
	F(CTL_VID_WITHOUT_EXT_INTR, CONTROLS, PIN_BASED_VM_EXEC_CONTROL, SET, BIT_ULL(0), \
	  "virtual-interrupt delivery needs external-interrupt exiting") \
	F(CTL_POSTED_WITHOUT_VID, CONTROLS, SECONDARY_VM_EXEC_CONTROL, SET, BIT_ULL(9), \
	  "posted interrupts need virtual-interrupt delivery") \
	F(CTL_POSTED_WITHOUT_ACK, CONTROLS, VM_EXIT_CONTROLS, SET, BIT_ULL(15), \
	  "posted interrupts need acknowledge interrupt on exit") \
	F(CTL_POSTED_VECTOR, CONTROLS, POSTED_INTR_NV, CLEAR, GENMASK_ULL(15, 8), "bits 15:8 are 0") \
	F(CTL_POSTED_DESCRIPTOR, CONTROLS, POSTED_INTR_DESC_ADDR, ALIGN, 64, \
	  "64-byte aligned and within the physical-address width") \
	F(CTL_TPR_THRESHOLD, CONTROLS, TPR_THRESHOLD, CLEAR, GENMASK_ULL(31, 4), \
	  "bits 31:4 are 0 without virtual-interrupt delivery") \
	F(CTL_TPR_OVER_VTPR, CONTROLS, TPR_THRESHOLD, VALUE, 0, "not above bits 7:4 of the virtual TPR") \
	F(GUEST_PCIDE, GUEST, GUEST_CR4, CLEAR, BIT_ULL(17), "CR4.PCIDE is 0 outside IA-32e mode") \
	F(GUEST_SYSENTER_ESP_CANONICAL, GUEST, GUEST_SYSENTER_ESP, CANONICAL, 0, "canonical") \
	F(GUEST_SYSENTER_EIP_CANONICAL, GUEST, GUEST_SYSENTER_EIP, CANONICAL, 0, "canonical") \
	F(SEG_V86_BASE, GUEST, GUEST_CS_BASE, WORDS, 0, "in virtual-8086 mode the selector times 16") \
	F(SEG_V86_LIMIT, GUEST, GUEST_CS_LIMIT, VALUE, 0xffff, "FFFFh in virtual-8086 mode") \
	F(SEG_V86_RIGHTS, GUEST, GUEST_CS_AR_BYTES, VALUE, 0xf3, "F3h in virtual-8086 mode") \
	F(SEG_CS_TYPE, GUEST, GUEST_CS_AR_BYTES, WORDS, 0, \
	  "type 9, 11, 13 or 15; 3 too with unrestricted guest") \
	F(SEG_CS_DPL_DATA, GUEST, GUEST_CS_AR_BYTES, CLEAR, GENMASK_ULL(6, 5), "DPL 0 where the type is 3") \
	F(SEG_CS_DPL, GUEST, GUEST_CS_AR_BYTES, WORDS, 0, \
	  "DPL as SS.DPL where the type is 9 or 11, at most SS.DPL where it is 13 or 15") \
	F(SEG_CS_L_AND_D, GUEST, GUEST_CS_AR_BYTES, CLEAR, BIT_ULL(14), \
	  "D/B is 0 where L is 1 in IA-32e mode") \
	F(SEG_SS_RPL, GUEST, GUEST_SS_SELECTOR, WORDS, 0, "RPL as CS's without unrestricted guest") \
	F(SEG_SS_DPL, GUEST, GUEST_SS_AR_BYTES, WORDS, 0, "DPL as SS's RPL without unrestricted guest") \
	F(SEG_SS_DPL_REAL, GUEST, GUEST_SS_AR_BYTES, CLEAR, GENMASK_ULL(6, 5), \
	  "DPL 0 where CS has type 3, or CR0.PE is 0") \
	F(SEG_SS_TYPE, GUEST, GUEST_SS_AR_BYTES, FIELD, 0x0000000f00000003, "type 3 or 7, or unusable") \
	F(SEG_DATA_ACCESSED, GUEST, GUEST_DS_AR_BYTES, SET, BIT_ULL(0), \
	  "bit 0 of the type, accessed, is 1, or unusable") \
	F(SEG_DATA_READABLE, GUEST, GUEST_DS_AR_BYTES, SET, BIT_ULL(1), \
	  "bit 1 of a code segment's type, readable, is 1, or unusable") \
	F(SEG_DATA_DPL, GUEST, GUEST_DS_AR_BYTES, WORDS, 0, \
	  "DPL not below the RPL, but for conforming code, without unrestricted guest") \
	F(SEG_IN_LDT, GUEST, GUEST_TR_SELECTOR, CLEAR, BIT_ULL(2), "TI, bit 2, is 0") \
	F(SEG_TR_TYPE, GUEST, GUEST_TR_AR_BYTES, FIELD, 0x0000000f0000000b, \
	  "type 11, a busy TSS; 3 too outside IA-32e mode") \
	F(SEG_TR_USABLE, GUEST, GUEST_TR_AR_BYTES, CLEAR, BIT_ULL(16), "TR is usable") \
	F(SEG_LDTR_TYPE, GUEST, GUEST_LDTR_AR_BYTES, FIELD, 0x0000000f00000002, "type 2, or unusable") \
	F(SEG_CODE_OR_DATA, GUEST, GUEST_CS_AR_BYTES, SET, BIT_ULL(4), "S, bit 4, is 1") \
	F(SEG_SYSTEM, GUEST, GUEST_TR_AR_BYTES, CLEAR, BIT_ULL(4), "S, bit 4, is 0") \
	F(SEG_PRESENT, GUEST, GUEST_CS_AR_BYTES, SET, BIT_ULL(7), "P, bit 7, is 1, or unusable") \
	F(SEG_RESERVED, GUEST, GUEST_CS_AR_BYTES, CLEAR, 0xfffe0f00ULL, "bits 31:17 and 11:8 are 0") \
	F(SEG_GRANULARITY, GUEST, GUEST_CS_AR_BYTES, WORDS, 0, \
	  "G, bit 15, is 0 where a bit of 11:0 of the limit is 0, and 1 where one of 31:20 is 1") \
	F(SEG_BASE_32_BITS, GUEST, GUEST_CS_BASE, CLEAR, GENMASK_ULL(63, 32), "bits 63:32 are 0") \
	F(SEG_BASE_CANONICAL, GUEST, GUEST_FS_BASE, CANONICAL, 0, "canonical") \
	F(GUEST_TABLE_LIMIT, GUEST, GUEST_GDTR_LIMIT, CLEAR, GENMASK_ULL(31, 16), "bits 31:16 are 0") \
	F(GUEST_TABLE_BASE, GUEST, GUEST_GDTR_BASE, CANONICAL, 0, "canonical") \
	F(GUEST_RIP_RANGE, GUEST, GUEST_RIP, WORDS, 0, \
	  "bits 63:48 are alike in 64-bit mode, bits 63:32 are 0 elsewhere") \
	F(GUEST_RFLAGS_RESERVED, GUEST, GUEST_RFLAGS, RFLAGS, 0, "bits 63:22, 15, 5 and 3 are 0, bit 1 is 1") \
	F(GUEST_RFLAGS_VM, GUEST, GUEST_RFLAGS, CLEAR, BIT_ULL(17), \
	  "VM, bit 17, is 0 in IA-32e mode and where CR0.PE is 0") \
	F(GUEST_RFLAGS_IF, GUEST, GUEST_RFLAGS, SET, BIT_ULL(9), \
	  "IF, bit 9, is 1 where an external interrupt is injected") \
	F(GUEST_INT_RESERVED, GUEST, GUEST_INTERRUPTIBILITY_INFO, CLEAR, GENMASK_ULL(31, 4), \
	  "bits 31:4 are 0") \
	F(GUEST_INT_BOTH, GUEST, GUEST_INTERRUPTIBILITY_INFO, CLEAR, GENMASK_ULL(1, 0), \
	  "no blocking by STI and by MOV SS at the same time") \
	F(GUEST_INT_STI, GUEST, GUEST_INTERRUPTIBILITY_INFO, CLEAR, BIT_ULL(0), \
	  "no blocking by STI where RFLAGS.IF is 0") \
	F(GUEST_INT_INTERRUPT, GUEST, GUEST_INTERRUPTIBILITY_INFO, CLEAR, GENMASK_ULL(1, 0), \
	  "no blocking by STI or MOV SS where an external interrupt is injected") \
	F(GUEST_INT_NMI, GUEST, GUEST_INTERRUPTIBILITY_INFO, CLEAR, BIT_ULL(1), \
	  "no blocking by MOV SS where an NMI is injected") \
	F(GUEST_INT_SMI, GUEST, GUEST_INTERRUPTIBILITY_INFO, CLEAR, BIT_ULL(2), \
	  "no blocking by SMI outside SMM") \
	F(GUEST_INT_VIRTUAL_NMI, GUEST, GUEST_INTERRUPTIBILITY_INFO, CLEAR, BIT_ULL(3), \
	  "no blocking by NMI where an NMI is injected with virtual NMIs") \
	F(GUEST_DBG_RESERVED, GUEST, GUEST_PENDING_DBG_EXCEPTIONS, CLEAR, ~(0xfULL | BIT_ULL(12) | BIT_ULL(14) | BIT_ULL(16)), \
	  "none but bits 3:0, 12, 14 and 16 is set") \
	F(GUEST_DBG_SINGLE_STEP, GUEST, GUEST_PENDING_DBG_EXCEPTIONS, WORDS, 0, \
	  "in HLT or in a shadow BS, bit 14, is 1 exactly where RFLAGS.TF is 1 and IA32_DEBUGCTL.BTF is 0") \
	F(GUEST_LINK_NONE, GUEST, VMCS_LINK_POINTER, VALUE, ~0ULL, \
	  "all ones where VMCS shadowing is off")

#define VMENTRY_CHECKS(F) VMENTRY_CHECKS_L0(F) VMENTRY_CHECKS_PROCESSOR(F)

enum vmentry_check {
#define VMENTRY_CHECK_ENUM(id, group, field, passes, arg, rule) VMENTRY_CHECK_##id,
	VMENTRY_CHECKS_L0(VMENTRY_CHECK_ENUM)
	VMENTRY_CHECK_FIRST_OF_PROCESSOR,
	VMENTRY_CHECK_BEFORE_PROCESSOR = VMENTRY_CHECK_FIRST_OF_PROCESSOR - 1,
	VMENTRY_CHECKS_PROCESSOR(VMENTRY_CHECK_ENUM)
#undef VMENTRY_CHECK_ENUM
	NR_VMENTRY_CHECKS
};

/* Failed checks, in the order in which they were made; more than fit are counted only. */
#define VMENTRY_MAX_FAILURES 32
struct vmentry_failures {
	unsigned nr;
	struct vmentry_failure {
		uint16_t check; /* enum vmentry_check */
		uint16_t field; /* the encoding of the field that was looked at */
	} at[VMENTRY_MAX_FAILURES];
};

struct vmentry_row {
	const char *name, *rule;
	enum vmentry_check_group group;
	uint32_t field;
	enum vmentry_passes passes;
	uint64_t arg;
};
extern const struct vmentry_row vmentry_rows[NR_VMENTRY_CHECKS];

/* field 0: the row's. */
static inline void vmentry_failed(struct vmentry_failures *f, enum vmentry_check check, uint32_t field)
{
	if (f->nr < VMENTRY_MAX_FAILURES)
		f->at[f->nr] = (struct vmentry_failure){
			(uint16_t)check, (uint16_t)(field ? field : vmentry_rows[check].field) };
	f->nr++;
}

/* The section of the manual. */
const char *vmentry_section(enum vmentry_check check);
/* What the checking processor is: its capability MSRs 480h to 491h and its physical-address width. */
struct vmentry_limits {
	uint64_t cap[0x12];
	int width;
};
/* False: there is no such value, the rule names other fields too. */
bool vmentry_passing_value(enum vmentry_check check, uint64_t value, const struct vmentry_limits *l, uint64_t *passing);
/* "CTL_VPID: VIRTUAL_PROCESSOR_ID (0h) = 0x0, must be: …; with 0x1 it would pass [SDM "…"]"; l may be NULL. */
#define VMENTRY_TEXT 320 /* bytes that are enough */
int vmentry_failure_text(const struct vmentry_failure *f, uint64_t value, const struct vmentry_limits *l, char *buf,
			 size_t size);

#endif
