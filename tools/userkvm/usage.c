/*
 * What every command says alike.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "tools/userkvm/commands.h"

bool asks_help(const char *word)
{
	return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
}

int wrong_usage(const char *command, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "%s: ", command);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "; see %s --help\n", command);
	return 2;
}

int wrong_option(const char *command, const char *option)
{
	return wrong_usage(command, "no option '%s', or its value is missing", option);
}
