/* GSI routing: the default table, replacing it, and its errors. */
#include "fixture.h"

static int setup(void **state)
{
	fix_start(FIX_KERNEL, 1);
	apic_enable(0);
	return 0;
}

static struct kvm_irq_routing_entry pin(uint32_t gsi, uint32_t chip, uint32_t p)
{
	return (struct kvm_irq_routing_entry){ .gsi = gsi,
					       .type = KVM_IRQ_ROUTING_IRQCHIP,
					       .u.irqchip = { .irqchip = chip, .pin = p } };
}

static struct kvm_irq_routing_entry msi(uint32_t gsi, uint32_t lo, uint32_t data)
{
	return (struct kvm_irq_routing_entry){ .gsi = gsi,
					       .type = KVM_IRQ_ROUTING_MSI,
					       .u.msi = { .address_lo = lo, .data = data } };
}

static int route(const struct kvm_irq_routing_entry *e, uint32_t n)
{
	return kvm_set_irq_routing(vm, e, n, 0);
}

static void default_table_maps_isa_to_both_chips_and_the_rest_to_the_ioapic(void **state)
{
	struct kvm_kernel_irq_routing_entry e[KVM_NR_IRQCHIPS];

	for (uint32_t gsi = 0; gsi < 24; gsi++) {
		assert_int_equal(kvm_irq_map_gsi(vm, e, gsi), gsi < 16 ? 2 : 1);
		assert_int_equal(kvm_irq_map_chip_pin(vm, KVM_IRQCHIP_IOAPIC, gsi), gsi);
	}
	assert_int_equal(kvm_irq_map_gsi(vm, e, 24), 0);
	assert_int_equal(kvm_irq_map_chip_pin(vm, KVM_IRQCHIP_PIC_MASTER, 7), 7);
	assert_int_equal(kvm_irq_map_chip_pin(vm, KVM_IRQCHIP_PIC_SLAVE, 9), 9);
	assert_int_equal(kvm_irq_map_chip_pin(vm, KVM_IRQCHIP_PIC_MASTER, 9), -1);
	assert_int_equal(kvm_irq_map_chip_pin(vm, 3, 0), -1);
	assert_int_equal(kvm_irq_map_chip_pin(vm, 0, 24), -1);
}

static void msi_route_delivers_on_a_rise_only(void **state)
{
	struct kvm_irq_routing_entry e = msi(100, 0xfee00000, 0x45);

	assert_int_equal(route(&e, 1), 0);
	assert_int_equal(line(100, 0), -1);
	assert_false(irr_has(0, 0x45));
	assert_int_equal(line(100, 1), 1);
	assert_true(irr_has(0, 0x45));
	/* The whole table was replaced. */
	assert_int_equal(line(5, 1), -1);
	assert_int_equal(kvm_irq_map_chip_pin(vm, KVM_IRQCHIP_IOAPIC, 5), -1);
}

static void isa_gsi_2_may_be_pin_2_and_gsi_0_too(void **state)
{
	struct kvm_irq_routing_entry e[] = { pin(0, KVM_IRQCHIP_PIC_MASTER, 0),
					     pin(0, KVM_IRQCHIP_IOAPIC, 2) };

	assert_int_equal(route(e, 2), 0);
	ioapic_route(2, 0x46, 0);
	line(0, 1);
	assert_true(irr_has(0, 0x46));
	assert_int_equal(kvm_irq_map_chip_pin(vm, KVM_IRQCHIP_IOAPIC, 2), 0);
}

