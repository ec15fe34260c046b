/* The 8259 pair against its datasheet. */
#include "fixture.h"

static int setup(void **state)
{
	fix_start(FIX_KERNEL, 2);
	pic_init(0x01);
	cpu[0]->requests = cpu[1]->requests = 0;
	return 0;
}

static int inta(void)
{
	return kvm_cpu_get_interrupt(cpu[0]);
}

static void isa_edge(int irq)
{
	line((uint32_t)irq, 1);
	line((uint32_t)irq, 0);
}

static void request_reaches_only_the_vcpu_with_extint(void **state)
{
	isa_edge(4);
	assert_true(kvm_cpu_has_interrupt(cpu[0]));
	assert_true(kvm_test_request(KVM_REQ_EVENT, cpu[0]));
	assert_false(kvm_cpu_has_interrupt(cpu[1]));
	assert_int_equal(inta(), 0x24);
	assert_false(kvm_cpu_has_interrupt(cpu[0]));
}

static void lower_number_wins_and_isr_holds_back_the_rest(void **state)
{
	isa_edge(5);
	isa_edge(3);
	assert_int_equal(inta(), 0x23);
	assert_false(kvm_cpu_has_interrupt(cpu[0]));
	isa_edge(1); /* higher: nests */
	assert_int_equal(inta(), 0x21);
	outb(0x20, 0x0b);
	assert_int_equal(inb(0x20), 1 << 3 | 1 << 1);
	outb(0x20, 0x20); /* ends 1 */
	assert_false(kvm_cpu_has_interrupt(cpu[0]));
	outb(0x20, 0x20); /* ends 3 */
	assert_int_equal(inta(), 0x25);
	outb(0x20, 0x0a);
	assert_int_equal(inb(0x20), 0);
}

static void masked_request_waits(void **state)
{
	outb(0x21, 1 << 3);
	assert_int_equal(inb(0x21), 1 << 3);
	isa_edge(3);
	assert_false(kvm_cpu_has_interrupt(cpu[0]));
	outb(0x21, 0);
	assert_int_equal(inta(), 0x23);
}

static void slave_request_comes_through_irq2(void **state)
{
	isa_edge(12);
	assert_int_equal(inta(), 0x2c);
	outb(0x20, 0x0b);
	assert_int_equal(inb(0x20), 1 << 2);
	outb(0xa0, 0x0b);
	assert_int_equal(inb(0xa0), 1 << 4);
	isa_edge(3); /* below IRQ2 */
	assert_false(kvm_cpu_has_interrupt(cpu[0]));
	outb(0xa0, 0x20);
	outb(0x20, 0x20);
	assert_int_equal(inta(), 0x23);
}

static void second_slave_request_follows_after_the_eois(void **state)
{
	isa_edge(10);
	isa_edge(12);
	assert_int_equal(inta(), 0x2a);
	outb(0xa0, 0x20);
	outb(0x20, 0x20);
	assert_int_equal(inta(), 0x2c);
}

static void request_masked_before_inta_gives_spurious_irq7(void **state)
{
	isa_edge(4);
	outb(0x21, 0xff);
	assert_int_equal(kvm_pic_read_irq(vm), 0x27);
	outb(0x20, 0x0b);
	assert_int_equal(inb(0x20), 0);
}

static void slave_request_that_vanishes_gives_spurious_irq15(void **state)
{
	outb(0x4d1, 1 << 3); /* IRQ 11 level-triggered */
	line(11, 1);
	line(11, 0);
	assert_int_equal(inta(), 0x2f);
}

static void specific_eoi_ends_that_one(void **state)
{
	isa_edge(5);
	assert_int_equal(inta(), 0x25);
	isa_edge(3);
	assert_int_equal(inta(), 0x23);
	outb(0x20, 0x65);
	outb(0x20, 0x0b);
	assert_int_equal(inb(0x20), 1 << 3);
}

static void rotation_makes_the_served_pin_the_lowest(void **state)
{
	isa_edge(3);
	assert_int_equal(inta(), 0x23);
	outb(0x20, 0xa0); /* rotate on non-specific EOI: 4 is highest now */
	isa_edge(3);
	isa_edge(4);
	assert_int_equal(inta(), 0x24);
}

static void set_priority_command_rotates_at_once(void **state)
{
	outb(0x20, 0xc0 | 4); /* 4 lowest, 5 highest */
	isa_edge(0);
	isa_edge(5);
	assert_int_equal(inta(), 0x25);
}

static void auto_eoi_leaves_nothing_in_service(void **state)
{
	pic_init(0x03);
	isa_edge(6);
	assert_int_equal(inta(), 0x26);
	outb(0x20, 0x0b);
	assert_int_equal(inb(0x20), 0);
}

static void special_mask_lets_lower_priorities_through(void **state)
{
	isa_edge(3);
	assert_int_equal(inta(), 0x23);
	isa_edge(6);
	assert_false(kvm_cpu_has_interrupt(cpu[0]));
	outb(0x20, 0x68);
	outb(0x21, 1 << 3);
	assert_int_equal(inta(), 0x26);
}

