/*
 * Locked accesses across two cache lines, which are made in two parts: they exclude each other, lose nothing
 * that others store beside or into them, and leave nothing behind when they begin again.
 */
#include "translator.h"

#define PAGE_A 0x40000UL /* and the page behind it: contiguous in the host */
#define PAGE_C 0x50000UL /* what APART shows behind APART_A */
#define APART_A 0x180000UL
#define DATA 0x60000UL
#define ROUNDS 300

/* Two neighbouring pages that are apart in the host. */
static void map_apart(struct machine *t)
{
	guest64(t, GPA_PT)[APART_A >> 12] = PAGE_A | RW;
	guest64(t, GPA_PT)[(APART_A >> 12) + 1] = PAGE_C | RW;
}

/* Where split operands begin: `offset` before the end of a line, of a page, of a page whose neighbour is elsewhere. */
static gva_t place(unsigned kind, unsigned offset)
{
	return kind == 0 ? PAGE_A + 64 - offset : (kind == 1 ? PAGE_A : APART_A) + 0x1000 - offset;
}

/* What is there, whatever is contiguous. */
static uint64_t value_at(struct machine *t, unsigned kind, unsigned offset)
{
	gva_t at = place(kind, offset);
	uint64_t v;

	memcpy(&v, t->ram + (kind == 2 ? at - APART_A + PAGE_A : at), offset);
	memcpy((uint8_t *)&v + offset, t->ram + (kind == 2 ? PAGE_C : at + offset), sizeof(v) - offset);
	return v;
}

static struct machine *two(struct machine *t)
{
	W(GUEST_RIP, GPA_CODE);
	map_apart(t);
	return second_processor(t);
}

static void run_two(struct machine *t, struct machine *o, gva_t rdi, uint64_t rounds)
{
	struct machine *both[] = { t, o };

	for (unsigned n = 0; n < 2; n++) {
		reg(both[n])[RDI] = rdi;
		reg(both[n])[RBX] = DATA;
		reg(both[n])[RSI] = rounds;
		assert_int_equal(vmwrite(both[n]->cpu, GUEST_RIP, GPA_CODE), VMX_SUCCEED);
	}
	run_both(t, o);
}

GUEST(g_count, "1: lock inc qword ptr [rdi]; mov eax,0x7fff; lock xadd [rdi],rax; lock btc qword ptr [rdi],63;"
	       "2: mov rax,[rdi]; lea rcx,[rax+1]; lock cmpxchg [rdi],rcx; jne 2b; dec esi; jnz 1b; hlt");

static void two_processors_count_together_at_every_offset(void **state)
{
	STATE;
	struct machine *o = two(t);

	PUT_AT(t, GPA_CODE, g_count);
	for (unsigned kind = 0; kind < 3; kind++)
		for (unsigned offset = 1; offset < 8; offset++) {
			memset(t->ram + PAGE_A, 0, 0x2000);
			memset(t->ram + PAGE_C, 0, 0x1000);
			run_two(t, o, place(kind, offset), ROUNDS);
			assert_int_equal(value_at(t, kind, offset), 2 * ROUNDS * 0x8001UL);
		}
	drop_processor(o);
}

/* RDX is what the lock holds when it is taken; a plain MOV gives it back. */
#define TAKEN "mov rcx,[rbx]; inc rcx; pause; mov [rbx],rcx; mov dword ptr [rdi],0; dec esi; jnz 1b; hlt"
GUEST(g_xchg_lock, "1: mov eax,edx; xchg [rdi],eax; test eax,eax; jnz 1b;" TAKEN);
GUEST(g_cmpxchg_lock, "1: xor eax,eax; lock cmpxchg [rdi],edx; jnz 1b;" TAKEN);
GUEST(g_bts_lock, "1: lock bts dword ptr [rdi],31; jc 1b;" TAKEN);

static void keep_lock(struct machine *t, struct machine *o, uint32_t value, uint64_t rounds)
{
	for (unsigned kind = 0; kind < 3; kind++)
		for (unsigned offset = 1; offset < 4; offset++) {
			memset(t->ram + PAGE_A, 0, 0x2000);
			memset(t->ram + PAGE_C, 0, 0x1000);
			*guest64(t, DATA) = 0;
			reg(t)[RDX] = reg(o)[RDX] = value;
			run_two(t, o, place(kind, offset), rounds);
			assert_int_equal(*guest64(t, DATA), 2 * rounds);
			assert_int_equal((uint32_t)value_at(t, kind, offset), 0);
		}
}

/* The byte that says so is in the first part, then in the second. */
static void a_lock_given_back_by_a_plain_store_is_free(void **state)
{
	STATE;
	struct machine *o = two(t);

	PUT_AT(t, GPA_CODE, g_xchg_lock);
	keep_lock(t, o, 1, ROUNDS * 20);
	keep_lock(t, o, 0x80000000, ROUNDS * 20);
	PUT_AT(t, GPA_CODE, g_cmpxchg_lock);
	vmx_sync_code(t->cpu);
	keep_lock(t, o, 1, ROUNDS * 20);
	PUT_AT(t, GPA_CODE, g_bts_lock);
	vmx_sync_code(t->cpu);
	keep_lock(t, o, 0, ROUNDS * 20);
	drop_processor(o);
}

