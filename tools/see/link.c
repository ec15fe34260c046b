/*
 * The client's end of the control socket, and what /proc knows.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "control/control.h"
#include "tools/see/see.h"

#define ANSWER_TIMEOUT_S 10

const char *see_command = "userkvm";

bool see_fail(const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "%s: ", see_command);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	return false;
}

/* The process's user; -1: there is no such process. */
static long owner_of(pid_t pid)
{
	char path[32];
	struct stat st;

	snprintf(path, sizeof(path), "/proc/%d", (int)pid);
	return stat(path, &st) == 0 ? (long)st.st_uid : -1;
}

/* The namespace of a kind ("net", "user") that a process is in; 0: not to be seen. */
static ino_t namespace_of(const char *who, const char *kind)
{
	char path[48];
	struct stat st;

	snprintf(path, sizeof(path), "/proc/%s/ns/%s", who, kind);
	return stat(path, &st) == 0 ? st.st_ino : 0;
}

static bool in_other_namespace(pid_t pid, const char *kind)
{
	char who[16];
	ino_t its;

	snprintf(who, sizeof(who), "%d", (int)pid);
	its = namespace_of(who, kind);
	return its && its != namespace_of("self", kind);
}

static bool enter(pid_t pid, const char *kind)
{
	char path[48];
	int fd, r;

	snprintf(path, sizeof(path), "/proc/%d/ns/%s", (int)pid, kind);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	r = fd < 0 ? -1 : setns(fd, 0);
	if (fd >= 0)
		close(fd);
	return r == 0;
}

/* Runs in a child: a socket that was made in the process's network namespace stays one of there. */
static int send_socket_from_there(pid_t pid, int to)
{
	char control[CMSG_SPACE(sizeof(int))] = { 0 }, byte = 0;
	struct iovec iov = { &byte, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	int fd;

	/* the owner of a user namespace may enter the network namespace behind it */
	if (!enter(pid, "net") && (!enter(pid, "user") || !enter(pid, "net")))
		return errno;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return errno;
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	return sendmsg(to, &m, MSG_NOSIGNAL) == 1 ? 0 : errno;
}

/* A socket of the process's network namespace; -1 and errno. */
static int socket_there(pid_t pid)
{
	char control[CMSG_SPACE(sizeof(int))], byte;
	struct iovec iov = { &byte, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	int pair[2], fd = -1, status = 0;
	struct cmsghdr *c;
	pid_t child;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
		return -1;
	child = fork();
	if (child == 0)
		_exit(send_socket_from_there(pid, pair[1]));
	close(pair[1]);
	if (child > 0 && recvmsg(pair[0], &m, MSG_CMSG_CLOEXEC) == 1) {
		c = CMSG_FIRSTHDR(&m);
		if (c && c->cmsg_type == SCM_RIGHTS)
			memcpy(&fd, CMSG_DATA(c), sizeof(fd));
	}
	close(pair[0]);
	if (child > 0)
		waitpid(child, &status, 0);
	errno = fd < 0 && WIFEXITED(status) && WEXITSTATUS(status) ? WEXITSTATUS(status) : fd < 0 ? EIO : 0;
	return fd;
}

/* What the process calls itself: a container's has a number of its own. */
static pid_t own_number(pid_t pid)
{
	char path[32], line[256];
	pid_t inner = pid;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f)) {
		const char *last = strrchr(line, '\t');

		if (strncmp(line, "NSpid:", 6) == 0 && last)
			inner = (pid_t)atoi(last + 1);
	}
	if (f)
		fclose(f);
	return inner > 0 ? inner : pid;
}

/* Root is nobody in a user namespace that does not map it: there it speaks as the process's own user. */
static int connect_as(int fd, const struct sockaddr_un *a, socklen_t len, bool as_owner, long owner)
{
	int r, e;

	if (as_owner && seteuid((uid_t)owner))
		return -1;
	r = connect(fd, (const struct sockaddr *)a, len);
	e = errno;
	if (as_owner && seteuid(0))
		_exit(1);
	errno = e;
	return r;
}

