/*
 * The smallest ACPI that Linux is content with: processors and one IOAPIC
 * (MADT), fixed registers for power-off (FADT, \_S5 in the DSDT).
 * (ACPI 6.4: "ACPI Software Programming Model", table layouts.)
 */
#include <string.h>

#include "tools/boot/vm.h"

#define IOAPIC_BASE 0xfec00000u
#define LAPIC_BASE 0xfee00000u
#define SCI_IRQ 9

struct __attribute__((packed)) acpi_header {
	char signature[4];
	uint32_t length;
	uint8_t revision, checksum;
	char oem_id[6], oem_table_id[8];
	uint32_t oem_revision;
	char creator_id[4];
	uint32_t creator_revision;
};

struct __attribute__((packed)) acpi_gas {
	uint8_t space, bit_width, bit_offset, access_size;
	uint64_t address;
};

struct __attribute__((packed)) acpi_fadt {
	struct acpi_header h;
	uint32_t firmware_ctrl, dsdt;
	uint8_t reserved, pm_profile;
	uint16_t sci_int;
	uint32_t smi_cmd;
	uint8_t acpi_enable, acpi_disable, s4bios_req, pstate_cnt;
	uint32_t pm1a_evt_blk, pm1b_evt_blk, pm1a_cnt_blk, pm1b_cnt_blk;
	uint32_t pm2_cnt_blk, pm_tmr_blk, gpe0_blk, gpe1_blk;
	uint8_t pm1_evt_len, pm1_cnt_len, pm2_cnt_len, pm_tmr_len;
	uint8_t gpe0_blk_len, gpe1_blk_len, gpe1_base, cst_cnt;
	uint16_t p_lvl2_lat, p_lvl3_lat, flush_size, flush_stride;
	uint8_t duty_offset, duty_width, day_alrm, mon_alrm, century;
	uint16_t iapc_boot_arch;
	uint8_t reserved2;
	uint32_t flags;
	struct acpi_gas reset_reg;
	uint8_t reset_value;
	uint16_t arm_boot_arch;
	uint8_t minor_revision;
	uint64_t x_firmware_ctrl, x_dsdt;
	struct acpi_gas x_pm1a_evt, x_pm1b_evt, x_pm1a_cnt, x_pm1b_cnt, x_pm2_cnt, x_pm_tmr, x_gpe0, x_gpe1;
	struct acpi_gas sleep_control, sleep_status;
	uint64_t hypervisor_id;
};

struct __attribute__((packed)) acpi_madt {
	struct acpi_header h;
	uint32_t lapic_address, flags;
	struct __attribute__((packed)) {
		uint8_t type, length, id, reserved;
		uint32_t address, gsi_base;
	} ioapic;
	struct __attribute__((packed)) {
		uint8_t type, length, bus, source;
		uint32_t gsi;
		uint16_t flags;
	} sci; /* the SCI is level-triggered, active high */
	struct __attribute__((packed)) {
		uint8_t type, length, processor_id;
		uint16_t flags;
		uint8_t lint;
	} nmi; /* LINT1 of every processor, as vcpu.c wires it */
	struct __attribute__((packed)) {
		uint8_t type, length, processor_id, apic_id;
		uint32_t flags;
	} lapic[]; /* one for each vCPU */
};

struct __attribute__((packed)) acpi_rsdp {
	char signature[8];
	uint8_t checksum;
	char oem_id[6];
	uint8_t revision;
	uint32_t rsdt;
	uint32_t length;
	uint64_t xsdt;
	uint8_t ext_checksum, reserved[3];
};

static uint8_t checksum(const void *p, size_t n)
{
	const uint8_t *b = p;
	uint8_t sum = 0;

	while (n--)
		sum = (uint8_t)(sum + *b++);
	return (uint8_t)-sum;
}

static void header(struct acpi_header *h, const char *signature, size_t length, uint8_t revision)
{
	memcpy(h->signature, signature, 4);
	h->length = (uint32_t)length;
	h->revision = revision;
	memcpy(h->oem_id, "USRKVM", 6);
	memcpy(h->oem_table_id, "USERKVM ", 8);
	h->oem_revision = 1;
	memcpy(h->creator_id, "UKVM", 4);
	h->creator_revision = 1;
}

static void seal(struct acpi_header *h)
{
	h->checksum = 0;
	h->checksum = checksum(h, h->length);
}

/* Name (\_S5, Package () { 5, 5, 0, 0 }) in AML. */
static const uint8_t dsdt_aml[] = {
	0x08, '\\', '_', 'S', '5', '_',
	0x12, 0x08, 0x04, 0x0a, ACPI_SLP_TYP_S5, 0x0a, ACPI_SLP_TYP_S5, 0x00, 0x00,
};

