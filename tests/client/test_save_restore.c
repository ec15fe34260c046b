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
	struct kvm_enable_cap triple = {.cap = KVM_CAP_X86_TRIPLE_FAULT_EVENT, .args = {1}};
	struct kvm_pit_config pit = {0};

	c->vm = ioctl(c->kvm, KVM_CREATE_VM, 0);
	assert_true(c->vm >= 0);
	client_slot(c, 0, 0, 0, c->mem, c->mem_size);
	assert_int_equal(ioctl(c->vm, KVM_ENABLE_CAP, &payload), 0);
	assert_int_equal(ioctl(c->vm, KVM_ENABLE_CAP, &triple), 0);
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
	int r;

	c->run->immediate_exit = 1;
	r = ioctl(c->vcpu, KVM_RUN, 0);
	/* with a debugger's step the end of the instruction is an exit of its own */
	assert_true(r == 0 ? c->run->exit_reason == KVM_EXIT_DEBUG : errno == EINTR);
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

/* Stepping: an instruction of a loop is a place to be moved at once or twice, not each time. */
static bool seen_enough(struct client *c, uint8_t *visits)
{
	uint64_t at = client_regs(c).rip - GUEST_CODE;

	return at >= 4096 || visits[at]++ >= 2;
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
	uint8_t visits[4096] = {0};
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
		if (!how->moves || (io && n % 11) || (how->steps && seen_enough(c, visits)))
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
	struct disturb none = {0}, how;
	struct guest_result quiet = whole_run(ROUNDS, &none), moved;
	int tries = 5;

	assert_int_equal(quiet.exceptions, ROUNDS * 4);
	assert_true(quiet.timer > 0);
	assert_true(quiet.pit > 0);
	/* A move starts the PIT's period anew: on a busy machine no tick may fit between two. */
	do {
		how = (struct disturb){.moves = true};
		alarm_every(1700);
		moved = whole_run(ROUNDS, &how);
		alarm_every(0);
		assert_same_result(&quiet, &moved);
		assert_true(how.nr_moves > 20);
	} while (moved.pit == 0 && --tries);
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

/*
 * Instruction by instruction: each boundary of one round is a place to be
 * moved at, the shadows of STI and MOV SS and CPL 3 among them. A timer would
 * make the stepping endless: the guest's own stay, with their handlers stepped.
 */
static void guest_moved_at_every_boundary_ends_as_undisturbed(void **state)
{
	struct disturb none = {0}, how = {.moves = true, .steps = true};
	struct guest_result quiet = whole_run(1, &none), moved = whole_run(1, &how);

	assert_same_result(&quiet, &moved);
	assert_true(how.nr_in_rep > 0);
	assert_true(how.nr_in_user > 0);
	assert_true(how.nr_shadows > 0);
}

/* --- moments that a kick hits too rarely --- */

/* mov $200000, %esi; mov $280000, %edi; mov $80000, %ecx; rep movsb; out %al, $f4 */
static void half_done_string_instruction_goes_on(void **state)
{
	static const uint8_t code[] = {0xbe, 0, 0, 0x20, 0,    0xbf, 0, 0,    0x28, 0,
				       0xb9, 0, 0, 8,    0, 0xf3, 0xa4, 0xe6, 0xf4};
	struct client c;
	struct kvm_regs r;
	unsigned halves = 0;

	open_first(&c);
	for (size_t i = 0; i < 0x80000; i++)
		c.mem[0x200000 + i] = (uint8_t)(i * 7 + (i >> 8));
	memcpy(c.mem + 0x8000, code, sizeof(code));
	guest_registers(&c, 0x8000, 0);
	alarm_every(200);
	/* again until a kick was in the middle of it */
	for (unsigned tries = 0; !halves && tries < 2000; tries++) {
		memset(c.mem + 0x280000, 0, 0x80000);
		guest_registers(&c, 0x8000, 0);
		while (ioctl(c.vcpu, KVM_RUN, 0) < 0) {
			assert_int_equal(errno, EINTR);
			r = client_regs(&c);
			if (r.rip != 0x800f || r.rcx == 0 || r.rcx == 0x80000)
				continue;
			assert_int_equal(r.rsi, 0x280000 - r.rcx);
			assert_int_equal(r.rdi, 0x300000 - r.rcx);
			halves++;
			move(&c);
		}
		assert_int_equal(c.run->exit_reason, KVM_EXIT_IO);
		assert_memory_equal(c.mem + 0x280000, c.mem + 0x200000, 0x80000);
		finish_exit(&c);
	}
	alarm_every(0);
	assert_true(halves > 0);
	close_last(&c);
}

/* NMI handler: out %al, $99; iretq. The guest: jmp $ */
static void nmi_blocking_is_kept_until_iret(void **state)
{
	static const uint8_t handler[] = {0xe6, 0x99, 0x48, 0xcf}, spin[] = {0xe6, 0x98, 0xeb, 0xfc};
	struct kvm_vcpu_events ev;
	struct client c;

	open_first(&c);
	memcpy(c.mem + 0x8000, spin, sizeof(spin));
	memcpy(c.mem + 0x9000, handler, sizeof(handler));
	guest_gate(&c, 2, sg_start + (0x9000 - GUEST_CODE));
	guest_registers(&c, 0x8000, 0);
	assert_int_equal(ioctl(c.vcpu, KVM_NMI, 0), 0);
	assert_run_exits(&c, KVM_EXIT_IO);
	assert_int_equal(c.run->io.port, 0x99);
	finish_exit(&c);
	assert_int_equal(ioctl(c.vcpu, KVM_NMI, 0), 0); /* has to wait */
	assert_int_equal(ioctl(c.vcpu, KVM_GET_VCPU_EVENTS, &ev), 0);
	assert_int_equal(ev.nmi.masked, 1);
	assert_int_equal(ev.nmi.pending, 1);
	move(&c);
	/* IRET ends the blocking, the second one is delivered before the guest goes on */
	assert_run_exits(&c, KVM_EXIT_IO);
	assert_int_equal(c.run->io.port, 0x99);
	finish_exit(&c);
	move(&c);
	assert_run_exits(&c, KVM_EXIT_IO);
	assert_int_equal(c.run->io.port, 0x98);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_VCPU_EVENTS, &ev), 0);
	assert_int_equal(ev.nmi.masked, 0);
	close_last(&c);
}

