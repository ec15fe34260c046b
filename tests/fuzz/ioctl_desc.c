/*
 * The ioctls as data: which descriptor, how an argument looks that is right in
 * most fields. From the KVM API document and <linux/kvm.h>.
 */
#include "ioctl.h"

#include <string.h>
#include <sys/ioctl.h>

#define PAGE 4096ull
#define SLOT_GPA 0x200000ull

#define COUNT(a) (sizeof(a) / sizeof(*(a)))
#define ONE_OF(r, ...)                                                               \
	((const uint64_t[]){__VA_ARGS__}[rnd_below(r, COUNT(((const uint64_t[]){__VA_ARGS__})))])

uint64_t fuzz_pointer(const struct world *w, struct rng *r)
{
	uint64_t mem = (uintptr_t)w->mem;

	switch (rnd_below(r, 10)) {
	case 0: return 0;
	case 1: return mem + MEM_BYTES + PAGE * rnd_below(r, 64); /* nothing there */
	case 2: return 0xffff800000000000 + PAGE * rnd_below(r, 64);
	case 3: return 1ull << 47;
	case 4: return mem + rnd_below(r, MEM_BYTES);
	case 5: return ~0ull - PAGE + 1;
	default: return mem + (rnd_below(r, MEM_BYTES) & ~(PAGE - 1));
	}
}

static int event_fd(const struct world *w, struct rng *r)
{
	unsigned place = (unsigned)rnd_below(r, FD_PLACES);

	if (rnd_one_in(r, 12))
		return -1;
	return __atomic_load_n(&w->fds[rnd_one_in(r, 12) ? FD_VM : FD_EVENT][place], __ATOMIC_RELAXED);
}

static uint64_t guest_address(struct rng *r)
{
	return ONE_OF(r, 0, 0x1000, 0xa0000, 0xfffff, SLOT_GPA, SLOT_GPA - 1, 0xfee00000, 0xfec00000, 0x100000000,
		      1ull << 40, ~0ull, 0xfff) + (rnd_one_in(r, 4) ? rnd_below(r, 8192) : 0);
}

/* --- memory --- */

/* Slots of sane sizes over the world's memory and what is reserved after it. */
static void keep_region_ours(const struct world *w, uint64_t *hva, uint64_t *size)
{
	uint64_t mem = (uintptr_t)w->mem, end = mem + MEM_BYTES + RESERVE_BYTES;

	if (*hva >= 1ull << 47 || !*size || *hva % PAGE || *size % PAGE || *size > 1ull << 47)
		return; /* refused */
	if (*hva < mem || *hva >= end)
		*hva = mem + (*hva & (MEM_BYTES - PAGE));
	if (*size > end - *hva)
		*size = end - *hva;
	if (!w->backend->wild && *size > 1ull << 30)
		*size = 1ull << 30;
}

static size_t fill_region(const struct world *w, int fd, struct rng *r, void *arg)
{
	struct kvm_userspace_memory_region *m = arg;

	m->slot = (uint32_t)ONE_OF(r, 0, 1, 2, 3, 1 << 16, 508, 509, 32767, 2 << 16);
	m->flags = (uint32_t)ONE_OF(r, 0, 0, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, 3);
	m->guest_phys_addr = rnd_one_in(r, 3) ? PAGE * rnd_below(r, 1024) :
						ONE_OF(r, 0, SLOT_GPA, SLOT_GPA * 2, 0x100000, 1ull << 32, 0xfee00000);
	m->memory_size = ONE_OF(r, 0, 0, PAGE, PAGE * 16, MEM_BYTES, MEM_BYTES / 2, 64 << 20);
	m->userspace_addr = rnd_one_in(r, 4) ? fuzz_pointer(w, r) : (uintptr_t)w->mem;
	if (rnd_one_in(r, 8))
		m->memory_size = rnd_value(r);
	if (rnd_one_in(r, 16))
		m->guest_phys_addr = rnd_value(r) & ~(PAGE - 1);
	keep_region_ours(w, (uint64_t *)&m->userspace_addr, (uint64_t *)&m->memory_size);
	return sizeof(*m);
}

static size_t fill_region2(const struct world *w, int fd, struct rng *r, void *arg)
{
	struct kvm_userspace_memory_region first;

	fill_region(w, fd, r, &first);
	memset(arg, 0, 160); /* struct kvm_userspace_memory_region2 begins the same way */
	memcpy(arg, &first, sizeof(first));
	return 160;
}

