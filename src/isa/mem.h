/*
 * Guest memory as instructions see it: effective address, segmentation, and
 * the inline look-up of the software TLB. Included by isa/isa.h.
 *
 * Invariants
 * 1. A look-up hits iff the page of the *last* byte equals the tag of the slot
 *    chosen by the *first* byte: an access that crosses a page misses always,
 *    because neighbouring pages have different slots.
 * 2. write_tag is only valid where read_tag is: a pointer from isa_rmw() may be
 *    read and written.
 * 3. Aligned accesses of up to 8 bytes are one host access, hence atomic.
 * 4. A locked access that is not aligned to its size misses always: the slow path sees to it that the host
 *    never locks more than one cache line (cpu/bus_lock.c).
 */
#ifndef USERKVM_ISA_MEM_H
#define USERKVM_ISA_MEM_H

#include "isa/isa.h"

#define ISA_INLINE static inline __attribute__((always_inline))

/* A register (or cpu_state.zero) by the byte offset an isa_insn holds. */
#define ISA_REG(cs, off, T) (*(T *)((char *)(cs)->gpr + (off)))

/* Effective address (offset) of the memory operand, truncated to adsize. */
ISA_INLINE uint64_t isa_ea(const struct cpu_state *cs, const struct isa_insn *i)
{
	uint64_t ea;

	if (i->flags & ISA_RIP_RELATIVE)
		ea = isa_next_rip(cs, i) + (uint64_t)i->disp;
	else
		ea = ISA_REG(cs, i->base_off, uint64_t) +
		     (ISA_REG(cs, i->index_off, uint64_t) << i->shift) + (uint64_t)i->disp;
	if (likely(i->adsize == 8))
		return ea;
	return i->adsize == 4 ? (uint32_t)ea : (uint16_t)ea;
}

/*
 * Segment offset to linear address, with every check of a data access of
 * `size` bytes: in 64-bit mode the base of FS and GS only (canonicality is the
 * slow path's); else limit, type and null checks: #SS(0) for SS, #GP(0)
 * otherwise. SDM Vol. 3, "Limit Checking", "Type Checking".
 */
uint64_t isa_linear(struct cpu_state *cs, enum sreg seg, uint64_t offset, unsigned size,
		    enum isa_access how);
/* The same, saying false instead of raising; `size` may be of any length. */
bool isa_linear_ok(const struct cpu_state *cs, enum sreg seg, uint64_t offset, uint64_t size,
		   enum isa_access how, uint64_t *lin);

/* isa_linear() of the memory operand, out of line. */
uint64_t isa_operand_slow(struct cpu_state *cs, const struct isa_insn *i, unsigned size,
			  enum isa_access how);

/* Linear address of the memory operand of `size` bytes, checked as isa_linear(). */
ISA_INLINE uint64_t isa_operand(struct cpu_state *cs, const struct isa_insn *i, unsigned size,
				enum isa_access how)
{
	if (likely(i->ea_form == ISA_EA_BASE))
		return ISA_REG(cs, i->base_off, uint64_t) + (uint64_t)i->disp;
	if (i->ea_form == ISA_EA_SIB)
		return ISA_REG(cs, i->base_off, uint64_t) +
		       (ISA_REG(cs, i->index_off, uint64_t) << i->shift) + (uint64_t)i->disp;
	if (i->ea_form == ISA_EA_RIP)
		return isa_next_rip(cs, i) + (uint64_t)i->disp;
	return isa_operand_slow(cs, i, size, how);
}

ISA_INLINE struct isa_tlb_entry *isa_tlb_slot(const struct cpu_state *cs, uint64_t lin)
{
	return &cs->tlb[(lin >> PAGE_SHIFT) & (ISA_TLB_ENTRIES - 1)];
}

/* Host pointer for reading, NULL where the slow path must look. */
ISA_INLINE void *isa_tlb_read(const struct cpu_state *cs, uint64_t lin, unsigned size)
{
	const struct isa_tlb_entry *e = isa_tlb_slot(cs, lin);

	return likely(((lin + size - 1) & PAGE_MASK) == e->read_tag) ?
		       (void *)(uintptr_t)(lin + e->addend) : NULL;
}

ISA_INLINE void *isa_tlb_write(const struct cpu_state *cs, uint64_t lin, unsigned size)
{
	const struct isa_tlb_entry *e = isa_tlb_slot(cs, lin);

	return likely(((lin + size - 1) & PAGE_MASK) == e->write_tag) ?
		       (void *)(uintptr_t)(lin + e->addend) : NULL;
}

