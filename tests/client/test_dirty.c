/*
 * The dirty log under load: guests write while a thread of the client collects
 * and clears, and copies what is dirty into a shadow, as live migration does.
 * When the guests have stopped the shadow must be equal: no write was missed.
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>

#include "client.h"

#define NR_VCPUS 2
#define LOGGED_GPA 0x400000
#define LOGGED_SIZE (8UL << 20)
#define PAGES (LOGGED_SIZE / 4096)
#define RING_ENTRIES 1024
#define RUN_MS 700

/*
 * for (;;) { eax = eax * 41c64e6dh + 3039h; ebx = (eax >> 9) % 2048 * 4096; ++[400000h + ebx + 4 * edi]; }
 */
static const uint8_t writer[] = {0x69, 0xc0, 0x6d, 0x4e, 0xc6, 0x41, 0x05, 0x39, 0x30, 0, 0, 0x89, 0xc3, 0xc1, 0xeb, 9,
				 0x81, 0xe3, 0xff, 7, 0, 0, 0xc1, 0xe3, 0x0c, 0xff, 0x84, 0xbb, 0, 0, 0x40, 0, 0xeb, 0xde};

enum how { AUTO, MANUAL, INITIALLY_SET, RING };

struct runner {
	int vcpu;
	struct kvm_run *run;
	struct kvm_dirty_gfn *ring;
	uint32_t next; /* of the ring */
	pthread_t thread;
	unsigned full, bad;
};

static struct client c;
static struct runner runner[NR_VCPUS];
static uint8_t *logged, *shadow;
static uint64_t bits[PAGES / 64];
static unsigned stop, copied;

static void on_signal(int signo)
{
}

static void *run_thread(void *arg)
{
	struct runner *r = arg;

	while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
		int e = ioctl(r->vcpu, KVM_RUN, 0);

		if (e < 0 && errno == EINTR)
			continue;
		if (e == 0 && r->run->exit_reason == KVM_EXIT_DIRTY_RING_FULL) {
			r->full++;
			sched_yield();
			continue;
		}
		r->bad++;
		break;
	}
	return NULL;
}

static int enable(int cap, uint64_t arg)
{
	struct kvm_enable_cap e = {.cap = (uint32_t)cap, .args = {arg}};

	return ioctl(c.vm, KVM_ENABLE_CAP, &e);
}

