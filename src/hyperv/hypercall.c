/*
 * Hyper-V's hypercalls (TLFS "Hypercall Interface"): what each may look like and
 * who may make it is a table; the rest is in the functions it names.
 *
 * Input value in RCX, parameters in RDX and R8; of 32-bit code EDX:EAX, EBX:ECX
 * and EDI:ESI. They are addresses of input and output, or with HV_HYPERCALL_FAST
 * the input itself, which XMM0-5 continue. The result is RAX, or EDX:EAX.
 */

#include "hyperv/internal.h"
#include "lib/futex.h"
#include "trace/trace.h"
#include "x86/run.h"

#define HVCALL_FLUSH_VIRTUAL_ADDRESS_SPACE 0x02
#define HVCALL_FLUSH_VIRTUAL_ADDRESS_LIST 0x03
#define HVCALL_NOTIFY_LONG_SPIN_WAIT 0x08
#define HVCALL_SEND_IPI 0x0b
#define HVCALL_FLUSH_VIRTUAL_ADDRESS_SPACE_EX 0x13
#define HVCALL_FLUSH_VIRTUAL_ADDRESS_LIST_EX 0x14
#define HVCALL_SEND_IPI_EX 0x15
#define HVCALL_POST_MESSAGE 0x5c
#define HVCALL_SIGNAL_EVENT 0x5d
#define HVCALL_POST_DEBUG_DATA 0x69
#define HVCALL_RETRIEVE_DEBUG_DATA 0x6a
#define HVCALL_RESET_DEBUG_SESSION 0x6b

/* The input value. */
#define HV_HYPERCALL_CODE GENMASK_ULL(15, 0)
#define HV_HYPERCALL_FAST BIT_ULL(16)
#define HV_HYPERCALL_VARHEAD GENMASK_ULL(26, 17)
#define HV_HYPERCALL_REP_COUNT GENMASK_ULL(43, 32) /* of the result: repetitions done */
#define HV_HYPERCALL_REP_START GENMASK_ULL(59, 48)
#define HV_HYPERCALL_RESERVED (GENMASK_ULL(31, 27) | GENMASK_ULL(47, 44) | GENMASK_ULL(63, 60))

#define HV_STATUS_SUCCESS 0
#define HV_STATUS_INVALID_HYPERCALL_CODE 2
#define HV_STATUS_INVALID_HYPERCALL_INPUT 3
#define HV_STATUS_INVALID_ALIGNMENT 4
#define HV_STATUS_INVALID_PARAMETER 5
#define HV_STATUS_ACCESS_DENIED 6
#define HV_STATUS_OPERATION_DENIED 8
#define HV_STATUS_INVALID_PORT_ID 17
/* No status: */
#define TO_CLIENT (~0ULL)  /* KVM_EXIT_HYPERV_HCALL brings it */
#define UNDEFINED (~0ULL - 1) /* #UD */

#define HV_FLUSH_ALL_PROCESSORS BIT_ULL(0)
#define HV_GENERIC_SET_SPARSE_4K 0
#define HV_GENERIC_SET_ALL 1
#define HV_IPI_LOW_VECTOR 0x10
#define HV_IPI_HIGH_VECTOR 0xff
#define NR_XMM 6
#define NR_BANKS (KVM_MAX_VCPUS / 64)

struct hv_call {
	uint64_t param, in, out; /* in, out: addresses, or the input */
	uint16_t code, var_cnt, rep_cnt, rep_idx;
	bool fast;
	uint64_t xmm[NR_XMM][2];
};

/* HV_INPUT_FLUSH_VIRTUAL_ADDRESS_SPACE(_EX), HV_INPUT_SEND_SYNTHETIC_CLUSTER_IPI(_EX) */
struct hv_tlb_flush {
	uint64_t address_space, flags, processor_mask;
};
struct hv_vpset {
	uint64_t format, valid_bank_mask;
};
struct hv_tlb_flush_ex {
	uint64_t address_space, flags;
	struct hv_vpset vps; /* banks follow */
};
struct hv_send_ipi {
	uint32_t vector, reserved;
	uint64_t cpu_mask;
};
struct hv_send_ipi_ex {
	uint32_t vector, reserved;
	struct hv_vpset vps; /* banks follow */
};

/* --- sets of virtual processors --- */

