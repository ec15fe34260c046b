/*
 * A client of /dev/kvm to be linked statically, with nothing but libc and
 * <linux/kvm.h>: two vCPU threads on shared memory, a dirty log, an ioeventfd,
 * kicks by signals.
 *
 * usage: client [kicks | runs N]
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define CHECK(condition)                                                                                 \
	do {                                                                                             \
		if (!(condition)) {                                                                      \
			printf("failed: line %d: %s (errno %d)\n", __LINE__, #condition, errno);         \
			exit(1);                                                                         \
		}                                                                                        \
	} while (0)

#define MEMORY (1u << 20)
#define ADDED 1000 /* by each vCPU */
#define COUNTER 0x6000
#define KICKS 200

/* movb $1, 0x5000; movb $1, 0x7000; out %al, $0x20; add 1000 to 0x6000; out %al, $0x10; spin */
static const uint8_t code[] = {0xc6, 0x06, 0x00, 0x50, 1, 0xc6, 0x06, 0x00, 0x70, 1, 0xe6, 0x20, 0xb9, 0xe8, 0x03,
			       0xf0, 0xff, 0x06, 0x00, 0x60, 0xe2, 0xf9, 0xe6, 0x10, 0xeb, 0xfe};
static const uint8_t ports[] = {0xe6, 0x10, 0xeb, 0xfc}; /* out %al, $0x10 for ever */

struct vcpu {
	pthread_t thread;
	int fd;
	struct kvm_run *run;
	volatile int interrupted, stop;
};

static int kvm, vm;
static uint8_t *memory;
static __thread volatile int handled; /* each thread's own */

static void on_kick(int signo)
{
	handled++;
}

static void open_vm(void)
{
	struct kvm_userspace_memory_region r = {.flags = KVM_MEM_LOG_DIRTY_PAGES, .memory_size = MEMORY};
	int fd = memfd_create("guest", 0);

	CHECK(fd >= 0 && ftruncate(fd, MEMORY) == 0);
	memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(memory != MAP_FAILED);
	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	CHECK(kvm >= 0);
	CHECK(ioctl(kvm, KVM_GET_API_VERSION, 0) == 12);
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	CHECK(vm >= 0);
	r.userspace_addr = (uintptr_t)memory;
	CHECK(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &r) == 0);
}

static void open_vcpu(struct vcpu *v, int id, const uint8_t *what, size_t size)
{
	struct kvm_regs regs = {.rip = 0x1000, .rflags = 2};
	struct kvm_sregs s;

	memcpy(memory + 0x1000, what, size);
	v->fd = ioctl(vm, KVM_CREATE_VCPU, id);
	CHECK(v->fd >= 0);
	v->run = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
	CHECK(v->run != MAP_FAILED);
	CHECK(ioctl(v->fd, KVM_GET_SREGS, &s) == 0);
	s.cs.base = s.cs.selector = 0;
	CHECK(ioctl(v->fd, KVM_SET_SREGS, &s) == 0);
	CHECK(ioctl(v->fd, KVM_SET_REGS, &regs) == 0);
}

/* To the output, then kicked out of the spinning guest until told to stop. */
static void *vcpu_main(void *arg)
{
	struct vcpu *v = arg;

	while (ioctl(v->fd, KVM_RUN, 0))
		CHECK(errno == EINTR); /* by an early kick */
	CHECK(v->run->exit_reason == KVM_EXIT_IO && v->run->io.port == 0x10);
	while (!v->stop) {
		int before = handled;

		CHECK(ioctl(v->fd, KVM_RUN, 0) == -1 && errno == EINTR);
		CHECK(handled > before); /* the handler ran, on this thread, before KVM_RUN returned */
		v->interrupted++;
	}
	return NULL;
}

static void kick(struct vcpu *v)
{
	int before = v->interrupted;
	const struct timespec pause = {.tv_nsec = 100000};

	/* Until it has come out: the thread may not have been in KVM_RUN yet. */
	while (v->interrupted == before) {
		CHECK(pthread_kill(v->thread, SIGUSR1) == 0);
		nanosleep(&pause, NULL);
	}
}

static uint64_t dirty_pages(void)
{
	uint64_t bits[MEMORY / 4096 / 64];
	struct kvm_dirty_log log = {.dirty_bitmap = bits};

	CHECK(ioctl(vm, KVM_GET_DIRTY_LOG, &log) == 0);
	return bits[0];
}

static void two_vcpus(void)
{
	struct sigaction act = {.sa_handler = on_kick};
	struct kvm_ioeventfd io = {.addr = 0x20, .len = 1, .flags = KVM_IOEVENTFD_FLAG_PIO};
	struct vcpu v[2] = {{0}, {0}};
	uint64_t signalled = 0;

	CHECK(sigaction(SIGUSR1, &act, NULL) == 0);
	open_vm();
	io.fd = eventfd(0, 0);
	CHECK(ioctl(vm, KVM_IOEVENTFD, &io) == 0);
	for (int i = 0; i < 2; i++)
		open_vcpu(&v[i], i, code, sizeof(code));
	for (int i = 0; i < 2; i++)
		CHECK(pthread_create(&v[i].thread, NULL, vcpu_main, &v[i]) == 0);
	for (int n = 0; n < KICKS; n++)
		kick(&v[n % 2]);
	for (int i = 0; i < 2; i++) {
		v[i].stop = 1;
		kick(&v[i]);
		CHECK(pthread_join(v[i].thread, NULL) == 0);
	}
	CHECK(*(uint16_t *)(memory + COUNTER) == 2 * ADDED);
	CHECK(read(io.fd, &signalled, 8) == 8 && signalled == 2);
	CHECK(dirty_pages() == (1 << 5 | 1 << 6 | 1 << 7));
	CHECK(dirty_pages() == 0);
	CHECK(handled == 0); /* no kick came here */
	printf("two vCPUs: %u added, %d kicks, %d events\n", 2 * ADDED, KICKS, (int)signalled);
}

