/*
 * Repeated string instructions at length: whole chunks by the host's own
 * instruction against element after element (as under USERKVM_CHECK=tlb, where
 * every access takes the slow path). Registers, flags, memory and faults agree.
 */
#include "machine.h"

#define DATA 0x100000UL
#define PAGES 8
#define BYTES (PAGES * 0x1000UL)

static const uint8_t ops[] = { 0xa4, 0xa6, 0xaa, 0xac, 0xae }; /* MOVS CMPS STOS LODS SCAS, bytes */

struct round {
	uint8_t code[8];
	unsigned nr_code;
	uint64_t rsi, rdi, rcx, rax, flags;
	uint8_t pages[PAGES]; /* of the data, in their order; PAGES: not present */
	bool warm;	      /* translated for writing before */
};

static struct round random_round(void)
{
	struct round r = { .rsi = DATA + (uint64_t)random() % BYTES, .rdi = DATA + (uint64_t)random() % BYTES,
			   .rcx = (uint64_t)random() % (random() & 3 ? 300 : 6000),
			   .rax = (uint64_t)random() & 0x0101010101010101,
			   .flags = X86_FLAGS_FIXED | (random() & 1 ? X86_FLAGS_DF : 0) };
	unsigned size = (unsigned)random() & 3; /* 1 2 4 8 */
	uint8_t op = ops[random() % 5];

	if (random() & 1) /* aligned more often than not */
		r.rsi &= ~7UL, r.rdi &= ~7UL;
	if (!(random() & 3))
		r.code[r.nr_code++] = 0x67;
	if (size == 1)
		r.code[r.nr_code++] = 0x66;
	r.code[r.nr_code++] = random() & 1 ? 0xf3 : 0xf2;
	if (size == 3)
		r.code[r.nr_code++] = 0x48;
	r.code[r.nr_code++] = op | (size ? 1 : 0);
	r.code[r.nr_code++] = 0xf4;
	bool side_by_side = random() & 1;

	for (unsigned n = 0; n < PAGES; n++)
		r.pages[n] = !(random() % 12) ? PAGES : side_by_side ? (uint8_t)n : (uint8_t)((n * 5 + 3) % PAGES);
	r.warm = random() & 1;
	return r;
}

/* Code as it is, with the registers as they are, to its exit. */
static void run_code(struct machine *t, const uint8_t *code, size_t n)
{
	memcpy(t->ram + GPA_CODE, code, n);
	vmx_sync_code(t->cpu);
	W(GUEST_RIP, GPA_CODE);
	W(EXCEPTION_BITMAP, ~0u);
	go(t);
}

static void write_to_pages(struct machine *t, const struct round *r)
{
	static const uint8_t store[] = { 0xc6, 0x07, 1, 0xf4 }; /* movb $1, (%rdi); hlt */

	W(GUEST_RFLAGS, X86_FLAGS_FIXED);
	for (unsigned n = 0; n < PAGES; n++) {
		vmx_gprs(t->cpu)[RDI] = DATA + n * 0x1000UL;
		if (r->pages[n] != PAGES)
			run_code(t, store, sizeof(store));
	}
}

static void run(struct machine *t, const struct round *r, unsigned seed)
{
	uint64_t *gpr = vmx_gprs(t->cpu);

	for (unsigned n = 0; n < PAGES; n++)
		guest64(t, GPA_PT)[(DATA >> 12) + n] =
			r->pages[n] == PAGES ? 0 : (DATA + r->pages[n] * 0x1000UL) | PTE_P | PTE_RW;
	/* long runs of equal bytes, now and then another */
	memset(t->ram + DATA, 1, BYTES);
	for (unsigned n = 0; n < 1 + seed % 12; n++)
		t->ram[DATA + (seed * 2654435761u >> (n & 7)) % BYTES] = (uint8_t)n;
	assert_int_equal(invvpid(t->cpu, INVVPID_ALL_CONTEXT, 0, 0), VMX_SUCCEED);
	if (r->warm)
		write_to_pages(t, r);
	gpr[RSI] = r->rsi;
	gpr[RDI] = r->rdi;
	gpr[RCX] = r->rcx;
	gpr[RAX] = r->rax;
	W(GUEST_RFLAGS, r->flags);
	run_code(t, r->code, sizeof(r->code));
}

static void chunks_and_elements_agree(void **state)
{
	struct machine *by_chunk, *by_element;
	unsigned faults = 0, long_runs = 0;

	machine_setup_long((void **)&by_chunk);
	setenv("USERKVM_CHECK", "tlb", 1);
	machine_setup_long((void **)&by_element);
	unsetenv("USERKVM_CHECK");
	srandom(1);
	for (unsigned n = 0; n < 6000; n++) {
		struct round r = random_round();
		uint64_t *a = vmx_gprs(by_chunk->cpu), *b = vmx_gprs(by_element->cpu);
		static const uint32_t fields[] = { VM_EXIT_REASON, EXIT_QUALIFICATION, GUEST_RIP, GUEST_RFLAGS,
						   VM_EXIT_INTR_ERROR_CODE };

		run(by_chunk, &r, n);
		run(by_element, &r, n);
		faults += R(by_chunk, VM_EXIT_REASON) == EXIT_REASON_EXCEPTION_NMI;
		long_runs += r.rcx - a[RCX] > 1000;
		for (size_t k = 0; k < ARRAY_SIZE(fields); k++)
			if (R(by_chunk, fields[k]) != R(by_element, fields[k]))
				fail_msg("round %u, code %02x %02x %02x: field %#x %#lx %#lx", n, r.code[0], r.code[1],
					 r.code[2], fields[k], (unsigned long)R(by_chunk, fields[k]),
					 (unsigned long)R(by_element, fields[k]));
		for (unsigned k = 0; k < NR_GPRS; k++)
			if (a[k] != b[k])
				fail_msg("round %u, code %02x %02x %02x: register %u %#lx %#lx", n, r.code[0], r.code[1],
					 r.code[2], k, (unsigned long)a[k], (unsigned long)b[k]);
		assert_memory_equal(by_chunk->ram + DATA, by_element->ram + DATA, BYTES);
	}
	print_message("%u faults, %u runs of more than 1,000 elements\n", faults, long_runs);
	assert_true(faults > 500 && long_runs > 100);
	machine_teardown((void **)&by_chunk);
	machine_teardown((void **)&by_element);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(chunks_and_elements_agree) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
