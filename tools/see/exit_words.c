/*
 * userkvm explain exit: a VM exit in words, bit by bit, by the SDM (Vol. 3,
 * "Basic VM-Exit Information": the tables of exit qualifications; appendix
 * "VMX Basic Exit Reasons").
 *
 * A qualification is a list of fields as data. A field's values are words with a
 * bar between them, "" for a value that the manual reserves; a field without
 * words is a number. Bits that no field names are told as reserved.
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "sdm/exit_reasons.h"
#include "sdm/vmx.h"
#include "tools/see/see.h"
#include "tools/userkvm/commands.h"
#include "tools/userkvm/json.h"

struct field {
	uint8_t low, high;
	const char *name, *words;
};

struct words {
	uint16_t reason;
	const char *what; /* why the processor left */
	const char *qualification; /* what it holds as a whole, where it has no fields */
	const struct field *fields; /* the last has no name */
	const char *name; /* of what KVM has no name for, or NULL */
};

#define GPRS "RAX|RCX|RDX|RBX|RSP|RBP|RSI|RDI|R8|R9|R10|R11|R12|R13|R14|R15"

static const struct field ept_violation[] = {
	{ 0, 0, "data read", "no|yes" },
	{ 1, 1, "data write", "no|yes" },
	{ 2, 2, "instruction fetch", "no|yes" },
	{ 3, 3, "the entries allow reads", "no|yes" },
	{ 4, 4, "the entries allow writes", "no|yes" },
	{ 5, 5, "the entries allow fetches (of supervisor addresses, with mode-based execute control)", "no|yes" },
	{ 6, 6, "the entries allow fetches of user addresses (with mode-based execute control)", "no|yes" },
	{ 7, 7, "the guest linear address field is valid", "no|yes" },
	{ 8, 8, "the access was", "to a paging-structure entry, or one of its A and D flags|to the translation of the linear address" },
	{ 9, 9, "the linear address is (with advanced information)", "a supervisor address|a user address" },
	{ 10, 10, "the page is writable by the guest's paging (with advanced information)", "no|yes" },
	{ 11, 11, "the page is not executable by the guest's paging (with advanced information)", "no|yes" },
	{ 12, 12, "blocking by NMI ended by an IRET", "no|yes" },
	{ 13, 13, "shadow-stack access", "no|yes" },
	{ 14, 14, "supervisor shadow-stack page", "no|yes" },
	{ 15, 15, "guest-paging verification", "no|yes" },
	{ 16, 16, "asynchronous to an instruction (trace output, user interrupts)", "no|yes" },
	{ 0 },
};
static const struct field debug[] = {
	{ 0, 0, "breakpoint 0 met", "no|yes" }, { 1, 1, "breakpoint 1 met", "no|yes" },
	{ 2, 2, "breakpoint 2 met", "no|yes" }, { 3, 3, "breakpoint 3 met", "no|yes" },
	{ 11, 11, "bus lock acquired", "no|yes" },
	{ 13, 13, "debug register access detected (DR7.GD)", "no|yes" },
	{ 14, 14, "single step (RFLAGS.TF)", "no|yes" },
	{ 16, 16, "inside a transactional region", "no|yes" },
	{ 0 },
};
static const struct field task_switch[] = {
	{ 0, 15, "selector of the task-state segment", NULL },
	{ 30, 31, "source", "CALL|IRET|JMP|a task gate in the IDT" },
	{ 0 },
};
static const struct field control_register[] = {
	{ 0, 3, "control register", NULL },
	{ 4, 5, "access", "MOV to CR|MOV from CR|CLTS|LMSW" },
	{ 6, 6, "LMSW's operand", "a register|memory" },
	{ 8, 11, "general register of MOV", GPRS },
	{ 16, 31, "LMSW's source data", NULL },
	{ 0 },
};
static const struct field debug_register[] = {
	{ 0, 2, "debug register", NULL },
	{ 4, 4, "direction", "MOV to DR|MOV from DR" },
	{ 8, 11, "general register", GPRS },
	{ 0 },
};
static const struct field io[] = {
	{ 0, 2, "size of the access", "1 byte|2 bytes||4 bytes" },
	{ 3, 3, "direction", "OUT|IN" },
	{ 4, 4, "string instruction", "no|yes" },
	{ 5, 5, "REP prefix", "no|yes" },
	{ 6, 6, "the port stands in", "DX|the instruction" },
	{ 16, 31, "port", NULL },
	{ 0 },
};
static const struct field apic_access[] = {
	{ 0, 11, "offset in the APIC-access page", NULL },
	{ 12, 15, "access", "linear, data read|linear, data write|linear, instruction fetch|"
	  "linear, during event delivery|linear, for monitoring||||||guest-physical, during event delivery|||||"
	  "guest-physical, fetch or execution of an instruction" },
	{ 16, 16, "asynchronous to an instruction", "no|yes" },
	{ 0 },
};
static const struct field mwait[] = {
	{ 0, 0, "address-range monitoring hardware", "not armed|armed" },
	{ 0 },
};
static const struct field sipi[] = {
	{ 0, 7, "vector of the start-up IPI", NULL },
	{ 0 },
};
static const struct field vector[] = {
	{ 0, 7, "vector", NULL },
	{ 0 },
};
static const struct field offset[] = {
	{ 0, 11, "offset in the virtual-APIC page", NULL },
	{ 0 },
};
static const struct field nmi_unblock[] = {
	{ 12, 12, "blocking by NMI ended by an IRET", "no|yes" },
	{ 0 },
};
static const struct field invalid_state[] = {
	{ 0, 31, "what was wrong", "a check without a number of its own||a PDPTE|an NMI where STI or MOV SS blocks|the VMCS link pointer" },
	{ 0 },
};
static const struct field notify[] = {
	{ 12, 12, "blocking by NMI ended by an IRET", "no|yes" },
	{ 0, 0, "VM context invalid", "no|yes" },
	{ 0 },
};

