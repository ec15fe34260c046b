/*
 * userkvm run: start a client with the preload library in it. The process
 * becomes the client, so that exit status, signals and the terminal are its own.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/userkvm/commands.h"

static const char usage[] =
	"usage: userkvm run [--engine NAME] [--params LIST] [--log CLASSES] [--] PROGRAM [ARGS...]\n"
	"\n"
	"Runs PROGRAM with /dev/kvm served by userkvm inside its own process.\n"
	"  --engine NAME   execution engine (USERKVM_ENGINE)\n"
	"  --params LIST   KVM's module parameters, e.g. ept=1,eptad=0 (USERKVM_PARAMS)\n"
	"  --log CLASSES   errors,info,debug to standard error (USERKVM_LOG)\n";

int preload_path(char *buf, size_t size)
{
	static const char *const places[] = {
		"/../src/preload/libuserkvm-preload.so", /* build tree: tools/userkvm */
		"/src/preload/libuserkvm-preload.so",
		"/../" USERKVM_LIBDIR "/libuserkvm-preload.so",
	};
	char self[PATH_MAX], path[PATH_MAX + 64];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;

	if (n <= 0)
		return -1;
	self[n] = '\0';
	slash = strrchr(self, '/');
	*slash = '\0';
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		char real[PATH_MAX];

		snprintf(path, sizeof(path), "%s%s", self, places[i]);
		if (realpath(path, real) && strlen(real) < size) {
			strcpy(buf, real);
			return 0;
		}
	}
	return -1;
}

/* The file that execvp() would run, or NULL. */
static const char *find_program(const char *name, char *buf, size_t size)
{
	const char *path = getenv("PATH");

	if (strchr(name, '/'))
		return access(name, X_OK) == 0 ? name : NULL;
	while (path && *path) {
		size_t n = strcspn(path, ":");

		snprintf(buf, size, "%.*s/%s", (int)n, path, name);
		if (access(buf, X_OK) == 0)
			return buf;
		path += n + (path[n] == ':');
	}
	return NULL;
}

/*
 * A statically linked ELF program has no dynamic loader that could preload us.
 * (Scripts and other formats are let through: their interpreter decides.)
 */
static bool is_static(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	Elf64_Ehdr eh;
	bool elf = fd >= 0 && read(fd, &eh, sizeof(eh)) == (ssize_t)sizeof(eh) &&
		   memcmp(eh.e_ident, ELFMAG, SELFMAG) == 0 && eh.e_ident[EI_CLASS] == ELFCLASS64;
	bool interp = false;

	for (unsigned i = 0; elf && i < eh.e_phnum; i++) {
		Elf64_Phdr ph;

		if (pread(fd, &ph, sizeof(ph), (off_t)(eh.e_phoff + i * sizeof(ph))) != (ssize_t)sizeof(ph))
			break;
		interp |= ph.p_type == PT_INTERP;
	}
	if (fd >= 0)
		close(fd);
	return elf && !interp;
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

int cmd_run(int argc, char **argv)
{
	char lib[PATH_MAX], buf[PATH_MAX];
	const char *program;
	int i = 1;

	for (; i < argc && argv[i][0] == '-'; i++) {
		static const struct {
			const char *option, *variable;
		} vars[] = {{"--engine", "USERKVM_ENGINE"}, {"--params", "USERKVM_PARAMS"}, {"--log", "USERKVM_LOG"}};
		size_t k = 0;

		if (strcmp(argv[i], "--") == 0) {
			i++;
			break;
		}
		if (strcmp(argv[i], "--help") == 0) {
			fputs(usage, stdout);
			return 0;
		}
		while (k < sizeof(vars) / sizeof(vars[0]) && strcmp(argv[i], vars[k].option) != 0)
			k++;
		if (k == sizeof(vars) / sizeof(vars[0]) || i + 1 >= argc) {
			fputs(usage, stderr);
			return 2;
		}
		setenv(vars[k].variable, argv[++i], 1);
	}
	if (i >= argc) {
		fputs(usage, stderr);
		return 2;
	}
	program = find_program(argv[i], buf, sizeof(buf));
	if (!program) {
		fprintf(stderr, "userkvm run: %s: %s\n", argv[i], strerror(errno));
		return 127;
	}
	if (is_static(program)) {
		fprintf(stderr, "userkvm run: %s is statically linked: nothing can be preloaded into it\n", program);
		return 126;
	}
	if (preload_path(lib, sizeof(lib)) < 0) {
		fputs("userkvm run: libuserkvm-preload.so is not beside this program: build or install it\n", stderr);
		return 126;
	}
	preload(lib);
	execv(program, &argv[i]);
	fprintf(stderr, "userkvm run: %s: %s\n", program, strerror(errno));
	return 126;
}
