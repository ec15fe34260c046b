/*
 * L1's VMX instructions: what each of them checks, in which order, and how it ends
 * (SDM "VMX Instruction Reference"). One case for each row of the instruction's list.
 */
#include "nested_ept.h"
#include "stats.h"

NESTED_TEST(vmxon_needs_cr4_vmxe, nested_open)
{
	struct kvm_sregs s;

	assert_int_equal(ioctl(c->vcpu, KVM_GET_SREGS, &s), 0);
	s.cr4 &= ~(uint64_t)CR4_VMXE;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_SREGS, &s), 0);
	assert_raises(nested_ptr(c, VMXON, AT_VMXON), 6);
}

NESTED_TEST(vmxon_needs_cpl_0, nested_open)
{
	struct kvm_sregs s;

	assert_int_equal(ioctl(c->vcpu, KVM_GET_SREGS, &s), 0);
	s.cs = paging_segment(24, 11, 3, true);
	s.ss = paging_segment(32, 3, 3, false);
	assert_int_equal(ioctl(c->vcpu, KVM_SET_SREGS, &s), 0);
	assert_raises(nested_ptr(c, VMXON, AT_VMXON), 13);
}

NESTED_TEST(vmxon_needs_feature_control, nested_open)
{
	client_set_msr(c, MSR_FEATURE_CONTROL, 0);
	assert_raises(nested_ptr(c, VMXON, AT_VMXON), 13);
	client_set_msr(c, MSR_FEATURE_CONTROL, 1);
	assert_raises(nested_ptr(c, VMXON, AT_VMXON), 13);
	client_set_msr(c, MSR_FEATURE_CONTROL, 5);
	assert_succeeds(nested_ptr(c, VMXON, AT_VMXON));
}

NESTED_TEST(vmxon_needs_fixed_bits_of_cr0, nested_open)
{
	struct kvm_sregs s;

	assert_int_equal(ioctl(c->vcpu, KVM_GET_SREGS, &s), 0);
	s.cr0 &= ~(uint64_t)CR0_NE;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_SREGS, &s), 0);
	assert_raises(nested_ptr(c, VMXON, AT_VMXON), 13);
}

NESTED_TEST(vmxon_checks_its_pointer, nested_open)
{
	assert_vmfail_invalid(nested_ptr(c, VMXON, AT_VMXON + 1));
	assert_vmfail_invalid(nested_ptr(c, VMXON, 1ULL << 60));
	assert_vmfail_invalid(nested_ptr(c, VMXON, AT_SHADOW));
	assert_vmfail_invalid(nested_ptr(c, VMXON, 0x10000)); /* no revision there */
	assert_succeeds(nested_ptr(c, VMXON, AT_VMXON));
}

NESTED_TEST(a_second_vmxon_fails_with_15, nested_open)
{
	assert_succeeds(nested_ptr(c, VMXON, AT_VMXON));
	assert_vmfail_invalid(nested_ptr(c, VMXON, AT_VMXON));
	assert_succeeds(nested_ptr(c, VMPTRLD, AT_VMCS));
	assert_vmfail(c, nested_ptr(c, VMXON, AT_VMXON), 15);
}

NESTED_TEST(operands_fault_as_the_access_does, nested_open)
{
	struct outcome o;

	assert_raises(nested_do(c, VMXON, 1ULL << 63, 0), 13);
	paging_pte_set(c, PAGING_LONG, AT_TEST, 0);
	o = nested_do(c, VMXON, AT_TEST, 0);
	assert_raises(o, 14);
	assert_int_equal(o.error_code, 0);
}

NESTED_TEST(without_vmxon_all_others_are_undefined, nested_open)
{
	static const enum snippet all[] = {VMXOFF, VMCLEAR, VMPTRLD, VMPTRST, VMREAD, VMWRITE, VMLAUNCH, VMRESUME, INVEPT, INVVPID, VMFUNC};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		assert_raises(nested_do(c, all[i], AT_TEST, AT_TEST), 6);
}

