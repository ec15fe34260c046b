/*
 * Guest memory behind a userfaultfd: whoever brings a page may first change
 * memslots and mappings, which must not wait for the one that waits for the
 * page. A deadlock ends by SIGALRM.
 */
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sys/syscall.h>

#include "client.h"
#include "guest_code.h"

#define DATA_GPA 0x400000
#define DATA_SIZE 0x400000 /* two large pages: one leaf would do for each */
#define SPARE_GPA 0x1000000
#define PAGE 0x1000
#define FILL 0x5a
#define DEADLOCK_S 60

static struct client c;
static uint8_t *data, *spare;
static int uffd, stop[2];
static unsigned resolved;
static uint8_t fill[PAGE] __attribute__((aligned(PAGE))); /* what each page is brought with */

/* What may happen to the VM before a page is brought. */
static void change_everything(void)
{
	struct kvm_clock_data clock;

	assert_int_equal(ioctl(c.vm, KVM_GET_CLOCK, &clock), 0);
	client_slot(&c, 1, 0, SPARE_GPA, spare, PAGE);
	client_slot(&c, 1, 0, SPARE_GPA, spare, 0);
	client_slot(&c, 2, KVM_MEM_LOG_DIRTY_PAGES, DATA_GPA, data, DATA_SIZE);
	client_slot(&c, 2, 0, DATA_GPA, data, DATA_SIZE);
	assert_int_equal(mprotect(data + DATA_SIZE - PAGE, PAGE, PROT_READ), 0);
	assert_int_equal(madvise(data + DATA_SIZE - PAGE, PAGE, MADV_DONTNEED), 0);
	assert_int_equal(mprotect(data + DATA_SIZE - PAGE, PAGE, PROT_READ | PROT_WRITE), 0);
}

static void resolve(const struct uffd_msg *m)
{
	uint64_t page = m->arg.pagefault.address & ~(uint64_t)(PAGE - 1);
	struct uffdio_copy copy = {.dst = page, .src = (uintptr_t)fill, .len = PAGE};
	struct uffdio_writeprotect open = {.range = {page, PAGE}};

	resolved++; /* seen by whoever goes on after the next line */
	if (m->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP)
		assert_int_equal(ioctl(uffd, UFFDIO_WRITEPROTECT, &open), 0);
	else
		assert_int_equal(ioctl(uffd, UFFDIO_COPY, &copy), 0);
}

static void *bring_pages(void *arg)
{
	struct pollfd p[2] = {{.fd = uffd, .events = POLLIN}, {.fd = stop[0], .events = POLLIN}};
	struct uffd_msg m;

	while (poll(p, 2, -1) > 0 && !p[1].revents) {
		assert_int_equal(read(uffd, &m, sizeof(m)), sizeof(m));
		assert_int_equal(m.event, UFFD_EVENT_PAGEFAULT);
		change_everything();
		resolve(&m);
	}
	return NULL;
}

static pthread_t handler;

/* Data of its own in the guest, all of it missing; code at 1000h runs flat. */
static bool open_guest(uint64_t mode, const void *code, size_t n)
{
	struct uffdio_api api = {.api = UFFD_API, .features = mode & UFFDIO_REGISTER_MODE_WP ? UFFD_FEATURE_PAGEFAULT_FLAG_WP : 0};
	struct uffdio_register r = {.mode = mode};

	uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api))
		return false;
	alarm(DEADLOCK_S);
	resolved = 0;
	memset(fill, FILL, PAGE);
	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	data = mmap((void *)0x300000000000, DATA_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	spare = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(data != MAP_FAILED && spare != MAP_FAILED && (uintptr_t)data % 0x200000 == 0);
	client_slot(&c, 2, 0, DATA_GPA, data, DATA_SIZE);
	client_flat_mode(&c, 0x1000, code, n);
	r.range.start = (uintptr_t)data;
	r.range.len = DATA_SIZE;
	assert_int_equal(ioctl(uffd, UFFDIO_REGISTER, &r), 0);
	assert_int_equal(pipe(stop), 0);
	assert_int_equal(pthread_create(&handler, NULL, bring_pages, NULL), 0);
	return true;
}

