/*
 * seccomp filters as clients put them on themselves, and children to put them on: a filter stays for good.
 */
#ifndef TESTS_CLIENT_FILTER_H
#define TESTS_CLIENT_FILTER_H

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../child.h"

/* First of a filter: what it looks at is the number of the system call. */
#define FILTER_NUMBER BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))
/* The low half of an argument. */
#define FILTER_ARGUMENT(n) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[n]))
#define FILTER_EFFECT(effect) BPF_STMT(BPF_RET | BPF_K, effect)
/* This system call has the effect; the number is still loaded behind it. */
#define FILTER_CALL(name, effect) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##name, 0, 1), FILTER_EFFECT(effect)
#define ALLOW(name) FILTER_CALL(name, SECCOMP_RET_ALLOW)

/* Put an array of rules on; 0, or -1 with errno. flags: of SECCOMP_SET_MODE_FILTER. */
#define FILTER_SET(rules, flags) filter_set(rules, sizeof(rules) / sizeof((rules)[0]), flags)
static inline int filter_set(struct sock_filter *rules, size_t nr, unsigned flags)
{
	struct sock_fprog program = { .len = (unsigned short)nr, .filter = rules };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -1;
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

/* What a child says that was asked for what this kernel does not have. */
#define NOT_HERE 77

/* f() in a child, which is to return 1. */
static inline void in_child(int (*f)(void))
{
	int got = child_with(NULL, NULL, f);

	if (got == NOT_HERE) {
		print_message("skip: this kernel has no such control\n");
		skip();
	}
	assert_int_equal(got, 1);
}

#endif
