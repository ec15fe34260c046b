/*
 * userkvm doctor, the processor's part: what userkvm finds in this host, which
 * features a guest may have, and which of QEMU's named models have no others
 * (safe with `enforce`, and for code that goes by the model's name).
 *
 * Locks: none.
 */
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "isa/host.h"
#include "tools/userkvm/commands.h"
#include "tools/userkvm/json.h"
#include "userkvm/userkvm.h"

#define MAX_CPUID 256

struct bit {
	const char *name;
	unsigned leaf, subleaf, reg, bit;
};

/* The host's features, and those of the software processor's that have no bit among them. */
static const struct bit bits[] = {
#define X(feature, text, l, s, r, b) {text, l, s, ISA_##r, b},
	ISA_HOST_FEATURES(X)
#undef X
	{"vme", 1, 0, ISA_EDX, 1}, {"ss", 1, 0, ISA_EDX, 27}, {"pcid", 1, 0, ISA_ECX, 17},
	{"x2apic", 1, 0, ISA_ECX, 21}, {"smep", 7, 0, ISA_EBX, 7}, {"invpcid", 7, 0, ISA_EBX, 10},
	{"smap", 7, 0, ISA_EBX, 20}, {"spec-ctrl", 7, 0, ISA_EDX, 26}, {"stibp", 7, 0, ISA_EDX, 27},
	{"arch-capabilities", 7, 0, ISA_EDX, 29}, {"ssbd", 7, 0, ISA_EDX, 31}, {"bhi-ctrl", 7, 2, ISA_EDX, 4},
	{"misalignsse", 0x80000001, 0, ISA_ECX, 7}, {"xsaves", 0xd, 1, ISA_EAX, 3}, {"1G-pages", 0x80000001, 0, ISA_EDX, 26},
	{"rdtscp", 0x80000001, 0, ISA_EDX, 27}, {"wbnoinvd", 0x80000008, 0, ISA_EBX, 9},
};

#define FIRST_COLUMN 18
#define LAST_COLUMN 96

/* Words in lines of at most LAST_COLUMN, under a heading that has been printed. */
static int print_word(int column, const char *word)
{
	if (column > LAST_COLUMN - 16)
		column = printf("\n%*s", FIRST_COLUMN, "") - 1;
	return column + printf(" %s", word);
}

void doctor_host_features(void)
{
	const struct isa_host *h = isa_host();
	const char *mask = getenv("USERKVM_HOST_CPUID");
	int column = printf("  host has        ");

	for (unsigned n = 0; n < NR_HOST_FEATURES; n++)
		if (h->has[n])
			column = print_word(column, isa_host_feature_name(n));
	printf("\n");
	if (!mask || !*mask)
		return;
	printf("  less             USERKVM_HOST_CPUID=%s%s\n", mask,
	       isa_host_mask_valid() ? "" : ": NO VM WILL START");
	column = printf("  known names     ");
	for (unsigned n = 0; isa_host_processor_name(n); n++)
		column = print_word(column, isa_host_processor_name(n));
	for (unsigned n = 0; n < NR_HOST_FEATURES; n++) {
		char word[32];

		snprintf(word, sizeof(word), "-%s", isa_host_feature_name(n));
		column = print_word(column, word);
	}
	printf("\n");
}

static bool offers(const struct kvm_cpuid2 *c, const struct bit *b)
{
	for (unsigned k = 0; k < c->nent; k++) {
		const struct kvm_cpuid_entry2 *e = &c->entries[k];
		const unsigned regs[4] = {e->eax, e->ebx, e->ecx, e->edx};

		if (e->function == b->leaf && e->index == b->subleaf)
			return regs[b->reg] >> b->bit & 1;
	}
	return false;
}

/*
 * QEMU's models without TSX, each an earlier one and more: the features of `bits`
 * that it asks for. Others ask for what is never offered (docs/processor.md).
 */
