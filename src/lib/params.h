/*
 * Knobs: USERKVM_PARAMS="ept=1,eptad=1,…" with the names of KVM's module
 * parameters; and variables that are a list of words (USERKVM_LOG,
 * USERKVM_CHECK).
 */
#ifndef USERKVM_LIB_PARAMS_H
#define USERKVM_LIB_PARAMS_H

#include <stdbool.h>

/*
 * The value of a boolean knob: 1 y Y or 0 n N; dflt when it is not named (or
 * its value is none of these, which is logged). The last mention wins. Any
 * thread; callers keep the answer, the environment may change.
 */
bool params_get_bool(const char *name, bool dflt);

/* Is `word` in the comma list in the environment's `variable`? Any thread. */
bool params_has_word(const char *variable, const char *word);

#endif
