/*
 * Decoding guest code into blocks (blocks.c has the invariants).
 *
 * Bytes are copied once and decoded from the copy, so that what is decoded is
 * what is kept for later comparison. Calls Zydis, hence libc: the guest's FPU state is
 * unloaded first.
 *
 * Locks: none; runs on the vCPU's thread.
 */
#include "cpu/jit.h"
#include "host/memory.h"
#include "isa/stub.h"

/* Bytes to decode from: a copy, so that what is decoded is what was saved. */
struct source {
	hpa_t host;
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
	s->host = (hpa_t)host;
	s->nr = 0;
	s->host2 = 0;
	s->first = (unsigned)min_u64(PAGE_SIZE - ((hpa_t)host & ~PAGE_MASK), BLOCK_MAX_BYTES);
	read_page(s, host, s->first);
}

uint8_t *block_next_page(struct vmx_cpu *cpu, gva_t lin)
{
	gva_t next = ((lin & PAGE_MASK) + PAGE_SIZE) & cpu->code_mask;

	if (cpu->cs.code_mode == ISA_CODE64 && !isa_canonical(&cpu->cs, next))
		isa_raise_error(&cpu->cs, X86_TRAP_GP, 0);
	return cpu_translate(cpu, next, CPU_EXEC, cpu_data_priv(cpu, ISA_READ));
}

/* Fetch what follows on the next page: may fault or exit. */
static void read_second(struct vmx_cpu *cpu, struct source *s, gva_t lin)
{
	uint8_t *host = block_next_page(cpu, lin);

	s->host2 = (hpa_t)host;
	read_page(s, host, 15);
}

/* Decode into b->insns[]: true when the first instruction is not all there. */
static bool decode(struct vmx_cpu *cpu, struct cpu_block *b, const struct source *s,
		   unsigned max_insns)
{
	struct cpu_state *cs = &cpu->cs;
	unsigned off = 0, nr = 0;

	silicon_use(cs->stubs);
	b->jumps = b->sys = false;
	while (nr < max_insns && off < s->nr) {
		struct isa_insn *i = &b->insns[nr];
		enum isa_decode_result r;
		bool writer;

		r = isa_decode(s->bytes + off, s->nr - off, (enum isa_code_mode)cs->code_mode,
			       cs->ops, i);
		if (r == ISA_DECODE_PARTIAL)
			break;
		i->off = (uint16_t)off;
		off += i->len;
		nr++;
		writer = unlikely(cpu_apic_writer(cpu, s->host + i->off));
		if (i->system || writer)
			b->sys = true;
		if (r != ISA_DECODE_OK || cpu_bus_lock_watch(cpu, i))
			break;
		if (i->flags & ISA_ENDS_BLOCK) {
			b->jumps = true;
			break;
		}
		if (writer)
			break;
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
	struct code_page *p = code_page_make(cpu, host & PAGE_MASK);
	hpa_t last = min_u64(host + b->nr_bytes, (host & PAGE_MASK) + PAGE_SIZE) - 1;
	uint8_t *bytes = (uint8_t *)b->end;
	struct cpu_block **bucket = &c->hash[block_hash(b->key)];

	for (unsigned k = 0; k < b->nr_bytes; k++)
		bytes[k] = s->bytes[k];
	b->bytes = bytes;
	b->page = p;
	p->lines |= GENMASK_ULL((last >> 6) & 63, (host >> 6) & 63);
	jit_page_grew(p, b);
	b->page_next = p->blocks;
	p->blocks = b;
	b->hash_next = *bucket;
	*bucket = b;
	if (b->host2) {
		p = code_page_make(cpu, b->host2);
		p->lines |= 1;
		p->tail = b;
	}
}

static struct cpu_block *arena_block(struct cpu_blocks *c)
{
	c->free = (uint8_t *)(((uintptr_t)c->free + 63) & ~63ULL);
	return (struct cpu_block *)c->free;
}

struct cpu_block *block_decode_scratch(struct vmx_cpu *cpu, gva_t lin, const uint8_t *host)
{
	struct cpu_state *cs = &cpu->cs;
	struct cpu_block *b = (struct cpu_block *)cpu->blocks->scratch;
	struct source s;

	if (cs->rip >= cpu->fetch_end)
		isa_raise_error(cs, X86_TRAP_GP, 0);
	if (!silicon_arena_has_room(cs->stubs, 2))
		blocks_reset(cpu);
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

struct cpu_block *block_decode(struct vmx_cpu *cpu, gva_t lin, const uint8_t *host)
{
	struct cpu_blocks *c = cpu->blocks;
	struct cpu_block *b;
	struct code_page *second;
	struct source s;
	uint64_t epoch = cpu->epoch; /* from before the bytes were read */

	isa_fpu_sync(&cpu->cs);
	if (c->free + 2 * BLOCK_ROOM > c->arena_end ||
	    !silicon_arena_has_room(cpu->cs.stubs, 2 * BLOCK_MAX_INSNS))
		blocks_reset(cpu);
	if (!code_page_register(cpu, (hpa_t)host & PAGE_MASK))
		return block_decode_scratch(cpu, lin, host);
	read_first(&s, host);
	b = arena_block(c);
	/* both pages that it may be on have been registered by then, or it is not kept */
	*b = (struct cpu_block){ 0 };
	if (decode(cpu, b, &s, BLOCK_MAX_INSNS)) {
		if (cpu->cs.rip + s.nr >= cpu->fetch_end)
			isa_raise_error(&cpu->cs, X86_TRAP_GP, 0);
		read_second(cpu, &s, lin);
		second = code_page_find(c, s.host2);
		if ((second && second->tail) || !code_page_register(cpu, s.host2))
			return block_decode_scratch(cpu, lin, host);
		b->host2 = s.host2;
		if (decode(cpu, b, &s, 1))
			return block_decode_scratch(cpu, lin, host);
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
