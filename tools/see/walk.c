/*
 * userkvm ept walk: each level of the walk of the EPT, and for a guest-virtual
 * address of the two-dimensional walk: every guest table is itself at a
 * guest-physical address that the EPT translates first.
 */
#include <stdlib.h>
#include <string.h>

#include "mmu/spte.h"
#include "sdm/paging.h"
#include "tools/see/l2.h"
#include "tools/see/parts.h"
#include "tools/userkvm/options.h"

/* --- replies into structures --- */

static bool step_line(struct see_steps *s, const char *line)
{
	ull table, entry;
	int as, level, ad;
	unsigned index;

	if (sscanf(line, "root %d %d %d %llx", &as, &level, &ad, &table) == 4) {
		*s = (struct see_steps){ .root = { as, level, ad, table } };
		return true;
	}
	if (s->nr < 5 && sscanf(line, "step %d %u %llx %llx", &level, &index, &table, &entry) == 4)
		s->step[s->nr++] = (struct see_step){ level, index, table, entry };
	return true;
}

bool see_ask_walk(const struct see_options *o, gpa_t gpa, struct see_steps *s)
{
	char *text = see_ask(o->pid, "walk %llu %d 0x%llx\n", (ull)o->vm, o->as, (ull)gpa);
	char *save = NULL, *line;

	*s = (struct see_steps){ 0 };
	if (!text)
		return false;
	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		step_line(s, line);
	free(text);
	return true;
}

static void guest_line(struct see_guest_walk *w, struct see_steps *pending, const char *line)
{
	ull a, b, c, d;
	int level, as;
	unsigned m;

	if (sscanf(line, "mode %d %llx %llx %llx %llx %x %d", &level, &a, &b, &c, &d, &m, &as) == 7) {
		w->mode = level, w->cr0 = a, w->cr3 = b, w->cr4 = c, w->efer = d;
		w->maxphyaddr = m, w->as = as;
	} else if (sscanf(line, "gpte %d %llx %llx", &level, &a, &b) == 3 && w->nr < 5) {
		w->step[w->nr++] = (struct see_guest_step){ level, a, b, *pending };
	} else if (sscanf(line, "pdpte %u %llx", &m, &a) == 2 && w->nr < 5) {
		w->step[w->nr++] = (struct see_guest_step){ .level = 0, .at = m, .entry = a };
	} else if (sscanf(line, "result %llx", &a) == 1) {
		w->end = SEE_RESULT, w->gpa = a;
	} else if (sscanf(line, "unreadable %llx", &a) == 1) {
		w->end = SEE_UNREADABLE, w->gpa = a, w->ept = *pending;
	} else if (sscanf(line, "by %llx", &a) == 1) {
		pending->has_by = true, pending->by = a;
	} else if (strncmp(line, "at ", 3) == 0) {
		*pending = (struct see_steps){ 0 };
		return;
	} else {
		step_line(w->end == SEE_RESULT ? &w->ept : pending, line);
	}
}

