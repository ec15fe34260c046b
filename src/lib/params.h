/*
 * Knobs: USERKVM_PARAMS="ept=1,eptad=1,…" with the names of KVM's module
 * parameters.
 */
#ifndef USERKVM_LIB_PARAMS_H
#define USERKVM_LIB_PARAMS_H

#include <stdbool.h>
#include <stdint.h>

/*
 * The value of a boolean knob: 1 y Y or 0 n N; dflt when it is not named (or
 * its value is none of these, which is logged). The last mention wins. Any
 * thread; callers keep the answer, the environment may change.
 */
bool params_get_bool(const char *name, bool dflt);
/* The same for a decimal number. */
uint64_t params_get_u64(const char *name, uint64_t dflt);

#endif
