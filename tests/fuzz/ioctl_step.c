/*
 * One step: what it does comes from its number alone.
 *
 * Broken calls: an address that is nothing, that ends in the middle of the
 * argument, that may not be written; a size or number the descriptor does not
 * know; a descriptor of another kind, or none; one field of the argument wrong.
 */
#include "ioctl.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../client/guest_code.h"

#define PAGE 4096ul
#define CODE_AT 0x1000u
#define COUNT(a) (sizeof(a) / sizeof(*(a)))

struct rng rng_of(uint64_t seed)
{
	return (struct rng){ .state = seed };
}

/* Steele, Lea and Flood's SplitMix. */
uint64_t rnd(struct rng *r)
{
	uint64_t z = r->state += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

uint64_t rnd_value(struct rng *r)
{
	switch (rnd_below(r, 8)) {
	case 0: return 0;
	case 1: return rnd_below(r, 32);
	case 2: return 1ull << rnd_below(r, 64);
	case 3: return ~0ull;
	case 4: return ~0ull << rnd_below(r, 64);
	case 5: return rnd(r) & 0xffffffff;
	case 6: return rnd_below(r, 0x10000);
	default: return rnd(r);
	}
}

static __attribute__((format(printf, 3, 4))) void tell(const struct actor *a, struct outcome *o, const char *format, ...)
{
	size_t at = strlen(o->what);
	va_list ap;

	if (!a->told)
		return;
	va_start(ap, format);
	vsnprintf(o->what + at, sizeof(o->what) - at, format, ap);
	va_end(ap);
}

/* --- calls, with the time they began for the watchdog --- */

static void begin(struct actor *a, const char *call)
{
	a->call = call;
	__atomic_store_n(&a->began_ns, now_ns(), __ATOMIC_RELEASE);
}

static long end(struct actor *a, struct outcome *o, long r)
{
	o->error = r == -1 ? errno : 0; /* other negative values are values */
	o->ret = r;
	__atomic_store_n(&a->began_ns, 0, __ATOMIC_RELEASE);
	return r;
}

static long call(struct actor *a, struct outcome *o, const char *name, int fd, unsigned long request, unsigned long arg)
{
	begin(a, name);
	return end(a, o, a->w->backend->ioctl(fd, request, arg));
}

static int fd_at(const struct world *w, enum fd_kind kind, unsigned place)
{
	return __atomic_load_n(&w->fds[kind][place], __ATOMIC_ACQUIRE);
}

static unsigned some_place(struct rng *r)
{
	return rnd_one_in(r, 3) ? (unsigned)rnd_below(r, FD_PLACES) : 0;
}

static void close_fd(struct actor *a, int fd)
{
	struct outcome ignored;

	if (fd < 0)
		return;
	begin(a, "close");
	end(a, &ignored, a->w->backend->close(fd));
}

/* A new descriptor takes a place; what was there is closed. */
static void put_fd(struct actor *a, enum fd_kind kind, unsigned place, int fd)
{
	if (fd >= 0)
		close_fd(a, __atomic_exchange_n(&a->w->fds[kind][place], fd, __ATOMIC_ACQ_REL));
}

/* --- making things --- */

static void map_run(struct actor *a, unsigned place, int fd, off_t offset, size_t bytes)
{
	struct world *w = a->w;
	void *p;
	unsigned at;

	if (__atomic_load_n(&w->nr_maps, __ATOMIC_RELAXED) >= MAX_RUNS - 8)
		return;
	p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);
	if (p == MAP_FAILED)
		return;
	at = __atomic_fetch_add(&w->nr_maps, 1, __ATOMIC_RELAXED);
	if (at >= MAX_RUNS) {
		munmap(p, bytes);
		return;
	}
	w->maps[at].bytes = bytes;
	w->maps[at].at = p;
	if (!offset)
		__atomic_store_n(&w->run[place], p, __ATOMIC_RELEASE);
}

