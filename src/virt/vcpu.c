/*
 * The life of a vCPU, as far as it is not x86.
 *
 * kvm_create_vcpu() reserves a place under kvm->lock, builds the vCPU without
 * it, and publishes it under the lock again: another creator may have taken the
 * id in between. Published vCPUs stay until the VM goes.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/anon_file.h"
#include "lib/error.h"
#include "lib/own.h"
#include "trace/trace.h"
#include "virt/async_pf.h"
#include "virt/dirty_ring.h"
#include "virt/internal.h"

#define RUN_SIZE (KVM_VCPU_MMAP_PAGES * PAGE_SIZE)

/* The file that the client maps; our own view of it is vcpu->run. */
static int create_run_pages(struct kvm_vcpu *vcpu)
{
	void *p;
	int r;

	vcpu->run_memfd = lib_anon_file("userkvm-vcpu", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (vcpu->run_memfd < 0)
		return vcpu->run_memfd;
	r = lib_anon_file_grow(vcpu->run_memfd, RUN_SIZE);
	if (r) {
		if (vcpu->run_memfd >= 0)
		close(vcpu->run_memfd);
		return r;
	}
	p = own_map_file(RUN_SIZE, PROT_READ | PROT_WRITE, vcpu->run_memfd, 0);
	if (!p) {
		if (vcpu->run_memfd >= 0)
		close(vcpu->run_memfd);
		return err_born(ENOMEM, "vCPU %u: kvm_run cannot be mapped", vcpu->vcpu_id);
	}
	/* Without this the client could take the pages away under us; no harm where it fails. */
	fcntl(vcpu->run_memfd, F_ADD_SEALS, F_SEAL_SHRINK);
	vcpu->run = p;
	return 0;
}

static void free_vcpu(struct kvm_vcpu *vcpu)
{
	kvm_dirty_ring_free(vcpu);
	own_pages_free(vcpu->run);
	if (vcpu->run_memfd >= 0)
		close(vcpu->run_memfd);
	pthread_mutex_destroy(&vcpu->mutex);
	own_free(vcpu->exit_stats);
	kvm_stats_file_close(&vcpu->stats_file);
	kvm_stats_object_free(vcpu, sizeof(*vcpu), offsetof(struct kvm_vcpu, stat));
}

void kvm_vcpu_destroy(struct kvm_vcpu *vcpu)
{
	kvm_clear_async_pf_completion_queue(vcpu);
	if (kvm_arch_ops()->vcpu_destroy)
		kvm_arch_ops()->vcpu_destroy(vcpu);
	free_vcpu(vcpu);
}

static int build_vcpu(struct kvm *kvm, uint32_t id, struct kvm_vcpu **out)
{
	struct kvm_vcpu *vcpu =
		kvm_stats_object_alloc(sizeof(*vcpu), offsetof(struct kvm_vcpu, stat));
	int r;

	if (!vcpu)
		return err_born(ENOMEM, "no memory for vCPU %u", id);
	vcpu->kvm = kvm;
	vcpu->vcpu_id = id;
	r = create_run_pages(vcpu);
	if (r) {
		kvm_stats_object_free(vcpu, sizeof(*vcpu), offsetof(struct kvm_vcpu, stat));
		return r;
	}
	pthread_mutex_init(&vcpu->mutex, NULL);
	r = kvm_dirty_ring_alloc(vcpu);
	if (!r && kvm_arch_ops()->vcpu_create)
		r = kvm_arch_ops()->vcpu_create(vcpu);
	if (!r && kvm_arch_ops()->vcpu_setup)
		kvm_arch_ops()->vcpu_setup(vcpu);
	if (r)
		free_vcpu(vcpu);
	else
		*out = vcpu;
	return r;
}

int kvm_vcpu_init(struct kvm_vcpu *vcpu)
{
	TRACE_CALL(kvm_vcpu_init, vcpu->vcpu_id);
	return kvm_arch_ops()->vcpu_init ? kvm_arch_ops()->vcpu_init(vcpu) : 0;
}

/* kvm->lock held. */
static int reserve(struct kvm *kvm, uint32_t id)
{
	if (kvm->nr_created_vcpus >= KVM_MAX_VCPUS)
		return err_born(EINVAL, "a VM has at most %d vCPUs", KVM_MAX_VCPUS);
	if (kvm_get_vcpu_by_id(kvm, id))
		return err_born(EEXIST, "vCPU %u exists", id);
	kvm->nr_created_vcpus++;
	return 0;
}

int kvm_create_vcpu(struct kvm *kvm, uint32_t id, struct kvm_vcpu **out)
{
	struct kvm_vcpu *vcpu = NULL;
	int r;

	if (id >= KVM_MAX_VCPU_IDS)
		return err_born(EINVAL, "vCPU id %u: at most %d", id, KVM_MAX_VCPU_IDS - 1);
	pthread_mutex_lock(&kvm->lock);
	r = reserve(kvm, id);
	pthread_mutex_unlock(&kvm->lock);
	if (r)
		return r;
	r = build_vcpu(kvm, id, &vcpu);
	pthread_mutex_lock(&kvm->lock);
	if (!r && kvm_get_vcpu_by_id(kvm, id))
		r = err_born(EEXIST, "vCPU %u exists", id);
	if (!r) {
		vcpu->vcpu_idx = kvm->nr_vcpus;
		kvm->vcpus[kvm->nr_vcpus] = vcpu;
		__atomic_store_n(&kvm->nr_vcpus, kvm->nr_vcpus + 1, __ATOMIC_RELEASE);
		*out = vcpu;
	} else {
		kvm->nr_created_vcpus--;
	}
	pthread_mutex_unlock(&kvm->lock);
	if (r && vcpu)
		kvm_vcpu_destroy(vcpu);
	return r;
}

struct kvm_vcpu *kvm_get_vcpu_by_id(struct kvm *kvm, uint32_t id)
{
	struct kvm_vcpu *vcpu = kvm_get_vcpu(kvm, id); /* mostly id == index */
	uint32_t i;

	if (vcpu && vcpu->vcpu_id == id)
		return vcpu;
	kvm_for_each_vcpu(i, vcpu, kvm)
		if (vcpu->vcpu_id == id)
			return vcpu;
	return NULL;
}
