/*
 * KVM_CHECK_EXTENSION says yes only to what works: each capability this KVM
 * announces is used here, or named with the test that uses it. A capability
 * nobody has thought of fails the test.
 */
#include <stdio.h>
#include <sys/eventfd.h>

#include "guest_code.h"
#include "paging.h"

typedef void probe(struct client *c, int value);

static void positive(struct client *c, int value)
{
	assert_true(value > 0);
}

static void vcpus(struct client *c, int value)
{
	int fds[64], n = value < 64 ? value : 64;

	for (int i = 1; i < n; i++) {
		fds[i] = ioctl(c->vm, KVM_CREATE_VCPU, i);
		assert_true(fds[i] >= 0);
	}
	for (int i = 1; i < n; i++)
		close(fds[i]);
}

static void max_vcpu_id(struct client *c, int value)
{
	int fd = ioctl(c->vm, KVM_CREATE_VCPU, value - 1);

	assert_true(fd >= 0);
	close(fd);
	assert_fails(ioctl(c->vm, KVM_CREATE_VCPU, value), EINVAL);
}

static void memslots(struct client *c, int value)
{
	struct kvm_userspace_memory_region r = {
		.slot = (uint32_t)value - 1, .guest_phys_addr = 1ull << 32, .memory_size = 4096, .userspace_addr = (uintptr_t)c->mem,
	};

	assert_int_equal(ioctl(c->vm, KVM_SET_USER_MEMORY_REGION, &r), 0);
	r.memory_size = 0;
	assert_int_equal(ioctl(c->vm, KVM_SET_USER_MEMORY_REGION, &r), 0);
	r.slot++;
	r.memory_size = 4096;
	assert_fails(ioctl(c->vm, KVM_SET_USER_MEMORY_REGION, &r), EINVAL);
}

static void address_spaces(struct client *c, int value)
{
	struct kvm_userspace_memory_region r = {
		.slot = (uint32_t)(value - 1) << 16, .memory_size = 4096, .userspace_addr = (uintptr_t)c->mem,
	};

	assert_int_equal(ioctl(c->vm, KVM_SET_USER_MEMORY_REGION, &r), 0);
	r.slot = (uint32_t)value << 16;
	assert_fails(ioctl(c->vm, KVM_SET_USER_MEMORY_REGION, &r), EINVAL);
}

static void nr_mmu_pages(struct client *c, int value)
{
	assert_int_equal(ioctl(c->vm, KVM_SET_NR_MMU_PAGES, 4096), 0);
	assert_int_equal(ioctl(c->vm, KVM_GET_NR_MMU_PAGES, 0), 4096);
	assert_fails(ioctl(c->vm, KVM_SET_NR_MMU_PAGES, 1), EINVAL);
}

static void mp_state(struct client *c, int value)
{
	struct kvm_mp_state s = {.mp_state = 99};

	assert_int_equal(ioctl(c->vcpu, KVM_GET_MP_STATE, &s), 0);
	assert_int_equal(s.mp_state, KVM_MP_STATE_RUNNABLE);
	assert_int_equal(ioctl(c->vcpu, KVM_SET_MP_STATE, &s), 0);
	s.mp_state = 99;
	assert_fails(ioctl(c->vcpu, KVM_SET_MP_STATE, &s), EINVAL);
}

static void nested_state(struct client *c, int value)
{
	struct kvm_nested_state s = {.size = sizeof(s)};

	assert_int_equal(value, sizeof(s) + 2 * 4096);
	assert_int_equal(ioctl(c->vcpu, KVM_GET_NESTED_STATE, &s), 0);
	assert_int_equal(s.size, sizeof(s));
}

static void enlightened_vmcs(struct client *c, int value)
{
	uint16_t version = 0;
	struct kvm_enable_cap e = {.cap = KVM_CAP_HYPERV_ENLIGHTENED_VMCS, .args = {(uintptr_t)&version}};

	assert_int_equal(value, 1);
	assert_int_equal(ioctl(c->vcpu, KVM_ENABLE_CAP, &e), 0);
	assert_int_equal(version, 0x101);
}

