/*
 * The client's signals. Every handler of the client's stands behind our entry,
 * on the service stack; from there the client gets the frame that the kernel
 * would have made, on the stack that its own action asks for.
 *
 *	kernel ─> entry ─┬─ client was running: deliver() ─> the client's handler
 *	                 └─ in service: a fault of our own work ─> the host room's handler
 *	                                else: left pending; ends KVM_RUN with -EINTR
 *
 * Invariants
 * 1. table[] holds what the client's rt_sigaction() shows: no other way changes
 *    it, but a child with its parent's memory changes its own dispositions only in the kernel.
 * 2. SIGSYS is never blocked in the kernel: a blocked trap would end the program.
 * 3. Where CPUID faults SIGSEGV is open, too: what the client believes is blocks_segv. A sent one ends that, and waits.
 * 4. Faults that our work can raise are open while a call is served, and blocked on the way in and out; one
 *    that is sent meanwhile is kept by the library and pending again after it.
 *
 * Lock: lock guards table[]; taken in service only, where signals are blocked.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "abi/abi.h"
#include "trap/trap.h"
#include "userkvm/userkvm.h"

#define SIGNALS 65
#define SA_RESTORER 0x04000000
#define BIT(signo) (1ULL << ((signo) - 1))
#define FAULTS (BIT(SIGSEGV) | BIT(SIGBUS) | BIT(SIGFPE) | BIT(SIGILL))
#define ALWAYS_OURS (FAULTS | BIT(SIGSYS))
#define KERNELS_FLAGS (SA_RESTART | SA_NOCLDSTOP | SA_NOCLDWAIT) /* of the client's, that the kernel acts on */
#define RED_ZONE 128
#define SMALLEST_STACK 2048 /* MINSIGSTKSZ of Linux */
#define XSTATE_WORDS 464    /* struct _fpx_sw_bytes in the FXSAVE image: magic, size */
#define XSTATE_MAGIC 0x46505853u

/* Linux's own struct sigaction. */
struct kernel_action {
	uint64_t handler, flags, restorer, mask;
};

/* Linux's struct rt_sigframe up to the floating-point state. */
struct frame {
	uint64_t restorer;
	char uc[TRAP_UC_SIZE];
	siginfo_t info;
};
_Static_assert(sizeof(struct frame) == 440, "rt_sigframe");

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct kernel_action table[SIGNALS];
static uint64_t entered; /* signals that come to our entry */
typedef void host_fn(int signo, siginfo_t *si, void *uc);
static host_fn *host_handler[SIGNALS];

bool trap_on_stack(const stack_t *s, uint64_t sp)
{
	return s->ss_size && sp - (uint64_t)s->ss_sp < s->ss_size;
}

/* --- the client's mask --- */

/* CPUID faults: SIGSEGV is open for the kernel, and the client is shown what it has made of it. */
static bool keeps_segv_open(const struct trap_thread *t)
{
	/* Confined, a thread stays as it is. */
	return abi_keeps_segv_open() && !t->cpuid_off && (t->cpuid_on || !__atomic_load_n(&trap.confined, __ATOMIC_RELAXED));
}

static void set_clients_mask(struct trap_thread *t, ucontext_t *uc, uint64_t set)
{
	t->blocks_segv = (set & BIT(SIGSEGV)) && keeps_segv_open(t);
	*trap_mask(uc) = set & ~(BIT(SIGSYS) | BIT(SIGKILL) | BIT(SIGSTOP) | (t->blocks_segv ? BIT(SIGSEGV) : 0));
}

/* --- contexts --- */

size_t trap_fpstate_size(const ucontext_t *uc)
{
	const char *fp = (const char *)uc->uc_mcontext.fpregs;
	uint32_t sw[2];

	if (!fp)
		return 0;
	memcpy(sw, fp + XSTATE_WORDS, sizeof(sw));
	return sw[0] == XSTATE_MAGIC ? sw[1] : sizeof(struct _libc_fpstate);
}

void trap_copy_context(void *to, const ucontext_t *uc, void *fpstate)
{
	size_t n = trap_fpstate_size(uc);
	char *fpregs = to;

	memcpy(to, uc, TRAP_UC_SIZE);
	if (!n)
		return;
	memcpy(fpstate, uc->uc_mcontext.fpregs, n);
	fpregs += offsetof(ucontext_t, uc_mcontext.fpregs);
	memcpy(fpregs, &fpstate, sizeof(fpstate));
}

