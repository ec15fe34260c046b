/*
 * USERKVM_CHECK=guesttlb: guests with one bug each, and the same guests without it. What is told
 * is read from the counters that the report comes with.
 *
 * A guest's kernel runs at GPA_CODE, its program at USER_CODE; memory is mapped one to one from 0
 * and again from KERNEL. A program ends with HLT, which raises #GP: every exception is a VM exit.
 */
#include "cpu/ghost_internal.h"
#include "machine.h"

#include <pthread.h>

#define STATE struct machine *t = *state

#define KERNEL 0xffffff8000000000UL
#define USER_PAGE 0x100000UL
#define USER_CODE 0x101000UL
#define USER_OTHER 0x102000UL /* a frame that is mapped nowhere else */
#define USER_STACK 0x104000UL
#define SHARED 0x110000UL     /* a page of the kernel's */
#define GPA_PT2 0x17000UL     /* of KERNEL + 4 MiB, in the second PD entry */
#define GPA_PDPT_PAE 0x16000UL
#define GPA_FRAME (GPA_STACK - 0x200)
#define EXIT_EXCEPTION EXIT_REASON_EXCEPTION_NMI
#define USER_RIGHTS (PTE_P | PTE_RW | PTE_US)

static uint64_t *pte(struct machine *t, gva_t gva)
{
	return guest64(t, GPA_PT) + (gva >> 12 & 511);
}

static int setup(void **state)
{
	struct machine *t;

	setenv("USERKVM_CHECK", "guesttlb", 1);
	machine_setup_long(state);
	t = *state;
	assert_non_null(t->m->ghost);
	*guest64(t, GPA_PML4 + 511 * 8) = GPA_PDPT | PTE_P | PTE_RW | PTE_US;
	*pte(t, USER_PAGE) |= PTE_US;
	*pte(t, USER_CODE) |= PTE_US;
	*pte(t, USER_STACK) |= PTE_US;
	*guest64(t, GPA_GDT + 3 * 8) = 0x00affb000000ffffULL;
	*guest64(t, GPA_GDT + 4 * 8) = 0x00cff3000000ffffULL;
	*guest64(t, GPA_GDT + 5 * 8) = 0x00cffb000000ffffULL; /* 32 bits */
	W(EXCEPTION_BITMAP, ~0U);
	memset(t->ram + USER_PAGE, 0xf4, 0x1000); /* HLT, where it is run */
	memset(t->ram + USER_OTHER, 0xf4, 0x1000);
	return 0;
}

static int teardown(void **state)
{
	unsetenv("USERKVM_CHECK");
	return machine_teardown(state);
}

static unsigned told(struct machine *t, enum ghost_class class)
{
	return t->m->ghost->told[class];
}

static void assert_silent(struct machine *t)
{
	for (int class = 0; class < GHOST_CLASSES; class++)
		assert_int_equal(told(t, (enum ghost_class)class), 0);
}

/* --- code, one instruction after the other --- */

struct code {
	uint8_t *at, *start;
};

static void bytes(struct code *c, const void *p, size_t n)
{
	memcpy(c->at, p, n);
	c->at += n;
}
#define B(c, ...) bytes((c), (const uint8_t[]){ __VA_ARGS__ }, sizeof((uint8_t[]){ __VA_ARGS__ }))

static void rax(struct code *c, uint64_t v)
{
	B(c, 0x48, 0xb8);
	bytes(c, &v, 8);
}

static void store(struct code *c, gva_t gva, uint64_t v)
{
	rax(c, v);
	B(c, 0x48, 0xa3);
	bytes(c, &gva, 8);
}

static void load(struct code *c, gva_t gva)
{
	B(c, 0x48, 0xa1);
	bytes(c, &gva, 8);
}

static void invlpg(struct code *c, gva_t gva)
{
	rax(c, gva);
	B(c, 0x0f, 0x01, 0x38);
}

static void mov_cr3(struct code *c, uint64_t v)
{
	rax(c, v);
	B(c, 0x0f, 0x22, 0xd8);
}

/* INVPCID, its descriptor behind the frame of IRET */
static void invpcid(struct machine *t, struct code *c, uint64_t type, uint64_t pcid, gva_t gva)
{
	uint64_t at = GPA_FRAME + 0x100;

	*guest64(t, at) = pcid;
	*guest64(t, at + 8) = gva;
	B(c, 0x48, 0xbb);
	bytes(c, &at, 8);
	rax(c, type);
	B(c, 0x66, 0x0f, 0x38, 0x82, 0x03);
}

static void zero_page(struct code *c, gva_t gva)
{
	uint64_t count = 512;

	B(c, 0x48, 0xbf);
	bytes(c, &gva, 8);
	B(c, 0x48, 0xb9);
	bytes(c, &count, 8);
	B(c, 0x31, 0xc0, 0xf3, 0x48, 0xab);
}

static struct code kernel_code(struct machine *t)
{
	return (struct code){ t->ram + GPA_CODE, t->ram + GPA_CODE };
}

static struct code user_code(struct machine *t)
{
	return (struct code){ t->ram + USER_CODE, t->ram + USER_CODE };
}

/* --- running --- */

static void segments(struct machine *t, bool user)
{
	set_segment(t, SREG_CS, user ? 0x1b : 8, 0, 0xffffffff, user ? 0xa0fb : 0xa09b);
	set_segment(t, SREG_SS, user ? 0x23 : 16, 0, 0xffffffff, user ? 0xc0f3 : 0xc093);
}

static void iret(struct machine *t, struct code *c)
{
	const uint64_t frame[] = { USER_CODE, 0x1b, X86_FLAGS_FIXED, USER_STACK + 0x800, 0x23 };

	memcpy(t->ram + GPA_FRAME, frame, sizeof(frame));
	B(c, 0x48, 0xcf);
}

