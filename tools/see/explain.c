/*
 * userkvm ept explain: why an access would succeed or fault, in a sentence, and
 * what the sentence rests on: the guest's entry, the EPT entry and its bit, the
 * memslot, the client's mapping.
 *
 * The rules are those of the processor (SDM Vol. 3, "Determination of Access
 * Rights"; "EPT Violations"; "EPT Misconfigurations") and of the page-fault
 * path in src/mmu/fault.c, in the order in which they are asked.
 */
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>

#include "mmu/spte.h"
#include "sdm/paging.h"
#include "sdm/regs.h"
#include "tools/see/l2.h"
#include "tools/see/parts.h"
#include "tools/userkvm/options.h"

struct access {
	char kind; /* r w x */
	const char *noun;
	uint64_t ept_bit;
	unsigned qualification; /* bit of the exit qualification */
};

static const struct access accesses[] = {
	{ 'r', "A read of", EPT_READ, 0 },
	{ 'w', "A write to", EPT_WRITE, 1 },
	{ 'x', "An instruction fetch from", EPT_EXEC, 2 },
};

static const char *bit_name(const struct access *a)
{
	return a->kind == 'r' ? "0 (R)" : a->kind == 'w' ? "1 (W)" : "2 (X)";
}

/* --- the facts under the sentence --- */

static void slot_fact(const struct see_slot *s)
{
	char size[24];

	if (s)
		printf("  memslot %u: guest-physical 0x%llx-0x%llx (%s), %s, host-virtual from 0x%llx\n", s->id,
		       (ull)s->start, (ull)(s->start + s->size), see_size(s->size, size, sizeof(size)),
		       see_slot_flags(s->flags), (ull)s->hva);
	else
		puts("  memslot: none holds this address");
}

static void mapping_fact(const char *line, uint64_t hva)
{
	if (*line)
		printf("  client's mapping of host-virtual 0x%llx: %s\n", (ull)hva, line);
	else
		printf("  client's mapping of host-virtual 0x%llx: none\n", (ull)hva);
}

static void entry_fact(const struct see_steps *s)
{
	const struct see_step *last = &s->step[s->nr - 1];
	char text[80];

	if (!s->nr)
		return;
	printf("  EPT %s [%u] at 0x%llx = 0x%016llx: ", see_level(last->level), last->index,
	       (ull)(last->table + last->index * 8ull), (ull)last->entry);
	if (!last->entry) {
		puts("empty");
	} else if (spte_is_mmio(last->entry)) {
		printf("MMIO, generation %llu\n", (ull)mmio_spte_gen(last->entry));
	} else {
		see_attributes(last->entry, s->root.ad, text, sizeof(text));
		printf("%s, %s page%s%s\n", text, see_page_size(last->level),
		       last->entry & SPTE_HOST_WRITABLE ? ", HOST_WRITABLE (52)" : "",
		       last->entry & SPTE_MMU_WRITABLE ? ", MMU_WRITABLE (53)" : "");
	}
}

/* --- sentences about guest-physical memory --- */

struct subject {
	const struct see_options *o;
	const struct access *a;
	char what[128]; /* "A write to guest-physical 0x1000" */
	gpa_t gpa;
	struct see_steps steps;
	struct see_picture slots; /* only the memslots are used */
	const struct see_slot *slot;
	uint64_t hva;
	char mapping[512];
	FILE *say; /* into text: the sentence */
	char *text;
	size_t size;
	gva_t gva;
	const char *outcome; /* in two words, for programs */
};

/* "rwxp" of a maps line. */
static char mapping_right(const struct subject *s, unsigned i)
{
	const char *space = strchr(s->mapping, ' ');

	return space && strlen(space) > i + 1 ? space[1 + i] : '-';
}

/* What the hypervisor does with a violation where memory ought to be. */
static void after_violation(struct subject *s)
{
	bool write = s->a->kind == 'w', readonly = write && s->slot->flags & KVM_MEM_READONLY;
	bool refused = !*s->mapping || mapping_right(s, write) != (write ? 'w' : 'r');

	s->outcome = readonly ? "mmio" : refused ? "EFAULT" : "faulted in";
	if (readonly)
		fprintf(s->say, "the memslot is read-only (KVM_MEM_READONLY), so the instruction is emulated and "
		       "KVM_RUN returns KVM_EXIT_MMIO");
	else if (!*s->mapping)
		fprintf(s->say, "the client has nothing mapped there, so KVM_RUN fails with EFAULT");
	else if (mapping_right(s, write) != (write ? 'w' : 'r'))
		fprintf(s->say, "the client's mapping lacks '%c', so KVM_RUN fails with EFAULT", write ? 'w' : 'r');
	else
		fprintf(s->say, "tdp_page_fault faults the client's page in, installs an entry for it%s and the guest "
		       "tries again",
		       s->slot->flags & KVM_MEM_LOG_DIRTY_PAGES ? " (4K, since the slot's writes are logged)" : "");
}

