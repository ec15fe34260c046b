/*
 * The lines of the walk-through: what each says, its values and a remark in two languages (remarks.c: those that
 * depend on the values).
 */
#include <inttypes.h>
#include <string.h>

#include "sdm/ept.h"
#include "tools/trace/remarks.h"

#define REC(name) const struct trace_userkvm_##name *r = rec
#define VALUES(name, ...)                                                                          \
	static void values_##name(struct out *o, const void *rec)                                  \
	{                                                                                          \
		REC(name);                                                                         \
		fprintf(o->f, __VA_ARGS__);                                                        \
	}

VALUES(kvm_mm, "address space number %llu", r->mm)
VALUES(kvm_alloc_memslots, "%u address spaces", r->as_num)
VALUES(id_to_index, "address space %u: ids 0..%u, generation %llu", r->as_id, r->ids - 1, r->generation)
VALUES(kvm_vm_ioctl_create_vcpu, "id %u", r->id)
VALUES(allocate_vpid, "= %u", r->vpid)
VALUES(kvm_vm_ioctl_set_memory_region, "slot 0x%x, gpa 0x%llx..0x%llx, hva 0x%llx%s%s%s", r->slot,
       r->guest_phys_addr, r->guest_phys_addr + r->memory_size - (r->memory_size != 0),
       r->userspace_addr, r->memory_size ? "" : ", size 0", r->flags & 1 ? ", LOG_DIRTY_PAGES" : "",
       r->flags & 2 ? ", READONLY" : "")
VALUES(as_id, "= 0x%x >> 16 = %u", r->slot, r->as_id)
VALUES(slot_id, "= (u16)0x%x = %u", r->slot, r->slot_id)
VALUES(__kvm_memslots, "address space %u: %u slot%s in use, generation %llu", r->as_id, r->used_slots,
       r->used_slots == 1 ? "" : "s", r->generation)
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
VALUES(kvm_handle_page_fault, "vcpu %u, rip 0x%llx, cr2 0x%llx, error_code 0x%llx", r->vcpu_id, r->guest_rip, r->gva,
       r->error_code)
VALUES(shadow_page_fault, "gva 0x%llx", r->gva)
VALUES(nonpaging_page_fault, "gpa 0x%llx", r->gpa)
VALUES(x86_emulate_instruction, "vcpu %u, rip 0x%llx", r->vcpu_id, r->guest_rip)
VALUES(exit_mmio, "%s of %u bytes at 0x%llx", r->is_write ? "write" : "read", r->len, r->phys_addr)
VALUES(tdp_page_fault, "gpa 0x%llx, gfn 0x%llx", r->gpa, r->gpa >> 12)

VALUES(handle_vmlaunch, "%s, vcpu %u, rip 0x%llx", r->launch ? "VMLAUNCH" : "VMRESUME", r->vcpu_id, r->guest_rip)
VALUES(nested_vmx_run, "vmcs12 at gpa 0x%llx", r->vmptr)
VALUES(nested_vmx_enter_non_root_mode, "vcpu %u", r->vcpu_id)
VALUES(prepare_vmcs02, "L2's rip 0x%llx, cr3 0x%llx, EPT %s", r->guest_rip, r->guest_cr3, r->ept ? "of L1's" : "off")
VALUES(nested_ept_init_mmu_context, "EPTP12 0x%llx", r->eptp12)
VALUES(kvm_init_shadow_ept_mmu, "EPTP12 0x%llx", r->eptp12)
VALUES(ept_page_fault, "L2's gpa 0x%llx", r->gpa)
VALUES(nested_ept_inject_page_fault, "L2's gpa 0x%llx", r->gpa)
VALUES(nested_vmx_vmexit, "reason %u, qualification 0x%llx", r->reason & 0xffff, r->qualification)

static void values_ept12_walk(struct out *o, const void *rec)
{
	REC(ept12_walk);

	if (r->found)
		fprintf(o->f, "L2's gpa 0x%llx is L1's gpa 0x%llx, by an entry of level %u", r->gpa, r->l1_gpa, r->level);
	else
		fprintf(o->f, "L2's gpa 0x%llx: L1's tables forbid it", r->gpa);
}

