/*
 * The VM and its vCPUs, as far as they are not x86: life cycle, requests and
 * kicks, the run state machine. (Linux: struct kvm, struct kvm_vcpu.)
 *
 * Lock order, outer to inner:
 *   kvm->lock > vcpu->mutex > kvm->slots_lock > kvm->irq_lock > mmu_lock
 * RCU (liburcu) protects memslots, buses, the irq routing table and freed page
 * tables. A thread that runs in the guest is not in a read-side section.
 *
 * Field letters: (c) constant after create, (o) owner vCPU thread only,
 * [s] slots_lock, [l] kvm->lock, (r) RCU, (a) atomic.
 */
#ifndef USERKVM_VIRT_KVM_H
#define USERKVM_VIRT_KVM_H

#include <linux/kvm.h>
#include <pthread.h>

#include "lib/types.h"
#include "virt/memslot.h"
#include "virt/stats.h"

#define KVM_MAX_VCPUS 1024
#define KVM_MAX_VCPU_IDS 4096
#define KVM_ADDRESS_SPACE_NUM 2 /* 0 normal, 1 SMM */
#define KVM_VCPU_MMAP_PAGES 3	/* kvm_run, PIO data, coalesced ring */

/* Nothing on x86 writes to CCW's; clients may put ioeventfds there all the same. */
enum kvm_bus_id { KVM_MMIO_BUS, KVM_PIO_BUS, KVM_VIRTIO_CCW_NOTIFY_BUS, KVM_FAST_MMIO_BUS, KVM_NR_BUSES };

struct kvm_io_bus;
struct kvm_irq_routing_table;
struct kvm_irq_ack_notifier;
struct kvm_async_pf;
struct kvm_exit_stats;
struct kvm_async_pf_info;
struct ioeventfd;
struct kvm_vcpu;

struct kvm {
	uint64_t mm_id; /* (c) host_mm_id() of the creator: kvm->mm */
	pthread_mutex_t lock;
	pthread_mutex_t slots_lock;
	pthread_mutex_t irq_lock;
	struct kvm_memslots *memslots[KVM_ADDRESS_SPACE_NUM]; /* (r)[s] */
	struct kvm_vcpu *vcpus[KVM_MAX_VCPUS];		      /* (r)[l] by index */
	uint32_t nr_vcpus;				      /* (a) published vCPUs */
	struct kvm_io_bus *buses[KVM_NR_BUSES];		      /* (r)[s] */
	struct kvm_irq_routing_table *irq_routing;	      /* (r) irq_lock */
	struct kvm_irq_ack_notifier *irq_ack_notifiers;	      /* (r) irq_lock */
	uint32_t nr_created_vcpus;			      /* [l] with those being made */
	uint64_t nr_memslot_pages;			      /* [s] of all slots */
	uint32_t refcount;				      /* (a) fds and vCPUs */
	bool dead;					      /* (a) broken invariant: -EIO from every ioctl */
	/*
	 * Invalidation sequence (Linux mmu_invalidate_seq): a page fault samples
	 * it before looking at the client's mapping and starts over if it moved.
	 */
	uint64_t mmu_invalidate_seq;	    /* (a) */
	uint32_t mmu_invalidate_in_progress; /* (a) */

