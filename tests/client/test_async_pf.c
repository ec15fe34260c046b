/*
 * Asynchronous page faults (MSR_KVM_ASYNC_PF_EN, _INT, _ACK): a guest touches
 * pages behind a userfaultfd. It is told which are not there, goes on, and is
 * told when they are. The client brings them, in the thread that runs the vCPU
 * wherever nothing may wait.
 *
 * The 64-bit guest's handlers keep in registers:
 *   r14 pages not there   r8  the last one's token, all from 32004h on
 *   r12 tokens of ready pages   r13 the last one, all from 33004h on
 *   r15 length of the instruction to skip; 0: wait for the page
 */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "guest_code.h"
#include "paging.h"
#include "state.h"

#define MSR_EN 0x4b564d02
#define MSR_INT 0x4b564d06
#define EN (1 | 8) /* enabled, ready pages by interrupt */
#define SEND_ALWAYS 2
#define MSR_APICBASE 0x1b
#define X2APIC_ENABLE 0xc00
#define SPIV 0xf0
#define EFLAGS_IF 0x200u

#define AT_HANDLERS 0xa000
#define AT_APF 0x30000
#define AT_ABSENT_TOKENS 0x32000
#define AT_READY_TOKENS 0x33000
#define DATA_GPA 0x100000
#define PAGES 64
#define PAGE 4096
#define FILL 0x5a5a5a5a
#define READY_VECTOR 0x39 /* goes before the other */
#define OTHER_VECTOR 0x38
#define BROADCAST 0xffffffffu
#define THREADS 16 /* that wait for pages, at least 1 and less than PAGES */
#define DEADLOCK_S 60

#define EOI "mov $0x80b, %ecx; xor %eax, %eax; xor %edx, %edx; wrmsr\n"
#define ACK "mov $0x4b564d07, %ecx; mov $1, %eax; xor %edx, %edx; wrmsr\n"

/* 50h told; 5eh a page fault of the guest's own. */
GUEST_CODE(on_fault, 64, "pop %rax; mov %cr2, %r8\n"
			 "cmpl $1, 0x30000; jne 9f; test %eax, %eax; jnz 9f\n"
			 "movl $0, 0x30000; inc %r14; mov %r8d, 0x32000(,%r14,4)\n"
			 "outb %al, $0x50\n"
			 "test %r15, %r15; jz 1f; add %r15, (%rsp); iretq\n"
			 "1: cmp %r8d, %r13d; je 2f; sti; hlt; cli; jmp 1b\n 2: iretq\n"
			 "9: outb %al, $0x5e");
GUEST_CODE(on_ready, 64, "mov 0x30004, %r13d; movl $0, 0x30004; inc %r12; mov %r13d, 0x33000(,%r12,4)\n"
			 EOI ACK "iretq");
GUEST_CODE(on_other, 64, EOI "outb %al, $0x53\n iretq");

GUEST_CODE(touch, 64, "mov 0x100000, %ebx\n outb %al, $0x51\n 1: pause; jmp 1b");
#define TOUCH_BYTES 7
GUEST_CODE(twice, 64, "mov 0x100000, %ebx\n mov 0x100000, %ebx\n outb %al, $0x51\n 1: pause; jmp 1b");
/* rdi pages, then until r11 tokens of ready ones have come */
GUEST_CODE(touch_all, 64, "mov $0x100000, %esi\n 1: mov (%rsi), %ebx\n add $0x1000, %rsi; dec %rdi; jnz 1b\n"
			  "outb %al, $0x51\n 2: pause; cmp %r11, %r12; jne 2b\n outb %al, $0x52\n 1: jmp 1b");
#define TOUCH_ALL_BYTES 2
GUEST_CODE(spin, 64, "1: pause; jmp 1b");

static int uffd;
static uint8_t *data;

static void put_handler(struct client *c, int vector, const uint8_t *code, const uint8_t *end)
{
	uint32_t at = AT_HANDLERS + 0x100 * (uint32_t)(vector & 0xf);
	uint64_t *gate = (uint64_t *)(c->mem + AT_IDT) + 2 * vector;

	memcpy(c->mem + at, code, (size_t)(end - code));
	gate[0] = at | 0x080000 | 0x8e0000000000ULL;
	gate[1] = 0;
}

