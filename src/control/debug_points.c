/*
 * The breakpoints of a debugger's session: see debug_points.h.
 *
 * Invariant: a byte that is INT3 no longer when its breakpoint goes was written by the guest since, and stays.
 */
#include "control/debug_points.h"

#include <errno.h>
#include <linux/kvm.h>

#include "control/debug.h"
#include "lib/error.h"
#include "lib/own.h"
#include "sdm/regs.h"
#include "virt/kvm.h"
#include "x86/debugger.h"

#define MAX_SOFT 256
#define NR_HARD 4
#define INT3 0xcc
#define INT_N 0xcd /* CD 03 has the same vector */

struct soft {
	gva_t gva;
	gpa_t gpa;
	uint8_t before;
	uint32_t vcpu_id; /* by whose tables it was found */
};

struct hard {
	bool used;
	uint32_t kind, length;
	gva_t gva;
};

struct debug_points {
	struct kvm *kvm;
	struct soft soft[MAX_SOFT];
	unsigned nr_soft;
	struct hard hard[NR_HARD];
};

struct debug_points *debug_points_new(struct kvm *kvm)
{
	struct debug_points *p = own_calloc(1, sizeof(*p));

	if (p)
		p->kvm = kvm;
	return p;
}

void debug_points_free(struct debug_points *p)
{
	own_free(p);
}

/* --- INT3 --- */

static int insert_soft(struct debug_points *p, struct kvm_vcpu *vcpu, const struct debug_frame *f)
{
	struct soft *s = &p->soft[p->nr_soft];
	uint8_t int3 = INT3;
	int r;

	if (p->nr_soft == MAX_SOFT)
		return err_born(ENOSPC, "%d software breakpoints", MAX_SOFT);
	*s = (struct soft){ .gva = f->addr, .vcpu_id = f->vcpu };
	if (!kvm_debugger_translate(vcpu, f->addr, &s->gpa))
		return err_born(EFAULT, "breakpoint: the guest maps nothing at %#llx", (unsigned long long)f->addr);
	for (unsigned i = 0; i < p->nr_soft; i++)
		if (p->soft[i].gpa == s->gpa) { /* another mapping of the same byte */
			s->before = p->soft[i].before;
			p->nr_soft++;
			return 0;
		}
	r = kvm_debugger_read(vcpu, s->gpa, &s->before, 1);
	if (!r)
		r = kvm_debugger_write(vcpu, s->gpa, &int3, 1);
	p->nr_soft += !r;
	return r;
}

/* The vCPU is between begin and end. */
static void take_out(struct debug_points *p, struct kvm_vcpu *vcpu, unsigned i)
{
	struct soft s = p->soft[i];
	uint8_t now = 0;

	p->soft[i] = p->soft[--p->nr_soft];
	for (unsigned k = 0; k < p->nr_soft; k++)
		if (p->soft[k].gpa == s.gpa)
			return;
	if (!kvm_debugger_read(vcpu, s.gpa, &now, 1) && now == INT3 && kvm_debugger_write(vcpu, s.gpa, &s.before, 1))
		(void)err_born(EFAULT, "a breakpoint stays at gpa %#llx", (unsigned long long)s.gpa);
}

static int remove_soft(struct debug_points *p, struct kvm_vcpu *vcpu, const struct debug_frame *f)
{
	for (unsigned i = 0; i < p->nr_soft; i++)
		if (p->soft[i].gva == f->addr) {
			take_out(p, vcpu, i);
			return 0;
		}
	return err_born(ENOENT, "no breakpoint at %#llx", (unsigned long long)f->addr);
}

void debug_points_hide(const struct debug_points *p, gpa_t gpa, char *bytes, size_t n)
{
	for (unsigned i = 0; i < p->nr_soft; i++) {
		const struct soft *s = &p->soft[i];

		if (s->gpa - gpa < n && (uint8_t)bytes[s->gpa - gpa] == INT3)
			bytes[s->gpa - gpa] = (char)s->before;
	}
}

/* --- debug registers --- */

/* SDM "Debug Registers", "Debug Control Register (DR7)": 1, 2, 4, 8 bytes as 0, 1, 3, 2. */
static int length_bits(uint32_t length)
{
	return length == 1 ? 0 : length == 2 ? 1 : length == 4 ? 3 : length == 8 ? 2 : -1;
}

