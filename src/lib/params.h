/*
 * Knobs: USERKVM_PARAMS="ept=1,eptad=1,…" with the names of KVM's module
 * parameters.
 */
#ifndef USERKVM_LIB_PARAMS_H
#define USERKVM_LIB_PARAMS_H

#include <stdbool.h>
#include <stdint.h>

/* Every knob there is: booleans, and numbers. */
#define PARAMS(X)           \
	X(ept)              \
	X(eptad)            \
	X(tdp_mmu)          \
	X(eager_page_split) \
	X(nx_huge_pages)    \
	X(unrestricted_guest) \
	X(vpid)             \
	X(pml)
#define NUMBER_PARAMS(X) X(max_table_pages)

/*
 * The value of a boolean knob, by a name of PARAMS: 1 y Y or 0 n N; dflt when it is not named (or
 * its value is none of these). The last mention wins. Any thread; callers keep the answer, the
 * environment may change.
 */
bool params_get_bool(const char *name, bool dflt);
/* The same for a number of NUMBER_PARAMS, decimal or 0x…, of 32 bits. */
uint32_t params_get_uint(const char *name, uint32_t dflt);

/* A line on standard error for each unknown name and each value that does not fit, as Linux logs them. */
void params_check(void);

#endif
