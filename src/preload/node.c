/*
 * /dev/kvm as a device node: what programs do to nodes before they open one. The machine's own, if there is one, is
 * never touched; what a process changes it sees itself, and no other does.
 *
 * Invariants
 * 1. The node is root's, 0666, until the process changes it; who may is as for a node of root's.
 * 2. A path is the node's where it says so letter by letter, or is "kvm" or "./kvm" in a directory that is /dev.
 * 3. It cannot be removed, replaced or made again.
 */
#undef _FILE_OFFSET_BITS
#undef _FORTIFY_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/types.h>
#include <unistd.h>
#include <utime.h>

#include "lib/fork.h"
#include "preload/node.h"
#include "preload/real.h"
#include "userkvm/userkvm.h"

static struct {
	pthread_mutex_t lock;
	mode_t mode;
	uid_t uid;
	gid_t gid;
	struct timespec atime, mtime, ctime;
} node = { .lock = PTHREAD_MUTEX_INITIALIZER, .mode = 0666 };

/* --- which paths --- */

static bool is_dev(int dirfd)
{
	struct stat at, dev;
	int saved = errno;
	bool yes;

	yes = REAL(fstatat)(dirfd, dirfd == AT_FDCWD ? "." : "", &at, dirfd == AT_FDCWD ? 0 : AT_EMPTY_PATH) == 0 &&
	      REAL(stat)("/dev", &dev) == 0 && at.st_dev == dev.st_dev && at.st_ino == dev.st_ino;
	errno = saved;
	return yes;
}

bool preload_is_dev_kvm_at(int dirfd, const char *path)
{
	if (!path)
		return false;
	if (path[0] == '/')
		return preload_is_dev_kvm(path);
	if (path[0] == '.' && path[1] == '/')
		path += 2;
	return strcmp(path, "kvm") == 0 && is_dev(dirfd);
}

static bool is_node(const char *path)
{
	return preload_is_dev_kvm_at(AT_FDCWD, path);
}

/* --- what it shows --- */

void preload_node_stat(struct stat *st)
{
	struct stat dev;

	memset(st, 0, sizeof(*st));
	/* Programs that walk a tree compare devices; an inode of /dev's that nothing else has. */
	if (REAL(stat)("/dev", &dev) == 0)
		st->st_dev = dev.st_dev;
	st->st_ino = NODE_INODE;
	pthread_mutex_lock(&node.lock);
	st->st_mode = S_IFCHR | node.mode;
	st->st_uid = node.uid;
	st->st_gid = node.gid;
	st->st_atim = node.atime;
	st->st_mtim = node.mtime;
	st->st_ctim = node.ctime;
	pthread_mutex_unlock(&node.lock);
	st->st_nlink = 1;
	st->st_rdev = makedev(NODE_MAJOR, NODE_MINOR);
	st->st_blksize = 4096;
}

static int fail(int error)
{
	errno = error;
	return -1;
}

/* --- mode and owner --- */

static void changed(void)
{
	clock_gettime(CLOCK_REALTIME, &node.ctime);
}

int preload_node_set_mode(mode_t mode)
{
	if (geteuid() != 0 && geteuid() != node.uid)
		return fail(EPERM);
	pthread_mutex_lock(&node.lock);
	node.mode = mode & 07777;
	changed();
	pthread_mutex_unlock(&node.lock);
	return 0;
}

static int change_owner(uid_t uid, gid_t gid)
{
	bool same = (uid == (uid_t)-1 || uid == node.uid) && (gid == (gid_t)-1 || gid == node.gid);

	if (geteuid() != 0 && !(same && geteuid() == node.uid))
		return fail(EPERM);
	pthread_mutex_lock(&node.lock);
	if (uid != (uid_t)-1)
		node.uid = uid;
	if (gid != (gid_t)-1)
		node.gid = gid;
	changed();
	pthread_mutex_unlock(&node.lock);
	return 0;
}

EXPORT int chmod(const char *path, mode_t mode)
{
	return is_node(path) ? preload_node_set_mode(mode) : REAL(chmod)(path, mode);
}

EXPORT int lchmod(const char *path, mode_t mode)
{
	return is_node(path) ? preload_node_set_mode(mode) : REAL(lchmod)(path, mode);
}

EXPORT int fchmodat(int dirfd, const char *path, mode_t mode, int flags)
{
	return preload_is_dev_kvm_at(dirfd, path) ? preload_node_set_mode(mode) : REAL(fchmodat)(dirfd, path, mode, flags);
}

