/* Coverage feedback for fuzzers; see edges.c. */
#ifndef TESTS_FUZZ_EDGES_H
#define TESTS_FUZZ_EDGES_H

#include <stdint.h>

/* How many edges were taken, since the last call, for the first time ever. 0 in a build without coverage. */
unsigned edges_new(void);

#endif
