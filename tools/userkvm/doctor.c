/*
 * userkvm doctor: what this machine offers, what userkvm uses of it, and what
 * a client will see. Everything printed is asked for, not assumed: the
 * capabilities come from KVM_CHECK_EXTENSION, the features from
 * KVM_GET_SUPPORTED_CPUID of the library itself.
 */
#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/params.h"
#include "tools/userkvm/commands.h"
#include "tools/userkvm/json.h"
#include "userkvm/userkvm.h"

#define ARCH_SET_CPUID 0x1012 /* arch_prctl(2) */

#define CPUID_1_ECX_VMX (1u << 5)
#define CPUID_80000001_ECX_SVM (1u << 2)

/* What the kernel's is good for: a file of that name alone says nothing. */
const char *doctor_kernel_kvm(void)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC), version;

	if (fd < 0)
		return errno == ENOENT ? "none; userkvm needs none" :
		       errno == EACCES ? "there, but not for this user" : "there, but does not open";
	version = ioctl(fd, KVM_GET_API_VERSION, 0);
	close(fd);
	return version == KVM_API_VERSION
		? "there: `userkvm boot --kvm /dev/kvm` uses it; clients under `userkvm run` do not"
		: "there, but no KVM; userkvm needs none";
}

static const char *virtualization_words(void)
{
	unsigned a, b, c, d;

	if (__get_cpuid(1, &a, &b, &c, &d) && c & CPUID_1_ECX_VMX)
		return "VMX (Intel VT-x) is offered";
	if (__get_cpuid(0x80000001, &a, &b, &c, &d) && c & CPUID_80000001_ECX_SVM)
		return "SVM (AMD-V) is offered";
	return "neither VMX nor SVM; userkvm needs none";
}

static void machine(void)
{
	union {
		unsigned reg[12];
		char text[49];
	} brand = {0};
	unsigned *r = brand.reg;

	for (unsigned leaf = 0x80000002; leaf <= 0x80000004; leaf++, r += 4)
		if (!__get_cpuid(leaf, &r[0], &r[1], &r[2], &r[3]))
			break;
	printf("This machine\n  processor        %s\n", brand.text);
	printf("  virtualization   %s\n", virtualization_words());
	printf("  /dev/kvm         %s\n", doctor_kernel_kvm());
}

static const struct {
	const char *what;
	int cap;
} caps[] = {
		{"vCPUs recommended", KVM_CAP_NR_VCPUS}, {"vCPUs at most", KVM_CAP_MAX_VCPUS},
		{"memslots", KVM_CAP_NR_MEMSLOTS}, {"address spaces", KVM_CAP_MULTI_ADDRESS_SPACE},
		{"in-process irqchip", KVM_CAP_IRQCHIP}, {"split irqchip", KVM_CAP_SPLIT_IRQCHIP},
		{"irqfd", KVM_CAP_IRQFD}, {"ioeventfd", KVM_CAP_IOEVENTFD}, {"read-only memory", KVM_CAP_READONLY_MEM},
		{"TSC frequency control", KVM_CAP_TSC_CONTROL}, {"guest debugging", KVM_CAP_SET_GUEST_DEBUG},
		{"nested virtualization", KVM_CAP_NESTED_STATE}, {"SMM", KVM_CAP_X86_SMM},
		{"dirty ring", KVM_CAP_DIRTY_LOG_RING},
};

void doctor_capabilities(int kvm, struct json *j)
{
	for (size_t i = 0; i < sizeof(caps) / sizeof(caps[0]); i++)
		json_i64(j, caps[i].what, userkvm_ioctl(kvm, KVM_CHECK_EXTENSION, (unsigned long)caps[i].cap));
}

/* What answers CPUID in programs under `userkvm run` (docs/ci.md). No instruction stands between the two calls. */
static const char *clients_cpuid(void)
{
	const char *shown = getenv("USERKVM_HOST_VMX");

	if (shown && strcmp(shown, "0") == 0)
		return "the machine's (USERKVM_HOST_VMX=0)";
	if (syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0UL))
		return "the machine's, without VMX: no CPUID faulting here";
	syscall(SYS_arch_prctl, ARCH_SET_CPUID, 1UL);
	return "says VMX, by CPUID faulting";
}

static void client_view(int kvm)
{
	printf("\nWhat a client sees\n  API version      %d\n", userkvm_ioctl(kvm, KVM_GET_API_VERSION, 0));
	for (size_t i = 0; i < sizeof(caps) / sizeof(caps[0]); i++) {
		int v = userkvm_ioctl(kvm, KVM_CHECK_EXTENSION, (unsigned long)caps[i].cap);

		if (v > 1)
			printf("  %-22s %d\n", caps[i].what, v);
		else
			printf("  %-22s %s\n", caps[i].what, v == 1 ? "yes" : "no");
	}
	printf("  %-22s %s\n", "its own CPUID", clients_cpuid());
	doctor_offered_features(kvm);
}

/* The library tries it with a machine's first page (emit/exec.h), and says so on stderr. NULL, or why not. */
const char *doctor_code_memory(void)
{
	static bool asked;
	static const char *why;
	int kvm, vm;

	if (asked)
		return why;
	asked = true;
	kvm = userkvm_open("/dev/kvm", O_RDWR | O_CLOEXEC);
	vm = kvm < 0 ? -1 : userkvm_ioctl(kvm, KVM_CREATE_VM, 0);
	if (kvm >= 0 && vm < 0 && (errno == EPERM || errno == EFBIG))
		why = strerror(errno);
	if (vm >= 0)
		userkvm_close(vm);
	if (kvm >= 0)
		userkvm_close(kvm);
	return why;
}

