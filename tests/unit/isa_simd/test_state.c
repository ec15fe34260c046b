/*
 * What surrounds the silicon: availability (#UD, #NM), x87 environments, FXSAVE
 * and XSAVE areas, MXCSR, masked moves at the edge of memory, pointers, CPUID.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "../support/host_sets.h"
#include "harness.h"

#define RUN(s, mode, kind, ...)                                                   \
	run_handler((const uint8_t[]){ __VA_ARGS__ }, sizeof((uint8_t[]){ __VA_ARGS__ }), (s), \
		    mode, kind)
#define RUN64(s, ...) RUN(s, ISA_CODE64, MEM_DIRECT, __VA_ARGS__)
#define MEM_AT (harness_mem + PAGE_SIZE - 128) /* struct state.mem */

static struct state st;

static void begin(void)
{
	harness_init();
	harness_reset(ISA_CODE64);
	harness_fault_page = 0;
	random_state(&st);
	st.x.fcw = 0x37f;
	st.x.fsw = 0;
	st.x.mxcsr = 0x1f80;
	st.gpr[RBX] = (uint64_t)(uintptr_t)MEM_AT;
}

#define ADDPS 0x0f, 0x58, 0xc1
#define VADDPS 0xc5, 0xf0, 0x58, 0xc1
#define PADDB_MMX 0x0f, 0xfc, 0xc1
#define FADD 0xd8, 0xc1
#define FWAIT 0x9b

static void task_switched_raises_nm(void **state)
{
	NEED(AVX);
	begin();
	harness_cs.cr0 |= X86_CR0_TS;
	assert_int_equal(RUN64(&st, ADDPS), X86_TRAP_NM);
	assert_int_equal(RUN64(&st, VADDPS), X86_TRAP_NM);
	assert_int_equal(RUN64(&st, PADDB_MMX), X86_TRAP_NM);
	assert_int_equal(RUN64(&st, FADD), X86_TRAP_NM);
	assert_int_equal(RUN64(&st, FWAIT), X86_TRAP_NM);
	assert_int_equal(RUN64(&st, 0x0f, 0xae, 0x03), X86_TRAP_NM); /* fxsave [rbx] */
	harness_cs.cr0 &= ~X86_CR0_MP;
	assert_int_equal(RUN64(&st, FWAIT), NO_FAULT);
}

static void emulation_bit_raises_ud_for_sse_and_nm_for_x87(void **state)
{
	NEED(AVX);
	begin();
	harness_cs.cr0 |= X86_CR0_EM;
	assert_int_equal(RUN64(&st, ADDPS), X86_TRAP_UD);
	assert_int_equal(RUN64(&st, PADDB_MMX), X86_TRAP_UD);
	assert_int_equal(RUN64(&st, FADD), X86_TRAP_NM);
	assert_int_equal(RUN64(&st, VADDPS), NO_FAULT);
}

static void missing_cr4_or_xcr0_bits_raise_ud(void **state)
{
	begin();
	harness_cs.cr4 &= ~X86_CR4_OSFXSR;
	assert_int_equal(RUN64(&st, ADDPS), X86_TRAP_UD);
	assert_int_equal(RUN64(&st, PADDB_MMX), NO_FAULT);
	harness_cs.xcr0 = 3;
	assert_int_equal(RUN64(&st, VADDPS), X86_TRAP_UD);
	harness_cs.xcr0 = 7;
	harness_cs.cr4 &= ~X86_CR4_OSXSAVE;
	assert_int_equal(RUN64(&st, VADDPS), X86_TRAP_UD);
	assert_int_equal(RUN64(&st, 0x0f, 0xae, 0x23), X86_TRAP_UD); /* xsave [rbx] */
	assert_int_equal(RUN64(&st, 0x0f, 0x01, 0xd0), X86_TRAP_UD); /* xgetbv */
}

