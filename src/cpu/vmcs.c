/*
 * VMCS regions and the instructions that handle them: VMCLEAR, VMPTRLD,
 * VMPTRST, VMREAD, VMWRITE (SDM Vol. 3, "VMX Instruction Reference").
 *
 * Invariants
 * 1. A region begins with the revision identifier; the rest is struct vmcs and
 *    nobody else's business. Fields are stored truncated to their width.
 * 2. The running guest's cached controls (struct vmx_cpu) are read again from
 *    the region at each entry; what an entry may leave out is in v->stale, which
 *    no write of software passes by: VMWRITE is the only one to a current VMCS. A
 *    write of the value that is there makes nothing stale.
 * 3. Between VMPTRLD of one VMCS and of another nobody writes the region of the first: what
 *    its checks have found holds when it is current again.
 * 4. IA32_VMX_MISC bit 29 is 1: exit-information fields are writable, in a shadow VMCS and in others.
 * 5. A region whose revision has bit 31 is a shadow VMCS: no VM entry with it, only VMREAD and VMWRITE of
 *    guests by the link pointer of another (sysinsn_vmx.c).
 */
#include "cpu/internal.h"
#include "host/memory.h"

/* Fields of features the capability MSRs do not announce. */
#define UNSUPPORTED(enc)                                                                       \
	((enc) == EPTP_LIST_ADDRESS ||                                                         \
	 (enc) == ENCLS_EXITING_BITMAP || (enc) == GUEST_BNDCFGS ||                            \
	 (enc) == GUEST_IA32_PERF_GLOBAL_CTRL || (enc) == HOST_IA32_PERF_GLOBAL_CTRL)

#define RFLAGS_OF_RESULTS (X86_FLAGS_ARITH | X86_FLAGS_DF | X86_FLAGS_RF)

/* Looked at by each VM entry, so that a write makes nothing stale. */
#define CHECKED_ALWAYS(enc)                                                                    \
	((enc) == VM_ENTRY_INTR_INFO_FIELD || (enc) == VM_ENTRY_EXCEPTION_ERROR_CODE ||        \
	 (enc) == VM_ENTRY_INSTRUCTION_LEN || (enc) == GUEST_RIP || (enc) == GUEST_RSP ||      \
	 (enc) == GUEST_INTERRUPTIBILITY_INFO || (enc) == GUEST_ACTIVITY_STATE ||              \
	 (enc) == GUEST_PENDING_DBG_EXCEPTIONS || (enc) == GUEST_PML_INDEX ||                  \
	 (enc) == VMX_PREEMPTION_TIMER_VALUE || (enc) == GUEST_INTR_STATUS ||                  \
	 (enc) == TPR_THRESHOLD)

/* enum vmcs_stale of a write. All checks depend on controls. */
#define STALE(enc)                                                                             \
	(CHECKED_ALWAYS(enc) ? 0                                                               \
	 : ((enc) >> 10 & 3) == VMCS_KIND_GUEST ? VMCS_CHECK_GUEST | VMCS_LOAD_GUEST | VMCS_LOAD_REST \
	 : ((enc) >> 10 & 3) == VMCS_KIND_HOST ? VMCS_CHECK_HOST                               \
	 : ((enc) >> 10 & 3) == VMCS_KIND_RO ? 0                                               \
	 : VMCS_CHECK_CONTROLS | VMCS_CHECK_HOST | VMCS_CHECK_GUEST | VMCS_LOAD_REST)

/* 0: there is no such field. */
const uint16_t vmx_vmcs_cells[512] = {
#define FIELD(name, enc) [VMX_FIELD_SLOT(enc)] = UNSUPPORTED(enc) ? 0 : offsetof(struct vmcs, name),
	VMCS_FIELDS(FIELD)
#undef FIELD
};
static const uint8_t stale_by_write[512] = {
#define FIELD(name, enc) [VMX_FIELD_SLOT(enc)] = STALE(enc),
	VMCS_FIELDS(FIELD)
#undef FIELD
};
#define FIELD_HAS_SLOT(name, enc) static_assert(!((enc) & ~VMX_FIELD_BITS), #name);
VMCS_FIELDS(FIELD_HAS_SLOT)
#undef FIELD_HAS_SLOT

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
	v->home = 0;
	if (cpu->vmcs == v)
		cpu->vmcs = NULL;
	return VMX_SUCCEED;
}

