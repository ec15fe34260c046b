/*
 * The walkers against a plain model written from the SDM (Vol. 3, "Paging",
 * "The Extended Page Table Mechanism"): outcome, error code, qualification,
 * addresses, and every accessed and dirty bit in memory afterwards.
 *
 * The model walks the same tables in memory, one access after another, with
 * nothing cached. Where the SDM leaves a choice the model makes ours: a walk
 * that faults changes no guest entry; guest A and D are set before the final
 * page's EPT entries are looked at.
 */
#include "machine.h"

#define STATE struct machine *t = *state
#define ROOT 0x10000UL /* guest tables: level 4, 3, 2, 1 at ROOT + 0x1000 * (4 - level) */
#define TABLE(level) (ROOT + 0x1000UL * (4 - (level)))

enum paging { OFF, BITS32, PAE, LONG, NR_PAGINGS };

struct setup {
	enum paging paging;
	bool wp, smep, smap, nx, pse, pge, ac, user, implicit;
	unsigned maxphyaddr;
	uint32_t access; /* CPU_READ, CPU_WRITE or CPU_EXEC */
	gva_t gva;
};

enum kind { OK, PAGE_FAULT, VIOLATION, MISCONFIG };
struct result {
	enum kind kind;
	uint32_t error;
	uint64_t qualification;
	gpa_t gpa;
	hpa_t host;
};

/* --- the model --- */

static uint64_t *ept_entry(struct machine *t, uint64_t table, gpa_t gpa, int level)
{
	return (uint64_t *)table + ((gpa >> (12 + 9 * (level - 1))) & 511);
}

static struct result model_ept(struct machine *t, gpa_t gpa, uint32_t access, bool final)
{
	struct result r = { .gpa = gpa };
	uint64_t eptp = R(t, EPT_POINTER), *used[6], table = eptp & EPTP_ROOT_MASK, rights = 7, e = 0;
	int top = (int)FIELD_GET(EPTP_WALK_MASK, eptp) + 1, level;
	bool ad = eptp & EPTP_AD_ENABLE;

	if (gpa >> (12 + 9 * top)) {
		r.kind = VIOLATION;
		r.qualification = access | 1 << 7 | final << 8;
		return r;
	}
	for (level = top;; level--) {
		bool leaf;
		uint64_t type;

		used[level] = ept_entry(t, table, gpa, level);
		e = *used[level];
		rights &= e;
		r.kind = VIOLATION;
		r.qualification = access | rights << 3 | 1 << 7 | final << 8;
		if (!(e & 7))
			return r;
		leaf = level == 1 || (level < 4 && (e & BIT_ULL(7)));
		type = (e >> 3) & 7;
		r.kind = MISCONFIG;
		r.qualification = 0;
		if ((e & 3) == 2)
			return r;
		if (leaf) {
			if (type == 2 || type == 3 || type == 7)
				return r;
			for (int bit = 12; bit < 12 + 9 * (level - 1); bit++)
				if (e & BIT_ULL(bit))
					return r;
			break;
		}
		if (e & 0x78 || (level >= 4 && (e & 0x80)))
			return r;
		table = e & GENMASK_ULL(51, 12);
	}
	if (access & ~rights) {
		r.kind = VIOLATION;
		r.qualification = access | rights << 3 | 1 << 7 | final << 8;
		return r;
	}
	for (int l = top; ad && l >= level; l--)
		*used[l] |= BIT_ULL(8) | (l == level && (access & CPU_WRITE) ? BIT_ULL(9) : 0);
	r.kind = OK;
	r.host = (e & GENMASK_ULL(51, 12)) + (gpa & ((1UL << (12 + 9 * (level - 1))) - 1));
	return r;
}

static struct result fault(const struct setup *s, uint32_t error)
{
	bool fetch_bit = (s->nx && s->paging >= PAE) || s->smep;

	if (s->access == CPU_WRITE)
		error |= 2;
	if (s->user && !s->implicit)
		error |= 4;
	if (s->access == CPU_EXEC && fetch_bit)
		error |= 16;
	return (struct result){ .kind = PAGE_FAULT, .error = error };
}

