/*
 * VMX instructions in non-root operation: all of them exit, before any check
 * but those for #UD (the hypervisor looks at CPL and operands).
 *
 * Source: SDM Vol. 3, "VMX Instructions" (operation sections), tables "Format
 * of the VM-Exit Instruction-Information Field". Locks: none.
 */
#include <Zydis/Zydis.h>

#include "cpu/system.h"

/* #UD unless in a mode where VMX instructions exist. */
static void require_vmx_mode(struct cpu_state *cs)
{
	if (!isa_protected(cs) || !(cs->cr4 & X86_CR4_VMXE) ||
	    (isa_ia32e(cs) && !isa_code64(cs)))
		isa_raise(cs, X86_TRAP_UD);
}

void sysinsn_vmcall(struct cpu_state *cs, const struct isa_insn *i)
{
	cpu_vmexit_insn(cpu_of(cs), EXIT_REASON_VMCALL, 0);
}

void sysinsn_vmx_plain(struct cpu_state *cs, const struct isa_insn *i)
{
	require_vmx_mode(cs);
	cpu_vmexit_insn(cpu_of(cs),
			i->mnemonic == ZYDIS_MNEMONIC_VMLAUNCH	 ? EXIT_REASON_VMLAUNCH
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

void sysinsn_vmx_rw(struct cpu_state *cs, const struct isa_insn *i)
{
	require_vmx_mode(cs);
	cpu_vmexit_mem(cpu_of(cs),
		       i->mnemonic == ZYDIS_MNEMONIC_VMREAD ? EXIT_REASON_VMREAD
							    : EXIT_REASON_VMWRITE,
		       (uint32_t)i->src << 28);
}
