/*
 * CPUID 80000008h as the guest sees it says how many bits a physical address
 * has; those above are reserved in every paging-structure entry and in CR3.
 * (SDM Vol. 3, "Reserved Bits" of each paging mode; KVM API: KVM_CAP_SMALLER_MAXPHYADDR)
 */
#include "guest_code.h"
#include "paging.h"

#define MODEL_BITS 40 /* of the guest's processor, fewer than any 64-bit host has had but the first */
#define CR4_PSE (1u << 4)
#define RSVD_READ 9 /* page-fault error code: present, reserved, by a supervisor's read */

/* A second way down, so that what is broken maps no code: tables at 0x14000 on. */
#define AT_PDPT2 0x14000
#define AT_PD2 0x15000
#define AT_PT2 0x16000
#define FAR_LONG 0x8000000000ULL /* PML4[1] */
#define FAR_PAE 0x40000000ULL	 /* PDPT[1] */

GUEST_CODE(load, 32, "movl (%esi), %eax; outb %al, $0x40");
GUEST_CODE(cr3_64, 64, "movq %rsi, %cr3; outb %al, $0x40");
GUEST_CODE(cr3_32, 32, "movl %esi, %cr3; outb %al, $0x40");

static void set_maxphyaddr(struct client *c, unsigned bits)
{
	struct {
		struct kvm_cpuid2 h;
		struct kvm_cpuid_entry2 e[256];
	} cpuid = {.h.nent = 256};

	assert_int_equal(ioctl(c->vcpu, KVM_GET_CPUID2, &cpuid), 0);
	for (uint32_t i = 0; i < cpuid.h.nent; i++)
		if (cpuid.e[i].function == 0x80000008)
			cpuid.e[i].eax = (cpuid.e[i].eax & ~0xffu) | bits;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_CPUID2, &cpuid), 0);
}

static void open_guest(struct client *c, enum paging p, const void *code, size_t n, uint64_t rsi, unsigned bits, uint64_t cr4)
{
	struct kvm_regs r;

	client_open_vm(c, 2 << 20);
	client_add_vcpu(c);
	paging_start(c, p, 0, 0, cr4, EFER_NXE);
	set_maxphyaddr(c, bits);
	memcpy(c->mem + AT_CODE, code, n);
	*(uint64_t *)(c->mem + 0x10008) = AT_PDPT2 | PG_ALL;
	*(uint64_t *)(c->mem + AT_PDPT2) = AT_PD2 | PG_ALL;
	*(uint64_t *)(c->mem + AT_PD2) = AT_PT2 | PG_ALL;
	*(uint64_t *)(c->mem + AT_PT2) = AT_TEST | PG_ALL;
	if (p == PAGING_PAE) {
		struct kvm_sregs s;

		*(uint64_t *)(c->mem + 0x11008) = AT_PD2 | PG_P;
		assert_int_equal(ioctl(c->vcpu, KVM_GET_SREGS, &s), 0);
		assert_int_equal(ioctl(c->vcpu, KVM_SET_SREGS, &s), 0); /* loads the PDPTEs */
	}
	r = client_regs(c);
	r.rsi = rsi;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_REGS, &r), 0);
}

/* The guest reads through the entry at `at` with address bit `bit` set: #PF that says so. */
static void assert_reserved(enum paging p, uint64_t gva, uint32_t at, int bit)
{
	struct client c;
	uint64_t *entry;
	int port;

	open_guest(&c, p, load, GUEST_CODE_SIZE(load), gva, MODEL_BITS, 0);
	entry = (uint64_t *)(c.mem + at);
	*entry |= 1ULL << bit;
	port = client_next_out(&c);
	if (port != 14 || client_regs(&c).rdx != RSVD_READ || client_regs(&c).rcx != (gva & ~0xfffULL))
		fail_msg("bit %d of the entry at %#x: port %d, error code %llx", bit, at, port,
			 (unsigned long long)client_regs(&c).rdx);
	if (*entry & PG_A)
		fail_msg("bit %d of the entry at %#x: accessed", bit, at);
	client_close(&c);
}

static void address_bits_above_the_guests_are_reserved_at_every_level(void **state)
{
	static const uint32_t entries[] = {0x10008, AT_PDPT2, AT_PD2, AT_PT2};

	for (int bit = MODEL_BITS; bit < 52; bit++) {
		for (size_t n = 0; n < 4; n++) {
			assert_reserved(PAGING_LONG, FAR_LONG, entries[n], bit);
			if (n >= 2)
				assert_reserved(PAGING_PAE, FAR_PAE, entries[n], bit);
		}
	}
}