static void make_system(struct actor *a, struct rng *r, unsigned place, struct outcome *o)
{
	begin(a, "open");
	end(a, o, a->w->backend->open("/dev/kvm"));
	tell(a, o, "kvm[%u] = open(\"/dev/kvm\", O_RDWR | O_CLOEXEC)", place);
	put_fd(a, FD_SYSTEM, place, (int)o->ret);
}

static void make_vm(struct actor *a, struct rng *r, unsigned place, struct outcome *o)
{
	unsigned from = some_place(r);
	uint64_t type = rnd_one_in(r, 10) ? rnd_value(r) | 0x100 : 0;

	tell(a, o, "vm[%u] = ioctl(kvm[%u], KVM_CREATE_VM, %#llx)", place, from, (unsigned long long)type);
	call(a, o, "KVM_CREATE_VM", fd_at(a->w, FD_SYSTEM, from), KVM_CREATE_VM, type);
	put_fd(a, FD_VM, place, (int)o->ret);
}

static void make_vcpu(struct actor *a, struct rng *r, unsigned place, struct outcome *o)
{
	unsigned from = some_place(r);
	uint64_t id = rnd_one_in(r, 10) ? rnd_value(r) : place;

	tell(a, o, "vcpu[%u] = ioctl(vm[%u], KVM_CREATE_VCPU, %#llx)", place, from, (unsigned long long)id);
	call(a, o, "KVM_CREATE_VCPU", fd_at(a->w, FD_VM, from), KVM_CREATE_VCPU, id);
	if (o->ret < 0)
		return;
	map_run(a, place, (int)o->ret, 0, a->w->run_bytes); /* while nobody else can close it */
	put_fd(a, FD_VCPU, place, (int)o->ret);
}

static void make_stats(struct actor *a, struct rng *r, unsigned place, struct outcome *o)
{
	enum fd_kind kind = rnd_one_in(r, 2) ? FD_VM : FD_VCPU;
	unsigned from = some_place(r);

	tell(a, o, "stats[%u] = ioctl(%s[%u], KVM_GET_STATS_FD, 0)", place, fd_kind_names[kind], from);
	call(a, o, "KVM_GET_STATS_FD", fd_at(a->w, kind, from), KVM_GET_STATS_FD, 0);
	put_fd(a, FD_STATS, place, (int)o->ret);
}

static void make_event(struct actor *a, struct rng *r, unsigned place, struct outcome *o)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	tell(a, o, "event[%u] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)", place);
	o->ret = fd;
	put_fd(a, FD_EVENT, place, fd);
}

static void make_something(struct actor *a, struct rng *r, struct outcome *o)
{
	static void (*const makers[])(struct actor *, struct rng *, unsigned, struct outcome *) = {
		make_system, make_vm, make_vcpu, make_vcpu, make_stats, make_event, make_event };

	makers[rnd_below(r, COUNT(makers))](a, r, (unsigned)rnd_below(r, FD_PLACES), o);
}

static void close_or_dup(struct actor *a, struct rng *r, struct outcome *o)
{
	enum fd_kind kind = (enum fd_kind)rnd_below(r, FD_KINDS);
	unsigned place = (unsigned)rnd_below(r, FD_PLACES), to = (unsigned)rnd_below(r, FD_PLACES);

	if (rnd_one_in(r, 2)) {
		tell(a, o, "close(%s[%u])", fd_kind_names[kind], place);
		close_fd(a, __atomic_exchange_n(&a->w->fds[kind][place], -1, __ATOMIC_ACQ_REL));
		return;
	}
	tell(a, o, "%s[%u] = dup(%s[%u])", fd_kind_names[kind], to, fd_kind_names[kind], place);
	o->ret = fcntl(fd_at(a->w, kind, place), F_DUPFD_CLOEXEC, 0);
	if (o->ret >= 0 && kind == FD_VCPU)
		__atomic_store_n(&a->w->run[to], a->w->run[place], __ATOMIC_RELEASE);
	put_fd(a, kind, to, (int)o->ret);
}

