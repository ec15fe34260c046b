/*
 * Inside the sanitizer of INVEPTs: what is held (l1ept.c), what is told (l1ept_report.c).
 */
#ifndef USERKVM_MMU_L1EPT_INTERNAL_H
#define USERKVM_MMU_L1EPT_INTERNAL_H

#include <pthread.h>

#include "lib/check_log.h"
#include "mmu/internal.h"
#include "mmu/l1ept.h"

#define L1EPT_HOLDS 32768U
#define L1EPT_BUCKETS 16384U
#define L1EPT_LEVELS 5
#define L1EPT_EVENTS 4096U

/* A guest-physical mapping that a vCPU may have cached. */
struct l1ept_hold {
	struct kvm_vcpu *vcpu; /* NULL: free */
	uint64_t eptp;	       /* bits 51:12 */
	gpa_t gpa, page;       /* of L2's and of L1's, of 4 KiB */
	unsigned rights;       /* EPT_RWX of all levels */
	unsigned nr, levels;
	gpa_t entry[L1EPT_LEVELS]; /* the leaf's first */
	uint32_t next_entry, next_page;
	/* its record */
	bool open, settled, said, hidden;
	bool reached; /* L2 has run there while it was open and settled; L1's VM entry was at entered_rip */
	bool dormant; /* an INVEPT has covered it; L2 may have cached it again where it has run since */
	bool dirty, lost_dirty; /* used with its D flag set; that flag, and nothing else, was cleared */
	struct kvm_vcpu *writer;
	uint64_t writer_cr3, writer_fs, writer_rip, entered_rip, when, new;
	gpa_t written;
	uint32_t next_open, prev_open;
	/* USERKVM_GHOST_DEAF: of which hidden INVEPT, from 1; has L2 run there since? */
	uint32_t owed_to;
	bool in_reach;
};

struct l1ept {
	pthread_mutex_t lock;
	struct l1ept_hold *hold; /* from 1 */
	uint32_t used, hand;
	uint32_t by_entry[L1EPT_BUCKETS], by_page[L1EPT_BUCKETS];
	uint8_t upper[L1EPT_BUCKETS / 8];
	uint32_t open; /* the first whose record is open */
	struct { struct kvm_vcpu *vcpu; uint64_t eptp; bool hidden; } entered[64]; /* since the last INVEPT there */
	unsigned nr_entered;
	unsigned deaf, deaf_count;
	uint8_t events[L1EPT_EVENTS]; /* by hidden INVEPT: what is counted of it */
	int log_fd;
	struct check_ranges suppress;
	uint64_t records, closed, in_window, reports, of_hidden, hidden, forgotten;
	uint64_t hidden_owed, hidden_in_reach, hidden_told, records_owed, records_in_reach, records_told;
};

uint64_t l1ept_rip(struct kvm_vcpu *vcpu);
/* The record ends: was an INVEPT of it hidden, could L2 use it behind that, past the end of the writer's operation? */
void l1ept_count_owed(struct l1ept *k, const struct l1ept_hold *h);

void l1ept_report_open(struct l1ept *k);
void l1ept_report_end(struct l1ept *k);
/* With the lock. access: EPT_READ, EPT_WRITE or EPT_EXEC; how: where the access goes now. */
void l1ept_report(struct l1ept *k, struct kvm_vcpu *vcpu, struct l1ept_hold *h, unsigned access, const char *how);
/* With the lock: L2 has run with it in reach, and has not used it. */
void l1ept_report_reachable(struct l1ept *k, struct l1ept_hold *h);

#endif
