/*
 * EPT tables of an L1 for tests (nested.h): AT_EPT and the three pages behind it.
 */
#ifndef TESTS_NESTED_EPT_H
#define TESTS_NESTED_EPT_H

#include "nested.h"

#define SECONDARY SECONDARY_VM_EXEC_CONTROL

#define EPT_R 1u
#define EPT_W 2u
#define EPT_X 4u
#define EPT_ALL 7u
#define EPT_WB (6u << 3)
#define EPT_LARGE (1u << 7)

/* Four tables: L2's first 2 MiB one to one, page by page. */
static inline uint64_t *ept_level1(struct client *c)
{
	return (uint64_t *)(c->mem + AT_EPT + 0x3000);
}

static inline void ept_fill(struct client *c)
{
	uint64_t *l4 = (uint64_t *)(c->mem + AT_EPT);

	memset(l4, 0, 0x4000);
	l4[0] = (AT_EPT + 0x1000) | EPT_ALL;
	l4[512] = (AT_EPT + 0x2000) | EPT_ALL;
	l4[1024] = (AT_EPT + 0x3000) | EPT_ALL;
	for (unsigned i = 0; i < 512; i++)
		ept_level1(c)[i] = i * 4096 | EPT_ALL | EPT_WB;
}

/* By L1's own processor, whose writes are seen; what the client writes into L1's memory is not. */
static inline void ept_store(struct client *c, unsigned page, uint64_t entry)
{
	nested_do(c, STORE, AT_EPT + 0x3000 + page * 8, entry);
}

/* The same, and INVEPT: what follows sees the entry, on any processor and in any hypervisor. */
static inline void ept_change(struct client *c, unsigned page, uint64_t entry)
{
	ept_store(c, page, entry);
	assert_succeeds(nested_do(c, INVEPT, 2, AT_EPT));
}

static inline void nested_use_ept(struct client *c)
{
	ept_fill(c);
	nested_set_bits(c, SECONDARY, 1u << 1);
	nested_vmwrite(c, EPT_POINTER, AT_EPT | 3u << 3 | 6);
}

static inline bool nested_open_ept(struct client *c)
{
	if (!nested_open_l2(c))
		return false;
	nested_use_ept(c);
	/* mov rbx, [0x60000]; mov [0x61000], rbx; cpuid */
	nested_l2_code(c, "\x48\x8b\x1c\x25\x00\x00\x06\x00\x48\x89\x1c\x25\x00\x10\x06\x00\x0f\xa2", 18);
	*(uint64_t *)(c->mem + 0x60000) = 0x1122334455667788;
	return true;
}

#endif
