/*
 * Decoded blocks: what the interpreter runs and a translator would translate.
 *
 * A block is up to 32 instructions in one 4 KiB page, keyed by the host address
 * of its first byte and the code mode; it ends with ISA_ENDS_BLOCK or at the
 * end of the page. An instruction that crosses a page is a block of its own.
 *
 *   rip -> TLB exec tag -> host address -> prev->succ[] | jump[] | hash[] -> block
 *   host page -> struct code_page -> its blocks (for invalidation)
 *
 * Invariants
 * 1. A block is linked in hash[] and in its page's list until it is killed; a
 *    killed block has key 0 and every instruction replaced by one that stops,
 *    so that a block that is running ends after the current instruction.
 * 2. Memory comes from one arena and is reused only when all blocks are
 *    dropped, which happens between blocks.
 * 3. No write tag exists for a page that has blocks (tlb.c, invariant 2).
 * 4. A block whose epoch is not the processor's is compared with memory before
 *    it runs: the client and its devices write without telling.
 * 5. With several processors, machine->code[] names every page any of them has
 *    blocks of; who writes to one takes it out and tells the others.
 * 6. Between a page's becoming code and the others' hearing of it they may
 *    still write to it untold, through a write tag or in the middle of an
 *    instruction. Until each has dropped its write tags since (or is not in
 *    the guest) a block is compared with memory before each use. Who has heard
 *    is asked before the bytes are read: what is written later is told. Nobody
 *    waits for anybody.
 */
#include "cpu/internal.h"
#include "host/memory.h"
#include "lib/error.h"

#include <stdlib.h>
#include <sys/mman.h>

#define BLOCK_MAX_INSNS 32
#define BLOCK_MAX_BYTES (BLOCK_MAX_INSNS * 15)
#define ARENA_BYTES (48ULL << 20)
#define HASH_BUCKETS 32768
#define JUMP_ENTRIES 16384
#define PAGE_BUCKETS 4096
#define BLOCK_ROOM \
	(sizeof(struct cpu_block) + BLOCK_MAX_INSNS * sizeof(struct isa_insn) + BLOCK_MAX_BYTES + 64)

struct code_page {
	struct code_page *next;
	hpa_t page;
	uint64_t lines;		 /* 64-byte lines that blocks were decoded from */
	struct cpu_block *blocks; /* first byte here */
	struct cpu_block *tail;	 /* a crossing instruction that ends here */
};

struct cpu_blocks {
	uint8_t *arena, *free;
	uint64_t resets;
	struct cpu_block *hash[HASH_BUCKETS];
	struct cpu_block *jump[JUMP_ENTRIES];
	struct code_page *pages[PAGE_BUCKETS];
	bool saw_system; /* of the instruction being decoded */
	uint8_t scratch[sizeof(struct cpu_block) + sizeof(struct isa_insn)]
		__attribute__((aligned(64)));
};

static __thread struct cpu_blocks *decoding;

/* isa_ops.system: notes that the handler is the processor's. */
isa_fn *cpu_block_system(const struct isa_decoded *d, struct isa_insn *i)
{
	if (decoding)
		decoding->saw_system = true;
	return cpu_system_handler(d, i);
}

static size_t hash_of(uint64_t key)
{
	return (key ^ key >> 15 ^ key >> 30) & (HASH_BUCKETS - 1);
}

static struct cpu_block **jump_slot(struct cpu_blocks *c, uint64_t key)
{
	return &c->jump[(key ^ key >> 12) & (JUMP_ENTRIES - 1)];
}

int cpu_blocks_create(struct vmx_cpu *cpu)
{
	struct cpu_blocks *c = calloc(1, sizeof(*c));

	if (!c)
		return err_born(ENOMEM, "no memory for the block cache");
	c->arena = mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (c->arena == MAP_FAILED) {
		free(c);
		return err_born(ENOMEM, "no memory for decoded blocks");
	}
	c->free = c->arena;
	cpu->blocks = c;
	return 0;
}

void cpu_blocks_destroy(struct vmx_cpu *cpu)
{
	if (!cpu->blocks)
		return;
	munmap(cpu->blocks->arena, ARENA_BYTES);
	free(cpu->blocks);
	cpu->blocks = NULL;
}

