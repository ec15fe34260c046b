/*
 * Port I/O: devices of ours first, else the client (KVM API: KVM_EXIT_IO).
 *
 * The data of an exit is in the page after struct kvm_run, `count` elements of
 * `size` bytes. IN and OUT without a string prefix come from the exit
 * qualification alone; the instruction is finished when the client is back,
 * so that it can be retried after a migration in between.
 */
#include <string.h>

#include "trace/trace.h"
#include "virt/iodev.h"
#include "x86/run.h"

#define PORT_7E 0x7e

static unsigned first_element(const void *data, int size)
{
	unsigned v = 0;

	memcpy(&v, data, (size_t)size);
	return v;
}

#define trace_pio(rw, port, size, count, data) \
	TRACE(kvm, kvm_pio, rw, port, (unsigned)(size), count, first_element(data, size))

void *kvm_pio_data(struct kvm_vcpu *vcpu)
{
	return (char *)vcpu->run + KVM_PIO_PAGE_OFFSET * PAGE_SIZE;
}

uint64_t kvm_get_linear_rip(struct kvm_vcpu *vcpu)
{
	if (vmx_is_64bit_code(vcpu))
		return vmx_get_rip(vcpu);
	return (uint32_t)(vmx_get_cs_base(vcpu) + vmx_get_rip(vcpu));
}

static void pio_exit(struct kvm_vcpu *vcpu, uint16_t port, int size, unsigned count, bool in)
{
	struct kvm_run *run = vcpu->run;

	run->exit_reason = KVM_EXIT_IO;
	run->io.direction = in ? KVM_EXIT_IO_IN : KVM_EXIT_IO_OUT;
	run->io.size = (uint8_t)size;
	run->io.port = port;
	run->io.count = count;
	run->io.data_offset = KVM_PIO_PAGE_OFFSET * PAGE_SIZE;
	vcpu->arch->pio.count = (int)count;
	vcpu->arch->pio.size = size;
	vcpu->arch->pio.in = in;
	vcpu->arch->pio.port = port;
}

int kvm_pio_out(struct kvm_vcpu *vcpu, uint16_t port, int size, const void *data, unsigned count)
{
	const char *p = data;
	unsigned done = 0;

	trace_pio(1, port, size, count, data);
	while (done < count && kvm_io_bus_write(vcpu, KVM_PIO_BUS, port, size,
						p + done * (unsigned)size) == 0)
		done++;
	if (done == count)
		return 0;
	/* what a device of ours has taken is not shown to the client again */
	memcpy(kvm_pio_data(vcpu), p + done * (unsigned)size, (count - done) * (unsigned)size);
	pio_exit(vcpu, port, size, count - done, false);
	return 1;
}

int kvm_pio_in(struct kvm_vcpu *vcpu, uint16_t port, int size, void *data, unsigned count)
{
	char *p = data;

	/* the first element decides who owns the port */
	if (kvm_io_bus_read(vcpu, KVM_PIO_BUS, port, size, p) == 0) {
		for (unsigned i = 1; i < count; i++)
			if (kvm_io_bus_read(vcpu, KVM_PIO_BUS, port, size,
					    p + i * (unsigned)size))
				memset(p + i * (unsigned)size, 0xff, (size_t)size);
		trace_pio(0, port, size, count, data);
		return 0;
	}
	memset(kvm_pio_data(vcpu), 0, count * (unsigned)size);
	pio_exit(vcpu, port, size, count, true);
	return 1;
}

static void set_rax(struct kvm_vcpu *vcpu, const void *data, int size)
{
	uint64_t rax = size < 4 ? vmx_regs(vcpu)[RAX] : 0;

	memcpy(&rax, data, (size_t)size);
	vmx_regs(vcpu)[RAX] = rax;
}

static int complete_fast_pio_out(struct kvm_vcpu *vcpu)
{
	vcpu->arch->pio.count = 0;
	/* the client moved RIP (reset, loaded another state): the OUT is no longer ours */
	if (vcpu->arch->pio.linear_rip != kvm_get_linear_rip(vcpu))
		return 1;
	vmx_skip_emulated_instruction(vcpu);
	return 1;
}

static int complete_fast_pio_out_skipped(struct kvm_vcpu *vcpu)
{
	vcpu->arch->pio.count = 0;
	return 1;
}

static int complete_fast_pio_in(struct kvm_vcpu *vcpu)
{
	vcpu->arch->pio.count = 0;
	if (vcpu->arch->pio.linear_rip != kvm_get_linear_rip(vcpu))
		return 1;
	trace_pio(0, vcpu->arch->pio.port, vcpu->arch->pio.size, 1, kvm_pio_data(vcpu));
	set_rax(vcpu, kvm_pio_data(vcpu), vcpu->arch->pio.size);
	vmx_skip_emulated_instruction(vcpu);
	return 1;
}

static int fast_pio_out(struct kvm_vcpu *vcpu, uint16_t port, int size)
{
	if (kvm_pio_out(vcpu, port, size, &vmx_regs(vcpu)[RAX], 1) == 0) {
		vmx_skip_emulated_instruction(vcpu);
		return 1;
	}
	/* clients that reset the guest through port 7eh expect RIP past the OUT */
	if (port == PORT_7E &&
	    !(vcpu->kvm->arch->disabled_quirks & KVM_X86_QUIRK_OUT_7E_INC_RIP)) {
		vcpu->arch->complete_userspace_io = complete_fast_pio_out_skipped;
		vmx_skip_emulated_instruction(vcpu);
	} else {
		vcpu->arch->pio.linear_rip = kvm_get_linear_rip(vcpu);
		vcpu->arch->complete_userspace_io = complete_fast_pio_out;
	}
	return 0;
}

static int fast_pio_in(struct kvm_vcpu *vcpu, uint16_t port, int size)
{
	uint64_t v = 0;

	if (kvm_pio_in(vcpu, port, size, &v, 1) == 0) {
		set_rax(vcpu, &v, size);
		vmx_skip_emulated_instruction(vcpu);
		return 1;
	}
	vcpu->arch->pio.linear_rip = kvm_get_linear_rip(vcpu);
	vcpu->arch->complete_userspace_io = complete_fast_pio_in;
	return 0;
}

int kvm_fast_pio(struct kvm_vcpu *vcpu, uint16_t port, int size, bool in)
{
	return in ? fast_pio_in(vcpu, port, size) : fast_pio_out(vcpu, port, size);
}
