/*
 * What the TLB may and may not hold (SDM Vol. 3, "Caching Translation
 * Information", of paging and of VMX): random sequences of table edits and of
 * every operation that invalidates, against a model of what a processor that
 * caches all it can may still have; and the checker of USERKVM_CHECK=tlb.
 *
 * Guest-physical mappings: for each EP4TA and page the set of leaves that were in
 * the tables since an operation whose scope covers them. Page tables that a cached
 * PDE may name: the same for each VPID, EP4TA, PCID and 2 MiB. Combined mappings:
 * the same again for each page, the pairs that the first two gave while that
 * context was current. Sets, not histories: all only grow between invalidations.
 */
#include "cpu/system.h"
#include "cpu/tlb_check.h"
#include "machine.h"

#define STATE struct machine *t = *state

enum { VPIDS = 3, EPTS = 2, PCIDS = 3, REGIONS = 2, PAGES = 4, TABLES = 2, GPAS = 4, HOSTS = 4 };

/* A guest mapping is gpa << 2 | global << 1 | writable, an EPT leaf host << 1 | writable. */
enum { ID_RW = 1, ID_G = 2, NR_SMALL = GPAS * 4, NR_LARGE = 2 * 4 };
struct combined {
	uint8_t small[NR_SMALL]; /* the set of leaves that it may be joined to */
	uint8_t large;		 /* the set of 2 MiB mappings; EPT does not change there */
};

struct model {
	struct combined combined[VPIDS][EPTS][PCIDS][REGIONS][PAGES];
	uint8_t tables[VPIDS][EPTS][PCIDS][REGIONS];
	uint8_t ept[EPTS][GPAS];
};

struct world {
	struct machine *t;
	struct model m;
	unsigned v, e, c; /* current VPID (0: none), EPT, PCID */
	uint64_t *pt1;	  /* of the second EPT, for the data's 2 MiB */
	uint64_t eptp[EPTS];
	unsigned long step, stale, faults, violations;
};

#define DATA_GPA 0x200000UL
#define LARGE_GPA 0x400000UL
#define DATA_HOST 0x800000UL
#define TABLE_GPA(r, n) (0x40000UL + ((r) * TABLES + (n)) * 0x1000)
static const unsigned page_index[PAGES] = { 0, 1, 2, 300 };

static gva_t gva_of(unsigned r, unsigned p)
{
	return 0x800000UL + r * 0x200000UL + page_index[p] * 0x1000UL;
}

static uint64_t *pde(struct world *w, unsigned r)
{
	return guest64(w->t, GPA_PD) + 4 + r;
}

static uint64_t *pte(struct world *w, unsigned r, unsigned table, unsigned p)
{
	return guest64(w->t, TABLE_GPA(r, table)) + page_index[p];
}

static uint64_t *leaf(struct world *w, unsigned e, unsigned k)
{
	return e ? &w->pt1[k] : ept_leaf(w->t, DATA_GPA + k * 0x1000UL);
}

/* --- the model --- */

static unsigned id_of(struct world *w, uint64_t e, uint64_t first, uint64_t size)
{
	return (unsigned)(((e & PTE_ADDR_MASK) - first) / size * 4) + (e & PTE_RW ? ID_RW : 0) +
	       ((e & PTE_G) && (w->t->cpu->cs.cr4 & X86_CR4_PGE) ? ID_G : 0);
}

static void note_leaves(struct world *w)
{
	for (unsigned e = 0; e < EPTS; e++)
		for (unsigned k = 0; k < GPAS; k++) {
			uint64_t l = *leaf(w, e, k);
			unsigned host = (unsigned)(((l & EPT_ADDR_MASK) - (uint64_t)w->t->ram - DATA_HOST) >> 12);

			if (l & EPT_READ)
				w->m.ept[e][k] |= (uint8_t)(1 << (host * 2 + !!(l & EPT_WRITE)));
		}
}

