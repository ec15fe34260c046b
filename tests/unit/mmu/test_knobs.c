/*
 * USERKVM_PARAMS is read once a process, so each knob has a child of its own.
 */
#include "fixture.h"

#include "../../child.h"

/* What body() says in a child with these params: 0 is good. */
static int in_child(const char *params, int (*body)(void))
{
	return child_with("USERKVM_PARAMS", params, body);
}

static int make_vm(void)
{
	fake.maxphyaddr = 46;
	kvm_register_arch(&arch);
	kvm_mmu_register_guest(&guest, &vendor);
	return host_fault_init() || kvm_create_vm(&vm);
}

static int without_ept(void)
{
	if (make_vm())
		return 1;
	if (kvm_create_vcpu(vm, 0, &vcpu) || kvm_mmu_reload(vcpu))
		return 2;
	/* CR3 has 32 bits in the mode that a guest without paging is run in */
	return fake.loaded_root < 1ULL << 32 && vcpu->mmu->sync_roots ? 0 : 3;
}

static int without_ad(void)
{
	char *m = get_memory(0x1000, 4096, PROT_READ | PROT_WRITE);
	uint64_t e;
	int level;

	if (make_vm() || kvm_create_vcpu(vm, 0, &vcpu) || kvm_mmu_reload(vcpu) ||
	    set_slot(0, 0, 0, 0x1000, m))
		return 1;
	if (take_fault(vcpu, 0, PFERR_WRITE_MASK) != RET_PF_FIXED)
		return 2;
	e = ept_entry(0, &level);
	if (e & (EPT_ACCESSED | EPT_DIRTY) || (e & EPT_RWX) != EPT_RWX)
		return 3;
	return mmu_check(vm) ? 4 : 0;
}

static void ept_0_gives_a_shadow_root_that_a_32_bit_cr3_reaches(void **state)
{
	assert_int_equal(in_child("ept=0", without_ept), 0);
}

static void eptad_0_leaves_accessed_and_dirty_alone(void **state)
{
	assert_int_equal(in_child("eptad=0", without_ad), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ept_0_gives_a_shadow_root_that_a_32_bit_cr3_reaches),
		cmocka_unit_test(eptad_0_leaves_accessed_and_dirty_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
