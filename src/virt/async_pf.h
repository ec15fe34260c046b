/*
 * Asynchronous page faults, as far as they are not x86's: threads that wait for
 * pages which the client has yet to bring (userfaultfd(2)), so that a vCPU need
 * not, and each vCPU's list of those. (Linux: virt/kvm/async_pf.c)
 *
 *     kvm_try_async_pf  ──> a thread touches the page ... it is there
 *                                    KVM_REQ_APF_READY, kick <──┘
 *     kvm_take_async_pf <── the vCPU serves it
 *
 * Invariants
 * 1. A fault taken on is at once a thread's; where none is free it is not taken
 *    on. No thread is made and nothing is allocated by it.
 * 2. A fault that its vCPU has forgotten stays its thread's until the page is
 *    there, and tells nobody. The thread reads one byte (of what the client may
 *    have put there since) and knows no VM, so that no VM's end waits for a page.
 *
 * Context: the vCPU's owner thread, or its end.
 */
#ifndef USERKVM_VIRT_ASYNC_PF_H
#define USERKVM_VIRT_ASYNC_PF_H

#include "virt/kvm.h"

#define ASYNC_PF_PER_VCPU 64 /* waited for or ready, at most */

struct kvm_async_pf_info {
	uint64_t addr; /* what the processor named: gpa, or CR2 with shadow paging */
	gfn_t gfn;
	hva_t hva;
	uint32_t token; /* never 0 */
	bool told;	/* the guest has the token */
};

/* What makes asynchronous page faults possible: threads are started when both have come. */
enum kvm_async_pf_need { KVM_ASYNC_PF_VM = 1, KVM_ASYNC_PF_USERFAULT = 2 };
/*
 * A VM is made; the client registers memory with a userfaultfd. Where threads cannot be had, faults
 * are waited for as without them. Any thread.
 */
void kvm_async_pf_prepare(enum kvm_async_pf_need need);

/*
 * True: the page at hva is somebody's to bring, the vCPU is told when it is there (arch_ops:
 * can_do_async_pf, async_page_not_present) and may run on. False: the fault waits as ever.
 */
bool kvm_try_async_pf(struct kvm_vcpu *vcpu, uint64_t addr, gfn_t gfn, hva_t hva);
/* One whose page is there (or will never be). False: none. */
bool kvm_take_async_pf(struct kvm_vcpu *vcpu, struct kvm_async_pf_info *info);
/* Forget them all. */
void kvm_clear_async_pf_completion_queue(struct kvm_vcpu *vcpu);

#endif
