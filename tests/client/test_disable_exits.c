/*
 * KVM_CAP_X86_DISABLE_EXITS: HLT and PAUSE that the processor does by itself.
 */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>

#include "guest_code.h"
#include "paging.h"
#include "stats.h"

#define HLT KVM_X86_DISABLE_EXITS_HLT
#define PAUSE KVM_X86_DISABLE_EXITS_PAUSE
#define KVM_CPUID_FEATURES 0x40000001
#define PV_UNHALT 7

GUEST_CODE(halts, 64, "out %al, $0x98; hlt; 1: out %al, $0x99; jmp 1b");
GUEST_CODE(pauses, 64, "2: mov $2000000, %ecx; 1: pause; loop 1b; out %al, $0x98; jmp 2b");

static int disable(int vm, uint64_t exits)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_X86_DISABLE_EXITS, .args = {exits}};

	return ioctl(vm, KVM_ENABLE_CAP, &cap);
}

static void open_disabled(struct client *c, uint64_t exits, const uint8_t *code, size_t n)
{
	client_open_vm(c, 2 << 20);
	assert_int_equal(ioctl(c->vm, KVM_CREATE_IRQCHIP, 0), 0);
	if (exits)
		assert_int_equal(disable(c->vm, exits), 0);
	client_add_vcpu(c);
	paging_start(c, PAGING_LONG, 0, 0, 0, 0);
	memcpy(c->mem + AT_CODE, code, n);
}

/* --- a vCPU that waits in HLT, on a thread of its own --- */

struct runner {
	struct client *c;
	pthread_t thread;
	pid_t tid;
	int result, error;
};

static void *run(void *p)
{
	struct runner *r = p;

	__atomic_store_n(&r->tid, (pid_t)syscall(SYS_gettid), __ATOMIC_RELEASE);
	r->result = ioctl(r->c->vcpu, KVM_RUN, 0);
	r->error = errno;
	return NULL;
}

/* Where in the kernel the thread is: S when it sleeps. */
static char state_of(pid_t tid)
{
	char name[64], state = 0;
	FILE *f;

	snprintf(name, sizeof(name), "/proc/self/task/%d/stat", (int)tid);
	f = fopen(name, "re");
	if (f && fscanf(f, "%*d (%*[^)]) %c", &state) != 1)
		state = 0;
	if (f)
		fclose(f);
	return state;
}

static void start_and_wait_for_sleep(struct runner *r, struct client *c)
{
	*r = (struct runner){.c = c};
	assert_int_equal(pthread_create(&r->thread, NULL, run, r), 0);
	while (!__atomic_load_n(&r->tid, __ATOMIC_ACQUIRE) || state_of(r->tid) != 'S')
		sched_yield();
}

static void expect_end(struct runner *r, int result)
{
	assert_int_equal(pthread_join(r->thread, NULL), 0);
	assert_int_equal(r->result, result);
}

static uint64_t counter(struct client *c, const char *name)
{
	struct stats s;
	uint64_t v;

	open_stats(&s, c->vcpu);
	v = value(&s, name);
	close_stats(&s);
	return v;
}

/* KVM_NMI would wait for the end of KVM_RUN. */
static void send_nmi(struct client *c)
{
	struct kvm_msi msi = {.address_lo = 0xfee00000, .data = 0x400};

	assert_int_equal(ioctl(c->vm, KVM_SIGNAL_MSI, &msi), 1);
}

/* The guest halts, an NMI comes: its handler runs, and would return behind the HLT. */
static void nmi_ends_hlt(uint64_t exits, uint64_t halt_exits)
{
	struct kvm_mp_state mp;
	struct runner r;
	struct client c;

	open_disabled(&c, exits, halts, GUEST_CODE_SIZE(halts));
	assert_int_equal(client_next_out(&c), 0x98);
	start_and_wait_for_sleep(&r, &c);
	send_nmi(&c);
	expect_end(&r, 0);
	assert_int_equal(c.run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(c.run->io.port, 2);
	assert_int_equal(*(uint64_t *)(c.mem + client_regs(&c).rsp), AT_CODE + 3);
	assert_int_equal(counter(&c, "halt_exits"), halt_exits);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_MP_STATE, &mp), 0);
	assert_int_equal(mp.mp_state, KVM_MP_STATE_RUNNABLE);
	client_close(&c);
}

static void an_event_ends_hlt_without_an_exit_for_it(void **state)
{
	nmi_ends_hlt(0, 1);
	nmi_ends_hlt(HLT, 0);
}

static void on_signal(int signo)
{
}

