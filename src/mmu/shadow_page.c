/*
 * Shadow pages as a data structure: found by gfn and role, linked to what they
 * map (rmap) and to what leads to them (parents). The invariants are shadow.h's.
 *
 * The processor sets A and D in our entries behind our back and we preset both,
 * so that it has nothing to set; entries are still changed by atomic operations.
 *
 * Locks: mmu_lock for writing throughout.
 */
#include <string.h>

#include "host/memory.h"
#include "lib/error.h"
#include "lib/own.h"
#include "mmu/shadow.h"
#include "mmu/shadow_vcpu.h"

/* How many are free at least after some had to go (Linux KVM_REFILL_PAGES). */
#define REFILL_PAGES 25

static void count(uint64_t *counter, int64_t n)
{
	__atomic_fetch_add(counter, (uint64_t)n, __ATOMIC_RELAXED);
}

/* --- life --- */

int shadow_vm_create(struct kvm_mmu_vm *vm)
{
	struct shadow_vm *s = own_calloc(1, sizeof(*s));

	__atomic_store_n(&vm->shadow, s, __ATOMIC_RELEASE);
	if (!s)
		return err_born(ENOMEM, "no memory for the hash of shadow pages");
	return 0;
}

static struct shadow_page *alloc_page(void)
{
	struct shadow_page *sp = own_aligned(SHADOW_PAGE_SIZE, SHADOW_PAGE_SIZE);

	if (!sp)
		return NULL;
	memset(sp, 0, sizeof(*sp));
	sp->spt = host_frame_alloc();
	if (sp->spt)
		return sp;
	own_free(sp);
	return NULL;
}

static void free_page(struct shadow_page *sp)
{
	host_frame_free(sp->spt);
	own_free(sp);
}

int shadow_topup(struct kvm_vcpu *vcpu)
{
	struct shadow_vcpu *s = vcpu->mmu_vcpu->shadow;

	while (s->nr_cached < SHADOW_CACHE_PAGES) {
		struct shadow_page *sp = alloc_page();

		if (!sp)
			return err_born(ENOMEM, "no memory for shadow pages");
		s->cache[s->nr_cached++] = sp;
	}
	return 0;
}

void shadow_drain_cache(struct kvm_vcpu *vcpu)
{
	struct shadow_vcpu *s = vcpu->mmu_vcpu->shadow;

	while (s->nr_cached)
		free_page(s->cache[--s->nr_cached]);
}

/* --- rmap and entries --- */

static void node_add(struct shadow_node *n, struct shadow_node **head)
{
	n->next = *head;
	n->pprev = head;
	if (n->next)
		n->next->pprev = &n->next;
	*head = n;
}

static void node_del(struct shadow_node *n)
{
	*n->pprev = n->next;
	if (n->next)
		n->next->pprev = n->pprev;
	n->next = NULL;
	n->pprev = NULL;
}

void shadow_link_child(struct shadow_page *parent, unsigned index, struct shadow_page *child)
{
	parent->node[index].child = child;
	node_add(&parent->node[index], &child->parents);
	__atomic_store_n(&parent->spt[index],
			 __pa(child->spt) | sp_table_bits(parent),
			 __ATOMIC_RELEASE);
}

void shadow_set_leaf(struct kvm_mmu_vm *vm, struct shadow_page *sp, unsigned index, uint64_t e,
		     gfn_t gfn, struct shadow_node **rmap)
{
	struct shadow_node *n = &sp->node[index];

	if (!n->pprev) {
		n->gfn = gfn;
		node_add(n, rmap);
		count(&vm->leaves[sp_level(sp)], 1);
	}
	__atomic_store_n(&sp->spt[index], e, __ATOMIC_RELEASE);
}

bool shadow_drop_spte(struct kvm_mmu_vm *vm, struct shadow_page *sp, unsigned index)
{
	uint64_t old = __atomic_exchange_n(&sp->spt[index], 0, __ATOMIC_ACQ_REL);

	if (!shadow_is_present(old))
		return false;
	node_del(&sp->node[index]);
	if (shadow_is_leaf(old, sp_level(sp)))
		count(&vm->leaves[sp_level(sp)], -1);
	return true;
}

/* --- unsync --- */

static void mark_unsync(struct kvm_mmu_vm *vm, struct shadow_page *sp)
{
	struct shadow_page **head = &vm->shadow->unsync;

	sp->unsync = true;
	vm->kvm->stat.mmu_unsync++;
	sp->unsync_next = *head;
	sp->unsync_pprev = head;
	if (sp->unsync_next)
		sp->unsync_next->unsync_pprev = &sp->unsync_next;
	*head = sp;
}

