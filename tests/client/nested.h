/*
 * An L1 that does what it is told: each VMX instruction stands alone in L1's memory,
 * followed by OUT, and a test has it executed by setting RIP and two registers. So a
 * test is a table of instructions, operands and outcomes, with no code of its own.
 *
 *	0x01000 snippets      0x01800 HOST_RIP      0x20000 memory operand
 *	0x30000 VMXON region  0x31000 VMCS  0x32000 another  0x33000 shadow VMCS
 *	0x40000 L2's code     0x42000 MSR bitmap  0x43000, 0x44000 I/O bitmaps
 *	0x45000 MSR areas     0x46000 VMREAD, VMWRITE bitmaps   0x48000 L2's stack, down
 *
 * Long mode, CPL 0, the first 2 MiB one to one (paging.h). Needs nested=1.
 */
#ifndef TESTS_NESTED_H
#define TESTS_NESTED_H

#include <stdlib.h>

#include "../../src/sdm/exit_reasons.h"
#include "../../src/sdm/vmcs_fields.h"
#include "paging.h"

#define AT_HOST_RIP 0x1800
#define AT_VMXON 0x30000
#define AT_VMCS 0x31000
#define AT_VMCS2 0x32000
#define AT_SHADOW 0x33000
#define AT_L2 0x40000
#define AT_MSR_BITMAP 0x42000
#define AT_IO_A 0x43000
#define AT_IO_B 0x44000
#define AT_MSR_AREA 0x45000
#define AT_VMX_BITMAPS 0x46000
#define AT_L2_STACK 0x49000
#define AT_EPT 0x50000

#define PORT_DONE 0xf0
#define PORT_EXIT 0xf1

#define NESTED_REVISION 0x11e57ed0u
#define CR4_VMXE (1u << 13)
#define CR0_NE (1u << 5)
#define MSR_FEATURE_CONTROL 0x3a
#define MSR_VMX(n) (0x480 + (n))

/* F(name, bytes): RAX points to the operand or is the field, RBX is the value. */
#define SNIPPETS(F)                                        \
	F(VMXON, 0xf3, 0x0f, 0xc7, 0x30)                   \
	F(VMXOFF, 0x0f, 0x01, 0xc4)                        \
	F(VMCLEAR, 0x66, 0x0f, 0xc7, 0x30)                 \
	F(VMPTRLD, 0x0f, 0xc7, 0x30)                       \
	F(VMPTRST, 0x0f, 0xc7, 0x38)                       \
	F(VMREAD, 0x0f, 0x78, 0xc3)                        \
	F(VMWRITE, 0x0f, 0x79, 0xc3)                       \
	F(VMREAD_MEM, 0x0f, 0x78, 0x03) /* [rbx] */        \
	F(VMWRITE_MEM, 0x0f, 0x79, 0x03)                   \
	F(VMLAUNCH, 0x0f, 0x01, 0xc2)                      \
	F(VMRESUME, 0x0f, 0x01, 0xc3)                      \
	F(INVEPT, 0x66, 0x0f, 0x38, 0x80, 0x03) /* type rax, [rbx] */ \
	F(INVVPID, 0x66, 0x0f, 0x38, 0x81, 0x03)           \
	F(VMFUNC, 0x0f, 0x01, 0xd4)                        \
	F(VMLAUNCH_MOV_SS, 0x8e, 0xd0, 0x0f, 0x01, 0xc2)   \
	F(STORE, 0x48, 0x89, 0x18) /* mov [rax], rbx */    \
	F(STORE_STRING, 0x48, 0x89, 0xc7, 0x48, 0x89, 0xd8, 0xb9, 1, 0, 0, 0, 0xf3, 0x48, 0xab) /* rep stosq, once */ \
	F(LOAD, 0x48, 0x8b, 0x18)                          \
	F(RDMSR, 0x89, 0xc1, 0x0f, 0x32, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0, 0x48, 0x89, 0xc3) /* MSR eax into rbx */
enum snippet {
#define SNIPPET_ENUM(name, ...) name,
	SNIPPETS(SNIPPET_ENUM)
#undef SNIPPET_ENUM
	NR_SNIPPETS
};

