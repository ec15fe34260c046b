/*
 * ioctls of a vCPU (KVM API: vCPU ioctls). All hold vcpu->mutex: one at a time.
 */
#include <signal.h>
#include <string.h>

#include "abi/abi.h"
#include "abi/internal.h"
#include "host/confine.h"
#include "host/fault.h"
#include "host/service.h"
#include "lib/error.h"
#include "lib/export.h"
#include "lib/own.h"
#include "trace/trace.h"
#include "virt/kvm_newer.h"

/* --- KVM_RUN and its signals --- */

USERKVM_SHARED bool abi_hold_signal(int signo, siginfo_t *si, ucontext_t *uc, bool has_handler)
{
	if (kvm_signal_blocked_outside(signo)) {
		host_signal_leave_pending(signo, si, uc, false);
		kvm_running_vcpu_signal();
		return true;
	}
	return has_handler && host_signal_hold(signo, si, uc);
}

static long run(struct abi_call *c)
{
	int r = host_confine_thread();

	if (r)
		return r;
	if (!c->vcpu->run->immediate_exit)
		c->vcpu->arch->has_run = true;
	kvm_msr_filter_sync(c->vcpu);
	r = kvm_arch_vcpu_ioctl_run(c->vcpu);
	TRACE(kvm, kvm_userspace_exit, c->vcpu->run->exit_reason, r);
	return r;
}

static long set_sigmask(struct abi_call *c)
{
	const struct kvm_signal_mask *user = (const void *)c->arg;
	struct kvm_signal_mask head;
	uint64_t set;
	int r;

	if (!user) {
		c->vcpu->sigset_active = false;
		return 0;
	}
	r = host_copy_from(&head, user, sizeof(head));
	if (r)
		return r;
	if (head.len != sizeof(set))
		return err_born(EINVAL, "signal mask of %u bytes", head.len);
	r = host_copy_from(&set, user->sigset, sizeof(set));
	if (r)
		return r;
	/* KILL and STOP cannot be blocked. */
	c->vcpu->sigset = set & ~(BIT_ULL(SIGKILL - 1) | BIT_ULL(SIGSTOP - 1));
	c->vcpu->sigset_active = true;
	return 0;
}

/* --- CPUID and MSRs: lists of any length --- */

/*
 * A copy of the nr elements of size bytes behind a list's head: 0 with *out to
 * be freed, -E2BIG over max, -ENOMEM, -EFAULT.
 */
static int copy_list_in(const void *user, uint32_t nr, uint32_t max, size_t size, void **out)
{
	int r;

	if (nr > max)
		return err_born(E2BIG, "a list of %u entries", nr);
	*out = own_calloc(nr ? nr : 1, size);
	if (!*out)
		return err_born(ENOMEM, "a list of %u entries", nr);
	r = host_copy_from(*out, user, nr * size);
	if (r)
		own_free(*out);
	return r;
}

static long set_cpuid(struct abi_call *c)
{
	struct kvm_cpuid *user = (struct kvm_cpuid *)c->arg, head;
	void *entries;
	int r = host_copy_from(&head, user, sizeof(head));

	if (!r)
		r = copy_list_in(user->entries, head.nent, KVM_MAX_CPUID_ENTRIES, sizeof(user->entries[0]), &entries);
	if (r)
		return r;
	r = kvm_vcpu_ioctl_set_cpuid(c->vcpu, entries, head.nent);
	own_free(entries);
	return r;
}

static long set_cpuid2(struct abi_call *c)
{
	struct kvm_cpuid2 *user = (struct kvm_cpuid2 *)c->arg, head;
	void *entries;
	int r = host_copy_from(&head, user, sizeof(head));

	if (!r)
		r = copy_list_in(user->entries, head.nent, KVM_MAX_CPUID_ENTRIES, sizeof(user->entries[0]), &entries);
	if (r)
		return r;
	r = kvm_vcpu_ioctl_set_cpuid2(c->vcpu, entries, head.nent);
	own_free(entries);
	return r;
}

