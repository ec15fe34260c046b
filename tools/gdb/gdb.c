/*
 * userkvm gdb: options, the client that it starts, and gdb itself.
 *
 *	userkvm gdb PID            executes gdb, which starts `userkvm gdb --stdio PID` at the end of a pipe
 *	userkvm gdb --listen …     waits for one gdb, wherever that runs
 *	userkvm gdb CLIENT …       the same for a client that it starts, whose vCPUs wait at their first KVM_RUN
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tools/gdb/gdb.h"
#include "tools/see/see.h"
#include "tools/userkvm/commands.h"

#define LOOK_AGAIN_MS 20

enum { LISTEN, STDIO, VM, ARCH, FIRST };
static const struct cli_option option_rows[] = {
	[LISTEN] = { "listen", 0, "ADDRESS", "wait for gdb on [127.0.0.1]:PORT (0: any) or on a socket's path,\n"
		     "instead of starting it" },
	[STDIO] = { "stdio", 0, NULL, "speak to gdb on standard input and output:\n"
		    "target remote | userkvm gdb --stdio PID" },
	[VM] = { "vm", 0, "N", "the process's N-th VM (default: the oldest)" },
	[ARCH] = { "arch", 0, "NAME", "i386 or x86-64; default: what the guest's CPUID says" },
	[FIRST] = { "first-run", 0, NULL, "with --stdio: wait until a vCPU waits for gdb (USERKVM_GDB=wait)" },
	{ 0 },
};

static int cmd_gdb(int argc, char **argv);
const struct cli cli_gdb = {
	.name = "userkvm gdb",
	.what = "debug the guest of a running VM with gdb",
	.synopsis = "userkvm gdb [--vm N] [--arch NAME] PID [GDB-ARGS...]\n"
		    "       userkvm gdb --listen ADDRESS [--vm N] [--arch NAME] PID\n"
		    "       userkvm gdb [--listen ADDRESS] [--arch NAME] [--] CLIENT [ARGS...]",
	.about = "Debugs the guest of the VM in process PID with gdb: breakpoints, steps, watchpoints; each vCPU is a\n"
		 "thread. CLIENT is started by `userkvm run` (or is\n"
		 "`boot` and its words), and its guest waits for gdb before the first instruction.\n"
		 "When gdb goes the guest runs on; a CLIENT that was started for gdb ends with it.",
	.options = option_rows,
	.program = true,
	.run = cmd_gdb,
};

struct choice {
	const char *listen;
	bool stdio;
	const char *vm_text, *arch_text;
	uint64_t vm;
	int arch; /* -1: by the guest */
	bool from_start; /* the client was started for gdb */
};

static int take(void *arg, int option, const char *value)
{
	struct choice *c = arg;
	char *end;

	switch (option) {
	case LISTEN: c->listen = value; return 0;
	case STDIO: c->stdio = true; return 0;
	case FIRST: c->from_start = true; return 0;
	case VM:
		c->vm_text = value;
		c->vm = strtoull(value, &end, 10);
		return end != value && !*end ? 0 : wrong_usage(cli_gdb.name, "--vm %s: not a number", value);
	default:
		c->arch_text = value;
		c->arch = strcmp(value, "i386") == 0 ? GDB_I386 : strcmp(value, "x86-64") == 0 ? GDB_X86_64 : -1;
		return c->arch >= 0 ? 0 : wrong_usage(cli_gdb.name, "--arch %s: i386 or x86-64", value);
	}
}

static bool is_number(const char *text)
{
	return *text && !text[strspn(text, "0123456789")];
}

/* --- one gdb, at the end of in and out --- */

static int serve(int in, int out, pid_t pid, const struct choice *c)
{
	static struct gdb_session session;
	static struct gdb_link link;
	int status;

	link.in = in;
	link.out = out;
	if (!gdb_session_open(&session, pid, c->vm))
		return 1;
	status = gdb_serve(&link, &session, c->arch, c->from_start);
	close(session.fd);
	return status;
}

/* --- listening --- */

static int listen_on_path(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd;

	if (strlen(path) >= sizeof(a.sun_path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	strcpy(a.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && (fchmod(fd, 0600) || bind(fd, (struct sockaddr *)&a, sizeof(a)) || listen(fd, 1))) {
		int e = errno;

		close(fd);
		errno = e;
		return -1;
	}
	return fd;
}

/* *port: the one asked for, and the one it has become. */
static int listen_on_port(unsigned *port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((uint16_t)*port) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
	socklen_t len = sizeof(a);

	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) || listen(fd, 1) || getsockname(fd, (struct sockaddr *)&a, &len)) {
		int e = errno;

		close(fd);
		errno = e;
		return -1;
	}
	*port = ntohs(a.sin_port);
	return fd;
}

