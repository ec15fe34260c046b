/*
 * usage: executes CALL PROGRAM [ARG]: executes PROGRAM by that call of libc's,
 * and exits as it does; 100 when the call fails. With WITHOUT in the
 * environment the program's has no LD_PRELOAD.
 */
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static int wait_for(pid_t pid)
{
	int status;

	if (waitpid(pid, &status, 0) != pid)
		return 101;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 102;
}

static int execute(const char *call, char **argv, char **envp)
{
	const char *program = argv[0];
	pid_t pid;

	if (!strcmp(call, "execve"))
		return execve(program, argv, envp);
	if (!strcmp(call, "execv"))
		return execv(program, argv);
	if (!strcmp(call, "execvp"))
		return execvp(program, argv);
	if (!strcmp(call, "execvpe"))
		return execvpe(program, argv, envp);
	if (!strcmp(call, "execl"))
		return execl(program, program, argv[1], NULL);
	if (!strcmp(call, "execle"))
		return execle(program, program, argv[1], NULL, envp);
	if (!strcmp(call, "execlp"))
		return execlp(program, program, argv[1], NULL);
	if (!strcmp(call, "fexecve"))
		return fexecve(open(program, O_RDONLY | O_CLOEXEC), argv, envp);
	if (!strcmp(call, "execveat"))
		return execveat(open("/", O_PATH | O_CLOEXEC), program + 1, argv, envp, 0);
	if (!strcmp(call, "execveat-empty"))
		return execveat(open(program, O_PATH | O_CLOEXEC), "", argv, envp, AT_EMPTY_PATH);
	if (!strcmp(call, "vfork")) {
		pid = vfork();
		if (pid == 0) {
			execve(program, argv, envp);
			_exit(errno == ENOENT ? 103 : 104);
		}
		errno = ENOENT;
		pid = wait_for(pid);
		return pid == 103 ? -1 : (exit(pid), 0);
	}
	errno = !strcmp(call, "posix_spawn") ? posix_spawn(&pid, program, NULL, NULL, argv, envp)
					      : posix_spawnp(&pid, program, NULL, NULL, argv, envp);
	if (!errno)
		exit(wait_for(pid));
	return -1;
}

int main(int argc, char **argv)
{
	if (argc < 3)
		return 101;
	if (getenv("WITHOUT"))
		unsetenv("LD_PRELOAD");
	execute(argv[1], argv + 2, environ);
	perror(argv[2]);
	return 100;
}
