/*
 * The remarks of the walk-through that depend on a record's values (struct walk_line's `choose`).
 *
 * Each function takes a record of the event it is named by and returns static text, or NULL: nothing to remark.
 */
#ifndef USERKVM_TOOLS_TRACE_REMARKS_H
#define USERKVM_TOOLS_TRACE_REMARKS_H

#include "tools/trace/walk.h"

walk_remark remark_context; /* of the four context->… = …, whose records are alike */
walk_remark remark_kvm_read_cr3, remark_kvm_mmu_reset_context, remark_vmcs_writel_GUEST_CR3, remark_exit_mmio;
walk_remark remark_ept12_walk, remark_shadow_map, remark_guest_walk, remark_kvm_mmu_reload, remark_kvm_set_memslot;
walk_remark remark_kvm_mmu_sync_roots, remark_ret_pf;

#endif
