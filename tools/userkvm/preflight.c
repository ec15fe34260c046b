/*
 * userkvm doctor --preflight, --json: can guests run here? Each thing that a
 * client will need is tried, in the order in which the next one needs it, up
 * to a guest that says a word; the first that fails is the exit status
 * (enum doctor_status), so that a CI job can tell one cause from another.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/params.h"
#include "tools/userkvm/commands.h"
#include "tools/userkvm/json.h"
#include "userkvm/userkvm.h"

#define CODE_AT 0x1000
#define MEMORY	0x2000
#define WORD	0x5a

/* mov al, WORD; out 10h, al; hlt */
static const uint8_t code[] = { 0xb0, WORD, 0xe6, 0x10, 0xf4 };

static const struct {
	const char *name, *failed;
} checks[] = {
	[DOCTOR_LIBRARY] = { "library", "the library does not open" },
	[DOCTOR_VM] = { "vm", "no VM or vCPU can be made" },
	[DOCTOR_CODE] = { "code_memory", "this process may have no executable memory" },
	[DOCTOR_PRELOAD] = { "preload", "libuserkvm-preload.so is not beside this program: `userkvm run` cannot work" },
	[DOCTOR_GUEST] = { "guest", "a guest that is tried does not run as it should" },
};

/* A guest's few instructions. NULL, or what went wrong. */
static const char *run_guest(int kvm)
{
	uint8_t *memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int vm = userkvm_ioctl(kvm, KVM_CREATE_VM, 0), vcpu = vm < 0 ? -1 : userkvm_ioctl(vm, KVM_CREATE_VCPU, 0);
	struct kvm_userspace_memory_region slot = { .memory_size = MEMORY, .userspace_addr = (uintptr_t)memory };
	int size = userkvm_ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	struct kvm_regs r = { .rip = CODE_AT, .rflags = 2 };
	struct kvm_run *run = MAP_FAILED;
	struct kvm_sregs s;
	const char *why = NULL;

	if (memory != MAP_FAILED && vcpu >= 0 && size > 0)
		run = userkvm_mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (run == MAP_FAILED) {
		why = strerror(errno);
	} else {
		memcpy(memory + CODE_AT, code, sizeof(code));
		if (userkvm_ioctl(vm, KVM_SET_USER_MEMORY_REGION, (uintptr_t)&slot) || userkvm_ioctl(vcpu, KVM_GET_SREGS, (uintptr_t)&s))
			why = strerror(errno);
		s.cs.base = s.cs.selector = 0;
		if (!why && (userkvm_ioctl(vcpu, KVM_SET_SREGS, (uintptr_t)&s) || userkvm_ioctl(vcpu, KVM_SET_REGS, (uintptr_t)&r) ||
			     userkvm_ioctl(vcpu, KVM_RUN, 0)))
			why = strerror(errno);
		if (!why && (run->exit_reason != KVM_EXIT_IO || run->io.port != 0x10 ||
			     *((uint8_t *)run + run->io.data_offset) != WORD))
			why = "it does not say what it should";
		munmap(run, (size_t)size);
	}
	if (vcpu >= 0)
		userkvm_close(vcpu);
	if (vm >= 0)
		userkvm_close(vm);
	if (memory != MAP_FAILED)
		munmap(memory, MEMORY);
	return why;
}

static const char *try_vm(int kvm)
{
	int vm = userkvm_ioctl(kvm, KVM_CREATE_VM, 0), vcpu = vm < 0 ? -1 : userkvm_ioctl(vm, KVM_CREATE_VCPU, 0);
	const char *why = vcpu < 0 ? strerror(errno) : NULL;

	if (vcpu >= 0)
		userkvm_close(vcpu);
	if (vm >= 0)
		userkvm_close(vm);
	return why;
}

enum doctor_status doctor_try(int *kvm, const char **why)
{
	char lib[PATH_MAX];

	*kvm = userkvm_open("/dev/kvm", O_RDWR | O_CLOEXEC);
	*why = *kvm < 0 ? strerror(errno) : NULL;
	if (*why)
		return DOCTOR_LIBRARY;
	*why = doctor_code_memory();
	if (*why)
		return DOCTOR_CODE;
	*why = try_vm(*kvm);
	if (*why)
		return DOCTOR_VM;
	*why = run_guest(*kvm);
	if (*why)
		return DOCTOR_GUEST;
	if (preload_path(lib, sizeof(lib)) < 0) {
		*why = "not found";
		return DOCTOR_PRELOAD;
	}
	return DOCTOR_GOOD;
}

int doctor_preflight(void)
{
	const char *why;
	int kvm;
	enum doctor_status status = doctor_try(&kvm, &why);

	if (status == DOCTOR_GOOD)
		printf("userkvm " USERKVM_VERSION ": guests run here, engine %s\n", doctor_engine());
	else
		fprintf(stderr, "userkvm doctor: %s: %s\n", checks[status].failed, why);
	if (kvm >= 0)
		userkvm_close(kvm);
	return (int)status;
}

static void json_param(void *arg, const char *name, const char *kind, const char *dflt, const char *what)
{
	char value[64];

	(void)kind;
	(void)what;
	json_string(arg, name, params_get_string(name, value, sizeof(value)) ? value : dflt);
}

int doctor_json(void)
{
	struct json j = { .f = stdout };
	const char *why;
	char lib[PATH_MAX];
	int kvm;
	enum doctor_status status = doctor_try(&kvm, &why);

	json_object(&j, NULL, true);
	json_string(&j, "version", USERKVM_VERSION);
	json_i64(&j, "status", status);
	json_string(&j, "failed", status == DOCTOR_GOOD ? "" : checks[status].name);
	json_string(&j, "why", status == DOCTOR_GOOD ? "" : why);
	json_string(&j, "engine", doctor_engine());
	json_string(&j, "kernel_kvm", doctor_kernel_kvm());
	json_string(&j, "preload", preload_path(lib, sizeof(lib)) == 0 ? lib : "");
	json_u64(&j, "available_memory_mib", (uint64_t)sysconf(_SC_AVPHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE) >> 20);
	json_object(&j, "parameters", false);
	params_each(json_param, &j);
	json_end(&j);
	if (kvm >= 0) {
		json_i64(&j, "api_version", userkvm_ioctl(kvm, KVM_GET_API_VERSION, 0));
		json_object(&j, "capabilities", false);
		doctor_capabilities(kvm, &j);
		json_end(&j);
		json_array(&j, "cpuid_offers", false);
		doctor_features_json(kvm, &j);
		json_end(&j);
		userkvm_close(kvm);
	}
	json_end(&j);
	return (int)status;
}