static long get_cpuid2(struct abi_call *c)
{
	struct kvm_cpuid2 *user = (struct kvm_cpuid2 *)c->arg, head;
	struct kvm_cpuid_entry2 *entries;
	int r = host_copy_from(&head, user, sizeof(head));

	if (r)
		return r;
	entries = own_calloc(KVM_MAX_CPUID_ENTRIES, sizeof(*entries));
	if (!entries)
		return err_born(ENOMEM, "CPUID entries");
	r = kvm_vcpu_ioctl_get_cpuid2(c->vcpu, entries, &head.nent);
	if (!r)
		r = host_copy_to(user->entries, entries, head.nent * sizeof(*entries));
	if (!r)
		r = host_copy_to(user, &head, sizeof(head));
	own_free(entries);
	return r;
}

static int get_one_msr(struct kvm_vcpu *vcpu, uint32_t index, uint64_t *data)
{
	return kvm_get_msr(vcpu, index, data, true);
}

static int set_one_msr(struct kvm_vcpu *vcpu, uint32_t index, uint64_t *data)
{
	return kvm_set_msr(vcpu, index, *data, true);
}

static long get_msrs(struct abi_call *c)
{
	return abi_msr_io(c->vcpu, c->arg, get_one_msr, true);
}

static long set_msrs(struct abi_call *c)
{
	return abi_msr_io(c->vcpu, c->arg, set_one_msr, false);
}

/* --- nested VMX --- */

static bool nested_state_is_offered(struct abi_call *c)
{
	return kvm_check_extension(c->vcpu->kvm, KVM_CAP_NESTED_STATE) != 0;
}

/* KVM API: KVM_GET_NESTED_STATE. -E2BIG, with the size wanted written, where the client has less room. */
static long get_nested_state(struct abi_call *c)
{
	struct kvm_nested_state *user = (struct kvm_nested_state *)c->arg;
	struct vmx_nested_state *state;
	uint32_t room, size;
	long r;

	if (!nested_state_is_offered(c))
		return err_born(EINVAL, "nested state without nested=1");
	r = host_copy_from(&room, &user->size, sizeof(room));
	if (r)
		return r;
	state = own_malloc(sizeof(*state));
	if (!state)
		return err_born(ENOMEM, "nested state");
	size = kvm_vcpu_ioctl_get_nested_state(c->vcpu, state);
	if (size > room) {
		r = host_copy_to(&user->size, &size, sizeof(size));
		r = r ? r : err_born(E2BIG, "%u bytes of nested state, room for %u", size, room);
	} else {
		r = host_copy_to(user, state, size);
	}
	own_free(state);
	return r;
}

static long set_nested_state(struct abi_call *c)
{
	const struct kvm_nested_state *user = (const struct kvm_nested_state *)c->arg;
	struct vmx_nested_state *state;
	long r;

	if (!nested_state_is_offered(c))
		return err_born(EINVAL, "nested state without nested=1");
	state = own_calloc(1, sizeof(*state));
	if (!state)
		return err_born(ENOMEM, "nested state");
	r = host_copy_from(&state->head, user, sizeof(state->head));
	if (!r && state->head.size > sizeof(state->head))
		r = host_copy_from((char *)state + sizeof(state->head), (const char *)user + sizeof(state->head),
				   min_u64(state->head.size, sizeof(*state)) - sizeof(state->head));
	if (!r)
		r = kvm_vcpu_ioctl_set_nested_state(c->vcpu, state);
	own_free(state);
	return r;
}

/* --- state, one function of the x86 room each --- */

#define STATE(name, function)                           \
	static long name(struct abi_call *c)            \
	{                                               \
		return function(c->vcpu, c->data);      \
	}
