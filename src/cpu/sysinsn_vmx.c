/*
 * VMX instructions in non-root operation: all of them exit, before any check
 * but those for #UD (the hypervisor looks at CPL and operands); only VMREAD and VMWRITE of
 * shadowed fields do not, with VMCS shadowing.
 *
 * Source: SDM Vol. 3, "VMX Instructions" (operation sections), tables "Format
 * of the VM-Exit Instruction-Information Field". Locks: none.
 */
#include <Zydis/Zydis.h>

#include "cpu/system.h"
#include "host/memory.h"

/* #UD unless in a mode where VMX instructions exist. */
static void require_vmx_mode(struct cpu_state *cs)
{
	if (!isa_protected(cs) || !(cs->cr4 & X86_CR4_VMXE) ||
	    (isa_ia32e(cs) && !isa_code64(cs)))
		isa_raise(cs, X86_TRAP_UD);
}

void sysinsn_vmcall(struct cpu_state *cs, const struct isa_insn *i)
{
	cpu_leave_insn(cpu_of(cs), EXIT_REASON_VMCALL, 0);
}

/* SDM "VM Functions": in every mode and at every privilege level; of 0 to 63 none is enabled. */
void sysinsn_vmfunc(struct cpu_state *cs, const struct isa_insn *i)
{
	if (!(cpu_of(cs)->secondary & SECONDARY_EXEC_ENABLE_VMFUNC) || (uint32_t)cs->gpr[RAX] > 63)
		isa_raise(cs, X86_TRAP_UD);
	cpu_leave_insn(cpu_of(cs), EXIT_REASON_VMFUNC, 0);
}

void sysinsn_vmx_plain(struct cpu_state *cs, const struct isa_insn *i)
{
	require_vmx_mode(cs);
	cpu_leave_insn(cpu_of(cs),
		       i->mnemonic == ZYDIS_MNEMONIC_VMLAUNCH	? EXIT_REASON_VMLAUNCH
		       : i->mnemonic == ZYDIS_MNEMONIC_VMRESUME ? EXIT_REASON_VMRESUME
								: EXIT_REASON_VMOFF,
		       0);
}

void sysinsn_vmx_mem(struct cpu_state *cs, const struct isa_insn *i)
{
	uint32_t reason, info = 0;

	require_vmx_mode(cs);
	switch (i->mnemonic) {
	case ZYDIS_MNEMONIC_VMCLEAR: reason = EXIT_REASON_VMCLEAR; break;
	case ZYDIS_MNEMONIC_VMPTRLD: reason = EXIT_REASON_VMPTRLD; break;
	case ZYDIS_MNEMONIC_VMPTRST: reason = EXIT_REASON_VMPTRST; break;
	case ZYDIS_MNEMONIC_VMXON: reason = EXIT_REASON_VMON; break;
	case ZYDIS_MNEMONIC_INVEPT: reason = EXIT_REASON_INVEPT; info = (uint32_t)i->src << 28; break;
	default: reason = EXIT_REASON_INVVPID; info = (uint32_t)i->src << 28; break;
	}
	cpu_vmexit_mem(cpu_of(cs), reason, info);
}

/* SDM "VMREAD", "VMWRITE": with VMCS shadowing, a field of fifteen bits whose bit in the bitmap is 0. */
static bool is_shadowed(struct vmx_cpu *cpu, uint64_t field, bool write)
{
	const uint8_t *bitmap;

	if (likely(!(cpu->secondary & SECONDARY_EXEC_SHADOW_VMCS)) || field >> 15)
		return false;
	bitmap = __va(write ? cpu->vmcs->VMWRITE_BITMAP : cpu->vmcs->VMREAD_BITMAP);
	return !(bitmap[field >> 3] >> (field & 7) & 1);
}

static void store_operand(struct cpu_state *cs, const struct isa_insn *i, unsigned size, uint64_t v)
{
	if (i->flags & ISA_MEM)
		isa_store(cs, isa_linear(cs, i->seg, isa_ea(cs, i), size, ISA_WRITE), size, v);
	else
		isa_set_gpr(cs, i->rm, size, v);
}

/* On the VMCS that the link pointer names. */
static void shadow_access(struct vmx_cpu *cpu, const struct isa_insn *i, uint32_t field, bool write)
{
	struct cpu_state *cs = &cpu->cs;
	unsigned size = isa_code64(cs) ? 8 : 4;
	struct vmcs *shadow;
	uint64_t v;

	cpu_require_cpl0(cs);
	if (cpu->vmcs->VMCS_LINK_POINTER == ~0ULL) {
		cs->cc = CC_CF; /* VMfailInvalid */
		return;
	}
	shadow = __va(cpu->vmcs->VMCS_LINK_POINTER);
	if (write)
		v = isa_read_rm(cs, i, size);
	if (write ? !cpu_vmcs_write(shadow, field, v) : !cpu_vmcs_read(shadow, field, &v)) {
		shadow->VM_INSTRUCTION_ERROR = VMXERR_UNSUPPORTED_VMCS_COMPONENT;
		cs->cc = CC_ZF; /* VMfailValid */
		return;
	}
	if (!write)
		store_operand(cs, i, size, v);
	cs->cc = 0;
}

void sysinsn_vmx_rw(struct cpu_state *cs, const struct isa_insn *i)
{
	bool write = i->mnemonic == ZYDIS_MNEMONIC_VMWRITE;
	uint64_t field = isa_code64(cs) ? cs->gpr[i->src] : (uint32_t)cs->gpr[i->src];

	require_vmx_mode(cs);
	if (is_shadowed(cpu_of(cs), field, write))
		shadow_access(cpu_of(cs), i, (uint32_t)field, write);
	else
		cpu_vmexit_mem(cpu_of(cs), write ? EXIT_REASON_VMWRITE : EXIT_REASON_VMREAD, (uint32_t)i->src << 28);
}
