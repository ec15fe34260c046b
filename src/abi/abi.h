/*
 * The /dev/kvm ABI: descriptors and the table of ioctls.
 *
 * One table row an ioctl: number, kind of descriptor, how the argument is
 * copied, which lock is held, handler. Descriptors are memfds found by
 * (device, inode), so dup, fcntl and descriptor passing work; a per-fd cache
 * keeps the common path free of system calls.
 * The public calls are include/userkvm/userkvm.h; this header is what the
 * preload room needs besides.
 *
 * Context: any thread, not from signal handlers unless said.
 */
#ifndef USERKVM_ABI_ABI_H
#define USERKVM_ABI_ABI_H

#include <signal.h>
#include <stdbool.h>

/* The client duplicated / is about to close a descriptor of ours (preload). */
void abi_fd_duplicated(int oldfd, int newfd);
void abi_fd_closing(int fd);

/* A descriptor of /dev/kvm itself (not of a VM or vCPU). */
bool abi_is_system_fd(int fd);

/*
 * Signals of the thread's KVM_RUN (KVM API: KVM_SET_SIGNAL_MASK). True: the
 * client blocks this signal outside KVM_RUN and it was let through only to end
 * the run; it has to stay pending until the client unblocks it, as on Linux.
 * Signal-safe.
 */
bool abi_signal_ends_run_only(int signo);

/*
 * The client's sigaction() on a signal the library occupies itself (SEGV, BUS,
 * FPE, ILL): -EINVAL when it is not one of those.
 */
int abi_client_action(int signo, const struct sigaction *act, struct sigaction *old);

#endif
