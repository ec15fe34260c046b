/*
 * One instruction at a time, over guest memory and devices: MMIO and string
 * I/O. The instruction semantics are the isa room's, as in the processor; what
 * differs is the memory behind them.
 *
 * The emulator has a register file of its own (struct cpu_state), filled from
 * the vCPU, with a TLB that never hits: every access comes to mem() below.
 *
 * Invariants
 * 1. Registers go back to the vCPU when an instruction, or one iteration of a
 *    string instruction, is complete; never in between.
 * 2. A read that only the client can serve unwinds with KVM_EXIT_MMIO (its handler returns, where the
 *    access is its last: ISA_LAST). When
 *    the client is back the instruction runs again from its start and finds
 *    the data in reads[], as it finds those of devices of ours that it has
 *    already read: no device is read twice.
 * 3. Device writes are queued while the instruction runs and done when it is
 *    complete, in order. Those of the client go out one exit each; the
 *    registers are committed before the first, as in Linux, so that a client
 *    that changes them (reset, loading a state) has the last word.
 * 4. Guest RAM is accessed through bounce buffers and the guarded copies only.
 *    A write that fails at commit (the client unmapped the page in between)
 *    ends KVM_RUN with -EFAULT before the registers are committed.
 * 5. The host's vector registers hold guest state while cs.fpu_loaded: every
 *    callback puts it away first and loads it again before it returns.
 */
#include <string.h>

#include "emulate/internal.h"
#include "host/fault.h"
#include "host/memory.h"
#include "isa/fpu.h"
#include "isa/stub.h"
#include "lib/error.h"
#include "lib/log.h"
#include "lib/own.h"
#include "lib/params.h"
#include "lib/rcu.h"
#include "sdm/paging.h"
#include "trace/trace.h"

#define MAX_ITERATIONS 256 /* of a string instruction before the guest runs again */

static struct isa_tlb_entry empty_tlb[ISA_TLB_ENTRIES];

void kvm_emulator_leave(struct kvm_emulator *e, enum outcome o)
{
	isa_fpu_sync(&e->cs);
	e->outcome = o;
	__builtin_longjmp(e->unwind, 1);
}

struct emulator_sys *kvm_emulator_sys(struct cpu_state *cs)
{
	return &kvm_emulator_of(cs)->sys;
}

void kvm_emulator_unsupported(struct cpu_state *cs)
{
	kvm_emulator_leave(kvm_emulator_of(cs), OUT_UNSUPPORTED);
}

void kvm_emulator_replaced(struct cpu_state *cs)
{
	kvm_emulator_leave(kvm_emulator_of(cs), OUT_REPLACED);
}

/* The processor is to run it. */
void kvm_emulator_retry(struct cpu_state *cs)
{
	kvm_emulator_of(cs)->error = -EAGAIN;
	kvm_emulator_leave(kvm_emulator_of(cs), OUT_ERROR);
}

static void unsupported(struct cpu_state *cs, const struct isa_insn *i)
{
	kvm_emulator_leave(kvm_emulator_of(cs), OUT_UNSUPPORTED);
}

/* ops->system */
static isa_fn *emulator_system(const struct isa_decoded *d, struct isa_insn *i)
{
	isa_fn *fn = kvm_emulator_system(d, i);

	return fn ? fn : unsupported;
}

static void __attribute__((noreturn)) refuse_task_switch(struct cpu_state *cs, uint16_t selector,
							  enum task_switch_source source)
{
	kvm_emulator_unsupported(cs);
}

static const struct isa_ops emulator_ops = {
	.mem = kvm_emulator_mem,
	.mem_commit = kvm_emulator_mem_commit,
	.raise = kvm_emulator_raise,
	.system = emulator_system,
	.descriptor_bit = kvm_emulator_descriptor_bit,
	.mode_changed = kvm_emulator_mode_changed,
	.task_switch = refuse_task_switch,
};

/* --- state in and out (state.c) --- */