/* Bits that must be 0 in a present entry. */
static uint64_t model_reserved(const struct setup *s, int level, bool leaf)
{
	uint64_t r = 0;

	if (s->paging == BITS32) {
		if (!leaf || level == 1)
			return 0;
		for (unsigned bit = 32; bit < 40; bit++)
			r |= bit >= s->maxphyaddr ? BIT_ULL(13 + bit - 32) : 0;
		return r | BIT_ULL(21);
	}
	for (unsigned bit = s->maxphyaddr; bit < 52; bit++)
		r |= BIT_ULL(bit);
	if (!s->nx)
		r |= BIT_ULL(63);
	if (s->paging == PAE)
		r |= GENMASK_ULL(62, 52);
	if (level == 4)
		r |= BIT_ULL(7);
	if (leaf && level == 3)
		r |= GENMASK_ULL(29, 13);
	if (leaf && level == 2)
		r |= GENMASK_ULL(20, 13);
	return r;
}

static bool model_allowed(const struct setup *s, bool rw, bool us, bool xd)
{
	bool user = s->user && !s->implicit;

	if (user && !us)
		return false;
	if (s->access == CPU_EXEC)
		return !xd && !(!user && us && s->smep);
	if (!user && us && s->smap && (s->implicit || !s->ac))
		return false;
	return s->access == CPU_READ || rw || (!user && !s->wp);
}

static struct result model_walk(struct machine *t, const struct setup *s)
{
	static const int top[] = { 0, 2, 2, 4 };
	unsigned bits = s->paging == BITS32 ? 10 : 9, size = s->paging == BITS32 ? 4 : 8, nr = 0;
	bool rw = true, us = true, xd = false, eptad = R(t, EPT_POINTER) & EPTP_AD_ENABLE;
	struct { uint64_t host; gpa_t gpa; uint64_t e; } used[4];
	gpa_t table = TABLE(top[s->paging]), gpa = s->gva;
	struct result r;

	for (int level = top[s->paging]; level; level--) {
		gpa_t at = table + ((s->gva >> (12 + bits * (unsigned)(level - 1))) & ((1 << bits) - 1)) * size;
		unsigned shift = 12 + bits * (unsigned)(level - 1);
		uint64_t e;
		bool leaf;

		r = model_ept(t, at, eptad ? CPU_READ | CPU_WRITE : CPU_READ, false);
		if (r.kind != OK)
			return r;
		e = size == 4 ? *(uint32_t *)r.host : *(uint64_t *)r.host;
		used[nr].host = r.host;
		used[nr].gpa = at;
		used[nr++].e = e;
		if (!(e & 1))
			return fault(s, 0);
		leaf = level == 1 || (level <= 3 && (e & BIT_ULL(7)) && (s->paging != BITS32 || s->pse));
		if (e & model_reserved(s, level, leaf))
			return fault(s, 1 | 8);
		rw &= (e >> 1) & 1;
		us &= (e >> 2) & 1;
		xd |= s->paging >= PAE && e >> 63;
		if (leaf) {
			uint64_t base = e & GENMASK_ULL(51, 12);

			if (s->paging == BITS32 && level == 2)
				base = (e & 0xffc00000) | ((e >> 13) & 0xff) << 32;
			gpa = (base >> shift << shift) | (s->gva & ((1UL << shift) - 1));
			break;
		}
		table = e & (size == 4 ? 0xfffff000 : GENMASK_ULL(51, 12));
	}
	if (nr && !model_allowed(s, rw, us, xd))
		return fault(s, 1);
	for (unsigned n = 0; n < nr; n++) {
		uint64_t want = used[n].e | BIT_ULL(5);

		if (n == nr - 1 && s->access == CPU_WRITE)
			want |= BIT_ULL(6);
		if (want == used[n].e)
			continue;
		r = model_ept(t, used[n].gpa, eptad ? CPU_READ | CPU_WRITE : CPU_WRITE, false);
		if (r.kind != OK)
			return r;
		*(uint32_t *)used[n].host = (uint32_t)want;
	}
	return model_ept(t, gpa, s->access, true);
}

/* --- the processor --- */

static __attribute__((noinline)) bool walk(struct vmx_cpu *cpu, const struct setup *s,
					   struct cpu_walk_result *out)
{
	enum cpu_priv priv = cpu_data_priv(cpu, s->implicit ? ISA_IMPLICIT : 0);

