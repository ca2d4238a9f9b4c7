/* Streams a checkpoint's tensors segment by segment, each proved before a byte of it is handed on or unpacked,
 * while those behind it are being read. Packed chunks pass through a line of threads and come out in
 * order. */
#include "src/checkpoint/chunk_line.h"
#include "src/checkpoint/plan.h"
#include "src/checkpoint/read_ahead.h"
#include "src/checkpoint/reader.h"
#include "src/core/file.h"

#include <errno.h>
#include <string.h>

static const char FIX[] = "an older checkpoint is used instead, if there is one";

static int64_t region_end(const CheckpointReader *reader) {
    return CHECKPOINT_USER_BLOCK + reader->block.metadata_bytes;
}

/* The next segment, `i`, proved. */
static Status read_segment(const CheckpointReader *reader, ReadAhead *ahead, int64_t i,
                           size_t size, const unsigned char **bytes) {
    int64_t start = region_end(reader) + i * CHECKPOINT_SEGMENT;
    Digest expected;
    if (read_ahead_next(ahead, bytes) != 0)
        return FAIL(STATUS_IO, file_fix_for(errno), "cannot read %s (offset %lld): %s",
                    reader->name, (long long)start, strerror(errno));
    memcpy(&expected,
           reader->region + (reader->image.segments_offset - CHECKPOINT_USER_BLOCK) +
               16 * i,
           sizeof expected);
    if (!digest_equal(digest_of(*bytes, size), expected))
        return FAIL(STATUS_CORRUPT, FIX,
                    "%s: segment %lld (offset %lld, %zu bytes) does not match its digest",
                    reader->name, (long long)i, (long long)start, size);
    return STATUS_OK;
}

/* Where a stream is in the list of entries, and what it hands on to. */
typedef struct {
    const CheckpointReader *reader;
    CheckpointSink sink;
    void *context;
    int entry;       /* the first that may lie in what comes next */
    ChunkLine *line; /* NULL: nothing is packed */
    int64_t chunk;   /* of that entry: the first that may */
    ChunkJob *job;   /* it, when it has begun; NULL before … */
    size_t filled;   /* … and how much of it has come */
} Stream;

/* What the next job on the line holds is its tag: entry and chunk. */
static int64_t tag_of(int entry, int64_t chunk) {
    return chunk << 17 | entry; /* at most IMAGE_OBJECTS_MAX entries */
}

/* Hands on the oldest chunk on the line. *any: false when there is none. */
static Status hand_on_chunk(const Stream *stream, bool *any) {
    const CheckpointReader *reader = stream->reader;
    const ChunkJob *job = stream->line == NULL ? NULL : chunk_line_take(stream->line);
    *any = job != NULL;
    if (job == NULL) return STATUS_OK;
    const CheckpointEntry *entry = &reader->image.entries[job->tag & ((1 << 17) - 1)];
    const ImagePacked *packed = &reader->image.packed[entry->packed - 1];
    int64_t chunk = job->tag >> 17;
    if (job->wrong != NULL)
        return FAIL(STATUS_CORRUPT, FIX, "%s: chunk %lld of /%s (offset %lld) %s",
                    reader->name, (long long)chunk, entry->path,
                    (long long)packed->places[chunk].address + CHECKPOINT_USER_BLOCK,
                    job->wrong);
    if (stream->sink == NULL) return STATUS_OK;
    return stream->sink(stream->context, entry, chunk_grid_start(&packed->grid, chunk),
                        job->made, chunk_grid_bytes(&packed->grid, chunk));
}

static Status hand_on_all_chunks(const Stream *stream) {
    for (bool any = true; any;)
        TRY(hand_on_chunk(stream, &any));
    return STATUS_OK;
}

