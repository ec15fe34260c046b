/*
 * The emulator asks what the processor asks before it runs an instruction.
 *
 * User mode of the guest has the emulator look at other bytes than the processor ran: it changes the mapping
 * of its own page, whose translation the processor still has in its TLB, and then writes to a device. The
 * processor exits at the write; the emulator finds the instruction of the other page.
 */
#include "client.h"
#include "guest_code.h"
#include "paging.h"

#define AT_OTHER 0x30000 /* what the page of the code is mapped to, once it runs */
#define AT_DEVICE 0x21000
#define DEVICE 0xd0000000u
#define PTE_OF_CODE 0x13008

#define CR4_TSD (1u << 2)
#define CR4_UMIP (1u << 11)
#define MSR_PLATFORM_INFO 0xce
#define MSR_MISC_FEATURES_ENABLES 0x140

/* What comes of it: a vector, or these. */
enum { RUNS = -1, PORT = -2, REFUSED = -3 /* #GP or #UD */ };
#define GP 13

/* ports that the TSS gives away */
enum { NO_MAP, MAP_GIVES, MAP_TAKES, MAP_ENDS };

static const struct row {
	const char *name;
	enum paging mode;
	int expect;
	uint8_t bytes[8];
	uint32_t rflags, cr4;
	int map;
	bool cpuid_faults, ring_0;
} rows[] = {
	{"out dx", PAGING_LONG, GP, "\xee"},
	{"in dx", PAGING_LONG, GP, "\xec"},
	{"in imm, 4 bytes", PAGING_LONG, GP, "\xe5\x70"},
	{"outsb", PAGING_LONG, GP, "\x6e"},
	{"insb", PAGING_LONG, GP, "\x6c"},
	{"rep insw", PAGING_LONG, GP, "\xf3\x66\x6d"},
	{"rep outsd", PAGING_COMPAT, GP, "\xf3\x6f"},
	{"out dx, IOPL 3", PAGING_LONG, PORT, "\xee", EFLAGS_IOPL3},
	{"outsb, IOPL 3", PAGING_LONG, PORT, "\x6e", EFLAGS_IOPL3},
	{"in dx, a map that gives the port", PAGING_LONG, PORT, "\xec", .map = MAP_GIVES},
	{"out dx, a map that gives the port", PAGING_LONG, PORT, "\xee", .map = MAP_GIVES},
	{"insb, a map that gives the port", PAGING_COMPAT, PORT, "\x6c", .map = MAP_GIVES},
	{"out dx, 4 bytes, the last of which the map takes", PAGING_LONG, GP, "\xef", .map = MAP_TAKES},
	{"out dx, a map that ends before the port", PAGING_LONG, GP, "\xee", .map = MAP_ENDS},
	{"lgdt", PAGING_LONG, GP, "\x0f\x01\x16"},
	{"lidt", PAGING_LONG, GP, "\x0f\x01\x1e"},
	{"lldt", PAGING_LONG, GP, "\x0f\x00\xd0"},
	{"ltr", PAGING_LONG, GP, "\x0f\x00\xd8"},
	{"lmsw", PAGING_LONG, GP, "\x0f\x01\xf0"},
	{"mov to cr3", PAGING_LONG, REFUSED, "\x0f\x22\xd8"},
	{"sgdt", PAGING_LONG, RUNS, "\x0f\x01\x06"},
	{"sgdt, UMIP", PAGING_LONG, GP, "\x0f\x01\x06", .cr4 = CR4_UMIP},
	{"sidt, UMIP", PAGING_LONG, GP, "\x0f\x01\x0e", .cr4 = CR4_UMIP},
	{"sldt, UMIP", PAGING_LONG, GP, "\x0f\x00\xc0", .cr4 = CR4_UMIP},
	{"str, UMIP", PAGING_LONG, GP, "\x0f\x00\xc8", .cr4 = CR4_UMIP},
	{"smsw, UMIP", PAGING_LONG, GP, "\x0f\x01\xe0", .cr4 = CR4_UMIP},
	{"smsw", PAGING_LONG, RUNS, "\x0f\x01\xe0"},
	{"hlt", PAGING_COMPAT, GP, "\xf4"},
	{"cli", PAGING_COMPAT, GP, "\xfa"},
	{"sti", PAGING_COMPAT, GP, "\xfb"},
	{"cli, IOPL 3", PAGING_COMPAT, RUNS, "\xfa", EFLAGS_IOPL3},
	{"clts", PAGING_COMPAT, GP, "\x0f\x06"},
	{"mov to cr0", PAGING_COMPAT, GP, "\x0f\x22\xc0"},
	{"mov from cr3", PAGING_COMPAT, GP, "\x0f\x20\xd8"},
	{"mov to dr7", PAGING_COMPAT, GP, "\x0f\x23\xf8"},
	{"rdmsr", PAGING_COMPAT, GP, "\x0f\x32"},
	{"wrmsr", PAGING_COMPAT, GP, "\x0f\x30"},
	{"invd", PAGING_COMPAT, GP, "\x0f\x08"},
	{"wbinvd", PAGING_COMPAT, GP, "\x0f\x09"},
	{"rdtsc", PAGING_COMPAT, RUNS, "\x0f\x31"},
	{"rdtsc, TSD", PAGING_COMPAT, GP, "\x0f\x31", .cr4 = CR4_TSD},
	{"cpuid", PAGING_COMPAT, RUNS, "\x0f\xa2"},
	{"cpuid that faults", PAGING_COMPAT, GP, "\x0f\xa2", .cpuid_faults = true},
	{"rdtsc", PAGING_LONG, RUNS, "\x0f\x31"},
	{"rdtsc, TSD", PAGING_LONG, GP, "\x0f\x31", .cr4 = CR4_TSD},
	{"cpuid", PAGING_LONG, RUNS, "\x0f\xa2"},
	{"cpuid that faults", PAGING_LONG, GP, "\x0f\xa2", .cpuid_faults = true},
	{"hlt", PAGING_LONG, GP, "\xf4"},
	{"cli", PAGING_LONG, GP, "\xfa"},
	{"sti", PAGING_LONG, GP, "\xfb"},
	{"cli, IOPL 3", PAGING_LONG, RUNS, "\x40\xfa", EFLAGS_IOPL3},
	{"clts", PAGING_LONG, GP, "\x0f\x06"},
	{"rdmsr", PAGING_LONG, GP, "\x0f\x32"},
	{"wrmsr", PAGING_LONG, GP, "\x0f\x30"},
	{"wbinvd", PAGING_LONG, GP, "\x0f\x09"},
	{"pushf", PAGING_LONG, RUNS, "\x40\x9c"},
	{"popf", PAGING_LONG, RUNS, "\x40\x9d"},
	{"popf", PAGING_COMPAT, RUNS, "\x3e\x9d"},
	{"pause", PAGING_LONG, RUNS, "\xf3\x90"},
	{"mfence", PAGING_LONG, RUNS, "\x0f\xae\xf0"},
	{"rsm", PAGING_COMPAT, 6, "\x0f\xaa"},
	{"iret", PAGING_COMPAT, REFUSED, "\xcf"},
	{"int 30", PAGING_COMPAT, REFUSED, "\xcd\x1e"},
	{"mov to ss, a selector of ring 0", PAGING_LONG, GP, "\x8e\xd2"},
	{"fxsave: more than is emulated", PAGING_LONG, 6, "\x0f\xae\x07"},
	{"xsave of x87 state", PAGING_LONG, RUNS, "\x0f\xae\x27"},
	{"enter 8, 31 on a device's stack", PAGING_LONG, 6, "\xc8\x08\x00\x1f"},
	{"clflush", PAGING_LONG, RUNS, "\x0f\xae\x3f"},
};

