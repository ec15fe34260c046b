/*
 * The vendor of the guest's CPUID decides where the vendors' processors differ:
 * SYSCALL and SYSRET outside 64-bit mode, SYSENTER and SYSEXIT in IA-32e mode.
 * (SDM and AMD64 APM, Vol. 2 and 3, these instructions; KVM emulates them on the other host.)
 */
#include "guest_code.h"
#include "paging.h"

#define UD 6
#define HANDLER 0x7000
#define DONE 0x99
#define EFER_SCE 1u

GUEST_CODE(run_syscall, 32, "syscall");
GUEST_CODE(run_sysret, 32, "movl $0x7000, %ecx; sysretl");
GUEST_CODE(run_sysenter, 32, "sysenter");
GUEST_CODE(run_sysexit, 32, "movl $0x7000, %edx; sysexit");
GUEST_CODE(handler, 32, "outb %al, $0x99");

static void set_vendor(struct client *c, const char *name)
{
	struct {
		struct kvm_cpuid2 h;
		struct kvm_cpuid_entry2 e[256];
	} cpuid = {.h.nent = 256};

	assert_int_equal(ioctl(c->vcpu, KVM_GET_CPUID2, &cpuid), 0);
	for (uint32_t k = 0; k < cpuid.h.nent; k++) {
		if (cpuid.e[k].function != 0)
			continue;
		memcpy(&cpuid.e[k].ebx, name, 4);
		memcpy(&cpuid.e[k].edx, name + 4, 4);
		memcpy(&cpuid.e[k].ecx, name + 8, 4);
	}
	assert_int_equal(ioctl(c->vcpu, KVM_SET_CPUID2, &cpuid), 0);
}

struct insn {
	const char *name;
	const uint8_t *code, *end;
	unsigned cpl;
	enum paging mode;
	int amd, intel; /* the port: DONE, or the exception */
};

/* Into CSTAR, or STAR's EIP; back to level 3 at ECX; SYSENTER_EIP; back at EDX. All of them HANDLER. */
static const struct insn insns[] = {
	{"SYSCALL in compatibility mode", run_syscall, run_syscall_end, 3, PAGING_COMPAT, DONE, UD},
	{"SYSCALL in legacy mode", run_syscall, run_syscall_end, 3, PAGING_PAE, DONE, UD},
	{"SYSCALL in 64-bit mode", run_syscall, run_syscall_end, 3, PAGING_LONG, DONE, DONE},
	{"SYSRET in legacy mode", run_sysret, run_sysret_end, 0, PAGING_PAE, DONE, UD},
	{"SYSRET in 64-bit mode", run_sysret, run_sysret_end, 0, PAGING_LONG, DONE, DONE},
	{"SYSENTER in legacy mode", run_sysenter, run_sysenter_end, 3, PAGING_PAE, DONE, DONE},
	{"SYSENTER in compatibility mode", run_sysenter, run_sysenter_end, 3, PAGING_COMPAT, UD, DONE},
	{"SYSENTER in 64-bit mode", run_sysenter, run_sysenter_end, 3, PAGING_LONG, UD, DONE},
	{"SYSEXIT in legacy mode", run_sysexit, run_sysexit_end, 0, PAGING_PAE, DONE, DONE},
	{"SYSEXIT in 64-bit mode", run_sysexit, run_sysexit_end, 0, PAGING_LONG, UD, DONE},
};

static void run(const struct insn *i, const char *vendor, int expected)
{
	struct client c;
	struct kvm_regs r;
	int port;

	client_open_vm(&c, 2 << 20);
	client_add_vcpu(&c);
	paging_start(&c, i->mode, i->cpl, 0, 0, EFER_SCE);
	set_vendor(&c, vendor);
	memcpy(c.mem + AT_CODE, i->code, (size_t)(i->end - i->code));
	memcpy(c.mem + HANDLER, handler, GUEST_CODE_SIZE(handler));
	client_set_msr(&c, 0xc0000081, 0x0013000800000000 | HANDLER); /* STAR */
	client_set_msr(&c, 0xc0000082, HANDLER);			/* LSTAR */
	client_set_msr(&c, 0xc0000083, HANDLER);			/* CSTAR */
	client_set_msr(&c, 0x174, 8);					/* SYSENTER_CS, _ESP, _EIP */
	client_set_msr(&c, 0x175, 0x8000);
	client_set_msr(&c, 0x176, HANDLER);
	r = client_regs(&c);
	r.r11 = 2 | EFLAGS_IOPL3;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	port = client_next_out(&c);
	if (port != expected)
		fail_msg("%s on %s's: port %#x, expected %#x", i->name, vendor, port, expected);
	client_close(&c);
}

static void the_guests_vendor_decides(void **state)
{
	for (size_t n = 0; n < sizeof(insns) / sizeof(insns[0]); n++) {
		run(&insns[n], "AuthenticAMD", insns[n].amd);
		run(&insns[n], "HygonGenuine", insns[n].amd);
		run(&insns[n], "GenuineIntel", insns[n].intel);
	}
}

/* KVM takes the upper half of TSC_AUX from a guest of any vendor but Intel's, whose name is three words. */
static void tsc_aux_has_32_bits_on_intels(void **state)
{
	static const struct {
		const char *vendor;
		int taken;
	} t[] = {{"GenuineIntel", 0}, {"XenuineIntel", 1}, {"GenuXneIntel", 1}, {"GenuineIntXl", 1}, {"AuthenticAMD", 1}};

	for (size_t n = 0; n < sizeof(t) / sizeof(t[0]); n++) {
		struct client c;

		client_open_vm(&c, 1 << 20);
		client_add_vcpu(&c);
		client_all_cpuid(&c);
		set_vendor(&c, t[n].vendor);
		if (client_try_set_msr(&c, 0xc0000103, 1ULL << 32) != t[n].taken)
			fail_msg("%s: not %d", t[n].vendor, t[n].taken);
		client_close(&c);
	}
}

/* HWCR: TscFreqSel and McStatusWrEn stay, three bits go without a word, the others are refused. */
static void hwcr_keeps_two_bits(void **state)
{
	struct client c;
	uint64_t v;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	client_all_cpuid(&c);
	set_vendor(&c, "AuthenticAMD");
	assert_int_equal(client_try_set_msr(&c, 0xc0010015, 1u << 24 | 1u << 18 | 1u << 3 | 1u << 6 | 1u << 8), 1);
	assert_int_equal(client_try_msr(&c, 0xc0010015, &v), 1);
	assert_int_equal(v, 1u << 24 | 1u << 18);
	assert_int_equal(client_try_set_msr(&c, 0xc0010015, 1), 0);
	assert_int_equal(client_try_set_msr(&c, 0xc0010015, 0), 1);
	client_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_guests_vendor_decides),
		cmocka_unit_test(tsc_aux_has_32_bits_on_intels),
		cmocka_unit_test(hwcr_keeps_two_bits),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
