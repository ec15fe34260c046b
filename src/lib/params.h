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
 * Every knob there is: its name, the kind of its value (a boolean, a number, UINT: below 2^32, or a
 * WORD of the knob's own), its default as it would stand in the list, and what it does. An empty
 * default of a NUMBER is no limit.
 */
#define PARAMS(X)                                                                                      \
	X(ept, BOOL, "1", "EPT; 0: shadow page tables")                                                \
	X(eptad, BOOL, "1", "accessed and dirty flags in EPT entries")                                 \
	X(tdp_mmu, BOOL, "1", "faults in EPT tables are handled in parallel")                          \
	X(eager_page_split, BOOL, "1", "larger pages are split when dirty logging starts")             \
	X(nx_huge_pages, WORD, "off", "larger pages are not executable: force, off, auto, never or a boolean") \
	X(nx_huge_pages_recovery_ratio, UINT, "60", "1/N of the split pages is given back in a period") \
	X(nx_huge_pages_recovery_period_ms, UINT, "0", "that period; 0: it follows from the ratio")    \
	X(max_table_pages, NUMBER, "", "most page-table pages of a VM (ours, not KVM's)")              \
	X(unrestricted_guest, BOOL, "1", "real mode and unpaged protected mode in VMX non-root operation") \
	X(vpid, BOOL, "1", "translations are tagged by VPID")                                          \
	X(pml, BOOL, "1", "page-modification logging")                             \
	X(flexpriority, BOOL, "1", "the local APIC's page in xAPIC mode is the processor's affair")    \
	X(enable_apicv, BOOL, "1", "the processor reads APIC registers, delivers and posts interrupts") \
	X(pku, WORD, "auto", "protection keys are offered to guests: a boolean; auto: where the host has them") \
	X(enable_shadow_vmcs, BOOL, "1", "a guest's hypervisor reads and writes its VMCS without an exit") \
	X(nested, BOOL, "1", "VMX is offered to guests, which may then run guests of their own")

/*
 * The value of a boolean knob, by a name of PARAMS: 1 y Y or 0 n N; the table's default when it is
 * not named (or its value is none of these). The last mention wins. Any thread; callers keep the
 * answer, the environment may change.
 */
bool params_get_bool(const char *name);
/* The same for a number, decimal or 0x…. */
uint64_t params_get_u64(const char *name);
/* The same for a UINT: what does not fit is none of these. */
uint32_t params_get_u32(const char *name);
/* The value as it stands. False: not named, or longer than `size` bytes with its end. */
bool params_get_string(const char *name, char *value, size_t size);

/* The variables that the library and the command read, and the words that one may hold ("" : anything). */
#define VARIABLES(X)                                    \
	X(USERKVM_PARAMS, "")                           \
	X(USERKVM_ENGINE, "interp,jit")                 \
	X(USERKVM_LOG, "errors,info,debug")             \
	X(USERKVM_CHECK, "0,1,tlb,emulate,entry,guesttlb,strict,spec,ept02,l1ept,l1vpid")\
	X(USERKVM_CHECK_LOG, "")                        \
	X(USERKVM_CHECK_SUPPRESS, "")                   \
	X(USERKVM_CONFINE, "0,1")                       \
	X(USERKVM_CONTROL, "0,1")                       \
	X(USERKVM_GDB, "wait")                          \
	X(USERKVM_GHOST_DEAF, "")                       \
	X(USERKVM_JIT, "")                              \
	X(USERKVM_FORGET, "invept")                     \
	X(USERKVM_HOST_CPUID, "")                       \
	X(USERKVM_HOST_VMX, "0,1")                      \
	X(USERKVM_INJECT, "")                           \
	X(USERKVM_STRACE, "")                           \
	X(USERKVM_STRACE_TIMES, "")                     \
	X(USERKVM_TRACE, "")                            \
	X(USERKVM_TRACE_INSN, "")                       \
	X(USERKVM_TRAP, "seccomp,arch_prctl,all")           \
	X(USERKVM_STATIC_PROGRAM, "")

/*
 * Calls tell() with one line, without its end, for each USERKVM_ variable that is none of VARIABLES,
 * each word in one that it may not hold, and each name or value in USERKVM_PARAMS that is wrong.
 * Returns how many. Not while another thread changes the environment.
 */
unsigned params_faults(void (*tell)(void *arg, const char *line), void *arg);
/* The same lines on standard error, as Linux logs a module's: what is wrong is ignored. */
void params_check(void);
/* Calls row() for each knob of PARAMS: its kind in words, its default, what it does. */
void params_each(void (*row)(void *arg, const char *name, const char *kind, const char *dflt, const char *what),
		 void *arg);

/* Is `word` in the comma list in the environment's `variable`? Any thread. */
bool params_has_word(const char *variable, const char *word);

#endif
