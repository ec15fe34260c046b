/*
 * The memory behind emulated instructions: isa_ops.mem and .mem_commit over
 * guest memory and devices. The invariants are emulate.c's.
 */
#include <string.h>

#include "emulate/internal.h"
#include "isa/fpu.h"
#include "lib/error.h"
#include "lib/rcu.h"
#include "sdm/paging.h"

#define CACHE_LINE 64U

static void leave_error(struct kvm_emulator *e, int error) __attribute__((noreturn));
static void leave_error(struct kvm_emulator *e, int error)
{
	e->error = error;
	kvm_emulator_leave(e, OUT_ERROR);
}

/* A new iteration of a string instruction has begun since the last look. */
static bool new_iteration(struct kvm_emulator *e)
{
	const uint64_t *g = e->cs.gpr;

	return g[RCX] != e->it_rcx || g[RSI] != e->it_rsi || g[RDI] != e->it_rdi;
}

void kvm_emulator_begin_iteration(struct kvm_emulator *e)
{
	e->it_rcx = e->cs.gpr[RCX];
	e->it_rsi = e->cs.gpr[RSI];
	e->it_rdi = e->cs.gpr[RDI];
	e->nr_reads = e->next_read = 0;
}

/*
 * The access that made the exit, again: the processor has translated and checked it. INVALID_PAGE: it is
 * another one, or more than that was.
 */
static gpa_t known_translation(const struct kvm_emulator *e, gva_t lin, enum isa_access how)
{
	const struct vmx_exit_insn *a = &e->assist;

	if (!e->has_assist || lin != a->gla || (how & ISA_IMPLICIT) || a->gpa == ~0ULL ||
	    ((how & ISA_WRITE) && !a->write) || ((how & ISA_READ) && !a->read))
		return INVALID_PAGE;
	return a->gpa;
}

/* Where there is another vCPU, it may have changed the tables since the exit. */
gpa_t kvm_emulator_checked(struct kvm_emulator *e, gpa_t walked, gpa_t known)
{
	struct kvm *kvm = kvm_emulator_vcpu(&e->cs)->kvm;

	if (unlikely(known != INVALID_PAGE && walked != INVALID_PAGE && walked != known) && READ_ONCE(kvm->nr_vcpus) == 1)
		kvm_vm_bugged(kvm, "the exit's address is not the emulator's");
	return walked;
}

static gpa_t translate(struct kvm_emulator *e, gva_t lin, enum isa_access how)
{
	struct kvm_vcpu *vcpu = kvm_emulator_vcpu(&e->cs);
	struct kvm_page_fault_info f = { 0 };
	uint32_t access = how & ISA_WRITE ? PFERR_WRITE_MASK : 0;
	gpa_t gpa;

	if (e->cs.cpl == 3 && !(how & ISA_IMPLICIT))
		access |= PFERR_USER_MASK;
	gpa = known_translation(e, lin, how);
	if (gpa == INVALID_PAGE || unlikely(e->check))
		gpa = kvm_emulator_checked(e, kvm_mmu_gva_to_gpa(vcpu, lin, access, &f), gpa);
	if (likely(gpa != INVALID_PAGE))
		return gpa;
	e->nested_fault = f;
	e->cs.exception = (struct isa_exception){
		.vector = f.vector,
		.has_error_code = true,
		.error_code = f.error_code,
		.payload = f.address,
	};
	kvm_emulator_leave(e, OUT_EXCEPTION);
}

bool kvm_emulator_is_ram(struct kvm_vcpu *vcpu, gpa_t gpa, bool write)
{
	struct kvm_memory_slot *slot;
	bool ram;

	/* the APIC's page is the APIC's whatever the client has put there */
	if (vcpu->apic && (gpa & PAGE_MASK) == (kvm_get_apic_base(vcpu) & PAGE_MASK))
		return false;
	lib_rcu_read_lock();
	slot = kvm_vcpu_gfn_to_memslot(vcpu, gpa >> PAGE_SHIFT);
	/* and so is the page behind it; the identity map is memory */
	ram = slot && slot->id != APIC_ACCESS_PAGE_PRIVATE_MEMSLOT && !(write && (slot->flags & KVM_MEM_READONLY));
	lib_rcu_read_unlock();
	return ram;
}

/* False: the client is asked, and the handler returns (ISA_LAST). */
static bool read_device(struct kvm_emulator *e, gpa_t gpa, void *buf, unsigned len)
{
	struct kvm_vcpu *vcpu = kvm_emulator_vcpu(&e->cs);
	struct fragment *f;

	if (e->next_read < e->nr_reads) {
		f = &e->reads[e->next_read];
		if (f->gpa == gpa && f->len == len) {
			e->next_read++;
			memcpy(buf, f->data, len);
			return true;
		}
		/* the guest's mapping changed under the instruction: what was read is lost */
		e->nr_reads = e->next_read;
	}
	if (e->nr_reads == MAX_FRAGMENTS)
		kvm_emulator_leave(e, OUT_UNSUPPORTED);
	f = &e->reads[e->nr_reads];
	f->gpa = gpa;
	f->len = len;
	if (kvm_device_mmio_read(vcpu, gpa, (int)len, f->data) == 0) {
		e->nr_reads++;
		e->next_read++;
		memcpy(buf, f->data, len);
		return true;
	}
	kvm_mmio_exit(vcpu, gpa, len, false, NULL);
	if (!(e->access & ISA_LAST))
		kvm_emulator_leave(e, OUT_EXIT);
	e->outcome = OUT_EXIT;
	return false;
}

