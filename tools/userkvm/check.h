/*
 * A command under a sanitizer for guests: the options that `userkvm check`, `userkvm run` and
 * `userkvm boot` have for it, and what is told and returned at the command's end.
 */
#ifndef USERKVM_TOOLS_CHECK_H
#define USERKVM_TOOLS_CHECK_H

#include "tools/userkvm/options.h"

/* Rows of a command's options, from row `first` on; `with` is what the command calls the first of them. */
enum { CHECK_WITH, CHECK_EXIT, CHECK_LOG, CHECK_SUPPRESS, CHECK_SYMBOLS, CHECK_ROWS };
#define CHECK_OPTIONS(first, with)                                                                                              \
	[(first) + CHECK_WITH] = { with, 0, "WORDS", "sanitizers for guests: guesttlb, l1ept, ... (USERKVM_CHECK)" },            \
	[(first) + CHECK_EXIT] = { "check-exit", 0, "N", "the status where all ended with 0 and there were reports (66)" },     \
	[(first) + CHECK_LOG] = { "check-log", 0, "FILE", "reports as JSON, one a line, added to FILE (USERKVM_CHECK_LOG)" },   \
	[(first) + CHECK_SUPPRESS] = { "suppress", 0, "RANGES",                                                                 \
				       "START-END,... hexadecimal: no reports of code there (USERKVM_CHECK_SUPPRESS)" },        \
	[(first) + CHECK_SYMBOLS] = { "symbols", 0, "FILE", "the guest kernel's vmlinux (ELF) or System.map: reports name functions" }

struct check_choice {
	const char *with, *log, *suppress, *symbols;
	int status; /* --check-exit; 0: not given */
};

/* For take(): option is the row, counted from CHECK_WITH. 0, or 2 after a line. */
int check_take(struct check_choice *c, const char *command, int option, const char *value);
/* Was any of the options given? */
bool check_asked(const struct check_choice *c);

/*
 * Divides the process: the child gets -1, with the sanitizers in its environment, and is to go on as
 * the command. The parent waits for it, counts and tells the reports, and gets the exit status. So
 * does a process that cannot begin, after a line. A child's children are not divided again: they get -1.
 */
int check_begin(const char *command, const struct check_choice *c);

#endif