/* In the thunk the client is at its own system call, before or after it. */
static void leave_thunk(struct trap_thread *t, greg_t *rip)
{
	if (*rip == (greg_t)(uintptr_t)trap_thunk)
		*rip = (greg_t)t->thunk_return - 2;
	else if (*rip == (greg_t)(uintptr_t)trap_thunk_done)
		*rip = (greg_t)t->thunk_return;
}

/* --- the kernel's actions --- */

static int kernel_sigaction(int signo, const struct kernel_action *act, struct kernel_action *old)
{
	return syscall(SYS_rt_sigaction, signo, act, old, 8) ? -errno : 0;
}

static int enter_at_ours(int signo, uint64_t clients_flags)
{
	const struct kernel_action act = {
		.handler = (uint64_t)(uintptr_t)trap_signal_entry,
		.flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER | SA_RESTORER | (clients_flags & KERNELS_FLAGS),
		.restorer = (uint64_t)(uintptr_t)trap_sigreturn,
		.mask = ~(BIT(SIGSYS) | BIT(SIGTRAP)),
	};
	int r = kernel_sigaction(signo, &act, NULL);

	if (r == 0)
		entered |= BIT(signo);
	return r;
}

static int kernel_default(int signo)
{
	const struct kernel_action dfl = { .handler = (uint64_t)(uintptr_t)SIG_DFL };

	if (!trap_self()->own_actions) /* its parent's */
		entered &= ~BIT(signo);
	return kernel_sigaction(signo, &dfl, NULL);
}

static void queue_again(int signo, siginfo_t *si)
{
	syscall(SYS_rt_tgsigqueueinfo, getpid(), (pid_t)syscall(SYS_gettid), signo, si);
}

static bool raised_by_instruction(int signo, const siginfo_t *si)
{
	return si->si_code > 0 && (FAULTS & BIT(signo));
}

static void default_action(int signo, siginfo_t *si)
{
	kernel_default(signo);
	if (!raised_by_instruction(signo, si)) /* that instruction will run again */
		queue_again(signo, si);
}

int trap_signals_init(void)
{
	int r = 0;

	for (int signo = 1; signo < SIGNALS && !r; signo++) {
		if (kernel_sigaction(signo, NULL, &table[signo]))
			continue;
		if (!(ALWAYS_OURS & BIT(signo)))
			continue;
		/* Of the faults: the library has put its own there. */
		host_handler[signo] = (host_fn *)(uintptr_t)table[signo].handler;
		memset(&table[signo], 0, sizeof(table[signo]));
		r = enter_at_ours(signo, 0);
	}
	return r;
}

void trap_signals_lock(void)
{
	pthread_mutex_lock(&lock);
}

void trap_signals_unlock(void)
{
	pthread_mutex_unlock(&lock);
}

/* --- delivery --- */

static uint64_t stack_for(struct trap_thread *t, const struct kernel_action *act, uint64_t sp)
{
	if ((act->flags & SA_ONSTACK) && t->altstack.ss_size && !trap_on_stack(&t->altstack, sp))
		return (uint64_t)t->altstack.ss_sp + t->altstack.ss_size;
	return sp - RED_ZONE;
}

/*
 * The frame is the client's, on its own stack, and ours becomes the context of
 * its handler's first instruction.
 */
static void make_frame(struct trap_thread *t, const struct kernel_action *act, int signo, siginfo_t *si,
		       ucontext_t *uc)
{
	greg_t *reg = uc->uc_mcontext.gregs;
	uint64_t sp = stack_for(t, act, (uint64_t)reg[REG_RSP]);
	void *fpstate = (void *)((sp - trap_fpstate_size(uc)) & ~63ULL);
	struct frame *f = (void *)((((uint64_t)fpstate - sizeof(*f)) & ~15ULL) - 8);

	f->restorer = keeps_segv_open(t) && (act->flags & SA_RESTORER) ? act->restorer : (uint64_t)(uintptr_t)trap_sigreturn;
	trap_copy_context(f->uc, uc, fpstate);
	*trap_mask((ucontext_t *)(void *)f->uc) = trap_clients_mask(t, uc);
	f->info = *si;
	reg[REG_RSP] = (greg_t)(uintptr_t)f;
	reg[REG_RIP] = (greg_t)act->handler;
	reg[REG_RDI] = signo;
	reg[REG_RSI] = (greg_t)(uintptr_t)&f->info;
	reg[REG_RDX] = (greg_t)(uintptr_t)f->uc;
	reg[REG_RAX] = 0;
	reg[REG_EFL] &= ~0x10500; /* TF DF RF, as Linux */
	uc->uc_mcontext.fpregs = NULL; /* a handler starts with fresh ones */
	set_clients_mask(t, uc, trap_clients_mask(t, uc) | act->mask | (act->flags & SA_NODEFER ? 0 : BIT(signo)));
}

