/*
 * The rest: HLT, PAUSE, CPUID, INVLPG, INVPCID, caches, MONITOR, MWAIT, fences.
 *
 * Source: SDM Vol. 2, these instructions; Vol. 3, "Instructions That Cause VM
 * Exits Unconditionally" and "Conditionally". Locks: none.
 */
#include "cpu/system.h"

void sysinsn_hlt(struct cpu_state *cs, const struct isa_insn *i)
{
	struct vmx_cpu *cpu = cpu_of(cs);

	cpu_require_cpl0(cs);
	if (cpu->primary & CPU_BASED_HLT_EXITING)
		return cpu_leave_insn(cpu, EXIT_REASON_HLT, 0);
	cpu->activity = GUEST_ACTIVITY_HLT;
	cpu_next(cs, i);
}

/*
 * SDM Vol. 3, "PAUSE-Loop Exiting": PAUSEs no further apart than PLE_GAP are one
 * loop; it exits when it is older than PLE_WINDOW.
 */
static bool pause_loop_over(struct vmx_cpu *cpu)
{
	uint64_t now = __builtin_ia32_rdtsc(), last = cpu->ple_last;

	cpu->ple_last = now;
	if (now - last > cpu->vmcs->PLE_GAP) {
		cpu->ple_first = now;
		return false;
	}
	if (now - cpu->ple_first <= cpu->vmcs->PLE_WINDOW)
		return false;
	cpu->ple_last = 0; /* what follows is another loop */
	return true;
}

void sysinsn_pause(struct cpu_state *cs, const struct isa_insn *i)
{
	struct vmx_cpu *cpu = cpu_of(cs);

	if (cpu->primary & CPU_BASED_PAUSE_EXITING)
		cpu_vmexit_insn(cpu, EXIT_REASON_PAUSE_INSTRUCTION, 0);
	if ((cpu->secondary & SECONDARY_EXEC_PAUSE_LOOP_EXITING) && cs->cpl == 0 &&
	    pause_loop_over(cpu))
		cpu_vmexit_insn(cpu, EXIT_REASON_PAUSE_INSTRUCTION, 0);
	__builtin_ia32_pause();
}

void sysinsn_cpuid(struct cpu_state *cs, const struct isa_insn *i)
{
	cpu_leave_insn(cpu_of(cs), EXIT_REASON_CPUID, 0); /* always */
}

/* INVLPG looks at no limit: an address that is none invalidates nothing. */
void sysinsn_invlpg(struct cpu_state *cs, const struct isa_insn *i)
{
	struct vmx_cpu *cpu = cpu_of(cs);
	gva_t lin = isa_ea(cs, i);

	cpu_require_cpl0(cs);
	if (!isa_code64(cs))
		lin = (uint32_t)(lin + cs->seg[i->seg].base);
	else if (i->seg >= SREG_FS)
		lin += cs->seg[i->seg].base;
	if (cpu->primary & CPU_BASED_INVLPG_EXITING)
		cpu_vmexit_insn(cpu, EXIT_REASON_INVLPG, lin);
	if (isa_canonical(cs, lin))
		cpu_tlb_invlpg(cpu, lin);
	cpu_next(cs, i);
}

void sysinsn_invpcid(struct cpu_state *cs, const struct isa_insn *i)
{
	struct vmx_cpu *cpu = cpu_of(cs);
	struct isa_invpcid what;

	if (!(cpu->secondary & SECONDARY_EXEC_ENABLE_INVPCID))
		isa_raise(cs, X86_TRAP_UD);
	cpu_require_cpl0(cs);
	if (cpu->primary & CPU_BASED_INVLPG_EXITING)
		cpu_vmexit_mem(cpu, EXIT_REASON_INVPCID, (uint32_t)i->src << 28);
	what = isa_invpcid_operand(cs, i);
	cpu_tlb_invpcid(cpu, what.type, what.pcid, what.address);
	cpu_next(cs, i);
}

/* Caches are coherent here: WBINVD has nothing to do. */
void sysinsn_wbinvd(struct cpu_state *cs, const struct isa_insn *i)
{
	cpu_require_cpl0(cs);
	if (cpu_of(cs)->secondary & SECONDARY_EXEC_WBINVD_EXITING)
		cpu_vmexit_insn(cpu_of(cs), EXIT_REASON_WBINVD, 0);
}

void sysinsn_invd(struct cpu_state *cs, const struct isa_insn *i)
{
	cpu_require_cpl0(cs);
	cpu_vmexit_insn(cpu_of(cs), EXIT_REASON_INVD, 0); /* always */
}

/* CLFLUSH, CLFLUSHOPT, CLWB: the checks of a byte load. None is virtualized in the APIC-access page. */
void sysinsn_clflush(struct cpu_state *cs, const struct isa_insn *i)
{
	gva_t lin = isa_linear(cs, i->seg, isa_ea(cs, i), 1, ISA_READ);

	if (!isa_tlb_read(cs, lin, 1))
		(void)cs->ops->mem(cs, lin, 1, ISA_READ | ISA_PROBE, cs->bounce);
}

/* CPUID does not offer MONITOR and MWAIT; their exits exist all the same. */
void sysinsn_monitor(struct cpu_state *cs, const struct isa_insn *i)
{
	if (cs->cpl == 0 && cpu_of(cs)->primary & CPU_BASED_MONITOR_EXITING)
		cpu_vmexit_insn(cpu_of(cs), EXIT_REASON_MONITOR_INSTRUCTION, 0);
	isa_raise(cs, X86_TRAP_UD);
}

void sysinsn_mwait(struct cpu_state *cs, const struct isa_insn *i)
{
	if (cs->cpl == 0 && cpu_of(cs)->primary & CPU_BASED_MWAIT_EXITING)
		cpu_vmexit_insn(cpu_of(cs), EXIT_REASON_MWAIT_INSTRUCTION, 0);
	isa_raise(cs, X86_TRAP_UD);
}

void sysinsn_fence(struct cpu_state *cs, const struct isa_insn *i)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/*
 * SDM Vol. 3, "Instructions That Cause VM Exits Conditionally"; the register and its size go
 * along ("VM-Exit Instruction-Information Field as Used for RDRAND and RDSEED").
 */
static void random_number(struct cpu_state *cs, const struct isa_insn *i, bool seed)
{
	struct vmx_cpu *cpu = cpu_of(cs);

	if (cpu->secondary & (seed ? SECONDARY_EXEC_RDSEED_EXITING : SECONDARY_EXEC_RDRAND_EXITING)) {
		struct cpu_exit e = {
			.reason = seed ? EXIT_REASON_RDSEED : EXIT_REASON_RDRAND,
			.insn_len = i->len,
			.insn_info = (uint32_t)i->dst << 3 | (uint32_t)(i->opsize / 4) << 11,
			.rip = isa_rip(cs),
		};

		cpu_vmexit(cpu, &e);
	}
	isa_random(cs, i, seed);
}

void sysinsn_rdrand(struct cpu_state *cs, const struct isa_insn *i)
{
	random_number(cs, i, false);
}

void sysinsn_rdseed(struct cpu_state *cs, const struct isa_insn *i)
{
	random_number(cs, i, true);
}
