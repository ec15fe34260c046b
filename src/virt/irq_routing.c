/*
 * GSI routing: which chip pins or MSI a GSI means, and who hears of EOIs.
 *
 * The table is immutable and replaced under RCU (writers: irq_lock). Entries
 * are sorted by GSI; first[gsi] .. first[gsi + 1] are those of one GSI. A GSI has
 * at most one entry a chip, or exactly one of another type.
 *
 * EOI notifiers hang on the table's VM in a list of their own (irq_lock for
 * writers, RCU for readers); callbacks run inside the read-side section and
 * must not block, nor register or unregister.
 */
#include "lib/own.h"
#include "trace/trace.h"
#include "virt/irq_routing.h"

#include <string.h>

#include "lib/error.h"
#include "lib/rcu.h"

#define NR_CHIP_PINS 24 /* of the largest chip, the IOAPIC */

struct kvm_irq_routing_table {
	int chip[KVM_NR_IRQCHIPS][NR_CHIP_PINS]; /* GSI of a pin, -1 none */
	uint32_t nr_gsis;			 /* entries have gsi < nr_gsis */
	uint32_t *first;			 /* nr_gsis + 1 indices */
	struct kvm_kernel_irq_routing_entry entries[];
};

static kvm_set_routing_entry_fn *set_entry;

void kvm_register_routing(kvm_set_routing_entry_fn *fn)
{
	set_entry = fn;
}

static void (*quiesce)(struct kvm *kvm);

void kvm_register_irq_quiesce(void (*fn)(struct kvm *kvm))
{
	quiesce = fn;
}

void kvm_irq_quiesce(struct kvm *kvm)
{
	if (quiesce)
		quiesce(kvm);
}

static const struct kvm_irq_routing_table *table_of(struct kvm *kvm)
{
	return __atomic_load_n(&kvm->irq_routing, __ATOMIC_ACQUIRE);
}

/*
 * One GSI may reach several chips, but each of them once, and an MSI alone.
 * `entries` holds the n entries of this GSI so far.
 */
static int check_sharing(const struct kvm_kernel_irq_routing_entry *entries, uint32_t n,
			 const struct kvm_irq_routing_entry *ue)
{
	for (uint32_t i = 0; i < n; i++) {
		if (entries[i].type != KVM_IRQ_ROUTING_IRQCHIP ||
		    ue->type != KVM_IRQ_ROUTING_IRQCHIP ||
		    entries[i].irqchip.irqchip == ue->u.irqchip.irqchip)
			return err_born(EINVAL, "GSI %u routed twice", ue->gsi);
	}
	return 0;
}

static int check_entry(const struct kvm_irq_routing_entry *ue)
{
	uint32_t allowed = ue->type == KVM_IRQ_ROUTING_MSI ? KVM_MSI_VALID_DEVID : 0;

	if (ue->gsi >= KVM_MAX_IRQ_ROUTES)
		return err_born(EINVAL, "GSI %u is too large", ue->gsi);
	if (ue->flags & ~allowed)
		return err_born(EINVAL, "GSI %u: flags %#x", ue->gsi, ue->flags);
	return 0;
}

/* Offsets of each GSI's entries; first[g + 1] serves as fill pointer until the end. */
static void index_gsis(struct kvm_irq_routing_table *t, const struct kvm_irq_routing_entry *ue,
		       uint32_t nr)
{
	memset(t->first, 0, (t->nr_gsis + 1) * sizeof(t->first[0]));
	for (uint32_t i = 0; i < nr; i++)
		t->first[ue[i].gsi + 1]++;
	for (uint32_t g = 0; g < t->nr_gsis; g++)
		t->first[g + 1] += t->first[g];
}

static int fill_table(struct kvm *kvm, struct kvm_irq_routing_table *t, uint32_t *filled,
		      const struct kvm_irq_routing_entry *ue, uint32_t nr)
{
	for (uint32_t i = 0; i < nr; i++) {
		uint32_t gsi = ue[i].gsi;
		struct kvm_kernel_irq_routing_entry *group = t->entries + t->first[gsi];
		struct kvm_kernel_irq_routing_entry *e = group + filled[gsi];
		int err = check_sharing(group, filled[gsi], &ue[i]);

		if (err)
			return err;
		e->gsi = gsi;
		e->type = ue[i].type;
		err = set_entry ? set_entry(kvm, e, &ue[i])
				: err_born(EINVAL, "no interrupt controllers");
		if (err)
			return err;
		if (e->type == KVM_IRQ_ROUTING_IRQCHIP)
			t->chip[e->irqchip.irqchip][e->irqchip.pin] = (int)gsi;
		filled[gsi]++;
	}
	return 0;
}

