/*
 * The compressed vmlinux inside a bzImage, by its magic.
 *
 * A guest would need billions of instructions to unpack itself; the host does
 * it at native speed with the libraries every Debian has.
 */
#include <lz4.h>
#include <lzma.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "tools/boot/vm.h"

#define MAX_VMLINUX (1UL << 30)

struct buffer {
	uint8_t *data;
	size_t size, capacity;
};

/* Room for another chunk; false when there is no memory or too much output. */
static bool grow(struct buffer *b)
{
	size_t want = b->capacity ? b->capacity * 2 : 32UL << 20;
	uint8_t *p = want <= MAX_VMLINUX ? realloc(b->data, want) : NULL;

	if (!p)
		return false;
	b->data = p;
	b->capacity = want;
	return true;
}

static const char *unpack_xz(const uint8_t *in, size_t in_size, struct buffer *out)
{
	lzma_stream s = LZMA_STREAM_INIT;
	lzma_ret ret = lzma_stream_decoder(&s, UINT64_MAX, 0);

	s.next_in = in;
	s.avail_in = in_size;
	while (ret == LZMA_OK) {
		if (out->size == out->capacity && !grow(out)) {
			ret = LZMA_MEM_ERROR;
			break;
		}
		s.next_out = out->data + out->size;
		s.avail_out = out->capacity - out->size;
		ret = lzma_code(&s, LZMA_RUN);
		out->size = out->capacity - s.avail_out;
		if (ret == LZMA_OK && s.avail_in == 0 && s.avail_out != 0)
			ret = LZMA_DATA_ERROR; /* the file ends within the stream */
	}
	lzma_end(&s);
	return ret == LZMA_STREAM_END ? NULL : "the xz payload is damaged";
}

static const char *unpack_gzip(const uint8_t *in, size_t in_size, struct buffer *out)
{
	z_stream s = {.next_in = (Bytef *)in, .avail_in = (uInt)in_size};
	int ret = inflateInit2(&s, 15 + 16);

	while (ret == Z_OK) {
		if (out->size == out->capacity && !grow(out))
			break;
		s.next_out = out->data + out->size;
		s.avail_out = (uInt)(out->capacity - out->size);
		ret = inflate(&s, Z_NO_FLUSH);
		out->size = out->capacity - s.avail_out;
	}
	inflateEnd(&s);
	return ret == Z_STREAM_END ? NULL : "the gzip payload is damaged";
}

static const char *unpack_zstd(const uint8_t *in, size_t in_size, struct buffer *out)
{
	ZSTD_DStream *s = ZSTD_createDStream();
	ZSTD_inBuffer ib = {.src = in, .size = in_size};
	size_t left = 1;

	while (s && left != 0 && !ZSTD_isError(left)) {
		if (out->size == out->capacity && !grow(out))
			break;
		ZSTD_outBuffer ob = {.dst = out->data, .size = out->capacity, .pos = out->size};

		left = ZSTD_decompressStream(s, &ob, &ib);
		if (ib.pos == ib.size && ob.pos == out->size && left != 0)
			break; /* no progress: the file ends within the frame */
		out->size = ob.pos;
	}
	ZSTD_freeDStream(s);
	return left == 0 ? NULL : "the zstd payload is damaged";
}

/*
 * LZ4's legacy frame: the magic, then blocks of 8 MiB each behind its packed
 * size. Linux appends the unpacked size (4 bytes) to the payload.
 */
#define LZ4_BLOCK (8UL << 20)

static const char *unpack_lz4(const uint8_t *in, size_t in_size, struct buffer *out)
{
	size_t at = 4;

	while (in_size - at > 4) {
		uint32_t packed;
		int n;

		memcpy(&packed, in + at, 4);
		at += 4;
		if (packed > in_size - at)
			break;
		while (out->capacity - out->size < LZ4_BLOCK)
			if (!grow(out))
				return "the lz4 payload is too large";
		n = LZ4_decompress_safe((const char *)in + at, (char *)out->data + out->size, (int)packed,
					LZ4_BLOCK);
		if (n < 0)
			break;
		out->size += (size_t)n;
		at += packed;
	}
	if (in_size - at == 4) {
		uint32_t unpacked;

		memcpy(&unpacked, in + at, 4);
		if (unpacked == out->size)
			return NULL;
	}
	return "the lz4 payload is damaged";
}

uint8_t *unpack(const uint8_t *in, size_t in_size, size_t *out_size, const char **why)
{
	static const struct {
		uint8_t magic[6];
		size_t len;
		const char *(*fn)(const uint8_t *in, size_t in_size, struct buffer *out);
	} formats[] = {
		{{0xfd, '7', 'z', 'X', 'Z', 0}, 6, unpack_xz},
		{{0x02, 0x21, 0x4c, 0x18}, 4, unpack_lz4},
		{{0x1f, 0x8b}, 2, unpack_gzip},
		{{0x28, 0xb5, 0x2f, 0xfd}, 4, unpack_zstd},
	};
	struct buffer out = {0};

	*why = "its payload is in no format known here (lz4, gzip, xz, zstd)";
	for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
		if (in_size < formats[i].len || memcmp(in, formats[i].magic, formats[i].len) != 0)
			continue;
		*why = formats[i].fn(in, in_size, &out);
		if (!*why) {
			*out_size = out.size;
			return out.data;
		}
		break;
	}
	free(out.data);
	return NULL;
}
