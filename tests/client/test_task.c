/*
 * Task switches of both TSS formats: by JMP, CALL and IRET, through task gates
 * in the GDT and the IDT, into virtual-8086 mode, and the faults on the way.
 *
 * TSS A (28h, of the code at 1000h) at 5000h, TSS B (30h) at 5100h, a 16-bit
 * TSS (38h) at 5200h, a task gate to B at 40h, B's code at 2000h, B's stack at
 * 7000h. Interrupt 50h and #NP (11) are task gates to B.
 */
#include "guest_code.h"
#include "paging.h"

struct tss32 {
	uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags;
	uint32_t eax, ecx, edx, ebx, esp, ebp, esi, edi;
	uint32_t es, cs, ss, ds, fs, gs, ldt;
	uint16_t t, io_map;
};

struct tss16 {
	uint16_t link, sp0, ss0, sp1, ss1, sp2, ss2, ip, flags;
	uint16_t ax, cx, dx, bx, sp, bp, si, di;
	uint16_t es, cs, ss, ds, ldt;
};

#define NT 0x4000u
#define BUSY 2

struct tasks {
	struct client c;
	struct tss32 *a, *b;
	struct tss16 *old;
	uint64_t *gdt;
};

static uint64_t tss_descriptor(uint32_t base, uint32_t limit, unsigned type)
{
	return (uint64_t)base << 16 | limit | (uint64_t)(0x80 | type) << 40;
}

static unsigned type_of(uint64_t descriptor)
{
	return (unsigned)(descriptor >> 40) & 15;
}

static void open_tasks(struct tasks *t, const uint8_t *code_a, size_t n_a, const uint8_t *code_b, size_t n_b)
{
	struct client *c = &t->c;
	struct kvm_sregs s;

	client_open_vm(c, 2 << 20);
	client_add_vcpu(c);
	paging_start(c, PAGING_32, 0, 0, 0, 0);
	memcpy(c->mem + AT_CODE, code_a, n_a);
	memcpy(c->mem + 0x2000, code_b, n_b);
	t->gdt = (uint64_t *)(c->mem + AT_GDT);
	t->a = (struct tss32 *)(c->mem + AT_TSS);
	t->b = (struct tss32 *)(c->mem + 0x5100);
	t->old = (struct tss16 *)(c->mem + 0x5200);
	t->gdt[5] = tss_descriptor(AT_TSS, 0x67, 11);
	t->gdt[6] = tss_descriptor(0x5100, 0x67, 9);
	t->gdt[7] = tss_descriptor(0x5200, 0x2b, 1);
	t->gdt[8] = 0x0000850000300000; /* task gate to 30h */
	((uint64_t *)(c->mem + AT_IDT))[0x50] = 0x0000e50000300000;
	((uint64_t *)(c->mem + AT_IDT))[11] = 0x0000e50000300000;
	t->a->cr3 = 0x12000;
	*t->b = (struct tss32){.cr3 = 0x12000, .eip = 0x2000, .eflags = 0x3002, .eax = 1, .ecx = 2, .edx = 3, .ebx = 4,
			       .esp = 0x7000, .ebp = 5, .esi = 6, .edi = 7, .es = 0x10, .cs = 8, .ss = 0x10, .ds = 0x10,
			       .fs = 0x10, .gs = 0, .io_map = 0x68};
	*t->old = (struct tss16){.ip = 0x2000, .flags = 2, .ax = 0x1111, .sp = 0x7000, .es = 0x10, .cs = 8, .ss = 0x10, .ds = 0x10};
	assert_int_equal(ioctl(c->vcpu, KVM_GET_SREGS, &s), 0);
	s.gdt.limit = 9 * 8 - 1;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_SREGS, &s), 0);
}
#define OPEN_TASKS(t, a, b) open_tasks(t, a, GUEST_CODE_SIZE(a), b, GUEST_CODE_SIZE(b))

GUEST_CODE(jump_b, 32, "movl $0x77, %ebp; ljmp $0x30, $0; outb %al, $0x60; hlt");
GUEST_CODE(jump_a, 32, "outb %al, $0x61; ljmp $0x28, $0");

