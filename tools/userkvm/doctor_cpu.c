/*
 * userkvm doctor, the processor's part: what userkvm finds in this host, and
 * which features a guest may have.
 *
 * Locks: none.
 */
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>

#include "isa/host.h"
#include "tools/userkvm/commands.h"
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
	{"xsaves", 0xd, 1, ISA_EAX, 3}, {"1G-pages", 0x80000001, 0, ISA_EDX, 26},
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
	}
	free(c);
}
