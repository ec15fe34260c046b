/*
 * Several vCPUs and their local APICs: start-up by INIT and SIPI, IPIs from
 * everyone to everyone, HLT ended by an IPI, NMIs.
 *
 * The guests run in flat 32-bit mode, so that the APIC page is in reach:
 *   600h + 4*i   interrupts vCPU i has taken (NMIs: 680h + 4*i)
 *   700h         vCPUs that have arrived
 *   10000h       the IDT, of 32-bit interrupt gates
 */
#include "smp_flat.h"

#define CPUS 4
#define ROUNDS 200
#define VECTOR 0x40

/* Count at 600h + 4 * EBP (the vCPU's number), EOI. */
GUEST(on_ipi, "code32", "lock; incl 0x600(,%ebp,4)\n movl $0, 0xfee000b0\n iret");
/* From vCPU n, vector 40h + n. */
#define FROM(n)                                                                     \
	GUEST(from_##n, "code32", "push %eax\n lea 16*" #n "(,%ebp,4), %eax\n"        \
				  "lock; incl 0x800(%eax)\n lock; incl 0x600(,%ebp,4)\n" \
				  "movl $0, 0xfee000b0\n pop %eax\n iret")
FROM(0); FROM(1); FROM(2); FROM(3);
GUEST(on_nmi, "code32", "lock; incl 0x680(,%ebp,4)\n iret");

static void open_guest(struct smp *s, const uint8_t *code, size_t n)
{
	smp_open(s, CPUS, 1 << 20, true);
	flat_gate(s, VECTOR, 0x3000);
	flat_gate(s, 2, 0x3100);
	memcpy(s->c.mem + 0x3000, guest_on_ipi, GUEST_SIZE(on_ipi));
	memcpy(s->c.mem + 0x3100, guest_on_nmi, GUEST_SIZE(on_nmi));
	flat_cpus(s, code, n);
}

/* --- INIT, SIPI --- */

/* All but self: INIT, SIPI to 8000h; wait for three, report. */
GUEST(bsp, "code32", "movl $0x1ff, 0xfee000f0\n"
		     "movl $0xc4500, 0xfee00300\n"
		     "movl $0xc4608, 0xfee00300\n"
		     "1: pause\n cmpl $3, 0x700\n jne 1b\n out %al, $0x99");
GUEST(ap, "code16", "lock; incl 0x700\n mov %cs, %ax\n mov %ax, %ds\n lock; incl 0x100\n 1: hlt\n jmp 1b");

static void init_and_sipi_start_the_other_vcpus(void **state)
{
	struct kvm_mp_state mp;
	struct kvm_sregs x;
	struct smp s;

	smp_open(&s, CPUS, 1 << 20, true);
	for (int i = 1; i < CPUS; i++) {
		assert_int_equal(ioctl(s.cpu[i].fd, KVM_GET_MP_STATE, &mp), 0);
		assert_int_equal(mp.mp_state, KVM_MP_STATE_UNINITIALIZED);
	}
	guest_flat(&s, 0, 0x1000, bsp);
	memcpy(s.c.mem + 0x8000, guest_ap, GUEST_SIZE(ap));
	smp_start(&s, 0, CPUS);
	smp_join(&s, 0, 1);
	assert_int_equal(s.cpu[0].reason, KVM_EXIT_IO);
	usleep(20000);
	smp_stop(&s, 1, CPUS);
	for (int i = 1; i < CPUS; i++) {
		assert_int_equal(ioctl(s.cpu[i].fd, KVM_GET_SREGS, &x), 0);
		assert_int_equal(x.cs.selector, 0x800);
		assert_int_equal(x.cs.base, 0x8000);
		assert_int_equal(x.apic_base & 0x100, 0);
		assert_int_equal(ioctl(s.cpu[i].fd, KVM_GET_MP_STATE, &mp), 0);
		assert_int_equal(mp.mp_state, KVM_MP_STATE_HALTED);
	}
	assert_int_equal(smp_load32(&s, 0x700), 3);
	assert_int_equal(smp_load32(&s, 0x8100), 3);
	smp_close(&s);
}

static void the_boot_vcpu_is_the_clients_choice(void **state)
{
	struct kvm_mp_state mp;
	struct kvm_sregs x;
	struct smp s;

	smp_open(&s, 0, 1 << 20, true);
	if (ioctl(s.c.kvm, KVM_CHECK_EXTENSION, KVM_CAP_SET_BOOT_CPU_ID) != 1)
		skip();
	assert_int_equal(ioctl(s.c.vm, KVM_SET_BOOT_CPU_ID, 1), 0);
	smp_add_cpu(&s);
	smp_add_cpu(&s);
	assert_fails(ioctl(s.c.vm, KVM_SET_BOOT_CPU_ID, 0), EBUSY);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(ioctl(s.cpu[i].fd, KVM_GET_SREGS, &x), 0);
		assert_int_equal((x.apic_base >> 8) & 1, i == 1);
		assert_int_equal(ioctl(s.cpu[i].fd, KVM_GET_MP_STATE, &mp), 0);
		assert_int_equal(mp.mp_state, i == 1 ? KVM_MP_STATE_RUNNABLE : KVM_MP_STATE_UNINITIALIZED);
	}
	smp_close(&s);
}