static void jump_switches_and_jumping_back_resumes(void **state)
{
	struct tasks t;
	struct kvm_regs r;
	struct kvm_sregs s;

	OPEN_TASKS(&t, jump_b, jump_a);
	assert_int_equal(client_next_out(&t.c), 0x61);
	r = client_regs(&t.c);
	assert_int_equal(r.rax, 1);
	assert_int_equal(r.rcx, 2);
	assert_int_equal(r.rdx, 3);
	assert_int_equal(r.rbx, 4);
	assert_int_equal(r.rsp, 0x7000);
	assert_int_equal(r.rbp, 5);
	assert_int_equal(r.rsi, 6);
	assert_int_equal(r.rdi, 7);
	assert_false(r.rflags & NT);
	assert_int_equal(ioctl(t.c.vcpu, KVM_GET_SREGS, &s), 0);
	assert_int_equal(s.tr.selector, 0x30);
	assert_int_equal(s.tr.base, 0x5100);
	assert_true(s.cr0 & 8); /* TS */
	assert_true(s.gs.unusable);
	assert_int_equal(type_of(t.gdt[5]), 9);
	assert_int_equal(type_of(t.gdt[6]), 11);
	assert_int_equal(t.a->ebp, 0x77);
	assert_int_equal(t.a->eip, AT_CODE + 12);
	assert_int_equal(t.a->esp, 0x8000);
	assert_int_equal(t.a->cs, 8);
	assert_int_equal(client_next_out(&t.c), 0x60);
	r = client_regs(&t.c);
	assert_int_equal(r.rbp, 0x77);
	assert_int_equal(r.rsp, 0x8000);
	assert_int_equal(type_of(t.gdt[5]), 11);
	assert_int_equal(type_of(t.gdt[6]), 9);
	assert_int_equal(t.b->eip, 0x2000 + GUEST_CODE_SIZE(jump_a));
	client_close(&t.c);
}

GUEST_CODE(call_b, 32, "lcall $0x30, $0; outb %al, $0x60");
GUEST_CODE(call_gate_b, 32, "lcall $0x40, $0; outb %al, $0x60");
GUEST_CODE(int_b, 32, "int $0x50; outb %al, $0x60");
GUEST_CODE(iret_a, 32, "outb %al, $0x61; iretl; outb %al, $0x62; iretl");

static void call_gate_and_interrupt_nest_and_iret_returns(void **state)
{
	static const struct {
		const uint8_t *code;
		size_t n;
	} rows[] = {{call_b, 9}, {call_gate_b, 9}, {int_b, 4}};

	for (size_t i = 0; i < 3; i++) {
		struct tasks t;
		struct kvm_regs r;
		struct kvm_sregs s;

		open_tasks(&t, rows[i].code, rows[i].n, iret_a, GUEST_CODE_SIZE(iret_a));
		assert_int_equal(client_next_out(&t.c), 0x61);
		r = client_regs(&t.c);
		assert_true(r.rflags & NT);
		assert_int_equal(t.b->link, 0x28);
		assert_int_equal(type_of(t.gdt[5]), 11);
		assert_int_equal(type_of(t.gdt[6]), 11);
		assert_int_equal(t.a->eip, AT_CODE + rows[i].n - 2);
		assert_int_equal(client_next_out(&t.c), 0x60);
		assert_int_equal(type_of(t.gdt[5]), 11);
		assert_int_equal(type_of(t.gdt[6]), 9);
		assert_false(t.b->eflags & NT);
		assert_int_equal(t.b->eip, 0x2000 + 3);
		assert_int_equal(ioctl(t.c.vcpu, KVM_GET_SREGS, &s), 0);
		assert_int_equal(s.tr.selector, 0x28);
		client_close(&t.c);
	}
}

GUEST_CODE(absent_es, 32, "movl $0x20, %eax; movl %eax, %es; outb %al, $0x60");
GUEST_CODE(fault_b, 32, "popl %ecx; outb %al, $0x61; iretl");

