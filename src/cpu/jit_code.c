/*
 * The translator's memory: reserved with the processor, beside it, so that emitted
 * code reaches the processor's state RIP-relatively; and the stubs, emitted
 * once into each processor's code memory, since they have no register to find
 * it by.
 *
 *   | struct vmx_cpu | struct cpu_jit (cells, tables) | code memory, executable view |
 *
 * Invariants
 * 1. No memory becomes executable after jit creation (emit/exec.h).
 * 2. A forked child has the struct vmx_cpu, the rest it has not: there nothing
 *    of the rest is touched (cpu->jit_pid).
 * 3. All of it is among the library's own addresses (lib/own.h): no guest is given
 *    memory there.
 *
 * Locks: none; runs on the thread that creates the processor.
 */
#include "cpu/jit.h"
#include "lib/log.h"
#include "lib/own.h"
#include "lib/params.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGES(bytes) ALIGN_UP((size_t)(bytes), (size_t)PAGE_SIZE)
#define CPU_BYTES PAGES(sizeof(struct vmx_cpu))
#define JIT_BYTES PAGES(sizeof(struct cpu_jit))
#define ALL_BYTES (CPU_BYTES + JIT_BYTES + JIT_CODE_BYTES)
#define DEFAULT_THRESHOLD 64
#define LEAST_BEFORE_LEAVE JIT_FEW_INSNS
#define ROOM_FOR_A_UNIT (256u << 10) /* more than the largest needs */
#define MIN_CACHE (32u << 10)

/* The value of `name:` in USERKVM_JIT, behind the colon; NULL: not there. */
static const char *option(const char *name)
{
	const char *s = getenv("USERKVM_JIT");
	size_t n = strlen(name);

	while (s && *s) {
		if (!strncmp(s, name, n) && s[n] == ':')
			return s + n + 1;
		s = strchr(s, ',');
		s = s ? s + 1 : NULL;
	}
	return NULL;
}

static void read_options(struct cpu_jit *j)
{
	const char *s = option("threshold"), *range = option("bisect");
	char *end;

	j->threshold = s ? (uint32_t)strtoul(s, NULL, 0) : DEFAULT_THRESHOLD;
	j->threshold = j->threshold ? j->threshold : 1;
	j->least_before_leave = j->threshold > 1 ? LEAST_BEFORE_LEAVE : 1; /* tests want all there is */
	j->bisect_last = ~0u;
	if (range) {
		j->bisect_first = (uint32_t)strtoul(range, &end, 0);
		j->bisect_last = *end == '-' ? (uint32_t)strtoul(end + 1, NULL, 0) : ~0u;
	}
	s = option("cache");
	if (s) {
		uint64_t bytes = strtoul(s, &end, 0);

		bytes <<= *end == 'k' ? 10 : *end == 'm' ? 20 : 0;
		j->e.size = (uint32_t)min_u64(max_u64(bytes, MIN_CACHE), j->e.size);
	}
	j->room = (uint32_t)min_u64(ROOM_FOR_A_UNIT, j->e.size / 2);
	j->check = params_has_word("USERKVM_JIT", "check");
	j->dump = params_has_word("USERKVM_JIT", "dump");
	j->count = params_has_word("USERKVM_JIT", "count");
	j->perf = params_has_word("USERKVM_JIT", "perf");
	j->perf_fd = -1;
}

/* --- stubs --- */

static struct host_mem at(const void *p)
{
	return (struct host_mem){ .absolute = true, .address = (uint64_t)(uintptr_t)p };
}

static void load(struct emitter *e, bool wide, unsigned reg, const void *p)
{
	struct host_mem m = at(p);

	emit_op_mem(e, wide, 0x8b, reg, &m);
}

static void store(struct emitter *e, bool wide, unsigned reg, const void *p)
{
	struct host_mem m = at(p);

	emit_op_mem(e, wide, 0x89, reg, &m);
}

