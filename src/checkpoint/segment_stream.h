/* The bytes of a file behind its metadata region, one after the other: cut into segments, digested while
 * they are in the cache, and written while the next ones come. */
#pragma once

#include "src/state/state.h"

#include <stddef.h>
#include <stdint.h>

typedef struct SegmentStream SegmentStream;

/* For at most `segments` segments of `fd`, from offset `at` on.
 *
 * Ranks:   local; threads as write_behind_open
 * Memory:  *out is the caller's: segment_stream_close. Four segments. `fd` stays the caller's
 * Errors:  STATUS_MEMORY */
Status segment_stream_open(int fd, int64_t at, int64_t segments, SegmentStream **out);

/* The offset in the file at which the next byte will lie. */
int64_t segment_stream_at(const SegmentStream *stream);

/* Room for the next `wanted` bytes, or for fewer: as many as stay in the cache, and none beyond the
 * segment's end. What was put there counts once it is advanced over. */
unsigned char *segment_stream_room(SegmentStream *stream, size_t wanted, size_t *bytes);
void segment_stream_advance(SegmentStream *stream, size_t bytes);

void segment_stream_put(SegmentStream *stream, const void *data, size_t count);
void segment_stream_fill(SegmentStream *stream, int64_t until); /* with zeros */

/* Ends the last segment and waits until all are written: then *digests are those of its *count segments,
 * valid until close. 0, or -1 with the errno of the first failure. */
int segment_stream_finish(SegmentStream *stream, const Digest **digests, int64_t *count);

void segment_stream_close(SegmentStream *stream); /* NULL is allowed */
