/*
 * Resource limits of the process: what falls short is the errno of the client's call, in whatever call it falls;
 * never a signal (SIGXFSZ), never an exception in the guest. With the limit gone all works.
 */
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "client.h"
#include "guest_code.h"

#define MIB (1u << 20)
#define MEMORY (64u * MIB)
#define GUEST_EXCEPTION 200 /* none of errno's */
#define NOT_ITS_ERRNO 201
#define NO_GOOD_AFTERWARDS 202
#define SESSION_WRONG 203

/* 32-bit: x87, a word in each of many pages, port 10h; the same again for ever. */
GUEST_CODE(touches, 32, "1: mov $0x200000, %ebx; 2: fldpi; fstp %st(0); incl (%ebx); add $0x5000, %ebx; cmp $0x3f00000, %ebx; jb 2b\n"
			"out %al, $0x10; jmp 1b");

struct session {
	struct client c;
	int second, event, irq;
	const char *what; /* the call that failed */
};

/* result < 0: the call's errno from session(). */
#define TRY(call)                          \
	do {                               \
		if ((call) < 0) {          \
			s->what = #call;   \
			return errno;      \
		}                          \
	} while (0)

static int set_up(struct session *s)
{
	struct kvm_userspace_memory_region memory = { .memory_size = MEMORY };
	struct kvm_ioeventfd io = { .addr = 0x20, .len = 1, .flags = KVM_IOEVENTFD_FLAG_PIO };
	struct kvm_irqfd irqfd = { .gsi = 4 };
	struct client *c = &s->c;

	TRY(c->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC));
	TRY(c->vm = ioctl(c->kvm, KVM_CREATE_VM, 0));
	TRY(ioctl(c->vm, KVM_CREATE_IRQCHIP, 0));
	memory.userspace_addr = (uintptr_t)c->mem;
	TRY(ioctl(c->vm, KVM_SET_USER_MEMORY_REGION, &memory));
	memory.slot = 1;
	memory.guest_phys_addr = 1u << 30;
	memory.memory_size = MEMORY;
	memory.flags = KVM_MEM_LOG_DIRTY_PAGES;
	TRY(ioctl(c->vm, KVM_SET_USER_MEMORY_REGION, &memory));
	TRY(c->vcpu = ioctl(c->vm, KVM_CREATE_VCPU, 0));
	TRY(s->second = ioctl(c->vm, KVM_CREATE_VCPU, 1));
	c->run_size = (size_t)ioctl(c->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	c->run = mmap(NULL, c->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, c->vcpu, 0);
	TRY(c->run == MAP_FAILED ? -1 : 0);
	TRY(s->event = eventfd(0, 0));
	io.fd = s->event;
	TRY(ioctl(c->vm, KVM_IOEVENTFD, &io));
	TRY(s->irq = eventfd(0, 0));
	irqfd.fd = (uint32_t)s->irq;
	TRY(ioctl(c->vm, KVM_IRQFD, &irqfd));
	return 0;
}

static int run(struct session *s)
{
	struct client *c = &s->c;

	TRY(ioctl(c->vcpu, KVM_RUN, 0));
	if (c->run->exit_reason != KVM_EXIT_IO || c->run->io.port != 0x10) {
		s->what = "exit";
		return GUEST_EXCEPTION;
	}
	return 0;
}

static int session(struct session *s)
{
	int r = set_up(s);

	if (r)
		return r;
	client_flat_mode(&s->c, 0x1000, touches, GUEST_CODE_SIZE(touches)); /* without an IDT an exception is a shutdown */
	return run(s);
}

static void begin(struct session *s, void *mem)
{
	memset(s, 0, sizeof(*s));
	s->c.mem = mem;
	s->c.run = MAP_FAILED;
	s->c.kvm = s->c.vm = s->c.vcpu = s->second = s->event = s->irq = -1;
}