static void close_guest(void)
{
	close(stop[1]);
	pthread_join(handler, NULL);
	close(stop[0]);
	alarm(0);
	close(uffd);
	munmap(data, DATA_SIZE);
	munmap(spare, PAGE);
	client_close(&c);
}

#define OPEN_OR_SKIP(mode, code)                                     \
	do {                                                         \
		if (!open_guest(mode, code, GUEST_CODE_SIZE(code)))  \
			skip();                                      \
	} while (0)

/* Two pages of each large page, so that the second comes through what the first has mapped. */
GUEST_CODE(touch, 32, "mov 0x400000, %eax\n"
		      "mov 0x401000, %ebx\n"
		      "movl $0x11223344, 0x402000\n"
		      "movl $0x11223344, 0x600000\n"
		      "out %al, $0x42\n"
		      "1: jmp 1b");

static void memslots_change_before_each_page(void **state)
{
	OPEN_OR_SKIP(UFFDIO_REGISTER_MODE_MISSING, touch);
	assert_run_exits(&c, KVM_EXIT_IO);
	assert_int_equal(client_regs(&c).rax, 0x5a5a5a5a);
	assert_int_equal(client_regs(&c).rbx, 0x5a5a5a5a);
	assert_int_equal(*(uint32_t *)(data + 0x2000), 0x11223344);
	assert_int_equal(*(uint32_t *)(data + 0x200000), 0x11223344);
	assert_int_equal(resolved, 4);
	close_guest();
}

/* A page that was there goes missing again: the entry is gone, not waited in. */
static void dropped_page_is_brought_again(void **state)
{
	OPEN_OR_SKIP(UFFDIO_REGISTER_MODE_MISSING, touch);
	assert_run_exits(&c, KVM_EXIT_IO);
	for (unsigned i = 1; i <= 3; i++) {
		struct kvm_regs r = client_regs(&c);

		assert_int_equal(madvise(data, PAGE, MADV_DONTNEED), 0);
		r.rip = 0x1000;
		r.rax = 0;
		assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
		assert_run_exits(&c, KVM_EXIT_IO);
		assert_int_equal(client_regs(&c).rax, 0x5a5a5a5a);
		assert_int_equal(resolved, 4 + i);
	}
	close_guest();
}

GUEST_CODE(jump, 32, "mov $0x401000, %eax\n"
		     "jmp *%eax");
GUEST_CODE(tell, 32, "out %al, $0x42\n"
		     "1: jmp 1b");

static void code_is_brought(void **state)
{
	OPEN_OR_SKIP(UFFDIO_REGISTER_MODE_MISSING, jump);
	memcpy(fill, tell, GUEST_CODE_SIZE(tell));
	assert_run_exits(&c, KVM_EXIT_IO);
	assert_int_equal(client_regs(&c).rax, 0x401000);
	assert_int_equal(resolved, 1);
	close_guest();
}

/* CR3 points to a missing page, whose entries map 4 MiB pages one to one. */
GUEST_CODE(page, 32, "mov %cr4, %eax\n"
		     "or $0x10, %eax\n"
		     "mov %eax, %cr4\n"
		     "mov $0x400000, %eax\n"
		     "mov %eax, %cr3\n"
		     "mov %cr0, %eax\n"
		     "or $0x80000000, %eax\n"
		     "mov %eax, %cr0\n"
		     "mov 0x401000, %ebx\n"
		     "out %al, $0x42\n"
		     "1: jmp 1b");

static void page_tables_are_brought(void **state)
{
	OPEN_OR_SKIP(UFFDIO_REGISTER_MODE_MISSING, page);
	for (uint32_t i = 0; i < PAGE / 4; i++)
		((uint32_t *)fill)[i] = i << 22 | 0x83; /* present, writable, large */
	assert_run_exits(&c, KVM_EXIT_IO);
	assert_int_equal(client_regs(&c).rbx, 0x83);
	assert_int_equal(resolved, 2);
	assert_int_equal(*(uint32_t *)data & 0x20, 0x20); /* accessed */
	close_guest();
}

