/*
 * Memory-mapped devices: the in-process APIC and bus first, else the client
 * (KVM API: KVM_EXIT_MMIO).
 */
#include <errno.h>
#include <string.h>

#include "trace/trace.h"
#include "virt/iodev.h"
#include "x86/run.h"

#define APIC_TPR_OFFSET 0x80

/* KVM API: KVM_TPR_ACCESS_REPORTING: the access happens, then the client hears which instruction made it. */
static void report_tpr_access(struct kvm_vcpu *vcpu, gpa_t gpa, bool is_write)
{
	if (likely(!vcpu->arch->tpr_access_reporting) || (gpa & ~PAGE_MASK) != APIC_TPR_OFFSET)
		return;
	vcpu->arch->tpr_access_is_write = is_write;
	vcpu->arch->tpr_access_rip = kvm_emulator_ops->rip(vcpu);
	kvm_make_request(KVM_REQ_REPORT_TPR_ACCESS, vcpu);
}

int kvm_device_mmio_read(struct kvm_vcpu *vcpu, gpa_t gpa, int len, void *val)
{
	if (vcpu->apic && kvm_lapic_mmio_read(vcpu, gpa, len, val) == 0) {
		report_tpr_access(vcpu, gpa, false);
		kvm_trace_mmio(KVM_TRACE_MMIO_READ, len, gpa, val);
		return 0;
	}
	if (kvm_io_bus_read(vcpu, KVM_MMIO_BUS, gpa, len, val))
		return -EOPNOTSUPP;
	kvm_trace_mmio(KVM_TRACE_MMIO_READ, len, gpa, val);
	return 0;
}

int kvm_device_mmio_write(struct kvm_vcpu *vcpu, gpa_t gpa, int len, const void *val)
{
	kvm_trace_mmio(KVM_TRACE_MMIO_WRITE, len, gpa, val);
	if (vcpu->apic && kvm_lapic_mmio_write(vcpu, gpa, len, val) == 0) {
		report_tpr_access(vcpu, gpa, true);
		return 0;
	}
	return kvm_io_bus_write(vcpu, KVM_MMIO_BUS, gpa, len, val);
}

void kvm_mmio_exit(struct kvm_vcpu *vcpu, gpa_t gpa, unsigned len, bool is_write, const void *data)
{
	struct kvm_run *run = vcpu->run;

	vcpu->stat.mmio_exits++;
	if (!is_write)
		kvm_trace_mmio(KVM_TRACE_MMIO_READ_UNSATISFIED, len, gpa, NULL);
	TRACE_LINE(exit_mmio, gpa, len, is_write);
	run->exit_reason = KVM_EXIT_MMIO;
	run->mmio.phys_addr = gpa;
	run->mmio.len = len;
	run->mmio.is_write = is_write;
	memset(run->mmio.data, 0, sizeof(run->mmio.data));
	if (is_write)
		memcpy(run->mmio.data, data, len);
}