static void open_row(struct client *c, const struct row *t)
{
	/* movl $AT_OTHER | 7, PTE_OF_CODE; movl %eax, (%rdi) */
	static const uint8_t code64[] = "\xc7\x04\x25\x08\x30\x01\x00\x07\x00\x03\x00\x89\x07",
			     code32[] = "\xc7\x05\x08\x30\x01\x00\x07\x00\x03\x00\x89\x07";
	const uint8_t *code = t->mode == PAGING_LONG ? code64 : code32;
	size_t n = t->mode == PAGING_LONG ? sizeof(code64) - 1 : sizeof(code32) - 1;
	struct kvm_sregs s;
	struct kvm_regs r;

	client_open_vm(c, 2 << 20);
	client_add_vcpu(c);
	memset(c->mem + AT_CODE, 0xcc, 4096); /* INT3: it has run, whatever its length */
	memcpy(c->mem + AT_CODE, code, n);
	memset(c->mem + AT_OTHER, 0xcc, 4096);
	memcpy(c->mem + AT_OTHER + n - 2, t->bytes, sizeof(t->bytes));
	paging_start(c, t->mode, t->ring_0 ? 0 : 3, 0, t->cr4 | 1u << 9 | 1u << 18, 0); /* OSFXSR, OSXSAVE */
	paging_pte_set(c, t->mode, AT_DEVICE, DEVICE | PG_ALL);
	if (t->map) {
		assert_int_equal(ioctl(c->vcpu, KVM_GET_SREGS, &s), 0);
		memset(c->mem + AT_TSS + 0x68, 0, 64);
		s.tr.limit = t->map == MAP_ENDS ? 0x68 + 0x80 / 8 - 1 : 0x68 + 63;
		if (t->map == MAP_TAKES)
			c->mem[AT_TSS + 0x68 + 0x83 / 8] = 1 << (0x83 % 8);
		assert_int_equal(ioctl(c->vcpu, KVM_SET_SREGS, &s), 0);
	}
	if (t->cpuid_faults) {
		client_set_msr(c, MSR_PLATFORM_INFO, 1u << 31);
		client_set_msr(c, MSR_MISC_FEATURES_ENABLES, 1);
	}
	r = client_regs(c);
	r.rflags = 2 | t->rflags;
	r.rdi = AT_DEVICE;
	r.rsi = AT_TEST;
	r.rdx = 0x80;
	r.rax = 1;
	r.rcx = 1;
	if (t->bytes[0] == 0xc8)
		r.rbp = r.rsp = AT_DEVICE + 0x800;
	if (t->bytes[0] == 0x8e)
		r.rdx = 0x10;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_REGS, &r), 0);
}

