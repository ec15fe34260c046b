/*
 * See guest_vm.h.
 */
#include "tools/trace/guest_vm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "userkvm/userkvm.h"

const char *walk_vm_open(struct walk_vm *v)
{
	v->kvm = userkvm_open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (v->kvm < 0)
		return "open";
	v->vm = userkvm_ioctl(v->kvm, KVM_CREATE_VM, 0);
	return v->vm < 0 ? "KVM_CREATE_VM" : NULL;
}

const char *walk_vm_add_vcpu(struct walk_vm *v)
{
	v->vcpu = userkvm_ioctl(v->vm, KVM_CREATE_VCPU, 0);
	return v->vcpu < 0 ? "KVM_CREATE_VCPU" : NULL;
}

const char *walk_vm_map_run(struct walk_vm *v)
{
	int size = userkvm_ioctl(v->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);

	v->run = userkvm_mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, v->vcpu, 0);
	return v->run == MAP_FAILED ? "kvm_run" : NULL;
}

void walk_vm_close(struct walk_vm *v)
{
	userkvm_close(v->vcpu);
	userkvm_close(v->vm);
	userkvm_close(v->kvm);
}

int walk_vm_failed(const struct walk_vm *v, const char *what)
{
	fprintf(stderr, "userkvm walkthrough: the built-in %s: %s: %s\n", v->name, what, strerror(errno));
	return 1;
}
