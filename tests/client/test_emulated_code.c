/*
 * Instructions that the hypervisor carries out for the guest (INS from a device of
 * its own, a string move out of the APIC's page) write into code that has run: the
 * new code runs, on this vCPU and, once it has serialized, on another.
 */
#include "guest_code.h"
#include "paging.h"
#include "smp.h"

#define FUNCTION 0x2000 /* mov $imm32, %eax; ret */

static const uint8_t function[] = {0xb8, 0x11, 0, 0, 0, 0xc3};

static void open_guest(struct smp *s, int nr)
{
	struct kvm_mp_state runnable = {KVM_MP_STATE_RUNNABLE};

	smp_open(s, nr, 1 << 20, true);
	memcpy(s->c.mem + FUNCTION, function, sizeof(function));
	for (int i = 0; i < nr; i++)
		assert_int_equal(ioctl(s->cpu[i].fd, KVM_SET_MP_STATE, &runnable), 0);
}

/* The PIC's mask is what is read from port 21h. */
#define MASK "mov $0x5a, %al; out %al, $0x21; mov $0x2001, %edi; mov $0x21, %edx; cld\n"
#define CALL "mov $0x2000, %ecx; call *%ecx\n"
GUEST_CODE(ins_byte, 32, "mov $0x8000, %esp\n" CALL MASK "insb\n" CALL "mov %eax, %esi; out %al, $0x99");
GUEST_CODE(rep_ins, 32,
	   "mov $0x8000, %esp\n" CALL MASK "mov $2, %ecx; rep insb\n" CALL "mov %eax, %esi; out %al, $0x99");
/* The task priority register, 32 bits of it. */
GUEST_CODE(move, 32,
	   "mov $0x8000, %esp\n" CALL "movl $0x50, 0xfee00080; mov $0xfee00080, %esi; mov $0x2001, %edi; cld; movsl\n" CALL
	   "mov %eax, %esi; out %al, $0x99");

static void one(const uint8_t *code, size_t n, uint32_t expected)
{
	struct kvm_regs r;
	struct client c;
	struct smp s;

	open_guest(&s, 1);
	c = smp_client(&s, 0);
	client_flat_mode(&c, 0x1000, code, n);
	assert_int_equal(client_next_out(&c), 0x99);
	r = client_regs(&c);
	assert_int_equal((uint32_t)r.rsi, expected);
	smp_close(&s);
}

static void code_written_by_ins_runs(void **state)
{
	one(ins_byte, GUEST_CODE_SIZE(ins_byte), 0x5a);
	one(rep_ins, GUEST_CODE_SIZE(rep_ins), 0x5a5a);
}

static void code_moved_from_a_device_runs(void **state)
{
	one(move, GUEST_CODE_SIZE(move), 0x50);
}

GUEST_CODE(writer, 32,
	   "mov $0x5000, %ebx; 1: pause; cmpl $0, (%ebx); je 1b\n" MASK "insb; movl $1, 4(%ebx); out %al, $0x99");
/* Runs the old code until it is told; then as the SDM says, "Handling Self- and Cross-Modifying Code". */
GUEST_CODE(runner, 32,
	   "mov $0x7000, %esp; mov $0x5000, %ebp\n"
	   "1: " CALL "movl $1, (%ebp); cmpl $0, 4(%ebp); je 1b\n"
	   "xor %eax, %eax; cpuid\n" CALL "mov %eax, %esi; out %al, $0x99");

static void code_written_by_ins_runs_on_another_vcpu(void **state)
{
	struct kvm_regs r;
	struct smp s;

	for (int round = 0; round < 20; round++) {
		open_guest(&s, 2);
		struct client w = smp_client(&s, 0), u = smp_client(&s, 1);

		client_flat_mode(&w, 0x1000, writer, GUEST_CODE_SIZE(writer));
		client_flat_mode(&u, 0x3000, runner, GUEST_CODE_SIZE(runner));
		smp_start(&s, 0, 2);
		smp_join(&s, 0, 2);
		assert_int_equal(s.cpu[0].reason, KVM_EXIT_IO);
		assert_int_equal(s.cpu[1].reason, KVM_EXIT_IO);
		r = client_regs(&u);
		assert_int_equal((uint32_t)r.rsi, 0x5a);
		smp_close(&s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(code_written_by_ins_runs),
		cmocka_unit_test(code_moved_from_a_device_runs),
		cmocka_unit_test(code_written_by_ins_runs_on_another_vcpu),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
