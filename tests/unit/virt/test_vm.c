/*
 * VM and vCPU life: ids, references, what is undone when a step fails.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "host/memory.h"
#include "virt/kvm.h"

static int vms, vcpus, fail_vcpu, fail_vm;

static int init_vm(struct kvm *kvm)
{
	vms += !fail_vm;
	return fail_vm;
}

static void destroy_vm(struct kvm *kvm)
{
	assert_int_equal(vcpus, 0);
	vms--;
}

static int vcpu_create(struct kvm_vcpu *v)
{
	vcpus += !fail_vcpu;
	return fail_vcpu;
}

static void vcpu_destroy(struct kvm_vcpu *v)
{
	vcpus--;
}

static const struct kvm_arch_ops arch = { init_vm, destroy_vm, vcpu_create, vcpu_destroy, NULL };

static int setup(void **state)
{
	vms = vcpus = fail_vcpu = fail_vm = 0;
	kvm_register_arch(&arch);
	return 0;
}

static void last_reference_destroys_vcpus_then_vm(void **state)
{
	struct kvm *vm;
	struct kvm_vcpu *v;

	assert_int_equal(kvm_create_vm(&vm), 0);
	assert_int_equal(kvm_create_vcpu(vm, 0, &v), 0);
	assert_int_equal(kvm_create_vcpu(vm, 1, &v), 0);
	kvm_get_kvm(vm);
	kvm_put_kvm(vm);
	assert_int_equal(vms, 1);
	kvm_put_kvm(vm);
	assert_int_equal(vms, 0);
	assert_int_equal(vcpus, 0);
}

static void vcpu_ids_are_checked_and_found(void **state)
{
	struct kvm *vm;
	struct kvm_vcpu *a, *b, *c = NULL;

	assert_int_equal(kvm_create_vm(&vm), 0);
	assert_int_equal(kvm_create_vcpu(vm, 7, &a), 0);
	assert_int_equal(kvm_create_vcpu(vm, 0, &b), 0);
	assert_int_equal(kvm_create_vcpu(vm, 7, &c), -EEXIST);
	assert_int_equal(kvm_create_vcpu(vm, KVM_MAX_VCPU_IDS, &c), -EINVAL);
	assert_null(c);
	assert_ptr_equal(kvm_get_vcpu_by_id(vm, 7), a);
	assert_ptr_equal(kvm_get_vcpu_by_id(vm, 0), b);
	assert_ptr_equal(kvm_get_vcpu(vm, 0), a);
	assert_null(kvm_get_vcpu_by_id(vm, 1));
	assert_int_equal(b->vcpu_idx, 1);
	kvm_put_kvm(vm);
}

static void run_pages_are_a_file_shared_with_the_client(void **state)
{
	struct kvm *vm;
	struct kvm_vcpu *v;
	struct stat st;
	char byte = 1;

	assert_int_equal(kvm_create_vm(&vm), 0);
	assert_int_equal(kvm_create_vcpu(vm, 0, &v), 0);
	assert_int_equal(fstat(v->run_memfd, &st), 0);
	assert_int_equal(st.st_size, 3 * 4096);
	assert_int_equal(pwrite(v->run_memfd, &byte, 1, offsetof(struct kvm_run, immediate_exit)), 1);
	assert_int_equal(v->run->immediate_exit, 1);
	kvm_put_kvm(vm);
}

static void failed_arch_hook_leaves_nothing(void **state)
{
	struct kvm *vm = NULL;
	struct kvm_vcpu *v = NULL;

	fail_vm = -ENOMEM;
	assert_int_equal(kvm_create_vm(&vm), -ENOMEM);
	assert_null(vm);
	fail_vm = 0;
	assert_int_equal(kvm_create_vm(&vm), 0);
	fail_vcpu = -ENOMEM;
	assert_int_equal(kvm_create_vcpu(vm, 0, &v), -ENOMEM);
	assert_null(kvm_get_vcpu_by_id(vm, 0));
	fail_vcpu = 0;
	assert_int_equal(kvm_create_vcpu(vm, 0, &v), 0);
	assert_int_equal(v->vcpu_idx, 0);
	kvm_put_kvm(vm);
}

static void forked_child_has_another_mm_id(void **state)
{
	uint64_t id = host_mm_id();
	int status;
	pid_t child;

	assert_int_not_equal(id, 0);
	assert_int_equal(host_mm_id(), id);
	child = fork();
	if (child == 0)
		_exit(host_mm_id() == id || host_mm_id() == 0);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	assert_int_equal(host_mm_id(), id);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(last_reference_destroys_vcpus_then_vm, setup),
		cmocka_unit_test_setup(vcpu_ids_are_checked_and_found, setup),
		cmocka_unit_test_setup(run_pages_are_a_file_shared_with_the_client, setup),
		cmocka_unit_test_setup(failed_arch_hook_leaves_nothing, setup),
		cmocka_unit_test_setup(forked_child_has_another_mm_id, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