struct outcome {
	int port; /* PORT_DONE, PORT_EXIT, or the vector of an exception */
	uint64_t rflags, rbx, error_code;
};

#define FLAG_CF 1u
#define FLAG_ZF 0x40u
#define ARITHMETIC 0x8d5u

static inline uint64_t *nested_operand(struct client *c)
{
	return (uint64_t *)(c->mem + AT_TEST);
}

/* L2's registers as L1 finds them, of the last exit. */
static struct kvm_regs nested_at_exit;

static inline struct outcome nested_run(struct client *c)
{
	struct outcome o = {0};
	struct kvm_regs r;

	assert_run_exits(c, KVM_EXIT_IO);
	r = client_regs(c);
	o.port = c->run->io.port;
	if (o.port == PORT_EXIT)
		nested_at_exit = r;
	o.rflags = r.rflags;
	o.rbx = r.rbx;
	o.error_code = r.rdx;
	return o;
}

/* Execute one snippet in L1 at CPL 0. */
static inline struct outcome nested_do(struct client *c, enum snippet s, uint64_t rax, uint64_t rbx)
{
	struct kvm_regs r = {.rip = AT_CODE + 32 * (uint64_t)s, .rsp = 0x8000, .rflags = 2 | ARITHMETIC, .rax = rax, .rbx = rbx};

	assert_int_equal(ioctl(c->vcpu, KVM_SET_REGS, &r), 0);
	return nested_run(c);
}

#define assert_succeeds(o)                                             \
	do {                                                           \
		struct outcome o_ = (o);                               \
		assert_int_equal(o_.port, PORT_DONE);                  \
		assert_int_equal(o_.rflags & ARITHMETIC, 0);           \
	} while (0)
#define assert_vmfail_invalid(o)                                       \
	do {                                                           \
		struct outcome o_ = (o);                               \
		assert_int_equal(o_.port, PORT_DONE);                  \
		assert_int_equal(o_.rflags & ARITHMETIC, FLAG_CF);     \
	} while (0)
#define assert_raises(o, vector) assert_int_equal((o).port, (vector))

static inline struct outcome nested_ptr(struct client *c, enum snippet s, uint64_t pointer)
{
	*nested_operand(c) = pointer;
	return nested_do(c, s, AT_TEST, 0);
}

static inline uint64_t nested_vmread(struct client *c, uint64_t field)
{
	struct outcome o = nested_do(c, VMREAD, field, 0);

	assert_int_equal(o.rflags & ARITHMETIC, 0);
	return o.rbx;
}

static inline void nested_vmwrite(struct client *c, uint64_t field, uint64_t value)
{
	assert_succeeds(nested_do(c, VMWRITE, field, value));
}

#define assert_vmfail(c, o, error)                                     \
	do {                                                           \
		struct outcome o_ = (o);                               \
		assert_int_equal(o_.port, PORT_DONE);                  \
		assert_int_equal(o_.rflags & ARITHMETIC, FLAG_ZF);     \
		assert_int_equal(nested_vmread(c, VM_INSTRUCTION_ERROR), (error)); \
	} while (0)

/* False: a kernel's KVM, which the same programs run on. */
static inline bool on_userkvm(void)
{
	const char *preload = getenv("LD_PRELOAD");

	return preload && strstr(preload, "userkvm");
}

static bool nested_irqchip; /* the VM has interrupt controllers of KVM's */

