/*
 * Translated accesses to memory where it is not one piece: at the ends of pages, by every kind of operand;
 * memory that a client takes away under them; translations that an invalidation has to reach though the TLB
 * entry which they were made from has been replaced.
 */
#include "translator.h"

/* --- accesses across the end of a page --- */

/*
 * RSI is the operand's address, RDI the first of two pages, both known for reading and writing. The same bytes
 * run on the host, in two pages side by side: what is left must be the same.
 */
#define WARM "mov r8b,[rdi]; mov [rdi],r8b; mov r8b,[rdi+0x1fff]; mov [rdi+0x1fff],r8b; movq xmm0,rcx; "
#define TAIL "; movups [rdi+0x40],xmm0; nop; nop; hlt"

#define PLAIN_OPS(X)                                                                          \
	X(load1, "mov al,[rsi]") X(load2, "mov ax,[rsi]") X(load4, "mov eax,[rsi]")           \
	X(load8, "mov rax,[rsi]") X(store1, "mov [rsi],al") X(store2, "mov [rsi],ax")         \
	X(store4, "mov [rsi],eax") X(store8, "mov [rsi],rax") X(storei, "mov qword ptr [rsi],-77") \
	X(high, "mov [rsi],ah") X(rmw1, "add [rsi],al") X(rmw2, "xor [rsi],ax")               \
	X(rmw4, "sub [rsi],eax") X(rmw8, "adc [rsi],rax") X(rmwi, "or word ptr [rsi],0x1234")  \
	X(from, "add rax,[rsi]") X(cmp, "cmp [rsi],rax; setb al") X(test, "test [rsi],ecx; setz al") \
	X(xadd, "xadd [rsi],rax") X(cmpxchg, "mov rax,[rsi]; cmpxchg [rsi],rcx")              \
	X(inc, "inc dword ptr [rsi]") X(neg, "neg qword ptr [rsi]") X(shl, "shl word ptr [rsi],3") \
	X(ror, "ror qword ptr [rsi],cl") X(shld, "shld [rsi],rax,5") X(bts, "bts dword ptr [rsi],7") \
	X(set, "cmp al,al; sete [rsi]") X(movzx1, "movzx eax,byte ptr [rsi]")                 \
	X(movzx2, "movzx eax,word ptr [rsi]") X(movsx, "movsxd rax,dword ptr [rsi]")          \
	X(cmov, "cmp al,al; cmovz rax,[rsi]") X(imul, "imul rax,[rsi]") X(mul, "mul qword ptr [rsi]") \
	X(index, "mov edx,2; mov rax,[rsi+rdx*4-8]; mov [rsi+rdx*8-16],rcx")                  \
	X(r10, "mov r10,rsi; mov r11,[r10]; add r11,1; mov [r10],r11d; mov rax,r11")          \
	X(push, "mov rbx,rsp; push [rsi]; pop rax; mov rsp,rbx")                              \
	X(sse4, "movd xmm0,[rsi]") X(sse8, "movq xmm0,qword ptr [rsi]") X(sse16, "movups xmm0,[rsi]") \
	X(sses4, "movss [rsi],xmm0") X(sses8, "movq qword ptr [rsi],xmm0") X(sses16, "movdqu [rsi],xmm0") \
	X(ssei, "pinsrw xmm0,word ptr [rsi],3") X(cvt, "cvtsi2sd xmm0,qword ptr [rsi]")       \
	X(x87l, "fld tbyte ptr [rsi]; fstp qword ptr [rdi+0x60]") X(x87s, "fld1; fstp tbyte ptr [rsi]") \
	X(x87i, "fild qword ptr [rsi]; fistp dword ptr [rdi+0x60]")
#define AVX_OPS(X)                                                                            \
	X(avx32, "vmovups ymm1,[rsi]; vextractf128 xmm0,ymm1,1")                              \
	X(avxs32, "vinsertf128 ymm1,ymm0,xmm0,1; vmovups [rsi],ymm1") X(bcast, "vbroadcastss xmm0,[rsi]")

