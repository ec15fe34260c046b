/*
 * Descriptors and what they stand for.
 *
 *	fd ──> fd table ──> struct abi_object ──> struct kvm / kvm_vcpu
 *	        (cache)      found by (dev, ino)
 *
 * Every descriptor is a memfd of its own inode, so dup, fcntl and descriptor
 * passing make more descriptors of the same object without asking us.
 *
 * Invariants
 * 1. The fd table is a cache: it may lack descriptors (then fstat finds the
 *    object), and holds none that the client closed through the library.
 * 2. An object lives while a descriptor of this process is open on its inode
 *    or a call runs on it; the last descriptor is found by looking through
 *    /proc/self/fd when the table knows no other.
 * 3. Object storage is recycled, never freed: abi_object_get() may read a
 *    stale pointer; a reference is taken only from refs > 0 and is good only
 *    if the table still says the same afterwards.
 * 4. The table is of the descriptors of the process that owns the memory. A child of
 *    vfork() has its own and leaves the table alone: its calls find objects by inode.
 *
 * Locks: lock guards the list and writes to the table; reads take none. No
 * call leaves this file with it held. Raw system calls are used throughout,
 * because libc's names may be the preload room's.
 */
#include "abi/abi.h"
#include "abi/internal.h"
#include "abi/introspect.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "host/memory.h"
#include "host/service.h"
#include "lib/anon_file.h"
#include "lib/error.h"
#include "lib/export.h"
#include "lib/fork.h"
#include "lib/own.h"
#include "virt/iodev.h"

#define FD_CHUNK 1024
#define FD_CHUNKS 1024

static struct {
	pthread_mutex_t lock;
	struct abi_object *list; /* objects with descriptors */
	struct abi_object *free;
	dev_t dev; /* all memfds lie on one device; set before list is */
	struct abi_object **chunks[FD_CHUNKS]; /* fd table, in pieces */
} abi = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* The child closes what it has of the parent's; the list is whole at any time. */
static void unlock_in_child(void)
{
	pthread_mutex_init(&abi.lock, NULL);
}
LIB_IN_FORKED_CHILD(unlock_in_child)

static struct abi_object **slot_of(int fd, bool make)
{
	struct abi_object **chunk;

	if (fd < 0 || fd >= FD_CHUNK * FD_CHUNKS)
		return NULL;
	chunk = __atomic_load_n(&abi.chunks[fd / FD_CHUNK], __ATOMIC_ACQUIRE);
	if (!chunk && make) {
		chunk = own_calloc(FD_CHUNK, sizeof(*chunk));
		__atomic_store_n(&abi.chunks[fd / FD_CHUNK], chunk, __ATOMIC_RELEASE);
	}
	return chunk ? &chunk[fd % FD_CHUNK] : NULL;
}

static struct abi_object *read_slot(int fd)
{
	struct abi_object **slot = slot_of(fd, false);

	return slot ? __atomic_load_n(slot, __ATOMIC_ACQUIRE) : NULL;
}

static bool try_ref(struct abi_object *o)
{
	uint32_t n = __atomic_load_n(&o->refs, __ATOMIC_RELAXED);

	while (n)
		if (__atomic_compare_exchange_n(&o->refs, &n, n + 1, false, __ATOMIC_ACQ_REL,
						__ATOMIC_RELAXED))
			return true;
	return false;
}

/* No reference is left: the VM's is given back, outside the lock. */
static void object_end(struct abi_object *o)
{
	struct kvm *kvm = o->kvm;
	enum abi_kind kind = o->kind;

	pthread_mutex_lock(&abi.lock);
	o->next = abi.free;
	abi.free = o;
	pthread_mutex_unlock(&abi.lock);
	if (kind == ABI_PAGE_IDLE)
		abi_page_idle_closed();
	/* After fork the child has the memory of the VM but none of its threads: leave it. */
	if (!kvm || kvm->mm_id != host_mm_id())
		return;
	if (kind == ABI_VM)
		kvm_irqfd_release(kvm);
	kvm_put_kvm(kvm);
}

void abi_object_put(struct abi_object *o)
{
	if (__atomic_sub_fetch(&o->refs, 1, __ATOMIC_ACQ_REL) == 0)
		object_end(o);
}

