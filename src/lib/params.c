/*
 * The parser of USERKVM_PARAMS and of lists of words: see params.h. It keeps no
 * state.
 */
#include "lib/params.h"

#include <stdlib.h>
#include <string.h>

#include "lib/log.h"
#include "lib/types.h"

enum kind { BOOL, NUMBER, UINT, WORD };

#define KNOB(knob, kind_) { #knob, kind_ },
static const struct {
	const char *name;
	enum kind kind;
} known[] = { PARAMS(KNOB) };
#undef KNOB

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

static bool number_of(const struct setting *s, uint64_t *value)
{
	bool hex = s->value_len > 2 && s->value[0] == '0' && s->value[1] == 'x';
	uint64_t base = hex ? 16 : 10;

	*value = 0;
	for (int i = hex ? 2 : 0; i < s->value_len; i++) {
		const char *digits = "0123456789abcdef", *d = strchr(digits, s->value[i] | 0x20);

		if (!d || !*d || (uint64_t)(d - digits) >= base ||
		    __builtin_mul_overflow(*value, base, value) ||
		    __builtin_add_overflow(*value, (uint64_t)(d - digits), value))
			return false;
	}
	return s->value_len > 0;
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

static uint64_t get_number(const char *name, uint64_t dflt, uint64_t max)
{
	const char *p = getenv("USERKVM_PARAMS");
	struct setting s;
	uint64_t value;

	while (p && *p) {
		p = next_setting(p, &s);
		if (names(&s, name) && number_of(&s, &value) && value <= max)
			dflt = value;
	}
	return dflt;
}

uint64_t params_get_u64(const char *name, uint64_t dflt)
{
	return get_number(name, dflt, UINT64_MAX);
}

uint32_t params_get_u32(const char *name, uint32_t dflt)
{
	return (uint32_t)get_number(name, dflt, UINT32_MAX);
}

bool params_get_string(const char *name, char *value, size_t size)
{
	const char *p = getenv("USERKVM_PARAMS");
	struct setting s;
	bool found = false;

	while (p && *p) {
		p = next_setting(p, &s);
		if (!names(&s, name) || (size_t)s.value_len >= size)
			continue;
		memcpy(value, s.value, (size_t)s.value_len);
		value[s.value_len] = 0;
		found = true;
	}
	return found;
}

static void check_setting(const struct setting *s)
{
	uint64_t number;
	bool yes;

	for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
		if (!names(s, known[i].name))
			continue;
		if ((known[i].kind == BOOL && !bool_of(s, &yes)) ||
		    (known[i].kind == NUMBER && !number_of(s, &number)) ||
		    (known[i].kind == UINT && (!number_of(s, &number) || number > UINT32_MAX)))
			log_always("USERKVM_PARAMS: `%.*s' invalid for parameter `%.*s', ignored",
				   s->value_len, s->value, s->name_len, s->name);
		return;
	}
	log_always("USERKVM_PARAMS: unknown parameter '%.*s' ignored", s->name_len, s->name);
}

void params_check_words(const char *variable, const char *const *words, size_t nr)
{
	for (const char *p = getenv(variable); p && *p;) {
		size_t n = strcspn(p, ","), k = 0;

		while (k < nr && (strlen(words[k]) != n || strncmp(p, words[k], n) != 0))
			k++;
		if (n && k == nr)
			log_always("%s: unknown word '%.*s' ignored", variable, (int)n, p);
		p += n + (p[n] == ',');
	}
}

void params_check(void)
{
	static const char *const checks[] = { "0", "1", "tlb" };
	const char *p = getenv("USERKVM_PARAMS");
	struct setting s;

	params_check_words("USERKVM_CHECK", checks, ARRAY_SIZE(checks));
	log_check();

	while (p && *p) {
		p = next_setting(p, &s);
		if (s.name_len || s.value_len)
			check_setting(&s);
	}
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
