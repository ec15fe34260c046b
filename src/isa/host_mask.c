/*
 * USERKVM_HOST_CPUID: which features of the host are not to be used (isa/host.h).
 *
 * A processor's name stands for the features its model has, from the vendors'
 * published lists; whatever else the host has is taken away. The vendor stays
 * the host's, as does everything that is no feature.
 *
 * Locks: none.
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "isa/host.h"
#include "lib/log.h"

#define VARIABLE "USERKVM_HOST_CPUID"

static const char *const names[NR_HOST_FEATURES] = {
#define X(name, text, l, s, r, b) [HOST_##name] = text,
	ISA_HOST_FEATURES(X)
#undef X
};

/* Each model is an earlier one and more; a chain ends with "sse2", which has nothing of the list. */
static const struct {
	const char *name, *more_than, *features;
} processors[] = {
	{ "sse2", NULL, "" },
	{ "core2", "sse2", "sse3 ssse3 cx16 lahf-lm" },
	{ "penryn", "core2", "sse4.1 xsave" },
	{ "nehalem", "core2", "sse4.1 sse4.2 popcnt invtsc" },
	{ "westmere", "nehalem", "aes pclmulqdq" },
	{ "sandybridge", "westmere", "xsave avx" },
	{ "ivybridge", "sandybridge", "f16c rdrand fsgsbase erms" },
	{ "haswell", "ivybridge", "avx2 bmi1 bmi2 fma movbe lzcnt rtm" },
	{ "broadwell", "haswell", "rdseed adx 3dnowprefetch" },
	{ "skylake", "broadwell", "clflushopt" },
	{ "skylake-server", "skylake", "avx512f avx512dq avx512cd avx512bw avx512vl clwb pku" },
	{ "cascadelake", "skylake-server", "avx512vnni" },
	{ "icelake", "cascadelake",
	  "avx512ifma avx512vbmi avx512vbmi2 avx512bitalg avx512vpopcntdq sha gfni vaes vpclmulqdq "
	  "umip rdpid fsrm la57" },
	{ "zen", "sse2",
	  "sse3 ssse3 cx16 lahf-lm sse4.1 sse4.2 popcnt invtsc aes pclmulqdq xsave avx f16c rdrand "
	  "fsgsbase avx2 bmi1 bmi2 fma movbe lzcnt rdseed adx 3dnowprefetch clflushopt sha sse4a" },
	{ "zen2", "zen", "clwb umip rdpid" },
	{ "zen3", "zen2", "vaes vpclmulqdq pku erms fsrm" },
	{ "zen4", "zen3",
	  "avx512f avx512dq avx512cd avx512bw avx512vl avx512ifma avx512vbmi avx512vbmi2 avx512vnni "
	  "avx512bitalg avx512vpopcntdq avx512bf16 gfni la57" },
};

const char *isa_host_feature_name(enum isa_host_feature f)
{
	return names[f];
}

const char *isa_host_processor_name(unsigned nr)
{
	return nr < ARRAY_SIZE(processors) ? processors[nr].name : NULL;
}

/* Is the word w, of len bytes, this name? Case, '.', '-' and '_' do not count. */
static bool is_name(const char *w, size_t len, const char *name)
{
	const char *end = w + len;

	for (;;) {
		while (w < end && strchr(".-_", *w))
			w++;
		while (*name && strchr(".-_", *name))
			name++;
		if (w == end || !*name)
			return w == end && !*name;
		if (tolower((unsigned char)*w++) != *name++)
			return false;
	}
}

/* Is the feature in this list of names with blanks between? */
static bool in_list(const char *list, unsigned feature)
{
	while (*list) {
		size_t n = strcspn(list, " ");

		if (is_name(list, n, names[feature]))
			return true;
		list += n + strspn(list + n, " ");
	}
	return false;
}

static int find_processor(const char *w, size_t len)
{
	for (unsigned n = 0; n < ARRAY_SIZE(processors); n++)
		if (is_name(w, len, processors[n].name))
			return (int)n;
	return -1;
}

static bool processor_has(int model, unsigned feature)
{
	while (model >= 0) {
		const char *base = processors[model].more_than;

		if (in_list(processors[model].features, feature))
			return true;
		model = base ? find_processor(base, strlen(base)) : -1;
	}
	return false;
}

/* False: the word means nothing. */
static bool apply(bool *has, const char *w, size_t len)
{
	int model;

	if (w[0] == '-') {
		for (unsigned f = 0; f < NR_HOST_FEATURES; f++)
			if (is_name(w + 1, len - 1, names[f])) {
				has[f] = false;
				return true;
			}
		return false;
	}
	model = find_processor(w, len);
	for (unsigned f = 0; model >= 0 && f < NR_HOST_FEATURES; f++)
		has[f] &= processor_has(model, f);
	return model >= 0;
}

const char *isa_host_mask(bool *has, size_t *len)
{
	const char *w = getenv(VARIABLE);

	while (w && *w) {
		*len = strcspn(w, ",");
		if (*len && !apply(has, w, *len))
			return w;
		w += *len + (w[*len] == ',');
	}
	return NULL;
}

bool isa_host_mask_valid(void)
{
	bool scratch[NR_HOST_FEATURES] = { false };
	size_t len;
	const char *w = isa_host_mask(scratch, &len);

	if (!w)
		return true;
	log_always(VARIABLE ": '%.*s' is neither -FEATURE nor a processor's name (`userkvm doctor` lists them)",
		   (int)len, w);
	return false;
}
