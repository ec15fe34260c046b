/*
 * Inside the ABI room: objects behind descriptors, calls, rows of the table.
 */
#ifndef USERKVM_ABI_INTERNAL_H
#define USERKVM_ABI_INTERNAL_H

#include <sys/stat.h>
#include <sys/types.h>

#include "lib/types.h"
#include "x86/x86.h"

enum abi_kind {
	ABI_SYSTEM = 1,
	ABI_VM = 2,
	ABI_VCPU = 4,
	ABI_PAGE_IDLE = 8, /* page_idle.c; no ioctls */
};

/*
 * What a descriptor stands for. Storage of objects is never given back to the
 * allocator (object.c recycles it), so that a stale pointer can be looked at.
 */
struct abi_object {
	uint32_t refs; /* (a) the descriptors together hold one, each running call one */
	enum abi_kind kind;
	dev_t dev;
	ino_t ino;
	struct kvm *kvm;       /* NULL for the system object */
	struct kvm_vcpu *vcpu; /* vCPU objects only */
	struct abi_object *next;
};

/* The object of a descriptor, with a reference; NULL when it is not ours. */
struct abi_object *abi_object_get(int fd);
/* The same by the file's identity, for descriptors that came to be behind our back. */
struct abi_object *abi_object_find(int fd);
void abi_object_put(struct abi_object *o);
/*
 * Make fd stand for a new object, which takes over one reference of kvm's.
 * -ENOMEM, -EMFILE (descriptor number out of reach), -errno of fstat.
 */
must_check int abi_object_bind(int fd, enum abi_kind kind, struct kvm *kvm, struct kvm_vcpu *vcpu);
/* fstat(2), by the bare system call. */
bool abi_identify(int fd, struct stat *st);
/* fd is the object's file still, however it was closed or replaced. */
bool abi_object_has(const struct abi_object *o, int fd);
/* A new unlinked file to be a descriptor: fd, or -errno. */
must_check int abi_new_file(const char *name, bool cloexec);

/* An object of ABI_PAGE_IDLE is gone. No lock. */
void abi_page_idle_closed(void);

/* Client memory, for what is not an ioctl: SEGV and BUS are open meanwhile. 0 or -EFAULT. */
must_check int abi_copy_in(void *to, const void *from_client, size_t n);
must_check int abi_copy_out(void *to_client, const void *from, size_t n);

/* --- calls --- */

struct abi_call {
	struct abi_object *object;
	struct kvm *kvm;
	struct kvm_vcpu *vcpu;
	unsigned long arg; /* as the client passed it */
	void *data;	   /* the argument's copy, where the row says so */
};

/* How the argument travels. COPY_* copy _IOC_SIZE bytes around the handler. */
enum abi_arg {
	ABI_ARG_VALUE = 0,   /* by value, or the handler copies by itself */
	ABI_ARG_NONE = 1,    /* must be 0: -EINVAL */
	ABI_COPY_IN = 2,
	ABI_COPY_OUT = 4,    /* after success only */
	ABI_COPY_INOUT = ABI_COPY_IN | ABI_COPY_OUT,
};

enum abi_lock {
	ABI_UNLOCKED,
	ABI_VCPU_MUTEX,
	ABI_VM_LOCK,
};

/* The largest argument that is copied: struct kvm_xsave. */
#define ABI_MAX_COPY 4096

typedef long abi_handler(struct abi_call *c);

struct abi_row {
	unsigned long request;
	const char *name;
	enum abi_kind kind;
	enum abi_arg arg;
	enum abi_lock lock;
	abi_handler *handler;
};

#define ABI_ROW(request, kind, arg, lock, handler) \
	{ request, #request, kind, arg, lock, handler }

/* One table a kind, each in its own file; ends with a row without handler. */
extern const struct abi_row abi_system_rows[];
extern const struct abi_row abi_vm_rows[];
extern const struct abi_row abi_vcpu_rows[];
const struct abi_row *abi_find_row(enum abi_kind kind, unsigned long request);

/* Shared by the system and vCPU tables: KVM_GET_MSRS / KVM_SET_MSRS on a list of entries. */
typedef int abi_msr_fn(struct kvm_vcpu *vcpu, uint32_t index, uint64_t *data);
long abi_msr_io(struct kvm_vcpu *vcpu, unsigned long arg, abi_msr_fn *fn, bool write_back);

/* Both: KVM_GET_SUPPORTED_HV_CPUID. */
long abi_get_hv_cpuid(struct abi_call *c);

#endif
