/*
 * Translated code where it could differ from the interpreter, or leave the guest's
 * memory: addresses at their edges, caches of translations, code that changes,
 * state at faults, kicks. Every block is translated at its first run.
 *
 * main() chooses the engine; each test also passes under the other (ENGINE=interp).
 */
#include "translator.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* --- addresses --- */

GUEST(g_far_disp, "mov rcx,[rsi]; mov rax,[rbx+0x7ffffffc]; hlt");

static void displacement_at_its_limit_does_not_hit_the_page_4_gib_below(void **state)
{
	STATE;
	const gva_t page = 5 * GIB;

	PUT_AT(t, GPA_CODE, g_far_disp);
	map(t, page - 4 * GIB, 0x40000, RW);
	for (unsigned off = 0; off < 16; off++) {
		reg(t)[RSI] = page - 4 * GIB;
		reg(t)[RBX] = page + off - 0x7ffffffc;
		reg(t)[RAX] = 0x1234;
		W(GUEST_RIP, GPA_CODE);
		expect_fault(t, X86_TRAP_PF);
		assert_int_equal(R(t, EXIT_QUALIFICATION), page + off);
		assert_int_equal(reg(t)[RAX], 0x1234);
	}
}

GUEST(g_addr32, "mov rcx,[rsi]; mov rax,[ebx+8]; mov rdx,[ebx+edx*4+0x10]; hlt");

static void addresses_of_32_bits_are_cut(void **state)
{
	STATE;

	PUT_AT(t, GPA_CODE, g_addr32);
	map(t, 4 * GIB + 0x40000, 0x41000, RW);
	*guest64(t, 0x40008) = 0x1111;
	*guest64(t, 0x40010) = 0x2222;
	*guest64(t, 0x41008) = *guest64(t, 0x41010) = 0x5ec4e7;
	for (int n = 0; n < 2; n++) {
		reg(t)[RSI] = 4 * GIB + 0x40000;
		reg(t)[RBX] = 4 * GIB + 0x40000;
		reg(t)[RDX] = 0x4000000000000000;
		W(GUEST_RIP, GPA_CODE);
		assert_int_equal(go(t), EXIT_REASON_HLT);
		assert_int_equal(reg(t)[RAX], 0x1111);
		assert_int_equal(reg(t)[RDX], 0x2222);
	}
}

GUEST(g_segment_base, "mov rax,gs:[rbx+8]; add qword ptr fs:[rbx],3; hlt");

static void bases_of_fs_and_gs_count(void **state)
{
	STATE;

	PUT_AT(t, GPA_CODE, g_segment_base);
	set_segment(t, SREG_GS, 16, 0x40000, 0xffffffff, 0xc093);
	set_segment(t, SREG_FS, 16, 0x41000, 0xffffffff, 0xc093);
	*guest64(t, 0x40108) = 77;
	*guest64(t, 0x41100) = 4;
	reg(t)[RBX] = 0x100;
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(reg(t)[RAX], 77);
	assert_int_equal(*guest64(t, 0x41100), 7);
}

GUEST(g_bit_string, "bts r9,rax; btr r10,rcx; bt [rdi],rax; hlt");

static void bit_strings_of_registers_stay_in_them(void **state)
{
	STATE;
	struct cpu_state *cs = &t->cpu->cs;
	uint8_t before[512];

	PUT_AT(t, GPA_CODE, g_bit_string);
	reg(t)[RAX] = 16 * 64 + 5;
	reg(t)[RCX] = (uint64_t)-64;
	reg(t)[R9] = 0;
	reg(t)[R10] = 1;
	reg(t)[RDI] = 0x40000;
	memset(t->ram + GPA_CODE + 0x100, 0xf4, 1);
	W(GUEST_RIP, GPA_CODE + 0x100);
	assert_int_equal(go(t), EXIT_REASON_HLT); /* loads the segments */
	memcpy(before, &cs->seg, sizeof(before));
	W(GUEST_RIP, GPA_CODE);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(reg(t)[R9], 32);
	assert_int_equal(reg(t)[R10], 0);
	assert_memory_equal(before, &cs->seg, sizeof(before));
}

GUEST(g_leave, "mov rbp,0x7ffff000; leave; ret");
GUEST(g_pop_rsp, "push rsi; pop rsp; pop rax; hlt");

static void stack_pointer_from_elsewhere_is_looked_at(void **state)
{
	STATE;

	PUT_AT(t, GPA_CODE, g_leave);
	expect_fault(t, X86_TRAP_PF);
	assert_int_equal(R(t, EXIT_QUALIFICATION), 0x7ffff000);
	assert_int_equal(reg(t)[RBP], 0x7ffff000);
	PUT_AT(t, GPA_CODE + 0x100, g_pop_rsp);
	W(GUEST_RIP, GPA_CODE + 0x100);
	W(GUEST_RSP, GPA_STACK);
	reg(t)[RSI] = 0x7fffe000;
	expect_fault(t, X86_TRAP_PF);
	assert_int_equal(R(t, EXIT_QUALIFICATION), 0x7fffe000);
}

