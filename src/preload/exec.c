/*
 * The client executes another program. A dynamic one finds this library in
 * LD_PRELOAD, if the client has left it there; one that has to be trapped is started by its
 * host (src/trap), under the same condition: then the host is executed, and
 * told the program's name in the environment.
 *
 * Invariants
 * 1. All other programs are libc's affair, with what the client gave.
 * 2. Nothing is allocated and nothing of the library's changed: the caller may
 *    be a child of vfork, or of fork in a program with threads.
 */
#undef _FILE_OFFSET_BITS
#undef _FORTIFY_SOURCE
#include <alloca.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "abi/abi.h"
#include "lib/program.h"
#include "preload/real.h"

extern char **environ;

static char host[PATH_MAX]; /* (c) of programs that are trapped; "" where there is none */

/* At start, when nobody holds the dynamic loader's lock. */
__attribute__((constructor)) static void find_host(void)
{
	static const char *const places[] = {
		"/../trap/userkvm-static", /* build tree: src/preload */
		"/userkvm/userkvm-static",
	};
	char path[PATH_MAX];
	const char *slash;
	Dl_info info;

	if (!dladdr(host, &info) || !info.dli_fname)
		return;
	slash = strrchr(info.dli_fname, '/');
	for (size_t i = 0; slash && i < sizeof(places) / sizeof(places[0]); i++) {
		if (snprintf(path, sizeof(path), "%.*s%s", (int)(slash - info.dli_fname), info.dli_fname,
			     places[i]) >= (int)sizeof(path))
			return;
		if (realpath(path, host) && access(host, X_OK) == 0)
			return;
	}
	host[0] = 0;
}

static size_t count(char *const list[])
{
	size_t n = 0;

	while (list && list[n])
		n++;
	return n;
}

static bool needs_host(const char *path, char *const envp[])
{
	bool asks = false;

	if (!host[0] || !path)
		return false;
	for (size_t i = 0; envp && envp[i]; i++) {
		/* valgrind's launcher executes its tool: a static program that loads a dynamic one, and preloads for it. */
		if (strncmp(envp[i], "VALGRIND_LAUNCHER=", 18) == 0)
			return false;
		asks |= program_env_asks(envp[i]);
	}
	return asks && access(path, X_OK) == 0 && program_is_trapped(path, false) && !program_changes_rights(path);
}

/* One line on standard error, of what will not find /dev/kvm though its parent does. */
static void tell_unserved(const char *path, char *const envp[])
{
	bool asks = false;
	char line[PATH_MAX + 160];
	int saved = errno, n;

	for (size_t i = 0; envp && envp[i]; i++)
		asks |= program_env_asks(envp[i]);
	if (!asks || !path || access(path, X_OK) != 0)
		return;
	n = program_changes_rights(path) ?
		    snprintf(line, sizeof(line), "userkvm: %s runs with other rights (set-user-ID or the like): "
			     "its /dev/kvm is the machine's\n", path) : 0;
	if (n > 0)
		(void)!REAL(write)(STDERR_FILENO, line, (size_t)n);
	errno = saved;
}

/* What the host is told: room for it, and for envp with it in front. */
#define ENTRY_SIZE (PATH_MAX + sizeof(PROGRAM_ENV) + 1)

static bool host_environment(const char *path, char *const envp[], char *entry, char **env)
{
	if (snprintf(entry, ENTRY_SIZE, PROGRAM_ENV "=%s", path) >= (int)ENTRY_SIZE)
		return false;
	env[0] = entry;
	memcpy(env + 1, envp, (count(envp) + 1) * sizeof(*env));
	return true;
}

/* --- exec --- */

/* Returns only where it is not for the host, or the host cannot be executed: then libc does it. */
static void exec_by_host(const char *path, char *const argv[], char *const envp[])
{
	char entry[ENTRY_SIZE], **env;

	if (abi_segv_is_held()) /* a program inherits the mask */
		preload_segv_block();
	if (!needs_host(path, envp)) {
		tell_unserved(path, envp);
		return;
	}
	env = alloca((count(envp) + 2) * sizeof(*env));
	if (host_environment(path, envp, entry, env))
		REAL(execve)(host, argv, env);
}

EXPORT int execve(const char *path, char *const argv[], char *const envp[])
{
	exec_by_host(path, argv, envp);
	return REAL(execve)(path, argv, envp);
}

EXPORT int execv(const char *path, char *const argv[])
{
	return execve(path, argv, environ);
}

