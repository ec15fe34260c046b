/*
 * What the client's address space looks like: a picture of /proc/self/maps, kept up to date by what the client
 * calls.
 *
 *	memslot made ─> host_mapping_look(): /proc, where the picture does not have all of the slot
 *	munmap(), mprotect() … of guest memory ─> host_mapping_update(): the same, in the picture
 *	a fault, in KVM_RUN ─> host_mapping_level(), host_mapping_find(): the picture only
 *
 * Invariants
 * 1. No fault reads a file: a client may confine itself between KVM_CREATE_VCPU and KVM_RUN.
 * 2. The entries ascend, do not overlap, and neighbours that touch differ.
 * 3. The picture is a hint about page sizes and permissions, not a promise: nothing unsafe follows from a wrong
 *    one, since every access to client memory is guarded. What it lacks is mapped in small pages and asked again for
 *    writing.
 *
 * Once the client has registered memory with a userfaultfd, the picture is made of /proc/self/smaps, which says
 * where (and costs a walk of the page tables).
 *
 * Lock: picture.lock, a leaf; memory is allocated with it held.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "host/memory.h"
#include "lib/fork.h"
#include "lib/own.h"

struct mapping {
	hva_t start, end;
	bool writable;
	bool userfault; /* a page that was there may be missing or write-protected later */
};

static struct {
	pthread_rwlock_t lock;
	struct mapping *map; /* readable ones only */
	size_t nr, room;
	bool stale; /* (a) the client has changed mappings that no slot had: look again */
} picture = { .lock = PTHREAD_RWLOCK_INITIALIZER };

static bool userfault_seen; /* (a) */