static void sregs2(struct client *c, int value)
{
	struct kvm_sregs2 s;

	assert_int_equal(ioctl(c->vcpu, KVM_GET_SREGS2, &s), 0);
	assert_int_equal(ioctl(c->vcpu, KVM_SET_SREGS2, &s), 0);
	s.flags = 0x80;
	assert_fails(ioctl(c->vcpu, KVM_SET_SREGS2, &s), EINVAL);
}

static void xsave2(struct client *c, int value)
{
	uint8_t *area = malloc((size_t)value);

	assert_true(value >= 4096);
	assert_int_equal(ioctl(c->vcpu, KVM_GET_XSAVE2, area), 0);
	free(area);
}

static void emulated_cpuid(struct client *c, int value)
{
	struct {
		struct kvm_cpuid2 h;
		struct kvm_cpuid_entry2 e[64];
	} cpuid = {.h.nent = 64};

	assert_int_equal(ioctl(c->kvm, KVM_GET_EMULATED_CPUID, &cpuid), 0);
}

static void guest_debug2(struct client *c, int value)
{
	struct kvm_guest_debug d = {.control = (uint32_t)value};

	d.control &= ~(uint32_t)(KVM_GUESTDBG_INJECT_DB | KVM_GUESTDBG_INJECT_BP);
	assert_int_equal(ioctl(c->vcpu, KVM_SET_GUEST_DEBUG, &d), 0);
	d.control = ~(uint32_t)value;
	assert_fails(ioctl(c->vcpu, KVM_SET_GUEST_DEBUG, &d), EINVAL);
	d.control = 0;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_GUEST_DEBUG, &d), 0);
}

static void enable(struct client *c, uint32_t cap, uint64_t good, uint64_t bad)
{
	struct kvm_enable_cap e = {.cap = cap, .args = {good}};

	assert_int_equal(ioctl(c->vm, KVM_ENABLE_CAP, &e), 0);
	if (bad) {
		e.args[0] = bad;
		assert_fails(ioctl(c->vm, KVM_ENABLE_CAP, &e), EINVAL);
	}
	e.flags = 1;
	assert_fails(ioctl(c->vm, KVM_ENABLE_CAP, &e), EINVAL);
}

/* #TF as an event: KVM_VCPUEVENT_VALID_TRIPLE_FAULT. */
static void triple_fault_event(struct client *c, int value)
{
	struct kvm_vcpu_events e;

	enable(c, KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1, 0);
	assert_int_equal(ioctl(c->vcpu, KVM_GET_VCPU_EVENTS, &e), 0);
	assert_true(e.flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT);
	assert_int_equal(e.triple_fault.pending, 0);
	e.triple_fault.pending = 1;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_VCPU_EVENTS, &e), 0);
	assert_run_exits(c, KVM_EXIT_SHUTDOWN);
}

static void disable_quirks2(struct client *c, int value)
{
	enable(c, KVM_CAP_DISABLE_QUIRKS2, (uint64_t)value, ~(uint64_t)value);
}

static void msr_features(struct client *c, int value)
{
	struct {
		struct kvm_msr_list h;
		uint32_t i[64];
	} list = {.h.nmsrs = 64};
	struct {
		struct kvm_msrs h;
		struct kvm_msr_entry e[64];
	} m = {0};

	assert_int_equal(ioctl(c->kvm, KVM_GET_MSR_FEATURE_INDEX_LIST, &list), 0);
	for (uint32_t i = 0; i < list.h.nmsrs; i++)
		m.e[i].index = list.i[i];
	m.h.nmsrs = list.h.nmsrs;
	assert_int_equal(ioctl(c->kvm, KVM_GET_MSRS, &m), (int)list.h.nmsrs);
}

GUEST_CODE(read_msrs, 64,
	   "mov $0xce, %ecx; rdmsr; outb %al, $0x41; mov $0x12345678, %ecx; rdmsr; mov %rax, %r8; mov $5, %eax\n"
	   "mov $6, %edx; wrmsr; mov $0x10, %ecx; rdmsr; outb %al, $0x40");

static void start_msr_guest(struct client *c)
{
	paging_start(c, PAGING_LONG, 0, 0, 0, 0);
	memcpy(c->mem + AT_CODE, read_msrs, GUEST_CODE_SIZE(read_msrs));
}

