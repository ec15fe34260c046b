/*
 * Everything a client can read of a VM with one vCPU, and back: as QEMU does
 * for migration, in QEMU's order.
 */
#ifndef TESTS_STATE_H
#define TESTS_STATE_H

#include "client.h"

#define STATE_MSRS 512

struct vm_state {
	struct kvm_regs regs;
	struct kvm_sregs2 sregs;
	struct kvm_fpu fpu;
	struct kvm_xsave xsave;
	struct kvm_xcrs xcrs;
	struct kvm_debugregs debugregs;
	struct kvm_vcpu_events events;
	struct kvm_lapic_state lapic;
	struct kvm_mp_state mp;
	struct kvm_irqchip chip[3];
	struct kvm_pit_state2 pit;
	struct kvm_clock_data clock;
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e[STATE_MSRS];
	} msrs;
};

#define must(call) assert_true((call) >= 0)

static inline void state_msr_list(struct client *c, struct vm_state *s)
{
	struct {
		struct kvm_msr_list head;
		uint32_t index[STATE_MSRS];
	} list = {.head.nmsrs = STATE_MSRS - 32};

	must(ioctl(c->kvm, KVM_GET_MSR_INDEX_LIST, &list));
	/* MTRRs are not in the list, on Linux either: a client knows them from CPUID */
	for (uint32_t i = 0; i < 16; i++)
		list.index[list.head.nmsrs++] = 0x200 + i;
	for (uint32_t i = 0; i < 8; i++)
		list.index[list.head.nmsrs++] = 0x268 + i;
	list.index[list.head.nmsrs++] = 0x250;
	list.index[list.head.nmsrs++] = 0x258;
	list.index[list.head.nmsrs++] = 0x259;
	list.index[list.head.nmsrs++] = 0x2ff;
	s->msrs.head.nmsrs = 0;
	for (uint32_t i = 0; i < list.head.nmsrs; i++) {
		struct {
			struct kvm_msrs head;
			struct kvm_msr_entry e;
		} one = {.head.nmsrs = 1, .e.index = list.index[i]};

		/* the list may name what this vCPU's CPUID does not have */
		if (ioctl(c->vcpu, KVM_GET_MSRS, &one) == 1)
			s->msrs.e[s->msrs.head.nmsrs++] = one.e;
	}
}

static inline void state_save(struct client *c, struct vm_state *s)
{
	memset(s, 0, sizeof(*s));
	/* events first: KVM_GET_MP_STATE and the APIC may move INIT and SIPI */
	must(ioctl(c->vcpu, KVM_GET_VCPU_EVENTS, &s->events));
	must(ioctl(c->vcpu, KVM_GET_MP_STATE, &s->mp));
	must(ioctl(c->vcpu, KVM_GET_REGS, &s->regs));
	must(ioctl(c->vcpu, KVM_GET_FPU, &s->fpu));
	must(ioctl(c->vcpu, KVM_GET_XSAVE, &s->xsave));
	must(ioctl(c->vcpu, KVM_GET_XCRS, &s->xcrs));
	must(ioctl(c->vcpu, KVM_GET_SREGS2, &s->sregs));
	state_msr_list(c, s);
	must(ioctl(c->vcpu, KVM_GET_LAPIC, &s->lapic));
	must(ioctl(c->vcpu, KVM_GET_DEBUGREGS, &s->debugregs));
	for (uint32_t i = 0; i < 3; i++) {
		s->chip[i].chip_id = i;
		must(ioctl(c->vm, KVM_GET_IRQCHIP, &s->chip[i]));
	}
	must(ioctl(c->vm, KVM_GET_PIT2, &s->pit));
	must(ioctl(c->vm, KVM_GET_CLOCK, &s->clock));
}

static inline void state_restore(struct client *c, struct vm_state *s)
{
	struct kvm_clock_data clock = {.clock = s->clock.clock};

	must(ioctl(c->vm, KVM_SET_CLOCK, &clock));
	for (uint32_t i = 0; i < 3; i++)
		must(ioctl(c->vm, KVM_SET_IRQCHIP, &s->chip[i]));
	must(ioctl(c->vm, KVM_SET_PIT2, &s->pit));
	must(ioctl(c->vcpu, KVM_SET_SREGS2, &s->sregs));
	must(ioctl(c->vcpu, KVM_SET_REGS, &s->regs));
	must(ioctl(c->vcpu, KVM_SET_XSAVE, &s->xsave));
	must(ioctl(c->vcpu, KVM_SET_XCRS, &s->xcrs));
	must(ioctl(c->vcpu, KVM_SET_LAPIC, &s->lapic));
	for (uint32_t i = 0; i < s->msrs.head.nmsrs; i++) {
		struct {
			struct kvm_msrs head;
			struct kvm_msr_entry e;
		} one = {.head.nmsrs = 1, .e = s->msrs.e[i]};

		/* some are read-only; the comparison after the restore finds what is lost by it */
		must(ioctl(c->vcpu, KVM_SET_MSRS, &one));
	}
	must(ioctl(c->vcpu, KVM_SET_VCPU_EVENTS, &s->events));
	must(ioctl(c->vcpu, KVM_SET_MP_STATE, &s->mp));
	must(ioctl(c->vcpu, KVM_SET_DEBUGREGS, &s->debugregs));
}

