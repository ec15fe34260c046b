/*
 * The guest's registers as gdb numbers and describes them: one table an architecture, in the order of target.xml
 * ("Standard Target Features", "i386 Features" in gdb's manual; the last feature is our own).
 *
 * Invariant: a register's number is its row's index in the tables that the target has, one behind the other; target.xml
 * is written from the same rows.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sdm/regs.h"
#include "tools/gdb/gdb.h"

#define CORE "org.gnu.gdb.i386.core"
#define SSE "org.gnu.gdb.i386.sse"
#define SEGMENTS "org.gnu.gdb.i386.segments"
#define SYSTEM "userkvm.i386.system"
#define AVX "org.gnu.gdb.i386.avx"
#define AVX512 "org.gnu.gdb.i386.avx512"

struct row {
	const char *name, *type;
	const char *feature; /* where it differs from the row before; else NULL */
	uint8_t size;	     /* as gdb has it */
	uint8_t stored;	     /* bytes of it in struct kvm_debugger_regs; 0: the tag word */
	uint16_t offset;
};

#define AT(field) ((uint16_t)offsetof(struct kvm_debugger_regs, field))
#define REG(name, field, size, type) { name, type, NULL, size, size, AT(field) }
#define PART(name, field, size, stored, type) { name, type, NULL, size, stored, AT(field) }
#define SEGMENT(name) PART(#name, sregs.name.selector, 4, 2, "int32")
#define ST(n) REG("st" #n, fpu.fpr[n], 10, "i387_ext")
#define XMM(n) REG("xmm" #n, fpu.xmm[n], 16, "vec128")

#define FPU_ROWS                                                                                              \
	ST(0), ST(1), ST(2), ST(3), ST(4), ST(5), ST(6), ST(7), PART("fctrl", fpu.fcw, 4, 2, "int"),          \
	PART("fstat", fpu.fsw, 4, 2, "int"), PART("ftag", fpu.ftwx, 4, 0, "int"),                             \
	{ "fiseg", "int", NULL, 4, 2, (uint16_t)(AT(fpu.last_ip) + 4) }, PART("fioff", fpu.last_ip, 4, 4, "int"), \
	{ "foseg", "int", NULL, 4, 2, (uint16_t)(AT(fpu.last_dp) + 4) }, PART("fooff", fpu.last_dp, 4, 4, "int"), \
	PART("fop", fpu.last_opcode, 4, 2, "int")
#define SEGMENT_ROWS SEGMENT(cs), SEGMENT(ss), SEGMENT(ds), SEGMENT(es), SEGMENT(fs), SEGMENT(gs)
#define XMM_0_TO_7 { "xmm0", "vec128", SSE, 16, 16, AT(fpu.xmm[0]) }, XMM(1), XMM(2), XMM(3), XMM(4), XMM(5), XMM(6), XMM(7)

static const struct row x86_64[] = {
	{ "rax", "int64", CORE, 8, 8, AT(regs.rax) }, REG("rbx", regs.rbx, 8, "int64"),
	REG("rcx", regs.rcx, 8, "int64"), REG("rdx", regs.rdx, 8, "int64"), REG("rsi", regs.rsi, 8, "int64"),
	REG("rdi", regs.rdi, 8, "int64"), REG("rbp", regs.rbp, 8, "data_ptr"), REG("rsp", regs.rsp, 8, "data_ptr"),
	REG("r8", regs.r8, 8, "int64"), REG("r9", regs.r9, 8, "int64"), REG("r10", regs.r10, 8, "int64"),
	REG("r11", regs.r11, 8, "int64"), REG("r12", regs.r12, 8, "int64"), REG("r13", regs.r13, 8, "int64"),
	REG("r14", regs.r14, 8, "int64"), REG("r15", regs.r15, 8, "int64"), REG("rip", regs.rip, 8, "code_ptr"),
	PART("eflags", regs.rflags, 4, 4, "eflags"), SEGMENT_ROWS, FPU_ROWS, XMM_0_TO_7, XMM(8), XMM(9), XMM(10), XMM(11),
	XMM(12), XMM(13), XMM(14), XMM(15), REG("mxcsr", fpu.mxcsr, 4, "int"),
	{ "fs_base", "int", SEGMENTS, 8, 8, AT(sregs.fs.base) }, REG("gs_base", sregs.gs.base, 8, "int"),
	{ "k_gs_base", "int64", SYSTEM, 8, 8, AT(kernel_gs_base) }, REG("cr0", sregs.cr0, 8, "int64"),
	REG("cr2", sregs.cr2, 8, "int64"), REG("cr3", sregs.cr3, 8, "int64"), REG("cr4", sregs.cr4, 8, "int64"),
	REG("cr8", sregs.cr8, 8, "int64"), REG("efer", sregs.efer, 8, "int64"), REG("gdt_base", sregs.gdt.base, 8, "int64"),
	REG("idt_base", sregs.idt.base, 8, "int64"),
};

