/*
 * The /dev/kvm ABI: descriptors and the table of ioctls.
 *
 * One table row an ioctl: number, kind of descriptor, how the argument is
 * copied, which lock is held, handler. Descriptors are memfds found by
 * (device, inode), so dup, fcntl and descriptor passing work; a per-fd cache
 * keeps the common path free of system calls.
 * The public calls are include/userkvm/userkvm.h; this header is what the
 * preload room needs besides.
 *
 * Context: any thread, not from signal handlers unless said.
 */
#ifndef USERKVM_ABI_ABI_H
#define USERKVM_ABI_ABI_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <ucontext.h>

/* In the library that has the rooms? NULL is not. */
bool abi_is_own_code(const void *p);

/* The client duplicated a descriptor of ours (preload). */
void abi_fd_duplicated(int oldfd, int newfd);
/*
 * True where the library has to know of its closing: not in a child of vfork(). A descriptor that came to be
 * behind our back enters the table with the question.
 */
bool abi_fd_is_ours(int fd);
/* One of the library's own, which the client does not know of (lib/own_fd.h). */
bool abi_fd_is_librarys(int fd);
/*
 * In a child of vfork() or of clone(CLONE_VM); whose descriptors, whose signal actions are its own, and what the library
 * knows of them is its parent's. That a child is made with these flags of clone() has to be told before.
 * Async-signal-safe.
 */
bool abi_memory_is_borrowed(void);
bool abi_fds_are_apart(void);
bool abi_actions_are_apart(void);
void abi_child_may_share(uint64_t clone_flags);
/* close(2), by the bare system call; the last descriptor of an object ends it. */
int abi_fd_close(int fd);

/* A descriptor of /dev/kvm itself (not of a VM or vCPU). */
bool abi_is_system_fd(int fd);
/* A descriptor of /dev/kvm, a VM or a vCPU. Async-signal-safe. */
bool abi_fd_is_device(int fd);
/* What its link in /proc shows on Linux: "/dev/kvm", "anon_inode:kvm-vm", "anon_inode:kvm-vcpu:0". False: none of those. */
bool abi_fd_name(int fd, char *name, size_t size);

/*
 * In a handler that stands before the client's. True: not now, return to where the signal
 * came from; it ends KVM_RUN. Either the thread is in a call of ours, and the signal comes again
 * at its end; or the client blocks it outside KVM_RUN and it was let in to end the run only (KVM
 * API: KVM_SET_SIGNAL_MASK): it stays pending until the client unblocks it, as on Linux. One that
 * has no handler of the client's waits for the latter only. Async-signal-safe.
 */
bool abi_hold_signal(int signo, siginfo_t *si, ucontext_t *uc, bool has_handler);

/*
 * For a thread that has signals blocked only because it is inside the library:
 * what its KVM_RUN blocks instead (bit n - 1: signal n), unless the vCPU has a
 * mask by KVM_SET_SIGNAL_MASK. Signals let in end the run; to leave them pending is
 * the caller's handler's affair.
 */
void abi_run_signals(uint64_t blocked);

/*
 * The calling thread of the client's ends, in a way that Linux does not tell the library of: the process does
 * with its last one (host/client_threads.h).
 */
void abi_thread_ends(void);
/* The program has given the kernel a robust list of its own for a thread of the C library's. */
void abi_robust_list_lost(void);

/* Copies from and to client memory that may not be there: 0 or -EFAULT. */
int abi_client_read(void *dst, const void *client_src, size_t n);
int abi_client_write(void *client_dst, const void *src, size_t n);

/*
 * fn sees SEGV, BUS, FPE and ILL of any thread before the library itself does: true, it has dealt with
 * the signal. blocked() hears in threads whose signal mask src/trap keeps whether SIGSEGV is blocked; all_confined(), in
 * a thread where it is, that a filter is about to be set for all threads. Installs the
 * library's handlers; once, before the program has threads. -errno of sigaction().
 */
int abi_first_at_faults(bool (*fn)(int signo, siginfo_t *si, void *ucontext), void (*blocked)(bool),
			void (*all_confined)(void));
/* For src/trap: what came to its handlers, and was fn's; and the telling of the others. */
bool abi_first_sees(int signo, siginfo_t *si, void *ucontext);
void abi_first_blocked(bool is);
void abi_first_confined(void);
/*
 * For who stands before the client's signal masks and handlers: is SIGSEGV to stay open, whatever they say? And: does the
 * client believe it to be blocked in this thread (host/fault.h, host_fault_hold_segv())?
 */
