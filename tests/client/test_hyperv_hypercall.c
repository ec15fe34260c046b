/*
 * Hyper-V's hypercalls: who may make them and how they look, messages and events
 * for the client, IPIs and TLB flushes for sets of virtual processors, input in
 * XMM registers.
 */
#include <poll.h>
#include <sys/eventfd.h>

#include "hyperv.h"
#include "smp.h"

#define FLUSH_SPACE 0x02ull
#define FLUSH_LIST 0x03ull
#define SPIN 0x08ull
#define IPI 0x0bull
#define FLUSH_SPACE_EX 0x13ull
#define FLUSH_LIST_EX 0x14ull
#define IPI_EX 0x15ull
#define POST 0x5cull
#define SIGNAL 0x5dull
#define POST_DEBUG 0x69ull
#define RESET_DEBUG 0x6bull
#define FAST (1ull << 16)
#define VAR(n) ((uint64_t)(n) << 17)
#define REPS(n) ((uint64_t)(n) << 32)
#define REP_START (1ull << 48)

#define INVALID_CODE 2
#define INVALID_INPUT 3
#define INVALID_ALIGNMENT 4
#define INVALID_PARAMETER 5
#define ACCESS_DENIED 6
#define OPERATION_DENIED 8

#define INPUT_AT 0x38000
#define CALL_AT 0x1c00

GUEST_CODE(call_code, 64, "1: vmcall; out %al, $0xe2; jmp 1b");
GUEST_CODE(call_code_32, 32, "1: vmcall; out %al, $0xe2; jmp 1b");

static void knows_hyperv(struct client *c)
{
	memcpy(c->mem + CALL_AT, call_code, GUEST_CODE_SIZE(call_code));
	client_set_msr(c, HV_GUEST_OS_ID, HV_LINUX);
}

static void prepare_call(struct client *c, uint64_t control, uint64_t in, uint64_t out)
{
	struct kvm_regs r = client_regs(c);

	r.rip = CALL_AT;
	r.rsp = 0x8000;
	r.rcx = control;
	r.rdx = in;
	r.r8 = out;
	r.rax = ~0ull;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_REGS, &r), 0);
}

static uint64_t call(struct client *c, uint64_t control, uint64_t in, uint64_t out)
{
	prepare_call(c, control, in, out);
	assert_int_equal(client_next_out(c), 0xe2);
	return client_regs(c).rax;
}

static void set_xmm(struct client *c, const uint64_t *halves, size_t n)
{
	struct kvm_fpu f;

	assert_int_equal(ioctl(c->vcpu, KVM_GET_FPU, &f), 0);
	memset(f.xmm, 0, sizeof(f.xmm));
	memcpy(f.xmm, halves, n * sizeof(*halves));
	assert_int_equal(ioctl(c->vcpu, KVM_SET_FPU, &f), 0);
}

/* --- who may, and in which form --- */

static void calls_obey_cpuid(void **state)
{
	static const struct {
		uint64_t control;
		uint32_t leaf;
		enum cpuid_register reg;
		uint32_t bits;	   /* all of them are needed */
		uint64_t allowed; /* what it gives then */
	} calls[] = {
		{POST, HV_FEATURES, CPUID_EBX, 1u << 4, INVALID_INPUT},
		{SIGNAL, HV_FEATURES, CPUID_EBX, 1u << 5, INVALID_INPUT},
		{RESET_DEBUG, HV_FEATURES, CPUID_EBX, 1u << 11, OPERATION_DENIED},
		{FLUSH_SPACE, HV_HINTS, CPUID_EAX, 1u << 2, 0},
		{FLUSH_LIST | REPS(1), HV_HINTS, CPUID_EAX, 1u << 2, REPS(1)},
		{FLUSH_SPACE_EX, HV_HINTS, CPUID_EAX, 1u << 2 | 1u << 11, 0},
		{FLUSH_LIST_EX | REPS(3), HV_HINTS, CPUID_EAX, 1u << 2 | 1u << 11, REPS(3)},
		{IPI, HV_HINTS, CPUID_EAX, 1u << 10, INVALID_INPUT}, /* vector 0 */
		{IPI_EX, HV_HINTS, CPUID_EAX, 1u << 10 | 1u << 11, 0},
		{SPIN, HV_HINTS, CPUID_EBX, 0xfff, 0},
	};
	struct client c;

	for (size_t i = 0; i < sizeof(calls) / sizeof(*calls); i++) {
		uint32_t bits = calls[i].bits, one = bits & -bits;
		uint32_t without[3] = {~bits, calls[i].reg == CPUID_EAX ? ~one : 0, calls[i].reg == CPUID_EAX ? ~(bits & ~one) | one : 0};

		if (calls[i].control == SPIN)
			without[0] = ~0u; /* never */
		for (int k = 0; k < 4; k++) {
			if (k == 2 && bits == one)
				continue;
			open_hv_apic(&c);
			knows_hyperv(&c);
			hv_enable(&c, KVM_CAP_HYPERV_ENFORCE_CPUID, 1);
			hv_set_cpuid(&c, calls[i].leaf, calls[i].reg, k < 3 ? without[k] : bits);
			assert_int_equal(call(&c, calls[i].control, INPUT_AT, 0), k < 3 ? ACCESS_DENIED : calls[i].allowed);
			client_close(&c);
		}
		/* not enforced, not asked */
		open_hv_apic(&c);
		knows_hyperv(&c);
		hv_set_cpuid(&c, calls[i].leaf, calls[i].reg, 0);
		assert_int_equal(call(&c, calls[i].control, INPUT_AT, 0), calls[i].allowed);
		client_close(&c);
	}
}

