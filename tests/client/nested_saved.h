/*
 * A vCPU's state with its L2 in it, as a client saves it in one VM and sets it in another.
 */
#ifndef TESTS_NESTED_SAVED_H
#define TESTS_NESTED_SAVED_H

#include "nested.h"

struct nested_image {
	struct kvm_nested_state head;
	uint8_t vmcs12[4096], shadow[4096];
};

struct nested_saved {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct nested_image nested;
};

/* L2 has left by an OUT, which is over with the next KVM_RUN: that call does nothing else. */
static inline void nested_out_is_over(struct client *c)
{
	c->run->immediate_exit = 1;
	assert_int_equal(ioctl(c->vcpu, KVM_RUN, 0), -1);
	c->run->immediate_exit = 0;
}

static inline void nested_get_state(struct client *c, struct nested_image *s)
{
	memset(s, 0, sizeof(*s));
	s->head.size = sizeof(*s);
	assert_int_equal(ioctl(c->vcpu, KVM_GET_NESTED_STATE, s), 0);
}

static inline void nested_save(struct client *c, struct nested_saved *s)
{
	s->regs = client_regs(c);
	assert_int_equal(ioctl(c->vcpu, KVM_GET_SREGS, &s->sregs), 0);
	nested_get_state(c, &s->nested);
}

/* Into a vCPU that has nothing else yet; the VM's memory is the caller's to copy. */
static inline void nested_load(struct client *d, struct nested_saved *s)
{
	assert_int_equal(ioctl(d->vcpu, KVM_SET_SREGS, &s->sregs), 0);
	assert_int_equal(ioctl(d->vcpu, KVM_SET_NESTED_STATE, &s->nested), 0);
	assert_int_equal(ioctl(d->vcpu, KVM_SET_SREGS, &s->sregs), 0);
	assert_int_equal(ioctl(d->vcpu, KVM_SET_REGS, &s->regs), 0);
}

#endif
