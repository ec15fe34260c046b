/*
 * Lines on stderr for who writes a guest, a hypervisor in it, or a client: why the guest has
 * shut down, and which fault is taken again and again because nobody repairs it.
 *
 * Locks: none; the vCPU's thread, outside the guest.
 */
#include <stdio.h>

#include "lib/log.h"
#include "lib/rcu.h"
#include "mmu/mmu.h"
#include "sdm/ept.h"
#include "sdm/paging.h"
#include "sdm/regs.h"
#include "vmx/internal.h"

typedef unsigned long long ull;

#define TEXT 96

static const char *insn_text(struct kvm_vcpu *vcpu, char *buf)
{
	vmx_services->insn_text(vcpu, buf, TEXT);
	return *buf ? buf : "its bytes cannot be read";
}

/* --- triple faults --- */

static const char *exception_name(int vector, char *buf, size_t size)
{
	static const char names[][10] = {
		"#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "vector 9",  "#TS", "#NP",
		"#SS", "#GP", "#PF", "vector 15", "#MF", "#AC", "#MC", "#XM", "#VE", "#CP",
	};

	if (vector >= 0 && vector < (int)ARRAY_SIZE(names))
		snprintf(buf, size, "%s", names[vector]);
	else
		snprintf(buf, size, "vector %d", vector);
	return buf;
}

/* "(error code 0x72: IDT entry 14)": of a #PF its bits, of the others the selector (SDM "Error Code"). */
static void error_code_text(const struct vmx_fault *f, char *buf, size_t size)
{
	uint32_t e = f->error_code;

	*buf = '\0';
	if (f->vector == X86_TRAP_PF)
		snprintf(buf, size, " (CR2 %#llx, %s%s%s)", (ull)f->payload,
			 e & PFERR_FETCH_MASK ? "fetch, " : e & PFERR_WRITE_MASK ? "write, " : "read, ",
			 e & PFERR_USER_MASK ? "user, " : "",
			 e & PFERR_RSVD_MASK ? "reserved bit" : e & PFERR_PRESENT_MASK ? "not allowed" : "not present");
	else if (f->has_error_code && e & 2)
		snprintf(buf, size, " (error code %#x: IDT entry %u)", e, e >> 3);
	else if (f->has_error_code && e & 0xfffc)
		snprintf(buf, size, " (error code %#x: selector %#x)", e, e & 0xfffc);
	else if (f->has_error_code)
		snprintf(buf, size, " (error code %#x)", e);
}

void vmx_tell_triple_fault(struct kvm_vcpu *vcpu)
{
	struct vmx_fault fault[VMX_FAULT_CHAIN];
	unsigned nr = vmx_fault_chain(vcpu->vmx->cpu, fault);
	char text[320] = "", insn[TEXT], name[24], during[24], error[64];
	int at = 0;

	for (unsigned n = 0; n < nr && at < (int)sizeof(text) - 1; n++) {
		const struct vmx_fault *f = &fault[n];
		bool after_df = n && fault[n - 1].double_fault;

		error_code_text(f, error, sizeof(error));
		at += snprintf(text + at, sizeof(text) - (size_t)at, "%s%s%s", n ? "; " : "",
			       exception_name(f->vector, name, sizeof(name)), error);
		if (at < (int)sizeof(text) - 1 && f->during >= 0)
			at += snprintf(text + at, sizeof(text) - (size_t)at, " delivering %s%s",
				       exception_name(after_df ? X86_TRAP_DF : f->during, during, sizeof(during)),
				       f->double_fault ? ", so #DF" : "");
	}
	log_told("vCPU %u: triple fault at rip %#llx (%s), CPL %d: %s. IDT %#llx limit %#x, rsp %#llx, cr3 %#llx",
		 vcpu->vcpu_id, (ull)vmx_get_rip(vcpu), insn_text(vcpu, insn), vmx_get_cpl(vcpu),
		 nr ? text : "no exception is known", (ull)vmcs_readl(vcpu, GUEST_IDTR_BASE),
		 vmcs_read32(vcpu, GUEST_IDTR_LIMIT), (ull)vmcs_readl(vcpu, GUEST_RSP), (ull)vmx_get_cr3(vcpu));
}

/* --- VM entries that the processor refuses --- */

void vmx_processor_limits(struct vmentry_limits *l)
{
	for (uint32_t n = 0; n < ARRAY_SIZE(l->cap); n++)
		l->cap[n] = vmx_capability_msr(MSR_IA32_VMX_BASIC + n);
	l->width = VMX_HOST_MAXPHYADDR;
}

void vmx_tell_failed_entry(struct kvm_vcpu *vcpu)
{
	const struct vcpu_vmx *vmx = vcpu->vmx;
	bool exit = vmx->result == VMX_SUCCEED;
	char text[VMENTRY_TEXT], whose[48] = "", others[32] = "";
	struct vmentry_limits limits;
	struct vmentry_failures f;

	vmx_entry_checks(vmx->cpu, &f);
	if (!f.nr)
		return; /* an area of MSRs, or an error of VMLAUNCH's that is no check */
	vmx_processor_limits(&limits);
	vmentry_failure_text(&f.at[0], vmcs_read64(vcpu, f.at[0].field), &limits, text, sizeof(text));
	if (is_guest_mode(vcpu))
		snprintf(whose, sizeof(whose), " of L1's VMCS %#llx", (ull)nested_vmptr12(&vmx->nested));
	if (f.nr > 1)
		snprintf(others, sizeof(others), ", and %u more", f.nr - 1);
	log_told("vCPU %u: VM entry%s failed (%s %u): %s%s", vcpu->vcpu_id, whose, exit ? "exit" : "error",
		 exit ? vmx_basic_exit_reason(vmx) : vmx->instruction_error, text, others);
}

