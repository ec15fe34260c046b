/* System instructions: privilege, VM exits and their order, what they do otherwise. */
#include "harness.h"

static void assert_exit(unsigned reason, uint64_t qualification, unsigned len)
{
	assert_int_equal(last_exit.reason, reason);
	assert_true(last_exit.qualification == qualification);
	assert_int_equal(last_exit.insn_len, len);
	assert_int_equal(last_exit.rip, CODE_AT);
}

static void set_level_3(void)
{
	if (cpu->cs.efer & EFER_LMA)
		set_cpl(SEL_CODE64_3, SEL_DATA3);
	else
		set_cpl(SEL_CODE3, SEL_DATA3);
}

/* Encodings of instructions that are #GP(0) outside level 0, exit or not. */
static void privileged_instructions_fault_at_level_3_before_exits(void **state)
{
	static const uint8_t code[][3] = {
		{ 0xf4 }, { 0x0f, 0x06 }, { 0x0f, 0x09 }, { 0x0f, 0x08 }, { 0x0f, 0x30 },
		{ 0x0f, 0x32 }, { 0x0f, 0x20, 0xc0 }, { 0x0f, 0x22, 0xc0 }, { 0x0f, 0x22, 0xd8 },
		{ 0x0f, 0x01, 0xf0 }, { 0x0f, 0x01, 0x38 }, { 0x0f, 0x01, 0x10 },
		{ 0x0f, 0x01, 0x18 }, { 0x0f, 0x00, 0xd8 }, { 0x0f, 0x00, 0xd0 },
		{ 0x0f, 0x01, 0xf8 }, { 0x0f, 0x07 } };

	for (unsigned n = 0; n < ARRAY_SIZE(code); n++) {
		reset_long();
		cpu->primary = ~(uint32_t)CPU_BASED_MOV_DR_EXITING;
		cpu->secondary = ~0U;
		cpu->cr0_mask = ~0ULL;
		set_level_3();
		cpu->cs.gpr[RAX] = 0x5000;
		assert_int_equal(run_bytes(code[n], 3), FAULT);
		assert_fault(X86_TRAP_GP, 0);
	}
}

static void mov_dr_exit_comes_before_the_level_check(void **state)
{
	reset_long();
	set_level_3();
	cpu->primary = (uint32_t)CPU_BASED_MOV_DR_EXITING;
	assert_int_equal(RUN(0x0f, 0x21, 0xfb), EXIT); /* mov rbx, dr7 */
	assert_exit(EXIT_REASON_DR_ACCESS, 7 | 1 << 4 | RBX << 8, 3);
	cpu->primary = 0;
	assert_int_equal(RUN(0x0f, 0x21, 0xfb), FAULT);
	assert_fault(X86_TRAP_GP, 0);
}

static void dr7_gd_raises_db_with_bd(void **state)
{
	reset_long();
	cpu->cs.dr7 |= DR7_GD;
	assert_int_equal(RUN(0x0f, 0x23, 0xc0), FAULT);
	assert_int_equal(cpu->cs.exception.vector, X86_TRAP_DB);
	assert_int_equal(cpu->cs.exception.payload, DR6_BD);
}

static void dr4_is_dr6_without_de_and_undefined_with_it(void **state)
{
	reset_long();
	assert_int_equal(RUN(0x0f, 0x21, 0xe0), DONE); /* mov rax, dr4 */
	assert_int_equal(cpu->cs.gpr[RAX], DR6_ACTIVE_LOW);
	cpu->cs.cr4 |= X86_CR4_DE;
	assert_int_equal(RUN(0x0f, 0x21, 0xe0), FAULT);
	assert_int_equal(cpu->cs.exception.vector, X86_TRAP_UD);
}

static void writes_of_dr6_and_dr7_keep_the_fixed_bits(void **state)
{
	reset_long();
	cpu->cs.gpr[RAX] = 0xffffffff;
	assert_int_equal(RUN(0x0f, 0x23, 0xf0), DONE); /* mov dr6, rax */
	assert_int_equal(cpu->cs.dr6, DR6_ACTIVE_LOW | 0xf | DR6_BD | DR6_BS | DR6_BT);
	assert_int_equal(cpu->cs.dr7 & 0xffff, DR7_FIXED_1);
	cpu->cs.gpr[RAX] = 0x155;
	assert_int_equal(RUN(0x0f, 0x23, 0xf8), DONE); /* mov dr7, rax */
	assert_int_equal(cpu->cs.dr7, DR7_FIXED_1 | 0x155);
	assert_int_equal(cpu->cs.dr6, DR6_ACTIVE_LOW | 0xf | DR6_BD | DR6_BS | DR6_BT);
}

static void cr0_read_mixes_mask_and_shadow(void **state)
{
	reset_long();
	cpu->cr0_mask = X86_CR0_NE | X86_CR0_TS;
	cpu->cr0_shadow = X86_CR0_TS;
	assert_int_equal(RUN(0x0f, 0x20, 0xc0), DONE);
	assert_int_equal(cpu->cs.gpr[RAX], (cpu->cs.cr0 & ~X86_CR0_NE) | X86_CR0_TS);
}

