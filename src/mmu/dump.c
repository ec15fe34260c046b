/*
 * The tables as text: one line for each run of leaves that continue each other.
 *
 *   root as 0, 4 levels, A/D
 *   000000000000-00000009ffff -> 7f3c00000000  4K rwx WB AD
 *   0000fec00000-0000fec00fff    mmio, generation 12
 */
#include <stdio.h>

#include "lib/rcu.h"
#include "mmu/shadow.h"

struct run {
	gpa_t start, end;
	hpa_t hpa;
	uint64_t attributes;
	int level;
};

struct dump {
	void (*line)(void *arg, const char *text);
	void *arg;
	struct run run; /* end == 0: none yet */
};

#define RUN_ATTRIBUTES (EPT_RWX | EPT_MEMTYPE_MASK | EPT_IPAT | EPT_ACCESSED | EPT_DIRTY)

static void flush_run(struct dump *d)
{
	static const char *const size[] = { "", "4K", "2M", "1G" };
	static const char *const type[8] = { "UC", "WC", "2?", "3?", "WT", "WP", "WB", "7?" };
	struct run *r = &d->run;
	uint64_t a = r->attributes;
	char text[160];

	if (!r->end)
		return;
	if ((a & EPT_RWX) == MMIO_SPTE_VALUE)
		snprintf(text, sizeof(text), "%012llx-%012llx    mmio, generation %llu",
			 (unsigned long long)r->start, (unsigned long long)r->end - 1,
			 (unsigned long long)r->hpa);
	else
		snprintf(text, sizeof(text), "%012llx-%012llx -> %012llx  %s %c%c%c %s%s%s",
			 (unsigned long long)r->start, (unsigned long long)r->end - 1,
			 (unsigned long long)r->hpa, size[r->level], a & EPT_READ ? 'r' : '-',
			 a & EPT_WRITE ? 'w' : '-', a & EPT_EXEC ? 'x' : '-',
			 type[FIELD_GET(EPT_MEMTYPE_MASK, a)], a & EPT_ACCESSED ? " A" : "",
			 a & EPT_DIRTY ? "D" : "");
	d->line(d->arg, text);
	r->end = 0;
}

static void add(struct dump *d, const struct run *next)
{
	struct run *r = &d->run;
	bool mmio = (next->attributes & EPT_RWX) == MMIO_SPTE_VALUE;
	hpa_t continued = mmio ? r->hpa : r->hpa + (r->end - r->start);

	if (r->end == next->start && r->end && r->level == next->level &&
	    r->attributes == next->attributes && continued == next->hpa) {
		r->end = next->end;
		return;
	}
	flush_run(d);
	*r = *next;
}

static void dump_table(struct dump *d, uint64_t *table, int level, gfn_t base)
{
	unsigned i;

	for (i = 0; i < SPTE_ENTRIES; i++) {
		uint64_t e = __atomic_load_n(&table[i], __ATOMIC_ACQUIRE);
		gfn_t gfn = base + i * level_pages(level);
		struct run run = { .start = gfn << PAGE_SHIFT, .level = level };

		if (!e)
			continue;
		if (spte_is_table(e, level)) {
			dump_table(d, spte_table(e), level - 1, gfn);
			continue;
		}
		run.end = run.start + (level_pages(level) << PAGE_SHIFT);
		run.attributes = spte_is_mmio(e) ? MMIO_SPTE_VALUE : e & RUN_ATTRIBUTES;
		run.hpa = spte_is_mmio(e) ? mmio_spte_gen(e) : e & EPT_ADDR_MASK;
		add(d, &run);
	}
}

void kvm_mmu_dump(struct kvm *kvm, void (*line)(void *arg, const char *text), void *arg)
{
	struct kvm_mmu_vm *vm = kvm->mmu_vm;
	struct dump d = { .line = line, .arg = arg };
	uint32_t i;

	lib_rcu_read_lock();
	pthread_rwlock_rdlock(&vm->lock);
	for (i = 0; i < mmu_nr_roots(vm); i++) {
		char text[80];

		snprintf(text, sizeof(text), "root as %d, %d levels, %s%s", root_as_id(vm->roots[i]),
			 root_level(vm->roots[i]), root_has_ad(vm->roots[i]) ? "A/D" : "no A/D",
			 vm->roots[i]->role & ROLE_GUEST_MODE ? ", L2" : "");
		line(arg, text);
		dump_table(&d, vm->roots[i]->spt, root_level(vm->roots[i]), 0);
		flush_run(&d);
	}
	if (vm->shadow)
		shadow_dump(kvm, line, arg);
	pthread_rwlock_unlock(&vm->lock);
	lib_rcu_read_unlock();
}