/* An exception on its way (vector 13, error code 0x1234) reaches the handler after a move. */
static void pending_exception_is_delivered_after_the_move(void **state)
{
	/* pop %rax; out %eax, $99 */
	static const uint8_t handler[] = {0x58, 0xe7, 0x99}, spin[] = {0xeb, 0xfe};
	struct kvm_vcpu_events ev;
	struct client c;

	open_first(&c);
	for (unsigned payload = 0; payload < 2; payload++) {
		memcpy(c.mem + 0x8000, spin, sizeof(spin));
		memcpy(c.mem + 0x9000, handler, sizeof(handler));
		guest_gate(&c, 14, sg_start + (0x9000 - GUEST_CODE));
		guest_registers(&c, 0x8000, 0);
		assert_int_equal(ioctl(c.vcpu, KVM_GET_VCPU_EVENTS, &ev), 0);
		ev.flags |= KVM_VCPUEVENT_VALID_PAYLOAD;
		ev.exception.nr = 14;
		ev.exception.has_error_code = 1;
		ev.exception.error_code = 6;
		ev.exception.injected = !payload;
		ev.exception.pending = payload;
		ev.exception_has_payload = payload;
		ev.exception_payload = payload ? 0x12345678 : 0;
		assert_int_equal(ioctl(c.vcpu, KVM_SET_VCPU_EVENTS, &ev), 0);
		move(&c);
		assert_run_exits(&c, KVM_EXIT_IO);
		assert_int_equal(c.run->io.port, 0x99);
		assert_int_equal(*(uint32_t *)((uint8_t *)c.run + c.run->io.data_offset), 6);
		if (payload) {
			struct kvm_sregs s;

			assert_int_equal(ioctl(c.vcpu, KVM_GET_SREGS, &s), 0);
			assert_int_equal(s.cr2, 0x12345678);
		}
		finish_exit(&c);
	}
	close_last(&c);
}

/* A triple fault nobody was told of yet. */
static void pending_triple_fault_shuts_down_after_the_move(void **state)
{
	static const uint8_t spin[] = {0xeb, 0xfe};
	struct kvm_vcpu_events ev;
	struct client c;

	open_first(&c);
	memcpy(c.mem + 0x8000, spin, sizeof(spin));
	guest_registers(&c, 0x8000, 0);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_VCPU_EVENTS, &ev), 0);
	assert_int_equal(ev.triple_fault.pending, 0);
	ev.triple_fault.pending = 1;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_VCPU_EVENTS, &ev), 0);
	move(&c);
	assert_run_exits(&c, KVM_EXIT_SHUTDOWN);
	close_last(&c);
}

