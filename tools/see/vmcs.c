/*
 * userkvm vmcs: the VMCSs of a vCPU, all fields by their names in the manual, control fields bit by bit.
 */
#include "tools/see/vmcs.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/userkvm/commands.h"

enum { SHOW_01, SHOW_12, SHOW_02, DIFF, VCPU, VM, JSON };
static const struct cli_option option_rows[] = {
	[SHOW_01] = { "01", 0, NULL, "VMCS01: L0's, for its guest" },
	[SHOW_12] = { "12", 0, NULL, "vmcs12: the one that the guest, L1, has made for its L2" },
	[SHOW_02] = { "02", 0, NULL, "VMCS02: what the processor runs L2 with" },
	[DIFF] = { "diff", 0, NULL, "the fields in which two of them (01, 12, 02) differ, and why" },
	[VCPU] = { "vcpu", 0, "N", "of vCPU N (default 0)" },
	[VM] = { "vm", 0, "N", "the process's N-th VM (default: the oldest)" },
	[JSON] = { "json", 0, NULL, "as JSON" },
	{ 0 },
};

static int cmd_vmcs(int argc, char **argv);
const struct cli cli_vmcs = {
	.name = "userkvm vmcs",
	.what = "the VMCSs of a vCPU, and whether VM entry would take them",
	.synopsis = "userkvm vmcs       [--01 | --12 | --02] [--vcpu N] [--vm N] [--json] PID\n"
		    "       userkvm vmcs       --diff [--vcpu N] [--vm N] [--json] PID 12 02\n"
		    "       userkvm vmcs check [--01 | --12] [--vcpu N] [--vm N] [--json] PID",
	.about = "Shows the VMCS that a vCPU of process PID runs with: VMCS01, or VMCS02 while\n"
		 "a guest of its guest runs. check makes VM entry's checks of VMCS01 or vmcs12 and\n"
		 "says of each that fails which field it is about and what would pass.",
	.more = "Exit status of check: 0 where all checks pass, else 1.",
	.options = option_rows,
	.words = "check",
	.run = cmd_vmcs,
};

const char *vmcs_name(enum vmcs_which which)
{
	static const char *const name[] = { "VMCS01", "vmcs12", "VMCS02" };

	return name[which];
}

/* --- replies into pictures --- */

static void limits_line(struct vmcs_picture *p, const char *line)
{
	char name[64];
	unsigned n;
	ull v;

	if (sscanf(line, "cap %x %llx", &n, &v) == 2 && n < ARRAY_SIZE(p->limits.cap)) {
		p->limits.cap[n] = v;
	} else if (sscanf(line, "width %u", &n) == 1) {
		p->limits.width = (int)n;
	} else if (sscanf(line, "failed %63s %x", name, &n) == 2) {
		for (int i = 0; i < NR_VMENTRY_CHECKS; i++)
			if (strcmp(name, vmentry_rows[i].name) == 0)
				vmentry_failed(&p->failures, (enum vmentry_check)i, n);
	}
}

static void take_line(struct vmcs_picture *p, const char *line, struct vmcs_one **at)
{
	unsigned which, enc;
	int a, b, c;
	ull v, w;

	if (sscanf(line, "state %d %d %d %llx %llx", &a, &b, &c, &v, &w) == 5) {
		p->vmxon = a, p->l2 = b, p->pending = c, p->vmxon_ptr = v, p->vmptr12 = w;
	} else if (sscanf(line, "vmcs %u %d %d", &which, &a, &b) == 3 && which < NR_VMCSS) {
		*at = &p->vmcs[which];
		(*at)->there = a, (*at)->launched = b, (*at)->nr = 0;
	} else if (sscanf(line, "field %x %llx", &enc, &v) == 2) {
		if (*at && (*at)->nr < VMCS_MAX_FIELDS)
			(*at)->field[(*at)->nr++] = (struct vmcs_field_value){ enc, v };
	} else {
		limits_line(p, line);
	}
}

static bool take_text(struct vmcs_picture *p, char *text)
{
	struct vmcs_one *at = NULL;
	char *save = NULL;

	if (!text)
		return false;
	p->failures.nr = 0;
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		take_line(p, line, &at);
	free(text);
	return true;
}

bool vmcs_take(struct vmcs_picture *p, unsigned mask)
{
	return take_text(p, see_ask(p->pid, "vmcs %llu %u %u\n", (ull)p->vm, p->vcpu, mask));
}

bool vmcs_take_checks(struct vmcs_picture *p, enum vmcs_which which)
{
	return take_text(p, see_ask(p->pid, "entry %llu %u %u\n", (ull)p->vm, p->vcpu, which == VMCS12));
}

bool vmcs_is_there(const struct vmcs_picture *p, enum vmcs_which which)
{
	if (p->vmcs[which].there)
		return true;
	if (!p->vmxon)
		return see_fail("vCPU %u is not in VMX operation: its guest has executed no VMXON, so there is no %s", p->vcpu,
				vmcs_name(which));
	if (which == VMCS12)
		return see_fail("the guest of vCPU %u has no current VMCS: no VMPTRLD since VMXON or VMCLEAR", p->vcpu);
	return see_fail("vCPU %u has run no L2 yet: there is no %s", p->vcpu, vmcs_name(which));
}

