/*
 * The pair of 8259A interrupt controllers and their edge/level registers.
 * (Intel 8259A datasheet; PIIX3 datasheet "Interrupt Controller".)
 *
 * State is KVM's struct kvm_pic_state, one a chip. Priorities rotate: level p
 * (0 highest) is pin (p + priority_add) & 7.
 *
 * Invariants (lock):
 *  1. The slave's INT pin is the master's IRQ2, an edge for each new request.
 *  2. output is the master's INT pin as of the last refresh(); a rise kicks the
 *     vCPUs whose LINT0 takes ExtINT once the lock is dropped.
 *  3. An edge-triggered request stays in IRR when its line falls, so that an
 *     acknowledge finds it; a request masked in between gives the spurious IRQ7.
 *
 * EOI notifiers run without the lock.
 */
#include <string.h>

#include "irq/internal.h"
#include "lib/error.h"
#include "lib/own.h"
#include "trace/trace.h"

#define CASCADE 2
#define SPURIOUS 7
#define NO_IRQ (-1)
#define NO_LEVEL 8

#define PORT_MASTER 0x20
#define PORT_SLAVE 0xa0
#define PORT_ELCR 0x4d0
/* IRQ 0, 1, 2 and 8, 13 are edge-triggered on every PC. */
#define ELCR_MASK_MASTER 0xf8
#define ELCR_MASK_SLAVE 0xde

#define ICW1 0x10
#define ICW1_ICW4 0x01
#define ICW4_AUTO_EOI 0x02
#define ICW4_SFNM 0x10
#define OCW3 0x08
#define OCW3_READ_REG 0x02
#define OCW3_POLL 0x04
#define OCW3_SPECIAL_MASK_SELECT 0x40
#define OCW3_SPECIAL_MASK 0x20

enum ocw2_command {
	OCW2_ROTATE_AUTO_CLEAR,
	OCW2_EOI,
	OCW2_NOP,
	OCW2_SPECIFIC_EOI,
	OCW2_ROTATE_AUTO_SET,
	OCW2_ROTATE_EOI,
	OCW2_SET_PRIORITY,
	OCW2_ROTATE_SPECIFIC_EOI,
};

static void pic_lock(struct kvm_pic *pic)
{
	pthread_mutex_lock(&pic->lock);
}

static void pic_unlock(struct kvm_pic *pic)
{
	bool wake = pic->wake;
	struct kvm_vcpu *vcpu;
	uint32_t i;

	pic->wake = false;
	pthread_mutex_unlock(&pic->lock);
	if (!wake)
		return;
	kvm_for_each_vcpu(i, vcpu, pic->kvm) {
		if (kvm_apic_accept_pic_intr(vcpu)) {
			kvm_make_request(KVM_REQ_EVENT, vcpu);
			kvm_vcpu_kick(vcpu);
		}
	}
}

static bool is_master(struct kvm_pic *pic, const struct kvm_pic_state *c)
{
	return c == &pic->chips[0];
}

static int pin_at(const struct kvm_pic_state *c, int level)
{
	return (level + c->priority_add) & 7;
}

/* The highest priority level among `pins`, NO_LEVEL for none. */
static int highest_level(const struct kvm_pic_state *c, uint8_t pins)
{
	int level = 0;

	while (level < NO_LEVEL && !(pins & (1 << pin_at(c, level))))
		level++;
	return level;
}

/* The pin this chip wants served now, or NO_IRQ. */
static int wanted(struct kvm_pic *pic, const struct kvm_pic_state *c)
{
	int request = highest_level(c, c->irr & (uint8_t)~c->imr);
	uint8_t blocking = c->isr;

	/* Special mask mode: what is masked does not hold others back. */
	if (c->special_mask)
		blocking &= (uint8_t)~c->imr;
	/* Special fully nested mode: the slave may interrupt its own service. */
	if (c->special_fully_nested_mode && is_master(pic, c))
		blocking &= (uint8_t) ~(1 << CASCADE);
	return request < highest_level(c, blocking) ? pin_at(c, request) : NO_IRQ;
}

/* A change of a request line. -1 masked, 0 coalesced, 1 new. */
static int set_request(struct kvm_pic_state *c, int pin, bool up)
{
	uint8_t bit = (uint8_t)(1 << pin);
	int ret = 1;

	if (c->elcr & bit) {
		if (up) {
			ret = !(c->irr & bit);
			c->irr |= bit;
			c->last_irr |= bit;
		} else {
			c->irr &= (uint8_t)~bit;
			c->last_irr &= (uint8_t)~bit;
		}
	} else if (up) {
		if (!(c->last_irr & bit)) {
			ret = !(c->irr & bit);
			c->irr |= bit;
		}
		c->last_irr |= bit;
	} else {
		c->last_irr &= (uint8_t)~bit;
	}
	return c->imr & bit ? -1 : ret;
}