static int run_row(struct client *c, const struct row *t)
{
	for (unsigned n = 0; n < 200; n++) {
		if (ioctl(c->vcpu, KVM_RUN, 0))
			fail_msg("%s: KVM_RUN: %s", t->name, strerror(errno));
		if (c->run->exit_reason == KVM_EXIT_MMIO) {
			memset(c->run->mmio.data, 0, 8);
			continue;
		}
		if (c->run->exit_reason != KVM_EXIT_IO)
			fail_msg("%s: exit %u", t->name, c->run->exit_reason);
		return c->run->io.port == 0x80 ? PORT : c->run->io.port == 3 ? RUNS : c->run->io.port;
	}
	fail_msg("%s: no end of exits", t->name);
	return 0;
}

static void user_mode_gets_from_the_emulator_what_the_processor_gives_it(void **state)
{
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct client c;
		int got;

		open_row(&c, &rows[i]);
		got = run_row(&c, &rows[i]);
		if (rows[i].expect == REFUSED ? got != GP && got != 6 : got != rows[i].expect)
			fail_msg("%s (%s): %d, not %d", rows[i].name, rows[i].mode == PAGING_LONG ? "64" : "32", got,
				 rows[i].expect);
		client_close(&c);
	}
}

/* With the kernel's privilege it is HLT: the processor goes on behind it when it is run again. */
static void hlt_that_is_emulated_halts(void **state)
{
	static const struct row t = {"hlt", PAGING_LONG, RUNS, "\xf4", .ring_0 = true};
	struct client c;
	uint64_t at;

	open_row(&c, &t);
	at = AT_CODE + 11; /* behind the change of the mapping */
	assert_int_equal(ioctl(c.vcpu, KVM_RUN, 0), 0);
	assert_int_equal(c.run->exit_reason, KVM_EXIT_HLT);
	assert_int_equal(client_regs(&c).rip, at + 1);
	client_close(&c);
}