static void unmasked_simd_exception_without_osxmmexcpt_raises_ud(void **state)
{
	begin();
	st.x.mxcsr = 0x1f80 & ~0x200; /* divide by zero */
	st.x.xmm[0][0] = 0x3f8000003f800000;
	memset(st.x.xmm[1], 0, 16);
	assert_int_equal(RUN64(&st, 0x0f, 0x5e, 0xc1), X86_TRAP_XM);
	harness_cs.cr4 &= ~X86_CR4_OSXMMEXCPT;
	assert_int_equal(RUN64(&st, 0x0f, 0x5e, 0xc1), X86_TRAP_UD);
}

static void ldmxcsr_of_reserved_bits_raises_gp(void **state)
{
	uint32_t v = 0x1f80 | 1u << 17;

	begin();
	memcpy(st.mem, &v, 4);
	assert_int_equal(RUN64(&st, 0x0f, 0xae, 0x13), X86_TRAP_GP);
	assert_int_equal(st.x.mxcsr, 0x1f80);
	v = 0x9fc0;
	memcpy(st.mem, &v, 4);
	assert_int_equal(RUN64(&st, 0x0f, 0xae, 0x13), NO_FAULT);
	assert_int_equal(st.x.mxcsr, 0x9fc0);
	assert_int_equal(RUN64(&st, 0x0f, 0xae, 0x5b, 0x04), NO_FAULT); /* stmxcsr [rbx+4] */
	assert_memory_equal(st.mem + 4, &v, 4);
}

/* FNSTENV and FNSAVE against the bare processor, pointers apart. */
static void environments_equal_the_bare_processors(void **state)
{
	static const uint8_t forms[][3] = {
		{ 0xd9, 0x33 }, { 0x66, 0xd9, 0x33 }, { 0xdd, 0x33 }, { 0x66, 0xdd, 0x33 },
		{ 0x66, 0xd9, 0x23 }, { 0xdd, 0x23 }, { 0x66, 0xdd, 0x23 },
	};

	begin();
	for (unsigned n = 0; n < 4000; n++) {
		const uint8_t *f = forms[n % ARRAY_SIZE(forms)];
		unsigned len = f[0] == 0x66 ? 3 : 2;
		unsigned ptr = f[0] == 0x66 ? 6 : 12, end = f[0] == 0x66 ? 14 : 28;
		bool store = f[len - 1] == 0x33;
		struct state a, b;
		int va;

		random_state(&a);
		a.gpr[RBX] = st.gpr[RBX];
		b = a;
		va = run_native(f, len, &a);
		assert_int_equal(run_handler(f, len, &b, ISA_CODE64, n & 1), va);
		if (va != NO_FAULT)
			continue;
		if (store) {
			memset(a.mem + ptr, 0, end - ptr);
			memset(b.mem + ptr, 0, end - ptr);
		}
		assert_memory_equal(a.mem, b.mem, sizeof(a.mem));
		assert_int_equal(a.x.fcw, b.x.fcw);
		assert_int_equal(a.x.fsw, b.x.fsw);
		assert_int_equal(a.x.ftw, b.x.ftw);
		for (unsigned k = 0; k < 8; k++) {
			assert_int_equal(a.x.st[k][0], b.x.st[k][0]);
			assert_int_equal(a.x.st[k][1] & 0xffff, b.x.st[k][1] & 0xffff);
		}
	}
}

static void x87_pointers_are_the_guests(void **state)
{
	uint32_t env[7];

	begin();
	st.x.ftw = 0xff;
	assert_int_equal(RUN64(&st, 0xd8, 0x43, 0x10), NO_FAULT); /* fadd dword [rbx+16] */
	assert_int_equal(st.x.fip, harness_rip(ISA_CODE64));
	assert_int_equal(st.x.fdp, st.gpr[RBX] + 16);
	assert_int_equal(st.x.fop, 0x043);
	assert_int_equal(RUN64(&st, 0xd9, 0x33), NO_FAULT); /* fnstenv [rbx] */
	memcpy(env, st.mem, sizeof(env));
	assert_int_equal(env[3], (uint32_t)harness_rip(ISA_CODE64));
	assert_int_equal(env[4], 0x043 << 16);
	assert_int_equal(env[5], (uint32_t)st.gpr[RBX] + 16);
	assert_int_equal(RUN64(&st, 0xdb, 0xe3), NO_FAULT); /* fninit */
	assert_int_equal(st.x.fip | st.x.fdp | st.x.fop, 0);
}

