/*
 * Pages that blocks were decoded from, and what becomes of the blocks when the
 * pages are written to (blocks.c has the invariants).
 *
 *   write ─► tlb.c has no write tag ─► mem.c ─► cpu_code_written() ─┬► own blocks die
 *                                                                  └► queue_stale() of the others
 *
 * Locks: machine->lock guards machine->code[] and every processor's stale[].
 */
#include "cpu/ghost.h"
#include "cpu/jit.h"
#include "isa/stub.h"
#include "host/memory.h"
#include "lib/own.h"


/* --- pages --- */

static struct code_page **page_bucket(struct cpu_blocks *c, hpa_t page)
{
	return &c->pages[(page >> PAGE_SHIFT) & (PAGE_BUCKETS - 1)];
}

struct code_page *code_page_find(struct cpu_blocks *c, hpa_t page)
{
	struct code_page *p = *page_bucket(c, page);

	while (p && p->page != page)
		p = p->next;
	return p;
}

static struct machine_code_page **machine_bucket(struct vmx_machine *m, hpa_t page)
{
	return &m->code[(page >> PAGE_SHIFT) & (MACHINE_CODE_BUCKETS - 1)];
}

static struct machine_code_page **machine_find(struct vmx_machine *m, hpa_t page)
{
	struct machine_code_page **p = machine_bucket(m, page);

	while (*p && (*p)->page != page)
		p = &(*p)->next;
	return p;
}

static void request_others(struct vmx_cpu *cpu, uint32_t bits)
{
	for (struct vmx_cpu *o = cpu->machine->cpus; o; o = o->next)
		if (o != cpu)
			__atomic_fetch_or(&o->cs.exit_request, bits, __ATOMIC_SEQ_CST);
}

void cpu_blocks_drop_wtags(struct vmx_cpu *cpu)
{
	uint32_t gen = __atomic_load_n(&cpu->machine->wtags_gen, __ATOMIC_SEQ_CST);

	cpu_tlb_drop_write(cpu, 0);
	__atomic_store_n(&cpu->wtags_seen, gen, __ATOMIC_SEQ_CST);
}

/* May this processor write to a page without looking whether it has become code? */
static bool may_write_untold(struct vmx_cpu *o, uint32_t gen)
{
	if (!__atomic_load_n(&o->in_guest, __ATOMIC_SEQ_CST) ||
	    __atomic_load_n(&o->mail.asleep, __ATOMIC_SEQ_CST))
		return false; /* it looks at its requests before it goes on */
	return (int32_t)(__atomic_load_n(&o->wtags_seen, __ATOMIC_SEQ_CST) - gen) < 0;
}

/* Invariant 6: has everybody heard that the block's pages are code? */
bool code_page_settled(struct vmx_cpu *cpu, const struct cpu_block *b)
{
	struct vmx_machine *m = cpu->machine;
	bool all = true;
	uint32_t gen;

	if (READ_ONCE(m->nr_cpus) < 2 || (int32_t)(cpu->wtags_known - b->wtags_gen) >= 0)
		return true;
	machine_lock(m);
	gen = m->wtags_gen;
	for (struct vmx_cpu *o = m->cpus; o && all; o = o->next)
		all = o == cpu || !may_write_untold(o, gen);
	if (!all) {
		all = true;
		gen = b->wtags_gen;
		for (struct vmx_cpu *o = m->cpus; o && all; o = o->next)
			all = o == cpu || !may_write_untold(o, gen);
	}
	machine_unlock(m);
	if (all)
		cpu->wtags_known = gen;
	return all;
}

/* A page is code now: whoever can write to it has to be told of writes. */
bool code_page_register(struct vmx_cpu *cpu, hpa_t page)
{
	struct vmx_machine *m = cpu->machine;
	struct machine_code_page **slot;
	bool ok = true;

	if (READ_ONCE(m->nr_cpus) < 2)
		return true;
	machine_lock(m);
	slot = machine_find(m, page);
	if (!*slot) {
		*slot = own_calloc(1, sizeof(**slot));
		if (*slot) {
			(*slot)->page = page;
			__atomic_fetch_add(&m->wtags_gen, 1, __ATOMIC_SEQ_CST);
			request_others(cpu, CPU_REQ_WTAGS);
		}
		ok = *slot;
	}
	machine_unlock(m);
	return ok;
}

struct code_page *code_page_make(struct vmx_cpu *cpu, hpa_t page)
{
	struct cpu_blocks *c = cpu->blocks;
	struct code_page *p = code_page_find(c, page);

