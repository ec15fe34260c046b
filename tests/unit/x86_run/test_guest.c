/*
 * Guests of a few instructions, from kvm_create_vm to KVM_RUN and back.
 */
#include "vm.h"

static int setup(void **state)
{
	static struct vm v;

	memset(&v, 0, sizeof(v));
	vm_create(&v, false);
	*state = &v;
	return 0;
}

static int teardown(void **state)
{
	vm_destroy(*state);
	return 0;
}

static uint8_t *pio_data(struct vm *v)
{
	return (uint8_t *)v->vcpu->run + v->vcpu->run->io.data_offset;
}

static void out_exits_with_port_and_data_and_hlt_follows(void **state)
{
	struct vm *v = *state;
	static const uint8_t code[] = {
		0xb0, 0x41,	  /* mov al, 'A' */
		0xba, 0xf8, 0x03, /* mov dx, 3f8h */
		0xee,		  /* out dx, al */
		0xf4,		  /* hlt */
	};

	vm_code(v, CODE, code, sizeof(code));
	vm_run(v, 0, KVM_EXIT_IO);
	assert_int_equal(v->vcpu->run->io.direction, KVM_EXIT_IO_OUT);
	assert_int_equal(v->vcpu->run->io.port, 0x3f8);
	assert_int_equal(v->vcpu->run->io.size, 1);
	assert_int_equal(v->vcpu->run->io.count, 1);
	assert_int_equal(*pio_data(v), 'A');
	assert_int_equal(vm_regs(v).rip, CODE + 5);
	vm_run(v, 0, KVM_EXIT_HLT);
	assert_int_equal(vm_regs(v).rip, CODE + 7);
}

static void in_takes_the_clients_byte_and_keeps_the_rest_of_eax(void **state)
{
	struct vm *v = *state;
	static const uint8_t code[] = {
		0x66, 0xb8, 0x78, 0x56, 0x34, 0x12, /* mov eax, 12345678h */
		0xe4, 0x60,			    /* in al, 60h */
		0xf4,
	};

	vm_code(v, CODE, code, sizeof(code));
	vm_run(v, 0, KVM_EXIT_IO);
	assert_int_equal(v->vcpu->run->io.direction, KVM_EXIT_IO_IN);
	assert_int_equal(v->vcpu->run->io.port, 0x60);
	*pio_data(v) = 0xab;
	vm_run(v, 0, KVM_EXIT_HLT);
	assert_int_equal(vm_regs(v).rax, 0x123456ab);
}

/* DS:0 at 10_0000h+10h.. is beyond the RAM when the base says so. */
static void set_ds_base(struct vm *v, uint64_t base)
{
	struct kvm_sregs s;

	assert_int_equal(kvm_vcpu_ioctl_get_sregs(v->vcpu, &s), 0);
	s.ds.base = base;
	assert_int_equal(kvm_vcpu_ioctl_set_sregs(v->vcpu, &s), 0);
}

static void mmio_write_exits_with_address_and_data(void **state)
{
	struct vm *v = *state;
	static const uint8_t code[] = {
		0xb8, 0x34, 0x12,	/* mov ax, 1234h */
		0xa3, 0x10, 0x00,	/* mov [10h], ax */
		0xf4,
	};

	vm_code(v, CODE, code, sizeof(code));
	set_ds_base(v, 0xd0000000);
	vm_run(v, 0, KVM_EXIT_MMIO);
	assert_int_equal(v->vcpu->run->mmio.phys_addr, 0xd0000010);
	assert_int_equal(v->vcpu->run->mmio.len, 2);
	assert_int_equal(v->vcpu->run->mmio.is_write, 1);
	assert_memory_equal(v->vcpu->run->mmio.data, "\x34\x12", 2);
	vm_run(v, 0, KVM_EXIT_HLT);
}

static void mmio_read_resumes_with_the_clients_data(void **state)
{
	struct vm *v = *state;
	static const uint8_t code[] = {
		0xb8, 0x01, 0x00,	/* mov ax, 1 */
		0x03, 0x06, 0x20, 0x00, /* add ax, [20h] */
		0xf4,
	};

	vm_code(v, CODE, code, sizeof(code));
	set_ds_base(v, 0xd0000000);
	for (int i = 0; i < 2; i++) {
		vm_run(v, 0, KVM_EXIT_MMIO);
		assert_int_equal(v->vcpu->run->mmio.phys_addr, 0xd0000020);
		assert_int_equal(v->vcpu->run->mmio.is_write, 0);
		assert_int_equal(v->vcpu->run->mmio.len, 2);
		memcpy(v->vcpu->run->mmio.data, "\x41\x00", 2);
		vm_run(v, 0, KVM_EXIT_HLT);
		assert_int_equal(vm_regs(v).rax, 0x42);
		/* the second time through the cached MMIO entry: reason 49, not 48 */
		vm_real_mode(v, CODE);
		set_ds_base(v, 0xd0000000);
	}
}

