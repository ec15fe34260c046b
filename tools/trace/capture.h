/*
 * Running a client with tracepoints on, and what it left behind.
 *
 * While the client runs its rings are emptied into a spool file without a name;
 * afterwards the records are put in order of time. Nothing of what the client's
 * process can write to is trusted: sizes and numbers are checked, what makes no
 * sense is counted in nr_bad.
 */
#ifndef USERKVM_TOOLS_TRACE_CAPTURE_H
#define USERKVM_TOOLS_TRACE_CAPTURE_H

#include <sys/types.h>

#include "trace/meta.h"
#include "trace/ring.h"

struct capture_record {
	const struct trace_record_head *head;
	const struct trace_entry *ent; /* the event's structure */
};

struct capture {
	struct capture_record *records; /* by time */
	size_t nr_records;
	uint64_t nr_lost; /* no room in a ring, or no ring */
	uint64_t nr_bad;
	struct trace_thread *threads;
	uint32_t nr_threads;
	bool attached; /* the client did use userkvm */
	int status;    /* the client's, as a shell gives it */
	void *spool;
	size_t spool_bytes;
};

/* Which events: one byte each. */
struct event_set {
	bool on[TRACE_NR_EVENTS];
};

/* GROUP, GROUP:EVENT or EVENT, each with wildcards. False: it names nothing. */
bool event_set_change(struct event_set *set, const char *pattern, bool on);

/* Who wants records as they come: each thread's in its order, threads in any. */
struct capture_live {
	/* r and comm are valid during the call. False: enough, the client is ended (SIGTERM). */
	bool (*record)(void *arg, const struct capture_record *r, const char *comm);
	bool (*quiet)(void *arg); /* nothing came for a while */
	void *arg;
};

/*
 * Run argv (start(argc, argv) in the child, which ends with its result) with
 * the events of the set; live may be NULL. who is for messages. 0, or 1 after a message.
 */
int capture_run(struct capture *c, const struct event_set *set, const char *who, size_t ring_bytes,
                const struct capture_live *live, int (*start)(int argc, char **argv), int argc, char **argv);
/*
 * The same of process pid, which runs already and goes on: until it ends, for `seconds` (0: for any time),
 * until SIGINT, SIGTERM or SIGHUP, or until `live` has enough.
 */
int capture_attach(struct capture *c, const struct event_set *set, const char *who, size_t ring_bytes, const struct capture_live *live,
                   pid_t pid, double seconds);
/* The values of -p and -d: 0, or 2 after a message. */
int capture_take_pid(const char *who, const char *value, pid_t *pid);
int capture_take_seconds(const char *who, const char *value, double *seconds);
/* The program could not be started; `run` has said why. */
bool capture_never_ran(const struct capture *c);

/* --- records.c --- */
/* A record at h, `rest` bytes before the end of what has been read, may be one. */
bool capture_believable(const struct trace_record_head *h, uint64_t rest);
/* The records of the spool and the threads of the rings' file. -1: errno says why. */
int capture_load(struct capture *c, int spool, const struct trace_ring_file *file);
void capture_free(struct capture *c);

static inline unsigned capture_event(const struct capture_record *r)
{
	return (unsigned)(r->ent->common_type - TRACE_ID_BASE);
}

/* The thread's name, "<...>" where it is not known. */
const char *capture_comm(const struct capture *c, int32_t tid);
int32_t capture_pid(const struct capture *c, int32_t tid);

#endif