static void malformed_calls_are_refused(void **state)
{
	static const struct {
		uint64_t control, status;
	} calls[] = {
		{0xbeef, INVALID_CODE}, {0xbeef | 1ull << 27, INVALID_INPUT}, {SPIN | 1ull << 27, INVALID_INPUT},
		{SPIN | 1ull << 31, INVALID_INPUT}, {SPIN | 1ull << 44, INVALID_INPUT}, {SPIN | 1ull << 63, INVALID_INPUT},
		{SPIN | VAR(1), INVALID_INPUT}, {SPIN | REPS(1), INVALID_INPUT}, {SPIN | REP_START, INVALID_INPUT},
		{FLUSH_SPACE | VAR(1), INVALID_INPUT}, {FLUSH_SPACE | REPS(1), INVALID_INPUT}, {FLUSH_SPACE, 0},
		{FLUSH_LIST, INVALID_INPUT}, {FLUSH_LIST | REPS(2) | REP_START, INVALID_INPUT},
		{FLUSH_LIST | REPS(2) | VAR(1), INVALID_INPUT}, {FLUSH_LIST | REPS(2), REPS(2)},
		{FLUSH_LIST_EX, INVALID_INPUT}, {FLUSH_SPACE_EX | REPS(1), INVALID_INPUT},
		{FLUSH_SPACE_EX | VAR(1), INVALID_INPUT}, /* as many banks as bits: none */
		{IPI | VAR(1), INVALID_INPUT}, {IPI | REPS(1), INVALID_INPUT}, {IPI_EX | REPS(1), INVALID_INPUT},
		{IPI_EX | VAR(1), INVALID_INPUT}, {POST, INVALID_INPUT}, {SIGNAL, INVALID_INPUT}, /* there is no SynIC */
		{POST_DEBUG | FAST, INVALID_PARAMETER}, {POST_DEBUG, OPERATION_DENIED}, {RESET_DEBUG | FAST, OPERATION_DENIED},
	};
	static const uint64_t by_input[] = {FLUSH_SPACE, FLUSH_LIST | REPS(1), FLUSH_SPACE_EX, FLUSH_LIST_EX | REPS(1), IPI, IPI_EX};
	struct client c;

	open_hv_apic(&c);
	knows_hyperv(&c);
	for (size_t i = 0; i < sizeof(calls) / sizeof(*calls); i++)
		assert_int_equal(call(&c, calls[i].control, INPUT_AT, 0), calls[i].status);
	for (size_t i = 0; i < sizeof(by_input) / sizeof(*by_input); i++)
		assert_int_equal(call(&c, by_input[i], 1ull << 40, 0), INVALID_INPUT); /* no memory there */
	assert_int_equal(call(&c, SIGNAL, 1ull << 40, 0), INVALID_ALIGNMENT);
	assert_int_equal(call(&c, SIGNAL, INPUT_AT + 4, 0), INVALID_ALIGNMENT);
	/* a reserved half of the first parameter; vectors of exceptions */
	assert_int_equal(call(&c, IPI | FAST, 1ull << 32 | 0x31, 1), INVALID_INPUT);
	assert_int_equal(call(&c, IPI | FAST, 15, 1), INVALID_INPUT);
	assert_int_equal(call(&c, IPI | FAST, 256, 1), INVALID_INPUT);
	client_close(&c);

	/* no APIC of the kernel's */
	open_hv(&c, true, ~0u);
	knows_hyperv(&c);
	assert_int_equal(call(&c, IPI | FAST, 0x31, 1), INVALID_INPUT);
	assert_int_equal(call(&c, IPI_EX, INPUT_AT, 0), INVALID_INPUT);
	client_close(&c);
}

