/*
 * The file of USERKVM_CHECK_LOG: lines of JSON that the sanitizers append.
 */
#ifndef USERKVM_LIB_CHECK_LOG_H
#define USERKVM_LIB_CHECK_LOG_H

/* A descriptor of the library's own; -1: the variable is not set, or the file cannot be written (told). */
int check_log_open(void);
/* One line, a newline behind it. Nothing with fd -1. Any thread; libc's printf. */
void check_log_line(int fd, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void check_log_close(int fd);

#endif
