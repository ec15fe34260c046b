/*
 * Enlightened VMCSs of an L1 that knows Hyper-V's interface (evmcs.h; TLFS "Enlightened VMCS"; KVM API:
 * KVM_CAP_HYPERV_ENLIGHTENED_VMCS; Linux: vmx/evmcs.c, nested_vmx_handle_enlightened_vmptrld).
 *
 *	L1's assist page: enter with the one at P
 *	L1: VMLAUNCH, VMRESUME --> nested_evmcs_load, nested_evmcs_from_l1 --> cached_vmcs12 --> VMCS02
 *	exit of L2 to L1       --> cached_vmcs12 ==== before L1 runs ====> nested_evmcs_to_l1
 *
 * Invariants
 * 1. While one is active, no ordinary VMCS of L1's is current, and VMCS01 has no shadow VMCS.
 * 2. Between an exit to L1 and L1's next instruction shadow_stale is set, and cached_vmcs12 counts; afterwards L1's
 *    memory does, until the next entry.
 * 3. No pointer into L1's memory is kept: each transfer is one guarded copy.
 *
 * Locks: none; the vCPU's thread.
 */
#include <string.h>

#include "mmu/mmu.h"
#include "vmx/evmcs.h"
#include "vmx/internal.h"

/* --- which one --- */

static gpa_t page_of(gpa_t vmptr)
{
	return vmptr & ~(gpa_t)(PAGE_SIZE - 1);
}

/* L1 enters with an enlightened VMCS, and where it is. */
bool nested_evmcs_entry_is_enlightened(struct kvm_vcpu *vcpu, gpa_t *vmptr)
{
	struct hv_vp_assist_page assist;
	gpa_t page;

	if (!vmx_services->hv_assist_page(vcpu, &page) || kvm_vcpu_read_guest(vcpu, page, &assist, sizeof(assist)) ||
	    !assist.enlighten_vmentry || assist.current_nested_vmcs == INVALID_VMPTR ||
	    assist.current_nested_vmcs == EVMPTR_PENDING)
		return false;
	*vmptr = assist.current_nested_vmcs;
	return true;
}

/* Another one than before. Hyper-V itself writes a VMCS revision where the version belongs, so that is taken too. */
static enum nested_evmptrld make_active(struct kvm_vcpu *vcpu, gpa_t vmptr, bool launch)
{
	struct nested_vmx *n = &vcpu->vmx->nested;
	uint32_t version;

	nested_release_vmcs12(vcpu);
	nested_evmcs_release(vcpu);
	if (kvm_vcpu_read_guest(vcpu, page_of(vmptr) + EVMCS_AT_VERSION, &version, sizeof(version)))
		return EVMPTRLD_ERROR;
	if (version != EVMCS_VERSION && version != VMCS12_REVISION)
		return EVMPTRLD_VMFAIL;
	n->evmcs.vmptr = vmptr;
	n->dirty_vmcs12 = true;
	/* what it has no field for must not be an earlier VMCS's */
	if (launch) {
		memset(n->cached_vmcs12, 0, VMCS12_SIZE);
		n->cached_vmcs12->revision_id = VMCS12_REVISION;
	}
	return EVMPTRLD_SUCCEEDED;
}

static void set_clean_fields(struct kvm_vcpu *vcpu, uint32_t clean)
{
	nested_write_guest(vcpu, page_of(vcpu->vmx->nested.evmcs.vmptr) + EVMCS_AT_CLEAN_FIELDS, &clean, sizeof(clean));
}

enum nested_evmptrld nested_evmcs_load(struct kvm_vcpu *vcpu, bool launch)
{
	struct nested_vmx *n = &vcpu->vmx->nested;
	enum nested_evmptrld r;
	uint32_t clean;
	gpa_t vmptr;
	bool other;

	if (!nested_evmcs_offered(vcpu))
		return EVMPTRLD_DISABLED;
	if (!nested_evmcs_entry_is_enlightened(vcpu, &vmptr)) {
		nested_evmcs_release(vcpu);
		return EVMPTRLD_DISABLED;
	}
	other = vmptr != n->evmcs.vmptr;
	if (other) {
		r = make_active(vcpu, vmptr, launch);
		if (r != EVMPTRLD_SUCCEEDED)
			return r;
	}
	/* clean means: as at the last entry with this one */
	if (!launch && !other)
		return EVMPTRLD_SUCCEEDED;
	n->evmcs.bitmap_merged = false;
	if (kvm_vcpu_read_guest(vcpu, page_of(vmptr) + EVMCS_AT_CLEAN_FIELDS, &clean, sizeof(clean)))
		return EVMPTRLD_ERROR;
	set_clean_fields(vcpu, clean & ~(uint32_t)EVMCS_CLEAN_ALL);
	return EVMPTRLD_SUCCEEDED;
}

bool nested_evmcs_get_page(struct kvm_vcpu *vcpu)
{
	struct nested_vmx *n = &vcpu->vmx->nested;
	enum nested_evmptrld r;

	if (n->evmcs.vmptr != EVMPTR_PENDING || !nested_evmcs_offered(vcpu))
		return true;
	r = nested_evmcs_load(vcpu, false);
	if (r == EVMPTRLD_ERROR || r == EVMPTRLD_VMFAIL)
		return false;
	/* what was saved is newer than what L1's memory says */
	n->shadow_stale = nested_evmcs_is_active(n);
	return true;
}

