/*
 * A processor that does nothing: it keeps VMCS fields, counts invalidations,
 * and "runs" a guest by letting the test say what the exit is. It stands in
 * for the cpu room, whose archive is then not linked.
 */
#ifndef TEST_VMX_FAKE_PROCESSOR_H
#define TEST_VMX_FAKE_PROCESSOR_H

#include "cpu/vmx_isa.h"

struct fake_processor {
	uint64_t field[0x8000];
	unsigned nr_launches, nr_resumes, nr_invept, nr_invvpid, nr_kicks;
	uint64_t last_eptp;
	/* the next entry: its result and, when it succeeds, its exit */
	enum vmx_result entry_result;
	uint32_t exit_reason, idt_vectoring_info, exit_insn_len;
	uint64_t exit_qualification, gpa;
};
extern struct fake_processor fake;

#endif