static size_t fill_dirty_log(const struct world *w, int fd, struct rng *r, void *arg)
{
	struct kvm_dirty_log *d = arg;

	d->slot = (uint32_t)ONE_OF(r, 0, 1, 2, 3, 1 << 16, 32767);
	d->dirty_bitmap = (void *)(uintptr_t)(rnd_one_in(r, 4) ? fuzz_pointer(w, r) : (uintptr_t)w->mem + 0x80000);
	return sizeof(*d);
}

static size_t fill_clear_log(const struct world *w, int fd, struct rng *r, void *arg)
{
	struct kvm_clear_dirty_log *d = arg;

	d->slot = (uint32_t)ONE_OF(r, 0, 1, 2, 3, 1 << 16, 32767);
	d->num_pages = (uint32_t)ONE_OF(r, 0, 1, 16, 64, 128, 256, 1 << 20, ~0u);
	d->first_page = ONE_OF(r, 0, 64, 128, 1, 1ull << 40, ~63ull);
	d->dirty_bitmap = (void *)(uintptr_t)(rnd_one_in(r, 4) ? fuzz_pointer(w, r) : (uintptr_t)w->mem + 0x1000);
	return sizeof(*d);
}

static size_t fill_pre_fault(const struct world *w, int fd, struct rng *r, void *arg)
{
	uint64_t *p = arg; /* struct kvm_pre_fault_memory: gpa, size, flags, padding[5] */

	memset(p, 0, 64);
	p[0] = rnd_one_in(r, 3) ? guest_address(r) : PAGE * rnd_below(r, 512);
	p[1] = ONE_OF(r, PAGE, PAGE * 16, MEM_BYTES, 0, 100, ~0xfffull);
	p[2] = rnd_one_in(r, 8);
	return 64;
}

/* --- interrupts --- */

static size_t fill_irq_level(const struct world *w, int fd, struct rng *r, void *arg)
{
	struct kvm_irq_level *l = arg;

	l->irq = (uint32_t)ONE_OF(r, 0, 1, 2, 4, 8, 15, 16, 23, 24, 1023, 1024, 4095, 4096, ~0u);
	l->level = (uint32_t)ONE_OF(r, 0, 1, 1, 2, ~0u);
	return sizeof(*l);
}

static size_t fill_msi(const struct world *w, int fd, struct rng *r, void *arg)
{
	struct kvm_msi *m = arg;

	memset(m, 0, sizeof(*m));
	m->address_lo = 0xfee00000 | (uint32_t)(rnd_one_in(r, 2) ? 0 : rnd(r) & 0xfffff);
	m->address_hi = rnd_one_in(r, 4) ? (uint32_t)rnd_value(r) : 0;
	m->data = (uint32_t)ONE_OF(r, 0x30, 0xff, 0x10, 0x400, 0x500, 0x600, 0x100, 0x200, 0x8030, 0xc030);
	m->flags = rnd_one_in(r, 8) ? (uint32_t)rnd_value(r) : 0;
	return sizeof(*m);
}

static size_t fill_irqfd(const struct world *w, int fd, struct rng *r, void *arg)
{
	struct kvm_irqfd *i = arg;

	memset(i, 0, sizeof(*i));
	i->fd = (uint32_t)event_fd(w, r);
	i->gsi = (uint32_t)ONE_OF(r, 0, 4, 8, 15, 23, 24, 1023, 4095, 4096, ~0u);
	i->flags = (uint32_t)ONE_OF(r, 0, 0, 0, KVM_IRQFD_FLAG_DEASSIGN, KVM_IRQFD_FLAG_RESAMPLE, 3, 4, ~0u);
	i->resamplefd = (uint32_t)event_fd(w, r);
	return sizeof(*i);
}

static size_t fill_ioeventfd(const struct world *w, int fd, struct rng *r, void *arg)
{
	struct kvm_ioeventfd *i = arg;

	memset(i, 0, sizeof(*i));
	i->fd = event_fd(w, r);
	i->addr = rnd_one_in(r, 2) ? ONE_OF(r, 0xa0000, 0x10, 0x40, 0xffff) : guest_address(r);
	i->len = (uint32_t)ONE_OF(r, 0, 1, 2, 4, 8, 4, 3, 16, ~0u);
	i->flags = (uint32_t)ONE_OF(r, 0, KVM_IOEVENTFD_FLAG_PIO, KVM_IOEVENTFD_FLAG_DATAMATCH,
				    KVM_IOEVENTFD_FLAG_DEASSIGN, KVM_IOEVENTFD_FLAG_DEASSIGN | KVM_IOEVENTFD_FLAG_PIO,
				    KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY, 1 << 7, 3);
	i->datamatch = ONE_OF(r, 0, 1, ~0ull);
	return sizeof(*i);
}