GUEST(g_push, "nop; push rax; pop rcx; hlt");

static void stack_pointer_above_the_mark_of_no_page_is_ss(void **state)
{
	STATE;

	signals_are_ours();
	PUT_AT(t, GPA_CODE, g_push);
	W(GUEST_RSP, BIT_ULL(63) + 9 + 8);
	expect_fault(t, X86_TRAP_SS);
	W(GUEST_RSP, 8);
	W(GUEST_RIP, GPA_CODE);
	W(EXCEPTION_BITMAP, 0);
	reg(t)[RAX] = 99;
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(reg(t)[RCX], 99);
}

/* Every size at every offset around a page's end, the pages apart in memory. */
GUEST(g_sizes, "mov al,[rsi]; mov bx,[rsi]; mov ecx,[rsi]; mov rdx,[rsi]\n"
	       "mov [rdi],al; mov [rdi+16],bx; mov [rdi+32],ecx; mov [rdi+48],rdx; hlt");

static void accesses_across_a_page_see_both(void **state)
{
	STATE;
	uint8_t bytes[32];

	PUT_AT(t, GPA_CODE, g_sizes);
	map(t, 4 * GIB, 0x40000, RW);
	map(t, 4 * GIB + 0x1000, 0x50000, RW);
	for (unsigned n = 0; n < 16; n++) {
		t->ram[0x40ff0 + n] = bytes[n] = (uint8_t)(n + 1);
		t->ram[0x50000 + n] = bytes[16 + n] = (uint8_t)(0x80 + n);
	}
	for (unsigned round = 0; round < 2; round++)
		for (unsigned off = 1; off < 24; off++) {
			reg(t)[RSI] = 4 * GIB + 0xff0 + off;
			reg(t)[RDI] = 4 * GIB + 0xfc8 - 0x100 + off;
			W(GUEST_RIP, GPA_CODE);
			assert_int_equal(go(t), EXIT_REASON_HLT);
			assert_memory_equal(&reg(t)[RDX], bytes + off, 8);
			assert_memory_equal(&reg(t)[RCX], bytes + off, 4);
			assert_memory_equal(&reg(t)[RBX], bytes + off, 2);
			assert_memory_equal(t->ram + 0x40ec8 + off + 48, bytes + off, 8);
		}
}

/* --- state at faults --- */

GUEST(g_fault, "mov ebx,11; mov ebp,22; mov r12d,33; mov r15d,44; mov r9d,55; cmp ebx,ebx; inc r11\n"
	       "mov rax,[rdi]; hlt");

static void registers_at_a_fault_are_those_before_its_instruction(void **state)
{
	STATE;

	PUT_AT(t, GPA_CODE, g_fault);
	reg(t)[RDI] = 0x7ffff000;
	reg(t)[R11] = 1;
	expect_fault(t, X86_TRAP_PF);
	assert_int_equal(R(t, GUEST_RIP), GPA_CODE + (size_t)(g_fault_end - g_fault) - 4);
	assert_int_equal(reg(t)[RBX], 11);
	assert_int_equal(reg(t)[RBP], 22);
	assert_int_equal(reg(t)[R12], 33);
	assert_int_equal(reg(t)[R15], 44);
	assert_int_equal(reg(t)[R9], 55);
	assert_int_equal(reg(t)[R11], 2);
	assert_int_equal(R(t, GUEST_RSP), GPA_STACK);
}

GUEST(g_misaligned, "movaps [rdi+1],xmm0; hlt");

static void misaligned_operand_comes_before_its_page(void **state)
{
	STATE;

	signals_are_ours();
	PUT_AT(t, GPA_CODE, g_misaligned);
	W(GUEST_CR4, R(t, GUEST_CR4) | X86_CR4_OSFXSR);
	reg(t)[RDI] = 0x7ffff000;
	expect_fault(t, X86_TRAP_GP);
	reg(t)[RDI] = 0x40000;
	W(GUEST_RIP, GPA_CODE);
	expect_fault(t, X86_TRAP_GP);
	assert_int_equal(R(t, GUEST_RIP), GPA_CODE);
}

GUEST(g_divide, "mov ecx,0; mov esi,5; div ecx; hlt");

static void division_by_zero_is_de(void **state)
{
	STATE;

	signals_are_ours();
	PUT_AT(t, GPA_CODE, g_divide);
	reg(t)[RAX] = 7;
	expect_fault(t, X86_TRAP_DE);
	assert_int_equal(R(t, GUEST_RIP), GPA_CODE + 10);
	assert_int_equal(reg(t)[RSI], 5);
	assert_int_equal(reg(t)[RAX], 7);
}

