/*
 * Wrong ioctl, size, descriptor, flag, pointer: KVM's errno, and nothing changed.
 * Every expectation here was seen on a kernel's KVM too.
 */
#include <sys/stat.h>
#include <sys/wait.h>

#include "client.h"

static int set_slot(struct client *c, uint32_t slot, uint32_t flags, uint64_t gpa, uint64_t hva, uint64_t size)
{
	struct kvm_userspace_memory_region r = {
		.slot = slot, .flags = flags, .guest_phys_addr = gpa, .memory_size = size, .userspace_addr = hva,
	};

	return ioctl(c->vm, KVM_SET_USER_MEMORY_REGION, &r);
}

static void system_ioctls_check_their_arguments(void **state)
{
	int kvm = open("/dev/kvm", O_RDWR);
	struct kvm_cpuid2 none = {.nent = 0};
	struct kvm_msr_list list = {.nmsrs = 0};

	assert_fails(ioctl(kvm, KVM_GET_API_VERSION, 1), EINVAL);
	assert_fails(ioctl(kvm, KVM_CREATE_VM, 12345), EINVAL);
	assert_fails(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 1), EINVAL);
	assert_fails(ioctl(kvm, KVM_RUN, 0), EINVAL);
	assert_fails(ioctl(kvm, 0xae77, 0), EINVAL);
	assert_fails(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &none), E2BIG);
	assert_fails(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, (void *)8), EFAULT);
	assert_fails(ioctl(kvm, KVM_GET_MSR_INDEX_LIST, &list), E2BIG);
	assert_true(list.nmsrs > 10);
	assert_int_equal(ioctl(kvm, KVM_CHECK_EXTENSION, 99999), 0);
	close(kvm);
	assert_fails(ioctl(kvm, KVM_GET_API_VERSION, 0), EBADF);
}

