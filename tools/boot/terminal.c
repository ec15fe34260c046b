/*
 * The user's terminal: raw while the guest runs, a thread that carries what is
 * typed to the UART, and Ctrl-A x to leave (Ctrl-A Ctrl-A sends a Ctrl-A).
 */
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <stdio.h>
#include <termios.h>
#include <unistd.h>

#include "tools/boot/vm.h"

#define CTRL_A 1

static struct termios saved;
static bool raw;

void terminal_restore(void)
{
	if (raw)
		tcsetattr(STDIN_FILENO, TCSANOW, &saved);
	raw = false;
}

static void *reader(void *arg)
{
	struct vm *vm = arg;
	bool escape = false, interactive = isatty(STDIN_FILENO);
	uint8_t in[64], out[64];
	ssize_t n;

	while ((n = read(STDIN_FILENO, in, sizeof(in))) > 0) {
		size_t m = 0;

		for (ssize_t i = 0; i < n; i++) {
			if (interactive && escape) {
				escape = false;
				if (in[i] == 'x' || in[i] == 'X') {
					fputs("\r\nuserkvm boot: stopped by Ctrl-A x\r\n", stderr);
					vm_stop(vm, 0);
					return NULL;
				}
				if (in[i] != CTRL_A)
					continue;
			} else if (interactive && in[i] == CTRL_A) {
				escape = true;
				continue;
			}
			out[m++] = in[i];
		}
		if (interactive)
			watchdog_input();
		uart_receive(vm->uart, out, m);
	}
	return NULL;
}

int terminal_start(struct vm *vm)
{
	sigset_t all, old;
	pthread_t thread;
	int ret;

	if (isatty(STDIN_FILENO) && tcgetattr(STDIN_FILENO, &saved) == 0) {
		struct termios t = saved;

		cfmakeraw(&t);
		t.c_oflag |= OPOST; /* our own messages keep their line ends */
		raw = tcsetattr(STDIN_FILENO, TCSANOW, &t) == 0;
		atexit(terminal_restore);
	}
	/* Signals are the vCPU thread's. */
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	ret = pthread_create(&thread, NULL, reader, vm);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (ret == 0)
		pthread_detach(thread);
	return ret;
}
