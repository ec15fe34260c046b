/*
 * What the vmx room writes into the VMCS, seen from the processor's side.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "fake_processor.h"
#include "mmu/mmu.h"
#include "sdm/ept.h"
#include "vmx/internal.h"

static struct kvm kvm;
static struct kvm_run run;
static struct kvm_vcpu vcpu;
static struct kvm_mmu mmu;

/* what the services were asked for last */
static struct {
	unsigned nr_exceptions, nr_requeued, nr_requeued_irqs, nr_nmis, nr_cpuid;
	uint8_t vector;
	uint32_t error_code;
} seen;

static void queue(struct kvm_vcpu *v, uint8_t vector, bool has, uint32_t err, bool p, uint64_t payload)
{
	seen.nr_exceptions++;
	seen.vector = vector;
}

static void requeue_exception(struct kvm_vcpu *v, uint8_t vector, bool has, uint32_t err)
{
	seen.nr_requeued++;
	seen.vector = vector;
	seen.error_code = has ? err : 0;
}

static void requeue_interrupt(struct kvm_vcpu *v, uint8_t vector, bool soft)
{
	seen.nr_requeued_irqs++;
	seen.vector = vector;
}

static void requeue_nmi(struct kvm_vcpu *v) { seen.nr_nmis++; }
static int cpuid(struct kvm_vcpu *v) { seen.nr_cpuid++; return 1; }

static void no_text(struct kvm_vcpu *v, char *buf, size_t size) { *buf = 0; }
static const struct vmx_services services = {
	.insn_text = no_text,
	.queue_exception = queue,
	.requeue_exception = requeue_exception,
	.requeue_interrupt = requeue_interrupt,
	.requeue_nmi = requeue_nmi,
	.emulate_cpuid = cpuid,
};

static int setup(void **state)
{
	struct vmx_machine *m;

	memset(&fake, 0, sizeof(fake));
	memset(&seen, 0, sizeof(seen));
	memset(&vcpu, 0, sizeof(vcpu));
	vcpu.kvm = &kvm;
	vcpu.run = &run;
	mmu.eptp_ad = kvm_mmu_params()->eptad;
	mmu.root_hpa = INVALID_PAGE;
	vcpu.mmu = &mmu;
	vmx_register_services(&services);
	assert_int_equal(vmx_machine_create(&m), 0);
	assert_int_equal(vmx_create_vcpu(&vcpu, m), 0);
	vmx_vcpu_reset(&vcpu, false);
	return 0;
}

static int teardown(void **state)
{
	vmx_free_vcpu(&vcpu);
	return 0;
}

static void vpids_differ_and_are_used_again(void **state)
{
	static struct kvm_vcpu other;
	uint16_t first;

	memset(&other, 0, sizeof(other));
	other.kvm = &kvm;
	assert_int_not_equal(vcpu.vmx->vpid, 0);
	assert_int_equal(vmx_create_vcpu(&other, NULL), 0);
	first = other.vmx->vpid;
	assert_int_not_equal(first, vcpu.vmx->vpid);
	vmx_free_vcpu(&other);
	assert_int_equal(vmx_create_vcpu(&other, NULL), 0);
	assert_int_equal(other.vmx->vpid, first);
	vmx_free_vcpu(&other);
}

static void controls_are_what_ept_and_unrestricted_guest_need(void **state)
{
	uint64_t primary = fake.field[CPU_BASED_VM_EXEC_CONTROL];
	uint64_t secondary = fake.field[SECONDARY_VM_EXEC_CONTROL];

	assert_true(secondary & SECONDARY_EXEC_ENABLE_EPT);
	assert_true(secondary & SECONDARY_EXEC_UNRESTRICTED_GUEST);
	assert_true(secondary & SECONDARY_EXEC_ENABLE_VPID);
	/* the guest's paging is its own business */
	assert_false(primary & (CPU_BASED_CR3_LOAD_EXITING | CPU_BASED_CR3_STORE_EXITING |
				CPU_BASED_INVLPG_EXITING));
	assert_true(primary & CPU_BASED_HLT_EXITING);
	assert_true(primary & CPU_BASED_UNCOND_IO_EXITING);
	assert_false(primary & (CPU_BASED_INTR_WINDOW_EXITING | CPU_BASED_NMI_WINDOW_EXITING));
	assert_false(fake.field[EXCEPTION_BITMAP] & BIT_ULL(X86_TRAP_PF));
}

