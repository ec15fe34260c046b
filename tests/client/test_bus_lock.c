/*
 * KVM_CAP_X86_BUS_LOCK_EXIT: a locked access across cache lines ends KVM_RUN
 * behind its instruction.
 */
#include "guest_code.h"
#include "paging.h"

#define OFF KVM_BUS_LOCK_DETECTION_OFF
#define EXIT KVM_BUS_LOCK_DETECTION_EXIT
#define BUS_LOCK_DETECT 24 /* CPUID.7.0:ECX */
#define MSR_DEBUGCTL 0x1d9
#define DEBUGCTL_BUS_LOCK_DETECT (1u << 2)
#define MSR_TEST_CTRL 0x33
#define TEST_CTRL_SPLIT_LOCK_AC (1u << 29)
#define LINE 64
#define DATA 0x20000
#define HOLE 0x400000 /* no memory */

/* esi: where to work; the OUTs are at known distances */
#define INC_LEN 3
GUEST_CODE(split_inc, 32, "1: lock incl (%esi); out %al, $0x98; jmp 1b");
GUEST_CODE(two_kinds, 32, "lock incl (%esi); xchg %eax, (%edi); out %al, $0x98");

static int enable(int vm, uint64_t mode)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_X86_BUS_LOCK_EXIT, .args = {mode}};

	return ioctl(vm, KVM_ENABLE_CAP, &cap);
}

static void set_operand(struct client *c, uint64_t rsi, uint64_t rdi)
{
	struct kvm_regs r = client_regs(c);

	r.rsi = rsi;
	r.rdi = rdi;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_REGS, &r), 0);
}

static void open_with(struct client *c, uint64_t mode, const uint8_t *code, size_t n, uint64_t rsi)
{
	client_open_vm(c, 2 << 20);
	if (mode)
		assert_int_equal(enable(c->vm, mode), 0);
	client_add_vcpu(c);
	client_flat_mode(c, AT_CODE, code, n);
	set_operand(c, rsi, rsi);
}

static uint32_t counter_at(struct client *c, uint64_t gpa)
{
	uint32_t v;

	memcpy(&v, c->mem + gpa, sizeof(v));
	return v;
}

static void expect_bus_lock(struct client *c, uint64_t rip)
{
	assert_run_exits(c, KVM_EXIT_X86_BUS_LOCK);
	assert_int_equal(c->run->flags, KVM_RUN_X86_BUS_LOCK);
	assert_int_equal(client_regs(c).rip, rip);
}

static void expect_out(struct client *c)
{
	assert_int_equal(client_next_out(c), 0x98);
	assert_int_equal(c->run->flags, 0);
}

static void modes_are_said_and_checked(void **state)
{
	struct kvm_enable_cap with_flags = {.cap = KVM_CAP_X86_BUS_LOCK_EXIT, .flags = 1, .args = {EXIT}};
	struct client c;

	client_open_vm(&c, 1 << 20);
	assert_int_equal(ioctl(c.kvm, KVM_CHECK_EXTENSION, KVM_CAP_X86_BUS_LOCK_EXIT), OFF | EXIT);
	assert_int_equal(ioctl(c.vm, KVM_CHECK_EXTENSION, KVM_CAP_X86_BUS_LOCK_EXIT), OFF | EXIT);
	assert_fails(enable(c.vm, OFF | EXIT), EINVAL);
	assert_fails(enable(c.vm, 4), EINVAL);
	assert_fails(enable(c.vm, 1ULL << 32 | EXIT), EINVAL);
	assert_fails(ioctl(c.vm, KVM_ENABLE_CAP, &with_flags), EINVAL);
	assert_int_equal(enable(c.vm, 0), 0);
	assert_int_equal(enable(c.vm, OFF), 0);
	client_add_vcpu(&c);
	assert_int_equal(enable(c.vm, EXIT), 0); /* with vCPUs too */
	client_close(&c);
}

static void a_split_lock_exits_behind_its_instruction(void **state)
{
	static const uint64_t at[] = {DATA + LINE - 2, DATA + 4096 - 1};

	for (size_t k = 0; k < 2; k++) {
		struct client c;

		open_with(&c, EXIT, split_inc, GUEST_CODE_SIZE(split_inc), at[k]);
		for (uint32_t n = 1; n < 4; n++) {
			expect_bus_lock(&c, AT_CODE + INC_LEN);
			assert_int_equal(counter_at(&c, at[k]), n);
			expect_out(&c);
		}
		set_operand(&c, DATA + LINE, 0);
		expect_out(&c);
		client_close(&c);
	}
}

static void without_the_capability_nothing_exits(void **state)
{
	static const uint64_t modes[] = {0, OFF};
	struct client c;

	for (size_t k = 0; k < 2; k++) {
		open_with(&c, modes[k], split_inc, GUEST_CODE_SIZE(split_inc), DATA + LINE - 1);
		expect_out(&c);
		assert_int_equal(counter_at(&c, DATA + LINE - 1), 1);
		client_close(&c);
	}
	/* what is on stays on */
	open_with(&c, EXIT, split_inc, GUEST_CODE_SIZE(split_inc), DATA + LINE - 1);
	assert_int_equal(enable(c.vm, OFF), 0);
	expect_bus_lock(&c, AT_CODE + INC_LEN);
	client_close(&c);
}

