/*
 * Mapping a program, and the dynamic loader that it asks for, as the kernel would.
 */
#ifndef USERKVM_TRAP_LOAD_H
#define USERKVM_TRAP_LOAD_H

#include <stdint.h>

struct program {
	uint64_t entry, phdr, nr_phdr;
	uint64_t start, end; /* of what is mapped, page-aligned */
	uint64_t loader; /* where its dynamic loader lies; 0: it has none */
	uint64_t first; /* where execution begins: the loader's entry, or its own */
};

/* Where the kernel is asked to put what the client maps and may execute. */
#define LOAD_MAPPINGS 0x0d0000000000ULL

/* With its loader. 0, or -errno with *why in words. */
int load_program(const char *path, struct program *out, const char **why);
/* The room for the program's break behind it: sets trap.brk_*. Without room it stays empty. */
void load_break(const struct program *p);

#endif
