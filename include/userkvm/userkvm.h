/*
 * userkvm: KVM in user space. Link this library instead of opening /dev/kvm.
 *
 * The five calls mirror libc's: same arguments, same return values, errno set
 * the same way. Descriptors are real ones (close-on-exec as asked), so
 * read(2), poll(2), dup(2) and mmap(2) work on them.
 *
 *	int kvm = userkvm_open("/dev/kvm", O_RDWR | O_CLOEXEC);
 *	int vm = userkvm_ioctl(kvm, KVM_CREATE_VM, 0);
 */
#ifndef USERKVM_USERKVM_H
#define USERKVM_USERKVM_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Open a userkvm system descriptor. -1 with errno. */
int userkvm_open(const char *path, int flags);
/* KVM API: any ioctl, by the descriptor's kind. arg as for ioctl(2). */
int userkvm_ioctl(int fd, unsigned long request, unsigned long arg);
/* Only needed where the preload library is not used: like mmap(2). */
void *userkvm_mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset);
/* Close a descriptor; the object goes with its last descriptor. */
int userkvm_close(int fd);
/* A descriptor of ours? */
bool userkvm_is_fd(int fd);
/*
 * A signal handler of the program ran on this thread: a KVM_RUN of it returns -EINTR. Signal-safe.
 * Only needed where the program's sigaction() is not the library's (it was opened by dlopen).
 */
void userkvm_signal_ran(void);

#ifdef __cplusplus
}
#endif
#endif
