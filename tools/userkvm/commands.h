/*
 * The sub-commands of userkvm. Their run() takes argv as for main(), argv[0] is the
 * command's name; it returns the exit status (2: wrong usage).
 */
#ifndef USERKVM_TOOLS_COMMANDS_H
#define USERKVM_TOOLS_COMMANDS_H

#include <stdbool.h>
#include <stddef.h>

#include "tools/userkvm/options.h"

/* What cmd_run() returns where nothing runs, as env(1) and shells do. */
#define CANNOT_RUN 126
#define NOT_FOUND  127

int cmd_run(int argc, char **argv);

extern const struct cli cli_boot, cli_run, cli_check, cli_doctor, cli_ept, cli_explain, cli_gdb, cli_stat, cli_trace, cli_vmcs, cli_walkthrough, cli_lab, cli_completion;
/* Every command; NULL ends it. */
extern const struct cli *const cli_commands[];

/* Parts of `userkvm doctor`, doctor_cpu.c: what the host has and is masked of; what guests are offered. */
void doctor_host_features(void);
void doctor_offered_features(int kvm);

/* Exit statuses of `userkvm doctor`: the first thing that does not work. 1 and 2 are an output's and wrong usage. */
enum doctor_status { DOCTOR_GOOD = 0, DOCTOR_LIBRARY = 3, DOCTOR_VM, DOCTOR_CODE, DOCTOR_PRELOAD, DOCTOR_GUEST };

struct json;
/* preflight.c. *kvm is to be closed where it is not -1; *why says what is wrong in words. */
enum doctor_status doctor_try(int *kvm, const char **why);
int doctor_preflight(void);
int doctor_json(void);
/* doctor.c: the engine's name; what the kernel's KVM is; executable memory: NULL, or why not; rows of an open object. */
const char *doctor_engine(void);
const char *doctor_kernel_kvm(void);
const char *doctor_code_memory(void);
void doctor_capabilities(int kvm, struct json *j);
/* doctor_cpu.c: elements of an open array. */
void doctor_features_json(int kvm, struct json *j);

/* The preload library beside this program (build tree) or installed; -1: not found. */
int preload_path(char *buf, size_t size);

/* machine_kvm.c: why the machine's own KVM does not serve, in words; NULL: it runs guests at a processor's speed. */
const char *machine_kvm_fault(void);
/* calls_kernel.c: a KVM client with a dynamic loader that seems to make its system calls itself. */
bool calls_kernel_itself(const char *program);

#endif
