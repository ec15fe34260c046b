/*
 * userkvm boot KERNEL: make a machine, load a kernel, run it on the terminal.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tools/boot/vm.h"

#define MIN_MEM (16ULL << 20)
#define MAX_CPUID 256

struct options {
	const char *kernel, *initrd, *append, *kvm_path;
	uint64_t mem_size;
	bool no_reboot;
};

static const char usage[] =
	"usage: userkvm boot KERNEL [--initrd FILE] [--append TEXT] [--mem SIZE[K|M|G]]\n"
	"                    [--kvm /dev/kvm] [--no-reboot]\n"
	"\n"
	"Boots a bzImage or ELF kernel with a PVH entry; its serial console is this terminal.\n"
	"  --initrd FILE   initial ram disk\n"
	"  --append TEXT   kernel command line (after \"console=ttyS0\")\n"
	"  --mem SIZE      guest memory, 512M by default\n"
	"  --kvm PATH      use the kernel's KVM at PATH instead of userkvm\n"
	"  --no-reboot     exit when the guest resets instead of starting it again\n"
	"Ctrl-A x stops the guest.\n";

static int failed(const char *what)
{
	fprintf(stderr, "userkvm boot: %s: %s\n", what, strerror(errno));
	return -1;
}

void *guest_ptr(struct vm *vm, uint64_t gpa, uint64_t len)
{
	if (gpa < vm->low_size && len <= vm->low_size - gpa)
		return vm->mem + gpa;
	if (gpa >= HIGH_MEM_START && gpa - HIGH_MEM_START < vm->mem_size - vm->low_size &&
	    len <= vm->mem_size - vm->low_size - (gpa - HIGH_MEM_START))
		return vm->mem + vm->low_size + (gpa - HIGH_MEM_START);
	return NULL;
}

static void on_kick(int signo)
{
	/* Its arrival makes KVM_RUN return -EINTR; vm->stop says why. */
	(void)signo;
}

void vm_stop(struct vm *vm, int status)
{
	vm->status = status;
	__atomic_store_n(&vm->stop, true, __ATOMIC_SEQ_CST);
	__atomic_store_n(&vm->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	pthread_kill(vm->vcpu_thread, SIGUSR1);
}

static int add_memory(struct vm *vm, uint32_t slot, uint64_t gpa, uint8_t *hva, uint64_t size)
{
	struct kvm_userspace_memory_region r = {
		.slot = slot, .guest_phys_addr = gpa, .memory_size = size, .userspace_addr = (uintptr_t)hva,
	};

	return size && vm->kvm->ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, (unsigned long)&r) < 0
		       ? failed("KVM_SET_USER_MEMORY_REGION") : 0;
}

static int create_vm(struct vm *vm, const struct options *o)
{
	const struct kvm_calls *kvm = vm->kvm;
	struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
	unsigned long identity_map = 0xfffbc000;

	vm->sys_fd = kvm->open(o->kvm_path ? o->kvm_path : "/dev/kvm", O_RDWR | O_CLOEXEC);
	if (vm->sys_fd < 0)
		return failed(o->kvm_path ? o->kvm_path : "/dev/kvm");
	if (kvm->ioctl(vm->sys_fd, KVM_GET_API_VERSION, 0) != KVM_API_VERSION) {
		fprintf(stderr, "userkvm boot: %s is no KVM of API version 12\n", o->kvm_path);
		return -1;
	}
	vm->fd = kvm->ioctl(vm->sys_fd, KVM_CREATE_VM, 0);
	if (vm->fd < 0)
		return failed("KVM_CREATE_VM");
	if (kvm->ioctl(vm->fd, KVM_SET_TSS_ADDR, 0xfffbd000) < 0 ||
	    kvm->ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, (unsigned long)&identity_map) < 0)
		return failed("KVM_SET_TSS_ADDR");
	if (kvm->ioctl(vm->fd, KVM_CREATE_IRQCHIP, 0) < 0 || kvm->ioctl(vm->fd, KVM_CREATE_PIT2, (unsigned long)&pit) < 0)
		return failed("KVM_CREATE_IRQCHIP");

	vm->mem_size = o->mem_size;
	vm->low_size = vm->mem_size < LOW_MEM_END ? vm->mem_size : LOW_MEM_END;
	vm->mem = mmap(NULL, vm->mem_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (vm->mem == MAP_FAILED)
		return failed("guest memory");
	if (add_memory(vm, 0, 0, vm->mem, vm->low_size) < 0 ||
	    add_memory(vm, 1, HIGH_MEM_START, vm->mem + vm->low_size, vm->mem_size - vm->low_size) < 0)
		return -1;
	return 0;
}

