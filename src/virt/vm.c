/*
 * The life of a VM.
 *
 * References: one for the VM fd, one for each vCPU fd (and whoever else asks).
 * With the last one everything goes, in the reverse of its making; by then
 * nobody else can reach the VM, so no lock is needed.
 */
#include <stdlib.h>

#include "host/memory.h"
#include "lib/bug.h"
#include "lib/error.h"
#include "lib/log.h"
#include "lib/rcu.h"
#include "trace/trace.h"
#include "virt/async_pf.h"
#include "virt/internal.h"
#include "virt/iodev.h"
#include "virt/irq_routing.h"

static const struct kvm_arch_ops no_arch;
static const struct kvm_arch_ops *arch_ops = &no_arch;

void kvm_register_arch(const struct kvm_arch_ops *ops)
{
	arch_ops = ops ? ops : &no_arch;
}

const struct kvm_arch_ops *kvm_arch_ops(void)
{
	return arch_ops;
}

int kvm_create_vm(struct kvm **out)
{
	static uint64_t serial;
	struct kvm *kvm = kvm_stats_object_alloc(sizeof(*kvm), offsetof(struct kvm, stat));
	int r;

	if (!kvm)
		return err_born(ENOMEM, "no memory for a VM");
	TRACE_CALL(kvm_create_vm, (uintptr_t)kvm);
	kvm->mm_id = host_mm_id(); /* kvm->mm = current->mm */
	TRACE_LINE(kvm_mm, kvm->mm_id);
	kvm->refcount = 1;
	kvm->serial = __atomic_add_fetch(&serial, 1, __ATOMIC_RELAXED);
	pthread_mutex_init(&kvm->lock, NULL);
	pthread_mutex_init(&kvm->slots_lock, NULL);
	pthread_mutex_init(&kvm->irq_lock, NULL);
	r = kvm_alloc_memslots(kvm);
	if (r)
		goto out_free;
	r = arch_ops->init_vm ? arch_ops->init_vm(kvm) : 0;
	if (r)
		goto out_memslots;
	kvm_async_pf_prepare(KVM_ASYNC_PF_VM);
	*out = kvm;
	return 0;
out_memslots:
	kvm_free_memslots(kvm);
out_free:
	kvm_stats_object_free(kvm, sizeof(*kvm), offsetof(struct kvm, stat));
	return r;
}

void kvm_get_kvm(struct kvm *kvm)
{
	__atomic_fetch_add(&kvm->refcount, 1, __ATOMIC_RELAXED);
}

static void kvm_destroy_vm(struct kvm *kvm)
{
	uint32_t i;

	/* Nobody may look for a vCPU from here on. */
	kvm_irqfd_release(kvm);
	kvm_irq_quiesce(kvm);
	for (i = 0; i < kvm->nr_vcpus; i++)
		kvm_vcpu_destroy(kvm->vcpus[i]);
	if (arch_ops->destroy_vm)
		arch_ops->destroy_vm(kvm);
	for (i = 0; i < KVM_NR_BUSES; i++)
		kvm_io_bus_destroy(kvm, (enum kvm_bus_id)i);
	kvm_coalesced_mmio_free(kvm);
	kvm_free_irq_routing(kvm);
	kvm_free_memslots(kvm);
	pthread_mutex_destroy(&kvm->irq_lock);
	pthread_mutex_destroy(&kvm->slots_lock);
	pthread_mutex_destroy(&kvm->lock);
	kvm_stats_file_close(&kvm->stats_file);
	kvm_stats_object_free(kvm, sizeof(*kvm), offsetof(struct kvm, stat));
}

void kvm_put_kvm(struct kvm *kvm)
{
	if (__atomic_sub_fetch(&kvm->refcount, 1, __ATOMIC_ACQ_REL) == 0)
		kvm_destroy_vm(kvm);
}

void kvm_vm_bugged(struct kvm *kvm, const char *why)
{
	if (__atomic_exchange_n(&kvm->dead, true, __ATOMIC_SEQ_CST))
		return;
	log_always("a VM is stopped, its state is broken: %s", why);
	kvm_make_all_cpus_request(kvm, KVM_REQ_VM_DEAD);
}

void kvm_vm_bugged_at(struct kvm *kvm, const char *what, const char *file, int line)
{
	char text[200];

	bug_text(text, sizeof(text), what, file, line);
	kvm_vm_bugged(kvm, text);
}
