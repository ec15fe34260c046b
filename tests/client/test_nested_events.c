/*
 * Events that come while an L2 runs: L1 has those that it asks for as exits, L2 gets the others, and what an
 * exit to L1 has interrupted the delivery of is in its IDT-vectoring information (SDM Vol. 3, "Exceptions and
 * Interrupts in VMX Non-Root Operation", "Information for VM Exits During Event Delivery").
 *
 * L2 stops at an OUT that no L1 asks for: the client has it, and makes the event.
 */
#include "nested_ept.h"

#define PORT_L2 0x50
#define NMI 2
#define UD 6
#define GP 13
#define PF 14
#define INFO_VALID 0x80000000u
#define INFO_CODE 0x800u
#define TYPE_NMI (2u << 8)
#define TYPE_EXCEPTION (3u << 8)
#define PIN_NMI_EXITING (1u << 3)
#define NO_REASON 0xffff
#define L2_STACK_PAGE ((AT_L2_STACK - 1) >> 12)

/* out %al, $0x50; 1: pause; jmp 1b */
static const uint8_t waiting[] = {0xe6, PORT_L2, 0xf3, 0x90, 0xeb, 0xfc};

static bool open_payloads(struct client *c, bool (*open)(struct client *))
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_EXCEPTION_PAYLOAD, .args[0] = 1};
	struct kvm_enable_cap triple = {.cap = KVM_CAP_X86_TRIPLE_FAULT_EVENT, .args[0] = 1};

	if (!open(c))
		return false;
	assert_int_equal(ioctl(c->vm, KVM_ENABLE_CAP, &cap), 0);
	assert_int_equal(ioctl(c->vm, KVM_ENABLE_CAP, &triple), 0);
	nested_l2_code(c, waiting, sizeof(waiting));
	return true;
}

static bool open_waiting(struct client *c)
{
	return open_payloads(c, nested_open_l2);
}

static bool open_with_ept(struct client *c)
{
	return open_payloads(c, nested_open_ept);
}

/* L2 runs up to its OUT. */
static void enter_l2(struct client *c)
{
	assert_int_equal(nested_do(c, VMLAUNCH, 0, 0).port, PORT_L2);
}

/* L2 goes on and exits to L1: the exit's reason. NO_REASON: it is L2 that has something to say, in *port. */
static uint64_t go_on(struct client *c, int *port)
{
	*port = nested_run(c).port;
	return *port == PORT_EXIT ? nested_vmread(c, VM_EXIT_REASON) : NO_REASON;
}

static struct kvm_vcpu_events events_of(struct client *c)
{
	struct kvm_vcpu_events e;

	assert_int_equal(ioctl(c->vcpu, KVM_GET_VCPU_EVENTS, &e), 0);
	return e;
}

static void set_exception(struct client *c, uint8_t vector, int error_code, bool has_payload, uint64_t payload)
{
	struct kvm_vcpu_events e = events_of(c);

	e.flags = KVM_VCPUEVENT_VALID_PAYLOAD;
	e.exception.pending = 1;
	e.exception.injected = 0;
	e.exception.nr = vector;
	e.exception.has_error_code = error_code >= 0;
	e.exception.error_code = error_code >= 0 ? (uint32_t)error_code : 0;
	e.exception_has_payload = has_payload;
	e.exception_payload = payload;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_VCPU_EVENTS, &e), 0);
}

NESTED_TEST(an_nmi_that_l1_asks_for_is_its_exit, open_waiting)
{
	int port;

	nested_set_bits(c, PIN_BASED_VM_EXEC_CONTROL, PIN_NMI_EXITING);
	enter_l2(c);
	assert_int_equal(ioctl(c->vcpu, KVM_NMI, 0), 0);
	assert_int_equal(go_on(c, &port), EXIT_REASON_EXCEPTION_NMI);
	assert_int_equal(nested_vmread(c, VM_EXIT_INTR_INFO), INFO_VALID | TYPE_NMI | NMI);
	assert_true(events_of(c).nmi.masked);
	assert_false(events_of(c).nmi.pending);
}

NESTED_TEST(an_nmi_that_l1_does_not_ask_for_is_l2s, open_waiting)
{
	int port;

	enter_l2(c);
	assert_int_equal(ioctl(c->vcpu, KVM_NMI, 0), 0);
	assert_int_equal(go_on(c, &port), NO_REASON);
	assert_int_equal(port, NMI);
	assert_true(client_regs(c).rsp < AT_L2_STACK && client_regs(c).rsp >= AT_L2_STACK - 0x100);
}

NESTED_TEST(an_exception_of_the_bitmap_is_l1s_exit, open_waiting)
{
	int port;

	nested_vmwrite(c, EXCEPTION_BITMAP, 1u << GP);
	enter_l2(c);
	set_exception(c, GP, 0x28, false, 0);
	assert_int_equal(go_on(c, &port), EXIT_REASON_EXCEPTION_NMI);
	assert_int_equal(nested_vmread(c, VM_EXIT_INTR_INFO), INFO_VALID | INFO_CODE | TYPE_EXCEPTION | GP);
	assert_int_equal(nested_vmread(c, VM_EXIT_INTR_ERROR_CODE), 0x28);
	assert_int_equal(nested_vmread(c, EXIT_QUALIFICATION), 0);
}

