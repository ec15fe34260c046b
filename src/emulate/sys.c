/*
 * System instructions in the emulator, for two kinds of guests:
 * - what the processor cannot run at all, that is real mode and the way to
 *   protected mode without unrestricted guest (Linux: handle_invalid_guest_state);
 * - in every mode, what reads and writes segments and tables, whose memory may
 *   be a device or a read-only slot.
 *
 * Invariants
 * 1. A handler commits nothing before its last fault, as all handlers.
 * 2. Segments and tables change in the emulator's register file and go back
 *    with it (struct emulator_sys says which); control registers and MSRs are
 *    written by the x86 room's own functions, last of all.
 *
 * Source: SDM Vol. 2, the instructions; Vol. 3, "Real-Address Mode", "Mode
 * Switching".
 */
#include "emulate/internal.h"

static struct kvm_vcpu *vcpu_of(struct cpu_state *cs)
{
	return cs->owner;
}

static bool real_mode(const struct cpu_state *cs)
{
	return !(cs->cr0 & X86_CR0_PE);
}

static void gp0(struct cpu_state *cs) __attribute__((noreturn));
static void gp0(struct cpu_state *cs)
{
	isa_raise_error(cs, X86_TRAP_GP, 0);
}

void kvm_emulator_require_cpl0(struct cpu_state *cs)
{
	if (cs->cpl != 0)
		gp0(cs);
}

void kvm_emulator_check_umip(struct cpu_state *cs)
{
	if (cs->cpl > 0 && (cs->cr4 & X86_CR4_UMIP))
		gp0(cs);
}

uint64_t kvm_emulator_read_rm(struct cpu_state *cs, const struct isa_insn *i, unsigned size)
{
	if (i->flags & ISA_MEM)
		return isa_load(cs, isa_linear(cs, i->seg, isa_ea(cs, i), size, ISA_READ), size);
	return size == 2 ? (uint16_t)cs->gpr[i->dst] : (uint32_t)cs->gpr[i->dst];
}

void kvm_emulator_write_rm(struct cpu_state *cs, const struct isa_insn *i, unsigned size, uint64_t v)
{
	if (i->flags & ISA_MEM)
		isa_store(cs, isa_linear(cs, i->seg, isa_ea(cs, i), size, ISA_WRITE), size, v);
	else
		isa_set_gpr(cs, i->dst, size, v);
}

#define FLAGS_OF_CPL0                                                                          \
	(X86_FLAGS_ARITH | X86_FLAGS_TF | X86_FLAGS_IF | X86_FLAGS_DF | X86_FLAGS_IOPL | \
	 X86_FLAGS_NT)

uint64_t kvm_emulator_popped_flags(const struct cpu_state *cs, uint64_t v, unsigned size, bool iret)
{
	uint64_t mask = FLAGS_OF_CPL0;

	if (size == 4)
		mask |= X86_FLAGS_AC | X86_FLAGS_ID | (iret ? X86_FLAGS_RF : 0);
	return (cpu_rflags(cs) & ~(mask | X86_FLAGS_RF)) | (v & mask);
}

static void int_fixed(struct cpu_state *cs, const struct isa_insn *i)
{
	struct isa_insn as_int = *i;

	if (i->aux == X86_TRAP_OF && !(cs->cc & CC_OF)) {
		kvm_emulator_next(cs, i);
		return;
	}
	as_int.imm = i->aux;
	kvm_emulate_int_real(cs, &as_int);
}

/* --- flags --- */

static void require_iopl(struct cpu_state *cs)
{
	if (!real_mode(cs) && cs->cpl > FIELD_GET(X86_FLAGS_IOPL, cs->rflags))
		gp0(cs);
}

static void cli(struct cpu_state *cs, const struct isa_insn *i)
{
	require_iopl(cs);
	cs->rflags &= ~X86_FLAGS_IF;
	kvm_emulator_next(cs, i);
}

