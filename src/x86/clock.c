/*
 * Time: the guest's TSC, kvmclock and the wall clock.
 *
 * The guest's TSC is host TSC * ratio + offset. kvmclock counts nanoseconds
 * and is computed from one host moment per VM (master_tsc, master_boot_ns):
 * every page and KVM_GET_CLOCK use the same moment, so no two vCPUs and no
 * client ever see time go backwards.
 *
 * Invariants
 * 1. kvm_clock_ns() = master_boot_ns + ns(host TSC - master_tsc) +
 *    kvmclock_offset, computed exactly as the guest computes it.
 * 2. A page is published by the version protocol: odd, data, even.
 * 3. The "TSC stable" flag is set only while the vCPU's TSC equals vCPU 0's.
 *
 * Locks: clock_lock guards the VM's clock; the vCPU's TSC fields belong to its
 * owner thread.
 */
#include <string.h>

#include "host/timer.h"
#include "lib/error.h"
#include "x86/pvclock.h"
#include "x86/x86.h"

#define NSEC_PER_SEC 1000000000ULL
#define TSC_RATIO_FRAC_BITS 48
#define TSC_RATIO_ONE (1ULL << TSC_RATIO_FRAC_BITS)
#define TSC_TOLERANCE_PPM 250
#define MAX_GUEST_TSC_KHZ 0x7fffffffU
#define KVM_CLOCK_VALID_FLAGS (KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC)
#define KVM_MSR_ENABLED 1ULL

static uint64_t mul_shift(uint64_t a, uint64_t b, int shift)
{
	return (uint64_t)((unsigned __int128)a * b >> shift);
}

/* --- scaling --- */

/* mul and shift of the pvclock formula, for a TSC of so many kHz. */
static void pvclock_scale(uint64_t khz, uint32_t *mul, int8_t *shift)
{
	uint64_t hz = khz ? khz * 1000 : 1000, ns = NSEC_PER_SEC; /* scaled, the least is rounded to 0 */
	int s = 0;

	/* Bring hz to (ns/2, ns]: then mul is in [2^31, 2^32) after one halving. */
	while (hz > ns * 2) {
		hz >>= 1;
		s--;
	}
	while (hz <= ns) {
		hz <<= 1;
		s++;
	}
	*mul = (uint32_t)(((unsigned __int128)ns << 32) / hz);
	*shift = (int8_t)s;
}

static uint64_t pvclock_ns(uint64_t tsc_delta, uint32_t mul, int8_t shift)
{
	tsc_delta = shift < 0 ? tsc_delta >> -shift : tsc_delta << shift;
	return mul_shift(tsc_delta, mul, 32);
}

bool kvm_has_tsc_control(void)
{
	return vmx_capability_msr(MSR_IA32_VMX_PROCBASED_CTLS2) >> 32 & SECONDARY_EXEC_TSC_SCALING;
}

uint64_t kvm_scale_tsc(struct kvm_vcpu *vcpu, uint64_t host)
{
	if (likely(vcpu->arch->tsc_scaling_ratio == TSC_RATIO_ONE))
		return host;
	return mul_shift(host, vcpu->arch->tsc_scaling_ratio, TSC_RATIO_FRAC_BITS);
}

uint64_t kvm_read_guest_tsc(struct kvm_vcpu *vcpu)
{
	return kvm_scale_tsc(vcpu, host_tsc()) + vcpu->arch->tsc_offset;
}

static void set_offset(struct kvm_vcpu *vcpu, uint64_t offset)
{
	vcpu->arch->tsc_offset = offset;
	vmx_write_tsc_offset(vcpu, offset);
	kvm_make_request(KVM_REQ_CLOCK_UPDATE, vcpu);
}

