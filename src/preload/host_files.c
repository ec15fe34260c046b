/*
 * Files by which a host says that it has VMX and KVM: /proc/cpuinfo, and the parameters of KVM's modules. Programs
 * look there before they open /dev/kvm. USERKVM_HOST_VMX=0 leaves them as the machine has them.
 *
 * Invariants
 * 1. What is said is true of what /dev/kvm serves: the parameters are USERKVM_PARAMS, the flags follow from them.
 * 2. A file is made when it is opened, as /proc has it: a copy that changes no more.
 */
#undef _FILE_OFFSET_BITS
#undef _FORTIFY_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/own.h"
#include "lib/params.h"
#include "preload/node.h"
#include "preload/real.h"

#define CPUINFO "/proc/cpuinfo"
#define MODULES "/sys/module/kvm"
#define LARGEST (16u << 20) /* no /proc/cpuinfo is longer */
#define ROOM 4096 /* for what is added for one processor */

static const struct {
	const char *path, *knob;
} parameters[] = {
	{ MODULES "/parameters/tdp_mmu", "tdp_mmu" },
	{ MODULES "/parameters/eager_page_split", "eager_page_split" },
	{ MODULES "_intel/parameters/ept", "ept" },
	{ MODULES "_intel/parameters/eptad", "eptad" },
	{ MODULES "_intel/parameters/vpid", "vpid" },
	{ MODULES "_intel/parameters/pml", "pml" },
	{ MODULES "_intel/parameters/unrestricted_guest", "unrestricted_guest" },
	{ MODULES "_intel/parameters/flexpriority", "flexpriority" },
	{ MODULES "_intel/parameters/enable_apicv", "enable_apicv" },
	{ MODULES "_intel/parameters/enable_shadow_vmcs", "enable_shadow_vmcs" },
	{ MODULES "_intel/parameters/nested", "nested" },
};
static const char *const directories[] = { MODULES, MODULES "/parameters", MODULES "_intel", MODULES "_intel/parameters" };

bool preload_shows_vmx(void)
{
	const char *want = getenv("USERKVM_HOST_VMX");

	return !want || strcmp(want, "0") != 0;
}

/* Cheap for all other paths. */
static bool may_be_ours(const char *path)
{
	return path && path[0] == '/' &&
	       (strcmp(path, CPUINFO) == 0 || strncmp(path, MODULES, strlen(MODULES)) == 0) && preload_shows_vmx();
}

static const char *knob_of(const char *path)
{
	for (size_t i = 0; i < sizeof(parameters) / sizeof(parameters[0]); i++)
		if (strcmp(path, parameters[i].path) == 0)
			return parameters[i].knob;
	return NULL;
}

static bool is_directory(const char *path)
{
	for (size_t i = 0; i < sizeof(directories) / sizeof(directories[0]); i++)
		if (strcmp(path, directories[i]) == 0)
			return true;
	return false;
}

/* --- /proc/cpuinfo --- */

/* All of a file, in own memory; NULL. */
static char *read_all(const char *path, size_t *length)
{
	int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
	size_t size = 1 << 16, used = 0;
	char *text = fd < 0 ? NULL : own_malloc(size), *bigger;
	ssize_t n = 1;

	while (text && n > 0) {
		n = syscall(SYS_read, fd, text + used, size - used - 1);
		used += n > 0 ? (size_t)n : 0;
		if (size - used > 4096)
			continue;
		bigger = own_realloc(text, size *= 2);
		if (!bigger)
			own_free(text);
		text = bigger;
	}
	if (fd >= 0)
		syscall(SYS_close, fd);
	if (text)
		text[used] = 0;
	*length = used;
	return text;
}

static int vmx_flags(char *to, size_t size)
{
	static const char *const names[][2] = { { "ept", "ept" }, { "ept_ad", "eptad" }, { "vpid", "vpid" }, { "pml", "pml" },
						{ "unrestricted_guest", "unrestricted_guest" } };
	bool ept = params_get_bool("ept");
	int n = snprintf(to, size, "vmx flags\t: tsc_offset");

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (params_get_bool(names[i][1]) && (ept || strcmp(names[i][0], "vpid") == 0))
			n += snprintf(to + n, size - (size_t)n, " %s", names[i][0]);
	return n + snprintf(to + n, size - (size_t)n, "\n");
}

/* Of each processor's lines: "vmx" among its flags, and the line of VMX's own. */
static void write_cpuinfo(int fd, const char *text)
{
	char vmx[ROOM];
	int n = vmx_flags(vmx, sizeof(vmx));
	const char *end;

	for (; *text; text = end) {
		end = strchr(text, '\n');
		end = end ? end + 1 : text + strlen(text);
		if (strncmp(text, "vmx flags", 9) == 0)
			continue;
		if (strncmp(text, "flags\t", 6) != 0) {
			syscall(SYS_write, fd, text, (size_t)(end - text));
			continue;
		}
		syscall(SYS_write, fd, text, (size_t)(end - 1 - text));
		if (!memmem(text, (size_t)(end - text), " vmx ", 5) && !memmem(text, (size_t)(end - text), " vmx\n", 5))
			syscall(SYS_write, fd, " vmx", 4);
		syscall(SYS_write, fd, "\n", 1);
		syscall(SYS_write, fd, vmx, (size_t)n);
	}
}

/* --- what the room's other files ask --- */

int preload_host_file(const char *path, int flags)
{
	const char *knob;
	char *text = NULL;
	struct rlimit lim;
	size_t n;
	int fd;

	if (!may_be_ours(path))
		return PRELOAD_NOT_OURS;
	knob = knob_of(path);
	if (!knob && strcmp(path, CPUINFO) != 0)
		return PRELOAD_NOT_OURS;
	if ((flags & O_ACCMODE) != O_RDONLY || (flags & (O_PATH | O_DIRECTORY)))
		return PRELOAD_NOT_OURS; /* the machine's own refuses, or is as good */
	if (getrlimit(RLIMIT_FSIZE, &lim) == 0 && lim.rlim_cur < LARGEST)
		return PRELOAD_NOT_OURS; /* writing the copy would be the process's SIGXFSZ */
	if (!knob) {
		text = read_all(path, &n);
		if (!text)
			return PRELOAD_NOT_OURS;
	}
	fd = (int)syscall(SYS_memfd_create, knob ? knob : "cpuinfo", flags & O_CLOEXEC ? 1u : 0u);
	if (fd >= 0 && knob)
		syscall(SYS_write, fd, params_get_bool(knob) ? "Y\n" : "N\n", 2);
	else if (fd >= 0)
		write_cpuinfo(fd, text);
	if (fd >= 0)
		syscall(SYS_lseek, fd, 0, SEEK_SET);
	own_free(text);
	return fd;
}

bool preload_host_stat(const char *path, struct stat *st)
{
	bool directory;

	if (!may_be_ours(path))
		return false;
	directory = is_directory(path);
	if (!directory && !knob_of(path))
		return false;
	if (REAL(stat)("/sys/module", st) != 0)
		memset(st, 0, sizeof(*st));
	st->st_mode = directory ? S_IFDIR | 0755 : S_IFREG | 0444;
	st->st_nlink = 1;
	st->st_size = directory ? 0 : 4096;
	return true;
}
