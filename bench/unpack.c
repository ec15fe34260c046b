/*
 * bench-unpack BZIMAGE VMLINUX: the ELF kernel inside a bzImage, so that QEMU
 * starts from the same image as userkvm boot does.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/boot/vm.h"

int main(int argc, char **argv)
{
	FILE *in = argc == 3 ? fopen(argv[1], "rb") : NULL, *out;
	uint8_t *data = malloc(64 << 20), *elf;
	uint32_t offset, length;
	size_t size, elf_size, start;
	const char *why;

	if (!in || !data) {
		fprintf(stderr, "usage: bench-unpack BZIMAGE VMLINUX\n");
		return 2;
	}
	size = fread(data, 1, 64 << 20, in);
	if (size < 0x250)
		return 1;
	memcpy(&offset, data + 0x248, 4);
	memcpy(&length, data + 0x24c, 4);
	start = (data[0x1f1] + 1UL) * 512 + offset;
	if (start > size || length > size - start)
		return 1;
	elf = unpack(data + start, length, &elf_size, &why);
	if (!elf) {
		fprintf(stderr, "bench-unpack: %s\n", why);
		return 1;
	}
	out = fopen(argv[2], "wb");
	return out && fwrite(elf, 1, elf_size, out) == elf_size && fclose(out) == 0 ? 0 : 1;
}
