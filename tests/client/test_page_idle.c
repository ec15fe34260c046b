/*
 * Idle page tracking of guest memory: /sys/kernel/mm/page_idle/bitmap as it is
 * served where the host's kernel has none (Linux:
 * Documentation/admin-guide/mm/idle_page_tracking.rst).
 */
#ifdef __OPTIMIZE__
#define _FORTIFY_SOURCE 2 /* __read_chk() and its like are served too */
#endif
#include <linux/capability.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "stats.h"

#define BITMAP "/sys/kernel/mm/page_idle/bitmap"
#define DATA_GPA 0x400000
#define HUGE_GPA 0x800000
#define PAGES 80
#define PAGE 4096UL
#define HUGE (2UL << 20)
#define LAST_PFN ((1ULL << 40) - 1)

static struct client c;
static uint8_t *data;
static int bitmap;

/* One page frame for each page of memory, or 0: Linux tells none without CAP_SYS_ADMIN. */
static uint64_t pfn_of(const void *p)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t e;

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &e, sizeof(e), (off_t)((uintptr_t)p / PAGE * sizeof(e))), sizeof(e));
	close(fd);
	return e >> 63 ? e & ((1ULL << 55) - 1) : 0;
}

static uint64_t word_of_fd(int fd, uint64_t pfn)
{
	volatile size_t size = 8; /* or the compiler knows that it fits */
	uint64_t word;

	assert_int_equal(pread(fd, &word, size, (off_t)(pfn / 64 * 8)), 8);
	return word;
}

static bool pfn_is_idle(uint64_t pfn)
{
	return word_of_fd(bitmap, pfn) >> pfn % 64 & 1;
}

static bool is_idle(const void *p)
{
	uint64_t pfn = pfn_of(p);

	assert_true(pfn);
	return pfn_is_idle(pfn);
}

static void mark_pfn(uint64_t pfn)
{
	uint64_t bit = 1ULL << pfn % 64;

	assert_int_equal(pwrite(bitmap, &bit, 8, (off_t)(pfn / 64 * 8)), 8);
}

static void mark(const void *p)
{
	uint64_t pfn = pfn_of(p);

	assert_true(pfn);
	mark_pfn(pfn);
}

/* The guest reads or writes one byte. */
static void guest_accesses(uint64_t gpa, bool write)
{
	struct kvm_regs r = client_regs(&c);

	r.rsi = gpa;
	r.rip = write ? 0x1010 : 0x1000;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	assert_run_exits(&c, KVM_EXIT_IO);
}

static bool can_be_opened(void)
{
	volatile uint8_t here = 1; /* a page that is there */

	if (access(BITMAP, F_OK) == 0)
		return false; /* the kernel's own, with rules of its own about which pages it takes */
	return geteuid() == 0 && pfn_of((const void *)&here) != 0;
}