static void unlock_in_child(void)
{
	pthread_rwlock_init(&picture.lock, NULL);
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

/* --- the picture; lock held for writing --- */

static bool make_room(size_t nr)
{
	struct mapping *bigger;

	if (nr <= picture.room)
		return true;
	bigger = own_realloc(picture.map, nr * 2 * sizeof(*bigger));
	if (!bigger)
		return false;
	picture.map = bigger;
	picture.room = nr * 2;
	return true;
}

/* The first entry that ends behind hva. */
static size_t first_behind(hva_t hva)
{
	size_t lo = 0, hi = picture.nr;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (picture.map[mid].end <= hva)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static void move_tail(size_t from, size_t to)
{
	memmove(picture.map + to, picture.map + from, (picture.nr - from) * sizeof(*picture.map));
	picture.nr = picture.nr - from + to;
}

/* An entry ends at hva, and another begins there, if one is across it. */
static void split_at(hva_t hva)
{
	size_t i = first_behind(hva);

	if (i == picture.nr || picture.map[i].start >= hva)
		return;
	move_tail(i, i + 1);
	picture.map[i] = picture.map[i + 1];
	picture.map[i].end = picture.map[i + 1].start = hva;
}

static bool touch_alike(const struct mapping *a, const struct mapping *b)
{
	return a->end == b->start && a->writable == b->writable && a->userfault == b->userfault;
}

/* Entries [first, last) and their neighbours on both sides. */
static void join(size_t first, size_t last)
{
	for (size_t i = last < picture.nr ? last : picture.nr - 1; picture.nr > 1 && i > 0 && i + 1 > first; i--) {
		struct mapping *m = picture.map + i;

		if (!touch_alike(m - 1, m))
			continue;
		m[-1].end = m->end;
		move_tail(i + 1, i);
	}
}

/* Nothing is known any more of [start, end). */
static void drop(hva_t start, hva_t end)
{
	size_t first, last;

	split_at(start);
	split_at(end);
	first = first_behind(start);
	for (last = first; last < picture.nr && picture.map[last].start < end;)
		last++;
	move_tail(last, first);
}

static void put(const struct mapping *m)
{
	size_t i;

	drop(m->start, m->end);
	i = first_behind(m->start);
	move_tail(i, i + 1);
	picture.map[i] = *m;
	join(i, i + 1);
}

/* Of all that is known in [start, end): userfault, if it is ever registered or write-protected. */
static void mark_userfault(hva_t start, hva_t end)
{
	size_t first;

	split_at(start);
	split_at(end);
	first = first_behind(start);
	for (size_t i = first; i < picture.nr && picture.map[i].start < end; i++)
		picture.map[i].userfault = true;
}

static void protect(const struct host_mapping_change *c)
{
	struct mapping m = { .start = c->start, .end = c->end, .writable = c->prot & PROT_WRITE };
	size_t i = first_behind(c->start);

	for (; i < picture.nr && picture.map[i].start < c->end; i++)
		m.userfault |= picture.map[i].userfault;
	put(&m);
}

static void add_mapping(const struct mapping *m)
{
	struct mapping *last = picture.nr ? &picture.map[picture.nr - 1] : NULL;

	if (last && touch_alike(last, m))
		last->end = m->end;
	else
		picture.map[picture.nr++] = *m;
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
static void parse_maps(const char *text, bool flags)
{
	struct mapping m = { 0 };
	bool open = false;
	const char *p;

	for (p = text; *p; p += *p == '\n') {
		if (flags && !strncmp(p, "VmFlags:", 8)) {
			m.userfault = parse_userfault(p);
			if (open)
				add_mapping(&m);
			open = false;
		} else if (!flags || (*p >= '0' && *p <= '9') || (*p >= 'a' && *p <= 'f')) {
			open = parse_range(p, &m);
			if (open && !flags)
				add_mapping(&m);
		}
		p = strchrnul(p, '\n');
	}
}

/* Lock held for writing. What cannot be read is not known. */
static void read_picture(void)
{
	bool flags = __atomic_load_n(&userfault_seen, __ATOMIC_ACQUIRE);
	char *text = read_proc(flags ? "/proc/thread-self/smaps" : "/proc/thread-self/maps");
	size_t lines = 0;

	picture.nr = 0;
	for (const char *p = text; p && *p; p++)
		lines += *p == '\n';
	if (text && make_room(lines))
		parse_maps(text, flags);
	own_free(text);
}

/* Lock held. */
static const struct mapping *look_up(hva_t hva)
{
	size_t i = first_behind(hva);

	return i < picture.nr && picture.map[i].start <= hva ? &picture.map[i] : NULL;
}

static bool find_mapping(hva_t hva, struct mapping *out)
{
	const struct mapping *m;

	pthread_rwlock_rdlock(&picture.lock);
	m = look_up(hva);
	if (m)
		*out = *m;
	pthread_rwlock_unlock(&picture.lock);
	return m != NULL;
}

/* Lock held. */
static bool knows_all(hva_t start, hva_t end)
{
	for (const struct mapping *m; start < end; start = m->end) {
		m = look_up(start);
		if (!m)
			return false;
	}
	return true;
}

void host_mapping_look(hva_t start, hva_t end)
{
	pthread_rwlock_wrlock(&picture.lock);
	if (__atomic_exchange_n(&picture.stale, false, __ATOMIC_ACQ_REL) || !knows_all(start, end))
		read_picture();
	pthread_rwlock_unlock(&picture.lock);
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

void host_mapping_update(const struct host_mapping_change *c)
{
	if (c->start >= c->end || c->what == HOST_MAPPING_AS_BEFORE)
		return;
	pthread_rwlock_wrlock(&picture.lock);
	if (!make_room(picture.nr + 2))
		picture.nr = 0;
	else if (c->what == HOST_MAPPING_USERFAULT)
		mark_userfault(c->start, c->end);
	else if (c->what == HOST_MAPPING_GONE || !(c->prot & PROT_READ))
		drop(c->start, c->end);
	else if (c->what == HOST_MAPPING_NEW)
		put(&(struct mapping){ .start = c->start, .end = c->end, .writable = c->prot & PROT_WRITE });
	else
		protect(c);
	pthread_rwlock_unlock(&picture.lock);
}

void host_mapping_stale(void)
{
	__atomic_store_n(&picture.stale, true, __ATOMIC_RELEASE);
}

void host_userfault_seen(void)
{
	__atomic_store_n(&userfault_seen, true, __ATOMIC_RELEASE);
	host_mapping_stale();
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
 * memory: the first that asks. It is not among the library's own addresses, which a process that only forks shall
 * not have to choose; a guest that came to write to it could end its own VM by it.
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

static bool may_share; /* (a) a child with its parent's memory may have its descriptors or actions too */

void host_mm_child_may_share(uint64_t clone_flags)
{
	if (clone_flags & (CLONE_FILES | CLONE_SIGHAND))
		WRITE_ONCE(may_share, true);
}

/* kcmp() only where it can say yes: a client's filter may forbid it. */
static bool has_own(int kind)
{
	return host_mm_is_borrowed() &&
	       !(READ_ONCE(may_share) && syscall(SYS_kcmp, syscall(SYS_getpid), id_page[1], kind, 0UL, 0UL) == 0);
}

bool host_fds_are_apart(void)
{
	return has_own(KCMP_FILES);
}

bool host_actions_are_apart(void)
{
	return has_own(KCMP_SIGHAND);
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
