/* The interrupt bus: destinations, shorthands, delivery modes, MSIs. */
#include "fixture.h"

#define NR 4

static int setup(void **state)
{
	fix_start(FIX_KERNEL, NR);
	for (int c = 0; c < NR; c++)
		apic_enable(c);
	return 0;
}

/* The vCPUs that have vector in IRR, as a mask. */
static unsigned who(uint8_t vector)
{
	unsigned mask = 0;

	for (int c = 0; c < NR; c++)
		mask |= irr_has(c, vector) ? 1U << c : 0;
	return mask;
}

static void ipi(int from, uint32_t dest, uint32_t low)
{
	apic_write(from, APIC_ICR2, dest << 24);
	apic_write(from, APIC_ICR, low);
}

static void physical_destination_reaches_one(void **state)
{
	ipi(0, 2, 0x40);
	assert_int_equal(who(0x40), 1 << 2);
	assert_int_equal(apic_read(0, APIC_ICR), 0x40);
}

static void physical_broadcast_reaches_all(void **state)
{
	ipi(1, 0xff, 0x41);
	assert_int_equal(who(0x41), 0xf);
}

static void changed_xapic_id_is_the_one_that_counts(void **state)
{
	apic_write(3, APIC_ID, 0x20 << 24);
	ipi(0, 3, 0x42);
	assert_int_equal(who(0x42), 0);
	ipi(0, 0x20, 0x42);
	assert_int_equal(who(0x42), 1 << 3);
}

/* SDM "Physical Destination Mode": each local APIC compares the id with its own. */
static void an_id_that_two_have_reaches_both(void **state)
{
	apic_write(3, APIC_ID, 1 << 24);
	ipi(0, 1, 0x50);
	assert_int_equal(who(0x50), 1 << 1 | 1 << 3);
	ipi(2, 1, 0x51);
	assert_int_equal(who(0x51), 1 << 1 | 1 << 3);
	apic_write(3, APIC_ID, 3 << 24);
	ipi(0, 1, 0x52);
	assert_int_equal(who(0x52), 1 << 1);
}

static void shorthands_ignore_the_destination(void **state)
{
	ipi(1, 3, APIC_DEST_SELF | 0x43);
	assert_int_equal(who(0x43), 1 << 1);
	ipi(1, 3, APIC_DEST_ALLINC | 0x44);
	assert_int_equal(who(0x44), 0xf);
	ipi(1, 3, APIC_DEST_ALLBUT | 0x45);
	assert_int_equal(who(0x45), 0xd);
}

static void flat_logical_destination_is_a_bit_mask(void **state)
{
	for (int c = 0; c < NR; c++)
		apic_write(c, APIC_LDR, 1U << (24 + c));
	ipi(0, 0x0a, APIC_DEST_LOGICAL | 0x46);
	assert_int_equal(who(0x46), 0xa);
}

static void cluster_logical_destination_matches_cluster_and_bit(void **state)
{
	static const uint8_t ldr[NR] = { 0x11, 0x12, 0x21, 0x22 };

	for (int c = 0; c < NR; c++) {
		apic_write(c, APIC_DFR, 0x0fffffff);
		apic_write(c, APIC_LDR, (uint32_t)ldr[c] << 24);
	}
	ipi(0, 0x23, APIC_DEST_LOGICAL | 0x47);
	assert_int_equal(who(0x47), 0xc);
	ipi(0, 0x12, APIC_DEST_LOGICAL | 0x48);
	assert_int_equal(who(0x48), 0x2);
}

static void x2apic_logical_destination_matches_cluster_and_bit(void **state)
{
	for (int c = 0; c < NR; c++)
		assert_int_equal(kvm_set_apic_base(cpu[c], 0xfee00c00 | (c ? 0 : 0x100), false), 0);
	assert_int_equal(kvm_x2apic_msr_write(cpu[0], 0x830, 6ULL << 32 | 0x849), 0);
	assert_int_equal(who(0x49), 0x6);
	/* Another cluster. */
	assert_int_equal(kvm_x2apic_msr_write(cpu[0], 0x830, 0x10006ULL << 32 | 0x84a), 0);
	assert_int_equal(who(0x4a), 0);
	assert_int_equal(kvm_x2apic_msr_write(cpu[0], 0x830, 3ULL << 32 | 0x4b), 0);
	assert_int_equal(who(0x4b), 1 << 3);
	assert_int_equal(kvm_x2apic_msr_write(cpu[0], 0x830, 0xffffffffULL << 32 | 0x4c), 0);
	assert_int_equal(who(0x4c), 0xf);
}