static void memory_region_errors_are_kvms(void **state)
{
	struct client c;
	uint8_t *m;
	uint64_t hva;

	client_open_vm(&c, 1 << 20); /* slot 0: 0..1M */
	m = mmap(NULL, 4 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	hva = (uintptr_t)m;
	assert_fails(set_slot(&c, 1, 0, 0x200000, hva, 100), EINVAL);	     /* size */
	assert_fails(set_slot(&c, 1, 0, 0x200001, hva, 4096), EINVAL);	     /* gpa */
	assert_fails(set_slot(&c, 1, 0, 0x200000, hva + 1, 4096), EINVAL);   /* hva */
	assert_fails(set_slot(&c, 1, 0x80, 0x200000, hva, 4096), EINVAL);    /* flag */
	assert_fails(set_slot(&c, 0xffff, 0, 0x200000, hva, 4096), EINVAL);  /* slot */
	assert_fails(set_slot(&c, 7 << 16, 0, 0x200000, hva, 4096), EINVAL); /* address space */
	assert_fails(set_slot(&c, 1, 0, ~0xfffULL, hva, 0x2000), EINVAL);    /* wraps */
	assert_fails(set_slot(&c, 1, 0, 0x200000, 0xffff800000000000, 4096), EINVAL);
	assert_fails(set_slot(&c, 1, 0, 0x80000, hva, 4096), EEXIST); /* overlaps slot 0 */
	assert_fails(set_slot(&c, 1, 0, 0, hva, 0), EINVAL);	      /* delete: there is none */
	assert_int_equal(set_slot(&c, 1, 0, 0x200000, hva, 8192), 0);
	assert_fails(set_slot(&c, 1, 0, 0x200000, hva, 4096), EINVAL);	      /* resize */
	assert_fails(set_slot(&c, 1, 0, 0x200000, hva + 4096, 8192), EINVAL); /* other memory */
	assert_fails(set_slot(&c, 1, KVM_MEM_READONLY, 0x200000, hva, 8192), EINVAL);
	assert_fails(set_slot(&c, 1, 0, 0xff000, hva, 8192), EEXIST);	  /* move onto slot 0 */
	assert_int_equal(set_slot(&c, 1, 0, 0x300000, hva, 8192), 0); /* move */
	assert_int_equal(set_slot(&c, 1, 0, 0x300000, hva, 8192), 0); /* nothing to do */
	assert_int_equal(set_slot(&c, 1, 0, 0, 0, 0), 0);	      /* delete */
	assert_fails(ioctl(c.vm, KVM_SET_USER_MEMORY_REGION, (void *)8), EFAULT);
	munmap(m, 4 << 20);
	client_close(&c);
}

static void vm_ioctls_check_their_arguments(void **state)
{
	struct client c;
	struct kvm_irq_level line = {.irq = 4, .level = 1};
	struct kvm_pit_config pit = {0};
	struct kvm_irqfd irqfd = {.fd = -1, .gsi = 5};
	struct kvm_ioeventfd ioe = {.fd = -1, .len = 4, .addr = 0x1000};
	uint64_t identity = 0xfffbc000;
	int again;

	client_open_vm(&c, 1 << 20);
	assert_fails(ioctl(c.vm, KVM_RUN, 0), ENOTTY);
	assert_fails(ioctl(c.vm, 0xae77, 0), ENOTTY);
	assert_fails(ioctl(c.vm, KVM_CREATE_VCPU, 1000000), EINVAL);
	assert_fails(ioctl(c.vm, KVM_IRQ_LINE, &line), ENXIO); /* no irqchip */
	assert_fails(ioctl(c.vm, KVM_CREATE_PIT2, &pit), ENOENT);
	assert_fails(ioctl(c.vm, KVM_SET_TSS_ADDR, 0xfffffffful), EINVAL);
	assert_int_equal(ioctl(c.vm, KVM_SET_IDENTITY_MAP_ADDR, &identity), 0);
	client_add_vcpu(&c);
	assert_fails(ioctl(c.vm, KVM_CREATE_VCPU, 0), EEXIST);
	assert_fails(ioctl(c.vm, KVM_CREATE_IRQCHIP, 0), EINVAL); /* too late */
	client_close(&c);

	client_open_vm(&c, 1 << 20);
	assert_int_equal(ioctl(c.vm, KVM_CREATE_IRQCHIP, 0), 0);
	again = ioctl(c.vm, KVM_CREATE_IRQCHIP, 0);
	assert_int_equal(again, -1);
	assert_int_equal(errno, EEXIST);
	assert_int_equal(ioctl(c.vm, KVM_CREATE_PIT2, &pit), 0);
	assert_fails(ioctl(c.vm, KVM_CREATE_PIT2, &pit), EEXIST);
	assert_fails(ioctl(c.vm, KVM_IRQFD, &irqfd), EBADF);
	assert_fails(ioctl(c.vm, KVM_IOEVENTFD, &ioe), EBADF);
	ioe.len = 3;
	assert_fails(ioctl(c.vm, KVM_IOEVENTFD, &ioe), EINVAL);
	client_close(&c);
}

static void vcpu_ioctls_check_their_arguments(void **state)
{
	struct client c;
	struct kvm_sregs s;
	struct {
		struct kvm_msrs h;
		struct kvm_msr_entry e[2];
	} msrs = {.h.nmsrs = 2, .e = {{.index = 0x10}, {.index = 0x12345678}}};

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	assert_fails(ioctl(c.vcpu, KVM_RUN, 1), EINVAL);
	assert_fails(ioctl(c.vcpu, 0xae77, 0), EINVAL);
	assert_fails(ioctl(c.vcpu, KVM_SET_REGS, (void *)8), EFAULT);
	assert_fails(ioctl(c.vcpu, KVM_GET_SREGS, (void *)8), EFAULT);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_SREGS, &s), 0);
	s.cr0 |= 1u << 31; /* paging without protection */
	assert_fails(ioctl(c.vcpu, KVM_SET_SREGS, &s), EINVAL);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_SREGS, &s), 0);
	assert_false(s.cr0 & 1u << 31);
	s.cr4 |= 1u << 31; /* reserved */
	assert_fails(ioctl(c.vcpu, KVM_SET_SREGS, &s), EINVAL);
	/* The number of MSRs done before the first unknown one. */
	assert_int_equal(ioctl(c.vcpu, KVM_GET_MSRS, &msrs), 1);
	assert_fails(ioctl(c.vcpu, KVM_GET_LAPIC, malloc(1024)), EINVAL); /* no in-kernel APIC */
	client_close(&c);
}

