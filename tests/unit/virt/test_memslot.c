/*
 * Memslots: every error, every kind of change, random operations against a
 * naive model, look-ups during changes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "lib/rcu.h"
#include "virt/kvm.h"

#define HVA 0x7f0000000000ULL

static struct kvm *vm;
static int events[4], flushes, frees;
static uint64_t last_generation;
static int refuse;

static int on_prepare(struct kvm *k, const struct kvm_memory_slot *old, struct kvm_memory_slot *new,
		      enum kvm_mr_change c)
{
	return refuse;
}

static void on_flush(struct kvm *k, struct kvm_memory_slot *old)
{
	flushes++;
	/* Invisible to vCPUs, still there for whoever looks for what it was. */
	assert_null(gfn_to_memslot_as(k, old->as_id, old->base_gfn));
	assert_non_null(search_memslots(__kvm_memslots(k, old->as_id), old->base_gfn));
}

static void on_commit(struct kvm *k, const struct kvm_memory_slot *old,
		      const struct kvm_memory_slot *new, enum kvm_mr_change c)
{
	events[c]++;
}

static void on_free(struct kvm *k, struct kvm_memory_slot *s)
{
	frees++;
}

static void on_generation(struct kvm *k, uint64_t gen)
{
	assert_false(gen & 1);
	assert_true(gen != last_generation);
	last_generation = gen;
}

static const struct kvm_memslot_listener listener = { on_prepare, on_flush, on_commit, on_free,
						      on_generation };

static int setup(void **state)
{
	memset(events, 0, sizeof(events));
	flushes = frees = refuse = 0;
	last_generation = ~0ULL;
	kvm_register_memslot_listener(&listener);
	return kvm_create_vm(&vm);
}

static int teardown(void **state)
{
	assert_int_equal(kvm_memslots_check(vm), 0);
	kvm_put_kvm(vm);
	return 0;
}

static int set(uint32_t slot, uint32_t flags, gpa_t gpa, uint64_t size, hva_t hva)
{
	struct kvm_userspace_memory_region m = { slot, flags, gpa, size, hva };

	return kvm_vm_ioctl_set_memory_region(vm, &m);
}

static void bad_arguments_give_einval_and_change_nothing(void **state)
{
	struct kvm_memslots *before = __kvm_memslots(vm, 0);

	assert_int_equal(set(0, 4, 0, 0x1000, HVA), -EINVAL);
	assert_int_equal(set(0, 1U << 16, 0, 0x1000, HVA), -EINVAL);
	assert_int_equal(set(0, 0, 0, 0x1800, HVA), -EINVAL);
	assert_int_equal(set(0, 0, 0x800, 0x1000, HVA), -EINVAL);
	assert_int_equal(set(0, 0, 0, 0x1000, HVA + 8), -EINVAL);
	assert_int_equal(set(0, 0, 0, 0x1000, 0x7ffffffff000ULL), -EINVAL);
	assert_int_equal(set(0, 0, 0, 0x1000, 0xffff800000000000ULL), -EINVAL);
	assert_int_equal(set(2 << 16, 0, 0, 0x1000, HVA), -EINVAL);
	assert_int_equal(set(KVM_USER_MEM_SLOTS, 0, 0, 0x1000, HVA), -EINVAL);
	assert_int_equal(set(0, 0, ~0ULL - 0xfff, 0x2000, HVA), -EINVAL);
	assert_int_equal(set(0, 0, 0, (KVM_MEM_MAX_NR_PAGES + 1ULL) << PAGE_SHIFT, 0), -EINVAL);
	assert_int_equal(set(0, 0, 0, 0, HVA), -EINVAL); /* nothing to delete */
	assert_ptr_equal(before, __kvm_memslots(vm, 0));
}

static void live_slot_refuses_resize_new_hva_and_readonly_toggle(void **state)
{
	assert_int_equal(set(1, 0, 0, 0x4000, HVA), 0);
	assert_int_equal(set(1, 0, 0, 0x5000, HVA), -EINVAL);
	assert_int_equal(set(1, 0, 0, 0x4000, HVA + 0x1000), -EINVAL);
	assert_int_equal(set(1, KVM_MEM_READONLY, 0, 0x4000, HVA), -EINVAL);
	assert_int_equal(set(1, 0, 0, 0x4000, HVA), 0); /* nothing to change */
	assert_int_equal(events[KVM_MR_FLAGS_ONLY], 0);
}

