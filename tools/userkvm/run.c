/*
 * userkvm run: start a client with the preload library in it, or, where it is
 * statically linked or makes system calls itself, in the host that traps them. The process
 * becomes the client, so that exit status, signals and the terminal are its own; only with a
 * sanitizer's options it waits for the client, to count the reports.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <unistd.h>

#include "abi/abi.h"
#include "lib/params.h"
#include "lib/program.h"
#include "tools/userkvm/check.h"
#include "tools/userkvm/commands.h"
#include "trap/trap.h"

enum { ENGINE, PARAMS_LIST, LOG, INJECT, PREFER, REQUIRE, STRACE, OUTPUT, TIMES, NO_HOST_VMX, TRAP, CONFINE, CHECK };
static const struct cli_option options[] = {
	[ENGINE] = { "engine", 0, "NAME", "execution engine (USERKVM_ENGINE)" },
	[PARAMS_LIST] = { "params", 0, "LIST", "KVM's module parameters, e.g. ept=1,eptad=0 (USERKVM_PARAMS);\n"
			  "`userkvm doctor --params` lists them" },
	[LOG] = { "log", 0, "CLASSES", "errors,info,debug to standard error (USERKVM_LOG)" },
	[INJECT] = { "inject", 0, "RULE", "NAME=ERRNO, @N the N-th call, @N+ from it on, %N each N-th: e.g.\n"
		     "KVM_CREATE_VCPU=ENOMEM@2, KVM_RUN=EINTR%10; may be given several times (USERKVM_INJECT)" },
	[PREFER] = { "prefer-kvm", 0, NULL, "use the machine's KVM where it runs guests at a processor's speed, and say which" },
	[REQUIRE] = { "require-kvm", 0, NULL, "the same, but fail where it does not" },
	[STRACE] = { "strace", 0, NULL, "a line for each KVM ioctl, as strace would print it, to standard error" },
	[OUTPUT] = { NULL, 'o', "FILE", "... to FILE (USERKVM_STRACE)" },
	[TIMES] = { NULL, 'T', NULL, "... with the time spent in it (USERKVM_STRACE_TIMES)" },
	[NO_HOST_VMX] = { "no-host-vmx", 0, NULL, "leave /proc/cpuinfo, /sys/module/kvm* and CPUID as the machine has them\n"
			  "(USERKVM_HOST_VMX=0); else they say what /dev/kvm serves" },
	[TRAP] = { "trap", 0, NULL, "serve system calls where they are made, for programs that make them past the C library;\n"
		   "slower; what needs it is mostly found without (USERKVM_TRAP=all)" },
	[CONFINE] = { "confine", 0, NULL, "threads that run vCPUs lose files, sockets, programs and executable memory\n"
		      "(USERKVM_CONFINE=1)" },
	CHECK_OPTIONS(CHECK, "check"),
	{ 0 },
};

const struct cli cli_run = {
	.name = "userkvm run",
	.what = "run a KVM client (QEMU, kvmtool, ...) on userkvm",
	.synopsis = "userkvm run [OPTIONS] [--] PROGRAM [ARGS...]",
	.about = "Runs PROGRAM with /dev/kvm served by userkvm inside its own process.",
	.options = options,
	.program = true,
	.run = cmd_run,
};

/* This program's file. Where /proc is not mounted (a bare chroot) it is found by the name it was executed by. */
static bool own_path(char self[static PATH_MAX])
{
	ssize_t n = readlink("/proc/self/exe", self, PATH_MAX - 1);
	const char *name = (const char *)(uintptr_t)getauxval(AT_EXECFN);

	if (n <= 0)
		return name && realpath(name, self);
	self[n] = '\0';
	return true;
}

/* A file of ours, in one of its places beside this program. */
static int find_beside(const char *const *places, char *buf, size_t size)
{
	char self[PATH_MAX], path[PATH_MAX + 64];
	char *slash;

	if (!own_path(self))
		return -1;
	slash = strrchr(self, '/');
	*slash = '\0';
	for (; *places; places++) {
		char real[PATH_MAX];

		snprintf(path, sizeof(path), "%s%s", self, *places);
		if (realpath(path, real) && strlen(real) < size) {
			strcpy(buf, real);
			return 0;
		}
	}
	return -1;
}

