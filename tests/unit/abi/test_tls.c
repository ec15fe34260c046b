/*
 * Thread-local storage: ours lies in the static block, of which a program that loads the library late
 * has little left.
 *
 * usage: test_tls LIBRARY...
 */
#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MOST_BYTES 512

static __thread char programs_own[1024];
static char **libraries;

static int look(struct dl_phdr_info *info, size_t size, void *arg)
{
	const struct link_map *library = arg;

	if (info->dlpi_addr != library->l_addr)
		return 0;
	for (int n = 0; n < info->dlpi_phnum; n++)
		if (info->dlpi_phdr[n].p_type == PT_TLS)
			return (int)info->dlpi_phdr[n].p_memsz;
	return -1;
}

static void *touch(void *arg)
{
	memset(programs_own, 1, sizeof(programs_own));
	return NULL;
}

static void libraries_can_be_loaded_by_a_program_that_runs(void **state)
{
	for (char **l = libraries; *l; l++) {
		void *handle = dlopen(*l, RTLD_NOW | RTLD_LOCAL);
		struct link_map *map; /* its name may be another: one library brings the other by its soname */
		int bytes;

		if (!handle || dlinfo(handle, RTLD_DI_LINKMAP, &map))
			fail_msg("%s", dlerror());
		bytes = dl_iterate_phdr(look, map);
		if (bytes <= 0 || bytes > MOST_BYTES)
			fail_msg("%s: %d bytes of thread-local storage", *l, bytes);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(libraries_can_be_loaded_by_a_program_that_runs) };
	pthread_t th;

	libraries = argv + 1;
	touch(NULL);
	pthread_create(&th, NULL, touch, NULL);
	pthread_join(th, NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
