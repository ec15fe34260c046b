/*
 * The guest of `userkvm walkthrough`: small, and in a few instructions through
 * everything the walk-through tells of.
 *
 *   0x00000000  slot 0, 64 KiB: code at 1000h, page directory at 2000h
 *   0x00400000  slot 1, 4 MiB in 2 MiB pages where the host has them
 *   0x00c00000  slot 2, 64 KiB, read-only
 *   0x01000000  nothing: MMIO
 *
 * With unrestricted_guest=0 it begins without paging, on KVM's identity map, and turns paging on by itself.
 */
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include "lib/params.h"
#include "sdm/paging.h"
#include "sdm/regs.h"
#include "tools/trace/guest_vm.h"
#include "tools/trace/walk.h"
#include "userkvm/userkvm.h"

#define SMALL_BYTES        0x10000u
#define LARGE_GPA          0x400000u
#define LARGE_BYTES        0x400000u
#define ROM_GPA            0xc00000u
#define CODE_GPA           0x1000u
#define UNPAGED_GPA        0x1100u
#define PAGE_DIRECTORY_GPA 0x2000u
#define LARGE_ALIGN        0x200000u

/* 32-bit code, paging on, everything mapped one to one by 4 MiB pages. */
static const uint8_t code[] = {
    0xa1, 0x00, 0x50, 0x00, 0x00,       /* mov eax, [5000h]: a read */
    0xa3, 0x00, 0x60, 0x00, 0x00,       /* mov [6000h], eax: a write */
    0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8, /* mov eax, cr3; mov cr3, eax: no exit */
    0xa3, 0x00, 0x00, 0x40, 0x00,       /* mov [400000h], eax: a large page */
    0xa1, 0x00, 0x00, 0xc0, 0x00,       /* mov eax, [c00000h]: read-only memory */
    0xa3, 0x00, 0x00, 0xc0, 0x00,       /* mov [c00000h], eax: a write to it */
    0xa3, 0x00, 0x00, 0x00, 0x01,       /* mov [1000000h], eax: MMIO */
    0xa3, 0x00, 0x00, 0x00, 0x01,       /* and again: the entry knows */
    0xf4,                               /* hlt */
};

/* At UNPAGED_GPA, before it. */
static const uint8_t unpaged_code[] = {
    0xb8, 0x00, 0x20, 0x00, 0x00, 0x0f, 0x22, 0xd8,                   /* mov eax, 2000h; mov cr3, eax: an exit */
    0x0f, 0x20, 0xe0, 0x83, 0xc8, 0x10, 0x0f, 0x22, 0xe0,             /* mov eax, cr4; or eax, 10h; mov cr4, eax: PSE */
    0x0f, 0x20, 0xc0, 0x0d, 0x00, 0x00, 0x00, 0x80, 0x0f, 0x22, 0xc0, /* mov eax, cr0; or eax, 80000000h; mov cr0, eax: PG */
    0xe9, 0xdf, 0xfe, 0xff, 0xff,                                     /* jmp 1000h */
};
static_assert(sizeof(unpaged_code) == 0x21, "the jump goes to CODE_GPA");

struct guest {
	struct walk_vm v;
	uint8_t *memory, *large, *rom;
};