/* Without nested=1 no VMX is offered to guests: nothing nested to save, and nobody is told otherwise. */
static void nested_state_is_offered_whole_or_not_at_all(void **state)
{
	struct kvm_nested_state nested = {.size = sizeof(nested)};
	struct client c;
	int size;

	open_first(&c);
	size = ioctl(c.vm, KVM_CHECK_EXTENSION, KVM_CAP_NESTED_STATE);
	if (size) {
		/* the header, and a VMCS and its shadow; outside VMX operation the header alone */
		assert_int_equal(size, sizeof(nested) + 2 * 4096);
		assert_int_equal(ioctl(c.vcpu, KVM_GET_NESTED_STATE, &nested), 0);
		assert_int_equal(nested.size, sizeof(nested));
		assert_int_equal(ioctl(c.vcpu, KVM_SET_NESTED_STATE, &nested), 0);
		close_last(&c);
		return;
	}
	assert_fails(ioctl(c.vcpu, KVM_GET_NESTED_STATE, &nested), EINVAL);
	assert_fails(ioctl(c.vcpu, KVM_SET_NESTED_STATE, &nested), EINVAL);
	close_last(&c);
}

/* MAXPHYADDR of the CPUID that set_cpuid() gives: the host's, 39 here and 52 there. */
static unsigned maxphyaddr(struct client *c)
{
	static struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 e[256];
	} cpuid;

	cpuid.head.nent = 256;
	assert_int_equal(ioctl(c->vcpu, KVM_GET_CPUID2, &cpuid), 0);
	for (uint32_t i = 0; i < cpuid.head.nent; i++)
		if (cpuid.e[i].function == 0x80000008)
			return cpuid.e[i].eax & 0xff;
	fail_msg("no CPUID leaf 80000008h");
	return 0;
}

/* FPU and MSR values nobody would have by chance come back bit for bit. */
static void written_state_is_read_back(void **state)
{
	static const uint32_t msrs[] = {0x174, 0x175, 0x176, 0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084,
					0xc0000100, 0xc0000101, 0xc0000102, 0xc0000103, 0x277, 0x200, 0x201, 0x2ff};
	uint64_t value[] = {0x10, 0x123456789000, 0x7fff12345678, 0x0018000800000000, 0xffffffff81000000,
			    0xffffffff82000000, 0x47700, 0x7f0012345000, 0xffff888012345000, 0x1234567000,
			    0x1f, 0x0007040600070106, 0xc0000006, 0 /* below */, 0xc06};
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e;
	} m = {.head.nmsrs = 1};
	struct kvm_xsave x, y;
	struct client c;

	open_first(&c);
	/* the mask of a variable MTRR refuses the bits from MAXPHYADDR on */
	value[13] = ((1ULL << maxphyaddr(&c)) - 1) & ~0x3fffffffULL;
	value[13] |= 0x800;
	for (size_t i = 0; i < sizeof(msrs) / sizeof(msrs[0]); i++) {
		m.e = (struct kvm_msr_entry){.index = msrs[i], .data = value[i]};
		assert_int_equal(ioctl(c.vcpu, KVM_SET_MSRS, &m), 1);
		m.e.data = 0;
		assert_int_equal(ioctl(c.vcpu, KVM_GET_MSRS, &m), 1);
		assert_int_equal(m.e.data, value[i]);
	}
	assert_int_equal(ioctl(c.vcpu, KVM_GET_XSAVE, &x), 0);
	for (size_t i = 8; i < 104; i++) /* ST0.. and XMM0..15 */
		x.region[i] = (uint32_t)(i * 0x01010101u);
	for (size_t i = 0; i < 8; i++) /* the six bytes beside each ST register are reserved */
		x.region[8 + i * 4 + 2] &= 0xffff, x.region[8 + i * 4 + 3] = 0;
	x.region[6] = 0x1f80;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_XSAVE, &x), 0);
	move(&c);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_XSAVE, &y), 0);
	assert_memory_equal(x.region + 8, y.region + 8, 96 * 4);
	m.e.data = 0;
	assert_int_equal(ioctl(c.vcpu, KVM_GET_MSRS, &m), 1);
	assert_int_equal(m.e.data, 0xc06);
	close_last(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(guest_moved_at_random_kicks_ends_as_undisturbed),
		cmocka_unit_test(guest_moved_under_nmis_ends_as_undisturbed),
		cmocka_unit_test(guest_moved_at_every_boundary_ends_as_undisturbed),
		cmocka_unit_test(half_done_string_instruction_goes_on),
		cmocka_unit_test(nmi_blocking_is_kept_until_iret),
		cmocka_unit_test(pending_exception_is_delivered_after_the_move),
		cmocka_unit_test(pending_triple_fault_shuts_down_after_the_move),
		cmocka_unit_test(nested_state_is_offered_whole_or_not_at_all),
		cmocka_unit_test(written_state_is_read_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