GUEST(g_noncanonical, "mov rax,0x800000000000; push rax; nop; ret; hlt");

static void return_to_no_address_is_gp_at_the_return(void **state)
{
	STATE;

	PUT_AT(t, GPA_CODE, g_noncanonical);
	expect_fault(t, X86_TRAP_GP);
	assert_int_equal(R(t, GUEST_RIP), GPA_CODE + 12);
	assert_int_equal(R(t, GUEST_RSP), GPA_STACK - 8);
}

GUEST(g_wild_stack, "mov rsp,rdx; mov rax,[rsp+8]; push rax; pop rcx; hlt");
GUEST(g_wild_lock, "lock inc dword ptr [rdi]; hlt");

/* Nor one that is no address of any tag (TLB_NO_ACCESS): before the stack or the page is known, and behind it. */
static void no_address_is_near_a_tag_that_allows_nothing(void **state)
{
	STATE;
	unsigned known;

	signals_are_ours();
	for (known = 0; known < 2; known++)
		for (uint64_t n = 0; n < 0x1000; n += 1 + n % 64) {
			PUT_AT(t, GPA_CODE, g_wild_stack);
			vmx_sync_code(t->cpu);
			reg(t)[RDX] = BIT_ULL(63) + n;
			W(GUEST_RIP, GPA_CODE);
			W(GUEST_RSP, known ? GPA_STACK : 0x1f0000);
			expect_fault(t, X86_TRAP_SS);
			assert_int_equal(R(t, GUEST_RIP), GPA_CODE + 3);
			PUT_AT(t, GPA_CODE, g_wild_lock);
			vmx_sync_code(t->cpu);
			reg(t)[RDI] = BIT_ULL(63) + n;
			W(GUEST_RIP, GPA_CODE);
			expect_fault(t, X86_TRAP_GP);
			assert_int_equal(R(t, GUEST_RIP), GPA_CODE);
		}
}

GUEST(g_vanish, "mov ebx,9; 1: mov rax,[rsi]; add qword ptr [rsi+8],1; mov [rsi+16],rbx; dec ecx; jnz 1b; hlt");

static void memory_that_vanishes_under_any_access_restarts_it(void **state)
{
	STATE;
	uint8_t *page = t->ram + 0x40000;

	signals_are_ours();
	PUT_AT(t, GPA_CODE, g_vanish);
	reg(t)[RSI] = 0x40000;
	reg(t)[RCX] = 100;
	assert_int_equal(go(t), EXIT_REASON_HLT); /* the TLB knows the page */
	for (int prot = PROT_NONE; prot <= PROT_READ; prot++) {
		assert_int_equal(mprotect(page, 4096, prot), 0);
		reg(t)[RCX] = 10;
		reg(t)[RBX] = 0;
		W(GUEST_RIP, GPA_CODE);
		assert_int_equal(vmresume(t->cpu), VMX_BUS_ERROR);
		assert_int_equal(vmx_bus_error_address(t->cpu) & PAGE_MASK, (uint64_t)page);
		assert_int_equal(reg(t)[RBX], 9);
		assert_int_equal(reg(t)[RCX], 10);
		assert_int_equal(mprotect(page, 4096, PROT_READ | PROT_WRITE), 0);
		assert_int_equal(go(t), EXIT_REASON_HLT);
		assert_int_equal(reg(t)[RCX], 0);
	}
	assert_int_equal(*guest64(t, 0x40008), 120);
}

/* --- flags --- */

/* Two return sites whose addresses have the same low 16 bits, with flags live across RET. */
GUEST(g_site, "1: cmp ecx,5; call rdi; je 2f; inc r8; 2: jmp r14");
GUEST(g_twice, "mov ecx,5; lea r14,[rip+1f]; jmp rsi; 1: mov ecx,6; lea r14,[rip+1f]; jmp r15; 1:\n"
	       "dec ebx; jnz g_twice; hlt");
GUEST(g_return, "nop; ret");

static void flags_live_across_a_return_survive_a_collision(void **state)
{
	STATE;

	map(t, 0x100000000 + 0x45000, 0x45000, RW);
	map(t, 0x100010000 + 0x45000, 0x46000, RW);
	PUT_AT(t, 0x45000, g_site);
	PUT_AT(t, 0x46000, g_site);
	PUT_AT(t, GPA_CODE, g_twice);
	PUT_AT(t, GPA_CODE + 0x800, g_return);
	reg(t)[RSI] = 0x100045000;
	reg(t)[R15] = 0x100055000;
	reg(t)[RDI] = GPA_CODE + 0x800;
	reg(t)[RBX] = 200;
	reg(t)[R8] = 0;
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(reg(t)[R8], 200);
}