static void load_state(struct kvm_emulator *e, struct kvm_vcpu *vcpu)
{
	struct cpu_state *cs = &e->cs;

	memset(&e->sys, 0, sizeof(e->sys));
	kvm_emulator_load(vcpu, cs);
	e->mode = (enum isa_code_mode)cs->code_mode;
	cs->tlb = empty_tlb;
	cs->ops = &emulator_ops;
	cs->owner = vcpu;
	cs->unwind = e->unwind;
	cs->cur = &e->insn;
	cs->block_rip = cs->rip;
	e->rip = cs->rip;
	/* leave string instructions after each iteration that ends where it may */
	cs->exit_request = 1;
}

static void store_state(struct kvm_emulator *e, struct kvm_vcpu *vcpu)
{
	kvm_emulator_store(vcpu, &e->cs, &e->sys);
}

/* --- running --- */

static bool silicon_hook(void *owner, int signo, siginfo_t *si, void *ucontext)
{
	struct kvm_emulator *e = owner;

	return isa_silicon_fault(&e->cs, signo, ucontext);
}

/* Run the decoded instruction once (a string instruction: some iterations). */
static enum outcome run_instruction(struct kvm_emulator *e)
{
	struct cpu_state *cs = &e->cs;

	e->outcome = OUT_DONE;
	e->error = 0;
	e->too_long = false;
	host_fault_set_hook(silicon_hook, e);
	if (__builtin_setjmp(e->unwind) == 0) {
		if (e->insn.system) {
			kvm_emulator_load_tables(cs);
			kvm_emulator_check_privilege(cs, &e->insn);
		}
		e->insn.fn(cs, &e->insn);
		if (!(e->insn.flags & ISA_ENDS_BLOCK))
			cs->rip = isa_next_rip(cs, &e->insn);
	}
	host_fault_set_hook(NULL, NULL);
	isa_fpu_sync(cs);
	if (e->error)
		e->outcome = OUT_ERROR;
	else if (e->too_long)
		e->outcome = OUT_UNSUPPORTED;
	return e->outcome;
}

uint64_t kvm_emulator_rip(struct kvm_vcpu *vcpu)
{
	return vcpu->arch->emulator->rip;
}

static int issue_writes(struct kvm_vcpu *vcpu);

static int complete_write(struct kvm_vcpu *vcpu)
{
	vcpu->arch->emulator->next_write++;
	return issue_writes(vcpu);
}

/* 1: all out. 0: the client has one to do. */
static int issue_writes(struct kvm_vcpu *vcpu)
{
	struct kvm_emulator *e = vcpu->arch->emulator;
	struct fragment *f;

	while (e->next_write < e->nr_writes) {
		f = &e->writes[e->next_write];
		if (kvm_device_mmio_write(vcpu, f->gpa, (int)f->len, f->data)) {
			kvm_mmio_exit(vcpu, f->gpa, f->len, true, f->data);
			vcpu->arch->complete_userspace_io = complete_write;
			return 0;
		}
		e->next_write++;
	}
	e->nr_writes = e->next_write = 0;
	return 1;
}

/* The trap of a single-stepped instruction, the end of an interrupt shadow. */
static int retire(struct kvm_vcpu *vcpu, uint64_t old_rflags)
{
	uint64_t traps = kvm_emulator_traps(vcpu->arch->emulator, vcpu);

	vmx_set_interrupt_shadow(vcpu, 0);
	if (unlikely(is_guest_mode(vcpu)))
		nested_vmx_update_mtf(vcpu, vcpu->arch->exception.pending);
	if (old_rflags & X86_FLAGS_TF && !(vcpu->arch->guest_debug & KVM_GUESTDBG_SINGLESTEP))
		traps |= DR6_BS;
	if (unlikely(traps))
		kvm_queue_exception_p(vcpu, X86_TRAP_DB, traps);
	return 1;
}

/* Between two iterations of a string instruction: its own breakpoint has been met (SDM Vol. 1, "EFLAGS": RF). */
static void pause_string(struct kvm_emulator *e, struct kvm_vcpu *vcpu)
{
	uint64_t traps = kvm_emulator_traps(e, vcpu);

	if (unlikely(e->dr7))
		vmx_set_rflags(vcpu, vmx_get_rflags(vcpu) | X86_FLAGS_RF);
	if (unlikely(traps))
		kvm_queue_exception_p(vcpu, X86_TRAP_DB, traps);
}