/* What the tables say now may be cached from now on in the current context. */
static void note_current(struct world *w)
{
	note_leaves(w);
	for (unsigned r = 0; r < REGIONS; r++) {
		uint64_t d = *pde(w, r);
		uint8_t *tables = &w->m.tables[w->v][w->e][w->c][r];

		if (!(d & PTE_PS))
			*tables |= (uint8_t)(1 << ((d & PTE_ADDR_MASK) - TABLE_GPA(r, 0)) / 0x1000);
		for (unsigned p = 0; p < PAGES; p++) {
			struct combined *s = &w->m.combined[w->v][w->e][w->c][r][p];

			if ((d & PTE_PS) && (d & PTE_P))
				s->large |= (uint8_t)(1 << id_of(w, d, LARGE_GPA, 0x200000));
			for (unsigned n = 0; n < TABLES; n++) {
				uint64_t e = *pte(w, r, n, p);
				unsigned id = id_of(w, e, DATA_GPA, 0x1000);

				if ((*tables & 1 << n) && (e & PTE_P))
					s->small[id] |= w->m.ept[w->e][id >> 2];
			}
		}
	}
}

static void forget_page(struct combined *s, bool same_page, bool keep_globals)
{
	for (unsigned n = 0; same_page && n < NR_SMALL; n++)
		if (!(keep_globals && (n & ID_G)))
			s->small[n] = 0;
	s->large &= keep_globals ? 0xcc : 0; /* fragments go together */
}

enum { ANY = 99 };
/* An invalidation of linear and combined mappings; p ANY: all addresses. */
static void forget(struct world *w, unsigned v, unsigned e, unsigned c, unsigned r, unsigned p,
		   bool keep_globals)
{
	for (unsigned v1 = 0; v1 < VPIDS; v1++)
		for (unsigned e1 = 0; e1 < EPTS; e1++)
			for (unsigned c1 = 0; c1 < PCIDS; c1++)
				for (unsigned r1 = 0; r1 < REGIONS; r1++) {
					if ((v != ANY && v != v1) || (e != ANY && e != e1) ||
					    (c != ANY && c != c1) || (p != ANY && r != r1))
						continue;
					w->m.tables[v1][e1][c1][r1] = 0;
					for (unsigned p1 = 0; p1 < PAGES; p1++)
						forget_page(&w->m.combined[v1][e1][c1][r1][p1],
							    p == ANY || p == p1, keep_globals);
				}
}

/* May gva be at this host address for the access? */
static bool permitted(struct world *w, unsigned r, unsigned p, bool write, bool user, uint64_t host)
{
	bool wp = w->t->cpu->cs.cr0 & X86_CR0_WP;
	uint64_t at = host - (uint64_t)w->t->ram;

	for (unsigned c = 0; c < PCIDS; c++) {
		const struct combined *s = &w->m.combined[w->v][w->e][c][r][p];

		for (unsigned n = 0; n < NR_SMALL; n++) {
			bool usable = (c == w->c || (n & ID_G)) && !(write && !(n & ID_RW) && (wp || user));

			if (usable && n < NR_LARGE && (s->large & 1 << n) &&
			    at == LARGE_GPA + (n >> 2) * 0x200000UL + page_index[p] * 0x1000UL)
				return true;
			for (unsigned k = write; usable && k < 2 * HOSTS; k += write + 1)
				if ((s->small[n] & 1 << k) && at == DATA_HOST + (k >> 1) * 0x1000UL)
					return true;
		}
	}
	return false;
}

/* What a walk finds in the tables now; false: a page fault. */
static bool walk_now(struct world *w, unsigned r, unsigned p, bool write, bool user, uint64_t *gpa)
{
	uint64_t d = *pde(w, r), e = d;
	bool wp = w->t->cpu->cs.cr0 & X86_CR0_WP;

	*gpa = (d & PTE_ADDR_MASK) + page_index[p] * 0x1000UL;
	if (!(d & PTE_PS)) {
		e = *pte(w, r, (unsigned)(((d & PTE_ADDR_MASK) - TABLE_GPA(r, 0)) / 0x1000), p);
		*gpa = e & PTE_ADDR_MASK;
	}
	return (e & PTE_P) && (!write || (e & PTE_RW) || (!wp && !user));
}