/* A child has the descriptors but not the VM; the parent's VM is none the worse for it. */
static void fork_and_exec(const char *self)
{
	int status;
	pid_t pid = fork();

	if (pid == 0)
		_exit(ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY) == -1 && errno == EIO ? 0 : 1);
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	CHECK(ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY) == 1);
	pid = fork();
	if (pid == 0) {
		execl(self, self, "opens", NULL);
		_exit(1);
	}
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	CHECK(system("test -c /dev/kvm") == 0); /* a dynamic shell is served too, in a child of vfork */
	printf("children served\n");
}

/* --- signals: what a handler sees, and when it runs --- */

#define OWN_CODE (8L << 20) /* around read(), in the program or in its C library */

static volatile int in_own_code, nested, nested_too_early;

static void looks_around(int signo, siginfo_t *info, void *context)
{
	long from_read = (long)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] - (long)&read;

	in_own_code = labs(from_read) < OWN_CODE && info->si_signo == signo;
	kill(getpid(), SIGUSR2); /* blocked until the end */
	nested_too_early = nested;
}

static void on_nested(int signo)
{
	nested++;
}

static void *signals_a_reader(void *arg)
{
	const struct timespec pause = {.tv_nsec = 50000000};

	nanosleep(&pause, NULL);
	pthread_kill(*(pthread_t *)arg, SIGUSR1);
	return NULL;
}

/* A blocking read is interrupted by a handler that makes system calls of its own. */
static void interrupted_read(void)
{
	struct sigaction act = {.sa_sigaction = looks_around, .sa_flags = SA_SIGINFO}, nest = {.sa_handler = on_nested};
	pthread_t self = pthread_self(), other;
	int p[2];
	char c;

	sigaddset(&act.sa_mask, SIGUSR2);
	CHECK(pipe(p) == 0 && sigaction(SIGUSR1, &act, NULL) == 0 && sigaction(SIGUSR2, &nest, NULL) == 0);
	CHECK(pthread_create(&other, NULL, signals_a_reader, &self) == 0);
	CHECK(read(p[0], &c, 1) == -1 && errno == EINTR);
	CHECK(pthread_join(other, NULL) == 0);
	CHECK(in_own_code && nested == 1 && !nested_too_early);
	printf("signals as on Linux\n");
}

/* All signals blocked: a bad pointer is EFAULT even so. */
static void blocked_signals(void)
{
	struct kvm_dirty_log log = {.dirty_bitmap = (void *)8};
	sigset_t all, old;

	sigfillset(&all);
	CHECK(sigprocmask(SIG_SETMASK, &all, &old) == 0);
	CHECK(ioctl(vm, KVM_GET_DIRTY_LOG, &log) == -1 && errno == EFAULT);
	CHECK(ioctl(vm, KVM_GET_DIRTY_LOG, 8) == -1 && errno == EFAULT);
	CHECK(sigprocmask(SIG_SETMASK, &old, NULL) == 0);
}

/* What a child of vfork closes are its own descriptors. */
static void vfork_closes(void)
{
	int status;
	pid_t pid = vfork();

	if (pid == 0) {
		close(vm);
		close(kvm);
		_exit(5);
	}
	CHECK(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 5);
	CHECK(ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY) == 1);
	CHECK(ioctl(kvm, KVM_GET_API_VERSION, 0) == 12);
}

static void *ends(void *arg)
{
	return arg;
}

/* Threads come and go; what is kept for each goes with it. */
static void many_threads(void)
{
	pthread_attr_t detached;
	pthread_t t;
	void *r;

	for (uintptr_t i = 0; i < 2000; i++) {
		CHECK(pthread_create(&t, NULL, ends, (void *)i) == 0);
		CHECK(pthread_join(t, &r) == 0 && (uintptr_t)r == i);
	}
	CHECK(pthread_attr_init(&detached) == 0 && pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED) == 0);
	for (int i = 0; i < 500; i++) /* these free their own stacks */
		while (pthread_create(&t, &detached, ends, NULL))
			CHECK(errno == EAGAIN);
	printf("threads came and went\n");
}

static uint64_t cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* What a KVM_RUN that ends with port output costs, and a system call that is not ours. */
static void time_runs(int n)
{
	struct vcpu v = {0};
	uint64_t start;

	open_vm();
	open_vcpu(&v, 0, ports, sizeof(ports));
	start = cpu_ns();
	for (int i = 0; i < n; i++)
		CHECK(ioctl(v.fd, KVM_RUN, 0) == 0);
	printf("%d runs, %d ns of CPU each\n", n, (int)((cpu_ns() - start) / (uint64_t)n));
	start = cpu_ns();
	for (int i = 0; i < n; i++)
		CHECK(getppid() > 0);
	printf("%d getppid, %d ns of CPU each\n", n, (int)((cpu_ns() - start) / (uint64_t)n));
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc == 3 && strcmp(argv[1], "runs") == 0) {
		time_runs(atoi(argv[2]));
	} else if (argc == 2 && strcmp(argv[1], "opens") == 0) {
		open_vm();
	} else {
		two_vcpus();
		blocked_signals();
		vfork_closes();
		fork_and_exec(argv[0]);
		interrupted_read();
		many_threads();
		printf("client done\n");
	}
	return 0;
}
