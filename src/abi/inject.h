/*
 * Errors on demand: ioctls that fail when a client's author wants to see what
 * the client does then.
 *
 *   USERKVM_INJECT="KVM_CREATE_VCPU=ENOMEM@2,KVM_RUN=EINTR%10,open=ENOENT"
 *
 * A rule is NAME=ERRNO and when: nothing (each call), @N (the Nth call), @N+ (from
 * the Nth on), %N (each Nth). NAME is an ioctl's name, or "open" for opening
 * /dev/kvm. Calls of a rule are counted over the whole process, from 1. A call that
 * fails so has had no effect.
 */
#ifndef USERKVM_ABI_INJECT_H
#define USERKVM_ABI_INJECT_H

#include "abi/internal.h"

extern bool abi_inject_on; /* (c) after the first open */

/* Reads the variable; idempotent, any thread. A rule that is wrong is told in a line and ignored. */
void abi_inject_init(void);
/* The errno that this call shall fail with, or 0. row NULL: the opening of /dev/kvm. Any thread. */
int abi_inject(const struct abi_row *row);

#endif