static const struct field spp[] = {
	{ 11, 11, "the sub-page permission tables", "are misconfigured|have no entry" },
	{ 12, 12, "blocking by NMI ended by an IRET", "no|yes" },
	{ 0 },
};

static const struct words table[] = {
	{ EXIT_REASON_EXCEPTION_NMI, "an exception that the exception bitmap selects, or an NMI (see the exit-interruption information)",
	  "#PF: the linear address; #DB: its bits below", debug },
	{ EXIT_REASON_EXTERNAL_INTERRUPT, "an external interrupt arrived, and external-interrupt exiting is 1", NULL, NULL },
	{ EXIT_REASON_TRIPLE_FAULT, "an exception could not be delivered, nor the double fault that came of it", NULL, NULL },
	{ EXIT_REASON_INIT_SIGNAL, "an INIT signal", NULL, NULL },
	{ EXIT_REASON_SIPI_SIGNAL, "a start-up IPI in the wait-for-SIPI state", NULL, sipi },
	{ EXIT_REASON_INTERRUPT_WINDOW, "the guest could take an interrupt, and interrupt-window exiting is 1", NULL, NULL },
	{ EXIT_REASON_NMI_WINDOW, "the guest could take an NMI, and NMI-window exiting is 1", NULL, NULL },
	{ EXIT_REASON_TASK_SWITCH, "a task switch, which the processor leaves to software in VMX non-root operation", NULL, task_switch },
	{ EXIT_REASON_CPUID, "the guest executed CPUID", NULL, NULL },
	{ EXIT_REASON_HLT, "the guest executed HLT, and HLT exiting is 1", NULL, NULL },
	{ EXIT_REASON_INVD, "the guest executed INVD", NULL, NULL },
	{ EXIT_REASON_INVLPG, "the guest executed INVLPG, and INVLPG exiting is 1", "the linear address", NULL },
	{ EXIT_REASON_RDPMC, "the guest executed RDPMC, and RDPMC exiting is 1", NULL, NULL },
	{ EXIT_REASON_RDTSC, "the guest executed RDTSC, and RDTSC exiting is 1", NULL, NULL },
	{ EXIT_REASON_VMCALL, "the guest executed VMCALL", NULL, NULL },
	{ EXIT_REASON_VMCLEAR, "the guest executed VMCLEAR", "the displacement of its operand", NULL },
	{ EXIT_REASON_VMLAUNCH, "the guest executed VMLAUNCH", NULL, NULL },
	{ EXIT_REASON_VMPTRLD, "the guest executed VMPTRLD", "the displacement of its operand", NULL },
	{ EXIT_REASON_VMPTRST, "the guest executed VMPTRST", "the displacement of its operand", NULL },
	{ EXIT_REASON_VMREAD, "the guest executed VMREAD", "the displacement of its operand", NULL },
	{ EXIT_REASON_VMRESUME, "the guest executed VMRESUME", NULL, NULL },
	{ EXIT_REASON_VMWRITE, "the guest executed VMWRITE", "the displacement of its operand", NULL },
	{ EXIT_REASON_VMOFF, "the guest executed VMXOFF", NULL, NULL },
	{ EXIT_REASON_VMON, "the guest executed VMXON", "the displacement of its operand", NULL },
	{ EXIT_REASON_CR_ACCESS, "an access to a control register that its mask, the CR3 targets or CR8 exiting select", NULL, control_register },
	{ EXIT_REASON_DR_ACCESS, "MOV from or to a debug register, and MOV-DR exiting is 1", NULL, debug_register },
	{ EXIT_REASON_IO_INSTRUCTION, "IN, OUT, INS or OUTS to a port that unconditional I/O exiting or the I/O bitmaps select", NULL, io },
	{ EXIT_REASON_MSR_READ, "RDMSR of an MSR that the MSR bitmaps select (its number is in ECX)", NULL, NULL },
	{ EXIT_REASON_MSR_WRITE, "WRMSR to an MSR that the MSR bitmaps select (its number is in ECX)", NULL, NULL },
	{ EXIT_REASON_INVALID_STATE, "VM entry failed a check of the guest-state area", NULL, invalid_state },
	{ EXIT_REASON_MSR_LOAD_FAIL, "VM entry failed to load an MSR of the VM-entry MSR-load area", "the number of the entry in the area, from 1", NULL },
	{ EXIT_REASON_MWAIT_INSTRUCTION, "the guest executed MWAIT, and MWAIT exiting is 1", NULL, mwait },
	{ EXIT_REASON_MONITOR_TRAP_FLAG, "an instruction of the guest ended, and the monitor trap flag is 1", NULL, NULL },
	{ EXIT_REASON_MONITOR_INSTRUCTION, "the guest executed MONITOR, and MONITOR exiting is 1", NULL, NULL },
	{ EXIT_REASON_PAUSE_INSTRUCTION, "the guest executed PAUSE, and PAUSE exiting or PAUSE-loop exiting asked for it", NULL, NULL },
	{ EXIT_REASON_MCE_DURING_VMENTRY, "VM entry met a machine-check event", NULL, NULL },
	{ EXIT_REASON_TPR_BELOW_THRESHOLD, "the virtual task priority fell below the TPR threshold", NULL, NULL },
	{ EXIT_REASON_APIC_ACCESS, "an access to the APIC-access page that is not virtualized", NULL, apic_access },
	{ EXIT_REASON_EOI_INDUCED, "a virtual EOI of a vector that the EOI-exit bitmap selects", NULL, vector },
	{ EXIT_REASON_GDTR_IDTR, "LGDT, LIDT, SGDT or SIDT, and descriptor-table exiting is 1", "the displacement of its operand", NULL },
	{ EXIT_REASON_LDTR_TR, "LLDT, LTR, SLDT or STR, and descriptor-table exiting is 1", "the displacement of its operand", NULL },
	{ EXIT_REASON_EPT_VIOLATION, "an access to a guest-physical address that the EPT paging-structure entries do not allow", NULL, ept_violation },
	{ EXIT_REASON_EPT_MISCONFIG, "an EPT paging-structure entry holds a value that no entry may have (KVM marks MMIO so)", NULL, NULL },
	{ EXIT_REASON_INVEPT, "the guest executed INVEPT", "the displacement of its operand", NULL },
	{ EXIT_REASON_RDTSCP, "the guest executed RDTSCP, and RDTSC exiting is 1", NULL, NULL },
	{ EXIT_REASON_PREEMPTION_TIMER, "the VMX-preemption timer counted down to zero", NULL, NULL },
	{ EXIT_REASON_INVVPID, "the guest executed INVVPID", "the displacement of its operand", NULL },
	{ EXIT_REASON_WBINVD, "the guest executed WBINVD or WBNOINVD, and WBINVD exiting is 1", NULL, NULL },
	{ EXIT_REASON_XSETBV, "the guest executed XSETBV", NULL, NULL },
	{ EXIT_REASON_APIC_WRITE, "a write to the virtual-APIC page that software has to complete", NULL, offset },
	{ EXIT_REASON_RDRAND, "the guest executed RDRAND, and RDRAND exiting is 1", NULL, NULL },
	{ EXIT_REASON_INVPCID, "the guest executed INVPCID, and INVLPG exiting is 1", "the displacement of its operand", NULL },
	{ EXIT_REASON_VMFUNC, "VMFUNC of a function that is not enabled, or that failed", NULL, NULL },
	{ EXIT_REASON_ENCLS, "the guest executed ENCLS, and the ENCLS-exiting bitmap selects its leaf", NULL, NULL },
	{ EXIT_REASON_RDSEED, "the guest executed RDSEED, and RDSEED exiting is 1", NULL, NULL },
	{ EXIT_REASON_PML_FULL, "the page-modification log was full when an entry's dirty flag was to be set", NULL, nmi_unblock },
	{ EXIT_REASON_XSAVES, "XSAVES of a component that the XSS-exiting bitmap selects", "the displacement of its operand", NULL },
	{ EXIT_REASON_XRSTORS, "XRSTORS of a component that the XSS-exiting bitmap selects", "the displacement of its operand", NULL },
	{ EXIT_REASON_UMWAIT, "the guest executed UMWAIT, and RDTSC exiting is 1", NULL, NULL },
	{ EXIT_REASON_TPAUSE, "the guest executed TPAUSE, and RDTSC exiting is 1", NULL, NULL },
	{ EXIT_REASON_BUS_LOCK, "an instruction acquired a bus lock, and VMM bus-lock detection is 1", NULL, NULL },
	{ EXIT_REASON_NOTIFY, "no interrupt window opened within the notify window", NULL, notify },
	/* by the manual alone: KVM meets none of them */
	{ 5, "an SMI right behind an I/O instruction, with the dual-monitor treatment of SMM", NULL, io, "IO_SMI" },
	{ 6, "another SMI, with the dual-monitor treatment of SMM", NULL, NULL, "OTHER_SMI" },
	{ 11, "the guest executed GETSEC", NULL, NULL, "GETSEC" },
	{ 17, "the guest executed RSM in SMM", NULL, NULL, "RSM" },
	{ 66, "a write whose sub-page permission could not be found", NULL, spp, "SPP" },
	{ 69, "the guest executed LOADIWKEY, and LOADIWKEY exiting is 1", NULL, NULL, "LOADIWKEY" },
	{ 70, "the guest executed ENCLV, and the ENCLV-exiting bitmap selects its leaf", NULL, NULL, "ENCLV" },
	{ 72, "ENQCMD whose PASID could not be translated", NULL, NULL, "ENQCMD" },
	{ 73, "ENQCMDS whose PASID could not be translated", NULL, NULL, "ENQCMDS" },
	{ 76, "the guest executed SEAMCALL", NULL, NULL, "SEAMCALL" },
	{ 77, "the guest executed TDCALL", NULL, NULL, "TDCALL" },
	{ 78, "RDMSRLIST of an MSR that the MSR bitmaps select", "the number of the MSR; 0 without MSR bitmaps", NULL, "RDMSRLIST" },
	{ 79, "WRMSRLIST of an MSR that the MSR bitmaps select", "the number of the MSR; 0 without MSR bitmaps", NULL, "WRMSRLIST" },
};

