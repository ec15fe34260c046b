/*
 * The /dev/kvm ABI: descriptors and the table of ioctls.
 *
 * One table row an ioctl: number, kind of descriptor, how the argument is
 * copied, which lock is held, handler. Descriptors are memfds found by
 * (device, inode), so dup, fcntl and descriptor passing work; a per-fd cache
 * keeps the common path free of system calls.
 * The public calls are include/userkvm/userkvm.h; this header is what the
 * preload room needs besides.
 */
#ifndef USERKVM_ABI_ABI_H
#define USERKVM_ABI_ABI_H

#include <stdbool.h>

/* The client duplicated / is about to close a descriptor of ours (preload). */
void abi_fd_duplicated(int oldfd, int newfd);
void abi_fd_closing(int fd);

#endif