uint64_t acpi_build(struct vm *vm)
{
	struct {
		struct acpi_header h;
		uint8_t aml[sizeof(dsdt_aml)];
	} __attribute__((packed)) *dsdt = guest_ptr(vm, ACPI_BASE + 0x100, sizeof(*dsdt));
	struct acpi_fadt *fadt = guest_ptr(vm, ACPI_BASE + 0x200, sizeof(*fadt));
	size_t madt_size = sizeof(struct acpi_madt) + vm->nr_vcpus * sizeof(((struct acpi_madt *)0)->lapic[0]);
	struct acpi_madt *madt = guest_ptr(vm, ACPI_BASE + 0x1000, madt_size);
	struct {
		struct acpi_header h;
		uint64_t entry[2];
	} __attribute__((packed)) *xsdt = guest_ptr(vm, ACPI_BASE + 0x500, sizeof(*xsdt));
	struct acpi_rsdp *rsdp = guest_ptr(vm, ACPI_BASE, sizeof(*rsdp));
	const struct acpi_gas io = {.space = 1, .access_size = 1};

	header(&dsdt->h, "DSDT", sizeof(*dsdt), 2);
	memcpy(dsdt->aml, dsdt_aml, sizeof(dsdt_aml));
	seal(&dsdt->h);

	header(&fadt->h, "FACP", sizeof(*fadt), 6);
	fadt->dsdt = (uint32_t)(ACPI_BASE + 0x100);
	fadt->x_dsdt = ACPI_BASE + 0x100;
	fadt->sci_int = SCI_IRQ;
	fadt->pm1a_evt_blk = ACPI_PM1A_EVT;
	fadt->pm1_evt_len = 4;
	fadt->pm1a_cnt_blk = ACPI_PM1A_CNT;
	fadt->pm1_cnt_len = 2;
	fadt->pm_tmr_blk = ACPI_PM_TIMER;
	fadt->pm_tmr_len = 4;
	fadt->p_lvl2_lat = 0xffff; /* no C2, no C3 */
	fadt->p_lvl3_lat = 0xffff;
	fadt->century = 0x32;
	fadt->iapc_boot_arch = 1 << 0; /* legacy devices, no i8042 */
	/* WBINVD works, 32-bit PM timer, reset register, power and sleep buttons are no fixed hardware */
	fadt->flags = 1 << 0 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 10;
	fadt->reset_reg = io;
	fadt->reset_reg.bit_width = 8;
	fadt->reset_reg.address = RESET_PORT;
	fadt->reset_value = 6;
	seal(&fadt->h);

	header(&madt->h, "APIC", madt_size, 4);
	madt->lapic_address = LAPIC_BASE;
	madt->flags = 1; /* there is an 8259 pair too */
	for (unsigned i = 0; i < vm->nr_vcpus; i++) {
		madt->lapic[i].type = 0;
		madt->lapic[i].length = sizeof(madt->lapic[i]);
		madt->lapic[i].processor_id = madt->lapic[i].apic_id = (uint8_t)i;
		madt->lapic[i].flags = 1;
	}
	madt->ioapic.type = 1;
	madt->ioapic.length = sizeof(madt->ioapic);
	madt->ioapic.address = IOAPIC_BASE;
	madt->sci.type = 2;
	madt->sci.length = sizeof(madt->sci);
	madt->sci.source = SCI_IRQ;
	madt->sci.gsi = SCI_IRQ;
	madt->sci.flags = 0xd;
	madt->nmi.type = 4;
	madt->nmi.length = sizeof(madt->nmi);
	madt->nmi.processor_id = 0xff;
	madt->nmi.lint = 1;
	seal(&madt->h);

	header(&xsdt->h, "XSDT", sizeof(*xsdt), 1);
	xsdt->entry[0] = ACPI_BASE + 0x200;
	xsdt->entry[1] = ACPI_BASE + 0x1000;
	seal(&xsdt->h);

	memcpy(rsdp->signature, "RSD PTR ", 8);
	memcpy(rsdp->oem_id, "USRKVM", 6);
	rsdp->revision = 2;
	rsdp->length = sizeof(*rsdp);
	rsdp->xsdt = ACPI_BASE + 0x500;
	rsdp->checksum = checksum(rsdp, 20);
	rsdp->ext_checksum = checksum(rsdp, sizeof(*rsdp));
	return ACPI_BASE;
}
