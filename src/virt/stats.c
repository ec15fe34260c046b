/*
 * Counters in pages that can become a file's: see stats.h.
 *
 * Invariant: the page at `stat` is private to the process until the file is
 * made, and the file's last page afterwards; its content goes over unchanged.
 */
#include "lib/bug.h"
#include "lib/own.h"
#include "virt/stats.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/anon_file.h"
#include "lib/error.h"

/* <linux/fcntl.h>, which does not go with <fcntl.h>. */
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

static size_t region_size(size_t size, size_t stat_offset)
{
	return ALIGN_UP(stat_offset, PAGE_SIZE) + ALIGN_UP(size - stat_offset, PAGE_SIZE);
}

void *kvm_stats_object_alloc(size_t size, size_t stat_offset)
{
	char *p = bug_on(!IS_ALIGNED(stat_offset, 64)) ? NULL : own_pages(region_size(size, stat_offset));

	return p ? p + (ALIGN_UP(stat_offset, PAGE_SIZE) - stat_offset) : NULL;
}

void kvm_stats_object_free(void *object, size_t size, size_t stat_offset)
{
	char *p = object;

	if (p)
		own_pages_free(p - (ALIGN_UP(stat_offset, PAGE_SIZE) - stat_offset));
}

/* libc's close() may be the preload room's, which looks for objects of ours. */
static void close_fd(int fd)
{
	syscall(SYS_close, fd);
}

static bool still_ours(const struct kvm_stats_file *f)
{
	struct stat st;

	return f->ino && syscall(SYS_newfstatat, f->memfd, "", &st, AT_EMPTY_PATH) == 0 &&
	       st.st_dev == f->dev && st.st_ino == f->ino;
}

/* A new file with head and counters, mapped over the counters' page. */
static int make_file(struct kvm_stats_file *f, const struct kvm_stat_table *t, const char *id,
		     void *stat)
{
	size_t head = kvm_stats_head(t, id, 0, NULL, 0), data = ALIGN_UP(head, PAGE_SIZE);
	int fd = lib_anon_file("kvm-stats", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	struct stat st;
	void *p;
	int e;

	if (fd < 0)
		return fd;
	e = -lib_anon_file_grow(fd, data + t->size);
	if (e)
		goto out;
	p = mmap(NULL, data + t->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		goto out_errno;
	kvm_stats_head(t, id, data, p, data);
	memcpy((char *)p + data, stat, t->size);
	munmap(p, data + t->size);
	if (mmap(stat, ALIGN_UP(t->size, PAGE_SIZE), PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_FIXED, fd, (off_t)data) == MAP_FAILED)
		goto out_errno;
	/* Without these the client could shrink the file under us; no harm where it fails. */
	fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_FUTURE_WRITE);
	syscall(SYS_newfstatat, fd, "", &st, AT_EMPTY_PATH);
	*f = (struct kvm_stats_file){ .memfd = fd, .dev = st.st_dev, .ino = st.st_ino };
	return 0;

out_errno:
	e = errno;
out:
	close_fd(fd);
	return err_born(e, "no file for counters");
}

int kvm_stats_file_open(struct kvm_stats_file *f, const struct kvm_stat_table *t, const char *id,
			void *stat)
{
	char path[40];
	int fd, r;

	if (!still_ours(f)) {
		r = make_file(f, t, id, stat);
		if (r)
			return r;
	}
	/* Opened anew: read-only, with a position of its own. */
	snprintf(path, sizeof(path), "/proc/thread-self/fd/%d", f->memfd);
	fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
	if (fd < 0) /* no /proc: sealed against writing all the same */
		fd = fcntl(f->memfd, F_DUPFD_CLOEXEC, 0);
	return fd < 0 ? err_born(errno, "a descriptor for counters") : fd;
}

void kvm_stats_file_close(struct kvm_stats_file *f)
{
	if (still_ours(f))
		close_fd(f->memfd);
	f->ino = 0;
}
