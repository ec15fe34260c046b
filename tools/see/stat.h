/*
 * The counters of userkvm stat: taken from processes (stat_sample.c), shown on
 * a terminal (stat_screen.c) or written out (stat.c); and exit statistics
 * (stat_exits.c).
 */
#ifndef USERKVM_TOOLS_STAT_H
#define USERKVM_TOOLS_STAT_H

#include <linux/kvm.h>

#include "tools/see/see.h"

#define STAT_NAME 48

/* One counter of one VM or vCPU of one process. */
struct stat_row {
	pid_t pid;
	uint64_t vm;
	int vcpu; /* -1: the VM's own */
	char name[STAT_NAME];
	uint64_t value;
	bool instant; /* what is present, not a number that only grows */
};

struct stat_sample {
	struct stat_row *row;
	unsigned nr, room;
	double at; /* seconds of CLOCK_MONOTONIC */
};

struct stat_choice {
	pid_t pid; /* 0: every process that can be looked at */
	char fields[64]; /* only names that contain it */
	bool apart; /* VMs and vCPUs each by itself, not added up */
};

double stat_now(void);
/* Replaces what is in s. False: nothing could be looked at, told if it was one process that was asked for. */
bool stat_take(const struct stat_choice *c, struct stat_sample *s);
void stat_free(struct stat_sample *s);
/* The row of the same counter in s, or NULL. */
const struct stat_row *stat_find(const struct stat_sample *s, const struct stat_row *like);
/* Growth a second from a to b; 0 where a lacks the counter. */
double stat_rate(const struct stat_sample *a, const struct stat_sample *b, const struct stat_row *of_b);
/* "all processes", "pid 12 VM 3 vCPU 1": whose it is, by the choice. */
const char *stat_whose(const struct stat_choice *c, const struct stat_row *r, char *buf, size_t size);

/* Until q, end of input or a signal. Exit status. */
int stat_watch(struct stat_choice *c, double delay);
/* Sleeps; true: a signal asks to end. */
bool stat_wait(double seconds);
void stat_catch_signals(void);
bool stat_ended(void);
/* Lines of the terminal's window. */
int stat_screen_rows(void);

/* userkvm stat --exits, until a signal, or once. Exit status. */
enum stat_form { STAT_SCREEN, STAT_LINES, STAT_ONCE, STAT_CSV, STAT_JSON };
int stat_exits(const struct stat_choice *c, double interval, enum stat_form form);

#endif