static void store_gprs(struct emitter *e, struct cpu_state *cs)
{
	for (unsigned r = 0; r < NR_GPRS; r++)
		if (jit_host_reg[r] != HOST_NONE)
			store(e, true, jit_host_reg[r], &cs->gpr[r]);
}

/* RFLAGS to cs->cc; RAX has been stored. */
static void store_flags(struct emitter *e, struct cpu_state *cs)
{
	emit_bytes(e, "\x9f\x0f\x90\xc0\x0f\xb7\xc0", 7); /* lahf; seto al; movzx eax,ax */
	store(e, false, HOST_RAX, &cs->cc);
}

/* cs->cc to RFLAGS, then all registers. */
static void load_all(struct emitter *e, struct cpu_state *cs)
{
	load(e, false, HOST_RAX, &cs->cc);
	emit_bytes(e, "\x04\x7f\x9e", 3); /* add al,7fh; sahf */
	for (unsigned r = 0; r < NR_GPRS; r++)
		if (jit_host_reg[r] != HOST_NONE)
			load(e, true, jit_host_reg[r], &cs->gpr[r]);
}

/* push and pop rbx rbp r12-r15; one word more keeps the stack aligned in units. */
static const char push_saved[] = "\x53\x55\x41\x54\x41\x55\x41\x56\x41\x57\x48\x83\xec\x08";
static const char pop_saved[] = "\x48\x83\xc4\x08\x41\x5f\x41\x5e\x41\x5d\x41\x5c\x5d\x5b";

static void *runs_at(const struct emitter *e)
{
	return (void *)(uintptr_t)emit_here(e);
}

/* May C run between emitted code and the guest's vector registers? Not what a sanitizer watches (isa/fpu.h). */
#if defined(__SANITIZE_ADDRESS__)
#define C_KEEPS_VECTORS false
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define C_KEEPS_VECTORS false
#endif
#endif
#ifndef C_KEEPS_VECTORS
#define C_KEEPS_VECTORS true
#endif

static void refill_is_over(struct cpu_jit *j)
{
	struct host_mem sp = at(&j->refill_sp);

	emit_bytes(&j->e, "\x48\xc7", 2); /* mov qword [refill_sp], 0 */
	emit_modrm_mem(&j->e, 0, &sp, 4);
	emit_u32(&j->e, 0);
}

/* Behind C, which has kept the others; no flags. */
static void load_for_refill(struct emitter *e, struct cpu_state *cs)
{
	for (unsigned r = 0; r < NR_GPRS; r++)
		if (jit_host_reg[r] != HOST_NONE && jit_host_reg[r] != HOST_RBX && jit_host_reg[r] < HOST_R12)
			load(e, true, jit_host_reg[r], &cs->gpr[r]);
}

/* jit_rewriter.refill: jit_refill() with the page in rbp, the entry's address in r11. */
static void emit_refill_stubs(struct cpu_jit *j)
{
	struct emitter *e = &j->e;
	struct cpu_state *cs = &j->cpu->cs;
	struct host_mem state = at(cs);
	uint32_t to_common;

	j->refill[0] = runs_at(e);
	store_gprs(e, cs);
	emit_mov_imm32(e, HOST_RCX, CPU_READ);
	to_common = emit_jmp(e);
	j->refill[1] = runs_at(e);
	store_gprs(e, cs);
	emit_mov_imm32(e, HOST_RCX, CPU_READ | CPU_WRITE);
	emit_patch(e, to_common, e->n);
	store(e, true, HOST_SP, &j->refill_sp);
	emit_bytes(e, "\x41\x53", 2); /* push r11 */
	emit_op_mem(e, true, 0x8d, HOST_RDI, &state);
	emit_op_reg(e, true, 0x89, HOST_RSI, JIT_S0);
	emit_op_reg(e, true, 0x89, HOST_RDX, JIT_S1);
	emit_call_via(e, (uint64_t)(uintptr_t)&j->c_refill);
	emit_bytes(e, "\x41\x5b\x83\xf8\x01", 5); /* pop r11; cmp eax,1 */
	refill_is_over(j);
	load_for_refill(e, cs);
	emit_byte(e, 0xc3);
	j->refill_failed = runs_at(e);
	refill_is_over(j);
	load_all(e, cs);
	emit_bytes(e, "\xf9\xc3", 2); /* stc; ret */
	j->c_refill = (void *)(uintptr_t)jit_refill;
}