EXPORT int execvpe(const char *file, char *const argv[], char *const envp[])
{
	char buf[PATH_MAX];

	exec_by_host(program_find(file, buf, sizeof(buf)), argv, envp);
	return REAL(execvpe)(file, argv, envp);
}

EXPORT int execvp(const char *file, char *const argv[])
{
	return execvpe(file, argv, environ);
}

/* The file of a descriptor, or below it, by the name it has now; NULL for one without a name. */
static const char *path_at(int dirfd, const char *below, char *buf)
{
	char name[PATH_MAX];

	if (snprintf(name, sizeof(name), "/proc/self/fd/%d%s%s", dirfd, *below ? "/" : "", below) >=
	    (int)sizeof(name))
		return NULL;
	return realpath(name, buf);
}

EXPORT int fexecve(int fd, char *const argv[], char *const envp[])
{
	char buf[PATH_MAX];

	exec_by_host(path_at(fd, "", buf), argv, envp);
	return REAL(fexecve)(fd, argv, envp);
}

/* What execveat() would execute; NULL: an error, or nothing that has a name. AT_SYMLINK_NOFOLLOW is libc's. */
static const char *execveat_path(int dirfd, const char *path, int flags, char *buf)
{
	if (preload_is_empty(path))
		return flags == AT_EMPTY_PATH ? path_at(dirfd, "", buf) : NULL;
	if (flags)
		return NULL;
	return *path == '/' || dirfd == AT_FDCWD ? path : path_at(dirfd, path, buf);
}

EXPORT int execveat(int dirfd, const char *path, char *const argv[], char *const envp[], int flags)
{
	char buf[PATH_MAX];

	exec_by_host(execveat_path(dirfd, path, flags, buf), argv, envp);
	return REAL(execveat)(dirfd, path, argv, envp, flags);
}

/* --- exec with its arguments in a row --- */

static size_t count_row(va_list ap)
{
	size_t n = 1;

	while (va_arg(ap, char *))
		n++;
	return n;
}

/* arg and the row behind it, with its NULL: argv. */
static void collect_row(char **argv, const char *arg, va_list ap)
{
	argv[0] = (char *)(uintptr_t)arg;
	for (size_t i = 0; argv[i];)
		argv[++i] = va_arg(ap, char *);
}

#define DEFINE_EXECL(name, with_environment, how)                              \
	EXPORT int name(const char *path, const char *arg, ...)               \
	{                                                                      \
		char **argv, **envp = environ;                                 \
		va_list ap;                                                    \
                                                                               \
		va_start(ap, arg);                                             \
		argv = alloca(((arg ? count_row(ap) : 0) + 1) * sizeof(*argv)); \
		va_end(ap);                                                    \
		va_start(ap, arg);                                             \
		collect_row(argv, arg, ap);                                    \
		if (with_environment)                                          \
			envp = va_arg(ap, char **);                            \
		va_end(ap);                                                    \
		return how(path, argv, envp);                                  \
	}
DEFINE_EXECL(execl, false, execve)
DEFINE_EXECL(execle, true, execve)
DEFINE_EXECL(execlp, false, execvpe)

/* --- posix_spawn: a relative path is looked up after the file actions, by the host as well --- */

typedef __typeof__(posix_spawn) spawn_fn;

static int spawn(spawn_fn *real, pid_t *pid, const char *name, const char *path,
		 const posix_spawn_file_actions_t *actions, const posix_spawnattr_t *attr,
		 char *const argv[], char *const envp[])
{
	char entry[ENTRY_SIZE], **env;
	bool held = preload_inherit_begin();
	int r;

	if (!needs_host(path, envp)) {
		tell_unserved(path, envp);
	} else {
		env = alloca((count(envp) + 2) * sizeof(*env));
		if (host_environment(path, envp, entry, env)) {
			real = REAL(posix_spawn);
			name = host;
			envp = env;
		}
	}
	r = real(pid, name, actions, attr, argv, envp);
	preload_inherit_end(held);
	return r;
}

EXPORT int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
		       const posix_spawnattr_t *attr, char *const argv[], char *const envp[])
{
	return spawn(REAL(posix_spawn), pid, path, path, actions, attr, argv, envp);
}

EXPORT int posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *actions,
			const posix_spawnattr_t *attr, char *const argv[], char *const envp[])
{
	char buf[PATH_MAX];

	return spawn(REAL(posix_spawnp), pid, file, program_find(file, buf, sizeof(buf)), actions, attr, argv, envp);
}
