/*
 * Whole messages over a stream socket (stream.h).
 */
#include "lib/stream.h"

#include <errno.h>
#include <sys/socket.h>

bool stream_receive(int fd, void *to, size_t n)
{
	for (char *p = to; n;) {
		ssize_t got = recv(fd, p, n, 0);

		if (got < 0 && errno == EINTR)
			continue;
		if (got == 0)
			errno = 0;
		if (got <= 0)
			return false;
		p += got;
		n -= (size_t)got;
	}
	return true;
}

bool stream_send(int fd, const void *from, size_t n)
{
	for (const char *p = from; n;) {
		ssize_t sent = send(fd, p, n, MSG_NOSIGNAL);

		if (sent < 0 && errno == EINTR)
			continue;
		if (sent <= 0)
			return false;
		p += sent;
		n -= (size_t)sent;
	}
	return true;
}
