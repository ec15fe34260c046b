/*
 * What a client's author is told on standard error though logging is off: a
 * refused memory region, a run that ends in KVM_EXIT_INTERNAL_ERROR, a triple fault, and a
 * fault that the client does not repair.
 */
#include "said.h"

static void overlapping_slot(struct client *c)
{
	struct kvm_userspace_memory_region r = {
		.slot = 1, .guest_phys_addr = 0x1000, .memory_size = 0x1000, .userspace_addr = (uintptr_t)c->mem,
	};

	assert_int_equal(ioctl(c->vm, KVM_SET_USER_MEMORY_REGION, &r), -1);
	assert_int_equal(errno, EEXIST);
}

static void run(struct client *c)
{
	assert_int_equal(ioctl(c->vcpu, KVM_RUN, 0), 0);
	assert_int_equal(c->run->exit_reason, KVM_EXIT_INTERNAL_ERROR);
}

static void refused_memory_region_says_why(void **state)
{
	struct client c;
	const char *text;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	text = said(overlapping_slot, &c);
	assert_non_null(strstr(text, "memory region: slot 0x1 overlaps another: File exists\n"));
	assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
	client_close(&c);
}

static void internal_error_says_where(void **state)
{
	struct client c;
	const char *text;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	client_flat_mode(&c, 0x1000, "\xb8\0\0\0\x40\xff\xe0", 7); /* mov $0x40000000, %eax; jmp *%eax: nothing is there */
	text = said(run, &c);
	assert_non_null(strstr(text, "KVM_EXIT_INTERNAL_ERROR: vCPU 0"));
	assert_non_null(strstr(text, "rip 0x40000000"));
	client_close(&c);
}

static void run_to_shutdown(struct client *c)
{
	assert_int_equal(ioctl(c->vcpu, KVM_RUN, 0), 0);
	assert_int_equal(c->run->exit_reason, KVM_EXIT_SHUTDOWN);
}

/* The IDT's limit is 0: #UD, then #GP, then #DF cannot be delivered. */
static void triple_fault_tells_the_chain_of_exceptions(void **state)
{
	struct kvm_sregs s;
	struct client c;
	const char *text;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	client_flat_mode(&c, 0x1000, "\x90\x0f\x0b", 3); /* nop; ud2 */
	assert_int_equal(ioctl(c.vcpu, KVM_GET_SREGS, &s), 0);
	s.idt.base = 0x3000;
	s.idt.limit = 0;
	assert_int_equal(ioctl(c.vcpu, KVM_SET_SREGS, &s), 0);
	text = said(run_to_shutdown, &c);
	assert_non_null(strstr(text, "vCPU 0: triple fault at rip 0x1001 (ud2), CPL 0: #UD; "
				     "#GP (error code 0x33: IDT entry 6) delivering #UD; "));
	assert_non_null(strstr(text, "#GP (error code 0x6b: IDT entry 13) delivering #GP, so #DF; "
				     "#GP (error code 0x43: IDT entry 8) delivering #DF. IDT 0x3000 limit 0,"));
	client_close(&c);
}

static void run_into_the_hole(struct client *c)
{
	for (int i = 0; i < 200; i++) {
		assert_int_equal(ioctl(c->vcpu, KVM_RUN, 0), -1);
		assert_int_equal(errno, EFAULT);
	}
}

static void a_fault_that_the_client_does_not_repair_is_told_once(void **state)
{
	struct client c;
	const char *text, *line;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	client_flat_mode(&c, 0x1000, "\xa3\x10\x50\0\0", 5); /* mov %eax, 0x5010 */
	munmap(c.mem + 0x5000, 0x1000);
	text = said(run_into_the_hole, &c);
	line = strstr(text, "the same EPT violation for the 64th time without progress: write to gpa 0x5010 at rip 0x1000 (mov ");
	assert_non_null(line);
	assert_non_null(strstr(line, "your handler of KVM_RUN's EFAULT does not repair it: memslot 0 has host-virtual"));
	assert_null(strstr(strchr(line, '\n'), "without progress"));
	client_close(&c);
}

/* The client takes the instruction over: RIP moves, so each fault is another one. */
static void emulate_each(struct client *c)
{
	struct kvm_regs r;

	for (int i = 0; i < 200; i++) {
		assert_int_equal(ioctl(c->vcpu, KVM_RUN, 0), -1);
		r = client_regs(c);
		assert_int_equal(r.rip, 0x1000);
		r.rip = 0x1005; /* jmp back */
		assert_int_equal(ioctl(c->vcpu, KVM_SET_REGS, &r), 0);
	}
}

static void a_client_that_emulates_is_told_nothing(void **state)
{
	struct client c;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	client_flat_mode(&c, 0x1000, "\xa3\x10\x50\0\0\xeb\xf9", 7); /* 1: mov %eax, 0x5010; jmp 1b */
	munmap(c.mem + 0x5000, 0x1000);
	assert_null(strstr(said(emulate_each, &c), "without progress"));
	client_close(&c);
}

static void overlap_often(struct client *c)
{
	for (int i = 0; i < 100; i++)
		overlapping_slot(c);
}

static void one_that_tries_on_purpose_is_not_drowned(void **state)
{
	struct client c;
	const char *text;
	int lines = 0;

	client_open_vm(&c, 1 << 20);
	client_add_vcpu(&c);
	text = said(overlap_often, &c);
	for (const char *p = text; (p = strchr(p, '\n')); p++)
		lines++;
	assert_in_range(lines, 1, 17);
	assert_non_null(strstr(text, "USERKVM_LOG=errors"));
	client_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(refused_memory_region_says_why),
		cmocka_unit_test(internal_error_says_where),
		cmocka_unit_test(triple_fault_tells_the_chain_of_exceptions),
		cmocka_unit_test(a_fault_that_the_client_does_not_repair_is_told_once),
		cmocka_unit_test(a_client_that_emulates_is_told_nothing),
		cmocka_unit_test(one_that_tries_on_purpose_is_not_drowned),
	};

	if (!getenv("LD_PRELOAD"))
		return 77; /* a kernel's KVM tells nothing */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
