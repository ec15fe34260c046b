/*
 * The guest of `userkvm walkthrough --nested`: a hypervisor, L1, of some 20 instructions,
 * with one guest of its own, L2, on EPT tables of its own, EPT12.
 *
 *   0x01000  L1    0x02000  L2    0x03000  page tables of both: 2 MiB, one to one
 *   0x06000  GDT, TSS    0x08000  the VMXON region    0x09000  vmcs12
 *   0x0a000  what L1 writes into vmcs12: pairs of field and value, made here
 *   0x0c000  EPT12, four tables: 512 pages one to one, but for the one at 11000h
 *   0x10000  data    0x11000  data that EPT12 does not map: L1 does when L2 has asked
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "sdm/regs.h"
#include "sdm/vmcs_fields.h"
#include "sdm/vmx.h"
#include "tools/trace/guest_vm.h"
#include "tools/trace/walk.h"
#include "userkvm/userkvm.h"

#define MEMORY_BYTES 0x20000u
#define L1_GPA       0x1000u
#define L2_GPA       0x2000u
#define TABLES_GPA   0x3000u
#define GDT_GPA      0x6000u
#define TSS_GPA      0x6800u
#define VMXON_GPA    0x8000u
#define VMCS_GPA     0x9000u
#define FIELDS_GPA   0xa000u
#define EPT_GPA      0xc000u
#define L1_STACK     0x7ff0u
#define L2_STACK     0x77f0u

#define ENTRY_PRESENT 3u /* and writable */
#define ENTRY_LARGE   (1u << 7)
#define EPT_ALL       7u
#define EPT_WB        (6u << 3)
#define UNMAPPED_PAGE 0x11u

#define MSR_FEATURE_CONTROL 0x3a
#define MSR_VMX(n)          (0x480u + (n))

extern const uint8_t walk_l1[], walk_l1_exit[], walk_l1_end[], walk_l2[], walk_l2_end[];
__asm__(".pushsection .rodata\n"
	"walk_l1:	vmxon 0xbff0\n"		  /* where VMXON_GPA stands */
	"	vmclear 0xbff8\n"		  /* and VMCS_GPA */
	"	vmptrld 0xbff8\n"
	"	mov $0xa000, %esi\n"		  /* FIELDS_GPA */
	"1:	lodsq\n"
	"	mov %rax, %rdx\n"
	"	lodsq\n"
	"	vmwrite %rax, %rdx\n"
	"	cmpl $0, (%rsi)\n"
	"	jne 1b\n"
	"	vmlaunch\n"
	"	hlt\n"				  /* it failed */
	"walk_l1_exit:	mov $0x4402, %edx\n"	  /* VM_EXIT_REASON */
	"	vmread %rdx, %rax\n"
	"	cmp $48, %al\n"			  /* EPT violation */
	"	jne 2f\n"
	"	movq $0x11037, 0xf088\n"	  /* EPT12 maps 11000h now */
	"	vmresume\n"
	"2:	hlt\n"
	"walk_l1_end:\n"
	"walk_l2:	mov 0x10000, %eax\n"	  /* L0 completes EPT02, L1 hears nothing */
	"	mov 0x11000, %eax\n"		  /* L1 has to */
	"	vmcall\n"			  /* and good-bye */
	"walk_l2_end:\n"
	"	.popsection\n");

struct guest {
	struct walk_vm v;
	uint8_t *memory;
	uint64_t *field; /* where the next pair goes */
};

static uint64_t *at(const struct guest *g, uint32_t gpa)
{
	return (uint64_t *)(void *)(g->memory + gpa);
}

/* 0 where there is none. */
static uint64_t msr(const struct guest *g, uint32_t index)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} m = {.head.nmsrs = 1, .entry.index = index};

	return userkvm_ioctl(g->v.vcpu, KVM_GET_MSRS, (uintptr_t)&m) == 1 ? m.entry.data : 0;
}

static int set_msr(const struct guest *g, uint32_t index, uint64_t value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} m = {.head.nmsrs = 1, .entry = {.index = index, .data = value}};

	return userkvm_ioctl(g->v.vcpu, KVM_SET_MSRS, (uintptr_t)&m) == 1 ? 0 : -1;
}

static void field(struct guest *g, uint64_t encoding, uint64_t value)
{
	*g->field++ = encoding;
	*g->field++ = value;
}

/* A control word: what has to be 1, and `more`. */
static void control(struct guest *g, uint64_t encoding, unsigned capability, uint64_t more)
{
	field(g, encoding, (uint32_t)msr(g, MSR_VMX(capability)) | more);
}

