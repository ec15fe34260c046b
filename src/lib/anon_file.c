/* A file of no name (lib/anon_file.h). System calls of their own: the preload library takes libc's names over. */
#include "lib/anon_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/error.h"
#include "lib/log.h"
#include "lib/quiet.h"

/* In a directory, as a file that has never had a name: -1 where it takes none. */
static int in_directory(const char *dir, unsigned flags)
{
	if (!dir || *dir != '/')
		return -1;
	return (int)syscall(SYS_openat, AT_FDCWD, dir, O_TMPFILE | O_RDWR | O_EXCL | (flags & MFD_CLOEXEC ? O_CLOEXEC : 0),
			    0600);
}

int lib_anon_file(const char *name, unsigned flags)
{
	int fd = (int)syscall(SYS_memfd_create, name, flags);
	int why = errno;

	if (fd >= 0)
		return fd;
	if (why != ENOSYS && why != EPERM && why != EACCES) /* a shortage, which no other file ends */
		return err_born(why, "memfd_create(%s)", name);
	fd = in_directory("/dev/shm", flags);
	if (fd < 0)
		fd = in_directory(getenv("XDG_RUNTIME_DIR"), flags);
	if (fd < 0)
		fd = in_directory("/tmp", flags);
	if (fd >= 0)
		return fd;
	log_always("this host has no memfd_create() (%s), and neither /dev/shm nor /tmp takes a nameless file: KVM's descriptors need one",
		   strerror(why));
	return err_born(why, "no nameless file for %s", name);
}

int lib_anon_file_grow(int fd, uint64_t bytes)
{
	int r = lib_quiet_truncate(fd, bytes);

	return r ? err_born(-r, "a file of %llu bytes", (unsigned long long)bytes) : 0;
}
