/*
 * The line of `userkvm run --strace` for every structure that it shows: what goes in before the call, what comes
 * out after it, memory that is not there, results.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "abi/internal.h"
#include "abi/strace.h"
#include "userkvm/userkvm.h"

static char file[] = "/tmp/userkvm-strace-XXXXXX";
static int lines_fd, sys_fd, vm_fd, vcpu_fd;
static struct abi_object *vcpu;
/* cmocka's handler of SIGSEGV stands aside where the library's is needed. */
static struct sigaction library_segv, cmocka_segv;

/* The lines written since the last call. */
static const char *written(void)
{
	static char text[4096];
	ssize_t n = read(lines_fd, text, sizeof(text) - 1);

	assert_true(n >= 0);
	text[n] = '\0';
	return text;
}

static int setup(void **state)
{
	lines_fd = mkstemp(file);
	setenv("USERKVM_STRACE", file, 1);
	sys_fd = userkvm_open("/dev/kvm", O_RDWR | O_CLOEXEC);
	sigaction(SIGSEGV, NULL, &library_segv);
	vm_fd = userkvm_ioctl(sys_fd, KVM_CREATE_VM, 0);
	vcpu_fd = userkvm_ioctl(vm_fd, KVM_CREATE_VCPU, 0);
	vcpu = abi_object_get(vcpu_fd);
	return lines_fd < 0 || !vcpu || !strstr(written(), ", KVM_CREATE_VCPU, 0) = ");
}

static int teardown(void **state)
{
	abi_object_put(vcpu);
	unlink(file);
	return userkvm_close(vcpu_fd) || userkvm_close(vm_fd) || userkvm_close(sys_fd);
}

/* The line of one call that ends with `result`. */
static const char *line(unsigned long request, const void *arg, long result)
{
	struct abi_strace s;

	sigaction(SIGSEGV, &library_segv, &cmocka_segv);
	abi_strace_start(&s, vcpu, 9, request, (unsigned long)arg);
	abi_strace_end(&s, vcpu, request, (unsigned long)arg, result);
	sigaction(SIGSEGV, &cmocka_segv, NULL);
	return written();
}

