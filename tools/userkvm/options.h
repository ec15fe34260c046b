/*
 * One table of each command's options, and the one parser: help, completions
 * (completion.c) and what getopt_long(3) accepts come from the same rows.
 *
 * A command's file has its `struct cli` and hands it to cli_parse(); the list
 * of all of them stands in main.c.
 */
#ifndef USERKVM_TOOLS_OPTIONS_H
#define USERKVM_TOOLS_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

struct cli_option {
	const char *name; /* without "--"; NULL: a letter only */
	char letter;	  /* 0: none */
	const char *value; /* what it takes, "FILE", "PID" …; NULL: nothing */
	const char *help; /* lines of help, a newline between them */
};

struct cli {
	const char *name;     /* "userkvm run" */
	const char *what;     /* in the list of commands; NULL: not in it */
	const char *synopsis; /* behind "usage: ", its lines */
	const char *about;    /* what stands between synopsis and options */
	const char *more;     /* … and behind them; NULL: nothing */
	const struct cli_option *options; /* the last has no name and no letter; --help stands in none */
	const char *words;    /* sub-commands or what else its first word may be: "dump walk"; NULL: none */
	bool program;	      /* its words are a program's: options end at the first of them */
	bool files;	      /* its words are files */
	int (*run)(int argc, char **argv);
};

/* A row's number for take(): cli_parse() hands its index. */
typedef int cli_take(void *arg, int option, const char *value);

/*
 * Hands each option of argv to take(), in order, with its row's index and its value (NULL where it
 * takes none). take() returns 0, or what cli_parse() then returns. -1: go on, optind is the index of
 * the first word that is no option (words among the options have been moved behind them, unless
 * they are a program's). Else the exit status: --help was printed (0), or one line on stderr said
 * what is wrong (2).
 */
int cli_parse(const struct cli *c, int argc, char **argv, cli_take *take, void *arg);
void cli_help(const struct cli *c, FILE *f);

/* One line: what is wrong, and where the right words stand. Returns 2. */
int wrong_usage(const char *command, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The closest of n words to `word`, for "did you mean"; NULL: none is near. */
const char *closest_word(const char *word, const char *const *words, size_t n);
/* 0, or 2 after a line for each fault in the environment's USERKVM_ variables. */
int cli_check_environment(const char *command);

#endif
