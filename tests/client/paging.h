/*
 * A guest with paging, an IDT, a GDT and a TSS, in any of the four paging
 * shapes, put together by the client. The first 2 MiB are mapped one to one,
 * page by page, user and writable; tests change single entries with
 * paging_pte(). Exceptions end in stubs: vector v executes
 *
 *	pop edx (the error code, where there is one); mov ecx, cr2; out v, al
 *
 *	0x01000 code       0x03000 IDT     0x04000 GDT     0x05000 TSS
 *	0x06000 stubs      0x08000 stack of the guest, down
 *	0x09000 stack of ring 0 (TSS), down
 *	0x10000 PML4   0x11000 PDPT   0x12000 PD   0x13000 PT   0x20000 test page
 */
#ifndef TESTS_PAGING_H
#define TESTS_PAGING_H

#include "client.h"

enum paging { PAGING_32, PAGING_PAE, PAGING_LONG, PAGING_COMPAT };

#define PG_P 1u
#define PG_RW 2u
#define PG_US 4u
#define PG_A 0x20u
#define PG_D 0x40u
#define PG_PS 0x80u
#define PG_NX (1ULL << 63)
#define PG_ALL (PG_P | PG_RW | PG_US)

#define CR0_WP (1u << 16)
#define CR4_PAE (1u << 5)
#define CR4_PGE (1u << 7)
#define CR4_PCIDE (1u << 17)
#define CR4_SMEP (1u << 20)
#define CR4_SMAP (1u << 21)
#define EFER_NXE (1u << 11)

#define EFLAGS_IOPL3 0x3000u
#define EFLAGS_AC 0x40000u

#define AT_CODE 0x1000
#define AT_IDT 0x3000
#define AT_GDT 0x4000
#define AT_TSS 0x5000
#define AT_STUBS 0x6000
#define AT_TEST 0x20000

static inline void paging_pte_set(struct client *c, enum paging p, uint32_t va, uint64_t entry)
{
	if (p == PAGING_32)
		((uint32_t *)(c->mem + 0x13000))[va >> 12] = (uint32_t)entry;
	else
		((uint64_t *)(c->mem + 0x13000))[va >> 12] = entry;
}

static inline uint64_t paging_pte(struct client *c, enum paging p, uint32_t va)
{
	return p == PAGING_32 ? ((uint32_t *)(c->mem + 0x13000))[va >> 12] : ((uint64_t *)(c->mem + 0x13000))[va >> 12];
}

static inline void paging_tables(struct client *c, enum paging p)
{
	*(uint64_t *)(c->mem + 0x10000) = 0x11000 | PG_ALL;
	*(uint64_t *)(c->mem + 0x11000) = 0x12000 | (p == PAGING_PAE ? PG_P : PG_ALL);
	*(uint64_t *)(c->mem + 0x12000) = 0x13000 | PG_ALL;
	for (uint32_t va = 0; va < 2 << 20; va += 4096)
		paging_pte_set(c, p, va, va | PG_ALL);
}

/* The IDT's gates go to ring 0 stubs; vectors with an error code pop it first. */
static inline void paging_idt(struct client *c, bool wide)
{
	for (uint32_t v = 0; v < 0x40; v++) {
		bool code = v == 8 || (v >= 10 && v <= 14) || v == 17;
		uint32_t at = AT_STUBS + v * 16;
		uint8_t *stub = c->mem + at;
		uint64_t gate = (at & 0xffff) | 0x080000 | 0xee0000000000ULL; /* selector 8, present, DPL 3 */

		if (code)
			*stub++ = 0x5a;
		memcpy(stub, "\x0f\x20\xd1\xe6", 4);
		stub[4] = (uint8_t)v;
		if (wide) {
			((uint64_t *)(c->mem + AT_IDT))[2 * v] = gate;
			((uint64_t *)(c->mem + AT_IDT))[2 * v + 1] = 0;
		} else {
			((uint64_t *)(c->mem + AT_IDT))[v] = gate;
		}
	}
}

static inline struct kvm_segment paging_segment(uint16_t selector, uint8_t type, unsigned dpl, bool wide)
{
	return (struct kvm_segment){
		.limit = ~0u, .selector = (uint16_t)(selector | dpl), .type = type, .present = 1, .dpl = (uint8_t)dpl,
		.s = 1, .g = 1, .db = !wide, .l = wide,
	};
}