#define assert_line(request, arg, text) \
	assert_string_equal(line(request, arg, 0), "ioctl(9, " #request ", " text ") = 0\n")

static void structures_that_go_in(void **state)
{
	struct kvm_irq_level level = {.irq = 4, .level = 1};
	struct kvm_interrupt interrupt = {.irq = 0x21};
	struct kvm_irqfd irqfd = {.fd = 7, .gsi = 5, .flags = 2, .resamplefd = 8};
	struct kvm_ioeventfd ioeventfd = {.datamatch = 0x99, .addr = 0xfee0, .len = 2, .fd = 6, .flags = 3};
	struct kvm_hyperv_eventfd hv = {.conn_id = 0x11, .fd = 5, .flags = 1};
	struct kvm_dirty_log log = {.slot = 3, .dirty_bitmap = (void *)0x1230};
	struct kvm_msi msi = {.address_hi = 1, .address_lo = 0xfee00000, .data = 0x41, .flags = 1};
	struct kvm_guest_debug debug = {.control = 3};
	struct kvm_irq_routing routing = {.nr = 2, .flags = 0};
	struct kvm_cpuid2 cpuid = {.nent = 31};
	uint64_t base = 0xfffbc000;

	assert_line(KVM_IRQ_LINE, &level, "{irq=4, level=1}");
	assert_line(KVM_IRQ_LINE_STATUS, &level, "{irq=4, level=1}");
	assert_line(KVM_INTERRUPT, &interrupt, "{irq=33}");
	assert_line(KVM_IRQFD, &irqfd, "{fd=7, gsi=5, flags=0x2, resamplefd=8}");
	assert_line(KVM_IOEVENTFD, &ioeventfd, "{datamatch=0x99, addr=0xfee0, len=2, fd=6, flags=0x3}");
	assert_line(KVM_HYPERV_EVENTFD, &hv, "{conn_id=0x11, fd=5, flags=0x1}");
	assert_line(KVM_GET_DIRTY_LOG, &log, "{slot=3, dirty_bitmap=0x1230}");
	assert_line(KVM_SIGNAL_MSI, &msi, "{address=0x1fee00000, data=0x41, flags=0x1}");
	assert_line(KVM_SET_GUEST_DEBUG, &debug, "{control=0x3}");
	assert_line(KVM_SET_GSI_ROUTING, &routing, "{nr=2, flags=0, entries=[...]}");
	assert_line(KVM_SET_CPUID2, &cpuid, "{nent=31, entries=[...]}");
	assert_line(KVM_SET_IDENTITY_MAP_ADDR, &base, "[0xfffbc000]");
}

static void structures_that_go_both_ways(void **state)
{
	struct kvm_regs regs = {.rax = 1, .rbx = 2, .rcx = 3, .rdx = 4, .rsi = 5, .rdi = 6, .rsp = 7, .rbp = 8, .rip = 9, .rflags = 2};
	struct kvm_sregs sregs = {.cs = {.base = 0xf0000, .limit = 0xffff, .selector = 0xf000, .type = 11, .present = 1, .s = 1},
				  .cr0 = 0x10, .cr3 = 0x1000, .apic_base = 0xfee00900};
	struct kvm_xcrs xcrs = {.nr_xcrs = 1, .xcrs[0] = {.xcr = 0, .value = 7}};
	struct kvm_vcpu_events events = {.exception = {.injected = 1, .nr = 14}, .interrupt = {.nr = 32}, .nmi = {.pending = 1}};
	struct kvm_clock_data clock = {.clock = 12345, .flags = 2};
	struct kvm_translation translation = {.linear_address = 0x5000, .physical_address = 0x7000, .valid = 1};
	struct kvm_msr_list list = {.nmsrs = 77};

#define REGS "{rax=0x1, rbx=0x2, rcx=0x3, rdx=0x4, rsi=0x5, rdi=0x6, rsp=0x7, rbp=0x8, ..., rip=0x9, rflags=0x2}"
	assert_line(KVM_SET_REGS, &regs, REGS);
	assert_line(KVM_GET_REGS, &regs, REGS);
#define SREGS "{cs={base=0xf0000, limit=0xffff, selector=0xf000, type=11, present=1, dpl=0, db=0, s=1, l=0, g=0}, ..., " \
	      "cr0=0x10, cr2=0, cr3=0x1000, cr4=0, efer=0, apic_base=0xfee00900}"
	assert_line(KVM_SET_SREGS, &sregs, SREGS);
	assert_line(KVM_GET_SREGS, &sregs, SREGS);
	assert_line(KVM_SET_XCRS, &xcrs, "{nr_xcrs=1, xcrs[0]={0, 0x7}}");
	assert_line(KVM_GET_XCRS, &xcrs, "{nr_xcrs=1, xcrs[0]={0, 0x7}}");
	assert_line(KVM_GET_VCPU_EVENTS, &events, "{exception={injected=1, nr=14}, interrupt={injected=0, nr=32}, "
						  "nmi={injected=0, pending=1, masked=0}, ...}");
	assert_line(KVM_SET_CLOCK, &clock, "{clock=12345, flags=0x2}");
	assert_line(KVM_GET_CLOCK, &clock, "{clock=12345, flags=0x2}");
	assert_line(KVM_TRANSLATE, &translation, "{linear_address=0x5000, physical_address=0x7000, valid=1}");
	assert_line(KVM_GET_MSR_INDEX_LIST, &list, "{nmsrs=77, indices=[...]}");
}

static void states_and_capabilities_have_names(void **state)
{
	struct kvm_mp_state mp = {.mp_state = KVM_MP_STATE_HALTED};
	struct kvm_enable_cap cap = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {24}};

	assert_line(KVM_SET_MP_STATE, &mp, "{mp_state=KVM_MP_STATE_HALTED}");
	mp.mp_state = 77;
	assert_line(KVM_GET_MP_STATE, &mp, "{mp_state=77}");
	assert_line(KVM_ENABLE_CAP, &cap, "{cap=KVM_CAP_SPLIT_IRQCHIP, flags=0, args=[0x18, 0, 0, 0]}");
	cap.cap = 9999;
	assert_line(KVM_ENABLE_CAP, &cap, "{cap=9999, flags=0, args=[0x18, 0, 0, 0]}");
	assert_line(KVM_CHECK_EXTENSION, (void *)KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP");
	assert_line(KVM_CHECK_EXTENSION, (void *)4000, "4000");
}

static void lists_of_msrs_are_shown_up_to_the_fourth(void **state)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e[5];
	} msrs = {.head.nmsrs = 2, .e = {{.index = 0x10, .data = 5}, {.index = 0x174, .data = 8}}};

	assert_line(KVM_SET_MSRS, &msrs, "{nmsrs=2, entries=[{index=0x10, data=0x5}, {index=0x174, data=0x8}]}");
	assert_string_equal(line(KVM_GET_MSRS, &msrs, 2),
			    "ioctl(9, KVM_GET_MSRS, {nmsrs=2, entries=[{index=0x10, data=0x5}, {index=0x174, data=0x8}]}) = 2\n");
	msrs.head.nmsrs = 5;
	assert_non_null(strstr(line(KVM_SET_MSRS, &msrs, 5), "{index=0, data=0}, ...]}) = 5\n"));
}

