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
static const char *const bools[] = { PARAMS(NAME) }, *const numbers[] = { NUMBER_PARAMS(NAME) };
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

static bool bool_of(const struct setting *s, bool *value)
{
	char c = s->value_len == 1 ? s->value[0] : '?';

	*value = c == '1' || c == 'y' || c == 'Y';
	return *value || c == '0' || c == 'n' || c == 'N';
}

/* Decimal or 0x…, of 32 bits. */
static bool number_of(const struct setting *s, uint32_t *value)
{
	char text[16], *end;
	unsigned long n;

	if (s->value_len >= (int)sizeof(text))
		return false;
	memcpy(text, s->value, (size_t)s->value_len);
	text[s->value_len] = '\0';
	n = strtoul(text, &end, 0);
	*value = (uint32_t)n;
	return text[0] >= '0' && text[0] <= '9' && !*end && n <= UINT32_MAX;
}

bool params_get_bool(const char *name, bool dflt)
{
	const char *p = getenv("USERKVM_PARAMS");
	struct setting s;
	bool value;

	while (p && *p) {
		p = next_setting(p, &s);
		if (names(&s, name) && bool_of(&s, &value))
			dflt = value;
	}
	return dflt;
}

uint32_t params_get_uint(const char *name, uint32_t dflt)
{
	const char *p = getenv("USERKVM_PARAMS");
	struct setting s;
	uint32_t value;

	while (p && *p) {
		p = next_setting(p, &s);
		if (names(&s, name) && number_of(&s, &value))
			dflt = value;
	}
	return dflt;
}

static bool is_one_of(const struct setting *s, const char *const *known, size_t nr)
{
	for (size_t i = 0; i < nr; i++)
		if (names(s, known[i]))
			return true;
	return false;
}

void params_check(void)
{
	const char *p = getenv("USERKVM_PARAMS");
	struct setting s;
	uint32_t number;
	bool value;

	while (p && *p) {
		bool is_bool, is_number;

		p = next_setting(p, &s);
		if (s.name_len == 0 && s.value_len == 0)
			continue;
		is_bool = is_one_of(&s, bools, ARRAY_SIZE(bools));
		is_number = is_one_of(&s, numbers, ARRAY_SIZE(numbers));
		if (!is_bool && !is_number)
			log_always("USERKVM_PARAMS: unknown parameter '%.*s' ignored", s.name_len, s.name);
		else if (is_bool ? !bool_of(&s, &value) : !number_of(&s, &number))
			log_always("USERKVM_PARAMS: `%.*s' invalid for parameter `%.*s', ignored", s.value_len, s.value,
				   s.name_len, s.name);
	}
}