/* A loop in a loop that pass the carry on, by DEC; behind them it is read, and all flags that the last DEC has set. */
GUEST(g_carry, "mov r9,rax; bt eax,0; 2: mov edx,3; 1: mov r12,[rsi]; mov [rsi+8],r12; dec edx; jnz 1b\n"
	       "mov r12,[rsi]; dec ecx; jnz 2b; lahf; adc ebx,ebx; hlt");

static void a_carry_from_before_a_loop_is_there_behind_it(void **state)
{
	STATE;

	PUT_AT(t, GPA_CODE, g_carry);
	reg(t)[RSI] = 0x40000;
	for (unsigned n = 0; n < 40; n++) {
		reg(t)[RAX] = n & 1;
		reg(t)[RBX] = n;
		reg(t)[RCX] = 1 + n % 5;
		W(GUEST_RIP, GPA_CODE);
		assert_int_equal(go(t), EXIT_REASON_HLT);
		assert_int_equal(reg(t)[RAX] >> 8 & 0xff, 0x46 | (n & 1)); /* ZF, PF, and bit 1 */
		assert_int_equal(reg(t)[RBX], 2 * n + (n & 1));
	}
}

/* --- caches of translations --- */

GUEST(g_step, "mov eax,1; jmp .+0xffb"); /* to the same offset, one page on */
GUEST(g_step_1, "inc rdx; ret");
GUEST(g_step_2, "add rdx,100; ret");
GUEST(g_calls, "1: call rsi; dec ecx; jnz 1b; hlt");

/* One page at two addresses, with other neighbours: cells of the one do not serve the other. */
static void page_at_two_addresses_has_two_neighbours(void **state)
{
	STATE;
	const gva_t a = 0x100000000, b = 0x200000000;

	PUT_AT(t, 0x40000, g_step);
	PUT_AT(t, 0x41005, g_step_1); /* mov is 5 bytes, jmp 5: target = start + 5 + 5 + ffb - 5 */
	memset(t->ram + 0x41000, 0x90, 5);
	PUT_AT(t, 0x42005, g_step_2);
	memset(t->ram + 0x42000, 0x90, 5);
	map(t, a, 0x40000, RW);
	map(t, a + 0x1000, 0x41000, RW);
	map(t, b, 0x40000, RW);
	map(t, b + 0x1000, 0x42000, RW);
	PUT_AT(t, GPA_CODE, g_calls);
	reg(t)[RDX] = 0;
	for (unsigned n = 1; n <= 4; n++) {
		reg(t)[RCX] = 50;
		reg(t)[RSI] = n & 1 ? a : b;
		W(GUEST_RIP, GPA_CODE);
		assert_int_equal(go(t), EXIT_REASON_HLT);
	}
	assert_int_equal(reg(t)[RDX], 2 * 50 + 2 * 50 * 100);
}

/*
 * The page that is called moves; its TLB entry has been replaced by a data page's before
 * INVLPG: what was found through it has to go nevertheless.
 */
GUEST(g_remap, "1: call 0x150000; dec ecx; jnz 1b\n" /* assembled for GPA_CODE: see below */
	       "mov [rdi],rbx; mov rax,[rsi]; invlpg [r8]; mov ecx,20; 2: call 0x150000; dec ecx; jnz 2b; hlt");

static void put_remap(struct machine *t)
{
	/* call rel32 is relative to where the linker put the code: make it so to GPA_CODE */
	uint8_t *p = t->ram + GPA_CODE;
	size_t n = (size_t)(g_remap_end - g_remap);

	memcpy(p, g_remap, n);
	for (size_t k = 0; k < n; k++)
		if (p[k] == 0xe8) {
			int32_t rel = (int32_t)(0x150000 - (GPA_CODE + k + 5));

			memcpy(p + k + 1, &rel, 4);
			k += 4;
		}
}

static void set_up_remap(struct machine *t)
{
	PUT_AT(t, 0x60000, g_step_1);
	PUT_AT(t, 0x61000, g_step_2);
	map(t, 0x150000, 0x60000, RW);
	map(t, 0x150000 + ISA_TLB_ENTRIES * PAGE_SIZE, 0x62000, RW); /* same slot of the TLB */
	put_remap(t);
	reg(t)[RDX] = 0;
	reg(t)[RCX] = 20;
	reg(t)[RDI] = GPA_PT + 8 * 0x150;
	reg(t)[RBX] = 0x61000 | RW;
	reg(t)[RSI] = 0x150000 + ISA_TLB_ENTRIES * PAGE_SIZE;
	reg(t)[R8] = 0x150000;
}

static void invlpg_reaches_code_whose_entry_was_replaced(void **state)
{
	STATE;

	set_up_remap(t);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(reg(t)[RDX], 20 + 20 * 100);
}

