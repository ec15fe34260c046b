/*
 * Port I/O of the machine: 16550 (3f8h), RTC (70h), ACPI fixed registers,
 * reset (cf9h, and the keyboard controller's pulse). Other ports read as ones,
 * as an ISA bus without a device does.
 */
#include <string.h>
#include <time.h>

#include "tools/boot/vm.h"

#define COM1 0x3f8
#define PM_TIMER_HZ 3579545ULL

static uint32_t pm_timer(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint32_t)((uint64_t)t.tv_sec * PM_TIMER_HZ + (uint64_t)t.tv_nsec * PM_TIMER_HZ / 1000000000ULL);
}

static uint8_t in_byte(struct vm *vm, uint16_t port)
{
	if (port >= COM1 && port < COM1 + 8)
		return uart_read(vm->uart, port - COM1);
	switch (port) {
	case 0x70:
	case 0x71: return rtc_read(vm->rtc, port - 0x70);
	case ACPI_PM1A_EVT ... ACPI_PM1A_EVT + 1: return 0; /* status: no event ever happens */
	case ACPI_PM1A_EVT + 2 ... ACPI_PM1A_EVT + 3: return vm->pm1_enable[port - ACPI_PM1A_EVT - 2];
	case ACPI_PM1A_CNT: return vm->pm1_cnt_lo | 1;	     /* SCI_EN: ACPI mode always */
	case ACPI_PM1A_CNT + 1: return 0;
	case ACPI_PM_TIMER ... ACPI_PM_TIMER + 3: return (uint8_t)(pm_timer() >> 8 * (port - ACPI_PM_TIMER));
	default: return 0xff;
	}
}

static void out_byte(struct vm *vm, uint16_t port, uint8_t v)
{
	if (port >= COM1 && port < COM1 + 8) {
		uart_write(vm->uart, port - COM1, v);
		return;
	}
	switch (port) {
	case 0x70:
	case 0x71: rtc_write(vm->rtc, port - 0x70, v); break;
	case ACPI_PM1A_EVT + 2 ... ACPI_PM1A_EVT + 3: vm->pm1_enable[port - ACPI_PM1A_EVT - 2] = v; break;
	case ACPI_PM1A_CNT: vm->pm1_cnt_lo = v; break;
	case ACPI_PM1A_CNT + 1: /* SLP_EN is bit 13, SLP_TYP bits 12:10 */
		if ((v & 0x20) && (v >> 2 & 7) == ACPI_SLP_TYP_S5)
			vm_stop(vm, 0);
		break;
	case 0x64:
		if (v == 0xfe)
			vm_stop(vm, VM_RESET);
		break;
	default: break;
	}
}

static void access_locked(struct vm *vm, uint16_t port, bool out, unsigned size, uint8_t *data)
{
	uint32_t now;

	if (!out && port == ACPI_PM_TIMER && size == 4) { /* one moment for all four bytes */
		now = pm_timer();
		memcpy(data, &now, 4);
		return;
	}
	if (out && port == RESET_PORT && size == 1) { /* wider ones are PCI's configuration address at cf8h */
		if (*data & 4)
			vm_stop(vm, VM_RESET);
		return;
	}
	for (unsigned i = 0; i < size; i++) {
		if (out)
			out_byte(vm, (uint16_t)(port + i), data[i]);
		else
			data[i] = in_byte(vm, (uint16_t)(port + i));
	}
}

void io_access(struct vm *vm, uint16_t port, bool out, unsigned size, uint8_t *data)
{
	pthread_mutex_lock(&vm->io_lock);
	access_locked(vm, port, out, size, data);
	pthread_mutex_unlock(&vm->io_lock);
}
