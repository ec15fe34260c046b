/*
 * The wall around a vCPU's thread. See confine.h.
 *
 * Invariants
 * 1. What the filter lets through acts on memory, on descriptors that are open, on time, or on threads of this process.
 * 2. Executable memory exists before: it is mapped with the VM and its vCPUs.
 * 3. The C library needs no file of its own later: its unwinder, which ending a thread loads, is loaded before.
 *
 * Locks: none; a thread confines itself.
 */
#include "host/confine.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/error.h"
#include "lib/log.h"

bool host_confine_wanted;
__thread bool host_confined __attribute__((tls_model("initial-exec")));

/* Whatever their arguments. */
static const uint16_t allowed[] = {
	/* KVM_RUN, and what the C library does in a thread */
	SYS_futex, SYS_rt_sigreturn, SYS_clock_gettime, SYS_clock_getres, SYS_gettimeofday, SYS_time, SYS_madvise, SYS_munmap,
	SYS_mremap, SYS_brk, SYS_mincore, SYS_membarrier, SYS_rt_sigprocmask, SYS_rt_sigpending, SYS_rt_sigtimedwait,
	SYS_rt_sigsuspend, SYS_rt_sigaction, SYS_sigaltstack, SYS_restart_syscall, SYS_getpid, SYS_gettid, SYS_getcpu,
	SYS_sched_yield, SYS_sched_getaffinity, SYS_nanosleep, SYS_clock_nanosleep, SYS_exit, SYS_exit_group, SYS_rseq,
	SYS_set_robust_list, SYS_arch_prctl, SYS_getrandom, SYS_getrusage,
	/* descriptors that are open */
	SYS_read, SYS_readv, SYS_pread64, SYS_preadv, SYS_preadv2, SYS_write, SYS_writev, SYS_pwrite64, SYS_pwritev,
	SYS_pwritev2, SYS_lseek, SYS_fsync, SYS_fdatasync, SYS_fallocate, SYS_ftruncate, SYS_fcntl, SYS_close, SYS_dup,
	SYS_dup2, SYS_dup3, SYS_poll, SYS_ppoll, SYS_select, SYS_pselect6, SYS_epoll_wait, SYS_epoll_pwait,
	SYS_epoll_pwait2, SYS_epoll_ctl, SYS_epoll_create1, SYS_eventfd2, SYS_pipe2, SYS_timerfd_create,
	SYS_timerfd_settime, SYS_timerfd_gettime, SYS_sendmsg, SYS_sendmmsg, SYS_sendto, SYS_recvmsg, SYS_recvmmsg,
	SYS_recvfrom, SYS_shutdown, SYS_io_submit, SYS_io_getevents, SYS_io_pgetevents, SYS_fstat,
	/* by a name: Landlock answers these, or they tell of a file and no more */
	SYS_openat, SYS_open, SYS_newfstatat, SYS_statx,
};

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#endif

/* Where these bits of an argument have this value. */
static const struct rule {
	uint16_t number, argument;
	uint32_t mask, value;
} rules[] = {
	{ SYS_mmap, 2, PROT_EXEC, 0 },
	{ SYS_mprotect, 2, PROT_EXEC, 0 },
	{ SYS_pkey_mprotect, 2, PROT_EXEC, 0 },
	{ SYS_clone, 0, CLONE_THREAD, CLONE_THREAD },
	{ SYS_prctl, 0, ~0u, PR_SET_NAME },
	{ SYS_prctl, 0, ~0u, PR_SET_TIMERSLACK },
	/* new threads of a program whose system calls trap */
	{ SYS_prctl, 0, ~0u, PR_SET_SYSCALL_USER_DISPATCH },
};

#define PER_ALLOWED 2 /* instructions */
#define PER_RULE 6
#define MAX_FILTER (PER_ALLOWED * ARRAY_SIZE(allowed) + PER_RULE * ARRAY_SIZE(rules) + 40)

struct program {
	struct sock_filter code[MAX_FILTER];
	uint16_t n;
};

static void add(struct program *p, uint16_t code, uint32_t k, uint8_t yes, uint8_t no)
{
	p->code[p->n++] = (struct sock_filter){ code, yes, no, k };
}

#define LOAD (BPF_LD | BPF_W | BPF_ABS)
#define IF_EQUAL (BPF_JMP | BPF_JEQ | BPF_K)
#define RETURN (BPF_RET | BPF_K)

static void add_load(struct program *p, size_t offset)
{
	add(p, LOAD, (uint32_t)offset, 0, 0);
}

static void add_return(struct program *p, uint32_t action)
{
	add(p, RETURN, action, 0, 0);
}

/* The number is loaded, before and behind. */
static void add_rule(struct program *p, const struct rule *r)
{
	add(p, IF_EQUAL, r->number, 0, 5);
	add_load(p, offsetof(struct seccomp_data, args) + 8u * r->argument);
	add(p, BPF_ALU | BPF_AND | BPF_K, r->mask, 0, 0);
	add(p, IF_EQUAL, r->value, 0, 1);
	add_return(p, SECCOMP_RET_ALLOW);
	add_load(p, offsetof(struct seccomp_data, nr));
}

