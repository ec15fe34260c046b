/*
 * The public calls: open, ioctl, mmap, close, by the tables of system.c, vm.c
 * and vcpu.c.
 *
 * Invariants
 * 1. Nothing changes when an ioctl is refused: kind, life of the VM and
 *    argument are checked, in this order, before the handler runs.
 * 2. Client memory is touched by host_copy_from/to only: a bad pointer is
 *    -EFAULT.
 * 3. A VM belongs to the address space that made it (kvm->mm): -EIO elsewhere.
 * 4. errno is changed on failure only.
 *
 * Locks: taken here, by what the row says: vcpu->mutex or kvm->lock.
 */
#include "trace/trace.h"
#include "userkvm/userkvm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "abi/abi.h"
#include "abi/inject.h"
#include "abi/internal.h"
#include "abi/strace.h"
#include "emulate/emulate.h"
#include "host/client_threads.h"
#include "host/confine.h"
#include "host/fault.h"
#include "host/fault_mask.h"
#include "host/memory.h"
#include "host/service.h"
#include "hyperv/hyperv.h"
#include "lib/bug.h"
#include "lib/error.h"
#include "lib/export.h"
#include "lib/own_fd.h"
#include "lib/rcu.h"
#include "virt/eventfd.h"

/*
 * What Linux answers to an ioctl number the kind of descriptor does not know;
 * it differs by kind for historical reasons.
 */
static int unknown_request(enum abi_kind kind, unsigned long request)
{
	int e = kind == ABI_VM ? ENOTTY : EINVAL;

	return err_born(e, "ioctl %#lx is none of this descriptor's", request);
}

const struct abi_row *abi_find_row(enum abi_kind kind, unsigned long request)
{
	const struct abi_row *row = kind == ABI_VCPU ? abi_vcpu_rows :
				    kind == ABI_VM   ? abi_vm_rows :
						       abi_system_rows;

	for (; row->handler; row++)
		if (row->request == request)
			return row;
	return NULL;
}

static pthread_mutex_t *row_lock(const struct abi_row *row, struct abi_call *c)
{
	return row->lock == ABI_VCPU_MUTEX ? &c->vcpu->mutex :
	       row->lock == ABI_VM_LOCK	   ? &c->kvm->lock :
					     NULL;
}

static long call_row(const struct abi_row *row, struct abi_call *c)
{
	pthread_mutex_t *lock = row_lock(row, c);
	long r;

	if (lock)
		pthread_mutex_lock(lock);
	r = row->handler(c);
	if (lock)
		pthread_mutex_unlock(lock);
	return r;
}

/* Rows whose argument is a structure: apart, so that KVM_RUN has no big frame. */
static __attribute__((noinline)) long call_with_copy(const struct abi_row *row, struct abi_call *c)
{
	uint64_t data[ABI_MAX_COPY / 8];
	size_t size = _IOC_SIZE(row->request);
	long r;

	if (bug_on(size > sizeof(data)))
		return -EIO;
	if (row->arg & ABI_COPY_IN) {
		r = host_copy_from(data, (const void *)c->arg, size);
		if (r)
			return r;
	} else {
		memset(data, 0, size);
	}
	c->data = data;
	r = call_row(row, c);
	if (r >= 0 && (row->arg & ABI_COPY_OUT)) {
		int e = host_copy_to((void *)c->arg, data, size);

		if (e)
			return e;
	}
	return r;
}

static long dispatch(struct abi_object *o, unsigned long request, unsigned long arg)
{
	struct abi_call c = { .object = o, .kvm = o->kvm, .vcpu = o->vcpu, .arg = arg };
	const struct abi_row *row;

	if (o->kvm && (unlikely(o->kvm->mm_id != host_mm_id()) || unlikely(READ_ONCE(o->kvm->dead))))
		return err_born(EIO, "the VM is dead or belongs to another process");
	row = abi_find_row(o->kind, request);
	if (!row)
		return unknown_request(o->kind, request);
	TRACE_CALL_IF(o->kind == ABI_VM, kvm_vm_ioctl, request, arg);
	if (unlikely(abi_inject_on)) {
		int e = abi_inject(row);

		if (e && e == EINTR && request == KVM_RUN)
			o->vcpu->run->exit_reason = KVM_EXIT_INTR;
		if (e)
			return -e;
	}
	if (row->arg == ABI_ARG_NONE && arg)
		return err_born(EINVAL, "%s takes no argument", row->name);
	host_fault_reclaim();
	if (o->kind != ABI_SYSTEM && request != KVM_RUN)
		host_client_thread_prepare();
	if (row->arg & ABI_COPY_INOUT)
		return call_with_copy(row, &c);
	return call_row(row, &c);
}

