/*
 * The bytes at RIP: fetched, decoded, shown as text, told to the client; and the two instructions of an
 * invalid opcode's exit that are ours, VMMCALL and RSM.
 *
 * Invariant: bytes that the exit has told are believed unless USERKVM_CHECK=emulate; an instruction decoded
 * before is used only where bytes and mode are the same.
 *
 * Context: the vCPU's owner thread. Locks: none.
 */
#include <stdio.h>
#include <string.h>

#include "emulate/internal.h"
#include "isa/stub.h"
#include "lib/log.h"
#include "sdm/paging.h"

unsigned kvm_fetch_code(struct kvm_vcpu *vcpu, uint8_t *bytes, unsigned len,
			struct kvm_page_fault_info *fault)
{
	uint32_t access = PFERR_FETCH_MASK | (vmx_get_cpl(vcpu) == 3 ? PFERR_USER_MASK : 0U);
	gva_t lin = kvm_get_linear_rip(vcpu);
	unsigned done = 0, n;
	gpa_t gpa;

	while (done < len) {
		if (vmx_is_64bit_code(vcpu) && !isa_canonical(&vcpu->arch->emulator->cs, lin + done)) {
			*fault = (struct kvm_page_fault_info){ .vector = X86_TRAP_GP };
			break;
		}
		gpa = kvm_mmu_gva_to_gpa(vcpu, lin + done, access, fault);
		if (gpa == INVALID_PAGE)
			break;
		n = (unsigned)min_u64(len - done, PAGE_SIZE - ((lin + done) & ~PAGE_MASK));
		if (kvm_vcpu_read_guest(vcpu, gpa, bytes + done, n))
			break;
		done += n;
	}
	return done;
}

/* The instruction in bytes[] for this mode, if it was decoded before. */
static bool decoded_before(struct kvm_emulator *e, const struct decoded *d)
{
	if (!d->len || d->mode != e->mode || e->nr_bytes < d->len || memcmp(d->bytes, e->bytes, d->len) != 0)
		return false;
	e->insn = d->insn;
	return true;
}

static bool decode_bytes(struct kvm_emulator *e)
{
	struct decoded *d = &e->decoded[(e->rip ^ e->rip >> 4) % NR_DECODED];

	e->insn_mode = e->mode;
	e->insn_valid = decoded_before(e, d);
	if (e->insn_valid)
		return true;
	memset(&e->insn, 0, sizeof(e->insn));
	if (!silicon_arena_has_room(e->cs.stubs, 1)) {
		memset(e->decoded, 0, sizeof(e->decoded));
		silicon_arena_reset(e->cs.stubs);
	}
	silicon_use(e->cs.stubs);
	if (!e->nr_bytes || isa_decode(e->bytes, e->nr_bytes, e->mode, e->cs.ops, &e->insn) == ISA_DECODE_PARTIAL)
		return false;
	e->insn_valid = true;
	*d = (struct decoded){ .len = e->insn.len, .mode = (uint8_t)e->mode, .insn = e->insn };
	memcpy(d->bytes, e->bytes, e->insn.len);
	return true;
}

/* USERKVM_CHECK=emulate: the long way, whose bytes are believed; do they differ from those that ran? */
static unsigned fetch_and_compare(struct kvm_emulator *e, struct kvm_vcpu *vcpu, struct kvm_page_fault_info *fault)
{
	unsigned n = kvm_fetch_code(vcpu, e->bytes, INSN_MAX, fault);

	if (e->has_assist && (n < e->assist.len || memcmp(e->bytes, e->assist.bytes, e->assist.len) != 0))
		log_line(LOG_INFO, "vCPU %u: the instruction at %#llx is not the one that ran", vcpu->vcpu_id,
			 (unsigned long long)e->rip);
	return n;
}

enum outcome kvm_emulator_decode(struct kvm_emulator *e, struct kvm_vcpu *vcpu)
{
	struct kvm_page_fault_info fault = { 0 };

	if (e->has_assist && likely(!e->check)) {
		memcpy(e->bytes, e->assist.bytes, e->assist.len);
		e->nr_bytes = e->assist.len;
	} else {
		e->nr_bytes = fetch_and_compare(e, vcpu, &fault);
	}
	if (decode_bytes(e))
		return OUT_DONE;
	if (fault.vector || fault.nested) {
		e->nested_fault = fault;
		e->cs.exception = (struct isa_exception){
			.vector = fault.vector, .has_error_code = true,
			.error_code = fault.error_code, .payload = fault.address,
		};
		return OUT_EXCEPTION;
	}
	return OUT_UNSUPPORTED; /* code in no memory */
}

