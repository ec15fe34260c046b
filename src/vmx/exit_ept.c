/*
 * EPT violations (reason 48) and misconfigurations (49): the way from the
 * processor into the MMU (SDM Vol. 3, "EPT-Induced VM Exits", table "Exit
 * Qualification for EPT Violations").
 */
#include <errno.h>

#include "host/memory.h"
#include "lib/log.h"
#include "lib/own.h"
#include "mmu/mmu.h"
#include "sdm/paging.h"
#include "trace/trace.h"
#include "virt/iodev.h"
#include "vmx/internal.h"

/* What became of the fault, as the run loop's value: 1 enters the guest, 0 leaves to the client, or -errno. */
static int finish_fault(struct kvm_vcpu *vcpu, const struct kvm_page_fault *f, enum ret_pf ret)
{
	int r;

	if (unlikely(ret == RET_PF_ERROR))
		return f->error;
	if (ret != RET_PF_EMULATE)
		return 1;
	if (likely(is_guest_mode(vcpu) || !kvm_mmu_gpa_is_tracked(vcpu, f->addr)))
		return vmx_services->emulate_instruction(vcpu, true, f->addr);
	kvm_mmu_track_lock(vcpu->kvm);
	r = vmx_services->emulate_instruction(vcpu, true, f->addr);
	kvm_mmu_track_unlock(vcpu->kvm);
	return r;
}

/* An EPT violation in KVM's words for a fault (Linux __vmx_handle_ept_violation). */
static uint64_t ept_violation_error_code(uint64_t exit_qualification)
{
	uint64_t error_code;

	error_code = exit_qualification & EPT_VIOLATION_ACC_READ ? PFERR_USER_MASK : 0;
	error_code |= exit_qualification & EPT_VIOLATION_ACC_WRITE ? PFERR_WRITE_MASK : 0;
	error_code |= exit_qualification & EPT_VIOLATION_ACC_INSTR ? PFERR_FETCH_MASK : 0;
	/* an entry that allows anything is there */
	error_code |= exit_qualification & (EPT_VIOLATION_READABLE | EPT_VIOLATION_WRITABLE |
					    EPT_VIOLATION_EXECUTABLE) ? PFERR_PRESENT_MASK : 0;
	error_code |= exit_qualification & EPT_VIOLATION_GVA_TRANSLATED ? PFERR_GUEST_FINAL_MASK
									 : PFERR_GUEST_PAGE_MASK;
	return error_code;
}

int handle_ept_violation(struct kvm_vcpu *vcpu)
{
	uint64_t exit_qualification;
	struct kvm_page_fault f;
	gpa_t gpa;
	int r;

	TRACE_CALL(handle_ept_violation, vcpu->vcpu_id, vmx_get_rip(vcpu));
	exit_qualification = vmcs_readl(vcpu, EXIT_QUALIFICATION);
	TRACE_LINE(vmcs_readl_EXIT_QUALIFICATION, exit_qualification);
	vcpu->vmx->exit_qualification = exit_qualification; /* vcpu->arch.exit_qualification */
	TRACE_LINE(arch_exit_qualification, vcpu->vmx->exit_qualification);

	/*
	 * The access that failed was of an IRET that had already unblocked
	 * NMIs; it will run again and must find them blocked.
	 */
	if (!(vcpu->vmx->idt_vectoring_info & INTR_INFO_VALID_MASK) &&
	    (exit_qualification & EPT_VIOLATION_NMI_UNBLOCK))
		vmx_set_nmi_mask(vcpu, true);

	gpa = vmcs_read64(vcpu, GUEST_PHYSICAL_ADDRESS);
	TRACE(kvm, kvm_page_fault, vcpu->vcpu_id, vmx_get_rip(vcpu), gpa, exit_qualification);

	f = (struct kvm_page_fault){ .addr = gpa, .error_code = ept_violation_error_code(exit_qualification) };
	/* event delivery cannot be emulated: what it writes to may be no table any more */
	if (unlikely(vcpu->vmx->idt_vectoring_info & INTR_INFO_VALID_MASK) && f.error_code & PFERR_WRITE_MASK &&
	    !is_guest_mode(vcpu))
		kvm_mmu_unprotect_gpa(vcpu, gpa);
	if (unlikely(is_guest_mode(vcpu))) {
		char text[VMX_STUCK_TEXT];
		struct vmx_stuck look = vmx_look_at_l2_fault(vcpu, gpa, exit_qualification, text);

		r = finish_fault(vcpu, &f, kvm_mmu_page_fault(vcpu, &f));
		if (!is_guest_mode(vcpu)) /* it has gone to L1 */
			vmx_note_l1_fault(vcpu, &look, text);
		return r;
	}
	r = finish_fault(vcpu, &f, kvm_mmu_page_fault(vcpu, &f));
	if (unlikely(r == -EFAULT))
		vmx_note_client_fault(vcpu, gpa, exit_qualification);
	return r;
}

