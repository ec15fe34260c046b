/*
 * Several vCPUs in flat 32-bit mode, with the APIC page in reach and interrupts at home: an IDT of 32-bit interrupt gates
 * at 10000h, a GDT for their selectors at 10800h, the vCPU's number in EBP, a stack of 1 KiB each below 8000h.
 */
#ifndef TESTS_SMP_FLAT_H
#define TESTS_SMP_FLAT_H

#include "smp.h"

static inline void flat_gate(struct smp *s, int vector, uint32_t handler)
{
	uint32_t *gate = (uint32_t *)(s->c.mem + 0x10000 + vector * 8);

	gate[0] = 8u << 16 | (handler & 0xffff);
	gate[1] = (handler & 0xffff0000) | 0x8e00;
}

/* A GDT with the selectors that client_flat_mode() loads. */
static inline void flat_tables(struct smp *s, int i)
{
	uint64_t *gdt = (uint64_t *)(s->c.mem + 0x10800);
	struct kvm_sregs x;

	gdt[1] = 0x00cf9b000000ffff;
	gdt[2] = 0x00cf93000000ffff;
	assert_int_equal(ioctl(s->cpu[i].fd, KVM_GET_SREGS, &x), 0);
	x.gdt = (struct kvm_dtable){.base = 0x10800, .limit = 23};
	x.idt = (struct kvm_dtable){.base = 0x10000, .limit = 0x7ff};
	assert_int_equal(ioctl(s->cpu[i].fd, KVM_SET_SREGS, &x), 0);
}

/* All of them ready to run at 1000h. */
static inline void flat_cpus(struct smp *s, const uint8_t *code, size_t n)
{
	struct kvm_mp_state run = {.mp_state = KVM_MP_STATE_RUNNABLE};

	for (int i = 0; i < s->nr; i++) {
		struct client c = smp_client(s, i);

		client_flat_mode(&c, 0x1000, code, n);
		flat_tables(s, i);
		assert_int_equal(ioctl(s->cpu[i].fd, KVM_SET_MP_STATE, &run), 0);
		smp_reg(s, i, rbp, (uint64_t)i);
		smp_reg(s, i, rsp, 0x8000 - 0x400 * (uint64_t)i);
	}
}

#endif
