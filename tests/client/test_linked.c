/*
 * A program that links libuserkvm and has signal handlers of its own for the
 * signals the library needs, installed after the VM was made: its own faults
 * reach its handler, those of guest memory do not.
 *
 * Built twice: as one links, so that sigaction() is the library's; and to be run
 * with libc in front (BEHIND_LIBC), as for a library that is opened late.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "userkvm/userkvm.h"

/* client.h, through the library's calls */
#define open(path, flags) userkvm_open(path, flags)
#define ioctl(fd, request, arg) userkvm_ioctl(fd, request, (unsigned long)(arg))
#define close(fd) userkvm_close(fd)
#define mmap(a, l, p, f, fd, o) userkvm_mmap(a, l, p, f, fd, o)

#include "guest_code.h"
#include "paging.h"

static sigjmp_buf back;
static volatile sig_atomic_t handled;
static struct sigaction before[65];

static void on_fault(int signo, siginfo_t *info, void *context)
{
	handled++;
	siglongjmp(back, 1);
}

static void install(int signo, void (*handler)(int, siginfo_t *, void *))
{
	struct sigaction sa = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO};

	assert_int_equal(sigaction(signo, &sa, &before[signo]), 0);
}

static void own_fault_reaches_the_handler(void)
{
	volatile char *hole = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int was = handled;

	if (sigsetjmp(back, 1) == 0) {
		*hole = 1;
		fail();
	}
	assert_int_equal(handled, was + 1);
	munmap((void *)hole, 4096);
}

GUEST_CODE(touch, 32, "1: movl 0x200000, %eax; outb %al, $0x10; jmp 1b");

static void handler_installed_late_sees_its_own_faults_only(void **state)
{
	struct client c;
	uint8_t *page;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	client_slot(&c, 1, 0, 0x200000, page, 4096);
	client_flat_mode(&c, 0x1000, touch, GUEST_CODE_SIZE(touch));
	assert_int_equal(client_next_out(&c), 0x10);
	handled = 0;
	install(SIGSEGV, on_fault);
	install(SIGBUS, on_fault);
	if (sigsetjmp(back, 1) == 0)
		assert_fails(ioctl(c.vcpu, KVM_SET_REGS, 8), EFAULT);
	assert_int_equal(handled, 0);
	own_fault_reaches_the_handler();
	assert_int_equal(client_next_out(&c), 0x10);
	own_fault_reaches_the_handler();
	munmap(page, 4096);
	if (sigsetjmp(back, 1) == 0)
		assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EFAULT);
	assert_int_equal(handled, 2);
	own_fault_reaches_the_handler();
	client_close(&c);
	own_fault_reaches_the_handler();
}

static void blocked_faults_are_errors_all_the_same(void **state)
{
	sigset_t set, old, now;
	struct client c;

	sigemptyset(&set);
	sigaddset(&set, SIGSEGV);
	sigaddset(&set, SIGBUS);
	client_open_vm(&c, 2 << 20);
	client_add_vcpu(&c);
	client_flat_mode(&c, 0x1000, touch, GUEST_CODE_SIZE(touch));
	assert_fails(ioctl(c.vcpu, KVM_SET_REGS, 8), EFAULT);
	pthread_sigmask(SIG_BLOCK, &set, &old);
	munmap(c.mem + 0x1000, 4096);
	assert_fails(ioctl(c.vcpu, KVM_SET_REGS, 8), EFAULT);
	assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EFAULT);
	pthread_sigmask(SIG_SETMASK, &old, &now);
	assert_true(sigismember(&now, SIGSEGV) == 1 && sigismember(&now, SIGBUS) == 1);
	assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EFAULT);
	client_close(&c);
}

/* A divide error in the guest's SSE unit is raised by the host's silicon: SIGFPE. */
GUEST_CODE(divide, 64, "movl $0x1d80, 0x20000; ldmxcsr 0x20000; xorps %xmm0, %xmm0; movups 0x20010, %xmm1; divps %xmm0, %xmm1; outb %al, $0x40");

