/*
 * The VM of a built-in guest of `userkvm walkthrough`: its descriptors, one vCPU.
 */
#ifndef USERKVM_TOOLS_TRACE_GUEST_VM_H
#define USERKVM_TOOLS_TRACE_GUEST_VM_H

#include <linux/kvm.h>

struct walk_vm {
	const char *name; /* in messages */
	int kvm, vm, vcpu;
	struct kvm_run *run;
};

/* Each: NULL, or what has failed, with errno. */
const char *walk_vm_open(struct walk_vm *v);
const char *walk_vm_add_vcpu(struct walk_vm *v);
const char *walk_vm_map_run(struct walk_vm *v);
void walk_vm_close(struct walk_vm *v);
/* Says so on standard error; returns the exit status 1. */
int walk_vm_failed(const struct walk_vm *v, const char *what);

#endif
