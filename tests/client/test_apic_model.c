/*
 * Random programs for the local APIC, beside a model of it (SDM Vol. 3, "Interrupt Acceptance for Fixed Interrupts",
 * "Task and Processor Priorities", "Signaling Interrupt Servicing Completion"): which vector is taken behind which
 * access, and what TPR, PPR, ISR and IRR say.
 *
 *   commands ─► guest (one loop) ─► log: vectors as they are taken, values that were read
 *       └─────► model ────────────► the same log
 *
 * By memory and by MSR; by one vCPU, and by two that send each other an IPI at the end of their turns. The guest's
 * handlers end nothing: EOI is a command, so that interrupts nest. Behind a program the client compares KVM_GET_LAPIC; where
 * one says so it does that, and sends messages or changes the image.
 *
 * APIC_SEED and APIC_PROGRAMS: other programs than those of each run, and how many.
 */
#include "smp.h"

#define AT_TURN 0x600
#define AT_CODE 0x1000
#define AT_COMMON 0x1f80
#define AT_HANDLERS 0x20000
#define AT_IDT 0x30000
#define AT_GDT 0x31000
#define AT_COMMANDS(i) (0x40000 + 0x10000 * (unsigned)(i))
#define AT_LOG(i) (0x80000 + 0x20000 * (unsigned)(i))
#define LOG_WORDS 0x8000
#define APIC_VA 0x600000UL /* a page of 2 MiB to FEE00000h */
#define COMMANDS 600
#define TURNS 60 /* of two vCPUs */
#define TAKEN 0x100000U

enum op { OP_END, OP_TPR, OP_EOI, OP_SELF, OP_SEND, OP_STI, OP_CLI, OP_READ, OP_CR8, OP_READ_CR8, OP_OUT, OP_WAIT, OP_PASS };

#define JUMPS \
	"cmp $1, %eax\n je 1f\n cmp $2, %eax\n je 2f\n cmp $3, %eax\n je 3f\n cmp $4, %eax\n je 4f\n" \
	"cmp $5, %eax\n je 5f\n cmp $6, %eax\n je 6f\n cmp $7, %eax\n je 7f\n cmp $8, %eax\n je 8f\n" \
	"cmp $9, %eax\n je 9f\n cmp $10, %eax\n je 10f\n cmp $11, %eax\n je 11f\n cmp $12, %eax\n je 12f\n"
/* R10: commands, R11: log, R8: the APIC's page, R9: the other's APIC id. A command is an op and its operand, in EDX. */
#define LOOP(tpr, eoi, self, send, read) \
	"90: mov %r10, %rsi\n mov %r11, %rdi\n" \
	"91: mov (%rsi), %eax\n mov 4(%rsi), %edx\n add $8, %rsi\n" JUMPS \
	"out %al, $0x11\n jmp 90b\n" \
	"1: " tpr "jmp 91b\n 2: " eoi "jmp 91b\n 3: " self "jmp 91b\n 4: " send "jmp 91b\n" \
	"5: sti\n nop\n jmp 91b\n 6: cli\n jmp 91b\n" \
	"7: " read "mov %eax, (%rdi)\n add $4, %rdi\n jmp 91b\n" \
	"8: mov %rdx, %cr8\n jmp 91b\n" \
	"9: mov %cr8, %rax\n mov %eax, (%rdi)\n add $4, %rdi\n jmp 91b\n" \
	"10: out %al, $0x10\n jmp 91b\n" \
	/* what the other has sent is taken before the turn begins: a look at requests lies between */ \
	"11: pause\n cmp %edx, 0x600\n jne 11b\n mov $100, %ecx\n 92: dec %ecx\n jnz 92b\n jmp 91b\n" \
	"12: mov %edx, 0x600\n jmp 91b\n"
GUEST(by_memory, "code64",
      LOOP("mov %edx, 0x80(%r8)\n", "movl $0, 0xb0(%r8)\n", "or $0x40000, %edx\n mov %edx, 0x300(%r8)\n",
	   "mov %r9d, %ecx\n shl $24, %ecx\n mov %ecx, 0x310(%r8)\n mov %edx, 0x300(%r8)\n", "mov (%r8, %rdx), %eax\n"));
GUEST(by_msr, "code64",
      LOOP("mov %edx, %eax\n xor %edx, %edx\n mov $0x808, %ecx\n wrmsr\n", "xor %eax, %eax\n xor %edx, %edx\n mov $0x80b, %ecx\n wrmsr\n",
	   "mov %edx, %eax\n xor %edx, %edx\n mov $0x83f, %ecx\n wrmsr\n",
	   "mov %edx, %eax\n mov %r9d, %edx\n mov $0x830, %ecx\n wrmsr\n", "mov %edx, %ecx\n shr $4, %ecx\n add $0x800, %ecx\n rdmsr\n"));
