/*
 * An L1 that does anything: EPT tables changed at random, and VMCS fields.
 *
 * The tables are a model, too: after each change L2 reads or writes some page, and must come
 * to where the tables lead, or to the exit that they ask for (EPT12 composed with the memory
 * that the client has given). The VMCS is random: whatever L1 enters with, it is told so, and
 * the VM lives.
 *
 * Environment: NESTED_SEED, NESTED_ROUNDS.
 */
#include <stdlib.h>

#include "nested_ept.h"

#define FIRST 0x60u /* pages that change */
#define PAGES 16u
#define AT_EPT_OTHER 0x58000 /* four more tables: another EPTP */
#define EPT_A (1u << 8)
#define EPT_D (1u << 9)
#define EPTP_AD (1u << 6)

static uint32_t seed;

static uint32_t rnd(uint32_t n)
{
	seed = seed * 1664525 + 1013904223;
	return (uint32_t)((uint64_t)(seed >> 8) * n >> 24);
}

static unsigned rounds(unsigned normal)
{
	const char *r = getenv("NESTED_ROUNDS"), *s = getenv("NESTED_SEED");

	seed = s ? (uint32_t)strtoul(s, NULL, 0) : 1;
	return r ? (unsigned)strtoul(r, NULL, 0) : normal;
}

/* --- EPT12 --- */

/* Where a page of memory says which page it is. */
static uint64_t *mark(struct client *c, uint64_t gpa)
{
	return (uint64_t *)(c->mem + (gpa & ~0xfffULL) + 0x800);
}

static uint64_t random_entry(void)
{
	uint64_t page = FIRST + rnd(PAGES);

	switch (rnd(8)) {
	case 0: return 0;
	case 1: return page << 12 | EPT_W | EPT_WB; /* a misconfiguration */
	case 2: return page << 12 | EPT_R | EPT_WB;
	case 3: return page << 12 | EPT_R | EPT_X | EPT_WB;
	case 4: return page << 12 | EPT_ALL | (uint64_t)rnd(2) << 9 | EPT_WB;
	default: return page << 12 | EPT_ALL | EPT_WB;
	}
}

static void invalidate(struct client *c, uint64_t eptp)
{
	uint64_t *op = nested_operand(c), type = 1 + rnd(2);

	op[0] = eptp;
	op[1] = 0;
	assert_succeeds(nested_do(c, INVEPT, type, AT_TEST));
}

/* L2 reads (rbx) or writes RBX at [rax], then CPUID. */
static void put_l2(struct client *c, bool write)
{
	nested_l2_code(c, write ? "\x48\x89\x18\x0f\xa2" : "\x48\x8b\x18\x0f\xa2", 5);
}

/* What the tables at `table` say of an access to L2's page. */
static void expect(struct client *c, uint64_t table, uint64_t page, bool write, uint64_t reason, uint64_t value)
{
	uint64_t e = ((uint64_t *)(c->mem + table + 0x3000))[page], rights = e & EPT_ALL, at = e & 0xfffffffff000ULL;

	if (rights == 0)
		assert_int_equal(reason, EXIT_REASON_EPT_VIOLATION);
	else if ((rights & (EPT_R | EPT_W)) == EPT_W)
		assert_int_equal(reason, EXIT_REASON_EPT_MISCONFIG);
	else if (!(rights & (write ? EPT_W : EPT_R)))
		assert_int_equal(reason, EXIT_REASON_EPT_VIOLATION);
	else {
		assert_int_equal(reason, EXIT_REASON_CPUID);
		if (write)
			assert_int_equal(*mark(c, at), value);
		else
			assert_int_equal(nested_at_exit.rbx, *mark(c, at));
		return;
	}
	assert_int_equal(nested_vmread(c, GUEST_PHYSICAL_ADDRESS), page << 12 | 0x800);
	if (reason == EXIT_REASON_EPT_VIOLATION)
		assert_int_equal(nested_vmread(c, EXIT_QUALIFICATION), 0x180u | rights << 3 | (write ? 2u : 1u));
}

static void access_page(struct client *c, uint64_t table, uint64_t page, bool write, bool *launched)
{
	struct kvm_regs r = {.rip = AT_CODE + 32 * (uint64_t)(*launched ? VMRESUME : VMLAUNCH), .rsp = 0x8000, .rflags = 2,
			     .rax = page << 12 | 0x800, .rbx = 0x100000000ULL + seed};
	uint64_t value = r.rbx;
	struct outcome o;

	put_l2(c, write);
	nested_vmwrite(c, GUEST_RIP, AT_L2);
	assert_int_equal(ioctl(c->vcpu, KVM_SET_REGS, &r), 0);
	o = nested_run(c);
	assert_int_equal(o.port, PORT_EXIT);
	*launched = true;
	expect(c, table, page, write, nested_vmread(c, VM_EXIT_REASON), value);
}