static int complete_read(struct kvm_vcpu *vcpu);
static int complete_string_in(struct kvm_vcpu *vcpu);

static int inject(struct kvm_vcpu *vcpu, const struct isa_exception *x)
{
	struct kvm_emulator *e = vcpu->arch->emulator;
	struct kvm_page_fault_info f = { .vector = x->vector, .error_code = (uint16_t)x->error_code,
					 .address = x->payload };

	if (unlikely(e->nested_fault.nested)) {
		f = e->nested_fault;
		e->nested_fault.nested = false;
		kvm_inject_page_fault(vcpu, &f);
		return 1;
	}
	if (x->vector == X86_TRAP_PF)
		kvm_inject_page_fault(vcpu, &f);
	else if (x->vector == X86_TRAP_DB)
		kvm_queue_exception_p(vcpu, x->vector, x->payload);
	else if (x->has_error_code)
		kvm_queue_exception_e(vcpu, x->vector, x->error_code);
	else
		kvm_queue_exception(vcpu, x->vector);
	return 1;
}

/* Drive the instruction at e->rip until it is complete or somebody else's turn. */
static int emulate(struct kvm_vcpu *vcpu)
{
	struct kvm_emulator *e = vcpu->arch->emulator;
	uint64_t old_rflags = vmx_get_rflags(vcpu), rf = e->cs.rflags & X86_FLAGS_RF;
	enum outcome o;
	int r;

	for (unsigned it = 0; it < MAX_ITERATIONS; it++) {
		e->cs.block_rip = e->rip;
		e->cs.rip = e->rip;
		e->next_read = 0;
		e->pio_exit = false;
		e->hits = 0;
		e->cs.rflags &= ~X86_FLAGS_RF; /* unless it loads one, an instruction that completes leaves it clear */
		o = run_instruction(e);
		if (o != OUT_DONE && o != OUT_WRITES)
			e->cs.rflags |= rf;
		switch (o) {
		case OUT_EXCEPTION:
			/* iterations done so far stay done; RIP is the instruction's */
			e->cs.rip = e->rip;
			memset(&e->sys, 0, sizeof(e->sys));
			store_state(e, vcpu);
			e->nr_reads = 0;
			r = e->nr_writes ? issue_writes(vcpu) : 1;
			inject(vcpu, &e->cs.exception);
			return r;
		case OUT_EXIT:
			e->cs.rip = e->rip;
			/* nothing is done yet but whole iterations */
			if (e->insn.system || (e->insn.flags & (ISA_REP | ISA_REPNE)))
				store_state(e, vcpu);
			e->stamp = vmx_state_stamp(vcpu);
			e->active = true;
			vcpu->arch->complete_userspace_io =
				e->pio_wait ? complete_string_in : complete_read;
			return 0;
		case OUT_REPLACED:
			return 1;
		case OUT_UNSUPPORTED:
			e->nr_reads = e->nr_writes = 0;
			/* memory that is protected for its past as a page table: let the guest have it */
			if (e->fault_gva != ~0ULL && kvm_mmu_unprotect(vcpu, e->fault_gva))
				return 1;
			if (e->fault_gpa != ~0ULL && kvm_mmu_unprotect_gpa(vcpu, e->fault_gpa))
				return 1;
			return kvm_emulation_failed(vcpu, e->bytes,
						    e->insn.len ? e->insn.len : e->nr_bytes);
		case OUT_ERROR:
			e->nr_reads = e->nr_writes = 0;
			/* a translation that went away in between: the guest tries again */
			return e->error == -EAGAIN ? 1 : e->error;
		case OUT_WRITES:
			e->cs.rip = e->rip;
			break;
		case OUT_DONE:
			break;
		}
		store_state(e, vcpu);
		kvm_emulator_begin_iteration(e);
		if (e->cs.rip != e->rip || e->sys.dirty_segs) {
			retire(vcpu, old_rflags);
			if (e->sys.shadow)
				vmx_set_interrupt_shadow(vcpu, e->sys.shadow);
		} else if (unlikely(e->dr7)) {
			pause_string(e, vcpu);
		}
		if (e->pio_exit) {
			vcpu->arch->complete_userspace_io = NULL;
			return 0;
		}
		if (!issue_writes(vcpu))
			return 0;
		if (e->cs.rip != e->rip || unlikely(e->hits))
			return 1;
	}
	return 1; /* a long string instruction: look at interrupts, then go on */
}

