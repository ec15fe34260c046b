/*
 * The vCPUs of `userkvm boot`: their CPUID, a thread for each, and the loop
 * around KVM_RUN.
 *
 * vCPU 0 runs on the main thread. The others wait in KVM_RUN for the INIT and
 * SIPI that the guest sends them; the in-kernel APICs do the rest.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tools/boot/vm.h"

#define MAX_CPUID 256
#define TOPOLOGY_LEAVES 3 /* subleaves of leaf bh: threads, cores, the end */

/* --- CPUID --- */

/* Bits an APIC id needs for n processors. */
static unsigned id_bits(unsigned n)
{
	unsigned bits = 0;

	while ((1u << bits) < n)
		bits++;
	return bits;
}

/* Leaf bh of a package with one thread in each core (SDM Vol. 2, "CPUID"). */
static struct kvm_cpuid_entry2 topology_entry(const struct vcpu *v, unsigned index)
{
	unsigned n = v->vm->nr_vcpus;
	struct kvm_cpuid_entry2 e = {
		.function = 0xb, .index = index, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .ecx = index, .edx = v->id,
	};

	if (index == 0) {
		e.ebx = 1;
		e.ecx |= 1 << 8;
	} else if (index == 1) {
		e.eax = id_bits(n);
		e.ebx = n;
		e.ecx |= 2 << 8;
	}
	return e;
}

/* The in-kernel local APIC's; KVM_GET_SUPPORTED_CPUID leaves it out. */
static bool has_tsc_deadline(const struct vm *vm)
{
	return vm->kvm->ioctl(vm->fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0;
}

static void set_topology(const struct vcpu *v, struct kvm_cpuid2 *c)
{
	unsigned n = v->vm->nr_vcpus, kept = 0;

	for (unsigned i = 0; i < c->nent; i++) {
		struct kvm_cpuid_entry2 *e = &c->entries[i];

		switch (e->function) {
		case 1:
			if (has_tsc_deadline(v->vm))
				e->ecx |= 1u << 24;
			e->ebx = (e->ebx & 0xffff) | (n & 0xff) << 16 | v->id << 24;
			if (n > 1)
				e->edx |= 1u << 28; /* HTT: the count is valid */
			break;
		case 4: /* every core of the package has caches of its own */
			if (e->eax & 0x1f)
				e->eax = (e->eax & 0x3fff) | ((1u << id_bits(n)) - 1) << 26;
			break;
		case 0xb: continue;
		case 0x80000008: /* AMD: cores in the package, bits of an id */
			e->ecx = (n - 1) | id_bits(n) << 12;
			break;
		default: break;
		}
		c->entries[kept++] = *e;
	}
	for (unsigned index = 0; index < TOPOLOGY_LEAVES; index++)
		c->entries[kept++] = topology_entry(v, index);
	c->nent = kept;
}

/* The guest's CPUID is all that this KVM supports, with the topology filled in. */
static int set_cpuid(struct vcpu *v)
{
	const struct kvm_calls *kvm = v->vm->kvm;
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + (MAX_CPUID + TOPOLOGY_LEAVES) * sizeof(c->entries[0]));
	int ret = -1;

	if (!c)
		return failed("CPUID");
	c->nent = MAX_CPUID - TOPOLOGY_LEAVES;
	if (kvm->ioctl(v->vm->sys_fd, KVM_GET_SUPPORTED_CPUID, (unsigned long)c) < 0) {
		failed("KVM_GET_SUPPORTED_CPUID");
	} else {
		set_topology(v, c);
		ret = kvm->ioctl(v->fd, KVM_SET_CPUID2, (unsigned long)c);
		if (ret < 0)
			failed("KVM_SET_CPUID2");
	}
	free(c);
	return ret;
}

/* --- what firmware leaves behind --- */

#define MSR_IA32_UCODE_REV 0x8bu
#define MSR_IA32_MISC_ENABLE 0x1a0u
#define MISC_ENABLE_FAST_STRING 1u
#define MSR_IA32_MTRR_DEF_TYPE 0x2ffu
#define MTRR_DEF_TYPE_E (1u << 11) /* MTRRs on; FE, the fixed ranges, stays off: they are all UC after reset */
#define MTRR_TYPE_WB 6u