static void mmio_rmw_reads_once_and_then_writes(void **state)
{
	struct vm *v = *state;
	static const uint8_t code[] = {
		0x80, 0x0e, 0x20, 0x00, 0x80, /* or byte [20h], 80h */
		0xf4,
	};

	vm_code(v, CODE, code, sizeof(code));
	set_ds_base(v, 0xd0000000);
	vm_run(v, 0, KVM_EXIT_MMIO);
	assert_int_equal(v->vcpu->run->mmio.is_write, 0);
	v->vcpu->run->mmio.data[0] = 1;
	vm_run(v, 0, KVM_EXIT_MMIO);
	assert_int_equal(v->vcpu->run->mmio.is_write, 1);
	assert_int_equal(v->vcpu->run->mmio.data[0], 0x81);
	vm_run(v, 0, KVM_EXIT_HLT);
}

static void rep_movs_from_mmio_to_ram_reads_each_element_once_in_order(void **state)
{
	struct vm *v = *state;
	static const uint8_t code[] = {
		0xb9, 0x03, 0x00,	/* mov cx, 3 */
		0x31, 0xf6,		/* xor si, si */
		0xbf, 0x00, 0x40,	/* mov di, 4000h */
		0xf3, 0xa5,		/* rep movsw */
		0xf4,
	};

	vm_code(v, CODE, code, sizeof(code));
	set_ds_base(v, 0xd0000000);
	for (unsigned i = 0; i < 3; i++) {
		vm_run(v, 0, KVM_EXIT_MMIO);
		assert_int_equal(v->vcpu->run->mmio.phys_addr, 0xd0000000 + 2 * i);
		assert_int_equal(v->vcpu->run->mmio.len, 2);
		v->vcpu->run->mmio.data[0] = (uint8_t)(0x10 + i);
		v->vcpu->run->mmio.data[1] = 0x77;
	}
	vm_run(v, 0, KVM_EXIT_HLT);
	assert_memory_equal(v->ram + 0x4000, "\x10\x77\x11\x77\x12\x77", 6);
	assert_int_equal(vm_regs(v).rcx, 0);
	assert_int_equal(vm_regs(v).rsi, 6);
	assert_int_equal(vm_regs(v).rdi, 0x4006);
}

static void rep_stos_to_mmio_writes_each_element_once_in_order(void **state)
{
	struct vm *v = *state;
	struct kvm_sregs s;
	static const uint8_t code[] = {
		0xb0, 0x5a,	  /* mov al, 5ah */
		0xb9, 0x03, 0x00, /* mov cx, 3 */
		0x31, 0xff,	  /* xor di, di */
		0xf3, 0xaa,	  /* rep stosb */
		0xf4,
	};

	vm_code(v, CODE, code, sizeof(code));
	assert_int_equal(kvm_vcpu_ioctl_get_sregs(v->vcpu, &s), 0);
	s.es.base = 0xd0000000;
	assert_int_equal(kvm_vcpu_ioctl_set_sregs(v->vcpu, &s), 0);
	for (unsigned i = 0; i < 3; i++) {
		vm_run(v, 0, KVM_EXIT_MMIO);
		assert_int_equal(v->vcpu->run->mmio.phys_addr, 0xd0000000 + i);
		assert_int_equal(v->vcpu->run->mmio.len, 1);
		assert_int_equal(v->vcpu->run->mmio.is_write, 1);
		assert_int_equal(v->vcpu->run->mmio.data[0], 0x5a);
	}
	vm_run(v, 0, KVM_EXIT_HLT);
	assert_int_equal(vm_regs(v).rcx, 0);
	assert_int_equal(vm_regs(v).rdi, 3);
}

static void rep_insw_is_one_exit_and_fills_memory(void **state)
{
	struct vm *v = *state;
	static const uint8_t code[] = {
		0xba, 0xf0, 0x01, /* mov dx, 1f0h */
		0xb9, 0x04, 0x00, /* mov cx, 4 */
		0xbf, 0x00, 0x40, /* mov di, 4000h */
		0xf3, 0x6d,	  /* rep insw */
		0xf4,
	};

	vm_code(v, CODE, code, sizeof(code));
	vm_run(v, 0, KVM_EXIT_IO);
	assert_int_equal(v->vcpu->run->io.count, 4);
	assert_int_equal(v->vcpu->run->io.size, 2);
	assert_int_equal(v->vcpu->run->io.direction, KVM_EXIT_IO_IN);
	memcpy(pio_data(v), "abcdefgh", 8);
	vm_run(v, 0, KVM_EXIT_HLT);
	assert_memory_equal(v->ram + 0x4000, "abcdefgh", 8);
	assert_int_equal(vm_regs(v).rcx, 0);
	assert_int_equal(vm_regs(v).rdi, 0x4008);
}

