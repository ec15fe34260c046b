/*
 * docs/translator.md shows what ten instructions become: its table is compared with what is emitted.
 *
 * The ten are run until they are translated; each one's host code is disassembled, with names for addresses of the
 * processor's state, and must be the text of its row. USERKVM_TEST_PRINT=1 prints the rows as they are to be.
 */
#include "translator.h"

#include "cpu/jit.h"
#include "isa/isa.h"

#include <ctype.h>

/* The rows' instructions in their order; XOR, for which there is no row, lets no flags be wanted before it. */
GUEST(g_ten, "mov rdx,rsi; add r9,rdx; mov rax,[rdi+8]; add rbx,rax; je 1f; push rbx; call 2f; 1: hlt\n"
	     "2: movups xmm1,[rsi]; xor ecx,ecx; rdtsc; ret");

static const struct row {
	const char *guest;   /* as the page has it */
	const char *is;	     /* as isa_insn_text() begins */
} rows[] = {
	{ "mov rdx,rsi", "mov rdx, rsi" }, { "add r9,rdx", "add r9, rdx" }, { "mov rax,[rdi+8]", "mov rax, [rdi" },
	{ "add rbx,rax", "add rbx, rax" }, { "je near", "jz" }, { "push rbx", "push rbx" }, { "call f", "call" },
	{ "movups xmm1,[rsi]", "movups" }, { "rdtsc", "rdtsc" }, { "ret", "ret" },
};

static char page[1 << 16];

static void read_page(const char *path)
{
	FILE *f = fopen(path, "r");
	size_t n = f ? fread(page, 1, sizeof(page) - 1, f) : 0;

	if (f)
		fclose(f);
	if (!n || n == sizeof(page) - 1) {
		fprintf(stderr, "%s cannot be read\n", path);
		exit(1);
	}
}

/* The name of what a RIP-relative operand reaches. */
static const char *name_of(const struct machine *t, uint64_t address)
{
	const struct cpu_state *cs = &t->cpu->cs;
	const struct cpu_jit *j = t->cpu->jit;
	const struct { const void *at; size_t size; const char *name; } names[] = {
		{ &cs->gpr[R9], 8, "gpr.r9" }, { &cs->tlb, 8, "tlb" }, { &cs->cc, 4, "cc" }, { &cs->page_lin, 8, "page_lin" },
		{ &cs->sp_tag, 8, "sp_tag" }, { &cs->sp_addend, 8, "sp_addend" }, { &cs->rip, 8, "rip" },
		{ &cs->spill[3], 8, "branch" }, { &j->miss, 8, "stub" }, { &j->call, 8, "stub" },
		{ j->cells, sizeof(j->cells), "cell" }, { j->ind, sizeof(j->ind), "table" },
	};

	for (unsigned n = 0; n < ARRAY_SIZE(names); n++)
		if (address - (uint64_t)(uintptr_t)names[n].at < names[n].size)
			return names[n].name;
	return NULL;
}

static bool is_jump(const char *text)
{
	return text[0] == 'j' && strncmp(text, "jmp ", 4);
}

/* A number as the page writes it; what the text goes on with. */
static const char *number(struct machine *t, const struct jit_unit *u, const char *text, const char *s, char *out)
{
	const struct cpu_jit *j = t->cpu->jit;
	char *end, hex[24];
	uint64_t v = strtoull(s, &end, 16), code = (uint64_t)(uintptr_t)j->mem.run;
	const char *name = name_of(t, v);

	if (name)
		strcat(out, name);
	else if (v - code < j->mem.size && (is_jump(text) || !strncmp(text, "jmp ", 4)))
		strcat(out, v < (uint64_t)(uintptr_t)u->polled ? "near" : "cold");
	else if (!strncmp(text, "mov r11d", 8))
		strcat(out, "number"); /* of a call of a stub */
	else if (-v < 0x10000)
		sprintf(out + strlen(out), "-%u", (unsigned)-v);
	else if (v < 10)
		sprintf(out + strlen(out), "%u", (unsigned)v);
	else {
		sprintf(hex, "%lxh", (unsigned long)v);
		strcat(out, isalpha((unsigned char)hex[0]) ? "0" : "");
		strcat(out, hex);
	}
	return end;
}