/* The hypervisor writes the guest's time: kvmclock's page, and Hyper-V's reference TSC page. */
static void time_pages_are_brought(void **state)
{
	struct {
		struct kvm_msrs h;
		struct kvm_msr_entry e[2];
	} m = {.h.nmsrs = 2,
	       .e = {{.index = 0x40000021, .data = DATA_GPA | 1}, {.index = 0x4b564d01, .data = (DATA_GPA + PAGE) | 1}}};

	OPEN_OR_SKIP(UFFDIO_REGISTER_MODE_MISSING, tell);
	memset(fill, 0, PAGE);
	assert_int_equal(ioctl(c.vcpu, KVM_SET_MSRS, &m), 2);
	assert_run_exits(&c, KVM_EXIT_IO);
	assert_int_equal(resolved, 2);
	assert_int_not_equal(*(uint32_t *)data, 0);		   /* sequence */
	assert_int_not_equal(*(uint32_t *)(data + PAGE + 24), 0); /* tsc_to_system_mul */
	close_guest();
}

/* String output is emulated: the hypervisor itself reads the page. */
GUEST_CODE(string, 32, "cld\n"
		       "mov $0x401000, %esi\n"
		       "mov $4, %ecx\n"
		       "mov $0x42, %edx\n"
		       "rep outsb\n"
		       "1: jmp 1b");

static void emulator_waits_with_nothing_held(void **state)
{
	OPEN_OR_SKIP(UFFDIO_REGISTER_MODE_MISSING, string);
	assert_run_exits(&c, KVM_EXIT_IO);
	assert_int_equal(*((uint8_t *)c.run + c.run->io.data_offset), FILL);
	assert_int_equal(resolved, 1);
	close_guest();
}

struct pre_fault {
	uint64_t gpa, size, flags, padding[5];
};
#define PRE_FAULT _IOWR(KVMIO, 0xd5, struct pre_fault)

static void pre_fault_waits_with_nothing_held(void **state)
{
	struct pre_fault p = {.gpa = DATA_GPA, .size = 4 * PAGE};

	OPEN_OR_SKIP(UFFDIO_REGISTER_MODE_MISSING, touch);
	if (ioctl(c.vm, KVM_CHECK_EXTENSION, 236)) {
		assert_int_equal(ioctl(c.vcpu, PRE_FAULT, &p), 0);
		assert_int_equal(p.size, 0);
		assert_int_equal(resolved, 4);
	}
	close_guest();
}

/* The read comes first: what it maps must not be writable. */
GUEST_CODE(count, 32, "1: mov 0x400000, %ebx\n"
		      "incl 0x400000\n"
		      "out %al, $0x42\n"
		      "jmp 1b");

static void protected_page_is_opened(void **state)
{
	struct uffdio_writeprotect wp;

	OPEN_OR_SKIP(UFFDIO_REGISTER_MODE_WP, count);
	for (unsigned i = 1; i <= 3; i++) {
		assert_run_exits(&c, KVM_EXIT_IO);
		assert_int_equal(*(uint32_t *)data, i);
		assert_int_equal(resolved, i - 1);
		wp = (struct uffdio_writeprotect){.range = {(uintptr_t)data, PAGE}, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
		assert_int_equal(ioctl(uffd, UFFDIO_WRITEPROTECT, &wp), 0);
	}
	close_guest();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(memslots_change_before_each_page),
		cmocka_unit_test(dropped_page_is_brought_again),
		cmocka_unit_test(code_is_brought),
		cmocka_unit_test(page_tables_are_brought),
		cmocka_unit_test(time_pages_are_brought),
		cmocka_unit_test(emulator_waits_with_nothing_held),
		cmocka_unit_test(pre_fault_waits_with_nothing_held),
		cmocka_unit_test(protected_page_is_opened),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