static void invvpid_of_an_address_reaches_it_too(void **state)
{
	STATE;

	set_up_remap(t);
	reg(t)[R8] = 0x7000; /* INVLPG of something else */
	reg(t)[RBX] = 0x60000 | RW;
	assert_int_equal(go(t), EXIT_REASON_HLT);
	guest64(t, GPA_PT)[0x150] = 0x61000 | RW;
	assert_int_equal(invvpid(t->cpu, INVVPID_INDIVIDUAL_ADDRESS, 1, 0x150000), VMX_SUCCEED);
	reg(t)[RBX] = 0x61000 | RW;
	reg(t)[RCX] = 20;
	reg(t)[RDX] = 0;
	W(GUEST_RIP, GPA_CODE);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(reg(t)[RDX], 2 * 20 * 100);
}

GUEST(g_stack_loop, "1: push rax; pop rbx; dec ecx; jnz 1b; hlt");

/* CR0.WP by VM exit and entry, as a hypervisor changes it, with the stack's page known. */
static void write_protection_reaches_the_stack(void **state)
{
	STATE;

	PUT_AT(t, GPA_CODE, g_stack_loop);
	guest64(t, GPA_PT)[(GPA_STACK >> 12) - 1] &= ~(uint64_t)PTE_RW;
	W(GUEST_CR0, R(t, GUEST_CR0) & ~X86_CR0_WP);
	reg(t)[RCX] = 50;
	assert_int_equal(go(t), EXIT_REASON_HLT);
	W(GUEST_CR0, R(t, GUEST_CR0) | X86_CR0_WP);
	W(GUEST_RIP, GPA_CODE);
	reg(t)[RCX] = 50;
	expect_fault(t, X86_TRAP_PF);
	assert_int_equal(R(t, EXIT_QUALIFICATION), GPA_STACK - 8);
}

GUEST(g_frame, "1: push rax; push rbx; push rcx; mov [rsp+8],rdx; pop rcx; pop r9; pop rax; dec ecx; jnz 1b; hlt");

static void frame_over_two_pages(void **state)
{
	STATE;

	PUT_AT(t, GPA_CODE, g_frame);
	map(t, 4 * GIB, 0x40000, RW);
	map(t, 4 * GIB + 0x1000, 0x50000, RW);
	W(GUEST_RSP, 4 * GIB + 0x1008);
	reg(t)[RAX] = 0x1234;
	reg(t)[RDX] = 0x77;
	reg(t)[RCX] = 1000;
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(reg(t)[RAX], 0x1234);
	assert_int_equal(reg(t)[R9], 0x77);
	assert_int_equal(*guest64(t, 0x50000), 0x1234);
	assert_int_equal(*guest64(t, 0x40ff8), 0x77);
}

/* --- vector state --- */

GUEST(g_vector_calls, "1: call rsi; dec ecx; jnz 1b; hlt");
GUEST(g_sse, "paddd xmm1,xmm2; movups [rdi],xmm1; ret");
GUEST(g_evex, "vpaddd xmm17,xmm17,xmm18; vmovdqu32 [rdi],xmm17; ret");

/* The calling unit needs no FPU: what it calls through the table finds it loaded, after exits too. */
static void vector_code(struct machine *t, const uint8_t *code, size_t n, unsigned image_off)
{
	uint32_t *one;

	PUT_AT(t, GPA_CODE, g_vector_calls);
	memcpy(t->ram + 0x45000, code, n);
	W(GUEST_CR4, R(t, GUEST_CR4) | X86_CR4_OSFXSR | X86_CR4_OSXSAVE);
	one = (uint32_t *)((uint8_t *)vmx_xsave_area(t->cpu, NULL) + image_off);
	*one = 1;
	*(uint64_t *)((uint8_t *)vmx_xsave_area(t->cpu, NULL) + 512) |= vmx_get_xcr0(t->cpu);
	reg(t)[RDI] = 0x40000;
	reg(t)[RSI] = 0x45000;
	W(GUEST_RSP, GPA_STACK - 64); /* not at a page's end: the call itself stays in emitted code */
	for (unsigned k = 1; k <= 4; k++) {
		/* the host's own values, as any C code between may leave them */
		if (code == g_evex)
			__asm__ volatile("vpxord %%xmm17, %%xmm17, %%xmm17" ::: "memory");
		else
			__asm__ volatile("pxor %%xmm1, %%xmm1" ::: "xmm1");
		reg(t)[RCX] = 25;
		W(GUEST_RIP, GPA_CODE);
		assert_int_equal(go(t), EXIT_REASON_HLT);
		assert_int_equal(*(uint32_t *)(t->ram + 0x40000), 25 * k);
	}
}