/* --- fixed IPIs --- */

/*
 * Everyone: enable the APIC, meet; then 200 times: an IPI of its own vector to
 * each other one, and wait until that has been taken.
 *   ebp own number, esi round, edi destination; 800h + 4 * (dest + 4 * source): taken
 */
GUEST(matrix, "code32", "movl $0x1ff, 0xfee000f0\n lock; incl 0x700\n"
			"1: pause\n cmpl $4, 0x700\n jne 1b\n"
			"mov $1, %esi\n"
			"2: xor %edi, %edi\n"
			"3: cmp %ebp, %edi\n je 5f\n"
			"mov %edi, %eax\n shl $24, %eax\n mov %eax, 0xfee00310\n"
			"lea 0x4040(%ebp), %eax\n mov %eax, 0xfee00300\n"
			/* wait until it was taken, taking those of others */
			"lea (%edi,%ebp,4), %eax\n"
			"4: sti\n pause\n pause\n cli\n cmp %esi, 0x800(,%eax,4)\n jb 4b\n"
			"5: inc %edi\n cmp $4, %edi\n jne 3b\n"
			"inc %esi\n cmp $201, %esi\n jne 2b\n"
			"lock; incl 0x704\n"
			"6: sti\n pause\n pause\n cli\n cmpl $4, 0x704\n jne 6b\n"
			"out %al, $0x99");

static void ipis_from_everyone_to_everyone_arrive(void **state)
{
	uint64_t begun = smp_now_ms();
	struct smp s;

	open_guest(&s, guest_matrix, GUEST_SIZE(matrix));
#define HANDLER(n)                                                                      \
	memcpy(s.c.mem + 0x3200 + n * 0x80, guest_from_##n, GUEST_SIZE(from_##n));      \
	flat_gate(&s, VECTOR + n, 0x3200 + n * 0x80)
	HANDLER(0);
	HANDLER(1);
	HANDLER(2);
	HANDLER(3);
	smp_start(&s, 0, CPUS);
	smp_join(&s, 0, CPUS);
	for (int i = 0; i < CPUS; i++) {
		assert_int_equal(s.cpu[i].reason, KVM_EXIT_IO);
		assert_int_equal(smp_load32(&s, 0x600 + 4 * (uint64_t)i), (CPUS - 1) * ROUNDS);
	}
	print_message("# 2400 IPIs in %lu ms\n", (unsigned long)(smp_now_ms() - begun));
	smp_close(&s);
}

/*
 * vCPU 0 and 1 in turn: an IPI to the other, then HLT until its answer: nothing
 * may be lost, or both sleep for ever.
 */
GUEST(ping, "code32", "movl $0x1ff, 0xfee000f0\n lock; incl 0x700\n"
		      "1: pause\n cmpl $2, 0x700\n jne 1b\n"
		      "mov %ebp, %edi\n xor $1, %edi\n shl $24, %edi\n mov $1, %esi\n"
		      "test %ebp, %ebp\n jnz 3f\n"
		      "2: mov %edi, 0xfee00310\n movl $0x4040, 0xfee00300\n"
		      "cmp $1001, %esi\n je 5f\n"
		      "3: cli\n cmp %esi, 0x600(,%ebp,4)\n jae 4f\n sti\n hlt\n jmp 3b\n"
		      "4: inc %esi\n cmp $1001, %esi\n jne 2b\n test %ebp, %ebp\n jnz 2b\n"
		      "5: out %al, $0x99");

static void an_ipi_ends_hlt_every_time(void **state)
{
	uint64_t begun = smp_now_ms(), took;
	struct smp s;

	open_guest(&s, guest_ping, GUEST_SIZE(ping));
	smp_start(&s, 0, 2);
	smp_join(&s, 0, 2);
	took = smp_now_ms() - begun;
	assert_int_equal(s.cpu[0].reason, KVM_EXIT_IO);
	assert_int_equal(s.cpu[1].reason, KVM_EXIT_IO);
	assert_int_equal(smp_load32(&s, 0x600), 1000);
	assert_int_equal(smp_load32(&s, 0x604), 1000);
	print_message("# 2000 wake-ups by IPI in %lu ms\n", (unsigned long)took);
	smp_close(&s);
}

/* --- paravirtual IPIs and kicks --- */

/* vCPU 0: KVM_HC_SEND_IPI to ids 1..3, wait until all took it, 200 times; the others sleep in HLT. */
GUEST(pv_ipi, "code32", "movl $0x1ff, 0xfee000f0\n lock; incl 0x700\n"
			"1: pause\n cmpl $4, 0x700\n jne 1b\n"
			"test %ebp, %ebp\n jnz 5f\n"
			"xor %edi, %edi\n"
			"2: inc %edi\n"
			"mov $10, %eax\n mov $7, %ebx\n xor %ecx, %ecx\n mov $1, %edx\n mov $0x40, %esi\n vmcall\n"
			"cmp $3, %eax\n jne 9f\n"
			"3: pause\n cmp %edi, 0x604\n jne 3b\n cmp %edi, 0x608\n jne 3b\n cmp %edi, 0x60c\n jne 3b\n"
			"cmp $200, %edi\n jne 2b\n"
			/* a wrong delivery mode: -EINVAL */
			"mov $10, %eax\n mov $7, %ebx\n mov $0x540, %esi\n vmcall\n cmp $-22, %eax\n jne 9f\n"
			"out %al, $0x99\n"
			"5: cli\n cmpl $200, 0x600(,%ebp,4)\n je 6f\n sti\n hlt\n jmp 5b\n"
			"6: out %al, $0x99\n"
			"9: out %al, $0x98");

static void a_hypercall_sends_ipis_to_a_bitmap(void **state)
{
	struct smp s;

	open_guest(&s, guest_pv_ipi, GUEST_SIZE(pv_ipi));
	smp_start(&s, 0, CPUS);
	smp_join(&s, 0, CPUS);
	for (int i = 0; i < CPUS; i++) {
		assert_int_equal(s.cpu[i].reason, KVM_EXIT_IO);
		assert_int_equal(s.cpu[i].run->io.port, 0x99);
		assert_int_equal(smp_load32(&s, 0x600 + 4 * (uint64_t)i), i ? ROUNDS : 0);
	}
	smp_close(&s);
}

/*
 * KVM_HC_KICK_CPU: the other one's HLT ends, although its interrupts are off. Each
 * kicks the other when it has raised the count to its parity.
 */
GUEST(kick, "code32", "mov %ebp, %ecx\n xor $1, %ecx\n xor %ebx, %ebx\n"
		      "1: mov 0x700, %eax\n cmp $1000, %eax\n jae 3f\n and $1, %eax\n cmp %ebp, %eax\n je 2f\n"
		      "hlt\n jmp 1b\n"
		      "2: incl 0x700\n mov $5, %eax\n vmcall\n test %eax, %eax\n jnz 4f\n jmp 1b\n"
		      "3: mov $5, %eax\n vmcall\n out %al, $0x99\n"
		      "4: out %al, $0x98");

static void a_kick_ends_hlt_with_interrupts_off(void **state)
{
	struct smp s;

	open_guest(&s, guest_kick, GUEST_SIZE(kick));
	smp_start(&s, 0, 2);
	smp_join(&s, 0, 2);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(s.cpu[i].reason, KVM_EXIT_IO);
		assert_int_equal(s.cpu[i].run->io.port, 0x99);
	}
	assert_int_equal(smp_load32(&s, 0x700), 1000);
	smp_close(&s);
}

