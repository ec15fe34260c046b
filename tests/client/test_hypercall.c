/*
 * VMCALL and VMMCALL, each in guests of either vendor: the one that is not the
 * vendor's is replaced in the code, or an invalid opcode.
 */
#include "guest_code.h"
#include "paging.h"

#define HC_VAPIC_POLL_IRQ "mov $1, %eax\n"

GUEST_CODE(vmcall_code, 64, HC_VAPIC_POLL_IRQ "vmcall; out %al, $0xe0; jmp .-10");
GUEST_CODE(vmmcall_code, 64, HC_VAPIC_POLL_IRQ "vmmcall; out %al, $0xe0; jmp .-10");

#define INSN_AT (AT_CODE + 5) /* behind the MOV */
static const uint8_t vmcall[] = {0x0f, 0x01, 0xc1}, vmmcall[] = {0x0f, 0x01, 0xd9};

static void open_vendor(struct client *c, const char *vendor, const uint8_t *code, size_t n)
{
	struct {
		struct kvm_cpuid2 h;
		struct kvm_cpuid_entry2 e[256];
	} cpuid = {.h.nent = 256};

	client_open_vm(c, 2 << 20);
	client_add_vcpu(c);
	paging_start(c, PAGING_LONG, 0, CR0_WP, 0, 0);
	memcpy(c->mem + AT_CODE, code, n);
	assert_int_equal(ioctl(c->kvm, KVM_GET_SUPPORTED_CPUID, &cpuid), 0);
	for (uint32_t i = 0; i < cpuid.h.nent; i++) {
		if (cpuid.e[i].function & 0x7fffffff)
			continue;
		memcpy(&cpuid.e[i].ebx, vendor, 4);
		memcpy(&cpuid.e[i].edx, vendor + 4, 4);
		memcpy(&cpuid.e[i].ecx, vendor + 8, 4);
	}
	assert_int_equal(ioctl(c->vcpu, KVM_SET_CPUID2, &cpuid), 0);
}

static const struct {
	const char *vendor;
	const uint8_t *code, *end, *native, *foreign;
} cases[] = {
	{"AuthenticAMD", vmcall_code, vmcall_code_end, vmmcall, vmcall},
	{"GenuineIntel", vmmcall_code, vmmcall_code_end, vmcall, vmmcall},
};

static void the_other_vendors_hypercall_is_replaced_and_runs(void **state)
{
	for (size_t i = 0; i < 2; i++) {
		struct client c;

		open_vendor(&c, cases[i].vendor, cases[i].code, (size_t)(cases[i].end - cases[i].code));
		for (int n = 0; n < 3; n++) {
			assert_int_equal(client_next_out(&c), 0xe0);
			assert_int_equal(client_regs(&c).rax, 0);
			assert_memory_equal(c.mem + INSN_AT, cases[i].native, 3);
		}
		client_close(&c);
	}
}

static void without_the_quirk_it_is_an_invalid_opcode(void **state)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_DISABLE_QUIRKS2, .args = {KVM_X86_QUIRK_FIX_HYPERCALL_INSN}};

	for (size_t i = 0; i < 2; i++) {
		struct client c;

		open_vendor(&c, cases[i].vendor, cases[i].code, (size_t)(cases[i].end - cases[i].code));
		assert_true(ioctl(c.vm, KVM_CHECK_EXTENSION, KVM_CAP_DISABLE_QUIRKS2) &
			    KVM_X86_QUIRK_FIX_HYPERCALL_INSN);
		assert_int_equal(ioctl(c.vm, KVM_ENABLE_CAP, &cap), 0);
		assert_int_equal(client_next_out(&c), 6);
		assert_memory_equal(c.mem + INSN_AT, cases[i].foreign, 3);
		client_close(&c);
	}
}

static void code_that_cannot_be_written_runs_as_it_is(void **state)
{
	for (size_t i = 0; i < 2; i++) {
		struct client c;

		open_vendor(&c, cases[i].vendor, cases[i].code, (size_t)(cases[i].end - cases[i].code));
		paging_pte_set(&c, PAGING_LONG, AT_CODE, AT_CODE | PG_P);
		assert_int_equal(client_next_out(&c), 0xe0);
		assert_int_equal(client_regs(&c).rax, 0);
		assert_memory_equal(c.mem + INSN_AT, cases[i].foreign, 3);
		client_close(&c);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_other_vendors_hypercall_is_replaced_and_runs),
		cmocka_unit_test(without_the_quirk_it_is_an_invalid_opcode),
		cmocka_unit_test(code_that_cannot_be_written_runs_as_it_is),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
