/*
 * What bug.h says.
 */
#include "lib/bug.h"

#include <stdio.h>
#include <string.h>

#include "lib/log.h"

#define MAX_REPORTS 20

void bug_text(char *buf, size_t size, const char *what, const char *file, int line)
{
	const char *src = strstr(file, "src/");

	snprintf(buf, size, "%s (%s:%d)", what, src ? src : file, line);
}

void bug_report(const char *what, const char *file, int line)
{
	static unsigned reports;
	char text[200];

	if (__atomic_fetch_add(&reports, 1, __ATOMIC_RELAXED) >= MAX_REPORTS)
		return;
	bug_text(text, sizeof(text), what, file, line);
	log_always("a bug of userkvm's: %s", text);
}