static void real_mode_environment_holds_linear_pointers(void **state)
{
	uint16_t env[7];

	begin();
	harness_reset(ISA_CODE16);
	harness_cs.cr0 &= ~X86_CR0_PE;
	harness_cs.seg[SREG_DS].base = (uint32_t)(uintptr_t)MEM_AT;
	harness_cs.seg[SREG_DS].limit = 0xffff;
	harness_cs.seg[SREG_CS].base = 0xf0000;
	st.gpr[RBX] = 0;
	st.x.fip = 0x1234;
	st.x.fdp = 0x56789;
	st.x.fop = 0x5a5;
	assert_int_equal(RUN(&st, ISA_CODE16, MEM_DIRECT, 0xd9, 0x37), NO_FAULT); /* fnstenv [bx] */
	memcpy(env, st.mem, sizeof(env));
	assert_int_equal(env[3], 0x1234);
	assert_int_equal(env[4], 0xf000 | 0x5a5);
	assert_int_equal(env[5], 0x6789);
	assert_int_equal(env[6], 0x5000);
}

/* A pending exception: FNSTENV does not wait, FLDENV does. */
static void pending_x87_exception_raises_mf_in_waiting_instructions(void **state)
{
	begin();
	st.x.fcw = 0x37e;
	st.x.fsw = 0x8081;
	assert_int_equal(RUN64(&st, FWAIT), X86_TRAP_MF);
	assert_int_equal(RUN64(&st, FADD), X86_TRAP_MF);
	assert_int_equal(RUN64(&st, PADDB_MMX), X86_TRAP_MF);
	assert_int_equal(RUN64(&st, 0xd9, 0x23), X86_TRAP_MF); /* fldenv */
	assert_int_equal(RUN64(&st, ADDPS), NO_FAULT);
	assert_int_equal(RUN64(&st, 0xd9, 0x33), NO_FAULT); /* fnstenv */
}

/* --- areas: 64-byte aligned, over both pages of harness memory --- */
static uint8_t *area(void)
{
	return harness_mem;
}

static int run_area(struct state *s, const uint8_t *bytes, unsigned n, uint64_t rfbm, int kind)
{
	s->gpr[RBX] = (uint64_t)(uintptr_t)area();
	s->gpr[RAX] = rfbm;
	s->gpr[RDX] = 0;
	return kind < 0 ? run_native(bytes, n, s)
			: run_handler(bytes, n, s, ISA_CODE64, (enum memory_kind)kind);
}

static void save_area(struct state *s, const uint8_t *f, uint64_t rfbm, int kind, uint8_t *out)
{
	memset(area(), 0x5c, XSAVE_BYTES);
	memset(area() + 512, 0, 64);
	assert_int_equal(run_area(s, f, f[0] == 0x48 ? 4 : 3, rfbm, kind), NO_FAULT);
	memcpy(out, area(), XSAVE_BYTES);
}

/* The first byte that differs, XSAVE_BYTES none. */
static unsigned areas_differ_at(const uint8_t *bare, uint8_t *ours)
{
	unsigned at = 0;

	/* FOP, FIP, FDP: the bare ones are the harness's; MXCSR_MASK is ours. */
	memcpy(ours + 6, bare + 6, 18);
	memcpy(ours + 28, bare + 28, 4);
	/* 16-bit reserved part of each ST. */
	for (unsigned k = 0; k < 8; k++)
		memcpy(ours + 32 + 16 * k + 10, bare + 32 + 16 * k + 10, 6);
	while (at < XSAVE_BYTES && bare[at] == ours[at])
		at++;
	return at;
}

/*
 * When its thread is switched out and in again between the bare processor's XRSTOR
 * and its XSAVE, that one may call an initial component in use, and stores it: such
 * a case is done again.
 */
