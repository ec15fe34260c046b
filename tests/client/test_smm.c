/*
 * System management mode as a client and its guest see it: entry state, the
 * state-save area of both layouts, RSM, what an SMI waits for and what waits
 * for its end, address space 1, state saved and restored in SMM.
 */
#include "guest_code.h"
#include "paging.h"
#include "smp.h"
#include "state.h"

#define SMBASE 0x100000u
#define SMRAM_SIZE 0x10000u
#define HANDLER 0x8000u
#define SAVE_AREA(off) (HANDLER + (off)) /* manuals count from SMBASE + 8000h */
#define MSR_SMBASE 0x9e

struct smm {
	struct client c;
	uint8_t *smram; /* of address space 1, at SMBASE; address space 0 has other memory there */
};

static struct kvm_sregs get_sregs(struct client *c)
{
	struct kvm_sregs s;

	assert_int_equal(ioctl(c->vcpu, KVM_GET_SREGS, &s), 0);
	return s;
}

static struct kvm_vcpu_events get_events(struct client *c)
{
	struct kvm_vcpu_events e;

	assert_int_equal(ioctl(c->vcpu, KVM_GET_VCPU_EVENTS, &e), 0);
	return e;
}

/* Address space 1 is address space 0 with SMRAM over it. */
static void add_smram(struct smm *s, const uint8_t *handler, size_t n)
{
	struct client *c = &s->c;

	s->smram = mmap(NULL, SMRAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(s->smram != MAP_FAILED);
	client_slot(c, 1 << 16 | 0, 0, 0, c->mem, SMBASE);
	client_slot(c, 1 << 16 | 1, 0, SMBASE, s->smram, SMRAM_SIZE);
	client_slot(c, 1 << 16 | 2, 0, SMBASE + SMRAM_SIZE, c->mem + SMBASE + SMRAM_SIZE,
		    c->mem_size - SMBASE - SMRAM_SIZE);
	memcpy(s->smram + HANDLER, handler, n);
	client_set_msr(c, MSR_SMBASE, SMBASE);
}

static void open_smm(struct smm *s, enum paging p, const uint8_t *code, size_t n, const uint8_t *handler, size_t nh,
		     bool irqchip)
{
	client_open_vm(&s->c, 2 << 20);
	if (irqchip) {
		assert_int_equal(ioctl(s->c.vm, KVM_CREATE_IRQCHIP, 0), 0);
		assert_int_equal(ioctl(s->c.vm, KVM_CREATE_PIT2, &(struct kvm_pit_config){0}), 0);
	}
	client_add_vcpu(&s->c);
	paging_start(&s->c, p, 0, 0, 0, 0);
	memcpy(s->c.mem + AT_CODE, code, n);
	add_smram(s, handler, nh);
}

static void close_smm(struct smm *s)
{
	client_close(&s->c);
	munmap(s->smram, SMRAM_SIZE);
}

#define OPEN(s, p, code, handler) \
	open_smm(s, p, code, GUEST_CODE_SIZE(code), handler, GUEST_CODE_SIZE(handler), false)
#define OPEN_IRQCHIP(s, p, code, handler) \
	open_smm(s, p, code, GUEST_CODE_SIZE(code), handler, GUEST_CODE_SIZE(handler), true)

static void send_smi(struct smm *s)
{
	assert_int_equal(ioctl(s->c.vcpu, KVM_SMI, 0), 0);
}

static uint64_t saved(struct smm *s, unsigned off, size_t size)
{
	uint64_t v = 0;

	memcpy(&v, s->smram + SAVE_AREA(off), size);
	return v;
}

static void set_saved(struct smm *s, unsigned off, uint64_t v, size_t size)
{
	memcpy(s->smram + SAVE_AREA(off), &v, size);
}

static bool in_smm(struct smm *s)
{
	bool flag = s->c.run->flags & KVM_RUN_X86_SMM;

	assert_int_equal(get_events(&s->c).smi.smm, flag);
	return flag;
}

/* The exit after the next instruction. */
static void step(struct smm *s)
{
	struct kvm_guest_debug on = {.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP}, off = {0};

	assert_int_equal(ioctl(s->c.vcpu, KVM_SET_GUEST_DEBUG, &on), 0);
	assert_run_exits(&s->c, KVM_EXIT_DEBUG);
	assert_int_equal(ioctl(s->c.vcpu, KVM_SET_GUEST_DEBUG, &off), 0);
}

/* Once more into the guest until the OUT is behind it; it has no effect of its own. */
static void finish_out(struct smm *s)
{
	s->c.run->immediate_exit = 1;
	assert_fails(ioctl(s->c.vcpu, KVM_RUN, 0), EINTR);
	s->c.run->immediate_exit = 0;
}

GUEST_CODE(main_long, 64, "1: inc %eax; out %al, $0xe1; jmp 1b");
GUEST_CODE(main_prot, 32, "1: inc %eax; out %al, $0xe1; jmp 1b");
GUEST_CODE(out_rsm, 16, "out %al, $0xe0; rsm");
/* whatever the handler does to registers is undone */
GUEST_CODE(clobber, 16,
	   "out %al, $0xe0; movl $-1, %eax; movl %eax, %ebx; movl %eax, %ecx; movl %eax, %edx; movl %eax, %esi\n"
	   "movl %eax, %edi; movl %eax, %ebp; movl $0x9000, %esp; movw %ax, %ds; movw %ax, %es; movw %ax, %fs\n"
	   "movw %ax, %gs; sti; std; movl %eax, %cr2; xorl %eax, %eax; movl %eax, %cr3; movl %eax, %db7\n"
	   "out %al, $0xe2; rsm");

static void number_the_registers(struct smm *s)
{
	struct kvm_regs r = client_regs(&s->c);
	struct kvm_sregs sr = get_sregs(&s->c);
	struct kvm_debugregs d;

	r.rax = 0x1111111111111111, r.rbx = 0x2222222222222222, r.rcx = 0x3333333333333333, r.rdx = 0x4444444444444444;
	r.rsi = 0x5555555555555555, r.rdi = 0x6666666666666666, r.rbp = 0x7777777777777777, r.r8 = 0x8888888888888888;
	r.r9 = 0x9999999999999999, r.r10 = 0xaaaaaaaaaaaaaaaa, r.r11 = 0xbbbbbbbbbbbbbbbb, r.r12 = 0xcccccccccccccccc;
	r.r13 = 0xdddddddddddddddd, r.r14 = 0xeeeeeeeeeeeeeeee, r.r15 = 0x123456789abcdef0;
	r.rflags |= 0x8d5; /* OF SF ZF AF PF CF */
	assert_int_equal(ioctl(s->c.vcpu, KVM_SET_REGS, &r), 0);
	sr.fs.base = 0x123000;
	sr.gs.base = 0x456000;
	sr.gs.limit = 0xfff;
	sr.gs.g = 0;
	sr.ldt.unusable = 1;
	sr.ldt.present = 0;
	assert_int_equal(ioctl(s->c.vcpu, KVM_SET_SREGS, &sr), 0);
	assert_int_equal(ioctl(s->c.vcpu, KVM_GET_DEBUGREGS, &d), 0);
	d.dr7 = 0x455; /* the handler has none of these breakpoints */
	d.db[0] = 0x1234;
	assert_int_equal(ioctl(s->c.vcpu, KVM_SET_DEBUGREGS, &d), 0);
}

static void smi_enters_real_mode_at_smbase_plus_8000h(void **state)
{
	struct smm s;
	struct kvm_sregs sr;
	struct kvm_debugregs d;
	uint64_t cr0;

	OPEN(&s, PAGING_LONG, main_long, out_rsm);
	number_the_registers(&s);
	cr0 = get_sregs(&s.c).cr0;
	send_smi(&s);
	assert_int_equal(client_next_out(&s.c), 0xe0);
	assert_true(in_smm(&s));
	finish_out(&s);
	sr = get_sregs(&s.c);
	assert_int_equal(client_regs(&s.c).rip, HANDLER + 2);
	assert_int_equal(client_regs(&s.c).rflags & ~0x10000ULL, 2); /* RF is the exit's */
	assert_int_equal(sr.cs.base, SMBASE);
	assert_int_equal(sr.cs.selector, (SMBASE >> 4) & 0xffff);
	assert_int_equal(sr.cs.limit, ~0u);
	assert_int_equal(sr.ds.base, 0);
	assert_int_equal(sr.ds.selector, 0);
	assert_int_equal(sr.ds.limit, ~0u);
	assert_int_equal(sr.ss.limit, ~0u);
	assert_int_equal(sr.gs.base, 0);
	/* PE, EM, TS and PG are cleared, the rest stays */
	assert_int_equal(sr.cr0, cr0 & ~0x8000000dULL);
	assert_int_equal(sr.cr4, 0);
	assert_int_equal(sr.efer, 0);
	assert_int_equal(sr.idt.base, 0);
	assert_int_equal(sr.idt.limit, 0);
	assert_int_equal(ioctl(s.c.vcpu, KVM_GET_DEBUGREGS, &d), 0);
	assert_int_equal(d.dr7, 0x400);
	assert_int_equal(get_events(&s.c).nmi.masked, 1);
	assert_int_equal(get_events(&s.c).smi.pending, 0);
	assert_int_equal(client_msr(&s.c, 0x34), 1); /* SMI count */
	close_smm(&s);
}

static void save_area_of_a_64_bit_processor(void **state)
{
	struct smm s;
	struct kvm_sregs sr;

	OPEN(&s, PAGING_LONG, main_long, out_rsm);
	number_the_registers(&s);
	sr = get_sregs(&s.c);
	memset(s.c.mem + SMBASE, 0x5a, SMRAM_SIZE);
	send_smi(&s);
	assert_int_equal(client_next_out(&s.c), 0xe0);
	assert_int_equal(saved(&s, 0x7efc, 4), 0x20064);
	assert_int_equal(saved(&s, 0x7f00, 4), SMBASE);
	assert_int_equal(saved(&s, 0x7ff8, 8), 0x1111111111111111);
	assert_int_equal(saved(&s, 0x7ff0, 8), 0x3333333333333333);
	assert_int_equal(saved(&s, 0x7fe8, 8), 0x4444444444444444);
	assert_int_equal(saved(&s, 0x7fe0, 8), 0x2222222222222222);
	assert_int_equal(saved(&s, 0x7fd8, 8), 0x8000);
	assert_int_equal(saved(&s, 0x7fd0, 8), 0x7777777777777777);
	assert_int_equal(saved(&s, 0x7fc8, 8), 0x5555555555555555);
	assert_int_equal(saved(&s, 0x7fc0, 8), 0x6666666666666666);
	for (unsigned i = 8; i < 15; i++)
		assert_int_equal(saved(&s, 0x7ff8 - 8 * i, 8), i * 0x1111111111111111ULL);
	assert_int_equal(saved(&s, 0x7f80, 8), 0x123456789abcdef0);
	assert_int_equal(saved(&s, 0x7f78, 8), AT_CODE);
	assert_int_equal(saved(&s, 0x7f70, 4), 0x38d7);
	assert_int_equal(saved(&s, 0x7f60, 8), 0x455);
	assert_int_equal(saved(&s, 0x7f58, 8), sr.cr0);
	assert_int_equal(saved(&s, 0x7f50, 8), sr.cr3);
	assert_int_equal(saved(&s, 0x7f48, 8), sr.cr4);
	assert_int_equal(saved(&s, 0x7ed0, 8), 0x500);
	assert_int_equal(saved(&s, 0x7e64, 2), 55);
	assert_int_equal(saved(&s, 0x7e68, 8), AT_GDT);
	assert_int_equal(saved(&s, 0x7e84, 2), 0x3ff);
	assert_int_equal(saved(&s, 0x7e88, 8), AT_IDT);
	/* CS: selector; G L P S, type 11; limit; base */
	assert_int_equal(saved(&s, 0x7e10, 2), 8);
	assert_int_equal(saved(&s, 0x7e12, 2), 0xa09b);
	assert_int_equal(saved(&s, 0x7e14, 4), ~0u);
	assert_int_equal(saved(&s, 0x7e48, 8), 0x123000);
	assert_int_equal(saved(&s, 0x7e54, 4), 0xfff);
	assert_int_equal(saved(&s, 0x7e52, 2) & 0x8000, 0);
	assert_int_equal(saved(&s, 0x7e58, 8), 0x456000);
	assert_int_equal(saved(&s, 0x7e90, 2), 0x28);
	assert_int_equal(saved(&s, 0x7e92, 2), 0x8b);
	assert_int_equal(saved(&s, 0x7e98, 8), AT_TSS);
	assert_int_equal(saved(&s, 0x7e72, 2) & 0x80, 0); /* LDTR not present */
	/* nothing of it in address space 0 */
	for (unsigned i = 0; i < SMRAM_SIZE; i++)
		assert_int_equal(s.c.mem[SMBASE + i], 0x5a);
	close_smm(&s);
}

/* All leaves, without the bit. */
static void cpuid_without(struct client *c, uint32_t function, uint32_t edx_bit)
{
	struct {
		struct kvm_cpuid2 h;
		struct kvm_cpuid_entry2 e[256];
	} cpuid = {.h.nent = 256};

	assert_int_equal(ioctl(c->kvm, KVM_GET_SUPPORTED_CPUID, &cpuid), 0);
	for (uint32_t i = 0; i < cpuid.h.nent; i++)
		if (cpuid.e[i].function == function)
			cpuid.e[i].edx &= ~(1u << edx_bit);
	assert_int_equal(ioctl(c->vcpu, KVM_SET_CPUID2, &cpuid), 0);
}

static void save_area_of_a_32_bit_processor(void **state)
{
	struct smm s;
	struct kvm_sregs sr;
	struct kvm_regs r;

	OPEN(&s, PAGING_32, main_prot, out_rsm);
	cpuid_without(&s.c, 0x80000001, 29);
	number_the_registers(&s);
	sr = get_sregs(&s.c);
	r = client_regs(&s.c);
	send_smi(&s);
	assert_int_equal(client_next_out(&s.c), 0xe0);
	assert_int_equal(saved(&s, 0x7efc, 4), 0x20000);
	assert_int_equal(saved(&s, 0x7ef8, 4), SMBASE);
	assert_int_equal(saved(&s, 0x7ffc, 4), sr.cr0);
	assert_int_equal(saved(&s, 0x7ff8, 4), sr.cr3);
	assert_int_equal(saved(&s, 0x7f14, 4), sr.cr4);
	assert_int_equal(saved(&s, 0x7ff4, 4), r.rflags);
	assert_int_equal(saved(&s, 0x7ff0, 4), AT_CODE);
	assert_int_equal(saved(&s, 0x7fec, 4), 0x66666666);
	assert_int_equal(saved(&s, 0x7fe8, 4), 0x55555555);
	assert_int_equal(saved(&s, 0x7fe4, 4), 0x77777777);
	assert_int_equal(saved(&s, 0x7fe0, 4), 0x8000);
	assert_int_equal(saved(&s, 0x7fdc, 4), 0x22222222);
	assert_int_equal(saved(&s, 0x7fd8, 4), 0x44444444);
	assert_int_equal(saved(&s, 0x7fd4, 4), 0x33333333);
	assert_int_equal(saved(&s, 0x7fd0, 4), 0x11111111);
	assert_int_equal(saved(&s, 0x7fc8, 4), 0x455);
	/* CS at 7f90, selector at 7fac: G D P S, type 11 */
	assert_int_equal(saved(&s, 0x7fac, 4), 8);
	assert_int_equal(saved(&s, 0x7f90, 4), 0xc09b00);
	assert_int_equal(saved(&s, 0x7f94, 4), ~0u);
	assert_int_equal(saved(&s, 0x7fa8, 4), 0x10);
	assert_int_equal(saved(&s, 0x7fb0, 4), 0x10);
	assert_int_equal(saved(&s, 0x7f40, 4), 0x123000);
	assert_int_equal(saved(&s, 0x7f4c, 4), 0x456000);
	assert_int_equal(saved(&s, 0x7fc4, 4), 0x28);
	assert_int_equal(saved(&s, 0x7f64, 4), AT_TSS);
	assert_int_equal(saved(&s, 0x7f74, 4), AT_GDT);
	assert_int_equal(saved(&s, 0x7f70, 2), 55);
	assert_int_equal(saved(&s, 0x7f58, 4), AT_IDT);
	assert_int_equal(saved(&s, 0x7f54, 2), 0x3ff);
	finish_out(&s);
	step(&s);
	assert_int_equal(client_regs(&s.c).rip, AT_CODE);
	assert_int_equal(get_sregs(&s.c).cr0, sr.cr0);
	assert_int_equal(get_sregs(&s.c).gs.limit, 0xfff);
	close_smm(&s);
}

/* In one mode: all registers, whatever the handler made of them. */
static void rsm_restores(enum paging p, const uint8_t *code, size_t n)
{
	struct smm s;
	struct kvm_regs r, now;
	struct kvm_sregs sr, snow;
	struct kvm_debugregs d, dnow;

	open_smm(&s, p, code, n, clobber, GUEST_CODE_SIZE(clobber), false);
	number_the_registers(&s);
	r = client_regs(&s.c);
	sr = get_sregs(&s.c);
	assert_int_equal(ioctl(s.c.vcpu, KVM_GET_DEBUGREGS, &d), 0);
	send_smi(&s);
	assert_int_equal(client_next_out(&s.c), 0xe0);
	assert_int_equal(client_next_out(&s.c), 0xe2);
	finish_out(&s);
	step(&s);
	assert_false(in_smm(&s));
	now = client_regs(&s.c);
	snow = get_sregs(&s.c);
	assert_int_equal(ioctl(s.c.vcpu, KVM_GET_DEBUGREGS, &dnow), 0);
	assert_memory_equal(&r, &now, sizeof(r));
	sr.cr2 = snow.cr2; /* is not in the area */
	assert_memory_equal(&sr, &snow, sizeof(sr));
	assert_int_equal(dnow.dr7, d.dr7);
	assert_int_equal(get_events(&s.c).nmi.masked, 0);
	close_smm(&s);
}

static void rsm_returns_to_every_mode(void **state)
{
	rsm_restores(PAGING_LONG, main_long, GUEST_CODE_SIZE(main_long));
	rsm_restores(PAGING_COMPAT, main_prot, GUEST_CODE_SIZE(main_prot));
	rsm_restores(PAGING_PAE, main_prot, GUEST_CODE_SIZE(main_prot));
	rsm_restores(PAGING_32, main_prot, GUEST_CODE_SIZE(main_prot));
}

static void rsm_loads_what_the_handler_wrote(void **state)
{
	struct smm s;

	OPEN(&s, PAGING_LONG, main_long, out_rsm);
	send_smi(&s);
	assert_int_equal(client_next_out(&s.c), 0xe0);
	set_saved(&s, 0x7ff8, 0x77, 8);
	set_saved(&s, 0x7f00, SMBASE + 0x2000, 4);
	assert_int_equal(client_next_out(&s.c), 0xe1);
	assert_int_equal(client_regs(&s.c).rax, 0x78);
	assert_int_equal(client_msr(&s.c, MSR_SMBASE), SMBASE + 0x2000);
	/* and the next SMI goes there */
	memcpy(s.smram + 0x2000 + HANDLER, "\xe6\xe4\x0f\xaa", 4);
	send_smi(&s);
	assert_int_equal(client_next_out(&s.c), 0xe4);
	assert_int_equal(get_sregs(&s.c).cs.base, SMBASE + 0x2000);
	close_smm(&s);
}

static void rsm_of_an_impossible_state_shuts_down(void **state)
{
	static const struct {
		unsigned off;
		uint64_t value;
	} bad[] = {
		{0x7f58, 0x80000010},	      /* PG without PE */
		{0x7f58, 0x20000011},	      /* NW without CD */
		{0x7f48, 1u << 31},	      /* reserved CR4 bit */
		{0x7ed0, 1u << 20},	      /* reserved EFER bit */
		{0x7f60, 1ull << 32},	      /* DR7 */
		{0x7f50, 1ull << 60},	      /* CR3 */
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		struct smm s;

		OPEN(&s, PAGING_LONG, main_long, out_rsm);
		send_smi(&s);
		assert_int_equal(client_next_out(&s.c), 0xe0);
		set_saved(&s, bad[i].off, bad[i].value, 8);
		assert_run_exits(&s.c, KVM_EXIT_SHUTDOWN);
		assert_false(in_smm(&s));
		close_smm(&s);
	}
}

GUEST_CODE(rsm_long, 64, "rsm");

static void rsm_outside_smm_is_an_invalid_opcode(void **state)
{
	struct smm s;

	OPEN(&s, PAGING_LONG, rsm_long, out_rsm);
	assert_int_equal(client_next_out(&s.c), 6);
	assert_int_equal(client_regs(&s.c).rip, AT_STUBS + 6 * 16 + 3);
	assert_false(in_smm(&s));
	close_smm(&s);
}

GUEST_CODE(ud2_handler, 16, "lidtl %cs:0x8010; ud2; .zero 7; .word 0x3ff; .long 0");

static void other_invalid_opcodes_in_smm_are_the_handlers_own(void **state)
{
	struct smm s;

	OPEN(&s, PAGING_LONG, main_long, ud2_handler);
	/* real-mode vector 6 to 0:7000h */
	memcpy(s.c.mem + 6 * 4, "\x00\x70\x00\x00", 4);
	memcpy(s.c.mem + 0x7000, "\xe6\xe6", 2);
	send_smi(&s);
	assert_int_equal(client_next_out(&s.c), 0xe6);
	assert_true(in_smm(&s));
	close_smm(&s);
}

static void smi_in_smm_waits_for_rsm(void **state)
{
	struct smm s;
	uint64_t rip;

	OPEN(&s, PAGING_LONG, main_long, out_rsm);
	assert_int_equal(client_next_out(&s.c), 0xe1);
	send_smi(&s);
	assert_int_equal(client_next_out(&s.c), 0xe0);
	rip = saved(&s, 0x7f78, 8);
	send_smi(&s);
	assert_int_equal(get_events(&s.c).smi.pending, 1);
	finish_out(&s);
	assert_int_equal(get_events(&s.c).smi.pending, 1);
	/* the second comes before one instruction of the guest has run */
	assert_int_equal(client_next_out(&s.c), 0xe0);
	assert_int_equal(saved(&s, 0x7f78, 8), rip);
	assert_int_equal(client_msr(&s.c, 0x34), 2);
	assert_int_equal(get_events(&s.c).smi.pending, 0);
	assert_int_equal(client_next_out(&s.c), 0xe1);
	close_smm(&s);
}

static void nmi_in_smm_waits_for_rsm(void **state)
{
	struct smm s;

	OPEN(&s, PAGING_LONG, main_long, out_rsm);
	send_smi(&s);
	assert_int_equal(client_next_out(&s.c), 0xe0);
	assert_int_equal(ioctl(s.c.vcpu, KVM_NMI, 0), 0);
	finish_out(&s);
	assert_int_equal(get_events(&s.c).nmi.pending, 1);
	assert_int_equal(client_next_out(&s.c), 2); /* the guest's vector 2, not the handler's */
	assert_false(in_smm(&s));
	close_smm(&s);
}

static void nmi_blocked_before_the_smi_is_blocked_after_rsm(void **state)
{
	struct smm s;
	struct kvm_vcpu_events e;

	OPEN(&s, PAGING_LONG, main_long, out_rsm);
	e = get_events(&s.c);
	e.nmi.masked = 1;
	assert_int_equal(ioctl(s.c.vcpu, KVM_SET_VCPU_EVENTS, &e), 0);
	send_smi(&s);
	assert_int_equal(client_next_out(&s.c), 0xe0);
	assert_int_equal(get_events(&s.c).smi.smm_inside_nmi, 1);
	assert_int_equal(ioctl(s.c.vcpu, KVM_NMI, 0), 0);
	assert_int_equal(client_next_out(&s.c), 0xe1);
	e = get_events(&s.c);
	assert_int_equal(e.nmi.masked, 1);
	assert_int_equal(e.nmi.pending, 1);
	assert_int_equal(e.smi.smm_inside_nmi, 0);
	close_smm(&s);
}

static void smi_comes_after_the_event_on_its_way_and_before_its_handler(void **state)
{
	struct smm s;
	struct kvm_vcpu_events e;

	OPEN(&s, PAGING_LONG, main_long, out_rsm);
	e = get_events(&s.c);
	e.exception.injected = 1;
	e.exception.nr = 3;
	assert_int_equal(ioctl(s.c.vcpu, KVM_SET_VCPU_EVENTS, &e), 0);
	send_smi(&s);
	assert_int_equal(client_next_out(&s.c), 0xe0);
	assert_int_equal(saved(&s, 0x7f78, 8), AT_STUBS + 3 * 16);
	assert_int_equal(client_next_out(&s.c), 3);
	close_smm(&s);
}

static void interrupt_shadow_is_kept_across_smm(void **state)
{
	struct smm s;
	struct kvm_vcpu_events e;

	OPEN(&s, PAGING_LONG, main_long, out_rsm);
	e = get_events(&s.c);
	e.interrupt.shadow = KVM_X86_SHADOW_INT_MOV_SS;
	e.flags |= KVM_VCPUEVENT_VALID_SHADOW;
	assert_int_equal(ioctl(s.c.vcpu, KVM_SET_VCPU_EVENTS, &e), 0);
	send_smi(&s);
	assert_int_equal(client_next_out(&s.c), 0xe0);
	assert_int_equal(get_events(&s.c).interrupt.shadow, 0);
	finish_out(&s);
	step(&s);
	assert_int_equal(get_events(&s.c).interrupt.shadow, KVM_X86_SHADOW_INT_MOV_SS);
	close_smm(&s);
}

GUEST_CODE(read_smram, 64, "1: movl 0x100000, %eax; out %al, $0xe1; jmp 1b");
GUEST_CODE(read_in_smm, 16, "movl $0x100000, %ebx; movl (%ebx), %eax; incl 4(%ebx); out %al, $0xe0; rsm");

static void smm_sees_address_space_1(void **state)
{
	struct smm s;

	OPEN(&s, PAGING_LONG, read_smram, read_in_smm);
	memcpy(s.c.mem + SMBASE, "\x10\x00\x00\x00\x00\x00\x00\x00", 8);
	memcpy(s.smram, "\x20\x00\x00\x00\x00\x00\x00\x00", 8);
	for (unsigned i = 1; i < 50; i++) {
		assert_int_equal(client_next_out(&s.c), 0xe1);
		assert_int_equal(client_regs(&s.c).rax, 0x10);
		send_smi(&s);
		assert_int_equal(client_next_out(&s.c), 0xe0);
		assert_int_equal(client_regs(&s.c).rax & 0xff, 0x20);
		assert_int_equal(s.smram[4], i);
		assert_int_equal(s.c.mem[SMBASE + 4], 0);
	}
	close_smm(&s);
}

static void smi_ends_hlt(void **state)
{
	struct smm s;
	struct kvm_mp_state mp = {KVM_MP_STATE_HALTED};

	OPEN_IRQCHIP(&s, PAGING_LONG, main_long, out_rsm);
	assert_int_equal(ioctl(s.c.vcpu, KVM_SET_MP_STATE, &mp), 0);
	send_smi(&s);
	assert_int_equal(client_next_out(&s.c), 0xe0);
	assert_int_equal(client_next_out(&s.c), 0xe1);
	close_smm(&s);
}

GUEST_CODE(hlt_then_out, 16, "out %al, $0xe3; hlt; out %al, $0xe1");
GUEST_CODE(count_rsm, 16, "incl %cs:0; rsm");

/* The vCPU sleeps in KVM_RUN on another thread. Until it has been woken it is sent SMIs. */
static void smi_from_another_thread_wakes_a_halted_vcpu(void **state)
{
	struct smp v;
	struct smm s;
	struct timespec wait = {.tv_nsec = 1000000};
	struct kvm_msi smi = {.address_lo = 0xfee00000, .data = 0x200}; /* delivery mode SMI, APIC 0 */
	volatile uint32_t *count;
	bool ended = false;

	smp_open(&v, 1, 2 << 20, true);
	s.c = smp_client(&v, 0);
	client_real_mode(&s.c, 0x1000, hlt_then_out, GUEST_CODE_SIZE(hlt_then_out));
	add_smram(&s, count_rsm, GUEST_CODE_SIZE(count_rsm));
	count = (volatile uint32_t *)s.smram;
	assert_int_equal(client_next_out(&s.c), 0xe3);
	smp_start(&v, 0, 1);
	while (!ended) {
		/* KVM_SMI waits for the vCPU's owner: an IPI by MSI does not */
		assert_int_equal(ioctl(s.c.vm, KVM_SIGNAL_MSI, &smi), 1);
		nanosleep(&wait, NULL);
		ended = pthread_tryjoin_np(v.cpu[0].thread, NULL) == 0;
	}
	assert_int_equal(v.cpu[0].reason, KVM_EXIT_IO);
	assert_int_equal(s.c.run->io.port, 0xe1);
	assert_true(*count > 0);
	smp_close(&v);
	munmap(s.smram, SMRAM_SIZE);
}

/* Pin 5 of the IOAPIC: delivery mode SMI, to APIC 0. */
static void ioapic_delivers_smis(void **state)
{
	struct smm s;
	struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};
	struct kvm_irq_level line = {.irq = 5, .level = 1};

	OPEN_IRQCHIP(&s, PAGING_LONG, main_long, out_rsm);
	assert_int_equal(ioctl(s.c.vm, KVM_GET_IRQCHIP, &chip), 0);
	memset(&chip.chip.ioapic.redirtbl[5], 0, sizeof(chip.chip.ioapic.redirtbl[5]));
	chip.chip.ioapic.redirtbl[5].fields.delivery_mode = 2;
	assert_int_equal(ioctl(s.c.vm, KVM_SET_IRQCHIP, &chip), 0);
	assert_int_equal(client_next_out(&s.c), 0xe1);
	assert_int_equal(ioctl(s.c.vm, KVM_IRQ_LINE, &line), 0);
	assert_int_equal(client_next_out(&s.c), 0xe0);
	assert_true(in_smm(&s));
	close_smm(&s);
}