static size_t fill_hv_eventfd(const struct world *w, int fd, struct rng *r, void *arg)
{
	struct kvm_hyperv_eventfd *e = arg;

	memset(e, 0, sizeof(*e));
	e->conn_id = (uint32_t)ONE_OF(r, 0, 1, 2, 3, 0xffffff, 0x1000000, ~0u);
	e->fd = event_fd(w, r);
	e->flags = (uint32_t)ONE_OF(r, 0, 0, 0, KVM_HYPERV_EVENTFD_DEASSIGN, KVM_HYPERV_EVENTFD_DEASSIGN, 2, ~0u);
	return sizeof(*e);
}

static size_t fill_routing(const struct world *w, int fd, struct rng *r, void *arg)
{
	struct kvm_irq_routing *t = arg;
	uint32_t n = (uint32_t)ONE_OF(r, 0, 1, 3, 24, 40);

	memset(t, 0, sizeof(*t) + n * sizeof(t->entries[0]));
	t->nr = rnd_one_in(r, 12) ? (uint32_t)ONE_OF(r, 4096, 4097, ~0u) : n;
	t->flags = rnd_one_in(r, 16);
	for (uint32_t i = 0; i < n; i++) {
		struct kvm_irq_routing_entry *e = &t->entries[i];

		e->gsi = rnd_one_in(r, 6) ? (uint32_t)ONE_OF(r, 0, 4, 1023, 4095, 4096, ~0u) : i;
		e->type = (uint32_t)ONE_OF(r, KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI,
					   KVM_IRQ_ROUTING_MSI, KVM_IRQ_ROUTING_HV_SINT);
		if (rnd_one_in(r, 16))
			e->type = (uint32_t)rnd_below(r, 8);
		e->flags = rnd_one_in(r, 24) ? (uint32_t)rnd_value(r) : 0;
		if (e->type == KVM_IRQ_ROUTING_IRQCHIP) {
			e->u.irqchip.irqchip = (uint32_t)rnd_below(r, rnd_one_in(r, 16) ? 4 : 3);
			e->u.irqchip.pin = e->u.irqchip.irqchip == KVM_IRQCHIP_IOAPIC ? i % 24 : i % 8;
			if (rnd_one_in(r, 24))
				e->u.irqchip.pin = (uint32_t)rnd_value(r);
		} else if (e->type == KVM_IRQ_ROUTING_HV_SINT) {
			e->u.hv_sint.vcpu = (uint32_t)rnd_below(r, 3);
			e->u.hv_sint.sint = (uint32_t)rnd_below(r, 18);
		} else {
			e->u.msi.address_lo = 0xfee00000 | (uint32_t)(rnd(r) & 0xff00c);
			e->u.msi.address_hi = rnd_one_in(r, 8) ? (uint32_t)rnd(r) : 0;
			e->u.msi.data = (uint32_t)(rnd(r) & 0xc7ff);
		}
	}
	return sizeof(*t) + n * sizeof(t->entries[0]);
}

static size_t fill_coalesced(const struct world *w, int fd, struct rng *r, void *arg)
{
	struct kvm_coalesced_mmio_zone *z = arg;

	z->addr = rnd_one_in(r, 2) ? ONE_OF(r, 0xa0000, 0x40, 0xa0000) : guest_address(r);
	z->size = (uint32_t)ONE_OF(r, 0, 1, 4, 0x1000, 0x20000, ~0u);
	z->pio = (uint32_t)ONE_OF(r, 0, 0, 1, 2);
	return sizeof(*z);
}

static size_t fill_interrupt(const struct world *w, int fd, struct rng *r, void *arg)
{
	((struct kvm_interrupt *)arg)->irq = (uint32_t)ONE_OF(r, 0x20, 0x30, 0, 255, 256, ~0u);
	return sizeof(struct kvm_interrupt);
}

static size_t fill_reinject(const struct world *w, int fd, struct rng *r, void *arg)
{
	memset(arg, 0, sizeof(struct kvm_reinject_control));
	((struct kvm_reinject_control *)arg)->pit_reinject = (uint8_t)rnd_below(r, 3);
	return sizeof(struct kvm_reinject_control);
}

