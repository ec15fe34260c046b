/*
 * The parser of USERKVM_PARAMS: see params.h. It keeps no state.
 */
#include "lib/params.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "lib/log.h"
#include "lib/types.h"

#define NAME(knob) #knob,
static const char *const known[] = { PARAMS(NAME) };
#undef NAME

/* "name=value" without its end, as it stands in the list. */
struct setting {
	const char *name, *value;
	int name_len, value_len;
};

/* The setting at p; returns where the next one begins. An empty one has no length at all. */
static const char *next_setting(const char *p, struct setting *s)
{
	size_t n = strcspn(p, ","), name = strcspn(p, "=,");

	*s = (struct setting){ p, p + name, (int)name, 0 };
	if (name < n) {
		s->value++;
		s->value_len = (int)(n - name - 1);
	}
	return p + n + (p[n] == ',');
}

static bool names(const struct setting *s, const char *name)
{
	return strlen(name) == (size_t)s->name_len && strncmp(s->name, name, (size_t)s->name_len) == 0;
}

static bool value_of(const struct setting *s, bool *value)
{
	char c = s->value_len == 1 ? s->value[0] : '?';

	*value = c == '1' || c == 'y' || c == 'Y';
	return *value || c == '0' || c == 'n' || c == 'N';
}

bool params_get_bool(const char *name, bool dflt)
{
	const char *p = getenv("USERKVM_PARAMS");
	struct setting s;
	bool value;

	while (p && *p) {
		p = next_setting(p, &s);
		if (names(&s, name) && value_of(&s, &value))
			dflt = value;
	}
	return dflt;
}

static bool is_known(const struct setting *s)
{
	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (names(s, known[i]))
			return true;
	return false;
}

void params_check(void)
{
	const char *p = getenv("USERKVM_PARAMS");
	struct setting s;
	bool value;

	while (p && *p) {
		p = next_setting(p, &s);
		if (s.name_len == 0 && s.value_len == 0)
			continue;
		if (!is_known(&s))
			log_always("USERKVM_PARAMS: unknown parameter '%.*s' ignored", s.name_len, s.name);
		else if (!value_of(&s, &value))
			log_always("USERKVM_PARAMS: `%.*s' invalid for parameter `%.*s', ignored", s.value_len, s.value,
				   s.name_len, s.name);
	}
}
