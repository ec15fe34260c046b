/*
 * The PVH direct boot protocol: a 32-bit flat entry with a start-of-day
 * structure in EBX. (Xen: docs/misc/pvh, public/arch-x86/hvm/start_info.h.)
 */
#include <stdio.h>
#include <string.h>

#include "tools/boot/vm.h"

#define HVM_START_MAGIC 0x336ec578u
#define E820_RAM 1
#define E820_RESERVED 2

struct hvm_start_info {
	uint32_t magic, version, flags, nr_modules;
	uint64_t modlist_paddr, cmdline_paddr, rsdp_paddr, memmap_paddr;
	uint32_t memmap_entries, reserved;
};

struct hvm_module {
	uint64_t paddr, size, cmdline_paddr, reserved;
};

struct hvm_memmap {
	uint64_t addr, size;
	uint32_t type, reserved;
};

uint64_t pvh_build(struct vm *vm, uint64_t rsdp, const char *cmdline, uint64_t initrd, uint64_t initrd_size)
{
	struct {
		struct hvm_start_info info;
		struct hvm_module module;
		struct hvm_memmap map[5];
	} *b = guest_ptr(vm, BOOT_INFO_BASE, sizeof(*b));
	uint64_t high = vm->mem_size - vm->low_size;
	unsigned n = 0;

	memset(b, 0, sizeof(*b));
	b->map[n++] = (struct hvm_memmap){0, EBDA_BASE, E820_RAM, 0};
	b->map[n++] = (struct hvm_memmap){EBDA_BASE, 0x100000 - EBDA_BASE, E820_RESERVED, 0};
	b->map[n++] = (struct hvm_memmap){0x100000, vm->low_size - 0x100000, E820_RAM, 0};
	if (high)
		b->map[n++] = (struct hvm_memmap){HIGH_MEM_START, high, E820_RAM, 0};
	strcpy(guest_ptr(vm, CMDLINE_BASE, CMDLINE_MAX), cmdline);
	if (initrd_size) {
		b->module = (struct hvm_module){.paddr = initrd, .size = initrd_size};
		b->info.nr_modules = 1;
		b->info.modlist_paddr = BOOT_INFO_BASE + ((uint8_t *)&b->module - (uint8_t *)b);
	}
	b->info.magic = HVM_START_MAGIC;
	b->info.version = 1;
	b->info.cmdline_paddr = CMDLINE_BASE;
	b->info.rsdp_paddr = rsdp;
	b->info.memmap_paddr = BOOT_INFO_BASE + ((uint8_t *)b->map - (uint8_t *)b);
	b->info.memmap_entries = n;
	return BOOT_INFO_BASE;
}

int pvh_set_registers(struct vm *vm, uint64_t entry, uint64_t start_info)
{
	struct kvm_sregs s;
	struct kvm_regs r = {.rip = entry, .rbx = start_info, .rflags = 2};
	const struct kvm_segment code = {
		.limit = 0xffffffff, .selector = 0x08, .type = 11, .present = 1, .db = 1, .s = 1, .g = 1,
	};
	struct kvm_segment data = code;

	data.selector = 0x10;
	data.type = 3;
	if (vm->kvm->ioctl(vm->vcpus[0].fd, KVM_GET_SREGS, (unsigned long)&s) < 0)
		return -1;
	s.cs = code;
	s.ds = s.es = s.fs = s.gs = s.ss = data;
	s.tr = (struct kvm_segment){.limit = 0x67, .type = 11, .present = 1};
	s.cr0 = 0x11; /* PE, ET */
	s.cr4 = 0;
	s.efer = 0;
	if (vm->kvm->ioctl(vm->vcpus[0].fd, KVM_SET_SREGS, (unsigned long)&s) < 0)
		return -1;
	return vm->kvm->ioctl(vm->vcpus[0].fd, KVM_SET_REGS, (unsigned long)&r);
}
