/*
 * Checkers, off unless asked for: USERKVM_CHECK is a comma list of their names
 * (tlb: src/cpu/tlb_check.h).
 */
#ifndef USERKVM_LIB_CHECK_H
#define USERKVM_LIB_CHECK_H

#include <stdbool.h>

/* Is the checker named? Any thread; callers keep the answer, the environment may change. */
bool check_wanted(const char *name);

#endif
