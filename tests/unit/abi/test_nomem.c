/*
 * One session of ioctls and guest code, again and again; in round n the n-th allocation fails, or all from
 * the n-th on. Each call that fails says ENOMEM (or what follows from an object that is not there); none is
 * half done: the session after works, and neither memory nor descriptors are lost.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/own.h"
#include "userkvm/userkvm.h"

#include <linux/kvm.h>

#define RAM_BYTES (4ul << 20)

static uint8_t *ram;
static int event;
static uint64_t round_nr;

/* r or -1 with errno; what a shortage may say. */
static int checked(int r, const char *call)
{
	if (r < 0 && errno != ENOMEM)
		fail_msg("round %llu: %s: %s", (unsigned long long)round_nr, call, strerror(errno));
	return r;
}
#define TRY(fd, request, arg) checked(userkvm_ioctl((fd), (request), (unsigned long)(arg)), #request)

static void memory(int vm, uint32_t slot, uint32_t flags, uint64_t gpa, uint64_t size, int *failed)
{
	struct kvm_userspace_memory_region m = { slot, flags, gpa, size, (uintptr_t)ram };

	*failed |= TRY(vm, KVM_SET_USER_MEMORY_REGION, &m) < 0;
}

/* mov $0x41,%al; mov %al,0x2000; fninit; fld1; movaps; mov %al,0x9000; out; hlt; and again */
static const uint8_t code[] = { 0xb0, 0x41, 0xa2, 0x00, 0x20, 0x9b, 0xdb, 0xe3, 0xd9, 0xe8, 0xa2, 0x00,
				0x90, 0xe6, 0x80, 0xa2, 0x00, 0xa0, 0xe6, 0x80, 0xeb, 0xea };

static int run_vcpu(int kvm, int vm, int id)
{
	struct {
		struct kvm_cpuid2 h;
		struct kvm_cpuid_entry2 e[256];
	} c = { .h.nent = 256 };
	struct kvm_regs g = { .rip = 0x1000, .rflags = 2 };
	struct kvm_enable_cap synic = { .cap = KVM_CAP_HYPERV_SYNIC2 };
	struct kvm_mp_state running = { KVM_MP_STATE_RUNNABLE };
	struct kvm_lapic_state lapic;
	struct kvm_sregs s;
	struct kvm_xsave x;
	int vcpu = TRY(vm, KVM_CREATE_VCPU, id), failed = 0, r;
	int size = userkvm_ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	struct kvm_run *run;

	if (vcpu < 0)
		return 1;
	run = userkvm_mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	assert_ptr_not_equal(run, MAP_FAILED);
	failed |= TRY(kvm, KVM_GET_SUPPORTED_CPUID, &c) < 0;
	failed |= !failed && TRY(vcpu, KVM_SET_CPUID2, &c) < 0;
	synic.args[0] = 0;
	r = userkvm_ioctl(vcpu, KVM_ENABLE_CAP, (unsigned long)&synic);
	/* without an irqchip it cannot be */
	assert_true(r == 0 || errno == ENOMEM || errno == EINVAL);
	failed |= r < 0;
	assert_int_equal(userkvm_ioctl(vcpu, KVM_GET_SREGS, (unsigned long)&s), 0);
	s.cs.base = s.cs.selector = 0;
	failed |= TRY(vcpu, KVM_SET_SREGS, &s) < 0;
	failed |= TRY(vcpu, KVM_SET_REGS, &g) < 0;
	failed |= TRY(vcpu, KVM_SET_MP_STATE, &running) < 0;
	failed |= TRY(vcpu, KVM_GET_XSAVE, &x) < 0;
	(void)userkvm_ioctl(vcpu, KVM_GET_LAPIC, (unsigned long)&lapic);
	r = userkvm_ioctl(vcpu, KVM_GET_STATS_FD, 0);
	failed |= checked(r, "KVM_GET_STATS_FD") < 0;
	if (r >= 0)
		close(r);
	memcpy(ram + 0x1000, code, sizeof(code));
	for (int k = 0; k < 6; k++) {
		r = TRY(vcpu, KVM_RUN, 0);
		if (r < 0) {
			failed = 1;
			break;
		}
		if (run->exit_reason != KVM_EXIT_IO && run->exit_reason != KVM_EXIT_MMIO)
			fail_msg("round %llu: exit %u", (unsigned long long)round_nr, run->exit_reason);
	}
	munmap(run, (size_t)size);
	userkvm_close(vcpu);
	return failed;
}