/* The instruction that waited for the client: is it still the one to run? */
static bool resume(struct kvm_vcpu *vcpu)
{
	struct kvm_emulator *e = vcpu->arch->emulator;
	uint64_t rip = e->rip;

	e->active = false;
	e->has_assist = false; /* the client may have changed anything in memory */
	if (likely(kvm_emulator_state_kept(e, vcpu))) {
		memset(&e->sys, 0, sizeof(e->sys));
		if (likely(!e->check))
			return true;
		if (!kvm_emulator_loads_the_same(e, vcpu))
			kvm_vm_bugged(vcpu->kvm, "registers of a waiting instruction have changed unseen");
	}
	load_state(e, vcpu);
	if (e->rip == rip && e->insn_mode == e->mode)
		return true;
	e->nr_reads = 0;
	return false;
}

static int complete_read(struct kvm_vcpu *vcpu)
{
	struct kvm_emulator *e = vcpu->arch->emulator;
	struct fragment *f = &e->reads[e->nr_reads];

	if (!resume(vcpu))
		return 1;
	memcpy(f->data, vcpu->run->mmio.data, f->len);
	kvm_trace_mmio(KVM_TRACE_MMIO_READ, f->len, f->gpa, f->data);
	e->nr_reads++;
	/* the iteration goes on: what it has read stays valid */
	e->it_rcx = e->cs.gpr[RCX];
	e->it_rsi = e->cs.gpr[RSI];
	e->it_rdi = e->cs.gpr[RDI];
	return emulate(vcpu);
}

static int complete_string_in(struct kvm_vcpu *vcpu)
{
	struct kvm_emulator *e = vcpu->arch->emulator;

	e->pio_wait = false;
	if (!resume(vcpu))
		return 1;
	e->pio_next = 0;
	e->pio_avail = (unsigned)(vcpu->arch->pio.count * vcpu->arch->pio.size);
	memcpy(e->pio_in, kvm_pio_data(vcpu), e->pio_avail);
	vcpu->arch->pio.count = 0;
	return emulate(vcpu);
}

/* Nothing waits, nothing is known of an exit. */
static void begin_alone(struct kvm_emulator *e, struct kvm_vcpu *vcpu)
{
	load_state(e, vcpu);
	e->fault_gva = e->fault_gpa = ~0ULL;
	e->nested_fault.nested = false;
	e->active = e->has_assist = false;
	e->nr_reads = e->nr_writes = e->next_write = 0;
	kvm_emulator_begin_iteration(e);
	e->insn_valid = false;
	kvm_emulator_load_tables(&e->cs);
}

int kvm_emulator_run_alone(struct kvm_vcpu *vcpu, isa_fn *fn)
{
	struct kvm_emulator *e = vcpu->arch->emulator;

	begin_alone(e, vcpu);
	kvm_emulator_load_tr_ldt(&e->cs);
	e->insn = (struct isa_insn){ .fn = fn, .flags = ISA_ENDS_BLOCK };
	switch (run_instruction(e)) {
	case OUT_EXCEPTION:
		return inject(vcpu, &e->cs.exception);
	case OUT_DONE:
		return e->nr_writes ? err_born(EFAULT, "vCPU %u writes its tables to no memory", vcpu->vcpu_id) : 1;
	case OUT_ERROR:
		/* another vCPU has taken the page from the tables between check and write, which comes too late then */
		return e->error == -EAGAIN ? 1 : e->error;
	default:
		return err_born(EFAULT, "vCPU %u reads its tables in no memory", vcpu->vcpu_id);
	}
}

