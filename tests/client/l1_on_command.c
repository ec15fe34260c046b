/*
 * A client whose guest is a hypervisor that does what standard input says, one word or line at a time, for
 * tests of the commands that look at it. Each is answered by a line.
 *
 *	vmxon                in VMX operation, with a current VMCS that VM entry takes
 *	fill                 that VMCS again, as it was
 *	second               a second vCPU, which waits for SIPI in KVM_RUN on a thread: "second EAGAIN" if that ends
 *	ept                  L2's first 2 MiB one to one by EPT12, page by page
 *	write FIELD VALUE    VMWRITE
 *	store GPA VALUE      8 bytes, by L1's processor; poke: by the client, behind L1's back
 *	invept               of both types  vmclear
 *	code HEX             what L2 runs from now on
 *	launch, resume       "exit REASON" of L1's, or "fail ERROR"
 *	loop                 VMRESUME on a thread: L2 (or L1) runs until the process ends
 *	unmap GPA 0          that page of the guest's memory is no more the client's
 *	log                  a dirty log for all of the guest's memory
 *	client               the client's own VM entry fails: "client REASON"
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "nested_ept.h"

static struct client c;

static void answer(const char *fmt, unsigned long long v)
{
	printf(fmt, v);
	putchar('\n');
	fflush(stdout);
}

static void enter(enum snippet how)
{
	struct outcome o = nested_do(&c, how, 0, 0);

	if (o.port == PORT_EXIT)
		answer("exit %llu", nested_vmread(&c, VM_EXIT_REASON) & 0xffff);
	else
		answer("fail %llu", nested_vmread(&c, VM_INSTRUCTION_ERROR));
}

static void *run(void *arg)
{
	struct kvm_regs r = {.rip = AT_CODE + 32 * (uint64_t)VMRESUME, .rsp = 0x8000, .rflags = 2};

	(void)arg;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_REGS, &r), 0);
	ioctl(c.vcpu, KVM_RUN, 0);
	return NULL;
}

static void loop(void)
{
	pthread_t t;

	pthread_create(&t, NULL, run, NULL);
	answer("loops", 0);
}

static void invept(void)
{
	struct {
		uint64_t eptp, zero;
	} *operand = (void *)(c.mem + AT_TEST);

	operand->eptp = AT_EPT | 3u << 3 | 6;
	operand->zero = 0;
	assert_succeeds(nested_do(&c, INVEPT, 1, AT_TEST));
	assert_succeeds(nested_do(&c, INVEPT, 2, AT_TEST));
}

static void code(const char *hex)
{
	unsigned byte;

	for (uint8_t *at = c.mem + AT_L2; sscanf(hex, "%2x", &byte) == 1; hex += 2)
		*at++ = (uint8_t)byte;
}

static void log_all(void)
{
	struct kvm_userspace_memory_region m = {.flags = KVM_MEM_LOG_DIRTY_PAGES, .memory_size = c.mem_size, .userspace_addr = (uintptr_t)c.mem};

	assert_int_equal(ioctl(c.vm, KVM_SET_USER_MEMORY_REGION, &m), 0);
}

static void clients_own(void)
{
	struct kvm_sregs s;

	assert_int_equal(ioctl(c.vcpu, KVM_GET_SREGS, &s), 0);
	s.tr.type = 2;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_SREGS, &s), 0);
	assert_int_equal(ioctl(c.vcpu, KVM_RUN, 0), 0);
	assert_int_equal(c.run->exit_reason, KVM_EXIT_FAIL_ENTRY);
	answer("client %#llx", c.run->fail_entry.hardware_entry_failure_reason);
}

static void vmxon(void)
{
	assert_succeeds(nested_ptr(&c, VMXON, AT_VMXON));
	nested_fresh_vmcs(&c);
}

static void vmclear(void)
{
	assert_succeeds(nested_ptr(&c, VMCLEAR, AT_VMCS));
}

static void *run_second(void *vcpu)
{
	int r = ioctl((int)(intptr_t)vcpu, KVM_RUN, 0);

	printf("second %d %d\n", r, errno);
	fflush(stdout);
	return NULL;
}

static void second(void)
{
	int vcpu = ioctl(c.vm, KVM_CREATE_VCPU, 1);
	pthread_t t;

	assert_true(vcpu >= 0);
	pthread_create(&t, NULL, run_second, (void *)(intptr_t)vcpu);
}

/* Two numbers behind the word. */
static bool numbers(const char *line, const char *word, unsigned long long *a, unsigned long long *b)
{
	size_t n = strlen(word);
	char *end;

	if (strncmp(line, word, n) != 0)
		return false;
	*a = strtoull(line + n, &end, 0);
	*b = strtoull(end, &end, 0);
	return !*end;
}

static void obey(const char *line)
{
	unsigned long long a, b;
	char hex[256];

	if (numbers(line, "write ", &a, &b))
		nested_vmwrite(&c, a, b);
	else if (numbers(line, "store ", &a, &b))
		nested_do(&c, STORE, a, b);
	else if (numbers(line, "poke ", &a, &b))
		*(uint64_t *)(c.mem + a) = b;
	else if (numbers(line, "unmap ", &a, &b))
		munmap(c.mem + a, 4096);
	else if (sscanf(line, "code %255s", hex) == 1)
		code(hex);
	else if (strcmp(line, "vmxon") == 0)
		vmxon();
	else if (strcmp(line, "fill") == 0)
		nested_fresh_vmcs(&c);
	else if (strcmp(line, "second") == 0)
		second();
	else if (strcmp(line, "ept") == 0)
		nested_use_ept(&c);
	else if (strcmp(line, "invept") == 0)
		invept();
	else if (strcmp(line, "vmclear") == 0)
		vmclear();
	else if (strcmp(line, "log") == 0)
		log_all();
	else
		answer("what?", 0);
	answer("done", 0);
}

int main(void)
{
	char line[300];

	nested_irqchip = true; /* HLT waits in KVM_RUN */
	if (!nested_open(&c)) {
		answer("no VMX", 0);
		return 1;
	}
	answer("ready", 0);
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = '\0';
		if (strcmp(line, "launch") == 0)
			enter(VMLAUNCH);
		else if (strcmp(line, "resume") == 0)
			enter(VMRESUME);
		else if (strcmp(line, "loop") == 0)
			loop();
		else if (strcmp(line, "client") == 0)
			clients_own();
		else
			obey(line);
	}
	return 0;
}
