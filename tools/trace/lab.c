/*
 * userkvm lab: ten exercises. Each says what a guest will do, asks for a
 * prediction, runs the guest and grades by the events of that run: no answer
 * stands in this file.
 */
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "sdm/ept.h"
#include "tools/trace/walk.h"
#include "tools/userkvm/commands.h"

#define REC(event, r) ((const struct trace_userkvm_##event *)(r)->ent)

struct lab {
	enum lang lang;
	struct event_set set;
	struct capture c, broken; /* broken: of the last exercise, the run with the fault */
};

/* The event that holds the answer, which goes to buf; NULL: the run does not tell. */
typedef const struct capture_record *lab_answer(const struct lab *l, char *buf, size_t size);

struct exercise {
	const char *params; /* USERKVM_PARAMS of the run */
	const char *forget; /* USERKVM_FORGET of a second one; NULL: there is none */
	lab_answer *answer;
	const char *title[NR_LANGS], *text[NR_LANGS], *why[NR_LANGS];
};

/* --- answers, out of events --- */

static const struct capture_record *first(const struct capture *c, unsigned event, const struct capture_record *behind)
{
	for (size_t i = behind ? (size_t)(behind - c->records) + 1 : 0; i < c->nr_records; i++)
		if (capture_event(&c->records[i]) == event)
			return &c->records[i];
	return NULL;
}

static const struct capture_record *slot_of_rom(const struct lab *l, char *buf, size_t size)
{
	const struct capture_record *r = NULL;

	while ((r = first(&l->c, TRACE_userkvm_kvm_vm_ioctl_set_memory_region, r))) {
		if (0xc00123 - REC(kvm_vm_ioctl_set_memory_region, r)->guest_phys_addr >= REC(kvm_vm_ioctl_set_memory_region, r)->memory_size)
			continue;
		snprintf(buf, size, "%u", REC(kvm_vm_ioctl_set_memory_region, r)->slot);
		return r;
	}
	return NULL;
}

static const struct capture_record *index_at_level_2(const struct lab *l, char *buf, size_t size)
{
	const struct capture_record *r = NULL;

	while ((r = first(&l->c, TRACE_userkvm_kvm_tdp_mmu_map, r))) {
		if (REC(kvm_tdp_mmu_map, r)->gfn != 0x400)
			continue;
		snprintf(buf, size, "%llu", REC(kvm_tdp_mmu_map, r)->gfn >> 9 & 511);
		return r;
	}
	return NULL;
}

static const struct capture_record *first_qualification(const struct lab *l, char *buf, size_t size)
{
	const struct capture_record *r = first(&l->c, TRACE_userkvm_vmcs_readl_EXIT_QUALIFICATION, NULL);

	if (r)
		snprintf(buf, size, "0x%llx", REC(vmcs_readl_EXIT_QUALIFICATION, r)->exit_qualification);
	return r;
}

static const struct capture_record *first_tables(const struct lab *l, char *buf, size_t size)
{
	const struct capture_record *r = first(&l->c, TRACE_userkvm_kvm_tdp_mmu_map, NULL);

	if (r)
		snprintf(buf, size, "%u", REC(kvm_tdp_mmu_map, r)->tables);
	return r;
}

static const struct capture_record *walk_bits(const struct lab *l, char *buf, size_t size)
{
	const struct capture_record *r = first(&l->c, TRACE_userkvm_construct_eptp, NULL);

	if (r)
		snprintf(buf, size, "%llu", (unsigned long long)FIELD_GET(EPTP_WALK_MASK, REC(construct_eptp, r)->eptp));
	return r;
}

static const struct capture_record *violations(const struct lab *l, char *buf, size_t size)
{
	const struct capture_record *r = NULL, *last = NULL, *end = first(&l->c, TRACE_userkvm_handle_ept_misconfig, NULL);
	unsigned n = 0;

	while ((r = first(&l->c, TRACE_userkvm_handle_ept_violation, r)) && (!end || r < end)) {
		last = r;
		n++;
	}
	snprintf(buf, size, "%u", n);
	return last;
}