/*
 * Linux takes a clear fast-string bit for firmware's wish: it drops ERMS, and on
 * a processor with FSRM its memmove() then runs without looking at the length.
 * Without MTRRs it sets no PAT up. (SDM Vol. 4, "IA32_MISC_ENABLE"; Vol. 3,
 * "IA32_MTRR_DEF_TYPE MSR".)
 */
static int set_msrs(const struct vcpu *v)
{
	const struct kvm_calls *kvm = v->vm->kvm;
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry[2];
	} m = {.head.nmsrs = 1, .entry = {{.index = MSR_IA32_MISC_ENABLE}}};

	if (kvm->ioctl(v->fd, KVM_GET_MSRS, (unsigned long)&m) != 1)
		return failed("KVM_GET_MSRS of IA32_MISC_ENABLE");
	m.entry[0].data |= MISC_ENABLE_FAST_STRING;
	m.entry[1] = (struct kvm_msr_entry){.index = MSR_IA32_MTRR_DEF_TYPE, .data = MTRR_DEF_TYPE_E | MTRR_TYPE_WB};
	m.head.nmsrs = 2;
	if (kvm->ioctl(v->fd, KVM_SET_MSRS, (unsigned long)&m) != 2)
		return failed("KVM_SET_MSRS");
	return 0;
}

/* The microcode that this KVM names, where it names one (KVM API: KVM_GET_MSRS of the system descriptor). */
static int set_microcode(const struct vcpu *v)
{
	const struct kvm_calls *kvm = v->vm->kvm;
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry[1];
	} m = {.head.nmsrs = 1, .entry = {{.index = MSR_IA32_UCODE_REV}}};

	if (kvm->ioctl(v->vm->sys_fd, KVM_GET_MSRS, (unsigned long)&m) != 1 || !m.entry[0].data)
		return 0;
	return kvm->ioctl(v->fd, KVM_SET_MSRS, (unsigned long)&m) == 1 ? 0 : failed("KVM_SET_MSRS of the microcode's revision");
}

#define APIC_LVT_LINT0 0x350
#define APIC_LVT_LINT1 0x360
#define LVT_EXTINT (7u << 8)
#define LVT_NMI (4u << 8)

/* The local APIC as a virtual wire: LINT0 takes the PIC's INTR, LINT1 is NMI (MP specification, "Virtual Wire Mode"). */
static int set_virtual_wire(const struct vcpu *v)
{
	const struct kvm_calls *kvm = v->vm->kvm;
	struct kvm_lapic_state s;
	const uint32_t lint0 = LVT_EXTINT, lint1 = LVT_NMI;

	if (kvm->ioctl(v->fd, KVM_GET_LAPIC, (unsigned long)&s) < 0)
		return failed("KVM_GET_LAPIC");
	memcpy(s.regs + APIC_LVT_LINT0, &lint0, sizeof(lint0));
	memcpy(s.regs + APIC_LVT_LINT1, &lint1, sizeof(lint1));
	if (kvm->ioctl(v->fd, KVM_SET_LAPIC, (unsigned long)&s) < 0)
		return failed("KVM_SET_LAPIC");
	return 0;
}

static int create(struct vcpu *v)
{
	const struct kvm_calls *kvm = v->vm->kvm;
	int size = kvm->ioctl(v->vm->sys_fd, KVM_GET_VCPU_MMAP_SIZE, 0);

	v->fd = kvm->ioctl(v->vm->fd, KVM_CREATE_VCPU, v->id);
	if (size <= 0 || v->fd < 0)
		return failed("KVM_CREATE_VCPU");
	v->run = kvm->mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
	if (v->run == MAP_FAILED)
		return failed("mapping kvm_run");
	return set_cpuid(v) < 0 || set_msrs(v) < 0 || set_microcode(v) < 0 || set_virtual_wire(v) < 0 ? -1 : 0;
}

static void on_kick(int signo)
{
	/* Its arrival makes KVM_RUN return -EINTR; vm->stop says why. */
	(void)signo;
}

