/*
 * Memory operands of VMX instructions: where they are, and what an access to them raises (SDM Vol. 3,
 * "Information for VM Exits Due to Instruction Execution").
 *
 * Locks: none.
 */
#include <errno.h>

#include "mmu/mmu.h"
#include "sdm/paging.h"
#include "sdm/regs.h"
#include "vmx/internal.h"

/* Fields of VMX_INSTRUCTION_INFO (SDM "Information for VM Exits Due to Instruction Execution"). */
#define INFO_SCALING_MASK GENMASK_ULL(1, 0)
#define INFO_ADDRESS_SIZE_MASK GENMASK_ULL(9, 7) /* 0: 16 bits, 1: 32, 2: 64 */
#define INFO_SEGMENT_MASK GENMASK_ULL(17, 15)
#define INFO_INDEX_MASK GENMASK_ULL(21, 18)
#define INFO_INDEX_INVALID BIT_ULL(22)
#define INFO_BASE_MASK GENMASK_ULL(26, 23)
#define INFO_BASE_INVALID BIT_ULL(27)

static void undefined(struct kvm_vcpu *vcpu)
{
	vmx_services->queue_exception(vcpu, X86_TRAP_UD, false, 0, false, 0);
}

static void fault(struct kvm_vcpu *vcpu, uint8_t vector)
{
	vmx_services->queue_exception(vcpu, vector, true, 0, false, 0);
}

static uint64_t sign_extended(uint64_t v, unsigned bit)
{
	return (uint64_t)((int64_t)(v << (63 - bit)) >> (63 - bit));
}

/* The offset within the segment, cut to the address size. */
static uint64_t effective_address(struct kvm_vcpu *vcpu, uint32_t info, uint64_t displacement)
{
	uint64_t size = FIELD_GET(INFO_ADDRESS_SIZE_MASK, info), off = displacement;

	if (size == 0)
		off = sign_extended(off, 15);
	else if (size == 1)
		off = sign_extended(off, 31);
	if (!(info & INFO_BASE_INVALID))
		off += nested_vmx_read_reg(vcpu, (unsigned)FIELD_GET(INFO_BASE_MASK, info));
	if (!(info & INFO_INDEX_INVALID))
		off += nested_vmx_read_reg(vcpu, (unsigned)FIELD_GET(INFO_INDEX_MASK, info))
		       << FIELD_GET(INFO_SCALING_MASK, info);
	if (size == 0)
		return off & 0xffff;
	return size == 1 ? (uint32_t)off : off;
}

/* An expand-down segment begins behind its limit and ends with the addresses (SDM Vol. 3, "Limit Checking"). */
static bool beyond_limit(const struct kvm_segment *s, uint64_t off, unsigned len)
{
	if ((s->type & 0xc) != 4)
		return off + len - 1 > s->limit;
	return off <= s->limit || off + len - 1 > (s->db ? 0xffffffffULL : 0xffffULL);
}

/* Outside 64-bit mode: type, usability and limit of the segment. 0, or the vector to raise. */
static uint8_t segment_fault(const struct kvm_segment *s, enum sreg nr, uint64_t off, unsigned len, bool write)
{
	bool flat = s->base == 0 && s->limit == 0xffffffff && ((s->type & 8) || !(s->type & 4));

	if (write ? (s->type & 0xa) == 0 || (s->type & 8) : (s->type & 0xa) == 8)
		return X86_TRAP_GP;
	if (s->unusable || (!flat && beyond_limit(s, off, len)))
		return nr == SREG_SS ? X86_TRAP_SS : X86_TRAP_GP;
	return 0;
}

