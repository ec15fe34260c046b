#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "harness.h"

#include <Zydis/Zydis.h>

#include "isa/stub.h"

#define LINE_BYTES 64 /* of a cache */
#define CODE_BYTES (1u << 20)
#define REACH (64u << 20)

struct world *world;
static uint8_t *image; /* the guest's XSAVE area: world lies where no leak checker looks */
static struct exec_memory exec;
struct jit_rewriter *rewriter;
static uint64_t enter_at, leave_at, fault_at, stub_bytes;
uint64_t random_seed = 1;

uint64_t random64(void)
{
	random_seed += 0x9e3779b97f4a7c15;
	uint64_t z = random_seed;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

/* --- a small processor --- */

static bool has_avx512(void)
{
	return isa_host_has(HOST_AVX512F);
}

static struct page *find_page(uint64_t lin)
{
	for (unsigned n = 0; n < world->nr_pages; n++)
		if (world->page[n].lin == (lin & PAGE_MASK))
			return &world->page[n];
	return NULL;
}

static void *fake_mem(struct cpu_state *cs, uint64_t lin, unsigned size, enum isa_access how,
		      void *bounce)
{
	for (unsigned n = 0; n < size; n++) {
		struct page *p = find_page(lin + n);

		if (!p || ((how & ISA_WRITE) && !p->writable)) {
			cs->cr2 = lin + n;
			isa_raise_error(cs, X86_TRAP_PF, (how & ISA_WRITE) ? 2 : 0);
		}
		if (how & ISA_READ)
			((uint8_t *)bounce)[n] = p->host[(lin + n) & ~PAGE_MASK];
	}
	struct page *p = find_page(lin);

	if ((lin & ~PAGE_MASK) + size > PAGE_SIZE || p->untagged)
		return bounce;
	if ((how & ISA_RMW) == ISA_RMW && lin % LINE_BYTES + size > LINE_BYTES)
		return bounce; /* the host is to make no split lock (isa/mem.h, invariant 4) */
	struct isa_tlb_entry *e = &world->tlb[(lin >> PAGE_SHIFT) & (ISA_TLB_ENTRIES - 1)];

	if (e->read_tag != p->lin)
		*e = (struct isa_tlb_entry){ p->lin, TLB_NO_ACCESS, TLB_NO_ACCESS,
					     (uintptr_t)p->host - p->lin };
	if (how & ISA_WRITE)
		e->write_tag = p->lin;
	return p->host + (lin & ~PAGE_MASK);
}

static void fake_commit(struct cpu_state *cs, uint64_t lin, unsigned size, const void *bounce)
{
	for (unsigned n = 0; n < size; n++)
		find_page(lin + n)->host[(lin + n) & ~PAGE_MASK] = ((const uint8_t *)bounce)[n];
}

static __attribute__((noreturn)) void fake_raise(struct cpu_state *cs)
{
	longjmp(world->raised, 1);
}

static isa_fn *no_system(const struct isa_decoded *d, struct isa_insn *i)
{
	return NULL;
}

static const struct isa_ops ops = {
	.mem = fake_mem, .mem_commit = fake_commit, .raise = fake_raise, .system = no_system,
};

void world_flush(void)
{
	for (unsigned n = 0; n < ISA_TLB_ENTRIES; n++)
		world->tlb[n] = (struct isa_tlb_entry){ TLB_NO_ACCESS, TLB_NO_ACCESS, TLB_NO_ACCESS, 0 };
	world->cs.sp_tag = 1ULL << 63 | 1;
}

struct page *world_page(uint64_t lin)
{
	struct page *p = &world->page[world->nr_pages++];
	uint8_t *room = mmap(NULL, 3 * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_true(world->nr_pages <= NR_PAGES && room != MAP_FAILED);
	assert_int_equal(mprotect(room + 4096, 4096, PROT_READ | PROT_WRITE), 0);
	*p = (struct page){ .lin = lin & PAGE_MASK, .host = room + 4096, .writable = true };
	for (unsigned n = 0; n < 4096; n += 8) {
		uint64_t v = random64();

		memcpy(p->host + n, &v, 8);
	}
	return p;
}

/* --- the way in and out of emitted code --- */

static void state_op(struct emitter *e, unsigned opcode, unsigned reg, const void *p)
{
	struct host_mem m = { .absolute = true, .address = (uintptr_t)p };

	emit_op_mem(e, true, opcode, reg, &m);
}

static void each_gpr(struct emitter *e, unsigned opcode)
{
	for (unsigned g = 0; g < NR_GPRS; g++)
		if (jit_host_reg[g] != HOST_NONE)
			state_op(e, opcode, jit_host_reg[g], &world->cs.gpr[g]);
}

static const uint8_t callee_saved[] = { 3, 5, 12, 13, 14, 15 };

static void emit_stubs(void)
{
	struct emitter e = { .b = exec.rw, .size = 4096, .run = (uintptr_t)exec.run };
	struct jit_rewriter r = { .cs = &world->cs };
	uint64_t stub_store;

	/* void enter(void *code) */
	enter_at = emit_here(&e);
	for (unsigned n = 0; n < 6; n++) {
		if (callee_saved[n] & 8)
			emit_byte(&e, 0x41);
		emit_byte(&e, 0x50 | (callee_saved[n] & 7));
	}
	emit_bytes(&e, "\x48\x83\xec\x08", 4); /* sub rsp, 8: aligned */
	state_op(&e, 0x89, 4, &world->host_sp);
	state_op(&e, 0x89, 7, &world->resume);
	r.e = e;
	jit_emit_load_flags(&r, JIT_S0);
	e = r.e;
	each_gpr(&e, 0x8b);
	emit_jmp_via(&e, (uintptr_t)&world->resume);

	/* leave: store the state, back to C */
	leave_at = emit_here(&e);
	r.e = e;
	jit_emit_save_flags(&r, JIT_S0);
	e = r.e;
	stub_store = e.n;
	each_gpr(&e, 0x89);
	fault_at = emit_here(&e);
	state_op(&e, 0x8b, 4, &world->host_sp);
	emit_bytes(&e, "\x48\x83\xc4\x08", 4);
	for (unsigned n = 6; n--;) {
		if (callee_saved[n] & 8)
			emit_byte(&e, 0x41);
		emit_byte(&e, 0x58 | (callee_saved[n] & 7));
	}
	emit_byte(&e, 0xc3);

	/* call and miss: the number, the return address, then as leave */
	world->call = emit_here(&e);
	state_op(&e, 0x89, JIT_S1, &world->call_number);
	emit_bytes(&e, "\x41\x5b", 2); /* pop r11 */
	state_op(&e, 0x89, JIT_S1, &world->resume);
	emit_patch(&e, emit_jmp(&e), (uint32_t)(leave_at - (uintptr_t)exec.run));
	world->fill = emit_here(&e); /* no slot is ever filled from here */
	emit_bytes(&e, "\xf9\xc3", 2); /* stc; ret */
	world->miss = emit_here(&e);
	state_op(&e, 0x89, JIT_S1, &world->call_number);
	emit_bytes(&e, "\x41\x5b", 2);
	state_op(&e, 0x89, JIT_S1, &world->resume);
	emit_patch(&e, emit_jmp(&e), (uint32_t)stub_store);
	assert_false(e.full);
	stub_bytes = ALIGN_UP(e.n, 64);
}

/*
 * A fault of a handler's silicon stub is isa's. One of emitted code (#DE, misaligned
 * SSE): the state is written back, and the handler has to raise it.
 */
static void on_fault(int signo, siginfo_t *si, void *context)
{
	ucontext_t *uc = context;
	static const int gregs[16] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
				       REG_RSI, REG_RDI, REG_R8, REG_R9, REG_R10, REG_R11,
				       REG_R12, REG_R13, REG_R14, REG_R15 };
	uint64_t rip = (uint64_t)uc->uc_mcontext.gregs[REG_RIP];
	struct jit_recover *found = NULL;

	if (isa_silicon_fault(&world->cs, signo, context))
		return;
	if (rip - (uintptr_t)exec.run >= CODE_BYTES) {
		signal(signo, SIG_DFL);
		return;
	}
	/* An access that was probed reaches guest memory: only #GP (no address) may come of it. */
	if (signo == SIGSEGV && si->si_code != SI_KERNEL)
		world->strayed = (uint64_t)(uintptr_t)si->si_addr;
	for (uint32_t n = 0; n < rewriter->nr_recover; n++)
		if (rewriter->recover[n].offset <= rip - rewriter->e.run)
			found = &rewriter->recover[n];
	if (!found)
		abort();
	for (unsigned g = 0; g < NR_GPRS; g++)
		if (jit_host_reg[g] != HOST_NONE)
			world->cs.gpr[g] = (uint64_t)uc->uc_mcontext.gregs[gregs[jit_host_reg[g]]];
	if (!found->flags_in_cc) {
		uint64_t f = (uint64_t)uc->uc_mcontext.gregs[REG_EFL];

		world->cs.cc = (uint32_t)((f & 0xd5) << 8 | (f >> 11 & 1));
	}
	world->why = 1000 + found->insn;
	/* as if `leave` had stored the registers */
	uc->uc_mcontext.gregs[REG_RSP] = (greg_t)world->host_sp;
	uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(fault_at);
}

void world_create(void)
{
	uint8_t *room = mmap(NULL, REACH, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
			     -1, 0);

	assert_ptr_not_equal(room, MAP_FAILED);
	assert_int_equal(mprotect(room, 1u << 20, PROT_READ | PROT_WRITE), 0);
	world = (struct world *)room;
	assert_int_equal(exec_memory_create(&exec, CODE_BYTES, room + (16u << 20)), 0);
	world->cs.ops = &ops;
	world->cs.owner = world;
	world->cs.tlb = world->tlb;
	world->cs.code_mode = world->cs.stack_mode = ISA_CODE64;
	world->cs.cr0 = X86_CR0_PE | X86_CR0_MP | X86_CR0_NE | X86_CR0_PG;
	world->cs.cr4 = X86_CR4_PAE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE;
	world->cs.xcr0 = XFEATURE_MASK_FP | XFEATURE_MASK_SSE | XFEATURE_MASK_YMM |
			 (has_avx512() ? XFEATURE_MASK_AVX512 : 0);
	assert_true(isa_xsave_size() <= MAX_IMAGE);
	assert_int_equal(silicon_arena_create(&world->cs.stubs, SILICON_CPU_BYTES), 0);
	silicon_use(world->cs.stubs);
	image = aligned_alloc(64, ALIGN_UP(isa_xsave_size(), (size_t)64));
	memset(image, 0, isa_xsave_size());
	world->cs.xsave = image;
	rewriter = calloc(1, sizeof(*rewriter));
	emit_stubs();
	world_flush();
}

/* --- code --- */

static enum isa_code_mode mode_of(const struct code *c)
{
	return c->code32 ? ISA_CODE32 : ISA_CODE64;
}

bool code_add(struct code *c, const uint8_t *bytes, unsigned nr)
{
	struct isa_insn *i = &c->isa[c->nr];
	unsigned off = c->nr ? i[-1].off + i[-1].len : 0;

	assert_true(c->nr < MAX_INSNS && nr <= 16);
	if (!c->nr && !silicon_arena_has_room(world->cs.stubs, 1000))
		silicon_arena_reset(world->cs.stubs);
	memset(c->bytes[c->nr], 0, 16);
	memcpy(c->bytes[c->nr], bytes, nr);
	if (isa_decode(c->bytes[c->nr], 15, mode_of(c), &ops, i) != ISA_DECODE_OK)
		return false;
	if ((c->rip & ~PAGE_MASK) + off + i->len > PAGE_SIZE)
		return false;
	i->off = (uint16_t)off;
	c->insn[c->nr] = (struct jit_insn){
		.isa = i, .bytes = c->bytes[c->nr],
		.page_off = (uint16_t)((c->rip & ~PAGE_MASK) + off), .code32 = c->code32,
	};
	jit_classify(&c->insn[c->nr]);
	c->nr++;
	return true;
}

/* Registers random; exceptions masked, but for one time in eight. */
void random_fpu(struct start *s)
{
	struct isa_xsave_image *x = (struct isa_xsave_image *)s->fpu;

	memset(s->fpu, 0, sizeof(s->fpu));
	for (unsigned n = 0; n < sizeof(*x); n++)
		if (n < offsetof(struct isa_xsave_image, xstate_bv) ||
		    n >= offsetof(struct isa_xsave_image, ymm_high))
			s->fpu[n] = (uint8_t)random64();
	for (unsigned k = 5; k < 8 && has_avx512(); k++)
		for (unsigned n = 0; n < isa_host()->component[k].size; n++)
			isa_xsave_component(s->fpu, k)[n] = (uint8_t)random64();
	x->fcw = FCW_DEFAULT;
	x->fsw = (uint16_t)(random64() % 8 << 11);
	x->ftw = (uint8_t)random64();
	x->pad = 0;
	x->fop = 0;
	memset(x->reserved, 0, sizeof(x->reserved));
	x->fip = x->fdp = 0;
	x->mxcsr = MXCSR_DEFAULT;
	if (random64() % 8 == 0)
		x->mxcsr &= (uint32_t)random64() | 0x40; /* not DAZ */
	if (random64() % 8 == 0)
		x->fcw &= (uint16_t)(random64() | ~0x3fULL);
	x->mxcsr_mask = MXCSR_VALID;
	x->xstate_bv = world->cs.xcr0;
	for (unsigned n = 0; n < 8; n++)
		memset((uint8_t *)&x->st[n] + 10, 0, 6);
}

static void set_mode(struct cpu_state *cs, const struct start *s, const struct code *c)
{
	const uint32_t plain = (uint32_t)(VMX_AR_P | VMX_AR_S | VMX_AR_TYPE_WRITABLE | VMX_AR_DB);

	cs->code_mode = cs->stack_mode = (uint8_t)mode_of(c);
	for (unsigned n = 0; n < NR_SREGS; n++)
		cs->seg[n] = (struct cpu_segment){ .limit = ~0U, .ar = plain };
	cs->seg[SREG_CS].ar |= (uint32_t)VMX_AR_TYPE_CODE;
	cs->seg[SREG_FS].base = s->fs;
	cs->seg[SREG_GS].base = s->gs;
	if (c->code32) {
		cs->seg[SREG_FS].limit = s->fs_limit;
		cs->seg[SREG_GS].ar |= (uint32_t)(s->gs & 1 ? VMX_AR_UNUSABLE : 0);
	}
}

static void start(const struct start *s, const struct code *c)
{
	struct cpu_state *cs = &world->cs;

	isa_fpu_sync(cs);
	memcpy(cs->xsave, s->fpu, isa_xsave_size());

	memcpy(cs->gpr, s->gpr, sizeof(cs->gpr));
	cs->cc = s->cc;
	cs->rflags = X86_FLAGS_FIXED;
	cs->rip = cs->block_rip = c->rip;
	set_mode(cs, s, c);
	cs->page_lin = c->rip & PAGE_MASK;
	for (unsigned n = 0; n < world->nr_pages; n++)
		memcpy(world->page[n].host, world->saved[n], 4096);
}

static void finish(struct outcome *o)
{
	struct cpu_state *cs = &world->cs;

	isa_fpu_sync(cs);
	memcpy(o->fpu, cs->xsave, isa_xsave_size());
	memset(o->fpu + offsetof(struct isa_xsave_image, xstate_bv), 0, 8);
	memcpy(o->gpr, cs->gpr, sizeof(o->gpr));
	o->cc = cs->cc & 0xd501;
	o->rip = cs->rip;
	for (unsigned n = 0; n < world->nr_pages; n++)
		memcpy(o->mem[n], world->page[n].host, 4096);
}

/* Handlers of [first, first + nr); cs->rip is where it goes on. */
static void run_handlers(struct code *c, unsigned first, unsigned nr)
{
	struct cpu_state *cs = &world->cs;

	for (unsigned n = first; n < first + nr; n++) {
		cs->cur = &c->isa[n];
		cs->block_rip = c->rip;
		cs->rip = isa_next_rip(cs, cs->cur);
		if (c->code32)
			cs->rip = (uint32_t)cs->rip;
		c->isa[n].fn(cs, &c->isa[n]);
		isa_fpu_sync(cs);
	}
}

static void catch_faults(void)
{
	static const int signals[] = { SIGFPE, SIGILL, SIGSEGV };
	struct sigaction sa = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER };

	for (unsigned n = 0; n < ARRAY_SIZE(signals); n++) /* cmocka has its own before each test */
		sigaction(signals[n], &sa, NULL);
}

