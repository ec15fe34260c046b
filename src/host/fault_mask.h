/*
 * The thread's mask of the signals that our own work raises (fault.h), where the
 * client blocks them: open while we work, the client's own again afterwards.
 *
 * Context: the thread whose mask it is. All of it is async-signal-safe.
 */
#ifndef USERKVM_HOST_FAULT_MASK_H
#define USERKVM_HOST_FAULT_MASK_H

#include <signal.h>

#include "lib/types.h"

#define HOST_NR_FAULTS 4 /* SEGV BUS FPE ILL */

/*
 * Before client memory is touched or guest code runs. What host_fault_shut() has to close
 * afterwards, if not 0. No system call while the mask is known: between two
 * host_fault_mask_changed(), if host_fault_masks_told() has promised that they come.
 */
uint16_t host_fault_open(void);
void host_fault_shut(uint16_t opened);

/* Every change of a thread's mask comes to host_fault_mask_changed() from now on. */
void host_fault_masks_told(void);
void host_fault_mask_changed(void);

/* A fault's handler of the client's begins on this thread, perhaps in the middle of our work: it sees its own mask. */
void host_fault_client_handler(void);

/*
 * A signal that somebody sent. True: it is kept, and pending again when the client can have it. One that the client
 * blocks is; with open_too, in service only, every other.
 */
bool host_fault_keep(int signo, const siginfo_t *si, bool open_too);
/* Pending again as it came: to the thread if it was sent to one. */
void host_fault_send_again(int signo, siginfo_t *si);
/* For service.c: the service is over, those that the client does not block are pending again. */
void host_fault_release(void);

#endif