static void table_free(struct kvm_irq_routing_table *t)
{
	if (t)
		own_free(t->first);
	own_free(t);
}

static int build_table(struct kvm *kvm, const struct kvm_irq_routing_entry *ue, uint32_t nr,
		       struct kvm_irq_routing_table **out)
{
	struct kvm_irq_routing_table *t;
	uint32_t nr_gsis = 0, *filled;
	int err = 0;

	for (uint32_t i = 0; i < nr; i++) {
		err = check_entry(&ue[i]);
		if (err)
			return err;
		nr_gsis = (uint32_t)max_u64(nr_gsis, ue[i].gsi + 1);
	}
	t = own_calloc(1, sizeof(*t) + nr * sizeof(t->entries[0]));
	filled = own_calloc(nr_gsis + 1, sizeof(*filled));
	if (t) {
		t->nr_gsis = nr_gsis;
		t->first = own_calloc(nr_gsis + 1, sizeof(t->first[0]));
		memset(t->chip, -1, sizeof(t->chip));
	}
	if (!t || !filled || !t->first) {
		err = err_born(ENOMEM, "no memory for %u routes", nr);
		goto out;
	}
	index_gsis(t, ue, nr);
	err = fill_table(kvm, t, filled, ue, nr);
	if (!err) {
		*out = t;
		t = NULL;
	}
out:
	own_free(filled);
	table_free(t);
	return err;
}

int __kvm_set_irq_routing(struct kvm *kvm, const struct kvm_irq_routing_entry *entries, uint32_t nr,
			  uint32_t flags)
{
	struct kvm_irq_routing_table *new = NULL, *old;
	int err;

	if (flags)
		return err_born(EINVAL, "routing flags %#x", flags);
	if (nr > KVM_MAX_IRQ_ROUTES)
		return err_born(EINVAL, "%u routes", nr);
	err = build_table(kvm, entries, nr, &new);
	if (err)
		return err;
	pthread_mutex_lock(&kvm->irq_lock);
	old = kvm->irq_routing;
	__atomic_store_n(&kvm->irq_routing, new, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&kvm->irq_lock);
	if (old)
		lib_rcu_synchronize();
	table_free(old);
	kvm_make_scan_ioapic_request(kvm);
	return 0;
}

int kvm_set_irq_routing(struct kvm *kvm, const struct kvm_irq_routing_entry *entries, uint32_t nr,
			uint32_t flags)
{
	if (!kvm->vpic && !kvm->irqchip_split)
		return err_born(EINVAL, "routing without an in-kernel irqchip");
	return __kvm_set_irq_routing(kvm, entries, nr, flags);
}

void kvm_free_irq_routing(struct kvm *kvm)
{
	table_free(kvm->irq_routing);
	kvm->irq_routing = NULL;
}

int kvm_irq_map_gsi(struct kvm *kvm, struct kvm_kernel_irq_routing_entry *entries, uint32_t gsi)
{
	const struct kvm_irq_routing_table *t;
	int n = 0;

	lib_rcu_read_lock();
	t = table_of(kvm);
	if (t && gsi < t->nr_gsis) {
		n = (int)(t->first[gsi + 1] - t->first[gsi]);
		memcpy(entries, t->entries + t->first[gsi], (size_t)n * sizeof(*entries));
	}
	lib_rcu_read_unlock();
	return n;
}

int kvm_irq_map_chip_pin(struct kvm *kvm, uint32_t irqchip, uint32_t pin)
{
	const struct kvm_irq_routing_table *t;
	int gsi = -1;

	if (irqchip >= KVM_NR_IRQCHIPS || pin >= NR_CHIP_PINS)
		return -1;
	lib_rcu_read_lock();
	t = table_of(kvm);
	if (t)
		gsi = t->chip[irqchip][pin];
	lib_rcu_read_unlock();
	return gsi;
}