static size_t fill_pit_config(const struct world *w, int fd, struct rng *r, void *arg)
{
	memset(arg, 0, sizeof(struct kvm_pit_config));
	((struct kvm_pit_config *)arg)->flags = (uint32_t)ONE_OF(r, 0, 1, 1, 2, ~0u);
	return sizeof(struct kvm_pit_config);
}

/* --- lists --- */

static const uint32_t msrs[] = { 0x10, 0x1b, 0x3a, 0x8b, 0xfe, 0x174, 0x175, 0x176, 0x179, 0x17a, 0x17b, 0x1a0, 0x1d9,
	0x200, 0x201, 0x20f, 0x250, 0x277, 0x2ff, 0x400, 0x401, 0x402, 0x403, 0x480, 0x48c, 0x6e0, 0x800, 0x802, 0x808,
	0x80b, 0x828, 0x830, 0x832, 0x838, 0x83f, 0xda0, 0xc0000080, 0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084,
	0xc0000100, 0xc0000101, 0xc0000102, 0xc0000103, 0x11, 0x12, 0x4b564d00, 0x4b564d01, 0x4b564d02, 0x4b564d03,
	0x4b564d04, 0x4b564d05, 0x4b564d06, 0x4b564d07, 0x40000000, 0x40000001, 0x40000002, 0x40000003, 0x40000021, 0x40000073,
	0x40000080, 0x40000083, 0x40000084, 0x40000092, 0x4000009f, 0x400000b0, 0x400000b1, 0x400000b4, 0x400000b5,
	0x400000f1, 0x40000105, 0x12345678, 0xce, 0x10a, 0x3b, 0x140, 0x48, 0x49 };

static size_t fill_msrs(const struct world *w, int fd, struct rng *r, void *arg)
{
	struct kvm_msrs *m = arg;
	uint32_t n = (uint32_t)ONE_OF(r, 0, 1, 1, 1, 2, 4);

	m->nmsrs = rnd_one_in(r, 12) ? (uint32_t)ONE_OF(r, 255, 256, 257, ~0u) : n;
	m->pad = 0;
	for (uint32_t i = 0; i < n; i++) {
		m->entries[i].index = rnd_one_in(r, 16) ? (uint32_t)rnd(r) : msrs[rnd_below(r, COUNT(msrs))];
		m->entries[i].reserved = 0;
		m->entries[i].data = rnd_value(r);
	}
	return sizeof(*m) + n * sizeof(m->entries[0]);
}

static size_t fill_list(const struct world *w, int fd, struct rng *r, void *arg)
{
	uint32_t n = (uint32_t)ONE_OF(r, 0, 1, 8, 100, 256, 257, 400, ~0u);

	/* nr, then room for that many: 40 bytes is the largest element */
	memset(arg, 0, 400 * 40 + 8);
	*(uint32_t *)arg = n;
	return n <= 400 ? 8 + n * 40ul : 400 * 40 + 8;
}

static size_t fill_cpuid(const struct world *w, int fd, struct rng *r, void *arg)
{
	static const struct kvm_cpuid_entry2 plain[] = {
		{.function = 0, .eax = 0xd, .ebx = 0x756e6547, .edx = 0x49656e69, .ecx = 0x6c65746e},
		{.function = 1, .eax = 0x806e9, .ecx = 0x80202001 | 1 << 21, .edx = 0x178bfbff},
		{.function = 7, .flags = 1, .ebx = 0x209c0281},
		{.function = 0xd, .flags = 1, .eax = 7, .ebx = 832, .ecx = 832},
		{.function = 0x80000000, .eax = 0x80000008},
		{.function = 0x80000001, .edx = 0x2c100800, .ecx = 1},
		{.function = 0x80000008, .eax = 0x3028},
		{.function = 0x40000000, .eax = 0x40000001, .ebx = 0x4b4d564b, .ecx = 0x564b4d56, .edx = 0x4d},
		{.function = 0x40000001, .eax = 0x1007efb},
	};
	struct kvm_cpuid2 *c = arg;
	uint32_t n = (uint32_t)ONE_OF(r, 0, 3, COUNT(plain), COUNT(plain), COUNT(plain));

	memset(c, 0, sizeof(*c) + sizeof(plain));
	c->nent = rnd_one_in(r, 12) ? (uint32_t)ONE_OF(r, 256, 257, ~0u, 80) : n;
	memcpy(c->entries, plain, n * sizeof(plain[0]));
	if (n == COUNT(plain) && rnd_one_in(r, 4))
		c->entries[n - 1].eax = 0x31237648; /* Hyper-V's, with every feature by default */
	if (n && rnd_one_in(r, 2)) {
		struct kvm_cpuid_entry2 *e = &c->entries[rnd_below(r, n)];
		uint32_t *words = &e->function;

		words[rnd_below(r, 7)] ^= (uint32_t)rnd_value(r);
	}
	return sizeof(*c) + n * sizeof(plain[0]);
}

