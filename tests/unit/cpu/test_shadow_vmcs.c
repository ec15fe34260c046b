/*
 * VMCS shadowing: VMREAD and VMWRITE in VMX non-root operation on the VMCS that the link pointer names (SDM Vol. 3,
 * "VMCS Types: Ordinary and Shadow", "VMREAD", "VMWRITE").
 */
#include "machine.h"

#define STATE struct machine *t = *state
#define SECONDARY SECONDARY_VM_EXEC_CONTROL
#define DATA 0x100000UL

static struct vmcs *shadow;
static uint8_t *read_bitmap, *write_bitmap;

static void pass(uint8_t *bitmap, uint32_t field)
{
	bitmap[field >> 3] &= (uint8_t)~(1u << (field & 7));
}

/* Shadowing is on; nothing but RIP and the exit reason, to be read only, passes. */
static int setup(void **state)
{
	int r = machine_setup_long(state);
	struct machine *t = *state;

	shadow = test_pages(4096);
	read_bitmap = test_pages(4096);
	write_bitmap = test_pages(4096);
	memset(read_bitmap, 0xff, 4096);
	memset(write_bitmap, 0xff, 4096);
	pass(read_bitmap, GUEST_RIP);
	pass(write_bitmap, GUEST_RIP);
	pass(read_bitmap, VM_EXIT_REASON);
	shadow->revision_id = VMCS_REVISION_ID | (uint32_t)VMCS_REVISION_SHADOW;
	W(VMREAD_BITMAP, (uint64_t)read_bitmap);
	W(VMWRITE_BITMAP, (uint64_t)write_bitmap);
	W(VMCS_LINK_POINTER, (uint64_t)shadow);
	W(SECONDARY, R(t, SECONDARY) | SECONDARY_EXEC_SHADOW_VMCS);
	return r;
}

static int teardown(void **state)
{
	munmap(shadow, 4096);
	munmap(read_bitmap, 4096);
	munmap(write_bitmap, 4096);
	return machine_teardown(state);
}

/* The exit that `go` comes to: VMCALL behind the instruction, or the instruction's own. RAX: the field. */
static uint32_t run(struct machine *t, uint64_t field, uint64_t value)
{
	vmx_sync_machine_code(t->m); /* its code may be another than last time */
	W(GUEST_RIP, GPA_CODE);
	W(GUEST_RFLAGS, 0x8d7);
	vmx_gprs(t->cpu)[RAX] = field;
	vmx_gprs(t->cpu)[RBX] = value;
	vmx_gprs(t->cpu)[RCX] = DATA;
	return go(t);
}

#define VMREAD_RBX 0x0f, 0x78, 0xc3  /* vmread rbx, rax */
#define VMWRITE_RBX 0x0f, 0x79, 0xc3 /* vmwrite rax, rbx */
#define VMREAD_MEM 0x0f, 0x78, 0x01  /* vmread [rcx], rax */
#define VMWRITE_MEM 0x0f, 0x79, 0x01
#define VMCALL 0x0f, 0x01, 0xc1

static void a_field_that_passes_is_the_shadows(void **state)
{
	STATE;

	shadow->GUEST_RIP = 0x123456789abcdef0;
	CODE(t, VMREAD_RBX, VMCALL);
	assert_int_equal(run(t, GUEST_RIP, 1), EXIT_REASON_VMCALL);
	assert_int_equal(vmx_gprs(t->cpu)[RBX], 0x123456789abcdef0);
	assert_int_equal(R(t, GUEST_RFLAGS) & 0x8d5, 0);
	CODE(t, VMWRITE_RBX, VMCALL);
	assert_int_equal(run(t, GUEST_RIP, 0xfedcba9876543210), EXIT_REASON_VMCALL);
	assert_int_equal(shadow->GUEST_RIP, 0xfedcba9876543210);
	*guest64(t, DATA) = 77;
	CODE(t, VMWRITE_MEM, VMCALL);
	assert_int_equal(run(t, GUEST_RIP, 0), EXIT_REASON_VMCALL);
	assert_int_equal(shadow->GUEST_RIP, 77);
	shadow->VM_EXIT_REASON = 48;
	CODE(t, VMREAD_MEM, VMCALL);
	assert_int_equal(run(t, VM_EXIT_REASON, 0), EXIT_REASON_VMCALL);
	assert_int_equal(*guest64(t, DATA), 48);
}

