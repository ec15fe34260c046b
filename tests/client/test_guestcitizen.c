/*
 * A VM is a guest in its client's process: the client's signals, timers,
 * handlers, descriptors, threads and children go on as if it were not there.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/auxv.h>
#include <sys/wait.h>
#include <time.h>

#include "client.h"
#include "filter.h"
#include "guest_code.h"

/*
 * 32-bit: hash in eax over ecx rounds, memory written and read back, out eax,
 * port 99h; then spins, so that only signals and the client end a run.
 */
static const uint8_t work[] = {
	0xb9, 0x00, 0x00, 0x20, 0x00,	    /* mov $200000, %ecx: several timer ticks, translated too */
	0x31, 0xc0,			    /* xor %eax, %eax */
	0x69, 0xc0, 0x0d, 0x66, 0x19, 0x00, /* 1: imul $19660d, %eax, %eax */
	0x01, 0xc8,			    /* add %ecx, %eax */
	0xa3, 0x00, 0x40, 0x00, 0x00,	    /* mov %eax, 4000 */
	0x33, 0x05, 0x00, 0x40, 0x00, 0x00, /* xor 4000, %eax: 0 */
	0x0b, 0x05, 0x00, 0x40, 0x00, 0x00, /* or 4000, %eax: what it was */
	0xe2, 0xe5,			    /* loop 1b */
	0xe7, 0x99,			    /* out %eax, $99 */
	0xeb, 0xfe,			    /* jmp . */
};

static uint32_t expected(void)
{
	uint32_t eax = 0;

	for (uint32_t ecx = 0x200000; ecx; ecx--)
		eax = eax * 0x19660d + ecx;
	return eax;
}

static void open_work(struct client *c)
{
	client_open_vm(c, 1 << 20);
	client_add_vcpu(c);
	client_flat_mode(c, 0x1000, work, sizeof(work));
}

