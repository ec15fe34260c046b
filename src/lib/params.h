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
 * Every knob there is, and what its value is: a boolean, a number (UINT: below
 * 2^32), or a word of the knob's own.
 */
#define PARAMS(X)                            \
	X(ept, BOOL)                         \
	X(eptad, BOOL)                       \
	X(tdp_mmu, BOOL)                     \
	X(eager_page_split, BOOL)            \
	X(nx_huge_pages, WORD)               \
	X(nx_huge_pages_recovery_ratio, UINT) \
	X(nx_huge_pages_recovery_period_ms, UINT) \
	X(max_table_pages, NUMBER)           \
	X(unrestricted_guest, BOOL)          \
	X(vpid, BOOL)                        \
	X(pml, BOOL)

/*
 * The value of a boolean knob, by a name of PARAMS: 1 y Y or 0 n N; dflt when it is not named (or
 * its value is none of these). The last mention wins. Any thread; callers keep the answer, the
 * environment may change.
 */
bool params_get_bool(const char *name, bool dflt);
/* The same for a number, decimal or 0x…. */
uint64_t params_get_u64(const char *name, uint64_t dflt);
/* The same for a UINT: what does not fit is none of these. */
uint32_t params_get_u32(const char *name, uint32_t dflt);
/* The value as it stands. False: not named, or longer than `size` bytes with its end. */
bool params_get_string(const char *name, char *value, size_t size);

/*
 * A line on standard error for each unknown name and each value of the wrong kind, as Linux logs them;
 * and for each word of USERKVM_LOG and USERKVM_CHECK that is none.
 */
void params_check(void);
/* The latter for one variable and the nr words it may have. */
void params_check_words(const char *variable, const char *const *words, size_t nr);

/* Is `word` in the comma list in the environment's `variable`? Any thread. */
bool params_has_word(const char *variable, const char *word);

#endif
