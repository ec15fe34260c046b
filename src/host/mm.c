/*
 * What the client's address space looks like: a snapshot of /proc/self/maps.
 *
 * Neighbouring mappings of equal permissions are one range. A snapshot is
 * immutable, made when somebody asks for an address the current one does not
 * know, replaced under RCU. It is a hint about page sizes and permissions, not
 * a promise: nothing unsafe follows from a stale one, since every access to
 * client memory is guarded.
 *
 * Once the client has registered memory with a userfaultfd, snapshots are made
 * of /proc/self/smaps, which says where (and costs a walk of the page tables).
 *
 * Lock: snapshot_lock serialises makers; readers use RCU.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "host/memory.h"
#include "lib/fork.h"
#include "lib/own.h"
#include "lib/rcu.h"

struct mapping {
	hva_t start, end;
	bool writable;
	bool userfault; /* a page that was there may be missing or write-protected later */
};

struct snapshot {
	size_t nr;
	struct mapping map[]; /* ascending; readable ones only */
};

static pthread_mutex_t snapshot_lock = PTHREAD_MUTEX_INITIALIZER;
static struct snapshot *current; /* (r) NULL: unknown */

static bool userfault_seen; /* (a) */

static void unlock_in_child(void)
{
	pthread_mutex_init(&snapshot_lock, NULL);
}
LIB_IN_FORKED_CHILD(unlock_in_child)

/* The whole of a file of /proc as a string; NULL when it cannot be had. */
static char *read_proc(const char *path)
{
	size_t size = 1 << 16, used = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char *buf = own_malloc(size);

	if (fd < 0 || !buf)
		goto out_fail;
	for (;;) {
		ssize_t n = read(fd, buf + used, size - used - 1);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			goto out_fail;
		if (n == 0)
			break;
		used += (size_t)n;
		if (size - used < 8192) {
			char *bigger = own_realloc(buf, size * 2);

			if (!bigger)
				goto out_fail;
			buf = bigger;
			size *= 2;
		}
	}
	close(fd);
	buf[used] = 0;
	return buf;
out_fail:
	if (fd >= 0)
		close(fd);
	own_free(buf);
	return NULL;
}

static void add_mapping(struct snapshot *s, const struct mapping *m)
{
	struct mapping *last = s->nr ? &s->map[s->nr - 1] : NULL;

	if (last && last->end == m->start && last->writable == m->writable &&
	    last->userfault == m->userfault)
		last->end = m->end;
	else
		s->map[s->nr++] = *m;
}

/* "start-end rwxp …". False: another line, or not readable. */
static bool parse_range(const char *line, struct mapping *m)
{
	char *p;
	hva_t start = strtoull(line, &p, 16), end = *p == '-' ? strtoull(p + 1, &p, 16) : 0;

	*m = (struct mapping){ .start = start, .end = end, .writable = p[0] && p[1] && p[2] == 'w' };
	return end > start && p[0] == ' ' && p[1] == 'r';
}

/* smaps: "VmFlags: rd wr mr …": missing, write-protect and minor faults are a userfaultfd's. */
static bool parse_userfault(const char *line)
{
	const char *end = strchrnul(line, '\n');

	for (line = strchrnul(line, ' '); line < end; line = strchrnul(line + 1, ' '))
		if (!strncmp(line, " um", 3) || !strncmp(line, " uw", 3) || !strncmp(line, " ui", 3))
			return true;
	return false;
}

/* The lines of maps, or of smaps, where a range's flags come after it. */
static void parse_maps(struct snapshot *s, const char *text, bool flags)
{
	struct mapping m = { 0 };
	bool open = false;
	const char *p;

	for (p = text; *p; p += *p == '\n') {
		if (flags && !strncmp(p, "VmFlags:", 8)) {
			m.userfault = parse_userfault(p);
			if (open)
				add_mapping(s, &m);
			open = false;
		} else if (!flags || (*p >= '0' && *p <= '9') || (*p >= 'a' && *p <= 'f')) {
			open = parse_range(p, &m);
			if (open && !flags)
				add_mapping(s, &m);
		}
		p = strchrnul(p, '\n');
	}
}

static struct snapshot *take_snapshot(void)
{
	bool flags = __atomic_load_n(&userfault_seen, __ATOMIC_ACQUIRE);
	char *text = read_proc(flags ? "/proc/thread-self/smaps" : "/proc/thread-self/maps"), *p;
	size_t lines = 0;
	struct snapshot *s;

	if (!text)
		return NULL;
	for (p = text; *p; p++)
		lines += *p == '\n';
	s = own_malloc(sizeof(*s) + lines * sizeof(s->map[0]));
	if (s) {
		s->nr = 0;
		parse_maps(s, text, flags);
	}
	own_free(text);
	return s;
}

static const struct mapping *look_up(const struct snapshot *s, hva_t hva)
{
	size_t lo = 0, hi = s ? s->nr : 0;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (hva < s->map[mid].start)
			hi = mid;
		else if (hva >= s->map[mid].end)
			lo = mid + 1;
		else
			return &s->map[mid];
	}
	return NULL;
}