/* "PORT", ":PORT", "127.0.0.1:PORT", "localhost:PORT"; false: something else, and told. */
static bool port_of(const char *address, unsigned *port)
{
	const char *colon = strrchr(address, ':'), *digits = colon ? colon + 1 : address;
	unsigned long v = is_number(digits) ? strtoul(digits, NULL, 10) : 65536;

	*port = (unsigned)v;
	if (v <= 65535 && (!colon || colon == address || strncmp(address, "127.0.0.1:", 10) == 0 ||
			   strncmp(address, "localhost:", 10) == 0))
		return true;
	wrong_usage(cli_gdb.name, "--listen %s: a path with a slash, or [127.0.0.1]:PORT (gdb's protocol knows no user: "
		    "let ssh carry it further)", address);
	return false;
}

static const char *socket_path; /* to be removed */

static void remove_socket(void)
{
	if (socket_path)
		unlink(socket_path);
	socket_path = NULL;
}

static void end_by_signal(int signo)
{
	remove_socket();
	signal(signo, SIG_DFL);
	raise(signo);
}

/* A descriptor on which one gdb will come, and a line that says where; -1: told. */
static int listen_at(const char *address)
{
	unsigned port = 0;
	int fd;

	if (strchr(address, '/')) {
		fd = listen_on_path(address);
		if (fd >= 0) {
			socket_path = address;
			atexit(remove_socket);
			signal(SIGTERM, end_by_signal);
			signal(SIGINT, end_by_signal);
			signal(SIGHUP, end_by_signal);
		}
	} else {
		if (!port_of(address, &port))
			return -2;
		fd = listen_on_port(&port);
	}
	if (fd < 0)
		fprintf(stderr, "userkvm gdb: %s: %s\n", address, strerror(errno));
	else if (strchr(address, '/'))
		fprintf(stderr, "userkvm gdb: gdb -ex 'target remote %s'\n", address);
	else
		fprintf(stderr, "userkvm gdb: gdb -ex 'target remote 127.0.0.1:%u'\n", port);
	return fd;
}

static int serve_one(int listener, pid_t pid, const struct choice *c)
{
	int fd, status;

	do
		fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	while (fd < 0 && errno == EINTR);
	close(listener);
	if (fd < 0) {
		fprintf(stderr, "userkvm gdb: %s\n", strerror(errno));
		return 1;
	}
	status = serve(fd, fd, pid, c);
	close(fd);
	return status;
}

/* --- gdb --- */

/* Executes it; returns where it cannot. */
static int become_gdb(pid_t pid, const struct choice *c, char **args, int nr)
{
	char self[PATH_MAX], connect[PATH_MAX + 128];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char **argv = calloc((size_t)nr + 6, sizeof(*argv));
	int k = 0, e;

	if (n <= 0 || !argv) {
		fprintf(stderr, "userkvm gdb: %s\n", strerror(errno));
		free(argv);
		return 1;
	}
	self[n] = '\0';
	snprintf(connect, sizeof(connect), "target remote | exec '%s' gdb --stdio%s%s%s%s%s %d", self,
		 c->from_start ? " --first-run" : "", c->vm_text ? " --vm " : "",
		 c->vm_text ? c->vm_text : "", c->arch_text ? " --arch " : "", c->arch_text ? c->arch_text : "", (int)pid);
	argv[k++] = (char *)(uintptr_t)"gdb";
	argv[k++] = (char *)(uintptr_t)"-q";
	argv[k++] = (char *)(uintptr_t)"-ex";
	argv[k++] = connect;
	for (int i = 0; i < nr; i++)
		argv[k++] = args[i];
	execvp("gdb", argv);
	e = errno;
	fprintf(stderr, "userkvm gdb: gdb cannot be executed: %s; with --listen ADDRESS another machine's can come\n", strerror(e));
	free(argv);
	return e == ENOENT ? NOT_FOUND : CANNOT_RUN;
}

/* --- a client of its own --- */

/* Does a vCPU of it wait for gdb at its first KVM_RUN? */
static bool has_vcpu(pid_t pid)
{
	char *text = see_ask_quietly(pid, "vms\n");
	bool yes = text && strstr(text, "vcpu ");

	free(text);
	return yes;
}

/* A child that goes when this process does, whatever ends it: SIGTERM. */
static pid_t fork_with_me(void)
{
	pid_t me = getpid(), pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGTERM);
		if (getppid() != me)
			_exit(CANNOT_RUN);
	}
	return pid;
}