/* 0, or -EINVAL for a rate that needs scaling the processor does not have. */
int kvm_set_tsc_khz(struct kvm_vcpu *vcpu, uint32_t khz)
{
	uint64_t host = host_tsc_khz(), want = khz ? khz : vcpu->kvm->arch->default_tsc_khz;
	uint64_t tolerance = host * TSC_TOLERANCE_PPM / 1000000, ratio = TSC_RATIO_ONE;

	if (!host)
		return err_born(EINVAL, "the host's TSC frequency is unknown");
	if (want + tolerance < host || want > host + tolerance) {
		if (!kvm_has_tsc_control())
			return err_born(EINVAL, "no TSC scaling, %lu kHz is not %lu kHz",
					(unsigned long)want, (unsigned long)host);
		ratio = (uint64_t)(((unsigned __int128)want << TSC_RATIO_FRAC_BITS) / host);
		if (ratio == 0)
			return err_born(EINVAL, "TSC of %lu kHz", (unsigned long)want);
	}
	vcpu->arch->virtual_tsc_khz = want;
	vcpu->arch->tsc_scaling_ratio = ratio;
	if (kvm_has_tsc_control())
		vmx_write_tsc_multiplier(vcpu, ratio);
	kvm_make_request(KVM_REQ_CLOCK_UPDATE, vcpu);
	return 0;
}

/* --- writes of the TSC --- */

void kvm_adjust_guest_tsc(struct kvm_vcpu *vcpu, int64_t delta)
{
	set_offset(vcpu, vcpu->arch->tsc_offset + (uint64_t)delta);
}

/* WRMSR of IA32_TSC by the guest moves TSC_ADJUST along. */
void kvm_write_guest_tsc(struct kvm_vcpu *vcpu, uint64_t tsc)
{
	int64_t delta = (int64_t)(tsc - kvm_read_guest_tsc(vcpu));

	kvm_adjust_guest_tsc(vcpu, delta);
	vcpu->arch->tsc_adjust += (uint64_t)delta;
}

/* What later writes are compared with. clock_lock held. */
static void note_tsc_write(struct kvm_vcpu *vcpu, uint64_t host, uint64_t now, uint64_t offset)
{
	struct kvm_arch *ka = vcpu->kvm->arch;

	ka->last_tsc_ns = now;
	ka->last_tsc_write = kvm_scale_tsc(vcpu, host) + offset;
	ka->last_tsc_khz = vcpu->arch->virtual_tsc_khz;
	ka->last_tsc_offset = offset;
}

/*
 * A write by the client. One of zero, or one within a second of what another
 * vCPU's TSC has become since it was written, means "the same TSC".
 */
void kvm_synchronize_tsc(struct kvm_vcpu *vcpu, uint64_t tsc)
{
	struct kvm_arch *ka = vcpu->kvm->arch;
	uint64_t khz = vcpu->arch->virtual_tsc_khz, hz = khz * 1000, host, now, offset;

	pthread_mutex_lock(&ka->clock_lock);
	host = host_tsc();
	now = host_boottime_ns();
	offset = tsc - kvm_scale_tsc(vcpu, host);
	if (khz && khz == ka->last_tsc_khz) {
		uint64_t elapsed = now - ka->last_tsc_ns;
		uint64_t expected = ka->last_tsc_write +
				    (uint64_t)((unsigned __int128)elapsed * khz / 1000000);

		if (tsc == 0 || (tsc < expected + hz && tsc + hz > expected))
			offset = ka->last_tsc_offset;
	}
	note_tsc_write(vcpu, host, now, offset);
	pthread_mutex_unlock(&ka->clock_lock);
	set_offset(vcpu, offset);
}

void kvm_set_tsc_offset(struct kvm_vcpu *vcpu, uint64_t offset)
{
	struct kvm_arch *ka = vcpu->kvm->arch;

	pthread_mutex_lock(&ka->clock_lock);
	note_tsc_write(vcpu, host_tsc(), host_boottime_ns(), offset);
	pthread_mutex_unlock(&ka->clock_lock);
	set_offset(vcpu, offset);
}

int kvm_vm_set_tsc_khz(struct kvm *kvm, uint32_t khz)
{
	if (khz >= MAX_GUEST_TSC_KHZ)
		return err_born(EINVAL, "TSC of %u kHz", khz);
	kvm->arch->default_tsc_khz = khz ? khz : host_tsc_khz();
	return 0;
}

/* --- kvmclock --- */