static void undefined_where_hyperv_says_so(void **state)
{
	struct kvm_sregs s;
	struct client c;

	open_hv_apic(&c);
	knows_hyperv(&c);
	hv_enable(&c, KVM_CAP_HYPERV_ENFORCE_CPUID, 1);
	hv_set_cpuid(&c, HV_FEATURES, CPUID_EDX, ~(1u << 4));
	prepare_call(&c, FLUSH_SPACE | FAST, 0, 0);
	assert_int_equal(client_next_out(&c), 6);
	/* it is a fault: the frame of ring 0's #UD has where the call is */
	assert_int_equal(*(uint64_t *)(c.mem + client_regs(&c).rsp), CALL_AT);
	assert_int_equal(call(&c, IPI | FAST, 0x31, 0), 0); /* that one needs no XMM register */
	client_close(&c);

	open_hv_apic(&c);
	knows_hyperv(&c);
	prepare_call(&c, SPIN, 0, 0);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_SREGS, &s), 0);
	s.cs = paging_segment(0x18, 11, 3, true);
	s.ss = paging_segment(0x20, 3, 3, false);
	assert_int_equal(ioctl(c.vcpu, KVM_SET_SREGS, &s), 0);
	assert_int_equal(client_next_out(&c), 6);
	assert_int_equal(*(uint64_t *)(c.mem + client_regs(&c).rsp), CALL_AT);
	client_close(&c);
}

/* --- for the client --- */

static void messages_and_events_leave_to_the_client(void **state)
{
	uint64_t *input;
	struct client c;

	open_hv_apic(&c);
	knows_hyperv(&c);
	hv_enable(&c, KVM_CAP_HYPERV_SYNIC2, 0);
	prepare_call(&c, POST, INPUT_AT, 0x39000);
	assert_run_exits(&c, KVM_EXIT_HYPERV);
	assert_int_equal(c.run->hyperv.type, KVM_EXIT_HYPERV_HCALL);
	assert_int_equal(c.run->hyperv.u.hcall.input, POST);
	assert_int_equal(c.run->hyperv.u.hcall.params[0], INPUT_AT);
	assert_int_equal(c.run->hyperv.u.hcall.params[1], 0x39000);
	c.run->hyperv.u.hcall.result = 0x1234567890;
	assert_int_equal(client_next_out(&c), 0xe2);
	assert_int_equal(client_regs(&c).rax, 0x1234567890);

	/* an event has its connection in the input; flag numbers are the client's business too */
	input = (uint64_t *)(c.mem + INPUT_AT);
	for (int fast = 0; fast < 2; fast++) {
		*input = 3ull << 32 | 5;
		prepare_call(&c, SIGNAL | (fast ? FAST : 0), fast ? *input : INPUT_AT, 0);
		assert_run_exits(&c, KVM_EXIT_HYPERV);
		assert_int_equal(c.run->hyperv.u.hcall.params[0], 3ull << 32 | 5);
		c.run->hyperv.u.hcall.result = 18;
		assert_int_equal(client_next_out(&c), 0xe2);
		assert_int_equal(client_regs(&c).rax, 18);
	}
	assert_int_equal(call(&c, SIGNAL | FAST, 1 << 24, 0), INVALID_INPUT);
	assert_int_equal(call(&c, SIGNAL | FAST, 1ull << 48, 0), INVALID_INPUT);
	/* the debugger's, once the client has said that it takes them */
	client_set_msr(&c, HV_SYNDBG_OPTIONS, 4);
	prepare_call(&c, POST_DEBUG, INPUT_AT, 0);
	assert_run_exits(&c, KVM_EXIT_HYPERV);
	assert_int_equal(c.run->hyperv.u.hcall.input, POST_DEBUG);
	client_close(&c);
}

static uint64_t ticks(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	uint64_t n = 0;

	if (poll(&p, 1, 0) == 1)
		assert_int_equal(read(fd, &n, sizeof(n)), sizeof(n));
	return n;
}

