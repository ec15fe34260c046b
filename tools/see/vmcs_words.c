/*
 * Fields of a VMCS in words (SDM Vol. 3, chapter "Virtual Machine Control Structures": the
 * tables of control bits, "Format of Access Rights", "Format of Interruptibility State" ...).
 */
#include <string.h>

#include "sdm/ept.h"
#include "sdm/exit_reasons.h"
#include "sdm/vmx.h"
#include "tools/see/vmcs.h"

static const struct vmcs_bit pin[] = {
	{ 0, "external-interrupt exiting" }, { 3, "NMI exiting" }, { 5, "virtual NMIs" },
	{ 6, "activate VMX-preemption timer" }, { 7, "process posted interrupts" }, { 0, NULL },
};
static const struct vmcs_bit primary[] = {
	{ 2, "interrupt-window exiting" }, { 3, "use TSC offsetting" }, { 7, "HLT exiting" }, { 9, "INVLPG exiting" },
	{ 10, "MWAIT exiting" }, { 11, "RDPMC exiting" }, { 12, "RDTSC exiting" }, { 15, "CR3-load exiting" },
	{ 16, "CR3-store exiting" }, { 17, "activate tertiary controls" }, { 19, "CR8-load exiting" },
	{ 20, "CR8-store exiting" }, { 21, "use TPR shadow" }, { 22, "NMI-window exiting" }, { 23, "MOV-DR exiting" },
	{ 24, "unconditional I/O exiting" }, { 25, "use I/O bitmaps" }, { 27, "monitor trap flag" },
	{ 28, "use MSR bitmaps" }, { 29, "MONITOR exiting" }, { 30, "PAUSE exiting" },
	{ 31, "activate secondary controls" }, { 0, NULL },
};
static const struct vmcs_bit secondary[] = {
	{ 0, "virtualize APIC accesses" }, { 1, "enable EPT" }, { 2, "descriptor-table exiting" }, { 3, "enable RDTSCP" },
	{ 4, "virtualize x2APIC mode" }, { 5, "enable VPID" }, { 6, "WBINVD exiting" }, { 7, "unrestricted guest" },
	{ 8, "APIC-register virtualization" }, { 9, "virtual-interrupt delivery" }, { 10, "PAUSE-loop exiting" },
	{ 11, "RDRAND exiting" }, { 12, "enable INVPCID" }, { 13, "enable VM functions" }, { 14, "VMCS shadowing" },
	{ 15, "enable ENCLS exiting" }, { 16, "RDSEED exiting" }, { 17, "enable PML" }, { 18, "EPT-violation #VE" },
	{ 19, "conceal VMX from PT" }, { 20, "enable XSAVES/XRSTORS" }, { 21, "PASID translation" },
	{ 22, "mode-based execute control for EPT" }, { 23, "sub-page write permissions for EPT" },
	{ 24, "Intel PT uses guest physical addresses" }, { 25, "use TSC scaling" },
	{ 26, "enable user wait and pause" }, { 27, "enable PCONFIG" }, { 28, "enable ENCLV exiting" },
	{ 30, "VMM bus-lock detection" }, { 31, "instruction timeout" }, { 0, NULL },
};
static const struct vmcs_bit vm_exit[] = {
	{ 2, "save debug controls" }, { 9, "host address-space size" }, { 12, "load IA32_PERF_GLOBAL_CTRL" },
	{ 15, "acknowledge interrupt on exit" }, { 18, "save IA32_PAT" }, { 19, "load IA32_PAT" },
	{ 20, "save IA32_EFER" }, { 21, "load IA32_EFER" }, { 22, "save VMX-preemption timer value" },
	{ 23, "clear IA32_BNDCFGS" }, { 24, "conceal VMX from PT" }, { 25, "clear IA32_RTIT_CTL" },
	{ 28, "load CET state" }, { 29, "load PKRS" }, { 30, "save IA32_PERF_GLOBAL_CTL" },
	{ 31, "activate secondary controls" }, { 0, NULL },
};
static const struct vmcs_bit vm_entry[] = {
	{ 2, "load debug controls" }, { 9, "IA-32e mode guest" }, { 10, "entry to SMM" },
	{ 11, "deactivate dual-monitor treatment" }, { 13, "load IA32_PERF_GLOBAL_CTRL" }, { 14, "load IA32_PAT" },
	{ 15, "load IA32_EFER" }, { 16, "load IA32_BNDCFGS" }, { 17, "conceal VMX from PT" },
	{ 18, "load IA32_RTIT_CTL" }, { 20, "load CET state" }, { 22, "load PKRS" }, { 0, NULL },
};

