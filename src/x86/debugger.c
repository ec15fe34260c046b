/*
 * The debugger's side of debugger.h: hold, look, change, run on.
 *
 * Invariant: a vCPU's guest_debug is the debugger's from attach to detach; abi refuses the client's while
 * kvm_debugger_vm.attached.
 */
#include "x86/debugger.h"

#include <pthread.h>
#include <string.h>
#include <time.h>

#include "lib/error.h"
#include "lib/futex.h"
#include "x86/run.h"

#define HOLD_TRIES 5000 /* of LOOK_AGAIN_NS each, at least */
#define LOOK_AGAIN_NS (1000ULL * 1000)
#define XSTATE_BV_OFFSET 512 /* SDM Vol. 1, "XSAVE Header" */

/* A kick may fall between a vCPU's last look at its hold and its entry: it is repeated until the vCPU is out. */
static void push(struct kvm_vcpu *vcpu)
{
	kvm_make_request(KVM_REQ_UNBLOCK, vcpu);
	kvm_vcpu_kick(vcpu);
}

static void pause_briefly(void)
{
	struct timespec t = { .tv_nsec = LOOK_AGAIN_NS };

	nanosleep(&t, NULL);
}

int kvm_debugger_begin(struct kvm_vcpu *vcpu)
{
	struct kvm_debugger_vm *d = &vcpu->kvm->arch->debugger;

	for (int tries = 0; tries < HOLD_TRIES; tries++) {
		pthread_mutex_lock(&d->lock);
		d->owns_mutex = false;
		if (vcpu->arch->debugger.parked)
			return 0;
		if (pthread_mutex_trylock(&vcpu->mutex) == 0) {
			d->owns_mutex = true;
			return 0;
		}
		pthread_mutex_unlock(&d->lock);
		push(vcpu);
		pause_briefly();
	}
	return err_born(ETIMEDOUT, "vCPU %u does not leave the guest for its debugger", vcpu->vcpu_id);
}

void kvm_debugger_end(struct kvm_vcpu *vcpu)
{
	struct kvm_debugger_vm *d = &vcpu->kvm->arch->debugger;

	if (d->owns_mutex)
		pthread_mutex_unlock(&vcpu->mutex);
	pthread_mutex_unlock(&d->lock);
}

static bool client_debugs(struct kvm *kvm)
{
	struct kvm_vcpu *vcpu;
	uint32_t i;

	kvm_for_each_vcpu(i, vcpu, kvm)
		if (READ_ONCE(vcpu->arch->guest_debug))
			return true;
	return false;
}

int kvm_debugger_attach(struct kvm *kvm)
{
	struct kvm_debugger_vm *d = &kvm->arch->debugger;
	struct kvm_vcpu *vcpu;
	uint32_t i;
	int r = 0;

	pthread_mutex_lock(&d->lock);
	if (d->attached)
		r = err_born(EBUSY, "the VM has a debugger");
	else if (client_debugs(kvm))
		r = err_born(EBUSY, "the client debugs the VM (KVM_SET_GUEST_DEBUG)");
	else
		__atomic_store_n(&d->attached, true, __ATOMIC_SEQ_CST);
	kvm_for_each_vcpu(i, vcpu, kvm)
		if (!r)
			__atomic_store_n(&vcpu->arch->debugger.on, true, __ATOMIC_SEQ_CST);
	pthread_mutex_unlock(&d->lock);
	return r;
}

static int set_debug(struct kvm_vcpu *vcpu, const struct kvm_debugger_plan *plan)
{
	struct kvm_guest_debug g = { .control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP };

	if (plan->step)
		g.control |= KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_BLOCKIRQ;
	if (plan->dr7) {
		g.control |= KVM_GUESTDBG_USE_HW_BP;
		memcpy(g.arch.debugreg, plan->db, sizeof(plan->db));
		g.arch.debugreg[7] = plan->dr7;
	}
	return kvm_vcpu_ioctl_set_guest_debug(vcpu, &g);
}

static void release(struct kvm_vcpu *vcpu)
{
	__atomic_store_n(&vcpu->arch->debugger.hold, false, __ATOMIC_SEQ_CST);
	kvm_vcpu_kick(vcpu);
}