#define OP_GUEST(name, text) GUEST(op_##name, WARM text TAIL);
PLAIN_OPS(OP_GUEST)
AVX_OPS(OP_GUEST)

struct op {
	const char *name;
	const uint8_t *code, *end;
	bool avx;
};
#define OP_ROW(n, text) { #n, op_##n, op_##n##_end, false },
#define OP_ROW_AVX(n, text) { #n, op_##n, op_##n##_end, true },
static const struct op ops[] = { PLAIN_OPS(OP_ROW) AVX_OPS(OP_ROW_AVX) };

struct regs {
	uint64_t rax, rcx, rdx;
};

/* The code with its HLT as a RET, by the host. */
static void run_native(const struct op *op, uint8_t *code, uint8_t *pages, uint64_t at, struct regs *r)
{
	size_t n = (size_t)(op->end - op->code);

	memcpy(code, op->code, n - 1);
	code[n - 1] = 0xc3;
	__asm__ volatile("sub $128, %%rsp; call *%[code]; add $128, %%rsp"
			 : "+a"(r->rax), "+c"(r->rcx), "+d"(r->rdx)
			 : [code] "r"(code), "S"(pages + at), "D"(pages)
			 : "rbx", "r8", "r10", "r11", "xmm0", "xmm1", "st", "st(1)", "memory", "cc");
}

static bool host_has_avx(void)
{
	return __builtin_cpu_supports("avx");
}

static void every_operand_at_every_end_of_a_page(void **state)
{
	STATE;
	uint8_t *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	static uint8_t pages[8192] __attribute__((aligned(4096))), before[8192];

	assert_ptr_not_equal(code, MAP_FAILED);
	map(t, 4 * GIB, 0x40000, RW);
	map(t, 4 * GIB + 0x1000, 0x50000, RW);
	W(GUEST_CR4, R(t, GUEST_CR4) | X86_CR4_OSFXSR | X86_CR4_OSXSAVE);
	vmx_set_xcr0(t->cpu, host_has_avx() ? 7 : 3);
	for (size_t n = 0; n < sizeof(before); n++)
		before[n] = (uint8_t)(n * 37 + n / 256);
	for (unsigned k = 0; k < ARRAY_SIZE(ops); k++) {
		if (ops[k].avx && !host_has_avx())
			continue;
		memcpy(t->ram + GPA_CODE, ops[k].code, (size_t)(ops[k].end - ops[k].code));
		vmx_sync_code(t->cpu);
		for (uint64_t at = 4096 - 40; at <= 4096 + 4; at++) {
			struct regs r = { 0x1122334455667788, 0x99aabbccddeeff05, 0x0f };

			memcpy(pages, before, 8192);
			memcpy(t->ram + 0x40000, before, 4096);
			memcpy(t->ram + 0x50000, before + 4096, 4096);
			reg(t)[RAX] = r.rax;
			reg(t)[RCX] = r.rcx;
			reg(t)[RDX] = r.rdx;
			reg(t)[RDI] = 4 * GIB;
			reg(t)[RSI] = 4 * GIB + at;
			W(GUEST_RIP, GPA_CODE);
			W(GUEST_RFLAGS, X86_FLAGS_FIXED);
			W(GUEST_RSP, GPA_STACK - 0x100);
			assert_int_equal(go(t), EXIT_REASON_HLT);
			__asm__ volatile("add $0, %%eax" ::: "eax", "cc"); /* CF = 0, as the guest's */
			run_native(&ops[k], code, pages, at, &r);
			if (reg(t)[RAX] != r.rax || reg(t)[RDX] != r.rdx || memcmp(t->ram + 0x40000, pages, 4096) ||
			    memcmp(t->ram + 0x50000, pages + 4096, 4096))
				fail_msg("%s at %lx: rax %lx is %lx", ops[k].name, (long)at, (long)r.rax,
					 (long)reg(t)[RAX]);
		}
	}
	munmap(code, 4096);
}