static void fault_through_a_task_gate_pushes_its_error_code_on_the_new_stack(void **state)
{
	struct tasks t;

	OPEN_TASKS(&t, absent_es, fault_b);
	t.gdt[4] = 0x00cf13000000ffff; /* not present */
	assert_int_equal(client_next_out(&t.c), 0x61);
	assert_int_equal(client_regs(&t.c).rcx, 0x20);
	assert_int_equal(client_regs(&t.c).rsp, 0x7000);
	assert_int_equal(t.a->eip, AT_CODE + 5); /* the instruction at fault */
	t.gdt[4] = 0x00cf93000000ffff;
	assert_int_equal(client_next_out(&t.c), 0x60); /* ran again, well */
	client_close(&t.c);
}

/* SDM Vol. 3, "Error Code": pushed as any push is, within the limit of the new task's stack; it runs at level 3 here. */
static void an_error_code_beyond_the_new_stacks_limit_is_a_stack_fault(void **state)
{
	struct kvm_sregs s;
	struct tasks t;

	OPEN_TASKS(&t, absent_es, fault_b);
	assert_int_equal(ioctl(t.c.vcpu, KVM_GET_SREGS, &s), 0);
	s.gdt.limit = 10 * 8 - 1;
	assert_int_equal(ioctl(t.c.vcpu, KVM_SET_SREGS, &s), 0);
	t.gdt[4] = 0x00cf13000000ffff;
	t.gdt[9] = 0x0040f30000006fff; /* of level 3, up to 6fffh */
	t.b->cs = 0x1b;
	t.b->ss = 0x4b;
	t.b->es = t.b->ds = t.b->fs = 0;
	t.b->esp = 0x7001; /* the last of the four bytes would be at 7000h */
	t.b->esp0 = 0x9000;
	t.b->ss0 = 0x10;
	assert_int_equal(client_next_out(&t.c), 12);
	assert_int_equal(client_regs(&t.c).rdx, 0);
	assert_int_equal(ioctl(t.c.vcpu, KVM_GET_SREGS, &s), 0);
	assert_int_equal(s.tr.selector, 0x30);
	assert_int_equal(*(uint32_t *)(t.c.mem + 0x6ffd), 0);
	client_close(&t.c);
}

GUEST_CODE(jump_16, 32, "ljmp $0x38, $0");
GUEST_CODE(in_16, 32, "outb %al, $0x61; ljmp $0x28, $0");

static void jump_to_a_16_bit_tss_switches(void **state)
{
	struct tasks t;
	struct kvm_regs r;

	OPEN_TASKS(&t, jump_16, in_16);
	memcpy(t.c.mem + AT_CODE + 7, "\xe6\x60", 2);
	t.old->flags = 0x3002;
	assert_int_equal(client_next_out(&t.c), 0x61);
	r = client_regs(&t.c);
	assert_int_equal(r.rax & 0xffff, 0x1111);
	assert_int_equal(r.rsp & 0xffff, 0x7000);
	assert_int_equal(type_of(t.gdt[7]), 3);
	assert_int_equal(client_next_out(&t.c), 0x60);
	assert_int_equal(type_of(t.gdt[7]), 1);
	assert_int_equal(t.old->ip, 0x2000 + GUEST_CODE_SIZE(in_16));
	client_close(&t.c);
}

GUEST_CODE(v86_code, 16, "movw 0, %ax; outb %al, $0x61; hlt");