/* The kernel's code, and what follows, until an exception or HLT of the kernel's. */
static uint32_t run_kernel(struct machine *t)
{
	segments(t, false);
	W(GUEST_RIP, GPA_CODE);
	W(GUEST_RSP, GPA_FRAME);
	W(GUEST_RFLAGS, X86_FLAGS_FIXED);
	return go(t);
}

static uint32_t run_user(struct machine *t)
{
	segments(t, true);
	W(GUEST_RIP, USER_CODE);
	W(GUEST_RSP, USER_STACK + 0x800);
	W(GUEST_RFLAGS, X86_FLAGS_FIXED);
	return go(t);
}

static uint64_t vector(struct machine *t)
{
	return R(t, VM_EXIT_INTR_INFO) & 0xff;
}

/* A program that reads, writes or runs the page, before and after what the kernel does. */
enum how { READS, WRITES, RUNS };
static void program(struct machine *t, enum how how)
{
	struct code u = user_code(t);

	if (how == READS)
		load(&u, USER_PAGE);
	else if (how == WRITES)
		store(&u, USER_PAGE + 8, 0xf4f4f4f4f4f4f4f4);
	else {
		rax(&u, USER_PAGE);
		B(&u, 0xff, 0xe0);
	}
	B(&u, 0xf4);
	assert_int_equal(run_user(t), EXIT_EXCEPTION);
	assert_int_equal(vector(t), X86_TRAP_GP);
}

/* The kernel changes the page's entry to `e`, flushes or not, and goes back to the program. */
static void change(struct machine *t, uint64_t e, bool flush)
{
	struct code k = kernel_code(t);

	store(&k, KERNEL + GPA_PT + (USER_PAGE >> 12) * 8, e);
	if (flush)
		invlpg(&k, USER_PAGE);
	iret(t, &k);
	assert_int_equal(run_kernel(t), EXIT_EXCEPTION);
}

struct seeded {
	enum how how;
	uint64_t e;
	unsigned use, reachable, lost_dirty;
};

static void seeded(void **state, struct seeded s)
{
	STATE;

	program(t, s.how);
	change(t, s.e, false);
	assert_int_equal(told(t, GHOST_USE), s.use);
	assert_int_equal(told(t, GHOST_REACHABLE), s.reachable);
	assert_int_equal(told(t, GHOST_LOST_DIRTY), s.lost_dirty);
	assert_int_equal(told(t, GHOST_TABLE) + told(t, GHOST_ROOT), 0);
	/* the bug once more is the same bug: its counts do not grow by what was told already */
	assert_int_equal(t->m->ghost->count.records, 1);
}

static void right(void **state, struct seeded s)
{
	STATE;

	program(t, s.how);
	change(t, s.e, true);
	assert_silent(t);
	assert_true(t->m->ghost->count.records);
}

#define SEEDED(name, ...)                                                                    \
	static void name(void **state) { seeded(state, (struct seeded){ __VA_ARGS__ }); }     \
	static void name##_flushed(void **state) { right(state, (struct seeded){ __VA_ARGS__ }); }

SEEDED(unmapped_page_is_reachable_and_read, READS, 0, .use = 1, .reachable = 1)
SEEDED(remapped_page_is_read_at_its_old_frame, READS, USER_OTHER | USER_RIGHTS | PTE_A, .use = 1, .reachable = 1)
SEEDED(write_protected_page_is_written, WRITES, USER_PAGE | PTE_P | PTE_US | PTE_A | PTE_D, .use = 1, .reachable = 1)
SEEDED(page_without_execution_is_run, RUNS, USER_PAGE | USER_RIGHTS | PTE_A | PTE_XD, .use = 1, .reachable = 1)
SEEDED(page_of_the_kernels_is_read, READS, USER_PAGE | PTE_P | PTE_RW | PTE_A, .use = 1, .reachable = 1)
SEEDED(cleared_dirty_bit_is_lost, WRITES, USER_PAGE | USER_RIGHTS | PTE_A, .lost_dirty = 1)

/* Rights added, A cleared, the same again: nothing was taken away. */
static void what_takes_nothing_away_is_silent(void **state)
{
	static const uint64_t entries[] = {
		USER_PAGE | USER_RIGHTS, USER_PAGE | USER_RIGHTS | PTE_A | PTE_D | PTE_PWT, USER_PAGE | USER_RIGHTS | PTE_A | PTE_G,
	};
	STATE;

	for (unsigned n = 0; n < ARRAY_SIZE(entries); n++) {
		program(t, READS);
		change(t, entries[n], false);
	}
	assert_silent(t);
	assert_int_equal(t->m->ghost->count.records, 0);
}

/* --- the kernel's own pages, PCIDs --- */

/* 7: MOV CR3 keeps what is global. */
static void global_page(void **state, bool flush)
{
	STATE;
	struct code k = kernel_code(t);

	W(GUEST_CR4, R(t, GUEST_CR4) | X86_CR4_PGE);
	*pte(t, SHARED) |= PTE_G;
	load(&k, KERNEL + SHARED);
	store(&k, KERNEL + GPA_PT + (SHARED >> 12) * 8, 0);
	mov_cr3(&k, GPA_PML4);
	if (flush)
		invlpg(&k, KERNEL + SHARED);
	load(&k, KERNEL + SHARED);
	B(&k, 0xf4);
	assert_int_equal(run_kernel(t), EXIT_EXCEPTION);
	assert_int_equal(vector(t), X86_TRAP_PF);
	assert_int_equal(told(t, GHOST_USE), flush ? 0 : 1);
	assert_int_equal(told(t, GHOST_REACHABLE), 0);
}