/* --- memory that vanishes --- */

/* Each goes through the page at RDI in a loop; RCX counts down, RSP is there too. */
GUEST(v_load, "1: mov rax,[rdi+8]; dec ecx; jnz 1b; hlt");
GUEST(v_store, "1: mov [rdi+8],rcx; dec ecx; jnz 1b; hlt");
GUEST(v_rmw, "1: add qword ptr [rdi+8],3; dec ecx; jnz 1b; hlt");
GUEST(v_lock, "1: lock xadd [rdi+8],rax; dec ecx; jnz 1b; hlt");
GUEST(v_stos, "mov r8,rdi; 1: mov rdi,r8; mov edx,ecx; mov ecx,200; rep stosq; mov ecx,edx; dec ecx; jnz 1b; mov rdi,r8; hlt");
GUEST(v_movs, "mov r8,rdi; 1: mov rdi,r8; lea rsi,[r8+2048]; mov edx,ecx; mov ecx,1000; rep movsb; mov ecx,edx; dec ecx; jnz 1b\n"
	      "mov rdi,r8; hlt");
GUEST(v_sse, "1: movups xmm1,[rdi]; paddd xmm1,xmm2; movups [rdi+32],xmm1; dec ecx; jnz 1b; hlt");
GUEST(v_x87, "1: fld1; fadd qword ptr [rdi]; fstp qword ptr [rdi+8]; dec ecx; jnz 1b; hlt");
GUEST(v_stack, "lea rsp,[rdi+1024]; 1: push rax; call 2f; pop rbx; dec ecx; jnz 1b; hlt; 2: mov [rsp-64],rcx; ret");

static void loops_go_on_where_their_memory_is_back(void **state)
{
	STATE;
	static const struct op loops[] = {
		{ "load", v_load, v_load_end }, { "store", v_store, v_store_end }, { "rmw", v_rmw, v_rmw_end },
		{ "lock", v_lock, v_lock_end }, { "stos", v_stos, v_stos_end }, { "movs", v_movs, v_movs_end },
		{ "sse", v_sse, v_sse_end }, { "x87", v_x87, v_x87_end }, { "stack", v_stack, v_stack_end },
	};
	uint8_t *page = t->ram + 0x40000;

	signals_are_ours();
	W(GUEST_CR4, R(t, GUEST_CR4) | X86_CR4_OSFXSR);
	for (unsigned k = 0; k < ARRAY_SIZE(loops); k++) {
		memcpy(t->ram + GPA_CODE, loops[k].code, (size_t)(loops[k].end - loops[k].code));
		vmx_sync_code(t->cpu);
		for (unsigned round = 0; round < 3; round++) {
			reg(t)[RDI] = 0x40000;
			reg(t)[RCX] = 50;
			W(GUEST_RIP, GPA_CODE);
			W(GUEST_RSP, 0x40400);
			assert_int_equal(go(t), EXIT_REASON_HLT); /* the TLB knows the page */
			if (round == 2)
				assert_int_equal(mprotect(page, 4096, PROT_NONE), 0);
			else
				assert_int_equal(munmap(page, 4096), 0);
			reg(t)[RCX] = 50;
			W(GUEST_RIP, GPA_CODE);
			W(GUEST_RSP, 0x40400);
			assert_int_equal(vmresume(t->cpu), VMX_BUS_ERROR);
			assert_int_equal(vmx_bus_error_address(t->cpu) & PAGE_MASK, (uint64_t)page);
			if (round == 2)
				assert_int_equal(mprotect(page, 4096, PROT_READ | PROT_WRITE), 0);
			else
				assert_ptr_equal(mmap(page, 4096, PROT_READ | PROT_WRITE,
						      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), page);
			assert_int_equal(go(t), EXIT_REASON_HLT);
			assert_int_equal(reg(t)[RCX] & 0xffffffff, 0);
			assert_int_equal(R(t, GUEST_RSP), 0x40400);
		}
	}
}

