/*
 * The state of a VM is complete: saved at any moment, restored into a new VM,
 * the guest goes on as if nothing had been.
 */
#include <signal.h>
#include <sys/time.h>

#include "state.h"
#include "state_guest.h"

static void on_alarm(int signo)
{
}

static void alarm_every(unsigned us)
{
	struct sigaction sa = {.sa_handler = on_alarm};
	struct itimerval t = {.it_value.tv_usec = us, .it_interval.tv_usec = us};

	assert_int_equal(sigaction(SIGALRM, &sa, NULL), 0);
	assert_int_equal(setitimer(ITIMER_REAL, &t, NULL), 0);
}

/* --- VMs that share one memory, one after the other --- */

static void set_cpuid(struct client *c)
{
	static struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 e[256];
	} cpuid;

	cpuid.head.nent = 256;
	assert_int_equal(ioctl(c->kvm, KVM_GET_SUPPORTED_CPUID, &cpuid), 0);
	assert_int_equal(ioctl(c->vcpu, KVM_SET_CPUID2, &cpuid), 0);
}

static void open_vm(struct client *c)
{
	/* tells exceptions that wait from those being delivered; without it they are one on the way back */
	struct kvm_enable_cap payload = {.cap = KVM_CAP_EXCEPTION_PAYLOAD, .args = {1}};
	struct kvm_pit_config pit = {0};

	c->vm = ioctl(c->kvm, KVM_CREATE_VM, 0);
	assert_true(c->vm >= 0);
	client_slot(c, 0, 0, 0, c->mem, c->mem_size);
	assert_int_equal(ioctl(c->vm, KVM_ENABLE_CAP, &payload), 0);
	assert_int_equal(ioctl(c->vm, KVM_SET_TSS_ADDR, 0xfffbd000), 0);
	assert_int_equal(ioctl(c->vm, KVM_CREATE_IRQCHIP, 0), 0);
	assert_int_equal(ioctl(c->vm, KVM_CREATE_PIT2, &pit), 0);
	client_add_vcpu(c);
	set_cpuid(c);
}

static void close_vm(struct client *c)
{
	munmap(c->run, c->run_size);
	close(c->vcpu);
	close(c->vm);
}