#define FLAG_CF 1u
#define FLAG_IF (1u << 9)
#define FLAG_IOPL (3u << 12)
#define FLAG_NT (1u << 14)
#define FLAG_RF (1u << 16)
#define FLAG_AC (1u << 18)
#define FLAG_ID (1u << 21)
#define POPPED (FLAG_CF | FLAG_IF | FLAG_IOPL | FLAG_NT | FLAG_AC | FLAG_ID | 2u)

/* What the emulator's POPF takes from a device's stack, by CPL and IOPL: IOPL is for CPL 0, IF for CPL <= IOPL. */
static void popf_changes_what_the_privilege_allows(void **state)
{
	static const struct {
		int cpl;
		uint32_t rflags, expect;
	} t[] = {
		{0, 0, POPPED}, {3, 0, POPPED & ~(FLAG_IF | FLAG_IOPL)}, {3, FLAG_IOPL, POPPED}, {3, FLAG_IF, POPPED & ~FLAG_IOPL},
	};

	for (unsigned k = 0; k < sizeof(t) / sizeof(t[0]); k++) {
		/* popf; movl %eax, 8(%rdi): the flags are seen at its exit */
		static const uint8_t code[] = "\x9d\x89\x47\x08";
		struct kvm_regs r;
		struct client c;

		client_open_vm(&c, 2 << 20);
		client_add_vcpu(&c);
		memcpy(c.mem + AT_CODE, code, sizeof(code));
		paging_start(&c, PAGING_LONG, t[k].cpl, 0, 0, 0);
		paging_pte_set(&c, PAGING_LONG, AT_DEVICE, DEVICE | PG_ALL);
		r = client_regs(&c);
		r.rflags = 2 | t[k].rflags;
		r.rdi = r.rsp = AT_DEVICE;
		assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
		assert_int_equal(ioctl(c.vcpu, KVM_RUN, 0), 0);
		assert_int_equal(c.run->exit_reason, KVM_EXIT_MMIO);
		assert_int_equal(c.run->mmio.is_write, 0);
		memcpy(c.run->mmio.data, &(uint64_t){POPPED}, 8);
		assert_int_equal(ioctl(c.vcpu, KVM_RUN, 0), 0);
		assert_int_equal(c.run->exit_reason, KVM_EXIT_MMIO);
		assert_int_equal(c.run->mmio.is_write, 1);
		assert_int_equal(client_regs(&c).rflags & ~FLAG_RF, t[k].expect); /* the exit sets RF */
		client_close(&c);
	}
}

#define FLAG_TF (1u << 8)
#define FLAG_VM (1u << 17)
#define FLAG_VIF (1u << 19)
#define FLAG_VIP (1u << 20)
#define CR4_VME 1u

/* A virtual-8086 program at AT_CODE whose stack is a device. */
static void open_v86(struct client *c, const uint8_t *code, size_t n, uint32_t rflags, uint64_t cr4)
{
	struct kvm_segment *segs[6];
	struct kvm_sregs s;
	struct kvm_regs r;

	client_open_vm(c, 2 << 20);
	client_add_vcpu(c);
	memcpy(c->mem + AT_CODE, code, n);
	paging_start(c, PAGING_32, 3, 0, cr4, 0);
	paging_pte_set(c, PAGING_32, AT_DEVICE, DEVICE | PG_ALL);
	assert_int_equal(ioctl(c->vcpu, KVM_GET_SREGS, &s), 0);
	memcpy(segs, (struct kvm_segment *[]){&s.cs, &s.ss, &s.ds, &s.es, &s.fs, &s.gs}, sizeof(segs));
	for (unsigned i = 0; i < 6; i++)
		*segs[i] = (struct kvm_segment){.limit = 0xffff, .type = 3, .present = 1, .dpl = 3, .s = 1};
	s.ss.selector = AT_DEVICE >> 4;
	s.ss.base = AT_DEVICE;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_SREGS, &s), 0);
	r = client_regs(c);
	r.rip = AT_CODE;
	r.rsp = 8;
	r.rflags = 2 | FLAG_VM | rflags;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_REGS, &r), 0);
}

