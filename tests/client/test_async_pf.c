/*
 * Asynchronous page faults: which are told, which halt the vCPU, which wait.
 */
#include <pthread.h>

#include "async_pf.h"

static void a_missing_page_is_told_and_its_arrival_too(void **state)
{
	struct kvm_regs r;
	struct client c;

	OPEN_OR_SKIP();
	START(&c, touch, 3, 0, EN);
	assert_int_equal(client_next_out(&c), 0x50);
	r = client_regs(&c);
	assert_int_equal(r.r12, 1);
	assert_int_equal(guest32(&c, AT_READY_TOKENS + 4), BROADCAST); /* said at its enabling */
	assert_true(r.r8 != 0 && r.r8 < BROADCAST);
	assert_int_equal(r.r14, 1);
	assert_int_equal(wanted_page(), data);
	bring((uintptr_t)data);
	assert_int_equal(client_next_out(&c), 0x51);
	r = client_regs(&c);
	assert_int_equal((uint32_t)r.rbx, FILL);
	assert_int_equal(r.r14, 1);
	assert_int_equal(r.r12, 2);
	assert_int_equal(r.r13, r.r8);
	assert_int_equal(guest32(&c, AT_APF), 0);
	assert_int_equal(guest32(&c, AT_APF + 4), 0);
	client_close(&c);
	close_data();
}

static int index_of(struct client *c, uint32_t token, uint32_t at, int n)
{
	for (int i = 1; i <= n; i++)
		if (guest32(c, at + 4 * (uint32_t)i) == token)
			return i;
	return 0;
}

static void the_guest_goes_on_with_many_pages_missing(void **state)
{
	enum { N = 8 };
	struct kvm_regs r;
	struct client c;
	uint64_t pages[N];

	OPEN_OR_SKIP();
	START(&c, touch_all, 3, TOUCH_ALL_BYTES, EN);
	r = client_regs(&c);
	r.rdi = N;
	r.r11 = N + 1;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	for (int i = 0; i < N; i++)
		assert_int_equal(client_next_out(&c), 0x50);
	assert_int_equal(client_next_out(&c), 0x51);
	for (int i = 0; i < N; i++)
		pages[i] = wanted_page();
	for (int i = N - 1; i >= 0; i--)
		bring(pages[i]);
	assert_int_equal(client_next_out(&c), 0x52);
	for (int i = 1; i <= N; i++) { /* each token once, among the ready after the broadcast */
		uint32_t token = guest32(&c, AT_ABSENT_TOKENS + 4 * (uint32_t)i);

		assert_int_equal(index_of(&c, token, AT_ABSENT_TOKENS, N), i);
		assert_true(index_of(&c, token, AT_READY_TOKENS, N + 1) > 1);
	}
	assert_false(somebody_waits());
	client_close(&c);
	close_data();
}

static void *bring_what_is_wanted(void *arg)
{
	int n = *(int *)arg;
	uint64_t pages[PAGES];

	for (int i = 0; i < n; i++)
		pages[i] = wanted_page();
	for (int i = 0; i < n; i++)
		bring(pages[i]);
	return NULL;
}

/* The same, each as soon as it is wanted. */
static void *bring_each(void *arg)
{
	for (int n = *(int *)arg; n > 0; n--)
		bring(wanted_page());
	return NULL;
}

/* More than there are threads: the first without one waits in KVM_RUN, until all are brought. */
static void faults_that_find_no_thread_wait(void **state)
{
	int told = 0, n = THREADS + 1, port;
	struct kvm_regs r;
	struct client c;
	pthread_t t;

	OPEN_OR_SKIP();
	START(&c, touch_all, 3, TOUCH_ALL_BYTES, EN);
	r = client_regs(&c);
	r.rdi = THREADS + 1;
	r.r11 = THREADS + 1;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	assert_int_equal(pthread_create(&t, NULL, bring_what_is_wanted, &n), 0);
	while ((port = client_next_out(&c)) == 0x50)
		told++;
	assert_int_equal(port, 0x51);
	assert_int_equal(told, THREADS);
	assert_int_equal(client_next_out(&c), 0x52);
	assert_int_equal(pthread_join(t, NULL), 0);
	client_close(&c);
	close_data();
}

/* Nothing is told: the fault is waited for. */
static void assert_waits(struct client *c, uint64_t tokens)
{
	struct kvm_regs r;
	pthread_t t;
	int one = 1;

	assert_int_equal(pthread_create(&t, NULL, bring_what_is_wanted, &one), 0);
	assert_int_equal(client_next_out(c), 0x51);
	assert_int_equal(pthread_join(t, NULL), 0);
	r = client_regs(c);
	assert_int_equal((uint32_t)r.rbx, FILL);
	assert_int_equal(r.r14, 0);
	assert_int_equal(r.r12, tokens);
	assert_int_equal(guest32(c, AT_APF), 0);
}

