/*
 * Whose exit is it: what L2 does, with which control of L1's, and where that leads. And
 * what an L2 on EPT tables of L1's sees and reports.
 */
#include "nested_ept.h"
#include "said.h"

#define PIN PIN_BASED_VM_EXEC_CONTROL
#define PRIMARY CPU_BASED_VM_EXEC_CONTROL

/* --- instructions and the controls that make them exits --- */

struct insn_row {
	const char *name, *code;
	size_t len;
	uint32_t field;
	uint64_t bits; /* 0: it exits to L1 whatever L1 says */
	uint32_t reason;
	bool quiet; /* without the control it is over, and L2 comes to the CPUID behind it */
};

#define INSN(name, code, field, bits, reason, quiet) {name, code, sizeof(code) - 1, field, bits, reason, quiet}
static const struct insn_row insns[] = {
	INSN("cpuid", "\x0f\xa2", 0, 0, EXIT_REASON_CPUID, false),
	INSN("invd", "\x0f\x08", 0, 0, EXIT_REASON_INVD, false),
	INSN("vmcall", "\x0f\x01\xc1", 0, 0, EXIT_REASON_VMCALL, false),
	INSN("vmlaunch", "\x0f\x01\xc2", 0, 0, EXIT_REASON_VMLAUNCH, false),
	INSN("vmread", "\x0f\x78\xc3", 0, 0, EXIT_REASON_VMREAD, false),
	INSN("vmxoff", "\x0f\x01\xc4", 0, 0, EXIT_REASON_VMOFF, false),
	INSN("rdmsr without a bitmap", "\xb9\x10\x00\x00\x00\x0f\x32", 0, 0, EXIT_REASON_MSR_READ, false),
	INSN("hlt", "\xf4", PRIMARY, 1u << 7, EXIT_REASON_HLT, false),
	INSN("invlpg", "\x0f\x01\x38", PRIMARY, 1u << 9, EXIT_REASON_INVLPG, true),
	INSN("rdtsc", "\x0f\x31", PRIMARY, 1u << 12, EXIT_REASON_RDTSC, true),
	INSN("mov from cr3", "\x0f\x20\xd8", PRIMARY, 1u << 16, EXIT_REASON_CR_ACCESS, true),
	INSN("mov to cr3", "\x0f\x20\xd8\x0f\x22\xd8", PRIMARY, 1u << 15, EXIT_REASON_CR_ACCESS, true),
	INSN("mov from dr", "\x0f\x21\xc0", PRIMARY, 1u << 23, EXIT_REASON_DR_ACCESS, true),
	INSN("mov from cr8", "\x44\x0f\x20\xc0", PRIMARY, 1u << 20, EXIT_REASON_CR_ACCESS, true),
	INSN("pause", "\xf3\x90", PRIMARY, 1u << 30, EXIT_REASON_PAUSE_INSTRUCTION, true),
	INSN("wbinvd", "\x0f\x09", SECONDARY, 1u << 6, EXIT_REASON_WBINVD, true),
	INSN("rdrand", "\x0f\xc7\xf0", SECONDARY, 1u << 11, EXIT_REASON_RDRAND, true),
	INSN("rdseed", "\x0f\xc7\xf8", SECONDARY, 1u << 16, EXIT_REASON_RDSEED, true),
	INSN("sgdt", "\x0f\x01\x04\x24", SECONDARY, 1u << 2, EXIT_REASON_GDTR_IDTR, true),
	INSN("str", "\x0f\x00\xc8", SECONDARY, 1u << 2, EXIT_REASON_LDTR_TR, true),
};

