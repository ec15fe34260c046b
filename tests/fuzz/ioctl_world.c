/*
 * The client's side: descriptors, memory, where arguments lie, and what can be
 * read back of a VM and a vCPU.
 */
#include "ioctl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "userkvm/userkvm.h"

const char *const fd_kind_names[FD_KINDS] = { "kvm", "vm", "vcpu", "stats", "event" };

/* --- backends --- */

static int userkvm_open_it(const char *path)
{
	return userkvm_open(path, O_RDWR | O_CLOEXEC);
}

const char *kernel_device = "/dev/kvm";

static int kernel_open(const char *path)
{
	return open(kernel_device, O_RDWR | O_CLOEXEC);
}

static int kernel_ioctl(int fd, unsigned long request, unsigned long arg)
{
	return (int)syscall(SYS_ioctl, fd, request, arg);
}

const struct backend backend_userkvm = { "userkvm", userkvm_open_it, userkvm_ioctl, userkvm_close, true };
const struct backend backend_userkvm_tame = { "userkvm", userkvm_open_it, userkvm_ioctl, userkvm_close, false };
const struct backend backend_kernel = { "kernel", kernel_open, kernel_ioctl, close, false };

/* --- the world --- */

bool world_open(struct world *w, const struct backend *b)
{
	memset(w, 0, sizeof(*w));
	memset(w->fds, -1, sizeof(w->fds));
	w->backend = b;
	w->run_bytes = 3 * 4096;
	w->mem_fd = memfd_create("guest", MFD_CLOEXEC);
	w->mem = mmap(NULL, MEM_BYTES + RESERVE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (w->mem_fd < 0 || w->mem == MAP_FAILED || ftruncate(w->mem_fd, MEM_BYTES))
		return false;
	return mmap(w->mem, MEM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, w->mem_fd, 0) == w->mem;
}

void world_close(struct world *w)
{
	for (unsigned kind = FD_KINDS; kind--;)
		for (unsigned i = 0; i < FD_PLACES; i++)
			if (w->fds[kind][i] >= 0)
				w->backend->close(w->fds[kind][i]);
	for (unsigned i = 0; i < w->nr_maps && i < MAX_RUNS; i++)
		munmap(w->maps[i].at, w->maps[i].bytes);
	munmap(w->mem, MEM_BYTES + RESERVE_BYTES);
	close(w->mem_fd);
}

static uint8_t *guarded(void)
{
	uint8_t *p = mmap(NULL, ARG_BYTES + 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED || mprotect(p, ARG_BYTES, PROT_READ | PROT_WRITE))
		return NULL;
	return p;
}

bool actor_init(struct actor *a, struct world *w)
{
	memset(a, 0, sizeof(*a));
	a->w = w;
	a->arg = guarded();
	a->readonly_arg = guarded();
	return a->arg && a->readonly_arg;
}

void actor_exit(struct actor *a)
{
	munmap(a->arg, ARG_BYTES + 4096);
	munmap(a->readonly_arg, ARG_BYTES + 4096);
}

/* --- state --- */

struct part {
	const char *name;
	unsigned long request;
	uint32_t first_word; /* what the GET is asked for */
	size_t at;
};

/* The first takes an INIT or SIPI that waits, and with it resets the others. */
static const struct part vcpu_parts[] = {
	{ "KVM_GET_MP_STATE", KVM_GET_MP_STATE }, { "KVM_GET_REGS", KVM_GET_REGS }, { "KVM_GET_SREGS2", KVM_GET_SREGS2 }, { "KVM_GET_FPU", KVM_GET_FPU },
	{ "KVM_GET_XSAVE", KVM_GET_XSAVE }, { "KVM_GET_XCRS", KVM_GET_XCRS }, { "KVM_GET_DEBUGREGS", KVM_GET_DEBUGREGS },
	{ "KVM_GET_VCPU_EVENTS", KVM_GET_VCPU_EVENTS },
	{ "KVM_GET_LAPIC", KVM_GET_LAPIC }, { "KVM_GET_CPUID2", KVM_GET_CPUID2, 80 },
};
static const struct part vm_parts[] = {
	{ "KVM_GET_PIT2", KVM_GET_PIT2 }, { "the master PIC", KVM_GET_IRQCHIP, 0 }, { "the slave PIC", KVM_GET_IRQCHIP, 1 },
	{ "the IOAPIC", KVM_GET_IRQCHIP, 2 },
};

static size_t part_bytes(const struct part *p)
{
	return p->request == KVM_GET_CPUID2 ? 8 + 80 * sizeof(struct kvm_cpuid_entry2) : _IOC_SIZE(p->request);
}

/* What moves by itself: counters, and interrupts of timers. */
static void mask_lapic(uint8_t *apic)
{
	memset(apic + 0x390, 0, 16);
	memset(apic + 0x200, 0, 128);
}

static size_t read_parts(const struct world *w, int fd, const struct part *parts, size_t nr, uint8_t *state)
{
	size_t at = 0;
	bool alone = !__atomic_load_n(&w->irqfds, __ATOMIC_RELAXED);

	for (size_t i = 0; i < nr; i++) {
		uint8_t *to = state + at;

		memset(to, 0, part_bytes(&parts[i]));
		memcpy(to, &parts[i].first_word, 4);
		at += part_bytes(&parts[i]);
		if (!alone && parts[i].request == KVM_GET_IRQCHIP)
			continue; /* irqfds and the PIT's channel 0 raise lines when they like */
		if (w->backend->ioctl(fd, parts[i].request, (uintptr_t)to)) {
			memset(to, errno, 1);
			continue;
		}
		alone &= parts[i].request != KVM_GET_PIT2;
		if (parts[i].request == KVM_GET_LAPIC)
			mask_lapic(to);
		if (parts[i].request == KVM_GET_VCPU_EVENTS)
			((struct kvm_vcpu_events *)to)->nmi.pending = 0; /* by LINT0, from the PIT */
	}
	return at;
}

size_t state_read(const struct world *w, enum fd_kind kind, int fd, uint8_t *state)
{
	return kind == FD_VCPU ? read_parts(w, fd, vcpu_parts, sizeof(vcpu_parts) / sizeof(*vcpu_parts), state) :
				 read_parts(w, fd, vm_parts, sizeof(vm_parts) / sizeof(*vm_parts), state);
}

const char *state_part(enum fd_kind kind, const uint8_t *state, size_t at)
{
	static __thread char text[96];
	const struct part *p = kind == FD_VCPU ? vcpu_parts : vm_parts;

	for (; at >= part_bytes(p); p++)
		at -= part_bytes(p);
	snprintf(text, sizeof(text), "%s, byte %zu", p->name, at);
	return text;
}
