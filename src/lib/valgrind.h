/*
 * Does the process run under valgrind, which executes a translation of it and knows fewer
 * instructions and system calls than a host?
 *
 * The question is valgrind's own: a sequence of rotations that leaves RDI as it was, and an
 * exchange of RBX with itself. A processor executes it to no effect.
 */
#ifndef USERKVM_LIB_VALGRIND_H
#define USERKVM_LIB_VALGRIND_H

#include <stdbool.h>
#include <stdint.h>

static inline bool lib_on_valgrind(void)
{
	static const uint64_t running_on_valgrind[6] = { 0x1001 };
	uint64_t answer = 0;

	__asm__ volatile("rolq $3, %%rdi; rolq $13, %%rdi; rolq $61, %%rdi; rolq $51, %%rdi; xchgq %%rbx, %%rbx"
			 : "+d"(answer) : "a"(running_on_valgrind) : "cc", "memory");
	return answer;
}

#endif
