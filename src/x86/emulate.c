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
 * 2. A read that only the client can serve unwinds with KVM_EXIT_MMIO. When
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
#include <stdlib.h>
#include <string.h>

#include "host/fault.h"
#include "host/memory.h"
#include "isa/fpu.h"
#include "lib/error.h"
#include "lib/log.h"
#include "lib/rcu.h"
#include "sdm/paging.h"
#include "trace/trace.h"
#include "x86/emulator.h"

#define INSN_MAX 15
#define MAX_FRAGMENTS 32 /* of one instruction: 64 bytes and a page crossing, twice */
#define MAX_ITERATIONS 256 /* of a string instruction before the guest runs again */

struct fragment {
	gpa_t gpa;
	unsigned len;
	uint8_t data[8];
};

enum outcome {
	OUT_DONE,	 /* instruction or iteration complete */
	OUT_EXCEPTION,	 /* cs.exception, for the guest */
	OUT_EXIT,	 /* run->exit_reason set: read data wanted */
	OUT_WRITES,	 /* iteration complete, its device writes must go out first */
	OUT_REPLACED,	 /* complete, and the registers are the vCPU's already: RSM */
	OUT_UNSUPPORTED, /* not an instruction we emulate */
	OUT_ERROR,	 /* error: KVM_RUN's value */
};

struct kvm_emulator {
	struct cpu_state cs; /* first: cs.owner is the vCPU */
	struct isa_insn insn;
	uint8_t bytes[INSN_MAX];
	unsigned nr_bytes;
	enum isa_code_mode mode;      /* of the vCPU now */
	enum isa_code_mode insn_mode; /* insn is bytes[] decoded for this one, if insn_valid */
	bool insn_valid;
	uint64_t rip;	 /* where the instruction in progress is */
	bool active;	 /* waits for the client's data */

	void *unwind[5];
	enum outcome outcome;
	int error;

	struct fragment reads[MAX_FRAGMENTS];
	unsigned nr_reads, next_read;
	struct fragment writes[MAX_FRAGMENTS];
	unsigned nr_writes, next_write;
	/* the string registers when the current iteration began */
	uint64_t it_rcx, it_rsi, it_rdi;

	uint8_t pio_in[PAGE_SIZE]; /* elements of a string IN not yet stored */
	unsigned pio_avail, pio_next; /* bytes */
	bool pio_wait;		      /* the client fills run->io */
	bool pio_exit;		      /* an OUT goes to the client */

	struct emulator_sys sys;
	gva_t fault_gva; /* ~0: none. The write that brought us here, perhaps to a page table */
};

static struct isa_tlb_entry empty_tlb[ISA_TLB_ENTRIES];

static struct kvm_emulator *emulator_of(struct cpu_state *cs)
{
	return container_of(cs, struct kvm_emulator, cs);
}

static struct kvm_vcpu *vcpu_of(struct cpu_state *cs)
{
	return cs->owner;
}

static void leave(struct kvm_emulator *e, enum outcome o) __attribute__((noreturn));
static void leave(struct kvm_emulator *e, enum outcome o)
{
	isa_fpu_sync(&e->cs);
	e->outcome = o;
	__builtin_longjmp(e->unwind, 1);
}

struct emulator_sys *kvm_emulator_sys(struct cpu_state *cs)
{
	return &emulator_of(cs)->sys;
}

void kvm_emulator_unsupported(struct cpu_state *cs)
{
	leave(emulator_of(cs), OUT_UNSUPPORTED);
}

void kvm_emulator_replaced(struct cpu_state *cs)
{
	leave(emulator_of(cs), OUT_REPLACED);
}

static void leave_error(struct kvm_emulator *e, int error) __attribute__((noreturn));
static void leave_error(struct kvm_emulator *e, int error)
{
	e->error = error;
	leave(e, OUT_ERROR);
}

/* --- memory --- */