static const struct row i386[] = {
	{ "eax", "int32", CORE, 4, 4, AT(regs.rax) }, REG("ecx", regs.rcx, 4, "int32"), REG("edx", regs.rdx, 4, "int32"),
	REG("ebx", regs.rbx, 4, "int32"), REG("esp", regs.rsp, 4, "data_ptr"), REG("ebp", regs.rbp, 4, "data_ptr"),
	REG("esi", regs.rsi, 4, "int32"), REG("edi", regs.rdi, 4, "int32"), REG("eip", regs.rip, 4, "code_ptr"),
	REG("eflags", regs.rflags, 4, "eflags"), SEGMENT_ROWS, FPU_ROWS, XMM_0_TO_7, REG("mxcsr", fpu.mxcsr, 4, "int"),
	{ "cr0", "int32", SYSTEM, 4, 4, AT(sregs.cr0) }, REG("cr2", sregs.cr2, 4, "int32"), REG("cr3", sregs.cr3, 4, "int32"),
	REG("cr4", sregs.cr4, 4, "int32"), REG("cs_base", sregs.cs.base, 4, "int32"), REG("ss_base", sregs.ss.base, 4, "int32"),
	REG("ds_base", sregs.ds.base, 4, "int32"), REG("gdt_base", sregs.gdt.base, 4, "int32"),
	REG("idt_base", sregs.idt.base, 4, "int32"),
};

/* What gdb puts together with XMM n: a half of YMM n, of ZMM n; and all of ZMM16 to ZMM31, which have no XMM above. */
#define YMM_HIGH(n) REG("ymm" #n "h", vectors.ymm_high[n], 16, "uint128")
#define ZMM_HIGH(n) REG("zmm" #n "h", vectors.zmm_high[n], 32, "v2ui128")
#define OPMASK(n) REG("k" #n, vectors.k[n], 8, "uint64")
#define UPPER_XMM(n) REG("xmm" #n, vectors.zmm16[n - 16][0], 16, "vec128")
#define UPPER_YMM_HIGH(n) REG("ymm" #n "h", vectors.zmm16[n - 16][16], 16, "uint128")
#define UPPER_ZMM_HIGH(n) REG("zmm" #n "h", vectors.zmm16[n - 16][32], 32, "v2ui128")
#define SIXTEEN(f) f(16), f(17), f(18), f(19), f(20), f(21), f(22), f(23), f(24), f(25), f(26), f(27), f(28), f(29), f(30), f(31)

#define YMM_0_TO_7                                                                                           \
	{ "ymm0h", "uint128", AVX, 16, 16, AT(vectors.ymm_high[0]) }, YMM_HIGH(1), YMM_HIGH(2), YMM_HIGH(3), \
	YMM_HIGH(4), YMM_HIGH(5), YMM_HIGH(6), YMM_HIGH(7)
#define K_AND_ZMM_0_TO_7                                                                                               \
	{ "k0", "uint64", AVX512, 8, 8, AT(vectors.k[0]) }, OPMASK(1), OPMASK(2), OPMASK(3), OPMASK(4), OPMASK(5),     \
	OPMASK(6), OPMASK(7), ZMM_HIGH(0), ZMM_HIGH(1), ZMM_HIGH(2), ZMM_HIGH(3), ZMM_HIGH(4), ZMM_HIGH(5), ZMM_HIGH(6), \
	ZMM_HIGH(7)

static const struct row avx_64[] = { YMM_0_TO_7, YMM_HIGH(8), YMM_HIGH(9), YMM_HIGH(10), YMM_HIGH(11), YMM_HIGH(12),
				     YMM_HIGH(13), YMM_HIGH(14), YMM_HIGH(15) };
