/*
 * Hypercalls (KVM API: "KVM Hypercalls"; number in RAX, arguments in RBX, RCX,
 * RDX, RSI, result in RAX) and HLT.
 */
#include "lib/futex.h"
#include "sdm/paging.h"
#include "trace/trace.h"
#include "x86/run.h"

/* after sdm/regs.h: its macros have the names of some of our enumerators */
#include <errno.h>
#include <linux/kvm_para.h>

#define HYPERCALL_BYTES 3

const uint8_t kvm_vmmcall[HYPERCALL_BYTES] = { 0x0f, 0x01, 0xd9 };
static const uint8_t vmcall[HYPERCALL_BYTES] = { 0x0f, 0x01, 0xc1 };

/* KVM_HC_KICK_CPU: wake the vCPU with this APIC id out of a paravirtual spinlock's HLT. */
static void kick_cpu(struct kvm_vcpu *vcpu, uint64_t apicid)
{
	struct kvm_vcpu *target = kvm_get_vcpu_by_id(vcpu->kvm, (uint32_t)apicid);

	if (!target)
		return;
	__atomic_store_n(&target->arch->pv_unhalted, true, __ATOMIC_SEQ_CST);
	kvm_make_request(KVM_REQ_EVENT, target);
	kvm_vcpu_kick(target);
	kvm_vcpu_wake_up(target);
}

/*
 * KVM_HC_SCHED_YIELD: another vCPU is waited for. A thread cannot give its time to
 * a given one, but its turn to whichever waits for this processor.
 */
static void sched_yield_to(struct kvm_vcpu *vcpu, uint64_t apicid)
{
	struct kvm_vcpu *target = kvm_get_vcpu_by_id(vcpu->kvm, (uint32_t)apicid);

	if (target && target != vcpu)
		futex_yield();
}

static int complete_hypercall_exit_skipped(struct kvm_vcpu *vcpu)
{
	uint64_t ret = vcpu->run->hypercall.ret;

	vmx_regs(vcpu)[RAX] = vmx_is_64bit_code(vcpu) ? ret : (uint32_t)ret;
	return 1;
}

static int complete_hypercall_exit(struct kvm_vcpu *vcpu)
{
	int r = complete_hypercall_exit_skipped(vcpu);

	vmx_skip_emulated_instruction(vcpu);
	return r;
}

/* KVM_HC_MAP_GPA_RANGE is the client's business, if it said so. */
static int map_gpa_range(struct kvm_vcpu *vcpu, const uint64_t a[3], bool skip)
{
	struct kvm_run *run = vcpu->run;

	run->exit_reason = KVM_EXIT_HYPERCALL;
	run->hypercall.nr = KVM_HC_MAP_GPA_RANGE;
	run->hypercall.args[0] = a[0];
	run->hypercall.args[1] = a[1];
	run->hypercall.args[2] = a[2];
	run->hypercall.longmode = vmx_is_64bit_code(vcpu);
	vcpu->arch->complete_userspace_io = skip ? complete_hypercall_exit
						 : complete_hypercall_exit_skipped;
	return 0;
}

static int pv_hypercall(struct kvm_vcpu *vcpu, bool skip)
{
	uint64_t *regs = vmx_regs(vcpu);
	bool wide = vmx_is_64bit_code(vcpu);
	uint64_t mask = wide ? ~0ULL : 0xffffffff;
	uint64_t nr = regs[RAX] & mask;
	uint64_t args[4] = { regs[RBX] & mask, regs[RCX] & mask, regs[RDX] & mask, regs[RSI] & mask };
	int64_t ret = -KVM_ENOSYS;

	TRACE(kvm, kvm_hypercall, nr, args[0], args[1], args[2], regs[RSI] & mask);
	if (vmx_get_cpl(vcpu) != 0) {
		ret = -KVM_EPERM;
	} else {
		switch (nr) {
		case KVM_HC_VAPIC_POLL_IRQ:
			ret = 0;
			break;
		case KVM_HC_KICK_CPU:
			if (!guest_pv_has(vcpu, KVM_FEATURE_PV_UNHALT))
				break;
			kick_cpu(vcpu, args[1]);
			ret = 0;
			break;
		case KVM_HC_SEND_IPI:
			if (!vcpu->apic || !guest_pv_has(vcpu, KVM_FEATURE_PV_SEND_IPI))
				break;
			ret = kvm_pv_send_ipi(vcpu, args[0], args[1], (uint32_t)args[2], args[3], wide);
			if (ret < 0)
				ret = -KVM_EINVAL;
			break;
		case KVM_HC_CLOCK_PAIRING:
			ret = -KVM_EOPNOTSUPP;
			break;
		case KVM_HC_SCHED_YIELD:
			if (!guest_pv_has(vcpu, KVM_FEATURE_PV_SCHED_YIELD))
				break;
			sched_yield_to(vcpu, args[0]);
			ret = 0;
			break;
		case KVM_HC_MAP_GPA_RANGE:
			if (vcpu->kvm->arch->hypercall_exit_enabled & BIT_ULL(KVM_HC_MAP_GPA_RANGE))
				return map_gpa_range(vcpu, args, skip);
			break;
		}
	}
	regs[RAX] = (uint64_t)ret & mask;
	if (skip)
		vmx_skip_emulated_instruction(vcpu);
	return 1;
}

