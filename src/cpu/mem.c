/*
 * What the instruction semantics ask of the processor (isa_ops): the slow path
 * of data accesses, raising exceptions, and implicit supervisor accesses.
 *
 * Invariants
 * 1. Every page of an access is translated, with every check it needs, before
 *    a byte is written: a handler that faults has changed nothing.
 * 2. A write to a page with decoded code drops what it overlaps before the
 *    caller gets its pointer; nothing is decoded until the instruction ends.
 * 3. Host-contiguous pages need no bounce buffer.
 * 4. A locked access within a cache line is the host's own locked instruction. One across two lines never is,
 *    contiguous or not: it is made in two parts (bus_lock.c).
 *
 * General registers only: no libc mem*.
 */
#include "cpu/ghost.h"
#include "cpu/internal.h"
#include "lib/copy.h"

static bool canonical(uint64_t lin)
{
	return (uint64_t)((int64_t)(lin << 16) >> 16) == lin;
}

/* Does the instruction use the stack beside (or without) a memory operand? */
static bool uses_stack(const struct isa_insn *i)
{
	if (i->map == 1) /* PUSH and POP of FS and GS */
		return (i->opcode & 0xf6) == 0xa0;
	if (i->map)
		return false;
	switch (i->opcode) {
	case 0x50 ... 0x5f: case 0x68: case 0x6a: case 0x8f: case 0x9a: case 0x9c: case 0x9d:
	case 0xc2: case 0xc3: case 0xc8: case 0xc9: case 0xca: case 0xcb: case 0xcf: case 0xe8:
		return true;
	case 0xff: /* CALL and PUSH */
		return (i->modrm & 0x38) == 0x10 || (i->modrm & 0x38) == 0x18 ||
		       (i->modrm & 0x38) == 0x30;
	default:
		return false;
	}
}

/* #SS for references through the stack segment, #GP otherwise. */
static void raise_noncanonical(struct cpu_state *cs, uint64_t lin)
{
	const struct isa_insn *i = cs->cur;
	bool operand = (i->flags & ISA_MEM) &&
		       lin == isa_ea(cs, i) + (i->seg >= SREG_FS ? cs->seg[i->seg].base : 0);
	bool stack = uses_stack(i) && !operand;

	if (i->flags & ISA_MEM)
		stack |= i->seg == SREG_SS;
	isa_raise_error(cs, stack ? X86_TRAP_SS : X86_TRAP_GP, 0);
}

/*
 * Alignment that #AC asks for an operand of `size` bytes: SDM Vol. 3, table
 * "Alignment Requirements by Data Type". Unaligned 16-byte forms (MOVUPS and
 * its like, 32 bytes too) are checked to 16, as observed on silicon, where the
 * SDM leaves it to the implementation; 14 and 28 are x87 environments.
 */
static uint64_t alignment(unsigned size)
{
	switch (size) {
	case 2: case 4: case 8: case 16: return size;
	case 10: return 8;
	case 14: return 2;
	case 28: return 4;
	case 32: return 16;
	default: return 1;
	}
}

/* 64-bit mode; and tables in all of IA-32e mode. Others' linear addresses wrap at 4 GiB. */
static bool wide_addresses(const struct cpu_state *cs, enum isa_access how)
{
	return cs->code_mode == ISA_CODE64 || ((how & ISA_IMPLICIT) && (cs->efer & EFER_LMA));
}

static uint64_t check_linear(struct vmx_cpu *cpu, uint64_t lin, unsigned size,
			     enum isa_access how)
{
	struct cpu_state *cs = &cpu->cs;

	if (!wide_addresses(cs, how))
		lin = (uint32_t)lin;
	else if (unlikely(!canonical(lin) || !canonical(lin + size - 1)))
		raise_noncanonical(cs, lin);
	if (cs->cpl == 3 && !(how & (ISA_IMPLICIT | ISA_UNALIGNED)) &&
	    (cs->rflags & X86_FLAGS_AC) && (cs->cr0 & X86_CR0_AM) &&
	    (lin & (alignment(size) - 1)))
		isa_raise_error(cs, X86_TRAP_AC, 0);
	return lin;
}

/* Every access that may be watched comes here (debug.c). */
static void watch(struct vmx_cpu *cpu, uint64_t lin, unsigned size, enum isa_access how)
{
	if (unlikely(cpu_debug_watches(cpu)) && !(how & ISA_IMPLICIT))
		cpu_debug_data(cpu, lin, size, how);
}

/* Is it the address of a byte of the APIC-access page? */
static bool is_apic(const struct vmx_cpu *cpu, const uint8_t *host)
{
	return ((hpa_t)host & PAGE_MASK) == cpu->apic.access;
}

/* A write without a write tag, within a page, is about to be made. */
static void written(struct vmx_cpu *cpu, uint8_t *host, unsigned size, uint64_t lin)
{
	cpu_code_written(cpu, (hpa_t)host, size);
	if (unlikely(cpu->tlb->ghost))
		ghost_stored(cpu, (hpa_t)host, size, lin);
}

/* Do the sanitizers look at translations, which therefore do not end by returning nothing? */
static bool watched(const struct cpu_tlb *t)
{
	return unlikely(t->check || t->path || t->ghost || t->l1vpid);
}

/* NULL: ISA_LAST, and the instruction has left. */
static uint8_t *translate(struct vmx_cpu *cpu, uint64_t lin, unsigned size, uint32_t access,
			  enum cpu_priv priv, enum isa_access how)
{
	uint8_t *host;

