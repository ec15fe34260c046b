/*
 * Task switches, which VMX leaves to the hypervisor (SDM Vol. 3, "Task
 * Switching", tables "Exception Conditions Checked During a Task Switch",
 * figures "32-Bit Task-State Segment", "16-Bit TSS Format").
 *
 * The switch runs on the emulator's register file, by isa/segment.h's rules of descriptors and rights.
 *
 * Invariants
 * 1. A fault found before the new task is committed to is raised in the old one, whose registers have not changed.
 * 2. The segments of the new task are checked one after the other in the new: commit() puts each into the vCPU before the
 *    next is looked at.
 */
#include <string.h>

#include "emulate/internal.h"
#include "lib/error.h"
#include "sdm/descriptor.h"
#include "sdm/paging.h"

struct tss32 {
	uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags;
	uint32_t gpr[8];
	uint32_t es, cs, ss, ds, fs, gs, ldt;
	uint16_t t, io_map;
} __attribute__((packed));
static_assert(sizeof(struct tss32) == 104, "32-Bit Task-State Segment");

struct tss16 {
	uint16_t link, sp0, ss0, sp1, ss1, sp2, ss2, ip, flags;
	uint16_t gpr[8];
	uint16_t es, cs, ss, ds, ldt;
} __attribute__((packed));
static_assert(sizeof(struct tss16) == 44, "16-Bit TSS Format");

/* Implicit supervisor accesses; n is a multiple of 4. */
static void read_words(struct cpu_state *cs, gva_t lin, void *to, unsigned n)
{
	for (unsigned k = 0; k < n; k += 4) {
		uint32_t v = (uint32_t)isa_sys_load(cs, lin + k, 4);

		memcpy((char *)to + k, &v, 4);
	}
}

static void write_words(struct cpu_state *cs, gva_t lin, const void *from, unsigned n)
{
	for (unsigned k = 0; k < n; k += 4) {
		uint32_t v;

		memcpy(&v, (const char *)from + k, 4);
		isa_sys_store(cs, lin + k, 4, v);
	}
}

/* What the new task has so far is the vCPU's. */
static void commit(struct cpu_state *cs)
{
	struct emulator_sys *sys = kvm_emulator_sys(cs);

	kvm_emulator_mode_changed(cs);
	kvm_emulator_store(kvm_emulator_vcpu(cs), cs, sys);
	sys->dirty_segs = 0;
	sys->dirty_system_segs = false;
}

/* A TSS descriptor's busy bit. */
static void set_busy(struct cpu_state *cs, uint16_t selector, bool busy)
{
	struct isa_descriptor d;
	uint8_t type;

	if (!isa_descriptor_read(cs, selector, &d))
		isa_selector_fault(cs, X86_TRAP_TS, selector);
	type = (uint8_t)(d.raw >> 40);
	isa_sys_store(cs, d.lin + 5, 1, busy ? type | SYS_TSS_BUSY : type & ~SYS_TSS_BUSY);
}

/* What both formats have, in fields of their own width. */
#define SAVE_COMMON(cs, tss)                                           \
	do {                                                           \
		for (unsigned i = 0; i < 8; i++)                       \
			(tss).gpr[i] = (__typeof__((tss).gpr[i]))(cs)->gpr[i]; \
		(tss).es = (cs)->seg[SREG_ES].selector;                \
		(tss).cs = (cs)->seg[SREG_CS].selector;                \
		(tss).ss = (cs)->seg[SREG_SS].selector;                \
		(tss).ds = (cs)->seg[SREG_DS].selector;                \
	} while (0)
#define READ_COMMON(task, tss)                              \
	do {                                                \
		(task)->seg[SREG_ES] = (uint16_t)(tss).es;  \
		(task)->seg[SREG_CS] = (uint16_t)(tss).cs;  \
		(task)->seg[SREG_SS] = (uint16_t)(tss).ss;  \
		(task)->seg[SREG_DS] = (uint16_t)(tss).ds;  \
		(task)->ldt = (uint16_t)(tss).ldt;          \
	} while (0)

