/* Reads a stretch of a file ahead of the one who uses it. */
#pragma once

#include "src/core/status.h"

#include <stddef.h>
#include <stdint.h>

typedef struct ReadAhead ReadAhead;

/* Begins to read [start, end) of a file in pieces of `piece` bytes (a multiple of STATE_PAGE), the last
 * one shorter. Past the page cache where the file system can: a checkpoint is read once, and several
 * requests in flight keep a disk busy that its own reading ahead would leave idle.
 *
 * Ranks:   local; a few threads of its own for more than one piece; they do nothing but read
 * Memory:  *out is the caller's: read_ahead_close. `fd` stays the caller's; nobody else reads from it
 *          until then
 * Errors:  STATUS_MEMORY */
Status read_ahead_open(int fd, int64_t start, int64_t end, size_t piece, ReadAhead **out);

/* The next piece, valid until the next call. 0, or -1 with errno. */
int read_ahead_next(ReadAhead *self, const unsigned char **bytes);

void read_ahead_close(ReadAhead *self); /* NULL is allowed */
