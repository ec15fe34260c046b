/*
 * What L1's VMX instructions have in common: where they do not exist, how the operand in memory is found and what is
 * wrong with it, how they end. Each row of the list is a test of its own; the last test counts them.
 */
#include "nested.h"

#define AT_L1 0x1a00

#define ROWS(F)                                                                   \
	F(REAL_MODE, "#UD in real mode")                                          \
	F(COMPATIBILITY, "#UD in compatibility mode")                             \
	F(REGISTER_FORM, "#UD of a register where memory belongs")                \
	F(NOT_CANONICAL, "#GP(0) of an address that is not canonical")            \
	F(NOT_CANONICAL_SS, "#SS(0) of one by way of SS")                         \
	F(PAGE_READ, "#PF of a read, with its error code and CR2")                \
	F(PAGE_WRITE, "#PF of a write")                                           \
	F(SEGMENT_UNUSABLE, "32 bits: #GP(0) of a segment without descriptor")    \
	F(SEGMENT_EXECUTE_ONLY, "32 bits: #GP(0) of a read of execute-only code") \
	F(SEGMENT_CODE_WRITE, "32 bits: #GP(0) of a write to code")               \
	F(SEGMENT_READ_ONLY, "32 bits: #GP(0) of a write to read-only data")      \
	F(SEGMENT_LIMIT, "32 bits: #GP(0) beyond the limit")                      \
	F(SEGMENT_EXPAND_DOWN, "32 bits: #GP(0) below an expand-down segment")    \
	F(STACK_LIMIT, "32 bits: #SS(0) beyond the limit of SS")                  \
	F(LINEAR_WRAPS, "32 bits: the linear address has 32")                     \
	F(REGISTER_32, "32 bits: VMREAD and VMWRITE have 32-bit operands")        \
	F(SKIPS_SHADOW, "the instruction ends the shadow of STI")                 \
	F(TRAP_FLAG, "#DB behind an instruction with TF")                         \
	F(SHADOW_REVISION, "VMPTRLD: 11 of a shadow VMCS without the control")    \
	F(INVEPT_ABSENT, "INVEPT: #UD without the capability, at any CPL")        \
	F(INVVPID_ABSENT, "INVVPID: #UD without the capability, at any CPL")      \
	F(INVALIDATE_CPL, "INVEPT, INVVPID: #GP(0) at CPL 3")                     \
	F(INIT_WAITS, "an INIT waits in VMX root operation for VMXOFF")           \
	F(VMCALL_IS_A_HYPERCALL, "VMCALL in VMX root operation is KVM's")         \
	F(VMFUNC_OF_L1, "VMFUNC of L1 is #UD")                                    \
	F(GETSEC, "GETSEC is #UD")
enum {
#define ROW_ENUM(id, text) ROW_##id,
	ROWS(ROW_ENUM)
#undef ROW_ENUM
	NR_ROWS
};
static bool done[NR_ROWS];
static bool offered;

static void put(struct client *c, const void *code, size_t n)
{
	memcpy(c->mem + AT_L1, code, n);
	memcpy(c->mem + AT_L1 + n, "\xe6\xf0", 2); /* out PORT_DONE, al */
}

static struct outcome execute(struct client *c, uint64_t rax, uint64_t rbx, uint64_t rflags)
{
	struct kvm_regs r = {.rip = AT_L1, .rsp = 0x8000, .rflags = 2 | rflags, .rax = rax, .rbx = rbx};

	assert_int_equal(ioctl(c->vcpu, KVM_SET_REGS, &r), 0);
	return nested_run(c);
}

#define CODE(c, code) put(c, code, sizeof(code) - 1)
#define EXECUTE(c, rax) execute(c, rax, AT_TEST, 0)

static struct kvm_sregs sregs(struct client *c)
{
	struct kvm_sregs s;

	assert_int_equal(ioctl(c->vcpu, KVM_GET_SREGS, &s), 0);
	return s;
}

static void set_sregs(struct client *c, const struct kvm_sregs *s)
{
	assert_int_equal(ioctl(c->vcpu, KVM_SET_SREGS, s), 0);
}

/* --- where they do not exist --- */

static bool open_before(struct client *c)
{
	offered = nested_open(c);
	return offered;
}

