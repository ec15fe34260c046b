/*
 * The thread that listens and answers: see control.h.
 *
 * Invariants
 * 1. It blocks every signal, touches client memory by system calls only (a bad
 *    page is an error number, never a signal), and takes no lock that a vCPU
 *    waits for longer than a look into a list or into its VMCS, or `age` into the entries of 1 GiB.
 * 2. One peer at a time, with time limits on both directions: a peer that does
 *    not read costs the next peer some seconds, and the target nothing.
 * 3. The listening socket is known by its inode: should the client have closed
 *    it (close_range over everything), the thread ends instead of accepting on
 *    whatever has its number now.
 * 4. A forked child has no such thread and closes its copy of the socket.
 */
#include "control/control.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>
#include <fcntl.h>
#include <poll.h>

#include "abi/introspect.h"
#include "control/internal.h"
#include "host/client_threads.h"
#include "host/thread.h"
#include "lib/error.h"
#include "lib/fork.h"
#include "lib/log.h"
#include "lib/own_fd.h"
#include "lib/stream.h"
#include "virt/kvm.h"

#define PEER_TIMEOUT_S 2
#define STRANGER_TIMEOUT_MS 20
#define ADDRESSES 8 /* that are tried */
#define MAX_ARGS 3

static struct {
	int fd; /* -1: none */
	dev_t dev;
	ino_t ino;
} listener = { .fd = -1 };

static const struct {
	const char *name;
	request_fn *fn;
	int nr_numbers; /* behind the name; the first is the VM's serial */
} requests[] = {
	{ "vms", control_vms, 0 },   { "stats", control_stats, 0 }, { "slots", control_slots, 1 },
	{ "exits", control_exits, 2 }, { "vmcs", control_vmcs, 3 }, { "entry", control_entry, 3 }, { "debug", control_debug, 2 },
	{ "ept2", control_ept2, 2 }, { "walk2", control_walk2, 3 }, { "guest2", control_guest2, 3 },
	{ "ept", control_ept, 1 },   { "age", control_age, 1 },     { "trace", control_trace, 0 }, { "untrace", control_untrace, 0 },
	     { "walk", control_walk, 3 },   { "guest", control_guest, 3 },
};

/* libc's close() may be the preload room's. */
static void close_fd(int fd)
{
	syscall(SYS_close, fd);
}

/* Numbers: decimal, or hexadecimal with 0x. How many there were; -1: something else. */
static int parse(char *line, char **name, uint64_t *number)
{
	char *save = NULL, *word = strtok_r(line, " \r\n", &save);
	int n = 0;

	*name = word;
	while (word && (word = strtok_r(NULL, " \r\n", &save))) {
		char *end;

		if (n == MAX_ARGS)
			return -1;
		errno = 0;
		number[n++] = strtoull(word, &end, 0);
		if (*end || end == word || errno)
			return -1;
	}
	return *name ? n : -1;
}

/* passed: the descriptor that came with the line, or -1. */
static void answer(struct reply *r, char *line, int passed)
{
	uint64_t number[MAX_ARGS] = { 0 };
	struct kvm *kvm = NULL;
	size_t i = 0;
	char *name;
	int n = parse(line, &name, number);

	while (n >= 0 && i < ARRAY_SIZE(requests) && strcmp(requests[i].name, name) != 0)
		i++;
	if (n < 0 || i == ARRAY_SIZE(requests) || n != requests[i].nr_numbers) {
		reply_error(r, "not a request");
		return;
	}
	if (n) {
		kvm = abi_vm_get(number[0]);
		if (!kvm) {
			reply_error(r, "there is no VM %llu, or no longer",
				    (unsigned long long)number[0]);
			return;
		}
	}
	if (!requests[i].nr_numbers)
		number[1] = (uint64_t)passed;
	reply_line(r, "ok");
	requests[i].fn(r, kvm, number + 1);
	if (kvm)
		kvm_put_kvm(kvm);
}

static bool peer_may_look(int fd)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 &&
	       (peer.uid == geteuid() || peer.uid == 0);
}

/* As recv(), with a descriptor that comes along; *passed is -1 where none does. */
static ssize_t receive(int fd, char *buf, size_t size, int *passed)
{
	char control[CMSG_SPACE(sizeof(int))];
	struct iovec iov = { buf, size };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	ssize_t n = recvmsg(fd, &m, MSG_CMSG_CLOEXEC);
	struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&m) : NULL;

	*passed = -1;
	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(passed, CMSG_DATA(c), sizeof(*passed));
	return n;
}