struct abi_object *abi_object_get(int fd)
{
	struct abi_object *o = read_slot(fd);

	if (!o || !try_ref(o))
		return NULL;
	if (likely(read_slot(fd) == o))
		return o;
	abi_object_put(o);
	return NULL;
}

bool abi_identify(int fd, struct stat *st)
{
	return syscall(SYS_newfstatat, fd, "", st, AT_EMPTY_PATH) == 0;
}

bool abi_object_has(const struct abi_object *o, int fd)
{
	struct stat st;

	return abi_identify(fd, &st) && st.st_ino == o->ino && st.st_dev == o->dev;
}

USERKVM_SHARED bool abi_fd_is_device(int fd)
{
	const struct abi_object *o = read_slot(fd);

	return unlikely(o != NULL) && o->kind != ABI_PAGE_IDLE && abi_object_has(o, fd);
}

/* lock held. */
static struct abi_object *list_find(const struct stat *st)
{
	struct abi_object *o = abi.list;

	while (o && (o->ino != st->st_ino || o->dev != st->st_dev))
		o = o->next;
	return o;
}

struct abi_object *abi_object_find(int fd)
{
	struct abi_object *o, **slot;
	struct stat st;

	if (!READ_ONCE(abi.list) || !abi_identify(fd, &st) || st.st_dev != abi.dev)
		return NULL;
	pthread_mutex_lock(&abi.lock);
	/* Closed meanwhile, it must not come into the table: asked again, where none closes. */
	o = abi_identify(fd, &st) ? list_find(&st) : NULL;
	if (o && !try_ref(o))
		o = NULL;
	slot = o && !host_fds_are_apart() ? slot_of(fd, true) : NULL;
	if (slot)
		__atomic_store_n(slot, o, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&abi.lock);
	return o;
}

int abi_new_file(const char *name, bool cloexec)
{
	return lib_anon_file(name, cloexec ? 1u /* MFD_CLOEXEC */ : 0u);
}

