/* The IOAPIC against its datasheet. */
#include "fixture.h"

#define LEVEL (1U << 15)
#define MASKED (1U << 16)
#define REMOTE_IRR (1U << 14)

static int setup(void **state)
{
	fix_start(FIX_KERNEL, 2);
	apic_enable(0);
	apic_enable(1);
	return 0;
}

static void registers_answer_as_a_version_11h_chip(void **state)
{
	assert_int_equal(ioapic_in(1), 0x00170011);
	ioapic_out(0, 0x0f000000);
	assert_int_equal(ioapic_in(0), 0x0f000000);
	assert_int_equal(ioapic_in(2), 0x0f000000);
	assert_int_equal(ioapic_in(0x10), MASKED);
	ioapic_route(23, 0x55 | MASKED, 0x42);
	assert_int_equal(ioapic_in(0x10 + 46), 0x55 | MASKED);
	assert_int_equal(ioapic_in(0x11 + 46), 0x42000000);
}

static void edge_is_delivered_once_a_rise(void **state)
{
	ioapic_route(20, 0x51, 1);
	assert_int_equal(line(20, 1), 1);
	assert_true(irr_has(1, 0x51));
	assert_false(irr_has(0, 0x51));
	assert_int_equal(line(20, 1), 0); /* no new rise: coalesced */
	line(20, 0);
	assert_int_equal(line(20, 1), 1);
}

static void masked_pin_delivers_nothing(void **state)
{
	ioapic_route(20, 0x51 | MASKED, 1);
	assert_int_equal(line(20, 1), -1);
	assert_false(irr_has(1, 0x51));
}

/* Saved between the two edges of a pulse, the line of a masked pin is not up: nobody would lower it elsewhere. */
static void a_pulse_of_the_pit_is_not_saved(void **state)
{
	struct kvm_ioapic_state s;

	ioapic_route(0, 0x51 | MASKED, 1);
	ioapic_route(20, 0x52 | MASKED, 1);
	kvm_ioapic_set_irq(vm->vioapic, 0, KVM_PIT_IRQ_SOURCE_ID, 1);
	line(20, 1);
	kvm_get_ioapic(vm, &s);
	assert_int_equal(s.irr, 1U << 20);
	/* the client holds it up, too */
	kvm_ioapic_set_irq(vm->vioapic, 0, KVM_USERSPACE_IRQ_SOURCE_ID, 1);
	kvm_get_ioapic(vm, &s);
	assert_int_equal(s.irr, 1U << 20 | 1);
	kvm_ioapic_set_irq(vm->vioapic, 0, KVM_PIT_IRQ_SOURCE_ID, 0);
}

static void level_waits_for_eoi_and_asks_again(void **state)
{
	ioapic_route(20, 0x52 | LEVEL, 0);
	line(20, 1);
	assert_true(ioapic_in(0x10 + 40) & REMOTE_IRR);
	assert_int_equal(kvm_cpu_get_interrupt(cpu[0]), 0x52);
	assert_true(lapic_test_vector(cpu[0]->apic, APIC_TMR, 0x52));
	line(20, 1);
	assert_false(irr_has(0, 0x52));
	apic_write(0, APIC_EOI, 0);
	assert_true(irr_has(0, 0x52)); /* still up */
	assert_int_equal(kvm_cpu_get_interrupt(cpu[0]), 0x52);
	line(20, 0);
	apic_write(0, APIC_EOI, 0);
	assert_false(irr_has(0, 0x52));
	assert_false(ioapic_in(0x10 + 40) & REMOTE_IRR);
}

static void unmasking_a_raised_level_pin_delivers(void **state)
{
	ioapic_route(20, 0x53 | LEVEL | MASKED, 0);
	line(20, 1);
	assert_false(irr_has(0, 0x53));
	ioapic_out(0x10 + 40, 0x53 | LEVEL);
	assert_true(irr_has(0, 0x53));
}