static void events_reach_their_eventfds(void **state)
{
	struct kvm_hyperv_eventfd e = {.fd = -1};
	int fd[5];
	struct client c;

	open_hv_apic(&c);
	knows_hyperv(&c);
	hv_enable(&c, KVM_CAP_HYPERV_SYNIC2, 0);
	assert_fails(ioctl(c.vm, KVM_HYPERV_EVENTFD, &e), EBADF);
	e.fd = c.vm;
	assert_fails(ioctl(c.vm, KVM_HYPERV_EVENTFD, &e), EINVAL);
	e.flags = 2;
	assert_fails(ioctl(c.vm, KVM_HYPERV_EVENTFD, &e), EINVAL);
	e.flags = 0;
	e.conn_id = 1 << 24;
	assert_fails(ioctl(c.vm, KVM_HYPERV_EVENTFD, &e), EINVAL);
	/* in no order of ids */
	for (int i = 0; i < 5; i++) {
		fd[i] = eventfd(0, EFD_CLOEXEC);
		e = (struct kvm_hyperv_eventfd){.conn_id = (uint32_t)(i * 7 % 5) * 1000, .fd = fd[i]};
		assert_int_equal(ioctl(c.vm, KVM_HYPERV_EVENTFD, &e), 0);
		assert_fails(ioctl(c.vm, KVM_HYPERV_EVENTFD, &e), EEXIST);
	}
	for (int i = 0; i < 5; i++)
		for (int k = 0; k <= i; k++)
			assert_int_equal(call(&c, SIGNAL | FAST, (uint64_t)(i * 7 % 5) * 1000, 0), 0);
	for (int i = 0; i < 5; i++)
		assert_int_equal(ticks(fd[i]), i + 1);
	/* every second one goes, and is the client's again */
	for (int i = 0; i < 5; i += 2) {
		e = (struct kvm_hyperv_eventfd){.conn_id = (uint32_t)(i * 7 % 5) * 1000, .flags = KVM_HYPERV_EVENTFD_DEASSIGN};
		assert_int_equal(ioctl(c.vm, KVM_HYPERV_EVENTFD, &e), 0);
		assert_fails(ioctl(c.vm, KVM_HYPERV_EVENTFD, &e), ENOENT);
	}
	for (int i = 0; i < 5; i++) {
		prepare_call(&c, SIGNAL | FAST, (uint64_t)(i * 7 % 5) * 1000, 0);
		if (i % 2)
			assert_int_equal(client_next_out(&c), 0xe2);
		else
			assert_run_exits(&c, KVM_EXIT_HYPERV);
		if (!(i % 2))
			assert_int_equal(client_next_out(&c), 0xe2);
		assert_int_equal(ticks(fd[i]), i % 2);
	}
	for (int i = 0; i < 5; i++)
		close(fd[i]);
	client_close(&c);
}

/* EDX:EAX in and out, EBX:ECX and EDI:ESI. */
static void calls_of_32_bit_code(void **state)
{
	struct kvm_regs r = {.rip = CALL_AT, .rsp = 0x8000, .rflags = 2, .rax = POST, .rdx = 0, .rbx = 1, .rcx = 0x2000,
			     .rdi = 3, .rsi = 0x4000};
	static struct cpuid all;
	struct client c;

	client_open_vm(&c, 2 << 20);
	assert_int_equal(ioctl(c.vm, KVM_CREATE_IRQCHIP, 0), 0);
	client_add_vcpu(&c);
	hv_supported(&c, &all);
	assert_int_equal(ioctl(c.vcpu, KVM_SET_CPUID2, &all), 0);
	client_set_msr(&c, HV_GUEST_OS_ID, HV_LINUX);
	hv_enable(&c, KVM_CAP_HYPERV_SYNIC, 0);
	client_flat_mode(&c, CALL_AT, call_code_32, GUEST_CODE_SIZE(call_code_32));
	assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	assert_run_exits(&c, KVM_EXIT_HYPERV);
	assert_int_equal(c.run->hyperv.u.hcall.input, POST);
	assert_int_equal(c.run->hyperv.u.hcall.params[0], 0x100002000);
	assert_int_equal(c.run->hyperv.u.hcall.params[1], 0x300004000);
	c.run->hyperv.u.hcall.result = 0x500000007;
	assert_int_equal(client_next_out(&c), 0xe2);
	assert_int_equal(client_regs(&c).rax, 7);
	assert_int_equal(client_regs(&c).rdx, 5);
	client_close(&c);
}

/* --- sets of virtual processors --- */

#define CPUS 4

