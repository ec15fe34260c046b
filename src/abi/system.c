/*
 * ioctls of /dev/kvm itself (KVM API: system ioctls).
 */
#include <sys/syscall.h>
#include <unistd.h>

#include "abi/internal.h"
#include "abi/introspect.h"
#include "host/fault.h"
#include "hyperv/hyperv.h"
#include "lib/error.h"
#include "lib/own.h"

static long get_api_version(struct abi_call *c)
{
	return KVM_API_VERSION;
}

static void (*vm_hook)(void);

void abi_set_vm_hook(void (*fn)(void))
{
	vm_hook = fn;
}

static long create_vm(struct abi_call *c)
{
	struct kvm *kvm;
	int fd, r;

	if (c->arg)
		return err_born(EINVAL, "VM type %#lx", c->arg);
	if (vm_hook)
		vm_hook();
	fd = abi_new_file("kvm-vm", true);
	if (fd < 0)
		return fd;
	r = kvm_create_vm(&kvm);
	if (r)
		goto out_close;
	r = abi_object_bind(fd, ABI_VM, kvm, NULL);
	if (r)
		goto out_put;
	return fd;

out_put:
	kvm_put_kvm(kvm);
out_close:
	syscall(SYS_close, fd);
	return r;
}

static long check_extension(struct abi_call *c)
{
	return kvm_check_extension(NULL, (long)c->arg);
}

static long get_vcpu_mmap_size(struct abi_call *c)
{
	return KVM_VCPU_MMAP_PAGES * PAGE_SIZE;
}

/* KVM_GET_EMULATED_CPUID alone wants the padding clean; unreadable is as wrong. */
static bool padding_is_clean(const struct kvm_cpuid2 *user, uint32_t nent)
{
	for (uint32_t i = 0; i < nent; i++) {
		uint32_t pad[3];

		if (host_copy_from(pad, user->entries[i].padding, sizeof(pad)) || pad[0] || pad[1] || pad[2])
			return false;
	}
	return true;
}

static long get_cpuid(struct abi_call *c, bool emulated)
{
	struct kvm_cpuid2 *user = (struct kvm_cpuid2 *)c->arg, head;
	struct kvm_cpuid_entry2 *entries;
	int r = host_copy_from(&head, user, sizeof(head));

	if (r)
		return r;
	if (head.nent > KVM_MAX_CPUID_ENTRIES)
		head.nent = KVM_MAX_CPUID_ENTRIES;
	if (emulated && !padding_is_clean(user, head.nent))
		return err_born(EINVAL, "padding of CPUID entries");
	entries = own_calloc(head.nent ? head.nent : 1, sizeof(*entries));
	if (!entries)
		return err_born(ENOMEM, "CPUID entries");
	r = kvm_dev_ioctl_get_cpuid(entries, &head.nent, emulated);
	if (!r)
		r = host_copy_to(user->entries, entries, head.nent * sizeof(*entries));
	if (!r)
		r = host_copy_to(user, &head, sizeof(head));
	own_free(entries);
	return r;
}

static long get_supported_cpuid(struct abi_call *c)
{
	return get_cpuid(c, false);
}

static long get_emulated_cpuid(struct abi_call *c)
{
	return get_cpuid(c, true);
}

#define MAX_MSR_INDICES 512

static long get_msr_list(struct abi_call *c, int (*list)(uint32_t *indices, uint32_t *nmsrs))
{
	struct kvm_msr_list *user = (struct kvm_msr_list *)c->arg, head;
	uint32_t indices[MAX_MSR_INDICES], room;
	int r = host_copy_from(&head, user, sizeof(head)), e;

	if (r)
		return r;
	room = head.nmsrs > MAX_MSR_INDICES ? MAX_MSR_INDICES : head.nmsrs;
	head.nmsrs = room;
	r = list(indices, &head.nmsrs);
	/* The number is told even when there is no room for the list. */
	e = host_copy_to(user, &head, sizeof(head));
	if (e)
		return e;
	return r ? r : host_copy_to(user->indices, indices, head.nmsrs * sizeof(*indices));
}

static long get_msr_index_list(struct abi_call *c)
{
	return get_msr_list(c, kvm_msr_index_list);
}

static long get_msr_feature_index_list(struct abi_call *c)
{
	return get_msr_list(c, kvm_msr_feature_index_list);
}

static int get_feature(struct kvm_vcpu *vcpu, uint32_t index, uint64_t *data)
{
	return kvm_get_msr_feature(index, data);
}

static long get_msrs(struct abi_call *c)
{
	return abi_msr_io(NULL, c->arg, get_feature, true);
}

#define MAX_IO_MSRS 256

/*
 * The entries in order until one fails: the result is how many went well
 * (KVM API: KVM_GET_MSRS, KVM_SET_MSRS).
 */
