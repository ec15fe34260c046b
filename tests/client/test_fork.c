/*
 * fork() in the middle of everything: the child has VMs of its own, with timers, irqfds and memslots that
 * change, whatever the parent's threads were doing at that moment.
 */
#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "client.h"
#include "guest_code.h"

#define FORKS 60
#define LOST_S 20 /* a child that stands still is ended by SIGALRM */

/* The 8259 at vector 20h, the 8254's channel 0 in mode 2, then HLT for ever. */
GUEST_CODE(pit_guest, 16,
	   "mov $0x11, %al; out %al, $0x20; mov $0x20, %al; out %al, $0x21\n"
	   "mov $4, %al; out %al, $0x21; mov $1, %al; out %al, $0x21; xor %ax, %ax; out %al, $0x21\n"
	   "mov $0x34, %al; out %al, $0x43; xor %ax, %ax; out %al, $0x40; mov $0x10, %al; out %al, $0x40\n"
	   "sti; 1: hlt; jmp 1b");
/* Says which it was by AX, which IRQ 0 leaves alone and IRQ 5 does not. */
GUEST_CODE(on_tick, 16, "push %ax; mov $0x20, %al; out %al, $0x20; mov $0x77, %al; out %al, $0x99; pop %ax; iret");
GUEST_CODE(on_irqfd, 16, "push %ax; mov $0x20, %al; out %al, $0x20; mov $0x55, %al; out %al, $0x98; pop %ax; iret");
/* Writes a word of each page from 10000h to 8f000h, again and again, and uses SSE. */
GUEST_CODE(busy_guest, 16,
	   "1: mov $0x1000, %bx\n"
	   "2: mov %bx, %ds; incw 0; pxor %xmm1, %xmm0; add $0x100, %bx; cmp $0x9000, %bx; jb 2b; jmp 1b");

static void put_handler(struct client *c, uint8_t vector, uint16_t at, const uint8_t *code, size_t n)
{
	memcpy(c->mem + at, code, n);
	c->mem[vector * 4] = (uint8_t)at;
	c->mem[vector * 4 + 1] = (uint8_t)(at >> 8);
}

static void open_chips(struct client *c)
{
	struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};

	client_open_vm(c, 1 << 20);
	assert_int_equal(ioctl(c->vm, KVM_CREATE_IRQCHIP, 0), 0);
	assert_int_equal(ioctl(c->vm, KVM_CREATE_PIT2, &pit), 0);
	client_add_vcpu(c);
	put_handler(c, 0x20, 0x500, on_tick, GUEST_CODE_SIZE(on_tick));
	put_handler(c, 0x25, 0x600, on_irqfd, GUEST_CODE_SIZE(on_irqfd));
}

static void use_sse(struct client *c)
{
	struct kvm_sregs s;

	assert_int_equal(ioctl(c->vcpu, KVM_GET_SREGS, &s), 0);
	s.cr4 |= 0x200; /* OSFXSR */
	assert_int_equal(ioctl(c->vcpu, KVM_SET_SREGS, &s), 0);
}

/* --- the parent's threads --- */

static struct client busy;
static volatile bool stop;

static void *runs(void *arg)
{
	while (!stop)
		ioctl(busy.vcpu, KVM_RUN, 0);
	return NULL;
}

static void *maps(void *arg)
{
	while (!stop) {
		madvise(busy.mem + 0x40000, 0x20000, MADV_DONTNEED);
		mprotect(busy.mem + 0x20000, 0x8000, PROT_READ | PROT_WRITE);
	}
	return NULL;
}

static void *makes_slots_and_vms(void *arg)
{
	while (!stop) {
		int vm = ioctl(busy.kvm, KVM_CREATE_VM, 0);

		client_slot(&busy, 1, 0, 0x200000, busy.mem, 0x10000);
		client_slot(&busy, 1, 0, 0x200000, busy.mem, 0);
		close(ioctl(vm, KVM_CREATE_VCPU, 0));
		close(vm);
	}
	return NULL;
}

/* What the library answers itself: the node among the entries of /dev. */
static bool look_at_node(void)
{
	DIR *d = opendir("/dev");
	struct dirent *e;
	struct stat st;
	bool seen = false;

	while ((e = readdir(d)))
		seen |= !strcmp(e->d_name, "kvm");
	closedir(d);
	return seen && !stat("/dev/kvm", &st) && S_ISCHR(st.st_mode);
}

static void *looks(void *arg)
{
	while (!stop)
		look_at_node();
	return NULL;
}

static void ignore(int signo)
{
}

/* --- the child --- */

static uint8_t next_out(struct client *c, uint16_t *port)
{
	assert_run_exits(c, KVM_EXIT_IO);
	*port = c->run->io.port;
	return ((uint8_t *)c->run)[c->run->io.data_offset];
}

/* A failed assertion does not come back. */
static void vm_of_its_own(void)
{
	struct kvm_irqfd irqfd = {.gsi = 5};
	uint64_t one = 1;
	struct client c;
	uint16_t port;
	int ticks = 0;

	assert_true(look_at_node());
	open_chips(&c);
	use_sse(&c);
	client_real_mode(&c, 0x1000, pit_guest, GUEST_CODE_SIZE(pit_guest));
	while (ticks < 3)
		ticks += next_out(&c, &port) == 0x77;
	irqfd.fd = (uint32_t)eventfd(0, EFD_CLOEXEC);
	assert_int_equal(ioctl(c.vm, KVM_IRQFD, &irqfd), 0);
	assert_int_equal(write((int)irqfd.fd, &one, 8), 8);
	do
		(void)next_out(&c, &port);
	while (port != 0x98);
	for (int i = 0; i < 20; i++) {
		client_slot(&c, 1, 0, 0x200000, c.mem, 0x10000);
		client_slot(&c, 1, 0, 0x200000, c.mem, 0);
		madvise(c.mem + 0x80000, 0x10000, MADV_DONTNEED);
	}
	client_close(&c);
	assert_int_equal(close(busy.vcpu), 0);
	assert_int_equal(close(busy.vm), 0);
}

static void a_forked_child_has_all_that_a_vm_needs(void **state)
{
	struct sigaction sa = {.sa_handler = ignore};
	pthread_t runner, mapper, maker, looker;

	if (getenv("SANITIZE"))
		skip(); /* its runtime's allocator is locked for ever where another thread held it */
	sigaction(SIGUSR1, &sa, NULL);
	open_chips(&busy);
	use_sse(&busy);
	client_real_mode(&busy, 0x1000, busy_guest, GUEST_CODE_SIZE(busy_guest));
	assert_int_equal(pthread_create(&runner, NULL, runs, NULL), 0);
	assert_int_equal(pthread_create(&mapper, NULL, maps, NULL), 0);
	assert_int_equal(pthread_create(&maker, NULL, makes_slots_and_vms, NULL), 0);
	assert_int_equal(pthread_create(&looker, NULL, looks, NULL), 0);
	for (int i = 0; i < FORKS; i++) {
		int status;
		pid_t pid = fork();

		assert_true(pid >= 0);
		if (pid == 0) {
			alarm(LOST_S);
			vm_of_its_own();
			_exit(0);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		if (status)
			stop = true;
		assert_int_equal(status, 0);
	}
	stop = true;
	busy.run->immediate_exit = 1;
	pthread_kill(runner, SIGUSR1);
	pthread_join(runner, NULL);
	pthread_join(mapper, NULL);
	pthread_join(maker, NULL);
	pthread_join(looker, NULL);
	client_close(&busy);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_forked_child_has_all_that_a_vm_needs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
