/*
 * Segments: modes, access rights, descriptors and their loads, by one set of rules for the processor and the
 * emulator. Every function may leave by isa_ops.raise() or out of isa_ops.mem(); none changes a register before that.
 *
 * What differs by embedding comes in by isa_ops: memory, the EXT bit of error codes, how a bit is set in a
 * descriptor that lies in memory.
 *
 * Source: SDM Vol. 3, "Protection". Locks: none; all of it runs on the vCPU's thread.
 */
#ifndef USERKVM_ISA_SEGMENT_H
#define USERKVM_ISA_SEGMENT_H

#include "isa/isa.h"
#include "sdm/descriptor.h"

/*
 * Modes. Real-address and virtual-8086 mode share the segment arithmetic;
 * isa_protected() is everything else.
 */
static inline bool isa_v86(const struct cpu_state *cs)
{
	return (cs->rflags & X86_FLAGS_VM) != 0;
}

static inline bool isa_real(const struct cpu_state *cs)
{
	return !(cs->cr0 & X86_CR0_PE);
}

static inline bool isa_protected(const struct cpu_state *cs)
{
	return !isa_real(cs) && !isa_v86(cs);
}

static inline bool isa_ia32e(const struct cpu_state *cs)
{
	return (cs->efer & EFER_LMA) != 0;
}

static inline bool isa_code64(const struct cpu_state *cs)
{
	return cs->code_mode == ISA_CODE64;
}

static inline unsigned isa_iopl(const struct cpu_state *cs)
{
	return (unsigned)FIELD_GET(X86_FLAGS_IOPL, cs->rflags);
}

/*
 * SDM Vol. 3, "Virtual-8086 Mode Extensions" and "Protected-Mode Virtual Interrupts": IOPL
 * forbids IF to this level, and VIF stands for it.
 */
static inline bool isa_virtual_if(const struct cpu_state *cs)
{
	if (cs->cpl != 3 || isa_iopl(cs) == 3)
		return false;
	return (cs->cr4 & (isa_v86(cs) ? X86_CR4_VME : X86_CR4_PVI)) != 0;
}

/* RFLAGS as a task of IOPL 3 would have them: IF shows VIF. */
static inline uint64_t isa_virtual_flags(uint64_t rflags)
{
	return (rflags & ~X86_FLAGS_IF) | X86_FLAGS_IOPL | (rflags & X86_FLAGS_VIF ? X86_FLAGS_IF : 0);
}

static inline bool isa_selector_null(uint16_t selector)
{
	return (selector & ~3) == 0;
}

/* --- access rights, as the VMCS has them --- */

static inline unsigned isa_ar_type(uint32_t ar)
{
	return ar & VMX_AR_TYPE_MASK;
}

static inline unsigned isa_ar_dpl(uint32_t ar)
{
	return (unsigned)FIELD_GET(VMX_AR_DPL_MASK, ar);
}

static inline bool isa_ar_code(uint32_t ar)
{
	return (ar & (VMX_AR_S | VMX_AR_TYPE_CODE)) == (VMX_AR_S | VMX_AR_TYPE_CODE);
}

static inline bool isa_ar_conforming(uint32_t ar)
{
	return isa_ar_code(ar) && (ar & VMX_AR_TYPE_EXPAND_DOWN);
}

static inline bool isa_ar_writable_data(uint32_t ar)
{
	return (ar & (VMX_AR_S | VMX_AR_TYPE_CODE | VMX_AR_TYPE_WRITABLE)) ==
	       (VMX_AR_S | VMX_AR_TYPE_WRITABLE);
}

/*
 * May a segment with these rights go into the register? What is said of the selector's RPL is in `rpl`; that
 * the segment is present is another question.
 */
static inline bool isa_ar_fits_ss(uint32_t ar, unsigned rpl, unsigned cpl)
{
	return rpl == cpl && isa_ar_writable_data(ar) && isa_ar_dpl(ar) == cpl;
}