static void reset_starts_at_the_reset_vector_in_real_mode(void **state)
{
	assert_int_equal(fake.field[GUEST_CS_SELECTOR], 0xf000);
	assert_int_equal(fake.field[GUEST_CS_BASE], 0xffff0000);
	assert_int_equal(fake.field[GUEST_CS_AR_BYTES], 0x9b);
	assert_int_equal(fake.field[GUEST_DS_AR_BYTES], 0x93);
	assert_int_equal(fake.field[GUEST_TR_AR_BYTES], 0x8b);
	assert_int_equal(fake.field[GUEST_LDTR_AR_BYTES], 0x82);
	assert_int_equal(fake.field[GUEST_DR7], 0x400);
}

static void eptp_is_write_back_with_walk_length_and_root(void **state)
{
	uint64_t eptp = construct_eptp(&vcpu, 0x7f0123456000, 4);

	assert_int_equal(FIELD_GET(EPTP_MEMTYPE_MASK, eptp), MT_WRBACK);
	assert_int_equal(FIELD_GET(EPTP_WALK_MASK, eptp), 3);
	assert_int_equal(!!(eptp & EPTP_AD_ENABLE), kvm_mmu_params()->eptad);
	assert_int_equal(eptp & EPTP_ROOT_MASK, 0x7f0123456000);
	assert_int_equal(FIELD_GET(EPTP_WALK_MASK, construct_eptp(&vcpu, 0x1000, 5)), 4);
}

static void set_cr3_writes_guest_cr3_only_when_it_is_stale(void **state)
{
	fake.field[GUEST_CR3] = 0x1111000; /* the guest's own MOV to CR3 */
	vmx_set_cr3(&vcpu, 0x7f0000001000, 4);
	assert_int_equal(fake.field[GUEST_CR3], 0x1111000);
	assert_int_equal(fake.field[EPT_POINTER] & EPTP_ROOT_MASK, 0x7f0000001000);
	vmx_set_guest_cr3(&vcpu, 0x2222000);
	assert_int_equal(vmx_get_cr3(&vcpu), 0x2222000);
	assert_int_equal(fake.field[GUEST_CR3], 0x1111000);
	vmx_set_cr3(&vcpu, 0x7f0000001000, 4);
	assert_int_equal(fake.field[GUEST_CR3], 0x2222000);
}

static void a_stale_cr3_is_written_before_entry_even_without_a_new_root(void **state)
{
	fake.exit_reason = EXIT_REASON_CPUID;
	vmx_set_guest_cr3(&vcpu, 0x3333000);
	fake.nr_invvpid = 0;
	assert_int_equal(vmx_vcpu_run(&vcpu), 0);
	assert_int_equal(fake.field[GUEST_CR3], 0x3333000);
	assert_int_equal(fake.nr_invvpid, 1);
	assert_int_equal(vmx_vcpu_run(&vcpu), 0);
	assert_int_equal(fake.nr_invvpid, 1);
}

static void first_entry_launches_and_later_ones_resume(void **state)
{
	fake.exit_reason = EXIT_REASON_CPUID;
	for (int i = 0; i < 3; i++) {
		assert_int_equal(vmx_vcpu_run(&vcpu), 0);
		assert_int_equal(vmx_handle_exit(&vcpu), 1);
	}
	assert_int_equal(fake.nr_launches, 1);
	assert_int_equal(fake.nr_resumes, 2);
	assert_int_equal(seen.nr_cpuid, 3);
}

