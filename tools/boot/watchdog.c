/*
 * userkvm boot --watchdog: a guest that makes no progress is ended, with what is
 * known of where it stands, instead of being waited for.
 *
 * Progress is a byte on the serial console. At a terminal a guest that idles is
 * left alone (it waits at a prompt), and the watchdog ends with the first key typed.
 *
 * Locks: the console's last bytes are written under the UART's lock and read when
 * no vCPU runs; the counters are atomic.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tools/boot/vm.h"

#define LAST_BYTES 2048
#define LAST_LINES 8
#define GRACE_S 10 /* for the vCPUs to leave KVM_RUN */

static struct {
	uint64_t written;  /* (a) bytes on the console */
	bool typed;	   /* (a) */
	bool expired;	   /* (a) */
	bool over;	   /* (a) the vCPUs have ended */
	unsigned seconds;
	char last[LAST_BYTES];
} dog;

uint64_t console_written(void)
{
	return __atomic_load_n(&dog.written, __ATOMIC_RELAXED);
}

void watchdog_output(uint8_t c)
{
	uint64_t n = __atomic_fetch_add(&dog.written, 1, __ATOMIC_RELAXED);

	dog.last[n % LAST_BYTES] = (char)c;
}

void watchdog_input(void)
{
	__atomic_store_n(&dog.typed, true, __ATOMIC_RELAXED);
}

static double seconds_of(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void sleep_ms(long ms)
{
	struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

	nanosleep(&t, NULL);
}

static void *watch(void *arg)
{
	struct vm *vm = arg;
	bool interactive = isatty(STDIN_FILENO);
	double since = seconds_of(CLOCK_MONOTONIC), cpu = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
	uint64_t seen = 0, now;

	for (;;) {
		sleep_ms(200);
		if (__atomic_load_n(&dog.over, __ATOMIC_SEQ_CST) || __atomic_load_n(&dog.typed, __ATOMIC_RELAXED))
			return NULL;
		now = console_written();
		if (now != seen) {
			seen = now;
			since = seconds_of(CLOCK_MONOTONIC);
			cpu = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
			continue;
		}
		if (seconds_of(CLOCK_MONOTONIC) - since < dog.seconds)
			continue;
		if (!interactive || seconds_of(CLOCK_PROCESS_CPUTIME_ID) - cpu > 0.1 * dog.seconds)
			break;
		since = seconds_of(CLOCK_MONOTONIC);
		cpu = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
	}
	__atomic_store_n(&dog.expired, true, __ATOMIC_SEQ_CST);
	vm_stop(vm, 1);
	for (int n = 0; n < GRACE_S * 5 && !__atomic_load_n(&dog.over, __ATOMIC_SEQ_CST); n++)
		sleep_ms(200);
	if (__atomic_load_n(&dog.over, __ATOMIC_SEQ_CST))
		return NULL;
	terminal_restore();
	fprintf(stderr, "\r\nuserkvm boot: nothing on the console for %u s, and a vCPU does not leave KVM_RUN\r\n", dog.seconds);
	_exit(1);
}

int watchdog_start(struct vm *vm, unsigned seconds)
{
	sigset_t all, old;
	pthread_t thread;
	int ret;

	if (!seconds)
		return 0;
	dog.seconds = seconds;
	/* signals are the vCPU threads' */
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	ret = pthread_create(&thread, NULL, watch, vm);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (ret == 0)
		pthread_detach(thread);
	return ret;
}

static void print_last_lines(FILE *f)
{
	uint64_t end = console_written(), at = end;
	int lines = 0;

	while (at > 0 && end - at < LAST_BYTES - 1) {
		if (dog.last[(at - 1) % LAST_BYTES] == '\n' && at != end && ++lines == LAST_LINES)
			break;
		at--;
	}
	if (at == end) {
		fputs("  it has written nothing\r\n", f);
		return;
	}
	fputs("  its last lines:\r\n", f);
	for (bool begin = true; at < end; at++) {
		char c = dog.last[at % LAST_BYTES];

		if (begin)
			fputs("  | ", f);
		begin = c == '\n';
		if (c == '\n')
			fputs("\r\n", f);
		else if (c >= ' ' || c == '\t')
			fputc(c, f);
		else if (c != '\r')
			fprintf(f, "\\x%02x", (unsigned char)c);
	}
	if (dog.last[(end - 1) % LAST_BYTES] != '\n')
		fputs("\r\n", f);
}

static const char *mp_state_name(uint32_t state)
{
	switch (state) {
	case KVM_MP_STATE_RUNNABLE: return "running";
	case KVM_MP_STATE_HALTED: return "halted";
	case KVM_MP_STATE_UNINITIALIZED: return "not started";
	case KVM_MP_STATE_INIT_RECEIVED: return "waits for SIPI";
	default: return "in another state";
	}
}

void print_standing(struct vcpu *v, FILE *f)
{
	const struct kvm_calls *kvm = v->vm->kvm;
	struct kvm_mp_state mp = {0};
	struct kvm_vcpu_events ev;
	struct kvm_sregs s;
	struct kvm_regs r;

	if (kvm->ioctl(v->fd, KVM_GET_REGS, (unsigned long)&r) < 0 || kvm->ioctl(v->fd, KVM_GET_SREGS, (unsigned long)&s) < 0 ||
	    kvm->ioctl(v->fd, KVM_GET_VCPU_EVENTS, (unsigned long)&ev) < 0)
		return;
	kvm->ioctl(v->fd, KVM_GET_MP_STATE, (unsigned long)&mp);
	fprintf(f, "  vCPU %u, %s: rip 0x%llx, cs 0x%x, rflags 0x%llx, rsp 0x%llx, cr0 0x%llx, cr2 0x%llx, cr3 0x%llx, ", v->id,
		mp_state_name(mp.mp_state), r.rip, s.cs.selector, r.rflags, r.rsp, s.cr0, s.cr2, s.cr3);
	if (ev.exception.injected || ev.exception.pending)
		fprintf(f, "exception %u (error code 0x%x) on its way, ", ev.exception.nr,
			ev.exception.has_error_code ? ev.exception.error_code : 0);
	else if (ev.interrupt.injected)
		fprintf(f, "interrupt %u on its way, ", ev.interrupt.nr);
	else
		fputs("no exception, ", f);
	if (v->nr_exits)
		fprintf(f, "%llu exits, the last of reason %u\r\n", (unsigned long long)v->nr_exits, v->last_exit);
	else
		fputs("no exit\r\n", f);
}

bool watchdog_finish(struct vm *vm)
{
	__atomic_store_n(&dog.over, true, __ATOMIC_SEQ_CST);
	if (!__atomic_load_n(&dog.expired, __ATOMIC_SEQ_CST))
		return false;
	terminal_restore();
	fflush(stdout);
	fprintf(stderr, "\r\nuserkvm boot: nothing on the guest's console for %u s: it is ended\r\n", dog.seconds);
	print_last_lines(stderr);
	for (unsigned i = 0; i < vm->nr_vcpus; i++)
		print_standing(&vm->vcpus[i], stderr);
	return true;
}
