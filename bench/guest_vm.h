/*
 * For benches that are linked with the rooms: a VM whose vCPUs write to one
 * word in each stride of memory, in 64-bit mode, the first 8 GiB one to one.
 * What fails says so and ends the program.
 *
 * Slot 0 holds code and page tables at 0; benches put memory at BENCH_GPA.
 */
#ifndef BENCH_GUEST_VM_H
#define BENCH_GUEST_VM_H

#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "abi/internal.h"
#include "host/memory.h"
#include "mmu/mmu.h"
#include "userkvm/userkvm.h"

#define BENCH_GPA 0x40000000UL
#define BENCH_MAX_CPUS 2

struct bench_vm {
	int kvm_fd, vm_fd, cpu_fd[BENCH_MAX_CPUS];
	struct kvm_run *run[BENCH_MAX_CPUS];
	uint8_t *low;
	struct kvm *kvm;
	struct abi_object *object;
};

static inline void *bench_failed(const char *what)
{
	perror(what);
	exit(1);
}

/* Nanoseconds of this thread's own time: what others do on the machine is not in it. */
static inline uint64_t bench_cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000ULL + (uint64_t)t.tv_nsec;
}

static inline uint64_t bench_wall_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ULL + (uint64_t)t.tv_nsec;
}

static inline int bench_ioctl(int fd, unsigned long request, const void *arg, const char *what)
{
	int r = userkvm_ioctl(fd, request, (unsigned long)arg);

	if (r < 0)
		bench_failed(what);
	return r;
}

static inline int bench_by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* The value that one in `part` of the n are below; sorts them. 2: the median. */
static inline double bench_quantile(double *v, unsigned n, unsigned part)
{
	qsort(v, n, sizeof(*v), bench_by_value);
	return v[n / part];
}

/* Private memory of `size` bytes at a multiple of 1 GiB plus `offset`; huge pages for it, or none. */
static inline uint8_t *bench_memory(size_t size, size_t offset, bool huge)
{
	size_t align = 1UL << 30;
	uint8_t *p = mmap(NULL, size + align + offset, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return bench_failed("memory");
	p = (uint8_t *)(((uintptr_t)p + align - 1) & ~(align - 1)) + offset;
	madvise((void *)((uintptr_t)p & ~4095UL), size, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	return p;
}

static inline void bench_slot(struct bench_vm *b, uint32_t slot, uint32_t flags, uint64_t gpa, const void *p, uint64_t size)
{
	struct kvm_userspace_memory_region r = {slot, flags, gpa, size, (uintptr_t)p};

	bench_ioctl(b->vm_fd, KVM_SET_USER_MEMORY_REGION, &r, "KVM_SET_USER_MEMORY_REGION");
}

static inline void bench_long_mode(int cpu)
{
	struct kvm_segment data = {.limit = ~0u, .selector = 16, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1};
	struct kvm_sregs s;

	bench_ioctl(cpu, KVM_GET_SREGS, &s, "KVM_GET_SREGS");
	s.cr3 = 0x1000;
	s.cr4 |= 1 << 5;
	s.efer |= 1 << 8 | 1 << 10;
	s.cr0 |= 1u << 31 | 1;
	s.cs = (struct kvm_segment){.limit = ~0u, .selector = 8, .type = 11, .present = 1, .l = 1, .s = 1, .g = 1};
	s.ds = s.es = s.ss = s.fs = s.gs = data;
	bench_ioctl(cpu, KVM_SET_SREGS, &s, "KVM_SET_SREGS");
}

static inline void bench_vm_open(struct bench_vm *b, int cpus)
{
	/* 1: mov %eax,(%rdi); add %rdx,%rdi; dec %ecx; jnz 1b; hlt */
	static const uint8_t code[] = {0x89, 0x07, 0x48, 0x01, 0xd7, 0xff, 0xc9, 0x75, 0xf7, 0xf4};
	uint64_t *table;

	memset(b, 0, sizeof(*b));
	b->low = mmap(NULL, 0x10000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (b->low == MAP_FAILED)
		bench_failed("memory");
	memcpy(b->low, code, sizeof(code));
	table = (uint64_t *)b->low;
	table[0x1000 / 8] = 0x2003;
	for (uint64_t i = 0; i < 8; i++)
		table[0x2000 / 8 + i] = (0x3000 + i * 0x1000) | 3;
	for (uint64_t i = 0; i < 8 * 512; i++)
		table[0x3000 / 8 + i] = i << 21 | 0x83;
	b->kvm_fd = userkvm_open("/dev/kvm", O_RDWR);
	b->vm_fd = bench_ioctl(b->kvm_fd, KVM_CREATE_VM, NULL, "KVM_CREATE_VM");
	b->object = abi_object_get(b->vm_fd);
	b->kvm = b->object->kvm;
	bench_slot(b, 0, 0, 0, b->low, 0x10000);
	for (int i = 0; i < cpus; i++) {
		b->cpu_fd[i] = bench_ioctl(b->vm_fd, KVM_CREATE_VCPU, (void *)(uintptr_t)i, "KVM_CREATE_VCPU");
		b->run[i] = userkvm_mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, b->cpu_fd[i], 0);
		if (b->run[i] == MAP_FAILED)
			bench_failed("kvm_run");
		bench_long_mode(b->cpu_fd[i]);
	}
}

static inline void bench_vm_close(struct bench_vm *b)
{
	for (int i = 0; i < BENCH_MAX_CPUS && b->run[i]; i++) {
		munmap(b->run[i], 4096);
		userkvm_close(b->cpu_fd[i]);
	}
	abi_object_put(b->object);
	userkvm_close(b->vm_fd);
	userkvm_close(b->kvm_fd);
	munmap(b->low, 0x10000);
}

/* The vCPU writes to `count` words from gpa on. */
static inline void bench_write(struct bench_vm *b, int cpu, uint64_t gpa, uint64_t count, uint64_t stride)
{
	struct kvm_regs r = {.rdi = gpa, .rcx = count, .rdx = stride, .rflags = 2};

	bench_ioctl(b->cpu_fd[cpu], KVM_SET_REGS, &r, "KVM_SET_REGS");
	bench_ioctl(b->cpu_fd[cpu], KVM_RUN, NULL, "KVM_RUN");
	if (b->run[cpu]->exit_reason != KVM_EXIT_HLT) {
		fprintf(stderr, "bench: exit reason %u\n", b->run[cpu]->exit_reason);
		exit(1);
	}
}

/* The same, and what it took, in nanoseconds of this thread. */
static inline uint64_t bench_write_ns(struct bench_vm *b, uint64_t gpa, uint64_t count, uint64_t stride)
{
	uint64_t t0 = bench_cpu_ns();

	bench_write(b, 0, gpa, count, stride);
	return bench_cpu_ns() - t0;
}

#endif
