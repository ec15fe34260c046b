/*
 * The machine's own KVM: is it good? Asked by use, not by name: a guest of 16-bit
 * code counts to 2^26 in it. A KVM without hardware behind it (one that emulates)
 * either refuses or takes far longer than a processor does.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "tools/userkvm/commands.h"

#define ROUNDS	  (1u << 26)
#define LIMIT_S	  2 /* a processor at 1 GHz needs a tenth of a second */
#define CODE_AT	  0x1000
#define MEM_BYTES 0x2000

/* mov ecx, ROUNDS; 1: dec ecx; jnz 1b; hlt */
static const uint8_t code[] = { 0x66, 0xb9, 0, 0, 0, 4, 0x66, 0x49, 0x75, 0xfc, 0xf4 };

static void nothing(int signo)
{
	(void)signo; /* its arrival ends KVM_RUN */
}

/* The guest's run, given LIMIT_S. NULL: it halted in time. */
static const char *run_guest(int vcpu, struct kvm_run *run)
{
	struct sigaction sa = { .sa_handler = nothing }, before;
	struct kvm_sregs s;
	struct kvm_regs r = { .rip = CODE_AT, .rflags = 2 };
	int got;

	if (ioctl(vcpu, KVM_GET_SREGS, &s) < 0)
		return "KVM_GET_SREGS fails";
	s.cs.base = 0;
	s.cs.selector = 0;
	if (ioctl(vcpu, KVM_SET_SREGS, &s) < 0 || ioctl(vcpu, KVM_SET_REGS, &r) < 0)
		return "its registers cannot be set";
	sigaction(SIGALRM, &sa, &before);
	alarm(LIMIT_S);
	got = ioctl(vcpu, KVM_RUN, 0);
	alarm(0);
	sigaction(SIGALRM, &before, NULL);
	if (got < 0 && errno == EINTR)
		return "it emulates: a short loop took more than two seconds";
	return got < 0 || run->exit_reason != KVM_EXIT_HLT ? "a guest of three instructions does not run" : NULL;
}

static const char *try_vm(int kvm, int vm, uint8_t *mem)
{
	struct kvm_userspace_memory_region region = { .memory_size = MEM_BYTES, .userspace_addr = (uintptr_t)mem };
	int size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), vcpu;
	const char *why;
	struct kvm_run *run;

	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
		return "it takes no memory";
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	if (vcpu < 0)
		return "it makes no vCPU";
	run = mmap(NULL, (size_t)(size > 0 ? size : 4096), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	memcpy(mem + CODE_AT, code, sizeof(code));
	why = run == MAP_FAILED ? "a vCPU cannot be mapped" : run_guest(vcpu, run);
	if (run != MAP_FAILED)
		munmap(run, (size_t)size);
	close(vcpu);
	return why;
}

const char *machine_kvm_fault(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm;
	const char *why;
	uint8_t *mem;

	if (kvm < 0)
		return errno == ENOENT ? "there is none" : errno == EACCES ? "it is not for this user" : "it does not open";
	if (ioctl(kvm, KVM_GET_API_VERSION, 0) != KVM_API_VERSION) {
		close(kvm);
		return "/dev/kvm is no KVM";
	}
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	mem = mmap(NULL, MEM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	why = vm < 0 ? "it makes no VM" : mem == MAP_FAILED ? "no memory" : try_vm(kvm, vm, mem);
	if (vm >= 0)
		close(vm);
	if (mem != MAP_FAILED)
		munmap(mem, MEM_BYTES);
	close(kvm);
	return why;
}