static void level_triggered_line_asks_again_after_eoi(void **state)
{
	outb(0x4d0, 1 << 5);
	assert_int_equal(inb(0x4d0), 1 << 5);
	line(5, 1);
	assert_int_equal(inta(), 0x25);
	outb(0x20, 0x20);
	assert_int_equal(inta(), 0x25);
	line(5, 0);
	outb(0x20, 0x20);
	assert_false(kvm_cpu_has_interrupt(cpu[0]));
}

static void elcr_cannot_make_system_irqs_level_triggered(void **state)
{
	outb(0x4d0, 0xff);
	outb(0x4d1, 0xff);
	assert_int_equal(inb(0x4d0), 0xf8);
	assert_int_equal(inb(0x4d1), 0xde);
}

static void edge_needs_the_line_to_fall_first(void **state)
{
	assert_int_equal(kvm_pic_set_irq(vm->vpic, 4, 0, 1), 1);
	assert_int_equal(inta(), 0x24);
	outb(0x20, 0x20);
	kvm_pic_set_irq(vm->vpic, 4, 0, 1);
	assert_false(kvm_cpu_has_interrupt(cpu[0]));
	kvm_pic_set_irq(vm->vpic, 4, 0, 0);
	assert_int_equal(kvm_pic_set_irq(vm->vpic, 4, 0, 1), 1);
	kvm_pic_set_irq(vm->vpic, 4, 0, 0);
	assert_int_equal(kvm_pic_set_irq(vm->vpic, 4, 0, 1), 0); /* coalesced */
	outb(0x21, 0x10);
	kvm_pic_set_irq(vm->vpic, 4, 0, 0);
	assert_int_equal(kvm_pic_set_irq(vm->vpic, 4, 0, 1), -1); /* masked */
}

static void poll_acknowledges_without_inta(void **state)
{
	isa_edge(6);
	outb(0x20, 0x0c);
	assert_int_equal(inb(0x20), 0x86);
	assert_false(kvm_cpu_has_interrupt(cpu[0]));
	outb(0x20, 0x0c);
	assert_int_equal(inb(0x20), 0);
}

static void line_with_two_drivers_falls_with_the_last(void **state)
{
	outb(0x4d0, 1 << 5);
	kvm_set_irq(vm, KVM_USERSPACE_IRQ_SOURCE_ID, 5, 1);
	kvm_set_irq(vm, KVM_IRQFD_RESAMPLE_IRQ_SOURCE_ID, 5, 1);
	kvm_set_irq(vm, KVM_USERSPACE_IRQ_SOURCE_ID, 5, 0);
	assert_int_equal(inta(), 0x25);
	outb(0x20, 0x20);
	assert_true(kvm_cpu_has_interrupt(cpu[0]));
	kvm_set_irq(vm, KVM_IRQFD_RESAMPLE_IRQ_SOURCE_ID, 5, 0);
	assert_false(kvm_cpu_has_interrupt(cpu[0]));
}

static void state_survives_get_and_set(void **state)
{
	struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_PIC_MASTER };

	isa_edge(4);
	assert_int_equal(kvm_vm_ioctl_get_irqchip(vm, &chip), 0);
	assert_int_equal(chip.chip.pic.irr, 1 << 4);
	assert_int_equal(chip.chip.pic.irq_base, 0x20);
	assert_int_equal(inta(), 0x24);
	assert_int_equal(kvm_vm_ioctl_set_irqchip(vm, &chip), 0);
	assert_int_equal(inta(), 0x24);
	chip.chip_id = 7;
	assert_int_equal(kvm_vm_ioctl_get_irqchip(vm, &chip), -EINVAL);
}

static void masking_lint0_cuts_the_pic_off(void **state)
{
	apic_enable(0);
	apic_write(0, APIC_LVT0, APIC_LVT_MASKED | APIC_DM_EXTINT);
	isa_edge(4);
	assert_false(kvm_cpu_has_interrupt(cpu[0]));
	apic_write(0, APIC_LVT0, APIC_DM_EXTINT);
	assert_int_equal(inta(), 0x24);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, fix_stop)
		T(request_reaches_only_the_vcpu_with_extint),
		T(lower_number_wins_and_isr_holds_back_the_rest),
		T(masked_request_waits),
		T(slave_request_comes_through_irq2),
		T(second_slave_request_follows_after_the_eois),
		T(request_masked_before_inta_gives_spurious_irq7),
		T(slave_request_that_vanishes_gives_spurious_irq15),
		T(specific_eoi_ends_that_one),
		T(rotation_makes_the_served_pin_the_lowest),
		T(set_priority_command_rotates_at_once),
		T(auto_eoi_leaves_nothing_in_service),
		T(special_mask_lets_lower_priorities_through),
		T(level_triggered_line_asks_again_after_eoi),
		T(elcr_cannot_make_system_irqs_level_triggered),
		T(edge_needs_the_line_to_fall_first),
		T(poll_acknowledges_without_inta),
		T(line_with_two_drivers_falls_with_the_last),
		T(state_survives_get_and_set),
		T(masking_lint0_cuts_the_pic_off),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
