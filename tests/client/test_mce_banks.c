/*
 * What machine checks of the client's leave in a bank, and when they are #MC
 * (KVM API: KVM_X86_SETUP_MCE, KVM_X86_SET_MCE; SDM "Machine-Check
 * Architecture"). test_mce.c has those that need no action.
 */
#include "client.h"

#define MCG_STATUS 0x17a
#define MCG_CTL 0x17b
#define MC_CTL(bank) (0x400u + 4 * (bank))
#define MC_STATUS(bank) (0x401u + 4 * (bank))
#define MC_ADDR(bank) (0x402u + 4 * (bank))

#define MCG_CTL_P (1ULL << 8)
#define MCIP (1ULL << 2)
#define VAL (1ULL << 63)
#define OVER (1ULL << 62)
#define UC (1ULL << 61)
#define BANKS 4
#define CR4_MCE (1ULL << 6)

static struct client c;

static int set_mce(uint8_t bank, uint64_t status, uint64_t addr)
{
	struct kvm_x86_mce e = {.status = status, .addr = addr, .mcg_status = MCIP | 1, .bank = bank};

	return ioctl(c.vcpu, KVM_X86_SET_MCE, &e);
}

/* out 10h; out 11h; its #MC handler: out 18h. */
static void open_guest(bool cr4_mce)
{
	static const uint8_t code[] = {0xe6, 0x10, 0xe6, 0x11};
	uint64_t cap = MCG_CTL_P | BANKS;
	struct kvm_sregs s;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	client_real_mode(&c, 0x1000, code, sizeof(code));
	memcpy(c.mem + 0x500, "\xe6\x18\xf4", 3);
	memcpy(c.mem + 18 * 4, "\x00\x05\x00\x00", 4);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_SREGS, &s), 0);
	s.cr4 = cr4_mce ? s.cr4 | CR4_MCE : s.cr4 & ~CR4_MCE;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_SREGS, &s), 0);
	assert_int_equal(ioctl(c.vcpu, KVM_X86_SETUP_MCE, &cap), 0);
}

static void expect_out(uint16_t port)
{
	assert_run_exits(&c, KVM_EXIT_IO);
	assert_int_equal(c.run->io.port, port);
}

static void setup_takes_what_is_supported(void **state)
{
	uint64_t supported, cap;

	open_guest(true);
	assert_int_equal(ioctl(c.kvm, KVM_X86_GET_MCE_CAP_SUPPORTED, &supported), 0);
	assert_true(supported & MCG_CTL_P);
	cap = supported; /* no bank */
	assert_fails(ioctl(c.vcpu, KVM_X86_SETUP_MCE, &cap), EINVAL);
	cap = supported | 33;
	assert_fails(ioctl(c.vcpu, KVM_X86_SETUP_MCE, &cap), EINVAL);
	cap = 1ULL << 40 | 1;
	assert_fails(ioctl(c.vcpu, KVM_X86_SETUP_MCE, &cap), EINVAL);
	/* A bank has its MSRs, one beyond has none. */
	assert_int_equal(client_msr(&c, MC_CTL(BANKS - 1)), ~0ULL);
	assert_int_equal(client_msr(&c, MCG_CTL), ~0ULL);
	assert_int_equal(client_try_msr(&c, MC_CTL(BANKS), &cap), 0);
	client_close(&c);
}

static void bank_beyond_the_last_or_no_valid_status_is_refused(void **state)
{
	open_guest(true);
	assert_fails(set_mce(BANKS, VAL, 1), EINVAL);
	assert_fails(set_mce(0, UC, 1), EINVAL);
	assert_int_equal(client_msr(&c, MC_STATUS(0)), 0);
	assert_int_equal(client_msr(&c, MC_ADDR(0)), 0);
	expect_out(0x10); /* nor is there a #MC */
	client_close(&c);
}

static void corrected_errors_are_counted_and_not_delivered(void **state)
{
	open_guest(true);
	assert_int_equal(set_mce(1, VAL | 5, 0x1000), 0);
	assert_int_equal(client_msr(&c, MC_STATUS(1)), VAL | 5);
	assert_int_equal(set_mce(1, VAL | 6, 0x2000), 0);
	assert_int_equal(client_msr(&c, MC_STATUS(1)), VAL | OVER | 6);
	assert_int_equal(client_msr(&c, MC_ADDR(1)), 0x2000);
	assert_int_equal(client_msr(&c, MCG_STATUS), 0);
	expect_out(0x10);
	client_close(&c);
}

static void uncorrected_error_is_a_machine_check_and_stays(void **state)
{
	open_guest(true);
	expect_out(0x10);
	assert_int_equal(set_mce(2, VAL | UC | 7, 0x3000), 0);
	assert_int_equal(client_msr(&c, MCG_STATUS), MCIP | 1);
	/* A corrected error after it takes nothing away. */
	assert_int_equal(set_mce(2, VAL | 8, 0x4000), 0);
	assert_int_equal(client_msr(&c, MC_STATUS(2)), VAL | OVER | UC | 7);
	assert_int_equal(client_msr(&c, MC_ADDR(2)), 0x3000);
	expect_out(0x18);
	client_close(&c);
}

/* SDM "IA32_MCG_STATUS MSR": a second one while MCIP is set shuts down. */
static void machine_check_in_progress_or_disabled_shuts_down(void **state)
{
	open_guest(true);
	assert_int_equal(set_mce(0, VAL | UC, 1), 0);
	expect_out(0x18);
	assert_int_equal(set_mce(0, VAL | UC, 2), 0);
	assert_run_exits(&c, KVM_EXIT_SHUTDOWN);
	client_close(&c);

	open_guest(false);
	assert_int_equal(set_mce(0, VAL | UC, 1), 0);
	assert_run_exits(&c, KVM_EXIT_SHUTDOWN);
	client_close(&c);
}

static void reporting_that_is_off_drops_uncorrected_errors(void **state)
{
	open_guest(true);
	client_set_msr(&c, MC_CTL(0), 0);
	assert_int_equal(set_mce(0, VAL | UC, 1), 0);
	assert_int_equal(client_msr(&c, MC_STATUS(0)), 0);
	client_set_msr(&c, MC_CTL(0), ~0ULL);
	client_set_msr(&c, MCG_CTL, 0);
	assert_int_equal(set_mce(0, VAL | UC, 1), 0);
	assert_int_equal(client_msr(&c, MC_STATUS(0)), 0);
	expect_out(0x10);
	client_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(setup_takes_what_is_supported),
		cmocka_unit_test(bank_beyond_the_last_or_no_valid_status_is_refused),
		cmocka_unit_test(corrected_errors_are_counted_and_not_delivered),
		cmocka_unit_test(uncorrected_error_is_a_machine_check_and_stays),
		cmocka_unit_test(machine_check_in_progress_or_disabled_shuts_down),
		cmocka_unit_test(reporting_that_is_off_drops_uncorrected_errors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
