/*
 * A minimal KVM client for the tests, written against <linux/kvm.h> and libc
 * only: it runs under `userkvm run` and, unchanged, on a kernel's /dev/kvm.
 */
#ifndef TESTS_CLIENT_H
#define TESTS_CLIENT_H

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

struct client {
	int kvm, vm, vcpu;
	struct kvm_run *run;
	size_t run_size;
	uint8_t *mem;
	size_t mem_size;
};

/* A knob of userkvm's that the test depends on; the last one named wins. Before the first VM. */
static inline void client_param(const char *setting)
{
	const char *old = getenv("USERKVM_PARAMS");
	char all[512];

	snprintf(all, sizeof(all), "%s%s%s", old ? old : "", old && *old ? "," : "", setting);
	setenv("USERKVM_PARAMS", all, 1);
}

static inline void client_slot(struct client *c, uint32_t slot, uint32_t flags, uint64_t gpa, void *hva, uint64_t size)
{
	struct kvm_userspace_memory_region r = {
		.slot = slot, .flags = flags, .guest_phys_addr = gpa, .memory_size = size, .userspace_addr = (uintptr_t)hva,
	};

	assert_int_equal(ioctl(c->vm, KVM_SET_USER_MEMORY_REGION, &r), 0);
}

/* VM without a vCPU, `size` bytes of memory at guest-physical 0 in slot 0. */
static inline void client_open_vm(struct client *c, size_t size)
{
	memset(c, 0, sizeof(*c));
	c->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	assert_true(c->kvm >= 0);
	assert_int_equal(ioctl(c->kvm, KVM_GET_API_VERSION, 0), 12);
	c->vm = ioctl(c->kvm, KVM_CREATE_VM, 0);
	assert_true(c->vm >= 0);
	c->vcpu = -1;
	c->mem_size = size;
	c->mem = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(c->mem != MAP_FAILED);
	client_slot(c, 0, 0, 0, c->mem, size);
}

static inline void client_add_vcpu(struct client *c)
{
	int size = ioctl(c->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);

	assert_true(size >= (int)sizeof(struct kvm_run));
	c->vcpu = ioctl(c->vm, KVM_CREATE_VCPU, 0);
	assert_true(c->vcpu >= 0);
	c->run_size = (size_t)size;
	c->run = mmap(NULL, c->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, c->vcpu, 0);
	assert_true(c->run != MAP_FAILED);
}

/* Real mode: CS:IP = 0:ip, all segments 0, code copied to `ip`. */
static inline void client_real_mode(struct client *c, uint16_t ip, const void *code, size_t n)
{
	struct kvm_sregs s;
	struct kvm_regs r = {.rip = ip, .rflags = 2, .rsp = 0x8000};

	memcpy(c->mem + ip, code, n);
	assert_int_equal(ioctl(c->vcpu, KVM_GET_SREGS, &s), 0);
	s.cs.base = 0;
	s.cs.selector = 0;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_SREGS, &s), 0);
	assert_int_equal(ioctl(c->vcpu, KVM_SET_REGS, &r), 0);
}

/* 32-bit protected mode, flat, paging off. */
static inline void client_flat_mode(struct client *c, uint32_t ip, const void *code, size_t n)
{
	struct kvm_sregs s;
	struct kvm_regs r = {.rip = ip, .rflags = 2, .rsp = 0x8000};

	memcpy(c->mem + ip, code, n);
	assert_int_equal(ioctl(c->vcpu, KVM_GET_SREGS, &s), 0);
	s.cr0 |= 1;
	s.cs = (struct kvm_segment){.limit = ~0u, .selector = 8, .type = 11, .present = 1, .db = 1, .s = 1, .g = 1};
	s.ds = s.es = s.ss = s.fs = s.gs =
		(struct kvm_segment){.limit = ~0u, .selector = 16, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1};
	assert_int_equal(ioctl(c->vcpu, KVM_SET_SREGS, &s), 0);
	assert_int_equal(ioctl(c->vcpu, KVM_SET_REGS, &r), 0);
}

static inline struct kvm_regs client_regs(struct client *c)
{
	struct kvm_regs r;

	assert_int_equal(ioctl(c->vcpu, KVM_GET_REGS, &r), 0);
	return r;
}

struct client_one_msr {
	struct kvm_msrs head;
	struct kvm_msr_entry e;
};

/* KVM_SET_MSRS and KVM_GET_MSRS of one MSR: 1, or 0 where it is refused. */
static inline int client_try_set_msr(struct client *c, uint32_t index, uint64_t value)
{
	struct client_one_msr m = {.head.nmsrs = 1, .e = {.index = index, .data = value}};

	return ioctl(c->vcpu, KVM_SET_MSRS, &m);
}

static inline int client_try_msr(struct client *c, uint32_t index, uint64_t *value)
{
	struct client_one_msr m = {.head.nmsrs = 1, .e.index = index};
	int r = ioctl(c->vcpu, KVM_GET_MSRS, &m);

	*value = m.e.data;
	return r;
}

static inline void client_set_msr(struct client *c, uint32_t index, uint64_t value)
{
	assert_int_equal(client_try_set_msr(c, index, value), 1);
}

static inline uint64_t client_msr(struct client *c, uint32_t index)
{
	uint64_t value;

	assert_int_equal(client_try_msr(c, index, &value), 1);
	return value;
}

static inline void client_close(struct client *c)
{
	if (c->run)
		munmap(c->run, c->run_size);
	if (c->vcpu >= 0)
		close(c->vcpu);
	close(c->vm);
	close(c->kvm);
	munmap(c->mem, c->mem_size);
}

#define assert_run_exits(c, reason)                                 \
	do {                                                        \
		assert_int_equal(ioctl((c)->vcpu, KVM_RUN, 0), 0);  \
		assert_int_equal((c)->run->exit_reason, (reason));  \
	} while (0)

#define assert_fails(call, error)                     \
	do {                                          \
		errno = 0;                            \
		assert_int_equal((call), -1);         \
		assert_int_equal(errno, (error));     \
	} while (0)

#endif
