/*
 * Each allocation of a VM's life fails once: -ENOMEM, nothing half done, nothing lost.
 */
#include "fixture.h"
#include "lib/own.h"

static char *mem;

/* Every kind of change; 1: there is no more. */
static int change(int step)
{
	static const struct kvm_userspace_memory_region steps[] = {
		{ 0, 0, 0, 0x4000, 0 },
		{ 1, KVM_MEM_LOG_DIRTY_PAGES, 0x10000, 0x1000, 0 },
		{ 0, KVM_MEM_LOG_DIRTY_PAGES, 0, 0x4000, 0 },
		{ 0, KVM_MEM_LOG_DIRTY_PAGES, 0x20000, 0x4000, 0 },
		{ 0, 0, 0x20000, 0x4000, 0 },
		{ 1, 0, 0, 0, 0 },
	};
	struct kvm_userspace_memory_region m;

	if (step == ARRAY_SIZE(steps))
		return 1;
	m = steps[step];
	m.userspace_addr = (uintptr_t)mem;
	return kvm_vm_ioctl_set_memory_region(vm, &m);
}

/* A whole life; what failed is tried again without failure. Returns the allocations it took. */
static int life(int fail)
{
	uint64_t frames = host_frames_in_use(), before = own_allocations();
	int step, r;

	own_fail_at((uint64_t)fail, false);
	r = kvm_create_vm(&vm);
	if (r) {
		assert_int_equal(r, -ENOMEM);
		assert_int_equal(kvm_create_vm(&vm), 0);
	}
	r = kvm_create_vcpu(vm, 0, &vcpu);
	if (r) {
		assert_int_equal(r, -ENOMEM);
		assert_int_equal(kvm_create_vcpu(vm, 0, &vcpu), 0);
	}
	r = kvm_mmu_reload(vcpu);
	if (r) {
		assert_int_equal(r, -ENOMEM);
		assert_int_equal(kvm_mmu_reload(vcpu), 0);
	}
	for (step = 0; (r = change(step)) <= 0; step++) {
		if (r) {
			assert_int_equal(r, -ENOMEM);
			assert_int_equal(kvm_memslots_check(vm), 0);
			assert_int_equal(change(step), 0);
		}
		assert_int_equal(kvm_memslots_check(vm), 0);
		assert_true(goes_on(take_fault(vcpu, step < 3 ? 0x1000 : 0x21000, PFERR_WRITE_MASK)));
	}
	r = (int)(own_allocations() - before);
	own_fail_at(0, false);
	assert_int_equal(mmu_check(vm), 0);
	kvm_put_kvm(vm);
	assert_int_equal(host_frames_in_use(), frames);
	return r;
}

static void every_allocation_fails_once(void **state)
{
	int n, i;

	mem = get_memory(0x4000, 4096, PROT_READ | PROT_WRITE);
	fake.maxphyaddr = 46;
	assert_int_equal(host_fault_init(), 0);
	kvm_register_arch(&arch);
	kvm_mmu_register_guest(&guest, &vendor);
	life(0);
	n = life(0);
	assert_true(n > 20);
	for (i = 1; i <= n; i++)
		life(i);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(every_allocation_fails_once) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
