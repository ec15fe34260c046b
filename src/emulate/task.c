/*
 * Task switches, which VMX leaves to the hypervisor (SDM Vol. 3, "Task
 * Switching", tables "Exception Conditions Checked During a Task Switch",
 * figures "32-Bit Task-State Segment", "16-Bit TSS Format").
 *
 * A fault found before the new task is committed to is raised in the old one;
 * the segments of the new task are checked one after the other in the new.
 */
#include <string.h>

#include "emulate/emulate.h"
#include "isa/segment.h"
#include "lib/error.h"
#include "sdm/descriptor.h"
#include "sdm/paging.h"
#include "x86/run.h"

struct tss32 {
	uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags;
	uint32_t gpr[8];
	uint32_t es, cs, ss, ds, fs, gs, ldt;
	uint16_t t, io_map;
} __attribute__((packed));
static_assert(sizeof(struct tss32) == 104, "32-Bit Task-State Segment");

struct tss16 {
	uint16_t link, sp0, ss0, sp1, ss1, sp2, ss2, ip, flags;
	uint16_t gpr[8];
	uint16_t es, cs, ss, ds, ldt;
} __attribute__((packed));
static_assert(sizeof(struct tss16) == 44, "16-Bit TSS Format");

/* Guest memory by linear address, as implicit supervisor accesses. 0 or an exception queued (1). */
static int sys_access(struct kvm_vcpu *vcpu, gva_t lin, void *data, unsigned len, bool write)
{
	struct kvm_page_fault_info f = { 0 };
	char *p = data;

	for (unsigned n; len; lin += n, p += n, len -= n) {
		gpa_t gpa = kvm_mmu_gva_to_gpa(vcpu, lin, write ? PFERR_WRITE_MASK : 0, &f);

		if (gpa == INVALID_PAGE) {
			kvm_inject_page_fault(vcpu, &f);
			return 1;
		}
		n = (unsigned)min_u64(len, PAGE_SIZE - (lin & ~PAGE_MASK));
		if (write ? kvm_write_guest_as_processor(vcpu, gpa, p, n)
			  : kvm_vcpu_read_guest(vcpu, gpa, p, n))
			return -EFAULT;
	}
	return 0;
}

static int fault(struct kvm_vcpu *vcpu, uint8_t vector, uint16_t selector)
{
	kvm_queue_exception_e(vcpu, vector, selector & 0xfffcU);
	return 1;
}

/* Address of a descriptor, by its selector; false outside the table. */
static bool descriptor_address(struct kvm_vcpu *vcpu, uint16_t selector, gva_t *lin)
{
	struct kvm_dtable gdt, idt;
	struct kvm_segment tr, ldt;
	unsigned offset = selector & 0xfff8U;

	vmx_get_gdt_idt(vcpu, &gdt, &idt);
	if (selector & 4) {
		vmx_get_tr_ldt(vcpu, &tr, &ldt);
		if (ldt.unusable || offset + 7 > ldt.limit)
			return false;
		*lin = ldt.base + offset;
		return true;
	}
	if (offset + 7 > gdt.limit)
		return false;
	*lin = gdt.base + offset;
	return true;
}

static void unpack(struct kvm_segment *s, uint16_t selector, uint64_t d)
{
	*s = (struct kvm_segment){
		.selector = selector, .base = sdm_descriptor_base(d), .limit = sdm_descriptor_limit(d),
	};
	vmx_segment_set_access_rights(s, sdm_descriptor_rights(d));
}

/* The descriptor's busy bit. */
static int set_busy(struct kvm_vcpu *vcpu, uint16_t selector, bool busy)
{
	gva_t lin;
	uint8_t b;
	int r;

	if (!descriptor_address(vcpu, selector, &lin))
		return fault(vcpu, X86_TRAP_TS, selector);
	r = sys_access(vcpu, lin + 5, &b, 1, false);
	if (r)
		return r;
	b = (uint8_t)(busy ? b | SYS_TSS_BUSY : b & ~SYS_TSS_BUSY);
	return sys_access(vcpu, lin + 5, &b, 1, true);
}

