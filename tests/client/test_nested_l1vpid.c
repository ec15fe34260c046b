/*
 * USERKVM_CHECK=l1vpid: hypervisors with one bug each, which is reported exactly once, and the same without it, which
 * is silent. L2 has no EPT in most, so that its paging structures are L1's (shadow page tables).
 *
 * L2 reads page 60000h and writes page 61000h; L1 changes L2's tables or GUEST_CR3, does or does not invalidate, and
 * enters L2 again.
 */
#include "l1_bugs.h"

/* L2's paging structures, of four levels, and others that are the same but for page 60h */
#define AT_PML4 0x58000
#define AT_OTHER 0x5c000
#define PTE 0x67ull /* present, writable, user, A, D */
#define PTE_G (1ull << 8)
#define VPID 5

enum flush { NONE, RIGHT, ALL, GLOBALS_STAY, PAGE, WRONG_PAGE, WRONG_VPID, INVEPT_INSTEAD, CLEAR_INSTEAD };

struct bug {
	unsigned table;	 /* page of the tables, from AT_PML4 on */
	unsigned index;	 /* of the entry */
	uint64_t entry;
	enum flush flush;
	bool faults;	 /* L2's next exit is its page fault */
	bool global;	 /* page 60h is */
};

static const struct bug *bug;
static enum flush how;

static void invvpid(struct client *c, unsigned type, uint64_t vpid, uint64_t address)
{
	nested_operand(c)[0] = vpid;
	nested_operand(c)[1] = address;
	assert_succeeds(nested_do(c, INVVPID, type, AT_TEST));
}

static void flush(struct client *c)
{
	switch (how) {
	case RIGHT: invvpid(c, 1, VPID, 0); break;
	case ALL: invvpid(c, 2, 0, 0); break;
	case GLOBALS_STAY: invvpid(c, 3, VPID, 0); break;
	case PAGE: invvpid(c, 0, VPID, 0x60abc); break;
	case WRONG_PAGE: invvpid(c, 0, VPID, 0x62000); break;
	case WRONG_VPID: invvpid(c, 1, VPID + 1, 0); break;
	case INVEPT_INSTEAD:
		nested_operand(c)[0] = nested_operand(c)[1] = 0;
		assert_succeeds(nested_do(c, INVEPT, 2, AT_TEST));
		break;
	case CLEAR_INSTEAD:
		assert_succeeds(nested_ptr(c, VMCLEAR, AT_VMCS));
		assert_succeeds(nested_ptr(c, VMPTRLD, AT_VMCS));
		break;
	default: break;
	}
}

static void fill_tables(struct client *c, uint64_t at)
{
	uint64_t *t = (uint64_t *)(c->mem + at);

	memset(t, 0, 0x4000);
	t[0] = (at + 0x1000) | PTE;
	t[512] = (at + 0x2000) | PTE;
	t[1024] = (at + 0x3000) | PTE;
	for (unsigned i = 0; i < 512; i++)
		t[1536 + i] = i * 4096 | PTE;
}

static void use_vpid(struct client *c, uint64_t vpid)
{
	nested_set_bits(c, SECONDARY, 1u << 5);
	nested_vmwrite(c, VIRTUAL_PROCESSOR_ID, vpid);
	nested_vmwrite(c, EXCEPTION_BITMAP, 1u << 14);
	nested_vmwrite(c, GUEST_CR0, nested_vmread(c, GUEST_CR0) | 1u << 16); /* WP */
	nested_vmwrite(c, GUEST_CR3, AT_PML4);
}

static bool open_vpid(struct client *c)
{
	if (!nested_open_l2(c))
		return false;
	fill_tables(c, AT_PML4);
	fill_tables(c, AT_OTHER);
	((uint64_t *)(c->mem + AT_OTHER))[1536 + 0x60] = 0x70000 | PTE;
	use_vpid(c, VPID);
	/* mov rbx, [0x60000]; mov [0x61000], rbx; cpuid */
	nested_l2_code(c, "\x48\x8b\x1c\x25\x00\x00\x06\x00\x48\x89\x1c\x25\x00\x10\x06\x00\x0f\xa2", 18);
	return true;
}

static void again(struct client *c, enum snippet with, bool faults)
{
	nested_vmwrite(c, GUEST_RIP, AT_L2);
	assert_int_equal(nested_enter(c, with), faults ? EXIT_REASON_EXCEPTION_NMI : EXIT_REASON_CPUID);
}

