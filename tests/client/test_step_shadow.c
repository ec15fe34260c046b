/*
 * A guest kernel that steps itself over STI, whose #DB finds a stack that is not mapped yet: the exit in the
 * middle of the delivery must leave a state that VM entry takes. fuzz-guest found KVM_EXIT_FAIL_ENTRY.
 */
#include "client.h"
#include "guest_code.h"
#include "paging.h"

GUEST_CODE(sti, 64, "sti; nop; nop; nop");

static void a_step_over_sti_with_a_cold_stack_is_delivered(void **state)
{
	struct client c;
	struct kvm_regs r;

	client_open_vm(&c, 2 << 20);
	/* 4 KiB at a time */
	client_slot(&c, 0, KVM_MEM_LOG_DIRTY_PAGES, 0, c.mem, 2 << 20);
	client_add_vcpu(&c);
	memcpy(c.mem + AT_CODE, sti, GUEST_CODE_SIZE(sti));
	paging_start(&c, PAGING_LONG, 0, 0, 0, 0);
	r = client_regs(&c);
	r.rflags = 0x102; /* TF */
	r.rsp = 0x1c000;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	assert_int_equal(client_next_out(&c), 1);
	assert_int_equal(*(uint64_t *)(c.mem + client_regs(&c).rsp), AT_CODE + 1);
	client_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_step_over_sti_with_a_cold_stack_is_delivered),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