void run_interpreter(struct code *c, const struct start *s, struct outcome *o)
{
	catch_faults();
	start(s, c);
	o->raised = setjmp(world->raised);
	if (!o->raised)
		run_handlers(c, 0, c->nr);
	else
		o->vector = world->cs.exception.vector, world->cs.rip = isa_rip(&world->cs);
	finish(o);
}

static void fill_group_slot(uint64_t lin)
{
	uint64_t page = lin & PAGE_MASK;
	struct isa_tlb_entry *e = &world->tlb[page >> PAGE_SHIFT & (ISA_TLB_ENTRIES - 1)];

	world->cs.sp_tag = 1ULL << 63 | 1;
	if (e->write_tag == page && (world->cs.code_mode == ISA_CODE64 || page < BIT_ULL(32) - PAGE_SIZE)) {
		world->cs.sp_tag = page;
		world->cs.sp_addend = e->addend;
	}
}

/* As after an earlier round of a loop. */
static void fill_slot(struct jit_slot *slot, uint64_t lin)
{
	uint64_t page = lin & PAGE_MASK;
	struct isa_tlb_entry *e = &world->tlb[page >> PAGE_SHIFT & (ISA_TLB_ENTRIES - 1)];

	slot->tag = TLB_NO_ACCESS;
	if ((slot->write ? e->write_tag : e->read_tag) == page) {
		slot->tag = page;
		slot->addend = e->addend;
	}
}

