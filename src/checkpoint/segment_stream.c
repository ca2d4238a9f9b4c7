/* Where a stream of bytes stands: in the file, and in the buffer of the segment that is being filled. */
#include "src/checkpoint/segment_stream.h"

#include "src/checkpoint/checkpoint.h"
#include "src/checkpoint/write_behind.h"

#include <stdlib.h>
#include <string.h>

/* Copied and digested in one go, it stays in the cache between. */
enum { BITE = 128 << 10 };

struct SegmentStream {
    WriteBehind *behind;
    DigestStream *digest; /* of the segment that is being filled */
    Digest *table;
    int64_t at;
    unsigned char *segment; /* NULL at its start */
    size_t filled;
    int64_t sent;
};

Status segment_stream_open(int fd, int64_t at, int64_t segments, SegmentStream **out) {
    *out = NULL;
    SegmentStream *self = calloc(1, sizeof *self);
    if (self == NULL) return FAIL(STATUS_MEMORY, NULL, "no memory to write a file");
    self->at = at;
    self->table = calloc((size_t)segments + 1, sizeof *self->table);
    self->digest = digest_stream_create();
    Status status = STATUS_OK;
    if (self->table == NULL || self->digest == NULL)
        status =
            FAIL(STATUS_MEMORY, NULL, "no memory for %lld digests", (long long)segments);
    else
        status = write_behind_open(fd, CHECKPOINT_SEGMENT, segments, &self->behind);
    if (status != STATUS_OK) {
        segment_stream_close(self);
        return status;
    }
    *out = self;
    return STATUS_OK;
}

int64_t segment_stream_at(const SegmentStream *self) {
    return self->at;
}

unsigned char *segment_stream_room(SegmentStream *self, size_t wanted, size_t *bytes) {
    if (self->segment == NULL) {
        self->segment = write_behind_piece(self->behind);
        digest_stream_begin(self->digest);
    }
    size_t left = CHECKPOINT_SEGMENT - self->filled;
    if (left > BITE) left = BITE;
    *bytes = wanted < left ? wanted : left;
    return self->segment + self->filled;
}

static void send_segment(SegmentStream *self) {
    self->table[self->sent++] = digest_stream_value(self->digest);
    write_behind_send(self->behind, self->filled, self->at - (int64_t)self->filled);
    self->segment = NULL;
    self->filled = 0;
}

void segment_stream_advance(SegmentStream *self, size_t bytes) {
    digest_stream_add(self->digest, self->segment + self->filled, bytes);
    self->filled += bytes;
    self->at += (int64_t)bytes;
    if (self->filled == CHECKPOINT_SEGMENT) send_segment(self);
}

void segment_stream_put(SegmentStream *self, const void *data, size_t count) {
    const unsigned char *from = data;
    for (size_t done = 0, bytes; done < count; done += bytes) {
        unsigned char *room = segment_stream_room(self, count - done, &bytes);
        memcpy(room, from + done, bytes);
        segment_stream_advance(self, bytes);
    }
}

void segment_stream_fill(SegmentStream *self, int64_t until) {
    while (self->at < until) {
        size_t bytes;
        unsigned char *room = segment_stream_room(self, (size_t)(until - self->at), &bytes);
        memset(room, 0, bytes);
        segment_stream_advance(self, bytes);
    }
}

int segment_stream_finish(SegmentStream *self, const Digest **digests, int64_t *count) {
    if (self->filled > 0) send_segment(self);
    *digests = self->table;
    *count = self->sent;
    return write_behind_finish(self->behind);
}

void segment_stream_close(SegmentStream *self) {
    if (self == NULL) return;
    write_behind_close(self->behind);
    free(self->digest);
    free(self->table);
    free(self);
}
