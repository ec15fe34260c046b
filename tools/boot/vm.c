/*
 * What every part of `userkvm boot` asks of its VM: guest memory, an end, a line about a failure.
 *
 * Locks: vm_stop() takes stop_lock, which holds status and the choice of the first who stops.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "tools/boot/vm.h"

int failed(const char *what)
{
	fprintf(stderr, "userkvm boot: %s: %s\n", what, strerror(errno));
	return -1;
}

void *guest_ptr(struct vm *vm, uint64_t gpa, uint64_t len)
{
	if (gpa < vm->low_size && len <= vm->low_size - gpa)
		return vm->mem + gpa;
	if (gpa >= HIGH_MEM_START && gpa - HIGH_MEM_START < vm->mem_size - vm->low_size &&
	    len <= vm->mem_size - vm->low_size - (gpa - HIGH_MEM_START))
		return vm->mem + vm->low_size + (gpa - HIGH_MEM_START);
	return NULL;
}

void vm_stop(struct vm *vm, int status)
{
	pthread_mutex_lock(&vm->stop_lock);
	if (!vm->stop) {
		vm->status = status;
		__atomic_store_n(&vm->stop, true, __ATOMIC_SEQ_CST);
		for (unsigned i = 0; i < vm->nr_vcpus; i++) {
			struct vcpu *v = &vm->vcpus[i];

			__atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
			if (v->started)
				pthread_kill(v->thread, SIGUSR1);
		}
	}
	pthread_mutex_unlock(&vm->stop_lock);
}
