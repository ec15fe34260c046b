/*
 * The lines of the walk-through: what each says and a remark in two languages.
 */
#include <inttypes.h>

#include "sdm/ept.h"
#include "tools/trace/walk.h"

#define REC(name) const struct trace_userkvm_##name *r = rec
#define VALUES(name, ...)                                                                          \
	static void values_##name(struct out *o, const void *rec)                                  \
	{                                                                                          \
		REC(name);                                                                         \
		fprintf(o->f, __VA_ARGS__);                                                        \
	}

VALUES(kvm_create_vm, "kvm 0x%llx", r->kvm)
VALUES(kvm_mm, "mm %llu", r->mm)
VALUES(kvm_alloc_memslots, "%u address spaces", r->as_num)
VALUES(id_to_index, "as %u: ids 0..%u, slots 0x%llx, generation %llu", r->as_id, r->ids - 1,
       r->slots, r->generation)
VALUES(kvm_vm_ioctl_create_vcpu, "id %u", r->id)
VALUES(allocate_vpid, "= %u", r->vpid)
VALUES(context_page_fault, "= %s", r->fn)
VALUES(context_direct_map, "= %s", r->fn)
VALUES(context_set_cr3, "= %s", r->fn)
VALUES(context_get_cr3, "= %s", r->fn)
VALUES(kvm_vm_ioctl_set_memory_region, "slot 0x%x, gpa 0x%llx..0x%llx, hva 0x%llx%s%s%s", r->slot,
       r->guest_phys_addr, r->guest_phys_addr + r->memory_size - (r->memory_size != 0),
       r->userspace_addr, r->memory_size ? "" : ", size 0", r->flags & 1 ? ", LOG_DIRTY_PAGES" : "",
       r->flags & 2 ? ", READONLY" : "")
VALUES(as_id, "= 0x%x >> 16 = %u", r->slot, r->as_id)
VALUES(slot_id, "= (u16)0x%x = %u", r->slot, r->slot_id)
VALUES(__kvm_memslots, "as %u: slots 0x%llx, %u used, generation %llu", r->as_id, r->slots,
       r->used_slots, r->generation)
VALUES(vcpu_enter_guest, "vcpu %u", r->vcpu_id)
VALUES(mmu_alloc_direct_roots, "%u levels", r->root_level)
VALUES(kvm_mmu_get_page, "level %u, address space %u, A/D %s", r->level, r->as_id,
       r->ad_disabled ? "off" : "on")
VALUES(kvm_mmu_alloc_page, "spt 0x%llx", r->spt)
VALUES(root_hpa, "= 0x%llx (vCPUs that use it: %u)", r->root_hpa, r->users)
VALUES(kvm_mmu_load_cr3, "root_hpa 0x%llx", r->root_hpa)
VALUES(vmx_set_cr3, "cr3 0x%llx", r->cr3)
VALUES(construct_eptp, "= 0x%llx", r->eptp)
VALUES(vmcs_write64_EPT_POINTER, "0x%llx", r->eptp)
VALUES(vmcs_writel_GUEST_CR3, "0x%llx", r->guest_cr3)
VALUES(handle_ept_violation, "vcpu %u, rip 0x%llx", r->vcpu_id, r->guest_rip)
VALUES(handle_ept_misconfig, "vcpu %u, gpa 0x%llx", r->vcpu_id, r->gpa)
VALUES(vmcs_readl_EXIT_QUALIFICATION, "= 0x%llx", r->exit_qualification)
VALUES(arch_exit_qualification, "= 0x%llx", r->exit_qualification)
VALUES(kvm_mmu_page_fault, "gpa 0x%llx, error_code 0x%llx", r->gpa, r->error_code)
VALUES(fast_page_fault, "gfn 0x%llx: 0x%llx to 0x%llx", r->gfn, r->old_spte, r->new_spte)
VALUES(tdp_page_fault, "gpa 0x%llx, gfn 0x%llx", r->gpa, r->gpa >> 12)

