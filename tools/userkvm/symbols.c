/*
 * Functions of a guest's kernel by address: from an ELF file's symbol table or a System.map.
 */
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "tools/userkvm/symbols.h"

#define ENTRY "entry_SYSCALL_64"

static void add_symbol(struct symbols *t, uint64_t at, const char *name)
{
	if (t->nr == t->room) {
		size_t room = t->room ? 2 * t->room : 4096;
		struct symbol *more = realloc(t->s, room * sizeof(*more));

		if (!more)
			return;
		t->s = more;
		t->room = room;
	}
	t->s[t->nr].at = at;
	snprintf(t->s[t->nr++].name, sizeof(t->s->name), "%s", name);
	if (strcmp(name, ENTRY) == 0)
		t->entry = at;
}

static void read_map(struct symbols *t, FILE *f)
{
	unsigned long long at;
	char kind, name[256];

	while (fscanf(f, "%llx %c %255s%*[^\n]", &at, &kind, name) == 3)
		if (strchr("tTwW", kind))
			add_symbol(t, at, name);
}

/* The functions of a 64-bit ELF file's symbol table; what does not fit the file is left out. */
static void read_elf(struct symbols *t, const uint8_t *p, size_t size)
{
	const Elf64_Ehdr *h = (const void *)p;

	for (unsigned n = 0; n < h->e_shnum; n++) {
		const Elf64_Shdr *sh = (const void *)(p + h->e_shoff + n * sizeof(*sh)), *str;

		if (h->e_shoff + (n + 1) * sizeof(*sh) > size || sh->sh_type != SHT_SYMTAB || sh->sh_link >= h->e_shnum ||
		    sh->sh_offset + sh->sh_size > size || sh->sh_offset + sh->sh_size < sh->sh_offset)
			continue;
		str = (const void *)(p + h->e_shoff + sh->sh_link * sizeof(*sh));
		if ((const uint8_t *)(str + 1) > p + size || str->sh_offset + str->sh_size > size)
			continue;
		for (size_t k = 0; k < sh->sh_size / sizeof(Elf64_Sym); k++) {
			const Elf64_Sym *s = (const Elf64_Sym *)(const void *)(p + sh->sh_offset) + k;
			char name[64];

			if (!s->st_value || s->st_name >= str->sh_size ||
			    (ELF64_ST_TYPE(s->st_info) != STT_FUNC && ELF64_ST_TYPE(s->st_info) != STT_NOTYPE))
				continue;
			snprintf(name, sizeof(name), "%.*s", (int)(sizeof(name) - 1 < str->sh_size - s->st_name ? sizeof(name) - 1
				 : str->sh_size - s->st_name), (const char *)(p + str->sh_offset + s->st_name));
			add_symbol(t, s->st_value, name);
		}
	}
}

static int by_address(const void *a, const void *b)
{
	const struct symbol *x = a, *y = b;

	return x->at < y->at ? -1 : x->at > y->at;
}

bool symbols_read(struct symbols *t, const char *file)
{
	FILE *f = fopen(file, "re");
	char magic[sizeof(Elf64_Ehdr)];
	struct stat st;
	size_t n;
	void *p;

	if (!f)
		return false;
	n = fread(magic, 1, sizeof(magic), f);
	rewind(f);
	if (n == sizeof(magic) && memcmp(magic, ELFMAG, SELFMAG) == 0 && magic[EI_CLASS] == ELFCLASS64 && fstat(fileno(f), &st) == 0) {
		p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fileno(f), 0);
		if (p != MAP_FAILED) {
			read_elf(t, p, (size_t)st.st_size);
			munmap(p, (size_t)st.st_size);
		}
	} else {
		read_map(t, f);
	}
	fclose(f);
	if (t->nr)
		qsort(t->s, t->nr, sizeof(*t->s), by_address);
	return t->nr;
}

const char *symbols_name(const struct symbols *t, uint64_t rip, uint64_t lstar, char *buf, size_t size)
{
	uint64_t at = rip - (t->entry && lstar ? lstar - t->entry : 0);
	size_t low = 0, high = t->nr;

	while (low < high) {
		size_t mid = (low + high) / 2;

		if (t->s[mid].at <= at)
			low = mid + 1;
		else
			high = mid;
	}
	if (low && at - t->s[low - 1].at < 0x100000 && rip >> 47)
		snprintf(buf, size, "%s+%#llx", t->s[low - 1].name, (unsigned long long)(at - t->s[low - 1].at));
	else
		snprintf(buf, size, "%#llx", (unsigned long long)rip);
	return buf;
}