static void sti(struct cpu_state *cs, const struct isa_insn *i)
{
	require_iopl(cs);
	if (!(cs->rflags & X86_FLAGS_IF))
		kvm_emulator_sys(cs)->shadow = KVM_X86_SHADOW_INT_STI;
	cs->rflags |= X86_FLAGS_IF;
	kvm_emulator_next(cs, i);
}

static void pushf(struct cpu_state *cs, const struct isa_insn *i)
{
	isa_push(cs, i->opsize, cpu_rflags(cs) & ~(X86_FLAGS_RF | X86_FLAGS_VM));
	kvm_emulator_next(cs, i);
}

static void popf(struct cpu_state *cs, const struct isa_insn *i)
{
	if (!real_mode(cs) && cs->cpl != 0)
		kvm_emulator_unsupported(cs);
	cpu_set_rflags(cs, kvm_emulator_popped_flags(cs, isa_pop(cs, i->opsize), i->opsize, false));
	kvm_emulator_next(cs, i);
}

/* --- tables, control and debug registers --- */

static void load_table(struct cpu_state *cs, const struct isa_insn *i)
{
	struct cpu_dtable *t = i->aux ? &cs->idtr : &cs->gdtr;
	unsigned size = cs->code_mode == ISA_CODE64 ? 8 : 4;
	uint16_t limit;
	uint64_t base;
	gva_t lin;

	kvm_emulator_require_cpl0(cs);
	lin = isa_linear(cs, i->seg, isa_ea(cs, i), 2 + size, ISA_READ);
	limit = (uint16_t)isa_load(cs, lin, 2);
	base = isa_load(cs, lin + 2, size);
	if (size == 8 && !isa_canonical(cs, base))
		gp0(cs);
	t->base = size == 4 && i->opsize == 2 ? base & 0xffffff : base;
	t->limit = limit;
	kvm_emulator_sys(cs)->dirty_tables = true;
	kvm_emulator_next(cs, i);
}

static void store_table(struct cpu_state *cs, const struct isa_insn *i)
{
	const struct cpu_dtable *t = i->aux ? &cs->idtr : &cs->gdtr;
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) image = { (uint16_t)t->limit, t->base };
	unsigned size = cs->code_mode == ISA_CODE64 ? 10 : 6;

	kvm_emulator_check_umip(cs);
	isa_store_bytes(cs, isa_linear(cs, i->seg, isa_ea(cs, i), size, ISA_WRITE), &image, size);
	kvm_emulator_next(cs, i);
}

static void set_cr(struct cpu_state *cs, const struct isa_insn *i, unsigned nr, uint64_t v)
{
	struct kvm_vcpu *vcpu = vcpu_of(cs);
	int err = nr == 0 ? kvm_set_cr0(vcpu, v) : nr == 3 ? kvm_set_cr3(vcpu, v)
		: nr == 4 ? kvm_set_cr4(vcpu, v) : kvm_set_cr8(vcpu, v);

	if (err)
		gp0(cs);
	kvm_emulator_next(cs, i);
}

static void mov_to_cr(struct cpu_state *cs, const struct isa_insn *i)
{
	kvm_emulator_require_cpl0(cs);
	if (i->src == 2) {
		vmx_set_cr2(vmx_processor(vcpu_of(cs)), (uint32_t)cs->gpr[i->dst]);
		kvm_emulator_next(cs, i);
		return;
	}
	set_cr(cs, i, i->src, (uint32_t)cs->gpr[i->dst]);
}

static void mov_from_cr(struct cpu_state *cs, const struct isa_insn *i)
{
	struct kvm_vcpu *vcpu = vcpu_of(cs);
	uint64_t v = i->src == 0 ? cs->cr0 : i->src == 2 ? vmx_get_cr2(vmx_processor(vcpu))
		   : i->src == 3 ? cs->cr3 : i->src == 4 ? cs->cr4 : kvm_get_cr8(vcpu);

	kvm_emulator_require_cpl0(cs);
	isa_set_gpr(cs, i->dst, 4, v);
	kvm_emulator_next(cs, i);
}

#define CR0_LMSW (X86_CR0_PE | X86_CR0_MP | X86_CR0_EM | X86_CR0_TS)

