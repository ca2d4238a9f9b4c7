/* Shuffles and deflates chunks. After the shuffle all first bytes of the elements stand together, then
 * all second ones, and so on: planes. Each plane is deflated for itself, with no reference into the one
 * before: the low bytes of weights are noise and are stored as they are, which is how they are also read
 * back fastest, and the high ones get codes of their own. One stream over all would mix both.
 *
 * Unpacking is zlib's alone: it meets what others have written. */
#include "src/checkpoint/chunk_codec.h"

#include <assert.h>
#include <isa-l.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

/* zlib's header: deflate with a window of 32 KiB; its trailer is the Adler-32 of the input. */
enum { HEADER_BYTES = 2, TRAILER_BYTES = 4 };
static const unsigned char STREAM_HEADER[HEADER_BYTES] = {0x78, 0x01};

struct ChunkCodec {
    int level;
    size_t most;
    unsigned char *planes;      /* a shuffled chunk */
    unsigned char *level_bytes; /* ISA-L's work space */
    uint32_t level_size;
    z_stream stream; /* zlib's deflate or inflate */
    bool streaming;  /* it is open */
};

typedef uint32_t __attribute__((may_alias)) Word4;
typedef uint64_t __attribute__((may_alias)) Word8;

/* ---- shuffle: values (n elements of `element` bytes) → planes of `stride` bytes each */

static void shuffle4(const unsigned char *values, size_t n, size_t stride,
                     unsigned char *restrict planes) {
    const Word4 *restrict words = (const Word4 *)values;
    for (unsigned plane = 0; plane < 4; plane++)
        for (size_t i = 0; i < n; i++)
            planes[plane * stride + i] = (unsigned char)(words[i] >> 8 * plane);
}

static void shuffle8(const unsigned char *values, size_t n, size_t stride,
                     unsigned char *restrict planes) {
    const Word8 *restrict words = (const Word8 *)values;
    for (unsigned plane = 0; plane < 8; plane++)
        for (size_t i = 0; i < n; i++)
            planes[plane * stride + i] = (unsigned char)(words[i] >> 8 * plane);
}

static void unshuffle4(const unsigned char *restrict planes, size_t n,
                       unsigned char *values) {
    Word4 *restrict words = (Word4 *)values;
    for (size_t i = 0; i < n; i++)
        words[i] = (Word4)planes[i] | (Word4)planes[n + i] << 8 |
                   (Word4)planes[2 * n + i] << 16 | (Word4)planes[3 * n + i] << 24;
}

static void unshuffle8(const unsigned char *restrict planes, size_t n,
                       unsigned char *values) {
    Word8 *restrict words = (Word8 *)values;
    for (size_t i = 0; i < n; i++) {
        Word8 word = 0;
        for (unsigned plane = 0; plane < 8; plane++)
            word |= (Word8)planes[plane * n + i] << 8 * plane;
        words[i] = word;
    }
}

static void shuffle(const unsigned char *values, size_t bytes, size_t whole, size_t element,
                    unsigned char *planes) {
    size_t n = bytes / element, stride = whole / element;
    if (element == 4)
        shuffle4(values, n, stride, planes);
    else
        shuffle8(values, n, stride, planes);
    for (size_t plane = 0; n < stride && plane < element; plane++)
        memset(planes + plane * stride + n, 0, stride - n);
}

/* ---- deflate: the length, or 0 when it does not fit into `room` */

static size_t deflate_by_isal(ChunkCodec *codec, size_t whole, size_t element,
                              unsigned char *out, size_t room) {
    size_t at = HEADER_BYTES, stride = whole / element;
    if (room < HEADER_BYTES + TRAILER_BYTES) return 0;
    memcpy(out, STREAM_HEADER, sizeof STREAM_HEADER);
    room -= TRAILER_BYTES;
    for (size_t plane = 0; plane < element; plane++) {
        struct isal_zstream stream;
        bool last = plane + 1 == element;
        isal_deflate_stateless_init(&stream);
        stream.level = (uint32_t)codec->level;
        stream.level_buf = codec->level_bytes;
        stream.level_buf_size = codec->level_size;
        stream.end_of_stream = last;
        stream.flush = last ? NO_FLUSH : FULL_FLUSH;
        stream.next_in = codec->planes + plane * stride;
        stream.avail_in = (uint32_t)stride;
        stream.next_out = out + at;
        stream.avail_out = (uint32_t)(room - at);
        if (isal_deflate_stateless(&stream) != COMP_OK || stream.avail_in != 0) return 0;
        at += stream.total_out;
    }
    uint32_t sum = isal_adler32(1, codec->planes, whole);
    for (int i = 0; i < TRAILER_BYTES; i++)
        out[at++] = (unsigned char)(sum >> (24 - 8 * i));
    return at;
}

