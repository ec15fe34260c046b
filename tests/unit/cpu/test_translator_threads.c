/*
 * Translated code and other threads: two processors that write into each other's loops, a device that writes
 * code and announces it, a client that asks for bus locks, no memory for a translator.
 */
#include "translator.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/*
 * Each waits until its own immediate, written by the other, is the round's number: in a loop of one unit (NEAR), or in one
 * whose halves lie in two pages (FAR), so that cells lead round it. RDI is the other's immediate. RSI and
 * R8 count rounds; the first starts.
 */
#define PING(wait) "1: inc ebx; mov [rdi],bl; " wait "; dec esi; jnz 1b; hlt"
#define PONG(wait) "1: inc ebx; " wait "; mov [rdi],bl; dec esi; jnz 1b; hlt"
#define NEAR(n) "2: mov al,0x55; cmp al,bl; jne 2b"
/* The immediate is found by its value. */
GUEST(g_ping_near, PING(NEAR()));
GUEST(g_pong_near, PONG(NEAR()));
/* The jump at 1000h behind the code goes back to R9. */
GUEST(g_ping_far, "lea r9,[rip+3f]; lea r10,[rip+2f+0x1000]; " PING("2: mov al,0x55; jmp .+0x1000; 3: cmp al,bl; jne 2b"));
GUEST(g_pong_far, "lea r9,[rip+3f]; lea r10,[rip+2f+0x1000]; " PONG("2: mov al,0x55; jmp .+0x1000; 3: cmp al,bl; jne 2b"));
GUEST(g_back, "jmp r9");

static gpa_t put_player(struct machine *t, gpa_t at, const uint8_t *code, const uint8_t *end)
{
	memcpy(t->ram + at, code, (size_t)(end - code));
	for (size_t k = 0; k < (size_t)(end - code); k++)
		if (code[k] == 0x55 && code[k - 1] == 0xb0) {
			t->ram[at + k] = 0;
			/* the other half, where the jump behind MOV leads */
			PUT_AT(t, at + k + 1 + 0x1000, g_back);
			return at + k;
		}
	fail();
	return 0;
}

static void play(struct machine *t, const uint8_t *ping, const uint8_t *ping_end, const uint8_t *pong,
		 const uint8_t *pong_end, unsigned rounds)
{
	struct machine *o = second_processor(t);
	gpa_t first, second;

	first = put_player(t, 0x40000, ping, ping_end);
	second = put_player(t, 0x44000, pong, pong_end);
	reg(t)[RBX] = reg(o)[RBX] = 0;
	reg(t)[RSI] = reg(o)[RSI] = rounds;
	reg(t)[RDI] = second;
	reg(o)[RDI] = first;
	W(GUEST_RIP, 0x40000);
	assert_int_equal(vmwrite(o->cpu, GUEST_RIP, 0x44000), VMX_SUCCEED);
	run_both(t, o);
	assert_int_equal(reg(t)[RBX] & 0xffffffff, rounds);
	if (translating(t))
		assert_true(t->cpu->counters.jit_units + o->cpu->counters.jit_units > 2);
	drop_processor(o);
}

static void two_processors_patch_each_others_loops(void **state)
{
	STATE;

	play(t, g_ping_near, g_ping_near_end, g_pong_near, g_pong_near_end, 2000);
}

static void two_processors_patch_each_others_chained_loops(void **state)
{
	STATE;

	play(t, g_ping_far, g_ping_far_end, g_pong_far, g_pong_far_end, 2000);
}

/* --- a device writes code and raises an interrupt --- */

GUEST(g_driver, "1: call r12; mov [rdi],eax; jmp 1b");
GUEST(g_on_interrupt, "inc dword ptr [r13]; iretq");
GUEST(g_function, "nop; mov eax,0; ret");
#define GPA_RESULT 0x50000UL
#define GPA_ANNOUNCED 0x50100UL
#define GPA_FUNCTION 0x45000UL
#define GPA_HANDLER 0x46000UL
#define VECTOR 0x40

struct device {
	struct machine *t;
	volatile bool done, failed;
};

static uint32_t word_at(struct machine *t, gpa_t gpa)
{
	return __atomic_load_n((uint32_t *)(t->ram + gpa), __ATOMIC_SEQ_CST);
}

static void *device_thread(void *arg)
{
	struct device *d = arg;
	struct machine *t = d->t;

	for (uint32_t n = 1; n < 200 && !d->failed; n++) {
		unsigned waited;

		t->ram[GPA_FUNCTION + 2] = (uint8_t)n;
		vmx_kick(t->cpu); /* the hypervisor injects */
		for (waited = 0; waited < PATIENCE_S * 10000 && word_at(t, GPA_ANNOUNCED) < n; waited++)
			usleep(100);
		for (; waited < PATIENCE_S * 10000 && word_at(t, GPA_RESULT) != n; waited++)
			usleep(100);
		d->failed |= word_at(t, GPA_RESULT) != n;
	}
	d->done = true;
	vmx_kick(t->cpu);
	return NULL;
}

