/*
 * MMIO: the misconfigured entry, its generation, and what makes it stale.
 */
#include "fixture.h"

static void fault_without_a_slot_leaves_a_misconfigured_entry(void **state)
{
	uint64_t e;
	int level;

	assert_int_equal(take_fault(vcpu, 0xfee00300, PFERR_WRITE_MASK), RET_PF_EMULATE);
	e = ept_entry(0xfee00000, &level);
	assert_int_equal(level, 1);
	assert_int_equal(e & EPT_RWX, EPT_WRITE | EPT_EXEC);
	assert_int_equal(FIELD_GET(EPT_ADDR_MASK, e), 0xfee00);
	assert_int_equal(mmio_fault(vcpu, 0xfee00300), RET_PF_EMULATE);
	assert_int_equal(take_fault(vcpu, 0xfee00300, PFERR_RSVD_MASK), RET_PF_EMULATE);
	assert_int_equal(vcpu->stat.pf_taken, 1);
	assert_int_equal(vcpu->stat.pf_mmio_spte_created, 1);
}

static void new_generation_makes_the_entry_stale(void **state)
{
	char *m = get_memory(0x1000, 4096, PROT_READ | PROT_WRITE);
	int level;

	assert_int_equal(take_fault(vcpu, 0x5000, 0), RET_PF_EMULATE);
	assert_int_equal(set_slot(0, 0, 0x100000, 0x1000, m), 0);
	assert_int_equal(mmio_fault(vcpu, 0x5000), RET_PF_INVALID);
	/* Looked at anew: still MMIO, with the present generation. */
	assert_int_equal(take_fault(vcpu, 0x5000, PFERR_RSVD_MASK), RET_PF_EMULATE);
	assert_int_equal(mmio_fault(vcpu, 0x5000), RET_PF_EMULATE);
	/* And memory once a slot is there. */
	assert_int_equal(set_slot(0, 0, 0, 0, 0), 0);
	assert_int_equal(set_slot(0, 0, 0x5000, 0x1000, m), 0);
	assert_int_equal(take_fault(vcpu, 0x5000, PFERR_RSVD_MASK), RET_PF_FIXED);
	assert_int_equal(ept_entry(0x5000, &level) & EPT_RWX, EPT_RWX);
}

static void entry_that_is_gone_is_tried_again(void **state)
{
	assert_int_equal(mmio_fault(vcpu, 0x7000), RET_PF_RETRY);
	assert_int_equal(take_fault(vcpu, 0x7000, PFERR_RSVD_MASK), RET_PF_RETRY);
}

static void generation_wrap_zaps_all(void **state)
{
	char *m = get_memory(0x2000, 4096, PROT_READ | PROT_WRITE);
	struct kvm_memslots *s = __kvm_memslots(vm, 0);
	int level;

	assert_int_equal(set_slot(0, 0, 0x100000, 0x1000, m), 0);
	assert_int_equal(set_slot(1, 0, 0x200000, 0x1000, m), 0);
	assert_int_equal(take_fault(vcpu, 0x5000, 0), RET_PF_EMULATE);
	assert_int_equal(take_fault(vcpu, 0x100000, 0), RET_PF_FIXED);
	/* 19 bits of the halved generation are in the entry. */
	s = __kvm_memslots(vm, 0);
	s->generation = (1ULL << 20) - 4;
	assert_int_equal(set_slot(1, 0, 0x300000, 0x1000, m), 0);
	assert_int_equal(ept_entry(0x5000, &level), 0);
	assert_int_equal(ept_entry(0x100000, &level), 0);
	assert_true(kvm_test_request(KVM_REQ_TLB_FLUSH, vcpu));
}

static void execution_from_mmio_is_given_to_the_emulator(void **state)
{
	assert_int_equal(take_fault(vcpu, 0xfffff000, PFERR_FETCH_MASK), RET_PF_EMULATE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(fault_without_a_slot_leaves_a_misconfigured_entry),
		TEST(new_generation_makes_the_entry_stale),
		TEST(entry_that_is_gone_is_tried_again),
		TEST(generation_wrap_zaps_all),
		TEST(execution_from_mmio_is_given_to_the_emulator),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