NESTED_TEST(each_instruction_exits_to_whom_the_controls_say, nested_open_vmcs)
{
	unsigned wrong = 0;

	for (size_t i = 0; i < 2 * sizeof(insns) / sizeof(*insns); i++) {
		const struct insn_row *r = &insns[i / 2];
		bool with = i & 1;
		uint64_t reason, want = with || !r->bits ? r->reason : EXIT_REASON_CPUID;

		if (!with && r->bits && !r->quiet)
			continue;
		nested_fresh_vmcs(c);
		nested_vmwrite(c, PRIMARY, nested_vmread(c, PRIMARY) & ~(uint64_t)(3u << 15));
		if (with && r->bits)
			nested_set_bits(c, r->field, r->bits);
		nested_l2_code(c, r->code, r->len);
		memcpy(c->mem + AT_L2 + r->len, "\x0f\xa2", 2);
		reason = nested_enter(c, VMLAUNCH);
		if (reason != want) {
			print_error("%s %s its control: exit %u\n", r->name, with ? "with" : "without", (unsigned)reason);
			wrong++;
		}
	}
	assert_int_equal(wrong, 0);
}

NESTED_TEST(io_bitmaps_are_asked_for_each_byte, nested_open_l2)
{
	static const struct {
		uint16_t port;
		uint8_t bit_port_low; /* the bit that is set: port + this */
		uint8_t insn;	      /* in al/ax/eax, dx */
		bool exits;
	} rows[] = {{0x3f8, 0, 0xec, true}, {0x3f8, 1, 0xec, false}, {0x3f8, 3, 0xed, true}, {0x3f8, 4, 0xed, false},
		    {0x9000, 0, 0xec, true}, {0xfffe, 100, 0xed, true}};

	nested_set_bits(c, PRIMARY, 1u << 25);
	nested_vmwrite(c, IO_BITMAP_A, AT_IO_A);
	nested_vmwrite(c, IO_BITMAP_B, AT_IO_B);
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		uint16_t at = (uint16_t)(rows[i].port + rows[i].bit_port_low);
		uint8_t code[] = {0x66, 0xba, (uint8_t)rows[i].port, (uint8_t)(rows[i].port >> 8), rows[i].insn, 0x0f, 0xa2};
		struct outcome o;

		memset(c->mem + AT_IO_A, 0, 0x2000);
		if (rows[i].bit_port_low < 100)
			c->mem[AT_IO_A + at / 8] |= (uint8_t)(1u << at % 8);
		nested_l2_code(c, code, sizeof(code));
		nested_vmwrite(c, GUEST_RIP, AT_L2);
		o = nested_do(c, i ? VMRESUME : VMLAUNCH, 0, 0);
		if (rows[i].exits) {
			assert_int_equal(o.port, PORT_EXIT);
			assert_int_equal(nested_vmread(c, VM_EXIT_REASON), EXIT_REASON_IO_INSTRUCTION);
		} else {
			assert_int_equal(o.port, rows[i].port); /* the client's, as of any guest */
			assert_int_equal(nested_run(c).port, PORT_EXIT);
			assert_int_equal(nested_vmread(c, VM_EXIT_REASON), EXIT_REASON_CPUID);
		}
	}
}

NESTED_TEST(exceptions_exit_by_the_bitmap_and_page_faults_by_mask_and_match, nested_open_l2)
{
	static const struct {
		uint32_t bitmap, mask, match;
		bool exits;
	} rows[] = {{0, 0, 0, false}, {1u << 14, 0, 0, true}, {1u << 14, 2, 2, true}, {1u << 14, 2, 0, false},
		    {0, 2, 0, true}, {0, 2, 2, false}};

	/* mov [rax], rbx at an address that is not mapped: error code 2 */
	nested_l2_code(c, "\xb8\x00\x00\x00\x40\x48\x89\x18", 8);
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		struct outcome o;

		nested_vmwrite(c, EXCEPTION_BITMAP, rows[i].bitmap);
		nested_vmwrite(c, PAGE_FAULT_ERROR_CODE_MASK, rows[i].mask);
		nested_vmwrite(c, PAGE_FAULT_ERROR_CODE_MATCH, rows[i].match);
		nested_vmwrite(c, GUEST_RIP, AT_L2);
		nested_vmwrite(c, GUEST_RSP, AT_L2_STACK);
		o = nested_do(c, i ? VMRESUME : VMLAUNCH, 0, 0);
		if (!rows[i].exits) {
			/* L2's own handler, which is paging.h's: port 14; then out of L2 by CPUID */
			assert_int_equal(o.port, 14);
			memcpy(c->mem + AT_STUBS + 14 * 16 + 6, "\x0f\xa2", 2);
			o = nested_run(c);
			assert_int_equal(o.port, PORT_EXIT);
			assert_int_equal(nested_vmread(c, VM_EXIT_REASON), EXIT_REASON_CPUID);
			continue;
		}
		assert_int_equal(o.port, PORT_EXIT);
		assert_int_equal(nested_vmread(c, VM_EXIT_REASON), EXIT_REASON_EXCEPTION_NMI);
		assert_int_equal(nested_vmread(c, VM_EXIT_INTR_INFO) & 0xff, 14);
		assert_int_equal(nested_vmread(c, VM_EXIT_INTR_ERROR_CODE), 2);
		assert_int_equal(nested_vmread(c, EXIT_QUALIFICATION), 0x40000000);
	}
}

