/*
 * The remarks of the walk-through that depend on a record's values, in two languages; lines.c has the others.
 */
#include <string.h>

#include "tools/trace/remarks.h"

#define REC(name) const struct trace_userkvm_##name *r = rec

const char *remark_kvm_read_cr3(enum lang lang, const void *rec)
{
	static const char *const text[4][NR_LANGS] = {
	    {"why write what is the guest's own? Because here the VMCS copy is not its last word: "
	     "KVM_SET_SREGS, emulation or a reset changed CR3 behind the processor's back. It is "
	     "stale and must be written",
	     "CR3 本是客户机自己的，为何要写？因为这里 VMCS "
	     "中的副本已经过时：KVM_SET_SREGS、指令模拟或复位绕过处理器改了 CR3，所以必须写回"},
	    {"the guest loads CR3 itself, without an exit, and the processor keeps GUEST_CR3 up to "
	     "date: "
	     "it is not stale, so nothing is written",
	     "客户机自己写 CR3，不产生退出，处理器会更新 GUEST_CR3：副本不过时，因此不写"},
	    {"paging is off and the guest is unrestricted: no table is behind CR3. (Without "
	     "unrestricted guest "
	     "KVM would load its identity-map page table here.) The stale copy is written all the "
	     "same",
	     "客户机未开分页且为 unrestricted guest：CR3 后面没有页表。（若无 unrestricted "
	     "guest，KVM 会在这里装入恒等映射页表。）过时的副本仍被写回"},
	    {"paging is off, and without unrestricted guest the processor enters no guest that does not page: KVM's identity-map "
	     "page table goes where the guest's CR3 would be, and the guest's own CR3 waits until it turns paging on",
	     "客户机未开分页，而没有 unrestricted guest 时处理器不能进入未开分页的客户机：KVM 在此装入恒等映射页表，客户机自己的 CR3 等它打开分页时再装入"},
	};
	REC(kvm_read_cr3);

	return text[!r->stale ? 1 : r->paging ? 0 : r->identity_map ? 3 : 2][lang];
}

