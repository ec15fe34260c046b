/*
 * The file of USERKVM_CHECK_LOG: lines of JSON that the sanitizers append.
 */
#ifndef USERKVM_LIB_CHECK_LOG_H
#define USERKVM_LIB_CHECK_LOG_H

#include <stdbool.h>
#include <stdint.h>

/* A descriptor of the library's own; -1: the variable is not set, or the file cannot be written (told). */
int check_log_open(void);
/* One line, a newline behind it. Nothing with fd -1. Any thread; libc's printf. */
void check_log_line(int fd, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void check_log_close(int fd);

/* Ranges of RIPs whose reports are suppressed: USERKVM_CHECK_SUPPRESS, START-END[,…], hexadecimal. */
struct check_ranges {
	unsigned nr;
	struct { uint64_t start, end, hits; } range[16];
};
void check_ranges_read(struct check_ranges *r); /* what is no such list is told */
bool check_ranges_hit(struct check_ranges *r, uint64_t rip); /* counts */
void check_ranges_tell(const struct check_ranges *r); /* how often each was hit */

#endif