GUEST(taken, "code64", "pop %r12\n or $0x100000, %r12d\n mov %r12d, (%rdi)\n add $4, %rdi\n iretq\n");

/* --- the model --- */

struct model {
	bool isr[256], irr[256], enabled; /* enabled: RFLAGS.IF */
	uint32_t tpr;
	uint32_t log[LOG_WORDS], nr;
};

static uint32_t highest(const bool *bits)
{
	uint32_t v = 255;

	while (v && !bits[v])
		v--;
	return v;
}

static uint32_t ppr(const struct model *m)
{
	uint32_t isrv = highest(m->isr);

	return m->tpr >> 4 >= isrv >> 4 ? m->tpr : isrv & 0xf0;
}

static void note(struct model *m, uint32_t v)
{
	assert_true(m->nr < LOG_WORDS);
	m->log[m->nr++] = v;
}

/* At an instruction boundary. A handler runs with IF = 0, and ends in its IRET. */
static void take(struct model *m)
{
	uint32_t v;

	while (m->enabled && (v = highest(m->irr)) >> 4 > ppr(m) >> 4) {
		m->irr[v] = false;
		m->isr[v] = true;
		note(m, v | TAKEN);
	}
}

static uint32_t bank(const bool *bits, uint32_t word)
{
	uint32_t v = 0;

	for (unsigned n = 0; n < 32; n++)
		v |= (uint32_t)bits[32 * word + n] << n;
	return v;
}

static uint32_t reads(const struct model *m, uint32_t offset)
{
	if (offset == 0x80)
		return m->tpr;
	if (offset == 0xa0)
		return ppr(m);
	return bank(offset < 0x200 ? m->isr : m->irr, (offset >> 4) & 7);
}

static void step(struct model *m, enum op op, uint32_t v)
{
	switch (op) {
	case OP_TPR: m->tpr = v; break;
	case OP_CR8: m->tpr = v << 4; break;
	case OP_EOI: m->isr[highest(m->isr)] = false; break;
	case OP_SELF: m->irr[v] = true; break;
	case OP_STI: m->enabled = true; break;
	case OP_CLI: m->enabled = false; break;
	case OP_READ: note(m, reads(m, v)); break;
	case OP_READ_CR8: note(m, m->tpr >> 4); break;
	default: break;
	}
	take(m);
}

/* --- programs --- */

static uint64_t seed;

static uint32_t any(uint32_t below)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (uint32_t)(seed >> 32) % below;
}

static uint32_t vector(void)
{
	return 0x20 + any(0xe0);
}

static void command(enum op *op, uint32_t *v)
{
	static const enum op often[] = { OP_TPR, OP_TPR, OP_EOI, OP_EOI, OP_EOI, OP_EOI, OP_SELF, OP_SELF, OP_SELF,
					 OP_STI, OP_STI, OP_CLI, OP_READ, OP_READ, OP_CR8, OP_READ_CR8 };

	*op = often[any(sizeof(often) / sizeof(often[0]))];
	*v = 0;
	switch (*op) {
	case OP_TPR: *v = any(3) ? any(0x40) : any(0x100); break;
	case OP_CR8: *v = any(3) ? any(4) : any(16); break;
	case OP_SELF: *v = vector(); break;
	case OP_READ: *v = any(2) ? 0x80 + 0x20 * any(2) : 0x100 * (1 + any(2)) + 0x10 * any(8); break;
	default: break;
	}
}

struct test {
	struct smp s;
	struct model m[2];
	int cpus;
	bool x2apic;
	uint64_t first_seed;
	unsigned program;
	uint32_t (*put[2])[2]; /* where the next command goes */
};

static void put(struct test *t, int i, enum op op, uint32_t v)
{
	(*t->put[i])[0] = op;
	(*t->put[i]++)[1] = v;
}

static void begin(struct test *t)
{
	for (int i = 0; i < t->cpus; i++) {
		t->put[i] = (void *)(t->s.c.mem + AT_COMMANDS(i));
		t->m[i].nr = 0;
		memset(t->s.c.mem + AT_LOG(i), 0xff, LOG_WORDS * 4);
	}
	smp_store32(&t->s, AT_TURN, 0);
}

static void compare_log(struct test *t, int i)
{
	const uint32_t *log = (const uint32_t *)(t->s.c.mem + AT_LOG(i));

	for (uint32_t n = 0; n <= t->m[i].nr; n++) {
		uint32_t want = n < t->m[i].nr ? t->m[i].log[n] : ~0U;

		if (log[n] != want)
			fail_msg("APIC_SEED=%#llx, program %u, %s, vCPU %d: word %u of the log is %#x, not %#x",
				 (unsigned long long)t->first_seed, t->program, t->x2apic ? "x2APIC" : "xAPIC", i, n, log[n], want);
	}
}