static uint8_t *anonymous(size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static int set_slot(struct guest *g, uint32_t slot, uint32_t flags, uint64_t gpa, uint64_t bytes,
                    const void *at)
{
	struct kvm_userspace_memory_region r = {
	    .slot = slot,
	    .flags = flags,
	    .guest_phys_addr = gpa,
	    .memory_size = bytes,
	    .userspace_addr = (uintptr_t)at,
	};

	return userkvm_ioctl(g->v.vm, KVM_SET_USER_MEMORY_REGION, (uintptr_t)&r);
}

static int make_memory(struct guest *g)
{
	uint8_t *large = anonymous(LARGE_BYTES + LARGE_ALIGN);
	uint32_t *directory;

	g->memory = anonymous(SMALL_BYTES);
	g->rom = anonymous(SMALL_BYTES);
	if (!g->memory || !g->rom || !large)
		return -1;
	g->large = large + (LARGE_ALIGN - (uintptr_t)large % LARGE_ALIGN) % LARGE_ALIGN;
	madvise(g->large, LARGE_BYTES, MADV_HUGEPAGE);
	memcpy(g->memory + CODE_GPA, code, sizeof(code));
	memcpy(g->memory + UNPAGED_GPA, unpaged_code, sizeof(unpaged_code));
	directory = (uint32_t *)(g->memory + PAGE_DIRECTORY_GPA);
	for (uint32_t i = 0; i < 1024; i++)
		directory[i] = i << 22 | PTE_P | PTE_RW | PTE_US | PTE_PS;
	if (set_slot(g, 0, 0, 0, SMALL_BYTES, g->memory) ||
	    set_slot(g, 1, 0, LARGE_GPA, LARGE_BYTES, g->large))
		return -1;
	return set_slot(g, 2, KVM_MEM_READONLY, ROM_GPA, SMALL_BYTES, g->rom);
}

static int set_state(struct guest *g)
{
	bool paged = !params_get_bool("ept") || params_get_bool("unrestricted_guest");
	struct kvm_regs regs = {.rip = paged ? CODE_GPA : UNPAGED_GPA, .rflags = 2};
	struct kvm_sregs s;
	struct kvm_segment flat = {
	    .limit = 0xffffffff, .selector = 8, .present = 1, .db = 1, .s = 1, .g = 1};

	if (userkvm_ioctl(g->v.vcpu, KVM_GET_SREGS, (uintptr_t)&s))
		return -1;
	s.cs = flat;
	s.cs.type = 0xb;
	flat.type = 3;
	flat.selector = 16;
	s.ds = s.es = s.fs = s.gs = s.ss = flat;
	s.cr0 = X86_CR0_PE | X86_CR0_ET | X86_CR0_NE | (paged ? X86_CR0_PG : 0);
	s.cr4 = paged ? X86_CR4_PSE : 0;
	s.cr3 = paged ? PAGE_DIRECTORY_GPA : 0;
	if (userkvm_ioctl(g->v.vcpu, KVM_SET_SREGS, (uintptr_t)&s))
		return -1;
	return userkvm_ioctl(g->v.vcpu, KVM_SET_REGS, (uintptr_t)&regs);
}

/* Until HLT; MMIO goes nowhere. */
static int run(struct guest *g)
{
	do {
		if (userkvm_ioctl(g->v.vcpu, KVM_RUN, 0))
			return -1;
	} while (g->v.run->exit_reason == KVM_EXIT_MMIO);
	errno = EPROTO;
	return g->v.run->exit_reason == KVM_EXIT_HLT ? 0 : -1;
}

int walk_guest(int argc, char **argv)
{
	struct guest g = {.v.name = "guest"};
	const char *what;

	what = walk_vm_open(&g.v);
	if (what)
		return walk_vm_failed(&g.v, what);
	if (make_memory(&g))
		return walk_vm_failed(&g.v, "KVM_SET_USER_MEMORY_REGION");
	what = walk_vm_add_vcpu(&g.v);
	if (!what)
		what = walk_vm_map_run(&g.v);
	if (what)
		return walk_vm_failed(&g.v, what);
	if (set_state(&g))
		return walk_vm_failed(&g.v, "KVM_SET_SREGS");
	if (run(&g))
		return walk_vm_failed(&g.v, "KVM_RUN");
	/* the same again with writes logged, then without slot 1 */
	if (set_slot(&g, 0, KVM_MEM_LOG_DIRTY_PAGES, 0, SMALL_BYTES, g.memory) || set_state(&g) ||
	    run(&g))
		return walk_vm_failed(&g.v, "KVM_MEM_LOG_DIRTY_PAGES");
	if (set_slot(&g, 1, 0, LARGE_GPA, 0, NULL))
		return walk_vm_failed(&g.v, "deleting a slot");
	walk_vm_close(&g.v);
	return 0;
}
