/*
 * See fake_processor.h. Capabilities: every control may be set, only the
 * default-1 ones of the true MSRs must be.
 */
#include <errno.h>
#include <string.h>

#include "fake_processor.h"
#include "sdm/regs.h"

struct fake_processor fake;

static uint64_t gprs[NR_GPRS], dr[8], cr2, xcr0 = 1;
static uint8_t xsave[4096] __attribute__((aligned(64)));
static struct vmx_counters counters;
static hpa_t current = ~0ULL;

int vmx_machine_create(struct vmx_machine **out)
{
	*out = (struct vmx_machine *)&fake;
	return 0;
}

void vmx_machine_destroy(struct vmx_machine *m) { }

int vmx_cpu_create(struct vmx_machine *m, struct vmx_cpu **out)
{
	*out = (struct vmx_cpu *)&fake;
	return 0;
}

void vmx_cpu_destroy(struct vmx_cpu *cpu) { }

enum vmx_result vmclear(struct vmx_cpu *cpu, hpa_t vmcs)
{
	if (current == vmcs)
		current = ~0ULL;
	return VMX_SUCCEED;
}

enum vmx_result vmptrld(struct vmx_cpu *cpu, hpa_t vmcs)
{
	if (*(uint32_t *)vmcs != VMCS_REVISION_ID)
		return VMX_FAIL_INVALID;
	current = vmcs;
	return VMX_SUCCEED;
}

hpa_t vmptrst(struct vmx_cpu *cpu) { return current; }

static bool known(uint32_t field)
{
	return strcmp(vmcs_field_name(field), "?") != 0;
}

/* VMREAD only. */
const uint16_t vmx_vmcs_cells[512];

enum vmx_result vmread(struct vmx_cpu *cpu, uint32_t field, uint64_t *value)
{
	if (!known(field))
		return VMX_FAIL_VALID;
	*value = fake.field[field];
	return VMX_SUCCEED;
}

enum vmx_result vmwrite(struct vmx_cpu *cpu, uint32_t field, uint64_t value)
{
	static const uint64_t mask[] = { 0xffff, ~0ULL, 0xffffffff, ~0ULL };

	if (!known(field) || vmcs_field_kind(field) == VMCS_KIND_RO)
		return VMX_FAIL_VALID;
	fake.field[field] = value & mask[vmcs_field_width(field)];
	return VMX_SUCCEED;
}

enum vmx_result invept(struct vmx_cpu *cpu, uint64_t type, uint64_t eptp)
{
	fake.nr_invept++;
	fake.last_eptp = eptp;
	return VMX_SUCCEED;
}

enum vmx_result invvpid(struct vmx_cpu *cpu, uint64_t type, uint16_t vpid, gva_t gla)
{
	fake.nr_invvpid++;
	return VMX_SUCCEED;
}

static enum vmx_result enter(void)
{
	if (fake.entry_result != VMX_SUCCEED)
		return fake.entry_result;
	fake.field[VM_EXIT_REASON] = fake.exit_reason;
	fake.field[IDT_VECTORING_INFO_FIELD] = fake.idt_vectoring_info;
	fake.field[EXIT_QUALIFICATION] = fake.exit_qualification;
	fake.field[GUEST_PHYSICAL_ADDRESS] = fake.gpa;
	fake.field[VM_EXIT_INSTRUCTION_LEN] = fake.exit_insn_len;
	if (!(fake.exit_reason & VMX_EXIT_REASONS_FAILED_VMENTRY))
		fake.field[VM_ENTRY_INTR_INFO_FIELD] &= ~INTR_INFO_VALID_MASK;
	return VMX_SUCCEED;
}

enum vmx_result vmlaunch(struct vmx_cpu *cpu)
{
	fake.nr_launches++;
	return enter();
}

enum vmx_result vmresume(struct vmx_cpu *cpu)
{
	fake.nr_resumes++;
	return enter();
}

