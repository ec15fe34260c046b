/* The local APIC: registers, priorities, end of interrupt, modes, state. */
#include "fixture.h"

static int setup(void **state)
{
	fix_start(FIX_KERNEL, 2);
	return 0;
}

static void accept(int c, uint8_t vector)
{
	assert_int_equal(lapic_accept(cpu[c]->apic, APIC_DM_FIXED, vector, true, false), 1);
}

static void reset_leaves_registers_as_the_manual_says(void **state)
{
	assert_int_equal(apic_read(0, APIC_ID), 0);
	assert_int_equal(apic_read(1, APIC_ID), 1 << 24);
	assert_int_equal(apic_read(0, APIC_LVR), 0x50014);
	assert_int_equal(apic_read(0, APIC_SPIV), 0xff);
	assert_int_equal(apic_read(0, APIC_DFR), 0xffffffff);
	assert_int_equal(apic_read(0, APIC_LVT0), 0x700);
	assert_int_equal(apic_read(1, APIC_LVT0), 0x10000);
	assert_int_equal(apic_read(1, APIC_LVTERR), 0x10000);
	assert_int_equal(kvm_get_apic_base(cpu[0]), 0xfee00900);
	assert_int_equal(kvm_get_apic_base(cpu[1]), 0xfee00800);
}

static void corrected_machine_checks_have_an_entry_where_told(void **state)
{
	apic_enable(0);
	apic_write(0, APIC_LVTCMCI, 0x41); /* no such register */
	kvm_apic_cmci(cpu[0]);
	assert_false(irr_has(0, 0x41));
	kvm_apic_set_cmci(cpu[0], true);
	assert_int_equal(apic_read(0, APIC_LVR), 0x60014);
	assert_int_equal(apic_read(0, APIC_LVTCMCI), 0x10000);
	kvm_apic_cmci(cpu[0]);
	assert_false(irr_has(0, 0x41));
	apic_write(0, APIC_LVTCMCI, 0xffff0041 & ~APIC_LVT_MASKED);
	assert_int_equal(apic_read(0, APIC_LVTCMCI), 0x41);
	kvm_apic_cmci(cpu[0]);
	assert_true(irr_has(0, 0x41));
	apic_write(0, APIC_SPIV, 0xff); /* software-disabled: masked like the others */
	assert_int_equal(apic_read(0, APIC_LVTCMCI), 0x10041);
	kvm_lapic_reset(cpu[0], false);
	assert_int_equal(apic_read(0, APIC_LVTCMCI), 0x10000);
	kvm_apic_set_cmci(cpu[0], false);
	assert_int_equal(apic_read(0, APIC_LVR), 0x50014);
}

static void software_disabled_apic_takes_no_fixed_interrupt(void **state)
{
	assert_int_equal(lapic_accept(cpu[0]->apic, APIC_DM_FIXED, 0x40, true, false), 0);
	assert_false(irr_has(0, 0x40));
}

static void accepted_vector_sets_irr_and_requests_event(void **state)
{
	apic_enable(0);
	cpu[0]->requests = 0;
	accept(0, 0x41);
	assert_true(irr_has(0, 0x41));
	assert_true(kvm_test_request(KVM_REQ_EVENT, cpu[0]));
	assert_true(kvm_cpu_has_interrupt(cpu[0]));
}

static void get_interrupt_moves_highest_vector_from_irr_to_isr(void **state)
{
	apic_enable(0);
	accept(0, 0x41);
	accept(0, 0x83);
	assert_int_equal(kvm_cpu_get_interrupt(cpu[0]), 0x83);
	assert_true(isr_has(0, 0x83));
	assert_false(irr_has(0, 0x83));
	assert_int_equal(apic_read(0, APIC_PROCPRI), 0x80);
	assert_int_equal(apic_read(0, APIC_ISR + 0x40), 1 << 3);
	/* 0x41 waits for the EOI of class 8. */
	assert_int_equal(kvm_cpu_get_interrupt(cpu[0]), -1);
	apic_write(0, APIC_EOI, 0);
	assert_int_equal(kvm_cpu_get_interrupt(cpu[0]), 0x41);
}