/* A descriptor, or what is wrong, in words; suffix: of the address, behind the process id. */
static int connect_at(pid_t pid, const char *suffix, char *why, size_t size)
{
	struct timeval limit = { .tv_sec = ANSWER_TIMEOUT_S };
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int n = snprintf(a.sun_path + 1, sizeof(a.sun_path) - 1, CONTROL_ADDRESS "%d%s", (int)own_number(pid), suffix);
	bool there = in_other_namespace(pid, "net");
	int fd = there ? socket_there(pid) : socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	long owner = owner_of(pid);
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (owner < 0) {
		snprintf(why, size, "there is no process %d", (int)pid);
	} else if (fd < 0 && there) {
		snprintf(why, size, "process %d is in another network namespace, where its control socket is, and that cannot be entered: %s (as root it can)",
			 (int)pid, strerror(errno));
	} else if (fd < 0) {
		snprintf(why, size, "no socket: %s", strerror(errno));
	} else if (connect_as(fd, &a, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n),
			      geteuid() == 0 && in_other_namespace(pid, "user"), owner)) {
		if (owner != (long)geteuid() && geteuid() != 0)
			snprintf(why, size, "process %d belongs to user %ld: not permitted", (int)pid, owner);
		else
			snprintf(why, size,
				 "process %d has no VM of userkvm to look at (none yet, or USERKVM_CONTROL=0)",
				 (int)pid);
	} else if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) ||
		   ((long)peer.uid != owner && peer.uid != geteuid() && peer.uid != 0)) {
		/*
		 * Anybody may take an abstract address. The listener is who it was
		 * when it began, so one that has changed its user since is let pass.
		 */
		snprintf(why, size, "somebody else answers for process %d: not trusted", (int)pid);
	} else {
		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
		return fd;
	}
	if (fd >= 0)
		close(fd);
	return -1;
}

/* The process's own address, or one of those that it takes when somebody else has that. */
static int connect_to(pid_t pid, char *why, size_t size)
{
	int fd = connect_at(pid, "", why, size), n;
	char line[512], begin[64], others[256], path[40];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/net/unix", (int)pid);
	f = fd < 0 ? fopen(path, "re") : NULL;
	n = snprintf(begin, sizeof(begin), " @" CONTROL_ADDRESS "%d/", (int)own_number(pid));
	while (f && fd < 0 && fgets(line, sizeof(line), f)) {
		char *at = strstr(line, begin);

		if (!at)
			continue;
		at += n - 1; /* from the slash on */
		at[strcspn(at, " \n")] = '\0';
		fd = connect_at(pid, at, others, sizeof(others));
	}
	if (f)
		fclose(f);
	return fd;
}

/* All there is until the other side closes; NULL: it went silent or away. */
static char *receive(int fd)
{
	size_t size = 1 << 16, len = 0;
	char *text = malloc(size), *more;

	while (text) {
		ssize_t n = recv(fd, text + len, size - len - 1, 0);

		if (n <= 0) {
			text[len] = '\0';
			if (n == 0 && len)
				return text;
			break;
		}
		len += (size_t)n;
		if (len < size - 1)
			continue;
		size *= 2;
		more = realloc(text, size);
		if (!more)
			break;
		text = more;
	}
	free(text);
	return NULL;
}

/* Why there is no answer, as far as it is seen from here (proc_pid_stat(5): the state behind the name). */
static const char *silence(pid_t pid)
{
	char path[64], line[512], *state = NULL;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	f = fopen(path, "re");
	if (!f)
		return "ended meanwhile";
	if (fgets(line, sizeof(line), f))
		state = strrchr(line, ')');
	fclose(f);
	return state && (state[2] == 'T' || state[2] == 't') ? "does not answer: it is stopped, by a signal or a debugger"
							      : "does not answer";
}

/* As send(); passed: a descriptor that goes along, or -1. */
static bool send_request(int fd, const char *request, int passed)
{
	char control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec iov = { (void *)request, strlen(request) };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct cmsghdr *c;

	if (passed >= 0) {
		m.msg_control = control;
		m.msg_controllen = sizeof(control);
		c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &passed, sizeof(passed));
	}
	return sendmsg(fd, &m, MSG_NOSIGNAL) == (ssize_t)iov.iov_len;
}

static char *ask(pid_t pid, const char *request, int passed, char *why, size_t size)
{
	int fd = connect_to(pid, why, size);
	char *text = NULL, *body = NULL;

	if (fd < 0)
		return NULL;
	if (send_request(fd, request, passed))
		text = receive(fd);
	close(fd);
	if (!text) {
		snprintf(why, size, "process %d %s", (int)pid, silence(pid));
	} else if (strncmp(text, "ok\n", 3) == 0) {
		body = strdup(text + 3);
	} else if (strncmp(text, "error ", 6) == 0) {
		snprintf(why, size, "process %d: %.*s", (int)pid, (int)strcspn(text + 6, "\n"), text + 6);
	} else {
		snprintf(why, size, "process %d answers what is none of userkvm's", (int)pid);
	}
	free(text);
	return body;
}