NESTED_TEST(random_tables_lead_where_they_say, nested_open_ept)
{
	uint64_t flags = 3u << 3 | 6 | (client_msr(c, MSR_VMX(12)) >> 21 & 1 ? EPTP_AD : 0);
	uint64_t table[2] = {AT_EPT, AT_EPT_OTHER};
	bool launched = false;

	memcpy(c->mem + AT_EPT_OTHER, c->mem + AT_EPT, 0x4000);
	for (unsigned level = 0; level < 3; level++)
		*(uint64_t *)(c->mem + AT_EPT_OTHER + 0x1000 * level) += AT_EPT_OTHER - AT_EPT;
	for (uint64_t page = FIRST; page < FIRST + PAGES; page++)
		*mark(c, page << 12) = page;
	for (unsigned n = rounds(400); n; n--) {
		uint64_t at = table[rnd(2)], eptp = at | (flags & ~(uint64_t)(rnd(2) * EPTP_AD));

		nested_vmwrite(c, EPT_POINTER, eptp);
		for (unsigned changes = rnd(4); changes; changes--)
			nested_do(c, STORE, at + 0x3000 + (FIRST + rnd(PAGES)) * 8, random_entry());
		/* a table goes, and comes back */
		if (!rnd(8)) {
			uint64_t upper = at + 0x1000 * rnd(3), e = *(uint64_t *)(c->mem + upper);

			nested_do(c, STORE, upper, 0);
			invalidate(c, eptp);
			nested_do(c, STORE, upper, e);
		}
		invalidate(c, eptp);
		for (unsigned accesses = 1 + rnd(4); accesses; accesses--)
			access_page(c, at, FIRST + rnd(PAGES), rnd(2), &launched);
	}
}

/* --- vmcs12 --- */

static const uint32_t fields[] = {
#define FIELD_ENCODING(name, encoding) encoding,
	VMCS_FIELDS(FIELD_ENCODING)
#undef FIELD_ENCODING
};

static uint64_t random_value(uint64_t now)
{
	switch (rnd(5)) {
	case 0: return 0;
	case 1: return ~0ULL;
	case 2: return now ^ 1ULL << rnd(64);
	case 3: return (uint64_t)rnd(0x1000000) << 12;
	default: return (uint64_t)rnd(0x1000000) << 40 ^ (uint64_t)rnd(0x1000000) << 16 ^ rnd(0x1000000);
	}
}

NESTED_TEST(any_vmcs_fails_or_runs_and_the_vm_lives, nested_open_ept)
{
	unsigned ran = 0, failed = 0, n = rounds(400);

	for (unsigned i = 0; i < n; i++) {
		struct kvm_regs r = {.rip = AT_CODE + 32 * (uint64_t)VMLAUNCH, .rsp = 0x8000, .rflags = 2};
		int exits = 0;

		nested_fresh_vmcs(c);
		nested_use_ept(c);
		put_l2(c, true);
		for (unsigned changes = 1 + rnd(3); changes; changes--) {
			uint32_t f = fields[rnd(sizeof(fields) / sizeof(*fields))];
			struct outcome o = nested_do(c, VMREAD, f, 0);

			if (!(o.rflags & ARITHMETIC))
				(void)nested_do(c, VMWRITE, f, random_value(o.rbx));
		}
		/* L1 comes back from its own host state: that is not what is tried */
		nested_vmwrite(c, HOST_RIP, AT_HOST_RIP);
		assert_int_equal(ioctl(c->vcpu, KVM_SET_REGS, &r), 0);
		do {
			c->run->immediate_exit = 0;
			if (ioctl(c->vcpu, KVM_RUN, 0) != 0)
				break;
		} while (c->run->exit_reason == KVM_EXIT_MMIO && ++exits < 16);
		if (c->run->exit_reason == KVM_EXIT_IO && c->run->io.port == PORT_EXIT)
			ran++;
		else if (c->run->exit_reason == KVM_EXIT_IO && c->run->io.port == PORT_DONE)
			failed++;
		/* whatever it was: a client may begin anew (what L1's host state left included) */
		client_set_msr(c, MSR_FEATURE_CONTROL, 0);
		client_close(c);
		assert_true(nested_open_vmcs(c));
	}
	print_message("%u entries ran, %u failed, %u ended otherwise\n", ran, failed, n - ran - failed);
	assert_true(ran > 0 && failed > 0);
	nested_fill_vmcs(c);
	nested_l2_code(c, "\x0f\xa2", 2);
	assert_int_equal(nested_enter(c, VMLAUNCH), EXIT_REASON_CPUID);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_tables_lead_where_they_say),
		cmocka_unit_test(any_vmcs_fails_or_runs_and_the_vm_lives),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
