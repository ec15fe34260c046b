/*
 * What implements KVM is never a guest's memory, whatever the client's memslots say: slots whose memory
 * is gone, and slots over addresses that the client has nothing at.
 *
 * On a kernel's KVM the implementation is not in the client's address space at all: the tests see nothing
 * appear there, and say so.
 */
#include <stdio.h>
#include <sys/eventfd.h>

#include "client.h"
#include "guest_code.h"

#define SLOT_GPA 0x40000000u
#define SLOT_BYTES (256u << 20)
#define MAX_RANGES 4096

struct range {
	uint64_t start, end;
	bool accessible, guard;
};

static struct range before[MAX_RANGES], after[MAX_RANGES];

static unsigned mappings(struct range *r)
{
	FILE *f = fopen("/proc/self/maps", "r");
	char line[512], perms[8];
	unsigned n = 0;

	while (f && n < MAX_RANGES && fgets(line, sizeof(line), f)) {
		unsigned long a, b;

		if (sscanf(line, "%lx-%lx %7s", &a, &b, perms) == 3)
			r[n++] = (struct range){a, b, perms[0] == 'r', false};
	}
	if (f)
		fclose(f);
	/* a stack of a thread has a page without access before it */
	for (unsigned i = 1; i < n; i++)
		r[i].guard = !r[i - 1].accessible && r[i - 1].end == r[i].start && r[i - 1].end - r[i - 1].start == 4096;
	return n;
}

static bool was_there(uint64_t a, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (a >= before[i].start && a < before[i].end)
			return before[i].accessible;
	return false;
}

GUEST_CODE(look, 32, "movl (%edi), %eax; hlt");

/* 0 the guest has read a word, or KVM_RUN's errno. */
static int guest_reads(struct client *c, uint32_t gpa)
{
	struct kvm_regs r = client_regs(c);

	r.rip = 0x1000;
	r.rdi = gpa;
	assert_int_equal(ioctl(c->vcpu, KVM_SET_REGS, &r), 0);
	errno = 0;
	if (ioctl(c->vcpu, KVM_RUN, 0) == 0) {
		assert_int_equal(c->run->exit_reason, KVM_EXIT_HLT);
		return 0;
	}
	return errno;
}

static void open_guest(struct client *c)
{
	client_open_vm(c, 1 << 20);
	client_add_vcpu(c);
	client_flat_mode(c, 0x1000, look, GUEST_CODE_SIZE(look));
}

/* Everything that creating a VM and vCPUs and running them brought into the process, but the client's own. */
static void memory_that_appears_with_a_vcpu_is_refused_in_any_slot(void **state)
{
	struct client c, other;
	unsigned n, m, looked = 0;

	client_open_vm(&c, 1 << 20); /* what is made once for the process */
	client_close(&c);
	n = mappings(before);
	open_guest(&other);
	open_guest(&c);
	assert_int_equal(guest_reads(&c, 0), 0);
	m = mappings(after);
	for (unsigned i = 0; i < m; i++) {
		struct range *r = &after[i];

		if (!r->accessible || r->guard)
			continue;
		for (uint64_t a = r->start; a < r->end; a += 64 << 10) {
			uint64_t size = r->end - a < 65536 ? r->end - a : 65536;

			if (was_there(a, n) || (a < (uintptr_t)c.run + c.run_size && a + size > (uintptr_t)c.run) ||
			    (a < (uintptr_t)other.run + c.run_size && a + size > (uintptr_t)other.run) ||
			    (a < (uintptr_t)c.mem + c.mem_size && a + size > (uintptr_t)c.mem) ||
			    (a < (uintptr_t)other.mem + c.mem_size && a + size > (uintptr_t)other.mem))
				continue;
			/* smaller ones are libc's and of libraries */
			if (r->end - r->start < 65536)
				continue;
			client_slot(&c, 1, 0, SLOT_GPA, (void *)a, size);
			assert_int_equal(guest_reads(&c, SLOT_GPA), EFAULT);
			client_slot(&c, 1, 0, SLOT_GPA, (void *)a, 0);
			if (++looked == 200)
				break;
		}
	}
	client_close(&c);
	client_close(&other);
	if (!looked)
		print_message("nothing of KVM's is in this process\n");
}

/* The client takes memory away and keeps the slot; the next vCPU's memory must lie elsewhere. */
static void nothing_comes_to_lie_where_a_slot_has_lost_its_memory(void **state)
{
	struct client c, more[4];
	unsigned readable = 0, m;
	void *p = mmap(NULL, SLOT_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	assert_true(p != MAP_FAILED);
	open_guest(&c);
	client_slot(&c, 1, 0, SLOT_GPA, p, SLOT_BYTES);
	assert_int_equal(guest_reads(&c, SLOT_GPA), 0);
	assert_int_equal(munmap(p, SLOT_BYTES), 0);
	assert_int_equal(guest_reads(&c, SLOT_GPA), EFAULT);
	for (unsigned i = 0; i < 4; i++) {
		open_guest(&more[i]);
		assert_int_equal(guest_reads(&more[i], 0), 0);
	}
	m = mappings(after);
	for (unsigned i = 0; i < m; i++) {
		struct range *r = &after[i];

		if (!r->accessible || r->guard || r->end - r->start < 65536)
			continue;
		for (uint64_t at = (uintptr_t)p; at < (uintptr_t)p + SLOT_BYTES; at += 65536) {
			bool clients = false;

			for (unsigned k = 0; k < 4; k++)
				clients |= (at < (uintptr_t)more[k].mem + more[k].mem_size && at + 4096 > (uintptr_t)more[k].mem) ||
					   (at < (uintptr_t)more[k].run + more[k].run_size && at + 4096 > (uintptr_t)more[k].run);
			if (at >= r->start && at < r->end && !clients)
				readable += guest_reads(&c, SLOT_GPA + (uint32_t)(at - (uintptr_t)p)) == 0;
		}
	}
	assert_int_equal(readable, 0);
	for (unsigned i = 0; i < 4; i++)
		client_close(&more[i]);
	client_close(&c);
}

/* Threads of KVM's that are started now: their stacks do not lie there either. */
static void no_thread_has_its_stack_where_a_slot_has_lost_its_memory(void **state)
{
	struct client c, other;
	struct kvm_irqfd irqfd = { .fd = (uint32_t)eventfd(0, EFD_CLOEXEC), .gsi = 5 };
	void *p = mmap(NULL, SLOT_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	assert_true(p != MAP_FAILED);
	open_guest(&c);
	client_open_vm(&other, 1 << 20);
	client_slot(&c, 1, 0, SLOT_GPA, p, SLOT_BYTES);
	assert_int_equal(munmap(p, SLOT_BYTES), 0);
	assert_int_equal(ioctl(other.vm, KVM_CREATE_IRQCHIP, 0), 0);
	assert_int_equal(ioctl(other.vm, KVM_IRQFD, &irqfd), 0);
	for (uint32_t at = 0; at < SLOT_BYTES; at += 65536)
		assert_int_equal(guest_reads(&c, SLOT_GPA + at), EFAULT);
	client_close(&other);
	client_close(&c);
	close((int)irqfd.fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_thread_has_its_stack_where_a_slot_has_lost_its_memory),
		cmocka_unit_test(memory_that_appears_with_a_vcpu_is_refused_in_any_slot),
		cmocka_unit_test(nothing_comes_to_lie_where_a_slot_has_lost_its_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