/* Everything KVM_GET_SUPPORTED_CPUID offers. */
static inline void client_all_cpuid(struct client *c)
{
	struct {
		struct kvm_cpuid2 h;
		struct kvm_cpuid_entry2 e[256];
	} cpuid = {.h.nent = 256};

	assert_int_equal(ioctl(c->kvm, KVM_GET_SUPPORTED_CPUID, &cpuid), 0);
	assert_int_equal(ioctl(c->vcpu, KVM_SET_CPUID2, &cpuid), 0);
}

enum cpuid_register { CPUID_EAX, CPUID_EBX, CPUID_ECX, CPUID_EDX };

/* A bit of subleaf 0 of what the vCPU's CPUID (KVM_SET_CPUID2) offers. */
static inline bool client_cpuid_bit(struct client *c, uint32_t function, enum cpuid_register reg, int bit)
{
	struct {
		struct kvm_cpuid2 h;
		struct kvm_cpuid_entry2 e[256];
	} cpuid = {.h.nent = 256};

	assert_int_equal(ioctl(c->vcpu, KVM_GET_CPUID2, &cpuid), 0);
	for (uint32_t i = 0; i < cpuid.h.nent; i++)
		if (cpuid.e[i].function == function && cpuid.e[i].index == 0)
			return (&cpuid.e[i].eax)[reg] >> bit & 1;
	return false;
}

/* Start at AT_CODE with privilege level `cpl`; the extra bits of CR0, CR4 and EFER as given. */
static inline void paging_start(struct client *c, enum paging p, unsigned cpl, uint64_t cr0, uint64_t cr4, uint64_t efer)
{
	bool wide = p == PAGING_LONG || p == PAGING_COMPAT;
	uint64_t *gdt = (uint64_t *)(c->mem + AT_GDT);
	struct kvm_sregs s;
	struct kvm_regs r = {.rip = AT_CODE, .rsp = 0x8000, .rsi = AT_TEST, .rflags = 2 | EFLAGS_IOPL3};

	client_all_cpuid(c);
	paging_tables(c, p);
	paging_idt(c, wide);
	gdt[1] = wide ? 0x00af9b000000ffff : 0x00cf9b000000ffff;
	gdt[2] = 0x00cf93000000ffff;
	gdt[3] = p == PAGING_LONG ? 0x00affb000000ffff : 0x00cffb000000ffff;
	gdt[4] = 0x00cff3000000ffff;
	gdt[5] = 0x0000890000000000 | AT_TSS << 16 | 0x67;
	gdt[6] = 0;
	memset(c->mem + AT_TSS, 0, 0x100);
	if (wide) {
		*(uint32_t *)(c->mem + AT_TSS + 4) = 0x9000;
	} else {
		*(uint32_t *)(c->mem + AT_TSS + 4) = 0x9000;
		*(uint32_t *)(c->mem + AT_TSS + 8) = 0x10;
	}
	*(uint16_t *)(c->mem + AT_TSS + 0x66) = 0x68;

	assert_int_equal(ioctl(c->vcpu, KVM_GET_SREGS, &s), 0);
	s.cs = paging_segment(cpl ? 0x18 : 0x08, 11, cpl, p == PAGING_LONG);
	s.ds = s.es = s.fs = s.gs = s.ss = paging_segment(cpl ? 0x20 : 0x10, 3, cpl, false);
	s.tr = (struct kvm_segment){.base = AT_TSS, .limit = 0x67, .selector = 0x28, .type = 11, .present = 1};
	s.gdt.base = AT_GDT;
	s.gdt.limit = 7 * 8 - 1;
	s.idt.base = AT_IDT;
	s.idt.limit = 0x3ff;
	s.cr3 = wide ? 0x10000 : p == PAGING_PAE ? 0x11000 : 0x12000;
	s.cr4 = cr4 | (p == PAGING_32 ? 0 : CR4_PAE);
	s.efer = efer | (wide ? 0x500 : 0);
	s.cr0 = 0x80000031 | cr0;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_SREGS, &s), 0);
	assert_int_equal(ioctl(c->vcpu, KVM_SET_REGS, &r), 0);
}

/* Run until the guest's next OUT and give the port. */
static inline int client_next_out(struct client *c)
{
	assert_run_exits(c, KVM_EXIT_IO);
	assert_int_equal(c->run->io.direction, KVM_EXIT_IO_OUT);
	return c->run->io.port;
}

#endif