NESTED_TEST(control_registers_have_an_owner_bit_by_bit, nested_open_l2)
{
	/* mov rax, cr0; xor al, 2 (MP); mov cr0, rax; mov rbx, cr0; cpuid */
	nested_l2_code(c, "\x0f\x20\xc0\x34\x02\x0f\x22\xc0\x0f\x20\xc3\x0f\xa2", 13);
	/* L1 owns MP and shows it set: L2 reads it set, and its change is an exit */
	nested_vmwrite(c, CR0_GUEST_HOST_MASK, 2);
	nested_vmwrite(c, CR0_READ_SHADOW, nested_vmread(c, GUEST_CR0) | 2);
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_CR_ACCESS);
	assert_int_equal(nested_at_exit.rax & 2, 0);
	/* L1 owns nothing: L2 changes it, and L1 finds it changed */
	nested_vmwrite(c, CR0_GUEST_HOST_MASK, 0);
	nested_vmwrite(c, GUEST_RIP, AT_L2);
	assert_int_equal(nested_enter(c, VMRESUME), EXIT_REASON_CPUID);
	assert_int_equal(nested_at_exit.rbx & 2, 2);
	assert_int_equal(nested_vmread(c, GUEST_CR0) & 2, 2);
}

NESTED_TEST(an_injected_event_is_delivered_and_cleared, nested_open_l2)
{
	struct outcome o;

	nested_l2_code(c, "\x90\x0f\xa2", 3);
	nested_vmwrite(c, VM_ENTRY_INTR_INFO_FIELD, 1u << 31 | 3u << 8 | 1u << 11 | 13);
	nested_vmwrite(c, VM_ENTRY_EXCEPTION_ERROR_CODE, 0x1234);
	o = nested_do(c, VMLAUNCH, 0, 0);
	assert_int_equal(o.port, 13);
	assert_int_equal(o.error_code, 0x1234);
	memcpy(c->mem + AT_STUBS + 13 * 16 + 6, "\x0f\xa2", 2);
	assert_int_equal(nested_run(c).port, PORT_EXIT);
	assert_int_equal(nested_vmread(c, VM_ENTRY_INTR_INFO_FIELD), 3u << 8 | 1u << 11 | 13);
}

static bool open_l2_with_irqchip(struct client *c)
{
	bool open;

	nested_irqchip = true;
	open = nested_open_l2(c);
	nested_irqchip = false;
	return open;
}

