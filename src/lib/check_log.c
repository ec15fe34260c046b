/*
 * Reports as lines of JSON: see check_log.h. A line leaves by one write(2), so that lines
 * of several threads and processes do not mix.
 */
#include "lib/check_log.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "lib/log.h"
#include "lib/own_fd.h"
#include "lib/quiet.h"

int check_log_open(void)
{
	const char *file = getenv("USERKVM_CHECK_LOG");
	int fd;

	if (!file || !*file)
		return -1;
	fd = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
	if (fd < 0) {
		log_always("USERKVM_CHECK_LOG: %s cannot be written: reports go to standard error only", file);
		return -1;
	}
	return own_fd_keep(fd);
}

void check_log_line(int fd, const char *fmt, ...)
{
	char line[1024];
	va_list ap;
	int n;

	if (fd < 0)
		return;
	va_start(ap, fmt);
	n = vsnprintf(line, sizeof(line) - 1, fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	if (n > (int)sizeof(line) - 2)
		n = (int)sizeof(line) - 2;
	line[n++] = '\n';
	if (lib_quiet_write(fd, line, (size_t)n) < 0)
		log_line(LOG_INFO, "a report could not be written to USERKVM_CHECK_LOG");
}

void check_log_close(int fd)
{
	if (fd >= 0)
		own_fd_close(fd);
}

void check_ranges_read(struct check_ranges *r)
{
	const char *p = getenv("USERKVM_CHECK_SUPPRESS");
	char *end;

	while (p && *p && r->nr < sizeof(r->range) / sizeof(r->range[0])) {
		uint64_t from = strtoull(p, &end, 16), to;

		if (end == p || *end != '-')
			break;
		to = strtoull(end + 1, &end, 16);
		r->range[r->nr].start = from;
		r->range[r->nr++].end = to;
		p = *end == ',' ? end + 1 : NULL;
	}
	if (p && *p)
		log_always("USERKVM_CHECK_SUPPRESS: '%s' is no list of START-END in hexadecimal", p);
}

bool check_ranges_hit(struct check_ranges *r, uint64_t rip)
{
	for (unsigned n = 0; n < r->nr; n++) {
		if (rip < r->range[n].start || rip >= r->range[n].end)
			continue;
		r->range[n].hits++;
		return true;
	}
	return false;
}

void check_ranges_tell(const struct check_ranges *r)
{
	for (unsigned n = 0; n < r->nr; n++)
		log_always("  suppressed by %#lx-%#lx: %lu", r->range[n].start, r->range[n].end, r->range[n].hits);
}
