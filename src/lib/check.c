/*
 * USERKVM_CHECK: see check.h. It keeps no state.
 */
#include "lib/check.h"

#include <stdlib.h>
#include <string.h>

bool check_wanted(const char *name)
{
	const char *p = getenv("USERKVM_CHECK");
	size_t len = strlen(name);

	while (p && *p) {
		size_t n = strcspn(p, ",");

		if (n == len && strncmp(p, name, len) == 0)
			return true;
		p += n + (p[n] == ',');
	}
	return false;
}