static void open_vm(struct client *c)
{
	struct kvm_pit_config pit = {0};

	client_open_vm(c, 1 << 20);
	assert_int_equal(ioctl(c->vm, KVM_CREATE_IRQCHIP, 0), 0);
	assert_int_equal(ioctl(c->vm, KVM_CREATE_PIT2, &pit), 0);
	client_add_vcpu(c);
	client_slot(c, 1, 0, DATA_GPA, data, PAGES * PAGE);
}

static void enable_apic(struct client *c)
{
	struct kvm_lapic_state l;

	client_set_msr(c, MSR_APICBASE, client_msr(c, MSR_APICBASE) | X2APIC_ENABLE);
	assert_int_equal(ioctl(c->vcpu, KVM_GET_LAPIC, &l), 0);
	l.regs[SPIV] = 0xff;
	l.regs[SPIV + 1] = 1;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_LAPIC, &l), 0);
}

static void start(struct client *c, const uint8_t *code, const uint8_t *end, unsigned cpl, uint64_t skip, uint64_t en)
{
	struct kvm_regs r;

	paging_start(c, PAGING_LONG, cpl, 0, 0, 0);
	memcpy(c->mem + AT_CODE, code, (size_t)(end - code));
	put_handler(c, 14, on_fault, on_fault_end);
	put_handler(c, READY_VECTOR, on_ready, on_ready_end);
	put_handler(c, OTHER_VECTOR, on_other, on_other_end);
	enable_apic(c);
	r = client_regs(c);
	r.rflags |= EFLAGS_IF;
	r.r15 = skip;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_REGS, &r), 0);
	client_set_msr(c, MSR_INT, READY_VECTOR);
	client_set_msr(c, MSR_EN, en);
}

/* All of the data missing. */
static bool open_data(void)
{
	static uint8_t *place = (uint8_t *)0x200000000000;
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register r = {.mode = UFFDIO_REGISTER_MODE_MISSING, .range.len = PAGES * PAGE};

	uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api))
		return false;
	/* never where some was before: a touch that waited there ends as one of the new memory */
	place += 1 << 20;
	data = mmap(place, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_equal(data, place);
	r.range.start = (uintptr_t)data;
	assert_int_equal(ioctl(uffd, UFFDIO_REGISTER, &r), 0);
	alarm(DEADLOCK_S);
	return true;
}

static void close_data(void)
{
	alarm(0);
	close(uffd); /* whoever waits for a page waits no more */
	munmap(data, PAGES * PAGE);
}

#define OPEN_OR_SKIP()            \
	do {                      \
		if (!open_data()) \
			skip();   \
	} while (0)