/* To the OUT, whatever interrupts; how often it was interrupted. */
static unsigned run_work(struct client *c)
{
	unsigned interrupted = 0;

	while (ioctl(c->vcpu, KVM_RUN, 0) < 0) {
		if (errno != EINTR)
			fail_msg("KVM_RUN: %s", strerror(errno));
		interrupted++;
	}
	assert_int_equal(c->run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(*(uint32_t *)((uint8_t *)c->run + c->run->io.data_offset), expected());
	return interrupted;
}

static volatile sig_atomic_t handled;

static void count(int signo)
{
	handled++;
}

static void handle(int signo, void (*fn)(int), int flags)
{
	struct sigaction sa = {.sa_handler = fn, .sa_flags = flags};

	handled = 0;
	assert_int_equal(sigaction(signo, &sa, NULL), 0);
}

/* --- timers and storms --- */

static void interval_timers_interrupt_and_lose_nothing(void **state)
{
	static const struct {
		int which, signo;
	} timers[] = {{ITIMER_REAL, SIGALRM}, {ITIMER_PROF, SIGPROF}, {ITIMER_VIRTUAL, SIGVTALRM}};
	struct itimerval every = {{0, 1000}, {0, 1000}}, off = {0};
	struct client c;

	for (size_t i = 0; i < 3; i++) {
		for (int flags = 0; flags <= SA_RESTART; flags += SA_RESTART) {
			unsigned interrupted = 0;

			handle(timers[i].signo, count, flags);
			/* profiling time may tick at 250 Hz only: again until it did */
			for (int tries = 0; tries < 200 && !interrupted; tries++) {
				open_work(&c);
				assert_int_equal(setitimer(timers[i].which, &every, NULL), 0);
				interrupted = run_work(&c);
				assert_int_equal(setitimer(timers[i].which, &off, NULL), 0);
				client_close(&c);
			}
			assert_true(interrupted > 0);
			assert_true(handled > 0);
		}
	}
}

struct storm {
	pthread_t target;
	int stop;
	unsigned sent;
};

static void *storm_thread(void *arg)
{
	struct storm *s = arg;

	while (!__atomic_load_n(&s->stop, __ATOMIC_SEQ_CST)) {
		pthread_kill(s->target, SIGUSR1);
		pthread_kill(s->target, SIGRTMIN);
		s->sent += 2;
		if (s->sent % 64 == 0)
			usleep(50);
	}
	return NULL;
}

static void signal_storm_changes_no_result(void **state)
{
	struct storm s = {.target = pthread_self()};
	struct client c;
	pthread_t t;

	handle(SIGUSR1, count, SA_RESTART);
	handle(SIGRTMIN, count, 0);
	open_work(&c);
	assert_int_equal(pthread_create(&t, NULL, storm_thread, &s), 0);
	run_work(&c);
	__atomic_store_n(&s.stop, 1, __ATOMIC_SEQ_CST);
	pthread_join(t, NULL);
	client_close(&c);
	assert_true(handled > 0);
}

/* --- the client's own faults --- */

static sigjmp_buf jump;
static void *fault_at;
static int fault_signo;

static void on_fault(int signo, siginfo_t *si, void *context)
{
	fault_signo = signo;
	fault_at = si->si_addr;
	siglongjmp(jump, 1);
}

static bool touch_faults(volatile char *p)
{
	if (sigsetjmp(jump, 1))
		return true;
	(void)*p;
	return false;
}

static void client_gets_its_own_faults(void **state)
{
	struct sigaction sa = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO}, old, now;
	char *hole = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct client c;

	open_work(&c);
	assert_int_equal(sigaction(SIGSEGV, &sa, &old), 0);
	assert_int_equal(sigaction(SIGSEGV, NULL, &now), 0);
	assert_ptr_equal(now.sa_sigaction, on_fault);
	run_work(&c);
	assert_true(touch_faults(hole));
	assert_int_equal(fault_signo, SIGSEGV);
	assert_ptr_equal(fault_at, hole);
	/* and the VM after the client jumped out of its handler */
	client_flat_mode(&c, 0x1000, work, sizeof(work));
	c.run->immediate_exit = 1;
	assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EINTR);
	c.run->immediate_exit = 0;
	client_flat_mode(&c, 0x1000, work, sizeof(work));
	run_work(&c);
	/* guest memory that has gone is -EFAULT, not the handler's */
	fault_signo = 0;
	c.run->immediate_exit = 1;
	assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EINTR);
	c.run->immediate_exit = 0;
	client_flat_mode(&c, 0x1000, work, sizeof(work));
	assert_int_equal(mprotect(c.mem, c.mem_size, PROT_NONE), 0);
	assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EFAULT);
	assert_int_equal(fault_signo, 0);
	assert_int_equal(sigaction(SIGSEGV, &old, NULL), 0);
	client_close(&c);
	munmap(hole, 4096);
}

/* --- descriptors --- */

static void descriptors_close_in_any_order(void **state)
{
	static const int order[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};

	for (size_t n = 0; n < 6; n++) {
		bool vcpu_open = true;
		struct client c;

		open_work(&c);
		for (size_t i = 0; i < 3; i++) {
			int which = order[n][i];

			close(which == 0 ? c.kvm : which == 1 ? c.vm : c.vcpu);
			vcpu_open = vcpu_open && which != 2;
			/* the vCPU's descriptor holds all it needs */
			if (vcpu_open) {
				client_flat_mode(&c, 0x1000, work, sizeof(work));
				c.run->immediate_exit = 1;
				assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EINTR);
				c.run->immediate_exit = 0;
				client_flat_mode(&c, 0x1000, work, sizeof(work));
				run_work(&c);
			}
		}
		/* kvm_run stays readable as long as it is mapped */
		assert_in_range(c.run->exit_reason, KVM_EXIT_UNKNOWN, KVM_EXIT_INTR);
		munmap(c.run, c.run_size);
		munmap(c.mem, c.mem_size);
	}
}

static void *run_until_closed(void *arg)
{
	struct client *c = arg;

	while (ioctl(c->vcpu, KVM_RUN, 0) == 0)
		;
	return (void *)(intptr_t)errno;
}