/* A new iteration of a string instruction has begun since the last look. */
static bool new_iteration(struct kvm_emulator *e)
{
	const uint64_t *g = e->cs.gpr;

	return g[RCX] != e->it_rcx || g[RSI] != e->it_rsi || g[RDI] != e->it_rdi;
}

static void begin_iteration(struct kvm_emulator *e)
{
	e->it_rcx = e->cs.gpr[RCX];
	e->it_rsi = e->cs.gpr[RSI];
	e->it_rdi = e->cs.gpr[RDI];
	e->nr_reads = e->next_read = 0;
}

static gpa_t translate(struct kvm_emulator *e, gva_t lin, enum isa_access how)
{
	struct kvm_vcpu *vcpu = vcpu_of(&e->cs);
	struct kvm_page_fault_info f = { 0 };
	uint32_t access = how & ISA_WRITE ? PFERR_WRITE_MASK : 0;
	gpa_t gpa;

	if (e->cs.cpl == 3 && !(how & ISA_IMPLICIT))
		access |= PFERR_USER_MASK;
	gpa = kvm_mmu_gva_to_gpa(vcpu, lin, access, &f);
	if (likely(gpa != INVALID_PAGE))
		return gpa;
	e->cs.exception = (struct isa_exception){
		.vector = f.vector,
		.has_error_code = true,
		.error_code = f.error_code,
		.payload = f.address,
	};
	leave(e, OUT_EXCEPTION);
}

/* RAM that may be accessed so; anything else is a device's. */
static bool is_ram(struct kvm_vcpu *vcpu, gpa_t gpa, bool write)
{
	struct kvm_memory_slot *slot;
	bool ram;

	/* the APIC's page is the APIC's whatever the client has put there */
	if (vcpu->apic && (gpa & PAGE_MASK) == (kvm_get_apic_base(vcpu) & PAGE_MASK))
		return false;
	lib_rcu_read_lock();
	slot = kvm_vcpu_gfn_to_memslot(vcpu, gpa >> PAGE_SHIFT);
	ram = slot && !(write && (slot->flags & KVM_MEM_READONLY));
	lib_rcu_read_unlock();
	return ram;
}

static void read_device(struct kvm_emulator *e, gpa_t gpa, void *buf, unsigned len)
{
	struct kvm_vcpu *vcpu = vcpu_of(&e->cs);
	struct fragment *f;

	if (e->next_read < e->nr_reads) {
		f = &e->reads[e->next_read];
		if (f->gpa == gpa && f->len == len) {
			e->next_read++;
			memcpy(buf, f->data, len);
			return;
		}
		/* the guest's mapping changed under the instruction: what was read is lost */
		e->nr_reads = e->next_read;
	}
	if (e->nr_reads == MAX_FRAGMENTS)
		leave(e, OUT_UNSUPPORTED);
	f = &e->reads[e->nr_reads];
	f->gpa = gpa;
	f->len = len;
	if (kvm_device_mmio_read(vcpu, gpa, (int)len, f->data) == 0) {
		e->nr_reads++;
		e->next_read++;
		memcpy(buf, f->data, len);
		return;
	}
	kvm_mmio_exit(vcpu, gpa, len, false, NULL);
	leave(e, OUT_EXIT);
}

static void read_part(struct kvm_emulator *e, gpa_t gpa, uint8_t *buf, unsigned len, bool ram)
{
	if (ram) {
		int r = kvm_vcpu_read_guest(vcpu_of(&e->cs), gpa, buf, len);

		if (r)
			leave_error(e, r);
		return;
	}
	for (unsigned n; len; gpa += n, buf += n, len -= n) {
		n = len < 8 ? len : 8;
		read_device(e, gpa, buf, n);
	}
}