static uint64_t host_now(struct world *w, uint64_t gpa)
{
	if (gpa >= LARGE_GPA)
		return (uint64_t)w->t->ram + gpa;
	return *leaf(w, w->e, (unsigned)(gpa - DATA_GPA) >> 12) & EPT_ADDR_MASK;
}

/* --- operations --- */

static void enter_context(struct world *w, unsigned v, unsigned e)
{
	struct machine *t = w->t;
	struct cpu_state *cs = &t->cpu->cs;
	uint64_t secondary = R(t, SECONDARY_VM_EXEC_CONTROL) & ~SECONDARY_EXEC_ENABLE_VPID;

	W(GUEST_CR0, cs->cr0);
	W(GUEST_CR3, cs->cr3);
	W(GUEST_CR4, cs->cr4);
	W(SECONDARY_VM_EXEC_CONTROL, secondary | (v ? SECONDARY_EXEC_ENABLE_VPID : 0));
	W(VIRTUAL_PROCESSOR_ID, v);
	W(EPT_POINTER, w->eptp[e]);
	load_guest(t);
	w->v = v;
	w->e = e;
	forget(w, 0, ANY, ANY, 0, ANY, false); /* VM entry with VPID 0000H */
}

static void access_page(struct world *w, unsigned r, unsigned p, bool write, bool user)
{
	struct vmx_cpu *cpu = w->t->cpu;
	enum cpu_priv priv = user ? PRIV_USER : PRIV_SUPER;
	uint8_t *host;
	uint64_t gpa;
	bool mapped;

	cpu->unwind_reason = 0;
	cpu->in_guest = true;
	host = try_translate(w->t, gva_of(r, p), write ? CPU_WRITE : CPU_READ, priv);
	mapped = walk_now(w, r, p, write, user, &gpa);
	if (host) {
		if (!permitted(w, r, p, write, user, (uint64_t)host))
			fail_msg("step %lu: region %u page %u %s: host +%#lx is not permitted", w->step, r, p,
				 write ? "write" : "read", (unsigned long)(host - w->t->ram));
		w->stale += !mapped || (uint64_t)host != host_now(w, gpa);
	} else if (cpu->unwind_reason == CPU_UNWIND_EXCEPTION) {
		if (mapped)
			fail_msg("step %lu: a page fault that the tables do not give", w->step);
		forget(w, w->v, ANY, w->c, r, p, false);
		w->faults++;
	} else {
		gpa = R(w->t, GUEST_PHYSICAL_ADDRESS);
		assert_in_range(gpa, DATA_GPA, DATA_GPA + GPAS * 0x1000 - 1);
		unsigned k = (unsigned)(gpa - DATA_GPA) >> 12;

		if (*leaf(w, w->e, k) & (write ? EPT_WRITE : EPT_READ))
			fail_msg("step %lu: an EPT violation that the tables do not give", w->step);
		w->m.ept[w->e][k] = 0;
		forget_page(&w->m.combined[w->v][w->e][w->c][r][p], true, false);
		w->violations++;
		enter_context(w, w->v, w->e); /* there has been a VM exit */
	}
}

static uint64_t random_flags(void)
{
	long x = random();

	return (x & 7 ? PTE_P : 0) | (x & 0x18 ? PTE_RW : 0) | (x & 0x60 ? 0 : PTE_G) | PTE_US;
}

