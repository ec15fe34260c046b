/*
 * The rest of the seam: creating processors, INVEPT, INVVPID,
 * kicks, root-operation CPUID, and the registers VMX does not switch.
 *
 * Locks: machine->lock guards the list of processors and what they ask of each
 * other; everything else belongs to the processor's thread.
 */
#include "cpu/ghost.h"
#include "cpu/l1vpid.h"
#include "cpu/jit.h"
#include "cpu/tlb_check.h"
#include "host/fault.h"
#include "host/memory.h"
#include "isa/stub.h"
#include "lib/own.h"
#include "lib/params.h"
#include "lib/error.h"
#include "sdm/ept.h"

#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <x86intrin.h>

/* --- processors --- */

#define PAT_RESET 0x0007040600070406ULL
#define CR0_RESET (X86_CR0_CD | X86_CR0_NW | X86_CR0_ET)

/* SDM "IA-32 and Intel 64 Processor States Following Power-up, Reset, or INIT". */
static void reset_state(struct vmx_cpu *cpu)
{
	struct cpu_state *cs = &cpu->cs;

	for (int n = 0; n < NR_SREGS; n++)
		cs->seg[n] = (struct cpu_segment){ .limit = 0xffff, .ar = 0x93 };
	cs->seg[SREG_CS] = (struct cpu_segment){ 0xffff0000, 0xffff, 0x9b, 0xf000 };
	cs->ldtr = (struct cpu_segment){ .limit = 0xffff, .ar = 0x82 };
	cs->tr = (struct cpu_segment){ .limit = 0xffff, .ar = 0x8b };
	cs->gdtr.limit = cs->idtr.limit = 0xffff;
	cs->rip = 0xfff0;
	cpu_set_rflags(cs, X86_FLAGS_FIXED);
	cs->cr0 = CR0_RESET;
	cs->xcr0 = XFEATURE_MASK_FP;
	cs->dr6 = DR6_ACTIVE_LOW;
	cs->dr7 = DR7_FIXED_1;
	cpu->pat = PAT_RESET;
	cpu->preemption_deadline = ~0ULL;
	cpu->tsc_multiplier = BIT_ULL(48);
	isa_fpu_init(cs);
	cpu_at_boundary(cpu);
}

int vmx_cpu_create(struct vmx_machine *m, struct vmx_cpu **out)
{
	struct vmx_cpu *cpu = cpu_jit_reserve();
	bool reserved = cpu;
	int err;

	if (!cpu)
		cpu = own_aligned(64, ALIGN_UP(sizeof(*cpu), (size_t)64));
	if (!cpu)
		return err_born(ENOMEM, "no memory for a processor");
	memset(cpu, 0, sizeof(*cpu));
	cpu->machine = m;
	cpu->cs.sp_tag = TLB_NO_ACCESS;
	if (reserved && !cpu_jit_create(cpu))
		cpu->jit = NULL;
	cpu->cs.ops = &cpu_isa_ops;
	cpu->cs.owner = cpu;
	cpu->cs.unwind = cpu->unwind_buf;
	err = silicon_arena_create(&cpu->cs.stubs, SILICON_CPU_BYTES);
	if (err)
		goto out_free;
	cpu->cs.xsave = own_aligned(64, isa_xsave_size());
	if (!cpu->cs.xsave) {
		err = err_born(ENOMEM, "no memory for an XSAVE area");
		goto out_free;
	}
	memset(cpu->cs.xsave, 0, isa_xsave_size());
	err = host_fault_init();
	if (!err)
		err = cpu_tlb_create(cpu);
	if (!err && params_has_word("USERKVM_CHECK", "tlb"))
		err = tlb_check_create(cpu);
	if (!err)
		err = ghost_cpu_create(m->ghost, cpu);
	if (!err)
		err = l1vpid_cpu_create(cpu);
	if (!err)
		err = cpu_blocks_create(cpu);
	if (err)
		goto out_free;
	cpu->check_entry = params_has_word("USERKVM_CHECK", "entry");
	cpu->load_rest = true;
	reset_state(cpu);
	cpu_ring_create(cpu);
	machine_add(m, cpu);
	*out = cpu;
	return 0;
out_free:
	l1vpid_cpu_destroy(cpu);
	ghost_cpu_destroy(cpu);
	tlb_check_destroy(cpu);
	own_free(cpu->tlb);
	own_free(cpu->cs.xsave);
	silicon_arena_destroy(cpu->cs.stubs);
	if (!cpu_jit_destroy(cpu))
		own_free(cpu);
	return err;
}

