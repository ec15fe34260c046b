/*
 * JSON, written as it comes: the one writer of every command's --json.
 *
 * Commas and nesting are kept here. Numbers past 2^53 are exact decimal numbers
 * all the same; readers that use doubles round them.
 */
#ifndef USERKVM_TOOLS_JSON_H
#define USERKVM_TOOLS_JSON_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#define JSON_DEPTH 16

struct json {
	FILE *f;
	unsigned depth;
	bool more[JSON_DEPTH]; /* something stands at this depth already */
	bool lines[JSON_DEPTH]; /* each element on a line of its own */
	bool array[JSON_DEPTH]; /* else an object */
};

/* `key` is NULL in arrays and at the top. `lines`: of the elements. */
void json_object(struct json *j, const char *key, bool lines);
void json_array(struct json *j, const char *key, bool lines);
/* Ends the innermost object or array; the outermost with a newline. */
void json_end(struct json *j);
void json_u64(struct json *j, const char *key, uint64_t v);
void json_i64(struct json *j, const char *key, int64_t v);
void json_double(struct json *j, const char *key, double v);
void json_bool(struct json *j, const char *key, bool v);
void json_string(struct json *j, const char *key, const char *v);
void json_null(struct json *j, const char *key);

#endif