EXPORT int chown(const char *path, uid_t uid, gid_t gid)
{
	return is_node(path) ? change_owner(uid, gid) : REAL(chown)(path, uid, gid);
}

EXPORT int lchown(const char *path, uid_t uid, gid_t gid)
{
	return is_node(path) ? change_owner(uid, gid) : REAL(lchown)(path, uid, gid);
}

EXPORT int fchownat(int dirfd, const char *path, uid_t uid, gid_t gid, int flags)
{
	return preload_is_dev_kvm_at(dirfd, path) ? change_owner(uid, gid) : REAL(fchownat)(dirfd, path, uid, gid, flags);
}

/* --- times --- */

static void set_time(struct timespec *to, const struct timespec *t, const struct timespec *now)
{
	if (!t || t->tv_nsec == UTIME_NOW)
		*to = *now;
	else if (t->tv_nsec != UTIME_OMIT)
		*to = *t;
}

/* 0666: anybody may set them to now, the owner to what it likes. */
static int change_times(const struct timespec *times)
{
	struct timespec now;

	if (times && geteuid() != 0 && geteuid() != node.uid)
		return fail(EPERM);
	clock_gettime(CLOCK_REALTIME, &now);
	pthread_mutex_lock(&node.lock);
	set_time(&node.atime, times, &now);
	set_time(&node.mtime, times ? times + 1 : NULL, &now);
	node.ctime = now;
	pthread_mutex_unlock(&node.lock);
	return 0;
}

static int change_times_us(const struct timeval *tv)
{
	struct timespec ts[2];

	for (int i = 0; tv && i < 2; i++)
		ts[i] = (struct timespec){ tv[i].tv_sec, tv[i].tv_usec * 1000 };
	return change_times(tv ? ts : NULL);
}

EXPORT int utimensat(int dirfd, const char *path, const struct timespec times[2], int flags)
{
	return preload_is_dev_kvm_at(dirfd, path) ? change_times(times) : REAL(utimensat)(dirfd, path, times, flags);
}

EXPORT int utimes(const char *path, const struct timeval tv[2])
{
	return is_node(path) ? change_times_us(tv) : REAL(utimes)(path, tv);
}

EXPORT int lutimes(const char *path, const struct timeval tv[2])
{
	return is_node(path) ? change_times_us(tv) : REAL(lutimes)(path, tv);
}

EXPORT int utime(const char *path, const struct utimbuf *t)
{
	struct timeval tv[2] = { { .tv_sec = t ? t->actime : 0 }, { .tv_sec = t ? t->modtime : 0 } };

	return is_node(path) ? change_times_us(t ? tv : NULL) : REAL(utime)(path, t);
}

/* --- names --- */

EXPORT int mknod(const char *path, mode_t mode, dev_t dev)
{
	return is_node(path) ? fail(EEXIST) : REAL(mknod)(path, mode, dev);
}

EXPORT int mknodat(int dirfd, const char *path, mode_t mode, dev_t dev)
{
	return preload_is_dev_kvm_at(dirfd, path) ? fail(EEXIST) : REAL(mknodat)(dirfd, path, mode, dev);
}

EXPORT int unlink(const char *path)
{
	return is_node(path) ? fail(EPERM) : REAL(unlink)(path);
}

EXPORT int unlinkat(int dirfd, const char *path, int flags)
{
	return preload_is_dev_kvm_at(dirfd, path) ? fail(EPERM) : REAL(unlinkat)(dirfd, path, flags);
}

EXPORT int rename(const char *from, const char *to)
{
	return is_node(from) || is_node(to) ? fail(EPERM) : REAL(rename)(from, to);
}

EXPORT int renameat(int from_dir, const char *from, int to_dir, const char *to)
{
	return preload_is_dev_kvm_at(from_dir, from) || preload_is_dev_kvm_at(to_dir, to) ?
		       fail(EPERM) : REAL(renameat)(from_dir, from, to_dir, to);
}

EXPORT int truncate(const char *path, off_t length)
{
	return is_node(path) ? fail(EINVAL) : REAL(truncate)(path, length);
}

EXPORT int truncate64(const char *path, off64_t length)
{
	return is_node(path) ? fail(EINVAL) : REAL(truncate64)(path, length);
}

/* --- opening, in ways that libc does not do by its open() --- */

#define DEFINE_CREAT(name)                                                                       \
	EXPORT int name(const char *path, mode_t mode)                                           \
	{                                                                                        \
		return is_node(path) ? userkvm_open("/dev/kvm", O_WRONLY) : REAL(name)(path, mode); \
	}