NESTED_TEST(at_cpl_3_all_are_general_protection, nested_open_vmcs)
{
	static const enum snippet all[] = {VMXON, VMXOFF, VMCLEAR, VMPTRLD, VMPTRST, VMREAD, VMWRITE, VMLAUNCH, VMRESUME};
	struct kvm_sregs s;

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
		assert_int_equal(ioctl(c->vcpu, KVM_GET_SREGS, &s), 0);
		s.cs = paging_segment(24, 11, 3, true);
		s.ss = paging_segment(32, 3, 3, false);
		assert_int_equal(ioctl(c->vcpu, KVM_SET_SREGS, &s), 0);
		assert_raises(nested_do(c, all[i], AT_TEST, AT_TEST), 13);
	}
}

NESTED_TEST(vmclear_checks_its_pointer, nested_open_vmcs)
{
	assert_vmfail(c, nested_ptr(c, VMCLEAR, AT_VMCS2 + 8), 2);
	assert_vmfail(c, nested_ptr(c, VMCLEAR, 1ULL << 60), 2);
	assert_vmfail(c, nested_ptr(c, VMCLEAR, AT_VMXON), 3);
	assert_succeeds(nested_ptr(c, VMCLEAR, AT_VMCS2));
}

NESTED_TEST(vmclear_of_the_current_vmcs_writes_it_back, nested_open_vmcs)
{
	nested_vmwrite(c, GUEST_RIP, 0x123456789a);
	assert_int_not_equal(*(uint64_t *)(c->mem + AT_VMCS + 544), 0x123456789a);
	assert_succeeds(nested_ptr(c, VMCLEAR, AT_VMCS));
	assert_int_equal(*(uint64_t *)(c->mem + AT_VMCS + 544), 0x123456789a);
	assert_vmfail_invalid(nested_do(c, VMREAD, GUEST_RIP, 0));
	assert_vmfail_invalid(nested_do(c, VMWRITE, GUEST_RIP, 0));
	assert_vmfail_invalid(nested_do(c, VMLAUNCH, 0, 0));
}

NESTED_TEST(vmptrld_checks_its_pointer_and_what_is_there, nested_open_vmcs)
{
	assert_vmfail(c, nested_ptr(c, VMPTRLD, AT_VMCS2 + 8), 9);
	assert_vmfail(c, nested_ptr(c, VMPTRLD, 1ULL << 60), 9);
	assert_vmfail(c, nested_ptr(c, VMPTRLD, AT_VMXON), 10);
	assert_vmfail(c, nested_ptr(c, VMPTRLD, 0x10000), 11);
	assert_vmfail(c, nested_ptr(c, VMPTRLD, 0x8000000), 11); /* no memory */
}

NESTED_TEST(vmptrst_stores_the_current_pointer, nested_open)
{
	assert_succeeds(nested_ptr(c, VMXON, AT_VMXON));
	assert_succeeds(nested_do(c, VMPTRST, AT_TEST, 0));
	assert_int_equal(*nested_operand(c), ~0ULL);
	assert_succeeds(nested_ptr(c, VMPTRLD, AT_VMCS2));
	assert_succeeds(nested_do(c, VMPTRST, AT_TEST, 0));
	assert_int_equal(*nested_operand(c), AT_VMCS2);
}