static void a_signal_ends_the_run_and_the_guest_goes_on_waiting(void **state)
{
	struct sigaction act = {.sa_handler = on_signal};
	struct runner r;
	struct client c;

	assert_int_equal(sigaction(SIGUSR1, &act, NULL), 0);
	open_disabled(&c, HLT, halts, GUEST_CODE_SIZE(halts));
	assert_int_equal(client_next_out(&c), 0x98);
	for (int i = 0; i < 3; i++) {
		start_and_wait_for_sleep(&r, &c);
		assert_int_equal(pthread_kill(r.thread, SIGUSR1), 0);
		expect_end(&r, -1);
		assert_int_equal(r.error, EINTR);
		assert_int_equal(c.run->exit_reason, KVM_EXIT_INTR);
	}
	start_and_wait_for_sleep(&r, &c);
	send_nmi(&c);
	expect_end(&r, 0);
	assert_int_equal(c.run->io.port, 2);
	client_close(&c);
}

/* #UD may not be injected into HLT: the guest has to be taken out of it first. */
static void an_exception_of_the_clients_ends_hlt(void **state)
{
	struct sigaction act = {.sa_handler = on_signal};
	struct kvm_vcpu_events ev;
	struct runner r;
	struct client c;

	assert_int_equal(sigaction(SIGUSR1, &act, NULL), 0);
	open_disabled(&c, HLT, halts, GUEST_CODE_SIZE(halts));
	assert_int_equal(client_next_out(&c), 0x98);
	start_and_wait_for_sleep(&r, &c);
	assert_int_equal(pthread_kill(r.thread, SIGUSR1), 0);
	expect_end(&r, -1);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_VCPU_EVENTS, &ev), 0);
	ev.exception.injected = 1;
	ev.exception.nr = 6;
	ev.exception.has_error_code = 0;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_VCPU_EVENTS, &ev), 0);
	assert_int_equal(client_next_out(&c), 6);
	client_close(&c);
}

static uint64_t exits_of_pauses(uint64_t exits)
{
	struct client c;
	uint64_t n;

	open_disabled(&c, exits, pauses, GUEST_CODE_SIZE(pauses));
	assert_int_equal(client_next_out(&c), 0x98); /* its pages are there now */
	n = counter(&c, "exits");
	assert_int_equal(client_next_out(&c), 0x98);
	n = counter(&c, "exits") - n;
	client_close(&c);
	return n;
}

static void a_pause_loop_exits_only_where_it_may(void **state)
{
	uint64_t with = exits_of_pauses(0), without = exits_of_pauses(PAUSE);

	assert_true(with >= 10);
	assert_int_equal(without, 1); /* the OUT */
}

static void what_may_be_disabled_is_said_and_checked(void **state)
{
	int offered, vcpu;
	struct client c;

	client_open_vm(&c, 1 << 20);
	offered = ioctl(c.vm, KVM_CHECK_EXTENSION, KVM_CAP_X86_DISABLE_EXITS);
	assert_int_equal(offered & (HLT | PAUSE), HLT | PAUSE);
	assert_int_equal(offered & ~KVM_X86_DISABLE_VALID_EXITS, 0);
	assert_fails(disable(c.vm, KVM_X86_DISABLE_VALID_EXITS + 1), EINVAL);
	assert_fails(disable(c.vm, 1ULL << 32 | HLT), EINVAL);
	assert_int_equal(disable(c.vm, KVM_X86_DISABLE_VALID_EXITS & ~HLT), 0); /* those there are */
	vcpu = ioctl(c.vm, KVM_CREATE_VCPU, 0);
	assert_true(vcpu >= 0);
	assert_fails(disable(c.vm, HLT), EINVAL);
	close(vcpu);
	client_close(&c);
}

static void halted_vcpus_cannot_be_kicked_where_hlt_does_not_exit(void **state)
{
	struct client c;

	open_disabled(&c, 0, halts, GUEST_CODE_SIZE(halts));
	assert_true(client_cpuid_bit(&c, KVM_CPUID_FEATURES, CPUID_EAX, PV_UNHALT));
	client_close(&c);
	open_disabled(&c, HLT, halts, GUEST_CODE_SIZE(halts));
	assert_false(client_cpuid_bit(&c, KVM_CPUID_FEATURES, CPUID_EAX, PV_UNHALT));
	client_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_may_be_disabled_is_said_and_checked),
		cmocka_unit_test(an_event_ends_hlt_without_an_exit_for_it),
		cmocka_unit_test(a_signal_ends_the_run_and_the_guest_goes_on_waiting),
		cmocka_unit_test(an_exception_of_the_clients_ends_hlt),
		cmocka_unit_test(a_pause_loop_exits_only_where_it_may),
		cmocka_unit_test(halted_vcpus_cannot_be_kicked_where_hlt_does_not_exit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