DEFINE_CREAT(creat)
DEFINE_CREAT(creat64)

#define DEFINE_FOPEN(name)                                                                       \
	EXPORT FILE *name(const char *path, const char *mode)                                    \
	{                                                                                        \
		int fd;                                                                          \
                                                                                                 \
		if (is_node(path))                                                               \
			fd = userkvm_open("/dev/kvm", O_RDWR | (strchr(mode, 'e') ? O_CLOEXEC : 0)); \
		else                                                                             \
			fd = mode[0] != 'r' || strchr(mode, '+') ? PRELOAD_NOT_OURS :            \
				preload_host_file(path, strchr(mode, 'e') ? O_CLOEXEC : 0);      \
		if (fd == PRELOAD_NOT_OURS)                                                      \
			return REAL(name)(path, mode);                                           \
		return fd < 0 ? NULL : fdopen(fd, mode);                                         \
	}
DEFINE_FOPEN(fopen)
DEFINE_FOPEN(fopen64)

/* --- a listing of /dev has it --- */

#define NR_LISTED 16 /* directories that are read at once; one more does not show the node */

/* What is known of a listing of /dev that is being read. */
static struct listing {
	DIR *dir;
	bool seen, told;
} listed[NR_LISTED];
static pthread_mutex_t listed_lock = PTHREAD_MUTEX_INITIALIZER;

/* Another thread of the parent's may have been in stat() or readdir(). */
static void unlock_in_child(void)
{
	pthread_mutex_init(&node.lock, NULL);
	pthread_mutex_init(&listed_lock, NULL);
}
LIB_IN_FORKED_CHILD(unlock_in_child)

static union {
	struct dirent entry;
	struct dirent64 entry64;
} node_entry;

/* lock. */
static struct listing *find_listing(DIR *dir)
{
	for (int i = 0; i < NR_LISTED; i++)
		if (listed[i].dir == dir)
			return &listed[i];
	return NULL;
}

static void listing_begins(DIR *dir)
{
	struct listing *l;
	int saved = errno;

	if (!dir || !is_dev(dirfd(dir)))
		return;
	pthread_mutex_lock(&listed_lock);
	l = find_listing(dir);
	if (!l)
		l = find_listing(NULL);
	if (l)
		*l = (struct listing){ .dir = dir };
	pthread_mutex_unlock(&listed_lock);
	errno = saved;
}

/* name: what comes next, NULL at the end. True: the node comes in its place. */
static bool listing_adds(DIR *dir, const char *name)
{
	bool adds = false;
	struct listing *l;

	pthread_mutex_lock(&listed_lock);
	l = find_listing(dir);
	if (l && name)
		l->seen |= strcmp(name, "kvm") == 0;
	if (l && !name && !l->seen && !l->told)
		adds = l->told = true;
	pthread_mutex_unlock(&listed_lock);
	return adds;
}

static void fill_entry(void)
{
	/* struct dirent and struct dirent64 are the same on x86-64 */
	node_entry.entry.d_ino = NODE_INODE;
	node_entry.entry.d_reclen = sizeof(node_entry.entry);
	node_entry.entry.d_type = DT_CHR;
	strcpy(node_entry.entry.d_name, "kvm");
}

EXPORT DIR *opendir(const char *path)
{
	DIR *dir = REAL(opendir)(path);

	listing_begins(dir);
	return dir;
}

EXPORT DIR *fdopendir(int fd)
{
	DIR *dir = REAL(fdopendir)(fd);

	listing_begins(dir);
	return dir;
}

EXPORT void rewinddir(DIR *dir)
{
	REAL(rewinddir)(dir);
	listing_begins(dir);
}

EXPORT int closedir(DIR *dir)
{
	struct listing *l;

	pthread_mutex_lock(&listed_lock);
	l = find_listing(dir);
	if (l)
		l->dir = NULL;
	pthread_mutex_unlock(&listed_lock);
	return REAL(closedir)(dir);
}

#define DEFINE_READDIR(name, type, member)                                                       \
	EXPORT struct type *name(DIR *dir)                                                       \
	{                                                                                        \
		struct type *d = REAL(name)(dir);                                                \
                                                                                                 \
		if (!listing_adds(dir, d ? d->d_name : NULL))                                    \
			return d;                                                                \
		fill_entry();                                                                    \
		return &node_entry.member;                                                       \
	}
DEFINE_READDIR(readdir, dirent, entry)
DEFINE_READDIR(readdir64, dirent64, entry64)