/* --- memory of the guest, and guests --- */

static void change_memory(struct actor *a, struct rng *r, struct outcome *o)
{
	struct world *w = a->w;
	uint64_t at = rnd_below(r, MEM_BYTES / PAGE) * PAGE, n = (1 + rnd_below(r, 32)) * PAGE;

	if (n > MEM_BYTES - at)
		n = MEM_BYTES - at;
	switch (rnd_below(r, 6)) {
	case 0:
		tell(a, o, "ftruncate(memory, %#llx)", (unsigned long long)at);
		o->ret = ftruncate(w->mem_fd, (off_t)at);
		return;
	case 1:
		tell(a, o, "mprotect(memory + %#llx, %#llx, PROT_READ)", (unsigned long long)at, (unsigned long long)n);
		o->ret = mprotect(w->mem + at, n, PROT_READ);
		return;
	case 2:
		tell(a, o, "memory + %#llx, %#llx: gone", (unsigned long long)at, (unsigned long long)n);
		o->ret = mmap(w->mem + at, n, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) ==
			 MAP_FAILED;
		return;
	case 3:
		tell(a, o, "madvise(memory + %#llx, %#llx, MADV_DONTNEED)", (unsigned long long)at, (unsigned long long)n);
		o->ret = madvise(w->mem + at, n, MADV_DONTNEED);
		return;
	default:
		tell(a, o, "memory: whole again");
		if (ftruncate(w->mem_fd, MEM_BYTES) ||
		    mmap(w->mem, MEM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, w->mem_fd, 0) == MAP_FAILED)
			o->ret = -1;
	}
}

GUEST_CODE(fz_spin, 16, "1: jmp 1b");
GUEST_CODE(fz_pio, 16, "mov $0x40, %dx; 1: in %dx, %al; out %al, %dx; inc %ax; out %ax, $0x10; mov $3, %cx; mov $0x3000, %di; rep insb; jmp 1b");
GUEST_CODE(fz_mmio, 16, "mov $0xa000, %ax; mov %ax, %ds; 1: mov %ax, (0); mov (4), %bx; movl $1, (8); jmp 1b");
GUEST_CODE(fz_store, 16, "xor %di, %di; mov $0x2000, %ax; mov %ax, %es; 1: mov %ax, %es:(%di); add $0x1000, %di; jnc 1b; mov %es, %ax; add $0x800, %ax; mov %ax, %es; jmp 1b");
GUEST_CODE(fz_halt, 16, "1: sti; hlt; jmp 1b");
GUEST_CODE(fz_msr, 16, "1: inc %ecx; rdmsr; wrmsr; cpuid; vmcall; jmp 1b");
GUEST_CODE(fz_apic, 32, "1: mov $0xfee00000, %esi; mov 0x20(%esi), %eax; movl $0x4030, 0x300(%esi); movl $0x1ff, 0xf0(%esi); movl $1000, 0x380(%esi); hlt; jmp 1b");
GUEST_CODE(fz_cr, 32, "1: mov %cr0, %eax; xor $0x80000000, %eax; mov %eax, %cr0; mov %cr4, %eax; xor $0x20, %eax; mov %eax, %cr4; mov %cr3, %eax; mov %eax, %cr3; int3; jmp 1b");

static const struct {
	const char *name;
	const uint8_t *code, *end;
	bool flat;
} guests[] = {
#define GUEST(n, flat) { #n, n, n##_end, flat }
	GUEST(fz_spin, false), GUEST(fz_pio, false), GUEST(fz_mmio, false), GUEST(fz_store, false),
	GUEST(fz_halt, false), GUEST(fz_msr, false), GUEST(fz_apic, true), GUEST(fz_cr, true),
#undef GUEST
};