void kvm_debugger_detach(struct kvm *kvm)
{
	static const struct kvm_guest_debug none;
	struct kvm_vcpu *vcpu;
	uint32_t i;
	int r = 0;

	/* every one on hold first: what runs could still hit what is being taken away */
	kvm_for_each_vcpu(i, vcpu, kvm)
		__atomic_store_n(&vcpu->arch->debugger.hold, true, __ATOMIC_SEQ_CST);
	kvm_for_each_vcpu(i, vcpu, kvm) {
		r = kvm_debugger_begin(vcpu);
		if (r) /* it stays as it is, and a stop of it would be nobody's: debug_park.c */
			continue;
		(void)kvm_vcpu_ioctl_set_guest_debug(vcpu, &none);
		vcpu->arch->debugger.hit = false;
		kvm_debugger_end(vcpu);
	}
	pthread_mutex_lock(&kvm->arch->debugger.lock);
	kvm_for_each_vcpu(i, vcpu, kvm) {
		__atomic_store_n(&vcpu->arch->debugger.on, false, __ATOMIC_SEQ_CST);
		release(vcpu);
	}
	__atomic_store_n(&kvm->arch->debugger.attached, false, __ATOMIC_SEQ_CST);
	pthread_mutex_unlock(&kvm->arch->debugger.lock);
}

int kvm_debugger_hold(struct kvm *kvm)
{
	struct kvm_vcpu *vcpu;
	uint32_t i;
	int r = 0;

	kvm_for_each_vcpu(i, vcpu, kvm) {
		__atomic_store_n(&vcpu->arch->debugger.on, true, __ATOMIC_SEQ_CST);
		__atomic_store_n(&vcpu->arch->debugger.hold, true, __ATOMIC_SEQ_CST);
		push(vcpu);
	}
	kvm_for_each_vcpu(i, vcpu, kvm) {
		r = kvm_debugger_begin(vcpu);
		if (r)
			break;
		kvm_debugger_end(vcpu);
	}
	return r;
}

bool kvm_debugger_fetch(struct kvm *kvm, struct kvm_debugger_hit *hit)
{
	struct kvm_debugger_vm *d = &kvm->arch->debugger;
	struct kvm_vcpu *vcpu;
	bool found = false;
	uint32_t i;

	pthread_mutex_lock(&d->lock);
	kvm_for_each_vcpu(i, vcpu, kvm) {
		struct kvm_debugger_vcpu *v = &vcpu->arch->debugger;

		if (found || !v->hit)
			continue;
		v->hit = false;
		found = true;
		*hit = (struct kvm_debugger_hit){ vcpu->vcpu_id, v->vector, v->dr6 };
	}
	pthread_mutex_unlock(&d->lock);
	return found;
}

int kvm_debugger_run(struct kvm_vcpu *vcpu, const struct kvm_debugger_plan *plan)
{
	int r = set_debug(vcpu, plan);

	vcpu->arch->debugger.hit = false;
	if (!r)
		release(vcpu);
	return r;
}

void kvm_debugger_give_back(struct kvm_vcpu *vcpu, const struct kvm_debugger_hit *hit)
{
	if (hit->vector == X86_TRAP_BP)
		kvm_queue_exception(vcpu, X86_TRAP_BP);
	else
		kvm_queue_exception_p(vcpu, X86_TRAP_DB, hit->dr6 & ~(uint64_t)DR6_ACTIVE_LOW);
}

/* --- AVX's and AVX-512's state, in an XSAVE area of the standard format --- */

#define COMPONENT(number, field) \
	{ number, sizeof(((struct kvm_debugger_vectors *)0)->field), offsetof(struct kvm_debugger_vectors, field) }
static const struct vector_component {
	uint16_t number, size, offset; /* bytes; in struct kvm_debugger_vectors */
} vector_components[] = { COMPONENT(2, ymm_high), COMPONENT(5, k), COMPONENT(6, zmm_high), COMPONENT(7, zmm16) };
#undef COMPONENT
static_assert(XFEATURE_MASK_AVX512 == (BIT_ULL(5) | BIT_ULL(6) | BIT_ULL(7)), "components");

/* Where the area has the component, or NULL. */
static char *component_in(struct kvm_xsave *x, const struct vector_component *c)
{
	uint32_t offset, size;
	bool aligned;

	return kvm_xstate_component(c->number, &offset, &size, &aligned) && size == c->size &&
	       offset + size <= sizeof(x->region) ? (char *)x->region + offset : NULL;
}

static void get_vectors(struct kvm_vcpu *vcpu, struct kvm_debugger_vectors *v)
{
	struct kvm_xsave x;

	v->components = vcpu->arch->guest_supported_xcr0 & (XFEATURE_MASK_YMM | XFEATURE_MASK_AVX512);
	(void)kvm_vcpu_ioctl_get_xsave(vcpu, &x);
	for (size_t i = 0; i < ARRAY_SIZE(vector_components); i++) {
		const struct vector_component *c = &vector_components[i];
		const char *at = component_in(&x, c);

		if (at) /* one in its initial state is zero there */
			memcpy((char *)v + c->offset, at, c->size);
	}
}

