/*
 * Guests that do not page where the processor pages always: EPT without "unrestricted guest", and the identity-map page
 * table that KVM keeps for them (KVM_SET_IDENTITY_MAP_ADDR).
 */
#include "guest_code.h"
#include "paging.h"
#include "said.h"

#define DEFAULT_ADDR 0xfffbc000ull
#define OTHER_ADDR 0xfeffc000ull
#define CR0_PG (1ull << 31)

static int setup(void **state)
{
	client_param("unrestricted_guest=0,ept=1");
	return 0;
}

static uint32_t next_out(struct client *c)
{
	assert_run_exits(c, KVM_EXIT_IO);
	assert_int_equal(c->run->io.direction, KVM_EXIT_IO_OUT);
	assert_int_equal(c->run->io.size, 4);
	return *(uint32_t *)((uint8_t *)c->run + c->run->io.data_offset);
}

/* The entry for the 4 MiB at ESI << 22 of the table at EDI, as the guest reads it. */
GUEST_CODE(read_entry, 32, "1: mov (%edi,%esi,4), %eax; out %eax, $0x10; jmp 1b");

static uint32_t entry_of(struct client *c, uint64_t table, uint32_t n)
{
	struct kvm_regs r = client_regs(c);

	r.rip = 0x1000;
	r.rdi = table;
	r.rsi = n;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_REGS, &r), 0);
	return next_out(c);
}

static void the_table_leads_each_address_to_itself_and_lies_where_the_client_says(void **state)
{
	const uint64_t wanted[] = { 0, DEFAULT_ADDR, OTHER_ADDR };

	for (int i = 0; i < 3; i++) {
		uint64_t addr = wanted[i] ? wanted[i] : DEFAULT_ADDR; /* 0: none said */
		struct client c;

		client_open_vm(&c, 1 << 20);
		if (i)
			assert_int_equal(ioctl(c.vm, KVM_SET_IDENTITY_MAP_ADDR, &wanted[i]), 0);
		client_add_vcpu(&c);
		client_flat_mode(&c, 0x1000, read_entry, GUEST_CODE_SIZE(read_entry));
		for (uint32_t n = 0; n < 1024; n += 341)
			assert_int_equal(entry_of(&c, addr, n), n << 22 | 0xe7); /* P RW US A D PS */
		assert_fails(ioctl(c.vm, KVM_SET_IDENTITY_MAP_ADDR, &wanted[i]), EINVAL);
		client_close(&c);
	}
}

static void a_place_that_the_client_has_taken_is_refused(struct client *c)
{
	assert_fails(ioctl(c->vm, KVM_CREATE_VCPU, 0), EEXIST);
}

static void the_table_needs_a_place_of_its_own(void **state)
{
	uint64_t odd = OTHER_ADDR + 0x800;
	struct client c;

	client_open_vm(&c, 1 << 20);
	client_slot(&c, 1, 0, DEFAULT_ADDR, c.mem, 4096);
	assert_non_null(strstr(said(a_place_that_the_client_has_taken_is_refused, &c), "overlaps"));
	odd -= 0x800;
	assert_int_equal(ioctl(c.vm, KVM_SET_IDENTITY_MAP_ADDR, &odd), 0);
	client_add_vcpu(&c);
	client_close(&c);

	client_open_vm(&c, 1 << 20);
	odd += 0x800;
	assert_int_equal(ioctl(c.vm, KVM_SET_IDENTITY_MAP_ADDR, &odd), 0);
	assert_fails(ioctl(c.vm, KVM_CREATE_VCPU, 0), EINVAL);
	client_close(&c);
}

/* CR3 of a guest that does not page is its own to write and to read. */
GUEST_CODE(own_cr3, 32,
	   "mov $0x5000, %eax; mov %eax, %cr3; mov %cr3, %eax; out %eax, $0x10\n"
	   /* paging by a table that leads 4 MiB to itself, and the next 4 MiB to the first */
	   "mov $0x6000, %eax; mov %eax, %cr3; mov %cr4, %eax; or $0x10, %eax; mov %eax, %cr4\n"
	   "mov %cr0, %eax; mov %eax, %ebx; or $0x80000000, %eax; mov %eax, %cr0\n"
	   "mov 0x402000, %eax; out %eax, $0x10; mov %cr3, %eax; out %eax, $0x10\n"
	   /* its MOV to CR3 makes no exit now */
	   "mov $0x7000, %eax; mov %eax, %cr3\n"
	   "mov %ebx, %cr0; mov %cr3, %eax; out %eax, $0x10; mov %cr0, %eax; out %eax, $0x10; mov 0x2000, %eax; out %eax, $0x10; hlt");

static void the_guests_cr3_is_its_own_through_both_switches_of_paging(void **state)
{
	struct kvm_sregs s;
	struct client c;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	client_flat_mode(&c, 0x1000, own_cr3, GUEST_CODE_SIZE(own_cr3));
	for (int i = 6; i < 8; i++)
		((uint32_t *)(c.mem + (i << 12)))[0] = ((uint32_t *)(c.mem + (i << 12)))[1] = 0x83;
	*(uint32_t *)(c.mem + 0x2000) = 0x600df00d;
	assert_int_equal(next_out(&c), 0x5000);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_SREGS, &s), 0);
	assert_int_equal(s.cr3, 0x5000);
	assert_false(s.cr0 & CR0_PG);
	assert_int_equal(next_out(&c), 0x600df00d);
	assert_int_equal(next_out(&c), 0x6000);
	assert_int_equal(next_out(&c), 0x7000);
	assert_false(next_out(&c) & CR0_PG);
	assert_int_equal(next_out(&c), 0x600df00d);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_SREGS, &s), 0);
	assert_int_equal(s.cr3, 0x7000);
	client_close(&c);
}

/* What a guest prepares for IA-32e mode before it pages: PAE, and LME. */
GUEST_CODE(prepared, 32,
	   "mov %cr4, %eax; or $0x20, %eax; mov %eax, %cr4\n"
	   "mov $0xc0000080, %ecx; rdmsr; or $0x100, %eax; wrmsr; rdmsr; out %eax, $0x10\n"
	   "mov %cr4, %eax; out %eax, $0x10; mov 0x2000, %eax; out %eax, $0x10; hlt");

static void pae_and_lme_wait_for_paging(void **state)
{
	struct client c;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	client_all_cpuid(&c);
	client_flat_mode(&c, 0x1000, prepared, GUEST_CODE_SIZE(prepared));
	*(uint32_t *)(c.mem + 0x2000) = 0x600df00d;
	assert_int_equal(next_out(&c) & 0x500, 0x100); /* LME, not LMA */
	assert_int_equal(next_out(&c) & 0x30, 0x20); /* PAE, not our PSE */
	assert_int_equal(next_out(&c), 0x600df00d);
	assert_run_exits(&c, KVM_EXIT_HLT);
	client_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_table_leads_each_address_to_itself_and_lies_where_the_client_says),
		cmocka_unit_test(the_table_needs_a_place_of_its_own),
		cmocka_unit_test(the_guests_cr3_is_its_own_through_both_switches_of_paging),
		cmocka_unit_test(pae_and_lme_wait_for_paging),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
