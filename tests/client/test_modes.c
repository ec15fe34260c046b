/*
 * Guests in every mode a processor has: page faults with their exact error
 * codes and CR2, protection bits, PCID, virtual-8086, segment faults.
 */
#include "guest_code.h"
#include "paging.h"

#define DONE 0x40 /* the port of a guest that did what it wanted */

enum how { READ, WRITE, EXEC };

struct access {
	const char *what;
	enum how how;
	unsigned cpl;
	uint64_t pte; /* of the test page; its frame is added */
	uint64_t cr0, cr4, efer;
	uint64_t rflags;
	int error; /* the error code of the page fault, or -1: none */
};

/* Error code bits: 1 present, 2 write, 4 user, 8 reserved, 16 fetch. */
static const struct access accesses[] = {
	{"read of a mapped page", READ, 0, PG_ALL, .error = -1},
	{"read of no page", READ, 0, 0, .error = 0},
	{"write to no page", WRITE, 0, 0, .error = 2},
	{"user read of no page", READ, 3, 0, .error = 4},
	{"user write to no page", WRITE, 3, 0, .error = 6},
	{"user read of a supervisor page", READ, 3, PG_P | PG_RW, .error = 5},
	{"user read", READ, 3, PG_P | PG_US, .error = -1},
	{"user write", WRITE, 3, PG_ALL, .error = -1},
	{"user write to a read-only page", WRITE, 3, PG_P | PG_US, .error = 7},
	{"supervisor write to a read-only page without WP", WRITE, 0, PG_P, .error = -1},
	{"supervisor write to a read-only page with WP", WRITE, 0, PG_P, CR0_WP, .error = 3},
	{"fetch", EXEC, 0, PG_P, .error = -1},
	{"fetch from no page without NX or SMEP", EXEC, 0, 0, .error = 0},
	{"SMEP: supervisor fetch from a user page", EXEC, 0, PG_ALL, 0, CR4_SMEP, .error = 17},
	{"SMEP: supervisor fetch from a supervisor page", EXEC, 0, PG_P, 0, CR4_SMEP, .error = -1},
	{"SMEP: user fetch from a user page", EXEC, 3, PG_ALL, 0, CR4_SMEP, .error = -1},
	{"SMAP: supervisor read of a user page", READ, 0, PG_ALL, 0, CR4_SMAP, .error = 1},
	{"SMAP: supervisor write to a user page", WRITE, 0, PG_ALL, 0, CR4_SMAP, .error = 3},
	{"SMAP: supervisor read of a user page with AC", READ, 0, PG_ALL, 0, CR4_SMAP, 0, EFLAGS_AC, .error = -1},
	{"SMAP: user read of a user page", READ, 3, PG_ALL, 0, CR4_SMAP, .error = -1},
	{NULL},
};

/* Only where entries have 64 bits. */
static const struct access wide_accesses[] = {
	{"NX: fetch", EXEC, 0, PG_P | PG_NX, 0, 0, EFER_NXE, .error = 17},
	{"NX: user fetch", EXEC, 3, PG_ALL | PG_NX, 0, 0, EFER_NXE, .error = 21},
	{"NX: fetch from no page", EXEC, 0, 0, 0, 0, EFER_NXE, .error = 16},
	{"NX: read", READ, 0, PG_P | PG_NX, 0, 0, EFER_NXE, .error = -1},
	{"NX without NXE is reserved", READ, 0, PG_P | PG_NX, .error = 9},
	{"address bit 51, past the guest's MAXPHYADDR, is reserved", READ, 3, PG_ALL | 1ULL << 51, .error = 13},
	{NULL},
};

GUEST_CODE(read_code, 32, "movl (%esi), %eax; outb %al, $0x40");
GUEST_CODE(write_code, 32, "movl %eax, (%esi); outb %al, $0x40");
GUEST_CODE(exec_code, 32, "jmp *%esi");

