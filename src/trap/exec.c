/*
 * The client executes another program. A dynamic one finds the library in
 * LD_PRELOAD, if the client has left it there; a static one is started by the
 * host, which has to be put in front of it, under the same condition.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "abi/abi.h"
#include "trap/kind.h"
#include "trap/trap.h"

#define LIBRARY "libuserkvm-preload.so"
#define MAX_ENVIRONMENT (1u << 17) /* entries */

/* A copy of the client's string: false when there is none that ends within size. */
static bool copy_string(char *to, uint64_t client_p, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		if (abi_client_read(&to[i], (const void *)(client_p + i), 1))
			return false;
		if (!to[i])
			return true;
	}
	return false;
}

static bool names_library(uint64_t client_string)
{
	char s[PATH_MAX];

	return copy_string(s, client_string, sizeof(s)) && strncmp(s, "LD_PRELOAD=", 11) == 0 &&
	       strstr(s, LIBRARY);
}

/* The client's envp with one more entry; NULL: no memory, or it does not ask for the library. */
static char **environment_with(uint64_t client_envp, char *entry)
{
	const uint64_t *from = (const uint64_t *)client_envp;
	uint64_t *to = NULL, p;
	bool asks = false;
	size_t n = 0;

	for (; from && n < MAX_ENVIRONMENT; n++) {
		if (n % 512 == 0) {
			uint64_t *more = realloc(to, (n + 512 + 2) * sizeof(*to));

			if (!more)
				break;
			to = more;
		}
		if (abi_client_read(&p, from + n, sizeof(p)) || !p)
			break;
		to[n] = p;
		asks |= names_library(p);
	}
	if (!asks) {
		free(to);
		return NULL;
	}
	to[n] = (uint64_t)(uintptr_t)entry;
	to[n + 1] = 0;
	return (char **)to;
}

int64_t trap_execve(struct trap_call *c)
{
	char path[PATH_MAX], entry[PATH_MAX + sizeof(TRAP_PROGRAM_ENV) + 1];
	uint64_t blocked = ~0ULL;
	char **env;
	int64_t r;

	if (!copy_string(path, c->arg[0], sizeof(path)))
		return TRAP_PASS;
	if (strcmp(path, "/proc/self/exe") == 0)
		strcpy(path, trap.program);
	if (access(path, X_OK) || program_kind_of(path) != PROGRAM_STATIC)
		return TRAP_PASS;
	snprintf(entry, sizeof(entry), TRAP_PROGRAM_ENV "=%s", path);
	env = environment_with(c->arg[2], entry);
	if (!env)
		return TRAP_PASS;
	/* A program starts with the mask of the one before. */
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, trap_mask(c->uc), &blocked, 8);
	r = trap_result(syscall(SYS_execve, trap.host, c->arg[1], env));
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &blocked, NULL, 8);
	free(env);
	return r;
}
