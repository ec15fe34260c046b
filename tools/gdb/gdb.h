/*
 * What the files of `userkvm gdb` share.
 *
 *	gdb ←─ packets: packet.c ─→ stub.c, stub_run.c ←─ frames: session.c ─→ the VM's process (control/debug.h)
 *	                              ↑ registers.c: the guest's registers as gdb numbers them
 */
#ifndef USERKVM_TOOLS_GDB_H
#define USERKVM_TOOLS_GDB_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "control/debug.h"
#include "x86/debugger.h"

/* --- session.c --- */
struct gdb_session {
	int fd;
	pid_t pid;
	bool has_event; /* one that came before a reply: event */
	struct debug_frame event;
	struct debug_frame reply; /* of the last call, and its bytes */
	char bytes[DEBUG_MAX_BYTES];
};

/* False: told why, on stderr. */
bool gdb_session_open(struct gdb_session *s, pid_t pid, uint64_t vm);
/* The reply's status; -EPIPE: the VM is gone, which every later call says as well. */
int gdb_session_call(struct gdb_session *s, const struct debug_frame *request, const void *bytes);
/* The event that makes the session's descriptor readable. False: the VM is gone. */
bool gdb_session_receive_event(struct gdb_session *s, struct debug_frame *event);

/* --- registers.c --- */
enum gdb_arch { GDB_I386, GDB_X86_64 };

#define GDB_REGISTER_MAX 32 /* bytes of a register */

/* Which registers gdb is told of: the architecture's, and what the guest has of XCR0's components. */
struct gdb_target {
	enum gdb_arch arch;
	uint64_t components;
};

unsigned gdb_nr_registers(const struct gdb_target *t);
/* Register n's bytes in gdb's order: how many. 0: there is none. */
unsigned gdb_get_register(const struct gdb_target *t, const struct kvm_debugger_regs *r, unsigned n, uint8_t *out);
/* False: it cannot be written. size bytes have come. */
bool gdb_set_register(const struct gdb_target *t, struct kvm_debugger_regs *r, unsigned n, const uint8_t *in, unsigned size);
/* target.xml, to be freed; NULL: no memory. */
char *gdb_target_xml(const struct gdb_target *t);

/* --- packet.c: gdb's end --- */
#define GDB_PACKET_MAX 0x4000 /* without the frame around it */
struct gdb_link {
	int in, out;
	bool no_ack;
	char buf[GDB_PACKET_MAX * 2];
	size_t len;
	char packet[GDB_PACKET_MAX + 1]; /* the one received, escapes resolved, and a zero byte */
	size_t packet_len;
};

enum gdb_news { GDB_NOTHING, GDB_PACKET, GDB_INTERRUPT, GDB_GONE };
/* What has come: reads where the descriptor is readable, or what an earlier read has left. */
enum gdb_news gdb_receive(struct gdb_link *l, bool readable);
/* False: gdb is gone. */
bool gdb_send(struct gdb_link *l, const char *data, size_t n);
/* Two digits a byte, and a zero byte, which the result points at. */
char *gdb_put_hex(char *p, const void *data, size_t n);
/* How many bytes, at most max; *end behind the digits. */
size_t gdb_get_hex(const char *p, uint8_t *to, size_t max, const char **end);
/* A hexadecimal number and the character behind it, which has to be `then` (0: the end). */
bool gdb_get_number(const char **p, char then, uint64_t *v);

/* --- stub.c --- */
/*
 * Serves until gdb, or the VM, is gone. arch -1: by the vCPU's CPUID. from_start: its vCPUs wait at their first
 * KVM_RUN (USERKVM_GDB=wait). The command's exit status.
 */
int gdb_serve(struct gdb_link *l, struct gdb_session *s, int arch, bool from_start);

#endif
