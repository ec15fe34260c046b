/*
 * An L1 with its L2 in the middle of its work goes from one KVM to another as a file, as a client would move it:
 * memory, registers, KVM_GET_NESTED_STATE. The file is of Linux's interface alone, so that one side may be a kernel's KVM.
 *
 *	test_client_nested_move            saves and loads here
 *	test_client_nested_move save FILE  stops L2 behind its first OUT and writes FILE
 *	test_client_nested_move load FILE  lets it go on: L2, its EPT12 and all fields of vmcs12 are what they were
 */
#include <stdlib.h>
#include <string.h>

#include "nested_ept.h"
#include "nested_saved.h"

#define MEMORY (4u << 20)
#define NO_PAGE 0x90 /* L2's page that EPT12 does not have */

static const struct {
	uint32_t field;
	const char *name;
} fields[] = {
#define FIELD_ROW(name, encoding) {encoding, #name},
	VMCS_FIELDS(FIELD_ROW)
#undef FIELD_ROW
};
#define NR_FIELDS (sizeof(fields) / sizeof(*fields))

struct image {
	char magic[8];
	struct nested_saved vcpu;
	uint64_t value[NR_FIELDS]; /* as L1 read them before its VMLAUNCH */
	uint8_t known[NR_FIELDS], page[MEMORY / 4096];
};
#define MAGIC "nested1"

/* out 55h, al; inc rbx; mov [61000h], rbx; out 56h, al; cpuid; mov [90000h], rbx */
static const uint8_t l2_code[] = {0xe6, 0x55, 0x48, 0xff, 0xc3, 0x48, 0x89, 0x1c, 0x25, 0, 0x10, 6, 0, 0xe6, 0x56, 0x0f, 0xa2,
				  0x48, 0x89, 0x1c, 0x25, 0, 0, 9, 0};
#define CPUID_AT (AT_L2 + 15)

/* Values that tell one field from another, where any value is one. */
static void fill_distinct(struct client *c)
{
	static const uint32_t any[] = {HOST_FS_BASE, HOST_GS_BASE, HOST_IA32_SYSENTER_ESP, HOST_IA32_SYSENTER_EIP, HOST_IA32_SYSENTER_CS,
				       GUEST_FS_BASE, GUEST_GS_BASE, GUEST_SYSENTER_ESP, GUEST_SYSENTER_EIP, GUEST_SYSENTER_CS,
				       GUEST_LDTR_BASE, GUEST_ES_BASE, GUEST_DS_BASE, TSC_OFFSET, EXCEPTION_BITMAP,
				       PAGE_FAULT_ERROR_CODE_MASK, PAGE_FAULT_ERROR_CODE_MATCH, VM_ENTRY_EXCEPTION_ERROR_CODE,
				       VM_ENTRY_INSTRUCTION_LEN, GUEST_IA32_PAT, HOST_IA32_PAT, GUEST_LDTR_SELECTOR};

	for (unsigned i = 0; i < sizeof(any) / sizeof(*any); i++)
		nested_vmwrite(c, any[i], 0x10 * (i + 1));
	nested_vmwrite(c, GUEST_LDTR_SELECTOR, 0);
}

static bool launch(struct client *c, struct image *m)
{
	if (!nested_open_ept(c))
		return false;
	nested_l2_code(c, l2_code, sizeof(l2_code));
	nested_vmwrite(c, CPU_BASED_VM_EXEC_CONTROL, nested_vmread(c, CPU_BASED_VM_EXEC_CONTROL) & ~(3ULL << 24));
	fill_distinct(c);
	ept_level1(c)[NO_PAGE] = 0;
	for (size_t i = 0; i < NR_FIELDS; i++) {
		struct outcome o = nested_do(c, VMREAD, fields[i].field, 0);

		m->known[i] = !(o.rflags & ARITHMETIC);
		m->value[i] = o.rbx;
	}
	assert_int_equal(nested_do(c, VMLAUNCH, 0, 41).port, 0x55);
	nested_out_is_over(c);
	return true;
}