static void values_kvm_vm_ioctl(struct out *o, const void *rec)
{
	REC(kvm_vm_ioctl);

	fprintf(o->f, "request 0x%llx", r->request);
}

static void values_id_to_memslot(struct out *o, const void *rec)
{
	REC(id_to_memslot);

	if (r->slot)
		fprintf(o->f, "id %u: 0x%llx, gfn 0x%llx..0x%llx", r->slot_id, r->slot, r->base_gfn,
		        r->base_gfn + r->npages - 1);
	else
		fprintf(o->f, "id %u: NULL", r->slot_id);
}

static void values_kvm_set_memslot(struct out *o, const void *rec)
{
	static const char *const change[] = {"KVM_MR_CREATE", "KVM_MR_DELETE", "KVM_MR_MOVE",
	                                     "KVM_MR_FLAGS_ONLY"};
	REC(kvm_set_memslot);

	fprintf(o->f, "%s: gfn 0x%llx..0x%llx (%llu pages)",
	        r->change < 4 ? change[r->change] : "?", r->base_gfn, r->base_gfn + r->npages - 1,
	        r->npages);
}

static void values_kvm_mmu_reload(struct out *o, const void *rec)
{
	REC(kvm_mmu_reload);

	if (r->root_hpa == ~0ULL)
		fputs("root_hpa INVALID_PAGE", o->f);
	else
		fprintf(o->f, "root_hpa 0x%llx", r->root_hpa);
}

static void values_kvm_read_cr3(struct out *o, const void *rec)
{
	REC(kvm_read_cr3);

	fprintf(o->f, "= 0x%llx, VMCS 0x%llx", r->guest_cr3, r->vmcs_cr3);
}

static void values_kvm_faultin_page(struct out *o, const void *rec)
{
	static const char *const size[] = {"?", "4 KiB", "2 MiB", "1 GiB"};
	REC(kvm_faultin_page);

	if (r->ret)
		fprintf(o->f, "gfn 0x%llx: %s", r->gfn,
		        r->ret == 2 ? "a slot that may not be written" : "not now");
	else if (r->has_slot)
		fprintf(o->f, "gfn 0x%llx: slot %u, hva 0x%llx, %s, %s", r->gfn, r->slot_id, r->hva,
		        r->map_writable ? "writable" : "read-only",
		        r->goal_level < 4 ? size[r->goal_level] : "?");
	else
		fprintf(o->f, "gfn 0x%llx: no slot", r->gfn);
}

static void values_kvm_tdp_mmu_map(struct out *o, const void *rec)
{
	REC(kvm_tdp_mmu_map);

	fprintf(o->f, "level %u, %u new tables, entry 0x%llx", r->level, r->tables, r->spte);
}

static void values_ret_pf(struct out *o, const void *rec)
{
	static const char *const name[] = {"RET_PF_CONTINUE", "RET_PF_RETRY", "RET_PF_EMULATE",
	                                   "RET_PF_INVALID",  "RET_PF_FIXED", "RET_PF_SPURIOUS"};
	REC(ret_pf);

	if (r->ret >= 0 && r->ret < 6)
		fputs(name[r->ret], o->f);
	else
		fprintf(o->f, "%d", r->ret);
}

static void details_construct_eptp(struct out *o, const void *rec)
{
	decode_eptp(o, ((const struct trace_userkvm_construct_eptp *)rec)->eptp);
}

static void details_vmcs_readl_EXIT_QUALIFICATION(struct out *o, const void *rec)
{
	REC(vmcs_readl_EXIT_QUALIFICATION);

	decode_exit_qualification(o, r->exit_qualification);
}

static void details_kvm_mmu_page_fault(struct out *o, const void *rec)
{
	decode_error_code(o, ((const struct trace_userkvm_kvm_mmu_page_fault *)rec)->error_code);
}