static void cr0_write_exits_when_a_masked_bit_differs_from_the_shadow(void **state)
{
	reset_long();
	cpu->cr0_mask = X86_CR0_NE | X86_CR0_CD;
	cpu->cr0_shadow = X86_CR0_NE;
	cpu->cs.gpr[RBX] = cpu->cs.cr0 | X86_CR0_WP;
	assert_int_equal(RUN(0x0f, 0x22, 0xc3), DONE);
	assert_true(cpu->cs.cr0 & X86_CR0_WP);
	cpu->cs.rip = CODE_AT;
	cpu->cs.gpr[RBX] = cpu->cs.cr0 | X86_CR0_CD;
	assert_int_equal(RUN(0x0f, 0x22, 0xc3), EXIT);
	assert_exit(EXIT_REASON_CR_ACCESS, 0 | 0 << 4 | RBX << 8, 3);
	assert_false(cpu->cs.cr0 & X86_CR0_CD);
}

static void cr0_write_checks_values(void **state)
{
	static const uint64_t bad[] = { X86_CR0_PG | X86_CR0_NE, X86_CR0_PE | X86_CR0_NE | X86_CR0_NW,
					BIT_ULL(32) | X86_CR0_PE | X86_CR0_PG | X86_CR0_NE,
					X86_CR0_PE | X86_CR0_PG,
					X86_CR0_PE | X86_CR0_NE /* paging off in 64-bit mode */ };

	for (unsigned n = 0; n < ARRAY_SIZE(bad); n++) {
		reset_long();
		cpu->cs.gpr[RAX] = bad[n];
		assert_int_equal(RUN(0x0f, 0x22, 0xc0), FAULT);
		assert_fault(X86_TRAP_GP, 0);
	}
}

static void enabling_paging_with_lme_sets_lma(void **state)
{
	reset_protected();
	cpu->cs.efer = EFER_LME;
	cpu->cs.gpr[RAX] = cpu->cs.cr0 | X86_CR0_PG;
	assert_int_equal(RUN(0x0f, 0x22, 0xc0), FAULT); /* without PAE */
	cpu->cs.cr4 = X86_CR4_PAE;
	assert_int_equal(RUN(0x0f, 0x22, 0xc0), DONE);
	assert_true(cpu->cs.efer & EFER_LMA);
	assert_true(cpu->entry_controls & VM_ENTRY_IA32E_MODE);
	assert_int_equal(cpu->cs.code_mode, ISA_CODE32);
	assert_true(nr_flushes > 0);
	/* and out again, from compatibility mode */
	cpu->cs.gpr[RAX] &= ~X86_CR0_PG;
	assert_int_equal(RUN(0x0f, 0x22, 0xc0), DONE);
	assert_false(cpu->cs.efer & EFER_LMA);
}

static void pae_paging_loads_pdptrs_and_faults_if_they_are_bad(void **state)
{
	reset_protected();
	cpu->cs.cr4 = X86_CR4_PAE;
	cpu->cs.gpr[RAX] = cpu->cs.cr0 | X86_CR0_PG;
	pdptrs_valid = false;
	assert_int_equal(RUN(0x0f, 0x22, 0xc0), FAULT);
	assert_fault(X86_TRAP_GP, 0);
	assert_false(cpu->cs.cr0 & X86_CR0_PG);
	pdptrs_valid = true;
	assert_int_equal(RUN(0x0f, 0x22, 0xc0), DONE);
	assert_int_equal(nr_pdptr_loads, 2);
	cpu->cs.gpr[RAX] = 0x6000;
	assert_int_equal(RUN(0x0f, 0x22, 0xd8), DONE);
	assert_int_equal(nr_pdptr_loads, 3);
}

static void paging_of_32_bit_entries_has_no_pdptrs(void **state)
{
	reset_protected();
	pdptrs_valid = false;
	cpu->cs.gpr[RAX] = cpu->cs.cr0 | X86_CR0_PG;
	assert_int_equal(RUN(0x0f, 0x22, 0xc0), DONE);
	cpu->cs.gpr[RAX] = 0x6000;
	assert_int_equal(RUN(0x0f, 0x22, 0xd8), DONE);
	assert_int_equal(nr_pdptr_loads, 0);
}

static void cr3_load_exits_unless_the_value_is_a_target(void **state)
{
	reset_long();
	cpu->primary = (uint32_t)CPU_BASED_CR3_LOAD_EXITING;
	cpu->cs.gpr[RCX] = 0x6000;
	assert_int_equal(RUN(0x0f, 0x22, 0xd9), EXIT);
	assert_exit(EXIT_REASON_CR_ACCESS, 3 | RCX << 8, 3);
	cpu->cs.gpr[RCX] = 0x7000;
	assert_int_equal(RUN(0x0f, 0x22, 0xd9), DONE);
	assert_int_equal(cpu->cs.cr3, 0x7000);
	assert_int_equal(nr_cr3, 1);
}

static void cr3_reserved_bits_fault_and_bit_63_needs_pcide(void **state)
{
	reset_long();
	cpu->cs.gpr[RAX] = BIT_ULL(63) | 0x6000;
	assert_int_equal(RUN(0x0f, 0x22, 0xd8), FAULT);
	assert_fault(X86_TRAP_GP, 0);
	cpu->cs.cr4 |= X86_CR4_PCIDE;
	assert_int_equal(RUN(0x0f, 0x22, 0xd8), DONE);
	assert_int_equal(cpu->cs.cr3, 0x6000);
}