static const struct row avx_32[] = { YMM_0_TO_7 };
static const struct row avx512_64[] = { K_AND_ZMM_0_TO_7, ZMM_HIGH(8), ZMM_HIGH(9), ZMM_HIGH(10), ZMM_HIGH(11),
					ZMM_HIGH(12), ZMM_HIGH(13), ZMM_HIGH(14), ZMM_HIGH(15), SIXTEEN(UPPER_XMM),
					SIXTEEN(UPPER_YMM_HIGH), SIXTEEN(UPPER_ZMM_HIGH) };
static const struct row avx512_32[] = { K_AND_ZMM_0_TO_7 };

static const struct table {
	const struct row *row;
	unsigned n;
	uint64_t needs; /* all of these components of XCR0 */
} tables[2][3] = {
	[GDB_I386] = { { i386, ARRAY_SIZE(i386), 0 }, { avx_32, ARRAY_SIZE(avx_32), XFEATURE_MASK_YMM },
		       { avx512_32, ARRAY_SIZE(avx512_32), XFEATURE_MASK_YMM | XFEATURE_MASK_AVX512 } },
	[GDB_X86_64] = { { x86_64, ARRAY_SIZE(x86_64), 0 }, { avx_64, ARRAY_SIZE(avx_64), XFEATURE_MASK_YMM },
			 { avx512_64, ARRAY_SIZE(avx512_64), XFEATURE_MASK_YMM | XFEATURE_MASK_AVX512 } },
};

/* NULL behind the last. */
static const struct row *row_of(const struct gdb_target *t, unsigned n)
{
	for (size_t i = 0; i < ARRAY_SIZE(tables[0]); i++) {
		const struct table *table = &tables[t->arch][i];

		if ((t->components & table->needs) != table->needs)
			continue;
		if (n < table->n)
			return table->row + n;
		n -= table->n;
	}
	return NULL;
}

unsigned gdb_nr_registers(const struct gdb_target *t)
{
	unsigned n = 0;

	while (row_of(t, n))
		n++;
	return n;
}

/* SDM "x87 FPU Tag Word": two bits a physical register, where FXSAVE has one: 0 empty. */
static uint16_t full_tag_word(const struct kvm_fpu *f)
{
	unsigned top = f->fsw >> 11 & 7;
	uint16_t tags = 0;

	for (unsigned phys = 0; phys < 8; phys++) {
		const uint8_t *st = f->fpr[(phys - top) & 7];
		unsigned exponent = (st[8] | st[9] << 8) & 0x7fff, tag = 3;
		uint64_t significand;

		memcpy(&significand, st, sizeof(significand));
		if (f->ftwx & 1 << phys)
			tag = exponent == 0x7fff || !(significand >> 63) ? (!exponent && !significand ? 1 : 2) : 0;
		tags = (uint16_t)(tags | tag << (2 * phys));
	}
	return tags;
}

unsigned gdb_get_register(const struct gdb_target *t, const struct kvm_debugger_regs *r, unsigned n, uint8_t *out)
{
	const struct row *row = row_of(t, n);

	if (!row)
		return 0;
	memset(out, 0, row->size);
	if (row->stored) {
		memcpy(out, (const char *)r + row->offset, row->stored);
	} else {
		uint16_t tags = full_tag_word(&r->fpu);

		memcpy(out, &tags, sizeof(tags));
	}
	return row->size;
}

static void selector_written(struct kvm_debugger_regs *r, const struct row *row)
{
	struct kvm_segment *const all[] = { &r->sregs.cs, &r->sregs.ds, &r->sregs.es, &r->sregs.fs, &r->sregs.gs, &r->sregs.ss };

	/* as loading it would in real mode; elsewhere the base is in a table of the guest's */
	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		if (!(r->sregs.cr0 & 1) && (const char *)&all[i]->selector == (const char *)r + row->offset)
			all[i]->base = (uint64_t)all[i]->selector << 4;
}

