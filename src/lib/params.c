/*
 * The parser of USERKVM_PARAMS: see params.h. It keeps no state.
 */
#include "lib/params.h"

#include <stdlib.h>
#include <string.h>

#include "lib/log.h"

/* The last "name=value" of USERKVM_PARAMS: the value, *n characters. NULL: not named. */
static const char *find(const char *name, size_t *n)
{
	const char *p = getenv("USERKVM_PARAMS"), *value = NULL;
	size_t len = strlen(name);

	while (p && *p) {
		size_t word = strcspn(p, ",");

		if (word > len && strncmp(p, name, len) == 0 && p[len] == '=') {
			value = p + len + 1;
			*n = word - len - 1;
		}
		p += word + (p[word] == ',');
	}
	return value;
}

bool params_get_bool(const char *name, bool dflt)
{
	size_t n;
	const char *value = find(name, &n);
	char c = value && n == 1 ? *value : '?';

	if (!value)
		return dflt;
	if (c == '1' || c == 'y' || c == 'Y')
		return true;
	if (c == '0' || c == 'n' || c == 'N')
		return false;
	log_line(LOG_INFO, "USERKVM_PARAMS: %s=%.*s is neither 0 nor 1", name, (int)n, value);
	return dflt;
}

uint64_t params_get_u64(const char *name, uint64_t dflt)
{
	size_t n;
	const char *value = find(name, &n);
	uint64_t v = 0;

	if (!value)
		return dflt;
	for (size_t i = 0; i < n; i++) {
		unsigned digit = (unsigned)value[i] - '0';

		if (digit > 9 || __builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, digit, &v))
			n = 0;
	}
	if (n)
		return v;
	log_line(LOG_INFO, "USERKVM_PARAMS: %s is no decimal number", name);
	return dflt;
}