static void tss_with_vm_starts_a_virtual_8086_task(void **state)
{
	struct tasks t;
	struct kvm_sregs s;

	OPEN_TASKS(&t, jump_b, jump_a);
	memcpy(t.c.mem + 0x2100, v86_code, GUEST_CODE_SIZE(v86_code));
	memcpy(t.c.mem + 0x30000, "\x34\x12", 2);
	t.b->eflags = 0x23002;
	t.b->cs = 0x200;
	t.b->eip = 0x100;
	t.b->ss = 0x700;
	t.b->ds = 0x3000;
	t.b->esp = 0x100;
	t.b->esp0 = 0x9000;
	t.b->ss0 = 0x10;
	/* OUT looks at the permission bitmap: let everything pass */
	t.gdt[6] = tss_descriptor(0x5100, 0x67 + 0x20, 9);
	memset((uint8_t *)t.b + 0x68, 0, 0x20);
	assert_int_equal(client_next_out(&t.c), 0x61);
	assert_int_equal(client_regs(&t.c).rax & 0xffff, 0x1234);
	assert_int_equal(ioctl(t.c.vcpu, KVM_GET_SREGS, &s), 0);
	assert_int_equal(s.cs.base, 0x2000);
	assert_int_equal(s.cs.dpl, 3);
	assert_int_equal(s.ds.base, 0x30000);
	/* HLT in ring 3 */
	assert_int_equal(client_next_out(&t.c), 13);
	client_close(&t.c);
}

/* A task with an address space of its own: page tables at 50000h where the test page is another. */
GUEST_CODE(read_test_page, 32, "movl 0x20000, %eax; outb %al, $0x61; ljmp $0x28, $0");

static void task_has_the_address_space_of_its_tss(void **state)
{
	struct tasks t;
	struct kvm_sregs s;

	OPEN_TASKS(&t, jump_b, read_test_page);
	memcpy(t.c.mem + 0x51000, t.c.mem + 0x13000, 4096);
	*(uint32_t *)(t.c.mem + 0x50000) = 0x51000 | PG_ALL;
	((uint32_t *)(t.c.mem + 0x51000))[AT_TEST >> 12] = 0x21000 | PG_ALL;
	*(uint32_t *)(t.c.mem + 0x20000) = 1111;
	*(uint32_t *)(t.c.mem + 0x21000) = 2222;
	t.b->cr3 = 0x50000;
	assert_int_equal(client_next_out(&t.c), 0x61);
	assert_int_equal(client_regs(&t.c).rax, 2222);
	assert_int_equal(client_next_out(&t.c), 0x60);
	assert_int_equal(ioctl(t.c.vcpu, KVM_GET_SREGS, &s), 0);
	assert_int_equal(s.cr3, 0x12000);
	client_close(&t.c);
}

static void switch_to_a_bad_task_faults(void **state)
{
	struct tasks t;
	struct {
		uint64_t descriptor;
		int vector, error;
	} rows[] = {
		{tss_descriptor(0x5100, 0x67, 11), 13, 0x30}, /* busy */
		{tss_descriptor(0x5100, 0x66, 9), 10, 0x30},  /* too short */
	};

	for (size_t i = 0; i < 2; i++) {
		OPEN_TASKS(&t, jump_b, jump_a);
		t.gdt[6] = rows[i].descriptor;
		assert_int_equal(client_next_out(&t.c), rows[i].vector);
		assert_int_equal(client_regs(&t.c).rdx, rows[i].error);
		assert_int_equal(type_of(t.gdt[5]), 11);
		client_close(&t.c);
	}
	/* A stack the new task may not have: #TS in the new task. */
	OPEN_TASKS(&t, jump_b, jump_a);
	t.b->ss = 8;
	assert_int_equal(client_next_out(&t.c), 10);
	assert_int_equal(client_regs(&t.c).rdx, 8);
	assert_int_equal(type_of(t.gdt[6]), 11);
	client_close(&t.c);
}

/* --- the new task's segments, in a larger GDT: 48h is a descriptor of the test's, 50h an LDT at 5300h of two entries --- */

#define DATA 0x00cf93000000ffffULL
#define CODE 0x00cf9b000000ffffULL
#define PRESENT (1ULL << 47)
#define ACCESSED (1ULL << 40)

