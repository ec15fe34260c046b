/*
 * A child process that stands for the command: it gets the signals that are meant to end the command.
 */
#ifndef TOOLS_USERKVM_CHILD_H
#define TOOLS_USERKVM_CHILD_H

#include <sys/types.h>

/*
 * fork(). In the child signals are as they were. Until child_ended() SIGTERM and SIGHUP that are sent to us go to the child,
 * but for those that were ignored (nohup(1)); SIGINT and SIGQUIT of a terminal reach it by themselves and are
 * nothing to us. One that comes before the child exists is passed on when it does. One child at a time. -1 and errno: none.
 */
pid_t child_fork(void);
/* The child has been waited for: signals are ours again. */
void child_ended(void);

#endif
