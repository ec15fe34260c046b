/*
 * The 8254 interval timer and port 61h.
 * (Intel 8254 datasheet; PIIX3 datasheet "NMI Status and Control".)
 *
 * State is KVM's struct kvm_pit_state2. A counter is not ticked: its value is
 * computed from the time since it was loaded (count_load_time, CLOCK_MONOTONIC),
 * so reading it costs a clock read and nothing runs in between.
 *
 * Channel 0 drives GSI 0 from the host's timer thread. Reinjection (on by
 * default): `pending` ticks wait while the guest has not acknowledged the last
 * one, so that a guest that counts ticks keeps time.
 *
 * Invariants (lock):
 *  1. armed: the host timer will fire at deadline_ns; a callback that finds
 *     itself early or disarmed does nothing.
 *  2. irq_ack false: a tick was delivered and its EOI has not come.
 *  3. GSI lines are driven without the lock.
 */
#include <string.h>

#include "host/timer.h"
#include "irq/internal.h"
#include "lib/error.h"
#include "lib/own.h"

#define PIT_HZ 1193182ULL
#define NSEC_PER_SEC 1000000000ULL
#define MIN_PERIOD_NS 200000ULL /* KVM: min_timer_period_us */
#define PIT_GSI 0

#define PORT_PIT 0x40
#define PORT_PIT_LENGTH 4
#define PORT_SPEAKER 0x61

/* read_state, write_state, count_latched */
enum rw_state { RW_LSB = 1, RW_MSB, RW_WORD0, RW_WORD1 };

struct kvm_pit {
	struct kvm_io_device dev, speaker_dev;
	struct kvm *kvm; /* (c) */
	pthread_mutex_t lock;
	struct kvm_pit_state2 s;
	struct host_timer *timer; /* (c) channel 0 */
	struct host_timer *work;  /* (c) reinjection, off the EOI's path */
	bool armed;
	uint64_t deadline_ns, period_ns; /* period 0: one shot */
	bool reinject, irq_ack;
	uint32_t pending;
	bool has_speaker; /* (c) */
	struct kvm_irq_ack_notifier notifier;
};

static uint64_t ticks_since_load(const struct kvm_pit_channel_state *c)
{
	int64_t ns = (int64_t)host_now_ns() - c->count_load_time;

	return ns < 0 ? 0 : (uint64_t)((unsigned __int128)(uint64_t)ns * PIT_HZ / NSEC_PER_SEC);
}

static uint64_t ticks_to_ns(uint64_t ticks)
{
	return ticks * NSEC_PER_SEC / PIT_HZ;
}

static uint32_t reload(const struct kvm_pit_channel_state *c)
{
	return c->count ? c->count : 0x10000;
}

static uint16_t counter_value(const struct kvm_pit_channel_state *c)
{
	uint64_t d = ticks_since_load(c), count = reload(c);

	switch (c->mode) {
	case 0:
	case 1:
	case 4:
	case 5:
		return (uint16_t)(count - d);
	case 3: /* counts by two, twice a period */
		return (uint16_t)(count - 2 * d % count);
	default:
		return (uint16_t)(count - d % count);
	}
}

static bool out_pin(const struct kvm_pit_channel_state *c)
{
	uint64_t d = ticks_since_load(c), count = reload(c);

	switch (c->mode) {
	case 0:
		return d >= count;
	case 1:
		return d < count;
	case 2:
		return d == 0 || d % count != count - 1;
	case 3:
		return d % count < (count + 1) / 2;
	default: /* 4, 5: a strobe of one tick, active low */
		return d != count;
	}
}

static void set_gate(struct kvm_pit_channel_state *c, bool gate)
{
	bool rises = gate && !c->gate;

	/* Modes 1, 2, 3 and 5 start over at a rising gate. */
	if (rises && c->mode != 0 && c->mode != 4)
		c->count_load_time = (int64_t)host_now_ns();
	c->gate = gate;
}