int vcpus_create(struct vm *vm)
{
	struct sigaction sa = {.sa_handler = on_kick};

	sigaction(SIGUSR1, &sa, NULL);
	vm->vcpus = calloc(vm->nr_vcpus, sizeof(*vm->vcpus));
	if (!vm->vcpus)
		return failed("vCPUs");
	for (unsigned i = 0; i < vm->nr_vcpus; i++) {
		vm->vcpus[i] = (struct vcpu){.vm = vm, .id = i};
		if (create(&vm->vcpus[i]) < 0)
			return -1;
	}
	vm->vcpus[0].thread = pthread_self();
	vm->vcpus[0].started = true;
	return 0;
}

/* --- running --- */

static void bad_exit(struct vcpu *v)
{
	const struct kvm_run *r = v->run;

	fprintf(stderr, "\r\nuserkvm boot: the guest stopped: vCPU %u: ", v->id);
	switch (r->exit_reason) {
	case KVM_EXIT_SHUTDOWN: fprintf(stderr, "triple fault"); break;
	case KVM_EXIT_FAIL_ENTRY:
		fprintf(stderr, "VM entry failed, hardware reason 0x%llx", r->fail_entry.hardware_entry_failure_reason);
		break;
	case KVM_EXIT_INTERNAL_ERROR: fprintf(stderr, "KVM internal error, suberror %u", r->internal.suberror); break;
	default: fprintf(stderr, "exit reason %u", r->exit_reason); break;
	}
	fputs("\r\n", stderr);
	print_standing(v, stderr);
}

/* Runs a vCPU until somebody stops the VM. */
static void run_vcpu(struct vcpu *v)
{
	struct vm *vm = v->vm;
	struct kvm_run *r = v->run;

	while (!__atomic_load_n(&vm->stop, __ATOMIC_SEQ_CST)) {
		if (vm->kvm->ioctl(v->fd, KVM_RUN, 0) < 0) {
			if (errno == EINTR || errno == EAGAIN)
				continue;
			failed("KVM_RUN");
			vm_stop(vm, 1);
			return;
		}
		v->nr_exits++;
		v->last_exit = r->exit_reason;
		switch (r->exit_reason) {
		case KVM_EXIT_IO:
			for (uint32_t i = 0; i < r->io.count; i++)
				io_access(vm, r->io.port, r->io.direction == KVM_EXIT_IO_OUT, r->io.size,
					  (uint8_t *)r + r->io.data_offset + i * r->io.size);
			break;
		case KVM_EXIT_MMIO: /* no device there: reads as ones, writes are lost */
			if (!r->mmio.is_write)
				memset(r->mmio.data, 0xff, sizeof(r->mmio.data));
			break;
		case KVM_EXIT_INTR: break;
		case KVM_EXIT_SYSTEM_EVENT:
			vm_stop(vm, r->system_event.type == KVM_SYSTEM_EVENT_RESET ? VM_RESET : 0);
			break;
		default:
			bad_exit(v);
			vm_stop(vm, 1);
			return;
		}
	}
}

static void *vcpu_thread(void *arg)
{
	run_vcpu(arg);
	return NULL;
}

int vcpus_run(struct vm *vm)
{
	int ret = 0;

	pthread_mutex_lock(&vm->stop_lock);
	for (unsigned i = 1; i < vm->nr_vcpus && !ret && !vm->stop; i++) {
		struct vcpu *v = &vm->vcpus[i];

		ret = pthread_create(&v->thread, NULL, vcpu_thread, v);
		v->started = ret == 0;
	}
	pthread_mutex_unlock(&vm->stop_lock);
	if (ret) {
		errno = ret;
		failed("vCPU thread");
		vm_stop(vm, 1);
	}
	run_vcpu(&vm->vcpus[0]);
	/* who stopped the VM is done with the threads when the lock is free */
	pthread_mutex_lock(&vm->stop_lock);
	pthread_mutex_unlock(&vm->stop_lock);
	for (unsigned i = 1; i < vm->nr_vcpus; i++)
		if (vm->vcpus[i].started)
			pthread_join(vm->vcpus[i].thread, NULL);
	return ret ? -1 : 0;
}