/* Time goes on by itself. */
static inline bool state_msr_moves(uint32_t index)
{
	return index == 0x10 /* TSC */ || index == 0xe7 || index == 0xe8 /* MPERF, APERF */ ||
	       index == 0x3b /* TSC_ADJUST: moved by writing TSC */ || index == 0x34 /* SMI count */ ||
	       index == 0x40000010 || index == 0x40000020 /* Hyper-V's run time and reference counter */;
}

static inline size_t state_differs(const void *a, const void *b, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (((const uint8_t *)a)[i] != ((const uint8_t *)b)[i])
			return i;
	return n;
}

#define STATE_SAME(field)                                                         \
	do {                                                                      \
		size_t at_ = state_differs(&a->field, &b->field, sizeof(a->field)); \
		if (at_ < sizeof(a->field))                                       \
			fail_msg("restored " #field " differs at byte %zu: %#x, %#x", at_, \
				 ((uint8_t *)&a->field)[at_], ((uint8_t *)&b->field)[at_]); \
	} while (0)

#define LAPIC_TMR 0x180
#define LAPIC_IRR 0x200
#define LAPIC_IRR_END 0x280
#define LAPIC_TMCCT 0x390

/* The local APIC: its timer counts and interrupts arrive meanwhile; none that waited is gone. */
static inline void state_compare_lapic(struct vm_state *a, struct vm_state *b)
{
	uint32_t was, is;

	for (size_t reg = 0; reg < sizeof(a->lapic.regs); reg += 16) {
		memcpy(&was, a->lapic.regs + reg, 4);
		memcpy(&is, b->lapic.regs + reg, 4);
		if (reg >= LAPIC_IRR && reg < LAPIC_IRR_END)
			assert_int_equal(was & ~is, 0);
		else if (reg != LAPIC_TMCCT && (reg < LAPIC_TMR || reg >= LAPIC_IRR) && was != is)
			fail_msg("APIC register %#zx: saved %#x, restored %#x", reg, was, is);
	}
}

/* PIC and PIT but for the edges and the time that go on; a request that waited still waits. */
static inline void state_compare_old_chips(struct vm_state *a, struct vm_state *b)
{
	for (unsigned i = 0; i < 2; i++) {
		struct kvm_pic_state was = a->chip[i].chip.pic, is = b->chip[i].chip.pic;

		assert_int_equal(was.irr & ~is.irr, 0);
		was.irr = was.last_irr = is.irr = is.last_irr = 0;
		assert_memory_equal(&was, &is, sizeof(was));
	}
	for (unsigned i = 0; i < 3; i++) {
		struct kvm_pit_channel_state was = a->pit.channels[i], is = b->pit.channels[i];

		was.count_load_time = is.count_load_time = 0;
		assert_memory_equal(&was, &is, sizeof(was));
	}
	assert_int_equal(a->pit.flags, b->pit.flags);
}

/* Restored state b is saved state a, bit for bit, but for what time moves. */
static inline void state_compare(struct vm_state *a, struct vm_state *b)
{
	STATE_SAME(regs);
	STATE_SAME(sregs);
	STATE_SAME(fpu);
	STATE_SAME(xsave);
	STATE_SAME(xcrs);
	STATE_SAME(debugregs);
	STATE_SAME(events);
	STATE_SAME(mp);
	STATE_SAME(chip[2].chip.ioapic);
	state_compare_old_chips(a, b);
	state_compare_lapic(a, b);
	assert_true(b->clock.clock >= a->clock.clock);
	assert_int_equal(a->msrs.head.nmsrs, b->msrs.head.nmsrs);
	for (uint32_t i = 0; i < a->msrs.head.nmsrs; i++)
		if (!state_msr_moves(a->msrs.e[i].index) && a->msrs.e[i].data != b->msrs.e[i].data)
			fail_msg("MSR %#x: saved %#llx, restored %#llx", a->msrs.e[i].index, a->msrs.e[i].data,
				 b->msrs.e[i].data);
}

#endif
