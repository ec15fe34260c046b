/*
 * For a guest of Linux: two threads read pages while the first takes them away in every way that
 * needs the other processors' translations flushed. Prints how many calls it made.
 *
 * usage: shootdown SECONDS
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGES 16
#define SIZE (PAGES * 4096UL)

static volatile char *volatile area;
static volatile int stop;
static __thread sigjmp_buf again;

static void on_fault(int signo)
{
	siglongjmp(again, 1);
}

static void *reader(void *arg)
{
	unsigned long sum = 0;

	sigsetjmp(again, 1);
	while (!stop)
		for (unsigned n = 0; n < PAGES; n++)
			sum += area[n * 4096];
	return (void *)sum;
}

static void fill(volatile char *p)
{
	for (unsigned n = 0; n < PAGES; n++)
		p[n * 4096] = (char)n;
}

static void one_of_each(void)
{
	volatile char *old = area, *new;
	int status;
	pid_t p;

	mprotect((void *)old, SIZE, PROT_READ);
	mprotect((void *)old, SIZE, PROT_READ | PROT_WRITE);
	fill(old);
	madvise((void *)old, SIZE, MADV_DONTNEED);
	fill(old);
	p = fork();
	if (p == 0)
		_exit(0);
	fill(old); /* breaks the sharing */
	waitpid(p, &status, 0);
	new = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mremap((void *)old, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, new) == MAP_FAILED)
		exit(2);
	area = new;
	mmap((void *)old, SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	munmap((void *)old, SIZE);
}

int main(int argc, char **argv)
{
	struct sigaction sa = { .sa_handler = on_fault, .sa_flags = SA_NODEFER };
	time_t end = time(NULL) + (argc > 1 ? atoi(argv[1]) : 5);
	unsigned long calls = 0;
	pthread_t t[2];

	sigaction(SIGSEGV, &sa, NULL);
	area = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	fill(area);
	for (int n = 0; n < 2; n++)
		pthread_create(&t[n], NULL, reader, NULL);
	while (time(NULL) < end) {
		one_of_each();
		calls += 8;
	}
	stop = 1;
	for (int n = 0; n < 2; n++)
		pthread_join(t[n], NULL);
	printf("shootdown: %lu calls\n", calls);
	return 0;
}