static void overlap_gives_eexist_in_the_same_address_space_only(void **state)
{
	assert_int_equal(set(1, 0, 0x10000, 0x4000, HVA), 0);
	assert_int_equal(set(2, 0, 0x13000, 0x1000, HVA), -EEXIST);
	assert_int_equal(set(2, 0, 0xf000, 0x2000, HVA), -EEXIST);
	assert_int_equal(set(2, 0, 0x0, 0x100000, HVA), -EEXIST);
	assert_int_equal(set(2, 0, 0x14000, 0x1000, HVA), 0);
	assert_int_equal(set(2 | 1 << 16, 0, 0x10000, 0x1000, HVA), 0);
	/* A move may overlap where the slot itself was, nothing else. */
	assert_int_equal(set(1, 0, 0x11000, 0x4000, HVA), -EEXIST);
	assert_int_equal(set(1, 0, 0xe000, 0x4000, HVA), 0);
	assert_int_equal(events[KVM_MR_MOVE], 1);
}

static void delete_flushes_and_frees(void **state)
{
	assert_int_equal(set(7, KVM_MEM_LOG_DIRTY_PAGES, 0x10000, 0x4000, HVA), 0);
	assert_int_equal(set(7, 0, 0, 0, 0), 0);
	assert_int_equal(flushes, 1);
	assert_int_equal(frees, 1);
	assert_int_equal(events[KVM_MR_DELETE], 1);
	assert_null(id_to_memslot(__kvm_memslots(vm, 0), 7));
	assert_null(gfn_to_memslot_as(vm, 0, 0x10));
	assert_int_equal(set(7, 0, 0, 0, 0), -EINVAL);
}

static void flags_change_keeps_or_drops_the_bitmap(void **state)
{
	struct kvm_memory_slot *s;
	uint64_t *bitmap;

	assert_int_equal(set(3, KVM_MEM_LOG_DIRTY_PAGES, 0, 0x4000, HVA), 0);
	s = id_to_memslot(__kvm_memslots(vm, 0), 3);
	bitmap = s->dirty_bitmap;
	assert_non_null(bitmap);
	mark_page_dirty_in_slot(vm, s, 2);
	assert_int_equal(bitmap[0], 4);
	assert_int_equal(set(3, KVM_MEM_LOG_DIRTY_PAGES, 0x100000, 0x4000, HVA), 0);
	assert_ptr_equal(id_to_memslot(__kvm_memslots(vm, 0), 3)->dirty_bitmap, bitmap);
	assert_int_equal(set(3, 0, 0x100000, 0x4000, HVA), 0);
	assert_null(id_to_memslot(__kvm_memslots(vm, 0), 3)->dirty_bitmap);
}

static void listener_refusal_changes_nothing(void **state)
{
	refuse = -ENOMEM;
	assert_int_equal(set(3, KVM_MEM_LOG_DIRTY_PAGES, 0, 0x4000, HVA), -ENOMEM);
	assert_int_equal(__kvm_memslots(vm, 0)->used_slots, 0);
}

static void dirty_log_returns_bits_once(void **state)
{
	uint64_t bits[2] = { ~0ULL, ~0ULL };
	struct kvm_dirty_log log = { .slot = 5, .dirty_bitmap = bits };

	assert_int_equal(kvm_vm_ioctl_get_dirty_log(vm, &log), -ENOENT);
	assert_int_equal(set(5, 0, 0, 0x46000, HVA), 0);
	assert_int_equal(kvm_vm_ioctl_get_dirty_log(vm, &log), -ENOENT);
	assert_int_equal(set(5, KVM_MEM_LOG_DIRTY_PAGES, 0, 0x46000, HVA), 0);
	mark_page_dirty_in_slot(vm, id_to_memslot(__kvm_memslots(vm, 0), 5), 65);
	assert_int_equal(kvm_vm_ioctl_get_dirty_log(vm, &log), 0);
	assert_int_equal(bits[0], 0);
	assert_int_equal(bits[1], 2);
	assert_int_equal(kvm_vm_ioctl_get_dirty_log(vm, &log), 0);
	assert_int_equal(bits[1], 0);
	log.slot = 2 << 16;
	assert_int_equal(kvm_vm_ioctl_get_dirty_log(vm, &log), -EINVAL);
}

#define IDS 300
struct model_slot {
	bool used;
	gfn_t gfn;
	uint64_t npages;
	hva_t hva;
};

static int model_set(struct model_slot *m, unsigned id, gfn_t gfn, uint64_t npages, hva_t hva)
{
	unsigned i;

	if (!npages) {
		int r = m[id].used ? 0 : -EINVAL;

		m[id].used = false;
		return r;
	}
	if (m[id].used && (m[id].npages != npages || m[id].hva != hva))
		return -EINVAL;
	if (m[id].used && m[id].gfn == gfn)
		return 0;
	for (i = 0; i < IDS; i++)
		if (i != id && m[i].used && gfn < m[i].gfn + m[i].npages && m[i].gfn < gfn + npages)
			return -EEXIST;
	m[id] = (struct model_slot){ true, gfn, npages, hva };
	return 0;
}

