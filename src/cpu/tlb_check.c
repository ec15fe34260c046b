/*
 * The checker of cached translations: see tlb_check.h for its model.
 *
 * Invariants
 * 1. A mapping describes the last fill of the slot it stands beside.
 * 2. The walks here read memory and change nothing; what cannot be read ends
 *    them as any access of the guest's does (a bus error).
 * 3. A report is made with the guest's SIMD state out of the registers.
 *
 * Locks: none, owner thread only.
 */
#include "cpu/pte.h"
#include "cpu/tlb_check.h"
#include "host/memory.h"
#include "lib/error.h"
#include "lib/log.h"
#include "lib/own.h"
#include "sdm/ept.h"
#include "sdm/paging.h"


#define MAX_REPORTS 16 /* lines on stderr of one processor */

struct mapping {
	gva_t gva; /* gpa of a guest-physical mapping */
	uint64_t eptp, mode;
	uint16_t vpid, pcid;
	uint8_t page_shift;
	bool global, gone;
	bool said; /* one line for each is enough */
};

struct tlb_checker {
	uint64_t cr0, cr4; /* as last seen */
	unsigned lines;
	struct mapping tlb[TLB_NR_CONTEXTS][NR_PRIVS][ISA_TLB_ENTRIES];
	struct mapping pde[TLB_NR_CONTEXTS][PDE_CACHE_ENTRIES];
	struct mapping ept[EPT_CACHE_ENTRIES];
};

int tlb_check_create(struct vmx_cpu *cpu)
{
	cpu->tlb->check = own_calloc(1, sizeof(*cpu->tlb->check));
	if (!cpu->tlb->check)
		return err_born(ENOMEM, "no memory for the TLB's checker");
	cpu->observed = true;
	return 0;
}

void tlb_check_destroy(struct vmx_cpu *cpu)
{
	if (cpu->tlb)
		own_free(cpu->tlb->check);
}

/* --- invalidations --- */

static bool same_root(uint64_t a, uint64_t b)
{
	return !((a ^ b) & EPTP_ROOT_MASK);
}

/*
 * Which address bits an operation of one address leaves out. An EPT violation
 * ends the combined mappings of its linear address, which here is a 4 KiB page's;
 * INVLPG, INVPCID, INVVPID and page faults end all fragments of a larger page.
 */
static unsigned address_shift(const struct tlb_scope *s, const struct mapping *m, bool pde)
{
	return s->combined && !pde ? PAGE_SHIFT : m->page_shift;
}

/* Linear and combined mappings. */
static bool covers(const struct tlb_scope *s, const struct mapping *m, bool pde)
{
	if ((s->combined && !m->eptp) || (s->but_zero && !m->vpid) ||
	    (!s->every_vpid && m->vpid != s->vpid))
		return false;
	if (!s->every_pcid && m->pcid != s->pcid && !(s->globals_of_every_pcid && m->global))
		return false;
	if (s->keeps_globals && m->global)
		return false;
	if (!s->every_ep4ta && !same_root(m->eptp, s->eptp))
		return false;
	return !s->one_address || (pde && s->every_pde) || !((m->gva ^ s->gva) >> address_shift(s, m, pde));
}

static void mark(const struct tlb_scope *s, struct mapping *m, size_t n, bool pde)
{
	for (; n--; m++)
		if (!m->gone && covers(s, m, pde))
			m->gone = true;
}

static void mark_ept(struct tlb_checker *k, const struct tlb_scope *s)
{
	for (unsigned n = 0; n < EPT_CACHE_ENTRIES; n++) {
		struct mapping *m = &k->ept[n];

		if ((s->every_ep4ta || same_root(m->eptp, s->eptp)) &&
		    (!s->one_address || !((m->gva ^ s->gpa) >> PAGE_SHIFT)))
			m->gone = true;
	}
}

void tlb_check_invalidated(struct vmx_cpu *cpu, const struct tlb_scope *s)
{
	struct tlb_checker *k = cpu->tlb->check;

	if (s->guest_physical) {
		mark_ept(k, s);
		return;
	}
	mark(s, &k->tlb[0][0][0], sizeof(k->tlb) / sizeof(struct mapping), false);
	mark(s, &k->pde[0][0], sizeof(k->pde) / sizeof(struct mapping), true);
}