static void saved_areas_equal_the_bare_processors(void **state)
{
	static const uint8_t forms[][4] = {
		{ 0x0f, 0xae, 0x03 }, /* fxsave */ { 0x48, 0x0f, 0xae, 0x03 },
		{ 0x0f, 0xae, 0x23 }, /* xsave */ { 0x48, 0x0f, 0xae, 0x23 },
		{ 0x0f, 0xc7, 0x23 }, /* xsavec */ { 0x0f, 0xae, 0x33 }, /* xsaveopt */
	};
	uint8_t bare[XSAVE_BYTES], ours[XSAVE_BYTES];

	NEED(AVX);
	begin();
	for (unsigned n = 0; n < 3000; n++) {
		const uint8_t *f = forms[n % ARRAY_SIZE(forms)];
		uint64_t rfbm = rnd() & isa_host()->xfeatures;
		unsigned at = 0;
		struct state from;

		random_state(&from);
		from.x.fip = from.x.fdp = 0;
		from.x.xstate_bv = rnd() & isa_host()->xfeatures;
		if (rnd() & 1)
			from.x.mxcsr = MXCSR_DEFAULT;
		for (unsigned tries = 0; tries < 5 && at < XSAVE_BYTES; tries++) {
			struct state a = from, b = from;

			save_area(&a, f, rfbm, -1, bare);
			save_area(&b, f, rfbm, n & 1, ours);
			at = areas_differ_at(bare, ours);
		}
		if (at < XSAVE_BYTES) {
			fprintf(stderr, "form %u rfbm %u byte %u: %02x, ours %02x\n", n % (unsigned)ARRAY_SIZE(forms),
				(unsigned)rfbm, at, bare[at], ours[at]);
			fail();
		}
	}
}

static void restored_state_equals_the_bare_processors(void **state)
{
	static const uint8_t forms[][4] = {
		{ 0x0f, 0xae, 0x0b }, /* fxrstor */ { 0x48, 0x0f, 0xae, 0x0b },
		{ 0x0f, 0xae, 0x2b }, /* xrstor */ { 0x48, 0x0f, 0xae, 0x2b },
	};
	unsigned nr_gp = 0;

	NEED(AVX);
	begin();
	for (unsigned n = 0; n < 6000; n++) {
		const uint8_t *f = forms[n % ARRAY_SIZE(forms)];
		unsigned len = f[0] == 0x48 ? 4 : 3;
		uint64_t rfbm = rnd() & isa_host()->xfeatures;
		struct state a, b, in;
		int va;

		random_state(&a);
		random_state(&in);
		in.x.xstate_bv = rnd() & isa_host()->xfeatures;
		if (!(rnd() & 3)) /* compacted */
			in.x.xcomp_bv = 1ULL << 63 | (rnd() & isa_host()->xfeatures) | (rnd() & 1 ? in.x.xstate_bv : 0);
		else if (!(rnd() & 7))
			in.x.xcomp_bv = 1ULL << (rnd() % 10);
		if (!(rnd() & 15))
			in.x.header_reserved[rnd() % 6] = 1;
		if (!(rnd() & 15))
			in.x.xstate_bv |= 1ULL << 40;
		if (!(rnd() & 15))
			in.x.mxcsr |= 1u << 20;
		b = a;
		memcpy(area(), in.area, sizeof(in.area));
		va = run_area(&a, f, len, rfbm, -1);
		assert_int_equal(run_area(&b, f, len, rfbm, n & 1), va);
		if (va != NO_FAULT) {
			nr_gp++;
			continue;
		}
		assert_int_equal(a.x.fcw, b.x.fcw);
		assert_int_equal(a.x.fsw, b.x.fsw);
		assert_int_equal(a.x.ftw, b.x.ftw);
		assert_int_equal(a.x.mxcsr, b.x.mxcsr);
		assert_true(harness_same_vectors(&a, &b));
		for (unsigned k = 0; k < 8; k++)
			assert_int_equal(a.x.st[k][0], b.x.st[k][0]);
	}
	assert_true(nr_gp > 300);
}

static void misaligned_area_raises_gp(void **state)
{
	begin();
	st.gpr[RBX] += 8;
	assert_int_equal(RUN64(&st, 0x0f, 0xae, 0x03), X86_TRAP_GP); /* fxsave */
	st.gpr[RBX] += 8;
	assert_int_equal(RUN64(&st, 0x0f, 0xae, 0x23), X86_TRAP_GP); /* xsave: 64 */
}