	struct kvm_mmu_vm *mmu_vm; /* (c) mmu room's part */
	struct kvm_irqfds *irqfds; /* (c) eventfd part */
	struct ioeventfd *ioeventfds; /* [s] */
	void *coalesced;	   /* [s] coalesced MMIO part */
	uint64_t manual_dirty_log_protect; /* [s] KVM_DIRTY_LOG_MANUAL_*, as enabled */
	bool cpu_dirty_logging;	  /* (c) processors note writes (PML) and tell on leaving the guest */
	uint32_t dirty_ring_size; /* (c) once there are vCPUs; bytes, 0: bitmaps */
	/* irq room's chips; NULL without KVM_CREATE_IRQCHIP / _PIT2 */
	struct kvm_pic *vpic;
	struct kvm_ioapic *vioapic;
	struct kvm_pit *vpit;
	bool irqchip_split;	   /* [l] KVM_CAP_SPLIT_IRQCHIP: local APICs only */
	bool wants_scan;	   /* (c) vCPUs have EOI-exit bitmaps: KVM_REQ_SCAN_IOAPIC */
	bool apic_access_closed;   /* (a) the slot of the APIC-access page may not be mapped */
	uint32_t nr_reserved_ioapic_pins;
	bool xapic_id_moved; /* (a) some xAPIC has had an id that is not its vCPU's: ids may be double */
	struct kvm_arch *arch; /* (c) x86 room's part */
	uint64_t serial;       /* (c) which VM of this process: 1, 2, … */

	struct kvm_stats_file stats_file; /* [l] */
	/* Last, since it begins a page (virt/stats.h); kvm_stat_add(). */
	_Alignas(64) struct kvm_vm_stat stat;
};

/* What a vCPU thread is doing (Linux vcpu->mode). */
enum kvm_vcpu_mode { OUTSIDE_GUEST_MODE, IN_GUEST_MODE, EXITING_GUEST_MODE };

/* Requests: bits of vcpu->requests, served in this order before each entry. */
#define KVM_REQUESTS(F)       \
	F(VM_DEAD)            \
	F(TLB_FLUSH)          \
	F(TLB_FLUSH_GUEST)    \
	F(MMU_RELOAD)         \
	F(MMU_SYNC)           \
	F(CLOCK_UPDATE)       \
	F(MASTERCLOCK_UPDATE) \
	F(REPORT_TPR_ACCESS)  \
	F(TRIPLE_FAULT)       \
	F(EVENT)              \
	F(NMI)                \
	F(SMI)                \
	F(PENDING_TIMER)      \
	F(APF_HALT)           \
	F(APF_READY)          \
	F(UNBLOCK)            \
	F(APICV_UPDATE)       \
	F(SCAN_IOAPIC)        \
	F(IOAPIC_EOI_EXIT)    \
	F(HV_CRASH)           \
	F(HV_RESET)           \
	F(HV_EXIT)            \
	F(HV_STIMER)          \
	F(CALL)               \
	F(OUTSIDE_GUEST)
enum kvm_request {
#define KVM_REQ_ENUM(n) KVM_REQ_##n,
	KVM_REQUESTS(KVM_REQ_ENUM)
#undef KVM_REQ_ENUM
	KVM_NR_REQUESTS
};

/* virt/dirty_ring.h */
struct kvm_dirty_ring {
	pthread_mutex_t lock;
	struct kvm_dirty_gfn *gfns; /* (c) shared with the client; NULL: no rings */
	uint32_t size, soft_limit;  /* (c) entries */
	uint32_t dirty_index;	    /* (a) lock to change; runs freely, as reset_index does */
	uint32_t reset_index;	    /* (a) slots_lock to change */
};

struct kvm_vcpu {
	struct kvm *kvm;     /* (c) */
	uint32_t vcpu_id;    /* (c) the client's number: APIC id */
	uint32_t vcpu_idx;   /* (c) position in kvm->vcpus */
	uint32_t as_id; /* (o) address space it uses: 1 in SMM; kvm_init_mmu() sets it */
	struct kvm_run *run; /* (c) the mmap-able pages; shared with the client */
	int run_memfd;	     /* (c) the file behind them */
	pthread_mutex_t mutex; /* one vCPU ioctl at a time */
	uint64_t requests;   /* (a) bits of enum kvm_request */
	int mode;	     /* (a) enum kvm_vcpu_mode */
	uint32_t wake_word;  /* (a) futex that kvm_vcpu_block() sleeps on */
	bool blocked;	     /* (a) sleeping in kvm_vcpu_block() */
	uint32_t signal_seen; /* (a) a client signal handler ran on this thread in KVM_RUN */