NESTED_TEST(each_field_keeps_what_is_written, nested_open_vmcs)
{
	/* the processor has fields that a vmcs12 has not */
	static const uint32_t absent[] = {EXECUTIVE_VMCS_POINTER, PLE_GAP, PLE_WINDOW, GUEST_SMBASE, CR3_TARGET_VALUE0, CR3_TARGET_VALUE1,
					  CR3_TARGET_VALUE2, CR3_TARGET_VALUE3, IO_RCX, IO_RSI, IO_RDI, IO_RIP};
	static const uint32_t fields[] = {
#define FIELD_ENCODING(name, enc) enc,
		VMCS_FIELDS(FIELD_ENCODING)
#undef FIELD_ENCODING
	};
	unsigned n = 0;

	for (size_t i = 0; i < sizeof(fields) / sizeof(*fields); i++) {
		uint64_t v = 0xfedcba9876543210, want = v;
		bool known = true;

		for (size_t j = 0; j < sizeof(absent) / sizeof(*absent); j++)
			known &= fields[i] != absent[j];
		if (!known) {
			assert_vmfail(c, nested_do(c, VMREAD, fields[i], 0), 12);
			assert_vmfail(c, nested_do(c, VMWRITE, fields[i], 0), 12);
			continue;
		}
		n++;
		if (vmcs_field_width(fields[i]) == VMCS_WIDTH_16)
			want &= 0xffff;
		else if (vmcs_field_width(fields[i]) == VMCS_WIDTH_32)
			want = (uint32_t)want;
		if (fields[i] >= GUEST_ES_AR_BYTES && fields[i] <= GUEST_TR_AR_BYTES)
			want &= 0x1f0ff;
		nested_vmwrite(c, fields[i], v);
		assert_int_equal(nested_vmread(c, fields[i]), want);
		if (vmcs_field_width(fields[i]) == VMCS_WIDTH_64) {
			assert_int_equal(nested_vmread(c, fields[i] | 1), v >> 32);
			nested_vmwrite(c, fields[i] | 1, 0x89abcdef);
			assert_int_equal(nested_vmread(c, fields[i]), 0x89abcdef00000000 | (uint32_t)v);
		} else {
			assert_vmfail(c, nested_do(c, VMREAD, fields[i] | 1, 0), 12);
		}
	}
	assert_int_equal(n, 141);
}

NESTED_TEST(fields_that_are_none_fail_with_12, nested_open_vmcs)
{
	static const uint64_t none[] = {0x4828 | 0x8000, 0x10000, 1ULL << 32 | GUEST_RIP, 0x681e + 0x1000, 0x6c18, 0x4e00, 1ULL << 63};

	for (size_t i = 0; i < sizeof(none) / sizeof(*none); i++) {
		assert_vmfail(c, nested_do(c, VMREAD, none[i], 0), 12);
		assert_vmfail(c, nested_do(c, VMWRITE, none[i], 0), 12);
	}
}

NESTED_TEST(read_only_fields_refuse_where_misc_29_is_clear, nested_open)
{
	client_set_msr(c, MSR_VMX(5), client_msr(c, MSR_VMX(5)) & ~(1ULL << 29));
	assert_succeeds(nested_ptr(c, VMXON, AT_VMXON));
	assert_succeeds(nested_ptr(c, VMPTRLD, AT_VMCS));
	assert_vmfail(c, nested_do(c, VMWRITE, VM_EXIT_REASON, 1), 13);
	assert_vmfail(c, nested_do(c, VMWRITE, 0x4410, 1), 12);
	nested_vmwrite(c, GUEST_RIP, 1);
}

NESTED_TEST(vmread_and_vmwrite_take_memory_operands, nested_open_vmcs)
{
	*nested_operand(c) = 0xabcdef;
	assert_succeeds(nested_do(c, VMWRITE_MEM, GUEST_RSP, AT_TEST));
	assert_int_equal(nested_vmread(c, GUEST_RSP), 0xabcdef);
	*nested_operand(c) = 0;
	assert_succeeds(nested_do(c, VMREAD_MEM, GUEST_RSP, AT_TEST));
	assert_int_equal(*nested_operand(c), 0xabcdef);
	/* the operand is read before the field is looked at; a fault changes nothing */
	paging_pte_set(c, PAGING_LONG, AT_TEST, 0);
	assert_raises(nested_do(c, VMWRITE_MEM, 0x4410, AT_TEST), 14);
	assert_raises(nested_do(c, VMREAD_MEM, GUEST_GDTR_BASE, AT_TEST), 14); /* one that exits: the processor may have the page in its TLB */
	assert_int_equal(nested_vmread(c, GUEST_RSP), 0xabcdef);
}

