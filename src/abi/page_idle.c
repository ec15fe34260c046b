/*
 * Idle page tracking of guest memory, where the host's kernel has none: what
 * /sys/kernel/mm/page_idle/bitmap would be (Linux: mm/page_idle.c,
 * Documentation/admin-guide/mm/idle_page_tracking.rst).
 *
 *	bit of the file ──> page frame ──> addresses ──> idle flags (mmu)
 *	                        pfn_index, asked again of pagemap
 *
 * Invariants
 * 1. A page is reported idle only where its flag is set at each address at which
 *    guest memory has it, and no VM has accessed it since. Once one of them says
 *    otherwise all flags go.
 * 2. The index is not older than REBUILD_NS, nor than the open of any file; what it
 *    says is believed only where pagemap still says so.
 * 3. The descriptor is a sealed, empty file: reads by ways that do not come here
 *    find its end, writes are refused.
 *
 * Each 4 KiB page has its own flag, those of the host's huge pages too. Accesses
 * are the guests': what the client and the hypervisor do themselves does not count.
 *
 * Lock: lock guards the index; taken in service only, where no handler of the
 * client's runs. Outside of all locks of mmu.
 */
#include "abi/abi.h"
#include "abi/internal.h"
#include "abi/pfn_index.h"
#include "abi/strace.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/memfd.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "host/fault.h"
#include "host/memory.h"
#include "host/service.h"
#include "host/timer.h"
#include "lib/error.h"
#include "lib/export.h"
#include "lib/fork.h"

#define WORD_BYTES sizeof(uint64_t)
#define WORD_PAGES 64
/* As much as a file of sysfs moves at a time. */
#define MAX_WORDS (PAGE_SIZE / WORD_BYTES)
/* An index that took long lives longer: building takes a tenth of the time at most. */
#define REBUILD_NS 1000000000ULL
#define REBUILD_FACTOR 10
#define PFN_END (1ULL << (52 - PAGE_SHIFT))

USERKVM_SHARED uint32_t abi_page_idle_files;

static struct {
	pthread_mutex_t lock;
	struct pfn_index index;
	uint64_t mm_id; /* whose memory it is of; 0: there is no index */
	uint64_t built_ns, cost_ns;
	pfn_t end; /* of the host's page frames */
	struct {
		int fd;
		dev_t dev;
		ino_t ino;
		uint64_t mm_id; /* 0: not open */
	} pagemap;
} idle = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void unlock_in_child(void)
{
	pthread_mutex_init(&idle.lock, NULL);
}
LIB_IN_FORKED_CHILD(unlock_in_child)

/* --- the index --- */

static int open_proc(const char *path)
{
	int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);

	return fd < 0 ? err_born(errno, "%s", path) : fd;
}

/* What the client has closed, or replaced, is not ours any more. */
static bool pagemap_is_open(void)
{
	struct stat st;

	return idle.pagemap.mm_id == host_mm_id() && abi_identify(idle.pagemap.fd, &st) &&
	       st.st_dev == idle.pagemap.dev && st.st_ino == idle.pagemap.ino;
}

static void close_pagemap(void)
{
	if (pagemap_is_open())
		syscall(SYS_close, idle.pagemap.fd);
	idle.pagemap.mm_id = 0;
}

/* lock. This process's pagemap, kept open while there are files; -errno of open(2). */
static int pagemap(void)
{
	struct stat st;
	int fd;

	if (pagemap_is_open())
		return idle.pagemap.fd;
	idle.pagemap.mm_id = 0;
	fd = open_proc("/proc/thread-self/pagemap");
	if (fd < 0 || !abi_identify(fd, &st))
		return fd < 0 ? fd : err_born(EBADF, "pagemap was closed at once");
	idle.pagemap.fd = fd;
	idle.pagemap.dev = st.st_dev;
	idle.pagemap.ino = st.st_ino;
	idle.pagemap.mm_id = host_mm_id();
	return fd;
}

/* lock. Anew, where it was begun before `since_ns` or is another process's. */
static int refresh(uint64_t since_ns)
{
	uint64_t started = host_now_ns();
	int r;

	if (idle.mm_id == host_mm_id() && idle.built_ns >= since_ns)
		return 0;
	pfn_index_free(&idle.index);
	idle.mm_id = 0;
	r = pagemap();
	if (r >= 0)
		r = pfn_index_build(&idle.index, kvm_mmu_each_guest_range, r);
	if (r)
		return r;
	idle.mm_id = host_mm_id();
	idle.built_ns = started;
	idle.cost_ns = host_now_ns() - started;
	return 0;
}

/* The same for who has the file open. */
static int refresh_old(void)
{
	uint64_t now = host_now_ns(), age = max_u64(REBUILD_NS, REBUILD_FACTOR * idle.cost_ns);

	return refresh(now > age ? now - age : 0);
}

/*
 * max_pfn, as far as Linux tells: /proc/kpageflags ends there, but for the rest
 * of a section of memory (128 MiB). PFN_END where it cannot be read.
 */