static void xsaves_outside_ring_0_raises_gp(void **state)
{
	begin();
	st.gpr[RBX] = (uint64_t)(uintptr_t)area();
	st.gpr[RAX] = 7;
	assert_int_equal(RUN64(&st, 0x0f, 0xc7, 0x2b), NO_FAULT);
	assert_int_equal(RUN64(&st, 0x0f, 0xc7, 0x1b), NO_FAULT); /* xrstors */
	harness_cs.cpl = 3;
	assert_int_equal(RUN64(&st, 0x0f, 0xc7, 0x2b), X86_TRAP_GP);
	assert_int_equal(RUN64(&st, 0x0f, 0xc7, 0x1b), X86_TRAP_GP);
}

static void save_to_area_that_ends_unmapped_stores_nothing(void **state)
{
	begin();
	harness_fault_page = (uint64_t)(uintptr_t)harness_mem + PAGE_SIZE;
	st.gpr[RBX] = harness_fault_page - 256;
	memset(harness_mem, 0x77, PAGE_SIZE - 128);
	memset(st.mem, 0x77, sizeof(st.mem));
	assert_int_equal(RUN64(&st, 0x0f, 0xae, 0x03), X86_TRAP_PF);
	for (unsigned n = PAGE_SIZE - 256; n < PAGE_SIZE; n++)
		assert_int_equal(harness_mem[n], 0x77);
}

/* --- masked moves with the second half of the operand unmapped --- */
static void masked_out_elements_do_not_fault(void **state)
{
	static const uint64_t on = 0x8000000080000000;
	struct state in;

	NEED(AVX2);
	begin();
	harness_fault_page = (uint64_t)(uintptr_t)harness_mem + PAGE_SIZE;
	st.gpr[RBX] = harness_fault_page - 16;
	st.x.xmm[1][0] = st.x.xmm[1][1] = on;
	st.x.ymm_high[1][0] = st.x.ymm_high[1][1] = 0;
	in = st;
	assert_int_equal(RUN64(&st, 0xc4, 0xe2, 0x75, 0x2c, 0x03), NO_FAULT); /* vmaskmovps ymm0,ymm1,[rbx] */
	assert_memory_equal(st.x.xmm[0], in.mem + 112, 16);
	assert_int_equal(st.x.ymm_high[0][0] | st.x.ymm_high[0][1], 0);
	st = in;
	assert_int_equal(RUN64(&st, 0xc4, 0xe2, 0x75, 0x2e, 0x03), NO_FAULT); /* … [rbx],ymm1,ymm0 */
	assert_memory_equal(st.mem + 112, in.x.xmm[0], 16);
	st = in;
	st.x.ymm_high[1][1] = on;
	assert_int_equal(RUN64(&st, 0xc4, 0xe2, 0x75, 0x2c, 0x03), X86_TRAP_PF);
	assert_memory_equal(st.x.xmm, in.x.xmm, sizeof(in.x.xmm));
	assert_int_equal(RUN64(&st, 0xc4, 0xe2, 0x75, 0x2e, 0x03), X86_TRAP_PF);
}

static void gather_that_faults_changes_nothing(void **state)
{
	struct state in;

	NEED(AVX2);
	begin();
	harness_fault_page = (uint64_t)(uintptr_t)harness_mem + PAGE_SIZE;
	st.gpr[RBX] = harness_fault_page - 16;
	for (unsigned n = 0; n < 2; n++) {
		st.x.xmm[2][n] = (2 * n) | (2 * n + 1ULL) << 32;
		st.x.xmm[1][n] = 0x8000000080000000;
	}
	in = st;
	/* vpgatherdd xmm0, [rbx+xmm2*4], xmm1 */
	assert_int_equal(RUN64(&st, 0xc4, 0xe2, 0x71, 0x90, 0x04, 0x93), NO_FAULT);
	assert_memory_equal(st.x.xmm[0], in.mem + 112, 16);
	assert_int_equal(st.x.xmm[1][0] | st.x.xmm[1][1], 0);
	st = in;
	st.x.xmm[2][1] = 2 | 4ULL << 32; /* the last one beyond the page */
	in = st;
	assert_int_equal(RUN64(&st, 0xc4, 0xe2, 0x71, 0x90, 0x04, 0x93), X86_TRAP_PF);
	assert_memory_equal(st.x.xmm, in.x.xmm, sizeof(in.x.xmm));
}

