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
#include <unistd.h>

#include "tools/userkvm/commands.h"
#include "userkvm/userkvm.h"

#define MAX_CPUID 256

static void machine(void)
{
	unsigned a, b, c, d;
	union {
		unsigned reg[12];
		char text[49];
	} brand = {0};
	unsigned *r = brand.reg;

	for (unsigned leaf = 0x80000002; leaf <= 0x80000004; leaf++, r += 4)
		if (!__get_cpuid(leaf, &r[0], &r[1], &r[2], &r[3]))
			break;
	printf("This machine\n  processor        %s\n", brand.text);
	__cpuid(1, a, b, c, d);
	(void)a, (void)b, (void)d;
	printf("  virtualization   %s\n", c >> 5 & 1 ? "VMX (Intel VT-x) is offered"
							: "no VMX; userkvm needs none");
	if (access("/dev/kvm", F_OK) != 0)
		printf("  /dev/kvm         none; userkvm needs none\n");
	else if (access("/dev/kvm", R_OK | W_OK) != 0)
		printf("  /dev/kvm         there, but not for this user (%s)\n", strerror(errno));
	else
		printf("  /dev/kvm         there: `userkvm boot --kvm /dev/kvm` uses it; clients under `userkvm run` do not\n");
}

static void features(int kvm)
{
	static const struct {
		const char *name;
		unsigned leaf, reg, bit;
	} list[] = {
		{"sse3", 1, 2, 0}, {"pclmulqdq", 1, 2, 1}, {"ssse3", 1, 2, 9}, {"fma", 1, 2, 12}, {"cx16", 1, 2, 13},
		{"pcid", 1, 2, 17}, {"sse4.1", 1, 2, 19}, {"sse4.2", 1, 2, 20}, {"x2apic", 1, 2, 21}, {"movbe", 1, 2, 22},
		{"popcnt", 1, 2, 23}, {"tsc-deadline", 1, 2, 24}, {"aes", 1, 2, 25}, {"xsave", 1, 2, 26}, {"avx", 1, 2, 28},
		{"f16c", 1, 2, 29}, {"rdrand", 1, 2, 30}, {"fsgsbase", 7, 1, 0}, {"bmi1", 7, 1, 3}, {"avx2", 7, 1, 5},
		{"smep", 7, 1, 7}, {"bmi2", 7, 1, 8}, {"erms", 7, 1, 9}, {"invpcid", 7, 1, 10}, {"rdseed", 7, 1, 18},
		{"adx", 7, 1, 19}, {"smap", 7, 1, 20}, {"sha", 7, 1, 29}, {"umip", 7, 2, 2},
		{"1G pages", 0x80000001, 3, 26}, {"rdtscp", 0x80000001, 3, 27}, {"lzcnt", 0x80000001, 2, 5},
	};
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + MAX_CPUID * sizeof(c->entries[0]));
	int column = 0;

	if (!c)
		return;
	c->nent = MAX_CPUID;
	if (userkvm_ioctl(kvm, KVM_GET_SUPPORTED_CPUID, (unsigned long)c) == 0) {
		printf("  CPUID offers    ");
		for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++)
			for (unsigned k = 0; k < c->nent; k++) {
				const struct kvm_cpuid_entry2 *e = &c->entries[k];
				const unsigned regs[4] = {e->eax, e->ebx, e->ecx, e->edx};

				if (e->function != list[i].leaf || e->index != 0 || !(regs[list[i].reg] >> list[i].bit & 1))
					continue;
				if (column > 60)
					column = printf("\n                  ") - 19;
				column += printf(" %s", list[i].name);
			}
		printf("\n");
	}
	free(c);
}

static void client_view(int kvm)
{
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

	printf("\nWhat a client sees\n  API version      %d\n", userkvm_ioctl(kvm, KVM_GET_API_VERSION, 0));
	for (size_t i = 0; i < sizeof(caps) / sizeof(caps[0]); i++) {
		int v = userkvm_ioctl(kvm, KVM_CHECK_EXTENSION, (unsigned long)caps[i].cap);

		if (v > 1)
			printf("  %-22s %d\n", caps[i].what, v);
		else
			printf("  %-22s %s\n", caps[i].what, v == 1 ? "yes" : "no");
	}
	features(kvm);
}

int cmd_doctor(int argc, char **argv)
{
	char lib[PATH_MAX];
	const char *params = getenv("USERKVM_PARAMS"), *engine = getenv("USERKVM_ENGINE");
	int kvm;

	if (argc > 1) {
		FILE *f = strcmp(argv[1], "--help") == 0 ? stdout : stderr;

		fputs("usage: userkvm doctor\n\nSays what this machine offers, what userkvm uses and what a client sees.\n", f);
		return f == stdout ? 0 : 2;
	}
	machine();
	printf("\nWhat userkvm uses\n");
	printf("  engine           interp (the interpreter)%s\n",
	       engine && *engine && strcmp(engine, "interp") != 0 ? "; USERKVM_ENGINE names another: no VM will start" : "");
	printf("  parameters       %s\n", params && *params ? params : "defaults (ept=1)");
	printf("  preload library  %s\n", preload_path(lib, sizeof(lib)) == 0 ? lib : "NOT FOUND: `userkvm run` cannot work");
	printf("  host memory      %ld MiB available\n",
	       sysconf(_SC_AVPHYS_PAGES) / 256 * (sysconf(_SC_PAGESIZE) / 4096));
	kvm = userkvm_open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm < 0) {
		printf("  the library      does not open: %s\n", strerror(errno));
		return 1;
	}
	client_view(kvm);
	userkvm_close(kvm);
	printf("\nGood to know\n"
	       "  Guests run in software: every instruction is interpreted, x87/SSE/AVX run on this processor.\n"
	       "  It is not a security boundary against a hostile guest: do not run what you do not trust.\n"
	       "  Statically linked clients are served too: every system call of theirs costs one to two microseconds more.\n");
	return 0;
}