bool gdb_set_register(const struct gdb_target *t, struct kvm_debugger_regs *r, unsigned n, const uint8_t *in, unsigned size)
{
	uint8_t before[GDB_REGISTER_MAX];
	const struct row *row = row_of(t, n);

	if (!row || row->size != size)
		return false;
	(void)gdb_get_register(t, r, n, before);
	if (memcmp(before, in, size) == 0)
		return true;
	if (!row->stored) { /* empty or not is all that is kept */
		r->fpu.ftwx = 0;
		for (unsigned phys = 0; phys < 8; phys++)
			if ((in[phys / 4] >> (phys % 4 * 2) & 3) != 3)
				r->fpu.ftwx = (uint8_t)(r->fpu.ftwx | 1 << phys);
		return true;
	}
	memcpy((char *)r + row->offset, in, row->stored);
	selector_written(r, row);
	return true;
}

/* --- target.xml --- */

/* The type of an XMM register; each feature names its own types. */
#define VEC128 \
	"<vector id=\"f4\" type=\"ieee_single\" count=\"4\"/><vector id=\"d2\" type=\"ieee_double\" count=\"2\"/>" \
	"<vector id=\"b16\" type=\"int8\" count=\"16\"/><vector id=\"w8\" type=\"int16\" count=\"8\"/>" \
	"<vector id=\"i4\" type=\"int32\" count=\"4\"/><vector id=\"q2\" type=\"int64\" count=\"2\"/>" \
	"<union id=\"vec128\"><field name=\"v4_float\" type=\"f4\"/><field name=\"v2_double\" type=\"d2\"/>" \
	"<field name=\"v16_int8\" type=\"b16\"/><field name=\"v8_int16\" type=\"w8\"/>" \
	"<field name=\"v4_int32\" type=\"i4\"/><field name=\"v2_int64\" type=\"q2\"/>" \
	"<field name=\"uint128\" type=\"uint128\"/></union>"

/* Types that a feature's registers need, before these. */
static const char *types_of(const char *feature)
{
	if (strcmp(feature, CORE) == 0)
		return "<flags id=\"eflags\" size=\"4\"><field name=\"CF\" start=\"0\" end=\"0\"/>"
		       "<field name=\"\" start=\"1\" end=\"1\"/><field name=\"PF\" start=\"2\" end=\"2\"/>"
		       "<field name=\"AF\" start=\"4\" end=\"4\"/><field name=\"ZF\" start=\"6\" end=\"6\"/>"
		       "<field name=\"SF\" start=\"7\" end=\"7\"/><field name=\"TF\" start=\"8\" end=\"8\"/>"
		       "<field name=\"IF\" start=\"9\" end=\"9\"/><field name=\"DF\" start=\"10\" end=\"10\"/>"
		       "<field name=\"OF\" start=\"11\" end=\"11\"/><field name=\"NT\" start=\"14\" end=\"14\"/>"
		       "<field name=\"RF\" start=\"16\" end=\"16\"/><field name=\"VM\" start=\"17\" end=\"17\"/>"
		       "<field name=\"AC\" start=\"18\" end=\"18\"/><field name=\"VIF\" start=\"19\" end=\"19\"/>"
		       "<field name=\"VIP\" start=\"20\" end=\"20\"/><field name=\"ID\" start=\"21\" end=\"21\"/></flags>";
	if (strcmp(feature, SSE) == 0)
		return VEC128;
	if (strcmp(feature, AVX512) == 0)
		return "<vector id=\"v2ui128\" type=\"uint128\" count=\"2\"/>" VEC128;
	return "";
}

char *gdb_target_xml(const struct gdb_target *t)
{
	const struct row *row;
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	if (!f)
		return NULL;
	fprintf(f, "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target version=\"1.0\">"
		   "<architecture>%s</architecture>", t->arch == GDB_I386 ? "i386" : "i386:x86-64");
	for (unsigned i = 0; (row = row_of(t, i)); i++) {
		if (row->feature)
			fprintf(f, "%s<feature name=\"%s\">%s", i ? "</feature>" : "", row->feature, types_of(row->feature));
		fprintf(f, "<reg name=\"%s\" bitsize=\"%u\" type=\"%s\"%s/>", row->name, row->size * 8u, row->type,
			strcmp(row->type, "int") == 0 && row->name[0] == 'f' && row->size == 4 ? " group=\"float\"" : "");
	}
	fputs("</feature></target>", f);
	if (fclose(f)) {
		free(text);
		return NULL;
	}
	return text;
}