static void platform_info(struct client *c, int value)
{
	start_msr_guest(c);
	assert_int_equal(client_next_out(c), 0x41);
	enable(c, KVM_CAP_MSR_PLATFORM_INFO, 0, 0);
	start_msr_guest(c);
	assert_int_equal(client_next_out(c), 13);
}

static void user_space_msr(struct client *c, int value)
{
	enable(c, KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_UNKNOWN, 0x80);
	start_msr_guest(c);
	assert_int_equal(client_next_out(c), 0x41);
	assert_run_exits(c, KVM_EXIT_X86_RDMSR);
	assert_int_equal(c->run->msr.index, 0x12345678);
	assert_int_equal(c->run->msr.reason, KVM_MSR_EXIT_REASON_UNKNOWN);
	c->run->msr.data = 0x1234;
	assert_run_exits(c, KVM_EXIT_X86_WRMSR);
	assert_int_equal(client_regs(c).r8, 0x1234);
	assert_int_equal(c->run->msr.data, 6ull << 32 | 5);
	c->run->msr.error = 1;
	assert_int_equal(client_next_out(c), 13);
}

static void msr_filter(struct client *c, int value)
{
	uint8_t nothing[8] = {0}; /* as many as are read: longs */
	struct kvm_msr_filter f = {.ranges[0] = {.flags = KVM_MSR_FILTER_READ, .nmsrs = 1, .base = 0x10, .bitmap = nothing}};

	enable(c, KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER, 0);
	assert_int_equal(ioctl(c->vm, KVM_X86_SET_MSR_FILTER, &f), 0);
	start_msr_guest(c);
	assert_int_equal(client_next_out(c), 0x41);
	assert_run_exits(c, KVM_EXIT_X86_RDMSR);
	assert_run_exits(c, KVM_EXIT_X86_WRMSR);
	assert_run_exits(c, KVM_EXIT_X86_RDMSR); /* the TSC, else without an exit */
	assert_int_equal(c->run->msr.index, 0x10);
	assert_int_equal(c->run->msr.reason, KVM_MSR_EXIT_REASON_FILTER);
	assert_int_equal(client_next_out(c), 0x40);
	f.flags = 0x80;
	assert_fails(ioctl(c->vm, KVM_X86_SET_MSR_FILTER, &f), EINVAL);
}

GUEST_CODE(read_mce, 64, "mov $0x401, %ecx; rdmsr; outb %al, $0x40");

static void mce(struct client *c, int banks)
{
	uint64_t supported, cap;
	struct kvm_x86_mce e = {.status = 1ull << 63 | 1ull << 60 | 0x5a, .addr = 0x1000, .misc = 7, .bank = 0};

	assert_int_equal(ioctl(c->kvm, KVM_X86_GET_MCE_CAP_SUPPORTED, &supported), 0);
	cap = supported | (uint64_t)banks;
	assert_int_equal(ioctl(c->vcpu, KVM_X86_SETUP_MCE, &cap), 0);
	assert_int_equal(ioctl(c->vcpu, KVM_X86_SET_MCE, &e), 0);
	paging_start(c, PAGING_LONG, 0, 0, 0, 0);
	memcpy(c->mem + AT_CODE, read_mce, GUEST_CODE_SIZE(read_mce));
	assert_int_equal(client_next_out(c), 0x40);
	assert_int_equal(client_regs(c).rax & 0xff, 0x5a);
	cap = 1ull << 40;
	assert_fails(ioctl(c->vcpu, KVM_X86_SETUP_MCE, &cap), EINVAL);
}

GUEST_CODE(hypercall, 64, "mov $5, %eax; mov $0, %ecx; vmcall; mov %rax, %r8; mov $0x4b564d01, %ecx; xor %eax, %eax; xor %edx, %edx; wrmsr; outb %al, $0x40");