static void lmsw(struct cpu_state *cs, const struct isa_insn *i)
{
	uint64_t v;

	kvm_emulator_require_cpl0(cs);
	v = kvm_emulator_read_rm(cs, i, 2) & CR0_LMSW;
	/* PE can be set only */
	set_cr(cs, i, 0, (cs->cr0 & ~(CR0_LMSW & ~X86_CR0_PE)) | v);
}

static void smsw(struct cpu_state *cs, const struct isa_insn *i)
{
	kvm_emulator_check_umip(cs);
	kvm_emulator_write_rm(cs, i, i->flags & ISA_MEM ? 2 : i->opsize, cs->cr0);
	kvm_emulator_next(cs, i);
}

static void clts(struct cpu_state *cs, const struct isa_insn *i)
{
	kvm_emulator_require_cpl0(cs);
	set_cr(cs, i, 0, cs->cr0 & ~X86_CR0_TS);
}

static void mov_dr(struct cpu_state *cs, const struct isa_insn *i)
{
	kvm_emulator_require_cpl0(cs);
	if (i->opcode & 2) {
		if (kvm_set_dr(vcpu_of(cs), i->src, (uint32_t)cs->gpr[i->dst]))
			gp0(cs);
	} else {
		isa_set_gpr(cs, i->dst, 4, kvm_get_dr(vcpu_of(cs), i->src));
	}
	kvm_emulator_next(cs, i);
}

/* --- the rest --- */

static void hlt(struct cpu_state *cs, const struct isa_insn *i)
{
	kvm_emulator_require_cpl0(cs);
	kvm_emulator_sys(cs)->halt = true;
	kvm_emulator_next(cs, i);
}

static void cpuid(struct cpu_state *cs, const struct isa_insn *i)
{
	uint32_t eax = (uint32_t)cs->gpr[RAX], ecx = (uint32_t)cs->gpr[RCX], ebx, edx;

	kvm_cpuid(vcpu_of(cs), &eax, &ebx, &ecx, &edx);
	cs->gpr[RAX] = eax;
	cs->gpr[RBX] = ebx;
	cs->gpr[RCX] = ecx;
	cs->gpr[RDX] = edx;
	kvm_emulator_next(cs, i);
}

static void read_counter(struct cpu_state *cs, const struct isa_insn *i, uint32_t msr)
{
	uint64_t v = 0;

	if (kvm_get_msr(vcpu_of(cs), msr, &v, false))
		gp0(cs);
	cs->gpr[RAX] = (uint32_t)v;
	cs->gpr[RDX] = v >> 32;
	kvm_emulator_next(cs, i);
}

static void rdmsr(struct cpu_state *cs, const struct isa_insn *i)
{
	kvm_emulator_require_cpl0(cs);
	read_counter(cs, i, (uint32_t)cs->gpr[RCX]);
}

static void rdtsc(struct cpu_state *cs, const struct isa_insn *i)
{
	read_counter(cs, i, MSR_IA32_TSC);
}

static void wrmsr(struct cpu_state *cs, const struct isa_insn *i)
{
	kvm_emulator_require_cpl0(cs);
	if (kvm_set_msr(vcpu_of(cs), (uint32_t)cs->gpr[RCX],
			(uint32_t)cs->gpr[RAX] | cs->gpr[RDX] << 32, false))
		gp0(cs);
	kvm_emulator_next(cs, i);
}

enum { INVPCID_ADDRESS, INVPCID_CONTEXT, INVPCID_ALL_GLOBAL, INVPCID_ALL };