bool abi_keeps_segv_open(void);
bool abi_hold_segv(bool held);
bool abi_segv_is_held(void);
/* Every sigaction() of the program goes through abi_client_action() from now on. */
void abi_owns_sigaction(void);
/*
 * The client may block SEGV, BUS, FPE and ILL: they are open while an ioctl of its is served, and only
 * then. The library asks the kernel at each, unless every change of a thread's mask comes to
 * abi_mask_changed(), as abi_owns_sigmask() promises; so do begin and end of the client's handlers.
 * Async-signal-safe.
 */
void abi_owns_sigmask(void);
void abi_mask_changed(void);
/*
 * For who serves more than ioctls on a thread of the client's (src/trap): the four open from abi_faults_open()
 * to abi_faults_shut() with what it returned, if not 0. One that is sent in between and comes to
 * another handler than the library's goes to abi_fault_keep(): true, it will be pending again.
 */
uint16_t abi_faults_open(void);
void abi_faults_shut(uint16_t opened);
bool abi_fault_keep(int signo, const siginfo_t *si);
/* Pending again as it came: to the thread if it was sent to one. */
void abi_fault_send_again(int signo, siginfo_t *si);
/*
 * And the others: pending again, blocked in the context that goes on; clients_next: its handler is the next
 * to see it, at whose call abi_signal_comes() has to stand. Of those with one number each is handled in its turn.
 */
void abi_signal_leave_pending(int signo, siginfo_t *si, ucontext_t *uc, bool clients_next);
void abi_signal_comes(int signo, siginfo_t *si);
/*
 * The client's sigaction() on a signal the library occupies itself (SEGV, BUS,
 * FPE, ILL): -EINVAL when it is not one of those.
 */
int abi_client_action(int signo, const struct sigaction *act, struct sigaction *old);

/*
 * Around a change of the client's own mappings: what guests have mapped of
 * [addr, addr + length) is dropped before, and looked at again only after it.
 * Async-signal-safe as far as munmap() is.
 */
struct abi_mapping_change {
	uint64_t opaque[3];
};
void abi_mapping_begin(struct abi_mapping_change *c, const void *addr, size_t length);
/* What has become of the range; prot as mprotect(2). */
enum abi_mapping_news {
	ABI_MAPPING_AS_BEFORE, /* also: the change failed, or dropped pages only */
	ABI_MAPPING_GONE,
	ABI_MAPPING_NEW,
	ABI_MAPPING_PROTECTED,
};
void abi_mapping_end(const struct abi_mapping_change *c, enum abi_mapping_news what, int prot);
/* Is this thread in a call of ours, or one of our own? What it maps is not the client's doing then. */
bool abi_in_service(void);
/* MADV_COLD: guests have not accessed that memory for long, until they do again. */
void abi_memory_cold(const void *addr, size_t length);
/*
 * The same around an ioctl of a userfaultfd. False: it takes nothing from
 * guests, and there is no end. Not async-signal-safe.
 */
bool abi_userfault_begin(struct abi_mapping_change *c, unsigned long request, unsigned long arg);
void abi_userfault_end(const struct abi_mapping_change *c);
/* KVM API: "vcpu mmap area". 0; -EINVAL: not with these flags, at this offset; -ENODEV: not this descriptor. */
int abi_may_mmap(int fd, size_t length, int prot, int flags, off_t offset);

/*
 * Idle page tracking of guest memory, for hosts without it (page_idle.c): the file
 * ABI_PAGE_IDLE_BITMAP, with Linux's meaning. Open: a descriptor, or -1 with errno: EACCES (as
 * of a file of root's, mode 0600), ENOENT (ept=0), open(2)'s. Its contents come by
 * abi_page_idle_io() only: a file position is meant where offset is NULL. False: fd is not such a file.
 * *result as of read(2) and write(2), -1 with errno. While abi_page_idle_files is 0 there is none and
 * no need to ask. Async-signal-safe.
 */
#define ABI_PAGE_IDLE_BITMAP "/sys/kernel/mm/page_idle/bitmap"
extern uint32_t abi_page_idle_files; /* (a) */
int abi_page_idle_open(const char *path, int flags);
struct abi_page_idle_call {
	bool write;
	union {
		void *out;
		const void *in; /* write */
	};
	size_t size_bytes;
	const off_t *offset;
};
bool abi_page_idle_io(int fd, const struct abi_page_idle_call *c, ssize_t *result);

/* A KVM_RUN on this vCPU's descriptor ends with -EINTR, if there is one. Any thread. */
void abi_interrupt_run(int fd);

/* Why this host cannot confine vCPUs' threads, in words; NULL: it can (host/confine.h). */
const char *abi_confine_fault(void);
/*
 * What is wrong with a list of USERKVM_INJECT's rules (abi/inject.h), in words in buf; NULL: nothing. For the
 * command, which refuses it before a client starts. Any thread.
 */
const char *abi_inject_fault(const char *list, char *buf, size_t size);

#endif