static void details_kvm_tdp_mmu_map(struct out *o, const void *rec)
{
	REC(kvm_tdp_mmu_map);

	decode_spte(o, r->spte, (int)r->level);
}

/* --- remarks that depend on the values --- */

static const char *remark_kvm_read_cr3(enum lang lang, const void *rec)
{
	static const char *const text[3][NR_LANGS] = {
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
	};
	REC(kvm_read_cr3);

	return text[!r->stale ? 1 : r->paging ? 0 : 2][lang];
}

static const char *remark_kvm_mmu_reload(enum lang lang, const void *rec)
{
	static const char *const text[2][NR_LANGS] = {
	    {"there is a root: kvm_mmu_load is not called", "已有根页表，不调用 kvm_mmu_load"},
	    {"no root yet: kvm_mmu_load", "还没有 EPT 根，执行 kvm_mmu_load"},
	};
	REC(kvm_mmu_reload);

	return text[r->root_hpa == ~0ULL][lang];
}

static const char *remark_kvm_set_memslot(enum lang lang, const void *rec)
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

static const char *remark_kvm_mmu_sync_roots(enum lang lang, const void *rec)
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

static void values_kvm_mmu_sync_roots(struct out *o, const void *rec)
{
	fputs(((const struct trace_userkvm_kvm_mmu_sync_roots *)rec)->unsync ? "sync_roots()"
	                                                                     : "nothing to do",
	      o->f);
}

static const char *remark_ret_pf(enum lang lang, const void *rec)
{
	static const char *const text[6][NR_LANGS] = {
	    {NULL, NULL},
	    {"something changed meanwhile: the guest tries again", "期间有变化：让客户机重试"},
	    {"MMIO or read-only: the instruction is emulated", "MMIO 或只读：模拟该指令"},
	    {"the cached MMIO entry is of an older generation", "缓存的 MMIO 表项已过期"},
	    {"the entry is there: back into the guest", "表项已建好：回到客户机"},
	    {"another vCPU was faster", "别的 vCPU 已经处理"},
	};
	REC(ret_pf);

	return r->ret >= 0 && r->ret < 6 ? text[r->ret][lang] : NULL;
}

/* --- the lines --- */

#define LINE(t, name, said, en, zh)                                                                \
	{.event = TRACE_userkvm_##name,                                                            \
	 .tree = t,                                                                                \
	 .text = said,                                                                             \
	 .values = values_##name,                                                                  \
	 .remark = {en, zh}},