	cpu->may_leave = (how & ISA_LAST) && !watched(cpu->tlb);
	host = cpu_translate(cpu, lin, access, priv);
	cpu->may_leave = false;
	if (host && (access & CPU_WRITE))
		written(cpu, host, size, lin);
	return host;
}

/* An access that has passed every check, through the bounce buffer. */
static void *in_two_parts(struct vmx_cpu *cpu, struct cpu_commit access, enum isa_access how, uint8_t *bounce)
{
	struct cpu_commit *c = &access;

	if (how & ISA_WRITE) {
		c = &cpu->commit[cpu->next_commit++ % ARRAY_SIZE(cpu->commit)];
		*c = access;
		if (unlikely(cpu->journal)) {
			cpu_journal_note(cpu, c->part[0], c->first);
			cpu_journal_note(cpu, c->part[1], c->size - c->first);
		}
	}
	if (c->locked) {
		cpu_bus_read(cpu, c, bounce);
	} else if (how & ISA_READ) {
		copy_bytes(bounce, c->part[0], c->first);
		copy_bytes(bounce + c->first, c->part[1], c->size - c->first);
	}
	return bounce;
}

static void *mem_crossing(struct vmx_cpu *cpu, uint64_t lin, unsigned size, uint32_t access,
			  enum cpu_priv priv, enum isa_access how, void *bounce)
{
	uint32_t first = (uint32_t)(PAGE_SIZE - (lin & ~PAGE_MASK));
	uint64_t next = lin + first;
	bool locked = cpu_is_split_lock(cpu, lin, size, how);
	uint8_t *part[2];

	if (!wide_addresses(&cpu->cs, how))
		next = (uint32_t)next;
	/* both first: translating the second page may fault */
	part[0] = cpu_translate(cpu, lin, access, priv);
	part[1] = cpu_translate(cpu, next, access, priv);
	if (unlikely(is_apic(cpu, part[0])))
		cpu_apic_access_exit(cpu, lin, how);
	if (unlikely(is_apic(cpu, part[1])))
		cpu_apic_access_exit(cpu, next, how);
	if (access & CPU_WRITE) {
		written(cpu, part[0], first, lin);
		written(cpu, part[1], size - first, next);
	}
	watch(cpu, lin, size, how);
	if (part[0] + first == part[1] && !locked)
		return part[0];
	return in_two_parts(cpu, (struct cpu_commit){ .lin = lin, .size = size, .first = first, .locked = locked,
						      .part = { part[0], part[1] } }, how, bounce);
}

/* A locked access within a page, across two cache lines of it. */
static void *mem_split(struct vmx_cpu *cpu, uint64_t lin, unsigned size, enum isa_access how, uint8_t *p,
		       void *bounce)
{
	uint32_t first = CPU_LINE_BYTES - lin % CPU_LINE_BYTES;

	return in_two_parts(cpu, (struct cpu_commit){ .lin = lin, .size = size, .first = first, .locked = true,
						      .part = { p, p + first } }, how, bounce);
}

void *cpu_mem(struct cpu_state *cs, uint64_t lin, unsigned size, enum isa_access how,
		     void *bounce)
{
	struct vmx_cpu *cpu = cpu_of(cs);
	enum cpu_priv priv = cpu_data_priv(cpu, how);
	uint32_t access = how & (ISA_READ | ISA_WRITE);
	void *p;

	lin = check_linear(cpu, lin, size, how);
	if (unlikely((lin & ~PAGE_MASK) + size > PAGE_SIZE)) {
		p = mem_crossing(cpu, lin, size, access, priv, how, bounce);
	} else if (cs->apic_writes && how == ISA_WRITE && (lin & PAGE_MASK) == cs->apic_lin) {
		p = cpu_apic_access(cpu, lin, size, how); /* it has passed paging and EPT before */
	} else {
		p = translate(cpu, lin, size, access, priv, how);
		if (unlikely(!p))
			return NULL;
		watch(cpu, lin, size, how);
		if (unlikely(is_apic(cpu, p)))
			p = cpu_apic_access(cpu, lin, size, how);
		else if (unlikely(cpu_is_split_lock(cpu, lin, size, how)))
			p = mem_split(cpu, lin, size, how, p, bounce);
	}
	if (unlikely(cpu->journal) && (access & CPU_WRITE) && p != bounce)
		cpu_journal_note(cpu, p, size);
	if (unlikely(cpu->bus_lock_detection))
		cpu_bus_lock_access(cpu, lin, size, priv, how);
	return p;
}

void cpu_mem_commit(struct cpu_state *cs, uint64_t lin, unsigned size, const void *bounce)
{
	struct vmx_cpu *cpu = cpu_of(cs);

	for (uint32_t n = 1; n <= ARRAY_SIZE(cpu->commit); n++) {
		struct cpu_commit *c = &cpu->commit[(cpu->next_commit - n) % ARRAY_SIZE(cpu->commit)];

		/* as check_linear() made it of this `lin` */
		if ((c->lin != lin && c->lin != (uint32_t)lin) || c->size != size)
			continue;
		if (c->locked) {
			cpu_bus_write(cpu, c, bounce);
			return;
		}
		copy_bytes(c->part[0], bounce, c->first);
		copy_bytes(c->part[1], (const uint8_t *)bounce + c->first, size - c->first);
		return;
	}
	cpu_broken(cpu, "a commit without its access", __FILE__, __LINE__);
}

__attribute__((noreturn)) void cpu_raise(struct cpu_state *cs)
{
	struct vmx_cpu *cpu = cpu_of(cs);

	cs->rip = isa_rip(cs);
	cpu->unwind_reason = CPU_UNWIND_EXCEPTION;
	__builtin_longjmp(cs->unwind, 1);
}