/* VMREAD and VMWRITE of L2, on the VMCS that shadowing links: where EPT12 has no operand, that is L1's exit and no #PF of L2's. */
NESTED_TEST(an_operand_of_l2_that_ept_forbids_is_an_exit, nested_open_ept)
{
	static const struct {
		const char *code;
		uint64_t rights, qualification; /* EPT12's of the operand's page */
	} rows[] = {
		{"\x0f\x79\x03\x0f\xa2", 0, 0x181}, {"\x0f\x78\x03\x0f\xa2", 0, 0x183}, {"\x0f\x78\x03\x0f\xa2", EPT_R | EPT_X, 0x1ab},
	}; /* of a write in a walk of the hypervisor's KVM sets bit 0 too */

	nested_set_bits(c, SECONDARY, 1u << 14);
	nested_vmwrite(c, VMCS_LINK_POINTER, AT_SHADOW);
	nested_vmwrite(c, VMREAD_BITMAP, AT_VMX_BITMAPS);
	nested_vmwrite(c, VMWRITE_BITMAP, AT_VMX_BITMAPS + 0x1000);
	memset(c->mem + AT_VMX_BITMAPS, 0, 0x2000);
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		struct outcome o;

		nested_l2_code(c, rows[i].code, 5);
		nested_vmwrite(c, GUEST_RIP, AT_L2);
		ept_store(c, AT_TEST >> 12, rows[i].rights ? AT_TEST | rows[i].rights | EPT_WB : 0);
		assert_succeeds(nested_do(c, INVEPT, 2, 0x60000));
		o = nested_do(c, i ? VMRESUME : VMLAUNCH, GUEST_RSP, AT_TEST);
		assert_int_equal(o.port, PORT_EXIT);
		assert_int_equal(nested_vmread(c, VM_EXIT_REASON), EXIT_REASON_EPT_VIOLATION);
		assert_int_equal(nested_vmread(c, EXIT_QUALIFICATION), rows[i].qualification);
		assert_int_equal(nested_vmread(c, GUEST_PHYSICAL_ADDRESS), AT_TEST);
		assert_int_equal(nested_vmread(c, GUEST_RIP), AT_L2);
		/* repaired, the instruction goes on */
		ept_store(c, AT_TEST >> 12, AT_TEST | EPT_ALL | EPT_WB);
		assert_succeeds(nested_do(c, INVEPT, 2, 0x60000));
		assert_int_equal(nested_do(c, VMRESUME, GUEST_RSP, AT_TEST).port, PORT_EXIT);
		assert_int_equal(nested_vmread(c, VM_EXIT_REASON), EXIT_REASON_CPUID);
	}
}

NESTED_TEST(a_vmcs_keeps_its_fields_while_another_is_current, nested_open_vmcs)
{
	nested_vmwrite(c, GUEST_RSP, 11);
	assert_succeeds(nested_ptr(c, VMPTRLD, AT_VMCS2));
	nested_vmwrite(c, GUEST_RSP, 22);
	assert_succeeds(nested_ptr(c, VMPTRLD, AT_VMCS));
	assert_int_equal(nested_vmread(c, GUEST_RSP), 11);
	assert_succeeds(nested_ptr(c, VMPTRLD, AT_VMCS2));
	assert_int_equal(nested_vmread(c, GUEST_RSP), 22);
}

NESTED_TEST(vmxoff_forgets_the_current_vmcs, nested_open_vmcs)
{
	assert_succeeds(nested_do(c, VMXOFF, 0, 0));
	assert_raises(nested_do(c, VMREAD, GUEST_RSP, 0), 6);
	assert_succeeds(nested_ptr(c, VMXON, AT_VMXON));
	assert_vmfail_invalid(nested_do(c, VMREAD, GUEST_RSP, 0));
}

NESTED_TEST(vmlaunch_and_vmresume_want_their_launch_state, nested_open_l2)
{
	nested_l2_code(c, "\x0f\xa2\x0f\xa2", 4);
	assert_vmfail(c, nested_do(c, VMRESUME, 0, 0), 5);
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_CPUID);
	assert_vmfail(c, nested_do(c, VMLAUNCH, 0, 0), 4);
	assert_int_equal(nested_enter(c, VMRESUME), EXIT_REASON_CPUID);
	assert_succeeds(nested_ptr(c, VMCLEAR, AT_VMCS));
	assert_succeeds(nested_ptr(c, VMPTRLD, AT_VMCS));
	assert_vmfail(c, nested_do(c, VMRESUME, 0, 0), 5);
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_CPUID);
}

