/*
 * What the x86 room calls of this one.
 */
#include "emulate/internal.h"

static const struct kvm_emulator_ops emulator = {
	.create = kvm_emulator_create,
	.destroy = kvm_emulator_destroy,
	.instruction = kvm_emulate_instruction,
	.invalid_guest_state = kvm_emulate_invalid_guest_state,
	.handle_ud = kvm_handle_ud,
	.task_switch = kvm_task_switch,
	.rip = kvm_emulator_rip,
	.insn_text = kvm_insn_text,
};

void emulate_init(void)
{
	kvm_register_emulator(&emulator);
}
