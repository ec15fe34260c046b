/*
 * The client's mappings, which guests may have mapped: the preload library's
 * mmap() and its like tell them. And the program break: the process has one,
 * which is the host's; the client's is a reserved range behind its file.
 */
#include <errno.h>
#include <sys/mman.h>

#include "trap/load.h"
#include "trap/trap.h"

#define PAGE 4096ULL

static uint64_t page_up(uint64_t a)
{
	return (a + PAGE - 1) & ~(PAGE - 1);
}

static int64_t address(void *p)
{
	return p == MAP_FAILED ? -errno : (int64_t)p;
}

/*
 * A dynamic program's loader maps libraries where the kernel likes, which is above TRAP_CLIENT_END: their system calls
 * would not trap. The kernel follows an address that it is given where nothing is mapped.
 */
static uint64_t place(const struct trap_call *c)
{
	static uint64_t next = LOAD_MAPPINGS;
	const uint64_t room = TRAP_CLIENT_END - LOAD_MAPPINGS, length = page_up(c->arg[1]) + PAGE;
	int prot = (int)c->arg[2], flags = (int)c->arg[3];
	bool file = !(flags & MAP_ANONYMOUS) && (flags & MAP_TYPE) == MAP_PRIVATE;
	uint64_t at;

	if (!trap.dynamic || c->arg[0] || (flags & (MAP_FIXED | MAP_32BIT)) || !(file || (prot & PROT_EXEC)) ||
	    length > room)
		return c->arg[0];
	at = __atomic_fetch_add(&next, length, __ATOMIC_RELAXED);
	if (at + length > TRAP_CLIENT_END) {
		at = LOAD_MAPPINGS;
		__atomic_store_n(&next, at + length, __ATOMIC_RELAXED);
	}
	return at;
}

int64_t trap_mmap(struct trap_call *c)
{
	return address(mmap((void *)place(c), c->arg[1], (int)c->arg[2], (int)c->arg[3], (int)c->arg[4],
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