static const char *name_of(const struct words *w)
{
	return w->name ? w->name : exit_reason_name(w->reason);
}

static const struct words *find(uint32_t reason)
{
	for (size_t i = 0; i < ARRAY_SIZE(table); i++)
		if (table[i].reason == reason)
			return &table[i];
	return NULL;
}

/* A number in C notation, or a reason's name with or without EXIT_REASON_, in any case. */
static bool parse_reason(const char *text, uint32_t *reason)
{
	if (isdigit((unsigned char)*text)) {
		char *end;
		unsigned long long v = strtoull(text, &end, 0);

		*reason = (uint32_t)v;
		return !*end && v <= UINT32_MAX;
	}
	if (strncasecmp(text, "EXIT_REASON_", 12) == 0)
		text += 12;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++)
		if (strcasecmp(text, name_of(&table[i])) == 0) {
			*reason = table[i].reason;
			return true;
		}
	return false;
}

/* The n-th word of "a|b|c", or NULL: there is none, or it is empty. */
static const char *nth_word(const char *words, uint64_t n, int *len)
{
	for (; n; n--) {
		words = strchr(words, '|');
		if (!words)
			return NULL;
		words++;
	}
	*len = (int)strcspn(words, "|");
	return *len ? words : NULL;
}

static uint64_t field_value(const struct field *f, uint64_t qualification)
{
	uint64_t mask = f->high - f->low == 63 ? ~0ULL : (1ULL << (f->high - f->low + 1)) - 1;

	return qualification >> f->low & mask;
}

