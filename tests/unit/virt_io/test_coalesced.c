/* Coalesced zones: what lands in the ring, when it is full, who shares it. */
#include "fixture.h"

static struct kvm_coalesced_mmio_ring *ring;

static int setup(void **state)
{
	fix_start(FIX_NONE, 2);
	ring = (void *)((char *)cpu[0]->run + KVM_COALESCED_MMIO_PAGE_OFFSET * PAGE_SIZE);
	return 0;
}

static int zone(bool add, gpa_t addr, uint32_t size, uint32_t pio)
{
	struct kvm_coalesced_mmio_zone z = { .addr = addr, .size = size, .pio = pio };

	return add ? kvm_vm_ioctl_register_coalesced_mmio(vm, &z)
		   : kvm_vm_ioctl_unregister_coalesced_mmio(vm, &z);
}

static int poke(int c, enum kvm_bus_id bus, gpa_t addr, int len, uint64_t val)
{
	return kvm_io_bus_write(cpu[c], bus, addr, len, &val);
}

static void write_in_a_zone_lands_in_the_ring(void **state)
{
	uint64_t v;

	assert_int_equal(zone(true, 0xa0000, 0x20000, 0), 0);
	assert_int_equal(poke(0, KVM_MMIO_BUS, 0xa0010, 4, 0x12345678), 0);
	assert_int_equal(ring->first, 0);
	assert_int_equal(ring->last, 1);
	assert_int_equal(ring->coalesced_mmio[0].phys_addr, 0xa0010);
	assert_int_equal(ring->coalesced_mmio[0].len, 4);
	assert_int_equal(ring->coalesced_mmio[0].pio, 0);
	assert_memory_equal(ring->coalesced_mmio[0].data, "\x78\x56\x34\x12", 4);
	assert_int_equal(poke(0, KVM_MMIO_BUS, 0xbfffe, 4, 0), -EOPNOTSUPP);
	assert_int_equal(kvm_io_bus_read(cpu[0], KVM_MMIO_BUS, 0xa0010, 4, &v), -EOPNOTSUPP);
}

static void every_vcpu_writes_to_the_first_ones_ring(void **state)
{
	assert_int_equal(zone(true, 0xa0000, 0x1000, 0), 0);
	assert_int_equal(poke(1, KVM_MMIO_BUS, 0xa0000, 1, 7), 0);
	assert_int_equal(ring->last, 1);
	assert_int_equal(ring->coalesced_mmio[0].data[0], 7);
}

static void pio_zone_marks_its_entries(void **state)
{
	assert_int_equal(zone(true, 0x70, 1, 1), 0);
	assert_int_equal(poke(0, KVM_PIO_BUS, 0x70, 1, 0x0b), 0);
	assert_int_equal(ring->coalesced_mmio[0].pio, 1);
	assert_int_equal(poke(0, KVM_MMIO_BUS, 0x70, 1, 0), -EOPNOTSUPP);
}

static void full_ring_refuses_and_wraps_after_being_drained(void **state)
{
	uint32_t max = KVM_COALESCED_MMIO_MAX;

	assert_int_equal(zone(true, 0xa0000, 0x1000, 0), 0);
	for (uint32_t i = 0; i < max - 1; i++)
		assert_int_equal(poke(0, KVM_MMIO_BUS, 0xa0000, 4, i), 0);
	assert_int_equal(ring->last, max - 1);
	assert_int_equal(poke(0, KVM_MMIO_BUS, 0xa0000, 4, 0), -EOPNOTSUPP);
	ring->first = 2; /* the client took two */
	assert_int_equal(poke(0, KVM_MMIO_BUS, 0xa0000, 4, 0xaa), 0);
	assert_int_equal(ring->last, 0);
	assert_int_equal(poke(0, KVM_MMIO_BUS, 0xa0000, 4, 0xbb), 0);
	assert_int_equal(ring->last, 1);
	assert_int_equal(ring->coalesced_mmio[max - 1].data[0], 0xaa);
	assert_int_equal(ring->coalesced_mmio[0].data[0], 0xbb);
	assert_int_equal(poke(0, KVM_MMIO_BUS, 0xa0000, 4, 0), -EOPNOTSUPP);
}

static void nonsense_in_the_ring_is_not_followed(void **state)
{
	assert_int_equal(zone(true, 0xa0000, 0x1000, 0), 0);
	ring->last = 0xfffff;
	assert_int_equal(poke(0, KVM_MMIO_BUS, 0xa0000, 4, 0), -EOPNOTSUPP);
	ring->last = 0;
	ring->first = KVM_COALESCED_MMIO_MAX;
	assert_int_equal(poke(0, KVM_MMIO_BUS, 0xa0000, 4, 0), -EOPNOTSUPP);
}

static void unregistered_zone_takes_nothing(void **state)
{
	assert_int_equal(zone(true, 0xa0000, 0x1000, 0), 0);
	assert_int_equal(zone(false, 0xa0000, 0x1000, 1), 0); /* other kind */
	assert_int_equal(poke(0, KVM_MMIO_BUS, 0xa0000, 4, 0), 0);
	assert_int_equal(zone(false, 0xa0000, 0x1000, 0), 0);
	assert_int_equal(poke(0, KVM_MMIO_BUS, 0xa0000, 4, 0), -EOPNOTSUPP);
	assert_int_equal(zone(true, 0xa0000, 0x1000, 2), -EINVAL);
	assert_int_equal(zone(false, 0xa0000, 0x1000, 2), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, fix_stop)
		T(write_in_a_zone_lands_in_the_ring),
		T(every_vcpu_writes_to_the_first_ones_ring),
		T(pio_zone_marks_its_entries),
		T(full_ring_refuses_and_wraps_after_being_drained),
		T(nonsense_in_the_ring_is_not_followed),
		T(unregistered_zone_takes_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
