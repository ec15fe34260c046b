/*
 * What the host answers by a signal, as an errno: SIGXFSZ where a file would pass RLIMIT_FSIZE, SIGPIPE where
 * nobody reads a pipe. The call is the library's, and the signal would end the client.
 *
 * Both go to the thread that made the call: they are blocked there meanwhile, and what came of it is taken away before
 * they are let in again. One that was pending before stays.
 *
 * Locks: none. Any thread; three system calls, up to two more where the call has failed or the client blocks these signals.
 */
#ifndef USERKVM_LIB_QUIET_H
#define USERKVM_LIB_QUIET_H

#include "lib/types.h"

/* write(2): bytes, or -EFBIG, -EPIPE and its other errnos, negative. */
long lib_quiet_write(int fd, const void *bytes, size_t n);

/* ftruncate(2): 0 or a negative errno. */
int lib_quiet_truncate(int fd, uint64_t bytes);

#endif