void trap_follow_mask(struct trap_thread *t, ucontext_t *uc)
{
	bool on = !t->cpuid_off && !(*trap_mask(uc) & BIT(SIGSEGV));

	if (on == t->cpuid_on || __atomic_load_n(&trap.confined, __ATOMIC_RELAXED))
		return;
	abi_first_blocked(!on);
	t->cpuid_on = on;
}

void trap_deliver(struct trap_thread *t, int signo, siginfo_t *si, ucontext_t *uc)
{
	struct kernel_action act;

	if (abi_first_sees(signo, si, uc))
		return;
	if (signo == SIGSEGV && t->blocks_segv) {
		/* As the kernel does with a blocked one: it waits, or the instruction ends the program when it runs again. */
		trap_block_segv(t, uc);
		if (!raised_by_instruction(signo, si))
			abi_fault_send_again(signo, si);
		return;
	}
	leave_thunk(t, &uc->uc_mcontext.gregs[REG_RIP]);
	abi_signal_comes(signo, si);
	pthread_mutex_lock(&lock);
	act = table[signo];
	if (act.handler == (uint64_t)(uintptr_t)SIG_DFL ||
	    (act.handler == (uint64_t)(uintptr_t)SIG_IGN && raised_by_instruction(signo, si))) {
		default_action(signo, si);
	} else if (act.handler != (uint64_t)(uintptr_t)SIG_IGN) {
		if (act.flags & (uint32_t)SA_RESETHAND) {
			if (!t->own_actions)
				table[signo].handler = (uint64_t)(uintptr_t)SIG_DFL;
			if (t->own_actions || !(ALWAYS_OURS & BIT(signo)))
				kernel_default(signo);
		}
		make_frame(t, &act, signo, si, uc);
	}
	pthread_mutex_unlock(&lock);
}

/* Called by the entry with our own thread pointer in place, whatever was interrupted. */
void trap_in_service(int signo, siginfo_t *si, ucontext_t *uc)
{
	int saved = errno;

	if (raised_by_instruction(signo, si)) {
		/* it may jump away */
		syscall(SYS_rt_sigprocmask, SIG_SETMASK, trap_mask(uc), NULL, 8);
		host_handler[signo](signo, si, uc);
	} else if (signo == SIGSYS) { /* a filter of the client's forbids what we need */
		kernel_default(signo);
		queue_again(signo, si);
	} else {
		const uint64_t *clients = trap_self()->clients_mask;
		bool waits = clients && !(*clients & BIT(signo)); /* else it may have ended the run only */
		bool kept = abi_fault_keep(signo, si);

		if (!kept)
			abi_signal_leave_pending(signo, si, uc, waits);
		if (waits || !kept)
			userkvm_signal_ran();
	}
	errno = saved;
}

void trap_signals_before_run(struct trap_call *c)
{
	abi_run_signals(*trap_mask(c->uc) & ~ALWAYS_OURS);
}

void trap_guard_signals(struct trap_call *c, uint64_t kvm_mask)
{
	uint64_t ended_by = *trap_mask(c->uc) & ~kvm_mask;

	pthread_mutex_lock(&lock);
	for (int signo = 1; signo < SIGNALS; signo++)
		if ((ended_by & BIT(signo)) && !(entered & BIT(signo)) &&
		    table[signo].handler == (uint64_t)(uintptr_t)SIG_DFL)
			enter_at_ours(signo, table[signo].flags); /* KILL and STOP refuse, rightly */
	pthread_mutex_unlock(&lock);
}

/* --- the client's system calls --- */

/* A child with its parent's memory: its dispositions are its own, our table is its parent's. */
static int childs_action(int signo, const struct kernel_action *act, struct kernel_action *old)
{
	int r = kernel_sigaction(signo, signo == SIGSYS ? NULL : act, old);

	if (r == 0 && old->handler == (uint64_t)(uintptr_t)trap_signal_entry)
		*old = table[signo];
	return r;
}

