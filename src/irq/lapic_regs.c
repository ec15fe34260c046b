/*
 * The local APIC's registers as software sees them: the xAPIC's page and the
 * x2APIC's MSRs. (SDM vol. 3, "The Local APIC Block Diagram", "x2APIC Register
 * Address Space".)
 */
#include <string.h>

#include "irq/internal.h"
#include "lib/error.h"
#include "trace/trace.h"

#define X2APIC_MSR_BASE 0x800
#define SPIV_MASK (APIC_VECTOR_MASK | APIC_SPIV_APIC_ENABLED | APIC_SPIV_FOCUS_DISABLED)

struct reg_info {
	uint16_t offset;
	char mode; /* 'b' both, 'x' xAPIC only, '2' x2APIC only */
	char access[3];
};

static const struct reg_info registers[] = {
#define REG_INFO(name, off, m, a) { .offset = (off), .mode = (m), .access = a },
	APIC_REGISTERS(REG_INFO)
#undef REG_INFO
};

static const struct reg_info *find_register(struct kvm_lapic *apic, uint32_t offset)
{
	/* ISR, TMR and IRR are eight registers each. */
	if (offset >= APIC_ISR && offset < APIC_ESR)
		offset = APIC_ISR;
	for (size_t i = 0; i < ARRAY_SIZE(registers); i++) {
		const struct reg_info *r = &registers[i];

		if (offset == APIC_LVTCMCI && !READ_ONCE(apic->has_cmci))
			return NULL;
		if (r->offset == offset)
			return r->mode == 'b' || (r->mode == '2') == lapic_x2apic_mode(apic) ? r
											     : NULL;
	}
	return NULL;
}

static uint32_t version(struct kvm_lapic *apic)
{
	bool x2apic = lapic_ops && lapic_ops->has_x2apic && lapic_ops->has_x2apic(apic->vcpu);

	/* The in-process IOAPIC has no EOI register to direct an EOI to. */
	return APIC_VERSION_VALUE | (APIC_NR_LVT + READ_ONCE(apic->has_cmci) - 1U) << 16 |
	       (x2apic && !apic->vcpu->kvm->vioapic ? APIC_LVR_DIRECTED_EOI : 0);
}

void lapic_set_version(struct kvm_lapic *apic)
{
	lapic_set(apic, APIC_LVR, version(apic));
}

void lapic_set_lvts(struct kvm_lapic *apic, uint32_t bits, bool keep)
{
	for (uint32_t lvt = APIC_LVTT; lvt <= APIC_LVTERR; lvt += 0x10)
		lapic_set(apic, lvt, bits | (keep ? lapic_get(apic, lvt) : 0));
	if (READ_ONCE(apic->has_cmci))
		lapic_set(apic, APIC_LVTCMCI, bits | (keep ? lapic_get(apic, APIC_LVTCMCI) : 0));
}

int lapic_reg_read(struct kvm_lapic *apic, uint32_t offset, uint32_t *val)
{
	const struct reg_info *r = find_register(apic, offset);

	*val = 0;
	if (!r || r->access[0] != 'r')
		return 1;
	switch (offset) {
	case APIC_ID:
		*val = lapic_get(apic, offset);
		break;
	case APIC_LVR:
		*val = version(apic);
		break;
	case APIC_ARBPRI:
		break;
	case APIC_PROCPRI:
		lapic_update_ppr(apic);
		*val = lapic_get(apic, offset);
		break;
	case APIC_TMCCT:
		*val = lapic_timer_current(apic);
		break;
	default:
		*val = lapic_get(apic, offset);
	}
	TRACE(kvm, kvm_apic, 0, offset, *val);
	return 0;
}

static void write_spiv(struct kvm_lapic *apic, uint32_t val)
{
	uint32_t mask = SPIV_MASK;

	if (version(apic) & APIC_LVR_DIRECTED_EOI)
		mask |= APIC_SPIV_DIRECTED_EOI;
	lapic_set(apic, APIC_SPIV, val & mask);
	kvm_make_scan_ioapic_request(apic->vcpu->kvm);
	if (val & APIC_SPIV_APIC_ENABLED) {
		/* asynchronous page faults that are ready had no way in */
		kvm_make_request(KVM_REQ_APF_READY, apic->vcpu);
		return;
	}
	/* SDM "Local APIC State After It Has Been Software Disabled": LVTs masked. */
	lapic_set_lvts(apic, APIC_LVT_MASKED, true);
}