static void memory_that_is_not_there_is_an_address(void **state)
{
	assert_string_equal(line(KVM_SET_REGS, (void *)0x1000, -EFAULT),
			    "ioctl(9, KVM_SET_REGS, 0x1000) = -1 EFAULT (Bad address)\n");
	assert_string_equal(line(KVM_GET_REGS, (void *)0x1000, -EFAULT),
			    "ioctl(9, KVM_GET_REGS, 0x1000) = -1 EFAULT (Bad address)\n");
	assert_string_equal(line(KVM_SET_MSRS, (void *)0x1000, -EFAULT),
			    "ioctl(9, KVM_SET_MSRS, 0x1000) = -1 EFAULT (Bad address)\n");
	assert_string_equal(line(_IOW(KVMIO, 0xfe, int), (void *)0x12345, -EINVAL),
			    "ioctl(9, _IOC(0x1, 0xae, 0xfe, 0x4), 0x12345) = -1 EINVAL (Invalid argument)\n");
}

static void exits_say_what_they_are_of(void **state)
{
	struct kvm_run *run = vcpu->vcpu->run, kept = *run;

#define assert_exit(text) assert_string_equal(line(KVM_RUN, NULL, 0), "ioctl(9, KVM_RUN, 0) = 0 " text "\n")
	run->flags = 0;
	run->exit_reason = KVM_EXIT_IO;
	run->io.direction = KVM_EXIT_IO_OUT;
	run->io.port = 0x3f8;
	run->io.size = 1;
	run->io.count = 3;
	assert_exit("(KVM_EXIT_IO, out port 0x3f8 size 1 count 3)");
	run->exit_reason = KVM_EXIT_MMIO;
	run->mmio.phys_addr = 0xfed00000;
	run->mmio.len = 4;
	run->mmio.is_write = 0;
	assert_exit("(KVM_EXIT_MMIO, read 0xfed00000 len 4)");
	run->exit_reason = KVM_EXIT_HLT;
	assert_exit("(KVM_EXIT_HLT)");
	run->flags = KVM_RUN_X86_BUS_LOCK;
	run->exit_reason = 777;
	assert_exit("(exit reason 777) KVM_RUN_X86_BUS_LOCK");
	*run = kept;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(structures_that_go_in),
		cmocka_unit_test(structures_that_go_both_ways),
		cmocka_unit_test(states_and_capabilities_have_names),
		cmocka_unit_test(lists_of_msrs_are_shown_up_to_the_fourth),
		cmocka_unit_test(memory_that_is_not_there_is_an_address),
		cmocka_unit_test(exits_say_what_they_are_of),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