/* Exits under shadow paging. One flush covers every type (SDM Vol. 2, INVPCID: more than asked for may go). */
static void invpcid(struct cpu_state *cs, const struct isa_insn *i)
{
	uint64_t type = cs->code_mode == ISA_CODE64 ? cs->gpr[i->src] : (uint32_t)cs->gpr[i->src];
	uint64_t pcid, address;
	gva_t lin;

	if (!guest_cpuid_bit(vcpu_of(cs), 7, 0, CPUID_EBX, 10))
		isa_raise(cs, X86_TRAP_UD);
	kvm_emulator_require_cpl0(cs);
	lin = isa_linear(cs, i->seg, isa_ea(cs, i), 16, ISA_READ);
	pcid = isa_load(cs, lin, 8);
	address = isa_load(cs, lin + 8, 8);
	if (type > INVPCID_ALL || pcid >> 12 || (type == INVPCID_ADDRESS && !isa_canonical(cs, address)) ||
	    (type <= INVPCID_CONTEXT && pcid && !(cs->cr4 & X86_CR4_PCIDE)))
		gp0(cs);
	kvm_vcpu_flush_tlb_guest(vcpu_of(cs));
	kvm_emulator_next(cs, i);
}

/* WBINVD, INVD: no cache of ours. */
static void nothing(struct cpu_state *cs, const struct isa_insn *i)
{
	kvm_emulator_require_cpl0(cs);
	kvm_emulator_next(cs, i);
}

static void rsm(struct cpu_state *cs, const struct isa_insn *i)
{
	if (!vcpu_of(cs)->arch->smm)
		isa_raise(cs, X86_TRAP_UD);
	if (!kvm_leave_smm(vcpu_of(cs)))
		kvm_emulator_unsupported(cs);
	kvm_emulator_replaced(cs);
}

/* PAUSE, fences, hints about caches: nothing of ours is out of order or cached. */
static void hint(struct cpu_state *cs, const struct isa_insn *i)
{
	kvm_emulator_next(cs, i);
}

/* Of protected mode only; there the processor runs them as soon as it can enter. */
static void not_in_real_mode(struct cpu_state *cs, const struct isa_insn *i)
{
	if (real_mode(cs))
		isa_raise(cs, X86_TRAP_UD);
	kvm_emulator_unsupported(cs);
}

/* --- choosing a handler --- */

static isa_fn *mov_handler(struct isa_insn *i)
{
	if (i->map == 0 && i->opcode == 0x8c)
		return i->src <= SREG_GS ? kvm_emulate_mov_from_sreg : NULL;
	if (i->map == 0 && i->opcode == 0x8e)
		return i->src <= SREG_GS && i->src != SREG_CS ? kvm_emulate_mov_to_sreg : NULL;
	if (i->map != 1 || (i->opcode & ~3) != 0x20)
		return NULL;
	i->flags &= (uint8_t)~ISA_MEM;
	if (i->opcode & 1)
		return mov_dr;
	return i->opcode & 2 ? mov_to_cr : mov_from_cr;
}

static isa_fn *push_pop_handler(struct isa_insn *i, bool pop)
{
	if (i->map == 0 && (i->opcode & ~0x1f) == 0 && (i->opcode & 7) >= 6)
		i->src = i->opcode >> 3;
	else if (i->map == 1 && (i->opcode & 0xf6) == 0xa0)
		i->src = i->opcode & 8 ? SREG_GS : SREG_FS;
	else
		return NULL;
	return pop ? kvm_emulate_pop_sreg : kvm_emulate_push_sreg;
}

/* An immediate far pointer: offset to i->imm, selector to i->disp. */
static isa_fn *far_handler(const struct isa_decoded *d, struct isa_insn *i, isa_fn *fn)
{
	const uint8_t *p = d->bytes + d->insn.length - 2 - i->opsize;

	if (d->insn.meta.branch_type != ZYDIS_BRANCH_TYPE_FAR)
		return NULL;
	if (i->opcode != 0x9a && i->opcode != 0xea)
		return i->flags & ISA_MEM ? fn : NULL;
	i->imm = 0;
	for (unsigned n = 0; n < i->opsize; n++)
		i->imm |= (uint64_t)p[n] << (8 * n);
	i->disp = p[i->opsize] | p[i->opsize + 1] << 8;
	i->flags &= (uint8_t)~ISA_MEM;
	return fn;
}

static isa_fn *with_aux(struct isa_insn *i, unsigned aux, isa_fn *fn)
{
	i->aux = (uint8_t)aux;
	return fn;
}

