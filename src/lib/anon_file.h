/*
 * A file of no name, to be mapped shared: memfd_create() where the host has it.
 *
 * Locks: none.
 */
#ifndef USERKVM_LIB_ANON_FILE_H
#define USERKVM_LIB_ANON_FILE_H

#include "lib/types.h"

/*
 * A descriptor, readable and writable, of an empty file; flags: MFD_CLOEXEC, MFD_ALLOW_SEALING.
 * `name` is for /proc's readers.
 * Where memfd_create() is missing or forbidden (Linux before 3.17, some seccomp filters) the
 * file lies nameless in /dev/shm, $XDG_RUNTIME_DIR or /tmp; it takes no seals there.
 * -errno: of memfd_create(); where no directory takes a file either, after one line on stderr.
 * Any thread; a system call or a few.
 */
must_check int lib_anon_file(const char *name, unsigned flags);

/*
 * The file becomes `bytes` long. 0; -EFBIG beyond RLIMIT_FSIZE, without the SIGXFSZ that would end the
 * client's process for a file that is not its own; -errno of ftruncate(). Any thread; system calls.
 */
must_check int lib_anon_file_grow(int fd, uint64_t bytes);

#endif