static void open_first(struct client *c)
{
	memset(c, 0, sizeof(*c));
	c->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	assert_true(c->kvm >= 0);
	c->mem_size = GUEST_MEM;
	c->mem = mmap(NULL, c->mem_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(c->mem != MAP_FAILED);
	guest_memory(c);
	open_vm(c);
}

static void close_last(struct client *c)
{
	close_vm(c);
	close(c->kvm);
	munmap(c->mem, c->mem_size);
}

/* Save, a new VM, restore, and what it now says must be what was saved. */
static void move(struct client *c)
{
	static struct vm_state before, after;

	state_save(c, &before);
	close_vm(c);
	open_vm(c);
	state_restore(c, &before);
	state_save(c, &after);
	state_compare(&before, &after);
}

/* KVM API: an exit for I/O or MMIO is finished by the next KVM_RUN; immediate_exit does only that. */
static void finish_exit(struct client *c)
{
	c->run->immediate_exit = 1;
	assert_fails(ioctl(c->vcpu, KVM_RUN, 0), EINTR);
	c->run->immediate_exit = 0;
}

/* --- the client's devices: what they answer follows from what they were told --- */

struct devices {
	uint64_t last;
};

static void serve_io(struct client *c, struct devices *d)
{
	uint8_t *data = (uint8_t *)c->run + c->run->io.data_offset;
	uint64_t value;

	for (uint32_t i = 0; i < c->run->io.count; i++, data += c->run->io.size) {
		value = 0;
		if (c->run->io.direction == KVM_EXIT_IO_OUT) {
			memcpy(&value, data, c->run->io.size);
			d->last = d->last * 31 + value;
		} else {
			value = d->last = d->last * 1103515245 + 12345;
			memcpy(data, &value, c->run->io.size);
		}
	}
}

static void serve_mmio(struct client *c, struct devices *d)
{
	uint64_t value = 0;

	if (c->run->mmio.is_write) {
		memcpy(&value, c->run->mmio.data, c->run->mmio.len);
		d->last = d->last * 31 + value;
	} else {
		value = d->last ^ c->run->mmio.phys_addr;
		memcpy(c->run->mmio.data, &value, c->run->mmio.len);
	}
}

struct disturb {
	bool moves, nmis, steps;
	unsigned nr_moves, nr_nmis, nr_in_rep, nr_in_user, nr_halted, nr_shadows;
};

static void look(struct client *c, struct disturb *how)
{
	struct kvm_vcpu_events ev;
	struct kvm_mp_state mp;
	struct kvm_sregs s;
	struct kvm_regs r = client_regs(c);

	assert_int_equal(ioctl(c->vcpu, KVM_GET_VCPU_EVENTS, &ev), 0);
	assert_int_equal(ioctl(c->vcpu, KVM_GET_SREGS, &s), 0);
	assert_int_equal(ioctl(c->vcpu, KVM_GET_MP_STATE, &mp), 0);
	how->nr_in_rep += r.rip == GUEST_CODE + (uint64_t)(sg_rep - sg_start) && r.rcx < 40001;
	how->nr_in_user += s.cs.dpl == 3;
	how->nr_halted += mp.mp_state == KVM_MP_STATE_HALTED;
	how->nr_shadows += ev.interrupt.shadow != 0;
}

static void step_on(struct client *c)
{
	struct kvm_guest_debug dbg = {.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP};

	assert_int_equal(ioctl(c->vcpu, KVM_SET_GUEST_DEBUG, &dbg), 0);
}

/* Run to the end; between exits, disturb. */
static struct guest_result run_guest(struct client *c, struct disturb *how)
{
	struct guest_result result;
	struct devices d = {0};
	unsigned n = 0;
	bool io;
	int r;

	if (how->steps)
		step_on(c);
	for (;;) {
		r = ioctl(c->vcpu, KVM_RUN, 0);
		assert_true(r == 0 || errno == EINTR);
		io = r == 0 && c->run->exit_reason != KVM_EXIT_DEBUG;
		if (io && c->run->exit_reason == KVM_EXIT_IO && c->run->io.port == PORT_END)
			break;
		if (io && c->run->exit_reason == KVM_EXIT_IO)
			serve_io(c, &d);
		else if (io && c->run->exit_reason == KVM_EXIT_MMIO)
			serve_mmio(c, &d);
		else if (io)
			fail_msg("exit reason %u at %#llx", c->run->exit_reason, client_regs(c).rip);
		n++;
		if (how->nmis && n % 3 == 0) {
			assert_int_equal(ioctl(c->vcpu, KVM_NMI, 0), 0);
			how->nr_nmis++;
		}
		/* exits for I/O are many and alike: every eleventh */
		if (!how->moves || (io && n % 11))
			continue;
		if (io)
			finish_exit(c);
		look(c, how);
		move(c);
		how->nr_moves++;
		if (how->steps)
			step_on(c);
	}
	assert_int_equal(c->run->io.size, 1); /* the handler of unexpected vectors writes 4 */
	memcpy(&result, c->mem + GUEST_RESULT, sizeof(result));
	return result;
}

static struct guest_result whole_run(uint64_t rounds, struct disturb *how)
{
	struct guest_result r;
	struct client c;

	open_first(&c);
	guest_registers(&c, GUEST_CODE, rounds);
	r = run_guest(&c, how);
	close_last(&c);
	return r;
}

static void assert_same_result(struct guest_result *a, struct guest_result *b)
{
	assert_memory_equal(a, b, offsetof(struct guest_result, timer));
}

#define ROUNDS 48

static void guest_moved_at_random_kicks_ends_as_undisturbed(void **state)
{
	struct disturb none = {0}, how = {.moves = true};
	struct guest_result quiet = whole_run(ROUNDS, &none), moved;

	assert_int_equal(quiet.exceptions, ROUNDS * 4);
	assert_true(quiet.timer > 0);
	assert_true(quiet.pit > 0);
	alarm_every(1700);
	moved = whole_run(ROUNDS, &how);
	alarm_every(0);
	assert_same_result(&quiet, &moved);
	assert_true(how.nr_moves > 20);
	assert_true(moved.timer > 0);
	assert_true(moved.pit > 0);
}

static void guest_moved_under_nmis_ends_as_undisturbed(void **state)
{
	struct disturb none = {0}, how = {.moves = true, .nmis = true};
	struct guest_result quiet = whole_run(ROUNDS / 2, &none), moved;

	alarm_every(2300);
	moved = whole_run(ROUNDS / 2, &how);
	alarm_every(0);
	assert_same_result(&quiet, &moved);
	/* two can wait at once, more merge */
	assert_in_range(moved.nmi, 1, how.nr_nmis);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(guest_moved_at_random_kicks_ends_as_undisturbed),
		cmocka_unit_test(guest_moved_under_nmis_ends_as_undisturbed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