void nested_evmcs_restore(struct kvm_vcpu *vcpu)
{
	vcpu->vmx->nested.evmcs.vmptr = EVMPTR_PENDING;
}

/* --- fields --- */

static uint32_t word_at(const uint8_t *e, unsigned at)
{
	uint32_t v;

	memcpy(&v, e + at, sizeof(v));
	return v;
}

/* Of each field the width is vmcs12's. */
#define FIELD_FITS(member, encoding, at, group) \
	static_assert((at) % sizeof(((struct vmcs12 *)0)->member) == 0 && \
		      (at) + sizeof(((struct vmcs12 *)0)->member) <= EVMCS_SIZE, #member);
EVMCS_FIELDS(FIELD_FITS)
#undef FIELD_FITS

/* Groups of which fields are in VMCS02 only when they have changed (RARE_FIELDS in nested_vmcs02.c). */
#define RARE_GROUPS (EVMCS_CLEAN_GUEST_GRP1 | EVMCS_CLEAN_GUEST_GRP2 | EVMCS_CLEAN_CONTROL_GRP2)

static bool copy_from_l1(struct kvm_vcpu *vcpu, bool all)
{
	struct nested_vmx *n = &vcpu->vmx->nested;
	struct vmcs12 *v = n->cached_vmcs12;
	uint8_t e[EVMCS_SIZE];
	uint64_t clean;

	if (kvm_vcpu_read_guest(vcpu, page_of(n->evmcs.vmptr), e, sizeof(e)))
		return false;
	clean = all ? 0 : word_at(e, EVMCS_AT_CLEAN_FIELDS);
	n->evmcs.bitmap_is_clean = clean & EVMCS_CLEAN_MSR_BITMAP &&
				   word_at(e, EVMCS_AT_ENLIGHTENMENTS) & EVMCS_ENLIGHTENED_MSR_BITMAP;
	if ((clean & RARE_GROUPS) != RARE_GROUPS)
		n->dirty_vmcs12 = true;
#define TAKE(member, encoding, at, group)         \
	if (!(clean & EVMCS_CLEAN_##group))       \
		memcpy(&v->member, e + (at), sizeof(v->member));
	EVMCS_BOTH_WAYS(TAKE)
	EVMCS_FROM_L1(TAKE)
#undef TAKE
	return true;
}

bool nested_evmcs_from_l1(struct kvm_vcpu *vcpu, bool launch)
{
	if (!copy_from_l1(vcpu, false))
		return false;
	/* it has no launch state: either instruction is right */
	vcpu->vmx->nested.cached_vmcs12->launch_state = !launch;
	return true;
}

void nested_evmcs_sync(struct kvm_vcpu *vcpu)
{
	const struct nested_vmx *n = &vcpu->vmx->nested;

	/* clean fields say something at an entry only */
	if (nested_evmcs_is_active(n) && !n->shadow_stale && !is_guest_mode(vcpu))
		(void)copy_from_l1(vcpu, true);
}

void nested_evmcs_to_l1(struct kvm_vcpu *vcpu)
{
	struct nested_vmx *n = &vcpu->vmx->nested;
	const struct vmcs12 *v = n->cached_vmcs12;
	uint8_t e[EVMCS_SIZE];

	n->shadow_stale = false;
	if (kvm_vcpu_read_guest(vcpu, page_of(n->evmcs.vmptr), e, sizeof(e)))
		return;
#define GIVE(member, encoding, at, group) memcpy(e + (at), &v->member, sizeof(v->member));
	EVMCS_BOTH_WAYS(GIVE)
	EVMCS_TO_L1(GIVE)
#undef GIVE
	nested_write_guest(vcpu, page_of(n->evmcs.vmptr), e, sizeof(e));
}

void nested_evmcs_entered(struct kvm_vcpu *vcpu)
{
	uint32_t clean;

	if (likely(!nested_evmcs_is_active(&vcpu->vmx->nested)))
		return;
	/* Hyper-V only ever clears bits */
	if (!kvm_vcpu_read_guest(vcpu, page_of(vcpu->vmx->nested.evmcs.vmptr) + EVMCS_AT_CLEAN_FIELDS, &clean, sizeof(clean)))
		set_clean_fields(vcpu, clean | (uint32_t)EVMCS_CLEAN_ALL);
}

bool nested_evmcs_read_field(struct kvm_vcpu *vcpu, uint64_t encoding, uint64_t *value)
{
	unsigned at = 0, size = 0;

	switch (encoding) {
#define FIND(member, field, offset, group)                    \
	case field:                                           \
		at = offset;                                  \
		size = sizeof(((struct vmcs12 *)0)->member);  \
		break;
		EVMCS_FIELDS(FIND)
#undef FIND
	default:
		return false;
	}
	*value = 0;
	nested_read_guest(vcpu, page_of(vcpu->vmx->nested.evmcs.vmptr) + at, value, size);
	return true;
}