static int set_vectors(struct kvm_vcpu *vcpu, const struct kvm_debugger_vectors *now, const struct kvm_debugger_vectors *v)
{
	struct kvm_xsave x;
	uint64_t in_use;

	(void)kvm_vcpu_ioctl_get_xsave(vcpu, &x);
	memcpy(&in_use, (char *)x.region + XSTATE_BV_OFFSET, sizeof(in_use));
	for (size_t i = 0; i < ARRAY_SIZE(vector_components); i++) {
		const struct vector_component *c = &vector_components[i];
		char *at = component_in(&x, c);

		if (memcmp((const char *)now + c->offset, (const char *)v + c->offset, c->size) == 0)
			continue;
		if (!at || !(now->components & BIT_ULL(c->number)))
			return err_born(EINVAL, "the guest has no state component %u", c->number);
		memcpy(at, (const char *)v + c->offset, c->size);
		in_use |= BIT_ULL(c->number);
	}
	memcpy((char *)x.region + XSTATE_BV_OFFSET, &in_use, sizeof(in_use));
	return kvm_vcpu_ioctl_set_xsave(vcpu, &x);
}

void kvm_debugger_get_regs(struct kvm_vcpu *vcpu, struct kvm_debugger_regs *r)
{
	*r = (struct kvm_debugger_regs){ 0 };
	(void)kvm_vcpu_ioctl_get_regs(vcpu, &r->regs);
	(void)kvm_vcpu_ioctl_get_sregs(vcpu, &r->sregs);
	(void)kvm_vcpu_ioctl_get_fpu(vcpu, &r->fpu);
	(void)kvm_get_msr(vcpu, MSR_KERNEL_GS_BASE, &r->kernel_gs_base, true);
	get_vectors(vcpu, &r->vectors);
}

/* What has not changed is not set: setting is more than storing (a pending exception goes, MMUs are chosen anew). */
int kvm_debugger_set_regs(struct kvm_vcpu *vcpu, const struct kvm_debugger_regs *r)
{
	struct kvm_debugger_regs now;
	int e = 0;

	kvm_debugger_get_regs(vcpu, &now);
	if (memcmp(&now.sregs, &r->sregs, sizeof(now.sregs)) != 0)
		e = kvm_vcpu_ioctl_set_sregs(vcpu, &r->sregs);
	if (!e && memcmp(&now.regs, &r->regs, sizeof(now.regs)) != 0)
		e = kvm_vcpu_ioctl_set_regs(vcpu, &r->regs);
	if (!e && memcmp(&now.fpu, &r->fpu, sizeof(now.fpu)) != 0)
		e = kvm_vcpu_ioctl_set_fpu(vcpu, &r->fpu);
	if (!e && memcmp(&now.vectors, &r->vectors, sizeof(now.vectors)) != 0)
		e = set_vectors(vcpu, &now.vectors, &r->vectors);
	if (!e && now.kernel_gs_base != r->kernel_gs_base &&
	    kvm_set_msr(vcpu, MSR_KERNEL_GS_BASE, r->kernel_gs_base, true))
		e = err_born(EINVAL, "kernel GS base %#llx", (unsigned long long)r->kernel_gs_base);
	return e;
}

bool kvm_debugger_has_long_mode(struct kvm_vcpu *vcpu)
{
	return guest_cpuid_bit(vcpu, 0x80000001, 0, CPUID_EDX, 29);
}

bool kvm_debugger_is_halted(struct kvm_vcpu *vcpu)
{
	return READ_ONCE(vcpu->arch->mp_state) != KVM_MP_STATE_RUNNABLE;
}

bool kvm_debugger_is_parked(struct kvm_vcpu *vcpu)
{
	return READ_ONCE(vcpu->arch->debugger.parked);
}

bool kvm_debugger_translate(struct kvm_vcpu *vcpu, gva_t gva, gpa_t *gpa)
{
	struct kvm_translation t = { .linear_address = gva };

	(void)kvm_vcpu_ioctl_translate(vcpu, &t);
	*gpa = t.physical_address;
	return t.valid;
}

int kvm_debugger_read(struct kvm_vcpu *vcpu, gpa_t gpa, void *data, size_t n)
{
	return kvm_vcpu_read_guest(vcpu, gpa, data, n);
}

int kvm_debugger_write(struct kvm_vcpu *vcpu, gpa_t gpa, const void *data, size_t n)
{
	return kvm_write_guest_as_processor(vcpu, gpa, data, n);
}