static const struct capture_record *read_only_return(const struct lab *l, char *buf, size_t size)
{
	static const char *const name[] = { "RET_PF_CONTINUE", "RET_PF_RETRY", "RET_PF_EMULATE", "RET_PF_INVALID", "RET_PF_FIXED", "RET_PF_SPURIOUS" };
	const struct capture_record *r = NULL, *ret;

	while ((r = first(&l->c, TRACE_userkvm_kvm_faultin_page, r))) {
		if (REC(kvm_faultin_page, r)->ret != 2) /* a slot that may not be written */
			continue;
		ret = first(&l->c, TRACE_userkvm_ret_pf, r);
		if (!ret || REC(ret_pf, ret)->ret < 0 || REC(ret_pf, ret)->ret > 5)
			return NULL;
		snprintf(buf, size, "%s", name[REC(ret_pf, ret)->ret]);
		return ret;
	}
	return NULL;
}

static const struct capture_record *second_mmio(const struct lab *l, char *buf, size_t size)
{
	const struct capture_record *r = first(&l->c, TRACE_userkvm_exit_mmio, NULL), *exit = NULL;

	r = r ? first(&l->c, TRACE_userkvm_exit_mmio, r) : NULL; /* to the read-only slot was the first */
	r = r ? first(&l->c, TRACE_userkvm_exit_mmio, r) : NULL;
	for (size_t i = 0; r && &l->c.records[i] < r; i++)
		if (capture_event(&l->c.records[i]) == TRACE_userkvm_handle_ept_misconfig ||
		    capture_event(&l->c.records[i]) == TRACE_userkvm_handle_ept_violation)
			exit = &l->c.records[i];
	if (exit)
		snprintf(buf, size, "%d", capture_event(exit) == TRACE_userkvm_handle_ept_misconfig ? 49 : 48);
	return exit;
}

/* The last frame whose write is repaired in the good run and unseen in the other: the one before is the page directory's. */
static const struct capture_record *unseen_write(const struct lab *l, char *buf, size_t size)
{
	const struct capture_record *r = NULL, *unseen = NULL;

	while ((r = first(&l->c, TRACE_userkvm_fast_page_fault, r))) {
		const struct capture_record *b = NULL;

		while ((b = first(&l->broken, TRACE_userkvm_fast_page_fault, b)) && REC(fast_page_fault, b)->gfn != REC(fast_page_fault, r)->gfn)
			;
		if (b)
			continue;
		snprintf(buf, size, "0x%llx", REC(fast_page_fault, r)->gfn);
		unseen = r;
	}
	return unseen;
}