static int insert_hard(struct debug_points *p, const struct debug_frame *f)
{
	uint32_t length = f->kind == DEBUG_HARD ? 1 : f->length;

	if (length_bits(length) < 0 || f->addr % length)
		return err_born(EINVAL, "a hardware breakpoint of %u bytes at %#llx", length, (unsigned long long)f->addr);
	for (unsigned i = 0; i < NR_HARD; i++) {
		if (p->hard[i].used)
			continue;
		p->hard[i] = (struct hard){ true, f->kind, length, f->addr };
		return 0;
	}
	return err_born(ENOSPC, "%d hardware breakpoints", NR_HARD);
}

static int remove_hard(struct debug_points *p, const struct debug_frame *f)
{
	for (unsigned i = 0; i < NR_HARD; i++) {
		struct hard *h = &p->hard[i];

		if (!h->used || h->kind != f->kind || h->gva != f->addr)
			continue;
		h->used = false;
		return 0;
	}
	return err_born(ENOENT, "no hardware breakpoint at %#llx", (unsigned long long)f->addr);
}

void debug_points_plan(const struct debug_points *p, struct kvm_debugger_plan *plan)
{
	/* R/W: 0 execution, 1 writes, 3 reads and writes; the processor has none for reads alone */
	static const uint8_t rw[] = { [DEBUG_HARD] = 0, [DEBUG_WATCH_WRITE] = 1, [DEBUG_WATCH_READ] = 3, [DEBUG_WATCH_ACCESS] = 3 };

	for (unsigned i = 0; i < NR_HARD; i++) {
		const struct hard *h = &p->hard[i];

		if (!h->used)
			continue;
		plan->db[i] = h->gva;
		plan->dr7 |= BIT_ULL(2 * i) | ((uint64_t)rw[h->kind] | (uint64_t)length_bits(h->length) << 2) << (16 + 4 * i);
	}
	if (plan->dr7)
		plan->dr7 |= BIT_ULL(10); /* always 1 */
}

/* --- all --- */

int debug_points_insert(struct debug_points *p, struct kvm_vcpu *vcpu, const struct debug_frame *f)
{
	if (f->kind > DEBUG_WATCH_ACCESS)
		return err_born(EINVAL, "breakpoint of kind %u", f->kind);
	return f->kind == DEBUG_SOFT ? insert_soft(p, vcpu, f) : insert_hard(p, f);
}

int debug_points_remove(struct debug_points *p, struct kvm_vcpu *vcpu, const struct debug_frame *f)
{
	return f->kind == DEBUG_SOFT ? remove_soft(p, vcpu, f) : remove_hard(p, f);
}

void debug_points_remove_all(struct debug_points *p)
{
	while (p->nr_soft) {
		unsigned last = p->nr_soft - 1;
		struct kvm_vcpu *vcpu = kvm_get_vcpu_by_id(p->kvm, p->soft[last].vcpu_id);

		if (!vcpu || kvm_debugger_begin(vcpu)) {
			p->nr_soft--;
			continue;
		}
		take_out(p, vcpu, last);
		kvm_debugger_end(vcpu);
	}
}

static uint64_t linear_rip(struct kvm_vcpu *vcpu)
{
	struct kvm_debugger_regs r;

	kvm_debugger_get_regs(vcpu, &r);
	return r.sregs.cs.l ? r.regs.rip : (uint32_t)(r.sregs.cs.base + r.regs.rip);
}

static bool name_soft(const struct debug_points *p, uint64_t rip, struct debug_frame *event)
{
	for (unsigned i = 0; i < p->nr_soft; i++)
		if (p->soft[i].gva == rip) {
			event->kind = DEBUG_SOFT;
			event->addr = rip;
			return true;
		}
	return false;
}

bool debug_points_was_ours(struct kvm_vcpu *vcpu, const struct kvm_debugger_hit *hit)
{
	uint8_t now = INT3;
	gpa_t gpa;

	return hit->vector != X86_TRAP_DB && kvm_debugger_translate(vcpu, linear_rip(vcpu), &gpa) &&
	       !kvm_debugger_read(vcpu, gpa, &now, 1) && now != INT3 && now != INT_N;
}

bool debug_points_name(const struct debug_points *p, struct kvm_vcpu *vcpu, const struct kvm_debugger_hit *hit,
		       struct debug_frame *event)
{
	if (hit->vector != X86_TRAP_DB)
		return name_soft(p, linear_rip(vcpu), event);
	/* a watched access is told though a step ended with it */
	for (unsigned i = 0; i < NR_HARD; i++)
		if (hit->dr6 & BIT_ULL(i) && p->hard[i].used) {
			event->kind = p->hard[i].kind;
			event->addr = p->hard[i].gva;
			return true;
		}
	event->kind = DEBUG_STEP;
	return hit->dr6 & DR6_BS;
}
