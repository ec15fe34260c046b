/*
 * A guest whose data lies behind a userfaultfd, with asynchronous page faults
 * (MSR_KVM_ASYNC_PF_EN, _INT, _ACK) and handlers for them. It touches pages, is
 * told which are not there, goes on, and is told when they are. The client brings
 * them, in the thread that runs the vCPU wherever nothing may wait.
 *
 * The 64-bit guest's handlers keep in registers:
 *   r14 pages not there   r8  the last one's token, all from 32004h on
 *   r12 tokens of ready pages   r13 the last one, all from 33004h on
 *   r15 length of the instruction to skip; 0: wait for the page
 */
#ifndef TESTS_ASYNC_PF_H
#define TESTS_ASYNC_PF_H

#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/syscall.h>

#include "x2apic.h"

#define MSR_EN 0x4b564d02
#define MSR_INT 0x4b564d06
#define EN (1 | 8) /* enabled, ready pages by interrupt */
#define SEND_ALWAYS 2
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
#define THREADS 16 /* of KVM's that wait for pages, at least 1 and less than PAGES */
#define DEADLOCK_S 60


/* 50h told; 5eh a page fault of the guest's own. */
GUEST_CODE(on_fault, 64, "pop %rax; mov %cr2, %r8\n"
			 "cmpl $1, 0x30000; jne 9f; test %eax, %eax; jnz 9f\n"
			 "movl $0, 0x30000; inc %r14; mov %r8d, 0x32000(,%r14,4)\n"
			 "outb %al, $0x50\n"
			 "test %r15, %r15; jz 1f; add %r15, (%rsp); iretq\n"
			 "1: cmp %r8d, %r13d; je 2f; sti; hlt; cli; jmp 1b\n 2: iretq\n"
			 "9: outb %al, $0x5e");
GUEST_CODE(on_ready, 64, "mov 0x30004, %r13d; movl $0, 0x30004; inc %r12; mov %r13d, 0x33000(,%r12,4)\n"
			 X2APIC_EOI X2APIC_WRMSR("0x4b564d07", "1") "iretq");
GUEST_CODE(on_other, 64, X2APIC_EOI "outb %al, $0x53\n iretq");

GUEST_CODE(touch, 64, "mov 0x100000, %ebx\n outb %al, $0x51\n 1: pause; jmp 1b");
#define TOUCH_BYTES 7
GUEST_CODE(twice, 64, "mov 0x100000, %ebx\n mov 0x100000, %ebx\n outb %al, $0x51\n 1: pause; jmp 1b");
/* rdi pages, then until r11 tokens of ready ones have come */
GUEST_CODE(touch_all, 64, "mov $0x100000, %esi\n 1: mov (%rsi), %ebx\n add $0x1000, %rsi; dec %rdi; jnz 1b\n"
			  "outb %al, $0x51\n 2: pause; cmp %r11, %r12; jne 2b\n outb %al, $0x52\n 1: jmp 1b");
#define TOUCH_ALL_BYTES 2

static int uffd;
static uint8_t *data;

static inline void open_vm(struct client *c)
{
	x2apic_open_vm(c, 1 << 20);
	client_slot(c, 1, 0, DATA_GPA, data, PAGES * PAGE);
}

/* What X2APIC_ON does. */
static inline void enable_apic(struct client *c)
{
	struct kvm_lapic_state l;

	assert_int_equal(ioctl(c->vcpu, KVM_GET_LAPIC, &l), 0);
	l.regs[SPIV] = 0xff;
	l.regs[SPIV + 1] = 1;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_LAPIC, &l), 0);
}

static inline void start(struct client *c, const uint8_t *code, const uint8_t *end, unsigned cpl, uint64_t skip, uint64_t en)
{
	struct kvm_regs r;

	paging_start(c, PAGING_LONG, cpl, 0, 0, 0);
	memcpy(c->mem + AT_CODE, code, (size_t)(end - code));
	x2apic_mode(c);
	x2apic_handler(c, 14, AT_HANDLERS, on_fault, on_fault_end);
	x2apic_handler(c, READY_VECTOR, AT_HANDLERS + 0x100, on_ready, on_ready_end);
	x2apic_handler(c, OTHER_VECTOR, AT_HANDLERS + 0x200, on_other, on_other_end);
	enable_apic(c);
	r = client_regs(c);
	r.rflags |= EFLAGS_IF;
	r.r15 = skip;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_REGS, &r), 0);
	client_set_msr(c, MSR_INT, READY_VECTOR);
	client_set_msr(c, MSR_EN, en);
}

/* All of the data missing. */
static inline bool open_data(void)
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

static inline void close_data(void)
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
static inline uint64_t wanted_page(void)
{
	struct pollfd p = {.fd = uffd, .events = POLLIN};
	struct uffd_msg m;

	assert_int_equal(poll(&p, 1, -1), 1);
	assert_int_equal(read(uffd, &m, sizeof(m)), sizeof(m));
	assert_int_equal(m.event, UFFD_EVENT_PAGEFAULT);
	return m.arg.pagefault.address & ~(uint64_t)(PAGE - 1);
}

static inline bool somebody_waits(void)
{
	struct pollfd p = {.fd = uffd, .events = POLLIN};

	return poll(&p, 1, 0) == 1;
}

static inline void bring(uint64_t page)
{
	static uint32_t fill[PAGE / 4];
	struct uffdio_copy copy = {.dst = page, .src = (uintptr_t)fill, .len = PAGE};

	for (size_t i = 0; i < PAGE / 4; i++)
		fill[i] = FILL;
	assert_int_equal(ioctl(uffd, UFFDIO_COPY, &copy), 0);
}

static inline uint32_t guest32(struct client *c, uint32_t at)
{
	return *(volatile uint32_t *)(c->mem + at);
}

#endif
