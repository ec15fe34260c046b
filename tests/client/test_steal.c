/*
 * Steal time: the guest's page against what the kernel counts for this thread
 * in /proc, and the flag that says that the vCPU does not run.
 */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>

#include "guest_code.h"
#include "paging.h"

#define MSR_KVM_STEAL_TIME 0x4b564d03
#define FEATURE_STEAL_TIME 5
#define AT_PAGE 0x40000
#define STOLEN_NS 3000000

struct steal_time {
	uint64_t steal;
	uint32_t version, flags;
	uint8_t preempted, pad[47];
};

/* preempted, as the guest sees it, to a port; for ever */
GUEST_CODE(look, 64, "mov $0x40000, %ebx; 1: mov 16(%rbx), %al; outb %al, $0x40; jmp 1b");

/* The same with some milliseconds of work before each. */
GUEST_CODE(work_and_look, 64,
	   "mov $0x40000, %ebx; 1: mov $2000000, %ecx; 2: dec %ecx; jnz 2b; mov 16(%rbx), %al; outb %al, $0x40; jmp 1b");

/* How long this thread has waited for a processor; false: not counted here. */
static bool run_delay(uint64_t *ns)
{
	FILE *f = fopen("/proc/thread-self/schedstat", "re");
	unsigned long long on, waited, turns;
	bool ok = f && fscanf(f, "%llu %llu %llu", &on, &waited, &turns) == 3 && turns;

	if (f)
		fclose(f);
	*ns = ok ? waited : 0;
	return ok;
}

static bool offered(struct client *c)
{
	struct {
		struct kvm_cpuid2 h;
		struct kvm_cpuid_entry2 e[256];
	} cpuid = {.h.nent = 256};

	assert_int_equal(ioctl(c->kvm, KVM_GET_SUPPORTED_CPUID, &cpuid), 0);
	for (uint32_t i = 0; i < cpuid.h.nent; i++)
		if (cpuid.e[i].function == 0x40000001)
			return cpuid.e[i].eax & 1u << FEATURE_STEAL_TIME;
	return false;
}

static volatile struct steal_time *open_guest(struct client *c)
{
	uint64_t ns;

	client_open_vm(c, 2 << 20);
	client_add_vcpu(c);
	assert_int_equal(offered(c), run_delay(&ns));
	if (!offered(c)) {
		print_message("the host does not count run delays: no steal time\n");
		skip();
	}
	paging_start(c, PAGING_LONG, 0, 0, 0, 0);
	memcpy(c->mem + AT_CODE, look, GUEST_CODE_SIZE(look));
	return (volatile struct steal_time *)(c->mem + AT_PAGE);
}

static void run_once(struct client *c, volatile struct steal_time *st)
{
	assert_int_equal(client_next_out(c), 0x40);
	assert_int_equal(client_regs(c).rax & 0xff, 0); /* a guest that runs is not preempted */
	assert_int_equal(st->version % 2, 0);
	assert_int_equal(st->flags, 0);
}

static void reserved_bits_are_refused(void **state)
{
	struct client c;

	open_guest(&c);
	assert_int_equal(client_try_set_msr(&c, MSR_KVM_STEAL_TIME, AT_PAGE | 1), 1);
	for (int bit = 1; bit < 6; bit++)
		assert_int_equal(client_try_set_msr(&c, MSR_KVM_STEAL_TIME, AT_PAGE | 1u << bit | 1), 0);
	assert_int_equal(client_msr(&c, MSR_KVM_STEAL_TIME), AT_PAGE | 1);
	client_close(&c);
}

static void *spin(void *stop)
{
	while (!__atomic_load_n((bool *)stop, __ATOMIC_RELAXED))
		;
	return NULL;
}

/* Until another thread has kept this one from its processor for so long. */
static void be_stolen_from(uint64_t ns)
{
	cpu_set_t all, one;
	bool stop = false;
	uint64_t start, now;
	pthread_t t;
	int cpu = sched_getcpu();

	assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
	assert_true(run_delay(&start));
	assert_int_equal(pthread_create(&t, NULL, spin, &stop), 0); /* inherits the one processor */
	do {
		sched_yield();
		assert_true(run_delay(&now));
	} while (now - start < ns);
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	assert_int_equal(pthread_join(t, NULL), 0);
	assert_int_equal(sched_setaffinity(0, sizeof(all), &all), 0);
}

static void time_waited_for_a_processor_is_stolen(void **state)
{
	uint64_t before, at_first, ready, after, first;
	struct client c;
	volatile struct steal_time *st = open_guest(&c);

	assert_int_equal(client_try_set_msr(&c, MSR_KVM_STEAL_TIME, AT_PAGE | 1), 1);
	assert_true(run_delay(&before));
	run_once(&c, st);
	assert_true(run_delay(&at_first));
	assert_true(st->version > 0);
	first = st->steal;
	be_stolen_from(STOLEN_NS);
	assert_true(run_delay(&ready));
	run_once(&c, st);
	assert_true(run_delay(&after));
	assert_true(st->steal - first >= ready - at_first);
	assert_true(st->steal - first <= after - before);
	client_close(&c);
}

