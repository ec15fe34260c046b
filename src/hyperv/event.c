/*
 * HvSignalEvent to an eventfd of the client's (KVM API: KVM_HYPERV_EVENTFD).
 *
 * Invariant: hv->conns is NULL or a table that never changes, sorted by id;
 * writers (conn_lock) publish another, and free the old one, and an eventfd that
 * left it, after a grace period.
 */
#include <string.h>

#include "hyperv/internal.h"
#include "lib/error.h"
#include "lib/own.h"
#include "lib/rcu.h"
#include "virt/eventfd.h"

struct hv_connections {
	uint32_t nr;
	struct connection {
		uint32_t id;
		struct virt_eventfd eventfd;
	} c[];
};

/* The first that is not below id. */
static uint32_t position(const struct hv_connections *t, uint32_t id)
{
	uint32_t lo = 0, hi = t ? t->nr : 0;

	while (lo < hi) {
		uint32_t mid = (lo + hi) / 2;

		if (t->c[mid].id < id)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static bool is_at(const struct hv_connections *t, uint32_t pos, uint32_t id)
{
	return t && pos < t->nr && t->c[pos].id == id;
}

bool hv_signal_connection(struct kvm *kvm, uint32_t conn_id)
{
	const struct hv_connections *t;
	uint32_t pos;
	bool found;

	lib_rcu_read_lock();
	t = __atomic_load_n(&kvm->arch->hv.conns, __ATOMIC_ACQUIRE);
	pos = position(t, conn_id);
	found = is_at(t, pos, conn_id);
	if (found)
		virt_eventfd_signal(&t->c[pos].eventfd);
	lib_rcu_read_unlock();
	return found;
}

/* A table with room for `nr`, the first `pos` of them the old one's. */
static struct hv_connections *begin_table(const struct hv_connections *old, uint32_t nr, uint32_t pos)
{
	struct hv_connections *t = own_malloc(sizeof(*t) + nr * sizeof(t->c[0]));

	if (!t)
		return NULL;
	t->nr = nr;
	if (pos)
		memcpy(t->c, old->c, pos * sizeof(t->c[0]));
	return t;
}

static void publish(struct kvm_hv *hv, struct hv_connections *t)
{
	struct hv_connections *old = hv->conns;

	__atomic_store_n(&hv->conns, t, __ATOMIC_RELEASE);
	lib_rcu_synchronize();
	own_free(old);
}

static int insert(struct kvm_hv *hv, uint32_t id, const struct virt_eventfd *eventfd)
{
	const struct hv_connections *old = hv->conns;
	uint32_t pos = position(old, id), nr = old ? old->nr : 0;
	struct hv_connections *t;

	if (is_at(old, pos, id))
		return err_born(EEXIST, "connection %#x has an eventfd", id);
	t = begin_table(old, nr + 1, pos);
	if (!t)
		return err_born(ENOMEM, "no memory for %u connections", nr + 1);
	t->c[pos] = (struct connection){ id, *eventfd };
	if (pos < nr)
		memcpy(t->c + pos + 1, old->c + pos, (nr - pos) * sizeof(t->c[0]));
	publish(hv, t);
	return 0;
}

static int assign(struct kvm_hv *hv, const struct kvm_hyperv_eventfd *args)
{
	struct virt_eventfd eventfd;
	int r = virt_eventfd_get(args->fd, &eventfd);

	if (r)
		return r;
	pthread_mutex_lock(&hv->conn_lock);
	r = insert(hv, args->conn_id, &eventfd);
	pthread_mutex_unlock(&hv->conn_lock);
	if (r)
		virt_eventfd_put(&eventfd);
	return r;
}

/* *eventfd is the caller's to give back. conn_lock held. */
static int take_out(struct kvm_hv *hv, uint32_t id, struct virt_eventfd *eventfd)
{
	const struct hv_connections *old = hv->conns;
	uint32_t pos = position(old, id);
	struct hv_connections *t = NULL;

	if (!is_at(old, pos, id))
		return err_born(ENOENT, "connection %#x has no eventfd", id);
	*eventfd = old->c[pos].eventfd;
	if (old->nr > 1) {
		t = begin_table(old, old->nr - 1, pos);
		if (!t)
			return err_born(ENOMEM, "no memory for %u connections", old->nr - 1);
		memcpy(t->c + pos, old->c + pos + 1, (old->nr - pos - 1) * sizeof(t->c[0]));
	}
	publish(hv, t);
	return 0;
}

static int deassign(struct kvm_hv *hv, uint32_t id)
{
	struct virt_eventfd eventfd;
	int r;

	pthread_mutex_lock(&hv->conn_lock);
	r = take_out(hv, id, &eventfd);
	pthread_mutex_unlock(&hv->conn_lock);
	if (!r)
		virt_eventfd_put(&eventfd);
	return r;
}

int kvm_vm_ioctl_hv_eventfd(struct kvm *kvm, const struct kvm_hyperv_eventfd *args)
{
	if ((args->flags & ~(uint32_t)KVM_HYPERV_EVENTFD_DEASSIGN) ||
	    (args->conn_id & ~(uint32_t)KVM_HYPERV_CONN_ID_MASK))
		return err_born(EINVAL, "connection %#x, flags %#x", args->conn_id, args->flags);
	if (args->flags & KVM_HYPERV_EVENTFD_DEASSIGN)
		return deassign(&kvm->arch->hv, args->conn_id);
	return assign(&kvm->arch->hv, args);
}

/* Nobody calls any more. */
void hv_connections_destroy(struct kvm *kvm)
{
	struct hv_connections *t = kvm->arch->hv.conns;

	for (uint32_t i = 0; t && i < t->nr; i++)
		virt_eventfd_put(&t->c[i].eventfd);
	own_free(t);
	kvm->arch->hv.conns = NULL;
}
