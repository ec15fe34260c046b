/*
 * The local APIC's life: creation, reset, IA32_APIC_BASE and its modes, and
 * what KVM_GET_LAPIC and KVM_SET_LAPIC exchange.
 *
 * Modes (SDM vol. 3, "x2APIC State Transitions"), E = EN, D = EXTD:
 *   disabled (E0 D0) <-> xAPIC (E1 D0) -> x2APIC (E1 D1) -> disabled
 * D without E is invalid; x2APIC -> xAPIC and disabled -> x2APIC are #GP for the guest.
 */
#include <string.h>

#include "irq/internal.h"
#include "lib/error.h"
#include "lib/own.h"

enum mode { MODE_DISABLED, MODE_INVALID, MODE_XAPIC, MODE_X2APIC };

static enum mode mode_of(uint64_t base)
{
	if (base & APICBASE_ENABLE)
		return base & APICBASE_X2APIC_ENABLE ? MODE_X2APIC : MODE_XAPIC;
	return base & APICBASE_X2APIC_ENABLE ? MODE_INVALID : MODE_DISABLED;
}

static bool is_bsp(struct kvm_vcpu *vcpu)
{
	if (lapic_ops && lapic_ops->is_bsp)
		return lapic_ops->is_bsp(vcpu);
	return vcpu->vcpu_id == 0;
}

/* SDM "Deriving Logical x2APIC ID from the Local x2APIC ID". */
static uint32_t x2apic_ldr(uint32_t id)
{
	return (id >> 4) << 16 | 1U << (id & 0xf);
}

static void set_xapic_id(struct kvm_lapic *apic)
{
	lapic_set(apic, APIC_ID, apic->vcpu->vcpu_id << 24);
}

static void set_x2apic_id(struct kvm_lapic *apic)
{
	lapic_set(apic, APIC_ID, apic->vcpu->vcpu_id);
	lapic_set(apic, APIC_LDR, x2apic_ldr(apic->vcpu->vcpu_id));
}

static void store_base(struct kvm_lapic *apic, uint64_t value)
{
	uint64_t old = lapic_base(apic);

	WRITE_ONCE(apic->base, value);
	if ((old ^ value) & (APICBASE_ENABLE | APICBASE_X2APIC_ENABLE)) {
		if (mode_of(value) == MODE_X2APIC)
			set_x2apic_id(apic);
		else if (mode_of(value) == MODE_XAPIC)
			set_xapic_id(apic);
	}
	kvm_make_scan_ioapic_request(apic->vcpu->kvm);
	if ((old ^ value) && lapic_ops && lapic_ops->apicbase_changed)
		lapic_ops->apicbase_changed(apic->vcpu);
	kvm_make_request(KVM_REQ_EVENT, apic->vcpu);
	kvm_make_request(KVM_REQ_APF_READY, apic->vcpu);
}

uint64_t kvm_get_apic_base(struct kvm_vcpu *vcpu)
{
	return vcpu->apic ? lapic_base(vcpu->apic) : 0;
}

bool kvm_apic_base_valid(struct kvm_vcpu *vcpu, uint64_t value)
{
	int maxphyaddr = lapic_ops && lapic_ops->maxphyaddr ? lapic_ops->maxphyaddr(vcpu) : 52;
	bool x2apic = lapic_ops && lapic_ops->has_x2apic && lapic_ops->has_x2apic(vcpu);
	uint64_t reserved = ~GENMASK_ULL(maxphyaddr - 1, 0) | 0x2ff;

	if (!x2apic)
		reserved |= APICBASE_X2APIC_ENABLE;
	return !(value & reserved) && mode_of(value) != MODE_INVALID;
}

int kvm_set_apic_base(struct kvm_vcpu *vcpu, uint64_t value, bool host_initiated)
{
	struct kvm_lapic *apic = vcpu->apic;
	enum mode old, new = mode_of(value);

	if (!apic)
		return 1;
	old = mode_of(lapic_base(apic));
	if (!kvm_apic_base_valid(vcpu, value))
		return 1;
	if (!host_initiated && ((old == MODE_X2APIC && new == MODE_XAPIC) ||
				(old == MODE_DISABLED && new == MODE_X2APIC)))
		return 1;
	store_base(apic, value);
	return 0;
}

