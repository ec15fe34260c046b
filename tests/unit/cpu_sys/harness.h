/*
 * A processor without paging and without VMCS for the tests of segments, far
 * transfers, events and system instructions: flat memory of 1 MiB at linear
 * address 0, VM exits recorded instead of taken. Include once per test.
 */
#ifndef USERKVM_TESTS_CPU_SYS_HARNESS_H
#define USERKVM_TESTS_CPU_SYS_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/system.h"
#include "isa/decoder.h"

/* No test uses all of it. */
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wunused-variable"

#define MEM_SIZE 0x100000
#define CODE_AT 0x8000
#define STACK_AT 0x20000 /* top */
#define GDT_AT 0x1000
#define IDT_AT 0x2000
#define TSS_AT 0x3000
#define LDT_AT 0x4000
#define HANDLER_AT 0x9000
#define RING0_STACK 0x30000
#define IST1_STACK 0x38008 /* not aligned: delivery must align it */

enum { SEL_CODE0 = 0x08, SEL_DATA0 = 0x10, SEL_CODE3 = 0x1b, SEL_DATA3 = 0x23,
       SEL_CODE64 = 0x28, SEL_CODE64_3 = 0x33, SEL_CONFORMING = 0x38, SEL_TSS = 0x40,
       SEL_CODE1 = 0x51, SEL_DATA1 = 0x59, SEL_FREE = 0x60, SEL_LAST = 0x78 };

enum outcome { DONE, FAULT, EXIT, UNWOUND };

static uint8_t mem[MEM_SIZE + 64];
static struct vmx_cpu *cpu;
static struct cpu_exit last_exit;
static bool exit_had_event; /* an event was in delivery */
static unsigned nr_flushes, nr_cr3, nr_pdptr_loads;
static bool pdptrs_valid = true;
static uint64_t flushed_address;
static jmp_buf back;
static struct isa_tlb_entry no_tlb[ISA_TLB_ENTRIES];

/* --- what other files of the processor would do --- */

#ifndef VENDOR_ECX
#define VENDOR_ECX 0x6c65746e /* "ntel" */
#endif

static void fake_page_fault(uint64_t lin, enum isa_access how)
{
	cpu->cs.exception = (struct isa_exception){
		.vector = X86_TRAP_PF, .has_error_code = true,
		.error_code = how & ISA_WRITE ? 2 : 0, .payload = lin };
	cpu->cs.ops->raise(&cpu->cs);
}

static void *fake_mem(struct cpu_state *cs, uint64_t lin, unsigned size, enum isa_access how,
		      void *bounce)
{
	if (lin >= MEM_SIZE)
		fake_page_fault(lin, how);
	return mem + lin;
}

static void fake_commit(struct cpu_state *cs, uint64_t lin, unsigned size, const void *bounce)
{
	fail();
}

static void __attribute__((noreturn)) fake_raise(struct cpu_state *cs)
{
	cs->rip = isa_rip(cs);
	longjmp(back, FAULT);
}

static uint32_t fake_ext_bit(const struct cpu_state *cs)
{
	return cpu->event.active && cpu->event.type != INTR_TYPE_SOFT_INTR &&
	       cpu->event.type != INTR_TYPE_SOFT_EXCEPTION;
}

static void fake_descriptor_bit(struct cpu_state *cs, gva_t lin, uint64_t raw, unsigned bit)
{
	uint8_t *p = fake_mem(cs, lin + 5, 1, ISA_RMW | ISA_IMPLICIT, NULL);

	*p |= (uint8_t)bit;
}

static void fake_mode_changed(struct cpu_state *cs)
{
	cpu_mode_changed(cpu_of(cs));
}

static void __attribute__((noreturn)) fake_task_switch(struct cpu_state *cs, uint16_t selector, enum task_switch_source source)
{
	cpu_task_switch(cpu_of(cs), selector, source);
}

static const struct isa_ops fake_ops = {
	.mem = fake_mem,
	.mem_commit = fake_commit,
	.raise = fake_raise,
	.system = cpu_system_handler,
	.ext_bit = fake_ext_bit,
	.descriptor_bit = fake_descriptor_bit,
	.mode_changed = fake_mode_changed,
	.task_switch = fake_task_switch,
};

void cpu_vmexit(struct vmx_cpu *c, const struct cpu_exit *e)
{
	last_exit = *e;
	exit_had_event = c->event.active;
	longjmp(back, EXIT);
}