int preload_path(char *buf, size_t size)
{
	static const char *const places[] = {
		"/../src/preload/libuserkvm-preload.so", /* build tree: tools/userkvm */
		"/src/preload/libuserkvm-preload.so",
		"/../" USERKVM_LIBDIR "/userkvm/libuserkvm-preload.so",
		NULL,
	};

	return find_beside(places, buf, size);
}

/* The host of programs whose system calls trap (src/trap/trap.h). */
static int host_path(char *buf, size_t size)
{
	static const char *const places[] = {
		"/../src/trap/userkvm-static",
		"/../" USERKVM_LIBDIR "/userkvm/userkvm-static",
		NULL,
	};

	return find_beside(places, buf, size);
}

static int refuse(const char *program, const char *why)
{
	fprintf(stderr, "userkvm run: %s: %s\n", program, why);
	return CANNOT_RUN;
}

/* Execute it by the host: argv as the program shall see it. */
static int run_trapped(const char *program, char **argv)
{
	char host[PATH_MAX];

	if (host_path(host, sizeof(host)) < 0)
		return refuse(program, "its system calls have to be trapped, and userkvm-static is not beside this program: build or install it");
	setenv(PROGRAM_ENV, program, 1);
	execv(host, argv);
	return refuse(host, strerror(errno));
}

/* A script whose interpreter is trapped: as execve() would call that. */
static int run_script(const char *script, const char *interp, char *arg, char **argv)
{
	size_t n = 0, k = 0;
	char **v;

	while (argv[n])
		n++;
	v = calloc(n + 3, sizeof(*v));
	if (!v)
		return refuse(script, strerror(ENOMEM));
	v[k++] = (char *)(uintptr_t)interp;
	if (*arg)
		v[k++] = arg;
	v[k++] = (char *)(uintptr_t)script;
	for (size_t i = 1; i < n; i++)
		v[k++] = argv[i];
	run_trapped(interp, v);
	free(v);
	return CANNOT_RUN;
}

static int run_program(const char *program, char **argv)
{
	char interp[PATH_MAX], arg[PATH_MAX];
	const char *judged = program;

	if (program_is_script(program, interp, arg, sizeof(interp)))
		judged = interp;
	if (program_changes_rights(judged))
		return refuse(judged, "runs with other rights than yours (set-user-ID or the like): it cannot be served");
	switch (program_kind_of(judged)) {
	case PROGRAM_32BIT:
		return refuse(judged, "a 32-bit program: only x86-64 ones can be served");
	case PROGRAM_FOREIGN:
		return refuse(judged, "a program for another machine: only x86-64 ones can be served");
	case PROGRAM_BROKEN:
		return refuse(judged, "its ELF headers make no sense");
	default:
		if (program_is_trapped(judged, params_has_word(TRAP_WAY_ENV, TRAP_ALL)))
			return judged == program ? run_trapped(program, argv) : run_script(program, interp, arg, argv);
		if (calls_kernel_itself(judged))
			fprintf(stderr, "userkvm run: %s: seems to make system calls itself: if it does not find /dev/kvm, or the "
				"machine's, run it with --trap\n", judged);
		execv(program, argv);
		return refuse(program, strerror(errno));
	}
}

/* ASan's runtime insists on being first where the program is linked to it; behind the library it works as well. */
static void let_asan_be_second(void)
{
	static const char option[] = "verify_asan_link_order=0";
	const char *before = getenv("ASAN_OPTIONS");
	char *both;

	if (!before || !*before)
		setenv("ASAN_OPTIONS", option, 1);
	else if (!strstr(before, "verify_asan_link_order") && asprintf(&both, "%s:%s", before, option) > 0)
		setenv("ASAN_OPTIONS", both, 1);
}

static void preload(const char *lib)
{
	const char *before = getenv("LD_PRELOAD");
	char *both;

	/* Behind what is there: a sanitizer's runtime has to stay first. */
	if (before && *before && asprintf(&both, "%s:%s", before, lib) > 0)
		setenv("LD_PRELOAD", both, 1);
	else
		setenv("LD_PRELOAD", lib, 1);
}

/* The library appends to it, so that several processes can share the file: empty it now. */
static bool prepare_strace(const char *file)
{
	char real[PATH_MAX];
	int fd;

	if (!file) {
		setenv("USERKVM_STRACE", "-", 1);
		return true;
	}
	fd = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0 || !realpath(file, real)) {
		fprintf(stderr, "userkvm run: %s: %s\n", file, strerror(errno));
		return false;
	}
	close(fd);
	setenv("USERKVM_STRACE", real, 1); /* the program may change its directory */
	return true;
}

