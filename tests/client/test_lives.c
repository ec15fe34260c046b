/*
 * A VM leaves nothing behind: descriptors, threads, mappings and memory of the
 * process are what they were after many lives of VMs that used every device. And
 * a VM may be as large as it is told.
 */
#include <dirent.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/resource.h>

#include "guest_code.h"
#include "paging.h"

/* A sanitizer keeps freed memory back on purpose, and is slow. */
#ifdef __SANITIZE_ADDRESS__
#define LIVES 100
#define ROOM_KIB (1 << 20)
#else
#define LIVES 1000
#define ROOM_KIB 8192 /* 8 KiB a life: less than a page table page and a vCPU */
#endif

static unsigned entries_of(const char *dir)
{
	DIR *d = opendir(dir);
	unsigned n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static unsigned mappings(void)
{
	FILE *f = fopen("/proc/self/maps", "r");
	unsigned n = 0;
	int ch;

	assert_non_null(f);
	while ((ch = fgetc(f)) != EOF)
		n += ch == '\n';
	fclose(f);
	return n;
}

/* Resident memory in KiB. */
static long resident(void)
{
	FILE *f = fopen("/proc/self/statm", "r");
	long size, rss = 0;

	assert_non_null(f);
	assert_int_equal(fscanf(f, "%ld %ld", &size, &rss), 2);
	fclose(f);
	return rss * 4;
}

#define SLOT_SIZE (256u << 12)

GUEST_CODE(work, 64, "mov $0x30000, %edi; mov $100, %ecx; 1: mov %rcx, (%rdi); add $0x1000, %rdi; loop 1b; mov $0xc0000000, %edi; mov %eax, (%rdi); mov $0xd0000000, %edi; mov %eax, (%rdi); outb %al, $0x99");

/* Memory in every manner: logged, read-only, moved, in SMM's address space; its counters read. */
static void use_slots(struct client *c, uint8_t *memory)
{
	uint64_t bits[4];
	struct kvm_dirty_log log = {.slot = 1, .dirty_bitmap = bits};
	int stats = ioctl(c->vm, KVM_GET_STATS_FD, NULL);

	assert_true(stats >= 0);
	client_slot(c, 1, KVM_MEM_LOG_DIRTY_PAGES, 0xc0000000, memory, SLOT_SIZE);
	client_slot(c, 2, KVM_MEM_READONLY, 0xc0200000, memory, SLOT_SIZE);
	client_slot(c, 1 << 16, 0, 0, memory, SLOT_SIZE);
	assert_run_exits(c, KVM_EXIT_MMIO);
	assert_int_equal(ioctl(c->vm, KVM_GET_DIRTY_LOG, &log), 0);
	assert_int_equal(bits[0], 1);
	client_slot(c, 2, KVM_MEM_READONLY, 0xc0400000, memory, SLOT_SIZE);
	client_slot(c, 1, 0, 0xc0000000, memory, SLOT_SIZE);
	assert_int_equal(madvise(memory, SLOT_SIZE, MADV_DONTNEED), 0);
	close(stats);
}

/* A life with irqchip, PIT, irqfd, ioeventfd, coalesced zones, routes, an MSR filter, two vCPUs. */
static void live(void)
{
	struct kvm_pit_config pit = {0};
	struct kvm_irqfd irqfd = {.gsi = 5};
	struct kvm_ioeventfd ioe = {.addr = 0xd0001000, .len = 4};
	struct kvm_coalesced_mmio_zone zone = {.addr = 0xd0002000, .size = 16};
	struct {
		struct kvm_irq_routing h;
		struct kvm_irq_routing_entry e[1];
	} routes = {.h.nr = 1, .e = {{.gsi = 40, .type = KVM_IRQ_ROUTING_MSI, .u.msi = {.address_lo = 0xfee00000, .data = 0x30}}}};
	uint8_t bitmap[8] = {0xff};
	struct kvm_msr_filter filter = {.ranges[0] = {.flags = KVM_MSR_FILTER_READ, .nmsrs = 8, .base = 0x800, .bitmap = bitmap}};
	struct client c;
	uint8_t *memory;
	int second;

	client_open_vm(&c, 2 << 20);
	assert_int_equal(ioctl(c.vm, KVM_CREATE_IRQCHIP, 0), 0);
	assert_int_equal(ioctl(c.vm, KVM_CREATE_PIT2, &pit), 0);
	client_add_vcpu(&c);
	second = ioctl(c.vm, KVM_CREATE_VCPU, 1);
	assert_true(second >= 0);
	irqfd.fd = (uint32_t)eventfd(0, EFD_CLOEXEC);
	ioe.fd = eventfd(0, EFD_CLOEXEC);
	assert_int_equal(ioctl(c.vm, KVM_IRQFD, &irqfd), 0);
	assert_int_equal(ioctl(c.vm, KVM_IOEVENTFD, &ioe), 0);
	assert_int_equal(ioctl(c.vm, KVM_REGISTER_COALESCED_MMIO, &zone), 0);
	assert_int_equal(ioctl(c.vm, KVM_SET_GSI_ROUTING, &routes), 0);
	assert_int_equal(ioctl(c.vm, KVM_X86_SET_MSR_FILTER, &filter), 0);
	paging_start(&c, PAGING_LONG, 0, 0, 0, 0);
	((uint64_t *)(c.mem + 0x11000))[3] = 0xc0000000 | PG_ALL | PG_PS;
	memcpy(c.mem + AT_CODE, work, GUEST_CODE_SIZE(work));
	memory = mmap(NULL, SLOT_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(memory != MAP_FAILED);
	use_slots(&c, memory);
	assert_int_equal(client_next_out(&c), 0x99);
	close(second);
	close((int)irqfd.fd);
	close(ioe.fd);
	client_close(&c);
	munmap(memory, SLOT_SIZE);
}

static void a_thousand_lives_leave_nothing_behind(void **state)
{
	unsigned fds, threads, maps;
	long memory;

	for (int i = 0; i < 50; i++) /* what is made once is made; recycled objects have found their number */
		live();
	usleep(100 * 1000); /* grace periods */
	fds = entries_of("/proc/self/fd");
	threads = entries_of("/proc/self/task");
	maps = mappings();
	memory = resident();
	for (int i = 0; i < LIVES; i++)
		live();
	usleep(100 * 1000);
	assert_int_equal(entries_of("/proc/self/fd"), fds);
	assert_int_equal(entries_of("/proc/self/task"), threads);
	/* A sanitizer's allocator maps as it likes; its leak check is the better one there. */
	if (!getenv("SANITIZE") && mappings() > maps + 16)
		fail_msg("%u mappings, %u before", mappings(), maps);
	if (resident() > memory + ROOM_KIB)
		fail_msg("%ld KiB resident, %ld before", resident(), memory);
}

/* Half-made VMs: errors on the way leave nothing either. */
static void failed_calls_leave_nothing_behind(void **state)
{
	unsigned fds, before = 0;

	for (int i = 0; i < 200; i++) {
		struct kvm_irqfd irqfd = {.gsi = 5, .fd = (uint32_t)-1};
		struct kvm_ioeventfd ioe = {.len = 3};
		struct client c;

		client_open_vm(&c, 1 << 20);
		assert_fails(ioctl(c.vm, KVM_CREATE_VCPU, 1 << 20), EINVAL);
		assert_fails(ioctl(c.vm, KVM_IRQFD, &irqfd), EINVAL);
		assert_fails(ioctl(c.vm, KVM_IOEVENTFD, &ioe), EINVAL);
		client_add_vcpu(&c);
		assert_fails(ioctl(c.vm, KVM_CREATE_VCPU, 0), EEXIST);
		client_close(&c);
		fds = entries_of("/proc/self/fd");
		if (i == 0)
			before = fds;
		assert_int_equal(fds, before);
	}
}

/* KVM_CAP_MAX_VCPUS is kept: addresses, mappings and memory suffice for all of them. */
static void vm_has_as_many_vcpus_as_it_may(void **state)
{
	struct rlimit files;
	struct client c;
	int max, last = 0;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &files), 0);
	client_open_vm(&c, 1 << 20);
	max = ioctl(c.vm, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS);
	assert_true(max >= 288);
	if (getenv("SANITIZE") || files.rlim_max < (rlim_t)max + 64) {
		client_close(&c);
		skip();
	}
	files.rlim_cur = files.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &files), 0);
	for (int i = 0; i < max; i++) {
		last = ioctl(c.vm, KVM_CREATE_VCPU, i);
		if (last < 0)
			fail_msg("vCPU %d of %d: errno %d", i, max, errno);
	}
	assert_fails(ioctl(c.vm, KVM_CREATE_VCPU, max), EINVAL);
	for (int fd = last; fd > c.vm; fd--)
		close(fd);
	client_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_thousand_lives_leave_nothing_behind),
		cmocka_unit_test(failed_calls_leave_nothing_behind),
		cmocka_unit_test(vm_has_as_many_vcpus_as_it_may),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