static void rep_outsb_is_one_exit_with_all_bytes(void **state)
{
	struct vm *v = *state;
	static const uint8_t code[] = {
		0xba, 0x02, 0x04, /* mov dx, 402h */
		0xb9, 0x05, 0x00, /* mov cx, 5 */
		0xbe, 0x00, 0x40, /* mov si, 4000h */
		0xf3, 0x6e,	  /* rep outsb */
		0xf4,
	};

	vm_code(v, CODE, code, sizeof(code));
	memcpy(v->ram + 0x4000, "hello", 5);
	vm_run(v, 0, KVM_EXIT_IO);
	assert_int_equal(v->vcpu->run->io.count, 5);
	assert_int_equal(v->vcpu->run->io.direction, KVM_EXIT_IO_OUT);
	assert_memory_equal(pio_data(v), "hello", 5);
	vm_run(v, 0, KVM_EXIT_HLT);
	assert_int_equal(vm_regs(v).rsi, 0x4005);
}

static void code_outside_memory_is_an_emulation_failure(void **state)
{
	struct vm *v = *state;
	struct kvm_sregs s;

	assert_int_equal(kvm_vcpu_ioctl_get_sregs(v->vcpu, &s), 0);
	s.cs.base = 0xd0000000;
	assert_int_equal(kvm_vcpu_ioctl_set_sregs(v->vcpu, &s), 0);
	vm_run(v, 0, KVM_EXIT_INTERNAL_ERROR);
	assert_int_equal(v->vcpu->run->internal.suberror, KVM_INTERNAL_ERROR_EMULATION);
}

static void interrupt_is_delivered_through_the_real_mode_table(void **state)
{
	struct vm *v = *state;
	struct kvm_interrupt irq = { .irq = 0x21 };
	static const uint8_t code[] = { 0xfb, 0x90, 0xeb, 0xfe }; /* sti; nop; jmp $ */
	static const uint8_t handler[] = { 0xb0, 0x33, 0xe6, 0x80, 0xcf }; /* mov al,33h; out 80h; iret */

	vm_code(v, CODE, code, sizeof(code));
	vm_code(v, 0x3000, handler, sizeof(handler));
	memcpy(v->ram + 0x21 * 4, "\x00\x30\x00\x00", 4);
	v->vcpu->run->request_interrupt_window = 1;
	vm_run(v, 0, KVM_EXIT_IRQ_WINDOW_OPEN);
	assert_int_equal(v->vcpu->run->if_flag, 1);
	assert_int_equal(v->vcpu->run->ready_for_interrupt_injection, 1);
	v->vcpu->run->request_interrupt_window = 0;
	assert_int_equal(kvm_vcpu_ioctl_interrupt(v->vcpu, &irq), 0);
	vm_run(v, 0, KVM_EXIT_IO);
	assert_int_equal(v->vcpu->run->io.port, 0x80);
	assert_int_equal(*pio_data(v), 0x33);
}

static void nmi_is_delivered_once_and_masks_the_next_until_iret(void **state)
{
	struct vm *v = *state;
	static const uint8_t code[] = { 0x90, 0xf4 };
	static const uint8_t handler[] = { 0xe6, 0x80, 0xcf };

	vm_code(v, CODE, code, sizeof(code));
	vm_code(v, 0x3000, handler, sizeof(handler));
	memcpy(v->ram + 2 * 4, "\x00\x30\x00\x00", 4);
	kvm_inject_nmi(v->vcpu);
	kvm_inject_nmi(v->vcpu);
	vm_run(v, 0, KVM_EXIT_IO);
	assert_true(vmx_get_nmi_mask(v->vcpu));
	vm_run(v, 0, KVM_EXIT_IO); /* the second, after the IRET of the first */
	vm_run(v, 0, KVM_EXIT_HLT);
	assert_false(vmx_get_nmi_mask(v->vcpu));
}

static void triple_fault_is_a_shutdown(void **state)
{
	struct vm *v = *state;
	struct kvm_sregs s;
	static const uint8_t code[] = { 0xcc };

	vm_code(v, CODE, code, sizeof(code));
	assert_int_equal(kvm_vcpu_ioctl_get_sregs(v->vcpu, &s), 0);
	s.idt.limit = 0;
	assert_int_equal(kvm_vcpu_ioctl_set_sregs(v->vcpu, &s), 0);
	vm_run(v, 0, KVM_EXIT_SHUTDOWN);
}

static void immediate_exit_is_eintr_before_the_first_instruction(void **state)
{
	struct vm *v = *state;

	v->vcpu->run->immediate_exit = 1;
	assert_int_equal(kvm_arch_vcpu_ioctl_run(v->vcpu), -EINTR);
	assert_int_equal(vm_regs(v).rip, CODE);
}