static uint64_t field_bits(const struct field *f)
{
	return (f->high == 63 ? ~0ULL : (1ULL << (f->high + 1)) - 1) & ~((1ULL << f->low) - 1);
}

static void print_field(const struct field *f, uint64_t qualification)
{
	uint64_t v = field_value(f, qualification);
	const char *word;
	char bits[16];
	int len;

	if (f->low == f->high)
		snprintf(bits, sizeof(bits), "%u", f->low);
	else
		snprintf(bits, sizeof(bits), "%u:%u", f->high, f->low);
	if (!f->words) {
		printf("  %-6s %#-8llx %s\n", bits, (ull)v, f->name);
		return;
	}
	word = nth_word(f->words, v, &len);
	printf("  %-6s %#-8llx %s: %.*s\n", bits, (ull)v, f->name, word ? len : 8, word ? word : "reserved");
}

static void print_qualification(const struct words *w, uint64_t q)
{
	uint64_t named = 0;

	printf("qualification %#llx\n", (ull)q);
	if (w->qualification)
		printf("  %s\n", w->qualification);
	if (!w->fields) {
		if (!w->qualification && q)
			printf("  this exit has none: the value means nothing\n");
		return;
	}
	for (const struct field *f = w->fields; f->name; f++) {
		print_field(f, q);
		named |= field_bits(f);
	}
	if (q & ~named)
		printf("  bits %#llx are reserved or undefined\n", (ull)(q & ~named));
}