/* ops->mem: always through `bounce`. */
static void *emulator_mem(struct cpu_state *cs, uint64_t lin, unsigned size, enum isa_access how,
			  void *bounce)
{
	struct kvm_emulator *e = emulator_of(cs);
	struct kvm_vcpu *vcpu = vcpu_of(cs);
	unsigned first = (unsigned)min_u64(size, PAGE_SIZE - (lin & ~PAGE_MASK));
	bool loaded = cs->fpu_loaded;
	gpa_t gpa[2] = { 0, 0 };

	isa_fpu_sync(cs);
	if (new_iteration(e)) {
		if (e->nr_writes)
			leave(e, OUT_WRITES);
		begin_iteration(e);
	}
	gpa[0] = translate(e, lin, how);
	if (first < size)
		gpa[1] = translate(e, lin + first, how);
	if (how & ISA_READ) {
		read_part(e, gpa[0], bounce, first, is_ram(vcpu, gpa[0], false));
		if (first < size)
			read_part(e, gpa[1], (uint8_t *)bounce + first, size - first,
				  is_ram(vcpu, gpa[1], false));
	}
	if (loaded)
		isa_fpu_load(cs);
	return bounce;
}

static void write_part(struct kvm_emulator *e, gva_t lin, const uint8_t *buf, unsigned len)
{
	struct kvm_vcpu *vcpu = vcpu_of(&e->cs);
	struct kvm_page_fault_info ignored;
	uint32_t access = PFERR_WRITE_MASK | (e->cs.cpl == 3 ? PFERR_USER_MASK : 0U);
	gpa_t gpa = kvm_mmu_gva_to_gpa(vcpu, lin, access, &ignored);
	struct fragment *f;

	if (gpa == INVALID_PAGE) {
		/* checked a moment ago; another vCPU has just unmapped it */
		e->error = -EAGAIN;
		return;
	}
	if (is_ram(vcpu, gpa, true)) {
		int r = kvm_write_guest_as_processor(vcpu, gpa, buf, len);

		if (r)
			e->error = r;
		return;
	}
	for (unsigned n; len; gpa += n, buf += n, len -= n) {
		n = len < 8 ? len : 8;
		if (e->nr_writes == MAX_FRAGMENTS) {
			e->error = -E2BIG;
			return;
		}
		f = &e->writes[e->nr_writes++];
		f->gpa = gpa;
		f->len = n;
		memcpy(f->data, buf, n);
	}
}

/* ops->mem_commit: cannot leave; what goes wrong is in e->error. */
static void emulator_mem_commit(struct cpu_state *cs, uint64_t lin, unsigned size,
				const void *bounce)
{
	struct kvm_emulator *e = emulator_of(cs);
	unsigned first = (unsigned)min_u64(size, PAGE_SIZE - (lin & ~PAGE_MASK));
	bool loaded = cs->fpu_loaded;

	isa_fpu_sync(cs);
	write_part(e, lin, bounce, first);
	if (first < size)
		write_part(e, lin + first, (const uint8_t *)bounce + first, size - first);
	if (loaded)
		isa_fpu_load(cs);
}

static void emulator_raise(struct cpu_state *cs) __attribute__((noreturn));
static void emulator_raise(struct cpu_state *cs)
{
	leave(emulator_of(cs), OUT_EXCEPTION);
}

/* --- INS and OUTS --- */

static uint64_t ad_mask(const struct isa_insn *i)
{
	return i->adsize == 8 ? ~0ULL : i->adsize == 4 ? 0xffffffff : 0xffff;
}

/* A counter or pointer register, changed at the address size's width. */
static void add_reg(struct cpu_state *cs, const struct isa_insn *i, unsigned reg, int64_t delta)
{
	isa_set_gpr(cs, reg, i->adsize, cs->gpr[reg] + (uint64_t)delta);
}

static uint64_t repetitions(const struct cpu_state *cs, const struct isa_insn *i)
{
	return i->flags & (ISA_REP | ISA_REPNE) ? cs->gpr[RCX] & ad_mask(i) : 1;
}

