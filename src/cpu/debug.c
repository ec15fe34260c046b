/*
 * Debug registers at work: breakpoints on instructions, data and I/O.
 *
 *   DR0-3, DR7, CR4.DE ──► cpu_debug_update() ──► cpu->debug: what is armed
 *     code  ─► blocks that hold an armed address run one instruction at a time;
 *              before each, cpu_debug_code() faults with #DB unless RF is set
 *     data  ─► pages that hold a watched byte get no read or write tag, so every
 *              access to them passes cpu_debug_data(); it has the instruction
 *              run again alone, and notes the hit for the trap that follows it
 *     I/O   ─► cpu_debug_io(), for ports that do not exit
 *
 * Invariants
 * 1. Nothing armed costs one test on slow paths only.
 * 2. A hit is noted in cpu->debug.hits while one instruction runs alone
 *    (run_one()), becomes a pending debug exception when it completes and is
 *    forgotten when it faults: it will run again.
 * 3. Implicit supervisor accesses (descriptor tables, TSS, inner stacks of
 *    event delivery) do not match; what the SDM says of them is "may".
 * 4. Conditions that DR7 does not enable are not reported in DR6, which the
 *    SDM leaves open.
 *
 * Source: SDM Vol. 3, "Debug Registers", "Debug Exceptions", "Instruction-
 * Breakpoint Exception Condition", "Data Memory and I/O Breakpoint Exception
 * Conditions".
 *
 * Locks: none; runs on the vCPU's thread.
 */
#include "cpu/internal.h"

enum breakpoint_kind { BP_CODE, BP_WRITE, BP_IO, BP_ACCESS };

static bool enabled(uint64_t dr7, unsigned nr)
{
	return (dr7 >> (2 * nr)) & 3;
}

static enum breakpoint_kind kind(uint64_t dr7, unsigned nr)
{
	return (enum breakpoint_kind)((dr7 >> (16 + 4 * nr)) & 3);
}

/* LENn: 1, 2, 8 or 4 bytes. */
static unsigned length(uint64_t dr7, unsigned nr)
{
	static const uint8_t bytes[] = {1, 2, 8, 4};

	return bytes[(dr7 >> (18 + 4 * nr)) & 3];
}

/* The armed breakpoints of the register file, as sets of numbers. */
static struct cpu_debug armed(const struct cpu_state *cs)
{
	struct cpu_debug d = {0};

	for (unsigned n = 0; n < 4; n++) {
		if (!enabled(cs->dr7, n))
			continue;
		d.address[n] = cs->dr[n];
		d.length[n] = (uint8_t)length(cs->dr7, n);
		if (kind(cs->dr7, n) != BP_CODE)
			d.address[n] &= ~(uint64_t)(d.length[n] - 1);
		switch (kind(cs->dr7, n)) {
		case BP_CODE: d.code |= (uint8_t)(1 << n); break;
		case BP_WRITE: d.write |= (uint8_t)(1 << n); break;
		case BP_ACCESS: d.write |= (uint8_t)(1 << n), d.read |= (uint8_t)(1 << n); break;
		case BP_IO: /* without CR4.DE there is no such condition */
			if (cs->cr4 & X86_CR4_DE)
				d.io |= (uint8_t)(1 << n);
			break;
		}
	}
	return d;
}

void cpu_debug_update(struct vmx_cpu *cpu)
{
	struct cpu_debug new, *old = &cpu->debug;
	bool data;

	if (likely(!(cpu->cs.dr7 & DR7_BP_EN_MASK) && !(old->code | old->write | old->io))) {
		old->hits = 0;
		old->alone = old->next_alone = false;
		return;
	}
	new = armed(&cpu->cs);
	data = new.write != old->write || new.read != old->read;
	for (unsigned n = 0; n < 4; n++)
		data |= ((new.write >> n) & 1) &&
		        (new.address[n] != old->address[n] || new.length[n] != old->length[n]);
	*old = new;
	if (data)
		cpu_tlb_drop_data(cpu);
}

bool cpu_debug_page(const struct vmx_cpu *cpu, gva_t page)
{
	const struct cpu_debug *d = &cpu->debug;

	for (unsigned n = 0; n < 4; n++)
		if (((d->write >> n) & 1) && (d->address[n] & PAGE_MASK) == page)
			return true;
	return false;
}

static bool overlap(uint64_t a, uint64_t nr_a, uint64_t b, uint64_t nr_b)
{
	return a - b < nr_b || b - a < nr_a;
}

static uint32_t match(const struct cpu_debug *d, uint8_t set, uint64_t start, unsigned size)
{
	uint32_t hits = 0;

	for (unsigned n = 0; n < 4; n++)
		if (((set >> n) & 1) && overlap(start, size, d->address[n], d->length[n]))
			hits |= 1U << n;
	return hits;
}

static void note(struct vmx_cpu *cpu, uint32_t hits)
{
	if (!hits)
		return;
	if (cpu->event.active) { /* the trap comes before the handler's first instruction */
		cpu->pending_dbg |= hits | PENDING_DBG_ENABLED_BP;
		return;
	}
	if (!cpu->debug.alone) {
		/* Nothing has been committed: once more, as the only instruction. */
		cpu->debug.next_alone = true;
		cpu->cs.rip = isa_rip(&cpu->cs);
		cpu_unwind(cpu);
	}
	cpu->debug.hits |= (uint8_t)hits;
	/* a repeated string instruction traps after this element */
	__atomic_fetch_or(&cpu->cs.exit_request, CPU_REQ_CHECK, __ATOMIC_SEQ_CST);
}

void cpu_debug_data(struct vmx_cpu *cpu, gva_t lin, unsigned size, enum isa_access how)
{
	const struct cpu_debug *d = &cpu->debug;

	note(cpu, match(d, how & ISA_WRITE ? d->write : d->read, lin, size));
}

void cpu_debug_io(struct vmx_cpu *cpu, uint16_t port, unsigned size)
{
	note(cpu, match(&cpu->debug, cpu->debug.io, port, size));
}

bool cpu_debug_in_block(const struct vmx_cpu *cpu, const struct cpu_block *b)
{
	const struct cpu_debug *d = &cpu->debug;
	gva_t lin = (cpu->cs.rip + cpu->code_base) & cpu->code_mask;

	for (unsigned n = 0; n < 4; n++)
		if (((d->code >> n) & 1) && d->address[n] - lin < b->nr_bytes)
			return true;
	return false;
}

void cpu_debug_code(struct vmx_cpu *cpu)
{
	struct cpu_state *cs = &cpu->cs;
	const struct cpu_debug *d = &cpu->debug;
	gva_t lin = (cs->rip + cpu->code_base) & cpu->code_mask;
	uint64_t hits = 0;

	for (unsigned n = 0; n < 4; n++)
		if (((d->code >> n) & 1) && d->address[n] == lin)
			hits |= 1U << n;
	if (!hits)
		return;
	cs->exception = (struct isa_exception){.vector = X86_TRAP_DB, .payload = hits};
	cs->ops->raise(cs);
}