static void same_priority_class_does_not_nest(void **state)
{
	apic_enable(0);
	accept(0, 0x41);
	assert_int_equal(kvm_cpu_get_interrupt(cpu[0]), 0x41);
	accept(0, 0x4f);
	assert_false(kvm_cpu_has_interrupt(cpu[0]));
	accept(0, 0x50);
	assert_int_equal(kvm_cpu_get_interrupt(cpu[0]), 0x50);
}

static void tpr_holds_back_its_class_and_cr8_mirrors_it(void **state)
{
	apic_enable(0);
	accept(0, 0x5a);
	kvm_lapic_set_tpr(cpu[0], 5);
	assert_int_equal(apic_read(0, APIC_TASKPRI), 0x50);
	assert_false(kvm_cpu_has_interrupt(cpu[0]));
	cpu[0]->requests = 0;
	apic_write(0, APIC_TASKPRI, 0x4f);
	assert_int_equal(kvm_lapic_get_cr8(cpu[0]), 4);
	assert_true(kvm_test_request(KVM_REQ_EVENT, cpu[0]));
	assert_int_equal(apic_read(0, APIC_PROCPRI), 0x4f); /* no class in service: all of the TPR */
	assert_int_equal(kvm_cpu_get_interrupt(cpu[0]), 0x5a);
}

static void software_disable_masks_the_lvts(void **state)
{
	apic_enable(0);
	apic_write(0, APIC_LVTT, 0x20);
	assert_int_equal(apic_read(0, APIC_LVTT), 0x20);
	apic_write(0, APIC_SPIV, 0xff);
	assert_int_equal(apic_read(0, APIC_LVTT), 0x10020);
	apic_write(0, APIC_LVTT, 0x21);
	assert_int_equal(apic_read(0, APIC_LVTT), 0x10021);
}

static void illegal_vector_is_reported_in_esr_after_a_write(void **state)
{
	apic_enable(0);
	apic_write(0, APIC_LVTERR, 0xfe);
	apic_write(0, APIC_ICR, APIC_DEST_SELF | 0x0f);
	assert_true(irr_has(0, 0xfe));
	assert_false(irr_has(0, 0x0f));
	assert_int_equal(apic_read(0, APIC_ESR), 0);
	apic_write(0, APIC_ESR, 0);
	assert_int_equal(apic_read(0, APIC_ESR), APIC_ESR_SEND_ILLEGAL);
	apic_write(0, APIC_ESR, 0);
	assert_int_equal(apic_read(0, APIC_ESR), 0);
}

static void reserved_register_is_an_error_and_a_read_only_one_is_not(void **state)
{
	apic_enable(0);
	apic_write(0, APIC_LVR, 0);
	assert_int_equal(apic_read(0, APIC_LVR), 0x50014);
	assert_int_equal(apic_read(0, APIC_EOI), 0);
	apic_write(0, APIC_ESR, 0);
	assert_int_equal(apic_read(0, APIC_ESR), 0);
	apic_write(0, 0x3a0, 1);
	apic_write(0, APIC_ESR, 0);
	assert_int_equal(apic_read(0, APIC_ESR), APIC_ESR_ILLEGAL_REGISTER);
}

static void error_lvt_with_an_illegal_vector_does_not_recurse(void **state)
{
	apic_enable(0);
	apic_write(0, APIC_LVTERR, 0x03);
	apic_write(0, APIC_ICR, APIC_DEST_SELF | 0x0f);
	apic_write(0, APIC_ESR, 0);
	assert_int_equal(apic_read(0, APIC_ESR), APIC_ESR_SEND_ILLEGAL | APIC_ESR_RECV_ILLEGAL);
}

