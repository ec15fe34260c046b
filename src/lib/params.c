/*
 * The parsers of USERKVM_PARAMS and of lists of words: see params.h. It keeps no state.
 */
#include "lib/params.h"

#include <stdlib.h>
#include <string.h>

#include "lib/log.h"

bool params_get_bool(const char *name, bool dflt)
{
	const char *p = getenv("USERKVM_PARAMS");
	size_t len = strlen(name);
	bool value = dflt;

	while (p && *p) {
		size_t n = strcspn(p, ",");

		if (n > len && strncmp(p, name, len) == 0 && p[len] == '=') {
			char c = n == len + 2 ? p[len + 1] : '?';

			if (c == '1' || c == 'y' || c == 'Y')
				value = true;
			else if (c == '0' || c == 'n' || c == 'N')
				value = false;
			else
				log_line(LOG_INFO, "USERKVM_PARAMS: %.*s is neither 0 nor 1", (int)n, p);
		}
		p += n + (p[n] == ',');
	}
	return value;
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