/* It waits since before the entry; L1 takes external interrupts as exits, with and without their vector. */
NESTED_TEST(an_interrupt_of_l1_is_an_exit_from_l2, open_l2_with_irqchip)
{
	struct kvm_msi msi = {.address_lo = 0xfee00000, .data = 0x51};
	struct kvm_lapic_state l;
	uint32_t spiv = 0x1ff;

	assert_int_equal(ioctl(c->vcpu, KVM_GET_LAPIC, &l), 0);
	memcpy(l.regs + 0xf0, &spiv, sizeof(spiv));
	assert_int_equal(ioctl(c->vcpu, KVM_SET_LAPIC, &l), 0);
	nested_l2_code(c, "\xb9\x00\x00\x10\x00\xe2\xfe\x0f\xa2", 9); /* a while, then CPUID */
	nested_vmwrite(c, PIN_BASED_VM_EXEC_CONTROL, nested_control(c, 13, 1));
	assert_int_equal(ioctl(c->vm, KVM_SIGNAL_MSI, &msi), 1);
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_EXTERNAL_INTERRUPT);
	assert_int_equal(nested_vmread(c, VM_EXIT_INTR_INFO) >> 31, 0);
	nested_vmwrite(c, VM_EXIT_CONTROLS, nested_control(c, 15, EXIT_HOST_64 | 1u << 15));
	assert_int_equal(nested_enter(c, VMRESUME), EXIT_REASON_EXTERNAL_INTERRUPT);
	assert_int_equal(nested_vmread(c, VM_EXIT_INTR_INFO), 1u << 31 | 0x51);
	assert_int_equal(ioctl(c->vcpu, KVM_GET_LAPIC, &l), 0);
	memcpy(&spiv, l.regs + 0x120, sizeof(spiv));
	assert_int_equal(spiv, 1u << 17); /* in service */
	assert_int_equal(nested_enter(c, VMRESUME), EXIT_REASON_CPUID);
}

NESTED_TEST(a_triple_fault_of_l2_is_an_exit_of_l1, nested_open_l2)
{
	nested_l2_code(c, "\x0f\x0b", 2);
	nested_vmwrite(c, GUEST_IDTR_LIMIT, 0);
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_TRIPLE_FAULT);
}

/* --- EPT of L1's (nested_ept.h) --- */

NESTED_TEST(l2_runs_on_ept_of_l1, nested_open_ept)
{
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_CPUID);
	assert_int_equal(nested_at_exit.rbx, 0x1122334455667788);
	assert_int_equal(*(uint64_t *)(c->mem + 0x61000), 0x1122334455667788);
}

NESTED_TEST(ept_maps_l2_addresses_elsewhere, nested_open_ept)
{
	ept_level1(c)[0x60] = 0x70000 | EPT_ALL | EPT_WB;
	*(uint64_t *)(c->mem + 0x70000) = 42;
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_CPUID);
	assert_int_equal(nested_at_exit.rbx, 42);
	ept_change(c, 0x60, 0x71000 | EPT_ALL | EPT_WB);
	*(uint64_t *)(c->mem + 0x71000) = 43;
	*nested_operand(c) = 0;
	nested_vmwrite(c, GUEST_RIP, AT_L2);
	assert_int_equal(nested_enter(c, VMRESUME), EXIT_REASON_CPUID);
	assert_int_equal(nested_at_exit.rbx, 43);
}

NESTED_TEST(what_ept_forbids_is_an_exit_with_the_access_and_the_rights, nested_open_ept)
{
	static const struct {
		unsigned page;
		uint64_t entry;
		uint32_t reason;
		uint64_t qualification, gpa;
	} rows[] = {
		{0x60, 0, EXIT_REASON_EPT_VIOLATION, 0x181, 0x60000},
		{0x61, EPT_R, EXIT_REASON_EPT_VIOLATION, 0x18a, 0x61000},
		{0x61, EPT_R | EPT_X, EXIT_REASON_EPT_VIOLATION, 0x1aa, 0x61000},
		{0x60, EPT_X, EXIT_REASON_EPT_VIOLATION, 0x1a1, 0x60000},
		{0x40, EPT_R | EPT_W, EXIT_REASON_EPT_VIOLATION, 0x19c, 0x40000},
		{0x60, EPT_W, EXIT_REASON_EPT_MISCONFIG, 0, 0x60000},
		{0x60, EPT_W | EPT_X, EXIT_REASON_EPT_MISCONFIG, 0, 0x60000},
		{0x60, EPT_ALL | 2u << 3, EXIT_REASON_EPT_MISCONFIG, 0, 0x60000},
		{0x60, EPT_ALL | 7u << 3, EXIT_REASON_EPT_MISCONFIG, 0, 0x60000},
		{0x60, EPT_ALL | 1ULL << 51, EXIT_REASON_EPT_MISCONFIG, 0, 0x60000},
		/* L2's page table: the access is to translate 0x60000, not to it */
		{0x13, 0, EXIT_REASON_EPT_VIOLATION, 0x081, 0x13000},
	};
	unsigned wrong = 0;

	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		uint64_t reason, q, gpa;

		if (i)
			ept_change(c, rows[i - 1].page, rows[i - 1].page * 4096 | EPT_ALL | EPT_WB);
		ept_change(c, rows[i].page, rows[i].entry ? rows[i].page * 4096 | rows[i].entry |
								   (rows[i].entry & 0x38 ? 0 : EPT_WB) : 0);
		nested_vmwrite(c, GUEST_RIP, AT_L2);
		reason = nested_enter(c, i ? VMRESUME : VMLAUNCH);
		q = nested_vmread(c, EXIT_QUALIFICATION);
		gpa = nested_vmread(c, GUEST_PHYSICAL_ADDRESS);
		if (reason != rows[i].reason || (reason == EXIT_REASON_EPT_VIOLATION && q != rows[i].qualification) ||
		    (gpa & ~0xfffULL) != rows[i].gpa) {
			print_error("row %zu: exit %u, qualification %#x, gpa %#x\n", i, (unsigned)reason, (unsigned)q, (unsigned)gpa);
			wrong++;
		}
	}
	assert_int_equal(wrong, 0);
}