ISA_INLINE uint64_t isa_host_load(const void *p, unsigned size)
{
	switch (size) {
	case 1: return __atomic_load_n((const uint8_t *)p, __ATOMIC_RELAXED);
	case 2: return __atomic_load_n((const uint16_t *)p, __ATOMIC_RELAXED);
	case 4: return __atomic_load_n((const uint32_t *)p, __ATOMIC_RELAXED);
	default: return __atomic_load_n((const uint64_t *)p, __ATOMIC_RELAXED);
	}
}

ISA_INLINE void isa_host_store(void *p, unsigned size, uint64_t v)
{
	switch (size) {
	case 1: __atomic_store_n((uint8_t *)p, (uint8_t)v, __ATOMIC_RELAXED); break;
	case 2: __atomic_store_n((uint16_t *)p, (uint16_t)v, __ATOMIC_RELAXED); break;
	case 4: __atomic_store_n((uint32_t *)p, (uint32_t)v, __ATOMIC_RELAXED); break;
	default: __atomic_store_n((uint64_t *)p, v, __ATOMIC_RELAXED); break;
	}
}

/* What follows a TLB miss; leave by unwinding on a fault or VM exit. */
uint64_t isa_load_slow(struct cpu_state *cs, uint64_t lin, unsigned size);
void isa_store_slow(struct cpu_state *cs, uint64_t lin, unsigned size, uint64_t v);

/* Data access by linear address; size 1, 2, 4 or 8. */
ISA_INLINE uint64_t isa_load(struct cpu_state *cs, uint64_t lin, unsigned size)
{
	void *p = isa_tlb_read(cs, lin, size);

	return likely(p) ? isa_host_load(p, size) : isa_load_slow(cs, lin, size);
}

ISA_INLINE void isa_store(struct cpu_state *cs, uint64_t lin, unsigned size, uint64_t v)
{
	void *p = isa_tlb_write(cs, lin, size);

	if (likely(p))
		isa_host_store(p, size, v);
	else
		isa_store_slow(cs, lin, size, v);
}

/*
 * The same for handlers that have changed nothing yet, and change nothing after isa_load_last() is false or after
 * isa_store_last(): the access may make a VM exit for which nothing unwinds (ISA_LAST).
 */
bool isa_load_last_slow(struct cpu_state *cs, uint64_t lin, unsigned size, uint64_t *v);
void isa_store_last_slow(struct cpu_state *cs, uint64_t lin, unsigned size, uint64_t v);

ISA_INLINE bool isa_load_last(struct cpu_state *cs, uint64_t lin, unsigned size, uint64_t *v)
{
	void *p = isa_tlb_read(cs, lin, size);

	if (unlikely(!p))
		return isa_load_last_slow(cs, lin, size, v);
	*v = isa_host_load(p, size);
	return true;
}

ISA_INLINE void isa_store_last(struct cpu_state *cs, uint64_t lin, unsigned size, uint64_t v)
{
	void *p = isa_tlb_write(cs, lin, size);

	if (likely(p))
		isa_host_store(p, size, v);
	else
		isa_store_last_slow(cs, lin, size, v);
}

/*
 * Pointer through which `size` (<= 64) bytes may be read and written, every
 * check done; isa_rmw_end() when it has been used. Nothing may fault between.
 */
ISA_INLINE void *isa_rmw(struct cpu_state *cs, uint64_t lin, unsigned size)
{
	void *p = isa_tlb_write(cs, lin, size);

	return likely(p) ? p : cs->ops->mem(cs, lin, size, ISA_RMW, cs->bounce);
}

/* The same of a LOCKed instruction. */
ISA_INLINE void *isa_rmw_locked(struct cpu_state *cs, uint64_t lin, unsigned size)
{
	const struct isa_tlb_entry *e = isa_tlb_slot(cs, lin);

	return likely((lin & (PAGE_MASK | (size - 1))) == e->write_tag) ?
		       (void *)(uintptr_t)(lin + e->addend) :
		       cs->ops->mem(cs, lin, size, ISA_RMW, cs->bounce);
}

/* Before it a handler has changed nothing but cs->cc: a locked instruction may begin again here. */
ISA_INLINE void isa_rmw_end(struct cpu_state *cs, uint64_t lin, unsigned size, void *p)
{
	if (unlikely(p == cs->bounce))
		cs->ops->mem_commit(cs, lin, size, p);
}

/* Any size up to 64. */
void isa_load_bytes(struct cpu_state *cs, uint64_t lin, void *buf, unsigned size);
void isa_store_bytes(struct cpu_state *cs, uint64_t lin, const void *buf, unsigned size);

#endif