static void lowest_priority_reaches_exactly_one_and_takes_turns(void **state)
{
	unsigned seen = 0;

	for (int c = 0; c < NR; c++)
		apic_write(c, APIC_LDR, 1U << (24 + c));
	for (uint8_t v = 0x50; v < 0x50 + NR; v++) {
		ipi(0, 0x0f, APIC_DEST_LOGICAL | APIC_DM_LOWEST | v);
		assert_int_equal(__builtin_popcount(who(v)), 1);
		seen |= who(v);
	}
	assert_int_equal(seen, 0xf);
}

static void nmi_and_smi_go_past_the_irr(void **state)
{
	ipi(0, 1, APIC_DM_NMI);
	ipi(0, 2, APIC_DM_SMI);
	assert_int_equal(nmis[1], 1);
	assert_int_equal(smis[2], 1);
	assert_int_equal(nmis[0] + nmis[2] + nmis[3], 0);
}

static void init_then_sipi_are_taken_together(void **state)
{
	uint8_t vector = 0;

	ipi(0, 0, APIC_DEST_ALLBUT | APIC_DM_INIT | APIC_INT_ASSERT | APIC_INT_LEVELTRIG);
	ipi(0, 0, APIC_DEST_ALLBUT | APIC_DM_INIT | APIC_INT_LEVELTRIG); /* de-assert */
	assert_false(kvm_apic_init_sipi_pending(cpu[0]));
	assert_true(kvm_apic_init_sipi_pending(cpu[1]));
	ipi(0, 1, APIC_DM_STARTUP | 0x9a);
	assert_int_equal(kvm_apic_take_init_sipi(cpu[1], &vector), 3);
	assert_int_equal(vector, 0x9a);
	assert_int_equal(kvm_apic_take_init_sipi(cpu[1], &vector), 0);
	assert_int_equal(kvm_apic_take_init_sipi(cpu[2], &vector), 1);
}

static void init_forgets_an_earlier_sipi(void **state)
{
	uint8_t vector;

	ipi(0, 1, APIC_DM_STARTUP | 0x9a);
	ipi(0, 1, APIC_DM_INIT | APIC_INT_ASSERT);
	assert_int_equal(kvm_apic_take_init_sipi(cpu[1], &vector), 1);
}

static void msi_is_delivered_by_its_address_and_data(void **state)
{
	struct kvm_msi msi = { .address_lo = 0xfee02000, .data = 0x60 };

	assert_int_equal(kvm_send_userspace_msi(vm, &msi), 1);
	assert_int_equal(who(0x60), 1 << 2);
	msi.address_lo = 0xfee09000; /* nobody: no error to Linux */
	assert_int_equal(kvm_send_userspace_msi(vm, &msi), 0);
	msi.flags = 0x80;
	assert_int_equal(kvm_send_userspace_msi(vm, &msi), -EINVAL);
}

static void msi_to_a_disabled_apic_is_blocked(void **state)
{
	struct kvm_msi msi = { .address_lo = 0xfee01000, .data = 0x60 };

	apic_write(1, APIC_SPIV, 0xff);
	assert_int_equal(kvm_send_userspace_msi(vm, &msi), 0);
}

static void msi_with_low_high_address_bits_is_refused_with_32_bit_ids(void **state)
{
	struct kvm_msi msi = { .address_lo = 0xfee01000, .address_hi = 1, .data = 0x60 };

	assert_int_equal(kvm_send_userspace_msi(vm, &msi), 1);
	with_32bit_ids = true;
	assert_int_equal(kvm_send_userspace_msi(vm, &msi), -EINVAL);
}

static void msi_broadcast_reaches_x2apics_too(void **state)
{
	struct kvm_msi msi = { .address_lo = 0xfeeff000, .data = 0x61 };

	assert_int_equal(kvm_set_apic_base(cpu[2], 0xfee00c00, false), 0);
	assert_int_equal(kvm_send_userspace_msi(vm, &msi), 4);
	assert_int_equal(who(0x61), 0xf);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, fix_stop)
		T(physical_destination_reaches_one),
		T(physical_broadcast_reaches_all),
		T(changed_xapic_id_is_the_one_that_counts),
		T(an_id_that_two_have_reaches_both),
		T(shorthands_ignore_the_destination),
		T(flat_logical_destination_is_a_bit_mask),
		T(cluster_logical_destination_matches_cluster_and_bit),
		T(x2apic_logical_destination_matches_cluster_and_bit),
		T(lowest_priority_reaches_exactly_one_and_takes_turns),
		T(nmi_and_smi_go_past_the_irr),
		T(init_then_sipi_are_taken_together),
		T(init_forgets_an_earlier_sipi),
		T(msi_is_delivered_by_its_address_and_data),
		T(msi_to_a_disabled_apic_is_blocked),
		T(msi_with_low_high_address_bits_is_refused_with_32_bit_ids),
		T(msi_broadcast_reaches_x2apics_too),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
