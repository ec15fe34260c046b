/*
 * Name tables made from the lists, so that no name stands twice.
 */
#include "sdm/exit_reasons.h"
#include "sdm/vmcs_fields.h"

#define NAME_CASE(name, nr) \
	case nr:            \
		return #name;

const char *vmcs_field_name(uint32_t encoding)
{
	switch (encoding) {
		VMCS_FIELDS(NAME_CASE)
	default:
		return "?";
	}
}

const char *exit_reason_name(uint32_t reason)
{
	switch (reason & 0xffff) {
		EXIT_REASONS(NAME_CASE)
	default:
		return "?";
	}
}
