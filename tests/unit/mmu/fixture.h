/*
 * A VM with one vCPU, fake guest registers and a fake vendor, for the MMU's
 * tests; and an EPT walk of its own that shares nothing with the MMU's.
 */
#ifndef TESTS_MMU_FIXTURE_H
#define TESTS_MMU_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "host/fault.h"
#include "host/memory.h"
#include "mmu/mmu.h"
#include "sdm/ept.h"
#include "sdm/paging.h"
#include "sdm/regs.h"

#define MIB (1ULL << 20)
#define GIB (1ULL << 30)

static struct {
	uint64_t cr0, cr3, cr4, efer, rflags, pdptr[4];
	uint32_t pkru;
	int cpl, maxphyaddr;
	bool smm;
	hpa_t loaded_root;
	int loaded_level;
	int flushes;
} fake;

static uint64_t get_cr0(struct kvm_vcpu *v) { return fake.cr0; }
static uint64_t get_cr3(struct kvm_vcpu *v) { return fake.cr3; }
static uint64_t get_cr4(struct kvm_vcpu *v) { return fake.cr4; }
static uint64_t get_efer(struct kvm_vcpu *v) { return fake.efer; }
static uint64_t get_rflags(struct kvm_vcpu *v) { return fake.rflags; }
static uint32_t get_pkru(struct kvm_vcpu *v) { return fake.pkru; }
static uint64_t get_pdptr(struct kvm_vcpu *v, int i) { return fake.pdptr[i]; }
static int get_maxphyaddr(struct kvm_vcpu *v) { return fake.maxphyaddr; }
static int get_cpl(struct kvm_vcpu *v) { return fake.cpl; }
static bool is_smm(struct kvm_vcpu *v) { return fake.smm; }
static void set_cr3(struct kvm_vcpu *v, hpa_t root, int level) { fake.loaded_root = root, fake.loaded_level = level; }
static void flush_tlb(struct kvm_vcpu *v) { fake.flushes++; }

static const struct kvm_mmu_guest_ops guest = {
	get_cr0, get_cr3, get_cr4, get_efer, get_rflags, get_pkru, get_pdptr, get_maxphyaddr, get_cpl, is_smm,
};
static const struct kvm_mmu_vendor_ops vendor = { set_cr3, flush_tlb };

static int arch_vcpu_create(struct kvm_vcpu *v)
{
	int r = kvm_mmu_create(v);

	if (!r)
		kvm_init_mmu(v);
	return r;
}

static const struct kvm_arch_ops arch = {
	.init_vm = kvm_mmu_init_vm,
	.destroy_vm = kvm_mmu_uninit_vm,
	.vcpu_create = arch_vcpu_create,
	.vcpu_destroy = kvm_mmu_destroy,
};

static struct kvm *vm;
static struct kvm_vcpu *vcpu;
/* A fault of the guest's at addr. */
static inline enum ret_pf take_fault(struct kvm_vcpu *v, uint64_t addr, uint64_t error_code)
{
	struct kvm_page_fault f = { .addr = addr, .error_code = error_code };

	return kvm_mmu_page_fault(v, &f);
}

/* The -errno that it ends with; 0: none. */
static inline int fault_errno(struct kvm_vcpu *v, uint64_t addr, uint64_t error_code)
{
	struct kvm_page_fault f = { .addr = addr, .error_code = error_code };

	return kvm_mmu_page_fault(v, &f) == RET_PF_ERROR ? f.error : 0;
}

static inline enum ret_pf mmio_fault(struct kvm_vcpu *v, gpa_t gpa)
{
	struct kvm_page_fault f = { .addr = gpa, .error_code = PFERR_RSVD_MASK };

	return handle_mmio_page_fault(v, &f);
}

/* The guest is entered again after it. */
static inline bool goes_on(enum ret_pf r)
{
	return r == RET_PF_RETRY || r == RET_PF_FIXED || r == RET_PF_SPURIOUS;
}

static uint64_t frames_before;

static inline int setup(void **state)
{
	memset(&fake, 0, sizeof(fake));
	fake.maxphyaddr = 46;
	frames_before = host_frames_in_use();
	assert_int_equal(host_fault_init(), 0);
	kvm_register_arch(&arch);
	kvm_mmu_register_guest(&guest, &vendor);
	assert_int_equal(kvm_create_vm(&vm), 0);
	assert_int_equal(kvm_create_vcpu(vm, 0, &vcpu), 0);
	assert_int_equal(kvm_mmu_reload(vcpu), 0);
	return 0;
}

static inline int teardown(void **state)
{
	assert_int_equal(mmu_check(vm), 0);
	kvm_put_kvm(vm);
	assert_int_equal(host_frames_in_use(), frames_before);
	return 0;
}

static inline int set_slot(uint32_t slot, uint32_t flags, gpa_t gpa, uint64_t size, const void *hva)
{
	struct kvm_userspace_memory_region m = { slot, flags, gpa, size, (uintptr_t)hva };

	return kvm_vm_ioctl_set_memory_region(vm, &m);
}

/* Memory of `size` bytes, aligned, for the rest of the process. */
static inline char *get_memory(uint64_t size, uint64_t align, int prot)
{
	char *p = mmap(NULL, size + align, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	assert_ptr_not_equal(p, MAP_FAILED);
	return (char *)ALIGN_UP((uintptr_t)p, align);
}

/* The entry that ends an EPT walk of gpa, as the SDM has it; *level where. */
static inline uint64_t ept_entry(gpa_t gpa, int *level)
{
	uint64_t table = fake.loaded_root;
	int l;

	for (l = fake.loaded_level;; l--) {
		uint64_t e = ((uint64_t *)(uintptr_t)table)[(gpa >> (12 + 9 * (l - 1))) & 511];

		if (!(e & 7) || (e & 7) == 6 || l == 1 || e & (1 << 7)) {
			*level = l;
			return e;
		}
		table = e & 0xffffffffff000ULL;
	}
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

#endif
