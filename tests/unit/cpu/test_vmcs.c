/* VMCS regions: what the instructions accept and how they refuse. */
#include "machine.h"

#define STATE struct machine *t = *state

static void vmptrld_of_wrong_revision_fails_with_11(void **state)
{
	STATE;
	struct vmcs *other = test_pages(4096);

	other->revision_id = 1;
	assert_int_equal(vmptrld(t->cpu, (hpa_t)other), VMX_FAIL_VALID);
	assert_int_equal(R(t, VM_INSTRUCTION_ERROR), VMXERR_VMPTRLD_INCORRECT_VMCS_REVISION_ID);
	assert_int_equal(vmptrst(t->cpu), (hpa_t)t->vmcs);
}

static void unaligned_region_fails_with_9_and_2(void **state)
{
	STATE;

	assert_int_equal(vmptrld(t->cpu, (hpa_t)t->vmcs + 8), VMX_FAIL_VALID);
	assert_int_equal(R(t, VM_INSTRUCTION_ERROR), VMXERR_VMPTRLD_INVALID_ADDRESS);
	assert_int_equal(vmclear(t->cpu, (hpa_t)t->vmcs + 8), VMX_FAIL_VALID);
	assert_int_equal(R(t, VM_INSTRUCTION_ERROR), VMXERR_VMCLEAR_INVALID_ADDRESS);
}

static void without_current_vmcs_all_fail_invalid(void **state)
{
	STATE;
	uint64_t v;

	assert_int_equal(vmclear(t->cpu, (hpa_t)t->vmcs), VMX_SUCCEED);
	assert_int_equal(vmptrst(t->cpu), ~0ULL);
	assert_int_equal(vmread(t->cpu, GUEST_RIP, &v), VMX_FAIL_INVALID);
	assert_int_equal(vmwrite(t->cpu, GUEST_RIP, 0), VMX_FAIL_INVALID);
	assert_int_equal(vmlaunch(t->cpu), VMX_FAIL_INVALID);
	assert_int_equal(invept(t->cpu, 9, 0), VMX_FAIL_INVALID);
}

/* IA32_VMX_MISC bit 29 */
static void exit_information_is_writable(void **state)
{
	STATE;

	assert_int_equal(vmx_capability_msr(MSR_IA32_VMX_MISC) >> 29 & 1, 1);
	W(VM_EXIT_REASON, 0x123456789);
	assert_int_equal(R(t, VM_EXIT_REASON), 0x23456789);
}

static void invalidations_of_no_type_or_no_eptp_fail_with_28(void **state)
{
	STATE;
	uint64_t eptp = R(t, EPT_POINTER);

	assert_int_equal(invept(t->cpu, INVEPT_SINGLE_CONTEXT, eptp), VMX_SUCCEED);
	for (uint64_t type = 0; type < 5; type++) {
		bool none = type != INVEPT_SINGLE_CONTEXT && type != INVEPT_ALL_CONTEXT;

		assert_int_equal(invept(t->cpu, type, eptp), none ? VMX_FAIL_VALID : VMX_SUCCEED);
		if (none)
			assert_int_equal(R(t, VM_INSTRUCTION_ERROR), VMXERR_INVALID_OPERAND_TO_INVEPT_INVVPID);
	}
	assert_int_equal(invept(t->cpu, INVEPT_SINGLE_CONTEXT, eptp | BIT_ULL(11)), VMX_FAIL_VALID);
	assert_int_equal(invept(t->cpu, INVEPT_ALL_CONTEXT, eptp | BIT_ULL(11)), VMX_SUCCEED);
	assert_int_equal(invvpid(t->cpu, 4, 1, 0), VMX_FAIL_VALID);
	assert_int_equal(invvpid(t->cpu, INVVPID_ALL_CONTEXT, 1, 0), VMX_SUCCEED);
}

/* Every encoding: a cell is told of those that VMREAD knows, and has what VMREAD reads. */
static void cells_hold_what_vmread_reads(void **state)
{
	STATE;
	unsigned nr = 0;

	for (uint32_t field = 0; field < 0x8000; field++) {
		uint16_t cell = field & ~VMX_FIELD_BITS ? 0 : vmx_vmcs_cells[VMX_FIELD_SLOT(field)];
		enum vmx_result r;
		uint64_t v;

		if (cell && vmcs_field_kind(field) != VMCS_KIND_RO)
			assert_int_equal(vmwrite(t->cpu, field, 0x0123456789abcdefULL + field), VMX_SUCCEED);
		r = vmread(t->cpu, field, &v);
		if (!cell) {
			assert_true(r == VMX_FAIL_VALID || (field & 1));
			continue;
		}
		nr++;
		assert_int_equal(r, VMX_SUCCEED);
		assert_int_equal(v, *(uint64_t *)(void *)((char *)t->vmcs + cell));
	}
	assert_in_range(nr, 120, 512);
}