/* From EIP to GS: the rest is not the processor's to write. */
static void save_old(struct cpu_state *cs, bool clear_nt)
{
	uint64_t flags = cpu_rflags(cs) & ~(clear_nt ? X86_FLAGS_NT : 0);
	struct tss32 t;
	struct tss16 t16;

	if (cs->tr.ar & 8) {
		read_words(cs, cs->tr.base, &t, sizeof(t));
		t.eip = (uint32_t)cs->rip;
		t.eflags = (uint32_t)flags;
		SAVE_COMMON(cs, t);
		t.fs = cs->seg[SREG_FS].selector;
		t.gs = cs->seg[SREG_GS].selector;
		write_words(cs, cs->tr.base + offsetof(struct tss32, eip), &t.eip,
			    offsetof(struct tss32, ldt) - offsetof(struct tss32, eip));
		return;
	}
	read_words(cs, cs->tr.base, &t16, sizeof(t16));
	t16.ip = (uint16_t)cs->rip;
	t16.flags = (uint16_t)flags;
	SAVE_COMMON(cs, t16);
	write_words(cs, cs->tr.base + offsetof(struct tss16, ip), &t16.ip,
		    offsetof(struct tss16, ldt) - offsetof(struct tss16, ip));
}
static_assert((offsetof(struct tss16, ldt) - offsetof(struct tss16, ip)) % 4 == 0, "whole words");

/* A segment register of the new task, at its level. */
static void load_segment(struct cpu_state *cs, enum sreg nr, uint16_t selector, unsigned cpl)
{
	struct isa_descriptor d;
	bool fits;

	if (isa_selector_null(selector)) {
		if (nr == SREG_CS || nr == SREG_SS)
			isa_selector_fault(cs, X86_TRAP_TS, selector);
		isa_segment_null(&cs->seg[nr], selector, 0);
		return;
	}
	if (!isa_descriptor_read(cs, selector, &d))
		isa_selector_fault(cs, X86_TRAP_TS, selector);
	fits = nr == SREG_CS   ? isa_ar_fits_cs(d.ar, cpl)
	       : nr == SREG_SS ? isa_ar_fits_ss(d.ar, selector & 3, cpl)
			       : isa_ar_fits_data(d.ar, selector & 3, cpl);
	if (!fits)
		isa_selector_fault(cs, X86_TRAP_TS, selector);
	if (!(d.ar & VMX_AR_P))
		isa_selector_fault(cs, nr == SREG_SS ? X86_TRAP_SS : X86_TRAP_NP, selector);
	isa_descriptor_set_accessed(cs, &d);
	isa_segment_commit(&cs->seg[nr], &d, selector);
}

static void load_ldt(struct cpu_state *cs, uint16_t selector)
{
	struct isa_descriptor d;

	isa_segment_null(&cs->ldtr, selector, 0);
	kvm_emulator_sys(cs)->dirty_system_segs = true;
	commit(cs);
	if (isa_selector_null(selector))
		return;
	if ((selector & 4) || !isa_descriptor_read(cs, selector, &d))
		isa_selector_fault(cs, X86_TRAP_TS, selector);
	if ((d.ar & (VMX_AR_S | VMX_AR_P)) != VMX_AR_P || isa_ar_type(d.ar) != SYS_LDT)
		isa_selector_fault(cs, X86_TRAP_TS, selector);
	isa_segment_commit(&cs->ldtr, &d, selector);
	kvm_emulator_sys(cs)->dirty_system_segs = true;
	commit(cs);
}

/* Both TSS formats in one. */
struct new_task {
	uint32_t cr3, eip, eflags, gpr[8];
	uint16_t seg[NR_SREGS], ldt;
	bool wide;
};

static void read_new(struct cpu_state *cs, const struct isa_descriptor *tss, struct new_task *n)
{
	struct tss32 t;
	struct tss16 t16;

	memset(n, 0, sizeof(*n));
	n->wide = tss->ar & 8;
	if (n->wide) {
		read_words(cs, tss->base, &t, sizeof(t));
		n->cr3 = t.cr3;
		n->eip = t.eip;
		n->eflags = t.eflags;
		memcpy(n->gpr, t.gpr, sizeof(n->gpr));
		READ_COMMON(n, t);
		n->seg[SREG_FS] = (uint16_t)t.fs;
		n->seg[SREG_GS] = (uint16_t)t.gs;
		return;
	}
	read_words(cs, tss->base, &t16, sizeof(t16));
	n->eip = t16.ip;
	n->eflags = t16.flags;
	for (unsigned i = 0; i < 8; i++)
		n->gpr[i] = t16.gpr[i] | 0xffff0000U;
	READ_COMMON(n, t16);
}