static void global_page_of_the_kernels_is_used(void **state)
{
	global_page(state, false);
}

static void global_page_of_the_kernels_is_used_flushed(void **state)
{
	global_page(state, true);
}

/* 8: the program's PCID is 1. */
static void pcid(void **state, uint64_t which)
{
	STATE;
	struct code k = kernel_code(t);

	W(GUEST_CR4, R(t, GUEST_CR4) | X86_CR4_PCIDE);
	W(SECONDARY_VM_EXEC_CONTROL, R(t, SECONDARY_VM_EXEC_CONTROL) | SECONDARY_EXEC_ENABLE_INVPCID);
	W(GUEST_CR3, GPA_PML4 | 1);
	program(t, READS);
	store(&k, KERNEL + GPA_PT + (USER_PAGE >> 12) * 8, 0);
	invpcid(t, &k, 1, which, 0);
	iret(t, &k);
	assert_int_equal(run_kernel(t), EXIT_EXCEPTION);
	assert_int_equal(told(t, GHOST_REACHABLE), which == 1 ? 0 : 1);
	assert_int_equal(told(t, GHOST_USE), which == 1 ? 0 : 1);
}

static void invpcid_of_the_wrong_pcid(void **state)
{
	pcid(state, 2);
}

static void invpcid_of_the_wrong_pcid_flushed(void **state)
{
	pcid(state, 1);
}

/* The program comes back in another PCID; the old one's translation waits for a flush at its next load. */
static void lazily(void **state, bool strict)
{
	STATE;
	struct code k = kernel_code(t);

	t->m->ghost->strict = strict;
	W(GUEST_CR4, R(t, GUEST_CR4) | X86_CR4_PCIDE);
	W(GUEST_CR3, GPA_PML4 | 1);
	program(t, READS);
	store(&k, KERNEL + GPA_PT + (USER_PAGE >> 12) * 8, 0);
	mov_cr3(&k, GPA_PML4 | 2 | BIT_ULL(63));
	iret(t, &k);
	assert_int_equal(run_kernel(t), EXIT_EXCEPTION);
	assert_int_equal(told(t, GHOST_REACHABLE), strict ? 1 : 0);
	k = kernel_code(t);
	mov_cr3(&k, GPA_PML4 | 1); /* flushes */
	iret(t, &k);
	assert_int_equal(run_kernel(t), EXIT_EXCEPTION);
	assert_int_equal(told(t, GHOST_REACHABLE), strict ? 1 : 0);
	assert_int_equal(told(t, GHOST_USE), 0);
}

static void a_flush_at_the_next_load_of_the_pcid_is_enough(void **state)
{
	lazily(state, false);
}

static void strict_tells_what_another_pcid_still_holds(void **state)
{
	lazily(state, true);
}

/* 9 */
static void order(void **state, bool right)
{
	STATE;
	struct code k = kernel_code(t);

	program(t, READS);
	if (!right)
		invlpg(&k, USER_PAGE);
	/* by the old translation, or the INVLPG would have left nothing */
	load(&k, USER_PAGE);
	store(&k, KERNEL + GPA_PT + (USER_PAGE >> 12) * 8, 0);
	if (right)
		invlpg(&k, USER_PAGE);
	iret(t, &k);
	assert_int_equal(run_kernel(t), EXIT_EXCEPTION);
	assert_int_equal(told(t, GHOST_USE), right ? 0 : 1);
	assert_int_equal(told(t, GHOST_REACHABLE), right ? 0 : 1);
}

static void invlpg_before_the_store(void **state)
{
	order(state, false);
}

static void invlpg_before_the_store_flushed(void **state)
{
	order(state, true);
}

/* --- two processors --- */

struct second {
	struct vmx_cpu *cpu, *first;
	struct vmcs *vmcs, *first_vmcs;
};

/* The machine's registers of the first processor, on another one. */
static struct second second_cpu(struct machine *t)
{
	struct second s = { .first = t->cpu, .first_vmcs = t->vmcs };

	assert_int_equal(vmx_cpu_create(t->m, &s.cpu), 0);
	s.vmcs = test_pages(4096);
	s.vmcs->revision_id = VMCS_REVISION_ID;
	t->cpu = s.cpu;
	t->vmcs = s.vmcs;
	assert_int_equal(vmclear(t->cpu, (hpa_t)t->vmcs), VMX_SUCCEED);
	assert_int_equal(vmptrld(t->cpu, (hpa_t)t->vmcs), VMX_SUCCEED);
	set_controls(t);
	set_host(t);
	set_long_mode(t);
	*guest64(t, GPA_PML4 + 511 * 8) = GPA_PDPT | PTE_P | PTE_RW | PTE_US;
	*pte(t, USER_PAGE) |= PTE_US;
	*pte(t, USER_CODE) |= PTE_US;
	*pte(t, USER_STACK) |= PTE_US;
	*guest64(t, GPA_GDT + 3 * 8) = 0x00affb000000ffffULL;
	*guest64(t, GPA_GDT + 4 * 8) = 0x00cff3000000ffffULL;
	W(VIRTUAL_PROCESSOR_ID, 2);
	W(EXCEPTION_BITMAP, ~0U);
	return s;
}

static void use_cpu(struct machine *t, const struct second *s, bool second)
{
	t->cpu = second ? s->cpu : s->first;
	t->vmcs = second ? s->vmcs : s->first_vmcs;
}

static void end_second(struct machine *t, struct second *s)
{
	use_cpu(t, s, false);
	vmx_cpu_destroy(s->cpu);
	munmap(s->vmcs, 4096);
}