void shadow_unlink_unsync(struct kvm_mmu_vm *vm, struct shadow_page *sp)
{
	if (!sp->unsync)
		return;
	sp->unsync = false;
	vm->kvm->stat.mmu_unsync--;
	*sp->unsync_pprev = sp->unsync_next;
	if (sp->unsync_next)
		sp->unsync_next->unsync_pprev = sp->unsync_pprev;
}

bool shadow_try_to_unsync(struct kvm_mmu_vm *vm, gfn_t gfn, bool can_unsync)
{
	struct shadow_page *sp;

	for_each_gfn_indirect_sp(vm, sp, gfn)
		if (sp_level(sp) > 1 || sp_ept(sp) || (!can_unsync && !sp->unsync))
			return false;
	for_each_gfn_indirect_sp(vm, sp, gfn)
		if (!sp->unsync)
			mark_unsync(vm, sp);
	return true;
}

/* --- finding and making --- */

static void insert_in_regions(struct shadow_vm *s, struct shadow_page *sp)
{
	for (int level = 2; level < 2 + NR_HUGE_LEVELS; level++) {
		struct shadow_page **head = shadow_region(s, sp->gfn, level);
		struct shadow_region_link *l = &sp->region[level - 2];

		l->next = *head;
		l->pprev = head;
		if (l->next)
			l->next->region[level - 2].pprev = &l->next;
		*head = sp;
	}
}

static void remove_from_regions(struct shadow_page *sp)
{
	for (int i = 0; i < NR_HUGE_LEVELS; i++) {
		struct shadow_region_link *l = &sp->region[i];

		*l->pprev = l->next;
		if (l->next)
			l->next->region[i].pprev = l->pprev;
	}
}

static void insert(struct kvm_mmu_vm *vm, struct shadow_page *sp)
{
	struct shadow_vm *s = vm->shadow;
	struct shadow_page **head = &s->hash[shadow_hash(sp->gfn)];

	sp->hash_next = *head;
	sp->hash_pprev = head;
	if (sp->hash_next)
		sp->hash_next->hash_pprev = &sp->hash_next;
	*head = sp;
	if (!sp_direct(sp))
		insert_in_regions(s, sp);
	sp->next = s->active;
	sp->pprev = &s->active;
	if (sp->next)
		sp->next->pprev = &sp->next;
	else
		s->oldest = sp;
	s->active = sp;
	s->nr_pages++;
	count(&vm->table_pages, 1);
}

/* The page before sp in the list of active ones. */
static struct shadow_page *newer(struct shadow_vm *s, struct shadow_page *sp)
{
	return sp->pprev == &s->active ? NULL : container_of(sp->pprev, struct shadow_page, next);
}

static void remove_page(struct kvm_mmu_vm *vm, struct shadow_page *sp)
{
	struct shadow_vm *s = vm->shadow;

	*sp->hash_pprev = sp->hash_next;
	if (sp->hash_next)
		sp->hash_next->hash_pprev = sp->hash_pprev;
	if (!sp_direct(sp))
		remove_from_regions(sp);
	if (s->oldest == sp)
		s->oldest = newer(s, sp);
	*sp->pprev = sp->next;
	if (sp->next)
		sp->next->pprev = sp->pprev;
	s->nr_pages--;
	count(&vm->table_pages, -1);
}

/* Linux account_shadowed, and the flush that makes what is read next final. */
static void protect_table(struct kvm_vcpu *vcpu, gfn_t gfn, struct shadow_zap *z)
{
	bool any = shadow_wrprot_range(kvm_vcpu_gfn_to_memslot(vcpu, gfn), gfn, gfn + 1);

	any |= kvm_tdp_mmu_write_protect_gfn(vcpu->kvm->mmu_vm, gfn);
	if (!any)
		return;
	z->flush = true;
	shadow_commit(vcpu->kvm, z);
}

struct shadow_page *shadow_get_page(struct kvm_vcpu *vcpu, gfn_t gfn, uint32_t role,
				    struct shadow_zap *z, bool *fresh)
{
	struct kvm_mmu_vm *vm = vcpu->kvm->mmu_vm;
	struct shadow_vcpu *s = vcpu->mmu_vcpu->shadow;
	struct shadow_page *sp, *next;