const struct vmcs_field_value *vmcs_find(const struct vmcs_one *v, uint32_t encoding)
{
	for (unsigned n = 0; n < v->nr; n++)
		if (v->field[n].encoding == encoding)
			return &v->field[n];
	return NULL;
}

const char *vmcs_title(const struct vmcs_picture *p, enum vmcs_which which, char *buf, size_t size)
{
	char where[48] = "";

	if (which == VMCS12)
		snprintf(where, sizeof(where), " at guest-physical 0x%llx", (ull)p->vmptr12);
	snprintf(buf, size, "%s%s, %s", vmcs_name(which), where, p->vmcs[which].launched ? "launched" : "not launched");
	return buf;
}

/* --- onto paper --- */

static const char *const groups[] = {
	"guest-state area: register state", "guest-state area: non-register state", "host-state area",
	"VM-execution control fields", "VM-exit control fields", "VM-entry control fields", "VM-exit information fields",
};

#define WIDTH 118
#define INDENT 6

/* A list with commas, in lines that fit. */
static void list_item(int *column, const char *what, const char *text)
{
	int n = (int)strlen(text);

	if (!*column)
		*column = printf("%*s%s  %s", INDENT, "", what, text);
	else if (*column + n + 2 > WIDTH)
		*column = printf(",\n%*s   %s", INDENT, "", text) - 2;
	else
		*column += printf(", %s", text);
}

static void print_bits(uint64_t v, const struct vmcs_bit *bits, bool set)
{
	const char *what = set ? "1" : "0";
	uint64_t named = 0;
	bool reserved = false;
	int column = 0;
	char item[64];

	for (const struct vmcs_bit *b = bits; b->name; b++) {
		named |= BIT_ULL(b->n);
		if ((bool)(v >> b->n & 1) != set)
			continue;
		snprintf(item, sizeof(item), "%s (%u)", b->name, b->n);
		list_item(&column, what, item);
	}
	for (unsigned n = 0; set && n < 32; n++) {
		if (!(v & ~named & BIT_ULL(n)))
			continue;
		snprintf(item, sizeof(item), "%s%u", reserved ? "" : "reserved: ", n);
		list_item(&column, what, item);
		reserved = true;
	}
	if (column)
		putchar('\n');
}

static void print_field(const struct vmcs_field_value *f)
{
	const struct vmcs_bit *bits = vmcs_control_bits(f->encoding);
	int digits = vmcs_digits(f->encoding);
	char words[256];

	vmcs_value_words(f->encoding, f->value, words, sizeof(words));
	printf("  %-30s %4xh  %*s0x%0*llx%s%s\n", vmcs_field_name(f->encoding), f->encoding, 16 - digits, "", digits,
	       (ull)f->value, *words ? "  " : "", words);
	if (!bits)
		return;
	print_bits(f->value, bits, true);
	print_bits(f->value, bits, false);
}

static const char *state_words(const struct vmcs_picture *p)
{
	if (!p->vmxon)
		return "no VMX operation";
	if (p->l2)
		return p->pending ? "L2 is about to run" : "L2 runs";
	return "L1 runs, in VMX operation";
}

static void print_one(const struct vmcs_picture *p, enum vmcs_which which)
{
	const struct vmcs_one *v = &p->vmcs[which];
	char title[96];

	printf("---[ process %d VM %llu vCPU %u: %s; %s ]---\n", (int)p->pid, (ull)p->vm, p->vcpu,
	       vmcs_title(p, which, title, sizeof(title)), state_words(p));
	for (size_t g = 0; g < ARRAY_SIZE(groups); g++) {
		printf("%s\n", groups[g]);
		for (unsigned n = 0; n < v->nr; n++)
			if (strcmp(vmcs_group(v->field[n].encoding), groups[g]) == 0)
				print_field(&v->field[n]);
	}
}

static void json_field(struct json *j, const struct vmcs_field_value *f)
{
	const struct vmcs_bit *bits = vmcs_control_bits(f->encoding);
	char words[256];

	vmcs_value_words(f->encoding, f->value, words, sizeof(words));
	json_object(j, NULL, false);
	json_string(j, "name", vmcs_field_name(f->encoding));
	json_u64(j, "encoding", f->encoding);
	json_string(j, "group", vmcs_group(f->encoding));
	json_u64(j, "value", f->value);
	if (*words)
		json_string(j, "words", words);
	if (bits) {
		json_object(j, "bits", false);
		for (; bits->name; bits++)
			json_bool(j, bits->name, f->value >> bits->n & 1);
		json_end(j);
	}
	json_end(j);
}