/* The first form: no index, no flags, 24 bytes an entry. */
static size_t fill_cpuid1(const struct world *w, int fd, struct rng *r, void *arg)
{
	uint32_t *p = arg, n = (uint32_t)rnd_below(r, 4);

	memset(arg, 0, 8 + n * 24);
	p[0] = rnd_one_in(r, 12) ? ~0u : n;
	for (uint32_t i = 0; i < n; i++) {
		p[2 + i * 6] = i;
		p[3 + i * 6] = (uint32_t)rnd_value(r);
	}
	return 8 + n * 24;
}

static size_t fill_msr_filter(const struct world *w, int fd, struct rng *r, void *arg)
{
	struct kvm_msr_filter *f = arg;

	memset(f, 0, sizeof(*f));
	f->flags = (uint32_t)ONE_OF(r, 0, 0, 1, 2);
	for (unsigned i = rnd_below(r, 3); i--;) {
		struct kvm_msr_filter_range *range = &f->ranges[rnd_below(r, 16)];

		range->flags = (uint32_t)ONE_OF(r, 1, 2, 3, 0, 4);
		range->nmsrs = (uint32_t)ONE_OF(r, 1, 64, 0x600 * 8, 0x600 * 8 + 1, ~0u, 0);
		range->base = rnd_one_in(r, 4) ? (uint32_t)rnd(r) : msrs[rnd_below(r, COUNT(msrs))];
		range->bitmap = (uint8_t *)(uintptr_t)fuzz_pointer(w, r);
	}
	return sizeof(*f);
}

/* --- other --- */

static size_t fill_enable_cap(const struct world *w, int fd, struct rng *r, void *arg)
{
	static const uint32_t caps[] = { KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
		KVM_CAP_DISABLE_QUIRKS, KVM_CAP_DISABLE_QUIRKS2, KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_X2APIC_API,
		KVM_CAP_MSR_PLATFORM_INFO, KVM_CAP_EXCEPTION_PAYLOAD, KVM_CAP_X86_TRIPLE_FAULT_EVENT, KVM_CAP_EXIT_HYPERCALL,
		KVM_CAP_X86_USER_SPACE_MSR, KVM_CAP_MAX_VCPU_ID, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, KVM_CAP_HYPERV_SYNIC,
		KVM_CAP_HYPERV_SYNIC2, KVM_CAP_X86_DISABLE_EXITS, KVM_CAP_HALT_POLL, KVM_CAP_X86_BUS_LOCK_EXIT,
		KVM_CAP_X86_NOTIFY_VMEXIT, KVM_CAP_EXIT_ON_EMULATION_FAILURE, KVM_CAP_PMU_CAPABILITY,
		KVM_CAP_VM_DISABLE_NX_HUGE_PAGES, KVM_CAP_SGX_ATTRIBUTE, KVM_CAP_HYPERV_ENFORCE_CPUID, 0, 9999 };
	struct kvm_enable_cap *c = arg;

	memset(c, 0, sizeof(*c));
	c->cap = caps[rnd_below(r, COUNT(caps))];
	c->flags = rnd_one_in(r, 16);
	c->args[0] = rnd_one_in(r, 4) ? rnd_value(r) : ONE_OF(r, 0, 1, 2, 3, 24, 4096, 65536, 1 << 20);
	return sizeof(*c);
}

static size_t fill_create_device(const struct world *w, int fd, struct rng *r, void *arg)
{
	struct kvm_create_device *d = arg;

	memset(d, 0, sizeof(*d));
	d->type = (uint32_t)ONE_OF(r, 0, 1, 2, 3, 5, 7, 1000, ~0u);
	d->flags = (uint32_t)ONE_OF(r, 0, KVM_CREATE_DEVICE_TEST, 2);
	return sizeof(*d);
}

static size_t fill_device_attr(const struct world *w, int fd, struct rng *r, void *arg)
{
	struct kvm_device_attr *a = arg;

	memset(a, 0, sizeof(*a));
	a->group = (uint32_t)ONE_OF(r, 0, 0, 0, 1);
	a->attr = ONE_OF(r, 0, 0, 1, 2);
	a->addr = rnd_one_in(r, 3) ? fuzz_pointer(w, r) : (uintptr_t)w->mem + 0x90000;
	a->flags = rnd_one_in(r, 8);
	return sizeof(*a);
}

