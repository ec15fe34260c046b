/*
 * The client's mappings, which guests may have mapped: the preload library's
 * mmap() and its like tell them. And the program break: the process has one,
 * which is the host's; the client's is a reserved range behind its file.
 */
#include <errno.h>
#include <sys/mman.h>

#include "trap/trap.h"

static int64_t address(void *p)
{
	return p == MAP_FAILED ? -errno : (int64_t)p;
}

int64_t trap_mmap(struct trap_call *c)
{
	return address(mmap((void *)c->arg[0], c->arg[1], (int)c->arg[2], (int)c->arg[3], (int)c->arg[4],
			    (off_t)c->arg[5]));
}

int64_t trap_munmap(struct trap_call *c)
{
	return trap_result(munmap((void *)c->arg[0], c->arg[1]));
}

int64_t trap_mremap(struct trap_call *c)
{
	return address(mremap((void *)c->arg[0], c->arg[1], c->arg[2], (int)c->arg[3], (void *)c->arg[4]));
}

int64_t trap_mprotect(struct trap_call *c)
{
	return trap_result(mprotect((void *)c->arg[0], c->arg[1], (int)c->arg[2]));
}

int64_t trap_pkey_mprotect(struct trap_call *c)
{
	return trap_result(pkey_mprotect((void *)c->arg[0], c->arg[1], (int)c->arg[2], (int)c->arg[3]));
}

int64_t trap_madvise(struct trap_call *c)
{
	return trap_result(madvise((void *)c->arg[0], c->arg[1], (int)c->arg[2]));
}

int64_t trap_process_madvise(struct trap_call *c)
{
	return trap_result(process_madvise((int)c->arg[0], (const struct iovec *)c->arg[1], c->arg[2],
					   (int)c->arg[3], (unsigned)c->arg[4]));
}

static uint64_t page_up(uint64_t a)
{
	return (a + 4095) & ~4095ULL;
}

/* As brk(2): the new break, or the old one where it cannot be. C libraries lock around it. */
int64_t trap_brk(struct trap_call *c)
{
	uint64_t to = c->arg[0], old_end = page_up(trap.brk), new_end = page_up(to);

	if (to < trap.brk_start || to > trap.brk_end)
		return (int64_t)trap.brk;
	if (new_end > old_end &&
	    mprotect((void *)old_end, new_end - old_end, PROT_READ | PROT_WRITE))
		return (int64_t)trap.brk;
	if (new_end < old_end &&
	    mmap((void *)new_end, old_end - new_end, PROT_NONE,
		 MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) == MAP_FAILED)
		return (int64_t)trap.brk;
	trap.brk = to;
	return (int64_t)to;
}