static void descriptor_closed_while_the_vcpu_runs(void **state)
{
	struct client c;
	pthread_t t;
	void *why;

	handle(SIGUSR1, count, 0);
	open_work(&c);
	client_flat_mode(&c, 0x1000, "\xeb\xfe", 2); /* jmp . */
	assert_int_equal(pthread_create(&t, NULL, run_until_closed, &c), 0);
	usleep(20000);
	close(c.vm);
	close(c.kvm);
	usleep(2000);
	close(c.vcpu); /* the run in progress goes on, as on Linux */
	usleep(2000);
	assert_int_equal(pthread_kill(t, SIGUSR1), 0);
	pthread_join(t, &why);
	assert_int_equal((intptr_t)why, EINTR);
	assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EBADF);
	munmap(c.run, c.run_size);
	munmap(c.mem, c.mem_size);
}

static int pass(int fd)
{
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof(int))];
	} control = {.head = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
	char byte = 0;
	struct iovec v = {&byte, 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
	int s[2], got;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
	memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
	assert_int_equal(sendmsg(s[0], &m, 0), 1);
	assert_int_equal(recvmsg(s[1], &m, 0), 1);
	memcpy(&got, CMSG_DATA(&control.head), sizeof(got));
	close(s[0]);
	close(s[1]);
	return got;
}

static void descriptors_work_after_being_passed(void **state)
{
	struct client c;
	int vm, vcpu;

	open_work(&c);
	vm = pass(c.vm);
	vcpu = pass(c.vcpu);
	assert_true(vm >= 0 && vcpu >= 0 && vcpu != c.vcpu);
	close(c.vm);
	close(c.vcpu);
	c.vm = vm;
	c.vcpu = vcpu;
	run_work(&c);
	assert_true(ioctl(c.vm, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY) > 0);
	client_close(&c);
}

static void threads_that_end_leave_their_vcpus_usable(void **state)
{
	struct client c;

	open_work(&c);
	for (int i = 0; i < 20; i++) {
		pthread_t t;
		void *why;

		client_flat_mode(&c, 0x1000, work, sizeof(work));
		handle(SIGUSR1, count, 0);
		assert_int_equal(pthread_create(&t, NULL, run_until_closed, &c), 0);
		usleep(1000 + i * 300);
		do {
			pthread_kill(t, SIGUSR1);
			usleep(1000);
		} while (pthread_tryjoin_np(t, &why));
		assert_int_equal((intptr_t)why, EINTR);
	}
	c.run->immediate_exit = 1;
	assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EINTR);
	c.run->immediate_exit = 0;
	client_flat_mode(&c, 0x1000, work, sizeof(work));
	run_work(&c);
	client_close(&c);
}

/* --- children --- */