static void do_stub(struct code *c, unsigned base)
{
	const struct jit_stub_call *call = &rewriter->calls[world->call_number - base];

	world->misses++;
	if (call->kind == JIT_STUB_GROUP) {
		uint64_t low = world->cs.gpr[call->rbp ? RBP : RSP] + (uint64_t)(int64_t)call->lo;

		fill_group_slot(random64() & 7 ? low : random64());
		if (low - world->cs.sp_tag <= PAGE_SIZE - call->extent)
			return; /* the check is made again */
	}
	run_handlers(c, call->first, call->nr);
	if (call->kind != JIT_STUB_RUN)
		world->leave_now = true;
}

/* The code after a block: cs->rip := where it goes on. */
static void emit_end(struct jit_rewriter *r, const struct code *c, const struct jit_end *end)
{
	struct emitter *e = &r->e;
	uint64_t page = c->rip & PAGE_MASK;
	uint32_t taken = 0;

	if (end->kind == JIT_END_COND)
		taken = jit_emit_cond(r, end);
	for (unsigned way = 0; way < (end->kind == JIT_END_COND ? 2 : 1); way++) {
		uint64_t rip = page + (uint64_t)(int64_t)(end->kind == JIT_END_JUMP || way ?
								  end->target : end->next);

		if (c->code32)
			rip = (uint32_t)rip;
		if (way)
			emit_patch(e, taken, e->n);
		if (end->carry_in_cc)
			jit_emit_carry(r, c->live_out);
		if (end->kind == JIT_END_INDIRECT) {
			jit_emit_load_flags(r, JIT_S1);
		} else {
			emit_bytes(e, "\x48\xbd", 2); /* mov rbp, imm64 */
			emit_u64(e, rip);
		}
		state_op(e, 0x89, JIT_S0, &world->cs.rip);
		emit_patch(e, emit_jmp(e), (uint32_t)(leave_at - e->run));
	}
}