static void run_access(enum paging p, const struct access *a)
{
	static const struct {
		const uint8_t *at, *end;
	} code[] = {
		{read_code, read_code_end},
		{write_code, write_code_end},
		{exec_code, exec_code_end},
	};
	struct client c;
	struct kvm_regs r;
	uint64_t pte, flags = PG_A;
	int port;

	client_open_vm(&c, 2 << 20);
	client_add_vcpu(&c);
	paging_start(&c, p, a->cpl, a->cr0, a->cr4, a->efer);
	memcpy(c.mem + AT_CODE, code[a->how].at, (size_t)(code[a->how].end - code[a->how].at));
	memcpy(c.mem + AT_TEST, "\xe6\x40", 2); /* out 40h, al */
	for (uint32_t va = 0; va < 0x10000; va += 4096)
		paging_pte_set(&c, p, va, va | PG_P | PG_RW | (a->cpl ? PG_US : 0));
	paging_pte_set(&c, p, AT_TEST, AT_TEST | a->pte);
	r = client_regs(&c);
	r.rflags |= a->rflags;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	port = client_next_out(&c);
	r = client_regs(&c);
	pte = paging_pte(&c, p, AT_TEST);
	if (a->error < 0) {
		if (port != DONE)
			fail_msg("%s: exception %d, error code %#llx", a->what, port, (unsigned long long)r.rdx);
		if (a->how == WRITE)
			flags |= PG_D;
		if ((pte & (PG_A | PG_D)) != flags)
			fail_msg("%s: entry %#llx", a->what, (unsigned long long)pte);
	} else {
		if (port != 14 || (int)r.rdx != a->error || r.rcx != AT_TEST)
			fail_msg("%s: exception %d, error code %#llx, CR2 %#llx", a->what, port,
				 (unsigned long long)r.rdx, (unsigned long long)r.rcx);
		if (pte & PG_D)
			fail_msg("%s: dirty after a fault", a->what);
	}
	client_close(&c);
}

static void run_accesses(enum paging p)
{
	for (const struct access *a = accesses; a->what; a++)
		run_access(p, a);
	for (const struct access *a = wide_accesses; a->what && p != PAGING_32; a++)
		run_access(p, a);
}

static void page_faults_of_32_bit_paging_are_exact(void **state)
{
	run_accesses(PAGING_32);
}

static void page_faults_of_pae_paging_are_exact(void **state)
{
	run_accesses(PAGING_PAE);
}

static void page_faults_of_long_mode_are_exact(void **state)
{
	run_accesses(PAGING_LONG);
}

static void page_faults_of_compatibility_mode_are_exact(void **state)
{
	run_accesses(PAGING_COMPAT);
}

static void open_mode(struct client *c, enum paging p, unsigned cpl, const uint8_t *code, size_t n, uint64_t cr4)
{
	client_open_vm(c, 2 << 20);
	client_add_vcpu(c);
	paging_start(c, p, cpl, 0, cr4, EFER_NXE);
	memcpy(c->mem + AT_CODE, code, n);
}

GUEST_CODE(load_cr3, 32, "movl $0x11000, %eax; movl %eax, %cr3; outb %al, $0x40");

static void pae_pdpte_with_a_reserved_bit_faults_mov_cr3(void **state)
{
	struct client c;

	open_mode(&c, PAGING_PAE, 0, load_cr3, GUEST_CODE_SIZE(load_cr3), 0);
	((uint64_t *)(c.mem + 0x11000))[2] = 0x14000 | PG_P | PG_RW; /* bit 1 is reserved there */
	assert_int_equal(client_next_out(&c), 13);
	assert_int_equal(client_regs(&c).rdx, 0);
	assert_int_equal(client_regs(&c).rip, AT_STUBS + 13 * 16 + 4);
	client_close(&c);
}

/* In PAE the PDPTEs are in registers: a changed one in memory counts from the next MOV to CR3 on. */
GUEST_CODE(pdpte_cached, 32,
	   "movl $0x40000000, %ebx; movl $0x13003, 0x14000; movl $0x14001, 0x11008; movl $0x11000, %eax\n"
	   "movl %eax, %cr3; movl 0x20000(%ebx), %edi; movl $0, 0x11008; invlpg 0x20000(%ebx)\n"
	   "movl 0x20000(%ebx), %ebp; outb %al, $0x41; movl %eax, %cr3; movl 0x20000(%ebx), %eax; outb %al, $0x40");

static void pae_pdptes_stay_until_cr3_is_loaded(void **state)
{
	struct client c;

	open_mode(&c, PAGING_PAE, 0, pdpte_cached, GUEST_CODE_SIZE(pdpte_cached), 0);
	*(uint32_t *)(c.mem + AT_TEST) = 0x1234567;
	assert_int_equal(client_next_out(&c), 0x41);
	assert_int_equal(client_regs(&c).rdi, 0x1234567);
	assert_int_equal(client_regs(&c).rbp, 0x1234567);
	assert_int_equal(client_next_out(&c), 14);
	assert_int_equal(client_regs(&c).rcx, 0x40020000);
	assert_int_equal(client_regs(&c).rdx, 0);
	client_close(&c);
}