	cpu->unwind_reason = 0;
	cpu->in_guest = true;
	if (__builtin_setjmp(cpu->unwind_buf))
		return false;
	cpu_walk(cpu, s->gva, s->access, priv, out);
	return true;
}

static struct result processor_walk(struct machine *t, const struct setup *s)
{
	struct cpu_state *cs = &t->cpu->cs;
	struct cpu_walk_result w;

	load_guest(t);
	vmx_set_guest_maxphyaddr(t->cpu, s->maxphyaddr);
	cs->cr0 = X86_CR0_NE | X86_CR0_PE | (s->paging ? X86_CR0_PG : 0) | (s->wp ? X86_CR0_WP : 0);
	cs->cr4 = X86_CR4_VMXE | (s->paging >= PAE ? X86_CR4_PAE : 0) | (s->smep ? X86_CR4_SMEP : 0) |
		  (s->smap ? X86_CR4_SMAP : 0) | (s->pse ? X86_CR4_PSE : 0) | (s->pge ? X86_CR4_PGE : 0);
	cs->efer = (s->nx ? EFER_NX : 0) | (s->paging == LONG ? EFER_LMA | EFER_LME : 0);
	cs->cr3 = s->paging == LONG ? TABLE(4) : TABLE(2);
	for (unsigned n = 0; n < 4; n++)
		t->cpu->pdptr[n] = TABLE(2) | 1;
	cs->cpl = s->user ? 3 : 0;
	cs->rflags = X86_FLAGS_FIXED | (s->ac ? X86_FLAGS_AC : 0);
	cpu_tlb_drop_ept(t->cpu, 0, true);
	cpu_tlb_flush_all(t->cpu);
	if (walk(t->cpu, s, &w))
		return (struct result){ .kind = OK, .host = w.host + (s->gva & 0xfff) };
	if (t->cpu->unwind_reason == CPU_UNWIND_EXCEPTION) {
		assert_int_equal(cs->exception.vector, X86_TRAP_PF);
		assert_int_equal(cs->exception.payload, s->gva);
		return (struct result){ .kind = PAGE_FAULT, .error = cs->exception.error_code };
	}
	return (struct result){
		.kind = R(t, VM_EXIT_REASON) == EXIT_REASON_EPT_VIOLATION ? VIOLATION : MISCONFIG,
		.qualification = R(t, EXIT_QUALIFICATION),
		.gpa = R(t, GUEST_PHYSICAL_ADDRESS),
	};
}

/* --- comparing --- */

#define NR_PIECES 10
#define IMAGE_BYTES (NR_PIECES * 4096)
struct image {
	uint8_t b[IMAGE_BYTES];
};

static uint8_t *piece(struct machine *t, unsigned n)
{
	uint8_t *ept[] = { (uint8_t *)t->ept_root, (uint8_t *)t->ept_pdpt, (uint8_t *)t->ept_pd,
			   (uint8_t *)t->ept_pt[0], (uint8_t *)t->ept_pt[1], (uint8_t *)t->ept_pml5 };

	return n < 4 ? t->ram + ROOT + n * 4096UL : ept[n - 4];
}

static unsigned nr_pieces(const struct machine *t)
{
	return t->ept_pml5 ? NR_PIECES : NR_PIECES - 1;
}

static void save(struct machine *t, struct image *i)
{
	for (unsigned n = 0; n < nr_pieces(t); n++)
		memcpy(i->b + n * 4096UL, piece(t, n), 4096);
}

static void restore(struct machine *t, const struct image *i)
{
	for (unsigned n = 0; n < nr_pieces(t); n++)
		memcpy(piece(t, n), i->b + n * 4096UL, 4096);
}

static unsigned seen[4];

