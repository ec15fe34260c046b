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
request_fn control_ept, control_age, control_walk, control_guest;	/* tables.c */
request_fn control_vmcs, control_entry;	/* vmcs.c */

#endif