static uint32_t *image32(struct kvm_lapic_state *l, uint32_t offset)
{
	return (uint32_t *)(void *)(l->regs + offset);
}

static void compare_image(struct test *t, int i, struct kvm_lapic_state *l)
{
	assert_int_equal(ioctl(t->s.cpu[i].fd, KVM_GET_LAPIC, l), 0);
	for (uint32_t w = 0; w < 8; w++)
		for (uint32_t base = 0x100; base <= 0x200; base += 0x100)
			if (*image32(l, base + 0x10 * w) != reads(&t->m[i], base + 0x10 * w))
				fail_msg("APIC_SEED=%#llx, program %u, %s, vCPU %d: %#x of the image is %#x, not %#x",
					 (unsigned long long)t->first_seed, t->program, t->x2apic ? "x2APIC" : "xAPIC", i,
					 base + 0x10 * w, *image32(l, base + 0x10 * w), reads(&t->m[i], base + 0x10 * w));
	assert_int_equal(*image32(l, 0x80), t->m[i].tpr);
}

static void msi(struct test *t, int i, uint32_t v)
{
	struct kvm_msi m = {.address_lo = 0xfee00000 | (uint32_t)i << 12, .data = v};

	assert_int_equal(ioctl(t->s.c.vm, KVM_SIGNAL_MSI, &m), 1);
	t->m[i].irr[v] = true;
}

/* The client's part where a vCPU is out. */
static void client_part(struct test *t, int i)
{
	struct kvm_lapic_state l;
	uint32_t v;

	compare_image(t, i, &l);
	switch (any(4)) {
	case 0:
		msi(t, i, vector());
		break;
	case 1: /* another priority, and one that waits */
		v = vector();
		t->m[i].tpr = any(0x60);
		t->m[i].irr[v] = true;
		*image32(&l, 0x80) = t->m[i].tpr;
		*image32(&l, 0x200 + (v >> 5) * 0x10) |= 1u << (v & 31);
		assert_int_equal(ioctl(t->s.cpu[i].fd, KVM_SET_LAPIC, &l), 0);
		break;
	case 2:
		msi(t, i, vector());
		msi(t, i, vector());
		break;
	default:
		break;
	}
	take(&t->m[i]);
}

static uint8_t out(struct test *t, int i)
{
	int r;

	do {
		r = ioctl(t->s.cpu[i].fd, KVM_RUN, 0);
	} while (r < 0 && (errno == EINTR || errno == EAGAIN));
	assert_int_equal(r, 0);
	assert_int_equal(t->s.cpu[i].run->exit_reason, KVM_EXIT_IO);
	return (uint8_t)t->s.cpu[i].run->io.port;
}

/* --- a VM --- */

static void give_cpuid(struct test *t, int i)
{
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + 256 * sizeof(c->entries[0]));

	assert_non_null(c);
	c->nent = 256;
	assert_int_equal(ioctl(t->s.c.kvm, KVM_GET_SUPPORTED_CPUID, c), 0);
	assert_int_equal(ioctl(t->s.cpu[i].fd, KVM_SET_CPUID2, c), 0);
	free(c);
}

static void start_vcpu(struct test *t, int i)
{
	struct kvm_mp_state running = {.mp_state = KVM_MP_STATE_RUNNABLE};
	struct smp *s = &t->s;
	int fd = s->cpu[i].fd;
	struct kvm_lapic_state l;
	struct kvm_sregs x;

	give_cpuid(t, i);
	smp_long_mode(s, i, AT_CODE);
	((uint64_t *)(s->c.mem + 0x12000))[APIC_VA >> 21] = 0xfee00000 | 0x83;
	assert_int_equal(ioctl(fd, KVM_GET_SREGS, &x), 0);
	x.gdt = (struct kvm_dtable){.base = AT_GDT, .limit = 23};
	x.idt = (struct kvm_dtable){.base = AT_IDT, .limit = 0xfff};
	x.apic_base |= t->x2apic ? 0xc00 : 0x800;
	assert_int_equal(ioctl(fd, KVM_SET_SREGS, &x), 0);
	assert_int_equal(ioctl(fd, KVM_GET_LAPIC, &l), 0);
	*image32(&l, 0xf0) = 0x1ff;
	assert_int_equal(ioctl(fd, KVM_SET_LAPIC, &l), 0);
	assert_int_equal(ioctl(fd, KVM_SET_MP_STATE, &running), 0);
	smp_reg(s, i, r8, APIC_VA);
	smp_reg(s, i, r9, (uint64_t)!i);
	smp_reg(s, i, r10, AT_COMMANDS(i));
	smp_reg(s, i, r11, AT_LOG(i));
}

