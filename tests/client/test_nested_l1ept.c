/*
 * USERKVM_CHECK=l1ept: hypervisors with one bug each, which is reported exactly once, and the same
 * without it, which is silent. Nothing else notices: L2 sees each change of EPT12 at once here.
 *
 * L2 reads page 60000h and writes page 61000h; L1 changes EPT12, does or does not invalidate,
 * and enters L2 again.
 */
#include "l1_bugs.h"

#define EPTP_BITS (3u << 3 | 6)
#define OTHER_EPTP (0x58000 | EPTP_BITS)

/* L1 builds other tables for the same root: all as before, but for page 60h */
#define NEW_PDPT 0x54000
#define EPTP_AD (1u << 6)
#define EPT_A (1u << 8)
#define EPT_D (1u << 9)

enum flush { NONE, RIGHT, ALL, WRONG_EPTP, INVVPID_INSTEAD, CLEAR_INSTEAD, VMXOFF_INSTEAD };

struct bug {
	unsigned table;	 /* page of EPT12, from AT_EPT on */
	unsigned index;	 /* of the entry */
	uint64_t entry;
	enum flush flush;
	bool violates;	 /* L2's next exit is an EPT violation */
};

static const struct bug *bug;

static void invept(struct client *c, unsigned type, uint64_t eptp)
{
	nested_operand(c)[0] = eptp;
	nested_operand(c)[1] = 0;
	assert_succeeds(nested_do(c, INVEPT, type, AT_TEST));
}

static void flush(struct client *c)
{
	switch (bug->flush) {
	case RIGHT: invept(c, 1, AT_EPT | EPTP_BITS); break;
	case ALL: invept(c, 2, 0); break;
	case WRONG_EPTP: invept(c, 1, OTHER_EPTP); break;
	case INVVPID_INSTEAD:
		nested_operand(c)[0] = nested_operand(c)[1] = 0;
		assert_succeeds(nested_do(c, INVVPID, 2, AT_TEST));
		break;
	case CLEAR_INSTEAD:
	case VMXOFF_INSTEAD:
		assert_succeeds(nested_ptr(c, VMCLEAR, AT_VMCS));
		if (bug->flush == VMXOFF_INSTEAD) {
			assert_succeeds(nested_do(c, VMXOFF, 0, 0));
			assert_succeeds(nested_ptr(c, VMXON, AT_VMXON));
		}
		assert_succeeds(nested_ptr(c, VMPTRLD, AT_VMCS));
		break;
	default: break;
	}
}

static void use_change_use(struct client *c)
{
	bool launch = bug->flush == CLEAR_INSTEAD || bug->flush == VMXOFF_INSTEAD;

	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_CPUID);
	nested_do(c, STORE, AT_EPT + bug->table * 0x1000 + bug->index * 8, bug->entry);
	flush(c);
	nested_vmwrite(c, GUEST_RIP, AT_L2);
	assert_int_equal(nested_enter(c, launch ? VMLAUNCH : VMRESUME), bug->violates ? EXIT_REASON_EPT_VIOLATION : EXIT_REASON_CPUID);
}

static void run(const struct bug *b, unsigned want)
{
	struct client c;

	uint64_t *tables;

	bug = b;
	if (!nested_open_ept(&c))
		skip();
	tables = (uint64_t *)(c.mem + NEW_PDPT);
	memcpy(tables, c.mem + AT_EPT + 0x1000, 0x3000);
	tables[0] = (NEW_PDPT + 0x1000) | EPT_ALL;
	tables[512] = (NEW_PDPT + 0x2000) | EPT_ALL;
	tables[1024 + 0x60] = 0x70000 | EPT_ALL | EPT_WB;
	assert_int_equal(l1_reports(said(use_change_use, &c), "l1ept"), want);
	client_close(&c);
}

#define BUG(name, ...)                                                             \
	static void name(void **state)                                             \
	{                                                                          \
		static const struct bug b = { __VA_ARGS__ };                       \
		run(&b, 1);                                                        \
	}                                                                          \
	static void name##_flushed(void **state)                                   \
	{                                                                          \
		static struct bug b = { __VA_ARGS__ };                             \
		b.flush = RIGHT;                                                   \
		run(&b, 0);                                                        \
	}

BUG(page_is_unmapped, 3, 0x60, 0, NONE, true)
BUG(page_is_moved, 3, 0x60, 0x70000 | EPT_ALL | EPT_WB, NONE, false)
BUG(page_is_write_protected, 3, 0x61, 0x61000 | EPT_R | EPT_X | EPT_WB, NONE, true)
BUG(page_is_not_executable, 3, 0x40, 0x40000 | EPT_R | EPT_W | EPT_WB, NONE, true)
BUG(table_is_taken_out, 2, 0, 0, NONE, true)
BUG(directory_is_taken_out, 1, 0, 0, NONE, true)
BUG(root_is_reused, 0, 0, NEW_PDPT | EPT_ALL, NONE, false)
BUG(invept_of_another_eptp, 3, 0x60, 0, WRONG_EPTP, true)
BUG(invvpid_in_place_of_invept, 3, 0x60, 0, INVVPID_INSTEAD, true)
BUG(vmclear_in_place_of_invept, 3, 0x60, 0, CLEAR_INSTEAD, true)
BUG(vmxoff_in_place_of_invept, 3, 0x60, 0, VMXOFF_INSTEAD, true)