NESTED_TEST(device_memory_of_l1_is_emulated_for_l2, nested_open_ept)
{
	/* L2's page 0x60 is L1's 0x8000000, where no memory is */
	ept_level1(c)[0x60] = 0x8000000 | EPT_ALL | EPT_WB;
	*nested_operand(c) = 0;
	{
		struct kvm_regs r = {.rip = AT_CODE + 32 * VMLAUNCH, .rsp = 0x8000, .rflags = 2};

		assert_int_equal(ioctl(c->vcpu, KVM_SET_REGS, &r), 0);
	}
	assert_run_exits(c, KVM_EXIT_MMIO);
	assert_int_equal(c->run->mmio.phys_addr, 0x8000000);
	assert_int_equal(c->run->mmio.len, 8);
	*(uint64_t *)c->run->mmio.data = 77;
	assert_int_equal(nested_run(c).port, PORT_EXIT);
	assert_int_equal(nested_vmread(c, VM_EXIT_REASON), EXIT_REASON_CPUID);
	assert_int_equal(nested_at_exit.rbx, 77);
}

NESTED_TEST(the_dirty_log_has_pages_that_l2_writes, nested_open_ept)
{
	uint64_t bitmap[16] = {0};
	struct kvm_dirty_log log = {.slot = 0, .dirty_bitmap = bitmap};

	for (int ept = 1; ept >= 0; ept--) {
		nested_vmwrite(c, SECONDARY, ept ? 2 : 0);
		client_slot(c, 0, KVM_MEM_LOG_DIRTY_PAGES, 0, c->mem, c->mem_size);
		assert_int_equal(ioctl(c->vm, KVM_GET_DIRTY_LOG, &log), 0);
		ept_change(c, 0x61, 0x75000 | EPT_ALL | EPT_WB);
		nested_vmwrite(c, GUEST_RIP, AT_L2);
		assert_int_equal(nested_enter(c, ept ? VMLAUNCH : VMRESUME), EXIT_REASON_CPUID);
		assert_int_equal(ioctl(c->vm, KVM_GET_DIRTY_LOG, &log), 0);
		/* the page of L1's, whatever L2 calls it */
		assert_int_equal(bitmap[1] >> (0x75 - 64) & 1, ept);
		assert_int_equal(bitmap[1] >> (0x61 - 64) & 1, !ept);
		client_slot(c, 0, 0, 0, c->mem, c->mem_size);
	}
}

