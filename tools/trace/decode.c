/*
 * Words of bits, one line a field, with the manual's name for it (SDM Vol. 3:
 * "Extended-Page-Table Pointer", "Exit Qualification for EPT Violations", "EPT
 * Paging-Structure Entries"). Names stay English in every language: they are
 * what one looks up.
 */
#include <inttypes.h>
#include <stdarg.h>

#include "mmu/spte.h"
#include "sdm/paging.h"
#include "sdm/vmx.h"
#include "tools/trace/walk.h"
#include "tools/userkvm/json.h"

static const char *say(const struct out *o, const char *en, const char *zh)
{
	return o->lang == ZH ? zh : en;
}

void walk_field(struct out *o, const char *bits, const char *value, const char *name, const char *meaning, ...)
{
	char words[256];
	va_list ap;

	va_start(ap, meaning);
	vsnprintf(words, sizeof(words), meaning, ap);
	va_end(ap);
	if (o->json) {
		json_array(o->json, NULL, false);
		json_string(o->json, NULL, bits);
		json_string(o->json, NULL, value);
		json_string(o->json, NULL, name);
		json_string(o->json, NULL, words);
		json_end(o->json);
		return;
	}
	fprintf(o->f, "%*s  | ", (int)o->indent, "");
	if (*bits)
		fprintf(o->f, "%s %-5s = %s  ", bits[1] == ':' || bits[2] == ':' || bits[2] == ',' ? "bits" : "bit ", bits, value);
	fputs(name, o->f);
	if (*words)
		fprintf(o->f, "%s%s", o->lang == ZH ? "：" : ": ", words);
	putc('\n', o->f);
}

/* One bit that is set, or is not. */
static void bit_field(struct out *o, unsigned bit, bool set, const char *name, const char *meaning)
{
	char bits[8];

	snprintf(bits, sizeof(bits), "%u", bit);
	walk_field(o, bits, set ? "1" : "0", name, "%s", meaning);
}

static const char *number(char *buf, size_t size, uint64_t v)
{
	snprintf(buf, size, v < 10 ? "%" PRIu64 : "0x%" PRIx64, v);
	return buf;
}

static const char *memory_type(uint64_t t)
{
	static const char *const name[8] = {
		"UC (uncacheable)", "WC (write combining)", "2 (reserved)", "3 (reserved)",
		"WT (write-through)", "WP (write-protected)", "WB (write-back)", "7 (reserved)",
	};

	return name[t & 7];
}

void decode_eptp(struct out *o, uint64_t eptp)
{
	uint64_t walk = FIELD_GET(EPTP_WALK_MASK, eptp);
	char v[24];

	walk_field(o, "2:0", number(v, sizeof(v), eptp & EPTP_MEMTYPE_MASK), "EPT paging-structure memory type",
		   say(o, "the tables are %s", "页表的内存类型：%s"), memory_type(eptp & EPTP_MEMTYPE_MASK));
	walk_field(o, "5:3", number(v, sizeof(v), walk), "EPT page-walk length minus 1", say(o, "%d levels", "%d 级"), (int)walk + 1);
	bit_field(o, 6, eptp & EPTP_AD_ENABLE, "accessed and dirty flags for EPT",
		  eptp & EPTP_AD_ENABLE ? say(o, "the processor sets them", "由处理器置位")
					: say(o, "none: with eptad=0, when KVM takes rights away to notice accesses; and in EPT02 where L1's EPTP12 has none", "不使用：eptad=0 时 KVM 靠收回权限来发现访问；EPT02 则与 L1 的 EPTP12 一致"));
	walk_field(o, "51:12", number(v, sizeof(v), FIELD_GET(EPTP_ROOT_MASK, eptp)), "address of the EPT PML4 table, 4 KiB aligned",
		   say(o, "root table at 0x%llx", "根页表位于 0x%llx"), (unsigned long long)(eptp & EPTP_ROOT_MASK));
}

struct bit_text {
	uint64_t bit;
	const char *name, *en, *zh;
};