void vmx_cpu_destroy(struct vmx_cpu *cpu)
{
	if (!cpu)
		return;
	machine_remove(cpu->machine, cpu);
	cpu_blocks_destroy(cpu);
	l1vpid_cpu_destroy(cpu);
	ghost_cpu_destroy(cpu);
	tlb_check_destroy(cpu);
	own_free(cpu->tlb);
	own_free(cpu->ring);
	own_free(cpu->cs.xsave);
	silicon_arena_destroy(cpu->cs.stubs);
	if (!cpu_jit_destroy(cpu))
		own_free(cpu);
}

/* --- invalidation instructions --- */

enum vmx_result invept(struct vmx_cpu *cpu, uint64_t type, uint64_t eptp)
{
	bool all = type == INVEPT_ALL_CONTEXT;

	if (!all && type != INVEPT_SINGLE_CONTEXT)
		return vmx_fail(cpu, VMXERR_INVALID_OPERAND_TO_INVEPT_INVVPID);
	/* SDM "INVEPT": one that would make VM entry fail */
	if (!all && !cpu_eptp_valid(eptp))
		return vmx_fail(cpu, VMXERR_INVALID_OPERAND_TO_INVEPT_INVVPID);
	cpu_tlb_drop_ept(cpu, eptp, all);
	return VMX_SUCCEED;
}

enum vmx_result invvpid(struct vmx_cpu *cpu, uint64_t type, uint16_t vpid, gva_t gla)
{
	bool canonical = (uint64_t)((int64_t)(gla << 16) >> 16) == gla;

	if (type > INVVPID_SINGLE_CONTEXT_RETAINING_GLOBALS ||
	    (type != INVVPID_ALL_CONTEXT && !vpid) ||
	    (type == INVVPID_INDIVIDUAL_ADDRESS && !canonical))
		return vmx_fail(cpu, VMXERR_INVALID_OPERAND_TO_INVEPT_INVVPID);
	cpu_tlb_drop_vpid(cpu, (unsigned)type, vpid, gla);
	return VMX_SUCCEED;
}

/* --- kicks and code --- */

void vmx_kick(struct vmx_cpu *cpu)
{
	__atomic_fetch_or(&cpu->cs.exit_request, CPU_REQ_KICK, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&cpu->mail.asleep, __ATOMIC_SEQ_CST))
		syscall(SYS_futex, &cpu->cs.exit_request, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

void vmx_kick_clear(struct vmx_cpu *cpu)
{
	__atomic_fetch_and(&cpu->cs.exit_request, ~CPU_REQ_KICK, __ATOMIC_SEQ_CST);
}

hpa_t vmx_bus_error_address(struct vmx_cpu *cpu)
{
	return cpu->bus_error;
}

bool vmx_broken(const struct vmx_cpu *cpu, const char **what, const char **file, int *line)
{
	*what = cpu->broken;
	*file = cpu->broken_file;
	*line = cpu->broken_line;
	return cpu->broken;
}

/* --- CPUID of root operation --- */

void vmx_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t regs[4])
{
	isa_cpuid(leaf, subleaf, regs);
}

/* --- registers that VMX does not switch --- */

uint64_t *vmx_gprs(struct vmx_cpu *cpu)
{
	return cpu->cs.gpr;
}

uint64_t vmx_get_cr2(struct vmx_cpu *cpu)
{
	return cpu->cs.cr2;
}

void vmx_set_cr2(struct vmx_cpu *cpu, uint64_t v)
{
	cpu->cs.cr2 = v;
}

uint64_t vmx_get_dr(struct vmx_cpu *cpu, unsigned nr)
{
	return nr < 4 ? cpu->cs.dr[nr] : cpu->cs.dr6;
}

void vmx_set_dr(struct vmx_cpu *cpu, unsigned nr, uint64_t v)
{
	if (nr < 4)
		cpu->cs.dr[nr] = v;
	else
		cpu->cs.dr6 = v;
}

uint64_t vmx_get_xcr0(struct vmx_cpu *cpu)
{
	return cpu->cs.xcr0;
}

void vmx_set_xcr0(struct vmx_cpu *cpu, uint64_t v)
{
	cpu->cs.xcr0 = v;
}

uint32_t vmx_get_pkru(struct vmx_cpu *cpu)
{
	return cpu->cs.pkru;
}

void vmx_set_pkru(struct vmx_cpu *cpu, uint32_t v)
{
	uint32_t changed = cpu->cs.pkru ^ v;

	cpu->cs.pkru = v;
	if (!changed)
		return;
	cpu->load_rest = true;
	cpu_tlb_pkru_changed(cpu, changed);
}

void *vmx_xsave_area(struct vmx_cpu *cpu, size_t *size_bytes)
{
	if (size_bytes)
		*size_bytes = isa_xsave_size();
	return cpu->cs.xsave;
}

const struct vmx_counters *vmx_cpu_counters(struct vmx_cpu *cpu)
{
	return &cpu->counters;
}