static void say_mmio(struct subject *s)
{
	gpa_t page = ALIGN_DOWN(s->gpa, PAGE_SIZE);

	s->outcome = "mmio";
	fprintf(s->say, "the instruction is emulated: ");
	if (page == 0xfee00000)
		fprintf(s->say, "the local APIC answers if it is in-process and enabled here, else ");
	else if (page == 0xfec00000)
		fprintf(s->say, "the IOAPIC answers if it is in-process, else ");
	else
		fprintf(s->say, "an in-process device or ioeventfd answers if one is registered here, else ");
	fprintf(s->say, "KVM_RUN returns KVM_EXIT_MMIO.\n");
}

static void say_empty(struct subject *s)
{
	const struct see_step *last = &s->steps.step[s->steps.nr - 1];

	fprintf(s->say, "%s causes an EPT violation (exit reason 48, exit qualification bit %u): the %s is empty; ", s->what,
	       s->a->qualification, see_level(last->level));
	if (s->slot) {
		after_violation(s);
		fputs(".\n", s->say);
		return;
	}
	fprintf(s->say, "no memslot holds the address, so an MMIO entry is installed (the next access will be an EPT "
	       "misconfiguration, reason 49) and ");
	say_mmio(s);
}

static void say_missing_right(struct subject *s)
{
	const struct see_step *last = &s->steps.step[s->steps.nr - 1];

	fprintf(s->say, "%s causes an EPT violation (exit reason 48, exit qualification bit %u): the %s lacks bit %s; ", s->what,
	       s->a->qualification, see_level(last->level), bit_name(s->a));
	s->outcome = "fast path";
	if (spte_is_access_tracked(last->entry) && (s->a->kind != 'w' || last->entry & SPTE_MMU_WRITABLE)) {
		fputs("all rights were taken away to notice the next access (there are no accessed bits), so "
		     "fast_page_fault gives them back without a lock and the guest tries again.\n", s->say);
		return;
	}
	if (s->a->kind == 'w' && last->entry & SPTE_MMU_WRITABLE && last->level == 1) {
		fputs("it was taken away to notice writes (MMU_WRITABLE is set), so fast_page_fault gives it back "
		     "without a lock, marks the page dirty and the guest tries again.\n", s->say);
		return;
	}
	if (!s->slot) {
		s->outcome = "retried";
		fputs("the memslot is gone, the entry is about to be.\n", s->say);
		return;
	}
	if (s->a->kind == 'x')
		fprintf(s->say, "nothing of userkvm's takes X alone away: ");
	after_violation(s);
	fputs(".\n", s->say);
}

static void say_success(struct subject *s)
{
	const struct see_step *last = &s->steps.step[s->steps.nr - 1];
	bool ad = s->steps.root.ad, write = s->a->kind == 'w';
	const char *sets = "";

	/* Without PML such an entry would be write-protected. */
	if (ad && write && !(last->entry & EPT_DIRTY) && s->slot && s->slot->flags & KVM_MEM_LOG_DIRTY_PAGES)
		sets = "; the processor sets D (bit 9) and notes the page in the PML buffer, for the dirty log";
	else if (ad && !(last->entry & EPT_ACCESSED))
		sets = write && !(last->entry & EPT_DIRTY) ? "; the processor sets A (bit 8) and D (bit 9)"
							    : "; the processor sets A (bit 8)";
	else if (ad && write && !(last->entry & EPT_DIRTY))
		sets = "; the processor sets D (bit 9)";
	s->outcome = *s->mapping ? "no exit" : "EFAULT";
	fprintf(s->say, "%s succeeds without a VM exit: the %s maps a %s page and its bit %s is set%s%s.\n", s->what,
	       see_level(last->level), see_page_size(last->level), bit_name(s->a), sets,
	       *s->mapping ? "" : "; but the client has unmapped it, so the access itself will fail "
				  "and KVM_RUN return EFAULT");
}