/* By VP index: a bank of 64 for each bit of `valid`, the lowest first. */
struct vp_set {
	bool all;
	uint64_t valid, bank[NR_BANKS];
};

static bool has_vp(const struct vp_set *set, uint32_t vp_index)
{
	uint64_t bank = BIT_ULL(vp_index / 64);

	if (set->all)
		return true;
	return (set->valid & bank) &&
	       (set->bank[__builtin_popcountll(set->valid & (bank - 1))] & BIT_ULL(vp_index % 64));
}

/* The banks behind a fast call's `used` halves of XMM registers, or behind the input's head of `head` bytes. */
static uint64_t read_vp_set(struct kvm_vcpu *vcpu, const struct hv_call *c, const struct hv_vpset *vps,
			    unsigned used, size_t head, struct vp_set *set)
{
	unsigned nr = (unsigned)min_u64(c->var_cnt, NR_BANKS); /* no VP index is in one behind */

	set->valid = vps->valid_bank_mask;
	if (c->var_cnt != __builtin_popcountll(set->valid))
		return HV_STATUS_INVALID_HYPERCALL_INPUT;
	if (set->all || !nr)
		return HV_STATUS_SUCCESS;
	if (!c->fast)
		return kvm_vcpu_read_guest(vcpu, c->in + head, set->bank, nr * sizeof(set->bank[0]))
			       ? HV_STATUS_INVALID_HYPERCALL_INPUT
			       : HV_STATUS_SUCCESS;
	if (c->var_cnt > 2 * NR_XMM - used)
		return HV_STATUS_INVALID_HYPERCALL_INPUT;
	for (unsigned i = 0; i < nr; i++)
		set->bank[i] = c->xmm[(i + used) / 2][(i + used) % 2];
	return HV_STATUS_SUCCESS;
}

/* --- flushing TLBs --- */

/* Everything of the guest's goes, whatever address space and addresses were named. */
static uint64_t flush(struct kvm_vcpu *vcpu, const struct hv_call *c, const struct vp_set *set)
{
	uint64_t mask[KVM_VCPU_MASK_WORDS] = { 0 };
	struct kvm_vcpu *target;
	uint32_t i;

	kvm_for_each_vcpu(i, target, vcpu->kvm)
		if (has_vp(set, hv_vp_index(target)))
			mask[i / 64] |= BIT_ULL(i % 64);
	kvm_make_vcpus_request_mask(vcpu->kvm, KVM_REQ_TLB_FLUSH_GUEST, mask);
	return HV_STATUS_SUCCESS | FIELD_PREP(HV_HYPERCALL_REP_COUNT, c->rep_cnt);
}

static uint64_t flush_tlb(struct kvm_vcpu *vcpu, struct hv_call *c)
{
	struct hv_tlb_flush f = { c->in, c->out, c->xmm[0][0] };
	struct vp_set set = { .valid = 1 };

	if (!c->fast && kvm_vcpu_read_guest(vcpu, c->in, &f, sizeof(f)))
		return HV_STATUS_INVALID_HYPERCALL_INPUT;
	TRACE(kvm, kvm_hv_flush_tlb, f.processor_mask, f.address_space, f.flags);
	/* Windows Server 2012 names nobody and means all, says KVM */
	set.all = (f.flags & HV_FLUSH_ALL_PROCESSORS) || !f.processor_mask;
	set.bank[0] = f.processor_mask;
	return flush(vcpu, c, &set);
}

static uint64_t flush_tlb_ex(struct kvm_vcpu *vcpu, struct hv_call *c)
{
	struct hv_tlb_flush_ex f = { c->in, c->out, { c->xmm[0][0], c->xmm[0][1] } };
	struct vp_set set = { 0 };
	uint64_t status;

	if (!c->fast && kvm_vcpu_read_guest(vcpu, c->in, &f, sizeof(f)))
		return HV_STATUS_INVALID_HYPERCALL_INPUT;
	TRACE(kvm, kvm_hv_flush_tlb_ex, f.vps.valid_bank_mask, f.vps.format, f.address_space, f.flags);
	set.all = f.vps.format != HV_GENERIC_SET_SPARSE_4K;
	status = read_vp_set(vcpu, c, &f.vps, 2, sizeof(f), &set);
	return status ? status : flush(vcpu, c, &set);
}

