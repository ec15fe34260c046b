/*
 * The register file: everything an instruction can name, in one block.
 *
 * Invariants
 * 1. gpr[] is in hardware encoding order; rip is canonical at block boundaries
 *    only. Inside a block the address of the running instruction is
 *    block_rip + cur->off (isa_rip()).
 * 2. The six arithmetic flags live in `cc`, as LAHF leaves them in AH (bits
 *    15:8: SF ZF . AF . PF . CF) with OF in bit 0; every other flag lives in
 *    `rflags`, whose arithmetic bits are stale. Use cpu_rflags() and
 *    cpu_set_rflags() for the architectural value.
 * 3. 32-bit results are stored zero-extended; upper halves of GPRs in code16
 *    and code32 are preserved as the hardware leaves them (zero).
 * 4. x87/SSE/AVX state is in `xsave` (standard format, host layout) while
 *    fpu_loaded is 0, in the host's registers while it is 1 (isa/fpu.h). Code
 *    that runs with fpu_loaded == 1 is compiled -mgeneral-regs-only and calls
 *    nothing that is not, libc's mem* included.
 * 5. The hot part stays within small displacements and is what a translator
 *    will address; static_asserts below keep it so.
 *
 * Locks: owned by the thread that runs the vCPU; only exit_request is written
 * by others.
 */
#ifndef USERKVM_ISA_CPU_STATE_H
#define USERKVM_ISA_CPU_STATE_H

#include "lib/types.h"
#include "sdm/regs.h"
#include "sdm/vmx.h"

struct isa_insn;
struct isa_ops;
struct silicon_arena;
struct cpu_state;

enum isa_code_mode { ISA_CODE16, ISA_CODE32, ISA_CODE64, ISA_CODE_MODES };

struct cpu_segment {
	uint64_t base;
	uint32_t limit;
	uint32_t ar; /* VMCS access-rights format, VMX_AR_UNUSABLE included */
	uint16_t selector;
};

/* Rights of data that may be written, with limits that count upwards. */
#define ISA_AR_PLAIN_MASK (VMX_AR_UNUSABLE | VMX_AR_S | VMX_AR_TYPE_CODE | \
			   VMX_AR_TYPE_EXPAND_DOWN | VMX_AR_TYPE_WRITABLE)
#define ISA_AR_PLAIN (VMX_AR_S | VMX_AR_TYPE_WRITABLE)

static inline bool isa_plain_data(const struct cpu_segment *s)
{
	return (s->ar & ISA_AR_PLAIN_MASK) == ISA_AR_PLAIN;
}

struct cpu_dtable {
	uint64_t base;
	uint32_t limit;
};

/*
 * One software-TLB entry: emitted code can test it with one compare.
 * A tag is the page's linear address when the access is allowed without
 * further ado, TLB_NO_ACCESS otherwise (not present, MMIO, page with decoded
 * code (write), D bit not yet set (write), …). host = linear + addend.
 */
struct isa_tlb_entry {
	uint64_t read_tag;
	uint64_t write_tag;
	uint64_t exec_tag;
	uint64_t addend;
};
#define ISA_TLB_BITS 11
#define ISA_TLB_ENTRIES (1u << ISA_TLB_BITS)
/*
 * Not canonical and no page address: neither equal to one nor within a page above one; and with a bit of the
 * offset that no operand's alignment is about, so that it equals no address without the other offset bits either.
 */
#define TLB_NO_ACCESS (BIT_ULL(63) | 0x800)

/* An exception on its way to the IDT (or to a VM exit). */
struct isa_exception {
	uint8_t vector;
	bool has_error_code;
	uint32_t error_code;
	uint64_t payload; /* #PF: CR2; #DB: DR6 bits */
};

