/*
 * The checks of VM entry in words: one wording for a failed entry of an L1's, for the
 * client's own and for those who look (userkvm vmcs check).
 */
#include "sdm/vmentry_checks.h"

#include <stdio.h>

#define FIRST_CAP 0x480U
#define RFLAGS_ZERO (~GENMASK_ULL(21, 0) | BIT_ULL(15) | BIT_ULL(5) | BIT_ULL(3))
#define RFLAGS_ONE BIT_ULL(1)

const struct vmentry_row vmentry_rows[NR_VMENTRY_CHECKS] = {
#define ROW(id, grp, fld, how, operand, text) \
	[VMENTRY_CHECK_##id] = { #id, text, VMENTRY_##grp, fld, VMENTRY_PASSES_##how, operand },
	VMENTRY_CHECKS(ROW)
#undef ROW
};

const char *vmentry_section(enum vmentry_check check)
{
	switch (vmentry_rows[check].group) {
	case VMENTRY_CONTROLS: return "Checks on VMX Controls";
	case VMENTRY_HOST: return "Checks on Host-State Area";
	default: return "Checks on Guest State";
	}
}

static uint64_t within(uint64_t v, int width, uint64_t align)
{
	return v & (BIT_ULL(width) - 1) & ~(align - 1);
}

bool vmentry_passing_value(enum vmentry_check check, uint64_t v, const struct vmentry_limits *l, uint64_t *out)
{
	const struct vmentry_row *row = &vmentry_rows[check];
	uint64_t cap;

	switch (row->passes) {
	case VMENTRY_PASSES_WORDS: return false;
	case VMENTRY_PASSES_VALUE: *out = row->arg; break;
	case VMENTRY_PASSES_SET: *out = v | row->arg; break;
	case VMENTRY_PASSES_CLEAR: *out = v & ~row->arg; break;
	case VMENTRY_PASSES_FIELD: *out = (v & ~(row->arg >> 32)) | (uint32_t)row->arg; break;
	case VMENTRY_PASSES_CAP:
		cap = l->cap[row->arg - FIRST_CAP];
		*out = (v | (uint32_t)cap) & (cap >> 32);
		break;
	case VMENTRY_PASSES_FIXED:
		*out = (v | l->cap[row->arg - FIRST_CAP]) & l->cap[row->arg - FIRST_CAP + 1];
		break;
	case VMENTRY_PASSES_WIDTH: *out = within(v, l->width, 1); break;
	case VMENTRY_PASSES_PAGE: *out = within(v, l->width, 4096); break;
	case VMENTRY_PASSES_ALIGN: *out = within(v, l->width, row->arg); break;
	case VMENTRY_PASSES_EPTP: *out = within(v, l->width, 1) & ~GENMASK_ULL(11, 7); break;
	case VMENTRY_PASSES_CANONICAL: *out = (uint64_t)((int64_t)(v << 16) >> 16); break;
	case VMENTRY_PASSES_RFLAGS: *out = (v & ~RFLAGS_ZERO) | RFLAGS_ONE; break;
	}
	return *out != v;
}

int vmentry_failure_text(const struct vmentry_failure *f, uint64_t value, const struct vmentry_limits *l, char *buf,
			 size_t size)
{
	const struct vmentry_row *row = &vmentry_rows[f->check];
	char passes[64] = "";
	uint64_t other;

	if (l && vmentry_passing_value((enum vmentry_check)f->check, value, l, &other))
		snprintf(passes, sizeof(passes), "; with %#llx it would pass", (unsigned long long)other);
	return snprintf(buf, size, "%s: %s (%xh) = %#llx, must be: %s%s [SDM \"%s\"]", row->name,
			vmcs_field_name(f->field), f->field, (unsigned long long)value, row->rule, passes,
			vmentry_section((enum vmentry_check)f->check));
}
