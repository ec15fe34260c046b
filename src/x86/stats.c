/*
 * KVM_GET_STATS_FD of VMs and vCPUs (KVM API: KVM_GET_STATS_FD).
 */
#include <stdio.h>
#include <unistd.h>

#include "virt/stats.h"
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