/* A table. */
/* clang-format off */
static const struct exercise exercises[] = {
	{ "", NULL, slot_of_rom,
	  { "Whose memory is it?", "这是谁的内存？" },
	  { "Slot 0 is 64 KiB at 0, slot 1 4 MiB at 0x400000, slot 2 64 KiB at 0xc00000. Which slot holds gpa 0xc00123?",
	    "插槽 0：0 起 64 KiB；插槽 1：0x400000 起 4 MiB；插槽 2：0xc00000 起 64 KiB。gpa 0xc00123 属于哪个插槽？" },
	  { "a slot holds guest_phys_addr up to, and without, guest_phys_addr + memory_size", "插槽的范围是 guest_phys_addr 到 guest_phys_addr + memory_size（不含）" } },
	{ "", NULL, index_at_level_2,
	  { "Which entry?", "哪个表项？" },
	  { "The guest writes to gpa 0x400000. Which index has its entry in the page directory (level 2)?", "客户机写 gpa 0x400000。它在页目录（第 2 级）中的下标是几？" },
	  { "bits 29:21 of the address: gpa >> 21 & 511", "地址的 29:21 位：gpa >> 21 & 511" } },
	{ "", NULL, first_tables,
	  { "The first fault", "第一次退出" },
	  { "The root is empty, and a 4 KiB page is mapped. How many new tables does the fault need?", "根表是空的，要映射一个 4 KiB 页。这次缺页需要几张新页表？" },
	  { "levels 3, 2 and 1: each entry on the way leads to a table that was not there", "第 3、2、1 级：沿途每个表项都指向一张新页表" } },
	{ "", NULL, walk_bits,
	  { "EPTP", "EPTP" },
	  { "The EPT has four levels. What stands in bits 5:3 of the EPT pointer?", "EPT 有四级。EPTP 的 5:3 位是多少？" },
	  { "the walk's length minus 1", "级数减 1" } },
	{ "", NULL, first_qualification,
	  { "Exit qualification", "退出限定" },
	  { "Paging is on. To fetch its first instruction the processor reads the guest's page directory, whose page has no EPT entry yet. A/D flags are on. What is the exit qualification?",
	    "客户机已开分页。为取第一条指令，处理器先读客户机页目录，而该页还没有 EPT 表项。A/D 位已启用。退出限定是多少？" },
	  { "bit 0 read, bit 1 write (with A/D flags a walk's access to a guest table is a write too), bit 7 linear address valid, bit 8 clear: a paging structure",
	    "bit 0 读，bit 1 写（启用 A/D 时遍历对客户机页表的访问也算写），bit 7 线性地址有效，bit 8 为 0：访问的是页表" } },
	{ "eptad=0", NULL, first_qualification,
	  { "Exit qualification without A/D flags", "不用 A/D 位时的退出限定" },
	  { "The same with eptad=0. What is it now?", "同样的情形，但 eptad=0。现在是多少？" },
	  { "nothing writes flags: the access is a read only", "没有 A/D 位要写：访问只是读" } },
	{ "", NULL, violations,
	  { "How often?", "几次？" },
	  { "The guest fetches code at 0x1000, reads 0x5000, writes 0x6000, writes 0x400000, reads and writes 0xc00000 (read-only), writes 0x1000000 (no slot) twice; "
	    "its page directory is at 0x2000. How many EPT violations until the first misconfiguration?",
	    "客户机在 0x1000 取指，读 0x5000，写 0x6000，写 0x400000，读并写 0xc00000（只读），两次写 0x1000000（无插槽）；页目录在 0x2000。第一次 misconfiguration 之前有几次 EPT violation？" },
	  { "one for each page that has no entry yet, one more for the write to the read-only page; the second MMIO access is a misconfiguration",
	    "每个尚无表项的页一次，写只读页再一次；第二次 MMIO 访问则是 misconfiguration" } },
	{ "", NULL, read_only_return,
	  { "A write to a ROM", "写 ROM" },
	  { "The guest writes to a slot with KVM_MEM_READONLY. What does tdp_page_fault return (RET_PF_…)?", "客户机写一个 KVM_MEM_READONLY 的插槽。tdp_page_fault 返回什么（RET_PF_…）？" },
	  { "no entry can allow it: the instruction is emulated, and the write goes to the client as MMIO", "没有表项能允许它：模拟该指令，写操作作为 MMIO 交给用户态" } },
	{ "", NULL, second_mmio,
	  { "MMIO again", "再次 MMIO" },
	  { "An address without a slot is written a second time. Which exit reason is it (a number)?", "第二次写没有插槽的地址。退出原因是几号？" },
	  { "the first time an entry was left that is misconfigured on purpose, so that no slot has to be looked for", "第一次已留下故意错误配置的表项，不必再查插槽" } },
	{ "pml=0", "invept", unseen_write,
	  { "Break it: forget an INVEPT", "弄坏它：忘记 INVEPT" },
	  { "The dirty log is switched on without PML: write access is taken away, and INVEPT makes the processor forget what it has cached. The guest runs twice: once as it should, "
	    "once with every INVEPT forgotten (USERKVM_FORGET=invept). It writes to 0x6000 again. Which gfn's write does the broken run not see?",
	    "不用 PML 打开脏页日志：收走写权限，再用 INVEPT 让处理器忘掉缓存。客户机运行两次：一次正常，一次忘记所有 INVEPT（USERKVM_FORGET=invept）。它再次写 0x6000。出错的那次漏记了哪个 gfn？" },
	  { "the processor still has a translation that allows writes, so there is no exit, no fast_page_fault and no bit in the dirty log: a migration would lose the page",
	    "处理器仍缓存着可写的映射，因此没有退出，没有 fast_page_fault，脏页日志也没有记录：迁移会丢掉这一页" } },
};
/* clang-format on */
#define NR_EXERCISES (sizeof(exercises) / sizeof(exercises[0]))

/* --- asking --- */

static const char *say(const struct lab *l, const char *en, const char *zh)
{
	return l->lang == ZH ? zh : en;
}

static int run(struct lab *l, const struct exercise *e, const char *forget, struct capture *c)
{
	char *argv[] = { (char[]){ "guest" }, NULL };
	int r;

	setenv("USERKVM_PARAMS", e->params, 1);
	if (forget)
		setenv("USERKVM_FORGET", forget, 1);
	else
		unsetenv("USERKVM_FORGET");
	r = capture_run(c, &l->set, "userkvm lab", 8u << 20, NULL, walk_guest, 1, argv);
	unsetenv("USERKVM_FORGET");
	return r ? r : c->status;
}