static void say_gpa(struct subject *s)
{
	const struct see_step *last = s->steps.nr ? &s->steps.step[s->steps.nr - 1] : NULL;

	if (!s->steps.root.level) {
		s->outcome = "no root";
		fprintf(s->say, "%s cannot happen yet: no vCPU has entered the guest in address space %d, there is no EPT root.\n",
		       s->what, s->o->as);
	} else if (!last) {
		fprintf(s->say, "%s causes an EPT violation: %d levels reach to bit %d only, what lies beyond is emulated; ",
		       s->what, s->steps.root.level, 12 + 9 * s->steps.root.level - 1);
		say_mmio(s);
	} else if (spte_is_mmio(last->entry)) {
		fprintf(s->say, "%s causes an EPT misconfiguration (exit reason 49): the %s has W and X without R on "
		       "purpose, it marks MMIO (generation %llu); ",
		       s->what, see_level(last->level), (ull)mmio_spte_gen(last->entry));
		say_mmio(s);
	} else if (!spte_is_present(last->entry)) {
		say_empty(s);
	} else if (!(last->entry & s->a->ept_bit)) {
		say_missing_right(s);
	} else {
		say_success(s);
	}
}

static void facts(const struct subject *s)
{
	entry_fact(&s->steps);
	slot_fact(s->slot);
	if (s->slot)
		mapping_fact(s->mapping, s->hva);
}

/* "TEXT.\n" without its end of line. */
static void json_sentence(struct json *j, struct subject *s)
{
	s->text[strcspn(s->text, "\n")] = '\0';
	json_string(j, "explanation", s->text);
	json_string(j, "outcome", s->outcome);
}

static void json_head(struct json *j, const struct subject *s)
{
	json_object(j, NULL, true);
	json_i64(j, "pid", s->o->pid);
	json_u64(j, "vm", s->o->vm);
	json_string(j, "access", s->a->kind == 'r' ? "r" : s->a->kind == 'w' ? "w" : "x");
	if (s->o->gva)
		json_u64(j, "gva", s->gva);
}

static void json_facts(struct subject *s)
{
	struct json j = { .f = stdout };

	json_head(&j, s);
	json_u64(&j, "gpa", s->gpa);
	json_i64(&j, "as", s->o->as);
	json_sentence(&j, s);
	json_steps(&j, &s->steps);
	json_slot(&j, "slot", s->slot);
	if (s->slot) {
		json_u64(&j, "hva", s->hva);
		json_mapping(&j, s->mapping);
	}
	json_end(&j);
}

static bool explain_gpa(struct subject *s)
{
	if (!see_take(s->o->pid, s->o->vm, &s->slots))
		return false;
	s->slot = see_find_slot(&s->slots, s->o->as, s->gpa);
	if (s->slot) {
		s->hva = s->slot->hva + (s->gpa - s->slot->start);
		if (!see_mapping(s->o->pid, s->hva, s->mapping, sizeof(s->mapping)))
			s->mapping[0] = '\0';
	}
	say_gpa(s);
	fflush(s->say);
	if (s->o->json) {
		json_facts(s);
	} else {
		fputs(s->text, stdout);
		facts(s);
	}
	see_free(&s->slots);
	return true;
}

/* --- the guest's own say --- */

/* Why the guest's tables refuse the access; NULL: they do not. */
static const char *refused(const struct see_guest_walk *w, const struct access *a, bool user, int *at)
{
	for (*at = 0; *at < w->nr; ++*at) {
		uint64_t e = w->step[*at].entry;

		if (!(e & PTE_P))
			return "P (bit 0) is clear";
		if (w->step[*at].level == 0)
			continue; /* PDPTE registers have no rights */
		if (user && !(e & PTE_US))
			return "U/S (bit 2) is clear and the access is a user's";
		if (a->kind == 'w' && !(e & PTE_RW) && (user || w->cr0 & X86_CR0_WP))
			return user ? "R/W (bit 1) is clear" : "R/W (bit 1) is clear and CR0.WP is set";
		if (a->kind == 'x' && w->mode > 2 && w->efer & EFER_NX && e & PTE_XD)
			return "XD (bit 63) is set";
	}
	return NULL;
}

/* SMEP and SMAP speak of the rights of all levels together. */
static const char *refused_as_supervisor(const struct see_guest_walk *w, const struct access *a)
{
	for (int i = 0; i < w->nr; i++)
		if (w->step[i].level && !(w->step[i].entry & PTE_US))
			return NULL;
	if (a->kind == 'x')
		return w->cr4 & X86_CR4_SMEP ? "CR4.SMEP is set and the page is a user's" : NULL;
	return w->cr4 & X86_CR4_SMAP ? "CR4.SMAP is set and the page is a user's (RFLAGS.AC would allow it)" : NULL;
}