static uint16_t selector_of(struct kvm_vcpu *vcpu, enum sreg nr)
{
	struct kvm_segment s;

	vmx_get_segment(vcpu, &s, nr);
	return s.selector;
}

static int save_old(struct kvm_vcpu *vcpu, const struct kvm_segment *tr, bool clear_nt)
{
	uint64_t *g = vmx_regs(vcpu), flags = vmx_get_rflags(vcpu);
	struct tss32 t;
	struct tss16 t16;
	int r;

	if (clear_nt)
		flags &= ~X86_FLAGS_NT;
	if (tr->type & 8) {
		r = sys_access(vcpu, tr->base, &t, sizeof(t), false);
		if (r)
			return r;
		t.eip = (uint32_t)vmx_get_rip(vcpu);
		t.eflags = (uint32_t)flags;
		for (unsigned i = 0; i < 8; i++)
			t.gpr[i] = (uint32_t)g[i];
		t.es = selector_of(vcpu, SREG_ES);
		t.cs = selector_of(vcpu, SREG_CS);
		t.ss = selector_of(vcpu, SREG_SS);
		t.ds = selector_of(vcpu, SREG_DS);
		t.fs = selector_of(vcpu, SREG_FS);
		t.gs = selector_of(vcpu, SREG_GS);
		/* from EIP to GS: the rest is not the processor's to write */
		return sys_access(vcpu, tr->base + offsetof(struct tss32, eip), &t.eip,
				  offsetof(struct tss32, ldt) - offsetof(struct tss32, eip), true);
	}
	r = sys_access(vcpu, tr->base, &t16, sizeof(t16), false);
	if (r)
		return r;
	t16.ip = (uint16_t)vmx_get_rip(vcpu);
	t16.flags = (uint16_t)flags;
	for (unsigned i = 0; i < 8; i++)
		t16.gpr[i] = (uint16_t)g[i];
	t16.es = selector_of(vcpu, SREG_ES);
	t16.cs = selector_of(vcpu, SREG_CS);
	t16.ss = selector_of(vcpu, SREG_SS);
	t16.ds = selector_of(vcpu, SREG_DS);
	return sys_access(vcpu, tr->base + offsetof(struct tss16, ip), &t16.ip,
			  offsetof(struct tss16, ldt) - offsetof(struct tss16, ip), true);
}

static void load_v86(struct kvm_vcpu *vcpu, enum sreg nr, uint16_t selector)
{
	struct kvm_segment s = {
		.base = (uint64_t)selector << 4, .limit = 0xffff, .selector = selector,
		.type = 3, .present = 1, .dpl = 3, .s = 1,
	};

	vmx_set_segment(vcpu, &s, nr);
}

/* A segment register of the new task. 0, 1 with an exception queued, < 0. */
static int load_segment(struct kvm_vcpu *vcpu, enum sreg nr, uint16_t selector, unsigned cpl)
{
	struct kvm_segment s;
	uint32_t ar;
	uint64_t d;
	bool fits;
	gva_t lin;
	int r;

	if (isa_selector_null(selector)) {
		if (nr == SREG_CS || nr == SREG_SS)
			return fault(vcpu, X86_TRAP_TS, selector);
		memset(&s, 0, sizeof(s));
		s.selector = selector;
		s.unusable = 1;
		vmx_set_segment(vcpu, &s, nr);
		return 0;
	}
	if (!descriptor_address(vcpu, selector, &lin))
		return fault(vcpu, X86_TRAP_TS, selector);
	r = sys_access(vcpu, lin, &d, sizeof(d), false);
	if (r)
		return r;
	unpack(&s, selector, d);
	ar = sdm_descriptor_rights(d);
	fits = nr == SREG_CS   ? isa_ar_fits_cs(ar, cpl)
	       : nr == SREG_SS ? isa_ar_fits_ss(ar, selector & 3, cpl)
			       : isa_ar_fits_data(ar, selector & 3, cpl);
	if (!fits)
		return fault(vcpu, X86_TRAP_TS, selector);
	if (!s.present)
		return fault(vcpu, nr == SREG_SS ? X86_TRAP_SS : X86_TRAP_NP, selector);
	if (!(s.type & 1)) {
		uint8_t type = (uint8_t)(d >> 40) | 1;

		r = sys_access(vcpu, lin + 5, &type, 1, true);
		if (r)
			return r;
		s.type |= 1;
	}
	vmx_set_segment(vcpu, &s, nr);
	return 0;
}

