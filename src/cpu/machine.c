/*
 * What the logical processors of a machine share, made and ended. Who they are: machine_cpus.c.
 *
 * Locks: none; nobody else knows the machine then.
 */
#include "cpu/ghost.h"
#include "cpu/internal.h"
#include "cpu/l1vpid.h"
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

const char *vmx_engine_name(void)
{
	const char *name = getenv("USERKVM_ENGINE");

	return name && !strcmp(name, "interp") ? "interp" : "jit";
}

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
	if (!err)
		err = l1vpid_create(&m->l1vpid);
	if (err) {
		ghost_destroy(m->ghost);
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
	l1vpid_destroy(m->l1vpid);
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