/* How many elements from offset `reg` on stay in one page, going up. */
static unsigned batch(const struct cpu_state *cs, uint64_t lin, unsigned size, uint64_t n)
{
	uint64_t room = (PAGE_SIZE - (lin & ~PAGE_MASK)) / size;

	if (cs->rflags & X86_FLAGS_DF || room == 0)
		return 1;
	n = min_u64(n, room);
	return (unsigned)min_u64(n, PAGE_SIZE / size);
}

static void step(struct cpu_state *cs, const struct isa_insn *i, unsigned reg, unsigned size)
{
	add_reg(cs, i, reg, cs->rflags & X86_FLAGS_DF ? -(int64_t)size : (int64_t)size);
	if (i->flags & (ISA_REP | ISA_REPNE))
		add_reg(cs, i, RCX, -1);
}

static void string_end(struct cpu_state *cs, const struct isa_insn *i)
{
	bool again = (i->flags & (ISA_REP | ISA_REPNE)) && (cs->gpr[RCX] & ad_mask(i));

	cs->rip = again ? isa_rip(cs) : isa_next_rip(cs, i);
}

static void do_ins(struct cpu_state *cs, const struct isa_insn *i)
{
	struct kvm_emulator *e = emulator_of(cs);
	uint16_t port = (uint16_t)cs->gpr[RDX];
	unsigned size = i->aux, n;
	uint64_t lin;

	if (repetitions(cs, i) == 0) {
		string_end(cs, i);
		return;
	}
	lin = isa_linear(cs, SREG_ES, cs->gpr[RDI] & ad_mask(i), size, ISA_WRITE);
	(void)emulator_mem(cs, lin, size, ISA_WRITE, cs->bounce);
	if (e->pio_next == e->pio_avail) {
		n = batch(cs, lin, size, repetitions(cs, i));
		e->pio_next = 0;
		e->pio_avail = 0;
		if (kvm_pio_in(vcpu_of(cs), port, (int)size, e->pio_in, n)) {
			e->pio_wait = true;
			leave(e, OUT_EXIT);
		}
		e->pio_avail = n * size;
	}
	while (e->pio_next < e->pio_avail && repetitions(cs, i)) {
		lin = isa_linear(cs, SREG_ES, cs->gpr[RDI] & ad_mask(i), size, ISA_WRITE);
		(void)emulator_mem(cs, lin, size, ISA_WRITE, cs->bounce);
		memcpy(cs->bounce, e->pio_in + e->pio_next, size);
		emulator_mem_commit(cs, lin, size, cs->bounce);
		e->pio_next += size;
		step(cs, i, RDI, size);
		if (!(i->flags & (ISA_REP | ISA_REPNE)))
			break;
	}
	string_end(cs, i);
}

static void do_outs(struct cpu_state *cs, const struct isa_insn *i)
{
	struct kvm_emulator *e = emulator_of(cs);
	uint16_t port = (uint16_t)cs->gpr[RDX];
	unsigned size = i->aux, n;
	uint8_t *buf = e->pio_in;
	uint64_t lin;

	if (repetitions(cs, i) == 0) {
		string_end(cs, i);
		return;
	}
	lin = isa_linear(cs, i->seg, cs->gpr[RSI] & ad_mask(i), size, ISA_READ);
	n = batch(cs, lin, size, repetitions(cs, i));
	for (unsigned k = 0; k < n; k++) {
		lin = isa_linear(cs, i->seg, (cs->gpr[RSI] + k * size) & ad_mask(i), size,
				 ISA_READ);
		memcpy(buf + k * size, emulator_mem(cs, lin, size, ISA_READ, cs->bounce), size);
	}
	if (kvm_pio_out(vcpu_of(cs), port, (int)size, buf, n))
		e->pio_exit = true;
	for (unsigned k = 0; k < n; k++)
		step(cs, i, RSI, size);
	string_end(cs, i);
}

