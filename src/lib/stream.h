/*
 * Whole messages over a stream socket.
 *
 * Context: may block; no locks. A signal's handler that runs meanwhile is nothing to them, SIGPIPE never comes.
 */
#ifndef USERKVM_LIB_STREAM_H
#define USERKVM_LIB_STREAM_H

#include <stdbool.h>
#include <stddef.h>

#include "lib/types.h"

/* All of n bytes. False, with errno (0: the peer is gone), when the stream ends or its time limit passes first. */
must_check bool stream_receive(int fd, void *to, size_t n);
must_check bool stream_send(int fd, const void *from, size_t n);

#endif
