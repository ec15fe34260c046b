/*
 * KVM_GET_NESTED_STATE and KVM_SET_NESTED_STATE: what is refused, and an L2 that goes on in
 * another VM.
 */
#include "nested_saved.h"

NESTED_TEST(outside_vmx_operation_the_state_is_a_header, nested_open)
{
	struct nested_image s;

	assert_int_equal(ioctl(c->kvm, KVM_CHECK_EXTENSION, KVM_CAP_NESTED_STATE), sizeof(s));
	nested_get_state(c, &s);
	assert_int_equal(s.head.size, 128);
	assert_int_equal(s.head.format, KVM_STATE_NESTED_FORMAT_VMX);
	assert_int_equal(s.head.hdr.vmx.vmxon_pa, ~0ULL);
	assert_int_equal(s.head.hdr.vmx.vmcs12_pa, ~0ULL);
	assert_int_equal(ioctl(c->vcpu, KVM_SET_NESTED_STATE, &s), 0);
}

NESTED_TEST(too_little_room_is_e2big_with_the_size, nested_open_vmcs)
{
	struct nested_image s = {.head.size = 128};

	assert_fails(ioctl(c->vcpu, KVM_GET_NESTED_STATE, &s), E2BIG);
	assert_int_equal(s.head.size, 128 + 4096);
}

/* Linux: a client that writes 0 resets the vCPU, which leaves VMX operation; every other value leaves it in it. */
NESTED_TEST(feature_control_of_0_ends_vmx_operation, nested_open_vmcs)
{
	struct nested_image s;

	client_set_msr(c, MSR_FEATURE_CONTROL, 5);
	nested_get_state(c, &s);
	assert_int_equal(s.head.hdr.vmx.vmxon_pa, AT_VMXON);
	client_set_msr(c, MSR_FEATURE_CONTROL, 0);
	nested_get_state(c, &s);
	assert_int_equal(s.head.hdr.vmx.vmxon_pa, ~0ULL);
}

static void wrong_size(struct nested_image *s) { s->head.size = 127; }
static void unknown_flag(struct nested_image *s) { s->head.flags = 1u << 9; }
static void run_pending_without_l2(struct nested_image *s) { s->head.flags = KVM_STATE_NESTED_RUN_PENDING; }
static void format_svm(struct nested_image *s) { s->head.format = KVM_STATE_NESTED_FORMAT_SVM; }
static void vmxon_unaligned(struct nested_image *s) { s->head.hdr.vmx.vmxon_pa++; }
static void vmxon_too_wide(struct nested_image *s) { s->head.hdr.vmx.vmxon_pa = 1ULL << 60; }
static void vmcs_without_vmxon(struct nested_image *s) { s->head.hdr.vmx.vmxon_pa = ~0ULL; }
static void smm_flag_outside_smm(struct nested_image *s) { s->head.hdr.vmx.smm.flags = KVM_STATE_NESTED_SMM_VMXON; }
static void unknown_smm_flag(struct nested_image *s) { s->head.hdr.vmx.smm.flags = 8; }
static void unknown_vmx_flag(struct nested_image *s) { s->head.hdr.vmx.flags = 2; }
static void evmcs(struct nested_image *s) { s->head.flags = KVM_STATE_NESTED_EVMCS; }
static void vmcs_is_vmxon(struct nested_image *s) { s->head.hdr.vmx.vmcs12_pa = s->head.hdr.vmx.vmxon_pa; }
static void vmcs_unaligned(struct nested_image *s) { s->head.hdr.vmx.vmcs12_pa++; }
static void vmcs_missing(struct nested_image *s) { s->head.size = 128; }
static void revision(struct nested_image *s) { s->vmcs12[0] ^= 1; }
static void l2_with_bad_controls(struct nested_image *s)
{
	s->head.flags = KVM_STATE_NESTED_GUEST_MODE;
	memset(s->vmcs12 + 744, 0, 8); /* pin-based and primary controls */
}

NESTED_TEST(each_rule_of_the_header_is_einval, nested_open_l2)
{
	static const struct {
		const char *name;
		void (*spoil)(struct nested_image *s);
	} rows[] = {
#define SPOIL(f) {#f, f}
		SPOIL(wrong_size), SPOIL(unknown_flag), SPOIL(run_pending_without_l2), SPOIL(format_svm), SPOIL(vmxon_unaligned),
		SPOIL(vmxon_too_wide), SPOIL(vmcs_without_vmxon), SPOIL(smm_flag_outside_smm), SPOIL(unknown_smm_flag),
		SPOIL(unknown_vmx_flag), SPOIL(evmcs), SPOIL(vmcs_is_vmxon), SPOIL(vmcs_unaligned), SPOIL(vmcs_missing),
		SPOIL(revision), SPOIL(l2_with_bad_controls),
	};
	struct nested_image good, s;
	unsigned wrong = 0;

	nested_get_state(c, &good);
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		s = good;
		rows[i].spoil(&s);
		errno = 0;
		if (ioctl(c->vcpu, KVM_SET_NESTED_STATE, &s) != -1 || errno != EINVAL) {
			print_error("%s: %d\n", rows[i].name, errno);
			wrong++;
		}
	}
	assert_int_equal(wrong, 0);
	assert_int_equal(ioctl(c->vcpu, KVM_SET_NESTED_STATE, &good), 0);
	nested_l2_code(c, "\x0f\xa2", 2);
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_CPUID);
}