/* Through the file: the mapping may have gone. */
static void put_code(struct world *w, const void *code, size_t n)
{
	if (pwrite(w->mem_fd, code, n, CODE_AT) != (ssize_t)n)
		return;
}

static void set_guest(struct actor *a, struct rng *r, unsigned place, struct outcome *o)
{
	unsigned which = (unsigned)rnd_below(r, COUNT(guests) + 2);
	struct kvm_regs regs = { .rip = CODE_AT, .rflags = 2, .rsp = 0x8000 };
	int fd = fd_at(a->w, FD_VCPU, place);
	struct kvm_sregs s;

	if (which >= COUNT(guests)) {
		uint64_t bytes[64];

		for (unsigned i = 0; i < COUNT(bytes); i++)
			bytes[i] = rnd(r);
		put_code(a->w, bytes, sizeof(bytes));
	} else {
		put_code(a->w, guests[which].code, (size_t)(guests[which].end - guests[which].code));
	}
	tell(a, o, "guest of vcpu[%u]: %s", place, which < COUNT(guests) ? guests[which].name : "random bytes");
	if (call(a, o, "KVM_GET_SREGS", fd, KVM_GET_SREGS, (uintptr_t)&s))
		return;
	s.cs.base = 0;
	s.cs.selector = 0;
	if (which < COUNT(guests) && guests[which].flat) {
		s.cr0 = 0x11;
		s.cs = (struct kvm_segment){ .limit = ~0u, .selector = 8, .type = 11, .present = 1, .db = 1, .s = 1, .g = 1 };
		s.ds = s.es = s.ss = s.fs = s.gs = (struct kvm_segment){
			.limit = ~0u, .selector = 16, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1 };
	}
	call(a, o, "KVM_SET_SREGS", fd, KVM_SET_SREGS, (uintptr_t)&s);
	call(a, o, "KVM_SET_REGS", fd, KVM_SET_REGS, (uintptr_t)&regs);
}

/*
 * Where guests may not run, by the descriptor's own pages, whatever it has
 * become; with other threads about, it may have become another file.
 */
static void run_at_once(struct actor *a, unsigned place, int fd, struct outcome *o)
{
	bool own = !a->w->backend->wild;
	struct kvm_run *run = own ? mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) :
				    __atomic_load_n(&a->w->run[place], __ATOMIC_ACQUIRE);

	if (run == MAP_FAILED || !run)
		return;
	tell(a, o, "ioctl(vcpu[%u], KVM_RUN, 0) with immediate_exit", place);
	__atomic_store_n(&run->immediate_exit, 1, __ATOMIC_RELAXED);
	call(a, o, "KVM_RUN", fd, KVM_RUN, 0);
	__atomic_store_n(&run->immediate_exit, 0, __ATOMIC_RELAXED);
	if (own)
		munmap(run, PAGE);
}

static void run_guest(struct actor *a, struct rng *r, struct outcome *o)
{
	unsigned place = some_place(r);
	int fd = fd_at(a->w, FD_VCPU, place);
	bool immediate = rnd_one_in(r, 8);

	kick_start(); /* even then: another thread may take immediate_exit away */
	if (immediate || !a->w->backend->wild) {
		run_at_once(a, place, fd, o);
	} else {
		tell(a, o, "ioctl(vcpu[%u], KVM_RUN, 0)", place);
		call(a, o, "KVM_RUN", fd, KVM_RUN, 0);
	}
	kick_stop();
}