bool see_ask_guest_walk(const struct see_options *o, gva_t gva, struct see_guest_walk *w)
{
	char *text = see_ask(o->pid, "%s %llu %u 0x%llx\n", o->l2 ? "guest2" : "guest", (ull)o->vm, o->vcpu, (ull)gva);
	struct see_steps pending = { 0 };
	char *save = NULL, *line;

	*w = (struct see_guest_walk){ .end = SEE_NOT_PRESENT };
	if (!text)
		return false;
	for (line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		guest_line(w, &pending, line);
	free(text);
	return true;
}

/* --- structures onto paper --- */

static void print_step(const struct see_step *s, bool ad, const char *indent)
{
	char text[80];

	printf("%s%-5s [%3u] at 0x%012llx = 0x%016llx  ", indent, see_level(s->level), s->index,
	       (ull)(s->table + s->index * 8ull), (ull)s->entry);
	if (!s->entry) {
		puts("nothing: EPT violation");
	} else if (spte_is_mmio(s->entry)) {
		printf("W X without R, misconfigured on purpose: MMIO, generation %llu\n",
		       (ull)mmio_spte_gen(s->entry));
	} else if (spte_is_leaf(s->entry, s->level)) {
		see_attributes(s->entry, ad, text, sizeof(text));
		printf("%s  %s page at 0x%llx\n", text, see_page_size(s->level),
		       (ull)(s->entry & EPT_ADDR_MASK));
	} else {
		printf("%c %c %c %c  table at 0x%llx\n", s->entry & EPT_READ ? 'R' : '-',
		       s->entry & EPT_WRITE ? 'W' : '-', s->entry & EPT_EXEC ? 'X' : '-',
		       s->entry & EPT_ACCESSED ? 'A' : '-', (ull)(s->entry & EPT_ADDR_MASK));
	}
}

void see_print_steps(const struct see_steps *s, const char *indent)
{
	if (!s->root.level) {
		printf("%sno EPT root for this address space yet: no vCPU has entered the guest in it\n",
		       indent);
		return;
	}
	if (!s->nr)
		printf("%sbeyond the reach of %d levels: no table can hold it\n", indent, s->root.level);
	for (int i = 0; i < s->nr; i++)
		print_step(&s->step[i], s->root.ad, indent);
}

/* Where gpa ends up, by the last step. */
static void print_end(const struct see_options *o, const struct see_steps *s, gpa_t gpa)
{
	const struct see_step *last = s->nr ? &s->step[s->nr - 1] : NULL;
	char line[512];
	uint64_t hva;

	if (!last || !spte_is_leaf(last->entry, last->level)) {
		printf("=> guest-physical 0x%llx is not mapped\n", (ull)gpa);
		return;
	}
	hva = (last->entry & EPT_ADDR_MASK) +
	      (gpa & ((level_pages(last->level) << PAGE_SHIFT) - 1));
	printf("=> guest-physical 0x%llx is host-virtual 0x%llx of the client\n", (ull)gpa, (ull)hva);
	if (see_mapping(o->pid, hva, line, sizeof(line)))
		printf("   %s\n", line);
}

static void print_eptp(const struct see_root *root)
{
	uint64_t eptp = FIELD_PREP(EPTP_MEMTYPE_MASK, MT_WRBACK) |
			FIELD_PREP(EPTP_WALK_MASK, (unsigned)root->level - 1) |
			(root->ad ? EPTP_AD_ENABLE : 0) | (root->hpa & EPTP_ROOT_MASK);

	if (root->level)
		printf("EPTP 0x%llx: root 0x%llx, %d levels, write-back, A/D %s\n", (ull)eptp,
		       (ull)root->hpa, root->level, root->ad ? "on" : "off");
}

bool see_guest_address(const struct see_guest_walk *w, gva_t gva, const char *noun, char *why, size_t size)
{
	unsigned top = w->mode == 5 ? 56 : 47, unused = 63 - top;

	if (w->mode < 4 && gva >> 32) {
		snprintf(why, size, "%s guest-virtual 0x%llx: the guest is not in 64-bit mode, its linear addresses have 32 bits.", noun,
			 (ull)gva);
		return false;
	}
	if (w->mode < 4 || (int64_t)(gva << unused) >> unused == (int64_t)gva)
		return true;
	snprintf(why, size,
		 "%s guest-virtual 0x%llx is refused by the processor: bits 63 to %u differ, the address is not "
		 "canonical; the guest takes #GP (#SS through the stack), no page table is asked.",
		 noun, (ull)gva, top);
	return false;
}

/* --- structures into JSON --- */

static void json_place(struct json *j, const struct see_options *o)
{
	json_i64(j, "pid", o->pid);
	json_u64(j, "vm", o->vm);
}

/* Where gpa ends up: the walk of the EPT, and the client's memory or null. */
static void json_gpa(struct json *j, const struct see_options *o, const struct see_steps *s, gpa_t gpa)
{
	const struct see_step *last = s->nr ? &s->step[s->nr - 1] : NULL;
	char line[512];
	uint64_t hva;

	json_u64(j, "gpa", gpa);
	json_steps(j, s);
	if (!last || !spte_is_leaf(last->entry, last->level)) {
		json_string(j, "result", "not mapped");
		return;
	}
	hva = (last->entry & EPT_ADDR_MASK) + (gpa & ((level_pages(last->level) << PAGE_SHIFT) - 1));
	json_string(j, "result", "mapped");
	json_u64(j, "hva", hva);
	json_mapping(j, see_mapping(o->pid, hva, line, sizeof(line)) ? line : "");
}

static void walk_gva_json(const struct see_options *o, gva_t gva, const struct see_guest_walk *w, const char *refused)
{
	struct json j = { .f = stdout };

	json_object(&j, NULL, true);
	json_place(&j, o);
	json_u64(&j, "vcpu", o->vcpu);
	json_u64(&j, "gva", gva);
	json_guest(&j, w);
	if (refused) {
		json_string(&j, "result", "refused");
		json_string(&j, "why", refused);
	} else if (w->end == SEE_RESULT) {
		json_gpa(&j, o, &w->ept, w->gpa);
	} else if (w->end == SEE_UNREADABLE) {
		json_u64(&j, "gpa", w->gpa);
		json_steps(&j, &w->ept);
		json_string(&j, "result", "unreadable table");
	} else {
		json_string(&j, "result", "guest page fault");
	}
	json_end(&j);
}

static int walk_gva(struct see_options *o, gva_t gva)
{
	static const char *const mode[] = { "off", "?", "32-bit, 2 levels", "PAE, 3 levels", "4 levels", "5 levels" };
	struct see_guest_walk w;
	char why[256];
	bool refused;

	if (!see_ask_guest_walk(o, gva, &w))
		return 1;
	refused = !see_guest_address(&w, gva, "An access to", why, sizeof(why));
	if (!refused && o->grid)
		return see_grid(o, gva, &w);
	if (o->json) {
		walk_gva_json(o, gva, &w, refused ? why : NULL);
		return 0;
	}
	if (refused) {
		puts(why);
		return 0;
	}
	printf("guest-virtual 0x%llx on vCPU %u of VM %llu, process %d\n", (ull)gva, o->vcpu, (ull)o->vm,
	       (int)o->pid);
	printf("guest paging %s: CR0 0x%llx CR3 0x%llx CR4 0x%llx EFER 0x%llx\n",
	       mode[w.mode >= 0 && w.mode <= 5 ? w.mode : 1], (ull)w.cr0, (ull)w.cr3, (ull)w.cr4,
	       (ull)w.efer);
	print_eptp(w.nr && w.step[w.nr - 1].level ? &w.step[w.nr - 1].ept.root : &w.ept.root);
	for (int i = 0; i < w.nr; i++) {
		const struct see_guest_step *s = &w.step[i];
		char text[80];

		see_guest_attributes(s->entry, s->level ? s->level : 3, w.mode, text, sizeof(text));
		if (s->level) {
			see_print_steps(&s->ept, "        ");
			printf("  guest %-5s at gpa 0x%llx = 0x%0*llx  %s\n", see_level(s->level), (ull)s->at,
			       w.mode == 2 ? 8 : 16, (ull)s->entry, text);
		} else {
			printf("  guest PDPTE register %llu = 0x%016llx  %s\n", (ull)s->at, (ull)s->entry,
			       s->entry & PTE_P ? "P" : "not present");
		}
	}
	switch (w.end) {
	case SEE_NOT_PRESENT:
		puts("=> the guest's own tables end here: the guest gets #PF, the EPT is not asked");
		break;
	case SEE_UNREADABLE:
		see_print_steps(&w.ept, "        ");
		printf("=> the guest's next table would be at gpa 0x%llx, where no memory can be read\n", (ull)w.gpa);
		break;
	case SEE_RESULT:
		see_print_steps(&w.ept, "        ");
		print_end(o, &w.ept, w.gpa);
		break;
	}
	return 0;
}

int see_walk(struct see_options *o)
{
	struct see_steps s;
	uint64_t addr;

	if (o->grid && !o->gva)
		return wrong_usage(see_command, "--grid is of a guest-virtual address: --gva");
	if (o->grid && o->l2)
		return wrong_usage(see_command, "--grid goes without --l2");
	if (o->output && !o->grid)
		return wrong_usage(see_command, "walk: -o is for --grid");
	if (!see_number(o->arg[0], &addr) || !see_choose_vm(o->pid, &o->vm))
		return 1;
	if (o->l2)
		return see_l2_walk(o, addr);
	if (o->gva)
		return walk_gva(o, addr);
	if (!see_ask_walk(o, addr, &s))
		return 1;
	if (o->json) {
		struct json j = { .f = stdout };

		json_object(&j, NULL, true);
		json_place(&j, o);
		json_i64(&j, "as", o->as);
		json_gpa(&j, o, &s, addr);
		json_end(&j);
		return 0;
	}
	printf("guest-physical 0x%llx in address space %d of VM %llu, process %d\n", (ull)addr, o->as,
	       (ull)o->vm, (int)o->pid);
	print_eptp(&s.root);
	see_print_steps(&s, "  ");
	print_end(o, &s, addr);
	return 0;
}
