/*
 * Of a build that counts lines (-Db_coverage=true) only: a process that SIGTERM ends writes its counters first, since
 * gcov writes them at exit() alone. Tests end a client that runs for ever by SIGTERM.
 *
 * Invariants
 * 1. A program's own handler of SIGTERM stays; programs that install one later lose their counters as before.
 * 2. The signal may have come while gcov holds its locks: SIGALRM ends the process then, after two seconds.
 */
#include <signal.h>
#include <stddef.h>
#include <unistd.h>

extern void __gcov_dump(void);

static void dump(int signo)
{
	signal(SIGALRM, SIG_DFL);
	alarm(2);
	__gcov_dump();
	signal(signo, SIG_DFL);
	raise(signo); /* delivered when this handler returns */
}

__attribute__((constructor)) static void dump_at_sigterm(void)
{
	struct sigaction old;

	if (!sigaction(SIGTERM, NULL, &old) && old.sa_handler == SIG_DFL)
		signal(SIGTERM, dump);
}
