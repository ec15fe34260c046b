/*
 * A VM with interrupt controllers and no processor: vCPUs never run, so tests
 * look at requests and registers.
 */
#ifndef TESTS_IRQ_FIXTURE_H
#define TESTS_IRQ_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "host/timer.h"
#include "irq/internal.h"
#include "lib/error.h"

static struct kvm *vm;
static struct kvm_vcpu *cpu[8];
static int nmis[8], smis[8];
static int synic_eois[256];
static bool with_x2apic = true, with_32bit_ids;
static uint64_t guest_tsc_offset;

static inline uint64_t fix_tsc(struct kvm_vcpu *v)
{
	return host_tsc() + guest_tsc_offset;
}

static inline uint64_t fix_khz(struct kvm_vcpu *v)
{
	return host_tsc_khz();
}

static inline bool fix_x2apic(struct kvm_vcpu *v)
{
	return with_x2apic;
}

static inline bool fix_format(struct kvm *k)
{
	return with_32bit_ids;
}

static inline void fix_nmi(struct kvm_vcpu *v)
{
	nmis[v->vcpu_idx]++;
}

static inline void fix_smi(struct kvm_vcpu *v)
{
	smis[v->vcpu_idx]++;
}

static inline void fix_synic_eoi(struct kvm_vcpu *v, uint8_t vector)
{
	synic_eois[vector]++;
}

static unsigned announcements;

static inline void fix_announced(struct kvm *kvm)
{
	__atomic_fetch_add(&announcements, 1, __ATOMIC_SEQ_CST);
}

static const struct kvm_lapic_ops fix_lapic_ops = {
	.memory_announced = fix_announced,
	.read_guest_tsc = fix_tsc,
	.guest_tsc_khz = fix_khz,
	.has_x2apic = fix_x2apic,
	.inject_nmi = fix_nmi,
	.inject_smi = fix_smi,
	.x2apic_format = fix_format,
	.synic_eoi = fix_synic_eoi,
};

static inline int fix_vcpu_create(struct kvm_vcpu *v)
{
	return irqchip_in_kernel(v->kvm) ? kvm_create_lapic(v) : 0;
}

static const struct kvm_arch_ops fix_arch_ops = {
	.destroy_vm = kvm_irqchip_destroy,
	.vcpu_create = fix_vcpu_create,
	.vcpu_destroy = kvm_free_lapic,
};

enum fix_chips { FIX_NONE, FIX_KERNEL, FIX_SPLIT };

static inline void fix_start(enum fix_chips chips, int nr_cpus)
{
	with_x2apic = true;
	with_32bit_ids = false;
	memset(nmis, 0, sizeof(nmis));
	memset(smis, 0, sizeof(smis));
	memset(synic_eois, 0, sizeof(synic_eois));
	kvm_register_arch(&fix_arch_ops);
	kvm_irq_register(&fix_lapic_ops);
	assert_int_equal(kvm_create_vm(&vm), 0);
	if (chips == FIX_KERNEL)
		assert_int_equal(kvm_irqchip_create(vm), 0);
	if (chips == FIX_SPLIT)
		assert_int_equal(kvm_irqchip_create_split(vm, 24), 0);
	for (int i = 0; i < nr_cpus; i++)
		assert_int_equal(kvm_create_vcpu(vm, (uint32_t)i, &cpu[i]), 0);
}

static inline int fix_stop(void **state)
{
	kvm_put_kvm(vm);
	vm = NULL;
	return 0;
}

/* --- the guest's accesses --- */
static inline void apic_write(int c, uint32_t reg, uint32_t val)
{
	gpa_t base = kvm_get_apic_base(cpu[c]) & ~0xfffULL;

	assert_int_equal(kvm_lapic_mmio_write(cpu[c], base + reg, 4, &val), 0);
}

static inline uint32_t apic_read(int c, uint32_t reg)
{
	gpa_t base = kvm_get_apic_base(cpu[c]) & ~0xfffULL;
	uint32_t val;

	assert_int_equal(kvm_lapic_mmio_read(cpu[c], base + reg, 4, &val), 0);
	return val;
}

static inline void apic_enable(int c)
{
	apic_write(c, APIC_SPIV, 0x1ff);
}

static inline bool irr_has(int c, unsigned vector)
{
	return lapic_test_vector(cpu[c]->apic, APIC_IRR, vector);
}

static inline bool isr_has(int c, unsigned vector)
{
	return lapic_test_vector(cpu[c]->apic, APIC_ISR, vector);
}

static inline void outb(uint16_t port, uint8_t val)
{
	assert_int_equal(kvm_io_bus_write(cpu[0], KVM_PIO_BUS, port, 1, &val), 0);
}

static inline uint8_t inb(uint16_t port)
{
	uint8_t val = 0xee;

	assert_int_equal(kvm_io_bus_read(cpu[0], KVM_PIO_BUS, port, 1, &val), 0);
	return val;
}

static inline void ioapic_out(uint32_t reg, uint32_t val)
{
	assert_int_equal(kvm_io_bus_write(cpu[0], KVM_MMIO_BUS, 0xfec00000, 4, &reg), 0);
	assert_int_equal(kvm_io_bus_write(cpu[0], KVM_MMIO_BUS, 0xfec00010, 4, &val), 0);
}

static inline uint32_t ioapic_in(uint32_t reg)
{
	uint32_t val = 0xdeadbeef;

	assert_int_equal(kvm_io_bus_write(cpu[0], KVM_MMIO_BUS, 0xfec00000, 4, &reg), 0);
	assert_int_equal(kvm_io_bus_read(cpu[0], KVM_MMIO_BUS, 0xfec00010, 4, &val), 0);
	return val;
}

/* An entry: low half and destination. */
static inline void ioapic_route(int pin, uint32_t low, uint8_t dest)
{
	ioapic_out(0x11 + 2 * (uint32_t)pin, (uint32_t)dest << 24);
	ioapic_out(0x10 + 2 * (uint32_t)pin, low);
}

static inline void pic_init(uint8_t icw4)
{
	outb(0x20, 0x11);
	outb(0x21, 0x20);
	outb(0x21, 0x04);
	outb(0x21, icw4);
	outb(0xa0, 0x11);
	outb(0xa1, 0x28);
	outb(0xa1, 0x02);
	outb(0xa1, icw4);
	outb(0x21, 0);
	outb(0xa1, 0);
}

static inline int line(uint32_t gsi, int level)
{
	return kvm_set_irq(vm, KVM_USERSPACE_IRQ_SOURCE_ID, gsi, level);
}

static inline void sleep_ns(uint64_t ns)
{
	struct timespec ts = { (time_t)(ns / 1000000000), (long)(ns % 1000000000) };

	nanosleep(&ts, NULL);
}

/* Waits until cond or a second has passed. */
#define WAIT_FOR(cond)                                         \
	do {                                                   \
		uint64_t end_ = host_now_ns() + 1000000000ULL; \
		while (!(cond) && host_now_ns() < end_)        \
			sleep_ns(100000);                      \
	} while (0)

#endif