bool get_vmx_mem_address(struct kvm_vcpu *vcpu, unsigned len, bool write, gva_t *address)
{
	uint32_t info = vmcs_read32(vcpu, VMX_INSTRUCTION_INFO);
	enum sreg nr = (enum sreg)FIELD_GET(INFO_SEGMENT_MASK, info);
	struct kvm_segment s;
	uint8_t vector;
	uint64_t off;

	if (info & VMX_INSN_INFO_REGISTER) {
		undefined(vcpu);
		return false;
	}
	off = effective_address(vcpu, info, vmcs_readl(vcpu, EXIT_QUALIFICATION));
	vmx_get_segment(vcpu, &s, nr);
	if (vmx_is_64bit_code(vcpu)) {
		*address = off + (nr == SREG_FS || nr == SREG_GS ? s.base : 0);
		vector = nested_vmx_canonical(*address) ? 0 : nr == SREG_SS ? X86_TRAP_SS : X86_TRAP_GP;
	} else {
		*address = (uint32_t)(s.base + off);
		vector = segment_fault(&s, nr, off, len, write);
	}
	if (vector)
		fault(vcpu, vector);
	return !vector;
}

/* Of an L2's operand, whose VMREAD and VMWRITE shadowing leaves to us, EPT12 may be at fault: an exit of L1's. */
static void operand_fault(struct kvm_vcpu *vcpu, const struct kvm_page_fault_info *f)
{
	if (f->nested)
		nested_ept_inject_page_fault(vcpu, f);
	else
		vmx_services->queue_exception(vcpu, f->vector, true, f->error_code, true, f->address);
}

/* One page of it at most. 1 done, 0 the guest has a fault to see, < 0 unreadable. */
static int access_part(struct kvm_vcpu *vcpu, gva_t gva, void *buf, size_t len, bool write)
{
	struct kvm_page_fault_info f = { 0 };
	gpa_t gpa = kvm_mmu_gva_to_gpa(vcpu, gva, write ? PFERR_WRITE_MASK : 0U, &f);

	if (gpa == INVALID_PAGE) {
		operand_fault(vcpu, &f);
		return 0;
	}
	if (write ? vmx_services->write_guest(vcpu, gpa, buf, len) : kvm_vcpu_read_guest(vcpu, gpa, buf, len))
		return -EFAULT;
	return 1;
}

/* Both pages are translated before either is written, so that a fault changes nothing. */
static int access_guest(struct kvm_vcpu *vcpu, gva_t gva, void *buf, unsigned len, bool write)
{
	unsigned first = (unsigned)min_u64(len, PAGE_SIZE - (gva & ~PAGE_MASK));
	struct kvm_page_fault_info f = { 0 };
	int r;

	if (first < len && kvm_mmu_gva_to_gpa(vcpu, gva + first, write ? PFERR_WRITE_MASK : 0U, &f) ==
				   INVALID_PAGE &&
	    kvm_mmu_gva_to_gpa(vcpu, gva, write ? PFERR_WRITE_MASK : 0U, NULL) != INVALID_PAGE) {
		operand_fault(vcpu, &f);
		return 0;
	}
	r = access_part(vcpu, gva, buf, first, write);
	if (r == 1 && first < len)
		r = access_part(vcpu, gva + first, (char *)buf + first, len - first, write);
	return r;
}

/* An operand in no memory: as Linux, the instruction cannot be emulated. */
static int unreadable(struct kvm_vcpu *vcpu)
{
	vcpu->run->exit_reason = KVM_EXIT_INTERNAL_ERROR;
	vcpu->run->internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
	vcpu->run->internal.ndata = 0;
	return 0;
}

bool nested_vmx_read_operand(struct kvm_vcpu *vcpu, void *buf, unsigned len, int *r)
{
	gva_t gva;

	*r = 1;
	if (!get_vmx_mem_address(vcpu, len, false, &gva))
		return false;
	*r = access_guest(vcpu, gva, buf, len, false);
	if (*r == 1)
		return true;
	*r = *r == 0 ? 1 : unreadable(vcpu);
	return false;
}

bool nested_vmx_write_operand(struct kvm_vcpu *vcpu, const void *buf, unsigned len, int *r)
{
	gva_t gva;

	*r = 1;
	if (!get_vmx_mem_address(vcpu, len, true, &gva))
		return false;
	*r = access_guest(vcpu, gva, (void *)(uintptr_t)buf, len, true);
	if (*r == 1)
		return true;
	*r = *r == 0 ? 1 : unreadable(vcpu);
	return false;
}
