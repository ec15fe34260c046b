/*
 * An L2's address between three sets of tables, for `userkvm ept … --l2`:
 *
 *	L2's guest-physical ──EPT12──> L1's guest-physical ──memslot──> the client's memory
 *	                    └─────────────────EPT02───────────────────────┘   what the processor walks
 */
#ifndef USERKVM_TOOLS_L2_H
#define USERKVM_TOOLS_L2_H

#include "sdm/ept.h"
#include "tools/see/see.h"

struct l2_step12 {
	int level;
	gpa_t at; /* L1's */
	bool nowhere; /* no memory there */
	uint64_t entry;
	enum ept_entry_kind kind;
};
struct l2_step02 {
	int level;
	unsigned index;
	hpa_t table;
	uint64_t entry;
	bool unsync, direct;
};
struct l2_head {
	bool runs; /* now; else it was the last to run */
	uint64_t eptp12;
	hpa_t root02; /* 0: there is none */
	bool execonly;
	int maxphyaddr, as;
};
struct l2_walk {
	struct l2_head head;
	gpa_t gpa;
	struct l2_step12 step12[5];
	int nr12;
	bool mapped; /* EPT12 leads to gpa1 */
	gpa_t gpa1;
	bool tracked; /* gpa1 is a table of EPT12's */
	struct see_steps ept01;
	struct l2_step02 step02[5];
	int nr02;
	/* of the client */
	struct see_picture slots; /* only the memslots are used; see_free() */
	const struct see_slot *slot; /* of gpa1 */
	uint64_t hva;
	char mapping[512];
};

enum l2_verdict { L2_EQUAL, L2_NOT_YET, L2_NARROWER, L2_LAGS, L2_DEVICE };

bool l2_head_line(struct l2_head *h, const char *line);
const char *l2_head_words(const struct l2_head *h);
/* All of it, for one address. */
bool l2_take(const struct see_options *o, gpa_t gpa, struct l2_walk *w);
void l2_free(struct l2_walk *w);
/* Rights of all levels together. */
uint64_t l2_rights12(const struct l2_walk *w);
/* The entry that maps the page; NULL: none does. */
const struct l2_step12 *l2_leaf12(const struct l2_walk *w);
const struct l2_step02 *l2_leaf02(const struct l2_walk *w);
/* How EPT02 stands to EPT12 there, in words as well. */
enum l2_verdict l2_verdict(const struct l2_walk *w, char *why, size_t size);
/* "equal", "not yet made", ... */
const char *l2_verdict_name(enum l2_verdict v);
/* "R W X", "R - -". */
const char *l2_rights(uint64_t entry, char buf[6]);
/* Of an entry that no processor takes: why. */
const char *l2_misconfigured(const struct l2_walk *w, const struct l2_step12 *s);
/* An entry of EPT12's behind its address: rights and where it leads. */
void l2_print12(const struct l2_walk *w, const struct l2_step12 *s);
void l2_print02(const struct l2_walk *w, const struct l2_step02 *s);

/* --- l2_json.c: members of the object that is open --- */
struct json;
void l2_json_place(struct json *j, const struct see_options *o);
/* The three tables, the verdict, and the client's memory. */
void l2_json_walk(struct json *j, const struct l2_walk *w);

/* --- the sub-commands with --l2 --- */
int see_l2_walk(struct see_options *o, gpa_t address);
int see_l2_explain(struct see_options *o, gpa_t gpa, char kind, const char *what);
int see_l2_dump(struct see_options *o);
int see_l2_map(struct see_options *o);

#endif