static bool emit_code(struct code *c, unsigned base, struct jit_end *end)
{
	struct jit_block b = { .insn = c->insn, .nr = c->nr, .live_out = c->live_out,
			       .flags_in_cc = c->flags_in_cc,
			       .no_group = c->no_group, .apart = c->apart, .slots = c->slots };
	struct jit_rewriter *r = rewriter;

	r->e = (struct emitter){ .b = exec.rw + stub_bytes, .size = CODE_BYTES - (uint32_t)stub_bytes,
				 .run = (uintptr_t)exec.run + stub_bytes };
	r->cs = &world->cs;
	r->miss = (uintptr_t)&world->miss;
	r->call = (uintptr_t)&world->call;
	r->fill = (uintptr_t)&world->fill;
	r->slots = world->slots;
	r->max_slots = NR_SLOTS;
	r->first_call = base;
	jit_rewriter_init(r);
	if (c->flags_in_cc)
		emit_bytes(&r->e, "\x48\x39\xe4", 3); /* cmp rsp, rsp: they are no more in RFLAGS */
	if (jit_emit_block(r, &b, end))
		return false;
	assert_int_not_equal(end->kind, JIT_END_LEAVE);
	emit_end(r, c, end);
	if (jit_emit_cold(r))
		return false;
	exec_memory_sync();
	return true;
}

