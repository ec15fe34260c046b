/* Memory with a protection key of its own: faults by the key, allowed again, as many rounds as asked for; a child's PKRU is its own. */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static sigjmp_buf back;
static volatile int code, key_of_fault;

static void on_segv(int signo, siginfo_t *i, void *context)
{
	(void)signo, (void)context;
	code = i->si_code;
	key_of_fault = (int)i->si_pkey;
	siglongjmp(back, 1);
}

static int refused(volatile int *p, int write)
{
	code = key_of_fault = -1;
	if (sigsetjmp(back, 1))
		return code == SEGV_PKUERR;
	if (write)
		*p = 7;
	else
		(void)*p;
	return 0;
}

int main(int argc, char **argv)
{
	unsigned long rounds = argc > 1 ? strtoul(argv[1], NULL, 0) : 1, right = 0;
	volatile int *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct sigaction sa = { .sa_sigaction = on_segv, .sa_flags = SA_SIGINFO };
	int key = pkey_alloc(0, 0), status;

	sigaction(SIGSEGV, &sa, NULL);
	if (key < 0 || pkey_mprotect((void *)p, 4096, PROT_READ | PROT_WRITE, key)) {
		perror("pkeys");
		return 1;
	}
	for (unsigned long n = 0; n < rounds; n++) {
		pkey_set(key, 0);
		*p = (int)n;
		pkey_set(key, PKEY_DISABLE_WRITE);
		right += *p == (int)n && refused(p, 1) && key_of_fault == key;
		pkey_set(key, PKEY_DISABLE_ACCESS);
		right += refused(p, 0) && key_of_fault == key;
	}
	if (!fork()) {
		pkey_set(key, 0);
		_exit(!refused(p, 1) ? 0 : 1);
	}
	wait(&status);
	right += !status && refused(p, 0);
	printf("pkeys: key %d, %lu of %lu right\n", key, right, 2 * rounds + 1);
	sleep(argc > 2 ? (unsigned)atoi(argv[2]) : 0);
	right = (unsigned long)refused(p, 0) + (unsigned long)pkey_get(key);
	printf("pkeys: later %lu\n", right); /* refused, and PKEY_DISABLE_ACCESS is 1 */
	return 0;
}
