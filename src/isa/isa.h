/*
 * What the instruction semantics need from whoever embeds them, and the
 * helpers every handler is written with.
 *
 * Two embedders: the processor (src/cpu, with TLB, paging, VMX) and the
 * hypervisor's MMIO emulator (src/emulate/emulate.c, whose TLB is always empty and
 * whose mem() serves devices). There is one x86, not two.
 */
#ifndef USERKVM_ISA_ISA_H
#define USERKVM_ISA_ISA_H

#include "isa/cpu_state.h"
#include "isa/insn.h"

enum isa_access {
	ISA_READ = 1,
	ISA_WRITE = 2,
	ISA_RMW = 3,	    /* read, and write permission checked first */
	ISA_IMPLICIT = 4,   /* or-ed: implicit supervisor access (GDT, IDT, TSS, …) */
	ISA_UNALIGNED = 8,  /* or-ed: never #AC (gathers, masked moves) */
	ISA_PROBE = 16,	    /* or-ed: the checks are wanted, not the bytes (CLFLUSH) */
	ISA_LAST = 32,	    /* or-ed: the handler returns at once where mem() gives NULL */
};

struct isa_decoded; /* the decoder's own result, isa/decoder.h */

struct isa_ops {
	/*
	 * Slow path of every data access that misses the TLB.
	 * Returns a host pointer through which [lin, lin+size) may be accessed
	 * as `how` says: guest memory itself, or `bounce` (>= size bytes),
	 * filled with the current bytes where how includes ISA_READ. All checks
	 * a write needs are made here. Where it returned bounce for a write,
	 * the caller finishes with mem_commit(), which cannot fault; a LOCKed
	 * instruction may begin again there (unwinding, cs->cc as before it).
	 * Leaves by unwinding on a fault or VM exit; with ISA_LAST a VM exit may
	 * return NULL instead, and what has called the handler then leaves.
	 * size <= 64.
	 */
	void *(*mem)(struct cpu_state *cs, uint64_t lin, unsigned size,
		     enum isa_access how, void *bounce);
	void (*mem_commit)(struct cpu_state *cs, uint64_t lin, unsigned size,
			   const void *bounce);
	/* Deliver cs->exception; cs->cur is the faulting instruction. */
	void (*raise)(struct cpu_state *cs) __attribute__((noreturn));
	/*
	 * Handler of an instruction the isa room does not own (system
	 * instructions: segments, far transfers, CRs, I/O, HLT, CPUID, …), with
	 * *i filled in; may change i->flags/extra/aux. NULL: raise #UD.
	 */
	isa_fn *(*system)(const struct isa_decoded *d, struct isa_insn *i);
	/* cs->pkru has changed in the bits `changed`. NULL: the embedding keeps no translations. */
	void (*pkru_changed)(struct cpu_state *cs, uint32_t changed);
	/*
	 * Of segments and far transfers (isa/segment.h, isa/far.h); an embedding without them leaves them out.
	 * ext_bit: 1 while an event that no INT instruction made is delivered. NULL: never.
	 */
	uint32_t (*ext_bit)(const struct cpu_state *cs);
	/* Set bits of the type in the descriptor at lin, `raw` when it was read. Leaves by unwinding on a fault. */
	void (*descriptor_bit)(struct cpu_state *cs, gva_t lin, uint64_t raw, unsigned bit);
	/* CS, SS or CPL have changed, all of them by now. */
	void (*mode_changed)(struct cpu_state *cs);
	/* To the task of the TSS that `selector` names; the rights of the way to it are checked. */
	void (*task_switch)(struct cpu_state *cs, uint16_t selector, enum task_switch_source source)
		__attribute__((noreturn));
};

/* RIP of the running instruction, and of the one after it. */
static inline uint64_t isa_rip(const struct cpu_state *cs)
{
	return cs->block_rip + cs->cur->off;
}

static inline uint64_t isa_next_rip(const struct cpu_state *cs, const struct isa_insn *i)
{
	return cs->block_rip + i->off + i->len;
}

/* Raise a fault: fills cs->exception and unwinds through ops->raise. */
void isa_raise(struct cpu_state *cs, enum exception_vector v) __attribute__((noreturn));
void isa_raise_error(struct cpu_state *cs, enum exception_vector v, uint32_t error_code)
	__attribute__((noreturn));

/*
 * Memory: inline functions over the software TLB, isa/mem.h (included below).
 *   isa_ea      effective address (offset) of the memory operand
 *   isa_linear  segment offset to linear address, checked
 *   isa_load, isa_store, isa_load_bytes, isa_store_bytes  by linear address
 */

/* The stack, at the current stack width; RSP moves only if the access works. */
void isa_push(struct cpu_state *cs, unsigned size, uint64_t v);
uint64_t isa_pop(struct cpu_state *cs, unsigned size);
/*
 * A segment register: with a 32-bit operand some processors write 16 bits and leave the slot's other
 * half alone, others write zeros there (SDM Vol. 2, "PUSH": implementation-specific; isa/host.h).
 */
void isa_push_sreg(struct cpu_state *cs, unsigned size, uint16_t selector);

/* The operand ModRM.rm names, of `size` bytes: memory, or register i->rm. */
uint64_t isa_read_rm(struct cpu_state *cs, const struct isa_insn *i, unsigned size);

/* A GPR write of `size` bytes with the architecture's zero-extension rule. */
static inline void isa_set_gpr(struct cpu_state *cs, unsigned reg, unsigned size, uint64_t v)
{
	switch (size) {
	case 1: cs->gpr[reg] = (cs->gpr[reg] & ~0xffULL) | (v & 0xff); break;
	case 2: cs->gpr[reg] = (cs->gpr[reg] & ~0xffffULL) | (v & 0xffff); break;
	case 4: cs->gpr[reg] = (uint32_t)v; break;
	default: cs->gpr[reg] = v; break;
	}
}

/*
 * CPUID as the engines implement it: the host's own leaf, masked to what works
 * here (DESIGN: a masked view of the silicon). No VMX, no hypervisor leaves.
 */
void isa_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t regs[4]);

/*
 * RDRAND, RDSEED into register i->rm of i->opsize bytes, for embeddings that let them run; #UD where
 * the host has none. The decoder leaves both to the embedding (isa_ops.system).
 */
void isa_random(struct cpu_state *cs, const struct isa_insn *i, bool seed);

/* Is the address canonical for the current paging depth (CR4.LA57)? */
static inline bool isa_canonical(const struct cpu_state *cs, uint64_t lin)
{
	if (likely(((int64_t)(lin << 16) >> 16) == (int64_t)lin))
		return true;
	return (cs->cr4 & X86_CR4_LA57) && ((int64_t)(lin << 7) >> 7) == (int64_t)lin;
}

#include "isa/mem.h"

#endif
