/*
 * Threads that confine themselves with their first KVM_RUN (`userkvm run --confine`): what they keep, what they lose,
 * and that nobody else loses it.
 */
#include <linux/landlock.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "client.h"
#include "guest_code.h"

/* IRQ 0 of the 8254 wakes it from HLT again and again; x87, memory, a port, and an eventfd behind port 20h. */
GUEST_CODE(ticks, 16,
	   "mov $0x11, %al; out %al, $0x20; mov $0x20, %al; out %al, $0x21\n"
	   "mov $4, %al; out %al, $0x21; mov $1, %al; out %al, $0x21; xor %ax, %ax; out %al, $0x21\n"
	   "mov $0x34, %al; out %al, $0x43; xor %ax, %ax; out %al, $0x40; mov $0x10, %al; out %al, $0x40\n"
	   "sti; 1: hlt; fldpi; fstp %st(0); out %al, $0x78; incw 0x5000; jmp 1b");
GUEST_CODE(tick, 16, "push %ax; mov $0x20, %al; out %al, $0x20; pop %ax; out %al, $0x77; iret");

struct confined {
	struct client c;
	int pipe[2], event;
	const char *failed;
};

static bool has_landlock(void)
{
	return syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION) >= 1;
}

static void open_ticking(struct confined *f)
{
	struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
	struct kvm_ioeventfd io = { .addr = 0x78, .len = 1, .flags = KVM_IOEVENTFD_FLAG_PIO };

	client_open_vm(&f->c, 1 << 20);
	assert_int_equal(ioctl(f->c.vm, KVM_CREATE_IRQCHIP, 0), 0);
	assert_int_equal(ioctl(f->c.vm, KVM_CREATE_PIT2, &pit), 0);
	client_add_vcpu(&f->c);
	f->event = eventfd(0, EFD_NONBLOCK);
	io.fd = f->event;
	assert_int_equal(ioctl(f->c.vm, KVM_IOEVENTFD, &io), 0);
	assert_int_equal(pipe(f->pipe), 0);
	memcpy(f->c.mem + 0x500, tick, GUEST_CODE_SIZE(tick));
	memcpy(f->c.mem + 0x20 * 4, &(uint16_t){ 0x500 }, 2);
	client_real_mode(&f->c, 0x1000, ticks, GUEST_CODE_SIZE(ticks));
}

static void close_ticking(struct confined *f)
{
	close(f->event);
	close(f->pipe[0]);
	close(f->pipe[1]);
	client_close(&f->c);
}

static bool ticks_come(struct confined *f)
{
	for (int n = 0; n < 30 || (n < 300 && f->c.mem[0x5000] < 20); n++) /* one tick may come in front of the other's work */
		if (ioctl(f->c.vcpu, KVM_RUN, 0) || f->c.run->exit_reason != KVM_EXIT_IO || f->c.run->io.port != 0x77)
			return false;
	return f->c.mem[0x5000] >= 20;
}

static bool refused(long r, int error)
{
	return r == -1 && errno == error;
}

#define EXPECT(condition)                      \
	do {                                   \
		if (!(condition)) {            \
			f->failed = #condition; \
			return f;              \
		}                              \
	} while (0)

/* Files are Landlock's, all else the filter's. */
static void *probe(void *arg)
{
	struct confined *f = arg;
	static char *argv[] = { "true", NULL };
	char byte = 1, path[64];
	void *p;

	snprintf(path, sizeof(path), "/tmp/userkvm-confine-%d", (int)getpid());
	EXPECT(refused(open("/proc/self/status", O_RDWR), EACCES) && refused(open("/proc/self/root/etc/passwd", O_RDONLY), EACCES));
	EXPECT(refused(open("/proc/meminfo", O_RDONLY), EACCES) && close(open("/proc/self/status", O_RDONLY)) == 0);
	EXPECT(refused(open("/etc/passwd", O_RDONLY), EACCES));
	EXPECT(refused(open(path, O_WRONLY | O_CREAT, 0600), EACCES));
	EXPECT(refused(open("/", O_RDONLY | O_DIRECTORY), EACCES));
	EXPECT(refused(unlink(path), EPERM) && refused(mkdir(path, 0700), EPERM) && refused(truncate(path, 0), EPERM));
	EXPECT(refused(execv("/bin/true", argv), EPERM));
	EXPECT(refused(syscall(SYS_fork), EPERM) && refused(syscall(SYS_vfork), EPERM));
	EXPECT(refused(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0), EPERM));
	EXPECT(refused(socket(AF_INET, SOCK_STREAM, 0), EPERM) && refused(socket(AF_UNIX, SOCK_STREAM, 0), EPERM));
	EXPECT(refused(syscall(SYS_ptrace, 0, 0, 0, 0), EPERM) && refused(kill(1, 0), EPERM));
	EXPECT(mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED && errno == EPERM);
	p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	EXPECT(p != MAP_FAILED && refused(mprotect(p, 4096, PROT_READ | PROT_EXEC), EPERM));
	EXPECT(mprotect(p, 4096, PROT_READ) == 0 && munmap(p, 4096) == 0);
	EXPECT(refused(ioctl(f->pipe[0], TIOCSTI, &byte), EPERM));
	EXPECT(write(f->pipe[1], &byte, 1) == 1 && read(f->pipe[0], &byte, 1) == 1);
	EXPECT(kill(getpid(), 0) == 0);
	return NULL;
}

static void *run_and_probe(void *arg)
{
	struct confined *f = arg;
	void *failed;
	pthread_t t;

	EXPECT(open("/dev/null", O_RDONLY) >= 0); /* not yet */
	EXPECT(ticks_come(f));
	if (probe(f))
		return f;
	EXPECT(ticks_come(f));
	/* a thread of a confined one is confined */
	EXPECT(pthread_create(&t, NULL, probe, f) == 0 && pthread_join(t, &failed) == 0);
	if (failed)
		return f;
	/* the unwinder that glibc loads for it is a file */
	pthread_exit(NULL);
}

static void thread_keeps_its_guest_and_loses_the_rest(void **state)
{
	struct confined f = { .failed = NULL };
	uint64_t events;
	pthread_t t;

	if (!has_landlock())
		skip();
	open_ticking(&f);
	assert_int_equal(pthread_create(&t, NULL, run_and_probe, &f), 0);
	pthread_join(t, NULL);
	if (f.failed)
		fail_msg("%s: %s", f.failed, strerror(errno));
	assert_int_equal(read(f.event, &events, sizeof(events)), sizeof(events));
	assert_true(events > 0);
	close_ticking(&f);
}

static void *two_runs(void *arg)
{
	struct confined *f = arg;

	EXPECT(ticks_come(f) && ticks_come(f));
	return NULL;
}

/* More VMs, and all that a program does, in threads that run no vCPU. */
static void other_threads_lose_nothing(void **state)
{
	struct confined f = { .failed = NULL };
	int fd, status;
	pthread_t t;
	pid_t child;

	for (int i = 0; i < 2; i++) {
		open_ticking(&f);
		assert_int_equal(pthread_create(&t, NULL, two_runs, &f), 0);
		pthread_join(t, NULL);
		if (f.failed)
			fail_msg("%s", f.failed);
		close_ticking(&f);
	}
	fd = open("/etc/passwd", O_RDONLY);
	assert_true(fd >= 0);
	close(fd);
	child = fork();
	if (child == 0) {
		execl("/bin/true", "true", NULL);
		_exit(1);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(thread_keeps_its_guest_and_loses_the_rest),
		cmocka_unit_test(other_threads_lose_nothing),
	};

	setenv("USERKVM_CONFINE", "1", 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
