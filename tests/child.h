/*
 * A function in a child of the test, so that what cannot be undone, or is read once a process, ends with it.
 */
#ifndef TESTS_CHILD_H
#define TESTS_CHILD_H

#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

/* f()'s value, 0 to 255. In the child the variable `name` is `value`, or absent (value NULL); name NULL: all as it is. */
static inline int child_with(const char *name, const char *value, int (*f)(void))
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		if (name && value)
			setenv(name, value, 1);
		else if (name)
			unsetenv(name);
		_exit(f());
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

#endif
