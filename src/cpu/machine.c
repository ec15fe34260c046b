/*
 * What the logical processors of a machine share: who is there, what is code,
 * and the epoch of memory written from outside.
 *
 * Locks: machine->lock guards the list of processors and what they ask of each
 * other.
 */
#include "cpu/ghost.h"
#include "cpu/internal.h"
#include "cpu/pte.h"
#include "emit/exec.h"
#include "isa/host.h"
#include "lib/error.h"
#include "lib/log.h"
#include "lib/own.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* x87, SSE and AVX instructions run as code of ours: say at once that they cannot. */
static int executable_memory(void)
{
	struct exec_memory m;
	int err = exec_memory_create(&m, PAGE_SIZE, NULL);

	if (err == -EPERM || err == -EFBIG)
		log_always("this host lets the process have no executable memory, which guests' "
			   "x87, SSE and AVX instructions need");
	exec_memory_destroy(&m);
	return err;
}

static const struct ghost_ops ghost_ops = {
	.page_rights = cpu_page_rights, .drop = cpu_tlb_drop_asked,
};

int vmx_machine_create(struct vmx_machine **out)
{
	const char *engine = getenv("USERKVM_ENGINE");
	struct vmx_machine *m;
	pthread_mutex_t *lock;
	int err;

	if (engine && *engine && strcmp(engine, vmx_engine_name()) != 0) {
		log_always("USERKVM_ENGINE=%s: there is no such engine, only interp and jit", engine);
		return err_born(EINVAL, "engine %s", engine);
	}
	if (!isa_host_mask_valid())
		return err_born(EINVAL, "USERKVM_HOST_CPUID");
	err = executable_memory();
	if (err)
		return err;
	m = own_calloc(1, sizeof(*m));
	lock = own_malloc(sizeof(*lock));
	if (!m || !lock) {
		own_free(m);
		own_free(lock);
		return err_born(ENOMEM, "no memory for a machine");
	}
	err = ghost_create(&m->ghost, &ghost_ops);
	if (err) {
		own_free(m);
		own_free(lock);
		return err;
	}
	pthread_mutex_init(lock, NULL);
	m->lock_storage = lock;
	m->epoch = 1; /* 0: of blocks that are compared before each use */
	*out = m;
	return 0;
}

void vmx_machine_destroy(struct vmx_machine *m)
{
	if (!m)
		return;
	ghost_destroy(m->ghost);
	for (size_t n = 0; n < MACHINE_CODE_BUCKETS; n++) {
		while (m->code[n]) {
			struct machine_code_page *p = m->code[n];

			m->code[n] = p->next;
			own_free(p);
		}
	}
	pthread_mutex_destroy(m->lock_storage);
	own_free(m->lock_storage);
	own_free(m);
}

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
