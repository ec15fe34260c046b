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

/* An ELF file in memory, of either class. */
struct elf {
	const uint8_t *p;
	size_t size;
	bool wide; /* ELFCLASS64 */
};

/* What `size` bytes at `offset` of the file are; NULL: they are not in it. */
static const void *elf_at(const struct elf *e, uint64_t offset, uint64_t size)
{
	return offset > e->size || size > e->size - offset ? NULL : e->p + offset;
}

/* The n-th section's header, as one of 64 bits. */
static bool elf_section(const struct elf *e, unsigned n, Elf64_Shdr *out)
{
	if (e->wide) {
		const Elf64_Ehdr *h = (const void *)e->p;
		const Elf64_Shdr *s = n < h->e_shnum ? elf_at(e, h->e_shoff + n * sizeof(*s), sizeof(*s)) : NULL;

		if (s)
			*out = *s;
		return s;
	}
	const Elf32_Ehdr *h = (const void *)e->p;
	const Elf32_Shdr *s = n < h->e_shnum ? elf_at(e, h->e_shoff + n * sizeof(*s), sizeof(*s)) : NULL;

	if (s)
		*out = (Elf64_Shdr){ .sh_type = s->sh_type, .sh_link = s->sh_link, .sh_offset = s->sh_offset, .sh_size = s->sh_size };
	return s;
}

static Elf64_Sym elf_symbol(const struct elf *e, const void *table, size_t k)
{
	const Elf32_Sym *s = (const Elf32_Sym *)table + k;

	if (e->wide)
		return ((const Elf64_Sym *)table)[k];
	return (Elf64_Sym){ .st_name = s->st_name, .st_info = s->st_info, .st_shndx = s->st_shndx, .st_value = s->st_value };
}

/* The functions of its symbol tables; what does not fit the file is left out. */
static void read_elf(struct symbols *t, const struct elf *e)
{
	size_t each = e->wide ? sizeof(Elf64_Sym) : sizeof(Elf32_Sym);
	Elf64_Shdr sh, str;

	for (unsigned n = 0; elf_section(e, n, &sh); n++) {
		const char *names;
		const void *table;

		if (sh.sh_type != SHT_SYMTAB || !elf_section(e, sh.sh_link, &str))
			continue;
		table = elf_at(e, sh.sh_offset, sh.sh_size);
		names = elf_at(e, str.sh_offset, str.sh_size);
		for (size_t k = 0; table && names && k < sh.sh_size / each; k++) {
			Elf64_Sym s = elf_symbol(e, table, k);
			char name[64];

			if (!s.st_value || s.st_shndx == SHN_ABS || s.st_name >= str.sh_size ||
			    (ELF64_ST_TYPE(s.st_info) != STT_FUNC && ELF64_ST_TYPE(s.st_info) != STT_NOTYPE))
				continue;
			snprintf(name, sizeof(name), "%.*s", (int)(sizeof(name) - 1 < str.sh_size - s.st_name ? sizeof(name) - 1
				 : str.sh_size - s.st_name), names + s.st_name);
			add_symbol(t, s.st_value, name);
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
	if (n == sizeof(magic) && memcmp(magic, ELFMAG, SELFMAG) == 0 && fstat(fileno(f), &st) == 0) {
		p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fileno(f), 0);
		if (p != MAP_FAILED) {
			t->low = magic[EI_CLASS] == ELFCLASS32;
			read_elf(t, &(struct elf){ p, (size_t)st.st_size, !t->low });
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
	/* Linux, and nobody knows where it has moved: any name would be a guess */
	if (t->entry && !lstar)
		low = 0;
	if (low && at - t->s[low - 1].at < 0x100000 && (rip >> 47 || t->low))
		snprintf(buf, size, "%s+%#llx", t->s[low - 1].name, (unsigned long long)(at - t->s[low - 1].at));
	else
		snprintf(buf, size, "%#llx", (unsigned long long)rip);
	return buf;
}