static void host_text(struct machine *t, const struct jit_unit *u, const char *text, char *out)
{
	static const char *const words[][2] = {
		{ "jnz ", "jne " }, { "jnbe ", "ja " }, { "jz ", "je " }, { " ptr ", " " }, { "*1", "" },
	};
	const char *s = text;

	*out = 0;
	while (*s) {
		size_t n = strlen(out);
		unsigned k = 0;

		for (k = 0; k < ARRAY_SIZE(words) && strncmp(s, words[k][0], strlen(words[k][0])); k++)
			;
		if (k < ARRAY_SIZE(words)) {
			strcat(out, words[k][1]);
			s += strlen(words[k][0]);
		} else if (!strncmp(s, "0x", 2)) {
			s = number(t, u, text, s, out);
		} else if (!strncmp(s, ", ", 2)) {
			strcat(out, ",");
			s += 2;
		} else {
			out[n] = *s++;
			out[n + 1] = 0;
		}
	}
	if (strstr(out, "[branch],"))
		strcpy(strstr(out, "[branch],") + 9, "number");
}

/* Offsets of the host code of the unit's instruction k, up to the next one's. */
static void bounds(const struct cpu_jit *j, const struct jit_unit *u, unsigned k, uint32_t *from, uint32_t *to)
{
	*from = *to = 0;
	for (uint32_t n = 0; n < u->nr_recover; n++) {
		if (u->recover[n].insn == k && !*from)
			*from = u->recover[n].offset;
		if (u->recover[n].insn > k && *from && !*to)
			*to = u->recover[n].offset;
	}
	if (!*to)
		*to = (uint32_t)((uint64_t)(uintptr_t)u->polled - (uint64_t)(uintptr_t)j->mem.run);
}

/* The middle column of an instruction's row, as it is to be. */
static void describe(struct machine *t, const struct jit_unit *u, unsigned k, char *out)
{
	const struct cpu_jit *j = t->cpu->jit;
	const uint8_t *code = j->mem.run;
	uint32_t at, to;

	*out = 0;
	for (bounds(j, u, k, &at, &to); at < to;) {
		char text[96], host[160];
		unsigned len = isa_insn_text(code + at, to - at, ISA_CODE64, (uint64_t)(uintptr_t)code + at, text, sizeof(text));

		assert_true(len);
		host_text(t, u, text, host);
		sprintf(out + strlen(out), "%s`%s`", *out ? "; " : "", host);
		at += len;
		if (!strncmp(host, "jmp ", 4)) /* behind it is another way, or another block */
			break;
	}
}

static bool find(struct machine *t, const struct row *r, const struct jit_unit **u, unsigned *k)
{
	struct cpu_jit *j = t->cpu->jit;

	for (uint32_t n = 0; n < j->nr_units; n++)
		for (*k = 0, *u = &j->units[n]; *k < (*u)->nr_places && !(*u)->dead; ++*k) {
			const struct jit_place *p = &(*u)->places[*k];
			char text[96];

			if (p->left || !isa_insn_text(p->block->bytes + p->isa->off, p->isa->len, ISA_CODE64, 0, text, sizeof(text)))
				continue;
			if (!strncmp(text, r->is, strlen(r->is)))
				return true;
		}
	return false;
}

static void the_page_shows_what_is_emitted(void **state)
{
	STATE;
	static char row[4200], host[4096];
	bool right = true;

	PUT_AT(t, GPA_CODE, g_ten);
	W(GUEST_CR4, R(t, GUEST_CR4) | X86_CR4_OSFXSR);
	for (unsigned n = 0; n < 10; n++) {
		reg(t)[RSI] = reg(t)[RDI] = 0x40000;
		reg(t)[RBX] = 1;
		W(GUEST_RSP, GPA_STACK - 0x100);
		W(GUEST_RIP, GPA_CODE);
		assert_int_equal(go(t), EXIT_REASON_HLT);
	}
	for (unsigned n = 0; n < ARRAY_SIZE(rows); n++) {
		const struct jit_unit *u = NULL;
		unsigned k = 0;

		if (!find(t, &rows[n], &u, &k))
			fail_msg("%s was not translated", rows[n].guest);
		describe(t, u, k, host);
		snprintf(row, sizeof(row), "| `%s` | %s |", rows[n].guest, host);
		if (getenv("USERKVM_TEST_PRINT"))
			printf("%s\n", row);
		else if (!strstr(page, row)) {
			right = false;
			print_message("docs/translator.md has no row\n%s\n", row);
		}
	}
	assert_true(right);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = { TEST_LONG(the_page_shows_what_is_emitted) };

	if (argc < 2)
		return 1;
	read_page(argv[1]);
	return TRANSLATOR_TESTS(tests);
}