static void open_with_ldt(struct tasks *t)
{
	struct kvm_sregs s;

	OPEN_TASKS(t, jump_b, jump_a);
	t->gdt[9] = DATA;
	t->gdt[10] = tss_descriptor(0x5300, 15, 2);
	t->gdt[11] = 0;
	((uint64_t *)(t->c.mem + 0x5300))[0] = DATA;
	((uint64_t *)(t->c.mem + 0x5300))[1] = DATA & ~ACCESSED;
	assert_int_equal(ioctl(t->c.vcpu, KVM_GET_SREGS, &s), 0);
	s.gdt.limit = 12 * 8 - 1;
	assert_int_equal(ioctl(t->c.vcpu, KVM_SET_SREGS, &s), 0);
}

static void a_task_has_the_ldt_of_its_tss(void **state)
{
	struct kvm_sregs s;
	struct tasks t;

	open_with_ldt(&t);
	t.b->ldt = 0x50;
	t.b->ds = 0x0c; /* entry 1, which no one has used yet */
	assert_int_equal(client_next_out(&t.c), 0x61);
	assert_int_equal(ioctl(t.c.vcpu, KVM_GET_SREGS, &s), 0);
	assert_int_equal(s.ldt.selector, 0x50);
	assert_int_equal(s.ldt.base, 0x5300);
	assert_false(s.ldt.unusable);
	assert_int_equal(s.ds.selector, 0x0c);
	assert_int_equal(s.ds.limit, ~0u);
	assert_int_equal(((uint64_t *)(t.c.mem + 0x5300))[1], DATA);
	assert_int_equal(client_next_out(&t.c), 0x60);
	assert_int_equal(ioctl(t.c.vcpu, KVM_GET_SREGS, &s), 0);
	assert_true(s.ldt.unusable); /* task A has none */
	client_close(&t.c);
}

/* SDM Vol. 3, "Exception Conditions Checked During a Task Switch": each in the new task, whose TSS is TR then. */
static void what_the_new_task_may_not_load_faults_in_it(void **state)
{
	static const struct {
		const char *name;
		uint64_t descriptor; /* of 48h; 0: as it is */
		uint16_t cs, ss, ds, ldt;
		int vector, error;
	} t[] = {
		{"data segment that is not present", DATA & ~PRESENT, 8, 0x10, 0x48, 0, 11, 0x48},
		{"stack that is not present", DATA & ~PRESENT, 8, 0x48, 0x10, 0, 12, 0x48},
		{"code that is not present", CODE & ~PRESENT, 0x48, 0x10, 0x10, 0, 11, 0x48},
		{"data segment outside the GDT", 0, 8, 0x10, 0x60, 0, 10, 0x60},
		{"data segment that is execute-only", CODE & ~(1ULL << 41), 8, 0x10, 0x48, 0, 10, 0x48},
		{"null stack", 0, 8, 0, 0x10, 0, 10, 0},
		{"null code", 0, 0, 0x10, 0x10, 0, 10, 0},
		{"data as code", 0, 0x48, 0x10, 0x10, 0, 10, 0x48},
		{"stack of another level", 0, 8, 0x13, 0x10, 0, 10, 0x10},
		{"LDT that is a data segment", 0, 8, 0x10, 0x10, 0x48, 10, 0x48},
		{"LDT in an LDT", 0, 8, 0x10, 0x10, 0x54, 10, 0x54},
		{"LDT that is not present", 0x0000020000000000 | 15, 8, 0x10, 0x10, 0x48, 10, 0x48},
		{"segment of an LDT that the task has not", 0, 8, 0x10, 0x0c, 0, 10, 0x0c},
		{"segment outside the LDT", 0, 8, 0x10, 0x14, 0x50, 10, 0x14},
	};

	for (size_t n = 0; n < sizeof(t) / sizeof(t[0]); n++) {
		struct kvm_sregs s;
		struct tasks k;
		int vector;

		open_with_ldt(&k);
		/* a handler's code and stack must not be what is at fault: #NP is no task gate here */
		((uint64_t *)(k.c.mem + AT_IDT))[11] = (uint64_t)(AT_STUBS + 11 * 16) | 0x080000 | 0xee0000000000ULL;
		if (t[n].descriptor)
			k.gdt[9] = t[n].descriptor;
		k.b->cs = t[n].cs;
		k.b->ss = t[n].ss;
		k.b->ds = t[n].ds;
		k.b->ldt = t[n].ldt;
		k.b->es = k.b->fs = 0x10;
		vector = client_next_out(&k.c);
		if (vector != t[n].vector || (int)client_regs(&k.c).rdx != t[n].error)
			fail_msg("%s: vector %d, error code %#x", t[n].name, vector, (int)client_regs(&k.c).rdx);
		assert_int_equal(ioctl(k.c.vcpu, KVM_GET_SREGS, &s), 0);
		assert_int_equal(s.tr.selector, 0x30);
		client_close(&k.c);
	}
}