GUEST_CODE(plain_read, 32, "movl (%esi), %eax; outb %al, $0x40");

static void reserved_bits_of_large_pages_and_pml4_entries_fault(void **state)
{
	struct client c;

	open_mode(&c, PAGING_COMPAT, 3, plain_read, GUEST_CODE_SIZE(plain_read), 0);
	((uint64_t *)(c.mem + 0x11000))[1] = 0x12000 | PG_ALL | PG_PS | 1u << 13; /* 1 GiB page, bit 13 reserved */
	struct kvm_regs r = client_regs(&c);
	r.rsi = 1 << 30;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	assert_int_equal(client_next_out(&c), 14);
	assert_int_equal(client_regs(&c).rdx, 13); /* present, user, reserved */
	client_close(&c);
	open_mode(&c, PAGING_LONG, 3, plain_read, GUEST_CODE_SIZE(plain_read), 0);
	((uint64_t *)(c.mem + 0x10000))[1] = 0x11000 | PG_ALL | PG_PS;
	r = client_regs(&c);
	r.rsi = 1ull << 39;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	assert_int_equal(client_next_out(&c), 14);
	assert_int_equal(client_regs(&c).rdx, 13);
	assert_int_equal(client_regs(&c).rcx, 1ull << 39);
	client_close(&c);
}

GUEST_CODE(high_read, 64, "movabs $0x800000000000, %rax; movl (%rax), %eax; outb %al, $0x40");
GUEST_CODE(high_push, 64, "movabs $0x800000000008, %rsp; pushq %rax; outb %al, $0x40");

static void address_that_is_not_canonical_is_gp_and_on_the_stack_ss(void **state)
{
	struct client c;

	open_mode(&c, PAGING_LONG, 0, high_read, GUEST_CODE_SIZE(high_read), 0);
	assert_int_equal(client_next_out(&c), 13);
	assert_int_equal(client_regs(&c).rdx, 0);
	client_close(&c);
	/* from ring 3: the stack of the handler is another */
	open_mode(&c, PAGING_LONG, 3, high_push, GUEST_CODE_SIZE(high_push), 0);
	assert_int_equal(client_next_out(&c), 12);
	assert_int_equal(client_regs(&c).rdx, 0);
	client_close(&c);
}

/*
 * Two address spaces that differ in the test page, each with a PCID. The
 * second tables are copies at 50000h.
 */
GUEST_CODE(pcid_code, 64,
	   "movl $0x10001, %eax; mov %rax, %cr3; movl (%rsi), %r8d\n"
	   "movl $0x50002, %ebx; mov %rbx, %cr3; movl (%rsi), %r9d\n"
	   "bts $63, %rax; mov %rax, %cr3; movl (%rsi), %r10d\n"
	   "movl $0x22067, 0x13100; invlpg (%rsi); movl (%rsi), %r11d\n"
	   "bts $63, %rbx; mov %rbx, %cr3; movl (%rsi), %r12d\n"
	   "mov %cr3, %r13; outb %al, $0x40");

static void pcids_keep_two_address_spaces_apart(void **state)
{
	struct client c;
	struct kvm_regs r;

	open_mode(&c, PAGING_LONG, 0, pcid_code, GUEST_CODE_SIZE(pcid_code), CR4_PCIDE);
	for (uint32_t i = 0; i < 3; i++)
		*(uint32_t *)(c.mem + AT_TEST + i * 4096) = 100 + i;
	memcpy(c.mem + 0x53000, c.mem + 0x13000, 4096);
	((uint64_t *)(c.mem + 0x53000))[AT_TEST >> 12] = (AT_TEST + 4096) | PG_ALL;
	*(uint64_t *)(c.mem + 0x50000) = 0x51000 | PG_ALL;
	*(uint64_t *)(c.mem + 0x51000) = 0x52000 | PG_ALL;
	*(uint64_t *)(c.mem + 0x52000) = 0x53000 | PG_ALL;
	assert_int_equal(client_next_out(&c), DONE);
	r = client_regs(&c);
	assert_int_equal(r.r8, 100);
	assert_int_equal(r.r9, 101);
	assert_int_equal(r.r10, 100);
	assert_int_equal(r.r11, 102);
	assert_int_equal(r.r12, 101);
	assert_int_equal(r.r13, 0x50002);
	client_close(&c);
}