static pid_t start_client(char **args, bool terminal)
{
	pid_t pid = fork_with_me();

	if (pid)
		return pid;
	setenv("USERKVM_GDB", "wait", 1);
	if (!terminal) { /* it is gdb's: keys and Ctrl-C are not for the client */
		int null = open("/dev/null", O_RDONLY);

		setpgid(0, 0);
		if (null >= 0)
			dup2(null, STDIN_FILENO);
	}
	execv("/proc/self/exe", args);
	_exit(CANNOT_RUN);
}

static int status_of(int status)
{
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* False: the client ended first, with *status. */
static bool wait_for_vm(pid_t pid, int *status)
{
	struct timespec t = { .tv_nsec = LOOK_AGAIN_MS * 1000000L };

	while (!has_vcpu(pid)) {
		if (waitpid(pid, status, WNOHANG) == pid)
			return false;
		nanosleep(&t, NULL);
	}
	return true;
}

static void end_client(pid_t pid, int *status)
{
	struct timespec t = { .tv_nsec = LOOK_AGAIN_MS * 1000000L };

	for (int i = 0; i < 100; i++) {
		kill(pid, i < 50 ? SIGTERM : SIGKILL);
		for (int k = 0; k < 10; k++) {
			if (waitpid(pid, status, WNOHANG) == pid)
				return;
			nanosleep(&t, NULL);
		}
	}
}

static int debug_client(struct choice *c, char **words, int nr)
{
	char **args = calloc((size_t)nr + 4, sizeof(*args));
	int listener = -1, status = 0, k = 0;
	pid_t client, gdb;

	if (!args)
		return 1;
	c->from_start = true;
	if (c->listen) {
		listener = listen_at(c->listen);
		if (listener < 0) {
			free(args);
			return listener == -2 ? 2 : 1;
		}
	}
	args[k++] = (char *)(uintptr_t)"userkvm";
	if (strcmp(words[0], "boot") != 0) {
		args[k++] = (char *)(uintptr_t)"run";
		args[k++] = (char *)(uintptr_t)"--";
	}
	for (int i = 0; i < nr; i++)
		args[k++] = words[i];
	client = start_client(args, listener >= 0);
	free(args);
	if (client < 0 || !wait_for_vm(client, &status)) {
		if (listener >= 0)
			close(listener);
		fputs("userkvm gdb: the client ended without a vCPU\n", stderr);
		return client < 0 ? 1 : status_of(status) ? status_of(status) : 1;
	}
	if (listener >= 0) {
		if (serve_one(listener, client, c))
			end_client(client, &status);
		else
			while (waitpid(client, &status, 0) < 0 && errno == EINTR)
				;
		return status_of(status);
	}
	gdb = fork_with_me();
	if (gdb == 0)
		_exit(become_gdb(client, c, NULL, 0));
	signal(SIGINT, SIG_IGN); /* gdb's */
	while (gdb > 0 && waitpid(gdb, &status, 0) < 0 && errno == EINTR)
		;
	k = status_of(status);
	end_client(client, &status);
	return k;
}

static int cmd_gdb(int argc, char **argv)
{
	struct choice c = { .arch = -1 };
	int status, listener;
	pid_t pid;

	see_command = cli_gdb.name;
	status = cli_parse(&cli_gdb, argc, argv, take, &c);
	if (status >= 0)
		return status;
	if (optind == argc)
		return wrong_usage(cli_gdb.name, "which process, or client?");
	if (c.stdio && c.listen)
		return wrong_usage(cli_gdb.name, "--stdio or --listen, not both");
	signal(SIGPIPE, SIG_IGN);
	if (!is_number(argv[optind])) {
		if (c.stdio || c.vm_text)
			return wrong_usage(cli_gdb.name, "%s goes with a process's number", c.stdio ? "--stdio" : "--vm");
		return debug_client(&c, argv + optind, argc - optind);
	}
	if ((c.stdio || c.listen) && argc - optind > 1)
		return wrong_usage(cli_gdb.name, "gdb's words do not go with %s", c.stdio ? "--stdio" : "--listen");
	if (!see_pid(argv[optind], &pid))
		return 1;
	if (c.stdio) {
		signal(SIGINT, SIG_IGN); /* the terminal's is gdb's: it sends the interrupt by its protocol */
		return serve(STDIN_FILENO, STDOUT_FILENO, pid, &c);
	}
	if (!see_choose_vm(pid, &c.vm))
		return 1;
	if (!c.listen)
		return become_gdb(pid, &c, argv + optind + 1, argc - optind - 1);
	listener = listen_at(c.listen);
	return listener < 0 ? (listener == -2 ? 2 : 1) : serve_one(listener, pid, &c);
}