/* SDM Vol. 2, "VPGATHERDD", "VPSCATTERDD": elements before the one that faults are done, and their bits clear. */
static void avx512_gather_and_scatter_that_fault_go_on_where_they_stopped(void **state)
{
	const uint64_t second = (uint64_t)(uintptr_t)harness_mem + PAGE_SIZE;
	uint64_t *k, *zmm18, *zmm17;
	struct state in;

	NEED(AVX512F);
	begin();
	st.gpr[RBX] = second - 16;
	k = (uint64_t *)isa_xsave_component(st.area, 5);
	zmm17 = (uint64_t *)isa_xsave_component(st.area, 7) + 8;
	zmm18 = zmm17 + 8;
	for (unsigned n = 0; n < 8; n++)
		zmm18[n] = (2 * n) | (2 * n + 1ULL) << 32; /* indices 0 to 15 */
	k[1] = 0xfffd; /* without element 1 */
	in = st;
	harness_fault_page = second;
	/* vpgatherdd zmm17{k1}, [rbx+zmm18*4] */
	assert_int_equal(RUN64(&st, 0x62, 0xe2, 0x7d, 0x41, 0x90, 0x0c, 0x93), X86_TRAP_PF);
	assert_int_equal((uint16_t)k[1], 0xfff0);
	assert_memory_equal(zmm17, in.mem + 112, 4);
	assert_memory_equal((uint8_t *)zmm17 + 8, in.mem + 120, 8);
	assert_memory_equal((uint8_t *)zmm17 + 4, isa_xsave_component(in.area, 7) + 68, 4); /* masked: as it was */
	harness_fault_page = 0;
	assert_int_equal(RUN64(&st, 0x62, 0xe2, 0x7d, 0x41, 0x90, 0x0c, 0x93), NO_FAULT);
	assert_int_equal(k[1], 0);
	assert_memory_equal((uint8_t *)zmm17 + 8, in.mem + 120, 56);
	/* vpscatterdd [rbx+zmm18*4]{k1}, zmm17 */
	memset(st.mem, 0, sizeof(st.mem));
	k[1] = 0xfffd;
	harness_fault_page = second;
	assert_int_equal(RUN64(&st, 0x62, 0xe2, 0x7d, 0x41, 0xa0, 0x0c, 0x93), X86_TRAP_PF);
	assert_int_equal((uint16_t)k[1], 0xfff0);
	assert_memory_equal(st.mem + 120, (uint8_t *)zmm17 + 8, 8);
	assert_int_equal(st.mem[116] | st.mem[128], 0);
	harness_fault_page = 0;
	assert_int_equal(RUN64(&st, 0x62, 0xe2, 0x7d, 0x41, 0xa0, 0x0c, 0x93), NO_FAULT);
	assert_memory_equal(st.mem + 120, (uint8_t *)zmm17 + 8, 56);
	assert_int_equal(k[1], 0);
}

static void load_across_pages_sees_both(void **state)
{
	uint8_t want[16];

	begin();
	st.gpr[RBX] += 128 - 5;
	memcpy(want, st.mem + 123, 16);
	assert_int_equal(RUN64(&st, 0x0f, 0x10, 0x03), NO_FAULT); /* movups xmm0, [rbx] */
	assert_memory_equal(st.x.xmm[0], want, 16);
}

