/*
 * The slow side of isa/mem.h: segmentation checks, accesses that miss the
 * software TLB, the stack, and exceptions.
 *
 * Invariants
 * 1. Nothing here changes a register before the access that may fault is done.
 * 2. The bounce buffer is in use only between an ops->mem() and the
 *    mem_commit() that follows it.
 *
 * Locks: none; runs on the vCPU's thread.
 */
#include "isa/internal.h"
#include "lib/copy.h"

void isa_raise(struct cpu_state *cs, enum exception_vector v)
{
	cs->exception = (struct isa_exception){ .vector = (uint8_t)v };
	cs->ops->raise(cs);
}

void isa_raise_error(struct cpu_state *cs, enum exception_vector v, uint32_t error_code)
{
	cs->exception = (struct isa_exception){
		.vector = (uint8_t)v,
		.has_error_code = true,
		.error_code = error_code,
	};
	cs->ops->raise(cs);
}

/* Type of a usable segment against the access; real and virtual-8086 mode have none. */
static bool type_allows(const struct cpu_state *cs, const struct cpu_segment *s,
			enum isa_access how)
{
	if (!(cs->cr0 & X86_CR0_PE) || (cs->rflags & X86_FLAGS_VM))
		return true;
	if (s->ar & VMX_AR_UNUSABLE)
		return false;
	if (s->ar & VMX_AR_TYPE_CODE)
		return !(how & ISA_WRITE) && (s->ar & VMX_AR_TYPE_WRITABLE);
	return !(how & ISA_WRITE) || (s->ar & VMX_AR_TYPE_WRITABLE);
}

bool isa_linear_ok(const struct cpu_state *cs, enum sreg seg, uint64_t offset, uint64_t size,
		   enum isa_access how, uint64_t *lin)
{
	const struct cpu_segment *s = &cs->seg[seg];
	uint64_t last = offset + size - 1;

	if (cs->code_mode == ISA_CODE64) {
		*lin = seg >= SREG_FS ? offset + s->base : offset;
		return true;
	}
	*lin = (uint32_t)(s->base + offset);
	if (likely(last <= s->limit && isa_plain_data(s)))
		return true;
	if (!type_allows(cs, s, how))
		return false;
	if ((s->ar & (VMX_AR_TYPE_CODE | VMX_AR_TYPE_EXPAND_DOWN)) == VMX_AR_TYPE_EXPAND_DOWN)
		return offset > s->limit && last <= ((s->ar & VMX_AR_DB) ? 0xffffffff : 0xffff);
	return last <= s->limit;
}

uint64_t isa_linear(struct cpu_state *cs, enum sreg seg, uint64_t offset, unsigned size,
		    enum isa_access how)
{
	uint64_t lin;

	if (unlikely(!isa_linear_ok(cs, seg, offset, size, how, &lin)))
		isa_raise_error(cs, seg == SREG_SS ? X86_TRAP_SS : X86_TRAP_GP, 0);
	return lin;
}

uint64_t isa_operand_slow(struct cpu_state *cs, const struct isa_insn *i, unsigned size,
			  enum isa_access how)
{
	return isa_linear(cs, i->seg, isa_ea(cs, i), size, how);
}

/* Where the register of the APIC's window is that may be read without more ado; else NULL. */
static const void *window_register(const struct cpu_state *cs, uint64_t lin, unsigned size)
{
	uint64_t offset = lin - cs->apic_lin;

	return offset < 0x400 && (offset & 15) + size <= 4 && (cs->apic_ok >> (offset >> 4) & 1) ? cs->vapic + offset : NULL;
}

uint64_t isa_load_slow(struct cpu_state *cs, uint64_t lin, unsigned size)
{
	const void *p = window_register(cs, lin, size);

	return isa_host_load(p ? p : cs->ops->mem(cs, lin, size, ISA_READ, cs->bounce), size);
}

bool isa_load_last_slow(struct cpu_state *cs, uint64_t lin, unsigned size, uint64_t *v)
{
	const void *p = window_register(cs, lin, size);

	if (!p)
		p = cs->ops->mem(cs, lin, size, ISA_READ | ISA_LAST, cs->bounce);
	if (unlikely(!p))
		return false;
	*v = isa_host_load(p, size);
	return true;
}

void isa_store_slow(struct cpu_state *cs, uint64_t lin, unsigned size, uint64_t v)
{
	void *p = cs->ops->mem(cs, lin, size, ISA_WRITE, cs->bounce);

	isa_host_store(p, size, v);
	isa_rmw_end(cs, lin, size, p);
}

void isa_store_last_slow(struct cpu_state *cs, uint64_t lin, unsigned size, uint64_t v)
{
	void *p = cs->ops->mem(cs, lin, size, ISA_WRITE | ISA_LAST, cs->bounce);

	if (unlikely(!p))
		return;
	isa_host_store(p, size, v);
	isa_rmw_end(cs, lin, size, p);
}

void isa_load_bytes(struct cpu_state *cs, uint64_t lin, void *buf, unsigned size)
{
	void *p = isa_tlb_read(cs, lin, size);

	if (unlikely(!p))
		p = cs->ops->mem(cs, lin, size, ISA_READ, cs->bounce);
	copy_bytes(buf, p, size);
}

void isa_store_bytes(struct cpu_state *cs, uint64_t lin, const void *buf, unsigned size)
{
	void *p = isa_tlb_write(cs, lin, size);

	if (unlikely(!p))
		p = cs->ops->mem(cs, lin, size, ISA_WRITE, cs->bounce);
	copy_bytes(p, buf, size);
	isa_rmw_end(cs, lin, size, p);
}

void isa_push(struct cpu_state *cs, unsigned size, uint64_t v)
{
	uint64_t sp = stack_offset(cs, -(int64_t)size);

	isa_store(cs, stack_linear(cs, sp, size, ISA_WRITE), size, v);
	stack_set(cs, sp);
}

void isa_push_sreg(struct cpu_state *cs, unsigned size, uint16_t selector)
{
	uint64_t sp = stack_offset(cs, -(int64_t)size);

	if (size != 4 || !isa_host()->push_sreg_writes_16) {
		isa_push(cs, size, selector);
		return;
	}
	isa_store(cs, stack_linear(cs, sp, 2, ISA_WRITE), 2, selector);
	stack_set(cs, sp);
}

uint64_t isa_pop(struct cpu_state *cs, unsigned size)
{
	uint64_t sp = stack_offset(cs, 0);
	uint64_t v = isa_load(cs, stack_linear(cs, sp, size, ISA_READ), size);

	stack_set(cs, stack_offset(cs, size));
	return v;
}

uint64_t isa_read_rm(struct cpu_state *cs, const struct isa_insn *i, unsigned size)
{
	if (i->flags & ISA_MEM)
		return isa_load(cs, isa_operand(cs, i, size, ISA_READ), size);
	return isa_host_load(&ISA_REG(cs, i->rm_off, uint8_t), size);
}