void decode_exit_qualification(struct out *o, uint64_t q)
{
	static const struct bit_text bits[] = {
		{ EPT_VIOLATION_ACC_READ, "data read", "the access was a data read", "访问是数据读" },
		{ EPT_VIOLATION_ACC_WRITE, "data write", "the access was a data write", "访问是数据写" },
		{ EPT_VIOLATION_ACC_INSTR, "instruction fetch", "the access was an instruction fetch", "访问是取指" },
		{ EPT_VIOLATION_READABLE, "readable", "EPT allowed reads here", "EPT 允许读" },
		{ EPT_VIOLATION_WRITABLE, "writeable", "EPT allowed writes here", "EPT 允许写" },
		{ EPT_VIOLATION_EXECUTABLE, "executable", "EPT allowed fetches here", "EPT 允许取指" },
		{ EPT_VIOLATION_USER_EXECUTABLE, "executable for user mode", "EPT allowed user-mode fetches here", "EPT 允许用户态取指" },
		{ EPT_VIOLATION_GVA_IS_VALID, "guest linear-address valid", "GUEST_LINEAR_ADDRESS holds the address", "GUEST_LINEAR_ADDRESS 字段有效" },
		{ EPT_VIOLATION_GVA_TRANSLATED, "translation of that address", "the access was to the page itself", "访问的是最终页面" },
		{ EPT_VIOLATION_NMI_UNBLOCK, "NMI unblocking due to IRET", "an IRET had unblocked NMIs", "IRET 已解除 NMI 屏蔽" },
	};
	const uint64_t rights = EPT_VIOLATION_READABLE | EPT_VIOLATION_WRITABLE | EPT_VIOLATION_EXECUTABLE;
	const uint64_t both = EPT_VIOLATION_ACC_READ | EPT_VIOLATION_ACC_WRITE;
	bool tables = (q & EPT_VIOLATION_GVA_IS_VALID) && !(q & EPT_VIOLATION_GVA_TRANSLATED);

	for (size_t i = 0; i < ARRAY_SIZE(bits); i++) {
		unsigned bit = (unsigned)__builtin_ctzll(bits[i].bit);

		if (q & bits[i].bit)
			bit_field(o, bit, true, bits[i].name, say(o, bits[i].en, bits[i].zh));
		if (bits[i].bit == EPT_VIOLATION_EXECUTABLE && !(q & rights))
			walk_field(o, "5:3", "0", "readable, writeable, executable", "%s",
				   say(o, "EPT allowed nothing: no entry is present", "EPT 不允许任何访问：表项不存在"));
		if (bits[i].bit == EPT_VIOLATION_GVA_TRANSLATED && tables)
			bit_field(o, bit, false, bits[i].name,
				  say(o, "the access was the walk's own, to one of the guest's page tables",
				      "访问来自页表遍历本身，目标是客户机页表"));
	}
	if (tables && (q & both) == both)
		walk_field(o, "1:0", "3", "read and write at once", "%s",
			   say(o, "with A/D flags in EPT (EPTP bit 6) each access of the walk to a guest table counts as a write too",
			       "启用 EPT A/D 位（EPTP bit 6）时，遍历对客户机页表的每次访问也算作写"));
}

void decode_pf_error_code(struct out *o, uint64_t e)
{
	static const struct bit_text set[] = {
		{ PFERR_PRESENT_MASK, "P", "the entry was there: its rights forbade the access", "表项存在：权限不允许" },
		{ PFERR_WRITE_MASK, "W/R", "a write", "写" },
		{ PFERR_USER_MASK, "U/S", "by user mode", "用户态" },
		{ PFERR_RSVD_MASK, "RSVD", "a reserved bit was set", "保留位被置位" },
		{ PFERR_FETCH_MASK, "I/D", "an instruction fetch", "取指" },
	};

	if (!(e & PFERR_PRESENT_MASK))
		bit_field(o, 0, false, "P", say(o, "no entry was there", "表项不存在"));
	for (size_t i = 0; i < ARRAY_SIZE(set); i++)
		if (e & set[i].bit)
			bit_field(o, (unsigned)__builtin_ctzll(set[i].bit), true, set[i].name, say(o, set[i].en, set[i].zh));
}

void decode_shadow_pte(struct out *o, uint64_t e, int level)
{
	char v[24];

	bit_field(o, 1, e & PTE_RW, "R/W", e & PTE_RW ? say(o, "writes allowed", "可写") : say(o, "no write: the next one faults", "不可写：下次写会退出"));
	bit_field(o, 2, e & PTE_US, "U/S", e & PTE_US ? say(o, "user mode may", "用户态可访问") : say(o, "the guest's kernel only", "仅内核态"));
	walk_field(o, "51:12", number(v, sizeof(v), FIELD_GET(PTE_ADDR_MASK, e)), "address of the page",
		   say(o, "level %d; the host page, not the guest's frame", "级 %d；主机页，而不是客户机的页框"), level);
	bit_field(o, 63, e & PTE_XD, "XD", e & PTE_XD ? say(o, "no fetches", "不可取指") : say(o, "fetches allowed", "可取指"));
}

void decode_error_code(struct out *o, uint64_t e)
{
	static const struct bit_text bits[] = {
		{ PFERR_PRESENT_MASK, "PFERR_PRESENT", "an entry that allows something was there", "表项已存在" },
		{ PFERR_WRITE_MASK, "PFERR_WRITE", "write", "写" },
		{ PFERR_USER_MASK, "PFERR_USER", "read", "读" },
		{ PFERR_RSVD_MASK, "PFERR_RSVD", "an entry with reserved bits: MMIO", "保留位：MMIO" },
		{ PFERR_FETCH_MASK, "PFERR_FETCH", "fetch", "取指" },
		{ PFERR_GUEST_FINAL_MASK, "PFERR_GUEST_FINAL", "the page itself", "最终页面" },
		{ PFERR_GUEST_PAGE_MASK, "PFERR_GUEST_PAGE", "a page table of the guest", "客户机页表" },
	};

	/* without EPT the error code is the #PF's own */
	if (!(e & (PFERR_GUEST_FINAL_MASK | PFERR_GUEST_PAGE_MASK)) && e != PFERR_RSVD_MASK) {
		decode_pf_error_code(o, e);
		return;
	}
	for (size_t i = 0; i < ARRAY_SIZE(bits); i++)
		if (e & bits[i].bit)
			bit_field(o, (unsigned)__builtin_ctzll(bits[i].bit), true, bits[i].name, say(o, bits[i].en, bits[i].zh));
}