NESTED_TEST(an_exception_outside_the_bitmap_is_l2s, open_waiting)
{
	int port;

	nested_vmwrite(c, EXCEPTION_BITMAP, 1u << UD);
	enter_l2(c);
	set_exception(c, GP, 0x28, false, 0);
	assert_int_equal(go_on(c, &port), NO_REASON);
	assert_int_equal(port, GP);
	assert_int_equal(client_regs(c).rdx, 0x28);
}

/* The address is the qualification; CR2 stays L2's own, which has not seen the fault. */
NESTED_TEST(a_page_fault_of_l1s_has_its_address_as_qualification, open_waiting)
{
	struct kvm_sregs s;
	int port;

	nested_vmwrite(c, EXCEPTION_BITMAP, 1u << PF);
	enter_l2(c);
	set_exception(c, PF, 2, true, 0x12345678);
	assert_int_equal(go_on(c, &port), EXIT_REASON_EXCEPTION_NMI);
	assert_int_equal(nested_vmread(c, VM_EXIT_INTR_INFO), INFO_VALID | INFO_CODE | TYPE_EXCEPTION | PF);
	assert_int_equal(nested_vmread(c, VM_EXIT_INTR_ERROR_CODE), 2);
	assert_int_equal(nested_vmread(c, EXIT_QUALIFICATION), 0x12345678);
	assert_int_equal(ioctl(c->vcpu, KVM_GET_SREGS, &s), 0);
	assert_int_equal(s.cr2, 0);
}

/* Without a payload the registers that would have had it say what the qualification is. */
NESTED_TEST(without_a_payload_cr2_is_the_qualification, open_waiting)
{
	struct kvm_sregs s;
	int port;

	nested_vmwrite(c, EXCEPTION_BITMAP, 1u << PF);
	enter_l2(c);
	assert_int_equal(ioctl(c->vcpu, KVM_GET_SREGS, &s), 0);
	s.cr2 = 0x7000;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_SREGS, &s), 0);
	set_exception(c, PF, 2, false, 0);
	assert_int_equal(go_on(c, &port), EXIT_REASON_EXCEPTION_NMI);
	assert_int_equal(nested_vmread(c, EXIT_QUALIFICATION), 0x7000);
}

NESTED_TEST(a_debug_exception_of_l1s_has_dr6s_bits_as_qualification, open_waiting)
{
	int port;

	nested_vmwrite(c, EXCEPTION_BITMAP, 1u << 1);
	enter_l2(c);
	set_exception(c, 1, -1, true, 1u << 14);
	assert_int_equal(go_on(c, &port), EXIT_REASON_EXCEPTION_NMI);
	assert_int_equal(nested_vmread(c, VM_EXIT_INTR_INFO), INFO_VALID | TYPE_EXCEPTION | 1);
	assert_int_equal(nested_vmread(c, EXIT_QUALIFICATION), 1u << 14);
}

/* Without a payload DR6 says it, and of other exceptions it says nothing. */
NESTED_TEST(without_a_payload_dr6_is_the_qualification_of_db_only, open_waiting)
{
	struct kvm_debugregs d;
	int port;

	nested_vmwrite(c, EXCEPTION_BITMAP, 1u << 1 | 1u << GP);
	enter_l2(c);
	assert_int_equal(ioctl(c->vcpu, KVM_GET_DEBUGREGS, &d), 0);
	d.dr6 = 0xffff0ff0u | 5;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_DEBUGREGS, &d), 0);
	set_exception(c, GP, 0, false, 0);
	assert_int_equal(go_on(c, &port), EXIT_REASON_EXCEPTION_NMI);
	assert_int_equal(nested_vmread(c, EXIT_QUALIFICATION), 0);
	nested_vmwrite(c, GUEST_RIP, AT_L2);
	assert_int_equal(nested_do(c, VMRESUME, 0, 0).port, PORT_L2);
	set_exception(c, 1, -1, false, 0);
	assert_int_equal(go_on(c, &port), EXIT_REASON_EXCEPTION_NMI);
	assert_int_equal(nested_vmread(c, EXIT_QUALIFICATION), 5);
}

/* Injection of "other event", vector 0: an exit before L2's first instruction, though "monitor trap flag" is 0. */
NESTED_TEST(an_injected_mtf_is_l1s_exit, open_waiting)
{
	int port;

	nested_vmwrite(c, VM_ENTRY_INTR_INFO_FIELD, INFO_VALID | 7u << 8);
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_MONITOR_TRAP_FLAG);
	assert_int_equal(nested_vmread(c, GUEST_RIP), AT_L2);
	/* and it was once */
	nested_vmwrite(c, VM_ENTRY_INTR_INFO_FIELD, 0);
	assert_int_equal(nested_do(c, VMRESUME, 0, 0).port, PORT_L2);
	assert_int_equal(ioctl(c->vcpu, KVM_NMI, 0), 0);
	assert_int_equal(go_on(c, &port), NO_REASON);
	assert_int_equal(port, NMI);
}

