/*
 * Knobs: USERKVM_PARAMS="ept=1,eptad=1,…" with the names of KVM's module
 * parameters; and variables that are a list of words (USERKVM_LOG,
 * USERKVM_CHECK).
 */
#ifndef USERKVM_LIB_PARAMS_H
#define USERKVM_LIB_PARAMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * The value of a boolean knob: 1 y Y or 0 n N; dflt when it is not named (or
 * its value is none of these, which is logged). The last mention wins. Any
 * thread; callers keep the answer, the environment may change.
 */
bool params_get_bool(const char *name, bool dflt);
/* The same for a number, decimal or 0x…, of 32 bits. */
uint32_t params_get_uint(const char *name, uint32_t dflt);
/* The value as it stands. False: not named, or longer than `size` bytes with its end. */
bool params_get_string(const char *name, char *value, size_t size);

/* Is `word` in the comma list in the environment's `variable`? Any thread. */
bool params_has_word(const char *variable, const char *word);

#endif
