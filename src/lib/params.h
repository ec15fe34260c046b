/*
 * Knobs: USERKVM_PARAMS="ept=1,eptad=1,…" with the names of KVM's module
 * parameters.
 */
#ifndef USERKVM_LIB_PARAMS_H
#define USERKVM_LIB_PARAMS_H

#include <stdbool.h>

/* Every knob there is. */
#define PARAMS(X)           \
	X(ept)              \
	X(eptad)            \
	X(tdp_mmu)          \
	X(eager_page_split) \
	X(nx_huge_pages)    \
	X(unrestricted_guest) \
	X(vpid)             \
	X(pml)

/*
 * The value of a boolean knob, by a name of PARAMS: 1 y Y or 0 n N; dflt when it is not named (or
 * its value is none of these). The last mention wins. Any thread; callers keep the answer, the
 * environment may change.
 */
bool params_get_bool(const char *name, bool dflt);

/* A line on standard error for each unknown name and each value that is no boolean, as Linux logs them. */
void params_check(void);

#endif