static void cr4_write_checks_values(void **state)
{
	reset_long();
	cpu->cs.gpr[RAX] = X86_CR4_PAE | X86_CR4_LA57;
	assert_int_equal(RUN(0x0f, 0x22, 0xe0), FAULT);
	cpu->cs.gpr[RAX] = 0;
	assert_int_equal(RUN(0x0f, 0x22, 0xe0), FAULT); /* PAE off in IA-32e mode */
	cpu->cs.cr3 = 0x6001;
	cpu->cs.gpr[RAX] = X86_CR4_PAE | X86_CR4_PCIDE;
	assert_int_equal(RUN(0x0f, 0x22, 0xe0), FAULT); /* PCIDE with a PCID */
	cpu->cs.cr3 = 0x6000;
	assert_int_equal(RUN(0x0f, 0x22, 0xe0), DONE);
	nr_flushes = 0;
	cpu->cs.gpr[RAX] = X86_CR4_PAE | X86_CR4_PCIDE | X86_CR4_PGE;
	assert_int_equal(RUN(0x0f, 0x22, 0xe0), DONE);
	assert_int_equal(nr_flushes, 1);
}

static void cr8_holds_four_bits(void **state)
{
	reset_long();
	cpu->cs.gpr[RBX] = 0xf;
	assert_int_equal(RUN(0x44, 0x0f, 0x22, 0xc3), DONE); /* mov cr8,rbx */
	assert_int_equal(RUN(0x44, 0x0f, 0x20, 0xc1), DONE); /* mov rcx,cr8 */
	assert_int_equal(cpu->cs.gpr[RCX], 0xf);
	cpu->cs.gpr[RBX] = 0x10;
	assert_int_equal(RUN(0x44, 0x0f, 0x22, 0xc3), FAULT);
	assert_fault(X86_TRAP_GP, 0);
	assert_int_equal(cpu->cs.cr8, 0xf);
}

/* PAE paging: CR4 bits that have the PDPTEs loaded anew, and fail with them. */
static void cr4_write_reloads_pdptrs_under_pae_paging(void **state)
{
	reset_protected();
	cpu->cs.cr0 |= X86_CR0_PG;
	cpu->cs.cr4 = X86_CR4_PAE;
	cpu_write_cr4(cpu, X86_CR4_PAE | X86_CR4_PGE);
	assert_int_equal(nr_pdptr_loads, 1);
	cpu_write_cr4(cpu, X86_CR4_PAE | X86_CR4_PGE | X86_CR4_OSFXSR);
	assert_int_equal(nr_pdptr_loads, 1);
	pdptrs_valid = false;
	cpu->cs.gpr[RBX] = X86_CR4_PAE | X86_CR4_OSFXSR;
	assert_int_equal(RUN(0x0f, 0x22, 0xe3), FAULT); /* mov cr4,ebx */
	assert_fault(X86_TRAP_GP, 0);
	assert_int_equal(cpu->cs.cr4, X86_CR4_PAE | X86_CR4_PGE | X86_CR4_OSFXSR);
}

static void clts_follows_mask_and_shadow(void **state)
{
	reset_long();
	cpu->cs.cr0 |= X86_CR0_TS;
	cpu->cr0_mask = cpu->cr0_shadow = X86_CR0_TS;
	assert_int_equal(RUN(0x0f, 0x06), EXIT);
	assert_exit(EXIT_REASON_CR_ACCESS, CR_ACCESS_CLTS << 4, 2);
	cpu->cr0_shadow = 0;
	assert_int_equal(RUN(0x0f, 0x06), DONE);
	assert_true(cpu->cs.cr0 & X86_CR0_TS);
	cpu->cr0_mask = 0;
	assert_int_equal(RUN(0x0f, 0x06), DONE);
	assert_false(cpu->cs.cr0 & X86_CR0_TS);
}

static void lmsw_cannot_clear_pe(void **state)
{
	reset_protected();
	cpu->cs.gpr[RAX] = X86_CR0_TS;
	assert_int_equal(RUN(0x0f, 0x01, 0xf0), DONE);
	assert_int_equal(cpu->cs.cr0 & 0xf, X86_CR0_PE | X86_CR0_TS);
	cpu->cs.rip = CODE_AT;
	cpu->cr0_mask = cpu->cr0_shadow = X86_CR0_PE;
	assert_int_equal(RUN(0x0f, 0x01, 0xf0), DONE);
	cpu->cs.rip = CODE_AT;
	cpu->cr0_mask = X86_CR0_TS;
	cpu->cr0_shadow = 0;
	assert_int_equal(RUN(0x0f, 0x01, 0xf0), EXIT);
	assert_exit(EXIT_REASON_CR_ACCESS, CR_ACCESS_LMSW << 4 | X86_CR0_TS << 16, 3);
}

static void msr_bitmap_decides_for_each_quarter(void **state)
{
	static uint8_t bitmap[4096];
	static const struct {
		uint32_t msr;
		unsigned at_read, at_write;
	} cases[] = { { MSR_IA32_SYSENTER_ESP, 0, 0x800 }, { MSR_LSTAR, 0x400, 0xc00 } };

	for (unsigned n = 0; n < ARRAY_SIZE(cases); n++) {
		uint32_t nr = cases[n].msr & 0x1fff;

		reset_long();
		memset(bitmap, 0, sizeof(bitmap));
		cpu->primary = (uint32_t)CPU_BASED_USE_MSR_BITMAPS;
		cpu->msr_bitmap = bitmap;
		cpu->cs.gpr[RCX] = cases[n].msr;
		cpu->cs.gpr[RAX] = 0x89abcdef;
		cpu->cs.gpr[RDX] = 0x1234;
		assert_int_equal(RUN(0x0f, 0x30), DONE);
		cpu->cs.gpr[RAX] = cpu->cs.gpr[RDX] = ~0ULL;
		assert_int_equal(RUN(0x0f, 0x32), DONE);
		assert_int_equal(cpu->cs.gpr[RAX], 0x89abcdef);
		assert_int_equal(cpu->cs.gpr[RDX], 0x1234);
		cpu->cs.rip = CODE_AT;
		bitmap[cases[n].at_read + nr / 8] = (uint8_t)(1 << nr % 8);
		assert_int_equal(RUN(0x0f, 0x32), EXIT);
		assert_exit(EXIT_REASON_MSR_READ, 0, 2);
		assert_int_equal(RUN(0x0f, 0x30), DONE);
		cpu->cs.rip = CODE_AT;
		bitmap[cases[n].at_write + nr / 8] = (uint8_t)(1 << nr % 8);
		assert_int_equal(RUN(0x0f, 0x30), EXIT);
		assert_exit(EXIT_REASON_MSR_WRITE, 0, 2);
	}
}

