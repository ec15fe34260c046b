/*
 * Accesses to the APIC-access page, and to the x2APIC's MSRs (SDM Vol. 3, "Virtualizing
 * Memory-Mapped APIC Accesses", "APIC-Write Emulation", "APIC-Access VM Exits",
 * "Virtualizing MSR-Based APIC Accesses").
 *
 *   load ─► TLB miss ─► window? ──────────────────────────────► virtual-APIC page
 *                         └► cpu_mem ─► known mapping, or walk ─► cpu_apic_access()
 *                                            read ─► virtual-APIC page, opens the window
 *                                            write ► virtual-APIC page, and at the boundary
 *                                                    cpu_apic_emulate_write()
 *                                            else ─► exit 44
 *
 * A write is followed by emulation at once, and nothing else of its block may run before: the
 * first write of an instruction within a block undoes nothing, because nothing has been done;
 * it unwinds and runs again alone, and from then on ends its block (invariant 3 of apic.h).
 *
 * What the SDM leaves open: x87, SSE and AVX accesses of at most 4 bytes are virtualized; the
 * rules go by the 4-KiB page of the host, whatever maps it.
 */
#include "cpu/internal.h"

#define UNIT(offset) ((offset) & 0xff0U)

/* ICR bits that self-IPI virtualization wants to be 0; the shorthand it wants. */
#define ICR_NOT_SELF 0xfff3b700U
#define ICR_SHORTHAND 0x000c0000U
#define ICR_SHORTHAND_SELF 0x00040000U
#define ICR_VECTOR_CLASS 0xf0U

/* Is there a virtualized access at this offset, by the masks or (no register virtualization) without? */
static bool offset_ok(const struct cpu_apic *a, uint32_t offset, uint64_t mask)
{
	if (a->reg_virt)
		return offset < VAPIC_END && ((mask >> (offset >> 4)) & 1);
	return offset == VAPIC_TPR || (a->vid && (offset == VAPIC_EOI || offset == VAPIC_ICR_LO));
}

static bool shape_ok(const struct cpu_apic *a, uint32_t offset, unsigned size)
{
	return a->page && size <= 4 && (offset & 0xf) + size <= 4;
}

static bool read_ok(const struct cpu_apic *a, uint32_t offset)
{
	return !a->write.pending && offset_ok(a, offset, VAPIC_READ_MASK);
}

static bool write_ok(const struct cpu_apic *a, uint32_t offset, unsigned size)
{
	if (a->write.pending && (a->write.offset != offset || a->write.size != size))
		return false;
	return offset_ok(a, offset, VAPIC_WRITE_MASK);
}

/* --- instructions that write to the page --- */

/* Where the running instruction lies; 0 where the TLB does not say at once. */
static hpa_t host_of_insn(struct vmx_cpu *cpu)
{
	gva_t lin = (isa_rip(&cpu->cs) + cpu->code_base) & cpu->code_mask;
	const struct isa_tlb_entry *e = &cpu->fetch_tlb[(lin >> PAGE_SHIFT) & (ISA_TLB_ENTRIES - 1)];

	return e->exec_tag == (lin & PAGE_MASK) ? lin + e->addend : 0;
}

static unsigned writer_slot(hpa_t host)
{
	return (unsigned)(host ^ host >> 8) & (APIC_WRITERS - 1);
}

bool cpu_apic_writer(const struct vmx_cpu *cpu, hpa_t host)
{
	return cpu->apic.writers[writer_slot(host)] == host;
}

/*
 * Only where nothing of the block follows may a write be virtualized: else once more, alone. True: the
 * engine looks for the write behind the instruction. False: a request has to make it look.
 */
static bool be_last_of_block(struct vmx_cpu *cpu)
{
	const struct isa_insn *i = cpu->cs.cur;
	hpa_t host;

	if (cpu->debug.alone || cpu->event.active || (i->flags & ISA_ENDS_BLOCK))
		return cpu->debug.alone && !(i->flags & (ISA_REP | ISA_REPNE));
	host = host_of_insn(cpu);
	if (host && cpu_apic_writer(cpu, host))
		return true;
	if (host) {
		cpu->apic.writers[writer_slot(host)] = host;
		cpu_blocks_drop(cpu, host, host + 1);
	}
	cpu->debug.next_alone = true;
	cpu->cs.rip = isa_rip(&cpu->cs);
	cpu_unwind(cpu);
}

/* --- the window --- */

/* An access that is not an implicit one has been virtualized. */
static void open_window(struct vmx_cpu *cpu, gva_t lin, enum isa_access how)
{
	struct cpu_state *cs = &cpu->cs;

	if (!cpu->apic.reg_virt || cpu->event.active || cs->tlb != cpu->fetch_tlb ||
	    (unlikely(cpu_debug_watches(cpu)) && cpu_debug_page(cpu, lin & PAGE_MASK)))
		return;
	if (cs->apic_lin != (lin & PAGE_MASK))
		isa_close_window(cs);
	cs->apic_lin = lin & PAGE_MASK;
	if (how & ISA_WRITE)
		cs->apic_writes = true;
	else
		cs->apic_ok = VAPIC_READ_MASK;
}

