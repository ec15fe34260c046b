/*
 * MSRs of nested VMX: the areas that an entry loads and an exit stores and loads
 * (SDM Vol. 3, "Loading MSRs", "Saving MSRs"), and VMCS02's MSR bitmap.
 */
#include <string.h>

#include "host/memory.h"
#include "mmu/mmu.h"
#include "sdm/regs.h"
#include "vmx/internal.h"
#include "vmx/nested_check.h"

struct vmx_msr_entry {
	uint32_t index, reserved;
	uint64_t value;
};

#define MSR_IA32_UCODE_WRITE 0x79
#define MSR_IA32_SMM_MONITOR_CTL 0x9b

#define MAX_MSR_ENTRIES 512 /* as IA32_VMX_MISC bits 27:25 recommend */
#define X2APIC_PAGE 8	    /* MSRs 800h to 8FFh */

/* Why neither list may have the entry; NULL: it may. */
static const char *no_entry(struct kvm_vcpu *vcpu, const struct vmx_msr_entry *e)
{
	if (e->reserved)
		return "bits 63:32 are not 0";
	if (e->index == MSR_IA32_UCODE_WRITE || e->index == MSR_IA32_UCODE_REV)
		return "a microcode update's MSR may not be named";
	return e->index >> 8 == X2APIC_PAGE && vmx_services->x2apic_mode(vcpu) ? "MSRs 800h to 8FFh may not be named in x2APIC mode" : NULL;
}

static const char *no_load(struct kvm_vcpu *vcpu, gpa_t gpa, uint32_t i, struct vmx_msr_entry *e)
{
	const char *why;

	if (i >= MAX_MSR_ENTRIES)
		return "the area has more than 512 entries";
	if (kvm_vcpu_read_guest(vcpu, gpa + i * sizeof(*e), e, sizeof(*e)))
		return "there is no memory";
	why = no_entry(vcpu, e);
	if (why)
		return why;
	if (e->index == MSR_FS_BASE || e->index == MSR_GS_BASE || e->index == MSR_IA32_SMM_MONITOR_CTL)
		return "FS_BASE, GS_BASE and SMM_MONITOR_CTL may not be named";
	return vmx_services->set_msr(vcpu, e->index, e->value) ? "WRMSR of that value would be #GP" : NULL;
}

static const char *no_store(struct kvm_vcpu *vcpu, gpa_t gpa, uint32_t i, struct vmx_msr_entry *e)
{
	const char *why;

	if (i >= MAX_MSR_ENTRIES)
		return "the area has more than 512 entries";
	/* of an entry that is stored, index and reserved bits are L1's */
	if (kvm_vcpu_read_guest(vcpu, gpa + i * sizeof(*e), e, offsetof(struct vmx_msr_entry, value)))
		return "there is no memory";
	why = no_entry(vcpu, e);
	if (why)
		return why;
	if (e->index == MSR_IA32_SMBASE)
		return "SMBASE may not be named";
	if (vmx_services->get_msr(vcpu, e->index, &e->value))
		return "RDMSR would be #GP";
	return kvm_vcpu_write_guest(vcpu, gpa + i * sizeof(*e) + offsetof(struct vmx_msr_entry, value), &e->value, sizeof(e->value))
		       ? "there is no memory that could be written" : NULL;
}

uint64_t nested_vmx_load_msr(struct kvm_vcpu *vcpu, gpa_t gpa, uint32_t count)
{
	struct vmx_msr_entry e = { 0 };

	for (uint32_t i = 0; i < count; i++) {
		const char *why = no_load(vcpu, gpa, i, &e);

		if (likely(!why))
			continue;
		/* L2 is being entered, or it has been left and L1's own MSRs come back */
		nested_vmx_explain_msr(vcpu, is_guest_mode(vcpu) ? 0 : ABORT_LOAD_HOST_MSR,
				       is_guest_mode(vcpu) ? "VM-entry MSR-load" : "VM-exit MSR-load", gpa, i, e.index, e.value, why);
		return i + 1;
	}
	return 0;
}

bool nested_vmx_store_msr(struct kvm_vcpu *vcpu, gpa_t gpa, uint32_t count)
{
	struct vmx_msr_entry e = { 0 };

	for (uint32_t i = 0; i < count; i++) {
		const char *why = no_store(vcpu, gpa, i, &e);

		if (likely(!why))
			continue;
		nested_vmx_explain_msr(vcpu, ABORT_SAVE_GUEST_MSR, "VM-exit MSR-store", gpa, i, e.index, 0, why);
		return false;
	}
	return true;
}

/* An access is without exit only if both L0 and L1 let it be. x2APIC: L1's bitmap is asked at the exit. */
bool nested_vmx_prepare_msr_bitmap(struct kvm_vcpu *vcpu, const struct vmcs12 *v)
{
	struct nested_evmcs *e = &vcpu->vmx->nested.evmcs;
	uint8_t *b = vcpu->vmx->nested.vmcs02.msr_bitmap;
	const uint8_t *b01 = vcpu->vmx->vmcs01.msr_bitmap;

	if (!nested_cpu_has(v, CPU_BASED_USE_MSR_BITMAPS))
		return false;
	if (e->bitmap_merged && e->bitmap_is_clean)
		return true;
	e->bitmap_merged = false;
	if (kvm_vcpu_read_guest(vcpu, v->msr_bitmap, b, PAGE_SIZE))
		return false;
	for (unsigned i = 0; i < PAGE_SIZE; i += sizeof(uint64_t)) {
		uint64_t a, c;

		memcpy(&a, b + i, sizeof(a));
		memcpy(&c, b01 + i, sizeof(c));
		a |= c;
		memcpy(b + i, &a, sizeof(a));
	}
	memset(b + 0x800 / 8, 0xff, 0x100 / 8);
	memset(b + 2048 + 0x800 / 8, 0xff, 0x100 / 8);
	e->bitmap_merged = nested_evmcs_is_active(&vcpu->vmx->nested);
	return true;
}