/* False: VMX is not offered, the test has nothing to do. */
static inline bool nested_open(struct client *c)
{
	static const struct {
		uint8_t len, bytes[16];
	} code[] = {
#define SNIPPET_BYTES(name, ...) {sizeof((uint8_t[]){__VA_ARGS__}), {__VA_ARGS__}},
		SNIPPETS(SNIPPET_BYTES)
#undef SNIPPET_BYTES
	};

	client_open_vm(c, 4 << 20);
	if (nested_irqchip)
		assert_int_equal(ioctl(c->vm, KVM_CREATE_IRQCHIP, 0), 0);
	client_add_vcpu(c);
	client_all_cpuid(c);
	if (!client_cpuid_bit(c, 1, CPUID_ECX, 5)) {
		client_close(c);
		return false;
	}
	paging_start(c, PAGING_LONG, 0, CR0_NE, CR4_VMXE, 0);
	for (unsigned i = 0; i < NR_SNIPPETS; i++) {
		uint8_t *at = c->mem + AT_CODE + 32 * i;

		memcpy(at, code[i].bytes, code[i].len);
		at[code[i].len] = 0xe6;
		at[code[i].len + 1] = PORT_DONE;
	}
	memcpy(c->mem + AT_HOST_RIP, "\xe6\xf1", 2);
	*(uint32_t *)(c->mem + AT_VMXON) = NESTED_REVISION;
	*(uint32_t *)(c->mem + AT_VMCS) = NESTED_REVISION;
	*(uint32_t *)(c->mem + AT_VMCS2) = NESTED_REVISION;
	*(uint32_t *)(c->mem + AT_SHADOW) = NESTED_REVISION | 1u << 31;
	client_set_msr(c, MSR_FEATURE_CONTROL, 5);
	return true;
}

/* In VMX operation, with a clear current VMCS. */
static inline bool nested_open_vmcs(struct client *c)
{
	if (!nested_open(c))
		return false;
	assert_succeeds(nested_ptr(c, VMXON, AT_VMXON));
	assert_succeeds(nested_ptr(c, VMCLEAR, AT_VMCS));
	assert_succeeds(nested_ptr(c, VMPTRLD, AT_VMCS));
	return true;
}

#define NESTED_TEST(name, open)                        \
	static void name##_body(struct client *c);     \
	static void name(void **state)                 \
	{                                              \
		struct client c;                       \
		if (!open(&c))                         \
			skip();                        \
		name##_body(&c);                       \
		client_close(&c);                      \
	}                                              \
	static void name##_body(struct client *c)

/* --- an L2 --- */

#define SECONDARY_ON (1u << 31)
#define EXIT_HOST_64 (1u << 9)
#define ENTRY_IA32E (1u << 9)

/* The control word as the capability MSR demands it, and `more`. */
static inline uint32_t nested_control(struct client *c, unsigned msr, uint32_t more)
{
	return (uint32_t)client_msr(c, MSR_VMX(msr)) | more;
}

/* A 64-bit L2 in L1's own address space, which runs what is at AT_L2. VM entry succeeds with it. */
static inline void nested_fill_vmcs(struct client *c)
{
	static const struct {
		uint32_t field;
		uint64_t value;
	} fixed[] = {
		{VMCS_LINK_POINTER, ~0ULL}, {GUEST_CS_SELECTOR, 8}, {GUEST_CS_LIMIT, ~0u}, {GUEST_CS_AR_BYTES, 0xa09b},
		{GUEST_SS_SELECTOR, 16}, {GUEST_SS_LIMIT, ~0u}, {GUEST_SS_AR_BYTES, 0xc093},
		{GUEST_DS_SELECTOR, 16}, {GUEST_DS_LIMIT, ~0u}, {GUEST_DS_AR_BYTES, 0xc093},
		{GUEST_ES_SELECTOR, 16}, {GUEST_ES_LIMIT, ~0u}, {GUEST_ES_AR_BYTES, 0xc093},
		{GUEST_FS_AR_BYTES, 0x10000}, {GUEST_GS_AR_BYTES, 0x10000}, {GUEST_LDTR_AR_BYTES, 0x10000},
		{GUEST_TR_SELECTOR, 40}, {GUEST_TR_BASE, AT_TSS}, {GUEST_TR_LIMIT, 0x67}, {GUEST_TR_AR_BYTES, 0x8b},
		{GUEST_GDTR_BASE, AT_GDT}, {GUEST_GDTR_LIMIT, 0x37}, {GUEST_IDTR_BASE, AT_IDT}, {GUEST_IDTR_LIMIT, 0x3ff},
		{GUEST_CR3, 0x10000}, {GUEST_RSP, AT_L2_STACK}, {GUEST_RIP, AT_L2}, {GUEST_RFLAGS, 2}, {GUEST_DR7, 0x400},
		{HOST_CS_SELECTOR, 8}, {HOST_SS_SELECTOR, 16}, {HOST_DS_SELECTOR, 16}, {HOST_ES_SELECTOR, 16},
		{HOST_TR_SELECTOR, 40}, {HOST_TR_BASE, AT_TSS}, {HOST_GDTR_BASE, AT_GDT}, {HOST_IDTR_BASE, AT_IDT},
		{HOST_CR3, 0x10000}, {HOST_RSP, 0x8000}, {HOST_RIP, AT_HOST_RIP},
	};
	struct kvm_sregs s;

	assert_int_equal(ioctl(c->vcpu, KVM_GET_SREGS, &s), 0);
	for (size_t i = 0; i < sizeof(fixed) / sizeof(*fixed); i++)
		nested_vmwrite(c, fixed[i].field, fixed[i].value);
	nested_vmwrite(c, GUEST_CR0, s.cr0);
	nested_vmwrite(c, GUEST_CR4, s.cr4);
	nested_vmwrite(c, HOST_CR0, s.cr0);
	nested_vmwrite(c, HOST_CR4, s.cr4);
	nested_vmwrite(c, PIN_BASED_VM_EXEC_CONTROL, nested_control(c, 13, 0));
	nested_vmwrite(c, CPU_BASED_VM_EXEC_CONTROL, nested_control(c, 14, SECONDARY_ON));
	nested_vmwrite(c, SECONDARY_VM_EXEC_CONTROL, 0);
	nested_vmwrite(c, VM_EXIT_CONTROLS, nested_control(c, 15, EXIT_HOST_64));
	nested_vmwrite(c, VM_ENTRY_CONTROLS, nested_control(c, 16, ENTRY_IA32E));
}

