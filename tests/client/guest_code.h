/*
 * Guest code in a test's own source: assembled by the compiler, copied into
 * the guest by the test. AT&T syntax; the code must not depend on its address.
 *
 *	GUEST_CODE(spin, 16, "1: jmp 1b");
 *	client_real_mode(&c, 0x1000, spin, GUEST_CODE_SIZE(spin));
 */
#ifndef TESTS_GUEST_CODE_H
#define TESTS_GUEST_CODE_H

#include <stdint.h>

#define GUEST_CODE(name, bits, text)                                  \
	extern const uint8_t name[], name##_end[];                    \
	__asm__(".pushsection .rodata, \"a\"\n"                       \
		".globl " #name ", " #name "_end\n" #name ":\n"       \
		".code" #bits "\n" text "\n"                          \
		".code64\n" #name "_end:\n"                           \
		".popsection\n")

#define GUEST_CODE_SIZE(name) ((size_t)(name##_end - name))

#endif
