/*
 * userkvm walkthrough: the lines of the walk-through, and how a capture becomes
 * its four trees.
 *
 * A line is one event of group userkvm. Its place in the tree is the depth the
 * event carries, its values are the event's fields: nothing is printed that no
 * tracepoint has told.
 */
#ifndef USERKVM_TOOLS_TRACE_WALK_H
#define USERKVM_TOOLS_TRACE_WALK_H

#include "tools/trace/capture.h"

enum lang { EN, ZH, NR_LANGS };

struct json;

struct out {
	FILE *f;
	enum lang lang;
	unsigned indent; /* of the line at hand */
	struct json *json; /* not NULL: fields go there, each an array of its words, and f is not written to */
};

/* The remark for these values, or NULL. */
typedef const char *walk_remark(enum lang lang, const void *rec);

struct walk_line {
	int event;        /* enum trace_event */
	int tree;         /* 1..4 */
	const char *text; /* the walk-through's own words */
	bool assigns;	  /* "= " and the record's fn belong to them */
	/* the values behind it on the same line, and below it field by field; NULL: none */
	void (*values)(struct out *o, const void *rec);
	void (*details)(struct out *o, const void *rec);
	const char *remark[NR_LANGS];
	walk_remark *choose; /* instead of remark, where it depends on the values */
};

extern const struct walk_line walk_lines[];
extern const unsigned nr_walk_lines;
const struct walk_line *walk_line_of(unsigned event);
/* The line's words, in buf where they depend on the record. */
const char *walk_text(const struct walk_line *line, const void *rec, char *buf, size_t size);

/*
 * A field of what the line at hand tells, below it: which bits ("5:3", "7"; "" where it is no field of
 * a register), their value, the manual's name for them, and what this value means.
 */
void walk_field(struct out *o, const char *bits, const char *value, const char *name, const char *meaning, ...)
	__attribute__((format(printf, 5, 6)));

/* --- pieces.c --- */

#define WALK_TREES 4
#define WALK_PIECE_LINES 64

struct walk_piece {
	size_t first, events[WALK_PIECE_LINES]; /* of the capture's records */
	unsigned nr;
	int tree;
	uint64_t key; /* pieces that tell the same have the same */
};

struct walk_pieces {
	bool all; /* asked for: those too that tell nothing new */
	struct walk_piece *piece;
	size_t nr, room;
	size_t nr_like[WALK_TREES]; /* left out: they tell what another does */
};

/* Fills *w, whose piece is to be freed. -1: no memory. */
int walk_cut(struct walk_pieces *w, const struct capture *c);
/* How deep in the calls of its thread the line stands. */
uint32_t walk_depth(const struct capture_record *r);
/*
 * A line that the piece goes on behind: while a vCPU is created the hypervisor may make memslots of its own (the identity
 * map, the APIC-access page). `tree` and `depth` are those of the piece's first line.
 */
bool walk_is_aside(const struct capture_record *r, int tree, uint32_t depth);
/* Whether the record is a line of the walk-through. */
bool walk_is_line(const struct capture_record *r);

/* The key of a piece with one line more. */
uint64_t walk_mix(uint64_t key, const struct capture_record *r);

/* --- tell.c --- */

#define TELL_REMARKS 256

struct teller {
	enum lang lang;
	bool all;	/* every remark, not each once */
	unsigned width; /* columns of the terminal; 0: standard output is none */
	const char *told[TELL_REMARKS];
	unsigned nr_told;
};

void tell_begin(struct teller *t, enum lang lang, bool all);
/* One line, folded. */
void tell_text(const struct teller *t, const char *text);
/* The line of a record, `level` steps in, on standard output. */
void tell_line(struct teller *t, const struct trace_entry *ent, unsigned level);
/* The values of a line, in buf; empty where it has none. */
void tell_values(const struct walk_line *line, const void *rec, char *buf, size_t size);

/* --- live.c --- */

struct live_thread;
struct walk_live {
	struct teller t;
	const char *heading; /* told before the first piece */
	uint64_t begin; /* of the run: the first record's time */
	struct live_thread *threads;
	uint64_t *keys; /* of pieces that were told */
	size_t nr_keys, nr_like, nr_told;
};

/* For struct capture_live, arg is a struct walk_live. */
bool walk_live_record(void *arg, const struct capture_record *r, const char *comm);
bool walk_live_quiet(void *arg);
void walk_live_end(struct walk_live *l);

/* --- follow.c --- */

/* Prints the notes with what the run says. 0: every line happened; 1: not. */
int walk_follow(const struct walk_pieces *p, const struct capture *c, struct teller *t, FILE *notes);

/* "1. Initialisation" … */
extern const char *const walk_titles[WALK_TREES][NR_LANGS];

/* --- linux.c --- */

struct walk_source {
	int event;
	const char *file;  /* in Linux's tree */
	const char *today; /* what became of the name; NULL: it is the same */
};
/* NULL: the line has none. */
const struct walk_source *walk_source_of(unsigned event);

/* --- html.c --- */

/* The page of a run, with the client's command line (NULL: the guest there is by default). -1: no memory; else errors are the stream's. */
int walk_html(const struct walk_pieces *p, const struct capture *c, const char *client, FILE *f);

/* details (decode.c) */
void decode_eptp(struct out *o, uint64_t eptp);
void decode_exit_qualification(struct out *o, uint64_t q);
void decode_spte(struct out *o, uint64_t e, int level);
void decode_error_code(struct out *o, uint64_t e);
/* of a #PF, and of an entry that the processor walks with EPT off */
void decode_pf_error_code(struct out *o, uint64_t e);
void decode_shadow_pte(struct out *o, uint64_t e, int level);

/* The guest there is by default; argv is not looked at. */
int walk_guest(int argc, char **argv);
/* --nested: an L1 with an L2. */
int walk_guest_nested(int argc, char **argv);

#endif