/* The frame of the line is big: not KVM_RUN's when nobody asked for it. */
static __attribute__((noinline)) long dispatch_told(struct abi_object *o, int fd, unsigned long request,
						    unsigned long arg)
{
	struct abi_strace line;
	long r;

	abi_strace_start(&line, o, fd, request, arg);
	r = dispatch(o, request, arg);
	abi_strace_end(&line, o, request, arg, r);
	return r;
}

/* Only the last page of numbers is errors: a handler's own value may have any sign. */
#define MAX_ERRNO 4095

static int result(long r)
{
	if (r >= 0 || r < -MAX_ERRNO)
		return (int)r;
	errno = (int)-r;
	return -1;
}

static long open_system(const char *path, int flags)
{
	int fd, r;

	if (strcmp(path, "/dev/kvm") != 0)
		return err_born(ENOENT, "%s is not /dev/kvm", path);
	abi_inject_init();
	if (unlikely(abi_inject_on)) {
		r = abi_inject(NULL);
		if (r)
			return -r;
	}
	r = host_fault_init();
	if (r)
		return r;
	host_confine_init();
	emulate_init();
	hyperv_init();
	kvm_x86_init();
	virt_eventfd_set_close(abi_fd_close);
	host_service_tell(kvm_running_vcpu_signal);
	trace_attach();
	fd = abi_new_file("kvm", flags & O_CLOEXEC);
	if (fd < 0)
		return fd;
	r = abi_object_bind(fd, ABI_SYSTEM, NULL, NULL);
	if (r) {
		syscall(SYS_close, fd);
		return r;
	}
	return fd;
}

USERKVM_EXPORT int userkvm_open(const char *path, int flags)
{
	int saved = errno, r;
	long fd;

	host_service_begin();
	abi_strace_init();
	fd = open_system(path, flags);
	if (unlikely(abi_strace_on))
		abi_strace_open(path, flags, fd);
	r = result(fd);
	if (r >= 0)
		errno = saved;
	host_service_end();
	return r;
}

USERKVM_EXPORT int userkvm_ioctl(int fd, unsigned long request, unsigned long arg)
{
	struct abi_object *o;
	int saved = errno, r;
	uint16_t shut;
	long done;

	/* The kernel looks at 32 bits only. */
	request = (unsigned int)request;
	host_client_thread();
	host_service_begin();
	lib_rcu_thread();
	o = abi_object_get(fd);
	if (unlikely(!o))
		o = abi_object_find(fd);
	/* Not ours, or one every file has (FIOCLEX, FIONBIO): the kernel's. */
	if (!o || o->kind == ABI_PAGE_IDLE || (_IOC_TYPE(request) != KVMIO && o->kind != ABI_VCPU)) {
		if (o)
			abi_object_put(o);
		host_service_end();
		return (int)syscall(SYS_ioctl, fd, request, arg);
	}
	if (unlikely(_IOC_TYPE(request) != KVMIO)) {
		abi_object_put(o);
		host_service_end();
		r = (int)syscall(SYS_ioctl, fd, request, arg);
		if (r < 0 && errno == ENOTTY)
			errno = EINVAL; /* as Linux on a vCPU */
		return r;
	}
	shut = host_fault_open();
	done = unlikely(abi_strace_on) ? dispatch_told(o, fd, request, arg) : dispatch(o, request, arg);
	/* errno after this: the client may have closed the descriptor meanwhile, all ends here */
	abi_object_put(o);
	if (unlikely(shut))
		host_fault_shut(shut);
	r = result(done);
	if (r >= 0)
		errno = saved;
	host_service_end();
	return r;
}

USERKVM_EXPORT void *userkvm_mmap(void *addr, size_t length, int prot, int flags, int fd,
				  off_t offset)
{
	int refused = abi_may_mmap(fd, length, prot, flags, offset);

	if (refused) {
		errno = -refused;
		return MAP_FAILED;
	}
	return mmap(addr, length, prot, flags, fd, offset);
}

