/*
 * A VM with one vCPU, made by the public calls, and its insides.
 */
#ifndef USERKVM_TESTS_VCPU_FIXTURE_H
#define USERKVM_TESTS_VCPU_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "abi/internal.h"
#include "userkvm/userkvm.h"
#include "x86/x86.h"

#define GUEST_MEMORY 0x100000UL

static int sys_fd, vm_fd, vcpu_fd;
static struct kvm *kvm;
static struct kvm_vcpu *vcpu;
static uint8_t *memory; /* guest-physical 0 */

static inline int vcpu_ioctl(unsigned long request, const void *arg)
{
	return userkvm_ioctl(vcpu_fd, request, (unsigned long)arg);
}

static inline void set_supported_cpuid(void)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entries[KVM_MAX_CPUID_ENTRIES];
	} list = { .head.nent = KVM_MAX_CPUID_ENTRIES };

	assert_int_equal(userkvm_ioctl(sys_fd, KVM_GET_SUPPORTED_CPUID, (unsigned long)&list), 0);
	assert_int_equal(vcpu_ioctl(KVM_SET_CPUID2, &list), 0);
}

static int make_vcpu(void **state)
{
	struct kvm_userspace_memory_region mem = { .memory_size = GUEST_MEMORY };
	struct abi_object *o;

	sys_fd = userkvm_open("/dev/kvm", O_RDWR);
	vm_fd = userkvm_ioctl(sys_fd, KVM_CREATE_VM, 0);
	memory = mmap(NULL, GUEST_MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	mem.userspace_addr = (uintptr_t)memory;
	if (userkvm_ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, (unsigned long)&mem))
		return 1;
	vcpu_fd = userkvm_ioctl(vm_fd, KVM_CREATE_VCPU, 0);
	o = abi_object_get(vcpu_fd);
	if (!o)
		return 1;
	kvm = o->kvm;
	vcpu = o->vcpu;
	abi_object_put(o);
	set_supported_cpuid();
	return 0;
}

static int end_vcpu(void **state)
{
	userkvm_close(vcpu_fd);
	userkvm_close(vm_fd);
	userkvm_close(sys_fd);
	return munmap(memory, GUEST_MEMORY);
}

#endif