/* What the bits of an EPT violation say together. False: it is another exit. */
static bool sum_up(uint32_t reason, uint64_t q, char *text, size_t size)
{
	const char *access = q & EPT_VIOLATION_ACC_WRITE ? "write" : q & EPT_VIOLATION_ACC_INSTR ? "fetch" : "read";
	bool present = q & (EPT_VIOLATION_READABLE | EPT_VIOLATION_WRITABLE | EPT_VIOLATION_EXECUTABLE);

	if (reason != EXIT_REASON_EPT_VIOLATION)
		return false;
	snprintf(text, size, "a %s %s; the entry %s", access,
	       !(q & EPT_VIOLATION_GVA_IS_VALID) ? "without a linear address" :
	       q & EPT_VIOLATION_GVA_TRANSLATED	 ? "of what the linear address translates to" :
						   "of a guest paging-structure entry",
	       present ? "is present and does not allow it" : "is not present");
	return true;
}

static void json_field(struct json *j, const struct field *f, uint64_t q)
{
	char text[160];
	const char *word;
	int len;

	json_object(j, NULL, false);
	json_u64(j, "low", f->low);
	json_u64(j, "high", f->high);
	json_string(j, "name", f->name);
	json_u64(j, "value", field_value(f, q));
	if (f->words) {
		word = nth_word(f->words, field_value(f, q), &len);
		snprintf(text, sizeof(text), "%.*s", word ? len : 8, word ? word : "reserved");
		json_string(j, "means", text);
	}
	json_end(j);
}

