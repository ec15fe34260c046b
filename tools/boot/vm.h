/*
 * userkvm boot: a small VMM, written against <linux/kvm.h> only.
 *
 * The KVM it talks to is a table of four calls: this project's library
 * (in-process) or the kernel's /dev/kvm (--kvm /dev/kvm). Everything else is
 * the same on both.
 *
 * Guest-physical layout
 *   0x0000_0000  conventional memory to 0x9fc00
 *   0x0009_fc00  EBDA (RSDP at its start: found by the kernel's own scan too)
 *   0x000e_0000  ACPI tables
 *   0x0010_0000  kernel, initrd at the top of low memory
 *   0xc000_0000  end of low memory at the most; the rest starts at 4 GiB
 */
#ifndef USERKVM_TOOLS_BOOT_VM_H
#define USERKVM_TOOLS_BOOT_VM_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct kvm_calls {
	int (*open)(const char *path, int flags);
	int (*ioctl)(int fd, unsigned long request, unsigned long arg);
	void *(*mmap)(void *addr, size_t len, int prot, int flags, int fd, long offset);
	int (*close)(int fd);
};
extern const struct kvm_calls kernel_kvm;  /* the machine's /dev/kvm */
extern const struct kvm_calls library_kvm; /* libuserkvm, in this process */

#define LOW_MEM_END 0xc0000000ULL
#define HIGH_MEM_START 0x100000000ULL
#define ACPI_BASE 0x000e0000ULL
#define EBDA_BASE 0x0009fc00ULL
#define BOOT_INFO_BASE 0x00006000ULL
#define CMDLINE_BASE 0x00020000ULL
#define CMDLINE_MAX 2048

#define MAX_VCPUS 255 /* APIC ids of a byte: the MADT has no x2APIC entries */

struct vm;
struct vcpu {
	struct vm *vm;
	unsigned id; /* the APIC id too */
	int fd;
	struct kvm_run *run;
	pthread_t thread;
	uint64_t nr_exits; /* of KVM_RUN, EINTR not counted */
	uint32_t last_exit;
	bool started; /* thread is one to be joined; vCPU 0's is the main thread */
};

struct vm {
	const struct kvm_calls *kvm;
	int sys_fd, fd;
	struct vcpu *vcpus;
	unsigned nr_vcpus;
	uint8_t *mem; /* guest memory: low part, then the part above 4 GiB */
	uint64_t mem_size, low_size;
	struct uart *uart;
	struct rtc *rtc;
	uint8_t pm1_cnt_lo, pm1_enable[2];
	pthread_mutex_t io_lock; /* one port access at a time */
	pthread_mutex_t stop_lock;
	bool stop; /* atomic: power-off, reset or Ctrl-A x */
	int status;
};

/* vm.c: one line on stderr with what errno says; -1. */
int failed(const char *what);
/* A host pointer to [gpa, gpa+len) of guest memory, NULL where it is not all memory. */
void *guest_ptr(struct vm *vm, uint64_t gpa, uint64_t len);
#define VM_RESET (-1) /* status of a guest that asked for a reset */
void vm_stop(struct vm *vm, int status); /* any thread */

/* load.c: a bzImage or an ELF kernel into guest memory. 0, or -1 after one line on stderr. */
struct loaded_kernel {
	uint64_t entry;	  /* PVH entry point (XEN_ELFNOTE_PHYS32_ENTRY) */
	uint64_t end;	  /* first free address after the kernel */
};
int load_kernel(struct vm *vm, const char *path, struct loaded_kernel *out);
int read_file(const char *path, uint8_t **data, size_t *size);

/* unpack.c: the payload of a bzImage, by its magic (lz4, gzip, xz, zstd). NULL with *why. */
uint8_t *unpack(const uint8_t *in, size_t in_size, size_t *out_size, const char **why);

/* acpi.c: RSDP, XSDT, FADT, MADT (every vCPU), DSDT (S5). The address of the RSDP. */
uint64_t acpi_build(struct vm *vm);
#define ACPI_PM1A_EVT 0x600
#define ACPI_PM1A_CNT 0x604
#define ACPI_PM_TIMER 0x608
#define ACPI_SLP_TYP_S5 5
#define RESET_PORT 0xcf9

/* pvh.c: the start-of-day structure of the PVH protocol; returns its address. */
uint64_t pvh_build(struct vm *vm, uint64_t rsdp, const char *cmdline, uint64_t initrd, uint64_t initrd_size);
/* Registers as the PVH protocol wants them. */
int pvh_set_registers(struct vm *vm, uint64_t entry, uint64_t start_info);

/* vcpu.c: one thread for each vCPU; the first runs on the caller's. */
int vcpus_create(struct vm *vm);
/* Until somebody stops the VM: vm->status is set, every other thread has ended. */
int vcpus_run(struct vm *vm);

/* devices */
struct uart *uart_create(struct vm *vm);
uint8_t uart_read(struct uart *u, uint16_t reg);
void uart_write(struct uart *u, uint16_t reg, uint8_t v);
void uart_receive(struct uart *u, const uint8_t *data, size_t n); /* any thread */
struct rtc *rtc_create(void);
uint8_t rtc_read(struct rtc *r, uint16_t reg);
void rtc_write(struct rtc *r, uint16_t reg, uint8_t v);

/* terminal.c: raw mode and Ctrl-A x, when stdin is a terminal. */
int terminal_start(struct vm *vm);
void terminal_restore(void);

/*
 * watchdog.c. After `seconds` (0: never) without a byte on the console vm_stop(vm, 1). Returns 0 or
 * an error number. watchdog_finish(), when no vCPU runs any more: true after it has told on stderr
 * why the guest was ended.
 */
int watchdog_start(struct vm *vm, unsigned seconds);
bool watchdog_finish(struct vm *vm);
void watchdog_output(uint8_t c); /* by the UART, under its lock */
void watchdog_input(void);	 /* something was typed */
uint64_t console_written(void);	 /* bytes */
/* One line: registers, exception, exits of a vCPU that does not run. */
void print_standing(struct vcpu *v, FILE *f);

/* io.c: one KVM_EXIT_IO. */
void io_access(struct vm *vm, uint16_t port, bool out, unsigned size, uint8_t *data);

#endif
