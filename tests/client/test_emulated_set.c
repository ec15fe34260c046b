/*
 * Every instruction that KVM emulates on a device's memory in 64-bit mode is emulated here too, and its
 * first exit is of the same kind and size.
 *
 * The rows are facts about Linux 6.1 (arch/x86/kvm/emulate.c, which opcodes there have a memory operand): for
 * each the bytes, with the operand at [rdi], what the first exit is, and its bytes.
 */
#include "client.h"
#include "guest_code.h"
#include "paging.h"

#define AT_DEVICE 0x21000
#define DEVICE 0xd0000000u

enum { R, W };

static const struct row {
	const char *name;
	uint8_t bytes[10];
	int first; /* R read, W write */
	unsigned len;
} rows[] = {
	{"add m, r", "\x01\x07", R, 4}, {"add m8, r8", "\x00\x07", R, 1}, {"or r, m", "\x48\x0b\x07", R, 8},
	{"adc m, r", "\x66\x11\x07", R, 2}, {"sbb r, m", "\x1b\x07", R, 4}, {"and m, imm", "\x83\x27\x01", R, 4},
	{"sub m, imm", "\x81\x2f\x01\x02\x03\x04", R, 4}, {"xor m, r", "\x31\x07", R, 4}, {"cmp m, r", "\x39\x07", R, 4},
	{"cmp m8, imm", "\x80\x3f\x05", R, 1}, {"test m, r", "\x85\x07", R, 4}, {"test m8, imm", "\xf6\x07\x01", R, 1},
	{"xchg m, r", "\x87\x07", R, 4}, {"mov m8, r8", "\x88\x07", W, 1}, {"mov m, r", "\x48\x89\x07", W, 8},
	{"mov r, m", "\x8b\x07", R, 4}, {"mov m, imm", "\xc7\x07\x01\x02\x03\x04", W, 4},
	{"mov m8, imm", "\xc6\x07\x05", W, 1}, {"mov m16, ds", "\x8c\x1f", W, 2}, {"mov ds, m16", "\x8e\x1f", R, 2},
	{"movsxd", "\x48\x63\x07", R, 4}, {"pop m", "\x8f\x07", W, 8}, {"push m", "\xff\x37", R, 8},
	{"movsb from", "\x48\x87\xfe\xa4", R, 1}, {"stosd", "\xab", W, 4}, {"scasb", "\xae", R, 1},
	{"lodsd", "\x48\x87\xfe\xad", R, 4}, {"cmpsb", "\xa6", R, 1},
	{"rol m, 1", "\xd1\x07", R, 4}, {"shl m, cl", "\xd3\x27", R, 4}, {"sar m, imm", "\xc1\x3f\x03", R, 4},
	{"not m", "\xf7\x17", R, 4}, {"neg m", "\xf7\x1f", R, 4}, {"mul m", "\xf7\x27", R, 4},
	{"imul m", "\xf7\x2f", R, 4}, {"imul r, m", "\x0f\xaf\x07", R, 4}, {"imul r, m, imm", "\x6b\x07\x03", R, 4},
	{"inc m", "\xff\x07", R, 4}, {"dec m8", "\xfe\x0f", R, 1}, {"call m", "\xff\x17", R, 8},
	{"jmp m", "\xff\x27", R, 8}, {"call far m", "\xff\x1f", R, 4}, {"jmp far m", "\xff\x2f", R, 4},
	{"fnstcw", "\xd9\x3f", W, 2}, {"fnstsw", "\xdd\x3f", W, 2},
	{"sldt", "\x0f\x00\x07", W, 2}, {"str", "\x0f\x00\x0f", W, 2}, {"lldt", "\x0f\x00\x17", R, 2},
	{"ltr", "\x0f\x00\x1f", R, 2}, {"sgdt", "\x0f\x01\x07", W, 8}, {"sidt", "\x0f\x01\x0f", W, 8},
	{"lgdt", "\x0f\x01\x17", R, 2}, {"lidt", "\x0f\x01\x1f", R, 2}, {"smsw", "\x0f\x01\x27", W, 2},
	{"lmsw", "\x0f\x01\x37", R, 2},
	{"movups x, m", "\x0f\x10\x07", R, 8}, {"movups m, x", "\x0f\x11\x07", W, 8}, {"movaps m, x", "\x0f\x29\x07", W, 8},
	{"movntps", "\x0f\x2b\x07", W, 8}, {"cmovz", "\x0f\x44\x07", R, 4}, {"movq mm, m", "\x0f\x6f\x07", R, 8},
	{"movdqa m, x", "\x66\x0f\x7f\x07", W, 8}, {"movdqu x, m", "\xf3\x0f\x6f\x07", R, 8},
	{"movntdq", "\x66\x0f\xe7\x07", W, 8},
	{"setz", "\x0f\x94\x07", W, 1}, {"bt m, r", "\x0f\xa3\x07", R, 4}, {"bts m, r", "\x0f\xab\x07", R, 4},
	{"btr m, imm", "\x0f\xba\x37\x01", R, 4}, {"btc m, imm", "\x0f\xba\x3f\x01", R, 4},
	{"shld m, r, imm", "\x0f\xa4\x07\x03", R, 4}, {"shrd m, r, cl", "\x0f\xad\x07", R, 4},
	{"clflush", "\x0f\xae\x3f", R, 1}, {"clflushopt", "\x66\x0f\xae\x3f", R, 1},
	{"cmpxchg", "\x0f\xb1\x07", R, 4}, {"lock cmpxchg", "\xf0\x48\x0f\xb1\x07", R, 8},
	{"lss", "\x0f\xb2\x07", R, 4}, {"lfs", "\x0f\xb4\x07", R, 4}, {"movzx", "\x0f\xb6\x07", R, 1},
	{"movzx 16", "\x0f\xb7\x07", R, 2}, {"movsx", "\x0f\xbe\x07", R, 1}, {"bsf", "\x0f\xbc\x07", R, 4},
	{"bsr", "\x0f\xbd\x07", R, 4}, {"xadd", "\x0f\xc1\x07", R, 4}, {"movnti", "\x0f\xc3\x07", W, 4},
	{"cmpxchg8b", "\x0f\xc7\x0f", R, 8}, {"cmpxchg16b", "\x48\x0f\xc7\x0f", R, 8},
	{"movbe r, m", "\x0f\x38\xf0\x07", R, 4}, {"movbe m, r", "\x0f\x38\xf1\x07", W, 4},
	{"popf", "\x48\x87\xfc\x9d", R, 8}, {"popfw", "\x48\x87\xfc\x66\x9d", R, 2},
	{"pushf", "\x48\x8d\x67\x08\x9c", W, 8}, {"pushfw", "\x48\x8d\x67\x08\x66\x9c", W, 2},
	{"insb", "\x6c", W, 1}, {"outsb", "\x48\x87\xfe\x6e", R, 1},
};