static const struct {
	const char *name, *more_than, *features;
} models[] = {
	{"qemu64", NULL, ""},
	{"Conroe", "qemu64", "sse3 ssse3 lahf-lm"},
	{"Penryn", "Conroe", "cx16 sse4.1"},
	{"Nehalem", "Penryn", "sse4.2 popcnt"},
	{"Westmere", "Nehalem", "aes pclmulqdq"},
	{"SandyBridge", "Westmere", "avx xsave x2apic rdtscp"},
	{"IvyBridge", "SandyBridge", "f16c rdrand fsgsbase smep erms"},
	{"Haswell-noTSX", "IvyBridge", "avx2 bmi1 bmi2 fma movbe invpcid pcid lzcnt"},
	{"Broadwell-noTSX", "Haswell-noTSX", "rdseed adx smap 3dnowprefetch"},
	{"Skylake-Client-v4", "Broadwell-noTSX", "xsaves spec-ctrl"},
	{"Skylake-Server-v5", "Skylake-Client-v4",
	 "avx512f avx512dq avx512cd avx512bw avx512vl clwb clflushopt 1G-pages pku"},
	{"Cascadelake-Server-v5", "Skylake-Server-v5", "avx512vnni ssbd arch-capabilities"},
	{"Icelake-Server-v6", "Cascadelake-Server-v5",
	 "avx512vbmi avx512vbmi2 avx512bitalg avx512vpopcntdq avx512ifma gfni vaes vpclmulqdq umip la57 "
	 "wbnoinvd sha rdpid fsrm"},
	{"Denverton-v3", "Nehalem",
	 "aes pclmulqdq xsave rdrand movbe fsgsbase smep erms rdseed smap clflushopt sha xsaves ssbd"},
	{"Snowridge-v4", "Denverton-v3", "gfni umip cldemote movdiri movdir64b clwb"},
	{"EPYC-v4", "Westmere", "avx avx2 fma sse4a misalignsse mmxext fxsr-opt osvw cr8legacy"},
};

static const struct bit *find_bit(const char *name, size_t len)
{
	for (size_t n = 0; n < sizeof(bits) / sizeof(bits[0]); n++)
		if (strlen(bits[n].name) == len && memcmp(bits[n].name, name, len) == 0)
			return &bits[n];
	return NULL;
}

/* The first feature that model `nr` asks for and that is not offered, with its length; NULL: none. */
static const char *lacks(const struct kvm_cpuid2 *c, size_t nr, size_t *len)
{
	const char *base = models[nr].more_than, *f = models[nr].features;

	for (size_t n = 0; base && n < nr; n++)
		if (strcmp(models[n].name, base) == 0) {
			const char *below = lacks(c, n, len);

			if (below)
				return below;
		}
	while (*f) {
		const struct bit *b;

		*len = strcspn(f, " ");
		b = find_bit(f, *len);
		if (!b || !offers(c, b))
			return f;
		f += *len + strspn(f + *len, " ");
	}
	return NULL;
}

static void named_models(const struct kvm_cpuid2 *c)
{
	int column = printf("  safe models     ");
	size_t len = 0;

	for (size_t n = 0; n < sizeof(models) / sizeof(models[0]); n++)
		if (!lacks(c, n, &len))
			column = print_word(column, models[n].name);
	column = printf("\n  others lack     ") - 1;
	for (size_t n = 0; n < sizeof(models) / sizeof(models[0]); n++) {
		const char *f = lacks(c, n, &len);
		char word[64];

		if (!f)
			continue;
		snprintf(word, sizeof(word), "%s:%.*s", models[n].name, (int)len, f);
		column = print_word(column, word);
	}
	printf("\n");
}

void doctor_features_json(int kvm, struct json *j)
{
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + MAX_CPUID * sizeof(c->entries[0]));

	if (!c)
		return;
	c->nent = MAX_CPUID;
	if (userkvm_ioctl(kvm, KVM_GET_SUPPORTED_CPUID, (unsigned long)c) == 0)
		for (size_t n = 0; n < sizeof(bits) / sizeof(bits[0]); n++)
			if (offers(c, &bits[n]))
				json_string(j, NULL, bits[n].name);
	free(c);
}

void doctor_offered_features(int kvm)
{
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + MAX_CPUID * sizeof(c->entries[0]));
	int column;

	if (!c)
		return;
	c->nent = MAX_CPUID;
	if (userkvm_ioctl(kvm, KVM_GET_SUPPORTED_CPUID, (unsigned long)c) == 0) {
		column = printf("  CPUID offers    ");
		for (size_t n = 0; n < sizeof(bits) / sizeof(bits[0]); n++)
			if (offers(c, &bits[n]))
				column = print_word(column, bits[n].name);
		printf("\n");
		named_models(c);
	}
	free(c);
}
