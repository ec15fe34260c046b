/*
 * The logical processors of a machine: who is there, and the epoch of memory that was written from outside.
 *
 * Locks: machine->lock guards the list of processors and what they ask of each
 * other.
 */
#include "cpu/internal.h"

#include <pthread.h>

void machine_lock(struct vmx_machine *m)
{
	pthread_mutex_lock(m->lock_storage);
}

void machine_unlock(struct vmx_machine *m)
{
	pthread_mutex_unlock(m->lock_storage);
}

/* Its code pages were not registered while it was alone: all of it is stale. */
void machine_add(struct vmx_machine *m, struct vmx_cpu *cpu)
{
	machine_lock(m);
	for (struct vmx_cpu *o = m->cpus; o; o = o->next) {
		o->nr_stale = ARRAY_SIZE(o->stale) + 1;
		__atomic_fetch_or(&o->cs.exit_request, CPU_REQ_STALE | CPU_REQ_WTAGS,
				  __ATOMIC_SEQ_CST);
	}
	cpu->wtags_seen = cpu->wtags_known = m->wtags_gen;
	cpu->next = m->cpus;
	m->cpus = cpu;
	WRITE_ONCE(m->nr_cpus, m->nr_cpus + 1);
	machine_unlock(m);
}

void machine_remove(struct vmx_machine *m, struct vmx_cpu *cpu)
{
	machine_lock(m);
	for (struct vmx_cpu **p = &m->cpus; *p; p = &(*p)->next) {
		if (*p == cpu) {
			*p = cpu->next;
			WRITE_ONCE(m->nr_cpus, m->nr_cpus - 1);
			break;
		}
	}
	machine_unlock(m);
}

void vmx_sync_code(struct vmx_cpu *cpu)
{
	vmx_sync_machine_code(cpu->machine);
}

void vmx_sync_machine_code(struct vmx_machine *m)
{
	__atomic_fetch_add(&m->epoch, 1, __ATOMIC_SEQ_CST);
}
