/*
 * What the guest's CPUID does not offer it cannot run: instructions that
 * VM-execution controls give and take are #UD (a triple fault here: no IDT).
 */
#include "guest_code.h"
#include "paging.h"

#define AREA 0x20000 /* rsi: zeros */
#define CR4_OSXSAVE (1u << 18)
#define OUT "; out %al, $0x99"

GUEST_CODE(run_rdtscp, 32, "rdtscp" OUT);
GUEST_CODE(run_rdpid, 32, "rdpid %eax" OUT);
GUEST_CODE(run_invpcid, 32, "movl $2, %eax; invpcid (%esi), %eax" OUT);
GUEST_CODE(run_xsaves, 32, "xsaves (%esi)" OUT);
GUEST_CODE(run_xrstors, 32, "movb $0x80, 527(%esi); xrstors (%esi)" OUT);

GUEST_CODE(run_rdrand, 32, "rdrand %eax" OUT);
GUEST_CODE(run_rdseed, 32, "rdseed %eax" OUT);

struct bit {
	uint32_t function, index;
	enum cpuid_register reg;
	int bit;
};
#define RDTSCP {0x80000001, 0, CPUID_EDX, 27}
#define RDPID {7, 0, CPUID_ECX, 22}
#define INVPCID {7, 0, CPUID_EBX, 10}
#define XSAVE {1, 0, CPUID_ECX, 26}
#define RDRAND {1, 0, CPUID_ECX, 30}
#define RDSEED {7, 0, CPUID_EBX, 18}
#define XSAVES {0xd, 1, CPUID_EAX, 3}

static const struct bit xsave = XSAVE;
static const struct insn {
	const char *name;
	const uint8_t *code, *end;
	struct bit has[2];
	bool any; /* of the two will do: one control gives both instructions */
} insns[] = {
	{"RDTSCP", run_rdtscp, run_rdtscp_end, {RDTSCP, RDPID}, true},
	{"RDPID", run_rdpid, run_rdpid_end, {RDPID, RDTSCP}, true},
	{"INVPCID", run_invpcid, run_invpcid_end, {INVPCID, INVPCID}, false},
	{"XSAVES", run_xsaves, run_xsaves_end, {XSAVES, XSAVE}, false},
	{"RDRAND", run_rdrand, run_rdrand_end, {RDRAND, RDRAND}, false},
	{"RDSEED", run_rdseed, run_rdseed_end, {RDSEED, RDSEED}, false},
	{"XRSTORS", run_xrstors, run_xrstors_end, {XSAVES, XSAVE}, false},
};

struct cpuid {
	struct kvm_cpuid2 h;
	struct kvm_cpuid_entry2 e[256];
};

/* The register with that bit, or one of zeros. */
static uint32_t *bit_in(struct cpuid *cpuid, const struct bit *b)
{
	static uint32_t none;

	for (uint32_t k = 0; k < cpuid->h.nent; k++)
		if (cpuid->e[k].function == b->function && cpuid->e[k].index == b->index)
			return &(&cpuid->e[k].eax)[b->reg];
	none = 0;
	return &none;
}

/* Run it with all that is supported but the bits of has[] in the mask `without`; how KVM_RUN ended. */
static uint32_t run_without(struct client *c, const struct insn *i, unsigned without)
{
	struct cpuid cpuid = {.h.nent = 256};
	struct kvm_sregs s;
	struct kvm_regs r;

	assert_int_equal(ioctl(c->kvm, KVM_GET_SUPPORTED_CPUID, &cpuid), 0);
	for (unsigned n = 0; n < 2; n++)
		if (without >> n & 1)
			*bit_in(&cpuid, &i->has[n]) &= ~(1u << i->has[n].bit);
	assert_int_equal(ioctl(c->vcpu, KVM_SET_CPUID2, &cpuid), 0);
	client_flat_mode(c, AT_CODE, i->code, (size_t)(i->end - i->code));
	assert_int_equal(ioctl(c->vcpu, KVM_GET_SREGS, &s), 0);
	if (*bit_in(&cpuid, &xsave) >> xsave.bit & 1)
		s.cr4 |= CR4_OSXSAVE;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_SREGS, &s), 0);
	r = client_regs(c);
	r.rsi = AREA;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_REGS, &r), 0);
	assert_int_equal(ioctl(c->vcpu, KVM_RUN, 0), 0);
	return c->run->exit_reason;
}

static bool supported(const struct bit *b)
{
	struct cpuid cpuid = {.h.nent = 256};
	int kvm = open("/dev/kvm", O_RDWR);

	assert_int_equal(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid), 0);
	close(kvm);
	return *bit_in(&cpuid, b) >> b->bit & 1;
}

static void what_cpuid_lacks_is_undefined(void **state)
{
	for (size_t n = 0; n < sizeof(insns) / sizeof(*insns); n++) {
		const struct insn *i = &insns[n];
		bool has[2] = {supported(&i->has[0]), supported(&i->has[1])};

		for (unsigned without = 0; without < 4; without++) {
			bool first = has[0] && !(without & 1), second = has[1] && !(without & 2);
			bool works = i->any ? first || second : first && second;
			struct client c;

			print_message("%s without %u\n", i->name, without);
			client_open_vm(&c, 2 << 20);
			client_add_vcpu(&c);
			assert_int_equal(run_without(&c, i, without), works ? KVM_EXIT_IO : KVM_EXIT_SHUTDOWN);
			client_close(&c);
		}
	}
}

/* Nothing is offered before KVM_SET_CPUID2. */
static void without_any_cpuid_they_are_undefined(void **state)
{
	for (size_t n = 0; n < sizeof(insns) / sizeof(*insns); n++) {
		struct client c;

		client_open_vm(&c, 2 << 20);
		client_add_vcpu(&c);
		client_flat_mode(&c, AT_CODE, insns[n].code, (size_t)(insns[n].end - insns[n].code));
		assert_run_exits(&c, KVM_EXIT_SHUTDOWN);
		client_close(&c);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_cpuid_lacks_is_undefined),
		cmocka_unit_test(without_any_cpuid_they_are_undefined),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