static void edit(struct world *w, unsigned r, unsigned p)
{
	unsigned k = (unsigned)random() % GPAS, e = (unsigned)random() % EPTS;

	switch (random() % 8) {
	case 0:
		*pde(w, r) = TABLE_GPA(r, (unsigned)random() % TABLES) | PTE_P | PTE_RW | PTE_US;
		break;
	case 1:
		*pde(w, r) = (LARGE_GPA + (random() & 1) * 0x200000) | random_flags() | PTE_PS;
		break;
	case 2: case 3:
		*leaf(w, e, k) = ((uint64_t)w->t->ram + DATA_HOST + (uint64_t)(random() % HOSTS) * 0x1000) |
				 (LEAF_RWX & ~(random() & 7 ? 0 : EPT_RWX) & ~(random() & 3 ? 0 : EPT_WRITE));
		break;
	default:
		*pte(w, r, (unsigned)random() % TABLES, p) = (DATA_GPA + k * 0x1000UL) | random_flags();
	}
}

static void mov_to_cr3(struct world *w)
{
	bool pcide = w->t->cpu->cs.cr4 & X86_CR4_PCIDE, keep = pcide && (random() & 1);

	w->c = pcide ? (unsigned)random() % PCIDS : 0;
	cpu_tlb_flush_cr3(w->t->cpu, GPA_PML4 | w->c | (keep ? CR3_NOFLUSH : 0));
	if (!keep)
		forget(w, w->v, ANY, w->c, 0, ANY, true);
}

static void mov_to_cr4(struct world *w)
{
	static const uint64_t bits[] = { X86_CR4_PGE, X86_CR4_PCIDE, X86_CR4_SMEP };
	struct vmx_cpu *cpu = w->t->cpu;
	uint64_t old = cpu->cs.cr4, v = old ^ bits[random() % 3];

	if ((v & ~old & X86_CR4_PCIDE) && w->c)
		return; /* #GP */
	cpu_write_cr4(cpu, v);
	if (((old ^ v) & X86_CR4_PGE) || (old & ~v & X86_CR4_PCIDE))
		forget(w, w->v, ANY, ANY, 0, ANY, false);
	if (v & ~old & X86_CR4_SMEP)
		forget(w, w->v, ANY, w->c, 0, ANY, false);
	if (old & ~v & X86_CR4_PCIDE) {
		cpu->cs.cr3 &= ~CR3_PCID_MASK; /* as software has to, or bits 4:3 would be PWT and PCD */
		w->c = 0;
	}
}

static void forget_globals(struct combined *s, bool same_page)
{
	for (unsigned n = 0; same_page && n < NR_SMALL; n++)
		if (n & ID_G)
			s->small[n] = 0;
	s->large &= 0x33;
}

static void do_invlpg(struct world *w, unsigned r, unsigned p)
{
	cpu_tlb_invlpg(w->t->cpu, gva_of(r, p));
	/* all PDEs of the PCID, the page's translations, and its global ones of every PCID */
	for (unsigned e = 0; e < EPTS; e++) {
		for (unsigned c = 0; c < PCIDS; c++)
			for (unsigned q = 0; q < PAGES; q++)
				forget_globals(&w->m.combined[w->v][e][c][r][q], q == p);
		for (unsigned k = 0; k < REGIONS; k++)
			w->m.tables[w->v][e][w->c][k] = 0;
	}
	forget(w, w->v, ANY, w->c, r, p, false);
}

static void do_invpcid(struct world *w, unsigned r, unsigned p)
{
	unsigned type = (unsigned)random() & 3, c = w->t->cpu->cs.cr4 & X86_CR4_PCIDE ? (unsigned)random() % PCIDS : 0;

	cpu_tlb_invpcid(w->t->cpu, type, (uint16_t)c, gva_of(r, p));
	forget(w, w->v, ANY, type < 2 ? c : ANY, r, type ? ANY : p, type != 2);
}

