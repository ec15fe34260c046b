/*
 * userkvm vmcs check: VM entry's checks without a VM entry.
 */
#include "tools/see/vmcs.h"

static uint64_t value_of(const struct vmcs_one *v, uint32_t encoding)
{
	const struct vmcs_field_value *f = vmcs_find(v, encoding);

	return f ? f->value : 0;
}

static void json_failure(struct json *j, const struct vmcs_picture *p, enum vmcs_which which,
			 const struct vmentry_failure *f)
{
	enum vmentry_check check = (enum vmentry_check)f->check;
	uint64_t value = value_of(&p->vmcs[which], f->field), passes;

	json_object(j, NULL, false);
	json_string(j, "check", vmentry_rows[check].name);
	json_string(j, "field", vmcs_field_name(f->field));
	json_u64(j, "encoding", f->field);
	json_u64(j, "value", value);
	json_string(j, "rule", vmentry_rows[check].rule);
	if (vmentry_passing_value(check, value, &p->limits, &passes))
		json_u64(j, "passes", passes);
	json_string(j, "sdm", vmentry_section(check));
	json_end(j);
}

static void json(const struct vmcs_picture *p, enum vmcs_which which, unsigned nr)
{
	struct json j = { .f = stdout };

	json_object(&j, NULL, false);
	json_i64(&j, "pid", p->pid);
	json_u64(&j, "vm", p->vm);
	json_u64(&j, "vcpu", p->vcpu);
	json_string(&j, "vmcs", vmcs_name(which));
	json_array(&j, "failed", true);
	for (unsigned n = 0; n < nr; n++)
		json_failure(&j, p, which, &p->failures.at[n]);
	json_end(&j);
	json_end(&j);
}

int vmcs_check(struct vmcs_picture *p, enum vmcs_which which, bool as_json)
{
	unsigned nr = p->failures.nr < VMENTRY_MAX_FAILURES ? p->failures.nr : VMENTRY_MAX_FAILURES;
	char title[96], text[VMENTRY_TEXT];

	if (as_json) {
		json(p, which, nr);
		return nr != 0;
	}
	vmcs_title(p, which, title, sizeof(title));
	if (!nr) {
		printf("%s: every check of VM entry passes\n", title);
		return 0;
	}
	printf("%s: %u check%s of VM entry fail%s\n", title, nr, nr == 1 ? "" : "s", nr == 1 ? "s" : "");
	for (unsigned n = 0; n < nr; n++) {
		const struct vmentry_failure *f = &p->failures.at[n];

		vmentry_failure_text(f, value_of(&p->vmcs[which], f->field), &p->limits, text, sizeof(text));
		printf("  %s\n", text);
	}
	return 1;
}