/* The page of the running code: nothing reads it while its units run; the next entry compares it. */
static void code_that_vanishes_is_an_error_or_goes_on(void **state)
{
	STATE;
	uint8_t *page = t->ram + 0x40000;
	enum vmx_result r;

	signals_are_ours();
	PUT_AT(t, 0x40000, v_load);
	reg(t)[RDI] = 0x50000;
	for (unsigned round = 0; round < 3; round++) {
		reg(t)[RCX] = 50;
		W(GUEST_RIP, 0x40000);
		assert_int_equal(go(t), EXIT_REASON_HLT);
		assert_int_equal(mprotect(page, 4096, PROT_NONE), 0);
		vmx_sync_machine_code(t->m);
		reg(t)[RCX] = 50;
		W(GUEST_RIP, 0x40000);
		r = vmresume(t->cpu);
		assert_true(r == VMX_BUS_ERROR || r == VMX_SUCCEED);
		assert_int_equal(mprotect(page, 4096, PROT_READ | PROT_WRITE), 0);
		if (r == VMX_BUS_ERROR)
			assert_int_equal(go(t), EXIT_REASON_HLT);
		assert_int_equal(reg(t)[RCX] & 0xffffffff, 0);
	}
}

/* --- order of exceptions --- */

GUEST(g_pending_mf, "fninit; fldcw [rdi]; fld1; fldz; fdivp st(1),st; fld qword ptr [rsi]; hlt");

static void pending_x87_exception_comes_before_its_operands_page(void **state)
{
	STATE;

	signals_are_ours();
	PUT_AT(t, GPA_CODE, g_pending_mf);
	*(uint16_t *)(t->ram + 0x40000) = 0x037b; /* division by zero is not masked */
	reg(t)[RDI] = 0x40000;
	reg(t)[RSI] = 0x7ffff000;
	for (unsigned n = 0; n < 3; n++) {
		W(GUEST_RIP, GPA_CODE);
		expect_fault(t, X86_TRAP_MF);
		assert_int_equal(R(t, GUEST_RIP), GPA_CODE + (size_t)(g_pending_mf_end - g_pending_mf) - 3);
	}
}

/* --- invalidations, with the TLB entry replaced first --- */

#define SAME_SLOT (ISA_TLB_ENTRIES * PAGE_SIZE)
#define FAR_PAGE 0x150000UL

GUEST(g_add_1, "inc rdx; ret");
GUEST(g_add_100, "add rdx,100; ret");
/* Twenty calls; RSI, in the same slot of the TLB, is read; then what RBX says (jump to it); twenty calls. */
GUEST(g_twenty, "mov ecx,20; 1: call r12; dec ecx; jnz 1b; mov rax,[rsi]; jmp rbx");
GUEST(g_then_invlpg, "mov [rdi],rbp; invlpg [r12]; mov ecx,20; 2: call r12; dec ecx; jnz 2b; hlt");
GUEST(g_then_invpcid, "mov [rdi],rbp; invpcid r13,[r14]; mov ecx,20; 2: call r12; dec ecx; jnz 2b; hlt");
GUEST(g_then_cr3, "mov [rdi],rbp; mov rax,cr3; mov cr3,rax; mov ecx,20; 2: call r12; dec ecx; jnz 2b; hlt");
GUEST(g_then_exit, "hlt; mov ecx,20; 2: call r12; dec ecx; jnz 2b; hlt");

static void set_up_calls(struct machine *t)
{
	PUT_AT(t, 0x60000, g_add_1);
	PUT_AT(t, 0x61000, g_add_100);
	map(t, FAR_PAGE, 0x60000, RW);
	map(t, FAR_PAGE + SAME_SLOT, 0x62000, RW);
	PUT_AT(t, GPA_CODE, g_twenty);
	reg(t)[RDX] = 0;
	reg(t)[R12] = FAR_PAGE;
	reg(t)[RSI] = FAR_PAGE + SAME_SLOT;
	reg(t)[RDI] = GPA_PT + 8 * (FAR_PAGE >> 12);
	reg(t)[RBP] = 0x61000 | RW;
	reg(t)[RBX] = GPA_CODE + 0x1000;
	W(GUEST_RIP, GPA_CODE);
}