static void add_runner(struct runner *r, unsigned id, enum how how)
{
	struct kvm_regs regs;
	struct client one = c;

	memset(r, 0, sizeof(*r));
	one.vcpu = ioctl(c.vm, KVM_CREATE_VCPU, id);
	assert_true(one.vcpu >= 0);
	c.run_size = (size_t)ioctl(c.kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	r->vcpu = one.vcpu;
	r->run = mmap(NULL, c.run_size, PROT_READ | PROT_WRITE, MAP_SHARED, r->vcpu, 0);
	assert_true(r->run != MAP_FAILED);
	if (how == RING) {
		r->ring = mmap(NULL, RING_ENTRIES * sizeof(*r->ring), PROT_READ | PROT_WRITE, MAP_SHARED, r->vcpu,
			       KVM_DIRTY_LOG_PAGE_OFFSET * 4096);
		assert_true(r->ring != MAP_FAILED);
	}
	client_flat_mode(&one, 0x1000, writer, sizeof(writer));
	regs = client_regs(&one);
	regs.rax = id * 77777 + 1;
	regs.rdi = id;
	assert_int_equal(ioctl(r->vcpu, KVM_SET_REGS, &regs), 0);
}

static void copy_dirty(void)
{
	size_t i;

	for (i = 0; i < PAGES; i++)
		if (bits[i / 64] >> (i % 64) & 1) {
			memcpy(shadow + i * 4096, logged + i * 4096, 4096);
			copied++;
		}
}

static void collect_bitmap(enum how how, size_t first, size_t n)
{
	struct kvm_dirty_log log = {.slot = 1, .dirty_bitmap = bits};
	struct kvm_clear_dirty_log clear = {.slot = 1, .first_page = first, .num_pages = (uint32_t)n,
					    .dirty_bitmap = bits + first / 64};

	assert_int_equal(ioctl(c.vm, KVM_GET_DIRTY_LOG, &log), 0);
	if (how != AUTO) {
		/* Only a part: the rest stays dirty, and nothing of it may be copied as clean. */
		assert_int_equal(ioctl(c.vm, KVM_CLEAR_DIRTY_LOG, &clear), 0);
		memset(bits, 0, first / 8);
		memset((uint8_t *)bits + (first + n) / 8, 0, (PAGES - first - n) / 8);
	}
	copy_dirty();
}

static void collect_rings(void)
{
	int harvested = 0;

	memset(bits, 0, sizeof(bits));
	for (int i = 0; i < NR_VCPUS; i++) {
		struct runner *r = &runner[i];

		for (;;) {
			struct kvm_dirty_gfn *e = &r->ring[r->next % RING_ENTRIES];

			if (!(__atomic_load_n(&e->flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_DIRTY))
				break;
			assert_int_equal(e->slot, 1);
			assert_true(e->offset < PAGES);
			bits[e->offset / 64] |= 1ULL << (e->offset % 64);
			__atomic_store_n(&e->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
			r->next++;
			harvested++;
		}
	}
	assert_int_equal(ioctl(c.vm, KVM_RESET_DIRTY_RINGS, 0), harvested);
	copy_dirty();
}

static void collect(enum how how, size_t first, size_t n)
{
	if (how == RING)
		collect_rings();
	else
		collect_bitmap(how, first, n);
}

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void open_logged(enum how how, uint32_t flags)
{
	uint8_t *p = mmap(NULL, LOGGED_SIZE + (2 << 20), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_true(p != MAP_FAILED);
	/* Aligned, so that huge mappings are possible. */
	logged = (uint8_t *)(((uintptr_t)p + (2 << 20) - 1) & ~((2UL << 20) - 1));
	shadow = calloc(1, LOGGED_SIZE);
	assert_non_null(shadow);
	client_open_vm(&c, 1 << 20);
	if (how == MANUAL || how == INITIALLY_SET)
		assert_int_equal(enable(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, how == MANUAL ? 1 : 3), 0);
	if (how == RING)
		assert_int_equal(enable(KVM_CAP_DIRTY_LOG_RING, RING_ENTRIES * sizeof(struct kvm_dirty_gfn)), 0);
	client_slot(&c, 1, flags, LOGGED_GPA, logged, LOGGED_SIZE);
}

static void close_logged(void)
{
	for (int i = 0; i < NR_VCPUS; i++) {
		munmap(runner[i].run, c.run_size);
		if (runner[i].ring)
			munmap(runner[i].ring, RING_ENTRIES * sizeof(struct kvm_dirty_gfn));
		close(runner[i].vcpu);
	}
	c.vcpu = -1;
	client_close(&c);
	free(shadow);
}

static void no_write_is_missed(enum how how)
{
	struct sigaction sa = {.sa_handler = on_signal};
	unsigned seed = 1, rounds = 0, least, full = 0;
	double end;
	size_t i;

	assert_int_equal(sigaction(SIGUSR1, &sa, NULL), 0);
	stop = copied = 0;
	open_logged(how, 0);
	for (i = 0; i < NR_VCPUS; i++)
		add_runner(&runner[i], (unsigned)i, how);
	for (i = 0; i < NR_VCPUS; i++)
		assert_int_equal(pthread_create(&runner[i].thread, NULL, run_thread, &runner[i]), 0);
	usleep(20000); /* some of it mapped, and huge, before logging begins */
	for (int again = 0; again < 3; again++) {
		client_slot(&c, 1, KVM_MEM_LOG_DIRTY_PAGES, LOGGED_GPA, logged, LOGGED_SIZE);
		memcpy(shadow, logged, LOGGED_SIZE);
		end = seconds() + RUN_MS / 3e3;
		/* On a busy machine a round may last long. */
		for (least = rounds + 4; rounds < least || seconds() < end;) {
			size_t first = (size_t)rand_r(&seed) % (PAGES / 64), n = (size_t)rand_r(&seed) % (PAGES / 64);

			collect(how, first * 64, (n < PAGES / 64 - first ? n : PAGES / 64 - first) * 64);
			rounds++;
			if (rounds % 8 == 0)
				usleep(3000);
		}
		if (again == 2)
			break;
		/* Off, so that huge pages come back, and on again. */
		client_slot(&c, 1, 0, LOGGED_GPA, logged, LOGGED_SIZE);
		if (how == RING)
			collect(how, 0, PAGES);
		usleep(20000);
	}
	__atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
	for (i = 0; i < NR_VCPUS; i++) {
		runner[i].run->immediate_exit = 1;
		pthread_kill(runner[i].thread, SIGUSR1);
		pthread_join(runner[i].thread, NULL);
		assert_int_equal(runner[i].bad, 0);
		full += runner[i].full;
	}
	collect(how, 0, PAGES);
	assert_memory_equal(shadow, logged, LOGGED_SIZE);
	/* And the log has ended: nobody writes any more. */
	copied = 0;
	collect(how, 0, PAGES);
	assert_int_equal(copied, 0);
	if (how == RING)
		assert_true(full > 0);
	close_logged();
}

static void bitmap_misses_no_write(void **state)
{
	no_write_is_missed(AUTO);
}

static void manual_clear_misses_no_write(void **state)
{
	no_write_is_missed(MANUAL);
}

static void initially_set_misses_no_write(void **state)
{
	no_write_is_missed(INITIALLY_SET);
}

static void ring_misses_no_write(void **state)
{
	no_write_is_missed(RING);
}

static void writes_of_the_hypervisor_are_logged(void **state)
{
	/* les di,[500h]; mov dx,42h; insb; hlt: the emulator writes to 400h:10h = 4010h */
	static const uint8_t code[] = {0xc4, 0x3e, 0x00, 0x05, 0xba, 0x42, 0x00, 0x6c, 0xf4};
	uint64_t map[1] = {0};
	struct kvm_dirty_log log = {.slot = 0, .dirty_bitmap = map};

	client_open_vm(&c, 64 * 4096);
	client_slot(&c, 0, KVM_MEM_LOG_DIRTY_PAGES, 0, c.mem, c.mem_size);
	client_add_vcpu(&c);
	client_real_mode(&c, 0x1000, code, sizeof(code));
	memcpy(c.mem + 0x500, "\x10\x00\x00\x04", 4);
	assert_run_exits(&c, KVM_EXIT_IO);
	*((uint8_t *)c.run + c.run->io.data_offset) = 0x5a;
	assert_run_exits(&c, KVM_EXIT_HLT);
	assert_int_equal(c.mem[0x4010], 0x5a);
	assert_int_equal(ioctl(c.vm, KVM_GET_DIRTY_LOG, &log), 0);
	assert_true(map[0] & 1 << 4);
	assert_int_equal(ioctl(c.vm, KVM_GET_DIRTY_LOG, &log), 0);
	assert_int_equal(map[0], 0);
	client_close(&c);
}

/* A slot that was logged when the VM got its rings is logged by them. */
/* mov al, [3000h]; mov [5000h], al; hlt. KVM 6.1 marks pages 1 and 3 too, which it maps writable (docs/dirty-log.md). */
static void reads_and_fetches_are_not_logged(void **state)
{
	static const uint8_t code[] = {0xa0, 0x00, 0x30, 0xa2, 0x00, 0x50, 0xf4};
	const char *preload = getenv("LD_PRELOAD");
	uint64_t bitmap = 0, marked = 1 << 5;
	struct kvm_dirty_log log = {.dirty_bitmap = &bitmap};
	struct client g;

	client_open_vm(&g, 0x8000);
	client_add_vcpu(&g);
	client_real_mode(&g, 0x1000, code, sizeof(code));
	client_slot(&g, 0, KVM_MEM_LOG_DIRTY_PAGES, 0, g.mem, g.mem_size);
	assert_run_exits(&g, KVM_EXIT_HLT);
	assert_int_equal(ioctl(g.vm, KVM_GET_DIRTY_LOG, &log), 0);
	if (!preload || !strstr(preload, "userkvm")) /* a kernel's */
		bitmap &= ~(uint64_t)(1 << 1 | 1 << 3);
	assert_int_equal(bitmap, marked);
	client_close(&g);
}

static void rings_take_over_from_a_bitmap(void **state)
{
	static const uint8_t code[] = {0xa2, 0x00, 0x50, 0xf4}; /* mov [5000h],al; hlt */
	uint64_t map[1] = {0};
	struct kvm_dirty_log log = {.slot = 0, .dirty_bitmap = map};
	struct kvm_dirty_gfn *ring;

	client_open_vm(&c, 64 * 4096);
	client_slot(&c, 0, KVM_MEM_LOG_DIRTY_PAGES, 0, c.mem, c.mem_size);
	assert_int_equal(ioctl(c.vm, KVM_GET_DIRTY_LOG, &log), 0);
	assert_int_equal(enable(KVM_CAP_DIRTY_LOG_RING, RING_ENTRIES * sizeof(struct kvm_dirty_gfn)), 0);
	client_add_vcpu(&c);
	client_real_mode(&c, 0x1000, code, sizeof(code));
	ring = mmap(NULL, RING_ENTRIES * sizeof(*ring), PROT_READ | PROT_WRITE, MAP_SHARED, c.vcpu,
		    KVM_DIRTY_LOG_PAGE_OFFSET * 4096);
	assert_true(ring != MAP_FAILED);
	assert_run_exits(&c, KVM_EXIT_HLT);
	assert_int_equal(ring[0].flags, KVM_DIRTY_GFN_F_DIRTY);
	assert_int_equal(ring[0].offset, 5);
	assert_fails(ioctl(c.vm, KVM_GET_DIRTY_LOG, &log), ENXIO);
	client_slot(&c, 1, 0, 1 << 20, c.mem, 4096); /* anything that checks the tables after it */
	munmap(ring, RING_ENTRIES * sizeof(*ring));
	client_close(&c);
}

static void wrong_arguments_have_kvms_errors(void **state)
{
	struct kvm_dirty_log log = {.slot = 1, .dirty_bitmap = bits};
	struct kvm_clear_dirty_log clear = {.slot = 1, .num_pages = 64, .dirty_bitmap = bits};

	open_logged(MANUAL, 0);
	assert_fails(ioctl(c.vm, KVM_GET_DIRTY_LOG, &log), ENOENT); /* not logged */
	assert_fails(ioctl(c.vm, KVM_CLEAR_DIRTY_LOG, &clear), ENOENT);
	client_slot(&c, 1, KVM_MEM_LOG_DIRTY_PAGES, LOGGED_GPA, logged, LOGGED_SIZE);
	log.slot = 7;
	assert_fails(ioctl(c.vm, KVM_GET_DIRTY_LOG, &log), ENOENT);
	log.slot = 2 << 16;
	assert_fails(ioctl(c.vm, KVM_GET_DIRTY_LOG, &log), EINVAL);
	log.slot = 1;
	log.dirty_bitmap = (void *)8;
	assert_fails(ioctl(c.vm, KVM_GET_DIRTY_LOG, &log), EFAULT);
	clear.first_page = 1;
	assert_fails(ioctl(c.vm, KVM_CLEAR_DIRTY_LOG, &clear), EINVAL);
	clear.first_page = 0;
	clear.num_pages = 65;
	assert_fails(ioctl(c.vm, KVM_CLEAR_DIRTY_LOG, &clear), EINVAL);
	clear.num_pages = PAGES + 64;
	assert_fails(ioctl(c.vm, KVM_CLEAR_DIRTY_LOG, &clear), EINVAL);
	clear.num_pages = 64;
	clear.dirty_bitmap = (void *)8;
	assert_fails(ioctl(c.vm, KVM_CLEAR_DIRTY_LOG, &clear), EFAULT);
	assert_fails(ioctl(c.vm, KVM_RESET_DIRTY_RINGS, 0), EINVAL);
	assert_fails(enable(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 2), EINVAL);
	assert_fails(enable(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 4), EINVAL);
	assert_fails(enable(KVM_CAP_DIRTY_LOG_RING, 4096 * 3), EINVAL);
	assert_fails(enable(KVM_CAP_DIRTY_LOG_RING, 1024), EINVAL);
	assert_fails(enable(KVM_CAP_DIRTY_LOG_RING, 1 << 24), E2BIG);
	assert_int_equal(enable(KVM_CAP_DIRTY_LOG_RING, 16384), 0);
	assert_fails(enable(KVM_CAP_DIRTY_LOG_RING, 16384), EINVAL);
	log.dirty_bitmap = bits;
	assert_fails(ioctl(c.vm, KVM_GET_DIRTY_LOG, &log), ENXIO);
	c.vcpu = -1;
	client_close(&c);
	free(shadow);
}

static void dirty_ring_cannot_be_mapped_private_or_executable(void **state)
{
	struct runner r;

	open_logged(RING, 0);
	add_runner(&r, 0, RING);
	assert_true(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, r.vcpu, KVM_DIRTY_LOG_PAGE_OFFSET * 4096) == MAP_FAILED);
	assert_true(mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, r.vcpu, KVM_DIRTY_LOG_PAGE_OFFSET * 4096) ==
		    MAP_FAILED);
	close(r.vcpu);
	c.vcpu = -1;
	client_close(&c);
	free(shadow);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bitmap_misses_no_write),
		cmocka_unit_test(manual_clear_misses_no_write),
		cmocka_unit_test(initially_set_misses_no_write),
		cmocka_unit_test(ring_misses_no_write),
		cmocka_unit_test(writes_of_the_hypervisor_are_logged),
		cmocka_unit_test(reads_and_fetches_are_not_logged),
		cmocka_unit_test(rings_take_over_from_a_bitmap),
		cmocka_unit_test(wrong_arguments_have_kvms_errors),
		cmocka_unit_test(dirty_ring_cannot_be_mapped_private_or_executable),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
