/*
 * Inside the sanitizer of INVVPIDs: what is held (l1vpid.c), what is told (l1vpid_report.c).
 */
#ifndef USERKVM_CPU_L1VPID_INTERNAL_H
#define USERKVM_CPU_L1VPID_INTERNAL_H

#include "cpu/l1vpid.h"
#include "lib/check_log.h"
#include "sdm/ept.h"
#include "sdm/paging.h"

#define L1VPID_HOLDS 4096U /* of a processor: past them the oldest goes */
#define L1VPID_ROOTS 16U

/* A translation that a processor may have cached under L1's VPID. */
struct l1vpid_hold {
	bool live, global;
	bool open, settled, said, hidden; /* hidden: an INVVPID of it was (USERKVM_GHOST_DEAF) */
	uint8_t shift, nr, entry_size, changed; /* changed: the entry of e[]; nr: GUEST_CR3 */
	uint16_t vpid, pcid;
	uint64_t eptp, cr3;
	gva_t gva; /* of 4 KiB, as gpa */
	gpa_t gpa;
	uint64_t rights; /* struct ghost_walk's */
	struct { gpa_t gpa; hpa_t host; uint64_t val; } e[GHOST_LEVELS];
	uint64_t when, new, l1_rip;
	uint32_t next;
};

/* What CR3 L2 had when it left. */
struct l1vpid_root {
	bool used;
	uint16_t vpid;
	uint64_t eptp, cr3, cr4;
};

struct l1vpid_machine {
	int log_fd;
	bool vpids; /* USERKVM_CHECK=l1vpid; with l1ept alone only `calm` is kept */
	struct check_ranges suppress;
	unsigned deaf, deaf_count;
	uint64_t lstar; /* (a) IA32_LSTAR while L1 was in user mode last */
	uint64_t records, in_window, reports, of_hidden, hidden, forgotten; /* by all threads: may lose one */
};

struct l1vpid {
	struct l1vpid_machine *m;
	bool active; /* an L2 with a VPID runs */
	bool seen_registers;
	bool calm;	    /* (a) no operation of L1's goes on here */
	uint64_t last_calm; /* (a) when it was so last */
	uint64_t last_l2;   /* (a) when an L2 ran last; ~0: one does */
	uint64_t left;	    /* when L2 left last */
	uint64_t cr0, cr4;
	struct vmx_check_l2 now;
	struct ghost_walk walk;
	struct l1vpid_root root[L1VPID_ROOTS];
	unsigned next_root;
	uint32_t used, hand;
	uint32_t by_page[1024];
	struct l1vpid_hold hold[L1VPID_HOLDS + 1]; /* from 1 */
};

void l1vpid_report_open(struct l1vpid_machine *m);
void l1vpid_report_end(struct l1vpid_machine *m);
/* now: where the access goes; NULL: nowhere. */
void l1vpid_report(struct vmx_cpu *cpu, struct l1vpid_hold *h, gva_t gva, uint32_t access, const struct cpu_walk_result *now);

#endif