/* --- IPIs --- */

static uint64_t deliver_ipi(struct kvm_vcpu *vcpu, uint32_t vector, const struct vp_set *set)
{
	struct kvm_vcpu *target;
	uint32_t i;

	if (vector < HV_IPI_LOW_VECTOR || vector > HV_IPI_HIGH_VECTOR)
		return HV_STATUS_INVALID_HYPERCALL_INPUT;
	kvm_for_each_vcpu(i, target, vcpu->kvm)
		if (has_vp(set, hv_vp_index(target)))
			kvm_apic_set_irq(target, (uint8_t)vector);
	return HV_STATUS_SUCCESS;
}

static uint64_t send_ipi(struct kvm_vcpu *vcpu, struct hv_call *c)
{
	struct hv_send_ipi s = { (uint32_t)c->in, (uint32_t)(c->in >> 32), c->out };
	struct vp_set set = { .valid = 1 };

	if (!vcpu->apic || (c->fast && s.reserved))
		return HV_STATUS_INVALID_HYPERCALL_INPUT;
	if (!c->fast && kvm_vcpu_read_guest(vcpu, c->in, &s, sizeof(s)))
		return HV_STATUS_INVALID_HYPERCALL_INPUT;
	TRACE(kvm, kvm_hv_send_ipi, s.vector, s.cpu_mask);
	set.bank[0] = s.cpu_mask;
	return deliver_ipi(vcpu, s.vector, &set);
}

static uint64_t send_ipi_ex(struct kvm_vcpu *vcpu, struct hv_call *c)
{
	struct hv_send_ipi_ex s = { (uint32_t)c->in, 0, { c->out, c->xmm[0][0] } };
	struct vp_set set = { 0 };
	uint64_t status;

	if (!vcpu->apic || (!c->fast && kvm_vcpu_read_guest(vcpu, c->in, &s, sizeof(s))))
		return HV_STATUS_INVALID_HYPERCALL_INPUT;
	TRACE(kvm, kvm_hv_send_ipi_ex, s.vector, s.vps.format, s.vps.valid_bank_mask);
	set.all = s.vps.format == HV_GENERIC_SET_ALL;
	status = read_vp_set(vcpu, c, &s.vps, 1, sizeof(s), &set);
	if (status || (!set.all && !c->var_cnt))
		return status;
	return deliver_ipi(vcpu, s.vector, &set);
}

/* --- for the client --- */

static uint64_t post_message(struct kvm_vcpu *vcpu, struct hv_call *c)
{
	/* one without a SynIC has no use for it */
	return vcpu->arch->hv.synic ? TO_CLIENT : HV_STATUS_INVALID_HYPERCALL_INPUT;
}

/* The input: connection id in bits 31:0, flag number in 47:32. */
static uint64_t signal_event(struct kvm_vcpu *vcpu, struct hv_call *c)
{
	uint64_t in = c->in;

	if (!c->fast && ((c->in % sizeof(in)) || kvm_vcpu_read_guest(vcpu, c->in, &in, sizeof(in))))
		return HV_STATUS_INVALID_ALIGNMENT;
	c->in = in; /* what the client gets */
	if (!(in & GENMASK_ULL(47, 32))) {
		if (in & ~(uint64_t)KVM_HYPERV_CONN_ID_MASK)
			return HV_STATUS_INVALID_HYPERCALL_INPUT;
		if (hv_signal_connection(vcpu->kvm, (uint32_t)in))
			return HV_STATUS_SUCCESS;
	}
	return post_message(vcpu, c);
}

static uint64_t debug_session(struct kvm_vcpu *vcpu, struct hv_call *c)
{
	if (c->fast && c->code != HVCALL_RESET_DEBUG_SESSION)
		return HV_STATUS_INVALID_PARAMETER;
	if (!hv_syndbg_enabled(vcpu))
		return HV_STATUS_INVALID_HYPERCALL_CODE;
	if (!(READ_ONCE(vcpu->kvm->arch->hv.syndbg.options) & HV_SYNDBG_USE_HCALLS))
		return HV_STATUS_OPERATION_DENIED;
	return TO_CLIENT;
}

/* Whoever the guest waits for may have this processor (kvm_vcpu_on_spin). */
static uint64_t long_spin_wait(struct kvm_vcpu *vcpu, struct hv_call *c)
{
	futex_yield();
	return HV_STATUS_SUCCESS;
}