/* --- channel 0's interrupt --- */

/* A new start of channel 0: no debts. Lock held. */
static void reset_reinject(struct kvm_pit *pit)
{
	pit->pending = 0;
	pit->irq_ack = true;
}

/* Drive a tick through GSI 0, unless the guest is still busy with the last. */
static void deliver_tick(struct kvm_pit *pit)
{
	struct kvm_vcpu *vcpu;
	uint32_t i;
	bool wait;

	pthread_mutex_lock(&pit->lock);
	wait = pit->reinject && !pit->irq_ack;
	if (!wait)
		pit->irq_ack = false;
	pthread_mutex_unlock(&pit->lock);
	if (wait)
		return;
	kvm_set_irq(pit->kvm, KVM_PIT_IRQ_SOURCE_ID, PIT_GSI, 1);
	kvm_set_irq(pit->kvm, KVM_PIT_IRQ_SOURCE_ID, PIT_GSI, 0);
	/* The old NMI watchdog: the tick is wired to every LINT0, some set to NMI. */
	kvm_for_each_vcpu(i, vcpu, pit->kvm)
		kvm_apic_nmi_wd_deliver(vcpu);
}

static void pit_timer_fired(void *arg)
{
	struct kvm_pit *pit = arg;
	uint64_t now = host_now_ns();
	bool fire;

	pthread_mutex_lock(&pit->lock);
	fire = pit->armed && pit->deadline_ns <= now;
	if (fire) {
		uint64_t missed = pit->period_ns ? (now - pit->deadline_ns) / pit->period_ns : 0;

		if (pit->reinject)
			pit->pending += 1 + (uint32_t)missed;
		pit->armed = pit->period_ns != 0;
		if (pit->armed) {
			pit->deadline_ns += (missed + 1) * pit->period_ns;
			host_timer_arm(pit->timer, pit->deadline_ns);
		}
	}
	pthread_mutex_unlock(&pit->lock);
	if (fire)
		deliver_tick(pit);
}

static void pit_work(void *arg)
{
	deliver_tick(arg);
}

/* The guest's EOI. RCU read-side section; no chip's lock is held. */
static void pit_acked(struct kvm_irq_ack_notifier *kian)
{
	struct kvm_pit *pit = container_of(kian, struct kvm_pit, notifier);

	pthread_mutex_lock(&pit->lock);
	pit->irq_ack = true;
	if (pit->pending && --pit->pending)
		host_timer_arm(pit->work, 0);
	pthread_mutex_unlock(&pit->lock);
}

void kvm_pit_mask_changed(struct kvm *kvm, uint32_t irqchip, uint32_t pin, bool masked)
{
	struct kvm_pit *pit = READ_ONCE(kvm->vpit);

	if (!pit || masked || kvm_irq_map_chip_pin(kvm, irqchip, pin) != PIT_GSI)
		return;
	pthread_mutex_lock(&pit->lock);
	reset_reinject(pit);
	pthread_mutex_unlock(&pit->lock);
}

static void stop_timer(struct kvm_pit *pit)
{
	pit->armed = false;
	host_timer_disarm(pit->timer);
}

/* Channel 0 has a new count: when does it interrupt? Lock held. */
static void start_timer(struct kvm_pit *pit)
{
	struct kvm_pit_channel_state *c = &pit->s.channels[0];
	uint64_t ns = ticks_to_ns(reload(c));
	bool periodic = c->mode == 2 || c->mode == 3;

	stop_timer(pit);
	/* With HPET's legacy replacement the client drives IRQ 0 itself. */
	if ((pit->s.flags & KVM_PIT_FLAGS_HPET_LEGACY) || c->mode == 5)
		return;
	reset_reinject(pit);
	if (periodic && ns < MIN_PERIOD_NS)
		ns = MIN_PERIOD_NS;
	pit->period_ns = periodic ? ns : 0;
	pit->deadline_ns = (uint64_t)c->count_load_time + ns;
	pit->armed = true;
	host_timer_arm(pit->timer, pit->deadline_ns);
}