/* An indirect target that is not canonical: the branch again, by its handler. */
static void leave_block(struct code *c, const struct jit_end *end)
{
	if (end->kind != JIT_END_INDIRECT || isa_canonical(&world->cs, world->cs.rip))
		return;
	assert_false(end->checked);
	world->cs.gpr[RSP] -= end->rsp_undo;
	run_handlers(c, c->nr - 1, 1);
	fail_msg("a branch to an address that is not canonical");
}

static void list(struct code *c, const struct start *s);

/* Nothing between load and unload may use vector registers. */
static void __attribute__((noinline)) enter_code(uint64_t at)
{
	isa_fpu_load(&world->cs);
	((void (*)(uint64_t))(uintptr_t)enter_at)(at);
	isa_fpu_unload(&world->cs);
}

bool run_emitted(struct code *c, const struct start *s, struct outcome *o)
{
	unsigned base = (unsigned)(random64() & 0xffff);
	struct cpu_state *cs = &world->cs;
	struct jit_end end;
	uint64_t at;

	if (!emit_code(c, base, &end))
		return false;
	start(s, c);
	if (random64() & 1) /* as after an earlier group of the same page */
		fill_group_slot(world->cs.gpr[random64() & 1 ? RSP : RBP]);
	for (unsigned n = 0; n < rewriter->nr_slots; n++)
		fill_slot(&world->slots[n], random64() % 2 ? s->gpr[random64() % NR_GPRS] : random64());
	world->leave_now = false;
	at = rewriter->e.run;
	o->raised = setjmp(world->raised);
	while (!o->raised && !world->leave_now) {
		world->call_number = ~0ULL;
		world->why = 0;
		enter_code(at);
		if (world->strayed) {
			list(c, s);
			fail_msg("emitted code accessed %#lx, which is no guest memory", world->strayed);
		}
		if (world->why) {
			run_handlers(c, (unsigned)world->why - 1000, 1);
			fail_msg("a host fault that the handler does not see");
		}
		if (world->call_number == ~0ULL) {
			leave_block(c, &end);
			break;
		}
		at = world->resume;
		do_stub(c, base);
	}
	if (o->raised) {
		o->vector = cs->exception.vector;
		cs->rip = isa_rip(cs);
	}
	finish(o);
	return true;
}

