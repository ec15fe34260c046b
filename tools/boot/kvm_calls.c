/*
 * The two KVMs `userkvm boot` can talk to.
 */
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tools/boot/vm.h"
#include "userkvm/userkvm.h"

static int kernel_open(const char *path, int flags)
{
	return open(path, flags);
}

static int kernel_ioctl(int fd, unsigned long request, unsigned long arg)
{
	return ioctl(fd, request, arg);
}

static void *kernel_mmap(void *addr, size_t len, int prot, int flags, int fd, long offset)
{
	return mmap(addr, len, prot, flags, fd, offset);
}

const struct kvm_calls kernel_kvm = {kernel_open, kernel_ioctl, kernel_mmap, close};
const struct kvm_calls library_kvm = {userkvm_open, userkvm_ioctl, userkvm_mmap, userkvm_close};