static void compare(const struct model_slot *m)
{
	struct kvm_memslots *s = __kvm_memslots(vm, 0);
	gfn_t gfn = (gfn_t)rand() % 2000;
	hva_t start = HVA + ((uint64_t)rand() % 200 << PAGE_SHIFT);
	hva_t end = start + ((1 + (uint64_t)rand() % 8) << PAGE_SHIFT);
	struct kvm_memory_slot *found = search_memslots(s, gfn), *h;
	unsigned i, expected = 0, got = 0, owner = IDS;
	uint32_t pos = 0;

	for (i = 0; i < IDS; i++) {
		struct kvm_memory_slot *slot = id_to_memslot(s, (int)i);

		assert_int_equal(slot != NULL, m[i].used);
		if (!slot)
			continue;
		assert_int_equal(slot->base_gfn, m[i].gfn);
		if (gfn >= m[i].gfn && gfn < m[i].gfn + m[i].npages)
			owner = i;
		expected += m[i].hva < end && m[i].hva + (m[i].npages << PAGE_SHIFT) > start;
	}
	if (owner == IDS)
		assert_null(found);
	else
		assert_int_equal(found->id, owner);
	while ((h = memslots_next_in_hva_range(s, start, end, &pos)) != NULL) {
		assert_true(h->userspace_addr < end &&
			    h->userspace_addr + (h->npages << PAGE_SHIFT) > start);
		got++;
	}
	assert_int_equal(got, expected);
}

static void random_changes_match_a_naive_model(void **state)
{
	struct model_slot m[IDS] = { 0 };
	int i, done = 0;

	srand(1);
	for (i = 0; i < 6000; i++) {
		unsigned id = (unsigned)rand() % IDS;
		gfn_t gfn = (gfn_t)rand() % 1500;
		uint64_t npages = (uint64_t)rand() % 9;
		hva_t hva = HVA + ((uint64_t)rand() % 200 << PAGE_SHIFT);
		int expected;

		if (m[id].used && rand() % 2) { /* a move */
			npages = m[id].npages;
			hva = m[id].hva;
		}
		expected = model_set(m, id, gfn, npages, hva);
		assert_int_equal(set(id, 0, gfn << PAGE_SHIFT, npages << PAGE_SHIFT, hva), expected);
		done += expected == 0;
		compare(m);
		if (i % 500 == 0)
			assert_int_equal(kvm_memslots_check(vm), 0);
	}
	assert_true(done > 1000);
}

static bool stop;

static void *reader(void *arg)
{
	uint64_t *n = arg;

	while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
		struct kvm_memory_slot *s;

		lib_rcu_read_lock();
		/* Slot 1 is always there, wherever it has moved to. */
		s = id_to_memslot(__kvm_memslots(vm, 0), 1);
		if (!s || s->npages != 4 || s->userspace_addr != HVA)
			*n |= 1ULL << 63;
		lib_rcu_read_unlock();
		++*n;
	}
	return NULL;
}

static void readers_see_whole_slots_while_they_move(void **state)
{
	pthread_t t;
	uint64_t n = 0;
	int i;

	stop = false;
	assert_int_equal(set(1, 0, 0, 0x4000, HVA), 0);
	assert_int_equal(pthread_create(&t, NULL, reader, &n), 0);
	while (!__atomic_load_n(&n, __ATOMIC_RELAXED))
		sched_yield();
	for (i = 1; i < 2000; i++)
		assert_int_equal(set(1, 0, (uint64_t)(i % 100) << 20, 0x4000, HVA), 0);
	__atomic_store_n(&stop, true, __ATOMIC_RELAXED);
	pthread_join(t, NULL);
	assert_false(n >> 63);
}

static void every_id_a_client_may_use_works(void **state)
{
	unsigned i;

	for (i = 0; i < KVM_USER_MEM_SLOTS; i += 61)
		assert_int_equal(set(i, 0, (gpa_t)i << 14, 0x2000, HVA), 0);
	assert_int_equal(set(KVM_USER_MEM_SLOTS - 1, 0, 1ULL << 40, 0x1000, HVA), 0);
	assert_int_equal(id_to_memslot(__kvm_memslots(vm, 0), 61)->base_gfn, 61 << 2);
	assert_null(id_to_memslot(__kvm_memslots(vm, 0), 62));
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(bad_arguments_give_einval_and_change_nothing),
		T(live_slot_refuses_resize_new_hva_and_readonly_toggle),
		T(overlap_gives_eexist_in_the_same_address_space_only),
		T(delete_flushes_and_frees),
		T(flags_change_keeps_or_drops_the_bitmap),
		T(listener_refusal_changes_nothing),
		T(dirty_log_returns_bits_once),
		T(random_changes_match_a_naive_model),
		T(readers_see_whole_slots_while_they_move),
		T(every_id_a_client_may_use_works),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
