/*
 * Linear addresses of compatibility mode end at 4 GiB: an access across it goes on at 0, whatever 64-bit code
 * has mapped above (SDM Vol. 3, "Linear-Address Pre-Processing", "Paging in compatibility mode").
 */
#include "client.h"
#include "guest_code.h"
#include "paging.h"

#define LAST_PAGE 0x40000 /* guest-physical: of 0xfffff000 */
#define BEYOND 0x41000	  /* of 4 GiB */
#define DEVICE 0xd0000000u

static void map(struct client *c, uint64_t va, uint64_t entry)
{
	uint64_t *pdpt = (uint64_t *)(c->mem + 0x11000), *pd, *pt;
	unsigned n = (unsigned)(va >> 30);

	pdpt[n] = (0x50000 + n * 0x2000) | PG_ALL;
	pd = (uint64_t *)(c->mem + 0x50000 + n * 0x2000);
	pd[va >> 21 & 511] = (0x51000 + n * 0x2000) | PG_ALL;
	pt = (uint64_t *)(c->mem + 0x51000 + n * 0x2000);
	pt[va >> 12 & 511] = entry | PG_ALL;
}

static void open_guest(struct client *c, const uint8_t *code, size_t n, uint64_t last)
{
	struct kvm_sregs s;
	struct kvm_regs r;

	client_open_vm(c, 2 << 20);
	client_add_vcpu(c);
	memcpy(c->mem + AT_CODE, code, n);
	paging_start(c, PAGING_COMPAT, 0, 0, 0, 0);
	map(c, 0xfffff000, last);
	map(c, 0x100000000, BEYOND);
	memcpy(c->mem + LAST_PAGE + 0xffe, "\x11\x22", 2);
	memcpy(c->mem, "\x33\x44", 2);
	memcpy(c->mem + BEYOND, "\x55\x66", 2);
	/* through a segment's base: the limit does not forbid it */
	assert_int_equal(ioctl(c->vcpu, KVM_GET_SREGS, &s), 0);
	s.ds.base = 0x80000000;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_SREGS, &s), 0);
	r = client_regs(c);
	r.rdi = 0x7ffffffe;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_REGS, &r), 0);
}

GUEST_CODE(across, 32, "movl (%edi), %eax; notl (%edi); outb %al, $0x40");

static void an_access_across_4_gib_goes_on_at_zero(void **state)
{
	struct client c;

	open_guest(&c, across, GUEST_CODE_SIZE(across), LAST_PAGE);
	assert_int_equal(client_next_out(&c), 0x40);
	assert_int_equal((uint32_t)client_regs(&c).rax, 0x44332211);
	assert_memory_equal(c.mem + LAST_PAGE + 0xffe, "\xee\xdd", 2);
	assert_memory_equal(c.mem, "\xcc\xbb", 2);
	assert_memory_equal(c.mem + BEYOND, "\x55\x66", 2);
	client_close(&c);
}

static void the_emulators_accesses_do_too(void **state)
{
	struct client c;

	open_guest(&c, across, GUEST_CODE_SIZE(across), DEVICE);
	for (int n = 0; n < 2; n++) {
		assert_run_exits(&c, KVM_EXIT_MMIO);
		assert_int_equal(c.run->mmio.is_write, 0);
		assert_int_equal(c.run->mmio.len, 2);
		memcpy(c.run->mmio.data, "\x11\x22", 2);
	}
	assert_run_exits(&c, KVM_EXIT_MMIO);
	assert_int_equal(c.run->mmio.is_write, 1);
	assert_int_equal(client_next_out(&c), 0x40);
	assert_int_equal((uint32_t)client_regs(&c).rax, 0x44332211);
	assert_memory_equal(c.mem, "\xcc\xbb", 2);
	assert_memory_equal(c.mem + BEYOND, "\x55\x66", 2);
	client_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_access_across_4_gib_goes_on_at_zero),
		cmocka_unit_test(the_emulators_accesses_do_too),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
