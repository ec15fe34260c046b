/*
 * A vCPU's VMCSs as the control socket tells of them, and their fields in words. Functions
 * that can fail have told why.
 */
#ifndef USERKVM_TOOLS_VMCS_H
#define USERKVM_TOOLS_VMCS_H

#include "sdm/vmentry_checks.h"
#include "tools/see/see.h"
#include "tools/userkvm/json.h"

enum vmcs_which { VMCS01, VMCS12, VMCS02, NR_VMCSS };
#define VMCS_MAX_FIELDS 256

struct vmcs_field_value {
	uint32_t encoding;
	uint64_t value;
};

struct vmcs_picture {
	pid_t pid;
	uint64_t vm;
	unsigned vcpu;
	bool vmxon, l2, pending;
	uint64_t vmxon_ptr, vmptr12;
	struct vmcs_one {
		bool there, launched;
		unsigned nr;
		struct vmcs_field_value field[VMCS_MAX_FIELDS];
	} vmcs[NR_VMCSS];
	/* of the request `entry` */
	struct vmentry_limits limits;
	struct vmentry_failures failures;
};

/* "VMCS01", "vmcs12", "VMCS02". */
const char *vmcs_name(enum vmcs_which which);
/* mask: bits of enum vmcs_which. */
bool vmcs_take(struct vmcs_picture *p, unsigned mask);
/* The one, and what VM entry would say of it. */
bool vmcs_take_checks(struct vmcs_picture *p, enum vmcs_which which);
/* False: it is not there; told. */
bool vmcs_is_there(const struct vmcs_picture *p, enum vmcs_which which);
/* NULL: the VMCS has no such field. */
const struct vmcs_field_value *vmcs_find(const struct vmcs_one *v, uint32_t encoding);
/* "vmcs12 at guest-physical 0x31000, launched". */
const char *vmcs_title(const struct vmcs_picture *p, enum vmcs_which which, char *buf, size_t size);

/* --- vmcs_words.c --- */
/* The part of the manual's table a field stands in. */
const char *vmcs_group(uint32_t encoding);
/* Digits of a field's value. */
int vmcs_digits(uint32_t encoding);
/* What the value says, "" for a mere number. Not of control fields. */
void vmcs_value_words(uint32_t encoding, uint64_t value, char *buf, size_t size);
/* A control field: its bits by name; NULL ends them. False: it is none. */
struct vmcs_bit {
	unsigned n;
	const char *name;
};
const struct vmcs_bit *vmcs_control_bits(uint32_t encoding);

/* --- vmcs_diff.c, vmcs_check.c: exit statuses --- */
int vmcs_diff(struct vmcs_picture *p, enum vmcs_which a, enum vmcs_which b, bool json);
int vmcs_check(struct vmcs_picture *p, enum vmcs_which which, bool json);

#endif
