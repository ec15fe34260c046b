/*
 * The IOAPIC: 24 pins, one redirection entry each, in KVM's state layout.
 * (Intel 82093AA datasheet; ICH9 datasheet "APIC Memory Map".)
 *
 * Invariants (lock):
 *  1. s.irr bit n: the line of pin n is up. An edge that has been delivered is
 *     also in irr_delivered; until the line falls, another rise is none.
 *  2. remote_irr: a level interrupt was accepted and its EOI has not come; the
 *     pin is not served again before.
 *  3. eoi_vectors is a superset of the vectors whose EOI can concern a pin, so
 *     that other EOIs cost one load and no lock.
 *
 * EOI notifiers run without the lock: they drive lines.
 */
#include <string.h>

#include "irq/internal.h"
#include "lib/error.h"
#include "lib/own.h"
#include "trace/trace.h"

#define IOAPIC_BASE 0xfec00000ULL
#define IOAPIC_LENGTH 0x100
#define IOAPIC_VERSION 0x11U
#define REG_SELECT 0x00
#define REG_WINDOW 0x10
#define IOAPIC_REG_ID 0x00
#define IOAPIC_REG_VERSION 0x01
#define IOAPIC_REG_ARB_ID 0x02
#define IOAPIC_REG_REDIRECTION 0x10
#define RTC_PIN 8

#define RTE(io, pin) ((io)->s.redirtbl[pin].fields)
#define RTE_READ_ONLY (BIT_ULL(12) | BIT_ULL(14)) /* delivery status, remote IRR */

static void compute_eoi_vectors(struct kvm_ioapic *io)
{
	uint64_t vectors[4] = { 0 };

	for (int pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++) {
		uint8_t v = RTE(io, pin).vector;

		if (!RTE(io, pin).mask || RTE(io, pin).remote_irr)
			vectors[v / 64] |= BIT_ULL(v % 64);
	}
	for (int i = 0; i < 4; i++)
		__atomic_store_n(&io->eoi_vectors[i], vectors[i], __ATOMIC_SEQ_CST);
}

/* Send pin's interrupt. -1 masked or waiting for its EOI, else as delivered. Lock held. */
static int service(struct kvm_ioapic *io, int pin)
{
	bool level = RTE(io, pin).trig_mode;
	struct kvm_lapic_irq irq = {
		.dest_id = RTE(io, pin).dest_id,
		.vector = RTE(io, pin).vector,
		.delivery_mode = (uint16_t)(RTE(io, pin).delivery_mode << 8),
		.logical = RTE(io, pin).dest_mode,
		.level = true,
		.level_triggered = level,
	};
	int ret;

	if (RTE(io, pin).mask || (level && RTE(io, pin).remote_irr))
		return -1;
	if (!level)
		io->irr_delivered |= 1U << pin;
	/* Before the APIC has it: its EOI may come at once on another thread. */
	if (level)
		RTE(io, pin).remote_irr = 1;
	ret = kvm_irq_delivery_to_apic(io->kvm, NULL, &irq);
	if (level && ret <= 0)
		RTE(io, pin).remote_irr = 0;
	return ret;
}

static int set_line(struct kvm_ioapic *io, int pin, bool up)
{
	uint32_t bit = 1U << pin, old = io->s.irr;
	bool edge = !RTE(io, pin).trig_mode;

	if (!up) {
		io->s.irr &= ~bit;
		return 1;
	}
	io->s.irr |= bit;
	if (edge) {
		io->irr_delivered &= ~bit;
		if (old & bit)
			return 0;
	}
	return service(io, pin);
}

int kvm_ioapic_set_irq(struct kvm_ioapic *io, int pin, int source_id, int level)
{
	int ret;

	pthread_mutex_lock(&io->lock);
	ret = set_line(io, pin, irq_line_state(&io->drivers[pin], source_id, level));
	TRACE(kvm, kvm_ioapic_set_irq, io->s.redirtbl[pin].bits, pin, ret == 0);
	pthread_mutex_unlock(&io->lock);
	return ret;
}

/* One pin's share of an EOI. Lock held; dropped for the notifiers. */
static void pin_eoi(struct kvm_ioapic *io, int pin, bool directed)
{
	pthread_mutex_unlock(&io->lock);
	kvm_notify_acked_irq(io->kvm, KVM_IRQCHIP_IOAPIC, (uint32_t)pin);
	pthread_mutex_lock(&io->lock);
	if (!RTE(io, pin).trig_mode || directed)
		return;
	RTE(io, pin).remote_irr = 0;
	if (!RTE(io, pin).mask && (io->s.irr & (1U << pin)))
		service(io, pin);
}

/* Does the EOI of an edge-triggered vector at `apic` concern this pin? */
static bool edge_eoi_reaches(struct kvm_ioapic *io, int pin, struct kvm_lapic *apic, uint8_t vector)
{
	return RTE(io, pin).vector == vector && !RTE(io, pin).trig_mode &&
	       lapic_match_dest(apic, NULL, 0, RTE(io, pin).dest_id, RTE(io, pin).dest_mode);
}