/* --- who may call what --- */

static bool may_spin(const struct kvm_vcpu *vcpu)
{
	uint32_t retries = vcpu->arch->hv.cpuid.hints_ebx;

	return retries && retries != ~0u; /* ~0: never notify */
}

#define NO_VAR 1u
#define NO_REP 2u
#define REP 4u	 /* some, from the first on */
#define XMM 8u	 /* a fast call's input goes on there */

static const struct call {
	uint16_t code;
	uint8_t rules;
	uint32_t hints_eax, features_ebx; /* CPUID bits that it takes, where they are enforced */
	uint64_t (*serve)(struct kvm_vcpu *vcpu, struct hv_call *c);
} calls[] = {
	{ HVCALL_FLUSH_VIRTUAL_ADDRESS_SPACE, NO_VAR | NO_REP | XMM, HV_REMOTE_TLB_FLUSH, 0, flush_tlb },
	{ HVCALL_FLUSH_VIRTUAL_ADDRESS_LIST, NO_VAR | REP | XMM, HV_REMOTE_TLB_FLUSH, 0, flush_tlb },
	{ HVCALL_FLUSH_VIRTUAL_ADDRESS_SPACE_EX, NO_REP | XMM, HV_REMOTE_TLB_FLUSH | HV_EX_PROCESSOR_MASKS, 0,
	  flush_tlb_ex },
	{ HVCALL_FLUSH_VIRTUAL_ADDRESS_LIST_EX, REP | XMM, HV_REMOTE_TLB_FLUSH | HV_EX_PROCESSOR_MASKS, 0,
	  flush_tlb_ex },
	{ HVCALL_SEND_IPI, NO_VAR | NO_REP, HV_CLUSTER_IPI, 0, send_ipi },
	{ HVCALL_SEND_IPI_EX, NO_REP | XMM, HV_CLUSTER_IPI | HV_EX_PROCESSOR_MASKS, 0, send_ipi_ex },
	{ HVCALL_NOTIFY_LONG_SPIN_WAIT, NO_VAR | NO_REP, 0, 0, long_spin_wait },
	{ HVCALL_POST_MESSAGE, NO_VAR | NO_REP, 0, HV_POST_MESSAGES, post_message },
	{ HVCALL_SIGNAL_EVENT, NO_VAR | NO_REP, 0, HV_SIGNAL_EVENTS, signal_event },
	{ HVCALL_POST_DEBUG_DATA, 0, 0, HV_DEBUGGING, debug_session },
	{ HVCALL_RETRIEVE_DEBUG_DATA, 0, 0, HV_DEBUGGING, debug_session },
	{ HVCALL_RESET_DEBUG_SESSION, 0, 0, HV_DEBUGGING, debug_session },
};

static const struct call *find_call(uint16_t code)
{
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++)
		if (calls[i].code == code)
			return &calls[i];
	return NULL;
}

static bool access_allowed(struct kvm_vcpu *vcpu, const struct call *call)
{
	const struct kvm_hv_cpuid *cpuid = &vcpu->arch->hv.cpuid;

	if (!call || !vcpu->arch->hv.enforce_cpuid)
		return true;
	if (call->serve == long_spin_wait)
		return may_spin(vcpu);
	if (call->serve == debug_session && !hv_syndbg_enabled(vcpu))
		return true; /* it does not exist */
	return (cpuid->hints_eax & call->hints_eax) == call->hints_eax &&
	       (cpuid->features_ebx & call->features_ebx) == call->features_ebx;
}

static bool form_allowed(const struct call *call, const struct hv_call *c)
{
	if ((call->rules & NO_VAR) && c->var_cnt)
		return false;
	if ((call->rules & NO_REP) && (c->rep_cnt || c->rep_idx))
		return false;
	return !(call->rules & REP) || (c->rep_cnt && !c->rep_idx);
}

/* --- in and out --- */

bool kvm_hv_hypercall_enabled(struct kvm_vcpu *vcpu)
{
	return unlikely(vcpu->arch->hv.cpuid.enabled) && READ_ONCE(vcpu->kvm->arch->hv.guest_os_id);
}