STATE(get_regs, kvm_vcpu_ioctl_get_regs)
STATE(set_regs, kvm_vcpu_ioctl_set_regs)
STATE(get_sregs, kvm_vcpu_ioctl_get_sregs)
STATE(set_sregs, kvm_vcpu_ioctl_set_sregs)
STATE(get_sregs2, kvm_vcpu_ioctl_get_sregs2)
STATE(set_sregs2, kvm_vcpu_ioctl_set_sregs2)
STATE(translate, kvm_vcpu_ioctl_translate)
STATE(get_fpu, kvm_vcpu_ioctl_get_fpu)
STATE(set_fpu, kvm_vcpu_ioctl_set_fpu)
STATE(get_xsave, kvm_vcpu_ioctl_get_xsave)
STATE(set_xsave, kvm_vcpu_ioctl_set_xsave)
STATE(get_xcrs, kvm_vcpu_ioctl_get_xcrs)
STATE(set_xcrs, kvm_vcpu_ioctl_set_xcrs)
STATE(get_debugregs, kvm_vcpu_ioctl_get_debugregs)
STATE(set_debugregs, kvm_vcpu_ioctl_set_debugregs)
STATE(get_mp_state, kvm_vcpu_ioctl_get_mpstate)
STATE(set_mp_state, kvm_vcpu_ioctl_set_mpstate)
STATE(interrupt, kvm_vcpu_ioctl_interrupt)
STATE(get_events, kvm_vcpu_ioctl_get_events)
STATE(set_events, kvm_vcpu_ioctl_set_events)
STATE(enable_cap, kvm_vcpu_ioctl_enable_cap)
STATE(set_mce, kvm_vcpu_ioctl_x86_set_mce)
#undef STATE

/* KVM API: KVM_SET_GUEST_DEBUG. -EBUSY beside a debugger of another process's (x86/debugger.h), which only off may pass. */
static long set_guest_debug(struct abi_call *c)
{
	const struct kvm_guest_debug *d = c->data;

	if (likely(!READ_ONCE(c->kvm->arch->debugger.attached)))
		return kvm_vcpu_ioctl_set_guest_debug(c->vcpu, d);
	return d->control ? err_told(EBUSY, "KVM_SET_GUEST_DEBUG while userkvm gdb debugs the VM") : 0;
}

static long setup_mce(struct abi_call *c)
{
	return kvm_vcpu_ioctl_x86_setup_mce(c->vcpu, *(uint64_t *)c->data);
}

static long get_lapic(struct abi_call *c)
{
	return c->vcpu->apic ? kvm_apic_get_state(c->vcpu, c->data) : err_born(EINVAL, "no local APIC");
}

static long set_lapic(struct abi_call *c)
{
	struct kvm_lapic_state state;
	int r;

	if (!c->vcpu->apic)
		return err_born(EINVAL, "no local APIC");
	r = host_copy_from(&state, (const void *)c->arg, sizeof(state));
	return r ? r : kvm_apic_set_state(c->vcpu, &state);
}

static long nmi(struct abi_call *c)
{
	kvm_inject_nmi(c->vcpu);
	return 0;
}

static long smi(struct abi_call *c)
{
	kvm_inject_smi(c->vcpu);
	return 0;
}

/* --- time --- */

static long set_tsc_khz(struct abi_call *c)
{
	return kvm_set_tsc_khz(c->vcpu, (uint32_t)c->arg);
}

static long get_tsc_khz(struct abi_call *c)
{
	return (int)c->vcpu->arch->virtual_tsc_khz;
}

static int vcpu_attr(const struct kvm_device_attr *a)
{
	if (a->group != KVM_VCPU_TSC_CTRL || a->attr != KVM_VCPU_TSC_OFFSET)
		return err_born(ENXIO, "vCPU attribute %u:%llu", a->group, a->attr);
	return 0;
}

static long has_device_attr(struct abi_call *c)
{
	return vcpu_attr(c->data);
}