NESTED_TEST(in_real_mode_there_are_none, open_before)
{
	struct kvm_sregs s = sregs(c);

	s.cr0 = 0x30;
	s.efer = 0;
	s.cs = (struct kvm_segment){.base = 0, .limit = 0xffff, .type = 11, .present = 1, .s = 1};
	s.ss = s.ds = s.es = (struct kvm_segment){.base = 0, .limit = 0xffff, .type = 3, .present = 1, .s = 1};
	s.idt.base = 0x2000;
	s.idt.limit = 0x3ff;
	set_sregs(c, &s);
	*(uint32_t *)(c->mem + 0x2000 + 4 * 6) = 0x1b00; /* #UD: 0:1b00h */
	memcpy(c->mem + 0x1b00, "\xe6\x06", 2);
	CODE(c, "\xf3\x0f\xc7\x37"); /* vmxon [bx] */
	assert_raises(execute(c, 0, 0x4000, 0), 6);
	CODE(c, "\x0f\x01\xc4"); /* vmxoff */
	assert_raises(execute(c, 0, 0, 0), 6);
	done[ROW_REAL_MODE] = true;
}

NESTED_TEST(in_compatibility_mode_there_are_none, nested_open_vmcs)
{
	static const enum snippet all[] = {VMXON, VMXOFF, VMCLEAR, VMPTRLD, VMPTRST, VMREAD, VMWRITE, VMLAUNCH, VMRESUME, INVEPT, INVVPID};
	struct kvm_sregs s = sregs(c);

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
		s.cs.l = 0;
		s.cs.db = 1;
		set_sregs(c, &s);
		assert_raises(nested_do(c, all[i], AT_TEST, AT_TEST), 6);
	}
	done[ROW_COMPATIBILITY] = true;
}

/* --- operands in 64-bit mode --- */

NESTED_TEST(a_register_is_no_operand, nested_open_vmcs)
{
	CODE(c, "\x66\x0f\x38\x80\xc0"); /* invept rax, rax */
	assert_raises(EXECUTE(c, 2), 6);
	CODE(c, "\x66\x0f\x38\x81\xc0");
	assert_raises(EXECUTE(c, 2), 6);
	done[ROW_REGISTER_FORM] = true;
}

NESTED_TEST(an_address_that_is_not_canonical_is_a_fault, nested_open_vmcs)
{
	static const enum snippet all[] = {VMXON, VMCLEAR, VMPTRLD, VMPTRST};
	struct outcome o;

	for (size_t i = 1; i < sizeof(all) / sizeof(*all); i++) {
		o = nested_do(c, all[i], 1ull << 47, 0);
		assert_raises(o, 13);
		assert_int_equal(o.error_code, 0);
	}
	assert_raises(nested_do(c, VMREAD_MEM, GUEST_ES_SELECTOR, 1ull << 47), 13);
	assert_raises(nested_do(c, VMWRITE_MEM, GUEST_ES_SELECTOR, 1ull << 47), 13);
	assert_raises(nested_do(c, INVEPT, 2, 1ull << 47), 13);
	assert_raises(nested_do(c, INVVPID, 2, 1ull << 47), 13);
	done[ROW_NOT_CANONICAL] = true;
	CODE(c, "\x48\x89\xc5\x66\x0f\xc7\x75\x00"); /* mov rbp, rax; vmclear [rbp] */
	o = EXECUTE(c, 1ull << 47);
	assert_raises(o, 12);
	assert_int_equal(o.error_code, 0);
	done[ROW_NOT_CANONICAL_SS] = true;
}

NESTED_TEST(a_page_fault_is_the_accesss, nested_open_vmcs)
{
	struct outcome o;

	paging_pte_set(c, PAGING_LONG, AT_TEST, AT_TEST | 1); /* read-only, and CR0.WP is 1 */
	*nested_operand(c) = AT_VMCS;
	assert_succeeds(nested_do(c, VMPTRLD, AT_TEST, 0));
	{
		struct kvm_sregs s = sregs(c);

		s.cr0 |= 1u << 16;
		set_sregs(c, &s);
	}
	o = nested_do(c, VMPTRST, AT_TEST, 0);
	assert_raises(o, 14);
	assert_int_equal(o.error_code, 3);
	assert_int_equal(sregs(c).cr2, AT_TEST);
	done[ROW_PAGE_WRITE] = true;
	paging_pte_set(c, PAGING_LONG, AT_TEST + 0x1000, 0);
	o = nested_do(c, VMPTRLD, AT_TEST + 0xffc, 0); /* its second half */
	assert_raises(o, 14);
	assert_int_equal(o.error_code, 0);
	assert_int_equal(sregs(c).cr2, AT_TEST + 0x1000);
	done[ROW_PAGE_READ] = true;
}

