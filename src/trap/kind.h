/*
 * What kind of file a program is, as far as serving it goes.
 */
#ifndef USERKVM_TRAP_KIND_H
#define USERKVM_TRAP_KIND_H

#include <stdbool.h>
#include <stddef.h>

enum program_kind {
	PROGRAM_NONE,    /* a script, another format, or it cannot be read: execve's to judge */
	PROGRAM_DYNAMIC, /* has a dynamic loader */
	PROGRAM_STATIC,  /* x86-64 without one, also position-independent */
	PROGRAM_32BIT,
	PROGRAM_FOREIGN, /* another machine */
	PROGRAM_BROKEN,  /* truncated, or not a program */
};

enum program_kind program_kind_of(const char *path);
/*
 * The interpreter that a script names on its first line, with the one argument
 * that may follow it ("" when none); both of size bytes. False: not a script.
 */
bool program_is_script(const char *path, char *interp, char *arg, size_t size);

#endif
