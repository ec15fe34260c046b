/*
 * Inside control: the reply under construction, and the requests.
 */
#ifndef USERKVM_CONTROL_INTERNAL_H
#define USERKVM_CONTROL_INTERNAL_H

#include "lib/types.h"

struct kvm;

/* --- reply.c: text that grows up to CONTROL_REPLY_MAX --- */
struct reply {
	char *text;
	size_t len, size;
	bool full; /* out of room or memory: the rest is dropped */
	void *session; /* of a debugger's, which the connection is for once the reply is sent; NULL */
};

void reply_line(struct reply *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Drops what there was: `error TEXT`. */
void reply_error(struct reply *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void reply_free(struct reply *r);

/* --- beacon.c: for core files; once, with the first VM --- */
void control_light_beacon(void);

/* --- the requests: kvm is NULL for those without a VM, args the numbers behind it --- */
typedef void request_fn(struct reply *r, struct kvm *kvm, const uint64_t *args);

request_fn control_trace, control_untrace;	/* record.c; args[0] is the descriptor that came, or -1 */
request_fn control_vms, control_stats, control_exits, control_slots;	/* facts.c */
request_fn control_debug;			/* debug_session.c; args[0] is the peer's DEBUG_VERSION */
/* Takes the session and the connection over. */
void control_debug_serve(void *session, int fd);
request_fn control_ept, control_age, control_walk, control_guest;	/* tables.c */
request_fn control_vmcs, control_entry;	/* vmcs.c */
request_fn control_walk2, control_guest2, control_ept2;	/* l2.c */

/* Root and steps of the EPT for a guest-physical address. */
void control_step_lines(struct reply *r, struct kvm *kvm, uint64_t as_id, gpa_t gpa);

/* --- guest.c --- */
/* False: no memory there, or not any more. */
bool control_read_guest(struct kvm *kvm, uint32_t as_id, gpa_t gpa, void *to, size_t n);

/* What a guest's page tables lie in: how it is read, and what is told of an address of it. */
struct guest_memory {
	void (*steps)(const struct guest_memory *m, struct reply *r, gpa_t gpa);
	bool (*read)(const struct guest_memory *m, gpa_t gpa, void *to, size_t n);
};
struct kvm_mmu_guest_view;
/* The lines of `guest` (control.h). */
void control_guest_walk(struct reply *r, const struct guest_memory *m, const struct kvm_mmu_guest_view *g, gva_t gva);

#endif
