/*
 * What the rooms above do for this one: Hyper-V's interfaces and the emulator.
 *
 * Locks: none; registered once, before the first VM.
 */
#include "x86/run.h"

const struct kvm_hyperv_ops *kvm_hyperv_ops;

void kvm_register_hyperv(const struct kvm_hyperv_ops *ops)
{
	kvm_hyperv_ops = ops;
}

const struct kvm_emulator_ops *kvm_emulator_ops;

void kvm_register_emulator(const struct kvm_emulator_ops *ops)
{
	kvm_emulator_ops = ops;
}