NESTED_TEST(invept_and_invvpid_check_type_and_operand, nested_open_vmcs)
{
	uint64_t *op = nested_operand(c);

	op[0] = AT_EPT | 3u << 3 | 6;
	op[1] = 0;
	assert_succeeds(nested_do(c, INVEPT, 1, AT_TEST));
	assert_succeeds(nested_do(c, INVEPT, 2, AT_TEST));
	assert_vmfail(c, nested_do(c, INVEPT, 0, AT_TEST), 28);
	assert_vmfail(c, nested_do(c, INVEPT, 3, AT_TEST), 28);
	op[0] = AT_EPT | 6; /* walk length 1 */
	assert_vmfail(c, nested_do(c, INVEPT, 1, AT_TEST), 28);
	assert_succeeds(nested_do(c, INVEPT, 2, AT_TEST));
	op[0] = 1;
	op[1] = 0x1000;
	for (uint64_t type = 0; type < 4; type++)
		assert_succeeds(nested_do(c, INVVPID, type, AT_TEST));
	assert_vmfail(c, nested_do(c, INVVPID, 4, AT_TEST), 28);
	op[1] = 1ULL << 63;
	assert_vmfail(c, nested_do(c, INVVPID, 0, AT_TEST), 28);
	op[0] = 0x10001;
	assert_vmfail(c, nested_do(c, INVVPID, 1, AT_TEST), 28);
	op[0] = 0;
	assert_vmfail(c, nested_do(c, INVVPID, 1, AT_TEST), 28);
	assert_vmfail(c, nested_do(c, INVVPID, 3, AT_TEST), 28);
	assert_succeeds(nested_do(c, INVVPID, 2, AT_TEST));
	paging_pte_set(c, PAGING_LONG, AT_TEST, 0);
	assert_raises(nested_do(c, INVEPT, 2, AT_TEST), 14);
	assert_raises(nested_do(c, INVVPID, 2, AT_TEST), 14);
}

/* An L1 that enters again and again without a look at EPT12, or past the access. */
static uint64_t l1_skips;

static void enter_often(struct client *c)
{
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_EPT_VIOLATION);
	for (int i = 0; i < 100; i++) {
		if (l1_skips)
			nested_vmwrite(c, GUEST_RIP, l1_skips);
		assert_int_equal(nested_enter(c, VMRESUME), EXIT_REASON_EPT_VIOLATION);
	}
}

NESTED_TEST(an_l1_whose_handler_does_not_repair_ept_is_told_once, nested_open_ept)
{
	/* mov rax, [0x60000]; jmp back */
	static const uint8_t code[] = {0x48, 0x8b, 0x04, 0x25, 0, 0, 6, 0, 0xeb, 0xf6};
	const char *text, *line;

	if (!getenv("LD_PRELOAD"))
		skip(); /* a kernel's KVM tells nothing */
	ept_level1(c)[0x60] = 0;
	nested_l2_code(c, code, sizeof(code));
	l1_skips = 0;
	text = said(enter_often, c);
	line = strstr(text, "L2 makes the same EPT violation for the 64th time without progress: read of gpa 0x60000 at rip 0x40000 (mov ");
	assert_non_null(line);
	assert_non_null(strstr(line, "L1's handler does not repair it: EPT12 PTE at 0x53300 = 0 is not present"));
	assert_null(strstr(strchr(line, '\n'), "without progress"));
}

NESTED_TEST(an_l1_that_emulates_accesses_is_told_nothing, nested_open_ept)
{
	static const uint8_t code[] = {0x48, 0x8b, 0x04, 0x25, 0, 0, 6, 0, 0xeb, 0xf6};

	ept_level1(c)[0x60] = 0;
	nested_l2_code(c, code, sizeof(code));
	l1_skips = AT_L2 + 8;
	assert_null(strstr(said(enter_often, c), "without progress"));
}