/* A global page survives MOV to CR3, and goes with CR4.PGE. */
GUEST_CODE(global_code, 64,
	   "movl (%rsi), %r8d; movl $0x21167, 0x13100; movl %r8d, %r9d\n"
	   "mov %cr4, %rax; btr $7, %rax; mov %rax, %cr4; movl (%rsi), %r10d; outb %al, $0x40");

static void clearing_pge_drops_global_pages(void **state)
{
	struct client c;

	open_mode(&c, PAGING_LONG, 0, global_code, GUEST_CODE_SIZE(global_code), CR4_PGE);
	*(uint32_t *)(c.mem + AT_TEST) = 1;
	*(uint32_t *)(c.mem + AT_TEST + 4096) = 2;
	paging_pte_set(&c, PAGING_LONG, AT_TEST, AT_TEST | PG_ALL | 0x100);
	assert_int_equal(client_next_out(&c), DONE);
	assert_int_equal(client_regs(&c).r8, 1);
	assert_int_equal(client_regs(&c).r10, 2);
	client_close(&c);
}

/* Large pages of each shape: 4 MiB, 2 MiB; the offset bits come from the address. */
GUEST_CODE(large_code, 32, "movl (%esi), %eax; outb %al, $0x40");

static void large_pages_map_in_every_shape(void **state)
{
	static const struct {
		enum paging p;
		uint32_t base;
	} shapes[] = {{PAGING_32, 4 << 20}, {PAGING_PAE, 2 << 20}, {PAGING_LONG, 2 << 20}, {PAGING_COMPAT, 2 << 20}};

	for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++) {
		struct client c;
		struct kvm_regs r;

		open_mode(&c, shapes[i].p, 0, large_code, GUEST_CODE_SIZE(large_code), 1u << 4);
		if (shapes[i].p == PAGING_32)
			((uint32_t *)(c.mem + 0x12000))[1] = 0 | PG_ALL | PG_PS;
		else
			((uint64_t *)(c.mem + 0x12000))[1] = 0 | PG_ALL | PG_PS;
		memcpy(c.mem + 0x23456, &(uint32_t){0xabcdef}, 4);
		r = client_regs(&c);
		r.rsi = shapes[i].base + 0x23456;
		assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
		assert_int_equal(client_next_out(&c), DONE);
		assert_int_equal(client_regs(&c).rax, 0xabcdef);
		assert_true(((uint8_t *)c.mem)[0x12000 + (shapes[i].p == PAGING_32 ? 4 : 8)] & PG_A);
		client_close(&c);
	}
}

/* Ring 0 code that goes to virtual-8086 mode at 1000h:0 (linear 10000h is a table: 3000h:0 instead). */
GUEST_CODE(to_v86, 32,
	   "pushl $0x4444; pushl $0x3333; pushl $0x2222; pushl $0x1111\n" /* gs fs ds es */
	   "pushl $0x5000; pushl $0x0100; pushl $0x20002; pushl $0x6000; pushl $0x0010; iretl");
/* 6000h:10h. DS 2222h, so that [5] is linear 22225h. */
GUEST_CODE(in_v86, 16, "movw 5, %ax; movw $0x1357, 7; pushw %ax; outb %al, $0x50; int $0x21");

static void virtual_8086_task_runs_and_its_int_faults_to_ring_0(void **state)
{
	struct client c;
	struct kvm_regs r;
	uint32_t *frame;

	open_mode(&c, PAGING_32, 0, to_v86, GUEST_CODE_SIZE(to_v86), 0);
	memcpy(c.mem + 0x60010, in_v86, GUEST_CODE_SIZE(in_v86));
	memcpy(c.mem + 0x22225, "\x57\x9b", 2);
	/* I/O permission bitmap behind the TSS: port 50h allowed, 51h.. not */
	*(uint16_t *)(c.mem + AT_TSS + 0x66) = 0x68;
	memset(c.mem + AT_TSS + 0x68, 0xff, 0x20);
	c.mem[AT_TSS + 0x68 + 0x50 / 8] = 0xfe;
	struct kvm_sregs s;
	assert_int_equal(ioctl(c.vcpu, KVM_GET_SREGS, &s), 0);
	s.tr.limit = 0x87;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_SREGS, &s), 0);
	assert_int_equal(client_next_out(&c), 0x50);
	r = client_regs(&c);
	assert_int_equal(r.rflags & 0x20000, 0x20000);
	assert_int_equal(r.rax & 0xffff, 0x9b57);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_SREGS, &s), 0);
	assert_int_equal(s.ds.base, 0x22220);
	assert_int_equal(s.cs.base, 0x60000);
	assert_int_equal(s.ss.dpl, 3);
	assert_memory_equal(c.mem + 0x22227, "\x57\x13", 2);
	assert_memory_equal(c.mem + 0x500fe, "\x57\x9b", 2);
	/* INT n with IOPL 0 */
	assert_int_equal(client_next_out(&c), 13);
	r = client_regs(&c);
	assert_int_equal(r.rdx, 0);
	frame = (uint32_t *)(c.mem + r.rsp);
	assert_int_equal(r.rsp, 0x9000 - 9 * 4);
	assert_int_equal(frame[0], 0x10 + GUEST_CODE_SIZE(in_v86) - 2);
	assert_int_equal(frame[1], 0x6000);
	assert_true(frame[2] & 0x20000);
	assert_int_equal(frame[3], 0xfe);   /* esp */
	assert_int_equal(frame[4], 0x5000); /* ss */
	assert_int_equal(frame[5], 0x1111); /* es ds fs gs */
	assert_int_equal(frame[6], 0x2222);
	assert_int_equal(frame[7], 0x3333);
	assert_int_equal(frame[8], 0x4444);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_SREGS, &s), 0);
	assert_int_equal(s.ds.selector, 0);
	assert_int_equal(s.cs.selector, 8);
	client_close(&c);
}

