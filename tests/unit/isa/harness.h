/*
 * A processor small enough for a unit test: linear addresses are addresses of
 * this process, inside one window; everything else is #PF.
 */
#ifndef USERKVM_TESTS_ISA_HARNESS_H
#define USERKVM_TESTS_ISA_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "isa/decoder.h"
#include "isa/isa.h"

/* What the other rooms supply: nothing, in these tests. */
__attribute__((weak)) isa_fn *isa_simd_handler(const struct isa_decoded *d, struct isa_insn *i)
{
	return NULL;
}

static struct isa_tlb_entry tlb[ISA_TLB_ENTRIES];
static uint8_t *window;	     /* linear addresses [window, window + window_size) work */
static size_t window_size;
static bool use_bounce;	     /* as for devices: every access through the bounce buffer */
static unsigned nr_commits;
static jmp_buf raised;

static void *fake_mem(struct cpu_state *cs, uint64_t lin, unsigned size, enum isa_access how,
		      void *bounce)
{
	uint64_t first = (uintptr_t)window;

	if (lin - first > window_size - size) {
		cs->cr2 = lin;
		isa_raise_error(cs, X86_TRAP_PF, (how & ISA_WRITE) ? 2 : 0);
	}
	if (use_bounce) {
		if (how & ISA_READ)
			memcpy(bounce, (void *)(uintptr_t)lin, size);
		return bounce;
	}
	if ((lin & ~PAGE_MASK) + size <= PAGE_SIZE) {
		struct isa_tlb_entry *e = &tlb[(lin >> PAGE_SHIFT) & (ISA_TLB_ENTRIES - 1)];

		*e = (struct isa_tlb_entry){ lin & PAGE_MASK, lin & PAGE_MASK, TLB_NO_ACCESS, 0 };
	}
	return (void *)(uintptr_t)lin;
}

static void fake_commit(struct cpu_state *cs, uint64_t lin, unsigned size, const void *bounce)
{
	nr_commits++;
	memcpy((void *)(uintptr_t)lin, bounce, size);
}

static __attribute__((noreturn)) void fake_raise(struct cpu_state *cs)
{
	longjmp(raised, 1);
}

static const struct isa_ops fake_ops = {
	.mem = fake_mem, .mem_commit = fake_commit, .raise = fake_raise,
};

static void flush_tlb(void)
{
	unsigned k;

	for (k = 0; k < ISA_TLB_ENTRIES; k++)
		tlb[k] = (struct isa_tlb_entry){ TLB_NO_ACCESS, TLB_NO_ACCESS, TLB_NO_ACCESS, 0 };
}

static void reset_cpu(struct cpu_state *cs, enum isa_code_mode mode)
{
	unsigned k;

	memset(cs, 0, sizeof(*cs));
	cs->ops = &fake_ops;
	cs->tlb = tlb;
	cs->code_mode = cs->stack_mode = mode;
	cs->cr0 = X86_CR0_PE;
	cs->rflags = X86_FLAGS_FIXED;
	for (k = 0; k < NR_SREGS; k++)
		cs->seg[k] = (struct cpu_segment){
			.limit = 0xffffffff,
			.ar = VMX_AR_P | VMX_AR_S | VMX_AR_TYPE_WRITABLE | VMX_AR_TYPE_ACCESSED |
			      VMX_AR_DB | VMX_AR_G | (k == SREG_CS ? VMX_AR_TYPE_CODE : 0),
		};
	flush_tlb();
	use_bounce = false;
	nr_commits = 0;
}

/* Run one instruction at `rip`; false when it raised. cs->rip: where it goes on. */
static bool run_one(struct cpu_state *cs, const void *bytes, size_t n, uint64_t rip)
{
	struct isa_insn i;
	enum isa_decode_result r = isa_decode(bytes, n, cs->code_mode, cs->ops, &i);

	assert_int_not_equal(r, ISA_DECODE_PARTIAL);
	cs->rip = cs->block_rip = rip;
	cs->cur = &i;
	if (setjmp(raised))
		return false;
	i.fn(cs, &i);
	if (!(i.flags & ISA_ENDS_BLOCK))
		cs->rip = rip + i.len;
	cs->cur = NULL;
	return true;
}

#endif