/* A filter that is refused leaves the one before: reads of MSR 10h come out, nothing else does. */
static void msr_filter_that_is_refused_changes_nothing(void **state)
{
	static const uint8_t code[] = {0xb9, 0x10, 0x00, 0x00, 0x00, 0x0f, 0x32, 0xe6, 0x10}; /* mov ecx,10h; rdmsr; out 10h,al */
	static uint64_t zeros[KVM_MSR_FILTER_MAX_BITMAP_SIZE / 8 + 1];
	struct kvm_enable_cap exits = {.cap = KVM_CAP_X86_USER_SPACE_MSR, .args = {KVM_MSR_EXIT_REASON_FILTER}};
	struct kvm_msr_filter good = {.ranges[0] = {.flags = KVM_MSR_FILTER_READ, .nmsrs = 1, .base = 0x10, .bitmap = (uint8_t *)zeros}}, f;
	struct client c;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	client_flat_mode(&c, 0x1000, code, sizeof(code));
	assert_int_equal(ioctl(c.vm, KVM_ENABLE_CAP, &exits), 0);
	assert_int_equal(ioctl(c.vm, KVM_X86_SET_MSR_FILTER, &good), 0);
	f = (struct kvm_msr_filter){.flags = KVM_MSR_FILTER_DEFAULT_DENY}; /* of everything */
	assert_fails(ioctl(c.vm, KVM_X86_SET_MSR_FILTER, &f), EINVAL);
	f = (struct kvm_msr_filter){.flags = 2};
	assert_fails(ioctl(c.vm, KVM_X86_SET_MSR_FILTER, &f), EINVAL);
	f = good;
	f.ranges[0].flags = 0;
	assert_fails(ioctl(c.vm, KVM_X86_SET_MSR_FILTER, &f), EINVAL);
	f.ranges[0].flags = 4;
	assert_fails(ioctl(c.vm, KVM_X86_SET_MSR_FILTER, &f), EINVAL);
	f = good;
	f.ranges[1] = (struct kvm_msr_filter_range){.flags = KVM_MSR_FILTER_WRITE, .nmsrs = KVM_MSR_FILTER_MAX_BITMAP_SIZE * 8 + 1,
						    .bitmap = (uint8_t *)zeros};
	assert_fails(ioctl(c.vm, KVM_X86_SET_MSR_FILTER, &f), EINVAL);
	f.ranges[1].nmsrs = 64;
	f.ranges[1].bitmap = (uint8_t *)8;
	assert_fails(ioctl(c.vm, KVM_X86_SET_MSR_FILTER, &f), EFAULT);
	assert_run_exits(&c, KVM_EXIT_X86_RDMSR);
	assert_int_equal(c.run->msr.index, 0x10);
	f.ranges[1].bitmap = (uint8_t *)zeros;
	f.ranges[1].nmsrs = KVM_MSR_FILTER_MAX_BITMAP_SIZE * 8;
	assert_int_equal(ioctl(c.vm, KVM_X86_SET_MSR_FILTER, &f), 0); /* the most there may be */
	client_close(&c);
}