static void do_invvpid(struct world *w, unsigned r, unsigned p)
{
	unsigned type = (unsigned)random() & 3, v = 1 + (unsigned)random() % (VPIDS - 1);

	assert_int_equal(invvpid(w->t->cpu, type, (uint16_t)v, gva_of(r, p)), VMX_SUCCEED);
	if (type == INVVPID_ALL_CONTEXT) {
		for (v = 1; v < VPIDS; v++)
			forget(w, v, ANY, ANY, 0, ANY, false);
		return;
	}
	forget(w, v, ANY, ANY, r, type ? ANY : p, type == INVVPID_SINGLE_CONTEXT_RETAINING_GLOBALS);
}

static void do_invept(struct world *w)
{
	unsigned e = (unsigned)random() % EPTS;
	bool all = random() & 1;

	assert_int_equal(invept(w->t->cpu, all ? INVEPT_ALL_CONTEXT : INVEPT_SINGLE_CONTEXT, w->eptp[e]),
			 VMX_SUCCEED);
	for (unsigned n = 0; n < EPTS; n++)
		if (all || n == e) {
			forget(w, ANY, n, ANY, 0, ANY, false);
			memset(w->m.ept[n], 0, sizeof(w->m.ept[n]));
		}
}

static void one_step(struct world *w)
{
	unsigned r = (unsigned)random() % REGIONS, p = (unsigned)random() % PAGES;
	long x = random() % 100;

	if (x < 62)
		access_page(w, r, p, random() & 1, random() & 1);
	else if (x < 84)
		edit(w, r, p);
	else if (x < 88)
		do_invlpg(w, r, p);
	else if (x < 91)
		mov_to_cr3(w);
	else if (x < 93)
		do_invpcid(w, r, p);
	else if (x < 95)
		do_invvpid(w, r, p);
	else if (x < 96)
		do_invept(w);
	else if (x < 97)
		mov_to_cr4(w);
	else if (x < 98)
		cpu_write_cr0(w->t->cpu, w->t->cpu->cs.cr0 ^ X86_CR0_WP);
	else
		enter_context(w, (unsigned)random() % VPIDS, (unsigned)random() % EPTS);
}

/* A second EPT: everything as in the first but the page table of the data. */
static void second_ept(struct world *w)
{
	struct machine *t = w->t;
	uint64_t *root = test_pages(4 * 4096), *pdpt = root + 512, *pd = root + 1024;

	w->pt1 = root + 1536;
	memcpy(pd, t->ept_pd, 4096);
	memcpy(w->pt1, t->ept_pt[1], 4096);
	root[0] = (uint64_t)pdpt | EPT_RWX;
	pdpt[0] = (uint64_t)pd | EPT_RWX;
	pd[1] = (uint64_t)w->pt1 | EPT_RWX;
	w->eptp[0] = R(t, EPT_POINTER);
	w->eptp[1] = (w->eptp[0] & ~EPTP_ROOT_MASK) | (uint64_t)root;
	for (unsigned e = 0; e < EPTS; e++)
		for (unsigned k = 0; k < GPAS; k++)
			*leaf(w, e, k) = ((uint64_t)t->ram + DATA_HOST + k * 0x1000UL) | LEAF_RWX;
}

static void run_steps(struct machine *t, unsigned seed, unsigned long steps)
{
	static struct world w;

	w = (struct world){ .t = t };
	srandom(seed);
	second_ept(&w);
	for (unsigned r = 0; r < REGIONS; r++) {
		*pde(&w, r) = TABLE_GPA(r, 0) | PTE_P | PTE_RW | PTE_US;
		for (unsigned n = 0; n < TABLES * PAGES; n++)
			*pte(&w, r, n & 1, n >> 1) = DATA_GPA | PTE_P | PTE_RW | PTE_US;
	}
	load_guest(t);
	enter_context(&w, 1, 0);
	for (w.step = 0; w.step < steps; w.step++) {
		note_current(&w);
		one_step(&w);
		if (w.step % 1000 == 0)
			assert_true(cpu_tlb_check(t->cpu->tlb));
	}
	print_message("seed %u: %lu stale uses that are permitted, %lu page faults, %lu EPT violations\n", seed,
		      w.stale, w.faults, w.violations);
	assert_true(w.stale > steps / 100 && w.faults > steps / 100 && w.violations > steps / 1000);
	munmap((void *)(w.eptp[1] & EPTP_ROOT_MASK), 4 * 4096);
}