static void operand_that_vanishes_in_a_stub_leaves_the_state_as_it_was(void **state)
{
	struct state in;

	NEED(AVX);
	begin();
	st.gpr[RBX] = (uint64_t)(uintptr_t)harness_mem + PAGE_SIZE;
	st.x.mxcsr = 0x1fa0;
	st.x.fcw = 0x27f;
	in = st;
	harness_vanish = true;
	assert_int_equal(RUN64(&st, 0x0f, 0x11, 0x03), X86_TRAP_PF); /* movups [rbx], xmm0 */
	harness_vanish = false;
	assert_int_equal(harness_cs.fpu_loaded, 0);
	assert_memory_equal(st.x.xmm, in.x.xmm, sizeof(in.x.xmm));
	assert_memory_equal(st.x.ymm_high, in.x.ymm_high, sizeof(in.x.ymm_high));
	assert_int_equal(st.x.mxcsr, in.x.mxcsr);
	assert_int_equal(st.x.fcw, in.x.fcw);
	assert_int_equal(st.x.ftw, in.x.ftw);
}

static void guest_registers_survive_between_stubs(void **state)
{
	struct isa_xsave_image before;

	begin();
	memcpy(harness_cs.xsave, &st.x, sizeof(st.x));
	before = st.x;
	isa_fpu_load(&harness_cs);
	isa_fpu_unload(&harness_cs);
	assert_memory_equal(((struct isa_xsave_image *)harness_cs.xsave)->xmm, before.xmm,
			    sizeof(before.xmm));
	assert_memory_equal(((struct isa_xsave_image *)harness_cs.xsave)->ymm_high, before.ymm_high,
			    sizeof(before.ymm_high));
}

/* SDM Vol. 2, "PUSH": of a 32-bit slot a segment register may fill only half; which is the silicon's. */
static void pushed_segment_register_fills_as_much_as_silicons_does(void **state)
{
	struct state a;

	begin();
	memset(st.mem, 0x5a, sizeof(st.mem));
	st.gpr[RSP] = (uint64_t)(uintptr_t)harness_mem + PAGE_SIZE - 64;
	a = st;
	assert_int_equal(run_native_mode((const uint8_t *)"\x1e", 1, &a, ISA_CODE32), NO_FAULT); /* push ds */
	memcpy(harness_mem + PAGE_SIZE - 128, st.mem, sizeof(st.mem));
	harness_reset(ISA_CODE32);
	harness_cs.gpr[RSP] = st.gpr[RSP];
	isa_push_sreg(&harness_cs, 4, 0x1234);
	assert_int_equal(harness_cs.gpr[RSP], st.gpr[RSP] - 4);
	memcpy(st.mem, harness_mem + PAGE_SIZE - 128, sizeof(st.mem));
	assert_memory_equal(st.mem + 60, "\x34\x12", 2);
	assert_memory_equal(st.mem + 62, a.mem + 62, 6); /* the slot's upper half, and what follows */
	assert_memory_equal(st.mem + 52, a.mem + 52, 8);
}

static void image_of_nonsense_loads_without_a_fault(void **state)
{
	struct isa_xsave_image *x;

	begin();
	x = harness_cs.xsave;
	memset(x, 0xff, sizeof(*x));
	isa_fpu_load(&harness_cs);
	isa_fpu_unload(&harness_cs);
	assert_int_equal(x->mxcsr, 0xffff);
}

static void cpuid_offers_no_more_than_is_implemented(void **state)
{
	uint32_t r[4];

	isa_cpuid(1, 0, r);
	assert_true(r[3] & 1u << 26);	  /* SSE2 */
	assert_false(r[2] & 1u << 27);	  /* OSXSAVE: the hypervisor's */
	assert_false(r[2] & 1u << 3);	  /* MONITOR */
	assert_false(r[2] & 1u << 31);	  /* hypervisor */
	isa_cpuid(7, 0, r);
	assert_int_equal(r[1] >> 16 & 1, isa_host_has(HOST_AVX512F));
	assert_false(r[1] & (1u << 4 | 1u << 11 | 1u << 14)); /* HLE RTM MPX */
	assert_false(r[2] & (1u << 16 | 1u << 7));			 /* LA57 CET */
	assert_int_equal(r[2] >> 3 & 1, isa_host()->own_xfeatures >> 9); /* PKU */
	isa_cpuid(0xd, 0, r);
	assert_int_equal(r[0], isa_host_has(HOST_XSAVE) ? isa_host()->xfeatures | isa_host()->own_xfeatures : 0);
	assert_int_equal(r[2], isa_host_has(HOST_XSAVE) ? isa_host()->xsave_bytes : 0);
	isa_cpuid(0xd, 2, r);
	assert_int_equal(r[0], isa_host_has(HOST_AVX) ? 256 : 0);
	assert_int_equal(r[1], isa_host_has(HOST_AVX) ? 576 : 0);
	isa_cpuid(0x40000000, 0, r);
	assert_int_equal(r[0] | r[1] | r[2] | r[3], 0);
	isa_cpuid(0x80000001, 0, r);
	assert_false(r[2] & (1u << 2 | 1u << 16 | 1u << 11 | 1u << 21)); /* SVM FMA4 XOP TBM */
	assert_true(r[3] & 1u << 29);					   /* LM */
	isa_cpuid(0x80000008, 0, r);
	assert_int_equal(r[0] >> 8 & 0xff, 48);
}

