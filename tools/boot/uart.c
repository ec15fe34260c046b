/*
 * A 16550A on the terminal: what the guest transmits goes to standard output
 * at once, what is typed arrives through a FIFO. IRQ 4, level by KVM_IRQ_LINE.
 *
 * Lock: `lock` guards everything; the vCPU's thread and the terminal's meet here.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "tools/boot/vm.h"

#define UART_IRQ 4
enum { RBR_THR_DLL, IER_DLM, IIR_FCR, LCR, MCR, LSR, MSR, SCR };
enum { IER_RDI = 1, IER_THRI = 2, IER_RLSI = 4, IER_MSI = 8 };
enum { IIR_NONE = 1, IIR_THRI = 2, IIR_RDI = 4, IIR_TIMEOUT = 12, IIR_FIFO = 0xc0 };
enum { LCR_DLAB = 0x80 };
enum { MCR_OUT2 = 8, MCR_LOOP = 0x10 };
enum { LSR_DR = 1, LSR_THRE = 0x20, LSR_TEMT = 0x40 };

struct uart {
	struct vm *vm;
	pthread_mutex_t lock;
	uint8_t ier, fcr, lcr, mcr, scr, dll, dlm;
	bool thr_interrupt; /* THRE has been raised and not yet read away */
	int irq_level;
	uint8_t fifo[4096]; /* larger than the chip's 16: nothing typed is lost */
	unsigned head, count;
};

struct uart *uart_create(struct vm *vm)
{
	struct uart *u = calloc(1, sizeof(*u));

	if (u) {
		u->vm = vm;
		u->dll = 1;
		pthread_mutex_init(&u->lock, NULL);
	}
	return u;
}

static uint8_t pending(const struct uart *u)
{
	if ((u->ier & IER_RDI) && u->count)
		return IIR_RDI;
	if ((u->ier & IER_THRI) && u->thr_interrupt)
		return IIR_THRI;
	return IIR_NONE;
}

static void update_irq(struct uart *u)
{
	int level = pending(u) != IIR_NONE && (u->mcr & MCR_OUT2);
	struct kvm_irq_level line = {.irq = UART_IRQ, .level = (uint32_t)level};

	if (level == u->irq_level)
		return;
	u->irq_level = level;
	u->vm->kvm->ioctl(u->vm->fd, KVM_IRQ_LINE, (unsigned long)&line);
}

static void push(struct uart *u, uint8_t c)
{
	if (u->count < sizeof(u->fifo))
		u->fifo[(u->head + u->count++) % sizeof(u->fifo)] = c;
}

static void transmit(struct uart *u, uint8_t c)
{
	if (u->mcr & MCR_LOOP)
		push(u, c);
	else {
		while (write(STDOUT_FILENO, &c, 1) < 0 && errno == EINTR)
			;
		watchdog_output(c);
	}
	u->thr_interrupt = true;
}

static uint8_t read_locked(struct uart *u, uint16_t reg)
{
	uint8_t v = 0;

	switch (reg) {
	case RBR_THR_DLL:
		if (u->lcr & LCR_DLAB)
			return u->dll;
		if (u->count) {
			v = u->fifo[u->head];
			u->head = (u->head + 1) % sizeof(u->fifo);
			u->count--;
		}
		return v;
	case IER_DLM: return u->lcr & LCR_DLAB ? u->dlm : u->ier;
	case IIR_FCR:
		v = pending(u);
		if (v == IIR_THRI)
			u->thr_interrupt = false;
		return v | (u->fcr & 1 ? IIR_FIFO : 0);
	case LCR: return u->lcr;
	case MCR: return u->mcr;
	case LSR: return LSR_THRE | LSR_TEMT | (u->count ? LSR_DR : 0);
	case MSR:
		if (u->mcr & MCR_LOOP) /* the outputs looped back: RTS>CTS DTR>DSR OUT1>RI OUT2>DCD */
			return (uint8_t)((u->mcr & 2) << 3 | (u->mcr & 1) << 5 | (u->mcr & 4) << 4 | (u->mcr & 8) << 4);
		return 0xb0; /* DCD, DSR, CTS */
	default: return u->scr;
	}
}

uint8_t uart_read(struct uart *u, uint16_t reg)
{
	uint8_t v;

	pthread_mutex_lock(&u->lock);
	v = read_locked(u, reg);
	update_irq(u);
	pthread_mutex_unlock(&u->lock);
	return v;
}

void uart_write(struct uart *u, uint16_t reg, uint8_t v)
{
	pthread_mutex_lock(&u->lock);
	switch (reg) {
	case RBR_THR_DLL:
		if (u->lcr & LCR_DLAB)
			u->dll = v;
		else
			transmit(u, v);
		break;
	case IER_DLM:
		if (u->lcr & LCR_DLAB) {
			u->dlm = v;
			break;
		}
		if (!(u->ier & IER_THRI) && (v & IER_THRI))
			u->thr_interrupt = true; /* the holding register is always empty */
		u->ier = v & 0xf;
		break;
	case IIR_FCR:
		u->fcr = v;
		if (v & 2)
			u->count = 0;
		break;
	case LCR: u->lcr = v; break;
	case MCR: u->mcr = v & 0x1f; break;
	case SCR: u->scr = v; break;
	default: break; /* LSR and MSR are read-only */
	}
	update_irq(u);
	pthread_mutex_unlock(&u->lock);
}

void uart_receive(struct uart *u, const uint8_t *data, size_t n)
{
	pthread_mutex_lock(&u->lock);
	while (n--)
		push(u, *data++);
	update_irq(u);
	pthread_mutex_unlock(&u->lock);
}