/* The signals that end runs stay open, or no run would end. */
static size_t fill_signal_mask(const struct world *w, int fd, struct rng *r, void *arg)
{
	struct kvm_signal_mask *m = arg;
	uint64_t set = rnd(r) & ~0x3ffffull & ~(~0ull << 31);

	m->len = (uint32_t)ONE_OF(r, 8, 8, 8, 0, 4, 128, ~0u);
	memcpy(m->sigset, &set, sizeof(set));
	return sizeof(*m) + sizeof(set);
}

static size_t fill_guest_debug(const struct world *w, int fd, struct rng *r, void *arg)
{
	struct kvm_guest_debug *d = arg;

	memset(d, 0, sizeof(*d));
	d->control = rnd_one_in(r, 4) ? (uint32_t)rnd_value(r) : (uint32_t)(rnd(r) & 0xf0003);
	for (unsigned i = 0; i < 8; i++)
		d->arch.debugreg[i] = rnd_one_in(r, 3) ? rnd_value(r) : 0x1000;
	return sizeof(*d);
}

static size_t fill_mce_cap(const struct world *w, int fd, struct rng *r, void *arg)
{
	*(uint64_t *)arg = ONE_OF(r, 0x0a, 0x10a, 0x20, 0x21, 0, 0x100000a, 0x8000001, ~0ull);
	return 8;
}

static size_t fill_mce(const struct world *w, int fd, struct rng *r, void *arg)
{
	struct kvm_x86_mce *m = arg;

	memset(m, 0, sizeof(*m));
	m->status = ONE_OF(r, 1ull << 63, 3ull << 61 | 1ull << 63, 7ull << 61, 0, ~0ull);
	m->bank = (uint8_t)ONE_OF(r, 0, 1, 9, 10, 31, 32, 255);
	m->mcg_status = rnd_below(r, 8);
	m->misc = rnd_value(r);
	m->addr = rnd_value(r);
	return sizeof(*m);
}

static size_t fill_u64(const struct world *w, int fd, struct rng *r, void *arg)
{
	*(uint64_t *)arg = rnd_one_in(r, 2) ? guest_address(r) : rnd_value(r);
	return 8;
}

static size_t fill_tpr(const struct world *w, int fd, struct rng *r, void *arg)
{
	struct kvm_tpr_access_ctl *t = arg;

	memset(t, 0, sizeof(*t));
	t->enabled = (uint32_t)rnd_below(r, 3);
	t->flags = rnd_one_in(r, 6);
	return sizeof(*t);
}

static size_t fill_translate(const struct world *w, int fd, struct rng *r, void *arg)
{
	memset(arg, 0, sizeof(struct kvm_translation));
	((struct kvm_translation *)arg)->linear_address = guest_address(r);
	return sizeof(struct kvm_translation);
}

static size_t fill_irqchip(const struct world *w, int fd, struct rng *r, void *arg)
{
	memset(arg, 0, sizeof(struct kvm_irqchip));
	((struct kvm_irqchip *)arg)->chip_id = (uint32_t)rnd_below(r, 4);
	return sizeof(struct kvm_irqchip);
}

static size_t fill_bytes(const struct world *w, int fd, struct rng *r, void *arg)
{
	for (unsigned i = 0; i < 64; i++)
		((uint64_t *)arg)[i] = rnd_one_in(r, 2) ? 0 : rnd_value(r);
	return 512;
}

/* What the GET in the same row read becomes wrong in the step, word by word. */
static size_t fill_nothing(const struct world *w, int fd, struct rng *r, void *arg)
{
	return 0;
}

#define SET(name, kind) {KVM_SET_##name, "KVM_SET_" #name, kind, fill_nothing, KVM_GET_##name}
#define GET(name, kind) {KVM_GET_##name, "KVM_GET_" #name, kind, fill_bytes}
#define IN(name, kind, fill) {name, #name, kind, fill}
#define VALUE(name, kind, max) {name, #name, kind, NULL, 0, max}

/* Newer than some <linux/kvm.h>. */
#define SET_USER_MEMORY_REGION2 _IOC(_IOC_WRITE, KVMIO, 0x49, 160)
#define PRE_FAULT_MEMORY _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0xd5, 64)