const struct vmcs_bit *vmcs_control_bits(uint32_t encoding)
{
	switch (encoding) {
	case PIN_BASED_VM_EXEC_CONTROL: return pin;
	case CPU_BASED_VM_EXEC_CONTROL: return primary;
	case SECONDARY_VM_EXEC_CONTROL: return secondary;
	case VM_EXIT_CONTROLS: return vm_exit;
	case VM_ENTRY_CONTROLS: return vm_entry;
	default: return NULL;
	}
}

static bool begins(const char *s, const char *with)
{
	return strncmp(s, with, strlen(with)) == 0;
}

static const char *group_of_control(const char *name)
{
	if (begins(name, "VM_EXIT_"))
		return "VM-exit control fields";
	return begins(name, "VM_ENTRY_") ? "VM-entry control fields" : "VM-execution control fields";
}

const char *vmcs_group(uint32_t encoding)
{
	switch (vmcs_field_kind(encoding)) {
	case VMCS_KIND_HOST: return "host-state area";
	case VMCS_KIND_RO: return "VM-exit information fields";
	case VMCS_KIND_CONTROL: return group_of_control(vmcs_field_name(encoding));
	case VMCS_KIND_GUEST: break;
	}
	switch (encoding) {
	case GUEST_ACTIVITY_STATE: case GUEST_INTERRUPTIBILITY_INFO: case GUEST_PENDING_DBG_EXCEPTIONS:
	case VMCS_LINK_POINTER: case VMX_PREEMPTION_TIMER_VALUE: case GUEST_PDPTR0: case GUEST_PDPTR1:
	case GUEST_PDPTR2: case GUEST_PDPTR3: case GUEST_INTR_STATUS: case GUEST_PML_INDEX:
		return "guest-state area: non-register state";
	default:
		return "guest-state area: register state";
	}
}

int vmcs_digits(uint32_t encoding)
{
	switch (vmcs_field_width(encoding)) {
	case VMCS_WIDTH_16: return 4;
	case VMCS_WIDTH_32: return 8;
	default: return 16;
	}
}

/* --- values --- */

/* Names of single bits, from bit 0 on, a bar between them; "" for one without. */
static void bit_names(uint64_t v, const char *names, char *buf, size_t size)
{
	size_t len = 0;

	*buf = '\0';
	for (unsigned n = 0; v >> n && n < 64; n++) {
		size_t name = strcspn(names, "|");

		if (v >> n & 1 && len < size)
			len += (size_t)(name ? snprintf(buf + len, size - len, "%s%.*s", len ? " " : "", (int)name, names)
					     : snprintf(buf + len, size - len, "%sbit%u", len ? " " : "", n));
		names += name + (names[name] == '|');
		if (n == 63)
			break;
	}
}

/* Of a mask that is nearly all ones, what is missing. */
static void mask_names(uint64_t v, const char *names, char *buf, size_t size)
{
	static const char but[] = "all but ";

	if (v >> 32 != 0xffffffff) {
		bit_names(v, names, buf, size);
		return;
	}
	snprintf(buf, size, "%s", ~v ? but : "all");
	if (~v)
		bit_names(~v, names, buf + sizeof(but) - 1, size - sizeof(but) + 1);
}

#define CR0_BITS "PE|MP|EM|TS|ET|NE|||||||||||WP||AM|||||||||||NW|CD|PG"
#define CR4_BITS "VME|PVI|TSD|DE|PSE|PAE|MCE|PGE|PCE|OSFXSR|OSXMMEXCPT|UMIP|LA57|VMXE|SMXE||FSGSBASE|PCIDE|OSXSAVE|KL|SMEP|SMAP|PKE|CET|PKS"
#define RFLAGS_BITS "CF|1|PF||AF||ZF|SF|TF|IF|DF|OF|IOPL0|IOPL1|NT||RF|VM|AC|VIF|VIP|ID"
#define EFER_BITS "SCE||||||||LME||LMA|NXE"
#define EXCEPTIONS "#DE|#DB|NMI|#BP|#OF|#BR|#UD|#NM|#DF||#TS|#NP|#SS|#GP|#PF||#MF|#AC|#MC|#XM|#VE|#CP"
#define DR6_BITS "B0|B1|B2|B3||||||||bus lock|enabled breakpoint||BS||RTM"