static void code_a_device_announces_is_seen(void **state)
{
	STATE;
	struct device d = { .t = t };
	pthread_t th;

	PUT_AT(t, GPA_CODE, g_driver);
	PUT_AT(t, GPA_FUNCTION, g_function);
	PUT_AT(t, GPA_HANDLER, g_on_interrupt);
	set_gate(t, VECTOR, GPA_HANDLER);
	reg(t)[R12] = GPA_FUNCTION;
	reg(t)[R13] = GPA_ANNOUNCED;
	reg(t)[RDI] = GPA_RESULT;
	W(GUEST_RFLAGS, X86_FLAGS_FIXED | X86_FLAGS_IF);
	assert_int_equal(pthread_create(&th, NULL, device_thread, &d), 0);
	while (!d.done) {
		assert_int_equal(go(t), EXIT_REASON_EXTERNAL_INTERRUPT);
		W(VM_ENTRY_INTR_INFO_FIELD, INTR_INFO_VALID_MASK | INTR_TYPE_EXT_INTR | VECTOR);
	}
	pthread_join(th, NULL);
	assert_false(d.failed);
}

/* --- switched on while units exist --- */

GUEST(g_split, "1: lock inc dword ptr [rdi]; dec ecx; jnz 1b; hlt");

static void bus_locks_are_told_from_the_entry_that_asks(void **state)
{
	STATE;

	PUT_AT(t, GPA_CODE, g_split);
	reg(t)[RDI] = 0x4003e; /* across a line */
	reg(t)[RCX] = 10;
	assert_int_equal(go(t), EXIT_REASON_HLT);
	W(SECONDARY_VM_EXEC_CONTROL, R(t, SECONDARY_VM_EXEC_CONTROL) | SECONDARY_EXEC_BUS_LOCK_DETECTION);
	reg(t)[RCX] = 10;
	W(GUEST_RIP, GPA_CODE);
	assert_int_equal(go(t) & 0xffff, EXIT_REASON_BUS_LOCK);
	assert_int_equal(R(t, GUEST_RIP), GPA_CODE + 3);
	W(SECONDARY_VM_EXEC_CONTROL, R(t, SECONDARY_VM_EXEC_CONTROL) & ~(uint64_t)SECONDARY_EXEC_BUS_LOCK_DETECTION);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	assert_int_equal(reg(t)[RCX] & 0xffffffff, 0);
}

/* --- what a host may refuse --- */

GUEST(g_count, "1: add rax,rcx; push rax; pop rbx; dec ecx; jnz 1b; hlt");

static bool count_runs(struct machine *t)
{
	PUT_AT(t, GPA_CODE, g_count);
	reg(t)[RAX] = 0;
	reg(t)[RCX] = 1000;
	W(GUEST_RIP, GPA_CODE);
	return go(t) == EXIT_REASON_HLT && reg(t)[RAX] == 500500;
}

/* In a process of its own: limits stay. 0: it ran and interpreted, 1: it ran translated, else it failed. */
static int with_address_space(rlim_t beyond)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		struct rlimit limit;
		struct machine *t;
		long pages = 0;
		FILE *f = fopen("/proc/self/statm", "r");

		if (!f || fscanf(f, "%ld", &pages) != 1)
			_exit(9);
		limit.rlim_cur = limit.rlim_max = (rlim_t)pages * 4096 + beyond;
		if (setrlimit(RLIMIT_AS, &limit))
			_exit(9);
		machine_setup_long((void **)&t);
		_exit(count_runs(t) ? translating(t) : 8);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void processors_without_address_space_interpret(void **state)
{
	unsigned interpreted = 0;

	/* a processor needs some without a translator too; with it 32 MiB of code memory, twice, and its tables */
	for (unsigned mib = 32; mib <= 96; mib += 16) {
		int how = with_address_space((rlim_t)mib << 20);

		assert_in_range(how, 0, 1);
		interpreted += how == 0;
	}
	assert_true(interpreted > 0);
}

/* Neither new executable memory nor a change of what there is. */
static bool forbid_executable_memory(void)
{
	struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mprotect, 4, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mremap, 3, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, PROT_EXEC, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog p = { ARRAY_SIZE(f), f };

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &p) == 0;
}

static void *run_confined(void *arg)
{
	struct machine *t = arg;

	return (void *)(uintptr_t)(forbid_executable_memory() && count_runs(t));
}

static void thread_that_may_map_nothing_executable_translates(void **state)
{
	STATE;
	pthread_t th;
	void *ran;

	assert_int_equal(pthread_create(&th, NULL, run_confined, t), 0);
	pthread_join(th, &ran);
	assert_int_equal((uintptr_t)ran, 1);
	if (translating(t))
		assert_true(t->cpu->counters.jit_units > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST_LONG(two_processors_patch_each_others_loops),
		TEST_LONG(two_processors_patch_each_others_chained_loops),
		TEST_LONG(code_a_device_announces_is_seen),
		TEST_LONG(bus_locks_are_told_from_the_entry_that_asks),
		TEST_LONG(thread_that_may_map_nothing_executable_translates),
		cmocka_unit_test(processors_without_address_space_interpret),
	};

	return TRANSLATOR_TESTS(tests);
}