void cpu_vmexit_insn(struct vmx_cpu *c, uint32_t reason, uint64_t qualification)
{
	struct cpu_exit e = { .reason = reason, .qualification = qualification,
			      .insn_len = c->cs.cur->len, .rip = isa_rip(&c->cs) };
	cpu_vmexit(c, &e);
}

/* The real one returns. */
void cpu_leave_insn(struct vmx_cpu *c, uint32_t reason, uint64_t qualification)
{
	assert_true(c->cs.cur->flags & ISA_ENDS_BLOCK);
	cpu_vmexit_insn(c, reason, qualification);
}

void cpu_unwind(struct vmx_cpu *c)
{
	longjmp(back, UNWOUND);
}

void cpu_mode_changed(struct vmx_cpu *c)
{
	struct cpu_state *cs = &c->cs;
	uint32_t ar = cs->seg[SREG_CS].ar;

	cs->code_mode = cs->efer & EFER_LMA && ar & VMX_AR_L ? ISA_CODE64 :
			ar & VMX_AR_DB ? ISA_CODE32 : ISA_CODE16;
	cs->stack_mode = cs->code_mode == ISA_CODE64 ? ISA_CODE64 :
			 cs->seg[SREG_SS].ar & VMX_AR_DB ? ISA_CODE32 : ISA_CODE16;
}

void cpu_tlb_flush_all(struct vmx_cpu *c) { nr_flushes++; }
void cpu_tlb_flush_cr3(struct vmx_cpu *c, uint64_t v) { nr_cr3++; }
void cpu_tlb_invlpg(struct vmx_cpu *c, gva_t gva) { flushed_address = gva; }
void cpu_tlb_invpcid(struct vmx_cpu *c, unsigned type, uint16_t pcid, gva_t gva) { flushed_address = gva; }
void cpu_tlb_drop_data(struct vmx_cpu *c) { nr_flushes++; }

bool cpu_load_pdptrs(struct vmx_cpu *c, uint64_t cr3)
{
	nr_pdptr_loads++;
	return pdptrs_valid;
}

enum vmx_result vmread(struct vmx_cpu *c, uint32_t field, uint64_t *value)
{
	*value = field == CR3_TARGET_COUNT ? 1 : field == CR3_TARGET_VALUE0 ? 0x7000 : 0;
	return VMX_SUCCEED;
}

/* No VMCS is shadowed. */
bool cpu_vmcs_read(struct vmcs *v, uint32_t field, uint64_t *value) { return false; }
bool cpu_vmcs_write(struct vmcs *v, uint32_t field, uint64_t value) { return false; }

/* No APIC is virtualized. */
bool cpu_apic_read_msr(struct vmx_cpu *c, uint32_t msr, uint64_t *v) { return false; }
bool cpu_apic_write_msr(struct vmx_cpu *c, uint32_t msr, uint64_t v) { return false; }
uint64_t cpu_apic_read_cr8(const struct vmx_cpu *c) { return 0; }
void cpu_apic_write_cr8(struct vmx_cpu *c, uint64_t v) {}

uint64_t vmx_capability_msr(uint32_t msr)
{
	return msr == MSR_IA32_VMX_CR4_FIXED1 ? 0x3727ff : 0;
}

isa_fn *isa_simd_handler(const struct isa_decoded *d, struct isa_insn *i) { return NULL; }
void isa_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t regs[4]) { regs[2] = VENDOR_ECX; }

/* --- memory and tables --- */

static void poke(uint64_t at, unsigned size, uint64_t v) { memcpy(mem + at, &v, size); }
static uint64_t peek(uint64_t at, unsigned size)
{
	uint64_t v = 0;

	memcpy(&v, mem + at, size);
	return v;
}

/* A descriptor from type (S included, 5 bits), DPL, P and the flags G D L (bits 3 2 1). */
static uint64_t descriptor(uint32_t base, uint32_t limit, unsigned type, unsigned dpl, bool p,
			   unsigned flags)
{
	return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)type << 40 |
	       (uint64_t)dpl << 45 | (uint64_t)p << 47 | (uint64_t)(limit >> 16 & 15) << 48 |
	       (uint64_t)flags << 52 | (uint64_t)(base >> 24) << 56;
}