/* 10: the other processor is sent no interrupt; rightly, it flushes before it runs the program again. */
static void two(void **state, bool ipi)
{
	STATE;
	struct second s = second_cpu(t);
	struct code k;

	program(t, READS); /* the second */
	use_cpu(t, &s, false);
	program(t, READS);
	change(t, 0, true);
	assert_silent(t);
	use_cpu(t, &s, true);
	if (ipi) {
		k = kernel_code(t);
		invlpg(&k, USER_PAGE);
		iret(t, &k);
		assert_int_equal(run_kernel(t), EXIT_EXCEPTION);
	} else {
		assert_int_equal(run_user(t), EXIT_EXCEPTION);
	}
	assert_int_equal(vector(t), X86_TRAP_PF);
	assert_int_equal(told(t, GHOST_REACHABLE), ipi ? 0 : 1);
	assert_int_equal(told(t, GHOST_USE), ipi ? 0 : 1);
	end_second(t, &s);
}

static void other_processor_is_not_told(void **state)
{
	two(state, false);
}

static void other_processor_is_not_told_flushed(void **state)
{
	two(state, true);
}

/* With PAE, CR4.PSE does nothing: the first processor has it set and the second has not, as Linux's have. */
static void processors_that_differ_in_pse_are_compared(void **state)
{
	STATE;
	struct second s = second_cpu(t);

	W(GUEST_CR4, R(t, GUEST_CR4) & ~(uint64_t)X86_CR4_PSE);
	program(t, READS);
	use_cpu(t, &s, false);
	W(GUEST_CR4, R(t, GUEST_CR4) | X86_CR4_PSE);
	program(t, READS);
	change(t, 0, true);
	use_cpu(t, &s, true);
	assert_int_equal(run_user(t), EXIT_EXCEPTION);
	assert_int_equal(told(t, GHOST_USE), 1);
	assert_int_equal(t->m->ghost->count.forgotten, 0);
	end_second(t, &s);
}

/* More holds by way of an entry than are compared at a time: all of them get a record. */
static void a_table_with_many_holds_is_compared_whole(void **state)
{
	const unsigned pages = BATCH / 512 + 1;
	STATE;
	struct code k = kernel_code(t);

	for (unsigned n = 0; n < 512; n++)
		guest64(t, GPA_PT2)[n] = (SHARED + n % 8 * 0x1000UL) | PTE_P | PTE_RW;
	for (unsigned n = 0; n < pages; n++) /* one table, by way of many entries */
		guest64(t, GPA_PD)[8 + n] = GPA_PT2 | PTE_P | PTE_RW;
	B(&k, 0x48, 0xbb); /* mov rbx, KERNEL + 16 MiB; mov ecx, number of pages */
	bytes(&k, &(uint64_t){ KERNEL + 0x1000000 }, 8);
	B(&k, 0xb9);
	bytes(&k, &(uint32_t){ pages * 512 }, 4);
	B(&k, 0x48, 0x8b, 0x03, 0x48, 0x81, 0xc3, 0x00, 0x10, 0x00, 0x00, 0xe2, 0xf4); /* 1: mov rax, [rbx]; add rbx, 1000h; loop 1b */
	store(&k, KERNEL + GPA_PDPT, *guest64(t, GPA_PDPT) | BIT_ULL(9)); /* the same to the processor: looked at */
	invlpg(&k, 0x3000);
	B(&k, 0xf4);
	assert_int_equal(run_kernel(t), EXIT_REASON_HLT);
	assert_true(t->m->ghost->count.compared >= pages * 512);
	assert_int_equal(t->m->ghost->count.forgotten, 0);
	assert_int_equal(t->m->ghost->count.records, 0);
	assert_silent(t);
}

/*
 * =spec: the second processor runs in the same tables and never uses the page; the first has. accessed: was
 * the entry's A flag set when it was unmapped?
 */
static void speculate(struct machine *t, bool spec, bool accessed, bool ipi)
{
	struct second s = second_cpu(t);
	struct code u = user_code(t), k;

	t->m->ghost->spec = spec;
	B(&u, 0xf4);
	assert_int_equal(run_user(t), EXIT_EXCEPTION); /* the second */
	use_cpu(t, &s, false);
	if (accessed)
		program(t, READS);
	else
		assert_int_equal(run_user(t), EXIT_EXCEPTION);
	k = kernel_code(t);
	store(&k, KERNEL + GPA_PT + (USER_PAGE >> 12) * 8, 0);
	invlpg(&k, USER_PAGE);
	iret(t, &k);
	assert_int_equal(run_kernel(t), EXIT_EXCEPTION);
	use_cpu(t, &s, true);
	if (ipi)
		assert_int_equal(invvpid(t->cpu, INVVPID_SINGLE_CONTEXT, 2, 0), VMX_SUCCEED);
	u = user_code(t);
	B(&u, 0xf4);
	assert_int_equal(run_user(t), EXIT_EXCEPTION);
	assert_int_equal(vector(t), X86_TRAP_GP);
	assert_int_equal(told(t, GHOST_REACHABLE), spec && accessed && !ipi ? 1 : 0);
	assert_int_equal(told(t, GHOST_USE), 0);
	end_second(t, &s);
}

static void spec_tells_what_may_be_cached_unused(void **state)
{
	speculate(*state, true, true, false);
}

static void spec_tells_what_may_be_cached_unused_flushed(void **state)
{
	speculate(*state, true, true, true);
}

static void spec_knows_what_was_never_accessed(void **state)
{
	speculate(*state, true, false, false);
}

