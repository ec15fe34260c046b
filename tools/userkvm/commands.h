/*
 * The sub-commands of userkvm: argv as for main(), argv[0] is the command's
 * name; they return the exit status (2: wrong usage).
 */
#ifndef USERKVM_TOOLS_COMMANDS_H
#define USERKVM_TOOLS_COMMANDS_H

#include <stdbool.h>
#include <stddef.h>

/* What cmd_run() returns where nothing runs, as env(1) and shells do. */
#define CANNOT_RUN 126
#define NOT_FOUND  127

int cmd_run(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_ept(int argc, char **argv);
int cmd_stat(int argc, char **argv);
int cmd_trace(int argc, char **argv);
int cmd_walkthrough(int argc, char **argv);

/* --help or -h. */
bool asks_help(const char *word);
/* One line: what is wrong, and where the right words stand. command as "userkvm run"; returns 2. */
int wrong_usage(const char *command, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The same for an option that is none, or that lacks its value. */
int wrong_option(const char *command, const char *option);

/* The preload library beside this program (build tree) or installed; -1: not found. */
int preload_path(char *buf, size_t size);

#endif
