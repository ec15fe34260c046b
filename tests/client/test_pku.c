/*
 * Protection keys: page faults with their error codes, a PKRU that changes while the pages are in
 * the TLB, RDPKRU and WRPKRU, and PKRU in KVM_GET_XSAVE and KVM_SET_XSAVE.
 */
#include "guest_code.h"
#include "paging.h"

#define CR4_OSXSAVE (1u << 18)
#define CR4_PKE (1u << 22)
#define KEY(n) ((uint64_t)(n) << 59)
#define AD(n) (1u << 2 * (n))
#define WD(n) (2u << 2 * (n))
#define XFEATURE_PKRU 9
#define PG_PF_PK 0x20
#define ROUNDS 3000
#define MMIO 0x400000

enum how { READ, WRITE, FETCH };

struct access {
	const char *what;
	enum how how;
	unsigned cpl;
	uint64_t pte; /* of the test page; its frame is added */
	uint32_t pkru;
	uint64_t cr0;
	int error; /* the error code of the page fault, or -1: none */
};

static const struct access accesses[] = {
	{"key 0, all allowed", WRITE, 3, PG_ALL, 0, 0, -1},
	{"access disabled for another key", WRITE, 3, PG_ALL | KEY(4), ~(AD(4) | WD(4)), CR0_WP, -1},
	{"user read, access disabled", READ, 3, PG_ALL | KEY(4), AD(4), 0, PG_PF_PK | 5},
	{"user write, access disabled", WRITE, 3, PG_ALL | KEY(4), AD(4), 0, PG_PF_PK | 7},
	{"user read, write disabled", READ, 3, PG_ALL | KEY(15), WD(15), 0, -1},
	{"user write, write disabled", WRITE, 3, PG_ALL | KEY(15), WD(15), 0, PG_PF_PK | 7},
	{"user fetch, access disabled", FETCH, 3, PG_ALL | KEY(1), AD(1), 0, -1},
	{"supervisor read of a user page, access disabled", READ, 0, PG_ALL | KEY(2), AD(2), 0, PG_PF_PK | 1},
	{"supervisor write, write disabled, with WP", WRITE, 0, PG_ALL | KEY(2), WD(2), CR0_WP, PG_PF_PK | 3},
	{"supervisor write, write disabled, without WP", WRITE, 0, PG_ALL | KEY(2), WD(2), 0, -1},
	{"supervisor page", WRITE, 0, PG_P | PG_RW | KEY(2), AD(2) | WD(2), CR0_WP, -1},
	{"supervisor page from user", READ, 3, PG_P | PG_RW | KEY(2), AD(2) | WD(2), 0, 5},
	{"read-only page and key", WRITE, 3, PG_P | PG_US | KEY(2), WD(2), 0, PG_PF_PK | 7},
	{"no page", READ, 3, KEY(2), AD(2), 0, 4},
	{"key 0 disabled", READ, 0, PG_ALL, AD(0), 0, PG_PF_PK | 1},
	{NULL},
};

GUEST_CODE(read_code, 64, "wrpkru; mov (%rsi), %eax; outb %al, $0x40");
GUEST_CODE(write_code, 64, "wrpkru; mov %eax, (%rsi); outb %al, $0x40");
GUEST_CODE(fetch_code, 64, "wrpkru; jmp *%rsi");
/* rbx rounds in which writing is allowed; then it is not.  */
GUEST_CODE(warm_code, 64, "1: xor %eax, %eax; wrpkru; mov %ebx, (%rsi); push %rbx; pop %rdi\n"
			  "mov $0x200, %eax; wrpkru; mov (%rsi), %edi; dec %ebx; jnz 1b\n"
			  "outb %al, $0x41; movl $5, (%rsi); outb %al, $0x42");
GUEST_CODE(stack_code, 64, "mov %esi, %esp; add $0x800, %esp; 1: xor %eax, %eax; wrpkru; push %rbx; pop %rbx; push %rbx; pop %rbx\n"
			   "dec %ebx; jnz 1b; mov $0x100, %eax; wrpkru; outb %al, $0x41; push %rbx; outb %al, $0x42");