static void switch_to_edge_clears_remote_irr(void **state)
{
	ioapic_route(20, 0x54 | LEVEL, 0);
	line(20, 1);
	assert_true(ioapic_in(0x10 + 40) & REMOTE_IRR);
	ioapic_out(0x10 + 40, 0x54 | MASKED);
	assert_false(ioapic_in(0x10 + 40) & REMOTE_IRR);
}

static void remote_irr_cannot_be_written(void **state)
{
	ioapic_out(0x10 + 40, 0x54 | LEVEL | REMOTE_IRR | MASKED | 1 << 12);
	assert_int_equal(ioapic_in(0x10 + 40), 0x54 | LEVEL | MASKED);
}

static void nmi_mode_raises_an_nmi(void **state)
{
	ioapic_route(20, 0x400, 1);
	line(20, 1);
	assert_int_equal(nmis[1], 1);
}

static void refused_level_interrupt_leaves_no_remote_irr(void **state)
{
	apic_write(1, APIC_SPIV, 0xff);
	ioapic_route(20, 0x55 | LEVEL, 1);
	assert_int_equal(line(20, 1), 0);
	assert_false(ioapic_in(0x10 + 40) & REMOTE_IRR);
}

static int acks;

static void count_ack(struct kvm_irq_ack_notifier *kian)
{
	acks++;
}

static void eoi_tells_the_listeners_of_its_gsi(void **state)
{
	struct kvm_irq_ack_notifier a = { .gsi = 20, .irq_acked = count_ack },
				    b = { .gsi = 21, .irq_acked = count_ack };

	acks = 0;
	kvm_register_irq_ack_notifier(vm, &a);
	kvm_register_irq_ack_notifier(vm, &b);
	assert_true(kvm_irq_has_notifier(vm, KVM_IRQCHIP_IOAPIC, 20));
	ioapic_route(20, 0x56 | LEVEL, 0);
	line(20, 1);
	line(20, 0);
	kvm_cpu_get_interrupt(cpu[0]);
	assert_int_equal(acks, 0);
	apic_write(0, APIC_EOI, 0);
	assert_int_equal(acks, 1);
	kvm_unregister_irq_ack_notifier(vm, &a);
	kvm_unregister_irq_ack_notifier(vm, &b);
	assert_false(kvm_irq_has_notifier(vm, KVM_IRQCHIP_IOAPIC, 20));
}

static void edge_eoi_of_another_apics_vector_tells_nobody(void **state)
{
	struct kvm_irq_ack_notifier a = { .gsi = 20, .irq_acked = count_ack };

	acks = 0;
	kvm_register_irq_ack_notifier(vm, &a);
	ioapic_route(20, 0x57, 1);
	apic_write(0, APIC_ICR, APIC_DEST_SELF | 0x57);
	assert_int_equal(kvm_cpu_get_interrupt(cpu[0]), 0x57);
	apic_write(0, APIC_EOI, 0);
	assert_int_equal(acks, 0);
	line(20, 1);
	assert_int_equal(kvm_cpu_get_interrupt(cpu[1]), 0x57);
	apic_write(1, APIC_EOI, 0);
	assert_int_equal(acks, 1);
	kvm_unregister_irq_ack_notifier(vm, &a);
}

static void state_survives_get_and_set(void **state)
{
	struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };

	ioapic_route(20, 0x58 | LEVEL, 0);
	line(20, 1);
	assert_int_equal(kvm_vm_ioctl_get_irqchip(vm, &chip), 0);
	assert_int_equal(chip.chip.ioapic.base_address, 0xfec00000);
	assert_int_equal(chip.chip.ioapic.irr, 1 << 20);
	assert_int_equal(chip.chip.ioapic.redirtbl[20].fields.vector, 0x58);
	kvm_cpu_get_interrupt(cpu[0]);
	/* Restored with remote IRR: waits for the EOI. */
	assert_int_equal(kvm_vm_ioctl_set_irqchip(vm, &chip), 0);
	assert_false(irr_has(0, 0x58));
	apic_write(0, APIC_EOI, 0);
	assert_true(irr_has(0, 0x58));
}