const struct ioctl_desc ioctl_descs[] = {
	VALUE(KVM_GET_API_VERSION, FD_SYSTEM, 2),
	VALUE(KVM_CHECK_EXTENSION, FD_SYSTEM, 240),
	VALUE(KVM_GET_VCPU_MMAP_SIZE, FD_SYSTEM, 2),
	IN(KVM_GET_SUPPORTED_CPUID, FD_SYSTEM, fill_list),
	IN(KVM_GET_EMULATED_CPUID, FD_SYSTEM, fill_list),
	IN(KVM_GET_MSR_INDEX_LIST, FD_SYSTEM, fill_list),
	IN(KVM_GET_MSR_FEATURE_INDEX_LIST, FD_SYSTEM, fill_list),
	IN(KVM_GET_MSRS, FD_SYSTEM, fill_msrs),
	GET(SREGS, FD_SYSTEM), /* not one of its */
	{KVM_X86_GET_MCE_CAP_SUPPORTED, "KVM_X86_GET_MCE_CAP_SUPPORTED", FD_SYSTEM, fill_u64},
	{KVM_GET_DEVICE_ATTR, "KVM_GET_DEVICE_ATTR", FD_SYSTEM, fill_device_attr, .flags = D_PTR,
	 .ptr = offsetof(struct kvm_device_attr, addr)},
	IN(KVM_HAS_DEVICE_ATTR, FD_SYSTEM, fill_device_attr),

	VALUE(KVM_CHECK_EXTENSION, FD_VM, 240),
	IN(KVM_ENABLE_CAP, FD_VM, fill_enable_cap),
	IN(KVM_ENABLE_CAP, FD_VM, fill_enable_cap),
	{KVM_SET_USER_MEMORY_REGION, "KVM_SET_USER_MEMORY_REGION", FD_VM, fill_region, .flags = D_PTR,
	 .ptr = offsetof(struct kvm_userspace_memory_region, userspace_addr)},
	IN(KVM_SET_USER_MEMORY_REGION, FD_VM, fill_region),
	IN(KVM_SET_USER_MEMORY_REGION, FD_VM, fill_region),
	{SET_USER_MEMORY_REGION2, "KVM_SET_USER_MEMORY_REGION2", FD_VM, fill_region2, .flags = D_PTR,
	 .ptr = offsetof(struct kvm_userspace_memory_region, userspace_addr)},
	{KVM_GET_DIRTY_LOG, "KVM_GET_DIRTY_LOG", FD_VM, fill_dirty_log, .flags = D_PTR,
	 .ptr = offsetof(struct kvm_dirty_log, dirty_bitmap)},
	{KVM_CLEAR_DIRTY_LOG, "KVM_CLEAR_DIRTY_LOG", FD_VM, fill_clear_log, .flags = D_PTR,
	 .ptr = offsetof(struct kvm_clear_dirty_log, dirty_bitmap)},
	VALUE(KVM_RESET_DIRTY_RINGS, FD_VM, 1),
	VALUE(KVM_SET_NR_MMU_PAGES, FD_VM, 100),
	VALUE(KVM_GET_NR_MMU_PAGES, FD_VM, 1),
	VALUE(KVM_SET_TSS_ADDR, FD_VM, 0x100000000),
	IN(KVM_SET_IDENTITY_MAP_ADDR, FD_VM, fill_u64),
	VALUE(KVM_SET_BOOT_CPU_ID, FD_VM, 3),
	VALUE(KVM_CREATE_IRQCHIP, FD_VM, 1),
	IN(KVM_GET_IRQCHIP, FD_VM, fill_irqchip),
	{KVM_SET_IRQCHIP, "KVM_SET_IRQCHIP", FD_VM, fill_irqchip, KVM_GET_IRQCHIP},
	VALUE(KVM_CREATE_PIT, FD_VM, 1),
	IN(KVM_CREATE_PIT2, FD_VM, fill_pit_config),
	GET(PIT, FD_VM), SET(PIT, FD_VM), GET(PIT2, FD_VM), SET(PIT2, FD_VM),
	IN(KVM_REINJECT_CONTROL, FD_VM, fill_reinject),
	{KVM_IRQ_LINE, "KVM_IRQ_LINE", FD_VM, fill_irq_level, .flags = D_PARTIAL},
	{KVM_IRQ_LINE_STATUS, "KVM_IRQ_LINE_STATUS", FD_VM, fill_irq_level, .flags = D_PARTIAL},
	{KVM_SIGNAL_MSI, "KVM_SIGNAL_MSI", FD_VM, fill_msi, .flags = D_PARTIAL},
	IN(KVM_IRQFD, FD_VM, fill_irqfd), IN(KVM_IRQFD, FD_VM, fill_irqfd),
	IN(KVM_IOEVENTFD, FD_VM, fill_ioeventfd), IN(KVM_IOEVENTFD, FD_VM, fill_ioeventfd),
	IN(KVM_HYPERV_EVENTFD, FD_VM, fill_hv_eventfd),
	IN(KVM_SET_GSI_ROUTING, FD_VM, fill_routing),
	IN(KVM_REGISTER_COALESCED_MMIO, FD_VM, fill_coalesced),
	IN(KVM_UNREGISTER_COALESCED_MMIO, FD_VM, fill_coalesced),
	GET(CLOCK, FD_VM), SET(CLOCK, FD_VM),
	{KVM_X86_SET_MSR_FILTER, "KVM_X86_SET_MSR_FILTER", FD_VM, fill_msr_filter, .flags = D_PTR,
	 .ptr = offsetof(struct kvm_msr_filter, ranges[0].bitmap)},
	IN(KVM_CREATE_DEVICE, FD_VM, fill_create_device),

	VALUE(KVM_RUN, FD_VM, 1), /* not one of its */
	GET(REGS, FD_VCPU), SET(REGS, FD_VCPU), GET(SREGS, FD_VCPU), SET(SREGS, FD_VCPU), SET(SREGS, FD_VCPU),
	GET(SREGS2, FD_VCPU), SET(SREGS2, FD_VCPU), GET(FPU, FD_VCPU), SET(FPU, FD_VCPU),
	GET(XSAVE, FD_VCPU), SET(XSAVE, FD_VCPU), SET(XSAVE, FD_VCPU), GET(XCRS, FD_VCPU), SET(XCRS, FD_VCPU),
	GET(DEBUGREGS, FD_VCPU), SET(DEBUGREGS, FD_VCPU), GET(MP_STATE, FD_VCPU), SET(MP_STATE, FD_VCPU),
	GET(VCPU_EVENTS, FD_VCPU), SET(VCPU_EVENTS, FD_VCPU), SET(VCPU_EVENTS, FD_VCPU),
	GET(LAPIC, FD_VCPU), SET(LAPIC, FD_VCPU), SET(LAPIC, FD_VCPU),
	IN(KVM_TRANSLATE, FD_VCPU, fill_translate),
	{PRE_FAULT_MEMORY, "KVM_PRE_FAULT_MEMORY", FD_VCPU, fill_pre_fault, .flags = D_KERNEL_NO},
	IN(KVM_SET_GUEST_DEBUG, FD_VCPU, fill_guest_debug),
	{KVM_INTERRUPT, "KVM_INTERRUPT", FD_VCPU, fill_interrupt},
	VALUE(KVM_NMI, FD_VCPU, 1),
	IN(KVM_SET_VAPIC_ADDR, FD_VCPU, fill_u64),
	IN(KVM_TPR_ACCESS_REPORTING, FD_VCPU, fill_tpr),
	IN(KVM_SET_CPUID, FD_VCPU, fill_cpuid1), IN(KVM_SET_CPUID2, FD_VCPU, fill_cpuid),
	IN(KVM_SET_CPUID2, FD_VCPU, fill_cpuid), IN(KVM_GET_CPUID2, FD_VCPU, fill_list),
	IN(KVM_GET_MSRS, FD_VCPU, fill_msrs),
	{KVM_SET_MSRS, "KVM_SET_MSRS", FD_VCPU, fill_msrs, .flags = D_PARTIAL},
	{KVM_SET_MSRS, "KVM_SET_MSRS", FD_VCPU, fill_msrs, .flags = D_PARTIAL},
	{KVM_SET_SIGNAL_MASK, "KVM_SET_SIGNAL_MASK", FD_VCPU, fill_signal_mask, .flags = D_PTR, .ptr = 4},
	IN(KVM_ENABLE_CAP, FD_VCPU, fill_enable_cap),
	IN(KVM_X86_SETUP_MCE, FD_VCPU, fill_mce_cap),
	{KVM_X86_SET_MCE, "KVM_X86_SET_MCE", FD_VCPU, fill_mce},
	VALUE(KVM_SET_TSC_KHZ, FD_VCPU, 5000000),
	VALUE(KVM_GET_TSC_KHZ, FD_VCPU, 1),
	VALUE(KVM_KVMCLOCK_CTRL, FD_VCPU, 1),
	VALUE(KVM_CREATE_VCPU, FD_VCPU, 1), /* not one of its */
};
const size_t nr_ioctl_descs = COUNT(ioctl_descs);
