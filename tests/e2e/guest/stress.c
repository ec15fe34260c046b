/*
 * Run inside a guest: everything that needs several processors to agree, all at
 * once for SECONDS. Each part checks itself and says "stress: NAME ok COUNT" or
 * "stress: NAME FAILED ..."; the exit status counts the failures.
 *
 * usage: stress SECONDS
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define THREADS 4

static atomic_bool stop;
static int seconds;

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu % (int)sysconf(_SC_NPROCESSORS_ONLN), &set);
	sched_setaffinity(0, sizeof(set), &set);
}

static void fail(const char *name, const char *fmt, ...)
{
	char text[200];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	printf("stress: %s FAILED %s\n", name, text);
	fflush(stdout);
	_exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static bool over(void)
{
	static uint64_t end;

	if (!end)
		end = now_ns() + (uint64_t)seconds * 1000000000;
	return now_ns() >= end;
}

static void run_threads(void *(*fn)(void *))
{
	pthread_t t[THREADS];

	for (long i = 0; i < THREADS; i++)
		if (pthread_create(&t[i], NULL, fn, (void *)i))
			fail("threads", "pthread_create");
	while (!over())
		usleep(20000);
	stop = true;
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
}

/* --- fork, copy on write, exit --- */

static long do_fork(void)
{
	size_t n = 1 << 20;
	unsigned char *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	long count = 0;

	memset(p, 0x5a, n);
	while (!over()) {
		int status, child = fork();

		if (child < 0)
			fail("fork", "fork: %s", strerror(errno));
		if (child == 0) {
			for (size_t i = 0; i < n; i += 4096)
				p[i] = (unsigned char)(i >> 12);
			for (size_t i = 0; i < n; i += 4096)
				if (p[i] != (unsigned char)(i >> 12) || p[i + 1] != 0x5a)
					_exit(1);
			_exit(42);
		}
		if (waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 42)
			fail("fork", "child status %#x", status);
		for (size_t i = 0; i < n; i += 4096)
			if (p[i] != 0x5a)
				fail("fork", "the child's write is seen at page %zu", i >> 12);
		count++;
	}
	return count;
}

/* --- exec --- */

static long do_exec(void)
{
	long count = 0;

	while (!over()) {
		int status, child = fork();

		if (child == 0) {
			execl("/proc/self/exe", "stress", "--exit", (char *)NULL);
			_exit(1);
		}
		if (waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 7)
			fail("exec", "child status %#x", status);
		count++;
	}
	return count;
}

/* --- a pipe between two processors --- */

static long do_pipe(void)
{
	int there[2], back[2], child, status;
	long count = 0, v;

	if (pipe(there) || pipe(back))
		fail("pipe", "pipe: %s", strerror(errno));
	child = fork();
	if (child == 0) {
		pin(1);
		close(there[1]);
		while (read(there[0], &v, sizeof(v)) == sizeof(v)) {
			v++;
			if (write(back[1], &v, sizeof(v)) != sizeof(v))
				_exit(1);
		}
		_exit(0);
	}
	pin(2);
	while (!over()) {
		v = count;
		if (write(there[1], &v, sizeof(v)) != sizeof(v) || read(back[0], &v, sizeof(v)) != sizeof(v) ||
		    v != count + 1)
			fail("pipe", "%ld came back for %ld", v, count);
		count++;
	}
	close(there[1]);
	waitpid(child, &status, 0);
	return count;
}

/* --- mmap and munmap by several threads of one address space --- */

static atomic_long mmaps;

static void *mmap_thread(void *arg)
{
	uint64_t me = (uint64_t)(long)arg << 32, n = 0;

	while (!stop) {
		size_t len = (1 + n % 7) * 4096;
		uint64_t *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (p == MAP_FAILED)
			fail("mmap", "mmap: %s", strerror(errno));
		for (size_t i = 0; i < len / 8; i += 512) {
			if (p[i])
				fail("mmap", "a new page has %#lx", (unsigned long)p[i]);
			p[i] = me | n;
		}
		for (size_t i = 0; i < len / 8; i += 512)
			if (p[i] != (me | n))
				fail("mmap", "%#lx instead of %#lx", (unsigned long)p[i], (unsigned long)(me | n));
		munmap(p, len);
		n++;
		mmaps++;
	}
	return NULL;
}

static long do_mmap(void)
{
	run_threads(mmap_thread);
	return mmaps;
}

/* --- mprotect: no write lands after it returned on another processor --- */

static volatile uint64_t *page;
static __thread sigjmp_buf on_fault;

static void fault(int signo)
{
	siglongjmp(on_fault, 1);
}

static void *write_thread(void *arg)
{
	while (!stop) {
		if (sigsetjmp(on_fault, 1) == 0)
			for (int i = 0; i < 1000; i++)
				page[(long)arg * 8]++;
		else
			sched_yield();
	}
	return NULL;
}

static long do_mprotect(void)
{
	struct sigaction sa = {.sa_handler = fault};
	pthread_t t[THREADS];
	long count = 0;

	sigaction(SIGSEGV, &sa, NULL);
	page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (long i = 0; i < THREADS; i++)
		pthread_create(&t[i], NULL, write_thread, (void *)i);
	while (!over()) {
		uint64_t seen[THREADS];

		mprotect((void *)page, 4096, PROT_READ);
		for (int i = 0; i < THREADS; i++)
			seen[i] = page[i * 8];
		for (int again = 0; again < 300; again++)
			for (int i = 0; i < THREADS; i++)
				if (page[i * 8] != seen[i])
					fail("mprotect", "a write after mprotect(PROT_READ)");
		mprotect((void *)page, 4096, PROT_READ | PROT_WRITE);
		usleep(200);
		count++;
	}
	stop = true;
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	return count;
}