static void load_count(struct kvm_pit *pit, int channel, uint32_t count)
{
	struct kvm_pit_channel_state *c = &pit->s.channels[channel];

	c->count = count ? count : 0x10000;
	c->count_load_time = (int64_t)host_now_ns();
	if (channel == 0)
		start_timer(pit);
}

/* --- ports --- */

static void latch_count(struct kvm_pit_channel_state *c)
{
	if (c->count_latched)
		return;
	c->latched_count = counter_value(c);
	c->count_latched = c->rw_mode;
}

static void latch_status(struct kvm_pit_channel_state *c)
{
	if (c->status_latched)
		return;
	c->status = (uint8_t)(out_pin(c) << 7 | c->rw_mode << 4 | c->mode << 1 | c->bcd);
	c->status_latched = 1;
}

static void read_back(struct kvm_pit *pit, uint8_t val)
{
	for (int ch = 0; ch < 3; ch++) {
		if (!(val & (2 << ch)))
			continue;
		if (!(val & 0x20))
			latch_count(&pit->s.channels[ch]);
		if (!(val & 0x10))
			latch_status(&pit->s.channels[ch]);
	}
}

static void write_control(struct kvm_pit *pit, uint8_t val)
{
	struct kvm_pit_channel_state *c;
	uint8_t access = (val >> 4) & 3;

	if (val >> 6 == 3) {
		read_back(pit, val);
		return;
	}
	c = &pit->s.channels[val >> 6];
	if (!access) {
		latch_count(c);
		return;
	}
	c->rw_mode = c->read_state = c->write_state = access;
	c->mode = (val >> 1) & 7;
	/* Modes 6 and 7 are 2 and 3. */
	if (c->mode > 5)
		c->mode -= 4;
	c->bcd = val & 1;
}

static void write_counter(struct kvm_pit *pit, int channel, uint8_t val)
{
	struct kvm_pit_channel_state *c = &pit->s.channels[channel];

	switch (c->write_state) {
	case RW_MSB:
		load_count(pit, channel, (uint32_t)val << 8);
		break;
	case RW_WORD0:
		c->write_latch = val;
		c->write_state = RW_WORD1;
		break;
	case RW_WORD1:
		c->write_state = RW_WORD0;
		load_count(pit, channel, c->write_latch | (uint32_t)val << 8);
		break;
	default:
		load_count(pit, channel, val);
	}
}

static uint8_t read_latched(struct kvm_pit_channel_state *c)
{
	uint8_t state = c->count_latched;

	/* Low byte first; the high byte of a word is still to be fetched. */
	c->count_latched = state == RW_WORD0 ? RW_MSB : 0;
	return (uint8_t)(state == RW_MSB ? c->latched_count >> 8 : c->latched_count);
}

static uint8_t read_counter(struct kvm_pit_channel_state *c)
{
	uint16_t count;

	if (c->status_latched) {
		c->status_latched = 0;
		return c->status;
	}
	if (c->count_latched)
		return read_latched(c);
	count = counter_value(c);
	switch (c->read_state) {
	case RW_MSB:
		return (uint8_t)(count >> 8);
	case RW_WORD0:
		c->read_state = RW_WORD1;
		return (uint8_t)count;
	case RW_WORD1:
		c->read_state = RW_WORD0;
		return (uint8_t)(count >> 8);
	default:
		return (uint8_t)count;
	}
}

static int pit_write(struct kvm_vcpu *vcpu, struct kvm_io_device *dev, gpa_t addr, int len,
		     const void *val)
{
	struct kvm_pit *pit = container_of(dev, struct kvm_pit, dev);
	uint8_t data = *(const uint8_t *)val;

	pthread_mutex_lock(&pit->lock);
	if ((addr & 3) == 3)
		write_control(pit, data);
	else
		write_counter(pit, addr & 3, data);
	pthread_mutex_unlock(&pit->lock);
	return 0;
}