static void no_translation_is_used_after_its_invalidation(void **state)
{
	for (unsigned seed = 1; seed <= 4; seed++) {
		machine_setup_long(state);
		run_steps(*state, seed, 150000);
		machine_teardown(state);
	}
}

/* --- the checker --- */

static int setup_checked(void **state)
{
	int err;

	setenv("USERKVM_CHECK", "1,tlb", 1);
	err = machine_setup_long(state);
	unsetenv("USERKVM_CHECK");
	return err;
}

static uint64_t reports(struct machine *t)
{
	return vmx_cpu_counters(t->cpu)->tlb_stale_uses;
}

static void checker_finds_nothing_where_the_model_finds_nothing(void **state)
{
	STATE;

	run_steps(t, 5, 40000);
	assert_int_equal(reports(t), 0);
	assert_true(vmx_cpu_counters(t->cpu)->tlb_checked > 10000);
}

#define GVA 0x55000UL
static void map(struct machine *t, gva_t gva, gpa_t gpa, uint64_t bits)
{
	guest64(t, GPA_PT)[gva >> 12] = gpa | PTE_P | PTE_RW | bits;
}

/* Each scope, told to the checker alone: the TLB keeps the entry. */
static void entry_that_an_invalidation_has_left_is_reported(void **state)
{
	STATE;
	struct tlb_scope s[] = {
		{ .vpid = 1, .every_ep4ta = true, .one_address = true, .gva = GVA }, /* INVLPG, #PF */
		{ .vpid = 1, .every_ep4ta = true, .keeps_globals = true },	     /* MOV CR3 */
		{ .every_vpid = true, .every_pcid = true, .every_ep4ta = true },     /* INVVPID */
		{ .combined = true, .every_vpid = true, .every_pcid = true, .eptp = R(t, EPT_POINTER) },
	};
	struct tlb_scope others[] = {
		{ .vpid = 2, .every_pcid = true, .every_ep4ta = true },
		{ .vpid = 1, .pcid = 1, .every_ep4ta = true },
		{ .vpid = 1, .every_ep4ta = true, .one_address = true, .gva = GVA + 0x1000 },
		{ .combined = true, .every_vpid = true, .every_pcid = true, .eptp = 0x1000 },
		{ .guest_physical = true, .every_ep4ta = true },
	};

	load_guest(t);
	for (size_t n = 0; n < ARRAY_SIZE(others); n++) {
		map(t, GVA, 0x55000, PTE_A);
		cpu_tlb_invlpg(t->cpu, GVA);
		assert_non_null(try_translate(t, GVA, CPU_READ, PRIV_SUPER));
		tlb_check_invalidated(t->cpu, &others[n]);
		map(t, GVA, 0x66000, PTE_A);
		assert_ptr_equal(try_translate(t, GVA, CPU_READ, PRIV_SUPER), t->ram + 0x55000);
		assert_int_equal(reports(t), 0);
	}
	for (size_t n = 0; n < ARRAY_SIZE(s); n++) {
		map(t, GVA, 0x55000, PTE_A);
		cpu_tlb_invlpg(t->cpu, GVA);
		assert_non_null(try_translate(t, GVA, CPU_READ, PRIV_SUPER));
		tlb_check_invalidated(t->cpu, &s[n]);
		assert_non_null(try_translate(t, GVA, CPU_READ, PRIV_SUPER));
		assert_int_equal(reports(t), n); /* what agrees with the tables is no error to see */
		map(t, GVA, 0x66000, PTE_A);
		assert_non_null(try_translate(t, GVA, CPU_READ, PRIV_SUPER));
		assert_int_equal(reports(t), n + 1);
	}
}