static const char *files_words(void)
{
	int fd = memfd_create("doctor", MFD_CLOEXEC);

	if (fd < 0)
		return "no memfd_create(): nameless files in /dev/shm or /tmp stand for descriptors";
	close(fd);
	return "memfd_create()";
}

/* What a confined process may be refused, tried as guests need it. */
static void try_guests(int kvm)
{
	int vm = userkvm_ioctl(kvm, KVM_CREATE_VM, 0), vcpu = vm < 0 ? -1 : userkvm_ioctl(vm, KVM_CREATE_VCPU, 0);
	const char *why = vcpu < 0 ? strerror(errno) : NULL;
	const char *code = doctor_code_memory();

	printf("  files            %s\n", files_words());
	printf("  VM and vCPU      %s%s\n", why ? "CANNOT BE MADE: " : "can be made", why ? why : "");
	userkvm_close(vcpu);
	userkvm_close(vm);
	if (code)
		printf("  code memory      REFUSED: %s; guests cannot use x87, SSE and AVX\n", code);
	else
		printf("  code memory      can be had\n");
}

enum { PARAMS, JSON, PREFLIGHT };
static const struct cli_option options[] = {
	[PARAMS] = { "params", 0, NULL, "KVM's module parameters and what they are by default" },
	[JSON] = { "json", 0, NULL, "what it finds, as JSON" },
	[PREFLIGHT] = { "preflight", 0, NULL, "one line, and an exit status that says what does not work" },
	{ 0 },
};

static int cmd_doctor(int argc, char **argv);
const struct cli cli_doctor = {
	.name = "userkvm doctor",
	.what = "say what this machine offers and what a client will see",
	.synopsis = "userkvm doctor [--json | --preflight | --params]",
	.about = "Says what this machine offers, what userkvm uses and what a client sees.",
	.more = "The exit status: 0 guests run, 3 the library does not open, 4 no VM can be made, 5 no executable\n"
		"memory, 6 no preload library, 7 a guest that is tried does not run.",
	.options = options,
	.run = cmd_doctor,
};

static void print_param(void *arg, const char *name, const char *kind, const char *dflt, const char *what)
{
	(void)arg;
	printf("%-34s %-7s %-5s %s\n", name, kind, *dflt ? dflt : "-", what);
}

static int take(void *arg, int option, const char *value)
{
	(void)value;
	*(int *)arg = option;
	return 0;
}

/* Which engine runs guests, and why. */
static const char *engine_words(const char *wanted)
{
	if (wanted && !strcmp(wanted, "interp"))
		return "interp (the interpreter, because USERKVM_ENGINE asks for it)";
	if (wanted && *wanted && strcmp(wanted, "jit") != 0)
		return "none: USERKVM_ENGINE names one there is not, no VM will start";
	if (doctor_code_memory())
		return "none: this process may have no executable memory, no VM will start";
	return "jit (64-bit code is translated, the rest interpreted)";
}

const char *doctor_engine(void)
{
	static char name[8];

	snprintf(name, sizeof(name), "%.*s", (int)strcspn(engine_words(getenv("USERKVM_ENGINE")), " :"), engine_words(getenv("USERKVM_ENGINE")));
	return name;
}

/* What the parameters come to: as setup() of src/vmx/caps.c leaves them, which needs a guest that is never emulated. */
static void local_apic(void)
{
	bool asked = params_get_bool("enable_apicv"), apicv = asked && params_get_bool("unrestricted_guest") && params_get_bool("ept");

	printf("  local APIC       enable_apicv=%d%s, flexpriority=%d\n", apicv,
	       asked && !apicv ? " (it needs ept=1 and unrestricted_guest=1)" : "", params_get_bool("flexpriority"));
}

static int cmd_doctor(int argc, char **argv)
{
	const char *why;
	char lib[PATH_MAX];
	const char *params = getenv("USERKVM_PARAMS"), *engine = getenv("USERKVM_ENGINE");
	int kvm, what = -1, status = cli_parse(&cli_doctor, argc, argv, take, &what);

	if (status >= 0)
		return status;
	if (optind < argc)
		return wrong_usage("userkvm doctor", "it takes no '%s'", argv[optind]);
	if (what == JSON)
		return doctor_json();
	if (what == PREFLIGHT)
		return cli_check_environment("userkvm doctor") ? 2 : doctor_preflight();
	if (what == PARAMS) {
		printf("%-34s %-7s %-5s %s\n", "parameter", "value", "dflt", "what it does");
		params_each(print_param, NULL);
		return 0;
	}
	machine();
	printf("\nWhat userkvm uses\n");
	printf("  engine           %s\n", engine_words(engine));
	doctor_host_features();
	printf("  parameters       %s\n", params && *params ? params : "defaults (ept=1)");
	local_apic();
	printf("  preload library  %s\n", preload_path(lib, sizeof(lib)) == 0 ? lib : "NOT FOUND: `userkvm run` cannot work");
	printf("  host memory      %ld MiB available\n",
	       sysconf(_SC_AVPHYS_PAGES) / 256 * (sysconf(_SC_PAGESIZE) / 4096));
	kvm = userkvm_open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm < 0) {
		printf("  the library      does not open: %s\n", strerror(errno));
		return DOCTOR_LIBRARY;
	}
	try_guests(kvm);
	client_view(kvm);
	userkvm_close(kvm);
	printf("\nGood to know\n"
	       "  Guests run in software: 64-bit code is translated, the rest interpreted (USERKVM_ENGINE=interp: all of it).\n"
	       "  It is not a security boundary against a hostile guest: do not run what you do not trust.\n"
	       "  Statically linked clients are served too: every system call of theirs costs one to two microseconds more.\n");
	status = (int)doctor_try(&kvm, &why);
	if (kvm >= 0)
		userkvm_close(kvm);
	return status;
}