/* Without the feature in CPUID its MSR and its hypercall are gone. */
static void assert_pv(const void *cpuid, int port, int64_t hypercall_result)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_ENFORCE_PV_FEATURE_CPUID, .args = {1}};
	struct client d;

	client_open_vm(&d, 2 << 20);
	client_add_vcpu(&d);
	paging_start(&d, PAGING_LONG, 0, 0, 0, 0);
	memcpy(d.mem + AT_CODE, hypercall, GUEST_CODE_SIZE(hypercall));
	assert_int_equal(ioctl(d.vcpu, KVM_SET_CPUID2, cpuid), 0);
	assert_int_equal(ioctl(d.vcpu, KVM_ENABLE_CAP, &cap), 0);
	assert_int_equal(client_next_out(&d), port); /* 13: #GP of WRMSR */
	assert_int_equal((int64_t)client_regs(&d).r8, hypercall_result);
	client_close(&d);
}

static void enforce_pv(struct client *c, int value)
{
	paging_start(c, PAGING_LONG, 0, 0, 0, 0);
	memcpy(c->mem + AT_CODE, hypercall, GUEST_CODE_SIZE(hypercall));
	assert_int_equal(client_next_out(c), 0x40);
	struct {
		struct kvm_cpuid2 h;
		struct kvm_cpuid_entry2 e[1];
	} none = {.h.nent = 1, .e = {{.function = 0x40000001, .eax = ~0u}}}; /* nobody's: no signature */
	struct {
		struct kvm_cpuid2 h;
		struct kvm_cpuid_entry2 e[4];
	} beside = {.h.nent = 4,
		    .e = {{.function = 0x40000000, .eax = 0x40000001, .ebx = 0x7263694d, .ecx = 0x666f736f, .edx = 0x76482074},
			  {.function = 0x40000001, .eax = 0x31237648},
			  {.function = 0x40000100, .eax = 0x40000101, .ebx = 0x4b4d564b, .ecx = 0x564b4d56, .edx = 0x4d},
			  {.function = 0x40000101, .eax = 1 << 3 | 1 << 7}}};

	assert_pv(&none, 13, -1000);
	/* Hyper-V's leaves come first: KVM's are at 40000100h; KICK_CPU is there to be called */
	assert_pv(&beside, 0x40, 0);
	beside.e[3].eax = 1 << 3;
	assert_pv(&beside, 0x40, -1000);
	beside.e[3].eax = 1 << 7;
	assert_pv(&beside, 13, 0);
	/* bits of the leaf that is Hyper-V's are none of KVM's */
	beside.e[1].eax = ~0u;
	beside.e[3].eax = 0;
	assert_pv(&beside, 13, -1000);
}

/* TPR access reporting and the APIC page of FlexPriority's days. */
static void vapic(struct client *c, int value)
{
	struct kvm_vapic_addr a = {.vapic_addr = 0};
	struct client d;

	client_open_vm(&d, 1 << 20);
	assert_int_equal(ioctl(d.vm, KVM_CREATE_IRQCHIP, 0), 0);
	client_add_vcpu(&d);
	assert_int_equal(ioctl(d.vcpu, KVM_SET_VAPIC_ADDR, &a), 0);
	client_close(&d);
}

static void irq_inject_status(struct client *c, int value)
{
	struct kvm_irq_level line = {.irq = 5, .level = 1};
	struct client d;

	client_open_vm(&d, 1 << 20);
	assert_int_equal(ioctl(d.vm, KVM_CREATE_IRQCHIP, 0), 0);
	client_add_vcpu(&d);
	assert_int_equal(ioctl(d.vm, KVM_IRQ_LINE_STATUS, &line), 0);
	assert_true(line.status > 0);
	assert_int_equal(ioctl(d.vm, KVM_IRQ_LINE_STATUS, &line), 0);
	client_close(&d);
}

static void pit_state(struct client *c, int value)
{
	struct kvm_pit_config config = {0};
	struct kvm_pit_state2 s;
	struct kvm_pit_state first;
	struct kvm_reinject_control r = {.pit_reinject = 0};
	struct client d;

	client_open_vm(&d, 1 << 20);
	assert_fails(ioctl(d.vm, KVM_GET_PIT2, &s), ENXIO);
	assert_int_equal(ioctl(d.vm, KVM_CREATE_IRQCHIP, 0), 0);
	assert_int_equal(ioctl(d.vm, KVM_CREATE_PIT2, &config), 0);
	assert_int_equal(ioctl(d.vm, KVM_GET_PIT2, &s), 0);
	s.channels[0].mode = 2;
	s.channels[0].count = 0x1234;
	assert_int_equal(ioctl(d.vm, KVM_SET_PIT2, &s), 0);
	assert_int_equal(ioctl(d.vm, KVM_GET_PIT, &first), 0);
	assert_int_equal(first.channels[0].count, 0x1234);
	assert_int_equal(ioctl(d.vm, KVM_SET_PIT, &first), 0);
	assert_int_equal(ioctl(d.vm, KVM_REINJECT_CONTROL, &r), 0);
	client_close(&d);
}