NESTED_TEST(vmlaunch_behind_mov_ss_fails_with_26, nested_open_l2)
{
	assert_vmfail(c, nested_do(c, VMLAUNCH_MOV_SS, 16, 0), 26);
}

NESTED_TEST(vmlaunch_of_a_shadow_vmcs_is_invalid, nested_open_vmcs)
{
	assert_succeeds(nested_ptr(c, VMPTRLD, AT_SHADOW));
	assert_vmfail_invalid(nested_do(c, VMLAUNCH, 0, 0));
}

NESTED_TEST(in_vmx_operation_cr0_and_cr4_keep_their_fixed_bits, nested_open_vmcs)
{
	struct kvm_sregs s;

	assert_int_equal(ioctl(c->vcpu, KVM_GET_SREGS, &s), 0);
	s.cr4 &= ~(uint64_t)CR4_VMXE;
	assert_fails(ioctl(c->vcpu, KVM_SET_SREGS, &s), EINVAL);
	s.cr4 |= CR4_VMXE;
	s.cr0 &= ~(uint64_t)CR0_NE;
	assert_fails(ioctl(c->vcpu, KVM_SET_SREGS, &s), EINVAL);
	/* feature control 0, as at a reset by the client, ends VMX operation */
	client_set_msr(c, MSR_FEATURE_CONTROL, 0);
	assert_int_equal(ioctl(c->vcpu, KVM_SET_SREGS, &s), 0);
}

NESTED_TEST(capability_msrs_shrink_and_never_grow, nested_open)
{
	static const unsigned settable[] = {0, 5, 6, 8, 10, 11, 12, 13, 14, 15, 16, 17}, refused[] = {1, 2, 3, 4, 7, 9};

	for (size_t i = 0; i < sizeof(refused) / sizeof(*refused); i++)
		assert_int_equal(client_try_set_msr(c, MSR_VMX(refused[i]), client_msr(c, MSR_VMX(refused[i]))), 0);
	for (size_t i = 0; i < sizeof(settable) / sizeof(*settable); i++) {
		uint64_t v = client_msr(c, MSR_VMX(settable[i]));

		assert_int_equal(client_try_set_msr(c, MSR_VMX(settable[i]), v), 1);
		if (settable[i] >= 11 && settable[i] != 12 && settable[i] != 17) {
			uint64_t high = v >> 32 & ~v;

			/* an allowed-1 control less, and again: measured by what is supported */
			assert_int_equal(client_try_set_msr(c, MSR_VMX(settable[i]), v & ~((high & -high) << 32)), 1);
			assert_int_equal(client_try_set_msr(c, MSR_VMX(settable[i]), v), 1);
			assert_int_equal(client_try_set_msr(c, MSR_VMX(settable[i]), v | 1ULL << 63 | 1ULL << 50 | 1ULL << 51), 0);
		}
	}
	assert_int_equal(client_try_set_msr(c, MSR_VMX(0), client_msr(c, MSR_VMX(0)) ^ 1), 0);
	assert_int_equal(client_try_set_msr(c, MSR_VMX(0), client_msr(c, MSR_VMX(0)) | 1ULL << 48), 0);
	assert_succeeds(nested_ptr(c, VMXON, AT_VMXON));
	assert_int_equal(client_try_set_msr(c, MSR_VMX(5), client_msr(c, MSR_VMX(5))), 0);
}

static void without_vmx_in_cpuid_there_is_none(void **state)
{
	struct client c;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	/* the vCPU has no CPUID yet: its guest has no VMX */
	assert_int_equal(client_try_set_msr(&c, MSR_FEATURE_CONTROL, 5), 0);
	assert_int_equal(client_try_set_msr(&c, MSR_FEATURE_CONTROL, 1), 1);
	client_close(&c);
}

/* Exits that VMREAD or VMWRITE of a field takes, with the OUT behind it. */
static uint64_t exits_of(struct client *c, enum snippet s, uint64_t field, uint64_t v)
{
	struct stats st;
	uint64_t before, n;

	open_stats(&st, c->vcpu);
	before = value(&st, "exits");
	assert_succeeds(nested_do(c, s, field, v));
	n = value(&st, "exits") - before;
	close_stats(&st);
	return n;
}