NESTED_TEST(unrestricted_l2_runs_in_real_mode, nested_open_ept)
{
	static const uint8_t real[] = {0xb8, 0x34, 0x12, 0x0f, 0xa2}; /* mov ax, 1234h; cpuid */
	static const uint32_t data[] = {GUEST_SS_SELECTOR, GUEST_DS_SELECTOR, GUEST_ES_SELECTOR, GUEST_FS_SELECTOR, GUEST_GS_SELECTOR};

	if (!(client_msr(c, 0x48b) >> 39 & 1))
		skip(); /* IA32_VMX_PROCBASED_CTLS2 has no unrestricted guest */
	nested_set_bits(c, SECONDARY, 1u << 7);
	nested_vmwrite(c, GUEST_CR0, CR0_NE | 0x10);
	nested_vmwrite(c, GUEST_CR4, CR4_VMXE);
	nested_vmwrite(c, VM_ENTRY_CONTROLS, nested_vmread(c, VM_ENTRY_CONTROLS) & ~(uint64_t)ENTRY_IA32E);
	nested_vmwrite(c, GUEST_CS_SELECTOR, 0x4000);
	nested_vmwrite(c, GUEST_CS_BASE, AT_L2);
	nested_vmwrite(c, GUEST_CS_LIMIT, 0xffff);
	nested_vmwrite(c, GUEST_CS_AR_BYTES, 0x9b);
	for (int i = 0; i < 5; i++) {
		static const uint32_t ar[] = {GUEST_SS_AR_BYTES, GUEST_DS_AR_BYTES, GUEST_ES_AR_BYTES, GUEST_FS_AR_BYTES, GUEST_GS_AR_BYTES};
		static const uint32_t limit[] = {GUEST_SS_LIMIT, GUEST_DS_LIMIT, GUEST_ES_LIMIT, GUEST_FS_LIMIT, GUEST_GS_LIMIT};

		nested_vmwrite(c, data[i], 0);
		nested_vmwrite(c, ar[i], 0x93);
		nested_vmwrite(c, limit[i], 0xffff);
	}
	nested_vmwrite(c, GUEST_RIP, 0);
	nested_l2_code(c, real, sizeof(real));
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_CPUID);
	assert_int_equal(nested_at_exit.rax & 0xffff, 0x1234);
}

/* --- what the emulator runs for L2 --- */

/* L2's page 0x60 is a device of L1's. The instruction at AT_L2 has been put there. */
static bool open_device(struct client *c)
{
	if (!nested_open_ept(c))
		return false;
	ept_level1(c)[0x60] = 0x8000000 | EPT_ALL | EPT_WB;
	return true;
}

static void launch(struct client *c, enum snippet how)
{
	struct kvm_regs r = {.rip = AT_CODE + 32 * (uint64_t)how, .rsp = 0x8000, .rflags = 2};

	assert_int_equal(ioctl(c->vcpu, KVM_SET_REGS, &r), 0);
}

/* LMSW of what the device has: bit 3 (TS), which is L1's or not. */
NESTED_TEST(lmsw_of_device_memory_is_l1s_where_the_mask_has_the_bit, open_device)
{
	if (!on_userkvm())
		skip(); /* Linux 6.1 emulates no LMSW for an L2 */
	nested_l2_code(c, "\x0f\x01\x34\x25\x00\x00\x06\x00\x0f\xa2", 10);
	nested_vmwrite(c, CR0_GUEST_HOST_MASK, 8);
	nested_vmwrite(c, CR0_READ_SHADOW, nested_vmread(c, GUEST_CR0));
	launch(c, VMLAUNCH);
	assert_run_exits(c, KVM_EXIT_MMIO);
	*(uint64_t *)c->run->mmio.data = 9;
	assert_int_equal(nested_run(c).port, PORT_EXIT);
	assert_int_equal(nested_vmread(c, VM_EXIT_REASON), EXIT_REASON_CR_ACCESS);
	assert_int_equal(nested_vmread(c, EXIT_QUALIFICATION), 3u << 4 | 1u << 6 | 9u << 16);
	assert_int_equal(nested_vmread(c, GUEST_RIP), AT_L2);
	/* and L2's own, where it has not */
	nested_vmwrite(c, CR0_GUEST_HOST_MASK, 0);
	launch(c, VMRESUME);
	assert_run_exits(c, KVM_EXIT_MMIO);
	*(uint64_t *)c->run->mmio.data = 9;
	assert_int_equal(nested_run(c).port, PORT_EXIT);
	assert_int_equal(nested_vmread(c, VM_EXIT_REASON), EXIT_REASON_CPUID);
	assert_int_equal(nested_vmread(c, GUEST_CR0) & 8, 8);
}