static void values_id_to_memslot(struct out *o, const void *rec)
{
	REC(id_to_memslot);

	if (r->slot)
		fprintf(o->f, "id %u: gfn 0x%llx..0x%llx", r->slot_id, r->base_gfn,
		        r->base_gfn + r->npages - 1);
	else
		fprintf(o->f, "id %u: NULL", r->slot_id);
}

static void values_kvm_mmu_reset_context(struct out *o, const void *rec)
{
	REC(kvm_mmu_reset_context);

	fprintf(o->f, "the guest's paging: %u levels, now %u", r->guest_level, r->new_guest_level);
}

static void values_guest_walk(struct out *o, const void *rec)
{
	REC(guest_walk);

	if (r->found)
		fprintf(o->f, "gva 0x%llx is gpa 0x%llx, by a %s", r->gva, r->gpa, r->level > 2 ? "PDPTE" : r->level > 1 ? "PDE" : "PTE");
	else
		fprintf(o->f, "gva 0x%llx: the guest's own page fault", r->gva);
}

static void values_shadow_map(struct out *o, const void *rec)
{
	REC(shadow_map);

	fprintf(o->f, "level %u, entry 0x%llx", r->level, r->spte);
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

static void details_kvm_handle_page_fault(struct out *o, const void *rec)
{
	decode_pf_error_code(o, ((const struct trace_userkvm_kvm_handle_page_fault *)rec)->error_code);
}

static void details_shadow_map(struct out *o, const void *rec)
{
	REC(shadow_map);

	if (r->ept)
		decode_spte(o, r->spte, (int)r->level);
	else
		decode_shadow_pte(o, r->spte, (int)r->level);
}

static void details_kvm_tdp_mmu_map(struct out *o, const void *rec)
{
	REC(kvm_tdp_mmu_map);

	decode_spte(o, r->spte, (int)r->level);
}

static void values_kvm_mmu_sync_roots(struct out *o, const void *rec)
{
	fputs(((const struct trace_userkvm_kvm_mmu_sync_roots *)rec)->unsync ? "sync_roots()"
	                                                                     : "nothing to do",
	      o->f);
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
#define ASSIGNS(t, name, said)                                                                     \
	{.event = TRACE_userkvm_##name, .tree = t, .text = said, .assigns = true, .choose = remark_context},
#define CHOSEN(t, name, said)                                                                      \
	{.event = TRACE_userkvm_##name,                                                            \
	 .tree = t,                                                                                \
	 .text = said,                                                                             \
	 .values = values_##name,                                                                  \
	 .choose = remark_##name},

/* A table, a line each. */
/* clang-format off */
const struct walk_line walk_lines[] = {
	BARE(1, kvm_create_vm, "kvm_create_vm", "one VM for each KVM_CREATE_VM", "每次 KVM_CREATE_VM 建一个 VM")
	LINE(1, kvm_mm, "kvm->mm = current->mm", "the VM belongs to the address space that made it: after fork() the child's ioctls get -EIO (the number is this library's)", "VM 属于创建它的地址空间：fork() 后子进程的 ioctl 得到 -EIO（编号由本库分配）")
	LINE(1, kvm_alloc_memslots, "kvm_alloc_memslots", "only slots; memory comes with KVM_SET_USER_MEMORY_REGION", "只分配插槽，内存条由 KVM_SET_USER_MEMORY_REGION 插入")
	LINE(1, id_to_index, "slots->id_to_index[i] = slots->memslots[i].id = i", "an empty set, one each for normal memory and SMM. An id is slot & 0xffff and leads to its slot at once; the generation tells sets apart: 2 times the address space to begin with, 4 more after each change, odd while one is under way", "空集合，普通内存与 SMM 各一个。id 即 slot & 0xffff，可直接找到插槽；代号用来区分集合：初值为地址空间号乘 2，每次变更加 4，变更中为奇数")
	BARE(1, kvm_arch_init_vm, "kvm_arch_init_vm", "x86's part of the VM", "VM 的 x86 部分")
	BARE(1, kvm_mmu_init_vm, "kvm_mmu_init_vm", "the list of roots, mmu_lock, counters", "根页表列表、mmu_lock、计数器")
	LINE(1, kvm_vm_ioctl_create_vcpu, "kvm_vm_ioctl_create_vcpu", "KVM_CREATE_VCPU", "KVM_CREATE_VCPU")
	BARE(1, kvm_arch_vcpu_create, "kvm_arch_vcpu_create", "x86's part of the vCPU", "vCPU 的 x86 部分")
	BARE(1, vmx_create_vcpu, "kvm_x86_ops->vcpu_create/vmx_create_vcpu", "VMCS and logical processor", "VMCS 与逻辑处理器")
	LINE(1, allocate_vpid, "vmx->vpid = allocate_vpid()", "tags this vCPU's TLB entries, so that a switch need not flush them; 0: none left, or vpid=0", "给该 vCPU 的 TLB 表项打标签，切换时不必清空；0 表示没有可用的或 vpid=0")
	BARE(1, kvm_vcpu_init, "kvm_vcpu_init", "the part that is no architecture's: kvm_run, its number", "与架构无关的部分：kvm_run、编号")
	BARE(1, kvm_arch_vcpu_init, "kvm_arch_vcpu_init", "registers, local APIC, MMU", "寄存器、本地 APIC、MMU")
	BARE(1, kvm_mmu_create, "kvm_mmu_create", "MMU context and page-table memory cache", "MMU 上下文与页表内存缓存")
	BARE(1, kvm_arch_vcpu_setup, "kvm_arch_vcpu_setup", "the state after RESET", "RESET 之后的状态")
	CHOSEN(1, kvm_mmu_reset_context, "kvm_mmu_reset_context")
	BARE(1, kvm_init_mmu, "kvm_init_mmu", "one of three MMUs is chosen: EPT, shadow tables, or (while L2 runs) the nested one", "从三种 MMU 中选一种：EPT、影子页表，或 L2 运行时的嵌套 MMU")
	BARE(1, init_kvm_tdp_mmu, "init_kvm_tdp_mmu", "two-dimensional paging: EPT", "二维分页：EPT")
	BARE(1, init_kvm_softmmu, "init_kvm_softmmu", "shadow paging (ept=0)", "影子页表（ept=0）")
	BARE(1, init_kvm_nested_mmu, "init_kvm_nested_mmu", "while L2 runs: how the hypervisor walks L2's own tables, through EPT12. The processor never sees it", "L2 运行期间：虚拟机监控器经由 EPT12 遍历 L2 自己的页表。处理器看不到它")
	ASSIGNS(1, context_page_fault, "context->page_fault")
	ASSIGNS(1, context_direct_map, "context->direct_map")
	ASSIGNS(1, context_set_cr3, "context->set_cr3")
	ASSIGNS(1, context_get_cr3, "context->get_cr3")

	BARE(2, kvm_vm_ioctl, "kvm_vm_ioctl(KVM_SET_USER_MEMORY_REGION)", "the client plugs in, moves or takes out a memory stick", "用户态插入、移动或拔出一根内存条")
	LINE(2, kvm_vm_ioctl_set_memory_region, "kvm_vm_ioctl_set_memory_region", "slot, guest-physical range (gpa), and where it lies in the client (hva)", "插槽号、客户机物理范围（gpa）与其在用户进程中的位置（hva）")
	BARE(2, kvm_set_memory_region, "kvm_set_memory_region", "slots_lock; vCPUs go on running", "持有 slots_lock；vCPU 继续运行")
	BARE(2, __kvm_set_memory_region, "__kvm_set_memory_region", "alignment, flags, overlap: each fault has its own errno", "检查对齐、标志与重叠：各有其 errno")
	LINE(2, as_id, "as_id = mem->slot >> 16", "address space: 0, or 1 of SMM", "地址空间：0，或 SMM 用的 1")
	LINE(2, slot_id, "slot_id = (u16)mem->slot", "the client's own number for the stick", "用户态给内存条的编号")
	LINE(2, __kvm_memslots, "kvm_memslots = __kvm_memslots(kvm, as_id)", "the set in force, as it was before this change", "当前生效的集合（变更之前）")
	LINE(2, id_to_memslot, "kvm_memory_slot = id_to_memslot(kvm_memslots, slot_id)", "NULL: the slot is free", "NULL 表示插槽空闲")
	CHOSEN(2, kvm_set_memslot, "kvm_set_memslot")

	LINE(3, vcpu_enter_guest, "vcpu_enter_guest", "requests, events, MMU, VM entry, exit handler", "请求、事件、MMU、VM entry、退出处理")
	CHOSEN(3, kvm_mmu_reload, "kvm_mmu_reload")
	BARE(3, kvm_mmu_load, "kvm_mmu_load", "a root, and its address into the VMCS", "取得根页表并把地址写入 VMCS")
	BARE(3, mmu_alloc_roots, "mmu_alloc_roots", "by the context that was chosen: direct or shadow", "按所选上下文：直接映射或影子")
	LINE(3, mmu_alloc_direct_roots, "kvm_alloc_direct_roots/mmu_alloc_direct_roots", "as many levels as the guest's physical addresses need", "级数取决于客户机物理地址宽度")
	BARE(3, mmu_alloc_shadow_roots, "mmu_alloc_shadow_roots", "a root of shadow pages: with ept=0 for each CR3 of the guest's, while L2 runs for each EPTP12 of L1's (EPT02)", "影子页的根：ept=0 时客户机的每个 CR3 一个；L2 运行时 L1 的每个 EPTP12 一个（EPT02）")
	LINE(3, kvm_mmu_get_page, "kvm_mmu_get_page", "one root is shared by the VM's vCPUs for each role", "同一角色的根由全部 vCPU 共享")
	LINE(3, kvm_mmu_alloc_page, "kvm_mmu_alloc_page", "a 4 KiB table in the SDM's format", "一张 4 KiB 页表，格式即 SDM 所定")
	LINE(3, root_hpa, "vcpu->arch.mmu->root_hpa = __pa(kvm_mmu_page->spt)", "here __pa() is the identity", "这里 __pa() 是恒等映射")
	CHOSEN(3, kvm_mmu_sync_roots, "kvm_mmu_sync_roots")
	LINE(3, kvm_mmu_load_cr3, "kvm_mmu_load_cr3", "by the context: context->set_cr3", "按上下文调用 context->set_cr3")
	LINE(3, vmx_set_cr3, "vcpu->arch.mmu->set_cr3()/vmx_set_cr3()", "the argument is the host-physical address of the root that KVM has made, not the guest's CR3", "cr3 入参是 KVM 所建的根的 HPA（EPT 根），不是客户机的 CR3")
	DETAILED(3, construct_eptp, "eptp = construct_eptp(vcpu, cr3)", "the root's address and how to walk from it", "根地址以及遍历方式")
	LINE(3, vmcs_write64_EPT_POINTER, "vmcs_write64(EPT_POINTER, eptp)", "from the next VM entry on the processor walks these tables", "从下一次 VM entry 起处理器遍历这些页表")
	CHOSEN(3, kvm_read_cr3, "guest_cr3 = kvm_read_cr3()")
	CHOSEN(3, vmcs_writel_GUEST_CR3, "vmcs_writel(GUEST_CR3, guest_cr3)")

	LINE(3, handle_vmlaunch, "handle_vmlaunch", "L1, a hypervisor in the guest, enters its own guest L2: VMX instructions of a guest always exit", "L1（客户机里的虚拟机监控器）进入自己的客户机 L2：客户机的 VMX 指令总会退出")
	LINE(3, nested_vmx_run, "nested_vmx_run", "L1's VMCS is vmcs12, a page of its memory; its controls and host state are checked here", "L1 的 VMCS 即 vmcs12，是它内存中的一页；控制域与宿主状态在此检查")
	LINE(3, nested_vmx_enter_non_root_mode, "nested_vmx_enter_non_root_mode", "from VMCS01, which L1 runs with, to VMCS02", "从运行 L1 的 VMCS01 切换到 VMCS02")
	LINE(3, prepare_vmcs02, "prepare_vmcs02", "what the processor runs L2 with: guest state of vmcs12, controls of both", "处理器运行 L2 所用：vmcs12 的客户机状态，双方的控制域")
	LINE(3, nested_ept_init_mmu_context, "nested_ept_init_mmu_context", "L1 has EPT tables of its own, EPT12", "L1 有自己的 EPT 表 EPT12")
	LINE(3, kvm_init_shadow_ept_mmu, "kvm_init_shadow_ept_mmu", "guest_mmu: EPT02 shadows EPT12, from L2's addresses to the host's", "guest_mmu：EPT02 是 EPT12 的影子，从 L2 的地址直接到主机地址")
	LINE(4, handle_ept_violation, "handle_ept_violation", "exit reason 48", "退出原因 48")
	LINE(4, handle_ept_misconfig, "handle_ept_misconfig", "exit reason 49: MMIO's road", "退出原因 49：MMIO 之路")
	DETAILED(4, kvm_handle_page_fault, "kvm_handle_page_fault", "ept=0: #PF (exit reason 0, vector 14), mostly an entry of KVM's own that is not there yet", "ept=0：#PF（退出原因 0，向量 14），多半是 KVM 自己的表项尚未建立")
	DETAILED(4, vmcs_readl_EXIT_QUALIFICATION, "exit_qualification = vmcs_readl(EXIT_QUALIFICATION)", "what the access was, and what EPT allowed", "访问的种类，以及 EPT 所允许的")
	LINE(4, arch_exit_qualification, "vcpu->arch.exit_qualification = exit_qualification", "kept for injection into a nested hypervisor", "留给嵌套虚拟化注入时使用")
	DETAILED(4, kvm_mmu_page_fault, "kvm_mmu_page_fault", "the qualification as KVM's error code", "把退出限定换算成 KVM 的错误码")
	LINE(4, tdp_page_fault, "tdp_page_fault", "context->page_fault of the first tree", "即第一棵树中的 context->page_fault")
	LINE(4, shadow_page_fault, "shadow_page_fault", "context->page_fault of the first tree, with ept=0", "即第一棵树中 ept=0 时的 context->page_fault")
	LINE(4, nonpaging_page_fault, "nonpaging_page_fault", "the guest has no paging yet: linear is physical", "客户机未开分页：线性地址即物理地址")
	CHOSEN(4, guest_walk, "mmu_guest_walk")
	LINE(4, ept_page_fault, "ept_page_fault", "context->page_fault while L2 runs: whose fault is it?", "L2 运行时的 context->page_fault：这是谁的缺页？")
	CHOSEN(4, ept12_walk, "mmu_ept12_walk")
	LINE(4, nested_ept_inject_page_fault, "nested_ept_inject_page_fault", "the exit qualification that L1's own processor would have given", "L1 自己的处理器会给出的退出限定")
	LINE(4, nested_vmx_vmexit, "nested_vmx_vmexit", "L2's state into vmcs12, back to VMCS01: L1 goes on behind its VMLAUNCH", "L2 的状态写回 vmcs12，切回 VMCS01：L1 从 VMLAUNCH 之后继续")
	LINE(4, fast_page_fault, "fast_page_fault", "only the dirty log had taken write access: given back without a lock", "写权限只是为脏页日志收走的：不加锁直接恢复")
	LINE(4, kvm_faultin_page, "kvm_faultin_page", "gfn to memslot to hva to a host page that is there", "gfn → memslot → hva → 主机页")
	DETAILED(4, kvm_tdp_mmu_map, "kvm_tdp_mmu_map", "published with one compare-exchange", "一次比较交换即生效")
	{.event = TRACE_userkvm_shadow_map, .tree = 4, .text = "shadow entry", .values = values_shadow_map, .details = details_shadow_map,
	 .choose = remark_shadow_map},
	CHOSEN(4, ret_pf, "return")
	LINE(4, x86_emulate_instruction, "x86_emulate_instruction", "the instruction is decoded and done in software: its access goes to a device, or to a table that is shadowed", "用软件译码并执行该指令：访问交给设备，或写入被影子化的页表")
	CHOSEN(4, exit_mmio, "vcpu->run->exit_reason = KVM_EXIT_MMIO")
};
/* clang-format on */
const unsigned nr_walk_lines = sizeof(walk_lines) / sizeof(walk_lines[0]);

const char *walk_text(const struct walk_line *line, const void *rec, char *buf, size_t size)
{
	if (!line->assigns)
		return line->text;
	snprintf(buf, size, "%s = %s", line->text, ((const struct trace_userkvm_context_page_fault *)rec)->fn);
	return buf;
}

const struct walk_line *walk_line_of(unsigned event)
{
	for (unsigned i = 0; i < nr_walk_lines; i++)
		if ((unsigned)walk_lines[i].event == event)
			return &walk_lines[i];
	return NULL;
}
