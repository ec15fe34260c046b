/*
 * Memory for generated code.
 *
 * One piece of anonymous shared memory is mapped twice: code is written through
 * `rw` and runs at `run`. No page of the process is writable and executable,
 * and nothing becomes executable after exec_memory_create(): the mapping is
 * born executable and read-only, its second view loses the right to execute
 * and gains the right to write. So hosts with PR_SET_MDWE serve us, and
 * clients may put their vCPU threads under a filter afterwards. There is no
 * descriptor, and RLIMIT_FSIZE does not apply, but where the host lets only a
 * file be executed (SELinux without execmem): the memory is a nameless one's
 * there, its descriptor closed.
 *
 * A forked child has neither view (MADV_DONTFORK): it would write to its
 * parent's code.
 */
#ifndef USERKVM_EMIT_EXEC_H
#define USERKVM_EMIT_EXEC_H

#include "lib/types.h"

struct exec_memory {
	uint8_t *rw;  /* write here; NULL: none */
	uint8_t *run; /* the same bytes, executable */
	size_t size;  /* bytes, whole pages; filled on demand by the kernel */
	bool reserved_here; /* no `at` was given */
};

/*
 * Map `size` bytes (rounded up to pages).
 * at: NULL, or where `run` is to lie, inside a mapping of the caller's that it
 * replaces (for RIP-relative reach).
 * Returns 0; -ENOMEM: no memory or address space; -EPERM: the host's policy lets this
 * process have no executable memory; -EFBIG: only that of a file, which RLIMIT_FSIZE forbids. *m is {0} then, and a mapping at `at` is
 * inaccessible memory again.
 */
must_check int exec_memory_create(struct exec_memory *m, size_t size, void *at);

/* Unmap both views; memory at `at` is inaccessible again. Harmless on {0}. */
void exec_memory_destroy(struct exec_memory *m);

/*
 * To be called between writing code through `rw` and running it on the same
 * thread: executes a serialising instruction (SDM Vol. 3, "Handling Self- and
 * Cross-Modifying Code": the two addresses differ).
 */
void exec_memory_sync(void);

#endif