static void disabled_the_page_stays_as_it_is(void **state)
{
	struct client c;
	volatile struct steal_time *st = open_guest(&c);

	assert_int_equal(client_try_set_msr(&c, MSR_KVM_STEAL_TIME, AT_PAGE), 1);
	be_stolen_from(STOLEN_NS);
	run_once(&c, st);
	c.run->immediate_exit = 1;
	assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EINTR);
	for (size_t i = 0; i < sizeof(*st); i++)
		assert_int_equal(c.mem[AT_PAGE + i], 0);
	client_close(&c);
}

static void a_vcpu_taken_from_its_thread_is_preempted(void **state)
{
	struct client c;
	volatile struct steal_time *st = open_guest(&c);

	assert_int_equal(client_try_set_msr(&c, MSR_KVM_STEAL_TIME, AT_PAGE | 1), 1);
	run_once(&c, st);
	assert_int_equal(st->preempted, 0); /* an exit of its own making is not one */
	c.run->immediate_exit = 1;
	assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EINTR);
	assert_int_equal(st->preempted, 1);
	c.run->immediate_exit = 0;
	run_once(&c, st);
	assert_int_equal(st->preempted, 0);
	client_close(&c);
}

static void *run_here(void *p)
{
	struct client *c = p;

	assert_int_equal(client_try_set_msr(c, MSR_KVM_STEAL_TIME, AT_PAGE | 1), 1); /* looked after at once */
	run_once(c, (volatile struct steal_time *)(c->mem + AT_PAGE));
	return NULL;
}

/* The thread's first ioctl of all is KVM_RUN, which opens no file: its clock has to do. */
static void *run_long(void *p)
{
	struct client *c = p;
	volatile struct steal_time *st = (volatile struct steal_time *)(c->mem + AT_PAGE);
	uint64_t start, now, first;

	assert_int_equal(client_next_out(c), 0x40);
	first = st->steal;
	assert_true(run_delay(&start));
	do {
		assert_int_equal(client_next_out(c), 0x40);
		assert_true(run_delay(&now));
	} while (now - start < 5 * STOLEN_NS);
	assert_int_equal(client_next_out(c), 0x40); /* the page is written on the way in */
	/* What the client does meanwhile is not the guest's. */
	assert_true(st->steal - first > (now - start) / 4);
	return NULL;
}

static void thread_that_makes_no_other_call_is_judged_by_its_clock(void **state)
{
	bool stop = false;
	struct client c;
	pthread_t t, other;
	cpu_set_t all, one;

	open_guest(&c);
	memcpy(c.mem + AT_CODE, work_and_look, GUEST_CODE_SIZE(work_and_look));
	assert_int_equal(client_try_set_msr(&c, MSR_KVM_STEAL_TIME, AT_PAGE | 1), 1);
	assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
	assert_int_equal(pthread_create(&other, NULL, spin, &stop), 0);
	assert_int_equal(pthread_create(&t, NULL, run_long, &c), 0);
	assert_int_equal(pthread_join(t, NULL), 0);
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	assert_int_equal(pthread_join(other, NULL), 0);
	assert_int_equal(sched_setaffinity(0, sizeof(all), &all), 0);
	client_close(&c);
}

static void another_threads_past_is_not_stolen(void **state)
{
	struct client c;
	volatile struct steal_time *st = open_guest(&c);
	uint64_t steal;
	uint32_t version;
	pthread_t t;

	be_stolen_from(STOLEN_NS); /* the past of this one */
	assert_int_equal(pthread_create(&t, NULL, run_here, &c), 0);
	assert_int_equal(pthread_join(t, NULL), 0);
	steal = st->steal;
	version = st->version;
	run_here(&c);
	assert_true(st->version > version);
	assert_int_equal(st->steal, steal);
	client_close(&c);
}

static void a_page_that_is_no_memory_is_no_error(void **state)
{
	struct client c;
	volatile struct steal_time *st = open_guest(&c);

	assert_int_equal(client_try_set_msr(&c, MSR_KVM_STEAL_TIME, 0x100000000 | 1), 1);
	run_once(&c, st);
	c.run->immediate_exit = 1;
	assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EINTR);
	c.run->immediate_exit = 0;
	run_once(&c, st);
	client_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reserved_bits_are_refused),
		cmocka_unit_test(time_waited_for_a_processor_is_stolen),
		cmocka_unit_test(disabled_the_page_stays_as_it_is),
		cmocka_unit_test(a_vcpu_taken_from_its_thread_is_preempted),
		cmocka_unit_test(thread_that_makes_no_other_call_is_judged_by_its_clock),
		cmocka_unit_test(another_threads_past_is_not_stolen),
		cmocka_unit_test(a_page_that_is_no_memory_is_no_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