GUEST_CODE(forbidden_out, 32, "outb %al, $0x51; outb %al, $0x40");

static void port_outside_the_permission_bitmap_is_gp(void **state)
{
	struct client c;
	struct kvm_regs r;

	open_mode(&c, PAGING_32, 3, forbidden_out, GUEST_CODE_SIZE(forbidden_out), 0);
	r = client_regs(&c);
	r.rflags = 2; /* IOPL 0 */
	assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	assert_int_equal(client_next_out(&c), 13);
	assert_int_equal(*(uint32_t *)(c.mem + client_regs(&c).rsp), AT_CODE);
	client_close(&c);
}

/* Faults of segment loads carry the selector. */
GUEST_CODE(load_bad_ds, 32, "movw $0x1f8, %ax; movw %ax, %ds; outb %al, $0x40");
GUEST_CODE(load_absent_es, 32, "movw $0x30, %ax; movw %ax, %es; outb %al, $0x40");
GUEST_CODE(load_absent_ss, 32, "movw $0x30, %ax; movw %ax, %ss; outb %al, $0x40");
GUEST_CODE(far_jump_to_data, 32, "ljmp $0x10, $0x1000");

static void segment_faults_carry_the_selector(void **state)
{
	static const struct {
		const uint8_t *code, *end;
		int vector, error;
	} rows[] = {
		{load_bad_ds, load_bad_ds_end, 13, 0x1f8},
		{load_absent_es, load_absent_es_end, 11, 0x30},
		{load_absent_ss, load_absent_ss_end, 12, 0x30},
		{far_jump_to_data, far_jump_to_data_end, 13, 0x10},
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		struct client c;

		open_mode(&c, PAGING_32, 0, rows[i].code, (size_t)(rows[i].end - rows[i].code), 0);
		((uint64_t *)(c.mem + AT_GDT))[6] = 0x00cf13000000ffff; /* data, not present */
		assert_int_equal(client_next_out(&c), rows[i].vector);
		assert_int_equal(client_regs(&c).rdx, rows[i].error);
		client_close(&c);
	}
}

GUEST_CODE(user_sgdt, 64, "sgdt 0x8000; outb %al, $0x40");

static void umip_hides_the_descriptor_tables_from_ring_3(void **state)
{
	struct client c;

	open_mode(&c, PAGING_LONG, 3, user_sgdt, GUEST_CODE_SIZE(user_sgdt), 0);
	if (!client_cpuid_bit(&c, 7, CPUID_ECX, 2)) {
		client_close(&c);
		skip(); /* no UMIP */
	}
	assert_int_equal(client_next_out(&c), 0x40);
	client_close(&c);
	open_mode(&c, PAGING_LONG, 3, user_sgdt, GUEST_CODE_SIZE(user_sgdt), 1u << 11);
	assert_int_equal(client_next_out(&c), 13);
	client_close(&c);
}

/* RDTSCP gives IA32_TSC_AUX; CR4.TSD takes RDTSC away from ring 3. */
GUEST_CODE(user_tsc, 64, "rdtscp; mov %ecx, %r8d; rdtsc; outb %al, $0x40");