static long get_device_attr(struct abi_call *c)
{
	const struct kvm_device_attr *a = c->data;
	int r = vcpu_attr(a);

	return r ? r : host_copy_to((void *)a->addr, &c->vcpu->arch->tsc_offset, sizeof(uint64_t));
}

static long set_device_attr(struct abi_call *c)
{
	const struct kvm_device_attr *a = c->data;
	uint64_t offset;
	int r = vcpu_attr(a);

	if (!r)
		r = host_copy_from(&offset, (const void *)a->addr, sizeof(offset));
	if (!r)
		kvm_set_tsc_offset(c->vcpu, offset);
	return r;
}

static long kvmclock_ctrl(struct abi_call *c)
{
	return kvm_vcpu_ioctl_kvmclock_ctrl(c->vcpu);
}

static long get_stats_fd(struct abi_call *c)
{
	return kvm_vcpu_ioctl_get_stats_fd(c->vcpu);
}

static long set_vapic_addr(struct abi_call *c)
{
	struct kvm_vapic_addr a;
	int r;

	if (!c->vcpu->apic)
		return err_born(EINVAL, "the VAPIC needs an in-process local APIC");
	r = host_copy_from(&a, (const void *)c->arg, sizeof(a));
	return r ? r : kvm_lapic_set_vapic_addr(c->vcpu, a.vapic_addr);
}

static long tpr_access_reporting(struct abi_call *c)
{
	struct kvm_tpr_access_ctl *ctl = c->data;

	if (ctl->flags)
		return err_born(EINVAL, "TPR access flags %#x", ctl->flags);
	c->vcpu->arch->tpr_access_reporting = ctl->enabled;
	return 0;
}

#define IN ABI_COPY_IN
#define OUT ABI_COPY_OUT
/* Not by ABI_ROW: the name must not be expanded on its way there. */
static long pre_fault_memory(struct abi_call *c)
{
	struct kvm_pre_fault_memory *range = c->data;
	uint64_t size = range->size;
	long r = 0;

	if (range->flags || !IS_ALIGNED(range->gpa, PAGE_SIZE) ||
	    !IS_ALIGNED(range->size, PAGE_SIZE) || range->gpa + range->size <= range->gpa)
		return err_born(EINVAL, "pre-fault of %#llx + %#llx, flags %#llx", range->gpa,
				range->size, range->flags);
	kvm_vcpu_load(c->vcpu);
	while (range->size && !r) {
		uint64_t done = 0;

		r = __atomic_load_n(&c->vcpu->signal_seen, __ATOMIC_SEQ_CST)
			    ? -EINTR : kvm_mmu_pre_fault(c->vcpu, range->gpa, range->size, &done);
		range->gpa += done;
		range->size -= done;
	}
	kvm_vcpu_put(c->vcpu);
	/* What was done is told, the error next time. */
	return range->size == size ? r : 0;
}