static void adjust_clock(struct client *c, int flags)
{
	struct kvm_clock_data d;

	assert_int_equal(ioctl(c->vm, KVM_GET_CLOCK, &d), 0);
	assert_int_equal(d.flags & (uint32_t)flags, flags);
	assert_int_equal(ioctl(c->vm, KVM_SET_CLOCK, &d), 0);
	d.flags = ~(uint32_t)flags;
	assert_fails(ioctl(c->vm, KVM_SET_CLOCK, &d), EINVAL);
}

static void system_attributes(struct client *c, int value)
{
	uint64_t xcr0 = 0;
	struct kvm_device_attr a = {.attr = KVM_X86_XCOMP_GUEST_SUPP, .addr = (uintptr_t)&xcr0};

	assert_int_equal(ioctl(c->kvm, KVM_HAS_DEVICE_ATTR, &a), 0);
	assert_int_equal(ioctl(c->kvm, KVM_GET_DEVICE_ATTR, &a), 0);
	assert_true(xcr0 & 1);
	a.attr = 99;
	assert_fails(ioctl(c->kvm, KVM_HAS_DEVICE_ATTR, &a), ENXIO);
}

static void vm_check(struct client *c, int value)
{
	assert_int_equal(ioctl(c->vm, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY), 1);
}