/* Which of two faults is told, and arguments of which half is looked at. */
static void order_of_checks_is_kvms(void **state)
{
	struct client c;
	struct kvm_clear_dirty_log clear = {.slot = 0, .first_page = 1};
	struct kvm_dirty_log get = {.slot = 0};
	struct kvm_enable_cap ring = {.cap = KVM_CAP_DIRTY_LOG_RING, .args = {1ull << 40}};
	struct kvm_ioeventfd ioe = {.fd = -1, .len = 1, .addr = 0x10, .flags = KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY};
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 e[64];
	} emulated = {.head.nent = 64};
	struct kvm_vapic_addr vapic = {.vapic_addr = 0x200000};

	client_open_vm(&c, 1 << 20);
	emulated.e[5].padding[1] = 1;
	assert_fails(ioctl(c.kvm, KVM_GET_EMULATED_CPUID, &emulated), EINVAL);
	assert_fails(ioctl(c.vm, KVM_IOEVENTFD, &ioe), EBADF);
	assert_fails(ioctl(c.vm, KVM_CLEAR_DIRTY_LOG, &clear), EINVAL); /* before: not logged */
	clear.first_page = 0;
	assert_fails(ioctl(c.vm, KVM_CLEAR_DIRTY_LOG, &clear), ENOENT);
	assert_fails(ioctl(c.vm, KVM_ENABLE_CAP, &ring), EINVAL); /* 32 bits of it: 0 */
	ring.args[0] = 65536;
	assert_int_equal(ioctl(c.vm, KVM_ENABLE_CAP, &ring), 0);
	clear.first_page = 1;
	assert_fails(ioctl(c.vm, KVM_CLEAR_DIRTY_LOG, &clear), ENXIO);
	assert_fails(ioctl(c.vm, KVM_GET_DIRTY_LOG, &get), ENXIO);
	client_add_vcpu(&c);
	assert_fails(ioctl(c.vm, KVM_SET_IDENTITY_MAP_ADDR, NULL), EINVAL); /* before: the pointer */
	assert_fails(ioctl(c.vcpu, KVM_SET_LAPIC, NULL), EINVAL);
	assert_fails(ioctl(c.vcpu, KVM_SET_VAPIC_ADDR, NULL), EINVAL);
	assert_int_equal(ioctl(c.vcpu, KVM_SET_TSC_KHZ, 1ul << 32), 0); /* 32 bits of it: the host's */
	client_close(&c);

	client_open_vm(&c, 1 << 20);
	assert_int_equal(ioctl(c.vm, KVM_CREATE_IRQCHIP, 0), 0);
	client_add_vcpu(&c);
	client_slot(&c, 1, KVM_MEM_READONLY, 0x200000, c.mem, 4096);
	assert_fails(ioctl(c.vcpu, KVM_SET_VAPIC_ADDR, &vapic), EINVAL);
	vapic.vapic_addr = 0x1000;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_VAPIC_ADDR, &vapic), 0);
	client_close(&c);
}

/* MXCSR counts where a component is there that it belongs to; a pending exception where the flag says so. */
static void state_that_is_not_there_is_not_looked_at(void **state)
{
	struct client c;
	struct kvm_xsave x = {0};
	struct kvm_vcpu_events e;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	x.region[6] = 0xffff0000; /* MXCSR */
	assert_int_equal(ioctl(c.vcpu, KVM_SET_XSAVE, &x), 0);
	x.region[128] = 2; /* XSTATE_BV: SSE */
	assert_fails(ioctl(c.vcpu, KVM_SET_XSAVE, &x), EINVAL);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_VCPU_EVENTS, &e), 0);
	e.exception.nr = 200;
	e.exception.pending = 1;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_VCPU_EVENTS, &e), 0);
	e.exception.injected = 1;
	assert_fails(ioctl(c.vcpu, KVM_SET_VCPU_EVENTS, &e), EINVAL);
	client_close(&c);
}