static void make_tables(struct guest *g)
{
	static const uint64_t gdt[] = {0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0, 0x00008b0000000067 | (uint64_t)TSS_GPA << 16, 0};

	memcpy(g->memory + L1_GPA, walk_l1, (size_t)(walk_l1_end - walk_l1));
	memcpy(g->memory + L2_GPA, walk_l2, (size_t)(walk_l2_end - walk_l2));
	memcpy(g->memory + GDT_GPA, gdt, sizeof(gdt));
	*at(g, TABLES_GPA) = (TABLES_GPA + 0x1000) | ENTRY_PRESENT;
	*at(g, TABLES_GPA + 0x1000) = (TABLES_GPA + 0x2000) | ENTRY_PRESENT;
	*at(g, TABLES_GPA + 0x2000) = ENTRY_LARGE | ENTRY_PRESENT;
	*at(g, EPT_GPA) = (EPT_GPA + 0x1000) | EPT_ALL;
	*at(g, EPT_GPA + 0x1000) = (EPT_GPA + 0x2000) | EPT_ALL;
	*at(g, EPT_GPA + 0x2000) = (EPT_GPA + 0x3000) | EPT_ALL;
	for (uint64_t page = 0; page < 512; page++)
		at(g, EPT_GPA + 0x3000)[page] = page == UNMAPPED_PAGE ? 0 : page << 12 | EPT_ALL | EPT_WB;
	*at(g, VMXON_GPA) = *at(g, VMCS_GPA) = (uint32_t)msr(g, MSR_VMX(0));
	*at(g, 0xbff0) = VMXON_GPA;
	*at(g, 0xbff8) = VMCS_GPA;
}

/* L2 runs as L1 does: the same tables, the same segments. */
static void make_fields(struct guest *g, const struct kvm_sregs *s)
{
	static const struct {
		uint32_t encoding;
		uint64_t value;
	} fixed[] = {
		{VMCS_LINK_POINTER, ~0ULL}, {EPT_POINTER, EPT_GPA | 3u << 3 | 6},
		{GUEST_CS_SELECTOR, 8}, {GUEST_CS_LIMIT, 0xffffffff}, {GUEST_CS_AR_BYTES, 0xa09b},
		{GUEST_SS_SELECTOR, 16}, {GUEST_SS_LIMIT, 0xffffffff}, {GUEST_SS_AR_BYTES, 0xc093},
		{GUEST_DS_SELECTOR, 16}, {GUEST_DS_LIMIT, 0xffffffff}, {GUEST_DS_AR_BYTES, 0xc093},
		{GUEST_ES_SELECTOR, 16}, {GUEST_ES_LIMIT, 0xffffffff}, {GUEST_ES_AR_BYTES, 0xc093},
		{GUEST_FS_AR_BYTES, 0x10000}, {GUEST_GS_AR_BYTES, 0x10000}, {GUEST_LDTR_AR_BYTES, 0x10000},
		{GUEST_TR_SELECTOR, 32}, {GUEST_TR_BASE, TSS_GPA}, {GUEST_TR_LIMIT, 0x67}, {GUEST_TR_AR_BYTES, 0x8b},
		{GUEST_GDTR_BASE, GDT_GPA}, {GUEST_GDTR_LIMIT, 0x2f}, {GUEST_CR3, TABLES_GPA}, {GUEST_RSP, L2_STACK},
		{GUEST_RIP, L2_GPA}, {GUEST_RFLAGS, 2}, {GUEST_DR7, 0x400},
		{HOST_CS_SELECTOR, 8}, {HOST_SS_SELECTOR, 16}, {HOST_DS_SELECTOR, 16}, {HOST_ES_SELECTOR, 16},
		{HOST_TR_SELECTOR, 32}, {HOST_TR_BASE, TSS_GPA}, {HOST_GDTR_BASE, GDT_GPA}, {HOST_CR3, TABLES_GPA},
		{HOST_RSP, L1_STACK},
	};

	g->field = at(g, FIELDS_GPA);
	control(g, PIN_BASED_VM_EXEC_CONTROL, 13, 0);
	control(g, CPU_BASED_VM_EXEC_CONTROL, 14, CPU_BASED_ACTIVATE_SECONDARY_CONTROLS);
	field(g, SECONDARY_VM_EXEC_CONTROL, SECONDARY_EXEC_ENABLE_EPT);
	control(g, VM_EXIT_CONTROLS, 15, VM_EXIT_HOST_ADDR_SPACE_SIZE);
	control(g, VM_ENTRY_CONTROLS, 16, VM_ENTRY_IA32E_MODE);
	for (size_t i = 0; i < sizeof(fixed) / sizeof(fixed[0]); i++)
		field(g, fixed[i].encoding, fixed[i].value);
	field(g, GUEST_CR0, s->cr0);
	field(g, GUEST_CR4, s->cr4);
	field(g, HOST_CR0, s->cr0);
	field(g, HOST_CR4, s->cr4);
	field(g, HOST_RIP, L1_GPA + (uint64_t)(walk_l1_exit - walk_l1));
	field(g, 0, 0);
}