static int load_ldt(struct kvm_vcpu *vcpu, uint16_t selector)
{
	struct kvm_segment tr, ldt;
	uint64_t d;
	gva_t lin;
	int r;

	vmx_get_tr_ldt(vcpu, &tr, &ldt);
	memset(&ldt, 0, sizeof(ldt));
	ldt.selector = selector;
	ldt.unusable = 1;
	vmx_set_tr_ldt(vcpu, &tr, &ldt);
	if (isa_selector_null(selector))
		return 0;
	if ((selector & 4) || !descriptor_address(vcpu, selector, &lin))
		return fault(vcpu, X86_TRAP_TS, selector);
	r = sys_access(vcpu, lin, &d, sizeof(d), false);
	if (r)
		return r;
	unpack(&ldt, selector, d);
	if (ldt.s || ldt.type != SYS_LDT || !ldt.present)
		return fault(vcpu, X86_TRAP_TS, selector);
	vmx_set_tr_ldt(vcpu, &tr, &ldt);
	return 0;
}

/* Both TSS formats in one. */
struct new_task {
	uint32_t cr3, eip, eflags, gpr[8];
	uint16_t seg[NR_SREGS], ldt;
	bool wide;
};

static int read_new(struct kvm_vcpu *vcpu, const struct kvm_segment *tr, struct new_task *n)
{
	struct tss32 t;
	struct tss16 t16;
	int r;

	memset(n, 0, sizeof(*n));
	n->wide = tr->type & 8;
	if (n->wide) {
		r = sys_access(vcpu, tr->base, &t, sizeof(t), false);
		if (r)
			return r;
		n->cr3 = t.cr3;
		n->eip = t.eip;
		n->eflags = t.eflags;
		memcpy(n->gpr, t.gpr, sizeof(n->gpr));
		n->seg[SREG_ES] = (uint16_t)t.es;
		n->seg[SREG_CS] = (uint16_t)t.cs;
		n->seg[SREG_SS] = (uint16_t)t.ss;
		n->seg[SREG_DS] = (uint16_t)t.ds;
		n->seg[SREG_FS] = (uint16_t)t.fs;
		n->seg[SREG_GS] = (uint16_t)t.gs;
		n->ldt = (uint16_t)t.ldt;
		return 0;
	}
	r = sys_access(vcpu, tr->base, &t16, sizeof(t16), false);
	if (r)
		return r;
	n->eip = t16.ip;
	n->eflags = t16.flags;
	for (unsigned i = 0; i < 8; i++)
		n->gpr[i] = t16.gpr[i] | 0xffff0000U;
	n->seg[SREG_ES] = t16.es;
	n->seg[SREG_CS] = t16.cs;
	n->seg[SREG_SS] = t16.ss;
	n->seg[SREG_DS] = t16.ds;
	n->ldt = t16.ldt;
	return 0;
}

static int load_new(struct kvm_vcpu *vcpu, const struct new_task *n)
{
	uint64_t *g = vmx_regs(vcpu);
	static const enum sreg order[] = { SREG_CS, SREG_SS, SREG_ES, SREG_DS, SREG_FS, SREG_GS };
	unsigned cpl = n->eflags & X86_FLAGS_VM ? 3 : n->seg[SREG_CS] & 3U;
	int r;

	if (n->wide && (vmx_get_cr0(vcpu) & X86_CR0_PG) && kvm_set_cr3(vcpu, n->cr3))
		return fault(vcpu, X86_TRAP_GP, 0);
	vmx_set_rip(vcpu, n->eip);
	vmx_set_rflags(vcpu, n->eflags | X86_FLAGS_FIXED);
	for (unsigned i = 0; i < 8; i++)
		g[i] = n->gpr[i];
	vmx_set_rsp(vcpu, g[RSP]);
	r = load_ldt(vcpu, n->ldt);
	if (r)
		return r;
	for (size_t i = 0; i < ARRAY_SIZE(order); i++) {
		if (n->eflags & X86_FLAGS_VM) {
			load_v86(vcpu, order[i], n->seg[order[i]]);
			continue;
		}
		r = load_segment(vcpu, order[i], n->seg[order[i]], cpl);
		if (r)
			return r;
	}
	return 0;
}