static void vector_code_called_through_the_table_has_its_registers(void **state)
{
	STATE;

	vmx_set_xcr0(t->cpu, 3);
	vector_code(t, g_sse, (size_t)(g_sse_end - g_sse), 160 + 2 * 16);
}

static void evex_code_called_through_the_table_has_its_registers(void **state)
{
	STATE;
	size_t bytes;
	unsigned eax, ebx, ecx, edx;

	vmx_xsave_area(t->cpu, &bytes);
	__asm__ volatile("cpuid" : "=a"(eax), "=b"(ebx), "=c"(ecx), "=d"(edx) : "a"(0xd), "c"(7));
	if (!__builtin_cpu_supports("avx512vl") || !eax || ebx + 3 * 64 > bytes)
		skip(); /* no AVX-512 on this machine, or none offered */
	vmx_set_xcr0(t->cpu, 0xe7);
	vector_code(t, g_evex, (size_t)(g_evex_end - g_evex), ebx + 2 * 64);
}

/*
 * A frame that is aligned anew, as compilers make them: PUSH of memory within a group of
 * stack accesses, whose own probe misses. The accesses behind it are the stack's still.
 */
GUEST(g_realigned, "lea r10,[rsp+8]; and rsp,-16; push [r11]; push rbp; push rdi; push rsi; mov rax,[rsp]; hlt");

static void stack_accesses_behind_a_miss_go_to_the_stack(void **state)
{
	STATE;

	PUT_AT(t, GPA_CODE, g_realigned);
	map(t, 0x200000000, 0x40000, RW);
	*guest64(t, 0x40008) = 0x7ffe00001234;
	for (unsigned k = 0; k < 3; k++) {
		memset(t->ram + GPA_STACK - 0x100, 0, 0x100);
		W(GUEST_RSP, GPA_STACK - 0x48);
		W(GUEST_RIP, GPA_CODE);
		reg(t)[R11] = 0x200000008;
		reg(t)[RBP] = 0x11;
		reg(t)[RDI] = 0x22;
		reg(t)[RSI] = 0x33;
		reg(t)[RAX] = 0;
		assert_int_equal(go(t), EXIT_REASON_HLT);
		assert_int_equal(reg(t)[RAX], 0x33);
		assert_int_equal(R(t, GUEST_RSP), GPA_STACK - 0x70);
		assert_int_equal(*guest64(t, GPA_STACK - 0x58), 0x7ffe00001234);
		assert_int_equal(*guest64(t, GPA_STACK - 0x60), 0x11);
		assert_int_equal(*guest64(t, GPA_STACK - 0x68), 0x22);
		/* the stack is known, the memory operand is not */
		assert_int_equal(invvpid(t->cpu, INVVPID_INDIVIDUAL_ADDRESS, 1, 0x200000000), VMX_SUCCEED);
	}
}

/* --- code that changes --- */

/* Its own immediate, in the same block. */
GUEST(g_own_bytes, "mov esi,100; 1: inc dword ptr [rip+2f+1]; nop; 2: mov eax,0; dec esi; jnz 1b; hlt");
/* A word of data in its own page. */
GUEST(g_own_data, "mov esi,100; 1: inc dword ptr [rip+2f]; dec esi; jnz 1b; hlt; 2: .long 0");

static void block_that_writes_into_itself(void **state)
{
	STATE;

	PUT_AT(t, GPA_CODE, g_own_bytes);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(reg(t)[RAX], 100);
	PUT_AT(t, GPA_CODE + 0x2000, g_own_data);
	W(GUEST_RIP, GPA_CODE + 0x2000);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(*(uint32_t *)(t->ram + GPA_CODE + 0x2000 + (g_own_data_end - g_own_data) - 4), 100);
}

GUEST(g_sibling, "1: call 2f; dec ecx; jnz 1b; hlt; .skip 64; 2: mov eax,1; nop; ret");

/* A client patches a function of a page whose other code runs first. */
static void function_patched_between_two_runs_is_seen(void **state)
{
	STATE;

	PUT_AT(t, GPA_CODE, g_sibling);
	for (uint8_t n = 1; n < 5; n++) {
		t->ram[GPA_CODE + (size_t)(g_sibling_end - g_sibling) - 6] = n;
		vmx_sync_code(t->cpu);
		reg(t)[RCX] = 10;
		W(GUEST_RIP, GPA_CODE);
		assert_int_equal(go(t), EXIT_REASON_HLT);
		assert_int_equal(reg(t)[RAX], n);
	}
}

/* ADD becomes ADC in code that the block before it had looked at for its use of flags. */
GUEST(g_ahead, "mov rdx,[rsi]; cmp edi,1; mov rax,[rsi]; jmp 1f; 1: add eax,0; hlt");