/* Recompute the cascade and the INT pin. */
static void refresh(struct kvm_pic *pic)
{
	bool output;

	if (wanted(pic, &pic->chips[1]) != NO_IRQ) {
		set_request(&pic->chips[0], CASCADE, true);
		set_request(&pic->chips[0], CASCADE, false);
	}
	output = wanted(pic, &pic->chips[0]) != NO_IRQ;
	if (output && !pic->output)
		pic->wake = true;
	WRITE_ONCE(pic->output, output);
}

int kvm_pic_set_irq(struct kvm_pic *pic, int pin, int source_id, int level)
{
	int ret;

	pic_lock(pic);
	ret = set_request(&pic->chips[pin / 8], pin % 8,
			  irq_line_state(&pic->drivers[pin], source_id, level));
	TRACE(kvm, kvm_pic_set_irq, (uint8_t)(pin / 8), (uint8_t)(pin % 8), pic->chips[pin / 8].elcr,
	      pic->chips[pin / 8].imr, ret == 0);
	refresh(pic);
	pic_unlock(pic);
	return ret;
}

/* End of service of a pin; the lock is dropped while listeners hear of it. */
static void end_service(struct kvm_pic *pic, struct kvm_pic_state *c, int pin)
{
	uint32_t chip = is_master(pic, c) ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE;

	c->isr &= (uint8_t) ~(1 << pin);
	pic_unlock(pic);
	kvm_notify_acked_irq(pic->kvm, chip,
			     (uint32_t)pin + (chip == KVM_IRQCHIP_PIC_SLAVE ? 8 : 0));
	pic_lock(pic);
}

/* INTA for one pin: request becomes service. */
static void acknowledge(struct kvm_pic *pic, struct kvm_pic_state *c, int pin)
{
	c->isr |= (uint8_t)(1 << pin);
	if (!(c->elcr & (1 << pin)))
		c->irr &= (uint8_t) ~(1 << pin);
	if (c->auto_eoi) {
		if (c->rotate_on_auto_eoi)
			c->priority_add = (pin + 1) & 7;
		end_service(pic, c, pin);
	}
}

int kvm_pic_read_irq(struct kvm *kvm)
{
	struct kvm_pic *pic = kvm->vpic;
	struct kvm_pic_state *master = &pic->chips[0], *slave = &pic->chips[1];
	int pin, vector;

	pic_lock(pic);
	WRITE_ONCE(pic->output, false);
	pin = wanted(pic, master);
	if (pin == NO_IRQ) {
		vector = master->irq_base + SPURIOUS;
	} else if (pin == CASCADE) {
		int slave_pin = wanted(pic, slave);

		acknowledge(pic, master, pin);
		if (slave_pin == NO_IRQ)
			slave_pin = SPURIOUS;
		else
			acknowledge(pic, slave, slave_pin);
		vector = slave->irq_base + slave_pin;
	} else {
		vector = master->irq_base + pin;
		acknowledge(pic, master, pin);
	}
	refresh(pic);
	pic_unlock(pic);
	return vector;
}

/* ICW1: everything but the lines themselves starts anew. */
static void init_chip(struct kvm_pic *pic, struct kvm_pic_state *c, uint8_t icw1)
{
	uint8_t lost_edges = c->irr & (uint8_t)~c->elcr;
	bool heard = false;
	struct kvm_vcpu *vcpu;
	uint32_t i;

	c->init4 = icw1 & ICW1_ICW4;
	c->last_irr = 0;
	c->irr &= c->elcr;
	c->imr = 0;
	c->isr = 0;
	c->priority_add = 0;
	c->special_mask = 0;
	c->read_reg_select = 0;
	c->poll = 0;
	if (!c->init4) {
		c->special_fully_nested_mode = 0;
		c->auto_eoi = 0;
	}
	c->init_state = 1;
	/* The PIT must not wait for the acknowledge of an edge that is gone. */
	kvm_for_each_vcpu(i, vcpu, pic->kvm)
		heard |= kvm_apic_accept_pic_intr(vcpu);
	for (int pin = 0; heard && pin < 8; pin++)
		if (lost_edges & (1 << pin))
			end_service(pic, c, pin);
	refresh(pic);
}

