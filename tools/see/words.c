/*
 * Entries, levels and sizes in words.
 */
#include <linux/kvm.h>
#include <string.h>

#include "mmu/spte.h"
#include "sdm/ept.h"
#include "sdm/paging.h"
#include "tools/see/see.h"

const char *see_size(uint64_t bytes, char *buf, size_t size)
{
	static const char unit[] = "BKMGTP";
	unsigned u = 0;

	while (bytes && bytes % 1024 == 0 && u < sizeof(unit) - 2) {
		bytes /= 1024;
		u++;
	}
	snprintf(buf, size, "%llu%c", (ull)bytes, unit[u]);
	return buf;
}

const char *see_level(int level)
{
	static const char *const name[] = { "?", "PTE", "PDE", "PDPTE", "PML4E", "PML5E" };

	return name[level >= 1 && level <= 5 ? level : 0];
}

const char *see_page_size(int level)
{
	static const char *const name[] = { "?", "4K", "2M", "1G", "512G" };

	return name[level >= 1 && level <= 4 ? level : 0];
}

void see_attributes(uint64_t e, bool ad, char *buf, size_t size)
{
	static const char *const type[8] = { "UC", "WC", "2?", "3?", "WT", "WP", "WB", "7?" };

	snprintf(buf, size, "%c %c %c %c %c %s %s", e & EPT_READ ? 'R' : '-',
		 e & EPT_WRITE ? 'W' : '-', e & EPT_EXEC ? 'X' : '-',
		 !ad ? '.' : e & EPT_ACCESSED ? 'A' : '-', !ad ? '.' : e & EPT_DIRTY ? 'D' : '-',
		 type[FIELD_GET(EPT_MEMTYPE_MASK, e)], e & EPT_IPAT ? "IPAT" : "    ");
}

void see_guest_attributes(uint64_t e, int level, int mode, char *buf, size_t size)
{
	bool leaf = level == 1 || (level < 4 && e & PTE_PS);

	snprintf(buf, size, "%s%s%s%s%s%s%s", e & PTE_P ? "P" : "not present",
		 e & PTE_RW ? " RW" : " R", e & PTE_US ? " U" : " S", e & PTE_A ? " A" : "",
		 leaf && e & PTE_D ? " D" : "", leaf && e & PTE_G ? " G" : "",
		 mode > 2 && e & PTE_XD ? " XD" : "");
}

const char *see_slot_flags(unsigned flags)
{
	switch (flags & (KVM_MEM_READONLY | KVM_MEM_LOG_DIRTY_PAGES)) {
	case KVM_MEM_READONLY:
		return "read-only";
	case KVM_MEM_LOG_DIRTY_PAGES:
		return "read-write, dirty log";
	case KVM_MEM_READONLY | KVM_MEM_LOG_DIRTY_PAGES:
		return "read-only, dirty log";
	default:
		return "read-write";
	}
}