static void refused_entry_is_fail_entry_with_the_instruction_error(void **state)
{
	fake.entry_result = VMX_FAIL_VALID;
	fake.field[VM_INSTRUCTION_ERROR] = VMXERR_ENTRY_INVALID_CONTROL_FIELD;
	assert_int_equal(vmx_vcpu_run(&vcpu), 0);
	assert_true(vmx_entry_failed(&vcpu));
	assert_int_equal(vmx_handle_exit(&vcpu), 0);
	assert_int_equal(run.exit_reason, KVM_EXIT_FAIL_ENTRY);
	assert_int_equal(run.fail_entry.hardware_entry_failure_reason,
			 VMXERR_ENTRY_INVALID_CONTROL_FIELD);
}

static void failed_entry_is_fail_entry_with_the_exit_reason(void **state)
{
	fake.exit_reason = VMX_EXIT_REASONS_FAILED_VMENTRY | EXIT_REASON_INVALID_STATE;
	assert_int_equal(vmx_vcpu_run(&vcpu), 0);
	assert_int_equal(vmx_handle_exit(&vcpu), 0);
	assert_int_equal(run.exit_reason, KVM_EXIT_FAIL_ENTRY);
	assert_int_equal(run.fail_entry.hardware_entry_failure_reason, 0x80000021);
	fake.exit_reason = EXIT_REASON_CPUID;
	assert_int_equal(vmx_vcpu_run(&vcpu), 0);
	assert_int_equal(fake.nr_launches, 2);
}

static void unknown_exit_is_an_internal_error_with_its_reason(void **state)
{
	fake.exit_reason = EXIT_REASON_XSAVES;
	assert_int_equal(vmx_vcpu_run(&vcpu), 0);
	assert_int_equal(vmx_handle_exit(&vcpu), 0);
	assert_int_equal(run.exit_reason, KVM_EXIT_INTERNAL_ERROR);
	assert_int_equal(run.internal.suberror, KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON);
	assert_int_equal(run.internal.data[0], EXIT_REASON_XSAVES);
}

/* Bit 26, with any reason; reason 74 means it with or without the bit. */
static void a_bus_lock_goes_to_the_client_whatever_the_exit_was(void **state)
{
	static const uint32_t reasons[] = {EXIT_REASON_BUS_LOCK,
					   EXIT_REASON_BUS_LOCK | VMX_EXIT_REASONS_BUS_LOCK,
					   EXIT_REASON_CPUID | VMX_EXIT_REASONS_BUS_LOCK};

	for (size_t i = 0; i < ARRAY_SIZE(reasons); i++) {
		run.exit_reason = run.flags = 0;
		fake.exit_reason = reasons[i];
		assert_int_equal(vmx_vcpu_run(&vcpu), 0);
		assert_int_equal(vmx_handle_exit(&vcpu), 0);
		assert_int_equal(run.exit_reason, KVM_EXIT_X86_BUS_LOCK);
		assert_int_equal(run.flags, KVM_RUN_X86_BUS_LOCK);
	}
	assert_int_equal(seen.nr_cpuid, 1);
	/* an exit that the client hears of anyway keeps its own reason */
	run.flags = 0;
	fake.exit_reason = EXIT_REASON_TRIPLE_FAULT | VMX_EXIT_REASONS_BUS_LOCK;
	assert_int_equal(vmx_vcpu_run(&vcpu), 0);
	assert_int_equal(vmx_handle_exit(&vcpu), 0);
	assert_int_equal(run.exit_reason, KVM_EXIT_SHUTDOWN);
	assert_int_equal(run.flags, KVM_RUN_X86_BUS_LOCK);
	run.flags = 0;
}

