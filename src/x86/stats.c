/*
 * KVM_GET_STATS_FD of VMs and vCPUs (KVM API: KVM_GET_STATS_FD).
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cpu/vmx_isa.h"
#include "virt/stats.h"
#include "vmx/vmx.h"
#include "x86/x86.h"

/*
 * The tables' counters tell what is there, so none may be lost while their page
 * becomes the file's: mmu_lock is held. One of remote_tlb_flush may be.
 */
int kvm_vm_ioctl_get_stats_fd(struct kvm *kvm)
{
	char id[KVM_STATS_NAME_SIZE];
	int fd;

	snprintf(id, sizeof(id), "kvm-%d", (int)getpid());
	kvm_mmu_hold(kvm);
	fd = kvm_stats_file_open(&kvm->stats_file, &kvm_vm_stat_table, id, &kvm->stat);
	kvm_mmu_release(kvm);
	return fd;
}

/* vcpu->mutex keeps the owner out; one halt_wakeup of another thread may be lost. */
int kvm_vcpu_ioctl_get_stats_fd(struct kvm_vcpu *vcpu)
{
	char id[KVM_STATS_NAME_SIZE];

	snprintf(id, sizeof(id), "kvm-%d/vcpu-%u", (int)getpid(), vcpu->vcpu_id);
	return kvm_stats_file_open(&vcpu->stats_file, &kvm_vcpu_stat_table, id, &vcpu->stat);
}

void kvm_vcpu_processor_counters(struct kvm_vcpu *vcpu, void (*fn)(void *arg, const char *name, uint64_t value),
				 void *arg)
{
	static const struct {
		const char *name;
		size_t offset;
	} rows[] = {
#define COUNTER_ROW(n) { "cpu_" #n, offsetof(struct vmx_counters, n) },
		VMX_CPU_COUNTERS(COUNTER_ROW)
#undef COUNTER_ROW
	};
	const struct vmx_counters *c = vmx_cpu_counters(vmx_processor(vcpu));

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		const char *name = rows[i].name + (strncmp(rows[i].name, "cpu_jit_", 8) ? 0 : 4);

		fn(arg, name, READ_ONCE(*(const uint64_t *)((const char *)c + rows[i].offset)));
	}
}