static void json_one(const struct vmcs_picture *p, enum vmcs_which which)
{
	const struct vmcs_one *v = &p->vmcs[which];
	struct json j = { .f = stdout };

	json_object(&j, NULL, false);
	json_i64(&j, "pid", p->pid);
	json_u64(&j, "vm", p->vm);
	json_u64(&j, "vcpu", p->vcpu);
	json_bool(&j, "vmx_operation", p->vmxon);
	json_bool(&j, "l2_runs", p->l2);
	json_string(&j, "vmcs", vmcs_name(which));
	if (which == VMCS12)
		json_u64(&j, "gpa", p->vmptr12);
	json_bool(&j, "launched", v->launched);
	json_array(&j, "fields", true);
	for (unsigned n = 0; n < v->nr; n++)
		json_field(&j, &v->field[n]);
	json_end(&j);
	json_end(&j);
}

/* --- the command --- */

struct wish {
	unsigned mask; /* of those that were named */
	bool diff, check, json;
	struct vmcs_picture p;
};

static int take(void *arg, int option, const char *value)
{
	struct wish *w = arg;
	char *end = NULL;

	switch (option) {
	case SHOW_01: case SHOW_12: case SHOW_02: w->mask |= 1U << option; return 0;
	case DIFF: w->diff = true; return 0;
	case JSON: w->json = true; return 0;
	case VM: w->p.vm = strtoull(value, &end, 10); break;
	case VCPU: w->p.vcpu = (unsigned)strtoul(value, &end, 10); break;
	}
	if (end != value && !*end)
		return 0;
	return wrong_usage(see_command, "--%s %s: no good value", option_rows[option].name, value);
}

/* NR_VMCSS: it names none. */
static enum vmcs_which named(const char *word)
{
	static const char *const names[] = { "01", "12", "02" };
	int n = 0;

	while (n < NR_VMCSS && strcmp(word, names[n]) != 0)
		n++;
	return (enum vmcs_which)n;
}

static bool begin(struct vmcs_picture *p, const char *pid)
{
	return see_pid(pid, &p->pid) && see_choose_vm(p->pid, &p->vm);
}

/* PID A B, or A B PID. */
static int run_diff(struct wish *w, char **word, int nr)
{
	int pid = nr == 3 && named(word[1]) < NR_VMCSS && named(word[2]) < NR_VMCSS ? 0 : 2;
	enum vmcs_which a, b;

	if (w->mask || nr != 3)
		return wrong_usage(see_command, "--diff goes with a process id and two of 01, 12, 02");
	a = named(word[!pid]);
	b = named(word[1 + !pid]);
	if (a == NR_VMCSS || b == NR_VMCSS || a == b)
		return wrong_usage(see_command, "--diff goes with a process id and two of 01, 12, 02");
	if (!begin(&w->p, word[pid]) || !vmcs_take(&w->p, 1U << a | 1U << b) || !vmcs_is_there(&w->p, a) ||
	    !vmcs_is_there(&w->p, b))
		return 1;
	return vmcs_diff(&w->p, a, b, w->json);
}

static int run_check(struct wish *w, char **word, int nr)
{
	enum vmcs_which which = w->mask == 1U << VMCS12 ? VMCS12 : VMCS01;

	if (nr != 1 || w->diff || (w->mask && w->mask != 1U << which))
		return wrong_usage(see_command, "check goes with a process id and --01 or --12");
	if (!begin(&w->p, word[0]))
		return 1;
	/* what the guest is about to enter with, where there is such a thing */
	if (!w->mask && !vmcs_take(&w->p, 0))
		return 1;
	if (!w->mask && w->p.vmptr12 != ~0ULL && w->p.vmxon)
		which = VMCS12;
	if (!vmcs_take_checks(&w->p, which) || !vmcs_is_there(&w->p, which))
		return 1;
	return vmcs_check(&w->p, which, w->json);
}

static int run_show(struct wish *w, char **word, int nr)
{
	enum vmcs_which which = VMCS01;

	if (nr != 1 || (w->mask & (w->mask - 1)))
		return wrong_usage(see_command, nr != 1 ? "a process id, and nothing else, is asked for"
							: "one of --01, --12 and --02");
	if (!begin(&w->p, word[0]) || !vmcs_take(&w->p, w->mask ? w->mask : 7))
		return 1;
	if (!w->mask)
		which = w->p.l2 ? VMCS02 : VMCS01;
	while (w->mask && w->mask != 1U << which)
		which++;
	if (!vmcs_is_there(&w->p, which))
		return 1;
	if (w->json)
		json_one(&w->p, which);
	else
		print_one(&w->p, which);
	return 0;
}

static int cmd_vmcs(int argc, char **argv)
{
	static struct wish w;
	int status;

	see_command = cli_vmcs.name;
	status = cli_parse(&cli_vmcs, argc, argv, take, &w);
	if (status >= 0)
		return status;
	if (w.diff)
		return run_diff(&w, argv + optind, argc - optind);
	if (optind < argc && strcmp(argv[optind], "check") == 0)
		return run_check(&w, argv + optind + 1, argc - optind - 1);
	return run_show(&w, argv + optind, argc - optind);
}
