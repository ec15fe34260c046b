/*
 * Descriptor tables in a read-only slot, as firmware has them in its ROM (U-Boot
 * its TSS): the accessed and busy flags that the processor would set are writes of
 * 8 bytes that the client sees, and the instruction that loads the segment goes on.
 */
#include "guest_code.h"
#include "paging.h"

#define ROM 0x100000u
#define AT_LDT (ROM + 0x800)
#define AT_TARGET (AT_CODE + 0x100)
#define ROM_SIZE 0x2000

/* Selectors; those without a comment have been accessed. */
enum {
	CODE0 = 0x08, DATA0 = 0x10, CODE3 = 0x18, DATA3 = 0x20,
	NEW_DATA0 = 0x28, NEW_CODE0 = 0x30, NEW_DATA3 = 0x38, /* not accessed yet */
	NEW_TSS = 0x40, LDT = 0x50, NEW_CODE3 = 0x60,
	GATE = 0x68, /* for CALLs from level 3 to NEW_CODE0 */
	NEW_IN_LDT = 0x0c,
};

struct rom {
	struct client c;
	uint8_t *rom;
	enum paging p;
};

static uint64_t code_descriptor(enum paging p, unsigned dpl, bool accessed)
{
	return (p == PAGING_LONG ? 0x00af9a000000ffff : 0x00cf9a000000ffff) | (uint64_t)dpl << 45 | (uint64_t)accessed << 40;
}

static uint64_t data_descriptor(unsigned dpl, bool accessed)
{
	return 0x00cf92000000ffff | (uint64_t)dpl << 45 | (uint64_t)accessed << 40;
}

static void fill_rom(struct rom *r)
{
	uint64_t *gdt = (uint64_t *)r->rom, *ldt = (uint64_t *)(r->rom + AT_LDT - ROM);

	gdt[CODE0 / 8] = code_descriptor(r->p, 0, true);
	gdt[DATA0 / 8] = data_descriptor(0, true);
	gdt[CODE3 / 8] = code_descriptor(r->p, 3, true);
	gdt[DATA3 / 8] = data_descriptor(3, true);
	gdt[NEW_DATA0 / 8] = data_descriptor(0, false);
	gdt[NEW_CODE0 / 8] = code_descriptor(r->p, 0, false);
	gdt[NEW_DATA3 / 8] = data_descriptor(3, false);
	gdt[NEW_TSS / 8] = 0x0000890000000000 | AT_TSS << 16 | 0x67;
	gdt[LDT / 8] = 0x0000820000000000 | (uint64_t)(AT_LDT & 0xffffff) << 16 | 0xf;
	gdt[NEW_CODE3 / 8] = code_descriptor(r->p, 3, false);
	gdt[GATE / 8] = 0x0000ec0000000000 | NEW_CODE0 << 16 | AT_TARGET;
	ldt[NEW_IN_LDT / 8] = data_descriptor(0, false);
}