/* The functions that a context's members may be set to, and what each is for. */
static const char *remark_of_function(enum lang lang, const char *fn)
{
	static const struct {
		const char *fn, *text[NR_LANGS];
	} known[] = {
		{ "tdp_page_fault", { "repairs a fault: finds the slot and the host page, writes an EPT entry", "由它处理缺页：找到插槽与主机页，写 EPT 表项" } },
		{ "shadow_page_fault", { "repairs a fault: walks the guest's tables first, then writes a shadow entry", "由它处理缺页：先遍历客户机页表，再写影子表项" } },
		{ "nonpaging_page_fault", { "repairs a fault of a guest without paging: linear is physical", "客户机未开分页时由它处理：线性地址即物理地址" } },
		{ "true", { "the tables map guest-physical to host-physical, whatever the guest's own say", "页表把 gpa 映射到 hpa，与客户机自己的页表无关" } },
		{ "false", { "the tables map guest-linear to host-physical: they shadow the guest's", "页表把 gva 映射到 hpa：它们是客户机页表的影子" } },
		{ "kvm_x86_ops->set_tdp_cr3", { "that is vmx_set_cr3(): it loads the EPT root", "即 vmx_set_cr3()：装入 EPT 根" } },
		{ "set_shadow_cr3", { "vmx_set_cr3() as well, but with the shadow root, which goes into GUEST_CR3", "同样是 vmx_set_cr3()，但装入 GUEST_CR3 的是影子根" } },
		{ "get_cr3", { "the guest's own CR3, for walks of its tables", "客户机自己的 CR3，遍历其页表时用" } },
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (strcmp(known[i].fn, fn) == 0)
			return known[i].text[lang];
	return NULL;
}

const char *remark_context(enum lang lang, const void *rec)
{
	REC(context_page_fault); /* the four have the same fields */

	return remark_of_function(lang, r->fn);
}

const char *remark_kvm_mmu_reset_context(enum lang lang, const void *rec)
{
	static const char *const text[2][NR_LANGS] = {
	    {"what a CPUID or SMM changes, or the way between L1 and L2, may concern the MMU too: it is chosen again", "CPUID 或 SMM 的变化、L1 与 L2 之间的切换也可能影响 MMU：重新选择"},
	    {"why kvm_init_mmu a second time? CR0, CR4 or EFER changed (KVM_SET_SREGS, or the guest wrote them), and "
	     "with them how the guest pages; or L2 is entered, whose paging is another: a context is filled in again, for walks "
	     "of the guest's tables",
	     "为何再次 kvm_init_mmu？CR0、CR4 或 EFER 变了（KVM_SET_SREGS，或客户机自己写），客户机的分页方式随之改变；或者进入了 L2，其分页方式不同：重新填写上下文，供遍历客户机页表使用"},
	};
	REC(kvm_mmu_reset_context);

	return text[r->guest_level != r->new_guest_level][lang];
}

const char *remark_vmcs_writel_GUEST_CR3(enum lang lang, const void *rec)
{
	static const char *const text[3][NR_LANGS] = {
	    {"the copy is the guest's own again", "副本重新与客户机一致"},
	    {"ept=0: the processor walks the shadow tables, so their root goes where the guest's CR3 would be",
	     "ept=0：处理器遍历的是影子页表，所以这里写的是影子根，而不是客户机的 CR3"},
	    {"unrestricted_guest=0: the identity-map page table (KVM_SET_IDENTITY_MAP_ADDR), 1,024 entries of 4 MiB that lead to "
	     "themselves, so that a linear address is the guest-physical one",
	     "unrestricted_guest=0：恒等映射页表（KVM_SET_IDENTITY_MAP_ADDR），1024 个 4 MiB 表项各自映射自身，线性地址即客户机物理地址"},
	};
	REC(vmcs_writel_GUEST_CR3);

	return text[r->identity_map ? 2 : r->shadow != 0][lang];
}

const char *remark_exit_mmio(enum lang lang, const void *rec)
{
	static const char *const text[2][NR_LANGS] = {
	    {"KVM_RUN returns: the client plays the device and leaves the bytes in kvm_run; the next KVM_RUN ends the instruction",
	     "KVM_RUN 返回：用户态模拟设备并把数据放进 kvm_run；下一次 KVM_RUN 完成该指令"},
	    {"KVM_RUN returns: the client finds address and bytes in kvm_run and plays the device",
	     "KVM_RUN 返回：用户态从 kvm_run 取得地址与数据，模拟设备"},
	};
	REC(exit_mmio);

	return text[r->is_write != 0][lang];
}

const char *remark_ept12_walk(enum lang lang, const void *rec)
{
	static const char *const text[2][NR_LANGS] = {
	    {"nothing for L0 to repair: the violation is L1's", "L0 无可修复：这次违例属于 L1"},
	    {"L1's entry is there, only EPT02 lacks one: L0 settles it, L1 never hears of it", "L1 的表项存在，只是 EPT02 还没有：L0 自行处理，L1 毫不知情"},
	};
	REC(ept12_walk);

	return text[r->found != 0][lang];
}

const char *remark_shadow_map(enum lang lang, const void *rec)
{
	static const char *const text[2][NR_LANGS] = {
	    {"gva to hpa in one entry: the guest's rights and the slot's together", "一个表项直接从 gva 到 hpa：兼顾客户机权限与插槽权限"},
	    {"L2's gpa to hpa in one entry of EPT02: the rights of EPT12 and of the slot together", "EPT02 的一个表项直接从 L2 的 gpa 到 hpa：兼顾 EPT12 的权限与插槽权限"},
	};
	REC(shadow_map);

	return text[r->ept != 0][lang];
}

const char *remark_guest_walk(enum lang lang, const void *rec)
{
	static const char *const text[2][NR_LANGS] = {
	    {"its own tables do not map the address: #PF is injected, KVM repairs nothing", "客户机自己的页表没有映射：注入 #PF，KVM 不做修复"},
	    {"KVM walks the guest's tables, which the processor never sees", "KVM 遍历客户机页表；处理器看不到它们"},
	};
	REC(guest_walk);

	return text[r->found != 0][lang];
}

const char *remark_kvm_mmu_reload(enum lang lang, const void *rec)
{
	static const char *const text[2][NR_LANGS] = {
	    {"there is a root: kvm_mmu_load is not called", "已有根页表，不调用 kvm_mmu_load"},
	    {"no root yet: kvm_mmu_load", "还没有 EPT 根，执行 kvm_mmu_load"},
	};
	REC(kvm_mmu_reload);

	return text[r->root_hpa == ~0ULL][lang];
}

const char *remark_kvm_set_memslot(enum lang lang, const void *rec)
{
	static const char *const text[4][NR_LANGS] = {
	    {"published at once; EPT entries come with the first accesses",
	     "立即生效；EPT 表项等到首次访问时才建立"},
	    {"first marked invalid, its translations zapped, then gone",
	     "先标记为无效，清除其映射，再删除"},
	    {"old translations are zapped; new ones come with accesses",
	     "清除旧映射，新映射按需建立"},
	    {"writes must be noticed: entries lose their write permission or, with PML, their "
	     "dirty flag",
	     "要记录写操作：表项失去写权限；有 PML 时失去脏位"},
	};
	REC(kvm_set_memslot);

	return r->change < 4 ? text[r->change][lang] : NULL;
}

const char *remark_kvm_mmu_sync_roots(enum lang lang, const void *rec)
{
	static const char *const text[2][NR_LANGS] = {
	    {"for shadow and nested MMUs; a direct one has nothing that could be unsync",
	     "供影子和嵌套 MMU 使用；直接映射没有 unsync 的页"},
	    {"shadow pages that lag behind the guest's tables are brought up to date",
	     "把落后于客户机页表的影子页同步"},
	};
	REC(kvm_mmu_sync_roots);

	return text[r->unsync != 0][lang];
}

const char *remark_ret_pf(enum lang lang, const void *rec)
{
	static const char *const text[6][NR_LANGS] = {
	    {NULL, NULL},
	    {"something changed meanwhile: the guest tries again", "期间有变化：让客户机重试"},
	    {"MMIO, read-only memory, or a table that is shadowed: the instruction is emulated", "MMIO、只读内存或被影子化的页表：模拟该指令"},
	    {"the cached MMIO entry is of an older generation", "缓存的 MMIO 表项已过期"},
	    {"the entry is there: back into the guest", "表项已建好：回到客户机"},
	    {"another vCPU was faster", "别的 vCPU 已经处理"},
	};
	REC(ret_pf);

	return r->ret >= 0 && r->ret < 6 ? text[r->ret][lang] : NULL;
}