GUEST(g_beside, "1: lock inc dword ptr [rdi]; inc byte ptr [rdi-1]; inc byte ptr [rdi+4]; dec esi; jnz 1b; hlt");
GUEST(g_plain, "1: inc byte ptr [rdi-2]; inc byte ptr [rdi+5]; dec esi; jnz 1b; hlt");

/* The bytes beside the operand lie in the words that are exchanged. */
static void bytes_beside_it_are_their_writers(void **state)
{
	STATE;
	struct machine *o = two(t);
	uint8_t *p = t->ram + place(0, 2);

	PUT_AT(t, GPA_CODE, g_beside);
	PUT_AT(t, GPA_CODE + 0x1000, g_plain);
	reg(t)[RDI] = reg(o)[RDI] = place(0, 2);
	reg(t)[RSI] = 10000;
	reg(o)[RSI] = 100000;
	assert_int_equal(vmwrite(o->cpu, GUEST_RIP, GPA_CODE + 0x1000), VMX_SUCCEED);
	run_both(t, o);
	assert_int_equal((uint32_t)value_at(t, 0, 2), 10000);
	assert_int_equal(p[-1], 10000 & 0xff);
	assert_int_equal(p[4], 10000 & 0xff);
	assert_int_equal(p[-2], 100000 & 0xff);
	assert_int_equal(p[5], 100000 & 0xff);
	drop_processor(o);
}

/* --- the parts themselves --- */

#define OLD 0x1111111111111111ULL
#define NEW 0x2222222222222222ULL
#define ELSE 0x33

/* An 8-byte access, 3 bytes before the end of a line. Between its two halves the byte at `at` + `changed` is written. true: done. */
static __attribute__((noinline)) bool access_and_change(struct machine *t, uint8_t *volatile at, int changed)
{
	struct cpu_commit c = { .size = 8, .first = 3, .locked = true, .part = { at, at + 3 } };
	uint64_t bounce = 0;
	static const uint64_t new = NEW;

	memset(at - 8, 0x11, 24);
	load_guest(t);
	t->cpu->cs.cur = &cpu_boundary_insn;
	t->cpu->cs.cc = CC_CF;
	if (__builtin_setjmp(t->cpu->unwind_buf)) {
		cpu_bus_unwound(t->cpu);
		return false;
	}
	cpu_bus_read(t->cpu, &c, &bounce);
	assert_int_equal(bounce, OLD);
	assert_int_equal(t->m->bus, 1);
	t->cpu->cs.cc = 0;
	at[changed] = ELSE;
	cpu_bus_write(t->cpu, &c, &new);
	return true;
}

static void what_is_stored_into_a_part_makes_it_begin_again(void **state)
{
	STATE;
	uint8_t *at = t->ram + PAGE_A + 61;

	for (int changed = -5; changed < 13; changed++) {
		bool inside = changed >= 0 && changed < 8;

		assert_int_equal(access_and_change(t, at, changed), !inside);
		for (int n = -5; n < 13; n++)
			assert_int_equal(at[n], n == changed ? ELSE : !inside && n >= 0 && n < 8 ? 0x22 : 0x11);
		assert_int_equal(t->m->bus, 0);
		assert_false(t->cpu->bus_locked);
		assert_int_equal(t->cpu->cs.cc, inside ? CC_CF : 0);
	}
}

GUEST(g_adc, "stc; lock adc qword ptr [rdi],rdx; hlt");

/* Each part's page in turn cannot be written in the host, though EPT says so. */
static void a_host_fault_in_a_part_changes_nothing(void **state)
{
	STATE;

	map_apart(t);
	PUT_AT(t, GPA_CODE, g_adc);
	for (unsigned kind = 1; kind < 3; kind++)
		for (unsigned part = 0; part < 2; part++) {
			uint8_t *page = t->ram + (!part ? PAGE_A : kind == 1 ? PAGE_A + 0x1000 : PAGE_C);

			memset(t->ram + PAGE_A, 0, 0x2000);
			memset(t->ram + PAGE_C, 0, 0x1000);
			signals_are_ours();
			reg(t)[RDI] = place(kind, 5);
			reg(t)[RDX] = 0xffffffffffffULL;
			W(GUEST_RIP, GPA_CODE);
			assert_int_equal(mprotect(page, 0x1000, PROT_READ), 0);
			assert_int_equal(t->vmcs->launched ? vmresume(t->cpu) : vmlaunch(t->cpu), VMX_BUS_ERROR);
			assert_int_equal(value_at(t, kind, 5), 0);
			assert_int_equal(t->m->bus, 0);
			assert_int_equal(mprotect(page, 0x1000, PROT_READ | PROT_WRITE), 0);
			assert_int_equal(go(t), EXIT_REASON_HLT);
			assert_int_equal(value_at(t, kind, 5), 1ULL << 48);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST_LONG(two_processors_count_together_at_every_offset),
		TEST_LONG(a_lock_given_back_by_a_plain_store_is_free),
		TEST_LONG(bytes_beside_it_are_their_writers),
		TEST_LONG(what_is_stored_into_a_part_makes_it_begin_again),
		TEST_LONG(a_host_fault_in_a_part_changes_nothing),
	};

	return TRANSLATOR_TESTS(tests);
}