static void msr_outside_the_bitmaps_exits_and_unknown_ones_fault(void **state)
{
	static uint8_t bitmap[4096];

	reset_long();
	cpu->primary = (uint32_t)CPU_BASED_USE_MSR_BITMAPS;
	cpu->msr_bitmap = bitmap;
	cpu->cs.gpr[RCX] = 0x4b564d00;
	assert_int_equal(RUN(0x0f, 0x32), EXIT);
	cpu->cs.gpr[RCX] = 0x1ffe;
	assert_int_equal(RUN(0x0f, 0x32), FAULT);
	assert_fault(X86_TRAP_GP, 0);
}

static void msr_writes_check_values(void **state)
{
	reset_long();
	assert_false(cpu_write_msr(cpu, MSR_LSTAR, 1ULL << 47));
	assert_false(cpu_write_msr(cpu, MSR_EFER, EFER_SCE | EFER_LMA)); /* LME off under paging */
	assert_false(cpu_write_msr(cpu, MSR_EFER, cpu->cs.efer | EFER_SVME));
	assert_true(cpu_write_msr(cpu, MSR_EFER, EFER_LME | EFER_NX));
	assert_int_equal(cpu->cs.efer, EFER_LME | EFER_LMA | EFER_NX);
	assert_false(cpu_write_msr(cpu, MSR_IA32_CR_PAT, 2));
	assert_true(cpu_write_msr(cpu, MSR_IA32_CR_PAT, 0x0007040600070406));
	assert_false(cpu_write_msr(cpu, MSR_IA32_SPEC_CTRL, 0));
}

static void each_msr_reads_as_it_was_written(void **state)
{
	static const struct {
		uint32_t msr;
		uint64_t good, bad; /* bad 0: every value is good */
	} msrs[] = {
		{ MSR_IA32_SYSENTER_CS, 0xffffffff, BIT_ULL(32) }, { MSR_IA32_SYSENTER_ESP, 5, BIT_ULL(47) },
		{ MSR_IA32_SYSENTER_EIP, 6, BIT_ULL(63) },	   { MSR_STAR, ~0ULL, 0 },
		{ MSR_LSTAR, 0xffff800000000000, BIT_ULL(47) },	   { MSR_CSTAR, 7, BIT_ULL(47) },
		{ MSR_SYSCALL_MASK, 0x47700, BIT_ULL(32) },	   { MSR_FS_BASE, 8, BIT_ULL(62) },
		{ MSR_GS_BASE, 9, BIT_ULL(62) },		   { MSR_KERNEL_GS_BASE, 10, BIT_ULL(62) },
		{ MSR_TSC_AUX, 11, BIT_ULL(33) },		   { MSR_IA32_DEBUGCTLMSR, 3, 4 },
		{ MSR_IA32_CR_PAT, 0x0001040506070000, 3 },	   { MSR_IA32_XSS, 0, BIT_ULL(8) },
		{ MSR_EFER, EFER_LME | EFER_LMA | EFER_NX, EFER_SVME },
	};

	reset_long();
	for (size_t n = 0; n < ARRAY_SIZE(msrs); n++) {
		uint64_t v = ~msrs[n].good;

		assert_true(cpu_write_msr(cpu, msrs[n].msr, msrs[n].good));
		if (msrs[n].bad)
			assert_false(cpu_write_msr(cpu, msrs[n].msr, msrs[n].bad));
		assert_true(cpu_read_msr(cpu, msrs[n].msr, &v));
		assert_true(v == msrs[n].good);
	}
	assert_false(cpu_write_msr(cpu, MSR_IA32_TSC, 0)); /* the hypervisor's */
	assert_true(cpu_read_msr(cpu, MSR_IA32_TSC, &(uint64_t){ 0 }));
}

static void rdpid_reads_tsc_aux_where_rdtscp_is_enabled(void **state)
{
	reset_long();
	cpu->msr.tsc_aux = 0x1234;
	cpu->cs.gpr[RAX] = ~0ULL;
	assert_int_equal(RUN(0xf3, 0x0f, 0xc7, 0xf8), DONE);
	assert_int_equal(cpu->cs.gpr[RAX], 0x1234);
	cpu->secondary &= ~(uint32_t)SECONDARY_EXEC_ENABLE_RDTSCP;
	assert_int_equal(RUN(0xf3, 0x0f, 0xc7, 0xf8), FAULT);
	assert_int_equal(cpu->cs.exception.vector, X86_TRAP_UD);
}

