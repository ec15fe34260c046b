/*
 * VMCS regions and the instructions that handle them: VMCLEAR, VMPTRLD,
 * VMPTRST, VMREAD, VMWRITE (SDM Vol. 3, "VMX Instruction Reference").
 *
 * Invariants
 * 1. A region begins with the revision identifier; the rest is struct vmcs and
 *    nobody else's business. Fields are stored truncated to their width.
 * 2. The running guest's cached controls (struct vmx_cpu) are read again from
 *    the region at each entry, so nothing here needs to tell anyone.
 * 3. IA32_VMX_MISC bit 29 is 0: exit-information fields are not writable.
 */
#include "cpu/internal.h"
#include "host/memory.h"

#define CELL_NONE 0

/* Fields of features the capability MSRs do not announce. */
static bool field_unsupported(uint32_t enc)
{
	switch (enc) {
	case POSTED_INTR_NV:
	case GUEST_INTR_STATUS:
	case VIRTUAL_APIC_PAGE_ADDR:
	case APIC_ACCESS_ADDR:
	case POSTED_INTR_DESC_ADDR:
	case VM_FUNCTION_CONTROL:
	case EOI_EXIT_BITMAP0:
	case EOI_EXIT_BITMAP1:
	case EOI_EXIT_BITMAP2:
	case EOI_EXIT_BITMAP3:
	case EPTP_LIST_ADDRESS:
	case VMREAD_BITMAP:
	case VMWRITE_BITMAP:
	case ENCLS_EXITING_BITMAP:
	case GUEST_BNDCFGS:
	case GUEST_IA32_PERF_GLOBAL_CTRL:
	case HOST_IA32_PERF_GLOBAL_CTRL:
	case TPR_THRESHOLD:
	case PLE_GAP:
	case PLE_WINDOW:
		return true;
	default:
		return false;
	}
}

/* Offset of a field's cell in struct vmcs; 0 where there is no such field. */
static size_t field_cell(uint32_t enc)
{
	switch (enc) {
#define CELL_CASE(name, nr) \
	case nr:            \
		return field_unsupported(nr) ? CELL_NONE : offsetof(struct vmcs, name);
		VMCS_FIELDS(CELL_CASE)
#undef CELL_CASE
	default:
		return CELL_NONE;
	}
}

/*
 * VMfail with a reason: VMfailValid where there is a current VMCS to write the
 * number into, VMfailInvalid otherwise.
 */
enum vmx_result vmx_fail(struct vmx_cpu *cpu, enum vm_instruction_error e)
{
	if (!cpu->vmcs)
		return VMX_FAIL_INVALID;
	cpu->vmcs->VM_INSTRUCTION_ERROR = e;
	return VMX_FAIL_VALID;
}

static bool region_address_ok(hpa_t pa)
{
	return pa && IS_ALIGNED(pa, PAGE_SIZE) && !(pa >> VMX_HOST_MAXPHYADDR);
}

enum vmx_result vmclear(struct vmx_cpu *cpu, hpa_t pa)
{
	struct vmcs *v = __va(pa);

	if (!region_address_ok(pa))
		return vmx_fail(cpu, VMXERR_VMCLEAR_INVALID_ADDRESS);
	v->launched = 0;
	if (cpu->vmcs == v)
		cpu->vmcs = NULL;
	return VMX_SUCCEED;
}

enum vmx_result vmptrld(struct vmx_cpu *cpu, hpa_t pa)
{
	struct vmcs *v = __va(pa);

	if (!region_address_ok(pa))
		return vmx_fail(cpu, VMXERR_VMPTRLD_INVALID_ADDRESS);
	if (v->revision_id != VMCS_REVISION_ID)
		return vmx_fail(cpu, VMXERR_VMPTRLD_INCORRECT_VMCS_REVISION_ID);
	cpu->vmcs = v;
	return VMX_SUCCEED;
}

hpa_t vmptrst(struct vmx_cpu *cpu)
{
	return cpu->vmcs ? __pa(cpu->vmcs) : ~0ULL;
}

/* The high half may be named only of a 64-bit field. */
static uint64_t *find_field(struct vmx_cpu *cpu, uint32_t field)
{
	size_t cell;

	if ((field & 1) && vmcs_field_width(field) != VMCS_WIDTH_64)
		return NULL;
	cell = field_cell(field & ~1U);
	return cell == CELL_NONE ? NULL : (uint64_t *)((char *)cpu->vmcs + cell);
}

enum vmx_result vmread(struct vmx_cpu *cpu, uint32_t field, uint64_t *value)
{
	uint64_t *cell;

	*value = 0;
	if (!cpu->vmcs)
		return VMX_FAIL_INVALID;
	cell = find_field(cpu, field);
	if (!cell)
		return vmx_fail(cpu, VMXERR_UNSUPPORTED_VMCS_COMPONENT);
	*value = (field & 1) ? *cell >> 32 : *cell;
	return VMX_SUCCEED;
}

enum vmx_result vmwrite(struct vmx_cpu *cpu, uint32_t field, uint64_t value)
{
	uint64_t *cell;

	if (!cpu->vmcs)
		return VMX_FAIL_INVALID;
	cell = find_field(cpu, field);
	if (!cell)
		return vmx_fail(cpu, VMXERR_UNSUPPORTED_VMCS_COMPONENT);
	if (vmcs_field_kind(field) == VMCS_KIND_RO)
		return vmx_fail(cpu, VMXERR_VMWRITE_READ_ONLY_VMCS_COMPONENT);
	if (field & 1)
		*cell = (uint32_t)*cell | value << 32;
	else if (vmcs_field_width(field) == VMCS_WIDTH_16)
		*cell = (uint16_t)value;
	else if (vmcs_field_width(field) == VMCS_WIDTH_32)
		*cell = (uint32_t)value;
	else
		*cell = value;
	return VMX_SUCCEED;
}
