/*
 * Control registers, KVM_SET_SREGS, x87/SSE/AVX state, debug registers.
 */
#include "isa/host.h"
#include "vcpu_fixture.h"

static void regs_come_back_as_set(void **state)
{
	struct kvm_regs in = { .rax = 1, .rbx = 2, .rcx = 3, .rdx = 4, .rsi = 5, .rdi = 6,
			       .rsp = 7, .rbp = 8, .r8 = 9, .r9 = 10, .r10 = 11, .r11 = 12,
			       .r12 = 13, .r13 = 14, .r14 = 15, .r15 = 16, .rip = 17, .rflags = 2 };
	struct kvm_regs out;

	assert_int_equal(vcpu_ioctl(KVM_SET_REGS, &in), 0);
	assert_int_equal(vcpu_ioctl(KVM_GET_REGS, &out), 0);
	assert_memory_equal(&in, &out, sizeof(in));
}

static void rflags_bit_1_is_always_set(void **state)
{
	struct kvm_regs r = { .rflags = 0 };

	assert_int_equal(vcpu_ioctl(KVM_SET_REGS, &r), 0);
	assert_int_equal(vcpu_ioctl(KVM_GET_REGS, &r), 0);
	assert_int_equal(r.rflags, 2);
}

static void sregs_come_back_as_set(void **state)
{
	struct kvm_sregs in, out;

	assert_int_equal(vcpu_ioctl(KVM_GET_SREGS, &in), 0);
	in.cs.base = 0x1230;
	in.cs.selector = 0x123;
	in.cr2 = 0x5678;
	in.cr8 = 3;
	in.gdt.base = 0x9000;
	in.gdt.limit = 0x77;
	assert_int_equal(vcpu_ioctl(KVM_SET_SREGS, &in), 0);
	assert_int_equal(vcpu_ioctl(KVM_GET_SREGS, &out), 0);
	assert_memory_equal(&in, &out, sizeof(in));
}

static void sregs_that_do_not_go_together_give_einval_and_change_nothing(void **state)
{
	struct kvm_sregs good = {0}, bad, now;

	assert_int_equal(vcpu_ioctl(KVM_GET_SREGS, &good), 0);
#define REFUSED(change)                                           \
	do {                                                      \
		bad = good;                                       \
		bad.cs.base = 0x666000;                           \
		change;                                           \
		assert_int_equal(vcpu_ioctl(KVM_SET_SREGS, &bad), -1); \
		assert_int_equal(errno, EINVAL);                  \
		assert_int_equal(vcpu_ioctl(KVM_GET_SREGS, &now), 0); \
		assert_memory_equal(&good, &now, sizeof(now));    \
	} while (0)
	REFUSED(bad.cr0 |= X86_CR0_PG; bad.cr0 &= ~X86_CR0_PE);
	REFUSED(bad.cr0 |= 1ULL << 40);
	REFUSED(bad.cr4 |= 1ULL << 31);
	REFUSED(bad.efer = EFER_LMA);
	REFUSED(bad.efer = EFER_LME; bad.cr0 |= X86_CR0_PG | X86_CR0_PE);
	REFUSED(bad.efer = 1ULL << 40);
	REFUSED(bad.cs.l = 1);
#undef REFUSED
}

static void long_mode_sregs_are_accepted(void **state)
{
	struct kvm_sregs s, before = {0};

	assert_int_equal(vcpu_ioctl(KVM_GET_SREGS, &before), 0);
	s = before;
	s.cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_ET | X86_CR0_NE;
	s.cr4 = X86_CR4_PAE;
	s.efer = EFER_LME | EFER_LMA;
	s.cs.l = 1;
	s.cs.db = 0;
	assert_int_equal(vcpu_ioctl(KVM_SET_SREGS, &s), 0);
	assert_true(vmx_get_efer(vcpu) & EFER_LMA);
	assert_int_equal(vcpu_ioctl(KVM_SET_SREGS, &before), 0);
	assert_false(vmx_get_efer(vcpu) & EFER_LMA);
}

static void sregs2_carries_pdptes_only_with_pae_paging(void **state)
{
	struct kvm_sregs2 s, before = {0};

	assert_int_equal(vcpu_ioctl(KVM_GET_SREGS2, &before), 0);
	s = before;
	s.flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
	assert_int_equal(vcpu_ioctl(KVM_SET_SREGS2, &s), -1);
	assert_int_equal(errno, EINVAL);
	s.cr0 |= X86_CR0_PE | X86_CR0_PG;
	s.cr4 |= X86_CR4_PAE;
	s.pdptrs[2] = 0x5001;
	assert_int_equal(vcpu_ioctl(KVM_SET_SREGS2, &s), 0);
	memset(&s, 0, sizeof(s));
	assert_int_equal(vcpu_ioctl(KVM_GET_SREGS2, &s), 0);
	assert_int_equal(s.flags, KVM_SREGS2_FLAGS_PDPTRS_VALID);
	assert_int_equal(s.pdptrs[2], 0x5001);
	assert_int_equal(vcpu_ioctl(KVM_SET_SREGS2, &before), 0);
}

