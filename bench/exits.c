/*
 * What an exit to the client costs: a KVM client, run under `userkvm run` (and,
 * unchanged, on a kernel's /dev/kvm).
 *
 * Prints "name nanoseconds", medians: processor time of round trips for OUT, IN, an MMIO write
 * and read, and a hypercall, and of exits that the client does not see (CPUID, a register of the
 * IOAPIC's read, the local APIC's timer count read, a write to one of its LVTs); the way from an interrupt's ioctl to a halted guest's next
 * instruction seen by its thread; beside them a system call and the way from
 * FUTEX_WAKE to the woken thread.
 */
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "report.h"

#ifdef LINKED /* to the library, in place of under the preload one */
#include "userkvm/userkvm.h"
#define open(path, flags) userkvm_open(path, flags)
#define ioctl(fd, request, arg) userkvm_ioctl(fd, request, (unsigned long)(arg))
#define mmap(a, l, p, f, fd, o) userkvm_mmap(a, l, p, f, fd, o)
#endif

#define BATCHES 31
#define PER_BATCH 4000
#define COUNT PER_BATCH & 0xff, PER_BATCH >> 8
#define WAKES 2001
#define MEM (1 << 20)

static int vm, vcpu;
static struct kvm_run *run;
static uint8_t *mem;

/* Real mode at 1000h, DS at 0 for the port loops, at 0f0000h (no memory there) for MMIO. */
static void start(const void *code, size_t n, uint64_t ds)
{
	struct kvm_regs r = { .rip = 0x1000, .rflags = 2, .rsp = 0x8000 };
	struct kvm_sregs s;

	/* The exit that was answered last is still to be completed: its instruction ends. */
	run->immediate_exit = 1;
	ioctl(vcpu, KVM_RUN, 0);
	run->immediate_exit = 0;
	memcpy(mem + 0x1000, code, n);
	must(ioctl(vcpu, KVM_GET_SREGS, &s), "KVM_GET_SREGS");
	s.cs.base = s.cs.selector = 0;
	s.ds.base = ds;
	s.ds.selector = (uint16_t)(ds >> 4);
	must(ioctl(vcpu, KVM_SET_SREGS, &s), "KVM_SET_SREGS");
	must(ioctl(vcpu, KVM_SET_REGS, &r), "KVM_SET_REGS");
}

