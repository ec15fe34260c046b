/*
 * Two views of one piece of memory (emit/exec.h).
 *
 * Both lie among the library's own addresses (lib/own.h), which no guest is given.
 * mmap(PROT_EXEC, MAP_SHARED | MAP_ANONYMOUS), then mremap() with an old size of 0,
 * which duplicates a shared mapping, then mprotect() of the duplicate. Where mremap() does not
 * do that (valgrind), a segment of System V shared memory is attached twice. Where the policy of
 * the host asks for a file behind executable memory (SELinux without execmem), a nameless one is
 * mapped twice.
 *
 * Locks: none.
 */
#include "emit/exec.h"

#include <errno.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <unistd.h>

#include "lib/anon_file.h"
#include "lib/error.h"
#include "lib/own.h"

static int refused(const char *what)
{
	int e = errno;

	if (e == EACCES || e == EPERM)
		return err_born(EPERM, "no executable memory: %s: refused by the host's policy", what);
	return err_born(ENOMEM, "no executable memory: %s: error %d", what, e);
}

/* Addresses for a view, the caller's or new ones; mapped afresh they are without access. */
static void *reserve(void *at, size_t size)
{
	return at ? at : own_reserve(size);
}

static void take_back(void *run, size_t size, bool reserved_here)
{
	if (reserved_here)
		own_pages_free(run);
	else if (mmap(run, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) ==
		 MAP_FAILED)
		munmap(run, size);
}

/* 0, or -EINVAL where mremap() makes no second view. */
static int map_twice(uint8_t *run, uint8_t *rw, size_t size)
{
	if (mmap(run, size, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
		 0) == MAP_FAILED)
		return refused("mmap");
	if (mremap(run, 0, size, MREMAP_MAYMOVE | MREMAP_FIXED, rw) == MAP_FAILED)
		return errno == EINVAL ? -EINVAL : refused("mremap");
	return mprotect(rw, size, PROT_READ | PROT_WRITE) ? refused("mprotect") : 0;
}

/* The segment is gone with its two views. mprotect() changes nothing but what valgrind knows of them. */
static int attach_twice(uint8_t *run, uint8_t *rw, size_t size)
{
	int id = shmget(IPC_PRIVATE, size, IPC_CREAT | SHM_NORESERVE | 0600), r = 0;

	if (id < 0)
		return refused("shmget");
	if (shmat(id, run, SHM_REMAP | SHM_EXEC | SHM_RDONLY) != run || shmat(id, rw, SHM_REMAP) != rw ||
	    mprotect(run, size, PROT_READ | PROT_EXEC))
		r = refused("shmat");
	shmctl(id, IPC_RMID, NULL);
	return r;
}

static int map_file_twice(uint8_t *run, uint8_t *rw, size_t size)
{
	int fd = lib_anon_file("userkvm-code", MFD_CLOEXEC), r;

	if (fd < 0)
		return fd;
	r = lib_anon_file_grow(fd, size);
	if (!r && (mmap(run, size, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, fd, 0) == MAP_FAILED ||
		   mmap(rw, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, fd, 0) == MAP_FAILED))
		r = refused("mmap of a file");
	close(fd);
	return r;
}

int exec_memory_create(struct exec_memory *m, size_t size, void *at)
{
	uint8_t *run = reserve(at, size), *rw = own_reserve(size);
	int err;

	*m = (struct exec_memory){ 0 };
	size = ALIGN_UP(size, (size_t)PAGE_SIZE);
	if (!run || !rw) {
		err = err_born(ENOMEM, "no addresses for executable memory");
		goto out;
	}
	err = map_twice(run, rw, size);
	if (err == -EINVAL)
		err = attach_twice(run, rw, size);
	else if (err == -EPERM)
		err = map_file_twice(run, rw, size);
	if (!err && (madvise(rw, size, MADV_DONTFORK) || madvise(run, size, MADV_DONTFORK)))
		err = refused("madvise");
	if (err)
		goto out;
	*m = (struct exec_memory){ .rw = rw, .run = run, .size = size, .reserved_here = !at };
	return 0;
out:
	own_pages_free(rw);
	if (run)
		take_back(run, size, !at);
	return err;
}

void exec_memory_destroy(struct exec_memory *m)
{
	if (m->rw) {
		own_pages_free(m->rw);
		take_back(m->run, m->size, m->reserved_here);
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
