/* Chunks on their way through threads that pack or unpack them, and out again in the order in which they
 * came. */
#pragma once

#include "src/core/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One chunk. Whoever sends it fills the first part; the rest is filled when it is taken. */
typedef struct {
    const unsigned char *from; /* values to pack, anywhere; to unpack: see `own` */
    size_t bytes;              /* of `from` */
    size_t whole, element;     /* as of a ChunkGrid */
    bool plain;                /* to unpack: stored as they are */
    int64_t tag;               /* the sender's */
    unsigned char *own;        /* unpacking: room for `most` bytes, to be filled and sent */
    unsigned char *made;
    size_t made_bytes;
    const char *wrong; /* NULL, or why it could not be unpacked */
} ChunkJob;

typedef struct ChunkLine ChunkLine;

/* For about `count` chunks of at most `most` bytes. level 0: unpacks, else packs at that level.
 *
 * Ranks:   local; as many threads as this process may use cores, eight at most
 * Memory:  *out is the caller's: chunk_line_close. For T threads 2T + 2 chunks, twice that when unpacking,
 *          and for each thread one more and the library's work space (about half a mebibyte)
 * Errors:  STATUS_MEMORY */
Status chunk_line_open(int level, size_t most, int64_t count, ChunkLine **out);

/* A job to fill and send, or NULL when all are on the line: then take one first. What was taken before
 * is no longer valid. */
ChunkJob *chunk_line_next(ChunkLine *self);
void chunk_line_send(ChunkLine *self);

/* The job that was sent first of all that were not yet taken, or NULL when there is none; waits for it. */
const ChunkJob *chunk_line_take(ChunkLine *self);

void chunk_line_close(ChunkLine *self); /* NULL is allowed */
