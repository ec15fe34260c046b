/*
 * One address of L2's: what the control socket says of it, and the verdict.
 */
#include "tools/see/l2.h"

#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>

#include "mmu/spte.h"

bool l2_head_line(struct l2_head *h, const char *line)
{
	int runs, execonly;
	ull a, b;

	if (sscanf(line, "l2 %d %llx %llx %d %d %d", &runs, &a, &b, &execonly, &h->maxphyaddr, &h->as) != 6)
		return false;
	h->runs = runs, h->eptp12 = a, h->root02 = b, h->execonly = execonly;
	return true;
}

const char *l2_head_words(const struct l2_head *h)
{
	return h->runs ? "L2 runs" : "L2 was the last to run";
}

static void line(struct l2_walk *w, const char *l)
{
	struct see_steps *s = &w->ept01;
	int level, kind, unsync, direct, as, ad;
	unsigned index;
	ull a, b;

	if (l2_head_line(&w->head, l))
		return;
	if (sscanf(l, "e12 %d %llx %llx %d", &level, &a, &b, &kind) == 4 && w->nr12 < 5)
		w->step12[w->nr12++] = (struct l2_step12){ level, a, false, b, (enum ept_entry_kind)kind };
	else if (sscanf(l, "nowhere %d %llx", &level, &a) == 2 && w->nr12 < 5)
		w->step12[w->nr12++] = (struct l2_step12){ .level = level, .at = a, .nowhere = true };
	else if (sscanf(l, "gpa1 %llx %d", &a, &kind) == 2)
		w->mapped = true, w->gpa1 = a, w->tracked = kind;
	else if (sscanf(l, "root %d %d %d %llx", &as, &level, &ad, &a) == 4)
		s->root = (struct see_root){ as, level, ad, a };
	else if (sscanf(l, "step %d %u %llx %llx", &level, &index, &a, &b) == 4 && s->nr < 5)
		s->step[s->nr++] = (struct see_step){ level, index, a, b };
	else if (sscanf(l, "e02 %d %u %llx %llx %d %d", &level, &index, &a, &b, &unsync, &direct) == 6 && w->nr02 < 5)
		w->step02[w->nr02++] = (struct l2_step02){ level, index, a, b, unsync, direct };
}

bool l2_take(const struct see_options *o, gpa_t gpa, struct l2_walk *w)
{
	char *text = see_ask(o->pid, "walk2 %llu %u 0x%llx\n", (ull)o->vm, o->vcpu, (ull)gpa), *save = NULL;

	*w = (struct l2_walk){ .gpa = gpa };
	if (!text)
		return false;
	for (char *l = strtok_r(text, "\n", &save); l; l = strtok_r(NULL, "\n", &save))
		line(w, l);
	free(text);
	if (!see_take(o->pid, o->vm, &w->slots))
		return false;
	w->slot = w->mapped ? see_find_slot(&w->slots, w->head.as, w->gpa1) : NULL;
	if (w->slot) {
		w->hva = w->slot->hva + (w->gpa1 - w->slot->start);
		if (!see_mapping(o->pid, w->hva, w->mapping, sizeof(w->mapping)))
			w->mapping[0] = '\0';
	}
	return true;
}

void l2_free(struct l2_walk *w)
{
	see_free(&w->slots);
}

uint64_t l2_rights12(const struct l2_walk *w)
{
	uint64_t rights = EPT_RWX;

	for (int n = 0; n < w->nr12; n++)
		rights &= w->step12[n].entry;
	return w->nr12 ? rights : 0;
}

const struct l2_step12 *l2_leaf12(const struct l2_walk *w)
{
	return w->mapped ? &w->step12[w->nr12 - 1] : NULL;
}

const struct l2_step02 *l2_leaf02(const struct l2_walk *w)
{
	const struct l2_step02 *last = w->nr02 ? &w->step02[w->nr02 - 1] : NULL;

	return last && last->entry & EPT_RWX && (last->level == 1 || last->entry & EPT_PAGE_SIZE) ? last : NULL;
}