static pfn_t find_end(void)
{
	int fd = open_proc("/proc/kpageflags");
	pfn_t low = 0, high = PFN_END;
	uint64_t flags;

	if (fd < 0)
		return PFN_END;
	while (low < high) {
		pfn_t mid = low + (high - low) / 2;

		if (syscall(SYS_pread64, fd, &flags, sizeof(flags), mid * sizeof(flags)) == sizeof(flags))
			low = mid + 1;
		else
			high = mid;
	}
	syscall(SYS_close, fd);
	return ALIGN_DOWN(low, (pfn_t)WORD_PAGES);
}

/* --- the file --- */

/* Root's, mode 0600. */
static bool may_open(void)
{
	struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct d[_LINUX_CAPABILITY_U32S_3] = { 0 };

	return geteuid() == 0 ||
	       (syscall(SYS_capget, &h, d) == 0 && d[0].effective & 1u << CAP_DAC_OVERRIDE);
}

/* The empty file, opened as asked: a description of its own, with that access mode and position 0. */
static int new_file(int flags)
{
	int file = (int)syscall(SYS_memfd_create, "page_idle", MFD_CLOEXEC | MFD_ALLOW_SEALING), fd;
	char path[32];

	if (file < 0)
		return err_born(errno, "memfd_create");
	snprintf(path, sizeof(path), "/proc/thread-self/fd/%d", file);
	if (syscall(SYS_fcntl, file, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL))
		fd = err_born(errno, "F_ADD_SEALS");
	else
		fd = (int)syscall(SYS_openat, AT_FDCWD, path, flags & ~O_NOFOLLOW, 0);
	if (fd == -1)
		fd = err_born(errno, "open of the page idle bitmap");
	syscall(SYS_close, file);
	return fd;
}

static int start_index(void)
{
	uint64_t now = host_now_ns();
	int r;

	pthread_mutex_lock(&idle.lock);
	r = refresh(now);
	if (!r)
		idle.end = find_end();
	pthread_mutex_unlock(&idle.lock);
	return r;
}

static int open_bitmap(int flags)
{
	int fd, r;

	if (!kvm_mmu_params()->ept)
		return err_born(ENOENT, "no idle page tracking with ept=0");
	if (!may_open())
		return err_born(EACCES, "the page idle bitmap is root's");
	r = host_fault_init();
	if (!r)
		r = kvm_mmu_prepare_idle();
	if (r)
		return r;
	fd = new_file(flags);
	if (fd < 0)
		return fd;
	__atomic_fetch_add(&abi_page_idle_files, 1, __ATOMIC_SEQ_CST);
	r = start_index();
	if (!r)
		r = abi_object_bind(fd, ABI_PAGE_IDLE, NULL, NULL);
	if (!r)
		return fd;
	syscall(SYS_close, fd);
	abi_page_idle_closed();
	return r;
}

USERKVM_SHARED int abi_page_idle_open(const char *path, int flags)
{
	int saved = errno, fd;

	host_service_begin();
	abi_strace_init();
	fd = open_bitmap(flags);
	if (unlikely(abi_strace_on))
		abi_strace_open(path, flags, fd);
	host_service_end();
	errno = fd < 0 ? -fd : saved;
	return fd < 0 ? -1 : fd;
}

void abi_page_idle_closed(void)
{
	pthread_mutex_lock(&idle.lock);
	if (__atomic_sub_fetch(&abi_page_idle_files, 1, __ATOMIC_SEQ_CST) == 0) {
		pfn_index_free(&idle.index);
		idle.mm_id = 0;
		close_pagemap();
	}
	pthread_mutex_unlock(&idle.lock);
}

/* --- its bits --- */

/* Addresses of pages, collected to be asked for at once; all of a page are in one batch. */
struct batch {
	uint64_t *words;
	pfn_t first; /* of the words */
	struct pagemap_window window;
	unsigned nr;
	hva_t hva[PFN_MAX_ADDRESSES];
	pfn_t pfn[PFN_MAX_ADDRESSES];
};

static uint64_t *word_of(const struct batch *b, pfn_t pfn)
{
	return &b->words[(pfn - b->first) / WORD_PAGES];
}

/* Bits of pages that are idle are set. */
static int batch_test(struct batch *b)
{
	uint64_t found = kvm_mmu_test_idle(b->hva, b->nr);
	unsigned i, next;

	for (i = 0; i < b->nr; i = next) {
		bool all = true;

		for (next = i; next < b->nr && b->pfn[next] == b->pfn[i]; next++)
			all &= found >> next & 1;
		if (all)
			*word_of(b, b->pfn[i]) |= BIT_ULL(b->pfn[i] % WORD_PAGES);
		for (; !all && i < next; i++)
			kvm_mmu_clear_idle(b->hva[i]);
	}
	b->nr = 0;
	return 0;
}

static int batch_set(struct batch *b)
{
	int r = kvm_mmu_set_idle(b->hva, b->nr);

	b->nr = 0;
	return r;
}