/* False: there is no VMX. */
static bool save(FILE *out)
{
	static struct image m;
	struct client c;

	memset(&m, 0, sizeof(m));
	if (!launch(&c, &m))
		return false;
	memcpy(m.magic, MAGIC, sizeof(m.magic));
	nested_save(&c, &m.vcpu);
	assert_int_equal(m.vcpu.nested.head.flags & KVM_STATE_NESTED_GUEST_MODE, KVM_STATE_NESTED_GUEST_MODE);
	for (unsigned p = 0; p < MEMORY / 4096; p++)
		for (unsigned i = 0; i < 4096; i++)
			m.page[p] |= c.mem[p * 4096 + i] != 0;
	assert_int_equal(fwrite(&m, sizeof(m), 1, out), 1);
	for (unsigned p = 0; p < MEMORY / 4096; p++)
		if (m.page[p])
			assert_int_equal(fwrite(c.mem + p * 4096, 4096, 1, out), 1);
	assert_int_equal(fflush(out), 0);
	client_close(&c);
	return true;
}

/* Controls and host state are L1's alone, and so is guest state that this L2 leaves as it is. */
static bool stays(uint32_t field)
{
	switch (field) {
	case GUEST_RIP: case GUEST_RFLAGS: case GUEST_RSP: case GUEST_PENDING_DBG_EXCEPTIONS: case GUEST_INTERRUPTIBILITY_INFO:
	case GUEST_IA32_PAT: case GUEST_IA32_EFER: case GUEST_IA32_DEBUGCTL: case GUEST_DR7: case VM_ENTRY_INTR_INFO_FIELD:
	/* AR bytes of segments that are unusable are the processor's */
	case GUEST_FS_AR_BYTES: case GUEST_GS_AR_BYTES: case GUEST_LDTR_AR_BYTES:
		return false;
	default:
		return (field >> 10 & 3) != 1; /* not read-only */
	}
}

static bool load(FILE *in)
{
	static struct image m;
	struct client c;
	unsigned wrong = 0;

	assert_int_equal(fread(&m, sizeof(m), 1, in), 1);
	assert_int_equal(memcmp(m.magic, MAGIC, sizeof(m.magic)), 0);
	if (!nested_open(&c))
		return false;
	memset(c.mem, 0, MEMORY);
	for (unsigned p = 0; p < MEMORY / 4096; p++)
		if (m.page[p])
			assert_int_equal(fread(c.mem + p * 4096, 4096, 1, in), 1);
	nested_load(&c, &m.vcpu);
	assert_int_equal(nested_run(&c).port, 0x56);
	assert_int_equal(client_regs(&c).rbx, 42);
	assert_int_equal(*(uint64_t *)(c.mem + 0x61000), 42);
	assert_int_equal(nested_run(&c).port, PORT_EXIT);
	assert_int_equal(nested_vmread(&c, VM_EXIT_REASON), EXIT_REASON_CPUID);
	assert_int_equal(nested_vmread(&c, VM_EXIT_INSTRUCTION_LEN), 2);
	assert_int_equal(nested_vmread(&c, GUEST_RIP), CPUID_AT);
	for (size_t i = 0; i < NR_FIELDS; i++) {
		struct outcome o = nested_do(&c, VMREAD, fields[i].field, 0);

		if (!m.known[i] || o.rflags & ARITHMETIC || !stays(fields[i].field) || o.rbx == m.value[i])
			continue;
		print_error("%s: %#llx, was %#llx\n", fields[i].name, (unsigned long long)o.rbx, (unsigned long long)m.value[i]);
		wrong++;
	}
	assert_int_equal(wrong, 0);
	/* L1 enters again: EPT12 has not got the page that L2 writes then */
	nested_vmwrite(&c, GUEST_RIP, CPUID_AT + 2);
	assert_int_equal(nested_enter(&c, VMRESUME), EXIT_REASON_EPT_VIOLATION);
	assert_int_equal(nested_vmread(&c, GUEST_PHYSICAL_ADDRESS), NO_PAGE << 12);
	assert_int_equal(nested_vmread(&c, EXIT_QUALIFICATION), 0x182);
	client_close(&c);
	return true;
}

static const char *mode, *file;

static void an_l2_goes_on_where_its_file_is_loaded(void **state)
{
	FILE *f = file ? fopen(file, strcmp(mode, "save") ? "r" : "w") : tmpfile();

	assert_non_null(f);
	if (!mode || !strcmp(mode, "save"))
		if (!save(f))
			skip();
	if (!mode)
		rewind(f);
	if (!mode || !strcmp(mode, "load"))
		if (!load(f))
			skip();
	fclose(f);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(an_l2_goes_on_where_its_file_is_loaded)};

	if (argc == 3) {
		mode = argv[1];
		file = argv[2];
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
