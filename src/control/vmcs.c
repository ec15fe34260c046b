/*
 * Requests about a vCPU's VMCSs. The copies of one reply are of one moment.
 */
#include <stdlib.h>

#include "control/internal.h"
#include "lib/own.h"
#include "virt/kvm.h"
#include "vmx/look.h"

typedef unsigned long long ull;

struct look {
	unsigned wanted; /* bits of enum vmx_look */
	struct vmx_look_state state;
	struct vmx_vmcs_copy copy[NR_VMX_LOOKS];
	bool check;
	enum vmx_look checked;
	struct vmentry_failures failures;
	struct vmentry_limits limits;
};

static void take(struct kvm_vcpu *vcpu, void *arg)
{
	struct look *l = arg;

	vmx_look_state(vcpu, &l->state);
	for (int n = 0; n < NR_VMX_LOOKS; n++)
		if (l->wanted & 1U << n)
			vmx_look_vmcs(vcpu, (enum vmx_look)n, &l->copy[n]);
	if (l->check)
		vmx_look_checks(vcpu, l->checked, &l->failures, &l->limits);
}

/* NULL: told. To be freed. */
static struct look *look(struct reply *r, struct kvm *kvm, uint64_t id, const struct look *what)
{
	struct kvm_vcpu *vcpu = id < KVM_MAX_VCPU_IDS ? kvm_get_vcpu_by_id(kvm, (uint32_t)id) : NULL;
	struct look *l;

	if (!vcpu) {
		reply_error(r, "the VM has no vCPU %llu", (ull)id);
		return NULL;
	}
	l = own_calloc(1, sizeof(*l));
	if (!l) {
		reply_error(r, "no memory");
		return NULL;
	}
	l->wanted = what->wanted;
	l->check = what->check;
	l->checked = what->checked;
	if (!kvm_vcpu_call(vcpu, take, l))
		return l;
	own_free(l);
	reply_error(r, "vCPU %llu does not come to rest", (ull)id);
	return NULL;
}

static void state_line(struct reply *r, const struct vmx_look_state *s)
{
	reply_line(r, "state %d %d %d %llx %llx", s->vmxon, s->guest_mode, s->run_pending, (ull)s->vmxon_ptr,
		   (ull)s->vmptr12);
}

static void vmcs_lines(struct reply *r, enum vmx_look which, const struct vmx_vmcs_copy *c)
{
	reply_line(r, "vmcs %u %d %d", which, c->there, c->launched);
	for (unsigned n = 0; c->there && n < NR_VMCS_FIELDS; n++)
		if (c->field[n].has)
			reply_line(r, "field %x %llx", c->field[n].encoding, (ull)c->field[n].value);
}

void control_vmcs(struct reply *r, struct kvm *kvm, const uint64_t *args)
{
	struct look *l = look(r, kvm, args[0], &(struct look){ .wanted = (unsigned)args[1] });

	if (!l)
		return;
	state_line(r, &l->state);
	for (int n = 0; n < NR_VMX_LOOKS; n++)
		if (l->wanted & 1U << n)
			vmcs_lines(r, (enum vmx_look)n, &l->copy[n]);
	own_free(l);
}

void control_entry(struct reply *r, struct kvm *kvm, const uint64_t *args)
{
	enum vmx_look which = args[1] ? VMX_LOOK_12 : VMX_LOOK_01;
	struct look *l = look(r, kvm, args[0], &(struct look){ 1U << which, .check = true, .checked = which });

	if (!l)
		return;
	state_line(r, &l->state);
	vmcs_lines(r, which, &l->copy[which]);
	reply_line(r, "width %d", l->limits.width);
	for (unsigned n = 0; n < ARRAY_SIZE(l->limits.cap); n++)
		reply_line(r, "cap %x %llx", n, (ull)l->limits.cap[n]);
	for (unsigned n = 0; n < l->failures.nr && n < VMENTRY_MAX_FAILURES; n++)
		reply_line(r, "failed %s %x", vmentry_rows[l->failures.at[n].check].name, l->failures.at[n].field);
	own_free(l);
}
