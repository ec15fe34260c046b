/*
 * The parser of USERKVM_PARAMS and of lists of words: see params.h. It keeps no
 * state.
 */
#include "lib/export.h"
#include "lib/params.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/log.h"
#include "lib/types.h"

enum kind { BOOL, NUMBER, UINT, WORD };

static const char *const kind_name[] = { [BOOL] = "0|1", [NUMBER] = "number", [UINT] = "number", [WORD] = "word" };

#define KNOB(knob, kind_, dflt_, what_) { #knob, kind_, dflt_, what_ },
static const struct knob {
	const char *name;
	enum kind kind;
	const char *dflt, *what;
} known[] = { PARAMS(KNOB) };
#undef KNOB

#define VARIABLE(variable, words_) { #variable, words_ },
static const struct {
	const char *name, *words;
} variables[] = { VARIABLES(VARIABLE) };
#undef VARIABLE

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

/* The words of nx_huge_pages, the one knob that has some. */
static bool word_of(const struct setting *s)
{
	static const char *const words[] = { "force", "off", "auto", "never" };
	bool yes;

	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (strlen(words[i]) == (size_t)s->value_len && strncmp(s->value, words[i], strlen(words[i])) == 0)
			return true;
	return bool_of(s, &yes);
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

/* The knob's row; NULL: there is none. */
static const struct knob *find(const struct setting *s)
{
	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (names(s, known[i].name))
			return &known[i];
	return NULL;
}

/* Its default, as a setting. */
static struct setting default_of(const char *name)
{
	struct setting s = { name, NULL, (int)strlen(name), 0 };
	const struct knob *k = find(&s);

	s.value = k ? k->dflt : "";
	s.value_len = (int)strlen(s.value);
	return s;
}

USERKVM_SHARED bool params_get_bool(const char *name)
{
	const char *p = getenv("USERKVM_PARAMS");
	struct setting s = default_of(name);
	bool value, result = bool_of(&s, &value) && value;

	while (p && *p) {
		p = next_setting(p, &s);
		if (names(&s, name) && bool_of(&s, &value))
			result = value;
	}
	return result;
}

static uint64_t get_number(const char *name, uint64_t max)
{
	const char *p = getenv("USERKVM_PARAMS");
	struct setting s = default_of(name);
	uint64_t value, result = number_of(&s, &value) ? value : max;

	while (p && *p) {
		p = next_setting(p, &s);
		if (names(&s, name) && number_of(&s, &value) && value <= max)
			result = value;
	}
	return result;
}

uint64_t params_get_u64(const char *name)
{
	return get_number(name, UINT64_MAX);
}

uint32_t params_get_u32(const char *name)
{
	return (uint32_t)get_number(name, UINT32_MAX);
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

/* Who hears of faults, and how many there were. */
struct listener {
	void (*tell)(void *arg, const char *line);
	void *arg;
	unsigned nr;
};

static void __attribute__((format(printf, 2, 3))) fault(struct listener *l, const char *fmt, ...)
{
	char line[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	l->tell(l->arg, line);
	l->nr++;
}

static void check_setting(struct listener *l, const struct setting *s)
{
	const struct knob *k = find(s);
	uint64_t number;
	bool yes;

	if (!k)
		fault(l, "USERKVM_PARAMS: unknown parameter '%.*s'", s->name_len, s->name);
	else if ((k->kind == BOOL && !bool_of(s, &yes)) || (k->kind == NUMBER && !number_of(s, &number)) ||
		 (k->kind == UINT && (!number_of(s, &number) || number > UINT32_MAX)) ||
		 (k->kind == WORD && !word_of(s)))
		fault(l, "USERKVM_PARAMS: `%.*s' invalid for parameter `%.*s'", s->value_len, s->value,
		      s->name_len, s->name);
}

/* Is [word, word+n) in the comma list? */
static bool in_list(const char *list, const char *word, size_t n)
{
	while (*list) {
		size_t m = strcspn(list, ",");

		if (m == n && strncmp(list, word, n) == 0)
			return true;
		list += m + (list[m] == ',');
	}
	return false;
}

static void check_words(struct listener *l, const char *variable, const char *words)
{
	for (const char *p = getenv(variable); p && *p && *words;) {
		size_t n = strcspn(p, ",");

		if (n && !in_list(words, p, n))
			fault(l, "%s: unknown word '%.*s', it has %s", variable, (int)n, p, words);
		p += n + (p[n] == ',');
	}
}

static void check_variable(struct listener *l, const char *variable)
{
	size_t n = strcspn(variable, "=");

	for (size_t i = 0; i < ARRAY_SIZE(variables); i++)
		if (strlen(variables[i].name) == n && strncmp(variable, variables[i].name, n) == 0)
			return;
	fault(l, "%.*s: there is no such variable", (int)n, variable);
}

unsigned params_faults(void (*tell)(void *arg, const char *line), void *arg)
{
	struct listener l = { tell, arg, 0 };
	const char *p = getenv("USERKVM_PARAMS");
	struct setting s;

	for (char **v = environ; v && *v; v++)
		if (strncmp(*v, "USERKVM_", 8) == 0)
			check_variable(&l, *v);
	for (size_t i = 0; i < ARRAY_SIZE(variables); i++)
		check_words(&l, variables[i].name, variables[i].words);
	while (p && *p) {
		p = next_setting(p, &s);
		if (s.name_len || s.value_len)
			check_setting(&l, &s);
	}
	return l.nr;
}

static void log_fault(void *arg, const char *line)
{
	log_always("%s, ignored", line);
}

void params_check(void)
{
	params_faults(log_fault, NULL);
}

void params_each(void (*row)(void *arg, const char *name, const char *kind, const char *dflt, const char *what),
		 void *arg)
{
	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		row(arg, known[i].name, kind_name[known[i].kind], known[i].dflt, known[i].what);
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