static void bus_locks_are_looked_for_on_request_only(void **state)
{
	uint64_t before = fake.field[SECONDARY_VM_EXEC_CONTROL];

	assert_false(before & SECONDARY_EXEC_BUS_LOCK_DETECTION);
	vmx_detect_bus_locks(&vcpu);
	assert_int_equal(fake.field[SECONDARY_VM_EXEC_CONTROL],
			 before | SECONDARY_EXEC_BUS_LOCK_DETECTION);
}

static void exit_in_delivery_queues_the_event_again(void **state)
{
	fake.exit_reason = EXIT_REASON_EPT_VIOLATION;
	fake.idt_vectoring_info = 0x80000b0e; /* #PF with an error code */
	fake.field[IDT_VECTORING_ERROR_CODE] = 6;
	assert_int_equal(vmx_vcpu_run(&vcpu), 0);
	vmx_complete_interrupts(&vcpu);
	assert_int_equal(seen.nr_requeued, 1);
	assert_int_equal(seen.vector, X86_TRAP_PF);
	assert_int_equal(seen.error_code, 6);
	fake.idt_vectoring_info = 0x80000031; /* external interrupt */
	assert_int_equal(vmx_vcpu_run(&vcpu), 0);
	vmx_complete_interrupts(&vcpu);
	assert_int_equal(seen.nr_requeued_irqs, 1);
	assert_int_equal(seen.vector, 0x31);
}

static void mmio_in_delivery_is_an_internal_error(void **state)
{
	fake.exit_reason = EXIT_REASON_EPT_MISCONFIG;
	fake.idt_vectoring_info = 0x80000031;
	fake.gpa = 0xfec00000;
	assert_int_equal(vmx_vcpu_run(&vcpu), 0);
	assert_int_equal(vmx_handle_exit(&vcpu), 0);
	assert_int_equal(run.exit_reason, KVM_EXIT_INTERNAL_ERROR);
	assert_int_equal(run.internal.suberror, KVM_INTERNAL_ERROR_DELIVERY_EV);
	assert_int_equal(run.internal.data[3], 0xfec00000);
}

static void cancelled_injection_leaves_nothing_in_the_vmcs(void **state)
{
	vmx_inject_irq(&vcpu, 0x41, false);
	assert_int_equal(fake.field[VM_ENTRY_INTR_INFO_FIELD], 0x80000041);
	vmx_cancel_injection(&vcpu);
	assert_int_equal(fake.field[VM_ENTRY_INTR_INFO_FIELD], 0);
	assert_int_equal(seen.nr_requeued_irqs, 1);
	vmx_inject_nmi(&vcpu);
	assert_int_equal(fake.field[VM_ENTRY_INTR_INFO_FIELD], 0x80000202);
	vmx_cancel_injection(&vcpu);
	assert_int_equal(seen.nr_nmis, 1);
}

static void cr0_reads_the_shadow_but_for_bits_the_guest_owns(void **state)
{
	vmx_set_cr0(&vcpu, X86_CR0_ET | X86_CR0_CD | X86_CR0_NW);
	assert_int_equal(vmx_get_cr0(&vcpu), X86_CR0_ET | X86_CR0_CD | X86_CR0_NW);
	assert_int_equal(fake.field[GUEST_CR0] & (X86_CR0_CD | X86_CR0_NW), 0);
	assert_true(fake.field[GUEST_CR0] & X86_CR0_NE);
	fake.field[GUEST_CR0] |= X86_CR0_TS; /* the guest did, without an exit */
	assert_true(vmx_get_cr0(&vcpu) & X86_CR0_TS);
	assert_false(vmx_get_cr0(&vcpu) & X86_CR0_NE);
}

static void paging_with_lme_enters_long_mode(void **state)
{
	vmx_set_cr0(&vcpu, X86_CR0_PE);
	vmx_set_efer(&vcpu, EFER_LME);
	assert_false(fake.field[VM_ENTRY_CONTROLS] & VM_ENTRY_IA32E_MODE);
	vmx_set_cr0(&vcpu, X86_CR0_PE | X86_CR0_PG);
	assert_true(vmx_get_efer(&vcpu) & EFER_LMA);
	assert_true(fake.field[VM_ENTRY_CONTROLS] & VM_ENTRY_IA32E_MODE);
	vmx_set_cr0(&vcpu, X86_CR0_PE);
	assert_false(vmx_get_efer(&vcpu) & EFER_LMA);
	assert_false(fake.field[VM_ENTRY_CONTROLS] & VM_ENTRY_IA32E_MODE);
}