/* --- pages --- */

static struct code_page **page_bucket(struct cpu_blocks *c, hpa_t page)
{
	return &c->pages[(page >> PAGE_SHIFT) & (PAGE_BUCKETS - 1)];
}

static struct code_page *find_page(struct cpu_blocks *c, hpa_t page)
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
	    __atomic_load_n(&o->asleep, __ATOMIC_SEQ_CST))
		return false; /* it looks at its requests before it goes on */
	return (int32_t)(__atomic_load_n(&o->wtags_seen, __ATOMIC_SEQ_CST) - gen) < 0;
}

/* Invariant 6: has everybody heard that the block's pages are code? */
static bool settled(struct vmx_cpu *cpu, const struct cpu_block *b)
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
static bool machine_register(struct vmx_cpu *cpu, hpa_t page)
{
	struct vmx_machine *m = cpu->machine;
	struct machine_code_page **slot;
	bool ok = true;

	if (READ_ONCE(m->nr_cpus) < 2)
		return true;
	machine_lock(m);
	slot = machine_find(m, page);
	if (!*slot) {
		*slot = calloc(1, sizeof(**slot));
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

static struct code_page *make_page(struct vmx_cpu *cpu, hpa_t page)
{
	struct cpu_blocks *c = cpu->blocks;
	struct code_page *p = find_page(c, page);

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

	if (find_page(cpu->blocks, page))
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
	struct cpu_block **link = &cpu->blocks->hash[hash_of(b->key)];

	while (*link && *link != b)
		link = &(*link)->hash_next;
	if (*link)
		*link = b->hash_next;
	b->key = 0;
	for (struct isa_insn *i = b->insns; i != b->end; i++)
		i->fn = stop_here;
	cpu->counters.code_invalidations++;
}

static void unlink_tail(struct vmx_cpu *cpu, const struct cpu_block *b)
{
	struct code_page *p = b->host2 ? find_page(cpu->blocks, b->host2) : NULL;

	if (p && p->tail == b)
		p->tail = NULL;
}

/* Kill the blocks of one page that overlap [start, end). */
static void drop_in_page(struct vmx_cpu *cpu, struct code_page *p, hpa_t start, hpa_t end)
{
	struct cpu_block **link = &p->blocks;
	uint64_t lines = 0;

	while (*link) {
		struct cpu_block *b = *link;
		hpa_t first = cpu_block_host(b);
		hpa_t last = min_u64(first + b->nr_bytes, p->page + PAGE_SIZE) - 1;

		if (first < end && last >= start) {
			*link = b->page_next;
			unlink_tail(cpu, b);
			kill_block(cpu, b);
			continue;
		}
		lines |= GENMASK_ULL((last >> 6) & 63, (first >> 6) & 63);
		link = &b->page_next;
	}
	if (p->tail && start < p->page + 16) {
		struct cpu_block *b = p->tail;
		hpa_t host = cpu_block_host(b);
		struct code_page *first = find_page(cpu->blocks, host & PAGE_MASK);

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
	for (size_t n = 0; n < JUMP_ENTRIES; n++)
		c->jump[n] = NULL;
	for (size_t n = 0; n < PAGE_BUCKETS; n++)
		c->pages[n] = NULL;
}

/* Between blocks only: the arena starts again. */
static void reset_arena(struct vmx_cpu *cpu)
{
	drop_everything(cpu);
	cpu->blocks->free = cpu->blocks->arena;
	cpu->blocks->resets++;
}

void cpu_blocks_drop(struct vmx_cpu *cpu, hpa_t start, hpa_t end)
{
	struct cpu_blocks *c = cpu->blocks;

	if (end - start < (hpa_t)PAGE_BUCKETS * PAGE_SIZE) {
		for (hpa_t page = start & PAGE_MASK; page < end; page += PAGE_SIZE) {
			struct code_page *p = find_page(c, page);

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
	free(dead);
	if (loaded)
		isa_fpu_load(&cpu->cs);
}

void cpu_code_written(struct vmx_cpu *cpu, hpa_t start, unsigned size)
{
	hpa_t end = start + size;
	struct code_page *p = find_page(cpu->blocks, start & PAGE_MASK);

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
		(void)machine_register(cpu, p->page);
		if (loaded)
			isa_fpu_load(&cpu->cs);
	}
}

void vmx_code_written(struct vmx_cpu *cpu, hpa_t start, uint64_t size_bytes)
{
	/* pairs with machine_register(): who decodes reads what was written, or is told */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	cpu_code_written(cpu, start, (unsigned)size_bytes);
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
}

/* --- decoding --- */

/* Bytes to decode from: a copy, so that what is decoded is what was saved. */
struct source {
	uint8_t bytes[BLOCK_MAX_BYTES];
	unsigned nr, first; /* readable; of these on the first page */
	hpa_t host2;
};

static void read_page(struct source *s, const uint8_t *host, unsigned n)
{
	for (unsigned k = 0; k < n; k++)
		s->bytes[s->nr + k] = *(const volatile uint8_t *)(host + k);
	s->nr += n;
}

static void read_first(struct source *s, const uint8_t *host)
{
	s->nr = 0;
	s->host2 = 0;
	s->first = (unsigned)min_u64(PAGE_SIZE - ((hpa_t)host & ~PAGE_MASK), BLOCK_MAX_BYTES);
	read_page(s, host, s->first);
}

/* Fetch what follows on the next page: may fault or exit. */
static void read_second(struct vmx_cpu *cpu, struct source *s, gva_t lin)
{
	gva_t next = ((lin & PAGE_MASK) + PAGE_SIZE) & cpu->code_mask;
	enum cpu_priv priv = cpu_data_priv(cpu, ISA_READ);
	uint8_t *host = cpu_translate(cpu, next, CPU_EXEC, priv);

	s->host2 = (hpa_t)host;
	read_page(s, host, 15);
}

/* Decode into b->insns[]: true when the first instruction is not all there. */
static bool decode(struct vmx_cpu *cpu, struct cpu_block *b, const struct source *s,
		   unsigned max_insns)
{
	struct cpu_state *cs = &cpu->cs;
	struct cpu_blocks *c = cpu->blocks;
	unsigned off = 0, nr = 0;

	b->jumps = b->sys = false;
	while (nr < max_insns && off < s->nr) {
		struct isa_insn *i = &b->insns[nr];
		enum isa_decode_result r;

		c->saw_system = false;
		decoding = c;
		r = isa_decode(s->bytes + off, s->nr - off, (enum isa_code_mode)cs->code_mode,
			       &cpu_isa_ops, i);
		decoding = NULL;
		if (r == ISA_DECODE_PARTIAL)
			break;
		i->off = (uint16_t)off;
		off += i->len;
		nr++;
		if (c->saw_system)
			b->sys = true;
		if (r != ISA_DECODE_OK || cpu_bus_lock_watch(cpu, i))
			break;
		if (i->flags & ISA_ENDS_BLOCK) {
			b->jumps = true;
			break;
		}
	}
	b->nr = (uint8_t)nr;
	b->nr_bytes = (uint16_t)off;
	b->end = b->insns + nr;
	return nr == 0;
}

static void link_block(struct vmx_cpu *cpu, struct cpu_block *b, hpa_t host,
		       const struct source *s)
{
	struct cpu_blocks *c = cpu->blocks;
	struct code_page *p = make_page(cpu, host & PAGE_MASK);
	hpa_t last = min_u64(host + b->nr_bytes, (host & PAGE_MASK) + PAGE_SIZE) - 1;
	uint8_t *bytes = (uint8_t *)b->end;
	struct cpu_block **bucket = &c->hash[hash_of(b->key)];

	for (unsigned k = 0; k < b->nr_bytes; k++)
		bytes[k] = s->bytes[k];
	b->bytes = bytes;
	p->lines |= GENMASK_ULL((last >> 6) & 63, (host >> 6) & 63);
	b->page_next = p->blocks;
	p->blocks = b;
	b->hash_next = *bucket;
	*bucket = b;
	if (b->host2) {
		p = make_page(cpu, b->host2);
		p->lines |= 1;
		p->tail = b;
	}
}

static struct cpu_block *arena_block(struct cpu_blocks *c)
{
	c->free = (uint8_t *)(((uintptr_t)c->free + 63) & ~63ULL);
	return (struct cpu_block *)c->free;
}

/*
 * A single instruction that is not to be cached: near the code segment's
 * limit, or where the books about its pages cannot be kept.
 */
static struct cpu_block *decode_scratch(struct vmx_cpu *cpu, gva_t lin, const uint8_t *host)
{
	struct cpu_state *cs = &cpu->cs;
	struct cpu_block *b = (struct cpu_block *)cpu->blocks->scratch;
	struct source s;

	if (cs->rip >= cpu->fetch_end)
		isa_raise_error(cs, X86_TRAP_GP, 0);
	read_first(&s, host);
	if (decode(cpu, b, &s, 1)) {
		if (cs->rip + s.nr >= cpu->fetch_end)
			isa_raise_error(cs, X86_TRAP_GP, 0);
		read_second(cpu, &s, lin);
		decode(cpu, b, &s, 1);
	}
	if (cs->rip + b->nr_bytes > cpu->fetch_end)
		isa_raise_error(cs, X86_TRAP_GP, 0);
	b->key = 0;
	b->host2 = 0;
	return b;
}

static struct cpu_block *decode_block(struct vmx_cpu *cpu, gva_t lin, const uint8_t *host)
{
	struct cpu_blocks *c = cpu->blocks;
	struct cpu_block *b;
	struct code_page *second;
	struct source s;
	uint64_t epoch = cpu->epoch; /* from before the bytes were read */

	isa_fpu_sync(&cpu->cs);
	if (c->free + 2 * BLOCK_ROOM > c->arena + ARENA_BYTES)
		reset_arena(cpu);
	if (!machine_register(cpu, (hpa_t)host & PAGE_MASK))
		return decode_scratch(cpu, lin, host);
	read_first(&s, host);
	b = arena_block(c);
	/* both pages that it may be on have been registered by then, or it is not kept */
	*b = (struct cpu_block){ 0 };
	if (decode(cpu, b, &s, BLOCK_MAX_INSNS)) {
		if (cpu->cs.rip + s.nr >= cpu->fetch_end)
			isa_raise_error(&cpu->cs, X86_TRAP_GP, 0);
		read_second(cpu, &s, lin);
		second = find_page(c, s.host2);
		if ((second && second->tail) || !machine_register(cpu, s.host2))
			return decode_scratch(cpu, lin, host);
		b->host2 = s.host2;
		if (decode(cpu, b, &s, 1))
			return decode_scratch(cpu, lin, host);
	}
	b->key = (hpa_t)host | (uint64_t)cpu->cs.code_mode << BLOCK_MODE_SHIFT;
	b->wtags_gen = __atomic_load_n(&cpu->machine->wtags_gen, __ATOMIC_SEQ_CST);
	/* the bytes were read before anybody could be asked (invariant 6): verify() will */
	b->epoch = READ_ONCE(cpu->machine->nr_cpus) < 2 ? epoch : 0;
	c->free = (uint8_t *)b->end + b->nr_bytes;
	c->free = (uint8_t *)(((uintptr_t)c->free + 15) & ~15ULL);
	link_block(cpu, b, (hpa_t)host, &s);
	cpu->counters.blocks_decoded++;
	return b;
}

/* --- look-up --- */

static bool same_bytes(const uint8_t *host, const uint8_t *bytes, unsigned n)
{
	unsigned k = 0;

	for (; k + 8 <= n; k += 8)
		if (isa_host_load(host + k, 8) != isa_host_load(bytes + k, 8))
			return false;
	for (; k < n; k++)
		if (*(const volatile uint8_t *)(host + k) != bytes[k])
			return false;
	return true;
}

/* Invariants 4 and 6. */
static bool verify(struct vmx_cpu *cpu, struct cpu_block *b)
{
	const uint8_t *host = __va(cpu_block_host(b));
	unsigned first = b->nr_bytes;
	bool keep = settled(cpu, b);

	if (b->host2)
		first = (unsigned)(PAGE_SIZE - ((hpa_t)host & ~PAGE_MASK));
	if (!same_bytes(host, b->bytes, first) ||
	    (b->host2 && !same_bytes(__va(b->host2), b->bytes + first, b->nr_bytes - first)))
		return false;
	if (keep)
		b->epoch = cpu->epoch;
	return true;
}

/* The second page of a crossing instruction is still mapped there. */
static bool tail_ok(struct vmx_cpu *cpu, const struct cpu_block *b, gva_t lin)
{
	gva_t next = ((lin & PAGE_MASK) + PAGE_SIZE) & cpu->code_mask;
	enum cpu_priv priv = cpu_data_priv(cpu, ISA_READ);

	return (hpa_t)cpu_translate(cpu, next, CPU_EXEC, priv) == b->host2;
}

static void drop_one(struct vmx_cpu *cpu, struct cpu_block *b)
{
	hpa_t host = cpu_block_host(b);

	cpu_blocks_drop(cpu, host, host + 1);
}

static const uint8_t *fetch_slow(struct vmx_cpu *cpu, gva_t lin)
{
	struct cpu_state *cs = &cpu->cs;

	if (cs->code_mode == ISA_CODE64) {
		if ((uint64_t)((int64_t)(lin << 16) >> 16) != lin)
			isa_raise_error(cs, X86_TRAP_GP, 0);
	} else if (cs->rip >= cpu->fetch_end) {
		isa_raise_error(cs, X86_TRAP_GP, 0);
	}
	return cpu_translate(cpu, lin, CPU_EXEC, cpu_data_priv(cpu, ISA_READ));
}

static struct cpu_block *block_slow(struct vmx_cpu *cpu, struct cpu_block *prev, gva_t lin)
{
	struct cpu_blocks *c = cpu->blocks;
	const uint8_t *host;
	struct cpu_block *b;
	uint64_t resets = c->resets, key;

	cpu_at_boundary(cpu);
	host = fetch_slow(cpu, lin);
	key = (hpa_t)host | (uint64_t)cpu->cs.code_mode << BLOCK_MODE_SHIFT;
	for (b = c->hash[hash_of(key)]; b && b->key != key;)
		b = b->hash_next;
	if (b && ((b->epoch != cpu->epoch && !verify(cpu, b)) ||
		  (b->host2 && !tail_ok(cpu, b, lin)))) {
		drop_one(cpu, b);
		b = NULL;
	}
	if (!b)
		b = decode_block(cpu, lin, host);
	if (cpu->cs.rip + b->nr_bytes > cpu->fetch_end) {
		isa_fpu_sync(&cpu->cs);
		return decode_scratch(cpu, lin, host);
	}
	if (b->host2 || !b->key)
		return b; /* its second page is to be looked at each time */
	*jump_slot(c, key) = b;
	if (prev && prev->key && resets == c->resets)
		prev->succ[prev->turn++ & 1] = b;
	return b;
}

struct cpu_block *cpu_block_at_rip(struct vmx_cpu *cpu, struct cpu_block *prev)
{
	struct cpu_state *cs = &cpu->cs;
	gva_t lin = (cs->rip + cpu->code_base) & cpu->code_mask;
	const struct isa_tlb_entry *e = &cpu->fetch_tlb[(lin >> PAGE_SHIFT) & (ISA_TLB_ENTRIES - 1)];
	struct cpu_block *b;
	uint64_t key;

	if (likely(e->exec_tag == (lin & PAGE_MASK))) {
		key = (lin + e->addend) | (uint64_t)cs->code_mode << BLOCK_MODE_SHIFT;
		if (prev) {
			b = prev->succ[0];
			if (likely(b && b->key == key))
				goto found;
			b = prev->succ[1];
			if (b && b->key == key)
				goto found;
		}
		b = *jump_slot(cpu->blocks, key);
		if (b && b->key == key)
			goto found;
	}
	return block_slow(cpu, prev, lin);
found:
	if (likely(cs->rip + b->nr_bytes <= cpu->fetch_end)) {
		if (likely(b->epoch == cpu->epoch))
			return b;
		cpu_at_boundary(cpu);
		if (verify(cpu, b))
			return b;
	}
	return block_slow(cpu, prev, lin);
}
