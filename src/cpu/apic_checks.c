/*
 * VM entry's checks of the APIC virtualization controls (SDM Vol. 3, "VM-Execution Control
 * Fields" of "Checks on VMX Controls"), one line each with its reason. Failing is
 * VM-instruction error 7.
 *
 * No state is changed here. The VMCS is looked at, and VTPR in the virtual-APIC page.
 */
#include "cpu/internal.h"
#include "host/memory.h"

#define REQUIRE(cond, why)          \
	do {                        \
		if (!(cond))        \
			return why; \
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

const char *cpu_check_apic_controls(const struct vmcs *v)
{
	uint32_t pin = (uint32_t)v->PIN_BASED_VM_EXEC_CONTROL, secondary = secondary_of(v);
	bool shadow = v->CPU_BASED_VM_EXEC_CONTROL & CPU_BASED_TPR_SHADOW;
	bool vid = secondary & SECONDARY_EXEC_VIRTUAL_INTR_DELIVERY;

	if (shadow)
		REQUIRE(address_ok(v->VIRTUAL_APIC_PAGE_ADDR, PAGE_SIZE), "virtual-APIC page address");
	else
		REQUIRE(!(secondary & (SECONDARY_EXEC_VIRTUALIZE_X2APIC_MODE |
				       SECONDARY_EXEC_APIC_REGISTER_VIRT |
				       SECONDARY_EXEC_VIRTUAL_INTR_DELIVERY)),
			"APIC virtualization without TPR shadow");
	if (secondary & SECONDARY_EXEC_VIRTUALIZE_APIC_ACCESSES) {
		REQUIRE(address_ok(v->APIC_ACCESS_ADDR, PAGE_SIZE), "APIC-access address");
		REQUIRE(!(secondary & SECONDARY_EXEC_VIRTUALIZE_X2APIC_MODE),
			"x2APIC mode and APIC accesses are virtualized");
	}
	REQUIRE(!vid || (pin & PIN_BASED_EXT_INTR_MASK),
		"virtual-interrupt delivery without external-interrupt exiting");
	if (!(pin & PIN_BASED_POSTED_INTR))
		return NULL;
	REQUIRE(vid, "posted interrupts without virtual-interrupt delivery");
	REQUIRE(v->VM_EXIT_CONTROLS & VM_EXIT_ACK_INTR_ON_EXIT,
		"posted interrupts without acknowledging interrupts on exit");
	REQUIRE(!(v->POSTED_INTR_NV >> 8), "posted-interrupt notification vector");
	REQUIRE(address_ok(v->POSTED_INTR_DESC_ADDR, 64), "posted-interrupt descriptor address");
	return NULL;
}

const char *cpu_check_tpr_threshold(const struct vmcs *v)
{
	uint32_t secondary = secondary_of(v);
	const uint8_t *vtpr;

	if (!(v->CPU_BASED_VM_EXEC_CONTROL & CPU_BASED_TPR_SHADOW) ||
	    (secondary & SECONDARY_EXEC_VIRTUAL_INTR_DELIVERY))
		return NULL;
	REQUIRE(!(v->TPR_THRESHOLD & ~(uint64_t)THRESHOLD_MASK), "TPR threshold: reserved bits");
	if (secondary & SECONDARY_EXEC_VIRTUALIZE_APIC_ACCESSES)
		return NULL;
	vtpr = __va(v->VIRTUAL_APIC_PAGE_ADDR + VAPIC_TPR);
	REQUIRE((v->TPR_THRESHOLD & THRESHOLD_MASK) <= (READ_ONCE(*vtpr) >> 4),
		"TPR threshold over the virtual TPR");
	return NULL;
}