GUEST_CODE(rd_code, 64, "rdpkru; outb %al, $0x40");
GUEST_CODE(wr_code, 64, "wrpkru; outb %al, $0x40");
/* MOVS from a device: the processor reads, what KVM emulates writes */
GUEST_CODE(movs_code, 64, "mov $0x400000, %esi; movsl; outb %al, $0x40");
GUEST_CODE(xsave_code, 64, "mov $0x12345670, %eax; wrpkru; mov $0x200, %eax; xsave 0x30000; xor %eax, %eax; wrpkru\n"
			   "mov $0x200, %eax; xrstor 0x30000; rdpkru; outb %al, $0x40; mov $0x200, %eax\n"
			   "movq $0, 0x30200; xrstor 0x30000; rdpkru; outb %al, $0x40");

static bool open_guest(struct client *c, unsigned cpl, uint64_t cr0, uint64_t cr4, const uint8_t *code, const uint8_t *end)
{
	client_open_vm(c, 2 << 20);
	client_add_vcpu(c);
	paging_start(c, PAGING_LONG, cpl, cr0, 0, 0);
	if (!client_cpuid_bit(c, 7, CPUID_ECX, 3)) {
		client_close(c);
		return false;
	}
	client_close(c);
	client_open_vm(c, 2 << 20);
	client_add_vcpu(c);
	paging_start(c, PAGING_LONG, cpl, cr0, cr4, 0);
	memcpy(c->mem + AT_CODE, code, (size_t)(end - code));
	memcpy(c->mem + AT_TEST, "\xe6\x40", 2); /* out 40h, al */
	return true;
}

#define OPEN_OR_SKIP(c, cpl, cr0, cr4, code)                                       \
	do {                                                                       \
		if (!open_guest(c, cpl, cr0, cr4, code, code##_end)) {             \
			print_message("protection keys are not offered here\n");   \
			skip();                                                    \
		}                                                                  \
	} while (0)

static void set_regs(struct client *c, uint64_t rax, uint64_t rbx, uint64_t rcx, uint64_t rdx)
{
	struct kvm_regs r = client_regs(c);

	r.rax = rax;
	r.rbx = rbx;
	r.rcx = rcx;
	r.rdx = rdx;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_REGS, &r), 0);
}

static void expect_fault(struct client *c, const char *what, int port, uint32_t error)
{
	struct kvm_regs r = client_regs(c);

	if (port != 14 || r.rdx != error || r.rcx != AT_TEST)
		fail_msg("%s: exception %d, error code %#llx, CR2 %#llx", what, port,
			 (unsigned long long)r.rdx, (unsigned long long)r.rcx);
}

/* Ring 0's own pages are supervisor pages, so that PKRU concerns the test page alone. */
static void supervisor_but(struct client *c, unsigned cpl, uint64_t pte)
{
	for (uint32_t va = 0; va < 2 << 20; va += 4096)
		paging_pte_set(c, PAGING_LONG, va, va | PG_P | PG_RW | (cpl ? PG_US : 0));
	paging_pte_set(c, PAGING_LONG, AT_TEST, AT_TEST | pte);
}

static void page_faults_by_key_are_exact(void **state)
{
	static const struct {
		const uint8_t *at, *end;
	} code[] = { { read_code, read_code_end }, { write_code, write_code_end }, { fetch_code, fetch_code_end } };
	struct client c;
	int port;

	for (const struct access *a = accesses; a->what; a++) {
		if (!open_guest(&c, a->cpl, a->cr0, CR4_PKE, code[a->how].at, code[a->how].end)) {
			print_message("protection keys are not offered here\n");
			skip();
		}
		supervisor_but(&c, a->cpl, a->pte);
		set_regs(&c, a->pkru, 0, 0, 0);
		port = client_next_out(&c);
		if (a->error >= 0)
			expect_fault(&c, a->what, port, (uint32_t)a->error);
		else if (port != 0x40)
			fail_msg("%s: exception %d, error code %#llx", a->what, port, (unsigned long long)client_regs(&c).rdx);
		client_close(&c);
	}
}