static uint64_t gate(uint16_t selector, uint32_t offset, unsigned type, unsigned dpl, bool p,
		     unsigned params)
{
	return (offset & 0xffff) | (uint64_t)selector << 16 | (uint64_t)params << 32 |
	       (uint64_t)type << 40 | (uint64_t)dpl << 45 | (uint64_t)p << 47 |
	       (uint64_t)(offset >> 16) << 48;
}

static void set_descriptor(uint16_t selector, uint64_t raw)
{
	poke(GDT_AT + (selector & ~7U), 8, raw);
}

static void idt_gate32(unsigned vector, unsigned type, unsigned dpl)
{
	poke(IDT_AT + vector * 8, 8, gate(SEL_CODE0, HANDLER_AT + vector, type, dpl, true, 0));
}

static void idt_gate64(unsigned vector, unsigned type, unsigned dpl, unsigned ist)
{
	poke(IDT_AT + vector * 16, 8, gate(SEL_CODE64, HANDLER_AT + vector, type, dpl, true, ist));
	poke(IDT_AT + vector * 16 + 8, 8, 0);
}

static void load_descriptor(struct cpu_segment *seg, uint16_t selector)
{
	struct isa_descriptor d;

	isa_descriptor_parse(&d, peek(GDT_AT + (selector & ~7U), 8));
	isa_segment_commit(seg, &d, selector);
}

static void set_cpl(uint16_t code, uint16_t data)
{
	struct cpu_state *cs = &cpu->cs;

	load_descriptor(&cs->seg[SREG_CS], code);
	load_descriptor(&cs->seg[SREG_SS], data);
	for (unsigned n = 0; n < NR_SREGS; n++)
		if (n != SREG_CS && n != SREG_SS)
			load_descriptor(&cs->seg[n], data);
	cs->cpl = code & 3;
	cpu_mode_changed(cpu);
}

static void reset_common(void)
{
	struct cpu_state *cs;

	memset(mem, 0, sizeof(mem));
	memset(cpu, 0, sizeof(*cpu));
	for (unsigned n = 0; n < ISA_TLB_ENTRIES; n++)
		no_tlb[n] = (struct isa_tlb_entry){ 1, 1, 1, 0 };
	cs = &cpu->cs;
	cs->ops = &fake_ops;
	cs->owner = cpu;
	cs->tlb = no_tlb;
	cs->rip = CODE_AT;
	cs->gpr[RSP] = STACK_AT;
	cs->dr6 = DR6_ACTIVE_LOW;
	cs->dr7 = DR7_FIXED_1;
	cpu_set_rflags(cs, 2);
	cpu->secondary = (uint32_t)(SECONDARY_EXEC_UNRESTRICTED_GUEST |
				    SECONDARY_EXEC_ENABLE_RDTSCP | SECONDARY_EXEC_ENABLE_INVPCID);
	nr_flushes = nr_cr3 = nr_pdptr_loads = 0;
	pdptrs_valid = true;
	flushed_address = 0;
}

static void reset_real(void)
{
	reset_common();
	for (unsigned n = 0; n < NR_SREGS; n++)
		cpu->cs.seg[n] = (struct cpu_segment){ 0, 0xffff, 0x93, 0 };
	cpu->cs.seg[SREG_SS] = (struct cpu_segment){ 0x10000, 0xffff, 0x93, 0x1000 };
	cpu->cs.gpr[RSP] = 0x8000;
	cpu->cs.cr0 = X86_CR0_ET | X86_CR0_NE;
	cpu->cs.idtr.limit = 0x3ff;
	cpu->cs.tr.ar = 0x8b;
	cpu_mode_changed(cpu);
}

static void set_tables(void)
{
	struct cpu_state *cs = &cpu->cs;

	set_descriptor(SEL_CODE0, descriptor(0, 0xfffff, 0x1a, 0, true, 0xc));
	set_descriptor(SEL_DATA0, descriptor(0, 0xfffff, 0x12, 0, true, 0xc));
	set_descriptor(SEL_CODE3, descriptor(0, 0xfffff, 0x1a, 3, true, 0xc));
	set_descriptor(SEL_DATA3, descriptor(0, 0xfffff, 0x12, 3, true, 0xc));
	set_descriptor(SEL_CODE64, descriptor(0, 0xfffff, 0x1a, 0, true, 0xa));
	set_descriptor(SEL_CODE64_3, descriptor(0, 0xfffff, 0x1a, 3, true, 0xa));
	set_descriptor(SEL_CONFORMING, descriptor(0, 0xfffff, 0x1e, 0, true, 0xc));
	set_descriptor(SEL_TSS, descriptor(TSS_AT, 0x2fff, 0x09, 0, true, 0));
	set_descriptor(SEL_CODE1, descriptor(0, 0xfffff, 0x1a, 1, true, 0xc));
	set_descriptor(SEL_DATA1, descriptor(0, 0xfffff, 0x12, 1, true, 0xc));
	cs->gdtr = (struct cpu_dtable){ GDT_AT, SEL_LAST + 7 };
	cs->idtr = (struct cpu_dtable){ IDT_AT, 0xfff };
	cs->ldtr.ar = (uint32_t)VMX_AR_UNUSABLE;
	cs->tr = (struct cpu_segment){ TSS_AT, 0x2fff, 0x8b, SEL_TSS };
}