static void segment_survives_the_round_trip(void **state)
{
	struct kvm_segment s = { .base = 0x123456789000, .limit = 0xfffff, .selector = 0x33,
				 .type = 0xb, .present = 1, .dpl = 3, .s = 1, .l = 1, .g = 1,
				 .avl = 1 };
	struct kvm_segment out;

	vmx_set_segment(&vcpu, &s, SREG_CS);
	vmx_get_segment(&vcpu, &out, SREG_CS);
	assert_memory_equal(&s, &out, sizeof(s));
	s = (struct kvm_segment){ .selector = 0, .unusable = 1 };
	vmx_set_segment(&vcpu, &s, SREG_FS);
	assert_int_equal(fake.field[GUEST_FS_AR_BYTES], VMX_AR_UNUSABLE);
}

static void msr_bitmap_lets_only_the_listed_through(void **state)
{
	const uint8_t *b = vcpu.vmx->vmcs01.msr_bitmap;

	/* LSTAR: read-high, write-high, MSR c0000082h */
	assert_int_equal(b[1024 + 0x82 / 8] & (1 << (0x82 % 8)), 0);
	assert_int_equal(b[3072 + 0x82 / 8] & (1 << (0x82 % 8)), 0);
	/* EFER exits, TSC writes exit, TSC reads do not */
	assert_int_not_equal(b[3072 + 0x80 / 8] & 1, 0);
	assert_int_equal(b[0x10 / 8] & 1, 0);
	assert_int_not_equal(b[2048 + 0x10 / 8] & 1, 0);
}

static void sti_shadow_holds_interrupts_back(void **state)
{
	vmx_set_rflags(&vcpu, X86_FLAGS_IF);
	assert_true(vmx_interrupt_allowed(&vcpu));
	vmx_set_interrupt_shadow(&vcpu, KVM_X86_SHADOW_INT_STI);
	assert_false(vmx_interrupt_allowed(&vcpu));
	assert_int_equal(vmx_get_interrupt_shadow(&vcpu), KVM_X86_SHADOW_INT_STI);
	fake.field[VM_EXIT_INSTRUCTION_LEN] = 1;
	vmx_skip_emulated_instruction(&vcpu);
	assert_true(vmx_interrupt_allowed(&vcpu));
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(vpids_differ_and_are_used_again),
		T(controls_are_what_ept_and_unrestricted_guest_need),
		T(reset_starts_at_the_reset_vector_in_real_mode),
		T(eptp_is_write_back_with_walk_length_and_root),
		T(set_cr3_writes_guest_cr3_only_when_it_is_stale),
		T(a_stale_cr3_is_written_before_entry_even_without_a_new_root),
		T(first_entry_launches_and_later_ones_resume),
		T(refused_entry_is_fail_entry_with_the_instruction_error),
		T(failed_entry_is_fail_entry_with_the_exit_reason),
		T(a_bus_lock_goes_to_the_client_whatever_the_exit_was),
		T(bus_locks_are_looked_for_on_request_only),
		T(unknown_exit_is_an_internal_error_with_its_reason),
		T(exit_in_delivery_queues_the_event_again),
		T(mmio_in_delivery_is_an_internal_error),
		T(cancelled_injection_leaves_nothing_in_the_vmcs),
		T(cr0_reads_the_shadow_but_for_bits_the_guest_owns),
		T(paging_with_lme_enters_long_mode),
		T(segment_survives_the_round_trip),
		T(msr_bitmap_lets_only_the_listed_through),
		T(sti_shadow_holds_interrupts_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