struct choice {
	const char *strace_file;
	bool strace, times, prefer, require;
	struct check_choice check;
};

/* Behind the words that are there. */
static int add_word(const char *variable, const char *word)
{
	const char *before = getenv(variable);
	char *all;

	if (asprintf(&all, "%s%s%s", before ? before : "", before && *before ? "," : "", word) < 0)
		return refuse(variable, strerror(ENOMEM));
	setenv(variable, all, 1);
	free(all);
	return 0;
}

static int take(void *arg, int option, const char *value)
{
	static const char *const variable[] = {
		[ENGINE] = "USERKVM_ENGINE", [PARAMS_LIST] = "USERKVM_PARAMS", [LOG] = "USERKVM_LOG",
	};
	struct choice *c = arg;

	if (option >= CHECK)
		return check_take(&c->check, "userkvm run", option - CHECK, value);
	switch (option) {
	case INJECT: return add_word("USERKVM_INJECT", value);
	case CONFINE: setenv("USERKVM_CONFINE", "1", 1); break;
	case TRAP: return add_word(TRAP_WAY_ENV, TRAP_ALL);
	case STRACE: c->strace = true; break;
	case OUTPUT: c->strace_file = value; break;
	case TIMES: c->times = true; break;
	case PREFER: c->prefer = true; break;
	case REQUIRE: c->require = true; break;
	case NO_HOST_VMX: setenv("USERKVM_HOST_VMX", "0", 1); break;
	default: setenv(variable[option], value, 1);
	}
	return 0;
}

static bool is_on(const char *variable)
{
	const char *value = getenv(variable);

	return value && strcmp(value, "1") == 0;
}

int cmd_run(int argc, char **argv)
{
	char lib[PATH_MAX], buf[PATH_MAX];
	struct choice c = { 0 };
	const char *program;
	int status = cli_parse(&cli_run, argc, argv, take, &c), i = optind;

	if (status >= 0)
		return status;
	if (i >= argc)
		return wrong_usage("userkvm run", "which program?");
	if ((c.strace_file || c.times) && !c.strace)
		return wrong_usage("userkvm run", "%s goes with --strace", c.strace_file ? "-o" : "-T");
	if (cli_check_environment("userkvm run"))
		return 2;
	if (abi_inject_fault(getenv("USERKVM_INJECT"), buf, sizeof(buf)))
		return wrong_usage("userkvm run", "USERKVM_INJECT: %s", buf);
	status = check_asked(&c.check) ? check_begin("userkvm run", &c.check) : -1;
	if (status >= 0)
		return status;
	if (c.times)
		setenv("USERKVM_STRACE_TIMES", "1", 1);
	if (c.strace && !prepare_strace(c.strace_file))
		return CANNOT_RUN;
	program = program_find(argv[i], buf, sizeof(buf));
	if (!program || access(program, X_OK) != 0) {
		int e = errno;

		refuse(argv[i], strerror(e));
		return e == ENOENT || e == ENOTDIR ? NOT_FOUND : CANNOT_RUN;
	}
	if (c.prefer || c.require) {
		const char *why = machine_kvm_fault();

		if (!why) {
			fputs("userkvm run: on the machine's own KVM\n", stderr);
			execv(program, &argv[i]);
			return refuse(program, strerror(errno));
		}
		fprintf(stderr, "userkvm run: the machine's own KVM does not serve (%s)%s\n", why,
			c.require ? "" : ": on userkvm");
		if (c.require)
			return CANNOT_RUN;
	}
	if (is_on("USERKVM_CONFINE") && abi_confine_fault())
		return refuse("--confine", abi_confine_fault());
	if (preload_path(lib, sizeof(lib)) < 0) {
		fputs("userkvm run: libuserkvm-preload.so is not beside this program: build or install it\n", stderr);
		return CANNOT_RUN;
	}
	if (strpbrk(lib, " :")) {
		fprintf(stderr, "userkvm run: %s: LD_PRELOAD cannot name a file with a space or a colon in its path: put userkvm elsewhere\n", lib);
		return CANNOT_RUN;
	}
	preload(lib);
	let_asan_be_second();
	return run_program(program, &argv[i]);
}