/* enable_shadow_vmcs: of what a hypervisor needs at each exit; of the rest each is one. */
NESTED_TEST(fields_of_each_exit_are_read_and_written_without_one, nested_open_l2)
{
	uint64_t out = exits_of(c, VMREAD, GUEST_RIP, 0);

	assert_int_equal(exits_of(c, VMREAD, GUEST_ES_SELECTOR, 0), out + 1);
	assert_int_equal(exits_of(c, VMREAD, VM_EXIT_REASON, 0), out);
	assert_int_equal(exits_of(c, VMWRITE, GUEST_RIP, AT_L2 + 2), out);
	assert_int_equal(nested_vmread(c, GUEST_RIP), AT_L2 + 2);
	/* exit information: written by an exit, and then read */
	assert_int_equal(exits_of(c, VMWRITE, VM_EXIT_REASON, 77), out + 1);
	assert_int_equal(nested_vmread(c, VM_EXIT_REASON), 77);
	/* another VMCS has its own, and this one keeps what was written */
	assert_succeeds(nested_ptr(c, VMCLEAR, AT_VMCS2));
	assert_succeeds(nested_ptr(c, VMPTRLD, AT_VMCS2));
	assert_int_equal(nested_vmread(c, GUEST_RIP), 0);
	assert_succeeds(nested_ptr(c, VMPTRLD, AT_VMCS));
	assert_int_equal(nested_vmread(c, GUEST_RIP), AT_L2 + 2);
	/* read without an exit and written with one */
	assert_int_equal(exits_of(c, VMWRITE, GUEST_SS_AR_BYTES, 0xffffffff), out + 1);
	assert_int_equal(exits_of(c, VMREAD, GUEST_SS_AR_BYTES, 0), out);
	assert_int_equal(nested_vmread(c, GUEST_SS_AR_BYTES), 0x1f0ff);
	/* without VMX operation there is none of it */
	assert_succeeds(nested_do(c, VMXOFF, 0, 0));
	assert_raises(nested_do(c, VMREAD, GUEST_RIP, 0), 6);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(vmxon_needs_cr4_vmxe),
		cmocka_unit_test(vmxon_needs_cpl_0),
		cmocka_unit_test(vmxon_needs_feature_control),
		cmocka_unit_test(vmxon_needs_fixed_bits_of_cr0),
		cmocka_unit_test(vmxon_checks_its_pointer),
		cmocka_unit_test(a_second_vmxon_fails_with_15),
		cmocka_unit_test(operands_fault_as_the_access_does),
		cmocka_unit_test(without_vmxon_all_others_are_undefined),
		cmocka_unit_test(at_cpl_3_all_are_general_protection),
		cmocka_unit_test(vmclear_checks_its_pointer),
		cmocka_unit_test(vmclear_of_the_current_vmcs_writes_it_back),
		cmocka_unit_test(vmptrld_checks_its_pointer_and_what_is_there),
		cmocka_unit_test(vmptrst_stores_the_current_pointer),
		cmocka_unit_test(each_field_keeps_what_is_written),
		cmocka_unit_test(fields_that_are_none_fail_with_12),
		cmocka_unit_test(read_only_fields_refuse_where_misc_29_is_clear),
		cmocka_unit_test(vmread_and_vmwrite_take_memory_operands),
		cmocka_unit_test(an_operand_of_l2_that_ept_forbids_is_an_exit),
		cmocka_unit_test(a_vmcs_keeps_its_fields_while_another_is_current),
		cmocka_unit_test(vmxoff_forgets_the_current_vmcs),
		cmocka_unit_test(vmlaunch_and_vmresume_want_their_launch_state),
		cmocka_unit_test(vmlaunch_behind_mov_ss_fails_with_26),
		cmocka_unit_test(vmlaunch_of_a_shadow_vmcs_is_invalid),
		cmocka_unit_test(in_vmx_operation_cr0_and_cr4_keep_their_fixed_bits),
		cmocka_unit_test(capability_msrs_shrink_and_never_grow),
		cmocka_unit_test(without_vmx_in_cpuid_there_is_none),
		cmocka_unit_test(fields_of_each_exit_are_read_and_written_without_one),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
