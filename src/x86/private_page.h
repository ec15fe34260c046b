/*
 * Guest-physical pages of the hypervisor's own: a page of this process in a memslot whose number no client can name.
 * (Linux: __x86_set_memory_region.)
 */
#ifndef USERKVM_X86_PRIVATE_PAGE_H
#define USERKVM_X86_PRIVATE_PAGE_H

#include "virt/kvm.h"

/*
 * A page of zeros at `gpa` in both address spaces, as slot `slot`; its address in *page. -EEXIST: the client has a slot
 * there; -EINVAL: gpa is not a page's; -ENOMEM. [slots_lock]
 */
must_check int kvm_private_page_create(struct kvm *kvm, uint32_t slot, gpa_t gpa, hva_t *page);
/* After the VM's slots are gone. 0: there is none. */
void kvm_private_page_free(hva_t page);

#endif