static void interrupt_bitmap_queues_its_highest_vector(void **state)
{
	struct kvm_sregs s, before = {0};

	assert_int_equal(vcpu_ioctl(KVM_GET_SREGS, &before), 0);
	s = before;
	s.interrupt_bitmap[1] = 1ULL << 3;
	assert_int_equal(vcpu_ioctl(KVM_SET_SREGS, &s), 0);
	assert_true(vcpu->arch->interrupt.injected);
	assert_int_equal(vcpu->arch->interrupt.nr, 67);
	vcpu->arch->interrupt.injected = false;
}

static void guest_writes_the_architecture_refuses_give_gp(void **state)
{
	assert_int_equal(kvm_set_cr0(vcpu, X86_CR0_PG), 1);
	assert_int_equal(kvm_set_cr0(vcpu, X86_CR0_NW), 1);
	assert_int_equal(kvm_set_cr4(vcpu, BIT_ULL(63)), 1);
	assert_int_equal(kvm_set_cr4(vcpu, X86_CR4_PCIDE), 1); /* outside long mode */
	assert_int_equal(kvm_set_efer(vcpu, 1 << 1, false), 1);
	assert_int_equal(kvm_set_cr8(vcpu, 16), 1);
	assert_int_equal(kvm_set_xcr(vcpu, 0, 0), 1);
	assert_int_equal(kvm_set_xcr(vcpu, 0, 5), 1); /* YMM without SSE */
	assert_int_equal(kvm_set_xcr(vcpu, 1, 1), 1);
	assert_int_equal(kvm_set_dr(vcpu, 7, 1ULL << 32), 1);
}

static void entering_long_mode_sets_lma_and_leaving_clears_it(void **state)
{
	struct kvm_sregs before;

	assert_int_equal(vcpu_ioctl(KVM_GET_SREGS, &before), 0);
	assert_int_equal(kvm_set_cr4(vcpu, X86_CR4_PAE), 0);
	assert_int_equal(kvm_set_efer(vcpu, EFER_LME, false), 0);
	assert_false(vmx_get_efer(vcpu) & EFER_LMA);
	assert_int_equal(kvm_set_cr0(vcpu, X86_CR0_PE | X86_CR0_PG | X86_CR0_ET), 0);
	assert_true(vmx_get_efer(vcpu) & EFER_LMA);
	assert_int_equal(kvm_set_efer(vcpu, 0, false), 1);	/* LME with paging on */
	assert_int_equal(kvm_set_cr4(vcpu, 0), 1);		/* PAE in long mode */
	assert_int_equal(kvm_set_cr0(vcpu, X86_CR0_PE), 0);
	assert_false(vmx_get_efer(vcpu) & EFER_LMA);
	assert_int_equal(vcpu_ioctl(KVM_SET_SREGS, &before), 0);
}

static void pae_paging_with_reserved_bits_in_a_pdpte_gives_gp(void **state)
{
	uint64_t *pdpt = (uint64_t *)(memory + 0x2000);
	struct kvm_sregs before;

	assert_int_equal(vcpu_ioctl(KVM_GET_SREGS, &before), 0);
	vmx_set_guest_cr3(vcpu, 0x2000);
	assert_int_equal(kvm_set_cr4(vcpu, X86_CR4_PAE), 0);
	pdpt[1] = 0x3001 | 1 << 8;
	assert_int_equal(kvm_set_cr0(vcpu, X86_CR0_PE | X86_CR0_PG | X86_CR0_ET), 1);
	pdpt[1] = 0x3001;
	assert_int_equal(kvm_set_cr0(vcpu, X86_CR0_PE | X86_CR0_PG | X86_CR0_ET), 0);
	assert_int_equal(kvm_set_cr0(vcpu, X86_CR0_ET), 0);
	assert_int_equal(vcpu_ioctl(KVM_SET_SREGS, &before), 0);
}

static void fpu_comes_back_as_set(void **state)
{
	struct kvm_fpu in = { .fcw = 0x27f, .fsw = 0x3800, .ftwx = 0x80, .mxcsr = 0x1f80,
			      .last_opcode = 0x123 };
	struct kvm_fpu out;

	memset(in.xmm[3], 0xab, 16);
	memset(in.fpr[2], 0x11, 10);
	assert_int_equal(vcpu_ioctl(KVM_SET_FPU, &in), 0);
	assert_int_equal(vcpu_ioctl(KVM_GET_FPU, &out), 0);
	assert_memory_equal(&in, &out, sizeof(in));
}