static void end(struct session *s)
{
	const int fds[] = { s->c.kvm, s->c.vm, s->c.vcpu, s->second, s->event, s->irq };

	if (s->c.run != MAP_FAILED)
		munmap(s->c.run, s->c.run_size);
	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

struct limit {
	int which;
	rlim_t value;
	bool mid_run;	 /* it comes when all is set up */
	int allowed[2];
};

/* In a child: the session under a limit, the run that failed once more without it, then another session. */
static int limited(const struct limit *l, struct session *s, void *mem)
{
	struct rlimit old, now;
	int r;

	begin(s, mem);
	getrlimit(l->which, &old);
	now = old;
	now.rlim_cur = l->value < old.rlim_max ? l->value : old.rlim_max;
	r = l->mid_run ? set_up(s) : 0;
	if (r)
		return SESSION_WRONG;
	setrlimit(l->which, &now);
	if (l->mid_run) {
		client_flat_mode(&s->c, 0x1000, touches, GUEST_CODE_SIZE(touches));
		r = run(s);
	} else {
		r = session(s);
	}
	setrlimit(l->which, &old);
	if (r == GUEST_EXCEPTION)
		return r;
	if (r && r != l->allowed[0] && r != l->allowed[1])
		return NOT_ITS_ERRNO;
	if (r && l->mid_run && run(s))
		return NO_GOOD_AFTERWARDS;
	end(s);
	begin(s, mem);
	if (session(s))
		return NO_GOOD_AFTERWARDS;
	end(s);
	return r ? 1 : 0;
}

/* 0: it went through; 1: a call failed as it may. */
static int in_a_child(const struct limit *l)
{
	int status;
	pid_t child = fork();

	if (child == 0) {
		void *mem = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		struct session s;
		int r;

		alarm(60);
		r = limited(l, &s, mem);
		if (r > 1)
			fprintf(stderr, "limit %d of %llu: %d, %s: %s\n", l->which, (unsigned long long)l->value, r,
				s.what ? s.what : "", strerror(errno));
		_exit(r);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	if (WIFSIGNALED(status))
		fail_msg("limit %d of %llu: signal %d", l->which, (unsigned long long)l->value, WTERMSIG(status));
	assert_in_range(WEXITSTATUS(status), 0, 1);
	return WEXITSTATUS(status);
}

static void a_shortage_of_descriptors_is_emfile(void **state)
{
	struct limit l = { RLIMIT_NOFILE, .allowed = { EMFILE, ENFILE } };
	unsigned failed = 0;

	for (l.value = 3; l.value < 64 && (l.value < 12 || in_a_child(&l)); l.value++)
		failed += in_a_child(&l) == 1;
	assert_true(failed > 5);
	assert_in_range(l.value, 4, 63); /* enough at last */
}

static void a_limit_of_file_size_is_no_signal(void **state)
{
	struct limit l = { RLIMIT_FSIZE, .allowed = { EFBIG, ENOMEM } };

	for (l.value = 0; l.value <= 1u << 16; l.value = l.value ? l.value * 16 : 1)
		in_a_child(&l);
}

static rlim_t pages_of(int field)
{
	unsigned long n[7] = { 0 };
	FILE *f = fopen("/proc/self/statm", "r");

	assert_non_null(f);
	assert_int_equal(fscanf(f, "%lu %lu %lu %lu %lu %lu", n, n + 1, n + 2, n + 3, n + 4, n + 5), 6);
	fclose(f);
	return n[field] * 4096;
}

static void a_shortage_of_address_space_is_enomem(void **state)
{
	struct limit l = { RLIMIT_AS, .allowed = { ENOMEM, EAGAIN } };
	unsigned failed = 0;
	rlim_t now;

	for (int mid = 0; mid < 2; mid++)
		for (unsigned mib = 0; mib <= 512; mib = mib ? mib * 2 : 1) {
			now = pages_of(0) + MEMORY;
			l.mid_run = mid;
			l.value = now + mib * (rlim_t)MIB;
			failed += in_a_child(&l) == 1;
		}
	assert_true(failed > 3);
}

static void a_shortage_of_data_is_enomem(void **state)
{
	struct limit l = { RLIMIT_DATA, .allowed = { ENOMEM, EAGAIN } }; /* EAGAIN: a thread without its stack */

	for (unsigned mib = 0; mib <= 128; mib = mib ? mib * 2 : 1) {
		l.value = pages_of(5) + MEMORY + mib * (rlim_t)MIB;
		in_a_child(&l);
	}
}

static void a_shortage_of_threads_is_eagain(void **state)
{
	struct limit l = { RLIMIT_NPROC, .value = 1, .allowed = { EAGAIN, ENOMEM } };
	int status;
	pid_t child;

	if (geteuid() != 0) { /* other processes of the user's count, and how many they are is unknown */
		print_message("not root: no user of its own\n");
		skip();
	}
	child = fork();
	if (child == 0) {
		/* an id that nobody has */
		if (setresgid(47113, 47113, 47113) || setresuid(47113, 47113, 47113))
			_exit(77);
		for (l.value = 1; l.value < 6; l.value++)
			in_a_child(&l);
		_exit(0);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 77));
}

/* What KVM has to say of a refused region goes where nothing can be written to: the client does not hear of that. */
static int told_to_nobody(bool pipe_without_reader)
{
	struct kvm_userspace_memory_region wrong = { .slot = 1, .memory_size = 1 };
	int kvm = open("/dev/kvm", O_RDWR), vm = ioctl(kvm, KVM_CREATE_VM, 0), ends[2];
	struct rlimit none = { 0, RLIM_INFINITY };
	sigset_t pending;

	if (pipe_without_reader) {
		if (pipe(ends) || close(ends[0]) || dup2(ends[1], STDERR_FILENO) < 0)
			return 2;
	} else if (dup2(open("/tmp", O_TMPFILE | O_RDWR, 0600), STDERR_FILENO) < 0) {
		return 2;
	} else if (setrlimit(RLIMIT_FSIZE, &none)) {
		return 2;
	}
	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &wrong) == 0 || errno != EINVAL)
		return 3;
	/* a client that blocks them finds none pending either */
	sigemptyset(&pending);
	sigaddset(&pending, SIGPIPE);
	sigaddset(&pending, SIGXFSZ);
	sigprocmask(SIG_BLOCK, &pending, NULL);
	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &wrong) == 0 || errno != EINVAL)
		return 3;
	return sigpending(&pending) || sigismember(&pending, SIGPIPE) || sigismember(&pending, SIGXFSZ) ? 4 : 0;
}

static void a_line_that_cannot_be_written_is_no_signal(void **state)
{
	for (int i = 0; i < 2; i++) {
		int status;
		pid_t child = fork();

		if (child == 0)
			_exit(told_to_nobody(i));
		assert_int_equal(waitpid(child, &status, 0), child);
		assert_int_equal(status, 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_shortage_of_descriptors_is_emfile),
		cmocka_unit_test(a_limit_of_file_size_is_no_signal),
		cmocka_unit_test(a_line_that_cannot_be_written_is_no_signal),
		cmocka_unit_test(a_shortage_of_address_space_is_enomem),
		cmocka_unit_test(a_shortage_of_data_is_enomem),
		cmocka_unit_test(a_shortage_of_threads_is_eagain),
	};

	if (getenv("SANITIZE")) { /* its runtime needs address space and descriptors of its own */
		printf("1..0 # skip sanitizers\n");
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
