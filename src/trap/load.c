/*
 * Mapping a program as the kernel would: each PT_LOAD at its
 * place, its bss zeroed, nothing over anything that is there. The same for the
 * dynamic loader that PT_INTERP names.
 *
 * Invariant: all is below TRAP_CLIENT_END, so that its system calls trap.
 */
#include "trap/load.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "trap/trap.h"

#define PAGE 4096ULL
#define MAX_HEADERS 64
#define PIE_BASE 0x080000000000ULL /* where position-independent programs go */
#define LOADER_BASE 0x0c0000000000ULL
/* Behind a program at 4 MiB: MAP_32BIT finds its memory between 1 and 2 GiB, and shadow paging needs some. */
#define BREAK_SIZE (768ULL << 20)

struct file {
	int fd;
	Elf64_Ehdr eh;
	Elf64_Phdr ph[MAX_HEADERS];
	uint64_t bias;
};

static uint64_t down(uint64_t a)
{
	return a & ~(PAGE - 1);
}

static uint64_t up(uint64_t a)
{
	return down(a + PAGE - 1);
}

static bool read_headers(struct file *f)
{
	size_t n;

	if (pread(f->fd, &f->eh, sizeof(f->eh), 0) != (ssize_t)sizeof(f->eh))
		return false;
	n = f->eh.e_phnum * sizeof(f->ph[0]);
	return f->eh.e_phnum <= MAX_HEADERS && pread(f->fd, f->ph, n, (off_t)f->eh.e_phoff) == (ssize_t)n;
}

static bool sane(const Elf64_Phdr *ph)
{
	return ph->p_filesz <= ph->p_memsz && ph->p_vaddr < TRAP_CLIENT_END &&
	       ph->p_memsz < TRAP_CLIENT_END - ph->p_vaddr && (ph->p_vaddr - ph->p_offset) % PAGE == 0;
}

/* The range of all segments, before the bias. */
static bool measure(const struct file *f, struct program *out)
{
	out->start = UINT64_MAX;
	out->end = 0;
	for (unsigned i = 0; i < f->eh.e_phnum; i++) {
		const Elf64_Phdr *ph = &f->ph[i];

		if (ph->p_type != PT_LOAD || ph->p_memsz == 0)
			continue;
		if (!sane(ph))
			return false;
		out->start = down(ph->p_vaddr) < out->start ? down(ph->p_vaddr) : out->start;
		out->end = up(ph->p_vaddr + ph->p_memsz) > out->end ? up(ph->p_vaddr + ph->p_memsz) : out->end;
		if (f->eh.e_phoff >= ph->p_offset && f->eh.e_phoff < ph->p_offset + ph->p_filesz)
			out->phdr = ph->p_vaddr + f->eh.e_phoff - ph->p_offset;
	}
	return out->start < out->end;
}

static int protection(const Elf64_Phdr *ph)
{
	return (ph->p_flags & PF_R ? PROT_READ : 0) | (ph->p_flags & PF_W ? PROT_WRITE : 0) |
	       (ph->p_flags & PF_X ? PROT_EXEC : 0);
}

static int map_segment(const struct file *f, const Elf64_Phdr *ph)
{
	uint64_t at = f->bias + ph->p_vaddr, file_end = at + ph->p_filesz, end = up(at + ph->p_memsz);
	uint64_t file_pages_end = ph->p_filesz ? up(file_end) : down(at);
	int prot = protection(ph), flags = MAP_PRIVATE | MAP_FIXED;

	if (ph->p_filesz && mmap((void *)down(at), file_pages_end - down(at), prot, flags, f->fd,
				 (off_t)down(ph->p_offset)) == MAP_FAILED)
		return -errno;
	if (end > file_pages_end && mmap((void *)file_pages_end, end - file_pages_end, prot, flags | MAP_ANONYMOUS,
					 -1, 0) == MAP_FAILED)
		return -errno;
	if (ph->p_memsz > ph->p_filesz && (prot & PROT_WRITE) && file_end < file_pages_end)
		memset((void *)file_end, 0, file_pages_end - file_end);
	return 0;
}

static int map_all(const struct file *f, struct program *out)
{
	int r = 0;

	/* Its whole range is reserved first: nothing of ours may be there. */
	if (mmap((void *)out->start, out->end - out->start, PROT_NONE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0) != (void *)out->start)
		return -ENOMEM;
	for (unsigned i = 0; i < f->eh.e_phnum && !r; i++)
		if (f->ph[i].p_type == PT_LOAD && f->ph[i].p_memsz)
			r = map_segment(f, &f->ph[i]);
	return r;
}

static int load_file(struct file *f, uint64_t base, struct program *out, const char **why)
{
	*why = "its program headers make no sense";
	if (!read_headers(f) || !measure(f, out))
		return -ENOEXEC;
	f->bias = f->eh.e_type == ET_DYN ? base - out->start : 0;
	*why = "its addresses are not free";
	out->start += f->bias;
	out->end += f->bias;
	if (out->end > TRAP_CLIENT_END)
		return -ENOMEM;
	out->phdr += f->bias;
	out->entry = f->eh.e_entry + f->bias;
	out->nr_phdr = f->eh.e_phnum;
	return map_all(f, out);
}

/* The loader that PT_INTERP names. False: there is none. */
static bool read_loader(const struct file *f, char *path, size_t size)
{
	for (unsigned i = 0; i < f->eh.e_phnum; i++) {
		const Elf64_Phdr *ph = &f->ph[i];

		if (ph->p_type != PT_INTERP || !ph->p_filesz || ph->p_filesz > size)
			continue;
		path[ph->p_filesz - 1] = 0;
		return pread(f->fd, path, ph->p_filesz - 1, (off_t)ph->p_offset) == (ssize_t)ph->p_filesz - 1;
	}
	return false;
}

/* loader: what PT_INTERP names, "" where nothing does; NULL: nobody asks. */
static int load_at(const char *path, uint64_t base, struct program *out, char *loader, const char **why)
{
	struct file f = { .fd = open(path, O_RDONLY | O_CLOEXEC) };
	int r;

	memset(out, 0, sizeof(*out));
	*why = "it cannot be read";
	if (f.fd < 0)
		return -errno;
	r = load_file(&f, base, out, why);
	if (!r && loader && !read_loader(&f, loader, PATH_MAX))
		loader[0] = 0;
	close(f.fd);
	return r;
}

int load_program(const char *path, struct program *out, const char **why)
{
	struct program loader;
	char name[PATH_MAX];
	int r = load_at(path, PIE_BASE, out, name, why);

	out->first = out->entry;
	if (r || !name[0])
		return r;
	r = load_at(name, LOADER_BASE, &loader, NULL, why);
	if (r) {
		*why = "its dynamic loader cannot be mapped";
		return r;
	}
	out->loader = loader.start;
	out->first = loader.entry;
	return 0;
}

void load_break(const struct program *p)
{
	void *want = (void *)(p->end + PAGE);

	trap.brk_start = trap.brk = trap.brk_end = (uint64_t)want;
	if (mmap(want, BREAK_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1,
		 0) == want)
		trap.brk_end += BREAK_SIZE;
}