static void trace_insn(const struct kvm_emulator *e, struct kvm_vcpu *vcpu, bool failed,
		       struct trace_kvm_kvm_emulate_insn *rec)
{
	unsigned len = failed ? e->nr_bytes : e->insn.len;
	struct kvm_segment cs;

	vmx_get_segment(vcpu, &cs, SREG_CS);
	rec->rip = e->rip;
	rec->csbase = (uint32_t)cs.base;
	rec->len = (uint8_t)(len < sizeof(rec->insn) ? len : sizeof(rec->insn));
	memcpy(rec->insn, e->bytes, rec->len);
	/* real, vm16, prot16, prot32, prot64 */
	rec->flags = !(vmx_get_cr0(vcpu) & X86_CR0_PE)	      ? 0
		     : vmx_get_rflags(vcpu) & X86_FLAGS_VM    ? 1
		     : vmx_is_64bit_code(vcpu)		      ? 4
		     : cs.db				      ? 3
							      : 2;
	rec->failed = failed;
}

/*
 * Nothing could be fetched. -EFAULT: the memslots call it memory, and the client has taken it away. 1: it is there now,
 * for the guest has changed its tables meanwhile. 0: it is none.
 */
static int look_for_code(struct kvm_vcpu *vcpu)
{
	gpa_t gpa = kvm_mmu_gva_to_gpa(vcpu, kvm_get_linear_rip(vcpu), PFERR_FETCH_MASK, NULL);
	uint8_t byte;

	if (gpa == INVALID_PAGE || !kvm_emulator_is_ram(vcpu, gpa, false))
		return 0;
	if (!kvm_vcpu_read_guest(vcpu, gpa, &byte, sizeof(byte)))
		return 1;
	return err_born(EFAULT, "the code of vCPU %u is in no memory", vcpu->vcpu_id);
}

/* from_exit: the instruction is the one that the processor was at when it left the guest. */
static int emulate_at_rip(struct kvm_vcpu *vcpu, bool has_gpa, gpa_t gpa, bool from_exit)
{
	struct kvm_emulator *e = vcpu->arch->emulator;
	enum outcome o;
	int r;

	vcpu->stat.insn_emulation++;
	load_state(e, vcpu);
	e->fault_gva = has_gpa ? ~0ULL : gpa;
	/* L2's address is none of the memslots' */
	e->fault_gpa = has_gpa && !is_guest_mode(vcpu) ? gpa : ~0ULL;
	e->nested_fault.nested = false;
	e->active = false;
	e->nr_reads = e->nr_writes = e->next_write = 0;
	e->pio_next = e->pio_avail = 0;
	e->pio_wait = false;
	kvm_emulator_arm(e, vcpu, from_exit);
	if (kvm_emulator_code_breakpoint(e, vcpu, &r))
		return r;
	e->has_assist = from_exit && vmx_exit_insn(vmx_processor(vcpu), &e->assist);
	if (unlikely(is_guest_mode(vcpu)))
		e->assist.gpa = ~0ULL; /* L2's, of which EPT12 has to be asked */
	kvm_emulator_begin_iteration(e);
	o = kvm_emulator_decode(e, vcpu);
	if (o == OUT_EXCEPTION)
		return inject(vcpu, &e->cs.exception);
	TRACE_FILL(kvm, kvm_emulate_insn, rec, trace_insn(e, vcpu, o == OUT_UNSUPPORTED, rec));
	r = o == OUT_UNSUPPORTED && !e->nr_bytes ? look_for_code(vcpu) : 0;
	if (r)
		return r;
	if (o == OUT_UNSUPPORTED && e->fault_gpa != ~0ULL && kvm_mmu_unprotect_gpa(vcpu, e->fault_gpa))
		return 1;
	if (o == OUT_UNSUPPORTED)
		return kvm_emulation_failed(vcpu, e->bytes, e->nr_bytes);
	return emulate(vcpu);
}

/* What the instruction that emulate_at_rip() began, and answered `r` for, leaves to do: HLT halts. */
static int halt_if_hlt(struct kvm_vcpu *vcpu, int r)
{
	if (r != 1 || !vcpu->arch->emulator->sys.halt)
		return r;
	vcpu->stat.halt_exits++;
	return kvm_emulate_halt(vcpu);
}

