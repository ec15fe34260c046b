/*
 * Words of bits, one line a field (SDM Vol. 3: "Extended-Page-Table Pointer",
 * "Exit Qualification for EPT Violations", "EPT Paging-Structure Entries").
 */
#include <stdarg.h>

#include "mmu/spte.h"
#include "sdm/paging.h"
#include "sdm/vmx.h"
#include "tools/trace/walk.h"

static const char *say(struct out *o, const char *en, const char *zh)
{
	return o->lang == ZH ? zh : en;
}

void walk_detail(struct out *o, const char *fmt, ...)
{
	va_list ap;

	fprintf(o->f, "%*s  | ", (int)o->indent, "");
	va_start(ap, fmt);
	vfprintf(o->f, fmt, ap);
	va_end(ap);
	putc('\n', o->f);
}

static const char *memory_type(uint64_t t)
{
	static const char *const name[8] = {"UC", "WC", "2", "3", "WT", "WP", "WB", "UC-"};

	return name[t & 7];
}

void decode_eptp(struct out *o, uint64_t eptp)
{
	uint64_t walk = FIELD_GET(EPTP_WALK_MASK, eptp);

	walk_detail(o, "bits 2:0   = %llu  %s %s", (unsigned long long)(eptp & EPTP_MEMTYPE_MASK),
	            say(o, "memory type of the tables:", "页表的内存类型："),
	            memory_type(eptp & EPTP_MEMTYPE_MASK));
	walk_detail(o, "bits 5:3   = %llu  %s %llu", (unsigned long long)walk,
	            say(o, "walk length - 1: levels", "页表级数减 1，级数："),
	            (unsigned long long)walk + 1);
	walk_detail(o, "bit  6     = %d  %s", (eptp & EPTP_AD_ENABLE) != 0,
	            eptp & EPTP_AD_ENABLE
	                ? say(o, "the processor sets accessed and dirty flags", "处理器会置 A/D 位")
	                : say(o, "no accessed and dirty flags", "不使用 A/D 位"));
	walk_detail(o, "bits 51:12 = 0x%llx  %s 0x%llx",
	            (unsigned long long)FIELD_GET(EPTP_ROOT_MASK, eptp),
	            say(o, "root table at", "根页表位于"),
	            (unsigned long long)(eptp & EPTP_ROOT_MASK));
}

struct bit_text {
	uint64_t bit;
	const char *en, *zh;
};