static unsigned error_code(const struct access *a, bool user, bool present)
{
	return (present ? 1u : 0) | (a->kind == 'w' ? 2u : 0) | (user ? 4u : 0) | (a->kind == 'x' ? 16u : 0);
}

/* 1: the sentence is complete, the EPT is not asked; 0 the guest allows it; -1 failed. */
static int explain_guest(struct subject *s, struct see_guest_walk *w)
{
	const struct see_options *o = s->o;
	const struct access *a = s->a;
	const char *why, *level;
	char refusal[256];
	int at;

	if (!see_ask_guest_walk(o, s->gva, w))
		return -1;
	if (!w->mode)
		return 0;
	if (!see_guest_address(w, s->gva, a->noun, refusal, sizeof(refusal))) {
		s->outcome = "not canonical";
		fprintf(s->say, "%s\n", refusal);
		return 1;
	}
	why = refused(w, a, o->user, &at);
	if (!why && w->end == SEE_UNREADABLE) {
		s->outcome = "unreadable table";
		fprintf(s->say, "%s guest-virtual 0x%llx makes the processor read a page-table entry at guest-physical "
		       "0x%llx, where there is no memory: an EPT violation with exit qualification bit 8 clear.\n",
		       a->noun, (ull)s->gva, (ull)w->gpa);
		return 1;
	}
	if (!why && !o->user) {
		why = refused_as_supervisor(w, a);
		at = w->nr - 1;
	}
	if (!why)
		return 0;
	level = w->step[at].level ? see_level(w->step[at].level) : "PDPTE";
	s->outcome = "guest page fault";
	fprintf(s->say, "%s guest-virtual 0x%llx is refused by the guest's own page tables: in its %s (0x%llx, at "
	       "guest-physical 0x%llx) %s; the guest takes #PF with error code 0x%x, there is no VM exit and the EPT is "
	       "not asked.\n",
	       a->noun, (ull)s->gva, level, (ull)w->step[at].entry,
	       (ull)w->step[at].at, why, error_code(a, o->user, w->step[at].entry & PTE_P));
	return 1;
}

/* What the guest's tables have settled alone. */
static void tell_refusal(struct subject *s)
{
	struct json j = { .f = stdout };

	fflush(s->say);
	if (!s->o->json) {
		fputs(s->text, stdout);
		return;
	}
	json_head(&j, s);
	json_sentence(&j, s);
	json_end(&j);
}

static int explain(struct subject *s, struct see_options *o, uint64_t addr)
{
	struct see_guest_walk w;

	s->gpa = addr;
	snprintf(s->what, sizeof(s->what), "%s %sguest-physical 0x%llx", s->a->noun, o->l2 ? "L2's " : "", (ull)addr);
	if (o->gva) {
		int told;

		s->gva = addr;
		told = explain_guest(s, &w);
		if (told > 0)
			tell_refusal(s);
		if (told)
			return told < 0;
		o->as = w.as;
		s->gpa = w.gpa;
		s->steps = w.ept;
		snprintf(s->what, sizeof(s->what), "%s %sguest-virtual 0x%llx, guest-physical 0x%llx,",
			 s->a->noun, o->l2 ? "L2's " : "", (ull)addr, (ull)s->gpa);
	}
	if (o->l2)
		return see_l2_explain(o, s->gpa, s->a->kind, s->what);
	if (!o->gva && !see_ask_walk(o, addr, &s->steps))
		return 1;
	return !explain_gpa(s);
}

int see_explain(struct see_options *o)
{
	const char *kind = o->nr_args > 1 ? o->arg[1] : "r";
	struct subject s = { .o = o, .outcome = "" };
	uint64_t addr;
	int status;

	for (size_t i = 0; i < ARRAY_SIZE(accesses); i++)
		if (kind[0] == accesses[i].kind && !kind[1])
			s.a = &accesses[i];
	if (!s.a)
		return !see_fail("'%s' is no access: r, w or x", kind);
	if (!see_number(o->arg[0], &addr) || !see_choose_vm(o->pid, &o->vm))
		return 1;
	s.say = open_memstream(&s.text, &s.size);
	if (!s.say)
		return !see_fail("no memory");
	status = explain(&s, o, addr);
	fclose(s.say);
	free(s.text);
	return status;
}