static void ocw2(struct kvm_pic *pic, struct kvm_pic_state *c, uint8_t val)
{
	enum ocw2_command cmd = val >> 5;
	int pin = val & 7, level;

	switch (cmd) {
	case OCW2_ROTATE_AUTO_CLEAR:
	case OCW2_ROTATE_AUTO_SET:
		c->rotate_on_auto_eoi = cmd == OCW2_ROTATE_AUTO_SET;
		return;
	case OCW2_EOI:
	case OCW2_ROTATE_EOI:
		level = highest_level(c, c->isr);
		if (level == NO_LEVEL)
			return;
		pin = pin_at(c, level);
		break;
	case OCW2_SPECIFIC_EOI:
	case OCW2_ROTATE_SPECIFIC_EOI:
		break;
	case OCW2_SET_PRIORITY:
		c->priority_add = (pin + 1) & 7;
		refresh(pic);
		return;
	case OCW2_NOP:
	default:
		return;
	}
	if (cmd == OCW2_ROTATE_EOI || cmd == OCW2_ROTATE_SPECIFIC_EOI)
		c->priority_add = (pin + 1) & 7;
	end_service(pic, c, pin);
	refresh(pic);
}

static void ocw3(struct kvm_pic *pic, struct kvm_pic_state *c, uint8_t val)
{
	if (val & OCW3_POLL)
		c->poll = 1;
	if (val & OCW3_READ_REG)
		c->read_reg_select = val & 1;
	if (val & OCW3_SPECIAL_MASK_SELECT) {
		c->special_mask = !!(val & OCW3_SPECIAL_MASK);
		refresh(pic);
	}
}

/* OCW1, the mask. */
static void write_imr(struct kvm_pic *pic, struct kvm_pic_state *c, uint8_t val)
{
	uint8_t changed = c->imr ^ val;
	bool master = is_master(pic, c);

	c->imr = val;
	refresh(pic);
	/* Only GSI 0's pin has a listener. */
	if (master && (changed & 1)) {
		pic_unlock(pic);
		kvm_pit_mask_changed(pic->kvm, KVM_IRQCHIP_PIC_MASTER, 0, val & 1);
		pic_lock(pic);
	}
}

static void write_data(struct kvm_pic *pic, struct kvm_pic_state *c, uint8_t val)
{
	switch (c->init_state) {
	case 0:
		write_imr(pic, c, val);
		break;
	case 1: /* ICW2 */
		c->irq_base = val & 0xf8;
		c->init_state = 2;
		break;
	case 2: /* ICW3: the wiring of a PC is fixed */
		c->init_state = c->init4 ? 3 : 0;
		break;
	default: /* ICW4 */
		c->special_fully_nested_mode = !!(val & ICW4_SFNM);
		c->auto_eoi = !!(val & ICW4_AUTO_EOI);
		c->init_state = 0;
	}
}

static void write_port(struct kvm_pic *pic, struct kvm_pic_state *c, bool data, uint8_t val)
{
	if (data)
		write_data(pic, c, val);
	else if (val & ICW1)
		init_chip(pic, c, val);
	else if (val & OCW3)
		ocw3(pic, c, val);
	else
		ocw2(pic, c, val);
}

/* A read after OCW3's poll command is an acknowledge by software. */
static uint8_t poll(struct kvm_pic *pic, struct kvm_pic_state *c)
{
	int pin = wanted(pic, c);

	c->poll = 0;
	if (pin == NO_IRQ) {
		refresh(pic);
		return 0;
	}
	acknowledge(pic, c, pin);
	if (!is_master(pic, c)) {
		/* The slave was asked itself: the master's copy of the request goes. */
		pic->chips[0].irr &= (uint8_t) ~(1 << CASCADE);
	}
	refresh(pic);
	return (uint8_t)(0x80 | pin);
}

static uint8_t read_port(struct kvm_pic *pic, struct kvm_pic_state *c, bool data)
{
	if (c->poll)
		return poll(pic, c);
	if (data)
		return c->imr;
	return c->read_reg_select ? c->isr : c->irr;
}

static int chip_read(struct kvm_pic *pic, unsigned chip, gpa_t addr, int len, void *val)
{
	memset(val, 0, (size_t)len);
	if (len != 1)
		return 0;
	pic_lock(pic);
	*(uint8_t *)val = read_port(pic, &pic->chips[chip], addr & 1);
	pic_unlock(pic);
	return 0;
}

static int chip_write(struct kvm_pic *pic, unsigned chip, gpa_t addr, int len, const void *val)
{
	if (len != 1)
		return 0;
	pic_lock(pic);
	write_port(pic, &pic->chips[chip], addr & 1, *(const uint8_t *)val);
	pic_unlock(pic);
	return 0;
}

static int master_read(struct kvm_vcpu *vcpu, struct kvm_io_device *dev, gpa_t addr, int len,
		       void *val)
{
	return chip_read(container_of(dev, struct kvm_pic, dev_master), 0, addr, len, val);
}

static int master_write(struct kvm_vcpu *vcpu, struct kvm_io_device *dev, gpa_t addr, int len,
			const void *val)
{
	return chip_write(container_of(dev, struct kvm_pic, dev_master), 0, addr, len, val);
}

