/*
 * vCPUs that fault in parallel while slots come, go, move and are logged, and
 * the client invalidates: the tables stay consistent and no frame is lost.
 * (That a shoot-down waits for whom it must is virt's test_request.)
 */
#include "fixture.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#define NR_VCPUS 4
#define SLOT_SIZE (6 * MIB)

static struct kvm_vcpu *cpu[NR_VCPUS];
static char *mem;
static uint32_t stop;
static uint64_t faults, emulated, bad;
static uint64_t kicked[NR_VCPUS];

static void kick(struct kvm_vcpu *v)
{
	__atomic_store_n(&kicked[v->vcpu_idx], 1, __ATOMIC_SEQ_CST);
}

static void *faulter(void *arg)
{
	struct kvm_vcpu *v = arg;
	unsigned seed = v->vcpu_id + 1;

	kvm_vcpu_load(v);
	while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST)) {
		gpa_t gpa = ((uint64_t)rand_r(&seed) % 4096) << 12;
		enum ret_pf r;

		kvm_check_request(KVM_REQ_TLB_FLUSH, v);
		/* "The guest": a moment in which it may be shot down. */
		kvm_vcpu_enter_guest_mode(v);
		kvm_vcpu_exit_request(v);
		kvm_vcpu_leave_guest_mode(v);
		r = take_fault(v, gpa, rand_r(&seed) % 2 ? PFERR_WRITE_MASK : 0);
		__atomic_fetch_add(&faults, 1, __ATOMIC_RELAXED);
		if (r == RET_PF_EMULATE) {
			__atomic_fetch_add(&emulated, 1, __ATOMIC_RELAXED);
			r = mmio_fault(v, gpa);
			if (r == RET_PF_EMULATE || r == RET_PF_INVALID)
				r = RET_PF_RETRY;
		}
		if (!goes_on(r))
			__atomic_fetch_add(&bad, 1, __ATOMIC_RELAXED);
	}
	kvm_vcpu_put(v);
	return NULL;
}

static void change_something(unsigned *seed)
{
	static uint32_t flags[2];
	static bool there[2] = { true, true };
	unsigned i = (unsigned)rand_r(seed) % 2;
	hva_t at = (hva_t)(uintptr_t)mem + (((uint64_t)rand_r(seed) % 1500) << 12);
	uint64_t bits[SLOT_SIZE / 4096 / 64];
	struct kvm_dirty_log log = { .slot = i, .dirty_bitmap = bits };
	gpa_t base = i * 8 * MIB;
	char *hva = mem + i * 8 * MIB;
	int r = 0;

	switch (rand_r(seed) % 4) {
	case 0: /* delete, create */
		r = set_slot(i, flags[i], base, there[i] ? 0 : SLOT_SIZE, hva);
		there[i] = !there[i];
		break;
	case 1: /* log on or off */
		if (!there[i])
			return;
		flags[i] ^= KVM_MEM_LOG_DIRTY_PAGES;
		r = set_slot(i, flags[i], base, SLOT_SIZE, hva);
		break;
	case 2:
		kvm_mmu_invalidate_hva_range(at, at + 0x3000);
		break;
	case 3:
		r = kvm_vm_ioctl_get_dirty_log(vm, &log);
		if (r == -ENOENT && (!there[i] || !flags[i]))
			r = 0;
		break;
	}
	assert_int_equal(r, 0);
}

static void faults_in_parallel_with_every_kind_of_zap_keep_the_tables_whole(void **state)
{
	pthread_t t[NR_VCPUS];
	struct timespec now, end;
	unsigned seed = 42;
	int i;

	mem = get_memory(16 * MIB, 2 * MIB, PROT_READ | PROT_WRITE);
	assert_int_equal(set_slot(0, 0, 0, SLOT_SIZE, mem), 0);
	assert_int_equal(set_slot(1, 0, 8 * MIB, SLOT_SIZE, mem + 8 * MIB), 0);
	cpu[0] = vcpu;
	for (i = 0; i < NR_VCPUS; i++) {
		if (i)
			assert_int_equal(kvm_create_vcpu(vm, (uint32_t)i, &cpu[i]), 0);
		assert_int_equal(kvm_mmu_reload(cpu[i]), 0);
		cpu[i]->kick_processor = kick;
	}
	for (i = 0; i < NR_VCPUS; i++)
		assert_int_equal(pthread_create(&t[i], NULL, faulter, cpu[i]), 0);
	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += 2;
	i = 0;
	do {
		change_something(&seed);
		if (++i % 16 == 0)
			assert_int_equal(mmu_check(vm), 0);
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec < end.tv_sec || now.tv_nsec < end.tv_nsec);
	__atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
	for (i = 0; i < NR_VCPUS; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(bad, 0);
	assert_true(faults > 1000 && emulated > 10);
	assert_int_equal(mmu_check(vm), 0);
}

static void *invalidator(void *arg)
{
	hva_t at = (hva_t)(uintptr_t)mem;

	while (!__atomic_load_n(&stop, __ATOMIC_SEQ_CST))
		kvm_mmu_invalidate_hva_range(at, at + SLOT_SIZE);
	return NULL;
}

static void vms_come_and_go_while_the_client_invalidates(void **state)
{
	pthread_t t;
	int i;

	stop = 0;
	mem = get_memory(SLOT_SIZE, 4096, PROT_READ | PROT_WRITE);
	assert_int_equal(pthread_create(&t, NULL, invalidator, NULL), 0);
	for (i = 0; i < 300; i++) {
		struct kvm_vcpu *v[3];
		struct kvm *other;
		struct kvm_userspace_memory_region m = { .memory_size = SLOT_SIZE,
							 .userspace_addr = (uintptr_t)mem };
		uint32_t n;

		assert_int_equal(kvm_create_vm(&other), 0);
		assert_int_equal(kvm_vm_ioctl_set_memory_region(other, &m), 0);
		for (n = 0; n < 3; n++) {
			assert_int_equal(kvm_create_vcpu(other, n, &v[n]), 0);
			assert_int_equal(kvm_mmu_reload(v[n]), 0);
			assert_true(goes_on(take_fault(v[n], n * 4096, PFERR_WRITE_MASK)));
		}
		kvm_put_kvm(other);
	}
	__atomic_store_n(&stop, 1, __ATOMIC_SEQ_CST);
	pthread_join(t, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(faults_in_parallel_with_every_kind_of_zap_keep_the_tables_whole),
		TEST(vms_come_and_go_while_the_client_invalidates),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