#define OPCODE_MOV_STORE 0x88	  /* and 89h: MOV r/m, r */
#define OPCODE_MOV_STORE_IMM 0xc6 /* and c7h: MOV r/m, imm */

/* Nothing but a store: operand size and REX prefixes, and the opcode of MOV to memory. */
static bool is_plain_store(const struct vmx_exit_insn *i)
{
	unsigned n = 0;

	if (!i->write || i->read)
		return false;
	if (i->bytes[n] == 0x66)
		n++;
	if ((i->bytes[n] & 0xf0) == 0x40) /* outside 64-bit mode no prefix, and no access to memory either */
		n++;
	return (i->bytes[n] | 1) == (OPCODE_MOV_STORE | 1) || (i->bytes[n] | 1) == (OPCODE_MOV_STORE_IMM | 1);
}

/*
 * An ioeventfd that matches every write to its address, whatever the value (Linux: KVM_FAST_MMIO_BUS): the store is
 * done when it is signalled, and skipped. The exit tells no length (SDM: undefined), the processor's decode assist does.
 */
static bool fast_mmio(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	struct vmx_exit_insn insn;

	if (is_guest_mode(vcpu) || !READ_ONCE(vcpu->kvm->buses[KVM_FAST_MMIO_BUS]) ||
	    !vmx_exit_insn(vmx_processor(vcpu), &insn) || !is_plain_store(&insn) ||
	    kvm_io_bus_write(vcpu, KVM_FAST_MMIO_BUS, gpa, 0, NULL))
		return false;
	TRACE(kvm, kvm_fast_mmio, gpa);
	vmx_skip_bytes(vcpu, insn.len);
	return true;
}

int handle_ept_misconfig(struct kvm_vcpu *vcpu)
{
	struct kvm_page_fault f = { .addr = vmcs_read64(vcpu, GUEST_PHYSICAL_ADDRESS), .error_code = PFERR_RSVD_MASK };
	gpa_t gpa = f.addr;

	TRACE_CALL(handle_ept_misconfig, vcpu->vcpu_id, gpa);
	if (fast_mmio(vcpu, gpa))
		return 1;
	switch (handle_mmio_page_fault(vcpu, &f)) {
	case RET_PF_EMULATE:
		return vmx_services->emulate_instruction(vcpu, true, gpa);
	case RET_PF_RETRY:
	case RET_PF_FIXED:
	case RET_PF_SPURIOUS:
		return 1;
	case RET_PF_INVALID:
	case RET_PF_CONTINUE:
		return finish_fault(vcpu, &f, kvm_mmu_page_fault(vcpu, &f));
	case RET_PF_ERROR:
		break;
	}
	/* reserved bits in an entry of our own */
	log_always("vmx: EPT misconfiguration at gpa %llx", (unsigned long long)gpa);
	vcpu->run->exit_reason = KVM_EXIT_UNKNOWN;
	vcpu->run->hw.hardware_exit_reason = EXIT_REASON_EPT_MISCONFIG;
	return 0;
}

/*
 * A kick, mostly. After VMX_BUS_ERROR the memory behind a leaf has gone: drop
 * what maps it and let the guest fault, so that the client's mapping is looked
 * at again (and -EFAULT comes out if there is none). An address in no slot is a
 * slot's that was deleted a moment ago, once; again and again, it is a fault of the
 * processor's own.
 */
#define MAX_STRAYS 3

static int handle_bus_error(struct kvm_vcpu *vcpu)
{
	struct vcpu_vmx *vmx = vcpu->vmx;
	hva_t page = vmx_bus_error_address(vmx->cpu) & PAGE_MASK;
	const struct host_mapping_change gone = { page, page + PAGE_SIZE, HOST_MAPPING_GONE, 0 };
	const char *what, *file;
	int line;

	if (unlikely(vmx_broken(vmx->cpu, &what, &file, &line))) {
		kvm_vm_bugged_at(vcpu->kvm, what, file, line);
		return -EIO;
	}
	if (likely(kvm_mmu_uses_hva(vcpu->kvm, page, page + PAGE_SIZE))) {
		vmx->nr_strays = 0;
		host_mapping_update(&gone); /* the client has changed something unseen */
		kvm_mmu_invalidate_hva_range(page, page + PAGE_SIZE);
		return 1;
	}
	if (page != vmx->stray_page)
		vmx->nr_strays = 0;
	vmx->stray_page = page;
	if (kvm_bug_on(vcpu->kvm, ++vmx->nr_strays >= MAX_STRAYS || own_overlaps(page, PAGE_SIZE)))
		return -EIO;
	return 1;
}

int handle_external_interrupt(struct kvm_vcpu *vcpu)
{
	if (unlikely(vcpu->vmx->result == VMX_BUS_ERROR))
		return handle_bus_error(vcpu);
	vcpu->stat.irq_exits++;
	return 1;
}