static void wrong_entries_are_refused_and_leave_the_table(void **state)
{
	struct kvm_irq_routing_entry twice[] = { pin(5, KVM_IRQCHIP_IOAPIC, 5),
						 pin(5, KVM_IRQCHIP_IOAPIC, 6) };
	struct kvm_irq_routing_entry mixed[] = { pin(5, KVM_IRQCHIP_IOAPIC, 5),
						 msi(5, 0xfee00000, 0x40) };
	struct kvm_irq_routing_entry two_msi[] = { msi(5, 0xfee00000, 0x40),
						   msi(5, 0xfee00000, 0x41) };
	struct kvm_irq_routing_entry e;

	assert_int_equal(route(twice, 2), -EINVAL);
	assert_int_equal(route(mixed, 2), -EINVAL);
	assert_int_equal(route(two_msi, 2), -EINVAL);
	e = pin(5, KVM_IRQCHIP_IOAPIC, 24);
	assert_int_equal(route(&e, 1), -EINVAL);
	e = pin(5, KVM_IRQCHIP_PIC_SLAVE, 8);
	assert_int_equal(route(&e, 1), -EINVAL);
	e = pin(5, 3, 0);
	assert_int_equal(route(&e, 1), -EINVAL);
	e = msi(KVM_MAX_IRQ_ROUTES, 0xfee00000, 0x40);
	assert_int_equal(route(&e, 1), -EINVAL);
	e = pin(5, KVM_IRQCHIP_IOAPIC, 5);
	e.flags = 1;
	assert_int_equal(route(&e, 1), -EINVAL);
	e = pin(5, KVM_IRQCHIP_IOAPIC, 5);
	e.type = 77;
	assert_int_equal(route(&e, 1), -EINVAL);
	e.type = KVM_IRQ_ROUTING_HV_SINT; /* nobody here has a SynIC */
	assert_int_equal(route(&e, 1), -EINVAL);
	assert_int_equal(kvm_set_irq_routing(vm, &e, 0, 1), -EINVAL);
	assert_int_equal(kvm_irq_map_chip_pin(vm, KVM_IRQCHIP_IOAPIC, 23), 23);
}

static void routing_needs_an_irqchip(void **state)
{
	struct kvm *other;

	assert_int_equal(kvm_create_vm(&other), 0);
	assert_int_equal(kvm_set_irq_routing(other, NULL, 0, 0), -EINVAL);
	kvm_put_kvm(other);
}

static void irq_line_reports_status(void **state)
{
	struct kvm_irq_level l = { .irq = 20, .level = 1 };
	struct kvm *other;

	ioapic_route(20, 0x47, 0);
	assert_int_equal(kvm_vm_ioctl_irq_line(vm, &l), 0);
	assert_int_equal(l.status, 1);
	l.irq = 20;
	assert_int_equal(kvm_vm_ioctl_irq_line(vm, &l), 0);
	assert_int_equal(l.status, 0);
	assert_int_equal(kvm_create_vm(&other), 0);
	assert_int_equal(kvm_vm_ioctl_irq_line(other, &l), -ENXIO);
	kvm_put_kvm(other);
}

static bool stop; /* (a) */

static void *driver(void *arg)
{
	while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
		line(20, 1);
		line(20, 0);
	}
	return NULL;
}

static void routing_can_change_while_lines_move(void **state)
{
	struct kvm_irq_routing_entry e[] = { pin(20, KVM_IRQCHIP_IOAPIC, 20),
					     msi(20, 0xfee00000, 0x48) };
	pthread_t t;

	stop = false;
	assert_int_equal(pthread_create(&t, NULL, driver, NULL), 0);
	for (int i = 0; i < 300; i++)
		assert_int_equal(route(&e[i % 2], 1), 0);
	__atomic_store_n(&stop, true, __ATOMIC_SEQ_CST);
	pthread_join(t, NULL);
	assert_int_equal(route(&e[1], 1), 0);
	assert_int_equal(line(20, 1), 1);
	assert_true(irr_has(0, 0x48));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, fix_stop)
		T(default_table_maps_isa_to_both_chips_and_the_rest_to_the_ioapic),
		T(msi_route_delivers_on_a_rise_only),
		T(isa_gsi_2_may_be_pin_2_and_gsi_0_too),
		T(wrong_entries_are_refused_and_leave_the_table),
		T(routing_needs_an_irqchip),
		T(irq_line_reports_status),
		T(routing_can_change_while_lines_move),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