/* 1 where a call has failed. */
static int session(void)
{
	int kvm = userkvm_open("/dev/kvm", O_RDWR | O_CLOEXEC), vm, failed = 0, r;
	struct kvm_enable_cap ring = { .cap = KVM_CAP_DIRTY_LOG_RING, .args[0] = 65536 };
	struct kvm_pit_config pit = { 0 };
	struct kvm_irqfd irqfd = { .fd = (uint32_t)event, .gsi = 10 };
	struct kvm_ioeventfd io = { .addr = 0x1234, .len = 2, .fd = event, .flags = KVM_IOEVENTFD_FLAG_PIO };
	struct kvm_coalesced_mmio_zone zone = { 0xb0000, 0x1000, { 0 } };
	struct {
		struct kvm_irq_routing h;
		struct kvm_irq_routing_entry e[2];
	} routes = { { 2, 0 },
		     { { .gsi = 10, .type = KVM_IRQ_ROUTING_MSI, .u.msi = { 0xfee00000, 0, 0x41 } },
		       { .gsi = 1, .type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = { 0, 1 } } } };
	struct kvm_hyperv_eventfd connection = { 5, event, 0 };
	uint8_t bits[64] = { 0 };
	struct kvm_msr_filter filter = { .ranges[0] = { KVM_MSR_FILTER_READ, 100, 0x10, bits } };
	bool chip;

	if (checked(kvm, "open") < 0)
		return 1;
	vm = TRY(kvm, KVM_CREATE_VM, 0);
	if (vm < 0) {
		userkvm_close(kvm);
		return 1;
	}
	failed |= TRY(vm, KVM_ENABLE_CAP, &ring) < 0;
	chip = TRY(vm, KVM_CREATE_IRQCHIP, 0) == 0;
	failed |= !chip;
	if (chip) {
		failed |= TRY(vm, KVM_CREATE_PIT2, &pit) < 0;
		failed |= TRY(vm, KVM_IRQFD, &irqfd) < 0;
		failed |= TRY(vm, KVM_SET_GSI_ROUTING, &routes) < 0;
	}
	memory(vm, 0, KVM_MEM_LOG_DIRTY_PAGES, 0, 0xa000, &failed);
	memory(vm, 1, 0, 0x10000000, 1 << 20, &failed);
	failed |= TRY(vm, KVM_IOEVENTFD, &io) < 0;
	failed |= TRY(vm, KVM_REGISTER_COALESCED_MMIO, &zone) < 0;
	failed |= TRY(vm, KVM_HYPERV_EVENTFD, &connection) < 0;
	failed |= TRY(vm, KVM_X86_SET_MSR_FILTER, &filter) < 0;
	if (!failed)
		for (int i = 0; i < 2; i++)
			failed |= run_vcpu(kvm, vm, i);
	if (!failed) {
		memory(vm, 1, 0, 0x20000000, 1 << 20, &failed);
		memory(vm, 0, 0, 0, 0xa000, &failed);
		memory(vm, 1, 0, 0, 0, &failed);
	}
	r = userkvm_ioctl(vm, KVM_GET_STATS_FD, 0);
	failed |= checked(r, "KVM_GET_STATS_FD") < 0;
	if (r >= 0)
		close(r);
	userkvm_close(vm);
	userkvm_close(kvm);
	return failed;
}

static unsigned descriptors(void)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	while (d && readdir(d))
		n++;
	closedir(d);
	return n;
}

static void sweep(bool all)
{
	uint64_t before, total, in_use;
	unsigned fds;

	round_nr = 0;
	assert_int_equal(session(), 0);
	assert_int_equal(session(), 0);
	before = own_allocations();
	assert_int_equal(session(), 0);
	total = own_allocations() - before;
	in_use = own_in_use();
	fds = descriptors();
	assert_true(total > 50);
	for (uint64_t n = 1; n <= total; n += all ? 3 : 1) {
		round_nr = n;
		own_fail_at(n, all);
		session();
		own_fail_at(0, false);
		if (session())
			fail_msg("round %llu: the session after fails", (unsigned long long)n);
	}
	assert_int_equal(descriptors(), fds);
	if (own_in_use() > in_use + (256 << 10))
		fail_msg("%llu KiB lost", (unsigned long long)(own_in_use() - in_use) >> 10);
	print_message("# %llu allocations\n", (unsigned long long)total);
}

static void each_allocation_of_a_session_fails_once(void **state)
{
	sweep(false);
}

static void all_allocations_fail_from_one_on(void **state)
{
	sweep(true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_allocation_of_a_session_fails_once),
		cmocka_unit_test(all_allocations_fail_from_one_on),
	};

	ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