static void xsave_comes_back_and_its_header_is_checked(void **state)
{
	struct kvm_xsave in, out;
	uint8_t *p = (uint8_t *)in.region;

	assert_int_equal(vcpu_ioctl(KVM_GET_XSAVE, &in), 0);
	memset(p + 160, 0x5a, 16); /* XMM0 */
	if (kvm_supported_xcr0() & XFEATURE_MASK_YMM) {
		memset(p + 576 + 16, 0xa5, 16); /* upper half of YMM1 */
		p[512] |= 4;
	}
	assert_int_equal(vcpu_ioctl(KVM_SET_XSAVE, &in), 0);
	assert_int_equal(vcpu_ioctl(KVM_GET_XSAVE2, &out), 0);
	assert_memory_equal(&in, &out, 832);
	p[512] |= 8;
	assert_int_equal(vcpu_ioctl(KVM_SET_XSAVE, &in), -1);
	assert_int_equal(errno, EINVAL);
	p[512] &= ~8;
	p[520] = 1; /* XCOMP_BV */
	assert_int_equal(vcpu_ioctl(KVM_SET_XSAVE, &in), -1);
	p[520] = 0;
	p[27] = 1; /* MXCSR bit 24 */
	assert_int_equal(vcpu_ioctl(KVM_SET_XSAVE, &in), -1);
	assert_int_equal(vcpu_ioctl(KVM_GET_XSAVE, &in), 0);
	assert_memory_equal(&in, &out, 832);
}

static void xcrs_are_those_of_a_host_with_xsave(void **state)
{
	int has = isa_host_has(HOST_XSAVE);
	struct kvm_xcrs x = { .nr_xcrs = 1, .xcrs[0].value = 1 };

	assert_int_equal(kvm_check_extension(NULL, KVM_CAP_XCRS), has);
	assert_int_equal(vcpu_ioctl(KVM_SET_XCRS, &x), has ? 0 : -1);
	assert_int_equal(vcpu_ioctl(KVM_GET_XCRS, &x), 0);
	assert_int_equal(x.nr_xcrs, has);
}

static void absent_xsave_component_becomes_initial(void **state)
{
	struct kvm_xsave x;
	uint8_t *p = (uint8_t *)x.region;

	assert_int_equal(vcpu_ioctl(KVM_GET_XSAVE, &x), 0);
	memset(p + 160, 0x77, 256);
	p[512] = 1; /* x87 only */
	assert_int_equal(vcpu_ioctl(KVM_SET_XSAVE, &x), 0);
	assert_int_equal(vcpu_ioctl(KVM_GET_XSAVE, &x), 0);
	for (int i = 160; i < 416; i++)
		assert_int_equal(p[i], 0);
	assert_int_equal(x.region[6], 0x1f80);
}

static void debug_registers_come_back_and_upper_halves_are_refused(void **state)
{
	struct kvm_debugregs in = { .db = { 1, 2, 3, 4 }, .dr6 = 0xffff0ff0, .dr7 = 0x400 }, out;

	assert_int_equal(vcpu_ioctl(KVM_SET_DEBUGREGS, &in), 0);
	assert_int_equal(vcpu_ioctl(KVM_GET_DEBUGREGS, &out), 0);
	assert_memory_equal(&in, &out, sizeof(in));
	in.dr7 |= 1ULL << 40;
	assert_int_equal(vcpu_ioctl(KVM_SET_DEBUGREGS, &in), -1);
	assert_int_equal(errno, EINVAL);
}

static void mp_state_other_than_runnable_needs_an_apic(void **state)
{
	struct kvm_mp_state s = { .mp_state = KVM_MP_STATE_HALTED };

	assert_int_equal(vcpu_ioctl(KVM_SET_MP_STATE, &s), -1);
	assert_int_equal(errno, EINVAL);
	s.mp_state = KVM_MP_STATE_RUNNABLE;
	assert_int_equal(vcpu_ioctl(KVM_SET_MP_STATE, &s), 0);
	s.mp_state = 77;
	assert_int_equal(vcpu_ioctl(KVM_SET_MP_STATE, &s), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(regs_come_back_as_set),
		cmocka_unit_test(rflags_bit_1_is_always_set),
		cmocka_unit_test(sregs_come_back_as_set),
		cmocka_unit_test(sregs_that_do_not_go_together_give_einval_and_change_nothing),
		cmocka_unit_test(long_mode_sregs_are_accepted),
		cmocka_unit_test(sregs2_carries_pdptes_only_with_pae_paging),
		cmocka_unit_test(interrupt_bitmap_queues_its_highest_vector),
		cmocka_unit_test(guest_writes_the_architecture_refuses_give_gp),
		cmocka_unit_test(entering_long_mode_sets_lma_and_leaving_clears_it),
		cmocka_unit_test(pae_paging_with_reserved_bits_in_a_pdpte_gives_gp),
		cmocka_unit_test(fpu_comes_back_as_set),
		cmocka_unit_test(xsave_comes_back_and_its_header_is_checked),
		cmocka_unit_test(xcrs_are_those_of_a_host_with_xsave),
		cmocka_unit_test(absent_xsave_component_becomes_initial),
		cmocka_unit_test(debug_registers_come_back_and_upper_halves_are_refused),
		cmocka_unit_test(mp_state_other_than_runnable_needs_an_apic),
	};

	return cmocka_run_group_tests(tests, make_vcpu, end_vcpu);
}