/* --- faults without progress --- */

/* SDM "Extended Page Tables": what EPT12 says of gpa, down to the entry that ends the walk. */
static void ept12_text(struct kvm_vcpu *vcpu, gpa_t gpa, char *buf, size_t size)
{
	static const char *const names[] = { "", "PTE", "PDE", "PDPTE", "PML4E", "PML5E" };
	uint64_t eptp = get_vmcs12(vcpu)->ept_pointer, e = 0;
	int level = (int)FIELD_GET(EPTP_WALK_MASK, eptp) + 1;
	gpa_t table = eptp & EPTP_ROOT_MASK, at = 0;

	if (level > 5)
		level = 5;
	for (;; level--) {
		at = table + (gpa >> (12 + 9 * (level - 1)) & 511) * 8;
		if (kvm_vcpu_read_guest(vcpu, at, &e, sizeof(e))) {
			snprintf(buf, size, "its EPT12 table at %#llx is no memory", (ull)table);
			return;
		}
		if (!(e & EPT_RWX) || level == 1 || e & EPT_PAGE_SIZE)
			break;
		table = e & EPT_ADDR_MASK;
	}
	snprintf(buf, size, "EPT12 %s at %#llx = %#llx %s", names[level], (ull)at, (ull)e,
		 e & EPT_RWX ? "is still there as it was" : "is not present");
}

/* Nothing of L2's, or of the guest's, has changed since the last fault: it has run no instruction. */
static uint64_t registers_hash(struct kvm_vcpu *vcpu)
{
	const uint64_t *gpr = vmx_regs(vcpu);
	uint64_t h = vmcs_readl(vcpu, GUEST_RFLAGS);

	for (unsigned n = 0; n < 16; n++)
		h = (h ^ gpr[n]) * 0x9e3779b97f4a7c15ULL;
	return h;
}

static struct vmx_stuck look_at(struct kvm_vcpu *vcpu, gpa_t gpa, uint64_t qualification)
{
	return (struct vmx_stuck){
		.rip = vmx_get_rip(vcpu), .gpa = gpa, .qualification = qualification,
		.registers = registers_hash(vcpu), .l2 = is_guest_mode(vcpu),
	};
}

/* How often the fault has been met in a row, this time included. */
static uint32_t times(const struct vmx_stuck *s, const struct vmx_stuck *now)
{
	bool same = s->nr && s->rip == now->rip && s->gpa == now->gpa && s->qualification == now->qualification &&
		    s->registers == now->registers && s->l2 == now->l2;

	return same ? s->nr + 1 : 1;
}

/* It counts; true: it is to be told now. */
static bool stuck(struct kvm_vcpu *vcpu, const struct vmx_stuck *now)
{
	struct vmx_stuck *s = &vcpu->vmx->stuck;
	uint32_t nr = times(s, now);
	bool told = s->told;

	*s = *now;
	s->nr = nr;
	s->told = told || nr >= VMX_STUCK_AT;
	return s->told && !told;
}

static const char *access_text(uint64_t qualification)
{
	return qualification & EPT_VIOLATION_ACC_INSTR ? "fetch from" :
	       qualification & EPT_VIOLATION_ACC_WRITE ? "write to" : "read of";
}

struct vmx_stuck vmx_look_at_l2_fault(struct kvm_vcpu *vcpu, gpa_t gpa, uint64_t qualification, char *text)
{
	struct vmx_stuck now = look_at(vcpu, gpa, qualification);
	char insn[TEXT], why[128];

	*text = '\0';
	if (vcpu->vmx->stuck.told || times(&vcpu->vmx->stuck, &now) < VMX_STUCK_AT)
		return now;
	ept12_text(vcpu, gpa, why, sizeof(why));
	snprintf(text, VMX_STUCK_TEXT,
		 "vCPU %u: L2 makes the same EPT violation for the %uth time without progress: %s gpa %#llx at rip %#llx (%s); "
		 "L1's handler does not repair it: %s (EPTP %#llx)", vcpu->vcpu_id, VMX_STUCK_AT, access_text(qualification),
		 (ull)gpa, (ull)now.rip, insn_text(vcpu, insn), why, (ull)get_vmcs12(vcpu)->ept_pointer);
	return now;
}

void vmx_note_l1_fault(struct kvm_vcpu *vcpu, const struct vmx_stuck *look, const char *text)
{
	if (stuck(vcpu, look))
		log_told("%s", text);
}

void vmx_note_client_fault(struct kvm_vcpu *vcpu, gpa_t gpa, uint64_t qualification)
{
	const struct kvm_memory_slot *slot;
	char insn[TEXT];
	struct vmx_stuck now = look_at(vcpu, gpa, qualification);
	hva_t hva = 0;
	int id = -1;

	if (!stuck(vcpu, &now))
		return;
	lib_rcu_read_lock();
	slot = kvm_vcpu_gfn_to_memslot(vcpu, gpa >> PAGE_SHIFT);
	if (slot) {
		id = (int)slot->id;
		hva = gfn_to_hva_memslot(slot, gpa >> PAGE_SHIFT) + (gpa & ~PAGE_MASK);
	}
	lib_rcu_read_unlock();
	log_told("vCPU %u: the same EPT violation for the %uth time without progress: %s gpa %#llx at rip %#llx (%s); your "
		 "handler of KVM_RUN's EFAULT does not repair it: memslot %d has host-virtual %#llx there, which cannot be %s",
		 vcpu->vcpu_id, VMX_STUCK_AT, access_text(qualification), (ull)gpa, (ull)vmx_get_rip(vcpu),
		 insn_text(vcpu, insn), id, (ull)hva,
		 qualification & EPT_VIOLATION_ACC_WRITE ? "written" : "read");
}