/* As many bits as the host has: what KVM_GET_SUPPORTED_CPUID says is what the processor checks. */
static void address_bits_above_the_offered_ones_are_reserved(void **state)
{
	struct client c;
	unsigned bits = 0;

	open_guest(&c, PAGING_LONG, load, GUEST_CODE_SIZE(load), FAR_LONG, MODEL_BITS, 0);
	client_all_cpuid(&c);
	for (int bit = 0; bit < 8; bit++)
		bits |= (unsigned)client_cpuid_bit(&c, 0x80000008, CPUID_EAX, bit) << bit;
	if (bits >= 52) {
		client_close(&c);
		skip(); /* no bit is left to be reserved */
	}
	*(uint64_t *)(c.mem + AT_PD2) |= 1ULL << bits;
	assert_int_equal(client_next_out(&c), 14);
	assert_int_equal(client_regs(&c).rdx, RSVD_READ);
	client_close(&c);
}

static void the_topmost_address_bit_of_the_guest_is_none_of_them(void **state)
{
	struct client c;

	open_guest(&c, PAGING_LONG, load, GUEST_CODE_SIZE(load), FAR_LONG, MODEL_BITS, 0);
	*(uint64_t *)(c.mem + AT_PT2) |= 1ULL << (MODEL_BITS - 1);
	assert_run_exits(&c, KVM_EXIT_MMIO);
	assert_int_equal(c.run->mmio.phys_addr, AT_TEST | 1ULL << (MODEL_BITS - 1));
	assert_int_equal(client_next_out(&c), 0x40);
	client_close(&c);
}

/* PSE-36: bits 20:13 of a 4 MiB page's entry are address bits 39:32. */
static void reserved_bits_of_a_4_mib_page_follow_the_guests_maxphyaddr(void **state)
{
	struct client c;

	for (int bit = 13; bit <= 20; bit++) {
		open_guest(&c, PAGING_32, load, GUEST_CODE_SIZE(load), 0x400000, 36, CR4_PSE);
		*(uint32_t *)(c.mem + 0x12004) = 0x400000 | PG_ALL | PG_PS | 1u << bit;
		if (bit < 17) {
			assert_run_exits(&c, KVM_EXIT_MMIO);
			assert_int_equal(c.run->mmio.phys_addr, 0x400000 | 1ULL << (bit + 19));
		} else {
			assert_int_equal(client_next_out(&c), 14);
			assert_int_equal(client_regs(&c).rdx, RSVD_READ);
		}
		client_close(&c);
	}
}

static void cr3_has_the_guests_address_bits(void **state)
{
	struct client c;

	for (int bit = MODEL_BITS - 1; bit < 52; bit++) {
		open_guest(&c, PAGING_LONG, cr3_64, GUEST_CODE_SIZE(cr3_64), 0x10000 | 1ULL << bit, MODEL_BITS, 0);
		if (bit >= MODEL_BITS)
			assert_int_equal(client_next_out(&c), 13);
		client_close(&c);
	}
	open_guest(&c, PAGING_LONG, cr3_64, GUEST_CODE_SIZE(cr3_64), 0x10000, MODEL_BITS, 0);
	assert_int_equal(client_next_out(&c), 0x40);
	client_close(&c);
}

static void pdptes_have_the_guests_address_bits(void **state)
{
	struct client c;

	for (int bit = MODEL_BITS - 1; bit < 52; bit++) {
		open_guest(&c, PAGING_PAE, cr3_32, GUEST_CODE_SIZE(cr3_32), 0x11000, MODEL_BITS, 0);
		*(uint64_t *)(c.mem + 0x11010) = AT_PD2 | PG_P | 1ULL << bit;
		assert_int_equal(client_next_out(&c), bit >= MODEL_BITS ? 13 : 0x40);
		client_close(&c);
	}
}

/* KVM 6.1 (allow_smaller_maxphyaddr): 1 without EPT, where it costs nothing, and by default 0 with it. */
static void kvm_says_so_of_shadow_paging(void **state)
{
	const char *params = getenv("USERKVM_PARAMS");
	struct client c;

	client_open_vm(&c, 2 << 20);
	client_add_vcpu(&c);
	assert_int_equal(ioctl(c.kvm, KVM_CHECK_EXTENSION, KVM_CAP_SMALLER_MAXPHYADDR), params && strstr(params, "ept=0"));
	client_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(address_bits_above_the_guests_are_reserved_at_every_level),
		cmocka_unit_test(address_bits_above_the_offered_ones_are_reserved),
		cmocka_unit_test(the_topmost_address_bit_of_the_guest_is_none_of_them),
		cmocka_unit_test(reserved_bits_of_a_4_mib_page_follow_the_guests_maxphyaddr),
		cmocka_unit_test(cr3_has_the_guests_address_bits),
		cmocka_unit_test(pdptes_have_the_guests_address_bits),
		cmocka_unit_test(kvm_says_so_of_shadow_paging),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