static bool may_concern(struct kvm_ioapic *io, uint8_t vector)
{
	return READ_ONCE(io->eoi_vectors[vector / 64]) & BIT_ULL(vector % 64);
}

bool kvm_ioapic_awaits_edge_eoi(struct kvm_lapic *apic, uint8_t vector)
{
	struct kvm_ioapic *io = apic->vcpu->kvm->vioapic;
	bool awaits = false;

	if (!io || !may_concern(io, vector))
		return false;
	pthread_mutex_lock(&io->lock);
	for (int pin = 0; pin < KVM_IOAPIC_NUM_PINS && !awaits; pin++)
		awaits = edge_eoi_reaches(io, pin, apic, vector) &&
			 kvm_irq_has_notifier(io->kvm, KVM_IRQCHIP_IOAPIC, (uint32_t)pin);
	pthread_mutex_unlock(&io->lock);
	return awaits;
}

void kvm_ioapic_scan_entry(struct kvm_lapic *apic, uint64_t vectors[4])
{
	struct kvm_ioapic *io = apic->vcpu->kvm->vioapic;

	pthread_mutex_lock(&io->lock);
	for (int pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++) {
		uint8_t v = RTE(io, pin).vector;

		/* an end of nothing looks like one of vector 0 */
		if (v < 16)
			continue;
		if (!RTE(io, pin).trig_mode && pin != RTC_PIN &&
		    !kvm_irq_has_notifier(io->kvm, KVM_IRQCHIP_IOAPIC, (uint32_t)pin))
			continue;
		/* one that is here already ends here, wherever its pin leads now */
		if (lapic_match_dest(apic, NULL, 0, RTE(io, pin).dest_id, RTE(io, pin).dest_mode) ||
		    lapic_has_vector(apic, v))
			vectors[v / 64] |= BIT_ULL(v % 64);
	}
	pthread_mutex_unlock(&io->lock);
}

void kvm_ioapic_update_eoi(struct kvm_lapic *apic, uint8_t vector, bool level_triggered)
{
	struct kvm_ioapic *io = apic->vcpu->kvm->vioapic;
	bool directed = lapic_get(apic, APIC_SPIV) & APIC_SPIV_DIRECTED_EOI;

	if (!may_concern(io, vector))
		return;
	pthread_mutex_lock(&io->lock);
	for (int pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++) {
		/* A level EOI is broadcast; an edge one is the addressed APIC's own. */
		if (level_triggered ? RTE(io, pin).vector != vector
				    : !edge_eoi_reaches(io, pin, apic, vector))
			continue;
		pin_eoi(io, pin, directed || !level_triggered);
	}
	pthread_mutex_unlock(&io->lock);
}

static uint32_t read_register(struct kvm_ioapic *io)
{
	uint32_t index = io->s.ioregsel, pin = (index - IOAPIC_REG_REDIRECTION) / 2;

	switch (index) {
	case IOAPIC_REG_VERSION:
		return (KVM_IOAPIC_NUM_PINS - 1) << 16 | IOAPIC_VERSION;
	case IOAPIC_REG_ID:
	case IOAPIC_REG_ARB_ID:
		return (io->s.id & 0xf) << 24;
	default:
		if (index < IOAPIC_REG_REDIRECTION || pin >= KVM_IOAPIC_NUM_PINS)
			return 0xffffffffU;
		return (uint32_t)(io->s.redirtbl[pin].bits >> (index & 1 ? 32 : 0));
	}
}

/* Returns true when the mask bit changed. */
static bool write_entry(struct kvm_ioapic *io, int pin, bool high, uint32_t val)
{
	uint64_t old = io->s.redirtbl[pin].bits, new;
	bool was_masked = RTE(io, pin).mask;

	if (high)
		new = (uint32_t)old | (uint64_t)val << 32;
	else
		new = (old & ~(uint64_t)UINT32_MAX) | (val & ~RTE_READ_ONLY) |
		      (old & RTE_READ_ONLY);
	io->s.redirtbl[pin].bits = new;
	/* Linux and Xen clear a stuck remote IRR by a switch to edge and back. */
	if (!RTE(io, pin).trig_mode)
		RTE(io, pin).remote_irr = 0;
	compute_eoi_vectors(io);
	kvm_make_scan_ioapic_request(io->kvm);
	if (RTE(io, pin).trig_mode && (io->s.irr & (1U << pin)))
		service(io, pin);
	return was_masked != RTE(io, pin).mask;
}