uint32_t lapic_lvt_mask(struct kvm_lapic *apic, uint32_t lvt)
{
	switch (lvt) {
	case APIC_LVTT:
		if (lapic_ops && lapic_ops->has_tsc_deadline &&
		    !lapic_ops->has_tsc_deadline(apic->vcpu))
			return APIC_LVTT_MASK | APIC_LVT_TIMER_PERIODIC;
		return APIC_LVTT_MASK | APIC_LVT_TIMER_MODE_MASK;
	case APIC_LVTERR:
		return APIC_LVTT_MASK;
	case APIC_LVT0:
	case APIC_LVT1:
		return APIC_LVT_LINT_MASK;
	default:
		return APIC_LVT_MODE_MASK;
	}
}

static void write_lvt(struct kvm_lapic *apic, uint32_t lvt, uint32_t val)
{
	if (!lapic_sw_enabled(apic))
		val |= APIC_LVT_MASKED;
	lapic_set(apic, lvt, val & lapic_lvt_mask(apic, lvt));
	if (lvt == APIC_LVTT)
		lapic_timer_set_mode(apic);
	/* The PIC's INT pin may count from now on. */
	if (lvt == APIC_LVT0)
		kvm_make_request(KVM_REQ_EVENT, apic->vcpu);
}

static int write_esr(struct kvm_lapic *apic, uint32_t val)
{
	if (lapic_x2apic_mode(apic) && val)
		return 1;
	lapic_set(apic, APIC_ESR, __atomic_exchange_n(&apic->esr_pending, 0, __ATOMIC_SEQ_CST));
	return 0;
}

void lapic_check_id(struct kvm_lapic *apic)
{
	if (!lapic_hw_enabled(apic) || lapic_x2apic_mode(apic) || !lapic_ops || !lapic_ops->xapic_id_modified)
		return;
	if (lapic_get(apic, APIC_ID) >> 24 != (uint8_t)apic->vcpu->vcpu_id)
		lapic_ops->xapic_id_modified(apic->vcpu);
}

/* Registers of which a write is just a masked store. */
static int write_plain(struct kvm_lapic *apic, uint32_t offset, uint32_t val)
{
	switch (offset) {
	case APIC_ID:
	case APIC_LDR:
		/* Fixed in x2APIC mode. */
		if (lapic_x2apic_mode(apic))
			return 1;
		val &= 0xff000000U;
		break;
	case APIC_DFR:
		val |= 0x0fffffffU;
		break;
	case APIC_ICR2:
		val &= 0xff000000U;
		break;
	default:
		return 1;
	}
	lapic_set(apic, offset, val);
	if (offset == APIC_ID) {
		lapic_id_written(apic, false);
		lapic_check_id(apic);
	}
	if (offset != APIC_ICR2) /* it may be another's vector that ends here from now on */
		kvm_make_scan_ioapic_request(apic->vcpu->kvm);
	return 0;
}

int lapic_reg_write(struct kvm_lapic *apic, uint32_t offset, uint32_t val)
{
	const struct reg_info *r = find_register(apic, offset);

	if (!r || r->access[1] != 'w')
		return 1;
	TRACE(kvm, kvm_apic, 1, offset, val);
	switch (offset) {
	case APIC_TASKPRI:
		lapic_set_tpr(apic, val);
		return 0;
	case APIC_EOI:
		if (lapic_x2apic_mode(apic) && val)
			return 1;
		lapic_eoi(apic);
		return 0;
	case APIC_SPIV:
		write_spiv(apic, val);
		return 0;
	case APIC_ESR:
		return write_esr(apic, val);
	case APIC_ICR:
		val &= ~APIC_ICR_BUSY;
		lapic_set(apic, APIC_ICR, val);
		lapic_send_ipi(apic, val, lapic_get(apic, lapic_x2apic_mode(apic) ? APIC_ICR + 4 : APIC_ICR2));
		return 0;
	case APIC_LVTCMCI:
	case APIC_LVTT:
	case APIC_LVTTHMR:
	case APIC_LVTPC:
	case APIC_LVT0:
	case APIC_LVT1:
	case APIC_LVTERR:
		write_lvt(apic, offset, val);
		return 0;
	case APIC_TMICT:
		lapic_timer_set_initial(apic, val);
		return 0;
	case APIC_TDCR:
		lapic_set(apic, APIC_TDCR, val & 0xb);
		lapic_timer_set_divide(apic);
		return 0;
	case APIC_SELF_IPI:
		if (val & ~APIC_VECTOR_MASK)
			return 1;
		lapic_send_ipi(apic, APIC_DEST_SELF | val, 0);
		return 0;
	default:
		return write_plain(apic, offset, val);
	}
}

/* --- the xAPIC's page --- */

static bool in_page(struct kvm_lapic *apic, gpa_t addr)
{
	gpa_t base = lapic_base(apic) & ~(gpa_t)0xfff;

	return addr >= base && addr < base + PAGE_SIZE;
}

static bool page_is_hole(struct kvm_lapic *apic)
{
	return !lapic_hw_enabled(apic) || lapic_x2apic_mode(apic);
}

