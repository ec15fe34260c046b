/*
 * The client changes its own mappings under running guests: munmap, mprotect,
 * madvise, mremap, mmap over what was there. Guests see the new state at once,
 * or KVM_RUN says -EFAULT until it is repaired. And the newer calls about
 * memory.
 */
#include <pthread.h>
#include <signal.h>
#include <time.h>

#include <sys/syscall.h>

#include "stats.h"

#define DATA_GPA 0x400000
#define DATA_SIZE 0x4000
#define NEXT(p) ((uint8_t *)(p) + 0x1000)

static struct client c;
static uint8_t *data;
static unsigned stop;

static void on_signal(int signo)
{
}

static void open_guest(const void *code, size_t n)
{
	struct sigaction sa = {.sa_handler = on_signal};

	assert_int_equal(sigaction(SIGUSR1, &sa, NULL), 0);
	stop = 0;
	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	data = mmap(NULL, DATA_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(data != MAP_FAILED);
	client_slot(&c, 1, 0, DATA_GPA, data, DATA_SIZE);
	client_flat_mode(&c, 0x1000, code, n);
}

static void close_guest(void)
{
	munmap(data, DATA_SIZE);
	client_close(&c);
}

/* One KVM_RUN after the other until it fails otherwise than by a signal. */
static void *run_thread(void *arg)
{
	int *error = arg;

	while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
		if (ioctl(c.vcpu, KVM_RUN, 0) == 0 || errno == EINTR)
			continue;
		__atomic_store_n(error, errno, __ATOMIC_SEQ_CST);
		break;
	}
	return NULL;
}

static bool soon(bool (*what)(void *), void *arg)
{
	struct timespec t = {.tv_nsec = 1000000};

	for (int i = 0; i < 5000; i++) {
		if (what(arg))
			return true;
		nanosleep(&t, NULL);
	}
	return false;
}

static bool counts(void *p)
{
	volatile uint32_t *v = p;
	uint32_t before = *v;
	struct timespec t = {.tv_nsec = 1000000};

	nanosleep(&t, NULL);
	return *v != before;
}

static bool is_set(void *p)
{
	return __atomic_load_n((int *)p, __ATOMIC_SEQ_CST) != 0;
}

static void stop_thread(pthread_t t)
{
	__atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
	c.run->immediate_exit = 1;
	pthread_kill(t, SIGUSR1);
	pthread_join(t, NULL);
}

/* 1: inc dword [401000h]; jmp 1b */
static const uint8_t counter[] = {0xff, 0x05, 0x00, 0x10, 0x40, 0x00, 0xeb, 0xf8};

/* Take memory away under a counting guest, see -EFAULT, give it back, see it count. */
static void fault_and_repair(void (*take)(void), void (*repair)(void))
{
	pthread_t t;
	int error = 0;

	open_guest(counter, sizeof(counter));
	assert_int_equal(pthread_create(&t, NULL, run_thread, &error), 0);
	assert_true(soon(counts, NEXT(data)));
	take();
	assert_true(soon(is_set, &error));
	assert_int_equal(error, EFAULT);
	pthread_join(t, NULL);
	assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EFAULT);
	repair();
	assert_int_equal(pthread_create(&t, NULL, run_thread, &error), 0);
	assert_true(soon(counts, NEXT(data)));
	stop_thread(t);
	assert_int_equal(error, EFAULT); /* nothing new */
	close_guest();
}

static void take_by_munmap(void)
{
	assert_int_equal(munmap(NEXT(data), 0x1000), 0);
}