	*fresh = false;
	for (sp = vm->shadow->hash[shadow_hash(gfn)]; sp; sp = next) {
		next = sp->hash_next;
		if (sp->gfn != gfn)
			continue;
		if (sp->role == role) {
			if (sp->unsync)
				shadow_sync_page(vcpu, sp);
			return sp;
		}
		/* An upper-level table is never written unseen: end what lets it be. */
		if (!(role & ROLE_DIRECT) && FIELD_GET(ROLE_LEVEL_MASK, role) > 1 && sp->unsync)
			shadow_zap_page(vm, sp, z);
	}
	vcpu->kvm->stat.mmu_cache_miss++;
	sp = s->cache[--s->nr_cached];
	sp->gfn = gfn;
	sp->role = role;
	insert(vm, sp);
	if (!sp_direct(sp))
		protect_table(vcpu, gfn, z);
	*fresh = true;
	return sp;
}

/* --- taking away --- */

void shadow_zap_page(struct kvm_mmu_vm *vm, struct shadow_page *sp, struct shadow_zap *z)
{
	unsigned i;

	for (i = 0; i < SPTE_ENTRIES; i++)
		z->flush |= shadow_drop_spte(vm, sp, i);
	while (sp->parents) {
		struct shadow_node *n = sp->parents;

		shadow_drop_spte(vm, node_page(n), (unsigned)(n - node_page(n)->node));
	}
	shadow_unlink_unsync(vm, sp);
	remove_page(vm, sp);
	vm->kvm->stat.mmu_shadow_zapped++;
	z->flush = true;
	sp->invalid = true;
	if (sp->root_count) {
		/* Its users let go of it before their next entry. */
		z->reload = true;
		return;
	}
	sp->next = z->pages;
	z->pages = sp;
}

void shadow_put_root(struct kvm_mmu_vm *vm, struct shadow_page *sp, struct shadow_zap *z)
{
	if (--sp->root_count || !sp->invalid)
		return;
	/* whoever zapped it has flushed and made every vCPU leave it */
	sp->next = z->pages;
	z->pages = sp;
}

void shadow_commit(struct kvm *kvm, struct shadow_zap *z)
{
	if (z->reload)
		kvm_make_all_cpus_request(kvm, KVM_REQ_MMU_RELOAD);
	if (z->flush)
		kvm_flush_remote_tlbs(kvm);
	while (z->pages) {
		struct shadow_page *sp = z->pages;

		z->pages = sp->next;
		free_page(sp);
	}
	z->flush = z->reload = false;
}

void shadow_zap_all(struct kvm_mmu_vm *vm, struct shadow_zap *z)
{
	while (vm->shadow->active)
		shadow_zap_page(vm, vm->shadow->active, z);
}

bool shadow_unprotect_gfn(struct kvm_mmu_vm *vm, gfn_t gfn, struct shadow_zap *z)
{
	struct shadow_page *sp, *next;
	bool any = false;

	for (sp = vm->shadow->hash[shadow_hash(gfn)]; sp; sp = next) {
		next = sp->hash_next;
		if (sp->gfn != gfn || sp_direct(sp))
			continue;
		shadow_zap_page(vm, sp, z);
		any = true;
	}
	return any;
}

uint64_t shadow_zap_oldest(struct kvm_mmu_vm *vm, uint64_t nr, struct shadow_zap *z)
{
	struct shadow_vm *s = vm->shadow;
	struct shadow_page *sp, *next;
	uint64_t gone = 0;

	for (sp = s->oldest; sp && gone < nr; sp = next) {
		next = newer(s, sp);
		if (sp->root_count)
			continue;
		shadow_zap_page(vm, sp, z);
		gone++;
	}
	kvm_stat_add(&vm->kvm->stat.mmu_recycled, gone);
	return gone;
}

int shadow_make_pages_available(struct kvm_mmu_vm *vm, struct shadow_zap *z)
{
	uint64_t max = READ_ONCE(vm->nr_max_shadow_pages), used = vm->shadow->nr_pages;

	if (likely(used + SHADOW_CACHE_PAGES <= max))
		return 0;
	shadow_zap_oldest(vm, used + max_u64(REFILL_PAGES, max / 16) - min_u64(used, max), z);
	if (vm->shadow->nr_pages + SHADOW_CACHE_PAGES <= max)
		return 0;
	return err_born(ENOSPC, "%u shadow pages are roots in use, of %llu that may be", vm->shadow->nr_pages,
			(unsigned long long)max);
}

void shadow_vm_destroy(struct kvm_mmu_vm *vm)
{
	struct shadow_zap z = { 0 };

	if (!vm->shadow)
		return;
	shadow_zap_all(vm, &z);
	z.flush = z.reload = false; /* no vCPU is left */
	shadow_commit(vm->kvm, &z);
	own_free(vm->shadow);
	vm->shadow = NULL;
}