static void open_vm(void)
{
	int kvm = must(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
	struct kvm_userspace_memory_region slot = { .memory_size = MEM / 2 };

	vm = must(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
	mem = mmap(NULL, MEM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	slot.userspace_addr = (uintptr_t)mem;
	must(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot), "KVM_SET_USER_MEMORY_REGION");
	must(ioctl(vm, KVM_CREATE_IRQCHIP, 0), "KVM_CREATE_IRQCHIP");
	vcpu = must(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
	run = mmap(NULL, (size_t)ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (run == MAP_FAILED || mem == MAP_FAILED)
		err(1, "mmap");
}

static void round_trips(const char *name, uint32_t reason)
{
	double v[BATCHES];

	for (int b = 0; b < BATCHES; b++) {
		uint64_t t = cpu_now();

		for (int i = 0; i < PER_BATCH; i++) {
			must(ioctl(vcpu, KVM_RUN, 0), "KVM_RUN");
			if (run->exit_reason != reason)
				errx(1, "%s: exit reason %u", name, run->exit_reason);
		}
		v[b] = (double)(cpu_now() - t) / PER_BATCH;
	}
	report(name, v, BATCHES);
}

/* Guest code that does the thing PER_BATCH times, then OUT. */
static void inside(const char *name)
{
	double v[BATCHES];

	for (int b = 0; b < BATCHES; b++) {
		uint64_t t = cpu_now();

		must(ioctl(vcpu, KVM_RUN, 0), "KVM_RUN");
		if (run->exit_reason != KVM_EXIT_IO)
			errx(1, "%s: exit reason %u", name, run->exit_reason);
		v[b] = (double)(cpu_now() - t) / PER_BATCH;
	}
	report(name, v, BATCHES);
}

static void system_calls(void)
{
	double v[BATCHES];

	for (int b = 0; b < BATCHES; b++) {
		uint64_t t = cpu_now();

		for (int i = 0; i < PER_BATCH; i++)
			syscall(SYS_getppid);
		v[b] = (double)(cpu_now() - t) / PER_BATCH;
	}
	report("syscall", v, BATCHES);
}

/* --- wake-ups: one thread sleeps, the other says when it woke it --- */

static uint64_t woken_at;
static uint32_t word;
static double wakes[WAKES];

static void *futex_sleeper(void *arg)
{
	for (int i = 0; i < WAKES; i++) {
		while (__atomic_load_n(&word, __ATOMIC_SEQ_CST) == 0)
			syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
		wakes[i] = (double)(now() - __atomic_load_n(&woken_at, __ATOMIC_SEQ_CST));
		__atomic_store_n(&word, 0, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

static void futex_wake(void)
{
	__atomic_store_n(&word, 1, __ATOMIC_SEQ_CST);
	syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void *halted_guest(void *arg)
{
	for (int i = 0; i < WAKES; i++) {
		must(ioctl(vcpu, KVM_RUN, 0), "KVM_RUN");
		if (run->exit_reason != KVM_EXIT_IO)
			errx(1, "hlt: exit reason %u", run->exit_reason);
		wakes[i] = (double)(now() - __atomic_load_n(&woken_at, __ATOMIC_SEQ_CST));
		__atomic_store_n(&word, 0, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

/* An NMI by message: it needs nothing of the guest's APIC. */
static void guest_wake(void)
{
	struct kvm_msi msi = { .address_lo = 0xfee00000, .data = 0x400 };

	__atomic_store_n(&word, 1, __ATOMIC_SEQ_CST);
	must(ioctl(vm, KVM_SIGNAL_MSI, &msi), "KVM_SIGNAL_MSI");
}

static void wake_ups(const char *name, void *(*sleeper)(void *), void (*wake)(void))
{
	pthread_t t;

	word = 0;
	if (pthread_create(&t, NULL, sleeper, NULL))
		errx(1, "no thread");
	for (int i = 0; i < WAKES; i++) {
		usleep(100); /* it sleeps by now */
		__atomic_store_n(&woken_at, now(), __ATOMIC_SEQ_CST);
		wake();
		while (__atomic_load_n(&word, __ATOMIC_SEQ_CST))
			;
	}
	pthread_join(t, NULL);
	report(name, wakes, WAKES);
}

int main(void)
{
	static const uint8_t out[] = { 0xe6, 0x10, 0xeb, 0xfc }, in[] = { 0xe4, 0x10, 0xeb, 0xfc },
			     write[] = { 0xa2, 0, 0, 0xeb, 0xfb }, read[] = { 0xa0, 0, 0, 0xeb, 0xfb },
			     /* 1: mov eax,12; mov ebx,1000h; mov ecx,1; xor edx,edx; vmcall; jmp 1b */
			     vmcall[] = { 0x66, 0xb8, 12, 0, 0, 0, 0x66, 0xbb, 0, 0x10, 0, 0, 0x66, 0xb9, 1, 0,
					  0, 0, 0x66, 0x31, 0xd2, 0x0f, 0x01, 0xc1, 0xeb, 0xe6 },
			     /* 0: mov si,n; 1: xor eax,eax; cpuid; dec si; jnz 1b; out 10h,al; jmp 0b */
			     cpuid[] = { 0xbe, COUNT, 0x66, 0x31, 0xc0, 0x0f, 0xa2, 0x4e, 0x75, 0xf8, 0xe6, 0x10, 0xeb, 0xf1 },
			     /* 0: mov si,n; 1: mov eax,[0]; dec si; jnz 1b; out 10h,al; jmp 0b; and with [390h] */
			     ioapic[] = { 0xbe, COUNT, 0x66, 0xa1, 0, 0, 0x4e, 0x75, 0xf9, 0xe6, 0x10, 0xeb, 0xf2 },
			     count[] = { 0xbe, COUNT, 0x66, 0xa1, 0x90, 3, 0x4e, 0x75, 0xf9, 0xe6, 0x10, 0xeb, 0xf2 },
			     /* mov eax,10000h (masked); 0: mov si,n; 1: mov [370h],eax; dec si; jnz 1b; out 10h,al; jmp 0b */
			     lvt[] = { 0x66, 0xb8, 0, 0, 1, 0, 0xbe, COUNT, 0x66, 0xa3, 0x70, 3, 0x4e, 0x75, 0xf9, 0xe6, 0x10,
				       0xeb, 0xf2 },
			     hlt[] = { 0xf4, 0xeb, 0xfd }, nmi[] = { 0xe6, 0x10, 0xcf };
	struct kvm_enable_cap hypercalls = { .cap = KVM_CAP_EXIT_HYPERCALL, .args = { 1 << 12 /* MAP_GPA_RANGE */ } };

	open_vm();
	start(out, sizeof(out), 0);
	round_trips("pio_out", KVM_EXIT_IO);
	start(in, sizeof(in), 0);
	round_trips("pio_in", KVM_EXIT_IO);
	start(write, sizeof(write), 0xf0000);
	round_trips("mmio_write", KVM_EXIT_MMIO);
	start(read, sizeof(read), 0xf0000);
	round_trips("mmio_read", KVM_EXIT_MMIO);
	must(ioctl(vm, KVM_ENABLE_CAP, &hypercalls), "KVM_CAP_EXIT_HYPERCALL");
	start(vmcall, sizeof(vmcall), 0);
	round_trips("hypercall", KVM_EXIT_HYPERCALL);
	start(cpuid, sizeof(cpuid), 0);
	inside("cpuid");
	start(ioapic, sizeof(ioapic), 0xfec00000);
	inside("ioapic_read");
	start(count, sizeof(count), 0xfee00000);
	inside("apic_count");
	start(lvt, sizeof(lvt), 0xfee00000);
	inside("apic_lvt");
	memcpy(mem + 0x500, nmi, sizeof(nmi));
	memcpy(mem + 8, "\0\5\0\0", 4);
	start(hlt, sizeof(hlt), 0);
	wake_ups("hlt_wake", halted_guest, guest_wake);
	wake_ups("futex_wake", futex_sleeper, futex_wake);
	system_calls();
	return 0;
}
