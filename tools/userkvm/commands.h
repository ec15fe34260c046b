/*
 * The sub-commands of userkvm: argv as for main(), argv[0] is the command's
 * name; they return the exit status (2: wrong usage).
 */
#ifndef USERKVM_TOOLS_COMMANDS_H
#define USERKVM_TOOLS_COMMANDS_H

#include <stddef.h>

int cmd_run(int argc, char **argv);
int cmd_doctor(int argc, char **argv);
int cmd_ept(int argc, char **argv);
int cmd_stat(int argc, char **argv);
int cmd_trace(int argc, char **argv);
int cmd_walkthrough(int argc, char **argv);

/* The preload library beside this program (build tree) or installed; -1: not found. */
int preload_path(char *buf, size_t size);

#endif