#define REFUSE (SECCOMP_RET_ERRNO | EPERM)

static void write_filter(struct program *p)
{
	const uint32_t pid = (uint32_t)getpid();
	const struct rule of_this_process[] = {
		{ SYS_tgkill, 0, ~0u, pid },
		{ SYS_rt_tgsigqueueinfo, 0, ~0u, pid },
		{ SYS_kill, 0, ~0u, pid },
	};
	/* characters into a terminal's input, which a shell then reads */
	static const uint32_t refused_ioctls[] = { TIOCSTI, TIOCLINUX };

	add_load(p, offsetof(struct seccomp_data, arch));
	add(p, IF_EQUAL, AUDIT_ARCH_X86_64, 1, 0);
	add_return(p, SECCOMP_RET_KILL_PROCESS);
	add_load(p, offsetof(struct seccomp_data, nr));
	for (size_t i = 0; i < ARRAY_SIZE(allowed); i++) {
		add(p, IF_EQUAL, allowed[i], 0, 1);
		add_return(p, SECCOMP_RET_ALLOW);
	}
	for (size_t i = 0; i < ARRAY_SIZE(rules); i++)
		add_rule(p, &rules[i]);
	for (size_t i = 0; i < ARRAY_SIZE(of_this_process); i++)
		add_rule(p, &of_this_process[i]);
	/* its arguments lie in memory: the C library does without it where it is unknown */
	add(p, IF_EQUAL, SYS_clone3, 0, 1);
	add_return(p, SECCOMP_RET_ERRNO | ENOSYS);
	add(p, IF_EQUAL, SYS_ioctl, 1, 0);
	add_return(p, REFUSE);
	add_load(p, offsetof(struct seccomp_data, args[1]));
	for (size_t i = 0; i < ARRAY_SIZE(refused_ioctls); i++) {
		add(p, IF_EQUAL, refused_ioctls[i], 0, 1);
		add_return(p, REFUSE);
	}
	add_return(p, SECCOMP_RET_ALLOW);
}

static int filter_thread(void)
{
	struct program p = { .n = 0 };
	struct sock_fprog prog = { .filter = p.code };

	write_filter(&p);
	prog.len = p.n;
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog) ? err_born(errno, "seccomp: no filter") : 0;
}

/* --- Landlock --- */

/* What a version has, and older headers do not name. */
struct attributes {
	uint64_t files, network;
};

static int landlock_version(void)
{
	return (int)syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
}

/* What /proc says of this process may be read: an eventfd is known by it, and mappings are. */
static int allow_own_files(int rules_fd)
{
	struct landlock_path_beneath_attr own = {
		.allowed_access = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR,
		.parent_fd = (int)syscall(SYS_openat, AT_FDCWD, "/proc/self", O_PATH | O_CLOEXEC),
	};
	int r = 0;

	if (own.parent_fd < 0)
		return 0; /* there is no such file */
	if (syscall(SYS_landlock_add_rule, rules_fd, LANDLOCK_RULE_PATH_BENEATH, &own, 0))
		r = err_born(errno, "Landlock: no rule for /proc/self");
	syscall(SYS_close, own.parent_fd);
	return r;
}

/* All that this kernel's Landlock can refuse, is. */
static int leave_files(void)
{
	/* bits of version 1, and one more each for the versions 2 (REFER), 3 (TRUNCATE) and 5 (IOCTL_DEV) */
	int version = landlock_version(), bits = 13 + (version >= 2) + (version >= 3) + (version >= 5), fd, r;
	const struct attributes all = { .files = BIT_ULL(bits) - 1, .network = 3 /* bind and connect by TCP: version 4 */ };

	if (version < 1)
		return err_born(ENOSYS, "Landlock: version %d", version);
	fd = (int)syscall(SYS_landlock_create_ruleset, &all, version >= 4 ? sizeof(all) : sizeof(all.files), 0);
	if (fd < 0)
		return err_born(errno, "Landlock: no rules");
	r = allow_own_files(fd);
	if (!r && syscall(SYS_landlock_restrict_self, fd, 0))
		r = err_born(errno, "Landlock: this thread cannot be restricted");
	syscall(SYS_close, fd);
	return r;
}

/* --- what the others ask --- */

void host_confine_init(void)
{
	const char *want = getenv("USERKVM_CONFINE");

	if (host_confine_wanted || !want || strcmp(want, "1") != 0)
		return;
	host_confine_wanted = true;
	(void)dlopen("libgcc_s.so.1", RTLD_NOW);
}

int host_confine_thread_now(void)
{
	int r;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return err_born(errno, "PR_SET_NO_NEW_PRIVS");
	r = leave_files();
	if (!r)
		r = filter_thread();
	if (r)
		log_always("a vCPU's thread cannot be confined: %s", strerror(-r));
	else
		host_confined = true;
	return r;
}

const char *host_confine_fault(void)
{
	const uint32_t action = SECCOMP_RET_ERRNO;

	if (syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action))
		return "this kernel has no seccomp filters";
	if (landlock_version() < 1)
		return "this kernel has no Landlock (Linux 5.13), or it is not among its security modules";
	return NULL;
}