int kvm_emulate_instruction(struct kvm_vcpu *vcpu, bool has_gpa, gpa_t gpa)
{
	TRACE_CALL(x86_emulate_instruction, vcpu->vcpu_id, vmx_get_rip(vcpu));
	return halt_if_hlt(vcpu, emulate_at_rip(vcpu, has_gpa, gpa, true));
}

/* --- a guest that the processor cannot run --- */

/* An event into real mode: what the entry would have injected is emulated instead. */
static int deliver_real(struct kvm_vcpu *vcpu, uint8_t vector, unsigned insn_len)
{
	struct kvm_emulator *e = vcpu->arch->emulator;

	begin_alone(e, vcpu);
	e->insn = (struct isa_insn){ .fn = kvm_emulate_int_real, .flags = ISA_ENDS_BLOCK,
				     .imm = vector, .len = (uint8_t)insn_len };
	return emulate(vcpu);
}

static int deliver_event(struct kvm_vcpu *vcpu)
{
	uint8_t vector;
	unsigned insn_len;

	if (!vmx_take_injection(vcpu, &vector, &insn_len))
		return 1;
	kvm_events_entered(vcpu);
	if (!(vmx_get_cr0(vcpu) & X86_CR0_PE))
		return deliver_real(vcpu, vector, insn_len);
	log_told("vCPU %u: event %u in a state that no processor enters", vcpu->vcpu_id, vector);
	return kvm_emulation_failed(vcpu, NULL, 0);
}

/* How many instructions before somebody else is asked whether he wants something. */
#define INVALID_STATE_INSTRUCTIONS 128

int kvm_emulate_invalid_guest_state(struct kvm_vcpu *vcpu)
{
	struct kvm_emulator *e = vcpu->arch->emulator;
	int r = deliver_event(vcpu);
	uint64_t rip;

	for (unsigned n = 0; r == 1 && n < INVALID_STATE_INSTRUCTIONS; n++) {
		if (!vmx_emulation_required(vcpu) || vcpu->arch->exception.pending ||
		    kvm_smi_deliverable(vcpu) || kvm_vcpu_exit_request(vcpu))
			break;
		if (vmx_interrupt_allowed(vcpu) && (kvm_event_has_interrupt(vcpu) ||
						    vcpu->run->request_interrupt_window))
			break;
		rip = vmx_get_rip(vcpu);
		r = emulate_at_rip(vcpu, false, ~0ULL, false);
		if (r == 1 && e->sys.halt)
			return halt_if_hlt(vcpu, r);
		if (r == 1 && kvm_emulator_watched(e, vcpu))
			return 0;
		if (r == 1 && vmx_get_rip(vcpu) != rip && kvm_singlestep_exit(vcpu))
			return 0;
	}
	return r;
}

int kvm_emulator_create(struct kvm_vcpu *vcpu)
{
	struct kvm_emulator *e = own_aligned(64, sizeof(*e));
	int err;

	/* idempotent: the same values whoever writes them */
	for (unsigned i = 0; i < ISA_TLB_ENTRIES; i++)
		empty_tlb[i] = (struct isa_tlb_entry){ TLB_NO_ACCESS, TLB_NO_ACCESS,
						       TLB_NO_ACCESS, 0 };
	if (!e)
		return err_born(ENOMEM, "emulator");
	memset(e, 0, sizeof(*e));
	e->check = params_has_word("USERKVM_CHECK", "emulate");
	err = silicon_arena_create(&e->cs.stubs, SILICON_ONE_BYTES);
	if (err) {
		own_free(e);
		return err;
	}
	vcpu->arch->emulator = e;
	return 0;
}

void kvm_emulator_destroy(struct kvm_vcpu *vcpu)
{
	struct kvm_emulator *e = vcpu->arch->emulator;

	if (e)
		silicon_arena_destroy(e->cs.stubs);
	own_free(e);
	vcpu->arch->emulator = NULL;
}