static void pkru_takes_effect_on_pages_in_the_tlb(void **state)
{
	struct client c;

	for (unsigned cpl = 0; cpl <= 3; cpl += 3) {
		OPEN_OR_SKIP(&c, cpl, CR0_WP, CR4_PKE, warm_code);
		supervisor_but(&c, cpl, PG_ALL | KEY(4));
		set_regs(&c, 0, ROUNDS, 0, 0);
		assert_int_equal(client_next_out(&c), 0x41);
		assert_int_equal(*(uint32_t *)(c.mem + AT_TEST), 1);
		expect_fault(&c, "write after WRPKRU", client_next_out(&c), PG_PF_PK | (cpl ? 7 : 3));
		assert_int_equal(*(uint32_t *)(c.mem + AT_TEST), 1);
		client_close(&c);
	}
}

static void the_stack_obeys_pkru(void **state)
{
	struct client c;
	struct kvm_regs r;

	OPEN_OR_SKIP(&c, 3, CR0_WP, CR4_PKE, stack_code);
	supervisor_but(&c, 3, PG_ALL | KEY(4));
	set_regs(&c, 0, ROUNDS, 0, 0);
	assert_int_equal(client_next_out(&c), 0x41);
	assert_int_equal(client_next_out(&c), 14);
	r = client_regs(&c);
	assert_int_equal(r.rdx, PG_PF_PK | 7);
	assert_int_equal(r.rcx, AT_TEST + 0x7f8);
	client_close(&c);
}

static void without_cr4_pke_keys_mean_nothing(void **state)
{
	struct client c;

	OPEN_OR_SKIP(&c, 0, 0, 0, rd_code);
	assert_int_equal(client_next_out(&c), 6);
	client_close(&c);
	OPEN_OR_SKIP(&c, 0, 0, 0, wr_code);
	assert_int_equal(client_next_out(&c), 6);
	client_close(&c);
}

static void operands_other_than_zero_raise_gp(void **state)
{
	struct client c;

	OPEN_OR_SKIP(&c, 3, 0, CR4_PKE, rd_code);
	set_regs(&c, 7, 0, 1, 0);
	assert_int_equal(client_next_out(&c), 13);
	client_close(&c);
	OPEN_OR_SKIP(&c, 3, 0, CR4_PKE, wr_code);
	set_regs(&c, 0, 0, 0, 1);
	assert_int_equal(client_next_out(&c), 13);
	client_close(&c);
	OPEN_OR_SKIP(&c, 3, 0, CR4_PKE, rd_code);
	set_regs(&c, ~0ULL, 0, 1ULL << 32, ~0ULL); /* ECX counts, not RCX */
	assert_int_equal(client_next_out(&c), 0x40);
	assert_int_equal(client_regs(&c).rax, 0);
	assert_int_equal(client_regs(&c).rdx, 0);
	client_close(&c);
}

static void cpuid_shows_cr4_pke(void **state)
{
	struct client c;

	OPEN_OR_SKIP(&c, 0, 0, 0, rd_code);
	assert_false(client_cpuid_bit(&c, 7, CPUID_ECX, 4));
	client_close(&c);
	OPEN_OR_SKIP(&c, 0, 0, CR4_PKE, rd_code);
	assert_true(client_cpuid_bit(&c, 7, CPUID_ECX, 4));
	client_close(&c);
}

