/*
 * The breakpoints of a debugger's session.
 *
 * Software ones are INT3 in guest memory, found again by guest-physical address, so that they can be taken out whatever
 * the guest's page tables have become; the debugger never sees the byte. Hardware ones are the same four on every vCPU.
 *
 * Context: the session's thread, the vCPU between kvm_debugger_begin() and _end() where one is given.
 */
#ifndef USERKVM_CONTROL_DEBUG_POINTS_H
#define USERKVM_CONTROL_DEBUG_POINTS_H

#include "lib/types.h"

struct kvm;
struct kvm_vcpu;
struct kvm_debugger_hit;
struct kvm_debugger_plan;
struct debug_frame;
struct debug_points;

struct debug_points *debug_points_new(struct kvm *kvm); /* NULL: no memory */
void debug_points_free(struct debug_points *p);

/* By the frame's addr, length, kind. -EFAULT no memory there, -ENOSPC too many, -EINVAL not of this length or kind. */
must_check int debug_points_insert(struct debug_points *p, struct kvm_vcpu *vcpu, const struct debug_frame *f);
/* -ENOENT. */
must_check int debug_points_remove(struct debug_points *p, struct kvm_vcpu *vcpu, const struct debug_frame *f);
/* All vCPUs are on hold, and none is between begin and end. */
void debug_points_remove_all(struct debug_points *p);
/* What the guest would read: the bytes that breakpoints stand in for. */
void debug_points_hide(const struct debug_points *p, gpa_t gpa, char *bytes, size_t n);
void debug_points_plan(const struct debug_points *p, struct kvm_debugger_plan *plan);
/* Fills the event's kind and addr. False: it is the guest's own. */
bool debug_points_name(const struct debug_points *p, struct kvm_vcpu *vcpu, const struct kvm_debugger_hit *hit,
		       struct debug_frame *event);
/* A hit without a name, of an INT3 that has been taken out since. */
bool debug_points_was_ours(struct kvm_vcpu *vcpu, const struct kvm_debugger_hit *hit);

#endif