/* --- operands in 32-bit mode: segments --- */

static bool open_pae(struct client *c)
{
	if (!nested_open(c))
		return false;
	paging_start(c, PAGING_PAE, 0, CR0_NE, CR4_VMXE, 0);
	assert_succeeds(nested_ptr(c, VMXON, AT_VMXON));
	assert_succeeds(nested_ptr(c, VMCLEAR, AT_VMCS));
	assert_succeeds(nested_ptr(c, VMPTRLD, AT_VMCS));
	*nested_operand(c) = AT_VMCS;
	return true;
}

static struct kvm_segment data(uint8_t type, uint32_t limit)
{
	return (struct kvm_segment){.selector = 16, .limit = limit, .type = type, .present = 1, .s = 1, .db = 1, .g = limit >> 20 ? 1 : 0};
}

/* The exception that a read and a write of eight bytes at the operand raise; PORT_DONE: none. */
static void with_ds(struct client *c, struct kvm_segment ds, int read, int write)
{
	struct kvm_sregs s = sregs(c);
	struct outcome o;

	s.ds = ds;
	set_sregs(c, &s);
	o = nested_do(c, VMPTRLD, AT_TEST, 0);
	assert_int_equal(o.port, read);
	assert_int_equal(o.port == PORT_DONE ? 0 : o.error_code, 0);
	s.ds = ds; /* the handlers of paging.h load it */
	set_sregs(c, &s);
	assert_int_equal(nested_do(c, VMPTRST, AT_TEST, 0).port, write);
}

NESTED_TEST(a_segment_has_a_type_and_a_limit, open_pae)
{
	struct kvm_segment none = {.unusable = 1};
	struct kvm_segment up = data(3, AT_TEST + 7), low = data(3, AT_TEST + 6);

	with_ds(c, data(3, ~0u), PORT_DONE, PORT_DONE);
	with_ds(c, none, 13, 13);
	done[ROW_SEGMENT_UNUSABLE] = true;
	with_ds(c, data(11, ~0u), PORT_DONE, 13);
	done[ROW_SEGMENT_CODE_WRITE] = true;
	with_ds(c, data(1, ~0u), PORT_DONE, 13);
	done[ROW_SEGMENT_READ_ONLY] = true;
	with_ds(c, up, PORT_DONE, PORT_DONE);
	with_ds(c, low, 13, 13);
	done[ROW_SEGMENT_LIMIT] = true;
	if (on_userkvm()) { /* Linux takes the limit for its end */
		with_ds(c, data(7, AT_TEST - 1), PORT_DONE, PORT_DONE);
		with_ds(c, data(7, AT_TEST), 13, 13);
	}
	done[ROW_SEGMENT_EXPAND_DOWN] = true;
}

/* Only CS can be such a one. */
NESTED_TEST(execute_only_code_cannot_be_read, open_pae)
{
	struct kvm_sregs s = sregs(c);
	struct outcome o;

	CODE(c, "\x2e\x0f\xc7\x30"); /* vmptrld cs:[eax] */
	assert_succeeds(EXECUTE(c, AT_TEST));
	s.cs.type = 9;
	set_sregs(c, &s);
	o = EXECUTE(c, AT_TEST);
	assert_raises(o, 13);
	assert_int_equal(o.error_code, 0);
	done[ROW_SEGMENT_EXECUTE_ONLY] = true;
}

NESTED_TEST(the_stack_segments_fault_is_its_own, open_pae)
{
	struct kvm_sregs s = sregs(c);
	struct outcome o;

	CODE(c, "\x89\xc5\x0f\xc7\x75\x00"); /* mov ebp, eax; vmptrld [ebp] */
	s.ss = data(3, AT_TEST + 6);
	set_sregs(c, &s);
	o = EXECUTE(c, AT_TEST);
	assert_raises(o, 12);
	assert_int_equal(o.error_code, 0);
	done[ROW_STACK_LIMIT] = true;
}

