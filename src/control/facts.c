/*
 * Requests about a process's VMs, their slots and their counters.
 */
#include <stdio.h>

#include "abi/introspect.h"
#include "control/internal.h"
#include "host/timer.h"
#include "lib/rcu.h"
#include "virt/exit_stats.h"
#include "virt/kvm.h"

#define MAX_VMS 256

typedef unsigned long long ull;

static uint32_t count_slots(struct kvm *kvm)
{
	uint32_t n = 0;

	lib_rcu_read_lock();
	for (int as = 0; as < KVM_ADDRESS_SPACE_NUM; as++)
		n += __kvm_memslots(kvm, as)->used_slots;
	lib_rcu_read_unlock();
	return n;
}

void control_vms(struct reply *r, struct kvm *none, const uint64_t *args)
{
	struct kvm *vms[MAX_VMS];
	unsigned n = abi_vms_get(vms, MAX_VMS);

	for (unsigned i = 0; i < n; i++) {
		struct kvm_vcpu *vcpu;
		uint32_t v;

		reply_line(r, "vm %llu %u %u %d", (ull)vms[i]->serial,
			   __atomic_load_n(&vms[i]->nr_vcpus, __ATOMIC_ACQUIRE), count_slots(vms[i]),
			   READ_ONCE(vms[i]->dead));
		kvm_for_each_vcpu(v, vcpu, vms[i])
			reply_line(r, "vcpu %llu %u", (ull)vms[i]->serial, vcpu->vcpu_id);
		kvm_put_kvm(vms[i]);
	}
}

void control_slots(struct reply *r, struct kvm *kvm, const uint64_t *args)
{
	lib_rcu_read_lock();
	for (int as = 0; as < KVM_ADDRESS_SPACE_NUM; as++) {
		const struct kvm_memslots *slots = __kvm_memslots(kvm, as);

		for (uint32_t i = 0; i < slots->used_slots; i++) {
			const struct kvm_memory_slot *s = slots->slots[i];

			reply_line(r, "slot %d %u %llx %llx %llx %x", as, s->id,
				   (ull)s->base_gfn << PAGE_SHIFT, (ull)s->npages << PAGE_SHIFT,
				   (ull)s->userspace_addr, s->flags);
		}
	}
	lib_rcu_read_unlock();
}

static void stat_lines(struct reply *r, const char *whose, const struct kvm_stat_table *t,
		       const void *stat)
{
	for (unsigned i = 0; i < t->nr; i++) {
		const struct kvm_stat_row *row = &t->rows[i];
		const uint64_t *v = (const void *)((const char *)stat + row->offset);
		char text[KVM_HALT_HIST_COUNT * 21 + 1];
		int n = 0;

		for (unsigned k = 0; k < row->items && n + 22 <= (int)sizeof(text); k++)
			n += snprintf(text + n, sizeof(text) - (size_t)n, " %llu",
				      (ull)READ_ONCE(v[k]));
		reply_line(r, "%s %s%s", whose, row->name, text);
	}
}

struct inhibits {
	struct reply *r;
	uint64_t serial;
};

/* As a counter: over several VMs they add up to how many there are. */
static void inhibit_line(void *arg, const char *reason)
{
	const struct inhibits *i = arg;

	reply_line(i->r, "vm %llu apicv_inhibit_%s 1", (ull)i->serial, reason);
}

struct counters {
	struct reply *r;
	const char *whose;
};

static void counter_line(void *arg, const char *name, uint64_t value)
{
	const struct counters *c = arg;

	reply_line(c->r, "%s %s %llu", c->whose, name, (ull)value);
}

void control_stats(struct reply *r, struct kvm *none, const uint64_t *args)
{
	struct kvm *vms[MAX_VMS];
	unsigned n = abi_vms_get(vms, MAX_VMS);

	for (unsigned i = 0; i < n; i++) {
		struct kvm_vcpu *vcpu;
		char whose[64];
		uint32_t v;

		snprintf(whose, sizeof(whose), "vm %llu", (ull)vms[i]->serial);
		stat_lines(r, whose, &kvm_vm_stat_table, &vms[i]->stat);
		abi_vm_apicv_inhibits(vms[i], inhibit_line, &(struct inhibits){ r, vms[i]->serial });
		kvm_for_each_vcpu(v, vcpu, vms[i]) {
			snprintf(whose, sizeof(whose), "vcpu %llu %u", (ull)vms[i]->serial,
				 vcpu->vcpu_id);
			stat_lines(r, whose, &kvm_vcpu_stat_table, &vcpu->stat);
			abi_vcpu_processor_counters(vcpu, counter_line, &(struct counters){ r, whose });
		}
		kvm_put_kvm(vms[i]);
	}
}

/* "COUNT TOTAL MIN MAX", times in nanoseconds. */
static const char *times(const struct kvm_exit_time *t, char *buf, size_t size)
{
	double per_ns = (double)host_tsc_khz() / 1e6;

	snprintf(buf, size, "%llu %.0f %.0f %.0f", (ull)READ_ONCE(t->count), (double)READ_ONCE(t->total) / per_ns,
		 (double)READ_ONCE(t->min) / per_ns, (double)READ_ONCE(t->max) / per_ns);
	return buf;
}

static void exit_lines(struct reply *r, const struct kvm_vcpu *vcpu, const struct kvm_exit_stats *s)
{
	char host[100], client[100];

	for (unsigned l2 = 0; l2 < 2; l2++) {
		for (unsigned n = 0; n < KVM_EXIT_STATS_REASONS; n++) {
			if (!READ_ONCE(s->row[l2][n].host.count))
				continue;
			reply_line(r, "exit %u %u %u %s %s", vcpu->vcpu_id, l2, n,
				   times(&s->row[l2][n].host, host, sizeof(host)),
				   times(&s->row[l2][n].client, client, sizeof(client)));
		}
	}
}

void control_exits(struct reply *r, struct kvm *kvm, const uint64_t *args)
{
	uint32_t seconds = args[0] > KVM_EXIT_STATS_MAX_LEASE_S ? KVM_EXIT_STATS_MAX_LEASE_S : (uint32_t)args[0], v;
	struct kvm_vcpu *vcpu;

	kvm_for_each_vcpu(v, vcpu, kvm) {
		const struct kvm_exit_stats *s;

		if (kvm_exit_stats_ask(vcpu, seconds)) {
			reply_error(r, "no memory to measure vCPU %u", vcpu->vcpu_id);
			return;
		}
		s = kvm_exit_stats_of(vcpu);
		/* the numbers of an asker before this one are not the answer */
		if (s && !__atomic_load_n(&s->restart, __ATOMIC_ACQUIRE))
			exit_lines(r, vcpu, s);
	}
}