static void an_invept_of_everything_is_enough(void **state)
{
	static const struct bug b = { 3, 0x60, 0, ALL, true };

	run(&b, 0);
}

static void what_takes_nothing_away_is_silent(void **state)
{
	static const struct bug rights = { 3, 0x60, 0x60000 | EPT_ALL | EPT_WB | 1ull << 8, NONE, false };
	static const struct bug unused = { 3, 0x90, 0, NONE, false };

	run(&rights, 0);
	run(&unused, 0);
}

/* The violation that L1 hears of is an invalidation: mapping the page again needs none. */
static void violate_and_repair(struct client *c)
{
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_EPT_VIOLATION);
	ept_store(c, 0x60, 0x70000 | EPT_ALL | EPT_WB);
	assert_int_equal(nested_enter(c, VMRESUME), EXIT_REASON_CPUID);
}

static void a_violation_closes(void **state)
{
	struct client c;

	if (!nested_open_ept(&c))
		skip();
	ept_level1(&c)[0x60] = 0;
	assert_int_equal(l1_reports(said(violate_and_repair, &c), "l1ept"), 0);
	client_close(&c);
}

/* --- two roots, two processors, dirty flags --- */

static bool right;

/* Two roots share their tables, L2 has used both; the INVEPT is of one. */
static void two_roots(struct client *c)
{
	nested_do(c, STORE, AT_EPT + 0x8000, (AT_EPT + 0x1000) | EPT_ALL);
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_CPUID);
	nested_vmwrite(c, EPT_POINTER, OTHER_EPTP);
	nested_vmwrite(c, GUEST_RIP, AT_L2);
	assert_int_equal(nested_enter(c, VMRESUME), EXIT_REASON_CPUID);
	ept_store(c, 0x60, 0);
	invept(c, right ? 2 : 1, AT_EPT | EPTP_BITS);
	nested_vmwrite(c, GUEST_RIP, AT_L2);
	assert_int_equal(nested_enter(c, VMRESUME), EXIT_REASON_EPT_VIOLATION);
}

/* The INVEPT is executed before the write, and L2 runs between them. */
static void invept_first(struct client *c)
{
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_CPUID);
	invept(c, 1, AT_EPT | EPTP_BITS);
	nested_vmwrite(c, GUEST_RIP, AT_L2);
	assert_int_equal(nested_enter(c, VMRESUME), EXIT_REASON_CPUID);
	ept_store(c, 0x60, 0);
	if (right)
		invept(c, 1, AT_EPT | EPTP_BITS);
	nested_vmwrite(c, GUEST_RIP, AT_L2);
	assert_int_equal(nested_enter(c, VMRESUME), EXIT_REASON_EPT_VIOLATION);
}

/* L2 has set the page's D flag; L1 clears it, and L2 writes again. */
static void clear_dirty(struct client *c)
{
	nested_vmwrite(c, EPT_POINTER, AT_EPT | EPTP_BITS | EPTP_AD);
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_CPUID);
	assert_int_equal(ept_level1(c)[0x61] & EPT_D, EPT_D);
	ept_store(c, 0x61, 0x61000 | EPT_ALL | EPT_WB | EPT_A);
	if (right)
		invept(c, 1, AT_EPT | EPTP_BITS | EPTP_AD);
	nested_vmwrite(c, GUEST_RIP, AT_L2);
	assert_int_equal(nested_enter(c, VMRESUME), EXIT_REASON_CPUID);
}

static bool enters, halts;

/* The other vCPU unmaps the page, and invalidates where it should, or only at home; then its L2 runs. */
static void two_vcpus(struct client *c)
{
	struct client o = nested_second_vcpu(c);

	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_CPUID);
	ept_store(&o, 0x60, 0);
	invept(&o, 2, 0);
	if (right)
		invept(c, 2, 0);
	if (halts)
		l1_halts(&o);
	if (enters)
		assert_int_equal(nested_enter(&o, VMLAUNCH), EXIT_REASON_CPUID);
	nested_vmwrite(c, GUEST_RIP, AT_L2);
	assert_int_equal(nested_enter(c, VMRESUME), EXIT_REASON_EPT_VIOLATION);
	munmap(o.run, o.run_size);
	close(o.vcpu);
}

static void one(void (*body)(struct client *), bool flushed, unsigned want)
{
	struct client c;

	right = flushed;
	if (!nested_open_ept(&c))
		skip();
	assert_int_equal(l1_reports(said(body, &c), "l1ept"), want);
	client_close(&c);
}

#define AT_IDLE (AT_L2 + 0x800)

static void run_idle(struct client *c)
{
	memcpy(c->mem + AT_IDLE, "\x0f\xa2", 2); /* CPUID */
	nested_vmwrite(c, GUEST_RIP, AT_IDLE);
	assert_int_equal(nested_enter(c, VMRESUME), EXIT_REASON_CPUID);
}