static void late_handler_of_fpe_does_not_see_the_guests_exceptions(void **state)
{
	static const float ones[4] = {1, 1, 1, 1};
	struct client c;
	struct kvm_sregs s;

	client_open_vm(&c, 2 << 20);
	client_add_vcpu(&c);
	paging_start(&c, PAGING_LONG, 0, 0, 0, 0);
	memcpy(c.mem + AT_CODE, divide, GUEST_CODE_SIZE(divide));
	memcpy(c.mem + 0x20010, ones, 16);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_SREGS, &s), 0);
	s.cr4 |= 3 << 9;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_SREGS, &s), 0);
	handled = 0;
	install(SIGFPE, on_fault);
	if (sigsetjmp(back, 1) == 0)
		assert_int_equal(client_next_out(&c), 19); /* #XM */
	assert_int_equal(handled, 0);
	client_close(&c);
}

/* Handlers that pass on what they do not know: the library's must not pass it back. */
static void passing_on(int signo, siginfo_t *info, void *context)
{
	handled++;
	if (handled > 3)
		siglongjmp(back, 2); /* it went round */
	before[signo].sa_sigaction(signo, info, context);
	siglongjmp(back, 1);
}

static void handler_that_passes_faults_on_is_not_called_again(void **state)
{
	volatile char *hole;
	struct client c;

	client_open_vm(&c, 2 << 20);
	client_add_vcpu(&c);
	install(SIGSEGV, on_fault); /* what was there before, to the library */
	client_flat_mode(&c, 0x1000, touch, GUEST_CODE_SIZE(touch));
	assert_run_exits(&c, KVM_EXIT_MMIO);
	install(SIGSEGV, passing_on); /* before[] is the library's own now */
	assert_run_exits(&c, KVM_EXIT_IO);
	hole = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	handled = 0;
	if (sigsetjmp(back, 1) == 0) {
		*hole = 1;
		fail();
	}
	assert_int_equal(handled, 2); /* passing_on, then on_fault */
	handled = 0;
	if (sigsetjmp(back, 1) == 0) { /* and again, after a handler that left by a jump */
		*hole = 1;
		fail();
	}
	assert_int_equal(handled, 2);
	munmap((void *)hole, 4096);
	client_close(&c);
}

static void on_kick(int signo)
{
	handled++;
#ifdef BEHIND_LIBC
	userkvm_signal_ran();
#endif
}

static void *kick(void *thread)
{
	usleep(20000);
	pthread_kill(*(pthread_t *)thread, SIGUSR1);
	return NULL;
}

GUEST_CODE(spin, 32, "1: jmp 1b");

static void handler_ends_the_run(void **state)
{
	struct sigaction sa = {.sa_handler = on_kick, .sa_flags = SA_RESTART}, now;
	pthread_t self = pthread_self(), t;
	struct client c;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	client_flat_mode(&c, 0x1000, spin, GUEST_CODE_SIZE(spin));
	assert_int_equal(sigaction(SIGUSR1, &sa, NULL), 0);
	assert_int_equal(sigaction(SIGUSR1, NULL, &now), 0);
	assert_ptr_equal(now.sa_handler, on_kick);
	handled = 0;
	assert_int_equal(pthread_create(&t, NULL, kick, &self), 0);
	assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EINTR);
	assert_int_equal(handled, 1);
	pthread_join(t, NULL);
	client_close(&c);
}

static void sigaction_is_whose_it_should_be(void **state)
{
	Dl_info info;
	bool library;

	assert_true(dladdr(dlsym(RTLD_DEFAULT, "sigaction"), &info) != 0);
	library = strstr(info.dli_fname, "libuserkvm") != NULL;
#if defined(BEHIND_LIBC)
	assert_false(library);
#elif defined(__SANITIZE_ADDRESS__)
	(void)library; /* the sanitizer's runtime has its own in front */
	skip();
#else
	assert_true(library);
#endif
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sigaction_is_whose_it_should_be),
		cmocka_unit_test(handler_ends_the_run),
		cmocka_unit_test(handler_installed_late_sees_its_own_faults_only),
		cmocka_unit_test(blocked_faults_are_errors_all_the_same),
		cmocka_unit_test(late_handler_of_fpe_does_not_see_the_guests_exceptions),
		cmocka_unit_test(handler_that_passes_faults_on_is_not_called_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