static void interruption(uint64_t v, char *buf, size_t size)
{
	static const char *const type[] = { "external interrupt", "reserved type 1", "NMI", "hardware exception",
					    "software interrupt", "privileged software exception",
					    "software exception", "other event" };

	if (!(v & INTR_INFO_VALID_MASK))
		snprintf(buf, size, "not valid");
	else
		snprintf(buf, size, "%s, vector %llu%s", type[FIELD_GET(INTR_INFO_INTR_TYPE_MASK, v)],
			 (ull)(v & INTR_INFO_VECTOR_MASK), v & INTR_INFO_DELIVER_CODE_MASK ? ", with error code" : "");
}

static void access_rights(uint64_t v, char *buf, size_t size)
{
	if (v & VMX_AR_UNUSABLE)
		snprintf(buf, size, "unusable");
	else
		snprintf(buf, size, "type %llu%s DPL %llu%s%s%s%s%s", (ull)(v & VMX_AR_TYPE_MASK), v & VMX_AR_S ? " S" : "",
			 (ull)FIELD_GET(VMX_AR_DPL_MASK, v), v & VMX_AR_P ? " P" : " not present", v & VMX_AR_AVL ? " AVL" : "",
			 v & VMX_AR_L ? " L" : "", v & VMX_AR_DB ? " D/B" : "", v & VMX_AR_G ? " G" : "");
}

static void activity(uint64_t v, char *buf, size_t size)
{
	static const char *const state[] = { "active", "HLT", "shutdown", "wait-for-SIPI" };

	snprintf(buf, size, "%s", v < ARRAY_SIZE(state) ? state[v] : "reserved");
}

static void eptp(uint64_t v, char *buf, size_t size)
{
	if (!v)
		return;
	snprintf(buf, size, "table at 0x%llx, %llu levels, memory type %llu, A/D %s", (ull)(v & EPTP_ROOT_MASK),
		 (ull)FIELD_GET(EPTP_WALK_MASK, v) + 1, (ull)(v & EPTP_MEMTYPE_MASK), v & EPTP_AD_ENABLE ? "on" : "off");
}

static void words_by_field(uint32_t encoding, uint64_t v, char *buf, size_t size)
{
	switch (encoding) {
	case GUEST_CR0: case HOST_CR0: case CR0_READ_SHADOW: bit_names(v, CR0_BITS, buf, size); break;
	case GUEST_CR4: case HOST_CR4: case CR4_READ_SHADOW: bit_names(v, CR4_BITS, buf, size); break;
	case CR0_GUEST_HOST_MASK: mask_names(v, CR0_BITS, buf, size); break;
	case CR4_GUEST_HOST_MASK: mask_names(v, CR4_BITS, buf, size); break;
	case GUEST_RFLAGS: bit_names(v, RFLAGS_BITS, buf, size); break;
	case GUEST_IA32_EFER: case HOST_IA32_EFER: bit_names(v, EFER_BITS, buf, size); break;
	case EXCEPTION_BITMAP: bit_names(v, EXCEPTIONS, buf, size); break;
	case GUEST_PENDING_DBG_EXCEPTIONS: bit_names(v, DR6_BITS, buf, size); break;
	case GUEST_INTERRUPTIBILITY_INFO:
		bit_names(v, "blocking by STI|blocking by MOV SS|blocking by SMI|blocking by NMI|enclave", buf, size);
		break;
	case VM_ENTRY_INTR_INFO_FIELD: case VM_EXIT_INTR_INFO: case IDT_VECTORING_INFO_FIELD: interruption(v, buf, size); break;
	case GUEST_ACTIVITY_STATE: activity(v, buf, size); break;
	case EPT_POINTER: eptp(v, buf, size); break;
	case VM_EXIT_REASON:
		snprintf(buf, size, "%s%s", exit_reason_name((uint32_t)v), v & BIT_ULL(31) ? ", VM entry failed" : "");
		break;
	case VMCS_LINK_POINTER: snprintf(buf, size, "%s", v == ~0ULL ? "none" : ""); break;
	default: break;
	}
}

void vmcs_value_words(uint32_t encoding, uint64_t v, char *buf, size_t size)
{
	*buf = '\0';
	if (encoding >= GUEST_ES_AR_BYTES && encoding <= GUEST_TR_AR_BYTES && !(encoding & 1))
		access_rights(v, buf, size);
	else
		words_by_field(encoding, v, buf, size);
}
