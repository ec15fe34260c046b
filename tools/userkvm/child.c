/*
 * A child that stands for the command: see child.h.
 *
 * Invariants
 * 1. The four signals are blocked from before the fork until it is known to whom they go: none ends us and leaves the child,
 *    none is lost.
 * 2. While a signal is blocked Linux keeps it even where it is ignored; making it ignored drops what waits.
 */
#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <unistd.h>

#include "lib/types.h"
#include "tools/userkvm/child.h"

static const int passed[] = { SIGTERM, SIGHUP };
static const int terminal[] = { SIGINT, SIGQUIT };

static volatile sig_atomic_t pass_to;
static struct sigaction passed_before[ARRAY_SIZE(passed)], terminal_before[ARRAY_SIZE(terminal)];

static void pass_on(int signo)
{
	int saved = errno;

	kill(pass_to, signo);
	errno = saved;
}

/* SIGINT or SIGQUIT that waits came before the child was in our group. */
static void hand_over_to(pid_t child)
{
	struct sigaction pass = { .sa_handler = pass_on }, ignore = { .sa_handler = SIG_IGN };
	sigset_t waiting;

	pass_to = child;
	for (size_t i = 0; i < ARRAY_SIZE(passed); i++)
		if (passed_before[i].sa_handler != SIG_IGN)
			sigaction(passed[i], &pass, NULL);
	sigpending(&waiting);
	for (size_t i = 0; i < ARRAY_SIZE(terminal); i++) {
		if (sigismember(&waiting, terminal[i]) == 1)
			kill(child, terminal[i]);
		sigaction(terminal[i], &ignore, NULL);
	}
}

pid_t child_fork(void)
{
	sigset_t held, before;
	pid_t child;

	fflush(NULL);
	sigemptyset(&held);
	for (size_t i = 0; i < ARRAY_SIZE(passed); i++) {
		sigaddset(&held, passed[i]);
		sigaction(passed[i], NULL, &passed_before[i]);
	}
	for (size_t i = 0; i < ARRAY_SIZE(terminal); i++) {
		sigaddset(&held, terminal[i]);
		sigaction(terminal[i], NULL, &terminal_before[i]);
	}
	sigprocmask(SIG_BLOCK, &held, &before);
	child = fork();
	if (child > 0)
		hand_over_to(child);
	sigprocmask(SIG_SETMASK, &before, NULL);
	return child;
}

void child_ended(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(passed); i++)
		sigaction(passed[i], &passed_before[i], NULL);
	for (size_t i = 0; i < ARRAY_SIZE(terminal); i++)
		sigaction(terminal[i], &terminal_before[i], NULL);
}