/* CR4.VME: below IOPL 3 the image on the stack shows VIF as IF, and IOPL 3. */
static void pushf_of_virtual_8086_mode_shows_vif_as_if(void **state)
{
	static const uint32_t vif[] = {0, FLAG_VIF};

	for (unsigned k = 0; k < 2; k++) {
		struct client c;
		uint16_t image;

		open_v86(&c, (const uint8_t *)"\x9c\xf4", 2, vif[k] | FLAG_CF | FLAG_IF, CR4_VME);
		assert_int_equal(ioctl(c.vcpu, KVM_RUN, 0), 0);
		assert_int_equal(c.run->exit_reason, KVM_EXIT_MMIO);
		assert_true(c.run->mmio.is_write);
		assert_int_equal(c.run->mmio.phys_addr, DEVICE + 6);
		assert_int_equal(c.run->mmio.len, 2);
		memcpy(&image, c.run->mmio.data, 2);
		assert_int_equal(image, 2 | FLAG_CF | FLAG_IOPL | (vif[k] ? FLAG_IF : 0));
		client_close(&c);
	}
}

/* POPF there changes VIF, and neither IF nor IOPL. What the monitor must see is a #GP. */
static void popf_of_virtual_8086_mode_changes_vif(void **state)
{
	static const struct {
		uint32_t rflags;
		uint16_t image;
		uint32_t expect; /* 0: #GP */
	} t[] = {
		{FLAG_IF, 2 | FLAG_CF | FLAG_IF, 2 | FLAG_VM | FLAG_VIF | FLAG_CF | FLAG_IF},
		{FLAG_VIF, 2 | FLAG_IOPL, 2 | FLAG_VM},
		{FLAG_VIF | FLAG_VIP, 2, 2 | FLAG_VM | FLAG_VIP},
		{FLAG_VIP, 2 | FLAG_IF, 0},
		{0, 2 | FLAG_TF, 0},
	};

	for (unsigned k = 0; k < sizeof(t) / sizeof(t[0]); k++) {
		/* popf; push %ax: the flags are seen at its exit */
		struct client c;

		open_v86(&c, (const uint8_t *)"\x9d\x50", 2, t[k].rflags, CR4_VME);
		assert_int_equal(ioctl(c.vcpu, KVM_RUN, 0), 0);
		assert_int_equal(c.run->exit_reason, KVM_EXIT_MMIO);
		assert_false(c.run->mmio.is_write);
		memcpy(c.run->mmio.data, &t[k].image, 2);
		assert_int_equal(ioctl(c.vcpu, KVM_RUN, 0), 0);
		if (!t[k].expect) {
			assert_int_equal(c.run->exit_reason, KVM_EXIT_IO);
			assert_int_equal(c.run->io.port, GP);
		} else {
			assert_int_equal(c.run->exit_reason, KVM_EXIT_MMIO);
			assert_true(c.run->mmio.is_write);
			assert_int_equal(client_regs(&c).rflags & ~FLAG_RF, t[k].expect);
		}
		client_close(&c);
	}
}

/* Without VME both want IOPL 3. */
static void flags_of_virtual_8086_mode_want_iopl_3_without_vme(void **state)
{
	static const uint8_t code[][2] = {"\x9c\xf4", "\x9d\xf4"};

	for (unsigned k = 0; k < 4; k++) {
		struct client c;

		open_v86(&c, code[k & 1], 2, k & 2 ? FLAG_IOPL : 0, 0);
		assert_int_equal(ioctl(c.vcpu, KVM_RUN, 0), 0);
		assert_int_equal(c.run->exit_reason, k & 2 ? KVM_EXIT_MMIO : KVM_EXIT_IO);
		client_close(&c);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(user_mode_gets_from_the_emulator_what_the_processor_gives_it),
		cmocka_unit_test(hlt_that_is_emulated_halts),
		cmocka_unit_test(popf_changes_what_the_privilege_allows),
		cmocka_unit_test(pushf_of_virtual_8086_mode_shows_vif_as_if),
		cmocka_unit_test(popf_of_virtual_8086_mode_changes_vif),
		cmocka_unit_test(flags_of_virtual_8086_mode_want_iopl_3_without_vme),
	};

	/* else the emulator is given what the processor ran, and the other page's instruction is none of its affair */
	setenv("USERKVM_CHECK", "emulate", 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
