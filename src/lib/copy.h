/*
 * Copies for code that runs while the guest's SIMD state is in the host's
 * registers: general registers only, never a call into libc.
 */
#ifndef USERKVM_LIB_COPY_H
#define USERKVM_LIB_COPY_H

#include "lib/types.h"

/* Forward copy of n bytes; the areas may overlap only as REP MOVSB allows. */
static inline void copy_bytes(void *dst, const void *src, size_t n)
{
	__asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(n) : : "memory");
}

static inline void fill_bytes(void *dst, uint8_t byte, size_t n)
{
	__asm__ volatile("rep stosb" : "+D"(dst), "+c"(n) : "a"(byte) : "memory");
}

#endif