#define VCPU_ROW(request, arg, handler) \
	{ request, #request, ABI_VCPU, arg, ABI_VCPU_MUTEX, handler }

const struct abi_row abi_vcpu_rows[] = {
	VCPU_ROW(KVM_RUN, ABI_ARG_NONE, run), /* first: found at once */
	VCPU_ROW(KVM_GET_REGS, OUT, get_regs),
	VCPU_ROW(KVM_SET_REGS, IN, set_regs),
	VCPU_ROW(KVM_GET_SREGS, OUT, get_sregs),
	VCPU_ROW(KVM_SET_SREGS, IN, set_sregs),
	VCPU_ROW(KVM_GET_SREGS2, OUT, get_sregs2),
	VCPU_ROW(KVM_SET_SREGS2, IN, set_sregs2),
	VCPU_ROW(KVM_TRANSLATE, IN | OUT, translate),
	VCPU_ROW(KVM_GET_FPU, OUT, get_fpu),
	VCPU_ROW(KVM_SET_FPU, IN, set_fpu),
	VCPU_ROW(KVM_GET_XSAVE, OUT, get_xsave),
	VCPU_ROW(KVM_GET_XSAVE2, OUT, get_xsave),
	VCPU_ROW(KVM_SET_XSAVE, IN, set_xsave),
	VCPU_ROW(KVM_GET_XCRS, OUT, get_xcrs),
	VCPU_ROW(KVM_GET_NESTED_STATE, ABI_ARG_VALUE, get_nested_state),
	VCPU_ROW(KVM_SET_NESTED_STATE, ABI_ARG_VALUE, set_nested_state),
	VCPU_ROW(KVM_SET_XCRS, IN, set_xcrs),
	VCPU_ROW(KVM_GET_DEBUGREGS, OUT, get_debugregs),
	VCPU_ROW(KVM_SET_DEBUGREGS, IN, set_debugregs),
	VCPU_ROW(KVM_PRE_FAULT_MEMORY, IN | OUT, pre_fault_memory),
	VCPU_ROW(KVM_GET_MP_STATE, OUT, get_mp_state),
	VCPU_ROW(KVM_SET_MP_STATE, IN, set_mp_state),
	VCPU_ROW(KVM_SET_GUEST_DEBUG, IN, set_guest_debug),
	VCPU_ROW(KVM_INTERRUPT, IN, interrupt),
	VCPU_ROW(KVM_NMI, ABI_ARG_VALUE, nmi),
	VCPU_ROW(KVM_SMI, ABI_ARG_VALUE, smi),
	VCPU_ROW(KVM_GET_VCPU_EVENTS, OUT, get_events),
	VCPU_ROW(KVM_SET_VCPU_EVENTS, IN, set_events),
	VCPU_ROW(KVM_GET_LAPIC, OUT, get_lapic),
	VCPU_ROW(KVM_SET_LAPIC, ABI_ARG_VALUE, set_lapic),
	VCPU_ROW(KVM_SET_VAPIC_ADDR, ABI_ARG_VALUE, set_vapic_addr),
	VCPU_ROW(KVM_TPR_ACCESS_REPORTING, IN | OUT, tpr_access_reporting),
	VCPU_ROW(KVM_SET_CPUID, ABI_ARG_VALUE, set_cpuid),
	VCPU_ROW(KVM_SET_CPUID2, ABI_ARG_VALUE, set_cpuid2),
	VCPU_ROW(KVM_GET_CPUID2, ABI_ARG_VALUE, get_cpuid2),
	VCPU_ROW(KVM_GET_SUPPORTED_HV_CPUID, ABI_ARG_VALUE, abi_get_hv_cpuid),
	VCPU_ROW(KVM_GET_MSRS, ABI_ARG_VALUE, get_msrs),
	VCPU_ROW(KVM_SET_MSRS, ABI_ARG_VALUE, set_msrs),
	VCPU_ROW(KVM_SET_SIGNAL_MASK, ABI_ARG_VALUE, set_sigmask),
	VCPU_ROW(KVM_ENABLE_CAP, IN, enable_cap),
	VCPU_ROW(KVM_X86_SETUP_MCE, IN, setup_mce),
	VCPU_ROW(KVM_X86_SET_MCE, IN, set_mce),
	VCPU_ROW(KVM_SET_TSC_KHZ, ABI_ARG_VALUE, set_tsc_khz),
	VCPU_ROW(KVM_GET_TSC_KHZ, ABI_ARG_VALUE, get_tsc_khz),
	VCPU_ROW(KVM_HAS_DEVICE_ATTR, IN, has_device_attr),
	VCPU_ROW(KVM_GET_DEVICE_ATTR, IN, get_device_attr),
	VCPU_ROW(KVM_SET_DEVICE_ATTR, IN, set_device_attr),
	VCPU_ROW(KVM_GET_STATS_FD, ABI_ARG_VALUE, get_stats_fd),
	VCPU_ROW(KVM_KVMCLOCK_CTRL, ABI_ARG_VALUE, kvmclock_ctrl),
	{ 0 },
};