void kvm_clock_init_vm(struct kvm *kvm)
{
	struct kvm_arch *ka = kvm->arch;

	pthread_mutex_init(&ka->clock_lock, NULL);
	ka->default_tsc_khz = host_tsc_khz();
	ka->master_tsc = host_tsc();
	ka->master_boot_ns = host_boottime_ns();
	ka->kvmclock_offset = -(int64_t)ka->master_boot_ns; /* guest time starts at 0 */
	ka->platform_info_readable = true;
}

/* clock_lock held. */
static uint64_t clock_ns_at(struct kvm_arch *ka, uint64_t host)
{
	uint32_t mul;
	int8_t shift;

	if (!host_tsc_khz())
		return host_boottime_ns() + (uint64_t)ka->kvmclock_offset;
	pvclock_scale(host_tsc_khz(), &mul, &shift);
	return ka->master_boot_ns + pvclock_ns(host - ka->master_tsc, mul, shift) +
	       (uint64_t)ka->kvmclock_offset;
}

uint64_t kvm_clock_ns(struct kvm *kvm)
{
	uint64_t ns;

	pthread_mutex_lock(&kvm->arch->clock_lock);
	ns = clock_ns_at(kvm->arch, host_tsc());
	pthread_mutex_unlock(&kvm->arch->clock_lock);
	return ns;
}

static bool tsc_matches_vcpu0(struct kvm_vcpu *vcpu)
{
	struct kvm_vcpu *first = kvm_get_vcpu(vcpu->kvm, 0);

	return !first || first == vcpu ||
	       (READ_ONCE(first->arch->tsc_offset) == vcpu->arch->tsc_offset &&
		READ_ONCE(first->arch->tsc_scaling_ratio) == vcpu->arch->tsc_scaling_ratio);
}

/* What the vCPU's clock page holds now, but for version and GUEST_STOPPED. */
static struct pvclock_vcpu_time_info time_info(struct kvm_vcpu *vcpu)
{
	struct kvm_arch *ka = vcpu->kvm->arch;
	struct pvclock_vcpu_time_info page = { 0 };

	pthread_mutex_lock(&ka->clock_lock);
	page.tsc_timestamp = kvm_scale_tsc(vcpu, ka->master_tsc) + vcpu->arch->tsc_offset;
	page.system_time = ka->master_boot_ns + (uint64_t)ka->kvmclock_offset;
	pthread_mutex_unlock(&ka->clock_lock);
	/* The rate the guest's TSC really has, not the one asked for within the tolerance. */
	pvclock_scale(kvm_scale_tsc(vcpu, host_tsc_khz()), &page.tsc_to_system_mul,
		      &page.tsc_shift);
	page.flags = tsc_matches_vcpu0(vcpu) ? PVCLOCK_TSC_STABLE_BIT : 0;
	return page;
}

static void update_pvclock_page(struct kvm_vcpu *vcpu, struct pvclock_vcpu_time_info *page)
{
	struct kvm_vcpu_arch *a = vcpu->arch;
	gpa_t gpa = a->pv_time_msr & ~KVM_MSR_ENABLED;
	uint32_t version;

	/* A page the guest has taken away is not an error of the vCPU's. */
	if (kvm_vcpu_read_guest(vcpu, gpa, &version, sizeof(version)))
		return;
	if (a->pvclock_set_guest_stopped) {
		page->flags |= PVCLOCK_GUEST_STOPPED;
		a->pvclock_set_guest_stopped = false;
	}
	page->version = (version & ~1u) + 1; /* odd: the guest waits */
	if (kvm_vcpu_write_guest(vcpu, gpa, &page->version, sizeof(page->version)))
		return;
	if (kvm_vcpu_write_guest(vcpu, gpa + sizeof(version), (char *)page + sizeof(version),
				 sizeof(*page) - sizeof(version)))
		return;
	__atomic_thread_fence(__ATOMIC_RELEASE);
	page->version++;
	a->pv_version = page->version;
	if (kvm_vcpu_write_guest(vcpu, gpa, &page->version, sizeof(page->version)))
		return;
}