static void what_was_not_used_is_silent_without_spec(void **state)
{
	speculate(*state, false, true, false);
}

/* --- root, strict --- */

#define OTHER_ROOT 0x118000UL
#define FLAG 0x119000UL

static void *spin_in_the_guest(void *arg)
{
	return (void *)(uintptr_t)go(arg);
}

/*
 * The second processor spins in a copy of the tables until the kernel of the first says so by FLAG, and the frame of that
 * copy's root gets a new owner meanwhile; rightly, it has loaded another CR3 before it says by FLAG + 8 that it is there.
 */
static void root(void **state, bool left)
{
	STATE;
	struct second s = second_cpu(t);
	struct machine o = *t;
	struct code k = { t->ram + USER_OTHER, t->ram + USER_OTHER };
	pthread_t thread;
	void *reason;

	memcpy(t->ram + OTHER_ROOT, t->ram + GPA_PML4, 0x1000);
	W(GUEST_CR3, OTHER_ROOT);
	segments(t, false);
	W(GUEST_RIP, KERNEL + USER_OTHER);
	W(GUEST_RSP, KERNEL + GPA_FRAME);
	W(GUEST_RFLAGS, X86_FLAGS_FIXED);
	load(&k, KERNEL + FLAG);
	if (left)
		mov_cr3(&k, GPA_PML4);
	store(&k, KERNEL + FLAG + 8, 1);
	load(&k, KERNEL + FLAG); /* 1: mov rax, [FLAG]; test eax, eax; jz 1b; hlt */
	B(&k, 0x85, 0xc0, 0x74, 0xf2, 0xf4);
	use_cpu(t, &s, false);
	assert_int_equal(pthread_create(&thread, NULL, spin_in_the_guest, &o), 0);
	k = kernel_code(t);
	load(&k, KERNEL + FLAG + 8); /* 1: mov rax, [FLAG + 8]; test eax, eax; jz 1b */
	B(&k, 0x85, 0xc0, 0x74, 0xf2);
	zero_page(&k, KERNEL + OTHER_ROOT);
	store(&k, KERNEL + FLAG, 1);
	B(&k, 0xf4);
	assert_int_equal(run_kernel(t), EXIT_REASON_HLT);
	pthread_join(thread, &reason);
	assert_true((uintptr_t)reason == EXIT_REASON_HLT || (uintptr_t)reason == EXIT_EXCEPTION);
	assert_int_equal(told(t, GHOST_ROOT), left ? 0 : 1);
	end_second(t, &s);
}

static void root_gets_an_owner_while_it_is_loaded(void **state)
{
	root(state, false);
}

static void root_gets_an_owner_while_it_is_loaded_flushed(void **state)
{
	root(state, true);
}

/* A memory type that is changed without a flush takes no right away; =strict tells it. */
static void type_changes(struct machine *t, bool strict, bool flush)
{
	t->m->ghost->strict = strict;
	program(t, READS);
	change(t, USER_PAGE | USER_RIGHTS | PTE_A | PTE_PCD, flush);
	assert_int_equal(told(t, GHOST_REACHABLE), strict && !flush ? 1 : 0);
	assert_int_equal(told(t, GHOST_USE), 0);
}

static void strict_tells_a_changed_memory_type(void **state)
{
	type_changes(*state, true, false);
}

static void strict_tells_a_changed_memory_type_flushed(void **state)
{
	type_changes(*state, true, true);
}

static void a_changed_memory_type_is_silent_without_strict(void **state)
{
	type_changes(*state, false, false);
}

/* The writer's thread never returns, and halts; the processor that is not told runs another thread of the same tables. */
static void quiet(struct machine *t, bool strict, uint64_t ticks)
{
	struct second s = second_cpu(t);
	struct code k, u;

	t->m->ghost->strict = strict;
	t->m->ghost->quiet = ticks;
	W(GUEST_FS_BASE, 0x5000);
	program(t, READS);
	use_cpu(t, &s, false);
	k = kernel_code(t);
	store(&k, KERNEL + GPA_PT + (USER_PAGE >> 12) * 8, 0);
	invlpg(&k, USER_PAGE);
	B(&k, 0xf4);
	assert_int_equal(run_kernel(t), EXIT_REASON_HLT);
	use_cpu(t, &s, true);
	u = user_code(t);
	B(&u, 0xf4);
	assert_int_equal(run_user(t), EXIT_EXCEPTION);
	assert_int_equal(told(t, GHOST_REACHABLE), strict && !ticks ? 1 : 0);
	end_second(t, &s);
}

static void strict_ends_an_operation_when_all_is_quiet(void **state)
{
	quiet(*state, true, 0);
}

static void nothing_is_quiet_too_early(void **state)
{
	quiet(*state, true, ~0ULL >> 1);
}

static void quiet_alone_ends_nothing_without_strict(void **state)
{
	quiet(*state, false, 0);
}

/* vmalloc's lazy purge: a page of the kernel's goes, its frame gets a new owner, nobody uses the old address. */
static void lazy_purge(struct machine *t, bool strict)
{
	struct code k = kernel_code(t);

	t->m->ghost->strict = strict;
	load(&k, KERNEL + SHARED);
	store(&k, KERNEL + GPA_PT + (SHARED >> 12) * 8, 0);
	invlpg(&k, 0x3000); /* of another page: is compared here */
	*pte(t, OTHER_ROOT) = SHARED | PTE_P | PTE_RW;
	zero_page(&k, KERNEL + OTHER_ROOT);
	B(&k, 0xf4);
	assert_int_equal(run_kernel(t), EXIT_REASON_HLT);
	assert_int_equal(told(t, GHOST_REACHABLE), strict ? 1 : 0);
	assert_int_equal(told(t, GHOST_USE), 0);
}