void decode_exit_qualification(struct out *o, uint64_t q)
{
	static const struct bit_text bits[] = {
	    {EPT_VIOLATION_ACC_READ, "the access was a data read", "访问是数据读"},
	    {EPT_VIOLATION_ACC_WRITE, "the access was a data write", "访问是数据写"},
	    {EPT_VIOLATION_ACC_INSTR, "the access was an instruction fetch", "访问是取指"},
	    {EPT_VIOLATION_READABLE, "EPT allowed reads here", "EPT 允许读"},
	    {EPT_VIOLATION_WRITABLE, "EPT allowed writes here", "EPT 允许写"},
	    {EPT_VIOLATION_EXECUTABLE, "EPT allowed fetches here", "EPT 允许取指"},
	    {EPT_VIOLATION_USER_EXECUTABLE, "EPT allowed user-mode fetches here",
	     "EPT 允许用户态取指"},
	    {EPT_VIOLATION_GVA_IS_VALID, "the guest-linear address is valid", "客户机线性地址有效"},
	    {EPT_VIOLATION_GVA_TRANSLATED, "the access was to the page itself", "访问的是最终页面"},
	    {EPT_VIOLATION_NMI_UNBLOCK, "an IRET had unblocked NMIs", "IRET 已解除 NMI 屏蔽"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(bits); i++)
		if (q & bits[i].bit)
			walk_detail(o, "bit %2d = 1  %s", __builtin_ctzll(bits[i].bit),
			            say(o, bits[i].en, bits[i].zh));
	if (!(q & (EPT_VIOLATION_READABLE | EPT_VIOLATION_WRITABLE | EPT_VIOLATION_EXECUTABLE)))
		walk_detail(o, "bits 5:3 = 0  %s",
		            say(o, "EPT allowed nothing: no entry is present",
		                "EPT 不允许任何访问：表项不存在"));
	if ((q & EPT_VIOLATION_GVA_IS_VALID) && !(q & EPT_VIOLATION_GVA_TRANSLATED))
		walk_detail(o, "bit  8 = 0  %s",
		            say(o,
		                "the access was the walk's own, to one of the guest's page tables",
		                "访问来自页表遍历本身，目标是客户机页表"));
}

void decode_error_code(struct out *o, uint64_t e)
{
	static const struct bit_text bits[] = {
	    {PFERR_PRESENT_MASK, "an entry that allows something was there", "表项已存在"},
	    {PFERR_WRITE_MASK, "write", "写"},
	    {PFERR_USER_MASK, "read", "读"},
	    {PFERR_RSVD_MASK, "reserved bits: MMIO", "保留位：MMIO"},
	    {PFERR_FETCH_MASK, "fetch", "取指"},
	    {PFERR_GUEST_FINAL_MASK, "the page itself", "最终页面"},
	    {PFERR_GUEST_PAGE_MASK, "a page table of the guest", "客户机页表"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(bits); i++)
		if (e & bits[i].bit)
			walk_detail(o, "bit %2d  %s", __builtin_ctzll(bits[i].bit),
			            say(o, bits[i].en, bits[i].zh));
}

void decode_spte(struct out *o, uint64_t e, int level)
{
	static const char *const reach[] = {"", "4 KiB", "2 MiB", "1 GiB", "512 GiB"};

	if (spte_is_mmio(e)) {
		walk_detail(o, "%s",
		            say(o,
		                "bits 2:0 = 110: misconfigured on purpose, the next access exits "
		                "with reason 49",
		                "bits 2:0 = 110：故意构造的错误配置，下次访问以原因 49 退出"));
		walk_detail(o, "%s 0x%llx, %s 0x%llx", say(o, "memslot generation", "memslot 代号"),
		            (unsigned long long)mmio_spte_gen(e), say(o, "gfn", "gfn"),
		            (unsigned long long)mmio_spte_gfn(e));
		return;
	}
	walk_detail(o, "bits 2:0   = %c%c%c  %s", e & EPT_READ ? 'r' : '-',
	            e & EPT_WRITE ? 'w' : '-', e & EPT_EXEC ? 'x' : '-',
	            e & EPT_WRITE
	                ? say(o, "read, write, execute as shown", "读、写、执行权限")
	                : say(o, "no write: the next write faults", "不可写：下次写会再次退出"));
	walk_detail(o, "bits 5:3   = %llu  %s%s",
	            (unsigned long long)FIELD_GET(EPT_MEMTYPE_MASK, e),
	            memory_type(FIELD_GET(EPT_MEMTYPE_MASK, e)),
	            e & EPT_IPAT ? say(o, ", whatever the guest's PAT says (bit 6)",
	                               "，忽略客户机 PAT（bit 6）")
	                         : "");
	walk_detail(o, "bit  7     = %d  %s %s", (e & EPT_PAGE_SIZE) != 0,
	            say(o, "a leaf that maps", "叶子表项，映射"),
	            level >= 1 && level <= 4 ? reach[level] : "?");
	walk_detail(o, "bits 9:8   = %d%d  %s", (e & EPT_DIRTY) != 0, (e & EPT_ACCESSED) != 0,
	            say(o, "dirty, accessed", "脏位、访问位"));
	walk_detail(
	    o, "bits 51:12 = 0x%llx  %s", (unsigned long long)FIELD_GET(EPT_ADDR_MASK, e),
	    say(o, "host page: this process's own address", "主机页：即本进程自己的虚拟地址"));
	walk_detail(
	    o, "bits 11, 52, 53 = %d%d%d  %s", (e & SPTE_MMU_PRESENT) != 0,
	    (e & SPTE_HOST_WRITABLE) != 0, (e & SPTE_MMU_WRITABLE) != 0,
	    say(o, "KVM's own: present, the client's mapping is writable, write may be given back",
	        "KVM 自用：存在、主机映射可写、写权限可恢复"));
}