void tlb_check_entered(struct vmx_cpu *cpu)
{
	cpu->tlb->check->cr0 = cpu->cs.cr0;
	cpu->tlb->check->cr4 = cpu->cs.cr4;
}

static void watch_registers(struct vmx_cpu *cpu)
{
	struct tlb_checker *k = cpu->tlb->check;
	struct tlb_scope s;

	if (tlb_scope_of_registers(cpu, k->cr0, k->cr4, &s))
		tlb_check_invalidated(cpu, &s);
	tlb_check_entered(cpu);
}

/* --- walking --- */

/* The 4 KiB page of gpa; false: the access would not succeed, or would set a flag. */
static bool look_ept(struct vmx_cpu *cpu, gpa_t gpa, uint32_t access, hpa_t *host)
{
	uint64_t e, need = cpu->eptp & EPTP_AD_ENABLE ? EPT_ACCESSED : 0;
	hpa_t table = cpu->eptp & EPTP_ROOT_MASK;
	int level = (int)FIELD_GET(EPTP_WALK_MASK, cpu->eptp) + 1;
	unsigned shift;

	*host = gpa & PAGE_MASK;
	if (!cpu->eptp)
		return true;
	if (gpa >> (12 + 9 * level))
		return false;
	for (;; level--) {
		shift = (unsigned)(12 + 9 * (level - 1));
		e = READ_ONCE(((const uint64_t *)__va(table))[(gpa >> shift) & 511]);
		if (!(e & EPT_RWX) || (access & ~e) || (e & need) != need ||
		    cpu_ept_entry_bad(e, level))
			return false;
		if (cpu_ept_is_leaf(e, level))
			break;
		table = e & EPT_ADDR_MASK;
	}
	if (need && (access & CPU_WRITE) && !(e & EPT_DIRTY))
		return false;
	*host = (e & EPT_ADDR_MASK) | (gpa & PAGE_MASK & ~(~0ULL << shift));
	return true;
}

struct look {
	struct vmx_cpu *cpu;
	gva_t gva;
	uint64_t rights; /* as for cpu_page_rights() */
	gpa_t table;
	uint64_t e; /* of the last level */
	int level;
};

/* The entry for gva in l->table. */
static bool look_entry(struct look *l)
{
	struct vmx_cpu *cpu = l->cpu;
	bool wide = cpu->cs.cr4 & X86_CR4_PAE, leaf;
	unsigned bits = wide ? 9 : 10, size = wide ? 8 : 4;
	unsigned index = (unsigned)(l->gva >> (12 + bits * (unsigned)(l->level - 1))) & ((1u << bits) - 1);
	uint32_t access = cpu->eptp & EPTP_AD_ENABLE ? CPU_READ | CPU_WRITE : CPU_READ;
	gpa_t gpa = l->table + index * size;
	hpa_t host;

	if (!look_ept(cpu, gpa, access, &host))
		return false;
	l->e = isa_host_load((void *)(host + (gpa & ~PAGE_MASK)), size);
	leaf = cpu_pte_is_leaf(&cpu->cs, l->e, l->level);
	if (!(l->e & PTE_P) || !(l->e & PTE_A) ||
	    (l->e & cpu_pte_reserved(cpu, l->level, leaf)))
		return false;
	l->rights &= l->e | ~(PTE_RW | PTE_US);
	l->rights |= l->e & (leaf ? PTE_XD | PTE_PKEY_MASK : PTE_XD);
	return true;
}

/* Down to the entry of `last`, or to the one that maps a page. */
static bool look_down(struct look *l, int last)
{
	const struct cpu_state *cs = &l->cpu->cs;
	uint64_t address = cs->cr4 & X86_CR4_PAE ? PTE_ADDR_MASK : GENMASK_ULL(31, 12);

	l->rights = PTE_RW | PTE_US;
	l->level = cs->efer & EFER_LMA ? 4 : 2;
	l->table = cs->cr3 & address;
	if ((cs->cr4 & X86_CR4_PAE) && l->level == 2) {
		uint64_t pdpte = l->cpu->pdptr[(l->gva >> 30) & 3];

		if (!(pdpte & PTE_P))
			return false;
		l->table = pdpte & address;
	}
	for (;; l->level--) {
		if (!look_entry(l))
			return false;
		if (l->level == last || cpu_pte_is_leaf(cs, l->e, l->level))
			return true;
		l->table = l->e & address;
	}
}