/* A client may write what it likes into what it maps. */
static void scribble(struct actor *a, struct rng *r, struct outcome *o)
{
	unsigned place = some_place(r), n = 1 + (unsigned)rnd_below(r, 8);
	uint8_t *run = (uint8_t *)__atomic_load_n(&a->w->run[place], __ATOMIC_ACQUIRE);

	if (!run || !a->w->backend->wild)
		return;
	tell(a, o, "kvm_run of vcpu[%u]: %u wild words", place, n);
	while (n--) {
		uint64_t at = rnd_one_in(r, 2) ? rnd_below(r, 512) : rnd_below(r, a->w->run_bytes - 8);
		uint64_t v = rnd_value(r);

		memcpy(run + at, &v, rnd_one_in(r, 2) ? 4 : 1);
	}
	if (rnd_one_in(r, 4))
		((struct kvm_run *)run)->kvm_dirty_regs = rnd(r) & 15;
}

/* What a file can be asked besides. */
static void use_as_file(struct actor *a, struct rng *r, struct outcome *o)
{
	enum fd_kind kind = (enum fd_kind)rnd_below(r, FD_KINDS);
	unsigned place = some_place(r);
	int fd = fd_at(a->w, kind, place);
	uint64_t buf[512] = { 1 };
	struct pollfd p = { .fd = fd, .events = POLLIN };

	switch (rnd_below(r, 7)) {
	case 0:
		tell(a, o, "poll(%s[%u])", fd_kind_names[kind], place);
		o->ret = poll(&p, 1, 0);
		return;
	case 1:
		tell(a, o, "pread(%s[%u], 4096 bytes)", fd_kind_names[kind], place);
		o->ret = pread(fd, buf, sizeof(buf), (off_t)(rnd_one_in(r, 2) ? 0 : rnd_below(r, 1 << 20)));
		return;
	case 2:
		tell(a, o, "mmap(%s[%u])", fd_kind_names[kind], place);
		if (fd >= 0 && kind != FD_EVENT && kind != FD_VCPU)
			map_run(a, place, fd, (off_t)PAGE, PAGE);
		else if (fd >= 0 && kind == FD_VCPU)
			map_run(a, place, fd, (off_t)(rnd_one_in(r, 2) ? 64 * PAGE : rnd_below(r, 128) * PAGE + PAGE), PAGE);
		return;
	case 3:
		if (kind == FD_EVENT)
			break;
		tell(a, o, "ftruncate(%s[%u], 0)", fd_kind_names[kind], place);
		o->ret = ftruncate(fd, 0);
		return;
	default:
		break;
	}
	fd = fd_at(a->w, FD_EVENT, place);
	tell(a, o, "write(event[%u], 1)", place);
	o->ret = write(fd, buf, 8);
}

/* --- ioctls --- */

enum breakage { SOUND, NO_POINTER, UNMAPPED, CROSSING, READ_ONLY, OTHER_SIZE, OTHER_KIND, NO_FD, FIELD };

static enum breakage some_breakage(struct rng *r)
{
	static const enum breakage rare[] = { NO_POINTER, UNMAPPED, CROSSING, READ_ONLY, OTHER_SIZE, OTHER_KIND, NO_FD };

	switch (rnd_below(r, 10)) {
	case 0: return rare[rnd_below(r, COUNT(rare))];
	case 1: case 2: case 3: case 4: return FIELD;
	default: return SOUND;
	}
}

static bool hits_pointer(const struct ioctl_desc *d, size_t at, size_t n)
{
	return (d->flags & D_PTR) && at < d->ptr + 8 && at + n > d->ptr;
}

static void break_field(struct actor *a, const struct ioctl_desc *d, struct rng *r, uint8_t *arg, size_t size,
			struct outcome *o)
{
	size_t n = (size_t)1 << rnd_below(r, 4), at;
	uint64_t v = rnd_value(r);

	if (size < 8)
		return;
	at = (rnd_one_in(r, 2) && size > 64 ? rnd_below(r, 64) : rnd_below(r, size - 7)) & ~(n - 1);
	if (d->request == KVM_SET_LAPIC)
		at &= ~15ul, n = 4;
	if (hits_pointer(d, at, n) || d->fill == NULL)
		return;
	tell(a, o, " /* [%zu] = (uint%zu_t)%#llx */", at, n * 8, (unsigned long long)v);
	memcpy(arg + at, &v, n);
}

