/*
 * Reading KVM_GET_STATS_FD.
 */
#ifndef TESTS_STATS_H
#define TESTS_STATS_H

#include "client.h"

struct stats {
	int fd;
	struct kvm_stats_header h;
	char *desc;
};

static inline size_t desc_size(const struct stats *s)
{
	return sizeof(struct kvm_stats_desc) + s->h.name_size;
}

static inline const struct kvm_stats_desc *desc(const struct stats *s, unsigned i)
{
	return (const void *)(s->desc + i * desc_size(s));
}

static inline void open_stats(struct stats *s, int of)
{
	size_t all;

	s->fd = ioctl(of, KVM_GET_STATS_FD, NULL);
	assert_true(s->fd >= 0);
	assert_int_equal(read(s->fd, &s->h, sizeof(s->h)), sizeof(s->h));
	all = s->h.num_desc * desc_size(s);
	s->desc = malloc(all);
	assert_non_null(s->desc);
	assert_int_equal(pread(s->fd, s->desc, all, s->h.desc_offset), all);
}

static inline void close_stats(struct stats *s)
{
	free(s->desc);
	close(s->fd);
}

static inline const struct kvm_stats_desc *find(const struct stats *s, const char *name)
{
	for (unsigned i = 0; i < s->h.num_desc; i++)
		if (strcmp(desc(s, i)->name, name) == 0)
			return desc(s, i);
	fail_msg("no counter %s", name);
	return NULL;
}

static inline uint64_t value(const struct stats *s, const char *name)
{
	uint64_t v = 0;

	assert_int_equal(pread(s->fd, &v, 8, s->h.data_offset + find(s, name)->offset), 8);
	return v;
}

#endif