/* A dirty ring is for sharing, and not for executing. */
static int may_map_object(struct abi_object *o, size_t length, int prot, int flags, off_t offset)
{
	uint64_t ring = KVM_DIRTY_LOG_PAGE_OFFSET * PAGE_SIZE, start = (uint64_t)offset;
	uint64_t ring_end = ring + (o->kvm ? o->kvm->dirty_ring_size : 0);

	if (o->kind == ABI_SYSTEM || o->kind == ABI_VM)
		return -ENODEV;
	if (o->kind != ABI_VCPU || start >= ring_end || start + length <= ring ||
	    (!(prot & PROT_EXEC) && (flags & MAP_TYPE) != MAP_PRIVATE))
		return 0;
	return -EINVAL;
}

USERKVM_SHARED int abi_may_mmap(int fd, size_t length, int prot, int flags, off_t offset)
{
	struct abi_object *o;
	int r = 0;

	if (fd < 0)
		return 0;
	host_service_begin();
	o = abi_object_get(fd);
	if (o) {
		r = may_map_object(o, length, prot, flags, offset);
		if (r && !abi_object_has(o, fd)) /* another file has the number, unseen */
			r = 0;
		abi_object_put(o);
	}
	host_service_end();
	return r;
}

USERKVM_SHARED bool abi_in_service(void)
{
	return host_in_service();
}

USERKVM_SHARED void abi_mapping_begin(struct abi_mapping_change *c, const void *addr, size_t length)
{
	hva_t start = (hva_t)(uintptr_t)addr;

	_Static_assert(sizeof(struct kvm_mmu_invalidation) == sizeof(*c), "one is the other");
	host_service_begin();
	kvm_mmu_invalidate_begin((struct kvm_mmu_invalidation *)c, start, start + length);
}

_Static_assert((int)ABI_MAPPING_GONE == HOST_MAPPING_GONE && (int)ABI_MAPPING_NEW == HOST_MAPPING_NEW &&
	       (int)ABI_MAPPING_PROTECTED == HOST_MAPPING_PROTECTED, "one is the other");

USERKVM_SHARED void abi_mapping_end(const struct abi_mapping_change *c, enum abi_mapping_news what, int prot)
{
	const struct kvm_mmu_invalidation *inv = (const struct kvm_mmu_invalidation *)c;
	const struct host_mapping_change change = { inv->start, inv->end, (enum host_mapping_news)what, prot };

	/* Before faults go on. */
	if (inv->last_vm)
		host_mapping_update(&change);
	else if (what != ABI_MAPPING_AS_BEFORE)
		host_mapping_stale();
	kvm_mmu_invalidate_end(inv);
	host_service_end();
}

USERKVM_SHARED void abi_memory_cold(const void *addr, size_t length)
{
	int saved = errno;

	host_service_begin();
	kvm_mmu_age_hva_range((hva_t)(uintptr_t)addr, (hva_t)(uintptr_t)addr + length);
	host_service_end();
	errno = saved;
}

USERKVM_EXPORT int userkvm_close(int fd)
{
	return abi_fd_close(fd);
}

/* Is there an object, of the kind asked for (-1: any)? */
static bool is_fd_of(int fd, int kind)
{
	struct abi_object *o;
	bool yes;

	host_service_begin();
	o = abi_object_get(fd);
	yes = o && (kind < 0 || (int)o->kind == kind);
	/* The number may be of another file in a child of vfork(), whose descriptors the table does not know. */
	if (yes && unlikely(host_fds_are_apart()))
		yes = abi_object_has(o, fd);
	if (o)
		abi_object_put(o);
	host_service_end();
	return yes;
}

USERKVM_EXPORT bool userkvm_is_fd(int fd)
{
	return is_fd_of(fd, -1);
}

USERKVM_SHARED bool abi_fd_is_librarys(int fd)
{
	return own_fd_is(fd);
}

USERKVM_SHARED bool abi_memory_is_borrowed(void)
{
	return host_mm_is_borrowed();
}

USERKVM_SHARED bool abi_fds_are_apart(void)
{
	return host_fds_are_apart();
}

USERKVM_SHARED bool abi_actions_are_apart(void)
{
	return host_actions_are_apart();
}

USERKVM_SHARED void abi_child_may_share(uint64_t clone_flags)
{
	host_mm_child_may_share(clone_flags);
}

USERKVM_SHARED bool abi_is_system_fd(int fd)
{
	return is_fd_of(fd, ABI_SYSTEM);
}

USERKVM_SHARED bool abi_fd_name(int fd, char *name, size_t size)
{
	struct abi_object *o;

	host_service_begin();
	o = abi_object_get(fd);
	if (o && (o->kind == ABI_PAGE_IDLE || !abi_object_has(o, fd))) {
		abi_object_put(o);
		o = NULL;
	}
	if (o && o->kind == ABI_VCPU)
		snprintf(name, size, "anon_inode:kvm-vcpu:%d", o->vcpu->vcpu_id);
	else if (o)
		snprintf(name, size, "%s", o->kind == ABI_VM ? "anon_inode:kvm-vm" : "/dev/kvm");
	if (o)
		abi_object_put(o);
	host_service_end();
	return o;
}

