/*
 * Why an L1's VM entry failed, in words: which check of the manual, which field, its
 * value. It is told even with logging off, since an L1 that is being written has no
 * other way to hear of it; but for the first failures of a vCPU only.
 */
#include <stdio.h>

#include "lib/log.h"
#include "trace/trace.h"
#include "vmx/internal.h"
#include "vmx/nested_check.h"

#define MAX_EXPLAINED 16

void nested_vmx_limits(struct kvm_vcpu *vcpu, struct vmentry_limits *l)
{
	for (unsigned n = 0; n < NESTED_VMX_NR_MSRS; n++)
		l->cap[n] = nested_vmx_cap(vcpu, NESTED_VMX_FIRST_MSR + n);
	l->width = vmx_services->maxphyaddr(vcpu);
}

void nested_vmx_explain(struct kvm_vcpu *vcpu, const struct nested_checks *f, unsigned error)
{
	struct nested_vmx *n = &vcpu->vmx->nested;
	struct vmentry_failure first = { (uint16_t)f->first, (uint16_t)vmentry_rows[f->first].field };
	char others[48] = "", text[VMENTRY_TEXT];
	struct vmentry_limits limits;
	uint64_t value = 0;

	TRACE(kvm, kvm_nested_vmenter_failed, f->first, error);
	if (n->nr_explained++ >= MAX_EXPLAINED)
		return;
	if (!vmcs12_read_field(n->cached_vmcs12, first.field, &value))
		return;
	if (f->nr_failed > 1)
		snprintf(others, sizeof(others), ", and %u more", f->nr_failed - 1);
	nested_vmx_limits(vcpu, &limits);
	vmentry_failure_text(&first, value, &limits, text, sizeof(text));
	log_always("vCPU %u: VM entry of L1's VMCS %#llx failed (%s %u): %s%s%s", vcpu->vcpu_id,
		   (unsigned long long)nested_vmptr12(n), error ? "error" : "exit",
		   error ? error : EXIT_REASON_INVALID_STATE, text, others,
		   n->nr_explained == MAX_EXPLAINED ? "; later ones are not told" : "");
}

void nested_vmx_explain_msr(struct kvm_vcpu *vcpu, unsigned abort, const char *area, gpa_t gpa, uint32_t n,
			    uint32_t index, uint64_t value, const char *why)
{
	struct nested_vmx *v = &vcpu->vmx->nested;
	char what[40] = "VM entry failed (exit 34)";

	if (v->nr_explained++ >= MAX_EXPLAINED)
		return;
	if (abort)
		snprintf(what, sizeof(what), "VMX abort %u, L1 shuts down", abort);
	log_always("vCPU %u: L1's VMCS %#llx: %s: entry %u of the %s area at %#llx, MSR %#x, value %#llx: %s [SDM \"%s\"]%s",
		   vcpu->vcpu_id, (unsigned long long)nested_vmptr12(v), what, n + 1, area, (unsigned long long)gpa, index,
		   (unsigned long long)value, why, abort ? "VMX Aborts" : "Loading MSRs",
		   v->nr_explained == MAX_EXPLAINED ? "; later ones are not told" : "");
}