/* Guest memory may not be the process's own: whatever was broken, regions stay where they may be. */
static bool region_is_ours(const struct world *w, const struct ioctl_desc *d, const void *arg)
{
	const struct kvm_userspace_memory_region *m = arg;
	uint64_t mem = (uintptr_t)w->mem, end_of = mem + MEM_BYTES + RESERVE_BYTES;
	uint64_t most = w->backend->wild ? RESERVE_BYTES + MEM_BYTES : 1ull << 30;

	if (d->fill == NULL || !(d->flags & D_PTR || d->request == KVM_SET_USER_MEMORY_REGION) ||
	    _IOC_NR(d->request) > 0x49)
		return true;
	if (d->request != KVM_SET_USER_MEMORY_REGION && _IOC_NR(d->request) != 0x49)
		return true;
	if (!m->memory_size || m->memory_size % PAGE || m->userspace_addr % PAGE || m->userspace_addr >= 1ull << 47)
		return true;
	return m->memory_size <= most && m->userspace_addr >= mem && m->userspace_addr + m->memory_size <= end_of;
}

static void tell_bytes(struct actor *a, struct outcome *o, const uint8_t *arg, size_t size)
{
	size_t n = size < 64 ? size : 64;

	tell(a, o, ", &(uint32_t[]){");
	for (size_t i = 0; i + 4 <= n; i += 4) {
		uint32_t v;

		memcpy(&v, arg + i, 4);
		tell(a, o, i ? ", %#x" : "%#x", v);
	}
	tell(a, o, size > n ? ", ...}" : "}");
}

/* The argument, built at the end of the room that is there: one byte too many is felt. */
static uint8_t *build(struct actor *a, const struct ioctl_desc *d, int fd, struct rng *r, enum breakage b, size_t *size,
		      struct outcome *o)
{
	size_t n = _IOC_SIZE(d->request);
	uint8_t *arg = a->arg;
	size_t filled;

	memset(arg, 0, 20480);
	filled = d->fill(a->w, fd, r, arg);
	n = n > filled ? n : filled;
	n = (n + 7) & ~7ul;
	if (d->get) {
		struct outcome ignored;

		call(a, &ignored, "a GET", fd, d->get, (uintptr_t)arg);
		tell(a, o, ", what %#lx read", d->get & 0xffff);
	}
	if (b == FIELD)
		for (unsigned k = 1 + (unsigned)rnd_below(r, d->get ? 3 : 1); k--;)
			break_field(a, d, r, arg, n, o);
	if (!d->get)
		tell_bytes(a, o, arg, n);
	*size = n;
	memmove(a->arg + ARG_BYTES - n, a->arg, n);
	return a->arg + ARG_BYTES - n;
}

static unsigned long break_pointer(struct actor *a, enum breakage b, uint8_t *arg, size_t size, struct outcome *o)
{
	static const char *const names[] = { [NO_POINTER] = "NULL", [UNMAPPED] = "unmapped", [CROSSING] = "ends early",
					     [READ_ONLY] = "read-only" };
	unsigned long keep = size / 2 & ~7ul;

	if (b >= NO_POINTER && b <= READ_ONLY)
		tell(a, o, " /* %s */", names[b]);
	switch (b) {
	case NO_POINTER:
		return 0;
	case UNMAPPED:
		return (uintptr_t)a->arg + ARG_BYTES;
	case CROSSING:
		memmove(a->arg + ARG_BYTES - keep, arg, keep);
		return (uintptr_t)a->arg + ARG_BYTES - keep;
	case READ_ONLY:
		if (size > ARG_BYTES || mprotect(a->readonly_arg, ARG_BYTES, PROT_READ | PROT_WRITE))
			return (uintptr_t)arg;
		memcpy(a->readonly_arg + ARG_BYTES - size, arg, size);
		if (mprotect(a->readonly_arg, ARG_BYTES, PROT_READ))
			return (uintptr_t)arg;
		return (uintptr_t)a->readonly_arg + ARG_BYTES - size;
	default:
		return (uintptr_t)arg;
	}
}