static size_t page_end(size_t i)
{
	pfn_t pfn = idle.index.at[i].pfn;

	while (i < idle.index.nr && idle.index.at[i].pfn == pfn)
		i++;
	return i;
}

/* What a read has to look at: some address of the page has the flag. */
static bool has_flag(const struct batch *b, size_t i, size_t next)
{
	while (i < next)
		if (kvm_mmu_has_idle_flag(idle.index.at[i++].hva))
			return true;
	return false;
}

/* What a write has to look at: its bit is set. */
static bool is_wanted(const struct batch *b, size_t i, size_t next)
{
	pfn_t pfn = idle.index.at[i].pfn;

	return *word_of(b, pfn) >> pfn % WORD_PAGES & 1;
}

/* lock. For each page from b->first to `end` that is `looked_at`: its addresses, as they are now, in batches. */
static int for_pages(struct batch *b, pfn_t end, bool (*looked_at)(const struct batch *, size_t, size_t),
		     int (*act)(struct batch *))
{
	const struct pfn_at *at = idle.index.at;
	int r = 0;

	for (size_t i = pfn_index_find(&idle.index, b->first), next; i < idle.index.nr && at[i].pfn < end && !r; i = next) {
		next = page_end(i);
		if (!looked_at(b, i, next))
			continue;
		if (b->nr + (next - i) > PFN_MAX_ADDRESSES)
			r = act(b);
		for (; i < next; i++) {
			if (!pagemap_has(&b->window, at[i].hva, at[i].pfn))
				continue;
			b->pfn[b->nr] = at[i].pfn;
			b->hva[b->nr++] = at[i].hva;
		}
	}
	return r || !b->nr ? r : act(b);
}

static int move_words(uint64_t *words, size_t n, pfn_t first, bool write)
{
	/* A write of one bit is the usual way to mark a page. */
	unsigned ahead = write && n == 1 && !(words[0] & (words[0] - 1)) ? 1 : PAGEMAP_WINDOW;
	struct batch b = { .words = words, .first = first, .window.ahead = ahead };
	pfn_t end = first + n * WORD_PAGES;
	int r;

	pthread_mutex_lock(&idle.lock);
	r = refresh_old();
	if (!r)
		r = b.window.pagemap = pagemap();
	if (r >= 0)
		r = for_pages(&b, end, write ? is_wanted : has_flag, write ? batch_set : batch_test);
	pthread_mutex_unlock(&idle.lock);
	return r;
}

/* --- read and write --- */

static bool has_access(int fd, bool write)
{
	long flags = syscall(SYS_fcntl, fd, F_GETFL);

	return flags >= 0 && !(flags & O_PATH) && (flags & O_ACCMODE) != (write ? O_RDONLY : O_WRONLY);
}

/* Bytes moved at pos, or -errno; the checks in Linux's order. */
static ssize_t move(const struct abi_page_idle_call *c, off_t pos)
{
	size_t n = min_u64(c->size_bytes, PAGE_SIZE);
	uint64_t words[MAX_WORDS] = { 0 };
	uint64_t first = (uint64_t)pos / WORD_BYTES;
	int r;

	if (pos < 0)
		return err_born(EINVAL, "position %lld", (long long)pos);
	if (c->write && abi_copy_in(words, c->in, n))
		return -EFAULT;
	if (n == 0)
		return 0;
	if ((uint64_t)pos % WORD_BYTES || n % WORD_BYTES)
		return err_born(EINVAL, "%zu bytes at %lld are not whole words", n, (long long)pos);
	if (first >= idle.end / WORD_PAGES)
		return c->write ? err_born(ENXIO, "beyond the last page frame") : 0;
	n = min_u64(n, (idle.end / WORD_PAGES - first) * WORD_BYTES);
	r = move_words(words, n / WORD_BYTES, first * WORD_PAGES, c->write);
	if (!r && !c->write)
		r = abi_copy_out(c->out, words, n);
	return r ? r : (ssize_t)n;
}

static ssize_t serve(int fd, const struct abi_page_idle_call *c)
{
	off_t pos = c->offset ? *c->offset : syscall(SYS_lseek, fd, 0, SEEK_CUR);
	ssize_t r;

	if (!has_access(fd, c->write))
		return err_born(EBADF, "not open for this");
	r = move(c, pos);
	if (!c->offset && r > 0)
		syscall(SYS_lseek, fd, r, SEEK_CUR);
	return r;
}

USERKVM_SHARED bool abi_page_idle_io(int fd, const struct abi_page_idle_call *c, ssize_t *result)
{
	struct abi_object *o;
	int saved = errno;
	ssize_t r = 0;
	bool ours;

	host_service_begin();
	o = abi_object_get(fd);
	ours = o && o->kind == ABI_PAGE_IDLE && abi_object_has(o, fd);
	if (ours)
		r = serve(fd, c);
	if (o)
		abi_object_put(o);
	host_service_end();
	errno = r < 0 ? (int)-r : saved;
	*result = r < 0 ? -1 : r;
	return ours;
}
