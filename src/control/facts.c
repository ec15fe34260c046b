/*
 * Requests about a process's VMs, their slots and their counters.
 */
#include <stdio.h>

#include "abi/introspect.h"
#include "control/internal.h"
#include "lib/rcu.h"
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
		kvm_for_each_vcpu(v, vcpu, vms[i]) {
			snprintf(whose, sizeof(whose), "vcpu %llu %u", (ull)vms[i]->serial,
				 vcpu->vcpu_id);
			stat_lines(r, whose, &kvm_vcpu_stat_table, &vcpu->stat);
		}
		kvm_put_kvm(vms[i]);
	}
}