static void check_unchanged(struct actor *a, const struct ioctl_desc *d, int fd, const uint8_t *before, size_t n,
			    const struct outcome *o)
{
	static __thread uint8_t after[STATE_BYTES];

	state_read(a->w, d->kind, fd, after);
	for (size_t i = 0; i < n; i++)
		if (before[i] != after[i]) {
			snprintf(a->fault, sizeof(a->fault), "%s failed with errno %d and changed %s: %02x to %02x",
				 d->name, o->error, state_part(d->kind, before, i), before[i], after[i]);
			return;
		}
}

static unsigned long by_value(const struct ioctl_desc *d, struct rng *r, enum breakage b)
{
	return b == FIELD ? rnd_value(r) : b == SOUND || b > READ_ONLY ? rnd_below(r, d->max ? d->max : 1) : 0;
}

static void do_ioctl(struct actor *a, struct rng *r, struct outcome *o)
{
	static __thread uint8_t before[STATE_BYTES];
	const struct ioctl_desc *d = &ioctl_descs[rnd_below(r, nr_ioctl_descs)];
	enum breakage b = some_breakage(r);
	enum fd_kind kind = b == OTHER_KIND ? (enum fd_kind)rnd_below(r, FD_EVENT) : d->kind;
	unsigned place = some_place(r);
	int fd = b == NO_FD ? -1 : fd_at(a->w, kind, place);
	unsigned long request = d->request, arg;
	bool checked = a->checked && fd >= 0 && kind == d->kind && (kind == FD_VM || kind == FD_VCPU) &&
		       !(d->flags & D_PARTIAL);
	size_t size = 0, n = 0;

	if ((d->flags & D_KERNEL_NO) && !a->w->backend->wild)
		return;
	if (d->request == KVM_RUN && kind == FD_VCPU) {
		run_guest(a, r, o); /* one that ends */
		return;
	}
	if (b == OTHER_SIZE)
		request ^= 1ul << (16 + rnd_below(r, 14));
	tell(a, o, "ioctl(%s[%u]%s, %s%s", fd_kind_names[kind], place, b == NO_FD ? " /* -1 */" : "", d->name,
	     b == OTHER_SIZE ? " /* of another size */" : "");
	if (d->fill) {
		uint8_t *p = build(a, d, fd, r, b, &size, o);

		if (!region_is_ours(a->w, d, p))
			return;
		arg = break_pointer(a, b, p, size, o);
	} else {
		arg = by_value(d, r, b);
		tell(a, o, ", %#lx", arg);
	}
	tell(a, o, ")");
	if (checked)
		n = state_read(a->w, kind, fd, before);
	o->desc = d;
	if (request == KVM_RUN)
		kick_start(); /* of another kind, the descriptor can be a vCPU's by now */
	call(a, o, d->name, fd, request, arg);
	if (request == KVM_RUN)
		kick_stop();
	if (request == KVM_CREATE_VCPU && o->ret >= 0)
		put_fd(a, FD_VCPU, place, (int)o->ret); /* it was a VM's descriptor after all */
	if (request == KVM_IRQFD && o->ret >= 0)
		__atomic_store_n(&a->w->irqfds, true, __ATOMIC_RELAXED);
	if (checked && o->ret < 0)
		check_unchanged(a, d, fd, before, n, o);
}

/* --- the steps every sequence begins with --- */