/* Masks of physical-address bits are made of a width that no processor has. */
static void width_of_addresses_may_be_nonsense(void **state)
{
	static const uint32_t widths[] = {0, 1, 31, 53, 64, 255};
	struct client c;
	struct kvm_sregs good, bad;
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 e[2];
	} cpuid = {.head.nent = 2, .e = {{.function = 0x80000000, .eax = 0x80000008}, {.function = 0x80000008}}};

	client_open_vm(&c, 1 << 20);
	assert_int_equal(ioctl(c.vm, KVM_CREATE_IRQCHIP, 0), 0);
	client_add_vcpu(&c);
	for (size_t i = 0; i < sizeof(widths) / sizeof(*widths); i++) {
		cpuid.e[1].eax = widths[i] | 48 << 8;
		assert_int_equal(ioctl(c.vcpu, KVM_SET_CPUID2, &cpuid), 0);
		assert_int_equal(ioctl(c.vcpu, KVM_GET_SREGS, &good), 0);
		bad = good;
		bad.apic_base |= 1ull << 60;
		if (widths[i] <= 52)
			assert_fails(ioctl(c.vcpu, KVM_SET_SREGS, &bad), EINVAL);
	}
	client_close(&c);
}

/* Nobody has that number: delivered to none, which is no error; a broadcast that reaches nobody is one. */
static void msi_to_nobody_returns_0(void **state)
{
	struct client c;
	struct kvm_msi msi = {.address_lo = 0xfee55000, .data = 0x30};

	client_open_vm(&c, 1 << 20);
	assert_int_equal(ioctl(c.vm, KVM_CREATE_IRQCHIP, 0), 0);
	assert_int_equal(ioctl(c.vm, KVM_SIGNAL_MSI, &msi), -1);
	client_add_vcpu(&c);
	assert_int_equal(ioctl(c.vm, KVM_SIGNAL_MSI, &msi), 0);
	msi.flags = KVM_MSI_VALID_DEVID;
	assert_int_equal(ioctl(c.vm, KVM_SIGNAL_MSI, &msi), 0);
	msi.flags = 2;
	assert_fails(ioctl(c.vm, KVM_SIGNAL_MSI, &msi), EINVAL);
	client_close(&c);
}

static void child_of_a_fork_gets_eio(void **state)
{
	struct client c;
	int status;
	pid_t pid;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	pid = fork();
	if (pid == 0) {
		struct kvm_regs r;

		_exit(ioctl(c.vcpu, KVM_GET_REGS, &r) == -1 && errno == EIO &&
				      ioctl(c.vm, KVM_CREATE_VCPU, 3) == -1 && errno == EIO
			      ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	client_regs(&c);
	client_close(&c);
}

static void descriptors_work_after_dup_and_in_any_closing_order(void **state)
{
	static const uint8_t code[] = {0xf4};
	struct client c;
	int vcpu;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	client_real_mode(&c, 0x1000, code, sizeof(code));
	vcpu = dup(c.vcpu);
	close(c.vcpu);
	close(c.vm);
	close(c.kvm);
	c.vcpu = vcpu;
	assert_run_exits(&c, KVM_EXIT_HLT);
	close(vcpu);
	assert_fails(ioctl(vcpu, KVM_RUN, 0), EBADF);
	munmap(c.run, c.run_size);
	munmap(c.mem, c.mem_size);
}

static void dev_kvm_looks_like_a_character_device(void **state)
{
	struct stat st;

	assert_int_equal(stat("/dev/kvm", &st), 0);
	assert_true(S_ISCHR(st.st_mode));
	assert_int_equal(st.st_rdev, 10 << 8 | 232);
	assert_int_equal(access("/dev/kvm", R_OK | W_OK), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(system_ioctls_check_their_arguments),
		cmocka_unit_test(memory_region_errors_are_kvms),
		cmocka_unit_test(vm_ioctls_check_their_arguments),
		cmocka_unit_test(vcpu_ioctls_check_their_arguments),
		cmocka_unit_test(msr_filter_that_is_refused_changes_nothing),
		cmocka_unit_test(order_of_checks_is_kvms),
		cmocka_unit_test(state_that_is_not_there_is_not_looked_at),
		cmocka_unit_test(width_of_addresses_may_be_nonsense),
		cmocka_unit_test(msi_to_nobody_returns_0),
		cmocka_unit_test(child_of_a_fork_gets_eio),
		cmocka_unit_test(descriptors_work_after_dup_and_in_any_closing_order),
		cmocka_unit_test(dev_kvm_looks_like_a_character_device),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