static void compare(struct machine *t, const struct setup *s)
{
	static struct image before, modelled, after;
	struct result want, got;
	unsigned at;

	save(t, &before);
	want = model_walk(t, s);
	save(t, &modelled);
	restore(t, &before);
	got = processor_walk(t, s);
	save(t, &after);
	restore(t, &before);
	seen[want.kind]++;
	for (at = 0; at < IMAGE_BYTES && modelled.b[at] == after.b[at]; at++)
		;
	if (want.kind == got.kind && want.error == got.error && at == IMAGE_BYTES &&
	    (want.kind != OK || want.host == got.host) &&
	    (want.kind != VIOLATION || want.qualification == got.qualification) &&
	    (want.kind < VIOLATION || want.gpa == got.gpa))
		return;
	fail_msg("paging %d access %u user %d implicit %d wp %d smep %d smap %d nx %d ac %d gva %#lx: "
		 "kind %d/%d error %x/%x qualification %lx/%lx gpa %lx/%lx host %lx/%lx entry %#x "
		 "(model/processor)", s->paging, s->access, s->user, s->implicit, s->wp, s->smep,
		 s->smap, s->nx, s->ac, (unsigned long)s->gva, want.kind, got.kind, want.error,
		 got.error, (unsigned long)want.qualification, (unsigned long)got.qualification,
		 (unsigned long)want.gpa, (unsigned long)got.gpa, (unsigned long)want.host,
		 (unsigned long)got.host, at);
}

/* --- what is walked --- */

static gva_t gva_of(enum paging p)
{
	return p == LONG ? 3UL << 39 | 5UL << 30 | 0x255008 : p == PAE ? 1UL << 30 | 0x255008 : 0x455008;
}

/* The guest entry that translates gva at `level`, with these bits. */
static void set_entry(struct machine *t, const struct setup *s, int level, uint64_t bits)
{
	unsigned nbits = s->paging == BITS32 ? 10 : 9;
	unsigned index = (unsigned)(s->gva >> (12 + nbits * (unsigned)(level - 1))) & ((1 << nbits) - 1);
	bool leaf = level == 1 || ((bits & PTE_PS) && level < 4 && (s->paging != BITS32 || s->pse));
	uint64_t e = bits | (leaf ? level == 1 ? 0x55000 : level == 2 ? s->paging == BITS32 ? 0 : 0x200000 : 0
				  : TABLE(level - 1));

	if (s->paging == BITS32)
		((uint32_t *)(t->ram + TABLE(level)))[index] = (uint32_t)e;
	else
		guest64(t, TABLE(level))[index] = e;
}

static int top_level(enum paging p)
{
	return p == LONG ? 4 : 2;
}

/* The switches, by the bits of `n`. */
static struct setup setup_of(enum paging p, unsigned n)
{
	struct setup s = {
		.paging = p, .wp = n & 1, .smep = n & 2, .smap = n & 4, .nx = n & 8, .ac = n & 16,
		.user = n & 32, .implicit = n & 64, .pse = n & 128, .pge = n & 256, .maxphyaddr = 52,
	};

	s.gva = gva_of(p);
	return s;
}

static void every_pair_of_rights_under_every_switch_matches_the_model(void **state)
{
	STATE;

	for (enum paging p = BITS32; p < NR_PAGINGS; p++)
		for (int leaf = 1; leaf <= (p == LONG ? 3 : 2); leaf++)
			for (unsigned n = 0; n < 128; n++)
				for (unsigned rights = 0; rights < 64; rights++)
					for (uint32_t access = 1; access <= 4; access <<= 1) {
						struct setup s = setup_of(p, n | 128);
						uint64_t low = ((rights & 3) << 1) | (uint64_t)(rights >> 2 & 1) << 63;
						uint64_t high = (rights >> 3 & 3) << 1 | (uint64_t)(rights >> 5) << 63;

						if (p == BITS32 && (rights & 0x24))
							continue;
						s.access = access;
						for (int l = top_level(p); l >= leaf; l--)
							set_entry(t, &s, l, PTE_P | (l == leaf ? low : high) |
								  (l == leaf && l > 1 ? PTE_PS : 0));
						compare(t, &s);
					}
	assert_true(seen[OK] && seen[PAGE_FAULT]);
}

/* One bit after another in the entry of each level, alone. */
static void every_bit_of_every_level_matches_the_model(void **state)
{
	STATE;

	for (enum paging p = BITS32; p < NR_PAGINGS; p++)
		for (int level = 1; level <= top_level(p); level++)
			for (unsigned bit = 0; bit < (p == BITS32 ? 32 : 64); bit++)
				for (unsigned n = 0; n < 16; n++) {
					struct setup s = setup_of(p, (n & 1 ? 8 : 0) | (n & 2 ? 128 : 0) | 1);
					uint64_t full = PTE_P | PTE_RW | PTE_US;

					if ((bit >= 12 && bit < 52) && !(level > 1 && (n & 4)))
						continue; /* other addresses */
					if ((n & 4) && (bit < 13 || bit > 29))
						continue;
					if ((n & 4) && bit > (level == 2 ? p == BITS32 ? 21 : 20 : 29))
						continue;
					if ((n & 4) && (level == 4 || bit < (p == BITS32 ? 21 : 13)))
						continue;
					s.access = n & 8 ? CPU_WRITE : CPU_READ;
					for (int l = top_level(p); l >= 1; l--)
						set_entry(t, &s, l, l != level ? full :
							  (full | (n & 4 ? PTE_PS : 0)) ^ BIT_ULL(bit));
					compare(t, &s);
				}
}