static void apic_base_allows_only_legal_mode_changes(void **state)
{
	uint64_t base = 0xfee00000;

	assert_int_equal(kvm_set_apic_base(cpu[1], base | 0x400, false), 1); /* EXTD alone */
	assert_int_equal(kvm_set_apic_base(cpu[1], base | 0xc00, false), 0);
	assert_int_equal(kvm_set_apic_base(cpu[1], base | 0x800, false), 1); /* back to xAPIC */
	assert_int_equal(kvm_set_apic_base(cpu[1], base, false), 0);
	assert_int_equal(kvm_set_apic_base(cpu[1], base | 0xc00, false), 1); /* from disabled */
	assert_int_equal(kvm_set_apic_base(cpu[1], base | 0xc00, true), 0);  /* the client may */
	assert_int_equal(kvm_set_apic_base(cpu[1], base | 0x801, true), 1);  /* reserved */
	with_x2apic = false;
	assert_int_equal(kvm_set_apic_base(cpu[0], base | 0xc00, false), 1);
}

static void x2apic_mode_uses_msrs_and_32_bit_ids(void **state)
{
	uint64_t v;

	assert_int_equal(kvm_x2apic_msr_read(cpu[1], 0x802, &v), 1);
	assert_int_equal(kvm_set_apic_base(cpu[1], 0xfee00c00, false), 0);
	assert_int_equal(kvm_x2apic_msr_read(cpu[1], 0x802, &v), 0);
	assert_int_equal(v, 1);
	assert_int_equal(kvm_x2apic_msr_read(cpu[1], 0x80d, &v), 0);
	assert_int_equal(v, 1 << 1);
	assert_int_equal(kvm_x2apic_msr_read(cpu[1], 0x80e, &v), 1);  /* DFR is gone */
	assert_int_equal(kvm_x2apic_msr_read(cpu[1], 0x831, &v), 1);  /* ICR2 too */
	assert_int_equal(kvm_x2apic_msr_write(cpu[1], 0x802, 5), 1);  /* read-only id */
	assert_int_equal(kvm_x2apic_msr_write(cpu[1], 0x80b, 1), 1);  /* EOI takes 0 */
	assert_int_equal(kvm_x2apic_msr_write(cpu[1], 0x808, 1ULL << 32), 1);
	assert_int_equal(kvm_x2apic_msr_write(cpu[1], 0x80f, 0x1ff), 0);
	assert_int_equal(kvm_x2apic_msr_write(cpu[1], 0x83f, 0x77), 0); /* self IPI */
	assert_true(irr_has(1, 0x77));
	assert_int_equal(kvm_x2apic_msr_write(cpu[1], 0x83f, 0x177), 1);
}

static void page_of_an_absent_apic_reads_as_ones(void **state)
{
	uint32_t v = 0;

	assert_int_equal(kvm_lapic_mmio_read(cpu[0], 0xfee01000, 4, &v), -EOPNOTSUPP);
	assert_int_equal(kvm_set_apic_base(cpu[1], 0xfee00c00, false), 0);
	assert_int_equal(kvm_lapic_mmio_read(cpu[1], 0xfee00020, 4, &v), 0);
	assert_int_equal(v, 0xffffffff);
}

static void narrow_reads_give_bytes_of_the_register(void **state)
{
	uint8_t b;
	uint16_t h;

	assert_int_equal(kvm_lapic_mmio_read(cpu[0], 0xfee00032, 1, &b), 0);
	assert_int_equal(b, 5);
	assert_int_equal(kvm_lapic_mmio_read(cpu[0], 0xfee00030, 2, &h), 0);
	assert_int_equal(h, 0x14);
}

static void state_survives_get_and_set(void **state)
{
	struct kvm_lapic_state s;

	apic_enable(0);
	accept(0, 0x61);
	accept(0, 0x92);
	assert_int_equal(kvm_cpu_get_interrupt(cpu[0]), 0x92);
	assert_int_equal(kvm_apic_get_state(cpu[0], &s), 0);
	kvm_lapic_reset(cpu[0], false);
	assert_false(irr_has(0, 0x61));
	assert_int_equal(kvm_apic_set_state(cpu[0], &s), 0);
	assert_true(irr_has(0, 0x61));
	assert_true(isr_has(0, 0x92));
	apic_write(0, APIC_EOI, 0);
	assert_int_equal(kvm_cpu_get_interrupt(cpu[0]), 0x61);
}

