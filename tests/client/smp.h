/*
 * Clients with several vCPUs: a thread for each, and guest code written as
 * assembler text. Included after client.h.
 */
#ifndef TESTS_CLIENT_SMP_H
#define TESTS_CLIENT_SMP_H

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

#include "client.h"

#define MAX_SMP 8

struct smp;
struct smp_cpu {
	struct smp *smp;
	int id, fd;
	struct kvm_run *run;
	pthread_t thread;
	uint32_t reason; /* of the exit that ended the thread's loop */
	uint64_t rip;
	long signals, runs, mmio; /* KVM_RUN's -EINTR, calls, MMIO exits */
};

struct smp {
	struct client c; /* VM and memory; no vCPU of its own */
	int nr;
	struct smp_cpu cpu[MAX_SMP];
	atomic_bool stop;
};

static inline void smp_add_cpu(struct smp *s)
{
	struct smp_cpu *v = &s->cpu[s->nr];

	*v = (struct smp_cpu){.smp = s, .id = s->nr};
	s->c.run_size = (size_t)ioctl(s->c.kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	v->fd = ioctl(s->c.vm, KVM_CREATE_VCPU, v->id);
	assert_true(v->fd >= 0);
	v->run = mmap(NULL, s->c.run_size, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
	assert_true(v->run != MAP_FAILED);
	s->nr++;
}

static inline void smp_open(struct smp *s, int nr, size_t mem, bool irqchip)
{
	memset(s, 0, sizeof(*s));
	client_open_vm(&s->c, mem);
	if (irqchip)
		assert_int_equal(ioctl(s->c.vm, KVM_CREATE_IRQCHIP, 0), 0);
	while (s->nr < nr)
		smp_add_cpu(s);
}

static inline void smp_close(struct smp *s)
{
	for (int i = 0; i < s->nr; i++) {
		munmap(s->cpu[i].run, s->c.run_size);
		close(s->cpu[i].fd);
	}
	close(s->c.vm);
	close(s->c.kvm);
	munmap(s->c.mem, s->c.mem_size);
}

static inline struct client smp_client(struct smp *s, int i)
{
	struct client c = s->c;

	c.vcpu = s->cpu[i].fd;
	c.run = s->cpu[i].run;
	return c;
}

static void smp_signal(int signo)
{
	(void)signo;
}

/* Until the guest says it is done (HLT or I/O exit), or smp->stop. MMIO is nobody's. */
static inline void *smp_thread(void *arg)
{
	struct smp_cpu *v = arg;
	struct kvm_regs r;

	while (!v->smp->stop) {
		v->runs++;
		if (ioctl(v->fd, KVM_RUN, 0) < 0) {
			if (errno == EINTR)
				v->signals++;
			else if (errno != EAGAIN)
				break;
			v->reason = KVM_EXIT_INTR;
			continue;
		}
		v->reason = v->run->exit_reason;
		if (v->reason == KVM_EXIT_MMIO)
			v->mmio++;
		else if (v->reason != KVM_EXIT_INTR)
			break;
	}
	ioctl(v->fd, KVM_GET_REGS, &r);
	v->rip = r.rip;
	return NULL;
}

static inline void smp_start(struct smp *s, int first, int end)
{
	struct sigaction sa = {.sa_handler = smp_signal};

	sigaction(SIGUSR1, &sa, NULL);
	for (int i = first; i < end; i++)
		assert_int_equal(pthread_create(&s->cpu[i].thread, NULL, smp_thread, &s->cpu[i]), 0);
}

static inline void smp_join(struct smp *s, int first, int end)
{
	for (int i = first; i < end; i++)
		assert_int_equal(pthread_join(s->cpu[i].thread, NULL), 0);
}

/* Threads whose guest does not end by itself. */
static inline void smp_stop(struct smp *s, int first, int end)
{
	s->stop = true;
	for (int i = first; i < end; i++) {
		s->cpu[i].run->immediate_exit = 1;
		pthread_kill(s->cpu[i].thread, SIGUSR1);
	}
	smp_join(s, first, end);
}

/* Guest code: GUEST(name, "code16", "text") makes guest_name[] and guest_name_end[]. */
#define GUEST(name, mode, text)                                                                  \
	extern const uint8_t guest_##name[], guest_##name##_end[];                               \
	__asm__(".pushsection .rodata\n." mode "\nguest_" #name ":\n" text "\nguest_" #name "_end:\n" \
		".code64\n.popsection\n")
#define GUEST_SIZE(name) ((size_t)(guest_##name##_end - guest_##name))
#define guest_real(s, i, ip, name)                                     \
	do {                                                           \
		struct client gc = smp_client(s, i);                   \
		client_real_mode(&gc, ip, guest_##name, GUEST_SIZE(name)); \
	} while (0)
#define guest_flat(s, i, ip, name)                                     \
	do {                                                           \
		struct client gc = smp_client(s, i);                   \
		client_flat_mode(&gc, ip, guest_##name, GUEST_SIZE(name)); \
	} while (0)

static inline void smp_set_reg(struct smp *s, int i, size_t offset, uint64_t v)
{
	struct kvm_regs r;

	assert_int_equal(ioctl(s->cpu[i].fd, KVM_GET_REGS, &r), 0);
	*(uint64_t *)((char *)&r + offset) = v;
	assert_int_equal(ioctl(s->cpu[i].fd, KVM_SET_REGS, &r), 0);
}
#define smp_reg(s, i, name, v) smp_set_reg(s, i, offsetof(struct kvm_regs, name), v)

/* 64-bit mode, the first 8 MiB mapped one to one by a PML4 at 10000h. */
static inline void smp_long_mode(struct smp *s, int i, uint64_t rip)
{
	struct kvm_regs r = {.rip = rip, .rflags = 2, .rsp = 0x8000 - 0x400 * (uint64_t)i};
	uint64_t *pml4 = (uint64_t *)(s->c.mem + 0x10000), *pdpt = (uint64_t *)(s->c.mem + 0x11000);
	uint64_t *pd = (uint64_t *)(s->c.mem + 0x12000);
	struct kvm_sregs x;

	pml4[0] = 0x11000 | 3;
	pdpt[0] = 0x12000 | 3;
	for (uint64_t n = 0; n < 4; n++)
		pd[n] = n << 21 | 0x83;
	assert_int_equal(ioctl(s->cpu[i].fd, KVM_GET_SREGS, &x), 0);
	x.cr3 = 0x10000;
	x.cr4 |= 1 << 5;
	x.efer |= 1 << 8 | 1 << 10;
	x.cr0 |= 1u << 31 | 1;
	x.cs = (struct kvm_segment){.limit = ~0u, .selector = 8, .type = 11, .present = 1, .l = 1, .s = 1, .g = 1};
	x.ds = x.es = x.ss = x.fs = x.gs =
		(struct kvm_segment){.limit = ~0u, .selector = 16, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1};
	assert_int_equal(ioctl(s->cpu[i].fd, KVM_SET_SREGS, &x), 0);
	assert_int_equal(ioctl(s->cpu[i].fd, KVM_SET_REGS, &r), 0);
}

static inline uint32_t smp_load32(struct smp *s, uint64_t gpa)
{
	return __atomic_load_n((uint32_t *)(s->c.mem + gpa), __ATOMIC_SEQ_CST);
}

static inline void smp_store32(struct smp *s, uint64_t gpa, uint32_t v)
{
	__atomic_store_n((uint32_t *)(s->c.mem + gpa), v, __ATOMIC_SEQ_CST);
}

static inline uint64_t smp_now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

#endif
