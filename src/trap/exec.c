/*
 * The client executes another program. A dynamic one finds the library in
 * LD_PRELOAD, if the client has left it there; one that has to be trapped is started by the
 * host, which has to be put in front of it, under the same condition.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "abi/abi.h"
#include "lib/program.h"
#include "trap/trap.h"

#define MAX_ENVIRONMENT (TRAP_STACK_SIZE / 2 / sizeof(char *))

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

	return copy_string(s, client_string, sizeof(s)) && program_env_asks(s);
}

/* The client's envp: how many entries; does it ask for the library? */
static size_t look_through(const uint64_t *client_envp, bool *asks)
{
	uint64_t p;
	size_t n = 0;

	for (*asks = false; client_envp && n < MAX_ENVIRONMENT; n++) {
		if (abi_client_read(&p, client_envp + n, sizeof(p)) || !p)
			break;
		*asks |= names_library(p);
	}
	return n;
}

int64_t trap_execve(struct trap_call *c)
{
	char path[PATH_MAX], entry[PATH_MAX + sizeof(PROGRAM_ENV) + 1];
	const uint64_t *client_envp = (const uint64_t *)c->arg[2];
	uint64_t blocked = ~0ULL;
	char **env;
	bool asks;
	size_t n;
	int64_t r;

	trap_block_segv(c->thread, c->uc); /* it is inherited */
	if (!copy_string(path, c->arg[0], sizeof(path)))
		return TRAP_PASS;
	if (strcmp(path, "/proc/self/exe") == 0)
		strcpy(path, trap.program);
	if (access(path, X_OK) || !program_is_trapped(path, trap.all) || program_changes_rights(path))
		return TRAP_PASS;
	n = look_through(client_envp, &asks);
	if (!asks)
		return TRAP_PASS;
	snprintf(entry, sizeof(entry), PROGRAM_ENV "=%s", path);
	/* On this stack: a child of vfork could give nothing back to its parent. */
	env = __builtin_alloca((n + 2) * sizeof(*env));
	if (abi_client_read(env, client_envp, n * sizeof(*env)))
		return -EFAULT;
	env[n] = entry;
	env[n + 1] = NULL;
	/* A program starts with the mask of the one before. */
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, trap_mask(c->uc), &blocked, 8);
	r = trap_result(syscall(SYS_execve, trap.host, c->arg[1], env));
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &blocked, NULL, 8);
	return r;
}