static struct kvm_segment segment(uint8_t type, uint16_t selector, bool code)
{
	return (struct kvm_segment){.limit = 0xffffffff, .selector = selector, .type = type, .present = 1, .s = 1, .g = 1,
	                            .l = code, .db = !code};
}

static int set_state(struct guest *g)
{
	struct kvm_regs regs = {.rip = L1_GPA, .rflags = 2, .rsp = L1_STACK};
	struct kvm_sregs s;

	if (userkvm_ioctl(g->v.vcpu, KVM_GET_SREGS, (uintptr_t)&s))
		return -1;
	s.cs = segment(0xb, 8, true);
	s.ds = s.es = s.ss = s.fs = s.gs = segment(3, 16, false);
	s.tr = (struct kvm_segment){.base = TSS_GPA, .limit = 0x67, .selector = 32, .type = 11, .present = 1};
	s.gdt = (struct kvm_dtable){.base = GDT_GPA, .limit = 0x2f};
	s.efer = EFER_LME | EFER_LMA;
	s.cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_ET | X86_CR0_NE;
	s.cr4 = X86_CR4_PAE | X86_CR4_VMXE;
	s.cr3 = TABLES_GPA;
	make_tables(g);
	make_fields(g, &s);
	if (userkvm_ioctl(g->v.vcpu, KVM_SET_SREGS, (uintptr_t)&s) ||
	    set_msr(g, MSR_FEATURE_CONTROL, 5)) /* locked, VMX */
		return -1;
	return userkvm_ioctl(g->v.vcpu, KVM_SET_REGS, (uintptr_t)&regs);
}

/* All that is supported. -1: VMX is not among it. */
static int set_cpuid(const struct guest *g)
{
	enum { ENTRIES = 256 };
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + ENTRIES * sizeof(c->entries[0]));
	bool vmx = false;
	int r = -1;

	if (!c)
		return -1;
	c->nent = ENTRIES;
	if (!userkvm_ioctl(g->v.kvm, KVM_GET_SUPPORTED_CPUID, (uintptr_t)c))
		r = userkvm_ioctl(g->v.vcpu, KVM_SET_CPUID2, (uintptr_t)c);
	for (uint32_t i = 0; i < c->nent && !r; i++)
		vmx |= c->entries[i].function == 1 && c->entries[i].ecx & 1u << 5;
	free(c);
	if (!r && !vmx) {
		errno = EOPNOTSUPP; /* nested=0 */
		return -1;
	}
	return r;
}

int walk_guest_nested(int argc, char **argv)
{
	struct kvm_userspace_memory_region slot = {.memory_size = MEMORY_BYTES};
	struct guest g = {.v.name = "hypervisor"};
	const char *what;

	what = walk_vm_open(&g.v);
	if (what)
		return walk_vm_failed(&g.v, what);
	g.memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (g.memory == MAP_FAILED)
		return walk_vm_failed(&g.v, "memory");
	slot.userspace_addr = (uintptr_t)g.memory;
	if (userkvm_ioctl(g.v.vm, KVM_SET_USER_MEMORY_REGION, (uintptr_t)&slot))
		return walk_vm_failed(&g.v, "KVM_SET_USER_MEMORY_REGION");
	what = walk_vm_add_vcpu(&g.v);
	if (what)
		return walk_vm_failed(&g.v, what);
	if (set_cpuid(&g))
		return walk_vm_failed(&g.v, "VMX in CPUID");
	what = walk_vm_map_run(&g.v);
	if (what)
		return walk_vm_failed(&g.v, what);
	if (set_state(&g))
		return walk_vm_failed(&g.v, "the state of L1");
	if (userkvm_ioctl(g.v.vcpu, KVM_RUN, 0))
		return walk_vm_failed(&g.v, "KVM_RUN");
	errno = EPROTO;
	if (g.v.run->exit_reason != KVM_EXIT_HLT || at(&g, EPT_GPA + 0x3000)[UNMAPPED_PAGE] == 0)
		return walk_vm_failed(&g.v, "L1's end");
	walk_vm_close(&g.v);
	return 0;
}
