/*
 * Extended attributes and access lists of /dev/kvm, as of a device node of root's (node.c): managers of machines copy
 * them to nodes that they make, and keep notes in them.
 *
 * Invariants
 * 1. What a process sets it sees itself, and no other does.
 * 2. As Linux has it: a device node takes no attributes of users; others are for root.
 * 3. An access list that says no more than a mode is one. Of another the mode shows owner, mask and others.
 *
 * Lock: one, over the attributes.
 */
#undef _FILE_OFFSET_BITS
#undef _FORTIFY_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "preload/node.h"
#include "preload/real.h"

#define ATTRIBUTES 8
#define NAME_SIZE 64
#define VALUE_SIZE 256
#define ACCESS_LIST "system.posix_acl_access"
#define ACCESS_LIST_VERSION 2

enum { OWNER = 0x01, GROUP = 0x04, MASK = 0x10, OTHERS = 0x20 };

struct access_entry {
	uint16_t tag, rights;
	uint32_t id;
};

static struct attribute {
	char name[NAME_SIZE]; /* "": free */
	char value[VALUE_SIZE];
	size_t size;
} attributes[ATTRIBUTES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int fail(int error)
{
	errno = error;
	return -1;
}

/* lock. "": a free one. */
static struct attribute *find(const char *name)
{
	for (int i = 0; i < ATTRIBUTES; i++)
		if (strcmp(attributes[i].name, name) == 0)
			return &attributes[i];
	return NULL;
}

/* The mode that an access list stands for, and whether it says no more. -1: it is none. */
static int mode_of_list(const void *list, size_t size, bool *is_mode)
{
	size_t n = size / sizeof(struct access_entry);
	uint32_t version;
	int mode = 0;

	if (size < sizeof(version) || (size - sizeof(version)) % sizeof(struct access_entry))
		return -1;
	memcpy(&version, list, sizeof(version));
	if (version != ACCESS_LIST_VERSION)
		return -1;
	*is_mode = n == 3;
	for (size_t i = 0; i < n; i++) {
		struct access_entry e;

		memcpy(&e, (const char *)list + sizeof(version) + i * sizeof(e), sizeof(e));
		if (e.rights & ~7u)
			return -1;
		mode |= e.tag == OWNER ? e.rights << 6 : e.tag == OTHERS ? e.rights : 0;
		if (e.tag == MASK)
			mode = (mode & ~070) | e.rights << 3;
		else if (e.tag == GROUP && *is_mode)
			mode |= e.rights << 3;
	}
	return mode;
}

/* lock. */
static int store(const char *name, const void *value, size_t size, int flags)
{
	struct attribute *a = find(name);

	if (a && (flags & XATTR_CREATE))
		return fail(EEXIST);
	if (!a && (flags & XATTR_REPLACE))
		return fail(ENODATA);
	a = a ? a : find("");
	if (!a)
		return fail(ENOSPC);
	strcpy(a->name, name);
	memcpy(a->value, value, size);
	a->size = size;
	return 0;
}

static int set(const char *name, const void *value, size_t size, int flags)
{
	bool is_mode = false;
	struct attribute *a;
	int mode = -1, r;

	if (strncmp(name, "user.", 5) == 0 || geteuid() != 0)
		return fail(EPERM);
	if (strlen(name) >= NAME_SIZE)
		return fail(ERANGE);
	if (size > VALUE_SIZE)
		return fail(ENOSPC);
	if (strcmp(name, ACCESS_LIST) == 0) {
		mode = mode_of_list(value, size, &is_mode);
		if (mode < 0)
			return fail(EINVAL);
	} else if (strncmp(name, "trusted.", 8) != 0 && strncmp(name, "security.", 9) != 0) {
		return fail(EOPNOTSUPP);
	}
	if (mode >= 0 && preload_node_set_mode((mode_t)mode))
		return -1;
	pthread_mutex_lock(&lock);
	a = find(name);
	if (!is_mode)
		r = store(name, value, size, flags);
	else
		r = 0;
	if (is_mode && a)
		a->name[0] = 0;
	pthread_mutex_unlock(&lock);
	return r;
}

/* What getxattr(2) and listxattr(2) do with a buffer. */
static ssize_t give(const void *from, size_t n, void *to, size_t size)
{
	if (size && n > size)
		return fail(ERANGE);
	if (size)
		memcpy(to, from, n);
	return (ssize_t)n;
}

static ssize_t get(const char *name, void *value, size_t size)
{
	struct attribute *a;
	ssize_t r;

	pthread_mutex_lock(&lock);
	a = *name ? find(name) : NULL;
	r = a ? give(a->value, a->size, value, size) : fail(ENODATA);
	pthread_mutex_unlock(&lock);
	return r;
}

static ssize_t list_all(char *list, size_t size)
{
	char names[ATTRIBUTES * NAME_SIZE];
	size_t n = 0;

	pthread_mutex_lock(&lock);
	for (int i = 0; i < ATTRIBUTES; i++)
		if (attributes[i].name[0])
			n = (size_t)(stpcpy(names + n, attributes[i].name) + 1 - names);
	pthread_mutex_unlock(&lock);
	return give(names, n, list, size);
}

static int take_away(const char *name)
{
	struct attribute *a;

	if (strncmp(name, "user.", 5) == 0 || geteuid() != 0)
		return fail(EPERM);
	pthread_mutex_lock(&lock);
	a = *name ? find(name) : NULL;
	if (a)
		a->name[0] = 0;
	pthread_mutex_unlock(&lock);
	return a ? 0 : fail(ENODATA);
}

static bool is_node(const char *path)
{
	return preload_is_dev_kvm_at(AT_FDCWD, path);
}

#define DEFINE_GETXATTR(name)                                                                    \
	EXPORT ssize_t name(const char *path, const char *key, void *value, size_t size)         \
	{                                                                                        \
		return is_node(path) ? get(key, value, size) : REAL(name)(path, key, value, size); \
	}
DEFINE_GETXATTR(getxattr)
DEFINE_GETXATTR(lgetxattr)

#define DEFINE_LISTXATTR(name)                                                                   \
	EXPORT ssize_t name(const char *path, char *list, size_t size)                           \
	{                                                                                        \
		return is_node(path) ? list_all(list, size) : REAL(name)(path, list, size);      \
	}
DEFINE_LISTXATTR(listxattr)
DEFINE_LISTXATTR(llistxattr)

#define DEFINE_SETXATTR(name)                                                                           \
	EXPORT int name(const char *path, const char *key, const void *value, size_t size, int flags)   \
	{                                                                                               \
		return is_node(path) ? set(key, value, size, flags) : REAL(name)(path, key, value, size, flags); \
	}
DEFINE_SETXATTR(setxattr)
DEFINE_SETXATTR(lsetxattr)

#define DEFINE_REMOVEXATTR(name)                                                                 \
	EXPORT int name(const char *path, const char *key)                                       \
	{                                                                                        \
		return is_node(path) ? take_away(key) : REAL(name)(path, key);                   \
	}
DEFINE_REMOVEXATTR(removexattr)
DEFINE_REMOVEXATTR(lremovexattr)
