/*
 * A line for every ioctl served here, in strace's manner: strace itself no
 * longer sees them, since no system call is made.
 *
 *	ioctl(9, KVM_SET_USER_MEMORY_REGION, {slot=0, …}) = 0 <0.000021>
 *
 * USERKVM_STRACE names the file, `-` is standard error; USERKVM_STRACE_TIMES=1
 * adds the time spent. Read once, at the first open of /dev/kvm. A line leaves
 * by one write(2).
 */
#ifndef USERKVM_ABI_STRACE_H
#define USERKVM_ABI_STRACE_H

#include "lib/types.h"

struct abi_object;

extern bool abi_strace_on; /* (c) after the first open */

void abi_strace_init(void); /* idempotent, any thread */

/* A line in the making; start before the call, end with its result (-errno). */
struct abi_strace {
	unsigned len;
	uint64_t started_ns;
	char text[1400];
};
void abi_strace_start(struct abi_strace *s, const struct abi_object *o, int fd, unsigned long request,
		      unsigned long arg);
void abi_strace_end(struct abi_strace *s, const struct abi_object *o, unsigned long request,
		    unsigned long arg, long result);
void abi_strace_open(const char *path, int flags, long result);

/* names.c: NULL when it is none. */
const char *abi_capability_name(unsigned long cap);
const char *abi_exit_name(uint32_t reason);

#endif