static void rom_open(struct rom *r, enum paging p, unsigned cpl)
{
	struct kvm_sregs s;

	r->p = p;
	client_open_vm(&r->c, 1 << 20);
	client_add_vcpu(&r->c);
	r->rom = mmap(NULL, ROM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(r->rom != MAP_FAILED);
	client_slot(&r->c, 1, KVM_MEM_READONLY, ROM, r->rom, ROM_SIZE);
	fill_rom(r);
	paging_start(&r->c, p, cpl, 0, 0, 0);
	/* the processor's own accesses are a supervisor's at any CPL */
	paging_pte_set(&r->c, p, ROM, ROM | PG_P | PG_RW);
	assert_int_equal(ioctl(r->c.vcpu, KVM_GET_SREGS, &s), 0);
	s.gdt.base = ROM;
	s.gdt.limit = 0x77;
	s.ldt = (struct kvm_segment){.unusable = 1};
	assert_int_equal(ioctl(r->c.vcpu, KVM_SET_SREGS, &s), 0);
}

static void rom_close(struct rom *r)
{
	client_close(&r->c);
	munmap(r->rom, ROM_SIZE);
}

static void rom_code(struct rom *r, const uint8_t *code, size_t n)
{
	memcpy(r->c.mem + AT_CODE, code, n);
	memcpy(r->c.mem + AT_TARGET, "\xe6\x99", 2); /* out %al, $0x99 */
}

/* `name` and its form for 64-bit mode. */
#define ROM_CODE(r, name)                                                \
	do {                                                             \
		if ((r)->p == PAGING_LONG)                               \
			rom_code(r, name##_64, GUEST_CODE_SIZE(name##_64)); \
		else                                                     \
			rom_code(r, name, GUEST_CODE_SIZE(name));        \
	} while (0)

/* The next exit is the write of the descriptor at `gpa`, with `bit` of its type set. */
static void expect_flag(struct rom *r, uint64_t gpa, unsigned bit)
{
	uint64_t was = *(uint64_t *)(r->rom + gpa - ROM), data;

	assert_run_exits(&r->c, KVM_EXIT_MMIO);
	assert_int_equal(r->c.run->mmio.phys_addr, gpa);
	assert_int_equal(r->c.run->mmio.len, 8);
	assert_int_equal(r->c.run->mmio.is_write, 1);
	memcpy(&data, r->c.run->mmio.data, 8);
	assert_int_equal(data, was | (uint64_t)bit << 40);
}

static struct kvm_sregs end_of_code(struct rom *r)
{
	struct kvm_sregs s;

	assert_int_equal(client_next_out(&r->c), 0x99);
	assert_int_equal(ioctl(r->c.vcpu, KVM_GET_SREGS, &s), 0);
	return s;
}

static void assert_segment(const struct kvm_segment *s, uint16_t selector, uint8_t type)
{
	assert_int_equal(s->selector, selector);
	assert_int_equal(s->type, type);
	assert_int_equal(s->present, 1);
	assert_int_equal(s->unusable, 0);
}

#define OUT "\nout %al, $0x99"
GUEST_CODE(mov_ds, 32, "mov $0x28, %eax; mov %eax, %ds" OUT);
GUEST_CODE(mov_ds_64, 64, "mov $0x28, %eax; mov %eax, %ds" OUT);
GUEST_CODE(mov_ds_user, 32, "mov $0x3b, %eax; mov %eax, %ds" OUT);
GUEST_CODE(mov_ds_user_64, 64, "mov $0x3b, %eax; mov %eax, %ds" OUT);
GUEST_CODE(mov_ss, 32, "mov $0x28, %eax; mov %eax, %ss; push %eax; pop %ecx" OUT);
GUEST_CODE(mov_ss_64, 64, "mov $0x28, %eax; mov %eax, %ss; push %rax; pop %rcx" OUT);
GUEST_CODE(pop_es, 32, "push $0x28; pop %es" OUT);
GUEST_CODE(pop_fs_64, 64, "push $0x28; pop %fs" OUT);
GUEST_CODE(lfs, 32, "lfs (%esi), %ecx" OUT);
GUEST_CODE(lss_64, 64, ".byte 0x48, 0x0f, 0xb2, 0x0e" OUT); /* lss (%rsi), %rcx */

struct load {
	const uint8_t *code, *end;
	enum paging p;
	unsigned cpl;
	uint16_t selector;
	size_t segment; /* in struct kvm_sregs */
};
#define LOAD(code, ...) {code, code##_end, __VA_ARGS__}
#define IN(field) offsetof(struct kvm_sregs, field)

static void segment_loads_set_the_accessed_flag(void **state)
{
	static const struct load loads[] = {
		LOAD(mov_ds, PAGING_32, 0, NEW_DATA0, IN(ds)),
		LOAD(mov_ds, PAGING_PAE, 0, NEW_DATA0, IN(ds)),
		LOAD(mov_ds, PAGING_COMPAT, 0, NEW_DATA0, IN(ds)),
		LOAD(mov_ds_64, PAGING_LONG, 0, NEW_DATA0, IN(ds)),
		LOAD(mov_ds_user, PAGING_PAE, 3, NEW_DATA3 | 3, IN(ds)),
		LOAD(mov_ds_user_64, PAGING_LONG, 3, NEW_DATA3 | 3, IN(ds)),
		LOAD(mov_ss, PAGING_PAE, 0, NEW_DATA0, IN(ss)),
		LOAD(mov_ss_64, PAGING_LONG, 0, NEW_DATA0, IN(ss)),
		LOAD(pop_es, PAGING_PAE, 0, NEW_DATA0, IN(es)),
		LOAD(pop_fs_64, PAGING_LONG, 0, NEW_DATA0, IN(fs)),
		LOAD(lfs, PAGING_PAE, 0, NEW_DATA0, IN(fs)),
		LOAD(lss_64, PAGING_LONG, 0, NEW_DATA0, IN(ss)),
	};

	for (size_t n = 0; n < sizeof(loads) / sizeof(loads[0]); n++) {
		const struct load *l = &loads[n];
		struct kvm_sregs s;
		struct rom r;

		rom_open(&r, l->p, l->cpl);
		rom_code(&r, l->code, (size_t)(l->end - l->code));
		/* a far pointer, for those that take one; REX.W ones have it eight bytes on */
		memcpy(r.c.mem + AT_TEST, "\x78\x56\x34\x12\x28\0\0\0\x28\0", 10);
		expect_flag(&r, ROM + (l->selector & ~7u), 1);
		s = end_of_code(&r);
		assert_segment((struct kvm_segment *)((char *)&s + l->segment), l->selector, 3);
		assert_int_equal(client_regs(&r.c).rsp, 0x8000);
		if (l->code == lfs)
			assert_int_equal(client_regs(&r.c).rcx, 0x12345678);
		if (l->code == lss_64)
			assert_int_equal(client_regs(&r.c).rcx, 0x2812345678);
		rom_close(&r);
	}
}

GUEST_CODE(jmp_far, 32, "ljmp *(%esi)");
GUEST_CODE(jmp_far_64, 64, "rex.w ljmp *(%rsi)");
GUEST_CODE(ret_far, 32, "push $0x30; push $0x1100; lret");
GUEST_CODE(ret_far_64, 64, "push $0x30; push $0x1100; lretq");
GUEST_CODE(jmp_far_user, 32, "ljmp *8(%esi)");

static void far_transfers_set_the_accessed_flag(void **state)
{
	static const struct load transfers[] = {
		LOAD(jmp_far, PAGING_PAE, 0, NEW_CODE0, 0), LOAD(jmp_far, PAGING_COMPAT, 0, NEW_CODE0, 0),
		LOAD(jmp_far_64, PAGING_LONG, 0, NEW_CODE0, 0), LOAD(ret_far, PAGING_32, 0, NEW_CODE0, 0),
		LOAD(ret_far_64, PAGING_LONG, 0, NEW_CODE0, 0), LOAD(jmp_far_user, PAGING_PAE, 3, NEW_CODE3 | 3, 0),
	};

	for (size_t n = 0; n < sizeof(transfers) / sizeof(transfers[0]); n++) {
		const struct load *l = &transfers[n];
		struct kvm_sregs s;
		struct rom r;

		rom_open(&r, l->p, l->cpl);
		rom_code(&r, l->code, (size_t)(l->end - l->code));
		if (l->p == PAGING_LONG)
			memcpy(r.c.mem + AT_TEST, "\0\x11\0\0\0\0\0\0\x30\0", 10);
		else
			memcpy(r.c.mem + AT_TEST, "\0\x11\0\0\x30\0\0\0\0\x11\0\0\x60\0", 14); /* RPL becomes CPL */
		expect_flag(&r, ROM + (l->selector & ~7u), 1);
		s = end_of_code(&r);
		assert_segment(&s.cs, l->selector, 11);
		assert_int_equal(s.cs.l, l->p == PAGING_LONG);
		assert_int_equal(client_regs(&r.c).rip & ~3ull, AT_TARGET);
		assert_int_equal(client_regs(&r.c).rsp, 0x8000);
		rom_close(&r);
	}
}

GUEST_CODE(call_far, 32, "lcall *(%esi); mov %cs, %ecx" OUT);
GUEST_CODE(call_far_64, 64, "rex.w lcall *(%rsi); mov %cs, %ecx" OUT);

static void far_call_returns(void **state)
{
	for (int wide = 0; wide < 2; wide++) {
		struct rom r;

		rom_open(&r, wide ? PAGING_LONG : PAGING_PAE, 0);
		ROM_CODE(&r, call_far);
		memcpy(r.c.mem + AT_TARGET, "\x48\xcb", 2); /* REX.W, or DEC EAX; RETF */
		memcpy(r.c.mem + AT_TEST, wide ? "\0\x11\0\0\0\0\0\0\x30\0" : "\0\x11\0\0\x30\0\0\0\0\0", 10);
		expect_flag(&r, ROM + NEW_CODE0, 1);
		end_of_code(&r);
		assert_int_equal(client_regs(&r.c).rcx, CODE0);
		assert_int_equal(client_regs(&r.c).rsp, 0x8000);
		rom_close(&r);
	}
}

GUEST_CODE(ret_outer, 32, "push $0x23; push $0x8800; push $0x63; push $0x1100; lret");
GUEST_CODE(ret_outer_64, 64, "push $0x23; push $0x8800; push $0x63; push $0x1100; lretq");

static void return_to_an_outer_level(void **state)
{
	for (int wide = 0; wide < 2; wide++) {
		struct kvm_sregs s;
		struct rom r;

		rom_open(&r, wide ? PAGING_LONG : PAGING_PAE, 0);
		ROM_CODE(&r, ret_outer);
		expect_flag(&r, ROM + NEW_CODE3, 1);
		s = end_of_code(&r);
		assert_segment(&s.cs, NEW_CODE3 | 3, 11);
		assert_segment(&s.ss, DATA3 | 3, 3);
		assert_int_equal(s.ss.dpl, 3);
		assert_int_equal(s.ds.unusable, 1); /* it was of level 0 */
		assert_int_equal(client_regs(&r.c).rsp, 0x8800);
		rom_close(&r);
	}
}

GUEST_CODE(through_gate, 32, "lcall *(%esi)");
GUEST_CODE(through_gate_64, 64, "rex.w lcall *(%rsi)");

static void call_through_a_gate_to_an_inner_level(void **state)
{
	for (int wide = 0; wide < 2; wide++) {
		unsigned size = wide ? 8 : 4;
		uint64_t frame[4] = {0};
		struct kvm_sregs s;
		struct rom r;

		rom_open(&r, wide ? PAGING_LONG : PAGING_PAE, 3);
		ROM_CODE(&r, through_gate);
		memcpy(r.c.mem + AT_TEST + size, "\x68\0", 2);
		expect_flag(&r, ROM + NEW_CODE0, 1);
		s = end_of_code(&r);
		assert_segment(&s.cs, NEW_CODE0, 11);
		assert_int_equal(s.ss.dpl, 0);
		assert_int_equal(s.ss.selector, wide ? 0 : DATA0);
		assert_int_equal(client_regs(&r.c).rsp, 0x9000 - 4 * size);
		for (unsigned n = 0; n < 4; n++)
			memcpy(&frame[n], r.c.mem + 0x9000 - (4 - n) * size, size);
		assert_int_equal(frame[0], AT_CODE + (wide ? 3 : 2));
		assert_int_equal(frame[1], CODE3 | 3);
		assert_int_equal(frame[2], 0x8000);
		assert_int_equal(frame[3], DATA3 | 3);
		rom_close(&r);
	}
}

GUEST_CODE(load_tr, 32, "mov $0x40, %eax; ltr %ax; str %ecx" OUT);
GUEST_CODE(load_tr_64, 64, "mov $0x40, %eax; ltr %ax; str %ecx" OUT);

static void ltr_sets_the_busy_flag(void **state)
{
	for (enum paging p = PAGING_32; p <= PAGING_COMPAT; p++) {
		struct kvm_sregs s;
		struct rom r;

		rom_open(&r, p, 0);
		ROM_CODE(&r, load_tr);
		if (p == PAGING_LONG) /* the upper half of the base */
			((uint32_t *)r.rom)[NEW_TSS / 4 + 2] = 0xffff8000;
		expect_flag(&r, ROM + NEW_TSS, 2);
		s = end_of_code(&r);
		assert_segment(&s.tr, NEW_TSS, 11);
		assert_int_equal(s.tr.base, p == PAGING_LONG ? 0xffff800000000000 | AT_TSS : AT_TSS);
		assert_int_equal(s.tr.limit, 0x67);
		assert_int_equal(client_regs(&r.c).rcx, NEW_TSS);
		rom_close(&r);
	}
}

GUEST_CODE(from_ldt, 32, "mov $0x50, %eax; lldt %ax; mov $0x0c, %eax; mov %eax, %gs" OUT);
GUEST_CODE(from_ldt_64, 64, "mov $0x50, %eax; lldt %ax; mov $0x0c, %eax; mov %eax, %gs" OUT);

static void segments_of_an_ldt_set_the_accessed_flag(void **state)
{
	for (int wide = 0; wide < 2; wide++) {
		struct kvm_sregs s;
		struct rom r;

		rom_open(&r, wide ? PAGING_LONG : PAGING_PAE, 0);
		ROM_CODE(&r, from_ldt);
		expect_flag(&r, AT_LDT + (NEW_IN_LDT & ~7u), 1);
		s = end_of_code(&r);
		assert_segment(&s.gs, NEW_IN_LDT, 3);
		assert_segment(&s.ldt, LDT, 2);
		rom_close(&r);
	}
}

/* What is stored there is the client's to see, too. */
GUEST_CODE(store_tables, 32, "mov $0x101000, %esi; sgdt (%esi); sldt (%esi); str (%esi); mov %ds, (%esi)" OUT);
GUEST_CODE(store_tables_64, 64, "mov $0x101000, %esi; sgdt (%rsi); sldt (%rsi); str (%rsi); mov %ds, (%rsi)" OUT);

static void expect_store(struct rom *r, uint64_t gpa, const void *data, uint32_t len)
{
	assert_run_exits(&r->c, KVM_EXIT_MMIO);
	assert_int_equal(r->c.run->mmio.phys_addr, gpa);
	assert_int_equal(r->c.run->mmio.len, len);
	assert_int_equal(r->c.run->mmio.is_write, 1);
	assert_memory_equal(r->c.run->mmio.data, data, len);
}

static void tables_and_selectors_are_stored(void **state)
{
	for (int wide = 0; wide < 2; wide++) {
		struct rom r;

		rom_open(&r, wide ? PAGING_LONG : PAGING_PAE, 0);
		ROM_CODE(&r, store_tables);
		expect_store(&r, ROM + 0x1000, "\x77\0\0\0\x10\0\0\0", wide ? 8 : 6);
		if (wide)
			expect_store(&r, ROM + 0x1008, "\0\0", 2);
		expect_store(&r, ROM + 0x1000, "\0\0", 2);
		expect_store(&r, ROM + 0x1000, "\x28\0", 2);
		expect_store(&r, ROM + 0x1000, "\x10\0", 2);
		end_of_code(&r);
		rom_close(&r);
	}
}

/* Faults of a load come before its write: the processor's, and those of the emulator's second look. */
GUEST_CODE(bad_stack, 32, "mov $0x38, %eax; mov %eax, %ss" OUT);

static void a_load_that_faults_writes_nothing(void **state)
{
	struct rom r;

	rom_open(&r, PAGING_PAE, 0);
	rom_code(&r, bad_stack, GUEST_CODE_SIZE(bad_stack)); /* DPL 3 */
	assert_int_equal(client_next_out(&r.c), 13);
	assert_int_equal(client_regs(&r.c).rdx, NEW_DATA3);
	rom_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(segment_loads_set_the_accessed_flag),
		cmocka_unit_test(far_transfers_set_the_accessed_flag),
		cmocka_unit_test(far_call_returns),
		cmocka_unit_test(return_to_an_outer_level),
		cmocka_unit_test(call_through_a_gate_to_an_inner_level),
		cmocka_unit_test(ltr_sets_the_busy_flag),
		cmocka_unit_test(segments_of_an_ldt_set_the_accessed_flag),
		cmocka_unit_test(tables_and_selectors_are_stored),
		cmocka_unit_test(a_load_that_faults_writes_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
