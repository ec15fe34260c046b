/*
 * What kind of file a program is, as far as serving it goes; and what makes an
 * executed one a client too. All may be called in a child of vfork.
 */
#ifndef USERKVM_LIB_PROGRAM_H
#define USERKVM_LIB_PROGRAM_H

#include <stdbool.h>
#include <stddef.h>

/* The environment variable that names a statically linked program to its host. */
#define PROGRAM_ENV "USERKVM_STATIC_PROGRAM"
#define PROGRAM_LIBRARY "libuserkvm-preload.so"

enum program_kind {
	PROGRAM_NONE,    /* a script, another format, or it cannot be read: execve's to judge */
	PROGRAM_DYNAMIC, /* has a dynamic loader */
	PROGRAM_STATIC,  /* x86-64 without one, also position-independent */
	PROGRAM_32BIT,
	PROGRAM_FOREIGN, /* another machine */
	PROGRAM_BROKEN,  /* truncated, or not a program */
};

/*
 * The file that execvp() would run for this name: the name itself where it has
 * a slash, else by PATH in buf. NULL with errno ENOENT or, where there is only
 * one that may not be executed, EACCES.
 */
const char *program_find(const char *name, char *buf, size_t size);
enum program_kind program_kind_of(const char *path);
/*
 * The interpreter that a script names on its first line, with the one argument
 * that may follow it ("" when none); both of size bytes. False: not a script.
 */
bool program_is_script(const char *path, char *interp, char *arg, size_t size);
/*
 * Has it to be run by the host that traps system calls (trap/trap.h)? Static ones, of course; of those with a dynamic
 * loader all (where `all`), or those that the library cannot be preloaded into with any use: linked by Go (cgo), which
 * makes its system calls itself, and by musl, whose loader takes no library of glibc's.
 */
bool program_is_trapped(const char *path, bool all);
/* It starts with other rights than its caller's: nothing is preloaded, and a host has none to give. */
bool program_changes_rights(const char *path);
/* Is this process the host that traps a program's system calls? Its signals and its other code are the program's. */
bool program_is_trapping_host(void);
/* An entry of an environment that asks for the library: LD_PRELOAD with it in its list. */
bool program_env_asks(const char *entry);

#endif