const char *l2_verdict_name(enum l2_verdict v)
{
	static const char *const name[] = {
		[L2_EQUAL] = "equal", [L2_NOT_YET] = "not yet made", [L2_NARROWER] = "narrower", [L2_LAGS] = "lags",
		[L2_DEVICE] = "none, a device",
	};

	return name[v];
}

const char *l2_rights(uint64_t e, char buf[6])
{
	snprintf(buf, 6, "%c %c %c", e & EPT_READ ? 'R' : '-', e & EPT_WRITE ? 'W' : '-', e & EPT_EXEC ? 'X' : '-');
	return buf;
}

static uint64_t page_bytes(int level)
{
	return 4096ULL << 9 * (level - 1);
}

static uint64_t hva_of(const struct l2_step02 *s, gpa_t gpa)
{
	return (s->entry & EPT_ADDR_MASK & ~(page_bytes(s->level) - 1)) | (gpa & (page_bytes(s->level) - 1));
}

/* Why EPT02 does not let L2 write what EPT12 does. */
static const char *no_write(const struct l2_walk *w)
{
	if (w->head.eptp12 & EPTP_AD_ENABLE && !(l2_leaf12(w)->entry & EPT_DIRTY))
		return "the D flag (bit 9) of EPT12's entry is clear, and L2's first write has to be seen to set it";
	if (w->slot->flags & KVM_MEM_READONLY)
		return "the memslot is read-only (KVM_MEM_READONLY)";
	if (w->tracked)
		return "L1's page is a table of EPT12's, whose writes have to be seen";
	if (w->slot->flags & KVM_MEM_LOG_DIRTY_PAGES)
		return "the memslot has a dirty log, and L2's next write has to be seen";
	if (!(l2_leaf02(w)->entry & SPTE_HOST_WRITABLE))
		return "the entry was made by a read, when the client's page could not be written (HOST_WRITABLE, bit 52, is clear)";
	return "it was taken away; the fault of L2's next write gives it back";
}

static const char *smaller(const struct l2_walk *w)
{
	return w->slot->flags & KVM_MEM_LOG_DIRTY_PAGES
		       ? "writes to the memslot are logged page by page"
		       : "the memslot or the client's mapping is not of that size and alignment, or a table of EPT12's lies within the page";
}

static enum l2_verdict no_leaf12(const struct l2_walk *w, char *why, size_t size)
{
	if (!l2_leaf02(w)) {
		snprintf(why, size, "neither maps the address");
		return L2_EQUAL;
	}
	snprintf(why, size, "EPT12 maps nothing there any more, EPT02 still does: no INVEPT of L1's has come since, or the client wrote "
			    "EPT12 itself");
	return L2_LAGS;
}

/* Both map it. */
static enum l2_verdict compare(const struct l2_walk *w, char *why, size_t size)
{
	const struct l2_step02 *s = l2_leaf02(w);
	int level12 = l2_leaf12(w)->level;
	uint64_t more = s->entry & ~l2_rights12(w) & EPT_RWX, less = l2_rights12(w) & ~s->entry & EPT_RWX;
	char text[6];

	if (hva_of(s, w->gpa) != w->hva) {
		snprintf(why, size, "EPT02 leads to host-virtual 0x%llx, another page than EPT12's now: no INVEPT of L1's has come since, "
				    "or the client wrote EPT12 itself", (ull)hva_of(s, w->gpa));
		return L2_LAGS;
	}
	if (more) {
		snprintf(why, size, "EPT02 still allows %s, which EPT12 has taken away: no INVEPT of L1's has come since, or the client "
				    "wrote EPT12 itself", l2_rights(more, text));
		return L2_LAGS;
	}
	if (less) {
		snprintf(why, size, "%s is missing: %s", l2_rights(less, text), less & EPT_WRITE ? no_write(w)
				     : "it was taken away; the fault of L2's next access gives it back");
		return L2_NARROWER;
	}
	if (s->level < level12)
		snprintf(why, size, "the same rights to the same page, a %s page of EPT12's cut to %s: %s", see_page_size(level12),
			 see_page_size(s->level), smaller(w));
	else
		snprintf(why, size, "the same rights to the same page");
	return L2_EQUAL;
}