/* jit_rewriter.fill: jit_slot_fill() with the address in r11, the slot in rbp. */
static void emit_fill_stub(struct cpu_jit *j)
{
	struct emitter *e = &j->e;
	struct cpu_state *cs = &j->cpu->cs;
	struct host_mem state = at(cs);

	j->fill = runs_at(e);
	store_gprs(e, cs);
	store(e, true, HOST_SP, &j->refill_sp);
	emit_bytes(e, "\x48\x83\xec\x08", 4); /* sub rsp,8 */
	emit_op_mem(e, true, 0x8d, HOST_RDI, &state);
	emit_op_reg(e, true, 0x89, HOST_RSI, JIT_S1);
	emit_op_reg(e, true, 0x89, HOST_RDX, JIT_S0);
	emit_call_via(e, (uint64_t)(uintptr_t)&j->c_fill);
	emit_bytes(e, "\x48\x83\xc4\x08\x83\xf8\x01", 7); /* add rsp,8; cmp eax,1 */
	refill_is_over(j);
	load_for_refill(e, cs);
	emit_byte(e, 0xc3);
	j->c_fill = (void *)(uintptr_t)jit_slot_fill;
}

/*
 * jit_rewriter.slot: jit_fill_stack_slot() for the address in r11, if its offset in the page is not above ebp; the
 * TLB's entry is made where there is none. The last page below 4 GiB is left to C (jit/stack.c, invariant 5).
 */
static void emit_slot_stub(struct cpu_jit *j)
{
	struct emitter *e = &j->e;
	struct cpu_state *cs = &j->cpu->cs;
	struct host_mem tlb = at(&cs->tlb), tag = { .base = JIT_S1, .index = HOST_NONE };
	uint32_t fails[4], found, no_entry, again;

	static_assert(sizeof(struct isa_tlb_entry) == 32, "the shift below");
	j->slot = runs_at(e);
	emit_byte(e, 0x50); /* push rax */
	emit_op_reg(e, true, 0x89, HOST_RAX, JIT_S1);
	emit_op_imm(e, false, 4, HOST_RAX, (int32_t)~PAGE_MASK); /* and */
	emit_op_reg(e, false, 0x39, HOST_RAX, JIT_S0); /* cmp */
	emit_byte(e, 0x58); /* pop rax */
	fails[0] = emit_jcc(e, 7); /* ja */
	emit_op_imm(e, true, 4, JIT_S1, (int32_t)PAGE_MASK);
	emit_mov_imm32(e, JIT_S0, (uint32_t)PAGE_MASK);
	emit_op_reg(e, true, 0x39, JIT_S1, JIT_S0);
	fails[1] = emit_jcc(e, 4); /* je */
	emit_op_reg(e, true, 0x89, JIT_S0, JIT_S1);
	emit_bytes(e, "\x49\xc1\xeb\x07", 4); /* shr r11,7 */
	emit_op_imm(e, false, 4, JIT_S1, (ISA_TLB_ENTRIES - 1) << 5);
	emit_op_mem(e, true, 0x03, JIT_S1, &tlb);
	again = e->n;
	tag.disp = offsetof(struct isa_tlb_entry, write_tag);
	emit_op_mem(e, true, 0x3b, JIT_S0, &tag);
	no_entry = emit_jcc(e, 5); /* jne */
	tag.disp = offsetof(struct isa_tlb_entry, read_tag);
	emit_op_mem(e, true, 0x3b, JIT_S0, &tag);
	found = emit_jcc(e, 4);
	fails[2] = emit_jmp(e);
	emit_patch(e, no_entry, e->n);
	if (j->refill[1]) {
		emit_bytes(e, "\x48\x83\xec\x08", 4); /* sub rsp,8 */
		emit_call_via(e, (uint64_t)(uintptr_t)&j->refill[1]);
		emit_bytes(e, "\x48\x8d\x64\x24\x08", 5); /* lea rsp,[rsp+8] */
		emit_patch(e, emit_jcc(e, 3), again); /* jnc */
	}
	fails[3] = emit_jmp(e);
	emit_patch(e, found, e->n);
	store(e, true, JIT_S0, &cs->sp_tag);
	tag.disp = offsetof(struct isa_tlb_entry, addend);
	emit_op_mem(e, true, 0x8b, JIT_S1, &tag);
	store(e, true, JIT_S1, &cs->sp_addend);
	emit_bytes(e, "\xf8\xc3", 2); /* clc; ret */
	for (unsigned n = 0; n < ARRAY_SIZE(fails); n++)
		emit_patch(e, fails[n], e->n);
	emit_bytes(e, "\xf9\xc3", 2); /* stc; ret */
}