/* A field that is written over with its value is as checked as it was; with another, its checks are due. */
static void only_another_value_makes_checks_due(void **state)
{
	static const struct {
		const char *name;
		uint32_t field;
	} fields[] = {
#define FIELD(name, enc) { #name, enc },
		VMCS_FIELDS(FIELD)
#undef FIELD
	};
	STATE;
	unsigned due = 0;

	for (size_t n = 0; n < ARRAY_SIZE(fields); n++) {
		uint32_t field = fields[n].field;
		uint64_t v;

		if (vmcs_field_kind(field) == VMCS_KIND_RO || vmread(t->cpu, field, &v) != VMX_SUCCEED)
			continue;
		t->vmcs->stale = 0;
		W(field, v);
		if (t->vmcs->stale)
			fail_msg("%s: the same value made %#x stale", fields[n].name, t->vmcs->stale);
		W(field, v ^ 2);
		due += t->vmcs->stale != 0;
		if (field == GUEST_RFLAGS) {
			assert_int_equal(t->vmcs->stale, VMCS_LOAD_REST);
			t->vmcs->stale = 0;
			W(field, v ^ 2 ^ (X86_FLAGS_RF | X86_FLAGS_ZF));
			assert_int_equal(t->vmcs->stale, 0);
			W(field, v ^ X86_FLAGS_VM);
			assert_int_equal(t->vmcs->stale, VMCS_CHECK_GUEST | VMCS_LOAD_GUEST | VMCS_LOAD_REST);
		}
		W(field, v);
	}
	assert_true(due > 100);
	/* an entry that failed is checked again, though the value stays */
	W(HOST_CS_SELECTOR, 0);
	assert_int_equal(vmlaunch(t->cpu), VMX_FAIL_VALID);
	W(HOST_CS_SELECTOR, 0);
	assert_int_equal(vmlaunch(t->cpu), VMX_FAIL_VALID);
}

static void unsupported_fields_fail_with_12(void **state)
{
	static const uint32_t none[] = { 0x0004, 0x2fff, EPTP_LIST_ADDRESS, GUEST_BNDCFGS,
					 GUEST_RIP | 1, GUEST_CS_LIMIT | 1 };
	STATE;
	uint64_t v;

	for (size_t n = 0; n < ARRAY_SIZE(none); n++) {
		assert_int_equal(vmread(t->cpu, none[n], &v), VMX_FAIL_VALID);
		assert_int_equal(R(t, VM_INSTRUCTION_ERROR), VMXERR_UNSUPPORTED_VMCS_COMPONENT);
		W(EXCEPTION_BITMAP, 0); /* an instruction that succeeds */
		assert_int_equal(vmwrite(t->cpu, none[n], 0), VMX_FAIL_VALID);
		assert_int_equal(R(t, VM_INSTRUCTION_ERROR), VMXERR_UNSUPPORTED_VMCS_COMPONENT);
	}
}

static void high_half_of_64_bit_field_is_its_upper_32_bits(void **state)
{
	STATE;

	W(TSC_OFFSET, 0x1111222233334444);
	assert_int_equal(R(t, TSC_OFFSET | 1), 0x11112222);
	W(TSC_OFFSET | 1, 0xaaaabbbb);
	assert_int_equal(R(t, TSC_OFFSET), 0xaaaabbbb33334444);
}

static void fields_are_truncated_to_their_width(void **state)
{
	STATE;

	W(GUEST_CS_SELECTOR, 0x12345678);
	assert_int_equal(R(t, GUEST_CS_SELECTOR), 0x5678);
	W(GUEST_CS_LIMIT, 0x123456789a);
	assert_int_equal(R(t, GUEST_CS_LIMIT), 0x3456789a);
}

static void launch_state_decides_between_launch_and_resume(void **state)
{
	STATE;

	CODE(t, 0xf4);
	assert_int_equal(vmresume(t->cpu), VMX_FAIL_VALID);
	assert_int_equal(R(t, VM_INSTRUCTION_ERROR), VMXERR_VMRESUME_NONLAUNCHED_VMCS);
	vmx_kick(t->cpu);
	assert_int_equal(vmlaunch(t->cpu), VMX_SUCCEED);
	assert_int_equal(vmlaunch(t->cpu), VMX_FAIL_VALID);
	assert_int_equal(R(t, VM_INSTRUCTION_ERROR), VMXERR_VMLAUNCH_NONCLEAR_VMCS);
}

static void every_allowed_0_control_is_also_allowed_1(void **state)
{
	static const uint32_t msrs[] = { MSR_IA32_VMX_PINBASED_CTLS, MSR_IA32_VMX_PROCBASED_CTLS,
					 MSR_IA32_VMX_EXIT_CTLS, MSR_IA32_VMX_ENTRY_CTLS,
					 MSR_IA32_VMX_PROCBASED_CTLS2 };

	for (size_t n = 0; n < ARRAY_SIZE(msrs); n++) {
		uint64_t cap = vmx_capability_msr(msrs[n]);

		assert_int_equal((uint32_t)cap & ~(uint32_t)(cap >> 32), 0);
	}
	assert_int_equal(vmx_capability_msr(MSR_IA32_VMX_BASIC) & BIT_ULL(31), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST_REAL(vmptrld_of_wrong_revision_fails_with_11),
		TEST_REAL(unaligned_region_fails_with_9_and_2),
		TEST_REAL(without_current_vmcs_all_fail_invalid),
		TEST_REAL(exit_information_is_writable),
		TEST_REAL(invalidations_of_no_type_or_no_eptp_fail_with_28),
		TEST_REAL(unsupported_fields_fail_with_12),
		TEST_REAL(cells_hold_what_vmread_reads),
		TEST_REAL(only_another_value_makes_checks_due),
		TEST_REAL(high_half_of_64_bit_field_is_its_upper_32_bits),
		TEST_REAL(fields_are_truncated_to_their_width),
		TEST_REAL(launch_state_decides_between_launch_and_resume),
		TEST_REAL(every_allowed_0_control_is_also_allowed_1),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