static void delivered_edge_is_not_in_the_saved_state(void **state)
{
	struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };

	ioapic_route(20, 0x59, 0);
	line(20, 1);
	assert_int_equal(kvm_vm_ioctl_get_irqchip(vm, &chip), 0);
	assert_int_equal(chip.chip.ioapic.irr, 0);
}

/* A split irqchip leaves the IOAPIC to the client, who hears of level EOIs. */
static int setup_split(void **state)
{
	struct kvm_irq_routing_entry e[2] = {
		{ .gsi = 3, .type = KVM_IRQ_ROUTING_MSI,
		  .u.msi = { .address_lo = 0xfee00000, .data = 0x8061 | 1 << 14 } },
		{ .gsi = 30, .type = KVM_IRQ_ROUTING_MSI,
		  .u.msi = { .address_lo = 0xfee00000, .data = 0x62 } },
	};

	fix_start(FIX_SPLIT, 1);
	apic_enable(0);
	assert_int_equal(kvm_set_irq_routing(vm, e, 2, 0), 0);
	return 0;
}

static void split_level_eoi_is_reported_and_edge_is_not(void **state)
{
	assert_int_equal(line(30, 1), 1);
	assert_int_equal(kvm_cpu_get_interrupt(cpu[0]), 0x62);
	apic_write(0, APIC_EOI, 0);
	assert_false(kvm_test_request(KVM_REQ_IOAPIC_EOI_EXIT, cpu[0]));
	assert_int_equal(line(3, 1), 1);
	assert_int_equal(kvm_cpu_get_interrupt(cpu[0]), 0x61);
	apic_write(0, APIC_EOI, 0);
	assert_true(kvm_test_request(KVM_REQ_IOAPIC_EOI_EXIT, cpu[0]));
	assert_int_equal(kvm_lapic_pending_ioapic_eoi(cpu[0]), 0x61);
}

static void split_has_no_chip_ioctls(void **state)
{
	struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };

	assert_int_equal(kvm_vm_ioctl_get_irqchip(vm, &chip), -ENXIO);
	assert_int_equal(kvm_create_pit(vm, 0), -ENOENT);
}

static void irqchip_cannot_be_created_twice_or_after_a_vcpu(void **state)
{
	struct kvm *other;
	struct kvm_vcpu *v;

	assert_int_equal(kvm_irqchip_create(vm), -EEXIST);
	assert_int_equal(kvm_irqchip_create_split(vm, 24), -EEXIST);
	assert_int_equal(kvm_create_vm(&other), 0);
	assert_int_equal(kvm_create_vcpu(other, 0, &v), 0);
	assert_int_equal(kvm_irqchip_create(other), -EINVAL);
	kvm_put_kvm(other);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, fix_stop)
#define S(f) cmocka_unit_test_setup_teardown(f, setup_split, fix_stop)
		T(registers_answer_as_a_version_11h_chip),
		T(edge_is_delivered_once_a_rise),
		T(masked_pin_delivers_nothing),
		T(a_pulse_of_the_pit_is_not_saved),
		T(level_waits_for_eoi_and_asks_again),
		T(unmasking_a_raised_level_pin_delivers),
		T(switch_to_edge_clears_remote_irr),
		T(remote_irr_cannot_be_written),
		T(nmi_mode_raises_an_nmi),
		T(refused_level_interrupt_leaves_no_remote_irr),
		T(eoi_tells_the_listeners_of_its_gsi),
		T(edge_eoi_of_another_apics_vector_tells_nobody),
		T(state_survives_get_and_set),
		T(delivered_edge_is_not_in_the_saved_state),
		T(irqchip_cannot_be_created_twice_or_after_a_vcpu),
		S(split_level_eoi_is_reported_and_edge_is_not),
		S(split_has_no_chip_ioctls),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