void *cpu_apic_access(struct vmx_cpu *cpu, gva_t lin, unsigned size, enum isa_access how)
{
	struct cpu_apic *a = &cpu->apic;
	uint32_t offset = (uint32_t)(lin & ~PAGE_MASK);

	if (!shape_ok(a, offset, size) || (how & ISA_PROBE) || ((how & ISA_READ) && !read_ok(a, offset)) ||
	    ((how & ISA_WRITE) && !write_ok(a, offset, size)))
		cpu_apic_access_exit(cpu, lin, how);
	if (how & ISA_WRITE) {
		bool seen = be_last_of_block(cpu);

		cpu_apic_written(cpu, offset, size);
		if (!seen)
			__atomic_fetch_or(&cpu->cs.exit_request, CPU_REQ_CHECK, __ATOMIC_RELAXED);
	}
	if (!(how & ISA_IMPLICIT))
		open_window(cpu, lin, how);
	return a->page + offset;
}

/* --- APIC-write emulation --- */

void cpu_apic_written(struct vmx_cpu *cpu, uint32_t offset, unsigned size)
{
	struct cpu_apic *a = &cpu->apic;

	a->write.pending = true;
	a->write.offset = (uint16_t)offset;
	a->write.size = (uint8_t)size;
	cpu->cs.apic_ok = 0; /* no read of this operation is virtualized from now on */
}

static uint32_t *reg(struct vmx_cpu *cpu, uint32_t offset)
{
	return (uint32_t *)(void *)(cpu->apic.page + offset);
}

static bool is_self_ipi(uint32_t icr)
{
	return !(icr & ICR_NOT_SELF) && (icr & ICR_SHORTHAND) == ICR_SHORTHAND_SELF &&
	       (icr & ICR_VECTOR_CLASS);
}

void cpu_apic_emulate_write(struct vmx_cpu *cpu)
{
	struct cpu_apic *a = &cpu->apic;
	uint32_t icr;

	switch (UNIT(a->write.offset)) {
	case VAPIC_TPR:
		WRITE_ONCE(*reg(cpu, VAPIC_TPR), READ_ONCE(*reg(cpu, VAPIC_TPR)) & 0xff);
		cpu_apic_tpr_written(cpu);
		return;
	case VAPIC_EOI:
		if (!a->vid)
			break;
		WRITE_ONCE(*reg(cpu, VAPIC_EOI), 0);
		cpu_apic_eoi(cpu);
		return;
	case VAPIC_ICR_LO:
		icr = READ_ONCE(*reg(cpu, VAPIC_ICR_LO));
		if (!a->vid || !is_self_ipi(icr))
			break;
		cpu_apic_self_ipi(cpu, (uint8_t)icr);
		return;
	case VAPIC_SELF_IPI: /* by WRMSR alone */
		icr = READ_ONCE(*reg(cpu, VAPIC_SELF_IPI));
		if (!(icr & ICR_VECTOR_CLASS))
			break;
		cpu_apic_self_ipi(cpu, (uint8_t)icr);
		return;
	case VAPIC_ICR_HI:
		WRITE_ONCE(*reg(cpu, VAPIC_ICR_HI), READ_ONCE(*reg(cpu, VAPIC_ICR_HI)) & 0xff000000U);
		return;
	default:
		break;
	}
	cpu_apic_exit_trap(cpu, EXIT_REASON_APIC_WRITE, a->write.offset);
}

/* --- the x2APIC's MSRs --- */

bool cpu_apic_read_msr(struct vmx_cpu *cpu, uint32_t msr, uint64_t *v)
{
	const struct cpu_apic *a = &cpu->apic;

	if (!a->page || !a->x2apic || (msr != X2APIC_TPR && !a->reg_virt))
		return false;
	*v = isa_host_load(a->page + ((msr & 0xff) << 4), 8);
	return true;
}

bool cpu_apic_write_msr(struct vmx_cpu *cpu, uint32_t msr, uint64_t v)
{
	const struct cpu_apic *a = &cpu->apic;
	uint64_t allowed = msr == X2APIC_EOI ? 0 : 0xff;
	uint32_t offset = (msr & 0xff) << 4;

	if (!a->page || !a->x2apic || (v & ~allowed))
		return false;
	if (msr != X2APIC_TPR && !(a->vid && (msr == X2APIC_EOI || msr == X2APIC_SELF_IPI)))
		return false;
	isa_host_store(a->page + offset, 8, v);
	cpu_apic_written(cpu, offset, 8);
	return true;
}