/* Does a walk say that gva is at the page `host`, with nothing left to do for the access? */
static bool agrees(struct vmx_cpu *cpu, enum cpu_priv priv, gva_t gva, uint32_t access, hpa_t host)
{
	struct look l = { .cpu = cpu, .gva = gva };
	gpa_t gpa = gva & PAGE_MASK;
	hpa_t now;

	if (cpu->cs.cr0 & X86_CR0_PG) {
		if (!look_down(&l, 1) || (access & ~cpu_page_rights(cpu, l.rights, priv)) ||
		    ((access & CPU_WRITE) && !(l.e & PTE_D)))
			return false;
		gpa = cpu_leaf_gpa(&cpu->cs, l.e, l.level, gva);
	}
	return look_ept(cpu, gpa, access, &now) && now == host;
}

/* --- fills and uses --- */

static void fill(struct vmx_cpu *cpu, struct mapping *m, gva_t gva, uint8_t page_shift, bool global)
{
	watch_registers(cpu);
	*m = (struct mapping){
		.gva = gva, .eptp = cpu->eptp, .mode = cpu_paging_mode(&cpu->cs),
		.vpid = cpu->vpid, .pcid = cpu_pcid(&cpu->cs, cpu->cs.cr3),
		.page_shift = page_shift, .global = global,
	};
}

/* May it be used although it differs from the tables? */
static bool may_be_stale(struct vmx_cpu *cpu, const struct mapping *m)
{
	watch_registers(cpu);
	cpu->counters.tlb_checked++;
	return !m->gone && m->vpid == cpu->vpid && (m->global || m->pcid == cpu_pcid(&cpu->cs, cpu->cs.cr3)) &&
	       same_root(m->eptp, cpu->eptp) && m->mode == cpu_paging_mode(&cpu->cs);
}

static void report(struct vmx_cpu *cpu, const char *what, struct mapping *m, uint64_t address,
		   uint32_t access, hpa_t host)
{
	struct tlb_checker *k = cpu->tlb->check;
	bool loaded = cpu->cs.fpu_loaded;

	cpu->counters.tlb_stale_uses++;
	if (m->said || k->lines >= MAX_REPORTS)
		return;
	m->said = true;
	k->lines++;
	isa_fpu_sync(&cpu->cs);
	log_always("USERKVM_CHECK=tlb: %s of %#lx used for %s%s%s at rip %#lx after it had to be "
		   "invalidated: host page %#lx, VPID %u PCID %u EPTP %#lx%s (now %u %u %#lx)",
		   what, address, access & CPU_READ ? "r" : "", access & CPU_WRITE ? "w" : "",
		   access & CPU_EXEC ? "x" : "", cpu->cs.rip, host, m->vpid, m->pcid, m->eptp,
		   m->global ? " global" : "", cpu->vpid, cpu_pcid(&cpu->cs, cpu->cs.cr3), cpu->eptp);
	if (loaded)
		isa_fpu_load(&cpu->cs);
}

static unsigned tlb_index(gva_t gva)
{
	return (unsigned)(gva >> PAGE_SHIFT) & (ISA_TLB_ENTRIES - 1);
}

static struct mapping *tlb_mapping(struct vmx_cpu *cpu, enum cpu_priv priv, gva_t gva)
{
	struct cpu_tlb *t = cpu->tlb;

	return &t->check->tlb[t->cur - t->ctx][priv][tlb_index(gva)];
}

void tlb_check_filled(struct vmx_cpu *cpu, enum cpu_priv priv, gva_t gva)
{
	const struct tlb_side *side = &cpu->tlb->cur->sub[priv].side[tlb_index(gva)];

	fill(cpu, tlb_mapping(cpu, priv, gva), gva, side->page_shift, side->global);
}

void tlb_check_used(struct vmx_cpu *cpu, enum cpu_priv priv, gva_t gva, uint32_t access)
{
	struct mapping *m = tlb_mapping(cpu, priv, gva);
	hpa_t host = (gva & PAGE_MASK) + cpu->tlb->cur->sub[priv].e[tlb_index(gva)].addend;

	if (!may_be_stale(cpu, m) && !agrees(cpu, priv, gva, access, host))
		report(cpu, "translation", m, gva, access, host);
}

static const struct pde_cache_entry *pde_entry(struct vmx_cpu *cpu, gva_t gva)
{
	return &cpu->tlb->cur->pde[(gva >> 21) & (PDE_CACHE_ENTRIES - 1)];
}