	/* sigset of KVM_SET_SIGNAL_MASK (kernel sigset, 64 bits) (o) */
	bool sigset_active;
	uint64_t sigset;

	/* last-used memslot index per address space (o) */
	uint32_t last_used_slot[KVM_ADDRESS_SPACE_NUM];

	struct kvm_dirty_ring dirty_ring;

	/* virt/async_pf.h */
	struct kvm_async_pf *async_pf; /* (o) page faults that threads wait for */
	uint32_t nr_async_pf, async_pf_id; /* (o) */

	/* Interrupts the processor of a vCPU in guest mode (vmx_kick). (c) */
	void (*kick_processor)(struct kvm_vcpu *vcpu);

	struct kvm_mmu *mmu;	 /* (o) MMU context that the processor runs on, mmu room */
	struct kvm_mmu *walk_mmu; /* (o) the one that linear addresses are walked with */
	struct kvm_mmu_vcpu *mmu_vcpu; /* (c) mmu room's part */
	struct kvm_lapic *apic;	 /* (c) irq room; NULL without in-kernel irqchip */
	struct vcpu_vmx *vmx;	 /* (c) vmx room's part */
	struct kvm_vcpu_arch *arch; /* (c) x86 room's part */

	struct kvm_vcpu_call *call; /* (a) what KVM_REQ_CALL is about */
	struct kvm_exit_stats *exit_stats; /* (a) virt/exit_stats.h; NULL until another process asks */
	struct kvm_stats_file stats_file; /* vcpu->mutex */
	/* Last, since it begins a page (virt/stats.h); (o), kvm_stat_add() elsewhere. */
	_Alignas(64) struct kvm_vcpu_stat stat;
};

/* --- VM --- */

/*
 * kvm_create_vm: memslots for both address spaces, locks, then
 * kvm_arch_init_vm() through arch_ops.init_vm. One reference is the caller's.
 * Buses and routing begin empty (NULL). -ENOMEM, or init_vm's error.
 */
must_check int kvm_create_vm(struct kvm **out);
void kvm_get_kvm(struct kvm *kvm);
/*
 * The last one destroys: irqfds, vCPUs, arch_ops.destroy_vm, irq routing,
 * memslots. Not inside an RCU section, not with a lock of the VM held.
 */
void kvm_put_kvm(struct kvm *kvm);
/* A broken invariant: message on stderr, every later ioctl gives -EIO. */
void kvm_vm_bugged(struct kvm *kvm, const char *why);
/*
 * True where `broken` is; then the VM is stopped. The caller backs out.
 *	if (kvm_bug_on(kvm, slot->npages == 0))
 *		return -EIO;
 */