static int pit_read(struct kvm_vcpu *vcpu, struct kvm_io_device *dev, gpa_t addr, int len,
		    void *val)
{
	struct kvm_pit *pit = container_of(dev, struct kvm_pit, dev);
	uint8_t data = 0;

	memset(val, 0, (size_t)len);
	pthread_mutex_lock(&pit->lock);
	if ((addr & 3) != 3)
		data = read_counter(&pit->s.channels[addr & 3]);
	pthread_mutex_unlock(&pit->lock);
	*(uint8_t *)val = data;
	return 0;
}

static int speaker_write(struct kvm_vcpu *vcpu, struct kvm_io_device *dev, gpa_t addr, int len,
			 const void *val)
{
	struct kvm_pit *pit = container_of(dev, struct kvm_pit, speaker_dev);
	uint8_t data = *(const uint8_t *)val;

	pthread_mutex_lock(&pit->lock);
	if (data & 2)
		pit->s.flags |= KVM_PIT_FLAGS_SPEAKER_DATA_ON;
	else
		pit->s.flags &= ~(uint32_t)KVM_PIT_FLAGS_SPEAKER_DATA_ON;
	set_gate(&pit->s.channels[2], data & 1);
	pthread_mutex_unlock(&pit->lock);
	return 0;
}

static int speaker_read(struct kvm_vcpu *vcpu, struct kvm_io_device *dev, gpa_t addr, int len,
			void *val)
{
	struct kvm_pit *pit = container_of(dev, struct kvm_pit, speaker_dev);
	uint8_t data;

	memset(val, 0, (size_t)len);
	pthread_mutex_lock(&pit->lock);
	data = pit->s.channels[2].gate;
	data |= pit->s.flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON ? 2 : 0;
	/* Refresh toggles every 15 µs or so. */
	data |= (host_now_ns() >> 14) & 1 ? 0x10 : 0;
	data |= out_pin(&pit->s.channels[2]) ? 0x20 : 0;
	pthread_mutex_unlock(&pit->lock);
	*(uint8_t *)val = data;
	return 0;
}

static const struct kvm_io_device_ops pit_ops = { .read = pit_read, .write = pit_write };
static const struct kvm_io_device_ops speaker_ops = { .read = speaker_read,
						      .write = speaker_write };

/* --- life and state --- */

static int register_ports(struct kvm *kvm, struct kvm_pit *pit)
{
	int err = kvm_io_bus_register_dev(kvm, KVM_PIO_BUS, PORT_PIT, PORT_PIT_LENGTH, &pit->dev);

	if (err || !pit->has_speaker)
		return err;
	err = kvm_io_bus_register_dev(kvm, KVM_PIO_BUS, PORT_SPEAKER, 1, &pit->speaker_dev);
	if (err)
		kvm_io_bus_unregister_dev(kvm, KVM_PIO_BUS, &pit->dev);
	return err;
}

static int pit_start(struct kvm *kvm, struct kvm_pit *pit)
{
	int err = host_timer_create(pit_timer_fired, pit, &pit->timer);

	if (err)
		return err;
	err = host_timer_create(pit_work, pit, &pit->work);
	if (err)
		return err;
	pthread_mutex_lock(&kvm->slots_lock);
	err = register_ports(kvm, pit);
	pthread_mutex_unlock(&kvm->slots_lock);
	return err;
}

