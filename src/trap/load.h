/*
 * Mapping a statically linked program as the kernel would.
 */
#ifndef USERKVM_TRAP_LOAD_H
#define USERKVM_TRAP_LOAD_H

#include <stdint.h>

struct program {
	uint64_t entry, phdr, nr_phdr;
	uint64_t start, end; /* of what is mapped, page-aligned */
};

/* 0, or -errno with *why in words. */
int load_program(const char *path, struct program *out, const char **why);
/* The room for the program's break behind it: sets trap.brk_*. Without room it stays empty. */
void load_break(const struct program *p);

#endif
