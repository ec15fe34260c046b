/*
 * Two views of one piece of memory (emit/exec.h).
 *
 * mmap(PROT_EXEC, MAP_SHARED | MAP_ANONYMOUS), then mremap() with an old size of 0,
 * which duplicates a shared mapping, then mprotect() of the duplicate.
 *
 * Locks: none.
 */
#include "emit/exec.h"

#include <errno.h>
#include <sys/mman.h>

#include "lib/error.h"

static int refused(const char *what)
{
	int e = errno;

	if (e == EACCES || e == EPERM)
		return err_born(EPERM, "no executable memory: %s: refused by the host's policy", what);
	return err_born(ENOMEM, "no executable memory: %s: error %d", what, e);
}

/* `run` is no longer wanted: unmap it, or leave the caller's reservation as it was. */
static void take_back(void *run, size_t size, const void *at)
{
	if (!at || mmap(run, size, PROT_NONE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
		munmap(run, size);
}

int exec_memory_create(struct exec_memory *m, size_t size, void *at)
{
	uint8_t *run, *rw;
	int err;

	*m = (struct exec_memory){ 0 };
	size = ALIGN_UP(size, (size_t)PAGE_SIZE);
	run = mmap(at, size, PROT_READ | PROT_EXEC,
		   MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE | (at ? MAP_FIXED : 0), -1, 0);
	if (run == MAP_FAILED)
		return refused("mmap");
	rw = mremap(run, 0, size, MREMAP_MAYMOVE);
	if (rw == MAP_FAILED) {
		err = refused("mremap");
		take_back(run, size, at);
		return err;
	}
	if (mprotect(rw, size, PROT_READ | PROT_WRITE) || madvise(rw, size, MADV_DONTFORK) ||
	    madvise(run, size, MADV_DONTFORK)) {
		err = refused("mprotect");
		munmap(rw, size);
		take_back(run, size, at);
		return err;
	}
	*m = (struct exec_memory){ .rw = rw, .run = run, .size = size };
	return 0;
}

void exec_memory_destroy(struct exec_memory *m)
{
	if (m->rw) {
		munmap(m->rw, m->size);
		munmap(m->run, m->size);
	}
	*m = (struct exec_memory){ 0 };
}

/*
 * IRET serialises and is legal at any privilege level. CPUID would too, but exits to
 * the hypervisor where the host is itself a virtual machine.
 */
void exec_memory_sync(void)
{
	uint64_t ss, rsp, rflags, cs, rip;

	__asm__ volatile("mov %%ss, %k[ss]\n\t"
			 "mov %%cs, %k[cs]\n\t"
			 "pushfq\n\t"
			 "pop %[rflags]\n\t"
			 "mov %%rsp, %[rsp]\n\t"
			 "lea 1f(%%rip), %[rip]\n\t"
			 "sub $128, %%rsp\n\t" /* past the red zone */
			 "and $-16, %%rsp\n\t"
			 "push %[ss]\n\t"
			 "push %[rsp]\n\t"
			 "push %[rflags]\n\t"
			 "push %[cs]\n\t"
			 "push %[rip]\n\t"
			 "iretq\n"
			 "1:"
			 : [ss] "=&r"(ss), [rsp] "=&r"(rsp), [rflags] "=&r"(rflags), [cs] "=&r"(cs),
			   [rip] "=&r"(rip)
			 : : "memory", "cc");
}