/* KVM_X86_QUIRK_LAPIC_MMIO_HOLE: the page of a disabled APIC answers all ones. */
static bool hole_is_ours(struct kvm_lapic *apic)
{
	return !(lapic_ops && lapic_ops->mmio_hole_quirk_disabled &&
		 lapic_ops->mmio_hole_quirk_disabled(apic->vcpu->kvm));
}

int kvm_lapic_mmio_read(struct kvm_vcpu *vcpu, gpa_t addr, int len, void *val)
{
	struct kvm_lapic *apic = vcpu->apic;
	uint32_t offset, reg = 0, shift;

	if (!apic || !in_page(apic, addr))
		return -EOPNOTSUPP;
	if (page_is_hole(apic)) {
		if (!hole_is_ours(apic))
			return -EOPNOTSUPP;
		memset(val, 0xff, (size_t)len);
		return 0;
	}
	offset = (uint32_t)(addr & 0xfff);
	shift = offset & 0xf;
	memset(val, 0, (size_t)len);
	/* Within one 32-bit register; what lies between two is reserved. */
	if (shift + (uint32_t)len > 4)
		return 0;
	if (!find_register(apic, offset & 0xff0))
		lapic_error(apic, APIC_ESR_ILLEGAL_REGISTER);
	else if (!lapic_reg_read(apic, offset & 0xff0, &reg))
		memcpy(val, (char *)&reg + shift, (size_t)len);
	return 0;
}

int kvm_lapic_mmio_write(struct kvm_vcpu *vcpu, gpa_t addr, int len, const void *val)
{
	struct kvm_lapic *apic = vcpu->apic;
	uint32_t reg;

	if (!apic || !in_page(apic, addr))
		return -EOPNOTSUPP;
	if (page_is_hole(apic))
		return hole_is_ours(apic) ? 0 : -EOPNOTSUPP;
	/* SDM: 32-bit accesses at 128-bit boundaries; anything else is undefined. */
	if (len != 4 || (addr & 0xf))
		return 0;
	memcpy(&reg, val, 4);
	/* A write to a read-only register is no error, it has no effect. */
	if (!find_register(apic, (uint32_t)(addr & 0xff0)))
		lapic_error(apic, APIC_ESR_ILLEGAL_REGISTER);
	else
		(void)lapic_reg_write(apic, (uint32_t)(addr & 0xff0), reg);
	return 0;
}

/* --- as MSRs: the x2APIC's, and Hyper-V's for some of them --- */

static int msr_read(struct kvm_lapic *apic, uint32_t offset, uint64_t *data)
{
	uint32_t low;

	if (lapic_reg_read(apic, offset, &low))
		return 1;
	*data = low;
	if (offset == APIC_ICR)
		*data |= (uint64_t)lapic_get(apic, lapic_x2apic_mode(apic) ? APIC_ICR + 4 : APIC_ICR2) << 32;
	return 0;
}

static int msr_write(struct kvm_lapic *apic, uint32_t offset, uint64_t data)
{
	uint32_t dest = (uint32_t)(data >> 32);

	if (offset == APIC_ICR) {
		/* One 64-bit register: the destination is 32 bits wide, an xAPIC has the upper 8 of them. */
		if (lapic_x2apic_mode(apic))
			lapic_set(apic, APIC_ICR + 4, dest);
		else
			lapic_set(apic, APIC_ICR2, dest & 0xff000000U);
		return lapic_reg_write(apic, APIC_ICR, (uint32_t)data);
	}
	if (data >> 32)
		return 1;
	return lapic_reg_write(apic, offset, (uint32_t)data);
}

int kvm_x2apic_msr_read(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t *data)
{
	struct kvm_lapic *apic = vcpu->apic;

	if (!apic || !lapic_x2apic_mode(apic))
		return 1;
	return msr_read(apic, (msr - X2APIC_MSR_BASE) << 4, data);
}

int kvm_x2apic_msr_write(struct kvm_vcpu *vcpu, uint32_t msr, uint64_t data)
{
	struct kvm_lapic *apic = vcpu->apic;

	if (!apic || !lapic_x2apic_mode(apic))
		return 1;
	return msr_write(apic, (msr - X2APIC_MSR_BASE) << 4, data);
}

int kvm_hv_vapic_msr_read(struct kvm_vcpu *vcpu, uint32_t reg, uint64_t *data)
{
	return vcpu->apic ? msr_read(vcpu->apic, reg, data) : 1;
}

int kvm_hv_vapic_msr_write(struct kvm_vcpu *vcpu, uint32_t reg, uint64_t data)
{
	return vcpu->apic ? msr_write(vcpu->apic, reg, data) : 1;
}