static bool find_now(hva_t hva, struct mapping *out)
{
	const struct mapping *m;

	lib_rcu_read_lock();
	m = look_up(__atomic_load_n(&current, __ATOMIC_ACQUIRE), hva);
	if (m)
		*out = *m;
	lib_rcu_read_unlock();
	return m != NULL;
}

/* Snapshots that were replaced; freed by host_mapping_changed(), which may wait. */
struct old_snapshot {
	struct old_snapshot *next;
	struct snapshot *s;
};
static struct old_snapshot *old_snapshots; /* snapshot_lock */

/* snapshot_lock held. May be called inside an RCU section, so it never waits. */
static void replace(struct snapshot *s)
{
	struct snapshot *old = __atomic_exchange_n(&current, s, __ATOMIC_ACQ_REL);
	struct old_snapshot *o;

	if (!old)
		return;
	o = own_malloc(sizeof(*o));
	if (!o)
		return; /* leaks one snapshot rather than pull it from under a reader */
	o->s = old;
	o->next = old_snapshots;
	old_snapshots = o;
}

static bool find_mapping(hva_t hva, struct mapping *m)
{
	bool found = find_now(hva, m);

	if (!found) {
		pthread_mutex_lock(&snapshot_lock);
		found = find_now(hva, m);
		if (!found) {
			struct snapshot *s = take_snapshot();

			if (s) {
				replace(s);
				found = find_now(hva, m);
			}
		}
		pthread_mutex_unlock(&snapshot_lock);
	}
	return found;
}

bool host_mapping_find(hva_t hva, hva_t *start, hva_t *end, bool *writable)
{
	struct mapping m;

	if (!find_mapping(hva, &m))
		return false;
	if (start)
		*start = m.start;
	if (end)
		*end = m.end;
	if (writable)
		*writable = m.writable && !m.userfault;
	return true;
}

void host_mapping_changed(void)
{
	struct old_snapshot *o;

	pthread_mutex_lock(&snapshot_lock);
	replace(NULL);
	o = old_snapshots;
	old_snapshots = NULL;
	pthread_mutex_unlock(&snapshot_lock);
	if (!o)
		return;
	lib_rcu_synchronize();
	while (o) {
		struct old_snapshot *next = o->next;

		own_free(o->s);
		own_free(o);
		o = next;
	}
}

void host_userfault_seen(void)
{
	__atomic_store_n(&userfault_seen, true, __ATOMIC_RELEASE);
	host_mapping_changed();
}

int host_mapping_level(hva_t hva, hva_t start, uint64_t size_bytes, int max_level)
{
	struct mapping m;
	hva_t lo, hi;
	int level;

	if (max_level <= 1 || !find_mapping(hva, &m) || m.userfault)
		return 1;
	lo = max_u64(start, m.start);
	hi = min_u64(start + size_bytes, m.end);
	for (level = max_level; level > 1; level--) {
		uint64_t size = PAGE_SIZE << (9 * (level - 1));
		hva_t first = ALIGN_DOWN(hva, size);

		if (first >= lo && first + size <= hi && !own_overlaps(first, size))
			break;
	}
	return level;
}

bool host_page_is_awaited(hva_t hva)
{
	unsigned char there = 1;
	struct mapping m;

	if (!__atomic_load_n(&userfault_seen, __ATOMIC_RELAXED) || !find_mapping(hva, &m) || !m.userfault)
		return false;
	return mincore((void *)(uintptr_t)ALIGN_DOWN(hva, PAGE_SIZE), PAGE_SIZE, &there) == 0 && !(there & 1);
}

/*
 * The number lives in a page that reads as zero in a forked child
 * (MADV_WIPEONFORK), so that even a raw clone() is noticed. Beside it stands the process that owns the
 * memory: the first that asks.
 */
static uint64_t *id_page; /* [0]: the number, [1]: the owner's process id */
static uint64_t last_id;
static pthread_once_t id_once = PTHREAD_ONCE_INIT;

static void make_id_page(void)
{
	void *p = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	static uint64_t no_page[2];

	id_page = p == MAP_FAILED ? no_page : p;
	if (p != MAP_FAILED)
		madvise(p, PAGE_SIZE, MADV_WIPEONFORK);
}

uint64_t host_mm_id(void)
{
	uint64_t id, none = 0;

	pthread_once(&id_once, make_id_page);
	id = __atomic_load_n(id_page, __ATOMIC_ACQUIRE);
	if (likely(id))
		return id;
	id = __atomic_add_fetch(&last_id, 1, __ATOMIC_RELAXED);
	return __atomic_compare_exchange_n(id_page, &none, id, false, __ATOMIC_ACQ_REL,
					   __ATOMIC_ACQUIRE) ? id : none;
}

bool host_mm_is_borrowed(void)
{
	uint64_t self = (uint64_t)syscall(SYS_getpid), owner = 0;

	pthread_once(&id_once, make_id_page);
	__atomic_compare_exchange_n(&id_page[1], &owner, self, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
	return owner && owner != self;
}

/* Before any child of the process can ask. */
static void own_memory(void)
{
	pthread_once(&id_once, make_id_page);
	__atomic_store_n(&id_page[1], (uint64_t)syscall(SYS_getpid), __ATOMIC_RELAXED);
}
LIB_IN_FORKED_CHILD(own_memory)

__attribute__((constructor)) static void own_memory_at_start(void)
{
	own_memory();
}