NESTED_TEST(a_triple_fault_of_l2s_is_l1s_exit, open_waiting)
{
	struct kvm_vcpu_events e;
	int port;

	enter_l2(c);
	e = events_of(c);
	e.flags = KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
	e.triple_fault.pending = 1;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_VCPU_EVENTS, &e), 0);
	assert_int_equal(go_on(c, &port), EXIT_REASON_TRIPLE_FAULT);
}

/* --- an exit to L1 in the middle of a delivery --- */

/* L2's stack is gone from EPT12: what is delivered there ends in an EPT violation. */
static void expect_vectoring(struct client *c, uint64_t info, uint64_t error_code)
{
	int port;

	assert_int_equal(go_on(c, &port), EXIT_REASON_EPT_VIOLATION);
	assert_int_equal(nested_vmread(c, IDT_VECTORING_INFO_FIELD), info);
	if (info & INFO_CODE)
		assert_int_equal(nested_vmread(c, IDT_VECTORING_ERROR_CODE), error_code);
	assert_false(events_of(c).exception.injected || events_of(c).nmi.injected || events_of(c).interrupt.injected);
}

static bool open_without_stack(struct client *c)
{
	if (!open_with_ept(c))
		return false;
	ept_store(c, L2_STACK_PAGE, 0);
	return true;
}

NESTED_TEST(an_nmis_delivery_is_in_the_vectoring_information, open_without_stack)
{
	enter_l2(c);
	assert_int_equal(ioctl(c->vcpu, KVM_NMI, 0), 0);
	expect_vectoring(c, INFO_VALID | TYPE_NMI | NMI, 0);
}

NESTED_TEST(an_exceptions_delivery_is_in_the_vectoring_information, open_without_stack)
{
	enter_l2(c);
	set_exception(c, GP, 0x28, false, 0);
	expect_vectoring(c, INFO_VALID | INFO_CODE | TYPE_EXCEPTION | GP, 0x28);
}

/* Of breakpoints the type is another. */
NESTED_TEST(a_breakpoints_delivery_is_a_software_exceptions, open_without_stack)
{
	uint8_t *code = c->mem + AT_L2;

	code[2] = 0xcc;
	enter_l2(c);
	expect_vectoring(c, INFO_VALID | 6u << 8 | 3, 0);
	assert_int_equal(nested_vmread(c, VM_EXIT_INSTRUCTION_LEN), 1);
}

NESTED_TEST(an_interrupts_delivery_is_in_the_vectoring_information, open_without_stack)
{
	struct kvm_interrupt irq = {.irq = 0x31};

	nested_vmwrite(c, GUEST_RFLAGS, 0x202);
	enter_l2(c);
	assert_int_equal(ioctl(c->vcpu, KVM_INTERRUPT, &irq), 0);
	expect_vectoring(c, INFO_VALID | 0x31, 0);
}

NESTED_TEST(int_ns_delivery_is_a_software_interrupts, open_without_stack)
{
	memcpy(c->mem + AT_L2 + 2, "\xcd\x31", 2);
	enter_l2(c);
	expect_vectoring(c, INFO_VALID | 4u << 8 | 0x31, 0);
	assert_int_equal(nested_vmread(c, VM_EXIT_INSTRUCTION_LEN), 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_nmi_that_l1_asks_for_is_its_exit),
		cmocka_unit_test(an_nmi_that_l1_does_not_ask_for_is_l2s),
		cmocka_unit_test(an_exception_of_the_bitmap_is_l1s_exit),
		cmocka_unit_test(an_exception_outside_the_bitmap_is_l2s),
		cmocka_unit_test(a_page_fault_of_l1s_has_its_address_as_qualification),
		cmocka_unit_test(without_a_payload_cr2_is_the_qualification),
		cmocka_unit_test(a_debug_exception_of_l1s_has_dr6s_bits_as_qualification),
		cmocka_unit_test(without_a_payload_dr6_is_the_qualification_of_db_only),
		cmocka_unit_test(an_injected_mtf_is_l1s_exit),
		cmocka_unit_test(a_triple_fault_of_l2s_is_l1s_exit),
		cmocka_unit_test(an_nmis_delivery_is_in_the_vectoring_information),
		cmocka_unit_test(an_exceptions_delivery_is_in_the_vectoring_information),
		cmocka_unit_test(a_breakpoints_delivery_is_a_software_exceptions),
		cmocka_unit_test(an_interrupts_delivery_is_in_the_vectoring_information),
		cmocka_unit_test(int_ns_delivery_is_a_software_interrupts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
