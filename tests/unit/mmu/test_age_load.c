/*
 * The guarantee of aging, with the real processor and under load: a page that
 * the guest accesses after kvm_mmu_age() has returned is never found idle.
 *
 * Two vCPUs write a growing stamp into pages, in an order of their own, again
 * and again. The test ages, notes every page's stamp, waits, notes them again
 * and then looks which leaves are idle: none whose stamp has moved may be.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "abi/internal.h"
#include "mmu/mmu.h"
#include "userkvm/userkvm.h"

#define PAGES 256U
#define GPA 0x40000000U
#define CPUS 2
#define ROUNDS 200

/*
 * eax: stamp, edi: a page by a linear congruential generator in ebx, under the
 * mask at [0x800]; until [0x804].
 * 1: imul $1103515245,%ebx,%ebx; add $12345,%ebx; mov %ebx,%edi; shr $16,%edi;
 * and 0x800,%edi; shl $12,%edi; add %esi,%edi; inc %eax; mov %eax,(%edi);
 * cmp $0,0x804; je 1b; hlt
 */
static const uint8_t code[] = {
	0x69, 0xdb, 0x6d, 0x4e, 0xc6, 0x41, 0x81, 0xc3, 0x39, 0x30, 0, 0, 0x89, 0xdf, 0xc1, 0xef, 0x10,
	0x23, 0x3d, 0, 8, 0, 0, 0xc1, 0xe7, 0x0c, 0x01, 0xf7, 0x40, 0x89, 0x07,
	0x83, 0x3d, 4, 8, 0, 0, 0, 0x74, 0xd8, 0xf4,
};

static uint8_t *low, *pages;
static int kvm_fd, vm_fd, cpu_fd[CPUS];
static struct kvm_run *run[CPUS];
static struct kvm *kvm;

static void *runner(void *arg)
{
	int i = (int)(intptr_t)arg;

	return userkvm_ioctl(cpu_fd[i], KVM_RUN, 0) ? run[i] : NULL;
}

static void make_cpu(int i)
{
	struct kvm_regs r = {.rsi = GPA + (unsigned)i * 4, .rbx = 77u + (unsigned)i, .rflags = 2};
	struct kvm_sregs s;

	cpu_fd[i] = userkvm_ioctl(vm_fd, KVM_CREATE_VCPU, (unsigned long)i);
	assert_true(cpu_fd[i] >= 0);
	run[i] = userkvm_mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, cpu_fd[i], 0);
	assert_true(run[i] != MAP_FAILED);
	assert_int_equal(userkvm_ioctl(cpu_fd[i], KVM_GET_SREGS, (unsigned long)&s), 0);
	s.cr0 |= 1;
	s.cs = (struct kvm_segment){.limit = ~0u, .selector = 8, .type = 11, .present = 1, .db = 1, .s = 1, .g = 1};
	s.ds = s.es = s.ss = s.fs = s.gs =
		(struct kvm_segment){.limit = ~0u, .selector = 16, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1};
	assert_int_equal(userkvm_ioctl(cpu_fd[i], KVM_SET_SREGS, (unsigned long)&s), 0);
	assert_int_equal(userkvm_ioctl(cpu_fd[i], KVM_SET_REGS, (unsigned long)&r), 0);
}

static int setup(void **state)
{
	struct kvm_userspace_memory_region slot[2];
	struct abi_object *o;

	low = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pages = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(low != MAP_FAILED && pages != MAP_FAILED);
	memcpy(low, code, sizeof(code));
	*(uint32_t *)(low + 0x800) = PAGES - 1;
	slot[0] = (struct kvm_userspace_memory_region){.memory_size = 4096, .userspace_addr = (uintptr_t)low};
	slot[1] = (struct kvm_userspace_memory_region){
		.slot = 1, .guest_phys_addr = GPA, .memory_size = PAGES * 4096, .userspace_addr = (uintptr_t)pages};
	kvm_fd = userkvm_open("/dev/kvm", O_RDWR);
	vm_fd = userkvm_ioctl(kvm_fd, KVM_CREATE_VM, 0);
	for (int i = 0; i < 2; i++)
		assert_int_equal(userkvm_ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, (unsigned long)&slot[i]), 0);
	o = abi_object_get(vm_fd);
	kvm = o->kvm;
	abi_object_put(o);
	for (int i = 0; i < CPUS; i++)
		make_cpu(i);
	return 0;
}

static void note(uint64_t *stamp)
{
	for (unsigned i = 0; i < PAGES; i++)
		stamp[i] = __atomic_load_n((uint64_t *)(pages + i * 4096), __ATOMIC_SEQ_CST);
}

static void no_accessed_page_is_reported_idle(void **state)
{
	const struct timespec moment = {.tv_nsec = 200000};
	uint64_t before[PAGES], after[PAGES];
	unsigned idle = 0, used = 0;
	pthread_t t[CPUS];

	for (int i = 0; i < CPUS; i++)
		assert_int_equal(pthread_create(&t[i], NULL, runner, (void *)(intptr_t)i), 0);
	for (unsigned n = 0; n < ROUNDS; n++) {
		/* sometimes all pages, sometimes few: then the others are idle indeed */
		__atomic_store_n((uint32_t *)(low + 0x800), n % 4 ? 15u << n % 5 : PAGES - 1, __ATOMIC_SEQ_CST);
		kvm_mmu_age(kvm, 0, 0, ~0ULL);
		note(before);
		nanosleep(&moment, NULL);
		note(after);
		for (unsigned i = 0; i < PAGES; i++) {
			gfn_t gfn = (GPA >> 12) + i;
			bool young = kvm_mmu_test_age(kvm, 0, gfn, gfn + 1);

			used += before[i] != after[i];
			idle += !young;
			if (before[i] != after[i] && !young)
				fail_msg("round %u: page %u was written and is idle", n, i);
		}
	}
	__atomic_store_n((uint32_t *)(low + 0x804), 1, __ATOMIC_SEQ_CST);
	for (int i = 0; i < CPUS; i++) {
		void *failed;

		pthread_join(t[i], &failed);
		assert_null(failed);
		assert_int_equal(run[i]->exit_reason, KVM_EXIT_HLT);
	}
	assert_true(used > ROUNDS && idle > ROUNDS);
	assert_int_equal(mmu_check(kvm), 0);
	for (int i = 0; i < CPUS; i++) {
		munmap(run[i], 4096);
		userkvm_close(cpu_fd[i]);
	}
	userkvm_close(vm_fd);
	userkvm_close(kvm_fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(no_accessed_page_is_reported_idle, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
