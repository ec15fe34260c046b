/*
 * The counters' lists as tables, and as the head of a stats file.
 */
#include "trace/stats.h"

#include <linux/kvm.h>
#include <string.h>

#define FLAGS_COUNTER (KVM_STATS_TYPE_CUMULATIVE | KVM_STATS_UNIT_NONE | KVM_STATS_BASE_POW10)
#define FLAGS_ICOUNTER (KVM_STATS_TYPE_INSTANT | KVM_STATS_UNIT_NONE | KVM_STATS_BASE_POW10)
#define FLAGS_NSEC (KVM_STATS_TYPE_CUMULATIVE | KVM_STATS_UNIT_SECONDS | KVM_STATS_BASE_POW10)
#define FLAGS_IBOOLEAN (KVM_STATS_TYPE_INSTANT | KVM_STATS_UNIT_BOOLEAN | KVM_STATS_BASE_POW10)
#define FLAGS_LOGHIST (KVM_STATS_TYPE_LOG_HIST | KVM_STATS_UNIT_SECONDS | KVM_STATS_BASE_POW10)
#define EXPONENT_COUNTER 0
#define EXPONENT_ICOUNTER 0
#define EXPONENT_NSEC (-9)
#define EXPONENT_IBOOLEAN 0
#define EXPONENT_LOGHIST (-9)

#define ROW(scope, stat, kind, n)                                            \
	{ .name = #stat, .flags = FLAGS_##kind, .exponent = EXPONENT_##kind, \
	  .items = (n), .offset = offsetof(struct scope, stat) },
#define VM_ROW(stat, kind, n) ROW(kvm_vm_stat, stat, kind, n)
#define VCPU_ROW(stat, kind, n) ROW(kvm_vcpu_stat, stat, kind, n)

static const struct kvm_stat_row vm_rows[] = { KVM_VM_STATS(VM_ROW) };
static const struct kvm_stat_row vcpu_rows[] = { KVM_VCPU_STATS(VCPU_ROW) };

#define TABLE(rows, scope) { rows, ARRAY_SIZE(rows), sizeof(struct scope) }
const struct kvm_stat_table kvm_vm_stat_table = TABLE(vm_rows, kvm_vm_stat);
const struct kvm_stat_table kvm_vcpu_stat_table = TABLE(vcpu_rows, kvm_vcpu_stat);

#define DESC_SIZE (sizeof(struct kvm_stats_desc) + KVM_STATS_NAME_SIZE)

static void put(void *buf, size_t size, size_t at, const void *data, size_t n)
{
	if (at + n <= size)
		memcpy((char *)buf + at, data, n);
}

size_t kvm_stats_head(const struct kvm_stat_table *t, const char *id, size_t data_offset, void *buf,
		      size_t size)
{
	struct kvm_stats_header h = {
		.name_size = KVM_STATS_NAME_SIZE,
		.num_desc = t->nr,
		.id_offset = sizeof(h),
		.desc_offset = sizeof(h) + KVM_STATS_NAME_SIZE,
		.data_offset = (uint32_t)data_offset,
	};
	char name[KVM_STATS_NAME_SIZE] = { 0 };

	put(buf, size, 0, &h, sizeof(h));
	strncpy(name, id, sizeof(name) - 1);
	put(buf, size, h.id_offset, name, sizeof(name));
	for (unsigned i = 0; i < t->nr; i++) {
		const struct kvm_stat_row *r = &t->rows[i];
		struct kvm_stats_desc d = { .flags = r->flags, .exponent = r->exponent,
					    .size = r->items, .offset = r->offset };
		size_t at = h.desc_offset + i * DESC_SIZE;

		memset(name, 0, sizeof(name));
		strncpy(name, r->name, sizeof(name) - 1);
		put(buf, size, at, &d, sizeof(d));
		put(buf, size, at + sizeof(d), name, sizeof(name));
	}
	return h.desc_offset + t->nr * DESC_SIZE;
}