static void an_emulated_write_is_refused_by_its_key(void **state)
{
	struct client c;
	struct kvm_regs r;

	OPEN_OR_SKIP(&c, 3, 0, CR4_PKE, movs_code);
	supervisor_but(&c, 3, PG_ALL);
	paging_pte_set(&c, PAGING_LONG, AT_TEST, AT_TEST | PG_ALL | KEY(4));
	/* the device's page */
	*(uint64_t *)(c.mem + 0x12010) = MMIO | PG_ALL | PG_PS;
	memcpy(c.mem + AT_CODE, "\x0f\x01\xef", 3);
	memcpy(c.mem + AT_CODE + 3, movs_code, GUEST_CODE_SIZE(movs_code));
	set_regs(&c, WD(4), 0, 0, 0);
	r = client_regs(&c);
	r.rdi = AT_TEST;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	assert_run_exits(&c, KVM_EXIT_MMIO);
	assert_int_equal(c.run->mmio.phys_addr, MMIO);
	assert_int_equal(client_next_out(&c), 14);
	assert_int_equal(client_regs(&c).rdx, PG_PF_PK | 7);
	client_close(&c);
}

static uint32_t place(void)
{
	struct client k;
	struct {
		struct kvm_cpuid2 h;
		struct kvm_cpuid_entry2 e[256];
	} cpuid = {.h.nent = 256};

	client_open_vm(&k, 4096);
	assert_int_equal(ioctl(k.kvm, KVM_GET_SUPPORTED_CPUID, &cpuid), 0);
	client_close(&k);
	for (uint32_t i = 0; i < cpuid.h.nent; i++)
		if (cpuid.e[i].function == 0xd && cpuid.e[i].index == XFEATURE_PKRU) {
			assert_int_equal(cpuid.e[i].eax, 8);
			return cpuid.e[i].ebx;
		}
	fail_msg("leaf 0Dh has no sub-leaf 9");
	return 0;
}

static void xsave_carries_pkru(void **state)
{
	struct kvm_xcrs xcrs = { .nr_xcrs = 1, .xcrs[0].value = 0x203 };
	struct kvm_xsave x;
	struct kvm_fpu f;
	struct client c;
	uint32_t at;

	OPEN_OR_SKIP(&c, 0, 0, CR4_PKE | CR4_OSXSAVE | 1 << 9, xsave_code);
	at = place();
	supervisor_but(&c, 0, PG_P);
	assert_int_equal(ioctl(c.vcpu, KVM_SET_XCRS, &xcrs), 0);
	set_regs(&c, 0, 0, 0, 0);
	assert_int_equal(client_next_out(&c), 0x40);
	assert_int_equal(client_regs(&c).rax, 0x12345670);
	assert_int_equal(*(uint32_t *)(c.mem + 0x30000 + at), 0x12345670);
	assert_int_equal(*(uint64_t *)(c.mem + 0x30200), 0x200);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_XSAVE, &x), 0);
	assert_int_equal(x.region[128], 0x203);
	assert_int_equal(x.region[at / 4], 0x12345670);
	/* XRSTOR of an area without the component, which is then initial */
	assert_int_equal(client_next_out(&c), 0x40);
	assert_int_equal(client_regs(&c).rax, 0);
	/* and from the client; KVM_SET_FPU leaves it alone */
	assert_int_equal(ioctl(c.vcpu, KVM_SET_XSAVE, &x), 0);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_FPU, &f), 0);
	assert_int_equal(ioctl(c.vcpu, KVM_SET_FPU, &f), 0);
	memset(&x, 0, sizeof(x));
	assert_int_equal(ioctl(c.vcpu, KVM_GET_XSAVE, &x), 0);
	assert_int_equal(x.region[at / 4], 0x12345670);
	x.region[128] = 3;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_XSAVE, &x), 0);
	assert_int_equal(ioctl(c.vcpu, KVM_GET_XSAVE, &x), 0);
	assert_int_equal(x.region[128] & 0x200, 0);
	client_close(&c);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(page_faults_by_key_are_exact),
		cmocka_unit_test(pkru_takes_effect_on_pages_in_the_tlb),
		cmocka_unit_test(the_stack_obeys_pkru),
		cmocka_unit_test(without_cr4_pke_keys_mean_nothing),
		cmocka_unit_test(operands_other_than_zero_raise_gp),
		cmocka_unit_test(cpuid_shows_cr4_pke),
		cmocka_unit_test(an_emulated_write_is_refused_by_its_key),
		cmocka_unit_test(xsave_carries_pkru),
	};

	client_param("pku=1");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