/* --- locked instructions --- */

static struct {
	atomic_long adds __attribute__((aligned(64)));
	unsigned __int128 pair __attribute__((aligned(64)));
	char split[8192] __attribute__((aligned(4096)));
} shared;
static atomic_long expected;

static bool cas16(unsigned __int128 *p, unsigned __int128 *old, unsigned __int128 v)
{
	bool ok;
	uint64_t lo = (uint64_t)*old, hi = (uint64_t)(*old >> 64);

	__asm__ volatile("lock; cmpxchg16b %1"
			 : "=@ccz"(ok), "+m"(*p), "+a"(lo), "+d"(hi)
			 : "b"((uint64_t)v), "c"((uint64_t)(v >> 64)) : "memory");
	*old = (unsigned __int128)hi << 64 | lo;
	return ok;
}

static void *atomic_thread(void *arg)
{
	long n = 0;

	pin((int)(long)arg);
	for (; !stop; n++) {
		unsigned __int128 old = shared.pair;

		atomic_fetch_add(&shared.adds, 1);
		while (!cas16(&shared.pair, &old, old + (((unsigned __int128)1 << 64) | 1)))
			;
		/* across two pages: the kernel may be told to refuse that, this one is not */
		__asm__ volatile("lock; incq %0" : "+m"(*(uint64_t *)(shared.split + 4092)) : : "memory");
	}
	expected += n;
	return NULL;
}

static long do_atomic(void)
{
	run_threads(atomic_thread);
	if (shared.adds != expected)
		fail("atomic", "lock add: %ld of %ld", shared.adds, expected);
	if ((long)shared.pair != expected || (long)(shared.pair >> 64) != expected)
		fail("atomic", "cmpxchg16b: %ld of %ld", (long)shared.pair, expected);
	if (*(long *)(shared.split + 4092) != expected)
		fail("atomic", "across pages: %ld of %ld", *(long *)(shared.split + 4092), expected);
	return expected;
}

/* --- time never goes back, whichever processor one asks --- */

static _Atomic uint64_t latest;
static atomic_long looks;

static void *clock_thread(void *arg)
{
	pin((int)(long)arg);
	while (!stop) {
		uint64_t before = latest, t = now_ns();

		if (t < before)
			fail("clock", "%lu ns back", (unsigned long)(before - t));
		while (before < t && !atomic_compare_exchange_weak(&latest, &before, t))
			;
		looks++;
	}
	return NULL;
}

static long do_clock(void)
{
	run_threads(clock_thread);
	return looks;
}

/* --- code that another processor writes --- */

static unsigned char *code;
static _Atomic uint32_t version;
static atomic_int readers_done;

static void *code_thread(void *arg)
{
	uint32_t last = 0, v;

	pin((int)(long)arg + 1);
	while (!stop) {
		uint32_t a = 0, b, c = 0, d;

		v = version;
		if (v == last)
			continue;
		__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d) : : "memory");
		a = ((uint32_t(*)(void))code)();
		if (a != v)
			fail("code", "version %u ran as %u", v, a);
		last = v;
		readers_done++;
	}
	return NULL;
}

static long do_code(void)
{
	pthread_t t[THREADS - 1];
	uint32_t v = 0;

	/* mov eax, imm32; ret */
	code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memcpy(code, "\xb8\0\0\0\0\xc3", 6);
	for (long i = 0; i < THREADS - 1; i++)
		pthread_create(&t[i], NULL, code_thread, (void *)i);
	pin(0);
	while (!over()) {
		v++;
		memcpy(code + 1, &v, 4);
		version = v;
		while (readers_done < THREADS - 1 && !over())
			if (v % 64 == 0)
				usleep(10);
		if (readers_done < THREADS - 1)
			break;
		readers_done = 0;
	}
	stop = true;
	for (int i = 0; i < THREADS - 1; i++)
		pthread_join(t[i], NULL);
	return v;
}

/* --- sleeping and waking --- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static long turn;

static void *turn_thread(void *arg)
{
	pthread_mutex_lock(&lock);
	while (!stop) {
		if (turn % THREADS == (long)arg) {
			turn++;
			pthread_cond_broadcast(&cond);
		} else {
			pthread_cond_wait(&cond, &lock);
		}
	}
	pthread_cond_broadcast(&cond);
	pthread_mutex_unlock(&lock);
	return NULL;
}

static long do_turns(void)
{
	run_threads(turn_thread);
	return turn;
}

static const struct part {
	const char *name;
	long (*run)(void);
} parts[] = {
	{"fork", do_fork}, {"exec", do_exec}, {"pipe", do_pipe}, {"mmap", do_mmap}, {"mprotect", do_mprotect},
	{"atomic", do_atomic}, {"clock", do_clock}, {"code", do_code}, {"turns", do_turns},
};
#define NR_PARTS (sizeof(parts) / sizeof(parts[0]))

int main(int argc, char **argv)
{
	int failures = 0, status;

	if (argc > 1 && !strcmp(argv[1], "--exit"))
		return 7;
	seconds = argc > 1 ? atoi(argv[1]) : 5;
	for (size_t i = 0; i < NR_PARTS; i++) {
		if (argc > 2 && strcmp(argv[2], parts[i].name))
			continue;
		if (fork() == 0) {
			long n = parts[i].run();

			if (n == 0)
				fail(parts[i].name, "nothing happened");
			printf("stress: %s ok %ld\n", parts[i].name, n);
			fflush(stdout);
			_exit(0);
		}
	}
	while (wait(&status) > 0)
		failures += status != 0;
	printf("stress: %d failures\n", failures);
	return failures;
}