static void by_its_bit_or_beyond_bit_14_a_field_exits(void **state)
{
	STATE;

	CODE(t, VMREAD_RBX, VMCALL);
	assert_int_equal(run(t, GUEST_RSP, 1), EXIT_REASON_VMREAD);
	assert_int_equal(run(t, GUEST_RIP | 1ULL << 15, 1), EXIT_REASON_VMREAD);
	assert_int_equal(run(t, GUEST_RIP | 1ULL << 40, 1), EXIT_REASON_VMREAD);
	CODE(t, VMWRITE_RBX, VMCALL);
	assert_int_equal(run(t, VM_EXIT_REASON, 1), EXIT_REASON_VMWRITE);
	assert_int_equal(R(t, VMX_INSTRUCTION_INFO) >> 28, RAX);
	W(SECONDARY, R(t, SECONDARY) & ~SECONDARY_EXEC_SHADOW_VMCS);
	W(VMCS_LINK_POINTER, ~0ULL);
	assert_int_equal(run(t, GUEST_RIP, 1), EXIT_REASON_VMWRITE);
}

static void without_a_link_or_a_field_it_fails_as_in_root_operation(void **state)
{
	STATE;

	pass(read_bitmap, 0x7fe);
	CODE(t, VMREAD_RBX, VMCALL);
	assert_int_equal(run(t, 0x7fe, 5), EXIT_REASON_VMCALL);
	assert_int_equal(R(t, GUEST_RFLAGS) & 0x8d5, 0x40);
	assert_int_equal(shadow->VM_INSTRUCTION_ERROR, VMXERR_UNSUPPORTED_VMCS_COMPONENT);
	assert_int_equal(vmx_gprs(t->cpu)[RBX], 5);
	W(VMCS_LINK_POINTER, ~0ULL);
	assert_int_equal(run(t, GUEST_RIP, 5), EXIT_REASON_VMCALL);
	assert_int_equal(R(t, GUEST_RFLAGS) & 0x8d5, 1);
	assert_int_equal(vmx_gprs(t->cpu)[RBX], 5);
}

static void entry_checks_the_link_and_the_bitmaps(void **state)
{
	STATE;

	CODE(t, VMCALL);
	shadow->revision_id = VMCS_REVISION_ID;
	assert_int_equal(vmlaunch(t->cpu), VMX_SUCCEED);
	assert_int_equal(R(t, VM_EXIT_REASON), EXIT_REASON_INVALID_STATE | 1ULL << 31);
	assert_int_equal(R(t, EXIT_QUALIFICATION), 4);
	shadow->revision_id = VMCS_REVISION_ID | (uint32_t)VMCS_REVISION_SHADOW;
	W(VMCS_LINK_POINTER, (uint64_t)shadow + 8);
	assert_int_equal(vmlaunch(t->cpu), VMX_SUCCEED);
	assert_int_equal(R(t, VM_EXIT_REASON), EXIT_REASON_INVALID_STATE | 1ULL << 31);
	W(VMCS_LINK_POINTER, (uint64_t)shadow);
	W(VMREAD_BITMAP, (uint64_t)read_bitmap + 1);
	assert_int_equal(vmlaunch(t->cpu), VMX_FAIL_VALID);
	W(VMREAD_BITMAP, (uint64_t)read_bitmap);
	W(VMWRITE_BITMAP, 1ULL << 60);
	assert_int_equal(vmlaunch(t->cpu), VMX_FAIL_VALID);
	W(VMWRITE_BITMAP, (uint64_t)write_bitmap);
	assert_int_equal(run(t, 0, 0), EXIT_REASON_VMCALL);
}

/* It can be current, and nothing be entered with it. */
static void a_shadow_vmcs_is_for_vmread_and_vmwrite(void **state)
{
	STATE;

	assert_int_equal(vmptrld(t->cpu, (hpa_t)shadow), VMX_SUCCEED);
	W(VM_EXIT_REASON, 12);
	assert_int_equal(shadow->VM_EXIT_REASON, 12);
	assert_int_equal(vmlaunch(t->cpu), VMX_FAIL_INVALID);
	assert_int_equal(vmptrld(t->cpu, (hpa_t)t->vmcs), VMX_SUCCEED);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_field_that_passes_is_the_shadows),
		TEST(by_its_bit_or_beyond_bit_14_a_field_exits),
		TEST(without_a_link_or_a_field_it_fails_as_in_root_operation),
		TEST(entry_checks_the_link_and_the_bitmaps),
		TEST(a_shadow_vmcs_is_for_vmread_and_vmwrite),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
