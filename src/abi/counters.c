/*
 * The counters of vCPUs' processors, for another process (control) and, with USERKVM_JIT=stat, on
 * standard error when a client ends with its vCPUs still open: QEMU closes none of its descriptors. A vCPU that
 * is destroyed earlier prints its own (cpu/jit_code.c).
 *
 * Locks: those of abi_vms_get().
 */
#include "abi/introspect.h"
#include "lib/log.h"
#include "lib/params.h"
#include "virt/kvm.h"
#include "x86/x86.h"

#define MAX_VMS 64

void abi_vcpu_processor_counters(struct kvm_vcpu *vcpu, void (*fn)(void *arg, const char *name, uint64_t value),
				 void *arg)
{
	kvm_vcpu_processor_counters(vcpu, fn, arg);
}

static void print(void *arg, const char *name, uint64_t value)
{
	log_dump("vCPU counter %s %lu", name, (unsigned long)value);
}

__attribute__((destructor)) static void print_at_exit(void)
{
	struct kvm *vms[MAX_VMS];
	unsigned n;

	if (!params_has_word("USERKVM_JIT", "stat"))
		return;
	n = abi_vms_get(vms, MAX_VMS);
	for (unsigned i = 0; i < n; i++) {
		struct kvm_vcpu *vcpu;
		uint32_t v;

		/* the process ends: the references are not given back, so that nothing is destroyed here */
		kvm_for_each_vcpu(v, vcpu, vms[i])
			kvm_vcpu_processor_counters(vcpu, print, NULL);
	}
}