static void print_json(const struct words *w, uint32_t reason, uint64_t q)
{
	struct json j = { .f = stdout };
	uint64_t named = 0;
	char text[160];

	json_object(&j, NULL, true);
	json_u64(&j, "reason", w->reason);
	json_string(&j, "name", name_of(w));
	json_string(&j, "what", w->what);
	json_bool(&j, "entry_failed", reason & VMX_EXIT_REASONS_FAILED_VMENTRY);
	json_bool(&j, "bus_lock", reason & VMX_EXIT_REASONS_BUS_LOCK);
	json_u64(&j, "qualification", q);
	if (w->qualification)
		json_string(&j, "is", w->qualification);
	json_array(&j, "fields", true);
	for (const struct field *f = w->fields; f && f->name; f++) {
		json_field(&j, f, q);
		named |= field_bits(f);
	}
	json_end(&j);
	json_u64(&j, "reserved", w->fields || !w->qualification ? q & ~named : 0);
	if (sum_up(w->reason, q, text, sizeof(text)))
		json_string(&j, "in_short", text);
	json_end(&j);
}

static const struct cli_option option_rows[] = {
	{ "json", 0, NULL, "as JSON" },
	{ 0 },
};

static int cmd_explain(int argc, char **argv);
const struct cli cli_explain = {
	.name = "userkvm explain",
	.what = "say what a VM exit means, bit by bit",
	.synopsis = "userkvm explain exit [--json] REASON [QUALIFICATION]",
	.about = "REASON is a number or a name (48, 0x30, EPT_VIOLATION), as the exit reason field or\n"
		 "kvm_exit's tracepoint has it; QUALIFICATION the exit qualification (kvm_exit: info1).\n"
		 "Without it the qualification's bits are listed as they would be for 0.",
	.more = "Source: SDM Vol. 3, \"Basic VM-Exit Information\" and \"VMX Basic Exit Reasons\".",
	.options = option_rows,
	.words = "exit",
	.run = cmd_explain,
};

static int take(void *arg, int option, const char *value)
{
	*(bool *)arg = true;
	return 0;
}

static int cmd_explain(int argc, char **argv)
{
	bool json = false;
	int status = cli_parse(&cli_explain, argc, argv, take, &json), n = argc - optind;
	const struct words *w;
	uint64_t q = 0;
	uint32_t reason;
	char text[160];

	see_command = cli_explain.name;
	if (status >= 0)
		return status;
	if (n < 2 || n > 3 || strcmp(argv[optind], "exit") != 0)
		return wrong_usage(see_command, n < 1 ? "what to explain?" : "exit, a reason, and its qualification at most");
	if (!parse_reason(argv[optind + 1], &reason))
		return wrong_usage(see_command, "'%s' is no exit reason", argv[optind + 1]);
	if (n == 3 && !see_number(argv[optind + 2], &q))
		return 2;
	w = find(reason & 0xffff);
	if (!w)
		return wrong_usage(see_command, "%u is no exit reason that the manual knows here", reason & 0xffff);
	if (json) {
		print_json(w, reason, q);
		return 0;
	}
	printf("exit reason   %u %s\n              %s\n", w->reason, name_of(w), w->what);
	if (reason & VMX_EXIT_REASONS_FAILED_VMENTRY)
		printf("  31     1        VM entry failed: the guest did not run\n");
	if (reason & VMX_EXIT_REASONS_BUS_LOCK)
		printf("  26     1        the instruction before had acquired a bus lock\n");
	print_qualification(w, q);
	if (sum_up(w->reason, q, text, sizeof(text)))
		printf("in short      %s\n", text);
	return 0;
}
