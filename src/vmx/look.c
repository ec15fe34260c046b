/*
 * Looking at a vCPU's VMCSs: see look.h.
 *
 * Invariants
 * 1. What was the processor's current VMCS is current again when a function returns.
 * 2. No VMREAD of a field that the processor does not have: it would write VM_INSTRUCTION_ERROR.
 * 3. Nothing is written into a VMCS but into a scratch one.
 *
 * Locks: none; the vCPU is at rest.
 */
#include "vmx/look.h"

#include "host/memory.h"
#include "vmx/internal.h"
#include "vmx/nested_check.h"

#define FIELD_ENTRY(name, enc) enc,
static const uint32_t fields[NR_VMCS_FIELDS] = { VMCS_FIELDS(FIELD_ENTRY) };
#undef FIELD_ENTRY

void vmx_look_state(struct kvm_vcpu *vcpu, struct vmx_look_state *s)
{
	const struct vcpu_vmx *vmx = vcpu->vmx;

	*s = (struct vmx_look_state){
		.vmxon = vmx->head.vmxon,
		.guest_mode = vmx->head.guest_mode,
		.run_pending = vmx->nested.run_pending,
		.vmxon_ptr = vmx->head.vmxon ? vmx->nested.vmxon_ptr : INVALID_VMPTR,
		.vmptr12 = vmx->head.vmxon ? nested_vmptr12(&vmx->nested) : INVALID_VMPTR,
	};
}

/* Makes it current. False: it stays as it is. */
static bool load(struct kvm_vcpu *vcpu, const void *vmcs)
{
	return vmptrst(vcpu->vmx->cpu) == __pa(vmcs) || vmptrld(vcpu->vmx->cpu, __pa(vmcs)) == VMX_SUCCEED;
}

static void back(struct kvm_vcpu *vcpu)
{
	if (!load(vcpu, vcpu->vmx->loaded_vmcs->vmcs))
		kvm_vm_bugged(vcpu->kvm, "VMPTRLD of a VMCS of ours failed");
}

static void copy_loaded(struct kvm_vcpu *vcpu, const struct loaded_vmcs *l, struct vmx_vmcs_copy *copy)
{
	if (!load(vcpu, l->vmcs))
		return;
	copy->there = true;
	copy->launched = l->launched;
	for (unsigned n = 0; n < NR_VMCS_FIELDS; n++) {
		uint64_t *value = &copy->field[n].value;

		copy->field[n].has = vmx_vmcs_cells[VMX_FIELD_SLOT(fields[n])] &&
				     vmread(vcpu->vmx->cpu, fields[n], value) == VMX_SUCCEED;
		if (fields[n] == GUEST_CR3 && l->cr3_stale)
			*value = l->cr3;
	}
	back(vcpu);
}

void vmx_look_vmcs(struct kvm_vcpu *vcpu, enum vmx_look which, struct vmx_vmcs_copy *copy)
{
	const struct vcpu_vmx *vmx = vcpu->vmx;

	*copy = (struct vmx_vmcs_copy){ 0 };
	for (unsigned n = 0; n < NR_VMCS_FIELDS; n++)
		copy->field[n].encoding = fields[n];
	if (which == VMX_LOOK_01)
		copy_loaded(vcpu, &vmx->vmcs01, copy);
	if (which == VMX_LOOK_02 && vmx->head.vmxon && vmx->nested.vmcs02_constant)
		copy_loaded(vcpu, &vmx->nested.vmcs02, copy);
	if (which != VMX_LOOK_12 || !vmx->head.vmxon || nested_vmptr12(&vmx->nested) == INVALID_VMPTR)
		return;
	nested_shadowing_from_l1(vcpu);
	nested_evmcs_sync(vcpu);
	copy->there = true;
	copy->launched = get_vmcs12(vcpu)->launch_state;
	for (unsigned n = 0; n < NR_VMCS_FIELDS; n++)
		copy->field[n].has = vmcs12_read_field(get_vmcs12(vcpu), fields[n], &copy->field[n].value);
}

/* --- checks --- */

