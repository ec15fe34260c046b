/*
 * VM entry's checks of the APIC virtualization controls (SDM Vol. 3, "VM-Execution Control
 * Fields" of "Checks on VMX Controls"), one line each (their words: sdm/vmentry_checks.h). Failing is
 * VM-instruction error 7.
 *
 * No state is changed here. The VMCS is looked at, and VTPR in the virtual-APIC page.
 */
#include "cpu/internal.h"
#include "host/memory.h"

#define REQUIRE(cond, id)                                         \
	do {                                                      \
		if (unlikely(!(cond)))                            \
			vmentry_failed(f, VMENTRY_CHECK_##id, 0); \
	} while (0)

#define THRESHOLD_MASK 0xfU

static bool address_ok(uint64_t pa, uint64_t align)
{
	return IS_ALIGNED(pa, align) && !(pa >> VMX_HOST_MAXPHYADDR);
}

static uint32_t secondary_of(const struct vmcs *v)
{
	return v->CPU_BASED_VM_EXEC_CONTROL & CPU_BASED_ACTIVATE_SECONDARY_CONTROLS
		       ? (uint32_t)v->SECONDARY_VM_EXEC_CONTROL : 0;
}

void cpu_check_apic_controls(const struct vmcs *v, struct vmentry_failures *f)
{
	uint32_t pin = (uint32_t)v->PIN_BASED_VM_EXEC_CONTROL, secondary = secondary_of(v);
	bool shadow = v->CPU_BASED_VM_EXEC_CONTROL & CPU_BASED_TPR_SHADOW;
	bool vid = secondary & SECONDARY_EXEC_VIRTUAL_INTR_DELIVERY;

	if (shadow)
		REQUIRE(address_ok(v->VIRTUAL_APIC_PAGE_ADDR, PAGE_SIZE), CTL_VIRTUAL_APIC);
	else
		REQUIRE(!(secondary & (SECONDARY_EXEC_VIRTUALIZE_X2APIC_MODE |
				       SECONDARY_EXEC_APIC_REGISTER_VIRT |
				       SECONDARY_EXEC_VIRTUAL_INTR_DELIVERY)),
			CTL_APICV_WITHOUT_TPR_SHADOW);
	if (secondary & SECONDARY_EXEC_VIRTUALIZE_APIC_ACCESSES) {
		REQUIRE(address_ok(v->APIC_ACCESS_ADDR, PAGE_SIZE), CTL_APIC_ACCESS);
		REQUIRE(!(secondary & SECONDARY_EXEC_VIRTUALIZE_X2APIC_MODE),
			CTL_X2APIC_AND_ACCESSES);
	}
	REQUIRE(!vid || (pin & PIN_BASED_EXT_INTR_MASK),
		CTL_VID_WITHOUT_EXT_INTR);
	if (!(pin & PIN_BASED_POSTED_INTR))
		return;
	REQUIRE(vid, CTL_POSTED_WITHOUT_VID);
	REQUIRE(v->VM_EXIT_CONTROLS & VM_EXIT_ACK_INTR_ON_EXIT,
		CTL_POSTED_WITHOUT_ACK);
	REQUIRE(!(v->POSTED_INTR_NV >> 8), CTL_POSTED_VECTOR);
	REQUIRE(address_ok(v->POSTED_INTR_DESC_ADDR, 64), CTL_POSTED_DESCRIPTOR);
}

void cpu_check_tpr_threshold(const struct vmcs *v, struct vmentry_failures *f)
{
	uint32_t secondary = secondary_of(v);
	const uint8_t *vtpr;

	if (!(v->CPU_BASED_VM_EXEC_CONTROL & CPU_BASED_TPR_SHADOW) ||
	    (secondary & SECONDARY_EXEC_VIRTUAL_INTR_DELIVERY))
		return;
	REQUIRE(!(v->TPR_THRESHOLD & ~(uint64_t)THRESHOLD_MASK), CTL_TPR_THRESHOLD);
	if (secondary & SECONDARY_EXEC_VIRTUALIZE_APIC_ACCESSES)
		return;
	vtpr = __va(v->VIRTUAL_APIC_PAGE_ADDR + VAPIC_TPR);
	REQUIRE((v->TPR_THRESHOLD & THRESHOLD_MASK) <= (READ_ONCE(*vtpr) >> 4),
		CTL_TPR_OVER_VTPR);
}