/* IN and OUT, where the processor does not run the guest. e4..e7 have the port in the instruction. */
static uint16_t port_of(const struct cpu_state *cs, const struct isa_insn *i)
{
	return i->opcode & 8 ? (uint16_t)cs->gpr[RDX] : (uint8_t)i->imm;
}

static void do_in(struct cpu_state *cs, const struct isa_insn *i)
{
	struct kvm_emulator *e = emulator_of(cs);
	uint64_t v = 0;

	if (e->pio_next == e->pio_avail) {
		e->pio_next = e->pio_avail = 0;
		if (kvm_pio_in(vcpu_of(cs), port_of(cs, i), i->aux, e->pio_in, 1)) {
			e->pio_wait = true;
			leave(e, OUT_EXIT);
		}
		e->pio_avail = i->aux;
	}
	memcpy(&v, e->pio_in + e->pio_next, i->aux);
	e->pio_next += i->aux;
	isa_set_gpr(cs, RAX, i->aux, v);
	cs->rip = isa_next_rip(cs, i);
}

static void do_out(struct cpu_state *cs, const struct isa_insn *i)
{
	struct kvm_emulator *e = emulator_of(cs);

	if (kvm_pio_out(vcpu_of(cs), port_of(cs, i), i->aux, &cs->gpr[RAX], 1))
		e->pio_exit = true;
	cs->rip = isa_next_rip(cs, i);
}

static void unsupported(struct cpu_state *cs, const struct isa_insn *i)
{
	leave(emulator_of(cs), OUT_UNSUPPORTED);
}

/* ops->system: I/O is ours, the rest emulate_sys.c's. */
static isa_fn *emulator_system(const struct isa_decoded *d, struct isa_insn *i)
{
	isa_fn *fn;

	switch (d->insn.mnemonic) {
	case ZYDIS_MNEMONIC_INSB:
	case ZYDIS_MNEMONIC_INSW:
	case ZYDIS_MNEMONIC_INSD:
	case ZYDIS_MNEMONIC_OUTSB:
	case ZYDIS_MNEMONIC_OUTSW:
	case ZYDIS_MNEMONIC_OUTSD:
		/* 6c 6d ins, 6e 6f outs; even opcodes are bytes; there is no 8-byte form */
		i->flags |= ISA_ENDS_BLOCK;
		i->aux = !(d->insn.opcode & 1) ? 1 : d->insn.operand_width == 16 ? 2 : 4;
		return d->insn.opcode & 2 ? do_outs : do_ins;
	case ZYDIS_MNEMONIC_IN:
	case ZYDIS_MNEMONIC_OUT:
		i->flags |= ISA_ENDS_BLOCK;
		i->aux = !(d->insn.opcode & 1) ? 1 : d->insn.operand_width == 16 ? 2 : 4;
		return d->insn.mnemonic == ZYDIS_MNEMONIC_IN ? do_in : do_out;
	default:
		fn = kvm_emulator_system(d, i);
		return fn ? fn : unsupported;
	}
}

static const struct isa_ops emulator_ops = {
	.mem = emulator_mem,
	.mem_commit = emulator_mem_commit,
	.raise = emulator_raise,
	.system = emulator_system,
};

/* --- state in and out (emulate_state.c) --- */

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

/* --- fetch and decode --- */

unsigned kvm_fetch_code(struct kvm_vcpu *vcpu, uint8_t *bytes, unsigned len,
			struct kvm_page_fault_info *fault)
{
	uint32_t access = PFERR_FETCH_MASK | (vmx_get_cpl(vcpu) == 3 ? PFERR_USER_MASK : 0U);
	gva_t lin = kvm_get_linear_rip(vcpu);
	unsigned done = 0, n;
	gpa_t gpa;