/* L2 runs with a page in reach that it does not use again. */
static void only_in_reach(struct client *c)
{
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_CPUID);
	ept_store(c, 0x60, 0);
	if (right)
		invept(c, 1, AT_EPT | EPTP_BITS);
	for (int n = 0; n < 3; n++)
		run_idle(c);
}

/* The INVEPT comes when L2 has run. */
static void invept_too_late(struct client *c)
{
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_CPUID);
	ept_store(c, 0x60, 0);
	if (!right)
		run_idle(c);
	invept(c, 1, AT_EPT | EPTP_BITS);
	run_idle(c);
}

/* A store that is not seen (the host's here), invalidated, and one later that is: L2 has run between them by neither. */
static void unseen_store(struct client *c)
{
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_CPUID);
	ept_level1(c)[0x60] = 0;
	invept(c, 1, AT_EPT | EPTP_BITS);
	run_idle(c);
	ept_store(c, 0x60, 0);
	for (int n = 0; n < 3; n++)
		run_idle(c);
}

/* Another vCPU has written, whose INVEPT by interrupt may be on its way. */
static void in_reach_meanwhile(struct client *c)
{
	struct client o = nested_second_vcpu(c);

	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_CPUID);
	ept_store(&o, 0x60, 0);
	for (int n = 0; n < 3; n++)
		run_idle(c);
	munmap(o.run, o.run_size);
	close(o.vcpu);
}

#define BUG_OF(name, body)                                                      \
	static void name(void **state) { one(body, false, 1); }                 \
	static void name##_flushed(void **state) { one(body, true, 0); }

BUG_OF(invept_of_one_root_where_two_share_tables, two_roots)
BUG_OF(invept_before_the_write, invept_first)
BUG_OF(cleared_dirty_flag_is_lost, clear_dirty)
/* A string instruction writes the entry. */
static void write_by_string(struct client *c)
{
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_CPUID);
	nested_do(c, STORE_STRING, AT_EPT + 0x3000 + 0x60 * 8, 0);
	if (right)
		invept(c, 1, AT_EPT | EPTP_BITS);
	nested_vmwrite(c, GUEST_RIP, AT_L2);
	assert_int_equal(nested_enter(c, VMRESUME), EXIT_REASON_EPT_VIOLATION);
}

BUG_OF(a_string_instruction_writes, write_by_string)
BUG_OF(a_page_in_reach_is_told_unused, only_in_reach)
BUG_OF(an_invept_behind_the_entry_is_too_late, invept_too_late)

static void a_store_that_is_not_seen_and_is_invalidated_is_silent(void **state)
{
	one(unseen_store, false, 0);
}

static void in_reach_in_the_legal_window_is_silent(void **state)
{
	one(in_reach_meanwhile, false, 0);
}

static void invept_on_the_wrong_vcpu(void **state)
{
	enters = true;
	one(two_vcpus, false, 1);
}

static void invept_on_the_wrong_vcpu_flushed(void **state)
{
	enters = true;
	one(two_vcpus, true, 0);
}

/* A thread that never enters a guest has made the change, and its processor has gone on. */
static void invept_on_the_wrong_vcpu_by_a_thread_without_a_guest(void **state)
{
	enters = false;
	halts = true;
	one(two_vcpus, false, 1);
	one(two_vcpus, true, 0);
	halts = false;
}

/* The other vCPU has not gone on: its INVEPT by interrupt may be on its way. */
static void a_use_in_the_legal_window_is_silent(void **state)
{
	enters = false;
	one(two_vcpus, false, 0);
}

static void unmap_in_suppressed_code(unsigned want)
{
	static const struct bug b = { 3, 0x60, 0, NONE, true };

	run(&b, want);
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
		BOTH(page_is_not_executable),
		BOTH(table_is_taken_out),
		BOTH(directory_is_taken_out),
		BOTH(root_is_reused),
		BOTH(invept_of_another_eptp),
		BOTH(invvpid_in_place_of_invept),
		BOTH(vmclear_in_place_of_invept),
		BOTH(vmxoff_in_place_of_invept),
		cmocka_unit_test(an_invept_of_everything_is_enough),
		cmocka_unit_test(what_takes_nothing_away_is_silent),
		cmocka_unit_test(a_violation_closes),
		BOTH(invept_of_one_root_where_two_share_tables),
		BOTH(invept_before_the_write),
		BOTH(cleared_dirty_flag_is_lost),
		BOTH(a_string_instruction_writes),
		BOTH(a_page_in_reach_is_told_unused),
		BOTH(an_invept_behind_the_entry_is_too_late),
		cmocka_unit_test(in_reach_in_the_legal_window_is_silent),
		cmocka_unit_test(a_store_that_is_not_seen_and_is_invalidated_is_silent),
		BOTH(invept_on_the_wrong_vcpu),
		cmocka_unit_test(invept_on_the_wrong_vcpu_by_a_thread_without_a_guest),
		cmocka_unit_test(a_use_in_the_legal_window_is_silent),
		cmocka_unit_test(suppressed_reports_are_not_told),
	};

	return l1_bugs_main("l1ept", tests);
}