static void emit_stubs(struct cpu_jit *j)
{
	struct emitter *e = &j->e;
	struct cpu_state *cs = &j->cpu->cs;
	uint32_t to_common, left, noflags;

	/* enter(rdi cs, rsi code) */
	j->enter = (uint32_t (*)(struct cpu_state *, const uint8_t *))(uintptr_t)emit_here(e);
	emit_bytes(e, push_saved, sizeof(push_saved) - 1);
	emit_op_reg(e, true, 0x89, HOST_RBP, HOST_RSI);
	load_all(e, cs);
	emit_bytes(e, "\xff\xe5", 2); /* jmp rbp */

	/* leave with the number in r11d, flags in RFLAGS */
	j->leave_at = e->n;
	store_gprs(e, cs);
	store_flags(e, cs);
	noflags = e->n;
	emit_op_reg(e, false, 0x89, HOST_RAX, JIT_S1);
	emit_bytes(e, pop_saved, sizeof(pop_saved) - 1);
	emit_byte(e, 0xc3);
	/* an indirect branch that found no unit; flags in cs->cc */
	j->ind_miss = runs_at(e);
	j->ind_miss_at = e->n;
	emit_mov_imm32(e, JIT_S1, JIT_EXIT_INDIRECT);
	store_gprs(e, cs);
	emit_patch(e, emit_jmp(e), noflags);

	/* call: number in r11d, flags in RFLAGS; reached by a call */
	j->call = runs_at(e);
	store_gprs(e, cs);
	store_flags(e, cs);
	to_common = emit_jmp(e);
	/* miss: flags in cs->cc, or dead */
	j->miss = runs_at(e);
	store_gprs(e, cs);
	emit_patch(e, to_common, e->n);
	emit_op_reg(e, false, 0x89, HOST_RSI, JIT_S1);
	{
		struct host_mem m = at(cs);

		emit_op_mem(e, true, 0x8d, HOST_RDI, &m);
	}
	emit_bytes(e, "\x48\x83\xec\x08", 4); /* sub rsp,8 */
	emit_call_via(e, (uint64_t)(uintptr_t)&j->c_stub);
	emit_bytes(e, "\x48\x83\xc4\x08\x85\xc0", 6); /* add rsp,8; test eax,eax */
	left = emit_jcc(e, 5);
	load_all(e, cs);
	emit_byte(e, 0xc3);
	emit_patch(e, left, e->n);
	emit_bytes(e, "\x48\x83\xc4\x08\x31\xc0", 6); /* add rsp,8 (return address); xor eax,eax */
	emit_bytes(e, pop_saved, sizeof(pop_saved) - 1);
	emit_byte(e, 0xc3);
	if (C_KEEPS_VECTORS) {
		emit_refill_stubs(j);
		emit_fill_stub(j);
	}
	emit_slot_stub(j);
	j->stubs_end = e->n;
	j->c_stub = (void *)(uintptr_t)jit_stub;
}