/* Guest state that the processor would get as vmcs12 has it, in a VMCS of our controls and host state. */
static void fill_scratch(struct kvm_vcpu *vcpu, const struct vmcs12 *v)
{
	uint64_t secondary = vmcs_config()->secondary & ~(uint64_t)(SECONDARY_EXEC_UNRESTRICTED_GUEST);

	if (nested_cpu_has2(v, SECONDARY_EXEC_UNRESTRICTED_GUEST))
		secondary |= SECONDARY_EXEC_UNRESTRICTED_GUEST;
	vmx_set_constant_host_state(vcpu);
	for (unsigned n = 0; n < NR_VMCS_FIELDS; n++) {
		uint64_t value;

		if (vmcs_field_kind(fields[n]) == VMCS_KIND_GUEST && vmx_vmcs_cells[VMX_FIELD_SLOT(fields[n])] &&
		    vmcs12_read_field(v, fields[n], &value))
			vmcs_write64(vcpu, fields[n], value);
	}
	vmcs_write64(vcpu, VMCS_LINK_POINTER, ~0ULL);
	vmcs_write32(vcpu, PIN_BASED_VM_EXEC_CONTROL, v->pin_based_vm_exec_control);
	vmcs_write32(vcpu, CPU_BASED_VM_EXEC_CONTROL,
		     (vmcs_config()->cpu_based & ~(uint32_t)CPU_BASED_TPR_SHADOW) | (uint32_t)CPU_BASED_ACTIVATE_SECONDARY_CONTROLS);
	vmcs_write32(vcpu, SECONDARY_VM_EXEC_CONTROL, (uint32_t)secondary);
	vmcs_write32(vcpu, VM_ENTRY_CONTROLS, v->vm_entry_controls);
	vmcs_write32(vcpu, VM_ENTRY_INTR_INFO_FIELD, v->vm_entry_intr_info_field);
}

/* PDPTEs are L0's to check where they are in L1's memory. */
static bool is_the_processors(const struct vmcs12 *v, enum vmentry_check check)
{
	if (check == VMENTRY_CHECK_GUEST_PDPTES)
		return nested_cpu_has_ept(v);
	return check >= VMENTRY_CHECK_FIRST_OF_PROCESSOR && vmentry_rows[check].group == VMENTRY_GUEST;
}

/*
 * vmcs12's guest state goes into VMCS02 as it is, and the processor refuses it: here it is
 * asked of a scratch VMCS. What the hypervisor has checked by itself does not come twice.
 */
static void check_by_processor(struct kvm_vcpu *vcpu, struct vmentry_failures *f)
{
	struct vmx_cpu *cpu = vcpu->vmx->cpu;
	struct vmentry_failures all = { 0 };
	void *scratch = host_frame_alloc();

	if (!scratch)
		return;
	*(uint32_t *)scratch = VMCS_REVISION_ID;
	if (vmclear(cpu, __pa(scratch)) == VMX_SUCCEED && load(vcpu, scratch)) {
		struct loaded_vmcs mine = { .vmcs = scratch }, *was = vcpu->vmx->loaded_vmcs;

		vcpu->vmx->loaded_vmcs = &mine;
		fill_scratch(vcpu, get_vmcs12(vcpu));
		vcpu->vmx->loaded_vmcs = was;
		vmx_entry_checks(cpu, &all);
	}
	back(vcpu);
	host_frame_free(scratch);
	for (unsigned n = 0; n < all.nr && n < VMENTRY_MAX_FAILURES; n++)
		if (is_the_processors(get_vmcs12(vcpu), (enum vmentry_check)all.at[n].check))
			vmentry_failed(f, (enum vmentry_check)all.at[n].check, all.at[n].field);
}

static void check_vmcs12(struct kvm_vcpu *vcpu, struct vmentry_failures *f)
{
	struct nested_checks c = { .all = f };
	const struct vmcs12 *v = get_vmcs12(vcpu);

	nested_shadowing_from_l1(vcpu);
	nested_evmcs_sync(vcpu);
	nested_vmx_check_controls(vcpu, v, &c);
	/* in L2 EFER is L2's: nobody knows L1's but its own entry, which has been */
	if (!is_guest_mode(vcpu))
		nested_vmx_check_address_space_size(vcpu, v, &c);
	nested_vmx_check_host_state(vcpu, v, &c);
	nested_vmx_check_guest_registers(vcpu, v, &c);
	check_by_processor(vcpu, f);
}

void vmx_look_checks(struct kvm_vcpu *vcpu, enum vmx_look which, struct vmentry_failures *f, struct vmentry_limits *l)
{
	f->nr = 0;
	if (which == VMX_LOOK_12) {
		nested_vmx_limits(vcpu, l);
		if (vcpu->vmx->head.vmxon && nested_vmptr12(&vcpu->vmx->nested) != INVALID_VMPTR)
			check_vmcs12(vcpu, f);
		return;
	}
	vmx_processor_limits(l);
	if (load(vcpu, vcpu->vmx->vmcs01.vmcs))
		vmx_entry_checks(vcpu->vmx->cpu, f);
	back(vcpu);
}