static void tsd_forbids_rdtsc_in_ring_3(void **state)
{
	struct {
		struct kvm_msrs h;
		struct kvm_msr_entry e[1];
	} aux = {.h.nmsrs = 1, .e = {{.index = 0xc0000103, .data = 0x1234}}};
	struct client c;

	open_mode(&c, PAGING_LONG, 3, user_tsc, GUEST_CODE_SIZE(user_tsc), 0);
	if (client_cpuid_bit(&c, 0x80000001, CPUID_EDX, 27)) {
		assert_int_equal(ioctl(c.vcpu, KVM_SET_MSRS, &aux), 1);
		assert_int_equal(client_next_out(&c), 0x40);
		assert_int_equal(client_regs(&c).r8, 0x1234);
	}
	client_close(&c);
	open_mode(&c, PAGING_LONG, 3, user_tsc, GUEST_CODE_SIZE(user_tsc), 1u << 2);
	assert_int_equal(client_next_out(&c), 13);
	client_close(&c);
}

/* SYSCALL in and SYSRET out, with the flags masked between. */
GUEST_CODE(syscall_code, 64, "mov $7, %eax; syscall; mov %eax, %ebx; pushfq; pop %r9; outb %al, $0x40");
GUEST_CODE(syscall_entry, 64, "mov %rcx, %r8; pushfq; pop %r10; inc %eax; sysretq");

static void syscall_enters_ring_0_and_sysret_returns(void **state)
{
	struct {
		struct kvm_msrs h;
		struct kvm_msr_entry e[4];
	} m = {.h.nmsrs = 4,
	       .e = {{.index = 0xc0000081, .data = 0x10ull << 48 | 0x8ull << 32},
		     {.index = 0xc0000082, .data = 0x2000},
		     {.index = 0xc0000084, .data = 0x400},
		     {.index = 0xc0000080, .data = 0x501 | EFER_NXE}}};
	struct client c;
	struct kvm_regs r;

	open_mode(&c, PAGING_LONG, 3, syscall_code, GUEST_CODE_SIZE(syscall_code), 0);
	memcpy(c.mem + 0x2000, syscall_entry, GUEST_CODE_SIZE(syscall_entry));
	/* SYSRET takes SS from STAR + 8 and CS from STAR + 16 */
	((uint64_t *)(c.mem + AT_GDT))[3] = 0x00cff3000000ffff;
	((uint64_t *)(c.mem + AT_GDT))[4] = 0x00affb000000ffff;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_MSRS, &m), 4);
	r = client_regs(&c);
	r.rflags |= 0x400; /* DF, which the mask clears */
	assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	assert_int_equal(client_next_out(&c), 0x40);
	r = client_regs(&c);
	assert_int_equal(r.rbx, 8);
	assert_int_equal(r.r8, AT_CODE + 7);
	assert_int_equal(r.r9 & 0x400, 0x400);
	assert_int_equal(r.r10 & 0x400, 0);
	struct kvm_sregs s;
	assert_int_equal(ioctl(c.vcpu, KVM_GET_SREGS, &s), 0);
	assert_int_equal(s.cs.selector, 0x23);
	assert_int_equal(s.ss.selector, 0x1b);
	client_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(page_faults_of_32_bit_paging_are_exact),
		cmocka_unit_test(page_faults_of_pae_paging_are_exact),
		cmocka_unit_test(page_faults_of_long_mode_are_exact),
		cmocka_unit_test(page_faults_of_compatibility_mode_are_exact),
		cmocka_unit_test(pae_pdpte_with_a_reserved_bit_faults_mov_cr3),
		cmocka_unit_test(pae_pdptes_stay_until_cr3_is_loaded),
		cmocka_unit_test(reserved_bits_of_large_pages_and_pml4_entries_fault),
		cmocka_unit_test(address_that_is_not_canonical_is_gp_and_on_the_stack_ss),
		cmocka_unit_test(pcids_keep_two_address_spaces_apart),
		cmocka_unit_test(clearing_pge_drops_global_pages),
		cmocka_unit_test(large_pages_map_in_every_shape),
		cmocka_unit_test(virtual_8086_task_runs_and_its_int_faults_to_ring_0),
		cmocka_unit_test(port_outside_the_permission_bitmap_is_gp),
		cmocka_unit_test(segment_faults_carry_the_selector),
		cmocka_unit_test(umip_hides_the_descriptor_tables_from_ring_3),
		cmocka_unit_test(tsd_forbids_rdtsc_in_ring_3),
		cmocka_unit_test(syscall_enters_ring_0_and_sysret_returns),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