static uint64_t random_bits(enum paging p)
{
	uint64_t r = (uint64_t)random(), e = PTE_P | PTE_RW | PTE_US;

	if (!(r & 15))
		e ^= PTE_P;
	if (!(r & 0x30))
		e ^= PTE_RW;
	if (!(r & 0xc0))
		e ^= PTE_US;
	if (!(r & 0x300))
		e |= PTE_PS;
	e |= (r >> 10 & 1) * PTE_A | (r >> 11 & 1) * PTE_D | (r >> 12 & 1) * PTE_G;
	if (p != BITS32 && !(r & 0xe000))
		e |= PTE_XD;
	if (p != BITS32 && !(r & 0xff0000))
		e |= BIT_ULL(52);
	return e;
}

/* EPT: the leaves of the guest's tables and of the page, now and then a level above. */
static void disturb_ept(struct machine *t)
{
	static const gpa_t pages[] = { TABLE(4), TABLE(3), TABLE(2), TABLE(1), 0x55000, 0x255000 };
	uint64_t *above[] = { t->ept_root, t->ept_pdpt, t->ept_pd, t->ept_pd + 1, t->ept_pml5,
			      t->ept_pml5 + (FIVE_ALIAS >> 48) };
	unsigned n = (unsigned)random() % 3;

	while (n--) {
		uint64_t r = (uint64_t)random();
		uint64_t *e = r & 3 ? ept_leaf(t, pages[(r >> 2) % 6]) : above[(r >> 2) % 6];

		switch (r >> 8 & 3) {
		case 0: *e = (*e & ~7UL) | (r >> 10 & 7); break;
		case 1: *e ^= BIT_ULL((r >> 10) % 10); break;
		case 2: *e ^= (r >> 10 & 7) << 3; break;
		default: *e |= (r >> 10 & 3) << 8; break;
		}
	}
}

static void random_tables_in_both_dimensions_match_the_model(void **state)
{
	STATE;
	static struct image clean;
	uint64_t eptp[2] = { R(t, EPT_POINTER), 0 };

	five_levels(t);
	eptp[1] = R(t, EPT_POINTER);
	save(t, &clean);
	srandom(1);
	memset(seen, 0, sizeof(seen));
	for (unsigned n = 0; n < 80000; n++) {
		enum paging p = (enum paging)(random() % NR_PAGINGS);
		struct setup s = setup_of(p, (unsigned)random());

		restore(t, &clean);
		s.access = 1U << random() % 3;
		s.maxphyaddr = (unsigned[]){ 32, 36, 46, 52, 52, 52 }[random() % 6];
		if (p == OFF)
			s.gva = 0x55008;
		W(EPT_POINTER, eptp[random() & 1] | (random() & 1 ? EPTP_AD_ENABLE : 0));
		for (int l = p ? top_level(p) : 0; l >= 1; l--)
			set_entry(t, &s, l, random_bits(p) |
				  (p > BITS32 && !(random() & 7) ? FIVE_ALIAS : 0) |
				  (p == BITS32 && !(random() & 7) ? BIT_ULL(13 + random() % 8) : 0));
		disturb_ept(t);
		compare(t, &s);
	}
	print_message("%u translated, %u page faults, %u violations, %u misconfigurations\n", seen[OK],
		      seen[PAGE_FAULT], seen[VIOLATION], seen[MISCONFIG]);
	for (unsigned k = 0; k < 4; k++)
		assert_true(seen[k] > 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST_LONG(every_pair_of_rights_under_every_switch_matches_the_model),
		TEST_LONG(every_bit_of_every_level_matches_the_model),
		TEST_LONG(random_tables_in_both_dimensions_match_the_model),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