static void reset_protected(void)
{
	reset_common();
	set_tables();
	cpu->cs.cr0 = X86_CR0_PE | X86_CR0_ET | X86_CR0_NE;
	poke(TSS_AT + 4, 4, RING0_STACK);
	poke(TSS_AT + 8, 4, SEL_DATA0);
	poke(TSS_AT + 12, 4, RING0_STACK + 0x1000);
	poke(TSS_AT + 16, 4, SEL_DATA1);
	set_cpl(SEL_CODE0, SEL_DATA0);
}

static void reset_long(void)
{
	reset_common();
	set_tables();
	cpu->cs.cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_ET | X86_CR0_NE;
	cpu->cs.cr4 = X86_CR4_PAE;
	cpu->cs.efer = EFER_LME | EFER_LMA | EFER_SCE;
	poke(TSS_AT + 4, 8, RING0_STACK);
	poke(TSS_AT + 0x24, 8, IST1_STACK);
	set_cpl(SEL_CODE64, SEL_DATA0);
}

static void reset_v86(unsigned iopl)
{
	struct cpu_state *cs = &cpu->cs;

	reset_protected();
	cpu_set_rflags(cs, X86_FLAGS_VM | X86_FLAGS_IF | FIELD_PREP(X86_FLAGS_IOPL, iopl));
	for (unsigned n = 0; n < NR_SREGS; n++)
		cs->seg[n] = (struct cpu_segment){ 0x100 * (n + 1) * 16, 0xffff, 0xf3,
						   (uint16_t)(0x100 * (n + 1)) };
	cs->cpl = 3;
	cs->rip = 0x100;
	cs->gpr[RSP] = 0x800;
	cpu_mode_changed(cpu);
}

/* --- running --- */

static struct isa_insn insn;

/* Decode one instruction and run it as if it were at cs->rip. */
static enum outcome run_bytes(const uint8_t *bytes, size_t n)
{
	struct cpu_state *cs = &cpu->cs;
	uint8_t buf[16] = { 0 };
	enum outcome r;

	memcpy(buf, bytes, n);
	assert_int_not_equal(isa_decode(buf, sizeof(buf), cs->code_mode, cs->ops, &insn),
			     ISA_DECODE_PARTIAL);
	cs->block_rip = cs->rip;
	cs->cur = &insn;
	r = (enum outcome)setjmp(back);
	if (r != DONE)
		return r;
	insn.fn(cs, &insn);
	if (!(insn.flags & ISA_ENDS_BLOCK))
		cs->rip = isa_next_rip(cs, &insn);
	return DONE;
}
#define RUN(...)                                                  \
	run_bytes((const uint8_t[]){ __VA_ARGS__ },               \
		  sizeof((const uint8_t[]){ __VA_ARGS__ }))

/* Run a statement that may leave by fault or exit. */
#define TRY(statement)                                        \
	({                                                    \
		enum outcome r_ = (enum outcome)setjmp(back); \
		if (r_ == DONE)                               \
			statement;                            \
		r_;                                           \
	})

#define assert_fault(v, error)                                          \
	do {                                                            \
		assert_int_equal(cpu->cs.exception.vector, (v));        \
		assert_true(cpu->cs.exception.has_error_code);          \
		assert_int_equal(cpu->cs.exception.error_code, (error)); \
	} while (0)

static int harness_setup(void **state)
{
	cpu = aligned_alloc(64, ALIGN_UP(sizeof(*cpu), (size_t)64));
	return cpu ? 0 : -1;
}

static int harness_teardown(void **state)
{
	free(cpu);
	return 0;
}

#endif