static void strict_tells_a_lazy_purge(void **state)
{
	lazy_purge(*state, true);
}

static void a_lazy_purge_is_silent_without_strict(void **state)
{
	lazy_purge(*state, false);
}

/* Linear page tables: an entry of the top that leads to itself is on a path more than once. */
static void linear_page_tables_are_held_and_forgotten(void **state)
{
	const uint64_t linear = 0xffff000000000000UL | 256UL << 39; /* PML4 entry 256; the PML4 is its own page at each level */
	STATE;
	struct code k = kernel_code(t);

	guest64(t, GPA_PML4)[256] = GPA_PML4 | PTE_P | PTE_RW;
	for (unsigned n = 0; n < 3; n++) {
		load(&k, linear);				/* PML4, PDPT, PD of it: at 0 */
		load(&k, linear | 256UL << 30 | 256UL << 21 | 256UL << 12);
		store(&k, KERNEL + GPA_PML4 + 256 * 8, GPA_PML4 | PTE_P | PTE_RW | PTE_A | BIT_ULL(9 + n % 2));
		mov_cr3(&k, GPA_PML4);
		load(&k, KERNEL + SHARED);
	}
	store(&k, KERNEL + GPA_PML4 + 256 * 8, 0);
	invlpg(&k, linear | 256UL << 30 | 256UL << 21 | 256UL << 12);
	invlpg(&k, linear);
	B(&k, 0xf4);
	assert_int_equal(run_kernel(t), EXIT_REASON_HLT);
	assert_silent(t);
	/* each hold that is free is in the list of these once */
	for (uint32_t n = t->m->ghost->free_hold, left = t->m->ghost->used_holds; n; n = t->m->ghost->hold[n].next)
		assert_true(left--);
}

/* A hypervisor's flush counts (KVM_FEATURE_PV_TLB_FLUSH): before the processor is entered again. */
static void a_flush_by_the_hypervisor_counts(void **state)
{
	STATE;
	struct second s = second_cpu(t);

	program(t, READS);
	use_cpu(t, &s, false);
	program(t, READS);
	change(t, 0, true);
	use_cpu(t, &s, true);
	assert_int_equal(invvpid(t->cpu, INVVPID_SINGLE_CONTEXT, 2, 0), VMX_SUCCEED);
	assert_int_equal(run_user(t), EXIT_EXCEPTION);
	assert_silent(t);
	end_second(t, &s);
}

/* 12b: who takes the page never returns to user mode, but gives the frame to somebody else. */
static void recycled(void **state, bool ipi)
{
	STATE;
	struct second s = second_cpu(t);
	struct code k;

	program(t, READS);
	use_cpu(t, &s, false);
	k = kernel_code(t);
	store(&k, KERNEL + GPA_PT + (USER_PAGE >> 12) * 8, 0);
	invlpg(&k, USER_PAGE);
	zero_page(&k, KERNEL + USER_OTHER); /* the boundary between blocks; another frame */
	if (ipi) {
		/* acknowledged before the frame is used again */
		B(&k, 0xf4);
		assert_int_equal(run_kernel(t), EXIT_REASON_HLT);
		use_cpu(t, &s, true);
		assert_int_equal(invvpid(t->cpu, INVVPID_SINGLE_CONTEXT, 2, 0), VMX_SUCCEED);
		use_cpu(t, &s, false);
		k = kernel_code(t);
	}
	*pte(t, SHARED) = USER_PAGE | PTE_P | PTE_RW; /* the kernel's mapping of all memory */
	zero_page(&k, KERNEL + SHARED);
	B(&k, 0xf4);
	assert_int_equal(run_kernel(t), EXIT_REASON_HLT);
	assert_silent(t);
	use_cpu(t, &s, true);
	assert_int_equal(run_user(t), EXIT_EXCEPTION);
	assert_int_equal(told(t, GHOST_REACHABLE), ipi ? 0 : 1);
	end_second(t, &s);
}

static void frame_gets_an_owner_too_early(void **state)
{
	recycled(state, false);
}

static void frame_gets_an_owner_too_early_flushed(void **state)
{
	recycled(state, true);
}

/* --- tables --- */

#define REGION (KERNEL + 0x200000UL)
#define NOFLUSH BIT_ULL(63)

/* 11: the PDE goes, INVLPG is executed in another PCID, the table's frame is used again. */
static void table(void **state, bool right)
{
	STATE;
	struct code k = kernel_code(t);

	for (unsigned n = 0; n < 512; n++)
		guest64(t, GPA_PT2)[n] = (SHARED + n * 0x1000UL) | PTE_P | PTE_RW;
	*guest64(t, GPA_PD + 8) = GPA_PT2 | PTE_P | PTE_RW;
	W(GUEST_CR4, R(t, GUEST_CR4) | X86_CR4_PCIDE);
	W(GUEST_CR3, GPA_PML4 | 1);
	load(&k, REGION);
	mov_cr3(&k, GPA_PML4 | 2 | NOFLUSH);
	store(&k, KERNEL + GPA_PD + 8, 0);
	invlpg(&k, REGION);
	mov_cr3(&k, GPA_PML4 | 1 | (right ? 0 : NOFLUSH));
	zero_page(&k, KERNEL + GPA_PT2);
	B(&k, 0xf4);
	assert_int_equal(run_kernel(t), EXIT_REASON_HLT);
	assert_int_equal(told(t, GHOST_TABLE), right ? 0 : 1);
	assert_int_equal(told(t, GHOST_USE) + told(t, GHOST_REACHABLE), 0);
}

static void table_is_freed_while_it_may_be_walked(void **state)
{
	table(state, false);
}

