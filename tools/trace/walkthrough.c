/*
 * userkvm walkthrough: the four trees of a run, printed.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/trace/walk.h"
#include "tools/userkvm/commands.h"

#define SHOW_PIECES 24 /* of a tree */

enum { LANG, ALL, MASK, HTML, ORDER, FOLLOW, NESTED, PID, DURATION };
enum { BY_TREE, BY_TIME };
static const struct cli_option option_rows[] = {
	[LANG] = { "lang", 0, "en|zh", "language of the remarks (default: en)" },
	[ALL] = { "all", 0, NULL, "every piece, not only those that differ" },
	[MASK] = { "mask", 0, "EVENT", "leave this event of group userkvm out" },
	[HTML] = { "html", 0, "FILE", "one page with the trees and the tables, for a browser" },
	[ORDER] = { "order", 0, "time|tree", "in the order of time, as it happens (default with a PROGRAM),\n"
		    "or by tree when it has ended (default without)" },
	[FOLLOW] = { "follow", 0, "FILE.md", "notes whose call trees are ticked off (✓, ✗) with this run's values" },
	[NESTED] = { "nested", 0, NULL, "the built-in guest is a hypervisor of some 20 instructions, L1,\n"
		     "with a guest L2 of its own on EPT tables of its own" },
	[PID] = { "pid", 'p', "PID", "a process that runs already, until Ctrl-C or it ends" },
	[DURATION] = { "duration", 'd', "SECONDS", "... for so long" },
	{ 0 },
};

static int cmd_walkthrough(int argc, char **argv);
const struct cli cli_walkthrough = {
	.name = "userkvm walkthrough",
	.what = "show how a guest's memory is virtualized, step by step",
	.synopsis = "userkvm walkthrough [OPTIONS] [-- PROGRAM [ARGS...]]\n"
	            "       userkvm walkthrough [OPTIONS] -p PID [-d SECONDS]",
	.about = "Runs a guest and shows how its memory was virtualized: the four call trees of\n"
	         "the EPT walk-through as they happened, with this run's values. PROGRAM is a KVM\n"
	         "client (default: a small guest that is built in).",
	.options = option_rows,
	.program = true,
	.run = cmd_walkthrough,
};

const char *const walk_titles[WALK_TREES][NR_LANGS] = {
    {"1. Initialisation", "1. 初始化"},
    {"2. Configuring memslots", "2. kvm_memslots 配置"},
    {"3. Entering the guest", "3. 进入 Guest"},
    {"4. Leaving the guest", "4. 退出 Guest"},
};

struct walkthrough {
	struct capture c;
	enum lang lang;
	bool builtin, nested;
	const char *html;
	FILE *page; /* of html */
	struct event_set set;
	struct walk_pieces p;
	struct teller t;
	struct walk_live live;
	const char *follow;
	FILE *notes;	/* of follow */
	int order;	/* BY_TREE, BY_TIME; -1: by what is run */
	pid_t pid;	/* 0: a program is run */
	double seconds;
};

/* --- printing --- */

static void print_piece(struct walkthrough *w, const struct walk_piece *p)
{
	const struct capture_record *first = &w->c.records[p->events[0]];
	uint64_t since = first->head->ts - w->c.records[0].head->ts;

	printf("\n  [%s-%d +%llu.%03llu ms]\n", capture_comm(&w->c, first->ent->common_pid),
	       first->ent->common_pid, (unsigned long long)(since / 1000000),
	       (unsigned long long)(since / 1000 % 1000));
	for (unsigned i = 0; i < p->nr; i++) {
		const struct capture_record *r = &w->c.records[p->events[i]];

		tell_line(&w->t, r->ent, walk_depth(r) - walk_depth(first));
	}
}

