/* Messages: what is told always, and how often at most. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "lib/log.h"

static int before = -1, pipe_fd[2];

static void catch_stderr(void)
{
	assert_int_equal(pipe(pipe_fd), 0);
	before = dup(2);
	dup2(pipe_fd[1], 2);
	close(pipe_fd[1]);
}

static size_t caught(char *text, size_t size)
{
	size_t n = 0;
	ssize_t r;

	dup2(before, 2);
	close(before);
	while (n < size - 1 && (r = read(pipe_fd[0], text + n, size - 1 - n)) > 0)
		n += (size_t)r;
	close(pipe_fd[0]);
	text[n] = 0;
	return n;
}

static unsigned count(const char *text, const char *word)
{
	unsigned n = 0;

	for (; (text = strstr(text, word)); text++)
		n++;
	return n;
}

static void lines_of_one_kind_come_a_few_times_only(void **state)
{
	static char text[1 << 16];

	catch_stderr();
	for (int i = 0; i < 100000; i++)
		log_always("the guest did it %d", i);
	log_always("and this once");
	for (int i = 0; i < 100; i++)
		log_dump("a part of a report");
	caught(text, sizeof(text));
	assert_int_equal(count(text, "the guest did it"), LOG_WINDOW_MAX);
	assert_int_equal(count(text, "and this once"), 1);
	assert_int_equal(count(text, "a part of a report"), 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lines_of_one_kind_come_a_few_times_only),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