/* L2 in the middle of OUT, into a VM that has nothing but its memory and its vCPU's state. */
NESTED_TEST(an_l2_goes_on_in_another_vm, nested_open_l2)
{
	struct client d;
	struct nested_saved s;

	/* out 0x55, al; inc rbx; out 0x56, al; cpuid */
	nested_l2_code(c, "\xe6\x55\x48\xff\xc3\xe6\x56\x0f\xa2", 9);
	nested_vmwrite(c, CPU_BASED_VM_EXEC_CONTROL, nested_vmread(c, CPU_BASED_VM_EXEC_CONTROL) & ~(3ULL << 24));
	assert_int_equal(nested_do(c, VMLAUNCH, 0, 0).port, 0x55);
	nested_out_is_over(c);
	nested_save(c, &s);
	assert_int_equal(s.nested.head.flags & KVM_STATE_NESTED_GUEST_MODE, KVM_STATE_NESTED_GUEST_MODE);
	assert_int_equal(s.nested.head.size, 128 + 4096);
	s.regs.rbx = 41;

	assert_true(nested_open(&d));
	memcpy(d.mem, c->mem, c->mem_size);
	nested_load(&d, &s);
	assert_int_equal(nested_run(&d).port, 0x56);
	assert_int_equal(client_regs(&d).rbx, 42);
	assert_int_equal(nested_run(&d).port, PORT_EXIT);
	assert_int_equal(nested_vmread(&d, VM_EXIT_REASON), EXIT_REASON_CPUID);
	assert_int_equal(nested_vmread(&d, GUEST_RIP), AT_L2 + 7);
	client_close(&d);
}

/* L1 is between an exit and the next entry: where it goes on, the entry is with all that L2 was. */
NESTED_TEST(an_l1_goes_on_in_another_vm_and_enters_its_l2, nested_open_l2)
{
	struct client d;
	struct kvm_sregs sregs;
	struct nested_image s;

	nested_l2_code(c, "\x0f\xa2\x0f\xa2", 4);
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_CPUID);
	nested_vmwrite(c, GUEST_RIP, AT_L2 + 2);
	nested_get_state(c, &s);
	assert_int_equal(s.head.flags, 0);
	assert_int_equal(ioctl(c->vcpu, KVM_GET_SREGS, &sregs), 0);

	assert_true(nested_open(&d));
	memcpy(d.mem, c->mem, c->mem_size);
	assert_int_equal(ioctl(d.vcpu, KVM_SET_SREGS, &sregs), 0);
	assert_int_equal(ioctl(d.vcpu, KVM_SET_NESTED_STATE, &s), 0);
	assert_int_equal(nested_enter(&d, VMRESUME), EXIT_REASON_CPUID);
	assert_int_equal(nested_vmread(&d, GUEST_RIP), AT_L2 + 2);
	assert_int_equal(nested_vmread(&d, GUEST_TR_AR_BYTES), 0x8b);
	client_close(&d);
}

static void shadow_missing(struct nested_image *s) { s->head.size = 128 + 4096; }
static void shadow_revision(struct nested_image *s) { s->shadow[0] ^= 1; }
static void shadow_is_none(struct nested_image *s) { s->shadow[3] = 0; }

/* An L2 whose L1 shadows its VMCS: both are in the state, which is no longer than they are. */
NESTED_TEST(a_linked_shadow_vmcs_is_in_the_state, nested_open_l2)
{
	static void (*const spoils[])(struct nested_image *s) = {shadow_missing, shadow_revision, shadow_is_none};
	struct nested_image good, s;

	/* out 0x55, al; vmread rbx, rax; cpuid */
	nested_l2_code(c, "\xe6\x55\x0f\x78\xc3\x0f\xa2", 7);
	assert_succeeds(nested_ptr(c, VMCLEAR, AT_SHADOW)); /* a shadow VMCS that has been active once */
	assert_succeeds(nested_ptr(c, VMPTRLD, AT_VMCS));
	nested_set_bits(c, SECONDARY_VM_EXEC_CONTROL, 1u << 14);
	nested_vmwrite(c, VMCS_LINK_POINTER, AT_SHADOW);
	nested_vmwrite(c, VMREAD_BITMAP, AT_VMX_BITMAPS);
	nested_vmwrite(c, VMWRITE_BITMAP, AT_VMX_BITMAPS + 0x1000);
	memset(c->mem + AT_VMX_BITMAPS, 0, 0x2000);
	assert_int_equal(nested_do(c, VMLAUNCH, GUEST_RSP, 7).port, 0x55);
	nested_out_is_over(c);
	nested_get_state(c, &good);
	assert_int_equal(good.head.size, 128 + 2 * 4096);
	for (size_t i = 0; i < sizeof(spoils) / sizeof(*spoils); i++) {
		s = good;
		spoils[i](&s);
		assert_fails(ioctl(c->vcpu, KVM_SET_NESTED_STATE, &s), EINVAL);
	}
	*(uint64_t *)(good.shadow + 760) = 0; /* somewhere in it */
	assert_int_equal(ioctl(c->vcpu, KVM_SET_NESTED_STATE, &good), 0);
	nested_get_state(c, &s);
	assert_memory_equal(&s, &good, sizeof(s));
	assert_int_equal(nested_run(c).port, PORT_EXIT);
	assert_int_equal(nested_vmread(c, VM_EXIT_REASON), EXIT_REASON_CPUID);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(outside_vmx_operation_the_state_is_a_header),
		cmocka_unit_test(too_little_room_is_e2big_with_the_size),
		cmocka_unit_test(feature_control_of_0_ends_vmx_operation),
		cmocka_unit_test(each_rule_of_the_header_is_einval),
		cmocka_unit_test(an_l2_goes_on_in_another_vm),
		cmocka_unit_test(an_l1_goes_on_in_another_vm_and_enters_its_l2),
		cmocka_unit_test(a_linked_shadow_vmcs_is_in_the_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