static void print_tree(struct walkthrough *w, int tree)
{
	size_t shown = 0, like = w->p.nr_like[tree - 1];

	printf("\n%s\n", walk_titles[tree - 1][w->lang]);
	for (size_t i = 0; i < w->p.nr; i++) {
		if (w->p.piece[i].tree != tree)
			continue;
		if (!w->p.all && shown >= SHOW_PIECES) {
			like++;
			continue;
		}
		shown++;
		print_piece(w, &w->p.piece[i]);
	}
	if (like)
		printf(w->lang == ZH ? "\n  （另有 %zu 次与以上相同；--all 全部显示）\n"
		                     : "\n  (%zu more that tell nothing new; --all shows them)\n",
		       like);
	if (!shown)
		puts(w->lang == ZH ? "\n  （没有发生）" : "\n  (did not happen)");
}

/* --- the command --- */

static int mask(struct walkthrough *w, const char *event)
{
	char full[160];

	snprintf(full, sizeof(full), "userkvm:%s", event);
	if (event_set_change(&w->set, full, false))
		return 0;
	return wrong_usage("userkvm walkthrough", "%s: no such event; `userkvm trace --list` has them", event);
}

static int take(void *arg, int option, const char *value)
{
	struct walkthrough *w = arg;

	switch (option) {
	case ALL: w->p.all = true; return 0;
	case MASK: return mask(w, value);
	case HTML: w->html = value; return 0;
	case NESTED: w->nested = true; return 0;
	case FOLLOW: w->follow = value; return 0;
	case PID: return capture_take_pid("userkvm walkthrough", value, &w->pid);
	case DURATION: return capture_take_seconds("userkvm walkthrough", value, &w->seconds);
	case ORDER:
		w->order = strcmp(value, "time") == 0 ? BY_TIME : BY_TREE;
		if (w->order == BY_TIME || strcmp(value, "tree") == 0)
			return 0;
		return wrong_usage("userkvm walkthrough", "--order %s: time or tree", value);
	}
	w->lang = strcmp(value, "zh") == 0 ? ZH : EN;
	if (w->lang == ZH || strcmp(value, "en") == 0)
		return 0;
	return wrong_usage("userkvm walkthrough", "--lang %s: the languages are en and zh", value);
}

/* -1: go on, *rest is the index of the program. Else the exit status. */
static int parse(struct walkthrough *w, int argc, char **argv, int *rest)
{
	int status = cli_parse(&cli_walkthrough, argc, argv, take, w);

	if (status >= 0)
		return status;
	*rest = optind;
	w->builtin = *rest >= argc && !w->pid;
	if (w->pid && *rest < argc)
		return wrong_usage("userkvm walkthrough", "a process (-p) or a program, not both");
	if (w->seconds > 0 && !w->pid)
		return wrong_usage("userkvm walkthrough", "-d is for a process (-p)");
	if (w->nested && !w->builtin)
		return wrong_usage("userkvm walkthrough", "--nested is about the built-in guest: no PROGRAM and no -p");
	if (w->order < 0)
		w->order = w->builtin && !w->nested ? BY_TREE : BY_TIME;
	if (w->html || w->follow)
		w->order = BY_TREE; /* of the whole run */
	return cli_check_environment("userkvm walkthrough") ? 2 : -1;
}

static int run_client(struct walkthrough *w, int argc, char **argv)
{
	struct capture_live live = { walk_live_record, walk_live_quiet, &w->live }, *told = w->order == BY_TIME ? &live : NULL;
	char **args;
	int r;

	if (w->pid) {
		r = capture_attach(&w->c, &w->set, "userkvm walkthrough", 8u << 20, told, w->pid, w->seconds);
		walk_live_end(&w->live);
		return r;
	}
	args = calloc((size_t)argc + 3, sizeof(*args));
	if (!args)
		return 1;
	args[0] = (char[]){"run"};
	args[1] = (char[]){"--"};
	memcpy(args + 2, argv, (size_t)argc * sizeof(*args));
	r = capture_run(&w->c, &w->set, "userkvm walkthrough", 8u << 20, told,
	                w->nested ? walk_guest_nested : w->builtin ? walk_guest : cmd_run, argc + 2, args);
	free(args);
	walk_live_end(&w->live);
	return r;
}