enum vmx_result vmptrld(struct vmx_cpu *cpu, hpa_t pa)
{
	struct vmcs *v = __va(pa);

	if (!region_address_ok(pa))
		return vmx_fail(cpu, VMXERR_VMPTRLD_INVALID_ADDRESS);
	if ((v->revision_id & ~VMCS_REVISION_SHADOW) != VMCS_REVISION_ID)
		return vmx_fail(cpu, VMXERR_VMPTRLD_INCORRECT_VMCS_REVISION_ID);
	/* what has been checked of a VMCS stays so while another one is current; a copy of the region is another VMCS */
	v->stale = v->home == pa ? v->stale | VMCS_LOAD_GUEST | VMCS_LOAD_REST : VMCS_STALE_ALL;
	v->home = pa;
	cpu->vmcs = v;
	return VMX_SUCCEED;
}

hpa_t vmptrst(struct vmx_cpu *cpu)
{
	return cpu->vmcs ? __pa(cpu->vmcs) : ~0ULL;
}

/* The high half may be named only of a 64-bit field. NULL: no such field. */
static uint64_t *find_cell(struct vmcs *v, uint32_t enc)
{
	uint16_t cell;

	if ((enc & 1) && vmcs_field_width(enc) != VMCS_WIDTH_64)
		return NULL;
	if (enc & ~(VMX_FIELD_BITS | 1))
		return NULL;
	cell = vmx_vmcs_cells[VMX_FIELD_SLOT(enc)];
	return cell ? (uint64_t *)((char *)v + cell) : NULL;
}

bool cpu_vmcs_read(struct vmcs *v, uint32_t field, uint64_t *value)
{
	const uint64_t *cell = find_cell(v, field);

	*value = 0;
	if (unlikely(!cell))
		return false;
	*value = (field & 1) ? *cell >> 32 : *cell;
	return true;
}

bool cpu_vmcs_write(struct vmcs *v, uint32_t field, uint64_t value)
{
	uint64_t *cell = find_cell(v, field), old;

	if (unlikely(!cell))
		return false;
	old = *cell;
	if (field & 1)
		*cell = (uint32_t)*cell | value << 32;
	else if (vmcs_field_width(field) == VMCS_WIDTH_16)
		*cell = (uint16_t)value;
	else if (vmcs_field_width(field) == VMCS_WIDTH_32)
		*cell = (uint32_t)value;
	else
		*cell = value;
	if (*cell == old)
		return true;
	/*
	 * Of RFLAGS, VM alone decides what other fields may hold; the rest is looked at by each entry. What entry loads
	 * and leaves out depends on none of those that an emulated instruction changes, RF among them.
	 */
	if (field == GUEST_RFLAGS && !((*cell ^ old) & X86_FLAGS_VM))
		v->stale |= (*cell ^ old) & ~RFLAGS_OF_RESULTS ? VMCS_LOAD_REST : 0;
	else
		v->stale |= stale_by_write[VMX_FIELD_SLOT(field)];
	return true;
}

enum vmx_result vmread(struct vmx_cpu *cpu, uint32_t field, uint64_t *value)
{
	*value = 0;
	if (unlikely(!cpu->vmcs))
		return VMX_FAIL_INVALID;
	return likely(cpu_vmcs_read(cpu->vmcs, field, value)) ? VMX_SUCCEED
							     : vmx_fail(cpu, VMXERR_UNSUPPORTED_VMCS_COMPONENT);
}

enum vmx_result vmwrite(struct vmx_cpu *cpu, uint32_t field, uint64_t value)
{
	if (!cpu->vmcs)
		return VMX_FAIL_INVALID;
	return cpu_vmcs_write(cpu->vmcs, field, value) ? VMX_SUCCEED
						      : vmx_fail(cpu, VMXERR_UNSUPPORTED_VMCS_COMPONENT);
}
