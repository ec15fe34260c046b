/*
 * What the two files of gdb's stub share: the packets and the loop (stub.c), and how vCPUs stop and run, with what
 * is said of it (stub_run.c).
 *
 * Functions that answer 0 or a negative errno without a note have said nothing to gdb. Those of the replies always
 * answer 0.
 */
#ifndef USERKVM_TOOLS_GDB_STUB_H
#define USERKVM_TOOLS_GDB_STUB_H

#include "tools/gdb/gdb.h"

#define STUB_MAX_VCPUS (DEBUG_MAX_BYTES / sizeof(struct debug_vcpu))
#define SIGNAL_TRAP 5 /* gdb's number */
#define STUB_ALL UINT32_MAX

struct stub {
	struct gdb_link *link;
	struct gdb_session *session;
	struct gdb_target target;
	char *xml;
	bool running, over;
	uint32_t current; /* the vCPU that registers and memory are of (Hg) */
	uint32_t moving;  /* ... that s and c are for (Hc); STUB_ALL */
	bool names_breaks; /* gdb understands swbreak and hwbreak */
	struct debug_vcpu vcpu[STUB_MAX_VCPUS];
	unsigned nr_vcpus;
	char out[GDB_PACKET_MAX + 1];
};

/* --- replies; a gdb that is gone ends the stub --- */
int stub_reply(struct stub *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int stub_ok(struct stub *s);
/* The protocol's errors are two digits of anybody's: r's. */
int stub_failed(struct stub *s, int r);
/* r 0: OK; else stub_failed(). */
int stub_ok_or(struct stub *s, int r);

/* --- the session; -EPIPE, and the stub is over: the VM is gone --- */
/* The reply is in s->session. */
int stub_call(struct stub *s, struct debug_frame f, const void *bytes);
/* Which vCPUs there are: s->vcpu. -ENOENT: none. */
int stub_look(struct stub *s);
bool stub_has_vcpu(const struct stub *s, uint32_t id);
/* Of the current vCPU. */
int stub_get_regs(struct stub *s, struct kvm_debugger_regs *r);
int stub_set_regs(struct stub *s, const struct kvm_debugger_regs *r);
int stub_read_memory(struct stub *s, uint64_t addr, uint32_t n);
int stub_write_memory(struct stub *s, uint64_t addr, const void *data, uint32_t n);

/* --- stopping and running --- */
/* The stop reply. event NULL: nobody has stopped of himself. */
int stub_tell_stop(struct stub *s, int signal, const struct debug_frame *event);
/* The vCPU to begin with: one that has something to do. */
void stub_choose_vcpu(struct stub *s);
/* gdb's Ctrl-C: all vCPUs stop, and a stop reply says so. */
int stub_interrupt(struct stub *s);
/* c, s: the vCPU of Hc, or all. With an address: it goes on there. Answers gdb where it cannot. */
int stub_run_old(struct stub *s, const char *p, enum debug_action action);
/* vCont;ACTION[:THREAD]…: of each vCPU the leftmost that names it, or all. */
int stub_run_vcont(struct stub *s, const char *p);

#endif
