/*
 * Segments in the emulator: loads of segment registers, LDTR and TR, by the rules
 * of isa/segment.h. The processor does them itself but for two cases: a descriptor
 * whose accessed or busy bit is to be set where nothing can be written (a GDT in a
 * read-only slot, in a device), and real mode without unrestricted guest.
 *
 * Invariants
 * 1. Descriptors are written as a whole: the client sees one write of 8 bytes, as
 *    from Linux for LTR (whose emulator does not get past an accessed flag there).
 * 2. LDTR and TR are in the register file before a rule may look at them.
 *
 * Source: SDM Vol. 2, MOV, POP, LDS/LES/LFS/LGS/LSS, LLDT, LTR.
 */
#include "emulate/internal.h"

void kvm_emulator_descriptor_bit(struct cpu_state *cs, gva_t lin, uint64_t raw, unsigned bit)
{
	isa_sys_store(cs, lin, 8, raw | (uint64_t)bit << 40);
}

/* Before the load of a segment register, and after it. */
static void load_begins(struct cpu_state *cs)
{
	if (isa_protected(cs))
		kvm_emulator_load_tr_ldt(cs);
}

static void loaded(struct cpu_state *cs, const struct isa_insn *i, unsigned nr)
{
	kvm_emulator_sys(cs)->dirty_segs |= 1U << nr;
	kvm_emulator_next(cs, i);
}

static void shadow_after_ss(struct cpu_state *cs, unsigned nr)
{
	if (nr == SREG_SS)
		kvm_emulator_sys(cs)->shadow = KVM_X86_SHADOW_INT_MOV_SS;
}

void kvm_emulate_mov_from_sreg(struct cpu_state *cs, const struct isa_insn *i)
{
	isa_store_word(cs, i, cs->seg[i->src].selector);
	kvm_emulator_next(cs, i);
}

void kvm_emulate_mov_to_sreg(struct cpu_state *cs, const struct isa_insn *i)
{
	load_begins(cs);
	isa_load_sreg(cs, i->src, (uint16_t)isa_system_read_rm(cs, i, 2));
	shadow_after_ss(cs, i->src);
	loaded(cs, i, i->src);
}

void kvm_emulate_push_sreg(struct cpu_state *cs, const struct isa_insn *i)
{
	isa_push_sreg(cs, i->opsize, cs->seg[i->src].selector);
	kvm_emulator_next(cs, i);
}

void kvm_emulate_pop_sreg(struct cpu_state *cs, const struct isa_insn *i)
{
	load_begins(cs);
	isa_pop_sreg(cs, i, i->src);
	shadow_after_ss(cs, i->src);
	loaded(cs, i, i->src);
}

void kvm_emulate_load_far_pointer(struct cpu_state *cs, const struct isa_insn *i)
{
	load_begins(cs);
	isa_load_far_pointer(cs, i, i->aux);
	loaded(cs, i, i->aux);
}

void kvm_emulate_lldt(struct cpu_state *cs, const struct isa_insn *i)
{
	uint16_t selector = (uint16_t)isa_system_read_rm(cs, i, 2);

	kvm_emulator_load_tr_ldt(cs);
	isa_load_ldtr(cs, selector);
	kvm_emulator_sys(cs)->dirty_system_segs = true;
	kvm_emulator_next(cs, i);
}

void kvm_emulate_ltr(struct cpu_state *cs, const struct isa_insn *i)
{
	uint16_t selector = (uint16_t)isa_system_read_rm(cs, i, 2);

	kvm_emulator_load_tr_ldt(cs);
	isa_load_tr(cs, selector);
	kvm_emulator_sys(cs)->dirty_system_segs = true;
	kvm_emulator_next(cs, i);
}

/* SLDT, STR: i->aux says which. */
void kvm_emulate_store_system_selector(struct cpu_state *cs, const struct isa_insn *i)
{
	kvm_emulator_load_tr_ldt(cs);
	isa_store_word(cs, i, i->aux ? cs->tr.selector : cs->ldtr.selector);
	kvm_emulator_next(cs, i);
}