static void use_change_use(struct client *c)
{
	if (bug->global) {
		nested_vmwrite(c, GUEST_CR4, nested_vmread(c, GUEST_CR4) | 1u << 7);
		((uint64_t *)(c->mem + AT_PML4))[1536 + 0x60] |= PTE_G;
	}
	again(c, VMLAUNCH, false);
	nested_do(c, STORE, AT_PML4 + bug->table * 0x1000 + bug->index * 8, bug->entry);
	flush(c);
	again(c, how == CLEAR_INSTEAD ? VMLAUNCH : VMRESUME, bug->faults);
}

static void one(void (*body)(struct client *), enum flush f, unsigned want)
{
	struct client c;

	how = f;
	if (!open_vpid(&c))
		skip();
	assert_int_equal(l1_reports(said(body, &c), "l1vpid"), want);
	client_close(&c);
}

static void run(const struct bug *b, enum flush f, unsigned want)
{
	bug = b;
	one(use_change_use, f, want);
}

#define BUG(name, ...)                                             \
	static const struct bug name##_bug = { __VA_ARGS__ };      \
	static void name(void **state)                             \
	{                                                          \
		run(&name##_bug, name##_bug.flush, 1);             \
	}                                                          \
	static void name##_flushed(void **state)                   \
	{                                                          \
		run(&name##_bug, RIGHT, 0);                        \
	}

BUG(page_is_unmapped, 3, 0x60, 0, NONE, true)
BUG(page_is_moved, 3, 0x60, 0x70000 | PTE, NONE, false)
BUG(page_is_write_protected, 3, 0x61, 0x61000 | (PTE & ~2ull), NONE, true)
BUG(table_is_taken_out, 2, 0, 0, NONE, true)
BUG(directory_is_taken_out, 1, 0, 0, NONE, true)
BUG(invvpid_of_another_vpid, 3, 0x60, 0, WRONG_VPID, true)
BUG(invvpid_of_another_page, 3, 0x60, 0, WRONG_PAGE, true)
BUG(invept_in_place_of_invvpid, 3, 0x60, 0, INVEPT_INSTEAD, true)
BUG(vmclear_in_place_of_invvpid, 3, 0x60, 0, CLEAR_INSTEAD, true)
BUG(invvpid_that_keeps_globals, 3, 0x60, 0x70000 | PTE | PTE_G, GLOBALS_STAY, false, true)

static void other_invvpids_are_enough(void **state)
{
	run(&page_is_unmapped_bug, ALL, 0);
	run(&page_is_unmapped_bug, PAGE, 0);
	run(&page_is_unmapped_bug, GLOBALS_STAY, 0);
}

static void what_takes_nothing_away_is_silent(void **state)
{
	static const struct bug split = { 3, 0x60, 0x60000 | 7 | 1ull << 9, NONE, false }; /* A and D cleared, a bit of software's */
	static const struct bug unused = { 3, 0x90, 0, NONE, false };
	static const struct bug less = { 3, 0x60, 0x60000 | (PTE & ~2ull), NONE, false }; /* it is only read */

	run(&split, NONE, 0);
	run(&unused, NONE, 0);
	run(&less, NONE, 0);
}

/* L1 emulates MOV CR3 */
static void change_cr3(struct client *c)
{
	again(c, VMLAUNCH, false);
	nested_vmwrite(c, GUEST_CR3, AT_OTHER);
	flush(c);
	again(c, VMRESUME, false);
}

/* INVVPID comes before the write, and L2 runs between them. */
static void invvpid_first(struct client *c)
{
	again(c, VMLAUNCH, false);
	invvpid(c, 1, VPID, 0);
	again(c, VMRESUME, false);
	nested_do(c, STORE, AT_PML4 + 0x3300, 0);
	flush(c);
	again(c, VMRESUME, true);
}

/* The VPID of one guest is given to another one. */
static void vpid_is_given_on(struct client *c)
{
	again(c, VMLAUNCH, false);
	assert_succeeds(nested_ptr(c, VMCLEAR, AT_VMCS2));
	assert_succeeds(nested_ptr(c, VMPTRLD, AT_VMCS2));
	nested_fill_vmcs(c);
	use_vpid(c, VPID);
	nested_vmwrite(c, GUEST_CR3, AT_OTHER);
	flush(c);
	again(c, VMLAUNCH, false);
}

/* With EPT: L2's MOV CR3 is emulated all the same. */
static void change_cr3_with_ept(struct client *c)
{
	nested_use_ept(c);
	change_cr3(c);
}

/* By the first use of each VPID L2's VMCS has another one; the second VPID's translations are still there. */
static void two_vpids(struct client *c)
{
	again(c, VMLAUNCH, false);
	nested_vmwrite(c, VIRTUAL_PROCESSOR_ID, VPID + 1);
	again(c, VMRESUME, false);
	nested_do(c, STORE, AT_PML4 + 0x3300, 0x70000 | PTE);
	invvpid(c, 1, VPID + 1, 0);
	again(c, VMRESUME, false);
	nested_vmwrite(c, VIRTUAL_PROCESSOR_ID, VPID);
	flush(c);
	again(c, VMRESUME, false);
}

#define BUG_OF(name, body)                                              \
	static void name(void **state) { one(body, NONE, 1); }          \
	static void name##_flushed(void **state) { one(body, RIGHT, 0); }

BUG_OF(guest_cr3_is_another, change_cr3)
BUG_OF(guest_cr3_is_another_with_ept, change_cr3_with_ept)
BUG_OF(invvpid_before_the_write, invvpid_first)
BUG_OF(vpid_has_a_new_guest, vpid_is_given_on)
BUG_OF(one_vpid_of_two_is_forgotten, two_vpids)

static bool halts;

/* The other vCPU changes the tables and invalidates at home. Unless it goes on to something else, its shoot-down may be on its way. */
static void two_vcpus(struct client *c)
{
	struct client o = nested_second_vcpu(c);

	again(c, VMLAUNCH, false);
	nested_do(&o, STORE, AT_PML4 + 0x3300, 0x70000 | PTE);
	invvpid(&o, 2, 0, 0);
	if (halts)
		l1_halts(&o);
	flush(c);
	again(c, VMRESUME, false);
	munmap(o.run, o.run_size);
	close(o.vcpu);
}

static void invvpid_on_the_wrong_vcpu(void **state)
{
	halts = true;
	one(two_vcpus, NONE, 1);
}

static void invvpid_on_the_wrong_vcpu_flushed(void **state)
{
	halts = true;
	one(two_vcpus, RIGHT, 0);
}

static void a_use_in_the_legal_window_is_silent(void **state)
{
	halts = false;
	one(two_vcpus, NONE, 0);
}

/* The same where the other vCPU has run its own L2 meanwhile: no L2 stores to these tables, so that L1 has changed them. */
static void two_vcpus_with_an_l2_each(struct client *c)
{
	struct client o = nested_second_vcpu(c);

	again(c, VMLAUNCH, false);
	use_vpid(&o, VPID);
	again(&o, VMLAUNCH, false);
	nested_do(c, STORE, AT_PML4 + 0x3300, 0x70000 | PTE);
	l1_halts(&o);
	flush(c);
	again(c, VMRESUME, false);
	munmap(o.run, o.run_size);
	close(o.vcpu);
}

BUG_OF(an_l2_on_each_vcpu, two_vcpus_with_an_l2_each)

/* L2 uses 5,120 other pages before L1 changes the one. */
static void many_pages(struct client *c)
{
	uint64_t *pd = (uint64_t *)(c->mem + AT_PML4 + 0x2000);

	for (unsigned n = 1; n <= 10; n++)
		pd[n] = (AT_OTHER + 0x3000) | PTE;
	/* mov rbx, [60000h]; mov ecx, 5120; mov eax, 200000h; 1: mov rdx, [rax]; add rax, 1000h; loop 1b; cpuid */
	nested_l2_code(c, "\x48\x8b\x1c\x25\x00\x00\x06\x00\xb9\x00\x14\x00\x00\xb8\x00\x00\x20\x00"
			  "\x48\x8b\x10\x48\x05\x00\x10\x00\x00\xe2\xf5\x0f\xa2", 31);
	again(c, VMLAUNCH, false);
	nested_do(c, STORE, AT_PML4 + 0x3300, 0x70000 | PTE);
	flush(c);
	again(c, VMRESUME, false);
}

BUG_OF(one_page_of_many, many_pages)

static void run_idle(struct client *c)
{
	memcpy(c->mem + AT_L2 + 0x800, "\x0f\xa2", 2); /* CPUID */
	nested_vmwrite(c, GUEST_RIP, AT_L2 + 0x800);
	assert_int_equal(nested_enter(c, VMRESUME), EXIT_REASON_CPUID);
}

/* L2 runs with a page in reach that it does not use again. */
static void only_in_reach(struct client *c)
{
	again(c, VMLAUNCH, false);
	nested_do(c, STORE, AT_PML4 + 0x3300, 0);
	flush(c);
	for (int n = 0; n < 3; n++)
		run_idle(c);
}

/* The INVVPID comes when L2 has run. */
static void invvpid_too_late(struct client *c)
{
	again(c, VMLAUNCH, false);
	nested_do(c, STORE, AT_PML4 + 0x3300, 0);
	flush(c);
	run_idle(c);
	invvpid(c, 1, VPID, 0);
	run_idle(c);
}

/* More rights, or none other, are no loss: nobody could tell. */
static void rights_are_added(struct client *c)
{
	nested_do(c, STORE, AT_PML4 + 0x3300, 0x60000 | (PTE & ~2ull));
	again(c, VMLAUNCH, false);
	nested_do(c, STORE, AT_PML4 + 0x3300, 0x60000 | PTE);
	for (int n = 0; n < 3; n++)
		run_idle(c);
}

/* =strict */
static void strictly(void (*body)(struct client *), enum flush with, unsigned want)
{
	setenv("USERKVM_CHECK", "l1vpid,strict", 1);
	one(body, with, want);
	setenv("USERKVM_CHECK", "l1vpid", 1);
}

static void strict_tells_a_page_in_reach(void **state)
{
	strictly(only_in_reach, NONE, 1);
	strictly(only_in_reach, RIGHT, 0);
	strictly(rights_are_added, NONE, 0);
	one(only_in_reach, NONE, 0);
}

static void strict_tells_an_invvpid_behind_the_entry(void **state)
{
	strictly(invvpid_too_late, NONE, 1);
	strictly(invvpid_too_late, RIGHT, 0);
	one(invvpid_too_late, NONE, 0);
}

/* Without a VPID each VM entry invalidates. */
static void no_vpid(struct client *c)
{
	nested_vmwrite(c, SECONDARY, nested_vmread(c, SECONDARY) & ~(1u << 5));
	again(c, VMLAUNCH, false);
	nested_do(c, STORE, AT_PML4 + 0x3300, 0x70000 | PTE);
	again(c, VMRESUME, false);
}

/* L2 changes its tables itself, and leaves the INVLPG out: no bug of L1's. */
static void l2_itself(struct client *c)
{
	/* mov rbx, [0x60000]; mov qword [0x5b300], 0x70067; cpuid */
	nested_l2_code(c, "\x48\x8b\x1c\x25\x00\x00\x06\x00\x48\xc7\x04\x25\x00\xb3\x05\x00\x67\x00\x07\x00\x0f\xa2", 22);
	again(c, VMLAUNCH, false);
	again(c, VMRESUME, false);
}

/* L2 moves CR3 itself: its translations are gone, whatever L1 does then. */
static void l2_moves_cr3(struct client *c)
{
	/* mov rbx, [0x60000]; mov rax, cr3; mov cr3, rax; cpuid */
	nested_l2_code(c, "\x48\x8b\x1c\x25\x00\x00\x06\x00\x0f\x20\xd8\x0f\x22\xd8\x0f\xa2", 16);
	nested_vmwrite(c, CPU_BASED_VM_EXEC_CONTROL, nested_vmread(c, CPU_BASED_VM_EXEC_CONTROL) & ~(3u << 15));
	again(c, VMLAUNCH, false);
	nested_do(c, STORE, AT_PML4 + 0x3300, 0x70000 | PTE);
	again(c, VMRESUME, false);
}

static void what_is_no_bug_of_l1s_is_silent(void **state)
{
	one(no_vpid, NONE, 0);
	one(l2_itself, NONE, 0);
	one(l2_moves_cr3, NONE, 0);
}

static void unmap_in_suppressed_code(unsigned want)
{
	run(&page_is_unmapped_bug, NONE, want);
}

static void suppressed_reports_are_not_told(void **state)
{
	l1_suppressed(unmap_in_suppressed_code);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		BOTH(page_is_unmapped),
		BOTH(page_is_moved),
		BOTH(page_is_write_protected),
		BOTH(table_is_taken_out),
		BOTH(directory_is_taken_out),
		BOTH(invvpid_of_another_vpid),
		BOTH(invvpid_of_another_page),
		BOTH(invept_in_place_of_invvpid),
		BOTH(vmclear_in_place_of_invvpid),
		BOTH(invvpid_that_keeps_globals),
		cmocka_unit_test(other_invvpids_are_enough),
		cmocka_unit_test(what_takes_nothing_away_is_silent),
		BOTH(guest_cr3_is_another),
		BOTH(guest_cr3_is_another_with_ept),
		BOTH(invvpid_before_the_write),
		BOTH(vpid_has_a_new_guest),
		BOTH(one_vpid_of_two_is_forgotten),
		BOTH(invvpid_on_the_wrong_vcpu),
		BOTH(an_l2_on_each_vcpu),
		BOTH(one_page_of_many),
		cmocka_unit_test(strict_tells_a_page_in_reach),
		cmocka_unit_test(strict_tells_an_invvpid_behind_the_entry),
		cmocka_unit_test(a_use_in_the_legal_window_is_silent),
		cmocka_unit_test(what_is_no_bug_of_l1s_is_silent),
		cmocka_unit_test(suppressed_reports_are_not_told),
	};

	return l1_bugs_main("l1vpid", tests);
}