/* The part of the current chunk that lies in [start, end). *whole: it is there to its end. */
static Status gather_chunk(Stream *stream, const unsigned char *bytes, int64_t start,
                           int64_t end, bool *whole) {
    const Image *image = &stream->reader->image;
    const ImagePacked *packed = &image->packed[image->entries[stream->entry].packed - 1];
    const ChunkPlace *place = &packed->places[stream->chunk];
    int64_t from =
        (int64_t)place->address + CHECKPOINT_USER_BLOCK + (int64_t)stream->filled;
    int64_t stop = from - (int64_t)stream->filled + place->bytes;
    *whole = stop <= end;
    if (from >= end) return STATUS_OK;
    for (bool any;
         stream->job == NULL && (stream->job = chunk_line_next(stream->line)) == NULL;)
        TRY(hand_on_chunk(stream, &any));
    size_t count = (size_t)((*whole ? stop : end) - from);
    memcpy(stream->job->own + stream->filled, bytes + (from - start), count);
    stream->filled += count;
    if (!*whole) return STATUS_OK;
    stream->job->bytes = place->bytes;
    stream->job->whole = packed->grid.whole;
    stream->job->element = packed->grid.element;
    stream->job->plain = place->plain;
    stream->job->tag = tag_of(stream->entry, stream->chunk);
    chunk_line_send(stream->line);
    stream->job = NULL;
    stream->filled = 0;
    stream->chunk++;
    return STATUS_OK;
}

/* All chunks of the current entry that end in [start, end), and the beginning of the next. *whole: the
 * entry is through. */
static Status gather_entry(Stream *stream, const unsigned char *bytes, int64_t start,
                           int64_t end, bool *whole) {
    const Image *image = &stream->reader->image;
    int64_t count = image->packed[image->entries[stream->entry].packed - 1].grid.count;
    *whole = true;
    while (*whole && stream->chunk < count)
        TRY(gather_chunk(stream, bytes, start, end, whole));
    if (*whole) stream->chunk = 0;
    return STATUS_OK;
}

/* Hands on what lies in [start, end). */
static Status hand_on(Stream *stream, const unsigned char *bytes, int64_t start,
                      int64_t end) {
    const Image *image = &stream->reader->image;
    for (bool whole = true; whole && stream->entry < image->count;) {
        const CheckpointEntry *entry = &image->entries[stream->entry];
        if (entry->offset >= end) break;
        if (entry->packed > 0) {
            TRY(gather_entry(stream, bytes, start, end, &whole));
        } else {
            TRY(hand_on_all_chunks(stream)); /* entries come one after the other */
            int64_t from = entry->offset > start ? entry->offset : start;
            int64_t entry_end = entry->offset + (int64_t)entry->bytes;
            int64_t to = entry_end < end ? entry_end : end;
            whole = entry_end <= end;
            if (stream->sink != NULL)
                TRY(stream->sink(stream->context, entry, (size_t)(from - entry->offset),
                                 bytes + (from - start), (size_t)(to - from)));
        }
        stream->entry += whole;
    }
    return STATUS_OK;
}

static Status stream_segments(Stream *stream, ReadAhead *ahead) {
    const CheckpointReader *reader = stream->reader;
    int64_t start = region_end(reader);
    TRY(hand_on(stream, reader->region, CHECKPOINT_USER_BLOCK, start));
    for (int64_t i = 0; i < reader->image.segments; i++) {
        int64_t left = reader->block.bytes - start;
        size_t size = (size_t)(left < CHECKPOINT_SEGMENT ? left : CHECKPOINT_SEGMENT);
        const unsigned char *bytes;
        TRY(read_segment(reader, ahead, i, size, &bytes));
        TRY(hand_on(stream, bytes, start, start + (int64_t)size));
        start += (int64_t)size;
    }
    return hand_on_all_chunks(stream);
}

Status checkpoint_reader_begin(CheckpointReader *reader) {
    if (reader->ahead != NULL) return STATUS_OK;
    return read_ahead_open(reader->fd, region_end(reader), reader->block.bytes,
                           CHECKPOINT_SEGMENT, &reader->ahead);
}

Status checkpoint_reader_stream(CheckpointReader *reader, CheckpointSink sink,
                                void *context) {
    const Image *image = &reader->image;
    Stream stream = {.reader = reader, .sink = sink, .context = context};
    TRY(checkpoint_reader_begin(reader));
    Status status = STATUS_OK;
    if (image->chunks > 0)
        status = chunk_line_open(0, image->whole, image->chunks, &stream.line);
    if (status == STATUS_OK) status = stream_segments(&stream, reader->ahead);
    chunk_line_close(stream.line);
    read_ahead_close(reader->ahead);
    reader->ahead = NULL;
    return status;
}