struct cpu_state {
	/* --- hot: addressed by every instruction, and by emitted code --- */
	uint64_t gpr[NR_GPRS];
	uint64_t zero;		     /* always 0: an absent base or index register */
	uint64_t rip;
	uint64_t block_rip;	     /* RIP of the running block's first instruction */
	const struct isa_insn *cur;  /* the running instruction */
	struct isa_tlb_entry *tlb;   /* of the current address space and privilege */
	uint64_t rflags;	     /* all but the arithmetic flags */
	uint32_t cc;		     /* arithmetic flags, invariant 2 */
	uint32_t exit_request;	     /* != 0: leave at the next block boundary (atomic) */
	uint64_t spill[4];	     /* for emitted code */
	/* Emitted code (jit/rewrite.h). */
	uint64_t page_lin;	     /* linear address of the page that its code came from */
	uint64_t sp_tag;	     /* a page that the stack may be read and written in, as a tag */
	uint64_t sp_addend;	     /* its addend; goes with the tag that was last compared */
	uint8_t code_mode;	     /* enum isa_code_mode, from CS.L/D, EFER.LMA */
	uint8_t stack_mode;	     /* width of the stack pointer, same enum */
	uint8_t cpl;
	uint8_t fpu_loaded;
	/*
	 * The window: registers at apic_lin of the linear address space that loads take from vapic, by
	 * bits of apic_ok (offset >> 4). The embedding opens it; it is closed while apic_ok is 0. apic_writes: stores
	 * there have been found possible too, and the embedding may make them by itself.
	 */
	uint64_t apic_lin, apic_ok;
	const uint8_t *vapic;
	bool apic_writes;

	/* --- segments and tables --- */
	struct cpu_segment seg[NR_SREGS];
	struct cpu_segment ldtr, tr;
	struct cpu_dtable gdtr, idtr;

	/* --- system registers --- */
	uint64_t cr0, cr2, cr3, cr4, cr8, efer, xcr0;
	bool no_xsaves; /* XSAVES and XRSTORS are #UD (VMX: "enable XSAVES/XRSTORS" is 0) */
	uint64_t dr[4], dr6, dr7;
	uint32_t pkru; /* state component 9, which is not in `xsave`: isa_set_pkru() */

	/* --- the embedding: the processor, or the MMIO emulator --- */
	const struct isa_ops *ops; /* (c) */
	void *owner;		   /* (c) for ops */
	struct silicon_arena *stubs; /* (c) of its decoded instructions (isa/stub.h) */
	void **unwind;		   /* __builtin_setjmp buffer of the running loop */
	struct isa_exception exception; /* what isa_raise() was called with */

	/* XSAVE image of the guest's x87/SSE/AVX state, 64-byte aligned. (c) */
	void *xsave;
	struct {		   /* the host's own, while fpu_loaded */
		uint32_t mxcsr;
		uint16_t fcw;
	} host_fpu;
	/*
	 * The guest's last x87 instruction: the silicon has seen our stub's
	 * address instead. Goes to and from the image in isa_fpu_(un)load().
	 */
	struct {
		uint64_t ip; /* offset of the instruction */
		uint64_t dp; /* offset of its memory operand, of the last that had one */
		uint16_t op; /* low bits of the opcode's first byte << 8 | ModRM */
	} x87;

	/* A buffer for operands that have no host pointer of their own. */
	uint8_t bounce[64] __attribute__((aligned(64)));
} __attribute__((aligned(64)));

static_assert(offsetof(struct cpu_state, fpu_loaded) < 256, "hot state within 256 bytes");
static_assert(offsetof(struct cpu_state, gpr) == 0, "register offsets of isa_insn start at gpr[0]");
static_assert(offsetof(struct cpu_state, zero) == NR_GPRS * 8, "zero follows the registers");

static inline void isa_close_window(struct cpu_state *cs)
{
	cs->apic_ok = 0;
	cs->apic_writes = false;
}

/* LAHF/SETO form of the arithmetic flags. */
#define CC_OF BIT_ULL(0)
#define CC_CF BIT_ULL(8)
#define CC_PF BIT_ULL(10)
#define CC_AF BIT_ULL(12)
#define CC_ZF BIT_ULL(14)
#define CC_SF BIT_ULL(15)

static inline uint64_t cpu_rflags(const struct cpu_state *cs)
{
	return (cs->rflags & ~X86_FLAGS_ARITH) | ((cs->cc >> 8) & 0xd5) |
	       ((uint64_t)(cs->cc & 1) << 11) | X86_FLAGS_FIXED;
}

static inline void cpu_set_rflags(struct cpu_state *cs, uint64_t v)
{
	cs->rflags = (v & ~X86_FLAGS_ARITH) | X86_FLAGS_FIXED;
	cs->cc = (uint32_t)(((v & 0xd5) << 8) | ((v >> 11) & 1));
}

#endif