static inline void nested_fresh_vmcs(struct client *c)
{
	memset(c->mem + AT_VMCS + 12, 0, 4096 - 12);
	assert_succeeds(nested_ptr(c, VMCLEAR, AT_VMCS));
	memset(c->mem + AT_VMCS + 12, 0, 4096 - 12); /* what VMCLEAR wrote back */
	assert_succeeds(nested_ptr(c, VMPTRLD, AT_VMCS));
	nested_fill_vmcs(c);
}

static inline bool nested_open_l2(struct client *c)
{
	if (!nested_open_vmcs(c))
		return false;
	nested_fill_vmcs(c);
	return true;
}

static inline void nested_l2_code(struct client *c, const void *code, size_t n)
{
	memcpy(c->mem + AT_L2, code, n);
}

static inline void nested_set_bits(struct client *c, uint32_t field, uint64_t bits)
{
	nested_vmwrite(c, field, nested_vmread(c, field) | bits);
}

/* VMLAUNCH or VMRESUME; L2 runs until it exits to L1. The exit reason. */
static inline uint64_t nested_enter(struct client *c, enum snippet how)
{
	struct outcome o = nested_do(c, how, 0, 0);

	assert_int_equal(o.port, PORT_EXIT);
	return nested_vmread(c, VM_EXIT_REASON);
}

/* The other vCPU, in VMX operation with an L2 without EPT. */
static inline struct client nested_second_vcpu(struct client *c)
{
	struct client o = *c;

	o.vcpu = ioctl(c->vm, KVM_CREATE_VCPU, 1);
	assert_true(o.vcpu >= 0);
	o.run = mmap(NULL, o.run_size, PROT_READ | PROT_WRITE, MAP_SHARED, o.vcpu, 0);
	assert_true(o.run != MAP_FAILED);
	paging_start(&o, PAGING_LONG, 0, CR0_NE, CR4_VMXE, 0);
	client_set_msr(&o, MSR_FEATURE_CONTROL, 5);
	*(uint32_t *)(o.mem + AT_VMXON + 0x5000) = NESTED_REVISION;
	assert_succeeds(nested_ptr(&o, VMXON, AT_VMXON + 0x5000));
	assert_succeeds(nested_ptr(&o, VMCLEAR, AT_VMCS2));
	assert_succeeds(nested_ptr(&o, VMPTRLD, AT_VMCS2));
	nested_fill_vmcs(&o);
	return o;
}

#endif
