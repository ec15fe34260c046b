/*
 * What nesting costs: a client that runs an L1, whose code is a few instructions, and its L2. Run under
 * `userkvm run` (and, unchanged, on a kernel's /dev/kvm).
 *
 * Prints "name picoseconds", medians of processor time: an exit of L1's that the hypervisor settles
 * (CPUID); the way from L2's CPUID to L1, which reads and writes RIP, and back to L2; the same with VPIDs, as Linux's
 * KVM uses them, and of that the hypervisor's own part, L1 having nothing but VMRESUME; VMREAD in L1; one round of the
 * same loop of memory and integer instructions in L1 and in L2, on EPT tables of L1's; L2's first access to a page
 * that L1's tables have, after the client has put its memory in anew.
 */
#include "../tests/client/nested_ept.h"
#include "report.h"

#define BATCHES 15
#define ROUNDS 4000
#define LOOPS 2000000
#define AT_LOOPS 0x7000
#define FRESH 0x100000
#define FRESH_PAGES 256

/* R15 rounds of what is in the braces, then OUT. Each in L1, but for `back`, which is at L1's HOST_RIP. */
static const uint8_t cpuid_rounds[] = {0x0f, 0xa2, 0x49, 0xff, 0xcf, 0x75, 0xf9, 0xe6, PORT_DONE};
static const uint8_t vmread_rounds[] = {0xba, 0x1e, 0x68, 0, 0, 0x0f, 0x78, 0xd0, 0x49, 0xff, 0xcf, 0x75, 0xf8, 0xe6, PORT_DONE};
static const uint8_t back[] = {0xba, 0x1e, 0x68, 0, 0, 0x0f, 0x78, 0xd0, 0x48, 0x83, 0xc0, 2, 0x0f, 0x79, 0xd0, 0x49, 0xff, 0xcf,
			       0x74, 3, 0x0f, 0x01, 0xc3, 0xe6, PORT_EXIT};
/* dec r15; jz; vmresume: L2's CPUID again and again */
static const uint8_t only_back[] = {0x49, 0xff, 0xcf, 0x74, 3, 0x0f, 0x01, 0xc3, 0xe6, PORT_EXIT};
/* r15 pages from FRESH on: mov [r14], al; add r14, 4096; dec r15; jnz; cpuid */
static const uint8_t touch[] = {0x41, 0x88, 0x06, 0x49, 0x81, 0xc6, 0, 0x10, 0, 0, 0x49, 0xff, 0xcf, 0x75, 0xf1, 0x0f, 0xa2};
static const uint8_t cpuid_for_ever[] = {0x0f, 0xa2, 0xeb, 0xfc};
/* add rax, r15; mov [0x60000], rax; add rbx, [0x60000]; dec r15; jnz; cpuid (L2) or out (L1) */
static const uint8_t loop[] = {0x4c, 0x01, 0xf8, 0x48, 0x89, 0x04, 0x25, 0, 0, 6, 0, 0x48, 0x03, 0x1c, 0x25, 0, 0, 6, 0,
			       0x49, 0xff, 0xcf, 0x75, 0xe8};

static struct client c;

static double run_at(uint64_t rip, uint64_t rounds, int port)
{
	struct kvm_regs r = {.rip = rip, .rsp = 0x8000, .rflags = 2, .r14 = FRESH, .r15 = rounds};
	uint64_t began;

	must(ioctl(c.vcpu, KVM_SET_REGS, &r), "KVM_SET_REGS");
	began = cpu_now();
	must(ioctl(c.vcpu, KVM_RUN, 0), "KVM_RUN");
	if (c.run->exit_reason != KVM_EXIT_IO || c.run->io.port != port)
		errx(1, "exit %u, port %#x", c.run->exit_reason, c.run->io.port);
	return (double)(cpu_now() - began) / (double)rounds * 1000;
}

static void measure_l1(const char *name, const uint8_t *code, size_t n, uint64_t rounds)
{
	double v[BATCHES];

	memcpy(c.mem + AT_LOOPS, code, n);
	for (int i = 0; i < BATCHES; i++)
		v[i] = run_at(AT_LOOPS, rounds, PORT_DONE);
	report(name, v, BATCHES);
}

/* `back` ends with OUT after R15 exits; a loop in L2 takes R15 for itself and exits once. */
static void measure_l2(const char *name, const uint8_t *code, size_t n, uint64_t rounds)
{
	double v[BATCHES];

	nested_l2_code(&c, code, n);
	for (int i = 0; i < BATCHES; i++) {
		nested_vmwrite(&c, GUEST_RIP, AT_L2);
		v[i] = run_at(AT_CODE + 32 * (uint64_t)VMRESUME, rounds, PORT_EXIT);
	}
	report(name, v, BATCHES);
}

/* All of the client's memory out of the VM and in again: nothing of it is in any table of the hypervisor's. */
static void fresh_memory(void)
{
	struct kvm_userspace_memory_region slot = {.userspace_addr = (uint64_t)c.mem};

	must(ioctl(c.vm, KVM_SET_USER_MEMORY_REGION, &slot), "KVM_SET_USER_MEMORY_REGION");
	slot.memory_size = c.mem_size;
	must(ioctl(c.vm, KVM_SET_USER_MEMORY_REGION, &slot), "KVM_SET_USER_MEMORY_REGION");
}

static void measure_faults(void)
{
	double v[BATCHES];

	nested_l2_code(&c, touch, sizeof(touch));
	memcpy(c.mem + AT_HOST_RIP, "\xe6\xf1", 2);
	for (int i = 0; i < BATCHES; i++) {
		fresh_memory();
		nested_vmwrite(&c, GUEST_RIP, AT_L2);
		v[i] = run_at(AT_CODE + 32 * (uint64_t)VMRESUME, FRESH_PAGES, PORT_EXIT);
	}
	report("l2_fault", v, BATCHES);
}

int main(void)
{
	uint8_t ends[64];

	if (!nested_open_ept(&c)) {
		puts("no VMX");
		return 0;
	}
	nested_l2_code(&c, "\x0f\xa2", 2);
	if (nested_enter(&c, VMLAUNCH) != EXIT_REASON_CPUID)
		errx(1, "L2 does not run");
	measure_l1("l1_exit", cpuid_rounds, sizeof(cpuid_rounds), ROUNDS);
	measure_l1("vmread", vmread_rounds, sizeof(vmread_rounds), ROUNDS);
	memcpy(ends, loop, sizeof(loop));
	memcpy(ends + sizeof(loop), "\xe6\xf0", 2);
	measure_l1("l1_loop", ends, sizeof(loop) + 2, LOOPS);
	memcpy(ends + sizeof(loop), "\x0f\xa2", 2);
	measure_l2("l2_loop", ends, sizeof(loop) + 2, LOOPS); /* L1 is at its OUT already */
	memcpy(c.mem + AT_HOST_RIP, back, sizeof(back));
	measure_l2("round_trip", cpuid_for_ever, sizeof(cpuid_for_ever), ROUNDS);
	nested_set_bits(&c, SECONDARY, 1u << 5);
	nested_vmwrite(&c, VIRTUAL_PROCESSOR_ID, 1);
	measure_l2("round_trip_vpid", cpuid_for_ever, sizeof(cpuid_for_ever), ROUNDS);
	memcpy(c.mem + AT_HOST_RIP, only_back, sizeof(only_back));
	measure_l2("own_part", cpuid_for_ever, sizeof(cpuid_for_ever), ROUNDS);
	measure_faults();
	puts("end");
	return 0;
}