NESTED_TEST(a_linear_address_has_32_bits, open_pae)
{
	struct kvm_sregs s = sregs(c);

	s.ds.base = 0xffff0000;
	set_sregs(c, &s);
	assert_succeeds(nested_do(c, VMPTRLD, AT_TEST + 0x10000, 0));
	done[ROW_LINEAR_WRAPS] = true;
}

NESTED_TEST(operands_of_vmread_and_vmwrite_have_32_bits, open_pae)
{
	uint64_t *op = nested_operand(c);

	nested_vmwrite(c, GUEST_GDTR_BASE, 0x89abcdef);
	op[0] = ~0ull;
	assert_succeeds(nested_do(c, VMREAD_MEM, GUEST_GDTR_BASE, AT_TEST));
	assert_int_equal(op[0], 0xffffffff89abcdef); /* four bytes were written */
	op[0] = 0x1111111122222222;
	assert_succeeds(nested_do(c, VMWRITE_MEM, TSC_OFFSET, AT_TEST));
	assert_int_equal(nested_vmread(c, TSC_OFFSET), 0x22222222);
	assert_int_equal(nested_vmread(c, TSC_OFFSET | 1), 0);
	done[ROW_REGISTER_32] = true;
}

/* --- how they end --- */

NESTED_TEST(an_instruction_ends_a_shadow_and_is_stepped, nested_open_vmcs)
{
	struct kvm_vcpu_events e;
	struct outcome o;

	CODE(c, "\xfb\x0f\xc7\x38"); /* sti; vmptrst [rax] */
	assert_succeeds(EXECUTE(c, AT_TEST));
	assert_int_equal(ioctl(c->vcpu, KVM_GET_VCPU_EVENTS, &e), 0);
	assert_int_equal(e.interrupt.shadow, 0);
	done[ROW_SKIPS_SHADOW] = true;
	CODE(c, "\x0f\xc7\x38");
	o = execute(c, AT_TEST, 0, 1u << 8);
	assert_raises(o, 1);
	assert_int_equal(client_regs(c).rip >> 12, AT_STUBS >> 12); /* in the handler */
	assert_int_equal(*(uint64_t *)(c->mem + 0x8000 - 40), AT_L1 + 3); /* behind the instruction */
	done[ROW_TRAP_FLAG] = true;
}

/* --- each instruction's own that test_nested_insn.c has not --- */

static void without(struct client *c, unsigned msr, uint64_t bits)
{
	client_set_msr(c, MSR_VMX(msr), client_msr(c, MSR_VMX(msr)) & ~bits);
}

static void at_cpl3(struct client *c)
{
	struct kvm_sregs s = sregs(c);

	s.cs = paging_segment(24, 11, 3, true);
	s.ss = paging_segment(32, 3, 3, false);
	set_sregs(c, &s);
}

NESTED_TEST(a_shadow_vmcs_needs_the_control, nested_open)
{
	without(c, 11, 1ull << 14 << 32);
	assert_succeeds(nested_ptr(c, VMXON, AT_VMXON));
	assert_succeeds(nested_ptr(c, VMPTRLD, AT_VMCS));
	assert_vmfail(c, nested_ptr(c, VMPTRLD, AT_SHADOW), 11);
	done[ROW_SHADOW_REVISION] = true;
}

NESTED_TEST(invept_and_invvpid_are_there_by_capability, nested_open)
{
	without(c, 12, 1ull << 20 | 1ull << 32);
	assert_succeeds(nested_ptr(c, VMXON, AT_VMXON));
	assert_raises(nested_do(c, INVEPT, 2, AT_TEST), 6);
	assert_raises(nested_do(c, INVVPID, 2, AT_TEST), 6);
	at_cpl3(c);
	assert_raises(nested_do(c, INVEPT, 2, AT_TEST), 6);
	at_cpl3(c);
	assert_raises(nested_do(c, INVVPID, 2, AT_TEST), 6);
	done[ROW_INVEPT_ABSENT] = done[ROW_INVVPID_ABSENT] = true;
}