static void table_is_freed_while_it_may_be_walked_flushed(void **state)
{
	table(state, true);
}

/* A table gives way to a large page elsewhere: at once, or by way of nothing. Even the INVLPG behind it comes too late. */
static void grow(void **state, bool strict, bool by_nothing, uint64_t frame)
{
	STATE;
	struct code k = kernel_code(t);

	t->m->ghost->strict = strict;
	for (unsigned n = 0; n < 512; n++)
		guest64(t, GPA_PT2)[n] = (n * 0x1000UL) | PTE_P | PTE_RW;
	*guest64(t, GPA_PD + 8) = GPA_PT2 | PTE_P | PTE_RW;
	load(&k, REGION + 0x3000);
	if (by_nothing) {
		store(&k, KERNEL + GPA_PD + 8, 0);
		invlpg(&k, REGION + 0x3000);
	}
	store(&k, KERNEL + GPA_PD + 8, frame | PTE_P | PTE_RW | PTE_PS);
	invlpg(&k, REGION + 0x3000);
	load(&k, REGION + 0x3000);
	B(&k, 0xf4);
	assert_int_equal(run_kernel(t), EXIT_REASON_HLT);
	assert_int_equal(told(t, GHOST_SIZE), strict && !by_nothing && frame ? 1 : 0);
	assert_int_equal(told(t, GHOST_USE) + told(t, GHOST_REACHABLE), 0);
}

static void strict_tells_size_and_frame_that_change_at_once(void **state)
{
	grow(state, true, false, 0x200000);
}

static void strict_tells_size_and_frame_that_change_at_once_flushed(void **state)
{
	grow(state, true, true, 0x200000);
}

static void a_size_that_changes_alone_is_silent(void **state)
{
	grow(state, true, false, 0);
}

static void size_and_frame_are_silent_without_strict(void **state)
{
	grow(state, false, false, 0x200000);
}

/* 12a: a PDPTE of PAE paging is in a register until CR3 is loaded. */
static void pae(void **state, bool right)
{
	STATE;
	uint32_t frame[] = { USER_CODE, 0x2b, X86_FLAGS_FIXED, USER_STACK + 0x800, 0x23 };
	uint8_t *k = t->ram + GPA_CODE, *u = t->ram + USER_CODE;
	const uint32_t page = 0x40000000 + USER_PAGE, pdpte = GPA_PDPT_PAE + 8;

	guest64(t, GPA_PDPT_PAE)[0] = guest64(t, GPA_PDPT_PAE)[1] = GPA_PD | PTE_P;
	*guest64(t, GPA_PD) = GPA_PT | USER_RIGHTS;
	W(VM_ENTRY_CONTROLS, R(t, VM_ENTRY_CONTROLS) & ~(uint64_t)VM_ENTRY_IA32E_MODE);
	W(GUEST_IA32_EFER, 0);
	W(GUEST_CR3, GPA_PDPT_PAE);
	W(GUEST_PDPTR0, GPA_PD | PTE_P);
	W(GUEST_PDPTR1, GPA_PD | PTE_P);
	memcpy(t->ram + GPA_FRAME, frame, sizeof(frame));
	u[0] = 0xa1; /* mov eax, [page] */
	memcpy(u + 1, &page, 4);
	u[5] = 0xf4;
	set_segment(t, SREG_CS, 0x2b, 0, 0xffffffff, 0xc0fb);
	set_segment(t, SREG_SS, 0x23, 0, 0xffffffff, 0xc0f3);
	W(GUEST_RIP, USER_CODE);
	assert_int_equal(go(t), EXIT_EXCEPTION);
	assert_int_equal(vector(t), X86_TRAP_GP);

	memcpy(k, "\xc7\x05", 2); /* movl $0, pdpte */
	memcpy(k + 2, &pdpte, 4);
	memset(k + 6, 0, 4);
	memcpy(k + 10, right ? "\x0f\x20\xd8\x0f\x22\xd8" : "\x90\x90\x90\x90\x90\x90", 6); /* mov eax, cr3; mov cr3, eax */
	k[16] = 0xcf;
	*guest64(t, GPA_GDT + 8) = 0x00cf9b000000ffffULL;
	set_segment(t, SREG_CS, 8, 0, 0xffffffff, 0xc09b);
	set_segment(t, SREG_SS, 16, 0, 0xffffffff, 0xc093);
	W(GUEST_RIP, GPA_CODE);
	W(GUEST_RSP, GPA_FRAME);
	assert_int_equal(go(t), EXIT_EXCEPTION);
	assert_int_equal(told(t, GHOST_REACHABLE), right ? 0 : 1);
}

static void pdpte_is_cleared_without_mov_cr3(void **state)
{
	pae(state, false);
}

static void pdpte_is_cleared_without_mov_cr3_flushed(void **state)
{
	pae(state, true);
}

/* --- the legal window, limits, life --- */

/* Between store and flush the kernel looks at the page: nothing has ended yet. */
static void a_use_in_the_legal_window_is_silent(void **state)
{
	STATE;
	struct code k = kernel_code(t);

	program(t, READS);
	store(&k, KERNEL + GPA_PT + (USER_PAGE >> 12) * 8, USER_OTHER | USER_RIGHTS);
	mov_cr3(&k, GPA_PML4); /* a new page of the program's: not a flush of the other one's */
	load(&k, USER_PAGE);
	invlpg(&k, USER_PAGE);
	iret(t, &k);
	assert_int_equal(run_kernel(t), EXIT_EXCEPTION);
	assert_silent(t);
}

