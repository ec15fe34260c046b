/*
 * Nested VMX: L0 (this hypervisor) emulates VMX for a guest, L1, that is a
 * hypervisor itself; its guest is L2.
 *
 *	L1: VMXON, VMPTRLD, VMWRITE ...      vmcs12, a page of L1's memory
 *	L1: VMLAUNCH -> nested_vmx_run       checks of vmcs12 (nested_check.c)
 *	    prepare_vmcs02                   vmcs12 and VMCS01 become VMCS02
 *	the processor runs L2 with VMCS02
 *	an exit of L2 -> nested_vmx_reflect_vmexit: whose is it?
 *	    L0's: handled as any exit         L1's: nested_vmx_vmexit:
 *	                                       VMCS02 into vmcs12, L1's host state into
 *	                                       VMCS01, L1 goes on behind its VMLAUNCH
 *
 * The names are those of Linux's KVM (arch/x86/kvm/vmx/nested.c). Whether it is
 * offered: USERKVM_PARAMS nested=0|1; the guest's CPUID.1:ECX.VMX decides for a vCPU.
 *
 * Invariants
 * 1. cached_vmcs12 is what counts from VMPTRLD to VMCLEAR (or the VMPTRLD of
 *    another): L1 may write its page meanwhile, and nothing of it is believed.
 * 2. loaded_vmcs is &vmcs02 exactly while guest_mode is set.
 * 3. While run_pending is set, L1's VMLAUNCH has succeeded and L2 has not been
 *    entered yet: nothing but L1's own event may be injected, and no exit to L1
 *    may be made up.
 * 4. L1's memory that vmcs12 names (bitmaps, MSR areas) is read at the moment of
 *    use, by the guarded accessors; no pointer into it is kept.
 * 5. The read shadows of CR0 and CR4 in VMCS02 are L1's; vmx->cr0 and cr4 are L2's.
 *
 * Locks: none; everything is the owner thread's.
 */
#ifndef USERKVM_VMX_NESTED_H
#define USERKVM_VMX_NESTED_H

#include "lib/types.h"
#include "vmx/vmcs12.h"

/* A VMCS and what is remembered of its fields. */
struct loaded_vmcs {
	void *vmcs;	     /* (c) VMCS region, one frame */
	uint8_t *msr_bitmap; /* (c) one frame */
	bool launched;	     /* VMRESUME from now on */
	bool cr3_stale;	     /* `cr3` is newer than GUEST_CR3 */
	bool flush_guest;    /* linear mappings of its VPID are out of date */
	uint64_t cr3;	     /* valid while cr3_stale; always with ept=0 */
	uint64_t eptp;	     /* as in the VMCS */
	uint32_t cpu_based, secondary; /* controls as in the VMCS */
};

/* The capability MSRs, 480h to 491h, as one L1 sees them. */
#define NESTED_VMX_FIRST_MSR 0x480U
#define NESTED_VMX_NR_MSRS 0x12U
struct nested_vmx_msrs {
	uint64_t v[NESTED_VMX_NR_MSRS];
};

/* L1's VMX-preemption timer (nested_timer.c). */
struct nested_timer {
	struct host_timer *host; /* (c) while in VMX operation */
	bool has_deadline;
	bool expired;	     /* (a) an exit to L1 is due */
	uint64_t deadline;   /* in L1's TSC >> rate */
	uint64_t expires_ns; /* the same moment, for the host; 0: at once */
};

/* The enlightened VMCS that L1 enters with (nested_evmcs.c). */
struct nested_evmcs {
	bool enabled;	      /* KVM_CAP_HYPERV_ENLIGHTENED_VMCS: for the vCPU's life */
	bool bitmap_is_clean; /* by this entry L1 says that its MSR bitmap is what it was */
	bool bitmap_merged;   /* VMCS02's MSR bitmap is made of it and of VMCS01's */
	gpa_t vmptr;	      /* ~0: none is active; ~1: one was restored */
};

struct nested_vmx {
	bool run_pending;
	bool pages_stale;      /* the MSR bitmap, and PDPTEs without EPT12, are to be read from L1's memory */
	bool dirty_vmcs12;     /* fields that VMCS02 takes over only when L1 has changed them */
	bool vmcs02_constant;  /* what never changes in VMCS02 has been written */
	struct {
		bool vmxon, guest_mode; /* in SMM: what RSM comes back to */
	} smm;
	bool mtf_pending;      /* an emulated instruction of L2 is over and L1 wants MTF exits */
	gpa_t vmxon_ptr;
	gpa_t current_vmptr;   /* ~0: none */
	struct vmcs12 *cached_vmcs12, *cached_shadow_vmcs12; /* NULL outside VMX operation */
	struct loaded_vmcs vmcs02;
	struct loaded_vmcs shadow; /* with enable_shadow_vmcs: what L1's VMREAD and VMWRITE are about (nested_shadowing.c) */
	bool shadow_stale;	   /* cached_vmcs12 is newer than that, or than the enlightened VMCS; L1 does not run so */
	struct nested_evmcs evmcs;
	uint16_t vpid02;       /* 0: none was left, L2 shares vpid01 */
	uint16_t last_vpid;    /* vpid12 of the last entry */
	struct nested_timer timer;
	uint8_t *virtual_apic; /* (c) in VMX operation: VMCS02's virtual-APIC page, a frame of ours (nested_tpr.c) */
	uint32_t vtpr;	       /* as it is in L1's page */
	uint64_t vmcs01_debugctl;
	unsigned nr_explained; /* failed entries told on stderr */
	struct nested_vmx_msrs msrs;
};

#endif