/* vCPU 0 calls; the VP indices of all are `vp`. */
static void open_vps(struct smp *s, struct client *c, const uint32_t vp[CPUS])
{
	static struct cpuid all;

	smp_open(s, CPUS, 2 << 20, true);
	*c = smp_client(s, 0);
	paging_start(c, PAGING_LONG, 0, 0, 1 << 9, 0);
	hv_supported(c, &all);
	for (int i = 0; i < CPUS; i++) {
		struct client one = smp_client(s, i);
		struct kvm_lapic_state lapic;

		assert_int_equal(ioctl(one.vcpu, KVM_SET_CPUID2, &all), 0);
		assert_int_equal(ioctl(one.vcpu, KVM_GET_LAPIC, &lapic), 0);
		lapic.regs[0xf1] = 1;
		assert_int_equal(ioctl(one.vcpu, KVM_SET_LAPIC, &lapic), 0);
		client_set_msr(&one, HV_VP_INDEX, vp[i]);
	}
	knows_hyperv(c);
}

/* Which vCPUs have the vector in IRR; it is taken out. */
static unsigned has_vector(struct smp *s, int vector)
{
	unsigned mask = 0;

	for (int i = 0; i < CPUS; i++) {
		struct kvm_lapic_state l;
		char *word = l.regs + 0x200 + vector / 32 * 16;
		uint32_t bits;

		assert_int_equal(ioctl(s->cpu[i].fd, KVM_GET_LAPIC, &l), 0);
		memcpy(&bits, word, sizeof(bits));
		mask |= (bits >> vector % 32 & 1) << i;
		bits &= ~(1u << vector % 32);
		memcpy(word, &bits, sizeof(bits));
		assert_int_equal(ioctl(s->cpu[i].fd, KVM_SET_LAPIC, &l), 0);
	}
	return mask;
}

static void ipis_reach_the_named_processors(void **state)
{
	static const uint32_t in_order[CPUS] = {0, 1, 2, 3}, mixed[CPUS] = {0, 70, 1, 700};
	struct {
		uint32_t vector, reserved;
		uint64_t format, valid, bank[3];
	} *ex;
	struct smp s;
	struct client c;

	open_vps(&s, &c, in_order);
	ex = (void *)(c.mem + INPUT_AT);
	assert_int_equal(call(&c, IPI | FAST, 0x81, 0xe), 0);
	assert_int_equal(has_vector(&s, 0x81), 0xe);
	*(uint64_t *)(c.mem + INPUT_AT) = 0x82;
	*(uint64_t *)(c.mem + INPUT_AT + 8) = 5;
	assert_int_equal(call(&c, IPI, INPUT_AT, 0), 0);
	assert_int_equal(has_vector(&s, 0x82), 5);
	smp_close(&s);

	open_vps(&s, &c, mixed);
	ex = (void *)(c.mem + INPUT_AT);
	assert_int_equal(call(&c, IPI | FAST, 0x81, 2), 0);
	assert_int_equal(has_vector(&s, 0x81), 4); /* VP 1 is vCPU 2 */
	ex->vector = 0x83;
	ex->format = 0;
	ex->valid = 1 | 1 << 1 | 1 << 10;
	ex->bank[0] = 2;
	ex->bank[1] = 1ull << 6;
	ex->bank[2] = 1ull << (700 - 640);
	assert_int_equal(call(&c, IPI_EX | VAR(3), INPUT_AT, 0), 0);
	assert_int_equal(has_vector(&s, 0x83), 0xe);
	ex->valid = 1ull << 10 | 1ull << 40; /* bank 40 is beyond any VP */
	ex->bank[0] = 1ull << (700 - 640);
	ex->bank[1] = ~0ull;
	assert_int_equal(call(&c, IPI_EX | VAR(2), INPUT_AT, 0), 0);
	assert_int_equal(has_vector(&s, 0x83), 8);
	ex->valid = 0;
	assert_int_equal(call(&c, IPI_EX, INPUT_AT, 0), 0); /* nobody */
	assert_int_equal(has_vector(&s, 0x83), 0);
	ex->format = 1; /* all */
	assert_int_equal(call(&c, IPI_EX, INPUT_AT, 0), 0);
	assert_int_equal(has_vector(&s, 0x83), 0xf);
	/* fast: valid mask and banks in XMM registers */
	set_xmm(&c, (uint64_t[]){1 | 1 << 1 | 1 << 10, 1, 1ull << 6, 0}, 4);
	assert_int_equal(call(&c, IPI_EX | FAST | VAR(3), 0x84, 0), 0);
	assert_int_equal(has_vector(&s, 0x84), 3);
	/* more than six registers hold */
	set_xmm(&c, (uint64_t[]){0xfff}, 1);
	assert_int_equal(call(&c, IPI_EX | FAST | VAR(12), 0x84, 0), INVALID_INPUT);
	smp_close(&s);
}