void kvm_guest_time_update(struct kvm_vcpu *vcpu)
{
	struct pvclock_vcpu_time_info page;

	if (!host_tsc_khz())
		return;
	page = time_info(vcpu);
	if (tsc_matches_vcpu0(vcpu))
		kvm_hyperv_ops->update_tsc_page(vcpu, &page);
	if (vcpu->arch->pv_time_msr & KVM_MSR_ENABLED)
		update_pvclock_page(vcpu, &page);
}

/* The host's wall-clock time at which the guest's kvmclock was zero. */
static void write_wall_clock(struct kvm_vcpu *vcpu, gpa_t gpa)
{
	uint64_t boot = host_realtime_ns() - kvm_clock_ns(vcpu->kvm);
	struct pvclock_wall_clock wc = {
		.sec = (uint32_t)(boot / NSEC_PER_SEC),
		.nsec = (uint32_t)(boot % NSEC_PER_SEC),
	};
	uint32_t version;

	if (!gpa || kvm_vcpu_read_guest(vcpu, gpa, &version, sizeof(version)))
		return;
	wc.version = (version & ~1u) + 1;
	if (kvm_vcpu_write_guest(vcpu, gpa, &wc, sizeof(wc)))
		return;
	wc.version++;
	if (kvm_vcpu_write_guest(vcpu, gpa, &wc.version, sizeof(wc.version)))
		return;
}

int kvm_clock_set_msr(struct kvm_vcpu *vcpu, uint32_t index, uint64_t data)
{
	switch (index) {
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_WALL_CLOCK_NEW:
		vcpu->kvm->arch->wall_clock_msr = data;
		write_wall_clock(vcpu, data);
		return 0;
	case MSR_KVM_SYSTEM_TIME:
	case MSR_KVM_SYSTEM_TIME_NEW:
		vcpu->arch->pv_time_msr = data;
		kvm_make_request(KVM_REQ_CLOCK_UPDATE, vcpu);
		return 0;
	default:
		return KVM_MSR_UNKNOWN;
	}
}

/* --- KVM_GET_CLOCK, KVM_SET_CLOCK, KVM_KVMCLOCK_CTRL --- */

int kvm_vm_ioctl_get_clock(struct kvm *kvm, struct kvm_clock_data *c)
{
	memset(c, 0, sizeof(*c));
	pthread_mutex_lock(&kvm->arch->clock_lock);
	c->host_tsc = host_tsc();
	c->realtime = host_realtime_ns();
	c->clock = clock_ns_at(kvm->arch, c->host_tsc);
	c->flags = KVM_CLOCK_VALID_FLAGS;
	pthread_mutex_unlock(&kvm->arch->clock_lock);
	return 0;
}

int kvm_vm_ioctl_set_clock(struct kvm *kvm, const struct kvm_clock_data *c)
{
	struct kvm_arch *ka = kvm->arch;
	uint64_t clock = c->clock, now;
	struct kvm_vcpu *vcpu;
	uint32_t i;

	if (c->flags & ~KVM_CLOCK_VALID_FLAGS)
		return err_born(EINVAL, "clock flags %#x", c->flags);
	pthread_mutex_lock(&ka->clock_lock);
	if (c->flags & KVM_CLOCK_REALTIME) {
		/* The time since the client read its clock; never back. */
		now = host_realtime_ns();
		if (now > c->realtime)
			clock += now - c->realtime;
	}
	ka->master_tsc = host_tsc();
	ka->master_boot_ns = host_boottime_ns();
	ka->kvmclock_offset = (int64_t)(clock - ka->master_boot_ns);
	pthread_mutex_unlock(&ka->clock_lock);
	kvm_for_each_vcpu(i, vcpu, kvm) {
		kvm_make_request(KVM_REQ_CLOCK_UPDATE, vcpu);
		kvm_vcpu_kick(vcpu);
	}
	return 0;
}

int kvm_vcpu_ioctl_kvmclock_ctrl(struct kvm_vcpu *vcpu)
{
	if (!(vcpu->arch->pv_time_msr & KVM_MSR_ENABLED))
		return err_born(EINVAL, "the guest has no kvmclock");
	vcpu->arch->pvclock_set_guest_stopped = true;
	kvm_make_request(KVM_REQ_CLOCK_UPDATE, vcpu);
	return 0;
}