static void with_interrupts_off_a_fault_waits(void **state)
{
	struct kvm_regs r;
	struct client c;

	OPEN_OR_SKIP();
	START(&c, touch, 3, 0, EN);
	r = client_regs(&c);
	r.rflags &= ~(uint64_t)EFLAGS_IF;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	assert_waits(&c, 0); /* nor the broadcast */
	client_close(&c);
	close_data();
}

static void disabled_or_by_halves_a_fault_waits(void **state)
{
	struct client c;

	for (uint64_t en = 0; en <= 1; en++) {
		OPEN_OR_SKIP();
		START(&c, touch, 3, 0, en);
		assert_waits(&c, 0);
		client_close(&c);
		close_data();
	}
}

struct interrupter {
	struct client *c;
	uint64_t page; /* that was wanted */
};

static void *interrupt_when_wanted(void *arg)
{
	struct interrupter *i = arg;

	i->page = wanted_page();
	x2apic_msi(i->c, OTHER_VECTOR);
	return NULL;
}

/* Until the page is there the vCPU halts, and takes interrupts. */
static void assert_halts(struct client *c, uint64_t told)
{
	struct interrupter i = {.c = c};
	pthread_t t;
	struct kvm_regs r;
	int port;

	assert_int_equal(pthread_create(&t, NULL, interrupt_when_wanted, &i), 0);
	while ((port = client_next_out(c)) == 0x50)
		;
	assert_int_equal(port, 0x53);
	assert_int_equal(pthread_join(t, NULL), 0);
	/* It tries again after the interrupt and halts again: nobody waits but the thread that did. */
	for (int n = 0; n < 3; n++) {
		x2apic_msi(c, OTHER_VECTOR);
		assert_int_equal(client_next_out(c), 0x53);
	}
	assert_false(somebody_waits());
	bring(i.page);
	assert_int_equal(client_next_out(c), 0x51);
	r = client_regs(c);
	assert_int_equal((uint32_t)r.rbx, FILL);
	assert_int_equal(r.r14, told);
}

static void a_kernel_that_cannot_be_told_halts(void **state)
{
	struct client c;

	OPEN_OR_SKIP();
	START(&c, touch, 0, 0, EN);
	assert_halts(&c, 0);
	client_close(&c);
	close_data();
}

static void a_kernel_that_wants_to_be_told_is(void **state)
{
	struct client c;

	OPEN_OR_SKIP();
	START(&c, touch, 0, 0, EN | SEND_ALWAYS);
	assert_int_equal(client_next_out(&c), 0x50);
	bring(wanted_page());
	assert_int_equal(client_next_out(&c), 0x51);
	assert_int_equal((uint32_t)client_regs(&c).rbx, FILL);
	client_close(&c);
	close_data();
}

static void a_second_fault_on_the_page_halts(void **state)
{
	struct client c;

	OPEN_OR_SKIP();
	START(&c, twice, 3, TOUCH_BYTES, EN);
	assert_halts(&c, 1);
	client_close(&c);
	close_data();
}

/* Pages come while the guest is told of them, halts or runs; dropped, they are missing again. */
static void pages_that_come_at_any_moment_are_not_missed(void **state)
{
	enum { ROUNDS = 20 };
	struct kvm_regs begin, r;
	struct client c;
	pthread_t t;
	int all = PAGES, port;

	for (unsigned cpl = 0; cpl <= 3; cpl += 3) { /* CPL 0 halts and is not told */
		OPEN_OR_SKIP();
		START(&c, touch_all, cpl, 0, EN);
		begin = client_regs(&c);
		begin.rdi = PAGES;
		for (int i = 0; i < ROUNDS; i++) {
			assert_int_equal(madvise(data, PAGES * PAGE, MADV_DONTNEED), 0);
			assert_int_equal(pthread_create(&t, NULL, bring_each, &all), 0);
			begin.r14 = begin.r12 = 0; /* the tables begin again */
			assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &begin), 0);
			while ((port = client_next_out(&c)) == 0x50)
				;
			assert_int_equal(port, 0x51);
			assert_int_equal(pthread_join(t, NULL), 0);
			r = client_regs(&c);
			assert_int_equal(r.r14, cpl ? PAGES : 0);
			assert_int_equal((uint32_t)r.rbx, FILL);
		}
		client_close(&c);
		close_data();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_missing_page_is_told_and_its_arrival_too),
		cmocka_unit_test(the_guest_goes_on_with_many_pages_missing),
		cmocka_unit_test(faults_that_find_no_thread_wait),
		cmocka_unit_test(with_interrupts_off_a_fault_waits),
		cmocka_unit_test(disabled_or_by_halves_a_fault_waits),
		cmocka_unit_test(a_kernel_that_cannot_be_told_halts),
		cmocka_unit_test(a_kernel_that_wants_to_be_told_is),
		cmocka_unit_test(a_second_fault_on_the_page_halts),
		cmocka_unit_test(pages_that_come_at_any_moment_are_not_missed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