enum l2_verdict l2_verdict(const struct l2_walk *w, char *why, size_t size)
{
	if (!l2_leaf12(w))
		return no_leaf12(w, why, size);
	if (!w->slot) {
		snprintf(why, size, "L1's page is in no memslot: L2's accesses are emulated, an entry is never made");
		return L2_DEVICE;
	}
	if (!l2_leaf02(w)) {
		snprintf(why, size, "L2's first access makes the entry");
		return L2_NOT_YET;
	}
	return compare(w, why, size);
}

/* --- entries --- */

static void print_leaf(uint64_t e, int level, bool ad, const char *where, uint64_t address)
{
	char text[80];

	see_attributes(e, ad, text, sizeof(text));
	printf("%s  %s page at %s 0x%llx\n", text, see_page_size(level), where, (ull)address);
}

static void print_table(uint64_t e, bool ad, const char *where)
{
	char text[6];

	printf("%s %c  table at %s 0x%llx\n", l2_rights(e, text), !ad ? '.' : e & EPT_ACCESSED ? 'A' : '-', where,
	       (ull)(e & EPT_ADDR_MASK));
}

const char *l2_misconfigured(const struct l2_walk *w, const struct l2_step12 *s)
{
	if ((s->entry & (EPT_READ | EPT_WRITE)) == EPT_WRITE)
		return "W without R";
	if ((s->entry & EPT_RWX) == EPT_EXEC && !w->head.execonly)
		return "X without R, which is not offered";
	if (w->head.maxphyaddr < 52 && s->entry & GENMASK_ULL(51, w->head.maxphyaddr))
		return "an address beyond L1's physical-address width";
	if (s->level > 3 || (s->level > 1 && !(s->entry & EPT_PAGE_SIZE)))
		return "reserved bits (6:3, and 7 above PDPTEs) of an entry that leads to a table";
	return FIELD_GET(EPT_MEMTYPE_MASK, s->entry) == 2 || FIELD_GET(EPT_MEMTYPE_MASK, s->entry) == 3 ||
			       FIELD_GET(EPT_MEMTYPE_MASK, s->entry) == 7
		       ? "a memory type that is reserved" : "reserved address bits of a large page";
}

void l2_print12(const struct l2_walk *w, const struct l2_step12 *s)
{
	bool ad = w->head.eptp12 & EPTP_AD_ENABLE;

	if (s->nowhere) {
		printf("  %-5s at L1 0x%llx: no memory there, an EPT violation for L1\n", see_level(s->level), (ull)s->at);
		return;
	}
	printf("  %-5s [%3u] at L1 0x%09llx = 0x%016llx  ", see_level(s->level), (unsigned)(s->at / 8 & 511), (ull)s->at,
	       (ull)s->entry);
	switch (s->kind) {
	case EPT_ENTRY_ABSENT: puts("nothing: EPT violation for L1"); break;
	case EPT_ENTRY_BAD: printf("%s: EPT misconfiguration for L1\n", l2_misconfigured(w, s)); break;
	case EPT_ENTRY_TABLE: print_table(s->entry, ad, "L1"); break;
	case EPT_ENTRY_LEAF:
		print_leaf(s->entry, s->level, ad, "L1", s->entry & EPT_ADDR_MASK & ~(page_bytes(s->level) - 1));
		break;
	}
}

void l2_print02(const struct l2_walk *w, const struct l2_step02 *s)
{
	printf("  %-5s [%3u] at 0x%012llx = 0x%016llx  ", see_level(s->level), s->index, (ull)(s->table + s->index * 8ull),
	       (ull)s->entry);
	if (!(s->entry & EPT_RWX))
		puts("nothing: EPT violation, L0 looks at EPT12");
	else if (s->level == 1 || s->entry & EPT_PAGE_SIZE)
		print_leaf(s->entry, s->level, w->head.eptp12 & EPTP_AD_ENABLE, "hva",
			   s->entry & EPT_ADDR_MASK & ~(page_bytes(s->level) - 1));
	else
		print_table(s->entry, true, "hva");
	if (s->unsync)
		puts("        (this table may lag behind EPT12's until INVEPT)");
}