static void x2apic_id_in_state_has_the_format_that_was_asked_for(void **state)
{
	struct kvm_lapic_state s;
	uint32_t id;

	assert_int_equal(kvm_set_apic_base(cpu[1], 0xfee00c00, false), 0);
	assert_int_equal(kvm_apic_get_state(cpu[1], &s), 0);
	memcpy(&id, s.regs + APIC_ID, 4);
	assert_int_equal(id, 1 << 24);
	assert_int_equal(kvm_apic_set_state(cpu[1], &s), 0);
	with_32bit_ids = true;
	assert_int_equal(kvm_apic_set_state(cpu[1], &s), -EINVAL);
	assert_int_equal(kvm_apic_get_state(cpu[1], &s), 0);
	memcpy(&id, s.regs + APIC_ID, 4);
	assert_int_equal(id, 1);
}

static void init_reset_keeps_base_and_id_and_drops_interrupts(void **state)
{
	assert_int_equal(kvm_set_apic_base(cpu[1], 0xfee00c00, false), 0);
	assert_int_equal(kvm_x2apic_msr_write(cpu[1], 0x80f, 0x1ff), 0);
	accept(1, 0x55);
	kvm_lapic_reset(cpu[1], true);
	assert_int_equal(kvm_get_apic_base(cpu[1]), 0xfee00c00);
	assert_false(irr_has(1, 0x55));
	assert_int_equal(lapic_get(cpu[1]->apic, APIC_LDR), 2);
}

static void auto_eoi_vector_is_never_in_service(void **state)
{
	struct kvm_apic_synic synic = { .vectors = { [1] = 1 << 5 | 1 << 6 }, .auto_eoi = { [1] = 1 << 6 } };

	apic_enable(0);
	kvm_apic_set_synic(cpu[0], &synic);
	accept(0, 0x44);
	accept(0, 0x46);
	assert_int_equal(kvm_cpu_get_interrupt(cpu[0]), 0x46);
	assert_false(irr_has(0, 0x46));
	assert_false(isr_has(0, 0x46));
	assert_int_equal(kvm_cpu_get_interrupt(cpu[0]), 0x44); /* the same class, not held back */
	assert_true(isr_has(0, 0x44));
}

static void synic_hears_of_the_eois_of_its_vectors(void **state)
{
	struct kvm_apic_synic synic = { .vectors = { [1] = 1 << 5 } };

	apic_enable(0);
	for (int there = 0; there < 2; there++) {
		kvm_apic_set_synic(cpu[0], there ? &synic : NULL);
		for (uint8_t v = 0x44; v < 0x46; v++) {
			assert_int_equal(kvm_apic_set_irq(cpu[0], v), 1);
			assert_int_equal(kvm_cpu_get_interrupt(cpu[0]), v);
			assert_int_equal(kvm_hv_vapic_msr_write(cpu[0], APIC_EOI, 0), 0);
			assert_int_equal(synic_eois[v], there && v == 0x45);
		}
	}
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, fix_stop)
	const struct CMUnitTest tests[] = {
		T(reset_leaves_registers_as_the_manual_says),
		T(corrected_machine_checks_have_an_entry_where_told),
		T(software_disabled_apic_takes_no_fixed_interrupt),
		T(accepted_vector_sets_irr_and_requests_event),
		T(get_interrupt_moves_highest_vector_from_irr_to_isr),
		T(same_priority_class_does_not_nest),
		T(tpr_holds_back_its_class_and_cr8_mirrors_it),
		T(software_disable_masks_the_lvts),
		T(illegal_vector_is_reported_in_esr_after_a_write),
		T(reserved_register_is_an_error_and_a_read_only_one_is_not),
		T(error_lvt_with_an_illegal_vector_does_not_recurse),
		T(apic_base_allows_only_legal_mode_changes),
		T(x2apic_mode_uses_msrs_and_32_bit_ids),
		T(page_of_an_absent_apic_reads_as_ones),
		T(narrow_reads_give_bytes_of_the_register),
		T(state_survives_get_and_set),
		T(x2apic_id_in_state_has_the_format_that_was_asked_for),
		T(init_reset_keeps_base_and_id_and_drops_interrupts),
		T(auto_eoi_vector_is_never_in_service),
		T(synic_hears_of_the_eois_of_its_vectors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
