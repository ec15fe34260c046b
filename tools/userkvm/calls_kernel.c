/*
 * Does a dynamic program make KVM's system calls itself, past the C library? A guess, for a line of advice: its file
 * names /dev/kvm and not the C library's ioctl(), and somewhere a SYSCALL instruction stands close behind the number
 * of open(), openat() or ioctl(). One that has both is given the benefit: Rust's run-time libraries make some calls
 * themselves, and KVM's by the C library.
 */
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tools/userkvm/commands.h"

#define CLOSE 48 /* bytes of code between the two */

/* mov $number, %eax */
static bool loads_number(const uint8_t *code, size_t n)
{
	static const uint32_t numbers[] = { SYS_open, SYS_openat, SYS_ioctl };
	uint32_t number;

	for (size_t at = 0; at + 5 <= n; at++) {
		if (code[at] != 0xb8)
			continue;
		memcpy(&number, code + at + 1, sizeof(number));
		for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
			if (number == numbers[i])
				return true;
	}
	return false;
}

static bool has_call(const uint8_t *file, size_t size)
{
	const uint8_t *at = file, *end = file + size;

	while ((at = memmem(at, (size_t)(end - at), "\x0f\x05", 2))) {
		size_t before = (size_t)(at - file) < CLOSE ? (size_t)(at - file) : CLOSE;

		if (loads_number(at - before, before))
			return true;
		at += 2;
	}
	return false;
}

bool calls_kernel_itself(const char *program)
{
	int fd = open(program, O_RDONLY | O_CLOEXEC);
	bool yes = false;
	struct stat st;
	void *file;

	if (fd < 0)
		return false;
	if (fstat(fd, &st) == 0 && st.st_size > 0) {
		file = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
		if (file != MAP_FAILED) {
			yes = memmem(file, (size_t)st.st_size, "/dev/kvm", 8) &&
			      !memmem(file, (size_t)st.st_size, "\0ioctl", 7) && has_call(file, (size_t)st.st_size);
			munmap(file, (size_t)st.st_size);
		}
	}
	close(fd);
	return yes;
}