/* Numbers in any notation, names in any case. */
static bool same(const char *given, const char *right)
{
	char *end, *end2;
	unsigned long long a = strtoull(given, &end, 0), b = strtoull(right, &end2, 0);

	if (end != given && !*end && end2 != right && !*end2)
		return a == b;
	return strcasecmp(given, right) == 0;
}

/* The piece of the run in which the event is. */
static void show(const struct lab *l, const struct capture_record *r)
{
	struct walk_pieces p = { .all = true };
	struct teller t;

	if (walk_cut(&p, &l->c))
		return;
	tell_begin(&t, l->lang, false);
	for (size_t i = 0; i < p.nr; i++) {
		const struct walk_piece *piece = &p.piece[i];
		bool here = false;

		for (unsigned k = 0; k < piece->nr; k++)
			here |= &l->c.records[piece->events[k]] == r;
		for (unsigned k = 0; here && k < piece->nr; k++) {
			const struct capture_record *line = &l->c.records[piece->events[k]];

			tell_line(&t, line->ent, walk_depth(line) - walk_depth(&l->c.records[piece->events[0]]));
		}
	}
	free(p.piece);
}

static int ask(struct lab *l, size_t number)
{
	const struct exercise *e = &exercises[number - 1];
	const struct capture_record *r;
	char given[128], right[64];
	struct teller t;
	bool good;
	int status;

	tell_begin(&t, l->lang, true);
	printf("%zu. %s\n", number, e->title[l->lang]);
	tell_text(&t, e->text[l->lang]);
	printf("> ");
	fflush(stdout);
	if (!fgets(given, sizeof(given), stdin)) {
		putchar('\n');
		return 1;
	}
	given[strcspn(given, "\r\n")] = '\0';
	status = run(l, e, NULL, &l->c);
	if (!status && e->forget)
		status = run(l, e, e->forget, &l->broken);
	r = status ? NULL : e->answer(l, right, sizeof(right));
	if (!r) {
		fprintf(stderr, "userkvm lab: the guest did not run to the event that is asked for\n");
		capture_free(&l->c);
		capture_free(&l->broken);
		return 1;
	}
	good = same(given + strspn(given, " "), right);
	printf(good ? say(l, "Right: %s.\n", "对：%s。\n") : say(l, "No: it is %s.\n", "不对，是 %s。\n"), right);
	tell_text(&t, e->why[l->lang]);
	putchar('\n');
	show(l, r);
	capture_free(&l->c);
	capture_free(&l->broken);
	memset(&l->c, 0, sizeof(l->c));
	memset(&l->broken, 0, sizeof(l->broken));
	return good ? 0 : 1;
}

/* --- the command --- */

static const struct cli_option option_rows[] = {
	{ "lang", 0, "en|zh", "language (default: en)" },
	{ 0 },
};

static int cmd_lab(int argc, char **argv);
const struct cli cli_lab = {
	.name = "userkvm lab",
	.what = "ten exercises: predict, run, be told",
	.synopsis = "userkvm lab [--lang en|zh] [NUMBER...]",
	.about = "Asks what a guest will do, runs it and says whether it did. Without a number: the list.",
	.more = "The exit status is 0 when every answer was right.",
	.options = option_rows,
	.run = cmd_lab,
};

static int take(void *arg, int option, const char *value)
{
	struct lab *l = arg;

	(void)option;
	l->lang = strcmp(value, "zh") == 0 ? ZH : EN;
	if (l->lang == ZH || strcmp(value, "en") == 0)
		return 0;
	return wrong_usage("userkvm lab", "--lang %s: the languages are en and zh", value);
}

static int cmd_lab(int argc, char **argv)
{
	struct lab l = { .lang = EN };
	int status = cli_parse(&cli_lab, argc, argv, take, &l), wrong = 0;

	if (status >= 0)
		return status;
	event_set_change(&l.set, "userkvm", true);
	for (int i = optind; i < argc; i++) {
		char *end;
		unsigned long n = strtoul(argv[i], &end, 10);

		if (end == argv[i] || *end || !n || n > NR_EXERCISES)
			return wrong_usage("userkvm lab", "no exercise '%s': they are 1 to %zu", argv[i], NR_EXERCISES);
	}
	for (size_t n = 1; optind == argc && n <= NR_EXERCISES; n++)
		printf("%2zu  %s\n", n, exercises[n - 1].title[l.lang]);
	for (int i = optind; i < argc; i++) {
		if (i > optind)
			putchar('\n');
		wrong |= ask(&l, strtoul(argv[i], NULL, 10));
	}
	return wrong;
}