static void first_step(struct actor *a, unsigned n, struct rng *r, struct outcome *o)
{
	struct kvm_userspace_memory_region m = { .memory_size = MEM_BYTES, .userspace_addr = (uintptr_t)a->w->mem };
	struct kvm_enable_cap split = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args = { 24 } };
	struct kvm_enable_cap ring = { .cap = KVM_CAP_DIRTY_LOG_RING, .args = { 65536 } };
	struct kvm_pit_config pit = { 0 };
	unsigned kind = (unsigned)rnd_below(r, 8);
	int vm = fd_at(a->w, FD_VM, 0);

	switch (n) {
	case 0:
		make_system(a, r, 0, o);
		return;
	case 1:
		tell(a, o, "vm[0] = ioctl(kvm[0], KVM_CREATE_VM, 0)");
		call(a, o, "KVM_CREATE_VM", fd_at(a->w, FD_SYSTEM, 0), KVM_CREATE_VM, 0);
		put_fd(a, FD_VM, 0, (int)o->ret);
		return;
	case 2:
		if (kind < 4) {
			tell(a, o, "ioctl(vm[0], KVM_CREATE_IRQCHIP, 0)");
			call(a, o, "KVM_CREATE_IRQCHIP", vm, KVM_CREATE_IRQCHIP, 0);
		} else if (kind == 4) {
			tell(a, o, "ioctl(vm[0], KVM_ENABLE_CAP, KVM_CAP_SPLIT_IRQCHIP of 24)");
			call(a, o, "KVM_ENABLE_CAP", vm, KVM_ENABLE_CAP, (uintptr_t)&split);
		}
		return;
	case 3:
		if (kind < 2) {
			tell(a, o, "ioctl(vm[0], KVM_CREATE_PIT2, {0})");
			call(a, o, "KVM_CREATE_PIT2", vm, KVM_CREATE_PIT2, (uintptr_t)&pit);
		} else if (kind == 2) {
			tell(a, o, "ioctl(vm[0], KVM_ENABLE_CAP, KVM_CAP_DIRTY_LOG_RING of 65536)");
			call(a, o, "KVM_ENABLE_CAP", vm, KVM_ENABLE_CAP, (uintptr_t)&ring);
		}
		return;
	case 4:
		m.flags = kind < 3 ? KVM_MEM_LOG_DIRTY_PAGES : 0;
		tell(a, o, "ioctl(vm[0], KVM_SET_USER_MEMORY_REGION, slot 0, flags %u, 1 MiB)", m.flags);
		call(a, o, "KVM_SET_USER_MEMORY_REGION", vm, KVM_SET_USER_MEMORY_REGION, (uintptr_t)&m);
		return;
	case 5:
		tell(a, o, "vcpu[0] = ioctl(vm[0], KVM_CREATE_VCPU, 0)");
		if (call(a, o, "KVM_CREATE_VCPU", vm, KVM_CREATE_VCPU, 0) >= 0) {
			map_run(a, 0, (int)o->ret, 0, a->w->run_bytes);
			put_fd(a, FD_VCPU, 0, (int)o->ret);
		}
		return;
	default:
		set_guest(a, r, 0, o);
	}
}

void step_do(struct actor *a, unsigned n, uint64_t step, struct outcome *o)
{
	struct rng r = rng_of(step);
	unsigned pick;

	memset(o, 0, offsetof(struct outcome, what) + 1);
	a->last[a->nr++ % COUNT(a->last)] = step;
	if (n < NR_FIRST_STEPS) {
		first_step(a, n, &r, o);
		return;
	}
	pick = (unsigned)rnd_below(&r, 100);
	if (pick < 66)
		do_ioctl(a, &r, o);
	else if (pick < 74)
		make_something(a, &r, o);
	else if (pick < 77)
		close_or_dup(a, &r, o);
	else if (pick < 89)
		run_guest(a, &r, o);
	else if (pick < 93)
		set_guest(a, &r, some_place(&r), o);
	else if (pick < 95)
		scribble(a, &r, o);
	else if (!a->w->backend->wild)
		return;
	else if (pick < 97)
		use_as_file(a, &r, o);
	else
		change_memory(a, &r, o);
}