/* --- NMI --- */

/* vCPU 0 sends NMIs to all others, one after the other; they spin with interrupts off. */
GUEST(nmi, "code32", "movl $0x1ff, 0xfee000f0\n lock; incl 0x700\n"
		     "1: pause\n cmpl $4, 0x700\n jne 1b\n"
		     "test %ebp, %ebp\n jnz 5f\n"
		     "mov $1, %esi\n"
		     "2: movl $0xc4400, 0xfee00300\n mov $1, %edi\n"
		     "3: pause\n cmp %esi, 0x680(,%edi,4)\n jne 3b\n inc %edi\n cmp $4, %edi\n jne 3b\n"
		     "inc %esi\n cmp $201, %esi\n jne 2b\n out %al, $0x99\n"
		     "5: pause\n cmpl $200, 0x680(,%ebp,4)\n jb 5b\n out %al, $0x99");

static void nmis_reach_vcpus_with_interrupts_off(void **state)
{
	struct smp s;

	open_guest(&s, guest_nmi, GUEST_SIZE(nmi));
	smp_start(&s, 0, CPUS);
	smp_join(&s, 0, CPUS);
	for (int i = 0; i < CPUS; i++) {
		assert_int_equal(s.cpu[i].reason, KVM_EXIT_IO);
		assert_int_equal(smp_load32(&s, 0x680 + 4 * (uint64_t)i), i ? ROUNDS : 0);
	}
	smp_close(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(init_and_sipi_start_the_other_vcpus),
		cmocka_unit_test(the_boot_vcpu_is_the_clients_choice),
		cmocka_unit_test(ipis_from_everyone_to_everyone_arrive),
		cmocka_unit_test(an_ipi_ends_hlt_every_time),
		cmocka_unit_test(a_hypercall_sends_ipis_to_a_bitmap),
		cmocka_unit_test(a_kick_ends_hlt_with_interrupts_off),
		cmocka_unit_test(nmis_reach_vcpus_with_interrupts_off),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
