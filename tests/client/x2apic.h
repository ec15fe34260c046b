/*
 * A 64-bit guest of paging.h that takes interrupts through a local APIC in
 * x2APIC mode, by handlers of its test's.
 */
#ifndef TESTS_X2APIC_H
#define TESTS_X2APIC_H

#include "guest_code.h"
#include "paging.h"

#define MSR_APICBASE 0x1b
#define X2APIC_ENABLE 0xc00

/* Guest code; all of it changes eax, ecx and edx. */
#define X2APIC_WRMSR(msr, value) "mov $" msr ", %ecx; mov $" value ", %eax; xor %edx, %edx; wrmsr\n"
#define X2APIC_ON X2APIC_WRMSR("0x80f", "0x1ff")
#define X2APIC_EOI X2APIC_WRMSR("0x80b", "0")

/* With all chips in the kernel. */
static inline void x2apic_open_vm(struct client *c, size_t size)
{
	struct kvm_pit_config pit = {0};

	client_open_vm(c, size);
	assert_int_equal(ioctl(c->vm, KVM_CREATE_IRQCHIP, 0), 0);
	assert_int_equal(ioctl(c->vm, KVM_CREATE_PIT2, &pit), 0);
	client_add_vcpu(c);
}

/* After paging_start(). The APIC is the guest's to enable (X2APIC_ON), any vector of the IDT can be used. */
static inline void x2apic_mode(struct client *c)
{
	struct kvm_sregs s;

	assert_int_equal(ioctl(c->vcpu, KVM_GET_SREGS, &s), 0);
	s.idt.limit = 0xfff;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_SREGS, &s), 0);
	client_set_msr(c, MSR_APICBASE, client_msr(c, MSR_APICBASE) | X2APIC_ENABLE);
}

/* At most 256 bytes of code, put at `at`. */
static inline void x2apic_handler(struct client *c, int vector, uint32_t at, const uint8_t *code, const uint8_t *end)
{
	uint64_t *gate = (uint64_t *)(c->mem + AT_IDT) + 2 * vector;

	assert_true(end - code <= 0x100);
	memcpy(c->mem + at, code, (size_t)(end - code));
	gate[0] = at | 0x080000 | 0x8e0000000000ULL; /* selector 8, interrupt gate */
	gate[1] = 0;
}

/* A message to vCPU 0, which takes it. */
static inline void x2apic_msi(struct client *c, uint32_t data)
{
	struct kvm_msi m = {.address_lo = 0xfee00000, .data = data};

	assert_int_equal(ioctl(c->vm, KVM_SIGNAL_MSI, &m), 1);
}

#endif