	while (done < len) {
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

/* OUT_DONE, or why there is no instruction to run. */
static enum outcome decode(struct kvm_emulator *e, struct kvm_vcpu *vcpu)
{
	struct kvm_page_fault_info fault = { 0 };
	uint8_t bytes[INSN_MAX];
	static_assert(sizeof(bytes) == sizeof(e->bytes), "one instruction");
	unsigned n = kvm_fetch_code(vcpu, bytes, INSN_MAX, &fault);

	/* device loops emulate the same instruction over and over */
	if (n == INSN_MAX && e->insn_valid && e->nr_bytes == n && e->insn_mode == e->mode &&
	    memcmp(bytes, e->bytes, n) == 0)
		return OUT_DONE;
	memcpy(e->bytes, bytes, n);
	e->nr_bytes = n;
	e->insn_valid = false;
	memset(&e->insn, 0, sizeof(e->insn));
	if (n && isa_decode(bytes, n, e->mode, &emulator_ops, &e->insn) != ISA_DECODE_PARTIAL) {
		e->insn_valid = true;
		e->insn_mode = e->mode;
		return OUT_DONE;
	}
	if (fault.vector) {
		e->cs.exception = (struct isa_exception){
			.vector = fault.vector, .has_error_code = true,
			.error_code = fault.error_code, .payload = fault.address,
		};
		return OUT_EXCEPTION;
	}
	return OUT_UNSUPPORTED; /* code in no memory */
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
	host_fault_set_hook(silicon_hook, e);
	if (__builtin_setjmp(e->unwind) == 0) {
		e->insn.fn(cs, &e->insn);
		if (!(e->insn.flags & ISA_ENDS_BLOCK))
			cs->rip = isa_next_rip(cs, &e->insn);
	}
	host_fault_set_hook(NULL, NULL);
	isa_fpu_sync(cs);
	if (e->error)
		e->outcome = OUT_ERROR;
	return e->outcome;
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
	vmx_set_interrupt_shadow(vcpu, 0);
	if (old_rflags & X86_FLAGS_TF)
		kvm_queue_exception_p(vcpu, X86_TRAP_DB, DR6_BS);
	return 1;
}

int kvm_emulation_failed(struct kvm_vcpu *vcpu, const uint8_t *bytes, unsigned len)
{
	struct kvm_run *run = vcpu->run;
	uint64_t info[5];

	vcpu->stat.insn_emulation_fail++;
	kvm_queue_exception(vcpu, X86_TRAP_UD);
	/* user mode of the guest must not be able to stop the VM */
	if (vmx_get_cpl(vcpu) != 0)
		return 1;
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

static int complete_read(struct kvm_vcpu *vcpu);
static int complete_string_in(struct kvm_vcpu *vcpu);

static int inject(struct kvm_vcpu *vcpu, const struct isa_exception *x)
{
	struct kvm_page_fault_info f = { .vector = x->vector, .error_code = (uint16_t)x->error_code,
					 .address = x->payload };

	if (x->vector == X86_TRAP_PF)
		kvm_inject_page_fault(vcpu, &f);
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
	uint64_t old_rflags = vmx_get_rflags(vcpu);
	enum outcome o;
	int r;

	for (unsigned it = 0; it < MAX_ITERATIONS; it++) {
		e->cs.block_rip = e->rip;
		e->cs.rip = e->rip;
		e->next_read = 0;
		e->pio_exit = false;
		o = run_instruction(e);
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
			store_state(e, vcpu);
			e->active = true;
			vcpu->arch->complete_userspace_io =
				e->pio_wait ? complete_string_in : complete_read;
			return 0;
		case OUT_REPLACED:
			return 1;
		case OUT_UNSUPPORTED:
			/* memory that is protected for its past as a page table: let the guest have it */
			if (e->fault_gva != ~0ULL && kvm_mmu_unprotect(vcpu, e->fault_gva))
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
		begin_iteration(e);
		if (e->cs.rip != e->rip || e->sys.dirty_segs) {
			retire(vcpu, old_rflags);
			if (e->sys.shadow)
				vmx_set_interrupt_shadow(vcpu, e->sys.shadow);
		}
		if (e->pio_exit) {
			vcpu->arch->complete_userspace_io = NULL;
			return 0;
		}
		if (!issue_writes(vcpu))
			return 0;
		if (e->cs.rip != e->rip)
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

/* Nothing could be fetched from what the memslots call memory: the client has taken it away. */
static bool code_is_lost(struct kvm_vcpu *vcpu)
{
	gpa_t gpa = kvm_mmu_gva_to_gpa(vcpu, kvm_get_linear_rip(vcpu), PFERR_FETCH_MASK, NULL);

	return gpa != INVALID_PAGE && is_ram(vcpu, gpa, false);
}

int kvm_emulate_instruction(struct kvm_vcpu *vcpu, bool has_gpa, gpa_t gpa)
{
	struct kvm_emulator *e = vcpu->arch->emulator;
	enum outcome o;

	vcpu->stat.insn_emulation++;
	load_state(e, vcpu);
	e->fault_gva = has_gpa ? ~0ULL : gpa;
	e->active = false;
	e->nr_reads = e->nr_writes = e->next_write = 0;
	e->pio_next = e->pio_avail = 0;
	e->pio_wait = false;
	begin_iteration(e);
	o = decode(e, vcpu);
	if (o == OUT_EXCEPTION)
		return inject(vcpu, &e->cs.exception);
	TRACE_FILL(kvm, kvm_emulate_insn, rec, trace_insn(e, vcpu, o == OUT_UNSUPPORTED, rec));
	if (o == OUT_UNSUPPORTED && !e->nr_bytes && code_is_lost(vcpu))
		return err_born(EFAULT, "the code of vCPU %u is in no memory", vcpu->vcpu_id);
	if (o == OUT_UNSUPPORTED)
		return kvm_emulation_failed(vcpu, e->bytes, e->nr_bytes);
	return emulate(vcpu);
}

/* --- a guest that the processor cannot run --- */

/* An event into real mode: what the entry would have injected is emulated instead. */
static int deliver_real(struct kvm_vcpu *vcpu, uint8_t vector, unsigned insn_len)
{
	struct kvm_emulator *e = vcpu->arch->emulator;

	load_state(e, vcpu);
	e->fault_gva = ~0ULL;
	e->nr_reads = e->nr_writes = e->next_write = 0;
	begin_iteration(e);
	e->insn = (struct isa_insn){ .fn = kvm_emulate_int_real, .flags = ISA_ENDS_BLOCK,
				     .imm = vector, .len = (uint8_t)insn_len };
	e->insn_valid = false;
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
	log_always("vCPU %u: event %u in a state that no processor enters", vcpu->vcpu_id, vector);
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
		r = kvm_emulate_instruction(vcpu, false, ~0ULL);
		if (r == 1 && e->sys.halt) {
			vcpu->stat.halt_exits++;
			return kvm_emulate_halt(vcpu);
		}
		if (r == 1 && vmx_get_rip(vcpu) != rip && kvm_singlestep_exit(vcpu))
			return 0;
	}
	return r;
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

int kvm_emulator_create(struct kvm_vcpu *vcpu)
{
	struct kvm_emulator *e;

	/* idempotent: the same values whoever writes them */
	for (unsigned i = 0; i < ISA_TLB_ENTRIES; i++)
		empty_tlb[i] = (struct isa_tlb_entry){ TLB_NO_ACCESS, TLB_NO_ACCESS,
						       TLB_NO_ACCESS, 0 };
	if (posix_memalign((void **)&e, 64, sizeof(*e)))
		return err_born(ENOMEM, "emulator");
	memset(e, 0, sizeof(*e));
	vcpu->arch->emulator = e;
	return 0;
}

void kvm_emulator_destroy(struct kvm_vcpu *vcpu)
{
	free(vcpu->arch->emulator);
	vcpu->arch->emulator = NULL;
}
