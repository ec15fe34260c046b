/*
 * The table of what the host has (isa/host.h).
 *
 * Locks: pthread_once() while it is filled.
 */
#include <pthread.h>
#include <string.h>

#include "isa/host.h"
#include "lib/params.h"
#include "lib/valgrind.h"

#define LEGACY_AND_HEADER 576u
#define PKRU_BYTES 8u
#define PKRU_PLACE 0xa80u /* of Intel's processors: behind Hi16_ZMM */

struct isa_host isa_host_table;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static const struct {
	uint32_t leaf;
	uint8_t subleaf, reg, bit;
} where[NR_HOST_FEATURES] = {
#define X(name, text, l, s, r, b) [HOST_##name] = { l, s, ISA_##r, b },
	ISA_HOST_FEATURES(X)
#undef X
};

static void cpuid(uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
	__asm__ volatile("cpuid"
			 : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3])
			 : "a"(leaf), "c"(subleaf));
}

static enum isa_host_vendor vendor_of(uint32_t ecx)
{
	switch (ecx) {
	case 0x6c65746e: return HOST_INTEL; /* ntel */
	case 0x444d4163: return HOST_AMD;   /* cAMD */
	case 0x656e6975: return HOST_AMD;   /* uine: Hygon */
	default: return HOST_OTHER;
	}
}

/* The features' bits; a leaf beyond the highest would answer with another leaf's data. */
static void read_features(uint32_t highest, uint32_t highest_extended)
{
	uint32_t r[4] = { 0 }, leaf = 0, subleaf = 0;

	for (unsigned n = 0; n < NR_HOST_FEATURES; n++) {
		uint32_t limit = where[n].leaf & 0x80000000 ? highest_extended : highest;

		if (where[n].leaf > limit)
			continue;
		if (where[n].leaf != leaf || where[n].subleaf != subleaf) {
			leaf = where[n].leaf;
			subleaf = where[n].subleaf;
			cpuid(leaf, 0, r);
			if (subleaf > r[0]) /* leaf 7: EAX is the last sub-leaf */
				r[0] = r[1] = r[2] = r[3] = 0;
			else if (subleaf)
				cpuid(leaf, subleaf, r);
		}
		isa_host_table.has[n] = (r[where[n].reg] >> where[n].bit) & 1;
	}
}

static uint64_t read_xcr0(void)
{
	uint32_t r[4], lo, hi;

	cpuid(1, 0, r);
	if (!(r[ISA_ECX] & (1u << 27))) /* OSXSAVE */
		return 0;
	__asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return lo | (uint64_t)hi << 32;
}

/* To a fixed point: chains of needs are in any order. */
static void drop_unsupported(bool *has)
{
	static const uint8_t needs[][2] = {
#define X(feature, needed) { HOST_##feature, HOST_##needed },
		ISA_HOST_NEEDS(X)
#undef X
	};
	bool again;

	do {
		again = false;
		for (unsigned n = 0; n < ARRAY_SIZE(needs); n++)
			if (has[needs[n][0]] && !has[needs[n][1]]) {
				has[needs[n][0]] = false;
				again = true;
			}
	} while (again);
}

static void read_components(void)
{
	isa_host_table.xsave_bytes = LEGACY_AND_HEADER;
	for (unsigned n = 2; n < ISA_HOST_COMPONENTS; n++) {
		uint32_t r[4], end;

		if (!(((isa_host_table.xfeatures | isa_host_table.own_xfeatures) >> n) & 1))
			continue;
		cpuid(0xd, n, r);
		if (n == XFEATURE_PKRU && !r[ISA_EAX]) {
			r[ISA_EAX] = PKRU_BYTES;
			r[ISA_EBX] = PKRU_PLACE;
			r[ISA_ECX] = 0;
		}
		isa_host_table.component[n].size = r[ISA_EAX];
		isa_host_table.component[n].offset = r[ISA_EBX];
		isa_host_table.component[n].aligned = r[ISA_ECX] & 2;
		end = r[ISA_EAX] + r[ISA_EBX];
		if (end > isa_host_table.xsave_bytes)
			isa_host_table.xsave_bytes = end;
	}
}

/*
 * Does LAR show bits 19:16 of the descriptor, which hold its limit? Asked of the running code
 * segment's, whose limit is 4 GiB. SDM Vol. 2, "LAR": undefined.
 */
static uint32_t read_lar_mask(void)
{
	uint32_t selector, rights = 0;

	if (lib_on_valgrind())
		return 0xf0ff00; /* it does not know LAR */
	__asm__("mov %%cs, %0\n\tlar %0, %1" : "=&r"(selector), "+r"(rights) : : "cc");
	return rights & 0xf0000 ? 0xffff00 : 0xf0ff00;
}

/*
 * Protection keys are done in C. But a client that asks the host's CPUID where their state lies
 * (QEMU does) finds nothing on a host without them, hence "auto": where the host has them.
 */
static bool offers_pku(void)
{
	char word[8];

	if (!isa_host_table.has[HOST_XSAVE])
		return false;
	if (!params_get_string("pku", word, sizeof(word)) || !strcmp(word, "auto"))
		return isa_host_table.has[HOST_PKU];
	return params_get_bool("pku");
}

static void fill(void)
{
	uint32_t r[4], highest, extended;
	uint64_t xcr0 = read_xcr0();
	size_t len;

	cpuid(0, 0, r);
	highest = r[ISA_EAX];
	isa_host_table.vendor = vendor_of(r[ISA_ECX]);
	cpuid(0x80000000, 0, r);
	extended = r[ISA_EAX] & 0x80000000 ? r[ISA_EAX] : 0;
	read_features(highest, extended);
	if (!xcr0 || highest < 0xd)
		isa_host_table.has[HOST_XSAVE] = false;
	if (~xcr0 & (XFEATURE_MASK_SSE | XFEATURE_MASK_YMM))
		isa_host_table.has[HOST_AVX] = false;
	if (~xcr0 & XFEATURE_MASK_AVX512)
		isa_host_table.has[HOST_AVX512F] = false;
	(void)isa_host_mask(isa_host_table.has, &len); /* a wrong word: isa_host_mask_valid() */
	drop_unsupported(isa_host_table.has);
	isa_host_table.xfeatures = XFEATURE_MASK_FP | XFEATURE_MASK_SSE |
			 (isa_host_table.has[HOST_AVX] ? XFEATURE_MASK_YMM : 0) |
				   (isa_host_table.has[HOST_AVX512F] ? XFEATURE_MASK_AVX512 : 0);
	isa_host_table.own_xfeatures = offers_pku() ? XFEATURE_MASK_PKRU : 0;
	read_components();
	isa_host_table.lar_mask = read_lar_mask();
	isa_host_probe(&isa_host_table);
	__atomic_store_n(&isa_host_table.filled, true, __ATOMIC_RELEASE);
}

const struct isa_host *isa_host_fill(void)
{
	pthread_once(&once, fill);
	return &isa_host_table;
}

void isa_host_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
	const struct isa_host *h = isa_host();

	cpuid(leaf, subleaf, r);
	for (unsigned n = 0; n < NR_HOST_FEATURES; n++)
		if (where[n].leaf == leaf && where[n].subleaf == subleaf && !h->has[n])
			r[where[n].reg] &= ~(1u << where[n].bit);
}