static isa_fn *in_memory(struct isa_insn *i, unsigned aux, isa_fn *fn)
{
	return i->flags & ISA_MEM ? with_aux(i, aux, fn) : NULL;
}

static isa_fn *choose(const struct isa_decoded *d, struct isa_insn *i)
{
	switch (d->insn.mnemonic) {
	case ZYDIS_MNEMONIC_MOV: return mov_handler(i);
	case ZYDIS_MNEMONIC_PUSH: return push_pop_handler(i, false);
	case ZYDIS_MNEMONIC_POP: return push_pop_handler(i, true);
	case ZYDIS_MNEMONIC_JMP: return far_handler(d, i, kvm_emulate_jmp_far);
	case ZYDIS_MNEMONIC_CALL: return far_handler(d, i, kvm_emulate_call_far);
	case ZYDIS_MNEMONIC_RET: return i->opcode == 0xca || i->opcode == 0xcb ? kvm_emulate_ret_far : NULL;
	case ZYDIS_MNEMONIC_IRET:
	case ZYDIS_MNEMONIC_IRETD: return kvm_emulate_iret_real;
	case ZYDIS_MNEMONIC_INT: return kvm_emulate_int_real;
	case ZYDIS_MNEMONIC_INT1: return with_aux(i, X86_TRAP_DB, int_fixed);
	case ZYDIS_MNEMONIC_INT3: return with_aux(i, X86_TRAP_BP, int_fixed);
	case ZYDIS_MNEMONIC_INTO: return with_aux(i, X86_TRAP_OF, int_fixed);
	case ZYDIS_MNEMONIC_LES: return in_memory(i, SREG_ES, kvm_emulate_load_far_pointer);
	case ZYDIS_MNEMONIC_LDS: return in_memory(i, SREG_DS, kvm_emulate_load_far_pointer);
	case ZYDIS_MNEMONIC_LSS: return in_memory(i, SREG_SS, kvm_emulate_load_far_pointer);
	case ZYDIS_MNEMONIC_LFS: return in_memory(i, SREG_FS, kvm_emulate_load_far_pointer);
	case ZYDIS_MNEMONIC_LGS: return in_memory(i, SREG_GS, kvm_emulate_load_far_pointer);
	case ZYDIS_MNEMONIC_LGDT: return in_memory(i, 0, load_table);
	case ZYDIS_MNEMONIC_LIDT: return in_memory(i, 1, load_table);
	case ZYDIS_MNEMONIC_SGDT: return in_memory(i, 0, store_table);
	case ZYDIS_MNEMONIC_SIDT: return in_memory(i, 1, store_table);
	case ZYDIS_MNEMONIC_CLI: return cli;
	case ZYDIS_MNEMONIC_STI: return sti;
	case ZYDIS_MNEMONIC_PUSHF:
	case ZYDIS_MNEMONIC_PUSHFD: return pushf;
	case ZYDIS_MNEMONIC_POPF:
	case ZYDIS_MNEMONIC_POPFD: return popf;
	case ZYDIS_MNEMONIC_LMSW: return lmsw;
	case ZYDIS_MNEMONIC_SMSW: return smsw;
	case ZYDIS_MNEMONIC_CLTS: return clts;
	case ZYDIS_MNEMONIC_HLT: return hlt;
	case ZYDIS_MNEMONIC_CPUID: return cpuid;
	case ZYDIS_MNEMONIC_RDMSR: return rdmsr;
	case ZYDIS_MNEMONIC_WRMSR: return wrmsr;
	case ZYDIS_MNEMONIC_RDTSC: return rdtsc;
	case ZYDIS_MNEMONIC_PAUSE:
	case ZYDIS_MNEMONIC_LFENCE:
	case ZYDIS_MNEMONIC_SFENCE:
	case ZYDIS_MNEMONIC_MFENCE:
	case ZYDIS_MNEMONIC_CLFLUSH:
	case ZYDIS_MNEMONIC_CLFLUSHOPT:
	case ZYDIS_MNEMONIC_CLWB: return hint;
	case ZYDIS_MNEMONIC_LLDT: return kvm_emulate_lldt;
	case ZYDIS_MNEMONIC_LTR: return kvm_emulate_ltr;
	case ZYDIS_MNEMONIC_SLDT: return with_aux(i, 0, kvm_emulate_store_system_selector);
	case ZYDIS_MNEMONIC_STR: return with_aux(i, 1, kvm_emulate_store_system_selector);
	case ZYDIS_MNEMONIC_LAR:
	case ZYDIS_MNEMONIC_LSL:
	case ZYDIS_MNEMONIC_VERR:
	case ZYDIS_MNEMONIC_VERW:
	case ZYDIS_MNEMONIC_ARPL: return not_in_real_mode;
	case ZYDIS_MNEMONIC_RSM: return rsm;
	case ZYDIS_MNEMONIC_INVPCID: return in_memory(i, 0, invpcid);
	case ZYDIS_MNEMONIC_INVD:
	case ZYDIS_MNEMONIC_WBINVD: return nothing;
	default: return NULL;
	}
}