static struct mapping *pde_mapping(struct vmx_cpu *cpu, gva_t gva)
{
	struct cpu_tlb *t = cpu->tlb;

	return &t->check->pde[t->cur - t->ctx][(gva >> 21) & (PDE_CACHE_ENTRIES - 1)];
}

void tlb_check_pde_filled(struct vmx_cpu *cpu, gva_t gva)
{
	const struct pde_cache_entry *c = pde_entry(cpu, gva);

	fill(cpu, pde_mapping(cpu, gva), gva, c->level == 3 ? 30 : 21, false);
}

/* Does a walk find what is cached: the same page table, or larger page? Its D may have been set since. */
static bool pde_agrees(struct vmx_cpu *cpu, gva_t gva, const struct pde_cache_entry *c)
{
	struct look l = { .cpu = cpu, .gva = gva };
	bool table = c->level == 1;
	uint64_t same = PTE_ADDR_MASK;

	if (!look_down(&l, 2) || l.rights != c->rights || l.level != (table ? 2 : c->level) ||
	    cpu_pte_is_leaf(&cpu->cs, l.e, l.level) == table)
		return false;
	if (!table)
		same |= PTE_G | PTE_PWT | PTE_PCD;
	return !((l.e ^ c->e) & same) && (table || !(c->e & ~l.e & PTE_D));
}

void tlb_check_pde_used(struct vmx_cpu *cpu, gva_t gva)
{
	const struct pde_cache_entry *c = pde_entry(cpu, gva);
	struct mapping *m = pde_mapping(cpu, gva);

	if (!may_be_stale(cpu, m) && !pde_agrees(cpu, gva, c))
		report(cpu, c->level == 1 ? "page table" : "larger page", m, gva, CPU_READ, c->e & PTE_ADDR_MASK);
}

void tlb_check_ept_filled(struct vmx_cpu *cpu, gpa_t gpa)
{
	fill(cpu, &cpu->tlb->check->ept[(gpa >> PAGE_SHIFT) & (EPT_CACHE_ENTRIES - 1)], gpa, PAGE_SHIFT,
	     false);
}

void tlb_check_ept_used(struct vmx_cpu *cpu, gpa_t gpa, uint32_t access)
{
	unsigned index = (unsigned)(gpa >> PAGE_SHIFT) & (EPT_CACHE_ENTRIES - 1);
	struct mapping *m = &cpu->tlb->check->ept[index];
	hpa_t host = cpu->tlb->ept[index].host & PAGE_MASK, now;

	cpu->counters.tlb_checked++;
	if (!m->gone && same_root(m->eptp, cpu->eptp))
		return;
	if (!look_ept(cpu, gpa, access, &now) || now != host)
		report(cpu, "guest-physical mapping", m, gpa, access, host);
}

/* Instruction fetch from the page of lin: the block came from `host`. */
static void check_fetch(struct vmx_cpu *cpu, gva_t lin, hpa_t host)
{
	enum cpu_priv priv = cpu_data_priv(cpu, ISA_READ);
	const struct isa_tlb_entry *e = &cpu->tlb->cur->sub[priv].e[tlb_index(lin)];

	if (e->exec_tag != (lin & PAGE_MASK) || (lin & PAGE_MASK) + e->addend != (host & PAGE_MASK)) {
		report(cpu, "block", tlb_mapping(cpu, priv, lin), lin, CPU_EXEC, host & PAGE_MASK);
		return;
	}
	tlb_check_used(cpu, priv, lin, CPU_EXEC);
}

void tlb_check_block(struct vmx_cpu *cpu, const struct cpu_block *b)
{
	gva_t lin = (cpu->cs.rip + cpu->code_base) & cpu->code_mask;

	cpu_at_boundary(cpu);
	if (!b->key)
		return; /* decoded just now */
	check_fetch(cpu, lin, cpu_block_host(b));
	if (b->host2)
		check_fetch(cpu, ((lin & PAGE_MASK) + PAGE_SIZE) & cpu->code_mask, b->host2);
}

void cpu_observe(struct vmx_cpu *cpu, const struct cpu_block *b)
{
	if (cpu->tlb->check)
		tlb_check_block(cpu, b);
	if (cpu->ring)
		cpu_ring_block(cpu, b);
}
