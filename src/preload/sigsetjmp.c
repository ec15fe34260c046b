/*
 * sigsetjmp(): what the client believes of SIGSEGV (host/fault.h, host_fault_hold_segv()) is saved with the mask.
 *
 * The kernel's mask is of 64 signals, libc's room for it of 1024: it stands in the last word, which no mask has. Without
 * a mask to be saved env may end before it.
 */
#undef _FILE_OFFSET_BITS
#undef _FORTIFY_SOURCE
#include <setjmp.h>
#include <stdint.h>

#include "abi/abi.h"
#include "preload/real.h"

#define HELD 0x75736572766b6d01UL

typedef int sigsetjmp_fn(struct __jmp_buf_tag env[1], int savemask);
__attribute__((visibility("hidden"))) sigsetjmp_fn *preload_before_sigsetjmp(struct __jmp_buf_tag env[1], int savemask);

static uint64_t *last_word(struct __jmp_buf_tag *env)
{
	return (uint64_t *)(void *)(&env->__saved_mask + 1) - 1;
}

sigsetjmp_fn *preload_before_sigsetjmp(struct __jmp_buf_tag env[1], int savemask)
{
	if (savemask)
		*last_word(env) = abi_segv_is_held() ? HELD : 0;
	return (sigsetjmp_fn *)REAL(__sigsetjmp);
}

/* It returns twice, to its caller: libc's goes on from here as if it had been called. */
__asm__(".pushsection .text\n"
	".globl __sigsetjmp\n"
	".type __sigsetjmp, @function\n"
	"__sigsetjmp:\n"
	"	push %rdi\n"
	"	push %rsi\n"
	"	sub $8, %rsp\n"
	"	call preload_before_sigsetjmp\n"
	"	add $8, %rsp\n"
	"	pop %rsi\n"
	"	pop %rdi\n"
	"	jmp *%rax\n"
	".size __sigsetjmp, . - __sigsetjmp\n"
	".popsection\n");

bool preload_jump_holds(struct __jmp_buf_tag *env)
{
	return env->__mask_was_saved ? *last_word(env) == HELD : abi_segv_is_held();
}