/* In 64-bit mode the processor runs all but what finds no memory behind its tables and operands. */
static bool may_need_memory(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_MOV:
	case ZYDIS_MNEMONIC_PUSH:
	case ZYDIS_MNEMONIC_POP:
	case ZYDIS_MNEMONIC_JMP:
	case ZYDIS_MNEMONIC_CALL:
	case ZYDIS_MNEMONIC_RET:
	case ZYDIS_MNEMONIC_LSS:
	case ZYDIS_MNEMONIC_LFS:
	case ZYDIS_MNEMONIC_LGS:
	case ZYDIS_MNEMONIC_LGDT:
	case ZYDIS_MNEMONIC_LIDT:
	case ZYDIS_MNEMONIC_SGDT:
	case ZYDIS_MNEMONIC_SIDT:
	case ZYDIS_MNEMONIC_LLDT:
	case ZYDIS_MNEMONIC_LTR:
	case ZYDIS_MNEMONIC_SLDT:
	case ZYDIS_MNEMONIC_STR:
	case ZYDIS_MNEMONIC_SMSW:
	case ZYDIS_MNEMONIC_LMSW:
	case ZYDIS_MNEMONIC_INVPCID: return true;
	default: return false;
	}
}

/* Effective operand size in bytes. */
static uint8_t operand_size(const struct isa_decoded *d)
{
	bool prefix66 = (d->insn.attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE) != 0;
	bool stack = d->insn.mnemonic == ZYDIS_MNEMONIC_PUSH || d->insn.mnemonic == ZYDIS_MNEMONIC_POP;

	if (d->mode != ISA_CODE64)
		return (d->mode == ISA_CODE32) != prefix66 ? 4 : 2;
	return d->insn.raw.rex.W ? 8 : prefix66 ? 2 : stack ? 8 : 4;
}

isa_fn *kvm_emulator_system(const struct isa_decoded *d, struct isa_insn *i)
{
	const ZydisDecodedInstruction *z = &d->insn;

	if (z->attributes & ZYDIS_ATTRIB_HAS_LOCK)
		return NULL;
	if (d->mode == ISA_CODE64 && !may_need_memory(z->mnemonic))
		return NULL;
	if (z->mnemonic == ZYDIS_MNEMONIC_MOV && d->mode == ISA_CODE64 && i->map != 0)
		return NULL; /* control and debug registers */
	if (z->attributes & ZYDIS_ATTRIB_HAS_MODRM) {
		i->src = z->raw.modrm.reg; /* segment registers take no REX.R */
		if (z->mnemonic != ZYDIS_MNEMONIC_MOV)
			i->src |= (uint8_t)(z->raw.rex.R << 3);
		i->dst = (uint8_t)(z->raw.modrm.rm | z->raw.rex.B << 3);
	}
	i->opsize = operand_size(d);
	i->flags |= ISA_ENDS_BLOCK;
	return choose(d, i);
}