static int push_error_code(struct kvm_vcpu *vcpu, uint32_t error_code, bool wide)
{
	unsigned size = wide ? 4 : 2;
	struct kvm_segment ss;
	uint64_t sp, mask;
	int r;

	vmx_get_segment(vcpu, &ss, SREG_SS);
	mask = ss.db ? 0xffffffff : 0xffff;
	sp = (vmx_regs(vcpu)[RSP] - size) & mask;
	r = sys_access(vcpu, (uint32_t)(ss.base + sp), &error_code, size, true);
	if (r)
		return r;
	vmx_set_rsp(vcpu, (vmx_regs(vcpu)[RSP] & ~mask) | sp);
	return 0;
}

static int do_switch(struct kvm_vcpu *vcpu, uint16_t selector, int source, bool has_error_code,
		     uint32_t error_code)
{
	struct kvm_segment old, ldt, tss;
	struct new_task task;
	uint16_t back;
	uint64_t d;
	gva_t lin;
	int r;

	vmx_get_tr_ldt(vcpu, &old, &ldt);
	if ((selector & 4) || isa_selector_null(selector) || !descriptor_address(vcpu, selector, &lin))
		return fault(vcpu, source == TASK_SWITCH_IRET ? X86_TRAP_TS : X86_TRAP_GP, selector);
	r = sys_access(vcpu, lin, &d, sizeof(d), false);
	if (r)
		return r;
	unpack(&tss, selector, d);
	if (!tss.present)
		return fault(vcpu, X86_TRAP_NP, selector);
	if (tss.limit < sdm_tss_least_limit(tss.type))
		return fault(vcpu, X86_TRAP_TS, selector);

	if (source == TASK_SWITCH_IRET || source == TASK_SWITCH_JMP) {
		r = set_busy(vcpu, old.selector, false);
		if (r)
			return r;
	}
	r = save_old(vcpu, &old, source == TASK_SWITCH_IRET);
	if (r)
		return r;
	r = read_new(vcpu, &tss, &task);
	if (r)
		return r;
	if (source == TASK_SWITCH_CALL || source == TASK_SWITCH_GATE) {
		back = old.selector;
		r = sys_access(vcpu, tss.base, &back, sizeof(back), true);
		if (r)
			return r;
		task.eflags |= X86_FLAGS_NT;
	}
	if (source != TASK_SWITCH_IRET) {
		r = set_busy(vcpu, selector, true);
		if (r)
			return r;
	}
	/* from here on it is the new task's fault */
	vmx_set_cr0(vcpu, vmx_get_cr0(vcpu) | X86_CR0_TS);
	tss.type |= SYS_TSS_BUSY;
	vmx_set_tr_ldt(vcpu, &tss, &ldt);
	vcpu->arch->dr7 &= ~0x155ULL; /* the local breakpoints, LE */
	kvm_update_dr7(vcpu);
	r = load_new(vcpu, &task);
	if (r)
		return r;
	return has_error_code ? push_error_code(vcpu, error_code, task.wide) : 0;
}

int kvm_task_switch(struct kvm_vcpu *vcpu, uint16_t selector, int source, bool has_error_code,
		    uint32_t error_code, int idt_vector)
{
	int r = do_switch(vcpu, selector, source, has_error_code, error_code);

	vmx_set_interrupt_shadow(vcpu, 0);
	kvm_make_request(KVM_REQ_EVENT, vcpu);
	return r < 0 ? r : 1;
}