static void open_test(struct test *t, int cpus, bool x2apic)
{
	const char *wanted = getenv("APIC_SEED");
	uint64_t *gdt;

	memset(t, 0, sizeof(*t));
	t->cpus = cpus;
	t->x2apic = x2apic;
	seed = t->first_seed = wanted ? strtoull(wanted, NULL, 0) : 0x5eed0f2026000000ULL + (uint64_t)(2 * cpus + x2apic);
	smp_open(&t->s, cpus, 2 << 20, true);
	memcpy(t->s.c.mem + AT_CODE, x2apic ? guest_by_msr : guest_by_memory, x2apic ? GUEST_SIZE(by_msr) : GUEST_SIZE(by_memory));
	memcpy(t->s.c.mem + AT_COMMON, guest_taken, GUEST_SIZE(taken));
	gdt = (uint64_t *)(t->s.c.mem + AT_GDT);
	gdt[1] = 0x00af9b000000ffff;
	gdt[2] = 0x00cf93000000ffff;
	for (uint32_t v = 0; v < 256; v++) {
		uint64_t *gate = (uint64_t *)(t->s.c.mem + AT_IDT) + 2 * v, at = AT_HANDLERS + 16 * v;
		uint8_t *code = t->s.c.mem + at;
		uint32_t jump = (uint32_t)(AT_COMMON - (at + 10));

		gate[0] = (at & 0xffff) | 8u << 16 | 0x8e0000000000 | (at >> 16) << 48;
		code[0] = 0x68; /* push $v; jmp */
		memcpy(code + 1, &v, 4);
		code[5] = 0xe9;
		memcpy(code + 6, &jump, 4);
	}
	for (int i = 0; i < cpus; i++)
		start_vcpu(t, i);
}

static unsigned programs(unsigned usual)
{
	const char *wanted = getenv("APIC_PROGRAMS");

	return wanted ? (unsigned)strtoul(wanted, NULL, 0) : usual;
}

static void one_vcpu(bool x2apic)
{
	static struct test t;
	uint32_t commands[COMMANDS][2];
	struct kvm_lapic_state l;
	enum op op;

	open_test(&t, 1, x2apic);
	for (t.program = 0; t.program < programs(40); t.program++) {
		begin(&t);
		for (unsigned n = 0; n < COMMANDS; n++) {
			command(&op, &commands[n][1]);
			commands[n][0] = any(40) ? op : OP_OUT;
			put(&t, 0, commands[n][0], commands[n][1]);
		}
		put(&t, 0, OP_END, 0);
		for (unsigned n = 0; n < COMMANDS; n++) {
			if (commands[n][0] != OP_OUT) {
				step(&t.m[0], commands[n][0], commands[n][1]);
				continue;
			}
			assert_int_equal(out(&t, 0), 0x10);
			client_part(&t, 0);
		}
		assert_int_equal(out(&t, 0), 0x11);
		compare_log(&t, 0);
		compare_image(&t, 0, &l);
	}
	smp_close(&t.s);
}

static void one_vcpu_by_memory(void **state)
{
	one_vcpu(false);
}

static void one_vcpu_by_msr(void **state)
{
	one_vcpu(true);
}

/* Turn n is of vCPU n & 1. What it sends at its end, the other takes before it begins, or has it wait. */
static void two_vcpus(bool x2apic)
{
	static struct test t;
	struct kvm_lapic_state l;
	uint32_t v;
	enum op op;

	open_test(&t, 2, x2apic);
	for (t.program = 0; t.program < programs(6); t.program++) {
		begin(&t);
		for (uint32_t turn = 0; turn < TURNS; turn++) {
			int i = turn & 1;

			put(&t, i, OP_WAIT, turn);
			for (unsigned n = any(20); n; n--) {
				command(&op, &v);
				put(&t, i, op, v);
				step(&t.m[i], op, v);
			}
			if (turn && any(4)) { /* in turn 0 the other may not have reset its log */
				v = vector();
				put(&t, i, OP_SEND, v);
				t.m[!i].irr[v] = true;
				take(&t.m[!i]);
			}
			put(&t, i, OP_PASS, turn + 1);
		}
		for (int i = 0; i < 2; i++) {
			put(&t, i, OP_WAIT, TURNS);
			put(&t, i, OP_END, 0);
		}
		t.s.stop = false;
		smp_start(&t.s, 0, 2);
		smp_join(&t.s, 0, 2);
		for (int i = 0; i < 2; i++) {
			assert_int_equal(t.s.cpu[i].run->io.port, 0x11);
			compare_log(&t, i);
			compare_image(&t, i, &l);
		}
	}
	smp_close(&t.s);
}

static void two_vcpus_by_memory(void **state)
{
	two_vcpus(false);
}

static void two_vcpus_by_msr(void **state)
{
	two_vcpus(true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_vcpu_by_memory),
		cmocka_unit_test(one_vcpu_by_msr),
		cmocka_unit_test(two_vcpus_by_memory),
		cmocka_unit_test(two_vcpus_by_msr),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