/* False: the connection is a debugger's now. */
static bool serve(int fd)
{
	int passed = -1;
	struct timeval limit = { .tv_sec = PEER_TIMEOUT_S };
	char line[CONTROL_REQUEST_MAX];
	bool may = peer_may_look(fd);
	struct reply r = { 0 };
	void *session;
	ssize_t n;

	/* One who may not look could keep others from it. */
	if (!may)
		limit = (struct timeval){ .tv_usec = STRANGER_TIMEOUT_MS * 1000 };
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	/* One line in one piece: whoever sends less gets an error. Read it in any
	 * case, since closing with something unread would take the reply along. */
	n = receive(fd, line, sizeof(line) - 1, &passed);
	if (n <= 0 && may) {
		if (passed >= 0)
			close_fd(passed);
		return true;
	}
	line[n > 0 ? n : 0] = '\0';
	if (may)
		answer(&r, line, passed);
	else
		reply_error(&r, "not permitted: it belongs to user %u", geteuid());
	if (passed >= 0)
		close_fd(passed);
	(void)!stream_send(fd, r.text, r.len); /* a peer that has gone wants none */
	session = r.session;
	reply_free(&r);
	if (session)
		control_debug_serve(session, fd);
	return !session;
}

static bool listener_is_ours(void)
{
	struct stat st;

	return syscall(SYS_newfstatat, listener.fd, "", &st, AT_EMPTY_PATH) == 0 &&
	       st.st_dev == listener.dev && st.st_ino == listener.ino;
}

/* False: the process has no other threads left than the library's. */
static bool wait_for_peer(void)
{
	struct pollfd p[] = { { .fd = listener.fd, .events = POLLIN }, { .fd = host_threads_end_fd(), .events = POLLIN } };

	return poll(p, ARRAY_SIZE(p), -1) < 0 || !p[1].revents;
}

static void *server(void *arg)
{
	while (listener_is_ours() && wait_for_peer()) {
		int fd = accept4(listener.fd, NULL, NULL, SOCK_CLOEXEC);

		if (fd < 0) {
			if (errno == ECONNABORTED || errno == EINTR)
				continue;
			if (errno == EMFILE || errno == ENFILE || errno == ENOMEM) {
				sleep(1); /* the client is short of them; our peer can wait */
				continue;
			}
			break;
		}
		if (serve(fd))
			close_fd(fd);
	}
	return NULL;
}

static void after_fork_in_child(void)
{
	if (listener.fd >= 0 && listener_is_ours())
		close_fd(listener.fd);
	listener.fd = -1;
}
LIB_IN_FORKED_CHILD(after_fork_in_child)

/* The address by the process id; where somebody else has taken that, with a number behind it that nobody knows before. */
static int bind_some(int fd, struct sockaddr_un *a)
{
	uint32_t number = 0;
	int n, r = -1;

	for (int i = 0; i < ADDRESSES && r; i++) {
		n = snprintf(a->sun_path + 1, sizeof(a->sun_path) - 1, CONTROL_ADDRESS "%d", (int)getpid());
		if (i && getrandom(&number, sizeof(number), GRND_NONBLOCK) == (ssize_t)sizeof(number))
			n += snprintf(a->sun_path + 1 + n, sizeof(a->sun_path) - 1 - (size_t)n, "/%08x", number);
		r = bind(fd, (struct sockaddr *)a, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n));
		if (r && errno != EADDRINUSE)
			break;
	}
	return r;
}

static int listen_here(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), e;
	struct stat st;

	if (fd < 0)
		return err_born(errno, "no control socket");
	if (bind_some(fd, &a) || listen(fd, 8) || syscall(SYS_newfstatat, fd, "", &st, AT_EMPTY_PATH)) {
		e = errno;
		close_fd(fd);
		return err_born(e, "control socket @%s", a.sun_path + 1);
	}
	listener.dev = st.st_dev;
	listener.ino = st.st_ino;
	listener.fd = own_fd_keep(fd);
	return 0;
}

/* Never a reason to refuse the client its VM: without it nobody can look, that is all. */
static void start_once(void)
{
	const char *want = getenv("USERKVM_CONTROL");

	control_light_beacon();
	if (want && strcmp(want, "0") == 0)
		return;
	if (listen_here())
		return;
	if (host_thread_start_for_good("userkvm-control", server, NULL)) {
		own_fd_close(listener.fd);
		listener.fd = -1;
		return;
	}
	log_line(LOG_INFO, "control socket @" CONTROL_ADDRESS "%d", (int)getpid());
}

static void start(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, start_once);
}

/* The arrow goes from control to abi, so control offers itself. */
__attribute__((constructor)) static void offer(void)
{
	abi_set_vm_hook(start);
}
