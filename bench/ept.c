/*
 * What an EPT violation costs: a guest writes to each page of 1 GiB once, on
 * memory that the host already holds and on memory nobody touched, next to the
 * host's own first touch of as many pages. And what the tables weigh.
 *
 * The slot's host address is 4 KiB off a 2 MiB boundary, so that KVM's rules
 * allow 4 KiB leaves only.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "abi/internal.h"
#include "host/memory.h"
#include "mmu/mmu.h"
#include "userkvm/userkvm.h"

#define PAGES (1UL << 18) /* 1 GiB */
#define GPA 0x40000000UL

/* 1: mov %eax,(%edi); add $4096,%edi; dec %ecx; jnz 1b; hlt */
static const uint8_t guest_code[] = {0x89, 0x07, 0x81, 0xc7, 0, 0x10, 0, 0, 0x49, 0x75, 0xf5, 0xf4};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ULL + (uint64_t)t.tv_nsec;
}

static uint8_t *map(size_t size)
{
	uint8_t *p = mmap(NULL, size + (4UL << 20), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	madvise(p, size + (4UL << 20), MADV_NOHUGEPAGE);
	return (uint8_t *)(((uintptr_t)p + (2UL << 20) - 1) & ~((2UL << 20) - 1)) + 4096;
}

static double touch(uint8_t *p)
{
	uint64_t t0 = now_ns();

	for (size_t i = 0; i < PAGES; i++)
		*(volatile uint8_t *)(p + i * 4096) = 1;
	return (double)(now_ns() - t0) / PAGES;
}

static int ioctl_or_say(int fd, unsigned long request, void *arg, const char *what)
{
	int ret = userkvm_ioctl(fd, request, (unsigned long)arg);

	if (ret < 0)
		perror(what);
	return ret;
}

/* One pass of the guest over its pages: nanoseconds a page, < 0 on failure. */
static double pass(int vcpu, struct kvm_run *run)
{
	struct kvm_regs r = {.rip = 0, .rdi = GPA, .rcx = PAGES, .rflags = 2};
	uint64_t t0;

	if (ioctl_or_say(vcpu, KVM_SET_REGS, &r, "KVM_SET_REGS") < 0)
		return -1;
	t0 = now_ns();
	if (ioctl_or_say(vcpu, KVM_RUN, NULL, "KVM_RUN") < 0)
		return -1;
	if (run->exit_reason != KVM_EXIT_HLT) {
		fprintf(stderr, "bench-ept: exit reason %u\n", run->exit_reason);
		return -1;
	}
	return (double)(now_ns() - t0) / PAGES;
}

static int measure(const char *name, uint8_t *memory, double host)
{
	static uint8_t code[4096] __attribute__((aligned(4096)));
	struct kvm_userspace_memory_region slots[2] = {
		{.slot = 0, .memory_size = 4096, .userspace_addr = (uintptr_t)code},
		{.slot = 1, .guest_phys_addr = GPA, .memory_size = PAGES * 4096, .userspace_addr = (uintptr_t)memory},
	};
	int kvm = userkvm_open("/dev/kvm", O_RDWR), vm, vcpu, size;
	struct kvm_mmu_usage after;
	struct abi_object *object;
	uint64_t spare;
	struct kvm_sregs s;
	struct kvm_run *run;
	double first, again;

	memcpy(code, guest_code, sizeof(guest_code));
	vm = ioctl_or_say(kvm, KVM_CREATE_VM, NULL, "KVM_CREATE_VM");
	vcpu = ioctl_or_say(vm, KVM_CREATE_VCPU, NULL, "KVM_CREATE_VCPU");
	size = ioctl_or_say(kvm, KVM_GET_VCPU_MMAP_SIZE, NULL, "KVM_GET_VCPU_MMAP_SIZE");
	run = userkvm_mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (run == MAP_FAILED || ioctl_or_say(vm, KVM_SET_USER_MEMORY_REGION, &slots[0], "slot 0") < 0 ||
	    ioctl_or_say(vm, KVM_SET_USER_MEMORY_REGION, &slots[1], "slot 1") < 0 ||
	    ioctl_or_say(vcpu, KVM_GET_SREGS, &s, "KVM_GET_SREGS") < 0)
		return 1;
	s.cr0 |= 1;
	s.cs = (struct kvm_segment){.limit = ~0u, .selector = 8, .type = 11, .present = 1, .db = 1, .s = 1, .g = 1};
	s.ds = s.es = s.ss = s.fs = s.gs =
		(struct kvm_segment){.limit = ~0u, .selector = 16, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1};
	if (ioctl_or_say(vcpu, KVM_SET_SREGS, &s, "KVM_SET_SREGS") < 0)
		return 1;
	object = abi_object_get(vm);
	first = pass(vcpu, run);
	kvm_mmu_usage(object->kvm, &after);
	spare = host_frames_in_use() - after.table_pages;
	abi_object_put(object);
	again = pass(vcpu, run);
	if (first < 0 || again < 0)
		return 1;
	printf("ept-%s ns-per-violation %.0f host-first-touch-ns %.0f ratio %.2f\n", name, first - again, host,
	       (first - again) / host);
	printf("ept-%s table-bytes %llu for %llu 4k-leaves, the format needs %llu, ratio %.4f (besides: %llu bytes "
	       "of VMCS, bitmaps and the vCPU's spare frames)\n",
	       name, (unsigned long long)(after.table_pages * 4096), (unsigned long long)after.leaves[1],
	       (unsigned long long)(after.leaves[1] * 8), (double)after.table_pages * 4096 / ((double)after.leaves[1] * 8),
	       (unsigned long long)spare * 4096);
	munmap(run, (size_t)size);
	userkvm_close(vcpu);
	userkvm_close(vm);
	userkvm_close(kvm);
	return 0;
}

int main(void)
{
	uint8_t *held = map(PAGES * 4096), *fresh = map(PAGES * 4096);
	double host;

	if (!held || !fresh) {
		perror("bench-ept: memory");
		return 1;
	}
	host = touch(held);
	return measure("held", held, host) || measure("untouched", fresh, host);
}
