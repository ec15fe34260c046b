/*
 * What the files of the room share: the TLFS's bits, the SynIC and its timers.
 *
 * Context: the vCPU's owner thread, where nothing else is said.
 */
#ifndef USERKVM_HYPERV_INTERNAL_H
#define USERKVM_HYPERV_INTERNAL_H

#include "host/timer.h"
#include "hyperv/hyperv.h"
#include "sdm/hyperv.h"

/* HV_CPUID_FEATURES.EAX: partition privileges. */
#define HV_VP_RUNTIME (1u << 0)
#define HV_TIME_REF_COUNT (1u << 1)
#define HV_SYNIC (1u << 2)
#define HV_SYNTIMER (1u << 3)
#define HV_APIC_ACCESS (1u << 4)
#define HV_HYPERCALL (1u << 5)
#define HV_VP_INDEX (1u << 6)
#define HV_RESET (1u << 7)
#define HV_REFERENCE_TSC (1u << 9)
#define HV_FREQUENCY (1u << 11)
#define HV_REENLIGHTENMENT (1u << 13)
/* ..EBX */
#define HV_POST_MESSAGES (1u << 4)
#define HV_SIGNAL_EVENTS (1u << 5)
#define HV_DEBUGGING (1u << 11)
/* ..EDX */
#define HV_GUEST_DEBUGGING (1u << 1)
#define HV_XMM_INPUT (1u << 4)
#define HV_FREQUENCY_MSRS (1u << 8)
#define HV_GUEST_CRASH (1u << 10)
#define HV_DEBUG_MSRS (1u << 11)
#define HV_STIMER_DIRECT (1u << 19)
/* HV_CPUID_RECOMMENDATIONS.EAX */
#define HV_REMOTE_TLB_FLUSH (1u << 2)
#define HV_APIC_MSRS (1u << 3)
#define HV_RELAXED_TIMING (1u << 5)
#define HV_DEPRECATING_AEOI (1u << 9)
#define HV_CLUSTER_IPI (1u << 10)
#define HV_EX_PROCESSOR_MASKS (1u << 11)
#define HV_ENLIGHTENED_VMCS (1u << 14)
#define HV_NO_CORE_SHARING (1u << 18)
/* HV_CPUID_DEBUG_CAPABILITIES.EAX */
#define HV_ALLOW_KERNEL_DEBUGGING (1u << 1)

#define HV_MSR_ENABLE BIT_ULL(0)
#define HV_MSR_PAGE GENMASK_ULL(63, 12)
#define HV_SYNDBG_USE_HCALLS BIT_ULL(2) /* HV_MSR_SYNDBG_OPTIONS */
#define HV_NR_SINTS 16
#define HV_NR_STIMERS 4

/* HV_STIMER_CONFIG */
#define HV_STIMER_ENABLE BIT_ULL(0)
#define HV_STIMER_PERIODIC BIT_ULL(1)
#define HV_STIMER_AUTO_ENABLE BIT_ULL(3)
#define HV_STIMER_APIC_VECTOR GENMASK_ULL(11, 4)
#define HV_STIMER_DIRECT_MODE BIT_ULL(12)
#define HV_STIMER_SINTX GENMASK_ULL(19, 16)

struct hv_stimer {
	struct kvm_vcpu *vcpu;	 /* (c) */
	uint32_t index;		 /* (c) */
	struct host_timer *host; /* (c) */
	uint64_t config, count;	 /* the MSRs (o) */
	uint64_t exp_time;	 /* reference time, 100 ns; 0: not started (o) */
	bool msg_pending;	 /* it ran out and could not say so: again after EOM (o) */
};

struct hv_synic {
	bool clear_pages;			 /* KVM_CAP_HYPERV_SYNIC, not SYNIC2 (o) */
	uint64_t control, version, evt_page, msg_page; /* the MSRs (o) */
	uint64_t sint[HV_NR_SINTS];		 /* (a) written by the owner */
	struct kvm_apic_synic vectors;		 /* of the SINTs that are not masked (o) */
	bool auto_eoi;				 /* one of them ends its interrupts by itself (o) */
	struct hv_stimer stimer[HV_NR_STIMERS];
	uint32_t stimers_pending;		 /* (a) bit index: to be looked at, with KVM_REQ_HV_STIMER */
};

/* HV_MESSAGE with HV_TIMER_MESSAGE_PAYLOAD: a slot of the message page is 256 bytes. */
#define HV_MESSAGE_SIZE 256
#define HV_MESSAGE_TIMER_EXPIRED 0x80000010u
struct hv_timer_message {
	uint32_t type; /* 0: the slot is free */
	uint8_t payload_size, flags, reserved[2];
	uint64_t sender;
	uint32_t timer_index, reserved2;
	uint64_t expiration_time, delivery_time;
};
static_assert(sizeof(struct hv_timer_message) == 40, "guest ABI");

/* Functions for MSRs: 0, KVM_MSR_INVAL; host: by the client's ioctl. */

/* --- hyperv.c --- */
static inline uint32_t hv_vp_index(struct kvm_vcpu *vcpu)
{
	uint32_t set = READ_ONCE(vcpu->arch->hv.vp_index);

	return set == KVM_HV_VP_INDEX_UNSET ? vcpu->vcpu_idx : set;
}
/* NULL: nobody's. Any thread. */
struct kvm_vcpu *hv_vcpu_by_vp_index(struct kvm *kvm, uint32_t vp_index);

/* --- tsc.c --- */
/* In 100 ns. */
uint64_t hv_reference_counter(struct kvm_vcpu *vcpu);
/* HV_MSR_REFERENCE_TSC: the page is there at the next entry. */
void hv_set_reference_tsc(struct kvm_vcpu *vcpu, uint64_t data);

/* --- synic.c --- */
int hv_synic_get_msr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *data, bool host);
int hv_synic_set_msr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t data, bool host);
/*
 * A message to its slot, and the SINT's interrupt. -EAGAIN: the slot is taken, and marked so
 * that the guest says when it is free; with no_retry 0, as the message is lost. -ENOENT no
 * page or the SINT is masked, -EFAULT the page cannot be written or the APIC is off.
 */
must_check int hv_synic_deliver(struct kvm_vcpu *vcpu, uint32_t sint,
				const struct hv_timer_message *msg, bool no_retry);

/* --- stimer.c --- */
must_check int hv_stimers_create(struct kvm_vcpu *vcpu, struct hv_synic *synic); /* -ENOMEM, -EAGAIN */
void hv_stimers_destroy(struct hv_synic *synic); /* waits for callbacks */
int hv_stimer_get_msr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *data, bool host);
int hv_stimer_set_msr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t data, bool host);
/* The guest has emptied the slots of these SINTs (bits). */
void hv_stimers_retry(struct kvm_vcpu *vcpu, uint32_t sints);

/* --- syndbg.c --- */
bool hv_syndbg_enabled(struct kvm_vcpu *vcpu);
int hv_syndbg_get_msr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *data, bool host);
int hv_syndbg_set_msr(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t data, bool host);
/* The client is back from KVM_EXIT_HYPERV_SYNDBG. */
int hv_syndbg_complete(struct kvm_vcpu *vcpu);

/* --- event.c --- */
/* False: nobody waits for this connection. Any thread. */
bool hv_signal_connection(struct kvm *kvm, uint32_t conn_id);
void hv_connections_destroy(struct kvm *kvm);

#endif