static void dirty_flag_that_is_not_set_again_is_reported(void **state)
{
	STATE;
	const struct tlb_scope s = { .vpid = 1, .every_pcid = true, .every_ep4ta = true };

	load_guest(t);
	assert_non_null(try_translate(t, GVA, CPU_WRITE, PRIV_SUPER));
	tlb_check_invalidated(t->cpu, &s);
	map(t, GVA, 0x55000, PTE_A);
	assert_non_null(try_translate(t, GVA, CPU_READ, PRIV_SUPER));
	assert_int_equal(reports(t), 0);
	assert_non_null(try_translate(t, GVA, CPU_WRITE, PRIV_SUPER));
	assert_int_equal(reports(t), 1);
}

static void register_change_without_its_flush_is_reported(void **state)
{
	STATE;

	load_guest(t);
	assert_non_null(try_translate(t, GVA, CPU_READ, PRIV_SUPER));
	map(t, GVA, 0x66000, PTE_A);
	t->cpu->cs.cr4 ^= X86_CR4_PGE; /* as MOV to CR4 would, but for the flush */
	assert_non_null(try_translate(t, GVA, CPU_READ, PRIV_SUPER));
	assert_int_equal(reports(t), 1);
}

static void page_table_that_an_invalidation_has_left_is_reported(void **state)
{
	STATE;
	const struct tlb_scope s = { .vpid = 1, .every_pcid = true, .every_ep4ta = true };

	load_guest(t);
	assert_non_null(try_translate(t, GVA, CPU_READ, PRIV_SUPER));
	memcpy(guest64(t, 0x60000), guest64(t, GPA_PT), 4096);
	*guest64(t, GPA_PD) = 0x60000 | PTE_P | PTE_RW | PTE_US | PTE_A;
	assert_non_null(try_translate(t, 0x56000, CPU_READ, PRIV_SUPER));
	assert_int_equal(reports(t), 0);
	tlb_check_invalidated(t->cpu, &s);
	assert_non_null(try_translate(t, 0x57000, CPU_READ, PRIV_SUPER));
	assert_int_equal(reports(t), 1);
}

/* Of 2 MiB and of 1 GiB; first what differs in nothing that matters, then another page. */
static void larger_page_that_an_invalidation_has_left_is_reported(void **state)
{
	STATE;
	struct tlb_scope s = { .vpid = 1, .every_ep4ta = true, .one_address = true };
	const uint64_t flags = PTE_P | PTE_RW | PTE_US | PTE_PS | PTE_A;

	for (unsigned n = 0; n < 2; n++) {
		uint64_t *e = guest64(t, n ? GPA_PDPT : GPA_PD);

		*e = flags;
		load_guest(t);
		cpu_tlb_flush_all(t->cpu);
		assert_ptr_equal(try_translate(t, 0x55000, CPU_READ, PRIV_SUPER), t->ram + 0x55000);
		s.gva = n ? 0x3fe55000 : 0x1fe000; /* another part of it */
		tlb_check_invalidated(t->cpu, &s);
		*e |= PTE_D;
		assert_non_null(try_translate(t, 0x56000, CPU_READ, PRIV_SUPER));
		assert_int_equal(reports(t), n);
		*e = n ? GPA_PD | PTE_P | PTE_RW | PTE_US | PTE_A : 0x200000 | flags;
		assert_ptr_equal(try_translate(t, 0x57000, CPU_READ, PRIV_SUPER), t->ram + 0x57000);
		assert_int_equal(reports(t), n + 1);
	}
}

