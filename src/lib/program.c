/*
 * What kind of file a program is: its first bytes, its program headers, its
 * mode. It keeps no state.
 */
#include "lib/program.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

/* 0; EACCES: it is there and may not be executed; ENOENT. A directory that may not be searched has nothing. */
static int may_execute(const char *path)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return ENOENT;
	return S_ISREG(st.st_mode) && access(path, X_OK) == 0 ? 0 : EACCES;
}

const char *program_find(const char *name, char *buf, size_t size)
{
	const char *path = getenv("PATH");
	int why = ENOENT, r;
	size_t n;

	if (strchr(name, '/'))
		return name;
	for (path = path ? path : "/bin:/usr/bin"; *name; path += n + 1) {
		n = strcspn(path, ":");
		if (snprintf(buf, size, "%.*s%s%s", (int)n, path, n ? "/" : "", name) < (int)size) {
			r = may_execute(buf);
			if (!r)
				return buf;
			why = r == EACCES ? EACCES : why;
		}
		if (!path[n])
			break;
	}
	errno = why;
	return NULL;
}

static enum program_kind kind_of_file(int fd)
{
	Elf64_Ehdr eh;
	Elf64_Phdr ph;
	ssize_t n = read(fd, &eh, sizeof(eh));
	bool loads = false;

	if (n < SELFMAG || memcmp(eh.e_ident, ELFMAG, SELFMAG) != 0)
		return PROGRAM_NONE;
	if (n >= (ssize_t)sizeof(Elf32_Ehdr) && eh.e_ident[EI_CLASS] == ELFCLASS32)
		return PROGRAM_32BIT;
	if (n != (ssize_t)sizeof(eh))
		return PROGRAM_BROKEN;
	if (eh.e_ident[EI_CLASS] != ELFCLASS64 || eh.e_ident[EI_DATA] != ELFDATA2LSB || eh.e_machine != EM_X86_64)
		return PROGRAM_FOREIGN;
	if ((eh.e_type != ET_EXEC && eh.e_type != ET_DYN) || eh.e_phentsize != sizeof(ph))
		return PROGRAM_BROKEN;
	for (unsigned i = 0; i < eh.e_phnum; i++) {
		if (pread(fd, &ph, sizeof(ph), (off_t)(eh.e_phoff + i * sizeof(ph))) != (ssize_t)sizeof(ph))
			return PROGRAM_BROKEN;
		if (ph.p_type == PT_INTERP)
			return PROGRAM_DYNAMIC;
		loads |= ph.p_type == PT_LOAD;
	}
	return loads ? PROGRAM_STATIC : PROGRAM_BROKEN;
}

enum program_kind program_kind_of(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	enum program_kind kind = fd < 0 ? PROGRAM_NONE : kind_of_file(fd);

	if (fd >= 0)
		close(fd);
	return kind;
}

#define GO_BUILD_ID 4 /* a note's type, with Go's name */

/* A note of Go's among those of one segment. */
static bool has_go_note(int fd, const Elf64_Phdr *ph)
{
	char notes[1024];
	ssize_t n = pread(fd, notes, ph->p_filesz < sizeof(notes) ? ph->p_filesz : sizeof(notes), (off_t)ph->p_offset);
	Elf64_Nhdr h;

	for (size_t at = 0; n > 0 && at + sizeof(h) + 4 <= (size_t)n;) {
		memcpy(&h, notes + at, sizeof(h));
		if (h.n_type == GO_BUILD_ID && h.n_namesz == 4 && memcmp(notes + at + sizeof(h), "Go", 3) == 0)
			return true;
		at += sizeof(h) + ((h.n_namesz + 3UL) & ~3UL) + ((h.n_descsz + 3UL) & ~3UL);
	}
	return false;
}

/* Go's linker leaves a note, its build id, in what it makes. */
static bool is_go(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	bool found = false;
	Elf64_Ehdr eh;
	Elf64_Phdr ph;

	if (fd < 0)
		return false;
	if (read(fd, &eh, sizeof(eh)) == (ssize_t)sizeof(eh) && memcmp(eh.e_ident, ELFMAG, SELFMAG) == 0 &&
	    eh.e_ident[EI_CLASS] == ELFCLASS64 && eh.e_phentsize == sizeof(ph))
		for (unsigned i = 0; i < eh.e_phnum && !found; i++)
			found = pread(fd, &ph, sizeof(ph), (off_t)(eh.e_phoff + i * sizeof(ph))) == (ssize_t)sizeof(ph) &&
				ph.p_type == PT_NOTE && has_go_note(fd, &ph);
	close(fd);
	return found;
}

/* Its dynamic loader is musl's. */
static bool is_musl(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char name[64];
	bool found = false;
	Elf64_Ehdr eh;
	Elf64_Phdr ph;

	if (fd < 0)
		return false;
	if (read(fd, &eh, sizeof(eh)) == (ssize_t)sizeof(eh) && eh.e_phentsize == sizeof(ph))
		for (unsigned i = 0; i < eh.e_phnum && !found; i++)
			found = pread(fd, &ph, sizeof(ph), (off_t)(eh.e_phoff + i * sizeof(ph))) == (ssize_t)sizeof(ph) &&
				ph.p_type == PT_INTERP && ph.p_filesz <= sizeof(name) &&
				pread(fd, name, ph.p_filesz, (off_t)ph.p_offset) == (ssize_t)ph.p_filesz &&
				memmem(name, ph.p_filesz, "/ld-musl-", 9);
	close(fd);
	return found;
}

bool program_is_trapped(const char *path, bool all)
{
	enum program_kind kind = program_kind_of(path);

	return kind == PROGRAM_STATIC || (kind == PROGRAM_DYNAMIC && (all || is_go(path) || is_musl(path)));
}

bool program_is_script(const char *path, char *interp, char *arg, size_t size)
{
	char line[256], *p = line + 2, *end;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, line, sizeof(line) - 1);

	if (fd >= 0)
		close(fd);
	if (n < 3 || line[0] != '#' || line[1] != '!')
		return false;
	line[n] = 0;
	line[strcspn(line, "\n")] = 0;
	p += strspn(p, " \t");
	end = p + strcspn(p, " \t");
	if (end == p || (size_t)(end - p) >= size)
		return false;
	memcpy(interp, p, (size_t)(end - p));
	interp[end - p] = 0;
	p = end + strspn(end, " \t");
	for (end = p + strlen(p); end > p && (end[-1] == ' ' || end[-1] == '\t'); end--)
		;
	if ((size_t)(end - p) >= size)
		return false;
	memcpy(arg, p, (size_t)(end - p));
	arg[end - p] = 0;
	return true;
}

bool program_changes_rights(const char *path)
{
	struct stat st;

	if (stat(path, &st))
		return false;
	return ((st.st_mode & S_ISUID) && st.st_uid != geteuid()) ||
	       ((st.st_mode & S_ISGID) && (st.st_mode & S_IXGRP) && st.st_gid != getegid()) ||
	       (geteuid() != 0 && getxattr(path, "security.capability", NULL, 0) > 0);
}

bool program_env_asks(const char *entry)
{
	return strncmp(entry, "LD_PRELOAD=", 11) == 0 && strstr(entry, PROGRAM_LIBRARY);
}

bool program_is_trapping_host(void)
{
	const char *program = (const char *)getauxval(AT_EXECFN), *name = program ? strrchr(program, '/') : NULL;

	return name && strcmp(name, "/userkvm-static") == 0;
}