void vmx_entry_checks(const struct vmx_cpu *cpu, struct vmentry_failures *f) { f->nr = 0; }
unsigned vmx_fault_chain(const struct vmx_cpu *cpu, struct vmx_fault out[VMX_FAULT_CHAIN]) { return 0; }
bool vmx_broken(const struct vmx_cpu *cpu, const char **what, const char **file, int *line) { return false; }
hpa_t vmx_bus_error_address(struct vmx_cpu *cpu) { return 0; }
void vmx_invept_forgotten(struct vmx_cpu *cpu, uint64_t type, uint64_t eptp) { }
bool vmx_check_calm_since(const struct vmx_cpu *cpu, uint64_t when) { return false; }
bool vmx_checks_l1vpid(const struct vmx_cpu *cpu) { return false; }
void vmx_check_l2_enters(struct vmx_cpu *cpu, const struct vmx_check_l2 *with) { }
void vmx_check_l2_left(struct vmx_cpu *cpu, uint64_t cr3, uint64_t cr4, bool violation, gva_t gva) { }
void vmx_check_l1_invvpid(struct vmx_cpu *cpu, uint64_t type, uint16_t vpid, gva_t gva) { }
void vmx_check_l1_invept(struct vmx_cpu *cpu, bool all, uint64_t eptp) { }
void vmx_kick(struct vmx_cpu *cpu) { fake.nr_kicks++; }
void vmx_notify(struct vmx_cpu *cpu, uint8_t vector) { }
void vmx_kick_clear(struct vmx_cpu *cpu) { }
void vmx_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t regs[4]) { memset(regs, 0, 16); }
int vmx_rdmsr(struct vmx_cpu *cpu, uint32_t msr, uint64_t *value) { return -EINVAL; }
int vmx_wrmsr(struct vmx_cpu *cpu, uint32_t msr, uint64_t value) { return -EINVAL; }

uint64_t vmx_capability_msr(uint32_t msr)
{
	const uint64_t all = 0xffffffffULL << 32;

	switch (msr) {
	case MSR_IA32_VMX_BASIC: return VMCS_REVISION_ID | 1ULL << 55;
	case MSR_IA32_VMX_TRUE_PINBASED_CTLS: return all | 0x16;
	case MSR_IA32_VMX_TRUE_PROCBASED_CTLS: return all | 0x04006172;
	case MSR_IA32_VMX_PROCBASED_CTLS2: return all;
	case MSR_IA32_VMX_TRUE_EXIT_CTLS: return all | 0x36dfb;
	case MSR_IA32_VMX_TRUE_ENTRY_CTLS: return all | 0x11fb;
	case MSR_IA32_VMX_CR0_FIXED0: return 0x80000021;
	case MSR_IA32_VMX_CR4_FIXED0: return X86_CR4_VMXE;
	case MSR_IA32_VMX_CR0_FIXED1: return 0xffffffff;
	case MSR_IA32_VMX_CR4_FIXED1: return ~0ULL;
	default: return 0;
	}
}

uint64_t *vmx_gprs(struct vmx_cpu *cpu) { return gprs; }
uint64_t vmx_get_cr2(struct vmx_cpu *cpu) { return cr2; }
void vmx_set_cr2(struct vmx_cpu *cpu, uint64_t v) { cr2 = v; }
uint64_t vmx_get_dr(struct vmx_cpu *cpu, unsigned nr) { return dr[nr & 7]; }
void vmx_set_dr(struct vmx_cpu *cpu, unsigned nr, uint64_t v) { dr[nr & 7] = v; }
uint64_t vmx_get_xcr0(struct vmx_cpu *cpu) { return xcr0; }
void vmx_set_xcr0(struct vmx_cpu *cpu, uint64_t v) { xcr0 = v; }
uint32_t vmx_get_pkru(struct vmx_cpu *cpu) { return 0; }
void vmx_set_pkru(struct vmx_cpu *cpu, uint32_t v) { }
void *vmx_xsave_area(struct vmx_cpu *cpu, size_t *size_bytes) { return xsave; }
void vmx_set_guest_maxphyaddr(struct vmx_cpu *cpu, unsigned bits) { }
void vmx_set_guest_vendor(struct vmx_cpu *cpu, bool amd) { }
void vmx_sync_code(struct vmx_cpu *cpu) { }
void vmx_invalidate_code(struct vmx_machine *m, hpa_t start, uint64_t size_bytes) { }
const struct vmx_counters *vmx_cpu_counters(struct vmx_cpu *cpu) { return &counters; }
const char *vmx_engine_name(void) { return "fake"; }