static bool read_part(struct kvm_emulator *e, gpa_t gpa, uint8_t *buf, unsigned len, bool ram)
{
	if (ram) {
		int r = kvm_vcpu_read_guest(kvm_emulator_vcpu(&e->cs), gpa, buf, len);

		if (r)
			leave_error(e, r);
		return true;
	}
	for (unsigned n; len; gpa += n, buf += n, len -= n) {
		n = len < 8 ? len : 8;
		if (!read_device(e, gpa, buf, n))
			return false;
	}
	return true;
}

/* The next page's first byte: outside 64-bit mode linear addresses wrap at 4 GiB; tables' do not in IA-32e mode. */
static gva_t following(const struct cpu_state *cs, gva_t lin, enum isa_access how)
{
	bool wide = cs->code_mode == ISA_CODE64 || ((how & ISA_IMPLICIT) && (cs->efer & EFER_LMA));

	return wide ? lin : (uint32_t)lin;
}

void *kvm_emulator_mem(struct cpu_state *cs, uint64_t lin, unsigned size, enum isa_access how,
			  void *bounce)
{
	struct kvm_emulator *e = kvm_emulator_of(cs);
	struct kvm_vcpu *vcpu = kvm_emulator_vcpu(cs);
	unsigned first = (unsigned)min_u64(size, PAGE_SIZE - (lin & ~PAGE_MASK));
	bool loaded = cs->fpu_loaded;
	gpa_t gpa[2] = { 0, 0 };

	e->access = how;
	isa_fpu_sync(cs);
	if (new_iteration(e)) {
		if (e->nr_writes)
			kvm_emulator_leave(e, OUT_WRITES);
		kvm_emulator_begin_iteration(e);
	}
	gpa[0] = translate(e, lin, how);
	if (first < size)
		gpa[1] = translate(e, following(cs, lin + first, how), how);
	if (unlikely(e->dr7))
		kvm_emulator_watch(e, lin, size, how);
	if (how & ISA_READ) {
		if (!read_part(e, gpa[0], bounce, first, kvm_emulator_is_ram(vcpu, gpa[0], false)))
			return NULL;
		if (first < size && !read_part(e, gpa[1], (uint8_t *)bounce + first, size - first,
					       kvm_emulator_is_ram(vcpu, gpa[1], false)))
			return NULL;
	}
	e->locked_len = 0;
	if ((e->insn.flags & ISA_LOCK) && (how & ISA_READ) && (how & ISA_WRITE) && size <= sizeof(e->locked_old) &&
	    lin % CACHE_LINE + size <= CACHE_LINE) {
		e->locked_len = size;
		memcpy(e->locked_old, bounce, size);
	}
	if (loaded)
		isa_fpu_load(cs);
	return bounce;
}

/* A locked write to memory that has changed since it was read: the guest tries again, from the read on. */
static int write_memory(struct kvm_emulator *e, gpa_t gpa, const void *buf, unsigned len)
{
	struct kvm_vcpu *vcpu = kvm_emulator_vcpu(&e->cs);
	int r;

	if (len != e->locked_len)
		return kvm_write_guest_as_processor(vcpu, gpa, buf, len);
	r = kvm_cmpxchg_guest_as_processor(vcpu, gpa, e->locked_old, buf, len);
	return r > 0 ? 0 : r < 0 ? r : -EAGAIN;
}

static void write_part(struct kvm_emulator *e, gva_t lin, const uint8_t *buf, unsigned len, bool user)
{
	struct kvm_vcpu *vcpu = kvm_emulator_vcpu(&e->cs);
	struct kvm_page_fault_info ignored;
	uint32_t access = PFERR_WRITE_MASK | (user ? PFERR_USER_MASK : 0U);
	gpa_t gpa = known_translation(e, lin, ISA_WRITE);
	struct fragment *f;

	if (gpa == INVALID_PAGE || unlikely(e->check))
		gpa = kvm_emulator_checked(e, kvm_mmu_gva_to_gpa(vcpu, lin, access, &ignored), gpa);

	if (gpa == INVALID_PAGE) {
		/* checked a moment ago; another vCPU has just unmapped it */
		e->error = -EAGAIN;
		return;
	}
	if (kvm_emulator_is_ram(vcpu, gpa, true)) {
		int r = write_memory(e, gpa, buf, len);

		if (r)
			e->error = r;
		return;
	}
	for (unsigned n; len; gpa += n, buf += n, len -= n) {
		n = len < 8 ? len : 8;
		if (e->nr_writes == MAX_FRAGMENTS) {
			e->too_long = true;
			return;
		}
		f = &e->writes[e->nr_writes++];
		f->gpa = gpa;
		f->len = n;
		memcpy(f->data, buf, n);
	}
}

void kvm_emulator_mem_commit(struct cpu_state *cs, uint64_t lin, unsigned size,
				const void *bounce)
{
	unsigned first = (unsigned)min_u64(size, PAGE_SIZE - (lin & ~PAGE_MASK));
	struct kvm_emulator *e = kvm_emulator_of(cs);
	bool user = cs->cpl == 3 && !(e->access & ISA_IMPLICIT);
	bool loaded = cs->fpu_loaded;

	isa_fpu_sync(cs);
	write_part(e, lin, bounce, first, user);
	if (first < size)
		write_part(e, following(cs, lin + first, e->access), (const uint8_t *)bounce + first, size - first, user);
	if (loaded)
		isa_fpu_load(cs);
}

void kvm_emulator_raise(struct cpu_state *cs)
{
	kvm_emulator_leave(kvm_emulator_of(cs), OUT_EXCEPTION);
}