long abi_msr_io(struct kvm_vcpu *vcpu, unsigned long arg, abi_msr_fn *fn, bool write_back)
{
	struct kvm_msrs *user = (struct kvm_msrs *)arg, head;
	struct kvm_msr_entry entries[MAX_IO_MSRS];
	int r = host_copy_from(&head, user, sizeof(head));
	uint32_t i;

	if (r)
		return r;
	if (head.nmsrs >= MAX_IO_MSRS)
		return err_born(E2BIG, "%u MSRs", head.nmsrs);
	r = host_copy_from(entries, user->entries, head.nmsrs * sizeof(*entries));
	if (r)
		return r;
	for (i = 0; i < head.nmsrs; i++) {
		uint64_t data = entries[i].data;

		if (fn(vcpu, entries[i].index, &data))
			break;
		entries[i].data = data;
	}
	if (write_back) {
		r = host_copy_to(user->entries, entries, head.nmsrs * sizeof(*entries));
		if (r)
			return r;
	}
	return i;
}

long abi_get_hv_cpuid(struct abi_call *c)
{
	struct kvm_cpuid2 *user = (struct kvm_cpuid2 *)c->arg, head;
	struct kvm_cpuid_entry2 entries[KVM_HV_CPUID_ENTRIES];
	int r = host_copy_from(&head, user, sizeof(head));

	if (!r)
		r = kvm_get_hv_cpuid(c->vcpu, entries, &head.nent);
	if (!r)
		r = host_copy_to(user->entries, entries, head.nent * sizeof(*entries));
	return r ? r : host_copy_to(user, &head, sizeof(head));
}

static long get_mce_cap(struct abi_call *c)
{
	*(uint64_t *)c->data = KVM_MCE_CAP_SUPPORTED;
	return 0;
}

static int system_attr(const struct kvm_device_attr *a)
{
	if (a->group || a->attr != KVM_X86_XCOMP_GUEST_SUPP)
		return err_born(ENXIO, "system attribute %u:%llu", a->group, a->attr);
	return 0;
}

static long has_device_attr(struct abi_call *c)
{
	return system_attr(c->data);
}

static long get_device_attr(struct abi_call *c)
{
	const struct kvm_device_attr *a = c->data;
	uint64_t xcr0 = kvm_supported_xcr0();
	int r = system_attr(a);

	return r ? r : host_copy_to((void *)a->addr, &xcr0, sizeof(xcr0));
}

const struct abi_row abi_system_rows[] = {
	ABI_ROW(KVM_GET_API_VERSION, ABI_SYSTEM, ABI_ARG_NONE, ABI_UNLOCKED, get_api_version),
	ABI_ROW(KVM_CREATE_VM, ABI_SYSTEM, ABI_ARG_VALUE, ABI_UNLOCKED, create_vm),
	ABI_ROW(KVM_CHECK_EXTENSION, ABI_SYSTEM, ABI_ARG_VALUE, ABI_UNLOCKED, check_extension),
	ABI_ROW(KVM_GET_VCPU_MMAP_SIZE, ABI_SYSTEM, ABI_ARG_NONE, ABI_UNLOCKED, get_vcpu_mmap_size),
	ABI_ROW(KVM_GET_SUPPORTED_CPUID, ABI_SYSTEM, ABI_ARG_VALUE, ABI_UNLOCKED,
		get_supported_cpuid),
	ABI_ROW(KVM_GET_EMULATED_CPUID, ABI_SYSTEM, ABI_ARG_VALUE, ABI_UNLOCKED, get_emulated_cpuid),
	ABI_ROW(KVM_GET_SUPPORTED_HV_CPUID, ABI_SYSTEM, ABI_ARG_VALUE, ABI_UNLOCKED,
		abi_get_hv_cpuid),
	ABI_ROW(KVM_GET_MSR_INDEX_LIST, ABI_SYSTEM, ABI_ARG_VALUE, ABI_UNLOCKED, get_msr_index_list),
	ABI_ROW(KVM_GET_MSR_FEATURE_INDEX_LIST, ABI_SYSTEM, ABI_ARG_VALUE, ABI_UNLOCKED,
		get_msr_feature_index_list),
	ABI_ROW(KVM_GET_MSRS, ABI_SYSTEM, ABI_ARG_VALUE, ABI_UNLOCKED, get_msrs),
	ABI_ROW(KVM_X86_GET_MCE_CAP_SUPPORTED, ABI_SYSTEM, ABI_COPY_OUT, ABI_UNLOCKED, get_mce_cap),
	ABI_ROW(KVM_HAS_DEVICE_ATTR, ABI_SYSTEM, ABI_COPY_IN, ABI_UNLOCKED, has_device_attr),
	ABI_ROW(KVM_GET_DEVICE_ATTR, ABI_SYSTEM, ABI_COPY_IN, ABI_UNLOCKED, get_device_attr),
	{ 0 },
};
