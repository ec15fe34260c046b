/*
 * Guests with Hyper-V's interface: its MSRs, a vCPU in 64-bit mode that knows
 * the interface, and one MSR access or hypercall of it at a time.
 */
#ifndef TESTS_HYPERV_H
#define TESTS_HYPERV_H

#include "guest_code.h"
#include "paging.h"

#define HV_GUEST_OS_ID 0x40000000u
#define HV_HYPERCALL 0x40000001u
#define HV_VP_INDEX 0x40000002u
#define HV_RESET 0x40000003u
#define HV_VP_RUNTIME 0x40000010u
#define HV_TIME_REF_COUNT 0x40000020u
#define HV_REFERENCE_TSC 0x40000021u
#define HV_TSC_FREQUENCY 0x40000022u
#define HV_APIC_FREQUENCY 0x40000023u
#define HV_EOI 0x40000070u
#define HV_ICR 0x40000071u
#define HV_TPR 0x40000072u
#define HV_VP_ASSIST_PAGE 0x40000073u
#define HV_SCONTROL 0x40000080u
#define HV_SVERSION 0x40000081u
#define HV_SIEFP 0x40000082u
#define HV_SIMP 0x40000083u
#define HV_EOM 0x40000084u
#define HV_SINT(n) (0x40000090u + (n))
#define HV_STIMER_CONFIG(n) (0x400000b0u + 2 * (n))
#define HV_STIMER_COUNT(n) (0x400000b1u + 2 * (n))
#define HV_SYNDBG_CONTROL 0x400000f1u
#define HV_SYNDBG_STATUS 0x400000f2u
#define HV_SYNDBG_SEND_BUFFER 0x400000f3u
#define HV_SYNDBG_RECV_BUFFER 0x400000f4u
#define HV_SYNDBG_PENDING_BUFFER 0x400000f5u
#define HV_SYNDBG_OPTIONS 0x400000ffu
#define HV_CRASH_P(n) (0x40000100u + (n))
#define HV_CRASH_CTL 0x40000105u
#define HV_REENLIGHTENMENT 0x40000106u
#define HV_TSC_EMULATION_CONTROL 0x40000107u
#define HV_TSC_EMULATION_STATUS 0x40000108u

#define HV_FEATURES 0x40000003u
#define HV_HINTS 0x40000004u
#define HV_DEBUG 0x40000082u

#define HV_LINUX (0x8100ull << 48) /* GUEST_OS_ID */
#define PAGE_AT 0x30000

struct cpuid {
	struct kvm_cpuid2 h;
	struct kvm_cpuid_entry2 e[256];
};

/* One MSR access each time it runs: rcx index, r9 0 to read into r8, else write r10. */
GUEST_CODE(access_msr, 64,
	   "1: test %r9, %r9; jz 2f; mov %r10, %rax; mov %r10, %rdx; shr $32, %rdx; wrmsr; jmp 3f\n"
	   "2: rdmsr; shl $32, %rdx; or %rdx, %rax; mov %rax, %r8\n"
	   "3: rdtsc; shl $32, %rdx; or %rdx, %rax; mov %rax, %r11; out %al, $0xe0; jmp 1b");

static inline struct kvm_cpuid_entry2 *leaf(struct cpuid *cpuid, uint32_t function)
{
	for (uint32_t i = 0; i < cpuid->h.nent; i++)
		if (cpuid->e[i].function == function)
			return &cpuid->e[i];
	return NULL;
}

/* All that is supported, Hyper-V's leaves in the place of KVM's. */
static inline void hv_supported(struct client *c, struct cpuid *all)
{
	static struct cpuid plain;

	plain.h.nent = all->h.nent = 256;
	assert_int_equal(ioctl(c->kvm, KVM_GET_SUPPORTED_CPUID, &plain), 0);
	assert_int_equal(ioctl(c->kvm, KVM_GET_SUPPORTED_HV_CPUID, all), 0);
	for (uint32_t i = 0; i < plain.h.nent; i++)
		if (plain.e[i].function >> 16 != 0x4000)
			all->e[all->h.nent++] = plain.e[i];
}

