/*
 * A small VM for tests of the run loop: 2 MiB of RAM, one vCPU in real mode at
 * 0:1000h, driven through the functions the ioctls call.
 */
#ifndef TEST_X86_RUN_VM_H
#define TEST_X86_RUN_VM_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "emulate/emulate.h"
#include "hyperv/hyperv.h"
#include "x86/x86.h"

#define RAM_BYTES (2UL << 20)
#define CODE 0x1000U

struct vm {
	struct kvm *kvm;
	struct kvm_vcpu *vcpu;
	uint8_t *ram;
};

static inline void vm_real_mode(struct vm *v, uint64_t rip)
{
	struct kvm_sregs s;
	struct kvm_regs r = { .rip = rip, .rflags = 2, .rsp = 0x8000 };

	assert_int_equal(kvm_vcpu_ioctl_get_sregs(v->vcpu, &s), 0);
	s.cs.base = s.cs.selector = 0;
	assert_int_equal(kvm_vcpu_ioctl_set_sregs(v->vcpu, &s), 0);
	assert_int_equal(kvm_vcpu_ioctl_set_regs(v->vcpu, &r), 0);
}

static inline void vm_create(struct vm *v, bool irqchip)
{
	struct kvm_userspace_memory_region mem = { .memory_size = RAM_BYTES };

	emulate_init();
	hyperv_init();
	kvm_x86_init();
	assert_int_equal(kvm_create_vm(&v->kvm), 0);
	v->ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(v->ram, MAP_FAILED);
	mem.userspace_addr = (uint64_t)v->ram;
	assert_int_equal(kvm_vm_ioctl_set_memory_region(v->kvm, &mem), 0);
	if (irqchip) {
		pthread_mutex_lock(&v->kvm->lock);
		assert_int_equal(kvm_irqchip_create(v->kvm), 0);
		pthread_mutex_unlock(&v->kvm->lock);
	}
	assert_int_equal(kvm_create_vcpu(v->kvm, 0, &v->vcpu), 0);
	vm_real_mode(v, CODE);
}

static inline void vm_destroy(struct vm *v)
{
	kvm_put_kvm(v->kvm);
	munmap(v->ram, RAM_BYTES);
}

static inline void vm_code(struct vm *v, uint64_t gpa, const void *code, size_t n)
{
	memcpy(v->ram + gpa, code, n);
}

/* KVM_RUN; fails the test with what is known when the result is another. */
static inline void vm_run(struct vm *v, int ret, uint32_t exit_reason)
{
	int r = kvm_arch_vcpu_ioctl_run(v->vcpu);

	if (r != ret || v->vcpu->run->exit_reason != exit_reason)
		print_error("KVM_RUN: %d, exit %u, rip %llx, internal %u, last VM exit %x\n", r,
			    v->vcpu->run->exit_reason,
			    (unsigned long long)vmx_get_rip(v->vcpu),
			    v->vcpu->run->internal.suberror, vmx_exit_reason(v->vcpu));
	assert_int_equal(r, ret);
	assert_int_equal(v->vcpu->run->exit_reason, exit_reason);
}

static inline struct kvm_regs vm_regs(struct vm *v)
{
	struct kvm_regs r;

	assert_int_equal(kvm_vcpu_ioctl_get_regs(v->vcpu, &r), 0);
	return r;
}

#endif
