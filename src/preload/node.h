/*
 * /dev/kvm as a device node (node.c, node_xattr.c), and the files beside it (host_files.c).
 */
#ifndef USERKVM_PRELOAD_NODE_H
#define USERKVM_PRELOAD_NODE_H

#include <stdbool.h>
#include <sys/stat.h>

#define NODE_MAJOR 10
#define NODE_MINOR 232
#define NODE_INODE 232 /* nothing else of a process's /dev is told apart by it */

/* "/dev/kvm", or "kvm" where dirfd is /dev (or the working directory, for AT_FDCWD). NULL is not. */
bool preload_is_dev_kvm_at(int dirfd, const char *path);
void preload_node_stat(struct stat *st);
/* As chmod(2): 0, or -1 with errno. */
int preload_node_set_mode(mode_t mode);

/*
 * The files of a host with VMX (host_files.c): a descriptor, -1 with errno, or PRELOAD_NOT_OURS; and what such a
 * path is, false for others.
 */
#define PRELOAD_NOT_OURS (-2)
int preload_host_file(const char *path, int flags);
bool preload_host_stat(const char *path, struct stat *st);

#endif
