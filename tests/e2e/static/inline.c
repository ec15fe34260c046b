/* A client with a dynamic loader that makes its system calls itself, as some run-time systems do. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/syscall.h>

static inline long call(long number, long a, long b, long c)
{
	long result;

	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return result;
}

int main(void)
{
	long kvm = call(SYS_openat, AT_FDCWD, (long)"/dev/kvm", O_RDWR);

	printf("inline %ld\n", kvm < 0 ? kvm : call(SYS_ioctl, kvm, 0xae00, 0));
	return 0;
}