static int slave_read(struct kvm_vcpu *vcpu, struct kvm_io_device *dev, gpa_t addr, int len,
		      void *val)
{
	return chip_read(container_of(dev, struct kvm_pic, dev_slave), 1, addr, len, val);
}

static int slave_write(struct kvm_vcpu *vcpu, struct kvm_io_device *dev, gpa_t addr, int len,
		       const void *val)
{
	return chip_write(container_of(dev, struct kvm_pic, dev_slave), 1, addr, len, val);
}

static int elcr_read(struct kvm_vcpu *vcpu, struct kvm_io_device *dev, gpa_t addr, int len,
		     void *val)
{
	struct kvm_pic *pic = container_of(dev, struct kvm_pic, dev_elcr);

	memset(val, 0, (size_t)len);
	pic_lock(pic);
	for (int i = 0; i < len && i < 2; i++)
		((uint8_t *)val)[i] = pic->chips[(addr + (gpa_t)i) & 1].elcr;
	pic_unlock(pic);
	return 0;
}

static int elcr_write(struct kvm_vcpu *vcpu, struct kvm_io_device *dev, gpa_t addr, int len,
		      const void *val)
{
	struct kvm_pic *pic = container_of(dev, struct kvm_pic, dev_elcr);

	pic_lock(pic);
	for (int i = 0; i < len && i < 2; i++) {
		struct kvm_pic_state *c = &pic->chips[(addr + (gpa_t)i) & 1];

		c->elcr = ((const uint8_t *)val)[i] & c->elcr_mask;
	}
	pic_unlock(pic);
	return 0;
}

static const struct kvm_io_device_ops master_ops = { .read = master_read, .write = master_write };
static const struct kvm_io_device_ops slave_ops = { .read = slave_read, .write = slave_write };
static const struct kvm_io_device_ops elcr_ops = { .read = elcr_read, .write = elcr_write };

void kvm_get_pic(struct kvm *kvm, unsigned chip, struct kvm_pic_state *s)
{
	pic_lock(kvm->vpic);
	*s = kvm->vpic->chips[chip];
	pic_unlock(kvm->vpic);
}

void kvm_set_pic(struct kvm *kvm, unsigned chip, const struct kvm_pic_state *s)
{
	struct kvm_pic *pic = kvm->vpic;

	pic_lock(pic);
	pic->chips[chip] = *s;
	refresh(pic);
	pic_unlock(pic);
}

static int register_ports(struct kvm *kvm, struct kvm_pic *pic)
{
	int err = kvm_io_bus_register_dev(kvm, KVM_PIO_BUS, PORT_MASTER, 2, &pic->dev_master);

	if (err)
		return err;
	err = kvm_io_bus_register_dev(kvm, KVM_PIO_BUS, PORT_SLAVE, 2, &pic->dev_slave);
	if (err)
		goto out_master;
	err = kvm_io_bus_register_dev(kvm, KVM_PIO_BUS, PORT_ELCR, 2, &pic->dev_elcr);
	if (!err)
		return 0;
	kvm_io_bus_unregister_dev(kvm, KVM_PIO_BUS, &pic->dev_slave);
out_master:
	kvm_io_bus_unregister_dev(kvm, KVM_PIO_BUS, &pic->dev_master);
	return err;
}

int kvm_pic_init(struct kvm *kvm)
{
	struct kvm_pic *pic = own_calloc(1, sizeof(*pic));
	int err;

	if (!pic)
		return err_born(ENOMEM, "no memory for the PIC");
	pic->kvm = kvm;
	pic->dev_master.ops = &master_ops;
	pic->dev_slave.ops = &slave_ops;
	pic->dev_elcr.ops = &elcr_ops;
	pic->chips[0].elcr_mask = ELCR_MASK_MASTER;
	pic->chips[1].elcr_mask = ELCR_MASK_SLAVE;
	pthread_mutex_init(&pic->lock, NULL);
	pthread_mutex_lock(&kvm->slots_lock);
	err = register_ports(kvm, pic);
	pthread_mutex_unlock(&kvm->slots_lock);
	if (err)
		own_free(pic);
	else
		kvm->vpic = pic;
	return err;
}

void kvm_pic_destroy(struct kvm *kvm)
{
	struct kvm_pic *pic = kvm->vpic;

	if (!pic)
		return;
	pthread_mutex_lock(&kvm->slots_lock);
	kvm_io_bus_unregister_dev(kvm, KVM_PIO_BUS, &pic->dev_master);
	kvm_io_bus_unregister_dev(kvm, KVM_PIO_BUS, &pic->dev_slave);
	kvm_io_bus_unregister_dev(kvm, KVM_PIO_BUS, &pic->dev_elcr);
	pthread_mutex_unlock(&kvm->slots_lock);
	kvm->vpic = NULL;
	own_free(pic);
}
