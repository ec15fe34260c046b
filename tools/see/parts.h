/*
 * Parts that the JSON of several commands has in common: entries, slots, walks.
 */
#ifndef USERKVM_TOOLS_PARTS_H
#define USERKVM_TOOLS_PARTS_H

#include "tools/see/see.h"
#include "tools/userkvm/json.h"

/* Members of the object that is open: page, rights, flags, memory type of a leaf of the EPT. */
void json_leaf(struct json *j, uint64_t entry, int level);
/* An object; `slot` NULL: null. */
void json_slot(struct json *j, const char *key, const struct see_slot *slot);
/* A walk of the EPT: its root, or null, and an array of its entries. */
void json_steps(struct json *j, const struct see_steps *s);
/* An object: the guest's paging and its entries, each with the walk for its address, or (--l2) with L1's address of it. */
void json_guest(struct json *j, const struct see_guest_walk *w);
/* The client's mapping of an address as /proc/PID/maps has it; null where there is none. */
void json_mapping(struct json *j, const char *line);

#endif