/* --- comparing --- */

uint32_t cc_mask(uint8_t live)
{
	return (uint32_t)((live & JIT_CF ? CC_CF : 0) | (live & JIT_PF ? CC_PF : 0) |
			  (live & JIT_AF ? CC_AF : 0) | (live & JIT_ZF ? CC_ZF : 0) |
			  (live & JIT_SF ? CC_SF : 0) | (live & JIT_OF ? CC_OF : 0));
}

static void list(struct code *c, const struct start *s)
{
	char text[128];
	ZydisDisassembledInstruction z;

	for (unsigned n = 0; n < c->nr; n++) {
		isa_insn_text(c->bytes[n], 15, mode_of(c), c->rip + c->isa[n].off, text, sizeof(text));
		printf("  %-40s kind %u size %u live_out %02x |", text, c->insn[n].kind,
		       c->insn[n].size, c->live_out);
		for (unsigned k = 0; k < c->isa[n].len; k++)
			printf(" %02x", c->bytes[n][k]);
		printf("\n");
	}
	for (unsigned at = 0; at < rewriter->e.n; at += z.info.length) {
		if (!ZYAN_SUCCESS(ZydisDisassembleIntel(ZYDIS_MACHINE_MODE_LONG_64,
							rewriter->e.run + at, rewriter->e.b + at, 15, &z)))
			break;
		printf("    %4x  %s\n", at, z.text);
	}
	for (unsigned g = 0; g < NR_GPRS; g++)
		printf("  gpr%u %#lx%s", g, s->gpr[g], g % 4 == 3 ? "\n" : "");
	printf("  cc %x fs %#lx gs %#lx\n", s->cc, s->fs, s->gs);
}