static void map_again(void)
{
	assert_true(mmap(NEXT(data), 0x1000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
		    NEXT(data));
}

static void munmap_is_efault_until_mapped_again(void **state)
{
	fault_and_repair(take_by_munmap, map_again);
}

static void take_by_mprotect(void)
{
	assert_int_equal(mprotect(NEXT(data), 0x1000, PROT_READ), 0);
}

static void give_by_mprotect(void)
{
	assert_int_equal(mprotect(NEXT(data), 0x1000, PROT_READ | PROT_WRITE), 0);
}

static void mprotect_is_efault_until_taken_back(void **state)
{
	fault_and_repair(take_by_mprotect, give_by_mprotect);
}

static void take_by_mremap(void)
{
	void *p = mremap(NEXT(data), 0x1000, 0x1000, MREMAP_MAYMOVE | MREMAP_FIXED,
			 mmap(NULL, 0x1000, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));

	assert_true(p != MAP_FAILED && p != NEXT(data));
	munmap(p, 0x1000);
}

static void mremap_is_efault_until_mapped_again(void **state)
{
	fault_and_repair(take_by_mremap, map_again);
}

static void dropped_pages_read_as_zero(void **state)
{
	/* 1: mov eax,[401000h]; mov [400000h],eax; out 42h,al; jmp 1b */
	static const uint8_t code[] = {0xa1, 0x00, 0x10, 0x40, 0x00, 0xa3, 0x00, 0x00, 0x40, 0x00, 0xe6, 0x42, 0xeb, 0xf2};

	open_guest(code, sizeof(code));
	memset(NEXT(data), 0x11, 0x1000);
	assert_run_exits(&c, KVM_EXIT_IO);
	assert_int_equal(*(uint32_t *)data, 0x11111111);
	assert_int_equal(madvise(NEXT(data), 0x1000, MADV_DONTNEED), 0);
	assert_run_exits(&c, KVM_EXIT_IO);
	assert_int_equal(*(uint32_t *)data, 0);
	close_guest();
}

static void code_mapped_over_running_code_runs(void **state)
{
	/* 1: inc dword [401000h]; jmp 1b, and the same for 402000h, on a page each of a file */
	static const uint8_t code[2][8] = {{0xff, 0x05, 0x00, 0x10, 0x40, 0x00, 0xeb, 0xf8},
					   {0xff, 0x05, 0x00, 0x20, 0x40, 0x00, 0xeb, 0xf8}};
	int fd = memfd_create("code", 0), error = 0;
	uint8_t page[0x2000] = {0};
	struct kvm_regs r;
	pthread_t t;

	memcpy(page, code[0], 8);
	memcpy(page + 0x1000, code[1], 8);
	assert_int_equal(write(fd, page, sizeof(page)), sizeof(page));
	open_guest(code[0], 8);
	for (int i = 0; i < 2; i++)
		assert_true(mmap(data, 0x1000, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == data);
	r = client_regs(&c);
	r.rip = DATA_GPA;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	assert_int_equal(pthread_create(&t, NULL, run_thread, &error), 0);
	for (int i = 0; i < 20; i++) {
		/* Without a signal or an exit: the guest is in the middle of its loop. */
		assert_true(mmap(data, 0x1000, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, i % 2 * 0x1000) == data);
		assert_true(soon(counts, data + (i % 2 + 1) * 0x1000));
		assert_false(counts(data + (2 - i % 2) * 0x1000));
	}
	stop_thread(t);
	assert_int_equal(error, 0);
	close(fd);
	close_guest();
}

/* The client maps and protects without a pause; the guest only ever counts up. */
static void endless_changes_lose_no_write(void **state)
{
	int error = 0;
	uint32_t last = 0, now;
	pthread_t t;

	open_guest(counter, sizeof(counter));
	assert_int_equal(pthread_create(&t, NULL, run_thread, &error), 0);
	assert_true(soon(counts, NEXT(data)));
	for (int i = 0; i < 3000; i++) {
		assert_int_equal(mprotect(data, 0x1000, i % 2 ? PROT_READ : PROT_READ | PROT_WRITE), 0);
		assert_int_equal(madvise(data, DATA_SIZE / 4, MADV_DONTNEED), 0);
		/* Readable and writable as before, but the guest's entry goes away. */
		assert_int_equal(mprotect(NEXT(data), 0x1000, PROT_READ | PROT_WRITE | (i % 2 ? PROT_EXEC : 0)), 0);
		now = *(volatile uint32_t *)NEXT(data);
		assert_true(now >= last);
		last = now;
	}
	assert_true(soon(counts, NEXT(data)));
	stop_thread(t);
	assert_int_equal(error, 0);
	close_guest();
}

/* KVM API of Linux 6.8 and 6.11, by number. */
struct region2 {
	struct kvm_userspace_memory_region first;
	uint64_t memfd_offset;
	uint32_t memfd, pad1;
	uint64_t pad2[14];
};
struct pre_fault {
	uint64_t gpa, size, flags, padding[5];
};
#define SET_REGION2 _IOW(KVMIO, 0x49, struct region2)
#define PRE_FAULT _IOWR(KVMIO, 0xd5, struct pre_fault)

static void region2_is_region_with_room(void **state)
{
	struct region2 r = {.first = {.slot = 2, .guest_phys_addr = 0x800000, .memory_size = 0x1000}};

	open_guest(counter, sizeof(counter));
	if (!ioctl(c.vm, KVM_CHECK_EXTENSION, 231)) {
		close_guest();
		skip();
	}
	r.first.userspace_addr = (uintptr_t)c.mem;
	r.first.flags = 4; /* KVM_MEM_GUEST_MEMFD is not offered */
	assert_fails(ioctl(c.vm, SET_REGION2, &r), EINVAL);
	r.first.flags = 0;
	assert_int_equal(ioctl(c.vm, SET_REGION2, &r), 0);
	r.first.slot = 3;
	assert_fails(ioctl(c.vm, SET_REGION2, &r), EEXIST);
	close_guest();
}

static void pre_fault_reaches_to_the_end_of_memory(void **state)
{
	struct pre_fault p = {.gpa = DATA_GPA, .size = DATA_SIZE};

	open_guest(counter, sizeof(counter));
	if (!ioctl(c.vm, KVM_CHECK_EXTENSION, 236)) {
		close_guest();
		skip();
	}
	assert_int_equal(ioctl(c.vcpu, PRE_FAULT, &p), 0);
	assert_int_equal(p.gpa, DATA_GPA + DATA_SIZE);
	assert_int_equal(p.size, 0);
	p = (struct pre_fault){.gpa = DATA_GPA, .size = DATA_SIZE + 0x1000};
	assert_int_equal(ioctl(c.vcpu, PRE_FAULT, &p), 0);
	assert_int_equal(p.gpa, DATA_GPA + DATA_SIZE);
	assert_int_equal(p.size, 0x1000);
	assert_fails(ioctl(c.vcpu, PRE_FAULT, &p), ENOENT);
	p = (struct pre_fault){.gpa = DATA_GPA + 1, .size = 0x1000};
	assert_fails(ioctl(c.vcpu, PRE_FAULT, &p), EINVAL);
	p = (struct pre_fault){.gpa = DATA_GPA, .size = 0};
	assert_fails(ioctl(c.vcpu, PRE_FAULT, &p), EINVAL);
	p = (struct pre_fault){.gpa = DATA_GPA, .size = 0x1000, .flags = 1};
	assert_fails(ioctl(c.vcpu, PRE_FAULT, &p), EINVAL);
	assert_int_equal(munmap(NEXT(data), 0x1000), 0);
	p = (struct pre_fault){.gpa = DATA_GPA + 0x1000, .size = 0x1000};
	assert_fails(ioctl(c.vcpu, PRE_FAULT, &p), EFAULT);
	close_guest();
}

/* --- advice about memory that stays --- */

/* inc dword [400000h]; out 10h, al; jmp back */
static const uint8_t once[] = {0xff, 0x05, 0x00, 0x00, 0x40, 0x00, 0xe6, 0x10, 0xeb, 0xf6};

static bool without_ad_bits(void)
{
	const char *params = getenv("USERKVM_PARAMS");

	return params && strstr(params, "eptad=0");
}

static uint64_t faults_of_a_round(const char *name, struct stats *s)
{
	uint64_t before = value(s, name);

	assert_run_exits(&c, KVM_EXIT_IO);
	return value(s, name) - before;
}

static long advise(bool by_process, int advice)
{
	struct iovec v = {data, DATA_SIZE};
	long fd, r;

	if (!by_process)
		return madvise(data, DATA_SIZE, advice);
	fd = syscall(SYS_pidfd_open, getpid(), 0);
	assert_true(fd >= 0);
	r = process_madvise((int)fd, &v, 1, advice, 0);
	close((int)fd);
	return r == DATA_SIZE ? 0 : -1;
}

/* The guest's next access is noticed: by a fault where the processor keeps no accessed bits. */
static void cold_memory_is_noticed_when_it_is_used_again(void **state)
{
	for (int by_process = 0; by_process < 2; by_process++) {
		struct stats s;

		open_guest(once, sizeof(once));
		open_stats(&s, c.vcpu);
		faults_of_a_round("pf_fast", &s);
		assert_int_equal(faults_of_a_round("pf_taken", &s), 0);
		if (advise(by_process, MADV_COLD) == 0) {
			assert_int_equal(faults_of_a_round("pf_taken", &s), without_ad_bits());
			assert_int_equal(faults_of_a_round("pf_taken", &s), 0);
			assert_int_equal(value(&s, "pf_fast"), without_ad_bits());
			assert_int_equal(*(uint32_t *)data, 4);
		} else {
			print_message("MADV_COLD: %s\n", strerror(errno));
		}
		close_stats(&s);
		close_guest();
	}
}

static void memory_paged_out_is_faulted_in_again(void **state)
{
	for (int by_process = 0; by_process < 2; by_process++) {
		struct stats s;

		open_guest(once, sizeof(once));
		open_stats(&s, c.vcpu);
		faults_of_a_round("pf_taken", &s);
		if (advise(by_process, MADV_PAGEOUT) == 0) {
			assert_int_equal(faults_of_a_round("pf_fixed", &s), 1);
			assert_int_equal(*(uint32_t *)data, 2);
		} else {
			print_message("MADV_PAGEOUT: %s\n", strerror(errno));
		}
		close_stats(&s);
		close_guest();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(munmap_is_efault_until_mapped_again),
		cmocka_unit_test(mprotect_is_efault_until_taken_back),
		cmocka_unit_test(mremap_is_efault_until_mapped_again),
		cmocka_unit_test(dropped_pages_read_as_zero),
		cmocka_unit_test(code_mapped_over_running_code_runs),
		cmocka_unit_test(endless_changes_lose_no_write),
		cmocka_unit_test(region2_is_region_with_room),
		cmocka_unit_test(pre_fault_reaches_to_the_end_of_memory),
		cmocka_unit_test(cold_memory_is_noticed_when_it_is_used_again),
		cmocka_unit_test(memory_paged_out_is_faulted_in_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