/* A VM and a vCPU that has not heard of Hyper-V yet. */
static inline void hv_start(struct client *c, bool irqchip)
{
	client_open_vm(c, 2 << 20);
	if (irqchip)
		assert_int_equal(ioctl(c->vm, KVM_CREATE_IRQCHIP, 0), 0);
	client_add_vcpu(c);
	paging_start(c, PAGING_LONG, 0, 0, 1 << 9 /* OSFXSR */, 0);
	memcpy(c->mem + AT_CODE, access_msr, GUEST_CODE_SIZE(access_msr));
}

/* features: HV_FEATURES.EAX, or ~0 as supported */
static inline void open_hv(struct client *c, bool hv, uint32_t features)
{
	static struct cpuid all;

	hv_start(c, false);
	if (!hv)
		return;
	hv_supported(c, &all);
	if (features != ~0u)
		leaf(&all, HV_FEATURES)->eax = features;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_CPUID2, &all), 0);
}

/* One register of a leaf of the vCPU's CPUID, before it runs. */
static inline void hv_set_cpuid(struct client *c, uint32_t function, enum cpuid_register reg, uint32_t value)
{
	static struct cpuid cpuid;

	cpuid.h.nent = 256;
	assert_int_equal(ioctl(c->vcpu, KVM_GET_CPUID2, &cpuid), 0);
	(&leaf(&cpuid, function)->eax)[reg] = value;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_CPUID2, &cpuid), 0);
}

static inline void hv_enable(struct client *c, uint32_t cap, uint64_t arg)
{
	struct kvm_enable_cap e = {.cap = cap, .args = {arg}};

	assert_int_equal(ioctl(c->vcpu, KVM_ENABLE_CAP, &e), 0);
}

/* With everything, and a local APIC that is on. */
static inline void open_hv_apic(struct client *c)
{
	static struct cpuid all;
	struct kvm_lapic_state lapic;

	hv_start(c, true);
	hv_supported(c, &all);
	assert_int_equal(ioctl(c->vcpu, KVM_SET_CPUID2, &all), 0);
	assert_int_equal(ioctl(c->vcpu, KVM_GET_LAPIC, &lapic), 0);
	lapic.regs[0xf1] = 1; /* SPIV */
	assert_int_equal(ioctl(c->vcpu, KVM_SET_LAPIC, &lapic), 0);
}

/* What the guest's next exit is for is the caller's to see. */
static inline void hv_prepare(struct client *c, uint32_t index, bool write, uint64_t value)
{
	struct kvm_regs r = client_regs(c);

	r.rcx = index;
	r.r9 = write;
	r.r10 = value;
	r.rip = AT_CODE;
	r.rsp = 0x8000;
	r.rflags = 2 | EFLAGS_IOPL3;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_REGS, &r), 0);
}

/* The port it ends at: 0xe0, or 13 for #GP. */
static inline int guest_msr(struct client *c, uint32_t index, bool write, uint64_t *value)
{
	int port;

	hv_prepare(c, index, write, *value);
	port = client_next_out(c);
	*value = client_regs(c).r8;
	return port;
}

static inline uint64_t guest_read(struct client *c, uint32_t index)
{
	uint64_t v = 0;

	assert_int_equal(guest_msr(c, index, false, &v), 0xe0);
	return v;
}

static inline void guest_write(struct client *c, uint32_t index, uint64_t v)
{
	assert_int_equal(guest_msr(c, index, true, &v), 0xe0);
}

static inline void guest_write_faults(struct client *c, uint32_t index, uint64_t v)
{
	assert_int_equal(guest_msr(c, index, true, &v), 13);
}

static inline void guest_read_faults(struct client *c, uint32_t index)
{
	uint64_t v = 0;

	assert_int_equal(guest_msr(c, index, false, &v), 13);
}

#endif