/* SGDT into a device: by the control L1's, else emulated. */
NESTED_TEST(sgdt_into_device_memory_is_l1s_by_its_control, open_device)
{
	if (!on_userkvm())
		skip(); /* Linux 6.1 tries it again for ever */
	nested_l2_code(c, "\x0f\x01\x04\x25\x00\x00\x06\x00\x0f\xa2", 10);
	launch(c, VMLAUNCH);
	assert_run_exits(c, KVM_EXIT_MMIO);
	while (c->run->exit_reason == KVM_EXIT_MMIO)
		assert_int_equal(ioctl(c->vcpu, KVM_RUN, 0), 0);
	assert_int_equal(nested_vmread(c, VM_EXIT_REASON), EXIT_REASON_CPUID);
	nested_set_bits(c, SECONDARY, 1u << 2);
	nested_vmwrite(c, GUEST_RIP, AT_L2);
	assert_int_equal(nested_enter(c, VMRESUME), EXIT_REASON_GDTR_IDTR);
}

/* Without a TPR shadow each access to the page is an exit, and the page is not touched. */
NESTED_TEST(the_apic_access_page_is_never_touched, nested_open_ept)
{
	nested_set_bits(c, SECONDARY, 1);
	nested_vmwrite(c, APIC_ACCESS_ADDR, 0x61000);
	*(uint64_t *)(c->mem + 0x61000) = 0;
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_APIC_ACCESS);
	assert_int_equal(nested_vmread(c, EXIT_QUALIFICATION), 1u << 12); /* a write at offset 0 */
	assert_int_equal(*(uint64_t *)(c->mem + 0x61000), 0);
	/* another page: found by EPT's end, not by L2's address */
	ept_change(c, 0x60, 0x73000 | EPT_ALL | EPT_WB);
	nested_vmwrite(c, APIC_ACCESS_ADDR, 0x73000);
	nested_vmwrite(c, GUEST_RIP, AT_L2);
	assert_int_equal(nested_enter(c, VMRESUME), EXIT_REASON_APIC_ACCESS);
	assert_int_equal(nested_vmread(c, EXIT_QUALIFICATION), 0);
	nested_vmwrite(c, SECONDARY, nested_vmread(c, SECONDARY) & ~1ULL);
	assert_int_equal(nested_enter(c, VMRESUME), EXIT_REASON_CPUID);
	/* no memory there: the client hears of it */
	nested_set_bits(c, SECONDARY, 1);
	nested_vmwrite(c, APIC_ACCESS_ADDR, 0x8000000);
	launch(c, VMRESUME);
	assert_run_exits(c, KVM_EXIT_INTERNAL_ERROR);
	assert_int_equal(c->run->internal.suberror, KVM_INTERNAL_ERROR_EMULATION);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_instruction_exits_to_whom_the_controls_say),
		cmocka_unit_test(io_bitmaps_are_asked_for_each_byte),
		cmocka_unit_test(exceptions_exit_by_the_bitmap_and_page_faults_by_mask_and_match),
		cmocka_unit_test(control_registers_have_an_owner_bit_by_bit),
		cmocka_unit_test(an_injected_event_is_delivered_and_cleared),
		cmocka_unit_test(an_interrupt_of_l1_is_an_exit_from_l2),
		cmocka_unit_test(a_triple_fault_of_l2_is_an_exit_of_l1),
		cmocka_unit_test(l2_runs_on_ept_of_l1),
		cmocka_unit_test(ept_maps_l2_addresses_elsewhere),
		cmocka_unit_test(what_ept_forbids_is_an_exit_with_the_access_and_the_rights),
		cmocka_unit_test(device_memory_of_l1_is_emulated_for_l2),
		cmocka_unit_test(the_dirty_log_has_pages_that_l2_writes),
		cmocka_unit_test(invept_and_invvpid_check_type_and_operand),
		cmocka_unit_test(an_l1_whose_handler_does_not_repair_ept_is_told_once),
		cmocka_unit_test(an_l1_that_emulates_accesses_is_told_nothing),
		cmocka_unit_test(unrestricted_l2_runs_in_real_mode),
		cmocka_unit_test(lmsw_of_device_memory_is_l1s_where_the_mask_has_the_bit),
		cmocka_unit_test(the_apic_access_page_is_never_touched),
		cmocka_unit_test(sgdt_into_device_memory_is_l1s_by_its_control),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
