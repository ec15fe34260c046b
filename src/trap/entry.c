/*
 * The ways in and out: the signal entry, the thunk that does a system call as
 * the client, the way back. Assembly, because two thread pointers change hands
 * here and nothing of the C library may run before they have.
 *
 * Offsets into struct trap_thread: 0 self, 8 our_fs, 16 client_fs,
 * 24 in_service, 32 thunk_return.
 */
#include <asm/prctl.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "trap/trap.h"

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#define PR_SYS_DISPATCH_ON 1
#endif
#define SIGINFO_USER_DISPATCH 2 /* SYS_USER_DISPATCH; SYS_SECCOMP is 1 */
#define SIGINFO_SECCOMP 1
#define SECCOMP_DATA_OURS 0x4b56 /* tells our filter's traps from the client's */
#define HWCAP2_HAS_FSGSBASE 2
#define USER_END 0x7ffffffff000ULL

_Static_assert(offsetof(struct trap_thread, our_fs) == 8, "entry code");
_Static_assert(offsetof(struct trap_thread, client_fs) == 16, "entry code");
_Static_assert(offsetof(struct trap_thread, in_service) == 24, "entry code");
_Static_assert(offsetof(struct trap_thread, thunk_return) == 32, "entry code");

int trap_has_fsgsbase __attribute__((visibility("hidden")));

__asm__(".pushsection .text\n"
	".hidden trap_signal_entry, trap_resume, trap_thunk, trap_thunk_done, trap_sigreturn\n"
	".globl trap_signal_entry, trap_resume, trap_thunk, trap_thunk_done, trap_sigreturn\n"
	/* (signo, info, context), on the service stack, its frame above %rsp */
	"trap_signal_entry:\n"
	"	cmpq $0, %gs:24\n"
	"	jne trap_in_service\n"
	"	cmpl $0, trap_has_fsgsbase(%rip)\n"
	"	je 1f\n"
	"	rdfsbase %rax\n"
	"	mov %rax, %gs:16\n"
	"	mov %gs:8, %rax\n"
	"	wrfsbase %rax\n"
	"	jmp 2f\n"
	"1:	mov %rdi, %r12\n"
	"	mov %rsi, %r13\n"
	"	mov %rdx, %r14\n"
	"	mov $158, %eax\n"    /* arch_prctl */
	"	mov $0x1003, %edi\n" /* ARCH_GET_FS */
	"	mov %gs:0, %rsi\n"
	"	add $16, %rsi\n"
	"	syscall\n"
	"	mov $158, %eax\n"
	"	mov $0x1002, %edi\n" /* ARCH_SET_FS */
	"	mov %gs:8, %rsi\n"
	"	syscall\n"
	"	mov %r12, %rdi\n"
	"	mov %r13, %rsi\n"
	"	mov %r14, %rdx\n"
	"2:	movq $1, %gs:24\n"
	"	mov %rdx, %rbx\n"
	"	sub $8, %rsp\n"
	"	call trap_from_client\n"
	"	mov %rbx, %rdi\n"
	"trap_resume:\n"
	"	mov %rdi, %rsp\n"
	"	mov %gs:16, %rsi\n"
	"	cmpl $0, trap_has_fsgsbase(%rip)\n"
	"	je 3f\n"
	"	wrfsbase %rsi\n"
	"	jmp 4f\n"
	"3:	mov $158, %eax\n"
	"	mov $0x1002, %edi\n"
	"	syscall\n"
	"4:	movq $0, %gs:24\n"
	"trap_sigreturn:\n"
	"	mov $15, %eax\n"
	"	syscall\n"
	"	ud2\n"
	/* A system call of the client's with its own registers, stack and signal mask. */
	"trap_thunk:\n"
	"	syscall\n"
	"trap_thunk_done:\n"
	"	jmp *%gs:32\n"
	".popsection\n");

struct trap_thread *trap_self(void)
{
	struct trap_thread *t;

	__asm__ volatile("mov %%gs:0, %0" : "=r"(t));
	return t;
}

void trap_set_self(struct trap_thread *t)
{
	t->self = t;
	if (trap_has_fsgsbase) /* no call that a filter of the client's could forbid */
		__asm__ volatile("wrgsbase %0" : : "r"(t));
	else
		syscall(SYS_arch_prctl, ARCH_SET_GS, t);
}

/* --- trapping --- */

static int si_code, si_errno; /* of our traps */

static int arm_dispatch(void)
{
	return prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, TRAP_CLIENT_END,
		     USER_END - TRAP_CLIENT_END, 0) ? -errno : 0;
}

/* Threads and children inherit it, and so do programs executed: by address they are not the client's. */
static int arm_seccomp(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer) + 4),
		BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, (uint32_t)(TRAP_CLIENT_END >> 32), 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP | SECCOMP_DATA_OURS),
	};
	const struct sock_fprog program = { .len = sizeof(code) / sizeof(code[0]), .filter = code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -errno;
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) ? -errno : 0;
}

static bool asks_for(const char *ways, const char *word)
{
	size_t n = strlen(word);

	for (const char *p = ways; p && (p = strstr(p, word)); p += n)
		if ((p == ways || p[-1] == ',') && (p[n] == ',' || !p[n]))
			return true;
	return false;
}

int trap_choose(const char *ways)
{
	int r = -ENOSYS;

	trap.all = asks_for(ways, TRAP_ALL);
	trap_has_fsgsbase = (getauxval(AT_HWCAP2) & HWCAP2_HAS_FSGSBASE) && !asks_for(ways, "arch_prctl");
	si_code = SIGINFO_USER_DISPATCH;
	if (!asks_for(ways, "seccomp"))
		r = arm_dispatch();
	if (!r)
		return 0;
	si_code = SIGINFO_SECCOMP;
	si_errno = SECCOMP_DATA_OURS;
	return arm_seccomp();
}

int trap_arm(void)
{
	return si_code == SIGINFO_USER_DISPATCH ? arm_dispatch() : 0;
}

bool trap_is_ours(const siginfo_t *si)
{
	return si->si_code == si_code && si->si_errno == si_errno && si->si_arch == AUDIT_ARCH_X86_64;
}