static void load_new(struct cpu_state *cs, const struct new_task *n)
{
	static const enum sreg order[] = { SREG_CS, SREG_SS, SREG_ES, SREG_DS, SREG_FS, SREG_GS };
	unsigned cpl = n->eflags & X86_FLAGS_VM ? 3 : n->seg[SREG_CS] & 3U;

	if (n->wide && (cs->cr0 & X86_CR0_PG)) {
		if (kvm_set_cr3(kvm_emulator_vcpu(cs), n->cr3))
			isa_raise_error(cs, X86_TRAP_GP, 0);
		cs->cr3 = n->cr3;
	}
	cs->rip = n->eip;
	cpu_set_rflags(cs, n->eflags | X86_FLAGS_FIXED);
	for (unsigned i = 0; i < 8; i++)
		cs->gpr[i] = n->gpr[i];
	load_ldt(cs, n->ldt);
	for (size_t i = 0; i < ARRAY_SIZE(order); i++) {
		if (n->eflags & X86_FLAGS_VM)
			isa_load_seg_real(cs, order[i], n->seg[order[i]]);
		else
			load_segment(cs, order[i], n->seg[order[i]], cpl);
		cs->cpl = (uint8_t)cpl;
		kvm_emulator_sys(cs)->dirty_segs = 1U << order[i];
		commit(cs);
	}
}

/* On the new task's stack, as any push: #SS(0) beyond its limit. */
static void push_error_code(struct cpu_state *cs, uint32_t error_code, bool wide)
{
	struct isa_stack st;

	isa_stack_current(cs, &st);
	isa_stack_push(&st, wide ? 4 : 2, error_code);
	isa_stack_commit(&st);
	commit(cs);
}

/* As an instruction's handler: e->task says which switch. */
static void switch_task(struct cpu_state *cs, const struct isa_insn *i)
{
	const struct emulator_task *t = &kvm_emulator_of(cs)->task;
	struct kvm_vcpu *vcpu = kvm_emulator_vcpu(cs);
	bool returns = t->source == TASK_SWITCH_IRET;
	uint16_t old = cs->tr.selector;
	struct isa_descriptor tss;
	struct new_task task;

	if ((t->selector & 4) || isa_selector_null(t->selector) || !isa_descriptor_read(cs, t->selector, &tss))
		isa_selector_fault(cs, returns ? X86_TRAP_TS : X86_TRAP_GP, t->selector);
	if (!(tss.ar & VMX_AR_P))
		isa_selector_fault(cs, X86_TRAP_NP, t->selector);
	if (tss.limit < sdm_tss_least_limit(isa_ar_type(tss.ar)))
		isa_selector_fault(cs, X86_TRAP_TS, t->selector);

	if (returns || t->source == TASK_SWITCH_JMP)
		set_busy(cs, old, false);
	save_old(cs, returns);
	read_new(cs, &tss, &task);
	if (t->source == TASK_SWITCH_CALL || t->source == TASK_SWITCH_GATE) {
		isa_sys_store(cs, tss.base, 2, old);
		task.eflags |= X86_FLAGS_NT;
	}
	if (!returns)
		set_busy(cs, t->selector, true);
	/* from here on it is the new task's fault */
	cs->cr0 |= X86_CR0_TS;
	vmx_set_cr0(vcpu, cs->cr0);
	isa_segment_commit(&cs->tr, &tss, t->selector);
	cs->tr.ar |= SYS_TSS_BUSY;
	kvm_emulator_sys(cs)->dirty_system_segs = true;
	commit(cs);
	vcpu->arch->dr7 &= ~0x155ULL; /* the local breakpoints, LE */
	kvm_update_dr7(vcpu);
	load_new(cs, &task);
	if (t->has_error_code)
		push_error_code(cs, t->error_code, task.wide);
}

int kvm_task_switch(struct kvm_vcpu *vcpu, uint16_t selector, int source, bool has_error_code,
		    uint32_t error_code, int idt_vector)
{
	int r;

	vcpu->arch->emulator->task = (struct emulator_task){
		.selector = selector, .source = (enum task_switch_source)source,
		.has_error_code = has_error_code, .error_code = error_code,
	};
	r = kvm_emulator_run_alone(vcpu, switch_task);
	vmx_set_interrupt_shadow(vcpu, 0);
	kvm_make_request(KVM_REQ_EVENT, vcpu);
	return r;
}