#define BARE(t, name, said, en, zh)                                                                \
	{.event = TRACE_userkvm_##name, .tree = t, .text = said, .remark = {en, zh}},
#define DETAILED(t, name, said, en, zh)                                                            \
	{.event = TRACE_userkvm_##name,                                                            \
	 .tree = t,                                                                                \
	 .text = said,                                                                             \
	 .values = values_##name,                                                                  \
	 .details = details_##name,                                                                \
	 .remark = {en, zh}},
#define CHOSEN(t, name, said)                                                                      \
	{.event = TRACE_userkvm_##name,                                                            \
	 .tree = t,                                                                                \
	 .text = said,                                                                             \
	 .values = values_##name,                                                                  \
	 .choose = remark_##name},

/* A table, a line each. */
/* clang-format off */
const struct walk_line walk_lines[] = {
	LINE(1, kvm_create_vm, "kvm_create_vm", "one VM for each KVM_CREATE_VM", "每次 KVM_CREATE_VM 建一个 VM")
	LINE(1, kvm_mm, "kvm->mm = current->mm", "the VM belongs to the address space that made it", "VM 属于创建它的地址空间")
	LINE(1, kvm_alloc_memslots, "kvm_alloc_memslots", "only slots; memory comes with KVM_SET_USER_MEMORY_REGION", "只分配插槽，内存条由 KVM_SET_USER_MEMORY_REGION 插入")
	LINE(1, id_to_index, "slots->id_to_index[i] = slots->memslots[i].id = i", "an empty set: look-up by id is an index", "空集合：按 id 直接索引")
	BARE(1, kvm_arch_init_vm, "kvm_arch_init_vm", "x86's part of the VM", "VM 的 x86 部分")
	BARE(1, kvm_mmu_init_vm, "kvm_mmu_init_vm", "the list of roots, mmu_lock, counters", "根页表列表、mmu_lock、计数器")
	LINE(1, kvm_vm_ioctl_create_vcpu, "kvm_vm_ioctl_create_vcpu", "KVM_CREATE_VCPU", "KVM_CREATE_VCPU")
	BARE(1, kvm_arch_vcpu_create, "kvm_arch_vcpu_create", NULL, NULL)
	BARE(1, vmx_create_vcpu, "kvm_x86_ops->vcpu_create/vmx_create_vcpu", "VMCS and logical processor", "VMCS 与逻辑处理器")
	LINE(1, allocate_vpid, "vmx->vpid = allocate_vpid()", "tags this vCPU's TLB entries", "给该 vCPU 的 TLB 表项打标签")
	BARE(1, kvm_vcpu_init, "kvm_vcpu_init", NULL, NULL)
	BARE(1, kvm_arch_vcpu_init, "kvm_arch_vcpu_init", NULL, NULL)
	BARE(1, kvm_mmu_create, "kvm_mmu_create", "MMU context and page-table memory cache", "MMU 上下文与页表内存缓存")
	BARE(1, kvm_arch_vcpu_setup, "kvm_arch_vcpu_setup", "the state after RESET", "RESET 之后的状态")
	BARE(1, kvm_init_mmu, "kvm_init_mmu", "one of three MMUs is chosen", "从三种 MMU 中选一种")
	BARE(1, init_kvm_tdp_mmu, "init_kvm_tdp_mmu", "two-dimensional paging: EPT", "二维分页：EPT")
	BARE(1, init_kvm_softmmu, "init_kvm_softmmu", "shadow paging (ept=0)", "影子页表（ept=0）")
	BARE(1, init_kvm_nested_mmu, "init_kvm_nested_mmu", "while L2 runs", "L2 运行期间")
	LINE(1, context_page_fault, "context->page_fault", "who repairs a fault", "由它处理缺页")
	LINE(1, context_direct_map, "context->direct_map", "gpa to hpa, the guest's tables are not shadowed", "直接映射 gpa 到 hpa，不影子化客户机页表")
	LINE(1, context_set_cr3, "context->set_cr3", "vmx_set_cr3()", "即 vmx_set_cr3()")
	LINE(1, context_get_cr3, "context->get_cr3", "the guest's own CR3", "客户机自己的 CR3")

	LINE(2, kvm_vm_ioctl, "kvm_vm_ioctl(KVM_SET_USER_MEMORY_REGION)", NULL, NULL)
	LINE(2, kvm_vm_ioctl_set_memory_region, "kvm_vm_ioctl_set_memory_region", NULL, NULL)
	BARE(2, kvm_set_memory_region, "kvm_set_memory_region", "slots_lock; vCPUs go on running", "持有 slots_lock；vCPU 继续运行")
	BARE(2, __kvm_set_memory_region, "__kvm_set_memory_region", NULL, NULL)
	LINE(2, as_id, "as_id = mem->slot >> 16", "address space: 0, or 1 of SMM", "地址空间：0，或 SMM 用的 1")
	LINE(2, slot_id, "slot_id = (u16)mem->slot", NULL, NULL)
	LINE(2, __kvm_memslots, "kvm_memslots = __kvm_memslots(kvm, as_id)", "the set in force", "当前生效的集合")
	LINE(2, id_to_memslot, "kvm_memory_slot = id_to_memslot(kvm_memslots, slot_id)", "NULL: the slot is free", "NULL 表示插槽空闲")
	CHOSEN(2, kvm_set_memslot, "kvm_set_memslot")

	LINE(3, vcpu_enter_guest, "vcpu_enter_guest", "requests, events, MMU, VM entry, exit handler", "请求、事件、MMU、VM entry、退出处理")
	CHOSEN(3, kvm_mmu_reload, "kvm_mmu_reload")
	BARE(3, kvm_mmu_load, "kvm_mmu_load", NULL, NULL)
	BARE(3, mmu_alloc_roots, "mmu_alloc_roots", NULL, NULL)
	LINE(3, mmu_alloc_direct_roots, "kvm_alloc_direct_roots/mmu_alloc_direct_roots", NULL, NULL)
	BARE(3, mmu_alloc_shadow_roots, "mmu_alloc_shadow_roots", NULL, NULL)
	LINE(3, kvm_mmu_get_page, "kvm_mmu_get_page", "one root is shared by the VM's vCPUs for each role", "同一角色的根由全部 vCPU 共享")
	LINE(3, kvm_mmu_alloc_page, "kvm_mmu_alloc_page", "a 4 KiB table in the SDM's format", "一张 4 KiB 页表，格式即 SDM 所定")
	LINE(3, root_hpa, "vcpu->arch.mmu->root_hpa = __pa(kvm_mmu_page->spt)", "here __pa() is the identity", "这里 __pa() 是恒等映射")
	CHOSEN(3, kvm_mmu_sync_roots, "kvm_mmu_sync_roots")
	LINE(3, kvm_mmu_load_cr3, "kvm_mmu_load_cr3", NULL, NULL)
	LINE(3, vmx_set_cr3, "vcpu->arch.mmu->set_cr3()/vmx_set_cr3()", "the argument is the EPT root's address, not the guest's CR3", "cr3 入参是 EPT 根的 HPA，不是客户机的 CR3")
	DETAILED(3, construct_eptp, "eptp = construct_eptp(vcpu, cr3)", NULL, NULL)
	LINE(3, vmcs_write64_EPT_POINTER, "vmcs_write64(EPT_POINTER, eptp)", NULL, NULL)
	CHOSEN(3, kvm_read_cr3, "guest_cr3 = kvm_read_cr3()")
	LINE(3, vmcs_writel_GUEST_CR3, "vmcs_writel(GUEST_CR3, guest_cr3)", NULL, NULL)

	LINE(4, handle_ept_violation, "handle_ept_violation", "exit reason 48", "退出原因 48")
	LINE(4, handle_ept_misconfig, "handle_ept_misconfig", "exit reason 49: MMIO's road", "退出原因 49：MMIO 之路")
	DETAILED(4, vmcs_readl_EXIT_QUALIFICATION, "exit_qualification = vmcs_readl(EXIT_QUALIFICATION)", NULL, NULL)
	LINE(4, arch_exit_qualification, "vcpu->arch.exit_qualification = exit_qualification", "kept for injection into a nested hypervisor", "留给嵌套虚拟化注入时使用")
	DETAILED(4, kvm_mmu_page_fault, "kvm_mmu_page_fault", NULL, NULL)
	LINE(4, tdp_page_fault, "tdp_page_fault", NULL, NULL)
	LINE(4, fast_page_fault, "fast_page_fault", "only the dirty log had taken write access: given back without a lock", "写权限只是为脏页日志收走的：不加锁直接恢复")
	LINE(4, kvm_faultin_page, "kvm_faultin_page", "gfn to memslot to hva to a host page that is there", "gfn → memslot → hva → 主机页")
	DETAILED(4, kvm_tdp_mmu_map, "kvm_tdp_mmu_map", "published with one compare-exchange", "一次比较交换即生效")
	CHOSEN(4, ret_pf, "return")
};
/* clang-format on */
const unsigned nr_walk_lines = sizeof(walk_lines) / sizeof(walk_lines[0]);

const struct walk_line *walk_line_of(unsigned event)
{
	for (unsigned i = 0; i < nr_walk_lines; i++)
		if ((unsigned)walk_lines[i].event == event)
			return &walk_lines[i];
	return NULL;
}