static void decode_mmio_spte(struct out *o, uint64_t e)
{
	char v[24];

	walk_field(o, "2:0", "6", "write and execute without read",
		   "%s", say(o, "misconfigured on purpose, the next access exits with reason 49",
			     "故意构造的错误配置，下次访问以原因 49 退出"));
	walk_field(o, "51:12", number(v, sizeof(v), mmio_spte_gfn(e)), "gfn", "%s",
		   say(o, "KVM's own, the processor does not look at it: the frame the guest asked for", "KVM 自用，处理器不看：所访问的 gfn"));
	walk_field(o, "10:3, 62:52", number(v, sizeof(v), mmio_spte_gen(e)), "memslot generation", "%s",
		   say(o, "KVM's own: when slots change the number does, and this entry is made anew",
		       "KVM 自用：插槽一变代号就变，表项随之作废重建"));
}

/* What the rights of a leaf permit, and what follows. */
static const char *rights_words(const struct out *o, uint64_t e)
{
	if (!(e & EPT_RWX))
		return say(o, "nothing: access tracking, the next access faults", "无权限：访问跟踪，下次访问会退出");
	if (!(e & EPT_WRITE))
		return e & SPTE_MMU_WRITABLE
			? say(o, "no write, taken away to notice it: the next write faults", "不可写，为发现写操作而收走：下次写会退出")
			: say(o, "no write: the next write faults", "不可写：下次写会再次退出");
	return e & EPT_EXEC ? say(o, "reads, writes and fetches", "可读、可写、可取指")
			    : say(o, "reads and writes, no fetches", "可读、可写、不可取指");
}

void decode_spte(struct out *o, uint64_t e, int level)
{
	static const char *const reach[] = { "?", "4 KiB", "2 MiB", "1 GiB", "512 GiB" };
	char v[24], rwx[4] = { e & EPT_READ ? 'r' : '-', e & EPT_WRITE ? 'w' : '-', e & EPT_EXEC ? 'x' : '-', 0 };

	if (spte_is_mmio(e)) {
		decode_mmio_spte(o, e);
		return;
	}
	walk_field(o, "2:0", rwx, "read, write, execute access", "%s", rights_words(o, e));
	walk_field(o, "5:3", number(v, sizeof(v), FIELD_GET(EPT_MEMTYPE_MASK, e)), "EPT memory type", "%s",
		   memory_type(FIELD_GET(EPT_MEMTYPE_MASK, e)));
	bit_field(o, 6, e & EPT_IPAT, "ignore PAT memory type",
		  e & EPT_IPAT ? say(o, "whatever the guest's PAT says", "不管客户机 PAT 怎么说")
			       : say(o, "the guest's PAT counts too", "客户机 PAT 也起作用"));
	bit_field(o, 7, e & EPT_PAGE_SIZE, level > 1 ? "maps a page" : "ignored in a PTE",
		  level < 1 || level > 4 ? "" : reach[level]);
	bit_field(o, 8, e & EPT_ACCESSED, "accessed flag for EPT",
		  e & EPT_ACCESSED ? say(o, "set at once: the access is about to happen", "立即置位：访问马上发生")
				   : say(o, "not accessed yet", "尚未访问"));
	bit_field(o, 9, e & EPT_DIRTY, "dirty flag for EPT",
		  e & EPT_DIRTY ? say(o, "counts as written", "视为已写") : say(o, "clean: the first write will be seen", "未写：首次写会被发现"));
	walk_field(o, "51:12", number(v, sizeof(v), FIELD_GET(EPT_ADDR_MASK, e)), "address of the page",
		   say(o, "0x%llx: here the host page is this process's own address", "0x%llx：主机页即本进程自己的虚拟地址"),
		   (unsigned long long)(e & EPT_ADDR_MASK));
	bit_field(o, 11, e & SPTE_MMU_PRESENT, "ignored; KVM's MMU_PRESENT", say(o, "an entry of KVM's, not MMIO", "KVM 建立的表项，不是 MMIO"));
	bit_field(o, 52, e & SPTE_HOST_WRITABLE, "ignored; KVM's HOST_WRITABLE",
		  e & SPTE_HOST_WRITABLE ? say(o, "the client's mapping may be written", "主机映射可写")
					 : say(o, "the slot or the client's mapping is read-only", "插槽或主机映射只读"));
	bit_field(o, 53, e & SPTE_MMU_WRITABLE, "ignored; KVM's MMU_WRITABLE",
		  e & SPTE_MMU_WRITABLE ? say(o, "write access may be given back without a lock", "写权限可不加锁恢复")
					: say(o, "no fast path back to write access", "写权限不可快速恢复"));
}
