/*
 * gdb's remote serial protocol, the lowest layer ("Overview" of its chapter in gdb's manual):
 * $data#checksum, acknowledged by + or -, } before an escaped byte, and the byte 3 for an interrupt; and the hexadecimal words in it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/gdb/gdb.h"

#define INTERRUPT_BYTE 3
#define ESCAPE '}'

static bool write_all(int fd, const char *p, size_t n)
{
	while (n) {
		ssize_t done = write(fd, p, n);

		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return false;
		p += done;
		n -= (size_t)done;
	}
	return true;
}

static int hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static void drop(struct gdb_link *l, size_t n)
{
	l->len -= n;
	memmove(l->buf, l->buf + n, l->len);
}

/* buf begins with '$', and '#' stands at `hash` with its two digits behind. False: damaged. */
static bool take_packet(struct gdb_link *l, size_t hash)
{
	int high = hex_digit(l->buf[hash + 1]), low = hex_digit(l->buf[hash + 2]);
	uint8_t sum = 0;
	size_t n = 0;

	for (size_t i = 1; i < hash; i++)
		sum = (uint8_t)(sum + (uint8_t)l->buf[i]);
	for (size_t i = 1; i < hash && n < GDB_PACKET_MAX; i++)
		l->packet[n++] = l->buf[i] == ESCAPE && i + 1 < hash ? (char)(l->buf[++i] ^ 0x20) : l->buf[i];
	l->packet[n] = '\0';
	l->packet_len = n;
	drop(l, hash + 3);
	return high >= 0 && low >= 0 && sum == high * 16 + low;
}

static enum gdb_news parse(struct gdb_link *l)
{
	while (l->len) {
		char *hash;

		if (l->buf[0] == INTERRUPT_BYTE) {
			drop(l, 1);
			return GDB_INTERRUPT;
		}
		if (l->buf[0] != '$') { /* acknowledgements: nothing is sent again over these links */
			drop(l, 1);
			continue;
		}
		hash = memchr(l->buf, '#', l->len);
		if (!hash || hash + 2 >= l->buf + l->len)
			return l->len == sizeof(l->buf) ? GDB_GONE : GDB_NOTHING; /* longer than we said we take */
		if (take_packet(l, (size_t)(hash - l->buf)))
			return l->no_ack || write_all(l->out, "+", 1) ? GDB_PACKET : GDB_GONE;
		if (!write_all(l->out, "-", 1))
			return GDB_GONE;
	}
	return GDB_NOTHING;
}

enum gdb_news gdb_receive(struct gdb_link *l, bool readable)
{
	ssize_t n;

	if (readable && l->len < sizeof(l->buf)) {
		n = read(l->in, l->buf + l->len, sizeof(l->buf) - l->len);
		if (n <= 0)
			return n < 0 && errno == EINTR ? GDB_NOTHING : GDB_GONE;
		l->len += (size_t)n;
	}
	return parse(l);
}

bool gdb_send(struct gdb_link *l, const char *data, size_t n)
{
	static const char digits[] = "0123456789abcdef";
	char out[2 * GDB_PACKET_MAX + 8];
	uint8_t sum = 0;
	size_t k = 0;

	out[k++] = '$';
	for (size_t i = 0; i < n && k < sizeof(out) - 8; i++) {
		if (data[i] == '$' || data[i] == '#' || data[i] == ESCAPE || data[i] == '*') {
			out[k++] = ESCAPE;
			out[k++] = (char)(data[i] ^ 0x20);
		} else {
			out[k++] = data[i];
		}
	}
	for (size_t i = 1; i < k; i++)
		sum = (uint8_t)(sum + (uint8_t)out[i]);
	out[k++] = '#';
	out[k++] = digits[sum >> 4];
	out[k++] = digits[sum & 15];
	return write_all(l->out, out, k);
}

/* --- words of packets --- */

char *gdb_put_hex(char *p, const void *data, size_t n)
{
	for (const uint8_t *b = data; n--; b++)
		p += sprintf(p, "%02x", *b);
	return p;
}

size_t gdb_get_hex(const char *p, uint8_t *to, size_t max, const char **end)
{
	size_t n = 0;
	unsigned byte;

	while (n < max && strspn(p, "0123456789abcdefABCDEF") >= 2 && sscanf(p, "%2x", &byte) == 1) {
		to[n++] = (uint8_t)byte;
		p += 2;
	}
	*end = p;
	return n;
}

bool gdb_get_number(const char **p, char then, uint64_t *v)
{
	char *end;

	if (!strspn(*p, "0123456789abcdefABCDEF"))
		return false;
	*v = strtoull(*p, &end, 16);
	if (*end != then)
		return false;
	*p = end + (then != 0);
	return true;
}