/* The guest's CPUID is all that this KVM supports, with the APIC id filled in. */
static int set_cpuid(struct vm *vm)
{
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + MAX_CPUID * sizeof(c->entries[0]));
	int ret = -1;

	if (!c)
		return failed("CPUID");
	c->nent = MAX_CPUID;
	if (vm->kvm->ioctl(vm->sys_fd, KVM_GET_SUPPORTED_CPUID, (unsigned long)c) < 0) {
		failed("KVM_GET_SUPPORTED_CPUID");
		goto out;
	}
	for (unsigned i = 0; i < c->nent; i++) {
		struct kvm_cpuid_entry2 *e = &c->entries[i];

		if (e->function == 1)
			e->ebx = (e->ebx & 0xffff) | 1 << 16; /* one logical processor, APIC id 0 */
		if (e->function == 0xb || e->function == 0x1f)
			e->edx = 0;
	}
	ret = vm->kvm->ioctl(vm->vcpu_fd, KVM_SET_CPUID2, (unsigned long)c);
	if (ret < 0)
		failed("KVM_SET_CPUID2");
out:
	free(c);
	return ret;
}

static int create_vcpu(struct vm *vm)
{
	int size = vm->kvm->ioctl(vm->sys_fd, KVM_GET_VCPU_MMAP_SIZE, 0);

	vm->vcpu_fd = vm->kvm->ioctl(vm->fd, KVM_CREATE_VCPU, 0);
	if (size <= 0 || vm->vcpu_fd < 0)
		return failed("KVM_CREATE_VCPU");
	vm->run_size = (size_t)size;
	vm->run = vm->kvm->mmap(NULL, vm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vm->vcpu_fd, 0);
	if (vm->run == MAP_FAILED)
		return failed("mapping kvm_run");
	return set_cpuid(vm);
}

static int load_guest(struct vm *vm, const struct options *o)
{
	struct loaded_kernel kernel;
	uint64_t initrd = 0;
	size_t initrd_size = 0;
	uint8_t *data;
	char cmdline[CMDLINE_MAX];
	int n;

	if (load_kernel(vm, o->kernel, &kernel) < 0)
		return -1;
	if (o->initrd) {
		if (read_file(o->initrd, &data, &initrd_size) < 0)
			return -1;
		initrd = (vm->low_size - initrd_size) & ~0xfffULL;
		if (initrd_size > vm->low_size || initrd < kernel.end) {
			fprintf(stderr, "userkvm boot: %s: too little memory: the initrd has %zu MiB\n", o->initrd,
				(initrd_size >> 20) + 1);
			free(data);
			return -1;
		}
		memcpy(guest_ptr(vm, initrd, initrd_size), data, initrd_size);
		free(data);
	}
	n = snprintf(cmdline, sizeof(cmdline), "console=ttyS0%s%s", o->append ? " " : "", o->append ? o->append : "");
	if (n >= CMDLINE_MAX) {
		fprintf(stderr, "userkvm boot: the command line is longer than %d bytes\n", CMDLINE_MAX - 1);
		return -1;
	}
	if (pvh_set_registers(vm, kernel.entry, pvh_build(vm, acpi_build(vm), cmdline, initrd, initrd_size)) < 0)
		return failed("setting the registers");
	return 0;
}

static void bad_exit(struct vm *vm)
{
	const struct kvm_run *r = vm->run;
	struct kvm_regs regs = {0};

	vm->kvm->ioctl(vm->vcpu_fd, KVM_GET_REGS, (unsigned long)&regs);
	fprintf(stderr, "\r\nuserkvm boot: the guest stopped: ");
	switch (r->exit_reason) {
	case KVM_EXIT_SHUTDOWN: fprintf(stderr, "triple fault"); break;
	case KVM_EXIT_FAIL_ENTRY:
		fprintf(stderr, "VM entry failed, hardware reason 0x%llx", r->fail_entry.hardware_entry_failure_reason);
		break;
	case KVM_EXIT_INTERNAL_ERROR: fprintf(stderr, "KVM internal error, suberror %u", r->internal.suberror); break;
	default: fprintf(stderr, "exit reason %u", r->exit_reason); break;
	}
	fprintf(stderr, " at rip 0x%llx\r\n", regs.rip);
}