NESTED_TEST(and_privileged, nested_open_vmcs)
{
	at_cpl3(c);
	assert_raises(nested_do(c, INVEPT, 2, AT_TEST), 13);
	at_cpl3(c);
	assert_raises(nested_do(c, INVVPID, 2, AT_TEST), 13);
	done[ROW_INVALIDATE_CPL] = true;
}

static bool open_with_irqchip(struct client *c)
{
	bool open;

	nested_irqchip = true;
	open = nested_open_vmcs(c);
	nested_irqchip = false;
	return open;
}

NESTED_TEST(an_init_waits_for_vmxoff, open_with_irqchip)
{
	struct kvm_msi msi = {.address_lo = 0xfee00000, .data = 5u << 8 | 1u << 14};
	struct kvm_mp_state s;

	assert_int_equal(ioctl(c->vm, KVM_SIGNAL_MSI, &msi), 1);
	assert_succeeds(nested_do(c, VMPTRST, AT_TEST, 0));
	assert_int_equal(ioctl(c->vcpu, KVM_GET_MP_STATE, &s), 0);
	assert_int_equal(s.mp_state, KVM_MP_STATE_RUNNABLE);
	CODE(c, "\x0f\x01\xc4"); /* vmxoff */
	{
		struct kvm_regs r = {.rip = AT_L1, .rsp = 0x8000, .rflags = 2};

		assert_int_equal(ioctl(c->vcpu, KVM_SET_REGS, &r), 0);
	}
	/* the bootstrap processor begins at its reset vector, where no memory is */
	assert_int_equal(ioctl(c->vcpu, KVM_RUN, 0), 0);
	assert_int_not_equal(c->run->exit_reason, KVM_EXIT_IO);
	assert_int_equal(client_regs(c).rip & 0xfff0, 0xfff0);
	done[ROW_INIT_WAITS] = true;
}

NESTED_TEST(vmcall_is_a_hypercall, nested_open_vmcs)
{
	struct outcome o;

	CODE(c, "\x0f\x01\xc1");
	o = execute(c, 0x7777, 0, ARITHMETIC);
	assert_int_equal(o.port, PORT_DONE);
	assert_int_equal(o.rflags & ARITHMETIC, ARITHMETIC);
	assert_int_equal((int64_t)client_regs(c).rax, -1000); /* -KVM_ENOSYS */
	done[ROW_VMCALL_IS_A_HYPERCALL] = true;
	assert_raises(nested_do(c, VMFUNC, 0, 0), 6);
	done[ROW_VMFUNC_OF_L1] = true;
	CODE(c, "\x0f\x37");
	assert_raises(EXECUTE(c, 0), 6);
	done[ROW_GETSEC] = true;
}

static void every_row_has_been_broken(void **state)
{
	unsigned missing = 0;

#define CHECK_DONE(id, text)                          \
	if (!done[ROW_##id]) {                        \
		print_error("not tested: %s\n", text); \
		missing++;                            \
	}
	ROWS(CHECK_DONE)
	if (offered)
		assert_int_equal(missing, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(in_real_mode_there_are_none),
		cmocka_unit_test(in_compatibility_mode_there_are_none),
		cmocka_unit_test(a_register_is_no_operand),
		cmocka_unit_test(an_address_that_is_not_canonical_is_a_fault),
		cmocka_unit_test(a_page_fault_is_the_accesss),
		cmocka_unit_test(a_segment_has_a_type_and_a_limit),
		cmocka_unit_test(execute_only_code_cannot_be_read),
		cmocka_unit_test(the_stack_segments_fault_is_its_own),
		cmocka_unit_test(a_linear_address_has_32_bits),
		cmocka_unit_test(operands_of_vmread_and_vmwrite_have_32_bits),
		cmocka_unit_test(an_instruction_ends_a_shadow_and_is_stepped),
		cmocka_unit_test(a_shadow_vmcs_needs_the_control),
		cmocka_unit_test(invept_and_invvpid_are_there_by_capability),
		cmocka_unit_test(and_privileged),
		cmocka_unit_test(an_init_waits_for_vmxoff),
		cmocka_unit_test(vmcall_is_a_hypercall),
		cmocka_unit_test(every_row_has_been_broken),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