/* --- what cannot be emulated, invalid opcodes, text --- */

int kvm_emulation_failed(struct kvm_vcpu *vcpu, const uint8_t *bytes, unsigned len)
{
	struct kvm_run *run = vcpu->run;
	char hex[3 * 15 + 1] = "";
	uint64_t info[5];

	vcpu->stat.insn_emulation_fail++;
	/* user mode of the guest must not be able to stop the VM, unless the client wants to see to it */
	if (!vcpu->kvm->arch->exit_on_emulation_error) {
		kvm_queue_exception(vcpu, X86_TRAP_UD);
		if (vmx_get_cpl(vcpu) != 0)
			return 1;
	}
	for (unsigned i = 0; i < len; i++)
		snprintf(hex + 3 * i, sizeof(hex) - 3 * i, " %02x", bytes[i]);
	log_told("KVM_EXIT_INTERNAL_ERROR: vCPU %u, cannot be emulated at rip %#llx:%s", vcpu->vcpu_id,
		 (unsigned long long)vmx_get_rip(vcpu), len ? hex : " (its bytes cannot be read)");
	memset(&run->internal, 0, sizeof(run->internal));
	run->exit_reason = KVM_EXIT_INTERNAL_ERROR;
	run->emulation_failure.suberror = KVM_INTERNAL_ERROR_EMULATION;
	run->emulation_failure.flags = len ? KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES : 0;
	run->emulation_failure.insn_size = (uint8_t)len;
	memcpy(run->emulation_failure.insn_bytes, bytes, len);
	/* flags, the bytes in two words, then what the exit was */
	vmx_get_exit_info(vcpu, info);
	memcpy(&run->internal.data[3], info, sizeof(info));
	run->internal.ndata = 3 + ARRAY_SIZE(info);
	return 0;
}

/* The prefixes RSM ignores; LOCK is none of them. */
static bool legacy_prefix(uint8_t byte)
{
	switch (byte) {
	case 0x26: case 0x2e: case 0x36: case 0x3e: case 0x64 ... 0x67: case 0xf2: case 0xf3:
		return true;
	default:
		return false;
	}
}

static bool is_rsm(struct kvm_vcpu *vcpu, const uint8_t *bytes, unsigned len)
{
	unsigned n = 0;

	while (n < len && legacy_prefix(bytes[n]))
		n++;
	if (n < len && vmx_is_64bit_code(vcpu) && (bytes[n] & 0xf0) == 0x40)
		n++;
	return n + 1 < len && bytes[n] == 0x0f && bytes[n + 1] == 0xaa;
}

/*
 * VMMCALL, the hypercall of guests that take the processor for AMD's; RSM in
 * SMM, of which the processor knows nothing.
 */
int kvm_handle_ud(struct kvm_vcpu *vcpu)
{
	struct kvm_page_fault_info fault = { 0 };
	uint8_t bytes[INSN_MAX];
	unsigned len = kvm_fetch_code(vcpu, bytes, sizeof(bytes), &fault);

	if (len >= sizeof(kvm_vmmcall) && memcmp(bytes, kvm_vmmcall, sizeof(kvm_vmmcall)) == 0)
		return kvm_emulate_vmmcall(vcpu);
	if (vcpu->arch->smm && is_rsm(vcpu, bytes, len))
		return kvm_leave_smm(vcpu) ? 1 : kvm_emulation_failed(vcpu, bytes, len);
	kvm_queue_exception(vcpu, X86_TRAP_UD);
	return 1;
}

void kvm_insn_text(struct kvm_vcpu *vcpu, char *buf, size_t size)
{
	struct kvm_page_fault_info fault = { 0 };
	enum isa_code_mode mode;
	uint8_t bytes[INSN_MAX];
	struct kvm_segment cs;
	unsigned len = kvm_fetch_code(vcpu, bytes, sizeof(bytes), &fault);

	vmx_get_segment(vcpu, &cs, SREG_CS);
	mode = vmx_is_64bit_code(vcpu) ? ISA_CODE64 : cs.db ? ISA_CODE32 : ISA_CODE16;
	*buf = '\0';
	if (len)
		isa_insn_text(bytes, len, mode, vmx_get_rip(vcpu), buf, size);
}