static void code_moved_by(struct machine *t, const uint8_t *how, const uint8_t *end)
{
	set_up_calls(t);
	memcpy(t->ram + GPA_CODE + 0x1000, how, (size_t)(end - how));
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(reg(t)[RDX], 20 + 20 * 100);
}

static void invalidations_by_the_guest_reach_code(void **state)
{
	STATE;

	code_moved_by(t, g_then_invlpg, g_then_invlpg_end);
	assert_int_equal(invvpid(t->cpu, INVVPID_ALL_CONTEXT, 0, 0), VMX_SUCCEED);
	code_moved_by(t, g_then_cr3, g_then_cr3_end);
}

static void every_type_of_invpcid_reaches_code(void **state)
{
	STATE;

	W(SECONDARY_VM_EXEC_CONTROL, R(t, SECONDARY_VM_EXEC_CONTROL) | SECONDARY_EXEC_ENABLE_INVPCID);
	for (uint64_t type = 0; type < 4; type++) {
		guest64(t, 0x63000)[0] = 0; /* PCID 0 */
		guest64(t, 0x63000)[1] = FAR_PAGE;
		reg(t)[R13] = type;
		reg(t)[R14] = 0x63000;
		assert_int_equal(invvpid(t->cpu, INVVPID_ALL_CONTEXT, 0, 0), VMX_SUCCEED);
		code_moved_by(t, g_then_invpcid, g_then_invpcid_end);
	}
}

static void invept_reaches_code(void **state)
{
	STATE;
	uint64_t leaf = *ept_leaf(t, 0x60000);

	set_up_calls(t);
	PUT_AT(t, GPA_CODE + 0x1000, g_then_exit);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(reg(t)[RDX], 20);
	*ept_leaf(t, 0x60000) = *ept_leaf(t, 0x61000);
	assert_int_equal(invept(t->cpu, INVEPT_SINGLE_CONTEXT, R(t, EPT_POINTER)), VMX_SUCCEED);
	W(GUEST_RIP, GPA_CODE + 0x1001);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(reg(t)[RDX], 20 + 20 * 100);
	*ept_leaf(t, 0x60000) = leaf;
}

/* SDM "Recommended Invalidation": a page fault forgets its address. */
static void page_fault_reaches_code(void **state)
{
	STATE;

	set_up_calls(t);
	PUT_AT(t, GPA_CODE + 0x1000, g_then_exit);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	guest64(t, GPA_PT)[FAR_PAGE >> 12] = 0;
	reg(t)[RDI] = FAR_PAGE;
	PUT_AT(t, GPA_CODE + 0x2000, v_load);
	W(GUEST_RIP, GPA_CODE + 0x2000);
	expect_fault(t, X86_TRAP_PF);
	assert_int_equal(R(t, EXIT_QUALIFICATION), FAR_PAGE + 8);
	W(GUEST_RIP, GPA_CODE + 0x1001);
	expect_fault(t, X86_TRAP_PF);
	assert_int_equal(R(t, EXIT_QUALIFICATION), FAR_PAGE);
	assert_int_equal(reg(t)[RDX], 20);
}

/* --- the same of the stack's page --- */

#define STACK_PAGE 0x151000UL
GUEST(g_stack_warm, "mov ecx,20; 1: push rdx; pop rax; dec ecx; jnz 1b; mov rax,[rsi]; jmp rbx");
GUEST(g_stack_invlpg, "mov [rdi],rbp; invlpg [rsp]; nop; push rdx; hlt");
GUEST(g_stack_cr3, "mov [rdi],rbp; mov rax,cr3; mov cr3,rax; nop; push rdx; hlt");
GUEST(g_stack_clac, "stac; nop; push rdx; push rdx; pop rax; clac; nop; push rdx; hlt");
GUEST(g_stack_then_exit, "hlt; nop; push rdx; hlt");

