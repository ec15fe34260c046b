/*
 * What tests of translated code have in common: guest code from the assembler, page tables, signals.
 */
#ifndef TEST_CPU_TRANSLATOR_H
#define TEST_CPU_TRANSLATOR_H

#include "machine.h"

#include "host/fault.h"

#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <unistd.h>

#define STATE struct machine *t = *state
#define GIB (1UL << 30)

/* Guest code, as the assembler makes it; position-independent unless it says so. */
#define GUEST(name, text)                                              \
	extern const uint8_t name[], name##_end[];                     \
	__asm__(".pushsection .rodata\n" #name ":\n.intel_syntax noprefix\n" \
		text "\n.att_syntax\n" #name "_end:\n.popsection\n")
#define PUT_AT(t, gpa, name) memcpy((t)->ram + (gpa), name, (size_t)(name##_end - name))

/* Map one 4 KiB page; tables from 0x70000 on. */
static inline void map(struct machine *t, gva_t gva, gpa_t gpa, uint64_t rights)
{
	uint64_t *next = guest64(t, 0x6fff8);
	gpa_t table = GPA_PML4;

	if (!*next)
		*next = 0x70000;
	for (int shift = 39; shift > 12; shift -= 9) {
		uint64_t *e = guest64(t, table) + ((gva >> shift) & 511);

		if (!(*e & PTE_P)) {
			*e = *next | PTE_P | PTE_RW | PTE_US;
			*next += 0x1000;
		}
		table = *e & GENMASK_ULL(51, 12);
	}
	guest64(t, table)[(gva >> 12) & 511] = gpa | rights;
}
#define RW (PTE_P | PTE_RW)

/* cmocka takes the signals for itself before each test. */
static struct sigaction ours[4];
static const int signal_of[4] = { SIGSEGV, SIGFPE, SIGILL, SIGBUS };

static inline void signals_are_ours(void)
{
	for (int n = 0; n < 4; n++)
		assert_int_equal(sigaction(signal_of[n], &ours[n], NULL), 0);
}

static inline uint64_t *reg(struct machine *t)
{
	return vmx_gprs(t->cpu);
}

static inline bool translating(struct machine *t)
{
	return t->cpu->jit;
}

static inline void expect_fault(struct machine *t, unsigned vector)
{
	W(EXCEPTION_BITMAP, ~0ULL & 0xffffffff);
	assert_int_equal(go(t), EXIT_REASON_EXCEPTION_NMI);
	assert_int_equal(R(t, VM_EXIT_INTR_INFO) & 0xff, vector);
}

/* --- two processors --- */

#define PATIENCE_S 40

/* A second processor of the same machine, with a VMCS like the first one's. */
static inline struct machine *second_processor(struct machine *t)
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

static inline void drop_processor(struct machine *o)
{
	vmx_cpu_destroy(o->cpu);
	munmap(o->vmcs, 4096);
	free(o);
}

static inline void *run_to_exit(void *arg)
{
	struct machine *o = arg;

	enum vmx_result r = o->vmcs->launched ? vmresume(o->cpu) : vmlaunch(o->cpu);

	return (void *)(uintptr_t)(r == VMX_SUCCEED ? o->vmcs->VM_EXIT_REASON : 0);
}

/* Kicks both where they have not come to their end. */
struct watch {
	struct machine *a, *b;
	volatile bool done;
};

static inline void *watch_over(void *arg)
{
	struct watch *w = arg;

	for (unsigned n = 0; !w->done && n < PATIENCE_S * 100; n++)
		usleep(10000);
	if (!w->done) {
		vmx_kick(w->a->cpu);
		vmx_kick(w->b->cpu);
	}
	return NULL;
}

/* Both run up to their HLT. */
static inline void run_both(struct machine *t, struct machine *o)
{
	struct watch w = { .a = t, .b = o };
	pthread_t player, watcher;
	void *reason;

	assert_int_equal(pthread_create(&player, NULL, run_to_exit, o), 0);
	assert_int_equal(pthread_create(&watcher, NULL, watch_over, &w), 0);
	assert_int_equal(go(t), EXIT_REASON_HLT);
	pthread_join(player, &reason);
	w.done = true;
	pthread_join(watcher, NULL);
	assert_int_equal((uintptr_t)reason, EXIT_REASON_HLT);
}

/* main() of such a test: every block is translated at its first run, where the translator is the engine. */
#define TRANSLATOR_TESTS(tests)                                        \
	({                                                             \
		if (host_fault_init())                                 \
			return 1;                                      \
		for (int n_ = 0; n_ < 4; n_++)                         \
			if (sigaction(signal_of[n_], NULL, &ours[n_])) \
				return 1;                              \
		setenv("USERKVM_ENGINE", "jit", 0);                    \
		setenv("USERKVM_JIT", "threshold:1", 0);               \
		cmocka_run_group_tests(tests, NULL, NULL);             \
	})

#endif
