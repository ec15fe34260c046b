/*
 * vmcs12's fields by encoding.
 *
 * Locks: none; the tables are constant.
 */
#include <string.h>

#include "cpu/vmx_isa.h"
#include "vmx/vmcs12.h"

/* Offset in struct vmcs12; 0: there is no such field. */
static const uint16_t field_offset[512] = {
#define OFFSET(name, enc, at, type) [VMX_FIELD_SLOT(enc)] = (at),
	VMCS12_FIELDS(OFFSET)
#undef OFFSET
};
#define HAS_SLOT(name, enc, at, type) static_assert(!((enc) & ~VMX_FIELD_BITS), #name);
VMCS12_FIELDS(HAS_SLOT)
#undef HAS_SLOT

/* Where the bytes of `encoding` are, and how many. 0: nowhere. */
static unsigned locate(uint64_t encoding, unsigned *size)
{
	uint32_t enc = (uint32_t)encoding;
	unsigned at;

	if (encoding & ~(uint64_t)(VMX_FIELD_BITS | 1))
		return 0;
	if ((enc & 1) && vmcs_field_width(enc) != VMCS_WIDTH_64)
		return 0;
	at = field_offset[VMX_FIELD_SLOT(enc)];
	if (!at)
		return 0;
	switch (vmcs_field_width(enc)) {
	case VMCS_WIDTH_16: *size = 2; break;
	case VMCS_WIDTH_32: *size = 4; break;
	default: *size = 8; break;
	}
	if (enc & 1) {
		at += 4;
		*size = 4;
	}
	return at;
}

bool vmcs12_has_field(uint64_t encoding)
{
	unsigned size;

	return locate(encoding, &size) != 0;
}

bool vmcs12_read_field(const struct vmcs12 *v, uint64_t encoding, uint64_t *value)
{
	unsigned size, at = locate(encoding, &size);

	*value = 0;
	if (at)
		memcpy(value, v->bytes + at, size);
	return at;
}

bool vmcs12_write_field(struct vmcs12 *v, uint64_t encoding, uint64_t value)
{
	unsigned size, at = locate(encoding, &size);

	if (at)
		memcpy(v->bytes + at, &value, size);
	return at;
}

uint64_t vmcs12_enum(void)
{
	uint64_t max = 0;

#define HIGHEST(name, enc, at, type) max = max_u64(max, (enc) & 0x3fe);
	VMCS12_FIELDS(HIGHEST)
#undef HIGHEST
	return max;
}
