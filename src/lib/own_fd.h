/*
 * Descriptors of the library's own, which are none of the client's business.
 *
 * A client may close all descriptors but those that it knows, as daemons do. The library's stand well above the
 * numbers that clients expect to get, and are known here: the preload room lets no close() or dup2() of the
 * client's reach them. In a forked child they are nobody's: it has none of the threads that they are for.
 *
 * All of it is async-signal-safe and makes its system calls directly.
 */
#ifndef USERKVM_LIB_OWN_FD_H
#define USERKVM_LIB_OWN_FD_H

#include "lib/types.h"

/* Takes fd over: it moves to a number of ours, close-on-exec. The new number; fd < 0 stays as it is. */
int own_fd_keep(int fd);
/* A duplicate of a descriptor of the client's, to be kept. -1 with errno. */
int own_fd_duplicate(int client_fd);
void own_fd_close(int fd);
bool own_fd_is(int fd);
/* The lowest of ours that is at least `from`; -1: none. */
int own_fd_next(int from);

#endif