/* Runs the vCPU until somebody stops the VM. */
static int run_vcpu(struct vm *vm)
{
	struct kvm_run *r = vm->run;

	while (!__atomic_load_n(&vm->stop, __ATOMIC_SEQ_CST)) {
		if (vm->kvm->ioctl(vm->vcpu_fd, KVM_RUN, 0) < 0) {
			if (errno == EINTR || errno == EAGAIN)
				continue;
			return failed("KVM_RUN");
		}
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
		default: bad_exit(vm); return -1;
		}
	}
	return 0;
}

static int parse_size(const char *text, uint64_t *out)
{
	char *end;
	uint64_t v = strtoull(text, &end, 0);
	unsigned shift = 20; /* a plain number is MiB, as QEMU's -m */

	switch (*end) {
	case 'k': case 'K': shift = 10; end++; break;
	case 'm': case 'M': shift = 20; end++; break;
	case 'g': case 'G': shift = 30; end++; break;
	default: break;
	}
	if (end == text || *text == '-' || *end || v > UINT64_MAX >> shift)
		return -1;
	*out = v << shift;
	return 0;
}

static int parse(int argc, char **argv, struct options *o)
{
	static const struct option longs[] = {
		{"initrd", required_argument, NULL, 'i'}, {"append", required_argument, NULL, 'a'},
		{"mem", required_argument, NULL, 'm'},	  {"kvm", required_argument, NULL, 'k'},
		{"no-reboot", no_argument, NULL, 'n'},	  {"help", no_argument, NULL, 'h'},
		{0},
	};
	int c;

	*o = (struct options){.mem_size = 512ULL << 20};
	while ((c = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
		switch (c) {
		case 'i': o->initrd = optarg; break;
		case 'a': o->append = optarg; break;
		case 'k': o->kvm_path = optarg; break;
		case 'n': o->no_reboot = true; break;
		case 'm':
			if (parse_size(optarg, &o->mem_size) < 0 || o->mem_size > 1ULL << 40) {
				fprintf(stderr, "userkvm boot: --mem %s: not a size\n", optarg);
				return 2;
			}
			o->mem_size &= ~0xfffULL;
			break;
		case 'h': fputs(usage, stdout); exit(0);
		default: fputs(usage, stderr); return 2;
		}
	}
	if (optind + 1 != argc) {
		fputs(usage, stderr);
		return 2;
	}
	o->kernel = argv[optind];
	if (o->mem_size < MIN_MEM) {
		fprintf(stderr, "userkvm boot: too little memory: at least %llu MiB\n", MIN_MEM >> 20);
		return 1;
	}
	return 0;
}

/* A reset is a new machine, and the simplest new machine is a new process. */
static void restart(int argc, char **argv)
{
	char **again = calloc((size_t)argc + 2, sizeof(*again));

	if (again) {
		again[0] = (char *)"userkvm";
		memcpy(&again[1], argv, (size_t)argc * sizeof(*argv));
		execv("/proc/self/exe", again);
	}
	failed("starting again");
}

int cmd_boot(int argc, char **argv)
{
	struct options o;
	static struct vm vm; /* the terminal's thread uses it to the end */
	struct sigaction sa = {.sa_handler = on_kick};
	int ret = parse(argc, argv, &o);

	if (ret)
		return ret;
	vm.vcpu_thread = pthread_self();
	vm.kvm = o.kvm_path ? &kernel_kvm : &library_kvm;
	sigaction(SIGUSR1, &sa, NULL);
	vm.uart = uart_create(&vm);
	vm.rtc = rtc_create();
	if (!vm.uart || !vm.rtc || create_vm(&vm, &o) < 0 || create_vcpu(&vm) < 0 || load_guest(&vm, &o) < 0)
		return 1;
	if (terminal_start(&vm) != 0) {
		failed("terminal thread");
		return 1;
	}
	if (run_vcpu(&vm) < 0)
		vm.status = 1;
	terminal_restore();
	if (vm.status == VM_RESET && !o.no_reboot) {
		restart(argc, argv);
		return 1;
	}
	return vm.status == VM_RESET ? 0 : vm.status;
}
