/*
 * Functions of a guest's kernel by address (symbols.c). A kernel that has moved itself (KASLR) is found by
 * IA32_LSTAR, which is where its symbol entry_SYSCALL_64 is now.
 */
#ifndef USERKVM_TOOLS_SYMBOLS_H
#define USERKVM_TOOLS_SYMBOLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct symbol {
	uint64_t at;
	char name[64];
};

struct symbols {
	struct symbol *s;
	size_t nr, room;
	uint64_t entry; /* of entry_SYSCALL_64; 0: there is none */
	bool low;	/* a kernel of 32 bits: below 2^32, above its programs */
};

/* Those of an ELF file's symbol table, or of lines "ADDRESS KIND NAME"; false: the file has none. */
bool symbols_read(struct symbols *t, const char *file);
/* "zap_pte_range+0x2c", or the address, in buf. lstar: where entry_SYSCALL_64 is in the guest; 0: unknown, the address then where there is such a symbol. */
const char *symbols_name(const struct symbols *t, uint64_t rip, uint64_t lstar, char *buf, size_t size);

#endif