#define START(c, code, cpl, skip, en)                                       \
	do {                                                                \
		open_vm(c);                                                 \
		start(c, code, code##_end, cpl, skip, AT_APF | (en)); \
	} while (0)

/* The next page that somebody waits for. */
static uint64_t wanted_page(void)
{
	struct pollfd p = {.fd = uffd, .events = POLLIN};
	struct uffd_msg m;

	assert_int_equal(poll(&p, 1, -1), 1);
	assert_int_equal(read(uffd, &m, sizeof(m)), sizeof(m));
	assert_int_equal(m.event, UFFD_EVENT_PAGEFAULT);
	return m.arg.pagefault.address & ~(uint64_t)(PAGE - 1);
}

static bool somebody_waits(void)
{
	struct pollfd p = {.fd = uffd, .events = POLLIN};

	return poll(&p, 1, 0) == 1;
}

static void bring(uint64_t page)
{
	static uint32_t fill[PAGE / 4];
	struct uffdio_copy copy = {.dst = page, .src = (uintptr_t)fill, .len = PAGE};

	for (size_t i = 0; i < PAGE / 4; i++)
		fill[i] = FILL;
	assert_int_equal(ioctl(uffd, UFFDIO_COPY, &copy), 0);
}

static uint32_t guest32(struct client *c, uint32_t at)
{
	return *(volatile uint32_t *)(c->mem + at);
}

static void msi(struct client *c, uint32_t vector)
{
	struct kvm_msi m = {.address_lo = 0xfee00000, .data = vector};

	assert_int_equal(ioctl(c->vm, KVM_SIGNAL_MSI, &m), 1);
}

/* --- pages --- */

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
	msi(i->c, OTHER_VECTOR);
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
		msi(c, OTHER_VECTOR);
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

/* --- the end of it --- */

static void disabled_meanwhile_nothing_is_told_any_more(void **state)
{
	struct kvm_regs r;
	struct client c;

	OPEN_OR_SKIP();
	START(&c, touch, 3, TOUCH_BYTES, EN);
	assert_int_equal(client_next_out(&c), 0x50);
	client_set_msr(&c, MSR_EN, 0);
	bring(wanted_page());
	assert_int_equal(client_next_out(&c), 0x51);
	msi(&c, OTHER_VECTOR); /* what is to come has come */
	assert_int_equal(client_next_out(&c), 0x53);
	r = client_regs(&c);
	assert_int_equal(r.r12, 1); /* the broadcast */
	assert_int_equal(guest32(&c, AT_APF + 4), 0);
	client_set_msr(&c, MSR_EN, AT_APF | EN);
	msi(&c, OTHER_VECTOR);
	assert_int_equal(client_next_out(&c), 0x53);
	msi(&c, OTHER_VECTOR);
	assert_int_equal(client_next_out(&c), 0x53);
	r = client_regs(&c);
	assert_int_equal(r.r12, 2); /* another broadcast, no token of before */
	assert_int_equal(r.r13, BROADCAST);
	client_close(&c);
	close_data();
}

static void a_slot_may_go_meanwhile(void **state)
{
	struct client c;

	OPEN_OR_SKIP();
	START(&c, touch, 3, 0, EN);
	assert_int_equal(client_next_out(&c), 0x50);
	client_slot(&c, 1, 0, DATA_GPA, data, 0);
	bring(wanted_page());
	assert_run_exits(&c, KVM_EXIT_MMIO); /* told that it is there, the guest tries again */
	assert_int_equal(c.run->mmio.phys_addr, DATA_GPA);
	assert_int_equal(client_regs(&c).r13, client_regs(&c).r8);
	client_close(&c);
	close_data();
}

static void a_vm_may_go_meanwhile(void **state)
{
	struct client c;
	uint64_t page = 0;

	/* brought before the VM goes, after, never */
	for (int n = 0; n < 3 * (THREADS + 4); n++) {
		OPEN_OR_SKIP();
		START(&c, touch, 3, 0, EN);
		assert_int_equal(client_next_out(&c), 0x50);
		page = wanted_page();
		if (n % 3 == 0)
			bring(page);
		client_close(&c);
		if (n % 3 == 1)
			bring(page);
		close_data();
	}
}

static void a_mapping_may_go_meanwhile(void **state)
{
	struct uffdio_range range;
	struct client c;

	OPEN_OR_SKIP();
	START(&c, touch, 3, 0, EN);
	assert_int_equal(client_next_out(&c), 0x50);
	range = (struct uffdio_range){.start = wanted_page(), .len = PAGE};
	assert_int_equal(munmap(data, PAGE), 0);
	assert_int_equal(ioctl(uffd, UFFDIO_WAKE, &range), 0); /* whoever waits finds nothing there */
	assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EFAULT); /* the guest tries again, as after any page */
	assert_int_equal(client_regs(&c).r13, client_regs(&c).r8);
	client_close(&c);
	close_data();
}

static void run_one_guest(void)
{
	struct client c;

	assert_true(open_data());
	START(&c, touch, 3, 0, EN);
	assert_int_equal(client_next_out(&c), 0x50);
	bring(wanted_page());
	assert_int_equal(client_next_out(&c), 0x51);
	client_close(&c);
	close_data();
}