static void a_vcpu_that_was_there_follows_with_its_cpuid(void **state)
{
	struct client c;

	open_with(&c, 0, split_inc, GUEST_CODE_SIZE(split_inc), DATA + LINE - 1);
	assert_int_equal(enable(c.vm, EXIT), 0);
	client_all_cpuid(&c);
	expect_bus_lock(&c, AT_CODE + INC_LEN);
	client_close(&c);
}

/* Each is reported; XCHG needs no LOCK. */
static void two_in_a_row_are_two_exits(void **state)
{
	struct client c;

	open_with(&c, EXIT, two_kinds, GUEST_CODE_SIZE(two_kinds), DATA + LINE - 1);
	set_operand(&c, DATA + LINE - 1, DATA + 2 * LINE - 3);
	expect_bus_lock(&c, AT_CODE + INC_LEN);
	expect_bus_lock(&c, AT_CODE + INC_LEN + 2);
	expect_out(&c);
	client_close(&c);
}

static void a_step_over_one_says_so(void **state)
{
	struct kvm_guest_debug debug = {.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP};
	struct client c;

	open_with(&c, EXIT, split_inc, GUEST_CODE_SIZE(split_inc), DATA + LINE - 1);
	assert_int_equal(ioctl(c.vcpu, KVM_SET_GUEST_DEBUG, &debug), 0);
	assert_run_exits(&c, KVM_EXIT_DEBUG);
	assert_int_equal(c.run->flags, KVM_RUN_X86_BUS_LOCK);
	assert_int_equal(client_regs(&c).rip, AT_CODE + INC_LEN);
	assert_run_exits(&c, KVM_EXIT_IO);
	assert_int_equal(c.run->flags, 0);
	client_close(&c);
}

/* Emulated for the client's device: nothing is locked. */
static void device_memory_is_none(void **state)
{
	struct client c;

	open_with(&c, EXIT, split_inc, GUEST_CODE_SIZE(split_inc), HOLE + 4);
	assert_run_exits(&c, KVM_EXIT_MMIO);
	assert_int_equal(c.run->flags, 0);
	assert_false(c.run->mmio.is_write);
	memset(c.run->mmio.data, 0, 8);
	assert_run_exits(&c, KVM_EXIT_MMIO);
	assert_int_equal(c.run->flags, 0);
	assert_true(c.run->mmio.is_write);
	expect_out(&c);
	client_close(&c);
}

static void a_64_bit_user_of_a_guest_is_seen_too(void **state)
{
	struct client c;

	client_open_vm(&c, 2 << 20);
	assert_int_equal(enable(c.vm, EXIT), 0);
	client_add_vcpu(&c);
	paging_start(&c, PAGING_LONG, 3, 0, 0, 0);
	memcpy(c.mem + AT_CODE, split_inc, GUEST_CODE_SIZE(split_inc)); /* [rsi] there: the same bytes */
	set_operand(&c, DATA + 4096 - 2, 0);
	for (uint32_t n = 1; n < 4; n++) {
		expect_bus_lock(&c, AT_CODE + INC_LEN);
		assert_int_equal(counter_at(&c, DATA + 4096 - 2), n);
		expect_out(&c);
	}
	client_close(&c);
}

static bool msr_takes(struct client *c, uint32_t index, uint64_t data)
{
	struct {
		struct kvm_msrs h;
		struct kvm_msr_entry e;
	} m = {.h.nmsrs = 1, .e = {.index = index, .data = data}};

	return ioctl(c->vcpu, KVM_SET_MSRS, &m) == 1;
}

/* IA32_DEBUGCTL has the bit where CPUID says so, and nowhere else; split-lock #AC is no guest's. */
static void the_guests_own_detection_is_what_cpuid_says(void **state)
{
	struct client c;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	client_all_cpuid(&c);
	assert_int_equal(msr_takes(&c, MSR_DEBUGCTL, DEBUGCTL_BUS_LOCK_DETECT),
			 client_cpuid_bit(&c, 7, CPUID_ECX, BUS_LOCK_DETECT));
	assert_false(msr_takes(&c, MSR_TEST_CTRL, TEST_CTRL_SPLIT_LOCK_AC));
	client_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(modes_are_said_and_checked),
		cmocka_unit_test(a_split_lock_exits_behind_its_instruction),
		cmocka_unit_test(without_the_capability_nothing_exits),
		cmocka_unit_test(a_vcpu_that_was_there_follows_with_its_cpuid),
		cmocka_unit_test(two_in_a_row_are_two_exits),
		cmocka_unit_test(a_step_over_one_says_so),
		cmocka_unit_test(device_memory_is_none),
		cmocka_unit_test(a_64_bit_user_of_a_guest_is_seen_too),
		cmocka_unit_test(the_guests_own_detection_is_what_cpuid_says),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