static int exit_status(pid_t child)
{
	int status;

	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void fork_leaves_the_vm_with_the_parent(void **state)
{
	struct client c;
	pid_t child;

	open_work(&c);
	child = fork();
	if (child == 0) {
		struct kvm_regs r;
		int bad = 0;

		bad |= ioctl(c.vcpu, KVM_RUN, 0) != -1 || errno != EIO;
		bad |= ioctl(c.vcpu, KVM_GET_REGS, &r) != -1 || errno != EIO;
		bad |= ioctl(c.vm, KVM_CHECK_EXTENSION, 0) != -1 || errno != EIO;
		close(c.vcpu);
		close(c.vm);
		_exit(bad);
	}
	assert_int_equal(exit_status(child), 0);
	run_work(&c);
	client_close(&c);
}

/* The child makes a VM of its own, while the parent's runs. */
static void forked_child_has_vms_of_its_own(void **state)
{
	struct client c;
	pid_t child;

	open_work(&c);
	child = fork();
	if (child == 0) {
		struct client mine;

		open_work(&mine);
		if (ioctl(mine.vcpu, KVM_RUN, 0) || mine.run->exit_reason != KVM_EXIT_IO)
			_exit(1);
		_exit(*(uint32_t *)((uint8_t *)mine.run + mine.run->io.data_offset) != expected());
	}
	run_work(&c);
	assert_int_equal(exit_status(child), 0);
	client_close(&c);
}

static void exec_drops_descriptors_that_ask_for_it(void **state)
{
	struct client c;
	char text[3][16];
	pid_t child;

	open_work(&c);
	/* Linux: VM and vCPU descriptors are close-on-exec */
	assert_int_equal(fcntl(c.vm, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	assert_int_equal(fcntl(c.vcpu, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	snprintf(text[0], 16, "%d", c.kvm);
	snprintf(text[1], 16, "%d", c.vm);
	snprintf(text[2], 16, "%d", c.vcpu);
	child = fork();
	if (child == 0) {
		execl("/bin/sh", "sh", "-c", "for f in $*; do test ! -e /proc/self/fd/$f || exit 1; done", "sh", text[0],
		      text[1], text[2], NULL);
		_exit(2);
	}
	assert_int_equal(exit_status(child), 0);
	run_work(&c);
	client_close(&c);
}

/* --- seccomp: what KVM_RUN needs of the kernel (docs/ci.md) --- */

struct confinement {
	bool probe;	 /* does the filter bite? */
	bool mprotected; /* a part of guest memory, just before */
	bool ticks;	 /* a timer and an irqfd, which threads of the library serve */
	bool all_threads;
	bool spins;	 /* PAUSE again and again: the exits of pause loops */
	uint32_t kill;
};

static bool statically_linked(void)
{
	return !getauxval(AT_BASE);
}

/* What a statically linked client's system calls need besides, which are served in a signal's handler (docs/ci.md). */
static unsigned serving_call(void)
{
	return statically_linked() ? SYS_rt_sigprocmask : SYS_futex;
}

static int confine(const struct confinement *how)
{
	struct sock_filter rules[] = {
		FILTER_NUMBER,
		ALLOW(futex), ALLOW(rt_sigreturn), ALLOW(clock_gettime), ALLOW(madvise), ALLOW(write), ALLOW(exit_group),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, serving_call(), 0, 1), FILTER_EFFECT(SECCOMP_RET_ALLOW),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 0, 3),
		FILTER_ARGUMENT(2),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, PROT_EXEC, 1, 0),
		FILTER_EFFECT(SECCOMP_RET_ALLOW),
		FILTER_NUMBER,
		/* of the library's threads */
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_poll, 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_read, 1, 0),
		FILTER_EFFECT(how->kill),
		FILTER_EFFECT(how->all_threads ? SECCOMP_RET_ALLOW : how->kill),
	};

	return FILTER_SET(rules, how->all_threads ? SECCOMP_FILTER_FLAG_TSYNC : 0);
}

/* IRQ 4 comes by the irqfd, IRQ 0 by the 8254: the handlers say which, by a port. */
GUEST_CODE(two_sources, 16,
	   "mov $0x11, %al; out %al, $0x20; mov $0x20, %al; out %al, $0x21\n"
	   "mov $4, %al; out %al, $0x21; mov $1, %al; out %al, $0x21; xor %ax, %ax; out %al, $0x21\n"
	   "mov $0x34, %al; out %al, $0x43; xor %ax, %ax; out %al, $0x40; mov $0x10, %al; out %al, $0x40\n"
	   "sti; 1: hlt; jmp 1b");
GUEST_CODE(tick, 16, "mov $0x20, %al; out %al, $0x20; out %al, $0x77; iret");
GUEST_CODE(irqfd_came, 16, "mov $0x20, %al; out %al, $0x20; out %al, $0x55; iret");

static void put_handler(struct client *c, uint8_t vector, uint16_t at, const uint8_t *code, size_t n)
{
	memcpy(c->mem + at, code, n);
	c->mem[vector * 4] = (uint8_t)at;
	c->mem[vector * 4 + 1] = (uint8_t)(at >> 8);
}

static int open_ticking(struct client *c)
{
	struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
	struct kvm_irqfd irqfd = {.gsi = 4};

	client_open_vm(c, 1 << 20);
	assert_int_equal(ioctl(c->vm, KVM_CREATE_IRQCHIP, 0), 0);
	assert_int_equal(ioctl(c->vm, KVM_CREATE_PIT2, &pit), 0);
	client_add_vcpu(c);
	irqfd.fd = (uint32_t)eventfd(0, EFD_NONBLOCK);
	assert_int_equal(ioctl(c->vm, KVM_IRQFD, &irqfd), 0);
	put_handler(c, 0x20, 0x500, tick, GUEST_CODE_SIZE(tick));
	put_handler(c, 0x24, 0x600, irqfd_came, GUEST_CODE_SIZE(irqfd_came));
	client_real_mode(c, 0x1000, two_sources, GUEST_CODE_SIZE(two_sources));
	return (int)irqfd.fd;
}

static int run_ticking(struct client *c, int irqfd)
{
	const uint64_t one = 1;
	int ticks = 0, came = 0;

	for (int n = 0; n < 400 && !(ticks > 20 && came > 5); n++) {
		if (n % 4 == 0 && write(irqfd, &one, sizeof(one)) != sizeof(one))
			return 4;
		if (ioctl(c->vcpu, KVM_RUN, 0) || c->run->exit_reason != KVM_EXIT_IO)
			return 2;
		ticks += c->run->io.port == 0x77;
		came += c->run->io.port == 0x55;
	}
	return ticks > 20 && came > 5 ? 0 : 5;
}

GUEST_CODE(pauses, 16, "mov $60000, %cx; 1: pause; loop 1b; out %al, $0x66");

static void open_spinning(struct client *c)
{
	client_open_vm(c, 1 << 20);
	client_add_vcpu(c);
	client_real_mode(c, 0x1000, pauses, GUEST_CODE_SIZE(pauses));
}

static int run_confined(const struct confinement *how)
{
	struct client c;
	int irqfd = -1;

	if (how->ticks)
		irqfd = open_ticking(&c);
	else if (how->spins)
		open_spinning(&c);
	else
		open_work(&c);
	if (how->mprotected && mprotect(c.mem + 0x8000, 4096, PROT_READ))
		return 1;
	if (confine(how))
		return 1;
	if (how->probe)
		syscall(SYS_getppid);
	if (how->ticks)
		return run_ticking(&c, irqfd);
	if (how->spins)
		return ioctl(c.vcpu, KVM_RUN, 0) || c.run->exit_reason != KVM_EXIT_IO || c.run->io.port != 0x66;
	if (ioctl(c.vcpu, KVM_RUN, 0) || c.run->exit_reason != KVM_EXIT_IO)
		return 2;
	return *(uint32_t *)((uint8_t *)c.run + c.run->io.data_offset) == expected() ? 0 : 3;
}

static void run_works_under_a_narrow_seccomp_filter(void **state)
{
	pid_t child;
	int status;

	if (getenv("SANITIZE"))
		skip(); /* its runtime makes system calls of its own */
	for (unsigned n = 0; n < 34; n++) {
		const struct confinement how = { .probe = n & 1, .mprotected = n & 2, .ticks = n & 4, .all_threads = n & 8,
						 .spins = n & 32, .kill = n & 16 ? SECCOMP_RET_KILL_THREAD : SECCOMP_RET_KILL_PROCESS };

		child = fork();
		if (child == 0) {
			alarm(30);
			_exit(run_confined(&how));
		}
		assert_int_equal(waitpid(child, &status, 0), child);
		if (how.probe)
			assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
		else if (WIFSIGNALED(status))
			fail_msg("case %#x: KVM_RUN made a system call that is not on the list", n);
		else
			assert_int_equal(WEXITSTATUS(status), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		/* first: nothing of an earlier VM may help it */
		cmocka_unit_test(run_works_under_a_narrow_seccomp_filter),
		cmocka_unit_test(interval_timers_interrupt_and_lose_nothing),
		cmocka_unit_test(signal_storm_changes_no_result),
		cmocka_unit_test(client_gets_its_own_faults),
		cmocka_unit_test(descriptors_close_in_any_order),
		cmocka_unit_test(descriptor_closed_while_the_vcpu_runs),
		cmocka_unit_test(descriptors_work_after_being_passed),
		cmocka_unit_test(threads_that_end_leave_their_vcpus_usable),
		cmocka_unit_test(fork_leaves_the_vm_with_the_parent),
		cmocka_unit_test(forked_child_has_vms_of_its_own),
		cmocka_unit_test(exec_drops_descriptors_that_ask_for_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
