/*
 * Why an L1's VM entry failed, in words: which check of the manual, which field, its
 * value. It is told even with logging off, since an L1 that is being written has no
 * other way to hear of it; but for the first failures of a vCPU only.
 */
#include <inttypes.h>
#include <stdio.h>

#include "lib/log.h"
#include "trace/trace.h"
#include "vmx/internal.h"
#include "vmx/nested_check.h"

#define MAX_EXPLAINED 16

static const struct {
	const char *name, *rule;
	enum vmentry_check_group group;
	uint32_t field;
} checks[NR_VMENTRY_CHECKS] = {
#define CHECK_ROW(id, grp, fld, text) [VMENTRY_CHECK_##id] = { #id, text, VMENTRY_##grp, fld },
	VMENTRY_CHECKS(CHECK_ROW)
#undef CHECK_ROW
};

static const char *const sections[] = {
	[VMENTRY_CONTROLS] = "Checks on VMX Controls",
	[VMENTRY_HOST] = "Checks on Host-State Area",
	[VMENTRY_GUEST] = "Checks on Guest State",
};

void nested_vmx_explain(struct kvm_vcpu *vcpu, const struct nested_checks *f, unsigned error)
{
	struct nested_vmx *n = &vcpu->vmx->nested;
	char others[48] = "";
	uint64_t value = 0;

	TRACE(kvm, kvm_nested_vmenter_failed, f->first, error);
	if (n->nr_explained++ >= MAX_EXPLAINED)
		return;
	if (!vmcs12_read_field(n->cached_vmcs12, checks[f->first].field, &value))
		return;
	if (f->nr_failed > 1)
		snprintf(others, sizeof(others), ", and %u more", f->nr_failed - 1);
	log_always("vCPU %u: VM entry of L1's VMCS %#" PRIx64 " failed (%s %u): %s: %s (%xh) = %#" PRIx64
		   ", must be: %s [SDM \"%s\"]%s%s", vcpu->vcpu_id, n->current_vmptr,
		   error ? "error" : "exit", error ? error : EXIT_REASON_INVALID_STATE, checks[f->first].name,
		   vmcs_field_name(checks[f->first].field), checks[f->first].field, value, checks[f->first].rule,
		   sections[checks[f->first].group], others,
		   n->nr_explained == MAX_EXPLAINED ? "; later ones are not told" : "");
}