static void use_of_flags_that_is_patched_in_is_seen(void **state)
{
	STATE;
	const size_t at = (size_t)(g_ahead_end - g_ahead) - 4;

	PUT_AT(t, GPA_CODE, g_ahead);
	reg(t)[RSI] = 0x40000;
	for (int n = 0; n < 3; n++) {
		t->ram[GPA_CODE + at + 1] = n == 1 ? 0xd0 : 0xc0;
		vmx_sync_code(t->cpu);
		reg(t)[RDI] = 0;
		W(GUEST_RIP, GPA_CODE);
		assert_int_equal(go(t), EXIT_REASON_HLT);
		assert_int_equal(reg(t)[RAX], n == 1);
	}
}

/* --- kicks --- */

GUEST(g_circle, "1: jmp 2f; .skip 20; 3: jmp 1b; .skip 20; 2: inc rax; jmp 3b");
GUEST(g_cond_circle, "1: test ecx,ecx; jz 2f; hlt; .skip 30; 2: add rax,1; jnz 3f; .skip 30; 3: cmp ecx,1; jne 1b");
GUEST(g_indirect_circle, "lea rbx,[rip+1f]; lea rdx,[rip+2f]; 1: jmp rdx; 2: jmp rbx");
GUEST(g_return_circle, "lea rbx,[rip+1f]; 1: push rbx; ret");

static void *kicker(void *arg)
{
	struct machine *t = arg;

	usleep(20000);
	vmx_kick(t->cpu);
	return NULL;
}

static void kick_while_it_runs(struct machine *t, const uint8_t *code, const uint8_t *end, bool warm)
{
	pthread_t th;

	memcpy(t->ram + GPA_CODE, code, (size_t)(end - code));
	vmx_sync_code(t->cpu);
	reg(t)[RCX] = 0;
	reg(t)[RAX] = warm;
	W(GUEST_RIP, GPA_CODE);
	W(GUEST_RSP, GPA_STACK);
	assert_int_equal(pthread_create(&th, NULL, kicker, t), 0);
	assert_int_equal(go(t), EXIT_REASON_EXTERNAL_INTERRUPT);
	pthread_join(th, NULL);
}

static void every_circle_can_be_left(void **state)
{
	STATE;

	for (int n = 0; n < 3; n++) {
		kick_while_it_runs(t, g_circle, g_circle_end, n);
		kick_while_it_runs(t, g_cond_circle, g_cond_circle_end, n);
		kick_while_it_runs(t, g_indirect_circle, g_indirect_circle_end, n);
		kick_while_it_runs(t, g_return_circle, g_return_circle_end, n);
	}
}

/* --- the host's side --- */

static volatile uint32_t signals;

static void on_signal(int nr)
{
	signals++;
}

static void *storm(void *arg)
{
	struct { struct machine *t; pthread_t to; } *a = arg;

	for (int n = 0; n < 2000; n++) {
		pthread_kill(a->to, SIGUSR1);
		usleep(20);
	}
	vmx_kick(a->t->cpu);
	return NULL;
}

GUEST(g_spin, "1: inc rax; xor rbx,rax; jmp 1b");

/* A handler of the client's without a stack of its own, while the guest has no stack. */
static void signals_do_not_touch_the_guests_stack(void **state)
{
	STATE;
	struct sigaction act = { .sa_handler = on_signal }, old;
	struct { struct machine *t; pthread_t to; } a = { t, pthread_self() };
	pthread_t th;

	assert_int_equal(sigaction(SIGUSR1, &act, &old), 0);
	PUT_AT(t, GPA_CODE, g_spin);
	W(GUEST_RSP, 0);
	assert_int_equal(pthread_create(&th, NULL, storm, &a), 0);
	assert_int_equal(go(t), EXIT_REASON_EXTERNAL_INTERRUPT);
	pthread_join(th, NULL);
	assert_true(signals > 0);
	assert_int_equal(R(t, GUEST_RSP), 0);
	assert_int_equal(sigaction(SIGUSR1, &old, NULL), 0);
}

/* No new executable memory: neither mmap() nor mprotect(). */
static bool forbid_new_memory(void)
{
	struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mprotect, 1, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mremap, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog p = { ARRAY_SIZE(f), f };

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &p) == 0;
}

static void *run_confined(void *arg)
{
	struct machine *t = arg;

	if (!forbid_new_memory())
		return (void *)-1L;
	return (void *)(uintptr_t)(vmlaunch(t->cpu) == VMX_SUCCEED ? t->vmcs->VM_EXIT_REASON : 0);
}

static void thread_without_mprotect_translates(void **state)
{
	STATE;
	pthread_t th;
	void *reason;

	PUT_AT(t, GPA_CODE, g_stack_loop);
	reg(t)[RCX] = 1000;
	assert_int_equal(pthread_create(&th, NULL, run_confined, t), 0);
	pthread_join(th, &reason);
	assert_int_equal((intptr_t)reason, EXIT_REASON_HLT);
	if (translating(t))
		assert_true(t->cpu->counters.jit_units > 0);
}