	if (!p) {
		p = (struct code_page *)c->free;
		c->free += sizeof(*p);
		*p = (struct code_page){ .page = page, .next = *page_bucket(c, page) };
		*page_bucket(c, page) = p;
		cpu_tlb_drop_write(cpu, page);
	}
	return p;
}

static void forget_page(struct cpu_blocks *c, struct code_page *p)
{
	struct code_page **link = page_bucket(c, p->page);

	while (*link != p)
		link = &(*link)->next;
	*link = p->next;
}

bool cpu_page_is_code(struct vmx_cpu *cpu, hpa_t page)
{
	bool shared;

	if (code_page_find(cpu->blocks, page))
		return true;
	if (READ_ONCE(cpu->machine->nr_cpus) < 2 || !READ_ONCE(*machine_bucket(cpu->machine, page)))
		return false;
	machine_lock(cpu->machine);
	shared = *machine_find(cpu->machine, page);
	machine_unlock(cpu->machine);
	return shared;
}

/* --- killing --- */

static void stop_here(struct cpu_state *cs, const struct isa_insn *i)
{
	cs->rip = isa_rip(cs);
	cpu_unwind(cpu_of(cs));
}

/* Out of hash[]; the caller takes it off its page's list. */
static void kill_block(struct vmx_cpu *cpu, struct cpu_block *b)
{
	struct cpu_block **link = &cpu->blocks->hash[block_hash(b->key)];

	while (*link && *link != b)
		link = &(*link)->hash_next;
	if (*link)
		*link = b->hash_next;
	b->key = 0;
	for (unsigned n = 0; n < ARRAY_SIZE(b->unit); n++)
		b->unit[n] = NULL;
	for (struct isa_insn *i = b->insns; i != b->end; i++)
		i->fn = stop_here;
	cpu->counters.code_invalidations++;
}

static void unlink_tail(struct vmx_cpu *cpu, const struct cpu_block *b)
{
	struct code_page *p = b->host2 ? code_page_find(cpu->blocks, b->host2) : NULL;

	if (p && p->tail == b)
		p->tail = NULL;
}

/* Kill the blocks of one page that overlap [start, end). */
static void drop_in_page(struct vmx_cpu *cpu, struct code_page *p, hpa_t start, hpa_t end)
{
	struct cpu_block **link = &p->blocks;
	uint64_t lines = 0;
	bool killed = false;

	while (*link) {
		struct cpu_block *b = *link;
		hpa_t first = cpu_block_host(b);
		hpa_t last = min_u64(first + b->nr_bytes, p->page + PAGE_SIZE) - 1;

		if (first < end && last >= start) {
			*link = b->page_next;
			unlink_tail(cpu, b);
			kill_block(cpu, b);
			killed = true;
			continue;
		}
		lines |= GENMASK_ULL((last >> 6) & 63, (first >> 6) & 63);
		link = &b->page_next;
	}
	if (killed && p->units) {
		uint8_t *kills = jit_kills_of(cpu->jit, p->page);

		*kills += *kills < 255;
		jit_kill_page(cpu, p);
	}
	if (p->tail && start < p->page + 16) {
		struct cpu_block *b = p->tail;
		hpa_t host = cpu_block_host(b);
		struct code_page *first = code_page_find(cpu->blocks, host & PAGE_MASK);

		p->tail = NULL;
		for (link = &first->blocks; *link != b;)
			link = &(*link)->page_next;
		*link = b->page_next;
		kill_block(cpu, b);
	}
	p->lines = lines | (p->tail ? 1 : 0);
	if (!p->blocks && !p->tail)
		forget_page(cpu->blocks, p);
}

static void drop_everything(struct vmx_cpu *cpu)
{
	struct cpu_blocks *c = cpu->blocks;

	for (size_t n = 0; n < HASH_BUCKETS; n++) {
		while (c->hash[n])
			kill_block(cpu, c->hash[n]);
	}
	if (cpu->jit)
		jit_drop_all(cpu->jit);
	for (size_t n = 0; n < JUMP_ENTRIES; n++)
		c->jump[n] = NULL;
	for (size_t n = 0; n < PAGE_BUCKETS; n++)
		c->pages[n] = NULL;
}

/* Between blocks only: the arena starts again. */
void blocks_reset(struct vmx_cpu *cpu)
{
	drop_everything(cpu);
	cpu->blocks->free = cpu->blocks->arena;
	silicon_arena_reset(cpu->cs.stubs);
	cpu->blocks->resets++;
}