/* cmocka puts its own handler in the place of the library's for each test. */
static struct sigaction fault_action;

static void unmapped_client_memory_is_efault(void **state)
{
	struct vm *v = *state;
	struct sigaction cmockas;
	static const uint8_t code[] = { 0xa0, 0x00, 0x90, 0xf4 }; /* mov al, [9000h] */

	vm_code(v, CODE, code, sizeof(code));
	assert_int_equal(munmap(v->ram + 0x9000, 4096), 0);
	sigaction(SIGSEGV, &fault_action, &cmockas);
	assert_int_equal(kvm_arch_vcpu_ioctl_run(v->vcpu), -EFAULT);
	sigaction(SIGSEGV, &cmockas, NULL);
	assert_int_equal(vm_regs(v).rip, CODE);
}

/* The leaf that maps gpa in our own tables. */
static uint64_t *leaf_of(struct vm *v, gpa_t gpa)
{
	hpa_t table = v->vcpu->mmu->root_hpa;

	for (int level = v->vcpu->mmu->root_level;; level--) {
		uint64_t *e = (uint64_t *)(uintptr_t)(table & GENMASK_ULL(51, 12)) + (gpa >> (12 + 9 * (level - 1)) & 511);

		if (level == 1 || *e & BIT_ULL(7))
			return e;
		table = *e;
	}
}

/* An entry of our own that leads out of the guest's memory: the VM stops and says so, the client goes on. */
static void a_fault_outside_all_slots_stops_the_vm(void **state)
{
	struct vm *v = *state;
	struct sigaction cmockas;
	static const uint8_t code[] = { 0xe6, 0x10, 0xeb, 0xfc }; /* out 10h, al; again */
	char *hole = mmap(NULL, 4 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t *leaf;

	vm_code(v, CODE, code, sizeof(code));
	vm_run(v, 0, KVM_EXIT_IO);
	leaf = leaf_of(v, CODE);
	*leaf = (*leaf & ~GENMASK_ULL(51, 12)) | ALIGN_UP((uintptr_t)hole, 2UL << 20);
	vmx_flush_tlb_current(v->vcpu);
	sigaction(SIGSEGV, &fault_action, &cmockas);
	assert_int_equal(kvm_arch_vcpu_ioctl_run(v->vcpu), -EIO);
	sigaction(SIGSEGV, &cmockas, NULL);
	assert_true(v->kvm->dead);
	munmap(hole, 4 << 20);
}

static void single_step_stops_after_each_instruction(void **state)
{
	struct vm *v = *state;
	struct kvm_guest_debug d = { .control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP };
	static const uint8_t code[] = { 0x90, 0x0f, 0xa2, 0x90, 0xf4 }; /* nop; cpuid; nop */

	vm_code(v, CODE, code, sizeof(code));
	assert_int_equal(kvm_vcpu_ioctl_set_guest_debug(v->vcpu, &d), 0);
	vm_run(v, 0, KVM_EXIT_DEBUG);
	assert_int_equal(v->vcpu->run->debug.arch.pc, CODE + 1);
	vm_run(v, 0, KVM_EXIT_DEBUG);
	assert_int_equal(v->vcpu->run->debug.arch.pc, CODE + 3);
	vm_run(v, 0, KVM_EXIT_DEBUG);
	assert_int_equal(v->vcpu->run->debug.arch.pc, CODE + 4);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(out_exits_with_port_and_data_and_hlt_follows),
		T(in_takes_the_clients_byte_and_keeps_the_rest_of_eax),
		T(mmio_write_exits_with_address_and_data),
		T(mmio_read_resumes_with_the_clients_data),
		T(mmio_rmw_reads_once_and_then_writes),
		T(rep_movs_from_mmio_to_ram_reads_each_element_once_in_order),
		T(rep_stos_to_mmio_writes_each_element_once_in_order),
		T(rep_insw_is_one_exit_and_fills_memory),
		T(rep_outsb_is_one_exit_with_all_bytes),
		T(code_outside_memory_is_an_emulation_failure),
		T(interrupt_is_delivered_through_the_real_mode_table),
		T(nmi_is_delivered_once_and_masks_the_next_until_iret),
		T(triple_fault_is_a_shutdown),
		T(immediate_exit_is_eintr_before_the_first_instruction),
		T(unmapped_client_memory_is_efault),
		T(a_fault_outside_all_slots_stops_the_vm),
		T(single_step_stops_after_each_instruction),
	};
	struct vm first;

	/* the first VM installs the fault handlers */
	vm_create(&first, false);
	sigaction(SIGSEGV, NULL, &fault_action);
	vm_destroy(&first);

	return cmocka_run_group_tests(tests, NULL, NULL);
}
