/*
 * Kernels: an ELF image with a PVH note, or a bzImage whose payload is one.
 * (Linux x86 boot protocol, fields payload_offset and payload_length; Xen's
 * x86 PVH direct boot ABI, note XEN_ELFNOTE_PHYS32_ENTRY.)
 *
 * Everything read from the file is checked before it is used: a file is
 * somebody else's.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/boot/vm.h"

#define XEN_ELFNOTE_PHYS32_ENTRY 18

int read_file(const char *path, uint8_t **data, size_t *size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	uint8_t *buf = NULL;
	size_t got = 0;

	if (fd < 0 || fstat(fd, &st) < 0)
		goto fail;
	if (!S_ISREG(st.st_mode)) {
		close(fd);
		fprintf(stderr, "userkvm boot: %s: not a regular file\n", path);
		return -1;
	}
	buf = malloc((size_t)st.st_size + 1);
	if (!buf)
		goto fail;
	while (got < (size_t)st.st_size) {
		ssize_t n = read(fd, buf + got, (size_t)st.st_size - got);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			goto fail;
		if (n == 0)
			break;
		got += (size_t)n;
	}
	close(fd);
	*data = buf;
	*size = got;
	return 0;
fail:
	failed(path);
	free(buf);
	if (fd >= 0)
		close(fd);
	return -1;
}

static int complain(const char *path, const char *why)
{
	fprintf(stderr, "userkvm boot: %s: %s\n", path, why);
	return -1;
}

/* The PVH entry among the notes of one PT_NOTE segment, 0 where there is none. */
static uint64_t pvh_entry(const uint8_t *notes, uint64_t size)
{
	uint64_t at = 0;

	while (size - at >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr n;
		uint64_t name, desc, next;

		memcpy(&n, notes + at, sizeof(n));
		name = at + sizeof(n);
		desc = name + ((n.n_namesz + 3ULL) & ~3ULL);
		next = desc + ((n.n_descsz + 3ULL) & ~3ULL);
		if (next > size)
			return 0;
		if (n.n_type == XEN_ELFNOTE_PHYS32_ENTRY && n.n_namesz == 4 &&
		    memcmp(notes + name, "Xen", 4) == 0 && n.n_descsz >= 4) {
			uint64_t entry = 0;

			memcpy(&entry, notes + desc, n.n_descsz >= 8 ? 8 : 4);
			return entry;
		}
		at = next;
	}
	return 0;
}

static int load_elf(struct vm *vm, const char *path, const uint8_t *data, size_t size,
		    struct loaded_kernel *out)
{
	Elf64_Ehdr eh;

	if (size < sizeof(eh))
		return complain(path, "not a kernel: the file is too short");
	memcpy(&eh, data, sizeof(eh));
	if (eh.e_ident[EI_CLASS] != ELFCLASS64 || eh.e_machine != EM_X86_64)
		return complain(path, "not a kernel for x86-64");
	if (eh.e_phentsize != sizeof(Elf64_Phdr) || eh.e_phoff > size ||
	    (uint64_t)eh.e_phnum * sizeof(Elf64_Phdr) > size - eh.e_phoff)
		return complain(path, "its ELF program headers are damaged");

	*out = (struct loaded_kernel){0};
	for (unsigned i = 0; i < eh.e_phnum; i++) {
		Elf64_Phdr ph;
		uint8_t *to;

		memcpy(&ph, data + eh.e_phoff + i * sizeof(ph), sizeof(ph));
		if (ph.p_offset > size || ph.p_filesz > size - ph.p_offset)
			return complain(path, "an ELF segment lies outside the file");
		if (ph.p_type == PT_NOTE && !out->entry)
			out->entry = pvh_entry(data + ph.p_offset, ph.p_filesz);
		if (ph.p_type != PT_LOAD)
			continue;
		if (ph.p_memsz < ph.p_filesz)
			return complain(path, "an ELF segment is larger than its memory");
		to = guest_ptr(vm, ph.p_paddr, ph.p_memsz);
		if (!to) {
			fprintf(stderr, "userkvm boot: %s: too little memory: the kernel needs %llu MiB\n",
				path, (unsigned long long)((ph.p_paddr + ph.p_memsz) >> 20) + 1);
			return -1;
		}
		memcpy(to, data + ph.p_offset, ph.p_filesz);
		memset(to + ph.p_filesz, 0, ph.p_memsz - ph.p_filesz);
		if (ph.p_paddr + ph.p_memsz > out->end)
			out->end = ph.p_paddr + ph.p_memsz;
	}
	if (!out->entry)
		return complain(path, "the kernel has no PVH entry (CONFIG_PVH)");
	return 0;
}

/* Offsets in the setup header (Linux x86 boot protocol). */
enum { SETUP_SECTS = 0x1f1, BOOT_FLAG = 0x1fe, HEADER_MAGIC = 0x202, VERSION = 0x206, PAYLOAD_OFFSET = 0x248, PAYLOAD_LENGTH = 0x24c };

int load_kernel(struct vm *vm, const char *path, struct loaded_kernel *out)
{
	uint8_t *data, *vmlinux;
	size_t size, vmlinux_size;
	const char *why;
	uint32_t offset, length;
	uint16_t version, boot_flag;
	uint64_t start;
	int ret;

	if (read_file(path, &data, &size) < 0)
		return -1;
	if (size >= SELFMAG && memcmp(data, ELFMAG, SELFMAG) == 0) {
		ret = load_elf(vm, path, data, size, out);
		free(data);
		return ret;
	}
	ret = -1;
	if (size < PAYLOAD_LENGTH + 4 || memcmp(data + HEADER_MAGIC, "HdrS", 4) != 0) {
		complain(path, "not a kernel: neither ELF nor bzImage");
		goto out;
	}
	memcpy(&version, data + VERSION, 2);
	memcpy(&boot_flag, data + BOOT_FLAG, 2);
	if (boot_flag != 0xaa55 || version < 0x208) {
		complain(path, "the bzImage is of a boot protocol before 2.08");
		goto out;
	}
	memcpy(&offset, data + PAYLOAD_OFFSET, 4);
	memcpy(&length, data + PAYLOAD_LENGTH, 4);
	start = ((data[SETUP_SECTS] ? data[SETUP_SECTS] : 4ULL) + 1) * 512 + offset;
	if (start > size || length > size - start) {
		complain(path, "the bzImage is cut off: its payload lies outside the file");
		goto out;
	}
	vmlinux = unpack(data + start, length, &vmlinux_size, &why);
	if (!vmlinux) {
		complain(path, why);
		goto out;
	}
	ret = load_elf(vm, path, vmlinux, vmlinux_size, out);
	free(vmlinux);
out:
	free(data);
	return ret;
}