int kvm_set_irq(struct kvm *kvm, int irq_source_id, uint32_t gsi, int level)
{
	struct kvm_kernel_irq_routing_entry entries[KVM_NR_IRQCHIPS];
	int n = kvm_irq_map_gsi(kvm, entries, gsi), ret = -1;

	TRACE(kvm, kvm_set_irq, gsi, level, irq_source_id);
	while (n-- > 0) {
		int r = entries[n].set(&entries[n], kvm, irq_source_id, level);

		if (r >= 0)
			ret = r + (ret < 0 ? 0 : ret);
	}
	return ret;
}

void kvm_register_irq_ack_notifier(struct kvm *kvm, struct kvm_irq_ack_notifier *kian)
{
	pthread_mutex_lock(&kvm->irq_lock);
	kian->next = kvm->irq_ack_notifiers;
	__atomic_store_n(&kvm->irq_ack_notifiers, kian, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&kvm->irq_lock);
	kvm_make_scan_ioapic_request(kvm);
}

void kvm_unregister_irq_ack_notifier(struct kvm *kvm, struct kvm_irq_ack_notifier *kian)
{
	struct kvm_irq_ack_notifier **p;

	pthread_mutex_lock(&kvm->irq_lock);
	for (p = &kvm->irq_ack_notifiers; *p; p = &(*p)->next) {
		if (*p == kian) {
			__atomic_store_n(p, kian->next, __ATOMIC_RELEASE);
			break;
		}
	}
	pthread_mutex_unlock(&kvm->irq_lock);
	lib_rcu_synchronize();
	kvm_make_scan_ioapic_request(kvm);
}

/* The first notifier of a GSI at or behind n in the list. Read-side section. */
static struct kvm_irq_ack_notifier *next_notifier(struct kvm_irq_ack_notifier *n, int gsi)
{
	while (n && n->gsi != (uint32_t)gsi)
		n = __atomic_load_n(&n->next, __ATOMIC_ACQUIRE);
	return n;
}

static struct kvm_irq_ack_notifier *first_notifier(struct kvm *kvm)
{
	return __atomic_load_n(&kvm->irq_ack_notifiers, __ATOMIC_ACQUIRE);
}

void kvm_notify_acked_gsi(struct kvm *kvm, int gsi)
{
	struct kvm_irq_ack_notifier *n;

	lib_rcu_read_lock();
	for (n = next_notifier(first_notifier(kvm), gsi); n; n = next_notifier(n->next, gsi))
		n->irq_acked(n);
	lib_rcu_read_unlock();
}

void kvm_notify_acked_irq(struct kvm *kvm, uint32_t irqchip, uint32_t pin)
{
	int gsi;

	TRACE(kvm, kvm_ack_irq, irqchip, pin);
	if (!READ_ONCE(kvm->irq_ack_notifiers))
		return;
	gsi = kvm_irq_map_chip_pin(kvm, irqchip, pin);
	if (gsi >= 0)
		kvm_notify_acked_gsi(kvm, gsi);
}

bool kvm_irq_has_notifier(struct kvm *kvm, uint32_t irqchip, uint32_t pin)
{
	bool found = false;
	int gsi;

	if (!READ_ONCE(kvm->irq_ack_notifiers))
		return false;
	gsi = kvm_irq_map_chip_pin(kvm, irqchip, pin);
	lib_rcu_read_lock();
	if (gsi >= 0)
		found = next_notifier(first_notifier(kvm), gsi) != NULL;
	lib_rcu_read_unlock();
	return found;
}

void kvm_irq_for_each_route(struct kvm *kvm, uint32_t type, uint32_t nr_gsis,
			    bool (*fn)(const struct kvm_kernel_irq_routing_entry *e, void *arg),
			    void *arg)
{
	const struct kvm_irq_routing_table *t;

	lib_rcu_read_lock();
	t = table_of(kvm);
	for (uint32_t i = 0; t && i < t->first[min_u64(nr_gsis, t->nr_gsis)]; i++) {
		if (t->entries[i].type == type && fn(&t->entries[i], arg))
			break;
	}
	lib_rcu_read_unlock();
}