void kvm_hypercall_undefined(struct kvm_vcpu *vcpu, bool skip)
{
	if (!skip)
		vmx_set_rip(vcpu, vmx_get_rip(vcpu) - HYPERCALL_BYTES);
	kvm_queue_exception(vcpu, X86_TRAP_UD);
}

int kvm_hypercall(struct kvm_vcpu *vcpu, bool skip)
{
	return kvm_hyperv_ops->hypercall_enabled(vcpu) ? kvm_hyperv_ops->hypercall(vcpu, skip)
						       : pv_hypercall(vcpu, skip);
}

const uint8_t *kvm_native_hypercall(struct kvm_vcpu *vcpu)
{
	return guest_cpuid_is_amd(vcpu) ? kvm_vmmcall : vmcall;
}

/* Three bytes of code at RIP, as the guest could write them itself. False: it could not. */
static bool patch_code(struct kvm_vcpu *vcpu, const uint8_t insn[HYPERCALL_BYTES])
{
	uint32_t access = PFERR_WRITE_MASK | (vmx_get_cpl(vcpu) == 3 ? PFERR_USER_MASK : 0U);
	gva_t lin = kvm_get_linear_rip(vcpu);
	gpa_t gpa[HYPERCALL_BYTES];

	for (unsigned n = 0; n < HYPERCALL_BYTES; n++) {
		gpa[n] = kvm_mmu_gva_to_gpa(vcpu, lin + n, access, NULL);
		if (gpa[n] == INVALID_PAGE)
			return false;
	}
	for (unsigned n = 0; n < HYPERCALL_BYTES; n++)
		if (kvm_write_guest_as_processor(vcpu, gpa[n], &insn[n], 1))
			return false;
	return true;
}

/*
 * VMCALL of a guest whose CPUID says AMD, or VMMCALL of another: an invalid
 * opcode on the processor it takes this one for. KVM puts the right one in its
 * place, which then runs (KVM_X86_QUIRK_FIX_HYPERCALL_INSN). Code that cannot
 * be written is served as it is: false.
 */
static bool foreign_hypercall(struct kvm_vcpu *vcpu)
{
	if (vcpu->kvm->arch->disabled_quirks & KVM_X86_QUIRK_FIX_HYPERCALL_INSN) {
		kvm_queue_exception(vcpu, X86_TRAP_UD);
		return true;
	}
	return patch_code(vcpu, kvm_native_hypercall(vcpu));
}

int kvm_emulate_hypercall(struct kvm_vcpu *vcpu)
{
	if (unlikely(guest_cpuid_is_amd(vcpu)) && foreign_hypercall(vcpu))
		return 1;
	return kvm_hypercall(vcpu, true);
}

int kvm_emulate_vmmcall(struct kvm_vcpu *vcpu)
{
	if (!guest_cpuid_is_amd(vcpu) && foreign_hypercall(vcpu))
		return 1;
	vmx_set_rip(vcpu, vmx_get_rip(vcpu) + HYPERCALL_BYTES);
	vmx_set_interrupt_shadow(vcpu, 0);
	vcpu->stat.hypercalls++;
	return kvm_hypercall(vcpu, false);
}

/* RIP is past the HLT. The in-process APIC decides when it ends, else the client. */
int kvm_emulate_halt(struct kvm_vcpu *vcpu)
{
	if (vcpu->apic) {
		if (__atomic_exchange_n(&vcpu->arch->pv_unhalted, false, __ATOMIC_SEQ_CST))
			return 1;
		__atomic_store_n(&vcpu->arch->mp_state, KVM_MP_STATE_HALTED, __ATOMIC_SEQ_CST);
		return 1;
	}
	vcpu->run->exit_reason = KVM_EXIT_HLT;
	return 0;
}
