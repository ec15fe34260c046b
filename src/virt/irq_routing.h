/*
 * GSI routing: from an interrupt line or MSI to the chips (KVM API:
 * KVM_SET_GSI_ROUTING, KVM_IRQ_LINE, KVM_SIGNAL_MSI).
 *
 * The chips are the irq room's: it supplies the `set` of each kind of entry.
 */
#ifndef USERKVM_VIRT_IRQ_ROUTING_H
#define USERKVM_VIRT_IRQ_ROUTING_H

#include "virt/kvm.h"

#define KVM_MAX_IRQ_ROUTES 4096
#define KVM_USERSPACE_IRQ_SOURCE_ID 0
#define KVM_IRQFD_RESAMPLE_IRQ_SOURCE_ID 1
#define KVM_PIT_IRQ_SOURCE_ID 2

struct kvm_kernel_irq_routing_entry {
	uint32_t gsi;
	uint32_t type; /* KVM_IRQ_ROUTING_* */
	/* level as for KVM_IRQ_LINE; returns < 0 ignored, 0 coalesced, > 0 delivered to that many */
	int (*set)(struct kvm_kernel_irq_routing_entry *e, struct kvm *kvm, int irq_source_id,
		   int level);
	union {
		struct {
			uint32_t irqchip; /* KVM_IRQCHIP_* */
			uint32_t pin;
		} irqchip;
		struct {
			uint32_t address_lo, address_hi, data;
		} msi;
		struct {
			uint32_t vcpu; /* VP index */
			uint32_t sint;
		} hv_sint;
	};
};

/* Fills e->set and what it needs; -EINVAL for a type the irq room does not know. */
typedef int kvm_set_routing_entry_fn(struct kvm *kvm, struct kvm_kernel_irq_routing_entry *e,
				     const struct kvm_irq_routing_entry *ue);
void kvm_register_routing(kvm_set_routing_entry_fn *fn);
/* What must stop before the vCPUs are destroyed: the PIT's timer. */
void kvm_register_irq_quiesce(void (*fn)(struct kvm *kvm));
void kvm_irq_quiesce(struct kvm *kvm);

/*
 * KVM API: KVM_SET_GSI_ROUTING: replaces the whole table. -EINVAL: no in-kernel
 * irqchip, flags, GSI >= KVM_MAX_IRQ_ROUTES, a GSI twice on one chip or beside an
 * MSI, an entry the irq room refuses. -ENOMEM. The table is as it was on error.
 * May sleep for a grace period; takes irq_lock.
 */
must_check int kvm_set_irq_routing(struct kvm *kvm, const struct kvm_irq_routing_entry *entries,
				   uint32_t nr, uint32_t flags);
/* The same without asking for an irqchip: for its creation. */
must_check int __kvm_set_irq_routing(struct kvm *kvm, const struct kvm_irq_routing_entry *entries,
				     uint32_t nr, uint32_t flags);
void kvm_free_irq_routing(struct kvm *kvm);
/* Drive a GSI: as `set` above, summed over the entries of the GSI. Any thread of ours. */
int kvm_set_irq(struct kvm *kvm, int irq_source_id, uint32_t gsi, int level);
/* The entries of a GSI into entries[] (KVM_NR_IRQCHIPS at most); their number. */
int kvm_irq_map_gsi(struct kvm *kvm, struct kvm_kernel_irq_routing_entry *entries, uint32_t gsi);
int kvm_irq_map_chip_pin(struct kvm *kvm, uint32_t irqchip, uint32_t pin); /* GSI, or -1 */

/* EOI notifiers (level-triggered irqfds, PIT reinjection). */
struct kvm_irq_ack_notifier {
	struct kvm_irq_ack_notifier *next;
	uint32_t gsi;
	void (*irq_acked)(struct kvm_irq_ack_notifier *kian);
};
/* Takes irq_lock; unregistering waits until no callback runs. Callbacks must not block. */
void kvm_register_irq_ack_notifier(struct kvm *kvm, struct kvm_irq_ack_notifier *kian);
void kvm_unregister_irq_ack_notifier(struct kvm *kvm, struct kvm_irq_ack_notifier *kian);
void kvm_notify_acked_irq(struct kvm *kvm, uint32_t irqchip, uint32_t pin);
bool kvm_irq_has_notifier(struct kvm *kvm, uint32_t irqchip, uint32_t pin);
void kvm_notify_acked_gsi(struct kvm *kvm, int gsi);
/* Calls fn for each entry of a type (KVM_IRQ_ROUTING_*) with gsi < nr_gsis until it returns true. fn must not block. */
void kvm_irq_for_each_route(struct kvm *kvm, uint32_t type, uint32_t nr_gsis,
			    bool (*fn)(const struct kvm_kernel_irq_routing_entry *e, void *arg),
			    void *arg);

#endif