int kvm_create_pit(struct kvm *kvm, uint32_t flags)
{
	struct kvm_pit *pit;
	int err;

	if (kvm->vpit)
		return err_born(EEXIST, "the VM has a PIT");
	if (!pic_in_kernel(kvm))
		return err_born(ENOENT, "PIT without an in-kernel PIC");
	pit = own_calloc(1, sizeof(*pit));
	if (!pit)
		return err_born(ENOMEM, "no memory for the PIT");
	pit->kvm = kvm;
	pit->dev.ops = &pit_ops;
	pit->speaker_dev.ops = &speaker_ops;
	pit->has_speaker = flags & KVM_PIT_SPEAKER_DUMMY;
	pit->reinject = true;
	pit->notifier.gsi = PIT_GSI;
	pit->notifier.irq_acked = pit_acked;
	pthread_mutex_init(&pit->lock, NULL);
	for (int ch = 0; ch < 3; ch++) {
		struct kvm_pit_channel_state *c = &pit->s.channels[ch];

		c->mode = 0xff;
		c->gate = ch != 2;
		c->count = 0x10000;
		c->count_load_time = (int64_t)host_now_ns();
	}
	reset_reinject(pit);
	err = pit_start(kvm, pit);
	if (err) {
		host_timer_destroy(pit->timer);
		host_timer_destroy(pit->work);
		own_free(pit);
		return err;
	}
	kvm_register_irq_ack_notifier(kvm, &pit->notifier);
	WRITE_ONCE(kvm->vpit, pit);
	return 0;
}

void kvm_free_pit(struct kvm *kvm)
{
	struct kvm_pit *pit = kvm->vpit;

	if (!pit)
		return;
	WRITE_ONCE(kvm->vpit, NULL);
	pthread_mutex_lock(&kvm->slots_lock);
	kvm_io_bus_unregister_dev(kvm, KVM_PIO_BUS, &pit->dev);
	kvm_io_bus_unregister_dev(kvm, KVM_PIO_BUS, &pit->speaker_dev);
	pthread_mutex_unlock(&kvm->slots_lock);
	kvm_unregister_irq_ack_notifier(kvm, &pit->notifier);
	pthread_mutex_lock(&pit->lock);
	stop_timer(pit);
	pthread_mutex_unlock(&pit->lock);
	host_timer_destroy(pit->timer);
	host_timer_destroy(pit->work);
	own_free(pit);
}

int kvm_vm_ioctl_get_pit2(struct kvm *kvm, struct kvm_pit_state2 *ps)
{
	struct kvm_pit *pit = kvm->vpit;

	if (!pit)
		return err_born(ENXIO, "the VM has no PIT");
	pthread_mutex_lock(&pit->lock);
	*ps = pit->s;
	pthread_mutex_unlock(&pit->lock);
	memset(ps->reserved, 0, sizeof(ps->reserved));
	return 0;
}

int kvm_vm_ioctl_set_pit2(struct kvm *kvm, const struct kvm_pit_state2 *ps)
{
	struct kvm_pit *pit = kvm->vpit;

	if (!pit)
		return err_born(ENXIO, "the VM has no PIT");
	pthread_mutex_lock(&pit->lock);
	memcpy(pit->s.channels, ps->channels, sizeof(pit->s.channels));
	pit->s.flags = ps->flags;
	/* Modes are 3 bits wide; 0xff is "never programmed". */
	for (int ch = 0; ch < 3; ch++)
		if (pit->s.channels[ch].mode > 5)
			pit->s.channels[ch].mode = 0xff;
	if (pit->s.channels[0].mode == 0xff || (ps->flags & KVM_PIT_FLAGS_HPET_LEGACY))
		stop_timer(pit);
	else
		load_count(pit, 0, ps->channels[0].count);
	pthread_mutex_unlock(&pit->lock);
	return 0;
}

int kvm_vm_ioctl_reinject(struct kvm *kvm, const struct kvm_reinject_control *c)
{
	struct kvm_pit *pit = kvm->vpit;

	if (!pit)
		return err_born(ENXIO, "the VM has no PIT");
	pthread_mutex_lock(&pit->lock);
	pit->reinject = c->pit_reinject;
	reset_reinject(pit);
	pthread_mutex_unlock(&pit->lock);
	return 0;
}
