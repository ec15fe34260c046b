/*
 * The one client of this process (trap.h). Written before the client runs; its break
 * afterwards by trap_brk(), around which the client's C library has its own lock.
 */
#include "trap/trap.h"

struct trap_state trap;