static void set_up_stack(struct machine *t, uint64_t rights)
{
	map(t, STACK_PAGE, 0x64000, rights);
	map(t, STACK_PAGE + SAME_SLOT, 0x62000, RW);
	*guest64(t, 0x64ff0) = *guest64(t, 0x65ff0) = 0;
	PUT_AT(t, GPA_CODE, g_stack_warm);
	reg(t)[RDX] = 0xabcd;
	reg(t)[RSI] = STACK_PAGE + SAME_SLOT;
	reg(t)[RDI] = GPA_PT + 8 * (STACK_PAGE >> 12);
	reg(t)[RBP] = 0x65000 | RW;
	reg(t)[RBX] = GPA_CODE + 0x1000;
	W(GUEST_RSP, STACK_PAGE + 0xff8);
	W(GUEST_RIP, GPA_CODE);
}

static void stack_moved_by(struct machine *t, const uint8_t *how, const uint8_t *end)
{
	set_up_stack(t, RW);
	memcpy(t->ram + GPA_CODE + 0x1000, how, (size_t)(end - how));
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(*guest64(t, 0x65ff0), 0xabcd);
	assert_int_equal(R(t, GUEST_RSP), STACK_PAGE + 0xff0);
}

static void invalidations_by_the_guest_reach_the_stack(void **state)
{
	STATE;

	stack_moved_by(t, g_stack_invlpg, g_stack_invlpg_end);
	assert_int_equal(invvpid(t->cpu, INVVPID_ALL_CONTEXT, 0, 0), VMX_SUCCEED);
	stack_moved_by(t, g_stack_cr3, g_stack_cr3_end);
}

static void invept_and_invvpid_reach_the_stack(void **state)
{
	STATE;
	uint64_t leaf = *ept_leaf(t, 0x64000);

	for (unsigned k = 0; k < 2; k++) {
		set_up_stack(t, RW);
		PUT_AT(t, GPA_CODE + 0x1000, g_stack_then_exit);
		assert_int_equal(go(t), EXIT_REASON_HLT);
		if (k) {
			guest64(t, GPA_PT)[STACK_PAGE >> 12] = 0x65000 | RW;
			assert_int_equal(invvpid(t->cpu, INVVPID_INDIVIDUAL_ADDRESS, 1, STACK_PAGE), VMX_SUCCEED);
		} else {
			*ept_leaf(t, 0x64000) = *ept_leaf(t, 0x65000);
			assert_int_equal(invept(t->cpu, INVEPT_SINGLE_CONTEXT, R(t, EPT_POINTER)), VMX_SUCCEED);
		}
		W(GUEST_RIP, GPA_CODE + 0x1001);
		assert_int_equal(go(t), EXIT_REASON_HLT);
		assert_int_equal(*guest64(t, 0x65ff0), 0xabcd);
		*ept_leaf(t, 0x64000) = leaf;
		assert_int_equal(invept(t->cpu, INVEPT_SINGLE_CONTEXT, R(t, EPT_POINTER)), VMX_SUCCEED);
	}
}

static void page_fault_reaches_the_stack(void **state)
{
	STATE;

	set_up_stack(t, RW);
	PUT_AT(t, GPA_CODE + 0x1000, g_stack_then_exit);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	guest64(t, GPA_PT)[STACK_PAGE >> 12] = 0;
	reg(t)[RDI] = STACK_PAGE;
	PUT_AT(t, GPA_CODE + 0x2000, v_load);
	W(GUEST_RIP, GPA_CODE + 0x2000);
	expect_fault(t, X86_TRAP_PF);
	W(GUEST_RIP, GPA_CODE + 0x1001);
	expect_fault(t, X86_TRAP_PF);
	assert_int_equal(R(t, EXIT_QUALIFICATION), STACK_PAGE + 0xff0);
}

