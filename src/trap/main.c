/*
 * The host of a program whose system calls trap (trap.h): the program to run is named by the
 * environment, its arguments are the host's own, so that /proc shows them.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/program.h"
#include "trap/load.h"
#include "trap/trap.h"
#include "userkvm/userkvm.h"

#define CANNOT_RUN 126
#define USER_CS 0x33ULL
#define USER_SS 0x2bULL
#define FLAGS_IF 0x202
#define UC_SS_IS_GOOD 6 /* UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS */

static struct trap_thread main_thread = { .by_kernel = true, .in_service = 1 };

static _Noreturn void refuse(const char *what, int error)
{
	fprintf(stderr, "userkvm run: %s: %s (%s)\n", trap.program ? trap.program : "no program", what,
		strerror(error));
	exit(CANNOT_RUN);
}

/* The environment without the line that is for us. */
static void strip_environment(char **envp)
{
	size_t n = strlen(PROGRAM_ENV);
	char **to = envp;

	for (; *envp; envp++)
		if (strncmp(*envp, PROGRAM_ENV, n) != 0 || (*envp)[n] != '=')
			*to++ = *envp;
	*to = NULL;
}

/* --- the stack the program starts with --- */

static size_t count(void *const *list)
{
	size_t n = 0;

	while (list[n])
		n++;
	return n;
}

static uint64_t auxv_value(const Elf64_auxv_t *a, const struct program *p)
{
	switch (a->a_type) {
	case AT_PHDR:
		return p->phdr;
	case AT_PHNUM:
		return p->nr_phdr;
	case AT_ENTRY:
		return p->entry;
	case AT_BASE:
		return p->loader;
	case AT_EXECFN:
		return (uint64_t)(uintptr_t)trap.program;
	default:
		return a->a_un.a_val;
	}
}

/* argc, argv, envp, auxv as the kernel lays them out: how many words, written when `to` is there. */
static size_t lay_out(uint64_t *to, int argc, char **argv, char **envp, const Elf64_auxv_t *auxv,
		      const struct program *p)
{
	size_t n = 0, nr_env = count((void *const *)envp);

#define PUT(value)                                   \
	do {                                         \
		if (to)                              \
			to[n] = (uint64_t)(value);   \
		n++;                                 \
	} while (0)
	PUT(argc);
	for (int i = 0; i <= argc; i++)
		PUT(argv[i]);
	for (size_t i = 0; i <= nr_env; i++)
		PUT(envp[i]);
	for (;; auxv++) {
		PUT(auxv->a_type);
		PUT(auxv_value(auxv, p));
		if (auxv->a_type == AT_NULL)
			return n;
	}
#undef PUT
}

/* --- start --- */

static void service_stack(void)
{
	main_thread.service_stack.ss_size = TRAP_STACK_SIZE;
	main_thread.service_stack.ss_sp = mmap(NULL, TRAP_STACK_SIZE, PROT_READ | PROT_WRITE,
					       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (main_thread.service_stack.ss_sp == MAP_FAILED || sigaltstack(&main_thread.service_stack, NULL))
		refuse("no stack to serve it on", errno);
}

/* The library takes its signals when it is opened for the first time: before ours go in front. */
static void wake_library(void)
{
	int fd = userkvm_open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		refuse("the library does not open", errno);
	userkvm_close(fd);
}

static void take_over(void)
{
	int r;

	service_stack();
	wake_library();
	__asm__("mov %%fs:0, %0" : "=r"(main_thread.our_fs));
	trap_set_self(&main_thread);
	r = trap_signals_init();
	if (r)
		refuse("signals cannot be taken", -r);
	r = trap_choose(getenv(TRAP_WAY_ENV));
	if (r)
		refuse("this kernel traps no system calls: neither user dispatch (Linux 5.11) nor seccomp", -r);
}

static _Noreturn void jump(const struct program *p, uint64_t *stack, uint64_t mask)
{
	ucontext_t uc = { .uc_flags = UC_SS_IS_GOOD, .uc_stack = main_thread.service_stack };
	greg_t *reg = uc.uc_mcontext.gregs;

	reg[REG_RIP] = (greg_t)p->first;
	reg[REG_RSP] = (greg_t)(uintptr_t)stack;
	reg[REG_EFL] = FLAGS_IF;
	reg[REG_CSGSFS] = (greg_t)(USER_CS | USER_SS << 48);
	*trap_mask(&uc) = mask;
	trap_follow_mask(&main_thread, &uc);
	trap_resume(&uc);
}

int main(int argc, char **argv, char **envp)
{
	const char *name = getenv(PROGRAM_ENV), *why;
	static char self[PATH_MAX], program[PATH_MAX];
	uint64_t all = ~0ULL, mask;
	const Elf64_auxv_t *auxv;
	struct program p;
	uint64_t *stack;
	int r;

	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &mask, 8);
	if (!name || !realpath(name, program) || !realpath("/proc/self/exe", self)) {
		fputs("userkvm-static is started by `userkvm run`\n", stderr);
		return CANNOT_RUN;
	}
	trap.program = program;
	trap.host = self;
	auxv = (const void *)(envp + count((void *const *)envp) + 1);
	strip_environment(envp);
	r = load_program(program, &p, &why);
	if (r)
		refuse(why, -r);
	trap.dynamic = p.loader;
	trap_files_init();
	load_break(&p);
	take_over();
	prctl(PR_SET_NAME, strrchr(program, '/') + 1);
	stack = __builtin_alloca_with_align(lay_out(NULL, argc, argv, envp, auxv, &p) * 8, 128);
	lay_out(stack, argc, argv, envp, auxv, &p);
	jump(&p, stack, mask & ~(1ULL << (SIGSYS - 1)));
}