/* An entry that is taken away and comes back before anybody looks. */
static void an_entry_that_comes_back_is_silent(void **state)
{
	STATE;
	struct code k = kernel_code(t);
	gva_t at = KERNEL + GPA_PT + (USER_PAGE >> 12) * 8;

	program(t, READS);
	store(&k, at, 0);
	invlpg(&k, 0x3000); /* is compared here */
	store(&k, at, USER_PAGE | USER_RIGHTS | PTE_A);
	iret(t, &k);
	assert_int_equal(run_kernel(t), EXIT_EXCEPTION);
	assert_int_equal(vector(t), X86_TRAP_GP);
	assert_silent(t);
	assert_int_equal(t->m->ghost->count.records, 1);
}

/* Of hidden invalidations and, one each here, of records. */
static void recall(struct machine *t, unsigned owed, unsigned in_reach, unsigned told)
{
	struct ghost *g = t->m->ghost;

	g->deaf = 1;
	for (uint32_t n = 1; n <= g->used_records; n++)
		if (g->record[n].hold)
			hold_free(g, g->record[n].hold);
	assert_int_equal(g->count.hidden_owed, owed);
	assert_int_equal(g->count.records_owed, owed);
	assert_int_equal(g->count.hidden_in_reach, in_reach);
	assert_int_equal(g->count.records_in_reach, in_reach);
	assert_int_equal(g->count.hidden_told, told);
	assert_int_equal(g->count.records_told, told);
}

/* USERKVM_GHOST_DEAF hides invalidations from the checker: right guests get reports, each of a hidden one. */
static void a_hidden_invalidation_is_reported(void **state)
{
	STATE;

	t->m->ghost->deaf = 1;
	program(t, READS);
	change(t, 0, true);
	assert_int_equal(told(t, GHOST_REACHABLE), 1);
	assert_int_equal(told(t, GHOST_USE), 1);
	assert_int_equal(t->m->ghost->count.reports_of_hidden, 2);
	recall(t, 1, 1, 1);
}

/* Hidden too: an invalidation that was not needed, and one that another covers before the program runs again. */
static void what_no_program_could_use_was_not_in_reach(void **state)
{
	STATE;
	struct code k = kernel_code(t);

	program(t, READS);
	t->m->ghost->deaf = 1;
	invlpg(&k, USER_PAGE);
	store(&k, KERNEL + GPA_PT + (USER_PAGE >> 12) * 8, 0);
	invlpg(&k, USER_PAGE);
	B(&k, 0x0f, 0x0b);
	assert_int_equal(run_kernel(t), EXIT_EXCEPTION);
	t->m->ghost->deaf = 1000; /* none of the next is hidden */
	k = kernel_code(t);
	mov_cr3(&k, GPA_PML4);
	iret(t, &k);
	assert_int_equal(run_kernel(t), EXIT_EXCEPTION);
	assert_silent(t);
	assert_int_equal(t->m->ghost->count.hidden, 2);
	recall(t, 1, 0, 0);
}

static void reports_of_suppressed_addresses_are_not_counted(void **state)
{
	STATE;
	struct ghost *g = t->m->ghost;

	g->suppress.range[0].start = GPA_CODE;
	g->suppress.range[0].end = GPA_CODE + 0x1000;
	g->suppress.nr = 1;
	program(t, READS);
	change(t, 0, false);
	assert_silent(t);
	assert_int_equal(g->suppress.range[0].hits, 2);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#define BOTH(f) T(f), T(f##_flushed)

int main(void)
{
	const struct CMUnitTest tests[] = {
		BOTH(unmapped_page_is_reachable_and_read),
		BOTH(remapped_page_is_read_at_its_old_frame),
		BOTH(write_protected_page_is_written),
		BOTH(page_without_execution_is_run),
		BOTH(page_of_the_kernels_is_read),
		BOTH(cleared_dirty_bit_is_lost),
		BOTH(global_page_of_the_kernels_is_used),
		BOTH(invpcid_of_the_wrong_pcid),
		BOTH(invlpg_before_the_store),
		BOTH(other_processor_is_not_told),
		BOTH(table_is_freed_while_it_may_be_walked),
		BOTH(pdpte_is_cleared_without_mov_cr3),
		BOTH(frame_gets_an_owner_too_early),
		T(a_flush_at_the_next_load_of_the_pcid_is_enough),
		T(strict_tells_what_another_pcid_still_holds),
		T(processors_that_differ_in_pse_are_compared),
		T(a_table_with_many_holds_is_compared_whole),
		BOTH(spec_tells_what_may_be_cached_unused),
		T(spec_knows_what_was_never_accessed),
		T(what_was_not_used_is_silent_without_spec),
		BOTH(root_gets_an_owner_while_it_is_loaded),
		BOTH(strict_tells_a_changed_memory_type),
		T(a_changed_memory_type_is_silent_without_strict),
		BOTH(strict_tells_size_and_frame_that_change_at_once),
		T(a_size_that_changes_alone_is_silent),
		T(size_and_frame_are_silent_without_strict),
		T(strict_ends_an_operation_when_all_is_quiet),
		T(nothing_is_quiet_too_early),
		T(quiet_alone_ends_nothing_without_strict),
		T(strict_tells_a_lazy_purge),
		T(a_lazy_purge_is_silent_without_strict),
		T(linear_page_tables_are_held_and_forgotten),
		T(a_flush_by_the_hypervisor_counts),
		T(what_takes_nothing_away_is_silent),
		T(a_use_in_the_legal_window_is_silent),
		T(an_entry_that_comes_back_is_silent),
		T(a_hidden_invalidation_is_reported),
		T(what_no_program_could_use_was_not_in_reach),
		T(reports_of_suppressed_addresses_are_not_counted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