/* --- memory --- */

static bool wanted(void)
{
	return !strcmp(vmx_engine_name(), "jit");
}

struct vmx_cpu *cpu_jit_reserve(void)
{
	uint8_t *all;

	if (!wanted())
		return NULL;
	all = own_reserve(ALL_BYTES);
	if (!all) {
		log_line(LOG_ERRORS, "no address space for translated code: this vCPU interprets");
		return NULL;
	}
	if (mmap(all, CPU_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
		 0) == MAP_FAILED) {
		own_pages_free(all);
		return NULL;
	}
	return (struct vmx_cpu *)all;
}

bool cpu_jit_create(struct vmx_cpu *cpu)
{
	uint8_t *data = (uint8_t *)cpu + CPU_BYTES;
	struct cpu_jit *j = (struct cpu_jit *)data;
	struct exec_memory mem;
	int err;

	cpu->jit_pid = getpid();
	if (mmap(data, JIT_BYTES, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
		return false;
	madvise(data, JIT_BYTES, MADV_DONTFORK);
	err = exec_memory_create(&mem, JIT_CODE_BYTES, data + JIT_BYTES);
	if (err) {
		log_line(LOG_ERRORS, "no executable memory: this vCPU interprets");
		return false;
	}
	j->cpu = cpu;
	j->mem = mem;
	j->e = (struct emitter){ .b = mem.rw, .size = (uint32_t)mem.size,
				 .run = (uint64_t)(uintptr_t)mem.run };
	read_options(j);
	emit_stubs(j);
	for (unsigned n = 0; n < ARRAY_SIZE(j->cls); n++)
		j->cls[n].ind = j->ind[n];
	jit_drop_all(j);
	if (j->perf) {
		char path[40];

		snprintf(path, sizeof(path), "/tmp/perf-%d.map", getpid());
		j->perf_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	}
	exec_memory_sync();
	cpu->jit = j;
	return true;
}

/* USERKVM_JIT=stat: the processor's counters, when it goes. */
static void print_counters(const struct vmx_cpu *cpu)
{
#define PRINT_COUNTER(n) log_dump("vCPU counter " #n " %lu", (unsigned long)cpu->counters.n);
	VMX_CPU_COUNTERS(PRINT_COUNTER)
#undef PRINT_COUNTER
}

bool cpu_jit_destroy(struct vmx_cpu *cpu)
{
	uint8_t *all = (uint8_t *)cpu;
	struct exec_memory mem;

	if (!cpu->jit_pid)
		return false;
	if (cpu->jit_pid == getpid() && cpu->jit) {
		if (params_has_word("USERKVM_JIT", "stat"))
			print_counters(cpu);
		if (cpu->jit->perf_fd >= 0)
			close(cpu->jit->perf_fd);
		mem = cpu->jit->mem;
		exec_memory_destroy(&mem);
	}
	own_pages_free(all);
	return true;
}

void *jit_bulk(struct cpu_jit *j, size_t bytes)
{
	uint32_t start = ALIGN_UP(j->bulk_used, 16u);

	if (bytes > JIT_BULK_BYTES - start)
		return NULL;
	j->bulk_used = start + (uint32_t)bytes;
	return j->bulk + start;
}

void jit_need_ind(struct cpu_jit *j, unsigned cls)
{
	struct jit_class *c = &j->cls[cls];

	if (likely(c->has_ind))
		return;
	for (unsigned n = 0; n < JIT_IND_ENTRIES; n++)
		c->ind[n] = j->ind_miss;
	c->has_ind = true;
}
