/*
 * Debug aid: USERKVM_TRACE_INSN=N keeps the last N blocks and dumps them with
 * the registers to stderr on a triple fault or a failed entry. Off: one
 * predictable branch a block.
 */
#include "cpu/internal.h"
#include "lib/log.h"
#include "lib/own.h"

#include <stdlib.h>

#define RING_MAX 65536

struct ring_entry {
	uint64_t rip, rsp, rax;
	uint8_t bytes[16];
	uint8_t nr_insns, mode;
};

struct cpu_ring {
	uint32_t size, next;
	struct ring_entry e[];
};

void cpu_ring_create(struct vmx_cpu *cpu)
{
	const char *s = getenv("USERKVM_TRACE_INSN");
	unsigned long n = s ? strtoul(s, NULL, 0) : 0;

	if (!n)
		return;
	if (n > RING_MAX)
		n = RING_MAX;
	cpu->ring = own_calloc(1, sizeof(*cpu->ring) + n * sizeof(cpu->ring->e[0]));
	if (!cpu->ring)
		return;
	cpu->ring->size = (uint32_t)n;
	cpu->observed = true;
}

void cpu_ring_block(struct vmx_cpu *cpu, const struct cpu_block *b)
{
	struct cpu_ring *r = cpu->ring;
	struct ring_entry *e = &r->e[r->next++ % r->size];

	e->rip = cpu->cs.rip;
	e->rsp = cpu->cs.gpr[RSP];
	e->rax = cpu->cs.gpr[RAX];
	e->nr_insns = b->nr;
	e->mode = cpu->cs.code_mode;
	for (unsigned k = 0; k < sizeof(e->bytes); k++)
		e->bytes[k] = b->bytes && k < b->nr_bytes ? b->bytes[k] : 0;
}

static void dump_registers(const struct cpu_state *cs)
{
	for (int n = 0; n < NR_GPRS; n += 4)
		log_dump("r%-2d %016lx %016lx %016lx %016lx", n, cs->gpr[n], cs->gpr[n + 1],
			   cs->gpr[n + 2], cs->gpr[n + 3]);
	log_dump("rip %lx rflags %lx cr0 %lx cr2 %lx cr3 %lx cr4 %lx efer %lx", cs->rip,
		   cpu_rflags(cs), cs->cr0, cs->cr2, cs->cr3, cs->cr4, cs->efer);
	for (int n = 0; n < NR_SREGS; n++)
		log_dump("seg%d %04x base %lx limit %x ar %x", n, cs->seg[n].selector,
			   cs->seg[n].base, cs->seg[n].limit, cs->seg[n].ar);
	log_dump("gdtr %lx/%x idtr %lx/%x tr %x/%lx", cs->gdtr.base, cs->gdtr.limit,
		   cs->idtr.base, cs->idtr.limit, cs->tr.selector, cs->tr.base);
}

void cpu_ring_dump(struct vmx_cpu *cpu, const char *why)
{
	struct cpu_ring *r = cpu->ring;
	uint32_t nr;

	if (!r)
		return;
	nr = r->next < r->size ? r->next : r->size;
	log_dump("%s; the last %u blocks:", why, nr);
	for (uint32_t k = r->next - nr; k != r->next; k++) {
		const struct ring_entry *e = &r->e[k % r->size];
		char hex[40];

		for (int b = 0; b < 16; b++) {
			hex[2 * b] = "0123456789abcdef"[e->bytes[b] >> 4];
			hex[2 * b + 1] = "0123456789abcdef"[e->bytes[b] & 15];
		}
		hex[32] = '\0';
		log_dump("  %016lx m%u n%-2u rsp %lx rax %lx  %s", e->rip, e->mode, e->nr_insns,
			   e->rsp, e->rax, hex);
	}
	dump_registers(&cpu->cs);
}