/* The APIC's page is at guest-physical FEE00000h: SMI to self by ICR, in real mode with big segments. */
GUEST_CODE(self_smi, 32, "movl $0x40200, 0xfee00300; 1: out %al, $0xe1; jmp 1b");

static void local_apic_sends_smis(void **state)
{
	struct smm s;

	client_open_vm(&s.c, 2 << 20);
	assert_int_equal(ioctl(s.c.vm, KVM_CREATE_IRQCHIP, 0), 0);
	client_add_vcpu(&s.c);
	client_all_cpuid(&s.c);
	client_flat_mode(&s.c, AT_CODE, self_smi, GUEST_CODE_SIZE(self_smi));
	add_smram(&s, out_rsm, GUEST_CODE_SIZE(out_rsm));
	assert_int_equal(client_next_out(&s.c), 0xe0);
	assert_int_equal(saved(&s, 0x7f78, 8), AT_CODE + 10);
	assert_int_equal(client_next_out(&s.c), 0xe1);
	close_smm(&s);
}

static void init_in_smm_waits_for_rsm(void **state)
{
	struct smm s;
	struct kvm_vcpu_events e;
	uint8_t *rom = mmap(NULL, 0x1000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	OPEN_IRQCHIP(&s, PAGING_LONG, main_long, out_rsm);
	memcpy(rom + 0xff0, "\xe6\xe7", 2);
	client_slot(&s.c, 5, 0, 0xfffff000, rom, 0x1000);
	send_smi(&s);
	assert_int_equal(client_next_out(&s.c), 0xe0);
	e = get_events(&s.c);
	assert_int_equal(e.smi.latched_init, 0);
	e.smi.latched_init = 1;
	assert_int_equal(ioctl(s.c.vcpu, KVM_SET_VCPU_EVENTS, &e), 0);
	finish_out(&s);
	assert_true(in_smm(&s));
	assert_int_equal(get_events(&s.c).smi.latched_init, 1);
	assert_int_equal(client_next_out(&s.c), 0xe7); /* from the reset vector */
	assert_false(in_smm(&s));
	assert_int_equal(get_events(&s.c).smi.latched_init, 0);
	assert_int_equal(client_msr(&s.c, MSR_SMBASE), SMBASE); /* INIT leaves it */
	close_smm(&s);
	munmap(rom, 0x1000);
}

/* To a new VM in the middle of the handler, and the handler returns there. */
static void state_saved_in_smm_goes_on_elsewhere(void **state)
{
	static struct vm_state a, b;
	struct smm s, t;

	OPEN_IRQCHIP(&s, PAGING_LONG, main_long, out_rsm);
	number_the_registers(&s);
	send_smi(&s);
	assert_int_equal(client_next_out(&s.c), 0xe0);
	send_smi(&s); /* one is waiting, too */
	finish_out(&s);
	state_save(&s.c, &a);
	OPEN_IRQCHIP(&t, PAGING_LONG, main_long, out_rsm);
	memcpy(t.c.mem, s.c.mem, s.c.mem_size);
	memcpy(t.smram, s.smram, SMRAM_SIZE);
	state_restore(&t.c, &a);
	state_save(&t.c, &b);
	state_compare(&a, &b);
	assert_int_equal(b.events.smi.smm, 1);
	assert_int_equal(b.events.smi.pending, 1);
	assert_int_equal(client_next_out(&t.c), 0xe0);
	assert_int_equal(client_next_out(&t.c), 0xe1);
	assert_int_equal(client_regs(&t.c).r15, 0x123456789abcdef0);
	assert_int_equal(client_regs(&t.c).rax, 0x11111112);
	close_smm(&s);
	close_smm(&t);
}

GUEST_CODE(read_smbase, 64, "mov $0x9e, %ecx; rdmsr; out %al, $0xe1");

static void smbase_is_the_clients_alone(void **state)
{
	struct smm s;

	OPEN(&s, PAGING_LONG, read_smbase, out_rsm);
	assert_int_equal(client_next_out(&s.c), 13);
	close_smm(&s);
	client_open_vm(&s.c, 2 << 20);
	client_add_vcpu(&s.c);
	assert_int_equal(client_msr(&s.c, MSR_SMBASE), 0x30000);
	assert_int_equal(ioctl(s.c.kvm, KVM_CHECK_EXTENSION, KVM_CAP_X86_SMM), 1);
	client_close(&s.c);
}

static void events_that_contradict_each_other_are_refused(void **state)
{
	struct smm s;
	struct kvm_mp_state mp = {KVM_MP_STATE_INIT_RECEIVED};
	struct kvm_vcpu_events e;

	OPEN_IRQCHIP(&s, PAGING_LONG, main_long, out_rsm);
	assert_int_equal(ioctl(s.c.vcpu, KVM_SET_MP_STATE, &mp), 0);
	e = get_events(&s.c);
	e.smi.smm = 1;
	assert_fails(ioctl(s.c.vcpu, KVM_SET_VCPU_EVENTS, &e), EINVAL);
	e.smi.smm = 0;
	e.smi.pending = 1;
	assert_fails(ioctl(s.c.vcpu, KVM_SET_VCPU_EVENTS, &e), EINVAL);
	assert_int_equal(get_events(&s.c).smi.pending, 0);
	mp.mp_state = KVM_MP_STATE_RUNNABLE;
	assert_int_equal(ioctl(s.c.vcpu, KVM_SET_MP_STATE, &mp), 0);
	assert_int_equal(ioctl(s.c.vcpu, KVM_SET_VCPU_EVENTS, &e), 0);
	mp.mp_state = KVM_MP_STATE_INIT_RECEIVED;
	assert_fails(ioctl(s.c.vcpu, KVM_SET_MP_STATE, &mp), EINVAL);
	assert_int_equal(client_next_out(&s.c), 0xe0); /* the SMI of the events */
	close_smm(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(smi_enters_real_mode_at_smbase_plus_8000h),
		cmocka_unit_test(save_area_of_a_64_bit_processor),
		cmocka_unit_test(save_area_of_a_32_bit_processor),
		cmocka_unit_test(rsm_returns_to_every_mode),
		cmocka_unit_test(rsm_loads_what_the_handler_wrote),
		cmocka_unit_test(rsm_of_an_impossible_state_shuts_down),
		cmocka_unit_test(rsm_outside_smm_is_an_invalid_opcode),
		cmocka_unit_test(other_invalid_opcodes_in_smm_are_the_handlers_own),
		cmocka_unit_test(smi_in_smm_waits_for_rsm),
		cmocka_unit_test(nmi_in_smm_waits_for_rsm),
		cmocka_unit_test(nmi_blocked_before_the_smi_is_blocked_after_rsm),
		cmocka_unit_test(smi_comes_after_the_event_on_its_way_and_before_its_handler),
		cmocka_unit_test(interrupt_shadow_is_kept_across_smm),
		cmocka_unit_test(smm_sees_address_space_1),
		cmocka_unit_test(smi_ends_hlt),
		cmocka_unit_test(smi_from_another_thread_wakes_a_halted_vcpu),
		cmocka_unit_test(ioapic_delivers_smis),
		cmocka_unit_test(local_apic_sends_smis),
		cmocka_unit_test(init_in_smm_waits_for_rsm),
		cmocka_unit_test(state_saved_in_smm_goes_on_elsewhere),
		cmocka_unit_test(smbase_is_the_clients_alone),
		cmocka_unit_test(events_that_contradict_each_other_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