static void read_call(struct kvm_vcpu *vcpu, struct hv_call *c)
{
	const uint64_t *r = vmx_regs(vcpu);

	if (vmx_is_64bit_code(vcpu)) {
		*c = (struct hv_call){ .param = r[RCX], .in = r[RDX], .out = r[R8] };
	} else {
		*c = (struct hv_call){
			.param = (uint32_t)r[RAX] | r[RDX] << 32,
			.in = (uint32_t)r[RCX] | r[RBX] << 32,
			.out = (uint32_t)r[RSI] | r[RDI] << 32,
		};
	}
	c->code = (uint16_t)FIELD_GET(HV_HYPERCALL_CODE, c->param);
	c->var_cnt = (uint16_t)FIELD_GET(HV_HYPERCALL_VARHEAD, c->param);
	c->rep_cnt = (uint16_t)FIELD_GET(HV_HYPERCALL_REP_COUNT, c->param);
	c->rep_idx = (uint16_t)FIELD_GET(HV_HYPERCALL_REP_START, c->param);
	c->fast = c->param & HV_HYPERCALL_FAST;
	TRACE(kvm, kvm_hv_hypercall, c->code, c->fast, c->var_cnt, c->rep_cnt, c->rep_idx, c->in, c->out);
}

static void set_result(struct kvm_vcpu *vcpu, uint64_t result)
{
	uint64_t *regs = vmx_regs(vcpu);
	bool wide = vmx_is_64bit_code(vcpu);

	TRACE(kvm, kvm_hv_hypercall_done, result);
	regs[RAX] = wide ? result : (uint32_t)result;
	if (!wide)
		regs[RDX] = result >> 32;
}

static int complete_call_skipped(struct kvm_vcpu *vcpu)
{
	set_result(vcpu, vcpu->run->hyperv.u.hcall.result);
	return 1;
}

static int complete_call(struct kvm_vcpu *vcpu)
{
	int r = complete_call_skipped(vcpu);

	vmx_skip_emulated_instruction(vcpu);
	return r;
}

static int ask_client(struct kvm_vcpu *vcpu, const struct hv_call *c, bool skip)
{
	struct kvm_hyperv_exit *exit = &vcpu->run->hyperv;

	vcpu->run->exit_reason = KVM_EXIT_HYPERV;
	exit->type = KVM_EXIT_HYPERV_HCALL;
	exit->u.hcall.input = c->param;
	exit->u.hcall.params[0] = c->in;
	exit->u.hcall.params[1] = c->out;
	vcpu->arch->complete_userspace_io = skip ? complete_call : complete_call_skipped;
	return 0;
}

/* The status, or TO_CLIENT, or UNDEFINED. */
static uint64_t serve(struct kvm_vcpu *vcpu, struct hv_call *c)
{
	const struct kvm_vcpu_hv *hv = &vcpu->arch->hv;
	const struct call *call = find_call(c->code);

	if (!access_allowed(vcpu, call))
		return HV_STATUS_ACCESS_DENIED;
	if (c->param & HV_HYPERCALL_RESERVED)
		return HV_STATUS_INVALID_HYPERCALL_INPUT;
	if (!call)
		return HV_STATUS_INVALID_HYPERCALL_CODE;
	if (c->fast && (call->rules & XMM)) {
		if (hv->enforce_cpuid && !(hv->cpuid.features_edx & HV_XMM_INPUT))
			return UNDEFINED;
		kvm_read_xmm(vcpu, c->xmm, NR_XMM);
	}
	return form_allowed(call, c) ? call->serve(vcpu, c) : HV_STATUS_INVALID_HYPERCALL_INPUT;
}

int kvm_hv_hypercall(struct kvm_vcpu *vcpu, bool skip)
{
	struct hv_call c;
	uint64_t status = UNDEFINED;

	if (vmx_get_cpl(vcpu) == 0 && (vmx_get_cr0(vcpu) & X86_CR0_PE)) {
		read_call(vcpu, &c);
		status = serve(vcpu, &c);
	}
	if (status == TO_CLIENT)
		return ask_client(vcpu, &c, skip);
	if (status == UNDEFINED) {
		kvm_hypercall_undefined(vcpu, skip);
		return 1;
	}
	set_result(vcpu, status);
	if (skip)
		vmx_skip_emulated_instruction(vcpu);
	return 1;
}
