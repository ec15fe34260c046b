/*
 * The parsers of USERKVM_PARAMS and of lists of words: see params.h. It keeps no state.
 */
#include "lib/params.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "lib/log.h"

/* The value of the last "name=value" in the list, *len bytes; NULL: not named. */
static const char *find(const char *name, size_t *len)
{
	const char *p = getenv("USERKVM_PARAMS"), *found = NULL;
	size_t name_len = strlen(name);

	while (p && *p) {
		size_t n = strcspn(p, ",");

		if (n > name_len && strncmp(p, name, name_len) == 0 && p[name_len] == '=') {
			found = p + name_len + 1;
			*len = n - name_len - 1;
		}
		p += n + (p[n] == ',');
	}
	return found;
}

bool params_get_string(const char *name, char *value, size_t size)
{
	size_t len = 0;
	const char *p = find(name, &len);

	if (!p || len >= size)
		return false;
	memcpy(value, p, len);
	value[len] = 0;
	return true;
}

bool params_get_bool(const char *name, bool dflt)
{
	char value[16] = "?";

	if (!params_get_string(name, value, sizeof(value)))
		return dflt;
	if (!strcmp(value, "1") || !strcasecmp(value, "y"))
		return true;
	if (!strcmp(value, "0") || !strcasecmp(value, "n"))
		return false;
	log_line(LOG_INFO, "USERKVM_PARAMS: %s=%s is neither 0 nor 1", name, value);
	return dflt;
}

uint32_t params_get_uint(const char *name, uint32_t dflt)
{
	char value[16], *end;
	unsigned long n;

	if (!params_get_string(name, value, sizeof(value)))
		return dflt;
	n = strtoul(value, &end, 0);
	if (value[0] >= '0' && value[0] <= '9' && !*end && n <= UINT32_MAX)
		return (uint32_t)n;
	log_line(LOG_INFO, "USERKVM_PARAMS: %s=%s is no number", name, value);
	return dflt;
}

bool params_has_word(const char *variable, const char *word)
{
	const char *p = getenv(variable);
	size_t len = strlen(word);

	while (p && *p) {
		size_t n = strcspn(p, ",");

		if (n == len && strncmp(p, word, len) == 0)
			return true;
		p += n + (p[n] == ',');
	}
	return false;
}