void kvm_lapic_reset(struct kvm_vcpu *vcpu, bool init_event)
{
	struct kvm_lapic *apic = vcpu->apic;
	bool bsp = is_bsp(vcpu);

	if (!apic)
		return;
	if (!init_event) {
		set_xapic_id(apic);
		apic->base = 0;
		store_base(apic, APIC_DEFAULT_PHYS_BASE | APICBASE_ENABLE |
					 (bsp ? APICBASE_BSP : 0));
		__atomic_store_n(&apic->pending_events, 0, __ATOMIC_SEQ_CST);
	}
	lapic_set_lvts(apic, APIC_LVT_MASKED, false);
	/* Virtual wire mode without a BIOS: KVM_X86_QUIRK_LINT0_REENABLED. */
	if (bsp && !(lapic_ops && lapic_ops->lint0_quirk_disabled &&
		     lapic_ops->lint0_quirk_disabled(vcpu->kvm)))
		lapic_set(apic, APIC_LVT0, APIC_DM_EXTINT);
	lapic_set(apic, APIC_DFR, APIC_DFR_FLAT);
	lapic_set(apic, APIC_SPIV, 0xff);
	lapic_set(apic, APIC_TASKPRI, 0);
	if (!lapic_x2apic_mode(apic))
		lapic_set(apic, APIC_LDR, 0);
	lapic_set(apic, APIC_ESR, 0);
	lapic_set64(apic, APIC_ICR, 0);
	lapic_set(apic, APIC_ICR2, 0);
	lapic_set(apic, APIC_TDCR, 0);
	lapic_set(apic, APIC_TMICT, 0);
	for (uint32_t i = 0; i < 8; i++) {
		lapic_set(apic, APIC_IRR + 0x10 * i, 0);
		lapic_set(apic, APIC_ISR + 0x10 * i, 0);
		lapic_set(apic, APIC_TMR + 0x10 * i, 0);
	}
	lapic_forget_posted(apic);
	__atomic_store_n(&apic->irr_pending, false, __ATOMIC_SEQ_CST);
	__atomic_store_n(&apic->esr_pending, 0, __ATOMIC_SEQ_CST);
	__atomic_store_n(&apic->arb_prio, 0, __ATOMIC_RELAXED);
	lapic_timer_stop(apic);
	apic->pv_eoi_msr = 0;
	lapic_update_ppr(apic);
	lapic_set_version(apic);
	lapic_irr_changed(apic);
	lapic_isr_changed(apic);
	kvm_make_scan_ioapic_request(vcpu->kvm);
}

void kvm_apic_after_set_cpuid(struct kvm_vcpu *vcpu)
{
	if (vcpu->apic)
		lapic_set_version(vcpu->apic);
}

void kvm_apic_set_cmci(struct kvm_vcpu *vcpu, bool has_cmci)
{
	struct kvm_lapic *apic = vcpu->apic;

	if (!apic || apic->has_cmci == has_cmci)
		return;
	lapic_set(apic, APIC_LVTCMCI, has_cmci ? APIC_LVT_MASKED : 0);
	WRITE_ONCE(apic->has_cmci, has_cmci);
	lapic_set_version(apic);
}

int kvm_create_lapic(struct kvm_vcpu *vcpu)
{
	struct kvm_lapic *apic = own_calloc(1, sizeof(*apic));
	int err;

	if (!apic)
		return err_born(ENOMEM, "no memory for a local APIC");
	apic->vcpu = vcpu;
	apic->regs = own_aligned(PAGE_SIZE, PAGE_SIZE);
	apic->pid = own_aligned(_Alignof(struct pi_desc), sizeof(*apic->pid));
	if (!apic->regs || !apic->pid) {
		err = err_born(ENOMEM, "no memory for the APIC's registers");
		goto out_free;
	}
	memset(apic->regs, 0, PAGE_SIZE);
	memset(apic->pid, 0, sizeof(*apic->pid));
	lapic_set_version(apic);
	err = lapic_timer_init(apic);
	if (err)
		goto out_free;
	vcpu->apic = apic;
	kvm_lapic_reset(vcpu, false);
	return 0;
out_free:
	own_free(apic->pid);
	own_free(apic->regs);
	own_free(apic);
	return err;
}

