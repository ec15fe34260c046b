/*
 * vCPU threads that come and go: showered with signals, ended in the middle,
 * their descriptors closed while they run, VMs made and dropped at random.
 */
#include "smp.h"

#define CPUS 4

GUEST(count, "code16", "1: lock; incl 0x600\n jmp 1b");
GUEST(halt, "code32", "movl $0x1ff, 0xfee000f0\n 1: sti\n hlt\n jmp 1b");

static void vcpus_showered_with_signals_lose_nothing(void **state)
{
	uint64_t deadline;
	uint32_t before;
	struct smp s;
	long sent = 0;

	smp_open(&s, CPUS, 1 << 20, false);
	for (int i = 0; i < CPUS; i++)
		guest_real(&s, i, 0x1000, count);
	smp_start(&s, 0, CPUS);
	deadline = smp_now_ms() + 1000;
	while (smp_now_ms() < deadline) {
		pthread_kill(s.cpu[sent++ % CPUS].thread, SIGUSR1);
		usleep(50);
	}
	/* they still run */
	before = smp_load32(&s, 0x600);
	for (int tries = 0; tries < 1000 && smp_load32(&s, 0x600) == before; tries++)
		usleep(1000);
	assert_int_not_equal(smp_load32(&s, 0x600), before);
	smp_stop(&s, 0, CPUS);
	for (int i = 0; i < CPUS; i++) {
		struct client c = smp_client(&s, i);
		struct kvm_regs r = client_regs(&c);

		assert_true(s.cpu[i].signals > 0);
		assert_true(s.cpu[i].signals <= sent + 1);
		assert_in_range(r.rip, 0x1000, 0x1000 + GUEST_SIZE(count));
	}
	smp_close(&s);
}

/* A vCPU is nobody's: another thread goes on where one has ended. */
static void a_vcpu_goes_from_thread_to_thread(void **state)
{
	uint32_t last = 0;
	struct smp s;

	smp_open(&s, 2, 1 << 20, false);
	for (int i = 0; i < 2; i++)
		guest_real(&s, i, 0x1000, count);
	for (int round = 0; round < 30; round++) {
		s.stop = false;
		for (int i = 0; i < 2; i++)
			s.cpu[i].run->immediate_exit = 0;
		smp_start(&s, 0, 2);
		for (int tries = 0; tries < 2000 && smp_load32(&s, 0x600) == last; tries++)
			usleep(500);
		smp_stop(&s, 0, 2);
		assert_true(smp_load32(&s, 0x600) != last);
		last = smp_load32(&s, 0x600);
	}
	smp_close(&s);
}

static void descriptors_may_be_closed_while_vcpus_run(void **state)
{
	for (int round = 0; round < 20; round++) {
		struct smp s;

		smp_open(&s, CPUS, 1 << 20, round & 1);
		for (int i = 0; i < CPUS; i++) {
			struct kvm_mp_state run = {.mp_state = KVM_MP_STATE_RUNNABLE};

			if (round & 1) {
				guest_flat(&s, i, 0x1000, halt);
				assert_int_equal(ioctl(s.cpu[i].fd, KVM_SET_MP_STATE, &run), 0);
			} else {
				guest_real(&s, i, 0x1000, count);
			}
		}
		smp_start(&s, 0, CPUS);
		usleep(2000);
		/* the VM's and the device's go first: the vCPUs keep the VM alive */
		close(s.c.vm);
		close(s.c.kvm);
		for (int i = 0; i < CPUS; i += 2)
			close(s.cpu[i].fd);
		usleep(2000);
		smp_stop(&s, 0, CPUS);
		for (int i = 0; i < CPUS; i++) {
			if (i & 1)
				assert_int_equal(close(s.cpu[i].fd), 0);
			munmap(s.cpu[i].run, s.c.run_size);
		}
		munmap(s.c.mem, s.c.mem_size);
	}
}

/* Several threads make VMs with 1 to 4 vCPUs, run them for a moment and drop them. */
static atomic_int made;

static void *churn(void *arg)
{
	unsigned seed = (unsigned)(long)arg * 77;
	uint64_t deadline = smp_now_ms() + 1500;

	while (smp_now_ms() < deadline) {
		int n = 1 + rand_r(&seed) % CPUS;
		struct smp s;

		smp_open(&s, n, 1 << 20, false);
		for (int i = 0; i < n; i++)
			guest_real(&s, i, 0x1000, count);
		smp_start(&s, 0, n);
		usleep((unsigned)rand_r(&seed) % 3000);
		if (rand_r(&seed) & 1 && s.nr < MAX_SMP) { /* one more while the others run */
			smp_add_cpu(&s);
			guest_real(&s, n, 0x1000, count);
			smp_start(&s, n, n + 1);
			n++;
		}
		smp_stop(&s, 0, n);
		smp_close(&s);
		made++;
	}
	return NULL;
}

static void vms_and_vcpus_come_and_go_at_random(void **state)
{
	pthread_t t[3];

	for (long i = 0; i < 3; i++)
		pthread_create(&t[i], NULL, churn, (void *)(i + 1));
	for (int i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	assert_true(made > 10);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(vcpus_showered_with_signals_lose_nothing),
		cmocka_unit_test(a_vcpu_goes_from_thread_to_thread),
		cmocka_unit_test(descriptors_may_be_closed_while_vcpus_run),
		cmocka_unit_test(vms_and_vcpus_come_and_go_at_random),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