#define kvm_bug_on(kvm, broken)                                            \
	({                                                                 \
		bool bug_ = unlikely(broken);                              \
		if (bug_)                                                  \
			kvm_vm_bugged_at((kvm), #broken, __FILE__, __LINE__); \
		bug_;                                                      \
	})
void kvm_vm_bugged_at(struct kvm *kvm, const char *what, const char *file, int line) __attribute__((cold));

/*
 * Hooks the x86 room registers once, so that virt knows no x86. vcpu_create
 * runs without kvm->lock, before the vCPU is visible (vcpu_idx not yet valid);
 * where it fails it has undone its part. vcpu_runnable: owner thread.
 */
struct kvm_arch_ops {
	int (*init_vm)(struct kvm *kvm);
	void (*destroy_vm)(struct kvm *kvm);
	int (*vcpu_create)(struct kvm_vcpu *vcpu);
	void (*vcpu_destroy)(struct kvm_vcpu *vcpu);
	/* The vCPU has something to do, so that HLT should end. */
	bool (*vcpu_runnable)(struct kvm_vcpu *vcpu);
	/* Called by vcpu_create, by way of the vendor and kvm_vcpu_init(). */
	int (*vcpu_init)(struct kvm_vcpu *vcpu);
	/*
	 * virt/async_pf.h: whether the guest may run on without a page now; it is told that one is not
	 * present, or the vCPU is to halt (false). Owner thread.
	 */
	bool (*can_do_async_pf)(struct kvm_vcpu *vcpu);
	bool (*async_page_not_present)(struct kvm_vcpu *vcpu, const struct kvm_async_pf_info *info);
	/* After vcpu_create: the state after RESET. Cannot fail. */
	void (*vcpu_setup)(struct kvm_vcpu *vcpu);
};
void kvm_register_arch(const struct kvm_arch_ops *ops);
/* What a vCPU needs before it has a state; the vendor's vcpu_create calls it. Errors: the hook's. */
must_check int kvm_vcpu_init(struct kvm_vcpu *vcpu);

/* --- vCPUs --- */

/*
 * kvm_vm_ioctl_create_vcpu up to, not including, the fd: -EINVAL (id),
 * -EEXIST, -ENOMEM. run_memfd is created here with KVM_VCPU_MMAP_PAGES pages.
 * The vCPU belongs to the VM and goes with it; a vCPU fd holds a reference on
 * the VM. Takes kvm->lock.
 */
must_check int kvm_create_vcpu(struct kvm *kvm, uint32_t id, struct kvm_vcpu **out);
/* NULL when there is none. Any thread. */
struct kvm_vcpu *kvm_get_vcpu_by_id(struct kvm *kvm, uint32_t id);

static inline struct kvm_vcpu *kvm_get_vcpu(struct kvm *kvm, uint32_t idx)
{
	return idx < __atomic_load_n(&kvm->nr_vcpus, __ATOMIC_ACQUIRE) ? kvm->vcpus[idx] : NULL;
}

#define kvm_for_each_vcpu(idx, vcpu, kvm) \
	for ((idx) = 0; ((vcpu) = kvm_get_vcpu((kvm), (idx))) != NULL; (idx)++)

/* --- requests, kicks, blocking --- */

static inline void kvm_make_request(enum kvm_request r, struct kvm_vcpu *vcpu)
{
	__atomic_fetch_or(&vcpu->requests, BIT_ULL(r), __ATOMIC_SEQ_CST);
}

static inline bool kvm_test_request(enum kvm_request r, struct kvm_vcpu *vcpu)
{
	return __atomic_load_n(&vcpu->requests, __ATOMIC_RELAXED) & BIT_ULL(r);
}

static inline bool kvm_check_request(enum kvm_request r, struct kvm_vcpu *vcpu)
{
	if (likely(!kvm_test_request(r, vcpu)))
		return false;
	return __atomic_fetch_and(&vcpu->requests, ~BIT_ULL(r), __ATOMIC_SEQ_CST) & BIT_ULL(r);
}

/*
 * Entering and leaving guest mode (owner thread). The run loop:
 *
 *	kvm_vcpu_enter_guest_mode(vcpu);
 *	if (kvm_vcpu_exit_request(vcpu)) { kvm_vcpu_leave_guest_mode(vcpu); … }
 *	vmx_vcpu_run(vcpu);
 *	kvm_vcpu_leave_guest_mode(vcpu);
 *
 * Pairs with kvm_vcpu_kick() and kvm_make_all_cpus_request(): either they see
 * IN_GUEST_MODE and interrupt the processor, or we see the request (signal).
 * Between the two calls the thread must not wait for anything, since a
 * shoot-down waits for it.
 */
static inline void kvm_vcpu_enter_guest_mode(struct kvm_vcpu *vcpu)
{
	__atomic_store_n(&vcpu->mode, IN_GUEST_MODE, __ATOMIC_SEQ_CST);
}

/* A reason not to enter after all: requests, a kick, or a client's signal. */
static inline bool kvm_vcpu_exit_request(struct kvm_vcpu *vcpu)
{
	return __atomic_load_n(&vcpu->requests, __ATOMIC_SEQ_CST) ||
	       __atomic_load_n(&vcpu->mode, __ATOMIC_SEQ_CST) == EXITING_GUEST_MODE ||
	       __atomic_load_n(&vcpu->signal_seen, __ATOMIC_SEQ_CST);
}

/* Wakes whoever waits for our acknowledgement. */
void kvm_vcpu_leave_guest_mode(struct kvm_vcpu *vcpu);

/*
 * The vCPU whose KVM_RUN this thread is in (kvm_get_running_vcpu), NULL
 * outside. kvm_vcpu_load() is called first in KVM_RUN, kvm_vcpu_put() last;
 * load clears signal_seen, unless a signal is held already (host/service.h).
 */
void kvm_vcpu_load(struct kvm_vcpu *vcpu);
void kvm_vcpu_put(struct kvm_vcpu *vcpu);
struct kvm_vcpu *kvm_get_running_vcpu(void);
/*
 * A signal handler of the client ran on this thread: its KVM_RUN, if it is in
 * one, will end with -EINTR (signal_seen). Async-signal-safe.
 */
void kvm_running_vcpu_signal(void);

/* Make a vCPU in the guest leave it and one that sleeps wake. Any thread, signal-safe. */
void kvm_vcpu_kick(struct kvm_vcpu *vcpu);
void kvm_vcpu_wake_up(struct kvm_vcpu *vcpu);
/*
 * Request on every vCPU; returns after each one that was in guest mode has left
 * it. Any thread, a vCPU's own outside guest mode included (its own request is
 * served before its next entry); not inside guest mode, not signal-safe.
 */
void kvm_make_all_cpus_request(struct kvm *kvm, enum kvm_request r);
/* The same on some: bit vcpu_idx of the mask, whose words are 64 bits. */
#define KVM_VCPU_MASK_WORDS (KVM_MAX_VCPUS / 64)
void kvm_make_vcpus_request_mask(struct kvm *kvm, enum kvm_request r,
				 const uint64_t mask[KVM_VCPU_MASK_WORDS]);
/* What the vectors' EOI-exit bitmaps are made of has changed. Nothing where no processor has them. Any thread. */
void kvm_make_scan_ioapic_request(struct kvm *kvm);
/* Every vCPU drops its EPT translations before it runs another guest instruction. */
void kvm_flush_remote_tlbs(struct kvm *kvm);

/*
 * Sleep until arch_ops.vcpu_runnable(), kvm_vcpu_kick() or a client signal.
 * 0, or -EINTR when a client's handler ran (signal_seen). A return of 0 does
 * not promise that the vCPU is runnable: look again. Takes KVM_REQ_UNBLOCK.
 */
int kvm_vcpu_block(struct kvm_vcpu *vcpu);
/* The same for HLT: the wait is counted (halt_wait_ns, halt_wait_hist, blocking). */
int kvm_vcpu_halt(struct kvm_vcpu *vcpu);

/*
 * virt/call.c: runs fn while the vCPU is at rest, its processor's state being that of the last exit: on
 * its own thread before it enters the guest again, or, where that is in no ioctl, on the caller's. fn takes no lock
 * and waits for nothing. -EBUSY: the vCPU has not come to rest within seconds. Any thread but a vCPU's in KVM_RUN.
 */
must_check int kvm_vcpu_call(struct kvm_vcpu *vcpu, void (*fn)(struct kvm_vcpu *vcpu, void *arg), void *arg);
/* Owner thread: KVM_REQ_CALL has come. */
void kvm_vcpu_serve_call(struct kvm_vcpu *vcpu);

/* A bitmap that a slot got before the VM got its rings is idle. */
static inline bool kvm_slot_uses_bitmap(const struct kvm *kvm, const struct kvm_memory_slot *slot)
{
	return slot->dirty_bitmap && !kvm->dirty_ring_size;
}

#endif