void compare(struct code *c, const struct start *s, const struct outcome *a, const struct outcome *b)
{
	bool bad = a->raised != b->raised || a->rip != b->rip ||
		   memcmp(a->gpr, b->gpr, sizeof(a->gpr)) ||
		   (a->raised ? a->vector != b->vector :
				((a->cc ^ b->cc) & cc_mask(c->live_out)) != 0);

	bad |= memcmp(a->fpu, b->fpu, sizeof(a->fpu)) != 0;
	for (unsigned n = 0; n < world->nr_pages; n++)
		bad |= memcmp(a->mem[n], b->mem[n], 4096) != 0;
	if (!bad)
		return;
	list(c, s);
	printf("raised %d/%d vector %u/%u rip %#lx/%#lx cc %x/%x\n", a->raised, b->raised, a->vector,
	       b->vector, a->rip, b->rip, a->cc, b->cc);
	for (unsigned g = 0; g < NR_GPRS; g++)
		if (a->gpr[g] != b->gpr[g])
			printf("gpr%u: handlers %#lx, emitted %#lx\n", g, a->gpr[g], b->gpr[g]);
	for (unsigned n = 0; n < sizeof(a->fpu); n++)
		if (a->fpu[n] != b->fpu[n])
			printf("XSAVE byte %u: %02x/%02x\n", n, a->fpu[n], b->fpu[n]);
	for (unsigned n = 0; n < world->nr_pages; n++)
		for (unsigned k = 0; k < 4096; k++)
			if (a->mem[n][k] != b->mem[n][k])
				printf("page %u byte %x: %02x/%02x\n", n, k, a->mem[n][k], b->mem[n][k]);
	fflush(stdout);
	fail_msg("emitted code differs from the handlers (seed %#lx)", random_seed);
}

void world_save(void)
{
	for (unsigned n = 0; n < world->nr_pages; n++)
		memcpy(world->saved[n], world->page[n].host, 4096);
}

void check_code(struct code *c, const struct start *s)
{
	static struct outcome a, b;

	world_save();
	run_interpreter(c, s, &a);
	if (random64() % 4 == 0)
		world_flush();
	assert_true(run_emitted(c, s, &b));
	compare(c, s, &a, &b);
}