static void invpcid_checks_its_descriptor(void **state)
{
	static const struct {
		uint64_t type, pcid, address, cr4;
		bool ok;
	} cases[] = {
		{ 0, 0, 0x5000, 0, true },	  { 0, 1, 0x5000, 0, false }, { 0, 1, 0x5000, X86_CR4_PCIDE, true },
		{ 0, 0, BIT_ULL(47), 0, false },  { 1, 0, BIT_ULL(47), 0, true }, { 1, 2, 0, 0, false },
		{ 2, 0x1000, 0, 0, false },	  { 2, 5, 0, 0, true }, { 3, 0, 0, 0, true }, { 4, 0, 0, 0, false },
	};

	for (size_t n = 0; n < ARRAY_SIZE(cases); n++) {
		reset_long();
		cpu->cs.cr4 |= cases[n].cr4;
		cpu->cs.gpr[RCX] = cases[n].type;
		cpu->cs.gpr[RAX] = 0x5000;
		poke(0x5000, 8, cases[n].pcid);
		poke(0x5008, 8, cases[n].address);
		flushed_address = 1;
		assert_int_equal(RUN(0x66, 0x0f, 0x38, 0x82, 0x08), cases[n].ok ? DONE : FAULT);
		assert_true(flushed_address == (cases[n].ok ? cases[n].address : 1));
		if (!cases[n].ok)
			assert_fault(X86_TRAP_GP, 0);
	}
	cpu->secondary &= ~(uint32_t)SECONDARY_EXEC_ENABLE_INVPCID;
	assert_int_equal(RUN(0x66, 0x0f, 0x38, 0x82, 0x08), FAULT);
	assert_int_equal(cpu->cs.exception.vector, X86_TRAP_UD);
}

static void io_exit_qualification_describes_the_access(void **state)
{
	reset_long();
	cpu->primary = (uint32_t)CPU_BASED_UNCOND_IO_EXITING;
	assert_int_equal(RUN(0xe4, 0x60), EXIT); /* in al, 60h */
	assert_exit(EXIT_REASON_IO_INSTRUCTION, 0x600000 | IO_QUAL_IMM | IO_QUAL_IN, 2);
	cpu->cs.gpr[RDX] = 0x3f8;
	assert_int_equal(RUN(0x66, 0xef), EXIT); /* out dx, ax */
	assert_exit(EXIT_REASON_IO_INSTRUCTION, 0x3f80000 | 1, 2);
	cpu->cs.gpr[RCX] = 5;
	cpu->cs.gpr[RSI] = 0x5000;
	assert_int_equal(RUN(0xf3, 0x6f), EXIT); /* rep outsd */
	assert_exit(EXIT_REASON_IO_INSTRUCTION, 0x3f80000 | 3 | IO_QUAL_STRING | IO_QUAL_REP, 2);
	assert_int_equal(last_exit.gla, 0x5000);
	assert_int_equal(last_exit.insn_info, 2 << 7 | SREG_DS << 15);
	cpu->cs.gpr[RCX] = 0;
	assert_int_equal(RUN(0xf3, 0x6f), DONE);
	assert_int_equal(RUN(0x6f), EXIT); /* RCX counts for REP only */
}

static void io_bitmaps_select_ports_and_wrap_around_exits(void **state)
{
	static uint8_t a[4096], b[4096];

	reset_long();
	cpu->primary = (uint32_t)(CPU_BASED_USE_IO_BITMAPS | CPU_BASED_UNCOND_IO_EXITING);
	cpu->io_bitmap_a = a;
	cpu->io_bitmap_b = b;
	a[0x61 / 8] = 1 << (0x61 % 8);
	b[0x1000 / 8] = 1;
	cpu->cs.gpr[RDX] = 0x60;
	assert_int_equal(RUN(0xec), DONE); /* in al, dx: unclaimed */
	assert_int_equal(cpu->cs.gpr[RAX], 0xff);
	assert_int_equal(RUN(0x66, 0xed), EXIT); /* in ax, dx reaches 61h */
	cpu->cs.gpr[RDX] = 0x9000;
	assert_int_equal(RUN(0xec), EXIT);
	cpu->cs.gpr[RDX] = 0xffff;
	assert_int_equal(RUN(0xec), DONE);
	assert_int_equal(RUN(0x66, 0xed), EXIT);
}

static void tss_io_bitmap_rules_above_iopl(void **state)
{
	reset_long();
	set_level_3();
	poke(TSS_AT + 0x66, 2, 0x80);
	poke(TSS_AT + 0x80 + 0x60 / 8, 1, 2); /* 61h denied */
	cpu->cs.gpr[RDX] = 0x60;
	assert_int_equal(RUN(0xec), DONE);
	assert_int_equal(RUN(0x66, 0xed), FAULT);
	assert_fault(X86_TRAP_GP, 0);
	cpu->cs.tr.limit = 0x80 + 0x60 / 8; /* the second byte is outside */
	assert_int_equal(RUN(0xec), FAULT);
	cpu->cs.rflags |= X86_FLAGS_IOPL;
	assert_int_equal(RUN(0xec), DONE);
	/* the permission comes before the exit */
	cpu->cs.rflags &= ~X86_FLAGS_IOPL;
	cpu->primary = (uint32_t)CPU_BASED_UNCOND_IO_EXITING;
	assert_int_equal(RUN(0xec), FAULT);
}