/* What is found before the new task is committed to is the old one's fault. */
static void what_the_old_task_cannot_switch_to_faults_in_it(void **state)
{
	static const struct {
		uint64_t descriptor;
		uint16_t gdt_limit;
		int vector;
	} t[] = {{0, 9 * 8 - 1, 13}, {DATA, 9 * 8 - 1, 13}, {0x0000090051000067, 9 * 8 - 1, 11}, {0, 6 * 8 - 1, 13}};

	for (size_t n = 0; n < sizeof(t) / sizeof(t[0]); n++) {
		struct kvm_sregs s;
		struct tasks k;

		OPEN_TASKS(&k, jump_b, jump_a);
		((uint64_t *)(k.c.mem + AT_IDT))[11] = (uint64_t)(AT_STUBS + 11 * 16) | 0x080000 | 0xee0000000000ULL;
		k.gdt[6] = t[n].descriptor;
		assert_int_equal(ioctl(k.c.vcpu, KVM_GET_SREGS, &s), 0);
		s.gdt.limit = t[n].gdt_limit;
		assert_int_equal(ioctl(k.c.vcpu, KVM_SET_SREGS, &s), 0);
		assert_int_equal(client_next_out(&k.c), t[n].vector);
		assert_int_equal(client_regs(&k.c).rdx, 0x30);
		assert_int_equal(ioctl(k.c.vcpu, KVM_GET_SREGS, &s), 0);
		assert_int_equal(s.tr.selector, 0x28);
		client_close(&k.c);
	}
}

/* A TSS that is not mapped: #PF in the old task, at an address within it. */
static void a_tss_that_is_not_mapped_is_a_page_fault_of_the_old_task(void **state)
{
	struct kvm_sregs s;
	struct tasks t;

	OPEN_TASKS(&t, jump_b, jump_a);
	t.gdt[6] = tss_descriptor(0x20000, 0x67, 9);
	paging_pte_set(&t.c, PAGING_32, 0x20000, 0);
	assert_int_equal(client_next_out(&t.c), 14);
	assert_int_equal(ioctl(t.c.vcpu, KVM_GET_SREGS, &s), 0);
	assert_int_equal(s.tr.selector, 0x28);
	assert_int_equal(s.cr2 & ~0xfffULL, 0x20000);
	client_close(&t.c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(jump_switches_and_jumping_back_resumes),
		cmocka_unit_test(call_gate_and_interrupt_nest_and_iret_returns),
		cmocka_unit_test(fault_through_a_task_gate_pushes_its_error_code_on_the_new_stack),
		cmocka_unit_test(an_error_code_beyond_the_new_stacks_limit_is_a_stack_fault),
		cmocka_unit_test(jump_to_a_16_bit_tss_switches),
		cmocka_unit_test(tss_with_vm_starts_a_virtual_8086_task),
		cmocka_unit_test(task_has_the_address_space_of_its_tss),
		cmocka_unit_test(switch_to_a_bad_task_faults),
		cmocka_unit_test(a_task_has_the_ldt_of_its_tss),
		cmocka_unit_test(what_the_new_task_may_not_load_faults_in_it),
		cmocka_unit_test(what_the_old_task_cannot_switch_to_faults_in_it),
		cmocka_unit_test(a_tss_that_is_not_mapped_is_a_page_fault_of_the_old_task),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