/* Lock held; dropped to tell the PIT of a mask change. */
static void write_register(struct kvm_ioapic *io, uint32_t val)
{
	uint32_t index = io->s.ioregsel, pin = (index - IOAPIC_REG_REDIRECTION) / 2;

	if (index == IOAPIC_REG_ID) {
		io->s.id = (val >> 24) & 0xf;
		return;
	}
	if (index < IOAPIC_REG_REDIRECTION || pin >= KVM_IOAPIC_NUM_PINS)
		return;
	if (write_entry(io, (int)pin, index & 1, val)) {
		bool masked = RTE(io, pin).mask;

		pthread_mutex_unlock(&io->lock);
		kvm_pit_mask_changed(io->kvm, KVM_IRQCHIP_IOAPIC, pin, masked);
		pthread_mutex_lock(&io->lock);
	}
}

static int ioapic_read(struct kvm_vcpu *vcpu, struct kvm_io_device *dev, gpa_t addr, int len,
		       void *val)
{
	struct kvm_ioapic *io = container_of(dev, struct kvm_ioapic, dev);
	uint64_t result = 0;

	if (addr & 0xf)
		return -EOPNOTSUPP;
	pthread_mutex_lock(&io->lock);
	if ((addr & 0xff) == REG_SELECT)
		result = io->s.ioregsel;
	else if ((addr & 0xff) == REG_WINDOW)
		result = read_register(io);
	pthread_mutex_unlock(&io->lock);
	memcpy(val, &result, (size_t)len);
	return 0;
}

static int ioapic_write(struct kvm_vcpu *vcpu, struct kvm_io_device *dev, gpa_t addr, int len,
			const void *val)
{
	struct kvm_ioapic *io = container_of(dev, struct kvm_ioapic, dev);
	uint32_t data = 0;

	if (addr & 0xf)
		return -EOPNOTSUPP;
	memcpy(&data, val, len < 4 ? (size_t)len : 4);
	pthread_mutex_lock(&io->lock);
	if ((addr & 0xff) == REG_SELECT)
		io->s.ioregsel = data & 0xff;
	else if ((addr & 0xff) == REG_WINDOW)
		write_register(io, data);
	pthread_mutex_unlock(&io->lock);
	return 0;
}

static const struct kvm_io_device_ops ioapic_ops = {
	.read = ioapic_read,
	.write = ioapic_write,
};

/*
 * Lines that are up for the length of a pulse of the PIT's, whose thread is about to lower them. Of a masked
 * edge-triggered pin nothing stays of it, and a restored line that nobody lowers would swallow the next pulse.
 */
static uint32_t passing_pulses(const struct kvm_ioapic *io)
{
	uint32_t bits = 0;

	for (int pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++)
		if (io->drivers[pin] == 1U << KVM_PIT_IRQ_SOURCE_ID && RTE(io, pin).mask && !RTE(io, pin).trig_mode)
			bits |= 1U << pin;
	return bits;
}

void kvm_get_ioapic(struct kvm *kvm, struct kvm_ioapic_state *s)
{
	struct kvm_ioapic *io = kvm->vioapic;

	pthread_mutex_lock(&io->lock);
	*s = io->s;
	/* What the APICs have already must not be delivered again after a restore. */
	s->irr &= ~(io->irr_delivered | passing_pulses(io));
	pthread_mutex_unlock(&io->lock);
}

void kvm_set_ioapic(struct kvm *kvm, const struct kvm_ioapic_state *s)
{
	struct kvm_ioapic *io = kvm->vioapic;
	uint32_t irr = s->irr;

	pthread_mutex_lock(&io->lock);
	io->s = *s;
	io->s.irr = 0;
	io->irr_delivered = 0;
	compute_eoi_vectors(io);
	for (int pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++)
		if (irr & (1U << pin))
			set_line(io, pin, true);
	kvm_make_scan_ioapic_request(kvm);
	pthread_mutex_unlock(&io->lock);
}

int kvm_ioapic_init(struct kvm *kvm)
{
	struct kvm_ioapic *io = own_calloc(1, sizeof(*io));
	int err;

	if (!io)
		return err_born(ENOMEM, "no memory for the IOAPIC");
	io->kvm = kvm;
	io->dev.ops = &ioapic_ops;
	io->s.base_address = IOAPIC_BASE;
	for (int pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++)
		RTE(io, pin).mask = 1;
	pthread_mutex_init(&io->lock, NULL);
	pthread_mutex_lock(&kvm->slots_lock);
	err = kvm_io_bus_register_dev(kvm, KVM_MMIO_BUS, IOAPIC_BASE, IOAPIC_LENGTH, &io->dev);
	pthread_mutex_unlock(&kvm->slots_lock);
	if (err)
		own_free(io);
	else
		kvm->vioapic = io;
	return err;
}

void kvm_ioapic_destroy(struct kvm *kvm)
{
	struct kvm_ioapic *io = kvm->vioapic;

	if (!io)
		return;
	pthread_mutex_lock(&kvm->slots_lock);
	kvm_io_bus_unregister_dev(kvm, KVM_MMIO_BUS, &io->dev);
	pthread_mutex_unlock(&kvm->slots_lock);
	kvm->vioapic = NULL;
	own_free(io);
}
