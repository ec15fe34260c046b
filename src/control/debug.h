/*
 * What a debugger in another process and a VM's process say to each other (`userkvm gdb`).
 *
 * The control socket's request `debug SERIAL VERSION` turns its connection, once answered with `ok`, into a
 * session: frames of struct debug_frame, each followed by `size` bytes. Each request has one reply with its op; a
 * DEBUG_EVENT may come before a reply, and comes only while vCPUs run. The session's end, by whichever side's, sets
 * the guest free: breakpoints go, all vCPUs run.
 *
 * Both sides are of one machine: structures are as they lie in memory. A session begins with the guest running.
 *
 *	op	        request                              reply's status and bytes
 *	DEBUG_STOP      -                                    0; every vCPU is on hold
 *	DEBUG_VCPUS     -                                    0; struct debug_vcpu each
 *	DEBUG_GET_REGS  vcpu                                 0; struct kvm_debugger_regs
 *	DEBUG_SET_REGS  vcpu; struct kvm_debugger_regs       0, -EINVAL
 *	DEBUG_READ      vcpu, addr, length                   as many bytes as there are: at least one, or -EFAULT
 *	DEBUG_WRITE     vcpu, addr; bytes                    0, -EFAULT
 *	DEBUG_INSERT    vcpu, addr, length, kind             0, -EFAULT, -ENOSPC
 *	DEBUG_REMOVE    the same                             0, -ENOENT
 *	DEBUG_RUN       uint32_t id, enum debug_action each  0
 *	DEBUG_EVENT                                          (from the VM) vcpu, kind, addr: all are on hold
 *
 * addr: linear, by the vCPU's page tables as they are then. Only DEBUG_STOP and DEBUG_VCPUS are answered while vCPUs run;
 * the others with -EBUSY.
 */
#ifndef USERKVM_CONTROL_DEBUG_H
#define USERKVM_CONTROL_DEBUG_H

#include "lib/types.h"

#define DEBUG_VERSION 2
#define DEBUG_MAX_BYTES 16384 /* behind a frame */

enum debug_op {
	DEBUG_STOP = 1, DEBUG_VCPUS, DEBUG_GET_REGS, DEBUG_SET_REGS, DEBUG_READ, DEBUG_WRITE,
	DEBUG_INSERT, DEBUG_REMOVE, DEBUG_RUN, DEBUG_EVENT
};

/* Of a breakpoint: gdb's numbers of Z packets. Of an event: which was hit. */
enum debug_kind { DEBUG_SOFT, DEBUG_HARD, DEBUG_WATCH_WRITE, DEBUG_WATCH_READ, DEBUG_WATCH_ACCESS, DEBUG_STEP };
enum debug_action { DEBUG_STAY, DEBUG_CONTINUE, DEBUG_ONE_STEP };

struct debug_frame {
	uint32_t op;
	uint32_t size; /* bytes behind it */
	int32_t status; /* 0, -errno */
	uint32_t vcpu; /* its id */
	uint32_t kind;
	uint32_t length;
	uint64_t addr;
};

struct debug_vcpu {
	uint32_t id;
	bool halted;
	bool parked; /* its thread is in KVM_RUN, on hold */
	bool long_mode; /* its CPUID has it; false while vCPUs run */
};

struct debug_run {
	uint32_t id, action;
};

#endif