static void a_forked_child_has_its_own(void **state)
{
	struct client c;
	int status;
	pid_t child;

	OPEN_OR_SKIP();
	START(&c, touch, 3, 0, EN);
	assert_int_equal(client_next_out(&c), 0x50);
	child = fork();
	if (child == 0) {
		alarm(DEADLOCK_S);
		run_one_guest();
		_exit(0);
	}
	assert_true(child > 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	bring(wanted_page());
	assert_int_equal(client_next_out(&c), 0x51);
	client_close(&c);
	close_data();
}

#define ALLOW(name) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##name, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

/* What KVM_RUN needs (docs/ci.md), and what this client needs to bring a page. */
static void confine(void)
{
	struct sock_filter rules[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		ALLOW(futex), ALLOW(mincore), ALLOW(mmap), ALLOW(munmap), ALLOW(madvise), ALLOW(membarrier),
		ALLOW(rt_sigprocmask), ALLOW(rt_sigreturn), ALLOW(exit_group), ALLOW(poll), ALLOW(read), ALLOW(ioctl),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	};
	struct sock_fprog program = {sizeof(rules) / sizeof(rules[0]), rules};

	assert_int_equal(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	assert_int_equal(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

static void run_confined_guest(void)
{
	struct kvm_regs r;
	struct client c;

	assert_true(open_data());
	START(&c, touch_all, 3, 0, EN);
	r = client_regs(&c);
	r.rdi = 2;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	assert_int_equal(client_next_out(&c), 0x50); /* mappings have been looked at */
	bring(wanted_page());
	confine();
	assert_int_equal(client_next_out(&c), 0x50);
	bring(wanted_page());
	assert_int_equal(client_next_out(&c), 0x51);
	_exit(0);
}

static void a_confined_client_needs_mincore_and_no_more(void **state)
{
	int status;
	pid_t child;

	if (getenv("SANITIZE"))
		skip(); /* its runtime makes system calls of its own */
	OPEN_OR_SKIP();
	close_data();
	child = fork();
	if (child == 0)
		run_confined_guest();
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
}

static void init_turns_it_off(void **state)
{
	uint8_t *top = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct client c;

	assert_true(top != MAP_FAILED);
	memcpy(top + 0xff0, "\xe6\x94\xf4", 3); /* out 94h, al; hlt */
	OPEN_OR_SKIP();
	START(&c, touch, 3, 0, EN);
	client_slot(&c, 2, 0, 0xfffff000, top, PAGE);
	assert_int_equal(client_next_out(&c), 0x50);
	msi(&c, 0x4500); /* INIT: the boot processor begins again */
	assert_int_equal(client_next_out(&c), 0x94);
	assert_int_equal(client_msr(&c, MSR_EN), 0);
	assert_int_equal(client_msr(&c, MSR_INT), 0);
	bring(wanted_page());
	client_close(&c);
	close_data();
	munmap(top, PAGE);
}

/* What was missing in one VM is none of the other's business: it tells the guest to try everything again. */
static void moved_to_another_vm_the_guest_tries_again(void **state)
{
	static struct vm_state s;
	struct client c, d;

	OPEN_OR_SKIP();
	START(&c, twice, 3, TOUCH_BYTES, EN);
	assert_int_equal(client_next_out(&c), 0x50);
	c.run->immediate_exit = 1; /* the OUT is over */
	assert_fails(ioctl(c.vcpu, KVM_RUN, 0), EINTR);
	state_save(&c, &s);
	open_vm(&d);
	memcpy(d.mem, c.mem, c.mem_size);
	client_all_cpuid(&d);
	state_restore(&d, &s);
	client_close(&c);
	bring(wanted_page());
	assert_int_equal(client_msr(&d, MSR_EN), AT_APF | EN);
	assert_int_equal(client_next_out(&d), 0x51);
	msi(&d, OTHER_VECTOR);
	assert_int_equal(client_next_out(&d), 0x53);
	assert_int_equal(client_regs(&d).r12, 2);
	assert_int_equal(client_regs(&d).r13, BROADCAST);
	client_close(&d);
	close_data();
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
		cmocka_unit_test(disabled_meanwhile_nothing_is_told_any_more),
		cmocka_unit_test(a_slot_may_go_meanwhile),
		cmocka_unit_test(a_vm_may_go_meanwhile),
		cmocka_unit_test(a_mapping_may_go_meanwhile),
		cmocka_unit_test(a_forked_child_has_its_own),
		cmocka_unit_test(a_confined_client_needs_mincore_and_no_more),
		cmocka_unit_test(init_turns_it_off),
		cmocka_unit_test(moved_to_another_vm_the_guest_tries_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