/* The client's command line as one text, cut where it is long; NULL: there is none. */
static const char *command_line(int argc, char **argv, char *buf, size_t size)
{
	size_t n = 0;

	for (int i = 0; i < argc && n < size; i++)
		n += (size_t)snprintf(buf + n, size - n, "%s%s", i ? " " : "", argv[i]);
	return argc ? buf : NULL;
}

static int write_page(struct walkthrough *w, int argc, char **argv)
{
	char line[256];
	bool failed;

	errno = 0; /* the first write that failed has left its reason */
	failed = walk_html(&w->p, &w->c, command_line(argc, argv, line, sizeof(line)), w->page);
	failed |= ferror(w->page) != 0;
	failed |= fclose(w->page) != 0;
	w->page = NULL;
	if (!failed)
		return 0;
	fprintf(stderr, "userkvm walkthrough: %s: %s\n", w->html, strerror(errno ? errno : EIO));
	return 1;
}

static const char *order_words(const struct walkthrough *w)
{
	static const char *const text[2][NR_LANGS] = {
		[BY_TREE] = { "Grouped by tree, each in the order of time (--order time: as it happens)", "按树分组，组内按时间顺序（--order time：按发生顺序）" },
		[BY_TIME] = { "In the order of time, as it happens (--order tree: grouped by tree)", "按发生的时间顺序（--order tree：按树分组）" },
	};

	return text[w->order][w->lang];
}

static int show(struct walkthrough *w, int argc, char **argv)
{
	if (w->order == BY_TIME && w->live.nr_told)
		return 0;
	if (walk_cut(&w->p, &w->c)) {
		fputs("userkvm walkthrough: no memory\n", stderr);
		return 1;
	}
	if (!w->p.nr && capture_never_ran(&w->c))
		return w->c.status;
	if (!w->p.nr) {
		fprintf(stderr, "userkvm walkthrough: %s: there is nothing to show\n",
		        w->pid ? "its guests have entered no tree in this time" : "the program used no /dev/kvm of ours");
		return 1;
	}
	if (w->page)
		return write_page(w, argc, argv);
	if (w->notes)
		return walk_follow(&w->p, &w->c, &w->t, w->notes);
	tell_text(&w->t, order_words(w));
	for (int tree = 1; tree <= WALK_TREES; tree++)
		print_tree(w, tree);
	return 0;
}

static int cmd_walkthrough(int argc, char **argv)
{
	struct walkthrough *w = calloc(1, sizeof(*w));
	int rest = argc, r;

	if (!w)
		return 1;
	w->order = -1;
	event_set_change(&w->set, "userkvm", true);
	r = parse(w, argc, argv, &rest);
	if (r < 0 && w->html) {
		/* what the page draws beside the lines */
		event_set_change(&w->set, "kvmmmu:kvm_tdp_mmu_spte_changed", true);
		event_set_change(&w->set, "kvmmmu:fast_page_fault", true);
		w->page = fopen(w->html, "we"); /* told before the client runs */
		if (!w->page) {
			fprintf(stderr, "userkvm walkthrough: %s: %s\n", w->html, strerror(errno));
			r = 1;
		}
	}
	if (r < 0 && w->follow) {
		w->notes = fopen(w->follow, "re");
		if (!w->notes) {
			fprintf(stderr, "userkvm walkthrough: %s: %s\n", w->follow, strerror(errno));
			r = 1;
		}
	}
	if (r < 0) {
		tell_begin(&w->t, w->lang, w->p.all);
		w->live.t = w->t;
		w->live.heading = order_words(w);
		r = run_client(w, argc - rest, argv + rest);
		if (!r)
			r = show(w, argc - rest, argv + rest);
		if (w->c.nr_lost)
			fprintf(stderr, "userkvm walkthrough: %llu events lost\n",
			        (unsigned long long)w->c.nr_lost);
		if (w->c.status)
			r = w->c.status;
		capture_free(&w->c);
	}
	if (w->page)
		fclose(w->page);
	if (w->notes)
		fclose(w->notes);
	free(w->p.piece);
	free(w);
	return r;
}