void cpu_blocks_drop(struct vmx_cpu *cpu, hpa_t start, hpa_t end)
{
	struct cpu_blocks *c = cpu->blocks;

	if (end - start < (hpa_t)PAGE_BUCKETS * PAGE_SIZE) {
		for (hpa_t page = start & PAGE_MASK; page < end; page += PAGE_SIZE) {
			struct code_page *p = code_page_find(c, page);

			if (p)
				drop_in_page(cpu, p, start, end);
		}
		return;
	}
	for (size_t n = 0; n < PAGE_BUCKETS; n++) {
		struct code_page *p = c->pages[n], *next;

		for (; p; p = next) {
			next = p->next;
			if (p->page < end && p->page + PAGE_SIZE > start)
				drop_in_page(cpu, p, start, end);
		}
	}
}

/* Queue a range for another processor [machine->lock]. */
static void queue_stale(struct vmx_cpu *o, hpa_t start, hpa_t end)
{
	if (o->nr_stale < ARRAY_SIZE(o->stale)) {
		o->stale[o->nr_stale].start = start;
		o->stale[o->nr_stale].end = end;
	}
	if (o->nr_stale <= ARRAY_SIZE(o->stale))
		o->nr_stale++;
	__atomic_fetch_or(&o->cs.exit_request, CPU_REQ_STALE, __ATOMIC_SEQ_CST);
}

static void tell_others(struct vmx_cpu *cpu, hpa_t page)
{
	struct vmx_machine *m = cpu->machine;
	struct machine_code_page **slot, *dead = NULL;
	bool loaded = cpu->cs.fpu_loaded;

	if (!READ_ONCE(*machine_bucket(m, page)))
		return; /* who decodes from it now asks us to look, and compares until we have */
	isa_fpu_sync(&cpu->cs); /* libc may use vector registers */
	machine_lock(m);
	slot = machine_find(m, page);
	if (*slot) {
		dead = *slot;
		*slot = dead->next;
		for (struct vmx_cpu *o = m->cpus; o; o = o->next)
			if (o != cpu)
				queue_stale(o, page, page + PAGE_SIZE);
	}
	machine_unlock(m);
	own_free(dead);
	if (loaded)
		isa_fpu_load(&cpu->cs);
}

void cpu_code_written(struct vmx_cpu *cpu, hpa_t start, unsigned size)
{
	hpa_t end = start + size;
	struct code_page *p = code_page_find(cpu->blocks, start & PAGE_MASK);

	if (unlikely(READ_ONCE(cpu->machine->nr_cpus) > 1))
		tell_others(cpu, start & PAGE_MASK);
	if (!p)
		return;
	if (p->lines & GENMASK_ULL(((end - 1) >> 6) & 63, (start >> 6) & 63))
		drop_in_page(cpu, p, start, end);
	/* own blocks remain: others have to go on telling us */
	if (READ_ONCE(cpu->machine->nr_cpus) > 1 && (p->blocks || p->tail)) {
		bool loaded = cpu->cs.fpu_loaded;

		isa_fpu_sync(&cpu->cs);
		(void)code_page_register(cpu, p->page);
		if (loaded)
			isa_fpu_load(&cpu->cs);
	}
}

void vmx_code_written(struct vmx_cpu *cpu, hpa_t start, uint64_t size_bytes)
{
	/* pairs with code_page_register(): who decodes reads what was written, or is told */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	cpu_code_written(cpu, start, (unsigned)size_bytes);
	if (unlikely(cpu->tlb->ghost))
		ghost_stored(cpu, start, (unsigned)size_bytes, ~0ULL);
}

void cpu_blocks_work_off(struct vmx_cpu *cpu)
{
	machine_lock(cpu->machine);
	if (cpu->nr_stale > ARRAY_SIZE(cpu->stale)) {
		drop_everything(cpu);
	} else {
		for (uint32_t n = 0; n < cpu->nr_stale; n++)
			cpu_blocks_drop(cpu, cpu->stale[n].start, cpu->stale[n].end);
	}
	cpu->nr_stale = 0;
	machine_unlock(cpu->machine);
}

void vmx_invalidate_code(struct vmx_machine *m, hpa_t start, uint64_t size_bytes)
{
	machine_lock(m);
	for (struct vmx_cpu *o = m->cpus; o; o = o->next)
		queue_stale(o, start, start + size_bytes);
	machine_unlock(m);
	ghost_memory_changed(m->ghost, start, size_bytes);
}