static size_t deflate_by_zlib(ChunkCodec *codec, size_t whole, size_t element,
                              unsigned char *out, size_t room) {
    z_stream *stream = &codec->stream;
    size_t stride = whole / element;
    deflateReset(stream);
    stream->next_out = out;
    stream->avail_out = (uInt)room;
    stream->next_in = codec->planes;
    for (size_t plane = 0; plane < element; plane++) {
        bool last = plane + 1 == element;
        stream->avail_in = (uInt)stride;
        int done = deflate(stream, last ? Z_FINISH : Z_FULL_FLUSH);
        if (done != (last ? Z_STREAM_END : Z_OK) || stream->avail_in != 0 ||
            (!last && stream->avail_out == 0))
            return 0;
    }
    return room - stream->avail_out;
}

size_t chunk_pack(ChunkCodec *codec, const unsigned char *values, size_t bytes,
                  size_t whole, size_t element, unsigned char *packed) {
    assert(codec->level > 0 && bytes <= whole && whole <= codec->most);
    shuffle(values, bytes, whole, element, codec->planes);
    size_t length = codec->level <= CHUNK_LEVEL_ISAL
                        ? deflate_by_isal(codec, whole, element, packed, whole)
                        : deflate_by_zlib(codec, whole, element, packed, whole);
    if (length > 0 && length < whole) return length;
    memcpy(packed, values, bytes);
    memset(packed + bytes, 0, whole - bytes);
    return whole;
}

const char *chunk_unpack(ChunkCodec *codec, const unsigned char *packed, size_t bytes,
                         bool plain, size_t whole, size_t element, unsigned char *values) {
    assert(codec->level == 0 && bytes <= whole && whole <= codec->most);
    assert(!plain || bytes == whole);
    if (plain) {
        memcpy(values, packed, whole);
        return NULL;
    }
    z_stream *stream = &codec->stream;
    inflateReset(stream);
    stream->next_in = (unsigned char *)(uintptr_t)packed; /* zlib only reads it */
    stream->avail_in = (uInt)bytes;
    stream->next_out = codec->planes;
    stream->avail_out = (uInt)whole;
    int done = inflate(stream, Z_FINISH);
    if (done == Z_BUF_ERROR)
        return stream->avail_in == 0 ? "breaks off" : "inflates to more than its values";
    if (done != Z_STREAM_END) return "is no stream of zlib's";
    if (stream->avail_out != 0) return "inflates to less than its values";
    if (stream->avail_in != 0) return "goes on behind its end";
    if (element == 4)
        unshuffle4(codec->planes, whole / element, values);
    else
        unshuffle8(codec->planes, whole / element, values);
    return NULL;
}

/* ---- life */

static bool open_stream(ChunkCodec *codec) {
    static const uint32_t sizes[] = {0, ISAL_DEF_LVL1_DEFAULT, ISAL_DEF_LVL2_DEFAULT,
                                     ISAL_DEF_LVL3_DEFAULT};
    if (codec->level >= 1 && codec->level <= CHUNK_LEVEL_ISAL) {
        codec->level_size = sizes[codec->level];
        codec->level_bytes = malloc(codec->level_size);
        return codec->level_bytes != NULL;
    }
    codec->streaming =
        (codec->level == 0 ? inflateInit(&codec->stream)
                           : deflateInit(&codec->stream, codec->level)) == Z_OK;
    return codec->streaming;
}

Status chunk_codec_create(int level, size_t most, ChunkCodec **out) {
    *out = calloc(1, sizeof **out);
    bool ready = *out != NULL;
    if (ready) {
        (*out)->level = level;
        (*out)->most = most;
        (*out)->planes = malloc(most + 1);
        ready = (*out)->planes != NULL && open_stream(*out);
    }
    if (ready) return STATUS_OK;
    chunk_codec_destroy(*out);
    *out = NULL;
    return FAIL(STATUS_MEMORY, NULL, "no memory to %s chunks of %zu bytes",
                level == 0 ? "unpack" : "pack", most);
}

void chunk_codec_destroy(ChunkCodec *codec) {
    if (codec == NULL) return;
    if (codec->streaming && codec->level == 0) inflateEnd(&codec->stream);
    if (codec->streaming && codec->level > 0) deflateEnd(&codec->stream);
    free(codec->level_bytes);
    free(codec->planes);
    free(codec);
}
