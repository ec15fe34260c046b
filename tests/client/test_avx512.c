/*
 * AVX-512 across the ABI: the guest computes with registers the client set, the
 * client reads what it computed, and a second VM goes on with it. Places in the
 * XSAVE area are CPUID leaf 0Dh's.
 */
#include "guest_code.h"
#include "paging.h"

#define OPMASK 5
#define ZMM_HI256 6
#define HI16_ZMM 7

/* Of each round ZMM30 grows by ZMM31 where K1 says so, and K2 becomes its complement. */
GUEST_CODE(sum_loop, 64, "1: vpaddq %zmm31, %zmm30, %zmm30 {%k1}; knotb %k1, %k2; inc %rax; outb %al, $0x40; jmp 1b");

struct cpuid {
	struct kvm_cpuid2 head;
	struct kvm_cpuid_entry2 e[128];
};

static const struct kvm_cpuid_entry2 *leaf(const struct cpuid *l, uint32_t function, uint32_t index)
{
	for (unsigned n = 0; n < l->head.nent; n++)
		if (l->head.entries[n].function == function && l->head.entries[n].index == index)
			return &l->head.entries[n];
	return NULL;
}

static struct cpuid supported;

/* A guest in long mode with everything on; skips where the host has no AVX-512. */
static void open_guest(struct client *c, uint64_t xcr0)
{
	struct kvm_xcrs xcrs = { .nr_xcrs = 1, .xcrs[0].value = xcr0 };
	struct kvm_sregs s;

	client_open_vm(c, 2 << 20);
	client_add_vcpu(c);
	supported.head.nent = 128;
	assert_int_equal(ioctl(c->kvm, KVM_GET_SUPPORTED_CPUID, &supported), 0);
	if (!leaf(&supported, 0xd, HI16_ZMM)) {
		print_message("this host has no AVX-512\n");
		skip();
	}
	assert_int_equal(ioctl(c->vcpu, KVM_SET_CPUID2, &supported), 0);
	paging_start(c, PAGING_LONG, 0, 0, 0, 0);
	assert_int_equal(ioctl(c->vcpu, KVM_GET_SREGS, &s), 0);
	s.cr4 |= 1 << 9 | 1 << 10 | 1 << 18; /* OSFXSR OSXMMEXCPT OSXSAVE */
	assert_int_equal(ioctl(c->vcpu, KVM_SET_SREGS, &s), 0);
	assert_int_equal(ioctl(c->vcpu, KVM_SET_XCRS, &xcrs), 0);
	memcpy(c->mem + AT_CODE, sum_loop, GUEST_CODE_SIZE(sum_loop));
}

static uint64_t *component(struct kvm_xsave *x, unsigned n)
{
	return (uint64_t *)((uint8_t *)x->region + leaf(&supported, 0xd, n)->ebx);
}

static void fill(struct kvm_xsave *x)
{
	memset(x, 0, sizeof(*x));
	x->region[0] = 0x37f;
	x->region[6] = 0x1f80;
	x->region[128] = 0xe7;
	component(x, OPMASK)[1] = 0xa5;
	for (unsigned n = 0; n < 8; n++) {
		component(x, HI16_ZMM)[14 * 8 + n] = 100 * n; /* ZMM30 */
		component(x, HI16_ZMM)[15 * 8 + n] = 1 + n;   /* ZMM31 */
		component(x, ZMM_HI256)[n] = 0x1111 * n;      /* upper halves of ZMM0, ZMM1 */
	}
}

static void check(struct kvm_xsave *x, unsigned rounds)
{
	for (unsigned n = 0; n < 8; n++) {
		assert_int_equal(component(x, HI16_ZMM)[14 * 8 + n], 100 * n + (0xa5 >> n & 1 ? rounds * (1 + n) : 0));
		assert_int_equal(component(x, ZMM_HI256)[n], 0x1111 * n);
	}
	assert_int_equal(component(x, OPMASK)[1], 0xa5);
	assert_int_equal(component(x, OPMASK)[2], 0x5a);
}

static void guest_computes_with_registers_of_the_client(void **state)
{
	struct kvm_xsave x, y;
	struct client c, d;

	open_guest(&c, 0xe7);
	fill(&x);
	assert_int_equal(ioctl(c.vcpu, KVM_SET_XSAVE, &x), 0);
	for (unsigned n = 0; n < 3; n++)
		assert_int_equal(client_next_out(&c), 0x40);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_XSAVE, &y), 0);
	check(&y, 3);
	/* The same by KVM_GET_XSAVE2, whose size KVM_CAP_XSAVE2 says. */
	assert_int_equal(ioctl(c.vm, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2), sizeof(y));
	memset(&x, 0xee, sizeof(x));
	assert_int_equal(ioctl(c.vcpu, KVM_GET_XSAVE2, &x), 0);
	assert_memory_equal(&x, &y, sizeof(x));
	client_close(&c);
	/* As a migration's destination does. */
	open_guest(&d, 0xe7);
	assert_int_equal(ioctl(d.vcpu, KVM_SET_XSAVE, &y), 0);
	assert_int_equal(client_next_out(&d), 0x40);
	assert_int_equal(client_next_out(&d), 0x40);
	assert_int_equal(ioctl(d.vcpu, KVM_GET_XSAVE, &x), 0);
	check(&x, 5);
	client_close(&d);
}

static void what_is_set_comes_back(void **state)
{
	struct kvm_xsave x, y;
	struct client c;

	open_guest(&c, 0xe7);
	fill(&x);
	for (unsigned n = OPMASK; n <= HI16_ZMM; n++)
		for (unsigned k = 0; k < leaf(&supported, 0xd, n)->eax / 8; k++)
			component(&x, n)[k] = 0x0123456789abcdef * (k + n);
	assert_int_equal(ioctl(c.vcpu, KVM_SET_XSAVE, &x), 0);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_XSAVE, &y), 0);
	for (unsigned n = OPMASK; n <= HI16_ZMM; n++)
		assert_memory_equal(component(&x, n), component(&y, n), leaf(&supported, 0xd, n)->eax);
	/* A component that XSTATE_BV lacks is initial, whatever lies in its place. */
	x.region[128] = 0x67;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_XSAVE, &x), 0);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_XSAVE, &y), 0);
	for (unsigned k = 0; k < 128; k++)
		assert_int_equal(component(&y, HI16_ZMM)[k], 0);
	assert_memory_equal(component(&x, OPMASK), component(&y, OPMASK), 64);
	client_close(&c);
}

static void without_its_bits_of_xcr0_it_is_undefined(void **state)
{
	struct kvm_xcrs xcrs = { .nr_xcrs = 1, .xcrs[0].value = 0x27 };
	struct client c;

	open_guest(&c, 7);
	assert_int_equal(client_next_out(&c), 6); /* #UD */
	assert_fails(ioctl(c.vcpu, KVM_SET_XCRS, &xcrs), EINVAL);
	client_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(guest_computes_with_registers_of_the_client),
		cmocka_unit_test(what_is_set_comes_back),
		cmocka_unit_test(without_its_bits_of_xcr0_it_is_undefined),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