static void cli_and_popf_follow_iopl(void **state)
{
	reset_protected();
	set_level_3();
	cpu->cs.rflags |= X86_FLAGS_IF;
	assert_int_equal(RUN(0xfa), FAULT);
	assert_fault(X86_TRAP_GP, 0);
	poke(STACK_AT, 4, 0x3000 | X86_FLAGS_AC | X86_FLAGS_ZF);
	assert_int_equal(RUN(0x9d), DONE);
	assert_int_equal(cpu_rflags(&cpu->cs), X86_FLAGS_IF | X86_FLAGS_AC | X86_FLAGS_ZF | 2);
	cpu->cs.rflags |= X86_FLAGS_IOPL;
	assert_int_equal(RUN(0xfa), DONE);
	assert_false(cpu->cs.rflags & X86_FLAGS_IF);
}

static void sti_sets_the_shadow_only_when_if_was_clear(void **state)
{
	reset_protected();
	assert_int_equal(RUN(0xfb), DONE);
	assert_int_equal(cpu->interruptibility, GUEST_INTR_STATE_STI);
	cpu->interruptibility = 0;
	assert_int_equal(RUN(0xfb), DONE);
	assert_int_equal(cpu->interruptibility, 0);
}

static void pushf_hides_rf_and_vm(void **state)
{
	reset_protected();
	cpu->cs.rflags |= X86_FLAGS_RF;
	assert_int_equal(RUN(0x9c), DONE);
	assert_int_equal(peek(STACK_AT - 4, 4), 2);
}

static void syscall_and_sysret_round_trip(void **state)
{
	reset_long();
	cpu->msr.star = (uint64_t)0x0023 << 48 | (uint64_t)0x0008 << 32;
	cpu->msr.lstar = 0xffff800000001000;
	cpu->msr.fmask = X86_FLAGS_IF | X86_FLAGS_TF;
	set_level_3();
	cpu_set_rflags(&cpu->cs, X86_FLAGS_IF | X86_FLAGS_CF);
	assert_int_equal(RUN(0x0f, 0x05), DONE);
	assert_int_equal(cpu->cs.cpl, 0);
	assert_int_equal(cpu->cs.gpr[RCX], CODE_AT + 2);
	assert_int_equal(cpu->cs.gpr[R11], X86_FLAGS_IF | 3);
	assert_true(cpu->cs.rip == 0xffff800000001000);
	assert_int_equal(cpu_rflags(&cpu->cs), 3);
	assert_int_equal(cpu->cs.seg[SREG_CS].selector, 8);
	assert_int_equal(cpu->cs.seg[SREG_SS].selector, 16);
	assert_int_equal(RUN(0x48, 0x0f, 0x07), DONE);
	assert_int_equal(cpu->cs.cpl, 3);
	assert_int_equal(cpu->cs.seg[SREG_CS].selector, 0x33);
	assert_int_equal(cpu->cs.seg[SREG_SS].selector, 0x2b);
	assert_int_equal(cpu->cs.rip, CODE_AT + 2);
	assert_int_equal(cpu_rflags(&cpu->cs), X86_FLAGS_IF | 3);
}

static void syscall_is_undefined_without_sce_and_in_compatibility_mode(void **state)
{
	reset_long();
	cpu->cs.efer &= ~EFER_SCE;
	assert_int_equal(RUN(0x0f, 0x05), FAULT);
	assert_int_equal(cpu->cs.exception.vector, X86_TRAP_UD);
	cpu->cs.efer |= EFER_SCE;
	set_cpl(SEL_CODE3, SEL_DATA3);
	assert_int_equal(RUN(0x0f, 0x05), FAULT); /* the harness's vendor is Intel */
	assert_int_equal(cpu->cs.exception.vector, X86_TRAP_UD);
}

static void sysenter_and_sysexit_in_protected_mode(void **state)
{
	reset_protected();
	set_level_3();
	assert_int_equal(RUN(0x0f, 0x34), FAULT);
	assert_fault(X86_TRAP_GP, 0);
	cpu->sysenter_cs = SEL_CODE0;
	cpu->sysenter_esp = 0x7000;
	cpu->sysenter_eip = 0x9999;
	assert_int_equal(RUN(0x0f, 0x34), DONE);
	assert_int_equal(cpu->cs.cpl, 0);
	assert_int_equal(cpu->cs.gpr[RSP], 0x7000);
	assert_int_equal(cpu->cs.rip, 0x9999);
	cpu->cs.gpr[RCX] = 0x1000;
	cpu->cs.gpr[RDX] = 0x2000;
	assert_int_equal(RUN(0x0f, 0x35), DONE);
	assert_int_equal(cpu->cs.cpl, 3);
	assert_int_equal(cpu->cs.seg[SREG_CS].selector, 0x1b);
	assert_int_equal(cpu->cs.seg[SREG_SS].selector, 0x23);
	assert_int_equal(cpu->cs.rip, 0x2000);
}

static void sysenter_and_sysexit_fault_in_real_mode(void **state)
{
	reset_real();
	cpu->sysenter_cs = SEL_CODE0;
	assert_int_equal(RUN(0x0f, 0x34), FAULT);
	assert_fault(X86_TRAP_GP, 0);
	assert_int_equal(RUN(0x0f, 0x35), FAULT);
	assert_fault(X86_TRAP_GP, 0);
}