void kvm_free_lapic(struct kvm_vcpu *vcpu)
{
	struct kvm_lapic *apic = vcpu->apic;

	if (!apic)
		return;
	lapic_timer_free(apic);
	vcpu->apic = NULL;
	own_free(apic->pid);
	own_free(apic->regs);
	own_free(apic);
}

static bool x2apic_format(struct kvm *kvm)
{
	return lapic_ops && lapic_ops->x2apic_format && lapic_ops->x2apic_format(kvm);
}

static uint32_t image_get(const struct kvm_lapic_state *s, uint32_t offset)
{
	uint32_t v;

	memcpy(&v, s->regs + offset, sizeof(v));
	return v;
}

static void image_set(struct kvm_lapic_state *s, uint32_t offset, uint32_t v)
{
	memcpy(s->regs + offset, &v, sizeof(v));
}

int kvm_apic_get_state(struct kvm_vcpu *vcpu, struct kvm_lapic_state *s)
{
	struct kvm_lapic *apic = vcpu->apic;

	if (!apic)
		return err_born(EINVAL, "vCPU %u has no in-kernel APIC", vcpu->vcpu_id);
	(void)lapic_sync_pir(apic);
	memcpy(s->regs, apic->regs, sizeof(s->regs));
	image_set(s, APIC_TMCCT, lapic_timer_current(apic));
	/* ICR is one register in x2APIC mode, and has the xAPIC's two places in the image. */
	if (lapic_x2apic_mode(apic)) {
		image_set(s, APIC_ICR2, image_get(s, APIC_ICR + 4));
		image_set(s, APIC_ICR + 4, 0);
	}
	/* Without KVM_X2APIC_API_USE_32BIT_IDS the id has the xAPIC's place. */
	if (lapic_x2apic_mode(apic) && !x2apic_format(vcpu->kvm))
		image_set(s, APIC_ID, image_get(s, APIC_ID) << 24);
	return 0;
}

static int fix_x2apic_image(struct kvm_vcpu *vcpu, struct kvm_lapic_state *s)
{
	uint32_t id = image_get(s, APIC_ID);

	if (!x2apic_format(vcpu->kvm))
		id >>= 24;
	else if (id != vcpu->vcpu_id)
		return err_born(EINVAL, "x2APIC id %u for vCPU %u", id, vcpu->vcpu_id);
	image_set(s, APIC_ID, id);
	image_set(s, APIC_LDR, x2apic_ldr(id));
	image_set(s, APIC_ICR + 4, image_get(s, APIC_ICR2));
	image_set(s, APIC_ICR2, 0);
	return 0;
}

int kvm_apic_set_state(struct kvm_vcpu *vcpu, const struct kvm_lapic_state *s)
{
	struct kvm_lapic *apic = vcpu->apic;
	struct kvm_lapic_state image = *s;
	int err = 0;

	if (!apic)
		return err_born(EINVAL, "vCPU %u has no in-kernel APIC", vcpu->vcpu_id);
	if (lapic_x2apic_mode(apic))
		err = fix_x2apic_image(vcpu, &image);
	if (err)
		return err;
	lapic_forget_posted(apic);
	memcpy(apic->regs, image.regs, sizeof(image.regs));
	lapic_id_written(apic, lapic_x2apic_mode(apic));
	lapic_set_version(apic);
	lapic_check_id(apic);
	lapic_timer_restore(apic);
	lapic_update_ppr(apic);
	lapic_state_replaced(apic);
	kvm_make_request(KVM_REQ_EVENT, vcpu);
	return 0;
}