/*
 * The flush: a vCPU reads a page through a translation that is changed behind
 * its back. What it sees before the flush is its own affair, after it the new page.
 */
/* rbx not 0: it is written to the window's entry first. */
GUEST_CODE(use_window, 64, "1: test %rbx, %rbx; jz 2f; mov %rbx, 0x13280; jmp 3f\n"
			   "2: mov 0x50000, %rax\n"
			   "3: out %al, $0xe3; jmp 1b");

static uint64_t window(struct client *c, uint64_t entry)
{
	struct kvm_regs r = client_regs(c);

	r.rip = 0x1e00;
	r.rbx = entry;
	r.rflags = 2 | EFLAGS_IOPL3;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_REGS, &r), 0);
	assert_int_equal(client_next_out(c), 0xe3);
	return client_regs(c).rax;
}

static void window_shows(struct client *c, uint32_t page)
{
	*(uint64_t *)(c->mem + page) = page;
	(void)window(c, page | PG_ALL);
}

static uint64_t look(struct client *c)
{
	return window(c, 0);
}

static void flushes_reach_the_named_processors(void **state)
{
	static const uint32_t vp[CPUS] = {0, 100, 2, 3};
	static const struct kvm_mp_state run = {.mp_state = KVM_MP_STATE_RUNNABLE};
	uint64_t *in;
	struct smp s;
	struct client c, other;

	open_vps(&s, &c, vp);
	in = (uint64_t *)(c.mem + INPUT_AT);
	other = smp_client(&s, 1);
	memcpy(c.mem + 0x1e00, use_window, GUEST_CODE_SIZE(use_window));
	paging_start(&other, PAGING_LONG, 0, 0, 1 << 9, 0);
	assert_int_equal(ioctl(other.vcpu, KVM_SET_MP_STATE, &run), 0);
	for (uint32_t i = 0; i < 8; i++) {
		uint32_t before = 0x60000 + i * 0x2000, after = before + 0x1000;
		uint64_t control = FLUSH_SPACE, p0 = INPUT_AT, p1 = 0, reps = 0;

		window_shows(&c, before);
		memset(in, 0, 64);
		assert_int_equal(call(&c, FLUSH_SPACE, INPUT_AT, 0), 0); /* a mask of none: all */
		assert_int_equal(look(&c), before);
		assert_int_equal(look(&other), before);
		window_shows(&c, after);
		switch (i) {
		case 0: in[1] = 1; break;		      /* HV_FLUSH_ALL_PROCESSORS */
		case 1: control = FLUSH_LIST | REPS(2); reps = REPS(2); in[1] = 1; break;
		case 2: control = FLUSH_SPACE_EX; in[2] = 1; break; /* HV_GENERIC_SET_ALL */
		case 3: /* VP 100 and VP 0 */
			control = FLUSH_LIST_EX | VAR(2) | REPS(1);
			reps = REPS(1);
			in[3] = 3;
			in[4] = 1;
			in[5] = 1ull << 36;
			break;
		case 4: control |= FAST; p0 = 0; p1 = 1; break;
		case 5: /* the same in XMM registers: format, valid mask, banks */
			control = FLUSH_SPACE_EX | FAST | VAR(2);
			p0 = p1 = 0;
			set_xmm(&c, (uint64_t[]){0, 3, 1, 1ull << 36}, 4);
			break;
		case 6: control = FLUSH_SPACE_EX | FAST; p0 = p1 = 0; set_xmm(&c, (uint64_t[]){1}, 1); break;
		default: control |= FAST; p0 = p1 = 0; set_xmm(&c, (uint64_t[]){0}, 1); break;
		}
		assert_int_equal(call(&c, control, p0, p1), reps);
		assert_int_equal(look(&c), after);
		assert_int_equal(look(&other), after);
	}
	smp_close(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(calls_obey_cpuid),
		cmocka_unit_test(malformed_calls_are_refused),
		cmocka_unit_test(undefined_where_hyperv_says_so),
		cmocka_unit_test(messages_and_events_leave_to_the_client),
		cmocka_unit_test(events_reach_their_eventfds),
		cmocka_unit_test(calls_of_32_bit_code),
		cmocka_unit_test(ipis_reach_the_named_processors),
		cmocka_unit_test(flushes_reach_the_named_processors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