char *see_ask(pid_t pid, const char *fmt, ...)
{
	char request[CONTROL_REQUEST_MAX], why[256] = "";
	va_list ap;
	char *body;

	va_start(ap, fmt);
	vsnprintf(request, sizeof(request), fmt, ap);
	va_end(ap);
	body = see_core_pid() ? see_ask_core(request) : ask(pid, request, -1, why, sizeof(why));
	if (body && strncmp(body, "error ", 6) == 0) { /* a core's */
		see_fail("%.*s", (int)strcspn(body + 6, "\n"), body + 6);
		free(body);
		return NULL;
	}
	if (!body)
		see_fail("%s", *why ? why : strerror(ENOMEM));
	return body;
}

bool see_pass(pid_t pid, const char *request, int passed)
{
	char why[256] = "", *body = ask(pid, request, passed, why, sizeof(why));

	if (!body)
		return see_fail("%s", *why ? why : strerror(ENOMEM));
	free(body);
	return true;
}

int see_session(pid_t pid, const char *fmt, ...)
{
	char request[CONTROL_REQUEST_MAX], why[256] = "", line[256];
	size_t n = 0;
	va_list ap;
	int fd;

	va_start(ap, fmt);
	vsnprintf(request, sizeof(request), fmt, ap);
	va_end(ap);
	fd = connect_to(pid, why, sizeof(why));
	if (fd < 0) {
		see_fail("%s", why);
		return -1;
	}
	if (send_request(fd, request, -1))
		while (n < sizeof(line) - 1 && recv(fd, line + n, 1, 0) == 1 && line[n] != '\n')
			n++;
	line[n] = '\0';
	if (strcmp(line, "ok") == 0)
		return fd;
	close(fd);
	if (strncmp(line, "error ", 6) == 0)
		see_fail("process %d: %s", (int)pid, line + 6);
	else
		see_fail("process %d %s", (int)pid, silence(pid));
	return -1;
}

char *see_ask_quietly(pid_t pid, const char *request)
{
	char why[256];

	return ask(pid, request, -1, why, sizeof(why));
}

bool see_pid(const char *text, pid_t *pid)
{
	char *end;
	long v = strtol(text, &end, 10);

	*pid = (pid_t)v;
	if (end == text || *end || v <= 0 || v > 1 << 30)
		return see_fail("'%s' is not a process id", text);
	return true;
}

unsigned see_processes(pid_t *pids, unsigned max)
{
	FILE *f = fopen("/proc/net/unix", "re");
	char line[512];
	unsigned n = 0;

	while (f && n < max && fgets(line, sizeof(line), f)) {
		const char *at = strstr(line, " @" CONTROL_ADDRESS);
		unsigned i = 0;
		pid_t pid;

		if (!at)
			continue;
		pid = (pid_t)atoi(at + 2 + strlen(CONTROL_ADDRESS));
		while (i < n && pids[i] != pid)
			i++;
		if (i == n && pid > 0 && owner_of(pid) >= 0)
			pids[n++] = pid;
	}
	if (f)
		fclose(f);
	return n;
}

bool see_age(pid_t pid, uint64_t vm)
{
	char *text = see_ask(pid, "age %llu\n", (ull)vm);

	free(text);
	return text != NULL;
}

bool see_choose_vm(pid_t pid, uint64_t *serial)
{
	char *text = see_ask(pid, "vms\n"), *at;
	uint64_t want = *serial;
	bool found = false;

	if (!text)
		return false;
	for (at = text; at && !found; at = strchr(at, '\n')) {
		ull v;

		at += *at == '\n';
		if (sscanf(at, "vm %llu ", &v) == 1 && (!want || want == v)) {
			*serial = v;
			found = true;
		}
	}
	free(text);
	if (!found && want)
		return see_fail("process %d has no VM %llu", (int)pid, (ull)want);
	return found ? true : see_fail("process %d has no VM at present", (int)pid);
}

bool see_number(const char *text, uint64_t *v)
{
	static const char suffix[] = "KMGT";
	const char *s;
	char *end;

	errno = 0;
	*v = strtoull(text, &end, 0);
	if (end == text || errno || *text == '-')
		return see_fail("'%s' is not a number", text);
	s = *end ? strchr(suffix, *end) : NULL;
	if (*end && (!s || end[1]))
		return see_fail("'%s' is not a number", text);
	if (s)
		*v <<= 10 * (s - suffix + 1);
	return true;
}

bool see_mapping(pid_t pid, uint64_t addr, char *line, size_t size)
{
	char path[40];
	FILE *f;
	bool found = false;

	if (see_core_pid())
		return see_core_mapping(addr, line, size);
	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	f = fopen(path, "re");
	while (f && !found && fgets(line, (int)size, f)) {
		ull start, end;

		line[strcspn(line, "\n")] = '\0';
		found = sscanf(line, "%llx-%llx", &start, &end) == 2 && start <= addr && addr < end;
	}
	if (f)
		fclose(f);
	return found;
}