static int open_bitmap(int flags)
{
	int fd = open(BITMAP, flags | O_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static int setup(void **state)
{
	/* mov al, [esi]; out 0x10, al        at 0x1010: mov [esi], al; out 0x10, al */
	static const uint8_t code[32] = { 0x8a, 0x06, 0xe6, 0x10, [16] = 0x88, 0x06, 0xe6, 0x10 };

	if (!can_be_opened())
		return 0;
	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	data = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(data != MAP_FAILED);
	memset(data, 1, PAGES * PAGE);
	client_slot(&c, 1, 0, DATA_GPA, data, PAGES * PAGE);
	client_flat_mode(&c, 0x1000, code, sizeof(code));
	bitmap = open_bitmap(O_RDWR);
	return 0;
}

static int teardown(void **state)
{
	if (!can_be_opened())
		return 0;
	close(bitmap);
	munmap(data, PAGES * PAGE);
	client_close(&c);
	return 0;
}

#define NEEDS_THE_FILE()             \
	do {                         \
		if (!can_be_opened()) \
			skip();      \
	} while (0)

static void page_is_idle_from_its_mark_to_the_guests_next_access(void **state)
{
	NEEDS_THE_FILE();
	for (unsigned i = 0; i < PAGES; i++)
		guest_accesses(DATA_GPA + i * PAGE, i & 1);
	for (unsigned i = 0; i < PAGES; i++) {
		assert_false(is_idle(data + i * PAGE));
		mark(data + i * PAGE);
		assert_true(is_idle(data + i * PAGE));
	}
	for (unsigned i = 0; i < PAGES; i += 3)
		guest_accesses(DATA_GPA + i * PAGE, i & 1);
	for (int look = 0; look < 2; look++)
		for (unsigned i = 0; i < PAGES; i++)
			assert_int_equal(is_idle(data + i * PAGE), i % 3 != 0);
	for (unsigned i = 0; i < PAGES; i++)
		data[i * PAGE]++; /* the client's accesses do not count */
	assert_true(is_idle(data + PAGE));
}

/* A whole word at once, and what is no guest memory in it. */
static void only_guest_memory_is_ever_idle(void **state)
{
	uint64_t all = ~0ULL, pfn, word;
	uint8_t *other;

	NEEDS_THE_FILE();
	other = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(other != MAP_FAILED);
	*other = 1;
	mark(other);
	assert_false(is_idle(other));
	pfn = pfn_of(data);
	assert_int_equal(pwrite(bitmap, &all, 8, (off_t)(pfn / 64 * 8)), 8);
	word = word_of_fd(bitmap, pfn);
	for (unsigned bit = 0; bit < 64; bit++) {
		bool ours = false;

		for (unsigned i = 0; i < PAGES; i++)
			ours |= pfn_of(data + i * PAGE) == (pfn & ~63ULL) + bit;
		for (unsigned i = 0; i < c.mem_size / PAGE; i++)
			ours |= pfn_of(c.mem + i * PAGE) == (pfn & ~63ULL) + bit;
		assert_int_equal(word >> bit & 1, ours);
	}
	/* It comes to be guest memory: an open looks anew. */
	client_slot(&c, 2, 0, HUGE_GPA, other, PAGE);
	close(open_bitmap(O_RDONLY));
	assert_false(is_idle(other));
	mark(other);
	assert_true(is_idle(other));
	client_slot(&c, 2, 0, HUGE_GPA, other, 0);
	assert_false(is_idle(other));
	munmap(other, PAGE);
}

/* Without another open: the index is made anew from time to time. */
static void guest_memory_that_came_since_is_found_in_time(void **state)
{
	struct timespec pause = { .tv_nsec = 10000000 };
	int rounds = 3000;
	uint8_t *other;

	NEEDS_THE_FILE();
	other = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(other != MAP_FAILED);
	*other = 1;
	client_slot(&c, 2, 0, HUGE_GPA, other, PAGE);
	do {
		nanosleep(&pause, NULL);
		mark(other);
	} while (!is_idle(other) && --rounds);
	assert_true(rounds);
	client_slot(&c, 2, 0, HUGE_GPA, other, 0);
	munmap(other, PAGE);
}

static void offsets_and_sizes_are_checked_as_by_linux(void **state)
{
	void *volatile bad = (void *)8;
	static uint64_t words[1024];
	off_t at, beyond = (off_t)(LAST_PFN / 64 * 8);

	NEEDS_THE_FILE();
	at = (off_t)(pfn_of(data) / 64 * 8);
	assert_fails(pread(bitmap, words, 8, at + 4), EINVAL);
	assert_fails(pwrite(bitmap, words, 8, at + 4), EINVAL);
	assert_fails(pread(bitmap, words, 4, at), EINVAL);
	assert_fails(pwrite(bitmap, words, 12, at), EINVAL);
	assert_fails(pread(bitmap, words, 8, -8), EINVAL);
	assert_fails(pwrite(bitmap, words, 8, -8), EINVAL);
	assert_int_equal(pread(bitmap, words, 0, at + 4), 0);
	assert_int_equal(pwrite(bitmap, words, 0, at + 4), 0);
	assert_int_equal(pread(bitmap, words, sizeof(words), 0), 4096);
	assert_int_equal(pwrite(bitmap, words, 4097, 0), 4096);
	assert_int_equal(pread(bitmap, words, 8, beyond), 0);
	assert_fails(pwrite(bitmap, words, 8, beyond), ENXIO);
	assert_fails(pread(bitmap, bad, 8, at), EFAULT);
	assert_fails(pwrite(bitmap, bad, 8, at), EFAULT);
}

static void the_access_mode_is_kept(void **state)
{
	uint64_t word = 0;
	int r, w;

	NEEDS_THE_FILE();
	r = openat(AT_FDCWD, BITMAP, O_RDONLY | O_CLOEXEC);
	w = open_bitmap(O_WRONLY);
	assert_int_equal(read(r, &word, 8), 8);
	assert_fails(write(r, &word, 8), EBADF);
	assert_int_equal(write(w, &word, 8), 8);
	assert_fails(read(w, &word, 8), EBADF);
	assert_int_equal(fcntl(r, F_GETFL) & O_ACCMODE, O_RDONLY);
	assert_int_equal(fcntl(r, F_GETFD), FD_CLOEXEC);
	close(r);
	close(w);
	assert_fails(open(BITMAP, O_RDWR | O_DIRECTORY), ENOTDIR);
	assert_fails(ioctl(bitmap, KVM_CREATE_VM, 0), ENOTTY);
}

/* read(), write() and lseek() share one position among the copies of a descriptor. */
static void the_position_moves_and_copies_share_it(void **state)
{
	volatile size_t size = 8;
	uint64_t pfn, bit, word;
	int copy, other;
	off_t at;

	NEEDS_THE_FILE();
	pfn = pfn_of(data);
	at = (off_t)(pfn / 64 * 8);
	bit = 1ULL << pfn % 64;
	copy = dup(bitmap);
	assert_true(copy >= 0);
	assert_int_equal(lseek(bitmap, at, SEEK_SET), at);
	assert_int_equal(write(copy, &bit, 8), 8);
	assert_int_equal(lseek(bitmap, 0, SEEK_CUR), at + 8);
	assert_int_equal(lseek(copy, -8, SEEK_CUR), at);
	assert_int_equal(read(bitmap, &word, size), 8);
	assert_true(word & bit);
	other = open_bitmap(O_RDONLY); /* the same bits, a position of its own */
	assert_int_equal(lseek(other, 0, SEEK_CUR), 0);
	assert_true(word_of_fd(other, pfn) & bit);
	close(bitmap);
	assert_true(word_of_fd(copy, pfn) & bit);
	close(other);
	close(copy);
	assert_fails(pread(copy, &word, 8, at), EBADF);
	bitmap = open_bitmap(O_RDWR); /* marks outlive the descriptors */
	assert_true(is_idle(data));
}

/* The child has the descriptor, and the parent's VM is not its own. */
static int in_child(void)
{
	uint64_t word = ~0ULL, pfn = pfn_of(data);
	off_t at = (off_t)(pfn / 64 * 8);
	struct client own;

	client_open_vm(&own, 1 << 20);
	own.mem[0] = 1;
	mark(own.mem);
	if (!is_idle(own.mem))
		return 1;
	if (pread(bitmap, &word, 8, at) != 8 || word >> pfn % 64 & 1)
		return 2;
	mark_pfn(pfn);
	if (pfn_is_idle(pfn))
		return 3;
	client_close(&own);
	return close(bitmap) ? 4 : 0;
}

static void a_forked_child_has_its_own_guest_memory_only(void **state)
{
	int status;
	pid_t pid;

	NEEDS_THE_FILE();
	mark(data);
	assert_true(is_idle(data));
	pid = fork();
	if (pid == 0)
		_exit(in_child());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_true(is_idle(data));
	guest_accesses(DATA_GPA, false);
	assert_false(is_idle(data));
}

/* One accessed bit for 2 MiB: a page is accessed when any of them is. */
static void pages_of_a_huge_leaf_are_accessed_together(void **state)
{
	uint8_t *area, *huge;
	struct stats stats;

	NEEDS_THE_FILE();
	area = mmap(NULL, 2 * HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(area != MAP_FAILED);
	huge = (uint8_t *)(((uintptr_t)area + HUGE - 1) & ~(HUGE - 1));
	memset(huge, 1, HUGE);
	client_slot(&c, 2, 0, HUGE_GPA, huge, HUGE);
	guest_accesses(HUGE_GPA, true);
	open_stats(&stats, c.vm);
	assert_int_equal(value(&stats, "pages_2m"), 1);
	close_stats(&stats);
	close(open_bitmap(O_RDONLY));
	mark(huge + 3 * PAGE);
	mark(huge + 4 * PAGE);
	assert_true(is_idle(huge + 3 * PAGE) && is_idle(huge + 4 * PAGE));
	assert_false(is_idle(huge + 5 * PAGE));
	guest_accesses(HUGE_GPA + 9 * PAGE, false);
	mark(huge + 5 * PAGE); /* takes the accessed bit away */
	assert_false(is_idle(huge + 3 * PAGE));
	assert_false(is_idle(huge + 4 * PAGE));
	assert_true(is_idle(huge + 5 * PAGE));
	client_slot(&c, 2, 0, HUGE_GPA, huge, 0);
	munmap(area, 2 * HUGE);
}

static void a_page_that_is_given_back_is_no_longer_idle(void **state)
{
	uint64_t pfn[3];

	NEEDS_THE_FILE();
	for (int i = 0; i < 3; i++) {
		pfn[i] = pfn_of(data + i * PAGE);
		mark_pfn(pfn[i]);
		assert_true(pfn_is_idle(pfn[i]));
	}
	assert_int_equal(madvise(data, PAGE, MADV_DONTNEED), 0);
	assert_int_equal(munmap(data + PAGE, PAGE), 0);
	assert_false(pfn_is_idle(pfn[0]));
	assert_false(pfn_is_idle(pfn[1]));
	assert_true(pfn_is_idle(pfn[2]));
	assert_int_equal(syscall(SYS_madvise, data + 2 * PAGE, PAGE, MADV_DONTNEED), 0); /* behind the library's back */
	assert_false(pfn_is_idle(pfn[2]));
	data[0] = 1; /* another page, or the same one again */
	close(open_bitmap(O_RDONLY));
	assert_false(is_idle(data));
}

/* The page frame has two addresses and three guest-physical ones. */
static void a_page_with_several_addresses_is_accessed_through_any(void **state)
{
	uint8_t *a, *b;
	int memory;

	NEEDS_THE_FILE();
	memory = memfd_create("guest", MFD_CLOEXEC);
	assert_int_equal(ftruncate(memory, PAGE), 0);
	a = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
	b = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
	assert_true(a != MAP_FAILED && b != MAP_FAILED);
	*a = 1;
	*b = 2;
	client_slot(&c, 2, 0, HUGE_GPA, a, PAGE);
	client_slot(&c, 3, 0, HUGE_GPA + PAGE, b, PAGE);
	client_slot(&c, 4, 0, HUGE_GPA + 2 * PAGE, b, PAGE);
	close(open_bitmap(O_RDONLY));
	for (unsigned i = 0; i < 3; i++) {
		mark(a);
		assert_true(is_idle(b));
		guest_accesses(HUGE_GPA + i * PAGE, i & 1);
		assert_false(is_idle(a));
		mark(b);
		assert_true(is_idle(a));
	}
	/* Once seen the mark is gone, at the other address too. */
	guest_accesses(HUGE_GPA + PAGE, true);
	assert_false(is_idle(a));
	client_slot(&c, 3, 0, HUGE_GPA + PAGE, b, 0);
	client_slot(&c, 4, 0, HUGE_GPA + 2 * PAGE, b, 0);
	munmap(b, PAGE);
	close(open_bitmap(O_RDONLY));
	assert_false(is_idle(a));
	mark(a);
	assert_true(is_idle(a));
	client_slot(&c, 2, 0, HUGE_GPA, a, 0);
	munmap(a, PAGE);
	close(memory);
}

/* Also where the number came to be another file's behind the library's back. */
static void other_files_are_read_and_written_as_ever(void **state)
{
	char text[4] = "";
	int pipes[2], number;

	NEEDS_THE_FILE();
	assert_int_equal(pipe(pipes), 0);
	assert_int_equal(write(pipes[1], "abc", 3), 3);
	assert_int_equal(read(pipes[0], text, 3), 3);
	assert_string_equal(text, "abc");
	assert_fails(pread(pipes[0], text, 3, 0), ESPIPE);
	number = open_bitmap(O_RDWR);
	assert_int_equal(syscall(SYS_dup2, pipes[1], number), number);
	assert_int_equal(write(number, "xyz", 3), 3);
	assert_int_equal(read(pipes[0], text, 3), 3);
	assert_string_equal(text, "xyz");
	close(number);
	close(pipes[0]);
	close(pipes[1]);
}

/* The library keeps one of pagemap: it is the client's to close, as all are. */
static void the_librarys_own_descriptor_may_be_replaced(void **state)
{
	int null, replaced = 0;

	NEEDS_THE_FILE();
	mark(data);
	assert_true(is_idle(data));
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int fd = 3; fd < 100; fd++) {
		char link[32], path[64] = "";

		snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
		if (readlink(link, path, sizeof(path) - 1) > 0 && strstr(path, "/pagemap"))
			replaced += syscall(SYS_dup2, null, fd) == fd;
	}
	assert_true(replaced > 0);
	assert_true(is_idle(data));
	mark(data + PAGE);
	assert_true(is_idle(data + PAGE));
	close(null);
}

static void handler_marks(int signo)
{
	uint64_t bit = 1;

	if (pwrite(bitmap, &bit, 8, 0) != 8)
		abort();
}

/* pread() and pwrite() are async-signal-safe. */
static void a_signal_handler_may_mark_too(void **state)
{
	struct sigaction sa = { .sa_handler = handler_marks }, old;
	timer_t timer;
	struct itimerspec often = { .it_interval.tv_nsec = 200000, .it_value.tv_nsec = 200000 };

	NEEDS_THE_FILE();
	assert_int_equal(sigaction(SIGALRM, &sa, &old), 0);
	assert_int_equal(timer_create(CLOCK_MONOTONIC, NULL, &timer), 0);
	assert_int_equal(timer_settime(timer, 0, &often, NULL), 0);
	for (int i = 0; i < 2000; i++) {
		mark(data + i % PAGES * PAGE);
		assert_true(is_idle(data + i % PAGES * PAGE));
	}
	timer_delete(timer);
	sigaction(SIGALRM, &old, NULL);
}

static bool idle_in_handler;

static void handler_marks_data(int signo)
{
	mark(data);
	idle_in_handler = is_idle(data);
}

/* It marks a page that the guest it has interrupted is using. */
static void a_handler_that_ends_kvm_run_may_mark(void **state)
{
	struct sigaction sa = { .sa_handler = handler_marks_data }, old;
	struct itimerspec often = { .it_interval.tv_nsec = 20000000, .it_value.tv_nsec = 20000000 };
	static const uint8_t loop[] = { 0x8a, 0x06, 0xeb, 0xfc };
	struct kvm_regs r;
	timer_t timer;

	NEEDS_THE_FILE();
	r = client_regs(&c);
	r.rsi = DATA_GPA;
	r.rip = 0x1040;
	memcpy(c.mem + 0x1040, loop, sizeof(loop));
	assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	assert_int_equal(sigaction(SIGALRM, &sa, &old), 0);
	assert_int_equal(timer_create(CLOCK_MONOTONIC, NULL, &timer), 0);
	assert_int_equal(timer_settime(timer, 0, &often, NULL), 0);
	assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EINTR);
	timer_delete(timer);
	assert_true(idle_in_handler);
	assert_true(is_idle(data));
	sigaction(SIGALRM, &old, NULL);
}

struct marker {
	pthread_t thread;
	unsigned first;
	bool failed;
};

static void *mark_many(void *arg)
{
	struct marker *m = arg;

	for (unsigned i = 0; i < 3000; i++) {
		uint64_t pfn = pfn_of(data + (m->first + i % 20) * PAGE), bit = 1ULL << pfn % 64, word = 0;
		int fd = i % 100 ? bitmap : open(BITMAP, O_RDWR);
		off_t at = (off_t)(pfn / 64 * 8);

		m->failed |= pwrite(fd, &bit, 8, at) != 8 || pread(fd, &word, 8, at) != 8 || !(word & bit);
		if (fd != bitmap)
			close(fd);
	}
	return NULL;
}

/* Four threads mark, each its own pages, while the guest accesses others. */
static void threads_do_not_disturb_each_other(void **state)
{
	struct marker m[4];

	NEEDS_THE_FILE();
	for (unsigned i = 0; i < 4; i++) {
		m[i] = (struct marker){ .first = i * 20 };
		assert_int_equal(pthread_create(&m[i].thread, NULL, mark_many, &m[i]), 0);
	}
	for (unsigned i = 0; i < 2000; i++)
		guest_accesses(0x8000 + i % 16 * PAGE, i & 1);
	for (unsigned i = 0; i < 4; i++) {
		pthread_join(m[i].thread, NULL);
		assert_false(m[i].failed);
	}
	for (unsigned i = 0; i < PAGES; i++)
		assert_true(is_idle(data + i * PAGE));
}

static void no_file_with_shadow_page_tables(void **state)
{
	const char *params = getenv("USERKVM_PARAMS");

	if (access(BITMAP, F_OK) == 0 || !params || !strstr(params, "ept=0"))
		skip();
	assert_fails(open(BITMAP, O_RDWR), ENOENT);
}

/* As the file is root's, mode 0600. */
static void others_than_root_may_not_open_it(void **state)
{
	int status;
	pid_t pid;

	if (access(BITMAP, F_OK) == 0)
		skip();
	if (geteuid() != 0) {
		assert_fails(open(BITMAP, O_RDONLY), EACCES);
		return;
	}
	pid = fork();
	if (pid == 0) /* dumpable: its /proc/self is its own */
		_exit(setresuid(65534, 65534, 65534) || prctl(PR_SET_DUMPABLE, 1) || open(BITMAP, O_RDWR) != -1 || errno != EACCES);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void drop_cap_sys_admin(void)
{
	struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct d[_LINUX_CAPABILITY_U32S_3];

	assert_int_equal(syscall(SYS_capget, &h, d), 0);
	d[0].effective &= ~(1u << CAP_SYS_ADMIN);
	assert_int_equal(syscall(SYS_capset, &h, d), 0);
}

/* 0: its page is not idle although it is marked, as Linux tells nobody where it is. */
static int in_child_without_cap_sys_admin(void)
{
	struct client own;
	uint64_t pfn;

	client_open_vm(&own, 1 << 20);
	own.mem[0] = 1;
	pfn = pfn_of(own.mem);
	close(open_bitmap(O_RDWR));
	mark_pfn(pfn);
	if (!pfn_is_idle(pfn))
		return 1;
	drop_cap_sys_admin();
	close(bitmap); /* the last: pagemap is opened again with the next */
	bitmap = open_bitmap(O_RDWR);
	if (pfn_of(own.mem))
		return 2;
	mark_pfn(pfn);
	return pfn_is_idle(pfn) ? 3 : 0;
}

static void nothing_is_idle_without_cap_sys_admin(void **state)
{
	int status;
	pid_t pid;

	NEEDS_THE_FILE();
	pid = fork();
	if (pid == 0)
		_exit(in_child_without_cap_sys_admin());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const char *params = getenv("USERKVM_PARAMS");
	const struct CMUnitTest shadow[] = {
		cmocka_unit_test(no_file_with_shadow_page_tables),
	};
	const struct CMUnitTest tests[] = {
		TEST(page_is_idle_from_its_mark_to_the_guests_next_access),
		TEST(only_guest_memory_is_ever_idle),
		TEST(guest_memory_that_came_since_is_found_in_time),
		TEST(offsets_and_sizes_are_checked_as_by_linux),
		TEST(the_access_mode_is_kept),
		TEST(the_position_moves_and_copies_share_it),
		TEST(a_forked_child_has_its_own_guest_memory_only),
		TEST(pages_of_a_huge_leaf_are_accessed_together),
		TEST(a_page_that_is_given_back_is_no_longer_idle),
		TEST(a_page_with_several_addresses_is_accessed_through_any),
		TEST(other_files_are_read_and_written_as_ever),
		TEST(the_librarys_own_descriptor_may_be_replaced),
		TEST(a_signal_handler_may_mark_too),
		TEST(a_handler_that_ends_kvm_run_may_mark),
		TEST(threads_do_not_disturb_each_other),
		TEST(others_than_root_may_not_open_it),
		TEST(nothing_is_idle_without_cap_sys_admin),
	};

	if (params && strstr(params, "ept=0"))
		return cmocka_run_group_tests(shadow, NULL, NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