int abi_object_bind(int fd, enum abi_kind kind, struct kvm *kvm, struct kvm_vcpu *vcpu)
{
	struct abi_object *o, **slot, *no_slot;
	bool borrowed = host_fds_are_apart();
	struct stat st;
	int r = 0;

	if (!abi_identify(fd, &st))
		return err_born(errno, "fstat of a new descriptor");
	pthread_mutex_lock(&abi.lock);
	slot = borrowed ? &no_slot : slot_of(fd, true);
	o = abi.free;
	if (o)
		abi.free = o->next;
	else
		o = own_calloc(1, sizeof(*o));
	if (!slot || !o) {
		r = fd < FD_CHUNK * FD_CHUNKS ? err_born(ENOMEM, "descriptor object") :
						err_born(EMFILE, "descriptor %d is out of the table's reach", fd);
		if (o) {
			o->next = abi.free;
			abi.free = o;
		}
	} else {
		o->kind = kind;
		o->dev = st.st_dev;
		o->ino = st.st_ino;
		o->kvm = kvm;
		o->vcpu = vcpu;
		o->next = abi.list;
		abi.dev = st.st_dev;
		__atomic_store_n(&abi.list, o, __ATOMIC_RELEASE);
		__atomic_store_n(&o->refs, 1, __ATOMIC_RELEASE);
		__atomic_store_n(slot, o, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&abi.lock);
	return r;
}

/* lock held. */
static bool table_has(const struct abi_object *o)
{
	for (int c = 0; c < FD_CHUNKS; c++)
		for (int i = 0; abi.chunks[c] && i < FD_CHUNK; i++)
			if (abi.chunks[c][i] == o)
				return true;
	return false;
}

/* Another descriptor of the object, that was made behind our back. lock held. */
static bool process_has(const struct abi_object *o)
{
	DIR *dir = opendir("/proc/thread-self/fd");
	bool found = false;
	struct dirent *d;
	struct stat st;

	while (dir && !found && (d = readdir(dir))) {
		int fd = atoi(d->d_name);

		if (d->d_name[0] < '0' || d->d_name[0] > '9' || !abi_identify(fd, &st))
			continue;
		found = st.st_ino == o->ino && st.st_dev == o->dev;
	}
	if (dir)
		closedir(dir);
	return found;
}

USERKVM_SHARED bool abi_fd_is_ours(int fd)
{
	struct abi_object *o = read_slot(fd);

	if (o)
		return !host_fds_are_apart();
	host_service_begin();
	o = abi_object_find(fd);
	if (o)
		abi_object_put(o);
	host_service_end();
	return o && read_slot(fd);
}

static struct abi_object *leave_table(int fd)
{
	struct abi_object **slot = slot_of(fd, false), *o = *slot;

	__atomic_store_n(slot, NULL, __ATOMIC_RELEASE);
	return o;
}

/* A descriptor of o was closed: o, if it was the last. lock held. */
static struct abi_object *take_out(struct abi_object *o)
{
	struct abi_object **link;

	if (!o || table_has(o) || process_has(o))
		return NULL;
	for (link = &abi.list; *link && *link != o;)
		link = &(*link)->next;
	if (!*link)
		return NULL;
	*link = o->next;
	return o;
}

/* fd is of another file by now: what the table has of it is old. */
static void unbind(int fd)
{
	struct abi_object *o;

	if (!read_slot(fd))
		return;
	pthread_mutex_lock(&abi.lock);
	o = take_out(leave_table(fd));
	pthread_mutex_unlock(&abi.lock);
	if (o)
		abi_object_put(o);
}

/*
 * In one with the close: of two last descriptors closed at once, each would see
 * the other still open. Closed before it looks: nobody makes a duplicate then
 * that it does not see.
 */
USERKVM_SHARED int abi_fd_close(int fd)
{
	struct abi_object *o;
	int r;

	if (!abi_fd_is_ours(fd))
		return (int)syscall(SYS_close, fd);
	host_service_begin();
	pthread_mutex_lock(&abi.lock);
	o = leave_table(fd);
	r = (int)syscall(SYS_close, fd);
	o = take_out(o);
	pthread_mutex_unlock(&abi.lock);
	if (o)
		abi_object_put(o);
	host_service_end();
	return r;
}

/* lock held. Every listed object holds its VM, so one more reference is safe. */
static bool have(struct kvm *const *vms, unsigned n, const struct kvm *kvm)
{
	for (unsigned i = 0; i < n; i++)
		if (vms[i] == kvm)
			return true;
	return false;
}

unsigned abi_vms_get(struct kvm **vms, unsigned max)
{
	unsigned n = 0;

	pthread_mutex_lock(&abi.lock);
	for (struct abi_object *o = abi.list; o && n < max; o = o->next) {
		unsigned at;

		if (!o->kvm || o->kvm->mm_id != host_mm_id() || have(vms, n, o->kvm))
			continue;
		kvm_get_kvm(o->kvm);
		for (at = n++; at && vms[at - 1]->serial > o->kvm->serial; at--)
			vms[at] = vms[at - 1];
		vms[at] = o->kvm;
	}
	pthread_mutex_unlock(&abi.lock);
	return n;
}

struct kvm *abi_vm_get(uint64_t serial)
{
	struct kvm *kvm = NULL;

	pthread_mutex_lock(&abi.lock);
	for (struct abi_object *o = abi.list; o && !kvm; o = o->next)
		if (o->kvm && o->kvm->serial == serial && o->kvm->mm_id == host_mm_id())
			kvm = o->kvm;
	if (kvm)
		kvm_get_kvm(kvm);
	pthread_mutex_unlock(&abi.lock);
	return kvm;
}

static void bind_too(struct abi_object *o, int fd)
{
	struct abi_object **slot;

	pthread_mutex_lock(&abi.lock);
	slot = slot_of(fd, true);
	if (slot)
		__atomic_store_n(slot, o, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&abi.lock);
}

USERKVM_SHARED void abi_fd_duplicated(int oldfd, int newfd)
{
	struct abi_object *o;

	if (host_fds_are_apart())
		return;
	host_service_begin();
	o = abi_object_get(oldfd);
	if (o) {
		bind_too(o, newfd);
		abi_object_put(o);
	} else {
		unbind(newfd);
	}
	host_service_end();
}
