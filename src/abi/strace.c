/*
 * ioctls as lines: see strace.h. What goes in is shown before the call, what
 * comes out after it; a structure is shown once, on the side it travels.
 *
 * Arguments are the client's memory: read by host_copy_from() only.
 */
#include "abi/strace.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "abi/internal.h"
#include "host/fault.h"
#include "lib/quiet.h"

#define MAX_SHOWN_MSRS 4

typedef unsigned long long ull;

bool abi_strace_on;

static struct {
	int fd;
	bool times;
} out = { .fd = STDERR_FILENO };

static void init_once(void)
{
	const char *file = getenv("USERKVM_STRACE"), *times = getenv("USERKVM_STRACE_TIMES");

	if (!file || !*file)
		return;
	if (strcmp(file, "-") != 0) {
		out.fd = (int)syscall(SYS_openat, AT_FDCWD, file,
				      O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
		if (out.fd < 0)
			out.fd = STDERR_FILENO;
	}
	out.times = times && strcmp(times, "1") == 0;
	abi_strace_on = true;
}

void abi_strace_init(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, init_once);
}

static __attribute__((format(printf, 2, 3))) void add(struct abi_strace *s, const char *fmt, ...)
{
	size_t room = sizeof(s->text) - s->len;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(s->text + s->len, room, fmt, ap);
	va_end(ap);
	if (n > 0)
		s->len += (size_t)n < room ? (unsigned)n : (unsigned)room - 1;
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* --- structures --- */

typedef void show_fn(struct abi_strace *s, const void *data);

#define SHOW(name, type)                                                         \
	static void name##_of(struct abi_strace *s, const struct type *v);       \
	static void name(struct abi_strace *s, const void *data)                 \
	{                                                                        \
		name##_of(s, data);                                              \
	}                                                                        \
	static void name##_of(struct abi_strace *s, const struct type *v)

SHOW(show_memory, kvm_userspace_memory_region)
{
	add(s, "{slot=%u, flags=%#x, guest_phys_addr=%#llx, memory_size=%llu, userspace_addr=%#llx}", v->slot,
	    v->flags, v->guest_phys_addr, v->memory_size, v->userspace_addr);
}

SHOW(show_regs, kvm_regs)
{
	add(s, "{rax=%#llx, rbx=%#llx, rcx=%#llx, rdx=%#llx, rsi=%#llx, rdi=%#llx, rsp=%#llx, rbp=%#llx, ..., ",
	    v->rax, v->rbx, v->rcx, v->rdx, v->rsi, v->rdi, v->rsp, v->rbp);
	add(s, "rip=%#llx, rflags=%#llx}", v->rip, v->rflags);
}

static void show_segment(struct abi_strace *s, const char *name, const struct kvm_segment *g)
{
	add(s, "%s={base=%#llx, limit=%#x, selector=%#x, type=%u, present=%u, dpl=%u, db=%u, s=%u, l=%u, g=%u}, ",
	    name, (ull)g->base, g->limit, g->selector, g->type, g->present, g->dpl, g->db, g->s, g->l, g->g);
}

SHOW(show_sregs, kvm_sregs)
{
	add(s, "{");
	show_segment(s, "cs", &v->cs);
	add(s, "..., cr0=%#llx, cr2=%#llx, cr3=%#llx, cr4=%#llx, efer=%#llx, apic_base=%#llx}", v->cr0, v->cr2,
	    v->cr3, v->cr4, v->efer, v->apic_base);
}

SHOW(show_irq_level, kvm_irq_level)
{
	add(s, "{irq=%u, level=%u}", v->irq, v->level);
}

SHOW(show_interrupt, kvm_interrupt)
{
	add(s, "{irq=%u}", v->irq);
}

SHOW(show_irqfd, kvm_irqfd)
{
	add(s, "{fd=%d, gsi=%u, flags=%#x, resamplefd=%d}", (int)v->fd, v->gsi, v->flags, (int)v->resamplefd);
}

SHOW(show_ioeventfd, kvm_ioeventfd)
{
	add(s, "{datamatch=%#llx, addr=%#llx, len=%u, fd=%d, flags=%#x}", v->datamatch, v->addr, v->len, v->fd,
	    v->flags);
}

SHOW(show_hv_eventfd, kvm_hyperv_eventfd)
{
	add(s, "{conn_id=%#x, fd=%d, flags=%#x}", v->conn_id, v->fd, v->flags);
}

SHOW(show_dirty_log, kvm_dirty_log)
{
	add(s, "{slot=%u, dirty_bitmap=%p}", v->slot, v->dirty_bitmap);
}

SHOW(show_enable_cap, kvm_enable_cap)
{
	const char *name = abi_capability_name(v->cap);

	if (name)
		add(s, "{cap=%s", name);
	else
		add(s, "{cap=%u", v->cap);
	add(s, ", flags=%#x, args=[%#llx, %#llx, %#llx, %#llx]}", v->flags, v->args[0], v->args[1], v->args[2],
	    v->args[3]);
}

SHOW(show_msi, kvm_msi)
{
	add(s, "{address=%#llx, data=%#x, flags=%#x}", (ull)v->address_hi << 32 | v->address_lo, v->data, v->flags);
}

SHOW(show_mp_state, kvm_mp_state)
{
	static const char *const name[] = { "KVM_MP_STATE_RUNNABLE", "KVM_MP_STATE_UNINITIALIZED",
					    "KVM_MP_STATE_INIT_RECEIVED", "KVM_MP_STATE_HALTED",
					    "KVM_MP_STATE_SIPI_RECEIVED" };

	if (v->mp_state < ARRAY_SIZE(name))
		add(s, "{mp_state=%s}", name[v->mp_state]);
	else
		add(s, "{mp_state=%u}", v->mp_state);
}

SHOW(show_translation, kvm_translation)
{
	add(s, "{linear_address=%#llx, physical_address=%#llx, valid=%u}", v->linear_address, v->physical_address,
	    v->valid);
}

SHOW(show_clock, kvm_clock_data)
{
	add(s, "{clock=%llu, flags=%#x}", v->clock, v->flags);
}

SHOW(show_debug, kvm_guest_debug)
{
	add(s, "{control=%#x}", v->control);
}

SHOW(show_xcrs, kvm_xcrs)
{
	add(s, "{nr_xcrs=%u, xcrs[0]={%u, %#llx}}", v->nr_xcrs, v->xcrs[0].xcr, v->xcrs[0].value);
}

SHOW(show_events, kvm_vcpu_events)
{
	add(s, "{exception={injected=%u, nr=%u}, interrupt={injected=%u, nr=%u}, nmi={injected=%u, pending=%u, masked=%u}, ...}",
	    v->exception.injected, v->exception.nr, v->interrupt.injected, v->interrupt.nr, v->nmi.injected,
	    v->nmi.pending, v->nmi.masked);
}

SHOW(show_nent, kvm_cpuid2)
{
	add(s, "{nent=%u, entries=[...]}", v->nent);
}

SHOW(show_nr_routes, kvm_irq_routing)
{
	add(s, "{nr=%u, flags=%#x, entries=[...]}", v->nr, v->flags);
}

SHOW(show_nmsr_list, kvm_msr_list)
{
	add(s, "{nmsrs=%u, indices=[...]}", v->nmsrs);
}

static void show_u64(struct abi_strace *s, const void *data)
{
	add(s, "[%#llx]", *(const ull *)data);
}

/* The list itself lies behind the head, still in the client's memory. */
static void show_msrs(struct abi_strace *s, unsigned long arg)
{
	const struct kvm_msrs *user = (const void *)arg;
	struct kvm_msrs head;
	struct kvm_msr_entry e[MAX_SHOWN_MSRS];
	unsigned n;

	if (host_copy_from(&head, user, sizeof(head))) {
		add(s, "%#lx", arg);
		return;
	}
	n = head.nmsrs < MAX_SHOWN_MSRS ? head.nmsrs : MAX_SHOWN_MSRS;
	if (host_copy_from(e, user->entries, n * sizeof(*e)))
		n = 0;
	add(s, "{nmsrs=%u, entries=[", head.nmsrs);
	for (unsigned i = 0; i < n; i++)
		add(s, "%s{index=%#x, data=%#llx}", i ? ", " : "", e[i].index, (ull)e[i].data);
	add(s, "%s]}", n < head.nmsrs ? ", ..." : "");
}

/*
 * What is shown in full. size 0: _IOC_SIZE. Structures not here are shown as
 * their address.
 */
static const struct {
	unsigned long request;
	bool comes_out;
	show_fn *show;
} structures[] = {
	{ KVM_SET_USER_MEMORY_REGION, false, show_memory },
	{ KVM_GET_REGS, true, show_regs },
	{ KVM_SET_REGS, false, show_regs },
	{ KVM_GET_SREGS, true, show_sregs },
	{ KVM_SET_SREGS, false, show_sregs },
	{ KVM_IRQ_LINE, false, show_irq_level },
	{ KVM_IRQ_LINE_STATUS, false, show_irq_level },
	{ KVM_INTERRUPT, false, show_interrupt },
	{ KVM_IRQFD, false, show_irqfd },
	{ KVM_IOEVENTFD, false, show_ioeventfd },
	{ KVM_HYPERV_EVENTFD, false, show_hv_eventfd },
	{ KVM_GET_DIRTY_LOG, false, show_dirty_log },
	{ KVM_ENABLE_CAP, false, show_enable_cap },
	{ KVM_SIGNAL_MSI, false, show_msi },
	{ KVM_GET_MP_STATE, true, show_mp_state },
	{ KVM_SET_MP_STATE, false, show_mp_state },
	{ KVM_TRANSLATE, true, show_translation },
	{ KVM_GET_CLOCK, true, show_clock },
	{ KVM_SET_CLOCK, false, show_clock },
	{ KVM_SET_GUEST_DEBUG, false, show_debug },
	{ KVM_GET_XCRS, true, show_xcrs },
	{ KVM_SET_XCRS, false, show_xcrs },
	{ KVM_GET_VCPU_EVENTS, true, show_events },
	{ KVM_SET_VCPU_EVENTS, false, show_events },
	{ KVM_SET_CPUID2, false, show_nent },
	{ KVM_GET_CPUID2, true, show_nent },
	{ KVM_GET_SUPPORTED_CPUID, true, show_nent },
	{ KVM_GET_EMULATED_CPUID, true, show_nent },
	{ KVM_SET_GSI_ROUTING, false, show_nr_routes },
	{ KVM_GET_MSR_INDEX_LIST, true, show_nmsr_list },
	{ KVM_GET_MSR_FEATURE_INDEX_LIST, true, show_nmsr_list },
	{ KVM_SET_IDENTITY_MAP_ADDR, false, show_u64 },
};

static bool show_structure(struct abi_strace *s, unsigned long request, unsigned long arg, bool after)
{
	uint64_t data[ABI_MAX_COPY / 8];

	for (size_t i = 0; i < ARRAY_SIZE(structures); i++) {
		if (structures[i].request != request)
			continue;
		if (structures[i].comes_out != after)
			return !after; /* the other time */
		if (host_copy_from(data, (const void *)arg, _IOC_SIZE(request)))
			add(s, "%#lx", arg);
		else
			structures[i].show(s, data);
		return true;
	}
	return false;
}

/* --- the line --- */

static const char *name_of(const struct abi_object *o, unsigned long request)
{
	static const enum abi_kind kinds[] = { ABI_VCPU, ABI_VM, ABI_SYSTEM };
	const struct abi_row *row = abi_find_row(o->kind, request);

	for (size_t i = 0; !row && i < ARRAY_SIZE(kinds); i++)
		row = abi_find_row(kinds[i], request);
	return row ? row->name : NULL;
}

static void begin(struct abi_strace *s)
{
	pid_t tid = (pid_t)syscall(SYS_gettid);

	s->len = 0;
	s->started_ns = now_ns();
	if (tid != getpid())
		add(s, "[pid %5d] ", (int)tid);
}

static void finish(struct abi_strace *s, uint64_t ns)
{
	if (out.times)
		add(s, " <%llu.%06llu>", (ull)(ns / 1000000000), (ull)(ns / 1000 % 1000000));
	if (s->len > sizeof(s->text) - 2)
		s->len = sizeof(s->text) - 2;
	s->text[s->len++] = '\n';
	if (lib_quiet_write(out.fd, s->text, s->len) < 0)
		return; /* nobody to tell */
}

static void add_result(struct abi_strace *s, long r)
{
	if (r >= 0)
		add(s, ") = %ld", r);
	else
		add(s, ") = -1 %s (%s)", strerrorname_np((int)-r), strerror((int)-r));
}

void abi_strace_start(struct abi_strace *s, const struct abi_object *o, int fd, unsigned long request,
		      unsigned long arg)
{
	const char *name = name_of(o, request), *cap;

	begin(s);
	if (name)
		add(s, "ioctl(%d, %s, ", fd, name);
	else
		add(s, "ioctl(%d, _IOC(%#x, %#x, %#x, %#x), ", fd, (unsigned)_IOC_DIR(request),
		    (unsigned)_IOC_TYPE(request), (unsigned)_IOC_NR(request), (unsigned)_IOC_SIZE(request));
	if (request == KVM_CHECK_EXTENSION && (cap = abi_capability_name(arg)) != NULL)
		add(s, "%s", cap);
	else if (request == KVM_SET_MSRS)
		show_msrs(s, arg);
	else if (request == KVM_GET_MSRS)
		return; /* afterwards */
	else if (!show_structure(s, request, arg, false))
		add(s, arg < 4096 ? "%lu" : "%#lx", arg);
}

static void add_exit(struct abi_strace *s, const struct kvm_run *run)
{
	const char *name = abi_exit_name(run->exit_reason);

	if (!name) {
		add(s, " (exit reason %u)", run->exit_reason);
	} else if (run->exit_reason == KVM_EXIT_IO) {
		add(s, " (%s, %s port %#x size %u count %u)", name, run->io.direction ? "out" : "in", run->io.port,
		    run->io.size, run->io.count);
	} else if (run->exit_reason == KVM_EXIT_MMIO) {
		add(s, " (%s, %s %#llx len %u)", name, run->mmio.is_write ? "write" : "read",
		    (ull)run->mmio.phys_addr, run->mmio.len);
	} else {
		add(s, " (%s)", name);
	}
	if (run->flags & KVM_RUN_X86_BUS_LOCK)
		add(s, " KVM_RUN_X86_BUS_LOCK");
}

void abi_strace_end(struct abi_strace *s, const struct abi_object *o, unsigned long request,
		    unsigned long arg, long result)
{
	uint64_t ns = now_ns() - s->started_ns;
	bool out_struct = false;

	if (request == KVM_GET_MSRS) {
		show_msrs(s, arg);
	} else {
		for (size_t i = 0; i < ARRAY_SIZE(structures); i++)
			out_struct |= structures[i].request == request && structures[i].comes_out;
		if (out_struct && result >= 0)
			show_structure(s, request, arg, true);
		else if (out_struct)
			add(s, "%#lx", arg);
	}
	add_result(s, result);
	if (request == KVM_RUN && result >= 0 && o->vcpu)
		add_exit(s, o->vcpu->run);
	finish(s, ns);
}

void abi_strace_open(const char *path, int flags, long result)
{
	struct abi_strace s;

	begin(&s);
	add(&s, "open(\"%s\", %s%s", path,
	    (flags & O_ACCMODE) == O_RDWR ? "O_RDWR" : flags & O_WRONLY ? "O_WRONLY" : "O_RDONLY",
	    flags & O_CLOEXEC ? "|O_CLOEXEC" : "");
	add_result(&s, result);
	finish(&s, now_ns() - s.started_ns);
}