USERKVM_EXPORT void userkvm_signal_ran(void)
{
	kvm_running_vcpu_signal();
}

USERKVM_SHARED void abi_robust_list_lost(void)
{
	host_client_robust_list_lost();
}

USERKVM_SHARED void abi_thread_ends(void)
{
	host_client_thread_ends();
}

USERKVM_SHARED void abi_run_signals(uint64_t blocked)
{
	kvm_set_thread_sigset(blocked);
}

USERKVM_SHARED int abi_client_read(void *dst, const void *client_src, size_t n)
{
	return host_copy_from(dst, client_src, n);
}

USERKVM_SHARED int abi_client_write(void *client_dst, const void *src, size_t n)
{
	return host_copy_to(client_dst, src, n);
}

int abi_copy_in(void *to, const void *from_client, size_t n)
{
	uint16_t shut = host_fault_open();
	int r = host_copy_from(to, from_client, n);

	if (unlikely(shut))
		host_fault_shut(shut);
	return r;
}

int abi_copy_out(void *to_client, const void *from, size_t n)
{
	uint16_t shut = host_fault_open();
	int r = host_copy_to(to_client, from, n);

	if (unlikely(shut))
		host_fault_shut(shut);
	return r;
}

USERKVM_SHARED const char *abi_confine_fault(void)
{
	return host_confine_fault();
}

USERKVM_SHARED int abi_first_at_faults(bool (*fn)(int signo, siginfo_t *si, void *ucontext), void (*blocked)(bool),
					  void (*all_confined)(void))
{
	host_fault_set_first(fn, blocked, all_confined);
	return host_fault_init();
}

USERKVM_SHARED bool abi_first_sees(int signo, siginfo_t *si, void *ucontext)
{
	return host_fault_first(signo, si, ucontext);
}

USERKVM_SHARED void abi_first_blocked(bool is)
{
	host_fault_first_blocked(is);
}

USERKVM_SHARED void abi_first_confined(void)
{
	host_fault_first_confined();
}

USERKVM_SHARED bool abi_keeps_segv_open(void)
{
	return host_fault_keeps_segv_open();
}

USERKVM_SHARED bool abi_hold_segv(bool held)
{
	return host_fault_hold_segv(held);
}

USERKVM_SHARED bool abi_segv_is_held(void)
{
	return host_fault_segv_is_held();
}

USERKVM_SHARED void abi_owns_sigaction(void)
{
	host_fault_interposed();
}

USERKVM_SHARED void abi_owns_sigmask(void)
{
	host_fault_masks_told();
}

USERKVM_SHARED void abi_mask_changed(void)
{
	host_fault_mask_changed();
}

USERKVM_SHARED uint16_t abi_faults_open(void)
{
	host_fault_mask_changed();
	return host_fault_open();
}

USERKVM_SHARED void abi_faults_shut(uint16_t opened)
{
	host_fault_shut(opened);
}

USERKVM_SHARED bool abi_fault_keep(int signo, const siginfo_t *si)
{
	return host_fault_keep(signo, si, false);
}

USERKVM_SHARED void abi_fault_send_again(int signo, siginfo_t *si)
{
	host_fault_send_again(signo, si);
}

USERKVM_SHARED void abi_signal_leave_pending(int signo, siginfo_t *si, ucontext_t *uc, bool clients_next)
{
	host_signal_leave_pending(signo, si, uc, clients_next);
}

USERKVM_SHARED void abi_signal_comes(int signo, siginfo_t *si)
{
	host_signal_comes(signo, si);
}

USERKVM_SHARED int abi_client_action(int signo, const struct sigaction *act, struct sigaction *old)
{
	return host_fault_owns(signo) ? host_client_action(signo, act, old) : -EINVAL;
}

USERKVM_SHARED void abi_interrupt_run(int fd)
{
	struct abi_object *o;

	host_service_begin();
	o = abi_object_get(fd);
	if (o && o->kind == ABI_VCPU) {
		__atomic_store_n(&o->vcpu->signal_seen, 1, __ATOMIC_SEQ_CST);
		kvm_vcpu_kick(o->vcpu);
	}
	if (o)
		abi_object_put(o);
	host_service_end();
}