/* `positive` rows: what works is shown by the test named. */
static const struct {
	int cap;
	const char *name;
	probe *probe;
} rows[] = {
#define ROW(cap, probe) {cap, #cap, probe}
	ROW(KVM_CAP_USER_MEMORY, positive),		    /* all */
	ROW(KVM_CAP_DESTROY_MEMORY_REGION_WORKS, positive), /* test_first.c: slot deleted */
	ROW(KVM_CAP_JOIN_MEMORY_REGIONS_WORKS, positive),   /* test_first.c: slot made again */
	ROW(KVM_CAP_SYNC_MMU, positive),		    /* test_wild.c: truncated and regrown file */
	ROW(KVM_CAP_READONLY_MEM, positive),		    /* test_first.c */
	ROW(KVM_CAP_NR_MEMSLOTS, memslots),
	ROW(KVM_CAP_MULTI_ADDRESS_SPACE, address_spaces),
	ROW(KVM_CAP_MMU_SHADOW_CACHE_CONTROL, nr_mmu_pages),
	ROW(KVM_CAP_SET_TSS_ADDR, positive),	      /* test_state.c */
	ROW(KVM_CAP_SET_IDENTITY_MAP_ADDR, positive), /* test_state.c */
	ROW(KVM_CAP_NR_VCPUS, vcpus),
	ROW(KVM_CAP_MAX_VCPUS, vcpus),
	ROW(KVM_CAP_MAX_VCPU_ID, max_vcpu_id),
	ROW(KVM_CAP_SET_BOOT_CPU_ID, positive), /* test_state.c */
	ROW(KVM_CAP_MP_STATE, mp_state),
	ROW(KVM_CAP_HLT, positive),		   /* test_first.c */
	ROW(KVM_CAP_IMMEDIATE_EXIT, positive),	   /* test_signals.c, test_state.c */
	ROW(KVM_CAP_INTERNAL_ERROR_DATA, positive), /* test_wild.c */
	ROW(KVM_CAP_NOP_IO_DELAY, positive),	   /* port 80h needs no delay: nothing to do */
	ROW(KVM_CAP_EXT_CPUID, positive),	   /* paging.h */
	ROW(KVM_CAP_EXT_EMUL_CPUID, emulated_cpuid),
	ROW(KVM_CAP_SREGS2, sregs2),
	ROW(KVM_CAP_XSAVE, positive), /* test_state.c */
	ROW(KVM_CAP_XSAVE2, xsave2),
	ROW(KVM_CAP_XCRS, positive),		  /* test_state.c */
	ROW(KVM_CAP_DEBUGREGS, positive),	  /* test_guest_debug.c */
	ROW(KVM_CAP_VCPU_EVENTS, positive),	  /* test_state.c */
	ROW(KVM_CAP_EXCEPTION_PAYLOAD, positive), /* test_state.c */
	ROW(KVM_CAP_SET_GUEST_DEBUG, positive),	  /* test_guest_debug.c */
	ROW(KVM_CAP_SET_GUEST_DEBUG2, guest_debug2),
	ROW(KVM_CAP_X86_TRIPLE_FAULT_EVENT, triple_fault_event),
	ROW(KVM_CAP_SYNC_REGS, positive),      /* test_state.c */
	ROW(KVM_CAP_EXIT_HYPERCALL, positive), /* test_state.c */
	ROW(KVM_CAP_EXIT_ON_EMULATION_FAILURE, positive), /* test_corners.c */
	ROW(KVM_CAP_GET_MSR_FEATURES, msr_features),
	ROW(KVM_CAP_MSR_PLATFORM_INFO, platform_info),
	ROW(KVM_CAP_X86_USER_SPACE_MSR, user_space_msr),
	ROW(KVM_CAP_X86_MSR_FILTER, msr_filter),
	ROW(KVM_CAP_MCE, mce),
	ROW(KVM_CAP_ENFORCE_PV_FEATURE_CPUID, enforce_pv),
	ROW(KVM_CAP_ASYNC_PF, positive),     /* test_async_pf.c */
	ROW(KVM_CAP_ASYNC_PF_INT, positive), /* test_async_pf.c */
	ROW(KVM_CAP_DISABLE_QUIRKS, positive),
	ROW(KVM_CAP_DISABLE_QUIRKS2, disable_quirks2),
	ROW(KVM_CAP_IRQCHIP, positive), /* test_irq.c */
	ROW(KVM_CAP_VAPIC, vapic),
	ROW(KVM_CAP_SPLIT_IRQCHIP, positive), /* test_io.c */
	ROW(KVM_CAP_X2APIC_API, positive),    /* test_smp*.c */
	ROW(KVM_CAP_IRQ_INJECT_STATUS, irq_inject_status),
	ROW(KVM_CAP_IRQ_ROUTING, positive),	       /* test_io.c */
	ROW(KVM_CAP_SIGNAL_MSI, positive),	       /* test_io.c */
	ROW(KVM_CAP_IRQFD, positive),		       /* test_irq.c, test_io.c */
	ROW(KVM_CAP_IRQFD_RESAMPLE, positive),	       /* test_io.c */
	ROW(KVM_CAP_IOAPIC_POLARITY_IGNORED, positive), /* unit irq/test_ioapic.c */
	ROW(KVM_CAP_USER_NMI, positive),	       /* test_irq.c */
	ROW(KVM_CAP_NESTED_STATE, nested_state),       /* the rest: test_nested_state.c */
	ROW(KVM_CAP_X86_SMM, positive),		       /* test_smm.c */
	ROW(KVM_CAP_VM_TSC_CONTROL, positive),	       /* test_time.c */
	ROW(KVM_CAP_HYPERV, positive),		       /* the rest: test_hyperv.c */
	ROW(KVM_CAP_HYPERV_TIME, positive),
	ROW(KVM_CAP_HYPERV_SPIN, positive),
	ROW(KVM_CAP_HYPERV_VP_INDEX, positive),
	ROW(KVM_CAP_HYPERV_CPUID, positive),
	ROW(KVM_CAP_SYS_HYPERV_CPUID, positive),
	ROW(KVM_CAP_HYPERV_ENFORCE_CPUID, positive),
	ROW(KVM_CAP_HYPERV_ENLIGHTENED_VMCS, enlightened_vmcs), /* the rest: test_nested_evmcs.c */
	ROW(KVM_CAP_HYPERV_VAPIC, positive),
	ROW(KVM_CAP_HYPERV_SYNIC, positive), /* test_hyperv_synic.c */
	ROW(KVM_CAP_HYPERV_SYNIC2, positive),
	ROW(KVM_CAP_HYPERV_EVENTFD, positive), /* test_hyperv_hypercall.c */
	ROW(KVM_CAP_HYPERV_TLBFLUSH, positive),
	ROW(KVM_CAP_HYPERV_SEND_IPI, positive),
	ROW(KVM_CAP_VCPU_ATTRIBUTES, positive),	       /* test_time.c */
	ROW(KVM_CAP_PIT, positive),		       /* below */
	ROW(KVM_CAP_PIT2, positive),		       /* test_irq.c */
	ROW(KVM_CAP_PIT_STATE2, pit_state),
	ROW(KVM_CAP_REINJECT_CONTROL, pit_state),
	ROW(KVM_CAP_TSC_DEADLINE_TIMER, positive),   /* test_time.c */
	ROW(KVM_CAP_TSC_CONTROL, positive),	     /* test_time.c */
	ROW(KVM_CAP_IOEVENTFD, positive),	     /* test_irq.c, test_io.c */
	ROW(KVM_CAP_IOEVENTFD_NO_LENGTH, positive),  /* test_io.c */
	ROW(KVM_CAP_IOEVENTFD_ANY_LENGTH, positive), /* test_io.c */
	ROW(KVM_CAP_COALESCED_MMIO, positive),	     /* test_io.c */
	ROW(KVM_CAP_COALESCED_PIO, positive),	     /* test_io.c */
	ROW(KVM_CAP_CLOCKSOURCE, positive),	     /* test_time.c */
	ROW(KVM_CAP_ADJUST_CLOCK, adjust_clock),
	ROW(KVM_CAP_KVMCLOCK_CTRL, positive), /* test_time.c */
	ROW(KVM_CAP_GET_TSC_KHZ, positive),   /* test_time.c */
	ROW(KVM_CAP_CHECK_EXTENSION_VM, vm_check),
	ROW(KVM_CAP_ENABLE_CAP, positive),    /* enforce_pv */
	ROW(KVM_CAP_ENABLE_CAP_VM, positive), /* enable() */
	ROW(KVM_CAP_SYS_ATTRIBUTES, system_attributes),
	/* dirty logging and statistics have test programs of their own */
	ROW(KVM_CAP_DIRTY_LOG_RING, positive),
	ROW(KVM_CAP_DIRTY_LOG_RING_ACQ_REL, positive),
	ROW(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, positive),
	ROW(KVM_CAP_BINARY_STATS_FD, positive),
	ROW(KVM_CAP_VM_DISABLE_NX_HUGE_PAGES, positive),
	ROW(KVM_CAP_X86_DISABLE_EXITS, positive), /* test_disable_exits.c */
	ROW(KVM_CAP_X86_BUS_LOCK_EXIT, positive), /* test_bus_lock.c */
	{ 236, "KVM_CAP_PRE_FAULT_MEMORY", positive },
	{ 231, "KVM_CAP_USER_MEMORY2", positive }, /* both: test_mapping; younger than Debian 12's <linux/kvm.h> */
#undef ROW
};
#define NR_ROWS (sizeof(rows) / sizeof(*rows))

static void every_yes_works(void **state)
{
	int kvm = open("/dev/kvm", O_RDWR);

	for (int cap = 0; cap < 4096; cap++) {
		int value = ioctl(kvm, KVM_CHECK_EXTENSION, cap);
		struct client c;
		size_t i;

		if (value == 0)
			continue;
		assert_true(value > 0);
		for (i = 0; i < NR_ROWS && rows[i].cap != cap; i++)
			;
		if (i == NR_ROWS) {
			fail_msg("capability %d is announced (%d) and nobody tests it", cap, value);
			continue;
		}
		client_open_vm(&c, 2 << 20);
		client_add_vcpu(&c);
		assert_int_equal(ioctl(c.vm, KVM_CHECK_EXTENSION, cap), value);
		print_message("%s = %d\n", rows[i].name, value);
		rows[i].probe(&c, value);
		client_close(&c);
	}
	close(kvm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_yes_works),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