static void larger_page_without_its_dirty_flag_is_reported(void **state)
{
	STATE;
	const struct tlb_scope s = { .vpid = 1, .every_pcid = true, .every_ep4ta = true };

	*guest64(t, GPA_PD) = PTE_P | PTE_RW | PTE_PS;
	load_guest(t);
	assert_non_null(try_translate(t, 0x55000, CPU_WRITE, PRIV_SUPER));
	tlb_check_invalidated(t->cpu, &s);
	assert_non_null(try_translate(t, 0x56000, CPU_WRITE, PRIV_SUPER));
	assert_int_equal(reports(t), 0);
	*guest64(t, GPA_PD) &= ~PTE_D;
	assert_non_null(try_translate(t, 0x57000, CPU_WRITE, PRIV_SUPER));
	assert_int_equal(reports(t), 1);
}

static void guest_physical_mapping_that_an_invalidation_has_left_is_reported(void **state)
{
	STATE;
	const struct tlb_scope s = { .guest_physical = true, .eptp = R(t, EPT_POINTER) };

	load_guest(t);
	assert_non_null(try_translate(t, GVA, CPU_READ, PRIV_SUPER));
	map(t, 0x56000, GVA, PTE_A);
	*ept_leaf(t, GVA) = (uint64_t)(t->ram + 0x66000) | LEAF_RWX;
	tlb_check_invalidated(t->cpu, &s);
	assert_ptr_equal(try_translate(t, 0x56000, CPU_READ, PRIV_SUPER), t->ram + 0x55000);
	assert_int_equal(reports(t), 1);
}

/* jmp between two pages for ever: blocks follow one another by succ[]. */
static void block_of_a_stale_page_is_reported(void **state)
{
	STATE;
	const struct tlb_scope s = { .vpid = 1, .every_pcid = true, .every_ep4ta = true };
	static const uint8_t there[] = { 0xe9, 0xfb, 0x0f, 0, 0 }, back[] = { 0xe9, 0xfb, 0xef, 0xff, 0xff };

	memcpy(t->ram + GPA_CODE, there, sizeof(there));
	memcpy(t->ram + GPA_CODE + 0x1000, back, sizeof(back));
	W(PIN_BASED_VM_EXEC_CONTROL, R(t, PIN_BASED_VM_EXEC_CONTROL) | PIN_BASED_VMX_PREEMPTION_TIMER);
	W(VMX_PREEMPTION_TIMER_VALUE, 20000);
	assert_int_equal(go(t), EXIT_REASON_PREEMPTION_TIMER);
	assert_true(vmx_cpu_counters(t->cpu)->tlb_checked > vmx_cpu_counters(t->cpu)->blocks_run / 2);
	map(t, GPA_CODE + 0x1000, 0x66000, PTE_A);
	assert_int_equal(go(t), EXIT_REASON_PREEMPTION_TIMER);
	assert_int_equal(reports(t), 0);
	tlb_check_invalidated(t->cpu, &s);
	assert_int_equal(go(t), EXIT_REASON_PREEMPTION_TIMER);
	assert_true(reports(t) > 0);
}

static void without_the_word_nothing_is_checked(void **state)
{
	STATE;

	assert_null(t->cpu->tlb->check);
	assert_false(t->cpu->observed);
}

#define TEST_CHECKED(f) cmocka_unit_test_setup_teardown(f, setup_checked, machine_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_translation_is_used_after_its_invalidation),
		TEST_CHECKED(checker_finds_nothing_where_the_model_finds_nothing),
		TEST_CHECKED(entry_that_an_invalidation_has_left_is_reported),
		TEST_CHECKED(dirty_flag_that_is_not_set_again_is_reported),
		TEST_CHECKED(register_change_without_its_flush_is_reported),
		TEST_CHECKED(page_table_that_an_invalidation_has_left_is_reported),
		TEST_CHECKED(larger_page_that_an_invalidation_has_left_is_reported),
		TEST_CHECKED(larger_page_without_its_dirty_flag_is_reported),
		TEST_CHECKED(guest_physical_mapping_that_an_invalidation_has_left_is_reported),
		TEST_CHECKED(block_of_a_stale_page_is_reported),
		TEST_LONG(without_the_word_nothing_is_checked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