/* DS, ES, FS, GS: data, or code that can be read. */
static inline bool isa_ar_fits_data(uint32_t ar, unsigned rpl, unsigned cpl)
{
	if (!(ar & VMX_AR_S) || (isa_ar_code(ar) && !(ar & VMX_AR_TYPE_WRITABLE)))
		return false;
	return isa_ar_conforming(ar) || (rpl <= isa_ar_dpl(ar) && cpl <= isa_ar_dpl(ar));
}

/* CS, after which CPL is `cpl`, by a return or a task switch. */
static inline bool isa_ar_fits_cs(uint32_t ar, unsigned cpl)
{
	return isa_ar_code(ar) && (isa_ar_conforming(ar) ? isa_ar_dpl(ar) <= cpl : isa_ar_dpl(ar) == cpl);
}

/* --- descriptors --- */

/* A segment or system descriptor, taken apart. */
struct isa_descriptor {
	uint64_t raw;
	gva_t lin;	/* where it lies */
	uint64_t base;	/* 64 bits for 16-byte system descriptors */
	uint32_t limit; /* in bytes, granularity applied */
	uint32_t ar;	/* VMCS format */
	uint16_t selector;
};

/* #TS, #NP, #SS or #GP with a selector (RPL dropped) and EXT as error code. */
void isa_selector_fault(struct cpu_state *cs, enum exception_vector v, uint16_t selector) __attribute__((noreturn));
/* The EXT bit of error codes: 1 while an event that no INT instruction made is delivered. */
uint32_t isa_ext_bit(const struct cpu_state *cs);
/* Implicit supervisor accesses: GDT, LDT, IDT, TSS. Up to 8 bytes. */
uint64_t isa_sys_load(struct cpu_state *cs, gva_t lin, unsigned size);
void isa_sys_store(struct cpu_state *cs, gva_t lin, unsigned size, uint64_t v);

void isa_descriptor_parse(struct isa_descriptor *d, uint64_t raw);
/* Read the descriptor of a non-null selector; false: outside its table. */
bool isa_descriptor_read(struct cpu_state *cs, uint16_t selector, struct isa_descriptor *d);
/* Bits 127:64 of a 16-byte system descriptor; false: outside its table. */
bool isa_descriptor_read_high(struct cpu_state *cs, uint16_t selector, uint64_t *high);
/* The accessed bit, in memory and in d. */
void isa_descriptor_set_accessed(struct cpu_state *cs, struct isa_descriptor *d);
/* LAR, LSL, VERR, VERW: may the descriptor be seen from here? */
bool isa_descriptor_visible(struct cpu_state *cs, uint16_t selector, struct isa_descriptor *d);

/* --- segment registers --- */

/* Commit a descriptor to a segment register; nothing can fault. */
void isa_segment_commit(struct cpu_segment *seg, const struct isa_descriptor *d, uint16_t selector);
/* Null selector: unusable; `dpl` is kept in the rights, as SS needs it. */
void isa_segment_null(struct cpu_segment *seg, uint16_t selector, unsigned dpl);
/* Is [offset, offset + size) inside the segment (not used in 64-bit mode)? */
bool isa_segment_covers(const struct cpu_segment *seg, uint64_t offset, unsigned size);
/* Load ES SS DS FS GS as the mode says (real, v86, protected); not CS. */
void isa_load_sreg(struct cpu_state *cs, enum sreg nr, uint16_t selector);
/* Real-mode style load: base = selector << 4, limit and rights kept. */
void isa_load_seg_real(struct cpu_state *cs, enum sreg nr, uint16_t selector);
/* MOV/POP/Lxx to a data segment or SS with all protected-mode checks. */
void isa_load_seg(struct cpu_state *cs, enum sreg nr, uint16_t selector);
/* Check SS for privilege level `pl`; faults with `v` (#GP or #TS) or #SS. */
void isa_check_ss(struct cpu_state *cs, uint16_t selector, unsigned pl, enum exception_vector v,
		  struct isa_descriptor *d);
void isa_load_ldtr(struct cpu_state *cs, uint16_t selector);
void isa_load_tr(struct cpu_state *cs, uint16_t selector);
/* #GP(0) (with EXT) unless `offset` may be RIP in the code segment with rights ar and limit. */
void isa_check_rip(struct cpu_state *cs, uint32_t ar, uint32_t limit, uint64_t offset);

#endif
