/*
 * Where the library's code lies in memory, by the linker's symbols.
 */
#include "abi/abi.h"
#include "lib/export.h"

extern const char __ehdr_start[] __attribute__((visibility("hidden")));
extern const char __etext[] __attribute__((visibility("hidden")));

USERKVM_SHARED bool abi_is_own_code(const void *p)
{
	return (const char *)p >= __ehdr_start && (const char *)p < __etext;
}
