#include <errno.h>
#include <stdlib.h>
#include "userkvm/userkvm.h"
#define X __attribute__((visibility("default")))
X int userkvm_open(const char *p, int f) { errno = ENOSYS; return -1; }
X int userkvm_ioctl(int fd, unsigned long r, unsigned long a) { errno = ENOSYS; return -1; }
X void *userkvm_mmap(void *a, size_t l, int p, int f, int fd, off_t o) { errno = ENOSYS; return (void*)-1; }
X int userkvm_close(int fd) { errno = ENOSYS; return -1; }