static void what_kvm_emulates_on_a_device_is_emulated(void **state)
{
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		const struct row *t = &rows[i];
		struct kvm_regs r;
		struct client c;
		int first = -1;
		unsigned len = 0, n;

		client_open_vm(&c, 2 << 20);
		client_add_vcpu(&c);
		memcpy(c.mem + AT_CODE, t->bytes, sizeof(t->bytes));
		paging_start(&c, PAGING_LONG, 0, 0, 1u << 9, 0);
		paging_pte_set(&c, PAGING_LONG, AT_DEVICE, DEVICE | PG_ALL);
		r = client_regs(&c);
		r.rdi = AT_DEVICE;
		r.rsi = AT_TEST;
		r.rdx = 0x7f;
		r.rcx = 1;
		assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
		for (n = 0; n < 8; n++) {
			if (ioctl(c.vcpu, KVM_RUN, 0))
				fail_msg("%s: %s", t->name, strerror(errno));
			if (c.run->exit_reason == KVM_EXIT_IO && c.run->io.port == 0x7f && first < 0) {
				memset((uint8_t *)c.run + c.run->io.data_offset, 0, c.run->io.size);
				continue; /* INS reads its port first */
			}
			if (c.run->exit_reason != KVM_EXIT_MMIO)
				fail_msg("%s: exit %u before any MMIO", t->name, c.run->exit_reason);
			first = c.run->mmio.is_write;
			len = c.run->mmio.len;
			break;
		}
		if (first != t->first || len != t->len)
			fail_msg("%s: %s of %u bytes", t->name, first ? "a write" : "a read", len);
		client_close(&c);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_kvm_emulates_on_a_device_is_emulated),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