/* lock held. */
static int set_action(int signo, const struct kernel_action *act)
{
	bool function = act->handler != (uint64_t)(uintptr_t)SIG_DFL && act->handler != (uint64_t)(uintptr_t)SIG_IGN;
	struct kernel_action before = table[signo];
	int r = 0;

	table[signo] = *act; /* before the first signal */
	if (function) {
		r = enter_at_ours(signo, act->flags);
	} else if (!(ALWAYS_OURS & BIT(signo))) {
		entered &= ~BIT(signo);
		r = kernel_sigaction(signo, act, NULL);
	}
	if (r)
		table[signo] = before;
	return r;
}

int64_t trap_rt_sigaction(struct trap_call *c)
{
	int signo = (int)c->arg[0], r = 0;
	const void *user = (const void *)c->arg[1];
	struct kernel_action act, old;

	if (c->arg[3] != 8)
		return -EINVAL;
	if (user && abi_client_read(&act, user, sizeof(act)))
		return -EFAULT;
	if (signo < 1 || signo >= SIGNALS || (user && (signo == SIGKILL || signo == SIGSTOP)))
		return -EINVAL;
	pthread_mutex_lock(&lock);
	old = table[signo];
	if (c->thread->own_actions)
		r = childs_action(signo, user ? &act : NULL, &old);
	else if (user)
		r = set_action(signo, &act);
	pthread_mutex_unlock(&lock);
	if (r == 0 && c->arg[2])
		r = abi_client_write((void *)c->arg[2], &old, sizeof(old));
	return r;
}

int64_t trap_rt_sigprocmask(struct trap_call *c)
{
	uint64_t set, old = trap_clients_mask(c->thread, c->uc);

	if (c->thread->blocks_sys)
		old |= BIT(SIGSYS);
	if (c->arg[3] != 8)
		return -EINVAL;
	if (c->arg[1]) {
		if (abi_client_read(&set, (const void *)c->arg[1], sizeof(set)))
			return -EFAULT;
		switch ((int)c->arg[0]) {
		case SIG_BLOCK:
			set |= old;
			break;
		case SIG_UNBLOCK:
			set = old & ~set;
			break;
		case SIG_SETMASK:
			break;
		default:
			return -EINVAL;
		}
		c->thread->blocks_sys = set & BIT(SIGSYS);
		set_clients_mask(c->thread, c->uc, set);
	}
	return c->arg[2] ? abi_client_write((void *)c->arg[2], &old, sizeof(old)) : 0;
}

int64_t trap_sigaltstack(struct trap_call *c)
{
	stack_t *now = &c->thread->altstack, old = *now, new;
	bool on = trap_on_stack(now, (uint64_t)c->uc->uc_mcontext.gregs[REG_RSP]);

	old.ss_flags = on ? SS_ONSTACK : old.ss_size ? 0 : SS_DISABLE;
	if (c->arg[0]) {
		if (abi_client_read(&new, (const void *)c->arg[0], sizeof(new)))
			return -EFAULT;
		if (on)
			return -EPERM;
		if (new.ss_flags != 0 && new.ss_flags != SS_ONSTACK && new.ss_flags != SS_DISABLE)
			return -EINVAL; /* SS_AUTODISARM is not served */
		if (new.ss_flags == SS_DISABLE)
			memset(&new, 0, sizeof(new));
		else if (new.ss_size < SMALLEST_STACK)
			return -ENOMEM;
		*now = new;
	}
	return c->arg[1] ? abi_client_write((void *)c->arg[1], &old, sizeof(old)) : 0;
}

/*
 * A restorer of the client's own: from here, where it does not trap. The frame's mask is the client's; the kernel gets it
 * with SIGSEGV open.
 */
int64_t trap_rt_sigreturn(struct trap_call *c)
{
	uint64_t mask, *frames = (uint64_t *)(c->uc->uc_mcontext.gregs[REG_RSP] + offsetof(ucontext_t, uc_sigmask));
	uint64_t *now = trap_mask(c->uc);

	c->uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)trap_sigreturn;
	if (!keeps_segv_open(c->thread) || abi_client_read(&mask, frames, sizeof(mask)))
		return 0;
	c->thread->blocks_segv = mask & BIT(SIGSEGV);
	mask &= ~BIT(SIGSEGV);
	*now &= ~BIT(SIGSEGV);
	if (c->thread->blocks_segv)
		(void)!abi_client_write(frames, &mask, sizeof(mask));
	return 0;
}