/* A supervisor's stack in a user's page: EFLAGS.AC decides, access by access. */
static void smap_looks_at_the_stack(void **state)
{
	STATE;

	W(GUEST_CR4, R(t, GUEST_CR4) | X86_CR4_SMAP);
	set_up_stack(t, RW | PTE_US);
	PUT_AT(t, GPA_CODE, g_stack_clac);
	expect_fault(t, X86_TRAP_PF);
	assert_int_equal(R(t, EXIT_QUALIFICATION), STACK_PAGE + 0xfe8);
	assert_int_equal(R(t, GUEST_RIP), GPA_CODE + (size_t)(g_stack_clac_end - g_stack_clac) - 2);
	assert_int_equal(*guest64(t, 0x64ff0), 0xabcd);
}

/* CR4.SMEP by VM exit and entry, with the user's page known as code. */
static void smep_looks_at_code(void **state)
{
	STATE;

	set_up_calls(t);
	map(t, FAR_PAGE, 0x60000, RW | PTE_US);
	PUT_AT(t, GPA_CODE + 0x1000, g_then_exit);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(reg(t)[RDX], 20);
	W(GUEST_CR4, R(t, GUEST_CR4) | X86_CR4_SMEP);
	W(GUEST_RIP, GPA_CODE + 0x1001);
	expect_fault(t, X86_TRAP_PF);
	assert_int_equal(R(t, EXIT_QUALIFICATION), FAR_PAGE);
}

/* Stacks in two pages, used in turns: the slot goes to and fro without C, and only to where a push is allowed. */
GUEST(g_two_stacks, "1: mov rsp,r14; push rcx; pop rdx; mov rsp,r15; push rcx; pop rsi; dec ecx; jnz 1b; hlt");

static void two_stacks_in_turns_need_no_c(void **state)
{
	STATE;
	const struct vmx_counters *c = vmx_cpu_counters(t->cpu);
	uint64_t stubs;

	PUT_AT(t, GPA_CODE, g_two_stacks);
	reg(t)[R14] = GPA_STACK;
	reg(t)[R15] = 0x29000;
	for (unsigned n = 0; n < 2; n++) {
		stubs = c->jit_stubs;
		reg(t)[RCX] = 1000;
		W(GUEST_RIP, GPA_CODE);
		assert_int_equal(go(t), EXIT_REASON_HLT);
		assert_int_equal(reg(t)[RDX], 1);
		assert_int_equal(reg(t)[RSI], 1);
		assert_int_equal(*guest64(t, 0x28ff8), 1);
	}
	assert_true(c->jit_stubs - stubs < 100);
	guest64(t, GPA_PT)[0x28] &= ~(uint64_t)PTE_RW;
	assert_int_equal(invvpid(t->cpu, INVVPID_ALL_CONTEXT, 0, 0), VMX_SUCCEED);
	reg(t)[RCX] = 1000;
	W(GUEST_RIP, GPA_CODE);
	expect_fault(t, X86_TRAP_PF);
	assert_int_equal(R(t, EXIT_QUALIFICATION), 0x28ff8);
	assert_int_equal(reg(t)[RCX], 1000);
	assert_int_equal(reg(t)[RDX], 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST_LONG(every_operand_at_every_end_of_a_page),
		TEST_LONG(loops_go_on_where_their_memory_is_back),
		TEST_LONG(code_that_vanishes_is_an_error_or_goes_on),
		TEST_LONG(pending_x87_exception_comes_before_its_operands_page),
		TEST_LONG(invalidations_by_the_guest_reach_code),
		TEST_LONG(every_type_of_invpcid_reaches_code),
		TEST_LONG(invept_reaches_code),
		TEST_LONG(page_fault_reaches_code),
		TEST_LONG(invalidations_by_the_guest_reach_the_stack),
		TEST_LONG(invept_and_invvpid_reach_the_stack),
		TEST_LONG(page_fault_reaches_the_stack),
		TEST_LONG(smap_looks_at_the_stack),
		TEST_LONG(smep_looks_at_code),
		TEST_LONG(two_stacks_in_turns_need_no_c),
	};

	return TRANSLATOR_TESTS(tests);
}