static void limit_of_file_sizes_is_none_of_code_memory(void **state)
{
	struct rlimit old, small = { 4096, 0 };
	struct machine *t;

	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	small.rlim_max = old.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	machine_setup_long((void **)&t);
	PUT_AT(t, GPA_CODE, g_stack_loop);
	reg(t)[RCX] = 10;
	assert_int_equal(go(t), EXIT_REASON_HLT);
	if (translating(t))
		assert_true(t->cpu->counters.jit_units > 0);
	machine_teardown((void **)&t);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
}

/* Watched code and single steps are the interpreter's, also where units exist. */
static void breakpoints_and_steps_find_translated_code(void **state)
{
	STATE;

	PUT_AT(t, GPA_CODE, g_stack_loop);
	reg(t)[RCX] = 10;
	assert_int_equal(go(t), EXIT_REASON_HLT);
	W(VM_ENTRY_CONTROLS, R(t, VM_ENTRY_CONTROLS) | VM_ENTRY_LOAD_DEBUG_CONTROLS);
	W(GUEST_DR7, DR7_FIXED_1 | 2);
	t->cpu->cs.dr[0] = GPA_CODE + 1; /* pop rbx */
	reg(t)[RCX] = 10;
	W(GUEST_RIP, GPA_CODE);
	expect_fault(t, X86_TRAP_DB);
	assert_int_equal(R(t, GUEST_RIP), GPA_CODE + 1);
	W(GUEST_DR7, DR7_FIXED_1);
	W(GUEST_RFLAGS, X86_FLAGS_FIXED | X86_FLAGS_TF);
	expect_fault(t, X86_TRAP_DB);
	assert_int_equal(R(t, GUEST_RIP), GPA_CODE + 2);
	W(GUEST_RFLAGS, X86_FLAGS_FIXED);
	W(CPU_BASED_VM_EXEC_CONTROL, R(t, CPU_BASED_VM_EXEC_CONTROL) | CPU_BASED_MONITOR_TRAP_FLAG);
	W(GUEST_PENDING_DBG_EXCEPTIONS, 0);
	assert_int_equal(go(t), EXIT_REASON_MONITOR_TRAP_FLAG);
	assert_int_equal(R(t, GUEST_RIP), GPA_CODE + 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST_LONG(displacement_at_its_limit_does_not_hit_the_page_4_gib_below),
		TEST_LONG(addresses_of_32_bits_are_cut),
		TEST_LONG(bases_of_fs_and_gs_count),
		TEST_LONG(bit_strings_of_registers_stay_in_them),
		TEST_LONG(stack_pointer_from_elsewhere_is_looked_at),
		TEST_LONG(stack_pointer_above_the_mark_of_no_page_is_ss),
		TEST_LONG(accesses_across_a_page_see_both),
		TEST_LONG(registers_at_a_fault_are_those_before_its_instruction),
		TEST_LONG(misaligned_operand_comes_before_its_page),
		TEST_LONG(division_by_zero_is_de),
		TEST_LONG(return_to_no_address_is_gp_at_the_return),
		TEST_LONG(no_address_is_near_a_tag_that_allows_nothing),
		TEST_LONG(memory_that_vanishes_under_any_access_restarts_it),
		TEST_LONG(flags_live_across_a_return_survive_a_collision),
		TEST_LONG(a_carry_from_before_a_loop_is_there_behind_it),
		TEST_LONG(page_at_two_addresses_has_two_neighbours),
		TEST_LONG(invlpg_reaches_code_whose_entry_was_replaced),
		TEST_LONG(invvpid_of_an_address_reaches_it_too),
		TEST_LONG(write_protection_reaches_the_stack),
		TEST_LONG(frame_over_two_pages),
		TEST_LONG(vector_code_called_through_the_table_has_its_registers),
		TEST_LONG(evex_code_called_through_the_table_has_its_registers),
		TEST_LONG(stack_accesses_behind_a_miss_go_to_the_stack),
		TEST_LONG(block_that_writes_into_itself),
		TEST_LONG(function_patched_between_two_runs_is_seen),
		TEST_LONG(use_of_flags_that_is_patched_in_is_seen),
		TEST_LONG(every_circle_can_be_left),
		TEST_LONG(signals_do_not_touch_the_guests_stack),
		TEST_LONG(breakpoints_and_steps_find_translated_code),
		TEST_LONG(thread_without_mprotect_translates),
		cmocka_unit_test(limit_of_file_sizes_is_none_of_code_memory),
	};

	return TRANSLATOR_TESTS(tests);
}
