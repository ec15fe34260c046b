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
#include "tools/userkvm/check.h"
#include "tools/userkvm/commands.h"

#define MIN_MEM (16ULL << 20)
#define MAX_WATCHDOG 86400
/* A guest that resets so often in a row before it has written a byte will go on so. */
#define MAX_SILENT_RESETS 3
/* The count, from one process to the next. */
#define SILENT_RESETS "userkvm_boot_silent_resets"

struct options {
	const char *kernel, *initrd, *append, *kvm_path;
	uint64_t mem_size;
	unsigned smp, watchdog;
	bool no_reboot;
	struct check_choice check;
};

enum { INITRD, APPEND, MEM, SMP, KVM, NO_REBOOT, WATCHDOG, CHECK };
static const struct cli_option option_rows[] = {
	[INITRD] = { "initrd", 0, "FILE", "initial ram disk" },
	[APPEND] = { "append", 0, "TEXT", "kernel command line (after \"console=ttyS0\")" },
	[MEM] = { "mem", 0, "SIZE", "guest memory, with K, M or G; 512M by default" },
	[SMP] = { "smp", 0, "N", "virtual processors, 1 by default" },
	[KVM] = { "kvm", 0, "FILE", "use the kernel's KVM at FILE instead of userkvm" },
	[NO_REBOOT] = { "no-reboot", 0, NULL, "exit when the guest resets instead of starting it again" },
	[WATCHDOG] = { "watchdog", 0, "SECONDS", "end a guest whose console is silent so long, and say where it stands" },
	CHECK_OPTIONS(CHECK, "check"),
	{ 0 },
};

static int cmd_boot(int argc, char **argv);
const struct cli cli_boot = {
	.name = "userkvm boot",
	.what = "boot a Linux kernel on the terminal",
	.synopsis = "userkvm boot KERNEL [OPTIONS]",
	.about = "Boots a bzImage or ELF kernel with a PVH entry; its serial console is this terminal.",
	.more = "Ctrl-A x stops the guest.",
	.options = option_rows,
	.files = true,
	.run = cmd_boot,
};

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

static int take(void *arg, int option, const char *value)
{
	struct options *o = arg;
	char *end;

	if (option >= CHECK)
		return check_take(&o->check, "userkvm boot", option - CHECK, value);
	switch (option) {
	case INITRD: o->initrd = value; break;
	case APPEND: o->append = value; break;
	case KVM: o->kvm_path = value; break;
	case NO_REBOOT: o->no_reboot = true; break;
	case WATCHDOG:
		o->watchdog = (unsigned)strtoul(value, &end, 10);
		if (end == value || *end || *value == '-' || o->watchdog < 1 || o->watchdog > MAX_WATCHDOG)
			return wrong_usage("userkvm boot", "--watchdog %s: not a number of seconds", value);
		break;
	case MEM:
		if (parse_size(value, &o->mem_size) < 0 || o->mem_size > 1ULL << 40)
			return wrong_usage("userkvm boot", "--mem %s: not a size", value);
		o->mem_size &= ~0xfffULL;
		break;
	case SMP:
		o->smp = (unsigned)strtoul(value, &end, 10);
		if (end == value || *end || o->smp < 1 || o->smp > MAX_VCPUS)
			return wrong_usage("userkvm boot", "--smp %s: not a number from 1 to %d", value, MAX_VCPUS);
		break;
	}
	return 0;
}

/* -1: go on. Else the exit status. */
static int parse(int argc, char **argv, struct options *o)
{
	int status;

	*o = (struct options){.mem_size = 512ULL << 20, .smp = 1};
	status = cli_parse(&cli_boot, argc, argv, take, o);
	if (status >= 0)
		return status;
	if (optind + 1 != argc)
		return wrong_usage("userkvm boot", optind == argc ? "which kernel?" : "one kernel only");
	o->kernel = argv[optind];
	if (o->mem_size < MIN_MEM) {
		fprintf(stderr, "userkvm boot: too little memory: at least %llu MiB\n", MIN_MEM >> 20);
		return 1;
	}
	if (cli_check_environment("userkvm boot"))
		return 2;
	return check_asked(&o->check) ? check_begin("userkvm boot", &o->check) : -1;
}

/* Every start anew is told, and one that has no end is none. */
static bool may_restart(void)
{
	const char *before = getenv(SILENT_RESETS);
	char count[16];
	unsigned silent = console_written() ? 0 : (before ? (unsigned)atoi(before) : 0) + 1;

	if (silent >= MAX_SILENT_RESETS) {
		fprintf(stderr, "userkvm boot: the guest has reset %u times without a byte on its console: not started again\n",
			silent);
		return false;
	}
	fputs("userkvm boot: the guest has reset: starting it again\n", stderr);
	snprintf(count, sizeof(count), "%u", silent);
	return setenv(SILENT_RESETS, count, 1) == 0;
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

static int cmd_boot(int argc, char **argv)
{
	struct options o;
	/* the terminal's thread uses it to the end */
	static struct vm vm = {.io_lock = PTHREAD_MUTEX_INITIALIZER, .stop_lock = PTHREAD_MUTEX_INITIALIZER};
	int ret = parse(argc, argv, &o);

	if (ret >= 0)
		return ret;
	vm.kvm = o.kvm_path ? &kernel_kvm : &library_kvm;
	vm.nr_vcpus = o.smp;
	vm.uart = uart_create(&vm);
	vm.rtc = rtc_create();
	if (!vm.uart || !vm.rtc || create_vm(&vm, &o) < 0 || vcpus_create(&vm) < 0 || load_guest(&vm, &o) < 0)
		return 1;
	if (terminal_start(&vm) != 0 || watchdog_start(&vm, o.watchdog) != 0) {
		failed("a thread");
		return 1;
	}
	if (vcpus_run(&vm) < 0)
		vm.status = 1;
	if (watchdog_finish(&vm))
		vm.status = 1;
	terminal_restore();
	if (vm.status == VM_RESET && !o.no_reboot) {
		if (may_restart())
			restart(argc, argv);
		return 1;
	}
	return vm.status == VM_RESET ? 0 : vm.status;
}