/* What isa/host.h has asked of the silicon at the start, against the same instructions run here. */
static void what_was_asked_at_the_start_is_so(void **state)
{
	const struct isa_host *h = isa_host();
	struct state s;
	int r;

	if (!h->asked) {
		print_message("this host could not be asked\n");
		skip();
	}
	begin();
	random_state(&s);
	r = run_native((const uint8_t[]){ 0x0f, 0x0d, 0xc9 }, 3, &s); /* prefetchw ecx */
	assert_int_equal(r == NO_FAULT, h->prefetchw_takes_registers);
	if (isa_host_has(HOST_AVX)) {
		random_state(&s);
		/* vpinsrd xmm0, xmm0, eax, 0 with W1, in 32-bit code */
		r = run_native_mode((const uint8_t[]){ 0xc4, 0xe3, 0xf9, 0x22, 0xc0, 0x00 }, 6, &s, ISA_CODE32);
		assert_int_equal(r == NO_FAULT, h->vpinsrd_ignores_w);
	}
	if (isa_host_has(HOST_SHA)) {
		random_state(&s);
		s.gpr[RBX] = (uint64_t)(uintptr_t)harness_mem + 1;
		r = run_native((const uint8_t[]){ 0x0f, 0x38, 0xcc, 0x03 }, 4, &s); /* sha256msg1 xmm0, [rbx] */
		assert_int_equal(r != NO_FAULT, h->sha_wants_alignment);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(task_switched_raises_nm),
		cmocka_unit_test(emulation_bit_raises_ud_for_sse_and_nm_for_x87),
		cmocka_unit_test(missing_cr4_or_xcr0_bits_raise_ud),
		cmocka_unit_test(unmasked_simd_exception_without_osxmmexcpt_raises_ud),
		cmocka_unit_test(ldmxcsr_of_reserved_bits_raises_gp),
		cmocka_unit_test(environments_equal_the_bare_processors),
		cmocka_unit_test(x87_pointers_are_the_guests),
		cmocka_unit_test(real_mode_environment_holds_linear_pointers),
		cmocka_unit_test(pending_x87_exception_raises_mf_in_waiting_instructions),
		cmocka_unit_test(saved_areas_equal_the_bare_processors),
		cmocka_unit_test(restored_state_equals_the_bare_processors),
		cmocka_unit_test(misaligned_area_raises_gp),
		cmocka_unit_test(xsaves_outside_ring_0_raises_gp),
		cmocka_unit_test(save_to_area_that_ends_unmapped_stores_nothing),
		cmocka_unit_test(masked_out_elements_do_not_fault),
		cmocka_unit_test(gather_that_faults_changes_nothing),
		cmocka_unit_test(avx512_gather_and_scatter_that_fault_go_on_where_they_stopped),
		cmocka_unit_test(load_across_pages_sees_both),
		cmocka_unit_test(operand_that_vanishes_in_a_stub_leaves_the_state_as_it_was),
		cmocka_unit_test(guest_registers_survive_between_stubs),
		cmocka_unit_test(pushed_segment_register_fills_as_much_as_silicons_does),
		cmocka_unit_test(image_of_nonsense_loads_without_a_fault),
		cmocka_unit_test(what_was_asked_at_the_start_is_so),
		cmocka_unit_test(cpuid_offers_no_more_than_is_implemented),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