static void swapgs_and_base_instructions(void **state)
{
	reset_long();
	cpu->msr.kernel_gs_base = 0x1234;
	assert_int_equal(RUN(0x0f, 0x01, 0xf8), DONE);
	assert_int_equal(cpu->cs.seg[SREG_GS].base, 0x1234);
	assert_int_equal(RUN(0xf3, 0x48, 0x0f, 0xae, 0xd0), FAULT); /* wrfsbase rax */
	assert_int_equal(cpu->cs.exception.vector, X86_TRAP_UD);
	cpu->cs.cr4 |= X86_CR4_FSGSBASE;
	cpu->cs.gpr[RAX] = 1ULL << 47;
	assert_int_equal(RUN(0xf3, 0x48, 0x0f, 0xae, 0xd0), FAULT);
	assert_fault(X86_TRAP_GP, 0);
	cpu->cs.gpr[RAX] = 0x7fff00000000;
	assert_int_equal(RUN(0xf3, 0x48, 0x0f, 0xae, 0xd0), DONE);
	assert_int_equal(RUN(0xf3, 0x0f, 0xae, 0xc3), DONE); /* rdfsbase ebx */
	assert_int_equal(cpu->cs.gpr[RBX], 0);
	assert_int_equal(RUN(0xf3, 0x48, 0x0f, 0xae, 0xd8), DONE); /* wrgsbase rax */
	assert_int_equal(RUN(0xf3, 0x48, 0x0f, 0xae, 0xcb), DONE); /* rdgsbase rbx */
	assert_int_equal(cpu->cs.gpr[RBX], 0x7fff00000000);
	assert_int_equal(cpu->cs.seg[SREG_GS].base, 0x7fff00000000);
}

static void lgdt_loads_24_bits_with_16_bit_operands(void **state)
{
	reset_real();
	poke(0x500, 2, 0x27);
	poke(0x502, 4, 0x12345678);
	assert_int_equal(RUN(0x0f, 0x01, 0x16, 0x00, 0x05), DONE);
	assert_int_equal(cpu->cs.gdtr.base, 0x345678);
	assert_int_equal(cpu->cs.gdtr.limit, 0x27);
	assert_int_equal(RUN(0x66, 0x0f, 0x01, 0x16, 0x00, 0x05), DONE);
	assert_int_equal(cpu->cs.gdtr.base, 0x12345678);
}

static void descriptor_table_exit_describes_its_operand(void **state)
{
	reset_long();
	cpu->secondary |= (uint32_t)SECONDARY_EXEC_DESC;
	/* lidt [rbx + rsi*4 + 0x10] */
	assert_int_equal(RUN(0x0f, 0x01, 0x5c, 0xb3, 0x10), EXIT);
	assert_exit(EXIT_REASON_GDTR_IDTR, 0x10, 5);
	assert_int_equal(last_exit.insn_info & 0x3fffc383,
			 2 | 2 << 7 | SREG_DS << 15 | RSI << 18 | RBX << 23 | 3 << 28);
	/* str ecx */
	assert_int_equal(RUN(0x0f, 0x00, 0xc9), EXIT);
	assert_int_equal(last_exit.reason, EXIT_REASON_LDTR_TR);
	assert_int_equal(last_exit.insn_info, 1 << 10 | RCX << 3 | 1 << 28);
}

static void umip_hides_the_tables_from_level_3(void **state)
{
	reset_long();
	set_level_3();
	cpu->cs.gpr[RAX] = 0x5000;
	assert_int_equal(RUN(0x0f, 0x01, 0x08), DONE); /* sidt [rax] */
	assert_int_equal(peek(0x5002, 8), IDT_AT);
	cpu->cs.cr4 |= X86_CR4_UMIP;
	assert_int_equal(RUN(0x0f, 0x01, 0x08), FAULT);
	assert_fault(X86_TRAP_GP, 0);
}

static void hlt_exits_or_halts(void **state)
{
	reset_long();
	assert_int_equal(RUN(0xf4), DONE);
	assert_int_equal(cpu->activity, GUEST_ACTIVITY_HLT);
	assert_int_equal(cpu->cs.rip, CODE_AT + 1);
	cpu->cs.rip = CODE_AT;
	cpu->primary = (uint32_t)CPU_BASED_HLT_EXITING;
	assert_int_equal(RUN(0xf4), EXIT);
	assert_exit(EXIT_REASON_HLT, 0, 1);
}

static void cpuid_xsetbv_vmcall_exit_always(void **state)
{
	reset_long();
	assert_int_equal(RUN(0x0f, 0xa2), EXIT);
	assert_exit(EXIT_REASON_CPUID, 0, 2);
	assert_int_equal(RUN(0x0f, 0x01, 0xd1), FAULT); /* xsetbv without OSXSAVE */
	assert_int_equal(cpu->cs.exception.vector, X86_TRAP_UD);
	cpu->cs.cr4 |= X86_CR4_OSXSAVE;
	assert_int_equal(RUN(0x0f, 0x01, 0xd1), EXIT);
	assert_exit(EXIT_REASON_XSETBV, 0, 3);
	set_level_3();
	assert_int_equal(RUN(0x0f, 0x01, 0xc1), EXIT);
	assert_exit(EXIT_REASON_VMCALL, 0, 3);
}

static void vmx_instructions_exit_before_the_level_check(void **state)
{
	reset_long();
	set_level_3();
	assert_int_equal(RUN(0x0f, 0x01, 0xc2), FAULT); /* vmlaunch without VMXE */
	assert_int_equal(cpu->cs.exception.vector, X86_TRAP_UD);
	cpu->cs.cr4 |= X86_CR4_VMXE;
	assert_int_equal(RUN(0x0f, 0x01, 0xc2), EXIT);
	assert_exit(EXIT_REASON_VMLAUNCH, 0, 3);
	assert_int_equal(RUN(0x0f, 0x78, 0xd8), EXIT); /* vmread rax, rbx */
	assert_int_equal(last_exit.reason, EXIT_REASON_VMREAD);
	assert_int_equal(last_exit.insn_info, 1 << 10 | RAX << 3 | RBX << 28);
}

