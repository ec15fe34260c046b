/*
 * Code that another processor or the client writes while it runs: "SDM: Handling
 * Self- and Cross-Modifying Code", and blocks.c, invariants 4 to 6.
 */
#include "machine.h"

#include <pthread.h>
#include <unistd.h>

#define STATE struct machine *t = *state
#define GPA_WRITER 0x25000UL
#define GPA_TABLE 0x26000UL
#define GPA_VARIANTS 0x27000UL
#define VARIANT_BYTES 128
#define NR_VARIANTS 28

/* A second processor of the same machine, with a VMCS like the first one's. */
static struct machine *second_processor(struct machine *t)
{
	struct machine *o = calloc(1, sizeof(*o));

	assert_non_null(o);
	*o = *t;
	assert_int_equal(vmx_cpu_create(t->m, &o->cpu), 0);
	o->vmcs = test_pages(4096);
	memcpy(o->vmcs, t->vmcs, sizeof(*o->vmcs));
	assert_int_equal(vmptrld(o->cpu, (hpa_t)o->vmcs), VMX_SUCCEED);
	return o;
}

static void *run_to_hlt(void *arg)
{
	struct machine *o = arg;

	return (void *)(uintptr_t)(vmlaunch(o->cpu) == VMX_SUCCEED ? o->vmcs->VM_EXIT_REASON : 0);
}

static void code_written_by_another_processor_is_seen(void **state)
{
	STATE;
	struct machine *o = second_processor(t);
	pthread_t th;
	void *reason;

	/* 1: mov al,1; cmp al,2; jne 1b; hlt */
	CODE(t, 0xb0, 0x01, 0x3c, 0x02, 0x75, 0xfa, 0xf4);
	/* mov byte [20001h],2; hlt */
	memcpy(t->ram + 0x25000, "\xc6\x04\x25\x01\x00\x02\x00\x02\xf4", 9);
	assert_int_equal(pthread_create(&th, NULL, run_to_hlt, o), 0);
	usleep(10000);
	W(GUEST_RIP, 0x25000);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	pthread_join(th, &reason);
	assert_int_equal((uintptr_t)reason, EXIT_REASON_HLT);
	vmx_cpu_destroy(o->cpu);
	munmap(o->vmcs, 4096);
	free(o);
}

static void *rewriter(void *arg)
{
	struct machine *t = arg;

	usleep(10000);
	__atomic_store_n(&t->ram[GPA_CODE + 1], 2, __ATOMIC_SEQ_CST);
	vmx_invalidate_code(t->m, (hpa_t)t->ram + GPA_CODE, 64);
	return NULL;
}

static void invalidate_from_another_thread_ends_stale_code(void **state)
{
	STATE;
	pthread_t th;

	CODE(t, 0xb0, 0x01, 0x3c, 0x02, 0x75, 0xfa, 0xf4);
	assert_int_equal(pthread_create(&th, NULL, rewriter, t), 0);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	pthread_join(th, NULL);
}

static void put(uint8_t **p, const char *bytes, size_t n)
{
	memcpy(*p, bytes, n);
	*p += n;
}
#define PUT(p, bytes) put(&(p), bytes, sizeof(bytes) - 1)

static void put_jump(uint8_t **p, const uint8_t *to)
{
	int32_t rel = (int32_t)(to - (*p + 5));

	PUT(*p, "\xe9");
	put(p, (const char *)&rel, 4);
}

/*
 * Each round writes three times to the other's code within one block, the last
 * time the value it then waits for. What the others decoded between the first
 * and the last is stale, and how much later the last comes differs by round.
 */
static void write_the_writer(struct machine *t)
{
	uint8_t *start = t->ram + GPA_WRITER, *wait = start + 0x100, *p = start;

	/* inc bl; inc esi; cmp esi,28; jb +2; xor esi,esi; jmp [rsi*8+26000h] */
	PUT(p, "\xfe\xc3\xff\xc6\x83\xfe\x1c\x72\x02\x31\xf6\xff\x24\xf5\x00\x60\x02\x00");
	for (unsigned n = 0; n < NR_VARIANTS; n++) {
		p = t->ram + GPA_VARIANTS + (size_t)n * VARIANT_BYTES;
		guest64(t, GPA_TABLE)[n] = (uint64_t)(p - t->ram);
		/* mov byte [20001h],0, twice; n times rdtsc; mov [20001h],bl */
		PUT(p, "\xc6\x04\x25\x01\x00\x02\x00\x00\xc6\x04\x25\x01\x00\x02\x00\x00");
		for (unsigned k = 0; k < n; k++)
			PUT(p, "\x0f\x31");
		PUT(p, "\x88\x1c\x25\x01\x00\x02\x00");
		put_jump(&p, wait);
	}
	/* 1: pause; cmp [30000h],bl; jne 1b; dec ecx; jz +5; jmp start; hlt */
	p = wait;
	PUT(p, "\xf3\x90\x38\x1c\x25\x00\x00\x03\x00\x75\xf5\xff\xc9\x74\x05");
	put_jump(&p, start);
	PUT(p, "\xf4");
}

static void *run_until_kicked(void *arg)
{
	struct machine *o = arg;

	return (void *)(uintptr_t)(vmlaunch(o->cpu) == VMX_SUCCEED ? o->vmcs->VM_EXIT_REASON : 0);
}

static void code_written_again_while_it_is_decoded_is_seen(void **state)
{
	STATE;
	struct machine *o = second_processor(t);
	uint64_t last = 0, left = 1 << 20;
	unsigned slices = 0;
	void *reason;
	pthread_t th;

	/* 1: mov al,0; mov [30000h],al; jmp 1b */
	CODE(t, 0xb0, 0x00, 0x88, 0x04, 0x25, 0x00, 0x00, 0x03, 0x00, 0xeb, 0xf5);
	write_the_writer(t);
	assert_int_equal(pthread_create(&th, NULL, run_until_kicked, o), 0);
	W(GUEST_RIP, GPA_WRITER);
	vmx_gprs(t->cpu)[RCX] = left;
	W(PIN_BASED_VM_EXEC_CONTROL,
	  R(t, PIN_BASED_VM_EXEC_CONTROL) | PIN_BASED_VMX_PREEMPTION_TIMER);
	/* a second of rounds; a round that hangs has a minute to come to its end */
	do {
		last = left;
		W(VMX_PREEMPTION_TIMER_VALUE, 8000000);
		if (go(t) != EXIT_REASON_PREEMPTION_TIMER)
			break;
		left = vmx_gprs(t->cpu)[RCX];
	} while (++slices < (left == last ? 600U : 10U));
	vmx_kick(o->cpu);
	pthread_join(th, &reason);
	assert_int_equal((uintptr_t)reason, EXIT_REASON_EXTERNAL_INTERRUPT);
	print_message("%lu rounds\n", (1UL << 20) - left);
	assert_true(left != last || !left);
	vmx_cpu_destroy(o->cpu);
	munmap(o->vmcs, 4096);
	free(o);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST_LONG(code_written_by_another_processor_is_seen),
		TEST_LONG(code_written_again_while_it_is_decoded_is_seen),
		TEST_LONG(invalidate_from_another_thread_ends_stale_code),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