static void tsc_is_scaled_then_offset(void **state)
{
	uint64_t a, b;

	reset_long();
	cpu->primary = (uint32_t)CPU_BASED_USE_TSC_OFFSETTING;
	cpu->secondary |= (uint32_t)SECONDARY_EXEC_TSC_SCALING;
	cpu->tsc_multiplier = 0; /* nothing but the offset is left */
	cpu->tsc_offset = 0x123456789abc;
	assert_int_equal(RUN(0x0f, 0x31), DONE);
	assert_int_equal(cpu->cs.gpr[RDX] << 32 | cpu->cs.gpr[RAX], 0x123456789abc);
	cpu->tsc_multiplier = 2ULL << 48;
	cpu->tsc_offset = 0;
	a = __builtin_ia32_rdtsc();
	b = cpu_guest_tsc(cpu);
	assert_true(b >= 2 * a && b <= 2 * __builtin_ia32_rdtsc());
	set_level_3();
	cpu->cs.cr4 |= X86_CR4_TSD;
	assert_int_equal(RUN(0x0f, 0x31), FAULT);
	assert_fault(X86_TRAP_GP, 0);
}

static void invlpg_exits_or_flushes(void **state)
{
	reset_long();
	cpu->cs.gpr[RAX] = 0x123456;
	assert_int_equal(RUN(0x0f, 0x01, 0x38), DONE);
	assert_int_equal(flushed_address, 0x123456);
	cpu->cs.rip = CODE_AT;
	cpu->primary = (uint32_t)CPU_BASED_INVLPG_EXITING;
	assert_int_equal(RUN(0x0f, 0x01, 0x38), EXIT);
	assert_exit(EXIT_REASON_INVLPG, 0x123456, 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(privileged_instructions_fault_at_level_3_before_exits),
		cmocka_unit_test(mov_dr_exit_comes_before_the_level_check),
		cmocka_unit_test(dr7_gd_raises_db_with_bd),
		cmocka_unit_test(dr4_is_dr6_without_de_and_undefined_with_it),
		cmocka_unit_test(writes_of_dr6_and_dr7_keep_the_fixed_bits),
		cmocka_unit_test(cr0_read_mixes_mask_and_shadow),
		cmocka_unit_test(cr0_write_exits_when_a_masked_bit_differs_from_the_shadow),
		cmocka_unit_test(cr0_write_checks_values),
		cmocka_unit_test(enabling_paging_with_lme_sets_lma),
		cmocka_unit_test(pae_paging_loads_pdptrs_and_faults_if_they_are_bad),
		cmocka_unit_test(paging_of_32_bit_entries_has_no_pdptrs),
		cmocka_unit_test(cr3_load_exits_unless_the_value_is_a_target),
		cmocka_unit_test(cr3_reserved_bits_fault_and_bit_63_needs_pcide),
		cmocka_unit_test(cr4_write_checks_values),
		cmocka_unit_test(cr8_holds_four_bits),
		cmocka_unit_test(cr4_write_reloads_pdptrs_under_pae_paging),
		cmocka_unit_test(clts_follows_mask_and_shadow),
		cmocka_unit_test(lmsw_cannot_clear_pe),
		cmocka_unit_test(msr_bitmap_decides_for_each_quarter),
		cmocka_unit_test(msr_outside_the_bitmaps_exits_and_unknown_ones_fault),
		cmocka_unit_test(msr_writes_check_values),
		cmocka_unit_test(each_msr_reads_as_it_was_written),
		cmocka_unit_test(rdpid_reads_tsc_aux_where_rdtscp_is_enabled),
		cmocka_unit_test(invpcid_checks_its_descriptor),
		cmocka_unit_test(io_exit_qualification_describes_the_access),
		cmocka_unit_test(io_bitmaps_select_ports_and_wrap_around_exits),
		cmocka_unit_test(tss_io_bitmap_rules_above_iopl),
		cmocka_unit_test(cli_and_popf_follow_iopl),
		cmocka_unit_test(sti_sets_the_shadow_only_when_if_was_clear),
		cmocka_unit_test(pushf_hides_rf_and_vm),
		cmocka_unit_test(syscall_and_sysret_round_trip),
		cmocka_unit_test(syscall_is_undefined_without_sce_and_in_compatibility_mode),
		cmocka_unit_test(sysenter_and_sysexit_in_protected_mode),
		cmocka_unit_test(sysenter_and_sysexit_fault_in_real_mode),
		cmocka_unit_test(swapgs_and_base_instructions),
		cmocka_unit_test(lgdt_loads_24_bits_with_16_bit_operands),
		cmocka_unit_test(descriptor_table_exit_describes_its_operand),
		cmocka_unit_test(umip_hides_the_tables_from_level_3),
		cmocka_unit_test(hlt_exits_or_halts),
		cmocka_unit_test(cpuid_xsetbv_vmcall_exit_always),
		cmocka_unit_test(vmx_instructions_exit_before_the_level_check),
		cmocka_unit_test(tsc_is_scaled_then_offset),
		cmocka_unit_test(invlpg_exits_or_flushes),
	};

	return cmocka_run_group_tests(tests, harness_setup, harness_teardown);
}
